//! `streamctl cluster reassign | elect | remove`: who has partitions, and who leads them.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use streamd_wire::kafka::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use streamd_wire::kafka::elect_leaders_request::TopicPartitions;
use streamd_wire::kafka::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use streamd_wire::kafka::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use streamd_wire::kafka::{
    AlterPartitionReassignmentsRequest, ElectLeadersRequest, IncrementalAlterConfigsRequest,
    ListPartitionReassignmentsRequest, UnregisterBrokerRequest,
};

use super::cli::{Elect, Reassign};
use super::{status, throttle};
use crate::cli::Global;
use crate::client::{Client, Partition, Topic, Which};
use crate::failure::{Failure, Result, describe};
use crate::out;

/// The setting of a broker that has its partitions moved away.
const DRAIN: &str = "broker.drain";
/// Between two looks at what moves.
const LOOK: Duration = Duration::from_millis(500);
/// A node whose partitions do not become fewer for so long does not get rid of them.
const STUCK: Duration = Duration::from_secs(60);
const BROKER: i8 = 4;

type Named = [(String, Vec<i32>)];

/// The topics with the partitions that are meant: all of a topic if none is named.
fn meant(client: &mut Client, named: &Named) -> Result<Vec<(String, Vec<i32>)>> {
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    let topics = client.metadata(Which::These(&names))?.topics;
    let mut all = Vec::new();
    for (name, partitions) in named {
        let topic = topics.iter().find(|t| t.name == *name);
        let topic = topic.ok_or_else(|| Failure::failed(format!("there is no topic `{name}`")))?;
        if topic.error != 0 {
            let what = format!("topic `{name}`");
            return Err(Failure::code(&what, topic.error, None));
        }
        let mut partitions = partitions.clone();
        if partitions.is_empty() {
            partitions = topic.partitions.iter().map(|p| p.index).collect();
        }
        all.push((name.clone(), partitions));
    }
    Ok(all)
}

/// Moves partitions, or calls moves off.
///
/// # Errors
/// No broker answers, or one of them cannot be moved.
pub fn reassign(global: &Global, command: &Reassign) -> Result<()> {
    let mut client = Client::new(global);
    let topics = meant(&mut client, &command.topics)?;
    // Another node comes first from partition to partition.
    let target = |index: i32| {
        let mut to = command.to.clone();
        let first = index.unsigned_abs() as usize % to.len().max(1);
        to.rotate_left(first);
        (!command.cancel).then(|| to.into())
    };
    let wanted = topics.iter().map(|(name, partitions)| ReassignableTopic {
        name,
        partitions: partitions
            .iter()
            .map(|index| ReassignablePartition {
                partition_index: *index,
                replicas: target(*index),
            })
            .collect(),
    });
    let request = AlterPartitionReassignmentsRequest {
        timeout_ms: client.timeout.as_millis() as i32,
        topics: wanted.collect(),
        ..AlterPartitionReassignmentsRequest::default()
    };
    if let Some(rate) = command.throttle {
        throttle::set(&mut client, (&topics, &command.to), rate)?;
    }
    let answer = client.controller()?.call(&request, i16::MAX)?;
    if answer.error_code != 0 {
        let words = answer.error_message;
        return Err(Failure::code("cannot move", answer.error_code, words));
    }
    let mut each = Vec::new();
    for topic in &answer.responses {
        each.extend(topic.partitions.iter().map(|p| {
            let outcome = (p.error_code, p.error_message.map(str::to_owned));
            (topic.name.to_owned(), p.partition_index, outcome)
        }));
    }
    let verb = match command.cancel {
        true => "called off",
        false => "moving",
    };
    let begun = report(global, each, verb);
    if command.wait {
        wait_for(&mut client, &topics)?;
    }
    if command.throttle.is_some() || command.cancel {
        throttle::lift(&mut client, &topics)?;
    }
    begun?;
    if command.wait {
        out::say("done: nothing of them moves any more");
    }
    Ok(())
}

type Outcome = (String, i32, (i16, Option<String>));

/// Tells what became of each partition.
fn report(global: &Global, each: Vec<Outcome>, verb: &str) -> Result<()> {
    let failed: Vec<String> = each
        .iter()
        .filter(|(_, _, (code, _))| *code != 0)
        .map(|(topic, index, (code, words))| {
            describe(&format!("{topic}:{index}"), *code, words.as_deref())
        })
        .collect();
    let done = each.len() - failed.len();
    if global.json {
        let list = each.iter().map(|(topic, partition, (code, words))| {
            json!({"topic": topic, "partition": partition, "error": code, "message": words})
        });
        out::json(&Value::Array(list.collect()))?;
    }
    out::say(format_args!(
        "{verb}: {}",
        out::plural(done as u64, "partition")
    ));
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(failed.join("\n"))),
    }
}

fn wait_for(client: &mut Client, topics: &Named) -> Result<()> {
    let mut last = usize::MAX;
    loop {
        let wanted = topics
            .iter()
            .map(|(name, partitions)| ListPartitionReassignmentsTopics {
                name,
                partition_indexes: partitions.as_slice().into(),
            });
        let request = ListPartitionReassignmentsRequest {
            timeout_ms: client.timeout.as_millis() as i32,
            topics: Some(wanted.collect()),
        };
        let answer = client.any()?.call(&request, i16::MAX)?;
        let left: usize = answer.topics.iter().map(|t| t.partitions.len()).sum();
        if left == 0 {
            return Ok(());
        }
        if left != last {
            last = left;
            out::say(format_args!(
                "{} moving",
                out::plural(left as u64, "partition")
            ));
        }
        thread::sleep(LOOK);
    }
}

