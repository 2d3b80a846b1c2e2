//! One replica of a partition on one node: where its log stands, and its role.

use std::collections::BTreeSet;

use streamd_model::{Epoch, ErrorCode, Mono, NodeId, Offset};

use super::epochs::Epochs;
use super::follower::{Follower, Stand, Verdict};
use super::leader::{Ends, Leader};
use super::{Acks, Effect, Head, Message, Settings, Wish};
use crate::Refused;
use crate::meta::PartitionMeta;

/// What a replica is at the moment.
#[derive(Debug)]
enum Role {
    Idle,
    Leads(Box<Leader>),
    Follows(Follower),
}

/// A replica. The driver has the log; this knows where it stands.
#[derive(Debug)]
pub struct Replica {
    me: NodeId,
    settings: Settings,
    start: Offset,
    high: Offset,
    flushed: Offset,
    end: Offset,
    epochs: Epochs,
    role: Role,
    /// The latest that the image said.
    leader_epoch: Epoch,
    partition_epoch: i32,
    broker_epoch: i64,
    sessions: u64,
    braked: bool,
}

impl Replica {
    /// A replica whose log was opened: it ends at `end`, all of which is durable, and is known to
    /// be committed up to `high`.
    pub fn new(
        me: NodeId,
        settings: Settings,
        epochs: Epochs,
        (start, high, end): (Offset, Offset, Offset),
    ) -> Replica {
        assert!(start <= end, "a log from {start} to {end}");
        Replica {
            me,
            settings,
            start,
            high: high.clamp(start, end),
            flushed: end,
            end,
            epochs,
            role: Role::Idle,
            leader_epoch: -1,
            partition_epoch: -1,
            broker_epoch: -1,
            sessions: 0,
            braked: false,
        }
    }

    /// What is committed, as far as this node knows.
    pub fn high(&self) -> Offset {
        self.high
    }

    /// The high watermark for a client that asks how far the log goes: `None` while a new leader
    /// may not know yet what the one before it has told.
    ///
    /// # Errors
    /// NOT_LEADER_OR_FOLLOWER, or OFFSET_NOT_AVAILABLE, which clients try again.
    pub fn client_high(&self, now: Mono) -> Result<Offset, ErrorCode> {
        match &self.role {
            Role::Leads(leader) if leader.has_lease(now) => match self.high >= leader.since() {
                true => Ok(self.high),
                false => Err(ErrorCode::OffsetNotAvailable),
            },
            _ => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// Where the log ends.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// What of it is durable.
    pub fn durable(&self) -> Offset {
        self.flushed
    }

    /// Which epochs wrote the log.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// The epoch of the leader, as far as this node knows; -1 if it never knew of one.
    pub fn leader_epoch(&self) -> Epoch {
        self.leader_epoch
    }

    /// The leader, if this replica leads.
    pub fn leads(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leads(leader) => Some(leader),
            _ => None,
        }
    }

    /// The follower, if this replica follows.
    pub fn follows(&self) -> Option<&Follower> {
        match &self.role {
            Role::Follows(follower) => Some(follower),
            _ => None,
        }
    }

    /// `min.insync.replicas` and the like changed.
    pub fn set(&mut self, settings: Settings, now: Mono) -> Vec<Effect> {
        self.settings = settings;
        match &mut self.role {
            Role::Idle => {}
            Role::Leads(leader) => leader.set(settings),
            Role::Follows(follower) => follower.set(settings),
        }
        self.moved(now)
    }

    /// The image says this of the partition. `unfit`: replicas whose brokers are fenced or
    /// leaving; `broker_epoch`: of this node.
    pub fn assign(
        &mut self,
        meta: &PartitionMeta,
        unfit: BTreeSet<NodeId>,
        broker_epoch: i64,
        now: Mono,
    ) -> Vec<Effect> {
        if meta.epoch < self.partition_epoch || meta.leader_epoch < self.leader_epoch {
            return Vec::new();
        }
        let same = meta.leader_epoch == self.leader_epoch && broker_epoch == self.broker_epoch;
        self.partition_epoch = meta.epoch;
        if same && let Role::Leads(leader) = &mut self.role {
            leader.update(meta.clone(), unfit);
            return self.moved(now);
        }
        if same && !matches!(self.role, Role::Idle) {
            return Vec::new();
        }
        let mut effects = self.resign();
        let began = meta.leader_epoch > self.leader_epoch;
        self.leader_epoch = meta.leader_epoch;
        self.broker_epoch = broker_epoch;
        match meta.leader {
            // A node that comes back leads in a new epoch only: in the old one it may have lost
            // what it had told its followers.
            Some(leader) if leader == self.me && began => {
                let mut leader = Leader::new(self.me, self.settings, meta.clone(), self.end, now);
                leader.update(meta.clone(), unfit);
                self.epochs.begin(meta.leader_epoch, self.end);
                self.role = Role::Leads(Box::new(leader));
                effects.extend(self.moved(now));
            }
            Some(leader) if leader != self.me && meta.replicas.contains(&self.me) => {
                // An epoch that this node led without a record is nothing that others know of.
                self.epochs.truncate(self.end);
                let session = (broker_epoch, self.sessions);
                let epoch = meta.leader_epoch;
                let mut follower = Follower::new(self.settings, leader, epoch, session);
                follower.brake(self.braked);
                self.role = Role::Follows(follower);
                effects.extend(self.tick(now));
            }
            _ => {}
        }
        effects
    }

    /// What a leader wishes whose disk failed: that another of the in-sync set leads.
    pub fn wishes_to_go(&self) -> Option<Wish> {
        let meta = self.leads()?.meta();
        let others = meta.isr.iter().copied().filter(|n| *n != self.me);
        let isr: Vec<NodeId> = others.collect();
        (!isr.is_empty()).then_some(Wish {
            leader_epoch: meta.leader_epoch,
            epoch: meta.epoch,
            isr,
        })
    }

    /// Stops leading or following: the partition is gone, or the disk failed.
    pub fn resign(&mut self) -> Vec<Effect> {
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Idle => Vec::new(),
            Role::Leads(mut leader) => leader.resign(),
            Role::Follows(follower) => {
                self.sessions = follower.session().1;
                Vec::new()
            }
        }
    }

