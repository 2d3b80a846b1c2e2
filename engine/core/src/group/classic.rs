//! A group: its durable state, and the rebalance that goes on in it.
//!
//! The states are Kafka's. A rebalance: members join (`Preparing`), the leader assigns
//! (`Completing`), everybody has its part (`Stable`); a group without members is `Empty`.
//! Invariant: `hard` and `offsets` change in [`Group::replay`] alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use streamd_model::{ErrorCode, Mono};

use super::consumer::Modern;
use super::context::{Context, Timer};
use super::member::Member;
use super::offsets::Offsets;
use super::record::{Blob, GroupRecord, GroupValue};
use super::request::{Joined, Reply, Synced, Who};
use crate::machine::{Now, Record, Token};
use crate::timers::TimerKey;

/// What a group is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Empty,
    Preparing,
    Completing,
    Stable,
}

impl State {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Preparing => "PreparingRebalance",
            State::Completing => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// The clock work of a rebalance.
#[derive(Debug, Default)]
pub(super) struct Clock {
    pub join: Option<TimerKey>,
    pub sync: Option<TimerKey>,
    /// The first rebalance of an empty group waits for more members: how much longer it may.
    pub initial: Option<Initial>,
}

/// See [`Clock::initial`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Initial {
    pub delay: Duration,
    pub left: Duration,
    pub somebody_came: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    pub name: Arc<str>,
    pub hard: Option<GroupValue>,
    /// What it is as a group of the `consumer` protocol; then nothing of it is classic but the
    /// offsets.
    pub modern: Option<Box<Modern>>,
    pub offsets: Offsets,
    /// The batch with its newest record.
    pub written: u64,
    pub state: State,
    /// Since when, wall time in ms.
    pub state_ms: i64,
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    pub members: BTreeMap<String, Member>,
    /// Instances of static members, and the ids that they have now.
    pub statics: BTreeMap<String, String>,
    /// Ids that were given out, whose members are to come back.
    pub pending: BTreeMap<String, TimerKey>,
    /// Who has not synced in this generation.
    pub unsynced: BTreeSet<String>,
    pub clock: Clock,
}

impl Group {
    pub fn new(name: Arc<str>) -> Group {
        Group {
            name,
            hard: None,
            modern: None,
            offsets: Offsets::default(),
            written: 0,
            state: State::Empty,
            state_ms: -1,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            pending: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            clock: Clock::default(),
        }
    }

    /// The fold of the log: the only place where durable state changes.
    pub fn replay(&mut self, record: &GroupRecord) {
        match record {
            GroupRecord::Offset {
                topic,
                partition,
                value,
                ..
            } => self.offsets.set(topic, *partition, value.clone()),
            GroupRecord::Group { value, .. } => self.hard = value.clone(),
            // A share group is none of these.
            GroupRecord::Share { .. } => {}
            GroupRecord::Consumer { change, .. } => {
                // What takes away makes nothing.
                if self.modern.is_none() && record.value().is_none() {
                    return;
                }
                if !self.modern.get_or_insert_default().replay(change) {
                    self.modern = None;
                }
            }
        }
    }

    /// Changes durable state: the record goes to the log, and through [`Group::replay`].
    pub fn store(&mut self, ctx: &mut Context, record: GroupRecord) {
        let before = self.offsets.len();
        let bytes = self.modern_bytes();
        self.replay(&record);
        ctx.member_bytes = (ctx.member_bytes + self.modern_bytes()).saturating_sub(bytes);
        ctx.offsets = (ctx.offsets + self.offsets.len()).saturating_sub(before);
        self.written = ctx.out.next_seq();
        ctx.out.push(record);
    }

