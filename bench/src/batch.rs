//! Record batches (format 2): encoded once to be replayed, and walked when they are fetched.
//!
//! The CRC-32C covers everything from the attributes to the end. Base offset and leader epoch lie
//! before it: the broker sets them.

use std::io::Write;
use std::rc::Rc;

use clap::ValueEnum;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use serde::Serialize;

/// The bytes of a batch before its records.
pub const HEADER: usize = 61;
/// Where the bytes begin that the CRC covers.
const CRC_FROM: usize = 21;
/// The bytes before those that the batch's length field counts.
const LENGTH_FROM: usize = 12;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all.
    None,
    /// LZ4 frames of independent 64 KiB blocks without checksums, as Kafka's own client writes.
    Lz4,
}

/// A record to be put into a batch.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Rc<[u8]>,
}

impl Record {
    /// A record without a key.
    pub fn of(value: impl Into<Rc<[u8]>>) -> Record {
        Record {
            key: None,
            value: value.into(),
        }
    }
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut bits = ((value << 1) ^ (value >> 63)) as u64;
    while bits > 0x7f {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

fn records_section(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.iter().map(|r| r.value.len() + 40).sum());
    let mut record = Vec::new();
    for (i, Record { key, value }) in records.iter().enumerate() {
        record.clear();
        record.push(0); // attributes
        varint(&mut record, 0); // timestamp delta
        varint(&mut record, i as i64); // offset delta
        varint(&mut record, key.as_ref().map_or(-1, |key| key.len() as i64));
        record.extend_from_slice(key.as_deref().unwrap_or_default());
        varint(&mut record, value.len() as i64);
        record.extend_from_slice(value);
        varint(&mut record, 0); // no headers
        varint(&mut out, record.len() as i64);
        out.extend_from_slice(&record);
    }
    out
}

fn lz4(plain: &[u8]) -> Vec<u8> {
    let info = FrameInfo::new()
        .block_size(BlockSize::Max64KB)
        .block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::with_capacity(plain.len()));
    let written = encoder.write_all(plain).map_err(|error| error.to_string());
    match written.and_then(|()| encoder.finish().map_err(|error| error.to_string())) {
        Ok(packed) => packed,
        Err(error) => unreachable!("compressing into memory failed: {error}"),
    }
}

/// Encodes a batch at base offset 0, without headers and producer id, every record stamped
/// with `time_ms`.
pub fn encode(records: &[Record], codec: Codec, time_ms: i64) -> Vec<u8> {
    let section = records_section(records);
    let (attributes, section) = match codec {
        Codec::None => (0i16, section),
        Codec::Lz4 => (3, lz4(&section)),
    };
    let count = records.len() as i32;
    let mut out = Vec::with_capacity(HEADER + section.len());
    out.extend_from_slice(&0i64.to_be_bytes());
    out.extend_from_slice(&((HEADER - LENGTH_FROM + section.len()) as i32).to_be_bytes());
    out.extend_from_slice(&(-1i32).to_be_bytes()); // leader epoch
    out.push(2); // magic
    out.extend_from_slice(&[0; 4]); // the CRC comes last
    out.extend_from_slice(&attributes.to_be_bytes());
    out.extend_from_slice(&(count - 1).to_be_bytes());
    out.extend_from_slice(&time_ms.to_be_bytes());
    out.extend_from_slice(&time_ms.to_be_bytes());
    out.extend_from_slice(&(-1i64).to_be_bytes()); // producer id
    out.extend_from_slice(&(-1i16).to_be_bytes()); // producer epoch
    out.extend_from_slice(&(-1i32).to_be_bytes()); // sequence
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&section);
    let crc = crc32c::crc32c(&out[CRC_FROM..]);
    out[CRC_FROM - 4..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    out
}

/// Makes a batch the first one of a producer's epoch and part of its transaction.
pub fn in_transaction(batch: &mut [u8], producer: i64, epoch: i16) {
    batch[CRC_FROM + 1] |= 0x10;
    batch[43..51].copy_from_slice(&producer.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&0i32.to_be_bytes());
    let crc = crc32c::crc32c(&batch[CRC_FROM..]);
    batch[CRC_FROM - 4..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
}

/// What a walk over fetched batches found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Records in whole batches at or after the asked offset (a batch counts as a whole).
    pub records: u64,
    /// The bytes of those batches.
    pub bytes: u64,
    /// The offset behind the last whole batch; `None` without one.
    pub next: Option<i64>,
}

