//! Metadata, DescribeCluster and DescribeTopicPartitions: what the image says, as clients ask for
//! it.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use streamd_core::meta::{ClusterImage, TopicMeta};
use streamd_io::Part;
use streamd_model::{ErrorCode, TopicId};
use streamd_shard::Refusal;
use streamd_wire::kafka::generated::describe_cluster_request::DescribeClusterRequest;
use streamd_wire::kafka::generated::describe_cluster_response::{
    DescribeClusterBroker, DescribeClusterResponse,
};
use streamd_wire::kafka::generated::describe_topic_partitions_request as partitions_request;
use streamd_wire::kafka::generated::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use streamd_wire::kafka::generated::metadata_request::MetadataRequest;
use streamd_wire::kafka::generated::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use streamd_wire::kafka::{Array, ResponseHeader};

use super::places::{Place, View};
use super::{encode, topics};
use crate::broker::Broker;

/// Stands for "not asked for" where a response could list permitted operations.
const NO_OPERATIONS: i32 = i32::MIN;
/// All operations on the cluster: nobody is refused while there are no ACLs. The bits are numbered
/// by Kafka's AclOperation: create, alter, describe, cluster action, describe and alter configs,
/// idempotent write.
const CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;
/// All operations on a topic: read, write, create, delete, alter, describe, describe and alter
/// configs.
const TOPIC_OPERATIONS: i32 =
    1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;
/// At most so many partitions are described in one answer; a cursor leads on.
const DESCRIBED_MAX: usize = 2000;

enum Found {
    Topic(Arc<TopicMeta>),
    Missing {
        name: Option<String>,
        id: TopicId,
        code: ErrorCode,
    },
}

/// Answers Metadata, versions 0 to 13. May create topics (`auto.create.topics.enable`).
pub async fn metadata(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &MetadataRequest<'_>,
) -> Result<Vec<Part>, String> {
    // Version 0 has no null: there an empty list asks for all topics.
    let all = request
        .topics
        .as_ref()
        .is_none_or(|t| header.version == 0 && t.is_empty());
    let mut found = Vec::new();
    if all {
        found.extend(broker.shard.image().topics().cloned().map(Found::Topic));
    } else if let Some(topics) = &request.topics {
        let create = header.version < 4 || request.allow_auto_topic_creation;
        for topic in topics {
            found.push(
                match topic.name.filter(|_| topic.topic_id == TopicId::ZERO) {
                    Some(name) => by_name(broker, name, create).await,
                    None => by_id(&broker.shard.image(), topic.topic_id),
                },
            );
        }
    }
    let operations = if request.include_topic_authorized_operations {
        TOPIC_OPERATIONS
    } else {
        NO_OPERATIONS
    };
    let view = View::of(broker);
    let mut topics = Vec::with_capacity(found.len());
    for topic in &found {
        topics.push(topic_response(topic, &view, header.version, operations));
        broker.shard.env.yield_if_needed().await;
    }
    let brokers = view.brokers(false);
    let response = MetadataResponse {
        brokers: brokers
            .iter()
            .map(|b| MetadataResponseBroker {
                node_id: b.node,
                host: b.host,
                port: i32::from(b.port),
                rack: b.rack,
            })
            .collect(),
        cluster_id: Some(&broker.identity.cluster_id),
        controller_id: view.controller(),
        topics: topics.into(),
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            NO_OPERATIONS
        },
        ..MetadataResponse::default()
    };
    encode(header, &response)
}

async fn by_name(broker: &Rc<Broker>, name: &str, create: bool) -> Found {
    let image = broker.shard.image();
    if let Some(topic) = image.topic(name) {
        return Found::Topic(topic.clone());
    }
    let missing = |code| Found::Missing {
        name: Some(name.to_owned()),
        id: TopicId::ZERO,
        code,
    };
    if let Err(refusal) = topics::check_name(name) {
        return missing(refusal.code);
    }
    if !create || !image.broker().auto_create_topics {
        return missing(ErrorCode::UnknownTopicOrPartition);
    }
    match topics::auto_create(broker, name).await {
        Ok(image) | Err((ErrorCode::TopicAlreadyExists, image)) => match image.topic(name) {
            Some(topic) => Found::Topic(topic.clone()),
            None => missing(ErrorCode::LeaderNotAvailable),
        },
        Err((code, _)) => missing(code),
    }
}

fn by_id(image: &ClusterImage, id: TopicId) -> Found {
    match image.topic_by_id(id) {
        Some(topic) => Found::Topic(topic.clone()),
        None => Found::Missing {
            name: None,
            id,
            code: ErrorCode::UnknownTopicId,
        },
    }
}

fn topic_response<'a>(
    found: &'a Found,
    view: &'a View,
    version: i16,
    operations: i32,
) -> MetadataResponseTopic<'a> {
    match found {
        Found::Topic(topic) => MetadataResponseTopic {
            name: Some(&topic.name),
            topic_id: topic.id,
            is_internal: topic.is_internal(),
            partitions: (0..topic.partitions)
                .map(|i| partition_response(i, view.partition(topic.id, i), version))
                .collect(),
            topic_authorized_operations: operations,
            ..MetadataResponseTopic::default()
        },
        Found::Missing { name, id, code } => MetadataResponseTopic {
            error_code: code.code(),
            // Null only since version 12.
            name: if version >= 12 {
                name.as_deref()
            } else {
                Some(name.as_deref().unwrap_or(""))
            },
            topic_id: *id,
            topic_authorized_operations: NO_OPERATIONS,
            ..MetadataResponseTopic::default()
        },
    }
}

