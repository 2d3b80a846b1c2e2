//! Replicated partitions on three simulated nodes: packets get lost, nodes are cut off, killed,
//! and lose their power. What was acknowledged by all in sync is there at its offset, whoever is
//! asked, and in the end all replicas are the same.
//!
//! `STREAMD_SEEDS=N` runs N seeds, `STREAMD_SEED=S` one of them.

mod nodes;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::or;
use streamd_core::config::Configs;
use streamd_core::meta::Command;
use streamd_core::repl::Acks;
use streamd_io::sim::{Sim, SimOptions};
use streamd_io::{Class, Env};
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_log::record_view::BatchView;
use streamd_log::{BatchHeader, NewBatch};
use streamd_model::{NodeId, Offset, PartitionId, TopicId, Watermarks};
use streamd_shard::{AppendItem, ReadItem, Reply, Request};

use nodes::{NODES, Net, start};

const PARTITIONS: i32 = 3;
const TOPIC: TopicId = TopicId([7; 16]);
const WRITERS: u64 = 6;
/// Lives of all three, but for the last one, in which all comes right.
const LIVES: u64 = 4;
/// By then all has come right.
const RIGHT: Duration = Duration::from_secs(60);

type At = (i32, Offset);

/// What is known of the records, over all lives.
#[derive(Default)]
struct Truth {
    /// Acknowledged by all in sync.
    acked: RefCell<BTreeMap<At, u64>>,
    /// Read by anybody.
    read: RefCell<BTreeMap<At, u64>>,
    next: Cell<u64>,
    /// How often something was seen: a run without it shows nothing.
    counts: RefCell<BTreeMap<&'static str, u64>>,
}

impl Truth {
    fn count(&self, what: &'static str) {
        *self.counts.borrow_mut().entry(what).or_default() += 1;
    }

    fn acked(&self, at: At, value: u64) {
        self.count("acknowledged");
        let before = self.acked.borrow_mut().insert(at, value);
        assert!(
            before.is_none(),
            "{at:?} was given out twice: {before:?}, {value}"
        );
        let read = self.read.borrow().get(&at).copied();
        assert!(
            read.is_none_or(|r| r == value),
            "{at:?}: {value}, but {read:?} was read"
        );
    }

    fn saw(&self, at: At, value: u64, who: NodeId) {
        self.count("read");
        let before = *self.read.borrow_mut().entry(at).or_insert(value);
        assert_eq!(before, value, "{at:?} changed, on node {}", who.0);
        let acked = self.acked.borrow().get(&at).copied();
        assert!(
            acked.is_none_or(|a| a == value),
            "{at:?}: {value}, not {acked:?}"
        );
    }
}

fn partition(index: i32) -> PartitionId {
    PartitionId {
        topic: TOPIC,
        index,
    }
}

async fn ask(net: &Net, node: NodeId, index: i32, request: Request) -> Option<Reply> {
    let shard = net.nodes.borrow().get(&node).cloned()?;
    let owner = usize::from(shard.owner(partition(index)).0);
    shard.begin(owner, request).await.await
}

/// Writes unique values to whoever leads, one after another.
async fn write(net: Rc<Net>, truth: Rc<Truth>) {
    let env = net.env.clone();
    loop {
        env.sleep(Duration::from_micros(env.random_u64() % 20_000))
            .await;
        let index = (env.random_u64() % PARTITIONS as u64) as i32;
        let by = NODES[(env.random_u64() % 3) as usize];
        let leader = {
            let nodes = net.nodes.borrow();
            let image = nodes.get(&by).map(|shard| shard.image());
            image.and_then(|i| i.cluster().partition(partition(index))?.leader)
        };
        let Some(leader) = leader else { continue };
        let value = truth.next.replace(truth.next.get() + 1);
        let record = NewRecord {
            timestamp: 1,
            key: None,
            value: Some(&value.to_le_bytes()),
        };
        let acks = match env.random_u64().is_multiple_of(8) {
            true => Acks::Leader,
            false => Acks::All,
        };
        let item = AppendItem {
            partition: partition(index),
            batch: NewBatch::own(build(&[record], Writer::default()), 1).unwrap(),
            guard: None,
            acks,
        };
        let append = ask(&net, leader, index, Request::Append(vec![item]));
        let late = async {
            env.sleep(Duration::from_secs(5)).await;
            None
        };
        match or(append, late).await {
            Some(Reply::Append(done)) => match &done[0] {
                Ok(placed) if acks == Acks::All => truth.acked((index, placed.base), value),
                Ok(_) => truth.count("acknowledged by the leader alone"),
                Err(_) => truth.count("refused"),
            },
            _ => truth.count("not answered"),
        }
    }
}

