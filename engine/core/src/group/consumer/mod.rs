//! A group of the `consumer` protocol (KIP-848): the coordinator assigns, and brings each member
//! from what it has to what it shall have, by epochs.
//!
//! The group's epoch rises when members, subscriptions or topics change; then a target is made
//! for it; each member gives back what is not its own any more before its epoch rises to that of
//! the target, and gets a partition when nobody else has it.
//! Invariants: the durable part changes in [`Modern::replay`] alone; a partition is in `owners`
//! as long as a member has it or has yet to give it back; no epoch goes back.

mod admin;
mod assign;
mod bridge;
mod heartbeat;
mod migrate;
mod reconcile;
mod session;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streamd_model::{ErrorCode, Mono, TopicId};

use super::record::{ConsumerChange, Current, GroupEpoch, Parts, Phase, Resolved, Subscription};
use crate::timers::TimerKey;

pub use assign::Assignor;
pub(super) use session::Watch;

/// The epoch of a static member that is away for a while.
pub(super) const AWAY: i32 = -2;
/// The epoch of a member that goes.
pub(super) const LEAVES: i32 = -1;

/// Why something is refused, with a word about it.
pub(super) type Why = (ErrorCode, String);

/// A member.
#[derive(Debug, Default)]
pub(super) struct Mate {
    pub sub: Arc<Subscription>,
    pub target: Arc<Parts>,
    pub now: Current,
    /// When it is given up, unless it is heard of.
    pub deadline: Mono,
    /// The timer that looks at the deadline; it may go off before and be set again.
    pub armed: Option<TimerKey>,
    /// It is to give partitions back, to join again or to sync until then.
    pub patience: Option<TimerKey>,
}

impl Mate {
    pub fn is_classic(&self) -> bool {
        self.sub.classic.is_some()
    }

    /// Whether it has what it shall have by the target of this epoch.
    pub fn is_reconciled(&self, target_epoch: i32) -> bool {
        self.now.phase == Phase::Stable && self.now.epoch == target_epoch
    }

