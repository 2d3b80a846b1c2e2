//! A disk that gets full: what is free is watched, old segments go, producers are held back and
//! then refused, and all goes on by itself when there is room.
//!
//! Below the high mark the oldest closed segments of all shards go, of topics that allow it. From
//! there to the low mark producers are throttled more and more; below it their batches are refused.
//! What is below the low mark is for committed offsets, metadata, indexes, and for what the
//! journals hold. Shard 0 decides what goes; each shard looks by itself at what is free.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use streamd_log::retain;
use streamd_model::{ErrorCode, Map, Offset, PartitionId, ShardId};

use crate::Refusal;
use crate::mesh::{Reply, Request};
use crate::partition::Partition;
use crate::shard::Shard;

/// How often a disk with room is looked at, and one without.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_SOON: Duration = Duration::from_millis(100);
/// The longest that a producer is asked to wait, ms.
const THROTTLE_MAX_MS: i64 = 1000;
/// What one shard's journal and what it holds may take, with indexes and checkpoints, bytes.
const SHARD_NEEDS: i64 = 160 << 20;
/// So much more than the low mark must be free before producers are taken again, bytes.
const RESUME: i64 = 4 << 20;

/// What is free of how much, and the marks, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Below it old segments go.
    pub high: i64,
    /// Below it producers are refused.
    pub low: i64,
}

impl Marks {
    /// The marks for a disk of `total` bytes that `shards` shards write to. `told` are the settings
    /// `disk.free.high.bytes` and `disk.free.low.bytes`; `None` is what suits the disk.
    pub fn new(total: u64, shards: usize, told: (Option<u64>, Option<u64>)) -> Marks {
        let total = i64::try_from(total).unwrap_or(i64::MAX);
        let exact = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let needs = SHARD_NEEDS.saturating_mul(shards as i64);
        let low = (total / 100).clamp(0, 2 << 30).max(needs).min(total / 4);
        let low = told.1.map_or(low, exact);
        let more = (total / 100 * 3).clamp(64 << 20, 8 << 30).min(total / 4);
        let high = told.0.map_or(low.saturating_add(more), exact).max(low);
        Marks { high, low }
    }

    /// How long producers are to wait at `free` bytes, ms: nothing down to half way between the
    /// marks, then more and more.
    fn throttle_ms(&self, free: i64) -> i32 {
        let half = (self.high - self.low) / 2;
        let missing = self.low.saturating_add(half).saturating_sub(free);
        if missing <= 0 {
            return 0;
        }
        let ms = missing.saturating_mul(THROTTLE_MAX_MS) / half.max(1);
        ms.clamp(1, THROTTLE_MAX_MS) as i32
    }
}

/// What a shard knows of its disk.
#[derive(Default)]
pub struct DiskGuard {
    /// What was free at the last look, and the marks then.
    seen: Cell<Option<(i64, Marks)>>,
    /// What this shard may take before the next look, bytes.
    room: Cell<i64>,
    refusing: Cell<bool>,
    /// Whether segments are deleted for room.
    deleting: Cell<bool>,
    /// The newest timestamps of oldest segments, by the segment's base.
    newest: RefCell<Map<PartitionId, (Offset, i64)>>,
}

impl DiskGuard {
    /// Takes what is free into account. True when producers are not taken any more, or again.
    fn look(&self, free: u64, marks: Marks, shards: usize) -> bool {
        let free = i64::try_from(free).unwrap_or(i64::MAX);
        self.seen.set(Some((free, marks)));
        self.room.set((free - marks.low) / shards.max(1) as i64);
        let resume = RESUME.min((marks.high - marks.low) / 4);
        let refusing = match self.refusing.get() {
            true => free < marks.low.saturating_add(resume),
            false => free < marks.low,
        };
        self.refusing.replace(refusing) != refusing
    }

