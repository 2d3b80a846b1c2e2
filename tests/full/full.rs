//! A small disk gets full under load: the real binary on a file system of its own.
//!
//! Shown: oldest segments of a topic that allows it go, those of one that does not stay; producers
//! are refused with an error that clients retry on, while offsets and metadata go on; the broker
//! never ends by itself, is killed while full, starts while full, and goes on by itself when there
//! is room, also on a disk without one free byte. Every acknowledged record that retention did not
//! delete is there.
//!
//! Needs root and mkfs.ext4, for the file system.

use std::time::{Duration, Instant};

use streamd_tests::batch::{Batch, decode};
use streamd_tests::broker::Broker;
use streamd_tests::disk::SmallDisk;
use streamd_tests::wire::{Body, Connection};

const MIB: u64 = 1 << 20;
const KAFKA_STORAGE_ERROR: i16 = 56;
const REQUEST_TIMED_OUT: i16 = 7;
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// After so long the broker has noticed that there is room.
const NOTICED: Duration = Duration::from_secs(15);

/// What was acknowledged of a partition: number of the record at each offset from 0 on.
struct Topic {
    name: &'static str,
    bytes: usize,
    acked: Vec<(i64, u64)>,
    counter: u64,
}

fn value(number: u64, bytes: usize) -> Vec<u8> {
    let mut value = vec![(number * 31 % 251) as u8; bytes];
    value[..8].copy_from_slice(&number.to_be_bytes());
    value
}

impl Topic {
    fn new(name: &'static str, bytes: usize) -> Topic {
        Topic {
            name,
            bytes,
            acked: Vec::new(),
            counter: 0,
        }
    }

    /// Sends one record; the error that came back.
    fn send(&mut self, connection: &mut Connection) -> i16 {
        self.counter += 1;
        let batch = Batch::of(&[value(self.counter, self.bytes)]).encode();
        let done = connection.produce(self.name, 0, &batch).expect("an answer");
        if done.error == 0 {
            self.acked.push((done.base, self.counter));
        }
        done.error
    }

    /// Sends until a record is refused.
    fn send_until_refused(&mut self, connection: &mut Connection) {
        for _ in 0..4000 {
            match self.send(connection) {
                0 => {}
                KAFKA_STORAGE_ERROR | REQUEST_TIMED_OUT => return,
                error => panic!("{} was refused with error {error}", self.name),
            }
        }
        panic!("{} is never refused", self.name);
    }

