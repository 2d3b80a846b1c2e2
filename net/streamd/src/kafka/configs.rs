//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, of topics (2), brokers (4), groups (32);
//! ListConfigResources.
//! Keys, values, sources and synonyms come from the one table in `core`.

use std::rc::Rc;

use streamd_core::config::{
    Entry, Kind, Source, SynonymEntry, describe_broker, describe_group, describe_topic,
};
use streamd_core::meta::{ClusterImage, Command, Resource, validate};
use streamd_io::Part;
use streamd_model::{ErrorCode, NodeId};
use streamd_shard::Refusal;
use streamd_wire::kafka::generated::alter_configs_request::AlterConfigsRequest;
use streamd_wire::kafka::generated::alter_configs_response::{
    AlterConfigsResourceResponse, AlterConfigsResponse,
};
use streamd_wire::kafka::generated::describe_configs_request::{
    DescribeConfigsRequest, DescribeConfigsResource,
};
use streamd_wire::kafka::generated::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult,
    DescribeConfigsSynonym,
};
use streamd_wire::kafka::generated::incremental_alter_configs_request as incremental_request;
use streamd_wire::kafka::generated::incremental_alter_configs_response::{
    AlterConfigsResourceResponse as IncrementalResourceResponse, IncrementalAlterConfigsResponse,
};
use streamd_wire::kafka::generated::list_config_resources_request::ListConfigResourcesRequest;
use streamd_wire::kafka::generated::list_config_resources_response::{
    ConfigResource, ListConfigResourcesResponse,
};
use streamd_wire::kafka::{Array, ResponseHeader};

use super::{encode, topics};
use crate::broker::Broker;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const GROUP: i8 = 32;

/// What a request names: a topic, this broker, or (empty) all brokers.
enum Target<'a> {
    Topic(&'a str),
    Group(&'a str),
    Broker(Option<i32>),
}

fn target<'a>(kind: i8, name: &'a str) -> Result<Target<'a>, Refusal> {
    match (kind, name) {
        (TOPIC, name) => Ok(Target::Topic(name)),
        (GROUP, name) => Ok(Target::Group(name)),
        (BROKER, "") => Ok(Target::Broker(None)),
        (BROKER, id) => id.parse().map(|id| Target::Broker(Some(id))).map_err(|_| {
            let text = format!("{id:?} is no broker id: a number is expected");
            Refusal::new(ErrorCode::InvalidRequest, text)
        }),
        (kind, _) => {
            let text = format!(
                "resource type {kind}; topics (2), brokers (4) and groups (32) have settings"
            );
            Err(Refusal::new(ErrorCode::InvalidRequest, text))
        }
    }
}

/// Answers DescribeConfigs, versions 1 to 4.
pub fn describe(
    broker: &Broker,
    header: ResponseHeader,
    request: &DescribeConfigsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let image = broker.shard.image();
    let found: Vec<_> = request
        .resources
        .iter()
        .map(|r| {
            let entries = entries(broker, &image, &r);
            (r, entries)
        })
        .collect();
    let flags = (request.include_synonyms, request.include_documentation);
    let results = found.iter().map(|(r, outcome)| DescribeConfigsResult {
        error_code: outcome.as_ref().map_or_else(|e| e.code.code(), |_| 0),
        error_message: outcome.as_ref().err().map(|e| e.text.as_str()),
        resource_type: r.resource_type,
        resource_name: r.resource_name,
        configs: match outcome {
            Ok(entries) => entries.iter().map(|e| described(e, flags)).collect(),
            Err(_) => Array::default(),
        },
    });
    let results = results.collect();
    encode(
        header,
        &DescribeConfigsResponse {
            results,
            ..DescribeConfigsResponse::default()
        },
    )
}

