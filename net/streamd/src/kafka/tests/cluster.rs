//! What clients are told of a cluster, and ask of it. The other brokers are registered and alive
//! as far as the controller knows; nobody answers for them.

use std::rc::Rc;
use std::time::Duration;

use streamd_core::control::{Answer, Ask};
use streamd_core::meta::{Endpoint, Registration};
use streamd_io::Class;
use streamd_model::{ErrorCode, NodeId};
use streamd_wire::kafka::generated::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use streamd_wire::kafka::generated::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsTopic,
};
use streamd_wire::kafka::generated::create_partitions_response::CreatePartitionsResponse;
use streamd_wire::kafka::generated::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest,
};
use streamd_wire::kafka::generated::create_topics_response::CreateTopicsResponse;
use streamd_wire::kafka::generated::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
use streamd_wire::kafka::generated::elect_leaders_response::ElectLeadersResponse;
use streamd_wire::kafka::generated::find_coordinator_request::FindCoordinatorRequest;
use streamd_wire::kafka::generated::find_coordinator_response::FindCoordinatorResponse;
use streamd_wire::kafka::generated::metadata_request::{MetadataRequest, MetadataRequestTopic};
use streamd_wire::kafka::generated::metadata_response::MetadataResponse;
use streamd_wire::kafka::generated::{
    AlterPartitionReassignmentsResponse, ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse, UnregisterBrokerRequest, UnregisterBrokerResponse,
};

use super::{NODE, ask, code, with_broker};
use crate::broker::Broker;

/// Has a broker join, and live.
async fn join(broker: &Rc<Broker>, node: i32) {
    let node = NodeId(node);
    let endpoint = Endpoint {
        name: "PLAINTEXT".to_owned(),
        host: format!("host-{}", node.0),
        port: 9092,
    };
    let told = Registration {
        node,
        incarnation: [node.0 as u8; 16],
        directory: [node.0 as u8; 16],
        rack: Some(format!("rack-{}", node.0)),
        endpoints: vec![endpoint],
        features: (0, 1),
    };
    let shard = broker.shard.clone();
    let (answer, _) = shard.decide(Ask::Register(told)).await.unwrap();
    let Answer::Registered { epoch } = answer else {
        panic!("{answer:?}");
    };
    let beat = async move || {
        let version = shard.image().version();
        let ask = Ask::Heartbeat {
            node,
            epoch,
            version,
            leaving: false,
        };
        shard.decide(ask).await.is_ok()
    };
    assert!(beat().await && beat().await);
    let env = broker.shard.env.clone();
    let live = async move {
        while beat().await {
            env.sleep(Duration::from_secs(1)).await;
        }
    };
    broker.shard.env.spawn(Class::Latency, live).detach();
}

/// Replicas, in-sync set and leader of each partition.
async fn places(broker: &Rc<Broker>, name: &str) -> Vec<(Vec<i32>, Vec<i32>, i32)> {
    let topic = MetadataRequestTopic {
        name: Some(name),
        ..MetadataRequestTopic::default()
    };
    let request = MetadataRequest {
        topics: Some(vec![topic].into()),
        ..MetadataRequest::default()
    };
    let answer = ask(broker, 12, &request).await;
    let r: MetadataResponse<'_> = answer.decode();
    let topic = r.topics.iter().next().unwrap();
    let partitions = topic.partitions.iter();
    partitions
        .map(|p| (p.replica_nodes.to_vec(), p.isr_nodes.to_vec(), p.leader_id))
        .collect()
}

async fn create_topics(
    broker: &Rc<Broker>,
    topics: Vec<CreatableTopic<'_>>,
    validate_only: bool,
) -> Vec<(ErrorCode, i32, i16)> {
    let request = CreateTopicsRequest {
        topics: topics.into(),
        validate_only,
        ..CreateTopicsRequest::default()
    };
    let answer = ask(broker, 7, &request).await;
    let r: CreateTopicsResponse<'_> = answer.decode();
    let each = r.topics.iter();
    each.map(|t| (code(t.error_code), t.num_partitions, t.replication_factor))
        .collect()
}

fn topic(name: &str, num_partitions: i32, replication_factor: i16) -> CreatableTopic<'_> {
    CreatableTopic {
        name,
        num_partitions,
        replication_factor,
        ..CreatableTopic::default()
    }
}

