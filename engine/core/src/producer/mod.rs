//! Producers: the ids they get, the sequence numbers that make their batches count once, and the
//! transactions that they have in a partition.

mod ids;
mod sequence;
mod snapshot;
mod transactions;

pub use ids::{BLOCK, IdBlock};
pub use sequence::{Described, MarkerEnd, PRODUCERS_MAX, ProducerState, Sent, Verdict};
pub use transactions::{ABORTED_MAX, AbortedTxn, OPEN_MAX, OpenTxn, Transactions};
