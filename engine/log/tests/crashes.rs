//! The log on the simulated disk: random appends, reads, rolls and deletions, crashes at any await,
//! unsynced writes lost, blocks torn; after each the log must hold what was acknowledged, at the
//! offsets that were acknowledged, and nothing that was never written.
//!
//! `STREAMD_SEEDS=10000 cargo test --release -p streamd-log --test crashes` runs that many seeds.
//! A failing run prints its seed; `STREAMD_SEED=n` runs that one alone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::sim::{Sim, SimOptions};
use streamd_io::{Class, Env, OpenOptions, Part};
use streamd_log::batch::{NewRecord, Writer, build, crc_matches};
use streamd_log::log::SharedLog;
use streamd_log::validate::Facts;
use streamd_log::{
    BatchHeader, LogConfig, NewBatch, Planned, flush, lookup, records, recover, retain,
};

const DIR: &str = "/data/topic-0";

/// What the outside knows of the log.
#[derive(Default)]
struct Model {
    /// Every batch whose append began and that may still be there: base → (next, value, time).
    written: BTreeMap<i64, (i64, Vec<u8>, i64)>,
    /// Everything below was acknowledged.
    acked: i64,
    /// The log start that was acknowledged.
    start: i64,
    /// A log start that was asked for but not acknowledged.
    start_asked: i64,
    counter: u64,
}

type Shared = Rc<RefCell<Model>>;
/// The log, the base offsets that its owner knows, and whether a flush task is at work.
type Parts<'a> = (
    &'a SharedLog,
    &'a Rc<RefCell<Vec<i64>>>,
    &'a Rc<RefCell<bool>>,
);

fn config(env: &Env) -> LogConfig {
    let r = env.random_u64();
    LogConfig {
        segment_bytes: 4096 << (r % 5),
        index_interval: [0, 200, 4096][(r >> 8) as usize % 3],
        checkpoint_bytes: 2000 << ((r >> 16) % 5),
        metadata: "version: 0\n".into(),
        ..LogConfig::default()
    }
}

fn batch(env: &Env, model: &mut Model) -> (NewBatch, Vec<u8>) {
    model.counter += 1;
    let r = env.random_u64();
    let size = if r.is_multiple_of(20) {
        9000
    } else {
        (r >> 5) as usize % 700
    };
    let mut value = vec![0u8; size + 8];
    value[..8].copy_from_slice(&model.counter.to_be_bytes());
    let timestamp = 1000 + (model.counter as i64 ^ 3);
    let count = 1 + (r >> 40) as usize % 3;
    let record = NewRecord {
        timestamp,
        key: None,
        value: Some(&value),
    };
    let bytes = build(&vec![record; count], Writer::default());
    let header = BatchHeader::parse(&bytes).unwrap();
    let facts = Facts {
        header,
        max_timestamp: timestamp,
        log_append_time: false,
        restamp: false,
    };
    (
        NewBatch {
            bytes: Bytes::from(bytes),
            facts,
        },
        value,
    )
}

/// Opens the log and checks it against what the outside knows.
async fn reopen(env: &Env, model: &Shared) -> (SharedLog, Vec<i64>) {
    let mut seen = Vec::new();
    let config = config(env);
    let opened = recover::open(env, Path::new(DIR), config, 0, &mut |h, bytes| {
        assert!(crc_matches(bytes));
        seen.push(h.base_offset);
    })
    .await
    .expect("recovery works");
    assert!(opened.notes.is_empty(), "{:?}", opened.notes);
    let log: SharedLog = Rc::new(RefCell::new(opened.log));
    let (start, end) = (log.borrow().start(), log.borrow().flushed());
    let mut state: Vec<i64> = opened
        .state
        .chunks(8)
        .map(|c| i64::from_be_bytes(c.try_into().unwrap()))
        .collect();
    state.extend(seen);
    {
        let mut model = model.borrow_mut();
        assert!(
            end >= model.acked,
            "acknowledged up to {}, found {end}",
            model.acked
        );
        assert!(start >= model.start, "log start went back to {start}");
        assert!(
            start <= model.start_asked.max(model.start),
            "log start {start}"
        );
        model.start = start;
        let _lost = model.written.split_off(&end);
        let last = model.written.last_key_value().map_or(0, |(_, v)| v.0);
        assert!(
            last == end || end == start,
            "the log ends at {end}, inside a batch"
        );
        let bases: Vec<i64> = model.written.keys().copied().collect();
        assert_eq!(state, bases, "the owner's state is that of the log's end");
        model.acked = end;
    }
    read_all(env, &log, model).await;
    (log, state)
}

