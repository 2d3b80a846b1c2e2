//! Questions of other nodes about partitions that are led here.
//!
//! Invariants: what is answered at a time is bounded; who takes a question back, or whose
//! connection broke, waits no more in any coordinator.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use streamd_core::call::{Answer, Outcome, Question};
use streamd_core::group;
use streamd_core::machine::Token;
use streamd_core::repl::Acks;
use streamd_core::share::{self, Key};
use streamd_core::txn;
use streamd_io::Class;
use streamd_log::NewBatch;
use streamd_log::validate::{Rules, Validation};
use streamd_model::{ErrorCode, Map, NodeId, PartitionId};

use crate::Refusal;
use crate::append::AppendItem;
use crate::drive_group::GroupAsk;
use crate::drive_share::ShareAsk;
use crate::drive_txn::TxnAsk;
use crate::far_kinds::lost_code;
use crate::mesh::{Reply, Request};
use crate::peers::Packet;
use crate::read::{OffsetQuery, ReadItem};
use crate::shard::Shard;
use crate::txn::Marker;

/// Questions that are being answered; more are refused.
const SERVING_MAX: usize = 10_000;
/// The most that is read at once, bytes, unless a batch is longer.
const READ_MAX: u32 = 1 << 20;

/// Who has asked, and under what.
type Asker = (NodeId, u64);

/// What a question waits for in a coordinator of share-partitions.
type Waits = (PartitionId, Key, Token);

/// What is being answered.
#[derive(Default)]
pub(crate) struct Near {
    next: Cell<u64>,
    /// With what it waits for in a coordinator.
    serving: RefCell<Map<Asker, Option<Waits>>>,
}

impl Near {
    /// A token that nobody else on this shard has: those of clients do not begin with this bit.
    fn token(&self) -> Token {
        self.next.set(self.next.get() + 1);
        Token(1 << 63 | self.next.get())
    }

    fn waits(&self, asker: Asker, waits: Waits) {
        self.serving.borrow_mut().insert(asker, Some(waits));
    }
}

impl Shard {
    /// A node asks about a partition.
    pub(crate) fn is_asked(
        self: &Rc<Self>,
        asker: Asker,
        partition: PartitionId,
        question: Question,
    ) {
        let near = &self.far().near;
        if question == Question::Gone {
            let waited = near
                .serving
                .borrow_mut()
                .get_mut(&asker)
                .and_then(Option::take);
            return self.shares_gone(waited.into_iter().collect());
        }
        if near.serving.borrow().len() >= SERVING_MAX {
            let text = "it is asked too much at once".to_owned();
            return self.answer_to(asker, Err((lost_code(&question), text)));
        }
        near.serving.borrow_mut().insert(asker, None);
        let shard = self.clone();
        let answer = async move {
            let outcome = shard.find_answer(asker, partition, question).await;
            shard.far().near.serving.borrow_mut().remove(&asker);
            shard.answer_to(asker, outcome.map_err(|r| (r.code, r.text)));
        };
        self.env.spawn(Class::Latency, answer).detach();
    }

    fn answer_to(&self, (node, token): Asker, outcome: Outcome) {
        self.tell(node, Packet::Return { token, outcome }, None);
    }

    /// A node is not reached any more: whatever it waits for, it will ask again.
    pub(crate) fn deserted(&self, node: NodeId) {
        let mut serving = self.far().near.serving.borrow_mut();
        let of_node = serving.iter_mut().filter(|(asker, _)| asker.0 == node);
        let waited = of_node.filter_map(|(_, waits)| waits.take()).collect();
        drop(serving);
        self.shares_gone(waited);
    }

    async fn find_answer(
        self: &Rc<Self>,
        asker: Asker,
        partition: PartitionId,
        question: Question,
    ) -> Result<Answer, Refusal> {
        match question {
            Question::Marker(m) => {
                let marker = Marker {
                    partition,
                    producer: m.producer,
                    epoch: m.epoch,
                    commit: m.commit,
                    coordinator_epoch: m.coordinator_epoch,
                };
                match self.serve(Request::Markers(vec![marker])).await {
                    Reply::Markers(done) => only(done).map(|()| Answer::Done),
                    _ => Err(nothing()),
                }
            }
            Question::Txn { id, add, verify } => {
                let request = match verify {
                    true => txn::Request::Verify(add),
                    false => txn::Request::Add(add),
                };
                self.of_txn(TxnAsk {
                    partition,
                    key: id,
                    token: self.far().near.token(),
                    request,
                })
                .await
            }
            Question::Share(request) => self.of_share(asker, partition, request).await,
            Question::Member { group, member } => self
                .share_member(partition, group, &member)
                .await
                .map(Answer::Member),
            Question::Append(bytes) => self.append_of_node(partition, bytes).await,
            Question::Read { offset, bytes_max } => {
                self.read_for_node(partition, offset, bytes_max).await
            }
            Question::Offset(timestamp) => {
                let query = OffsetQuery {
                    partition,
                    leader_epoch: -1,
                    timestamp,
                    committed: false,
                };
                let found = only(self.offsets(vec![query]).await)?;
                let (offset, timestamp) = (found.offset, found.timestamp);
                Ok(Answer::Offset(offset, timestamp, found.epoch))
            }
            Question::Gone => Err(nothing()),
        }
    }

