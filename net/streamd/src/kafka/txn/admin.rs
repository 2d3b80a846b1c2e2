//! DescribeTransactions, ListTransactions, DescribeProducers, WriteTxnMarkers: what operators ask
//! of transactions.

use std::rc::Rc;

use streamd_core::pattern::Pattern;
use streamd_core::producer::Described as Producer;
use streamd_core::txn::{Described, Listed, Reply, Request, Status};
use streamd_io::Part;
use streamd_model::{ErrorCode, PartitionId};
use streamd_shard::{Marker, Reply as ShardReply, Request as ShardRequest};
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::describe_producers_request::DescribeProducersRequest;
use streamd_wire::kafka::generated::describe_producers_response as producers;
use streamd_wire::kafka::generated::describe_transactions_request::DescribeTransactionsRequest;
use streamd_wire::kafka::generated::describe_transactions_response::{
    DescribeTransactionsResponse, TopicData, TransactionState,
};
use streamd_wire::kafka::generated::list_transactions_request::ListTransactionsRequest;
use streamd_wire::kafka::generated::list_transactions_response as list;
use streamd_wire::kafka::generated::write_txn_markers_request::{
    WritableTxnMarker, WriteTxnMarkersRequest,
};
use streamd_wire::kafka::generated::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
    WriteTxnMarkersResponse,
};

use super::super::encode;
use super::{Done, ask, check_items, code_of};
use crate::broker::Broker;

/// Answers DescribeTransactions, version 0.
pub async fn describe(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &DescribeTransactionsRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("transactional ids", request.transactional_ids.len())?;
    let mut found: Vec<(&str, Done)> = Vec::new();
    for id in &request.transactional_ids {
        let done = match id {
            "" => Err(ErrorCode::InvalidRequest),
            id => ask(broker, id, Request::Describe).await,
        };
        // Where nobody has asked for transactions there are none.
        found.push(match done {
            Err(ErrorCode::NotCoordinator) => (id, Err(ErrorCode::TransactionalIdNotFound)),
            done => (id, done),
        });
    }
    let states = found.iter().map(|(id, done)| match done {
        Ok(Reply::Describe(d)) => described(id, d),
        other => TransactionState {
            error_code: code_of(other).code(),
            transactional_id: id,
            transaction_state: "",
            transaction_start_time_ms: -1,
            producer_id: -1,
            producer_epoch: -1,
            ..TransactionState::default()
        },
    });
    let response = DescribeTransactionsResponse {
        transaction_states: states.collect(),
        ..DescribeTransactionsResponse::default()
    };
    encode(header, &response)
}

fn described<'a>(id: &'a str, d: &'a Described) -> TransactionState<'a> {
    let topics = d.partitions.iter().map(|(topic, indexes)| TopicData {
        topic,
        partitions: indexes.iter().copied().collect(),
    });
    TransactionState {
        error_code: 0,
        transactional_id: id,
        transaction_state: d.status.name(),
        transaction_timeout_ms: d.timeout_ms,
        transaction_start_time_ms: d.started_ms,
        producer_id: d.producer,
        producer_epoch: d.epoch,
        topics: topics.collect(),
    }
}

/// Answers ListTransactions, versions 0 to 2: of every shard, filtered.
pub async fn list(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &ListTransactionsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let mut all: Vec<Listed> = Vec::new();
    for shard in 0..broker.shard.mesh.shards() {
        let answer = broker.begin(shard, ShardRequest::TxnList).await;
        if let Some(ShardReply::TxnList(some)) = answer.await {
            all.extend(some);
        }
    }
    all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let pattern = match request.transactional_id_pattern.filter(|p| !p.is_empty()) {
        Some(p) => match Pattern::new("TransactionalIdPattern", p) {
            Ok(p) => Some(p),
            Err((code, _)) => {
                let response = list::ListTransactionsResponse {
                    error_code: code.code(),
                    ..list::ListTransactionsResponse::default()
                };
                return encode(header, &response);
            }
        },
        None => None,
    };
    const NAMES: [Status; 6] = [
        Status::Empty,
        Status::Ongoing,
        Status::PrepareCommit,
        Status::PrepareAbort,
        Status::CompleteCommit,
        Status::CompleteAbort,
    ];
    let states: Vec<&str> = request.state_filters.iter().collect();
    let ids: Vec<i64> = request.producer_id_filters.iter().collect();
    let unknown = states
        .iter()
        .filter(|s| NAMES.iter().all(|n| n.name() != **s));
    let matches = |t: &&Listed| {
        (states.is_empty() || states.contains(&t.status.name()))
            && (ids.is_empty() || ids.contains(&t.producer))
            && (request.duration_filter < 0 || t.running_ms > request.duration_filter)
            && pattern.as_ref().is_none_or(|p| p.matches(&t.id))
    };
    let found = all.iter().filter(matches).map(|t| list::TransactionState {
        transactional_id: &t.id,
        producer_id: t.producer,
        transaction_state: t.status.name(),
    });
    let response = list::ListTransactionsResponse {
        unknown_state_filters: unknown.copied().collect(),
        transaction_states: found.collect(),
        ..list::ListTransactionsResponse::default()
    };
    encode(header, &response)
}

