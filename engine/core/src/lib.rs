//! What has to be right: plain state machines over (event, now).
//!
//! Invariant: nothing here awaits, reads a clock, draws a random number or touches a file; of our
//! crates it depends on `streamd-model` alone. Whoever drives a machine hands it the time and the
//! ids, and carries out what it says.

pub mod call;
pub mod codec;
pub mod config;
pub mod control;
pub mod group;
mod kafka_codec;
pub mod machine;
pub mod meta;
mod outbox;
pub mod pattern;
pub mod producer;
pub mod raft;
pub mod repl;
pub mod share;
mod timers;
pub mod txn;

use streamd_model::ErrorCode;

/// A request that was refused: Kafka's code, and a sentence that says what was read and what is
/// allowed.
pub type Refused = (ErrorCode, String);
