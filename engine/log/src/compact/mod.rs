//! Log compaction: of each key the last record stays, offsets never change.
//!
//! A pass notes the keys of the dirty part of the log in a map of bounded size ([`map`]), then
//! copies all segments up to there, batch by batch, without the records that a later one replaces
//! ([`filter`]), and puts the copies in their place ([`swap`]). When the keys do not fit, the map
//! ends earlier and another pass follows. What to compact and what to join is decided in [`plan`].
//! Tombstones stay for `delete.retention.ms` from the pass that first covers them (KIP-534).
//!
//! Invariants: only sealed segments before the checkpoint are touched; the last batch of a segment
//! stays, if need be without records, so that segments end where the next ones begin; segments are
//! replaced from the oldest on, so a tombstone outlives what it deletes, whatever crashes.

pub mod filter;
pub mod hash;
pub mod map;
pub mod pace;
pub mod pass;
pub mod plan;
pub mod swap;
pub mod walk;

pub use pace::Pace;
pub use pass::{Done, Order, run, todo};
pub use plan::{Rules, Todo};
