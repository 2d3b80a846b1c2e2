//! Record batch v2 (magic 2): the header, read and written in place.
//!
//! A batch on disk is byte for byte what travels on the wire: 61 bytes of header, big-endian, then
//! the records, compressed or not. The CRC-32C covers everything from the attributes on, so base
//! offset and leader epoch can be stamped without touching it. Layout: Kafka's message format v2
//! (KIP-98).

use std::fmt;

use streamd_model::{Epoch, ErrorCode, Offset};

/// Bytes of a batch header, from the base offset to the record count.
pub const HEADER: usize = 61;
/// Bytes before the part that `batchLength` counts: base offset and the length itself.
pub const LOG_OVERHEAD: usize = 12;
/// Where the CRC's range begins.
const CRC_FROM: usize = 21;

const ATTR_CODEC: i16 = 0x07;
const ATTR_LOG_APPEND_TIME: i16 = 0x08;
const ATTR_TRANSACTIONAL: i16 = 0x10;
const ATTR_CONTROL: i16 = 0x20;
const ATTR_DELETE_HORIZON: i16 = 0x40;

/// Why a batch was refused. `code` is what the client gets, `text` is for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchError {
    /// Kafka's code.
    pub code: ErrorCode,
    /// What was read and what was expected.
    pub text: String,
    /// The indexes (0-based, in the batch) of the records to blame, when it's about single ones.
    pub records: Vec<i32>,
}

impl BatchError {
    /// An error about the batch as a whole.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> BatchError {
        BatchError {
            code,
            text: text.into(),
            records: Vec::new(),
        }
    }

    pub(crate) fn corrupt(text: impl Into<String>) -> BatchError {
        BatchError::new(ErrorCode::CorruptMessage, text)
    }

    pub(crate) fn invalid(text: impl Into<String>) -> BatchError {
        BatchError::new(ErrorCode::InvalidRecord, text)
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for BatchError {}

/// The compression of a batch's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not compressed.
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy, in xerial framing or raw.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard frames.
    Zstd,
}

impl Codec {
    /// The name that `compression.type` uses.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// The codec with this number in the attributes.
    pub fn from_bits(bits: i16) -> Option<Codec> {
        [
            Codec::None,
            Codec::Gzip,
            Codec::Snappy,
            Codec::Lz4,
            Codec::Zstd,
        ]
        .get(usize::try_from(bits).ok()?)
        .copied()
    }
}

/// The header of a batch, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes of the whole batch, header included.
    pub size: usize,
    /// Leader epoch that wrote it.
    pub epoch: Epoch,
    /// CRC-32C of the bytes from the attributes on.
    pub crc: u32,
    /// Codec, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Offset of the last record less `base_offset`.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, ms; or the delete horizon.
    pub base_timestamp: i64,
    /// The greatest timestamp, ms.
    pub max_timestamp: i64,
    /// -1 when not idempotent.
    pub producer_id: i64,
    /// -1 when not idempotent.
    pub producer_epoch: i16,
    /// Sequence number of the first record; -1 when not idempotent.
    pub base_sequence: i32,
    /// Number of records.
    pub count: i32,
}

fn i16_at(b: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([b[at], b[at + 1]])
}

