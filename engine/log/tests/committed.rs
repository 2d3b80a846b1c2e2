//! A log of which only the front is committed, on the simulated disk: appends, a high watermark
//! that lags behind, compaction, retention, deletions, look-ups and scrubs beside it, cuts by a new
//! leader at any batch that is not committed; crashes at any await. What is not committed is always
//! there byte by byte and may be cut, and what a start takes for committed is.
//!
//! `STREAMD_SEEDS=10000 cargo test --release -p streamd-log --test committed` runs that many seeds.
//! A failing run prints its seed; `STREAMD_SEED=n` runs that one alone.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::local::Budget;
use streamd_io::sim::{Sim, SimOptions, each_seed};
use streamd_io::{Class, Env};
use streamd_log::batch::{NewRecord, Writer, build, restamp_time, stamp};
use streamd_log::compact::filter::Aborted;
use streamd_log::compact::{self, Order, Pace, Rules};
use streamd_log::journal::{Group, Journal, JournalOptions, replay};
use streamd_log::log::SharedLog;
use streamd_log::record_view::BatchView;
use streamd_log::retain::{self, Retention};
use streamd_log::{BatchHeader, LogConfig, NewBatch, cut, lookup, recover, replica, scrub};
use streamd_log::{LogError, write_back};

const DATA: &str = "/data";

/// What the outside knows of the log.
#[derive(Default)]
struct Model {
    /// Every batch that was appended and not cut: base → (next, bytes).
    batches: BTreeMap<i64, (i64, Bytes)>,
    durable: i64,
    start: i64,
    /// What was told last; `None`: nothing was told yet.
    high: Option<i64>,
    asked: Option<i64>,
    epoch: i32,
    counter: u64,
    did: Did,
}

/// How often something happened while not all was committed.
#[derive(Clone, Copy, Default)]
struct Did {
    cuts: u64,
    replaced: u64,
    freed: u64,
    held: u64,
    found: u64,
}

type Shared = Rc<RefCell<Model>>;

struct Life {
    env: Env,
    log: SharedLog,
    journal: Journal,
    model: Shared,
    pace: Pace,
    compacting: Cell<bool>,
}

fn dir() -> PathBuf {
    Path::new(DATA).join("topic-0")
}

fn pick(env: &Env, n: u64) -> u64 {
    env.random_u64() % n
}

fn config(env: &Env) -> LogConfig {
    LogConfig {
        segment_bytes: 1000 << pick(env, 4),
        index_interval: [0, 200, 4096][pick(env, 3) as usize],
        checkpoint_bytes: 1000 << pick(env, 4),
        metadata: "version: 0\n".into(),
        ..LogConfig::default()
    }
}

fn batch(env: &Env, model: &mut Model) -> Vec<u8> {
    model.counter += 1;
    if pick(env, 8) == 0 {
        // A marker: look-ups pass it over, though it may have the greatest time.
        let record = NewRecord {
            timestamp: 9000,
            key: Some(&[0, 0, 0, 1]),
            value: Some(&[0; 6]),
        };
        let mut bytes = build(&[record], Writer::default());
        bytes[22] |= 0x30;
        restamp_time(&mut bytes, 9000, false);
        return bytes;
    }
    let value = model
        .counter
        .to_be_bytes()
        .repeat(1 + pick(env, 40) as usize);
    let keys: Vec<_> = (0..1 + pick(env, 3))
        .map(|_| [pick(env, 6) as u8])
        .collect();
    let record = |key: &'_ [u8; 1]| (1000 + pick(env, 2000) as i64, *key);
    let records: Vec<_> = keys.iter().map(record).collect();
    let new = records.iter().map(|(timestamp, key)| NewRecord {
        timestamp: *timestamp,
        key: Some(key),
        value: Some(&value),
    });
    build(&new.collect::<Vec<_>>(), Writer::default())
}

async fn start(env: &Env, model: &Shared) -> Rc<Life> {
    let replayed = replay::replay(env, Path::new(DATA), |_| true, |s| s == 0).await;
    replayed.expect("replay works");
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let options = JournalOptions {
        file_bytes: 8192 << pick(env, 3),
        files_max: 3,
        durable: true,
    };
    let journal = Journal::open(env, Path::new(DATA), 0, options).await;
    let opened = recover::open(env, &dir(), config(env), 0, &mut |_, _| {}).await;
    let opened = opened.expect("recovery works");
    assert!(opened.notes.is_empty(), "{:?}", opened.notes);
    let log: SharedLog = Rc::new(RefCell::new(opened.log));
    resolve(&log, &mut model.borrow_mut());
    let life = Life {
        env: env.clone(),
        log,
        journal: journal.expect("the journal opens"),
        model: model.clone(),
        pace: Pace::new(1e9),
        compacting: Cell::new(false),
    };
    tell(&life, true);
    check(&life).await;
    Rc::new(life)
}