    /// Leaders on this node may act until then.
    pub fn lease(&mut self, until: Mono, now: Mono) -> Vec<Effect> {
        if let Role::Leads(leader) = &mut self.role {
            leader.lease(until);
        }
        self.moved(now)
    }

    /// Takes `count` records of a producer, whose ticket is settled when `acks` is met. Where they
    /// begin, and the epoch that they are stamped with. The driver appends them.
    ///
    /// # Errors
    /// NOT_LEADER_OR_FOLLOWER, NOT_ENOUGH_REPLICAS.
    pub fn append(
        &mut self,
        count: i64,
        acks: Acks,
        ticket: u64,
        now: Mono,
    ) -> Result<(Offset, Epoch, Vec<Effect>), Refused> {
        self.admits(acks, now)?;
        let Role::Leads(leader) = &mut self.role else {
            unreachable!("who does not lead admits nothing");
        };
        let base = self.end;
        self.end += count;
        leader.wait(ticket, self.end, acks);
        self.epochs.begin(self.leader_epoch, base);
        Ok((base, self.leader_epoch, self.moved(now)))
    }

    /// Takes `count` records of the broker's own, as [`Replica::append`] does, lease or not: who
    /// wrote them waits until they are committed. `None` if this replica does not lead.
    pub fn append_own(&mut self, count: i64, now: Mono) -> Option<(Offset, Epoch, Vec<Effect>)> {
        self.leads()?;
        let base = self.end;
        self.end += count;
        self.epochs.begin(self.leader_epoch, base);
        Some((base, self.leader_epoch, self.moved(now)))
    }

    /// Whether this replica would take records of a producer now.
    ///
    /// # Errors
    /// As [`Replica::append`].
    pub fn admits(&self, acks: Acks, now: Mono) -> Result<(), Refused> {
        let Role::Leads(leader) = &self.role else {
            let text = "this broker does not lead the partition".to_owned();
            return Err((ErrorCode::NotLeaderOrFollower, text));
        };
        if !leader.has_lease(now) {
            let text = "this broker has lost touch with the controller".to_owned();
            return Err((ErrorCode::NotLeaderOrFollower, text));
        }
        if acks == Acks::All && !leader.enough() {
            let text = format!(
                "{} of the replicas are in sync, and min.insync.replicas is {}",
                leader.meta().isr.len(),
                self.settings.min_isr
            );
            return Err((ErrorCode::NotEnoughReplicas, text));
        }
        Ok(())
    }

