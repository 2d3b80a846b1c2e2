//! The main job on real input: 336,776 flights written by librdkafka (keyed by tail number, lz4,
//! idempotent, 12 partitions), a SIGKILL while records are in flight, a restart, and Java reading
//! all.
//!
//! Shown: every acknowledged record is there exactly once, where its acknowledgement said, with
//! its content (by hash); each key's records are in order and in the partition that Java's
//! murmur2 picks. Flights without a tail number have null keys, and are in order within their
//! partition too.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Instant;

use streamd_tests::broker::{Broker, external};
use streamd_tests::client::{Client, now_ms};
use streamd_tests::install;
use streamd_tests::run::{command, source_dir};

const FLIGHTS: usize = 336_776;
const PARTITIONS: u32 = 12;
/// Acknowledged records after which the broker is killed: about a third and two thirds of all.
const KILLS: [usize; 2] = [110_000, 220_000];

/// One flight as its producer or its reader saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flight {
    partition: u32,
    offset: u64,
    key: String,
    hash: String,
}

fn start_producer(boot: &str, topic: &str) -> Child {
    command(install::python())
        .arg(source_dir().join("mainjob/produce.py"))
        .args([boot, topic])
        .arg(install::flights())
        .arg(PARTITIONS.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the producer starts")
}

/// Lets the producer do its work, kills the broker at the given points, returns the
/// acknowledgements.
fn produce(broker: &mut Option<Broker>, boot: &str, topic: &str) -> Vec<Flight> {
    let mut producer = start_producer(boot, topic);
    let output = BufReader::new(producer.stdout.take().expect("a pipe"));
    let mut kills = KILLS.iter().peekable();
    let mut acked = Vec::with_capacity(FLIGHTS);
    for line in output.lines() {
        let line = line.expect("the producer's output");
        if let Some(count) = line.strip_prefix("acked ") {
            let count: usize = count.parse().expect("a count");
            if kills.next_if(|&&at| count >= at).is_some() {
                let Some(broker) = broker else { continue };
                assert!(count < FLIGHTS - 20_000, "records are still in flight");
                broker.kill();
                broker.start_again();
            }
            continue;
        }
        let f: Vec<&str> = line.split('\t').collect();
        assert_eq!(
            f[0].parse(),
            Ok(acked.len()),
            "acknowledgements in the order of the file"
        );
        acked.push(Flight {
            partition: f[1].parse().expect("a partition"),
            offset: f[2].parse().expect("an offset"),
            key: f[3].to_owned(),
            hash: f[4].to_owned(),
        });
    }
    assert!(
        producer.wait().expect("the producer ends").success(),
        "the producer failed"
    );
    assert_eq!(kills.next(), None, "a kill that didn't happen");
    acked
}

/// What Java reads, by sequence number; panics on a record that is there twice.
fn read(boot: &str, topic: &str) -> BTreeMap<usize, Flight> {
    let mut read = BTreeMap::new();
    let mut last = [None; PARTITIONS as usize];
    for line in Client::Java.call("flights", boot, &[topic]).lines() {
        let f: Vec<&str> = line.split('\t').collect();
        let seq: usize = f[2].parse().expect("a sequence number");
        let flight = Flight {
            partition: f[0].parse().expect("a partition"),
            offset: f[1].parse().expect("an offset"),
            key: f[4].to_owned(),
            hash: f[5].to_owned(),
        };
        if flight.key != "~" {
            assert_eq!(f[3], f[0], "partition of {flight:?} by Java's murmur2");
        }
        // One producer writes in the order of the file: order per partition holds order per key.
        let before = last[flight.partition as usize].replace(seq);
        assert!(
            before < Some(seq),
            "{seq} is after {before:?} in partition {}",
            flight.partition
        );
        let twice = read.insert(seq, flight);
        assert_eq!(twice, None, "flight {seq} is there twice");
    }
    read
}

#[test]
fn flights_survive_kills_once_and_in_order() {
    let mut broker = external().is_none().then(|| Broker::start(&[]));
    let boot = broker
        .as_ref()
        .map_or_else(|| external().expect("a target"), Broker::addr);
    let topic = format!("flights-{}", now_ms());
    let _ = (install::python(), install::flights(), install::java());
    let start = Instant::now();
    let acked = produce(&mut broker, &boot, &topic);
    println!("written in {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(acked.len(), FLIGHTS);
    let read = read(&boot, &topic);
    assert_eq!(read.len(), FLIGHTS, "flights that Java read");
    for (seq, want) in acked.iter().enumerate() {
        assert_eq!(&read[&seq], want, "flight {seq}: as read, as acknowledged");
    }
    let used: std::collections::BTreeSet<u32> = acked.iter().map(|f| f.partition).collect();
    assert_eq!(
        used.len(),
        PARTITIONS as usize,
        "partitions that hold flights"
    );
    println!(
        "{FLIGHTS} flights checked after {:.1} s",
        start.elapsed().as_secs_f64()
    );
}
