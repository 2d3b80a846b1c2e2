//! The records inside a batch, walked without allocating per record: only what the broker needs
//! (offset delta, timestamp delta, whether the key is null) is looked at, keys and values are
//! stepped over. Record layout: Kafka's message format v2, zig-zag varints.

use std::ops::Range;

use crate::batch::{BatchError, BatchHeader, HEADER};
use crate::compress::{INFLATED_MAX, Inflate, WINDOW, Window};

/// What the broker looks at in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMeta {
    /// Offset less the batch's base offset.
    pub offset_delta: i32,
    /// Timestamp less the batch's base timestamp, ms.
    pub timestamp_delta: i64,
    /// Whether the key is null.
    pub null_key: bool,
}

/// A source of bytes that a record is read from.
trait Feed {
    fn byte(&mut self) -> Result<u8, BatchError>;
    fn skip(&mut self, n: u64) -> Result<(), BatchError>;
    /// Bytes handed out so far.
    fn at(&self) -> u64;
    /// Whether everything was handed out. May read on.
    fn done(&mut self) -> Result<bool, BatchError>;
}

#[cold]
fn cut() -> BatchError {
    BatchError::invalid("the records end in the middle of a record")
}

struct Slice<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Feed for Slice<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, BatchError> {
        let b = *self.bytes.get(self.at).ok_or_else(cut)?;
        self.at += 1;
        Ok(b)
    }

    #[inline]
    fn skip(&mut self, n: u64) -> Result<(), BatchError> {
        if n > (self.bytes.len() - self.at) as u64 {
            return Err(cut());
        }
        self.at += n as usize;
        Ok(())
    }

    fn at(&self) -> u64 {
        self.at as u64
    }

    fn done(&mut self) -> Result<bool, BatchError> {
        Ok(self.at == self.bytes.len())
    }
}

struct Stream<'a> {
    inflate: Inflate<'a>,
    window: Window,
    from: usize,
    to: usize,
    before: u64,
}

impl Stream<'_> {
    /// Fills the window when it is empty; false at the end.
    fn fill(&mut self) -> Result<bool, BatchError> {
        if self.from < self.to {
            return Ok(true);
        }
        self.before += self.to as u64;
        (self.from, self.to) = (0, 0);
        if self.before > INFLATED_MAX {
            return Err(BatchError::invalid(format!(
                "the batch inflates to more than {INFLATED_MAX} bytes"
            )));
        }
        self.to = self
            .inflate
            .next(&mut self.window)
            .map_err(|e| BatchError::invalid(format!("cannot decompress: {e}")))?;
        Ok(self.to > 0)
    }
}

impl Feed for Stream<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, BatchError> {
        if self.from == self.to && !self.fill()? {
            return Err(cut());
        }
        let b = self.window[self.from];
        self.from += 1;
        Ok(b)
    }

    #[inline]
    fn skip(&mut self, mut n: u64) -> Result<(), BatchError> {
        while n > 0 {
            if self.from == self.to && !self.fill()? {
                return Err(cut());
            }
            let step = n.min((self.to - self.from) as u64);
            self.from += step as usize;
            n -= step;
        }
        Ok(())
    }

    fn at(&self) -> u64 {
        self.before + self.from as u64
    }

    fn done(&mut self) -> Result<bool, BatchError> {
        Ok(!self.fill()?)
    }
}

#[inline]
fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[inline]
fn varlong<F: Feed>(f: &mut F) -> Result<i64, BatchError> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let b = f.byte()?;
        value |= u64::from(b & 0x7f) << shift;
        if b & 0x80 == 0 {
            return Ok(unzigzag(value));
        }
    }
    Err(BatchError::invalid("a varint of more than 10 bytes"))
}

#[inline]
fn varint<F: Feed>(f: &mut F) -> Result<i32, BatchError> {
    let v = varlong(f)?;
    i32::try_from(v).map_err(|_| BatchError::invalid(format!("{v} does not fit 32 bits")))
}

/// Steps over a length-prefixed field; true when it is null.
#[inline]
fn field<F: Feed>(f: &mut F) -> Result<bool, BatchError> {
    let n = varint(f)?;
    if n < 0 {
        return Ok(true);
    }
    f.skip(n as u64)?;
    Ok(false)
}

fn header_count(n: i32) -> Result<i32, BatchError> {
    if n >= 0 {
        return Ok(n);
    }
    Err(BatchError::invalid(format!("a record with {n} headers")))
}

fn null_header() -> BatchError {
    BatchError::invalid("a record header with a null key")
}

fn check_size(stated: i32, read: u64) -> Result<(), BatchError> {
    if i64::from(stated) == read as i64 {
        return Ok(());
    }
    let text = format!("a record that states {stated} bytes but takes {read}");
    Err(BatchError::invalid(text))
}

