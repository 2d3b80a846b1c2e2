//! What a shard says to other nodes, and hears from them. Who has the sockets carries it.
//!
//! Invariants: whatever is sent may be lost, as a whole; what arrives from a shard of a node
//! arrives in the order in which that shard has sent it. Whoever needs an answer asks again.

use std::pin::Pin;
use std::sync::Arc;

use streamd_core::call;
use streamd_core::control::{Ask, Outcome, Token};
use streamd_core::meta::ClusterImage;
use streamd_core::repl::{Head, Message};
use streamd_io::Part;
use streamd_io::local::Permit;
use streamd_model::{NodeId, PartitionId, ShardId};

use crate::far::asker_of;
use crate::mesh::Request;
use crate::shard::Shard;

/// Something for another node, or from one.
pub enum Packet {
    /// For the member of the metadata quorum there.
    Raft(Vec<u8>),
    /// A question for the controller; the node passes it on if another one is that.
    Ask {
        /// What the sender knows it by.
        token: Token,
        /// How often it was passed on.
        hops: u8,
        /// The question.
        ask: Ask,
    },
    /// The answer to a question of the node that it goes to.
    Answer {
        /// What that node knows its question by.
        token: Token,
        /// The version of the image that has what the answer rests on.
        version: u64,
        /// The answer.
        outcome: Outcome,
    },
    /// A question to the leader of a partition.
    Call {
        /// What the sender knows it by.
        token: u64,
        /// The partition.
        partition: PartitionId,
        /// The question.
        question: call::Question,
    },
    /// The answer to a question of the node that it goes to.
    Return {
        /// What that node knows its question by.
        token: u64,
        /// The answer.
        outcome: call::Outcome,
    },
    /// For the replica of a partition.
    Replica(PartitionId, Message),
    /// Records for the replica of a partition, which has asked for them.
    Data(Records),
}

/// Whole batches of a partition.
pub struct Records {
    /// Whose.
    pub partition: PartitionId,
    /// What stands before them.
    pub head: Head,
    /// The batches, back to back; in one piece of memory when they have arrived.
    pub parts: Vec<Part>,
}

/// The way to other nodes.
pub trait Peers {
    /// Sends something, which is in this memory until then. Returns at once; without a connection
    /// it is lost, and one is made.
    fn send(&self, to: NodeId, packet: Packet, memory: Option<Permit>);

    /// Nodes that were named at the start, for who knows nobody yet.
    fn contacts(&self) -> Vec<NodeId>;

    /// The metadata as this node has it, for who is where; `current`: it shows this run of this
    /// node, so it is not that of long ago.
    fn learn(&self, image: &Arc<ClusterImage>, current: bool);

    /// Waits until so many bytes of records for a node may be in memory. `None`: there is no
    /// connection to it.
    fn room(&self, to: NodeId, bytes: usize) -> Pin<Box<dyn Future<Output = Option<Permit>>>>;
}

impl Shard {
    /// Hands what came from a node to the shard that it is for. When this returns that has dealt
    /// with it.
    pub async fn arrived(&self, from: NodeId, packet: Packet) {
        let to = self.shard_of(&packet);
        if to == self.mesh.id() {
            self.heard(from, packet);
        } else {
            let request = Request::Peer(from, packet);
            self.mesh.call(to, request).await.await;
        }
    }

    fn shard_of(&self, packet: &Packet) -> ShardId {
        match packet {
            Packet::Raft(_) | Packet::Ask { .. } | Packet::Answer { .. } => ShardId(0),
            Packet::Call { partition, .. } => self.owner(*partition),
            Packet::Return { token, .. } => {
                let asker = asker_of(*token);
                match usize::from(asker.0) < self.mesh.shards() {
                    true => asker,
                    // Nobody waits for it.
                    false => self.mesh.id(),
                }
            }
            Packet::Replica(id, _) => self.owner(*id),
            Packet::Data(records) => self.owner(records.partition),
        }
    }

    /// Takes what came from a node, here and now.
    pub(crate) fn heard(&self, from: NodeId, packet: Packet) {
        let Some(shard) = self.weak().upgrade() else {
            return;
        };
        match packet {
            Packet::Raft(_) | Packet::Ask { .. } | Packet::Answer { .. } => {
                let meta = self.meta.borrow().clone();
                if let Some(meta) = meta {
                    meta.heard(from, packet);
                }
            }
            Packet::Call {
                token,
                partition,
                question,
            } => shard.is_asked((from, token), partition, question),
            Packet::Return { token, outcome } => shard.returned(from, token, outcome),
            Packet::Replica(id, message) => shard.replica_hears(from, id, &message),
            Packet::Data(records) => shard.replica_takes(from, records),
        }
    }
}
