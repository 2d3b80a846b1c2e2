//! One partition on the shard that owns it: its log, its producers, who waits for it.
//!
//! Alone on its node (one replica) the high watermark is the flushed end: what is durable is
//! committed, and nothing else is ever shown.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use streamd_core::meta::TopicMeta;
use streamd_core::producer::ProducerState;
use streamd_io::local::Notify;
use streamd_log::journal::Flushed;
use streamd_log::log::SharedLog;
use streamd_log::{Log, LogError};
use streamd_model::{Epoch, ErrorCode, Offset, PartitionId, Watermarks};

use crate::Refusal;
use crate::append::Arrival;
use crate::flusher::{Owner, Turn};
use crate::host::{AnyHost, Hosts};
use crate::keeper::join_state;
use crate::txn::Guards;
use crate::waiters::Waiters;

/// What keeps everybody out while a partition is being opened.
#[derive(Default)]
struct Gate {
    opening: Cell<bool>,
    /// Who waits for that,
    opened: Notify,
    /// and what was to be appended meanwhile.
    arrivals: RefCell<Vec<Arrival>>,
}

/// A partition that this shard owns.
pub struct Partition {
    /// Which one.
    pub id: PartitionId,
    /// `topic-index`, for messages and for the directory.
    pub name: String,
    /// Its log.
    pub log: SharedLog,
    /// What its idempotent producers have sent.
    pub producers: RefCell<ProducerState>,
    /// Who waits.
    pub waiters: Waiters,
    /// The leader epoch that new batches get.
    pub epoch: Epoch,
    /// The coordinator of what is kept here, in a partition of an internal topic.
    pub(crate) hosts: RefCell<Hosts>,
    /// Who may begin a transaction here.
    pub guards: Guards,
    /// The topic as of the image that this shard has.
    pub topic: RefCell<std::sync::Arc<TopicMeta>>,
    turn: Turn,
    gate: Gate,
    deleted: Cell<bool>,
    offline: RefCell<Option<Refusal>>,
    /// Why appends waited for the disk, when they last did.
    delay: RefCell<String>,
}

impl Partition {
    /// A partition with an open log.
    pub fn new(
        id: PartitionId,
        topic: std::sync::Arc<TopicMeta>,
        log: Log,
        producers: ProducerState,
    ) -> Rc<Partition> {
        Rc::new(Partition {
            hosts: RefCell::default(),
            guards: Guards::default(),
            id,
            name: format!("{}-{}", topic.name, id.index),
            log: Rc::new(RefCell::new(log)),
            producers: RefCell::new(producers),
            waiters: Waiters::default(),
            epoch: 0,
            topic: RefCell::new(topic),
            turn: Turn::default(),
            gate: Gate::default(),
            deleted: Cell::new(false),
            offline: RefCell::new(None),
            delay: RefCell::default(),
        })
    }

    /// Nothing of it is to be used before [`Partition::end_opening`].
    pub(crate) fn close_until_opened(&self) {
        self.gate.opening.set(true);
    }

    /// Whether it is still being opened.
    pub fn is_opening(&self) -> bool {
        self.gate.opening.get()
    }

    /// Takes what a recovery found.
    pub(crate) fn open(&self, log: Log, producers: ProducerState) {
        *self.log.borrow_mut() = log;
        *self.producers.borrow_mut() = producers;
    }

    /// It is being opened: what is to be appended waits here.
    pub(crate) fn arrive(&self, arrival: Arrival) {
        self.gate.arrivals.borrow_mut().push(arrival);
    }

    /// It is open, or has failed: everybody may come in. Gives what came meanwhile, in order.
    pub(crate) fn end_opening(&self) -> Vec<Arrival> {
        self.gate.opening.set(false);
        self.gate.opened.notify_all();
        self.gate.arrivals.take()
    }

    /// Waits until it is open, or has failed.
    pub async fn opened(&self) {
        while self.gate.opening.get() {
            self.gate.opened.wait().await;
        }
    }

