//! Copies of partitions on three simulated nodes: throttled they take as long as they must, and
//! who is in sync is not slowed; and a log that begins inside a batch is copied as it is.

mod nodes;

use std::rc::Rc;
use std::time::Duration;

use streamd_core::config::Configs;
use streamd_core::meta::{Command, ConfigChange, Resource};
use streamd_core::repl::Acks;
use streamd_io::Env;
use streamd_io::sim::{Sim, SimOptions};
use streamd_log::NewBatch;
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_model::{NodeId, Offset, PartitionId, TopicId, Watermarks};
use streamd_shard::{AppendItem, ReadItem, Reply, Request};

use nodes::{Net, three};

const TOPIC: TopicId = TopicId([7; 16]);
const P: PartitionId = PartitionId {
    topic: TOPIC,
    index: 0,
};

async fn ask(net: &Net, node: NodeId, request: Request) -> Reply {
    let shard = net.shard(node);
    let owner = usize::from(shard.owner(P).0);
    shard.begin(owner, request).await.await.expect("an answer")
}

fn leader(net: &Net, by: NodeId) -> Option<NodeId> {
    net.image(by).cluster().partition(P)?.leader
}

fn in_sync(net: &Net, by: NodeId) -> usize {
    let image = net.image(by);
    image.cluster().partition(P).map_or(0, |p| p.isr.len())
}

/// Three nodes, and a topic with a replica on each; who leads it, and who else there is.
async fn begin(env: &Env, configs: &[(&str, &str)]) -> (Rc<Net>, NodeId, NodeId) {
    let net = three(env, 0).await;
    net.until("three brokers", || {
        let image = net.image(NodeId(1));
        image.cluster().brokers().filter(|b| b.is_active()).count() == 3
    })
    .await;
    let configs = configs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    let create = Command::CreateTopic {
        name: "t".to_owned(),
        id: TOPIC,
        partitions: 1,
        configs: configs.collect::<Configs>(),
        created_ms: 5,
    };
    net.shard(NodeId(1)).propose(create).await.unwrap();
    net.until("all in sync", || in_sync(&net, NodeId(1)) == 3)
        .await;
    let led = leader(&net, NodeId(1)).unwrap();
    let follower = NodeId(led.0 % 3 + 1);
    (net, led, follower)
}

/// Writes a batch of so many records of so many bytes, for all in sync.
async fn write(net: &Net, to: NodeId, (count, size): (usize, usize)) {
    let value = vec![b'x'; size];
    let record = NewRecord {
        value: Some(&value),
        ..NewRecord::default()
    };
    let item = AppendItem {
        partition: P,
        batch: NewBatch::own(build(&vec![record; count], Writer::default()), 1).unwrap(),
        guard: None,
        acks: Acks::All,
    };
    let Reply::Append(done) = ask(net, to, Request::Append(vec![item])).await else {
        panic!("another answer");
    };
    done[0].as_ref().expect("it is taken");
}

async fn marks(net: &Net, node: NodeId, offset: Offset) -> (Watermarks, usize) {
    let item = ReadItem {
        partition: P,
        offset,
        bytes_max: 64 << 10,
        leader_epoch: -1,
        last_fetched_epoch: -1,
        committed: false,
        follower_too: true,
    };
    let Reply::ReadBytes(mut done) = ask(net, node, Request::ReadBytes(vec![item])).await else {
        panic!("another answer");
    };
    let done = done.pop().unwrap();
    (done.marks, done.bytes.map_or(0, |b| b.len()))
}

/// Has a node miss what is written meanwhile, and leave the in-sync set.
async fn away(net: &Net, node: NodeId, led: NodeId, write_: impl AsyncFn()) {
    net.cut.borrow_mut().insert(node);
    net.until("it is not in sync", || in_sync(net, led) == 2)
        .await;
    write_().await;
}

#[test]
fn a_log_that_begins_inside_a_batch_is_copied_with_all_of_the_batch() {
    for seed in 0..6 {
        Sim::new(seed, SimOptions::default()).run(move |env| async move {
            let (net, led, follower) = begin(&env, &[]).await;
            if seed % 2 == 1 {
                write(&net, led, (3, 20)).await;
            }
            away(&net, follower, led, async || {
                for _ in 0..5 {
                    write(&net, led, (10, 100)).await;
                }
            })
            .await;
            let start = 24 + (seed as Offset % 3);
            let delete = Request::DeleteRecords(vec![(P, start)]);
            let Reply::DeleteRecords(done) = ask(&net, led, delete).await else {
                panic!("another answer");
            };
            assert_eq!(done[0].as_ref().unwrap(), &start);
            net.cut.borrow_mut().clear();
            net.until("it is in sync", || in_sync(&net, led) == 3).await;
            write(&net, led, (1, 10)).await;
            let (there, bytes) = marks(&net, led, start).await;
            assert!(bytes > 0);
            let begun = env.now();
            loop {
                let (here, copied) = marks(&net, follower, start).await;
                if (here.start, here.high, copied) == (start, there.high, bytes) {
                    break;
                }
                assert!(
                    env.now() - begun < nodes::LONG,
                    "{here:?} with {copied} bytes, {there:?} with {bytes}"
                );
                env.sleep(Duration::from_millis(50)).await;
            }
        });
    }
}

fn set(node: NodeId, name: &str, value: &str) -> Command {
    Command::AlterConfig {
        resource: Resource::Broker(node),
        changes: vec![ConfigChange {
            name: name.to_owned(),
            value: Some(value.to_owned()),
        }],
    }
}

/// How long a follower takes that lacks two megabytes, when it gets as much a second of which
/// side; and how long a record takes meanwhile that all in sync have to have.
async fn catch_up(env: &Env, side: &str, rate: &str) -> (Duration, Duration) {
    let listed = format!("{side}.replication.throttled.replicas");
    let (net, led, follower) = begin(env, &[(&listed, "*")]).await;
    let (name, at) = match side {
        "leader" => ("leader.replication.throttled.rate", led),
        _ => ("follower.replication.throttled.rate", follower),
    };
    net.shard(led).propose(set(at, name, rate)).await.unwrap();
    away(&net, follower, led, async || {
        for _ in 0..20 {
            write(&net, led, (1, 100_000)).await;
        }
    })
    .await;
    net.cut.borrow_mut().clear();
    let (begun, mut slowest) = (env.now(), Duration::ZERO);
    while in_sync(&net, led) < 3 {
        let since = env.now();
        write(&net, led, (1, 10)).await;
        slowest = slowest.max(env.now() - since);
        env.sleep(Duration::from_millis(20)).await;
        assert!(env.now() - begun < 3 * nodes::LONG, "it does not catch up");
    }
    (env.now() - begun, slowest)
}

#[test]
fn a_throttled_copy_takes_as_long_as_it_must_and_nobody_in_sync_is_slowed() {
    for (side, rate, least, most) in [
        ("leader", "200000", 8, 13),
        ("follower", "200000", 7, 13),
        ("leader", "9223372036854775807", 0, 5),
    ] {
        Sim::new(3, SimOptions::default()).run(move |env| async move {
            let (took, slowest) = catch_up(&env, side, rate).await;
            let range = Duration::from_secs(least)..Duration::from_secs(most);
            assert!(range.contains(&took), "{side} {rate}: {took:?}");
            assert!(slowest < Duration::from_millis(300), "{side}: {slowest:?}");
        });
    }
}
