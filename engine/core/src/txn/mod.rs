//! Transactions: the coordinator of the transactional ids of one partition of
//! `__transaction_state`.
//!
//! The durable state is the fold of that partition and changes in `replay` alone, which a start and
//! a running coordinator go through alike. A transaction ends in two steps: the decision is durable
//! first, then a marker goes to every partition, then the end is written down. A start finds
//! decisions without an end and writes their markers again.
//!
//! Invariants: no marker goes out before its decision is durable, and none that contradicts it;
//! an answer that promises durable state waits for it; every token is answered once.

mod context;
mod coordinator;
mod end;
mod init;
mod record;
mod request;

#[cfg(test)]
mod tests;

pub use context::{Batch, Effects, Limits, Markers};
pub use coordinator::Coordinator;
pub use record::{Partitions, Status, TxnRecord, TxnValue};
pub use request::{Add, Described, End, Init, Listed, Reply, Request};

pub use crate::machine::{Now, Token};

/// The internal topic that keeps transactions.
pub const TXN_TOPIC: &str = "__transaction_state";
