//! The coordinator of the share-partitions of one partition of `__share_group_state`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streamd_model::{ErrorCode, Mono, Offset};

use super::hard::Hard;
use super::partition::{SharePartition, Turn, Why};
use super::record::{Key, ShareRecord, Snapshot, StateBatch, StateValue};
use super::request::{Acquire, Ask, Bury, Next, Order, Reply, Request, Summary};
use crate::codec::{Damaged, In, Out};
use crate::config::QueueConfig;
use crate::machine::{self, Machine, Now, Record, Token};
use crate::meta::ClusterImage;
use crate::outbox::Outbox;
use crate::timers::Timers;

/// The internal topic that keeps share-partitions.
pub const STATE_TOPIC: &str = "__share_group_state";
/// The most share-partitions of one coordinator.
const PARTS_MAX: usize = 200_000;
/// The most members of one share-partition that wait for something to become available.
const WAITERS_MAX: usize = 10_000;

/// What the driver has to do.
pub type Effects = machine::Effects<Coordinator>;

/// The partition of `__share_group_state` that a share-partition belongs to, of `partitions`, as
/// Kafka computes it.
pub fn state_partition(key: &Key, partitions: i32) -> i32 {
    let text = format!("{}:{}:{}", key.group, key.topic.to_base64(), key.partition);
    crate::group::partition_of(&text, partitions)
}

/// See the module of share-partitions.
pub struct Coordinator {
    parts: BTreeMap<Key, SharePartition>,
    image: Arc<ClusterImage>,
    timers: Timers<Key>,
    out: Outbox<Coordinator>,
    /// Records since everything was last said anew, and what was forgotten since.
    since: usize,
    forgotten: BTreeSet<Key>,
    /// How many times a share-partition's updates between snapshots make it time for that.
    pub(super) patience: usize,
}

impl Coordinator {
    /// A coordinator without share-partitions, which goes by these settings.
    pub fn new(image: Arc<ClusterImage>) -> Coordinator {
        Coordinator {
            parts: BTreeMap::new(),
            image,
            timers: Timers::default(),
            out: Outbox::default(),
            since: 0,
            forgotten: BTreeSet::new(),
            patience: 40,
        }
    }

    fn queue(&self, group: &str) -> QueueConfig {
        let own = self.image.group_configs(group);
        self.image.broker().groups.share.queue_of(own)
    }

    /// Changes durable state: the record goes to the log, and through [`Machine::replay`].
    fn store(&mut self, record: ShareRecord) {
        self.replay(&record);
        self.since += 1;
        if let Some(part) = self.parts.get_mut(record.of()) {
            part.written = self.out.next_seq();
        }
        self.out.push(record);
    }

