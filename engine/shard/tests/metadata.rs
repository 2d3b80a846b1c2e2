//! The metadata log of a shard on the simulated disk: a directory of before there was a quorum is
//! taken over, whenever the process dies or the power goes meanwhile; the log begins anew when it
//! is long; a write that fails is told to whoever asked, and to all who ask later; each run of the
//! broker takes its seat in the cluster, and leaves it.

mod common;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use streamd_core::config::Configs;
use streamd_core::control::NewIsr;
use streamd_core::meta::{
    ClusterImage, Command, ConfigChange, Local, PartitionMeta, Registration, Resource,
};
use streamd_io::sim::{DiskOp, Fault, Sim, SimOptions};
use streamd_io::{Class, Env, mailbox};
use streamd_log::journal::{JournalOptions, replay};
use streamd_log::{LogConfig, recover, write_back};
use streamd_model::{ErrorCode, NodeId, PartitionId, ShardId, TopicId};
use streamd_shard::flusher::Owner;
use streamd_shard::tail_budget::TailBudget;
use streamd_shard::{Settings, Shard};

use common::{DATA, One};

type Names = BTreeSet<String>;

fn local() -> Local {
    Local {
        node: NodeId(1),
        configs: Configs::new(),
    }
}

fn create(n: u64) -> Command {
    Command::CreateTopic {
        name: format!("t{n}"),
        id: TopicId::from_random(n, n),
        partitions: 1 + (n % 3) as i32,
        configs: Configs::new(),
        created_ms: 5,
    }
}

fn delete(n: u64) -> Command {
    let id = TopicId::from_random(n, n);
    Command::DeleteTopic { id }
}

fn names(image: &ClusterImage) -> Names {
    image.topics().map(|t| t.name.clone()).collect()
}

async fn start(env: &Env) -> Rc<Shard> {
    start_all(env).await.remove(0)
}

async fn start_all(env: &Env) -> Vec<Rc<Shard>> {
    let settings = Settings {
        data_dir: DATA.into(),
        tail_bytes: 1 << 20,
        local: local(),
        told: Registration {
            node: NodeId(1),
            incarnation: TopicId::from_random(env.random_u64(), env.random_u64()).0,
            directory: [7; 16],
            rack: None,
            endpoints: Vec::new(),
            features: (0, 1),
        },
        joins: false,
        journal: JournalOptions {
            file_bytes: 1 << 20,
            files_max: 4,
            durable: true,
        },
        retention_check: Duration::from_secs(5),
        brakes: Default::default(),
    };
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let mut shards = Vec::new();
    for (index, endpoint) in mailbox::mesh(2, 64).into_iter().enumerate() {
        let id = ShardId(index as u16);
        let shard = Shard::new(env.clone(), id, 2, endpoint, settings.clone());
        env.spawn(Class::Latency, shard.clone().run()).detach();
        shards.push(shard);
    }
    shards[0].lead().await.unwrap();
    for shard in &shards {
        shard.opened().await;
    }
    shards
}

