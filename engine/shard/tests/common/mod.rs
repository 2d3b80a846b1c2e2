//! Logs on the simulated disk, small ones, behind a flusher.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use streamd_io::Env;
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_log::journal::{Flushed, Journal, JournalOptions};
use streamd_log::log::SharedLog;
use streamd_log::{Log, LogConfig, LogError, NewBatch};
use streamd_model::Offset;
use streamd_shard::flusher::{Flusher, Owner, Turn};
use streamd_shard::tail_budget::TailBudget;

pub const DATA: &str = "/data";

/// A log, and what its owner was told.
pub struct One {
    pub log: SharedLog,
    turn: Turn,
    /// What is acknowledged; it may be known longer than the log lives.
    pub told: Rc<Cell<Offset>>,
    pub failed: RefCell<Option<String>>,
    pub delayed: Cell<bool>,
    pub deleted: Cell<bool>,
}

impl One {
    /// The owner of an open log that is acknowledged as far as `told`.
    pub fn new(log: Log, told: Rc<Cell<Offset>>) -> Rc<One> {
        Rc::new(One {
            log: Rc::new(RefCell::new(log)),
            turn: Turn::default(),
            told,
            failed: RefCell::new(None),
            delayed: Cell::new(false),
            deleted: Cell::new(false),
        })
    }
}

impl Owner for One {
    fn log(&self) -> &SharedLog {
        &self.log
    }

    fn turn(&self) -> &Turn {
        &self.turn
    }

    fn flushed(&self, before: Offset, flushed: Flushed) {
        assert!(before >= self.told.get() && flushed.next > before);
        assert_eq!(flushed.next, self.log.borrow().flushed());
        self.told.set(flushed.next);
    }

    fn failed(&self, error: &LogError) {
        assert!(self.failed.borrow().is_none(), "told once");
        *self.failed.borrow_mut() = Some(error.to_string());
        self.log.borrow_mut().clear_tail();
    }

    fn delayed(&self, error: &LogError) {
        assert!(error.is_full(), "only a full disk is waited for: {error}");
        self.delayed.set(true);
    }

    fn is_gone(&self) -> bool {
        self.deleted.get() || self.failed.borrow().is_some()
    }

    fn is_deleted(&self) -> bool {
        self.deleted.get()
    }
}

#[allow(dead_code, reason = "not every test has many logs")]
pub fn dir(i: usize) -> PathBuf {
    Path::new(DATA).join(format!("t-{i}"))
}

pub fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 20_000,
        checkpoint_bytes: 5_000,
        metadata: "version: 0\n".into(),
        ..LogConfig::default()
    }
}

/// A flusher with a small journal in use, but for files that a replay has put off.
pub async fn flusher(env: &Env, tail: Rc<TailBudget>, held: &[u32]) -> Rc<Flusher> {
    let options = JournalOptions {
        file_bytes: 16 << 10,
        files_max: 3,
        durable: true,
    };
    let journal = Journal::open_without(env, Path::new(DATA), (0, held), options).await;
    let flusher = Flusher::new(env, tail);
    let all = env.file_system(Path::new(DATA)).await;
    flusher.start(journal.unwrap(), all.unwrap());
    flusher
}

/// Appends a record; gives its offset.
pub fn append(log: &SharedLog, value: &[u8]) -> Offset {
    let record = NewRecord {
        timestamp: 1,
        key: None,
        value: Some(value),
    };
    let batch = NewBatch::own(build(&[record], Writer::default()), 1).unwrap();
    let mut log = log.borrow_mut();
    if log.will_roll(batch.bytes.len(), 1, 0) {
        log.roll(0);
        log.plan_checkpoint(Vec::new());
    } else if log.wants_checkpoint() {
        log.plan_checkpoint(Vec::new());
    }
    log.append(batch, 0, 0).base
}
