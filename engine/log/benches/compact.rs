//! What compaction costs: a key's hash, the map of keys, deciding about a batch, writing one again,
//! and a whole pass.
//!
//! `cargo bench -p streamd-log --bench compact`. The pass goes through the simulated disk: it shows
//! what the code does, not what a disk can do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use streamd_io::Env;
use streamd_io::local::Budget;
use streamd_io::sim::{Sim, SimOptions};
use streamd_log::batch::{HEADER, NewRecord, Writer, build, restamp_time};
use streamd_log::compact::filter::{Aborted, Fate, Judge, Learn, Rewrite, Survey};
use streamd_log::compact::hash::hash_key;
use streamd_log::compact::map::OffsetMap;
use streamd_log::compact::walk::{Feed, Sink, Walk};
use streamd_log::compact::{self, Order, Pace, Rules};
use streamd_log::journal::{Group, Journal, JournalOptions};
use streamd_log::log::SharedLog;
use streamd_log::pack::Pack;
use streamd_log::validate::Facts;
use streamd_log::{BatchHeader, Codec, Log, LogConfig, NewBatch, write_back};

const CODECS: [Codec; 5] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd,
];
const RECORDS: usize = 1000;

fn main() {
    divan::main();
}

#[divan::bench(args = [8, 32, 256], max_time = 0.5)]
fn hash(bencher: Bencher<'_, '_>, len: usize) {
    let key = vec![0x5a; len];
    bencher
        .counter(BytesCount::new(len))
        .bench_local(|| hash_key([1, 2], black_box(&key)));
}

#[divan::bench(args = [10_000, 1_000_000], max_time = 1.0)]
fn map_put_and_get(bencher: Bencher<'_, '_>, keys: i64) {
    let hash = |i: i64| hash_key([1, 2], &i.to_be_bytes());
    bencher
        .counter(ItemsCount::new(keys as u64))
        .bench_local(|| {
            let mut map = OffsetMap::new(usize::MAX, keys as u64, [1, 2]);
            (0..keys).for_each(|i| assert!(map.put(hash(i), i)));
            (0..keys).filter_map(|i| map.get(hash(i))).max()
        });
}

/// A batch of records of 100 bytes, every other one of a key that comes again.
fn batch(codec: Codec) -> Vec<u8> {
    let pairs: Vec<_> = (0..RECORDS)
        .map(|i| {
            let mut value = format!("value {i} ").into_bytes();
            value.resize(90, b'.');
            (format!("key-{:05}", i / 2 * (i % 2)).into_bytes(), value)
        })
        .collect();
    let records: Vec<_> = pairs
        .iter()
        .map(|(key, value)| NewRecord {
            timestamp: 1,
            key: Some(key),
            value: Some(value),
        })
        .collect();
    let plain = build(&records, Writer::default());
    let mut pack = Pack::new(codec, plain[..HEADER].to_vec()).expect("a codec");
    pack.write_all(&plain[HEADER..]).expect("packed");
    let mut bytes = pack.finish().expect("packed");
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] = CODECS.iter().position(|&c| c == codec).expect("a codec") as u8;
    restamp_time(&mut bytes, 1, false);
    bytes
}

fn walk<S: Sink>(batch: &[u8], header: &BatchHeader, keys: bool, sink: &mut S) {
    let mut feed = Feed::new(batch, header).expect("a batch");
    let mut walk = Walk::new(header.count, keys);
    loop {
        let piece = feed.next_piece().expect("sound");
        if piece.is_empty() {
            return walk.finish().expect("whole");
        }
        walk.push(piece, sink).expect("sound");
    }
}

fn judge(batch: &[u8], header: &BatchHeader) -> Judge {
    let mut map = OffsetMap::new(1 << 20, RECORDS as u64, [1, 2]);
    walk(batch, header, true, &mut Learn::new(&mut map, header, 0));
    Judge {
        map,
        end: header.next_offset(),
        now_ms: 0,
        delete_retention_ms: 0,
        producers: BTreeMap::new(),
    }
}

