//! DescribeShareGroupOffsets, AlterShareGroupOffsets, DeleteShareGroupOffsets.
//!
//! An alteration is noted in the group first, so that nothing is ever set that the group does not
//! show; what is deleted goes from the share-partitions first, for the same reason.

use std::rc::Rc;
use std::sync::Arc;

use streamd_core::group::{Reply as GroupReply, Request as GroupRequest, ShareTopics};
use streamd_core::share::{Ask, Key, Reply, Request};
use streamd_io::Part;
use streamd_model::{ErrorCode, Offset, TopicId};
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::alter_share_group_offsets_request as alter_request;
use streamd_wire::kafka::generated::alter_share_group_offsets_response as altered;
use streamd_wire::kafka::generated::delete_share_group_offsets_request as delete_request;
use streamd_wire::kafka::generated::delete_share_group_offsets_response as deleted;
use streamd_wire::kafka::generated::describe_share_group_offsets_request::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsRequestGroup,
};
use streamd_wire::kafka::generated::describe_share_group_offsets_response as described;

use super::super::encode;
use super::super::group::{self, check_items};
use super::fetch::offset_at;
use super::{ask_all, topics_of};
use crate::broker::Broker;

type Why = (ErrorCode, String);

/// A partition of a group as it is shown.
struct Shown {
    partition: i32,
    start: Offset,
    leader_epoch: i32,
    lag: i64,
    error: Option<Why>,
}

/// The partitions of a topic as they are shown.
struct Topic {
    name: String,
    id: TopicId,
    partitions: Vec<Shown>,
}

/// Answers DescribeShareGroupOffsets, versions 0 and 1.
pub async fn describe(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &DescribeShareGroupOffsetsRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("groups", request.groups.len())?;
    let mut all = Vec::new();
    for asked in &request.groups {
        for topic in asked.topics.iter().flatten() {
            check_items("partitions", topic.partitions.len())?;
        }
        all.push((asked.group_id, show(broker, &asked).await));
    }
    let groups = all.iter().map(|(group_id, shown)| match shown {
        Ok(topics) => described::DescribeShareGroupOffsetsResponseGroup {
            group_id,
            topics: topics.iter().map(topic).collect(),
            ..described::DescribeShareGroupOffsetsResponseGroup::default()
        },
        Err((code, text)) => described::DescribeShareGroupOffsetsResponseGroup {
            group_id,
            error_code: code.code(),
            error_message: Some(text),
            ..described::DescribeShareGroupOffsetsResponseGroup::default()
        },
    });
    let response = described::DescribeShareGroupOffsetsResponse {
        throttle_time_ms: 0,
        groups: groups.collect(),
    };
    encode(header, &response)
}

fn topic(topic: &Topic) -> described::DescribeShareGroupOffsetsResponseTopic<'_> {
    let partitions = topic.partitions.iter();
    let partitions = partitions.map(|p| described::DescribeShareGroupOffsetsResponsePartition {
        partition_index: p.partition,
        start_offset: p.start,
        leader_epoch: p.leader_epoch,
        lag: p.lag,
        error_code: p.error.as_ref().map_or(0, |e| e.0.code()),
        error_message: p.error.as_ref().map(|e| e.1.as_str()),
    });
    described::DescribeShareGroupOffsetsResponseTopic {
        topic_name: &topic.name,
        topic_id: topic.id,
        partitions: partitions.collect(),
    }
}

async fn show(
    broker: &Rc<Broker>,
    asked: &DescribeShareGroupOffsetsRequestGroup<'_>,
) -> Result<Vec<Topic>, Why> {
    let (known, _) = topics_of(broker, asked.group_id).await?;
    let image = broker.shard.image();
    let wanted: Vec<(String, Option<TopicId>, Vec<i32>)> = match &asked.topics {
        None => known
            .into_iter()
            .map(|(id, (name, partitions))| (name.to_string(), Some(id), partitions))
            .collect(),
        Some(topics) => topics
            .iter()
            .map(|t| {
                let id = image.topic(t.topic_name).map(|t| t.id);
                (t.topic_name.to_owned(), id, t.partitions.to_vec())
            })
            .collect(),
    };
    let group: Arc<str> = asked.group_id.into();
    let mut shown = Vec::new();
    for (name, id, partitions) in wanted {
        let partitions = match id {
            Some(id) => show_topic(broker, &group, id, partitions).await,
            None => partitions.into_iter().map(unknown).collect(),
        };
        let id = id.unwrap_or(TopicId::ZERO);
        shown.push(Topic {
            name,
            id,
            partitions,
        });
    }
    Ok(shown)
}