/// What is no setting of the table but an option of the command, as Kafka's keys name it.
fn identity(broker: &Broker, wanted: &dyn Fn(&str) -> bool) -> Vec<Entry> {
    let id = &broker.identity;
    let url = format!("PLAINTEXT://{}:{}", id.host, id.port);
    let dir = broker.data_dir.display().to_string();
    [
        (
            "advertised.listeners",
            url.clone(),
            Kind::List,
            "Where clients are told to connect.",
        ),
        (
            "broker.id",
            id.node_id.to_string(),
            Kind::Int,
            "The id of this broker.",
        ),
        ("listeners", url, Kind::List, "Where this broker listens."),
        ("log.dirs", dir, Kind::List, "Where the data lives."),
        (
            "node.id",
            id.node_id.to_string(),
            Kind::Int,
            "The id of this node.",
        ),
    ]
    .into_iter()
    .filter(|(name, ..)| wanted(name))
    .map(|(name, value, kind, doc)| Entry {
        name,
        synonyms: vec![SynonymEntry {
            name,
            value: value.clone(),
            source: Source::Static,
        }],
        value: Some(value),
        source: Source::Static,
        kind,
        read_only: true,
        doc: doc.into(),
    })
    .collect()
}

fn entries(
    broker: &Broker,
    image: &ClusterImage,
    resource: &DescribeConfigsResource<'_>,
) -> Result<Vec<Entry>, Refusal> {
    let keys: Option<Vec<&str>> = resource
        .configuration_keys
        .as_ref()
        .map(|keys| keys.iter().collect());
    let wanted = |name: &str| {
        keys.as_ref()
            .is_none_or(|k| k.is_empty() || k.contains(&name))
    };
    match target(resource.resource_type, resource.resource_name)? {
        Target::Topic(name) => {
            topics::check_name(name)?;
            let code = ErrorCode::UnknownTopicOrPartition;
            let gone = || Refusal::new(code, format!("Topic '{name}' does not exist."));
            let topic = image.topic(name).ok_or_else(gone)?;
            Ok(describe_topic(&image.layers(Some(topic)), &wanted))
        }
        Target::Group("") => {
            let text = "Group name must not be empty";
            Err(Refusal::new(ErrorCode::InvalidRequest, text))
        }
        Target::Group(name) => {
            let own = image.group_configs(name);
            Ok(describe_group(&image.layers(None), own, &wanted))
        }
        Target::Broker(Some(id)) if NodeId(id) == image.node() => {
            let mut entries = describe_broker(&image.layers(None), &wanted);
            entries.extend(identity(broker, &wanted));
            entries.sort_unstable_by_key(|e| e.name);
            Ok(entries)
        }
        Target::Broker(Some(id)) => {
            let text = format!("this is broker {}, not {id}", image.node().0);
            Err(Refusal::new(ErrorCode::InvalidRequest, text))
        }
        // Only what was set for all brokers: the rest is each broker's own.
        Target::Broker(None) => {
            let set = image.broker_configs(Resource::AllBrokers);
            let is_set = |name: &str| wanted(name) && set.is_some_and(|s| s.contains_key(name));
            let mut layers = image.layers(None);
            layers.node = None;
            layers.file = None;
            Ok(describe_broker(&layers, &is_set))
        }
    }
}

fn described(e: &Entry, (synonyms, doc): (bool, bool)) -> DescribeConfigsResourceResult<'_> {
    DescribeConfigsResourceResult {
        name: e.name,
        value: e.value.as_deref(),
        read_only: e.read_only,
        config_source: e.source as i8,
        is_sensitive: false,
        synonyms: if synonyms {
            let one = |s: &SynonymEntry| (s.name, s.source as i8);
            e.synonyms
                .iter()
                .map(|s| {
                    let (name, source) = one(s);
                    DescribeConfigsSynonym {
                        name,
                        value: Some(&s.value),
                        source,
                    }
                })
                .collect()
        } else {
            Array::default()
        },
        config_type: e.kind as i8,
        documentation: doc.then_some(&e.doc),
    }
}

async fn carry_out(
    broker: &Rc<Broker>,
    command: Result<Command, (ErrorCode, String)>,
    validate_only: bool,
) -> Result<(), Refusal> {
    let command = command.map_err(|(code, text)| Refusal::new(code, text))?;
    if validate_only {
        return Ok(());
    }
    topics::propose(broker, command).await.map(drop)
}

