//! How long a partition cannot be written to when its leader is killed: from the kill until stock
//! clients have an acknowledgement of all partitions that the node led. The clients are those of
//! `bench cluster`, which makes figures of it.
//!
//! `STREAMD_FAILOVERS=N` kills N leaders (4).

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use streamd_tests::child::Child;
use streamd_tests::install;
use streamd_tests::run::source_dir;

use super::Cluster;

const PATIENCE: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 6;
/// Nobody who waits longer would call that a failover.
const SLOW: Duration = Duration::from_secs(15);

/// The stock clients, each with the program that writes with it.
fn writers(boot: &str) -> [Child; 2] {
    let clients = source_dir().join("../bench/clients");
    let mut python = Command::new(install::python());
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    python.arg(clients.join("writer.py"));
    let mut java = install::java_source(&clients.join("Writer.java"));
    [("librdkafka", &mut python), ("Java", &mut java)].map(|(name, command)| {
        command.args([boot, "t", &PARTITIONS.to_string(), "2"]);
        let mut writer = Child::start(name, command);
        writer.expect("writes", PATIENCE);
        writer.say("write");
        writer
    })
}

#[test]
fn a_leader_that_is_killed_is_replaced_soon() {
    let kills = std::env::var("STREAMD_FAILOVERS").map_or(4, |n| n.parse().expect("a number"));
    let mut cluster = Cluster::start();
    cluster.topic("t", PARTITIONS);
    let mut writers = writers(&cluster.boot());
    let mut took = [Vec::new(), Vec::new()];
    for kill in 0..kills {
        let places = cluster.places("t").expect("the topic");
        let mut led = BTreeMap::<i32, Vec<String>>::new();
        for (index, (leader, _)) in places {
            led.entry(leader).or_default().push(index.to_string());
        }
        // Each in turn, if it leads something.
        let node = (1..=3).cycle().skip(kill).find(|n| led.contains_key(n));
        let node = node.expect("a leader");
        let killed = Instant::now();
        cluster.0[node as usize - 1].broker.kill();
        for writer in &mut writers {
            writer.say(&format!("mark {kill} {}", led[&node].join(" ")));
        }
        thread::scope(|scope| {
            for (writer, took) in writers.iter_mut().zip(&mut took) {
                scope.spawn(move || {
                    writer.expect(&format!("back {kill}"), PATIENCE);
                    took.push(killed.elapsed());
                });
            }
        });
        cluster.0[node as usize - 1].broker.start_again();
        cluster.in_sync(&["t"]);
    }
    for (mut writer, mut took) in writers.into_iter().zip(took) {
        writer.close_input();
        assert!(writer.wait(PATIENCE).success());
        assert!(writer.all().contains("left 0"), "{}", writer.all());
        took.sort_unstable();
        let most = *took.last().expect("a kill");
        println!(
            "{}: {kills} leaders killed: back after {:?} (p50), {most:?} at the most",
            writer.name(),
            took[took.len() / 2]
        );
        assert!(most < SLOW, "{took:?}");
    }
}
