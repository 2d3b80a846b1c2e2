//! Transactions: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, EndTxn, TxnOffsetCommit, and
//! what operators ask.
//!
//! A request is decoded here and goes to the shard that owns the transactional id's partition of
//! `__transaction_state`.

pub mod add;
pub mod admin;
pub mod commit;
pub mod confirm;
pub mod end;

use std::rc::Rc;

use streamd_core::txn::{Reply, Request};
use streamd_model::ErrorCode;
use streamd_shard::{Home, Reply as ShardReply, Request as ShardRequest, TxnAsk};

use super::internal::Internal;
use crate::broker::Broker;

/// The most partitions, topics or transactions that one request may name.
const ITEMS_MAX: usize = 20_000;

/// What became of a request to a coordinator.
type Done = Result<Reply, ErrorCode>;

/// Refuses a request that names too much; the connection is closed.
fn check_items(what: &str, count: usize) -> Result<(), String> {
    super::check_items(what, count, ITEMS_MAX)
}

/// Asks the coordinator of a transactional id, if it is on this node: its clients know where it is.
async fn ask(broker: &Rc<Broker>, id: &str, request: Request) -> Done {
    ask_at(broker, id, request, true).await
}

/// Asks the coordinator of a transactional id, wherever it is unless `here` is wanted.
async fn ask_at(broker: &Rc<Broker>, id: &str, request: Request, here: bool) -> Done {
    let image = broker.shard.image();
    let partition = Internal::Txns.partition(&image, id);
    let partition = partition.ok_or(ErrorCode::NotCoordinator)?;
    let ask = TxnAsk {
        partition,
        key: id.into(),
        token: broker.new_token(),
        request,
    };
    let home = match here {
        true => Home::Here(broker.shard.owner(partition)),
        false => broker.shard.home(partition),
    };
    let asked = ShardRequest::Txns(vec![ask]);
    let answer = broker.shard.begin_at(home, asked).await;
    match answer.await {
        Some(ShardReply::Txns(mut done)) => match done.pop() {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(refusal)) => Err(refusal.code),
            None => Err(ErrorCode::CoordinatorNotAvailable),
        },
        _ => Err(ErrorCode::CoordinatorNotAvailable),
    }
}

/// Asks something that may need a new producer id, which `with` puts in.
async fn ask_with_id(broker: &Rc<Broker>, id: &str, with: impl Fn(Option<i64>) -> Request) -> Done {
    let done = ask(broker, id, with(None)).await?;
    if done != Reply::NeedsProducer {
        return Ok(done);
    }
    let fresh = super::cluster::next_producer_id(broker).await?;
    ask(broker, id, with(Some(fresh))).await
}

/// The code of an answer.
fn code_of(done: &Done) -> ErrorCode {
    match done {
        Ok(Reply::Code(code)) | Err(code) => *code,
        Ok(_) => ErrorCode::None,
    }
}

/// Before these versions clients know PRODUCER_FENCED by its older name.
fn fenced(code: ErrorCode, known: bool) -> ErrorCode {
    match code {
        ErrorCode::ProducerFenced if !known => ErrorCode::InvalidProducerEpoch,
        code => code,
    }
}