fn unknown(partition: i32) -> Shown {
    let code = ErrorCode::UnknownTopicOrPartition;
    Shown {
        partition,
        start: -1,
        leader_epoch: 0,
        lag: -1,
        error: Some((code, code.message().to_owned())),
    }
}

async fn show_topic(
    broker: &Rc<Broker>,
    group: &Arc<str>,
    topic: TopicId,
    partitions: Vec<i32>,
) -> Vec<Shown> {
    let requests = partitions.iter().map(|partition| Request {
        key: Key {
            group: group.clone(),
            topic,
            partition: *partition,
        },
        ask: Ask::Summary,
    });
    let done = ask_all(broker, requests.collect()).await;
    let mut shown = Vec::new();
    for (partition, done) in partitions.into_iter().zip(done) {
        let mut one = Shown {
            error: None,
            ..unknown(partition)
        };
        match done {
            Ok(Reply::Summary(Some(s))) => {
                (one.start, one.leader_epoch) = (s.start, s.leader_epoch);
                let high = offset_at(broker, (topic, partition), -1).await;
                let lag = high.map(|high| (high - s.start - s.complete).max(0));
                one.lag = lag.unwrap_or(-1);
            }
            Ok(_) => {}
            Err(error) => one.error = Some(error),
        }
        shown.push(one);
    }
    shown
}

/// What became of the partitions of a topic.
type Outcome = (String, TopicId, Vec<(i32, Option<Why>)>);

/// Answers AlterShareGroupOffsets, version 0.
pub async fn alter(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &alter_request::AlterShareGroupOffsetsRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("topics", request.topics.len())?;
    let done = try_alter(broker, request).await;
    let response = match &done {
        Err((code, text)) => altered::AlterShareGroupOffsetsResponse {
            error_code: code.code(),
            error_message: Some(text),
            ..altered::AlterShareGroupOffsetsResponse::default()
        },
        Ok(topics) => altered::AlterShareGroupOffsetsResponse {
            responses: topics.iter().map(altered_topic).collect(),
            ..altered::AlterShareGroupOffsetsResponse::default()
        },
    };
    encode(header, &response)
}

fn altered_topic(
    (name, id, partitions): &Outcome,
) -> altered::AlterShareGroupOffsetsResponseTopic<'_> {
    let partitions = partitions.iter();
    let partitions =
        partitions.map(
            |(index, error)| altered::AlterShareGroupOffsetsResponsePartition {
                partition_index: *index,
                error_code: error.as_ref().map_or(0, |e| e.0.code()),
                error_message: error.as_ref().map(|e| e.1.as_str()),
            },
        );
    altered::AlterShareGroupOffsetsResponseTopic {
        topic_name: name,
        topic_id: *id,
        partitions: partitions.collect(),
    }
}