    /// The ticket of records that came before, and are to be waited for once more: all that the
    /// log has by now.
    pub fn wait(&mut self, acks: Acks, ticket: u64, now: Mono) -> Vec<Effect> {
        let end = self.end;
        if let Role::Leads(leader) = &mut self.role {
            leader.wait(ticket, end, acks);
        }
        self.moved(now)
    }

    /// Everything below `to` is durable. Of a log that was cut since then it is less.
    pub fn flushed(&mut self, to: Offset, now: Mono) -> Vec<Effect> {
        self.flushed = self.flushed.max(to.min(self.end));
        self.moved(now)
    }

    /// The log begins here now.
    pub fn trimmed(&mut self, start: Offset) {
        assert!(
            start <= self.high,
            "trimmed to {start}, committed is {}",
            self.high
        );
        self.start = self.start.max(start);
        self.epochs.trim(start);
    }

    /// Another replica says something. Records come by [`Replica::data`].
    pub fn message(&mut self, from: NodeId, message: &Message, now: Mono) -> Vec<Effect> {
        let ends = self.ends();
        let mut effects = Vec::new();
        match (&mut self.role, message) {
            (Role::Leads(leader), Message::Subscribe { .. }) => {
                let log = (&self.epochs, self.start);
                effects = leader.subscribe((from, message), log, ends, now);
            }
            (Role::Leads(leader), Message::Ack { .. }) => leader.ack(from, message, ends, now),
            (
                Role::Follows(follower),
                Message::Diverged { .. } | Message::Begin { .. } | Message::Refused { .. },
            ) => {
                let stand = Stand {
                    epochs: &self.epochs,
                    end: self.end,
                    flushed: self.flushed,
                };
                for effect in follower.message(from, message, stand, now) {
                    match effect {
                        Effect::Truncate(to) => effects.extend(self.cut(to)),
                        Effect::Reset(start) => effects.extend(self.reset(start)),
                        other => effects.push(other),
                    }
                }
                effects.extend(self.tick(now));
            }
            (Role::Follows(follower), Message::Data(head)) => {
                let is_pulse = head.high <= follower.high();
                follower.data((from, *head), 0, self.end, now);
                if is_pulse {
                    effects = follower.ack(self.flushed, true);
                }
            }
            _ => {}
        }
        effects.extend(self.moved(now));
        effects
    }

    fn cut(&mut self, to: Offset) -> Vec<Effect> {
        assert!(
            to >= self.high,
            "cut to {to}, but {} is committed: epochs {:?}",
            self.high,
            self.epochs
        );
        self.end = to;
        self.flushed = self.flushed.min(to);
        self.epochs.truncate(to);
        vec![Effect::Truncate(to)]
    }

    /// The leader has nothing any more of what this log lacks: it begins where the leader's does.
    fn reset(&mut self, start: Offset) -> Vec<Effect> {
        assert!(
            start > self.end,
            "reset to {start}, and the log ends at {}",
            self.end
        );
        (self.start, self.high, self.flushed, self.end) = (start, start, start, start);
        self.epochs = Epochs::default();
        vec![Effect::Reset(start)]
    }

    /// The leader's log begins inside a batch, which comes whole: this log, which is empty there,
    /// begins where the batch does. The driver resets it, then gives the batch to
    /// [`Replica::data`] as if it had been asked for from there; where the log starts comes after.
    /// `false`: it is not empty, or not at `head.base`.
    pub fn begin_earlier(&mut self, head: Head, base: Offset) -> bool {
        let empty = self.start == self.end && self.end == head.base;
        if !empty || base >= self.end || !matches!(self.role, Role::Follows(_)) {
            return false;
        }
        (self.start, self.high, self.flushed, self.end) = (base, base, base, base);
        self.epochs = Epochs::default();
        true
    }