/// A life of the broker that wrote commands, with an image for a checkpoint.
async fn old_life(env: Env, commands: Vec<Command>, mut image: ClusterImage, close: bool) {
    env.create_dir_all(Path::new(DATA)).await.unwrap();
    let all = |_: usize| true;
    let now = |_: usize, _: &str, _: &str| false;
    let replayed = replay::replay_some(&env, Path::new(DATA), (all, all), now).await;
    replayed.unwrap();
    let flusher = common::flusher(&env, TailBudget::new(1 << 20), &[]).await;
    let dir = Path::new(DATA).join("__cluster_metadata-0");
    let config = LogConfig {
        metadata: String::new(),
        ..common::config()
    };
    let opened = recover::open(&env, &dir, config, 0, &mut |_, _| {}).await;
    let log = opened.unwrap().log;
    let told = Rc::new(std::cell::Cell::new(log.end()));
    let one = One::new(log, told);
    for command in &commands {
        common::append(&one.log, &command.encode());
        image.apply(command);
        flusher.kick(one.clone());
        while one.told.get() < one.log.borrow().end() {
            env.sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(!one.is_gone());
    if close {
        flusher.close().await.unwrap();
        write_back::close(&env, &one.log, image.encode())
            .await
            .unwrap();
    }
}

fn old_commands() -> (Vec<Command>, Vec<Command>) {
    let config = Command::AlterConfig {
        resource: Resource::AllBrokers,
        changes: vec![ConfigChange {
            name: "log.retention.ms".to_owned(),
            value: Some("123456".to_owned()),
        }],
    };
    let first = vec![create(1), create(2), config, create(3)];
    let second = vec![delete(2), create(4), delete(1), create(5)];
    (first, second)
}

/// A data directory of before there was a quorum. `how`: what it was left like.
fn old_directory(sim: &mut Sim, how: u64) -> ClusterImage {
    let (first, second) = old_commands();
    let before = ClusterImage::new(local());
    let mut between = before.clone();
    first.iter().for_each(|c| between.apply(c));
    let mut after = between.clone();
    second.iter().for_each(|c| after.apply(c));
    sim.run(move |env| old_life(env, first, before, how != 0));
    sim.run(move |env| old_life(env, second, between, how == 2));
    after
}

/// Starts, changes something, and stops or just ends.
async fn new_life(env: Env, old: ClusterImage, answered: Rc<RefCell<Names>>, close: bool) {
    let shard = start(&env).await;
    check(&shard, &old, &answered.borrow());
    for n in 10..13 {
        let name = format!("t{n}");
        if shard.image().topic(&name).is_none() {
            let image = shard.propose(create(n)).await.unwrap();
            assert!(image.topic(&name).is_some());
        }
        answered.borrow_mut().insert(name);
    }
    if close {
        shard.close().await;
    }
}

fn check(shard: &Shard, old: &ClusterImage, answered: &Names) {
    let image = shard.image();
    for topic in old.topics() {
        assert_eq!(image.topic_by_id(topic.id), Some(topic));
    }
    let found = names(&image);
    assert!(
        answered.is_subset(&found),
        "answered {answered:?}, found {found:?}"
    );
    let extra: Vec<_> = found.difference(&names(old)).cloned().collect();
    let possible = ["t10", "t11", "t12"].map(str::to_owned);
    assert!(extra.iter().eq(possible.iter().take(extra.len())));
    let retention = image.broker_configs(Resource::AllBrokers);
    assert_eq!(retention, old.broker_configs(Resource::AllBrokers));
}

/// An upgrade that is cut off after so many turns, and starts after it. False when it was not cut.
fn upgrade_cut(how: u64, turns: u64, power: bool, close: bool) -> bool {
    let mut sim = Sim::new(how, SimOptions::default());
    let old = old_directory(&mut sim, how);
    let answered = Rc::new(RefCell::new(Names::new()));
    let mut cut = false;
    // The second cut is another step of what the first one left.
    for turns in [turns, turns / 2 + 7] {
        let (image, model) = (old.clone(), answered.clone());
        let end = sim.run_turns(turns, move |env| new_life(env, image, model, close));
        cut |= end.is_none();
        if power {
            sim.power_cut();
        }
    }
    for _ in 0..2 {
        let (image, model) = (old.clone(), answered.clone());
        sim.run(move |env| new_life(env, image, model, true));
    }
    cut
}

#[test]
fn a_directory_of_before_the_quorum_is_taken_over_whenever_that_is_cut_off() {
    for how in 0..3 {
        let mut turns = 1;
        while upgrade_cut(how, turns, turns % 2 == 0, turns % 3 == 0) {
            turns += 1;
        }
        assert!(turns > 50, "how {how}: only {turns} turns");
    }
}

#[test]
fn a_write_that_fails_is_told_to_all_who_ask_from_then_on() {
    let mut sim = Sim::new(1, SimOptions::default());
    let disk = sim.disk();
    sim.run(|env| async move {
        let shard = start(&env).await;
        shard.propose(create(1)).await.unwrap();
        disk.set_faults(vec![Fault::eio("/journal/", DiskOp::Write)]);
        for n in [2, 3] {
            let refused = shard.propose(create(n)).await.unwrap_err();
            assert_eq!(refused.code, ErrorCode::KafkaStorageError);
            assert!(refused.text.starts_with("the metadata log failed: "));
        }
        disk.set_faults(Vec::new());
        let refused = shard.propose(create(4)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::KafkaStorageError);
        assert_eq!(names(&shard.image()), Names::from(["t1".to_owned()]));
        shard.close().await;
    });
    sim.run(|env| async move {
        let shard = start(&env).await;
        assert!(shard.image().topic("t1").is_some());
        assert!(shard.image().topic("t3").is_none() && shard.image().topic("t4").is_none());
        shard.propose(create(3)).await.unwrap();
    });
}

#[test]
fn what_is_refused_changes_nothing_and_the_next_one_goes_through() {
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let shard = start(&env).await;
        shard.propose(create(1)).await.unwrap();
        let version = shard.image().version();
        let refused = shard.propose(create(1)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::TopicAlreadyExists);
        let refused = shard.propose(delete(2)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::UnknownTopicId);
        assert_eq!(shard.image().version(), version);
        shard.propose(delete(1)).await.unwrap();
        shard.close().await;
        let late = shard.propose(create(5)).await.unwrap_err();
        assert_eq!(late.code, ErrorCode::NotController);
    });
}

