//! The logs of partitions: the journal that makes appends of many of them durable at once, segment
//! files of Kafka record batches written with direct I/O, their sparse indexes, the tail in memory,
//! recovery, retention and compaction.
//!
//! Deliberately absent: replication, producers' sequence numbers, anything of a protocol. This
//! crate never sees `core`; the state that recovery must bring back with the log is opaque bytes.
//! Offsets are dense but where a log was compacted; what was flushed never changes otherwise.

pub mod batch;
pub mod begin;
pub mod checkpoint;
pub mod compact;
pub mod compress;
pub mod cut;
pub mod index;
pub mod journal;
pub mod log;
pub mod lookup;
pub mod lz4;
pub mod open_files;
pub mod pack;
pub mod read_plan;
pub mod record_view;
pub mod records;
pub mod recover;
pub mod replica;
pub mod retain;
pub mod scrub;
pub mod segment;
pub mod tail;
pub mod validate;
pub mod whole;
pub mod write_back;

use std::{fmt, io};

pub use batch::{BatchError, BatchHeader, Codec};
pub use log::{Appended, Log, LogConfig, NewBatch};
pub use read_plan::{Planned, ReadPlan};
pub use recover::{Cut, Recovered};
pub use segment::Segment;

/// Why the log of a partition cannot go on. After one of these the partition is offline: what was
/// not acknowledged may or may not be on the disk, and nothing is tried again.
#[derive(Debug)]
pub enum LogError {
    /// The system refused; `what` names the operation and the file.
    Io {
        /// The operation and the file.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// The bytes on the disk are not what was written there.
    Corrupt(String),
}

impl LogError {
    /// Whether there was no room, and nothing else is wrong: what was to be written is not written,
    /// and may be written once there is room. A sync that failed is never that.
    pub fn is_full(&self) -> bool {
        matches!(self, LogError::Io { error, .. } if error.kind() == io::ErrorKind::StorageFull)
    }

    /// For syncs. Whatever the reason, the pages may be lost: no second sync tells.
    pub fn sync(what: impl Into<String>) -> impl FnOnce(io::Error) -> LogError {
        let what = what.into();
        move |error| LogError::Io {
            error: io::Error::other(error.to_string()),
            what,
        }
    }

    /// For all else.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> LogError {
        let what = what.into();
        move |error| LogError::Io { what, error }
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Io { what, error } => write!(f, "{what}: {error}"),
            LogError::Corrupt(text) => write!(f, "corrupt: {text}"),
        }
    }
}

impl std::error::Error for LogError {}
