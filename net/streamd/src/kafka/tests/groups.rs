//! Groups over the wire: every version of every request, and bad ones.

use std::pin::pin;

use futures_lite::future::poll_once;
use streamd_model::{ErrorCode, TopicId};
use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::generated::*;
use streamd_wire::kafka::{ApiKey, Array, Frame, Writer};

use super::{ask, code, create, versions, with_broker};
use crate::broker::Broker;
use std::rc::Rc;

const QUICK: &[(&str, &str)] = &[("group.initial.rebalance.delay.ms", "0")];

/// Finds the coordinator, so that groups can be made.
pub async fn find(broker: &Rc<Broker>) {
    let request = FindCoordinatorRequest {
        key: "g",
        ..FindCoordinatorRequest::default()
    };
    let answer = ask(broker, 3, &request).await;
    let r: FindCoordinatorResponse<'_> = answer.decode();
    assert_eq!((r.error_code, r.node_id, r.port), (0, super::NODE, 9092));
}

fn join_request<'a>(group_id: &'a str, member_id: &'a str) -> JoinGroupRequest<'a> {
    JoinGroupRequest {
        group_id,
        session_timeout_ms: 10_000,
        member_id,
        protocol_type: "consumer",
        protocols: vec![join_group_request::JoinGroupRequestProtocol {
            name: "range",
            metadata: b"\0\x01\0\0\0\x01\0\x01t",
        }]
        .into(),
        ..JoinGroupRequest::default()
    }
}

/// Joins as the only member, in as many steps as the version takes. The id and the generation.
async fn join(broker: &Rc<Broker>, version: i16, group: &str) -> (String, i32) {
    let rebalance_timeout_ms = if version >= 1 { 20_000 } else { -1 };
    let first = JoinGroupRequest {
        rebalance_timeout_ms,
        ..join_request(group, "")
    };
    let mut answer = ask(broker, version, &first).await;
    let mut r: JoinGroupResponse<'_> = answer.decode();
    if version >= 4 {
        assert_eq!(code(r.error_code), ErrorCode::MemberIdRequired, "{version}");
        let id = r.member_id.to_owned();
        let again = JoinGroupRequest {
            rebalance_timeout_ms,
            ..join_request(group, &id)
        };
        answer = ask(broker, version, &again).await;
        r = answer.decode();
    }
    assert_eq!(
        (r.error_code, r.leader),
        (0, r.member_id),
        "version {version}"
    );
    assert_eq!(r.protocol_name, Some("range"));
    assert_eq!(r.protocol_type, (version >= 7).then_some("consumer"));
    let members: Vec<_> = r.members.iter().map(|m| m.member_id.to_owned()).collect();
    assert_eq!(members, [r.member_id]);
    (r.member_id.to_owned(), r.generation_id)
}

async fn sync(broker: &Rc<Broker>, version: i16, group_id: &str, id: &str, g: i32) -> i16 {
    let request = SyncGroupRequest {
        group_id,
        generation_id: g,
        member_id: id,
        protocol_type: (version >= 5).then_some("consumer"),
        protocol_name: (version >= 5).then_some("range"),
        assignments: vec![sync_group_request::SyncGroupRequestAssignment {
            member_id: id,
            assignment: b"mine",
        }]
        .into(),
        ..SyncGroupRequest::default()
    };
    let answer = ask(broker, version, &request).await;
    let r: SyncGroupResponse<'_> = answer.decode();
    if r.error_code == 0 {
        assert_eq!(r.assignment, b"mine");
        assert_eq!(r.protocol_name, (version >= 5).then_some("range"));
    }
    r.error_code
}

async fn heartbeat(
    broker: &Rc<Broker>,
    version: i16,
    group_id: &str,
    id: &str,
    g: i32,
) -> ErrorCode {
    let request = HeartbeatRequest {
        group_id,
        generation_id: g,
        member_id: id,
        group_instance_id: None,
    };
    let answer = ask(broker, version, &request).await;
    let r: HeartbeatResponse = answer.decode();
    code(r.error_code)
}