async fn try_alter(
    broker: &Rc<Broker>,
    request: &alter_request::AlterShareGroupOffsetsRequest<'_>,
) -> Result<Vec<Outcome>, Why> {
    let group: Arc<str> = request.group_id.into();
    empty_group(broker, &group).await?;
    let image = broker.shard.image();
    let (mut outcomes, mut more) = (Vec::new(), ShareTopics::new());
    let (mut places, mut requests) = (Vec::new(), Vec::new());
    for topic in &request.topics {
        let meta = image.topic(topic.topic_name);
        let id = meta.map_or(TopicId::ZERO, |m| m.id);
        let mut partitions = Vec::new();
        for p in &topic.partitions {
            let there = meta.is_some_and(|m| (0..m.partitions).contains(&p.partition_index));
            let code = ErrorCode::UnknownTopicOrPartition;
            let error = (!there).then(|| (code, code.message().to_owned()));
            if there {
                let name: Arc<str> = topic.topic_name.into();
                more.entry(id)
                    .or_insert((name, Vec::new()))
                    .1
                    .push(p.partition_index);
                places.push((outcomes.len(), partitions.len()));
                requests.push(Request {
                    key: Key {
                        group: group.clone(),
                        topic: id,
                        partition: p.partition_index,
                    },
                    ask: Ask::Reset(p.start_offset),
                });
            }
            partitions.push((p.partition_index, error));
        }
        outcomes.push((topic.topic_name.to_owned(), id, partitions));
    }
    note(broker, &group, more, Vec::new()).await?;
    let done = ask_all(broker, requests).await;
    for ((topic, at), done) in places.into_iter().zip(done) {
        outcomes[topic].2[at].1 = done.err();
    }
    Ok(outcomes)
}

/// The topics of a group, which must be there and have no members.
async fn empty_group(broker: &Rc<Broker>, group: &str) -> Result<ShareTopics, Why> {
    match topics_of(broker, group).await? {
        (topics, true) => Ok(topics),
        _ => {
            let text = format!("Share group {group} is not empty.");
            Err((ErrorCode::NonEmptyGroup, text))
        }
    }
}

/// Has the group note of which topics it has share-partitions.
async fn note(
    broker: &Rc<Broker>,
    group: &str,
    more: ShareTopics,
    fewer: Vec<TopicId>,
) -> Result<(), Why> {
    let request = GroupRequest::SetShareTopics(more, fewer);
    match group::ask(broker, group, request).await {
        Ok(GroupReply::Code(ErrorCode::None)) => Ok(()),
        other => {
            let code = group::code_of(&other);
            Err((code, code.message().to_owned()))
        }
    }
}

/// Answers DeleteShareGroupOffsets, version 0.
pub async fn delete(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &delete_request::DeleteShareGroupOffsetsRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("topics", request.topics.len())?;
    let names: Vec<&str> = request.topics.iter().map(|t| t.topic_name).collect();
    let done = try_delete(broker, request.group_id, &names).await;
    let response = match &done {
        Err((code, text)) => deleted::DeleteShareGroupOffsetsResponse {
            error_code: code.code(),
            error_message: Some(text),
            ..deleted::DeleteShareGroupOffsetsResponse::default()
        },
        Ok(topics) => {
            let topics = topics.iter().map(|(name, id, error)| {
                deleted::DeleteShareGroupOffsetsResponseTopic {
                    topic_name: name,
                    topic_id: *id,
                    error_code: error.as_ref().map_or(0, |e| e.0.code()),
                    error_message: error.as_ref().map(|e| e.1.as_str()),
                }
            });
            deleted::DeleteShareGroupOffsetsResponse {
                responses: topics.collect(),
                ..deleted::DeleteShareGroupOffsetsResponse::default()
            }
        }
    };
    encode(header, &response)
}

async fn try_delete(
    broker: &Rc<Broker>,
    name: &str,
    names: &[&str],
) -> Result<Vec<(String, TopicId, Option<Why>)>, Why> {
    let group: Arc<str> = name.into();
    let topics = empty_group(broker, &group).await?;
    let (mut outcomes, mut requests, mut fewer) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        match topics.iter().find(|(_, (n, _))| **n == **name) {
            None => {
                let code = ErrorCode::UnknownTopicOrPartition;
                let why = (code, code.message().to_owned());
                outcomes.push(((*name).to_owned(), TopicId::ZERO, Some(why)));
            }
            Some((id, (_, partitions))) => {
                requests.extend(partitions.iter().map(|partition| Request {
                    key: Key {
                        group: group.clone(),
                        topic: *id,
                        partition: *partition,
                    },
                    ask: Ask::Forget,
                }));
                fewer.push(*id);
                outcomes.push(((*name).to_owned(), *id, None));
            }
        }
    }
    for done in ask_all(broker, requests).await {
        done?;
    }
    note(broker, &group, ShareTopics::new(), fewer).await?;
    Ok(outcomes)
}
