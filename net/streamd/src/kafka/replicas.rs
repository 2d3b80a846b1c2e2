//! AlterPartitionReassignments, ListPartitionReassignments, ElectLeaders, UnregisterBroker: where
//! operators want partitions, and who is to lead them.

use std::collections::BTreeMap;
use std::rc::Rc;

use streamd_core::control::{Answer, Ask, Election};
use streamd_core::meta::{ClusterImage, PartitionMeta};
use streamd_io::{Class, Part};
use streamd_model::{ErrorCode, NodeId, PartitionId};
use streamd_shard::Refusal;
use streamd_wire::kafka::generated::alter_partition_reassignments_request as wanted;
use streamd_wire::kafka::generated::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponse, ReassignablePartitionResponse, ReassignableTopicResponse,
};
use streamd_wire::kafka::generated::elect_leaders_request::ElectLeadersRequest;
use streamd_wire::kafka::generated::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use streamd_wire::kafka::generated::list_partition_reassignments_request as asked;
use streamd_wire::kafka::generated::list_partition_reassignments_response::{
    ListPartitionReassignmentsResponse, OngoingPartitionReassignment, OngoingTopicReassignment,
};
use streamd_wire::kafka::generated::unregister_broker_request::UnregisterBrokerRequest;
use streamd_wire::kafka::generated::unregister_broker_response::UnregisterBrokerResponse;
use streamd_wire::kafka::{ApiKey, Frame, ResponseHeader};

use super::encode;
use crate::broker::Broker;

/// The most partitions that one request may name.
const PARTITIONS_MAX: usize = 100_000;
/// So many moves are asked for at once: they are committed together.
const AT_ONCE: usize = 500;

fn unknown(topic: &str, index: i32) -> Refusal {
    let text = format!("There is no partition {index} of topic {topic}.");
    Refusal::new(ErrorCode::UnknownTopicOrPartition, text)
}

fn find(image: &ClusterImage, topic: &str, index: i32) -> Result<PartitionId, Refusal> {
    let found = image
        .topic(topic)
        .filter(|t| (0..t.partitions).contains(&index));
    found
        .map(|t| PartitionId { topic: t.id, index })
        .ok_or_else(|| unknown(topic, index))
}

/// What is answered here.
pub const SERVED: &[ApiKey] = &[
    ApiKey::ElectLeaders,
    ApiKey::AlterPartitionReassignments,
    ApiKey::ListPartitionReassignments,
    ApiKey::UnregisterBroker,
];

/// Answers what operators ask about places and leaders of partitions.
pub async fn answer(broker: &Rc<Broker>, frame: &Frame<'_>) -> Result<Vec<Part>, String> {
    let header = ResponseHeader::from(&frame.header);
    let api = frame.header.api;
    macro_rules! decoded {
        () => {
            &frame
                .decode()
                .map_err(|e| format!("{} version {}: {e}", api.name(), header.version))?
        };
    }
    match api {
        ApiKey::ElectLeaders => elect(broker, header, decoded!()).await,
        ApiKey::AlterPartitionReassignments => reassign(broker, header, decoded!()).await,
        ApiKey::ListPartitionReassignments => reassignments(broker, header, decoded!()),
        ApiKey::UnregisterBroker => unregister(broker, header, decoded!()).await,
        _ => Err(format!("{} is not served", api.name())),
    }
}

/// Answers AlterPartitionReassignments, versions 0 and 1: begins moves, or calls them off.
async fn reassign(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &wanted::AlterPartitionReassignmentsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let named = request.topics.iter().map(|t| t.partitions.len()).sum();
    super::check_items("partitions", named, PARTITIONS_MAX)?;
    let mut done = Vec::with_capacity(named);
    let mut each = Vec::with_capacity(named);
    for topic in &request.topics {
        each.extend(topic.partitions.iter().map(|p| (topic.name, p)));
    }
    for chunk in each.chunks(AT_ONCE) {
        let image = broker.shard.image();
        let mut begun = Vec::with_capacity(chunk.len());
        for (name, partition) in chunk {
            let keeps = !request.allow_replication_factor_change;
            let ask = move_of(&image, name, partition, keeps);
            let shard = broker.shard.clone();
            let ask = async move { shard.decide(ask?).await.map(drop) };
            begun.push(broker.shard.env.spawn(Class::Latency, ask));
        }
        for one in begun {
            done.push(one.await);
        }
    }
    let mut done = done.iter();
    let responses = request
        .topics
        .iter()
        .map(|topic| ReassignableTopicResponse {
            name: topic.name,
            partitions: topic
                .partitions
                .iter()
                .zip(&mut done)
                .map(|(p, outcome)| ReassignablePartitionResponse {
                    partition_index: p.partition_index,
                    error_code: outcome.as_ref().map_or_else(|r| r.code.code(), |()| 0),
                    error_message: outcome.as_ref().err().map(|r| r.text.as_str()),
                })
                .collect(),
        });
    let responses = responses.collect();
    let response = AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: request.allow_replication_factor_change,
        error_message: None,
        responses,
        ..AlterPartitionReassignmentsResponse::default()
    };
    encode(header, &response)
}