    /// Records of the leader came: their epochs with their first offsets, how many, how long.
    /// `true`: append them, and call [`Replica::flushed`] when they are durable. Either way,
    /// [`Replica::taken`] is next.
    pub fn data(
        &mut self,
        from: NodeId,
        head: Head,
        epochs: &[(Epoch, Offset)],
        size: (i64, u64),
        now: Mono,
    ) -> bool {
        let Role::Follows(follower) = &mut self.role else {
            return false;
        };
        let (count, bytes) = size;
        let verdict = follower.data((from, head), bytes, self.end, now);
        if verdict == Verdict::Drop {
            return false;
        }
        for (epoch, at) in epochs {
            self.epochs.begin(*epoch, *at);
        }
        self.end += count;
        true
    }

    /// What [`Replica::data`] has said is done.
    pub fn taken(&mut self, now: Mono) -> Vec<Effect> {
        self.moved(now)
    }

    /// The push to a follower is out, up to `next`, with so many bytes of records.
    pub fn pushed(
        &mut self,
        to: NodeId,
        head: Head,
        (next, bytes): (Offset, u64),
        now: Mono,
    ) -> Vec<Effect> {
        if let Role::Leads(leader) = &mut self.role {
            leader.pushed(to, head.session, next, bytes);
        }
        self.moved(now)
    }

    /// The push to a follower is not to be done now: until [`Replica::release`], or until it is in
    /// sync, it gets no records, but hears that the leader is there.
    pub fn hold(&mut self, to: NodeId, head: Head, now: Mono) -> Vec<Effect> {
        if let Role::Leads(leader) = &mut self.role {
            leader.hold(to, head.session);
        }
        self.moved(now)
    }

    /// A follower gets records again.
    pub fn release(&mut self, to: NodeId, now: Mono) -> Vec<Effect> {
        if let Role::Leads(leader) = &mut self.role {
            leader.release(to);
        }
        self.moved(now)
    }

    /// As a follower it gives credit back when it is told to, rather than at once.
    pub fn brake(&mut self, on: bool) {
        self.braked = on;
        if let Role::Follows(follower) = &mut self.role {
            follower.brake(on);
        }
    }

    /// The credit that a follower has not given back.
    pub fn kept_back(&self) -> u64 {
        self.follows().map_or(0, Follower::kept_back)
    }

    /// A follower gives so much of it back.
    pub fn give_back(&mut self, bytes: u64) -> Vec<Effect> {
        match &mut self.role {
            Role::Follows(follower) => follower.give_back(bytes, self.flushed),
            _ => Vec::new(),
        }
    }

    /// The controller did not do what was wished.
    pub fn refused(&mut self, why: ErrorCode, now: Mono) -> Vec<Effect> {
        if let Role::Leads(leader) = &mut self.role {
            leader.refused(why);
        }
        self.moved(now)
    }

    /// The time.
    pub fn tick(&mut self, now: Mono) -> Vec<Effect> {
        let stand = Stand {
            epochs: &self.epochs,
            end: self.end,
            flushed: self.flushed,
        };
        if let Role::Follows(follower) = &mut self.role {
            return follower.tick(stand, now);
        }
        self.moved(now)
    }

    fn ends(&self) -> Ends {
        Ends {
            start: self.start,
            end: self.end,
            flushed: self.flushed,
        }
    }

    /// Something moved: what follows from it.
    fn moved(&mut self, now: Mono) -> Vec<Effect> {
        let ends = self.ends();
        let mut effects = Vec::new();
        match &mut self.role {
            Role::Idle => {}
            Role::Leads(leader) => {
                let committed = leader.committed(ends).unwrap_or(self.high);
                if committed > self.high {
                    assert!(committed <= self.flushed, "{committed} of {}", self.flushed);
                    self.high = committed;
                    effects.push(Effect::High(committed));
                }
                effects.extend(leader.settle(self.high, self.flushed, now));
                effects.extend(leader.push(self.high, ends, now));
                effects.extend(leader.wish(self.high, now));
            }
            Role::Follows(follower) => {
                let high = follower.high().min(self.flushed);
                if high > self.high {
                    self.high = high;
                    effects.push(Effect::High(high));
                }
                let start = follower.start().min(self.high);
                if start > self.start {
                    self.start = start;
                    self.epochs.trim(start);
                    effects.push(Effect::Trim(start));
                }
                effects.extend(follower.ack(self.flushed, false));
            }
        }
        effects
    }
}
