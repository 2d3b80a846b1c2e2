//! ConsumerGroupHeartbeat, ConsumerGroupDescribe.

use std::rc::Rc;
use std::sync::Arc;

use streamd_core::group::{Beat, Beaten, ConsumerMember, Parts, PartsByTopic, Reply, Request};
use streamd_io::Part;
use streamd_model::{ErrorCode, TopicId};
use streamd_wire::kafka::generated::consumer_group_describe_request::ConsumerGroupDescribeRequest;
use streamd_wire::kafka::generated::consumer_group_describe_response as described;
use streamd_wire::kafka::generated::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use streamd_wire::kafka::generated::consumer_group_heartbeat_response as beaten;
use streamd_wire::kafka::{Array, RequestHeader, ResponseHeader};

use super::super::{encode, group};
use super::admin::operations;
use super::{Done, ask_all, check_items, code_of, message};
use crate::broker::Broker;

/// The number of a member's protocol: classic, consumer.
const MEMBER_TYPES: [i8; 2] = [0, 1];

/// Answers ConsumerGroupHeartbeat, versions 0 and 1. `host` is the client's.
pub async fn heartbeat(
    broker: &Rc<Broker>,
    asked: &RequestHeader<'_>,
    host: &str,
    request: &ConsumerGroupHeartbeatRequest<'_>,
) -> Result<Vec<Part>, String> {
    let names = request.subscribed_topic_names.as_ref();
    check_items("topics", names.map_or(0, |n| n.len()))?;
    let mut owned = None;
    if let Some(topics) = &request.topic_partitions {
        check_items("topics", topics.len())?;
        let mut parts = Parts::new();
        for topic in topics {
            check_items("partitions", topic.partitions.len())?;
            parts.extend(topic.partitions.iter().map(|p| (topic.topic_id, p)));
        }
        owned = Some(parts);
    }
    let is_new = request.member_id.is_empty() && request.member_epoch == 0;
    let beat = Beat {
        // Since version 1 clients choose their ids.
        id: match is_new && asked.version == 0 {
            true => {
                TopicId::from_random(broker.shard.env.random_u64(), broker.shard.env.random_u64())
                    .to_base64()
            }
            false => request.member_id.to_owned(),
        },
        epoch: request.member_epoch,
        instance: request.instance_id.map(str::to_owned),
        rack: request.rack_id.map(str::to_owned),
        rebalance_ms: request.rebalance_timeout_ms,
        topics: names.map(|names| names.iter().map(str::to_owned).collect()),
        regex: request.subscribed_topic_regex.map(str::to_owned),
        assignor: request.server_assignor.map(str::to_owned),
        owned,
        client_id: asked.client_id.unwrap_or_default().to_owned(),
        client_host: host.to_owned(),
    };
    let ask = Request::Beat(Box::new(beat));
    let done = group::beat(broker, request.group_id, "consumer", ask).await;
    encode_beaten(ResponseHeader::from(asked), &done)
}

fn encode_beaten(header: ResponseHeader, done: &Done) -> Result<Vec<Part>, String> {
    let response = match done {
        Ok(Reply::Beat(beaten)) => {
            let Beaten {
                id,
                epoch,
                interval_ms,
                assignment,
            } = &**beaten;
            beaten::ConsumerGroupHeartbeatResponse {
                member_id: Some(id),
                member_epoch: *epoch,
                heartbeat_interval_ms: *interval_ms,
                assignment: assignment.as_ref().map(|parts| beaten::Assignment {
                    topic_partitions: by_topic(parts).into(),
                }),
                ..beaten::ConsumerGroupHeartbeatResponse::default()
            }
        }
        other => {
            let code = code_of(other);
            beaten::ConsumerGroupHeartbeatResponse {
                error_code: code.code(),
                error_message: Some(message(other)),
                ..beaten::ConsumerGroupHeartbeatResponse::default()
            }
        }
    };
    encode(header, &response)
}

fn by_topic(parts: &Parts) -> Vec<beaten::TopicPartitions<'static>> {
    let topics = group::by_topic(parts).into_iter();
    let topics = topics.map(|(topic_id, partitions)| beaten::TopicPartitions {
        topic_id,
        partitions: partitions.into(),
    });
    topics.collect()
}

/// Answers ConsumerGroupDescribe, versions 0 and 1.
pub async fn describe(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &ConsumerGroupDescribeRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("groups", request.group_ids.len())?;
    let names: Vec<&str> = request.group_ids.to_vec();
    let requests = names
        .iter()
        .map(|n| (Arc::from(*n), Request::DescribeConsumer));
    let done = ask_all(broker, requests.collect()).await;
    let missing: Vec<String> = names
        .iter()
        .map(|n| format!("Group {n} not found."))
        .collect();
    let operations = operations(request.include_authorized_operations);
    let groups = names.iter().zip(&done).zip(&missing);
    let groups = groups.map(|((name, done), missing)| described::DescribedGroup {
        authorized_operations: operations,
        ..described_group(header.version, name, done, missing)
    });
    let response = described::ConsumerGroupDescribeResponse {
        throttle_time_ms: 0,
        groups: groups.collect(),
    };
    encode(header, &response)
}

fn described_group<'a>(
    v: i16,
    group_id: &'a str,
    done: &'a Done,
    missing: &'a str,
) -> described::DescribedGroup<'a> {
    match done {
        Ok(Reply::DescribeConsumer(found)) => described::DescribedGroup {
            group_id,
            group_state: found.state,
            group_epoch: found.epoch,
            assignment_epoch: found.target_epoch,
            assignor_name: found.assignor,
            members: found.members.iter().map(|m| member(v, m)).collect(),
            ..described::DescribedGroup::default()
        },
        other => {
            let code = code_of(other);
            described::DescribedGroup {
                error_code: code.code(),
                error_message: Some(match other {
                    Ok(Reply::Refused(_, text)) => text,
                    _ if code == ErrorCode::GroupIdNotFound => missing,
                    _ => code.message(),
                }),
                group_id,
                ..described::DescribedGroup::default()
            }
        }
    }
}

fn member(v: i16, m: &ConsumerMember) -> described::Member<'_> {
    let is_modern = usize::from(m.sub.classic.is_none());
    described::Member {
        member_id: &m.id,
        instance_id: m.sub.instance.as_deref(),
        rack_id: m.sub.rack.as_deref(),
        member_epoch: m.epoch,
        client_id: &m.sub.client_id,
        client_host: &m.sub.client_host,
        subscribed_topic_names: m.sub.topics.iter().map(String::as_str).collect(),
        subscribed_topic_regex: m.sub.regex.as_deref(),
        assignment: assignment(&m.assigned),
        target_assignment: assignment(&m.target),
        member_type: if v >= 1 { MEMBER_TYPES[is_modern] } else { -1 },
    }
}

fn assignment(topics: &PartsByTopic) -> described::Assignment<'_> {
    let topics = topics
        .iter()
        .map(|(id, name, partitions)| described::TopicPartitions {
            topic_id: *id,
            topic_name: name,
            partitions: Array::from(partitions.as_slice()),
        });
    described::Assignment {
        topic_partitions: topics.collect(),
    }
}