#[test]
fn every_version_finds_the_coordinator() {
    with_broker(
        &[("offsets.topic.num.partitions", "7")],
        |broker| async move {
            for version in versions(ApiKey::FindCoordinator) {
                let request = FindCoordinatorRequest {
                    key: if version < 4 { "g" } else { "" },
                    key_type: 0,
                    coordinator_keys: match version {
                        ..=3 => Array::default(),
                        _ => vec!["g", "h"].into(),
                    },
                };
                let answer = ask(&broker, version, &request).await;
                let r: FindCoordinatorResponse<'_> = answer.decode();
                if version < 4 {
                    assert_eq!(
                        (r.error_code, r.node_id, r.host),
                        (0, super::NODE, "broker.example")
                    );
                    continue;
                }
                let found: Vec<_> = r
                    .coordinators
                    .iter()
                    .map(|c| (c.key, c.error_code))
                    .collect();
                assert_eq!(found, [("g", 0), ("h", 0)]);
            }
            let image = broker.shard.image();
            let topic = image.topic("__consumer_offsets").unwrap();
            assert!(topic.partitions == 7 && topic.is_internal() && topic.config.compact);
            assert_eq!(topic.config.segment_bytes, 104_857_600);
            // There are no other coordinators, and this is no share-partition.
            for kind in [2, 9] {
                let request = FindCoordinatorRequest {
                    key: "x",
                    key_type: kind,
                    ..FindCoordinatorRequest::default()
                };
                let answer = ask(&broker, 3, &request).await;
                let r: FindCoordinatorResponse<'_> = answer.decode();
                assert!(r.error_code != 0 && r.node_id == -1, "{kind}");
            }
        },
    );
}

#[test]
fn every_version_joins_syncs_lives_and_leaves() {
    with_broker(QUICK, |broker| async move {
        find(&broker).await;
        for version in versions(ApiKey::JoinGroup) {
            let group = format!("g{version}");
            let (id, g) = join(&broker, version, &group).await;
            let v = version.min(5);
            assert_eq!(sync(&broker, v, &group, &id, g).await, 0);
            let v = version.min(4);
            assert_eq!(heartbeat(&broker, v, &group, &id, g).await, ErrorCode::None);
            let stale = heartbeat(&broker, v, &group, &id, g + 1).await;
            assert_eq!(stale, ErrorCode::IllegalGeneration);
            let v = version.min(5);
            for expected in [ErrorCode::None, ErrorCode::UnknownMemberId] {
                let request = LeaveGroupRequest {
                    group_id: &group,
                    member_id: if v < 3 { &id } else { "" },
                    members: match v {
                        ..=2 => Array::default(),
                        _ => vec![leave_group_request::MemberIdentity {
                            member_id: &id,
                            ..leave_group_request::MemberIdentity::default()
                        }]
                        .into(),
                    },
                };
                let answer = ask(&broker, v, &request).await;
                let r: LeaveGroupResponse<'_> = answer.decode();
                let found = match v {
                    ..=2 => r.error_code,
                    _ => r.members.iter().next().unwrap().error_code,
                };
                assert_eq!(code(found), expected, "version {v}");
            }
        }
    });
}

#[test]
fn nothing_is_joined_before_somebody_looked_for_the_coordinator() {
    with_broker(QUICK, |broker| async move {
        let answer = ask(&broker, 9, &join_request("g", "")).await;
        let r: JoinGroupResponse<'_> = answer.decode();
        assert_eq!(code(r.error_code), ErrorCode::NotCoordinator);
        let beat = heartbeat(&broker, 4, "g", "m", 1).await;
        assert_eq!(beat, ErrorCode::NotCoordinator);
    });
}

