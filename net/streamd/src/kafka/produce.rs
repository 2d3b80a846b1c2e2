//! Produce, versions 3 to 13 (KIP-98 and later): parsed in place, validated, grouped by owning
//! shard, one message each. The reply is encoded from the request's own bytes when all is durable.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use streamd_core::meta::TopicMeta;
use streamd_core::repl::Acks;
use streamd_io::Part;
use streamd_log::validate::{Rules, Validation};
use streamd_log::{BatchError, NewBatch};
use streamd_model::{ErrorCode, PartitionId, ShardId};
use streamd_shard::append::sent;
use streamd_shard::{AppendDone, AppendItem, GuardAsk, Placed, Refusal, Reply, Request, Ticket};
use streamd_wire::kafka::generated::produce_request::{ProduceRequest, TopicProduceData};
use streamd_wire::kafka::generated::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
    ProduceResponse, TopicProduceResponse,
};
use streamd_wire::kafka::{Frame, ResponseHeader, Writer};

use super::leaders::Leaders;
use super::txn;
use super::txn::confirm::{Knows, Wanted};
use crate::broker::Broker;
use crate::conn::LaterReply;

/// Records are walked so far, uncompressed bytes, before others get a turn.
const STEP: u64 = 256 << 10;

/// From this version on a client is told who leads instead.
const LEADERS_FROM: i16 = 10;

/// A request whose batches have their place in the order, and the reply to come.
pub struct Accepted {
    /// Ready when everything is durable. `None`: close the connection.
    pub reply: LaterReply,
    /// False for acks=0: nothing is sent.
    pub answered: bool,
}

enum Slot {
    Known(AppendDone),
    /// Item `.1` of group `.0`.
    Sent(usize, usize),
}

enum Group {
    Local(Ticket),
    Remote(std::pin::Pin<Box<dyn Future<Output = Option<Reply>>>>),
}

/// Accepts a produce request; `frame` is the whole frame without its length.
pub async fn accept(broker: &Rc<Broker>, bytes: Bytes) -> Result<Accepted, String> {
    hold_back(broker).await;
    let frame = Frame::parse(&bytes).map_err(|e| e.to_string())?;
    let request: ProduceRequest<'_> = frame.decode().map_err(|e| format!("Produce: {e}"))?;
    let version = frame.header.version;
    let acks = request.acks;
    let mut checked = Vec::new();
    for topic in &request.topic_data {
        let found = find_topic(broker, &topic, version);
        for partition in &topic.partition_data {
            let records = partition.records.map(|r| bytes.slice_ref(r.bytes()));
            checked.push(match (&found, acks) {
                (_, acks) if !(-1..=1).contains(&acks) => Err(wrong_acks(acks)),
                (Err(refusal), _) => Err(refusal.clone()),
                (Ok(topic), _) => {
                    check(broker, topic, partition.index, (records, version, acks)).await
                }
            });
        }
    }
    confirm(broker, request.transactional_id, version, &mut checked).await;
    let placing = place(broker, checked).await;
    let broker = broker.clone();
    let reply = async move {
        let outcomes = placing.settled().await;
        if acks == 0 {
            return outcomes.iter().all(Result::is_ok).then(Vec::new);
        }
        encode(&broker, &bytes, &outcomes)
    };
    Ok(Accepted {
        reply: Box::pin(reply),
        answered: acks != 0,
    })
}

/// Slows a connection down while the disk is nearly full: not every client waits when it is asked
/// to.
pub async fn hold_back(broker: &Broker) {
    let throttle_ms = broker.shard.disk.throttle_ms();
    if throttle_ms > 0 {
        let pause = Duration::from_millis(throttle_ms.unsigned_abs().into());
        broker.shard.env.sleep(pause).await;
    }
}

/// Why these acks are refused.
pub fn wrong_acks(acks: i16) -> Refusal {
    let text = format!("acks={acks}; -1 (all), 0 and 1 are allowed");
    Refusal::new(ErrorCode::InvalidRequiredAcks, text)
}

/// Batches that have their place in the order.
pub struct Placing {
    groups: Vec<Group>,
    slots: Vec<Slot>,
}

impl Placing {
    /// What became of each, in order, when all is durable.
    pub async fn settled(self) -> Vec<AppendDone> {
        settle(self.groups, self.slots).await
    }
}

