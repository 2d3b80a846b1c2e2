//! Bounded queues between shards: `n` endpoints, a lane from each to each, and one more lane per
//! endpoint for other threads.
//!
//! Invariants: a lane is first in, first out, also between tasks of one shard that wait for room
//! in it; nothing is dropped; a sender that found a lane full, and a receiver that found all lanes
//! empty, are woken after the other side moved (each side sets its flag, then looks again; the
//! other acts, then looks at the flag; a fence stands between). `tests/model` checks the last
//! with all interleavings.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::sync::{ArrayQueue, AtomicBool, Mutex, Ordering, PoisonError, fence};

/// Wakers behind a flag: the lock is taken only when somebody sleeps or is woken.
#[derive(Default)]
struct WakerSet {
    armed: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl WakerSet {
    fn register(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|w| w.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        self.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn wake(&self) {
        fence(Ordering::SeqCst);
        if !self.armed.load(Ordering::Relaxed) {
            return;
        }
        let wakers = {
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            self.armed.store(false, Ordering::Relaxed);
            std::mem::take(&mut *wakers)
        };
        for waker in wakers {
            waker.wake();
        }
    }
}

struct Lane<M> {
    queue: ArrayQueue<M>,
    /// Senders that found the queue full.
    room: WakerSet,
}

struct Inbox<M> {
    /// One lane per endpoint, then one for other threads.
    lanes: Vec<Lane<M>>,
    /// Receivers that found every lane empty.
    mail: WakerSet,
}

/// One shard's end of a mesh. `Send` until it is used; then it stays on its shard.
pub struct Endpoint<M> {
    index: usize,
    inboxes: Arc<[Inbox<M>]>,
    /// The lane to look at first, so that none starves.
    turn: Cell<usize>,
    /// Per target: tasks of this shard that wait for room, in their order.
    waiting: Vec<RefCell<VecDeque<(u64, Waker)>>>,
    ticket: Cell<u64>,
}

/// Makes a mesh of `n` endpoints; each lane holds `capacity` messages.
pub fn mesh<M: Send + 'static>(n: usize, capacity: usize) -> Vec<Endpoint<M>> {
    let inboxes: Arc<[Inbox<M>]> = (0..n)
        .map(|_| Inbox {
            lanes: (0..=n)
                .map(|_| Lane {
                    queue: ArrayQueue::new(capacity.max(1)),
                    room: WakerSet::default(),
                })
                .collect(),
            mail: WakerSet::default(),
        })
        .collect();
    (0..n)
        .map(|index| Endpoint {
            index,
            inboxes: inboxes.clone(),
            turn: Cell::new(0),
            waiting: (0..n).map(|_| RefCell::new(VecDeque::new())).collect(),
            ticket: Cell::new(0),
        })
        .collect()
}

impl<M: Send + 'static> Endpoint<M> {
    /// Which endpoint of the mesh this is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many endpoints the mesh has.
    pub fn len(&self) -> usize {
        self.inboxes.len()
    }

    /// Whether the mesh has no endpoint (never true for one that you hold).
    pub fn is_empty(&self) -> bool {
        self.inboxes.is_empty()
    }

    /// Sends to endpoint `to`; waits while that lane is full. Messages of this endpoint arrive in
    /// the order in which their futures were first polled.
    pub fn send(&self, to: usize, message: M) -> Sending<'_, M> {
        Sending {
            endpoint: self,
            to,
            message: Some(message),
            ticket: None,
        }
    }

    /// Sends now, or gives the message back when the lane is full or others wait for room.
    pub fn try_send(&self, to: usize, message: M) -> Result<(), M> {
        if !self.waiting[to].borrow().is_empty() {
            return Err(message);
        }
        self.inboxes[to].push(self.index, message)
    }

    /// The next message, from any lane in turn.
    pub fn recv(&self) -> Receiving<'_, M> {
        Receiving { endpoint: self }
    }

    /// The next message if there is one now.
    pub fn try_recv(&self) -> Option<M> {
        let inbox = &self.inboxes[self.index];
        let lanes = inbox.lanes.len();
        for i in 0..lanes {
            let at = (self.turn.get() + i) % lanes;
            if let Some(message) = inbox.lanes[at].queue.pop() {
                inbox.lanes[at].room.wake();
                self.turn.set((at + 1) % lanes);
                return Some(message);
            }
        }
        None
    }

    /// A sender to endpoint `to` for other threads.
    pub fn sender(&self, to: usize) -> Remote<M> {
        Remote {
            to,
            inboxes: self.inboxes.clone(),
        }
    }
}

