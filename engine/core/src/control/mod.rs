//! Who decides: the controller over the image, the node of the quorum that it lives in, and a
//! broker's seat in the cluster.
//!
//! Invariants: the controller decides only on an image that has all that was committed before its
//! term, one batch of commands at a time; a leader comes out of the in-sync set unless somebody
//! orders otherwise; a broker's lease ends before the controller may take it for gone.

mod change;
mod codec;
mod controller;
mod members;
mod node;
mod place;
mod propose;
mod reassign;
mod seat;
mod spread;
#[cfg(test)]
mod tests;

use std::time::Duration;

use streamd_model::{Epoch, ErrorCode, NodeId, PartitionId, TopicId};

use crate::Refused;
use crate::meta::{Command, Registration, Wanted};

pub use codec::{decode_outcome, encode_outcome};
pub use controller::Controller;
pub use node::{Metadata, Output, Token};
pub use place::{Site, place, sites};
pub use propose::plan;
pub use seat::{Seat, SeatEffect};

/// Times of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// A broker that was silent for so long is taken for gone (`broker.session.timeout.ms`).
    pub session: Duration,
    /// Between a broker's heartbeats (`broker.heartbeat.interval.ms`).
    pub heartbeat: Duration,
    /// Until a request to the controller is sent again.
    pub request: Duration,
    /// Between looks for leaders that are not the preferred ones
    /// (`leader.imbalance.check.interval.seconds`).
    pub balance: Duration,
}

impl Times {
    /// How long a broker may act on a heartbeat that was answered, from when it was sent. It is
    /// well below the session: clocks do not run equally fast.
    pub fn lease(&self) -> Duration {
        self.session * 2 / 3
    }
}

impl Default for Times {
    fn default() -> Times {
        Times {
            session: Duration::from_secs(9),
            heartbeat: Duration::from_millis(1_500),
            request: Duration::from_secs(2),
            balance: Duration::from_secs(300),
        }
    }
}

/// What a leader wants its partition's in-sync set to be (Kafka's AlterPartition).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewIsr {
    /// The partition.
    pub partition: PartitionId,
    /// The leader's epoch.
    pub leader_epoch: Epoch,
    /// The partition's epoch that the leader knows.
    pub epoch: i32,
    /// The set, with the brokers' epochs; -1 if one is not known.
    pub isr: Vec<(NodeId, i64)>,
}

/// Which leader is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// The first replica, if it is in sync.
    Preferred,
    /// Any replica if none of the in-sync set is there: acknowledged records may be lost.
    Unclean,
}

/// What the controller is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A broker is there.
    Register(Registration),
    /// A broker lives.
    Heartbeat {
        /// The broker.
        node: NodeId,
        /// Its epoch.
        epoch: i64,
        /// The version of the image that it has.
        version: u64,
        /// It wants to stop.
        leaving: bool,
    },
    /// A connection to this broker broke: it is taken for gone at once.
    Lost {
        /// The broker.
        node: NodeId,
        /// Its epoch.
        epoch: i64,
    },
    /// A leader wants other in-sync sets.
    Alter {
        /// The leader.
        node: NodeId,
        /// Its broker epoch.
        epoch: i64,
        /// The sets.
        sets: Vec<NewIsr>,
    },
    /// Commands that were made elsewhere out of a request, all or none. Partitions of topics
    /// without places get them.
    Propose {
        /// The commands.
        commands: Vec<Command>,
        /// Replicas of the partitions that get places; `None`: the setting of the brokers.
        replication: Option<i16>,
    },
    /// Leaders are wanted.
    Elect {
        /// Which.
        election: Election,
        /// Of which partitions.
        partitions: Vec<PartitionId>,
    },
    /// A partition moves; `None` calls off what is under way.
    Reassign {
        /// The partition.
        partition: PartitionId,
        /// Where to.
        replicas: Option<Vec<NodeId>>,
    },
    /// A broker goes for good.
    Unregister(NodeId),
}

impl From<Wanted> for Ask {
    fn from(wanted: Wanted) -> Ask {
        Ask::Propose {
            commands: wanted.commands,
            replication: wanted.replication,
        }
    }
}

/// What the controller answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// The broker has this epoch.
    Registered {
        /// The epoch.
        epoch: i64,
    },
    /// The heartbeat counts.
    Heartbeat {
        /// The broker is fenced.
        fenced: bool,
        /// Nothing is led by the broker any more: it may stop.
        may_stop: bool,
    },
    /// For each set or partition, in order.
    Each(Vec<(PartitionId, ErrorCode)>),
}

/// An answer, or why there is none.
pub type Outcome = Result<Answer, Refused>;

/// A refusal.
fn refuse<T>(code: ErrorCode, text: impl Into<String>) -> Result<T, Refused> {
    Err((code, text.into()))
}

/// What a topic without places is known by.
type Unplaced = (TopicId, i32, i32);
