//! Metadata, DescribeCluster, DescribeTopicPartitions, InitProducerId, DescribeLogDirs.

use std::collections::BTreeSet;

use streamd_model::{ErrorCode, TopicId};
use streamd_wire::kafka::ApiKey;
use streamd_wire::kafka::DescribeTopicPartitionsResponse;
use streamd_wire::kafka::generated::describe_cluster_request::DescribeClusterRequest;
use streamd_wire::kafka::generated::describe_cluster_response::DescribeClusterResponse;
use streamd_wire::kafka::generated::describe_log_dirs_request::DescribeLogDirsRequest;
use streamd_wire::kafka::generated::describe_log_dirs_response::DescribeLogDirsResponse;
use streamd_wire::kafka::generated::describe_topic_partitions_request as partitions_request;
use streamd_wire::kafka::generated::init_producer_id_request::InitProducerIdRequest;
use streamd_wire::kafka::generated::init_producer_id_response::InitProducerIdResponse;
use streamd_wire::kafka::generated::metadata_request::{MetadataRequest, MetadataRequestTopic};
use streamd_wire::kafka::generated::metadata_response::MetadataResponse;

use super::{NODE, ask, code, create, versions, with_broker};

fn named<'a>(names: &[&'a str]) -> MetadataRequest<'a> {
    let topic = |name: &&'a str| MetadataRequestTopic {
        name: Some(name),
        ..MetadataRequestTopic::default()
    };
    MetadataRequest {
        topics: Some(names.iter().map(topic).collect()),
        ..MetadataRequest::default()
    }
}

#[test]
fn every_version_says_who_leads() {
    with_broker(&[], |broker| async move {
        create(&broker, "orders", 3).await;
        for version in versions(ApiKey::Metadata) {
            let answer = ask(&broker, version, &named(&["orders"])).await;
            let r: MetadataResponse<'_> = answer.decode();
            let brokers: Vec<_> = r
                .brokers
                .iter()
                .map(|b| (b.node_id, b.host, b.port))
                .collect();
            assert_eq!(
                brokers,
                [(NODE, "broker.example", 9092)],
                "version {version}"
            );
            let topic = r.topics.iter().next().unwrap();
            assert_eq!((topic.error_code, topic.name), (0, Some("orders")));
            let leaders: Vec<_> = topic
                .partitions
                .iter()
                .map(|p| (p.partition_index, p.leader_id))
                .collect();
            assert_eq!(leaders, [(0, NODE), (1, NODE), (2, NODE)]);
            for p in &topic.partitions {
                assert_eq!(p.isr_nodes.iter().collect::<Vec<_>>(), [NODE]);
                assert_eq!(p.replica_nodes.iter().collect::<Vec<_>>(), [NODE]);
                assert_eq!(p.leader_epoch, if version >= 7 { 0 } else { -1 });
            }
            if version >= 1 {
                assert_eq!(r.controller_id, NODE);
            }
            if version >= 2 {
                assert_eq!(r.cluster_id.map(str::len), Some(22));
            }
            assert_eq!(topic.topic_id == TopicId::ZERO, version < 10);
        }
    });
}

#[test]
fn all_topics_or_none() {
    with_broker(&[], |broker| async move {
        create(&broker, "a", 1).await;
        create(&broker, "b", 1).await;
        for (version, topics, expected) in [
            // Version 0 has no null: an empty list asks for all.
            (0, Some(vec![].into()), 2),
            (1, None, 2),
            (1, Some(vec![].into()), 0),
            (13, None, 2),
            (13, Some(vec![].into()), 0),
        ] {
            let request = MetadataRequest {
                topics,
                ..MetadataRequest::default()
            };
            let answer = ask(&broker, version, &request).await;
            assert_eq!(
                answer.decode::<MetadataResponse<'_>>().topics.len(),
                expected
            );
        }
    });
}