async fn bytes_of(env: &Env, offset: i64, part: &Part) -> Vec<u8> {
    match part {
        Part::Bytes(b) => b.to_vec(),
        Part::File { pos, len, .. } => {
            let files = env.list_dir(Path::new(DIR)).await.unwrap();
            let bases = files
                .iter()
                .filter_map(|f| f.name.strip_suffix(".log")?.parse().ok());
            let base: i64 = bases.filter(|b| *b <= offset).max().unwrap();
            let path = Path::new(DIR).join(format!("{base:020}.log"));
            let file = env.open(&path, &OpenOptions::default()).await.unwrap();
            file.read_at(*pos, *len).await.unwrap().to_vec()
        }
    }
}

/// One read as a consumer does it; gives the offset to go on from.
async fn read(env: &Env, log: &SharedLog, model: &Shared, offset: i64, max: usize) -> i64 {
    let plan = loop {
        let planned = log.borrow().plan_read(offset, max, true);
        match planned {
            Planned::Ready(plan) => break plan,
            Planned::OutOfRange => panic!("offset {offset} is in the log"),
            Planned::Prepare(segment) => {
                let interval = log.borrow().config().index_interval;
                segment.prepare(env, interval).await.unwrap();
                log.borrow_mut().note_prepared(&segment);
            }
        }
    };
    let mut bytes = Vec::new();
    for part in &plan.parts {
        bytes.extend(bytes_of(env, offset, part).await);
    }
    assert_eq!(bytes.len(), plan.bytes);
    let (mut at, mut next) = (0, offset);
    while let Ok(h) = BatchHeader::parse(&bytes[at..]) {
        if at + h.size > bytes.len() {
            break;
        }
        let one = &bytes[at..at + h.size];
        assert!(crc_matches(one), "a reader got a bad batch");
        let ranges = records::values(one, &h).unwrap();
        let model = model.borrow();
        if let Some((end, value, _)) = model.written.get(&h.base_offset) {
            assert_eq!(*end, h.next_offset());
            assert!(
                ranges.iter().all(|r| one[r.clone()] == value[..]),
                "another content"
            );
        } else {
            assert!(
                h.base_offset < model.start,
                "nobody wrote offset {}",
                h.base_offset
            );
        }
        next = next.max(h.next_offset());
        at += h.size;
    }
    assert!(
        next > offset,
        "a read at {offset} brought the reader nowhere"
    );
    next
}

async fn read_all(env: &Env, log: &SharedLog, model: &Shared) {
    let (mut at, end) = (log.borrow().start(), log.borrow().flushed());
    while at < end {
        at = read(env, log, model, at, 3000).await;
    }
    assert_eq!(at, end);
}

/// One life of a broker: until it stops cleanly, or something outside ends it.
async fn live(env: Env, model: Shared) {
    let (log, state) = reopen(&env, &model).await;
    let state = Rc::new(RefCell::new(state));
    let flushing = Rc::new(RefCell::new(false));
    for _ in 0..env.random_u64() % 40 {
        match env.random_u64() % 10 {
            0..=5 => append_some(&env, (&log, &state, &flushing), &model),
            6 => {
                let (start, end) = (log.borrow().start(), log.borrow().flushed());
                if end > start {
                    let at = start + (env.random_u64() % (end - start) as u64) as i64;
                    let max = env.random_u64() as usize % 5000;
                    read(&env, &log, &model, at, max).await;
                }
            }
            7 => while log.borrow_mut().drop_tail() > 0 {},
            8 => find_by_time(&env, &log, &model).await,
            _ => delete_some(&env, &log, &model).await,
        }
        if env.random_u64().is_multiple_of(3) {
            env.yield_now().await;
        }
    }
    while *flushing.borrow() {
        env.yield_now().await;
    }
    if env.random_u64().is_multiple_of(2) {
        let state = state
            .borrow()
            .iter()
            .flat_map(|b| b.to_be_bytes())
            .collect();
        flush::close(&env, &log, state).await.expect("close works");
    }
}

