//! Logs of replicas that share a journal, on the simulated disk: batches that are stamped and
//! batches that have their offsets and epochs, cuts of the end, resets, rolls, checkpoints, a high
//! watermark, write-backs; crashes and power cuts at any await. After each, what was durable and
//! not cut is there, with its bytes, offsets and epochs, and nothing that was cut is.
//!
//! `STREAMD_SEEDS=10000 cargo test --release -p streamd-log --test cuts` runs that many seeds. A
//! failing run prints its seed; `STREAMD_SEED=n` runs that one alone.

#[path = "common/drain.rs"]
mod drain;
#[path = "common/push.rs"]
mod push;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::sim::{Sim, SimOptions, each_seed};
use streamd_io::{Class, Env};
use streamd_log::batch::{NewRecord, Writer, build, crc_matches, stamp};
use streamd_log::checkpoint::{self, Checkpoint};
use streamd_log::journal::{Group, Journal, JournalFile, JournalOptions, replay};
use streamd_log::log::SharedLog;
use streamd_log::write_back;
use streamd_log::{BatchHeader, LogConfig, NewBatch, cut, lookup, recover, retain};

const DATA: &str = "/data";
const LOGS: usize = 3;

/// What was asked for and may or may not have been done when all ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Cut(i64),
    Reset(i64),
}

/// What the outside knows of a log.
#[derive(Default)]
struct Model {
    /// Every batch that is in the log, or may be: base → (next, bytes).
    batches: BTreeMap<i64, (i64, Bytes)>,
    /// Everything below is durable.
    durable: i64,
    start: i64,
    start_asked: i64,
    asked: Option<Asked>,
    /// The high watermark that was told last; `None`: this log's owner tells none.
    high: Option<i64>,
    /// The one that must be stored.
    stored: Option<i64>,
    epoch: i32,
    counter: u64,
    cuts: u64,
    resets: u64,
}

impl Model {
    fn end(&self) -> i64 {
        self.batches.last_key_value().map_or(self.start, |b| b.1.0)
    }

    fn cut(&mut self, to: i64) {
        self.batches.split_off(&to);
        self.durable = self.durable.min(to);
    }

    fn reset(&mut self, start: i64) {
        self.batches.clear();
        (self.durable, self.start, self.start_asked) = (start, start, start);
        self.high = Some(start);
        self.stored = self.high;
    }

    /// All the places where a cut may be.
    fn boundaries(&self) -> Vec<i64> {
        let least = self.start.max(self.high.unwrap_or(0));
        let inside = self.batches.keys().copied();
        inside.chain([self.end()]).filter(|&b| b >= least).collect()
    }
}

type Shared = Rc<RefCell<Model>>;

struct One {
    log: SharedLog,
    model: Shared,
    /// The base offsets that its owner knows.
    state: RefCell<Vec<i64>>,
    cutting: Cell<bool>,
}

/// A broker from its start to its end.
struct Life {
    env: Env,
    logs: Vec<One>,
    journal: Journal,
    writing: Cell<bool>,
    draining: Cell<bool>,
    cuts: Cell<usize>,
}

fn dir_of(i: usize) -> PathBuf {
    Path::new(DATA).join(format!("topic-{i}"))
}

fn config(env: &Env) -> LogConfig {
    let r = env.random_u64();
    LogConfig {
        segment_bytes: 4096 << (r % 5),
        index_interval: [0, 200, 4096][(r >> 8) as usize % 3],
        checkpoint_bytes: 2000 << ((r >> 16) % 4),
        metadata: "version: 0\n".into(),
        ..LogConfig::default()
    }
}

fn batch(env: &Env, model: &mut Model) -> Vec<u8> {
    model.counter += 1;
    let r = env.random_u64();
    let size = match r % 20 {
        0 => 9000,
        1 => 30_000,
        _ => (r >> 5) as usize % 700,
    };
    // No two batches are alike, so nothing that was cut passes for what came in its place.
    let mut value = vec![0u8; size + 8];
    value[..8].copy_from_slice(&model.counter.to_be_bytes());
    let record = NewRecord {
        timestamp: 1000 + (model.counter as i64 ^ 3),
        key: None,
        value: Some(&value),
    };
    let count = 1 + (r >> 40) as usize % 3;
    build(&vec![record; count], Writer::default())
}