    /// Where the log stands.
    pub fn watermarks(&self) -> Watermarks {
        let log = self.log.borrow();
        let flushed = log.flushed();
        // Of a transaction that was open when its records were deleted nothing can be read.
        let stable = self.producers.borrow().txns.stable(flushed);
        let marks = Watermarks {
            start: log.start(),
            stable: stable.max(log.start()),
            high: flushed,
            flushed,
            end: log.end(),
        };
        marks.check();
        marks
    }

    /// Why the partition cannot be used, if it cannot.
    pub fn usable(&self) -> Result<(), Refusal> {
        match &*self.offline.borrow() {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(()),
        }
    }

    /// Whether work behind the scenes may be done on its log: it is open and has not failed.
    pub(crate) fn is_at_work(&self) -> bool {
        !self.gate.opening.get() && self.offline.borrow().is_none()
    }

    /// What is said of a batch that is not durable, though the partition did not fail.
    pub(crate) fn not_durable(&self) -> Refusal {
        let text = format!(
            "the disk is full: {}. The batch may be written when there is room",
            self.delay.borrow()
        );
        Refusal::new(ErrorCode::RequestTimedOut, text)
    }

    /// Takes the partition offline: everybody who waits is told, nobody is served any more.
    pub fn fail(&self, error: &LogError) {
        if error.is_full() {
            eprintln!(
                "error: partition {} is offline until there is room: {error}. Nothing is lost",
                self.name
            );
        } else {
            eprintln!(
                "error: partition {} is offline: {error}. Other partitions go on; mend the disk \
                 and start again",
                self.name
            );
        }
        self.go_offline(Refusal::new(
            ErrorCode::KafkaStorageError,
            error.to_string(),
        ));
    }

    /// The topic was deleted.
    pub fn delete(&self) {
        let text = format!("{} was deleted", self.name);
        self.deleted.set(true);
        self.go_offline(Refusal::new(ErrorCode::UnknownTopicOrPartition, text));
    }

    fn go_offline(&self, refusal: Refusal) {
        *self.offline.borrow_mut() = Some(refusal);
        // Nobody reads it any more.
        self.log.borrow_mut().clear_tail();
        self.waiters.release_all();
        self.stop_host();
    }

    /// Begins a new segment, and plans the checkpoint there.
    pub(crate) fn roll(&self, now_ms: i64) {
        let state = self.state(&self.producers.borrow());
        let mut log = self.log.borrow_mut();
        log.roll(now_ms);
        log.plan_checkpoint(state);
    }

    /// The state that a checkpoint keeps.
    pub(crate) fn state(&self, producers: &ProducerState) -> Vec<u8> {
        match self.any_host() {
            Some(host) => join_state(producers, &host.encode()),
            None => producers.encode(),
        }
    }

    fn any_host(&self) -> Option<Rc<dyn AnyHost>> {
        self.hosts.borrow().any()
    }

    /// Ends the coordinator, if there is one.
    pub fn stop_host(&self) {
        if let Some(host) = self.any_host() {
            host.stop();
        }
    }

    /// Forgets aborted transactions that lie before the log start.
    pub fn forget_aborted(&self) {
        let start = self.log.borrow().start();
        self.producers.borrow_mut().txns.forget_before(start);
    }

    /// Whether something of it is on its way to the disk.
    pub fn is_flushing(&self) -> bool {
        self.turn.is_busy()
    }
}

impl Owner for Partition {
    fn log(&self) -> &SharedLog {
        &self.log
    }

    fn turn(&self) -> &Turn {
        &self.turn
    }

    fn flushed(&self, before: Offset, flushed: Flushed) {
        assert!(flushed.next > before, "a flush moves the watermark up");
        self.waiters.advanced(flushed.next, flushed.bytes);
        if let Some(host) = self.any_host() {
            host.flushed(flushed.next);
        }
    }

    fn failed(&self, error: &LogError) {
        self.fail(error);
    }

    fn delayed(&self, error: &LogError) {
        *self.delay.borrow_mut() = error.to_string();
        self.waiters.release_all();
    }

    fn is_gone(&self) -> bool {
        self.offline.borrow().is_some()
    }

    fn is_deleted(&self) -> bool {
        self.deleted.get()
    }
}
