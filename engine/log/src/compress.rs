//! Decompression of record batches as a stream with bounded memory. A batch is never inflated
//! whole: the reader hands out what fits its window, so a bomb costs time up to a limit, not room.

use std::cell::RefCell;
use std::io::{self, Read};
use std::ops::Deref;

use crate::batch::Codec;
use crate::lz4;

/// The most that one batch may inflate to, bytes. Far above what `max.message.bytes` and a real
/// ratio give, far below what would hold a shard up for long.
pub const INFLATED_MAX: u64 = 256 << 20;

/// What xerial's snappy stream begins with: magic, then two version numbers.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER: usize = 16;

/// Bytes that a window has at least.
pub const WINDOW: usize = 64 << 10;

/// Windows that are larger are not kept for the next batch.
const KEPT_BYTES: usize = 256 << 10;

/// So many windows are kept by each thread.
const KEPT: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Where inflated bytes pass through. Taken from those that earlier batches left, for a fresh one
/// would have to be cleared: that took as long as inflating.
pub struct Window(Vec<u8>);

impl Window {
    /// A window of at least [`WINDOW`] bytes with anything in them.
    pub fn take() -> Window {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        Window(spare.unwrap_or_else(|| vec![0; WINDOW + lz4::SLACK]))
    }

    /// The first `len` bytes, for which there must be room.
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.0.len() < len {
            self.0.resize(len, 0);
        }
        &mut self.0[..len]
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        if bytes.len() <= KEPT_BYTES {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < KEPT {
                    spare.push(bytes);
                }
            });
        }
    }
}