fn record<F: Feed>(f: &mut F) -> Result<RecordMeta, BatchError> {
    let size = varint(f)?;
    let from = f.at();
    f.byte()?;
    let timestamp_delta = varlong(f)?;
    let offset_delta = varint(f)?;
    let null_key = field(f)?;
    field(f)?;
    for _ in 0..header_count(varint(f)?)? {
        if field(f)? {
            return Err(null_header());
        }
        field(f)?;
    }
    check_size(size, f.at() - from)?;
    Ok(RecordMeta {
        offset_delta,
        timestamp_delta,
        null_key,
    })
}

/// The record at the beginning of `bytes` and its length, if all of it is there and sound. What is
/// wrong with it, [`record`] says: without errors to hand on, this is quicker.
#[inline(always)]
fn whole_record(bytes: &[u8]) -> Option<(RecordMeta, usize)> {
    let mut at = 0;
    let size = length(bytes, &mut at)?;
    let end = at + usize::try_from(size).ok()?;
    let bytes = bytes.get(..end)?;
    at += 1;
    let timestamp_delta = number(bytes, &mut at)?;
    let offset_delta = length(bytes, &mut at)?;
    let key = length(bytes, &mut at)?;
    at += key.max(0) as usize;
    let value = length(bytes, &mut at)?;
    at += value.max(0) as usize;
    for _ in 0..usize::try_from(length(bytes, &mut at)?).ok()? {
        at += usize::try_from(length(bytes, &mut at)?).ok()?;
        at += length(bytes, &mut at)?.max(0) as usize;
    }
    let meta = RecordMeta {
        offset_delta,
        timestamp_delta,
        null_key: key < 0,
    };
    (at == end).then_some((meta, end))
}

/// Nearly all numbers of a record take one byte or two.
#[inline(always)]
fn number(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let first = *bytes.get(*at)?;
    if first < 0x80 {
        *at += 1;
        return Some(unzigzag(first.into()));
    }
    let second = *bytes.get(*at + 1)?;
    if second < 0x80 {
        *at += 2;
        return Some(unzigzag(u64::from(first & 0x7f) | u64::from(second) << 7));
    }
    long_number(bytes, at)
}

#[inline(never)]
fn long_number(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let b = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(b & 0x7f) << shift;
        if b & 0x80 == 0 {
            return Some(unzigzag(value));
        }
    }
    None
}

#[inline(always)]
fn length(bytes: &[u8], at: &mut usize) -> Option<i32> {
    i32::try_from(number(bytes, at)?).ok()
}

/// What comes next in a record of a stream.
#[derive(Clone, Copy, Default)]
enum Next {
    #[default]
    Record,
    Value,
    Headers,
    HeaderKey,
    HeaderValue,
}

/// A record of a stream that was begun. A key or value may be as long as the whole stream, so the
/// walk can stop inside one and go on later.
#[derive(Default)]
struct Begun {
    next: Next,
    /// Bytes of the field to step over.
    skip: u64,
    size: i32,
    from: u64,
    headers: i32,
    meta: Option<RecordMeta>,
}

impl Begun {
    /// Whether a new record comes next.
    #[inline]
    fn is_between(&self) -> bool {
        matches!(self.next, Next::Record)
    }

    /// Walks on to the end of the record, or until `until` bytes of the stream were handed out.
    fn walk(&mut self, f: &mut Stream<'_>, until: u64) -> Result<Option<RecordMeta>, BatchError> {
        loop {
            while self.skip > 0 {
                if f.at() >= until {
                    return Ok(None);
                }
                let step = self.skip.min(WINDOW as u64);
                f.skip(step)?;
                self.skip -= step;
            }
            if matches!(self.next, Next::HeaderKey) && self.headers == 0 {
                check_size(self.size, f.at() - self.from)?;
                self.next = Next::Record;
                return self.meta.take().map(Some).ok_or_else(cut);
            }
            self.field(f)?;
        }
    }

    fn field(&mut self, f: &mut Stream<'_>) -> Result<(), BatchError> {
        match self.next {
            Next::Record => {
                self.size = varint(f)?;
                self.from = f.at();
                f.byte()?;
                let (timestamp_delta, offset_delta) = (varlong(f)?, varint(f)?);
                let null_key = self.length(f)? < 0;
                self.meta = Some(RecordMeta {
                    offset_delta,
                    timestamp_delta,
                    null_key,
                });
                self.next = Next::Value;
            }
            Next::Value => {
                self.length(f)?;
                self.next = Next::Headers;
            }
            Next::Headers => {
                self.headers = header_count(varint(f)?)?;
                self.next = Next::HeaderKey;
            }
            Next::HeaderKey => {
                self.headers -= 1;
                if self.length(f)? < 0 {
                    return Err(null_header());
                }
                self.next = Next::HeaderValue;
            }
            Next::HeaderValue => {
                self.length(f)?;
                self.next = Next::HeaderKey;
            }
        }
        Ok(())
    }

