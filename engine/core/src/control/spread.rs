//! What moves without anybody asking: away from brokers that are to go, onto brokers with much
//! less load than the others, and where an internal topic could have the replicas that it should.
//!
//! Invariants: a few partitions move at a time, and for the sake of balance only when nothing else
//! moves and all of a partition's replicas are in sync; a move does not put replicas on fewer
//! racks; each step of balancing makes the loads more alike, so it comes to an end.

use std::collections::BTreeMap;

use streamd_model::{NodeId, PartitionId};

use super::place::{Site, sites};
use super::{change, reassign};
use crate::group::OFFSETS_TOPIC;
use crate::meta::{Cluster, ClusterImage, Command, PartitionMeta};
use crate::share::STATE_TOPIC;
use crate::txn::TXN_TOPIC;

/// So many partitions move at a time.
const MOVES_MAX: usize = 8;

/// The brokers, and their loads when what was decided so far is done.
struct Plan<'a> {
    cluster: &'a Cluster,
    sites: BTreeMap<NodeId, Site>,
    moves: usize,
    commands: Vec<Command>,
}

/// The moves that should begin now.
pub(super) fn look(image: &ClusterImage) -> Vec<Command> {
    let cluster = image.cluster();
    let sites = sites(image).into_iter().map(|s| (s.node, s));
    let mut plan = Plan {
        cluster,
        sites: sites.collect(),
        moves: 0,
        commands: Vec::new(),
    };
    let drained = cluster.brokers().map(|b| b.told.node);
    let drained: Vec<NodeId> = drained
        .filter(|n| image.is_draining(*n) && cluster.load(*n) > 0)
        .collect();
    let balances = image.broker().replication.rebalance && plan.is_uneven();
    let lacking: Vec<_> = lacking(image, plan.sites.len()).collect();
    if drained.is_empty() && lacking.is_empty() && !balances {
        return Vec::new();
    }
    plan.moves = cluster.places().filter(|(_, p)| p.is_moving()).count();
    let idle = plan.moves == 0;
    for (id, now) in cluster.places() {
        if let Some(from) = drained.iter().find(|n| now.target().contains(n)) {
            plan.replace(id, now, *from);
        }
    }
    for (id, now) in lacking {
        plan.widen(id, now);
    }
    if idle && plan.commands.is_empty() && balances {
        plan.even_out();
    }
    plan.commands
}

/// Partitions of internal topics that have fewer replicas than they could: they were made when
/// there were fewer brokers.
fn lacking(
    image: &ClusterImage,
    brokers: usize,
) -> impl Iterator<Item = (PartitionId, &PartitionMeta)> {
    let config = image.broker();
    let wanted = [
        (OFFSETS_TOPIC, config.groups.offsets_replication),
        (TXN_TOPIC, config.txns.replication),
        (STATE_TOPIC, config.groups.share.state_replication),
    ];
    let topics = wanted.into_iter().filter_map(move |(name, wanted)| {
        let wanted = usize::try_from(wanted).unwrap_or(1).min(brokers);
        image.topic(name).map(|topic| (topic.id, wanted))
    });
    topics.flat_map(|(topic, wanted)| {
        let partitions = image.cluster().partitions(topic).iter().zip(0..);
        let partitions = partitions.map(move |(p, index)| (PartitionId { topic, index }, p));
        partitions.filter(move |(_, p)| !p.is_moving() && p.replicas.len() < wanted)
    })
}

