//! What waits to be sent on one native connection: answers and pushed records, in the order in
//! which they became known.
//!
//! Invariants: what is in it holds the memory that was reserved for it until it was sent; answers
//! that are owed are counted, so that a peer that asks without reading is not read on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bytes::Bytes;
use streamd_io::local::{Notify, Permit};
use streamd_io::{Env, Part, WriteHalf};
use streamd_shard::Refusal;
use streamd_wire::native::{Body, FLAG_ANSWER, Failure};

use crate::conn::Life;

/// Frames are sent together up to so many parts.
const TOGETHER_MAX: usize = 64;

/// What frames are told apart by: stream, correlation id, flags.
pub type Ids = (u32, u64, u16);

struct Ready {
    parts: Vec<Part>,
    permits: Vec<Permit>,
    /// Whether it is an answer that was promised.
    owed: bool,
}

/// The outgoing half of a connection.
#[derive(Default)]
pub struct Outbox {
    ready: RefCell<VecDeque<Ready>>,
    /// Answers that were promised and have not been sent.
    owed: Cell<usize>,
    /// Nothing comes any more.
    last: Cell<bool>,
    /// Nothing is sent any more.
    ended: Cell<bool>,
    changed: Notify,
}

impl Outbox {
    /// An answer will come.
    pub fn promise(&self) {
        self.owed.set(self.owed.get() + 1);
    }

    /// The answer that was promised; no parts if none is wanted after all.
    pub fn answer(&self, parts: Vec<Part>, permits: Vec<Permit>) {
        self.put(parts, permits, true);
    }

    /// Answers at once.
    pub fn say(&self, ids: Ids, body: &Body<'_>) {
        self.promise();
        self.answer(frame(ids, body), Vec::new());
    }

    /// Refuses what was asked under these ids; the flags are added to those of an answer.
    pub fn refuse(&self, (stream, correlation, flags): Ids, refusal: &Refusal) {
        let failure = Failure::new(refusal.code, &refusal.text);
        let ids = (stream, correlation, flags | FLAG_ANSWER);
        self.say(ids, &Body::Error(failure));
    }

    /// Pushes something that nobody asked for just now.
    pub fn push(&self, parts: Vec<Part>, permits: Vec<Permit>) {
        self.put(parts, permits, false);
    }

    fn put(&self, parts: Vec<Part>, permits: Vec<Permit>, owed: bool) {
        let ready = Ready {
            parts,
            permits,
            owed,
        };
        self.ready.borrow_mut().push_back(ready);
        self.changed.notify_all();
    }

    /// Waits until at most `n` answers are owed; false when nothing is sent any more.
    pub async fn at_most(&self, n: usize) -> bool {
        while self.owed.get() > n && !self.ended.get() {
            self.changed.wait().await;
        }
        !self.ended.get()
    }

    /// Waits until nothing is sent any more.
    pub async fn ended(&self) {
        while !self.ended.get() {
            self.changed.wait().await;
        }
    }

    /// What is in it is sent, and then nothing more.
    pub fn close(&self) {
        self.last.set(true);
        self.changed.notify_all();
    }

    /// Nothing is sent any more.
    pub fn end(&self) {
        self.ended.set(true);
        self.ready.borrow_mut().clear();
        self.changed.notify_all();
    }

    /// Sends until the connection ends.
    pub async fn send_all(&self, mut stream: WriteHalf, life: &Life, env: &Env) {
        while !self.ended.get() {
            let (parts, permits, owed) = self.take();
            if owed == 0 && parts.is_empty() {
                if self.last.get() {
                    break;
                }
                self.changed.wait().await;
                continue;
            }
            if !parts.is_empty() && stream.send(parts).await.is_err() {
                break;
            }
            drop(permits);
            life.last.set(env.now());
            self.owed.set(self.owed.get() - owed);
            self.changed.notify_all();
        }
        self.end();
        stream.shutdown();
    }

    /// What is to be sent together, and how many answers are in it.
    fn take(&self) -> (Vec<Part>, Vec<Permit>, usize) {
        let (mut parts, mut permits, mut owed) = (Vec::new(), Vec::new(), 0);
        let mut ready = self.ready.borrow_mut();
        while parts.len() < TOGETHER_MAX
            && let Some(next) = ready.pop_front()
        {
            parts.extend(next.parts);
            permits.extend(next.permits);
            owed += usize::from(next.owed);
        }
        (parts, permits, owed)
    }
}

/// A frame that is in memory as a whole.
pub fn frame(ids: Ids, body: &Body<'_>) -> Vec<Part> {
    let mut out = Vec::with_capacity(128);
    let tail = body.encode(ids, &mut out);
    out.extend_from_slice(tail);
    vec![Part::Bytes(Bytes::from(out))]
}
