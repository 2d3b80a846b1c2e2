//! Requests to whoever leads a partition: a shard here, or another node.
//!
//! Invariants: who waits for another node waits no longer than its time, nor when the connection
//! broke or the image names another leader; then it is not known whether it was done, so only what
//! may be done twice goes this way. Who waits is bounded. Nobody else's answer is taken for one's
//! own: tokens are not used twice, nor in the next life of the process.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::ready;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_lite::future::or;
use streamd_core::call::{Answer, Outcome, Question};
use streamd_core::meta::ClusterImage;
use streamd_io::local::{OneReceiver, OneSender, oneshot};
use streamd_model::{ErrorCode, Map, Mono, NodeId, PartitionId, ShardId};

use crate::Refusal;
use crate::far_kinds::{lost_code, moved_code, translate};
use crate::mesh::{Reply, Request};
use crate::near::Near;
use crate::peers::Packet;
use crate::shard::Shard;

/// How long an answer may take.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long something may take to be committed.
const COMMIT_MAX: Duration = Duration::from_secs(30);
/// How long somebody waits for what may come; who asked waits for less.
const PATIENCE_MAX: Duration = Duration::from_secs(600);
/// Questions that wait for an answer; more are refused.
const WAITING_MAX: usize = 10_000;
/// The bits of a token that count; above them is the number of the shard.
const COUNT_BITS: u32 = 48;

/// Where a partition is led.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Home {
    /// Here, or nowhere: this shard knows more.
    Here(ShardId),
    /// On another node.
    There(NodeId),
}

/// What comes of a request; `None` if the shard has stopped.
pub type Answering = Pin<Box<dyn Future<Output = Option<Reply>>>>;

/// Things by where their partitions are led, each with its place in the list.
pub type ByHome<T> = BTreeMap<Home, (Vec<usize>, Vec<T>)>;

/// What a shard has asked other nodes, and is asked by them.
#[derive(Default)]
pub(crate) struct Far {
    /// The number of the next question, once one was asked.
    next: Cell<Option<u64>>,
    waiting: RefCell<Map<u64, Waiter>>,
    pub near: Near,
}

/// Who waits for an answer.
struct Waiter {
    node: NodeId,
    partition: PartitionId,
    /// The code if it is led elsewhere by now.
    moved: ErrorCode,
    /// The code if there is no answer.
    lost: ErrorCode,
    sender: OneSender<Outcome>,
}

/// A question on its way.
struct Asked {
    shard: Weak<Shard>,
    node: NodeId,
    partition: PartitionId,
    token: u64,
    until: Mono,
    lost: ErrorCode,
    /// It is taken back if nobody waits for the answer any more.
    takes_back: bool,
    answer: Option<OneReceiver<Outcome>>,
}

impl Asked {
    async fn outcome(mut self) -> Result<Answer, Refusal> {
        let lost = self.lost;
        let gone = || Refusal::new(lost, "this node is stopping");
        let (Some(answer), Some(shard)) = (self.answer.take(), self.shard.upgrade()) else {
            return Err(gone());
        };
        let env = shard.env.clone();
        drop(shard);
        let left = self.until - env.now();
        let late = async {
            env.sleep(left).await;
            let text = format!("node {} did not answer in time", self.node.0);
            Ok(Err((lost, text)))
        };
        match or(answer, late).await {
            Ok(outcome) => outcome.map_err(|(code, text)| Refusal::new(code, text)),
            Err(_) => Err(gone()),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        let waited = shard.far().waiting.borrow_mut().remove(&self.token);
        if waited.is_some() && self.takes_back {
            let packet = Packet::Call {
                token: self.token,
                partition: self.partition,
                question: Question::Gone,
            };
            shard.tell(self.node, packet, None);
        }
    }
}

/// The shard that has asked under a token.
pub(crate) fn asker_of(token: u64) -> ShardId {
    ShardId((token >> COUNT_BITS) as u16)
}

impl Shard {
    /// Where a partition is led, as this node knows it.
    pub fn home(&self, id: PartitionId) -> Home {
        let image = self.image();
        let leader = image.cluster().partition(id).and_then(|p| p.leader);
        match leader.filter(|leader| *leader != self.node()) {
            Some(node) => Home::There(node),
            None => Home::Here(self.owner(id)),
        }
    }