fn be<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Walks over batches from header to header. The last one may be cut, as Kafka allows. Stops at
/// the first thing that is no batch header.
pub fn walk(mut bytes: &[u8]) -> Walked {
    let mut walked = Walked::default();
    while bytes.len() >= HEADER {
        let step = || {
            let base = i64::from_be_bytes(be(bytes, 0)?);
            let length = i32::from_be_bytes(be(bytes, 8)?);
            let last = i32::from_be_bytes(be(bytes, 23)?);
            let count = i32::from_be_bytes(be(bytes, 57)?);
            let whole = usize::try_from(length).ok()? + LENGTH_FROM;
            let count = u64::try_from(count).ok()?;
            let fits = (HEADER..=bytes.len()).contains(&whole) && last >= 0;
            fits.then_some((whole, count, base.checked_add(i64::from(last) + 1)?))
        };
        let Some((whole, count, next)) = step() else {
            break;
        };
        walked.records += count;
        walked.bytes += whole as u64;
        walked.next = Some(next);
        bytes = &bytes[whole..];
    }
    walked
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch with the two records "a" and "bc" at time 1,700,000,000,000, byte by byte as the
    /// format says, the CRC computed with the bitwise definition of CRC-32C below.
    fn golden() -> Vec<u8> {
        let mut out = vec![
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 66, 0xff, 0xff, 0xff, 0xff, 2,
        ];
        let mut rest = vec![0, 0, 0, 0, 0, 1];
        rest.extend([0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0]);
        rest.extend([0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0]);
        rest.extend([0xff; 14]);
        rest.extend([0, 0, 0, 2]);
        rest.extend([14, 0, 0, 0, 1, 2, b'a', 0]);
        rest.extend([16, 0, 0, 2, 1, 4, b'b', b'c', 0]);
        out.extend(bitwise_crc(&rest).to_be_bytes());
        out.extend(rest);
        out
    }

    fn bitwise_crc(data: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in data {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
            }
        }
        !crc
    }

    #[test]
    fn the_bitwise_crc_gives_the_published_check_value() {
        assert_eq!(bitwise_crc(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn an_encoded_batch_is_the_golden_one() {
        let records = [b"a".to_vec(), b"bc".to_vec()].map(Record::of);
        let batch = encode(&records, Codec::None, 1_700_000_000_000);
        assert_eq!(batch, golden());
    }

    #[test]
    fn a_batch_of_a_transaction_has_its_producer_and_a_right_crc() {
        let mut batch = golden();
        in_transaction(&mut batch, 0x0102, 3);
        assert_eq!(batch[21..23], [0, 0x10]);
        assert_eq!(batch[43..57], [0, 0, 0, 0, 0, 0, 1, 2, 0, 3, 0, 0, 0, 0]);
        assert_eq!(batch[57..], golden()[57..]);
        let crc = bitwise_crc(&batch[CRC_FROM..]).to_be_bytes();
        assert_eq!(batch[17..CRC_FROM], crc);
    }

    #[test]
    fn a_key_stands_before_the_value() {
        let record = Record {
            key: Some(b"k".to_vec()),
            ..Record::of(b"v".to_vec())
        };
        let batch = encode(&[record], Codec::None, 0);
        assert_eq!(batch[HEADER..], [16, 0, 0, 0, 2, b'k', 2, b'v', 0]);
    }

    #[test]
    fn lz4_batches_unpack_to_the_plain_section_and_carry_a_right_crc() {
        let records: Vec<_> = (0..500)
            .map(|i| Record::of(format!("record {i}").into_bytes()))
            .collect();
        let batch = encode(&records, Codec::Lz4, 5);
        assert_eq!(&batch[CRC_FROM..CRC_FROM + 2], &[0, 3]);
        let crc = bitwise_crc(&batch[CRC_FROM..]).to_be_bytes();
        assert_eq!(&batch[17..CRC_FROM], &crc);
        // The frame's flags: version 1, independent blocks, no checksums, no size; 64 KiB blocks.
        assert_eq!(
            &batch[HEADER..HEADER + 6],
            &[4, 0x22, 0x4d, 0x18, 0x60, 0x40]
        );
        let mut plain = Vec::new();
        let mut decoder = lz4_flex::frame::FrameDecoder::new(&batch[HEADER..]);
        std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
        assert_eq!(plain, records_section(&records));
    }

    #[test]
    fn a_walk_counts_whole_batches_and_stops_at_a_cut_one() {
        let batch = encode(
            &[b"x", b"y"].map(|value| Record::of(value.to_vec())),
            Codec::None,
            0,
        );
        let mut second = batch.clone();
        second[..8].copy_from_slice(&2i64.to_be_bytes());
        let mut both = [batch.clone(), second].concat();
        let whole = walk(&both);
        assert_eq!((whole.records, whole.next), (4, Some(4)));
        assert_eq!(whole.bytes, both.len() as u64);
        both.pop();
        assert_eq!(walk(&both).next, Some(2));
        assert_eq!(walk(&both[..40]), Walked::default());
    }

    #[test]
    fn a_walk_over_nonsense_ends() {
        for byte in [0u8, 1, 0x7f, 0xff] {
            assert_eq!(walk(&[byte; 300]), Walked::default());
        }
    }
}
