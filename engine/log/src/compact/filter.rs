//! What becomes of a batch when its log is compacted. Plain state machines that are pushed a
//! batch's records: [`Learn`] notes its keys, [`Survey`] decides which records stay, [`Rewrite`]
//! makes the batch that is left of it.
//!
//! Invariants: offsets never change; a record stays if no later one of its key is in the map, and
//! all stay that the map does not cover; a batch keeps its first and last offset, its producer and
//! its codec. Markers of transactions stay, what was aborted goes and removes nothing.

use std::collections::BTreeMap;
use std::io::Write;

use streamd_model::Offset;

use super::hash::KeyHash;
use super::map::OffsetMap;
use super::walk::{Head, Sink};
use crate::batch::{BatchError, BatchHeader, HEADER, LOG_OVERHEAD, put_varint, refresh_crc};
use crate::pack::Pack;

/// The transactions of a log that were aborted: by producer, offsets of the first record and of the
/// marker, rising.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aborted(BTreeMap<i64, Vec<(Offset, Offset)>>);

impl Aborted {
    /// Takes note of a transaction of `producer`.
    pub fn add(&mut self, producer: i64, first: Offset, marker: Offset) {
        let all = self.0.entry(producer).or_default();
        let at = all.partition_point(|&(f, _)| f < first);
        all.insert(at, (first, marker));
    }

    fn has(&self, header: &BatchHeader) -> bool {
        let Some(all) = self.0.get(&header.producer_id) else {
            return false;
        };
        let after = all.partition_point(|&(first, _)| first <= header.base_offset);
        after > 0 && header.base_offset < all[after - 1].1
    }
}

/// What a batch is to a compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its records count.
    Valid,
    /// It belongs to a transaction that was aborted.
    Aborted,
    /// It marks the end of a transaction, and stays as it is.
    Marker,
}

/// What the batch is, given all that was aborted. It lies before the last stable offset.
pub fn standing(header: &BatchHeader, aborted: &Aborted) -> Standing {
    match header.is_transactional() {
        _ if header.is_control() => Standing::Marker,
        true if aborted.has(header) => Standing::Aborted,
        _ => Standing::Valid,
    }
}

/// Notes the keys of a batch in the map.
pub struct Learn<'m> {
    map: &'m mut OffsetMap,
    base: Offset,
    from: Offset,
    hash: KeyHash,
    offset: Offset,
    null_key: bool,
    /// The offset of the first record that found no room.
    pub full_at: Option<Offset>,
}

impl<'m> Learn<'m> {
    /// Notes the records of this batch from offset `from` on.
    pub fn new(map: &'m mut OffsetMap, header: &BatchHeader, from: Offset) -> Learn<'m> {
        let hash = map.hash();
        Learn {
            map,
            base: header.base_offset,
            from,
            hash,
            offset: 0,
            null_key: false,
            full_at: None,
        }
    }
}

impl Sink for Learn<'_> {
    fn head(&mut self, head: &Head) -> Result<(), BatchError> {
        self.offset = self.base + i64::from(head.offset_delta);
        self.hash = self.map.hash();
        Ok(())
    }

    fn key(&mut self, bytes: &[u8]) {
        self.hash.write(bytes);
    }

    fn nulls(&mut self, key: bool, _value: bool) {
        self.null_key = key;
    }

    fn end(&mut self) -> Result<(), BatchError> {
        if self.full_at.is_none() && !self.null_key && self.offset >= self.from {
            let hash = self.hash.clone().finish();
            if !self.map.put(hash, self.offset) {
                self.full_at = Some(self.offset);
            }
        }
        Ok(())
    }
}

/// What decides about records.
pub struct Judge {
    /// The last offsets of the keys,
    pub map: OffsetMap,
    /// of all records before this offset that are dirty.
    pub end: Offset,
    /// The time, ms.
    pub now_ms: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// Producers that are remembered, with their last offsets in the log.
    pub producers: BTreeMap<i64, Offset>,
}

