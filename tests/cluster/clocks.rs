//! Nodes whose wall clocks are an hour apart, and go by an hour while they run: leaders change,
//! nothing is lost, nothing waits for a time to come.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use streamd_tests::broker::{Site, streamctl};
use streamd_tests::client::now_ms;
use streamd_tests::clock::Clock;

use super::{Asked as _, Cluster};

const HOUR_MS: i64 = 3_600_000;
const RECORDS: usize = 300;
/// What takes an hour of a clock takes longer than this.
const LONGEST: Duration = Duration::from_secs(25);

/// Writes records and waits until all in sync have them.
fn write(cluster: &Cluster, by: usize, name: &str) {
    let begun = Instant::now();
    let mut command = Command::new(streamctl());
    let addr = cluster.0[by].broker.addr();
    command.args(["--bootstrap", &addr, "produce", "t", "-k", ":"]);
    let mut child = command
        .stdin(Stdio::piped())
        .spawn()
        .expect("streamctl runs");
    let lines: String = (0..RECORDS).map(|n| format!("{n}:{name}-{n}\n")).collect();
    let mut input = child.stdin.take().expect("an input");
    input.write_all(lines.as_bytes()).expect("lines are taken");
    drop(input);
    assert!(child.wait().expect("it ends").success(), "{name}");
    let took = begun.elapsed();
    assert!(took < LONGEST, "{name}: {took:?}");
}

fn read(cluster: &Cluster, by: usize, format: &str) -> Vec<String> {
    let out = cluster.0[by].ctl(&["consume", "t", "--until-end", "--format", format]);
    let text = String::from_utf8_lossy(&out.stdout);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn clocks_an_hour_apart_lose_and_delay_nothing() {
    let clocks = [HOUR_MS, 0, -HOUR_MS].map(|ahead| {
        let clock = Clock::new();
        clock.set(ahead);
        clock
    });
    let mut cluster = Cluster::of(|id| {
        let site = Site {
            clock: Some(clocks[id - 1].clone()),
            ..Site::default()
        };
        (site, Vec::new())
    });
    let times = "message.timestamp.type=LogAppendTime";
    let made = cluster.0[0].ctl(&["topic", "create", "t", "-p", "6", "--config", times]);
    assert!(made.status.success(), "{made:?}");
    cluster.in_sync(&["t"]);
    let mut wanted = Vec::new();
    let mut more = |cluster: &Cluster, by: usize, name: &str| {
        write(cluster, by, name);
        wanted.extend((0..RECORDS).map(|n| format!("{name}-{n}")));
        wanted.sort_unstable();
        assert_eq!(read(cluster, by, "%v\\n"), wanted, "{name}");
    };
    more(&cluster, 0, "apart");
    // The leaders do go by these clocks.
    let hours: BTreeSet<i64> = read(&cluster, 0, "%t\\n")
        .iter()
        .map(|time| time.parse::<i64>().expect("ms") - now_ms() as i64)
        .map(|ahead| (ahead as f64 / HOUR_MS as f64).round() as i64)
        .collect();
    assert_eq!(hours, BTreeSet::from([-1, 0, 1]));
    // Whoever leads is replaced by one whose clock is behind, and comes back.
    for gone in 0..3 {
        cluster.0[gone].broker.kill();
        more(&cluster, (gone + 1) % 3, &format!("without-{gone}"));
        cluster.0[gone].broker.start_again();
        cluster.in_sync(&["t"]);
    }
    // The clocks are put right, and wrong, while all run.
    for (round, ahead) in [0, HOUR_MS, -HOUR_MS, 0].into_iter().enumerate() {
        clocks[round % 3].set(ahead);
        more(&cluster, round % 3, &format!("turned-{round}"));
        cluster.create((round + 1) % 3, &format!("new-{round}"));
    }
    for node in &cluster.0 {
        let log = node.broker.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}
