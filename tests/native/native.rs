//! The native protocol as its client crate speaks it, against a real broker: the README's example,
//! SIGKILL under load, and what subscriptions cost that have nothing to do.
//!
//! `STREAMD_IDLE_SUBSCRIPTIONS` sets how many of those there are (500).

#[path = "../../net/client/examples/hello.rs"]
#[allow(dead_code)]
mod example;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use streamd_client::{Client, Options, Record, Start, Subscription};
use streamd_tests::broker::{Broker, free_port, resident};
use streamd_tests::wire::Connection;

const KILLS: u64 = 4;

fn start() -> (Broker, String) {
    let native = format!("127.0.0.1:{}", free_port());
    (Broker::start(&["--native-listen", &native]), native)
}

fn create(broker: &Broker, topic: &str, partitions: i32) {
    Connection::open(&broker.addr()).create_topic(topic, partitions, &[]);
}

#[test]
fn the_example_of_the_readme_runs() {
    let (broker, native) = start();
    create(&broker, "greetings", 1);
    for round in 1..=3 {
        example::hello(&native, "greetings").expect("the example");
        let client = Client::connect(&native).expect("a connection");
        let topic = client.topic("greetings").expect("the topic");
        let next = client.committed("readers", &topic, 0).expect("an offset");
        assert_eq!(next, Some(round * 3));
    }
    let error = example::hello(&native, "nothing").expect_err("there is none");
    assert!(error.to_string().contains("nothing"), "{error}");
}

/// What was acknowledged is there after SIGKILL, once, at its offset; a subscription that lives on
/// sees all of it, once and in order.
#[test]
fn what_is_acknowledged_outlives_the_process() {
    let (mut broker, native) = start();
    create(&broker, "t", 1);
    let client = Client::connect(&native).expect("a connection");
    let topic = client.topic("t").expect("the topic");
    let mut live = client
        .subscribe(&topic, 0, Start::Earliest)
        .expect("a stream");
    let acked: Arc<Mutex<Vec<i64>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (acked, stop, native) = (acked.clone(), stop.clone(), native.clone());
        thread::spawn(move || {
            let client = Client::connect(&native).expect("a connection");
            let mut producer = client.producer().expect("a producer");
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                let record = Record::of(format!("record {n}"));
                let at = producer.append(&topic, 0, &[record]).expect("an append");
                acked.lock().expect("a list").push(at);
                n += 1;
            }
        })
    };
    for round in 0..KILLS {
        thread::sleep(Duration::from_millis(300 + 170 * round));
        broker.kill();
        thread::sleep(Duration::from_millis(100));
        broker.start_again();
    }
    thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer");
    let acked = acked.lock().expect("a list").clone();
    assert!(acked.len() > 20, "{} were acknowledged", acked.len());
    let expected: Vec<i64> = (0..acked.len() as i64).collect();
    assert_eq!(acked, expected, "one producer, each record once");
    let fresh = Client::connect(&native).expect("a connection");
    let mut again = fresh
        .subscribe(&topic, 0, Start::Earliest)
        .expect("a stream");
    for (n, &at) in acked.iter().enumerate() {
        for stream in [&mut live, &mut again] {
            let record = stream.next_record().expect("a record");
            assert_eq!(
                (record.offset, &*record.text()),
                (at, &*format!("record {n}"))
            );
        }
    }
}

/// What Kafka's Java client has committed, aborted, and left open for a while.
#[test]
fn a_reader_of_what_is_committed_sees_nothing_else() {
    let (broker, native) = start();
    let _ = streamd_tests::client::Client::Java.call("txn", &broker.addr(), &["checks", "txn"]);
    let read = |committed: bool| {
        let options = Options {
            committed,
            ..Options::default()
        };
        let client = Client::with(&native, options).expect("a connection");
        let topic = client.topic("txn-commits").expect("the topic");
        let mut found = Vec::new();
        for partition in 0..2 {
            let stream = client.subscribe(&topic, partition, Start::Earliest);
            let mut stream = stream.expect("a stream");
            while let Some(record) = stream.poll(Duration::from_secs(1)).expect("the stream") {
                found.push(record.text().into_owned());
            }
        }
        found.sort_unstable();
        found
    };
    // Of twenty transactions each third was aborted, as was `w`.
    let committed = (0..20).filter(|i| i % 3 != 2).map(|i| format!("v{i}"));
    let committed = committed.chain(["x".to_owned()]);
    let mut wanted: Vec<String> = committed.flat_map(|v| [v.clone(), v]).collect();
    wanted.sort_unstable();
    assert_eq!(read(true), wanted);
    assert_eq!(read(false).len(), 2 * (20 + 2));
}

