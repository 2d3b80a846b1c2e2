//! Who waits for a partition: producers for their batches to be durable, consumers for new bytes.
//!
//! One waiter serves a whole request, whatever the number of its partitions: a partition only
//! counts it down, and the last one wakes it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use streamd_model::Offset;

/// Counts down to zero, then wakes whoever waits.
#[derive(Default)]
pub struct Countdown {
    left: Cell<i64>,
    waker: RefCell<Option<Waker>>,
}

impl Countdown {
    /// A countdown from `left`; done at once when that is not above zero.
    pub fn new(left: i64) -> Rc<Countdown> {
        Rc::new(Countdown {
            left: Cell::new(left),
            waker: RefCell::new(None),
        })
    }

    /// Adds to what is to come.
    pub fn expect(&self, more: i64) {
        self.left.set(self.left.get() + more);
    }

    /// Takes `n` off.
    pub fn take(&self, n: i64) {
        self.left.set(self.left.get() - n);
        if self.left.get() <= 0
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Whether it has come to zero.
    pub fn is_done(&self) -> bool {
        self.left.get() <= 0
    }

    /// Waits until it has come to zero.
    pub async fn done(&self) {
        poll_fn(|cx| {
            if self.is_done() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Someone's interest in what becomes readable; ends when it is dropped.
pub struct Watch {
    all: Rc<RefCell<BTreeMap<u64, Rc<Countdown>>>>,
    key: u64,
    countdown: Rc<Countdown>,
}

impl Watch {
    /// Of the next change of a partition.
    pub fn of(waiters: &Waiters) -> Watch {
        waiters.watch(Countdown::new(1))
    }

    /// Waits for it.
    pub async fn changed(&self) {
        self.countdown.done().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.all.borrow_mut().remove(&self.key);
    }
}

/// The waiters of one partition.
#[derive(Default)]
pub struct Waiters {
    /// In the order of their offsets.
    acks: RefCell<VecDeque<(Offset, Rc<Countdown>)>>,
    watches: Rc<RefCell<BTreeMap<u64, Rc<Countdown>>>>,
    next_watch: Cell<u64>,
}

impl Waiters {
    /// `countdown` goes down by one when the partition is durable up to `offset`, or has failed.
    pub fn ack(&self, offset: Offset, countdown: Rc<Countdown>) {
        let mut acks = self.acks.borrow_mut();
        assert!(
            acks.back().is_none_or(|(o, _)| *o <= offset),
            "waiters come in order"
        );
        acks.push_back((offset, countdown));
    }

    /// `countdown` goes down by the bytes that become readable, for as long as the watch lives.
    pub fn watch(&self, countdown: Rc<Countdown>) -> Watch {
        let key = self.next_watch.get();
        self.next_watch.set(key + 1);
        self.watches.borrow_mut().insert(key, countdown.clone());
        Watch {
            all: self.watches.clone(),
            key,
            countdown,
        }
    }

    /// The partition is durable and readable up to `high`; `bytes` became readable.
    pub fn advanced(&self, high: Offset, bytes: usize) {
        loop {
            let mut acks = self.acks.borrow_mut();
            if acks.front().is_none_or(|(o, _)| *o > high) {
                break;
            }
            let done = acks.pop_front();
            drop(acks);
            if let Some((_, countdown)) = done {
                countdown.take(1);
            }
        }
        for countdown in self.watches.borrow().values() {
            countdown.take(bytes as i64);
        }
    }

    /// The partition failed or is gone: everybody is woken to find that out.
    pub fn release_all(&self) {
        for (_, countdown) in self.acks.borrow_mut().drain(..) {
            countdown.take(1);
        }
        for countdown in self.watches.borrow().values() {
            countdown.take(i64::MAX / 4);
        }
    }
}
