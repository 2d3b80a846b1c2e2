//! Record batches (magic 2) made by hand, so that each field can be made wrong.
//!
//! Nothing here is shared with the broker: a mistake made on both sides would hide itself.

/// Byte offsets of a batch's fields.
pub mod field {
    /// `batchLength`, an i32: bytes after itself.
    pub const LENGTH: usize = 8;
    /// `magic`, an i8.
    pub const MAGIC: usize = 16;
    /// `crc`, a u32 over all from the attributes on.
    pub const CRC: usize = 17;
    /// `attributes`, an i16: codec in the low three bits, control bit 5.
    pub const ATTRIBUTES: usize = 21;
    /// `lastOffsetDelta`, an i32.
    pub const LAST_DELTA: usize = 23;
    /// `baseTimestamp`, an i64; `maxTimestamp` follows.
    pub const TIME: usize = 27;
    /// `producerId`, an i64; then `producerEpoch`, an i16, and `baseSequence`, an i32.
    pub const PRODUCER: usize = 43;
    /// `records`, an i32: their count.
    pub const COUNT: usize = 57;
    /// The records themselves.
    pub const RECORDS: usize = 61;
}

/// What a batch is made of.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Codec number.
    pub codec: i16,
    /// (producer id, epoch, base sequence) of an idempotent producer.
    pub producer: Option<(i64, i16, i32)>,
    /// The records, compressed already when there is a codec.
    pub records: Vec<u8>,
    /// How many they are.
    pub count: i32,
    /// Milliseconds since 1970 of all records.
    pub timestamp: i64,
}

impl Batch {
    /// A plain batch of records with null keys.
    #[must_use]
    pub fn of<V: AsRef<[u8]>>(values: &[V]) -> Self {
        let mut records = Vec::new();
        for (i, value) in values.iter().enumerate() {
            record(&mut records, i as i64, None, value.as_ref());
        }
        let timestamp = i64::try_from(crate::client::now_ms()).expect("a clock of this age");
        Self {
            codec: 0,
            producer: None,
            records,
            count: values.len() as i32,
            timestamp,
        }
    }

    /// The bytes, with a right length and CRC.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (id, epoch, sequence) = self.producer.unwrap_or((-1, -1, -1));
        let mut out = vec![0; field::LENGTH + 4];
        out.extend((-1i32).to_be_bytes()); // leader epoch
        out.push(2);
        out.extend([0; 4]);
        out.extend(self.codec.to_be_bytes());
        out.extend((self.count - 1).to_be_bytes());
        out.extend(self.timestamp.to_be_bytes());
        out.extend(self.timestamp.to_be_bytes());
        out.extend(id.to_be_bytes());
        out.extend(epoch.to_be_bytes());
        out.extend(sequence.to_be_bytes());
        out.extend(self.count.to_be_bytes());
        out.extend(&self.records);
        fix(&mut out);
        out
    }
}

/// Makes length and CRC of a changed batch right again.
pub fn fix(batch: &mut [u8]) {
    let length = i32::try_from(batch.len() - field::LENGTH - 4).expect("a small batch");
    put(batch, field::LENGTH, &length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[field::ATTRIBUTES..]);
    put(batch, field::CRC, &crc.to_be_bytes());
}

/// Overwrites a field.
pub fn put(batch: &mut [u8], at: usize, bytes: &[u8]) {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Appends a record with the given offset delta, no headers.
pub fn record(out: &mut Vec<u8>, delta: i64, key: Option<&[u8]>, value: &[u8]) {
    let mut body = vec![0]; // attributes
    varint(&mut body, 0); // timestamp delta
    varint(&mut body, delta);
    varint(&mut body, key.map_or(-1, |k| k.len() as i64));
    body.extend(key.unwrap_or_default());
    varint(&mut body, value.len() as i64);
    body.extend(value);
    varint(&mut body, 0);
    varint(out, body.len() as i64);
    out.extend(body);
}

/// A signed number in zigzag form, seven bits a byte.
pub fn varint(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn read_varint(bytes: &mut &[u8]) -> i64 {
    let mut raw = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().expect("a whole varint");
        *bytes = rest;
        raw |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return (raw >> 1) as i64 ^ -((raw & 1) as i64);
        }
    }
    panic!("a varint of more than ten bytes");
}

/// A record that a fetch gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// Its place in the partition.
    pub offset: i64,
    /// Its value; null is empty.
    pub value: Vec<u8>,
}

/// The records of fetched uncompressed batches; a batch that is cut at the end is left out.
///
/// # Panics
/// When a whole batch has a wrong CRC or form.
#[must_use]
pub fn decode(mut bytes: &[u8]) -> Vec<Read> {
    let mut out = Vec::new();
    while bytes.len() >= field::RECORDS {
        let base = i64::from_be_bytes(bytes[..8].try_into().expect("8 bytes"));
        let length = int(bytes, field::LENGTH) as usize + field::LENGTH + 4;
        if bytes.len() < length {
            break;
        }
        let (batch, rest) = bytes.split_at(length);
        bytes = rest;
        let crc = int(batch, field::CRC) as u32;
        assert_eq!(
            crc,
            crc32c::crc32c(&batch[field::ATTRIBUTES..]),
            "CRC of the batch at {base}"
        );
        assert_eq!(batch[field::MAGIC], 2, "magic of the batch at {base}");
        let mut left = &batch[field::RECORDS..];
        for _ in 0..int(batch, field::COUNT) {
            out.push(decode_record(base, &mut left));
        }
        assert!(
            left.is_empty(),
            "bytes after the last record of the batch at {base}"
        );
    }
    out
}

fn decode_record(base: i64, left: &mut &[u8]) -> Read {
    let length = read_varint(left);
    let (mut body, rest) = left.split_at(usize::try_from(length).expect("a record's length"));
    *left = rest;
    body = &body[1..];
    let _timestamp = read_varint(&mut body);
    let offset = base + read_varint(&mut body);
    let key = read_varint(&mut body).max(0) as usize;
    body = &body[key..];
    let value = read_varint(&mut body).max(0) as usize;
    Read {
        offset,
        value: body[..value].to_vec(),
    }
}

fn int(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

#[cfg(test)]
mod tests {
    use super::{Batch, Read, decode};

    #[test]
    fn what_is_encoded_decodes() {
        let batch = Batch::of(&["one", "", &"x".repeat(300)]).encode();
        let got = decode(&batch);
        assert_eq!(got.len(), 3);
        assert_eq!(
            got[0],
            Read {
                offset: 0,
                value: b"one".to_vec()
            }
        );
        assert_eq!(
            got[2],
            Read {
                offset: 2,
                value: vec![b'x'; 300]
            }
        );
        assert_eq!(decode(&batch[..batch.len() - 1]), []);
    }
}
