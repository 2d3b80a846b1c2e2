//! The records of a batch with their keys, values and headers, for tools that show them.
//!
//! Unlike [`crate::records`], which the broker uses, this inflates a batch whole, up to a limit
//! that the caller sets, and then hands out slices of it. Every length is checked against the bytes
//! that are there; a record that is not sound is an error and the last one.

use std::borrow::Cow;
use std::io;

use streamd_model::Offset;

use crate::batch::{BatchError, BatchHeader, Codec, HEADER};
use crate::compress::{Inflate, Window};

/// A batch whose records lie uncompressed in memory.
pub struct BatchView<'a> {
    header: BatchHeader,
    records: Cow<'a, [u8]>,
}

/// One record. Borrows its batch's bytes.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'v> {
    /// Its offset in the partition.
    pub offset: Offset,
    /// Milliseconds since the Unix epoch; the batch's own for LogAppendTime.
    pub timestamp: i64,
    /// `None` is a null key.
    pub key: Option<&'v [u8]>,
    /// `None` is a null value.
    pub value: Option<&'v [u8]>,
    headers: (u32, &'v [u8]),
}

/// A record's header: key and value. A key that is not UTF-8 is given as it is.
pub type HeaderView<'v> = (&'v [u8], Option<&'v [u8]>);

impl<'a> BatchView<'a> {
    /// A view of `batch`, exactly one batch. Compressed records are inflated to at most `bytes_max`
    /// bytes. The CRC is not looked at.
    ///
    /// # Errors
    /// The header is wrong, the codec unknown, the compressed bytes are damaged, or they inflate to
    /// more than the limit.
    pub fn new(batch: &'a [u8], bytes_max: u64) -> Result<BatchView<'a>, BatchError> {
        let header = BatchHeader::parse(batch)?;
        if header.size != batch.len() {
            return Err(BatchError::corrupt(format!(
                "a batch of {} bytes in {}",
                header.size,
                batch.len()
            )));
        }
        let codec = header.codec().ok_or_else(|| {
            BatchError::invalid(format!(
                "unknown compression type {}",
                header.attributes & 7
            ))
        })?;
        let packed = &batch[HEADER..];
        if codec == Codec::None {
            return Ok(BatchView {
                header,
                records: Cow::Borrowed(packed),
            });
        }
        let mut inflated = Vec::new();
        inflate(codec, packed, bytes_max, &mut inflated).map_err(|e| {
            BatchError::invalid(format!("cannot decompress ({}): {e}", codec.name()))
        })?;
        if inflated.len() as u64 > bytes_max {
            return Err(BatchError::invalid(format!(
                "the batch ({}, {} bytes) inflates to more than {bytes_max} bytes",
                codec.name(),
                batch.len()
            )));
        }
        Ok(BatchView {
            header,
            records: Cow::Owned(inflated),
        })
    }

    /// The batch's header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The records, as many as the header counts. Bytes that are left behind the last one are an
    /// error.
    pub fn records(&self) -> Records<'_> {
        Records {
            header: self.header,
            rest: &self.records,
            left: self.header.count,
            done: false,
        }
    }
}

/// Stops behind `bytes_max`.
fn inflate(codec: Codec, packed: &[u8], bytes_max: u64, to: &mut Vec<u8>) -> io::Result<()> {
    let (mut inflate, mut window) = (Inflate::new(codec, packed)?, Window::take());
    loop {
        let n = inflate.next(&mut window)?;
        to.extend_from_slice(&window[..n]);
        if n == 0 || to.len() as u64 > bytes_max {
            return Ok(());
        }
    }
}

/// Iterates over the records of a [`BatchView`].
pub struct Records<'v> {
    header: BatchHeader,
    rest: &'v [u8],
    left: i32,
    done: bool,
}

impl<'v> Iterator for Records<'v> {
    type Item = Result<RecordView<'v>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.left <= 0 {
            self.done = true;
            let (count, left) = (self.header.count, self.rest.len());
            return (left > 0 || count < 0).then(|| {
                Err(BatchError::invalid(format!(
                    "{left} bytes are left after the {count} records that the header counts"
                )))
            });
        }
        self.left -= 1;
        let item = record(&self.header, &mut self.rest);
        self.done = item.is_err();
        Some(item)
    }
}

impl<'v> RecordView<'v> {
    /// The record's headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = HeaderView<'v>> + use<'v> {
        let (count, mut rest) = self.headers;
        // They were walked over once, so the walk cannot fail here.
        (0..count).map_while(move |_| header(&mut rest).ok())
    }
}

fn cut() -> BatchError {
    BatchError::invalid("the records end in the middle of a record")
}

fn take<'v>(rest: &mut &'v [u8], n: usize) -> Result<&'v [u8], BatchError> {
    let (head, tail) = rest.split_at_checked(n).ok_or_else(cut)?;
    *rest = tail;
    Ok(head)
}

fn varlong(rest: &mut &[u8]) -> Result<i64, BatchError> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (&byte, tail) = rest.split_first().ok_or_else(cut)?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err(BatchError::invalid("a varint of more than 10 bytes"))
}

