//! The state of one shard, and its loop: turns of tasks, timers, looks at the ring.
//!
//! Invariants: between two looks at the ring lie at most [`LOOK_EVERY`] and one turn, however
//! busy the tasks are; the shard sleeps only when no task waits for a turn; while both classes
//! have work, the background gets a ninth of the time. Each turn is timed; one that is longer than
//! the stall limit is counted and reported with the place where the task was spawned.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::delay::RunDelay;
use super::pool::Pool;
use super::ring::{Op, Ring};
use super::timers::{self, Timers};
use super::waker::{self, Home, TaskWaker};
use crate::buf::AlignedBuf;
use crate::env::{Class, Stats};
use crate::local::yield_now;
use crate::profile::Watch;
use crate::runtime::RuntimeOptions;

/// Tasks run for so long between two looks at the ring (ns).
const LOOK_EVERY: u64 = 100_000;
/// `yield_if_needed` yields when a turn has lasted for so long (ns).
const YIELD_AFTER: u64 = 500_000;
/// What the background may save up of its share (ns).
const CREDIT_MAX: i64 = 1_000_000;
/// A longer turn than this is corrected by the time for which the thread lacked a core (ns).
const DELAY_FROM: u64 = 1_000_000;
/// At most one line about stalls in this time (ns).
const STALL_LINE_EVERY: u64 = 1_000_000_000;

/// Nanoseconds since the process first asked.
pub(super) fn clock_ns() -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Entry {
    /// Not here during its turn.
    future: Option<TaskFuture>,
    place: &'static Location<'static>,
}

pub(crate) struct Shard {
    pub(super) home: Arc<Home>,
    pub(super) ring: Rc<Ring>,
    pub(super) pool: Arc<Pool>,
    timers: Timers,
    tasks: RefCell<Slab<Entry>>,
    /// The bell, and the read of it that is in flight.
    bell: (Arc<OwnedFd>, RefCell<Option<Op>>),
    /// The turn under way, as others may see it.
    pub(super) watch: Arc<Watch>,
    /// Time that the background may take although the other class has work (ns).
    credit: Cell<i64>,
    stall_limit: Option<u64>,
    random: Cell<u64>,
    stats: Cell<Stats>,
    delay: RunDelay,
    stall_line_at: Cell<u64>,
}

impl Shard {
    /// A shard for the calling thread. `cores`: where its blocking calls may run.
    pub(super) fn new(options: &RuntimeOptions, cores: Vec<usize>) -> io::Result<Rc<Shard>> {
        let home = Home::new()?;
        let bell = Arc::new(home.bell()?);
        let stall_limit = options.stall_limit.map(|d| d.as_nanos() as u64);
        Ok(Rc::new(Shard {
            home,
            ring: Rc::new(Ring::new(options.ring_depth)?),
            pool: Pool::new(options.blocking_threads, cores),
            timers: Timers::default(),
            tasks: RefCell::new(Slab::new()),
            bell: (bell, RefCell::new(None)),
            watch: Watch::new(stall_limit, clock_ns),
            credit: Cell::new(0),
            stall_limit,
            random: Cell::new(crate::process::seed()),
            stats: Cell::new(Stats::default()),
            delay: RunDelay::new(),
            stall_line_at: Cell::new(0),
        }))
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
        Stats {
            tasks: self.tasks.borrow().len() as u64,
            ..self.stats.get()
        }
    }

    /// Counts a chunk of a file that was sent.
    pub(super) fn count_chunk(&self, resident: bool) {
        let mut stats = self.stats.get();
        if resident {
            stats.chunks_resident += 1;
        } else {
            stats.chunks_cold += 1;
        }
        self.stats.set(stats);
    }

    /// Adds a task; its first turn comes later.
    pub(super) fn spawn(
        &self,
        class: Class,
        future: TaskFuture,
        place: &'static Location<'static>,
    ) {
        let future = Some(future);
        let key = self.tasks.borrow_mut().insert(Entry { future, place });
        TaskWaker::start(&self.home, key, class);
    }

    pub(super) async fn yield_if_needed(&self) {
        if clock_ns().saturating_sub(self.watch.turn()) > YIELD_AFTER {
            yield_now().await;
        }
    }

    pub(super) async fn sleep(&self, d: Duration) {
        if d.is_zero() {
            return yield_now().await;
        }
        let nanos = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let mut sleep = Sleep {
            timers: &self.timers,
            due: clock_ns().saturating_add(nanos),
            key: None,
        };
        poll_fn(|cx| sleep.poll(cx)).await;
    }