fn bytes_of(state: &[i64]) -> Vec<u8> {
    state.iter().flat_map(|b| b.to_be_bytes()).collect()
}

fn bases_of(bytes: &[u8]) -> Vec<i64> {
    let one = |c: &[u8]| i64::from_be_bytes(c.try_into().unwrap());
    bytes.chunks(8).map(one).collect()
}

/// Opens the log and checks it against what the outside knows.
async fn reopen(env: &Env, dir: &Path, model: &Shared) -> (SharedLog, Vec<i64>) {
    let mut seen = Vec::new();
    let mut visit = |h: &BatchHeader, bytes: &[u8]| {
        assert!(crc_matches(bytes));
        seen.push(h.base_offset);
    };
    let opened = recover::open(env, dir, config(env), 0, &mut visit).await;
    let opened = opened.expect("recovery works");
    assert!(opened.notes.is_empty(), "{:?}", opened.notes);
    let log: SharedLog = Rc::new(RefCell::new(opened.log));
    let mut state = bases_of(&opened.state);
    state.extend(seen);
    resolve(&log, &mut model.borrow_mut());
    check(env, &log, model, &state).await;
    (log, state)
}

/// Finds out what became of what was under way.
fn resolve(log: &SharedLog, model: &mut Model) {
    let log = log.borrow();
    let (start, end) = (log.start(), log.flushed());
    let asked = model.asked.take();
    match asked {
        Some(Asked::Cut(to)) if end == to => model.cut(to),
        Some(Asked::Reset(to)) if (start, end) == (to, to) => model.reset(to),
        // It was not decided.
        _ => {}
    }
    assert!(
        end >= model.durable,
        "durable up to {}, found {end}",
        model.durable
    );
    assert!(
        start >= model.start && start <= model.start_asked.max(model.start),
        "log start {start} of {end}, told {}, asked for {}; {asked:?}",
        model.start,
        model.start_asked
    );
    (model.start, model.start_asked) = (start, start);
    let _lost = model.batches.split_off(&end);
    assert!(model.end() == end, "ends at {end}, not at {}", model.end());
    model.durable = end;
    let high = log.high();
    assert!(high <= model.high, "high {high:?}, told {:?}", model.high);
    assert!(high >= model.stored.filter(|_| log.has_dir()).map(|h| h.max(start)));
    model.high = model.high.map(|_| high.unwrap_or(start));
    model.stored = high;
}

/// The log is what the outside takes it for: nothing is under way.
async fn check(env: &Env, log: &SharedLog, model: &Shared, state: &[i64]) {
    let (start, end) = (log.borrow().start(), log.borrow().flushed());
    let mut at = start;
    while at < end {
        at = read(env, log, model, at).await;
    }
    assert_eq!(at, end);
    let model = model.borrow();
    assert_eq!((model.start, model.end()), (start, log.borrow().end()));
    let known = |b: &&i64| **b >= start;
    let bases: Vec<i64> = model.batches.keys().filter(known).copied().collect();
    let state: Vec<i64> = state.iter().filter(known).copied().collect();
    assert_eq!(state, bases, "the owner's state is that of the log's end");
    let epochs = log.borrow().epochs().to_vec();
    let mut begun = Vec::new();
    for (base, (_, bytes)) in model.batches.range(start..) {
        let epoch = BatchHeader::parse(bytes).unwrap().epoch;
        let entry = epochs.iter().rev().find(|e| e.1 <= *base);
        assert_eq!(entry.map(|e| e.0), Some(epoch), "at {base} of {epochs:?}");
        begun.push((epoch, *base));
    }
    for entry in epochs.iter().filter(|e| e.1 > start) {
        assert!(
            begun.contains(entry),
            "{entry:?} of {epochs:?}, {start} to {end}"
        );
    }
}

