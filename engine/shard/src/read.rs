//! Read: from (partition, offset) to parts that can be sent, and the other questions about a
//! partition's log. The owner plans; the connection's shard moves the bytes.

use std::rc::Rc;
use std::time::Duration;

use streamd_core::producer::AbortedTxn;
use streamd_log::whole::Ending;
use streamd_log::{Log, ReadPlan, begin, lookup, retain};
use streamd_model::{Epoch, ErrorCode, Offset, PartitionId, Watermarks};

use crate::Refusal;
use crate::partition::Partition;
use crate::shard::Shard;
use crate::waiters::Countdown;

/// A long poll is looked after for so long at a time; the connection asks again.
const WATCH_MAX: Duration = Duration::from_secs(5);

/// What a client wants of one partition.
#[derive(Clone, Copy, Debug)]
pub struct ReadItem {
    /// Where.
    pub partition: PartitionId,
    /// From which offset.
    pub offset: Offset,
    /// How many bytes at the most.
    pub bytes_max: usize,
    /// The leader epoch that the client knows; -1 for unknown.
    pub leader_epoch: Epoch,
    /// The epoch of the last batch that the client has; -1 for unknown.
    pub last_fetched_epoch: Epoch,
    /// Nothing of transactions that are open, and what was aborted is named.
    pub committed: bool,
    /// A replica that follows will do.
    pub follower_too: bool,
}

/// Reads of partitions of one shard.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// In order of preference.
    pub items: Vec<ReadItem>,
    /// How many bytes at the most, all together.
    pub bytes_max: usize,
}

/// What came of one read.
pub struct ReadDone {
    /// Where the log stands.
    pub marks: Watermarks,
    /// What to send, or why not.
    pub result: Result<ReadPlan, Refusal>,
    /// The client's log has gone another way: its epoch ends here (KIP-595).
    pub diverging: Option<(Epoch, Offset)>,
    /// Aborted transactions with records in what is sent.
    pub aborted: Vec<AbortedTxn>,
}

impl ReadDone {
    /// Nothing can be read, and where the log stands is not told.
    pub fn refused(refusal: Refusal) -> ReadDone {
        let unknown = Watermarks {
            start: -1,
            stable: -1,
            high: -1,
            flushed: -1,
            end: -1,
        };
        ReadDone {
            marks: unknown,
            result: Err(refusal),
            diverging: None,
            aborted: Vec::new(),
        }
    }
}

/// Waits for bytes after these offsets.
pub struct WatchRequest {
    /// Partitions of one shard, and the offset up to which the client has seen each.
    pub items: Vec<(PartitionId, Offset)>,
    /// How many bytes are wanted.
    pub bytes: usize,
    /// How long to wait at the most.
    pub wait: Duration,
}

/// Asks for an offset by time.
#[derive(Clone, Copy, Debug)]
pub struct OffsetQuery {
    /// Where.
    pub partition: PartitionId,
    /// The leader epoch that the client knows; -1 for unknown.
    pub leader_epoch: Epoch,
    /// Milliseconds, or one of Kafka's special values below zero.
    pub timestamp: i64,
    /// Nothing of transactions that are open.
    pub committed: bool,
}

/// The answer; -1 stands for "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetFound {
    /// The offset.
    pub offset: Offset,
    /// The timestamp of the record there, ms, when the question was about timestamps.
    pub timestamp: i64,
    /// The leader epoch of the partition.
    pub epoch: Epoch,
}

/// Asks where a leader epoch ends.
#[derive(Clone, Copy, Debug)]
pub struct EpochQuery {
    /// Where.
    pub partition: PartitionId,
    /// The leader epoch that the client knows; -1 for unknown.
    pub current: Epoch,
    /// The epoch that is asked about.
    pub epoch: Epoch,
}

/// The largest epoch that is at most the one asked for, and its end; -1 and -1 for none.
pub type EpochEnd = (Epoch, Offset);

/// The size of a partition's log.
#[derive(Clone, Copy, Debug)]
pub struct PartitionSize {
    /// Which.
    pub partition: PartitionId,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Partition {
    fn check_epoch(&self, client: Epoch) -> Result<(), Refusal> {
        let epoch = self.epoch();
        let code = match client {
            e if e < 0 || e == epoch => return Ok(()),
            e if e < epoch => ErrorCode::FencedLeaderEpoch,
            _ => ErrorCode::UnknownLeaderEpoch,
        };
        Err(Refusal::new(
            code,
            format!("leader epoch {client}; {} is at {epoch}", self.name),
        ))
    }
}

impl Shard {
    /// Plans reads of partitions of this shard.
    pub async fn read(&self, request: ReadRequest) -> Vec<ReadDone> {
        self.touch(request.items.iter().map(|i| i.partition));
        let mut done = Vec::with_capacity(request.items.len());
        let mut left = request.bytes_max;
        for item in &request.items {
            let one = self.read_one(item, (left, false)).await;
            if let Ok(plan) = &one.result {
                left = left.saturating_sub(plan.bytes);
            }
            done.push(one);
        }
        done
    }