/// Finds out what became of what was under way.
fn resolve(log: &SharedLog, m: &mut Model) {
    let log = log.borrow();
    let (start, end) = (log.start(), log.flushed());
    if let Some(to) = m.asked.take().filter(|&to| to == end) {
        m.durable = m.durable.min(to);
    }
    assert!(end >= m.durable, "{} were durable, {end} are", m.durable);
    m.batches.split_off(&end);
    m.durable = end;
    assert!(start >= m.start && start <= m.high.unwrap_or(end));
    m.start = start;
    let high = log.high();
    assert!(
        high <= m.high,
        "a start says {high:?}, told was {:?}",
        m.high
    );
    // It may have been told and never stored: what is there now says what it is.
    m.high = m.high.map(|_| high.unwrap_or(start));
}

/// Tells a high watermark, though one was never told if it must be told `first`.
fn tell(life: &Life, first: bool) {
    let mut m = life.model.borrow_mut();
    let mut log = life.log.borrow_mut();
    let least = match (m.high, first) {
        (Some(high), true) => return log.set_high(high),
        (Some(high), false) => high,
        // As when a log of one node alone becomes a replica's.
        (None, true) if pick(&life.env, 2) == 0 => m.start,
        (None, _) => return,
    };
    let ends = m.batches.values().map(|b| b.0);
    let may: Vec<i64> = ends.filter(|&n| n >= least && n <= log.flushed()).collect();
    if may.is_empty() {
        return;
    }
    let high = may[pick(&life.env, may.len() as u64) as usize];
    log.set_high(high);
    log.set_high(high - 1);
    assert_eq!(log.committed(), high, "it never goes back");
    m.high = Some(high);
}

/// What is not committed is there, byte by byte; and nothing else is deleted or compacted.
async fn check(life: &Life) {
    let log = &life.log;
    let (high, end) = {
        let log = log.borrow();
        let high = log.committed();
        assert!(log.start() <= high, "starts at {}, {high}", log.start());
        assert!(log.cleaned() <= high, "cleaned to {}", log.cleaned());
        assert_eq!(life.model.borrow().high.unwrap_or(log.flushed()), high);
        (high, log.flushed())
    };
    let mut found = Vec::new();
    // A log may start, and that be all that is known of it, inside a batch.
    let first = life
        .model
        .borrow()
        .batches
        .range(high..)
        .next()
        .map(|b| *b.0);
    let mut at = first.unwrap_or(end);
    while at < end {
        let push = replica::read_push(&life.env, log, (at, i64::MAX), 3000)
            .await
            .unwrap();
        let push = push.expect("it is in the log");
        assert!(push.next > at, "a reader stands still at {at}");
        push.parts.iter().for_each(|p| found.extend_from_slice(p));
        at = push.next;
    }
    let model = life.model.borrow();
    let wanted = model.batches.range(high..end).map(|b| &b.1.1[..]);
    let wanted = wanted.collect::<Vec<_>>().concat();
    assert!(
        found == wanted,
        "from {high}: {} of {} bytes",
        found.len(),
        wanted.len()
    );
}

/// The offsets and times of all committed records that are left.
async fn content(life: &Life) -> Vec<(i64, i64)> {
    let (mut at, high) = (life.log.borrow().start(), life.log.borrow().committed());
    let (mut found, from) = (Vec::new(), at);
    while at < high {
        let push = replica::read_push(&life.env, &life.log, (at, i64::MAX), 3000).await;
        let push = push.unwrap().expect("it is in the log");
        for part in push.parts {
            let mut rest = &part[..];
            while let Ok(h) = BatchHeader::parse(rest) {
                if !h.is_control() {
                    let view = BatchView::new(&rest[..h.size], 1 << 20).unwrap();
                    let all = view.records().map(|r| r.unwrap());
                    found.extend(all.map(|r| (r.offset, r.timestamp)));
                }
                rest = &rest[h.size..];
            }
        }
        at = push.next;
    }
    found.retain(|r| r.0 >= from && r.0 < high);
    found.dedup();
    found
}

