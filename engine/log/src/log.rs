//! The log of one partition: its segments, its end, what waits to be written.
//!
//! `append` is synchronous and gives offsets at once; [`crate::journal`] makes what was appended
//! durable, many logs at a time; [`crate::write_back`] moves it to the segments. Invariants:
//! offsets are dense; `start <= committed <= flushed`; `synced <= written <= flushed <= taken <=
//! end`; nothing beyond `flushed` is ever read.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::Env;
use streamd_io::local::{Budget, Notify};
use streamd_model::{Epoch, Offset};

use crate::BatchError;
use crate::batch::BatchHeader;
use crate::checkpoint::Checkpoint;
use crate::compact::swap::CleanedTo;
use crate::index::Index;
use crate::segment::Segment;
use crate::tail::Tail;
use crate::validate::Facts;

/// How many sealed segments of one log keep their file open and their index in memory.
const PREPARED_MAX: usize = 4;

/// What the log needs to know of its topic's settings.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `segment.bytes`: a segment is rolled before it gets larger.
    pub segment_bytes: u64,
    /// `segment.ms`: a segment is rolled when it gets older.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: a segment is rolled up to so much earlier.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`: a segment is rolled before an index of it gets larger.
    pub segment_index_bytes: u64,
    /// `index.interval.bytes`.
    pub index_interval: u64,
    /// After so many bytes recovery gets a new point to begin from.
    pub checkpoint_bytes: u64,
    /// The contents of `partition.metadata`, written when the directory is made.
    pub metadata: String,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval: 4096,
            checkpoint_bytes: 64 << 20,
            metadata: String::new(),
        }
    }
}

/// A batch to append: its bytes as the client sent them, and what validation found.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// One whole batch.
    pub bytes: Bytes,
    /// What validation found out.
    pub facts: Facts,
}

impl NewBatch {
    /// A batch that was built here, with this as its greatest timestamp, ms.
    ///
    /// # Errors
    /// If the bytes do not begin with the header of a batch.
    pub fn own(bytes: impl Into<Bytes>, max_timestamp: i64) -> Result<NewBatch, BatchError> {
        let bytes = bytes.into();
        let facts = Facts {
            header: BatchHeader::parse(&bytes)?,
            max_timestamp,
            log_append_time: false,
            restamp: false,
        };
        Ok(NewBatch { bytes, facts })
    }
}

/// Where a batch was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base: Offset,
    /// Offset after the last record: durable once the log is flushed up to here.
    pub next: Offset,
}

pub(crate) struct Pending {
    pub segment: Rc<Segment>,
    pub position: u64,
    pub base: Offset,
    pub epoch: Epoch,
    pub batch: NewBatch,
    pub log_append_time: bool,
}

/// What is on its way to the journal.
#[derive(Default)]
pub(crate) struct Queue {
    /// Batches that have their offsets but were not taken for writing.
    pub pending: VecDeque<Pending>,
    /// Their bytes.
    pub bytes: usize,
    /// Everything before it was taken for a group.
    pub taken: Offset,
    /// Whether a group with something of the log is being written,
    pub in_flight: bool,
    /// or was written in vain: then the log must not be used any more.
    pub lost: bool,
    /// Told when a group has ended.
    pub landed: Notify,
    /// How often the log was cut: what is taken for a group now is of this generation.
    pub generation: u32,
    /// Where the log is being cut: whatever lies there or behind is none of it any more.
    pub cut: Option<Offset>,
}

/// What is on its way from the journal to the segments.
pub(crate) struct Back {
    /// Everything before it is in the segments,
    pub written: Offset,
    /// and everything before this is durable there.
    pub synced: Offset,
    /// The bytes of the last, partly filled block that was written.
    pub last_block: Bytes,
    /// Segments that were rolled, with the offsets where they end, and may not be durable yet.
    pub to_seal: VecDeque<(Rc<Segment>, Offset)>,
    /// Held while pieces are written.
    pub turn: Budget,
    /// Whether `written` was asked for since the log was cut last.
    pub marked: Cell<bool>,
}

