//! A group: what the logs of a shard have pending, gathered for one durable write.
//!
//! The batches are copied once, into an aligned buffer, and stamped there. That memory is also what
//! the tails of the logs keep, until the batches are in their segments and beyond.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::{AlignedBuf, BLOCK};
use streamd_model::Offset;

use super::format::{GROUP_HEADER, GroupHeader, RunHeader, run_overhead};
use crate::batch::{BatchHeader, restamp_time, stamp};
use crate::log::{Log, SharedLog};
use crate::segment::Segment;
use crate::tail::TailGroup;

/// A group takes batches until it holds so many bytes.
pub const GROUP_BYTES: usize = 1 << 20;

/// What one group made durable of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Everything before this offset is durable now. No more than before if the log was cut while
    /// the group was written: it never reports what is beyond a cut.
    pub next: Offset,
    /// Bytes of records that became durable.
    pub bytes: usize,
    /// Bytes of memory that the tail has grown by.
    pub memory: usize,
}

/// A run of so many bytes lies in the buffer as it will lie in its segment, block for block, so
/// that it can be written there from where it is.
const CONGRUENT_FROM: usize = 16 << 10;

struct Planned {
    log: SharedLog,
    /// The log's, when it was taken: a cut log is another one.
    generation: u32,
    runs: Vec<PlannedRun>,
}

/// The next `count` pending batches, all of one segment.
#[derive(Clone, Copy)]
struct PlannedRun {
    count: usize,
    len: usize,
    position: u64,
    /// Bytes between the run's header and its batches.
    pad: usize,
}

/// Logs whose batches go to the disk together.
#[derive(Default)]
pub struct Group {
    logs: Vec<Planned>,
    len: usize,
}

/// Batches of one segment, in the group's buffer.
struct Run {
    log: usize,
    segment: Rc<Segment>,
    position: u64,
    range: Range<usize>,
    next: Offset,
    batches: Vec<(u64, BatchHeader)>,
}

/// A group with its buffer. Its logs count as in flight until it is durable, or dropped: then they
/// must not be used any more.
pub(super) struct Filled {
    logs: Vec<SharedLog>,
    runs: Vec<Run>,
    len: usize,
    durable: bool,
}

impl Group {
    /// Takes what `log` has pending, or as much as fits. True when some of it is left behind.
    pub fn take(&mut self, log: &SharedLog) -> bool {
        let l = log.borrow();
        let overhead = run_overhead(l.dir_name(), &l.config.metadata);
        let (mut runs, mut segment): (Vec<PlannedRun>, Option<&Rc<Segment>>) = (Vec::new(), None);
        let (mut count, mut room) = (0, GROUP_BYTES.saturating_sub(self.len));
        for p in &l.queue.pending {
            if room == 0 {
                break;
            }
            if segment.is_none_or(|s| !Rc::ptr_eq(s, &p.segment)) {
                segment = Some(&p.segment);
                runs.push(PlannedRun {
                    count: 0,
                    len: 0,
                    position: p.position,
                    pad: 0,
                });
            }
            let size = p.batch.bytes.len();
            if let Some(run) = runs.last_mut() {
                run.count += 1;
                run.len += size;
            }
            count += 1;
            room = room.saturating_sub(size);
        }
        let left = count < l.queue.pending.len();
        let generation = l.queue.generation;
        drop(l);
        for run in &mut runs {
            let at = self.len() + overhead;
            if run.len >= CONGRUENT_FROM {
                let want = (run.position % BLOCK as u64) as usize;
                run.pad = (want + BLOCK - at % BLOCK) % BLOCK;
            }
            self.len += overhead + run.pad + run.len;
        }
        if count > 0 {
            let log = log.clone();
            self.logs.push(Planned {
                log,
                generation,
                runs,
            });
        }
        left
    }

    /// Whether it should be written before it takes more.
    pub fn is_full(&self) -> bool {
        self.len >= GROUP_BYTES
    }

    /// Logs that it holds something of.
    pub fn logs(&self) -> usize {
        self.logs.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Bytes that it takes in the journal, but for the last block.
    pub fn len(&self) -> usize {
        GROUP_HEADER + self.len
    }

    /// Copies the batches into a buffer and stamps them.
    pub(super) fn fill(self, mut buf: AlignedBuf, (id, seq): (u64, u64)) -> (AlignedBuf, Filled) {
        let mut filled = Filled {
            logs: Vec::with_capacity(self.logs.len()),
            runs: Vec::with_capacity(self.logs.len()),
            len: 0,
            durable: false,
        };
        let planned_len = self.len();
        let mut at = GROUP_HEADER;
        for planned in self.logs {
            let mut log = planned.log.borrow_mut();
            let same = log.queue.generation == planned.generation;
            log.queue.in_flight = true;
            for plan in planned.runs {
                // Meanwhile the log may have been cut.
                let Some(plan) = log.still_there(plan).filter(|_| same) else {
                    continue;
                };
                let run = log.take_run(plan, &mut buf[at..]);
                at += run.range.end;
                let start = at - run.range.len();
                filled.runs.push(Run {
                    log: filled.logs.len(),
                    range: start..at,
                    ..run
                });
            }
            drop(log);
            filled.logs.push(planned.log);
        }
        assert!(
            at <= planned_len,
            "a group is no longer than it was planned"
        );
        filled.len = at;
        buf[at..].fill(0);
        let runs = filled.runs.len();
        GroupHeader {
            id,
            seq,
            len: at,
            runs,
        }
        .encode(&mut buf);
        (buf, filled)
    }
}

impl Log {
    /// What is pending of a run that was planned.
    fn still_there(&self, plan: PlannedRun) -> Option<PlannedRun> {
        let count = plan.count.min(self.queue.pending.len());
        if count == plan.count {
            return Some(plan);
        }
        let sizes = self.queue.pending.iter().take(count);
        let len = sizes.map(|p| p.batch.bytes.len()).sum();
        (count > 0).then_some(PlannedRun { count, len, ..plan })
    }