async fn look_up(life: &Life) {
    let records = content(life).await;
    let wanted = 900 + pick(&life.env, 2300) as i64;
    let found = lookup::at_or_after(&life.env, &life.log, wanted).await;
    let first = records.iter().find(|r| r.1 >= wanted).copied();
    assert_eq!(found.unwrap(), first, "the first at or after {wanted}");
    let latest = lookup::latest(&life.env, &life.log).await.unwrap();
    let max = records.iter().map(|r| r.1).max();
    let first = records.iter().find(|r| Some(r.1) == max).copied();
    assert_eq!(latest, first, "the greatest");
    let lags = life.log.borrow().committed() < life.log.borrow().flushed();
    life.model.borrow_mut().did.found += u64::from(lags && first.is_some());
}

async fn append(life: &Life) -> Result<(), LogError> {
    let made = write_back::make_dir(&life.env, &life.log).await;
    made.expect("a directory is made");
    for _ in 0..1 + pick(&life.env, 5) {
        let mut m = life.model.borrow_mut();
        let mut bytes = batch(&life.env, &mut m);
        let time = BatchHeader::parse(&bytes).unwrap().max_timestamp;
        let new = NewBatch::own(bytes.clone(), time).unwrap();
        let header = new.facts.header;
        let mut log = life.log.borrow_mut();
        if log.will_roll(header.size, header.count, 0) {
            log.roll(0);
            log.plan_checkpoint(Vec::new());
        } else if log.wants_checkpoint() {
            log.plan_checkpoint(Vec::new());
        }
        let placed = log.append(new, m.epoch, 0);
        stamp(&mut bytes, placed.base, m.epoch);
        m.batches.insert(placed.base, (placed.next, bytes.into()));
    }
    loop {
        let mut group = Group::default();
        group.take(&life.log);
        if group.is_empty() {
            return Ok(());
        }
        if !life.journal.has_room(group.len()) {
            settle(life).await;
        }
        let flushed = life.journal.write(group).await.expect("a group is written");
        life.model.borrow_mut().durable = flushed[0].next;
    }
}

async fn settle(life: &Life) {
    let file = life.journal.close_current();
    let room = Budget::new(10_000);
    let written = write_back::write_back(&life.env, &life.log, &room, true).await;
    written.expect("write back works");
    if life.log.borrow().checkpoint_lags() {
        life.log.borrow_mut().plan_checkpoint(Vec::new());
    }
    let settled = write_back::settle(&life.env, &life.log).await;
    settled.expect("settling works");
    if pick(&life.env, 2) == 0 {
        let all = life.log.borrow().flushed();
        life.log.borrow_mut().drop_tail(all);
    }
    if let Some(file) = file {
        life.journal.release(&file);
    }
}

async fn compact(life: &Rc<Life>) {
    let (env, log) = (&life.env, &life.log);
    let rules = Rules {
        delete_retention_ms: 0,
        min_lag_ms: 0,
        max_lag_ms: i64::MAX,
        min_dirty_ratio: 0.0,
        segment_bytes: log.borrow().config().segment_bytes << pick(env, 2),
        index_bytes: 300 << pick(env, 8),
    };
    // An owner that thinks too much of it decided.
    let bound = log.borrow().flushed();
    let todo = compact::todo(env, log, (&rules, bound), 0).await;
    let Some(todo) = todo.expect("looking works") else {
        return;
    };
    let order = Order {
        rules,
        bound,
        now_ms: 0,
        map_bytes: 1 << 20,
        producers: BTreeMap::new(),
        aborted: Aborted::default(),
        pace: &life.pace,
    };
    let done = compact::run(env, log, &order, todo).await;
    let done = done.expect("compaction works");
    assert_eq!(done.refused, None);
    let lags = log.borrow().committed() < log.borrow().flushed();
    life.model.borrow_mut().did.replaced += if lags { done.replaced as u64 } else { 0 };
}

fn spawn_compaction(life: &Rc<Life>) {
    // Before it is a replica's it is not compacted: then all that is flushed is committed.
    if life.model.borrow().high.is_none() || life.compacting.replace(true) {
        return;
    }
    let (life, env) = (life.clone(), life.env.clone());
    env.spawn(Class::Background, async move {
        compact(&life).await;
        life.compacting.set(false);
    })
    .detach();
}

