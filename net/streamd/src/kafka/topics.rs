//! CreateTopics, DeleteTopics, CreatePartitions: a request becomes commands of the metadata log,
//! one for each topic, each checked apart and answered apart.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use streamd_core::config::describe_topic;
use streamd_core::control::{Ask, plan};
use streamd_core::meta::{ClusterImage, Command, TopicMeta, Wanted, validate};
use streamd_io::Part;
use streamd_model::{ErrorCode, TopicId};
use streamd_shard::Refusal;
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::create_partitions_request::{
    CreatePartitionsRequest, CreatePartitionsTopic,
};
use streamd_wire::kafka::generated::create_partitions_response::{
    CreatePartitionsResponse, CreatePartitionsTopicResult,
};
use streamd_wire::kafka::generated::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use streamd_wire::kafka::generated::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse,
};
use streamd_wire::kafka::generated::delete_topics_request::DeleteTopicsRequest;
use streamd_wire::kafka::generated::delete_topics_response::{
    DeletableTopicResult, DeleteTopicsResponse,
};

use super::internal::{self, Internal};
use super::{encode, places};
use crate::broker::Broker;

type Outcome<T> = Result<T, Refusal>;

fn refused((code, text): (ErrorCode, String)) -> Refusal {
    Refusal::new(code, text)
}

/// Whether this can be the name of a topic.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    validate::topic_name(name).map_err(refused)
}

/// Changes the metadata; gives the image with the change in it.
pub async fn propose(broker: &Rc<Broker>, command: Command) -> Outcome<Arc<ClusterImage>> {
    let ask = Ask::Propose {
        commands: vec![command],
        replication: None,
    };
    broker.shard.decide(ask).await.map(|(_, image)| image)
}

/// An id for a topic that is to be.
pub fn new_id(broker: &Broker) -> TopicId {
    let env = &broker.shard.env;
    TopicId::from_random(env.random_u64(), env.random_u64())
}

/// Creates a topic with the defaults because somebody asked for it. On error the image as it is.
pub async fn auto_create(
    broker: &Rc<Broker>,
    name: &str,
) -> Result<Arc<ClusterImage>, (ErrorCode, Arc<ClusterImage>)> {
    if let Some(which) = Internal::named(name) {
        // They are no topics like others: groups and transactions are found by their partitions.
        let made = internal::make(broker, which).await;
        let image = broker.shard.image();
        return match made {
            Ok(()) => Ok(image),
            Err(code) => Err((code, image)),
        };
    }
    let wanted = validate::NewTopic {
        name,
        id: new_id(broker),
        partitions: -1,
        replication: -1,
        assignments: &[],
        configs: &[],
        now_ms: broker.shard.env.wall_ms(),
    };
    let outcome = match validate::create_topic(&broker.shard.image(), &wanted) {
        Ok(wanted) => broker.shard.want(wanted).await,
        Err(e) => Err(refused(e)),
    };
    outcome.map_err(|refusal| (refusal.code, broker.shard.image()))
}

/// The names that stand in a request more than once: which of the wishes counts nobody can know.
fn named_twice<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).collect()
}

fn more_than_once(name: &str) -> Refusal {
    let text = format!("Topic '{name}' stands in the request more than once.");
    Refusal::new(ErrorCode::InvalidRequest, text)
}

/// Answers CreateTopics, versions 2 to 7.
pub async fn create(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &CreateTopicsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let twice = named_twice(request.topics.iter().map(|t| t.name));
    let mut outcomes = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let outcome = match twice.contains(topic.name) {
            true => Err(more_than_once(topic.name)),
            false => create_one(broker, &topic, request.validate_only).await,
        };
        outcomes.push((topic.name, outcome));
    }
    let image = broker.shard.image();
    let described: Vec<_> = outcomes
        .iter()
        .map(|(_, o)| {
            o.as_ref().map_or(Vec::new(), |(t, _)| {
                describe_topic(&image.layers(Some(t)), &|_| true)
            })
        })
        .collect();
    let topics = outcomes
        .iter()
        .zip(&described)
        .map(|((name, outcome), entries)| match outcome {
            Ok((topic, replication)) => CreatableTopicResult {
                name,
                topic_id: topic.id,
                error_message: None,
                num_partitions: topic.partitions,
                replication_factor: *replication,
                configs: Some(
                    entries
                        .iter()
                        .map(|e| CreatableTopicConfigs {
                            name: e.name,
                            value: e.value.as_deref(),
                            read_only: e.read_only,
                            config_source: e.source as i8,
                            is_sensitive: false,
                        })
                        .collect(),
                ),
                ..CreatableTopicResult::default()
            },
            Err(refusal) => CreatableTopicResult {
                name,
                error_code: refusal.code.code(),
                error_message: Some(&refusal.text),
                num_partitions: -1,
                replication_factor: -1,
                ..CreatableTopicResult::default()
            },
        });
    let response = CreateTopicsResponse {
        topics: topics.collect(),
        ..CreateTopicsResponse::default()
    };
    encode(header, &response)
}

