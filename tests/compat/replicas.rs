//! Kafka's command line tools that move partitions and elect leaders, against a broker that is
//! alone: they find nothing to do and say so, or do what changes nothing.

use std::process::Stdio;

use streamd_tests::broker::Broker;
use streamd_tests::install::kafka_tool;
use streamd_tests::wire::Connection;

use crate::cli::{assert_has, call};

const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const ELECT: &str = "org.apache.kafka.tools.LeaderElectionCommand";
const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";

#[test]
fn partitions_are_moved_to_where_they_are() {
    let broker = Broker::start(&[]);
    let boot = broker.addr();
    Connection::open(&boot).create_topic("t", 2, &[]);
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let topics = file("topics.json", r#"{"version":1,"topics":[{"topic":"t"}]}"#);
    let generate = [
        "--generate",
        "--broker-list",
        "1",
        "--topics-to-move-json-file",
    ];
    let proposed = call(REASSIGN, &boot, &[&generate[..], &[&topics]].concat());
    let plan = proposed
        .split("Proposed partition reassignment configuration")
        .nth(1);
    let plan = plan.and_then(|text| text.lines().find(|l| l.starts_with('{')));
    let plan = plan.unwrap_or_else(|| panic!("no plan in\n{proposed}"));
    let plan = file("plan.json", plan);
    let with = |more: &[&str]| {
        let plan = ["--reassignment-json-file", &plan];
        call(REASSIGN, &boot, &[more, &plan[..]].concat())
    };
    let done = with(&["--execute", "--throttle", "1000000"]);
    assert_has(
        &done,
        "Successfully started partition reassignments for t-0,t-1",
    );
    let verified = with(&["--verify"]);
    assert_has(&verified, "Reassignment of partition t-0 is completed.");
    assert_has(&verified, "Clearing broker-level throttles");
    assert_has(
        &call(REASSIGN, &boot, &["--list"]),
        "No partition reassignments found.",
    );
    let elected = ["--election-type", "preferred", "--all-topic-partitions"];
    call(ELECT, &boot, &elected);
    let one = ["--topic", "t", "--partition", "1"];
    let one = call(ELECT, &boot, &[&elected[..2], &one].concat());
    assert_has(&one, "Valid replica already elected for partitions t-1");
    for which in ["--under-replicated-partitions", "--unavailable-partitions"] {
        let found = call(TOPICS, &boot, &["--describe", which]);
        assert!(!found.contains("Topic: t"), "{which}:\n{found}");
    }
}

#[test]
fn a_broker_that_was_never_there_is_not_unregistered() {
    let broker = Broker::start(&[]);
    let boot = broker.addr();
    let mut unregister = kafka_tool("org.apache.kafka.tools.ClusterTool");
    let args = ["unregister", "--bootstrap-server", &boot, "--id", "77"];
    let out = unregister.args(args).stdin(Stdio::null()).output();
    let out = out.expect("the tool runs");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert_has(&said, "not registered");
}
