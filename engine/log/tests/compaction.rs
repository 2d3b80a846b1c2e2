//! A compacted log on the simulated disk: random appends with few keys, tombstones and every codec,
//! in transactions and not; rolls, compactions, deletions and reads beside them; crashes at any
//! await, unsynced writes lost, blocks torn. After each start, and in between: the last value of
//! each key is there, offsets and order are those of the appends, nothing is gone that had to stay.
//!
//! `STREAMD_SEEDS=10000 cargo test --release -p streamd-log --test compaction` runs that many
//! seeds. A failing run prints its seed; `STREAMD_SEED=n` runs that one alone.

#[path = "common/push.rs"]
mod push;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use streamd_io::local::Budget;
use streamd_io::sim::{Sim, SimOptions, each_seed};
use streamd_io::{Class, Env, OpenOptions, Part};
use streamd_log::batch::{HEADER, NewRecord, Writer, build, crc_matches, restamp_time};
use streamd_log::compact::filter::Aborted;
use streamd_log::compact::{self, Order, Pace, Rules};
use streamd_log::journal::{Group, Journal, JournalOptions, replay};
use streamd_log::log::SharedLog;
use streamd_log::pack::Pack;
use streamd_log::record_view::BatchView;
use streamd_log::{
    BatchHeader, Codec, Log, LogConfig, NewBatch, Planned, lookup, recover, retain, write_back,
};

const DATA: &str = "/data";
/// Producers from here on write in transactions.
const FIRST_TXN: i64 = 3;
const CODECS: [Codec; 5] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd,
];

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    timestamp: i64,
}

/// What the outside knows of the log.
#[derive(Default)]
struct Model {
    /// Every record whose append began and that may have become durable.
    written: BTreeMap<i64, Record>,
    /// Last offset of a batch → its producer and codec.
    batches: BTreeMap<i64, (i64, Codec)>,
    /// Transactional records by their producers, whatever became of them.
    in_txn: BTreeMap<i64, i64>,
    /// Markers: producer, and whether it committed.
    markers: BTreeMap<i64, (i64, bool)>,
    acked: i64,
    start: i64,
    start_asked: i64,
    /// Compactions that began: when, up to where, and how long tombstones were to stay.
    passes: Vec<(i64, i64, i64)>,
    /// What stands for wall time, ms.
    now_ms: i64,
    counter: u64,
    /// Records that were found gone, over all.
    gone: u64,
}

type Shared = Rc<RefCell<Model>>;

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Valid,
    Aborted,
    Open,
}

impl Model {
    /// What became of the record at `offset`, in a log that is durable up to `end`.
    fn end_of(&self, offset: i64, end: i64) -> End {
        let Some(producer) = self.in_txn.get(&offset) else {
            return End::Valid;
        };
        let mut later = self.markers.range(offset..end).map(|(_, m)| m);
        match later.find(|m| m.0 == *producer) {
            Some((_, true)) => End::Valid,
            Some((_, false)) => End::Aborted,
            None => End::Open,
        }
    }

    /// The last stable offset.
    fn stable(&self, end: i64) -> i64 {
        let open = |o: &&i64| self.end_of(**o, end) == End::Open;
        let mut all = self.in_txn.range(..end).map(|(o, _)| o);
        all.find(open).map_or(end, |o| end.min(*o))
    }

    /// What was aborted, as a broker knows it.
    fn aborted(&self, end: i64) -> Aborted {
        let mut aborted = Aborted::default();
        let mut first = BTreeMap::new();
        let mut at = 0;
        for (marker, (producer, commit)) in self.markers.range(..end) {
            for (o, p) in self.in_txn.range(at..*marker) {
                first.entry(*p).or_insert(*o);
            }
            at = *marker;
            if let Some(first) = first.remove(producer)
                && !commit
            {
                aborted.add(*producer, first, *marker);
            }
        }
        aborted
    }
}

/// A control batch that ends the transaction of a producer.
fn marker(producer: i64, commit: bool) -> Vec<u8> {
    let writer = Writer {
        id: producer,
        epoch: 0,
        sequence: -1,
    };
    let record = NewRecord {
        timestamp: 900,
        key: Some(&[0, 0, 0, u8::from(commit)]),
        value: Some(&[0; 6]),
    };
    let mut bytes = build(&[record], writer);
    bytes[22] |= 0x30;
    restamp_time(&mut bytes, 900, false);
    bytes
}

