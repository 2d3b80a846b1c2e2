//! Producers: the ids they get, and the sequence numbers that make their batches count once.

mod ids;
mod sequence;
mod snapshot;

pub use ids::{BLOCK, IdBlock};
pub use sequence::{PRODUCERS_MAX, ProducerState, Sent, Verdict};
