//! Bad requests, and whether they are refused as Apache Kafka refuses them.
//!
//! One program sends the same requests by hand to any broker and notes each answer's error codes.
//! What Kafka answers is kept in `kafka.txt`; our answers are compared with it, but for what
//! `DIFFERENCES` explains. To ask a Kafka anew, point `STREAMD_TEST_TARGET` at it and set
//! `STREAMD_DIFFER_WRITE=1`.

mod features;
mod groups;
mod lab;
mod topics;
mod txns;

use std::collections::BTreeMap;
use std::fs;

use streamd_tests::broker::{Broker, external};
use streamd_tests::run::source_dir;

use lab::Lab;

/// Answers that are not Kafka's, each with its reason.
const DIFFERENCES: &[(&str, &str)] = &[
    (
        "produce with codec 7",
        "Kafka stumbles: an unknown server error",
    ),
    (
        "delete offsets of 7 of a group without members",
        "a group that has lost its last offset is gone at once",
    ),
    ("delete a group without members", "the same"),
    (
        "add offsets of group \"\"",
        "such a group is refused before there is something to end",
    ),
    (
        "produce plainly beside a transaction",
        "both refuse; Kafka looks at the sequence first",
    ),
    ("produce after the commit", "the same"),
];

#[test]
fn bad_requests_are_refused_as_kafka_refuses_them() {
    let options = [
        "--set",
        "group.initial.rebalance.delay.ms=0",
        "--set",
        "group.consumer.heartbeat.interval.ms=1000",
    ];
    let broker = external().is_none().then(|| Broker::start(&options));
    let addr = broker
        .as_ref()
        .map_or_else(|| external().expect("a target"), Broker::addr);
    let mut lab = Lab::open(&addr);
    topics::ask(&mut lab);
    groups::ask(&mut lab);
    txns::ask(&mut lab);
    features::ask(&mut lab);
    let path = source_dir().join("differ/kafka.txt");
    if std::env::var_os("STREAMD_DIFFER_WRITE").is_some() {
        let lines: Vec<String> = lab
            .found
            .iter()
            .map(|(n, c)| format!("{n}: {c}\n"))
            .collect();
        fs::write(path, lines.concat()).expect("a writable source tree");
        return;
    }
    let known = fs::read_to_string(path).expect("Kafka's answers");
    compare(&known, &lab.found);
}

fn compare(known: &str, found: &[(String, String)]) {
    let mut known: BTreeMap<&str, &str> =
        known.lines().filter_map(|l| l.split_once(": ")).collect();
    let mut faults = Vec::new();
    for (name, answer) in found {
        let Some(theirs) = known.remove(name.as_str()) else {
            faults.push(format!("{name}: {answer}; Kafka was not asked"));
            continue;
        };
        let explained = DIFFERENCES.iter().any(|(n, _)| n == name);
        match (theirs == answer, explained) {
            (true, true) => faults.push(format!("{name}: is no difference any more")),
            (false, false) => faults.push(format!("{name}: {answer}, Kafka says {theirs}")),
            _ => {}
        }
    }
    faults.extend(known.keys().map(|name| format!("{name}: was not asked")));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
