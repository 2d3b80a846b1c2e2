//! The records of `__consumer_offsets`, in Kafka's own formats, so that Kafka's tools can read
//! the topic and a log of Kafka's can be replayed here.
//!
//! A key begins with its kind: 0 and 1 are a committed offset, 2 is a group; those of `consumer`
//! groups are in a file of their own. A value begins with the version of its layout; a null value
//! takes away what stood under the key. Written are, as Kafka 4.4 does: offsets in version 4 (1
//! if the client gave a retention), classic groups in version 3.
//! Invariant: decoding never panics and reserves no more than the bytes can bear out.

mod consumer;
mod share;

use std::sync::Arc;

use streamd_model::{Offset, TopicId};

use crate::codec::Damaged;
use crate::kafka_codec::{In, Out};
use crate::machine::Record;

pub use consumer::{
    ClassicSide, ConsumerChange, Current, GroupEpoch, Parts, Phase, Resolved, Subscription,
};
pub use share::{Reads, ShareChange, ShareTopics, Worker};

/// Bytes that are shared, not copied: a member's metadata or assignment.
pub type Blob = Arc<[u8]>;

/// One change of the durable state of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRecord {
    /// A committed offset, or that there is none any more.
    Offset {
        /// The group.
        group: Arc<str>,
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// What was committed.
        value: Option<Committed>,
    },
    /// A group and its members, or that it is gone.
    Group {
        /// The group.
        group: Arc<str>,
        /// What it is.
        value: Option<GroupValue>,
    },
    /// A change of a group of the `consumer` protocol.
    Consumer {
        /// The group.
        group: Arc<str>,
        /// What.
        change: ConsumerChange,
    },
    /// A change of a share group.
    Share {
        /// The group.
        group: Arc<str>,
        /// What.
        change: ShareChange,
    },
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The offset to read next.
    pub offset: Offset,
    /// The leader epoch of the last record that was read; -1: not known.
    pub leader_epoch: i32,
    /// What the client wrote beside it.
    pub metadata: Arc<str>,
    /// When it was committed, wall time in ms.
    pub commit_ms: i64,
    /// When it goes, wall time in ms, if the client said so.
    pub expire_ms: Option<i64>,
    /// The topic's id; zero: not known.
    pub topic_id: TopicId,
}

/// A classic group as of its last completed rebalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupValue {
    /// What kind of clients: `consumer`, `connect`, ...
    pub protocol_type: String,
    /// The generation.
    pub generation: i32,
    /// The assignor that was chosen; none when there are no members.
    pub protocol: Option<String>,
    /// The member that assigns.
    pub leader: Option<String>,
    /// When the state last changed, wall time in ms; -1: not known.
    pub state_ms: i64,
    /// The members.
    pub members: Vec<MemberValue>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    /// Its id.
    pub id: String,
    /// `group.instance.id`, for a static member.
    pub instance: Option<String>,
    /// `client.id`.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
    /// How long a rebalance waits for it, ms.
    pub rebalance_ms: i32,
    /// How long it may be silent, ms.
    pub session_ms: i32,
    /// What it told the leader.
    pub subscription: Blob,
    /// What the leader gave it.
    pub assignment: Blob,
}

impl GroupRecord {
    /// The group that it is about.
    pub fn group(&self) -> &Arc<str> {
        match self {
            GroupRecord::Offset { group, .. }
            | GroupRecord::Group { group, .. }
            | GroupRecord::Consumer { group, .. }
            | GroupRecord::Share { group, .. } => group,
        }
    }
}

impl Record for GroupRecord {
    fn key(&self) -> Vec<u8> {
        let mut out = Out::default();
        match self {
            GroupRecord::Offset {
                group,
                topic,
                partition,
                ..
            } => {
                out.i16(1);
                out.str(group);
                out.str(topic);
                out.i32(*partition);
            }
            GroupRecord::Group { group, .. } => {
                out.i16(2);
                out.str(group);
            }
            GroupRecord::Consumer { group, change } => return change.key(group),
            GroupRecord::Share { group, change } => return change.key(group),
        }
        out.0
    }

    fn value(&self) -> Option<Vec<u8>> {
        match self {
            GroupRecord::Offset { value, .. } => value.as_ref().map(put_offset),
            GroupRecord::Group { value, .. } => value.as_ref().map(put_group),
            GroupRecord::Consumer { change, .. } => change.value(),
            GroupRecord::Share { change, .. } => change.value(),
        }
    }

    fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<GroupRecord>, Damaged> {
        let mut k = In(key);
        match k.i16("the kind of a group record")? {
            0 | 1 => {
                let group = k.str("a group id")?.into();
                let topic = k.str("a topic's name")?.into();
                let partition = k.i32("a partition")?;
                let value = value.map(get_offset).transpose()?;
                Ok(Some(GroupRecord::Offset {
                    group,
                    topic,
                    partition,
                    value,
                }))
            }
            2 => {
                let group = k.str("a group id")?.into();
                let value = value.map(get_group).transpose()?;
                Ok(Some(GroupRecord::Group { group, value }))
            }
            kind @ (3..=8 | 16) => {
                let group: Arc<str> = k.str("a group id")?.into();
                let change = ConsumerChange::decode(kind, &mut k, value)?;
                Ok(change.map(|change| GroupRecord::Consumer { group, change }))
            }
            kind @ 10..=15 => {
                let group: Arc<str> = k.str("a group id")?.into();
                let change = ShareChange::decode(kind, &mut k, value)?;
                Ok(change.map(|change| GroupRecord::Share { group, change }))
            }
            _ => Ok(None),
        }
    }
}

