//! Append: sequence numbers checked, offsets given, the ticket that settles when it is durable, or
//! committed, as the producer wants it.
//!
//! Accepting is synchronous, so requests that come one after another keep their order without a
//! lock, and the groups that go to disk form by themselves while the disk is busy.

use std::cell::RefCell;
use std::rc::Rc;

use streamd_core::Refused;
use streamd_core::producer::{MarkerEnd, ProducerState, Sent, Verdict};
use streamd_core::repl::{Acks, Effect, Replica};
use streamd_log::batch::{marker_commits, marker_epoch};
use streamd_log::{BatchHeader, NewBatch};
use streamd_model::{Epoch, ErrorCode, Mono, Offset, PartitionId, ProducerId};

use crate::Refusal;
use crate::partition::Partition;
use crate::shard::Shard;
use crate::waiters::{Countdown, Unsettled};

/// One batch for one partition.
pub struct AppendItem {
    /// Where to.
    pub partition: PartitionId,
    /// A validated batch.
    pub batch: NewBatch,
    /// For the first batch of a transaction: what the partition gave out before the coordinator
    /// confirmed that it is in the transaction.
    pub guard: Option<u64>,
    /// How many it has to reach before its producer is told.
    pub acks: Acks,
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
    /// The leader epoch that it was told in.
    pub epoch: Epoch,
}

/// Batches that were accepted and are on their way to the disk.
pub struct Ticket {
    items: Vec<Accepted>,
    countdown: Rc<Countdown>,
}

/// A batch for a partition that is being opened.
pub(crate) struct Arrival {
    batch: Batch,
    now_ms: i64,
    countdown: Rc<Countdown>,
    place: Rc<RefCell<Option<Result<Offset, Refusal>>>>,
}

/// A batch on its way into the log.
struct Batch {
    bytes: NewBatch,
    guard: Option<u64>,
    acks: Acks,
    /// Which item of its request it is.
    item: usize,
}

enum Accepted {
    Refused(Refusal),
    /// The partition was being opened.
    Waited {
        partition: Rc<Partition>,
        place: Rc<RefCell<Option<Result<Offset, Refusal>>>>,
        log_append_ms: i64,
    },
    At {
        partition: Rc<Partition>,
        base: Offset,
        log_append_ms: i64,
    },
}

impl Ticket {
    /// Waits until everything is settled (or has failed) and says what became of each item.
    pub async fn settled(self) -> Vec<AppendDone> {
        self.countdown.done().await;
        let countdown = &self.countdown;
        let items = self.items.into_iter().enumerate();
        items
            .map(|(at, one)| one.outcome(countdown.unsettled(at)))
            .collect()
    }
}

