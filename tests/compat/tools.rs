//! More of Kafka's own command line tools: those that load and measure, dry runs of offset resets,
//! features, groups and hanging transactions.

use std::process::Stdio;
use std::time::Duration;

use streamd_tests::batch::{Batch, record};
use streamd_tests::broker::Broker;
use streamd_tests::wire::{Body, Connection};

use crate::cli::{assert_has, call, tool};

const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const TRANSACTIONS: &str = "org.apache.kafka.tools.TransactionsCommand";

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn verifiable_producer_and_consumer() {
    let broker = Broker::start(&["--set", "group.initial.rebalance.delay.ms=0"]);
    let boot = broker.addr();
    Connection::open(&boot).create_topic("sure", 2, &[]);
    let producer = "org.apache.kafka.tools.VerifiableProducer";
    let sent = call(
        producer,
        &boot,
        &["--topic", "sure", "--max-messages", "500"],
    );
    assert_has(&sent, "\"name\":\"tool_data\"");
    assert_has(&sent, "\"sent\":500");
    assert_has(&sent, "\"acked\":500");
    for protocol in ["classic", "consumer"] {
        let group = format!("verifiers-{protocol}");
        let args = ["--topic", "sure", "--max-messages", "500"];
        let group = ["--group-id", &group, "--group-protocol", protocol];
        let consumer = "org.apache.kafka.tools.VerifiableConsumer";
        let read = call(
            consumer,
            &boot,
            &[&args[..], &group, &["--reset-policy", "earliest"]].concat(),
        );
        assert_has(&read, "\"name\":\"partitions_assigned\"");
        assert_has(&read, "\"name\":\"offsets_committed\"");
        assert!(
            !read.contains("\"success\":false"),
            "a commit failed:\n{read}"
        );
        let counts = read.lines().filter(|l| l.contains("records_consumed"));
        let counts = counts.filter_map(|l| l.split("\"count\":").nth(1));
        let counts = counts.filter_map(|l| l.split([',', '}']).next()?.parse::<u64>().ok());
        assert_eq!(counts.sum::<u64>(), 500, "{protocol}");
    }
}

#[test]
fn performance_tools() {
    let broker = Broker::start(&["--set", "group.initial.rebalance.delay.ms=0"]);
    let boot = broker.addr();
    Connection::open(&boot).create_topic("fast", 2, &[]);
    let producer = "org.apache.kafka.tools.ProducerPerformance";
    let load = ["--topic", "fast", "--num-records", "20000"];
    let load = [&load[..], &["--record-size", "100", "--throughput", "-1"]].concat();
    assert_has(&call(producer, &boot, &load), "20000 records sent");
    let txns = ["--transactional-id", "t", "--transaction-duration-ms", "50"];
    let txns = [&load[..], &txns].concat();
    assert_has(&call(producer, &boot, &txns), "20000 records sent");
    let consumer = "org.apache.kafka.tools.ConsumerPerformance";
    let args = ["--topic", "fast", "--num-records", "40000"];
    let read = call(
        consumer,
        &boot,
        &[&args[..], &["--timeout", "30000"]].concat(),
    );
    assert_has(&read, ", 40000, ");
}

#[test]
fn resets_of_offsets_are_tried_first() {
    let broker = Broker::start(&["--set", "group.initial.rebalance.delay.ms=0"]);
    let boot = broker.addr();
    let mut connection = Connection::open(&boot);
    connection.create_topic("lines", 1, &[]);
    let values: Vec<String> = (0..50).map(|i| format!("line {i}")).collect();
    let done = connection.produce("lines", 0, &Batch::of(&values).encode());
    assert_eq!(done.expect("an answer to Produce").error, 0);
    let read = [
        "--topic",
        "lines",
        "--group",
        "readers",
        "--max-messages",
        "20",
    ];
    let more = ["--command-property", "auto.offset.reset=earliest"];
    let consumer = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    call(consumer, &boot, &[&read[..], &more].concat());

    let groups = |args: &[&str]| words(&call(GROUPS, &boot, args));
    let described = || groups(&["--describe", "--group", "readers"]);
    let before = "readers lines 0 20 50 30";
    assert_has(&described(), before);
    let reset = |args: &[&str]| {
        let all = ["--reset-offsets", "--group", "readers", "--topic", "lines"];
        groups(&[&all[..], args].concat())
    };
    for (how, to) in [
        (&["--to-earliest"][..], 0),
        (&["--to-latest"], 50),
        (&["--shift-by", "5"], 25),
        (&["--to-datetime", "2000-01-01T00:00:00.000"], 0),
        (&["--by-duration", "PT1H"], 0),
    ] {
        let tried = reset(&[how, &["--dry-run"]].concat());
        assert_has(&tried, &format!("readers lines 0 {to}"));
    }
    assert_has(&described(), before);
    let done = reset(&["--to-offset", "7", "--execute"]);
    assert_has(&done, "readers lines 0 7");
    assert_has(&described(), "readers lines 0 7 50 43");
    let listed = call(
        "org.apache.kafka.tools.GroupsCommand",
        &boot,
        &["--list", "--consumer"],
    );
    assert_has(&words(&listed), "readers Classic consumer");
}

