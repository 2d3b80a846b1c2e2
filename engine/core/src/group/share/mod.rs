//! A share group (KIP-932): the coordinator assigns, and a member reads what it is assigned at
//! once, since several may read one partition.
//!
//! The group's epoch rises when members, subscriptions or topics change, before the change is
//! written; then a target is made for it, and each member moves to it with its next heartbeat.
//! Which records a member gets is not decided here: see `crate::share`.
//! Invariants: the durable part changes in [`ShareGroup::replay`] alone; no epoch goes back; each
//! partition of a topic that somebody subscribes to is assigned to somebody.

mod admin;
mod assign;
mod heartbeat;
mod host;

use std::collections::BTreeMap;
use std::sync::Arc;

use streamd_model::Mono;

use super::context::Context;
use super::record::{GroupEpoch, GroupRecord, Parts, Reads, ShareChange, ShareTopics, Worker};
use crate::timers::TimerKey;

/// A member.
#[derive(Debug, Default)]
pub(super) struct Hand {
    pub worker: Arc<Worker>,
    pub target: Arc<Parts>,
    pub now: Reads,
    /// When it is given up, unless it is heard of.
    pub deadline: Mono,
    /// The timer that looks at the deadline; it may go off before and be set again.
    pub armed: Option<TimerKey>,
}

impl Hand {
    /// What it takes, bytes.
    fn bytes(&self) -> usize {
        let topics: usize = self.worker.topics.iter().map(|t| t.len() + 24).sum();
        let texts = self.worker.client_id.len() + self.worker.client_host.len();
        topics + texts + (self.target.len() + self.now.assigned.len()) * 24 + 512
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct ShareGroup {
    pub name: Arc<str>,
    pub epoch: i32,
    pub hash: i64,
    pub target_epoch: i32,
    pub members: BTreeMap<Arc<str>, Hand>,
    /// Topics of which there are share-partitions.
    pub topics: ShareTopics,
    /// Whether there is anything of it on record.
    pub exists: bool,
    /// The batch with its newest record.
    pub written: u64,
    /// What members hold, bytes.
    pub bytes: usize,
}

impl ShareGroup {
    pub fn new(name: Arc<str>) -> ShareGroup {
        ShareGroup {
            name,
            epoch: 0,
            hash: 0,
            target_epoch: 0,
            members: BTreeMap::new(),
            topics: ShareTopics::new(),
            exists: false,
            written: 0,
            bytes: 0,
        }
    }

    /// The fold of the log.
    pub fn replay(&mut self, change: &ShareChange) {
        // The log may be compacted: any record can be the first one.
        self.exists = true;
        match change {
            ShareChange::Epoch(None) => self.exists = false,
            ShareChange::Epoch(Some(GroupEpoch { epoch, hash })) => {
                (self.epoch, self.hash) = (*epoch, *hash);
            }
            ShareChange::TargetEpoch(value) => self.target_epoch = value.map_or(0, |v| v.0),
            ShareChange::Topics(topics) => self.topics = topics.clone().unwrap_or_default(),
            ShareChange::Member(id, Some(worker)) => {
                self.with(id, |hand| hand.worker = worker.clone());
            }
            ShareChange::Member(id, None) => {
                if let Some(hand) = self.members.remove(id) {
                    self.bytes = self.bytes.saturating_sub(hand.bytes());
                }
            }
            ShareChange::Target(id, target) => {
                if target.is_some() || self.members.contains_key(id) {
                    self.with(id, |hand| hand.target = target.clone().unwrap_or_default());
                }
            }
            ShareChange::Current(id, now) => {
                if now.is_some() || self.members.contains_key(id) {
                    self.with(id, |hand| hand.now = now.clone().unwrap_or_default());
                }
            }
        }
    }

    fn with(&mut self, id: &Arc<str>, change: impl FnOnce(&mut Hand)) {
        let is_new = !self.members.contains_key(id);
        let hand = self.members.entry(id.clone()).or_default();
        let before = if is_new { 0 } else { hand.bytes() };
        change(hand);
        self.bytes = (self.bytes + hand.bytes()).saturating_sub(before);
    }

    /// Changes durable state: the record goes to the log, and through [`ShareGroup::replay`].
    fn store(&mut self, ctx: &mut Context, change: ShareChange) {
        let before = self.bytes;
        self.replay(&change);
        ctx.member_bytes = (ctx.member_bytes + self.bytes).saturating_sub(before);
        self.written = ctx.out.next_seq();
        let group = self.name.clone();
        ctx.out.push(GroupRecord::Share { group, change });
    }

    /// The records that make it what it is.
    pub fn changes(&self) -> Vec<ShareChange> {
        let (epoch, hash) = (self.epoch, self.hash);
        let mut all = vec![
            ShareChange::Epoch(Some(GroupEpoch { epoch, hash })),
            ShareChange::TargetEpoch(Some((self.target_epoch, 0))),
            ShareChange::Topics(Some(self.topics.clone())),
        ];
        for (id, hand) in &self.members {
            all.push(ShareChange::Member(id.clone(), Some(hand.worker.clone())));
            let target = Some(hand.target.clone());
            all.push(ShareChange::Target(id.clone(), target));
            all.push(ShareChange::Current(id.clone(), Some(hand.now.clone())));
        }
        all
    }

    /// Kafka's name of the state.
    pub fn state(&self) -> &'static str {
        match self.members.is_empty() {
            true => "Empty",
            false => "Stable",
        }
    }
}
