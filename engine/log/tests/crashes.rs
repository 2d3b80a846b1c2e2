//! Logs that share a journal, on the simulated disk: random appends, reads, rolls and deletions,
//! crashes at any await (also of the replay and the recovery), unsynced writes lost, blocks torn;
//! after each the logs must hold what was acknowledged, at the offsets that were acknowledged, and
//! nothing that was never written.
//!
//! `STREAMD_SEEDS=10000 cargo test --release -p streamd-log --test crashes` runs that many seeds.
//! A failing run prints its seed; `STREAMD_SEED=n` runs that one alone.

#[path = "common/drain.rs"]
mod drain;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use streamd_io::local::Budget;
use streamd_io::sim::{Sim, SimOptions, each_seed};
use streamd_io::{Class, Env, OpenOptions, Part};
use streamd_log::batch::{NewRecord, Writer, build, crc_matches};
use streamd_log::journal::{Group, Journal, JournalFile, JournalOptions, replay};
use streamd_log::log::SharedLog;
use streamd_log::{
    BatchHeader, LogConfig, NewBatch, Planned, lookup, records, recover, retain, write_back,
};

const DATA: &str = "/data";
const LOGS: usize = 3;

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

/// One of the logs.
struct One {
    dir: PathBuf,
    log: SharedLog,
    model: Shared,
    /// The base offsets that its owner knows.
    state: RefCell<Vec<i64>>,
}

/// A broker from its start to its end.
struct Life {
    env: Env,
    logs: Vec<One>,
    journal: Journal,
    writing: Cell<bool>,
    draining: Cell<bool>,
}

fn dir_of(i: usize) -> PathBuf {
    Path::new(DATA).join(format!("topic-{i}"))
}

