//! Whatever the disk does: random faults (EIO, short writes, syncs that fail once and then pretend,
//! a disk that is full for a while) under the flusher, the journal and the write-back, then a power
//! cut and a start. What was acknowledged is there, at its offset; what was not may be there, and
//! then it is what was appended at that offset; a log that failed takes nothing more; others go on.
//!
//! `STREAMD_SEEDS=10000 cargo test --release -p streamd-shard --test faults` runs that many seeds;
//! `STREAMD_SEED=n` runs that one alone.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use streamd_io::Env;
use streamd_io::sim::{Disk, DiskOp, Fault, Sim, SimOptions, each_seed};
use streamd_log::journal::replay::{self, Backlog};
use streamd_log::{BatchHeader, LogError, records, recover, write_back};
use streamd_model::Offset;
use streamd_shard::flusher::Owner;
use streamd_shard::tail_budget::TailBudget;

use common::{DATA, One, config, dir, flusher};

const LOGS: usize = 6;

type Logs = Vec<Rc<One>>;

/// What the outside knows of a log.
#[derive(Default)]
struct Model {
    /// The value at each offset that was given out and may be on the disk.
    values: RefCell<BTreeMap<Offset, u64>>,
    /// Everything below was acknowledged.
    acked: Rc<Cell<Offset>>,
    counter: Cell<u64>,
}

fn append(one: &One, model: &Model, size: usize) {
    let counter = model.counter.get() + 1;
    model.counter.set(counter);
    let mut value = vec![7; size + 8];
    value[..8].copy_from_slice(&counter.to_be_bytes());
    let at = common::append(&one.log, &value);
    model.values.borrow_mut().insert(at, counter);
}

/// Writes to a log's segments what the replay has put off. When the disk is full, there is room in
/// the end.
async fn restore(env: &Env, i: usize, backlog: &mut Backlog, disk: &Disk) -> Result<(), LogError> {
    let Some(put_off) = backlog.take(&format!("t-{i}")) else {
        return Ok(());
    };
    loop {
        match replay::restore_one(env, &dir(i), &put_off).await {
            Err(error) if error.is_full() => disk.set_capacity(None),
            result => return result.map(drop),
        }
    }
}

/// Replays and opens everything; an error is the disk's. Gives the numbers of the files of the
/// journal that may be used again.
async fn open(env: &Env, models: &[Rc<Model>], disk: &Disk) -> Result<(Logs, Vec<u32>), LogError> {
    let fail = |error| LogError::Io {
        what: "data directory".into(),
        error,
    };
    env.create_dir_all(Path::new(DATA)).await.map_err(fail)?;
    let later = env.random_u64();
    let (_, mut backlog) = loop {
        let later = |_: usize, _: &str, _: &str| later.is_multiple_of(2);
        let all = |_: usize| true;
        match replay::replay_some(env, Path::new(DATA), (all, all), later).await {
            Err(error) if error.is_full() => disk.set_capacity(None),
            result => break result?,
        }
    };
    let mut all = Vec::new();
    for (i, model) in models.iter().enumerate() {
        restore(env, i, &mut backlog, disk).await?;
        let mut found = BTreeMap::new();
        let visit = &mut |h: &BatchHeader, bytes: &[u8]| {
            let range = records::values(bytes, h).unwrap().remove(0);
            let value = u64::from_be_bytes(bytes[range][..8].try_into().unwrap());
            found.insert(h.base_offset, value);
        };
        let opened = recover::open(env, &dir(i), config(), 0, visit).await?;
        let end = opened.log.flushed();
        let acked = model.acked.get();
        assert!(
            end >= acked,
            "log {i}: acknowledged to {acked}, found {end}"
        );
        let mut values = model.values.borrow_mut();
        for (offset, value) in &found {
            assert_eq!(values.get(offset), Some(value), "log {i}, offset {offset}");
        }
        // From now on it is readable, so it stays.
        values.split_off(&end);
        model.acked.set(end);
        drop(values);
        all.push(One::new(opened.log, model.acked.clone()));
    }
    Ok((all, backlog.files().to_vec()))
}

/// Some faults for a while; which ones comes from `r`.
fn faults(r: u64) -> Vec<Fault> {
    let ops = [DiskOp::Write, DiskOp::Sync, DiskOp::Open, DiskOp::Name];
    let paths = [
        "/journal/",
        "/t-1",
        ".log",
        "checkpoint",
        "index",
        "/t-2/",
        "0-1.",
    ];
    let mut faults = Vec::new();
    for i in 0..r % 3 {
        let mut fault = Fault::eio(
            paths[(r >> (8 + 4 * i)) as usize % paths.len()],
            ops[(r >> (30 + 4 * i)) as usize % ops.len()],
        );
        fault.per_million = [1_000_000, 300_000, 20_000][(r >> (50 + 2 * i)) as usize % 3];
        faults.push(fault);
    }
    faults
}