impl Plan<'_> {
    fn load(&self, node: NodeId) -> usize {
        self.sites.get(&node).map_or(0, |s| s.load)
    }

    fn rack(&self, node: NodeId) -> Option<&str> {
        self.cluster.broker(node)?.told.rack.as_deref()
    }

    fn racks(&self, nodes: &[NodeId]) -> usize {
        let mut racks: Vec<Option<&str>> = nodes.iter().map(|n| self.rack(*n)).collect();
        racks.sort_unstable();
        racks.dedup();
        racks.len()
    }

    /// The least and the most loaded broker.
    fn extremes(&self) -> Option<(NodeId, NodeId)> {
        let by_load = |s: &&Site| (s.load, s.node);
        let least = self.sites.values().min_by_key(by_load)?;
        let most = self.sites.values().max_by_key(by_load)?;
        Some((least.node, most.node))
    }

    /// Whether a broker has much less than the others: small differences are nobody's trouble.
    fn is_uneven(&self) -> bool {
        let Some((least, most)) = self.extremes() else {
            return false;
        };
        let all: usize = self.sites.values().map(|s| s.load).sum();
        let (least, most) = (self.load(least), self.load(most));
        most >= least + 2 && least * self.sites.len() * 5 < all * 4
    }

    /// Begins a move, if it can begin, and there may be another one.
    fn begin(&mut self, id: PartitionId, now: &PartitionMeta, target: &[NodeId]) -> bool {
        if self.moves >= MOVES_MAX {
            return false;
        }
        let Ok(Some(next)) = reassign::begin(self.cluster, now, target) else {
            return false;
        };
        self.commands.push(change::command(id, now, next));
        self.moves += 1;
        for node in &now.replicas {
            let gone = !target.contains(node);
            if let Some(site) = self.sites.get_mut(node).filter(|_| gone) {
                site.load = site.load.saturating_sub(1);
            }
        }
        for node in target {
            let comes = !now.replicas.contains(node);
            if let Some(site) = self.sites.get_mut(node).filter(|_| comes) {
                site.load += 1;
            }
        }
        true
    }

    /// The best broker beside these replicas: on another rack if there is one, then the least
    /// loaded.
    fn another(&self, beside: &[NodeId]) -> Option<NodeId> {
        let free = self.sites.values().filter(|s| !beside.contains(&s.node));
        let shares = |s: &Site| beside.iter().any(|n| self.rack(*n) == s.rack.as_deref());
        free.min_by_key(|s| (shares(s), s.load, s.node))
            .map(|s| s.node)
    }

    /// Moves a partition away from a broker.
    fn replace(&mut self, id: PartitionId, now: &PartitionMeta, from: NodeId) {
        if now.is_moving() {
            return;
        }
        let mut target = now.replicas.clone();
        let beside: Vec<NodeId> = target.iter().copied().filter(|n| *n != from).collect();
        // The broker itself is none of the sites.
        let Some(to) = self.another(&beside) else {
            return;
        };
        for node in target.iter_mut().filter(|n| **n == from) {
            *node = to;
        }
        self.begin(id, now, &target);
    }

    /// Gives a partition another replica.
    fn widen(&mut self, id: PartitionId, now: &PartitionMeta) {
        if let Some(to) = self.another(&now.replicas) {
            let mut target = now.replicas.clone();
            target.push(to);
            self.begin(id, now, &target);
        }
    }

    /// Moves replicas to the least loaded broker.
    fn even_out(&mut self) {
        let cluster = self.cluster;
        let Some((to, _)) = self.extremes() else {
            return;
        };
        for (id, now) in cluster.places() {
            let whole = now.isr.len() == now.replicas.len();
            if !whole || now.leader.is_none() || now.replicas.contains(&to) {
                continue;
            }
            let count = now.replicas.len();
            // Now the first, now another one goes: so leaders move as well as followers.
            let turn = |at: usize| (at + id.index as usize) % count;
            let from = (0..count).filter(|at| self.sites.contains_key(&now.replicas[*at]));
            let Some(from) = from.max_by_key(|at| (self.load(now.replicas[*at]), turn(*at))) else {
                continue;
            };
            if self.load(now.replicas[from]) < self.load(to) + 2 {
                continue;
            }
            let mut target = now.replicas.clone();
            target[from] = to;
            if self.racks(&target) < self.racks(&now.replicas) {
                continue;
            }
            if self.moves >= MOVES_MAX {
                return;
            }
            self.begin(id, now, &target);
        }
    }
}