fn offset_request<'a>(
    version: i16,
    group_id: &'a str,
    topics: &[(&'a str, TopicId, i32)],
) -> OffsetCommitRequest<'a> {
    let topics =
        topics.iter().map(
            |(name, id, index)| offset_commit_request::OffsetCommitRequestTopic {
                name: if version >= 10 { "" } else { name },
                topic_id: if version >= 10 { *id } else { TopicId::ZERO },
                partitions: vec![offset_commit_request::OffsetCommitRequestPartition {
                    partition_index: *index,
                    committed_offset: 40 + i64::from(version),
                    committed_leader_epoch: if version >= 6 { 3 } else { -1 },
                    committed_metadata: Some("note"),
                }]
                .into(),
            },
        );
    OffsetCommitRequest {
        group_id,
        topics: topics.collect(),
        ..OffsetCommitRequest::default()
    }
}

async fn commit(
    broker: &Rc<Broker>,
    version: i16,
    request: &OffsetCommitRequest<'_>,
) -> Vec<ErrorCode> {
    let answer = ask(broker, version, request).await;
    let r: OffsetCommitResponse<'_> = answer.decode();
    let codes = r.topics.iter().flat_map(|t| {
        t.partitions
            .iter()
            .map(|p| code(p.error_code))
            .collect::<Vec<_>>()
    });
    codes.collect()
}

/// The offset of partition 0 and of all partitions that have one.
async fn fetch(broker: &Rc<Broker>, version: i16, group_id: &str, id: TopicId) -> (i64, usize) {
    let mut found = (-2, 0);
    for all in [false, true] {
        if all && version < 2 {
            break;
        }
        let request = match version {
            ..=7 => OffsetFetchRequest {
                group_id,
                topics: (!all).then(|| {
                    vec![offset_fetch_request::OffsetFetchRequestTopic {
                        name: "t",
                        partition_indexes: vec![0].into(),
                    }]
                    .into()
                }),
                ..OffsetFetchRequest::default()
            },
            _ => OffsetFetchRequest {
                groups: vec![offset_fetch_request::OffsetFetchRequestGroup {
                    group_id,
                    topics: (!all).then(|| {
                        vec![offset_fetch_request::OffsetFetchRequestTopics {
                            name: if version >= 10 { "" } else { "t" },
                            topic_id: if version >= 10 { id } else { TopicId::ZERO },
                            partition_indexes: vec![0].into(),
                        }]
                        .into()
                    }),
                    member_epoch: -1,
                    ..offset_fetch_request::OffsetFetchRequestGroup::default()
                }]
                .into(),
                ..OffsetFetchRequest::default()
            },
        };
        let answer = ask(broker, version, &request).await;
        let r: OffsetFetchResponse<'_> = answer.decode();
        let offsets: Vec<i64> = match version {
            ..=7 => {
                let parts = r.topics.iter().flat_map(|t| t.partitions.to_vec());
                parts.map(|p| p.committed_offset).collect()
            }
            _ => {
                let group = r.groups.iter().next().unwrap();
                assert_eq!((group.group_id, group.error_code), (group_id, 0));
                let parts = group.topics.iter().flat_map(|t| {
                    assert_eq!(t.topic_id, if version >= 10 { id } else { TopicId::ZERO });
                    t.partitions.to_vec()
                });
                parts.map(|p| p.committed_offset).collect()
            }
        };
        match all {
            false => found.0 = offsets[0],
            true => found.1 = offsets.len(),
        }
    }
    found
}

#[test]
fn every_version_commits_and_fetches() {
    with_broker(QUICK, |broker| async move {
        find(&broker).await;
        create(&broker, "t", 2).await;
        let id = broker.shard.image().topic("t").unwrap().id;
        for version in versions(ApiKey::OffsetFetch) {
            assert_eq!(
                fetch(&broker, version, "g", id).await,
                (-1, 0),
                "version {version}"
            );
        }
        for version in versions(ApiKey::OffsetCommit) {
            let request = offset_request(version, "g", &[("t", id, 0), ("t", id, 1)]);
            assert_eq!(
                commit(&broker, version, &request).await,
                [ErrorCode::None; 2]
            );
            for v in versions(ApiKey::OffsetFetch) {
                let all = if v < 2 { 0 } else { 2 };
                let expected = (40 + i64::from(version), all);
                assert_eq!(
                    fetch(&broker, v, "g", id).await,
                    expected,
                    "versions {version}, {v}"
                );
            }
        }
    });
}

