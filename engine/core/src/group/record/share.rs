//! The records of share groups (KIP-932) in `__consumer_offsets`, in Kafka's own formats.
//!
//! Keys 10 to 15. All values are flexible; version 0 is the only one. They are those of the
//! `consumer` protocol with less in them; and the topics of which the group has share-partitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use streamd_model::TopicId;

use super::consumer::{GroupEpoch, Parts, count, get_epoch, get_parts, put_parts};
use crate::codec::Damaged;
use crate::kafka_codec::{In, Out};

/// One change of a share group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareChange {
    /// What a member says of itself; none: it is gone.
    Member(Arc<str>, Option<Arc<Worker>>),
    /// The group's epoch; none: the group is gone.
    Epoch(Option<GroupEpoch>),
    /// The epoch of the target assignment, and when it was made, wall time in ms.
    TargetEpoch(Option<(i32, i64)>),
    /// What a member shall read.
    Target(Arc<str>, Option<Arc<Parts>>),
    /// What a member reads.
    Current(Arc<str>, Option<Reads>),
    /// The topics of which the group has share-partitions.
    Topics(Option<ShareTopics>),
}

/// Topics with their names and partitions.
pub type ShareTopics = BTreeMap<TopicId, (Arc<str>, Vec<i32>)>;

/// What a member of a share group says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worker {
    /// Its rack.
    pub rack: Option<String>,
    /// `client.id`.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
    /// The topics that it names, in order.
    pub topics: Vec<String>,
}

/// What a member of a share group reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// The member's epoch.
    pub epoch: i32,
    /// The epoch before: the answer that told of the new one may be lost.
    pub previous: i32,
    /// What it reads.
    pub assigned: Parts,
}

