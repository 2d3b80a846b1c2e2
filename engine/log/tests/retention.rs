//! When segments end and when they go, as Kafka has it: by the times of the records, by sizes of
//! logs, segments and indexes.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use streamd_io::Env;
use streamd_io::local::Budget;
use streamd_io::sim::{Sim, SimOptions};
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_log::journal::{Group, Journal, JournalOptions};
use streamd_log::log::SharedLog;
use streamd_log::retain::{self, Retention};
use streamd_log::{Log, LogConfig, NewBatch, lookup, recover, write_back};

const DATA: &str = "/data";

struct World {
    env: Env,
    log: SharedLog,
    journal: Journal,
}

async fn world(env: &Env, config: LogConfig) -> World {
    let options = JournalOptions {
        file_bytes: 1 << 20,
        files_max: 2,
        durable: true,
    };
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let journal = Journal::open(env, Path::new(DATA), 0, options).await;
    let log = Log::new(env, &Path::new(DATA).join("t-0"), config, 0);
    let log: SharedLog = Rc::new(RefCell::new(log));
    write_back::make_dir(env, &log).await.unwrap();
    World {
        env: env.clone(),
        log,
        journal: journal.unwrap(),
    }
}

impl World {
    /// Appends a record of this time, at that wall time, and makes it durable in its segment. True
    /// when it began a new one.
    async fn append(&self, timestamp: i64, now_ms: i64) -> bool {
        let record = NewRecord {
            timestamp,
            key: None,
            value: Some(&[7; 30]),
        };
        let batch = NewBatch::own(build(&[record], Writer::default()), timestamp).unwrap();
        let rolls = {
            let mut log = self.log.borrow_mut();
            let rolls = log.will_roll_at(batch.bytes.len(), 1, (now_ms, timestamp));
            if rolls {
                log.roll(now_ms);
                log.plan_checkpoint(Vec::new());
            }
            log.append(batch, 0, now_ms);
            rolls
        };
        let mut group = Group::default();
        group.take(&self.log);
        self.journal.write(group).await.unwrap();
        self.settle().await;
        rolls
    }

    async fn settle(&self) {
        let room = Budget::new(1 << 20);
        let written = write_back::write_back(&self.env, &self.log, &room, true).await;
        written.unwrap();
        write_back::settle(&self.env, &self.log).await.unwrap();
    }

    /// What a shard does when it looks after retention; gives the log start.
    async fn retain(&self, keep: Retention, now_ms: i64) -> i64 {
        let rolls = retain::wants_roll(&self.log.borrow(), keep, now_ms);
        if rolls {
            self.log.borrow_mut().roll(now_ms);
            self.log.borrow_mut().plan_checkpoint(Vec::new());
            self.settle().await;
        }
        let applied = retain::apply(&self.env, &self.log, keep, now_ms).await;
        applied.unwrap();
        self.log.borrow().start()
    }
}

fn keep_ms(ms: i64) -> Retention {
    Retention {
        ms: Some(ms),
        bytes: None,
    }
}

fn simulate<F: Future<Output = ()> + 'static>(test: impl FnOnce(Env) -> F + 'static) {
    Sim::new(3, SimOptions::default()).run(move |env| async move { test(env).await });
}

#[test]
fn a_segment_ages_by_its_records() {
    simulate(|env| async move {
        let config = LogConfig {
            segment_ms: 100,
            ..LogConfig::default()
        };
        let w = world(&env, config).await;
        assert!(!w.append(1000, 5).await);
        assert!(!w.append(1100, 1_000_000).await, "wall time does not count");
        assert!(!w.append(900, 5).await);
        assert!(w.append(1101, 5).await, "more than 100 ms after the first");
        assert!(!w.append(1201, 5).await);
        assert!(w.append(1202, 5).await);
        // Without times, what counts is how long ago the segment was made.
        assert!(!w.append(-1, 105).await);
        assert!(w.append(-1, 106).await);
        assert!(!w.append(-1, 206).await);
        assert!(w.append(-1, 207).await);
    });
}

