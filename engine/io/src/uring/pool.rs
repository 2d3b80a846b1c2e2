//! Threads for calls that block: started on demand, ended when idle. They run on all cores of the
//! process, whatever core their shard is pinned to.
//!
//! Invariants: a call that was handed in is carried out, also when nobody waits for it any more;
//! when [`Pool::close`] returns, all of them are over.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A thread without work for so long ends.
const IDLE_EXIT: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    closed: bool,
}

pub(super) struct Pool {
    state: Mutex<State>,
    work: Condvar,
    /// A thread has ended.
    ended: Condvar,
    most: usize,
    cores: Vec<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// At most `most` threads, on `cores`.
    pub(super) fn new(most: usize, cores: Vec<usize>) -> Arc<Pool> {
        Arc::new(Pool {
            state: Mutex::new(State::default()),
            work: Condvar::new(),
            ended: Condvar::new(),
            most: most.max(1),
            cores,
        })
    }

    /// Where its threads run.
    pub(super) fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// Runs `f` on a thread that may block.
    pub(super) fn run<T, F>(self: &Arc<Self>, f: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let slot = Arc::new(Mutex::new((None, None::<Waker>)));
        let theirs = slot.clone();
        let job = move || {
            let result = catch_unwind(AssertUnwindSafe(f))
                .unwrap_or_else(|_| Err(io::Error::other("a blocking call panicked")));
            let waker = {
                let mut slot = lock(&theirs);
                slot.0 = Some(result);
                slot.1.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        };
        if let Err(e) = self.submit(Box::new(job)) {
            lock(&slot).0 = Some(Err(e));
        }
        Call { slot }
    }

    fn submit(self: &Arc<Self>, job: Job) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            self.work.notify_one();
            return Ok(());
        }
        if state.threads >= self.most {
            return Ok(());
        }
        let pool = self.clone();
        let started = std::thread::Builder::new()
            .name("io-blocking".into())
            .spawn(move || pool.work());
        match started {
            Ok(_) => state.threads += 1,
            // The others will do it.
            Err(_) if state.threads > 0 => {}
            Err(e) => {
                state.jobs.pop_back();
                return Err(e);
            }
        }
        Ok(())
    }

    fn work(&self) {
        // Threads inherit the core of the shard that starts them.
        crate::process::pin(&self.cores);
        crate::profile::know_stack();
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = lock(&self.state);
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (back, timeout) = self
                .work
                .wait_timeout(state, IDLE_EXIT)
                .unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        drop(state);
        self.ended.notify_all();
    }

    /// Waits until every call is over and every thread has ended.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        self.work.notify_all();
        while state.threads > 0 {
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A call on its way.
pub(super) struct Call<T> {
    #[expect(clippy::type_complexity, reason = "the result, and who waits for it")]
    slot: Arc<Mutex<(Option<io::Result<T>>, Option<Waker>)>>,
}

impl<T> Future for Call<T> {
    type Output = io::Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = lock(&self.slot);
        match slot.0.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