/// Where a recovery begins.
pub(crate) struct Checkpoints {
    /// What the file says.
    pub last: Checkpoint,
    /// What it will say once everything before it is flushed.
    pub next: Option<Checkpoint>,
    /// Bytes appended since the newer of the two: what a recovery would scan.
    pub since: u64,
    /// The high watermark, if the owner gives one.
    pub high: Option<Offset>,
    /// Held while the file is replaced.
    pub turn: Budget,
}

/// What was made ready for readers.
#[derive(Default)]
pub(crate) struct Prepared {
    /// Sealed segments with an open file and an index in memory, least lately asked for first.
    pub segments: VecDeque<Rc<Segment>>,
    /// An offset where a batch begins, the base of its segment, and the batch's position there.
    pub located: Option<(Offset, Offset, u64)>,
}

/// When the active segment is to be rolled.
#[derive(Default)]
pub(crate) struct Roll {
    /// When it came into being, ms.
    pub made_ms: i64,
    /// The greatest timestamp of its first batch, ms; `None`: the index has it, if it has any.
    pub first_ms: Option<i64>,
    /// How much earlier than `segment.ms` says, ms.
    pub jitter_ms: i64,
}

/// What is about segments that are sealed.
pub(crate) struct Sealed {
    /// What was made ready of them.
    pub prepared: Prepared,
    /// How far it was compacted.
    pub cleaned: CleanedTo,
    /// Goes up when segments go or are replaced.
    pub generation: u64,
    /// Held while files of segments are removed or replaced.
    pub turn: Budget,
    /// The directory is about to go: no file is touched any more.
    pub retired: bool,
}

/// The log of one partition.
pub struct Log {
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
    pub(crate) config: LogConfig,
    /// Rising bases; the last one takes appends.
    pub(crate) segments: VecDeque<Rc<Segment>>,
    pub(crate) start: Offset,
    pub(crate) flushed: Offset,
    pub(crate) end: Offset,
    /// Position of the next batch in the last segment.
    pub(crate) position: u64,
    pub(crate) roll: Roll,
    pub(crate) epochs: Vec<(Epoch, Offset)>,
    pub(crate) queue: Queue,
    pub(crate) back: Back,
    pub(crate) tail: Tail,
    pub(crate) has_dir: bool,
    pub(crate) sealed: Sealed,
    pub(crate) points: Checkpoints,
}