#[test]
fn commits_to_what_does_not_exist_are_refused_apart() {
    with_broker(QUICK, |broker| async move {
        find(&broker).await;
        create(&broker, "t", 2).await;
        let id = broker.shard.image().topic("t").unwrap().id;
        let nobody = TopicId([9; 16]);
        for (version, missing) in [
            (9, ErrorCode::UnknownTopicOrPartition),
            (10, ErrorCode::UnknownTopicId),
        ] {
            let wanted = [
                ("t", id, 7),
                ("none", nobody, 0),
                ("t", id, 1),
                ("t", id, -1),
            ];
            let request = offset_request(version, "g", &wanted);
            let expected = [
                ErrorCode::UnknownTopicOrPartition,
                missing,
                ErrorCode::None,
                ErrorCode::UnknownTopicOrPartition,
            ];
            assert_eq!(commit(&broker, version, &request).await, expected);
        }
        // A stale member: the whole request fails, but what does not exist is still told apart.
        for (version, expected) in [
            (8, ErrorCode::UnknownMemberId),
            (9, ErrorCode::UnknownMemberId),
        ] {
            let mut request = offset_request(version, "g", &[("t", id, 1), ("none", nobody, 0)]);
            request.generation_id_or_member_epoch = 5;
            request.member_id = "m";
            let codes = commit(&broker, version, &request).await;
            assert_eq!(codes, [expected, ErrorCode::UnknownTopicOrPartition]);
        }
        let mut request = offset_request(8, "none", &[("t", id, 1)]);
        request.generation_id_or_member_epoch = 5;
        assert_eq!(
            commit(&broker, 8, &request).await,
            [ErrorCode::IllegalGeneration]
        );
        assert_eq!(
            commit(&broker, 9, &request).await,
            [ErrorCode::GroupIdNotFound]
        );
        let long = "x".repeat(4097);
        let mut request = offset_request(9, "g", &[("t", id, 1)]);
        let mut topic = request.topics.to_vec().remove(0);
        let mut part = topic.partitions.to_vec().remove(0);
        part.committed_metadata = Some(&long);
        topic.partitions = vec![part].into();
        request.topics = vec![topic].into();
        assert_eq!(
            commit(&broker, 9, &request).await,
            [ErrorCode::OffsetMetadataTooLarge]
        );
    });
}

#[test]
fn a_deleted_topic_takes_its_offsets_along() {
    with_broker(QUICK, |broker| async move {
        find(&broker).await;
        create(&broker, "t", 1).await;
        let id = broker.shard.image().topic("t").unwrap().id;
        let request = offset_request(10, "g", &[("t", id, 0)]);
        assert_eq!(commit(&broker, 10, &request).await, [ErrorCode::None]);
        let delete = DeleteTopicsRequest {
            topic_names: vec!["t"].into(),
            ..DeleteTopicsRequest::default()
        };
        let _ = ask(&broker, 5, &delete).await;
        assert_eq!(fetch(&broker, 9, "g", id).await, (-1, 0));
        create(&broker, "t", 1).await;
        assert_eq!(fetch(&broker, 9, "g", id).await, (-1, 0));
        // By its old id nobody knows it.
        let request = offset_request(10, "g", &[("t", id, 0)]);
        assert_eq!(
            commit(&broker, 10, &request).await,
            [ErrorCode::UnknownTopicId]
        );
    });
}

async fn describe(broker: &Rc<Broker>, version: i16, group: &str) -> (ErrorCode, String, usize) {
    let request = DescribeGroupsRequest {
        groups: vec![group].into(),
        include_authorized_operations: version >= 3,
    };
    let answer = ask(broker, version, &request).await;
    let r: DescribeGroupsResponse<'_> = answer.decode();
    let found = r.groups.iter().next().unwrap();
    assert_eq!(found.group_id, group);
    if version >= 3 {
        assert_eq!(found.authorized_operations, 3400);
    }
    for member in &found.members {
        assert_eq!(
            (member.client_id, member.client_host),
            ("test", "/127.0.0.1")
        );
        if found.group_state == "Stable" {
            assert_eq!(member.member_assignment, b"mine");
        }
    }
    let state = found.group_state.to_owned();
    (code(found.error_code), state, found.members.len())
}

