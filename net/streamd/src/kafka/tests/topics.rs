//! CreateTopics, DeleteTopics, CreatePartitions.

use streamd_model::{ErrorCode, TopicId};
use streamd_wire::kafka::ApiKey;
use streamd_wire::kafka::generated::create_partitions_request::{
    CreatePartitionsRequest, CreatePartitionsTopic,
};
use streamd_wire::kafka::generated::create_partitions_response::CreatePartitionsResponse;
use streamd_wire::kafka::generated::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use streamd_wire::kafka::generated::create_topics_response::CreateTopicsResponse;
use streamd_wire::kafka::generated::delete_topics_request::{
    DeleteTopicState, DeleteTopicsRequest,
};
use streamd_wire::kafka::generated::delete_topics_response::DeleteTopicsResponse;

use super::{ask, code, create, versions, with_broker};

fn topic(name: &str) -> CreatableTopic<'_> {
    CreatableTopic {
        name,
        num_partitions: 2,
        replication_factor: 1,
        ..CreatableTopic::default()
    }
}

fn request(topics: Vec<CreatableTopic<'_>>) -> CreateTopicsRequest<'_> {
    CreateTopicsRequest {
        topics: topics.into(),
        ..CreateTopicsRequest::default()
    }
}

#[test]
fn every_version_creates() {
    with_broker(&[], |broker| async move {
        for version in versions(ApiKey::CreateTopics) {
            let name = format!("topic-{version}");
            let mut wanted = topic(&name);
            let (name_, value) = ("retention.ms", Some("5000"));
            wanted.configs = vec![CreatableTopicConfig { name: name_, value }].into();
            let answer = ask(&broker, version, &request(vec![wanted])).await;
            let r: CreateTopicsResponse<'_> = answer.decode();
            let t = r.topics.iter().next().unwrap();
            assert_eq!(
                (t.error_code, t.error_message),
                (0, None),
                "version {version}"
            );
            let image = broker.shard.image();
            let meta = image.topic(&name).unwrap();
            assert_eq!((meta.partitions, meta.config.retention_ms), (2, 5000));
            if version >= 5 {
                assert_eq!((t.num_partitions, t.replication_factor), (2, 1));
                let configs = t.configs.unwrap().to_vec();
                let one = configs.iter().find(|c| c.name == "retention.ms").unwrap();
                assert_eq!((one.value, one.config_source), (Some("5000"), 1));
            }
            if version >= 7 {
                assert_eq!(t.topic_id, meta.id);
            }
        }
    });
}

#[test]
fn each_topic_is_refused_apart() {
    with_broker(&[], |broker| async move {
        create(&broker, "there", 1).await;
        let bad_config = CreatableTopic {
            configs: vec![CreatableTopicConfig {
                name: "retention.ms",
                value: Some("soon"),
            }]
            .into(),
            ..topic("config")
        };
        let assigned = CreatableTopic {
            num_partitions: -1,
            replication_factor: -1,
            assignments: vec![CreatableReplicaAssignment {
                partition_index: 0,
                broker_ids: vec![5].into(),
            }]
            .into(),
            ..topic("assigned")
        };
        let wanted = vec![
            topic("good"),
            topic("there"),
            topic("not good"),
            CreatableTopic {
                num_partitions: 0,
                ..topic("none")
            },
            CreatableTopic {
                replication_factor: 3,
                ..topic("three")
            },
            bad_config,
            assigned,
            topic("twice"),
            topic("twice"),
        ];
        let answer = ask(&broker, 7, &request(wanted)).await;
        let r: CreateTopicsResponse<'_> = answer.decode();
        let codes: Vec<_> = r.topics.iter().map(|t| code(t.error_code)).collect();
        assert_eq!(
            codes,
            [
                ErrorCode::None,
                ErrorCode::TopicAlreadyExists,
                ErrorCode::InvalidTopicException,
                ErrorCode::InvalidPartitions,
                ErrorCode::InvalidReplicationFactor,
                ErrorCode::InvalidConfig,
                ErrorCode::InvalidReplicaAssignment,
                ErrorCode::InvalidRequest,
                ErrorCode::InvalidRequest,
            ]
        );
        for t in r.topics.iter().skip(1) {
            assert!(t.error_message.is_some_and(|m| !m.is_empty()), "{}", t.name);
        }
        let image = broker.shard.image();
        let names: Vec<_> = image.topics().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["good", "there"]);
    });
}

#[test]
fn validate_only_changes_nothing() {
    with_broker(&[("num.partitions", "7")], |broker| async move {
        let request = CreateTopicsRequest {
            validate_only: true,
            ..request(vec![CreatableTopic {
                num_partitions: -1,
                ..topic("a")
            }])
        };
        let answer = ask(&broker, 7, &request).await;
        let r: CreateTopicsResponse<'_> = answer.decode();
        let t = r.topics.iter().next().unwrap();
        assert_eq!((t.error_code, t.num_partitions), (0, 7));
        create(&broker, "b", 1).await;
        let grow = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: "b",
                count: 3,
                assignments: None,
            }]
            .into(),
            validate_only: true,
            ..CreatePartitionsRequest::default()
        };
        let answer = ask(&broker, 3, &grow).await;
        let r: CreatePartitionsResponse<'_> = answer.decode();
        assert_eq!(r.results.iter().next().unwrap().error_code, 0);
        let image = broker.shard.image();
        let topics = (image.topics().len(), image.partitions());
        assert_eq!(topics, (1, 1), "only b was created");
    });
}