/// `keeps`: the number of replicas is to stay.
fn move_of(
    image: &ClusterImage,
    topic: &str,
    wanted: &wanted::ReassignablePartition<'_>,
    keeps: bool,
) -> Result<Ask, Refusal> {
    let partition = find(image, topic, wanted.partition_index)?;
    let replicas = wanted.replicas.as_ref();
    let replicas = replicas.map(|ids| ids.iter().map(NodeId).collect::<Vec<_>>());
    let now = image.cluster().partition(partition);
    if let (true, Some(to), Some(now)) = (keeps, &replicas, now)
        && to.len() != now.target().len()
    {
        let text = format!(
            "The replication factor is changed from {} to {}",
            now.target().len(),
            to.len()
        );
        return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, text));
    }
    Ok(Ask::Reassign {
        partition,
        replicas,
    })
}

/// Answers ListPartitionReassignments, version 0: what is being moved.
fn reassignments(
    broker: &Broker,
    header: ResponseHeader,
    request: &asked::ListPartitionReassignmentsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let image = broker.shard.image();
    let moving = |name: &str, indexes: &mut dyn Iterator<Item = i32>| {
        let partitions = image
            .topic(name)
            .map_or(&[][..], |t| image.cluster().partitions(t.id));
        let found = indexes.filter_map(|index| {
            let partition = partitions.get(usize::try_from(index).ok()?)?;
            partition.is_moving().then(|| ongoing(index, partition))
        });
        found.collect::<Vec<_>>()
    };
    let mut topics: Vec<(&str, Vec<OngoingPartitionReassignment<'_>>)> = Vec::new();
    match &request.topics {
        None => {
            for topic in image.topics() {
                let found = moving(&topic.name, &mut (0..topic.partitions));
                topics.push((&topic.name, found));
            }
        }
        Some(named) => {
            for topic in named {
                let found = moving(topic.name, &mut topic.partition_indexes.iter());
                topics.push((topic.name, found));
            }
        }
    }
    topics.retain(|(_, partitions)| !partitions.is_empty());
    let topics = topics.iter().map(|(name, found)| OngoingTopicReassignment {
        name,
        partitions: found.as_slice().into(),
    });
    let topics = topics.collect();
    let response = ListPartitionReassignmentsResponse {
        error_message: None,
        topics,
        ..ListPartitionReassignmentsResponse::default()
    };
    encode(header, &response)
}

fn ongoing(partition_index: i32, of: &PartitionMeta) -> OngoingPartitionReassignment<'static> {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|n| n.0).collect::<Vec<_>>().into();
    OngoingPartitionReassignment {
        partition_index,
        replicas: ids(&of.replicas),
        adding_replicas: ids(&of.adding),
        removing_replicas: ids(&of.removing),
    }
}

/// Partitions with the names of their topics.
type Named<'a> = Vec<(&'a str, PartitionId)>;
/// Results by topic.
type Elected<'a> = BTreeMap<&'a str, Vec<(i32, Result<(), Refusal>)>>;

