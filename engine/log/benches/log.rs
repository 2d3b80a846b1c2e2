//! What a batch costs on its way through the log: CRC-32C, validation, index look-up, append.
//!
//! `cargo bench -p streamd-log`. The append goes through the simulated disk: it shows what the code
//! does, not what a disk can do.

use std::cell::RefCell;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use streamd_io::Env;
use streamd_io::sim::{Sim, SimOptions};
use streamd_log::batch::{
    HEADER, LOG_OVERHEAD, NewRecord, Writer, build, crc_matches, restamp_time,
};
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
    let mut random = 1u64;
    let mut below = |n: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % n
    };
    // As events are: words that come again, with numbers between them. LZ4 takes them to about
    // 55 %, in sequences of a dozen bytes.
    let words: Vec<String> = (0..320)
        .map(|_| {
            (0..3 + below(7))
                .map(|_| char::from(b'a' + below(26) as u8))
                .collect()
        })
        .collect();
    let values: Vec<Vec<u8>> = (0..records)
        .map(|_| {
            let mut value = String::new();
            while value.len() < size {
                let (name, word) = (&words[below(320) as usize], &words[below(320) as usize]);
                match below(2) {
                    0 => value.push_str(&format!(",\"{name}\":\"{word}\"")),
                    _ => value.push_str(&format!(",\"{name}\":{}", below(1 << 24))),
                }
            }
            value.truncate(size);
            value.into_bytes()
        })
        .collect();
    let records: Vec<NewRecord<'_>> = values
        .iter()
        .map(|value| NewRecord {
            timestamp: 1,
            key: None,
            value: Some(value),
        })
        .collect();
    build(&records, Writer::default())
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

/// The same records as one LZ4 frame of 64 KiB blocks, as the Java client writes it.
fn lz4(batch: &[u8]) -> Vec<u8> {
    let info = FrameInfo::new()
        .block_size(BlockSize::Max64KB)
        .block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, batch[..HEADER].to_vec());
    encoder.write_all(&batch[HEADER..]).expect("into memory");
    let mut out = encoder.finish().expect("into memory");
    let length = (out.len() - LOG_OVERHEAD) as i32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[21..23].copy_from_slice(&3i16.to_be_bytes());
    restamp_time(&mut out, 1, false);
    let attributes = i16::from_be_bytes([out[21], out[22]]);
    assert_eq!(attributes & 7, 3, "the codec stays");
    out
}

#[divan::bench(
    args = [
        (1, 1024, false), (63, 1024, false), (606, 100, false), (63, 1024, true), (606, 100, true),
    ],
    max_time = 0.5,
)]
fn validate(bencher: Bencher<'_, '_>, (records, size, packed): (usize, usize, bool)) {
    let plain = batch(records, size);
    let batch = if packed { lz4(&plain) } else { plain.clone() };
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
        .counter(BytesCount::of_slice(&plain))
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