    /// Sends until a record is taken again, which must not need anything else.
    fn send_until_taken(&mut self, connection: &mut Connection) {
        let begun = Instant::now();
        while self.send(connection) != 0 {
            assert!(begun.elapsed() < NOTICED, "{} stays refused", self.name);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Everything acknowledged from the log start on is there; gives the log start.
    fn check(&self, connection: &mut Connection) -> i64 {
        let start = log_start(connection, self.name);
        let mut acked = self.acked.iter().filter(|a| a.0 >= start).peekable();
        let mut next = start;
        while acked.peek().is_some() {
            let fetched = connection.fetch(self.name, 0, next).expect("a fetch");
            if fetched.error == OFFSET_OUT_OF_RANGE && log_start(connection, self.name) > next {
                // More went meanwhile.
                return self.check(connection);
            }
            assert_eq!(fetched.error, 0, "fetch of {} at {next}", self.name);
            let reads = decode(&fetched.records);
            assert!(!reads.is_empty(), "{} ends at {next}", self.name);
            let from = next;
            for read in reads.into_iter().filter(|r| r.offset >= from) {
                next = read.offset + 1;
                if let Some((_, number)) = acked.next_if(|a| a.0 == read.offset) {
                    let same = read.value == value(*number, self.bytes);
                    assert!(same, "{} at {}: content", self.name, read.offset);
                }
            }
            let missing = acked.peek().is_some_and(|a| a.0 < next);
            assert!(!missing, "{}: {:?} is missing", self.name, acked.peek());
        }
        start
    }
}

fn log_start(connection: &mut Connection, topic: &str) -> i64 {
    let (error, start) = ask_start(connection, topic);
    assert_eq!(error, 0, "ListOffsets");
    start
}

fn ask_start(connection: &mut Connection, topic: &str) -> (i16, i64) {
    let body = Body::default().i32(-1).i32(1).string(topic);
    let body = body.i32(1).i32(0).i64(-2);
    let mut answer = connection.call(2, 1, &body).expect("an answer");
    let _topic = (answer.i32(), answer.string(), answer.i32(), answer.i32());
    let error = answer.i16();
    let _time = answer.i64();
    (error, answer.i64())
}

/// Waits until a partition that could not be opened on the full disk is.
fn wait_until_open(connection: &mut Connection, topic: &str) {
    let begun = Instant::now();
    loop {
        match ask_start(connection, topic).0 {
            0 => return,
            KAFKA_STORAGE_ERROR => {}
            error => panic!("ListOffsets: error {error}"),
        }
        assert!(begun.elapsed() < NOTICED, "{topic} stays offline");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Commits an offset of a group without members.
fn commit(connection: &mut Connection, topic: &str, offset: i64) {
    for _ in 0..200 {
        let body = Body::default().string("group");
        connection.call(10, 0, &body).expect("a coordinator");
        let body = Body::default().string("group").i32(-1).string("").i64(-1);
        let body = body.i32(1).string(topic).i32(1).i32(0);
        let body = body.i64(offset).string("");
        let mut answer = connection.call(8, 2, &body).expect("an answer");
        let _topic = (answer.i32(), answer.string(), answer.i32(), answer.i32());
        match answer.i16() {
            0 => return,
            14..=16 => std::thread::sleep(Duration::from_millis(50)),
            error => panic!("OffsetCommit: error {error}"),
        }
    }
    panic!("no offset can be committed");
}

/// Lets a topic's oldest segments go, by AlterConfigs.
fn delete_oldest(connection: &mut Connection, topic: &str) {
    let body = Body::default().i32(1).i8(2).string(topic).i32(1);
    let body = body.string("retention.on.full").string("delete-oldest");
    let mut answer = connection.call(33, 0, &body.i8(0)).expect("an answer");
    let _throttle = (answer.i32(), answer.i32());
    assert_eq!(answer.i16(), 0, "AlterConfigs");
}

/// Fills the disk with what may go and what may not; returns both topics.
fn fill(disk: &SmallDisk, connection: &mut Connection) -> (Topic, Topic) {
    let segment = ("segment.bytes", "4194304");
    connection.create_topic("going", 1, &[segment]);
    connection.create_topic("kept", 1, &[segment, ("retention.on.full", "refuse")]);
    commit(connection, "kept", 1);
    let (mut going, mut kept) = (Topic::new("going", 700_000), Topic::new("kept", 900_000));
    for _ in 0..30 {
        assert_eq!(kept.send(connection), 0);
    }
    // More than twice what the disk has.
    while going.counter * going.bytes as u64 <= 800 * MIB {
        going.send_until_taken(connection);
        let free = disk.free();
        assert!(free > 50 * MIB, "{free} bytes are free");
    }
    assert!(going.check(connection) > 0, "old segments go");
    assert_eq!(kept.check(connection), 0, "these stay");
    kept.send_until_refused(connection);
    assert_eq!(kept.check(connection), 0, "these stay");
    let left = disk.free();
    assert!(left > 50 * MIB, "{left} bytes are kept free");
    (going, kept)
}

#[test]
fn a_full_disk_stops_producers_and_nothing_else() {
    let disk = match SmallDisk::mount(400) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped, a small file system cannot be mounted: {why}"),
    };
    let begun = Instant::now();
    let at = |what: &str| println!("{:?}: {what}", begun.elapsed());
    let options = ["--cores", "1", "--memory", "64MiB"];
    let data = disk.path().join("data");
    let mut broker = Broker::start_in(&data, &options);
    let mut connection = Connection::open(&broker.addr());
    let (mut going, mut kept) = fill(&disk, &mut connection);
    at("full");

    // Refused are only producers.
    connection.create_topic("another", 1, &[]);
    commit(&mut connection, "kept", 2);

    // Killed while full; what was acknowledged just now is in the journal alone.
    let _ = going.send(&mut connection);
    broker.kill();
    broker.start_again();
    let mut connection = Connection::open(&broker.addr());
    kept.check(&mut connection);
    going.check(&mut connection);
    disk.fill(30 * MIB);
    kept.send_until_refused(&mut connection);

    at("killed while full, and back");

    // Others take what was kept free, to the last byte; then a clean stop, a start, a kill. What
    // the journal has goes to the segments first: its partitions would wait for room.
    std::thread::sleep(Duration::from_secs(3));
    disk.fill(0);
    commit(&mut connection, "kept", 3);
    broker.stop();
    broker.start_again();
    broker.kill();
    broker.start_again();
    let mut connection = Connection::open(&broker.addr());
    kept.check(&mut connection);
    kept.send_until_refused(&mut connection);

    at("stopped, started, killed, started without a free byte");

    // Room comes back, and then by a setting: it goes on by itself.
    disk.give_back();
    kept.send_until_taken(&mut connection);
    commit(&mut connection, "kept", 4);
    delete_oldest(&mut connection, "kept");
    let begun = kept.counter;
    while log_start(&mut connection, "kept") == 0 {
        kept.send_until_taken(&mut connection);
        let more = (kept.counter - begun) * kept.bytes as u64;
        assert!(more < 800 * MIB, "now its oldest segments go");
    }
    kept.check(&mut connection);
    going.check(&mut connection);
    broker.stop();
    assert!(!broker.log().contains("mend the disk"), "{}", broker.log());
}

#[test]
fn a_disk_that_others_fill_under_load_is_waited_for() {
    let disk = match SmallDisk::mount(300) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped, a small file system cannot be mounted: {why}"),
    };
    let begun = Instant::now();
    let at = |what: &str| println!("{:?}: {what}", begun.elapsed());
    let data = disk.path().join("data");
    // Without marks, so that writes meet the end of the disk.
    let mut options = vec!["--cores", "1", "--memory", "64MiB"];
    options.extend([
        "--set",
        "disk.free.low.bytes=0",
        "--set",
        "disk.free.high.bytes=0",
    ]);
    let mut broker = Broker::start_in(&data, &options);
    let mut connection = Connection::open(&broker.addr());
    let mut topic = Topic::new("t", 700_000);
    connection.create_topic("t", 1, &[("segment.bytes", "4194304")]);
    for _ in 0..2 {
        disk.fill(20 * MIB);
        topic.send_until_refused(&mut connection);
        std::thread::sleep(Duration::from_millis(1500));
        topic.check(&mut connection);
        disk.give_back();
        topic.send_until_taken(&mut connection);
        topic.check(&mut connection);
        at("full, and room again");
    }
    disk.fill(20 * MIB);
    topic.send_until_refused(&mut connection);
    broker.kill();
    // What the journal holds needs room: until there is some its partition is offline.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            disk.give_back();
        });
        broker.start_again();
    });
    let mut connection = Connection::open(&broker.addr());
    wait_until_open(&mut connection, "t");
    topic.check(&mut connection);
    topic.send_until_taken(&mut connection);
    broker.stop();
    assert!(!broker.log().contains("mend the disk"), "{}", broker.log());
}