fn i32_at(b: &[u8], at: usize) -> i32 {
    i32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn i64_at(b: &[u8], at: usize) -> i64 {
    let mut w = [0u8; 8];
    w.copy_from_slice(&b[at..at + 8]);
    i64::from_be_bytes(w)
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`, which may hold less than the whole batch. Checks
    /// magic and that the length is at least a header's; not the CRC, and not that the whole batch
    /// is there.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        if bytes.len() > 16 && bytes[16] != 2 {
            let magic = bytes[16] as i8;
            // What Kafka 4 answers: old formats are known but refused, others are damage.
            let code = match magic {
                0 | 1 => ErrorCode::InvalidRecord,
                _ => ErrorCode::CorruptMessage,
            };
            return Err(BatchError::new(
                code,
                format!("message format (magic) {magic}: only record batches of magic 2 are taken"),
            ));
        }
        if bytes.len() < HEADER {
            return Err(BatchError::invalid(format!(
                "{} bytes, shorter than a record batch header of {HEADER}",
                bytes.len()
            )));
        }
        let length = i32_at(bytes, 8);
        if length < (HEADER - LOG_OVERHEAD) as i32 {
            return Err(BatchError::corrupt(format!(
                "batch length {length}, less than the smallest possible, {}",
                HEADER - LOG_OVERHEAD
            )));
        }
        Ok(BatchHeader {
            base_offset: i64_at(bytes, 0),
            size: length as usize + LOG_OVERHEAD,
            epoch: i32_at(bytes, 12),
            crc: i32_at(bytes, 17) as u32,
            attributes: i16_at(bytes, CRC_FROM),
            last_offset_delta: i32_at(bytes, 23),
            base_timestamp: i64_at(bytes, 27),
            max_timestamp: i64_at(bytes, 35),
            producer_id: i64_at(bytes, 43),
            producer_epoch: i16_at(bytes, 51),
            base_sequence: i32_at(bytes, 53),
            count: i32_at(bytes, 57),
        })
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> Offset {
        self.last_offset() + 1
    }

    /// The compression; `None` for a number that stands for no codec.
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_bits(self.attributes & ATTR_CODEC)
    }

    /// Whether the timestamps were given by the broker (LogAppendTime).
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & ATTR_LOG_APPEND_TIME != 0
    }

    /// Whether it is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & ATTR_TRANSACTIONAL != 0
    }

    /// Whether it holds transaction markers rather than records.
    pub fn is_control(&self) -> bool {
        self.attributes & ATTR_CONTROL != 0
    }

    /// From when on, ms, the tombstones of a compacted batch need not stay (KIP-534). The base
    /// timestamp is this time then, and the records' timestamps count from it.
    pub fn delete_horizon(&self) -> Option<i64> {
        (self.attributes & ATTR_DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// Whether an idempotent producer wrote it.
    pub fn is_idempotent(&self) -> bool {
        self.producer_id >= 0
    }
}

/// Checks the CRC of the whole batch in `bytes` (exactly one batch).
pub fn crc_matches(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER && crc_of(bytes) == i32_at(bytes, 17) as u32
}

/// The CRC of a batch, from its bytes.
pub(crate) fn crc_of(batch: &[u8]) -> u32 {
    crc32c::crc32c(&batch[CRC_FROM..])
}

/// Stamps base offset and leader epoch. Neither is under the CRC.
pub fn stamp(bytes: &mut [u8], base_offset: Offset, epoch: Epoch) {
    bytes[0..8].copy_from_slice(&base_offset.to_be_bytes());
    bytes[12..16].copy_from_slice(&epoch.to_be_bytes());
}

/// Writes the greatest timestamp, with the LogAppendTime bit if asked, and the CRC anew.
pub fn restamp_time(bytes: &mut [u8], max_timestamp: i64, log_append_time: bool) {
    let mut attributes = i16_at(bytes, CRC_FROM) & !ATTR_LOG_APPEND_TIME;
    if log_append_time {
        attributes |= ATTR_LOG_APPEND_TIME;
    }
    bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
    bytes[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    refresh_crc(bytes);
}

/// Writes the CRC of a batch anew.
pub(crate) fn refresh_crc(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// One record for [`build`].
#[derive(Clone, Debug, Default)]
pub struct NewRecord<'a> {
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// `None` is a null key.
    pub key: Option<&'a [u8]>,
    /// `None` is a null value (a tombstone in a compacted topic).
    pub value: Option<&'a [u8]>,
}

/// Who writes a batch: the three producer fields. `Default` is "not idempotent".
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// Producer id or -1.
    pub id: i64,
    /// Producer epoch or -1.
    pub epoch: i16,
    /// Sequence number of the first record or -1.
    pub sequence: i32,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer {
            id: -1,
            epoch: -1,
            sequence: -1,
        }
    }
}

/// Sets whether the batch is part of a transaction and whether it holds markers, and writes the
/// CRC anew.
pub fn set_transactional(bytes: &mut [u8], control: bool) {
    let mut attributes = i16_at(bytes, CRC_FROM) | ATTR_TRANSACTIONAL;
    if control {
        attributes |= ATTR_CONTROL;
    }
    bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
    refresh_crc(bytes);
}

/// A marker that ends a transaction, as a batch of its own, in Kafka's format.
pub fn build_marker(
    producer: (i64, i16),
    commit: bool,
    coordinator_epoch: i32,
    now_ms: i64,
) -> Vec<u8> {
    let key = [0, 0, 0, u8::from(commit)];
    let mut value = vec![0, 0];
    value.extend_from_slice(&coordinator_epoch.to_be_bytes());
    let record = NewRecord {
        timestamp: now_ms,
        key: Some(&key),
        value: Some(&value),
    };
    let writer = Writer {
        id: producer.0,
        epoch: producer.1,
        sequence: -1,
    };
    let mut bytes = build(&[record], writer);
    set_transactional(&mut bytes, true);
    bytes
}

/// Whether a batch of markers commits (`true`) or aborts; `None` if it is of another kind.
pub fn marker_commits(batch: &[u8]) -> Option<bool> {
    let view = crate::record_view::BatchView::new(batch, 1 << 20).ok()?;
    let record = view.records().next()?.ok()?;
    match *record.key?.get(..4)? {
        [_, _, 0, 0] => Some(false),
        [_, _, 0, 1] => Some(true),
        _ => None,
    }
}

/// The epoch of the coordinator that wrote a batch of markers; -1 if that is not in it.
pub fn marker_epoch(batch: &[u8]) -> i32 {
    let epoch = || {
        let view = crate::record_view::BatchView::new(batch, 1 << 20).ok()?;
        let record = view.records().next()?.ok()?;
        record.value?.get(2..6)?.try_into().ok()
    };
    epoch().map_or(-1, i32::from_be_bytes)
}

pub(crate) fn put_varint(out: &mut Vec<u8>, v: i64) {
    let mut z = ((v << 1) ^ (v >> 63)) as u64;
    while z >= 0x80 {
        out.push(z as u8 | 0x80);
        z >>= 7;
    }
    out.push(z as u8);
}

/// A record's header: key and value.
pub type NewHeader<'a> = (&'a str, &'a [u8]);

/// A batch without records that has the offsets from `base` up to `next`: what stands for records
/// that were compacted away.
pub fn build_empty(base: Offset, next: Offset, epoch: Epoch) -> Vec<u8> {
    let delta = next - base - 1;
    assert!(
        (0..=i64::from(i32::MAX)).contains(&delta),
        "offsets of one batch"
    );
    let mut out = vec![0u8; HEADER];
    out[8..12].copy_from_slice(&((HEADER - LOG_OVERHEAD) as i32).to_be_bytes());
    out[16] = 2;
    out[23..27].copy_from_slice(&(delta as i32).to_be_bytes());
    out[27..35].copy_from_slice(&(-1i64).to_be_bytes());
    // No producer, and no sequence number.
    out[43..57].fill(0xff);
    stamp(&mut out, base, epoch);
    restamp_time(&mut out, -1, false);
    out
}

/// Builds an uncompressed batch with base offset 0, for what the broker itself writes and for
/// tests. `records` must not be empty.
pub fn build(records: &[NewRecord<'_>], writer: Writer) -> Vec<u8> {
    build_headed(records, &[], writer)
}

/// The same with headers: those of the first record, of the second...; none for the others.
pub fn build_headed(
    records: &[NewRecord<'_>],
    headers: &[Vec<NewHeader<'_>>],
    writer: Writer,
) -> Vec<u8> {
    assert!(!records.is_empty(), "a batch holds at least one record");
    let base = records[0].timestamp;
    let max = records.iter().map(|r| r.timestamp).max().unwrap_or(base);
    let mut out = vec![0u8; HEADER];
    let mut body = Vec::new();
    for (i, r) in records.iter().enumerate() {
        body.clear();
        body.push(0);
        put_varint(&mut body, r.timestamp - base);
        put_varint(&mut body, i as i64);
        for field in [r.key, r.value] {
            put_varint(&mut body, field.map_or(-1, |f| f.len() as i64));
            body.extend_from_slice(field.unwrap_or_default());
        }
        let headers = headers.get(i).map_or(&[][..], Vec::as_slice);
        put_varint(&mut body, headers.len() as i64);
        for field in headers.iter().flat_map(|(k, v)| [k.as_bytes(), v]) {
            put_varint(&mut body, field.len() as i64);
            body.extend_from_slice(field);
        }
        put_varint(&mut out, body.len() as i64);
        out.extend_from_slice(&body);
    }
    let count = records.len() as i32;
    let length = (out.len() - LOG_OVERHEAD) as i32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[16] = 2;
    out[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    out[27..35].copy_from_slice(&base.to_be_bytes());
    out[43..51].copy_from_slice(&writer.id.to_be_bytes());
    out[51..53].copy_from_slice(&writer.epoch.to_be_bytes());
    out[53..57].copy_from_slice(&writer.sequence.to_be_bytes());
    out[57..61].copy_from_slice(&count.to_be_bytes());
    restamp_time(&mut out, max, false);
    out
}