    async fn of_share(
        self: &Rc<Self>,
        asker: Asker,
        partition: PartitionId,
        request: share::Request,
    ) -> Result<Answer, Refusal> {
        let token = self.far().near.token();
        let waits = (partition, request.key.clone(), token);
        self.far().near.waits(asker, waits);
        let ask = ShareAsk {
            partition,
            key: request.key.group.clone(),
            token,
            request,
        };
        match self.serve(Request::Shares(vec![ask])).await {
            Reply::Shares(done) => only(done).map(Answer::Share),
            _ => Err(nothing()),
        }
    }

    async fn of_txn(self: &Rc<Self>, ask: TxnAsk) -> Result<Answer, Refusal> {
        let Reply::Txns(done) = self.serve(Request::Txns(vec![ask])).await else {
            return Err(nothing());
        };
        match only(done)? {
            txn::Reply::Code(ErrorCode::None) => Ok(Answer::Done),
            txn::Reply::Code(code) => Err(Refusal::new(code, code.message())),
            txn::Reply::Missing(partitions) => Ok(Answer::Missing(partitions)),
            _ => Err(nothing()),
        }
    }

    /// Whether a share group whose coordinator is here has this member.
    pub(crate) async fn share_member(
        self: &Rc<Self>,
        partition: PartitionId,
        group: std::sync::Arc<str>,
        member: &str,
    ) -> Result<bool, Refusal> {
        let ask = GroupAsk {
            partition,
            key: group,
            token: self.far().near.token(),
            request: group::Request::DescribeShare,
        };
        match only(self.ask_hosts(vec![ask]).await)? {
            group::Reply::DescribeShare(shown) => Ok(shown.members.iter().any(|m| m.id == member)),
            group::Reply::Code(code) | group::Reply::Refused(code, _) => match code {
                ErrorCode::GroupIdNotFound => Ok(false),
                code => Err(Refusal::new(code, code.message())),
            },
            _ => Ok(false),
        }
    }

    async fn append_of_node(
        self: &Rc<Self>,
        partition: PartitionId,
        bytes: Vec<u8>,
    ) -> Result<Answer, Refusal> {
        // What brokers write for themselves is not held to the rules of the topic.
        let rules = Rules {
            batch_bytes_max: bytes.len(),
            key_needed: false,
            log_append_time: false,
            before_max_ms: i64::MAX,
            after_max_ms: i64::MAX,
            now_ms: self.env.wall_ms(),
            zstd: true,
        };
        let facts = Validation::begin(&bytes, rules)?.step(u64::MAX)?;
        let facts = facts.filter(|f| !f.header.is_idempotent());
        let Some(facts) = facts else {
            let text = "a batch of a producer: that writes to the leader itself";
            return Err(Refusal::new(ErrorCode::InvalidRecord, text));
        };
        let item = AppendItem {
            partition,
            batch: NewBatch {
                bytes: bytes.into(),
                facts,
            },
            guard: None,
            acks: Acks::All,
        };
        let done = self.append(vec![item]).settled().await;
        only(done).map(|placed| Answer::Placed(placed.base))
    }

    async fn read_for_node(
        &self,
        partition: PartitionId,
        offset: i64,
        bytes_max: u32,
    ) -> Result<Answer, Refusal> {
        let item = ReadItem {
            partition,
            offset,
            bytes_max: bytes_max.min(READ_MAX) as usize,
            leader_epoch: -1,
            last_fetched_epoch: -1,
            committed: false,
            follower_too: false,
        };
        let read = self.read_bytes(vec![item]).await.pop();
        let bytes = read.ok_or_else(nothing)?.bytes?;
        Ok(Answer::Records(bytes.to_vec()))
    }
}

/// What came of the only item.
fn only<T>(mut done: Vec<Result<T, Refusal>>) -> Result<T, Refusal> {
    done.pop().unwrap_or_else(|| Err(nothing()))
}

fn nothing() -> Refusal {
    Refusal::new(ErrorCode::UnknownServerError, "there is no answer")
}
