//! AddPartitionsToTxn and AddOffsetsToTxn.

use std::rc::Rc;

use streamd_core::group::OFFSETS_TOPIC;
use streamd_core::txn::{Add, Partitions, Reply, Request};
use streamd_io::Part;
use streamd_model::ErrorCode;
use streamd_wire::kafka::generated::add_offsets_to_txn_request::AddOffsetsToTxnRequest;
use streamd_wire::kafka::generated::add_offsets_to_txn_response::AddOffsetsToTxnResponse;
use streamd_wire::kafka::generated::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use streamd_wire::kafka::generated::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResponse, AddPartitionsToTxnResult,
    AddPartitionsToTxnTopicResult,
};
use streamd_wire::kafka::{Array, ResponseHeader};

use super::super::encode;
use super::super::internal::{self, Internal};
use super::{ask, check_items, code_of, fenced};
use crate::broker::Broker;

/// Answers AddPartitionsToTxn: versions 0 to 3 about one transaction, 4 and 5 about many.
pub async fn partitions(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &AddPartitionsToTxnRequest<'_>,
) -> Result<Vec<Part>, String> {
    if header.version <= 3 {
        let one = AddPartitionsToTxnTransaction {
            transactional_id: request.v3_and_below_transactional_id,
            producer_id: request.v3_and_below_producer_id,
            producer_epoch: request.v3_and_below_producer_epoch,
            verify_only: false,
            topics: request.v3_and_below_topics.clone(),
        };
        let results = add(broker, header.version, &one).await?;
        let response = AddPartitionsToTxnResponse {
            results_by_topic_v3_and_below: results,
            ..AddPartitionsToTxnResponse::default()
        };
        return encode(header, &response);
    }
    check_items("transactions", request.transactions.len())?;
    let transactions: Vec<_> = request.transactions.iter().collect();
    let mut results = Vec::with_capacity(transactions.len());
    for one in &transactions {
        results.push(AddPartitionsToTxnResult {
            transactional_id: one.transactional_id,
            topic_results: add(broker, header.version, one).await?,
        });
    }
    let response = AddPartitionsToTxnResponse {
        results_by_transaction: results.into(),
        ..AddPartitionsToTxnResponse::default()
    };
    encode(header, &response)
}

type TopicResults<'a> = Array<'a, AddPartitionsToTxnTopicResult<'a>>;

async fn add<'a>(
    broker: &Rc<Broker>,
    version: i16,
    one: &AddPartitionsToTxnTransaction<'a>,
) -> Result<TopicResults<'a>, String> {
    check_items("topics", one.topics.len())?;
    let image = broker.shard.image();
    let mut wanted = Partitions::new();
    let mut unknown = false;
    for topic in &one.topics {
        check_items("partitions", topic.partitions.len())?;
        let count = image.topic(topic.name).map_or(0, |t| t.partitions);
        unknown |= topic.partitions.iter().any(|p| !(0..count).contains(&p));
        let indexes = topic.partitions.iter();
        wanted.entry(topic.name.into()).or_default().extend(indexes);
    }
    let mut missing = Partitions::new();
    let code = if unknown {
        // Then none of them is added, as with Kafka.
        ErrorCode::OperationNotAttempted
    } else if one.transactional_id.is_empty() {
        ErrorCode::InvalidRequest
    } else {
        let add = Add {
            producer: one.producer_id,
            epoch: one.producer_epoch,
            partitions: wanted,
            version: 1,
        };
        let request = match one.verify_only {
            true => Request::Verify(add),
            false => Request::Add(add),
        };
        let done = ask(broker, one.transactional_id, request).await;
        if let Ok(Reply::Missing(partitions)) = &done {
            missing = partitions.clone();
        }
        fenced(code_of(&done), version >= 2)
    };
    let absent = match version {
        ..=4 => ErrorCode::InvalidTxnState,
        _ => ErrorCode::TransactionAbortable,
    };
    let result = |topic: AddPartitionsToTxnTopic<'a>| {
        let count = image.topic(topic.name).map_or(0, |t| t.partitions);
        let left = missing.get(topic.name);
        let one = |p: i32| AddPartitionsToTxnPartitionResult {
            partition_index: p,
            partition_error_code: match () {
                () if !(0..count).contains(&p) => ErrorCode::UnknownTopicOrPartition.code(),
                () if left.is_some_and(|l| l.contains(&p)) => absent.code(),
                () => code.code(),
            },
        };
        AddPartitionsToTxnTopicResult {
            name: topic.name,
            results_by_partition: topic.partitions.iter().map(one).collect(),
        }
    };
    Ok(one.topics.iter().map(result).collect())
}

/// The partition of `__consumer_offsets` that a group's offsets come into a transaction by.
pub(super) async fn offsets_of(
    broker: &Rc<Broker>,
    group: &str,
) -> Result<(Partitions, i32), ErrorCode> {
    internal::make(broker, Internal::Offsets)
        .await
        .map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
    let partition = Internal::Offsets.partition(&broker.shard.image(), group);
    let index = partition.ok_or(ErrorCode::CoordinatorNotAvailable)?.index;
    Ok(([(OFFSETS_TOPIC.into(), [index].into())].into(), index))
}

/// Answers AddOffsetsToTxn, versions 0 to 4.
pub async fn offsets(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &AddOffsetsToTxnRequest<'_>,
) -> Result<Vec<Part>, String> {
    let code = match (request.transactional_id, request.group_id) {
        ("", _) => ErrorCode::InvalidRequest,
        (_, "") => ErrorCode::InvalidGroupId,
        (id, group) => match offsets_of(broker, group).await {
            Err(code) => code,
            Ok((partitions, _)) => {
                let add = Add {
                    producer: request.producer_id,
                    epoch: request.producer_epoch,
                    partitions,
                    version: 1,
                };
                code_of(&ask(broker, id, Request::Add(add)).await)
            }
        },
    };
    let response = AddOffsetsToTxnResponse {
        error_code: fenced(code, header.version >= 2).code(),
        ..AddOffsetsToTxnResponse::default()
    };
    encode(header, &response)
}
