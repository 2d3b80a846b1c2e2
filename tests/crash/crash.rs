//! Rounds of SIGKILL or SIGTERM at random moments under load, a restart, and a full read.
//!
//! Shown after each restart: offsets have no gaps; every acknowledged batch is where its
//! acknowledgement said, byte for byte; each producer's records are there once and in order, also
//! the ones that it had to send again. At the end of each topic Kafka's own DumpLogSegments reads
//! every segment. `STREAMD_CRASH_ROUNDS` sets the rounds (10), `STREAMD_CRASH_SEED` repeats a
//! run's choices.

mod compact;
mod dump;
mod load;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use streamd_tests::batch::{Read, decode};
use streamd_tests::broker::Broker;
use streamd_tests::client::now_ms;
use streamd_tests::noise::Noise;
use streamd_tests::wire::Connection;

use load::{PARTITIONS, Producer, value};

const PRODUCERS: u64 = 3;
/// A topic serves so many rounds; then a new one keeps full reads short.
const ROUNDS_PER_TOPIC: u64 = 10;
/// A killed broker serves again within this time.
const COMEBACK_MAX: Duration = Duration::from_secs(15);
/// A broker that is alone has nobody to hand anything over to: it stops within this time.
const STOP_MAX: Duration = Duration::from_secs(3);

/// All records of a partition, by fetches from the beginning to the end.
fn read_all(connection: &mut Connection, topic: &str, partition: usize) -> Vec<Read> {
    let mut out: Vec<Read> = Vec::new();
    loop {
        let next = out.len() as i64;
        let fetched = connection
            .fetch(topic, partition as i32, next)
            .expect("a fetch");
        assert_eq!(fetched.error, 0, "fetch of {topic}-{partition} at {next}");
        if fetched.high <= next {
            return out;
        }
        let before = out.len();
        out.extend(
            decode(&fetched.records)
                .into_iter()
                .filter(|r| r.offset >= next),
        );
        assert!(
            out.len() > before,
            "{topic}-{partition} stands still at {next} of {}",
            fetched.high
        );
        for (i, read) in out.iter().enumerate().skip(before) {
            assert_eq!(read.offset, i as i64, "offsets of {topic}-{partition}");
        }
    }
}

fn number(value: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(value[at..at + 8].try_into().expect("8 bytes"))
}

/// Reads all and compares it with what the producers know; returns how many records there are.
fn check(addr: &str, topic: &str, producers: &[Producer]) -> usize {
    let mut connection = Connection::open(addr);
    let mut total = 0;
    for partition in 0..PARTITIONS {
        let records = read_all(&mut connection, topic, partition);
        total += records.len();
        let mut next = BTreeMap::<u64, u64>::new();
        for read in &records {
            assert!(
                read.value.len() >= 24,
                "{topic}-{partition} at {}: no value of ours",
                read.offset
            );
            let (producer, index) = (number(&read.value, 0), number(&read.value, 16));
            let want = next.entry(producer).or_default();
            assert_eq!(
                index, *want,
                "{topic}-{partition} at {}: the next record of producer {producer}",
                read.offset
            );
            *want += 1;
            let whole = value(producer, partition, index);
            assert_eq!(
                read.value, whole,
                "{topic}-{partition} at {}: content",
                read.offset
            );
        }
        check_acked(topic, partition, &records, producers);
    }
    total
}

fn check_acked(topic: &str, partition: usize, records: &[Read], producers: &[Producer]) {
    for producer in producers {
        let here = producer
            .acked
            .iter()
            .filter(|a| a.sent.partition == partition);
        for acked in here {
            for i in 0..acked.sent.count {
                let offset = acked.base as usize + i as usize;
                let Some(read) = records.get(offset) else {
                    panic!(
                        "{topic}-{partition} lost {acked:?}: it ends at {}",
                        records.len()
                    );
                };
                let got = (number(&read.value, 0), number(&read.value, 16));
                let want = (producer.number, acked.sent.first + i);
                assert_eq!(
                    got, want,
                    "{topic}-{partition} at {offset}: acknowledged {acked:?}"
                );
            }
        }
    }
}

