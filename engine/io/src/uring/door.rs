//! How other threads hand something to a shard that may sleep.
//!
//! Invariants: nothing that was handed over lies there while the shard sleeps and nobody rings: the
//! shard says that it sleeps and then looks, the other adds and then looks whether the shard
//! sleeps, with a full fence in between on both sides, so at least one of them sees the other. A
//! task is handed over at most once before its turn begins, and what was done before a wake is
//! seen in a turn after it. `tests/model` checks both with all interleavings.

use crate::sync::{AtomicBool, Ordering, SegQueue, fence};

/// Where a shard finds what others hand to it.
pub(crate) struct Door<T> {
    alive: AtomicBool,
    /// The shard sleeps in the kernel, or is about to.
    asleep: AtomicBool,
    foreign: SegQueue<T>,
}

impl<T> Door<T> {
    pub(crate) fn new() -> Door<T> {
        Door {
            alive: AtomicBool::new(true),
            asleep: AtomicBool::new(false),
            foreign: SegQueue::new(),
        }
    }

    /// Hands `item` over; `true`: the bell must be rung. Dropped when the shard is no more.
    pub(crate) fn hand_over(&self, item: T) -> bool {
        self.foreign.push(item);
        fence(Ordering::SeqCst);
        if !self.alive.load(Ordering::Relaxed) {
            self.clear();
            return false;
        }
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel)
    }

    /// The shard is about to sleep; `false`: it must not, there is something for it.
    pub(crate) fn fall_asleep(&self) -> bool {
        // A swap, so that it comes after those of others, also in the model's eyes.
        self.asleep.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if self.foreign.is_empty() {
            return true;
        }
        self.awake();
        false
    }

    /// The shard does not sleep.
    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// What was handed over first.
    pub(crate) fn take(&self) -> Option<T> {
        self.foreign.pop()
    }

    /// The shard ends: what is there and what comes is dropped.
    pub(crate) fn close(&self) {
        self.alive.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.clear();
    }

    fn clear(&self) {
        while self.foreign.pop().is_some() {}
    }
}

/// Whether a task is in a queue, or on the way there.
pub(crate) struct Woken(AtomicBool);

impl Woken {
    /// Of a task that is about to be put into a queue.
    pub(crate) fn new() -> Woken {
        Woken(AtomicBool::new(true))
    }

    /// `true`: the caller puts the task into a queue.
    pub(crate) fn wake(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The task was taken from its queue: what comes from now on wakes it again.
    pub(crate) fn begin_turn(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }

    /// It is woken no more.
    pub(crate) fn end(&self) {
        self.0.store(true, Ordering::Release);
    }
}