    /// At most `room.0` bytes; with `room.1`, see [`Shard::read_whole`].
    pub(crate) async fn read_one(&self, item: &ReadItem, room: (usize, bool)) -> ReadDone {
        let usable = |p: &Rc<Partition>| {
            p.usable()?;
            p.is_readable(item.follower_too)?;
            p.check_epoch(item.leader_epoch)
        };
        let partition = match self.open_partition(item.partition).await {
            Ok(p) => match usable(&p) {
                Ok(()) => p,
                Err(refusal) => return ReadDone::refused(refusal),
            },
            Err(refusal) => return ReadDone::refused(refusal),
        };
        let diverging = partition.diverging(item);
        if diverging.is_some() {
            return ReadDone {
                marks: partition.watermarks(),
                result: Ok(ReadPlan::default()),
                diverging,
                aborted: Vec::new(),
            };
        }
        let result = self.plan(&partition, item, room).await;
        let aborted = match &result {
            Ok(plan) if item.committed && plan.bytes > 0 => {
                let producers = partition.producers.borrow();
                producers.txns.aborted(item.offset, plan.next)
            }
            _ => Vec::new(),
        };
        ReadDone {
            marks: partition.watermarks(),
            result,
            diverging: None,
            aborted,
        }
    }

    async fn plan(
        &self,
        partition: &Partition,
        item: &ReadItem,
        (left, exact): (usize, bool),
    ) -> Result<ReadPlan, Refusal> {
        // While there is room the first batch comes whole, however large (KIP-74).
        let whole = left > 0 && item.bytes_max > 0;
        let max = item.bytes_max.min(left);
        let limit = || {
            let marks = partition.watermarks();
            match item.committed {
                true => marks.stable,
                false => marks.high,
            }
        };
        if item.offset >= limit()
            && let Some(nothing) = partition.nothing_at(item.offset, partition.watermarks())
        {
            return nothing;
        }
        let (log, mut ending) = (&partition.log, None);
        let mut note = |log: &Log, limit, plan: &ReadPlan| {
            ending = exact.then(|| Ending::of(log, (item.offset, limit), plan));
        };
        let at = (&self.env, &**log);
        match begin::plan(at, item.offset, &limit, (max, whole), &mut note).await {
            Ok(Some(mut plan)) => {
                if let Some(ending) = ending {
                    let settled = ending.settle(&mut plan, max).await;
                    settled.map_err(|why| Refusal::new(ErrorCode::KafkaStorageError, why))?;
                }
                Ok(plan)
            }
            Ok(None) => {
                let text = format!("offset {} of {}", item.offset, partition.name);
                Err(Refusal::new(ErrorCode::OffsetOutOfRange, text))
            }
            Err(error) => Err(self.damaged(partition, &error)),
        }
    }

    /// Waits until there are `bytes` more to read, or the time is over.
    pub async fn watch(&self, request: WatchRequest) {
        let countdown = Countdown::new(request.bytes.min(i64::MAX as usize / 8) as i64);
        let mut watched = Vec::with_capacity(request.items.len());
        for (id, seen) in &request.items {
            // A partition that is gone or has failed is something to tell at once.
            let Ok(partition) = self.open_partition(*id).await else {
                countdown.take(i64::MAX / 4);
                continue;
            };
            let high = partition.watermarks().high;
            let gone = partition.is_readable(true).is_err();
            if partition.usable().is_err() || gone || high > *seen {
                countdown.take(i64::MAX / 4);
            }
            watched.push(partition.waiters.watch(countdown.clone()));
        }
        let wait = request.wait.min(WATCH_MAX);
        futures_lite::future::or(countdown.done(), self.env.sleep(wait)).await;
    }

    /// Answers questions about offsets.
    pub(crate) async fn offsets(
        &self,
        queries: Vec<OffsetQuery>,
    ) -> Vec<Result<OffsetFound, Refusal>> {
        self.touch(queries.iter().map(|q| q.partition));
        let mut found = Vec::with_capacity(queries.len());
        for query in queries {
            found.push(self.offset(query).await);
        }
        found
    }

