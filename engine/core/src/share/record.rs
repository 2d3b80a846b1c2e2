//! The records of `__share_group_state`, in Kafka's own formats, so that Kafka's tools read them.
//!
//! A key begins with its kind: 0 a snapshot, 1 an update. A snapshot is the whole state of a
//! share-partition; an update is laid over what was before it. Values are flexible, version 0.
//! Invariant: decoding never panics and reserves no more than the bytes can bear out.

use std::sync::Arc;

use streamd_model::{Offset, TopicId};

use crate::codec::Damaged;
use crate::kafka_codec::{In, Out};
use crate::machine::Record;

/// A partition as one share group has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The group.
    pub group: Arc<str>,
    /// The topic.
    pub topic: TopicId,
    /// The partition's index.
    pub partition: i32,
}

/// What is on record of an offset's delivery, with Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is to be delivered, once more if it was before.
    Available = 0,
    /// A member accepted it.
    Acknowledged = 2,
    /// It is given up.
    Archived = 4,
}

/// Offsets that are in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateBatch {
    /// The first of them.
    pub first: Offset,
    /// The last of them; first <= last.
    pub last: Offset,
    /// Their state.
    pub state: Delivery,
    /// How often they were delivered.
    pub count: i16,
}

/// What both kinds of records say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateValue {
    /// It rises with each snapshot.
    pub snapshot_epoch: i32,
    /// The epoch of the partition's leader.
    pub leader_epoch: i32,
    /// The first offset that is not done with; -1 in an update that does not move it.
    pub start: Offset,
    /// How many offsets from there on are done with; -1: not known.
    pub complete: i32,
    /// States of offsets, ascending.
    pub batches: Vec<StateBatch>,
}

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// It rises when an operator sets the start anew, which voids all before.
    pub state_epoch: i32,
    /// When the state came into being, wall time in ms.
    pub created_ms: i64,
    /// When this was written, wall time in ms.
    pub written_ms: i64,
    /// The state.
    pub value: StateValue,
}

/// One change of the durable state of a share-partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareRecord {
    /// The whole state; none: the share-partition is gone.
    Snapshot(Key, Option<Snapshot>),
    /// What has changed.
    Update(Key, Option<StateValue>),
}

impl ShareRecord {
    /// The share-partition that it is about.
    pub fn of(&self) -> &Key {
        match self {
            ShareRecord::Snapshot(key, _) | ShareRecord::Update(key, _) => key,
        }
    }
}

impl Record for ShareRecord {
    fn key(&self) -> Vec<u8> {
        let mut out = Out::default();
        out.i16(match self {
            ShareRecord::Snapshot(..) => 0,
            ShareRecord::Update(..) => 1,
        });
        let key = self.of();
        out.str(&key.group);
        out.raw(&key.topic.0);
        out.i32(key.partition);
        out.0
    }

    fn value(&self) -> Option<Vec<u8>> {
        let mut out = Out::default();
        out.i16(0);
        match self {
            ShareRecord::Snapshot(_, snapshot) => {
                let s = snapshot.as_ref()?;
                out.i32(s.value.snapshot_epoch);
                out.i32(s.state_epoch);
                out.i32(s.value.leader_epoch);
                out.i64(s.value.start);
                out.i64(s.created_ms);
                out.i64(s.written_ms);
                put_rest(&mut out, &s.value);
            }
            ShareRecord::Update(_, value) => {
                let v = value.as_ref()?;
                out.i32(v.snapshot_epoch);
                out.i32(v.leader_epoch);
                out.i64(v.start);
                put_rest(&mut out, v);
            }
        }
        Some(out.0)
    }

    fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<ShareRecord>, Damaged> {
        let mut k = In(key);
        let kind = k.i16("the kind of a share record")?;
        if !(0..=1).contains(&kind) {
            return Ok(None);
        }
        let key = Key {
            group: k.str("a group id")?.into(),
            topic: TopicId(k.array("a topic's id")?),
            partition: k.i32("a partition")?,
        };
        let Some(value) = value else {
            return Ok(Some(match kind {
                0 => ShareRecord::Snapshot(key, None),
                _ => ShareRecord::Update(key, None),
            }));
        };
        let mut r = In(value);
        if r.i16("the version of a share record")? != 0 {
            return Err(r.damaged("a share record of an unknown version"));
        }
        Ok(Some(match kind {
            0 => ShareRecord::Snapshot(key, Some(get_snapshot(&mut r)?)),
            _ => ShareRecord::Update(key, Some(get_update(&mut r)?)),
        }))
    }
}

fn put_rest(out: &mut Out, v: &StateValue) {
    out.uvarint(v.batches.len() + 1);
    for b in &v.batches {
        out.i64(b.first);
        out.i64(b.last);
        out.raw(&[b.state as u8]);
        out.i16(b.count);
        out.uvarint(0);
    }
    if v.complete < 0 {
        return out.uvarint(0);
    }
    // One tagged field: tag 0, 4 bytes.
    out.raw(&[1, 0, 4]);
    out.i32(v.complete);
}

fn get_rest(r: &mut In<'_>, value: &mut StateValue) -> Result<(), Damaged> {
    // A batch takes 20 bytes.
    let count = r.uvarint("a number of batches")?.saturating_sub(1);
    if count > r.0.len() / 20 {
        return Err(r.damaged("a number of batches"));
    }
    for _ in 0..count {
        let (first, last) = (r.i64("a first offset")?, r.i64("a last offset")?);
        let [state] = r.array("a delivery state")?;
        let state = match state {
            0 => Delivery::Available,
            2 => Delivery::Acknowledged,
            4 => Delivery::Archived,
            _ => return Err(r.damaged("a delivery state")),
        };
        let count = r.i16("a delivery count")?;
        r.tags(&mut |_, _| {})?;
        if first < 0 || last < first {
            return Err(r.damaged("a batch of offsets"));
        }
        value.batches.push(StateBatch {
            first,
            last,
            state,
            count,
        });
    }
    value.complete = -1;
    r.tags(&mut |tag, bytes| {
        if tag == 0
            && let Ok(bytes) = bytes.try_into()
        {
            value.complete = i32::from_be_bytes(bytes);
        }
    })
}

fn get_snapshot(r: &mut In<'_>) -> Result<Snapshot, Damaged> {
    let mut s = Snapshot::default();
    s.value.snapshot_epoch = r.i32("a snapshot's epoch")?;
    s.state_epoch = r.i32("a state epoch")?;
    s.value.leader_epoch = r.i32("a leader epoch")?;
    s.value.start = r.i64("a start offset")?;
    s.created_ms = r.i64("a time")?;
    s.written_ms = r.i64("a time")?;
    get_rest(r, &mut s.value)?;
    Ok(s)
}

fn get_update(r: &mut In<'_>) -> Result<StateValue, Damaged> {
    let mut v = StateValue {
        snapshot_epoch: r.i32("a snapshot's epoch")?,
        leader_epoch: r.i32("a leader epoch")?,
        start: r.i64("a start offset")?,
        ..StateValue::default()
    };
    get_rest(r, &mut v)?;
    Ok(v)
}
