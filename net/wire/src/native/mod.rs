//! The native protocol (`STRM`): what nodes say to each other, and what a client can append and
//! subscribe with. `PROTOCOL.md` in this crate specifies it.
//!
//! Invariants: a header is 32 bytes with a checksum of its own, so a length is believed only if
//! the sender meant it; a body is decoded in place, allocates nothing, and is refused unless all
//! of it is understood; records are never looked into.

mod body;
mod client;
mod header;
mod list;
mod read;
#[cfg(test)]
mod tests;

use std::fmt;

pub use body::{
    Body, Call, Credit, Data, EARLIEST, Failure, Hello, LATEST, Partition, Replica, Subscribe,
    Subscribed, Welcome,
};
pub use client::{
    Aborted, Append, Appended, Batch, Committed, Find, Kept, Leader, OfGroup, Place, Producer,
    ToCommit, Topic,
};
pub use header::{FLAG_ANSWER, FLAG_LAST, HEADER_BYTES, Header, MAGIC, Op, VERSION};
pub use list::{Item, List};

/// The largest payload of any operation, bytes. Receivers may take less, and say so in `Welcome`.
pub const PAYLOAD_BYTES_MAX: u32 = 256 << 20;
/// The largest payload before a `Hello` was accepted: a stranger gets no more memory.
pub const HELLO_BYTES_MAX: u32 = 4 << 10;

/// Why bytes are no frame, or none for this receiver. The connection is of no use afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The first four bytes are not `STRM`: another protocol.
    Magic,
    /// A version that is not spoken here.
    Version(u8),
    /// The header's checksum does not match: the stream is out of step.
    Checksum,
    /// An operation that is not known in this version.
    Op(u8),
    /// Flags that are not known, or not with this operation.
    Flags(u16),
    /// A payload longer than the receiver takes.
    Length(u32),
    /// A body that ends too early, or says nonsense: of what.
    Body(&'static str),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Magic => f.write_str(
                "no frame of the native protocol: it begins with 'STRM'. Is this a Kafka client? \
                 Kafka's protocol has another port",
            ),
            Malformed::Version(v) => {
                write!(
                    f,
                    "native protocol version {v}: this program speaks {VERSION}"
                )
            }
            Malformed::Checksum => f.write_str("a frame's header has a wrong checksum"),
            Malformed::Op(op) => write!(f, "operation {op} of the native protocol is not known"),
            Malformed::Flags(flags) => write!(f, "a frame with flags {flags:#06x}"),
            Malformed::Length(n) => write!(f, "a frame of {n} bytes is longer than is taken"),
            Malformed::Body(what) => write!(f, "{what} cannot be read"),
        }
    }
}

impl std::error::Error for Malformed {}
