//! Stock clients against one broker: each writes in all its codecs, reads its own and Java's topics
//! back by assignment, is read by Java, and runs its admin calls.
//!
//! What the drivers can't do is listed where it is: `Client::codecs` (zstd in Node before 22.15)
//! and in `Client::reads_of_java`; and kcat sets no timestamps and writes null values only in
//! place of all empty ones. kafkajs has no consumer without a group, so its driver fetches
//! through the same client's broker connection.

mod cli;
mod compaction;
mod groups;
mod kcat;
mod replicas;
mod share;
mod tools;
mod txn;

use std::sync::{Arc, Mutex, OnceLock, Weak};

use streamd_tests::broker::{Broker, external};
use streamd_tests::client::{Client, Records, now_ms};

const RECORDS: u64 = 300;

/// The broker that the tests of this file share, and what Java wrote there for the others to read.
struct Fixture {
    broker: Option<Broker>,
    run: u64,
    records: Records,
    java_topics: OnceLock<Vec<String>>,
}

impl Fixture {
    /// Starts a broker with the first test that asks; it stops after the last one.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Fixture>> = Mutex::new(Weak::new());
        let mut shared = SHARED
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(fixture) = shared.upgrade() {
            return fixture;
        }
        let broker = external().is_none().then(|| Broker::start(&[]));
        let records = Records::generate(RECORDS);
        let fixture = Arc::new(Self {
            broker,
            run: now_ms(),
            records,
            java_topics: OnceLock::new(),
        });
        *shared = Arc::downgrade(&fixture);
        fixture
    }

    fn boot(&self) -> String {
        self.broker
            .as_ref()
            .map_or_else(|| external().expect("a target"), Broker::addr)
    }

    /// A name that no earlier run on the same broker has used.
    fn name(&self, stem: &str) -> String {
        format!("{stem}-{}", self.run)
    }

    fn java_topics(&self) -> &[String] {
        self.java_topics
            .get_or_init(|| Client::Java.produce(&self.boot(), &self.records, &self.name("java")))
    }

    /// The topics that Java wrote in codecs that the client can read.
    fn java_topics_for(&self, client: Client) -> Vec<String> {
        let readable = |t: &&String| client.reads_of_java().any(|c| t.ends_with(c));
        self.java_topics()
            .iter()
            .filter(readable)
            .cloned()
            .collect()
    }
}

/// Writes, reads back, reads Java's, is read by Java; then the admin calls.
fn check(client: Client) {
    let fixture = Fixture::shared();
    let (boot, records) = (fixture.boot(), &fixture.records);
    let mine = client.produce(&boot, records, &fixture.name(client.name()));
    let javas = fixture.java_topics_for(client);
    let all = [mine.clone(), javas].concat();
    client
        .dump(&boot, &all)
        .assert_holds(client.name(), &all, records);
    Client::Java
        .dump(&boot, &mine)
        .assert_holds("java", &mine, records);
    let _ = client.call(
        "admin",
        &boot,
        &[&fixture.name(&format!("admin-{}", client.name()))],
    );
}

#[test]
fn java_writes_and_reads() {
    let fixture = Fixture::shared();
    let topics = fixture.java_topics();
    assert_eq!(topics.len(), 5);
    Client::Java
        .dump(&fixture.boot(), topics)
        .assert_holds("java", topics, &fixture.records);
}

#[test]
fn java_admin() {
    let fixture = Fixture::shared();
    let _ = Client::Java.call("admin", &fixture.boot(), &[&fixture.name("admin-java")]);
}

#[test]
fn java_acks_seeks_and_limits() {
    let fixture = Fixture::shared();
    let _ = Client::Java.call("client", &fixture.boot(), &[&fixture.name("client-java")]);
}

#[test]
fn java3() {
    check(Client::Java3);
}

#[test]
fn confluent() {
    check(Client::Confluent);
}

#[test]
fn kafka_python() {
    check(Client::KafkaPython);
}

#[test]
fn aiokafka() {
    check(Client::AioKafka);
}

#[test]
fn kafkajs() {
    check(Client::KafkaJs);
}

#[test]
fn platformatic() {
    check(Client::Platformatic);
}

#[test]
fn franz_go() {
    check(Client::Franz);
}

#[test]
fn sarama() {
    check(Client::Sarama);
}
