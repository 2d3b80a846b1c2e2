//! What a coordinator of transactions is asked, and what it answers. Owned, so that both can cross
//! cores.

use std::sync::Arc;

use streamd_model::ErrorCode;

use super::record::{Partitions, Status};

/// A request about one transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A producer begins its life.
    Init(Init),
    /// Partitions come into the transaction, which begins with the first.
    Add(Add),
    /// Are these partitions in the transaction?
    Verify(Add),
    /// The transaction ends.
    End(End),
    /// Show it.
    Describe,
}

/// InitProducerId.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    /// After how long a transaction is aborted, ms.
    pub timeout_ms: i32,
    /// The id and epoch that the producer has already (KIP-360).
    pub expected: Option<(i64, i16)>,
    /// A producer id that nobody had, if one was asked for by [`Reply::NeedsProducer`].
    pub fresh: Option<i64>,
}

/// AddPartitionsToTxn, AddOffsetsToTxn, and what Produce and TxnOffsetCommit bring with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// The producer's id.
    pub producer: i64,
    /// Its epoch.
    pub epoch: i16,
    /// What is added.
    pub partitions: Partitions,
    /// `transaction.version` as the producer speaks it: 2 if it adds without being asked to.
    pub version: i16,
}

/// EndTxn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The producer's id.
    pub producer: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Commit, or abort.
    pub commit: bool,
    /// `transaction.version` as the producer speaks it: 2 if its epoch is raised with the end.
    pub version: i16,
    /// As in [`Init`].
    pub fresh: Option<i64>,
}

/// What a coordinator answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It failed, or it is done and there is no more to say.
    Code(ErrorCode),
    /// To [`Request::Init`] and [`Request::End`]: who the producer is from now on.
    Producer {
        /// Its id.
        producer: i64,
        /// Its epoch.
        epoch: i16,
    },
    /// Ask again, with a producer id that nobody had.
    NeedsProducer,
    /// To [`Request::Verify`]: which of the partitions are not in the transaction.
    Missing(Partitions),
    /// To [`Request::Describe`].
    Describe(Box<Described>),
}

impl From<ErrorCode> for Reply {
    fn from(code: ErrorCode) -> Reply {
        Reply::Code(code)
    }
}

/// A transactional id as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// What it is doing.
    pub status: Status,
    /// Its producer id.
    pub producer: i64,
    /// Its epoch.
    pub epoch: i16,
    /// After how long a transaction is aborted, ms.
    pub timeout_ms: i32,
    /// When the transaction began, wall time in ms; -1: none is open.
    pub started_ms: i64,
    /// What it has written to.
    pub partitions: Partitions,
}

/// A transactional id in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The id.
    pub id: Arc<str>,
    /// Its producer id.
    pub producer: i64,
    /// What it is doing.
    pub status: Status,
    /// For how long, ms; -1: no transaction is open.
    pub running_ms: i64,
}
