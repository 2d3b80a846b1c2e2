//! What the coordinators have in common: each is a state machine that is folded from one partition
//! of an internal topic, is asked under tokens, and says what to write and what to answer.
//!
//! Invariant: durable state changes in [`Machine::replay`] alone, which a start and a running
//! machine go through alike.

use streamd_model::{ErrorCode, Mono};

use crate::codec::Damaged;

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// What timeouts are measured on.
    pub mono: Mono,
    /// What is written down, ms.
    pub wall_ms: i64,
}

/// What the answer to a request is found by. Whoever asks makes it up; it is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A record of an internal topic.
pub trait Record: Sized {
    /// The key of the record.
    fn key(&self) -> Vec<u8>;

    /// The value of the record; `None` for a tombstone.
    fn value(&self) -> Option<Vec<u8>>;

    /// Reads a record. `None` if it is of a kind that means nothing here.
    ///
    /// # Errors
    /// [`Damaged`] if it is of a known kind, but its bytes are not.
    fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, Damaged>;
}

/// Records to append, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<R> {
    /// What [`Machine::persisted`] is told when they are on stable storage.
    pub seq: u64,
    /// The transaction that they are part of: producer id and epoch.
    pub txn: Option<(i64, i16)>,
    /// The records.
    pub records: Vec<R>,
}

/// What the driver has to do.
#[must_use]
pub struct Effects<M: Machine> {
    /// To be made durable. Batches go to the log in the order in which they come out.
    pub persist: Option<Batch<M::Record>>,
    /// To be sent at once: nothing in them waits for a write.
    pub replies: Vec<(Token, M::Reply)>,
    /// To be carried out at once: what they stand on is durable.
    pub orders: Vec<M::Order>,
}

/// See the module.
pub trait Machine: Sized {
    /// What it writes.
    type Record: Record;
    /// What is asked of it.
    type Request;
    /// What it answers; a code when it fails as a whole.
    type Reply: From<ErrorCode>;
    /// What else it has the driver do; [`std::convert::Infallible`] if nothing.
    type Order;

    /// Folds a record of the log in.
    fn replay(&mut self, record: &Self::Record);

    /// Begins to serve what was replayed.
    fn start(&mut self, now: Now) -> Effects<Self>;

    /// Does what is asked of what `key` names. A reply under `token` comes now or later, once.
    fn handle(
        &mut self,
        now: Now,
        key: &str,
        token: Token,
        request: Self::Request,
    ) -> Effects<Self>;

    /// Batches up to `seq` are on stable storage. Nothing is written because of it.
    fn persisted(&mut self, seq: u64) -> Effects<Self>;

    /// The log is lost to this machine, or is being closed: it answers everything with `code` from
    /// now on. What it knows stays, for [`Machine::encode`].
    fn fail(&mut self, code: ErrorCode) -> Effects<Self>;

    /// When [`Machine::tick`] has something to do.
    fn next_tick(&self) -> Option<Mono>;

    /// Does one thing whose time has come.
    fn tick(&mut self, now: Now) -> Effects<Self>;

    /// The durable state, to begin a replay from.
    fn encode(&self) -> Vec<u8>;

    /// Folds in what [`Machine::encode`] gave.
    ///
    /// # Errors
    /// [`Damaged`] if the bytes are nothing such.
    fn decode(&mut self, bytes: &[u8]) -> Result<(), Damaged>;
}
