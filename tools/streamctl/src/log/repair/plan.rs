//! What is to become of the bytes of a damaged segment: what is good stays as it is, in order, and
//! the offsets that are lost get a batch without records, so that none is missing.

use std::ops::Range;

use streamd_log::batch::{BatchHeader, HEADER, crc_matches, restamp_time, stamp};

/// No broker takes a larger batch, so a length beyond it is damage.
const BATCH_MAX: usize = 256 << 20;

/// A part of the mended file, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes, as they are.
    Keep(Range<usize>),
    /// The batch in these bytes, whose offset is wrong and becomes this one.
    Offset(Range<usize>, i64),
    /// These bytes are no batch; offsets `.1` are lost with them.
    Lost(Range<usize>, Range<i64>),
    /// Nothing good follows, at the end of the log: cut.
    Cut(Range<usize>),
}

/// What is to be done with a segment.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// All bytes of the file but for zeros at its end, in order.
    pub pieces: Vec<Piece>,
}

/// A good batch at `at`.
fn batch_at(bytes: &[u8], at: usize) -> Option<BatchHeader> {
    let header = BatchHeader::parse(bytes.get(at..)?).ok()?;
    let end = at
        .checked_add(header.size)
        .filter(|_| header.size <= BATCH_MAX)?;
    let good = header.last_offset_delta >= 0
        && header.base_offset.checked_add(1 << 32).is_some()
        && crc_matches(bytes.get(at..end)?);
    good.then_some(header)
}

impl Plan {
    /// Plans for a segment that begins at offset `base`; `next` is where the following segment
    /// begins, `None` for the last one.
    pub fn new(bytes: &[u8], base: i64, next: Option<i64>) -> Plan {
        let mut plan = Plan { pieces: Vec::new() };
        let (mut at, mut expected) = (0, base);
        while at < bytes.len() {
            if let Some(header) = batch_at(bytes, at) {
                let range = at..at + header.size;
                let delta = i64::from(header.last_offset_delta) + 1;
                let follows = batch_at(bytes, range.end).map(|h| h.base_offset);
                let fits = header.base_offset >= expected
                    && next.is_none_or(|next| header.base_offset + delta <= next)
                    && follows.is_none_or(|f| f >= header.base_offset + delta);
                if fits {
                    plan.keep(range);
                    expected = header.base_offset + delta;
                } else if header.base_offset != expected {
                    // The offset is under no checksum.
                    plan.pieces.push(Piece::Offset(range, expected));
                    expected += delta;
                } else {
                    plan.keep(range);
                    expected += delta;
                }
                at += header.size;
                continue;
            }
            let Some(found) = (at + 1..bytes.len()).find(|&p| is_next(bytes, p, expected, next))
            else {
                plan.end(bytes, at, expected, next);
                break;
            };
            let until = batch_at(bytes, found).map_or(expected, |h| h.base_offset);
            plan.pieces.push(Piece::Lost(at..found, expected..until));
            (at, expected) = (found, until);
        }
        plan
    }

    fn keep(&mut self, range: Range<usize>) {
        match self.pieces.last_mut() {
            Some(Piece::Keep(last)) if last.end == range.start => last.end = range.end,
            _ => self.pieces.push(Piece::Keep(range)),
        }
    }

    /// Nothing good from `at` on.
    fn end(&mut self, bytes: &[u8], at: usize, expected: i64, next: Option<i64>) {
        let zeros = bytes[at..].iter().rev().take_while(|b| **b == 0).count();
        let range = at..bytes.len() - zeros;
        match next {
            Some(next) if next > expected => {
                self.pieces.push(Piece::Lost(range, expected..next));
            }
            _ if range.is_empty() => {}
            _ => self.pieces.push(Piece::Cut(range)),
        }
    }

    /// Whether anything is to be done.
    pub fn is_needed(&self) -> bool {
        self.pieces.iter().any(|p| !matches!(p, Piece::Keep(_)))
    }

    /// The first byte that does not stay as it is.
    pub fn from(&self) -> usize {
        let damage = self.pieces.iter().find(|p| !matches!(p, Piece::Keep(_)));
        damage.map_or(usize::MAX, |p| match p {
            Piece::Keep(r) | Piece::Offset(r, _) | Piece::Lost(r, _) | Piece::Cut(r) => r.start,
        })
    }

    /// Each thing that is to be done, as a sentence.
    pub fn say(&self) -> Vec<String> {
        let say = |piece: &Piece| match piece {
            Piece::Keep(_) => None,
            Piece::Offset(r, offset) => Some(format!(
                "byte {}: the batch is good, its offset is not: it becomes {offset}",
                r.start
            )),
            Piece::Lost(r, o) if o.is_empty() => Some(format!(
                "byte {}: {} bytes between batches go",
                r.start,
                r.len()
            )),
            Piece::Lost(r, o) => Some(format!(
                "byte {}: {} bytes are no batch: offsets {} to {} are lost, and get a batch \
                 without records",
                r.start,
                r.len(),
                o.start,
                o.end - 1
            )),
            Piece::Cut(r) => Some(format!(
                "byte {}: {} bytes at the end of the log are no batch, and go",
                r.start,
                r.len()
            )),
        };
        self.pieces.iter().filter_map(say).collect()
    }

