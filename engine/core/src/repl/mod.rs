//! The replicas of a partition: what a leader pushes, what a follower acknowledges, and what is
//! committed by that.
//!
//! Invariants: the high watermark is the least durable end among the in-sync set, and of those who
//! may be in it already; it never falls on a node, and never passes what is durable there. A log
//! is cut by epochs, never by watermarks, and never below what is committed. Who follows takes
//! bytes of its leader's epoch only, and only where its log ends.

mod bucket;
mod codec;
mod epochs;
mod follower;
mod leader;
mod replica;
#[cfg(test)]
mod tests;

use std::time::Duration;

use streamd_model::{Epoch, ErrorCode, NodeId, Offset};

pub use bucket::Bucket;
pub use epochs::Epochs;
pub use follower::Follower;
pub use leader::{Leader, Wish};
pub use replica::Replica;

/// What replication is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A follower that did not reach the leader's end for so long leaves the in-sync set
    /// (`replica.lag.time.max.ms`).
    pub lag: Duration,
    /// A leader says something at least so often; a follower that hears nothing for four times as
    /// long begins anew, and sooner, at first, if its subscription was not answered.
    pub pulse: Duration,
    /// How long followers may not know that records of theirs were committed, while none go to
    /// them that would say so. More than nothing saves a message a record where few come.
    pub news: Duration,
    /// The most bytes that are under way to a follower.
    pub credit: u64,
    /// `min.insync.replicas`.
    pub min_isr: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            lag: Duration::from_secs(10),
            pulse: Duration::from_millis(500),
            news: Duration::from_millis(100),
            credit: 8 << 20,
            min_isr: 1,
        }
    }
}

impl Settings {
    /// How long a follower is told nothing if there is news for it, or none.
    fn patience(&self, news: bool) -> Duration {
        match news {
            true => self.news.min(self.pulse),
            false => self.pulse,
        }
    }
}

/// What makes a follower's subscription one of a kind: its broker epoch, and a count.
pub type Session = (i64, u64);

/// What the replicas of a partition say to each other. Each names the leader epoch that it was
/// said in; what was said in another one is ignored or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A follower wants what is behind its log's end.
    Subscribe {
        /// The leader epoch.
        epoch: Epoch,
        /// Its subscription.
        session: Session,
        /// The epoch of the last batch in its log; -1 if there is none.
        last_epoch: Epoch,
        /// Its log's end.
        end: Offset,
        /// What of it is durable.
        durable: Offset,
        /// How many bytes may be under way.
        credit: u64,
    },
    /// The follower's log is not the leader's: it has to cut it, and subscribe again.
    Diverged {
        /// The leader epoch.
        epoch: Epoch,
        /// The subscription.
        session: Session,
        /// The largest epoch of the leader's log that is not above the follower's last one.
        at: Epoch,
        /// Where that one ends in the leader's log.
        end: Offset,
    },
    /// The follower's log ends before the leader's begins: what is between was deleted. It has to
    /// begin anew there, and subscribe again.
    Begin {
        /// The leader epoch.
        epoch: Epoch,
        /// The subscription.
        session: Session,
        /// The leader's log start.
        start: Offset,
    },
    /// Records of the leader's log, which the driver sends behind this, and which are acknowledged
    /// when they are durable. Without records it is news of the high watermark, or a pulse if there
    /// is none; a pulse is answered at once.
    Data(Head),
    /// What a follower has.
    Ack {
        /// The leader epoch.
        epoch: Epoch,
        /// The subscription.
        session: Session,
        /// Everything below is durable there.
        durable: Offset,
        /// Bytes that it has taken in this subscription: the credit for them is back.
        taken: u64,
    },
    /// The leader does not serve this follower.
    Refused {
        /// The leader epoch there.
        epoch: Epoch,
        /// The subscription.
        session: Session,
        /// Kafka's code.
        why: ErrorCode,
    },
}

/// What stands before records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The leader epoch.
    pub epoch: Epoch,
    /// The subscription.
    pub session: Session,
    /// The first record's offset: where the follower's log has to end.
    pub base: Offset,
    /// The leader's high watermark.
    pub high: Offset,
    /// The leader's log start: what is before it was deleted.
    pub start: Offset,
}

/// How many a record has to reach until its producer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Nobody waits.
    None,
    /// The leader's disk.
    Leader,
    /// The disks of the in-sync set.
    All,
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this. It may be lost.
    Send(NodeId, Message),
    /// Read records from `head.base` on, at most so many bytes but at least one batch, send them
    /// behind the head, then call [`Replica::pushed`], or [`Replica::hold`] if it is not to be done
    /// now. At most one is under way to each follower.
    Push {
        /// To whom.
        to: NodeId,
        /// What stands before them.
        head: Head,
        /// The most bytes.
        max_bytes: u64,
        /// Whether nobody waits for it: the follower is not in sync.
        catch_up: bool,
    },
    /// Cut the log: its end is this from now on. Durable before anything that is appended later.
    Truncate(Offset),
    /// Throw the log away: it starts, and ends, here from now on. Durable before anything that is
    /// appended later.
    Reset(Offset),
    /// The high watermark is this from now on.
    High(Offset),
    /// Nobody needs what is before this: the leader has deleted it.
    Trim(Offset),
    /// What was appended with this ticket is settled.
    Settle(u64, Result<(), ErrorCode>),
    /// Ask the controller for another in-sync set.
    Wish(Wish),
}
