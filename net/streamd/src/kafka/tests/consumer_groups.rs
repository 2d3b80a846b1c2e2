//! Groups of the `consumer` protocol over the wire: every version, errors, listing, settings.

use std::rc::Rc;

use streamd_model::ErrorCode;
use streamd_wire::kafka::ApiKey;
use streamd_wire::kafka::generated::*;

use super::groups::find;
use super::{ask, code, create, versions, with_broker};
use crate::broker::Broker;

fn joins<'a>(group_id: &'a str, member_id: &'a str) -> ConsumerGroupHeartbeatRequest<'a> {
    ConsumerGroupHeartbeatRequest {
        group_id,
        member_id,
        member_epoch: 0,
        rebalance_timeout_ms: 30_000,
        subscribed_topic_names: Some(vec!["t"].into()),
        topic_partitions: Some(Vec::new().into()),
        ..ConsumerGroupHeartbeatRequest::default()
    }
}

/// The code, the member's id and epoch, and how many partitions it is told of.
async fn beat(
    broker: &Rc<Broker>,
    v: i16,
    request: &ConsumerGroupHeartbeatRequest<'_>,
) -> (ErrorCode, String, i32, Option<usize>) {
    let answer = ask(broker, v, request).await;
    let r: ConsumerGroupHeartbeatResponse<'_> = answer.decode();
    assert_eq!(
        r.error_code != 0,
        r.error_message.is_some_and(|m| !m.is_empty()),
        "{r:?}"
    );
    let told = r
        .assignment
        .map(|a| a.topic_partitions.iter().map(|t| t.partitions.len()).sum());
    let id = r.member_id.unwrap_or_default().to_owned();
    (code(r.error_code), id, r.member_epoch, told)
}

#[test]
fn every_version_joins_is_shown_and_leaves() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 3).await;
        find(&broker).await;
        for v in versions(ApiKey::ConsumerGroupHeartbeat) {
            // Since version 1 a client makes its id.
            let (refused, ..) = beat(&broker, 1, &joins("g", "")).await;
            assert_eq!(refused, ErrorCode::InvalidRequest);
            let wanted = if v == 0 { "" } else { "mine" };
            let (error, id, epoch, told) = beat(&broker, v, &joins("g", wanted)).await;
            assert_eq!((error, told), (ErrorCode::None, Some(3)), "{v}");
            assert!(!id.is_empty() && (v == 0 || id == "mine"), "{id}");
            for v in versions(ApiKey::ConsumerGroupDescribe) {
                described(&broker, v, &id, epoch).await;
            }
            listed(&broker, "Stable").await;
            let leaves = ConsumerGroupHeartbeatRequest {
                member_epoch: -1,
                ..ConsumerGroupHeartbeatRequest::default()
            };
            let leaves = ConsumerGroupHeartbeatRequest {
                group_id: "g",
                member_id: &id,
                ..leaves
            };
            assert_eq!(
                beat(&broker, v, &leaves).await,
                (ErrorCode::None, id, -1, None)
            );
            listed(&broker, "Empty").await;
        }
    });
}

async fn described(broker: &Rc<Broker>, v: i16, id: &str, epoch: i32) {
    let request = ConsumerGroupDescribeRequest {
        group_ids: vec!["g", "nobody"].into(),
        include_authorized_operations: true,
    };
    let answer = ask(broker, v, &request).await;
    let r: ConsumerGroupDescribeResponse<'_> = answer.decode();
    let all: Vec<_> = r.groups.iter().collect();
    let (g, none) = (&all[0], &all[1]);
    assert_eq!(
        (g.error_code, g.group_state, g.assignor_name),
        (0, "Stable", "uniform")
    );
    assert_eq!((g.group_epoch, g.assignment_epoch), (epoch, epoch));
    assert!(g.authorized_operations > 0);
    let member = g.members.iter().next().expect("a member");
    assert_eq!((member.member_id, member.member_epoch), (id, epoch));
    assert_eq!(member.member_type, if v >= 1 { 1 } else { -1 });
    let topic = member
        .assignment
        .topic_partitions
        .iter()
        .next()
        .expect("a topic");
    assert_eq!((topic.topic_name, topic.partitions.len()), ("t", 3));
    assert_eq!(code(none.error_code), ErrorCode::GroupIdNotFound);
    assert_eq!(none.error_message, Some("Group nobody not found."));
}

