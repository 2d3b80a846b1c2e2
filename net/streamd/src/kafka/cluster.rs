//! DescribeLogDirs and InitProducerId: what the node as a whole is asked.

use std::rc::Rc;

use streamd_core::producer::IdBlock;
use streamd_io::Part;
use streamd_model::{ErrorCode, Map, TopicId};
use streamd_shard::{Reply, Request};
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::describe_log_dirs_request::DescribeLogDirsRequest;
use streamd_wire::kafka::generated::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponse, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use streamd_wire::kafka::generated::init_producer_id_request::InitProducerIdRequest;
use streamd_wire::kafka::generated::init_producer_id_response::InitProducerIdResponse;

use super::{encode, topics, txn};
use crate::broker::Broker;

/// Answers DescribeLogDirs, versions 1 to 5: one directory, the data directory.
pub async fn log_dirs(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &DescribeLogDirsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let image = broker.shard.image();
    let sizes = sizes(broker).await;
    let mut listed: Vec<(Rc<str>, Vec<DescribeLogDirsPartition>)> = Vec::new();
    let part = |id: TopicId, index: i32| {
        sizes
            .get(&(id, index))
            .map(|&bytes| DescribeLogDirsPartition {
                partition_index: index,
                partition_size: bytes as i64,
                offset_lag: 0,
                is_future_key: false,
            })
    };
    match &request.topics {
        None => {
            for t in image.topics() {
                let parts = (0..t.partitions).filter_map(|i| part(t.id, i)).collect();
                listed.push((t.name.as_str().into(), parts));
            }
        }
        Some(wanted) => {
            for w in wanted {
                let Some(t) = image.topic(w.topic) else {
                    continue;
                };
                let parts = w.partitions.iter().filter_map(|i| part(t.id, i)).collect();
                listed.push((t.name.as_str().into(), parts));
            }
        }
    }
    listed.retain(|(_, parts)| !parts.is_empty());
    let space = broker.shard.env.disk_space(&broker.data_dir).await;
    let (total, free) = space.map_or((-1, -1), |s| (s.total as i64, s.free as i64));
    let dir = broker.data_dir.display().to_string();
    let topics = listed.iter().map(|(name, parts)| DescribeLogDirsTopic {
        name,
        partitions: parts.as_slice().into(),
    });
    let result = DescribeLogDirsResult {
        log_dir: &dir,
        topics: topics.collect(),
        total_bytes: total,
        usable_bytes: free,
        ..DescribeLogDirsResult::default()
    };
    let results = vec![result].into();
    encode(
        header,
        &DescribeLogDirsResponse {
            results,
            ..DescribeLogDirsResponse::default()
        },
    )
}

/// The sizes of all partitions that were ever touched since the start, bytes.
async fn sizes(broker: &Rc<Broker>) -> Map<(TopicId, i32), u64> {
    let mut sizes = Map::default();
    // Partitions without a directory are nowhere open, and hold nothing.
    for topic in broker.shard.image().topics() {
        for index in 0..topic.partitions {
            sizes.insert((topic.id, index), 0);
        }
    }
    let mut waits = Vec::new();
    for shard in 0..broker.shard.mesh.shards() {
        waits.push(broker.begin(shard, Request::Sizes).await);
    }
    for wait in waits {
        if let Some(Reply::Sizes(list)) = wait.await {
            for s in list {
                sizes.insert((s.partition.topic, s.partition.index), s.bytes);
            }
        }
    }
    sizes
}

/// Answers InitProducerId, versions 0 to 5.
pub async fn init_producer_id(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &InitProducerIdRequest<'_>,
) -> Result<Vec<Part>, String> {
    let failed = |code: ErrorCode| InitProducerIdResponse {
        error_code: code.code(),
        producer_id: -1,
        producer_epoch: -1,
        ongoing_txn_producer_id: -1,
        ongoing_txn_producer_epoch: -1,
        ..InitProducerIdResponse::default()
    };
    if request.transactional_id == Some("") {
        return encode(header, &failed(ErrorCode::InvalidRequest));
    }
    let done = match request.transactional_id {
        Some(id) => txn::end::init(broker, id, request, header.version).await,
        None => next_producer_id(broker).await.map(|id| (id, 0)),
    };
    let response = match done {
        Ok((producer_id, producer_epoch)) => InitProducerIdResponse {
            error_code: 0,
            producer_id,
            producer_epoch,
            ..failed(ErrorCode::None)
        },
        Err(code) => failed(code),
    };
    encode(header, &response)
}

/// An id that nobody had. Blocks come from the metadata log, one for each shard that asks.
pub async fn next_producer_id(broker: &Rc<Broker>) -> Result<i64, ErrorCode> {
    // Another connection may take the block that this one got, so it may have to ask again.
    for _ in 0..100 {
        if let Some(id) = broker.producer_ids.borrow_mut().take() {
            return Ok(id.0);
        }
        let command = IdBlock::request(&broker.shard.image());
        match topics::propose(broker, command.clone()).await {
            Ok(_) => broker.producer_ids.borrow_mut().granted(&command),
            // Another shard was faster; its image is here by now.
            Err(refusal) if refusal.code == ErrorCode::OperationNotAttempted => {}
            Err(refusal) => return Err(refusal.code),
        }
    }
    Err(ErrorCode::CoordinatorLoadInProgress)
}
