//! Transactions in the partitions of a shard: who may write, and where markers go.
//!
//! The first batch of a transaction in a partition is taken only under a guard: the partition gives
//! it out, the coordinator confirms that the partition is in the transaction, the batch comes with
//! it. A marker takes the guards of its producer away. So nothing that was confirmed before the end
//! of a transaction is written after it, and no transaction stays open that nobody ends.

use std::cell::{Cell, RefCell};

use streamd_core::producer::{Described, Sent, Verdict};
use streamd_core::repl::Acks;
use streamd_model::{ErrorCode, Map, PartitionId};

use crate::Refusal;
use crate::partition::Partition;
use crate::shard::Shard;
use crate::waiters::Countdown;

/// The most guards that are out at once in a partition; when there are more all are void, and
/// whoever holds one asks again.
const GUARDS_MAX: usize = 8192;

/// The end of a transaction, for one partition.
#[derive(Clone, Copy, Debug)]
pub struct Marker {
    /// Where.
    pub partition: PartitionId,
    /// The producer's id.
    pub producer: i64,
    /// The epoch that it has from now on.
    pub epoch: i16,
    /// Commit, or abort.
    pub commit: bool,
    /// The epoch of the coordinator that decided.
    pub coordinator_epoch: i32,
}

/// A question of whoever is about to write in a transaction.
#[derive(Clone, Copy, Debug)]
pub struct GuardAsk {
    /// Where.
    pub partition: PartitionId,
    /// What it is about to write; without a sequence number when it is not about records.
    pub sent: Sent,
}

/// The answer: a guard, if the coordinator has to confirm first.
pub type GuardDone = Result<Option<u64>, Refusal>;

/// The guards of a partition that are out, by producer.
#[derive(Default)]
pub struct Guards {
    out: RefCell<Map<i64, u64>>,
    next: Cell<u64>,
}

impl Guards {
    fn give(&self, producer: i64) -> u64 {
        let mut out = self.out.borrow_mut();
        if out.len() >= GUARDS_MAX && !out.contains_key(&producer) {
            out.clear();
        }
        *out.entry(producer).or_insert_with(|| {
            self.next.set(self.next.get() + 1);
            self.next.get()
        })
    }

    fn holds(&self, producer: i64, guard: u64) -> bool {
        self.out.borrow().get(&producer) == Some(&guard)
    }

    /// The transaction has begun here, or has ended.
    pub(crate) fn end(&self, producer: i64) {
        self.out.borrow_mut().remove(&producer);
    }
}

impl Partition {
    fn guard(&self, sent: &Sent) -> GuardDone {
        self.usable()?;
        self.admits(Acks::Leader)?;
        let producers = self.producers.borrow();
        let (id, epoch) = (sent.producer.0, sent.epoch);
        let open = producers.txns.open(id).is_some_and(|t| t.epoch == epoch);
        let known = sent.base_seq >= 0 && producers.check(sent) != Verdict::Append;
        // What is open goes through, and so does what will be refused or was written before.
        match open || known || producers.check_epoch(id, epoch, true).is_err() {
            true => Ok(None),
            false => Ok(Some(self.guards.give(id))),
        }
    }

    /// Whether a batch of this transaction may be written here.
    pub(crate) fn admit_txn(&self, who: (i64, i16), guard: Option<u64>) -> Result<(), Refusal> {
        let (id, epoch) = who;
        let producers = self.producers.borrow();
        let refuse = |code, why: &str| {
            let text = format!("producer {id} epoch {epoch} for {}: {why}", self.name);
            Err(Refusal::new(code, text))
        };
        if let Err(code) = producers.check_epoch(id, epoch, true) {
            return refuse(code, "a newer epoch was seen");
        }
        if producers.txns.open(id).is_some_and(|t| t.epoch == epoch) {
            return Ok(());
        }
        if !guard.is_some_and(|g| self.guards.holds(id, g)) {
            let why = "the partition was not added to the transaction, or it has ended";
            return refuse(ErrorCode::InvalidTxnState, why);
        }
        match producers.txns.admit() {
            Ok(()) => Ok(()),
            Err(code) => refuse(code, "too many transactions are open or were aborted here"),
        }
    }
}

impl Shard {
    /// Gives out guards.
    pub(crate) fn txn_guards(&self, asks: &[GuardAsk]) -> Vec<GuardDone> {
        let one = |ask: &GuardAsk| self.partition(ask.partition)?.guard(&ask.sent);
        asks.iter().map(one).collect()
    }

    /// Writes markers; answers when they are committed.
    pub(crate) async fn markers(&self, markers: Vec<Marker>) -> Vec<Result<(), Refusal>> {
        // Before that it is not known here which partitions there are.
        self.opened().await;
        let countdown = Countdown::new(0);
        let now_ms = self.env.wall_ms();
        let mut begun = Vec::with_capacity(markers.len());
        for (at, marker) in markers.iter().enumerate() {
            begun.push(self.partition(marker.partition).and_then(|partition| {
                partition.usable()?;
                partition.append_marker(marker, now_ms, (&countdown, at))?;
                self.flusher.kick(partition.clone());
                Ok(partition)
            }));
        }
        countdown.done().await;
        let begun = begun.into_iter().enumerate();
        begun
            .map(|(at, partition)| partition?.settled(countdown.unsettled(at)))
            .collect()
    }

    /// The producers of a partition.
    pub(crate) fn producers(&self, id: PartitionId) -> Result<Vec<Described>, Refusal> {
        let partition = self.partition(id)?;
        partition.usable()?;
        partition.is_readable(false)?;
        let producers = partition.producers.borrow();
        Ok(producers.describe())
    }
}