impl Deref for Window {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Inflates the records part of one batch, piece by piece.
pub enum Inflate<'a> {
    /// Not compressed.
    Plain(&'a [u8]),
    /// gzip, possibly of several members.
    Gzip(Box<flate2::bufread::MultiGzDecoder<&'a [u8]>>),
    /// Snappy in either framing.
    Snappy(SnappyBlocks<'a>),
    /// The LZ4 frames that most clients write.
    Lz4Blocks(Lz4Blocks<'a>),
    /// Any LZ4 frame.
    Lz4(Box<lz4_flex::frame::FrameDecoder<&'a [u8]>>),
    /// Zstandard frames.
    Zstd(Box<zstd::stream::read::Decoder<'static, &'a [u8]>>),
}

impl<'a> Inflate<'a> {
    /// Begins with `bytes`, packed with `codec`.
    pub fn new(codec: Codec, bytes: &'a [u8]) -> io::Result<Inflate<'a>> {
        Ok(match codec {
            Codec::None => Inflate::Plain(bytes),
            Codec::Gzip => Inflate::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(bytes))),
            Codec::Snappy => Inflate::Snappy(SnappyBlocks::new(bytes)),
            Codec::Lz4 => match Lz4Blocks::new(bytes) {
                Some(blocks) => Inflate::Lz4Blocks(blocks),
                None => Inflate::Lz4(Box::new(lz4_flex::frame::FrameDecoder::new(bytes))),
            },
            Codec::Zstd => {
                Inflate::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(bytes)?))
            }
        })
    }

    /// Puts what comes next at the beginning of `window`; how many bytes, 0 at the end.
    pub fn next(&mut self, window: &mut Window) -> io::Result<usize> {
        let reader: &mut dyn Read = match self {
            Inflate::Snappy(blocks) => return blocks.next(window),
            Inflate::Lz4Blocks(blocks) => return blocks.next(window),
            Inflate::Plain(b) => b,
            Inflate::Gzip(r) => r,
            Inflate::Lz4(r) => r,
            Inflate::Zstd(r) => r,
        };
        loop {
            match reader.read(&mut window.0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// LZ4 frames of independent blocks without checksums, as the Java client and librdkafka write
/// them. Each block is inflated straight into the window: the frame decoder of the library
/// clears and copies, which came to as much again as the inflating, and its block decoder takes a
/// quarter longer.
/// Source: the LZ4 frame format, version 1.6.
pub struct Lz4Blocks<'a> {
    rest: &'a [u8],
    block_max: usize,
    done: bool,
}

const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Version 1, independent blocks, nothing else.
const LZ4_FLAGS: u8 = 0x60;
/// The block size's byte, the header's checksum with it, the block size.
const LZ4_SIZES: [(u8, u8, usize); 4] = [
    (0x40, 0x82, 64 << 10),
    (0x50, 0xfb, 256 << 10),
    (0x60, 0x51, 1 << 20),
    (0x70, 0x73, 4 << 20),
];
/// In a block's length: it is stored as it is.
const LZ4_STORED: u32 = 1 << 31;

impl<'a> Lz4Blocks<'a> {
    /// `None` when the frame is of another kind, or none.
    fn new(bytes: &'a [u8]) -> Option<Lz4Blocks<'a>> {
        let (head, rest) = bytes.split_first_chunk::<7>()?;
        if head[..4] != LZ4_MAGIC || head[4] != LZ4_FLAGS {
            return None;
        }
        let known = LZ4_SIZES.iter().find(|s| (s.0, s.1) == (head[5], head[6]));
        known.map(|&(_, _, block_max)| Lz4Blocks {
            rest,
            block_max,
            done: false,
        })
    }

    fn next(&mut self, window: &mut Window) -> io::Result<usize> {
        while !self.done {
            let (len, rest) = self
                .rest
                .split_first_chunk::<4>()
                .ok_or_else(|| bad("lz4: the frame ends without an end mark"))?;
            let len = u32::from_le_bytes(*len);
            let (stored, len) = (len & LZ4_STORED != 0, (len & !LZ4_STORED) as usize);
            if len == 0 {
                self.done = true;
                break;
            }
            if len > self.block_max || len > rest.len() {
                return Err(bad("lz4: a block is longer than the frame allows or has"));
            }
            let (packed, rest) = rest.split_at(len);
            self.rest = rest;
            let n = if stored {
                window.room(len).copy_from_slice(packed);
                len
            } else {
                lz4::inflate(
                    packed,
                    window.room(self.block_max + lz4::SLACK),
                    self.block_max,
                )
                .ok_or_else(|| bad("lz4: a block is damaged"))?
            };
            if n > 0 {
                return Ok(n);
            }
        }
        Ok(0)
    }
}

/// Snappy as Kafka's clients write it: Java's in xerial framing (blocks with a big-endian length),
/// librdkafka's as one raw block.
pub struct SnappyBlocks<'a> {
    rest: &'a [u8],
    framed: bool,
}

impl<'a> SnappyBlocks<'a> {
    fn new(bytes: &'a [u8]) -> SnappyBlocks<'a> {
        let framed = bytes.len() >= XERIAL_HEADER && bytes[..8] == XERIAL_MAGIC;
        let rest = if framed {
            &bytes[XERIAL_HEADER..]
        } else {
            bytes
        };
        SnappyBlocks { rest, framed }
    }

    fn packed(&mut self) -> io::Result<&'a [u8]> {
        if !self.framed {
            return Ok(std::mem::take(&mut self.rest));
        }
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
        Ok(packed)
    }

    fn next(&mut self, window: &mut Window) -> io::Result<usize> {
        while !self.rest.is_empty() {
            let packed = self.packed()?;
            let size = snap::raw::decompress_len(packed).map_err(io::Error::other)?;
            // A copy element of 3 bytes gives at most 64: more is a lie, so nothing is reserved.
            if size > packed.len().saturating_mul(64) {
                return Err(bad("snappy: the stated size cannot be true"));
            }
            snap::raw::Decoder::new()
                .decompress(packed, window.room(size))
                .map_err(io::Error::other)?;
            if size > 0 {
                return Ok(size);
            }
        }
        Ok(0)
    }
}
