//! The bytes of a journal file: a header block, then groups, each at a multiple of the block size.
//!
//! A group is a header and runs back to back; a run is a header and batches of one segment, as they
//! lie there. Little-endian. Every use of a file has an id of its own, which its groups repeat, and
//! groups are numbered without a gap, so nothing that an earlier use left can pass for a group.

use streamd_io::BLOCK;
use streamd_model::Offset;

/// Bytes of a group before its first run.
pub const GROUP_HEADER: usize = 40;
/// Bytes of a run's header before its two texts.
pub const RUN_HEADER: usize = 40;

const FILE_MAGIC: u32 = u32::from_le_bytes(*b"SDJF");
const GROUP_MAGIC: u32 = u32::from_le_bytes(*b"SDJG");
const RUN_MAGIC: u32 = u32::from_le_bytes(*b"SDJR");
const VERSION: u32 = 1;

/// The first block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// This use of the file.
    pub id: u64,
    /// The number of its first group.
    pub first_seq: u64,
}

/// What stands before the runs of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// The file's id.
    pub id: u64,
    /// One more than that of the group before it.
    pub seq: u64,
    /// Bytes of the group with this header, without what fills its last block.
    pub len: usize,
    /// Its runs.
    pub runs: usize,
}

/// What stands before the batches of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunHeader<'a> {
    /// The name of the partition's directory.
    pub dir: &'a str,
    /// What `partition.metadata` says there: the directory of another topic is another one.
    pub metadata: &'a str,
    /// Base offset of the segment.
    pub segment: Offset,
    /// Position of the run in the segment, bytes.
    pub position: u64,
    /// Zeros between this and the batches, bytes.
    pub pad: usize,
    /// Bytes of its batches.
    pub len: usize,
    /// How often the partition's log was cut before it: see [`crate::cut`].
    pub generation: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Puts the magic and the CRC of what follows at the front of `bytes`.
fn sign(bytes: &mut [u8], magic: u32) {
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[..4].copy_from_slice(&magic.to_le_bytes());
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn is_signed(bytes: &[u8], magic: u32) -> bool {
    u32_at(bytes, 0) == Some(magic)
        && bytes.len() >= 8
        && u32_at(bytes, 4) == Some(crc32c::crc32c(&bytes[8..]))
}

impl FileHeader {
    const LEN: usize = 28;

    /// Writes it to the front of a block.
    pub fn encode(&self, block: &mut [u8]) {
        let out = &mut block[..Self::LEN];
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..20].copy_from_slice(&self.id.to_le_bytes());
        out[20..28].copy_from_slice(&self.first_seq.to_le_bytes());
        sign(out, FILE_MAGIC);
    }

    /// Reads it; `None` when the file is not in use. Another version is an error, with its number.
    pub fn decode(block: &[u8]) -> Result<Option<FileHeader>, u32> {
        let Some(bytes) = block.get(..Self::LEN) else {
            return Ok(None);
        };
        let (Some(version), Some(id), Some(first_seq)) =
            (u32_at(bytes, 8), u64_at(bytes, 12), u64_at(bytes, 20))
        else {
            return Ok(None);
        };
        if !is_signed(bytes, FILE_MAGIC) {
            return Ok(None);
        }
        if version != VERSION {
            return Err(version);
        }
        Ok(Some(FileHeader { id, first_seq }))
    }
}

impl GroupHeader {
    /// Writes it to the front of the group.
    pub fn encode(&self, group: &mut [u8]) {
        let out = &mut group[..GROUP_HEADER];
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..24].copy_from_slice(&self.seq.to_le_bytes());
        out[24..32].copy_from_slice(&(self.len as u64).to_le_bytes());
        out[32..40].copy_from_slice(&(self.runs as u64).to_le_bytes());
        sign(out, GROUP_MAGIC);
    }

    /// Reads it; `None` when no group begins here.
    pub fn decode(bytes: &[u8]) -> Option<GroupHeader> {
        let bytes = bytes.get(..GROUP_HEADER)?;
        let header = GroupHeader {
            id: u64_at(bytes, 8)?,
            seq: u64_at(bytes, 16)?,
            len: usize::try_from(u64_at(bytes, 24)?).ok()?,
            runs: usize::try_from(u64_at(bytes, 32)?).ok()?,
        };
        is_signed(bytes, GROUP_MAGIC).then_some(header)
    }

    /// Bytes that the group takes in the file.
    pub fn blocks(&self) -> u64 {
        self.len.next_multiple_of(BLOCK) as u64
    }
}

