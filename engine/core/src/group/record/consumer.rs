//! The records of groups of the `consumer` protocol (KIP-848), in Kafka's own formats.
//!
//! Keys 3 to 8 and 16. All values are flexible; version 0 is the only one. A group's state is the
//! fold of these: the group's epoch, each member's subscription, what each member shall have
//! (the target), and what each member has now.

use std::collections::BTreeSet;
use std::sync::Arc;

use streamd_model::TopicId;

use super::Blob;
use crate::codec::Damaged;
use crate::kafka_codec::{In, Out};

/// Partitions of topics.
pub type Parts = BTreeSet<(TopicId, i32)>;

/// One change of a group of the `consumer` protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerChange {
    /// The group's epoch; none: the group is gone.
    Epoch(Option<GroupEpoch>),
    /// What a member says of itself; none: it is gone.
    Member(Arc<str>, Option<Arc<Subscription>>),
    /// The epoch of the target assignment.
    TargetEpoch(Option<i32>),
    /// What a member shall have.
    Target(Arc<str>, Option<Arc<Parts>>),
    /// What a member has.
    Current(Arc<str>, Option<Current>),
    /// The topics that match a regular expression.
    Regex(Arc<str>, Option<Resolved>),
    /// What groups of Kafka before 4.1 kept of their topics: it means nothing any more.
    Topics,
}

/// The epoch of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupEpoch {
    /// It rises whenever the members, their subscriptions or the topics change.
    pub epoch: i32,
    /// A hash of the topics that the members subscribe to, as they were at this epoch.
    pub hash: i64,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// `group.instance.id`, for a static member.
    pub instance: Option<String>,
    /// Its rack.
    pub rack: Option<String>,
    /// `client.id`.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
    /// The topics that it names, in order.
    pub topics: Vec<String>,
    /// The regular expression that names more.
    pub regex: Option<String>,
    /// How long it may take to give partitions back, ms.
    pub rebalance_ms: i32,
    /// The assignor that it wants.
    pub assignor: Option<String>,
    /// For a member that speaks the classic protocol.
    pub classic: Option<ClassicSide>,
}

/// What is kept of a member that speaks the classic protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassicSide {
    /// How long it may be silent, ms.
    pub session_ms: i32,
    /// Its assignors with their metadata, the best liked first.
    pub protocols: Vec<(String, Blob)>,
}

/// How far a member is on the way to its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It has what it shall have, as far as it knows.
    #[default]
    Stable,
    /// It is to give partitions back.
    Unrevoked,
    /// It waits for partitions that others still have.
    Unreleased,
}

/// What a member has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Current {
    /// The member's epoch; -2: a static member that is away for a while.
    pub epoch: i32,
    /// The epoch before: the answer that told of the new one may be lost.
    pub previous: i32,
    /// How far it is.
    pub phase: Phase,
    /// What it may read.
    pub assigned: Parts,
    /// What it has to give back.
    pub revoking: Parts,
}

/// The topics that match a regular expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Their names, in order.
    pub topics: Vec<String>,
    /// The version of the metadata.
    pub version: i64,
    /// When, wall time in ms.
    pub at_ms: i64,
}

impl Phase {
    fn code(self) -> i8 {
        match self {
            Phase::Stable => 0,
            Phase::Unrevoked => 1,
            Phase::Unreleased => 2,
        }
    }
}

impl ConsumerChange {
    /// The kind of the key, and what is behind the group's name in it.
    fn kind(&self) -> (i16, Option<&str>) {
        match self {
            ConsumerChange::Epoch(_) => (3, None),
            ConsumerChange::Topics => (4, None),
            ConsumerChange::Member(id, _) => (5, Some(id)),
            ConsumerChange::TargetEpoch(_) => (6, None),
            ConsumerChange::Target(id, _) => (7, Some(id)),
            ConsumerChange::Current(id, _) => (8, Some(id)),
            ConsumerChange::Regex(regex, _) => (16, Some(regex)),
        }
    }

    pub(super) fn key(&self, group: &str) -> Vec<u8> {
        let mut out = Out::default();
        let (kind, rest) = self.kind();
        out.i16(kind);
        out.str(group);
        if let Some(rest) = rest {
            out.str(rest);
        }
        out.0
    }