impl ShareChange {
    fn kind(&self) -> (i16, Option<&str>) {
        match self {
            ShareChange::Member(id, _) => (10, Some(id)),
            ShareChange::Epoch(_) => (11, None),
            ShareChange::TargetEpoch(_) => (12, None),
            ShareChange::Target(id, _) => (13, Some(id)),
            ShareChange::Current(id, _) => (14, Some(id)),
            ShareChange::Topics(_) => (15, None),
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

    /// The value of its record; `None` for a tombstone.
    pub(crate) fn value(&self) -> Option<Vec<u8>> {
        let mut out = Out::default();
        out.i16(0);
        match self {
            ShareChange::Member(_, value) => {
                let w = value.as_ref()?;
                out.compact(w.rack.as_deref());
                out.compact(Some(&w.client_id));
                out.compact(Some(&w.client_host));
                out.uvarint(w.topics.len() + 1);
                w.topics.iter().for_each(|t| out.compact(Some(t)));
            }
            ShareChange::Epoch(value) => {
                let value = value.as_ref()?;
                out.i32(value.epoch);
                out.i64(value.hash);
            }
            ShareChange::TargetEpoch(value) => {
                let (epoch, at_ms) = (*value)?;
                out.i32(epoch);
                // One tagged field: tag 0, 8 bytes.
                out.raw(&[1, 0, 8]);
                out.i64(at_ms);
                return Some(out.0);
            }
            ShareChange::Target(_, value) => put_parts(&mut out, value.as_ref()?),
            ShareChange::Current(_, value) => {
                let reads = value.as_ref()?;
                out.i32(reads.epoch);
                out.i32(reads.previous);
                out.raw(&[0]);
                put_parts(&mut out, &reads.assigned);
            }
            ShareChange::Topics(value) => put_topics(&mut out, value.as_ref()?),
        }
        out.uvarint(0);
        Some(out.0)
    }

    pub(super) fn decode(
        kind: i16,
        k: &mut In<'_>,
        value: Option<&[u8]>,
    ) -> Result<Option<ShareChange>, Damaged> {
        let mut value = value.map(In);
        if let Some(r) = &mut value
            && r.i16("the version of a share group's record")? != 0
        {
            return Err(r.damaged("a share group's record of an unknown version"));
        }
        let r = value.as_mut();
        Ok(Some(match kind {
            10 => {
                let id = k.str("a member id")?.into();
                ShareChange::Member(
                    id,
                    r.map(|r| whole(r, get_worker)).transpose()?.map(Arc::new),
                )
            }
            11 => ShareChange::Epoch(r.map(|r| whole(r, get_hashed_epoch)).transpose()?),
            12 => {
                // The time has the tag and the width that the hash has elsewhere.
                let epoch = r.map(get_epoch).transpose()?;
                ShareChange::TargetEpoch(epoch.map(|e| (e.epoch, e.hash)))
            }
            13 => {
                let id = k.str("a member id")?.into();
                ShareChange::Target(
                    id,
                    r.map(|r| whole(r, get_parts)).transpose()?.map(Arc::new),
                )
            }
            14 => {
                let id = k.str("a member id")?.into();
                ShareChange::Current(id, r.map(|r| whole(r, get_reads)).transpose()?)
            }
            15 => ShareChange::Topics(r.map(|r| whole(r, get_topics)).transpose()?),
            _ => return Ok(None),
        }))
    }
}

/// Reads a value to its end, with tagged fields that mean nothing here.
fn whole<T>(
    r: &mut In<'_>,
    get: impl FnOnce(&mut In<'_>) -> Result<T, Damaged>,
) -> Result<T, Damaged> {
    let value = get(r)?;
    r.tags(&mut |_, _| {})?;
    Ok(value)
}

fn get_hashed_epoch(r: &mut In<'_>) -> Result<GroupEpoch, Damaged> {
    Ok(GroupEpoch {
        epoch: r.i32("a group's epoch")?,
        hash: r.i64("a hash of topics")?,
    })
}

fn get_worker(r: &mut In<'_>) -> Result<Worker, Damaged> {
    let mut worker = Worker {
        rack: r.optional(true, "a rack")?.map(str::to_owned),
        client_id: r.text(true, "a client id")?.to_owned(),
        client_host: r.text(true, "a client's host")?.to_owned(),
        topics: Vec::new(),
    };
    for _ in 0..count(r, "a number of topics")? {
        worker
            .topics
            .push(r.text(true, "a topic's name")?.to_owned());
    }
    Ok(worker)
}

fn get_reads(r: &mut In<'_>) -> Result<Reads, Damaged> {
    let (epoch, previous) = (r.i32("a member's epoch")?, r.i32("a member's epoch")?);
    let [_] = r.array("a member's state")?;
    Ok(Reads {
        epoch,
        previous,
        assigned: get_parts(r)?,
    })
}

/// All are initialized here: nothing has to be asked of another broker first.
fn put_topics(out: &mut Out, topics: &ShareTopics) {
    out.uvarint(1);
    out.uvarint(topics.len() + 1);
    for (id, (name, partitions)) in topics {
        out.raw(&id.0);
        out.compact(Some(name));
        out.uvarint(partitions.len() + 1);
        partitions.iter().for_each(|p| out.i32(*p));
        out.uvarint(0);
    }
    out.uvarint(1);
}

fn get_topics(r: &mut In<'_>) -> Result<ShareTopics, Damaged> {
    let mut topics = ShareTopics::new();
    // What Kafka was about to initialize is so here.
    for _ in 0..2 {
        for _ in 0..count(r, "a number of topics")? {
            let id = TopicId(r.array("a topic's id")?);
            let name = r.text(true, "a topic's name")?.into();
            let mut partitions = Vec::new();
            for _ in 0..count(r, "a number of partitions")? {
                partitions.push(r.i32("a partition")?);
            }
            r.tags(&mut |_, _| {})?;
            let topic = topics.entry(id).or_insert((name, Vec::new()));
            topic.1.extend(partitions);
        }
    }
    for _ in 0..count(r, "a number of topics")? {
        let id = TopicId(r.array("a topic's id")?);
        r.text(true, "a topic's name")?;
        r.tags(&mut |_, _| {})?;
        topics.remove(&id);
    }
    Ok(topics)
}