/// Bytes and number of the log's segments.
fn segments(sim: &Sim) -> (usize, usize) {
    let disk = sim.disk();
    let of_log = |p: &std::path::PathBuf| {
        let name = p.to_string_lossy();
        name.contains("__cluster_metadata-0/") && name.ends_with(".log")
    };
    let logs: Vec<_> = disk.files().into_iter().filter(of_log).collect();
    let bytes = logs.iter().filter_map(|p| disk.read(p)).map(|b| b.len());
    (bytes.sum(), logs.len())
}

#[test]
fn a_log_that_gets_long_begins_anew() {
    let mut sim = Sim::new(1, SimOptions::default());
    let long = |n: usize| Command::AlterGroup {
        group: "g".to_owned(),
        changes: vec![ConfigChange {
            name: "x".to_owned(),
            value: Some(format!("{n}{}", "x".repeat(100_000))),
        }],
    };
    for life in 0..3 {
        sim.run(move |env| async move {
            let shard = start(&env).await;
            let value = |shard: &Shard| {
                let image = shard.image();
                let configs = image.group_configs("g").and_then(|c| c.get("x"));
                configs.map_or("none".to_owned(), |x| x.trim_end_matches('x').to_owned())
            };
            let expected = match life {
                0 => "none".to_owned(),
                n => (n * 1000 + 79).to_string(),
            };
            assert_eq!(value(&shard), expected);
            for n in 0..80 {
                shard.propose(long((life + 1) * 1000 + n)).await.unwrap();
                env.sleep(Duration::from_millis(50)).await;
            }
        });
        sim.power_cut();
    }
    let (bytes, logs) = segments(&sim);
    assert!(bytes < 14 << 20 && logs <= 4, "{bytes} in {logs} segments");
}

fn alone(shard: &Shard) -> (PartitionMeta, PartitionId) {
    let image = shard.image();
    let topic = image.topic("t1").unwrap().id;
    let id = PartitionId { topic, index: 0 };
    (image.cluster().partition(id).unwrap().clone(), id)
}

#[test]
fn each_run_takes_its_seat_and_a_lone_broker_leaves_it_at_once() {
    let mut sim = Sim::new(1, SimOptions::default());
    let mut before = None;
    for life in 0..3 {
        let now = sim.run(move |env| async move {
            let begun = env.now();
            let shards = start_all(&env).await;
            if life == 0 {
                shards[0].propose(create(1)).await.unwrap();
                let (place, _) = alone(&shards[0]);
                assert_eq!(
                    (place.leader, place.isr),
                    (Some(NodeId(1)), vec![NodeId(1)])
                );
            }
            while !shards
                .iter()
                .all(|s| s.lease() > env.now() && s.acts().is_some())
            {
                env.sleep(Duration::from_millis(1)).await;
            }
            assert!(
                env.now() - begun < Duration::from_millis(200),
                "nothing was waited for"
            );
            let (place, id) = alone(&shards[1]);
            // A set that is none is refused, and does not hold up the next one.
            for (isr, epoch) in [(vec![], place.epoch), (vec![(NodeId(1), -1)], place.epoch)] {
                let leader_epoch = place.leader_epoch;
                shards[1].wish(NewIsr {
                    partition: id,
                    leader_epoch,
                    epoch,
                    isr,
                });
                env.sleep(Duration::from_millis(500)).await;
            }
            let (after, _) = alone(&shards[1]);
            assert_eq!(after.epoch, place.epoch + 1, "the second wish came true");
            assert_eq!(
                after.leader_epoch, 0,
                "nobody else could have led meanwhile"
            );
            let lease = shards[1].lease();
            env.sleep(Duration::from_secs(20)).await;
            assert!(shards[1].lease() >= lease + Duration::from_secs(18));
            let stopping = env.now();
            let epoch = shards[1].acts();
            if life < 2 {
                shards[0].leave().await;
                assert_eq!(env.now(), stopping, "there is nobody to wait for");
                shards[1].close().await;
                shards[0].close().await;
            }
            epoch
        });
        assert!(now > before, "{now:?} is above {before:?}");
        before = now;
    }
}