    /// What it takes, bytes.
    fn bytes(&self) -> usize {
        let s = &*self.sub;
        let topics: usize = s.topics.iter().map(|t| t.len() + 24).sum();
        let classic = s.classic.iter().flat_map(|c| &c.protocols);
        let protocols: usize = classic.map(|p| p.0.len() + p.1.len()).sum();
        let texts =
            s.client_id.len() + s.client_host.len() + s.regex.as_ref().map_or(0, String::len);
        let parts = self.target.len() + self.now.assigned.len() + self.now.revoking.len();
        topics + protocols + texts + parts * 24 + 512
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Modern {
    pub epoch: i32,
    pub hash: i64,
    pub target_epoch: i32,
    pub members: BTreeMap<Arc<str>, Mate>,
    pub regexes: BTreeMap<Arc<str>, Resolved>,
    /// Instances of static members, and the ids that they have now.
    pub statics: BTreeMap<String, Arc<str>>,
    /// Who has a partition, or has yet to give it back.
    pub owners: BTreeMap<(TopicId, i32), Arc<str>>,
    /// What members hold, bytes.
    pub bytes: usize,
}

impl Modern {
    /// The fold of the log. False when the group is gone.
    pub fn replay(&mut self, change: &ConsumerChange) -> bool {
        match change {
            ConsumerChange::Epoch(None) => return false,
            ConsumerChange::Epoch(Some(GroupEpoch { epoch, hash })) => {
                (self.epoch, self.hash) = (*epoch, *hash);
            }
            ConsumerChange::Topics => {}
            ConsumerChange::TargetEpoch(epoch) => self.target_epoch = epoch.unwrap_or(0),
            ConsumerChange::Regex(regex, Some(found)) => {
                self.regexes.insert(regex.clone(), found.clone());
            }
            ConsumerChange::Regex(regex, None) => {
                self.regexes.remove(regex);
            }
            ConsumerChange::Member(id, Some(sub)) => self.subscribe(id, sub.clone()),
            ConsumerChange::Member(id, None) => self.forget(id),
            ConsumerChange::Target(id, target) => {
                if target.is_some() || self.members.contains_key(id) {
                    self.with(id, |mate| mate.target = target.clone().unwrap_or_default());
                }
            }
            ConsumerChange::Current(id, now) => {
                if now.is_some() || self.members.contains_key(id) {
                    self.own(id, now.clone().unwrap_or_default());
                }
            }
        }
        true
    }

    /// The records that make it what it is.
    pub fn changes(&self) -> Vec<ConsumerChange> {
        let (epoch, hash) = (self.epoch, self.hash);
        let mut all = vec![
            ConsumerChange::Epoch(Some(GroupEpoch { epoch, hash })),
            ConsumerChange::TargetEpoch(Some(self.target_epoch)),
        ];
        let regexes = self.regexes.iter();
        all.extend(regexes.map(|(r, found)| ConsumerChange::Regex(r.clone(), Some(found.clone()))));
        for (id, mate) in &self.members {
            all.push(ConsumerChange::Member(id.clone(), Some(mate.sub.clone())));
            all.push(ConsumerChange::Target(
                id.clone(),
                Some(mate.target.clone()),
            ));
            all.push(ConsumerChange::Current(id.clone(), Some(mate.now.clone())));
        }
        all
    }

    fn with(&mut self, id: &Arc<str>, change: impl FnOnce(&mut Mate)) {
        let is_new = !self.members.contains_key(id);
        let mate = self.members.entry(id.clone()).or_default();
        let before = if is_new { 0 } else { mate.bytes() };
        change(mate);
        self.bytes = (self.bytes + mate.bytes()).saturating_sub(before);
    }

    fn subscribe(&mut self, id: &Arc<str>, sub: Arc<Subscription>) {
        if let Some(instance) = &sub.instance {
            self.statics.insert(instance.clone(), id.clone());
        }
        self.with(id, |mate| mate.sub = sub);
    }

    fn forget(&mut self, id: &Arc<str>) {
        let Some(mate) = self.members.remove(id) else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(mate.bytes());
        if let Some(instance) = &mate.sub.instance
            && self.statics.get(instance) == Some(id)
        {
            self.statics.remove(instance);
            // Of its replacement only a part may have become durable: the old one is still there.
            let mut others = self.members.iter();
            if let Some((other, _)) =
                others.find(|(_, m)| m.sub.instance.as_ref() == Some(instance))
            {
                self.statics.insert(instance.clone(), other.clone());
            }
        }
        self.disown(id, &mate.now);
    }

    fn disown(&mut self, id: &Arc<str>, now: &Current) {
        for part in now.assigned.iter().chain(&now.revoking) {
            if self.owners.get(part) == Some(id) {
                self.owners.remove(part);
            }
        }
    }

    fn own(&mut self, id: &Arc<str>, now: Current) {
        if let Some(before) = self.members.get(id).map(|m| m.now.clone()) {
            self.disown(id, &before);
        }
        for part in now.assigned.iter().chain(&now.revoking) {
            self.owners.insert(*part, id.clone());
        }
        self.with(id, |mate| mate.now = now);
    }

    /// The topics that a member subscribes to, by name or by what its expression matches.
    pub fn topics_of<'a>(&'a self, sub: &'a Subscription) -> impl Iterator<Item = &'a str> {
        let found = sub.regex.as_deref().and_then(|r| self.regexes.get(r));
        let matched = found.into_iter().flat_map(|r| &r.topics);
        sub.topics.iter().chain(matched).map(String::as_str)
    }

    /// The topics that anybody subscribes to.
    pub fn topics(&self) -> BTreeSet<&str> {
        let members = self.members.values();
        members.flat_map(|m| self.topics_of(&m.sub)).collect()
    }

    /// Kafka's name of the state.
    pub fn state(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.target_epoch {
            "Assigning"
        } else if self
            .members
            .values()
            .all(|m| m.is_reconciled(self.target_epoch))
        {
            "Stable"
        } else {
            "Reconciling"
        }
    }
}