#[test]
fn deletion_by_name_and_by_id() {
    with_broker(&[], |broker| async move {
        for version in versions(ApiKey::DeleteTopics) {
            create(&broker, "gone", 2).await;
            let id = broker.shard.image().topic("gone").unwrap().id;
            let request = if version < 6 {
                DeleteTopicsRequest {
                    topic_names: vec!["gone", "never"].into(),
                    ..DeleteTopicsRequest::default()
                }
            } else {
                let by_id = DeleteTopicState {
                    name: None,
                    topic_id: id,
                };
                let named = DeleteTopicState {
                    name: Some("never"),
                    topic_id: TopicId::ZERO,
                };
                DeleteTopicsRequest {
                    topics: vec![by_id, named].into(),
                    ..DeleteTopicsRequest::default()
                }
            };
            let answer = ask(&broker, version, &request).await;
            let r: DeleteTopicsResponse<'_> = answer.decode();
            let done: Vec<_> = r
                .responses
                .iter()
                .map(|d| (d.name, code(d.error_code)))
                .collect();
            assert_eq!(
                done,
                [
                    (Some("gone"), ErrorCode::None),
                    (Some("never"), ErrorCode::UnknownTopicOrPartition)
                ],
                "version {version}"
            );
            assert_eq!(broker.shard.image().topics().len(), 0);
        }
        let unknown = DeleteTopicState {
            name: None,
            topic_id: TopicId([3; 16]),
        };
        let request = DeleteTopicsRequest {
            topics: vec![unknown].into(),
            ..DeleteTopicsRequest::default()
        };
        let answer = ask(&broker, 6, &request).await;
        let r: DeleteTopicsResponse<'_> = answer.decode();
        let one = r.responses.iter().next().unwrap();
        assert_eq!(code(one.error_code), ErrorCode::UnknownTopicId);
        assert_eq!((one.name, one.topic_id), (None, TopicId([3; 16])));
    });
}

#[test]
fn deletion_can_be_switched_off() {
    with_broker(&[("delete.topic.enable", "false")], |broker| async move {
        create(&broker, "stays", 1).await;
        let request = DeleteTopicsRequest {
            topic_names: vec!["stays"].into(),
            ..DeleteTopicsRequest::default()
        };
        // Clients know the code for it since version 3.
        for (version, expected) in [
            (2, ErrorCode::InvalidRequest),
            (3, ErrorCode::TopicDeletionDisabled),
        ] {
            let answer = ask(&broker, version, &request).await;
            let r: DeleteTopicsResponse<'_> = answer.decode();
            assert_eq!(
                code(r.responses.iter().next().unwrap().error_code),
                expected
            );
        }
        assert!(broker.shard.image().topic("stays").is_some());
    });
}

#[test]
fn a_topic_that_is_created_again_has_a_new_id() {
    with_broker(&[], |broker| async move {
        create(&broker, "again", 1).await;
        let before = broker.shard.image().topic("again").unwrap().id;
        let request = DeleteTopicsRequest {
            topic_names: vec!["again"].into(),
            ..DeleteTopicsRequest::default()
        };
        ask(&broker, 5, &request).await;
        create(&broker, "again", 1).await;
        assert_ne!(broker.shard.image().topic("again").unwrap().id, before);
    });
}

#[test]
fn partitions_are_added() {
    with_broker(&[], |broker| async move {
        create(&broker, "grows", 1).await;
        for version in versions(ApiKey::CreatePartitions) {
            let count = 2 + i32::from(version);
            let grow = |count| CreatePartitionsTopic {
                name: "grows",
                count,
                assignments: None,
            };
            let request = CreatePartitionsRequest {
                topics: vec![grow(count), grow(count), grow(1)].into(),
                ..CreatePartitionsRequest::default()
            };
            let answer = ask(&broker, version, &request).await;
            let r: CreatePartitionsResponse<'_> = answer.decode();
            let codes: Vec<_> = r.results.iter().map(|t| code(t.error_code)).collect();
            let refused = ErrorCode::InvalidRequest;
            assert_eq!(
                codes,
                [refused, refused, refused],
                "a topic stands there three times"
            );
            let request = CreatePartitionsRequest {
                topics: vec![grow(count)].into(),
                ..CreatePartitionsRequest::default()
            };
            let answer = ask(&broker, version, &request).await;
            let r: CreatePartitionsResponse<'_> = answer.decode();
            assert_eq!(r.results.iter().next().unwrap().error_code, 0);
            assert_eq!(
                broker.shard.image().topic("grows").unwrap().partitions,
                count
            );
        }
    });
}