    pub(super) fn value(&self) -> Option<Vec<u8>> {
        let mut out = Out::default();
        out.i16(0);
        match self {
            ConsumerChange::Topics => return None,
            ConsumerChange::Epoch(value) => {
                let value = value.as_ref()?;
                out.i32(value.epoch);
                // One tagged field: tag 0, 8 bytes.
                out.raw(&[1, 0, 8]);
                out.i64(value.hash);
            }
            ConsumerChange::Member(_, value) => put_subscription(&mut out, value.as_ref()?),
            ConsumerChange::TargetEpoch(value) => {
                out.i32((*value)?);
                out.uvarint(0);
            }
            ConsumerChange::Target(_, value) => {
                put_parts(&mut out, value.as_ref()?);
                out.uvarint(0);
            }
            ConsumerChange::Current(_, value) => {
                let value = value.as_ref()?;
                out.i32(value.epoch);
                out.i32(value.previous);
                out.raw(&value.phase.code().to_be_bytes());
                put_parts(&mut out, &value.assigned);
                put_parts(&mut out, &value.revoking);
                out.uvarint(0);
            }
            ConsumerChange::Regex(_, value) => {
                let value = value.as_ref()?;
                out.uvarint(value.topics.len() + 1);
                value.topics.iter().for_each(|t| out.compact(Some(t)));
                out.i64(value.version);
                out.i64(value.at_ms);
                out.uvarint(0);
            }
        }
        Some(out.0)
    }

    /// Reads the change of a record whose key has this kind. `k` is behind the group's name.
    pub(super) fn decode(
        kind: i16,
        k: &mut In<'_>,
        value: Option<&[u8]>,
    ) -> Result<Option<ConsumerChange>, Damaged> {
        let mut r = value.map(In);
        if let Some(r) = &mut r {
            let version = r.i16("the version of a consumer group's record")?;
            if version != 0 {
                return Err(r.damaged("a consumer group's record of an unknown version"));
            }
        }
        let r = r.as_mut();
        Ok(Some(match kind {
            3 => ConsumerChange::Epoch(r.map(get_epoch).transpose()?),
            4 => ConsumerChange::Topics,
            5 => {
                let id = k.str("a member id")?.into();
                ConsumerChange::Member(id, r.map(get_subscription).transpose()?.map(Arc::new))
            }
            6 => {
                let get = |r: &mut In<'_>| r.i32("the epoch of a target assignment");
                ConsumerChange::TargetEpoch(r.map(get).transpose()?)
            }
            7 => {
                let id = k.str("a member id")?.into();
                ConsumerChange::Target(id, r.map(get_parts).transpose()?.map(Arc::new))
            }
            8 => {
                let id = k.str("a member id")?.into();
                ConsumerChange::Current(id, r.map(get_current).transpose()?)
            }
            16 => {
                let regex = k.str("a regular expression")?.into();
                ConsumerChange::Regex(regex, r.map(get_resolved).transpose()?)
            }
            _ => return Ok(None),
        }))
    }
}

impl Out {
    /// A string behind its length plus one; 0 for none.
    pub(super) fn compact(&mut self, s: Option<&str>) {
        self.uvarint(s.map_or(0, |s| s.len() + 1));
        self.raw(s.unwrap_or_default().as_bytes());
    }
}

fn put_subscription(out: &mut Out, s: &Subscription) {
    out.compact(s.instance.as_deref());
    out.compact(s.rack.as_deref());
    out.compact(Some(&s.client_id));
    out.compact(Some(&s.client_host));
    out.uvarint(s.topics.len() + 1);
    s.topics.iter().for_each(|t| out.compact(Some(t)));
    out.compact(s.regex.as_deref());
    out.i32(s.rebalance_ms);
    out.compact(s.assignor.as_deref());
    let Some(classic) = &s.classic else {
        return out.uvarint(0);
    };
    let mut tagged = Out::default();
    // A nullable structure begins with whether it is there.
    tagged.raw(&[1]);
    tagged.i32(classic.session_ms);
    tagged.uvarint(classic.protocols.len() + 1);
    for (name, metadata) in &classic.protocols {
        tagged.compact(Some(name));
        tagged.uvarint(metadata.len() + 1);
        tagged.raw(metadata);
        tagged.uvarint(0);
    }
    tagged.uvarint(0);
    out.raw(&[1, 0]);
    out.uvarint(tagged.0.len());
    out.raw(&tagged.0);
}

