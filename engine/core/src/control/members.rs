//! Who should belong to the quorum: every broker gets its log, and a few of them vote.
//!
//! Invariant: one change at a time, and a broker votes only when it has about all of the log, so a
//! change never takes away a majority that could decide.

use streamd_model::NodeId;

use crate::meta::Cluster;
use crate::raft::{Change, Members};

/// So many vote, if there are as many.
const VOTERS: usize = 3;
/// With so many brokers, so many vote.
const VOTERS_OF_MANY: usize = 5;
/// A learner that lacks no more entries than this has caught up.
const LACKS_MAX: u64 = 100;

/// What should change next about the members. `progress`: how far the log of each is durable, as
/// the leader, `me`, knows.
pub(super) fn next(
    members: &Members,
    cluster: &Cluster,
    progress: &[(NodeId, u64)],
    me: NodeId,
) -> Option<Change> {
    if members.joint {
        return None;
    }
    let is_in = |node: &NodeId| members.voters.contains(node) || members.learners.contains(node);
    let all = members.voters.iter().chain(&members.learners);
    let is_gone = |node: &&NodeId| **node != me && cluster.broker(**node).is_none();
    // Before there are brokers at all the quorum stays as it is.
    if cluster.broker(me).is_some()
        && let Some(gone) = { all }.find(is_gone)
    {
        return Some(Change::Remove(*gone));
    }
    let at = |node: NodeId| progress.iter().find(|p| p.0 == node).map(|p| p.1);
    let wanted = match cluster.brokers().len() >= VOTERS_OF_MANY {
        true => VOTERS_OF_MANY,
        false => VOTERS,
    };
    if members.voters.len() < wanted {
        let end = at(me).unwrap_or(u64::MAX);
        let has_all = |node: &&NodeId| {
            let has = at(**node).filter(|at| *at > 0);
            has.is_some_and(|at| at.saturating_add(LACKS_MAX) >= end)
        };
        let lives = |node: &&NodeId| cluster.is_active(**node);
        let ready = members.learners.iter().filter(lives).find(has_all);
        if let Some(ready) = ready {
            return Some(Change::Voter(*ready));
        }
    }
    let mut brokers = cluster.brokers().map(|b| b.told.node);
    brokers.find(|node| !is_in(node)).map(Change::Learner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{ClusterCommand, ClusterImage, Command, Registration};

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

    fn change(brokers: &[i32], members: &Members, progress: &[(i32, u64)]) -> Option<Change> {
        let image = image(brokers);
        let progress: Vec<_> = progress.iter().map(|(n, at)| (NodeId(*n), *at)).collect();
        next(members, image.cluster(), &progress, NodeId(1))
    }

    #[test]
    fn a_broker_learns_then_votes_while_few_do() {
        let one = members(&[1], &[]);
        assert_eq!(change(&[1], &one, &[(1, 500)]), None);
        assert_eq!(
            change(&[1, 2], &one, &[(1, 500)]),
            Some(Change::Learner(NodeId(2)))
        );
        let learns = members(&[1], &[2]);
        assert_eq!(change(&[1, 2], &learns, &[(1, 500), (2, 0)]), None);
        assert_eq!(change(&[1, 2], &learns, &[(1, 500), (2, 399)]), None);
        assert_eq!(
            change(&[1, 2], &learns, &[(1, 500), (2, 400)]),
            Some(Change::Voter(NodeId(2)))
        );
        let full = members(&[1, 2, 3], &[4]);
        let progress = [(1, 9), (2, 9), (3, 9), (4, 9)];
        assert_eq!(change(&[1, 2, 3, 4], &full, &progress), None);
        assert_eq!(
            change(&[1, 2, 3, 4, 5], &full, &progress),
            Some(Change::Voter(NodeId(4))),
            "five vote when there are five"
        );
    }

    #[test]
    fn who_was_unregistered_belongs_to_it_no_more() {
        let three = members(&[1, 2, 3], &[]);
        let progress = [(1, 9), (2, 9), (3, 9)];
        assert_eq!(
            change(&[1, 3], &three, &progress),
            Some(Change::Remove(NodeId(2)))
        );
        assert_eq!(change(&[], &three, &progress), None, "nobody is there yet");
        let joint = Members {
            joint: true,
            ..three
        };
        assert_eq!(change(&[1, 3], &joint, &progress), None, "one at a time");
    }
}