#[test]
fn asking_creates_unless_the_client_or_the_broker_forbids() {
    with_broker(&[("num.partitions", "3")], |broker| async move {
        let forbidden = MetadataRequest {
            allow_auto_topic_creation: false,
            ..named(&["new"])
        };
        let answer = ask(&broker, 13, &forbidden).await;
        let r: MetadataResponse<'_> = answer.decode();
        let topic = r.topics.iter().next().unwrap();
        assert_eq!(code(topic.error_code), ErrorCode::UnknownTopicOrPartition);
        assert_eq!(topic.name, Some("new"));
        let answer = ask(&broker, 13, &named(&["new", "not valid"])).await;
        let r: MetadataResponse<'_> = answer.decode();
        let topics = r.topics.to_vec();
        assert_eq!((topics[0].error_code, topics[0].partitions.len()), (0, 3));
        assert_eq!(code(topics[1].error_code), ErrorCode::InvalidTopicException);
        // Clients older than version 4 cannot forbid it.
        let answer = ask(&broker, 3, &named(&["newer"])).await;
        let r: MetadataResponse<'_> = answer.decode();
        assert_eq!(r.topics.iter().next().unwrap().error_code, 0);
    });
    with_broker(
        &[("auto.create.topics.enable", "false")],
        |broker| async move {
            let answer = ask(&broker, 13, &named(&["new"])).await;
            let r: MetadataResponse<'_> = answer.decode();
            let topic = r.topics.iter().next().unwrap();
            assert_eq!(code(topic.error_code), ErrorCode::UnknownTopicOrPartition);
        },
    );
}

#[test]
fn topics_by_id() {
    with_broker(&[], |broker| async move {
        create(&broker, "orders", 1).await;
        let known = broker.shard.image().topic("orders").unwrap().id;
        let unknown = TopicId([9; 16]);
        let by_id = |topic_id| MetadataRequestTopic {
            topic_id,
            name: None,
        };
        let request = MetadataRequest {
            topics: Some(vec![by_id(known), by_id(unknown)].into()),
            ..MetadataRequest::default()
        };
        for version in 12..=13 {
            let answer = ask(&broker, version, &request).await;
            let r: MetadataResponse<'_> = answer.decode();
            let topics = r.topics.to_vec();
            assert_eq!((topics[0].error_code, topics[0].name), (0, Some("orders")));
            assert_eq!(code(topics[1].error_code), ErrorCode::UnknownTopicId);
            assert_eq!((topics[1].name, topics[1].topic_id), (None, unknown));
        }
    });
}

#[test]
fn operations_are_listed_when_asked_for() {
    with_broker(&[], |broker| async move {
        create(&broker, "orders", 1).await;
        for asked in [false, true] {
            let request = MetadataRequest {
                include_cluster_authorized_operations: asked,
                include_topic_authorized_operations: asked,
                ..named(&["orders"])
            };
            let answer = ask(&broker, 8, &request).await;
            let r: MetadataResponse<'_> = answer.decode();
            let topic = r.topics.iter().next().unwrap();
            let expected = if asked {
                // Bits by the numbers of Kafka's AclOperation.
                (8096, 3576)
            } else {
                (i32::MIN, i32::MIN)
            };
            assert_eq!(
                (
                    r.cluster_authorized_operations,
                    topic.topic_authorized_operations
                ),
                expected
            );
        }
    });
}

#[test]
fn the_cluster() {
    with_broker(&[], |broker| async move {
        for version in versions(ApiKey::DescribeCluster) {
            let answer = ask(&broker, version, &DescribeClusterRequest::default()).await;
            let r: DescribeClusterResponse<'_> = answer.decode();
            assert_eq!((r.error_code, r.controller_id), (0, NODE));
            let brokers: Vec<_> = r
                .brokers
                .iter()
                .map(|b| (b.broker_id, b.host, b.port))
                .collect();
            assert_eq!(brokers, [(NODE, "broker.example", 9092)]);
        }
        let controllers = DescribeClusterRequest {
            endpoint_type: 2,
            ..DescribeClusterRequest::default()
        };
        let answer = ask(&broker, 1, &controllers).await;
        let r: DescribeClusterResponse<'_> = answer.decode();
        assert_eq!(code(r.error_code), ErrorCode::MismatchedEndpointType);
    });
}

