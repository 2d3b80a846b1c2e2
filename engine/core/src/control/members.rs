//! Who should belong to the quorum: every broker gets its log, and a few of them vote.
//!
//! Invariants: one change at a time, and a broker votes only when it has about all of the log, so a
//! change never takes away a majority that could decide. An odd number votes, if it can be: of two
//! who vote neither may be missed, so one goes on alone until there are two more.

use streamd_model::{ErrorCode, NodeId};

use super::refuse;
use crate::Refused;
use crate::meta::{Cluster, ClusterCommand, Command};
use crate::raft::{Change, Members};

/// So many vote, if there are as many.
const VOTERS: usize = 3;
/// With so many brokers, so many vote.
const VOTERS_OF_MANY: usize = 5;
/// A learner that lacks no more entries than this has caught up.
const LACKS_MAX: u64 = 100;

/// What should change next about the members, all of it at once; empty if nothing. `progress`: how
/// far the log of each is durable, as the leader, `me`, knows.
pub(super) fn next(
    members: &Members,
    cluster: &Cluster,
    progress: &[(NodeId, u64)],
    me: NodeId,
) -> Vec<Change> {
    if members.joint {
        return Vec::new();
    }
    let is_in = |node: &NodeId| members.voters.contains(node) || members.learners.contains(node);
    let all = members.voters.iter().chain(&members.learners);
    let is_gone = |node: &&NodeId| **node != me && cluster.broker(**node).is_none();
    let at = |node: NodeId| progress.iter().find(|p| p.0 == node).map(|p| p.1);
    let end = at(me).unwrap_or(u64::MAX);
    let has_all = |node: &&NodeId| {
        let has = at(**node).filter(|at| *at > 0);
        has.is_some_and(|at| at.saturating_add(LACKS_MAX) >= end)
    };
    let lives = |node: &&NodeId| cluster.is_active(**node);
    let ready = || {
        members
            .learners
            .iter()
            .copied()
            .filter(|n| lives(&n) && has_all(&n))
    };
    // Before there are brokers at all the quorum stays as it is.
    if cluster.broker(me).is_some()
        && let Some(gone) = { all }.find(is_gone)
    {
        let votes = members.voters.contains(gone);
        let instead = ready().filter(|node| votes && node != gone).take(1);
        let mut changes = vec![Change::Remove(*gone)];
        changes.extend(instead.map(Change::Voter));
        return changes;
    }
    let wanted = match cluster.brokers().len() >= VOTERS_OF_MANY {
        true => VOTERS_OF_MANY,
        false => VOTERS,
    };
    if members.voters.len() < wanted {
        let missing = 1 + members.voters.len() % 2;
        let ready: Vec<Change> = ready().take(missing).map(Change::Voter).collect();
        if ready.len() == missing {
            return ready;
        }
    }
    let mut brokers = cluster.brokers().map(|b| b.told.node);
    let new = brokers.find(|node| !is_in(node)).map(Change::Learner);
    new.into_iter().collect()
}