struct Life {
    env: Env,
    log: SharedLog,
    journal: Journal,
    model: Shared,
    pace: Pace,
    compacting: Cell<bool>,
    settings: (Rules, usize),
}

fn dir() -> PathBuf {
    Path::new(DATA).join("topic-0")
}

fn pick(env: &Env, n: u64) -> u64 {
    env.random_u64() % n
}

fn config(env: &Env) -> LogConfig {
    LogConfig {
        segment_bytes: 1500 << pick(env, 4),
        index_interval: [0, 200, 4096][pick(env, 3) as usize],
        checkpoint_bytes: 2000 << pick(env, 4),
        metadata: "version: 0\n".into(),
        ..LogConfig::default()
    }
}

/// Few keys come often, many seldom: those may have their last record far from the end.
fn key(env: &Env) -> Vec<u8> {
    let n = match pick(env, 3) {
        0 => pick(env, 5),
        _ => 5 + pick(env, 80),
    };
    format!("key-{n}").into_bytes()
}

/// A batch of some records, compressed somehow.
fn batch(env: &Env, model: &mut Model) -> (NewBatch, Vec<Record>, i64, Codec) {
    let count = 1 + pick(env, 5) as usize;
    let records: Vec<Record> = (0..count)
        .map(|_| {
            model.counter += 1;
            let size = [3, 40, 300][pick(env, 3) as usize];
            let mut value = model.counter.to_be_bytes().to_vec();
            value.resize(8 + size, pick(env, 256) as u8);
            Record {
                key: key(env),
                value: (pick(env, 5) > 0).then_some(value),
                timestamp: 1000 + pick(env, 3000) as i64,
            }
        })
        .collect();
    // The last two write in transactions.
    let id = pick(env, 6) as i64 - 1;
    let writer = match id {
        -1 => Writer::default(),
        id => Writer {
            id,
            epoch: 0,
            sequence: 0,
        },
    };
    let new: Vec<_> = records
        .iter()
        .map(|r| NewRecord {
            timestamp: r.timestamp,
            key: Some(&r.key),
            value: r.value.as_deref(),
        })
        .collect();
    // Half of them plain: the others cost the test most of its time.
    let codec = CODECS[pick(env, 9).saturating_sub(4) as usize];
    let mut plain = build(&new, writer);
    if id >= FIRST_TXN {
        plain[22] |= 0x10;
    }
    let bytes = packed(&plain, codec);
    let max_timestamp = BatchHeader::parse(&bytes).unwrap().max_timestamp;
    let batch = NewBatch::own(bytes, max_timestamp).unwrap();
    (batch, records, id, codec)
}

fn packed(plain: &[u8], codec: Codec) -> Vec<u8> {
    let mut pack = Pack::new(codec, plain[..HEADER].to_vec()).unwrap();
    pack.write_all(&plain[HEADER..]).unwrap();
    let mut bytes = pack.finish().unwrap();
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] |= CODECS.iter().position(|&c| c == codec).unwrap() as u8;
    let max = BatchHeader::parse(&bytes).unwrap().max_timestamp;
    restamp_time(&mut bytes, max, false);
    bytes
}

async fn bytes_of(env: &Env, offset: i64, part: &Part) -> Vec<u8> {
    match part {
        Part::Bytes(b) => b.to_vec(),
        Part::File { pos, len, .. } => {
            let files = env.list_dir(&dir()).await.unwrap();
            let bases = files
                .iter()
                .filter_map(|f| f.name.strip_suffix(".log")?.parse().ok());
            let base: i64 = bases.filter(|b| *b <= offset).max().unwrap();
            let path = dir().join(format!("{base:020}.log"));
            let file = env.open(&path, &OpenOptions::default()).await.unwrap();
            file.read_at(*pos, *len).await.unwrap().to_vec()
        }
    }
}

