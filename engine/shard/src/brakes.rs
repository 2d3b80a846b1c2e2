//! What keeps copies of replicas from the way of those that are in sync: limits on bytes a second,
//! which all shards of a node share, and on bytes that are under way to a node.
//!
//! Invariants: nothing to or from a replica that is in sync is ever held up here; who is held up is
//! told what there is to tell, so it does not take its leader for gone.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use streamd_core::config::ReplicationConfig;
use streamd_core::repl::Bucket;
use streamd_model::{Mono, NodeId, PartitionId};

use crate::partition::Partition;
use crate::replicate::Owed;
use crate::shard::Shard;

/// The most bytes of copies that are under way from a shard to a node, and one piece: what is
/// pushed to replicas in sync has to wait for them.
const UNDER_WAY_MAX: u64 = 4 << 20;

/// The limits of a node; a shard looks at them before it sends a piece of a copy.
#[derive(Debug, Default)]
pub struct Brakes(Mutex<Limits>);

#[derive(Debug, Default)]
struct Limits {
    leader: Bucket,
    follower: Bucket,
    all: Bucket,
}

impl Brakes {
    fn limits(&self) -> MutexGuard<'_, Limits> {
        // What is in it is whole at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of `max` bytes may be sent now to a replica that is not in sync: that is taken.
    /// `None`: nothing yet.
    fn sends(
        &self,
        config: &ReplicationConfig,
        throttled: bool,
        max: u64,
        now: Mono,
    ) -> Option<u64> {
        let mut limits = self.limits();
        limits.all.set(config.catch_up_rate, now);
        limits.leader.set(config.leader_rate, now);
        let open = limits.all.is_open(now) && (!throttled || limits.leader.is_open(now));
        if !open {
            return None;
        }
        let mut piece = limits.all.piece(max);
        if throttled {
            piece = limits.leader.piece(piece);
            limits.leader.take(piece);
        }
        limits.all.take(piece);
        Some(piece)
    }

    /// So much was sent instead of what was taken.
    fn sent(&self, throttled: bool, taken: u64, sent: u64) {
        let mut limits = self.limits();
        let Limits { leader, all, .. } = &mut *limits;
        let sides = [Some(all), throttled.then_some(leader)];
        for side in sides.into_iter().flatten() {
            side.take(sent.saturating_sub(taken));
            side.give_back(taken.saturating_sub(sent));
        }
    }

    /// How much of `max` bytes a throttled replica here that is not in sync may ask for now.
    fn takes(&self, config: &ReplicationConfig, max: u64, now: Mono) -> Option<u64> {
        let follower = &mut self.limits().follower;
        follower.set(config.follower_rate, now);
        if !follower.is_open(now) {
            return None;
        }
        let piece = follower.piece(max);
        follower.take(piece);
        Some(piece)
    }
}

/// The copies that leaders of a shard send.
#[derive(Default)]
pub(crate) struct Copies {
    /// Bytes on their way, by node.
    under_way: RefCell<BTreeMap<NodeId, BTreeMap<PartitionId, u64>>>,
    /// Who waits until there are less, since the clock ticked.
    held: RefCell<BTreeMap<NodeId, VecDeque<PartitionId>>>,
}

impl Copies {
    fn is_full(&self, to: NodeId) -> bool {
        let under_way = self.under_way.borrow();
        let sum = under_way.get(&to).map_or(0, |p| p.values().sum());
        sum >= UNDER_WAY_MAX
    }

    fn note(&self, to: NodeId, id: PartitionId, bytes: Option<u64>) {
        let mut under_way = self.under_way.borrow_mut();
        match bytes.filter(|b| *b > 0) {
            Some(bytes) => drop(under_way.entry(to).or_default().insert(id, bytes)),
            None => {
                if let Some(of) = under_way.get_mut(&to) {
                    of.remove(&id);
                }
            }
        }
    }

    fn hold(&self, to: NodeId, id: PartitionId) {
        self.held.borrow_mut().entry(to).or_default().push_back(id);
    }

    fn next(&self, to: NodeId) -> Option<PartitionId> {
        self.held.borrow_mut().get_mut(&to)?.pop_front()
    }
}

/// A leader's side.
impl Partition {
    fn is_throttled(&self, me: NodeId) -> bool {
        let topic = self.topic.borrow();
        topic.config.replication.leader.has(self.id.index, me)
    }

    /// Whether a push may be done now. One to a replica that is not in sync may have to wait, and
    /// may be of fewer bytes.
    pub(crate) fn may_push(&self, shard: &Shard, push: &mut Owed) -> bool {
        if !push.catch_up {
            return true;
        }
        let copies = &shard.replicas.copies;
        if copies.is_full(push.to) {
            copies.hold(push.to, self.id);
            return false;
        }
        let (image, now) = (shard.image(), shard.env.now());
        let (config, throttled) = (&image.broker().replication, self.is_throttled(shard.node()));
        let piece = shard
            .settings
            .brakes
            .sends(config, throttled, push.max, now);
        if let Some(piece) = piece {
            push.max = piece;
            // Until it is out, and known.
            let replica = self.replica.borrow();
            let before = replica.leads().and_then(|l| l.catching_up(push.to));
            copies.note(push.to, self.id, Some(before.unwrap_or(0) + piece));
        }
        piece.is_some()
    }

