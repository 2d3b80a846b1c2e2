//! One partition on the shard that owns it: its log, its replica, its producers, who waits for it.
//!
//! What is below the replica's high watermark is committed, and nothing else is ever shown. Where
//! there is no other replica that is the flushed end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use streamd_core::meta::TopicMeta;
use streamd_core::producer::ProducerState;
use streamd_core::repl::{Epochs, Replica};
use streamd_io::local::Notify;
use streamd_log::journal::Flushed;
use streamd_log::log::SharedLog;
use streamd_log::{Log, LogError};
use streamd_model::{Epoch, ErrorCode, Offset, PartitionId, Watermarks};

use crate::Refusal;
use crate::append::Arrival;
use crate::flusher::{Owner, Turn};
use crate::host::{AnyHost, Hosts};
use crate::keeper::{Keeper, join_state};
use crate::open::State;
use crate::replicate::{Owed, settings};
use crate::shard::Shard;
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

/// What keeps a partition from being used.
#[derive(Default)]
struct Trouble {
    deleted: Cell<bool>,
    offline: RefCell<Option<Refusal>>,
    /// Why appends waited for the disk, when they last did.
    delay: RefCell<String>,
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
    /// Its part in the replication of the partition.
    pub(crate) replica: RefCell<Replica>,
    /// Pushes that wait for what they are to hold to be durable here.
    pub(crate) owed: RefCell<Vec<Owed>>,
    /// What was made durable and is not committed yet: ends, and bytes.
    unread: RefCell<VecDeque<(Offset, usize)>>,
    /// The coordinator of what is kept here, in a partition of an internal topic that is led here.
    pub(crate) hosts: RefCell<Hosts>,
    /// Its state machine where no coordinator serves.
    pub(crate) keeper: RefCell<Option<Keeper>>,
    /// Who may begin a transaction here.
    pub guards: Guards,
    /// The topic as of the image that this shard has.
    pub topic: RefCell<std::sync::Arc<TopicMeta>>,
    home: (Weak<Shard>, Weak<Partition>),
    turn: Turn,
    gate: Gate,
    trouble: Trouble,
}

impl Partition {
    /// A partition with an open log.
    pub(crate) fn new(
        shard: &Shard,
        id: PartitionId,
        topic: std::sync::Arc<TopicMeta>,
        mut log: Log,
        producers: ProducerState,
    ) -> Rc<Partition> {
        let replica = replica_of(shard, &mut log, &topic);
        Rc::new_cyclic(|me| Partition {
            home: (shard.weak(), me.clone()),
            replica: RefCell::new(replica),
            owed: RefCell::default(),
            unread: RefCell::default(),
            hosts: RefCell::default(),
            keeper: RefCell::default(),
            guards: Guards::default(),
            id,
            name: format!("{}-{}", topic.name, id.index),
            log: Rc::new(RefCell::new(log)),
            producers: RefCell::new(producers),
            waiters: Waiters::default(),
            topic: RefCell::new(topic),
            turn: Turn::default(),
            gate: Gate::default(),
            trouble: Trouble::default(),
        })
    }

    /// What it lives on; none when that is gone.
    pub(crate) fn home(&self) -> Option<(Rc<Shard>, Rc<Partition>)> {
        Some((self.home.0.upgrade()?, self.home.1.upgrade()?))
    }

