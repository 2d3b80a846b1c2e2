//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs.

use std::rc::Rc;

use streamd_model::ErrorCode;
use streamd_wire::kafka::ApiKey;
use streamd_wire::kafka::IncrementalAlterConfigsResponse;
use streamd_wire::kafka::generated::alter_configs_request as replace_request;
use streamd_wire::kafka::generated::alter_configs_response::AlterConfigsResponse;
use streamd_wire::kafka::generated::describe_configs_request::{
    DescribeConfigsRequest, DescribeConfigsResource,
};
use streamd_wire::kafka::generated::describe_configs_response::DescribeConfigsResponse;
use streamd_wire::kafka::generated::incremental_alter_configs_request as alter_request;

use super::{ask, code, create, versions, with_broker};
use crate::broker::Broker;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// A value as described: its source, value, and whether it is read-only.
type Described = (i8, Option<String>, bool);

async fn describe(
    broker: &Rc<Broker>,
    kind: i8,
    name: &str,
    key: &str,
) -> Result<Described, ErrorCode> {
    let resource = DescribeConfigsResource {
        resource_type: kind,
        resource_name: name,
        configuration_keys: Some(vec![key].into()),
    };
    let request = DescribeConfigsRequest {
        resources: vec![resource].into(),
        ..DescribeConfigsRequest::default()
    };
    let answer = ask(broker, 4, &request).await;
    let r: DescribeConfigsResponse<'_> = answer.decode();
    let result = r.results.iter().next().unwrap();
    if result.error_code != 0 {
        return Err(code(result.error_code));
    }
    let one = result.configs.iter().next().unwrap();
    Ok((
        one.config_source,
        one.value.map(str::to_owned),
        one.read_only,
    ))
}

async fn alter(
    broker: &Rc<Broker>,
    resource: (i8, &str),
    change: (&str, i8, Option<&str>),
) -> ErrorCode {
    let resource = alter_request::AlterConfigsResource {
        resource_type: resource.0,
        resource_name: resource.1,
        configs: vec![alter_request::AlterableConfig {
            name: change.0,
            config_operation: change.1,
            value: change.2,
        }]
        .into(),
    };
    let request = alter_request::IncrementalAlterConfigsRequest {
        resources: vec![resource].into(),
        validate_only: false,
    };
    let answer = ask(broker, 1, &request).await;
    let r: IncrementalAlterConfigsResponse<'_> = answer.decode();
    code(r.responses.iter().next().unwrap().error_code)
}

#[test]
fn every_version_describes_everything() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 1).await;
        for version in versions(ApiKey::DescribeConfigs) {
            let of = |resource_type, resource_name| DescribeConfigsResource {
                resource_type,
                resource_name,
                configuration_keys: None,
            };
            let request = DescribeConfigsRequest {
                resources: vec![of(TOPIC, "t"), of(BROKER, "1"), of(BROKER, "")].into(),
                include_synonyms: true,
                include_documentation: version >= 3,
            };
            let answer = ask(&broker, version, &request).await;
            let r: DescribeConfigsResponse<'_> = answer.decode();
            let results = r.results.to_vec();
            assert!(
                results
                    .iter()
                    .all(|r| r.error_code == 0 && r.error_message.is_none())
            );
            let value = |at: usize, name: &str| {
                let configs = results[at].configs.to_vec();
                let one = configs.into_iter().find(|c| c.name == name).unwrap();
                one.value.map(str::to_owned)
            };
            assert_eq!(value(0, "retention.ms").as_deref(), Some("604800000"));
            assert_eq!(value(0, "cleanup.policy").as_deref(), Some("delete"));
            assert_eq!(value(1, "num.partitions").as_deref(), Some("1"));
            assert_eq!(value(1, "node.id").as_deref(), Some("1"));
            assert_eq!(
                results[2].configs.len(),
                0,
                "nothing is set for all brokers"
            );
            let configs = results[0].configs.to_vec();
            let retention = configs
                .into_iter()
                .find(|c| c.name == "retention.ms")
                .unwrap();
            let synonym = retention.synonyms.iter().next().unwrap();
            assert_eq!((synonym.name, synonym.source), ("log.retention.hours", 5));
            let documented = retention.documentation.is_some_and(|d| !d.is_empty());
            assert_eq!(documented, version >= 3);
            assert_eq!(retention.config_type, if version >= 3 { 5 } else { 0 });
        }
    });
}

#[test]
fn a_change_shows_where_it_came_from() {
    with_broker(&[("log.retention.ms", "3")], |broker| async move {
        create(&broker, "t", 1).await;
        let shown = |value: &str, source| Ok((source, Some(value.to_owned()), false));
        assert_eq!(
            describe(&broker, TOPIC, "t", "retention.ms").await,
            shown("3", 4)
        );
        let all = (BROKER, "");
        let set = alter(&broker, all, ("log.retention.ms", 0, Some("4"))).await;
        assert_eq!(set, ErrorCode::None);
        assert_eq!(
            describe(&broker, TOPIC, "t", "retention.ms").await,
            shown("4", 3)
        );
        assert_eq!(
            describe(&broker, BROKER, "", "log.retention.ms").await,
            shown("4", 3)
        );
        alter(&broker, (BROKER, "1"), ("log.retention.ms", 0, Some("5"))).await;
        assert_eq!(
            describe(&broker, BROKER, "1", "log.retention.ms").await,
            shown("5", 2)
        );
        alter(&broker, (TOPIC, "t"), ("retention.ms", 0, Some("6"))).await;
        assert_eq!(
            describe(&broker, TOPIC, "t", "retention.ms").await,
            shown("6", 1)
        );
        assert_eq!(
            broker.shard.image().topic("t").unwrap().config.retention_ms,
            6
        );
        alter(&broker, (TOPIC, "t"), ("retention.ms", 1, None)).await;
        assert_eq!(
            describe(&broker, TOPIC, "t", "retention.ms").await,
            shown("5", 2)
        );
    });
}