/// What a node has of a partition from an offset on; and where its log stands.
async fn read(
    net: &Net,
    node: NodeId,
    (index, from): At,
) -> Option<(Vec<(Offset, u64)>, Watermarks)> {
    let item = ReadItem {
        partition: partition(index),
        offset: from,
        bytes_max: 64 << 10,
        leader_epoch: -1,
        last_fetched_epoch: -1,
        committed: false,
        follower_too: true,
    };
    let Some(Reply::ReadBytes(mut done)) =
        ask(net, node, index, Request::ReadBytes(vec![item])).await
    else {
        return None;
    };
    let done = done.pop()?;
    let values = values(&done.bytes.ok()?, from);
    for (at, _) in &values {
        assert!(*at < done.marks.high, "{at} read, {:?}", done.marks);
    }
    Some((values, done.marks))
}

fn values(bytes: &Bytes, from: Offset) -> Vec<(Offset, u64)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(header) = BatchHeader::parse(&bytes[at..]) {
        let Some(batch) = bytes.get(at..at + header.size) else {
            break;
        };
        at += header.size;
        let view = BatchView::new(batch, 1 << 20).unwrap();
        for (record, offset) in view.records().zip(header.base_offset..) {
            let value = record.unwrap().value.unwrap().try_into().unwrap();
            if offset >= from {
                found.push((offset, u64::from_le_bytes(value)));
            }
        }
    }
    found
}

/// Reads here and there.
async fn look(net: Rc<Net>, truth: Rc<Truth>) {
    let env = net.env.clone();
    loop {
        env.sleep(Duration::from_micros(env.random_u64() % 50_000))
            .await;
        let index = (env.random_u64() % PARTITIONS as u64) as i32;
        let node = NODES[(env.random_u64() % 3) as usize];
        let most = truth.acked.borrow().len() as u64 + 1;
        let from = (env.random_u64() % most) as Offset;
        let late = async {
            env.sleep(Duration::from_secs(5)).await;
            None
        };
        if let Some((values, _)) = or(read(&net, node, (index, from)), late).await {
            for (at, value) in values {
                truth.saw((index, at), value, node);
            }
        }
    }
}

/// Cuts nodes off, and has packets lost.
async fn rage(net: Rc<Net>, truth: Rc<Truth>) {
    let env = net.env.clone();
    loop {
        env.sleep(Duration::from_millis(env.random_u64() % 4_000))
            .await;
        net.loss.set(env.random_u64() % 4 * 3);
        let one = NODES[(env.random_u64() % 3) as usize];
        net.cut.borrow_mut().insert(one);
        truth.count("cut off");
        env.sleep(Duration::from_millis(env.random_u64() % 14_000))
            .await;
        net.cut.borrow_mut().clear();
        net.loss.set(0);
    }
}

async fn start_all(env: &Env) -> Rc<Net> {
    let net = Net::new(env, 0);
    let starts = NODES.map(|node| {
        let net = net.clone();
        env.spawn(Class::Latency, async move { start(&net, node).await })
    });
    for start in starts {
        start.await;
    }
    net
}

/// Has the topic, on all three, and a leader for each partition.
async fn led(net: &Net) {
    net.until("leaders", || {
        let image = net.image(NODES[0]);
        let all = image.cluster().partitions(TOPIC);
        all.len() == PARTITIONS as usize && all.iter().all(|p| p.leader.is_some())
    })
    .await;
}

