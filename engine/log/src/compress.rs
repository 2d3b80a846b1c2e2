//! Decompression of record batches as a stream with bounded memory. A batch is never inflated
//! whole: the reader hands out what fits its window, so a bomb costs time up to a limit, not room.

use std::io::{self, Read};

use crate::batch::Codec;

/// The most that one batch may inflate to, bytes. Far above what `max.message.bytes` and a real
/// ratio give, far below what would hold a shard up for long.
pub const INFLATED_MAX: u64 = 256 << 20;

/// What xerial's snappy stream begins with: magic, then two version numbers.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER: usize = 16;

/// A decompressing reader over the records part of one batch.
pub enum Inflate<'a> {
    /// Not compressed.
    Plain(&'a [u8]),
    /// gzip, possibly of several members.
    Gzip(Box<flate2::bufread::MultiGzDecoder<&'a [u8]>>),
    /// Snappy in either framing.
    Snappy(SnappyReader<'a>),
    /// LZ4 frames.
    Lz4(Box<lz4_flex::frame::FrameDecoder<&'a [u8]>>),
    /// Zstandard frames.
    Zstd(Box<zstd::stream::read::Decoder<'static, &'a [u8]>>),
}

impl<'a> Inflate<'a> {
    /// A reader of `bytes` under `codec`.
    pub fn new(codec: Codec, bytes: &'a [u8]) -> io::Result<Inflate<'a>> {
        Ok(match codec {
            Codec::None => Inflate::Plain(bytes),
            Codec::Gzip => Inflate::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(bytes))),
            Codec::Snappy => Inflate::Snappy(SnappyReader::new(bytes)),
            Codec::Lz4 => Inflate::Lz4(Box::new(lz4_flex::frame::FrameDecoder::new(bytes))),
            Codec::Zstd => {
                Inflate::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(bytes)?))
            }
        })
    }
}

impl Read for Inflate<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Inflate::Plain(b) => b.read(out),
            Inflate::Gzip(r) => r.read(out),
            Inflate::Snappy(r) => r.read(out),
            Inflate::Lz4(r) => r.read(out),
            Inflate::Zstd(r) => r.read(out),
        }
    }
}

/// Snappy as Kafka's clients write it: Java's in xerial framing (blocks with a big-endian length),
/// librdkafka's as one raw block.
pub struct SnappyReader<'a> {
    rest: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    at: usize,
}

impl<'a> SnappyReader<'a> {
    fn new(bytes: &'a [u8]) -> SnappyReader<'a> {
        let framed = bytes.len() >= XERIAL_HEADER && bytes[..8] == XERIAL_MAGIC;
        let rest = if framed {
            &bytes[XERIAL_HEADER..]
        } else {
            bytes
        };
        SnappyReader {
            rest,
            framed,
            block: Vec::new(),
            at: 0,
        }
    }

    fn next_block(&mut self) -> io::Result<()> {
        let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
        let packed = if self.framed {
            let (len, rest) = self
                .rest
                .split_first_chunk::<4>()
                .ok_or_else(|| bad("snappy: cut length"))?;
            let len = u32::from_be_bytes(*len) as usize;
            if len > rest.len() {
                return Err(bad("snappy: a block is longer than what is left"));
            }
            let (packed, rest) = rest.split_at(len);
            self.rest = rest;
            packed
        } else {
            std::mem::take(&mut self.rest)
        };
        let size = snap::raw::decompress_len(packed).map_err(io::Error::other)?;
        // A copy element of 3 bytes gives at most 64: more is a lie, so nothing is reserved for it.
        if size > packed.len().saturating_mul(64) {
            return Err(bad("snappy: the stated size cannot be true"));
        }
        self.block.resize(size, 0);
        self.at = 0;
        snap::raw::Decoder::new()
            .decompress(packed, &mut self.block)
            .map_err(io::Error::other)?;
        Ok(())
    }
}

impl Read for SnappyReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            self.next_block()?;
        }
        let n = out.len().min(self.block.len() - self.at);
        out[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