/// Follows the cursor; gives every (topic, partition) in the order in which it came.
#[test]
fn partitions_come_in_pages() {
    with_broker(&[], |broker| async move {
        for (name, partitions) in [("a", 3), ("b", 1), ("c", 4)] {
            create(&broker, name, partitions).await;
        }
        let all: Vec<(String, i32)> = [("a", 3), ("b", 1), ("c", 4)]
            .into_iter()
            .flat_map(|(name, n)| (0..n).map(move |i| (name.to_owned(), i)))
            .collect();
        for limit in 1..=9 {
            let mut seen = Vec::new();
            let mut cursor: Option<(String, i32)> = None;
            loop {
                let request = partitions_request::DescribeTopicPartitionsRequest {
                    response_partition_limit: limit,
                    cursor: cursor.as_ref().map(|(topic_name, partition_index)| {
                        partitions_request::Cursor {
                            topic_name,
                            partition_index: *partition_index,
                        }
                    }),
                    ..partitions_request::DescribeTopicPartitionsRequest::default()
                };
                let answer = ask(&broker, 0, &request).await;
                let r: DescribeTopicPartitionsResponse<'_> = answer.decode();
                let before = seen.len();
                for t in &r.topics {
                    assert_eq!(t.error_code, 0);
                    let name = t.name.unwrap().to_owned();
                    seen.extend(
                        t.partitions
                            .iter()
                            .map(|p| (name.clone(), p.partition_index)),
                    );
                }
                assert!(seen.len() - before <= limit as usize, "limit {limit}");
                cursor = r
                    .next_cursor
                    .map(|c| (c.topic_name.to_owned(), c.partition_index));
                if cursor.is_none() {
                    break;
                }
                assert!(seen.len() > before, "a page without progress");
            }
            assert_eq!(seen, all, "limit {limit}");
        }
    });
}

#[test]
fn producer_ids_are_given_once() {
    with_broker(&[], |broker| async move {
        let mut seen = BTreeSet::new();
        for n in 0..2200 {
            let version = 1 + n % 5;
            let request = InitProducerIdRequest {
                transactional_id: None,
                ..InitProducerIdRequest::default()
            };
            let answer = ask(&broker, version, &request).await;
            let r: InitProducerIdResponse = answer.decode();
            assert_eq!((r.error_code, r.producer_epoch), (0, 0));
            assert!(seen.insert(r.producer_id), "{} twice", r.producer_id);
        }
        let transactional = InitProducerIdRequest {
            transactional_id: Some("tx"),
            ..InitProducerIdRequest::default()
        };
        let answer = ask(&broker, 4, &transactional).await;
        let r: InitProducerIdResponse = answer.decode();
        assert!(code(r.error_code).is_err());
        assert_eq!((r.producer_id, r.producer_epoch), (-1, -1));
    });
}

#[test]
fn log_dirs_list_partitions_that_hold_nothing_yet() {
    with_broker(&[], |broker| async move {
        create(&broker, "orders", 2).await;
        for version in versions(ApiKey::DescribeLogDirs) {
            let request = DescribeLogDirsRequest { topics: None };
            let answer = ask(&broker, version, &request).await;
            let r: DescribeLogDirsResponse<'_> = answer.decode();
            let dirs = r.results.to_vec();
            assert_eq!(
                (dirs.len(), dirs[0].error_code, dirs[0].log_dir),
                (1, 0, "/data")
            );
            let topic = dirs[0].topics.iter().next().unwrap();
            let sizes: Vec<_> = topic
                .partitions
                .iter()
                .map(|p| (p.partition_index, p.partition_size))
                .collect();
            assert_eq!((topic.name, sizes), ("orders", vec![(0, 0), (1, 0)]));
        }
    });
}
