//! Transactions through crashes: what was aborted is never read, what was committed is there
//! whole, offsets included, and nothing holds the last stable offset back for ever.
//!
//! Producers of both versions of the protocol write unique numbers while a reader reads what is
//! committed as clients do. They give transactions up in the middle, sleep longer than their
//! timeouts, and zombies of theirs write late. The process dies at any turn, and the power goes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use streamd_core::config::Configs;
use streamd_io::sim::{Sim, SimOptions, each_seed};
use streamd_io::{Class, Env};
use streamd_shard::Request;

use super::txn_client::{Client, Failed, committed_offset, read_committed};
use super::{create, groups, start};
use crate::broker::Broker;

const PARTITIONS: i32 = 3;
const PRODUCERS: usize = 2;

/// What is known of a transaction from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nobody has asked to commit it.
    Open,
    /// It was asked to commit, and no answer came yet.
    Asked,
    Committed,
    Aborted,
}

#[derive(Clone, Debug)]
struct Txn {
    producer: usize,
    /// How many records it has in each partition.
    records: BTreeMap<i32, u32>,
    /// Whether the group's offset goes with it.
    offset: bool,
    fate: Fate,
}

/// What the outside knows.
#[derive(Default)]
struct Model {
    txns: BTreeMap<i64, Txn>,
    next: i64,
    seen: BTreeSet<i64>,
    stable: BTreeMap<i32, i64>,
    ended: u64,
}

type Shared = Rc<RefCell<Model>>;

/// One transaction of a producer. An error means that it has to begin its life anew.
async fn transact(
    env: &Env,
    client: &mut Client,
    who: usize,
    model: &Shared,
) -> Result<(), Failed> {
    let n = {
        let mut model = model.borrow_mut();
        model.next += 1;
        let n = model.next;
        let txn = Txn {
            producer: who,
            records: BTreeMap::new(),
            offset: false,
            fate: Fate::Open,
        };
        model.txns.insert(n, txn);
        n
    };
    for _ in 0..1 + env.random_u64() % 4 {
        let partition = (env.random_u64() % PARTITIONS as u64) as i32;
        if env.random_u64().is_multiple_of(40) {
            client.write_unannounced(partition, n).await;
        }
        let count = 1 + (env.random_u64() % 3) as u32;
        let result = client.write(partition, n, count).await;
        let mut model = model.borrow_mut();
        let txn = model.txns.get_mut(&n).unwrap();
        *txn.records.entry(partition).or_default() += count;
        result?;
    }
    if env.random_u64().is_multiple_of(3) {
        client.commit_offset(who as i32, n).await?;
        model.borrow_mut().txns.get_mut(&n).unwrap().offset = true;
    }
    match env.random_u64() % 12 {
        0 => return Err(Failed),
        1 => env.sleep(Duration::from_millis(1500)).await,
        _ => {}
    }
    let commit = !env.random_u64().is_multiple_of(3);
    let fate = |fate| model.borrow_mut().txns.get_mut(&n).unwrap().fate = fate;
    if commit {
        fate(Fate::Asked);
    }
    let ended = client.end(commit).await;
    fate(match (&ended, commit) {
        (Ok(()), true) => Fate::Committed,
        _ => Fate::Aborted,
    });
    model.borrow_mut().ended += u64::from(ended.is_ok());
    ended
}

/// Nobody can commit any more what nobody has asked to commit.
fn give_up(model: &Shared, which: impl Fn(&Txn) -> bool) {
    for txn in model.borrow_mut().txns.values_mut().filter(|t| which(t)) {
        if txn.fate == Fate::Open {
            txn.fate = Fate::Aborted;
        }
    }
}

async fn produce(env: Env, broker: Rc<Broker>, who: usize, model: Shared) {
    let version = 1 + (env.random_u64() % 2) as i16;
    let mut client = Client::begin(&broker, &format!("p{who}"), version).await;
    for _ in 0..env.random_u64() % 30 {
        if transact(&env, &mut client, who, &model).await.is_err() {
            // Whatever was open is over now.
            let zombie = client.clone();
            client = Client::begin(&broker, &format!("p{who}"), version).await;
            give_up(&model, |t| t.producer == who);
            zombie.is_fenced().await;
        }
    }
}

