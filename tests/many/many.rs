//! Very many partitions on one node: what they cost in memory and open files, and that a start
//! takes a moment whatever lies on the disk.
//!
//! `STREAMD_MANY_PARTITIONS` sets their number (2,000). Bounds on time are wide, since tests share
//! their machine; `bench partitions` measures.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use streamd_tests::batch::{Batch, decode};
use streamd_tests::broker::{Broker, resident};
use streamd_tests::wire::{Answer, Body, Connection};

const TOPIC: &str = "many";
/// Partitions in one request.
const IN_REQUEST: i32 = 500;
/// What a partition may cost, bytes.
const EACH_MAX: u64 = 32 << 10;
/// All of them together, with the broker itself.
const ALL_MAX: u64 = 1 << 30;
/// Open files of a broker of two cores: those of its pools, and its own.
const FILES_MAX: usize = 1200;
/// A killed broker serves again within this time.
const COMEBACK_MAX: Duration = Duration::from_secs(5);
/// What the sparse logs hold together, bytes.
const SPARSE_BYTES: u64 = 1 << 40;
/// The first offset behind them.
const SPARSE_END: i64 = 1_000_000;

fn partitions() -> i32 {
    let given = std::env::var("STREAMD_MANY_PARTITIONS");
    given.map_or(2000, |n| n.parse().expect("a number of partitions"))
}

fn open_files(broker: &Broker) -> usize {
    let pid = broker.pid().expect("it runs");
    let dir = fs::read_dir(format!("/proc/{pid}/fd"));
    dir.expect("a live process").count()
}

fn chunks(count: i32) -> impl Iterator<Item = std::ops::Range<i32>> {
    (0..count)
        .step_by(IN_REQUEST as usize)
        .map(move |from| from..(from + IN_REQUEST).min(count))
}

fn value(partition: i32, round: i64) -> Vec<u8> {
    format!("record {round} of partition {partition}").into_bytes()
}

/// Appends to each partition the record of this round, whose offset it is.
fn write_all(connection: &mut Connection, count: i32, round: i64) {
    for some in chunks(count) {
        let mut body = Body::default()
            .i16(-1)
            .i16(-1)
            .i32(30_000)
            .i32(1)
            .string(TOPIC);
        body = body.i32(some.len() as i32);
        for partition in some.clone() {
            let batch = Batch::of(&[value(partition, round)]).encode();
            body = body.i32(partition).bytes(&batch);
        }
        let mut answer = connection.call(0, 7, &body).expect("an answer to Produce");
        let (topics, _name, parts) = (answer.i32(), answer.string(), answer.i32());
        assert_eq!((topics, parts), (1, some.len() as i32));
        for partition in some {
            let (index, error, base) = (answer.i32(), answer.i16(), answer.i64());
            let _time_and_start = (answer.i64(), answer.i64());
            assert_eq!((index, error, base), (partition, 0, round), "produce");
        }
    }
}

fn fetch_body(wanted: &[(i32, i64)]) -> Body {
    let head = Body::default().i32(-1).i32(200).i32(1).i32(64 << 20);
    let head = head.i8(0).i32(0).i32(-1).i32(1).string(TOPIC);
    let mut body = head.i32(wanted.len() as i32);
    for (partition, offset) in wanted {
        body = body.i32(*partition).i32(-1).i64(*offset).i64(-1);
        body = body.i32(1 << 20);
    }
    body.i32(0)
}

/// What a fetch of many partitions gave: error and bytes of each.
fn fetched(answer: &mut Answer) -> BTreeMap<i32, (i16, Vec<u8>)> {
    let (_throttle, error, _session) = (answer.i32(), answer.i16(), answer.i32());
    assert_eq!(error, 0, "error of the whole fetch");
    let mut out = BTreeMap::new();
    for _ in 0..answer.i32() {
        let (_name, parts) = (answer.string(), answer.i32());
        for _ in 0..parts {
            let (index, error) = (answer.i32(), answer.i16());
            let _marks = (answer.i64(), answer.i64(), answer.i64());
            for _ in 0..answer.i32().max(0) {
                let _aborted = (answer.i64(), answer.i64());
            }
            out.insert(index, (error, answer.bytes()));
        }
    }
    out
}

/// Reads all partitions from their beginning: the records of so many rounds, and nothing else. One
/// answer may hold a part of a partition's records: what is in its file, say, without its tail.
fn read_all(connection: &mut Connection, count: i32, rounds: i64) {
    for some in chunks(count) {
        let mut wanted: Vec<(i32, i64)> = some.map(|p| (p, 0)).collect();
        while !wanted.is_empty() {
            let body = fetch_body(&wanted);
            let mut answer = connection.call(1, 10, &body).expect("an answer to Fetch");
            let mut found = fetched(&mut answer);
            for (partition, next) in &mut wanted {
                let (error, bytes) = found.remove(partition).expect("what was asked for");
                assert_eq!(error, 0, "fetch of {TOPIC}-{partition}");
                for record in decode(&bytes) {
                    if record.offset < *next {
                        continue;
                    }
                    let got = (record.offset, record.value);
                    assert_eq!(
                        got,
                        (*next, value(*partition, *next)),
                        "{TOPIC}-{partition}"
                    );
                    *next += 1;
                }
                assert!(*next > 0, "{TOPIC}-{partition} is empty");
            }
            wanted.retain(|(_, next)| *next < rounds);
        }
    }
    let ends: Vec<(i32, i64)> = (0..count).map(|p| (p, rounds)).collect();
    for some in ends.chunks(IN_REQUEST as usize) {
        let mut answer = connection
            .call(1, 10, &fetch_body(some))
            .expect("an answer to Fetch");
        for (partition, (error, bytes)) in fetched(&mut answer) {
            assert!(
                error == 0 && bytes.is_empty(),
                "{TOPIC}-{partition} has more"
            );
        }
    }
}

