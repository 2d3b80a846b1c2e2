//! Kafka's own command line tools, and ours for groups.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use streamd_tests::broker::{Broker, streamctl};
use streamd_tests::client::Client;
use streamd_tests::install::kafka_tool;
use streamd_tests::run::{command, output};

use crate::Fixture;

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";

/// A tool that is pointed at the broker.
pub fn tool(class: &str, boot: &str, args: &[&str]) -> Command {
    let mut c = kafka_tool(class);
    c.args(["--bootstrap-server", boot]).args(args);
    c
}

pub fn call(class: &str, boot: &str, args: &[&str]) -> String {
    output(&mut tool(class, boot, args))
}

#[track_caller]
pub fn assert_has(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in:\n{text}");
}

#[test]
fn kafka_topics_and_configs() {
    let fixture = Fixture::shared();
    let (boot, topic) = (fixture.boot(), fixture.name("cli-topics"));
    let topics = |args: &[&str]| call(TOPICS, &boot, args);
    let created = [
        "--create",
        "--topic",
        &topic,
        "--partitions",
        "2",
        "--config",
        "segment.bytes=1048576",
    ];
    assert_has(&topics(&created), "Created topic");
    assert_has(&topics(&["--list"]), &topic);
    assert_has(
        &topics(&["--describe", "--topic", &topic]),
        "PartitionCount: 2",
    );
    assert_has(
        &topics(&["--describe", "--topic", &topic]),
        "segment.bytes=1048576",
    );
    topics(&["--alter", "--topic", &topic, "--partitions", "5"]);
    assert_has(
        &topics(&["--describe", "--topic", &topic]),
        "PartitionCount: 5",
    );

    let entity = ["--entity-type", "topics", "--entity-name", &topic];
    let configs = |args: &[&str]| call(CONFIGS, &boot, &[&entity, args].concat());
    assert_has(
        &configs(&["--alter", "--add-config", "retention.ms=12345678"]),
        "Completed updating",
    );
    assert_has(&configs(&["--describe"]), "retention.ms=12345678");
    configs(&["--alter", "--delete-config", "retention.ms"]);
    assert!(
        !configs(&["--describe"]).contains("retention.ms"),
        "a deleted config is described"
    );
    assert_has(&configs(&["--describe", "--all"]), "retention.ms=604800000");

    topics(&["--delete", "--topic", &topic]);
    assert!(
        !topics(&["--list"]).contains(&topic),
        "a deleted topic is listed"
    );
}

#[test]
fn kafka_console_offsets_and_deletion() {
    let fixture = Fixture::shared();
    let (boot, topic) = (fixture.boot(), fixture.name("cli-console"));
    console_produce(&boot, &topic, 1000); // the topic is made by its first use
    let consumer = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let place = [
        "--topic",
        &topic,
        "--partition",
        "0",
        "--offset",
        "earliest",
    ];
    let got = call(
        consumer,
        &boot,
        &[
            &place[..],
            &["--max-messages", "1000", "--timeout-ms", "20000"],
        ]
        .concat(),
    );
    let want: String = (0..1000).map(|i| format!("line {i}\n")).collect();
    assert_eq!(got, want, "console-producer to console-consumer");
    assert_has(
        &call(OFFSETS, &boot, &["--topic", &topic]),
        &format!("{topic}:0:1000"),
    );

    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    write!(
        file,
        r#"{{"partitions":[{{"topic":"{topic}","partition":0,"offset":300}}],"version":1}}"#
    )
    .expect("a temporary file");
    let path = file.path().display().to_string();
    let deleted = call(
        "org.apache.kafka.tools.DeleteRecordsCommand",
        &boot,
        &["--offset-json-file", &path],
    );
    assert_has(&deleted, "low_watermark: 300");
    assert_has(
        &call(OFFSETS, &boot, &["--topic", &topic, "--time", "-2"]),
        &format!("{topic}:0:300"),
    );
    assert_has(
        &call(OFFSETS, &boot, &["--topic", &topic, "--time", "-1"]),
        &format!("{topic}:0:1000"),
    );

    let dirs = call(
        "org.apache.kafka.tools.LogDirsCommand",
        &boot,
        &["--describe", "--topic-list", &topic],
    );
    assert_has(&dirs, &format!("\"partition\":\"{topic}-0\""));
    let versions = call(
        "org.apache.kafka.tools.BrokerApiVersionsCommand",
        &boot,
        &[],
    );
    assert_has(&versions, "Produce(0): 0 to ");
    assert_has(&versions, "Fetch(1): 4 to ");
}

/// Ours, as a script calls it.
fn ours(boot: &str, args: &[&str]) -> String {
    output(command(streamctl()).args(["--bootstrap", boot]).args(args))
}