/// One read as of a leader for a follower; gives the offset to go on from.
async fn read(env: &Env, log: &SharedLog, model: &Shared, offset: i64) -> i64 {
    let max = env.random_u64() as usize % 6000;
    let cuts = model.borrow().cuts + model.borrow().resets;
    let push = push::push(env, log, (offset, max)).await.unwrap();
    let model = model.borrow();
    // What is cut while it is read may or may not have been there.
    let was_cut = model.asked.is_some() || model.cuts + model.resets > cuts;
    let push = match push {
        Some(push) if push.bytes > 0 => push,
        other => {
            let deleted = log.borrow().start() > offset;
            assert!(
                was_cut || deleted,
                "a reader stands still at {offset}: {other:?}"
            );
            return offset;
        }
    };
    let mut next = offset;
    for part in &push.parts {
        let mut at = 0;
        while at < part.len() {
            let header = BatchHeader::parse(&part[at..]).unwrap();
            let first = next == offset && header.base_offset <= offset;
            assert!(first || header.base_offset == next, "a hole at {next}");
            assert!(header.next_offset() > offset, "begins too early");
            if let Some((_, bytes)) = model.batches.get(&header.base_offset) {
                assert_eq!(bytes[..], part[at..at + header.size], "at {next}");
            } else {
                assert!(header.base_offset < model.start || was_cut);
            }
            next = header.next_offset();
            at += header.size;
        }
        assert_eq!(at, part.len(), "whole batches");
    }
    assert_eq!(next, push.next);
    next
}

async fn read_some(env: &Env, one: &One) {
    let (start, end) = (one.log.borrow().start(), one.log.borrow().flushed());
    if end > start {
        let at = start + (env.random_u64() % (end - start) as u64) as i64;
        read(env, &one.log, &one.model, at).await;
    }
}

/// Rolls and plans checkpoints as work behind the scenes does, whatever else goes on.
fn roll_some(env: &Env, one: &One) {
    let mut log = one.log.borrow_mut();
    let all = retain::Retention {
        ms: None,
        bytes: Some(0),
    };
    if env.random_u64().is_multiple_of(2) && retain::wants_roll(&log, all, 0) {
        log.roll(0);
    }
    if log.checkpoint_lags() {
        log.plan_checkpoint(bytes_of(&one.state.borrow()));
    }
}

