//! How one partition changes when brokers come and go: pure functions from what it is to what it
//! should be; `None` if nothing changes.

use streamd_model::{NodeId, PartitionId};

use crate::meta::{Cluster, ClusterCommand, Command, PartitionMeta};

/// Makes the command that turns `now` into `next`.
pub(super) fn command(partition: PartitionId, now: &PartitionMeta, next: PartitionMeta) -> Command {
    Command::Cluster(ClusterCommand::Change {
        partition,
        expect: now.epoch,
        next,
    })
}

/// Gives a partition another leader; the epoch rises.
pub(super) fn lead(next: &mut PartitionMeta, leader: Option<NodeId>) {
    next.leader = leader;
    next.leader_epoch += 1;
}

/// The best leader: the first replica that is in sync and active.
pub(super) fn candidate(
    cluster: &Cluster,
    of: &PartitionMeta,
    not: Option<NodeId>,
) -> Option<NodeId> {
    let able = |n: &NodeId| of.isr.contains(n) && cluster.is_active(*n) && Some(*n) != not;
    of.replicas.iter().copied().find(able)
}

/// A broker is gone, or about to go: it leaves the in-sync set unless it is the last of it, and
/// leads nothing. With `only_if_led_on` nothing changes where nobody else could lead.
pub(super) fn without(
    cluster: &Cluster,
    now: &PartitionMeta,
    node: NodeId,
    only_if_led_on: bool,
) -> Option<PartitionMeta> {
    if !now.isr.contains(&node) {
        return None;
    }
    let mut next = now.clone();
    if next.isr.len() > 1 {
        next.isr.retain(|n| *n != node);
    }
    if now.leader == Some(node) {
        let leader = candidate(cluster, &next, Some(node));
        if leader.is_none() && only_if_led_on {
            return None;
        }
        if leader.is_none() {
            // Who leads later has to have been in sync: it stays as it was.
            next.isr = now.isr.clone();
        }
        lead(&mut next, leader);
    }
    (next != *now).then_some(next)
}

/// A broker is there again: it leads where nobody did.
pub(super) fn with(cluster: &Cluster, now: &PartitionMeta) -> Option<PartitionMeta> {
    if now.leader.is_some() {
        return None;
    }
    let leader = candidate(cluster, now, None)?;
    let mut next = now.clone();
    // Whoever is not there does not hold back what is committed from now on.
    next.isr.retain(|n| *n == leader || cluster.is_active(*n));
    lead(&mut next, Some(leader));
    Some(next)
}

/// The preferred leader leads, if it can.
pub(super) fn preferred(cluster: &Cluster, now: &PartitionMeta) -> Option<PartitionMeta> {
    let first = *now.replicas.first()?;
    if now.leader == Some(first) || !now.isr.contains(&first) || !cluster.is_active(first) {
        return None;
    }
    let mut next = now.clone();
    lead(&mut next, Some(first));
    Some(next)
}

/// Somebody leads, in sync or not. What only others had is lost.
pub(super) fn unclean(cluster: &Cluster, now: &PartitionMeta) -> Option<PartitionMeta> {
    if now.leader.is_some() {
        return None;
    }
    if let Some(clean) = with(cluster, now) {
        return Some(clean);
    }
    let leader = now
        .replicas
        .iter()
        .copied()
        .find(|n| cluster.is_active(*n))?;
    let mut next = now.clone();
    next.isr = vec![leader];
    lead(&mut next, Some(leader));
    Some(next)
}
