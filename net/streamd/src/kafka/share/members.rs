//! ShareGroupHeartbeat, ShareGroupDescribe.

use std::rc::Rc;
use std::sync::Arc;

use streamd_core::group::{Parts, PartsByTopic, Reply, Request, ShareBeat, ShareMember};
use streamd_io::Part;
use streamd_model::ErrorCode;
use streamd_wire::kafka::generated::share_group_describe_request::ShareGroupDescribeRequest;
use streamd_wire::kafka::generated::share_group_describe_response as described;
use streamd_wire::kafka::generated::share_group_heartbeat_request::ShareGroupHeartbeatRequest;
use streamd_wire::kafka::generated::share_group_heartbeat_response as beaten;
use streamd_wire::kafka::{Array, RequestHeader, ResponseHeader};

use super::super::group::admin::operations;
use super::super::group::{Done, ask_all, check_items, code_of, message};
use super::super::{encode, group};
use crate::broker::Broker;

/// Answers ShareGroupHeartbeat, version 1. `host` is the client's.
pub async fn heartbeat(
    broker: &Rc<Broker>,
    asked: &RequestHeader<'_>,
    host: &str,
    request: &ShareGroupHeartbeatRequest<'_>,
) -> Result<Vec<Part>, String> {
    let names = request.subscribed_topic_names.as_ref();
    check_items("topics", names.map_or(0, Array::len))?;
    let beat = ShareBeat {
        id: request.member_id.to_owned(),
        epoch: request.member_epoch,
        rack: request.rack_id.map(str::to_owned),
        topics: names.map(|names| names.iter().map(str::to_owned).collect()),
        client_id: asked.client_id.unwrap_or_default().to_owned(),
        client_host: host.to_owned(),
    };
    let ask = Request::ShareBeat(Box::new(beat));
    let done = group::beat(broker, request.group_id, "share", ask).await;
    let header = ResponseHeader::from(asked);
    let response = match &done {
        Ok(Reply::Beat(b)) => beaten::ShareGroupHeartbeatResponse {
            member_id: Some(&b.id),
            member_epoch: b.epoch,
            heartbeat_interval_ms: b.interval_ms,
            assignment: b.assignment.as_ref().map(|parts| beaten::Assignment {
                topic_partitions: by_topic(parts).into(),
            }),
            ..beaten::ShareGroupHeartbeatResponse::default()
        },
        other => beaten::ShareGroupHeartbeatResponse {
            error_code: code_of(other).code(),
            error_message: Some(message(other)),
            ..beaten::ShareGroupHeartbeatResponse::default()
        },
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

/// Answers ShareGroupDescribe, version 1.
pub async fn describe(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &ShareGroupDescribeRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("groups", request.group_ids.len())?;
    let names: Vec<&str> = request.group_ids.to_vec();
    let requests = names
        .iter()
        .map(|n| (Arc::from(*n), Request::DescribeShare));
    let done = ask_all(broker, requests.collect()).await;
    let missing: Vec<String> = names
        .iter()
        .map(|n| format!("Group {n} not found."))
        .collect();
    let operations = operations(request.include_authorized_operations);
    let groups = names.iter().zip(&done).zip(&missing);
    let groups = groups.map(|((name, done), missing)| described::DescribedGroup {
        authorized_operations: operations,
        ..described_group(name, done, missing)
    });
    let response = described::ShareGroupDescribeResponse {
        throttle_time_ms: 0,
        groups: groups.collect(),
    };
    encode(header, &response)
}

fn described_group<'a>(
    group_id: &'a str,
    done: &'a Done,
    missing: &'a str,
) -> described::DescribedGroup<'a> {
    match done {
        Ok(Reply::DescribeShare(found)) => described::DescribedGroup {
            group_id,
            group_state: found.state,
            group_epoch: found.epoch,
            assignment_epoch: found.target_epoch,
            assignor_name: found.assignor,
            members: found.members.iter().map(member).collect(),
            ..described::DescribedGroup::default()
        },
        other => {
            let code = code_of(other);
            described::DescribedGroup {
                error_code: code.code(),
                error_message: Some(match code {
                    ErrorCode::GroupIdNotFound => missing,
                    _ => message(other),
                }),
                group_id,
                ..described::DescribedGroup::default()
            }
        }
    }
}

fn member(m: &ShareMember) -> described::Member<'_> {
    described::Member {
        member_id: &m.id,
        rack_id: m.worker.rack.as_deref(),
        member_epoch: m.epoch,
        client_id: &m.worker.client_id,
        client_host: &m.worker.client_host,
        subscribed_topic_names: m.worker.topics.iter().map(String::as_str).collect(),
        assignment: assignment(&m.assigned),
    }
}

fn assignment(topics: &PartsByTopic) -> described::Assignment<'_> {
    let topics = topics.iter();
    let topics = topics.map(|(id, name, partitions)| described::TopicPartitions {
        topic_id: *id,
        topic_name: name,
        partitions: Array::from(partitions.as_slice()),
    });
    described::Assignment {
        topic_partitions: topics.collect(),
    }
}