/// The batches that a consumer at `offset` gets.
async fn fetch(env: &Env, log: &SharedLog, offset: i64) -> Vec<u8> {
    let max = 1 << pick(env, 17);
    let plan = loop {
        let planned = log.borrow().plan_read(offset, max, true);
        match planned {
            Planned::Ready(plan) => break plan,
            Planned::OutOfRange => panic!("offset {offset} is in the log"),
            Planned::Locate(_) => panic!("no limit was asked for"),
            Planned::Prepare(segment) => {
                let interval = log.borrow().config().index_interval;
                let prepared = segment.prepare(env, interval).await;
                if log.borrow().has_segment(&segment) {
                    prepared.expect("a segment of the log is read");
                    log.borrow_mut().note_prepared(&segment);
                }
            }
        }
    };
    let mut bytes = Vec::new();
    for part in &plan.parts {
        bytes.extend(bytes_of(env, offset, part).await);
    }
    assert_eq!(bytes.len(), plan.bytes);
    bytes
}

/// What a log holds: its records, and of its batches producer, codec and last offset.
#[derive(Default)]
struct Content {
    records: BTreeMap<i64, Record>,
    batches: BTreeMap<i64, (i64, Codec)>,
    markers: Vec<i64>,
}

/// Reads from `from` to the end as a consumer does, checking every batch.
async fn read_from(env: &Env, log: &SharedLog, from: i64) -> Content {
    let end = log.borrow().flushed();
    let mut found = Content::default();
    let mut next = from;
    while next < end {
        let bytes = fetch(env, log, next).await;
        let (mut at, before) = (0, next);
        while let Ok(h) = BatchHeader::parse(&bytes[at..]) {
            if at + h.size > bytes.len() {
                break;
            }
            let one = &bytes[at..at + h.size];
            at += h.size;
            assert!(crc_matches(one), "a reader got a bad batch");
            if h.next_offset() <= next {
                continue;
            }
            if h.is_control() {
                found.markers.push(h.base_offset);
                next = h.next_offset();
                continue;
            }
            let view = BatchView::new(one, 1 << 20).expect("a batch");
            let mut max = None;
            for r in view.records() {
                let r = r.expect("a record");
                max = max.max(Some(r.timestamp));
                let record = Record {
                    key: r.key.expect("a key").to_vec(),
                    value: r.value.map(<[u8]>::to_vec),
                    timestamp: r.timestamp,
                };
                assert!(r.offset >= h.base_offset && r.offset <= h.last_offset());
                if r.offset >= from {
                    found.records.insert(r.offset, record);
                }
            }
            if let Some(max) = max {
                assert_eq!(max, h.max_timestamp, "the greatest timestamp of a batch");
                let codec = h.codec().unwrap();
                found
                    .batches
                    .insert(h.last_offset(), (h.producer_id, codec));
            } else {
                found
                    .batches
                    .insert(h.last_offset(), (h.producer_id, Codec::None));
            }
            next = h.next_offset();
        }
        assert!(
            next > before,
            "a read at {before} brought the reader nowhere"
        );
    }
    found
}

/// Whether the record may be gone.
fn may_be_gone(model: &Model, offset: i64, end: i64) -> bool {
    let record = &model.written[&offset];
    match model.end_of(offset, end) {
        End::Aborted => return true,
        End::Open => return false,
        End::Valid => {}
    }
    let covering = || model.passes.iter().filter(|p| p.1 > offset);
    let covered = covering().map(|p| p.1).max().unwrap_or(offset + 1);
    let mut later = model.written.range(offset + 1..covered);
    let replaced = later.any(|(o, r)| r.key == record.key && model.end_of(*o, end) == End::Valid);
    let mut horizons = covering().map(|&(now, _, keep)| now + keep);
    replaced || (record.value.is_none() && horizons.any(|h| h <= model.now_ms))
}