fn put_offset(c: &Committed) -> Vec<u8> {
    let mut out = Out::default();
    if let Some(expire_ms) = c.expire_ms {
        out.i16(1);
        out.i64(c.offset);
        out.str(&c.metadata);
        out.i64(c.commit_ms);
        out.i64(expire_ms);
        return out.0;
    }
    out.i16(4);
    out.i64(c.offset);
    out.i32(c.leader_epoch);
    out.uvarint(c.metadata.len() + 1);
    out.raw(c.metadata.as_bytes());
    out.i64(c.commit_ms);
    if c.topic_id == TopicId::ZERO {
        out.uvarint(0);
    } else {
        // One tagged field: tag 0, 16 bytes.
        out.raw(&[1, 0, 16]);
        out.raw(&c.topic_id.0);
    }
    out.0
}

fn get_offset(bytes: &[u8]) -> Result<Committed, Damaged> {
    let mut r = In(bytes);
    let version = r.i16("the version of a committed offset")?;
    let flexible = version >= 4;
    if !(0..=4).contains(&version) {
        return Err(r.damaged("a committed offset of an unknown version"));
    }
    let offset = r.i64("a committed offset")?;
    let leader_epoch = match version >= 3 {
        true => r.i32("a leader epoch")?,
        false => -1,
    };
    let metadata = r.text(flexible, "a commit's metadata")?.into();
    let commit_ms = r.i64("a commit's time")?;
    let expire_ms = match version == 1 {
        true => Some(r.i64("a commit's end")?).filter(|ms| *ms >= 0),
        false => None,
    };
    let mut topic_id = TopicId::ZERO;
    if flexible {
        r.tags(&mut |tag, bytes| {
            if tag == 0
                && let Ok(id) = bytes.try_into()
            {
                topic_id = TopicId(id);
            }
        })?;
    }
    Ok(Committed {
        offset,
        leader_epoch,
        metadata,
        commit_ms,
        expire_ms,
        topic_id,
    })
}

fn put_group(g: &GroupValue) -> Vec<u8> {
    let mut out = Out::default();
    out.i16(3);
    out.str(&g.protocol_type);
    out.i32(g.generation);
    out.nullable(g.protocol.as_deref());
    out.nullable(g.leader.as_deref());
    out.i64(g.state_ms);
    out.i32(g.members.len() as i32);
    for m in &g.members {
        out.str(&m.id);
        out.nullable(m.instance.as_deref());
        out.str(&m.client_id);
        out.str(&m.client_host);
        out.i32(m.rebalance_ms);
        out.i32(m.session_ms);
        out.bytes(&m.subscription);
        out.bytes(&m.assignment);
    }
    out.0
}

fn get_group(bytes: &[u8]) -> Result<GroupValue, Damaged> {
    let mut r = In(bytes);
    let version = r.i16("the version of a group")?;
    let flexible = version >= 4;
    if !(0..=4).contains(&version) {
        return Err(r.damaged("a group of an unknown version"));
    }
    let mut value = GroupValue {
        protocol_type: r.text(flexible, "a protocol type")?.to_owned(),
        generation: r.i32("a generation")?,
        protocol: r.optional(flexible, "a protocol")?.map(str::to_owned),
        leader: r.optional(flexible, "a leader")?.map(str::to_owned),
        state_ms: match version >= 2 {
            true => r.i64("a group's time")?,
            false => -1,
        },
        members: Vec::new(),
    };
    let count = match flexible {
        true => r.uvarint("a number of members")?.checked_sub(1),
        false => usize::try_from(r.i32("a number of members")?).ok(),
    };
    for _ in 0..count.ok_or(r.damaged("a number of members"))? {
        value.members.push(get_member(&mut r, version)?);
    }
    Ok(value)
}

fn get_member(r: &mut In<'_>, version: i16) -> Result<MemberValue, Damaged> {
    let flexible = version >= 4;
    let id = r.text(flexible, "a member id")?.to_owned();
    let instance = match version >= 3 {
        true => r.optional(flexible, "an instance id")?.map(str::to_owned),
        false => None,
    };
    let client_id = r.text(flexible, "a client id")?.to_owned();
    let client_host = r.text(flexible, "a client's host")?.to_owned();
    let rebalance_ms = match version >= 1 {
        true => r.i32("a rebalance timeout")?,
        false => -1,
    };
    let member = MemberValue {
        id,
        instance,
        client_id,
        client_host,
        rebalance_ms,
        session_ms: r.i32("a session timeout")?,
        subscription: r.blob(flexible, "a subscription")?.into(),
        assignment: r.blob(flexible, "an assignment")?.into(),
    };
    if flexible {
        r.tags(&mut |_, _| {})?;
    }
    Ok(member)
}