#[test]
fn what_cannot_be_changed_or_described() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 1).await;
        let unknown = describe(&broker, TOPIC, "u", "retention.ms").await;
        assert_eq!(unknown, Err(ErrorCode::UnknownTopicOrPartition));
        let bad = describe(&broker, TOPIC, "not good", "retention.ms").await;
        assert_eq!(bad, Err(ErrorCode::InvalidTopicException));
        for other in ["2", "x"] {
            let wrong = describe(&broker, BROKER, other, "num.partitions").await;
            assert_eq!(wrong, Err(ErrorCode::InvalidRequest));
        }
        let kind = describe(&broker, 99, "t", "x").await;
        assert_eq!(kind, Err(ErrorCode::InvalidRequest));
        let before = broker.shard.image().version();
        for (resource, change, expected) in [
            (
                (TOPIC, "t"),
                ("retention.ms", 0, Some("soon")),
                ErrorCode::InvalidConfig,
            ),
            (
                (TOPIC, "t"),
                ("no.such", 0, Some("1")),
                ErrorCode::InvalidConfig,
            ),
            (
                (TOPIC, "t"),
                ("retention.ms", 2, Some("1")),
                ErrorCode::InvalidConfig,
            ),
            (
                (TOPIC, "t"),
                ("retention.ms", 0, None),
                ErrorCode::InvalidRequest,
            ),
            (
                (TOPIC, "t"),
                ("retention.ms", 7, Some("1")),
                ErrorCode::InvalidRequest,
            ),
            (
                (TOPIC, "u"),
                ("retention.ms", 0, Some("1")),
                ErrorCode::UnknownTopicOrPartition,
            ),
            (
                (BROKER, "1"),
                ("num.partitions", 0, Some("5")),
                ErrorCode::InvalidRequest,
            ),
            (
                (BROKER, "9"),
                ("log.retention.ms", 0, Some("5")),
                ErrorCode::InvalidRequest,
            ),
            ((32, "group"), ("x", 0, Some("5")), ErrorCode::InvalidConfig),
            (
                (64, "nobody knows it"),
                ("x", 0, Some("5")),
                ErrorCode::InvalidRequest,
            ),
        ] {
            assert_eq!(
                alter(&broker, resource, change).await,
                expected,
                "{change:?}"
            );
        }
        assert_eq!(
            broker.shard.image().version(),
            before,
            "nothing was changed"
        );
    });
}

#[test]
fn lists_are_added_to_and_taken_from() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 1).await;
        let t = (TOPIC, "t");
        alter(&broker, t, ("cleanup.policy", 2, Some("compact"))).await;
        let both = describe(&broker, TOPIC, "t", "cleanup.policy").await;
        assert_eq!(both, Ok((1, Some("delete,compact".to_owned()), false)));
        alter(&broker, t, ("cleanup.policy", 3, Some("delete"))).await;
        let one = describe(&broker, TOPIC, "t", "cleanup.policy").await;
        assert_eq!(one, Ok((1, Some("compact".to_owned()), false)));
    });
}

#[test]
fn the_older_call_replaces_all() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 1).await;
        for version in versions(ApiKey::AlterConfigs) {
            alter(&broker, (TOPIC, "t"), ("segment.ms", 0, Some("60000"))).await;
            let replace = |resource_name, validate_only| replace_request::AlterConfigsRequest {
                resources: vec![replace_request::AlterConfigsResource {
                    resource_type: TOPIC,
                    resource_name,
                    configs: vec![replace_request::AlterableConfig {
                        name: "retention.ms",
                        value: Some("9000"),
                    }]
                    .into(),
                }]
                .into(),
                validate_only,
            };
            let outcome = async |request| {
                let answer = ask(&broker, version, &request).await;
                let r: AlterConfigsResponse<'_> = answer.decode();
                code(r.responses.iter().next().unwrap().error_code)
            };
            let before = broker.shard.image().version();
            assert_eq!(outcome(replace("t", true)).await, ErrorCode::None);
            assert_eq!(broker.shard.image().version(), before);
            assert_eq!(
                outcome(replace("u", false)).await,
                ErrorCode::UnknownTopicOrPartition
            );
            assert_eq!(outcome(replace("t", false)).await, ErrorCode::None);
            let configs = broker.shard.image().topic("t").unwrap().configs.clone();
            let configs: Vec<_> = configs.into_iter().collect();
            assert_eq!(configs, [("retention.ms".to_owned(), "9000".to_owned())]);
        }
    });
}