fn partition_response(
    partition_index: i32,
    place: Place<'_>,
    version: i16,
) -> MetadataResponsePartition<'_> {
    MetadataResponsePartition {
        error_code: place.code.code(),
        partition_index,
        leader_id: place.leader,
        leader_epoch: place.epoch,
        replica_nodes: place.replicas,
        isr_nodes: place.isr,
        // Older clients are not told.
        offline_replicas: match version >= 5 {
            true => place.offline,
            false => Array::default(),
        },
    }
}

/// Answers DescribeCluster, versions 0 to 2.
pub fn cluster(
    broker: &Broker,
    header: ResponseHeader,
    request: &DescribeClusterRequest,
) -> Result<Vec<Part>, String> {
    // Since version 1 the client says whether it asks brokers (1) or controllers (2) (KIP-919).
    if header.version >= 1 && request.endpoint_type != 1 {
        let code = ErrorCode::MismatchedEndpointType;
        let response = DescribeClusterResponse {
            error_code: code.code(),
            error_message: Some("this listener is of a broker, not of a controller"),
            endpoint_type: 1,
            cluster_id: &broker.identity.cluster_id,
            controller_id: -1,
            cluster_authorized_operations: NO_OPERATIONS,
            ..DescribeClusterResponse::default()
        };
        return encode(header, &response);
    }
    let view = View::of(broker);
    let brokers = view.brokers(request.include_fenced_brokers);
    let response = DescribeClusterResponse {
        endpoint_type: 1,
        cluster_id: &broker.identity.cluster_id,
        controller_id: view.controller(),
        brokers: brokers
            .iter()
            .map(|b| DescribeClusterBroker {
                broker_id: b.node,
                host: b.host,
                port: i32::from(b.port),
                rack: b.rack,
                is_fenced: b.fenced,
            })
            .collect(),
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            NO_OPERATIONS
        },
        ..DescribeClusterResponse::default()
    };
    encode(header, &response)
}

/// Answers DescribeTopicPartitions, version 0 (KIP-966): topics in order of their names, as many
/// partitions as fit, and a cursor to where the next answer begins.
pub fn topic_partitions(
    broker: &Broker,
    header: ResponseHeader,
    request: &partitions_request::DescribeTopicPartitionsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let view = View::of(broker);
    let image = &view.image;
    let (from, first) = request
        .cursor
        .as_ref()
        .map_or(("", 0), |c| (c.topic_name, c.partition_index.max(0)));
    let names: BTreeSet<&str> = if request.topics.is_empty() {
        image.topics().map(|t| t.name.as_str()).collect()
    } else {
        request.topics.iter().map(|t| t.name).collect()
    };
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0);
    let mut left = limit.clamp(1, DESCRIBED_MAX);
    let mut out = Vec::new();
    let mut next_cursor = None;
    for name in names.range(from..) {
        let Some(topic) = image.topic(name) else {
            out.push(missing_topic(name));
            continue;
        };
        let begin = if *name == from {
            first.min(topic.partitions)
        } else {
            0
        };
        if left == 0 {
            next_cursor = Some(Cursor {
                topic_name: name,
                partition_index: begin,
            });
            break;
        }
        let end = topic.partitions.min(begin.saturating_add(left as i32));
        left -= (end - begin) as usize;
        out.push(DescribeTopicPartitionsResponseTopic {
            name: Some(name),
            topic_id: topic.id,
            is_internal: topic.is_internal(),
            partitions: (begin..end)
                .map(|i| described(i, view.partition(topic.id, i)))
                .collect(),
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..DescribeTopicPartitionsResponseTopic::default()
        });
        if end < topic.partitions {
            next_cursor = Some(Cursor {
                topic_name: name,
                partition_index: end,
            });
            break;
        }
    }
    let response = DescribeTopicPartitionsResponse {
        topics: out.into(),
        next_cursor,
        ..DescribeTopicPartitionsResponse::default()
    };
    encode(header, &response)
}

fn missing_topic(name: &str) -> DescribeTopicPartitionsResponseTopic<'_> {
    let code = topics::check_name(name).map_or_else(
        |refusal: Refusal| refusal.code,
        |()| ErrorCode::UnknownTopicOrPartition,
    );
    DescribeTopicPartitionsResponseTopic {
        error_code: code.code(),
        name: Some(name),
        topic_authorized_operations: NO_OPERATIONS,
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}

fn described(partition_index: i32, p: Place<'_>) -> DescribeTopicPartitionsResponsePartition<'_> {
    DescribeTopicPartitionsResponsePartition {
        error_code: p.code.code(),
        partition_index,
        leader_id: p.leader,
        leader_epoch: p.epoch,
        replica_nodes: p.replicas,
        isr_nodes: p.isr,
        eligible_leader_replicas: Some(Array::default()),
        last_known_elr: Some(Array::default()),
        offline_replicas: p.offline,
    }
}