    /// Takes `bytes` of the room that there is, or says why not.
    fn admit(&self, bytes: usize) -> Result<(), Refusal> {
        let Some((free, marks)) = self.seen.get() else {
            return Ok(());
        };
        let room = self.room.get() - bytes as i64;
        if !self.refusing.get() && room >= 0 {
            self.room.set(room);
            return Ok(());
        }
        let text = format!(
            "the disk is full: {free} bytes are free, disk.free.low.bytes keeps {}. Nothing was \
             written; try again",
            marks.low
        );
        Err(Refusal::new(ErrorCode::KafkaStorageError, text))
    }

    /// How long producers are asked to wait, ms.
    pub fn throttle_ms(&self) -> i32 {
        let free = |(free, marks): (i64, Marks)| marks.throttle_ms(free);
        self.seen.get().map_or(0, free)
    }

    /// Bytes that are missing to the high mark.
    fn missing(&self) -> u64 {
        let missing = |(free, marks): (i64, Marks)| marks.high.saturating_sub(free);
        u64::try_from(self.seen.get().map_or(0, missing)).unwrap_or(0)
    }
}

/// A segment that may go.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Whose.
    pub partition: PartitionId,
    /// Its first offset.
    pub base: Offset,
    /// Its newest timestamp, ms; -1 when it has none.
    pub newest_ms: i64,
}

impl Shard {
    /// Whether a producer's batch of `bytes` bytes may be taken now.
    pub(crate) fn admit(&self, bytes: usize) -> Result<(), Refusal> {
        if self.flusher.is_held() {
            let text = "the disk is full. Nothing was written; try again";
            return Err(Refusal::new(ErrorCode::KafkaStorageError, text));
        }
        self.disk.admit(bytes)
    }

    /// Looks at what is free.
    pub(crate) async fn look_at_disk(&self) {
        let space = match self.env.disk_space(self.data_dir()).await {
            Ok(space) => space,
            Err(e) => {
                eprintln!("warning: {}: what is free: {e}", self.data_dir().display());
                return;
            }
        };
        let (image, shards) = (self.image(), self.mesh.shards());
        let told = (image.broker().disk.free_high, image.broker().disk.free_low);
        let marks = Marks::new(space.total, shards, told);
        let changed = self.disk.look(space.free, marks, shards);
        if changed && self.mesh.id() == ShardId(0) {
            match self.disk.refusing.get() {
                true => eprintln!(
                    "error: the disk is full: {} bytes are free, less than disk.free.low.bytes={}: \
                     producers are refused (they try again by themselves) until there is room. \
                     Free some in {}, add some, or shorten the retention of topics",
                    space.free,
                    marks.low,
                    self.data_dir().display()
                ),
                false => eprintln!(
                    "the disk has room again: {} bytes are free; producers are taken",
                    space.free
                ),
            }
        }
    }

    /// Watches the disk. For ever.
    pub async fn watch_disk(self: Rc<Self>) {
        loop {
            self.look_at_disk().await;
            self.reopen_held().await;
            let missing = self.disk.missing();
            let mut gone = 0;
            if self.mesh.id() == ShardId(0) {
                gone = self.make_room(missing).await;
            }
            // What was deleted takes a moment to be free.
            let soon = gone == 0 && (missing > 0 || self.flusher.is_held());
            self.env.sleep(if soon { LOOK_SOON } else { LOOK }).await;
        }
    }

    /// Deletes oldest segments until `missing` bytes went, as far as topics allow it. Gives what
    /// went, bytes.
    async fn make_room(self: &Rc<Self>, missing: u64) -> u64 {
        let mut gone = 0;
        while gone < missing && !self.mesh.is_stopping() {
            let mut oldest: Option<(ShardId, Candidate)> = None;
            for shard in (0..self.mesh.shards()).map(|s| ShardId(s as u16)) {
                let Some(Reply::Oldest(Some(found))) = self.ask(shard, Request::Oldest).await
                else {
                    continue;
                };
                if oldest.is_none_or(|(_, o)| found.newest_ms < o.newest_ms) {
                    oldest = Some((shard, found));
                }
            }
            let Some((shard, found)) = oldest else { break };
            if !self.disk.deleting.replace(true) {
                eprintln!(
                    "warning: the disk is getting full: {missing} bytes are missing to \
                     disk.free.high.bytes; oldest segments of topics with \
                     retention.on.full=delete-oldest are deleted"
                );
            }
            match self.ask(shard, Request::DropOldest(found)).await {
                Some(Reply::Dropped(bytes)) if bytes > 0 => gone += bytes,
                _ => break,
            }
        }
        if missing == 0 {
            self.disk.deleting.set(false);
        }
        gone
    }

