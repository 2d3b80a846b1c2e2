//! A log that is read again for its owner, at moments that chance seldom hits: what is only in the
//! journal, a full disk, damage, a cut and an append that come meanwhile.

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
use streamd_log::cut::{self, Truncated};
use streamd_log::journal::{Group, Journal, JournalOptions, replay};
use streamd_log::log::SharedLog;
use streamd_log::{Log, LogConfig, LogError, NewBatch, recover, replica, retain, write_back};

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

async fn journal(env: &Env) -> Journal {
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let options = JournalOptions {
        file_bytes: 1 << 20,
        files_max: 2,
        durable: true,
    };
    let journal = Journal::open(env, Path::new(DATA), 0, options).await;
    journal.unwrap()
}

/// A log that has `count` batches of one record.
async fn log_of(env: &Env, journal: &Journal, count: u8) -> SharedLog {
    let log = Rc::new(RefCell::new(Log::new(env, &dir(), config(), 0)));
    write_back::make_dir(env, &log).await.unwrap();
    append(&log, count);
    flush(journal, &log).await;
    log
}

fn batch(n: u8) -> NewBatch {
    let value = [n; 300];
    let record = NewRecord {
        timestamp: 1,
        key: None,
        value: Some(&value),
    };
    NewBatch::own(build(&[record], Writer::default()), 1).unwrap()
}

fn append(log: &SharedLog, count: u8) {
    for n in 0..count {
        log.borrow_mut().append(batch(n), 3, 0);
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

async fn to_segments(env: &Env, log: &SharedLog) {
    let room = Budget::new(1 << 20);
    let written = write_back::write_back(env, log, &room, true).await;
    written.unwrap();
    write_back::settle(env, log).await.unwrap();
}

async fn reread(env: &Env, log: &SharedLog) -> Result<(Vec<u8>, Vec<i64>), LogError> {
    let mut seen = Vec::new();
    let done = cut::reread(env, log, &mut |h, _| seen.push(h.base_offset)).await;
    done.map(|Truncated { state, .. }| (state, seen))
}

/// Goes on with `future` once.
async fn step<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[test]
fn the_state_of_the_checkpoint_and_what_is_behind_it_wherever_it_is() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let journal = journal(&env).await;
        let empty = Rc::new(RefCell::new(Log::new(&env, &dir(), config(), 0)));
        assert_eq!(reread(&env, &empty).await.unwrap(), (vec![], vec![]));
        let log = log_of(&env, &journal, 3).await;
        // In the journal only.
        let all = |to| (0..to).collect::<Vec<i64>>();
        assert_eq!(reread(&env, &log).await.unwrap(), (vec![], all(3)));
        log.borrow_mut().roll(0);
        log.borrow_mut().plan_checkpoint(vec![7]);
        append(&log, 2);
        flush(&journal, &log).await;
        // A checkpoint that is only planned is none: what is before it is not durable.
        assert_eq!(reread(&env, &log).await.unwrap(), (vec![], all(5)));
        to_segments(&env, &log).await;
        assert_eq!(reread(&env, &log).await.unwrap(), (vec![7], vec![3, 4]));
        // In the file only, and what follows in memory.
        assert!(log.borrow_mut().drop_tail(5));
        append(&log, 1);
        flush(&journal, &log).await;
        assert_eq!(reread(&env, &log).await.unwrap(), (vec![7], vec![3, 4, 5]));
        retain::delete_before(&env, &log, 4).await.unwrap();
        assert_eq!(log.borrow().segment_count(), 1);
        assert_eq!(reread(&env, &log).await.unwrap(), (vec![7], vec![3, 4, 5]));
    });
}

#[test]
fn it_waits_for_what_was_appended_and_nothing_is_appended_meanwhile() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let journal = journal(&env).await;
        let log = log_of(&env, &journal, 2).await;
        append(&log, 2);
        let mut again = pin!(reread(&env, &log));
        for _ in 0..1000 {
            assert!(step(again.as_mut()).await.is_none(), "not in the journal");
            env.yield_now().await;
        }
        let mut kept = batch(9);
        let mut bytes = kept.bytes.to_vec();
        streamd_log::batch::stamp(&mut bytes, 4, 3);
        kept = NewBatch::own(bytes, 1).unwrap();
        assert!(log.borrow().is_cutting());
        assert!(log.borrow_mut().append_kept(kept.clone(), 0).is_err());
        let busy = reread(&env, &log).await.unwrap_err().to_string();
        assert!(busy.contains("or read again"), "{busy}");
        // Readers go on, from files too.
        to_segments(&env, &log).await;
        assert!(log.borrow_mut().drop_tail(2));
        let push = replica::read_push(&env, &log, (0, i64::MAX), 1 << 20)
            .await
            .unwrap();
        assert_eq!(push.unwrap().next, 2);
        flush(&journal, &log).await;
        assert_eq!(again.await.unwrap().1, [0, 1, 2, 3]);
        log.borrow_mut().append_kept(kept, 0).unwrap();
    });
}

