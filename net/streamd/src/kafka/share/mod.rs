//! Share groups (KIP-932): membership, sessions, records, and what operators ask.
//!
//! Members are known to the coordinator of the group; which records are whose to that of the
//! share-partition, on the shard that owns its partition of `__share_group_state`. A handler asks
//! both, and reads the records where they lie. Whoever goes away while it waits withdraws its
//! requests, and what its session had is free again.

pub mod acknowledge;
pub mod fetch;
pub mod members;
pub mod offsets;
mod records;
pub mod session;

use std::rc::Rc;
use std::sync::Arc;

use streamd_core::group::{Reply as GroupReply, Request as GroupRequest, Token};
use streamd_core::share::{Ack, AckBatch, Ask, Key, Reply, Request, STATE_TOPIC, state_partition};
use streamd_io::{Class, Part};
use streamd_model::{ErrorCode, PartitionId, ShardId, TopicId};
use streamd_shard::{
    Answering, ByHome, Home, Reply as ShardReply, Request as ShardRequest, ShareAsk,
};

use streamd_wire::kafka::{ApiKey, Frame, ResponseHeader};

use super::group;
use super::internal::{self, Internal};
use crate::broker::Broker;

/// The most acknowledgement types of a request: what is made of them takes more memory.
const ACKS_MAX: usize = 4_000_000;

/// What became of a request: a code with a sentence when it failed.
pub(super) type Done = Result<Reply, (ErrorCode, String)>;

/// Where the coordinator of a share-partition lives.
fn place(broker: &Broker, key: &Key) -> Option<(Home, PartitionId)> {
    let image = broker.shard.image();
    let topic = image.topic(STATE_TOPIC)?;
    let partition = PartitionId {
        topic: topic.id,
        index: state_partition(key, topic.partitions),
    };
    Some((broker.shard.home(partition), partition))
}

/// Answers what is asked about share groups. `host` is the client's, `key` the connection's.
pub async fn answer(
    broker: &Rc<Broker>,
    (host, key): (&str, u64),
    frame: &Frame<'_>,
) -> Result<Vec<Part>, String> {
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
        ApiKey::ShareGroupHeartbeat => {
            members::heartbeat(broker, &frame.header, host, decoded!()).await
        }
        ApiKey::ShareGroupDescribe => members::describe(broker, header, decoded!()).await,
        ApiKey::ShareFetch => fetch::handle(broker, &frame.header, key, decoded!()).await,
        ApiKey::ShareAcknowledge => acknowledge::handle(broker, header, decoded!()).await,
        ApiKey::DescribeShareGroupOffsets => offsets::describe(broker, header, decoded!()).await,
        ApiKey::AlterShareGroupOffsets => offsets::alter(broker, header, decoded!()).await,
        ApiKey::DeleteShareGroupOffsets => offsets::delete(broker, header, decoded!()).await,
        _ => Err(format!("{} is not served", api.name())),
    }
}

/// Requests that wait here; withdrawn when this is dropped. Those that wait on other nodes are
/// withdrawn when their answers are.
struct Waiting {
    broker: Rc<Broker>,
    asked: Vec<(ShardId, PartitionId, Key, Token)>,
}

impl Waiting {
    fn new(broker: &Rc<Broker>) -> Waiting {
        Waiting {
            broker: broker.clone(),
            asked: Vec::new(),
        }
    }

