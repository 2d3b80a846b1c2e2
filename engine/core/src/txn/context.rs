//! What the transactional ids of a coordinator share: its clock work, what goes out, its limits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use streamd_model::{ErrorCode, Mono};

use super::record::{Partitions, TxnRecord};
use super::request::Reply;
use crate::config::TxnConfig;
use crate::group::Token;

/// The most transactional ids of one coordinator.
pub(super) const IDS_MAX: usize = 200_000;
/// The most partitions of one transaction: they go into one record.
pub(super) const PARTITIONS_MAX: usize = 20_000;

/// The settings that a coordinator goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest timeout that a producer may ask for, ms.
    pub timeout_max_ms: i32,
    /// How long an idle transactional id is kept, ms.
    pub id_expiration_ms: i64,
    /// How often that is looked after.
    pub expire_check: Duration,
    /// After how long a marker that could not be written is tried again.
    pub retry: Duration,
}

impl Limits {
    /// What the broker's settings say.
    pub fn of(config: &TxnConfig) -> Limits {
        Limits {
            timeout_max_ms: config.timeout_max_ms,
            id_expiration_ms: config.id_expiration_ms,
            expire_check: Duration::from_millis(config.expire_check_ms),
            retry: Duration::from_millis(100),
        }
    }
}

/// Records to append, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What [`super::Coordinator::persisted`] is told when they are on stable storage.
    pub seq: u64,
    /// The records.
    pub records: Vec<TxnRecord>,
}

/// Markers to write: the decision about a transaction, for the partitions that it wrote to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    /// The transactional id.
    pub id: Arc<str>,
    /// What [`super::Coordinator::marked`] is told.
    pub round: u64,
    /// Its producer id.
    pub producer: i64,
    /// The epoch that the markers bring; older ones are fenced by them.
    pub epoch: i16,
    /// Commit, or abort.
    pub commit: bool,
    /// Where to.
    pub partitions: Partitions,
}

/// What the driver has to do.
#[must_use]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// To be made durable. Batches go to the log in the order in which they come out.
    pub persist: Option<Batch>,
    /// To be sent at once: nothing in them waits for a write.
    pub replies: Vec<(Token, Reply)>,
    /// To be written at once: the decisions are durable.
    pub markers: Vec<Markers>,
}

/// What a timer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A transaction has been open for too long.
    Timeout(Arc<str>),
    /// Markers that could not be written are due again.
    Retry(Arc<str>, u64),
    /// Time to look for ids that nobody uses; from this one on.
    Expire(Option<Arc<str>>),
}

/// A timer that can be taken back.
pub(super) type TimerKey = (Mono, u64);

/// See the module.
pub(super) struct Context {
    pub limits: Limits,
    timers: BTreeMap<TimerKey, Timer>,
    timer_count: u64,
    rounds: u64,
    records: Vec<TxnRecord>,
    replies: Vec<(Token, Reply)>,
    markers: Vec<Markers>,
    held: BTreeMap<(u64, Token), Reply>,
    held_markers: BTreeMap<u64, Vec<Markers>>,
    written: u64,
    durable: u64,
    failed: Option<ErrorCode>,
}

impl Context {
    pub fn new(limits: Limits) -> Context {
        Context {
            limits,
            timers: BTreeMap::new(),
            timer_count: 0,
            rounds: 0,
            records: Vec::new(),
            replies: Vec::new(),
            markers: Vec::new(),
            held: BTreeMap::new(),
            held_markers: BTreeMap::new(),
            written: 0,
            durable: 0,
            failed: None,
        }
    }

    /// The sequence number of the batch that this step writes, if it writes.
    pub fn next_seq(&self) -> u64 {
        self.written + 1
    }

    /// A number for an end of a transaction that no other has.
    pub fn next_round(&mut self) -> u64 {
        self.rounds += 1;
        self.rounds
    }

    /// Queues a record. Only `Coordinator::store` calls it, which replays the record as well.
    pub fn push_record(&mut self, record: TxnRecord) {
        self.records.push(record);
    }

    /// Answers now.
    pub fn reply(&mut self, token: Token, reply: Reply) {
        self.replies.push((token, reply));
    }

    /// Answers with a code, now.
    pub fn refuse(&mut self, token: Token, code: ErrorCode) {
        self.reply(token, Reply::Code(code));
    }

    /// Answers when batch `seq` is durable.
    pub fn reply_after(&mut self, seq: u64, token: Token, reply: Reply) {
        if seq <= self.durable {
            return self.reply(token, reply);
        }
        self.held.insert((seq, token), reply);
    }

    /// Has markers written when batch `seq` is durable.
    pub fn mark_after(&mut self, seq: u64, markers: Markers) {
        match seq <= self.durable {
            true => self.markers.push(markers),
            false => self.held_markers.entry(seq).or_default().push(markers),
        }
    }

    /// Ends a step.
    pub fn take_effects(&mut self) -> Effects {
        let records = std::mem::take(&mut self.records);
        let persist = (!records.is_empty()).then(|| {
            self.written += 1;
            let seq = self.written;
            Batch { seq, records }
        });
        Effects {
            persist,
            replies: std::mem::take(&mut self.replies),
            markers: std::mem::take(&mut self.markers),
        }
    }

    /// Batches up to `seq` are durable.
    pub fn persisted(&mut self, seq: u64) {
        assert!(
            self.durable <= seq && seq <= self.written,
            "batch {seq} of {} is durable after {}",
            self.written,
            self.durable
        );
        self.durable = seq;
        while let Some(entry) = self.held.first_entry() {
            if entry.key().0 > seq {
                break;
            }
            let ((_, token), reply) = entry.remove_entry();
            self.replies.push((token, reply));
        }
        while let Some(entry) = self.held_markers.first_entry() {
            if *entry.key() > seq {
                break;
            }
            self.markers.extend(entry.remove());
        }
    }

    /// Nothing will be durable any more: everybody who waits is told so.
    pub fn fail(&mut self, code: ErrorCode, others: Vec<Token>) {
        self.failed = Some(code);
        self.records.clear();
        self.timers.clear();
        self.markers.clear();
        self.held_markers.clear();
        let waiting: BTreeSet<Token> = std::mem::take(&mut self.held)
            .into_keys()
            .map(|(_, token)| token)
            .chain(others)
            .collect();
        self.replies
            .extend(waiting.into_iter().map(|t| (t, Reply::Code(code))));
    }

    /// Why nothing is done any more, if so.
    pub fn failed(&self) -> Option<ErrorCode> {
        self.failed
    }

    /// Sets a timer.
    pub fn arm(&mut self, at: Mono, timer: Timer) -> TimerKey {
        self.timer_count += 1;
        let key = (at, self.timer_count);
        self.timers.insert(key, timer);
        key
    }

    /// Takes a timer back, if it is still there.
    pub fn disarm(&mut self, key: Option<TimerKey>) {
        if let Some(key) = key {
            self.timers.remove(&key);
        }
    }

    /// When the next timer goes off.
    pub fn next_timer(&self) -> Option<Mono> {
        self.timers.keys().next().map(|key| key.0)
    }

    /// A timer that has gone off.
    pub fn due(&mut self, now: Mono) -> Option<Timer> {
        let entry = self.timers.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
