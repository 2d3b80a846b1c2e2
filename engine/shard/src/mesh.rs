//! From partition to core, and messages between cores.
//!
//! A request for another shard's partitions goes there as one message and comes back as one.
//! Queues are bounded; the receiving loop never waits for a send, so two full queues that face
//! each other still drain.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use streamd_core::control::{Ask, NewIsr};
use streamd_core::group::{Listed, Token};
use streamd_core::meta::ClusterImage;
use streamd_core::producer::Described;
use streamd_core::share::Key;
use streamd_core::txn;
use streamd_io::Accepted;
use streamd_io::local::{Notify, OneSender, oneshot};
use streamd_io::mailbox::Endpoint;
use streamd_model::{ErrorCode, Map, NodeId, Offset, PartitionId, ShardId};

use crate::Refusal;
use crate::append::{AppendDone, AppendItem};
use crate::control::Decided;
use crate::disk::Candidate;
use crate::drive_group::{GroupAsk, GroupDone};
use crate::drive_seat::Seated;
use crate::drive_share::{ShareAsk, ShareDone};
use crate::drive_txn::{TxnAsk, TxnDone};
use crate::news::NewsAsk;
use crate::peers::Packet;
use crate::read::{
    EpochEnd, EpochQuery, OffsetFound, OffsetQuery, PartitionSize, ReadDone, ReadItem, ReadRequest,
    WatchRequest,
};
use crate::read_bytes::ReadBytes;
use crate::txn::{GuardAsk, GuardDone, Marker};

/// What one shard asks of another.
pub enum Request {
    /// Append these batches, in this order.
    Append(Vec<AppendItem>),
    /// Plan these reads.
    Read(ReadRequest),
    /// Plan a read that ends where a batch ends.
    ReadWhole(ReadItem),
    /// Answer when there is more to read, or at the deadline.
    Watch(WatchRequest),
    /// Answer when there is more to read.
    News(NewsAsk),
    /// Nobody waits for it any more.
    NewsGone(u64),
    /// Offsets by time.
    Offsets(Vec<OffsetQuery>),
    /// Where leader epochs end.
    EpochEnds(Vec<EpochQuery>),
    /// Move log starts up.
    DeleteRecords(Vec<(PartitionId, Offset)>),
    /// Sizes of all partitions that live here.
    Sizes,
    /// Replay the journals and take one into use: before anything else.
    Start,
    /// Use this image from now on.
    Image(Arc<ClusterImage>),
    /// Ask the controller. Only shard 0 takes it.
    Control(Ask),
    /// Ask coordinators of groups.
    Groups(Vec<GroupAsk>),
    /// Whoever asked a coordinator under this token is gone.
    GroupGone(PartitionId, Token),
    /// All groups of the shard.
    GroupList,
    /// Ask coordinators of transactional ids.
    Txns(Vec<TxnAsk>),
    /// All transactional ids of the shard.
    TxnList,
    /// Ask coordinators of share-partitions.
    Shares(Vec<ShareAsk>),
    /// Whoever asked about share-partitions under these tokens is gone.
    SharesGone(Vec<(PartitionId, Key, Token)>),
    /// Whether a share group, by the partition that its coordinator has, has a member.
    ShareMember(PartitionId, Arc<str>, Arc<str>),
    /// Read into memory.
    ReadBytes(Vec<ReadItem>),
    /// Who is about to write in a transaction asks whether it has to be confirmed.
    TxnGuards(Vec<GuardAsk>),
    /// Write the ends of transactions.
    Markers(Vec<Marker>),
    /// The producers of partitions.
    Producers(Vec<PartitionId>),
    /// Which segment may go first when the disk is full.
    Oldest,
    /// Delete it.
    DropOldest(Candidate),
    /// Take what came from another node.
    Peer(NodeId, Packet),
    /// What the broker's seat is now.
    Seated(Seated),
    /// A leader wants another in-sync set. Only shard 0 takes it.
    Wish(NewIsr),
    /// What the controller said to the wish of a leader.
    Altered(PartitionId, ErrorCode),
    /// Flush and close everything.
    Close,
}

/// The answer, of the kind of the request.
pub enum Reply {
    /// To [`Request::Append`], in the order of its items.
    Append(Vec<AppendDone>),
    /// To [`Request::Read`], in the order of its items, and to [`Request::ReadWhole`].
    Read(Vec<ReadDone>),
    /// To [`Request::Offsets`].
    Offsets(Vec<Result<OffsetFound, Refusal>>),
    /// To [`Request::EpochEnds`].
    EpochEnds(Vec<Result<EpochEnd, Refusal>>),
    /// To [`Request::DeleteRecords`]: the new log starts.
    DeleteRecords(Vec<Result<Offset, Refusal>>),
    /// To [`Request::Sizes`].
    Sizes(Vec<PartitionSize>),
    /// To [`Request::Control`].
    Control(Decided),
    /// To [`Request::Start`]: why it failed.
    Started(Result<(), String>),
    /// To [`Request::Groups`], in the order of its items.
    Groups(Vec<GroupDone>),
    /// To [`Request::GroupList`].
    GroupList(Vec<Listed>),
    /// To [`Request::Txns`], in the order of its items.
    Txns(Vec<TxnDone>),
    /// To [`Request::TxnList`].
    TxnList(Vec<txn::Listed>),
    /// To [`Request::Shares`], in the order of its items.
    Shares(Vec<ShareDone>),
    /// To [`Request::ShareMember`].
    ShareMember(Result<bool, Refusal>),
    /// To [`Request::ReadBytes`], in the order of its items.
    ReadBytes(Vec<ReadBytes>),
    /// To [`Request::TxnGuards`], in the order of its items.
    TxnGuards(Vec<GuardDone>),
    /// To [`Request::Markers`], in the order of its items: durable, or why not.
    Markers(Vec<Result<(), Refusal>>),
    /// To [`Request::Producers`], in the order of its items.
    Producers(Vec<Result<Vec<Described>, Refusal>>),
    /// To [`Request::Oldest`].
    Oldest(Option<Candidate>),
    /// To [`Request::DropOldest`]: the bytes that went.
    Dropped(u64),
    /// To what has no other answer.
    Done,
}

