//! Moves under a throttle: they take as long as they must, what is live beside them is not slowed,
//! and Kafka's tool and ours begin, watch, change and call them off.

use std::fs;
use std::time::{Duration, Instant};

use streamd_tests::batch::Batch;
use streamd_tests::install::kafka_tool;
use streamd_tests::wire::Connection;

use super::{Asked as _, Cluster, until};

/// Bytes of the partition that moves: so many batches of so many.
const BATCHES: usize = 24;
const BATCH: usize = 1_000_000;
/// Bytes a second.
const RATE: usize = 4_000_000;

struct Tool {
    boot: String,
    dir: tempfile::TempDir,
}

impl Tool {
    fn call(&self, plan: &str, args: &[&str]) -> String {
        let file = self.dir.path().join("plan.json");
        fs::write(&file, plan).expect("a file");
        let mut tool = kafka_tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand");
        tool.args(["--bootstrap-server", &self.boot]);
        tool.arg("--reassignment-json-file").arg(&file).args(args);
        let out = tool.output().expect("the tool runs");
        let (said, told) = (&out.stdout, &out.stderr);
        let said = String::from_utf8_lossy(said);
        format!("{said}{}", String::from_utf8_lossy(told))
    }
}

fn plan(to: i32) -> String {
    format!(r#"{{"version":1,"partitions":[{{"topic":"big","partition":0,"replicas":[{to}]}}]}}"#)
}

impl Cluster {
    /// Who has the partition that moves, if one node alone does.
    fn owner(&self) -> Option<i32> {
        let places = self.places("big")?;
        let (leader, in_sync) = places.get(&0)?;
        (in_sync == &[*leader]).then_some(*leader)
    }

    /// A node that does not have it.
    fn other(&self) -> i32 {
        let owner = self.owner().expect("one node has it");
        owner % 3 + 1
    }

    /// Produces to the topic that is live until `done`; gives the slowest, but for a few.
    fn live_until(&self, what: &str, mut done: impl FnMut() -> bool) -> Duration {
        let leader = self.places("live").expect("it is there")[&0].0;
        let at = self.0[leader as usize - 1].broker.addr();
        let (mut connection, mut took) = (Connection::open(&at), Vec::new());
        until(what, || {
            for _ in 0..20 {
                let (begun, batch) = (Instant::now(), Batch::of(&["live"]).encode());
                let placed = connection.produce("live", 0, &batch).expect("an answer");
                assert_eq!(placed.error, 0);
                took.push(begun.elapsed());
            }
            done()
        });
        took.sort_unstable();
        let slow = took[took.len() * 95 / 100];
        eprintln!(
            "{what}: of {} live records 95 % within {slow:?}",
            took.len()
        );
        slow
    }
}

/// A topic of one replica with much in it, and one of three that is live.
fn filled() -> Cluster {
    let cluster = Cluster::with(&["--set", "auto.replica.rebalance.enable=false"]);
    let mut any = Connection::open(&cluster.0[0].broker.addr());
    any.create_replicated(("big", 1, 1), &[("retention.ms", "-1")]);
    cluster.topic("live", 1);
    let owner = cluster.owner().expect("one node has it");
    let mut to = Connection::open(&cluster.0[owner as usize - 1].broker.addr());
    let batch = Batch::of(&[vec![b'x'; BATCH]]).encode();
    for _ in 0..BATCHES {
        assert_eq!(to.produce("big", 0, &batch).expect("an answer").error, 0);
    }
    cluster
}

fn in_bounds(took: Duration) {
    let must = Duration::from_secs_f64((BATCHES * BATCH) as f64 / RATE as f64);
    eprintln!("moved in {took:?}, and {must:?} is what the throttle has");
    // Some may go ahead, and who looks looks seldom.
    assert!(took > must * 7 / 10, "{took:?} instead of {must:?}");
    assert!(took < must * 3, "{took:?} instead of {must:?}");
}

#[test]
fn a_move_takes_as_long_as_its_throttle_says() {
    let cluster = filled();
    let tool = Tool {
        boot: cluster.boot(),
        dir: tempfile::tempdir().expect("a directory"),
    };
    let to = cluster.other();
    let rate = RATE.to_string();
    let begun = tool.call(&plan(to), &["--execute", "--throttle", &rate]);
    assert!(begun.contains("limit was set to 4000000 B/s"), "{begun}");
    assert!(begun.contains("Successfully started"), "{begun}");
    let since = Instant::now();
    let slow = cluster.live_until("it is there", || cluster.owner() == Some(to));
    in_bounds(since.elapsed());
    assert!(slow < Duration::from_millis(500), "{slow:?}");
    let seen = tool.call(&plan(to), &["--verify"]);
    for line in [
        "is completed",
        "Clearing broker-level",
        "Clearing topic-level",
    ] {
        assert!(seen.contains(line), "{line}: {seen}");
    }

    // By our tool: it is no slower than it has to be, and nothing is left of it.
    let (to, since) = (cluster.other(), Instant::now());
    let to_arg = to.to_string();
    let wanted = ["--to", &to_arg, "--throttle", &rate, "--wait"];
    let out = cluster.0[0].ctl(&[&["cluster", "reassign", "big"], &wanted[..]].concat());
    assert!(out.status.success(), "{out:?}");
    in_bounds(since.elapsed());
    assert_eq!(cluster.owner(), Some(to));
    let left = cluster.0[0].ctl(&["topic", "describe", "big"]);
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(!left.contains("throttled"), "{left}");

    // So slow that it would not end; it is called off, and then goes as fast as it can.
    let to = cluster.other();
    let begun = tool.call(&plan(to), &["--execute", "--throttle", "1000"]);
    assert!(begun.contains("Successfully started"), "{begun}");
    std::thread::sleep(Duration::from_secs(3));
    assert_ne!(cluster.owner(), Some(to));
    let called_off = tool.call(&plan(to), &["--cancel"]);
    assert!(
        called_off.contains("Successfully cancelled"),
        "{called_off}"
    );
    assert_ne!(cluster.owner(), Some(to));

    // A throttle is changed while it moves.
    tool.call(&plan(to), &["--execute", "--throttle", "1000"]);
    std::thread::sleep(Duration::from_secs(3));
    assert_ne!(cluster.owner(), Some(to));
    let faster = ["--execute", "--additional", "--throttle", "50000000"];
    let begun = tool.call(&plan(to), &faster);
    assert!(begun.contains("limit was set to 50000000 B/s"), "{begun}");
    until("it goes on faster", || cluster.owner() == Some(to));
}
