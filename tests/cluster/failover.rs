//! How long a partition cannot be written to when its leader is killed: from the kill until a
//! stock client has an acknowledgement of all partitions that the node led.
//!
//! `STREAMD_FAILOVERS=N` kills N leaders (4; 50 for figures).

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use streamd_tests::child::Child;
use streamd_tests::install;
use streamd_tests::run::source_dir;

use super::Cluster;

const PATIENCE: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 6;
/// Nobody who waits longer would call that a failover.
const SLOW: u64 = 15_000;

#[test]
fn a_leader_that_is_killed_is_replaced_soon() {
    let kills = std::env::var("STREAMD_FAILOVERS").map_or(4, |n| n.parse().expect("a number"));
    let mut cluster = Cluster::start();
    cluster.topic("t", PARTITIONS);
    let mut python = Command::new(install::python());
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    let script = source_dir().join("cluster/failover.py");
    python
        .arg(script)
        .args([&cluster.boot(), "t", &PARTITIONS.to_string()]);
    let mut writer = Child::start("writer", &mut python);
    writer.expect("writes", PATIENCE);
    let mut took = Vec::new();
    for kill in 0..kills {
        let places = cluster.places("t").expect("the topic");
        let mut led = BTreeMap::<i32, Vec<String>>::new();
        for (index, (leader, _)) in places {
            led.entry(leader).or_default().push(index.to_string());
        }
        // Each in turn, if it leads something.
        let node = (1..=3).cycle().skip(kill).find(|n| led.contains_key(n));
        let node = node.expect("a leader");
        cluster.0[node as usize - 1].broker.kill();
        writer.say(&format!("mark {}", led[&node].join(" ")));
        let back = writer.expect("back ", PATIENCE);
        let ms = back.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok());
        took.push(ms.expect("milliseconds"));
        cluster.0[node as usize - 1].broker.start_again();
        cluster.in_sync(&["t"]);
    }
    writer.close_input();
    assert!(writer.wait(PATIENCE).success());
    assert!(writer.all().contains("left 0"), "{}", writer.all());
    took.sort_unstable();
    let at = |of: usize| took[(took.len() * of / 100).min(took.len() - 1)];
    println!(
        "{} leaders killed: back after {} ms (p50), {} ms (p99), {} ms at the most",
        took.len(),
        at(50),
        at(99),
        at(100)
    );
    assert!(at(100) < SLOW, "{took:?}");
}
