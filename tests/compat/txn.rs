//! Transactions of stock clients: what is committed is read, what is aborted is not, offsets go
//! with them, zombies and slow ones are fenced; and all of it while the broker is killed.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use streamd_tests::batch::Batch;
use streamd_tests::broker::{Broker, streamctl};
use streamd_tests::client::Client;
use streamd_tests::install;
use streamd_tests::run::{command, output};
use streamd_tests::wire::Connection;

const PATIENCE: Duration = Duration::from_secs(60);

fn broker() -> Broker {
    Broker::start(&["--set", "group.initial.rebalance.delay.ms=0"])
}

/// A driver that runs beside the test, and the lines that it prints.
fn run_beside(command: &mut Command) -> (std::process::Child, Receiver<String>) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a driver");
    let output = child.stdout.take().expect("a pipe");
    let (say, said) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // The test may be over.
            let _ = say.send(line);
        }
    });
    (child, said)
}

fn read(boot: &str, topic: &str) -> Vec<String> {
    let text = Client::Java.call("txn", boot, &["read", topic]);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn java() {
    let broker = broker();
    let _ = Client::Java.call("txn", &broker.addr(), &["checks", "txn"]);
}

#[test]
fn java3() {
    let broker = broker();
    let _ = Client::Java3.call("txn", &broker.addr(), &["checks", "txn"]);
}

#[test]
fn java_all_or_nothing_while_the_broker_is_killed() {
    check_all_or_nothing(Client::Java);
}

#[test]
fn java3_all_or_nothing_while_the_broker_is_killed() {
    check_all_or_nothing(Client::Java3);
}

fn check_all_or_nothing(client: Client) {
    let mut broker = broker();
    let boot = broker.addr();
    for topic in ["one", "two"] {
        Connection::open(&boot).create_topic(topic, 2, &[]);
    }
    let mut pump = client.driver();
    let (mut child, said) = run_beside(pump.args(["txn", &boot, "pump", "one", "two"]));
    let first = said.recv_timeout(PATIENCE).expect("a transaction");
    let mut lines = vec![first];
    for _ in 0..5 {
        sleep(Duration::from_millis(700));
        broker.kill();
        broker.start_again();
        // Something gets through again.
        let line = said
            .recv_timeout(PATIENCE)
            .expect("a transaction after a kill");
        lines.push(line);
    }
    drop(child.stdin.take());
    assert!(child.wait().expect("the driver").success());
    lines.extend(said.iter());

    // What the last life left open is aborted by the beginning of another.
    let (one, two) = (read(&boot, "one"), read(&boot, "two"));
    assert_eq!(one, two, "a torn transaction");
    let values: BTreeSet<&String> = one.iter().collect();
    assert_eq!(one.len(), values.len() * 2, "each once in each partition");
    let mut committed = 0;
    for line in &lines {
        let (what, value) = line.split_once(' ').expect("a fate and a value");
        let is_there = values.contains(&value.to_owned());
        assert_eq!(is_there, what == "committed", "{line}");
        committed += u32::from(is_there);
    }
    assert!(committed > 20, "only {committed} transactions");
}

#[test]
fn java_moves_each_record_once_while_the_broker_is_killed() {
    const COUNT: usize = 400;
    let mut broker = broker();
    let boot = broker.addr();
    for topic in ["from", "to"] {
        Connection::open(&boot).create_topic(topic, 2, &[]);
    }
    for partition in 0..2 {
        let values: Vec<String> = (0..COUNT / 2)
            .map(|i| format!("{partition}-{i:04}"))
            .collect();
        let batch = Batch::of(&values).encode();
        let done = Connection::open(&boot).produce("from", partition, &batch);
        assert_eq!(done.expect("an answer to Produce").error, 0);
    }
    let mut mover = Client::Java.driver();
    let count = COUNT.to_string();
    let (mut child, said) = run_beside(mover.args(["txn", &boot, "move", "from", "to", &count]));
    said.recv_timeout(PATIENCE).expect("the first records");
    for _ in 0..3 {
        sleep(Duration::from_millis(300));
        broker.kill();
        broker.start_again();
        sleep(Duration::from_millis(1500));
    }
    let deadline = Instant::now() + 2 * PATIENCE;
    while child.try_wait().expect("a child's state").is_none() {
        assert!(Instant::now() < deadline, "it does not get on");
        sleep(Duration::from_millis(100));
    }
    let moved = read(&boot, "to");
    let want: Vec<String> = (0..2)
        .flat_map(|p| (0..COUNT / 2).map(move |i| format!("{p}-{i:04}")))
        .collect();
    assert_eq!(moved, want);
}

/// Another client writes, Java reads.
fn check(client: Client) {
    let broker = broker();
    let boot = broker.addr();
    let _ = client.call("txn", &boot, &["t"]);
    let want: Vec<String> = (0..10)
        .filter(|i| i % 3 != 2)
        .flat_map(|i| vec![format!("n{i}"); 2])
        .collect();
    assert_eq!(read(&boot, "t"), want);
}

#[test]
fn confluent() {
    check(Client::Confluent);
}

#[test]
fn aiokafka() {
    check(Client::AioKafka);
}

#[test]
fn franz_go() {
    check(Client::Franz);
}

#[test]
fn sarama() {
    check(Client::Sarama);
}

#[test]
fn kafkajs() {
    check(Client::KafkaJs);
}

#[test]
fn platformatic() {
    check(Client::Platformatic);
}

fn kafka_transactions(boot: &str, args: &[&str]) -> String {
    let mut tool = install::kafka_tool("org.apache.kafka.tools.TransactionsCommand");
    output(tool.args(["--bootstrap-server", boot]).args(args))
}

#[test]
fn tools_show_and_abort() {
    let broker = broker();
    let boot = broker.addr();
    Connection::open(&boot).create_topic("t", 2, &[]);
    let mut opener = Client::Java.driver();
    let (mut child, said) = run_beside(opener.args(["txn", &boot, "open", "left-open", "t"]));
    said.recv_timeout(PATIENCE).expect("an open transaction");

    let listed = kafka_transactions(&boot, &["list"]);
    assert!(
        listed.contains("left-open") && listed.contains("Ongoing"),
        "{listed}"
    );
    for (pattern, found) in [("l[a-f]{2}t-(open|shut)", true), ("left", false)] {
        let args = ["list", "--transactional-id-pattern", pattern];
        let listed = kafka_transactions(&boot, &args);
        assert_eq!(listed.contains("left-open"), found, "{pattern}: {listed}");
    }
    let described = kafka_transactions(&boot, &["describe", "--transactional-id", "left-open"]);
    for part in ["t-0", "t-1", "Ongoing"] {
        assert!(described.contains(part), "{described}");
    }
    let args = ["describe-producers", "--topic", "t", "--partition", "0"];
    let producers = kafka_transactions(&boot, &args);
    assert_eq!(producers.lines().count(), 2, "{producers}");

    let ctl = |args: &[&str]| output(command(streamctl()).args(["--bootstrap", &boot]).args(args));
    let listed = ctl(&["txn", "list"]);
    assert!(
        listed.contains("left-open") && listed.contains("Ongoing"),
        "{listed}"
    );
    let described = ctl(&["txn", "describe", "left-open"]);
    assert!(
        described.contains("t-0") && described.contains("Ongoing"),
        "{described}"
    );
    let aborted = ctl(&["txn", "abort", "left-open"]);
    assert!(aborted.contains("left-open"), "{aborted}");
    let listed = ctl(&["txn", "list"]);
    assert!(!listed.contains("Ongoing"), "{listed}");
    assert_eq!(read(&boot, "t"), Vec::<String>::new());
    child.kill().expect("the driver ends");
    child.wait().expect("the driver");
}