/// Whether the level may be raised as far as the quorum goes: who gets its log has told what it can
/// read. A broker that was taken out of the cluster leaves the quorum a moment later.
///
/// # Errors
/// Who has not.
pub(super) fn all_tell(
    members: &Members,
    cluster: &Cluster,
    commands: &[Command],
) -> Result<(), Refused> {
    let raises = |c: &Command| matches!(c, Command::Cluster(ClusterCommand::SetFeatureLevel(_)));
    if !commands.iter().any(raises) {
        return Ok(());
    }
    let mut all = members.voters.iter().chain(&members.learners);
    match all.find(|node| cluster.broker(**node).is_none()) {
        None => Ok(()),
        Some(node) => refuse(
            ErrorCode::FeatureUpdateFailed,
            format!(
                "node {} still belongs to the quorum of the metadata, and is not registered: try \
                 again in a moment",
                node.0
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{ClusterImage, Registration};

    fn nodes(ids: &[i32]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn members(voters: &[i32], learners: &[i32]) -> Members {
        Members {
            voters: nodes(voters),
            learners: nodes(learners),
            joint: false,
        }
    }

    /// An image with these brokers, all of them active.
    fn image(brokers: &[i32]) -> ClusterImage {
        let mut image = ClusterImage::new(crate::meta::Local {
            node: NodeId(1),
            configs: crate::config::Configs::new(),
        });
        for node in nodes(brokers) {
            let told = Registration {
                node,
                incarnation: [1; 16],
                directory: [node.0 as u8; 16],
                rack: None,
                endpoints: Vec::new(),
                features: (0, 1),
            };
            image.apply(&Command::Cluster(ClusterCommand::Register(told)));
            let epoch = image.cluster().broker(node).unwrap().epoch;
            image.apply(&Command::Cluster(ClusterCommand::SetBroker {
                node,
                epoch,
                fenced: false,
                leaving: false,
            }));
        }
        image
    }

    fn change(brokers: &[i32], members: &Members, progress: &[(i32, u64)]) -> Vec<Change> {
        let image = image(brokers);
        let progress: Vec<_> = progress.iter().map(|(n, at)| (NodeId(*n), *at)).collect();
        next(members, image.cluster(), &progress, NodeId(1))
    }

    fn votes(ids: &[i32]) -> Vec<Change> {
        nodes(ids).into_iter().map(Change::Voter).collect()
    }

    #[test]
    fn brokers_learn_then_two_more_vote_at_once_while_few_do() {
        let one = members(&[1], &[]);
        assert_eq!(change(&[1], &one, &[(1, 500)]), []);
        let learner = [Change::Learner(NodeId(2))];
        assert_eq!(change(&[1, 2], &one, &[(1, 500)]), learner);
        let two = members(&[1], &[2]);
        assert_eq!(
            change(&[1, 2], &two, &[(1, 500), (2, 500)]),
            [],
            "of two neither may be missed"
        );
        let learn = members(&[1], &[2, 3]);
        let at = |second, third| [(1, 500), (2, second), (3, third)];
        assert_eq!(change(&[1, 2, 3], &learn, &at(500, 0)), []);
        assert_eq!(change(&[1, 2, 3], &learn, &at(399, 400)), []);
        assert_eq!(change(&[1, 2, 3], &learn, &at(400, 400)), votes(&[2, 3]));
        let even = members(&[1, 2], &[3]);
        assert_eq!(change(&[1, 2, 3], &even, &at(500, 500)), votes(&[3]));
        let full = members(&[1, 2, 3], &[4, 5]);
        let progress = [(1, 9), (2, 9), (3, 9), (4, 9), (5, 9)];
        assert_eq!(
            change(&[1, 2, 3, 4], &members(&[1, 2, 3], &[4]), &progress),
            []
        );
        let five = change(&[1, 2, 3, 4, 5], &full, &progress);
        assert_eq!(five, votes(&[4, 5]), "five vote when there are five");
    }

    #[test]
    fn who_was_unregistered_belongs_to_it_no_more() {
        let three = members(&[1, 2, 3], &[]);
        let progress = [(1, 9), (2, 9), (3, 9), (4, 9)];
        let gone = Change::Remove(NodeId(2));
        assert_eq!(change(&[1, 3], &three, &progress), [gone]);
        let four = members(&[1, 2, 3], &[4]);
        let instead = [gone, Change::Voter(NodeId(4))];
        assert_eq!(change(&[1, 3, 4], &four, &progress), instead);
        let learner = members(&[1, 3, 4], &[2]);
        assert_eq!(change(&[1, 3, 4], &learner, &progress), [gone]);
        assert_eq!(change(&[], &three, &progress), [], "nobody is there yet");
        let joint = Members {
            joint: true,
            ..three
        };
        assert_eq!(change(&[1, 3], &joint, &progress), [], "one at a time");
    }

    #[test]
    fn the_level_waits_until_the_quorum_is_rid_of_who_was_taken_out() {
        let image = image(&[1, 3]);
        let raise = [Command::Cluster(ClusterCommand::SetFeatureLevel(2))];
        let may = |members| all_tell(&members, image.cluster(), &raise);
        assert_eq!(may(members(&[1], &[3])), Ok(()));
        for still in [members(&[1, 2, 3], &[]), members(&[1], &[2])] {
            let (code, text) = may(still.clone()).unwrap_err();
            assert_eq!(code, ErrorCode::FeatureUpdateFailed);
            assert!(text.starts_with("node 2 still"), "{text}");
            let other = [Command::SetClusterId("x".to_owned())];
            assert_eq!(all_tell(&still, image.cluster(), &other), Ok(()));
        }
    }
}