fn get_subscription(r: &mut In<'_>) -> Result<Subscription, Damaged> {
    let text = |s: Option<&str>| s.map(str::to_owned);
    let mut s = Subscription {
        instance: text(r.optional(true, "an instance id")?),
        rack: text(r.optional(true, "a rack")?),
        client_id: r.text(true, "a client id")?.to_owned(),
        client_host: r.text(true, "a client's host")?.to_owned(),
        ..Subscription::default()
    };
    for _ in 0..count(r, "a number of topics")? {
        s.topics.push(r.text(true, "a topic's name")?.to_owned());
    }
    s.regex = text(r.optional(true, "a regular expression")?);
    s.rebalance_ms = r.i32("a rebalance timeout")?;
    s.assignor = text(r.optional(true, "an assignor")?);
    let mut classic: Result<_, Damaged> = Ok(None);
    r.tags(&mut |tag, bytes| {
        if tag == 0 {
            classic = get_classic(&mut In(bytes));
        }
    })?;
    s.classic = classic?;
    Ok(s)
}

fn get_classic(r: &mut In<'_>) -> Result<Option<ClassicSide>, Damaged> {
    let [there] = r.array::<1>("a classic member")?;
    if there != 1 {
        return Ok(None);
    }
    let mut side = ClassicSide {
        session_ms: r.i32("a session timeout")?,
        protocols: Vec::new(),
    };
    for _ in 0..count(r, "a number of protocols")? {
        let name = r.text(true, "a protocol")?.to_owned();
        side.protocols
            .push((name, r.blob(true, "a subscription")?.into()));
        r.tags(&mut |_, _| {})?;
    }
    r.tags(&mut |_, _| {})?;
    Ok(Some(side))
}

pub(super) fn get_epoch(r: &mut In<'_>) -> Result<GroupEpoch, Damaged> {
    let epoch = r.i32("a group's epoch")?;
    let mut hash = 0;
    r.tags(&mut |tag, bytes| {
        if tag == 0
            && let Ok(bytes) = bytes.try_into()
        {
            hash = i64::from_be_bytes(bytes);
        }
    })?;
    Ok(GroupEpoch { epoch, hash })
}

fn get_current(r: &mut In<'_>) -> Result<Current, Damaged> {
    let (epoch, previous) = (r.i32("a member's epoch")?, r.i32("a member's epoch")?);
    let phase = match r.array::<1>("a member's state")? {
        [0] => Phase::Stable,
        [1] => Phase::Unrevoked,
        // What a later Kafka means is found out at the next heartbeat, as from here.
        _ => Phase::Unreleased,
    };
    Ok(Current {
        epoch,
        previous,
        phase,
        assigned: get_parts(r)?,
        revoking: get_parts(r)?,
    })
}

fn get_resolved(r: &mut In<'_>) -> Result<Resolved, Damaged> {
    let mut topics = Vec::new();
    for _ in 0..count(r, "a number of topics")? {
        topics.push(r.text(true, "a topic's name")?.to_owned());
    }
    Ok(Resolved {
        topics,
        version: r.i64("a version of the metadata")?,
        at_ms: r.i64("a time")?,
    })
}

pub(super) fn put_parts(out: &mut Out, parts: &Parts) {
    let topics: BTreeSet<TopicId> = parts.iter().map(|p| p.0).collect();
    out.uvarint(topics.len() + 1);
    for topic in topics {
        let of = || parts.range((topic, i32::MIN)..=(topic, i32::MAX));
        out.raw(&topic.0);
        out.uvarint(of().count() + 1);
        of().for_each(|(_, p)| out.i32(*p));
        out.uvarint(0);
    }
}

pub(super) fn get_parts(r: &mut In<'_>) -> Result<Parts, Damaged> {
    let mut parts = Parts::new();
    for _ in 0..count(r, "a number of topics")? {
        let topic = TopicId(r.array("a topic's id")?);
        for _ in 0..count(r, "a number of partitions")? {
            parts.insert((topic, r.i32("a partition")?));
        }
        r.tags(&mut |_, _| {})?;
    }
    Ok(parts)
}

/// A count of what follows; what is not there ends the reading by itself.
pub(super) fn count(r: &mut In<'_>, what: &'static str) -> Result<usize, Damaged> {
    let n = r.uvarint(what)?.saturating_sub(1);
    match n <= r.0.len() {
        true => Ok(n),
        false => Err(r.damaged(what)),
    }
}
