//! The bodies of what clients alone ask: appends, topics, offsets of groups.

use streamd_model::{Epoch, Offset, TopicId};

use super::Malformed;
use super::body::{Partition, partition, put_partition};
use super::list::{Bytes, Item, List};
use super::read::{In, put_str};

/// Record batches, one for each partition that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append<'a> {
    /// 0 for no answer, 1, or -1 for all in sync.
    pub acks: i16,
    /// The batches.
    pub batches: List<'a, Batch<'a>>,
}

/// A record batch and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Where to.
    pub partition: Partition,
    /// One batch (magic 2).
    pub records: &'a [u8],
}

impl<'a> Item<'a> for Batch<'a> {
    fn read(r: &mut Bytes<'a>) -> Result<Self, Malformed> {
        Ok(Batch {
            partition: partition(&mut r.0)?,
            records: {
                let len = r.0.u32("the length of a batch")? as usize;
                r.0.take(len, "a batch")?
            },
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_partition(out, self.partition);
        out.extend_from_slice(&(self.records.len() as u32).to_le_bytes());
        out.extend_from_slice(self.records);
    }
}

/// Where a batch is, or why it is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended<'a> {
    /// Kafka's code; 0: it is there.
    pub code: i16,
    /// The offset of the first record; -1 if it is not there.
    pub base: Offset,
    /// The leader epoch that it was written in; -1 if it was not.
    pub epoch: Epoch,
    /// What is wrong; empty if nothing is.
    pub text: &'a str,
}

impl<'a> Item<'a> for Appended<'a> {
    fn read(r: &mut Bytes<'a>) -> Result<Self, Malformed> {
        Ok(Appended {
            code: r.0.i16("the code of an append")?,
            base: r.0.i64("the offset of what was appended")?,
            epoch: r.0.i32("the epoch of what was appended")?,
            text: r.0.str("the text of an append")?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code.to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        put_str(out, self.text);
    }
}

/// A topic, as a client must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic<'a> {
    /// Its id.
    pub id: TopicId,
    /// Its partitions, from 0 up.
    pub partitions: List<'a, Leader>,
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node; -1: nobody.
    pub node: i32,
    /// The leader epoch.
    pub epoch: Epoch,
}

impl Item<'_> for Leader {
    fn read(r: &mut Bytes<'_>) -> Result<Self, Malformed> {
        Ok(Leader {
            node: r.0.i32("a leader")?,
            epoch: r.0.i32("a leader epoch")?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.node.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
    }
}

/// Whose node is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find<'a> {
    /// Of the leader of a partition.
    Leader(Partition),
    /// Of the coordinator of a group.
    Coordinator(&'a str),
}

/// Which node to ask, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The node.
    pub node: i32,
    /// The leader epoch of the partition, the group's own for a coordinator.
    pub epoch: Epoch,
    /// Where it listens for this protocol, `HOST:PORT`.
    pub address: &'a str,
}

pub(super) fn find<'a>(r: &mut In<'a>) -> Result<Find<'a>, Malformed> {
    match r.u8("what is to be found")? {
        0 => Ok(Find::Leader(partition(r)?)),
        1 => Ok(Find::Coordinator(r.str("a group")?)),
        _ => Err(Malformed::Body("what is to be found")),
    }
}

pub(super) fn put_find(out: &mut Vec<u8>, what: &Find<'_>) {
    match what {
        Find::Leader(partition) => {
            out.push(0);
            put_partition(out, *partition);
        }
        Find::Coordinator(group) => {
            out.push(1);
            put_str(out, group);
        }
    }
}

/// An id for a producer whose batches carry sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// An aborted transaction of which there are records in what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Its producer.
    pub producer: i64,
    /// The offset of its first record.
    pub first: Offset,
}

impl Item<'_> for Aborted {
    fn read(r: &mut Bytes<'_>) -> Result<Self, Malformed> {
        Ok(Aborted {
            producer: r.0.i64("a producer")?,
            first: r.0.i64("the start of a transaction")?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.producer.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
    }
}

/// Of a group: offsets that it has read up to, or partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfGroup<'a, T> {
    /// The group.
    pub group: &'a str,
    /// What of it.
    pub items: List<'a, T>,
}

/// An offset to be kept for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToCommit<'a> {
    /// Of which partition; its epoch is that of the last record that was read, -1 if not known.
    pub partition: Partition,
    /// The offset to read next.
    pub offset: Offset,
    /// What the client wants to keep beside it.
    pub metadata: &'a str,
}

impl<'a> Item<'a> for ToCommit<'a> {
    fn read(r: &mut Bytes<'a>) -> Result<Self, Malformed> {
        Ok(ToCommit {
            partition: partition(&mut r.0)?,
            offset: r.0.i64("an offset")?,
            metadata: r.0.str("what is beside an offset")?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_partition(out, self.partition);
        out.extend_from_slice(&self.offset.to_le_bytes());
        put_str(out, self.metadata);
    }
}

impl Item<'_> for Partition {
    fn read(r: &mut Bytes<'_>) -> Result<Self, Malformed> {
        partition(&mut r.0)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_partition(out, *self);
    }
}

/// Whether an offset is kept now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Kafka's code; 0: it is.
    pub code: i16,
}

impl Item<'_> for Kept {
    fn read(r: &mut Bytes<'_>) -> Result<Self, Malformed> {
        let code = r.0.i16("the code of a commit")?;
        Ok(Kept { code })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code.to_le_bytes());
    }
}

/// Where a group is in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<'a> {
    /// Kafka's code.
    pub code: i16,
    /// The offset to read next; -1 if there is none.
    pub offset: Offset,
    /// The epoch of the last record that was read; -1 if not known.
    pub epoch: Epoch,
    /// What is kept beside it.
    pub metadata: &'a str,
}

impl<'a> Item<'a> for Committed<'a> {
    fn read(r: &mut Bytes<'a>) -> Result<Self, Malformed> {
        Ok(Committed {
            code: r.0.i16("the code of an offset")?,
            offset: r.0.i64("an offset")?,
            epoch: r.0.i32("an epoch")?,
            metadata: r.0.str("what is beside an offset")?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        put_str(out, self.metadata);
    }
}
