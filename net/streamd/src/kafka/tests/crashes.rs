//! Topics through crashes: what was answered is there after a restart, what was refused is not,
//! and what was under way when the process died or the power went is there whole or not at all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use streamd_core::config::Configs;
use streamd_io::Env;
use streamd_io::sim::{Sim, SimOptions, each_seed};
use streamd_wire::kafka::generated::create_partitions_request::{
    CreatePartitionsRequest, CreatePartitionsTopic,
};
use streamd_wire::kafka::generated::create_partitions_response::CreatePartitionsResponse;
use streamd_wire::kafka::generated::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use streamd_wire::kafka::generated::create_topics_response::CreateTopicsResponse;
use streamd_wire::kafka::generated::delete_topics_request::DeleteTopicsRequest;
use streamd_wire::kafka::generated::delete_topics_response::DeleteTopicsResponse;

use super::{ask, start};
use crate::broker::Broker;

/// Topics and the number of their partitions.
type Topics = BTreeMap<String, i32>;

/// What the outside knows.
#[derive(Default)]
struct Model {
    answered: Topics,
    /// How the topics are if the request under way got through.
    under_way: Option<Topics>,
    /// Requests that were answered, over all runs.
    count: u64,
}

type Shared = Rc<RefCell<Model>>;

fn topics_of(broker: &Broker) -> Topics {
    let image = broker.shard.image();
    image
        .topics()
        .map(|t| (t.name.clone(), t.partitions))
        .collect()
}

fn check(broker: &Broker, model: &Shared) {
    let found = topics_of(broker);
    let mut model = model.borrow_mut();
    let got_through = model.under_way.take();
    assert!(
        found == model.answered || Some(&found) == got_through.as_ref(),
        "found {found:?}, answered {:?}, under way {got_through:?}",
        model.answered
    );
    model.answered = found;
}

/// One request. The error code of its answer.
async fn change(broker: &Rc<Broker>, kind: u64, name: &str, partitions: i32) -> i16 {
    match kind {
        0 => {
            let topics = vec![name];
            let request = DeleteTopicsRequest {
                topic_names: topics.into(),
                ..DeleteTopicsRequest::default()
            };
            let answer = ask(broker, 5, &request).await;
            let r: DeleteTopicsResponse<'_> = answer.decode();
            r.responses.iter().next().unwrap().error_code
        }
        1 => {
            let wanted = CreatePartitionsTopic {
                name,
                count: partitions,
                assignments: None,
            };
            let request = CreatePartitionsRequest {
                topics: vec![wanted].into(),
                ..CreatePartitionsRequest::default()
            };
            let answer = ask(broker, 3, &request).await;
            let r: CreatePartitionsResponse<'_> = answer.decode();
            r.results.iter().next().unwrap().error_code
        }
        _ => {
            let wanted = CreatableTopic {
                name,
                num_partitions: partitions,
                replication_factor: 1,
                ..CreatableTopic::default()
            };
            let request = CreateTopicsRequest {
                topics: vec![wanted].into(),
                ..CreateTopicsRequest::default()
            };
            let answer = ask(broker, 7, &request).await;
            let r: CreateTopicsResponse<'_> = answer.decode();
            r.topics.iter().next().unwrap().error_code
        }
    }
}

async fn live(env: Env, model: Shared) {
    let broker = start(&env, Configs::new()).await;
    check(&broker, &model);
    for _ in 0..env.random_u64() % 60 {
        let kind = env.random_u64() % 4;
        let name = format!("t{}", env.random_u64() % 6);
        let partitions = 1 + (env.random_u64() % 9) as i32;
        let (before, after) = {
            let before = model.borrow().answered.clone();
            let mut after = before.clone();
            if kind == 0 {
                after.remove(&name);
            } else {
                after.insert(name.clone(), partitions);
            }
            (before, after)
        };
        model.borrow_mut().under_way = Some(after.clone());
        let refused = change(&broker, kind, &name, partitions).await != 0;
        let has = before.get(&name);
        let expected = match kind {
            0 => has.is_none(),
            1 => has.is_none_or(|n| *n >= partitions),
            _ => has.is_some(),
        };
        assert_eq!(
            refused, expected,
            "kind {kind} of {name} with {partitions}: {before:?}"
        );
        let mut model = model.borrow_mut();
        model.under_way = None;
        model.answered = if refused { before } else { after };
        model.count += 1;
        assert_eq!(topics_of(&broker), model.answered);
    }
}

fn run(seed: u64) -> u64 {
    let model = Shared::default();
    let mut sim = Sim::new(seed, SimOptions::default());
    for _ in 0..6 {
        let m = model.clone();
        // A run that ends by itself is a kill -9: nothing is closed. After the others the power
        // goes as well.
        if sim.run_until_crash(move |env| live(env, m)).is_none() {
            sim.power_cut();
        }
    }
    let last = model.clone();
    sim.run(move |env| async move {
        let broker = start(&env, Configs::new()).await;
        check(&broker, &last);
    });
    model.borrow().count
}

#[test]
fn what_was_answered_is_there_after_a_crash() {
    let Some(all) = each_seed(100, run) else {
        return;
    };
    let count: u64 = all.into_iter().sum();
    assert!(count > 500, "only {count} requests were answered");
}
