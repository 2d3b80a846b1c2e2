//! Questions to the controller, wherever it is: those of this node, and those that others pass on.
//!
//! Invariants: a question is passed on at most twice, so none goes in circles; an answer says which
//! version of the image has what it rests on; what got lost is asked again by who asked first.

use std::time::Duration;

use futures_lite::future::or;
use streamd_core::control::{Answer, Ask, Outcome, Times, Token};
use streamd_core::meta::{ClusterCommand, ClusterImage, Command};
use streamd_io::local::{OneSender, oneshot};
use streamd_model::{ErrorCode, Mono, NodeId};

use crate::Refusal;
use crate::drive_meta::{Meta, STOPPING};
use crate::peers::Packet;
use crate::shard::Shard;

/// How long a question of a client is asked again until somebody decides.
const DECIDE_MAX: Duration = Duration::from_secs(10);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(50);
/// How often a question is passed on.
const HOPS_MAX: u8 = 2;
/// Questions that wait for an answer; more are told to come later.
const WAITING_MAX: usize = 10_000;

/// An answer, and the version of the image that it rests on.
pub(crate) type Answered = (Outcome, u64);

/// Who waits for an answer.
pub(crate) enum Asker {
    /// Somebody on this node.
    Here(OneSender<Answered>),
    /// A node, which knows its question by this; it was passed on then.
    Node(NodeId, Token, Mono),
}

/// Whether the controller was not there, so that asking again may help.
fn is_lost(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Err((ErrorCode::NotController | ErrorCode::RequestTimedOut, _))
    )
}

impl Meta {
    /// Asks the controller, once.
    pub async fn ask(&self, ask: Ask) -> Outcome {
        self.ask_of(ask).await.0
    }

    /// Asks the controller until it has decided, or [`DECIDE_MAX`] is over; waits until every shard
    /// has an image with what it decided. `is_done`: whether an image shows that an earlier try,
    /// whose answer was lost, went through.
    ///
    /// # Errors
    /// Why it was refused.
    pub async fn decide(
        &self,
        ask: Ask,
        is_done: impl Fn(&ClusterImage) -> bool,
    ) -> Result<Answer, Refusal> {
        let until = self.now() + DECIDE_MAX;
        let mut unsure = false;
        if let Ask::Lost { node, .. } = &ask {
            // Who asks has seen it. If that node was the controller, there has to be another one.
            self.lost(*node);
        }
        loop {
            let (outcome, version) = self.ask_of(ask.clone()).await;
            let again = is_lost(&outcome) && self.now() < until && !self.is_over();
            match outcome {
                Ok(answer) => {
                    self.published(version, until).await;
                    return Ok(answer);
                }
                Err(_) if again => unsure = true,
                Err((code, text)) => {
                    self.published(version, until).await;
                    return match unsure && is_done(&self.image()) {
                        true => Ok(Answer::Done),
                        false => Err(Refusal::new(code, text)),
                    };
                }
            }
            self.pause(AGAIN).await;
        }
    }

    async fn ask_of(&self, ask: Ask) -> Answered {
        let version = self.image().version();
        if let Some(refused) = self.refuses() {
            return (Err(refused), version);
        }
        let (sender, answer) = oneshot();
        let token = self.wait_for(Asker::Here(sender));
        if self.leads() {
            self.ask_here(token, ask);
            let stopping = || {
                (
                    Err((ErrorCode::NotController, STOPPING.to_owned())),
                    version,
                )
            };
            return answer.await.unwrap_or_else(|_| stopping());
        }
        let Some(to) = self.whom(None) else {
            self.forget(token);
            let text = "there is no controller at the moment".to_owned();
            return (Err((ErrorCode::NotController, text)), version);
        };
        // While nobody leads any node is asked, and it may be the one that is gone.
        let guessed = self.controller() != Some(to);
        let hops = 0;
        self.send(to, Packet::Ask { token, hops, ask });
        let wait = Times::default().request;
        let late = async {
            self.pause(wait).await;
            let text = format!("node {} did not answer within {wait:?}", to.0);
            (Err((ErrorCode::RequestTimedOut, text)), version)
        };
        let stopping = || {
            (
                Err((ErrorCode::NotController, STOPPING.to_owned())),
                version,
            )
        };
        let answer = async { answer.await.unwrap_or_else(|_| stopping()) };
        let other = async {
            match guessed {
                true => self.somebody_leads().await,
                false => self.other_than(to).await,
            }
            let text = format!("node {} is not the controller any more", to.0);
            (Err((ErrorCode::NotController, text)), version)
        };
        let answered = or(answer, or(late, other)).await;
        self.forget(token);
        answered
    }

    /// Something about the quorum or for the controller came from a node.
    pub fn heard(&self, from: NodeId, packet: Packet) {
        if self.is_over() {
            return;
        }
        match packet {
            Packet::Raft(bytes) => self.step(from, &bytes),
            Packet::Ask { token, hops, ask } => self.asked(from, (token, hops), ask),
            Packet::Answer {
                token,
                version,
                outcome,
            } => self.answer(token, (outcome, version)),
            Packet::Replica(..) | Packet::Data(_) => {}
            Packet::Call { .. } | Packet::Return { .. } => {}
        }
    }

    /// A node asks: here, or whoever this node takes for the controller.
    fn asked(&self, from: NodeId, (theirs, hops): (Token, u8), ask: Ask) {
        let refuse = |code, text: &str| {
            let packet = Packet::Answer {
                token: theirs,
                version: self.image().version(),
                outcome: Err((code, text.to_owned())),
            };
            self.send(from, packet);
        };
        if self.waits() >= WAITING_MAX {
            let text = "too many questions wait for the controller";
            return refuse(ErrorCode::ThrottlingQuotaExceeded, text);
        }
        let asker = Asker::Node(from, theirs, self.now());
        if self.leads() {
            let token = self.wait_for(asker);
            return self.ask_here(token, ask);
        }
        match self.whom(Some(from)).filter(|_| hops < HOPS_MAX) {
            Some(to) => {
                let (token, hops) = (self.wait_for(asker), hops + 1);
                self.send(to, Packet::Ask { token, hops, ask });
            }
            None => refuse(
                ErrorCode::NotController,
                "the node that was asked knows of no controller",
            ),
        }
    }
}

impl Shard {
    /// Who votes about the metadata, as far as it is known here (shard 0 only).
    pub fn metadata_voters(&self) -> Vec<NodeId> {
        let meta = self.meta.borrow();
        meta.as_ref().map_or(Vec::new(), |m| m.voters())
    }
}

/// Whether an image shows that a command went through.
pub(crate) fn is_done(image: &ClusterImage, command: &Command) -> bool {
    match command {
        Command::CreateTopic { id, .. } => image.topic_by_id(*id).is_some(),
        Command::DeleteTopic { id } => image.topic_by_id(*id).is_none(),
        Command::CreatePartitions { id, total } => {
            let topic = image.topic_by_id(*id);
            topic.is_some_and(|t| t.partitions == *total)
        }
        Command::Cluster(ClusterCommand::SetFeatureLevel(level)) => {
            image.cluster().level() >= *level
        }
        _ => false,
    }
}
