//! Primitives for the tasks of one shard: byte budget, one-shot, notification. No atomics, no
//! locks; they never leave their thread.
//!
//! Invariant: waiters of a [`Budget`] are served in the order in which they came, so that a large
//! request cannot starve behind small ones.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Lets the other tasks that wait have their turn first.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A number of bytes that may be in use at once. Clones share it.
#[derive(Clone)]
pub struct Budget(Rc<BudgetInner>);

struct BudgetInner {
    total: usize,
    used: Cell<usize>,
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
}

struct Waiter {
    bytes: usize,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: usize) -> Budget {
        Budget(Rc::new(BudgetInner {
            total,
            used: Cell::new(0),
            waiters: RefCell::new(VecDeque::new()),
        }))
    }

    /// Takes `bytes`; waits while they are not free. A request larger than the whole budget is
    /// granted when the budget is wholly free.
    pub fn acquire(&self, bytes: usize) -> Acquire {
        Acquire {
            budget: self.clone(),
            bytes,
            waiter: None,
        }
    }

    /// Takes `bytes` now, or not at all (also when somebody waits).
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        if !self.0.waiters.borrow().is_empty() || !self.0.fits(bytes) {
            return None;
        }
        self.0.used.set(self.0.used.get() + bytes);
        Some(Permit {
            budget: self.clone(),
            bytes,
        })
    }

    /// Bytes in use now.
    pub fn used(&self) -> usize {
        self.0.used.get()
    }

    /// The whole budget in bytes.
    pub fn total(&self) -> usize {
        self.0.total
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.waiters.borrow().len()
    }
}

impl BudgetInner {
    fn fits(&self, bytes: usize) -> bool {
        let used = self.used.get();
        used == 0 || used.saturating_add(bytes) <= self.total
    }

    fn release(&self, bytes: usize) {
        let used = self.used.get();
        assert!(
            bytes <= used,
            "budget: {bytes} bytes come back, {used} are out"
        );
        self.used.set(used - bytes);
        self.serve();
    }

    fn serve(&self) {
        loop {
            let next = match self.waiters.borrow().front() {
                Some(w) if self.fits(w.bytes) => w.clone(),
                _ => return,
            };
            self.waiters.borrow_mut().pop_front();
            self.used.set(self.used.get() + next.bytes);
            next.granted.set(true);
            let waker = next.waker.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Waits for bytes of a [`Budget`].
pub struct Acquire {
    budget: Budget,
    bytes: usize,
    waiter: Option<Rc<Waiter>>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        if let Some(w) = &self.waiter {
            if !w.granted.get() {
                *w.waker.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            self.waiter = None;
            return Poll::Ready(Permit {
                budget: self.budget.clone(),
                bytes: self.bytes,
            });
        }
        if let Some(permit) = self.budget.try_acquire(self.bytes) {
            return Poll::Ready(permit);
        }
        let waiter = Rc::new(Waiter {
            bytes: self.bytes,
            granted: Cell::new(false),
            waker: RefCell::new(Some(cx.waker().clone())),
        });
        self.budget.0.waiters.borrow_mut().push_back(waiter.clone());
        self.waiter = Some(waiter);
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(w) = self.waiter.take() else { return };
        if w.granted.get() {
            self.budget.0.release(self.bytes);
        } else {
            self.budget
                .0
                .waiters
                .borrow_mut()
                .retain(|x| !Rc::ptr_eq(x, &w));
            self.budget.0.serve();
        }
    }
}

/// Bytes taken from a [`Budget`]; dropping it gives them back.
pub struct Permit {
    budget: Budget,
    bytes: usize,
}

impl Permit {
    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back all but `bytes`; nothing happens when it holds no more than that.
    pub fn shrink(&mut self, bytes: usize) {
        if bytes < self.bytes {
            let back = self.bytes - bytes;
            self.bytes = bytes;
            self.budget.0.release(back);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.0.release(self.bytes);
    }
}

/// The sender was dropped without sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canceled;

impl fmt::Display for Canceled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task that should have answered has ended without an answer")
    }
}

impl std::error::Error for Canceled {}

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
}

/// A channel for one value.
pub fn oneshot<T>() -> (OneSender<T>, OneReceiver<T>) {
    let slot = Rc::new(RefCell::new(Slot {
        value: None,
        waker: None,
        sender_gone: false,
        receiver_gone: false,
    }));
    (OneSender(slot.clone()), OneReceiver(slot))
}

/// The end that sends.
pub struct OneSender<T>(Rc<RefCell<Slot<T>>>);

/// The end that receives: a future.
pub struct OneReceiver<T>(Rc<RefCell<Slot<T>>>);

impl<T> OneSender<T> {
    /// Sends; the value comes back if nobody listens any more.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut slot = self.0.borrow_mut();
        if slot.receiver_gone {
            return Err(value);
        }
        slot.value = Some(value);
        Ok(())
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().receiver_gone
    }
}

impl<T> Drop for OneSender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = self.0.borrow_mut();
            slot.sender_gone = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for OneReceiver<T> {
    type Output = Result<T, Canceled>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.borrow_mut();
        match slot.value.take() {
            Some(value) => Poll::Ready(Ok(value)),
            None if slot.sender_gone => Poll::Ready(Err(Canceled)),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for OneReceiver<T> {
    fn drop(&mut self) {
        let value = {
            let mut slot = self.0.borrow_mut();
            slot.receiver_gone = true;
            slot.waker = None;
            slot.value.take()
        };
        drop(value);
    }
}

/// Wakes everybody who waits. Clones share it.
#[derive(Clone, Default)]
pub struct Notify(Rc<NotifyInner>);

#[derive(Default)]
struct NotifyInner {
    round: Cell<u64>,
    waiters: RefCell<slab::Slab<Waker>>,
}

impl Notify {
    /// A new one with nobody waiting.
    pub fn new() -> Notify {
        Notify::default()
    }

    /// Resolves at the first [`Notify::notify_all`] after this call (also when it comes before
    /// the future is first polled).
    pub fn wait(&self) -> Wait {
        Wait {
            notify: self.clone(),
            round: self.0.round.get(),
            key: None,
        }
    }

    /// Wakes all who wait now.
    pub fn notify_all(&self) {
        self.0.round.set(self.0.round.get() + 1);
        let waiters = self.0.waiters.take();
        for (_, waker) in waiters {
            waker.wake();
        }
    }
}

/// Waits on a [`Notify`].
pub struct Wait {
    notify: Notify,
    round: u64,
    key: Option<usize>,
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.notify.0.round.get() != self.round {
            self.key = None;
            return Poll::Ready(());
        }
        let notify = self.notify.clone();
        let mut waiters = notify.0.waiters.borrow_mut();
        match self.key {
            Some(key) => waiters[key] = cx.waker().clone(),
            None => self.key = Some(waiters.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // After a notification the slab is a new one and the key means nothing.
        if let Some(key) = self.key
            && self.notify.0.round.get() == self.round
        {
            self.notify.0.waiters.borrow_mut().try_remove(key);
        }
    }
}
