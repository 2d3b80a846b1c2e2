//! The stall watch: what a task was at when it held its shard for longer than the limit.
//!
//! A shard writes down when each turn begins ([`Watch`]: plain stores, no call). One thread for the
//! whole process looks at all shards once in each limit, and less often while they are idle. A
//! turn that is over the limit gets a signal: its own thread takes the stack. So what holds a busy
//! shard for twice the limit is caught. The last [`KEPT`] are kept.
//!
//! Invariants: a stack is kept only if the handler saw the very turn that it was asked for; a
//! thread is signalled only while its watch is enrolled, so never after its end. How long a turn
//! was is what the shard says, less the time for which it lacked a core.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::names::Names;
use super::{signal, text, walk};
use crate::env::Class;

/// How many stalls are kept.
const KEPT: usize = 64;
/// Between two looks at least.
const GRAIN_MIN: Duration = Duration::from_millis(2);
/// Between two looks at most, which is how it is while no shard has had a turn for a while.
const GRAIN_MAX: Duration = Duration::from_millis(50);

/// The bits of a turn beside its beginning: its class, and that it is over.
const CLASS: u64 = 1;
const OVER: u64 = 2;

/// What others may see of the turns of one shard. On cache lines of its own.
#[repr(align(128))]
pub(crate) struct Watch {
    /// When the last turn began (ns), with [`CLASS`] and [`OVER`] in its lowest bits.
    turn: AtomicU64,
    /// Where its task was spawned.
    place: AtomicPtr<Location<'static>>,
    /// The last turn that was over the limit, and how long it took (ns).
    over: AtomicU64,
    took: AtomicU64,
    /// How many there were.
    count: AtomicU64,
    thread: i32,
    name: String,
    limit: u64,
    clock: fn() -> u64,
}

impl Watch {
    /// A watch for the shard on the calling thread. `limit` in ns; `clock` gives ns.
    pub(crate) fn new(limit: Option<u64>, clock: fn() -> u64) -> Arc<Watch> {
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        Arc::new(Watch {
            turn: AtomicU64::new(OVER),
            place: AtomicPtr::new(std::ptr::null_mut()),
            over: AtomicU64::new(0),
            took: AtomicU64::new(0),
            count: AtomicU64::new(0),
            // SAFETY: plain call.
            thread: unsafe { libc::gettid() },
            name,
            limit: limit.unwrap_or(u64::MAX),
            clock,
        })
    }

    /// From now on the shard is looked at, by a thread that runs on `cores`. For its own thread.
    pub(crate) fn enrol(self: &Arc<Self>, cores: &[usize]) -> Enrolled {
        walk::know_stack();
        if self.limit < u64::MAX && signal::install().is_ok() {
            signal::stalls();
            // SAFETY: what is returned takes it back on this thread, and holds the watch so long.
            unsafe { signal::set_watch(Arc::as_ptr(self)) };
            let mut state = lock();
            state.watches.push(Watched {
                watch: self.clone(),
                seen: 0,
                open: None,
            });
            if !state.running {
                let watcher = std::thread::Builder::new().name("stall-watch".into());
                let cores = cores.to_vec();
                // Without that thread the shard works all the same.
                state.running = watcher.spawn(move || work(&cores)).is_ok();
            }
            WORK.notify_one();
        }
        Enrolled {
            watch: self.clone(),
            _here: PhantomData,
        }
    }

    /// A turn begins at `now` (ns).
    #[inline]
    pub(crate) fn begin(&self, now: u64, class: Class, place: &'static Location<'static>) {
        // Release: who sees this place sees that the turn before is over.
        self.place
            .store(std::ptr::from_ref(place).cast_mut(), Ordering::Release);
        let turn = now & !(CLASS | OVER) | class as u64;
        self.turn.store(turn, Ordering::Release);
    }

    /// The turn has ended.
    #[inline]
    pub(crate) fn end(&self) {
        self.turn.store(self.turn() | OVER, Ordering::Release);
    }