/// Checks what is in the log against what was appended. Nobody may change it meanwhile.
async fn check(env: &Env, log: &SharedLog, model: &Shared) {
    let (start, end) = (log.borrow().start(), log.borrow().flushed());
    let content = read_from(env, log, start).await;
    {
        let mut m = model.borrow_mut();
        let mut gone = 0;
        for (offset, record) in &content.records {
            assert_eq!(
                m.written.get(offset),
                Some(record),
                "the record at {offset}"
            );
        }
        for &offset in m.written.range(start..end).map(|(o, _)| o) {
            if !content.records.contains_key(&offset) {
                assert!(
                    may_be_gone(&m, offset, end),
                    "{offset} is gone, which had to stay: {:?}",
                    m.written[&offset]
                );
                gone += 1;
            }
        }
        m.gone += gone;
        let fold = |records: &BTreeMap<i64, Record>| {
            let mut map = BTreeMap::new();
            for (o, r) in records.range(start..end) {
                if m.end_of(*o, end) == End::Valid {
                    map.insert(r.key.clone(), r.value.clone());
                }
            }
            map.retain(|_, v| v.is_some());
            map
        };
        let (got, wanted) = (fold(&content.records), fold(&m.written));
        let differs = |key: &&Vec<u8>| got.get(*key) != wanted.get(*key);
        let differing: Vec<_> = got.keys().chain(wanted.keys()).filter(differs).collect();
        assert!(differing.is_empty(), "the last values of {differing:?}");
        // Where it was compacted, nothing is there that something behind it replaces.
        let cleaned = log.borrow().cleaned();
        let mut keys = BTreeMap::new();
        for (offset, r) in content.records.range(..cleaned.max(start)) {
            if m.end_of(*offset, end) == End::Valid {
                let twice = keys.insert(&r.key, *offset);
                assert!(twice.is_none(), "{twice:?} and {offset} have one key");
            }
        }
        let markers: Vec<i64> = m.markers.range(start..end).map(|x| *x.0).collect();
        assert_eq!(content.markers, markers, "markers stay");
        let mut producers = BTreeMap::new();
        for (last, (id, _)) in m.batches.range(start..end) {
            producers.insert(*id, *last);
        }
        producers.remove(&-1);
        for (id, last) in producers {
            assert!(
                content.batches.contains_key(&last),
                "the last batch of producer {id}, up to {last}, is gone"
            );
        }
        for (last, (id, codec)) in &content.batches {
            if let Some(was) = m.batches.get(last) {
                assert_eq!(*id, was.0);
                let has_records = content.records.range(..=last).next_back();
                if *codec != was.1 {
                    assert!(*codec == Codec::None, "another codec: {has_records:?}");
                }
            }
        }
    }
    if end > start {
        let from = start + pick(env, (end - start) as u64) as i64;
        let part = read_from(env, log, from).await;
        let wanted: Vec<_> = content.records.range(from..).collect();
        assert!(wanted == part.records.iter().collect::<Vec<_>>());
        let wanted = 1000 + pick(env, 3001) as i64;
        let found = lookup::at_or_after(env, log, wanted).await.unwrap();
        let at = |(o, r): (&i64, &Record)| (*o, r.timestamp);
        let first = content.records.iter().find(|(_, r)| r.timestamp >= wanted);
        assert_eq!(found, first.map(at), "first record at or after {wanted}");
        let latest = lookup::latest(env, log).await.unwrap();
        let max = content.records.values().map(|r| r.timestamp).max();
        let first = content
            .records
            .iter()
            .find(|(_, r)| Some(r.timestamp) == max);
        assert_eq!(latest, first.map(at), "the greatest timestamp");
    }
}

/// What the log has is pushed to a follower, whose log has no holes.
async fn follow(env: &Env, log: &SharedLog) {
    let (start, end) = (log.borrow().start(), log.borrow().flushed());
    let (mut at, mut follower) = (start, None);
    while at < end {
        let max = 1 << pick(env, 15);
        let push = push::push(env, log, (at, max)).await.unwrap();
        let push = push.expect("the offset is in the log");
        let bytes = push.parts.concat();
        assert!(
            bytes.len() == push.bytes && push.next > at,
            "no way on from {at}"
        );
        let base = BatchHeader::parse(&bytes).unwrap().base_offset;
        let new = || Log::new(env, Path::new("/follower"), LogConfig::default(), base);
        let follower = follower.get_or_insert_with(new);
        let batches = follower.check_kept(&bytes.into());
        for batch in batches.expect("they follow") {
            follower.append_kept(batch, 0).expect("it follows");
        }
        assert_eq!(follower.end(), push.next);
        at = push.next;
    }
    assert_eq!(at, end);
}

