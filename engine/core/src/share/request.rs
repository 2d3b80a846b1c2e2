//! What the coordinator of share-partitions is asked, and what it answers. Owned, so that both can
//! cross cores.

use std::sync::Arc;

use streamd_model::{ErrorCode, Offset};

use super::record::Key;
use crate::config::StartAt;

/// A request about a share-partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which one.
    pub key: Key,
    /// What.
    pub ask: Ask,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// From where a member is to read on.
    Next,
    /// Begin here, unless it was settled before.
    Begin(Offset),
    /// Lock what of this may be delivered.
    Acquire(Acquire),
    /// Members say what became of records.
    Acknowledge(Arc<str>, Vec<AckBatch>),
    /// A member's session is over: what it has is free again. `true`: it says so itself, and has
    /// not looked at what is left, so that does not count as delivered.
    Release(Arc<str>, bool),
    /// Answer when something may be delivered again, or (`true`) when there is room again.
    Wait(bool),
    /// Where it stands.
    Summary,
    /// An operator sets the start.
    Reset(Offset),
    /// Forget all of it.
    Forget,
    /// The dead-letter topic has these offsets, or will not take them.
    Buried(Offset, Offset),
}

/// What was read of a partition for a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// The member.
    pub member: Arc<str>,
    /// The batches, ascending.
    pub read: Vec<ReadBatch>,
    /// How many records it wants; the last batch may make it more.
    pub records_max: i64,
    /// The last batch may not.
    pub strict: bool,
    /// Where the partition's log starts: what was before it is done with.
    pub log_start: Offset,
}

/// A batch of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBatch {
    /// Its first offset.
    pub first: Offset,
    /// Its last one.
    pub last: Offset,
    /// Nothing of it is delivered: a marker, or part of a transaction that was aborted.
    pub skip: bool,
}

/// What a member says of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckBatch {
    /// The first offset.
    pub first: Offset,
    /// The last one.
    pub last: Offset,
    /// For each offset, or one for all.
    pub kinds: Vec<Ack>,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// There is none at this offset.
    Gap,
    /// It is done with.
    Accept,
    /// It is to be delivered again.
    Release,
    /// It is no use to deliver it again.
    Reject,
    /// The member works on it: its lock begins anew.
    Renew,
}

impl Ack {
    /// By Kafka's number.
    pub fn from_code(code: i8) -> Option<Ack> {
        match code {
            0 => Some(Ack::Gap),
            1 => Some(Ack::Accept),
            2 => Some(Ack::Release),
            3 => Some(Ack::Reject),
            4 => Some(Ack::Renew),
            _ => None,
        }
    }

    /// Kafka's number.
    pub fn code(self) -> u8 {
        match self {
            Ack::Gap => 0,
            Ack::Accept => 1,
            Ack::Release => 2,
            Ack::Reject => 3,
            Ack::Renew => 4,
        }
    }
}

/// Why a record is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was delivered as often as it may be.
    TooOften,
    /// A member rejected it.
    Rejected,
}

/// Records for the dead-letter topic. When they are there, [`Ask::Buried`] says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bury {
    /// The share-partition.
    pub key: Key,
    /// The first offset.
    pub first: Offset,
    /// The last one.
    pub last: Offset,
    /// How often they were delivered.
    pub count: i16,
    /// Why.
    pub cause: Cause,
}

/// What else a coordinator has the driver do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// These go to the dead-letter topic.
    Bury(Bury),
    /// The last so many records of the step say everything anew: once they are durable, nothing
    /// that lies before them in the log is needed any more.
    Prune(usize),
}

/// What a coordinator answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Ask::Next`].
    Next(Next),
    /// To [`Ask::Acquire`].
    Acquired(Vec<Acquired>),
    /// To [`Ask::Summary`]; none: there is no such share-partition.
    Summary(Option<Summary>),
    /// To all else, and to all that fails.
    Code(ErrorCode),
    /// It fails, with a sentence about it.
    Refused(ErrorCode, String),
}

impl From<ErrorCode> for Reply {
    fn from(code: ErrorCode) -> Reply {
        Reply::Code(code)
    }
}

/// Where a member is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is not settled where the group begins: find the offset and say [`Ask::Begin`].
    Unset(StartAt),
    /// From here on. `committed`: nothing of open or aborted transactions.
    At {
        /// The offset.
        offset: Offset,
        /// What the group is to get of transactions.
        committed: bool,
    },
    /// Nowhere: as many records are under way as may be.
    Full,
}

/// Records that a member has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// The first offset.
    pub first: Offset,
    /// The last one.
    pub last: Offset,
    /// How often they were delivered, this time included.
    pub count: i16,
}

/// Where a share-partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The first offset that is not done with.
    pub start: Offset,
    /// How many from there on are done with.
    pub complete: i64,
    /// The leader epoch on record.
    pub leader_epoch: i32,
}
