//! Moving a partition: replicas are added, wait until they are in sync, then the others go.

use streamd_model::{ErrorCode, NodeId};

use super::change::{candidate, lead};
use super::refuse;
use crate::Refused;
use crate::meta::{Cluster, PartitionMeta, REPLICAS_MAX};

/// Begins a move, or turns one that is under way to another target.
///
/// # Errors
/// INVALID_REPLICA_ASSIGNMENT.
pub(super) fn begin(
    cluster: &Cluster,
    now: &PartitionMeta,
    target: &[NodeId],
) -> Result<Option<PartitionMeta>, Refused> {
    let bad = |text: String| refuse(ErrorCode::InvalidReplicaAssignment, text);
    if target.is_empty() || target.len() > REPLICAS_MAX {
        return bad(format!("{} replicas are asked for", target.len()));
    }
    if let Some(twice) = (1..target.len()).find(|i| target[..*i].contains(&target[*i])) {
        return bad(format!("broker {} is named twice", target[twice].0));
    }
    if let Some(unknown) = target.iter().find(|n| cluster.broker(**n).is_none()) {
        return bad(format!("there is no broker {}", unknown.0));
    }
    let mut next = now.clone();
    // What an earlier move only wanted to add is given up, but who is in sync by now counts as
    // having been there.
    let drop = |n: &NodeId| now.adding.contains(n) && !target.contains(n) && !now.isr.contains(n);
    let had: Vec<NodeId> = now.replicas.iter().copied().filter(|n| !drop(n)).collect();
    next.adding = target
        .iter()
        .copied()
        .filter(|n| !had.contains(n))
        .collect();
    let still = now
        .adding
        .iter()
        .filter(|n| target.contains(n) && !next.adding.contains(n));
    let still: Vec<NodeId> = still.copied().collect();
    next.adding.extend(still);
    next.removing = had
        .iter()
        .copied()
        .filter(|n| !target.contains(n))
        .collect();
    next.replicas = target.to_vec();
    next.replicas.extend(next.removing.iter().copied());
    let done = finish(cluster, &next).unwrap_or(next);
    Ok((done != *now).then_some(done))
}

/// Ends a move whose target is in sync. `None` if it is not, or nothing moves.
pub(super) fn finish(cluster: &Cluster, now: &PartitionMeta) -> Option<PartitionMeta> {
    let target = now.target();
    let there = |n: &NodeId| now.isr.contains(n);
    if !now.is_moving() || !target.iter().all(there) {
        return None;
    }
    settle(cluster, now, target)
}

/// Calls off a move.
///
/// # Errors
/// NO_REASSIGNMENT_IN_PROGRESS; ELIGIBLE_LEADERS_NOT_AVAILABLE if nobody who was there before is
/// in sync.
pub(super) fn cancel(cluster: &Cluster, now: &PartitionMeta) -> Result<PartitionMeta, Refused> {
    if !now.is_moving() {
        return refuse(
            ErrorCode::NoReassignmentInProgress,
            "the partition is not being moved",
        );
    }
    let stays = |n: &&NodeId| !now.adding.contains(n);
    let before: Vec<NodeId> = now.replicas.iter().filter(stays).copied().collect();
    settle(cluster, now, before).ok_or((
        ErrorCode::EligibleLeadersNotAvailable,
        "none of the replicas from before the move is in sync".to_owned(),
    ))
}

/// The partition with these replicas and nothing under way; `None` while nobody could lead it.
fn settle(cluster: &Cluster, now: &PartitionMeta, replicas: Vec<NodeId>) -> Option<PartitionMeta> {
    let mut next = now.clone();
    next.isr.retain(|n| replicas.contains(n));
    next.replicas = replicas;
    next.adding.clear();
    next.removing.clear();
    if next.isr.is_empty() {
        return None;
    }
    match now.leader {
        Some(leader) if next.isr.contains(&leader) => {}
        None => {}
        Some(_) => {
            let leader = candidate(cluster, &next, None)?;
            lead(&mut next, Some(leader));
        }
    }
    Some(next)
}