    /// The turn under way is over the limit, and took so long (ns, without what is not its fault).
    pub(crate) fn over(&self, took: u64) {
        self.took.store(took, Ordering::Relaxed);
        self.over.store(self.turn(), Ordering::Release);
        if took > self.limit {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// When the turn under way began, roughly (ns).
    #[inline]
    pub(crate) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// The turn under way and where its task was spawned, if both belong together.
    fn look(&self) -> Option<(u64, &'static Location<'static>)> {
        let turn = self.turn.load(Ordering::Acquire);
        let place = self.place.load(Ordering::Acquire);
        let same = turn & OVER == 0 && self.turn.load(Ordering::Relaxed) == turn;
        // SAFETY: only references to statics are stored there.
        unsafe { place.as_ref() }
            .filter(|_| same)
            .map(|p| (turn, p))
    }
}

/// A shard that is looked at, until this is dropped. Stays on its thread.
pub(crate) struct Enrolled {
    watch: Arc<Watch>,
    _here: PhantomData<*const ()>,
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        let mut state = lock();
        state
            .watches
            .retain(|w| !Arc::ptr_eq(&w.watch, &self.watch));
        // SAFETY: a null pointer is always right.
        unsafe { signal::set_watch(std::ptr::null()) };
    }
}

/// A turn of a task that was longer than the stall limit.
#[derive(Clone, Debug)]
pub struct Stall {
    /// When it was noticed.
    pub when: SystemTime,
    /// How long it held the shard; so far, if it still does.
    pub took: Duration,
    /// It still holds the shard.
    pub ongoing: bool,
    /// The shard's thread.
    pub thread: String,
    /// The class of the task.
    pub class: Class,
    /// Where the task was spawned.
    pub place: &'static Location<'static>,
    /// Addresses of return, innermost first; empty if the turn ended before its stack was taken.
    frames: Vec<usize>,
    turn: u64,
}

impl Stall {
    /// The names of the frames, outermost first.
    pub fn stack(&self) -> Vec<String> {
        Names::new().stack(&self.frames)
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.took.as_secs_f64() * 1000.0;
        let so_far = if self.ongoing { " so far" } else { "" };
        let class = match self.class {
            Class::Latency => "latency",
            Class::Background => "background",
        };
        write!(
            f,
            "{} held for {ms:.1} ms{so_far} by a {class} task spawned at {}",
            self.thread, self.place
        )
    }
}

/// What is known of a shard that runs.
struct Watched {
    watch: Arc<Watch>,
    /// Its turn as it was at the last look.
    seen: u64,
    /// Its turn that is over the limit.
    open: Option<Stall>,
}

struct State {
    watches: Vec<Watched>,
    past: VecDeque<Stall>,
    running: bool,
}

static STATE: Mutex<State> = Mutex::new(State {
    watches: Vec::new(),
    past: VecDeque::new(),
    running: false,
});
/// There is somebody to watch again.
static WORK: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(cores: &[usize]) {
    // Threads inherit the core of the one that starts them.
    crate::process::pin(cores);
    let mut grain = GRAIN_MIN;
    let mut state = lock();
    loop {
        if state.watches.is_empty() {
            state = WORK.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        drop(state);
        std::thread::sleep(grain);
        state = lock();
        grain = if state.tick() {
            let least = state.watches.iter().map(|w| w.watch.limit).min();
            Duration::from_nanos(least.unwrap_or(0))
        } else {
            grain * 2
        };
        grain = grain.clamp(GRAIN_MIN, GRAIN_MAX);
    }
}

impl State {
    /// Looks at every shard; whether one has had a turn since the last look.
    fn tick(&mut self) -> bool {
        let mut stacks = BTreeMap::new();
        signal::stalls().take(|sample| {
            stacks.insert(sample.tag, sample.frames);
        });
        let mut busy = false;
        for Watched { watch, seen, open } in &mut self.watches {
            let turn = watch.turn.load(Ordering::Acquire);
            // Under way, or another than last time.
            busy |= turn & OVER == 0 || turn != *seen;
            *seen = turn;
            if let Some(stall) = open {
                if let Some(frames) = stacks.remove(&stall.turn) {
                    stall.frames = frames;
                }
                if turn == stall.turn {
                    stall.took = since(watch, stall.turn);
                } else if let Some(stall) = close(watch, open.take()) {
                    self.past.push_back(stall);
                }
            }
            let Some((turn, place)) = watch.look() else {
                continue;
            };
            let took = since(watch, turn);
            if open.is_none() && took > Duration::from_nanos(watch.limit) {
                *open = Some(watch.ask(turn, took, place));
            }
        }
        while self.past.len() > KEPT {
            self.past.pop_front();
        }
        busy
    }
}

fn since(watch: &Watch, turn: u64) -> Duration {
    Duration::from_nanos((watch.clock)().saturating_sub(turn))
}

impl Watch {
    /// Asks the shard's thread for its stack, which comes with a later look.
    fn ask(&self, turn: u64, took: Duration, place: &'static Location<'static>) -> Stall {
        // SAFETY: the thread is there, since its watch is enrolled; the handler is installed.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.thread, libc::SIGPROF) };
        Stall {
            when: SystemTime::now(),
            took,
            ongoing: true,
            thread: self.name.clone(),
            class: if turn & CLASS == Class::Latency as u64 {
                Class::Latency
            } else {
                Class::Background
            },
            place,
            frames: Vec::new(),
            turn,
        }
    }
}

/// The turn is over: how long it was by the shard's own account, if it was a stall at all.
fn close(watch: &Watch, stall: Option<Stall>) -> Option<Stall> {
    let mut stall = stall?;
    stall.ongoing = false;
    if watch.over.load(Ordering::Acquire) == stall.turn {
        let took = watch.took.load(Ordering::Relaxed);
        if took <= watch.limit {
            // It lacked a core, that is all.
            return None;
        }
        stall.took = Duration::from_nanos(took);
    }
    Some(stall)
}

/// The last stalls, oldest first; those that still go on come last.
pub fn stalls() -> Vec<Stall> {
    let state = lock();
    let open = state.watches.iter().filter_map(|w| w.open.as_ref());
    state.past.iter().chain(open).cloned().collect()
}

/// How often each shard that runs was held for longer than the limit: also by turns that were too
/// short to be caught, whose stacks are not kept.
pub fn stall_counts() -> Vec<(String, u64)> {
    let state = lock();
    let count = |w: &Watch| (w.name.clone(), w.count.load(Ordering::Relaxed));
    state.watches.iter().map(|w| count(&w.watch)).collect()
}

/// `all` as lines of `thread;outermost;...;innermost microseconds`, for a flame graph.
pub fn folded_stalls(all: &[Stall]) -> String {
    let mut names = Names::new();
    let mut lines = BTreeMap::new();
    for stall in all {
        let line = names.line(&stall.thread, &stall.frames);
        *lines.entry(line).or_insert(0) += stall.took.as_micros() as u64;
    }
    text(&lines)
}