    /// Runs tasks until `done`, which is asked after each turn.
    pub(super) fn run_until(&self, done: impl Fn() -> bool) -> io::Result<()> {
        let mut now = clock_ns();
        while !done() {
            self.home.take_foreign();
            self.timers.fire(now);
            let until = now + LOOK_EVERY;
            let mut idle = false;
            while now < until && !done() {
                let Some(class) = self.choose() else {
                    idle = true;
                    break;
                };
                now = self.turn(class, now);
            }
            now = self.look(idle, now)?;
        }
        Ok(())
    }

    /// Which class has the next turn.
    fn choose(&self) -> Option<Class> {
        match waker::waiting() {
            [0, 0] => None,
            [0, _] => Some(Class::Background),
            [_, 0] => Some(Class::Latency),
            _ if self.credit.get() > 0 => Some(Class::Background),
            _ => Some(Class::Latency),
        }
    }

    /// Gives the first task of the class its turn; what time it is then.
    fn turn(&self, class: Class, start: u64) -> u64 {
        let Some(task) = waker::next(class).filter(|task| task.begin_turn()) else {
            return start;
        };
        let (future, place) = {
            let mut tasks = self.tasks.borrow_mut();
            let entry = &mut tasks[task.key];
            (entry.future.take(), entry.place)
        };
        let mut future = future.expect("a task has one turn at a time");
        self.watch.begin(start, class, place);
        let waker = Waker::from(task.clone());
        let result = future.as_mut().poll(&mut Context::from_waker(&waker));
        if result.is_ready() {
            task.end();
            let entry = self.tasks.borrow_mut().remove(task.key);
            drop(entry);
        } else {
            self.tasks.borrow_mut()[task.key].future = Some(future);
        }
        let end = clock_ns();
        self.charge(class, end - start);
        self.end_turn(start, end, place);
        self.watch.end();
        end
    }

    /// The background's share is counted while both classes have work.
    fn charge(&self, class: Class, took: u64) {
        let took = i64::try_from(took).unwrap_or(i64::MAX);
        let [latency, background] = waker::waiting();
        let credit = match class {
            Class::Latency if background > 0 => (self.credit.get() + took / 8).min(CREDIT_MAX),
            Class::Background if latency > 0 => self.credit.get().saturating_sub(took),
            _ => return,
        };
        self.credit.set(credit);
    }

    /// Looks at the ring; sleeps there if the shard is idle and nothing comes up.
    fn look(&self, idle: bool, now: u64) -> io::Result<u64> {
        if idle {
            self.rest(now)?;
        } else if self.ring.wants_enter() {
            self.ring.enter(false, None)?;
        }
        self.ring.reap();
        let now = clock_ns();
        self.delay.mark(now);
        Ok(now)
    }

    fn rest(&self, now: u64) -> io::Result<()> {
        self.arm_bell();
        let most = self
            .timers
            .next_due()
            .map(|due| Duration::from_nanos(due.saturating_sub(now)));
        let sleep =
            most != Some(Duration::ZERO) && !self.ring.has_completions() && self.home.fall_asleep();
        let result = if sleep || self.ring.wants_enter() {
            self.ring.enter(sleep, most)
        } else {
            Ok(())
        };
        self.home.awake();
        result
    }

    /// Has the ring read the bell, unless it does so already.
    fn arm_bell(&self) {
        let (fd, read) = &self.bell;
        let mut read = read.borrow_mut();
        if read.as_ref().is_some_and(|op| !op.is_done()) {
            return;
        }
        *read = None;
        *read = Some(self.ring.read(fd, AlignedBuf::new(8), 0..8, 0));
    }

    /// Drops the futures of all tasks; waits for what the kernel and the blocking threads do.
    pub(super) fn close(&self) -> io::Result<()> {
        // What one drops may start others.
        for _ in 0..1000 {
            let tasks = self.tasks.take();
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        self.home.close();
        self.pool.close();
        if self.bell.1.take().is_some() {
            self.home.ring_now();
        }
        self.ring.drain()
    }

    fn end_turn(&self, start: u64, end: u64, place: &'static Location<'static>) {
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
        if self.stall_limit.is_some_and(|limit| end - start > limit) {
            self.watch.over(took);
        }
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

struct Sleep<'a> {
    timers: &'a Timers,
    due: u64,
    key: Option<timers::Key>,
}

impl Sleep<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.key {
            None => self.key = Some(self.timers.add(self.due, cx.waker().clone())),
            Some(_) if clock_ns() >= self.due => return Poll::Ready(()),
            Some(key) => self.timers.renew(key, cx.waker()),
        }
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.timers.remove(key);
        }
    }
}