fn alteration(
    image: &ClusterImage,
    target: &Target<'_>,
    ops: &[validate::ConfigOp<'_>],
) -> Result<Command, (ErrorCode, String)> {
    match target {
        Target::Topic(name) => validate::alter_topic(image, name, ops),
        Target::Group(name) => validate::alter_group(image, name, ops),
        Target::Broker(id) => validate::alter_broker(image, *id, ops),
    }
}

/// Answers IncrementalAlterConfigs, versions 0 and 1 (KIP-339).
pub async fn alter(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &incremental_request::IncrementalAlterConfigsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let mut done = Vec::with_capacity(request.resources.len());
    for r in &request.resources {
        let ops: Vec<_> = r
            .configs
            .iter()
            .map(|c| validate::ConfigOp {
                name: c.name,
                op: c.config_operation,
                value: c.value,
            })
            .collect();
        let outcome = match target(r.resource_type, r.resource_name) {
            Ok(target) => {
                let command = alteration(&broker.shard.image(), &target, &ops);
                carry_out(broker, command, request.validate_only).await
            }
            Err(refusal) => Err(refusal),
        };
        done.push((r, outcome));
    }
    let responses = done.iter().map(|(r, outcome)| IncrementalResourceResponse {
        error_code: outcome.as_ref().map_or_else(|e| e.code.code(), |()| 0),
        error_message: outcome.as_ref().err().map(|e| e.text.as_str()),
        resource_type: r.resource_type,
        resource_name: r.resource_name,
    });
    let responses = responses.collect();
    let response = IncrementalAlterConfigsResponse {
        responses,
        ..IncrementalAlterConfigsResponse::default()
    };
    encode(header, &response)
}

/// Answers ListConfigResources, versions 0 and 1: what can have settings, of the wanted kinds.
pub fn list(
    broker: &Broker,
    header: ResponseHeader,
    request: &ListConfigResourcesRequest<'_>,
) -> Result<Vec<Part>, String> {
    let image = broker.shard.image();
    let node = image.node().0.to_string();
    // Version 0 is about the metrics of clients alone, which are not collected here.
    let has = |kind: i8| {
        let kinds = &request.resource_types;
        header.version >= 1 && (kinds.is_empty() || kinds.iter().any(|k| k == kind))
    };
    let resource = |resource_type, resource_name| ConfigResource {
        resource_name,
        resource_type,
    };
    let mut found = Vec::new();
    if has(TOPIC) {
        found.extend(
            image
                .topics()
                .map(|topic| resource(TOPIC, topic.name.as_str())),
        );
    }
    if has(BROKER) {
        found.push(resource(BROKER, node.as_str()));
    }
    if has(GROUP) {
        found.extend(
            image
                .groups_with_configs()
                .map(|name| resource(GROUP, name)),
        );
    }
    let response = ListConfigResourcesResponse {
        throttle_time_ms: 0,
        error_code: 0,
        config_resources: found.into(),
    };
    encode(header, &response)
}

/// Answers AlterConfigs, versions 0 to 2: what is not named goes back to its default.
pub async fn replace(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &AlterConfigsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let mut done = Vec::with_capacity(request.resources.len());
    for r in &request.resources {
        let given: Vec<_> = r.configs.iter().map(|c| (c.name, c.value)).collect();
        let outcome = match target(r.resource_type, r.resource_name) {
            Ok(target) => {
                let image = broker.shard.image();
                let current = match &target {
                    Target::Topic(name) => image.topic(name).map(|t| &t.configs),
                    Target::Group(name) => image.group_configs(name),
                    Target::Broker(None) => image.broker_configs(Resource::AllBrokers),
                    Target::Broker(Some(id)) => image.broker_configs(Resource::Broker(NodeId(*id))),
                };
                let command = alteration(&image, &target, &validate::replacing(current, &given));
                carry_out(broker, command, request.validate_only).await
            }
            Err(refusal) => Err(refusal),
        };
        done.push((r, outcome));
    }
    let responses = done
        .iter()
        .map(|(r, outcome)| AlterConfigsResourceResponse {
            error_code: outcome.as_ref().map_or_else(|e| e.code.code(), |()| 0),
            error_message: outcome.as_ref().err().map(|e| e.text.as_str()),
            resource_type: r.resource_type,
            resource_name: r.resource_name,
        });
    let responses = responses.collect();
    encode(
        header,
        &AlterConfigsResponse {
            responses,
            ..AlterConfigsResponse::default()
        },
    )
}
