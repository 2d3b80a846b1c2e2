//! Who waits for a partition: producers for their batches to be durable, consumers for new bytes.
//!
//! One waiter serves a whole request, whatever the number of its partitions: a partition only
//! counts it down, and the last one wakes it. What went wrong is noted by the item of the request.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use streamd_core::repl::Acks;
use streamd_model::ErrorCode;

/// Counts down to zero, then wakes whoever waits.
#[derive(Default)]
pub struct Countdown {
    left: Cell<i64>,
    waker: RefCell<Option<Waker>>,
    unsettled: RefCell<Vec<(usize, Unsettled)>>,
}

/// Why an item of a request was not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// The replica gave it up: why.
    Refused(ErrorCode),
    /// The partition failed, is gone, or cannot write for now.
    LetGo,
}

impl Countdown {
    /// A countdown from `left`; done at once when that is not above zero.
    pub fn new(left: i64) -> Rc<Countdown> {
        Rc::new(Countdown {
            left: Cell::new(left),
            ..Countdown::default()
        })
    }

    /// Why an item was not settled; `None` if it was.
    pub fn unsettled(&self, item: usize) -> Option<Unsettled> {
        let all = self.unsettled.borrow();
        all.iter().find(|(i, _)| *i == item).map(|(_, why)| *why)
    }

    fn note(&self, item: usize, why: Unsettled) {
        self.unsettled.borrow_mut().push((item, why));
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

/// Whoever waits for what was appended with a ticket.
struct Waiter {
    ticket: u64,
    countdown: Rc<Countdown>,
    /// Which item of its request it is.
    item: usize,
}

/// The waiters of one partition.
#[derive(Default)]
pub struct Waiters {
    /// For this disk, and for those of the in-sync set; each in the order of the tickets.
    acks: [RefCell<VecDeque<Waiter>>; 2],
    last_ticket: Cell<u64>,
    watches: Rc<RefCell<BTreeMap<u64, Rc<Countdown>>>>,
    next_watch: Cell<u64>,
}

impl Waiters {
    /// A ticket for what is to be appended: `countdown` goes down by one when it is settled, or
    /// given up, and is told then of what item that was.
    pub fn ack(&self, acks: Acks, countdown: &Rc<Countdown>, item: usize) -> u64 {
        let all = acks == Acks::All;
        // A ticket tells in which of the two queues it is.
        let ticket = ((self.last_ticket.get() >> 1) + 1) << 1 | u64::from(all);
        self.last_ticket.set(ticket);
        if acks != Acks::None {
            countdown.expect(1);
            self.acks[usize::from(all)].borrow_mut().push_back(Waiter {
                ticket,
                countdown: countdown.clone(),
                item,
            });
        }
        ticket
    }

    /// What was to be appended with the ticket that was given out last was not.
    pub fn withdraw(&self, ticket: u64) {
        let mut acks = self.acks[(ticket & 1) as usize].borrow_mut();
        if acks.back().is_some_and(|w| w.ticket == ticket)
            && let Some(last) = acks.pop_back()
        {
            last.countdown.take(1);
        }
    }

    /// What was appended with a ticket is settled, or was given up.
    pub fn settle(&self, ticket: u64, result: Result<(), ErrorCode>) {
        let mut acks = self.acks[(ticket & 1) as usize].borrow_mut();
        // Those before it were let go.
        while acks.front().is_some_and(|w| w.ticket < ticket) {
            acks.pop_front();
        }
        if acks.front().is_none_or(|w| w.ticket != ticket) {
            return;
        }
        let done = acks.pop_front();
        drop(acks);
        if let Some(Waiter {
            countdown, item, ..
        }) = done
        {
            if let Err(code) = result {
                countdown.note(item, Unsettled::Refused(code));
            }
            countdown.take(1);
        }
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

    /// `bytes` more can be read.
    pub fn readable(&self, bytes: usize) {
        for countdown in self.watches.borrow().values() {
            countdown.take(bytes as i64);
        }
    }

    /// Whoever waits to read is woken to find out that something is different.
    pub fn wake_readers(&self) {
        for countdown in self.watches.borrow().values() {
            countdown.take(i64::MAX / 4);
        }
    }

    /// The partition failed, is gone, or cannot write: everybody is woken to find that out.
    pub fn release_all(&self) {
        for acks in &self.acks {
            for Waiter {
                countdown, item, ..
            } in acks.take()
            {
                countdown.note(item, Unsettled::LetGo);
                countdown.take(1);
            }
        }
        self.wake_readers();
    }
}