#[test]
fn nothing_goes_that_is_still_to_be_shown() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let journal = journal(&env).await;
        let log = log_of(&env, &journal, 3).await;
        for _ in 0..2 {
            log.borrow_mut().roll(0);
            append(&log, 2);
        }
        flush(&journal, &log).await;
        log.borrow_mut().plan_checkpoint(vec![7]);
        let room = Budget::new(1 << 20);
        let written = write_back::write_back(&env, &log, &room, false).await;
        written.unwrap();
        assert!(log.borrow_mut().drop_tail(7));
        let mut again = pin!(reread(&env, &log));
        assert!(step(again.as_mut()).await.is_none());
        // From now on a recovery needs the last segment only.
        write_back::settle(&env, &log).await.unwrap();
        let mut go = pin!(retain::delete_before(&env, &log, 7));
        for _ in 0..10_000 {
            assert!(step(go.as_mut()).await.is_none(), "it waits for its turn");
            env.yield_now().await;
        }
        assert_eq!(again.await.unwrap(), (vec![], (0..7).collect()));
        assert_eq!((go.await.unwrap(), log.borrow().segment_count()), (7, 1));
        assert_eq!(reread(&env, &log).await.unwrap(), (vec![7], vec![]));
    });
}

#[test]
fn given_up_half_way_it_leaves_the_log_as_it_was() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let journal = journal(&env).await;
        let log = log_of(&env, &journal, 2).await;
        append(&log, 1);
        {
            let mut again = pin!(reread(&env, &log));
            assert!(step(again.as_mut()).await.is_none());
        }
        assert!(!log.borrow().is_cutting());
        flush(&journal, &log).await;
        assert_eq!(reread(&env, &log).await.unwrap().1, [0, 1, 2]);
    });
}

#[test]
fn a_cut_that_comes_meanwhile_ends_it() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let journal = journal(&env).await;
        let log = log_of(&env, &journal, 3).await;
        append(&log, 2);
        let mut again = pin!(reread(&env, &log));
        assert!(step(again.as_mut()).await.is_none(), "not in the journal");
        let cut = cut::truncate(&env, &log, 2, 0, &mut |_, _| {}).await;
        assert_eq!(cut.unwrap().unwrap().state, [0; 0]);
        let error = again.await.unwrap_err().to_string();
        assert!(error.contains("cut meanwhile"), "{error}");
        assert_eq!(reread(&env, &log).await.unwrap().1, [0, 1]);
    });
}

#[test]
fn a_full_disk_does_not_matter_and_damage_is_told() {
    let mut sim = Sim::new(1, SimOptions::default());
    let disk = sim.disk();
    sim.run(move |env| async move {
        let journal = journal(&env).await;
        let log = log_of(&env, &journal, 3).await;
        let used = disk.used();
        disk.set_capacity(Some(used));
        let room = Budget::new(1 << 20);
        let full = write_back::write_back(&env, &log, &room, true).await;
        assert!(full.is_err_and(|e| e.is_full()), "a file does not fit");
        assert_eq!(reread(&env, &log).await.unwrap().1, [0, 1, 2]);
        disk.set_capacity(None);
        to_segments(&env, &log).await;
        assert!(log.borrow_mut().drop_tail(3));
        let path = dir().join("00000000000000000000.log");
        disk.flip(&path, 500);
        let error = reread(&env, &log).await.unwrap_err().to_string();
        assert!(error.contains("at offset 1, does not match"), "{error}");
        assert!(!log.borrow().is_cutting());
        disk.flip(&path, 500);
        assert_eq!(reread(&env, &log).await.unwrap().1, [0, 1, 2]);
    });
}

#[test]
fn a_crash_at_any_moment_of_it_loses_nothing() {
    for turns in 1..400 {
        let mut sim = Sim::new(turns, SimOptions::default());
        let done = Rc::new(RefCell::new((0, 0)));
        let told = done.clone();
        let ended = sim.run_turns(turns, move |env| async move {
            let journal = journal(&env).await;
            let log = log_of(&env, &journal, 9).await;
            told.borrow_mut().0 = 9;
            append(&log, 3);
            let again = async {
                assert_eq!(reread(&env, &log).await.unwrap().1.len(), 12);
                told.borrow_mut().1 += 1;
            };
            let write = async {
                flush(&journal, &log).await;
                told.borrow_mut().0 = 12;
                to_segments(&env, &log).await;
            };
            futures_both(again, write).await;
        });
        sim.power_cut();
        let (flushed, rereads) = *done.borrow();
        assert!(ended.is_none() || rereads == 1);
        sim.run(move |env| async move {
            let replayed = replay::replay(&env, Path::new(DATA), |_| true, |_| true).await;
            assert_eq!(replayed.unwrap().notes, [""; 0]);
            let opened = recover::open(&env, &dir(), config(), 0, &mut |_, _| {}).await;
            let end = opened.unwrap().log.flushed();
            assert!(end >= flushed, "{flushed} were durable, {end} are there");
        });
        if ended.is_some() {
            assert!(turns > 20, "it takes a while");
            return;
        }
    }
    panic!("it never ended");
}

async fn futures_both(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let mut left = [true; 2];
    poll_fn(|cx| {
        left[0] = left[0] && a.as_mut().poll(cx).is_pending();
        left[1] = left[1] && b.as_mut().poll(cx).is_pending();
        if left == [false; 2] {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}