    /// The oldest segment of this shard that may go when the disk is full.
    pub(crate) async fn oldest(&self) -> Option<Candidate> {
        let mut oldest: Option<Candidate> = None;
        for partition in self.mine() {
            let Some(found) = self.oldest_of(&partition).await else {
                continue;
            };
            if oldest.is_none_or(|o| found.newest_ms < o.newest_ms) {
                oldest = Some(found);
            }
            self.env.yield_if_needed().await;
        }
        oldest
    }

    async fn oldest_of(&self, partition: &Rc<Partition>) -> Option<Candidate> {
        let may = partition.topic.borrow().config.delete_on_full && partition.is_at_work();
        let segment = retain::deletable(&partition.log.borrow())
            .filter(|_| may)?
            .0;
        let known = self.disk.newest.borrow().get(&partition.id).copied();
        let newest_ms = match known {
            Some((base, ms)) if base == segment.base => ms,
            _ => {
                let ms = retain::newest_ms(&self.env, &partition.log, &segment).await;
                // A segment that cannot be looked at is not deleted for it.
                let ms = ms.ok()??;
                let entry = (segment.base, ms);
                self.disk.newest.borrow_mut().insert(partition.id, entry);
                ms
            }
        };
        Some(Candidate {
            partition: partition.id,
            base: segment.base,
            newest_ms,
        })
    }

    /// Deletes such a segment; the bytes that went.
    pub(crate) async fn drop_oldest(&self, which: Candidate) -> u64 {
        let Ok(partition) = self.partition(which.partition) else {
            return 0;
        };
        match retain::drop_oldest(&self.env, &partition.log, which.base).await {
            Ok(0) => 0,
            Ok(bytes) => {
                eprintln!(
                    "warning: the disk is getting full: {} lost its oldest segment, offsets {} to \
                     {} ({bytes} bytes)",
                    partition.name,
                    which.base,
                    partition.log.borrow().start() - 1
                );
                bytes
            }
            Err(error) => {
                partition.fail(&error);
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn marks_suit_the_disk() {
        for (total, shards) in [
            (GIB, 1),
            (8 * GIB, 2),
            (100 * GIB, 4),
            (1 << 44, 64),
            (0, 1),
        ] {
            let m = Marks::new(total, shards, (None, None));
            assert!(m.low <= m.high && m.high as u64 <= total / 2, "{m:?}");
            let told = Marks::new(total, shards, (Some(5), Some(7)));
            assert_eq!((told.high, told.low), (7, 7), "high is at least low");
        }
        let m = Marks::new(GIB, 1, (None, None));
        assert_eq!((m.low >> 20, m.high >> 20), (160, 224));
    }

    #[test]
    fn producers_wait_longer_and_longer_and_then_are_refused() {
        let marks = Marks {
            high: 1000,
            low: 200,
        };
        assert_eq!(marks.throttle_ms(1000), 0);
        assert_eq!(marks.throttle_ms(600), 0);
        assert_eq!(marks.throttle_ms(400), 500);
        assert_eq!(marks.throttle_ms(100), 1000);
        let guard = DiskGuard::default();
        assert!(guard.admit(1 << 30).is_ok(), "not looked yet");
        assert!(!guard.look(300, marks, 2));
        assert!(guard.admit(50).is_ok());
        let refusal = guard.admit(1).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::KafkaStorageError);
        assert!(refusal.text.contains("300 bytes are free"), "{refusal}");
        assert!(guard.look(199, marks, 2), "told once");
        assert!(
            !guard.look(300, marks, 2),
            "a little more room is not enough"
        );
        assert!(guard.admit(1).is_err());
        assert!(guard.look(500, marks, 2));
        assert!(guard.admit(1).is_ok());
        assert_eq!(guard.missing(), 500);
    }
}