/// Bytes that stand before the batches of a run.
pub fn run_overhead(dir: &str, metadata: &str) -> usize {
    RUN_HEADER + dir.len() + metadata.len()
}

impl RunHeader<'_> {
    /// Writes it to the front of `out`; how many bytes it took.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let size = run_overhead(self.dir, self.metadata);
        let out = &mut out[..size];
        let (dir, metadata) = (self.dir.len() as u16, self.metadata.len() as u16);
        out[8..16].copy_from_slice(&self.segment.to_le_bytes());
        out[16..24].copy_from_slice(&self.position.to_le_bytes());
        // Before logs were cut the length had eight bytes, so what was written then reads as 0.
        out[24..28].copy_from_slice(&(self.len as u32).to_le_bytes());
        out[28..32].copy_from_slice(&self.generation.to_le_bytes());
        out[32..34].copy_from_slice(&dir.to_le_bytes());
        out[34..36].copy_from_slice(&metadata.to_le_bytes());
        out[36..40].copy_from_slice(&(self.pad as u32).to_le_bytes());
        let texts = &mut out[RUN_HEADER..];
        texts[..self.dir.len()].copy_from_slice(self.dir.as_bytes());
        texts[self.dir.len()..].copy_from_slice(self.metadata.as_bytes());
        sign(out, RUN_MAGIC);
        size
    }
}

impl<'a> RunHeader<'a> {
    /// Reads it, and says how many bytes it takes; `None` when none is here.
    pub fn decode(bytes: &'a [u8]) -> Option<(RunHeader<'a>, usize)> {
        let texts = u32_at(bytes, 32)?;
        let (dir, metadata) = ((texts & 0xffff) as usize, (texts >> 16) as usize);
        let size = RUN_HEADER + dir + metadata;
        let bytes = bytes.get(..size)?;
        if !is_signed(bytes, RUN_MAGIC) {
            return None;
        }
        let texts = std::str::from_utf8(&bytes[RUN_HEADER..]).ok()?;
        let header = RunHeader {
            dir: texts.get(..dir)?,
            metadata: texts.get(dir..)?,
            segment: u64_at(bytes, 8)? as i64,
            position: u64_at(bytes, 16)?,
            pad: u32_at(bytes, 36)? as usize,
            len: u32_at(bytes, 24)? as usize,
            generation: u32_at(bytes, 28)?,
        };
        Some((header, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_every_flipped_bit_is_seen() {
        let file = FileHeader {
            id: 7,
            first_seq: 9,
        };
        let mut block = vec![0; BLOCK];
        file.encode(&mut block);
        assert_eq!(FileHeader::decode(&block), Ok(Some(file)));
        let group = GroupHeader {
            id: 1 << 60,
            seq: 5,
            len: 123,
            runs: 2,
        };
        let mut bytes = vec![0; GROUP_HEADER];
        group.encode(&mut bytes);
        assert_eq!(GroupHeader::decode(&bytes), Some(group));
        let run = RunHeader {
            dir: "größe-3",
            metadata: "version: 0\n",
            segment: 17,
            position: 4711,
            pad: 77,
            len: 99,
            generation: 3,
        };
        let mut out = vec![0; 100];
        let size = run.encode(&mut out);
        assert_eq!(RunHeader::decode(&out), Some((run, size)));
        for bit in 0..FileHeader::LEN * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileHeader::decode(&block), Ok(None), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        for bit in 0..GROUP_HEADER * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(GroupHeader::decode(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for bit in 0..size * 8 {
            out[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RunHeader::decode(&out), None, "bit {bit}");
            out[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..size {
            assert_eq!(RunHeader::decode(&out[..len]), None);
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut block = vec![0; BLOCK];
        let header = FileHeader {
            id: 7,
            first_seq: 9,
        };
        header.encode(&mut block);
        block[8] = 2;
        sign(&mut block[..FileHeader::LEN], FILE_MAGIC);
        assert_eq!(FileHeader::decode(&block), Err(2));
    }
}
