//! What a replay does with journals that are damaged, torn, or about what is gone.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use streamd_io::Env;
use streamd_io::sim::{Disk, Sim, SimOptions};
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_log::journal::{Group, Journal, JournalOptions, replay};
use streamd_log::log::SharedLog;
use streamd_log::{Log, LogConfig, LogError, NewBatch, recover, write_back};

const DATA: &str = "/data";
const FILE: &str = "/data/journal/0-0.journal";
const BLOCK: u64 = 4096;

fn dir(i: usize) -> PathBuf {
    Path::new(DATA).join(format!("t-{i}"))
}

fn config() -> LogConfig {
    LogConfig {
        metadata: "version: 0\ntopic_id: a\n".into(),
        ..LogConfig::default()
    }
}

fn append(log: &SharedLog, value: &[u8]) {
    let record = NewRecord {
        timestamp: 1,
        key: None,
        value: Some(value),
    };
    let batch = NewBatch::own(build(&[record], Writer::default()), 1).unwrap();
    log.borrow_mut().append(batch, 0, 0);
}

/// Four groups of one batch for each of two logs; nothing gets to the segments.
async fn write(env: Env) {
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let options = JournalOptions {
        file_bytes: 1 << 20,
        files_max: 2,
        durable: true,
    };
    let journal = Journal::open(&env, Path::new(DATA), 0, options)
        .await
        .unwrap();
    let logs: Vec<SharedLog> = (0..2)
        .map(|i| Rc::new(RefCell::new(Log::new(&env, &dir(i), config(), 0))))
        .collect();
    for n in 0..4u8 {
        let mut group = Group::default();
        for log in &logs {
            write_back::make_dir(&env, log).await.unwrap();
            append(log, &[n; 100]);
            group.take(log);
        }
        journal.write(group).await.unwrap();
    }
}

/// Writes, lets `harm` do something, and replays: the notes, and where the two logs end.
fn after(harm: impl FnOnce(&Disk)) -> (Result<Vec<String>, LogError>, Vec<i64>) {
    let mut sim = Sim::new(5, SimOptions::default());
    sim.run(write);
    harm(&sim.disk());
    sim.run(|env| async move {
        let replayed = replay::replay(&env, Path::new(DATA), |_| true, |_| true).await;
        let mut ends = Vec::new();
        for i in 0..2 {
            let opened = recover::open(&env, &dir(i), config(), 0, &mut |_, _| {}).await;
            ends.push(opened.unwrap().log.flushed());
        }
        if replayed.is_ok() {
            let again = replay::replay(&env, Path::new(DATA), |_| true, |_| true).await;
            assert_eq!(again.unwrap().groups, 0, "a replay ends the journal's use");
        }
        (replayed.map(|r| r.notes), ends)
    })
}

#[test]
fn everything_is_there_again() {
    let (notes, ends) = after(|_| {});
    assert_eq!(notes.unwrap(), [""; 0]);
    assert_eq!(ends, [4, 4]);
}

#[test]
fn damage_in_the_middle_is_told_and_what_follows_is_not_lost() {
    let (notes, ends) = after(|disk| disk.flip(Path::new(FILE), 2 * BLOCK + 20));
    let notes = notes.unwrap();
    assert!(notes[0].contains("groups 1 to 1 are damaged"), "{notes:?}");
    // The logs end before the hole; what lies behind it is kept aside by the recovery.
    assert_eq!(ends, [1, 1]);
}

#[test]
fn a_torn_last_group_is_kept_aside() {
    let mut kept = Vec::new();
    let (notes, ends) = after(|disk| {
        disk.flip(Path::new(FILE), 4 * BLOCK + 350);
        kept = disk.read(Path::new(FILE)).unwrap();
    });
    let notes = notes.unwrap();
    assert!(notes[0].contains("was not finished"), "{notes:?}");
    assert!(
        notes[0].contains("/data/journal/0-0.cut-16384"),
        "{notes:?}"
    );
    assert_eq!(ends, [3, 3]);
}

#[test]
fn what_belongs_to_another_topic_or_to_nobody_is_left_out() {
    let (notes, ends) = after(|disk| {
        let other = b"version: 0\ntopic_id: b\n";
        disk.write(&dir(0).join("partition.metadata"), other);
    });
    assert_eq!(notes.unwrap(), [""; 0]);
    assert_eq!(ends, [0, 4]);
    let mut sim = Sim::new(5, SimOptions::default());
    sim.run(write);
    sim.run(|env| async move {
        env.remove_dir_all(&dir(1)).await.unwrap();
        let replayed = replay::replay(&env, Path::new(DATA), |_| true, |_| false).await;
        assert!(replayed.unwrap().bytes > 0);
        assert!(env.list_dir(&dir(1)).await.is_err(), "nobody made it again");
        let journals = env
            .list_dir(&Path::new(DATA).join("journal"))
            .await
            .unwrap();
        assert_eq!(
            journals,
            [],
            "a shard that is not there any more leaves none"
        );
    });
}

#[test]
fn a_journal_of_another_version_stops_the_start() {
    // The version is part of what the CRC covers: written anew.
    let (result, _) = after(|disk| {
        let mut bytes = disk.read(Path::new(FILE)).unwrap();
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[8..28]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        disk.write(Path::new(FILE), &bytes);
    });
    let text = result.unwrap_err().to_string();
    assert!(text.contains("version 9 of a journal"), "{text}");
}
