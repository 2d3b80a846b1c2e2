//! One partition on the shard that owns it: its log, its producers, who waits for it.
//!
//! Alone on its node (one replica) the high watermark is the flushed end: what is durable is
//! committed, and nothing else is ever shown.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use streamd_core::meta::TopicMeta;
use streamd_core::producer::ProducerState;
use streamd_io::{Class, Env};
use streamd_log::flush::{Flushed, flush_once};
use streamd_log::log::SharedLog;
use streamd_log::{Log, LogError};
use streamd_model::{Epoch, ErrorCode, Offset, PartitionId, Watermarks};

use crate::Refusal;
use crate::tail_budget::TailBudget;
use crate::waiters::Waiters;

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
    /// The topic as of the image that this shard has.
    pub topic: RefCell<std::sync::Arc<TopicMeta>>,
    flushing: Cell<bool>,
    offline: RefCell<Option<Refusal>>,
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
            id,
            name: format!("{}-{}", topic.name, id.index),
            log: Rc::new(RefCell::new(log)),
            producers: RefCell::new(producers),
            waiters: Waiters::default(),
            epoch: 0,
            topic: RefCell::new(topic),
            flushing: Cell::new(false),
            offline: RefCell::new(None),
        })
    }

    /// Where the log stands.
    pub fn watermarks(&self) -> Watermarks {
        let log = self.log.borrow();
        let flushed = log.flushed();
        let marks = Watermarks {
            start: log.start(),
            stable: flushed,
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

    /// Takes the partition offline: everybody who waits is told, nobody is served any more.
    pub fn fail(&self, error: &LogError) {
        eprintln!(
            "error: partition {} is offline: {error}. Other partitions go on; mend the disk and \
             start again",
            self.name
        );
        self.go_offline(Refusal::new(
            ErrorCode::KafkaStorageError,
            error.to_string(),
        ));
    }

    /// The topic was deleted.
    pub fn delete(&self) {
        let text = format!("{} was deleted", self.name);
        self.go_offline(Refusal::new(ErrorCode::UnknownTopicOrPartition, text));
    }

    fn go_offline(&self, refusal: Refusal) {
        *self.offline.borrow_mut() = Some(refusal);
        self.waiters.release_all();
    }

    /// Sees to it that what was appended is written. Returns at once.
    pub fn kick_flush(self: &Rc<Self>, env: &Env, tail: &Rc<TailBudget>) {
        if self.flushing.replace(true) {
            return;
        }
        let (partition, env_, tail) = (self.clone(), env.clone(), tail.clone());
        env.spawn(Class::Latency, async move {
            partition.flush(&env_, &tail).await
        })
        .detach();
    }

    /// Whether a flush task is at work.
    pub fn is_flushing(&self) -> bool {
        self.flushing.get()
    }

    async fn flush(self: Rc<Self>, env: &Env, tail: &Rc<TailBudget>) {
        loop {
            let before = self.log.borrow().flushed();
            match flush_once(env, &self.log).await {
                Ok(Some(flushed)) => self.flushed(before, flushed, tail),
                Ok(None) => break,
                Err(error) => {
                    self.fail(&error);
                    break;
                }
            }
        }
        self.flushing.set(false);
    }

    fn flushed(self: &Rc<Self>, before: Offset, flushed: Flushed, tail: &Rc<TailBudget>) {
        assert!(flushed.next > before, "a flush moves the watermark up");
        tail.grew(self, flushed.memory);
        self.waiters.advanced(flushed.next, flushed.bytes);
    }
}
