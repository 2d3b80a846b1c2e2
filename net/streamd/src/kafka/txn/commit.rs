//! TxnOffsetCommit: offsets that are committed with the transaction.

use std::rc::Rc;

use streamd_core::group::{
    Commit, CommitPartition, CommitTopic, OFFSETS_TOPIC, Request, TxnCommit, Who,
};
use streamd_core::producer::Sent;
use streamd_io::Part;
use streamd_model::{ErrorCode, PartitionId, ProducerId};
use streamd_shard::GuardAsk;
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::txn_offset_commit_request::TxnOffsetCommitRequest;
use streamd_wire::kafka::generated::txn_offset_commit_response::{
    TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};

use super::super::{encode, group};
use super::add::offsets_of;
use super::check_items;
use super::confirm::{Knows, Wanted, confirm};
use crate::broker::Broker;

/// Answers TxnOffsetCommit, versions 0 to 5.
pub async fn handle(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &TxnOffsetCommitRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("topics", request.topics.len())?;
    let image = broker.shard.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut codes: Vec<Vec<(i32, ErrorCode)>> = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        check_items("partitions", topic.partitions.len())?;
        let found = image.topic(topic.name);
        let mut wanted = Vec::new();
        let mut known = Vec::with_capacity(topic.partitions.len());
        for p in &topic.partitions {
            let index = p.partition_index;
            if !(0..found.map_or(0, |t| t.partitions)).contains(&index) {
                known.push((index, ErrorCode::UnknownTopicOrPartition));
                continue;
            }
            known.push((index, ErrorCode::None));
            wanted.push(CommitPartition {
                index,
                offset: p.committed_offset,
                leader_epoch: p.committed_leader_epoch,
                metadata: p.committed_metadata.unwrap_or_default().into(),
            });
        }
        codes.push(known);
        topics.push(CommitTopic {
            name: topic.name.into(),
            id: found.map_or(streamd_model::TopicId::ZERO, |t| t.id),
            partitions: wanted,
        });
    }
    let done = commit(broker, header.version, request, topics).await;
    group::offsets::fill_in_codes(codes.iter_mut(), done);
    let topics = request.topics.iter().zip(&codes);
    let response = TxnOffsetCommitResponse {
        topics: topics
            .map(|(topic, codes)| TxnOffsetCommitResponseTopic {
                name: topic.name,
                partitions: codes
                    .iter()
                    .map(|(p, code)| TxnOffsetCommitResponsePartition {
                        partition_index: *p,
                        error_code: code.code(),
                    })
                    .collect(),
                ..TxnOffsetCommitResponseTopic::default()
            })
            .collect(),
        ..TxnOffsetCommitResponse::default()
    };
    encode(header, &response)
}

async fn commit(
    broker: &Rc<Broker>,
    version: i16,
    request: &TxnOffsetCommitRequest<'_>,
    topics: Vec<CommitTopic>,
) -> group::Done {
    if request.transactional_id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    if request.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    let guard = guard(broker, version, request).await?;
    let commit = Commit {
        who: Who {
            id: request.member_id.to_owned(),
            instance: request.group_instance_id.map(str::to_owned),
        },
        generation: request.generation_id_or_member_epoch,
        retention_ms: None,
        knows_not_found: false,
        topics,
    };
    let commit = TxnCommit {
        producer: request.producer_id,
        epoch: request.producer_epoch,
        guard,
        commit,
    };
    group::ask(broker, request.group_id, Request::TxnCommit(commit)).await
}

async fn guard(
    broker: &Rc<Broker>,
    version: i16,
    request: &TxnOffsetCommitRequest<'_>,
) -> Result<Option<u64>, ErrorCode> {
    let (_, index) = offsets_of(broker, request.group_id).await?;
    let image = broker.shard.image();
    let topic = image
        .topic(OFFSETS_TOPIC)
        .ok_or(ErrorCode::NotCoordinator)?;
    let wanted = Wanted {
        ask: GuardAsk {
            partition: PartitionId {
                topic: topic.id,
                index,
            },
            sent: Sent {
                producer: ProducerId(request.producer_id),
                epoch: request.producer_epoch,
                base_seq: -1,
                records: 1,
            },
        },
        topic: OFFSETS_TOPIC.into(),
    };
    let knows = match version {
        ..=3 => Knows::Little,
        4 => Knows::Abortable,
        _ => Knows::Adding,
    };
    let mut done = confirm(broker, request.transactional_id, knows, &[wanted]).await;
    match done.pop() {
        Some(Ok(guard)) => Ok(guard),
        Some(Err(refusal)) => Err(match refusal.code {
            // What producers of records try again is something else for committers of offsets.
            ErrorCode::NotEnoughReplicas | ErrorCode::NotLeaderOrFollower => {
                ErrorCode::CoordinatorLoadInProgress
            }
            code => code,
        }),
        None => Err(ErrorCode::CoordinatorNotAvailable),
    }
}
