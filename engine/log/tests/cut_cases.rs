//! Cuts of a log at moments that chance seldom hits: beside a group that was gathered, or is being
//! written, beside a sync that began before, beside a reader.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use streamd_io::Env;
use streamd_io::local::Budget;
use streamd_io::sim::{Sim, SimOptions};
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_log::journal::{Group, Journal, JournalOptions, replay};
use streamd_log::log::SharedLog;
use streamd_log::{Log, LogConfig, LogError, NewBatch, Planned, cut, recover, replica, write_back};

const DATA: &str = "/data";

fn dir() -> PathBuf {
    Path::new(DATA).join("t-0")
}

fn config() -> LogConfig {
    LogConfig {
        metadata: "version: 0\n".into(),
        index_interval: 0,
        ..LogConfig::default()
    }
}

async fn journal(env: &Env, files_max: usize) -> Journal {
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let options = JournalOptions {
        file_bytes: 1 << 20,
        files_max,
        durable: true,
    };
    let journal = Journal::open(env, Path::new(DATA), 0, options).await;
    journal.unwrap()
}

/// A log that has `count` batches of two records.
async fn log_of(env: &Env, journal: &Journal, count: u8) -> SharedLog {
    let log = Rc::new(RefCell::new(Log::new(env, &dir(), config(), 0)));
    write_back::make_dir(env, &log).await.unwrap();
    append(&log, count);
    flush(journal, &log).await;
    log
}

fn append(log: &SharedLog, count: u8) {
    for n in 0..count {
        let value = [n; 300];
        let record = NewRecord {
            timestamp: 1,
            key: None,
            value: Some(&value),
        };
        let bytes = build(&[record.clone(), record], Writer::default());
        let batch = NewBatch::own(bytes, 1).unwrap();
        log.borrow_mut().append(batch, 3, 0);
    }
}

fn gather(log: &SharedLog) -> Group {
    let mut group = Group::default();
    group.take(log);
    group
}

async fn flush(journal: &Journal, log: &SharedLog) {
    journal.write(gather(log)).await.unwrap();
}

async fn truncate(env: &Env, log: &SharedLog, to: i64) -> Result<(), LogError> {
    cut::truncate(env, log, to, 0, &mut |_, _| {})
        .await
        .map(drop)
}

/// Goes on with `future` once.
async fn step<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn end_after_a_start(env: &Env) -> (i64, Vec<(i32, i64)>) {
    let replayed = replay::replay(env, Path::new(DATA), |_| true, |_| true).await;
    assert_eq!(replayed.unwrap().notes, [""; 0]);
    let opened = recover::open(env, &dir(), config(), 0, &mut |_, _| {}).await;
    let log = opened.unwrap().log;
    (log.flushed(), log.epochs().to_vec())
}

#[test]
fn a_cut_waits_for_the_group_that_is_being_written() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let journal = journal(&env, 2).await;
        let log = log_of(&env, &journal, 5).await;
        append(&log, 3);
        let mut write = pin!(journal.write(gather(&log)));
        assert!(step(write.as_mut()).await.is_none(), "it is in flight");
        let mut cut = pin!(truncate(&env, &log, 4));
        for _ in 0..10_000 {
            assert!(
                step(cut.as_mut()).await.is_none(),
                "the group has not landed"
            );
            env.yield_now().await;
        }
        assert_eq!((log.borrow().flushed(), log.borrow().end()), (4, 4));
        let flushed = write.await.unwrap();
        assert_eq!((flushed[0].next, flushed[0].bytes), (4, 0));
        cut.await.unwrap();
        append(&log, 1);
        flush(&journal, &log).await;
        assert_eq!(log.borrow().flushed(), 6);
        assert_eq!(end_after_a_start(&env).await, (6, vec![(3, 0)]));
    });
}

#[test]
fn of_a_group_that_is_being_written_what_lies_before_the_cut_stays() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let journal = journal(&env, 2).await;
        let log = log_of(&env, &journal, 2).await;
        append(&log, 3);
        let mut write = pin!(journal.write(gather(&log)));
        assert!(step(write.as_mut()).await.is_none(), "it is in flight");
        let mut cut = pin!(truncate(&env, &log, 8));
        assert!(step(cut.as_mut()).await.is_none());
        let flushed = write.await.unwrap();
        assert_eq!(flushed[0].next, 8, "two of three batches");
        cut.await.unwrap();
        assert_eq!(end_after_a_start(&env).await.0, 8);
    });
}

#[test]
fn a_group_that_was_gathered_before_a_cut_takes_nothing_that_came_after_it() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let journal = journal(&env, 1).await;
        let log = log_of(&env, &journal, 5).await;
        let file = journal.close_current().unwrap();
        append(&log, 1);
        let mut write = pin!(journal.write(gather(&log)));
        // It waits for a file of the journal.
        for _ in 0..1000 {
            assert!(step(write.as_mut()).await.is_none());
            env.yield_now().await;
        }
        truncate(&env, &log, 4).await.unwrap();
        append(&log, 3);
        journal.release(&file);
        let flushed = write.await.unwrap();
        assert_eq!((flushed[0].next, flushed[0].bytes), (4, 0));
        flush(&journal, &log).await;
        assert_eq!(log.borrow().flushed(), 10);
        assert_eq!(end_after_a_start(&env).await.0, 10);
    });
}