#[divan::bench(args = CODECS, max_time = 0.5)]
fn survey(bencher: Bencher<'_, '_>, codec: Codec) {
    let batch = batch(codec);
    let header = BatchHeader::parse(&batch).expect("a batch");
    let judge = judge(&batch, &header);
    bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| {
        let mut survey = Survey::new(&judge, &header);
        walk(black_box(&batch), &header, true, &mut survey);
        survey.fate(false)
    });
}

#[divan::bench(args = CODECS, max_time = 0.5)]
fn rewrite(bencher: Bencher<'_, '_>, codec: Codec) {
    let batch = batch(codec);
    let header = BatchHeader::parse(&batch).expect("a batch");
    let judge = judge(&batch, &header);
    let mut survey = Survey::new(&judge, &header);
    walk(&batch, &header, true, &mut survey);
    let Fate::Rewrite(plan) = survey.fate(false) else {
        panic!("half of it goes");
    };
    bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| {
        let mut rewrite = Rewrite::new(&plan, &batch, &header).expect("a codec");
        walk(black_box(&batch), &header, false, &mut rewrite);
        rewrite.finish().expect("packed")
    });
}

/// A log of segments of about 40 batches, in which only the newest batch need stay.
async fn fill(env: &Env, bytes: Bytes, batches: usize) -> SharedLog {
    let data = Path::new("/data");
    let options = JournalOptions {
        file_bytes: 64 << 20,
        files_max: 4,
        durable: true,
    };
    env.create_dir_all(data).await.expect("a directory");
    let journal = Journal::open(env, data, 0, options).await;
    let journal = journal.expect("a journal");
    let config = LogConfig {
        segment_bytes: bytes.len() as u64 * 40,
        ..LogConfig::default()
    };
    let log = Log::new(env, &data.join("t-0"), config, 0);
    let log: SharedLog = Rc::new(RefCell::new(log));
    write_back::make_dir(env, &log).await.expect("a directory");
    let header = BatchHeader::parse(&bytes).expect("a batch");
    let facts = Facts {
        header,
        max_timestamp: 1,
        log_append_time: false,
        restamp: false,
    };
    for _ in 0..batches {
        {
            let mut log = log.borrow_mut();
            if log.will_roll(header.size, header.count, 0) {
                log.roll(0);
                log.plan_checkpoint(Vec::new());
            }
            let bytes = bytes.clone();
            log.append(NewBatch { bytes, facts }, 0, 0);
        }
        let mut group = Group::default();
        group.take(&log);
        journal.write(group).await.expect("written");
    }
    let room = Budget::new(4 << 20);
    let written = write_back::write_back(env, &log, &room, true).await;
    written.expect("written back");
    write_back::settle(env, &log).await.expect("settled");
    log
}

async fn compact_all(env: &Env, log: &SharedLog) -> compact::Done {
    let rules = Rules {
        delete_retention_ms: 0,
        min_lag_ms: 0,
        max_lag_ms: i64::MAX,
        min_dirty_ratio: 0.0,
        segment_bytes: 4 << 20,
        index_bytes: 10 << 20,
    };
    let bound = log.borrow().flushed();
    let todo = compact::todo(env, log, (&rules, bound), 0).await;
    let todo = todo.expect("looked").expect("something to do");
    let order = Order {
        rules,
        bound,
        now_ms: 0,
        map_bytes: 64 << 20,
        producers: BTreeMap::new(),
        aborted: Aborted::default(),
        pace: &Pace::new(f64::MAX),
    };
    compact::run(env, log, &order, todo)
        .await
        .expect("compacted")
}

#[divan::bench(args = CODECS, max_time = 2.0)]
fn pass(bencher: Bencher<'_, '_>, codec: Codec) {
    const BATCHES: usize = 150;
    let bytes = Bytes::from(batch(codec));
    bencher
        .counter(ItemsCount::new(BATCHES * RECORDS))
        .with_inputs(|| {
            let mut sim = Sim::new(7, SimOptions::default());
            let bytes = bytes.clone();
            let log = sim.run(move |env| async move { fill(&env, bytes, BATCHES).await });
            (sim, log)
        })
        .bench_local_values(|(mut sim, log)| {
            sim.run(move |env| async move {
                let done = compact_all(&env, &log).await;
                assert!(done.passes == 1 && done.replaced > 0, "{done:?}");
            });
        });
}
