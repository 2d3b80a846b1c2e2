//! Tasks: what `spawn` returns, and the future that both arms run.
//!
//! Invariant: a task's future is dropped when it ends, at its next turn after its [`Task`] was
//! dropped, or when its executor closes; never in the middle of its own poll.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

enum State<T> {
    Running(Option<Waker>),
    Done(T),
    /// The result was taken, or there will be none.
    Gone,
}

struct Join<T> {
    state: RefCell<State<T>>,
    canceled: Cell<bool>,
    /// Wakes the task, so that a cancellation is seen. Empty before its first turn.
    task: RefCell<Option<Waker>>,
}

/// A running task. Await it for its result; dropping it cancels the task, [`Task::detach`] lets
/// it run on. If the executor closes first, the result never comes.
#[must_use = "dropping a task cancels it: detach it to let it run on"]
pub struct Task<T> {
    join: Rc<Join<T>>,
    detached: bool,
}

impl<T> Task<T> {
    /// Lets the task run on by itself.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        !matches!(*self.join.state.borrow(), State::Running(_))
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.join.state.borrow_mut();
        match std::mem::replace(&mut *state, State::Gone) {
            State::Done(value) => Poll::Ready(value),
            State::Running(_) => {
                *state = State::Running(Some(cx.waker().clone()));
                Poll::Pending
            }
            State::Gone => Poll::Pending,
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if !self.detached && !self.is_finished() {
            self.join.canceled.set(true);
            if let Some(waker) = self.join.task.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

/// The future that an arm's executor runs for a task.
pub(crate) struct Body<F: Future> {
    future: Option<F>,
    join: Rc<Join<F::Output>>,
}

/// The two ends of a new task.
pub(crate) fn new<F: Future>(future: F) -> (Body<F>, Task<F::Output>) {
    let join = Rc::new(Join {
        state: RefCell::new(State::Running(None)),
        canceled: Cell::new(false),
        task: RefCell::new(None),
    });
    (
        Body {
            future: Some(future),
            join: join.clone(),
        },
        Task {
            join,
            detached: false,
        },
    )
}

impl<F: Future> Body<F> {
    /// Drops the future now; the task is over.
    pub(crate) fn abort(mut self: Pin<&mut Self>) {
        self.as_mut().future().set(None);
        let old = self.join.state.replace(State::Gone);
        self.join.task.borrow_mut().take();
        drop(old);
    }

    fn future(self: Pin<&mut Self>) -> Pin<&mut Option<F>> {
        // SAFETY: `future` is pinned with `self`: it is never moved out, only polled in place or
        // dropped in place by `Pin::set`.
        unsafe { self.map_unchecked_mut(|s| &mut s.future) }
    }
}

impl<F: Future> Future for Body<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.join.canceled.get() {
            self.abort();
            return Poll::Ready(());
        }
        if self.join.task.borrow().is_none() {
            *self.join.task.borrow_mut() = Some(cx.waker().clone());
        }
        let Some(future) = self.as_mut().future().as_pin_mut() else {
            return Poll::Ready(());
        };
        let Poll::Ready(value) = future.poll(cx) else {
            return Poll::Pending;
        };
        self.as_mut().future().set(None);
        self.join.task.borrow_mut().take();
        if let State::Running(Some(waker)) = self.join.state.replace(State::Done(value)) {
            waker.wake();
        }
        Poll::Ready(())
    }
}
