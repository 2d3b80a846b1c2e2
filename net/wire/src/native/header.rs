//! The header of a frame: 32 bytes, little-endian.
//!
//! ```text
//!  0  magic "STRM"        4  version u8     5  operation u8   6  flags u16
//!  8  stream u32         12  correlation u64
//! 20  payload length u32 24  zero u32      28  CRC-32C of bytes 0..28
//! ```

use super::Malformed;

/// How a frame begins.
pub const MAGIC: [u8; 4] = *b"STRM";
/// The version of the protocol that is spoken here.
pub const VERSION: u8 = 1;
/// The length of a header, bytes.
pub const HEADER_BYTES: usize = 32;
/// The frame answers one with the same correlation id.
pub const FLAG_ANSWER: u16 = 1;
/// The stream ends with this frame.
pub const FLAG_LAST: u16 = 2;

/// What a frame is about. The numbers are frozen; 7 to 9 were used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Who connects; answered by who is there. The first frame of a connection.
    Hello = 1,
    /// A step of authentication, in both directions.
    Auth = 2,
    /// Record batches for a partition.
    Append = 3,
    /// A stream of a partition's records is opened.
    Subscribe = 4,
    /// The receiver of a stream takes more bytes.
    Credit = 5,
    /// Records of a stream, or none: a pulse.
    Data = 6,
    /// A message of the metadata quorum.
    Raft = 10,
    /// A question to the controller.
    Control = 11,
    /// Answered at once.
    Ping = 12,
    /// A request or a stream failed.
    Error = 13,
    /// What a topic is: its id and its partitions.
    Topic = 14,
    /// An id for an idempotent producer.
    Producer = 15,
    /// The receiver of a stream wants no more of it.
    Unsubscribe = 16,
    /// Offsets that a group has read up to.
    Commit = 17,
    /// Where a group is.
    Offsets = 18,
    /// Something for the replica of a partition.
    Replica = 19,
    /// A question to the leader of a partition.
    Call = 20,
    /// Which node to ask.
    Find = 21,
}

const OPS: [Op; 18] = [
    Op::Hello,
    Op::Auth,
    Op::Append,
    Op::Subscribe,
    Op::Credit,
    Op::Data,
    Op::Raft,
    Op::Control,
    Op::Ping,
    Op::Error,
    Op::Topic,
    Op::Producer,
    Op::Unsubscribe,
    Op::Commit,
    Op::Offsets,
    Op::Replica,
    Op::Call,
    Op::Find,
];

impl Op {
    fn of(number: u8) -> Option<Op> {
        OPS.into_iter().find(|op| *op as u8 == number)
    }

    /// The flags that frames of this operation may have.
    fn flags(self) -> u16 {
        match self {
            Op::Hello | Op::Auth | Op::Append | Op::Control | Op::Ping | Op::Call | Op::Find => {
                FLAG_ANSWER
            }
            Op::Topic | Op::Producer | Op::Unsubscribe | Op::Commit | Op::Offsets => FLAG_ANSWER,
            Op::Data => FLAG_LAST,
            Op::Subscribe | Op::Error => FLAG_ANSWER | FLAG_LAST,
            Op::Credit | Op::Raft | Op::Replica => 0,
        }
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The operation.
    pub op: Op,
    /// [`FLAG_ANSWER`], [`FLAG_LAST`].
    pub flags: u16,
    /// The stream; 0 for what belongs to none.
    pub stream: u32,
    /// What an answer is found by; 0 where none is expected.
    pub correlation: u64,
    /// The length of the payload, bytes.
    pub length: u32,
}

impl Header {
    /// The bytes of the header.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = self.op as u8;
        out[6..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..12].copy_from_slice(&self.stream.to_le_bytes());
        out[12..20].copy_from_slice(&self.correlation.to_le_bytes());
        out[20..24].copy_from_slice(&self.length.to_le_bytes());
        let crc = crc32c::crc32c(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header. `limit`: the longest payload that the receiver takes.
    ///
    /// # Errors
    /// [`Malformed`]: then nothing behind it can be read either.
    pub fn decode(bytes: &[u8; HEADER_BYTES], limit: u32) -> Result<Header, Malformed> {
        if bytes[..4] != MAGIC {
            return Err(Malformed::Magic);
        }
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        // A header of another version may have its checksum elsewhere.
        if bytes[4] != VERSION {
            return Err(Malformed::Version(bytes[4]));
        }
        if crc32c::crc32c(&bytes[..28]) != word(28) {
            return Err(Malformed::Checksum);
        }
        let op = Op::of(bytes[5]).ok_or(Malformed::Op(bytes[5]))?;
        let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
        if flags & !op.flags() != 0 {
            return Err(Malformed::Flags(flags));
        }
        let header = Header {
            op,
            flags,
            stream: word(8),
            correlation: u64::from(word(12)) | u64::from(word(16)) << 32,
            length: word(20),
        };
        if word(24) != 0 {
            return Err(Malformed::Body("the reserved part of a header"));
        }
        if header.length > limit {
            return Err(Malformed::Length(header.length));
        }
        Ok(header)
    }

    /// Whether the frame answers another.
    pub fn is_answer(&self) -> bool {
        self.flags & FLAG_ANSWER != 0
    }
}