    /// Moves pending batches to the front of `out`, behind a header.
    fn take_run(&mut self, plan: PlannedRun, out: &mut [u8]) -> Run {
        let count = plan.count;
        let segment = self.queue.pending[0].segment.clone();
        let header = run_overhead(self.dir_name(), &self.config.metadata);
        let start = header + plan.pad;
        out[header..start].fill(0);
        let mut at = start;
        let mut batches = Vec::with_capacity(count);
        let mut next = self.queue.taken;
        for p in self.queue.pending.drain(..count) {
            assert!(p.base == next, "gap: batch at {} after {next}", p.base);
            let bytes = &p.batch.bytes;
            let place = &mut out[at..at + bytes.len()];
            place.copy_from_slice(bytes);
            stamp(place, p.base, p.epoch);
            if p.batch.facts.restamp {
                restamp_time(place, p.batch.facts.max_timestamp, p.log_append_time);
            }
            let header = BatchHeader {
                base_offset: p.base,
                epoch: p.epoch,
                max_timestamp: p.batch.facts.max_timestamp,
                ..p.batch.facts.header
            };
            batches.push((p.position, header));
            at += bytes.len();
            next = header.next_offset();
        }
        assert!(at - start == plan.len, "a run is as long as it was planned");
        let header = RunHeader {
            dir: self.dir_name(),
            metadata: &self.config.metadata,
            segment: segment.base,
            position: plan.position,
            pad: plan.pad,
            len: plan.len,
            generation: self.queue.generation,
        };
        header.encode(out);
        self.queue.taken = next;
        self.queue.bytes -= plan.len;
        Run {
            log: 0,
            segment,
            position: plan.position,
            range: start..at,
            next,
            batches,
        }
    }

    /// Takes note that a run is durable, but for what was cut meanwhile. Gives the bytes.
    fn complete(&mut self, run: &Run, piece: TailGroup) -> usize {
        let limit = self.queue.cut.unwrap_or(Offset::MAX);
        let kept = run.batches.partition_point(|(_, h)| h.base_offset < limit);
        let Some((_, last)) = run.batches[..kept].last() else {
            return 0;
        };
        let next = last.next_offset();
        assert!(
            next > self.flushed && next <= self.end,
            "flushed goes up to {next} from {}",
            self.flushed
        );
        // Only now: the index never speaks of what is not durable.
        if let Some(index) = run.segment.index() {
            let mut index = index.borrow_mut();
            for (position, header) in &run.batches[..kept] {
                index.note(run.segment.base, *position, header);
            }
        }
        let end = run.batches.get(kept).map(|(position, _)| *position);
        let end = end.unwrap_or(run.position + run.range.len() as u64);
        let len = (end - run.position) as usize;
        run.segment.advance(end, next);
        self.flushed = next;
        self.tail.push(TailGroup {
            next,
            bytes: piece.bytes.slice(..len),
            ..piece
        });
        len
    }

    /// A group with something of the log has ended; `durable` says how.
    fn landed(&mut self, durable: bool) {
        self.queue.in_flight = false;
        self.queue.lost |= !durable;
        self.queue.landed.notify_all();
    }
}

impl Filled {
    /// Takes note that the group is durable. One answer for each log, in the order in which they
    /// were taken.
    pub(super) fn complete(mut self, bytes: &Bytes) -> Vec<Flushed> {
        let nothing = |log: &SharedLog| Flushed {
            next: log.borrow().flushed,
            bytes: 0,
            memory: 0,
        };
        let mut flushed: Vec<Flushed> = self.logs.iter().map(nothing).collect();
        for run in &self.runs {
            let len = run.range.len();
            // Its share of the buffer, which goes when the last of them is gone.
            let memory = (bytes.len() as u64 * len as u64).div_ceil(self.len as u64) as usize;
            let piece = TailGroup {
                segment: run.segment.base,
                position: run.position,
                next: run.next,
                bytes: bytes.slice(run.range.clone()),
                memory,
            };
            let mut log = self.logs[run.log].borrow_mut();
            let kept = log.complete(run, piece);
            let of_log = &mut flushed[run.log];
            of_log.next = log.flushed;
            of_log.bytes += kept;
            of_log.memory += if kept > 0 { memory } else { 0 };
        }
        self.durable = true;
        flushed
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        for log in &self.logs {
            if let Ok(mut log) = log.try_borrow_mut() {
                log.landed(self.durable);
            }
        }
    }
}
