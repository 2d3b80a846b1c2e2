//! Append: sequence numbers checked, offsets given, the ticket that settles when it is durable.
//!
//! Accepting is synchronous, so requests that come one after another keep their order without a
//! lock, and the groups that go to disk form by themselves while the disk is busy.

use std::cell::RefCell;
use std::rc::Rc;

use streamd_core::producer::{ProducerState, Sent, Verdict};
use streamd_log::{Appended, BatchHeader, Log, NewBatch};
use streamd_model::{ErrorCode, Offset, PartitionId, ProducerId};

use crate::Refusal;
use crate::partition::Partition;
use crate::shard::Shard;
use crate::waiters::Countdown;

/// One batch for one partition.
pub struct AppendItem {
    /// Where to.
    pub partition: PartitionId,
    /// A validated batch.
    pub batch: NewBatch,
    /// For the first batch of a transaction: what the partition gave out before the coordinator
    /// confirmed that it is in the transaction.
    pub guard: Option<u64>,
}

/// What became of a batch.
pub type AppendDone = Result<Placed, Refusal>;

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Offset of its first record.
    pub base: Offset,
    /// The time that the broker gave it, ms; -1 with CreateTime.
    pub log_append_ms: i64,
    /// The partition's log start.
    pub log_start: Offset,
}

/// Batches that were accepted and are on their way to the disk.
pub struct Ticket {
    items: Vec<Accepted>,
    countdown: Rc<Countdown>,
}

/// A batch for a partition that is being opened.
pub(crate) struct Arrival {
    batch: NewBatch,
    guard: Option<u64>,
    now_ms: i64,
    countdown: Rc<Countdown>,
    place: Rc<RefCell<Option<Result<Appended, Refusal>>>>,
}

enum Accepted {
    Refused(Refusal),
    /// The partition was being opened.
    Waited {
        partition: Rc<Partition>,
        place: Rc<RefCell<Option<Result<Appended, Refusal>>>>,
        log_append_ms: i64,
    },
    At {
        partition: Rc<Partition>,
        base: Offset,
        next: Offset,
        log_append_ms: i64,
    },
}

impl Ticket {
    /// Waits until everything is durable (or has failed) and says what became of each item.
    pub async fn settled(self) -> Vec<AppendDone> {
        self.countdown.done().await;
        self.items.into_iter().map(Accepted::outcome).collect()
    }
}

impl Accepted {
    fn outcome(self) -> AppendDone {
        match self {
            Accepted::Refused(refusal) => Err(refusal),
            Accepted::Waited {
                partition,
                place,
                log_append_ms,
            } => {
                let Appended { base, next } = place.take().unwrap_or_else(|| {
                    let text = "the partition was not opened";
                    Err(Refusal::new(ErrorCode::KafkaStorageError, text))
                })?;
                let at = Accepted::At {
                    partition,
                    base,
                    next,
                    log_append_ms,
                };
                at.outcome()
            }
            Accepted::At {
                partition,
                base,
                next,
                log_append_ms,
            } => {
                let (flushed, log_start) = {
                    let log = partition.log.borrow();
                    (log.flushed(), log.start())
                };
                if flushed >= next {
                    return Ok(Placed {
                        base,
                        log_append_ms,
                        log_start,
                    });
                }
                partition.usable()?;
                Err(partition.not_durable())
            }
        }
    }
}

/// What the producer state knows a batch by.
pub fn sent(header: &BatchHeader) -> Sent {
    Sent {
        producer: ProducerId(header.producer_id),
        epoch: header.producer_epoch,
        base_seq: header.base_sequence,
        // Not its count: of a compacted batch that is what is left.
        records: header.last_offset_delta.saturating_add(1),
    }
}

/// What a batch that a recovery found says of its producer; `commits`: it is a marker.
pub(crate) fn replay(
    producers: &mut ProducerState,
    header: &BatchHeader,
    commits: Option<bool>,
    now_ms: i64,
) {
    let who = (header.producer_id, header.producer_epoch);
    let base = header.base_offset;
    if let Some(commit) = commits {
        // What a recovery finds is durable.
        return producers.record_marker(who, commit, (base, header.next_offset()), now_ms);
    }
    producers.record(&sent(header), base, header.max_timestamp, now_ms);
    if header.is_transactional() && !header.is_control() {
        producers.record_txn(who.0, who.1, base, now_ms);
    }
}

impl Shard {
    /// Accepts batches for partitions of this shard, in order.
    pub fn append(&self, items: Vec<AppendItem>) -> Ticket {
        let countdown = Countdown::new(0);
        let now_ms = self.env.wall_ms();
        let items = items
            .into_iter()
            .map(|item| {
                self.append_one(item, now_ms, &countdown)
                    .unwrap_or_else(Accepted::Refused)
            })
            .collect();
        Ticket { items, countdown }
    }