#[test]
fn every_version_describes_lists_and_deletes() {
    with_broker(QUICK, |broker| async move {
        find(&broker).await;
        create(&broker, "t", 1).await;
        let (id, g) = join(&broker, 9, "live").await;
        assert_eq!(sync(&broker, 5, "live", &id, g).await, 0);
        for version in versions(ApiKey::DescribeGroups) {
            let found = describe(&broker, version, "live").await;
            assert_eq!(found, (ErrorCode::None, "Stable".into(), 1));
            let missing = describe(&broker, version, "none").await;
            let error = if version < 6 {
                ErrorCode::None
            } else {
                ErrorCode::GroupIdNotFound
            };
            assert_eq!(missing, (error, "Dead".into(), 0));
        }
        for version in versions(ApiKey::ListGroups) {
            for (state, kind, count) in [
                ("", "", 1),
                ("stable", "Classic", 1),
                ("Empty", "", 0),
                ("", "share", 0),
            ] {
                if version < 5 && !(state.is_empty() && kind.is_empty()) {
                    continue;
                }
                let some = |filter: &'static str| match filter {
                    "" => Array::default(),
                    f => vec![f].into(),
                };
                let request = ListGroupsRequest {
                    states_filter: some(state),
                    types_filter: some(kind),
                };
                let answer = ask(&broker, version, &request).await;
                let r: ListGroupsResponse<'_> = answer.decode();
                assert_eq!(r.groups.len(), count, "version {version}, {state} {kind}");
                for found in &r.groups {
                    assert_eq!((found.group_id, found.protocol_type), ("live", "consumer"));
                    assert_eq!(found.group_type, if version >= 5 { "classic" } else { "" });
                }
            }
        }
        let topic = broker.shard.image().topic("t").unwrap().id;
        for version in versions(ApiKey::DeleteGroups) {
            let request = offset_request(9, "old", &[("t", topic, 0)]);
            assert_eq!(commit(&broker, 9, &request).await, [ErrorCode::None]);
            let request = DeleteGroupsRequest {
                groups_names: vec!["live", "old", "none"].into(),
            };
            let answer = ask(&broker, version, &request).await;
            let r: DeleteGroupsResponse<'_> = answer.decode();
            let codes: Vec<_> = r.results.iter().map(|g| code(g.error_code)).collect();
            let expected = [
                ErrorCode::NonEmptyGroup,
                ErrorCode::None,
                ErrorCode::GroupIdNotFound,
            ];
            assert_eq!(codes, expected);
        }
    });
}

#[test]
fn offsets_are_deleted() {
    with_broker(QUICK, |broker| async move {
        find(&broker).await;
        create(&broker, "t", 1).await;
        let id = broker.shard.image().topic("t").unwrap().id;
        let request = offset_request(9, "g", &[("t", id, 0)]);
        assert_eq!(commit(&broker, 9, &request).await, [ErrorCode::None]);
        let part = |partition_index| offset_delete_request::OffsetDeleteRequestPartition {
            partition_index,
        };
        for (group_id, whole) in [("none", ErrorCode::GroupIdNotFound), ("g", ErrorCode::None)] {
            let request = OffsetDeleteRequest {
                group_id,
                topics: vec![offset_delete_request::OffsetDeleteRequestTopic {
                    name: "t",
                    partitions: vec![part(0), part(5)].into(),
                }]
                .into(),
            };
            let answer = ask(&broker, 0, &request).await;
            let r: OffsetDeleteResponse<'_> = answer.decode();
            assert_eq!(code(r.error_code), whole);
            let parts = r.topics.iter().flat_map(|t| t.partitions.to_vec());
            let codes: Vec<_> = parts.map(|p| code(p.error_code)).collect();
            if whole == ErrorCode::None {
                assert_eq!(codes, [ErrorCode::None, ErrorCode::UnknownTopicOrPartition]);
            }
        }
        assert_eq!(fetch(&broker, 9, "g", id).await, (-1, 0));
    });
}