/// Hands batches that were checked to those who own their partitions, in order.
pub async fn place(broker: &Rc<Broker>, checked: Vec<Result<AppendItem, Refusal>>) -> Placing {
    let mut items: Vec<Vec<AppendItem>> = (0..broker.shard.mesh.shards()).map(|_| vec![]).collect();
    let mut slots = Vec::with_capacity(checked.len());
    for one in checked {
        slots.push(match one {
            Err(refusal) => Slot::Known(Err(refusal)),
            Ok(item) => {
                let owner = usize::from(broker.shard.owner(item.partition).0);
                items[owner].push(item);
                Slot::Sent(owner, items[owner].len() - 1)
            }
        });
    }
    let mut groups = Vec::with_capacity(items.len());
    for (owner, items) in items.into_iter().enumerate() {
        groups.push(send(broker, ShardId(owner as u16), items).await);
    }
    Placing { groups, slots }
}

fn find_topic(
    broker: &Broker,
    topic: &TopicProduceData<'_>,
    version: i16,
) -> Result<std::sync::Arc<TopicMeta>, Refusal> {
    let image = broker.shard.image();
    if version >= 13 {
        return image.topic_by_id(topic.topic_id).cloned().ok_or_else(|| {
            let text = format!("no topic with id {}", topic.topic_id);
            Refusal::new(ErrorCode::UnknownTopicId, text)
        });
    }
    image.topic(topic.name).cloned().ok_or_else(|| {
        let text = format!("no topic named {:?}", topic.name);
        Refusal::new(ErrorCode::UnknownTopicOrPartition, text)
    })
}

/// Validates the batch for one partition.
pub async fn check(
    broker: &Broker,
    topic: &TopicMeta,
    index: i32,
    (records, version, acks): (Option<Bytes>, i16, i16),
) -> Result<AppendItem, Refusal> {
    if topic.is_internal() {
        // It is the log of a state machine here: only that may write to it.
        let text = format!("{} is written by the broker alone", topic.name);
        return Err(Refusal::new(ErrorCode::InvalidTopicException, text));
    }
    if index < 0 || index >= topic.partitions {
        let text = format!("{} has no partition {index}", topic.name);
        return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, text));
    }
    let Some(bytes) = records.filter(|r| !r.is_empty()) else {
        return Err(Refusal::new(
            ErrorCode::InvalidRecord,
            "a partition without a record batch",
        ));
    };
    let config = &topic.config;
    let rules = Rules {
        batch_bytes_max: config.max_message_bytes as usize,
        key_needed: config.compact,
        log_append_time: config.log_append_time,
        before_max_ms: config.timestamp_before_max_ms,
        after_max_ms: config.timestamp_after_max_ms,
        now_ms: broker.shard.env.wall_ms(),
        zstd: version >= 7,
    };
    let facts = validate(broker, &bytes, rules).await?;
    let partition = PartitionId {
        topic: topic.id,
        index,
    };
    Ok(AppendItem {
        partition,
        batch: NewBatch { bytes, facts },
        guard: None,
        acks: match acks {
            -1 => Acks::All,
            // Nobody is told with 0, but what is read next waits for the disk.
            _ => Acks::Leader,
        },
    })
}

/// Has the coordinator confirm what belongs to a transaction and begins it in its partition.
pub async fn confirm(
    broker: &Rc<Broker>,
    id: Option<&str>,
    version: i16,
    checked: &mut [Result<AppendItem, Refusal>],
) {
    let knows = match version {
        ..=10 => Knows::Little,
        11 => Knows::Abortable,
        _ => Knows::Adding,
    };
    let mut wanted = Vec::new();
    let mut places = Vec::new();
    let image = broker.shard.image();
    for (at, one) in checked.iter_mut().enumerate() {
        let Ok(item) = one else { continue };
        let header = item.batch.facts.header;
        if !header.is_transactional() {
            continue;
        }
        let (Some(_), Some(topic)) = (id, image.topic_by_id(item.partition.topic)) else {
            let text = "a transactional batch in a request without a transactional id";
            let code = ErrorCode::TransactionalIdAuthorizationFailed;
            *one = Err(Refusal::new(code, text));
            continue;
        };
        let ask = GuardAsk {
            partition: item.partition,
            sent: sent(&header),
        };
        let topic = topic.name.as_str().into();
        wanted.push(Wanted { ask, topic });
        places.push(at);
    }
    let Some(id) = id.filter(|_| !wanted.is_empty()) else {
        return;
    };
    let confirmed = txn::confirm::confirm(broker, id, knows, &wanted).await;
    for (at, done) in places.into_iter().zip(confirmed) {
        match (done, &mut checked[at]) {
            (Ok(guard), Ok(item)) => item.guard = guard,
            (Err(refusal), one) => *one = Err(refusal),
            (Ok(_), Err(_)) => {}
        }
    }
}