/// Answers ElectLeaders, versions 0 to 2. Without partitions: all that could have another leader.
async fn elect(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &ElectLeadersRequest<'_>,
) -> Result<Vec<Part>, String> {
    let image = broker.shard.image();
    let election = match request.election_type {
        0 => Election::Preferred,
        1 => Election::Unclean,
        n => {
            let response = ElectLeadersResponse {
                error_code: ErrorCode::InvalidRequest.code(),
                ..ElectLeadersResponse::default()
            };
            eprintln!("warning: a client asks for an election of the unknown type {n}");
            return encode(header, &response);
        }
    };
    let (partitions, mut elected) = named(&image, election, request)?;
    let ids = partitions.iter().map(|(_, id)| *id).collect();
    let ask = Ask::Elect {
        election,
        partitions: ids,
    };
    let outcome = match partitions.is_empty() {
        true => Ok(Vec::new()),
        false => broker
            .shard
            .decide(ask)
            .await
            .map(|(answer, _)| match answer {
                Answer::Each(each) => each,
                _ => Vec::new(),
            }),
    };
    for (at, (topic, id)) in partitions.iter().enumerate() {
        let result = match &outcome {
            Ok(each) => told(each.get(at).map_or(ErrorCode::UnknownServerError, |e| e.1)),
            Err(refusal) => Err(refusal.clone()),
        };
        elected.entry(topic).or_default().push((id.index, result));
    }
    if request.topic_partitions.is_none() {
        // Nobody has named it.
        let counts = |result: &Result<(), Refusal>| match result {
            Ok(()) => true,
            Err(refusal) => refusal.code != ErrorCode::ElectionNotNeeded,
        };
        for partitions in elected.values_mut() {
            partitions.retain(|(_, result)| counts(result));
        }
    }
    encode_elected(header, &elected)
}

/// The partitions that are asked for, and those of them that are not there.
fn named<'a>(
    image: &'a ClusterImage,
    election: Election,
    request: &ElectLeadersRequest<'a>,
) -> Result<(Named<'a>, Elected<'a>), String> {
    let mut missing = Elected::new();
    let Some(topics) = &request.topic_partitions else {
        return Ok((needing(image, election), missing));
    };
    let count = topics.iter().map(|t| t.partitions.len()).sum();
    super::check_items("partitions", count, PARTITIONS_MAX)?;
    let mut partitions = Vec::with_capacity(count);
    for topic in topics {
        for index in &topic.partitions {
            match find(image, topic.topic, index) {
                Ok(id) => partitions.push((topic.topic, id)),
                Err(refusal) => {
                    let of = missing.entry(topic.topic).or_default();
                    of.push((index, Err(refusal)));
                }
            }
        }
    }
    Ok((partitions, missing))
}

/// What a code of an election says.
fn told(code: ErrorCode) -> Result<(), Refusal> {
    let text = match code {
        ErrorCode::None => return Ok(()),
        ErrorCode::ElectionNotNeeded => "Leader election not needed for topic partition.",
        ErrorCode::PreferredLeaderNotAvailable => {
            "The preferred leader is not in sync, or not there."
        }
        ErrorCode::EligibleLeadersNotAvailable => "No replica of the partition is there.",
        _ => "No leader could be elected.",
    };
    Err(Refusal::new(code, text))
}

fn encode_elected(header: ResponseHeader, elected: &Elected<'_>) -> Result<Vec<Part>, String> {
    let results = elected
        .iter()
        .map(|(topic, partitions)| ReplicaElectionResult {
            topic,
            partition_result: partitions
                .iter()
                .map(|(partition_id, outcome)| PartitionResult {
                    partition_id: *partition_id,
                    error_code: outcome.as_ref().map_or_else(|r| r.code.code(), |()| 0),
                    error_message: outcome.as_ref().err().map(|r| r.text.as_str()),
                })
                .collect(),
        });
    let replica_election_results = results.collect();
    let response = ElectLeadersResponse {
        replica_election_results,
        ..ElectLeadersResponse::default()
    };
    encode(header, &response)
}

/// The partitions that an election could do something for.
fn needing(image: &ClusterImage, election: Election) -> Named<'_> {
    let needs = |p: &PartitionMeta| match election {
        Election::Preferred => p.leader != p.replicas.first().copied(),
        Election::Unclean => p.leader.is_none(),
    };
    let mut found = Vec::new();
    for topic in image.topics() {
        let partitions = image.cluster().partitions(topic.id).iter().zip(0..);
        found.extend(partitions.filter(|(p, _)| needs(p)).map(|(_, index)| {
            let topic_id = topic.id;
            (
                topic.name.as_str(),
                PartitionId {
                    topic: topic_id,
                    index,
                },
            )
        }));
    }
    found
}

/// Answers UnregisterBroker, version 0.
async fn unregister(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &UnregisterBrokerRequest,
) -> Result<Vec<Part>, String> {
    let outcome = broker
        .shard
        .decide(Ask::Unregister(NodeId(request.broker_id)))
        .await;
    let refused = outcome.err();
    let response = UnregisterBrokerResponse {
        error_code: refused.as_ref().map_or(0, |r| r.code.code()),
        error_message: refused.as_ref().map(|r| r.text.as_str()),
        ..UnregisterBrokerResponse::default()
    };
    encode(header, &response)
}