#[test]
fn topics_have_as_many_replicas_as_they_want() {
    with_broker(&[], |broker| async move {
        join(&broker, 2).await;
        let two = create_topics(&broker, vec![topic("two", 1, -1)], false).await;
        assert_eq!(two, [(ErrorCode::None, 1, 2)], "no more than there are");
        join(&broker, 3).await;
        join(&broker, 4).await;
        let wishes = || {
            vec![
                topic("default", 4, -1),
                topic("one", 1, 1),
                topic("four", 2, 4),
                topic("five", 1, 5),
            ]
        };
        let expected = [
            (ErrorCode::None, 4, 3),
            (ErrorCode::None, 1, 1),
            (ErrorCode::None, 2, 4),
            (ErrorCode::InvalidReplicationFactor, -1, -1),
        ];
        let tried = create_topics(&broker, wishes(), true).await;
        assert_eq!(tried, expected);
        assert!(broker.shard.image().topic("four").is_none());
        assert_eq!(create_topics(&broker, wishes(), false).await, expected);
        let four = places(&broker, "default").await;
        assert!(four.iter().all(|p| p.0.len() == 3 && p.0 == p.1));
        let mut leaders: Vec<i32> = four.iter().map(|p| p.2).collect();
        leaders.sort_unstable();
        assert_eq!(leaders, [NODE, 2, 3, 4]);
    });
}

#[test]
fn replicas_are_where_a_client_puts_them() {
    with_broker(&[], |broker| async move {
        join(&broker, 2).await;
        join(&broker, 3).await;
        let assigned = |name, brokers: &[&[i32]]| {
            let each = brokers.iter().zip(0..);
            let assignments = each.map(|(ids, partition_index)| CreatableReplicaAssignment {
                partition_index,
                broker_ids: ids.to_vec().into(),
            });
            CreatableTopic {
                assignments: assignments.collect(),
                ..topic(name, -1, -1)
            }
        };
        let wishes = vec![
            assigned("good", &[&[3, 1], &[2, 3]]),
            assigned("stranger", &[&[3, 9]]),
            assigned("uneven", &[&[3], &[1, 2]]),
        ];
        let bad = (ErrorCode::InvalidReplicaAssignment, -1, -1);
        let done = create_topics(&broker, wishes, false).await;
        assert_eq!(done, [(ErrorCode::None, 2, 2), bad, bad]);
        let expected = [(vec![3, 1], vec![3, 1], 3), (vec![2, 3], vec![2, 3], 2)];
        assert_eq!(places(&broker, "good").await, expected);
        let more = |ids: &[i32]| {
            let given = CreatePartitionsAssignment {
                broker_ids: ids.to_vec().into(),
            };
            let topic = CreatePartitionsTopic {
                name: "good",
                count: 3,
                assignments: Some(vec![given].into()),
            };
            CreatePartitionsRequest {
                topics: vec![topic].into(),
                ..CreatePartitionsRequest::default()
            }
        };
        for (ids, expected) in [
            (&[1][..], ErrorCode::InvalidReplicaAssignment),
            (&[2, 1], ErrorCode::None),
        ] {
            let answer = ask(&broker, 3, &more(ids)).await;
            let r: CreatePartitionsResponse<'_> = answer.decode();
            let result = r.results.iter().next().unwrap();
            assert_eq!(code(result.error_code), expected, "{ids:?}");
        }
        let third = places(&broker, "good").await.pop();
        assert_eq!(third, Some((vec![2, 1], vec![2, 1], 2)));
    });
}