async fn start(env: &Env, model: &Shared) -> Rc<Life> {
    if pick(env, 12) == 0 {
        // A start that does not trust the checkpoint must find the same.
        forget_checkpoint(env, model).await;
    }
    let replayed = replay::replay(env, Path::new(DATA), |_| true, |s| s == 0).await;
    replayed.expect("replay works");
    let options = JournalOptions {
        file_bytes: 8192 << pick(env, 3),
        files_max: 3,
        durable: true,
    };
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let journal = Journal::open(env, Path::new(DATA), 0, options).await;
    let opened = recover::open(env, &dir(), config(env), 0, &mut |_, _| {})
        .await
        .expect("recovery works");
    assert!(opened.notes.is_empty(), "{:?}", opened.notes);
    let log: SharedLog = Rc::new(RefCell::new(opened.log));
    {
        let (start, end) = (log.borrow().start(), log.borrow().flushed());
        let mut m = model.borrow_mut();
        assert!(
            end >= m.acked,
            "acknowledged up to {}, found {end}",
            m.acked
        );
        assert!(start >= m.start, "log start went back to {start}");
        assert!(start <= m.start_asked.max(m.start), "log start {start}");
        m.start = start;
        m.acked = end;
        m.written.split_off(&end);
        m.batches.split_off(&end);
        m.in_txn.split_off(&end);
        m.markers.split_off(&end);
    }
    check(env, &log, model).await;
    follow(env, &log).await;
    let rules = Rules {
        delete_retention_ms: [0, 50, 400][pick(env, 3) as usize],
        min_lag_ms: 0,
        max_lag_ms: i64::MAX,
        min_dirty_ratio: 0.0,
        segment_bytes: log.borrow().config().segment_bytes << pick(env, 2),
        index_bytes: 300 << pick(env, 8),
    };
    Rc::new(Life {
        env: env.clone(),
        log,
        journal: journal.expect("the journal opens"),
        model: model.clone(),
        pace: Pace::new(1e9),
        compacting: Cell::new(false),
        settings: (rules, [60, 150, 1 << 20][pick(env, 3) as usize]),
    })
}

/// Only where no log start would be lost with it.
async fn forget_checkpoint(env: &Env, model: &Shared) {
    if model.borrow().start_asked == 0 {
        let _ = env.remove_file(&dir().join("checkpoint")).await;
        env.sync_dir(&dir()).await.ok();
    }
}

async fn append(life: &Life) {
    let made = write_back::make_dir(&life.env, &life.log).await;
    made.expect("a directory is made");
    for _ in 0..1 + pick(&life.env, 6) {
        let mut m = life.model.borrow_mut();
        let end_txn = pick(&life.env, 5) == 0;
        let (mut new, records, mut id, codec) = batch(&life.env, &mut m);
        let commit = pick(&life.env, 2) == 0;
        if end_txn {
            id = FIRST_TXN + pick(&life.env, 2) as i64;
            let bytes = marker(id, commit);
            new.facts.header = BatchHeader::parse(&bytes).unwrap();
            new.facts.max_timestamp = 900;
            new.bytes = bytes.into();
        }
        let header = new.facts.header;
        let mut l = life.log.borrow_mut();
        if l.will_roll(header.size, header.count, 0) {
            l.roll(0);
            l.plan_checkpoint(Vec::new());
        } else if l.wants_checkpoint() {
            l.plan_checkpoint(Vec::new());
        }
        let placed = l.append(new, 0, 0);
        if end_txn {
            m.markers.insert(placed.base, (id, commit));
            continue;
        }
        for (i, record) in records.into_iter().enumerate() {
            m.written.insert(placed.base + i as i64, record);
            if id >= FIRST_TXN {
                m.in_txn.insert(placed.base + i as i64, id);
            }
        }
        m.batches.insert(placed.next - 1, (id, codec));
    }
    loop {
        let mut group = Group::default();
        group.take(&life.log);
        if group.is_empty() {
            break;
        }
        if !life.journal.has_room(group.len()) {
            settle(life).await;
        }
        let flushed = life.journal.write(group).await.expect("a group is written");
        life.model.borrow_mut().acked = flushed[0].next;
    }
}

async fn settle(life: &Life) {
    let file = life.journal.close_current();
    let room = Budget::new(10_000);
    let written = write_back::write_back(&life.env, &life.log, &room, true).await;
    written.expect("write back works");
    let settled = write_back::settle(&life.env, &life.log).await;
    settled.expect("settling works");
    if let Some(file) = file {
        life.journal.release(&file);
    }
}