async fn live(env: Env, life: u64, truth: Rc<Truth>) {
    let net = start_all(&env).await;
    if life == 0 {
        net.until("three brokers", || {
            let image = net.image(NODES[0]);
            image.cluster().brokers().filter(|b| b.is_active()).count() == 3
        })
        .await;
        let create = Command::CreateTopic {
            name: "t".to_owned(),
            id: TOPIC,
            partitions: PARTITIONS,
            configs: Configs::new(),
            created_ms: 5,
        };
        net.shard(NODES[1]).propose(create).await.unwrap();
    }
    led(&net).await;
    let mut tasks = Vec::new();
    for _ in 0..WRITERS {
        tasks.push(env.spawn(Class::Latency, write(net.clone(), truth.clone())));
    }
    tasks.push(env.spawn(Class::Latency, look(net.clone(), truth.clone())));
    if life < LIVES {
        rage(net, truth).await;
        return;
    }
    env.sleep(Duration::from_secs(3)).await;
    drop(tasks);
    right(&net, &truth).await;
}

/// Waits until all replicas of a partition are in sync, and stand at the same end.
async fn settled(net: &Net, index: i32) {
    let begun = net.env.now();
    loop {
        let mut ends = Vec::new();
        for node in NODES {
            let marks = read(net, node, (index, 0)).await.map(|(_, marks)| marks);
            let image = net.image(node);
            let place = image.cluster().partition(partition(index));
            let in_sync = place.is_some_and(|p| p.isr.len() == 3);
            let end = marks.filter(|m| in_sync && m.high == m.end);
            ends.push(end.map(|m| m.end));
        }
        if ends[0].is_some() && ends.iter().all(|end| *end == ends[0]) {
            return;
        }
        assert!(
            net.env.now() - begun < RIGHT,
            "it does not come right: {ends:?}"
        );
        net.env.sleep(Duration::from_millis(50)).await;
    }
}

/// All is well: every replica has the same, and all that was acknowledged.
async fn right(net: &Net, truth: &Truth) {
    for index in 0..PARTITIONS {
        settled(net, index).await;
        for node in NODES {
            let cuts = format!("/data/{}/t-{index}/cuts", node.0);
            if net.env.read_file(Path::new(&cuts), 1 << 10).await.is_ok() {
                truth.count("logs that were cut");
            }
        }
        let mut logs: Vec<Vec<(Offset, u64)>> = Vec::new();
        for node in NODES {
            let mut log = Vec::new();
            loop {
                let from = log.last().map_or(0, |(at, _)| at + 1);
                let (more, marks) = read(net, node, (index, from)).await.expect("it is there");
                log.extend(more);
                if log.len() as Offset == marks.end {
                    break;
                }
            }
            for (at, value) in &log {
                truth.saw((index, *at), *value, node);
            }
            logs.push(log);
        }
        let acked = truth.acked.borrow();
        for (at, value) in acked.iter().filter(|(at, _)| at.0 == index) {
            for (node, log) in logs.iter().enumerate() {
                let has = log.get(at.1 as usize);
                assert_eq!(has, Some(&(at.1, *value)), "{at:?} on node {}", node + 1);
            }
        }
    }
}

fn run(seed: u64) -> BTreeMap<&'static str, u64> {
    let mut sim = Sim::new(seed, SimOptions::default());
    let truth = Rc::new(Truth::default());
    for life in 0..=LIVES {
        let known = truth.clone();
        let work = move |env: Env| live(env, life, known);
        if life == LIVES {
            sim.run(work);
        } else {
            let turns = 150_000 + seed * 7_919 % 200_000;
            sim.run_turns(turns, work);
        }
        if (seed + life).is_multiple_of(2) {
            sim.power_cut();
        }
    }
    truth.counts.take()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

#[test]
fn what_all_in_sync_have_acknowledged_is_never_lost() {
    let (from, count) = match number("STREAMD_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("STREAMD_SEEDS").unwrap_or(4)),
    };
    let mut counts = BTreeMap::<&str, u64>::new();
    for seed in from..from + count {
        let seen = run(seed);
        println!("seed {seed}: {seen:?}");
        for (what, times) in seen {
            *counts.entry(what).or_default() += times;
        }
    }
    for what in [
        "acknowledged",
        "read",
        "refused",
        "cut off",
        "logs that were cut",
    ] {
        assert!(
            counts.get(what).is_some_and(|n| *n > 0),
            "{what}: never in {counts:?}"
        );
    }
}