/// Records larger than the window, and many small ones through a small window.
#[test]
fn a_small_window_lets_everything_through() {
    let (broker, native) = start();
    create(&broker, "t", 2);
    let options = Options {
        window: 4 << 10,
        ..Options::default()
    };
    let client = Client::with(&native, options).expect("a connection");
    let topic = client.topic("t").expect("the topic");
    let mut producer = client.producer().expect("a producer");
    let sizes: Vec<usize> = (0..200)
        .map(|n| if n % 9 == 0 { 40_000 } else { 300 })
        .collect();
    for size in &sizes {
        let records = [Record::keyed("k", vec![b'x'; *size])];
        let done = producer.append_all(&topic, &[(0, &records), (1, &records)]);
        assert!(done.expect("an answer").iter().all(Result::is_ok));
    }
    for partition in 0..2 {
        let stream = client.subscribe(&topic, partition, Start::Earliest);
        let records = stream.expect("a stream").take(sizes.len());
        for (n, (record, size)) in records.zip(&sizes).enumerate() {
            let record = record.expect("a record");
            assert_eq!(record.offset, n as i64);
            assert_eq!(record.value.map(|v| v.len()), Some(*size));
        }
    }
}

/// User and system time of a process, seconds.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a live process");
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let field = |n: usize| -> f64 {
        let value = rest.split_whitespace().nth(n).and_then(|v| v.parse().ok());
        value.expect("ticks")
    };
    (field(11) + field(12)) / 100.0
}

/// The part of a core that a process uses during this time.
fn busy(pid: u32, time: Duration) -> f64 {
    let (from, began) = (cpu(pid), Instant::now());
    thread::sleep(time);
    (cpu(pid) - from) / began.elapsed().as_secs_f64()
}

/// The least of these, no more of them than it takes to be below a limit.
fn least(mut values: impl Iterator<Item = f64>, below: f64) -> f64 {
    let mut least = f64::INFINITY;
    while least >= below
        && let Some(value) = values.next()
    {
        least = least.min(value);
    }
    least
}

#[test]
fn idle_subscriptions_cost_next_to_nothing() {
    const CONNECTIONS: usize = 10;
    const PARTITIONS: i32 = 100;
    let count = std::env::var("STREAMD_IDLE_SUBSCRIPTIONS");
    let count: usize = count.map_or(500, |n| n.parse().expect("a number"));
    let (broker, native) = start();
    create(&broker, "t", PARTITIONS);
    let pid = broker.pid().expect("a process");
    let clients: Vec<Client> = (0..CONNECTIONS)
        .map(|_| Client::connect(&native).expect("a connection"))
        .collect();
    let topic = clients[0].topic("t").expect("the topic");
    let subscribe = |n: usize| -> Subscription {
        let partition = n as i32 % PARTITIONS;
        let stream = clients[n % CONNECTIONS].subscribe(&topic, partition, Start::Latest);
        stream.expect("a stream")
    };
    // What the first of each partition takes is the partition's.
    let mut streams: Vec<Subscription> = (0..100).map(subscribe).collect();
    let before = resident(pid).0;
    streams.extend((0..count).map(subscribe));
    let bytes = resident(pid).0.saturating_sub(before);
    // What was begun before (segments are prepared) ends first: the least of some windows is what
    // idling costs.
    let share = (0..8).map(|_| busy(pid, Duration::from_secs(3)));
    let share = least(share, 0.05);
    eprintln!(
        "{count} idle subscriptions: {} KiB, {:.1} % of a core",
        bytes >> 10,
        share * 100.0
    );
    assert!(share < 0.05, "{:.1} % of a core", share * 100.0);
    // An allocator takes memory in pieces: a few of them are nobody's.
    let most = count as u64 * 10_000 + (8 << 20);
    assert!(bytes < most, "{bytes} bytes for {count}");
    // They are still served, each of them.
    let mut producer = clients[0].producer().expect("a producer");
    for partition in 0..PARTITIONS {
        let done = producer.append(&topic, partition, &[Record::of("x")]);
        done.expect("an append");
    }
    for stream in &mut streams {
        assert_eq!(stream.next_record().expect("a record").text(), "x");
    }
}
