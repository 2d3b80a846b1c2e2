//! SIGKILL while a compacted topic is written and compacted, again and again.
//!
//! Shown after each restart, and while the compaction runs: every record has the offset that it was
//! acknowledged with, the last record of each key is there, nothing is gone that no later record
//! of its key replaces. In the end Kafka's DumpLogSegments reads what compaction has made.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use streamd_tests::batch::{Batch, Read, decode, record};
use streamd_tests::broker::Broker;
use streamd_tests::client::now_ms;
use streamd_tests::wire::Connection;

use crate::{dump, env};
use streamd_tests::noise::Noise;

const TOPIC: &str = "compacted";
const KEYS: u64 = 40;
/// Bytes of a value; a segment holds about a thousand.
const SIZE: usize = 1000;

/// What was written: the key of each number, and the offsets of those that were acknowledged.
#[derive(Default)]
struct Written {
    keys: Vec<u64>,
    acked: BTreeMap<i64, u64>,
}

fn value(number: u64, key: u64) -> Vec<u8> {
    let mut out = number.to_be_bytes().to_vec();
    out.extend(key.to_be_bytes());
    let mut noise = Noise::new(number);
    while out.len() < SIZE {
        out.push(noise.below(256) as u8);
    }
    out
}

/// Writes until the broker is gone.
fn write(addr: &str, written: &mut Written, noise: &mut Noise) {
    let Ok(mut connection) = Connection::try_open(addr) else {
        return;
    };
    loop {
        let mut records = Vec::new();
        let count = 1 + noise.below(30);
        let first = written.keys.len() as u64;
        for i in 0..count {
            let key = noise.below(KEYS);
            written.keys.push(key);
            let bytes = value(first + i, key);
            record(&mut records, i as i64, Some(&key.to_be_bytes()), &bytes);
        }
        let batch = Batch {
            records,
            count: count as i32,
            ..Batch::of::<&str>(&[])
        };
        match connection.produce(TOPIC, 0, &batch.encode()) {
            Ok(done) if done.error == 0 => {
                let at = |i| (done.base + i as i64, first + i);
                written.acked.extend((0..count).map(at));
            }
            Ok(_) => thread::sleep(Duration::from_millis(5)),
            Err(_) => return,
        }
    }
}

/// All records, by fetches from the beginning to the end. Offsets only go up.
fn read_all(connection: &mut Connection) -> Vec<Read> {
    let mut out: Vec<Read> = Vec::new();
    let mut next = 0;
    loop {
        let fetched = connection.fetch(TOPIC, 0, next).expect("a fetch");
        assert_eq!(fetched.error, 0, "fetch at {next}");
        if fetched.high <= next {
            return out;
        }
        let end = last_of(&fetched.records) + 1;
        for read in decode(&fetched.records) {
            if read.offset >= next {
                let before = out.last().map_or(-1, |r| r.offset);
                assert!(read.offset > before, "{} after {before}", read.offset);
                out.push(read);
            }
        }
        assert!(end > next, "it stands still at {next} of {}", fetched.high);
        next = end;
    }
}

/// The last offset of the last whole batch.
fn last_of(mut bytes: &[u8]) -> i64 {
    let mut last = -1;
    while bytes.len() >= 61 {
        let int = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let length = int(8) as usize + 12;
        if bytes.len() < length {
            break;
        }
        let base = i64::from_be_bytes(bytes[..8].try_into().expect("8 bytes"));
        last = base + i64::from(int(23));
        bytes = &bytes[length..];
    }
    last
}

fn number(value: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(value[at..at + 8].try_into().expect("8 bytes"))
}

/// Compares what the broker holds with what was written. Gives how many records it holds.
fn check(addr: &str, written: &Written) -> usize {
    let reads = read_all(&mut Connection::open(addr));
    let mut last = BTreeMap::new();
    let mut held = BTreeMap::new();
    for read in &reads {
        let (n, key) = (number(&read.value, 0), number(&read.value, 8));
        assert_eq!(read.value, value(n, key), "content at {}", read.offset);
        assert_eq!(written.keys.get(n as usize), Some(&key));
        last.insert(key, n);
        held.insert(read.offset, n);
    }
    let mut later = BTreeMap::new();
    for (offset, n) in written.acked.iter().rev() {
        let key = written.keys[*n as usize];
        match held.get(offset) {
            Some(got) => assert_eq!(got, n, "the record at {offset}"),
            None => assert!(
                last.get(&key).is_some_and(|l| l > n),
                "record {n} of key {key}, acknowledged at {offset}, is gone: the last one that \
                 was acknowledged is {:?}, the last that is there {:?}",
                later.get(&key),
                last.get(&key)
            ),
        }
        later.entry(key).or_insert(*n);
    }
    for (key, n) in &later {
        let there = last.get(key).expect("a record of each key");
        assert!(
            there >= n,
            "key {key} has record {there}, acknowledged was {n}"
        );
    }
    reads.len()
}

#[test]
fn kill_9_during_compaction_keeps_the_last_of_each_key() {
    let rounds = env("STREAMD_CRASH_ROUNDS", 8);
    let seed = env("STREAMD_CRASH_SEED", now_ms());
    println!("STREAMD_CRASH_SEED={seed}");
    let mut noise = Noise::new(seed);
    let mut broker = Broker::start(&["--set", "log.cleaner.backoff.ms=20"]);
    let addr = broker.addr();
    let configs = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "1048576"),
        ("min.cleanable.dirty.ratio", "0.05"),
    ];
    Connection::open(&addr).create_topic(TOPIC, 1, &configs);
    let mut written = Written::default();
    let mut sparse = 0;
    for n in 0..rounds {
        let load = Duration::from_millis(300 + noise.below(1200));
        thread::scope(|scope| {
            let writer = scope.spawn(|| write(&addr, &mut written, &mut noise));
            thread::sleep(load);
            broker.kill();
            writer.join().expect("the writer");
        });
        broker.start_again();
        let (held, acked) = (check(&addr, &written), written.acked.len());
        println!("round {n}: {acked} records acknowledged, {held} held");
        sparse += usize::from(held < acked);
    }
    assert!(sparse > 0, "something was compacted");
    // Left alone it gets to where each key is there once, but for the active segment.
    let deadline = Instant::now() + Duration::from_secs(30);
    let most = 2 * (1 << 20) / SIZE + KEYS as usize;
    while check(&addr, &written) > most {
        assert!(Instant::now() < deadline, "compaction comes to an end");
        thread::sleep(Duration::from_millis(100));
    }
    broker.stop();
    dump::assert_readable_with_gaps(&broker.data_dir(), TOPIC, 1);
    broker.start_again();
    check(&addr, &written);
    assert!(!broker.log().contains("offline"), "{}", broker.log());
}
