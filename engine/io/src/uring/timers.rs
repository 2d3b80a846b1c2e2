//! Timers of one shard, by the time at which they are due.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Waker;

/// When a timer is due (ns), and its number.
pub(super) type Key = (u64, u64);

#[derive(Default)]
pub(super) struct Timers {
    all: RefCell<BTreeMap<Key, Waker>>,
    next: Cell<u64>,
}

impl Timers {
    pub(super) fn add(&self, due: u64, waker: Waker) -> Key {
        let key = (due, self.next.get());
        self.next.set(key.1 + 1);
        self.all.borrow_mut().insert(key, waker);
        key
    }

    /// Gives a timer that is not due yet another waker.
    pub(super) fn renew(&self, key: Key, waker: &Waker) {
        if let Some(old) = self.all.borrow_mut().get_mut(&key) {
            old.clone_from(waker);
        }
    }

    pub(super) fn remove(&self, key: Key) {
        let old = self.all.borrow_mut().remove(&key);
        drop(old);
    }

    /// When the next one is due (ns).
    pub(super) fn next_due(&self) -> Option<u64> {
        self.all.borrow().first_key_value().map(|(key, _)| key.0)
    }

    /// Wakes those that are due.
    pub(super) fn fire(&self, now: u64) {
        loop {
            let first = {
                let mut all = self.all.borrow_mut();
                match all.first_entry() {
                    Some(entry) if entry.key().0 <= now => entry.remove(),
                    _ => return,
                }
            };
            first.wake();
        }
    }
}
