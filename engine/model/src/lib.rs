//! The words that every other crate uses: identifiers, offsets, time, error codes, maps.
//!
//! Invariant: nothing here does I/O, reads a clock or draws a random number, and nothing here
//! depends on another crate of the workspace.

pub mod error;
pub mod ids;
pub mod map;
pub mod offset;
pub mod time;

pub use error::ErrorCode;
pub use ids::{NodeId, PartitionId, ProducerId, ShardId, TopicId};
pub use map::{Map, Set};
pub use offset::{Epoch, Offset, Watermarks};
pub use time::Mono;