async fn create_one(
    broker: &Rc<Broker>,
    topic: &CreatableTopic<'_>,
    validate_only: bool,
) -> Outcome<(Arc<TopicMeta>, i16)> {
    let assignments = topic.assignments.iter();
    let assignments: Vec<(i32, Vec<i32>)> = assignments
        .map(|a| (a.partition_index, a.broker_ids.iter().collect()))
        .collect();
    let configs: Vec<_> = topic.configs.iter().map(|c| (c.name, c.value)).collect();
    let wanted = validate::NewTopic {
        name: topic.name,
        id: new_id(broker),
        partitions: topic.num_partitions,
        replication: topic.replication_factor,
        assignments: &assignments,
        configs: &configs,
        now_ms: broker.shard.env.wall_ms(),
    };
    let image = broker.shard.image();
    let wanted = validate::create_topic(&image, &wanted).map_err(refused)?;
    let image = match validate_only {
        true => Arc::new(as_if(broker, &wanted).await?),
        false => broker.shard.want(wanted).await?,
    };
    let gone = || {
        Refusal::new(
            ErrorCode::UnknownTopicOrPartition,
            "deleted at once by another",
        )
    };
    let topic = image.topic(topic.name).ok_or_else(gone)?;
    Ok((topic.clone(), places::replication(&image, topic.id)))
}

/// The image as it would be; decided here, where the controller is not asked.
async fn as_if(broker: &Rc<Broker>, wanted: &Wanted) -> Outcome<ClusterImage> {
    let image = broker.shard.sited_image().await;
    let commands = plan(&image, &wanted.commands, wanted.replication).map_err(refused)?;
    let mut image = ClusterImage::clone(&image);
    commands.iter().for_each(|command| image.apply(command));
    Ok(image)
}

/// Answers DeleteTopics, versions 1 to 6: by name, since version 6 also by id.
pub async fn delete(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &DeleteTopicsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let by_name = request
        .topic_names
        .iter()
        .map(|name| (Some(name), TopicId::ZERO));
    let by_either = request.topics.iter().map(|t| (t.name, t.topic_id));
    let mut done: Vec<(Option<String>, TopicId, Outcome<()>)> = Vec::new();
    for (name, id) in by_name.chain(by_either) {
        let image = broker.shard.image();
        let topic = match name {
            Some(name) => image.topic(name),
            None => image.topic_by_id(id),
        };
        let outcome = match validate::delete_topic(&image, name, id) {
            Ok(command) => propose(broker, command).await.map(drop),
            // Clients know this code since version 3.
            Err((ErrorCode::TopicDeletionDisabled, text)) if header.version < 3 => {
                Err(Refusal::new(ErrorCode::InvalidRequest, text))
            }
            Err(e) => Err(refused(e)),
        };
        let (name, id) = match topic {
            Some(topic) => (Some(topic.name.clone()), topic.id),
            None => (name.map(str::to_owned), id),
        };
        done.push((name, id, outcome));
    }
    let responses = done
        .iter()
        .map(|(name, topic_id, outcome)| DeletableTopicResult {
            name: name.as_deref(),
            topic_id: *topic_id,
            error_code: outcome.as_ref().map_or_else(|r| r.code.code(), |()| 0),
            error_message: outcome.as_ref().err().map(|r| r.text.as_str()),
        });
    let responses = responses.collect();
    encode(
        header,
        &DeleteTopicsResponse {
            responses,
            ..DeleteTopicsResponse::default()
        },
    )
}

/// Answers CreatePartitions, versions 0 to 3.
pub async fn create_partitions(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &CreatePartitionsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let twice = named_twice(request.topics.iter().map(|t| t.name));
    let mut done = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let outcome = match twice.contains(topic.name) {
            true => Err(more_than_once(topic.name)),
            false => more_partitions(broker, &topic, request.validate_only).await,
        };
        done.push((topic.name, outcome));
    }
    let results = done
        .iter()
        .map(|(name, outcome)| CreatePartitionsTopicResult {
            name,
            error_code: outcome.as_ref().map_or_else(|r| r.code.code(), |()| 0),
            error_message: outcome.as_ref().err().map(|r| r.text.as_str()),
        });
    let results = results.collect();
    encode(
        header,
        &CreatePartitionsResponse {
            results,
            ..CreatePartitionsResponse::default()
        },
    )
}

async fn more_partitions(
    broker: &Rc<Broker>,
    topic: &CreatePartitionsTopic<'_>,
    validate_only: bool,
) -> Outcome<()> {
    let image = broker.shard.image();
    let assignments: Option<Vec<Vec<i32>>> = topic
        .assignments
        .as_ref()
        .map(|all| all.iter().map(|a| a.broker_ids.iter().collect()).collect());
    let wanted =
        validate::create_partitions(&image, topic.name, topic.count, assignments.as_deref())
            .map_err(refused)?;
    match validate_only {
        true => as_if(broker, &wanted).await.map(drop),
        false => broker.shard.want(wanted).await.map(drop),
    }
}
