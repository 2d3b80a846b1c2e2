//! The way to the disk on the simulated disk: many logs, small journals, logs that are deleted or
//! that fail on the way to their segments, and a start after it.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::Env;
use streamd_io::sim::{Sim, SimOptions};
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_log::journal::{Flushed, Journal, JournalOptions, replay};
use streamd_log::log::SharedLog;
use streamd_log::validate::Facts;
use streamd_log::{BatchHeader, Log, LogConfig, LogError, NewBatch, recover};
use streamd_model::Offset;
use streamd_shard::flusher::{Flusher, Owner, Turn};
use streamd_shard::tail_budget::TailBudget;

const DATA: &str = "/data";
const TAIL: usize = 40_000;

struct One {
    log: SharedLog,
    turn: Turn,
    told: Cell<Offset>,
    failed: RefCell<Option<String>>,
    deleted: Cell<bool>,
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

    fn is_gone(&self) -> bool {
        self.deleted.get() || self.failed.borrow().is_some()
    }

    fn is_deleted(&self) -> bool {
        self.deleted.get()
    }
}

fn dir(i: usize) -> PathBuf {
    Path::new(DATA).join(format!("t-{i}"))
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 20_000,
        checkpoint_bytes: 5_000,
        metadata: "version: 0\n".into(),
        ..LogConfig::default()
    }
}

fn append(one: &One, size: usize) -> usize {
    let value = vec![7; size];
    let record = NewRecord {
        timestamp: 1,
        key: None,
        value: Some(&value),
    };
    let bytes = Bytes::from(build(&[record], Writer::default()));
    let header = BatchHeader::parse(&bytes).unwrap();
    let facts = Facts {
        header,
        max_timestamp: 1,
        log_append_time: false,
        restamp: false,
    };
    let mut log = one.log.borrow_mut();
    if log.will_roll(bytes.len(), 1, 0) {
        log.roll(0);
        log.plan_checkpoint(Vec::new());
    }
    let len = bytes.len();
    log.append(NewBatch { bytes, facts }, 0, 0);
    len
}

/// Appends to 20 logs; some are deleted meanwhile, and log 0 loses its directory.
async fn load(env: Env, lose: bool) {
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let options = JournalOptions {
        file_bytes: 16 << 10,
        files_max: 3,
        durable: true,
    };
    let journal = Journal::open(&env, Path::new(DATA), 0, options)
        .await
        .unwrap();
    let tail = TailBudget::new(TAIL);
    let flusher = Flusher::new(&env, tail.clone());
    flusher.start(journal);
    let all: Vec<Rc<One>> = (0..20)
        .map(|i| {
            let log = Log::new(&env, &dir(i), config(), 0);
            Rc::new(One {
                log: Rc::new(RefCell::new(log)),
                turn: Turn::default(),
                told: Cell::new(0),
                failed: RefCell::new(None),
                deleted: Cell::new(false),
            })
        })
        .collect();
    for round in 0..600 {
        let r = env.random_u64();
        let one = &all[r as usize % all.len()];
        if !one.is_gone() {
            append(one, (r >> 20) as usize % 3000);
            flusher.kick(one.clone());
        }
        if round % 100 == 50 {
            let gone = &all[10 + round / 100];
            gone.deleted.set(true);
            gone.log.borrow_mut().clear_tail();
        }
        if lose && round == 300 {
            while !all[0].log.borrow().has_dir() {
                env.yield_now().await;
            }
            env.remove_dir_all(&dir(0)).await.unwrap();
        }
        if r.is_multiple_of(3) {
            env.sleep(std::time::Duration::from_micros(r % 300)).await;
        }
    }
    flusher.close().await.unwrap();
    for (i, one) in all.iter().enumerate().filter(|(_, one)| !one.deleted.get()) {
        let log = one.log.borrow();
        if lose && i == 0 {
            let why = one.failed.borrow().clone().expect("log 0 has failed");
            assert!(why.contains("/data/t-0"), "{why}");
            continue;
        }
        assert_eq!(*one.failed.borrow(), None);
        assert!(log.is_settled() && log.flushed() == log.end() && one.told.get() == log.end());
    }
    assert!(tail.used() <= TAIL, "{} bytes in the tails", tail.used());
}

#[test]
fn logs_that_go_do_not_hold_up_the_others() {
    for seed in 0..40 {
        Sim::new(seed, SimOptions::default()).run(|env| load(env, false));
        Sim::new(seed, SimOptions::default()).run(|env| load(env, true));
    }
}

#[test]
fn what_could_not_be_written_back_is_tried_again_at_the_start() {
    let mut sim = Sim::new(3, SimOptions::default());
    let end = Rc::new(Cell::new(0));
    let told = end.clone();
    sim.run(|env| async move {
        env.create_dir_all(Path::new(DATA)).await.unwrap();
        let options = JournalOptions {
            file_bytes: 16 << 10,
            files_max: 3,
            durable: true,
        };
        let journal = Journal::open(&env, Path::new(DATA), 0, options)
            .await
            .unwrap();
        let flusher = Flusher::new(&env, TailBudget::new(TAIL));
        flusher.start(journal);
        let log = Log::new(&env, &dir(0), config(), 0);
        let one = Rc::new(One {
            log: Rc::new(RefCell::new(log)),
            turn: Turn::default(),
            told: Cell::new(0),
            failed: RefCell::new(None),
            deleted: Cell::new(false),
        });
        append(&one, 1000);
        flusher.kick(one.clone());
        while one.told.get() == 0 {
            env.yield_now().await;
        }
        // What stands in the way of the segment's file.
        let aside = Path::new(DATA).join("aside");
        env.rename(&dir(0), &aside).await.unwrap();
        flusher.close().await.unwrap();
        assert!(one.failed.borrow().is_some());
        env.rename(&aside, &dir(0)).await.unwrap();
        told.set(one.told.get());
    });
    sim.run(|env| async move {
        let replayed = replay::replay(&env, Path::new(DATA), |_| true, |_| true).await;
        assert!(replayed.unwrap().bytes > 1000);
        let opened = recover::open(&env, &dir(0), config(), 0, &mut |_, _| {}).await;
        assert_eq!(opened.unwrap().log.flushed(), end.get());
    });
}