async fn live(env: Env, disk: Disk, models: Rc<Vec<Rc<Model>>>, seen: Rc<Seen>) {
    disk.set_faults(Vec::new());
    disk.set_capacity(None);
    let opened = open(&env, &models, &disk).await;
    let (all, held) = opened.expect("a disk without faults");
    let flusher = flusher(&env, TailBudget::new(40_000), &held).await;
    if env.random_u64().is_multiple_of(2) {
        flusher.sync_all_from(2);
    }
    for number in held {
        flusher.let_go(number).await.expect("a disk without faults");
    }
    for _ in 0..40 + env.random_u64() % 200 {
        let r = env.random_u64();
        let at = r as usize % all.len();
        let one = &all[at];
        // A shard refuses appends while the disk is full.
        if !one.is_gone() && !flusher.is_held() {
            append(one, &models[at], (r >> 20) as usize % 3000);
            flusher.kick(one.clone());
        }
        match r >> 56 {
            0..=9 => disk.set_faults(faults(r >> 3)),
            10..=19 => disk.set_faults(Vec::new()),
            20..=24 => disk.set_capacity(Some(disk.used() + (r >> 8) % 60_000)),
            25..=39 => disk.set_capacity(None),
            _ => {}
        }
        if r.is_multiple_of(3) {
            env.sleep(Duration::from_micros(r % 300)).await;
        } else if (r >> 5).is_multiple_of(50) {
            env.sleep(Duration::from_millis(1500)).await;
        }
    }
    // Faults go on or not; room comes back, and what waited for it must come through.
    if !env.random_u64().is_multiple_of(4) {
        disk.set_capacity(None);
        env.sleep(Duration::from_secs(4)).await;
        for one in all.iter().filter(|o| !o.is_gone()) {
            let log = one.log.borrow();
            assert!(log.flushed() == log.end(), "it goes on by itself");
        }
    }
    let count = |cell: &Cell<u32>, n: usize| cell.set(cell.get() + n as u32);
    count(&seen.failed, all.iter().filter(|o| o.is_gone()).count());
    count(
        &seen.delayed,
        all.iter().filter(|o| o.delayed.get()).count(),
    );
    count(&seen.logs, all.len());
    for one in &all {
        let failed = one.failed.borrow();
        let full = failed
            .as_ref()
            .is_some_and(|why| why.contains("os error 28"));
        assert!(!full, "a full disk is waited for: {failed:?}");
    }
    let _ = flusher.close().await;
    for one in all.iter().filter(|o| !o.is_gone()) {
        let _ = write_back::close(&env, &one.log, Vec::new()).await;
    }
}

/// What happened, so that a test which tests nothing is noticed.
#[derive(Default)]
struct Seen {
    logs: Cell<u32>,
    failed: Cell<u32>,
    delayed: Cell<u32>,
    crashed: Cell<u32>,
    /// Starts that failed, with faults.
    starts: Cell<u32>,
}

fn run(seed: u64, seen: &Rc<Seen>) {
    let models: Rc<Vec<Rc<Model>>> = Rc::new((0..LOGS).map(|_| Rc::default()).collect());
    let options = SimOptions {
        crash_turns: 100..60_000,
        ..SimOptions::default()
    };
    let mut sim = Sim::new(seed, options);
    for life in 0..4 {
        let (m, disk, s) = (models.clone(), sim.disk(), seen.clone());
        let ended = sim.run_until_crash(move |env| live(env, disk, m, s));
        seen.crashed
            .set(seen.crashed.get() + u32::from(ended.is_none()));
        sim.power_cut();
        // A start on a disk that fails loses nothing either.
        sim.disk().set_capacity(None);
        sim.disk().set_faults(faults(seed.rotate_left(life) >> 1));
        if (seed + u64::from(life)).is_multiple_of(3) {
            sim.disk().set_capacity(Some(sim.disk().used() + 3000));
        }
        let (m, disk) = (models.clone(), sim.disk());
        if !sim.run(move |env| async move { open(&env, &m, &disk).await.is_ok() }) {
            seen.starts.set(seen.starts.get() + 1);
        }
        sim.power_cut();
    }
    sim.disk().set_faults(Vec::new());
    sim.disk().set_capacity(None);
    let disk = sim.disk();
    sim.run(move |env| async move {
        let opened = open(&env, &models, &disk).await;
        opened.expect("a disk without faults");
    });
}

#[test]
fn acknowledged_is_never_lost_whatever_the_disk_does() {
    let seen = Rc::new(Seen::default());
    if each_seed(200, |seed| run(seed, &seen)).is_none() {
        return;
    }
    let Seen {
        logs,
        failed,
        delayed,
        crashed,
        starts,
    } = &*seen;
    println!(
        "{logs:?} logs, {failed:?} failed, {delayed:?} delayed, {crashed:?} crashes, \
         {starts:?} starts failed"
    );
    assert!(failed.get() > logs.get() / 50 && failed.get() < logs.get());
    assert!(delayed.get() > logs.get() / 100 && crashed.get() > 50 && starts.get() > 5);
}
