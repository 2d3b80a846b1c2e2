//! The state of one executor, and the future around each of its tasks.
//!
//! Invariants: no task gets a turn when the shard has been busy for [`BUSY_MAX`] without a look at
//! the rings: it is deferred until the reactor has run. Each turn is timed; one that is longer
//! than the stall limit is counted and reported with the place where the task was spawned.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::delay::RunDelay;
use super::prime::Primed;
use super::start::Knobs;
use super::waker::{Home, TaskWaker};
use crate::env::Stats;
use crate::task::Body;

/// After so much time without a look at the rings, tasks are deferred (ns).
const BUSY_MAX: u64 = 1_000_000;
/// `yield_if_needed` yields after so much (ns).
pub(super) const YIELD_AFTER: u64 = 500_000;
/// A task that yields waits for the reactor when its last look is older than this (ns).
const PASS_AFTER: u64 = 100_000;
/// A longer turn than this is corrected by the time for which the thread lacked a core (ns).
const DELAY_FROM: u64 = 1_000_000;
/// At most one line about stalls in this time (ns).
const STALL_LINE_EVERY: u64 = 1_000_000_000;

/// Nanoseconds since the process first asked.
pub(crate) fn clock_ns() -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Resolves after the reactor has looked at its rings: a timer that is due at once. (One that is
/// due when it is first asked never reaches the reactor.)
pub(super) async fn reactor_pass() {
    let mut after = Duration::from_nanos(500);
    loop {
        let mut timer = glommio::timer::Timer::new(after);
        let mut waited = false;
        std::future::poll_fn(|cx| {
            let result = Pin::new(&mut timer).poll(cx);
            waited |= result.is_pending();
            result.map(drop)
        })
        .await;
        if waited {
            return;
        }
        after *= 2;
    }
}

pub(crate) struct Shard {
    pub(super) home: Arc<Home>,
    pub(super) queues: [glommio::TaskQueueHandle; 2],
    stall_limit: Option<u64>,
    /// When this run of turns without a look at the rings began.
    busy_since: Cell<u64>,
    /// Tasks that go on after the reactor has run.
    deferred: RefCell<Vec<Waker>>,
    pump: Cell<Option<Waker>>,
    closing: Cell<bool>,
    /// Devices whose kind of I/O is known; `None`: do not ask (tests).
    pub(super) primed: Option<Primed>,
    /// Defer tasks when the shard has been busy for long (tests switch it off).
    may_defer: bool,
    tasks: RefCell<Slab<Waker>>,
    random: Cell<u64>,
    stats: Cell<Stats>,
    delay: RunDelay,
    stall_line_at: Cell<u64>,
}

impl Shard {
    pub(super) fn new(
        queues: [glommio::TaskQueueHandle; 2],
        stall_limit: Option<Duration>,
        knobs: Knobs,
        seed: u64,
    ) -> Rc<Shard> {
        Rc::new(Shard {
            home: Home::new(),
            queues,
            stall_limit: stall_limit.map(|d| d.as_nanos() as u64),
            busy_since: Cell::new(0),
            deferred: RefCell::new(Vec::new()),
            pump: Cell::new(None),
            closing: Cell::new(false),
            primed: knobs.prime.then(Primed::default),
            may_defer: knobs.defer,
            tasks: RefCell::new(Slab::new()),
            random: Cell::new(seed),
            stats: Cell::new(Stats::default()),
            delay: RunDelay::new(),
            stall_line_at: Cell::new(0),
        })
    }

    pub(super) fn random_u64(&self) -> u64 {
        // SplitMix64.
        let s = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(s);
        let z = (s ^ (s >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn stats(&self) -> Stats {
        let (chunks_resident, chunks_cold) = super::send::chunks();
        Stats {
            tasks: self.tasks.borrow().len() as u64,
            rescues: self.home.rescues(),
            chunks_resident,
            chunks_cold,
            ..self.stats.get()
        }
    }

    /// Wakes `waker` after the reactor has looked at the rings.
    pub(super) fn defer(&self, waker: Waker) {
        self.home.add_ready();
        self.deferred.borrow_mut().push(waker);
        if let Some(pump) = self.pump.take() {
            pump.wake();
        }
    }

    /// Wakes `waker` after the other ready tasks, and after the reactor if its last look at the
    /// rings is not quite fresh.
    pub(super) fn yield_turn(&self, waker: &Waker) {
        if self.busy_for() > PASS_AFTER {
            self.defer(waker.clone());
        } else {
            waker.wake_by_ref();
        }
    }

    /// How long ago the reactor looked at the rings (ns).
    pub(super) fn busy_for(&self) -> u64 {
        clock_ns().saturating_sub(self.busy_since.get())
    }

    /// The pump: for every round of deferred tasks, one pass of the reactor, which comes when all
    /// other tasks have had their turn.
    pub(super) async fn run_pump(self: Rc<Shard>) {
        loop {
            std::future::poll_fn(|cx| {
                if self.deferred.borrow().is_empty() {
                    self.pump.set(Some(cx.waker().clone()));
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
            reactor_pass().await;
            self.busy_since.set(clock_ns());
            let deferred = self.deferred.take();
            self.home.sub_ready(deferred.len() as u64);
            for waker in deferred {
                waker.wake();
            }
        }
    }

    /// Makes every task drop its future at its next turn.
    pub(super) fn close_tasks(&self) -> usize {
        self.closing.set(true);
        let wakers: Vec<Waker> = self.tasks.borrow().iter().map(|(_, w)| w.clone()).collect();
        for waker in &wakers {
            waker.wake_by_ref();
        }
        wakers.len()
    }

    /// `false`: the task has to wait for the reactor.
    fn may_run(&self, now: u64) -> bool {
        // glommio adds to this figure once per look at the rings, and asking resets it.
        if !glommio::executor()
            .executor_stats()
            .total_runtime()
            .is_zero()
        {
            self.busy_since.set(now);
            self.delay.mark(now);
        }
        let busy = now.saturating_sub(self.busy_since.get());
        busy <= BUSY_MAX || self.closing.get() || !self.may_defer
    }

    fn end_turn(&self, start: u64, place: &'static Location<'static>) {
        let end = clock_ns();
        let mut took = end - start;
        if took < 20_000 {
            return;
        }
        if took > DELAY_FROM {
            // Others on the same core are not this task's fault.
            took = took.saturating_sub(self.delay.since_mark());
        }
        let mut stats = self.stats.get();
        stats.worst_turn_us = stats.worst_turn_us.max(took / 1000);
        if self.stall_limit.is_some_and(|limit| took > limit) {
            stats.stalls += 1;
            if end >= self.stall_line_at.get() {
                self.stall_line_at.set(end + STALL_LINE_EVERY);
                eprintln!(
                    "stall: a task spawned at {place} held its core for {} µs ({} so far)",
                    took / 1000,
                    stats.stalls
                );
            }
        }
        self.stats.set(stats);
    }
}

/// A task of the shard: its body, its waker, its place in the list of tasks.
pub(super) struct Turn<F: Future> {
    body: Body<F>,
    shard: Rc<Shard>,
    place: &'static Location<'static>,
    waker: Option<(Arc<TaskWaker>, Waker, usize)>,
}

impl<F: Future> Turn<F> {
    pub(super) fn new(
        body: Body<F>,
        shard: Rc<Shard>,
        place: &'static Location<'static>,
    ) -> Turn<F> {
        shard.home.add_ready();
        Turn {
            body,
            shard,
            place,
            waker: None,
        }
    }
}

impl<F: Future> Future for Turn<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `body` is pinned with `self` and only ever reached through this projection; the
        // other fields are not pinned.
        let (body, shard, place, slot) = unsafe {
            let this = self.get_unchecked_mut();
            (
                Pin::new_unchecked(&mut this.body),
                &this.shard,
                this.place,
                &mut this.waker,
            )
        };
        let (task, waker, _) = slot.get_or_insert_with(|| {
            shard.home.sub_ready(1);
            let task = TaskWaker::new(shard.home.clone(), cx.waker().clone());
            let waker = Waker::from(task.clone());
            let key = shard.tasks.borrow_mut().insert(waker.clone());
            (task, waker, key)
        });
        let start = clock_ns();
        task.begin_turn();
        shard.home.count_turn();
        if !shard.may_run(start) {
            shard.defer(waker.clone());
            return Poll::Pending;
        }
        if shard.closing.get() {
            body.abort();
            return Poll::Ready(());
        }
        let result = body.poll(&mut Context::from_waker(waker));
        shard.end_turn(start, place);
        result
    }
}

impl<F: Future> Drop for Turn<F> {
    fn drop(&mut self) {
        match self.waker.take() {
            Some((task, _, key)) => {
                task.end();
                self.shard.tasks.borrow_mut().try_remove(key);
            }
            None => self.shard.home.sub_ready(1),
        }
    }
}