/// Connects, and appends to a partition that nobody asked for before.
fn comeback(broker: &Broker, began: Instant, (partition, offset): (i32, i64)) -> Connection {
    let mut connection = Connection::open(&broker.addr());
    let batch = Batch::of(&[value(partition, offset)]).encode();
    let done = connection
        .produce(TOPIC, partition, &batch)
        .expect("an answer");
    assert_eq!((done.error, done.base), (0, offset));
    let took = began.elapsed();
    eprintln!("many: serves after {} ms", took.as_millis());
    assert!(took < COMEBACK_MAX, "it took {took:?} until it served");
    connection
}

#[test]
fn all_are_there_after_a_kill_and_cost_little() {
    let count = partitions();
    let mut broker = Broker::start(&[]);
    let mut connection = Connection::open(&broker.addr());
    let pid = broker.pid().expect("it runs");
    let (empty, _) = resident(pid);
    connection.create_topic(TOPIC, count, &[]);
    write_all(&mut connection, count, 0);
    let (full, _) = resident(pid);
    let each = full.saturating_sub(empty) / count as u64;
    eprintln!("many: {each} bytes of memory for each of {count} partitions");
    assert!(each <= EACH_MAX, "{each} bytes for each partition");
    for round in 0..2 {
        broker.kill();
        let began = Instant::now();
        broker.start_again();
        // One more record in the last partition; then all others get theirs.
        let last = count - 1;
        let mut connection = comeback(&broker, began, (last, 2 * round + 1));
        write_all(&mut connection, last, 2 * round + 1);
        read_all(&mut connection, count, 2 * round + 2);
        broker.stop();
        let began = Instant::now();
        broker.start_again();
        let mut connection = comeback(&broker, began, (last, 2 * round + 2));
        write_all(&mut connection, last, 2 * round + 2);
        read_all(&mut connection, count, 2 * round + 3);
    }
    let (after, peak) = resident(broker.pid().expect("it runs"));
    assert!(peak <= ALL_MAX, "{peak} bytes at the peak, {after} now");
    let files = open_files(&broker);
    assert!(files <= FILES_MAX, "{files} open files");
}

/// A checkpoint file that says: whole up to [`SPARSE_END`], where a segment begins.
fn checkpoint() -> Vec<u8> {
    let mut out = b"SDCP".to_vec();
    out.extend(1u16.to_le_bytes());
    for v in [0, SPARSE_END, 0, SPARSE_END, -1] {
        out.extend(v.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

/// Makes the directory of a partition that has one large old segment of holes.
fn make_sparse(data: &Path, partition: i32, metadata: &[u8], bytes: u64) {
    let dir = data.join(format!("{TOPIC}-{partition}"));
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("partition.metadata"), metadata).expect("metadata");
    fs::write(dir.join("checkpoint"), checkpoint()).expect("a checkpoint");
    let file = fs::File::create(dir.join(format!("{:020}.log", 0))).expect("a segment");
    file.set_len(bytes).expect("a sparse file");
}

#[test]
fn a_start_does_not_depend_on_what_the_logs_hold() {
    let count = partitions();
    let mut broker = Broker::start(&[]);
    let mut connection = Connection::open(&broker.addr());
    connection.create_topic(TOPIC, count, &[]);
    let batch = Batch::of(&[value(0, 0)]).encode();
    let done = connection.produce(TOPIC, 0, &batch).expect("an answer");
    assert_eq!(done.error, 0);
    broker.stop();
    let metadata = broker
        .data_dir()
        .join(format!("{TOPIC}-0/partition.metadata"));
    let metadata = fs::read(metadata).expect("the topic's id");
    for partition in 1..count {
        let bytes = SPARSE_BYTES / count as u64;
        make_sparse(&broker.data_dir(), partition, &metadata, bytes);
    }
    for round in 0..3 {
        let began = Instant::now();
        broker.start_again();
        let partition = 1 + round * 31 % (count - 1);
        let mut connection = comeback(&broker, began, (partition, SPARSE_END));
        let all = connection
            .fetch(TOPIC, partition, SPARSE_END)
            .expect("an answer");
        assert_eq!((all.error, all.high), (0, SPARSE_END + 1));
        match round {
            0 => broker.kill(),
            1 => broker.stop(),
            _ => {}
        }
    }
}