    /// Writes down the group as it is.
    pub fn store_group(&mut self, ctx: &mut Context) {
        let protocol = self.protocol.clone().unwrap_or_default();
        let value = GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_ms: self.state_ms,
            members: self.members.values().map(|m| m.value(&protocol)).collect(),
        };
        let group = self.name.clone();
        let value = Some(value);
        self.store(ctx, GroupRecord::Group { group, value });
    }

    /// Begins anew from the durable state: members get their session's time to be heard of.
    pub fn restore(&mut self, ctx: &mut Context, now: Now) {
        self.restore_modern(ctx, now);
        let Some(hard) = self.hard.clone() else {
            return;
        };
        self.generation = hard.generation;
        self.protocol_type = Some(hard.protocol_type).filter(|t| !t.is_empty());
        self.state_ms = hard.state_ms;
        if hard.members.is_empty() {
            return;
        }
        let protocol = hard.protocol.unwrap_or_default();
        for value in &hard.members {
            self.insert(ctx, Member::restored(value, &protocol));
        }
        let leader = hard.leader.filter(|id| self.members.contains_key(id));
        self.leader = leader.or_else(|| self.members.keys().next().cloned());
        self.protocol = Some(protocol);
        self.state = State::Stable;
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            self.heard(ctx, now.mono, &id);
        }
    }

    /// Whether nothing is left of it.
    pub fn is_gone(&self) -> bool {
        self.hard.is_none()
            && self.modern.is_none()
            && self.offsets.is_empty()
            && self.offsets.pending == 0
            && self.members.is_empty()
            && self.pending.is_empty()
            && self.state == State::Empty
    }

    pub fn enter(&mut self, state: State, now: Now) {
        self.state = state;
        self.state_ms = now.wall_ms;
    }

    /// Takes a member in.
    pub fn insert(&mut self, ctx: &mut Context, member: Member) {
        ctx.member_bytes += member.bytes();
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), member.id.clone());
        }
        self.members.insert(member.id.clone(), member);
    }

    /// Takes a member out; what it waits for is answered with `code`.
    pub fn remove(&mut self, ctx: &mut Context, id: &str, code: ErrorCode) -> Option<Member> {
        let mut member = self.members.remove(id)?;
        ctx.member_bytes = ctx.member_bytes.saturating_sub(member.bytes());
        ctx.timers.disarm(member.armed.take());
        self.unsynced.remove(id);
        refuse_join(ctx, member.join.take(), "", code);
        refuse_sync(ctx, member.sync.take(), code);
        if let Some(instance) = &member.instance
            && self.statics.get(instance).is_some_and(|now| now == id)
        {
            self.statics.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// What all members hold, bytes.
    pub fn member_bytes(&self) -> usize {
        self.members.values().map(Member::bytes).sum::<usize>() + self.modern_bytes()
    }

    pub fn modern_bytes(&self) -> usize {
        self.modern.as_ref().map_or(0, |m| m.bytes)
    }

    /// A member was heard of: its session begins anew.
    pub fn heard(&mut self, ctx: &mut Context, now: Mono, id: &str) {
        let session = self.members.get(id).map_or(0, |m| m.session_ms);
        self.give(ctx, now, id, millis(session));
    }

    /// A member has this long until it is given up.
    pub fn give(&mut self, ctx: &mut Context, now: Mono, id: &str, time: Duration) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        member.deadline = now + time;
        if member.armed.is_none_or(|key| key.0 > member.deadline) {
            ctx.timers.disarm(member.armed);
            let timer = Timer::Session(self.name.clone(), id.to_owned());
            member.armed = Some(ctx.timers.arm(member.deadline, timer));
        }
    }

    /// Checks who a member says it is.
    pub fn check_member(&self, who: &Who) -> Result<(), ErrorCode> {
        if let Some(instance) = &who.instance {
            match self.statics.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(id) if *id != who.id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        match self.members.contains_key(&who.id) {
            true => Ok(()),
            false => Err(ErrorCode::UnknownMemberId),
        }
    }

    /// How long a rebalance waits: for the most patient member.
    pub fn rebalance_time(&self) -> Duration {
        let longest = self.members.values().map(|m| m.rebalance_ms).max();
        millis(longest.unwrap_or(0))
    }

    pub fn is_leader(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    /// Whether these protocols go with those of the members.
    pub fn fits(&self, protocol_type: &str, protocols: &[(String, Blob)]) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.all_support(name))
    }

    fn all_support(&self, protocol: &str) -> bool {
        self.members.values().all(|m| m.supports(protocol))
    }

    /// The protocol that all members know and most of them like best; of those with as many votes
    /// the one that the leader likes best.
    pub fn choose_protocol(&self) -> Option<String> {
        let leader = self.leader.as_deref().and_then(|id| self.members.get(id));
        let first = leader.or_else(|| self.members.values().next())?;
        let names = first.protocols.iter().map(|p| p.0.as_str());
        let candidates: Vec<&str> = names.filter(|name| self.all_support(name)).collect();
        let mut votes = vec![0u32; candidates.len()];
        for member in self.members.values() {
            let mut liked = member.protocols.iter();
            let vote = liked.find_map(|(name, _)| candidates.iter().position(|c| c == name));
            if let Some(at) = vote {
                votes[at] += 1;
            }
        }
        let best = votes.iter().max()?;
        let at = votes.iter().position(|v| v == best)?;
        Some(candidates[at].to_owned())
    }

    /// The answer to a member that is in the generation.
    pub fn joined(&self, id: &str) -> Joined {
        let protocol = self.protocol.clone().unwrap_or_default();
        let members = match self.is_leader(id) {
            true => {
                let all = self.members.values();
                all.map(|m| (m.who(), m.metadata(&protocol))).collect()
            }
            false => Vec::new(),
        };
        Joined {
            error: None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            id: id.to_owned(),
            members,
        }
    }

    /// The answer to a member that asks for its part.
    pub fn synced(&self, id: &str) -> Reply {
        let member = self.members.get(id);
        Reply::Sync(Synced {
            error: ErrorCode::None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: member.map_or_else(Blob::default, |m| m.assignment.clone()),
        })
    }

    /// The topics that the members subscribe to, if they are consumers that say so in the way
    /// that Kafka's do.
    pub fn subscribed(&self) -> Option<BTreeSet<String>> {
        if let Some(modern) = &self.modern {
            return Some(modern.topics().into_iter().map(str::to_owned).collect());
        }
        if self.protocol_type.as_deref() != Some("consumer") {
            return None;
        }
        let mut topics = BTreeSet::new();
        if self.members.is_empty() {
            return Some(topics);
        }
        let protocol = self.protocol.as_deref()?;
        for member in self.members.values() {
            topics.extend(subscription(&member.metadata(protocol))?);
        }
        Some(topics)
    }
}

