//! Stock clients under faults, and a judge of what they say, in the manner of Jepsen's Kafka tests.
//!
//! librdkafka and Java write unique values, plainly and in transactions, poll by assignment and as
//! members of groups, and move records from topic to topic in transactions, while a broker, or one
//! of a cluster of three, is killed and paused and connections are cut. Each worker writes its
//! history (`record`), which `analysis` reads. A run has rounds of about a minute, each with topics
//! of its own. `STREAMD_HISTORY_SECONDS` is how long each takes (100 and 50; 3600 in earnest),
//! `STREAMD_HISTORY_SEED` repeats a run's choices. The histories of a round with a finding are kept
//! in the target folder.

mod analysis;
mod nemesis;
mod one;
mod record;
mod relay;
mod three;
mod workers;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use streamd_tests::client::now_ms;
use streamd_tests::run::target_dir;

use nemesis::{Arena, Nemesis};
use one::One;
use record::History;
use three::Three;
use workers::Worker;

const TOPICS: [&str; 3] = ["plain", "txns", "moved"];
/// Of the faults of a round; its rest, until everything is read, takes some seconds more.
const ROUND: Duration = Duration::from_secs(40);
const AFTERWARDS: Duration = Duration::from_secs(10);

fn env(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |n| {
        n.parse()
            .unwrap_or_else(|_| panic!("{name}={n} is no number"))
    })
}

/// Runs the clients under faults for a while; returns all that they said.
fn round(number: u64, arena: &mut dyn Arena, nemesis: &mut Nemesis) -> Vec<String> {
    let prefix = format!("r{number}-");
    for topic in TOPICS {
        arena.create_topic(&format!("{prefix}{topic}"), 3);
    }
    let boot = arena.boot();
    let protocol = ["classic", "consumer"][number as usize % 2];
    let mut workers = [
        Worker::confluent(&[&boot, &prefix, "c", protocol]),
        Worker::java(&[&boot, &prefix, "j", protocol]),
    ];
    nemesis.rage(Instant::now() + ROUND, arena, &workers);
    workers.iter_mut().for_each(Worker::drain);
    workers.iter_mut().for_each(Worker::until_quiet);
    let [first, mut last] = workers;
    let mut lines = first.finish();
    last.is_last();
    lines.extend(last.finish());
    let reader = match number % 2 {
        0 => Worker::java(&[&boot, &prefix, "final", "final"]),
        _ => Worker::confluent(&[&boot, &prefix, "final", "final"]),
    };
    lines.extend(reader.finish());
    lines.append(&mut nemesis.notes);
    lines
}

/// Judges a round; returns its summary.
fn judge(number: u64, seed: u64, lines: &[String]) -> String {
    let keep = || {
        let path = target_dir().join(format!("history-{seed}-{number}.txt"));
        fs::write(&path, lines.join("\n")).expect("a writable target folder");
        path.display().to_string()
    };
    let history = History::parse(lines.iter().map(String::as_str))
        .unwrap_or_else(|e| panic!("{e}; see {}", keep()));
    let died = history.notes.iter().find(|n| n.starts_with("died"));
    assert!(died.is_none(), "{died:?}; see {}", keep());
    let findings = analysis::analyse(&history);
    if !findings.is_empty() {
        let path = keep();
        let mut counts = BTreeMap::new();
        findings
            .iter()
            .for_each(|f| *counts.entry(f.what).or_insert(0) += 1);
        let first: Vec<String> = findings.iter().take(20).map(ToString::to_string).collect();
        let first = first.join("\n");
        panic!("round {number} of seed {seed}: {counts:?}; see {path}\n{first}");
    }
    let acknowledged = history.ops.iter().filter(|op| op.fate == record::Fate::Ok);
    let sent = acknowledged.map(|op| op.sent.len()).sum::<usize>();
    assert!(sent > 200, "only {sent} records were acknowledged");
    history.summary()
}

/// Rounds for so many seconds; what fired.
fn run(arena: &mut dyn Arena, seconds: u64) -> BTreeMap<String, u64> {
    let seed = env("STREAMD_HISTORY_SEED", now_ms());
    println!("STREAMD_HISTORY_SEED={seed}");
    let mut nemesis = Nemesis::new(seed);
    let rounds = (seconds / (ROUND + AFTERWARDS).as_secs()).max(1);
    for number in 0..rounds {
        let began = Instant::now();
        let lines = round(number, arena, &mut nemesis);
        let took = began.elapsed();
        println!(
            "round {number}: {}; {took:.0?}",
            judge(number, seed, &lines)
        );
    }
    nemesis.fired
}

#[test]
fn clients_see_a_log_whatever_happens() {
    let mut one = One::start();
    let fired = run(&mut one, env("STREAMD_HISTORY_SECONDS", 100));
    println!("faults: {fired:?}; {} connections", one.relay.accepted());
}

#[test]
fn clients_see_a_log_whatever_happens_to_the_cluster() {
    let mut three = Three::start();
    let fired = run(&mut three, env("STREAMD_HISTORY_SECONDS", 50));
    println!("faults of the cluster: {fired:?}");
}