fn varint(rest: &mut &[u8]) -> Result<i32, BatchError> {
    let v = varlong(rest)?;
    i32::try_from(v).map_err(|_| BatchError::invalid(format!("{v} does not fit 32 bits")))
}

fn field<'v>(rest: &mut &'v [u8]) -> Result<Option<&'v [u8]>, BatchError> {
    match usize::try_from(varint(rest)?) {
        Ok(n) => take(rest, n).map(Some),
        Err(_) => Ok(None),
    }
}

fn header<'v>(rest: &mut &'v [u8]) -> Result<HeaderView<'v>, BatchError> {
    let key = field(rest)?.ok_or_else(|| BatchError::invalid("a record header with a null key"))?;
    Ok((key, field(rest)?))
}

fn record<'v>(batch: &BatchHeader, rest: &mut &'v [u8]) -> Result<RecordView<'v>, BatchError> {
    let size = usize::try_from(varint(rest)?)
        .map_err(|_| BatchError::invalid("a record of negative length"))?;
    let mut body = take(rest, size)?;
    let body = &mut body;
    take(body, 1)?;
    let timestamp_delta = varlong(body)?;
    let offset_delta = varint(body)?;
    let (key, value) = (field(body)?, field(body)?);
    let count = u32::try_from(varint(body)?)
        .map_err(|_| BatchError::invalid("a negative number of record headers"))?;
    let headers = (count, *body);
    for _ in 0..count {
        header(body)?;
    }
    if !body.is_empty() {
        return Err(BatchError::invalid(format!(
            "a record that states {size} bytes but takes {}",
            size - body.len()
        )));
    }
    let timestamp = if batch.is_log_append_time() {
        batch.max_timestamp
    } else {
        batch.base_timestamp.saturating_add(timestamp_delta)
    };
    let offset = batch.base_offset.saturating_add(i64::from(offset_delta));
    Ok(RecordView {
        offset,
        timestamp,
        key,
        value,
        headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{NewRecord, Writer, build, stamp};

    /// A record with two headers, the second without a value, as bytes.
    fn with_headers() -> Vec<u8> {
        let mut batch = build(&[NewRecord::default()], Writer::default());
        batch.truncate(HEADER);
        let body = [
            0, 6, 0, 2, b'k', 4, b'v', b'w', 4, 4, b'h', b'1', 2, b'x', 4, b'h', b'2', 1,
        ];
        batch.push(body.len() as u8 * 2);
        batch.extend_from_slice(&body);
        let length = (batch.len() - crate::batch::LOG_OVERHEAD) as i32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch
    }

    #[test]
    fn keys_values_and_headers() {
        let mut batch = with_headers();
        stamp(&mut batch, 100, 3);
        let view = BatchView::new(&batch, 0).expect("a batch");
        let records: Vec<_> = view.records().collect::<Result<_, _>>().expect("records");
        let [r] = records.as_slice() else {
            panic!("{} records", records.len())
        };
        assert_eq!((r.offset, r.timestamp), (100, 3));
        assert_eq!((r.key, r.value), (Some(&b"k"[..]), Some(&b"vw"[..])));
        let headers: Vec<_> = r.headers().collect();
        assert_eq!(headers, [(&b"h1"[..], Some(&b"x"[..])), (&b"h2"[..], None)]);
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_survived() {
        let whole = with_headers();
        for keep in HEADER..whole.len() {
            let mut batch = whole[..keep].to_vec();
            let length = (keep - crate::batch::LOG_OVERHEAD) as i32;
            batch[8..12].copy_from_slice(&length.to_be_bytes());
            let view = BatchView::new(&batch, 0).expect("a batch");
            assert!(view.records().any(|r| r.is_err()), "cut to {keep} bytes");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut batch = whole.clone();
                batch[at] ^= 1 << bit;
                let Ok(view) = BatchView::new(&batch, 1 << 16) else {
                    continue;
                };
                for r in view.records().flatten() {
                    assert!(r.headers().count() <= 2, "byte {at}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let mut batch = with_headers();
        batch.truncate(HEADER);
        let packed = zstd::stream::encode_all(&vec![0u8; 1 << 20][..], 1).expect("packs");
        batch.extend_from_slice(&packed);
        let length = (batch.len() - crate::batch::LOG_OVERHEAD) as i32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[22] |= 4;
        assert!(BatchView::new(&batch, 1 << 20).is_ok());
        let error = BatchView::new(&batch, (1 << 20) - 1)
            .err()
            .expect("over the limit");
        assert!(
            error.text.contains("inflates to more than 1048575 bytes"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_count_is_an_error() {
        for count in [0, 2, -1] {
            let mut batch = with_headers();
            batch[57..61].copy_from_slice(&i32::to_be_bytes(count));
            let view = BatchView::new(&batch, 0).expect("a batch");
            assert!(view.records().any(|r| r.is_err()), "{count} records");
        }
    }
}