fn append_some(env: &Env, (log, state, flushing): Parts<'_>, model: &Shared) {
    for _ in 0..1 + env.random_u64() % 4 {
        let (new, value) = batch(env, &mut model.borrow_mut());
        let snapshot = || {
            state
                .borrow()
                .iter()
                .flat_map(|b| b.to_be_bytes())
                .collect()
        };
        let mut l = log.borrow_mut();
        let header = new.facts.header;
        if l.will_roll(header.size, header.count, 0) {
            l.roll(0);
            l.plan_checkpoint(snapshot());
        } else if l.wants_checkpoint() {
            l.plan_checkpoint(snapshot());
        }
        let time = new.facts.max_timestamp;
        let placed = l.append(new, 0, 0);
        state.borrow_mut().push(placed.base);
        model
            .borrow_mut()
            .written
            .insert(placed.base, (placed.next, value, time));
    }
    if flushing.replace(true) {
        return;
    }
    let (env2, log, model) = (env.clone(), log.clone(), model.clone());
    let flushing = flushing.clone();
    env.spawn(Class::Latency, async move {
        while let Some(done) = flush::flush_once(&env2, &log).await.expect("flush works") {
            assert_eq!(done.next, log.borrow().flushed());
            model.borrow_mut().acked = done.next;
        }
        *flushing.borrow_mut() = false;
    })
    .detach();
}

async fn find_by_time(env: &Env, log: &SharedLog, model: &Shared) {
    let (start, end) = (log.borrow().start(), log.borrow().flushed());
    let wanted = 1000 + (env.random_u64() % (model.borrow().counter + 3)) as i64;
    let inside: Vec<(i64, i64, i64)> = {
        let m = model.borrow();
        m.written
            .range(..end)
            .map(|(b, (n, _, t))| (*b, *n, *t))
            .filter(|x| x.1 > start)
            .collect()
    };
    let found = lookup::at_or_after(env, log, wanted)
        .await
        .expect("look-up works");
    let first = inside.iter().find(|x| x.2 >= wanted);
    // Appends go on meanwhile: what is found later than what was there is right as well.
    if let Some((base, _, t)) = first {
        // The first record of a batch may lie before the log start.
        if *base >= start && log.borrow().start() == start {
            assert_eq!(
                found,
                Some((*base, *t)),
                "first record at or after {wanted}"
            );
        }
    }
    if log.borrow().flushed() == end {
        let latest = lookup::latest(env, log).await.expect("look-up works");
        let max = inside.iter().map(|x| x.2).max();
        if log.borrow().flushed() == end && inside.iter().all(|x| x.0 >= start) {
            assert_eq!(latest.map(|l| l.1), max, "the greatest timestamp");
        }
    }
}

async fn delete_some(env: &Env, log: &SharedLog, model: &Shared) {
    let (start, end) = (log.borrow().start(), log.borrow().flushed());
    if end > start && env.random_u64().is_multiple_of(3) {
        let to = start + (env.random_u64() % (end - start + 1) as u64) as i64;
        model.borrow_mut().start_asked = to;
        let got = retain::delete_before(env, log, to)
            .await
            .expect("delete works");
        assert_eq!(got, to);
        model.borrow_mut().start = to;
    }
}

fn run(seed: u64) {
    let model = Shared::default();
    let mut sim = Sim::new(seed, SimOptions::default());
    for _ in 0..6 {
        let m = model.clone();
        if sim.run_until_crash(move |env| live(env, m)).is_none() {
            sim.power_cut();
        }
    }
    sim.run(move |env| async move {
        reopen(&env, &model).await;
    });
}

#[test]
fn acknowledged_is_never_lost() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|s: String| s.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = number("STREAMD_SEED") {
        return run(seed);
    }
    for seed in 0..number("STREAMD_SEEDS").unwrap_or(300) {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("seed {seed} failed; STREAMD_SEED={seed} runs it alone");
        }
    }
}
