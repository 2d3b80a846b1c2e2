//! Sparse indexes of one segment: offset → position, and timestamp → offset.
//!
//! Both have an entry about every `index.interval.bytes`, in Kafka's layouts (`.index`: relative
//! offset and position, 4 bytes each; `.timeindex`: timestamp, 8 bytes, and relative offset, 4).
//! An entry's offset is the one after the batch before its position (the base offset of the batch
//! at its position, unless compaction left a gap), so that the next entry bounds from above where
//! the batch of a wanted offset, or the first one after it, ends. They are hints that can be
//! rebuilt from the log: [`Index::decode`] refuses what does not fit; the log is trusted over them.

use crate::batch::BatchHeader;

/// The sparse indexes of one segment.
#[derive(Clone, Debug, Default)]
pub struct Index {
    interval: u64,
    /// (offset less segment base, position of that batch), both rising.
    positions: Vec<(u32, u32)>,
    /// (greatest timestamp so far, offset of its batch's last record less segment base), rising.
    times: Vec<(i64, u32)>,
    since: u64,
    /// The offset after the last batch, less segment base.
    next: u32,
    /// The greatest timestamp of the segment, ms; -1 when there is none.
    pub max_timestamp: i64,
    /// The last offset, less segment base, of the batch that holds it.
    max_at: u32,
}

impl Index {
    /// An empty index with an entry about every `interval` bytes.
    pub fn new(interval: u64) -> Index {
        Index {
            interval,
            max_timestamp: -1,
            ..Index::default()
        }
    }

    /// Takes note of a batch at `position` in a segment that begins at offset `base`.
    pub fn note(&mut self, base: i64, position: u64, header: &BatchHeader) {
        let relative = std::mem::replace(&mut self.next, (header.next_offset() - base) as u32);
        if header.max_timestamp > self.max_timestamp {
            self.max_timestamp = header.max_timestamp;
            self.max_at = (header.last_offset() - base) as u32;
        }
        if self.positions.is_empty() || self.since >= self.interval {
            if let Some(&(last, at)) = self.positions.last() {
                assert!(
                    last < relative && u64::from(at) < position,
                    "index entries must rise"
                );
            }
            self.positions.push((relative, position as u32));
            self.note_time();
            self.since = 0;
        }
        self.since += header.size as u64;
    }

    fn note_time(&mut self) {
        if self.max_timestamp >= 0
            && self
                .times
                .last()
                .is_none_or(|&(t, _)| t < self.max_timestamp)
        {
            self.times.push((self.max_timestamp, self.max_at));
        }
    }

    /// Adds the last time entry, so that it holds the segment's greatest timestamp.
    pub fn seal(&mut self) {
        self.note_time();
    }

    /// Where a batch begins that is at or before the one that holds `offset` (segment base taken
    /// off), and the position after which nothing of that batch lies, if an entry says so.
    pub fn find(&self, relative: u32) -> (u64, Option<u64>) {
        let after = self.positions.partition_point(|&(o, _)| o <= relative);
        let from = after
            .checked_sub(1)
            .map_or(0, |i| u64::from(self.positions[i].1));
        (from, self.positions.get(after).map(|&(_, p)| u64::from(p)))
    }

    /// The first offset, less segment base, of which is known that nothing at or after `position`
    /// lies before it, if an entry says so.
    pub fn offset_after(&self, position: u64) -> Option<u32> {
        let after = self
            .positions
            .partition_point(|&(_, p)| u64::from(p) < position);
        self.positions.get(after).map(|&(o, _)| o)
    }

    /// A relative offset from which to look for the first record at or after `timestamp`: every
    /// record before it is older.
    pub fn before_time(&self, timestamp: i64) -> u32 {
        let after = self.times.partition_point(|&(t, _)| t < timestamp);
        after.checked_sub(1).map_or(0, |i| self.times[i].1)
    }

    /// The last entry whose batch ends before `relative`: a timestamp, and the last offset of the
    /// first batch that has it. Every batch before that one is older.
    pub fn latest_before(&self, relative: u32) -> Option<(i64, u32)> {
        let after = self.times.partition_point(|&(_, o)| o < relative);
        Some(self.times[after.checked_sub(1)?])
    }

    /// Position of the last entry, 0 without one.
    pub fn last_position(&self) -> u64 {
        self.positions.last().map_or(0, |&(_, p)| u64::from(p))
    }

    /// The greatest timestamp of the first batch, ms; `None` if it has none.
    pub fn first_timestamp(&self) -> Option<i64> {
        self.times.first().map(|&(t, _)| t)
    }

