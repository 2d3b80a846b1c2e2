//! ListOffsets, OffsetForLeaderEpoch and DeleteRecords: questions about partitions' logs that go to
//! the owning shards, one message each, and come back in the order of the request.

use std::rc::Rc;

use streamd_model::{ErrorCode, PartitionId};
use streamd_shard::{EpochQuery, OffsetQuery, Refusal, Reply, Request};
use streamd_wire::kafka::generated::delete_records_request::DeleteRecordsRequest;
use streamd_wire::kafka::generated::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use streamd_wire::kafka::generated::list_offsets_request::ListOffsetsRequest;
use streamd_wire::kafka::generated::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use streamd_wire::kafka::generated::offset_for_leader_epoch_request::OffsetForLeaderEpochRequest;
use streamd_wire::kafka::generated::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};

use crate::broker::Broker;

/// A question about one partition of a named topic.
struct Asked<'a, Q> {
    topic: &'a str,
    index: i32,
    query: Q,
}

/// Sends each question to its owner and gathers the answers, in order. `wrap` makes the request of
/// a shard's questions, `open` takes its answers out.
async fn ask_owners<Q, A>(
    broker: &Rc<Broker>,
    asked: Vec<Asked<'_, Q>>,
    wrap: impl Fn(Vec<(PartitionId, Q)>) -> Request,
    open: impl Fn(Reply) -> Vec<Result<A, Refusal>>,
) -> Vec<Result<A, Refusal>> {
    let shards = broker.shard.mesh.shards();
    let image = broker.shard.image();
    let mut answers: Vec<Option<Result<A, Refusal>>> = Vec::with_capacity(asked.len());
    let mut groups: Vec<Vec<(PartitionId, Q)>> = (0..shards).map(|_| Vec::new()).collect();
    let mut places: Vec<Vec<usize>> = vec![Vec::new(); shards];
    for (at, a) in asked.into_iter().enumerate() {
        match image.topic(a.topic) {
            None => {
                let text = format!("no topic named {:?}", a.topic);
                let refusal = Refusal::new(ErrorCode::UnknownTopicOrPartition, text);
                answers.push(Some(Err(refusal)));
            }
            Some(topic) => {
                let id = PartitionId {
                    topic: topic.id,
                    index: a.index,
                };
                let owner = usize::from(broker.shard.owner(id).0);
                groups[owner].push((id, a.query));
                places[owner].push(at);
                answers.push(None);
            }
        }
    }
    let mut waits = Vec::new();
    for (owner, group) in groups
        .into_iter()
        .enumerate()
        .filter(|(_, g)| !g.is_empty())
    {
        waits.push((owner, broker.begin(owner, wrap(group)).await));
    }
    for (owner, wait) in waits {
        if let Some(reply) = wait.await {
            for (&at, answer) in places[owner].iter().zip(open(reply)) {
                answers[at] = Some(answer);
            }
        }
    }
    let stopped = || {
        Err(Refusal::new(
            ErrorCode::NotLeaderOrFollower,
            "the owning core has stopped",
        ))
    };
    answers
        .into_iter()
        .map(|a| a.unwrap_or_else(stopped))
        .collect()
}

/// Answers ListOffsets, versions 1 to 11.
pub async fn list_offsets<'a>(
    broker: &Rc<Broker>,
    version: i16,
    request: &ListOffsetsRequest<'a>,
) -> ListOffsetsResponse<'a> {
    let mut asked = Vec::new();
    for topic in &request.topics {
        for p in &topic.partitions {
            let committed = request.isolation_level == 1;
            let query = (p.current_leader_epoch, p.timestamp, committed);
            asked.push(Asked {
                topic: topic.name,
                index: p.partition_index,
                query,
            });
        }
    }
    let wrap = |group: Vec<(PartitionId, (i32, i64, bool))>| {
        let query = |(partition, (leader_epoch, timestamp, committed))| OffsetQuery {
            partition,
            leader_epoch,
            timestamp,
            committed,
        };
        Request::Offsets(group.into_iter().map(query).collect())
    };
    let open = |reply| {
        if let Reply::Offsets(o) = reply {
            o
        } else {
            Vec::new()
        }
    };
    let mut answers = ask_owners(broker, asked, wrap, open).await.into_iter();
    let topics = request.topics.iter().map(|topic| ListOffsetsTopicResponse {
        name: topic.name,
        partitions: topic
            .partitions
            .iter()
            .zip(&mut answers)
            .map(|(p, answer)| match answer {
                Ok(found) => ListOffsetsPartitionResponse {
                    partition_index: p.partition_index,
                    error_code: 0,
                    timestamp: found.timestamp,
                    offset: found.offset,
                    // Only since version 4.
                    leader_epoch: if version >= 4 { found.epoch } else { -1 },
                },
                Err(refusal) => ListOffsetsPartitionResponse {
                    partition_index: p.partition_index,
                    error_code: refusal.code.code(),
                    timestamp: -1,
                    offset: -1,
                    leader_epoch: -1,
                },
            })
            .collect(),
    });
    ListOffsetsResponse {
        topics: topics.collect(),
        ..ListOffsetsResponse::default()
    }
}