    /// Does something to a share-partition, and all that follows from it.
    fn turn<T>(
        &mut self,
        now: Now,
        key: &Key,
        f: impl FnOnce(&mut SharePartition, &mut Turn<'_>) -> T,
    ) -> Option<T> {
        self.turn_from(now, key, -1, f)
    }

    /// The same, when the log is known to start at `log_start`.
    fn turn_from<T>(
        &mut self,
        now: Now,
        key: &Key,
        log_start: Offset,
        f: impl FnOnce(&mut SharePartition, &mut Turn<'_>) -> T,
    ) -> Option<T> {
        let queue = self.queue(&key.group);
        let part = self.parts.get_mut(key)?;
        let mut turn = Turn::new(now.mono, &queue);
        part.restore(&mut turn);
        part.cut(log_start);
        part.expire(&mut turn);
        let value = f(part, &mut turn);
        let start = part.new_start(log_start);
        let Turn { changed, dead, .. } = turn;
        self.write(now, key, start, changed);
        let seq = self.parts.get(key).map_or(0, |p| p.written);
        for (first, last, count, cause) in dead {
            let key = key.clone();
            let bury = Bury {
                key,
                first,
                last,
                count,
                cause,
            };
            // What is not on record as spent may yet be delivered again.
            self.out.order_after(seq, Order::Bury(bury));
        }
        self.wake(now, key);
        Some(value)
    }

    /// Puts on record what has changed.
    fn write(&mut self, now: Now, key: &Key, start: Offset, mut changed: Vec<StateBatch>) {
        let Some(hard) = self.parts.get(key).map(|p| &p.hard) else {
            return;
        };
        changed.retain(|b| b.last >= start);
        let moved = start > hard.start;
        if !moved && changed.is_empty() {
            return;
        }
        changed.sort_unstable_by_key(|b| b.first);
        let mut after = hard.clone();
        let mut update = StateValue {
            snapshot_epoch: hard.snapshot_epoch,
            leader_epoch: hard.leader_epoch,
            start: if moved { start } else { -1 },
            complete: -1,
            batches: changed,
        };
        after.replay(&update);
        update.complete = i32::try_from(after.complete()).unwrap_or(i32::MAX);
        let limit = self.image.broker().groups.share.updates_per_snapshot;
        let snapshot = (after.updates > limit).then(|| after.to_snapshot(now.wall_ms));
        self.store(ShareRecord::Update(key.clone(), Some(update)));
        if snapshot.is_some() {
            self.store(ShareRecord::Snapshot(key.clone(), snapshot));
        }
    }

    /// Tells who waits, if there is news, and sets the timer anew.
    fn wake(&mut self, now: Now, key: &Key) {
        let queue = self.queue(&key.group);
        let Some(part) = self.parts.get_mut(key) else {
            return;
        };
        let turn = Turn::new(now.mono, &queue);
        for token in part.wakened(&turn) {
            self.out.reply(token, Reply::Code(ErrorCode::None));
        }
        let next = part.next_event(now.mono);
        if part.armed.map(|t| t.0) != next {
            self.timers.disarm(part.armed.take());
            part.armed = next.map(|at| self.timers.arm(at, key.clone()));
        }
    }

    fn dispatch(&mut self, now: Now, token: Token, Request { key, ask }: Request) {
        let done = match ask {
            Ask::Next => return self.next_of(now, token, &key),
            Ask::Begin(start) => self.begin(now, &key, start),
            Ask::Acquire(wanted) => return self.acquire(now, token, &key, &wanted),
            Ask::Acknowledge(member, batches) => {
                let done = self.turn(now, &key, |part, turn| {
                    part.acknowledge(turn, &member, &batches)
                });
                done.unwrap_or_else(|| absent(&key))
            }
            Ask::Release(member, unseen) => {
                self.turn(now, &key, |part, turn| {
                    part.drop_member(turn, &member, unseen)
                });
                Ok(())
            }
            Ask::Wait(full) => return self.wait(now, token, &key, full),
            Ask::Summary => return self.summary(token, &key),
            Ask::Reset(start) => self.reset(now, &key, start),
            Ask::Forget => {
                let seq = self.forget(&key);
                return self
                    .out
                    .reply_after(seq, token, Reply::Code(ErrorCode::None));
            }
            Ask::Buried(first, last) => {
                self.turn(now, &key, |part, turn| part.buried(turn, first, last));
                Ok(())
            }
        };
        let seq = self.parts.get(&key).map_or(0, |p| p.written);
        match done {
            Ok(()) => self
                .out
                .reply_after(seq, token, Reply::Code(ErrorCode::None)),
            Err((code, text)) => self.out.reply(token, Reply::Refused(code, text)),
        }
    }

    fn next_of(&mut self, now: Now, token: Token, key: &Key) {
        let queue = self.queue(&key.group);
        let at = self.turn(now, key, |part, turn| part.next(turn));
        let next = match at {
            None => Next::Unset(queue.start),
            Some(None) => Next::Full,
            Some(Some(offset)) => Next::At {
                offset,
                committed: queue.committed,
            },
        };
        self.out.reply(token, Reply::Next(next));
    }

    fn begin(&mut self, now: Now, key: &Key, start: Offset) -> Result<(), Why> {
        if self.parts.contains_key(key) {
            return Ok(());
        }
        self.reset(now, key, start)
    }

    fn reset(&mut self, now: Now, key: &Key, start: Offset) -> Result<(), Why> {
        if start < 0 {
            let text = format!("A share-partition cannot start at offset {start}.");
            return Err((ErrorCode::InvalidRequest, text));
        }
        let before = self.parts.get(key).map(|p| &p.hard);
        if before.is_none() && self.parts.len() >= PARTS_MAX {
            let text = format!("There are {PARTS_MAX} share-partitions, which is the most.");
            return Err((ErrorCode::CoordinatorNotAvailable, text));
        }
        let snapshot = Snapshot {
            state_epoch: before.map_or(0, |h| h.state_epoch.saturating_add(1)),
            created_ms: before.map_or(now.wall_ms, |h| h.created_ms),
            written_ms: now.wall_ms,
            value: StateValue {
                snapshot_epoch: before.map_or(0, |h| h.snapshot_epoch.saturating_add(1)),
                leader_epoch: before.map_or(0, |h| h.leader_epoch),
                start,
                complete: 0,
                batches: Vec::new(),
            },
        };
        self.store(ShareRecord::Snapshot(key.clone(), Some(snapshot)));
        self.turn(now, key, |_, _| ());
        Ok(())
    }

    fn acquire(&mut self, now: Now, token: Token, key: &Key, wanted: &Acquire) {
        let got = self.turn_from(now, key, wanted.log_start, |part, turn| {
            part.acquire(turn, wanted)
        });
        let reply = match got {
            Some(got) => Reply::Acquired(got),
            None => Reply::Code(ErrorCode::UnknownTopicOrPartition),
        };
        self.out.reply(token, reply);
    }

    fn wait(&mut self, now: Now, token: Token, key: &Key, full: bool) {
        match self.parts.get_mut(key) {
            Some(part) if part.waiters.len() < WAITERS_MAX => {
                part.waiters.insert(token, full);
                self.wake(now, key);
            }
            _ => self.out.reply(token, Reply::Code(ErrorCode::None)),
        }
    }

    fn summary(&mut self, token: Token, key: &Key) {
        let part = self.parts.get(key);
        let summary = part.map(|p| Summary {
            start: p.hard.start,
            complete: p.hard.complete(),
            leader_epoch: p.hard.leader_epoch,
        });
        let seq = part.map_or(0, |p| p.written);
        self.out.reply_after(seq, token, Reply::Summary(summary));
    }

    /// Writes tombstones; gives the batch that they are in.
    fn forget(&mut self, key: &Key) -> u64 {
        let Some(part) = self.parts.get_mut(key) else {
            // That it is gone is only sure when its tombstones are durable.
            return self.out.next_seq() - 1;
        };
        for token in std::mem::take(&mut part.waiters).into_keys() {
            self.out.reply(token, Reply::Code(ErrorCode::None));
        }
        self.timers.disarm(part.armed.take());
        self.store(ShareRecord::Update(key.clone(), None));
        self.store(ShareRecord::Snapshot(key.clone(), None));
        self.out.next_seq()
    }

    /// Ends a step. When much was written, everything is said anew, so that what lies before it
    /// in the log can go.
    fn finish(&mut self, now: Now) -> Effects {
        let each = self.image.broker().groups.share.updates_per_snapshot as usize;
        let limit = ((each + 1) * self.patience).max(self.parts.len() * 4);
        if self.since <= limit || self.out.failed().is_some() {
            return self.out.take_effects();
        }
        let parts = self.parts.iter();
        let all = parts.map(|(key, part)| (key.clone(), Some(part.hard.to_snapshot(now.wall_ms))));
        let mut all: Vec<_> = all.collect();
        // A checkpoint from before may know them yet.
        let forgotten = std::mem::take(&mut self.forgotten).into_iter();
        let gone = forgotten.filter(|key| !self.parts.contains_key(key));
        all.extend(gone.map(|key| (key, None)));
        let count = all.len();
        for (key, snapshot) in all {
            self.store(ShareRecord::Snapshot(key, snapshot));
        }
        self.since = 0;
        self.out.order_after(0, Order::Prune(count));
        self.out.take_effects()
    }

    /// Whoever would get the answer under `token` is gone; it waited on `key`.
    pub fn gone(&mut self, key: &Key, token: Token) -> Effects {
        self.out.withdraw(token);
        if let Some(part) = self.parts.get_mut(key) {
            part.waiters.remove(&token);
        }
        self.out.take_effects()
    }

    /// The topics, or the settings of groups, are others now.
    pub fn set_image(&mut self, image: Arc<ClusterImage>) {
        self.image = image;
    }

    /// The same, for a coordinator that serves: what is gone is forgotten.
    pub fn follow(&mut self, image: Arc<ClusterImage>) -> Effects {
        self.image = image;
        if self.out.failed().is_none() {
            let gone = |k: &&Key| self.image.topic_by_id(k.topic).is_none();
            let keys: Vec<_> = self.parts.keys().filter(gone).cloned().collect();
            for key in keys {
                self.forget(&key);
            }
        }
        self.out.take_effects()
    }

    /// The durable states, for tests.
    #[cfg(test)]
    pub(super) fn hards(&self) -> BTreeMap<Key, Hard> {
        let parts = self.parts.iter();
        parts.map(|(k, p)| (k.clone(), p.hard.clone())).collect()
    }
}

fn absent(key: &Key) -> Result<(), Why> {
    let text = format!(
        "Group {} has nothing of partition {} of topic {}.",
        key.group, key.partition, key.topic
    );
    Err((ErrorCode::InvalidRecordState, text))
}

impl Machine for Coordinator {
    type Record = ShareRecord;
    type Request = Request;
    type Reply = Reply;
    type Order = Order;

    fn replay(&mut self, record: &ShareRecord) {
        match record {
            ShareRecord::Snapshot(key, Some(snapshot)) => {
                self.forgotten.remove(key);
                let part = self.parts.entry(key.clone()).or_default();
                if part.hard.state_epoch != snapshot.state_epoch {
                    part.reset();
                }
                part.hard = Hard::snapshot(snapshot);
            }
            ShareRecord::Snapshot(key, None) => {
                self.parts.remove(key);
                self.forgotten.insert(key.clone());
            }
            ShareRecord::Update(key, Some(update)) => {
                // Without a snapshot before it, it belongs to what was forgotten.
                if let Some(part) = self.parts.get_mut(key) {
                    part.hard.replay(update);
                }
            }
            ShareRecord::Update(_, None) => {}
        }
    }

    fn start(&mut self, now: Now) -> Effects {
        let keys: Vec<_> = self.parts.keys().cloned().collect();
        for key in keys {
            self.turn(now, &key, |_, _| ());
        }
        self.out.take_effects()
    }

    fn handle(&mut self, now: Now, _: &str, token: Token, request: Request) -> Effects {
        match self.out.failed() {
            Some(code) => self.out.refuse(token, code),
            None => self.dispatch(now, token, request),
        }
        self.finish(now)
    }

    fn persisted(&mut self, seq: u64) -> Effects {
        self.out.persisted(seq);
        self.out.take_effects()
    }

    fn fail(&mut self, code: ErrorCode) -> Effects {
        self.timers.clear();
        let parts = self.parts.values_mut();
        let waiting: Vec<_> = parts
            .flat_map(|p| std::mem::take(&mut p.waiters).into_keys())
            .collect();
        self.out.fail(code, waiting);
        self.out.take_effects()
    }

    fn next_tick(&self) -> Option<Mono> {
        self.timers.next()
    }

    fn tick(&mut self, now: Now) -> Effects {
        if let Some(key) = self.timers.due(now.mono) {
            if let Some(part) = self.parts.get_mut(&key) {
                part.armed = None;
            }
            self.turn(now, &key, |_, _| ());
        }
        self.finish(now)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Out::default();
        for (key, part) in &self.parts {
            let mut snapshot = part.hard.to_snapshot(part.hard.created_ms);
            snapshot.value.snapshot_epoch = part.hard.snapshot_epoch;
            let record = ShareRecord::Snapshot(key.clone(), Some(snapshot));
            out.bytes(&record.key());
            out.bytes(&record.value().unwrap_or_default());
        }
        out.0
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let mut r = In(bytes);
        while !r.0.is_empty() {
            let key = r.bytes("a share record's key")?;
            let value = r.bytes("a share record's value")?;
            if let Some(record) = ShareRecord::decode(key, Some(value))? {
                self.replay(&record);
            }
        }
        Ok(())
    }
}
