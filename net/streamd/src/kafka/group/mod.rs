//! Groups: FindCoordinator, membership, offsets, and what operators ask.
//!
//! A request is decoded here and goes to the shard that owns the group's partition of
//! `__consumer_offsets`, as one message for all of that shard's groups. Whoever goes away while
//! it waits withdraws its request.

pub mod admin;
pub mod consumer;
pub mod find;
pub mod member;
pub mod offsets;

use std::rc::Rc;
use std::sync::Arc;

use streamd_core::group::{Parts, Reply, Request, Token};
use streamd_io::Class;
use streamd_model::{ErrorCode, PartitionId, ShardId, TopicId};
use streamd_shard::{GroupAsk, Reply as ShardReply, Request as ShardRequest};

use super::internal::Internal;
use super::runs;
use crate::broker::Broker;

/// The most members, protocols, topics or groups that one request may name, and the most
/// partitions of a topic: what is made of them takes more memory than they took in the request.
const ITEMS_MAX: usize = 100_000;

/// Refuses a request that names too much; the connection is closed.
pub(super) fn check_items(what: &str, count: usize) -> Result<(), String> {
    super::check_items(what, count, ITEMS_MAX)
}

/// What became of a request to a coordinator.
pub type Done = Result<Reply, ErrorCode>;

/// Requests that wait; withdrawn when this is dropped before the answers came.
struct Waiting {
    broker: Rc<Broker>,
    asked: Vec<(ShardId, PartitionId, Token)>,
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
            for (owner, partition, token) in asked {
                let request = ShardRequest::GroupGone(partition, token);
                // When the shard has stopped, so has its coordinator.
                let _ = shard.ask(owner, request).await;
            }
        })
        .detach();
    }
}

/// Asks the coordinator of one group.
pub async fn ask(broker: &Rc<Broker>, group: &str, request: Request) -> Done {
    let mut done = ask_all(broker, vec![(group.into(), request)]).await;
    done.pop()
        .unwrap_or(Err(ErrorCode::CoordinatorNotAvailable))
}

/// Asks the coordinators of groups; answers in the order of the requests.
pub(super) async fn ask_all(broker: &Rc<Broker>, requests: Vec<(Arc<str>, Request)>) -> Vec<Done> {
    let image = broker.shard.image();
    let mut done: Vec<Done> = vec![Err(ErrorCode::NotCoordinator); requests.len()];
    let mut waiting = Waiting {
        broker: broker.clone(),
        asked: Vec::new(),
    };
    let shards = broker.shard.mesh.shards();
    let mut by_shard: Vec<(Vec<usize>, Vec<GroupAsk>)> = Vec::new();
    by_shard.resize_with(shards, Default::default);
    for (at, (group, request)) in requests.into_iter().enumerate() {
        let Some(partition) = Internal::Offsets.partition(&image, &group) else {
            return done;
        };
        let owner = broker.shard.owner(partition);
        let token = broker.new_token();
        waiting.asked.push((owner, partition, token));
        let (places, asks) = &mut by_shard[usize::from(owner.0)];
        places.push(at);
        asks.push(GroupAsk {
            partition,
            key: group,
            token,
            request,
        });
    }
    let mut begun = Vec::new();
    for (owner, (places, asks)) in by_shard.into_iter().enumerate() {
        if !asks.is_empty() {
            let answer = broker.begin(owner, ShardRequest::Groups(asks)).await;
            begun.push((places, answer));
        }
    }
    for (places, answer) in begun {
        let Some(ShardReply::Groups(found)) = answer.await else {
            continue;
        };
        for (at, one) in places.into_iter().zip(found) {
            done[at] = one.map_err(|refusal| refusal.code);
        }
    }
    waiting.asked.clear();
    done
}

/// The code of an answer that is nothing but a code.
pub fn code_of(done: &Done) -> ErrorCode {
    match done {
        Ok(Reply::Code(code) | Reply::Refused(code, _)) | Err(code) => *code,
        Ok(_) => ErrorCode::None,
    }
}

/// A sentence about what went wrong.
pub(super) fn message(done: &Done) -> &str {
    match done {
        Ok(Reply::Refused(_, text)) => text,
        other => code_of(other).message(),
    }
}

/// Hands on a heartbeat of a protocol with assignments by the server, if the broker is told to
/// speak it.
pub(super) async fn beat(
    broker: &Rc<Broker>,
    group: &str,
    protocol: &str,
    request: Request,
) -> Done {
    let image = broker.shard.image();
    let protocols = &image.broker().groups.protocols;
    match protocols.iter().any(|p| p == protocol) {
        true => ask(broker, group, request).await,
        false => Ok(Reply::Refused(
            ErrorCode::UnsupportedVersion,
            format!("group.coordinator.rebalance.protocols does not name {protocol}."),
        )),
    }
}

/// The partitions of each topic, as answers have them.
pub(super) fn by_topic(parts: &Parts) -> Vec<(TopicId, Vec<i32>)> {
    runs(parts.iter().copied())
}
