//! Consumer groups: the coordinator of the groups of one partition of `__consumer_offsets`.
//!
//! The durable state (committed offsets; each group as of its last completed rebalance) is the
//! fold of that partition: it changes in `replay` alone, which a start and a running coordinator
//! go through alike. What is soft (who waits, who was heard of) begins anew after a start, from
//! the durable state, as members expect it of a coordinator that moved.
//!
//! Persist before reply: an answer that shows or promises durable state comes out of `persisted`,
//! after the driver said that the records are on stable storage.
//! Invariants: a generation has one assignment; every token is answered once, unless it is
//! withdrawn by [`Coordinator::gone`].

mod admin;
mod classic;
mod consumer;
mod context;
mod coordinator;
mod embedded;
mod expire;
mod join;
mod member;
mod offsets;
mod place;
pub(crate) mod record;
mod request;
mod sync;
mod txn;

#[cfg(test)]
mod tests;

pub use crate::machine::{Now, Token};
pub use consumer::Assignor;
pub use context::{Batch, ConsumerLimits, Effects, Limits};
pub use coordinator::Coordinator;
pub use place::{OFFSETS_TOPIC, partition_of};
pub use record::{
    Blob, ClassicSide, Committed, ConsumerChange, Current, GroupEpoch, GroupRecord, GroupValue,
    MemberValue, Parts, Phase, Resolved, Subscription,
};
pub use request::{
    Beat, Beaten, Commit, CommitPartition, CommitTopic, ConsumerDescription, ConsumerMember,
    DescribedMember, Description, FetchTopic, Fetched, Join, Joined, Leaver, Listed,
    PartitionCodes, PartsByTopic, Reply, Request, Sync, Synced, TxnCommit, Who,
};