async fn live(env: Env, models: Rc<Vec<Shared>>) {
    let life = Rc::new(start(&env, &models).await);
    for _ in 0..env.random_u64() % 50 {
        let i = env.random_u64() as usize % LOGS;
        let one = &life.logs[i];
        match env.random_u64() % 16 {
            0..=3 if !one.cutting.get() => append_stamped(&life, i).await,
            4..=6 if !one.cutting.get() => append_kept(&life, i).await,
            7 | 8 if !one.cutting.get() => cut_some(&life, i),
            9 => read_some(&env, one).await,
            10 => {
                let all = one.log.borrow().flushed();
                one.log.borrow_mut().drop_tail(all);
            }
            11 => tell_high(&env, one).await,
            12 if life.writing.get() => drain(&life, None),
            12 => drain(&life, life.journal.close_current()),
            13 => delete_some(&env, one).await,
            14 => {
                let found = lookup::latest(&env, &one.log).await.unwrap();
                assert!(found.is_none_or(|f| f.0 < one.log.borrow().end().max(1)));
            }
            15 => roll_some(&env, one),
            _ => {}
        }
        if env.random_u64().is_multiple_of(3) {
            env.yield_now().await;
        }
    }
    while life.writing.get() || life.draining.get() || life.cuts.get() > 0 {
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
    let shard = env.random_u64() as usize % shards;
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let journal = Journal::open(env, Path::new(DATA), shard, options).await;
    let mut logs = Vec::new();
    for (i, model) in models.iter().enumerate() {
        let (log, state) = reopen(env, &dir_of(i), model).await;
        let path = dir_of(i).join(checkpoint::FILE);
        if let Ok(bytes) = env.read_file(&path, 1 << 20).await {
            let c = Checkpoint::decode(&bytes).unwrap();
            let fits = c.high.is_none_or(|high| c.next <= high);
            assert!(fits || model.borrow().high.is_none(), "{c:?}");
        }
        // From the first moment on: no checkpoint may lie behind it.
        if let Some(high) = model.borrow().high {
            log.borrow_mut().set_high(high);
        }
        logs.push(One {
            log,
            model: model.clone(),
            state: RefCell::new(state),
            cutting: Cell::new(false),
        });
    }
    Life {
        env: env.clone(),
        logs,
        journal: journal.expect("the journal opens"),
        writing: Cell::new(false),
        draining: Cell::new(false),
        cuts: Cell::new(0),
    }
}

async fn stop(life: &Rc<Life>) {
    let file = life.journal.close_current();
    for one in &life.logs {
        let state = bytes_of(&one.state.take());
        let closed = write_back::close(&life.env, &one.log, state).await;
        closed.expect("close works");
        let mut model = one.model.borrow_mut();
        let log = one.log.borrow();
        model.stored = log.high().filter(|_| log.segment_count() > 0);
    }
    if let Some(file) = file {
        life.journal.release(&file);
    }
    life.journal.close().await.expect("the journal closes");
}

/// Rolls and plans checkpoints as the owner of a log does before an append.
fn make_ready(one: &One, header: &BatchHeader) {
    let snapshot = bytes_of(&one.state.borrow());
    let mut log = one.log.borrow_mut();
    if log.will_roll(header.size, header.count, 0) {
        log.roll(0);
        log.plan_checkpoint(snapshot);
    } else if log.wants_checkpoint() {
        log.plan_checkpoint(snapshot);
    }
}

fn note(one: &One, base: i64, next: i64, bytes: Bytes) {
    one.state.borrow_mut().push(base);
    one.model.borrow_mut().batches.insert(base, (next, bytes));
}

async fn append_stamped(life: &Rc<Life>, i: usize) {
    let one = &life.logs[i];
    let made = write_back::make_dir(&life.env, &one.log).await;
    made.expect("a directory is made");
    for _ in 0..1 + life.env.random_u64() % 4 {
        let mut bytes = batch(&life.env, &mut one.model.borrow_mut());
        let time = BatchHeader::parse(&bytes).unwrap().max_timestamp;
        let new = NewBatch::own(bytes.clone(), time).unwrap();
        make_ready(one, &new.facts.header);
        let epoch = one.model.borrow().epoch;
        let placed = one.log.borrow_mut().append(new, epoch, 0);
        stamp(&mut bytes, placed.base, epoch);
        note(one, placed.base, placed.next, bytes.into());
    }
    kick(life);
}

async fn append_kept(life: &Rc<Life>, i: usize) {
    let one = &life.logs[i];
    let made = write_back::make_dir(&life.env, &one.log).await;
    made.expect("a directory is made");
    let (mut all, mut end) = (Vec::new(), one.log.borrow().end());
    for _ in 0..1 + life.env.random_u64() % 4 {
        let mut model = one.model.borrow_mut();
        let mut bytes = batch(&life.env, &mut model);
        model.epoch += i32::from(life.env.random_u64().is_multiple_of(4));
        stamp(&mut bytes, end, model.epoch);
        end = BatchHeader::parse(&bytes).unwrap().next_offset();
        all.extend(bytes);
    }
    let batches = one.log.borrow().check_kept(&all.into());
    for new in batches.expect("they follow") {
        make_ready(one, &new.facts.header);
        let bytes = new.bytes.clone();
        let placed = one.log.borrow_mut().append_kept(new, 0);
        let placed = placed.expect("it follows");
        note(one, placed.base, placed.next, bytes);
    }
    kick(life);
}

fn kick(life: &Rc<Life>) {
    if !life.writing.replace(true) {
        let life2 = life.clone();
        let write = async move { write(&life2).await };
        life.env.spawn(Class::Latency, write).detach();
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
            let mut model = one.model.borrow_mut();
            match model.asked {
                Some(Asked::Cut(to)) => assert!(flushed.next <= to, "past the cut"),
                Some(Asked::Reset(_)) => assert_eq!(flushed.bytes, 0, "past the reset"),
                // What was durable before an unfinished cut may still be wanted.
                None => model.durable = flushed.next,
            }
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

async fn tell_high(env: &Env, one: &One) {
    let told = set_high(env, one);
    if told.is_some() && env.random_u64().is_multiple_of(3) {
        let resets = one.model.borrow().resets;
        let stored = write_back::store_high(env, &one.log).await;
        stored.expect("a high watermark is stored");
        let mut model = one.model.borrow_mut();
        if model.resets == resets {
            model.stored = model.stored.max(told);
        }
    }
}

fn set_high(env: &Env, one: &One) -> Option<i64> {
    let mut model = one.model.borrow_mut();
    let flushed = one.log.borrow().flushed();
    if let Some(high) = model.high.filter(|&h| h < flushed && !one.cutting.get()) {
        let high = high + 1 + (env.random_u64() % (flushed - high) as u64) as i64;
        // As far as a batch: that is what replicas have in common.
        let at = model.batches.range(..high).next_back();
        let high = at.map_or(high, |(_, (next, _))| (*next).min(flushed));
        one.log.borrow_mut().set_high(high);
        assert_eq!(one.log.borrow().high(), Some(high));
        model.high = Some(high);
        return model.high;
    }
    None
}

async fn delete_some(env: &Env, one: &One) {
    let (start, end) = (one.log.borrow().start(), one.log.borrow().flushed());
    let high = one.model.borrow().high;
    let end = end.min(high.unwrap_or(end));
    // When the cut is done what is there is compared.
    if one.cutting.get() && (high.is_none() || !one.log.borrow().is_cutting()) {
        return;
    }
    if end > start && env.random_u64().is_multiple_of(3) {
        let to = start + (env.random_u64() % (end - start + 1) as u64) as i64;
        one.model.borrow_mut().start_asked = to;
        let got = retain::delete_before(env, &one.log, to).await;
        assert_eq!(got.expect("delete works"), to);
        let mut model = one.model.borrow_mut();
        model.start = model.start.max(to);
    }
}

/// Cuts the log, or resets it, while all else goes on.
fn cut_some(life: &Rc<Life>, i: usize) {
    let one = &life.logs[i];
    let r = life.env.random_u64();
    let mut model = one.model.borrow_mut();
    let places = model.boundaries();
    if places.is_empty() {
        return;
    }
    // Mostly near the end.
    let back = (r >> 8) as usize % places.len();
    let back = if r.is_multiple_of(4) { back } else { back % 4 };
    let asked = match r % 9 {
        0 if i < LOGS - 1 => Asked::Reset(model.end() + 1 + (r >> 32) as i64 % 50),
        _ => Asked::Cut(places[places.len() - 1 - back]),
    };
    if r.is_multiple_of(5) {
        refuse(one, &model);
    }
    // What a leader of a later epoch wants.
    model.epoch += 1;
    drop(model);
    one.cutting.set(true);
    life.cuts.set(life.cuts.get() + 1);
    let life2 = life.clone();
    let cut = async move { cut(&life2, i, asked).await };
    life.env.spawn(Class::Latency, cut).detach();
    let life = life.clone();
    let env = life.env.clone();
    let look_on = async move {
        while life.logs[i].cutting.get() {
            if life.env.random_u64().is_multiple_of(3) {
                roll_some(&life.env, &life.logs[i]);
            }
            read_some(&life.env, &life.logs[i]).await;
            life.env.yield_now().await;
        }
    };
    env.spawn(Class::Background, look_on).detach();
}

/// What does not fit is refused, and changes nothing.
fn refuse(one: &One, model: &Model) {
    let log = &one.log;
    let mut odd = build(&[NewRecord::default()], Writer::default());
    let try_it = |bytes: &[u8]| {
        let end = log.borrow().end();
        assert!(log.borrow().check_kept(&bytes.to_vec().into()).is_err());
        assert_eq!(log.borrow().end(), end);
    };
    stamp(&mut odd, model.end() + 1, model.epoch);
    try_it(&odd);
    if let Some(&(last, _)) = log.borrow().epochs().last()
        && last > 0
    {
        stamp(&mut odd, model.end(), last - 1);
        try_it(&odd);
    }
    stamp(&mut odd, model.end(), model.epoch);
    try_it(&odd[..odd.len() - 1]);
    *odd.last_mut().unwrap() ^= 1;
    try_it(&odd);
}

async fn cut(life: &Rc<Life>, i: usize, asked: Asked) {
    let one = &life.logs[i];
    let env = &life.env;
    one.model.borrow_mut().asked = Some(asked);
    match asked {
        Asked::Cut(to) => {
            let mut seen = Vec::new();
            let mut visit = |h: &BatchHeader, _: &[u8]| seen.push(h.base_offset);
            let done = cut::truncate(env, &one.log, to, 0, &mut visit).await;
            if let Some(done) = done.expect("a cut works") {
                assert!(done.notes.is_empty(), "{:?}", done.notes);
                let mut state = bases_of(&done.state);
                state.extend(seen);
                *one.state.borrow_mut() = state;
            }
            one.model.borrow_mut().cut(to);
            one.model.borrow_mut().cuts += 1;
        }
        Asked::Reset(to) => {
            let done = cut::reset(env, &one.log, to, 0).await;
            done.expect("a reset works");
            one.state.borrow_mut().clear();
            one.model.borrow_mut().reset(to);
            one.model.borrow_mut().resets += 1;
            assert_eq!(one.log.borrow().high(), Some(to));
        }
    }
    {
        let mut model = one.model.borrow_mut();
        model.asked = None;
        model.durable = model.durable.max(one.log.borrow().flushed());
    }
    assert!(!one.log.borrow().is_cutting());
    let state = one.state.borrow().clone();
    let deletes = one.model.borrow().start_asked != one.model.borrow().start;
    if one.log.borrow().flushed() == one.log.borrow().end() && !deletes {
        check(env, &one.log, &one.model, &state).await;
    }
    one.cutting.set(false);
    life.cuts.set(life.cuts.get() - 1);
}

fn run(seed: u64) -> (u64, u64) {
    let model = |i: usize| {
        // One log's owner tells a high watermark, another's after a reset, the last one's never.
        let high = (i == 0).then_some(0);
        Rc::new(RefCell::new(Model {
            high,
            ..Model::default()
        }))
    };
    let models: Rc<Vec<Shared>> = Rc::new((0..LOGS).map(model).collect());
    let mut sim = Sim::new(seed, SimOptions::default());
    for _ in 0..6 {
        let m = models.clone();
        if sim.run_until_crash(move |env| live(env, m)).is_none() {
            sim.power_cut();
        }
    }
    let m = models.clone();
    sim.run(move |env| async move {
        start(&env, &m).await;
    });
    let sum = |of: fn(&Model) -> u64| models.iter().map(|m| of(&m.borrow())).sum();
    (sum(|m| m.cuts), sum(|m| m.resets))
}

#[test]
fn what_was_cut_never_comes_back_and_what_was_not_is_there() {
    let Some(done) = each_seed(300, run) else {
        return;
    };
    let cuts: u64 = done.iter().map(|d| d.0).sum();
    let resets: u64 = done.iter().map(|d| d.1).sum();
    let enough = cuts > done.len() as u64 && resets > done.len() as u64 / 20;
    assert!(enough || done.len() < 100, "{cuts} cuts, {resets} resets");
}