impl<M> Inbox<M> {
    fn push(&self, lane: usize, message: M) -> Result<(), M> {
        self.lanes[lane].queue.push(message)?;
        self.mail.wake();
        Ok(())
    }
}

/// Sends a message; see [`Endpoint::send`].
pub struct Sending<'a, M: Send + 'static> {
    endpoint: &'a Endpoint<M>,
    to: usize,
    message: Option<M>,
    ticket: Option<u64>,
}

impl<M: Send + 'static> Unpin for Sending<'_, M> {}

impl<M: Send + 'static> Sending<'_, M> {
    /// Tries to push if it is this future's turn. `true` when the message is gone.
    fn push(&mut self) -> bool {
        let first = match self.endpoint.waiting[self.to].borrow().front() {
            None => self.ticket.is_none(),
            Some((ticket, _)) => Some(*ticket) == self.ticket,
        };
        let Some(message) = self.message.take() else {
            return true;
        };
        if !first {
            self.message = Some(message);
            return false;
        }
        match self.endpoint.inboxes[self.to].push(self.endpoint.index, message) {
            Ok(()) => true,
            Err(back) => {
                self.message = Some(back);
                false
            }
        }
    }

    /// Leaves the line, and tells the next one that it is first now.
    fn leave(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let next = {
            let mut line = self.endpoint.waiting[self.to].borrow_mut();
            line.retain(|(t, _)| *t != ticket);
            line.front().map(|(_, waker)| waker.clone())
        };
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

impl<M: Send + 'static> Future for Sending<'_, M> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.push() {
            self.leave();
            return Poll::Ready(());
        }
        let endpoint = self.endpoint;
        {
            let mut line = endpoint.waiting[self.to].borrow_mut();
            match self.ticket {
                Some(ticket) => {
                    if let Some(entry) = line.iter_mut().find(|(t, _)| *t == ticket) {
                        entry.1 = cx.waker().clone();
                    }
                }
                None => {
                    let ticket = endpoint.ticket.get();
                    endpoint.ticket.set(ticket + 1);
                    line.push_back((ticket, cx.waker().clone()));
                    self.ticket = Some(ticket);
                }
            }
        }
        let lane = &endpoint.inboxes[self.to].lanes[endpoint.index];
        lane.room.register(cx.waker());
        if self.push() {
            self.leave();
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<M: Send + 'static> Drop for Sending<'_, M> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Waits for a message; see [`Endpoint::recv`].
pub struct Receiving<'a, M> {
    endpoint: &'a Endpoint<M>,
}

impl<M: Send + 'static> Future for Receiving<'_, M> {
    type Output = M;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<M> {
        if let Some(message) = self.endpoint.try_recv() {
            return Poll::Ready(message);
        }
        self.endpoint.inboxes[self.endpoint.index]
            .mail
            .register(cx.waker());
        match self.endpoint.try_recv() {
            Some(message) => Poll::Ready(message),
            None => Poll::Pending,
        }
    }
}

/// A sender for threads that are not shards (or for tasks that must not wait).
pub struct Remote<M> {
    to: usize,
    inboxes: Arc<[Inbox<M>]>,
}

impl<M> Clone for Remote<M> {
    fn clone(&self) -> Remote<M> {
        Remote {
            to: self.to,
            inboxes: self.inboxes.clone(),
        }
    }
}

impl<M: Send + 'static> Remote<M> {
    /// Sends now, or gives the message back when the lane for other threads is full.
    pub fn try_send(&self, message: M) -> Result<(), M> {
        let inbox = &self.inboxes[self.to];
        inbox.push(inbox.lanes.len() - 1, message)
    }

    /// Sends; sleeps the calling thread while the lane is full. Never call it on a shard.
    pub fn send_blocking(&self, message: M) {
        let mut message = message;
        while let Err(back) = self.try_send(message) {
            message = back;
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}