#[test]
fn coordinators_are_where_their_partitions_are_led() {
    with_broker(
        &[("offsets.topic.num.partitions", "6")],
        |broker| async move {
            join(&broker, 2).await;
            let keys: Vec<String> = (0..12).map(|n| format!("group-{n}")).collect();
            let request = FindCoordinatorRequest {
                key_type: 0,
                coordinator_keys: keys.iter().map(String::as_str).collect(),
                ..FindCoordinatorRequest::default()
            };
            let found = async |led: &[i32]| {
                let answer = ask(&broker, 6, &request).await;
                let r: FindCoordinatorResponse<'_> = answer.decode();
                assert_eq!(r.coordinators.len(), keys.len());
                for (c, key) in r.coordinators.iter().zip(&keys) {
                    let index = streamd_core::group::partition_of(key, 6);
                    let leader = led[index as usize];
                    let (host, code_) = match leader {
                        NODE => ("broker.example", ErrorCode::None),
                        2 => ("host-2", ErrorCode::None),
                        _ => ("", ErrorCode::CoordinatorNotAvailable),
                    };
                    assert_eq!(
                        (c.node_id, c.host, code(c.error_code)),
                        (leader, host, code_)
                    );
                }
            };
            // The first question makes the topic.
            ask(&broker, 6, &request).await;
            let led: Vec<i32> = places(&broker, "__consumer_offsets")
                .await
                .iter()
                .map(|p| p.2)
                .collect();
            assert!(led.contains(&NODE) && led.contains(&2), "{led:?}");
            found(&led).await;
            let node = NodeId(2);
            let epoch = broker.shard.image().cluster().broker(node).unwrap().epoch;
            let lost = broker.shard.decide(Ask::Lost { node, epoch }).await;
            lost.unwrap();
            found(&[NODE; 6]).await;
        },
    );
}

/// Moves partitions of a topic, or calls moves off; gives the codes.
async fn reassign(
    broker: &Rc<Broker>,
    name: &str,
    moves: &[(i32, Option<&[i32]>)],
    allow_replication_factor_change: bool,
) -> Vec<ErrorCode> {
    let partitions = moves.iter().map(|(index, to)| ReassignablePartition {
        partition_index: *index,
        replicas: to.map(|to| to.to_vec().into()),
    });
    let topic = ReassignableTopic {
        name,
        partitions: partitions.collect(),
    };
    let request = AlterPartitionReassignmentsRequest {
        topics: vec![topic].into(),
        allow_replication_factor_change,
        ..AlterPartitionReassignmentsRequest::default()
    };
    let answer = ask(broker, 1, &request).await;
    let r: AlterPartitionReassignmentsResponse<'_> = answer.decode();
    let responses = r.responses.iter().next().unwrap();
    let each = responses.partitions.iter();
    each.map(|p| code(p.error_code)).collect()
}

/// What is moving: partition, replicas, adding, removing.
async fn moving(broker: &Rc<Broker>) -> Vec<(i32, Vec<i32>, Vec<i32>, Vec<i32>)> {
    let request = ListPartitionReassignmentsRequest::default();
    let request = ListPartitionReassignmentsRequest {
        topics: None,
        ..request
    };
    let answer = ask(broker, 0, &request).await;
    let r: ListPartitionReassignmentsResponse<'_> = answer.decode();
    assert_eq!(code(r.error_code), ErrorCode::None);
    let mut all = Vec::new();
    for topic in &r.topics {
        all.extend(topic.partitions.iter().map(|p| {
            let (adding, removing) = (p.adding_replicas.to_vec(), p.removing_replicas.to_vec());
            (p.partition_index, p.replicas.to_vec(), adding, removing)
        }));
    }
    all
}

#[test]
fn partitions_are_moved_and_moves_are_called_off() {
    with_broker(&[], |broker| async move {
        join(&broker, 2).await;
        join(&broker, 3).await;
        let given = [vec![NODE], vec![NODE], vec![NODE]];
        let assignments = given.iter().zip(0..);
        let assignments = assignments.map(|(ids, partition_index)| CreatableReplicaAssignment {
            partition_index,
            broker_ids: ids.clone().into(),
        });
        let wanted = CreatableTopic {
            assignments: assignments.collect(),
            ..topic("t", -1, -1)
        };
        create_topics(&broker, vec![wanted], false).await;
        let moves = [
            (0, Some(&[2][..])),
            (1, Some(&[9])),
            (7, Some(&[2])),
            (2, None),
        ];
        let codes = reassign(&broker, "t", &moves, true).await;
        let expected = [
            ErrorCode::None,
            ErrorCode::InvalidReplicaAssignment,
            ErrorCode::UnknownTopicOrPartition,
            ErrorCode::NoReassignmentInProgress,
        ];
        assert_eq!(codes, expected);
        let expected = [(0, vec![2, NODE], vec![2], vec![NODE])];
        assert_eq!(moving(&broker).await, expected, "2 has to be in sync first");
        let wider = [(1, Some(&[NODE, 3][..]))];
        let codes = reassign(&broker, "t", &wider, false).await;
        assert_eq!(codes, [ErrorCode::InvalidReplicationFactor]);
        assert_eq!(
            reassign(&broker, "t", &wider, true).await,
            [ErrorCode::None]
        );
        assert_eq!(moving(&broker).await.len(), 2);
        let off = [(0, None), (1, None)];
        assert_eq!(
            reassign(&broker, "t", &off, true).await,
            [ErrorCode::None; 2]
        );
        assert_eq!(moving(&broker).await, []);
        let before = places(&broker, "t").await;
        assert!(before.iter().all(|p| p.0 == [NODE]), "{before:?}");
    });
}