#[test]
fn a_client_that_goes_away_withdraws_its_join() {
    with_broker(&[], |broker| async move {
        find(&broker).await;
        let request = join_request("g", "");
        {
            // Version 3: it is a member at once, and waits for the delay of the first rebalance.
            let mut waits = pin!(ask(&broker, 3, &request));
            for _ in 0..20 {
                assert!(poll_once(waits.as_mut()).await.is_none());
                broker
                    .shard
                    .env
                    .sleep(std::time::Duration::from_millis(1))
                    .await;
            }
            assert_eq!(describe(&broker, 6, "g").await.1, "PreparingRebalance");
        }
        // Nobody waits: the member is given up when the rebalance ends.
        broker
            .shard
            .env
            .sleep(std::time::Duration::from_secs(4))
            .await;
        assert_eq!(
            describe(&broker, 6, "g").await,
            (ErrorCode::None, "Empty".into(), 0)
        );
    });
}

#[test]
fn a_request_that_names_too_much_is_refused() {
    with_broker(QUICK, |broker| async move {
        find(&broker).await;
        let protocol = join_group_request::JoinGroupRequestProtocol::default();
        let request = JoinGroupRequest {
            protocols: vec![protocol; 100_001].into(),
            rebalance_timeout_ms: 1000,
            ..join_request("g", "")
        };
        let mut w = Writer::append_to(Vec::new());
        encode_request(&request, 9, 1, None, &mut w).unwrap();
        let bytes = w.into_parts().0;
        let frame = Frame::parse(&bytes[4..]).unwrap();
        let refused = crate::kafka::answer(&broker, ("/10.0.0.1", 0), &frame).await;
        let why = refused.err().unwrap();
        assert_eq!(why, "a request with 100001 protocols; 100000 are allowed");
    });
}

#[test]
fn who_only_reads_the_log_of_groups_makes_it_as_it_must_be() {
    with_broker(QUICK, |broker| async move {
        let request = MetadataRequest {
            topics: Some(
                vec![metadata_request::MetadataRequestTopic {
                    name: Some("__consumer_offsets"),
                    ..metadata_request::MetadataRequestTopic::default()
                }]
                .into(),
            ),
            allow_auto_topic_creation: true,
            ..MetadataRequest::default()
        };
        let answer = ask(&broker, 9, &request).await;
        let r: MetadataResponse<'_> = answer.decode();
        let topic = r.topics.iter().next().unwrap();
        assert_eq!((topic.error_code, topic.partitions.len()), (0, 50));
        assert!(topic.is_internal);
    });
}

#[test]
fn clients_cannot_write_to_the_log_of_groups() {
    with_broker(QUICK, |broker| async move {
        find(&broker).await;
        let request = CreatePartitionsRequest {
            topics: vec![create_partitions_request::CreatePartitionsTopic {
                name: "__consumer_offsets",
                count: 60,
                assignments: None,
            }]
            .into(),
            ..CreatePartitionsRequest::default()
        };
        let answer = ask(&broker, 3, &request).await;
        let r: CreatePartitionsResponse<'_> = answer.decode();
        let found = r.results.iter().next().unwrap();
        assert_eq!(code(found.error_code), ErrorCode::InvalidPartitions);
        let request = DeleteRecordsRequest {
            topics: vec![delete_records_request::DeleteRecordsTopic {
                name: "__consumer_offsets",
                partitions: vec![delete_records_request::DeleteRecordsPartition {
                    partition_index: 0,
                    offset: -1,
                }]
                .into(),
            }]
            .into(),
            ..DeleteRecordsRequest::default()
        };
        let answer = ask(&broker, 2, &request).await;
        let r: DeleteRecordsResponse<'_> = answer.decode();
        let found = r
            .topics
            .iter()
            .next()
            .unwrap()
            .partitions
            .iter()
            .next()
            .unwrap();
        assert_eq!(code(found.error_code), ErrorCode::InvalidTopicException);
    });
}