/// Reads everything and checks what may be checked at any time. Gives the counts by partition.
async fn read(env: &Env, broker: &Rc<Broker>, model: &Shared) -> Vec<BTreeMap<i64, u32>> {
    let mut all = Vec::new();
    for partition in 0..PARTITIONS {
        let found = read_committed(env, broker, partition).await;
        let mut model = model.borrow_mut();
        let before = model.stable.insert(partition, found.stable).unwrap_or(0);
        assert!(found.stable >= before, "the last stable offset went back");
        for n in found.counts.keys() {
            let txn = &model.txns[n];
            let may = matches!(txn.fate, Fate::Asked | Fate::Committed);
            assert!(may, "{n} was read: {txn:?}");
            model.seen.insert(*n);
        }
        all.push(found.counts);
    }
    all
}

async fn live(env: Env, model: Shared) {
    let broker = start(&env, configs()).await;
    groups::find(&broker).await;
    if broker.shard.image().topic("t").is_none() {
        create(&broker, "t", PARTITIONS).await;
    }
    let mut tasks = Vec::new();
    for who in 0..PRODUCERS {
        let task = produce(env.clone(), broker.clone(), who, model.clone());
        tasks.push(env.spawn(Class::Latency, task));
    }
    for _ in 0..env.random_u64() % 5 {
        env.sleep(Duration::from_millis(env.random_u64() % 300))
            .await;
        read(&env, &broker, &model).await;
    }
    for task in tasks {
        task.await;
    }
    if env.random_u64().is_multiple_of(3) {
        for shard in [0, 1] {
            let answer = broker.begin(shard, Request::Close).await;
            answer.await.expect("it closes");
        }
    }
}

/// After the last start: everything is decided and read as it was decided.
async fn judge(env: Env, model: Shared) {
    let broker = start(&env, configs()).await;
    groups::find(&broker).await;
    if broker.shard.image().topic("t").is_none() {
        create(&broker, "t", PARTITIONS).await;
    }
    for who in 0..PRODUCERS {
        Client::begin(&broker, &format!("p{who}"), 1).await;
    }
    let found = read(&env, &broker, &model).await;
    for partition in 0..PARTITIONS {
        let end = read_committed(&env, &broker, partition).await;
        assert_eq!(end.stable, end.high, "partition {partition} is stuck");
    }
    let mut offsets = BTreeMap::new();
    for (n, txn) in &model.borrow().txns {
        let mut whole = 0;
        for (partition, want) in &txn.records {
            match found[*partition as usize].get(n) {
                Some(got) => {
                    assert_eq!(got, want, "{n} in {partition}: {txn:?}");
                    whole += 1;
                }
                None => assert_ne!(
                    txn.fate,
                    Fate::Committed,
                    "{n} in {partition} is lost: {txn:?}"
                ),
            }
        }
        assert!(
            whole == 0 || whole == txn.records.len(),
            "{n} is torn: {txn:?}"
        );
        if whole > 0 && txn.offset {
            offsets.insert(txn.producer, *n);
        }
    }
    for who in 0..PRODUCERS {
        let got = committed_offset(&broker, who as i32).await;
        assert_eq!(
            got,
            offsets.get(&who).copied(),
            "the offset of producer {who}"
        );
    }
    let model = model.borrow();
    let all: BTreeSet<i64> = found.iter().flat_map(|p| p.keys().copied()).collect();
    assert!(model.seen.is_subset(&all), "what was read is gone");
}

fn configs() -> Configs {
    let pairs = [
        ("transaction.state.log.num.partitions", "3"),
        ("offsets.topic.num.partitions", "3"),
    ];
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

fn run(seed: u64) -> u64 {
    let model = Shared::default();
    let options = SimOptions {
        crash_turns: 200..20_000,
        ..SimOptions::default()
    };
    let mut sim = Sim::new(seed, options);
    for _ in 0..5 {
        let m = model.clone();
        if sim.run_until_crash(move |env| live(env, m)).is_none() {
            sim.power_cut();
        }
        // What was open when the process died can be committed by nobody.
        give_up(&model, |_| true);
    }
    let last = model.clone();
    sim.run(move |env| judge(env, last));
    model.borrow().ended
}

#[test]
fn transactions_are_all_or_nothing_through_crashes() {
    let Some(all) = each_seed(200, run) else {
        return;
    };
    let ended: u64 = all.into_iter().sum();
    assert!(ended > 500, "only {ended} transactions ended");
}
