//! What a coordinator is asked, and what it answers. Owned, so that both can cross cores.

use std::sync::Arc;

use streamd_model::{ErrorCode, TopicId};

use super::record::{Blob, Committed, Parts, ShareTopics, Subscription, Worker};

/// A request to a group's coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Become a member, or take part in a rebalance.
    Join(Box<Join>),
    /// Give or get the assignment.
    Sync(Sync),
    /// Still there.
    Heartbeat {
        /// Who.
        who: Who,
        /// The generation that the member is in.
        generation: i32,
    },
    /// Members go.
    Leave(Vec<Leaver>),
    /// Commit offsets.
    Commit(Commit),
    /// Commit offsets in a transaction.
    TxnCommit(TxnCommit),
    /// Read committed offsets; all there are with `None`.
    Fetch(Option<Vec<FetchTopic>>),
    /// Forget offsets: topics and partitions.
    DeleteOffsets(Vec<(Arc<str>, Vec<i32>)>),
    /// The same for a member that says so: its id and epoch.
    FetchAs(String, i32, Option<Vec<FetchTopic>>),
    /// ConsumerGroupHeartbeat.
    Beat(Box<Beat>),
    /// Show a group of the `consumer` protocol.
    DescribeConsumer,
    /// ShareGroupHeartbeat.
    ShareBeat(Box<ShareBeat>),
    /// Show a share group.
    DescribeShare,
    /// Of which topics does a share group have share-partitions?
    ShareTopics,
    /// A share group without members has share-partitions of these topics, and none of those.
    SetShareTopics(ShareTopics, Vec<TopicId>),
    /// Show the group.
    Describe,
    /// Forget the group.
    Delete,
}

/// A member as it names itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// The member id; empty: none yet.
    pub id: String,
    /// `group.instance.id`, for a static member.
    pub instance: Option<String>,
}

/// JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Who.
    pub who: Who,
    /// The id that it gets if it has none.
    pub new_id: String,
    /// `client.id`.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
    /// How long it may be silent, ms.
    pub session_ms: i32,
    /// How long a rebalance waits for it, ms.
    pub rebalance_ms: i32,
    /// `consumer`, `connect`, ...
    pub protocol_type: String,
    /// Assignors with what the leader is told, the best liked first.
    pub protocols: Vec<(String, Blob)>,
    /// Whether a new member is sent away once, with its id (since version 4).
    pub id_required: bool,
    /// Whether the client knows `skip_assignment` (since version 9).
    pub can_skip: bool,
}

/// ConsumerGroupHeartbeat. `None` and -1 mean that it is as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// The member's id; it has one from the start.
    pub id: String,
    /// The member's epoch: 0 joins, -1 leaves, -2 leaves for a while.
    pub epoch: i32,
    /// `group.instance.id`, for a static member.
    pub instance: Option<String>,
    /// Its rack.
    pub rack: Option<String>,
    /// How long it may take to give partitions back, ms.
    pub rebalance_ms: i32,
    /// The topics that it subscribes to.
    pub topics: Option<Vec<String>>,
    /// A regular expression that names more; empty: none.
    pub regex: Option<String>,
    /// The assignor that it wants; empty: any.
    pub assignor: Option<String>,
    /// What it has.
    pub owned: Option<Parts>,
    /// `client.id`.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
}

/// ShareGroupHeartbeat. `None` means that it is as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareBeat {
    /// The member's id; it has one from the start.
    pub id: String,
    /// The member's epoch: 0 joins, -1 leaves.
    pub epoch: i32,
    /// Its rack.
    pub rack: Option<String>,
    /// The topics that it subscribes to.
    pub topics: Option<Vec<String>>,
    /// `client.id`.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
}

/// SyncGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Who.
    pub who: Who,
    /// The generation that the member is in.
    pub generation: i32,
    /// If the client says it.
    pub protocol_type: Option<String>,
    /// If the client says it.
    pub protocol: Option<String>,
    /// From the leader: members and what they get.
    pub assignments: Vec<(String, Blob)>,
}

/// One of LeaveGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaver {
    /// Who. An empty id with an instance is a removal by an operator.
    pub who: Who,
}

/// OffsetCommit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Who; with an empty id and generation -1 somebody outside of the group.
    pub who: Who,
    /// The generation that the member is in.
    pub generation: i32,
    /// How long the offsets are kept, ms, if the client says so (versions 2 to 4).
    pub retention_ms: Option<i64>,
    /// Whether the client knows GROUP_ID_NOT_FOUND here (since version 9).
    pub knows_not_found: bool,
    /// What.
    pub topics: Vec<CommitTopic>,
}

/// TxnOffsetCommit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnCommit {
    /// The producer's id.
    pub producer: i64,
    /// Its epoch.
    pub epoch: i16,
    /// What the partition gave out before the transaction was verified; `None`: the transaction
    /// was open there already.
    pub guard: Option<u64>,
    /// What is committed, and by whom.
    pub commit: Commit,
}

/// The offsets of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitTopic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; zero: not known.
    pub id: TopicId,
    /// The partitions.
    pub partitions: Vec<CommitPartition>,
}

/// The offset of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitPartition {
    /// The partition.
    pub index: i32,
    /// The offset to read next.
    pub offset: i64,
    /// The leader epoch of the last record that was read; -1: not known.
    pub leader_epoch: i32,
    /// What the client writes beside it.
    pub metadata: Arc<str>,
}

