//! Before the first batch of a transaction goes to a partition the coordinator confirms that the
//! partition is in the transaction, or takes it in (KIP-890).

use std::rc::Rc;

use streamd_core::txn::{Add, Partitions, Reply, Request};
use streamd_model::ErrorCode;
use streamd_shard::{GuardAsk, GuardDone, Refusal, Reply as ShardReply, Request as ShardRequest};

use super::{ask_at, code_of};
use crate::broker::Broker;

/// What a client that writes in transactions knows, from the version of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knows {
    /// INVALID_TXN_STATE and nothing newer.
    Little,
    /// TRANSACTION_ABORTABLE.
    Abortable,
    /// That partitions come into the transaction by being written to.
    Adding,
}

/// A batch that is about to be written, and the name of its topic.
pub struct Wanted {
    /// The batch.
    pub ask: GuardAsk,
    /// The topic.
    pub topic: Rc<str>,
}

/// Confirms that batches belong to a transaction of `id`. For each a guard, if it needs one.
pub async fn confirm(
    broker: &Rc<Broker>,
    id: &str,
    knows: Knows,
    wanted: &[Wanted],
) -> Vec<GuardDone> {
    let mut guards = guards(broker, wanted).await;
    let mut by_producer: Vec<((i64, i16), Partitions)> = Vec::new();
    for (w, guard) in wanted.iter().zip(&guards) {
        if !matches!(guard, Ok(Some(_))) {
            continue;
        }
        let who = (w.ask.sent.producer.0, w.ask.sent.epoch);
        let at = by_producer.iter().position(|p| p.0 == who);
        let at = at.unwrap_or_else(|| {
            by_producer.push((who, Partitions::new()));
            by_producer.len() - 1
        });
        let topic = by_producer[at].1.entry((*w.topic).into()).or_default();
        topic.insert(w.ask.partition.index);
    }
    for ((producer, epoch), partitions) in by_producer {
        let add = Add {
            producer,
            epoch,
            partitions,
            version: 2,
        };
        let request = match knows {
            Knows::Adding => Request::Add(add),
            _ => Request::Verify(add),
        };
        let done = ask_at(broker, id, request, false).await;
        for (w, guard) in wanted.iter().zip(&mut guards) {
            let same = (w.ask.sent.producer.0, w.ask.sent.epoch) == (producer, epoch);
            if !same || !matches!(guard, Ok(Some(_))) {
                continue;
            }
            let missing = matches!(&done, Ok(Reply::Missing(all)) if all
                .get(&*w.topic)
                .is_some_and(|indexes| indexes.contains(&w.ask.partition.index)));
            let code = match missing {
                true => ErrorCode::TransactionAbortable,
                false => code_of(&done),
            };
            if code.is_err() {
                *guard = Err(refusal(code, knows, w));
            }
        }
    }
    guards
}

async fn guards(broker: &Rc<Broker>, wanted: &[Wanted]) -> Vec<GuardDone> {
    let shards = broker.shard.mesh.shards();
    let mut groups: Vec<(Vec<usize>, Vec<GuardAsk>)> = vec![Default::default(); shards];
    for (at, w) in wanted.iter().enumerate() {
        let owner = usize::from(broker.shard.owner(w.ask.partition).0);
        groups[owner].0.push(at);
        groups[owner].1.push(w.ask);
    }
    let stopped = || {
        let text = "the owning core has stopped";
        Err(Refusal::new(ErrorCode::NotLeaderOrFollower, text))
    };
    let mut done: Vec<GuardDone> = wanted.iter().map(|_| stopped()).collect();
    for (owner, (places, asks)) in groups.into_iter().enumerate() {
        if asks.is_empty() {
            continue;
        }
        let answer = broker.begin(owner, ShardRequest::TxnGuards(asks)).await;
        if let Some(ShardReply::TxnGuards(found)) = answer.await {
            for (at, one) in places.into_iter().zip(found) {
                done[at] = one;
            }
        }
    }
    done
}

/// What a producer is told: what is temporary in a way that it tries again, as Kafka has it.
fn refusal(code: ErrorCode, knows: Knows, wanted: &Wanted) -> Refusal {
    let code = match code {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if knows == Knows::Little => ErrorCode::InvalidTxnState,
        ErrorCode::ConcurrentTransactions if knows != Knows::Adding => ErrorCode::NotEnoughReplicas,
        ErrorCode::NotCoordinator
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::CoordinatorLoadInProgress => ErrorCode::NotEnoughReplicas,
        code => code,
    };
    let text = format!(
        "{}-{} of producer {} epoch {}: {}",
        wanted.topic,
        wanted.ask.partition.index,
        wanted.ask.sent.producer.0,
        wanted.ask.sent.epoch,
        code.message()
    );
    Refusal::new(code, text)
}