async fn compact(life: &Rc<Life>) {
    let (env, log) = (&life.env, &life.log);
    let (rules, map_bytes) = life.settings.clone();
    life.model.borrow_mut().now_ms += pick(env, 100) as i64;
    let end = log.borrow().flushed();
    let (bound, now_ms) = {
        let m = life.model.borrow();
        (m.stable(end), m.now_ms)
    };
    let aborted = life.model.borrow().aborted(end);
    let todo = compact::todo(env, log, (&rules, bound), now_ms).await;
    let Some(todo) = todo.expect("looking works") else {
        return;
    };
    let mut producers = BTreeMap::new();
    for (last, (id, _)) in life.model.borrow().batches.range(..bound) {
        producers.insert(*id, *last);
    }
    let pass = (now_ms, todo.end, rules.delete_retention_ms);
    life.model.borrow_mut().passes.push(pass);
    let order = Order {
        rules,
        bound,
        now_ms,
        map_bytes,
        producers,
        aborted,
        pace: &life.pace,
    };
    let done = compact::run(env, log, &order, todo).await;
    let done = done.expect("compaction works");
    assert_eq!(done.refused, None);
    if !done.overtaken {
        assert_eq!(log.borrow().cleaned(), todo.end);
    }
}

fn spawn_compaction(life: &Rc<Life>) {
    if life.compacting.replace(true) {
        return;
    }
    let life = life.clone();
    let env = life.env.clone();
    env.spawn(Class::Background, async move {
        compact(&life).await;
        life.compacting.set(false);
    })
    .detach();
}

async fn delete_some(life: &Life) {
    let (start, end) = (life.log.borrow().start(), life.log.borrow().flushed());
    if end > start && pick(&life.env, 3) == 0 {
        let to = start + pick(&life.env, (end - start + 1) as u64 / 3 + 1) as i64;
        life.model.borrow_mut().start_asked = to;
        let got = retain::delete_before(&life.env, &life.log, to).await;
        assert!(got.expect("delete works") >= to);
        life.model.borrow_mut().start = to;
    }
}

/// A reader while all else goes on: whatever it gets was appended.
async fn read_some(life: &Life) {
    let (start, end) = (life.log.borrow().start(), life.log.borrow().flushed());
    if end == start {
        return;
    }
    let at = start + pick(&life.env, (end - start) as u64) as i64;
    match pick(&life.env, 2) {
        0 => {
            let wanted = 1000 + pick(&life.env, 3000) as i64;
            let found = lookup::at_or_after(&life.env, &life.log, wanted).await;
            if let Some((offset, time)) = found.expect("look-up works") {
                let m = life.model.borrow();
                assert!(time >= wanted);
                assert_eq!(m.written[&offset].timestamp, time);
            }
        }
        // The plan names files by the segments of the moment: see `bytes_of`.
        _ if life.compacting.get() => {
            life.log.borrow().plan_read(at, 1000, true);
        }
        _ => {
            fetch(&life.env, &life.log, at).await;
        }
    }
}

async fn live(env: Env, model: Shared) {
    let life = start(&env, &model).await;
    for _ in 0..10 + pick(&env, 30) {
        model.borrow_mut().now_ms += pick(&env, 30) as i64;
        match pick(&env, 12) {
            0..=4 => append(&life).await,
            5 | 6 => settle(&life).await,
            7 | 8 => spawn_compaction(&life),
            9 => read_some(&life).await,
            10 if !life.compacting.get() => check(&env, &life.log, &model).await,
            _ => delete_some(&life).await,
        }
    }
    while life.compacting.get() {
        env.yield_now().await;
    }
    check(&env, &life.log, &model).await;
    if pick(&env, 2) == 0 {
        settle(&life).await;
        let closed = write_back::close(&env, &life.log, Vec::new()).await;
        closed.expect("close works");
        life.journal.close().await.expect("the journal closes");
    }
}

/// Gives how many records were found compacted away.
fn run(seed: u64) -> u64 {
    let model = Shared::default();
    let mut sim = Sim::new(seed, SimOptions::default());
    for _ in 0..5 {
        let m = model.clone();
        if sim.run_until_crash(move |env| live(env, m)).is_none() {
            sim.power_cut();
        }
    }
    let m = model.clone();
    sim.run(move |env| async move {
        start(&env, &m).await;
    });
    model.borrow().gone
}

#[test]
fn the_last_value_of_each_key_stays() {
    let Some(all) = each_seed(300, run) else {
        return;
    };
    let seeds = all.len() as u64;
    let gone: u64 = all.into_iter().sum();
    assert!(
        gone > 3 * seeds,
        "compaction did its work: {gone} records were found gone"
    );
}