/// The topics in a consumer's metadata: version, then an array of names; every version begins so.
fn subscription(metadata: &[u8]) -> Option<Vec<String>> {
    let (_version, rest) = metadata.split_first_chunk::<2>()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut topics = Vec::new();
    for _ in 0..u32::try_from(i32::from_be_bytes(*count)).ok()? {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let name = tail.get(..length)?;
        topics.push(std::str::from_utf8(name).ok()?.to_owned());
        rest = &tail[length..];
    }
    Some(topics)
}

/// A client's number of milliseconds.
pub(super) fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// Answers a join with an error.
pub(super) fn refuse_join(ctx: &mut Context, token: Option<Token>, id: &str, code: ErrorCode) {
    if let Some(token) = token {
        let joined = Joined {
            error: Some(code),
            generation: -1,
            id: id.to_owned(),
            ..Joined::default()
        };
        ctx.reply(token, Reply::Join(Box::new(joined)));
    }
}

/// Answers a sync with an error.
pub(super) fn refuse_sync(ctx: &mut Context, token: Option<Token>, code: ErrorCode) {
    if let Some(token) = token {
        ctx.reply(token, Reply::Code(code));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_read_and_nonsense_is_not() {
        let bytes = [0, 3, 0, 0, 0, 2, 0, 1, b'a', 0, 2, b'b', b'c', 9, 9];
        assert_eq!(subscription(&bytes), Some(vec!["a".into(), "bc".into()]));
        for end in 0..13 {
            assert_eq!(subscription(&bytes[..end]), None, "{end}");
        }
        assert_eq!(subscription(&[0, 0, 255, 255, 255, 255]), None);
    }
}