    /// A push that was allowed is out, with so many bytes.
    pub(crate) fn has_pushed(&self, shard: &Shard, push: &Owed, bytes: u64) {
        if push.catch_up {
            let throttled = self.is_throttled(shard.node());
            shard.settings.brakes.sent(throttled, push.max, bytes);
            self.note_copy(shard, push.to);
        }
    }

    fn note_copy(&self, shard: &Shard, to: NodeId) {
        let replica = self.replica.borrow();
        let bytes = replica.leads().and_then(|l| l.catching_up(to));
        shard.replicas.copies.note(to, self.id, bytes);
    }

    /// Followers that were held up are looked at again.
    pub(crate) fn release(&self) {
        let held = self.replica.borrow().leads().map(|l| l.held());
        for node in held.unwrap_or_default() {
            self.act(|replica, now| replica.release(node, now));
        }
    }
}

impl Shard {
    /// A follower has taken something of a partition: others may have their turn.
    pub(crate) fn has_taken(&self, partition: &Partition, node: NodeId) {
        partition.note_copy(self, node);
        let copies = &self.replicas.copies;
        while !copies.is_full(node)
            && let Some(id) = copies.next(node)
        {
            if let Some(partition) = self.there(id).filter(|p| p.is_at_work()) {
                partition.act(|replica, now| replica.release(node, now));
            }
        }
    }

    /// The clock has ticked: who waits is looked at again, and what is under way is what leaders
    /// say, as some of them may lead no more.
    pub(crate) fn recount_copies(&self) {
        let copies = &self.replicas.copies;
        copies.held.borrow_mut().clear();
        let known = copies.under_way.take();
        for (node, of) in known {
            for id in of.into_keys() {
                if let Some(partition) = self.there(id) {
                    partition.note_copy(self, node);
                }
            }
        }
    }
}

/// A follower's side.
impl Partition {
    /// The image says something else of it.
    pub(crate) fn set_brake(&self, shard: &Shard) {
        let (image, me) = (shard.image(), shard.node());
        let place = image.cluster().partition(self.id);
        let in_sync = place.is_none_or(|p| p.isr.contains(&me));
        let topic = self.topic.borrow();
        let listed = topic.config.replication.follower.has(self.id.index, me);
        self.replica.borrow_mut().brake(listed && !in_sync);
    }

    /// Gives the leader credit back as the limit has it.
    pub(crate) fn give_credit(&self, shard: &Rc<Shard>) {
        let kept = self.replica.borrow().kept_back();
        if kept == 0 {
            return;
        }
        let (image, now) = (shard.image(), shard.env.now());
        let config = &image.broker().replication;
        if let Some(bytes) = shard.settings.brakes.takes(config, kept, now) {
            self.act(|replica, _| replica.give_back(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use streamd_core::config::BrokerConfig;

    use super::*;

    #[test]
    fn what_was_not_sent_is_given_back() {
        let mut config = BrokerConfig::default().replication;
        (config.leader_rate, config.catch_up_rate) = (1_000_000, u64::MAX);
        let (brakes, now) = (Brakes::default(), Mono(1_000_000_000));
        assert_eq!(brakes.sends(&config, false, 1 << 20, now), Some(1 << 20));
        assert_eq!(
            brakes.sends(&config, true, 1 << 20, now),
            None,
            "it begins empty"
        );
        let later = Mono(now.0 + 100_000_000);
        assert_eq!(brakes.sends(&config, true, 1 << 20, later), Some(125_000));
        assert_eq!(brakes.sends(&config, true, 1 << 20, later), None);
        brakes.sent(true, 125_000, 20_000);
        assert_eq!(brakes.sends(&config, true, 1 << 20, later), Some(125_000));
    }

    #[test]
    fn copies_to_a_node_are_bounded() {
        let (copies, node) = (Copies::default(), NodeId(2));
        let id = |index| PartitionId {
            topic: streamd_model::TopicId([1; 16]),
            index,
        };
        copies.note(node, id(0), Some(UNDER_WAY_MAX - 1));
        assert!(!copies.is_full(node));
        copies.note(node, id(1), Some(1));
        assert!(copies.is_full(node) && !copies.is_full(NodeId(3)));
        copies.hold(node, id(5));
        copies.note(node, id(0), None);
        assert!(!copies.is_full(node));
        assert_eq!((copies.next(node), copies.next(node)), (Some(id(5)), None));
    }
}
