//! Compressing a batch that was built, in the framings that every client reads.

use std::io::{self, Write};

use clap::ValueEnum;
use streamd_log::batch::{BatchHeader, HEADER, LOG_OVERHEAD, restamp_time};

/// What `--compression` can name. The order is that of the numbers in a batch's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// Not compressed
    None,
    /// gzip
    Gzip,
    /// Snappy
    Snappy,
    /// LZ4
    Lz4,
    /// Zstandard
    Zstd,
}

/// Bytes of a block in xerial's framing of snappy, as the Java client has it.
const SNAPPY_BLOCK: usize = 32 << 10;
const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

/// Compresses the records of an uncompressed batch, and writes length, attributes and CRC anew.
///
/// # Errors
/// The encoder failed, which memory cannot make it do.
pub fn compress(batch: Vec<u8>, codec: Compression) -> io::Result<Vec<u8>> {
    if codec == Compression::None {
        return Ok(batch);
    }
    let header = BatchHeader::parse(&batch).map_err(io::Error::other)?;
    let (head, records) = batch.split_at(HEADER);
    let mut out = Vec::with_capacity(batch.len() / 2 + HEADER);
    out.extend_from_slice(head);
    let mut out = match codec {
        Compression::None => out,
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            gzip.write_all(records)?;
            gzip.finish()?
        }
        Compression::Snappy => snappy(out, records)?,
        Compression::Lz4 => lz4(out, records)?,
        Compression::Zstd => {
            let mut zstd = zstd::stream::write::Encoder::new(out, 0)?;
            zstd.write_all(records)?;
            zstd.finish()?
        }
    };
    let length = i32::try_from(out.len() - LOG_OVERHEAD).map_err(io::Error::other)?;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[22] |= codec as u8;
    restamp_time(&mut out, header.max_timestamp, header.is_log_append_time());
    Ok(out)
}

fn snappy(mut out: Vec<u8>, records: &[u8]) -> io::Result<Vec<u8>> {
    out.extend_from_slice(&XERIAL_HEADER);
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(SNAPPY_BLOCK) {
        let packed = encoder.compress_vec(block).map_err(io::Error::other)?;
        out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Ok(out)
}

fn lz4(out: Vec<u8>, records: &[u8]) -> io::Result<Vec<u8>> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    // Java reads independent blocks only.
    let info = FrameInfo::new()
        .block_mode(BlockMode::Independent)
        .block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    encoder.write_all(records)?;
    encoder.finish().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamd_log::batch::{NewRecord, Writer, build, crc_matches};
    use streamd_log::record_view::BatchView;

    #[test]
    fn every_codec_gives_back_what_went_in() {
        let values: Vec<String> = (0..20_000).map(|i| format!("value number {i}")).collect();
        let records: Vec<NewRecord<'_>> = values
            .iter()
            .enumerate()
            .map(|(i, v)| NewRecord {
                timestamp: 1000 + i as i64 % 7,
                key: (i % 3 > 0).then_some(&v.as_bytes()[..3]),
                value: Some(v.as_bytes()),
            })
            .collect();
        let plain = build(
            &records,
            Writer {
                id: 7,
                epoch: 1,
                sequence: 40,
            },
        );
        for codec in Compression::value_variants() {
            let packed = compress(plain.clone(), *codec).expect("compresses");
            assert!(
                *codec == Compression::None || packed.len() < plain.len() / 2,
                "{codec:?}"
            );
            assert!(crc_matches(&packed), "{codec:?}");
            let header = BatchHeader::parse(&packed).expect("header");
            assert_eq!(header.size, packed.len());
            assert_eq!(header.codec().map(|c| c as u8), Some(*codec as u8));
            assert_eq!((header.producer_id, header.base_sequence), (7, 40));
            assert_eq!((header.max_timestamp, header.count), (1006, 20_000));
            let view = BatchView::new(&packed, 64 << 20).expect("inflates");
            let mut count = 0;
            for (record, sent) in view.records().zip(&records) {
                let record = record.expect("record");
                assert_eq!((record.key, record.value), (sent.key, sent.value));
                assert_eq!(record.timestamp, sent.timestamp);
                count += 1;
            }
            assert_eq!(count, records.len(), "{codec:?}");
        }
    }
}
