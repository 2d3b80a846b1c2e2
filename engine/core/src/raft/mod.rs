//! The quorum that keeps the metadata log: the `raft` library behind effects.
//!
//! Invariant: what must be durable before it is said is said only after [`Quorum::persisted`]; the
//! type gives the driver nothing to send earlier. No clock, no chance, no thread: the same inputs
//! give the same outputs. One node alone is a quorum of one by the same code.
//!
//! Guards around the library (0.7): a leader that was removed steps down at once; a quorum begins
//! with a snapshot; the election timeout is a function of (seed, node, term); nobody touches the
//! node between `ready` and `advance`; a node that lost what it had acknowledged stops, it does
//! not panic; peers' bytes meet our codec only; proposals are never forwarded.

pub mod codec;
mod quorum;
mod record;
mod store;
#[cfg(test)]
mod tests;

pub use codec::MESSAGE_BYTES_MAX;
pub use quorum::{Change, Members, NotTaken, Options, Output, Quorum, Role};
pub use record::{is_record, split};