#[test]
fn a_sync_that_began_before_a_cut_says_nothing_of_what_came_after_it() {
    let mut sim = Sim::new(1, SimOptions::default());
    sim.run(|env| async move {
        let journal = journal(&env, 2).await;
        let log = log_of(&env, &journal, 5).await;
        let room = Budget::new(1 << 20);
        write_back::write_back(&env, &log, &room, true)
            .await
            .unwrap();
        let mark = log.borrow().written();
        let all = env.file_system(Path::new(DATA)).await.unwrap();
        all.sync().await.unwrap();
        truncate(&env, &log, 4).await.unwrap();
        append(&log, 6);
        flush(&journal, &log).await;
        write_back::write_back(&env, &log, &room, true)
            .await
            .unwrap();
        write_back::settle_synced(&env, &log, mark).await.unwrap();
        assert!(log.borrow().is_settled(), "it was synced once more");
        // So nobody needs the journal any more.
        let file = journal.close_current().unwrap();
        journal.release(&file);
        journal.close().await.unwrap();
    });
    sim.power_cut();
    let end = sim.run(|env| async move { end_after_a_start(&env).await.0 });
    assert_eq!(end, 16);
}

#[test]
fn a_reader_sees_nothing_of_what_is_being_cut() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let journal = journal(&env, 2).await;
        let log = log_of(&env, &journal, 9).await;
        let room = Budget::new(1 << 20);
        write_back::write_back(&env, &log, &room, true)
            .await
            .unwrap();
        for in_memory in [true, false] {
            if !in_memory {
                assert!(log.borrow_mut().drop_tail(18));
            }
            let before = replica::read_push(&env, &log, (3, i64::MAX), 100)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(before.next, 4, "the batch that holds it, whole");
        }
        for limit in 0..=18 {
            let push = replica::read_push(&env, &log, (0, limit), 1 << 20).await;
            let next = push.unwrap().unwrap().next;
            assert_eq!(
                next,
                (limit + 1) / 2 * 2,
                "whole batches from before {limit}"
            );
        }
        let mut cut = pin!(truncate(&env, &log, 6));
        assert!(step(cut.as_mut()).await.is_none());
        let plan = |offset| log.borrow().plan_read(offset, 1 << 20, true);
        assert!(matches!(plan(7), Planned::OutOfRange));
        // The file still has all of it.
        assert!(matches!(plan(2), Planned::Ready(p) if p.next <= 6 && p.bytes == 0));
        cut.await.unwrap();
        let after = replica::read_push(&env, &log, (0, i64::MAX), 1 << 20)
            .await
            .unwrap();
        assert_eq!(after.unwrap().next, 6);
    });
}

#[test]
fn no_high_watermark_stays_behind_a_cut() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let journal = journal(&env, 2).await;
        let log = log_of(&env, &journal, 5).await;
        log.borrow_mut().set_high(8);
        write_back::store_high(&env, &log).await.unwrap();
        // As a leader does that was chosen though it does not have all of it.
        truncate(&env, &log, 4).await.unwrap();
        append(&log, 3);
        flush(&journal, &log).await;
        assert_eq!(
            (log.borrow().high(), log.borrow().committed()),
            (Some(4), 4)
        );
        assert_eq!(end_after_a_start(&env).await.0, 10);
        let opened = recover::open(&env, &dir(), config(), 0, &mut |_, _| {}).await;
        assert_eq!(opened.unwrap().log.high(), Some(4));
    });
}

#[test]
fn what_cannot_be_cut_is_refused() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let journal = journal(&env, 2).await;
        let log = log_of(&env, &journal, 5).await;
        for to in [-1, 11] {
            let text = truncate(&env, &log, to).await.unwrap_err().to_string();
            assert!(text.contains("it has offsets 0 to 10"), "{text}");
        }
        append(&log, 1);
        let text = truncate(&env, &log, 11).await.unwrap_err().to_string();
        assert!(text.contains("a batch has offsets 10 to 11"), "{text}");
        assert_eq!((log.borrow().flushed(), log.borrow().end()), (10, 12));
        flush(&journal, &log).await;
        assert!(!log.borrow().is_cutting());
        // Only the disk tells; nothing is decided then, and the files have all of it.
        let text = truncate(&env, &log, 5).await.unwrap_err().to_string();
        assert!(text.contains("where no batch begins"), "{text}");
        assert!(log.borrow().is_cutting());
        assert_eq!(end_after_a_start(&env).await, (12, vec![(3, 0)]));
    });
}
