//! The Kafka protocol: frames and headers, messages of every served API, versions.
//!
//! A message is one struct for both directions and all versions. Decoded, it borrows the frame;
//! to encode it, build it from slices and `Vec`s. `generated/` is written by `cargo xtask gen` out
//! of Kafka's own message schemas; the rest here is what that code stands on.

pub mod array;
pub mod error;
pub mod frame;
pub mod generated;
pub mod message;
pub mod read;
pub mod versions;
pub mod write;

pub use array::Array;
pub use error::{DecodeError, EncodeError};
pub use frame::{Frame, FrameError, RequestHeader, ResponseHeader};
pub use generated::*;
pub use message::{Message, Request};
pub use read::{Decode, Reader};
pub use write::{Encode, Hole, Part, Records, Writer};