#[test]
fn the_age_counts_on_over_a_restart() {
    simulate(|env| async move {
        let config = LogConfig {
            segment_ms: 100,
            ..LogConfig::default()
        };
        let mut w = world(&env, config.clone()).await;
        w.append(1000, 5).await;
        write_back::close(&env, &w.log, Vec::new()).await.unwrap();
        let dir = w.log.borrow().dir().to_owned();
        let opened = recover::open(&env, &dir, config, 9_999_999, &mut |_, _| {}).await;
        w.log = Rc::new(RefCell::new(opened.unwrap().log));
        assert!(!w.append(1100, 9_999_999).await);
        assert!(w.append(1101, 9_999_999).await);
    });
}

#[test]
fn jitter_makes_it_end_earlier() {
    simulate(|env| async move {
        let config = LogConfig {
            segment_ms: 1000,
            segment_jitter_ms: 1000,
            ..LogConfig::default()
        };
        let w = world(&env, config).await;
        let (mut at, mut lengths) = (1, Vec::new());
        for _ in 0..10 {
            let first = at;
            while !w.append(at, 0).await {
                at += 40;
            }
            lengths.push(at - first);
        }
        assert!(lengths.iter().all(|&l| l <= 1080), "{lengths:?}");
        lengths.sort_unstable();
        lengths.dedup();
        assert!(lengths.len() > 3, "not all of one length: {lengths:?}");
    });
}

#[test]
fn an_index_that_is_full_ends_a_segment() {
    simulate(|env| async move {
        let config = LogConfig {
            index_interval: 0,
            segment_index_bytes: 80,
            ..LogConfig::default()
        };
        let w = world(&env, config).await;
        let mut rolls = Vec::new();
        for i in 0..30 {
            // Falling times: the time index stays small.
            if w.append(1000 - i, 0).await {
                rolls.push(i);
            }
        }
        assert_eq!(rolls, [9, 18, 27], "an entry for each batch, of 8 bytes");
    });
}

#[test]
fn what_is_too_old_goes_by_the_latest_record_the_active_segment_too() {
    simulate(|env| async move {
        let config = LogConfig {
            segment_bytes: 250,
            ..LogConfig::default()
        };
        let w = world(&env, config.clone()).await;
        // Two a segment; the second segment has the latest record of all.
        for (i, t) in [10, 20, 500, 30, 40, 50].into_iter().enumerate() {
            assert_eq!(w.append(t, 0).await, i == 2 || i == 4, "{i}");
        }
        assert_eq!(w.retain(keep_ms(100), 120).await, 0, "20 is not too old");
        assert_eq!(w.retain(keep_ms(100), 121).await, 2);
        assert_eq!(
            w.retain(keep_ms(100), 600).await,
            2,
            "500 holds up the rest"
        );
        let found = lookup::at_or_after(&env, &w.log, 35).await.unwrap();
        assert_eq!(found, Some((2, 500)));
        assert_eq!(w.retain(keep_ms(100), 601).await, 6, "nothing is left");
        assert_eq!((w.log.borrow().end(), w.log.borrow().size()), (6, 0));
        assert_eq!(w.retain(keep_ms(100), 9999).await, 6);
        write_back::close(&env, &w.log, Vec::new()).await.unwrap();
        let dir = w.log.borrow().dir().to_owned();
        let opened = recover::open(&env, &dir, config, 0, &mut |_, _| {}).await;
        let log = opened.unwrap().log;
        assert_eq!(
            (log.start(), log.end()),
            (6, 6),
            "offsets go on where they were"
        );
    });
}

#[test]
fn a_log_stays_within_one_segment_of_its_limit() {
    simulate(|env| async move {
        let config = LogConfig {
            segment_bytes: 250,
            ..LogConfig::default()
        };
        let w = world(&env, config).await;
        let keep = Retention {
            ms: None,
            bytes: Some(600),
        };
        for i in 0..40 {
            w.append(i, 0).await;
            w.retain(keep, i64::MAX).await;
            let (size, log) = (w.log.borrow().size(), w.log.borrow());
            assert!(size <= 600 + 250, "{size} bytes");
            assert!(size >= 600 - 250 || log.start() == 0, "{size} bytes");
        }
        let none = Retention {
            ms: None,
            bytes: Some(0),
        };
        assert_eq!(w.retain(none, 0).await, 40);
    });
}