#[test]
fn groups_by_kafkas_tools_and_ours() {
    let broker = Broker::start(&["--set", "group.initial.rebalance.delay.ms=0"]);
    let boot = broker.addr();
    console_produce(&boot, "lines", 100);
    let consumer = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let read = |count: &str| {
        let args = [
            "--topic",
            "lines",
            "--group",
            "readers",
            "--max-messages",
            count,
            "--timeout-ms",
            "20000",
            "--command-property",
            "auto.offset.reset=earliest",
        ];
        call(consumer, &boot, &args).lines().count()
    };
    assert_eq!(read("60"), 60);
    let groups = |args: &[&str]| {
        let tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
        call(tool, &boot, args)
    };
    assert_has(&groups(&["--list"]), "readers");
    let state = groups(&["--describe", "--group", "readers", "--state"]);
    assert_has(&state, "Empty");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let described = words(&groups(&["--describe", "--group", "readers"]));
    assert_has(&described, "readers lines 0 60 100 40");
    assert_has(
        &words(&ours(&boot, &["group", "list"])),
        "readers Empty classic consumer",
    );
    assert_has(
        &words(&ours(&boot, &["group", "lag"])),
        "readers lines 1 40",
    );
    let shown = ours(&boot, &["group", "describe", "readers"]);
    assert_has(&shown, "Group readers: Empty, 0 members, lag 40");

    // Ours tries, Kafka's executes, and the other way round.
    let to = |more: &[&str]| {
        let args = ["group", "reset-offsets", "readers", "--topic", "lines"];
        words(&ours(&boot, &[&args[..], more].concat()))
    };
    assert_has(&to(&["--shift-by", "-10"]), "lines 0 60 50");
    let reset = ["--reset-offsets", "--group", "readers", "--topic", "lines"];
    let shift = ["--shift-by", "-10", "--execute"];
    assert_has(
        &words(&groups(&[&reset[..], &shift].concat())),
        "readers lines 0 50",
    );
    assert_has(
        &to(&["--to-offset", "500"]),
        "lines 0 50 100 (the log has no more)",
    );
    assert_has(&to(&["--to-earliest", "--execute"]), "lines 0 50 0");
    assert_eq!(read("100"), 100, "everything again");

    let deleted = groups(&["--delete-offsets", "--group", "readers", "--topic", "lines"]);
    assert_has(&deleted, "Successful");
    ours(&boot, &["group", "delete", "readers"]);
    assert!(!groups(&["--list"]).contains("readers"));
    let missing = command(streamctl())
        .args(["--bootstrap", &boot, "group", "describe", "readers"])
        .output()
        .expect("streamctl starts");
    assert_eq!(missing.status.code(), Some(1));
    assert_has(
        &String::from_utf8_lossy(&missing.stderr),
        "there is no group `readers`",
    );
}

#[test]
fn groups_of_the_consumer_protocol_by_kafkas_tools_and_ours() {
    let broker = Broker::start(&["--set", "group.consumer.heartbeat.interval.ms=300"]);
    let boot = broker.addr();
    console_produce(&boot, "lines", 50);
    let mut member = Client::Java
        .driver()
        .args(["group", &boot, "lines", "readers", "-", "consumer"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a driver");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let deadline = Instant::now() + Duration::from_secs(60);
    while words(&ours(&boot, &["group", "lag"])) != "Group Topic Partitions Lag readers lines 1 0" {
        assert!(
            Instant::now() < deadline,
            "{}",
            ours(&boot, &["group", "lag"])
        );
        sleep(Duration::from_millis(200));
    }
    let groups = |args: &[&str]| {
        let tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
        words(&call(tool, &boot, args))
    };
    assert_has(
        &groups(&["--list", "--type", "consumer", "--state"]),
        "readers Consumer Stable",
    );
    assert!(!groups(&["--list", "--type", "classic"]).contains("readers"));
    let one = ["--describe", "--group", "readers"];
    assert_has(&groups(&one), "readers lines 0 50 50 0");
    assert_has(
        &groups(&[&one[..], &["--state"]].concat()),
        "uniform Stable",
    );
    let members = groups(&[&one[..], &["--members", "--verbose"]].concat());
    assert_has(&members, "lines:0");
    assert_has(
        &words(&ours(&boot, &["group", "list"])),
        "readers Stable consumer consumer",
    );
    let shown = ours(&boot, &["group", "describe", "readers"]);
    assert_has(&shown, "Group readers: Stable, uniform, 1 member, lag 0");
    let key = "consumer.session.timeout.ms";
    let set = [
        "--alter",
        "--entity-type",
        "groups",
        "--entity-name",
        "readers",
    ];
    let value = format!("{key}=46000");
    call(
        CONFIGS,
        &boot,
        &[&set[..], &["--add-config", &value]].concat(),
    );
    let get = [
        "--describe",
        "--entity-type",
        "groups",
        "--entity-name",
        "readers",
    ];
    assert_has(&call(CONFIGS, &boot, &get), &value);
    assert_has(
        &ours(&boot, &["config", "describe", "group", "readers"]),
        "46000",
    );

    let mut input = member.stdin.take().expect("a pipe");
    writeln!(input, "stop").expect("the member listens");
    drop(input);
    assert!(member.wait().expect("a child's state").success());
    ours(
        &boot,
        &[
            "group",
            "reset-offsets",
            "readers",
            "--topic",
            "lines",
            "--to-earliest",
            "--execute",
        ],
    );
    assert_has(
        &words(&ours(&boot, &["group", "lag"])),
        "readers lines 1 50",
    );
    assert_has(&groups(&["--delete", "--group", "readers"]), "successful");
    assert!(!ours(&boot, &["group", "list"]).contains("readers"));
}

fn console_produce(boot: &str, topic: &str, count: usize) {
    let producer = "org.apache.kafka.tools.ConsoleProducer";
    let mut child = tool(
        producer,
        boot,
        &["--topic", topic, "--compression-codec", "zstd"],
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::null())
    .stderr(Stdio::piped())
    .spawn()
    .expect("console-producer starts");
    let lines: String = (0..count).map(|i| format!("line {i}\n")).collect();
    let mut input = child.stdin.take().expect("a pipe");
    input
        .write_all(lines.as_bytes())
        .expect("console-producer reads");
    drop(input);
    let done = child.wait_with_output().expect("console-producer ends");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success() && !errors.contains("ERROR"),
        "console-producer: {errors}"
    );
}