    fn length(&mut self, f: &mut Stream<'_>) -> Result<i32, BatchError> {
        let n = varint(f)?;
        self.skip = n.max(0) as u64;
        Ok(n)
    }
}

enum Kind<'a> {
    Slice(Slice<'a>),
    Stream(Box<Stream<'a>>, Begun),
}

/// Walks the records of one batch.
pub struct Walker<'a> {
    kind: Kind<'a>,
}

impl<'a> Walker<'a> {
    /// A walker over `batch`, one whole batch with a parsed header.
    pub fn new(batch: &'a [u8], header: &BatchHeader) -> Result<Walker<'a>, BatchError> {
        let codec = header.codec().ok_or_else(|| {
            BatchError::invalid(format!(
                "unknown compression type {}",
                header.attributes & 7
            ))
        })?;
        let records = &batch[HEADER..];
        let kind = if codec == crate::batch::Codec::None {
            Kind::Slice(Slice {
                bytes: records,
                at: 0,
            })
        } else {
            let inflate = Inflate::new(codec, records)
                .map_err(|e| BatchError::invalid(format!("cannot decompress: {e}")))?;
            let stream = Stream {
                inflate,
                window: Window::take(),
                from: 0,
                to: 0,
                before: 0,
            };
            Kind::Stream(Box::new(stream), Begun::default())
        };
        Ok(Walker { kind })
    }

    /// The next record, if memory has all of it and it is sound; [`Walker::slow_record`] knows what
    /// else to do. Apart from that, and in line, it needs no memory for its result.
    #[inline(always)]
    pub(crate) fn quick_record(&mut self) -> Option<RecordMeta> {
        let (bytes, at) = match &mut self.kind {
            Kind::Slice(f) => (f.bytes, &mut f.at),
            Kind::Stream(f, begun) => {
                let f = &mut **f;
                // Nothing is left where one is half done.
                let to = if begun.is_between() { f.to } else { f.from };
                (&f.window[..to], &mut f.from)
            }
        };
        let (meta, len) = whole_record(&bytes[*at..])?;
        *at += len;
        Some(meta)
    }

    /// As [`Walker::next_record`], for what is not quick.
    #[cold]
    pub(crate) fn slow_record(&mut self, until: u64) -> Result<Option<RecordMeta>, BatchError> {
        match &mut self.kind {
            Kind::Slice(f) => record(f).map(Some),
            Kind::Stream(f, begun) => begun.walk(f, until),
        }
    }

    /// The next record; an error where the bytes do not make one. `None` when a compressed batch
    /// was walked up to position `until` inside a record: call again with more.
    #[inline]
    pub fn next_record(&mut self, until: u64) -> Result<Option<RecordMeta>, BatchError> {
        match self.quick_record() {
            Some(meta) => Ok(Some(meta)),
            None => self.slow_record(until),
        }
    }

    /// The next record, however long it takes.
    pub fn whole_record(&mut self) -> Result<RecordMeta, BatchError> {
        self.next_record(u64::MAX)?.ok_or_else(cut)
    }

    /// Uncompressed bytes walked so far.
    pub fn position(&self) -> u64 {
        match &self.kind {
            Kind::Slice(f) => f.at(),
            Kind::Stream(f, _) => f.at(),
        }
    }

    /// Whether no bytes are left after the last record.
    pub fn at_end(&mut self) -> Result<bool, BatchError> {
        match &mut self.kind {
            Kind::Slice(f) => f.done(),
            Kind::Stream(f, _) => f.done(),
        }
    }
}

/// The first record in `batch`, from offset `from` on, whose timestamp is at least `at_least` ms:
/// its offset and timestamp. With LogAppendTime every record has the batch's timestamp.
pub fn first_at_or_after(
    batch: &[u8],
    header: &BatchHeader,
    (at_least, from): (i64, i64),
) -> Result<Option<(i64, i64)>, BatchError> {
    if header.max_timestamp < at_least {
        return Ok(None);
    }
    let mut walker = Walker::new(batch, header)?;
    for _ in 0..header.count {
        let r = walker.whole_record()?;
        // Its first record may be gone: compaction leaves the batch its base offset.
        let t = match header.is_log_append_time() {
            true => header.max_timestamp,
            false => header.base_timestamp.saturating_add(r.timestamp_delta),
        };
        let offset = header.base_offset + i64::from(r.offset_delta);
        if t >= at_least && offset >= from {
            return Ok(Some((offset, t)));
        }
    }
    Ok(None)
}

/// The first of the records with the greatest timestamp, among those in `range`: offset and
/// timestamp.
pub fn latest_of(
    batch: &[u8],
    header: &BatchHeader,
    range: &Range<i64>,
) -> Result<Option<(i64, i64)>, BatchError> {
    let mut walker = Walker::new(batch, header)?;
    let mut best: Option<(i64, i64)> = None;
    for _ in 0..header.count {
        let r = walker.whole_record()?;
        let offset = header.base_offset + i64::from(r.offset_delta);
        let t = match header.is_log_append_time() {
            true => header.max_timestamp,
            false => header.base_timestamp.saturating_add(r.timestamp_delta),
        };
        if range.contains(&offset) && best.is_none_or(|(_, b)| b < t) {
            best = Some((offset, t));
        }
    }
    Ok(best)
}

/// The values of the records of an uncompressed batch, as ranges of `batch`; a null value is an
/// empty range. For what the broker itself writes; clients' batches are never taken apart.
pub fn values(
    batch: &[u8],
    header: &BatchHeader,
) -> Result<Vec<std::ops::Range<usize>>, BatchError> {
    let mut f = Slice {
        bytes: &batch[HEADER..],
        at: 0,
    };
    let mut ranges = Vec::new();
    for _ in 0..header.count {
        let size = varint(&mut f)?;
        let end = (f.at as i64 + i64::from(size)) as u64;
        f.byte()?;
        varlong(&mut f)?;
        varint(&mut f)?;
        field(&mut f)?;
        let len = varint(&mut f)?.max(0) as usize;
        let from = HEADER + f.at;
        f.skip(len as u64)?;
        ranges.push(from..from + len);
        f.skip(end.checked_sub(f.at()).ok_or_else(cut)?)?;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(out: &mut Vec<u8>, value: i64) {
        let mut bits = ((value << 1) ^ (value >> 63)) as u64;
        while bits > 0x7f {
            out.push(bits as u8 | 0x80);
            bits >>= 7;
        }
        out.push(bits as u8);
    }

    fn put_field(out: &mut Vec<u8>, field: Option<usize>) {
        put(out, field.map_or(-1, |len| len as i64));
        out.extend(std::iter::repeat_n(0xa7, field.unwrap_or(0)));
    }

    type Headers = Vec<(usize, Option<usize>)>;

    /// A record of fields of these lengths, and what the broker looks at in it.
    fn encode(
        (timestamp_delta, offset_delta): (i64, i32),
        (key, value): (Option<usize>, Option<usize>),
        headers: &Headers,
    ) -> (Vec<u8>, RecordMeta) {
        let mut body = vec![0];
        put(&mut body, timestamp_delta);
        put(&mut body, offset_delta.into());
        put_field(&mut body, key);
        put_field(&mut body, value);
        put(&mut body, headers.len() as i64);
        for &(name, value) in headers {
            put_field(&mut body, Some(name));
            put_field(&mut body, value);
        }
        let mut out = Vec::new();
        put(&mut out, body.len() as i64);
        out.extend(body);
        let meta = RecordMeta {
            offset_delta,
            timestamp_delta,
            null_key: key.is_none(),
        };
        (out, meta)
    }

    fn careful(bytes: &[u8]) -> Option<(RecordMeta, usize)> {
        let mut f = Slice { bytes, at: 0 };
        record(&mut f).ok().map(|meta| (meta, f.at))
    }

    fn len() -> impl Strategy<Value = Option<usize>> {
        prop::option::of(prop_oneof![0..4usize, 60..70usize, 8_180..8_200usize])
    }

    proptest! {
        #[test]
        fn the_quick_way_sees_what_the_careful_one_does(
            timestamp in prop_oneof![0..70i64, -9_000..9_000i64, any::<i64>()],
            offset in prop_oneof![0..70i32, any::<i32>()],
            fields in (len(), len()),
            headers in prop::collection::vec((0..70usize, len()), 0..3),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let (mut bytes, meta) = encode((timestamp, offset), fields, &headers);
            let len = bytes.len();
            bytes.push(0x5a);
            prop_assert_eq!(whole_record(&bytes), Some((meta, len)));
            for cut in [0, 1, 2, len / 2, len - 1] {
                prop_assert_eq!(whole_record(&bytes[..cut]), None);
            }
            for (at, byte) in flips {
                let at = at.index(len.min(24));
                bytes[at] = byte;
                prop_assert_eq!(whole_record(&bytes), careful(&bytes), "{:x?}", &bytes);
            }
        }
    }
}
