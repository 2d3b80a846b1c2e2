//! From an offset to what to send: buffers of the tail, or a range of a file. No await: the shard
//! plans, and whoever holds the connection moves the bytes.

use bytes::Bytes;
use std::rc::Rc;
use streamd_io::{File, Part};
use streamd_model::Offset;

use crate::batch::{BatchHeader, HEADER};
use crate::log::Log;
use crate::segment::Segment;

/// What to send to a reader.
#[derive(Default)]
pub struct ReadPlan {
    /// Whole batches back to back; the last one may be cut where the size ran out. Those of a file
    /// may begin before the wanted offset: [`crate::begin::plan`] mends that.
    pub parts: Vec<Part>,
    /// Their bytes in all.
    pub bytes: usize,
    /// An offset that lies behind all records in them.
    pub next: Offset,
}

impl ReadPlan {
    /// Takes `n` bytes off the first part, which is longer.
    pub(crate) fn cut_front(&mut self, n: usize) {
        if let Some(Part::File { pos, len, .. }) = self.parts.first_mut() {
            assert!(n < *len, "something is left to read");
            *pos += n as u64;
            *len -= n;
            self.bytes -= n;
        }
    }
}

/// What came of planning a read.
pub enum Planned {
    /// Send this; empty when the reader is at the end.
    Ready(ReadPlan),
    /// The segment is not ready: await [`Segment::prepare`], tell the log, plan again.
    Prepare(Rc<Segment>),
    /// Where the limit lies in the segment is not known: await [`crate::lookup::locate`], which
    /// tells the log, then plan again.
    Locate(Rc<Segment>),
    /// The offset is not in the log.
    OutOfRange,
}

impl Log {
    /// The file in which a plan for `offset` has its range, to read from it here.
    pub fn reader_of(&self, offset: Offset) -> Option<Rc<File>> {
        self.segment_of(offset)?.reader()
    }

    /// Plans a read from `offset` of at most `max` bytes. With `at_least_one` the first batch comes
    /// whole even when it is larger.
    pub fn plan_read(&self, offset: Offset, max: usize, at_least_one: bool) -> Planned {
        self.plan_read_below(offset, self.flushed, max, at_least_one)
    }

    /// Like [`Log::plan_read`], but of batches before `limit` alone, which must be where a batch
    /// begins, or the flushed end.
    pub fn plan_read_below(
        &self,
        offset: Offset,
        limit: Offset,
        max: usize,
        at_least_one: bool,
    ) -> Planned {
        if offset < self.start || offset > self.flushed {
            return Planned::OutOfRange;
        }
        let limit = limit.min(self.flushed);
        let empty = Planned::Ready(ReadPlan::default());
        if offset >= limit || (max == 0 && !at_least_one) {
            return empty;
        }
        let Some(segment) = self.segment_of(offset) else {
            return empty;
        };
        let relative = u32::try_from(offset - segment.base).unwrap_or(0);
        let tail_from = self.tail.begins(segment.base);
        if let Some(at) = tail_from
            && let Some(plan) = self.plan_tail(segment, (offset, limit), at, (max, at_least_one))
        {
            return Planned::Ready(plan);
        }
        if self.is_cutting() {
            // What the files have may be what goes: a reader stands still meanwhile.
            return empty;
        }
        let (Some(index), Some(file)) = (segment.index(), segment.shared()) else {
            return Planned::Prepare(segment.clone());
        };
        let (from, bound) = index.borrow().find(relative);
        let mut end = tail_from.unwrap_or_else(|| segment.size());
        let reach = bound.unwrap_or(end).max(from + max as u64).min(end);
        if self.limit_lies(segment, limit, tail_from)
            && index.borrow().find(relative_to(segment, limit)).0 < reach
        {
            match self.sealed.prepared.located {
                Some((at, base, position)) if (at, base) == (limit, segment.base) => {
                    end = end.min(position);
                }
                _ => return Planned::Locate(segment.clone()),
            }
        }
        if from >= end {
            return empty;
        }
        let needed = bound.unwrap_or(end).min(end) - from;
        let room = (end - from).min(max as u64);
        let len = if at_least_one { room.max(needed) } else { room } as usize;
        if (len as u64) < needed {
            // A cut first batch would move the reader nowhere.
            return empty;
        }
        let parts = vec![Part::File {
            file,
            pos: from,
            len,
        }];
        let after = index.borrow().offset_after(from + len as u64);
        let next = after.map_or(self.flushed, |o| segment.base + i64::from(o));
        Planned::Ready(ReadPlan {
            parts,
            bytes: len,
            next: next.min(limit),
        })
    }