/// What becomes of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays, byte for byte.
    Keep,
    /// Nothing is left of it.
    Drop,
    /// It stays without records: its last offset or its producer's last sequence is needed.
    Empty,
    /// Some records go, or the tombstones get their horizon.
    Rewrite(Plan),
}

/// How a batch is written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// A bit for each record: whether it stays.
    keep: Vec<u64>,
    count: i32,
    max_timestamp: i64,
    /// The time, ms, from which the tombstones need not stay.
    horizon: Option<i64>,
}

/// Decides which records of a batch stay.
pub struct Survey<'j> {
    judge: &'j Judge,
    header: BatchHeader,
    hash: KeyHash,
    offset: Offset,
    timestamp: i64,
    nulls: (bool, bool),
    keep: Vec<u64>,
    seen: i32,
    kept: i32,
    tombstones: bool,
    max_timestamp: i64,
}

impl<'j> Survey<'j> {
    /// A survey of a batch with this header.
    pub fn new(judge: &'j Judge, header: &BatchHeader) -> Survey<'j> {
        Survey {
            judge,
            header: *header,
            hash: judge.map.hash(),
            offset: 0,
            timestamp: 0,
            nulls: (false, false),
            keep: Vec::new(),
            seen: 0,
            kept: 0,
            tombstones: false,
            max_timestamp: -1,
        }
    }

    fn stays(&self) -> bool {
        let (null_key, null_value) = self.nulls;
        if self.offset >= self.judge.end {
            return true;
        }
        // In a compacted log a record without a key says nothing.
        if null_key {
            return false;
        }
        let last = self.judge.map.get(self.hash.clone().finish());
        if last.is_some_and(|last| self.offset < last) {
            return false;
        }
        !null_value || !self.is_over()
    }

    /// Whether the batch's tombstones have been there for long enough.
    fn is_over(&self) -> bool {
        let horizon = self.header.delete_horizon();
        self.is_covered() && horizon.is_some_and(|h| h <= self.judge.now_ms)
    }

    /// Whether the map knows of all that follows any of its records.
    fn is_covered(&self) -> bool {
        self.header.next_offset() <= self.judge.end
    }

    /// What becomes of the batch, when all its records were seen. `last`: it is the last one of its
    /// segment, whose end it marks.
    pub fn fate(self, last: bool) -> Fate {
        let header = &self.header;
        let horizon = (self.tombstones && self.is_covered() && header.delete_horizon().is_none())
            .then(|| (self.judge.now_ms).saturating_add(self.judge.delete_retention_ms));
        if self.kept > 0 && (self.kept < header.count || horizon.is_some()) {
            let max_timestamp = match header.is_log_append_time() {
                true => header.max_timestamp,
                false => self.max_timestamp,
            };
            return Fate::Rewrite(Plan {
                keep: self.keep,
                count: self.kept,
                max_timestamp,
                horizon,
            });
        }
        if self.kept > 0 {
            return Fate::Keep;
        }
        self.judge.without_records(header, last)
    }
}

impl Judge {
    /// What becomes of a batch that has lost all its records. `last`: as for [`Survey::fate`].
    pub fn without_records(&self, header: &BatchHeader, last: bool) -> Fate {
        let of_producer = self.producers.get(&header.producer_id);
        let needed = header.is_idempotent() && of_producer == Some(&header.last_offset());
        match last || needed {
            // It has been emptied before.
            true if header.count == 0 => Fate::Keep,
            true => Fate::Empty,
            false => Fate::Drop,
        }
    }
}

impl Sink for Survey<'_> {
    fn head(&mut self, head: &Head) -> Result<(), BatchError> {
        self.offset = self.header.base_offset + i64::from(head.offset_delta);
        self.timestamp = self
            .header
            .base_timestamp
            .saturating_add(head.timestamp_delta);
        self.hash = self.judge.map.hash();
        Ok(())
    }

    fn key(&mut self, bytes: &[u8]) {
        self.hash.write(bytes);
    }

    fn nulls(&mut self, key: bool, value: bool) {
        self.nulls = (key, value);
    }