async fn listed(broker: &Rc<Broker>, state: &str) {
    for (types, count) in [(vec![], 1), (vec!["Consumer"], 1), (vec!["classic"], 0)] {
        let request = ListGroupsRequest {
            types_filter: types.into(),
            ..ListGroupsRequest::default()
        };
        let answer = ask(broker, 5, &request).await;
        let r: ListGroupsResponse<'_> = answer.decode();
        let all: Vec<_> = r.groups.iter().collect();
        assert_eq!(all.len(), count);
        if let Some(g) = all.first() {
            let shown = (g.group_id, g.protocol_type, g.group_state, g.group_type);
            assert_eq!(shown, ("g", "consumer", state, "consumer"));
        }
    }
}

#[test]
fn errors_have_kafkas_codes() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 3).await;
        find(&broker).await;
        let error =
            async |request: ConsumerGroupHeartbeatRequest<'_>| beat(&broker, 1, &request).await.0;
        assert_eq!(error(joins("", "a")).await, ErrorCode::InvalidRequest);
        let wrong = ConsumerGroupHeartbeatRequest {
            subscribed_topic_regex: Some("["),
            ..joins("g", "a")
        };
        assert_eq!(error(wrong).await, ErrorCode::InvalidRegularExpression);
        for assignor in ["sticky", ""] {
            let wrong = ConsumerGroupHeartbeatRequest {
                server_assignor: Some(assignor),
                ..joins("g", "a")
            };
            assert_eq!(error(wrong).await, ErrorCode::UnsupportedAssignor);
        }
        let stranger = ConsumerGroupHeartbeatRequest {
            member_epoch: 5,
            ..joins("g", "a")
        };
        assert_eq!(error(stranger.clone()).await, ErrorCode::GroupIdNotFound);
        assert_eq!(error(joins("g", "b")).await, ErrorCode::None);
        assert_eq!(error(stranger).await, ErrorCode::UnknownMemberId);
        let fenced = ConsumerGroupHeartbeatRequest {
            member_epoch: 5,
            ..joins("g", "b")
        };
        assert_eq!(error(fenced).await, ErrorCode::FencedMemberEpoch);
        for (id, epoch, want) in [
            ("b", 1, ErrorCode::None),
            ("b", 7, ErrorCode::StaleMemberEpoch),
            ("x", 1, ErrorCode::UnknownMemberId),
        ] {
            let request = OffsetFetchRequest {
                groups: vec![offset_fetch_request::OffsetFetchRequestGroup {
                    group_id: "g",
                    member_id: Some(id),
                    member_epoch: epoch,
                    topics: None,
                }]
                .into(),
                ..OffsetFetchRequest::default()
            };
            let answer = ask(&broker, 9, &request).await;
            let r: OffsetFetchResponse<'_> = answer.decode();
            let group = r.groups.iter().next().expect("a group");
            assert_eq!(code(group.error_code), want);
        }
    });
}

#[test]
fn a_broker_without_the_protocol_says_so() {
    let settings = [("group.coordinator.rebalance.protocols", "classic")];
    with_broker(&settings, |broker| async move {
        find(&broker).await;
        let (error, ..) = beat(&broker, 1, &joins("g", "a")).await;
        assert_eq!(error, ErrorCode::UnsupportedVersion);
    });
}