/// Answers OffsetForLeaderEpoch, versions 2 to 4 (KIP-320).
pub async fn epoch_ends<'a>(
    broker: &Rc<Broker>,
    request: &OffsetForLeaderEpochRequest<'a>,
) -> OffsetForLeaderEpochResponse<'a> {
    let mut asked = Vec::new();
    for topic in &request.topics {
        for p in &topic.partitions {
            let query = (p.current_leader_epoch, p.leader_epoch);
            asked.push(Asked {
                topic: topic.topic,
                index: p.partition,
                query,
            });
        }
    }
    let wrap = |group: Vec<(PartitionId, (i32, i32))>| {
        let query = |(partition, (current, epoch))| EpochQuery {
            partition,
            current,
            epoch,
        };
        Request::EpochEnds(group.into_iter().map(query).collect())
    };
    let open = |reply| {
        if let Reply::EpochEnds(e) = reply {
            e
        } else {
            Vec::new()
        }
    };
    let mut answers = ask_owners(broker, asked, wrap, open).await.into_iter();
    let topics = request
        .topics
        .iter()
        .map(|topic| OffsetForLeaderTopicResult {
            topic: topic.topic,
            partitions: topic
                .partitions
                .iter()
                .zip(&mut answers)
                .map(|(p, answer)| {
                    let (code, (leader_epoch, end_offset)) = match answer {
                        Ok(end) => (ErrorCode::None, end),
                        Err(refusal) => (refusal.code, (-1, -1)),
                    };
                    let (error_code, partition) = (code.code(), p.partition);
                    EpochEndOffset {
                        error_code,
                        partition,
                        leader_epoch,
                        end_offset,
                    }
                })
                .collect(),
        });
    OffsetForLeaderEpochResponse {
        topics: topics.collect(),
        ..OffsetForLeaderEpochResponse::default()
    }
}

/// Answers DeleteRecords, versions 0 to 2 (KIP-107).
pub async fn delete_records<'a>(
    broker: &Rc<Broker>,
    request: &DeleteRecordsRequest<'a>,
) -> DeleteRecordsResponse<'a> {
    let mut asked = Vec::new();
    let image = broker.shard.image();
    let internal = |topic: &str| image.topic(topic).is_some_and(|t| t.is_internal());
    for topic in request.topics.iter().filter(|t| !internal(t.name)) {
        for p in &topic.partitions {
            asked.push(Asked {
                topic: topic.name,
                index: p.partition_index,
                query: p.offset,
            });
        }
    }
    let open = |reply| {
        if let Reply::DeleteRecords(d) = reply {
            d
        } else {
            Vec::new()
        }
    };
    let mut answers = ask_owners(broker, asked, Request::DeleteRecords, open)
        .await
        .into_iter();
    let topics = request.topics.iter().map(|topic| DeleteRecordsTopicResult {
        name: topic.name,
        partitions: topic
            .partitions
            .iter()
            .map(|p| {
                let answer = (!internal(topic.name)).then(|| answers.next()).flatten();
                let (code, low_watermark) = match answer {
                    Some(Ok(start)) => (ErrorCode::None, start),
                    Some(Err(refusal)) => (refusal.code, -1),
                    None => (ErrorCode::InvalidTopicException, -1),
                };
                let (partition_index, error_code) = (p.partition_index, code.code());
                DeleteRecordsPartitionResult {
                    partition_index,
                    low_watermark,
                    error_code,
                }
            })
            .collect(),
    });
    DeleteRecordsResponse {
        topics: topics.collect(),
        ..DeleteRecordsResponse::default()
    }
}