async fn elect(
    broker: &Rc<Broker>,
    election_type: i8,
    named: Option<(&str, &[i32])>,
) -> Vec<(i32, ErrorCode)> {
    let topics = named.map(|(topic, partitions)| {
        let partitions = partitions.to_vec().into();
        vec![TopicPartitions { topic, partitions }].into()
    });
    let request = ElectLeadersRequest {
        election_type,
        topic_partitions: topics,
        ..ElectLeadersRequest::default()
    };
    let answer = ask(broker, 2, &request).await;
    let r: ElectLeadersResponse<'_> = answer.decode();
    let mut all = Vec::new();
    for topic in &r.replica_election_results {
        let results = topic.partition_result.iter();
        all.extend(results.map(|p| (p.partition_id, code(p.error_code))));
    }
    all
}

#[test]
fn leaders_are_elected_on_demand() {
    with_broker(&[], |broker| async move {
        join(&broker, 2).await;
        create_topics(&broker, vec![topic("t", 2, 2)], false).await;
        let led = |places: &[(Vec<i32>, Vec<i32>, i32)]| -> Vec<i32> {
            places.iter().map(|p| p.2).collect()
        };
        let begun = places(&broker, "t").await;
        let away = led(&begun).iter().position(|l| *l == 2).unwrap() as i32;
        assert_eq!(
            elect(&broker, 0, None).await,
            [],
            "all are the preferred ones"
        );
        let node = NodeId(2);
        let epoch = broker.shard.image().cluster().broker(node).unwrap().epoch;
        broker
            .shard
            .decide(Ask::Lost { node, epoch })
            .await
            .unwrap();
        assert_eq!(led(&places(&broker, "t").await), [NODE; 2]);
        let named = Some(("t", &[0, 1, 5][..]));
        let mut expected = [
            (0, ErrorCode::ElectionNotNeeded),
            (1, ErrorCode::ElectionNotNeeded),
            (5, ErrorCode::UnknownTopicOrPartition),
        ];
        expected[away as usize].1 = ErrorCode::PreferredLeaderNotAvailable;
        let mut found = elect(&broker, 0, named).await;
        found.sort_unstable_by_key(|f| f.0);
        assert_eq!(found, expected);
        let mut unclean = elect(&broker, 1, Some(("t", &[0, 1]))).await;
        unclean.sort_unstable_by_key(|f| f.0);
        let needless = ErrorCode::ElectionNotNeeded;
        assert_eq!(unclean, [(0, needless), (1, needless)]);
        let all = elect(&broker, 0, None).await;
        assert_eq!(all, [(away, ErrorCode::PreferredLeaderNotAvailable)]);
    });
}

#[test]
fn a_broker_with_partitions_is_not_forgotten() {
    with_broker(&[], |broker| async move {
        join(&broker, 2).await;
        create_topics(&broker, vec![topic("t", 2, 2)], false).await;
        let unregister = async |broker_id| {
            let answer = ask(&broker, 0, &UnregisterBrokerRequest { broker_id }).await;
            let r: UnregisterBrokerResponse<'_> = answer.decode();
            code(r.error_code)
        };
        assert_eq!(unregister(7).await, ErrorCode::BrokerIdNotRegistered);
        assert_eq!(unregister(2).await, ErrorCode::InvalidRequest);
        assert!(broker.shard.image().cluster().is_active(NodeId(2)));
    });
}