    /// Answers questions about the ends of leader epochs.
    pub(crate) async fn epoch_ends(
        &self,
        queries: Vec<EpochQuery>,
    ) -> Vec<Result<EpochEnd, Refusal>> {
        self.touch(queries.iter().map(|q| q.partition));
        let mut found = Vec::with_capacity(queries.len());
        for query in queries {
            found.push(self.epoch_end(query).await);
        }
        found
    }

    /// Answers a question about an offset.
    pub async fn offset(&self, query: OffsetQuery) -> Result<OffsetFound, Refusal> {
        let partition = self.open_partition(query.partition).await?;
        partition.usable()?;
        partition.check_epoch(query.leader_epoch)?;
        let high = partition.client_high()?;
        let marks = partition.watermarks();
        let limit = if query.committed { marks.stable } else { high };
        let epoch = partition.epoch();
        let at = |offset| OffsetFound {
            offset,
            timestamp: -1,
            epoch,
        };
        let found = match query.timestamp {
            -1 => return Ok(at(limit)),
            -2 | -4 => return Ok(at(marks.start)),
            // Nothing is tiered: there is no last tiered offset and nothing waits for upload.
            -5 | -6 => {
                return Ok(OffsetFound {
                    epoch: -1,
                    ..at(-1)
                });
            }
            -3 => lookup::latest(&self.env, &partition.log).await,
            t if t >= 0 => lookup::at_or_after(&self.env, &partition.log, t).await,
            t => {
                let text = format!("timestamp {t} is none of the special values -1 to -6");
                return Err(Refusal::new(ErrorCode::UnsupportedVersion, text));
            }
        };
        match found {
            Ok(Some((offset, timestamp))) if offset < limit => Ok(OffsetFound {
                offset,
                timestamp,
                epoch,
            }),
            Ok(_) => Ok(OffsetFound {
                epoch: -1,
                ..at(-1)
            }),
            Err(error) => Err(self.damaged(&partition, &error)),
        }
    }

    /// Where a leader epoch ends in this partition's log.
    pub async fn epoch_end(&self, query: EpochQuery) -> Result<EpochEnd, Refusal> {
        let partition = self.open_partition(query.partition).await?;
        partition.usable()?;
        partition.is_readable(false)?;
        partition.check_epoch(query.current)?;
        let (log, epoch) = (partition.log.borrow(), partition.epoch());
        if query.epoch == epoch {
            return Ok((epoch, log.flushed()));
        }
        Ok(log.end_of_epoch(query.epoch).unwrap_or((-1, -1)))
    }

    /// Moves a partition's log start up to `offset`; -1 means the high watermark.
    pub async fn delete_records(&self, id: PartitionId, offset: Offset) -> Result<Offset, Refusal> {
        let partition = self.open_partition(id).await?;
        partition.usable()?;
        partition.is_readable(false)?;
        if !partition.topic.borrow().config.delete {
            let text = format!(
                "records of {} cannot be deleted: its cleanup.policy is compact alone",
                partition.name
            );
            return Err(Refusal::new(ErrorCode::PolicyViolation, text));
        }
        let marks = partition.watermarks();
        let to = if offset == -1 { marks.high } else { offset };
        if to < 0 || to > marks.high {
            let text = format!(
                "offset {offset} of {}, which ends at {}",
                partition.name, marks.high
            );
            return Err(Refusal::new(ErrorCode::OffsetOutOfRange, text));
        }
        let start = retain::delete_before(&self.env, &partition.log, to)
            .await
            .map_err(|error| {
                if !error.is_full() {
                    partition.fail(&error);
                }
                Refusal::new(ErrorCode::KafkaStorageError, error.to_string())
            })?;
        partition.forget_aborted();
        Ok(start)
    }
}

impl Partition {
    /// What is read from an offset at or behind all that may be read. A client may be ahead of what
    /// this replica knows to be committed, or even has: another broker has told it more.
    fn nothing_at(&self, offset: Offset, marks: Watermarks) -> Option<Result<ReadPlan, Refusal>> {
        if offset <= marks.end {
            return Some(Ok(ReadPlan::default()));
        }
        let text = format!("offset {offset} of {}, which follows", self.name);
        let behind = Refusal::new(ErrorCode::OffsetNotAvailable, text);
        self.is_readable(false).is_err().then_some(Err(behind))
    }

    /// Whether the client's last epoch ends, in this log, before what it has.
    fn diverging(&self, item: &ReadItem) -> Option<(Epoch, Offset)> {
        if item.last_fetched_epoch < 0 || item.last_fetched_epoch == self.epoch() {
            return None;
        }
        let log = self.log.borrow();
        let (epoch, end) = log.end_of_epoch(item.last_fetched_epoch)?;
        (epoch < item.last_fetched_epoch || end < item.offset).then_some((epoch, end))
    }
}
