//! Share-partitions (KIP-932): which records of a partition a share group has under way, who has
//! each, and what is done with.
//!
//! The durable state is the fold of a partition of `__share_group_state`: the start offset, and of
//! what lies behind it the states that differ from "never delivered". Locks are soft: after a
//! start nobody has any, and what was acquired is available again with the count on record.
//! Invariants: a record is locked for one member at a time; what was accepted is not delivered
//! again once the answer is out; no record is delivered more often than the group's limit; the
//! start never goes back unless an operator sets it.

mod coordinator;
mod flight;
mod hard;
mod partition;
mod record;
mod request;

#[cfg(test)]
mod tests;

pub use coordinator::{Coordinator, Effects, STATE_TOPIC, state_partition};
pub use record::{Delivery, Key, ShareRecord, Snapshot, StateBatch, StateValue};
pub use request::{
    Ack, AckBatch, Acquire, Acquired, Ask, Bury, Cause, Next, Order, ReadBatch, Reply, Request,
    Summary,
};
