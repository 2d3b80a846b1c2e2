//! What no client should send. The broker answers as Kafka does or closes that connection, goes on
//! serving others within a second, and its memory stays within a budget.
//!
//! Error codes were each checked against Apache Kafka 4.4; where Kafka leaves a choice (or does
//! what a broker should not, such as inflating a bomb whole) the test names every answer that it
//! takes.

mod batches;
mod bombs;
mod crowds;
mod frames;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use streamd_tests::batch::{Batch, decode};
use streamd_tests::broker::{Broker, external, forget_peak, resident};
use streamd_tests::client::now_ms;
use streamd_tests::wire::{Answer, Body, Connection};

/// Peak of resident memory that the broker may reach, whatever these tests do to it.
const RESIDENT_MAX: u64 = 512 << 20;
/// A bystander's produce and fetch take no longer.
const BYSTANDER_MAX: Duration = Duration::from_secs(5);

/// The broker that the tests of this file share, one test at a time.
struct Fixture {
    broker: Option<Broker>,
    run: u64,
    topic: String,
    turn: Mutex<()>,
}

impl Fixture {
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Fixture>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fixture) = shared.upgrade() {
            return fixture;
        }
        raise_open_files();
        let broker = external().is_none().then(|| Broker::start(&[]));
        let run = now_ms();
        let topic = format!("bystander-{run}");
        let fixture = Arc::new(Self {
            broker,
            run,
            topic,
            turn: Mutex::new(()),
        });
        fixture.connect().create_topic(&fixture.topic, 1, &[]);
        *shared = Arc::downgrade(&fixture);
        fixture
    }

    /// Waits for the other tests, so that their load doesn't count in this one's times and memory.
    fn turn(&self) -> MutexGuard<'_, ()> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = self.broker.as_ref().and_then(Broker::pid) {
            forget_peak(pid);
        }
        turn
    }

    fn addr(&self) -> String {
        self.broker
            .as_ref()
            .map_or_else(|| external().expect("a target"), Broker::addr)
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.addr())
    }

    /// A topic of one partition that no earlier run has used.
    fn topic(&self, stem: &str, configs: &[(&str, &str)]) -> String {
        let topic = format!("{stem}-{}", self.run);
        self.connect().create_topic(&topic, 1, configs);
        topic
    }

    /// A newcomer writes a record and reads it back in time, and the broker's memory is in bounds.
    #[track_caller]
    fn assert_serves_on(&self) {
        let start = Instant::now();
        let mut connection = self.connect();
        let value = format!("still here at {}", now_ms());
        let produced = connection.produce(&self.topic, 0, &Batch::of(&[&value]).encode());
        let produced = produced.expect("a bystander's produce is answered");
        assert_eq!(produced.error, 0, "a bystander's produce");
        let fetched = connection.fetch(&self.topic, 0, produced.base);
        let fetched = fetched.expect("a bystander's fetch is answered");
        let took = start.elapsed();
        let records = decode(&fetched.records);
        assert_eq!(records[0].value, value.as_bytes(), "a bystander's record");
        if let Some(pid) = self.broker.as_ref().and_then(Broker::pid) {
            assert!(took <= BYSTANDER_MAX, "a bystander waited {took:?}");
            let (_, peak) = resident(pid);
            assert!(peak <= RESIDENT_MAX, "{} MiB were resident", peak >> 20);
        }
    }
}

/// Lets this process, and the broker that inherits it, hold as many sockets as allowed.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may rise to the hard one");
}

/// What the broker did with a request.
#[derive(Debug)]
enum Outcome {
    Answered(Answer),
    Closed,
}

/// Sends a request alone on a new connection.
fn outcome(fixture: &Fixture, key: i16, version: i16, body: &Body) -> Outcome {
    match fixture.connect().call(key, version, body) {
        Ok(answer) => Outcome::Answered(answer),
        Err(e) => {
            assert_closed(&e);
            Outcome::Closed
        }
    }
}

/// The broker has closed the connection, rather than leaving its client to wait.
#[track_caller]
fn assert_closed(error: &io::Error) {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let closed = [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        UnexpectedEof,
    ];
    assert!(
        closed.contains(&error.kind()),
        "expected a closed connection, got {error}"
    );
}

/// Numbers that look random and are the same in each run (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
}