    fn end(&mut self) -> Result<(), BatchError> {
        let (word, bit) = (self.seen as usize / 64, self.seen % 64);
        if word == self.keep.len() {
            self.keep.push(0);
        }
        self.seen += 1;
        if self.stays() {
            self.keep[word] |= 1 << bit;
            self.kept += 1;
            self.tombstones |= self.nulls.1;
            self.max_timestamp = self.max_timestamp.max(self.timestamp);
        }
        Ok(())
    }
}

/// Makes what is left of a batch.
pub struct Rewrite<'p> {
    plan: &'p Plan,
    /// What is added to the timestamp deltas: the base timestamp may become the horizon.
    shift: i64,
    pack: Pack,
    front: Vec<u8>,
    at: i32,
    stays: bool,
}

fn cannot_pack(e: &std::io::Error) -> BatchError {
    BatchError::invalid(format!("cannot compress: {e}"))
}

impl<'p> Rewrite<'p> {
    /// Begins the new batch; `old` is the one with this header.
    pub fn new(
        plan: &'p Plan,
        old: &[u8],
        header: &BatchHeader,
    ) -> Result<Rewrite<'p>, BatchError> {
        let mut front = old[..HEADER].to_vec();
        let base = plan.horizon.unwrap_or(header.base_timestamp);
        if plan.horizon.is_some() {
            front[22] |= 0x40;
        }
        front[27..35].copy_from_slice(&base.to_be_bytes());
        front[35..43].copy_from_slice(&plan.max_timestamp.to_be_bytes());
        front[57..61].copy_from_slice(&plan.count.to_be_bytes());
        let codec = header.codec().unwrap_or(crate::batch::Codec::None);
        let pack = Pack::new(codec, front).map_err(|e| cannot_pack(&e))?;
        Ok(Rewrite {
            plan,
            shift: header.base_timestamp.wrapping_sub(base),
            pack,
            front: Vec::new(),
            at: 0,
            stays: false,
        })
    }

    /// The new batch.
    pub fn finish(self) -> Result<Vec<u8>, BatchError> {
        let mut batch = self.pack.finish().map_err(|e| cannot_pack(&e))?;
        let length = i32::try_from(batch.len() - LOG_OVERHEAD)
            .map_err(|_| BatchError::invalid("a batch of more than 2 GiB"))?;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        refresh_crc(&mut batch);
        Ok(batch)
    }
}

impl Sink for Rewrite<'_> {
    fn head(&mut self, head: &Head) -> Result<(), BatchError> {
        let (word, bit) = (self.at as usize / 64, self.at % 64);
        self.stays = self.plan.keep.get(word).is_some_and(|w| w >> bit & 1 == 1);
        self.at += 1;
        if !self.stays {
            return Ok(());
        }
        let mut inner = vec![head.attributes];
        put_varint(&mut inner, head.timestamp_delta.wrapping_add(self.shift));
        put_varint(&mut inner, i64::from(head.offset_delta));
        self.front.clear();
        put_varint(&mut self.front, (inner.len() as u64 + head.rest) as i64);
        self.front.extend_from_slice(&inner);
        let front = &self.front;
        self.pack.write_all(front).map_err(|e| cannot_pack(&e))
    }

    fn rest(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        match self.stays {
            true => self.pack.write_all(bytes).map_err(|e| cannot_pack(&e)),
            false => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), BatchError> {
        Ok(())
    }
}

/// What is left of a batch when all its records are gone, as Kafka writes it: the header alone,
/// with first and last offset, producer and greatest timestamp.
pub fn emptied(old: &[u8]) -> Vec<u8> {
    let mut batch = old[..HEADER].to_vec();
    batch[8..12].copy_from_slice(&((HEADER - LOG_OVERHEAD) as i32).to_be_bytes());
    // No codec, and no horizon.
    batch[22] &= !0x47;
    batch[27..35].copy_from_slice(&(-1i64).to_be_bytes());
    batch[57..61].copy_from_slice(&0i32.to_be_bytes());
    refresh_crc(&mut batch);
    batch
}