fn config(env: &Env) -> LogConfig {
    let r = env.random_u64();
    LogConfig {
        segment_bytes: 4096 << (r % 6),
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
    } else if r.is_multiple_of(21) {
        40_000
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
    (NewBatch::own(bytes, timestamp).unwrap(), value)
}

/// Opens the log and checks it against what the outside knows.
async fn reopen(env: &Env, dir: &Path, model: &Shared) -> (SharedLog, Vec<i64>) {
    let mut seen = Vec::new();
    let config = config(env);
    let opened = recover::open(env, dir, config, 0, &mut |h, bytes| {
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

async fn bytes_of(env: &Env, dir: &Path, offset: i64, part: &Part) -> Vec<u8> {
    match part {
        Part::Bytes(b) => b.to_vec(),
        Part::File { pos, len, .. } => {
            let files = env.list_dir(dir).await.unwrap();
            let bases = files
                .iter()
                .filter_map(|f| f.name.strip_suffix(".log")?.parse().ok());
            let base: i64 = bases.filter(|b| *b <= offset).max().unwrap();
            let path = dir.join(format!("{base:020}.log"));
            let file = env.open(&path, &OpenOptions::default()).await.unwrap();
            file.read_at(*pos, *len).await.unwrap().to_vec()
        }
    }
}

/// One read as a consumer does it; gives the offset to go on from.
async fn read(env: &Env, log: &SharedLog, model: &Shared, offset: i64, max: usize) -> i64 {
    let dir = log.borrow().dir().to_owned();
    // Now and then only up to a batch, as those do who read what is committed.
    let limit = {
        let model = model.borrow();
        let flushed = log.borrow().flushed();
        let bases = model
            .written
            .range(offset + 1..flushed)
            .map(|(base, _)| *base);
        let bases: Vec<i64> = bases.collect();
        match env.random_u64() as usize {
            n if n % 2 == 0 && !bases.is_empty() => bases[(n / 2) % bases.len()],
            _ => flushed,
        }
    };
    let plan = loop {
        let planned = log.borrow().plan_read_below(offset, limit, max, true);
        match planned {
            Planned::Locate(segment) => {
                lookup::locate(env, log, &segment, limit).await.unwrap();
            }
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
        bytes.extend(bytes_of(env, &dir, offset, part).await);
    }
    assert_eq!(bytes.len(), plan.bytes);
    assert!(plan.bytes > 0 || offset >= limit, "a reader stands still");
    let (mut at, mut next) = (0, offset);
    while let Ok(h) = BatchHeader::parse(&bytes[at..]) {
        if at + h.size > bytes.len() {
            assert!(
                h.base_offset < limit,
                "the beginning of what is beyond the limit"
            );
            break;
        }
        let one = &bytes[at..at + h.size];
        assert!(crc_matches(one), "a reader got a bad batch");
        assert!(h.base_offset < limit, "beyond the limit");
        assert!(h.next_offset() <= plan.next, "behind the plan's end");
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
async fn live(env: Env, models: Rc<Vec<Shared>>) {
    let life = Rc::new(start(&env, &models).await);
    for _ in 0..env.random_u64() % 40 {
        let one = &life.logs[env.random_u64() as usize % LOGS];
        let (log, model) = (&one.log, &one.model);
        match env.random_u64() % 11 {
            0..=5 => append_some(&life, one).await,
            6 => {
                let (start, end) = (log.borrow().start(), log.borrow().flushed());
                if end > start {
                    let at = start + (env.random_u64() % (end - start) as u64) as i64;
                    let max = env.random_u64() as usize % 5000;
                    read(&env, log, model, at, max).await;
                }
            }
            7 => {
                let all = log.borrow().flushed();
                log.borrow_mut().drop_tail(all);
            }
            8 => find_by_time(&env, log, model).await,
            9 if life.writing.get() => drain(&life, None),
            9 => drain(&life, life.journal.close_current()),
            _ => delete_some(&env, log, model).await,
        }
        if env.random_u64().is_multiple_of(3) {
            env.yield_now().await;
        }
    }
    while life.writing.get() || life.draining.get() {
        env.yield_now().await;
    }
    if env.random_u64().is_multiple_of(2) {
        stop(&life).await;
    }
}

async fn start(env: &Env, models: &[Shared]) -> Life {
    let shards = 1 + env.random_u64() as usize % 2;
    let replayed = replay::replay(env, Path::new(DATA), |_| true, |s| s < shards).await;
    replayed.expect("replay works");
    let options = JournalOptions {
        file_bytes: 8192 << (env.random_u64() % 4),
        files_max: 2 + env.random_u64() as usize % 2,
        durable: true,
    };
    // Sometimes another shard's: then the files of the last life are gone.
    let shard = env.random_u64() as usize % shards;
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let journal = Journal::open(env, Path::new(DATA), shard, options).await;
    let mut logs = Vec::new();
    for (i, model) in models.iter().enumerate() {
        let dir = dir_of(i);
        let (log, state) = reopen(env, &dir, model).await;
        logs.push(One {
            dir,
            log,
            model: model.clone(),
            state: RefCell::new(state),
        });
    }
    Life {
        env: env.clone(),
        logs,
        journal: journal.expect("the journal opens"),
        writing: Cell::new(false),
        draining: Cell::new(false),
    }
}

async fn stop(life: &Rc<Life>) {
    let file = life.journal.close_current();
    let together = life.env.random_u64().is_multiple_of(2);
    let mut files = Vec::new();
    for one in &life.logs {
        assert_eq!(one.dir, one.log.borrow().dir());
        let state = one.state.take();
        let state = state.iter().flat_map(|b| b.to_be_bytes()).collect();
        if together {
            let room = Budget::new(10_000);
            let written = write_back::write_back(&life.env, &one.log, &room, false).await;
            written.expect("write back works");
            let settled = write_back::settle(&life.env, &one.log).await;
            settled.expect("settling works");
            let rescan_max = life.env.random_u64() % 10_000;
            let ended = write_back::end(&life.env, &one.log, (state, rescan_max)).await;
            files.extend(
                ended
                    .expect("the end works")
                    .map_or(Vec::new(), |e| e.files),
            );
        } else {
            let closed = write_back::close(&life.env, &one.log, state).await;
            closed.expect("close works");
        }
    }
    let all = life
        .env
        .file_system(Path::new(DATA))
        .await
        .expect("a file system");
    let replaced = all.replace_files(files).await;
    replaced.expect("files are replaced");
    if let Some(file) = file {
        life.journal.release(&file);
    }
    life.journal.close().await.expect("the journal closes");
}

async fn append_some(life: &Rc<Life>, one: &One) {
    let made = write_back::make_dir(&life.env, &one.log).await;
    made.expect("a directory is made");
    for _ in 0..1 + life.env.random_u64() % 4 {
        let (new, value) = batch(&life.env, &mut one.model.borrow_mut());
        let mut state = one.state.borrow_mut();
        let snapshot: Vec<u8> = state.iter().flat_map(|b| b.to_be_bytes()).collect();
        let mut l = one.log.borrow_mut();
        let header = new.facts.header;
        if l.will_roll(header.size, header.count, 0) {
            l.roll(0);
            l.plan_checkpoint(snapshot);
        } else if l.wants_checkpoint() {
            l.plan_checkpoint(snapshot);
        }
        let time = new.facts.max_timestamp;
        let placed = l.append(new, 0, 0);
        state.push(placed.base);
        let mut model = one.model.borrow_mut();
        model
            .written
            .insert(placed.base, (placed.next, value, time));
    }
    if !life.writing.replace(true) {
        let life2 = life.clone();
        life.env
            .spawn(Class::Latency, async move { write(&life2).await })
            .detach();
    }
}

async fn write(life: &Rc<Life>) {
    loop {
        let mut group = Group::default();
        let mut taken = Vec::new();
        for one in &life.logs {
            let before = group.logs();
            group.take(&one.log);
            if group.logs() > before {
                taken.push(one);
            }
        }
        if group.is_empty() {
            break;
        }
        if !life.journal.has_room(group.len()) {
            drain(life, life.journal.close_current());
        }
        let flushed = life.journal.write(group).await.expect("a group is written");
        assert_eq!(flushed.len(), taken.len());
        for (one, flushed) in taken.iter().zip(flushed) {
            assert_eq!(flushed.next, one.log.borrow().flushed());
            one.model.borrow_mut().acked = flushed.next;
        }
    }
    life.writing.set(false);
}

/// Sends what the journal holds to the segments; then `file` is free.
fn drain(life: &Rc<Life>, file: Option<Rc<JournalFile>>) {
    let (env, life) = (life.env.clone(), life.clone());
    let drain = async move {
        let logs: Vec<SharedLog> = life.logs.iter().map(|one| one.log.clone()).collect();
        drain::drain(&life.env, Path::new(DATA), &logs, &life.draining).await;
        if let Some(file) = file {
            life.journal.release(&file);
        }
    };
    env.spawn(Class::Background, drain).detach();
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
    let models: Rc<Vec<Shared>> = Rc::new((0..LOGS).map(|_| Shared::default()).collect());
    let mut sim = Sim::new(seed, SimOptions::default());
    for _ in 0..6 {
        let m = models.clone();
        if sim.run_until_crash(move |env| live(env, m)).is_none() {
            sim.power_cut();
        }
    }
    sim.run(move |env| async move {
        start(&env, &models).await;
    });
}

#[test]
fn acknowledged_is_never_lost() {
    each_seed(300, run);
}