    /// Begins requests, one message for each shard. With each answer come the places of its
    /// requests in the list.
    async fn begin(&mut self, requests: Vec<Request>) -> Vec<(Vec<usize>, Answering)> {
        let mut by_home: ByHome<ShareAsk> = ByHome::new();
        for (at, request) in requests.into_iter().enumerate() {
            let Some((home, partition)) = place(&self.broker, &request.key) else {
                continue;
            };
            let token = self.broker.new_token();
            let key = request.key.clone();
            if let Home::Here(owner) = home {
                self.asked.push((owner, partition, key, token));
            }
            let (places, asks) = by_home.entry(home).or_default();
            places.push(at);
            asks.push(ShareAsk {
                partition,
                key: request.key.group.clone(),
                token,
                request,
            });
        }
        let mut begun = Vec::new();
        for (home, (places, asks)) in by_home {
            let asked = ShardRequest::Shares(asks);
            begun.push((places, self.broker.shard.begin_at(home, asked).await));
        }
        begun
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let asked = std::mem::take(&mut self.asked);
        if asked.is_empty() {
            return;
        }
        let shard = self.broker.shard.clone();
        let env = shard.env.clone();
        env.spawn(Class::Latency, async move {
            let mut by_shard: Vec<(ShardId, Vec<_>)> = Vec::new();
            for (owner, partition, key, token) in asked {
                match by_shard.iter_mut().find(|(o, _)| *o == owner) {
                    Some((_, all)) => all.push((partition, key, token)),
                    None => by_shard.push((owner, vec![(partition, key, token)])),
                }
            }
            for (owner, all) in by_shard {
                // When the shard has stopped, so has its coordinator.
                let _ = shard.ask(owner, ShardRequest::SharesGone(all)).await;
            }
        })
        .detach();
    }
}

/// Asks the coordinators of share-partitions; answers in the order of the requests.
async fn ask_all(broker: &Rc<Broker>, requests: Vec<Request>) -> Vec<Done> {
    let lost = ErrorCode::CoordinatorNotAvailable;
    let mut done: Vec<Done> = vec![Err((lost, lost.message().to_owned())); requests.len()];
    let made = internal::make(broker, Internal::Shares).await;
    if made.is_err() {
        return done;
    }
    let mut waiting = Waiting::new(broker);
    for (places, answer) in waiting.begin(requests).await {
        let Some(ShardReply::Shares(found)) = answer.await else {
            continue;
        };
        for (at, one) in places.into_iter().zip(found) {
            done[at] = match one {
                Ok(Reply::Code(ErrorCode::None)) => Ok(Reply::Code(ErrorCode::None)),
                Ok(Reply::Code(code)) => Err((code, code.message().to_owned())),
                Ok(Reply::Refused(code, text)) => Err((code, text)),
                Ok(reply) => Ok(reply),
                Err(refusal) => Err((refusal.code, refusal.text)),
            };
        }
    }
    waiting.asked.clear();
    done
}

/// Asks about one share-partition.
async fn ask(broker: &Rc<Broker>, key: Key, ask: Ask) -> Done {
    let mut done = ask_all(broker, vec![Request { key, ask }]).await;
    let lost = ErrorCode::CoordinatorNotAvailable;
    done.pop().unwrap_or(Err((lost, lost.message().to_owned())))
}

/// The topics of which a share group has share-partitions, and whether it has no members.
async fn topics_of(
    broker: &Rc<Broker>,
    name: &str,
) -> Result<(streamd_core::group::ShareTopics, bool), (ErrorCode, String)> {
    match group::ask(broker, name, GroupRequest::ShareTopics).await {
        Ok(GroupReply::ShareTopics(topics, is_empty)) => Ok((topics, is_empty)),
        other => {
            let code = match other {
                Ok(GroupReply::Code(code) | GroupReply::Refused(code, _)) | Err(code) => code,
                Ok(_) => ErrorCode::UnknownServerError,
            };
            let text = match code {
                ErrorCode::GroupIdNotFound => format!("Share group {name} not found."),
                code => code.message().to_owned(),
            };
            Err((code, text))
        }
    }
}

