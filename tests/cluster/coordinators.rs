//! Coordinators that fail over: while the nodes that lead their partitions, and those of the data,
//! are killed one after another, stock clients lose nothing and see nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use streamd_tests::batch::Batch;
use streamd_tests::child::Child;
use streamd_tests::client::Client;
use streamd_tests::wire::{Body, Connection};

use super::{Cluster, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// What FindCoordinator looks for.
const GROUP: i8 = 0;
const TXN: i8 = 1;

/// Of each partition of a topic its leader and its in-sync set.
type Places = BTreeMap<i32, (i32, Vec<i32>)>;

fn cluster(min_isr: &str) -> Cluster {
    let min_isr = format!("min.insync.replicas={min_isr}");
    Cluster::with(&[
        "--set",
        "default.replication.factor=3",
        "--set",
        &min_isr,
        "--set",
        "offsets.topic.num.partitions=4",
        "--set",
        "transaction.state.log.num.partitions=4",
        "--set",
        "share.coordinator.state.topic.num.partitions=4",
        "--set",
        "group.initial.rebalance.delay.ms=0",
        "--set",
        "group.share.heartbeat.interval.ms=500",
        "--set",
        "group.share.min.record.lock.duration.ms=1000",
    ])
}

fn ints(answer: &mut streamd_tests::wire::Answer) -> Vec<i32> {
    (0..answer.i32()).map(|_| answer.i32()).collect()
}

impl Cluster {
    pub fn boot(&self) -> String {
        let all: Vec<String> = self.0.iter().map(|n| n.broker.addr()).collect();
        all.join(",")
    }

    /// A connection to any node that runs.
    fn any(&self) -> Connection {
        let runs = self.0.iter().find(|n| n.broker.pid().is_some());
        Connection::open(&runs.expect("a node").broker.addr())
    }

    /// The node, from 0, that has the coordinator of a key.
    fn coordinator(&self, kind: i8, key: &str) -> usize {
        let mut node = 0;
        until("a coordinator", || {
            let body = Body::default().string(key).i8(kind);
            let Ok(mut answer) = self.any().call(10, 2, &body) else {
                return false;
            };
            let (_throttle, error) = (answer.i32(), answer.i16());
            let _text = answer.string();
            node = answer.i32();
            error == 0
        });
        usize::try_from(node - 1).expect("a node")
    }

    pub fn places(&self, topic: &str) -> Option<Places> {
        let body = Body::default().i32(1).string(topic);
        let mut answer = self.any().call(3, 1, &body).ok()?;
        for _ in 0..answer.i32() {
            let (_node, _host, _port) = (answer.i32(), answer.string(), answer.i32());
            let _rack = answer.string();
        }
        let (_controller, _topics) = (answer.i32(), answer.i32());
        let (error, _name, _internal) = (answer.i16(), answer.string(), answer.i8());
        let mut places = Places::new();
        for _ in 0..answer.i32() {
            let (_error, index, leader) = (answer.i16(), answer.i32(), answer.i32());
            let (_replicas, isr) = (ints(&mut answer), ints(&mut answer));
            places.insert(index, (leader, isr));
        }
        (error == 0).then_some(places)
    }

    /// The node, from 0, that leads a partition.
    fn leader(&self, topic: &str, index: i32) -> usize {
        let mut node = 0;
        until("a leader", || {
            let places = self.places(topic);
            node = places.and_then(|p| Some(p.get(&index)?.0)).unwrap_or(-1);
            node > 0
        });
        usize::try_from(node - 1).expect("a node")
    }

    /// Waits until every replica of these topics is in sync.
    pub fn in_sync(&self, topics: &[&str]) {
        for topic in topics {
            until(topic, || {
                let places = self.places(topic);
                places.is_some_and(|p| !p.is_empty() && p.values().all(|(_, isr)| isr.len() == 3))
            });
        }
    }

    /// Kills a node; what `child` says meanwhile is waited for; starts it again, and waits until
    /// it has caught up.
    fn kill_while(&mut self, node: usize, child: &mut Child, line: &str, topics: &[&str]) {
        self.0[node].broker.kill();
        let begun = Instant::now();
        // What was under way may be said yet.
        while child.line(Duration::from_millis(100)).is_some() {
            if begun.elapsed() > Duration::from_secs(1) {
                break;
            }
        }
        child.expect(line, PATIENCE);
        eprintln!("node {} killed: on after {:?}", node + 1, begun.elapsed());
        self.0[node].broker.start_again();
        self.in_sync(topics);
    }

    pub fn topic(&self, name: &str, partitions: i32) {
        self.any()
            .create_replicated((name, partitions, 3), &[("min.insync.replicas", "2")]);
        self.in_sync(&[name]);
    }

    fn produce(&self, topic: &str, partition: i32, values: &[String]) {
        until("a produce", || {
            let leader = self.leader(topic, partition);
            let batch = Batch::of(values).encode();
            // It may be said to be the leader for a while yet.
            let Ok(mut connection) = Connection::try_open(&self.0[leader].broker.addr()) else {
                return false;
            };
            let done = connection.produce(topic, partition, &batch);
            done.is_ok_and(|p| p.error == 0)
        });
    }
}

fn read(boot: &str, topic: &str) -> Vec<String> {
    let text = Client::Java.call("txn", boot, &["read", topic]);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn share_groups_and_transactions_work_wherever_partitions_are_led() {
    // It makes topics of one replica.
    let cluster = cluster("1");
    let boot = cluster.boot();
    // Records given up go to a dead-letter topic; some are read only when committed.
    let _ = Client::Java.call("share", &boot, &["checks", "share"]);
    let _ = Client::Java.call("txn", &boot, &["checks", "txn"]);
}

#[test]
fn transactions_are_whole_while_their_coordinator_and_leaders_are_killed() {
    let mut cluster = cluster("2");
    let boot = cluster.boot();
    cluster.topic("one", 2);
    cluster.topic("two", 2);
    let mut pump = Client::Java.driver();
    let mut pump = Child::start("pump", pump.args(["txn", &boot, "pump", "one", "two"]));
    pump.expect("committed", PATIENCE);
    let topics = ["one", "two", "__transaction_state"];
    let killed = cluster.coordinator(TXN, "one-pump");
    cluster.kill_while(killed, &mut pump, "committed", &topics);
    let killed = cluster.leader("one", 0);
    cluster.kill_while(killed, &mut pump, "committed", &topics);
    let killed = cluster.leader("two", 1);
    cluster.kill_while(killed, &mut pump, "committed", &topics);
    pump.close_input();
    assert!(pump.wait(PATIENCE).success());
    let said = pump.all();

    // What the last life left open is aborted by the beginning of another.
    let (one, two) = (read(&boot, "one"), read(&boot, "two"));
    assert_eq!(one, two, "a torn transaction");
    let values: BTreeSet<&String> = one.iter().collect();
    assert_eq!(one.len(), values.len() * 2, "each once in each partition");
    let mut committed = 0;
    for line in said.lines() {
        let Some((what @ ("committed" | "aborted"), value)) = line.split_once(' ') else {
            continue;
        };
        let is_there = values.contains(&value.to_owned());
        assert_eq!(is_there, what == "committed", "{line}");
        committed += u32::from(is_there);
    }
    assert!(committed > 20, "only {committed} transactions");
}

#[test]
fn each_record_is_moved_once_while_both_coordinators_are_killed() {
    const COUNT: usize = 400;
    let mut cluster = cluster("2");
    let boot = cluster.boot();
    cluster.topic("from", 2);
    cluster.topic("to", 2);
    for partition in 0..2 {
        let values = (0..COUNT / 2).map(|i| format!("{partition}-{i:04}"));
        let values: Vec<String> = values.collect();
        cluster.produce("from", partition, &values);
    }
    let count = COUNT.to_string();
    let mut mover = Client::Java.driver();
    let mover = mover.args(["txn", &boot, "move", "from", "to", &count]);
    let mut mover = Child::start("mover", mover);
    mover.expect("moved", PATIENCE);
    let topics = ["from", "to", "__transaction_state", "__consumer_offsets"];
    let killed = cluster.coordinator(GROUP, "from-movers");
    cluster.0[killed].broker.kill();
    mover.expect("moved", PATIENCE);
    cluster.0[killed].broker.start_again();
    cluster.in_sync(&topics);
    if mover.runs() {
        let killed = cluster.coordinator(TXN, "to-move");
        cluster.0[killed].broker.kill();
        std::thread::sleep(Duration::from_secs(3));
        cluster.0[killed].broker.start_again();
    }
    assert!(mover.wait(2 * PATIENCE).success());
    let want = (0..2).flat_map(|p| (0..COUNT / 2).map(move |i| format!("{p}-{i:04}")));
    assert_eq!(read(&boot, "to"), want.collect::<Vec<_>>());
}

/// A member of a group that reads `t`.
fn member(boot: &str) -> Child {
    let mut driver = Client::Java.driver();
    Child::start("member", driver.args(["group", boot, "t", "g", "-"]))
}

/// The offsets that a member reads, to the one before `until`.
fn offsets(member: &mut Child, until: i64) -> Vec<i64> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen: Vec<i64> = Vec::new();
    while seen.last().is_none_or(|last| last + 1 < until) {
        assert!(Instant::now() < deadline, "{until}: {}", member.printed());
        let line = member.line(Duration::from_secs(1)).unwrap_or_default();
        let offset = line.strip_prefix("read 0 ");
        seen.extend(offset.and_then(|o| o.parse::<i64>().ok()));
    }
    seen
}

#[test]
fn a_group_keeps_its_offsets_when_its_coordinator_dies_and_ids_are_unique() {
    let mut cluster = cluster("2");
    let boot = cluster.boot();
    cluster.topic("t", 1);
    let mut ids = BTreeSet::new();
    let mut next = |cluster: &Cluster| {
        for node in cluster.0.iter().filter(|n| n.broker.pid().is_some()) {
            for _ in 0..20 {
                let mut connection = Connection::open(&node.broker.addr());
                let (id, _) = connection.init_producer().expect("an id");
                assert!(ids.insert(id), "producer id {id} twice");
            }
        }
    };
    next(&cluster);
    let some = |from: i64| -> Vec<String> { (from..from + 50).map(|i| i.to_string()).collect() };
    cluster.produce("t", 0, &some(0));
    let mut first = member(&boot);
    assert_eq!(offsets(&mut first, 50), (0..50).collect::<Vec<_>>());
    // Its commit is answered before it ends.
    first.close_input();
    assert!(first.wait(PATIENCE).success());
    let topics = ["t", "__consumer_offsets"];
    cluster.in_sync(&topics);
    for round in 1..4 {
        let killed = cluster.coordinator(GROUP, "g");
        cluster.0[killed].broker.kill();
        next(&cluster);
        cluster.produce("t", 0, &some(round * 50));
        let mut again = member(&boot);
        let read = offsets(&mut again, (round + 1) * 50);
        let want: Vec<i64> = (round * 50..(round + 1) * 50).collect();
        assert_eq!(read, want, "in round {round}");
        again.close_input();
        assert!(again.wait(PATIENCE).success());
        cluster.0[killed].broker.start_again();
        next(&cluster);
        cluster.in_sync(&topics);
    }
}

#[test]
fn a_share_group_goes_on_when_each_node_is_killed() {
    const ROUND: i64 = 60;
    let mut cluster = cluster("2");
    let boot = cluster.boot();
    cluster.topic("jobs", 1);
    let mut driver = Client::Java.driver();
    let worker = driver.args(["share", &boot, "work", "jobs", "workers"]);
    let mut worker = Child::start("worker", worker);
    // A group begins at the end of the log: nothing is there for it before it has begun.
    let topics = ["jobs", "__consumer_offsets", "__share_group_state"];
    cluster.in_sync(&topics);
    let mut probes = Vec::new();
    until("the group begins", || {
        let value = vec![format!("probe {}", probes.len())];
        cluster.produce("jobs", 0, &value);
        probes.push(());
        worker.line(Duration::from_secs(1)).is_some()
    });
    let mut end = i64::try_from(probes.len()).expect("a few");
    let (from, mut accepted) = (end, BTreeSet::new());
    for node in 0..3 {
        cluster.0[node].broker.kill();
        let values: Vec<String> = (0..ROUND).map(|i| format!("{node}-{i}")).collect();
        for some in values.chunks(7) {
            cluster.produce("jobs", 0, some);
        }
        end += ROUND;
        let begun = Instant::now();
        while !(from..end).all(|o| accepted.contains(&o)) {
            let late = begun.elapsed() > PATIENCE;
            assert!(!late, "{} of {end}: {}", accepted.len(), worker.printed());
            let line = worker.line(Duration::from_secs(1)).unwrap_or_default();
            let offset = line.strip_prefix("accepted 0 ");
            accepted.extend(offset.and_then(|o| o.parse::<i64>().ok()));
        }
        eprintln!("node {} killed: all after {:?}", node + 1, begun.elapsed());
        cluster.0[node].broker.start_again();
        cluster.in_sync(&topics);
    }
    worker.close_input();
    assert!(worker.wait(PATIENCE).success());
}