#[test]
fn features_and_cluster() {
    let broker = Broker::start(&[]);
    let boot = broker.addr();
    let features = call(
        "org.apache.kafka.tools.FeatureCommand",
        &boot,
        &["describe"],
    );
    for feature in ["group.version", "transaction.version"] {
        assert_has(&words(&features), &format!("Feature: {feature} Supported"));
    }
    let level = "Feature: streamd.version SupportedMinVersion: 1 SupportedMaxVersion: 2 \
                 FinalizedVersionLevel: 2 Epoch: ";
    assert_has(&words(&features), level);
    let update = |args: &[&str]| {
        let mut tool = streamd_tests::install::kafka_tool("org.apache.kafka.tools.FeatureCommand");
        let out = tool.args(["--bootstrap-server", &boot]).args(args).output();
        let out = out.expect("Java");
        let said = [out.stdout, out.stderr].concat();
        (out.status.success(), words(&String::from_utf8_lossy(&said)))
    };
    let (done, said) = update(&["upgrade", "--feature", "streamd.version=2"]);
    assert!(
        done && said.contains("streamd.version was upgraded to 2."),
        "{said}"
    );
    for (args, why) in [
        (
            ["upgrade", "--feature", "streamd.version=3"],
            "node 1 knows levels 1 to 2",
        ),
        (
            ["downgrade", "--feature", "streamd.version=1"],
            "does not fall",
        ),
        (
            ["upgrade", "--feature", "group.version=2"],
            "it is 1 in every cluster",
        ),
        (
            ["upgrade", "--feature", "none.version=1"],
            "does not support this feature",
        ),
    ] {
        let (done, said) = update(&args);
        assert!(!done, "{args:?}: {said}");
        assert_has(&said, "Invalid update version");
        assert_has(&said, why);
    }
    // Its options come after its command.
    let cluster = "org.apache.kafka.tools.ClusterTool";
    let mut cluster = streamd_tests::install::kafka_tool(cluster);
    cluster.args(["cluster-id", "--bootstrap-server", &boot]);
    let id = streamd_tests::run::output(&mut cluster);
    assert_has(&id, "Cluster ID: ");
}

/// A transaction that its coordinator has never heard of, as clients before Kafka 0.11.0.1 left
/// them: Kafka's tool finds none here, since nobody can write one.
#[test]
fn there_are_no_hanging_transactions() {
    let broker = Broker::start(&[]);
    let boot = broker.addr();
    let mut connection = Connection::open(&boot);
    connection.create_topic("t", 1, &[]);
    let (id, epoch) = connection.init_producer().expect("a producer");
    let mut records = Vec::new();
    record(&mut records, 0, None, b"hanging");
    let mut batch = Batch {
        producer: Some((id, epoch, 0)),
        records,
        count: 1,
        ..Batch::of::<&str>(&[])
    };
    batch.codec |= 16; // transactional
    let body = Body::default().string("nobody").i16(-1).i32(15_000);
    let body = body.i32(1).string("t").i32(1).i32(0).bytes(&batch.encode());
    let mut answer = connection.call(0, 7, &body).expect("an answer to Produce");
    let done = streamd_tests::wire::produced(&mut answer);
    assert_ne!(done.error, 0, "a transaction of nobody's is written");
    let find = ["find-hanging", "--broker-id", "1"];
    let found = call(TRANSACTIONS, &boot, &find);
    assert_eq!(found.lines().count(), 1, "a header alone: {found}");
}

#[test]
fn kafkas_tool_aborts_a_transaction_of_a_partition() {
    let broker = Broker::start(&[]);
    let boot = broker.addr();
    Connection::open(&boot).create_topic("t", 2, &[]);
    let mut opener = streamd_tests::client::Client::Java.driver();
    let mut child = opener
        .args(["txn", &boot, "open", "left-open", "t"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a driver");
    let producers = ["describe-producers", "--topic", "t", "--partition", "0"];
    let is_open = || {
        let text = call(TRANSACTIONS, &boot, &producers);
        let line = text.lines().nth(1).unwrap_or_default().to_owned();
        line.split_whitespace().last().is_some_and(|w| w == "0")
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !is_open() {
        assert!(
            std::time::Instant::now() < deadline,
            "no transaction is open"
        );
    }
    let place = ["--topic", "t", "--partition", "0", "--start-offset", "0"];
    let mut abort = tool(TRANSACTIONS, &boot, &[&["abort"], &place[..]].concat());
    let _ = streamd_tests::run::output(&mut abort);
    assert!(!is_open(), "it is still open after its abort");
    child.kill().expect("the driver ends");
    child.wait().expect("the driver");
}