    /// The mended file.
    pub fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
        let (mut time, mut epoch) = (-1, 0);
        for piece in &self.pieces {
            match piece {
                Piece::Keep(range) => {
                    out.extend_from_slice(&bytes[range.clone()]);
                    if let Ok(header) = BatchHeader::parse(&bytes[range.start..]) {
                        (time, epoch) = (header.max_timestamp, header.epoch);
                    }
                }
                Piece::Offset(range, offset) => {
                    let start = out.len();
                    out.extend_from_slice(&bytes[range.clone()]);
                    stamp(&mut out[start..], *offset, epoch);
                }
                Piece::Lost(_, offsets) => {
                    let mut from = offsets.start;
                    while from < offsets.end {
                        let until = offsets.end.min(from + i64::from(i32::MAX));
                        out.extend(empty_batch(from..until, time, epoch));
                        from = until;
                    }
                }
                Piece::Cut(_) => {}
            }
        }
        out
    }
}

/// Whether a good batch begins here that can follow what has `expected` as its next offset.
fn is_next(bytes: &[u8], at: usize, expected: i64, next: Option<i64>) -> bool {
    // Looked at first, because it is cheap: most bytes are not where a batch begins.
    bytes.get(at + 16) == Some(&2)
        && batch_at(bytes, at).is_some_and(|h| {
            h.base_offset >= expected && next.is_none_or(|next| h.next_offset() <= next)
        })
}

/// A batch that has these offsets and no record, as compaction leaves them.
fn empty_batch(offsets: Range<i64>, time: i64, epoch: i32) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[8..12].copy_from_slice(&(HEADER as i32 - 12).to_be_bytes());
    bytes[16] = 2;
    let delta = (offsets.end - offsets.start - 1) as i32;
    bytes[23..27].copy_from_slice(&delta.to_be_bytes());
    bytes[27..35].copy_from_slice(&time.to_be_bytes());
    bytes[43..57].fill(0xff);
    stamp(&mut bytes, offsets.start, epoch);
    restamp_time(&mut bytes, time, false);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::super::scan::tests::batch;
    use super::*;

    /// Offsets of the batches in a file that must be whole and without gaps, and their records.
    fn walk(bytes: &[u8], base: i64) -> (i64, i32) {
        let (mut at, mut next, mut records) = (0, base, 0);
        while at < bytes.len() {
            let h = batch_at(bytes, at).expect("a good batch");
            assert_eq!(h.base_offset, next);
            (next, records, at) = (h.next_offset(), records + h.count, at + h.size);
        }
        (next, records)
    }

    #[test]
    fn whatever_bit_flips_only_its_batch_is_lost() {
        let file = [batch(10, 2), batch(12, 3), batch(15, 1)].concat();
        let (first, second) = (batch(10, 2).len(), batch(12, 3).len());
        assert!(!Plan::new(&file, 10, Some(16)).is_needed());
        for at in 0..file.len() {
            let mut bytes = file.clone();
            bytes[at] ^= 0x10;
            for next in [Some(16), None] {
                let plan = Plan::new(&bytes, 10, next);
                if next.is_none() && (0..8).contains(&(at.wrapping_sub(first + second))) {
                    // Nothing behind it tells that its offset is wrong: a start cuts it.
                    continue;
                }
                let (end, records) = walk(&plan.apply(&bytes), 10);
                let (lost, begin) = match at {
                    _ if at < first => (2, 0),
                    _ if at < first + second => (3, first),
                    _ => (1, first + second),
                };
                let last = begin == first + second;
                match at - begin {
                    12..16 => assert_eq!((end, records), (16, 6), "the epoch: unnoticed"),
                    0..8 => {
                        assert!(plan.is_needed() && plan.from() == begin, "{at} {plan:?}");
                        assert_eq!((end, records), (16, 6), "{at}: only the offset is wrong");
                    }
                    _ => {
                        assert!(plan.is_needed() && plan.from() == begin, "{at} {plan:?}");
                        let want = if last && next.is_none() { 15 } else { 16 };
                        assert_eq!((end, records), (want, 6 - lost), "{at}");
                    }
                }
            }
        }
    }

    #[test]
    fn ends_and_gaps() {
        let mut file = [batch(0, 2), batch(7, 1)].concat();
        assert!(
            !Plan::new(&file, 0, Some(9)).is_needed(),
            "compaction leaves gaps"
        );
        let end = file.len();
        file.resize(end + 5000, 0);
        assert!(!Plan::new(&file, 0, None).is_needed(), "laid out ahead");
        file[end + 100] = 1;
        let plan = Plan::new(&file, 0, None);
        assert_eq!(plan.pieces[1], Piece::Cut(end..end + 101));
        assert_eq!(plan.apply(&file).len(), end);
        let torn = &file[..end - 3];
        let plan = Plan::new(torn, 0, Some(12));
        let text = plan.say().join("\n");
        assert!(text.contains("offsets 2 to 11 are lost"), "{text}");
        assert_eq!(walk(&plan.apply(torn), 0), (12, 2));
        assert!(Plan::new(&[], 3, None).pieces.is_empty());
    }
}