    /// The shard that it lives on.
    ///
    /// # Errors
    /// NOT_LEADER_OR_FOLLOWER if that is gone.
    pub(crate) fn shard(&self) -> Result<Rc<Shard>, Refusal> {
        let shard = self.home.0.upgrade();
        shard.ok_or_else(|| Refusal::new(ErrorCode::NotLeaderOrFollower, "it is gone"))
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
    pub(crate) fn open(&self, shard: &Shard, mut log: Log, state: State) {
        *self.replica.borrow_mut() = replica_of(shard, &mut log, &self.topic.borrow());
        *self.log.borrow_mut() = log;
        self.take_state(state);
    }

    /// Takes the state at the log's end.
    pub(crate) fn take_state(&self, (producers, keeper): State) {
        *self.producers.borrow_mut() = producers;
        *self.keeper.borrow_mut() = keeper;
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
        let mut high = self.replica.borrow().high();
        if self.is_opening() {
            // The log is being cut: it says less than the replica, which is ahead of it.
            high = high.clamp(log.start(), log.flushed());
        }
        // Of a transaction that was open when its records were deleted nothing can be read.
        let stable = self.producers.borrow().txns.stable(high);
        let marks = Watermarks {
            start: log.start(),
            stable: stable.max(log.start()),
            high,
            flushed: log.flushed(),
            end: log.end(),
        };
        marks.check();
        marks
    }

    /// Why the partition cannot be used, if it cannot.
    pub fn usable(&self) -> Result<(), Refusal> {
        match &*self.trouble.offline.borrow() {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(()),
        }
    }

    /// Whether work behind the scenes may be done on its log: it is open and has not failed.
    pub(crate) fn is_at_work(&self) -> bool {
        !self.gate.opening.get() && self.trouble.offline.borrow().is_none()
    }

    /// What is said of a batch that is not durable, though the partition did not fail.
    pub(crate) fn not_durable(&self) -> Refusal {
        let text = format!(
            "the disk is full: {}. The batch may be written when there is room",
            self.trouble.delay.borrow()
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
        self.trouble.deleted.set(true);
        self.go_offline(Refusal::new(ErrorCode::UnknownTopicOrPartition, text));
    }

    fn go_offline(&self, refusal: Refusal) {
        *self.trouble.offline.borrow_mut() = Some(refusal);
        // Nobody reads it any more.
        self.log.borrow_mut().clear_tail();
        self.waiters.release_all();
        self.stop_host(ErrorCode::CoordinatorNotAvailable);
        // Whoever waited was told already.
        let wish = self.replica.borrow().wishes_to_go();
        self.replica.borrow_mut().resign();
        if let Some((wish, (shard, _))) = wish.zip(self.home()).filter(|_| !self.is_deleted()) {
            shard.pass_on(self.id, &wish);
        }
    }

    /// The epoch of the leader that this replica knows of.
    pub fn epoch(&self) -> Epoch {
        self.replica.borrow().leader_epoch()
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
        match (self.any_host(), &*self.keeper.borrow()) {
            (Some(host), _) => join_state(producers, &host.encode()),
            (None, Some(keeper)) => join_state(producers, &keeper.encode()),
            (None, None) => producers.encode(),
        }
    }

    pub(crate) fn any_host(&self) -> Option<Rc<dyn AnyHost>> {
        self.hosts.borrow().any()
    }

    /// Ends the coordinator, if there is one; whoever waits for it is told this code.
    pub(crate) fn stop_host(&self, code: ErrorCode) {
        if let Some(host) = self.any_host() {
            host.stop(code);
        }
    }

    /// What is below `high` is committed: the bytes that came to that just now.
    pub(crate) fn take_unread(&self, high: Offset) -> usize {
        let (mut unread, mut bytes) = (self.unread.borrow_mut(), 0);
        while let Some((next, more)) = unread.front().copied()
            && next <= high
        {
            unread.pop_front();
            bytes += more;
        }
        bytes
    }

    /// The log was cut: what was made durable before that does not count.
    pub(crate) fn forget_unread(&self) {
        self.unread.borrow_mut().clear();
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

/// A replica for a log that was opened just now. The log is told what is known to be committed of
/// it: nothing else may be touched.
fn replica_of(shard: &Shard, log: &mut Log, topic: &TopicMeta) -> Replica {
    let epochs = Epochs::new(log.epochs().to_vec());
    let high = log.high().unwrap_or(log.start());
    log.set_high(high);
    let ends = (log.start(), high, log.end());
    let settings = settings(topic, &shard.image().broker().replication);
    Replica::new(shard.node(), settings, epochs, ends)
}

impl Owner for Partition {
    fn log(&self) -> &SharedLog {
        &self.log
    }

    fn turn(&self) -> &Turn {
        &self.turn
    }

    fn flushed(&self, before: Offset, flushed: Flushed) {
        // What was cut while it was written does not count.
        if flushed.next <= before {
            return;
        }
        let mut unread = self.unread.borrow_mut();
        unread.push_back((flushed.next, flushed.bytes));
        drop(unread);
        let owed = self.owed.take();
        self.act(|replica, now| replica.flushed(flushed.next, now));
        self.push_owed(owed);
    }

    fn failed(&self, error: &LogError) {
        self.fail(error);
    }

    fn delayed(&self, error: &LogError) {
        *self.trouble.delay.borrow_mut() = error.to_string();
        self.waiters.release_all();
    }

    fn is_gone(&self) -> bool {
        self.trouble.offline.borrow().is_some()
    }

    fn is_deleted(&self) -> bool {
        self.trouble.deleted.get()
    }
}
