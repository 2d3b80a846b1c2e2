//! What a batch costs on its way through the log: CRC-32C, validation, index look-up, append.
//!
//! `cargo bench -p streamd-log`. The append goes through the simulated disk: it shows what the code
//! does, not what a disk can do.

use std::cell::RefCell;
use std::hint::black_box;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use streamd_io::Env;
use streamd_io::sim::{Sim, SimOptions};
use streamd_log::batch::{NewRecord, Writer, build, crc_matches};
use streamd_log::index::Index;
use streamd_log::journal::{Group, Journal, JournalOptions};
use streamd_log::log::SharedLog;
use streamd_log::validate::{Facts, Rules, Validation};
use streamd_log::{BatchHeader, Log, LogConfig, NewBatch, write_back};

fn main() {
    divan::main();
}

/// A batch of so many records of a size, uncompressed.
fn batch(records: usize, size: usize) -> Vec<u8> {
    let value = vec![0x5a; size];
    let record = NewRecord {
        timestamp: 1,
        key: None,
        value: Some(&value),
    };
    build(&vec![record; records], Writer::default())
}

fn facts(bytes: &[u8]) -> Facts {
    let header = BatchHeader::parse(bytes).expect("a batch that was just built");
    Facts {
        header,
        max_timestamp: 1,
        log_append_time: false,
        restamp: false,
    }
}

#[divan::bench(args = [1, 63, 1000], max_time = 0.5)]
fn crc32c(bencher: Bencher<'_, '_>, records: usize) {
    let batch = batch(records, 1024);
    bencher
        .counter(BytesCount::of_slice(&batch))
        .bench_local(|| crc_matches(black_box(&batch)));
}

#[divan::bench(args = [(1, 1024), (63, 1024), (606, 100)], max_time = 0.5)]
fn validate(bencher: Bencher<'_, '_>, (records, size): (usize, usize)) {
    let batch = batch(records, size);
    let rules = Rules {
        batch_bytes_max: 1 << 20,
        key_needed: false,
        log_append_time: false,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        now_ms: 1,
        zstd: true,
    };
    let all = || Validation::begin(black_box(&batch), rules).and_then(Validation::run);
    assert!(all().is_ok(), "the batch is good");
    bencher
        .counter(BytesCount::of_slice(&batch))
        .counter(ItemsCount::new(records))
        .bench_local(all);
}

#[divan::bench(args = [100, 10_000, 250_000], max_time = 0.5)]
fn index_find(bencher: Bencher<'_, '_>, entries: i64) {
    let mut index = Index::new(0);
    let mut header = facts(&batch(1, 100)).header;
    for entry in 0..entries {
        header.base_offset = entry * 10;
        index.note(0, entry as u64 * 4096, &header);
    }
    let mut at = 0u32;
    bencher.bench_local(|| {
        // A step that visits everything in no order.
        at = at.wrapping_add(2_654_435_761) % (entries as u32 * 10);
        index.find(black_box(at))
    });
}

/// Groups of 16 batches, each appended, taken into a group and written to the journal.
async fn append_groups(env: Env, bytes: Bytes, groups: usize) {
    let data = Path::new("/data");
    let options = JournalOptions {
        file_bytes: 64 << 20,
        files_max: 4,
        durable: true,
    };
    env.create_dir_all(data).await.expect("a directory");
    let journal = Journal::open(&env, data, 0, options)
        .await
        .expect("a journal");
    let log = Log::new(&env, &data.join("t-0"), LogConfig::default(), 0);
    let log: SharedLog = Rc::new(RefCell::new(log));
    write_back::make_dir(&env, &log).await.expect("a directory");
    let facts = facts(&bytes);
    for _ in 0..groups {
        for _ in 0..16 {
            let batch = NewBatch {
                bytes: bytes.clone(),
                facts,
            };
            log.borrow_mut().append(batch, 0, 0);
        }
        let mut group = Group::default();
        group.take(&log);
        journal.write(group).await.expect("written");
    }
}

#[divan::bench(args = [1, 63], max_time = 2.0)]
fn append(bencher: Bencher<'_, '_>, records: usize) {
    const GROUPS: usize = 32;
    let bytes = Bytes::from(batch(records, 1024));
    bencher
        .counter(BytesCount::new(bytes.len() * 16 * GROUPS))
        .counter(ItemsCount::new(16 * GROUPS))
        .with_inputs(|| Sim::new(7, SimOptions::default()))
        .bench_local_values(|mut sim| {
            let bytes = bytes.clone();
            sim.run(move |env| append_groups(env, bytes, GROUPS));
        });
}