/// What travels between shards.
pub enum Envelope {
    /// A request; its answer goes to shard `from` under `id`.
    Call {
        /// The asking shard.
        from: ShardId,
        /// What the answer is found by.
        id: u64,
        /// What is asked.
        request: Request,
    },
    /// The process is to end; from the main thread.
    Stop,
    /// A connection that another shard accepted, for this one to serve, and the number of the
    /// listener that it came through.
    Connection(Accepted, u8),
    /// An answer.
    Answer {
        /// The id of the call.
        id: u64,
        /// The answer.
        reply: Reply,
    },
}

/// This shard's end of the mesh.
pub struct Mesh {
    id: ShardId,
    shards: usize,
    endpoint: Endpoint<Envelope>,
    stopping: Cell<bool>,
    stop: Notify,
    connections: RefCell<VecDeque<(Accepted, u8)>>,
    connected: Notify,
    waiting: RefCell<(u64, Map<u64, OneSender<Reply>>)>,
}

/// The shard that owns a partition: the partitions of a topic go around the shards, and topics
/// begin at different ones.
pub fn owner(partition: PartitionId, shards: usize) -> ShardId {
    let t = partition.topic.0;
    let start = u64::from_le_bytes([t[0], t[1], t[2], t[3], t[4], t[5], t[9], t[10]]);
    let at = (start % shards as u64 + partition.index.unsigned_abs() as u64) % shards as u64;
    ShardId(at as u16)
}

impl Mesh {
    /// The end of shard `id` of `shards`.
    pub fn new(id: ShardId, shards: usize, endpoint: Endpoint<Envelope>) -> Mesh {
        Mesh {
            id,
            shards,
            endpoint,
            stopping: Cell::new(false),
            stop: Notify::new(),
            connections: RefCell::default(),
            connected: Notify::new(),
            waiting: RefCell::default(),
        }
    }

    /// This shard.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// Sends `request` to shard `to`. When this returns the request has its place in the queue, so
    /// two calls in order arrive in order; the answer is awaited apart. `None` from the answer
    /// means that the other shard has stopped.
    pub async fn call(
        &self,
        to: ShardId,
        request: Request,
    ) -> impl Future<Output = Option<Reply>> + use<> {
        let (sender, receiver) = oneshot();
        let id = {
            let mut waiting = self.waiting.borrow_mut();
            waiting.0 += 1;
            let id = waiting.0;
            waiting.1.insert(id, sender);
            id
        };
        let call = Envelope::Call {
            from: self.id,
            id,
            request,
        };
        self.endpoint.send(usize::from(to.0), call).await;
        async move { receiver.await.ok() }
    }

    /// Whether the process is to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Waits until the process is to end.
    pub async fn stopped(&self) {
        while !self.stopping.get() {
            self.stop.wait().await;
        }
    }

    /// Answers a call.
    pub async fn answer(&self, to: ShardId, id: u64, reply: Reply) {
        self.endpoint
            .send(usize::from(to.0), Envelope::Answer { id, reply })
            .await;
    }

    /// Has shard `to` serve a connection that came through a listener of this number.
    pub async fn hand_over(&self, to: ShardId, (accepted, door): (Accepted, u8)) {
        self.endpoint
            .send(usize::from(to.0), Envelope::Connection(accepted, door))
            .await;
    }

    /// The next connection that another shard has handed over.
    pub async fn next_connection(&self) -> (Accepted, u8) {
        loop {
            let next = self.connections.borrow_mut().pop_front();
            if let Some(accepted) = next {
                return accepted;
            }
            self.connected.wait().await;
        }
    }

    /// The next call of another shard. Answers are handed to whoever waits for them.
    pub async fn next_call(&self) -> (ShardId, u64, Request) {
        loop {
            match self.endpoint.recv().await {
                Envelope::Call { from, id, request } => return (from, id, request),
                Envelope::Stop => {
                    self.stopping.set(true);
                    self.stop.notify_all();
                }
                Envelope::Connection(accepted, door) => {
                    self.connections.borrow_mut().push_back((accepted, door));
                    self.connected.notify_all();
                }
                Envelope::Answer { id, reply } => {
                    let waiting = self.waiting.borrow_mut().1.remove(&id);
                    if let Some(sender) = waiting {
                        // Whoever asked may have gone: then nobody needs the answer.
                        let _ = sender.send(reply);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamd_model::TopicId;

    #[test]
    fn partitions_spread_evenly() {
        for shards in 1..9 {
            let mut count = vec![0; shards];
            for index in 0..(shards as i32 * 12) {
                let topic = TopicId([7; 16]);
                count[usize::from(owner(PartitionId { topic, index }, shards).0)] += 1;
            }
            assert!(count.iter().all(|&c| c == 12), "{count:?}");
        }
    }
}
