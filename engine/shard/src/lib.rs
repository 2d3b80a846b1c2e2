//! A shard: what one core owns. Partitions with their logs, the calls of the data path (append,
//! read), the messages between cores, and on shard 0 the cluster's metadata log.
//!
//! Deliberately absent: sockets and protocols. Nothing here is shared between cores but messages,
//! and the limits of copying replicas ([`brakes`]); no borrow lives across an await.

pub mod append;
mod asking;
pub mod brakes;
pub mod compact;
pub mod control;
mod dead;
pub mod disk;
pub mod drive_group;
pub mod drive_meta;
mod drive_seat;
pub mod drive_share;
pub mod drive_txn;
pub mod far;
mod far_kinds;
mod fatal;
pub mod flusher;
pub mod host;
mod internal;
mod keeper;
pub mod mesh;
mod meta_log;
mod near;
mod news;
mod open;
pub mod partition;
pub mod peers;
pub mod read;
pub mod read_bytes;
mod replicate;
pub mod scrub;
pub mod shard;
pub mod tail_budget;
pub mod txn;
pub mod waiters;

use std::fmt;

use streamd_log::BatchError;
use streamd_model::ErrorCode;

pub use append::{AppendDone, AppendItem, Placed, Ticket};
pub use brakes::Brakes;
pub use control::Decided;
pub use drive_group::{GroupAsk, GroupDone};
pub use drive_share::{ShareAsk, ShareDone};
pub use drive_txn::{TxnAsk, TxnDone};
pub use far::{Answering, ByHome, Home};
pub use host::{Ask, Done};
pub use mesh::{Envelope, Mesh, Reply, Request, owner};
pub use news::NewsAsk;
pub use partition::Partition;
pub use peers::{Packet, Peers, Records};
pub use read::{
    EpochQuery, OffsetFound, OffsetQuery, PartitionSize, ReadDone, ReadItem, ReadRequest,
    WatchRequest,
};
pub use read_bytes::ReadBytes;
pub use shard::{Settings, Shard};
pub use txn::{GuardAsk, GuardDone, Marker};

/// Why something was not done: Kafka's code and a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Kafka's code.
    pub code: ErrorCode,
    /// What was read, what was expected.
    pub text: String,
    /// Indexes in the batch of the records to blame, if it is about records.
    pub records: Vec<i32>,
}

impl Refusal {
    /// A refusal that is not about single records.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Refusal {
        Refusal {
            code,
            text: text.into(),
            records: Vec::new(),
        }
    }
}

impl From<BatchError> for Refusal {
    fn from(e: BatchError) -> Refusal {
        Refusal {
            code: e.code,
            text: e.text,
            records: e.records,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}