/// Forgets all share-partitions of a share group without members, before it is deleted.
pub(super) async fn forget_group(broker: &Rc<Broker>, name: &str) {
    let Ok((topics, true)) = topics_of(broker, name).await else {
        return;
    };
    let group: Arc<str> = name.into();
    let keys = topics.iter().flat_map(|(topic, (_, partitions))| {
        let key = |partition: &i32| Key {
            group: group.clone(),
            topic: *topic,
            partition: *partition,
        };
        partitions.iter().map(key).collect::<Vec<_>>()
    });
    let forget = |key| Request {
        key,
        ask: Ask::Forget,
    };
    let requests: Vec<_> = keys.map(forget).collect();
    if !requests.is_empty() {
        ask_all(broker, requests).await;
    }
}

/// Who acknowledges what, in one partition.
pub(super) struct Said {
    topic: TopicId,
    partition: i32,
    batches: Vec<AckBatch>,
}

/// Reads the acknowledgements of one partition. `kinds_left`: how many more there may be.
fn said(
    topic: TopicId,
    partition: i32,
    batches: impl Iterator<Item = (i64, i64, Vec<i8>)>,
    kinds_left: &mut usize,
) -> Result<Option<Said>, (ErrorCode, String)> {
    let mut all = Vec::new();
    for (first, last, codes) in batches {
        let left = kinds_left.checked_sub(codes.len().max(1));
        *kinds_left = left.ok_or_else(|| {
            let text = format!("More than {ACKS_MAX} acknowledgement types in a request.");
            (ErrorCode::InvalidRequest, text)
        })?;
        let kinds = codes.iter().map(|code| {
            Ack::from_code(*code).ok_or_else(|| {
                let text = format!("Acknowledgement type {code} is not known: 0 to 4 are.");
                (ErrorCode::InvalidRequest, text)
            })
        });
        let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
        all.push(AckBatch { first, last, kinds });
    }
    Ok((!all.is_empty()).then_some(Said {
        topic,
        partition,
        batches: all,
    }))
}

impl Said {
    fn renews(&self) -> bool {
        let mut kinds = self.batches.iter().flat_map(|b| &b.kinds);
        kinds.any(|k| *k == Ack::Renew)
    }
}

/// Tells coordinators what a member acknowledges; what became of each, in order.
async fn settle(
    broker: &Rc<Broker>,
    (group, member): (&Arc<str>, &Arc<str>),
    all: Vec<Said>,
) -> Vec<((TopicId, i32), Result<(), (ErrorCode, String)>)> {
    let places: Vec<_> = all.iter().map(|s| (s.topic, s.partition)).collect();
    let requests = all.into_iter().map(|s| Request {
        key: Key {
            group: group.clone(),
            topic: s.topic,
            partition: s.partition,
        },
        ask: Ask::Acknowledge(member.clone(), s.batches),
    });
    let image = broker.shard.image();
    let done = ask_all(broker, requests.collect()).await;
    let results = places.into_iter().zip(done).map(|(place, done)| {
        let exists = image
            .topic_by_id(place.0)
            .is_some_and(|t| place.1 < t.partitions);
        let result = match done {
            _ if !exists => {
                let code = ErrorCode::UnknownTopicOrPartition;
                Err((code, code.message().to_owned()))
            }
            done => done.map(drop),
        };
        (place, result)
    });
    results.collect()
}

/// What a session had is free again. `unseen`: its member ended it, and did not look at it.
async fn release(broker: Rc<Broker>, ended: session::Ended, unseen: bool) {
    let (group, member) = (ended.group, ended.member);
    let requests = ended
        .partitions
        .into_iter()
        .map(|(topic, partition)| Request {
            key: Key {
                group: group.clone(),
                topic,
                partition,
            },
            ask: Ask::Release(member.clone(), unseen),
        });
    let requests: Vec<_> = requests.collect();
    if !requests.is_empty() {
        ask_all(&broker, requests).await;
    }
}

/// A connection has ended, and with it the sessions that it had.
pub fn disconnected(broker: &Rc<Broker>, connection: u64) {
    let ended = broker.shares.borrow_mut().end_of(connection);
    for one in ended {
        let task = release(broker.clone(), one, false);
        broker.shard.env.spawn(Class::Latency, task).detach();
    }
}