    /// Begins a request about partitions that are all led there. When this returns it has its place
    /// in the queue.
    ///
    /// To another node go [`Request::Markers`], [`Request::Shares`], [`Request::Append`] (one batch
    /// each, answered when committed), [`Request::ReadBytes`], [`Request::Offsets`],
    /// [`Request::ShareMember`], and of [`Request::Txns`] what brokers ask on behalf of a
    /// partition; anything else is answered as if nobody was there.
    pub async fn begin_at(self: &Rc<Self>, home: Home, request: Request) -> Answering {
        let node = match home {
            Home::Here(shard) => return self.begin(usize::from(shard.0), request).await,
            Home::There(node) => node,
        };
        let Some((kind, items)) = translate(request) else {
            return Box::pin(ready(None));
        };
        let begun: Vec<_> = items
            .into_iter()
            .map(|(id, question)| self.put(node, id, question?))
            .collect();
        Box::pin(async move {
            let mut done = Vec::with_capacity(begun.len());
            for one in begun {
                done.push(match one {
                    Ok(asked) => asked.outcome().await,
                    Err(refusal) => Err(refusal),
                });
            }
            Some(kind.reply(done))
        })
    }

    /// Asks whoever leads a partition, as [`Shard::begin_at`].
    pub async fn ask_leader(self: &Rc<Self>, id: PartitionId, request: Request) -> Option<Reply> {
        self.begin_at(self.home(id), request).await.await
    }

    fn new_token(&self) -> u64 {
        let far = self.far();
        let mask = (1 << COUNT_BITS) - 1;
        let next = far.next.get().unwrap_or_else(|| self.env.random_u64());
        far.next.set(Some(next.wrapping_add(1)));
        u64::from(self.mesh.id().0) << COUNT_BITS | next & mask
    }

    /// Puts a question to a node.
    fn put(&self, node: NodeId, partition: PartitionId, ask: Question) -> Result<Asked, Refusal> {
        let (moved, lost) = (moved_code(&ask), lost_code(&ask));
        let wait = match &ask {
            Question::Marker(_) | Question::Append(_) => COMMIT_MAX,
            Question::Share(r) if matches!(r.ask, streamd_core::share::Ask::Wait(_)) => {
                PATIENCE_MAX
            }
            _ => WAIT_MAX,
        };
        let far = self.far();
        if far.waiting.borrow().len() >= WAITING_MAX {
            return Err(Refusal::new(
                lost,
                "too many questions wait for other nodes",
            ));
        }
        let (sender, answer) = oneshot();
        let token = self.new_token();
        let waiter = Waiter {
            node,
            partition,
            moved,
            lost,
            sender,
        };
        far.waiting.borrow_mut().insert(token, waiter);
        let takes_back = matches!(ask, Question::Share(_));
        let packet = Packet::Call {
            token,
            partition,
            question: ask,
        };
        self.tell(node, packet, None);
        Ok(Asked {
            shard: self.weak(),
            node,
            partition,
            token,
            until: self.env.now() + wait,
            lost,
            takes_back,
            answer: Some(answer),
        })
    }

    /// A node answers.
    pub(crate) fn returned(&self, from: NodeId, token: u64, outcome: Outcome) {
        let mut waiting = self.far().waiting.borrow_mut();
        if waiting.get(&token).is_none_or(|w| w.node != from) {
            return;
        }
        let waiter = waiting.remove(&token);
        drop(waiting);
        if let Some(waiter) = waiter {
            // Whoever asked may have gone: then nobody needs the answer.
            let _ = waiter.sender.send(outcome);
        }
    }

    fn give_up(&self, which: impl Fn(&Waiter) -> Option<(ErrorCode, &'static str)>) {
        let mut waiting = self.far().waiting.borrow_mut();
        let over: Vec<_> = waiting
            .iter()
            .filter_map(|(token, waiter)| Some((*token, which(waiter)?)))
            .collect();
        let over: Vec<_> = over
            .into_iter()
            .filter_map(|(token, why)| Some((waiting.remove(&token)?, why)))
            .collect();
        drop(waiting);
        for (waiter, (code, text)) in over {
            let _ = waiter.sender.send(Err((code, text.to_owned())));
        }
    }

    /// The connection to a node broke, or cannot be made: what was on its way there is lost.
    pub fn unreachable(&self, node: NodeId) {
        let text = "the connection to the node that leads it broke";
        self.give_up(|w| (w.node == node).then_some((w.lost, text)));
        self.deserted(node);
    }

    /// A new image is there: who waits for a node that does not lead any more asks another one.
    pub(crate) fn follow_leaders(&self, image: &ClusterImage) {
        let text = "another node leads it now";
        self.give_up(|w| {
            let place = image.cluster().partition(w.partition);
            let leads = place.is_some_and(|p| p.leader == Some(w.node));
            (!leads).then_some((w.moved, text))
        });
    }
}