/// Whatever is asked for: nothing goes that is not committed.
async fn delete_some(life: &Life) {
    let (env, log) = (&life.env, &life.log);
    let (start, end, segments) = {
        let log = log.borrow();
        (log.start(), log.flushed(), log.segment_count())
    };
    match pick(env, 4) {
        0 => {
            let to = start + pick(env, (end - start) as u64 + 1) as i64;
            let committed = log.borrow().committed();
            let got = retain::delete_before(env, log, to).await.unwrap();
            assert_eq!(got, to.min(committed).max(start), "asked for {to}");
            life.model.borrow_mut().did.held += u64::from(to > committed);
        }
        1 => {
            let base = retain::deletable(&log.borrow()).map_or(0, |d| d.0.base);
            let freed = retain::drop_oldest(env, log, base).await.unwrap();
            assert!(freed > 0 || log.borrow().start() == start);
        }
        n => {
            let keep = Retention {
                ms: (n == 2).then_some(0),
                bytes: Some(pick(env, 9000)),
            };
            if pick(env, 3) == 0 && retain::wants_roll(&log.borrow(), keep, 1 << 40) {
                log.borrow_mut().roll(0);
            }
            let freed = retain::apply(env, log, keep, 1 << 40).await.unwrap();
            assert!(
                freed > 0 || log.borrow().start() == start,
                "whole segments go"
            );
            retain::remove_dead(env, log).await.unwrap();
            let lags = log.borrow().committed() < log.borrow().flushed();
            life.model.borrow_mut().did.freed += u64::from(freed > 0 && lags);
        }
    }
    assert!(log.borrow().segment_count() <= segments + 1);
    life.model.borrow_mut().start = log.borrow().start();
}

/// What a new leader may do: cut anywhere behind what is committed.
async fn cut_some(life: &Life) {
    let high = life.log.borrow().committed();
    let to = {
        let mut m = life.model.borrow_mut();
        let inside = m.batches.range(high..).map(|b| *b.0);
        let may: Vec<i64> = inside.collect();
        if may.is_empty() || m.high.is_none() {
            return;
        }
        let to = may[pick(&life.env, may.len() as u64) as usize];
        (m.asked, m.epoch) = (Some(to), m.epoch + 1);
        m.durable = m.durable.min(to);
        to
    };
    let done = cut::truncate(&life.env, &life.log, to, 0, &mut |_, _| {}).await;
    let done = done.expect("what is not committed may be cut");
    assert!(done.expect("it ends later").notes.is_empty());
    let mut m = life.model.borrow_mut();
    m.batches.split_off(&to);
    m.asked = None;
    m.did.cuts += 1;
}

async fn live(env: Env, model: Shared) {
    let life = start(&env, &model).await;
    for _ in 0..10 + pick(&env, 40) {
        match pick(&env, 16) {
            0..=4 => append(&life).await.unwrap(),
            5 | 6 => settle(&life).await,
            7 => tell(&life, false),
            8 => spawn_compaction(&life),
            9 | 10 => delete_some(&life).await,
            11 if !life.compacting.get() => look_up(&life).await,
            12 => check(&life).await,
            13 => cut_some(&life).await,
            14 => {
                let scrubbed = scrub::scrub(&env, &life.log, 1 << 40).await;
                scrubbed.expect("nothing is damaged");
            }
            _ => {
                if pick(&env, 3) == 0 {
                    let stored = write_back::store_high(&env, &life.log).await;
                    stored.expect("a high watermark is stored");
                }
            }
        }
    }
    while life.compacting.get() {
        env.yield_now().await;
    }
    check(&life).await;
    if pick(&env, 2) == 0 {
        settle(&life).await;
        let closed = write_back::close(&env, &life.log, Vec::new()).await;
        closed.expect("close works");
        life.journal.close().await.expect("the journal closes");
    }
}

fn run(seed: u64) -> Did {
    let model = Shared::default();
    let mut sim = Sim::new(seed, SimOptions::default());
    for _ in 0..6 {
        let m = model.clone();
        if sim.run_until_crash(move |env| live(env, m)).is_none() {
            sim.power_cut();
        }
    }
    let m = model.clone();
    sim.run(move |env| async move {
        start(&env, &m).await;
    });
    model.borrow().did
}

#[test]
fn what_is_not_committed_is_not_touched() {
    let Some(all) = each_seed(300, run) else {
        return;
    };
    let sum = |of: fn(&Did) -> u64| all.iter().map(of).sum::<u64>();
    let did = [
        sum(|d| d.cuts),
        sum(|d| d.replaced),
        sum(|d| d.freed),
        sum(|d| d.held),
        sum(|d| d.found),
    ];
    let enough = did.iter().all(|&n| n > all.len() as u64 / 10);
    assert!(enough || all.len() < 100, "{did:?}");
}