/// Answers DescribeProducers, version 0.
pub async fn describe_producers(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &DescribeProducersRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("topics", request.topics.len())?;
    let image = broker.shard.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        check_items("partitions", topic.partition_indexes.len())?;
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for index in &topic.partition_indexes {
            let found = match image.topic(topic.name) {
                Some(meta) => {
                    let topic = meta.id;
                    producers_of(broker, PartitionId { topic, index }).await
                }
                None => Err(ErrorCode::UnknownTopicOrPartition),
            };
            partitions.push(producers_response(index, found));
        }
        topics.push(producers::TopicResponse {
            name: topic.name,
            partitions: partitions.into(),
        });
    }
    let response = producers::DescribeProducersResponse {
        topics: topics.into(),
        ..producers::DescribeProducersResponse::default()
    };
    encode(header, &response)
}

async fn producers_of(broker: &Rc<Broker>, id: PartitionId) -> Result<Vec<Producer>, ErrorCode> {
    let owner = usize::from(broker.shard.owner(id).0);
    let answer = broker.begin(owner, ShardRequest::Producers(vec![id])).await;
    match answer.await {
        Some(ShardReply::Producers(mut done)) => match done.pop() {
            Some(found) => found.map_err(|refusal| refusal.code),
            None => Err(ErrorCode::NotLeaderOrFollower),
        },
        _ => Err(ErrorCode::NotLeaderOrFollower),
    }
}

fn producers_response(
    partition_index: i32,
    found: Result<Vec<Producer>, ErrorCode>,
) -> producers::PartitionResponse<'static> {
    let (code, found) = match found {
        Ok(found) => (ErrorCode::None, found),
        Err(code) => (code, Vec::new()),
    };
    let one = |p: &Producer| producers::ProducerState {
        producer_id: p.producer,
        producer_epoch: i32::from(p.epoch),
        last_sequence: p.last_seq,
        last_timestamp: p.last_ms,
        coordinator_epoch: p.coordinator,
        current_txn_start_offset: p.txn_start,
    };
    producers::PartitionResponse {
        partition_index,
        error_code: code.code(),
        error_message: code.is_err().then(|| code.message()),
        active_producers: found.iter().map(one).collect(),
    }
}

/// Answers WriteTxnMarkers, versions 1 and 2: an operator ends a transaction that nobody else does.
pub async fn write_markers(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &WriteTxnMarkersRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("markers", request.markers.len())?;
    let mut results = Vec::with_capacity(request.markers.len());
    for marker in &request.markers {
        check_items("topics", marker.topics.len())?;
        let mut topics = Vec::with_capacity(marker.topics.len());
        for topic in &marker.topics {
            check_items("partitions", topic.partition_indexes.len())?;
            let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
            for partition_index in &topic.partition_indexes {
                let code = write_marker(broker, &marker, topic.name, partition_index).await;
                partitions.push(WritableTxnMarkerPartitionResult {
                    partition_index,
                    error_code: code.code(),
                });
            }
            topics.push(WritableTxnMarkerTopicResult {
                name: topic.name,
                partitions: partitions.into(),
            });
        }
        results.push(WritableTxnMarkerResult {
            producer_id: marker.producer_id,
            topics: topics.into(),
        });
    }
    let markers = results.into();
    encode(header, &WriteTxnMarkersResponse { markers })
}

async fn write_marker(
    broker: &Rc<Broker>,
    marker: &WritableTxnMarker<'_>,
    topic: &str,
    index: i32,
) -> ErrorCode {
    let image = broker.shard.image();
    let Some(meta) = image.topic(topic) else {
        return ErrorCode::UnknownTopicOrPartition;
    };
    if marker.producer_id < 0 || marker.producer_epoch < 0 {
        return ErrorCode::InvalidRequest;
    }
    let partition = PartitionId {
        topic: meta.id,
        index,
    };
    let marker = Marker {
        partition,
        producer: marker.producer_id,
        epoch: marker.producer_epoch,
        commit: marker.transaction_result,
        coordinator_epoch: marker.coordinator_epoch,
    };
    let owner = usize::from(broker.shard.owner(partition).0);
    let answer = broker
        .begin(owner, ShardRequest::Markers(vec![marker]))
        .await;
    match answer.await {
        Some(ShardReply::Markers(mut done)) => match done.pop() {
            Some(Ok(())) => ErrorCode::None,
            Some(Err(refusal)) => refusal.code,
            None => ErrorCode::NotLeaderOrFollower,
        },
        _ => ErrorCode::NotLeaderOrFollower,
    }
}
