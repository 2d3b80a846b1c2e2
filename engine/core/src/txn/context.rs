//! What the transactional ids of a coordinator share: its clock work, what goes out, its limits.

use std::sync::Arc;
use std::time::Duration;

use super::coordinator::Coordinator;
use super::record::{Partitions, TxnRecord};
use crate::config::TxnConfig;
use crate::machine;
use crate::outbox::Outbox;
use crate::timers::Timers;

/// The most transactional ids of one coordinator.
pub(super) const IDS_MAX: usize = 200_000;
/// The most partitions of one transaction: they go into one record.
pub(super) const PARTITIONS_MAX: usize = 20_000;

/// The settings that a coordinator goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest timeout that a producer may ask for, ms.
    pub timeout_max_ms: i32,
    /// How long an idle transactional id is kept, ms.
    pub id_expiration_ms: i64,
    /// How often that is looked after.
    pub expire_check: Duration,
    /// After how long a marker that could not be written is tried again.
    pub retry: Duration,
}

impl Limits {
    /// What the broker's settings say.
    pub fn of(config: &TxnConfig) -> Limits {
        Limits {
            timeout_max_ms: config.timeout_max_ms,
            id_expiration_ms: config.id_expiration_ms,
            expire_check: Duration::from_millis(config.expire_check_ms),
            retry: Duration::from_millis(100),
        }
    }
}

/// Records to append, in this order.
pub type Batch = machine::Batch<TxnRecord>;

/// Markers to write: the decision about a transaction, for the partitions that it wrote to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    /// The transactional id.
    pub id: Arc<str>,
    /// What [`super::Coordinator::marked`] is told.
    pub round: u64,
    /// Its producer id.
    pub producer: i64,
    /// The epoch that the markers bring; older ones are fenced by them.
    pub epoch: i16,
    /// Commit, or abort.
    pub commit: bool,
    /// Where to.
    pub partitions: Partitions,
}

/// What the driver has to do.
pub type Effects = machine::Effects<Coordinator>;

/// What a timer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A transaction has been open for too long.
    Timeout(Arc<str>),
    /// Markers that could not be written are due again.
    Retry(Arc<str>, u64),
    /// Time to look for ids that nobody uses; from this one on.
    Expire(Option<Arc<str>>),
}

/// See the module.
pub(super) struct Context {
    pub limits: Limits,
    pub timers: Timers<Timer>,
    pub out: Outbox<Coordinator>,
    rounds: u64,
}

impl Context {
    pub fn new(limits: Limits) -> Context {
        Context {
            limits,
            timers: Timers::default(),
            out: Outbox::default(),
            rounds: 0,
        }
    }

    /// A number for an end of a transaction that no other has.
    pub fn next_round(&mut self) -> u64 {
        self.rounds += 1;
        self.rounds
    }
}