    fn append_one(
        &self,
        item: AppendItem,
        now_ms: i64,
        countdown: &Rc<Countdown>,
    ) -> Result<Accepted, Refusal> {
        let partition = self.partition(item.partition)?;
        partition.usable()?;
        self.admit(item.batch.bytes.len())?;
        let facts = item.batch.facts;
        let log_append_ms = if facts.log_append_time {
            facts.max_timestamp
        } else {
            -1
        };
        if partition.is_opening() {
            let place = Rc::default();
            countdown.expect(1);
            partition.arrive(Arrival {
                batch: item.batch,
                guard: item.guard,
                now_ms,
                countdown: countdown.clone(),
                place: Rc::clone(&place),
            });
            return Ok(Accepted::Waited {
                partition,
                place,
                log_append_ms,
            });
        }
        let Appended { base, next } = partition.accept(item.batch, item.guard, now_ms)?;
        if next > partition.log.borrow().flushed() {
            countdown.expect(1);
            partition.waiters.ack(next, countdown.clone());
            self.flusher.kick(partition.clone());
        }
        Ok(Accepted::At {
            partition,
            base,
            next,
            log_append_ms,
        })
    }
}

impl Shard {
    /// The partition is open, or has failed: what came meanwhile is appended, in order, before
    /// anybody else can come.
    pub(crate) fn let_in(&self, partition: &Rc<Partition>) {
        for Arrival {
            batch,
            guard,
            now_ms,
            countdown,
            place,
        } in partition.end_opening()
        {
            let accepted = partition.usable();
            let accepted = accepted.and_then(|()| partition.accept(batch, guard, now_ms));
            match &accepted {
                Ok(appended) if appended.next > partition.log.borrow().flushed() => {
                    partition.waiters.ack(appended.next, countdown.clone());
                    self.flusher.kick(partition.clone());
                }
                _ => countdown.take(1),
            }
            *place.borrow_mut() = Some(accepted);
        }
    }
}

impl Partition {
    /// Gives a batch its place, or the place that it was given when it came before.
    fn accept(
        &self,
        batch: NewBatch,
        guard: Option<u64>,
        now_ms: i64,
    ) -> Result<Appended, Refusal> {
        let header = batch.facts.header;
        let mut log = self.log.borrow_mut();
        if header.size as u64 > log.config().segment_bytes {
            let text = format!(
                "a batch of {} bytes; segment.bytes is {}",
                header.size,
                log.config().segment_bytes
            );
            return Err(Refusal::new(ErrorCode::RecordListTooLarge, text));
        }
        if header.is_idempotent()
            && let Some(before) = self.check_producer(&header, guard, &log)?
        {
            return Ok(before);
        }
        let mut producers = self.producers.borrow_mut();
        let max_ms = batch.facts.max_timestamp;
        if log.will_roll_at(header.size, header.count, (now_ms, max_ms)) {
            log.roll(now_ms);
            log.plan_checkpoint(self.state(&producers));
        } else if log.wants_checkpoint() {
            log.plan_checkpoint(self.state(&producers));
        }
        let max_timestamp = batch.facts.max_timestamp;
        let appended = log.append(batch, self.epoch, now_ms);
        if header.is_idempotent() {
            producers.record(&sent(&header), appended.base, max_timestamp, now_ms);
        }
        if header.is_transactional() {
            producers.record_txn(
                header.producer_id,
                header.producer_epoch,
                appended.base,
                now_ms,
            );
            self.guards.end(header.producer_id);
        }
        Ok(appended)
    }

    /// Whether the batch of a producer is to be appended; or where it is already.
    fn check_producer(
        &self,
        header: &BatchHeader,
        guard: Option<u64>,
        log: &Log,
    ) -> Result<Option<Appended>, Refusal> {
        let id = sent(header);
        let refuse = |code| {
            let text = format!(
                "producer {} epoch {} sequence {} for {}",
                id.producer.0, id.epoch, id.base_seq, self.name
            );
            Err(Refusal::new(code, text))
        };
        match self.producers.borrow().check(&id) {
            Verdict::Append => {}
            Verdict::Duplicate {
                base_offset,
                last_offset,
                ..
            } => {
                // Not before the first copy is durable. Waiters come in order of their offsets,
                // so while it is under way this one waits for all there is.
                let done = last_offset < log.flushed();
                let next = if done { last_offset + 1 } else { log.end() };
                return Ok(Some(Appended {
                    base: base_offset,
                    next,
                }));
            }
            Verdict::Reject(code) => return refuse(code),
        }
        let who = (id.producer.0, id.epoch);
        if header.is_transactional() {
            self.admit_txn(who, guard)?;
        } else if let Err(code) = self.producers.borrow().check_epoch(who.0, who.1, false) {
            return refuse(code);
        }
        Ok(None)
    }
}