/// Has leaders elected.
///
/// # Errors
/// No broker answers, or a partition cannot have the leader that is wanted.
pub fn elect(global: &Global, command: &Elect) -> Result<()> {
    let mut client = Client::new(global);
    let topics = meant(&mut client, &command.topics)?;
    let named = topics.iter().map(|(topic, partitions)| TopicPartitions {
        topic,
        partitions: partitions.as_slice().into(),
    });
    let request = ElectLeadersRequest {
        election_type: i8::from(command.unclean),
        topic_partitions: (!topics.is_empty()).then(|| named.collect()),
        timeout_ms: client.timeout.as_millis() as i32,
    };
    let answer = client.controller()?.call(&request, i16::MAX)?;
    if answer.error_code != 0 {
        return Err(Failure::code("no election", answer.error_code, None));
    }
    /// Nothing was to be done: that is no failure.
    const NOT_NEEDED: i16 = 84;
    let mut each = Vec::new();
    for topic in &answer.replica_election_results {
        let results = topic.partition_result.iter();
        each.extend(results.filter(|p| p.error_code != NOT_NEEDED).map(|p| {
            let outcome = (p.error_code, p.error_message.map(str::to_owned));
            (topic.topic.to_owned(), p.partition_id, outcome)
        }));
    }
    report(global, each, "new leader")
}

/// Takes a node out of the cluster, or leaves it there after all.
///
/// # Errors
/// No broker answers, there is no such node, or nobody could take its partitions.
pub fn remove(global: &Global, node: i32, cancel: bool) -> Result<()> {
    let mut client = Client::new(global);
    let nodes = status::nodes(&mut client)?.nodes;
    if !nodes.iter().any(|n| n.id == node) {
        let known: Vec<String> = nodes.iter().map(|n| n.id.to_string()).collect();
        let known = known.join(", ");
        let text = format!("there is no node {node}; the cluster has {known}");
        return Err(Failure::failed(text));
    }
    drain(&mut client, node, !cancel)?;
    if cancel {
        out::say(format_args!("node {node} stays"));
        return Ok(());
    }
    out::say(format_args!(
        "node {node} gets nothing new, and what it has moves away (--cancel calls it off)"
    ));
    empty(&mut client, node)?;
    let mut told = false;
    loop {
        let nodes = status::nodes(&mut client)?.nodes;
        match nodes.iter().find(|n| n.id == node) {
            None => break,
            Some(found) if found.fenced => break,
            Some(found) if !told => {
                told = true;
                let address = &found.address;
                out::say(format_args!(
                    "node {node} has nothing any more: stop it (it is at {address})"
                ));
                // Whoever asked it has to ask another one.
                client.metadata(Which::None)?;
            }
            Some(_) => {}
        }
        thread::sleep(LOOK);
    }
    let request = UnregisterBrokerRequest { broker_id: node };
    let answer = client.any()?.call(&request, i16::MAX)?;
    if answer.error_code != 0 {
        let what = format!("cannot take node {node} out");
        return Err(Failure::code(
            &what,
            answer.error_code,
            answer.error_message,
        ));
    }
    out::say(format_args!(
        "node {node} is no part of the cluster any more"
    ));
    match global.json {
        true => out::json(&json!({"removed": node})),
        false => Ok(()),
    }
}

fn drain(client: &mut Client, node: i32, on: bool) -> Result<()> {
    let change = AlterableConfig {
        name: DRAIN,
        config_operation: i8::from(!on),
        value: on.then_some("true"),
    };
    let name = node.to_string();
    let resource = AlterConfigsResource {
        resource_type: BROKER,
        resource_name: &name,
        configs: vec![change].into(),
    };
    let request = IncrementalAlterConfigsRequest {
        resources: vec![resource].into(),
        validate_only: false,
    };
    let answer = client.any()?.call(&request, i16::MAX)?;
    match answer.responses.iter().next() {
        Some(r) if r.error_code != 0 => {
            let what = format!("cannot set {DRAIN} of node {node}");
            Err(Failure::code(&what, r.error_code, r.error_message))
        }
        _ => Ok(()),
    }
}

/// Waits until a node has no partitions.
fn empty(client: &mut Client, node: i32) -> Result<()> {
    let (mut last, mut since) = (usize::MAX, Instant::now());
    loop {
        let topics = client.metadata(Which::All)?.topics;
        let left = having(&topics, node);
        if left.is_empty() {
            return Ok(());
        }
        if left.len() != last {
            (last, since) = (left.len(), Instant::now());
            let count = out::plural(last as u64, "partition");
            out::say(format_args!("{count} to move"));
        } else if since.elapsed() > STUCK {
            let (topic, p) = left[0];
            return Err(Failure::failed(format!(
                "node {node} still has {}, such as {}:{} with {} replicas: no other node takes \
                 them. Start more nodes, or call it off with `streamctl cluster remove {node} \
                 --cancel`",
                out::plural(last as u64, "partition"),
                topic.name,
                p.index,
                p.replicas.len()
            )));
        }
        thread::sleep(LOOK);
    }
}

fn having(topics: &[Topic], node: i32) -> Vec<(&Topic, &Partition)> {
    let each = topics
        .iter()
        .flat_map(|t| t.partitions.iter().map(move |p| (t, p)));
    each.filter(|(_, p)| p.replicas.contains(&node)).collect()
}
