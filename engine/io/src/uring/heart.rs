//! The heartbeat of a shard: the guard against an executor that parks with work waiting.
//!
//! glommio parks for ever if an event without a waker (its own preemption timer) fires between
//! its look at the rings and its first task. A parked executor wakes for its next timer, so one
//! timer is always near: 2 ms away while the shard is in use, 40 ms when it has been idle. Its
//! waker runs inside the reactor, before any task: if a task has been waiting for its turn since
//! long before, and nothing ran meanwhile, the shard was asleep and should not have been.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_lite::pin;
use glommio::timer::Timer;
use std::future::Future;

use super::shard::{Shard, clock_ns};
use super::waker::Home;

/// Idle for so long (ns): the heart slows down.
pub(super) const IDLE_AFTER: u64 = 30_000_000;
const FAST: Duration = Duration::from_millis(2);
const SLOW: Duration = Duration::from_millis(40);
/// Waiting for longer than this (ns), with nothing running, is a wrong park.
const LATE: u64 = 300_000;

/// Stands between the timer and the heart's task: notes what the shard was doing at the moment
/// when the timer fires.
struct Pulse {
    home: Arc<Home>,
    inner: Waker,
    /// For how long (ns) a task had been waiting when the timer fired; 0: none was.
    waited: AtomicU64,
}

impl Wake for Pulse {
    fn wake(self: Arc<Self>) {
        self.waited
            .store(self.home.asleep_with_work(clock_ns()), Ordering::Relaxed);
        self.inner.wake_by_ref();
    }
}

/// Runs for ever.
pub(super) async fn run(shard: Rc<Shard>) {
    loop {
        let idle = clock_ns().saturating_sub(shard.home.last_end()) > IDLE_AFTER;
        let waited = beat(&shard, if idle { SLOW } else { FAST }, idle).await;
        if waited > LATE {
            shard.count_rescue();
        }
        shard.home.drain();
    }
}

/// Sleeps for `d` (or until the shard leaves idleness, if `early`); how long a task had been
/// waiting when the timer fired (ns).
async fn beat(shard: &Shard, d: Duration, early: bool) -> u64 {
    let timer = Timer::new(d);
    pin!(timer);
    let mut pulse: Option<(Arc<Pulse>, Waker)> = None;
    let mut armed = false;
    std::future::poll_fn(|cx| {
        let (state, waker) = pulse.get_or_insert_with(|| {
            let state = Arc::new(Pulse {
                home: shard.home.clone(),
                inner: cx.waker().clone(),
                waited: AtomicU64::new(0),
            });
            let waker = Waker::from(state.clone());
            (state, waker)
        });
        if timer
            .as_mut()
            .poll(&mut Context::from_waker(waker))
            .is_ready()
        {
            return Poll::Ready(state.waited.load(Ordering::Relaxed));
        }
        if early && armed {
            return Poll::Ready(0);
        }
        if early {
            armed = true;
            shard.heart.set(Some(cx.waker().clone()));
        }
        Poll::Pending
    })
    .await
}