/// A topic whose offsets are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchTopic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; an offset that was committed under another one is not shown. Zero: not known.
    pub id: TopicId,
    /// The partitions.
    pub partitions: Vec<i32>,
}

/// A code for each partition, by topic.
pub type PartitionCodes = Vec<(Arc<str>, Vec<(i32, ErrorCode)>)>;

/// What a coordinator answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Request::Join`].
    Join(Box<Joined>),
    /// To [`Request::Sync`].
    Sync(Synced),
    /// To [`Request::Heartbeat`], and to all else that fails as a whole.
    Code(ErrorCode),
    /// To [`Request::Leave`]: a code for each.
    Leave(Vec<(Who, ErrorCode)>),
    /// To [`Request::Commit`], [`Request::TxnCommit`] and [`Request::DeleteOffsets`].
    Partitions(PartitionCodes),
    /// To [`Request::Fetch`].
    Fetch(Vec<Fetched>),
    /// To [`Request::Describe`].
    Describe(Box<Description>),
    /// To [`Request::Beat`] and [`Request::ShareBeat`].
    Beat(Box<Beaten>),
    /// To [`Request::DescribeConsumer`].
    DescribeConsumer(Box<ConsumerDescription>),
    /// To [`Request::DescribeShare`].
    DescribeShare(Box<ShareDescription>),
    /// To [`Request::ShareTopics`]; whether the group has no members.
    ShareTopics(ShareTopics, bool),
    /// It fails as a whole, with a sentence about it.
    Refused(ErrorCode, String),
}

impl From<ErrorCode> for Reply {
    fn from(code: ErrorCode) -> Reply {
        Reply::Code(code)
    }
}

/// The answer to a join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// The code; everything but the id is empty when it is an error.
    pub error: Option<ErrorCode>,
    /// The generation.
    pub generation: i32,
    /// As the group has it.
    pub protocol_type: Option<String>,
    /// The chosen assignor.
    pub protocol: Option<String>,
    /// Who assigns.
    pub leader: String,
    /// The leader need not assign: the assignment stands.
    pub skip_assignment: bool,
    /// The member's id.
    pub id: String,
    /// For the leader: everybody, with what they told it.
    pub members: Vec<(Who, Blob)>,
}

/// The answer to a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The code.
    pub error: ErrorCode,
    /// As the group has it.
    pub protocol_type: Option<String>,
    /// The chosen assignor.
    pub protocol: Option<String>,
    /// What the member gets.
    pub assignment: Blob,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beaten {
    /// The member's id.
    pub id: String,
    /// Its epoch from now on.
    pub epoch: i32,
    /// How often it is to be heard of, ms.
    pub interval_ms: i32,
    /// What it may read, if it is to be told.
    pub assignment: Option<Parts>,
}

/// Topics by id and name, with partitions.
pub type PartsByTopic = Vec<(TopicId, Arc<str>, Vec<i32>)>;

/// A group of the `consumer` protocol as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerDescription {
    /// Kafka's name of the state.
    pub state: &'static str,
    /// The group's epoch.
    pub epoch: i32,
    /// The epoch of the target assignment.
    pub target_epoch: i32,
    /// The assignor in use.
    pub assignor: &'static str,
    /// The members.
    pub members: Vec<ConsumerMember>,
}

/// A member of such a group as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerMember {
    /// Its id.
    pub id: String,
    /// Its epoch.
    pub epoch: i32,
    /// What it says of itself.
    pub sub: Arc<Subscription>,
    /// What it has.
    pub assigned: PartsByTopic,
    /// What it shall have.
    pub target: PartsByTopic,
}

/// A share group as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareDescription {
    /// Kafka's name of the state.
    pub state: &'static str,
    /// The group's epoch.
    pub epoch: i32,
    /// The epoch of the target assignment.
    pub target_epoch: i32,
    /// The assignor in use.
    pub assignor: &'static str,
    /// The members.
    pub members: Vec<ShareMember>,
}

/// A member of such a group as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareMember {
    /// Its id.
    pub id: String,
    /// Its epoch.
    pub epoch: i32,
    /// What it says of itself.
    pub worker: Arc<Worker>,
    /// What it reads.
    pub assigned: PartsByTopic,
}

/// Committed offsets of one topic: partitions, and what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The topic's name.
    pub name: Arc<str>,
    /// The partitions that were asked for.
    pub partitions: Vec<(i32, Option<Committed>)>,
    /// Those of them for which a transaction that has not ended holds another offset.
    pub unstable: Vec<i32>,
}

/// A group as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Kafka's name of the state.
    pub state: &'static str,
    /// `consumer`, `connect`, ...; empty if it only has offsets.
    pub protocol_type: String,
    /// The chosen assignor, while the group is stable.
    pub protocol: String,
    /// The members.
    pub members: Vec<DescribedMember>,
}

/// A member as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    /// Who.
    pub who: Who,
    /// `client.id`.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
    /// What it told the leader, while the group is stable.
    pub metadata: Blob,
    /// What the leader gave it, while the group is stable.
    pub assignment: Blob,
}

/// The protocol of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// The oldest.
    Classic,
    /// KIP-848.
    Consumer,
    /// KIP-932.
    Share,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub group: Arc<str>,
    /// The protocol that it is of.
    pub kind: GroupKind,
    /// `consumer`, `connect`, ...; empty if it only has offsets.
    pub protocol_type: String,
    /// Kafka's name of the state.
    pub state: &'static str,
}