    /// Bytes that the larger of the two files takes.
    pub fn file_bytes(&self) -> u64 {
        (self.positions.len() * 8).max(self.times.len() * 12) as u64
    }

    /// Bytes of memory that the entries take.
    pub fn memory(&self) -> usize {
        self.positions.capacity() * 8 + self.times.capacity() * 16
    }

    /// The contents of `.index` and `.timeindex`.
    pub fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let mut offsets = Vec::with_capacity(self.positions.len() * 8);
        for &(o, p) in &self.positions {
            offsets.extend_from_slice(&o.to_be_bytes());
            offsets.extend_from_slice(&p.to_be_bytes());
        }
        let mut times = Vec::with_capacity(self.times.len() * 12 + 12);
        let tail = (self.max_timestamp >= 0
            && self
                .times
                .last()
                .is_none_or(|&(t, _)| t < self.max_timestamp))
        .then_some((self.max_timestamp, self.max_at));
        for (t, o) in self.times.iter().copied().chain(tail) {
            times.extend_from_slice(&t.to_be_bytes());
            times.extend_from_slice(&o.to_be_bytes());
        }
        (offsets, times)
    }

    /// Reads what [`Index::encode`] wrote, of a segment whose first `size` bytes hold `offsets`
    /// offsets; entries beyond are left out. `None` when it cannot be of such a segment: entries
    /// that do not rise or lie outside.
    pub fn decode(interval: u64, files: (&[u8], &[u8]), size: u64, next: u32) -> Option<Index> {
        let (offsets, times) = files;
        if !offsets.len().is_multiple_of(8) || !times.len().is_multiple_of(12) {
            return None;
        }
        let word = |b: &[u8]| u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
        let mut index = Index::new(interval);
        for e in offsets.chunks_exact(8) {
            let (o, p) = (word(e), word(&e[4..]));
            let rises = match index.positions.last() {
                Some(&(lo, lp)) => lo < o && lp < p,
                None => o == 0 && p == 0,
            };
            if !rises {
                return None;
            }
            if u64::from(p) >= size || o >= next {
                break;
            }
            index.positions.push((o, p));
        }
        if size > 0 && index.positions.is_empty() {
            return None;
        }
        for e in times.chunks_exact(12) {
            let mut t = [0u8; 8];
            t.copy_from_slice(&e[..8]);
            let (t, o) = (i64::from_be_bytes(t), word(&e[8..]));
            if index.times.last().is_some_and(|&(lt, _)| lt >= t) {
                return None;
            }
            if o >= next {
                break;
            }
            index.times.push((t, o));
            (index.max_timestamp, index.max_at) = (t, o);
        }
        index.since = size - index.last_position();
        index.next = next;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{NewRecord, Writer, build};

    fn header(base: i64, timestamp: i64) -> BatchHeader {
        let bytes = build(
            &[NewRecord {
                timestamp,
                ..NewRecord::default()
            }],
            Writer::default(),
        );
        BatchHeader {
            base_offset: base,
            ..BatchHeader::parse(&bytes).unwrap()
        }
    }

    #[test]
    fn finds_bounds_and_survives_encoding() {
        let mut index = Index::new(200);
        let size = header(0, 0).size as u64;
        for i in 0..100 {
            index.note(1000, i as u64 * size, &header(1000 + i, 5000 + (i ^ 3)));
        }
        let (o, t) = index.encode();
        let again = Index::decode(200, (&o, &t), 100 * size, 100).unwrap();
        for i in 0..100u32 {
            let (from, to) = index.find(i);
            assert!(from <= u64::from(i) * size);
            assert!(
                to.is_none_or(|to| to >= u64::from(i + 1) * size),
                "{i}: {to:?}"
            );
            assert_eq!(again.find(i), (from, to));
            let first_at_or_after = (0..100).find(|k| (k ^ 3) >= i64::from(i)).unwrap() as u32;
            assert!(index.before_time(5000 + i64::from(i)) <= first_at_or_after);
        }
        assert_eq!(again.max_timestamp, index.max_timestamp);
    }

    #[test]
    fn refuses_what_cannot_be() {
        let decode = |o: &[u8], t: &[u8]| Index::decode(1, (o, t), 10, 5);
        assert!(decode(&[0; 7], &[]).is_none());
        assert!(decode(&[0, 0, 0, 0, 0, 0, 0, 11], &[]).is_none());
        assert!(decode(&[0; 16], &[]).is_none(), "entries must rise");
        assert!(
            decode(&[], &[]).is_none(),
            "a segment with bytes has an entry"
        );
        assert!(decode(&[0; 8], &[0; 24]).is_none());
        assert!(decode(&[0; 8], &[0; 12]).is_some());
    }
}
