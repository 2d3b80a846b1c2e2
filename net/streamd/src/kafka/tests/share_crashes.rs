//! Share groups through crashes and clean stops: what was accepted and answered is never delivered
//! again, and in the end every record was accepted.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use streamd_core::config::Configs;
use streamd_core::share::{Key, STATE_TOPIC, state_partition};
use streamd_io::Env;
use streamd_io::sim::{Sim, SimOptions};
use streamd_model::{ErrorCode, PartitionId};
use streamd_shard::{OffsetQuery, Reply, Request};

use super::shares::{acknowledge, beat, configure, fetch, fetches, produce, topic};
use super::{create, groups, start};
use crate::broker::Broker;

const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;

/// What the outside knows.
#[derive(Default)]
struct Model {
    /// Offsets that were acknowledged to their producer.
    produced: BTreeSet<i64>,
    accepted: BTreeSet<i64>,
    /// The accept of these is under way.
    saying: BTreeSet<i64>,
    /// It was when the broker died: they may be accepted, and then do not come again.
    perhaps: BTreeSet<i64>,
    requests: u64,
    /// How far the log of the share-partition was pruned.
    pruned: i64,
}

type Shared = Rc<RefCell<Model>>;

/// A worker as it lives from one start of the broker to the next.
struct Worker {
    name: &'static str,
    epoch: i32,
    session: i32,
}

impl Worker {
    async fn work(&mut self, broker: &Rc<Broker>, model: &Shared, gives_up: u64) {
        let (code, epoch) = beat(broker, self.name, self.epoch).await;
        match code {
            ErrorCode::None => self.epoch = epoch,
            ErrorCode::UnknownMemberId | ErrorCode::GroupIdNotFound => self.epoch = 0,
            other => panic!("{}: {other:?}", self.name),
        }
        let request = fetches(self.name, self.session, topic(broker));
        let got = match fetch(broker, &request).await {
            Ok(got) => got,
            Err(ErrorCode::GroupIdNotFound) => Vec::new(),
            Err(other) => panic!("{}: {other:?}", self.name),
        };
        self.session += 1;
        for (first, last, count) in got {
            assert!(count <= 5, "delivery {count}");
            let all: BTreeSet<i64> = (first..=last).collect();
            {
                let mut model = model.borrow_mut();
                let again: Vec<_> = all.intersection(&model.accepted).collect();
                assert!(again.is_empty(), "{again:?} were accepted");
                model.requests += 1;
                model.saying = all.clone();
            }
            let releases = gives_up > 0 && broker.shard.env.random_u64().is_multiple_of(gives_up);
            let kind = if releases && count < 4 {
                RELEASE
            } else {
                ACCEPT
            };
            let who = (self.name, self.session);
            let code = acknowledge(broker, who, (first, last), kind).await;
            assert_eq!(code, ErrorCode::None, "{} {first} to {last}", self.name);
            self.session += 1;
            let mut model = model.borrow_mut();
            model.saying.clear();
            if kind == ACCEPT {
                model.accepted.extend(all);
            }
        }
    }
}

/// Where the log starts that keeps the share-partition.
async fn log_start(broker: &Rc<Broker>) -> i64 {
    let key = Key {
        group: "g".into(),
        topic: topic(broker),
        partition: 0,
    };
    let image = broker.shard.image();
    let Some(state) = image.topic(STATE_TOPIC) else {
        return 0;
    };
    let partition = PartitionId {
        topic: state.id,
        index: state_partition(&key, state.partitions),
    };
    let query = OffsetQuery {
        partition,
        leader_epoch: -1,
        timestamp: -2,
        committed: false,
    };
    let owner = broker.shard.owner(partition);
    match broker.shard.ask(owner, Request::Offsets(vec![query])).await {
        Some(Reply::Offsets(found)) => found[0].as_ref().expect("an offset").offset,
        _ => panic!("the shard has stopped"),
    }
}

fn workers() -> Vec<Worker> {
    let worker = |name| Worker {
        name,
        epoch: 0,
        session: 0,
    };
    ["a", "b", "c"].map(worker).into()
}

async fn up(env: &Env) -> Rc<Broker> {
    // Few updates between snapshots: so its log is pruned many times.
    let often = (
        "share.coordinator.snapshot.update.records.per.snapshot",
        "0",
    );
    let configs: Configs = [(often.0.to_owned(), often.1.to_owned())].into();
    let broker = start(env, configs).await;
    groups::find(&broker).await;
    if broker.shard.image().topic("t").is_none() {
        create(&broker, "t", 1).await;
    }
    configure(&broker, "g", &[("share.auto.offset.reset", "earliest")]).await;
    broker
}

async fn live(env: Env, model: Shared) {
    let broker = up(&env).await;
    let mut workers = workers();
    for _ in 0..env.random_u64() % 25 {
        let count = 1 + (env.random_u64() % 6) as usize;
        let base = produce(&broker, count).await;
        model
            .borrow_mut()
            .produced
            .extend(base..base + count as i64);
        let n = (env.random_u64() % 3) as usize;
        workers[n].work(&broker, &model, 3).await;
    }
    if env.random_u64().is_multiple_of(3) {
        // A clean stop: the other shard, then this one.
        for shard in [0, 1] {
            let answer = broker.begin(shard, Request::Close).await;
            answer.await.expect("it closes");
        }
    }
}

fn run(seed: u64) -> (u64, i64) {
    let model = Shared::default();
    let mut sim = Sim::new(seed, SimOptions::default());
    for _ in 0..6 {
        let m = model.clone();
        if sim.run_until_crash(move |env| live(env, m)).is_none() {
            sim.power_cut();
        }
        let mut model = model.borrow_mut();
        let said = std::mem::take(&mut model.saying);
        model.perhaps.extend(said);
    }
    let last = model.clone();
    sim.run(move |env| async move {
        let broker = up(&env).await;
        let mut workers = workers();
        // One long life, so that much is written in it.
        for n in 0..60 {
            let base = produce(&broker, 1).await;
            last.borrow_mut().produced.insert(base);
            workers[n % 3].work(&broker, &last, 0).await;
        }
        for n in 0..40 {
            workers[n % 3].work(&broker, &last, 0).await;
            env.sleep(std::time::Duration::from_secs(2)).await;
        }
        last.borrow_mut().pruned = log_start(&broker).await;
    });
    let model = model.borrow();
    let done: BTreeSet<_> = model.accepted.union(&model.perhaps).collect();
    let lost: Vec<_> = model
        .produced
        .iter()
        .filter(|o| !done.contains(o))
        .collect();
    assert!(lost.is_empty(), "never accepted: {lost:?}");
    (model.requests, model.pruned)
}

#[test]
fn what_was_accepted_is_not_delivered_again_after_a_crash() {
    let number = |name| {
        let text = std::env::var(name).ok();
        text.map(|s| s.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = number("STREAMD_SEED") {
        run(seed);
        return;
    }
    let (mut count, mut pruned) = (0, 0);
    for seed in 0..number("STREAMD_SEEDS").unwrap_or(25) {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok((requests, start)) => (count, pruned) = (count + requests, pruned + start),
            Err(_) => panic!("seed {seed} failed; STREAMD_SEED={seed} runs it alone"),
        }
    }
    assert!(count > 200, "only {count} deliveries");
    assert!(pruned > 0, "the log was never pruned");
}