/// Lets all producers send for a while, ends the broker under them, and starts it again.
fn round(broker: &mut Broker, producers: &mut [Producer], load: Duration, end: fn(&mut Broker)) {
    let (addr, stop) = (broker.addr(), AtomicBool::new(false));
    thread::scope(|scope| {
        let running: Vec<_> = producers
            .iter_mut()
            .map(|p| scope.spawn(|| p.run(&addr, &stop)))
            .collect();
        thread::sleep(load);
        end(broker);
        stop.store(true, Ordering::Relaxed);
        for producer in running {
            // One whose batches were all acknowledged at that instant ends without an error.
            let _ = producer.join().expect("a producer's thread");
        }
    });
    let start = Instant::now();
    broker.start_again();
    let took = start.elapsed();
    assert!(took <= COMEBACK_MAX, "the restart took {took:?}");
}

fn env(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |n| {
        n.parse()
            .unwrap_or_else(|_| panic!("{name}={n} is no count"))
    })
}

#[test]
fn kill_9_under_load_loses_and_doubles_nothing() {
    let rounds = env("STREAMD_CRASH_ROUNDS", 10);
    let seed = env("STREAMD_CRASH_SEED", now_ms());
    println!("STREAMD_CRASH_SEED={seed}");
    let mut noise = Noise::new(seed);
    let mut broker = Broker::start(&[]);
    let addr = broker.addr();
    for set in 0..rounds.div_ceil(ROUNDS_PER_TOPIC) {
        let topic = format!("crash-{set}");
        let configs = [("segment.bytes", "1048576")];
        Connection::open(&addr).create_topic(&topic, PARTITIONS as i32, &configs);
        let mut producers: Vec<Producer> = (0..PRODUCERS)
            .map(|n| Producer::new(&addr, &topic, n, seed))
            .collect();
        for n in set * ROUNDS_PER_TOPIC..rounds.min((set + 1) * ROUNDS_PER_TOPIC) {
            let load = Duration::from_millis(100 + noise.below(1500));
            round(&mut broker, &mut producers, load, Broker::kill);
            let total = check(&addr, &topic, &producers);
            let acked: u64 = producers.iter().map(Producer::acked).sum();
            println!(
                "round {n}: killed after {load:?}: {acked} records acknowledged, {total} hold"
            );
        }
        dump::assert_readable(&broker.data_dir(), &topic);
        for producer in &mut producers {
            producer.finish(&addr).expect("the rest is written");
        }
        let total = check(&addr, &topic, &producers);
        broker.stop();
        dump::assert_readable(&broker.data_dir(), &topic);
        broker.start_again();
        assert_eq!(
            check(&addr, &topic, &producers),
            total,
            "records after a clean stop"
        );
    }
}

#[test]
fn a_stop_under_load_is_quick_and_the_next_start_serves_everything() {
    let mut broker = Broker::start(&[]);
    let addr = broker.addr();
    let stop = |broker: &mut Broker| {
        let begun = Instant::now();
        broker.stop();
        let took = begun.elapsed();
        assert!(took <= STOP_MAX, "the stop took {took:?}");
    };
    // As soon as it answers at all.
    stop(&mut broker);
    broker.start_again();
    Connection::open(&addr).create_topic("stop", PARTITIONS as i32, &[]);
    let mut producers: Vec<Producer> = (0..PRODUCERS)
        .map(|n| Producer::new(&addr, "stop", n, n))
        .collect();
    for load in [300, 1_700, 10] {
        let load = Duration::from_millis(load);
        round(&mut broker, &mut producers, load, stop);
        check(&addr, "stop", &producers);
        // The metadata takes changes again.
        let topic = format!("after-{}", load.as_millis());
        Connection::open(&addr).create_topic(&topic, 1, &[]);
    }
    for producer in &mut producers {
        producer.finish(&addr).expect("the rest is written");
    }
    let total = check(&addr, "stop", &producers);
    let acked: u64 = producers.iter().map(Producer::acked).sum();
    assert!(acked > 0 && total as u64 == acked, "{total} of {acked}");
    stop(&mut broker);
}