impl Accepted {
    fn outcome(self, unsettled: Option<Unsettled>) -> AppendDone {
        match self {
            Accepted::Refused(refusal) => Err(refusal),
            Accepted::Waited {
                partition,
                place,
                log_append_ms,
            } => {
                let base = place.take().unwrap_or_else(|| {
                    let text = "the partition was not opened";
                    Err(Refusal::new(ErrorCode::KafkaStorageError, text))
                })?;
                let at = Accepted::At {
                    partition,
                    base,
                    log_append_ms,
                };
                at.outcome(unsettled)
            }
            Accepted::At {
                partition,
                base,
                log_append_ms,
            } => {
                partition.settled(unsettled)?;
                let log_start = partition.log.borrow().start();
                Ok(Placed {
                    base,
                    log_append_ms,
                    log_start,
                    epoch: partition.epoch(),
                })
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

/// What a batch that was found in the log, or came from a leader, says of its producer; `commits`:
/// it is a marker. The log is committed up to `high`.
pub(crate) fn replay(
    producers: &mut ProducerState,
    header: &BatchHeader,
    ends: Option<MarkerEnd>,
    (now_ms, high): (i64, Offset),
) {
    let who = (header.producer_id, header.producer_epoch);
    let base = header.base_offset;
    if let Some(end) = ends {
        return producers.record_marker(who, end, (base, high), now_ms);
    }
    producers.record(&sent(header), base, header.max_timestamp, now_ms);
    if header.is_transactional() && !header.is_control() {
        producers.record_txn(who.0, who.1, base, now_ms);
    }
}

/// What a batch says of the transaction that it ends, if it ends one.
pub(crate) fn marker_end(header: &BatchHeader, bytes: &[u8]) -> Option<MarkerEnd> {
    let commit = header.is_control().then(|| marker_commits(bytes))??;
    Some(MarkerEnd {
        commit,
        coordinator_epoch: marker_epoch(bytes),
    })
}

impl Shard {
    /// Accepts batches for partitions of this shard, in order.
    pub fn append(&self, items: Vec<AppendItem>) -> Ticket {
        let countdown = Countdown::new(0);
        let now_ms = self.env.wall_ms();
        let items = items
            .into_iter()
            .enumerate()
            .map(|(at, item)| {
                self.append_one((at, item), now_ms, &countdown)
                    .unwrap_or_else(Accepted::Refused)
            })
            .collect();
        Ticket { items, countdown }
    }

    fn append_one(
        &self,
        (at, item): (usize, AppendItem),
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
        let batch = Batch {
            bytes: item.batch,
            guard: item.guard,
            acks: item.acks,
            item: at,
        };
        if partition.is_opening() {
            let place = Rc::default();
            countdown.expect(1);
            partition.arrive(Arrival {
                batch,
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
        let base = partition.accept(batch, now_ms, countdown)?;
        self.flusher.kick(partition.clone());
        Ok(Accepted::At {
            partition,
            base,
            log_append_ms,
        })
    }

    /// The partition is open, or has failed: what came meanwhile is appended, in order, before
    /// anybody else can come.
    pub(crate) fn let_in(&self, partition: &Rc<Partition>) {
        for Arrival {
            batch,
            now_ms,
            countdown,
            place,
        } in partition.end_opening()
        {
            let accepted = partition.usable();
            let accepted = accepted.and_then(|()| partition.accept(batch, now_ms, &countdown));
            if accepted.is_ok() {
                self.flusher.kick(partition.clone());
            }
            *place.borrow_mut() = Some(accepted);
            countdown.take(1);
        }
    }
}

impl Partition {
    /// What became of something that was waited for.
    pub(crate) fn settled(&self, unsettled: Option<Unsettled>) -> Result<(), Refusal> {
        match unsettled {
            None => Ok(()),
            Some(Unsettled::Refused(code)) => {
                let text = format!("another broker leads {} now, or will", self.name);
                Err(Refusal::new(code, text))
            }
            Some(Unsettled::LetGo) => {
                self.usable()?;
                Err(self.not_durable())
            }
        }
    }

    /// Gives a batch its place, or the place that it was given when it came before. The countdown
    /// is told when it is settled.
    fn accept(
        &self,
        batch: Batch,
        now_ms: i64,
        countdown: &Rc<Countdown>,
    ) -> Result<Offset, Refusal> {
        let header = batch.bytes.facts.header;
        let acks = batch.acks;
        self.admits(acks)?;
        let most = self.log.borrow().config().segment_bytes;
        if header.size as u64 > most {
            let text = format!("a batch of {} bytes; segment.bytes is {most}", header.size);
            return Err(Refusal::new(ErrorCode::RecordListTooLarge, text));
        }
        if header.is_idempotent()
            && let Some((base, next)) = self.check_producer(&header, batch.guard)?
        {
            // Not before the first copy is settled. Waiters come in the order of their offsets, so
            // while it is under way this one waits for all there is.
            if next > self.settled_to(acks) {
                let ticket = self.waiters.ack(acks, countdown, batch.item);
                self.act(|replica, now| replica.wait(acks, ticket, now));
            }
            return Ok(base);
        }
        let max_ms = batch.bytes.facts.max_timestamp;
        self.make_way((header.size, header.count), (now_ms, max_ms));
        let ticket = self.waiters.ack(acks, countdown, batch.item);
        let base = self.place(batch.bytes, now_ms, |replica, count, now| {
            replica.append(count, acks, ticket, now)
        });
        let base = base.inspect_err(|_| self.waiters.withdraw(ticket))?;
        let mut producers = self.producers.borrow_mut();
        if header.is_idempotent() {
            producers.record(&sent(&header), base, max_ms, now_ms);
        }
        if header.is_transactional() {
            let who = (header.producer_id, header.producer_epoch);
            producers.record_txn(who.0, who.1, base, now_ms);
            self.guards.end(who.0);
        }
        Ok(base)
    }

    /// Up to where everything that was appended is settled.
    fn settled_to(&self, acks: Acks) -> Offset {
        match acks {
            Acks::All => self.replica.borrow().high(),
            Acks::Leader | Acks::None => self.log.borrow().flushed(),
        }
    }

    /// Begins a segment, or plans a checkpoint, if the next batch of this size (bytes, records) at
    /// this time (now, its greatest; ms) asks for it.
    pub(crate) fn make_way(&self, (size, count): (usize, i32), (now_ms, max_ms): (i64, i64)) {
        let rolls = {
            let log = self.log.borrow();
            let rolls = log.will_roll_at(size, count, (now_ms, max_ms));
            if !rolls && !log.wants_checkpoint() {
                return;
            }
            rolls
        };
        let state = self.state(&self.producers.borrow());
        let mut log = self.log.borrow_mut();
        if rolls {
            log.roll(now_ms);
        }
        log.plan_checkpoint(state);
    }

    /// Appends a batch where the replica says, and does what comes of that.
    pub(crate) fn place(
        &self,
        batch: NewBatch,
        now_ms: i64,
        take: impl FnOnce(&mut Replica, i64, Mono) -> Result<(Offset, Epoch, Vec<Effect>), Refused>,
    ) -> Result<Offset, Refusal> {
        let shard = self.shard()?;
        let count = i64::from(batch.facts.header.last_offset_delta) + 1;
        let taken = take(&mut self.replica.borrow_mut(), count, shard.env.now());
        let (base, epoch, effects) = taken.map_err(|(code, text)| {
            let text = format!("{}: {text}", self.name);
            Refusal::new(code, text)
        })?;
        let appended = self.log.borrow_mut().append(batch, epoch, now_ms);
        assert!(
            appended.base == base,
            "{}: appended at {}, and the replica stands at {base}",
            self.name,
            appended.base
        );
        self.carry_out(&shard, effects);
        Ok(base)
    }

    /// Whether the batch of a producer is to be appended; or where it is already: base, and end.
    fn check_producer(
        &self,
        header: &BatchHeader,
        guard: Option<u64>,
    ) -> Result<Option<(Offset, Offset)>, Refusal> {
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
            } => return Ok(Some((base_offset, last_offset + 1))),
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
