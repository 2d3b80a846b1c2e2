//! Committed offsets through crashes and clean stops: what was answered is there after a restart,
//! and what was under way is there whole or not at all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use streamd_core::config::Configs;
use streamd_io::Env;
use streamd_io::sim::{Sim, SimOptions, each_seed};
use streamd_shard::Request;
use streamd_wire::kafka::generated::*;

use super::{ask, create, groups, start};
use crate::broker::Broker;

/// Groups, partitions, offsets.
type Offsets = BTreeMap<(String, i32), i64>;

/// What the outside knows.
#[derive(Default)]
struct Model {
    answered: Offsets,
    under_way: Option<((String, i32), Option<i64>)>,
    next: i64,
    /// Requests that were answered, over all runs.
    count: u64,
}

type Shared = Rc<RefCell<Model>>;

const GROUPS: u64 = 5;
const PARTITIONS: i32 = 3;

async fn commit(broker: &Rc<Broker>, group_id: &str, index: i32, offset: i64) {
    let request = OffsetCommitRequest {
        group_id,
        topics: vec![offset_commit_request::OffsetCommitRequestTopic {
            name: "t",
            partitions: vec![offset_commit_request::OffsetCommitRequestPartition {
                partition_index: index,
                committed_offset: offset,
                ..offset_commit_request::OffsetCommitRequestPartition::default()
            }]
            .into(),
            ..offset_commit_request::OffsetCommitRequestTopic::default()
        }]
        .into(),
        ..OffsetCommitRequest::default()
    };
    let answer = ask(broker, 9, &request).await;
    let r: OffsetCommitResponse<'_> = answer.decode();
    let topic = r.topics.iter().next().unwrap();
    assert_eq!(topic.partitions.iter().next().unwrap().error_code, 0);
}

async fn forget(broker: &Rc<Broker>, group_id: &str, partition_index: i32) {
    let request = OffsetDeleteRequest {
        group_id,
        topics: vec![offset_delete_request::OffsetDeleteRequestTopic {
            name: "t",
            partitions: vec![offset_delete_request::OffsetDeleteRequestPartition {
                partition_index,
            }]
            .into(),
        }]
        .into(),
    };
    let answer = ask(broker, 0, &request).await;
    let _: OffsetDeleteResponse<'_> = answer.decode();
}

async fn offsets(broker: &Rc<Broker>) -> Offsets {
    let mut found = Offsets::new();
    for n in 0..GROUPS {
        let group_id = format!("g{n}");
        let request = OffsetFetchRequest {
            group_id: &group_id,
            topics: None,
            ..OffsetFetchRequest::default()
        };
        let answer = ask(broker, 7, &request).await;
        let r: OffsetFetchResponse<'_> = answer.decode();
        for topic in &r.topics {
            for p in &topic.partitions {
                let key = (group_id.clone(), p.partition_index);
                found.insert(key, p.committed_offset);
            }
        }
    }
    found
}

async fn check(broker: &Rc<Broker>, model: &Shared) {
    let found = offsets(broker).await;
    let mut model = model.borrow_mut();
    let mut through = model.answered.clone();
    if let Some((key, value)) = model.under_way.take() {
        match value {
            Some(offset) => through.insert(key, offset),
            None => through.remove(&key),
        };
    }
    assert!(
        found == model.answered || found == through,
        "found {found:?}, answered {:?}, or with the last {through:?}",
        model.answered
    );
    model.answered = found;
}

async fn live(env: Env, model: Shared) {
    let broker = start(&env, Configs::new()).await;
    groups::find(&broker).await;
    if broker.shard.image().topic("t").is_none() {
        create(&broker, "t", PARTITIONS).await;
    }
    check(&broker, &model).await;
    for _ in 0..env.random_u64() % 60 {
        let group = format!("g{}", env.random_u64() % GROUPS);
        let index = (env.random_u64() % PARTITIONS as u64) as i32;
        let key = (group.clone(), index);
        let deletes = env.random_u64().is_multiple_of(8);
        let offset = {
            let mut model = model.borrow_mut();
            model.next += 1;
            let offset = (!deletes).then_some(model.next);
            model.under_way = Some((key.clone(), offset));
            offset
        };
        match offset {
            Some(offset) => commit(&broker, &group, index, offset).await,
            None => forget(&broker, &group, index).await,
        }
        let mut model = model.borrow_mut();
        model.under_way = None;
        model.count += 1;
        match offset {
            Some(offset) => model.answered.insert(key, offset),
            None => model.answered.remove(&key),
        };
    }
    if env.random_u64().is_multiple_of(3) {
        // A clean stop: the other shard, then this one.
        for shard in [0, 1] {
            let answer = broker.begin(shard, Request::Close).await;
            answer.await.expect("it closes");
        }
    }
}

fn run(seed: u64) -> u64 {
    let model = Shared::default();
    let mut sim = Sim::new(seed, SimOptions::default());
    for _ in 0..6 {
        let m = model.clone();
        // A run that ends by itself is a kill -9, or a clean stop. After the others the power
        // goes as well.
        if sim.run_until_crash(move |env| live(env, m)).is_none() {
            sim.power_cut();
        }
    }
    let last = model.clone();
    sim.run(move |env| async move {
        let broker = start(&env, Configs::new()).await;
        groups::find(&broker).await;
        check(&broker, &last).await;
    });
    model.borrow().count
}

#[test]
fn committed_offsets_are_there_after_a_crash() {
    let Some(all) = each_seed(60, run) else {
        return;
    };
    let count: u64 = all.into_iter().sum();
    assert!(count > 500, "only {count} requests were answered");
}
