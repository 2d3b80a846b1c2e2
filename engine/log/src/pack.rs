//! Compression of record batches as a stream, for compaction: the same codecs and framings as
//! Kafka's own clients write, with bounded memory beside the compressed bytes.

use std::io::{self, Write};

use crate::batch::Codec;

/// What xerial's snappy stream begins with: magic, then two version numbers.
const XERIAL: [u8; 16] = [
    0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1,
];
/// Uncompressed bytes of one of its blocks.
const XERIAL_BLOCK: usize = 32 << 10;

/// Compresses what is written into it, behind what is in its buffer already.
pub enum Pack {
    /// Not compressed.
    Plain(Vec<u8>),
    /// gzip.
    Gzip(Box<flate2::write::GzEncoder<Vec<u8>>>),
    /// Snappy in xerial's framing.
    Snappy(SnappyWriter),
    /// An LZ4 frame of independent blocks.
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
    /// A Zstandard frame.
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
}

impl Pack {
    /// A writer that puts bytes compressed with `codec` behind those of `front`.
    pub fn new(codec: Codec, mut front: Vec<u8>) -> io::Result<Pack> {
        Ok(match codec {
            Codec::None => Pack::Plain(front),
            Codec::Gzip => Pack::Gzip(Box::new(flate2::write::GzEncoder::new(
                front,
                flate2::Compression::default(),
            ))),
            Codec::Snappy => {
                front.extend_from_slice(&XERIAL);
                let block = Vec::with_capacity(XERIAL_BLOCK);
                Pack::Snappy(SnappyWriter { out: front, block })
            }
            Codec::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_mode(lz4_flex::frame::BlockMode::Independent)
                    .block_size(lz4_flex::frame::BlockSize::Max64KB);
                let encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, front);
                Pack::Lz4(Box::new(encoder))
            }
            // 0 stands for the library's default level.
            Codec::Zstd => Pack::Zstd(Box::new(zstd::stream::write::Encoder::new(front, 0)?)),
        })
    }

    /// The front with all that was written behind it, compressed.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Pack::Plain(out) => Ok(out),
            Pack::Gzip(w) => w.finish(),
            Pack::Snappy(mut w) => {
                w.end_block()?;
                Ok(w.out)
            }
            Pack::Lz4(w) => w.finish().map_err(io::Error::other),
            Pack::Zstd(w) => w.finish(),
        }
    }
}

impl Write for Pack {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Pack::Plain(out) => out.write(bytes),
            Pack::Gzip(w) => w.write(bytes),
            Pack::Snappy(w) => w.write(bytes),
            Pack::Lz4(w) => w.write(bytes),
            Pack::Zstd(w) => w.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Snappy as Java's clients write it: blocks with a big-endian length.
pub struct SnappyWriter {
    out: Vec<u8>,
    block: Vec<u8>,
}

impl SnappyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(XERIAL_BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        if self.block.len() == XERIAL_BLOCK {
            self.end_block()?;
        }
        Ok(n)
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let packed = snap::raw::Encoder::new()
            .compress_vec(&self.block)
            .map_err(io::Error::other)?;
        self.out
            .extend_from_slice(&(packed.len() as u32).to_be_bytes());
        self.out.extend_from_slice(&packed);
        self.block.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{Inflate, Window};

    #[test]
    fn what_is_packed_inflates_again() {
        let bytes: Vec<u8> = (0..200_000u32)
            .map(|i| ((u64::from(i) * u64::from(i)) >> 7) as u8)
            .collect();
        for codec in [
            Codec::None,
            Codec::Gzip,
            Codec::Snappy,
            Codec::Lz4,
            Codec::Zstd,
        ] {
            for len in [0, 1, 1000, 32 << 10, 200_000] {
                let mut pack = Pack::new(codec, vec![7; 3]).unwrap();
                pack.write_all(&bytes[..len]).unwrap();
                let out = pack.finish().unwrap();
                assert_eq!(&out[..3], [7; 3]);
                let (mut again, mut window) = (Vec::new(), Window::take());
                let mut inflate = Inflate::new(codec, &out[3..]).unwrap();
                loop {
                    match inflate.next(&mut window).unwrap() {
                        0 => break,
                        n => again.extend_from_slice(&window[..n]),
                    }
                }
                assert!(again == bytes[..len], "{} of {len} bytes", codec.name());
            }
        }
    }
}