impl Log {
    /// An empty log that begins at offset `base`. The directory is made with the first append.
    pub fn new(env: &Env, dir: &Path, config: LogConfig, base: Offset) -> Log {
        Log {
            env: env.clone(),
            dir: dir.to_owned(),
            config,
            segments: VecDeque::new(),
            start: base,
            flushed: base,
            end: base,
            position: 0,
            roll: Roll::default(),
            epochs: Vec::new(),
            queue: Queue {
                taken: base,
                ..Queue::default()
            },
            back: Back {
                written: base,
                synced: base,
                last_block: Bytes::new(),
                to_seal: VecDeque::new(),
                turn: Budget::new(1),
                marked: Cell::new(false),
            },
            tail: Tail::default(),
            has_dir: false,
            sealed: Sealed {
                prepared: Prepared::default(),
                cleaned: CleanedTo {
                    done: base,
                    touched: base,
                },
                generation: 0,
                turn: Budget::new(1),
                retired: false,
            },
            points: Checkpoints {
                last: Checkpoint::empty(base),
                next: None,
                since: 0,
                high: None,
                turn: Budget::new(1),
            },
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The settings.
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Takes new settings; they hold from the next append on.
    pub fn set_config(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// The first offset that may be read.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The offset that the next record gets.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The offset below which everything is on stable storage.
    pub fn flushed(&self) -> Offset {
        self.flushed
    }

    /// Bytes in all segments that are durable.
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|s| s.size()).sum()
    }

    /// Number of segments.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Bytes appended but not yet taken for writing.
    pub fn pending_bytes(&self) -> usize {
        self.queue.bytes
    }

    /// Bytes of memory that the tail holds.
    pub fn tail_memory(&self) -> usize {
        self.tail.memory()
    }

    /// Drops from the tail what lies before `next`. False when that is not in its segments yet:
    /// then nothing is dropped.
    pub fn drop_tail(&mut self, next: Offset) -> bool {
        // What is beyond the end was cut.
        let may = next.min(self.flushed) <= self.back.written;
        if may {
            self.tail.drop_before(next);
        }
        may
    }

    /// Forgets the tail. Only for a log that is not used any more: it may hold what is not in its
    /// segments.
    pub fn clear_tail(&mut self) {
        self.tail.clear();
    }

    /// Everything before it is in the segments, though perhaps not durable there: a mark for
    /// [`crate::write_back::settle_synced`].
    pub fn written(&self) -> Offset {
        self.back.marked.set(true);
        self.back.written
    }

    /// Whether everything that is durable in the journal is durable in the segments.
    pub fn is_settled(&self) -> bool {
        self.back.synced >= self.flushed
    }

    /// The name of the directory.
    pub(crate) fn dir_name(&self) -> &str {
        self.dir.file_name().and_then(|n| n.to_str()).unwrap_or("")
    }

    /// Whether the directory is there: see [`crate::write_back::make_dir`].
    pub fn has_dir(&self) -> bool {
        self.has_dir
    }

    /// Held while pieces are written to the segments: whoever has it sees no write begin.
    pub fn back_turn(&self) -> Budget {
        self.back.turn.clone()
    }

    /// Everything before this offset was compacted once.
    pub fn cleaned(&self) -> Offset {
        self.sealed.cleaned.done
    }

    /// Whether the segment is one of the log's: it may have gone, or been replaced, meanwhile.
    pub fn has_segment(&self, segment: &Rc<Segment>) -> bool {
        let is_cut = self.queue.cut.is_some_and(|to| segment.next() > to);
        !is_cut && self.segments.iter().any(|s| Rc::ptr_eq(s, segment))
    }

    /// Waits until no file of a sealed segment is being removed or replaced, and sees to it that
    /// none will be: the directory is about to go.
    pub async fn retire(log: &RefCell<Log>) {
        let turn = log.borrow().sealed.turn.clone();
        let _turn = turn.acquire(1).await;
        log.borrow_mut().sealed.retired = true;
    }

    /// Notes that a recovery found everything before `end` in the segments, durable.
    pub(crate) fn set_end(&mut self, end: Offset) {
        (self.end, self.queue.taken, self.flushed) = (end, end, end);
        (self.back.written, self.back.synced) = (end, end);
    }

    /// Leader epochs and their first offsets, rising.
    pub fn epochs(&self) -> &[(Epoch, Offset)] {
        &self.epochs
    }

    /// The largest epoch of the log that is at most `epoch`, and the offset where it ends, capped
    /// at the flushed end. `None` when there is none (KIP-101).
    pub fn end_of_epoch(&self, epoch: Epoch) -> Option<(Epoch, Offset)> {
        let after = self.epochs.partition_point(|&(e, _)| e <= epoch);
        let (found, _) = *self.epochs.get(after.checked_sub(1)?)?;
        let end = self
            .epochs
            .get(after)
            .map_or(self.flushed, |&(_, from)| from);
        Some((found, end.min(self.flushed)))
    }

    /// The high watermark that was given last, in this life or as far as a checkpoint has it;
    /// `None` if none ever was. At most the flushed end.
    pub fn high(&self) -> Option<Offset> {
        self.points.high
    }

    /// The high watermark, or the flushed end where the owner never gave one. Everything before it
    /// stays for good: nothing else is compacted, deleted, or told of by look-ups.
    pub fn committed(&self) -> Offset {
        (self.points.high).map_or(self.flushed, |high| high.min(self.flushed))
    }

    /// What lies before `high` is committed: it is never cut. The next checkpoint keeps it, and
    /// from now on none lies behind it. It never goes back.
    pub fn set_high(&mut self, high: Offset) {
        let high = high.clamp(self.start, self.flushed.max(self.start));
        self.points.high = Some(self.points.high.map_or(high, |h| h.max(high)));
    }

    /// Whether recovery would have much to scan: time to call [`Log::plan_checkpoint`].
    pub fn wants_checkpoint(&self) -> bool {
        self.points.next.is_none() && self.points.since >= self.config.checkpoint_bytes
    }

    /// Whether the next append of `size` bytes begins a new segment, when its records are of now.
    pub fn will_roll(&self, size: usize, records: i32, now_ms: i64) -> bool {
        self.will_roll_at(size, records, (now_ms, now_ms))
    }

    /// Whether the next append of `size` bytes begins a new segment. As in Kafka its age counts
    /// from the time of its first batch to the greatest time `max_ms` of the new one; without such
    /// a time, from its making to `now_ms`.
    pub fn will_roll_at(&self, size: usize, records: i32, (now_ms, max_ms): (i64, i64)) -> bool {
        let Some(active) = self.segments.back() else {
            return false;
        };
        if self.position == 0 {
            return false;
        }
        let (first_ms, index_bytes) = active.index().map_or((None, 0), |i| {
            let index = i.borrow();
            (index.first_timestamp(), index.file_bytes())
        });
        let age = match self.roll.first_ms.or(first_ms) {
            Some(first) if first >= 0 && max_ms >= 0 => max_ms.saturating_sub(first),
            _ => now_ms.saturating_sub(self.roll.made_ms),
        };
        self.position + size as u64 > self.config.segment_bytes
            || age > self.config.segment_ms.saturating_sub(self.roll.jitter_ms)
            || index_bytes + 12 > self.config.segment_index_bytes
            || self.end + i64::from(records) - active.base > i64::from(i32::MAX)
    }

    /// Whether segments were rolled that no checkpoint lies behind, so that they can neither go nor
    /// be compacted: after a crash there may be none for long. Time for [`Log::plan_checkpoint`].
    pub fn checkpoint_lags(&self) -> bool {
        let active = self.segments.back();
        self.points.next.is_none() && active.is_some_and(|s| s.base > self.points.last.segment)
    }

    /// Whether the checkpoint that will lie behind rolled segments is planned, and waits for what
    /// is before it to be written to them.
    pub fn checkpoint_waits(&self) -> bool {
        let last = self.points.last.segment;
        (self.points.next.as_ref()).is_some_and(|next| next.segment > last)
    }

    /// Takes note that `state` is the owner's state at the end of the log as it is now. It becomes
    /// the checkpoint once everything before it is flushed.
    pub fn plan_checkpoint(&mut self, state: Vec<u8>) {
        let Some(active) = self.segments.back() else {
            return;
        };
        if self.is_cutting() {
            return;
        }
        self.points.since = 0;
        let max_timestamp = active.index().map_or(-1, |i| i.borrow().max_timestamp);
        self.points.next = Some(Checkpoint {
            log_start: self.start,
            segment: active.base,
            position: self.position,
            next: self.end,
            max_timestamp,
            high: None,
            epochs: self.epochs.clone(),
            state,
        });
    }

    /// Begins a new segment at the end of the log. Call it when [`Log::will_roll`] says so. Not
    /// while the log is being cut.
    pub fn roll(&mut self, now_ms: i64) {
        if self.is_cutting() {
            return;
        }
        if let Some(old) = self.segments.back() {
            self.back.to_seal.push_back((old.clone(), self.end));
        }
        let segment = Segment::new(&self.dir, self.end, 0, self.end);
        segment.set_index(Index::new(self.config.index_interval));
        self.segments.push_back(segment);
        self.position = 0;
        let jitter_max = self.config.segment_jitter_ms.min(self.config.segment_ms);
        self.roll = Roll {
            made_ms: now_ms,
            first_ms: None,
            jitter_ms: match u64::try_from(jitter_max) {
                Ok(max) if max > 0 => (self.env.random_u64() % max) as i64,
                _ => 0,
            },
        };
    }

    /// Gives the batch its offsets and queues it for writing. The caller has validated it. Not
    /// while the log is being cut: see [`Log::is_cutting`].
    pub fn append(&mut self, batch: NewBatch, epoch: Epoch, now_ms: i64) -> Appended {
        assert!(!self.is_cutting(), "nothing is appended before the cut");
        let header = batch.facts.header;
        assert!(header.size == batch.bytes.len(), "one whole batch");
        if self.segments.is_empty() {
            self.roll(now_ms);
        }
        assert!(
            self.epochs.last().is_none_or(|&(e, _)| e <= epoch),
            "epochs never go back"
        );
        if self.epochs.last().is_none_or(|&(e, _)| e < epoch) {
            self.epochs.push((epoch, self.end));
        }
        let base = self.end;
        let next = base + i64::from(header.last_offset_delta) + 1;
        let segment = self.segments[self.segments.len() - 1].clone();
        let position = self.position;
        if position == 0 {
            self.roll.first_ms = Some(batch.facts.max_timestamp).filter(|&t| t >= 0);
        }
        self.position += header.size as u64;
        self.points.since += header.size as u64;
        self.queue.bytes += header.size;
        self.end = next;
        let log_append_time = batch.facts.log_append_time;
        self.queue.pending.push_back(Pending {
            segment,
            position,
            base,
            epoch,
            batch,
            log_append_time,
        });
        Appended { base, next }
    }

    /// The segment that holds `offset`, or the first one after it.
    pub(crate) fn segment_of(&self, offset: Offset) -> Option<&Rc<Segment>> {
        let after = self.segments.partition_point(|s| s.base <= offset);
        let at = after.checked_sub(1)?;
        // A sealed segment ends where the next one begins.
        if offset >= self.segments[at].next() && at + 1 < self.segments.len() {
            return self.segments.get(at + 1);
        }
        self.segments.get(at)
    }

    /// Whether the segment was rolled but not sealed yet.
    pub(crate) fn is_unsealed(&self, segment: &Rc<Segment>) -> bool {
        self.back
            .to_seal
            .iter()
            .any(|(s, _)| Rc::ptr_eq(s, segment))
    }

    /// Notes that a sealed segment was made ready for readers, and lets go of the one that was
    /// made ready longest ago when there are too many.
    pub fn note_prepared(&mut self, segment: &Rc<Segment>) {
        let is_active = self.segments.back().is_some_and(|s| Rc::ptr_eq(s, segment));
        if is_active || self.is_unsealed(segment) {
            return;
        }
        self.sealed
            .prepared
            .segments
            .retain(|s| !Rc::ptr_eq(s, segment));
        self.sealed.prepared.segments.push_back(segment.clone());
        if self.sealed.prepared.segments.len() > PREPARED_MAX
            && let Some(old) = self.sealed.prepared.segments.pop_front()
        {
            old.release();
        }
    }

    /// The checkpoint of the whole log as it stands, for a clean stop. Nothing may be pending.
    pub fn final_checkpoint(&mut self, state: Vec<u8>) -> Checkpoint {
        assert!(
            self.back.synced >= self.end,
            "everything is in the segments before a log is closed"
        );
        self.plan_checkpoint(state);
        self.points
            .next
            .take()
            .unwrap_or_else(|| self.points.last.clone())
    }
}

/// A log that its flush task, its readers and its appenders share on one shard.
pub type SharedLog = Rc<RefCell<Log>>;
