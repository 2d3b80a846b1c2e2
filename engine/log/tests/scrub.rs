//! Damage on the disk: every flipped bit of a closed segment is found by a scrub, which says where
//! and what; every flipped bit of an index is noticed before anything is read by it, or harmless.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use streamd_io::sim::{Sim, SimOptions};
use streamd_io::{Env, Part};
use streamd_log::batch::{NewRecord, Writer, build, stamp};
use streamd_log::{BatchHeader, Log, LogConfig, LogError, begin, recover, scrub, write_back};

const DIR: &str = "/data/t-0";
const SEGMENTS: i64 = 3;
const BATCHES: i64 = 12;

fn file(base: i64, extension: &str) -> PathBuf {
    Path::new(DIR).join(format!("{base:020}.{extension}"))
}

fn config() -> LogConfig {
    LogConfig {
        index_interval: 0,
        ..LogConfig::default()
    }
}

/// Segments of batches of two records each.
fn segment(base: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for i in 0..BATCHES {
        let value = vec![i as u8; 10 + 7 * i as usize];
        let record = NewRecord {
            timestamp: 1000 + base + i,
            key: None,
            value: Some(&value),
        };
        let mut batch = build(&[record.clone(), record], Writer::default());
        stamp(&mut batch, base + 2 * i, 0);
        bytes.extend(batch);
    }
    bytes
}

/// A log that was stopped cleanly.
fn prepared() -> Sim {
    let mut sim = Sim::new(1, SimOptions::default());
    sim.run(|env| async move {
        env.create_dir_all(Path::new(DIR)).await.unwrap();
        env.sync_dir(Path::new("/data")).await.unwrap();
        env.sync_dir(Path::new("/")).await.unwrap();
    });
    for s in 0..SEGMENTS {
        let base = s * 2 * BATCHES;
        sim.disk().write(&file(base, "log"), &segment(base));
    }
    sim.run(|env| async move {
        let log = open(&env).await.unwrap();
        write_back::close(&env, &log, Vec::new()).await.unwrap();
    });
    sim
}

async fn open(env: &Env) -> Result<RefCell<Log>, LogError> {
    let opened = recover::open(env, Path::new(DIR), config(), 0, &mut |_, _| {}).await?;
    Ok(RefCell::new(opened.log))
}

/// What a scrub finds.
fn scrubbed(sim: &mut Sim) -> Result<scrub::Scrubbed, String> {
    sim.run(|env| async move {
        let log = open(&env).await.unwrap();
        let done = scrub::scrub(&env, &log, 1 << 20).await;
        done.map_err(|e| {
            assert!(matches!(e, LogError::Corrupt(_)), "{e}");
            e.to_string()
        })
    })
}

#[test]
fn every_flipped_bit_of_a_closed_segment_is_found() {
    let mut sim = prepared();
    let done = scrubbed(&mut sim).unwrap();
    let size = segment(0).len() as u64;
    // The last segment is not closed.
    assert_eq!((done.segments, done.bytes), (2, 2 * size));
    let damaged = file(2 * BATCHES, "log");
    let first = BatchHeader::parse(&segment(2 * BATCHES)).unwrap().size as u64;
    for at in 0..size {
        sim.disk().flip(&damaged, at);
        let found = scrubbed(&mut sim);
        sim.disk().flip(&damaged, at);
        // The leader epoch is under no checksum.
        if at < first && (12..16).contains(&at) {
            assert!(found.is_ok());
        } else if at < first {
            let text = found.expect_err("damage");
            // An offset is under no checksum: one that is too large shows in the next batch.
            let here = text.contains("00000024.log at byte 0: ");
            assert!(at < 8 || here, "{at}: {text}");
            assert!(text.contains("streamctl log repair /data/t-0"), "{text}");
            let crc = "says that its CRC is 0x";
            assert!(at < 21 || text.contains(crc), "{at}: {text}");
        }
    }
    // A segment that lost its end.
    let whole = segment(2 * BATCHES);
    let last = whole.len() - 250;
    for len in [last, last + 20, last + 70, whole.len() - 1] {
        sim.disk().write(&damaged, &whole[..len]);
        scrubbed(&mut sim).expect_err("damage");
    }
}

#[test]
fn damage_is_remembered() {
    let mut sim = prepared();
    sim.run(|env| async move {
        let dir = Path::new(DIR);
        scrub::check_mark(&env, dir).await.unwrap();
        let error = LogError::Corrupt("this and that".into());
        scrub::mark(&env, dir, &error).await.unwrap();
        let found = scrub::check_mark(&env, dir).await.unwrap_err().to_string();
        assert_eq!(found, "corrupt: this and that (/data/t-0/damaged)");
    });
}

/// Reads each offset once, as a consumer does.
async fn read_all(env: &Env, log: &RefCell<Log>) {
    for offset in 0..SEGMENTS * 2 * BATCHES {
        let end = || log.borrow().flushed();
        let plan = begin::plan((env, log), offset, &end, (1, true), &mut |_, _, _| {}).await;
        let plan = plan.unwrap().expect("the offset is there");
        let Some(Part::File { pos, len, .. }) = plan.parts.first() else {
            panic!("everything is in files");
        };
        let base = offset - offset % (2 * BATCHES);
        let bytes = env.read_file(&file(base, "log"), 1 << 20).await.unwrap();
        let mut bytes = &bytes[*pos as usize..*pos as usize + len];
        let mut next = i64::MIN;
        while let Ok(h) = BatchHeader::parse(bytes)
            && h.size <= bytes.len()
        {
            assert!(h.base_offset <= offset || next > offset, "offset {offset}");
            next = h.next_offset();
            assert!(next > offset, "a batch that ends before offset {offset}");
            bytes = &bytes[h.size..];
        }
        assert!(next > offset, "a reader at {offset} gets on");
    }
}

#[test]
fn an_index_is_not_trusted() {
    let mut sim = prepared();
    let index = file(0, "index");
    let size = sim.disk().read(&index).unwrap().len() as u64;
    assert_eq!(size, 8 * BATCHES as u64);
    for at in 0..size {
        let whole = sim.disk().read(&index).unwrap();
        sim.disk().flip(&index, at);
        sim.run(|env| async move {
            let log = open(&env).await.unwrap();
            read_all(&env, &log).await;
        });
        sim.disk().write(&index, &whole);
    }
}

/// A batch that ends before what was asked for is not harmless: a reader of committed records that
/// skips it as aborted goes on from its end.
#[test]
fn a_file_is_read_from_the_very_batch() {
    for interval in [500, 1 << 20] {
        let mut sim = prepared();
        sim.run(|env| async move {
            for n in 0..SEGMENTS {
                let index = file(n * 2 * BATCHES, "index");
                env.remove_file(&index).await.unwrap();
            }
            let log = open(&env).await.unwrap();
            let config = LogConfig {
                index_interval: interval,
                ..log.borrow().config().clone()
            };
            log.borrow_mut().set_config(config);
            read_all(&env, &log).await;
        });
    }
}