async fn validate(
    broker: &Broker,
    bytes: &[u8],
    rules: Rules,
) -> Result<streamd_log::validate::Facts, BatchError> {
    let mut validation = Validation::begin(bytes, rules)?;
    loop {
        if let Some(facts) = validation.step(STEP)? {
            return Ok(facts);
        }
        broker.shard.env.yield_if_needed().await;
    }
}

async fn send(broker: &Rc<Broker>, owner: ShardId, items: Vec<AppendItem>) -> Group {
    if owner == broker.shard.mesh.id() || items.is_empty() {
        return Group::Local(broker.shard.append(items));
    }
    Group::Remote(Box::pin(
        broker.shard.mesh.call(owner, Request::Append(items)).await,
    ))
}

async fn settle(groups: Vec<Group>, slots: Vec<Slot>) -> Vec<AppendDone> {
    let mut settled: Vec<Vec<Option<AppendDone>>> = Vec::with_capacity(groups.len());
    for group in groups {
        let done = match group {
            Group::Local(ticket) => ticket.settled().await,
            Group::Remote(answer) => match answer.await {
                Some(Reply::Append(done)) => done,
                _ => Vec::new(),
            },
        };
        settled.push(done.into_iter().map(Some).collect());
    }
    slots
        .into_iter()
        .map(|slot| match slot {
            Slot::Known(done) => done,
            Slot::Sent(group, at) => settled[group]
                .get_mut(at)
                .and_then(Option::take)
                .unwrap_or_else(|| {
                    let text = "the owning core has stopped";
                    Err(Refusal::new(ErrorCode::NotLeaderOrFollower, text))
                }),
        })
        .collect()
}

/// Encodes the reply, walking the request once more for names and indexes.
fn encode(broker: &Broker, bytes: &Bytes, outcomes: &[AppendDone]) -> Option<Vec<Part>> {
    let frame = Frame::parse(bytes).ok()?;
    let request: ProduceRequest<'_> = frame.decode().ok()?;
    let mut outcomes = outcomes.iter();
    let mut leaders = Leaders::new(broker);
    let tells = frame.header.version >= LEADERS_FROM;
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for topic in &request.topic_data {
        let mut partitions = Vec::with_capacity(topic.partition_data.len());
        for p in &topic.partition_data {
            let mut response = partition_response(p.index, outcomes.next()?);
            if tells && response.error_code != 0 {
                let topic = (topic.name, topic.topic_id);
                let (id, epoch) = leaders.of(response.error_code, topic, p.index);
                response.current_leader = LeaderIdAndEpoch {
                    leader_id: id,
                    leader_epoch: epoch,
                };
            }
            partitions.push(response);
        }
        topics.push(TopicProduceResponse {
            name: topic.name,
            topic_id: topic.topic_id,
            partition_responses: partitions.into(),
        });
    }
    let nodes = leaders.nodes();
    let response = ProduceResponse {
        responses: topics.into(),
        throttle_time_ms: broker.shard.disk.throttle_ms(),
        node_endpoints: nodes
            .iter()
            .map(|n| NodeEndpoint {
                node_id: n.node,
                host: n.host,
                port: i32::from(n.port),
                rack: n.rack,
            })
            .collect(),
    };
    let mut writer = Writer::append_to(Vec::with_capacity(256));
    match ResponseHeader::from(&frame.header).encode(&response, &mut writer) {
        Ok(()) => Some(vec![Part::Bytes(Bytes::from(writer.into_parts().0))]),
        Err(e) => {
            broker.complain_text(&format!("cannot encode a Produce response: {e}"));
            None
        }
    }
}

fn partition_response(index: i32, outcome: &AppendDone) -> PartitionProduceResponse<'_> {
    match outcome {
        Ok(Placed {
            base,
            log_append_ms,
            log_start,
            ..
        }) => PartitionProduceResponse {
            index,
            base_offset: *base,
            log_append_time_ms: *log_append_ms,
            log_start_offset: *log_start,
            ..PartitionProduceResponse::default()
        },
        Err(refusal) => PartitionProduceResponse {
            index,
            error_code: refusal.code.code(),
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            error_message: Some(&refusal.text),
            record_errors: refusal
                .records
                .iter()
                .map(|&batch_index| BatchIndexAndErrorMessage {
                    batch_index,
                    batch_index_error_message: Some(&refusal.text),
                })
                .collect(),
            ..PartitionProduceResponse::default()
        },
    }
}