    /// Whether `limit` lies in what a file holds of the segment.
    fn limit_lies(&self, segment: &Segment, limit: Offset, tail_from: Option<u64>) -> bool {
        if limit >= self.flushed || segment.next() <= limit {
            return false;
        }
        let first = tail_from.and_then(|at| {
            let group = self.tail.group(self.tail.find(segment.base, at)?)?;
            header_at(&group.bytes, 0)
        });
        first.is_none_or(|h| limit < h.base_offset)
    }

    /// The plan when the batch is in memory; `None` when it lies before what memory holds.
    fn plan_tail(
        &self,
        segment: &Segment,
        (offset, limit): (Offset, Offset),
        tail_from: u64,
        (max, at_least_one): (usize, bool),
    ) -> Option<ReadPlan> {
        let relative = u32::try_from(offset - segment.base).unwrap_or(0);
        let hint = segment
            .index()
            .map_or(0, |i| i.borrow().find(relative).0)
            .max(tail_from);
        let mut at = self.tail.find(segment.base, hint)?;
        let group = self.tail.group(at)?;
        let mut inside = (hint - group.position) as usize;
        if hint == tail_from && header_at(&group.bytes, inside)?.base_offset > offset {
            return None;
        }
        // From the hint to the very batch.
        loop {
            let group = self.tail.group(at)?;
            match header_at(&group.bytes, inside) {
                Some(h) if h.next_offset() > offset => break,
                Some(h) => inside += h.size,
                None => (at, inside) = (at + 1, 0),
            }
        }
        let mut plan = ReadPlan::default();
        while let Some(group) = self.tail.group(at) {
            let rest = group.bytes.len() - inside;
            let room = max.saturating_sub(plan.bytes);
            let whole = rest <= room && group.next <= limit;
            let take = if whole {
                rest
            } else {
                whole_batches(
                    &group.bytes[inside..],
                    (room, limit),
                    at_least_one && plan.bytes == 0,
                )
            };
            if take > 0 {
                plan.next = group.next.min(limit);
                plan.parts
                    .push(Part::Bytes(group.bytes.slice(inside..inside + take)));
                plan.bytes += take;
            }
            if !whole {
                break;
            }
            (at, inside) = (at + 1, 0);
        }
        Some(plan)
    }
}

fn relative_to(segment: &Segment, offset: Offset) -> u32 {
    u32::try_from(offset - segment.base).unwrap_or(u32::MAX)
}

fn header_at(group: &Bytes, at: usize) -> Option<BatchHeader> {
    BatchHeader::parse(group.get(at..)?.get(..HEADER)?).ok()
}

/// How many bytes of whole batches before `limit` at the front of `bytes` fit `room`; at least one
/// batch if asked.
fn whole_batches(bytes: &[u8], (room, limit): (usize, Offset), at_least_one: bool) -> usize {
    let mut taken = 0;
    while let Ok(h) = BatchHeader::parse(&bytes[taken..]) {
        let fits = taken + h.size <= room || (at_least_one && taken == 0);
        if !fits || h.base_offset >= limit {
            break;
        }
        taken += h.size;
    }
    taken
}