#[test]
fn the_feature_is_told() {
    with_broker(&[], |broker| async move {
        // Java clients before 3.9 refuse an answer with a feature whose least version is 0.
        for (v, min) in [(3, 1), (4, 0)] {
            let answer = ask(&broker, v, &ApiVersionsRequest::default()).await;
            let r: ApiVersionsResponse<'_> = answer.decode();
            assert_eq!(r.supported_features.len(), 4);
            let mut fixed = r.supported_features.iter();
            let fixed = fixed.by_ref().filter(|f| f.name != "streamd.version");
            assert!(fixed.into_iter().all(|f| f.min_version == min));
        }
        let answer = ask(&broker, 4, &ApiVersionsRequest::default()).await;
        let r: ApiVersionsResponse<'_> = answer.decode();
        assert!(r.finalized_features_epoch >= 0);
        let found = r
            .finalized_features
            .iter()
            .find(|f| f.name == "group.version");
        assert_eq!(found.map(|f| f.max_version_level), Some(1));
        for name in ["group.version", "share.version"] {
            let known = r.supported_features.iter().find(|f| f.name == name);
            assert_eq!(known.map(|f| f.max_version), Some(1), "{name}");
        }
    });
}

async fn set(broker: &Rc<Broker>, group: &str, key: &str, value: &str) -> ErrorCode {
    let request = IncrementalAlterConfigsRequest {
        resources: vec![incremental_alter_configs_request::AlterConfigsResource {
            resource_type: 32,
            resource_name: group,
            configs: vec![incremental_alter_configs_request::AlterableConfig {
                name: key,
                config_operation: 0,
                value: Some(value),
            }]
            .into(),
        }]
        .into(),
        validate_only: false,
    };
    let answer = ask(broker, 1, &request).await;
    let r: IncrementalAlterConfigsResponse<'_> = answer.decode();
    code(r.responses.iter().next().expect("an answer").error_code)
}

#[test]
fn groups_have_settings() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 3).await;
        find(&broker).await;
        let key = "consumer.heartbeat.interval.ms";
        assert_eq!(set(&broker, "g", key, "7000").await, ErrorCode::None);
        assert_eq!(
            set(&broker, "g", key, "100").await,
            ErrorCode::InvalidConfig
        );
        assert_eq!(
            set(&broker, "g", "nonsense", "1").await,
            ErrorCode::InvalidConfig
        );
        assert_eq!(
            set(&broker, "", key, "7000").await,
            ErrorCode::InvalidRequest
        );
        let answer = ask(&broker, 1, &joins("g", "a")).await;
        let r: ConsumerGroupHeartbeatResponse<'_> = answer.decode();
        assert_eq!(r.heartbeat_interval_ms, 7000);
        let request = DescribeConfigsRequest {
            resources: vec![describe_configs_request::DescribeConfigsResource {
                resource_type: 32,
                resource_name: "g",
                configuration_keys: None,
            }]
            .into(),
            ..DescribeConfigsRequest::default()
        };
        let answer = ask(&broker, 4, &request).await;
        let r: DescribeConfigsResponse<'_> = answer.decode();
        let result = r.results.iter().next().expect("a result");
        let all: Vec<_> = result
            .configs
            .iter()
            .map(|c| (c.name, c.value, c.config_source))
            .filter(|c| c.0.starts_with("consumer."))
            .collect();
        let session = ("consumer.session.timeout.ms", Some("45000"), 5);
        assert_eq!(all, [(key, Some("7000"), 8), session]);
        for (types, want) in [(vec![32], vec![(32, "g")]), (vec![4], vec![(4, "1")])] {
            let request = ListConfigResourcesRequest {
                resource_types: types.into(),
            };
            let answer = ask(&broker, 1, &request).await;
            let r: ListConfigResourcesResponse<'_> = answer.decode();
            let found = r.config_resources.iter();
            let found: Vec<_> = found.map(|c| (c.resource_type, c.resource_name)).collect();
            assert_eq!(found, want);
        }
    });
}
