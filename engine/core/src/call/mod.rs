//! What one node asks the leader of a partition on another one: the coordinator that lives there,
//! or the partition itself.
//!
//! Invariants: a question is about one partition, so its answer never is in part; decoding never
//! panics, and never reserves more memory than the input is long.

mod codec;
mod share;

use std::sync::Arc;

use streamd_model::{Epoch, Offset};

use crate::{Refused, share as shares, txn};

pub use codec::{decode_outcome, encode_outcome};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Write the end of a transaction.
    Marker(Marker),
    /// Partitions come into a transaction, or are they in it?
    Txn {
        /// The transactional id.
        id: Arc<str>,
        /// The partitions.
        add: txn::Add,
        /// Only look whether they are in.
        verify: bool,
    },
    /// About a share-partition.
    Share(shares::Request),
    /// Is this a member of this share group?
    Member {
        /// The group.
        group: Arc<str>,
        /// The member.
        member: Arc<str>,
    },
    /// Append one batch; answered when it is committed.
    Append(Vec<u8>),
    /// Read whole batches.
    Read {
        /// From here on.
        offset: Offset,
        /// So many bytes at the most, or one batch.
        bytes_max: u32,
    },
    /// An offset by time, ms, or one of Kafka's special values below zero.
    Offset(i64),
    /// Whoever asked under this token waits no more.
    Gone,
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The producer's id.
    pub producer: i64,
    /// The epoch that it has from now on.
    pub epoch: i16,
    /// Commit, or abort.
    pub commit: bool,
    /// The epoch of the coordinator that decided.
    pub coordinator_epoch: i32,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// To [`Question::Txn`]: which are not in the transaction.
    Missing(txn::Partitions),
    /// To [`Question::Share`].
    Share(shares::Reply),
    /// To [`Question::Member`].
    Member(bool),
    /// To [`Question::Append`]: the first offset.
    Placed(Offset),
    /// To [`Question::Read`].
    Records(Vec<u8>),
    /// To [`Question::Offset`]: the offset and its timestamp, -1 for none, and the leader epoch.
    Offset(Offset, i64, Epoch),
}

/// An answer, or why there is none.
pub type Outcome = Result<Answer, Refused>;
