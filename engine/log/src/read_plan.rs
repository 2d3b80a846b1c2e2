//! From an offset to what to send: buffers of the tail, or a range of a file. No await: the shard
//! plans, and whoever holds the connection moves the bytes.

use bytes::Bytes;
use std::rc::Rc;
use streamd_io::Part;
use streamd_model::Offset;

use crate::batch::{BatchHeader, HEADER};
use crate::log::Log;
use crate::segment::Segment;

/// What to send to a reader.
#[derive(Default)]
pub struct ReadPlan {
    /// Whole batches back to back; the last one may be cut where the size ran out. The first may
    /// begin before the wanted offset: clients skip what they did not ask for.
    pub parts: Vec<Part>,
    /// Their bytes in all.
    pub bytes: usize,
}

/// What came of planning a read.
pub enum Planned {
    /// Send this; empty when the reader is at the end.
    Ready(ReadPlan),
    /// The segment is not ready: await [`Segment::prepare`], tell the log, plan again.
    Prepare(Rc<Segment>),
    /// The offset is not in the log.
    OutOfRange,
}

impl Log {
    /// Plans a read from `offset` of at most `max` bytes. With `at_least_one` the first batch comes
    /// whole even when it is larger.
    pub fn plan_read(&self, offset: Offset, max: usize, at_least_one: bool) -> Planned {
        if offset < self.start || offset > self.flushed {
            return Planned::OutOfRange;
        }
        let empty = Planned::Ready(ReadPlan::default());
        if offset == self.flushed || (max == 0 && !at_least_one) {
            return empty;
        }
        let Some(segment) = self.segment_of(offset) else {
            return empty;
        };
        let relative = u32::try_from(offset - segment.base).unwrap_or(0);
        let tail_from = self.tail.begins(segment.base);
        if let Some(at) = tail_from
            && let Some(plan) = self.plan_tail(segment, offset, at, (max, at_least_one))
        {
            return Planned::Ready(plan);
        }
        let (Some(index), Some(file)) = (segment.index(), segment.shared()) else {
            return Planned::Prepare(segment.clone());
        };
        let (from, bound) = index.borrow().find(relative);
        let end = tail_from.unwrap_or_else(|| segment.size());
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
        Planned::Ready(ReadPlan { parts, bytes: len })
    }

    /// The plan when the batch is in memory; `None` when it lies before what memory holds.
    fn plan_tail(
        &self,
        segment: &Segment,
        offset: Offset,
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
            let whole = rest <= room;
            let take = if whole {
                rest
            } else {
                whole_batches(
                    &group.bytes[inside..],
                    room,
                    at_least_one && plan.bytes == 0,
                )
            };
            if take > 0 {
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

fn header_at(group: &Bytes, at: usize) -> Option<BatchHeader> {
    BatchHeader::parse(group.get(at..)?.get(..HEADER)?).ok()
}

/// How many bytes of whole batches at the front of `bytes` fit `room`; at least one batch if asked.
fn whole_batches(bytes: &[u8], room: usize, at_least_one: bool) -> usize {
    let mut taken = 0;
    while let Ok(h) = BatchHeader::parse(&bytes[taken..]) {
        if taken + h.size > room && !(at_least_one && taken == 0) {
            break;
        }
        taken += h.size;
    }
    taken
}
