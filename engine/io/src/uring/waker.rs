//! Our own wakers around glommio's.
//!
//! glommio's waker of a task is made once and stays on its thread; clones count on our `Arc`. A
//! wake from another thread goes through the home's queue and its bell: one task that never ends,
//! so that its glommio waker, the only one that other threads touch, is never the last reference.
//!
//! Invariants: `ready` counts tasks that wait for a turn, each at most once; a glommio waker is
//! dropped on its own thread, or not at all.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use crossbeam_queue::SegQueue;

thread_local! {
    static HOME: Cell<u64> = const { Cell::new(0) };
}

static NEXT_HOME: AtomicU64 = AtomicU64::new(1);

/// What other threads may know of a shard. Its own thread alone writes the plain counters.
pub(crate) struct Home {
    id: u64,
    thread: libc::pid_t,
    alive: AtomicBool,
    bell: OnceLock<Waker>,
    rung: AtomicBool,
    foreign_wakes: SegQueue<Arc<TaskWaker>>,
    foreign_drops: SegQueue<Waker>,
    /// Tasks that wait for a turn: woken, deferred, or new.
    ready: AtomicU64,
    /// Turns that tasks had.
    turns: AtomicU64,
    rescues: AtomicU64,
}

impl Home {
    /// A home for the calling thread.
    pub(super) fn new() -> Arc<Home> {
        let id = NEXT_HOME.fetch_add(1, Ordering::Relaxed);
        HOME.set(id);
        Arc::new(Home {
            id,
            // SAFETY: no arguments.
            thread: unsafe { libc::gettid() },
            alive: AtomicBool::new(true),
            bell: OnceLock::new(),
            rung: AtomicBool::new(true),
            foreign_wakes: SegQueue::new(),
            foreign_drops: SegQueue::new(),
            ready: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            rescues: AtomicU64::new(0),
        })
    }

    fn is_here(&self) -> bool {
        HOME.try_with(|h| h.get() == self.id).unwrap_or(false)
    }

    fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst)
            && let Some(bell) = self.bell.get()
        {
            bell.wake_by_ref();
        }
    }

    /// The bell's turn: wakes what other threads woke, drops what they dropped.
    pub(super) fn answer(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.bell.get_or_init(|| cx.waker().clone());
        self.rung.swap(false, Ordering::SeqCst);
        self.drain();
        Poll::Pending
    }

    fn drain(&self) {
        while let Some(task) = self.foreign_wakes.pop() {
            // If it had a turn meanwhile, that turn saw what it was woken for.
            if task.woken.load(Ordering::Acquire) {
                task.wake_here();
            }
        }
        while let Some(waker) = self.foreign_drops.pop() {
            drop(waker);
        }
    }

    /// After the last task: nothing is woken any more.
    pub(super) fn close(&self) {
        self.drain();
        self.alive.store(false, Ordering::Release);
        HOME.set(0);
    }

    /// One more task waits for a turn. On the home thread only, as the next two.
    pub(super) fn add_ready(&self) {
        self.ready
            .store(self.ready.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(super) fn sub_ready(&self, n: u64) {
        self.ready
            .store(self.ready.load(Ordering::Relaxed) - n, Ordering::Relaxed);
    }

    pub(super) fn count_turn(&self) {
        self.turns
            .store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(super) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    pub(super) fn rescues(&self) -> u64 {
        self.rescues.load(Ordering::Relaxed)
    }

    pub(super) fn has_work(&self) -> bool {
        self.ready.load(Ordering::Relaxed) > 0 || !self.foreign_wakes.is_empty()
    }

    /// Whether the shard's thread sleeps in the kernel (and does not just lack a core). `true` if
    /// that cannot be told.
    pub(super) fn thread_sleeps(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.thread));
        let Ok(stat) = stat else { return true };
        let state = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.trim().chars().next());
        state.is_none_or(|c| c == 'S')
    }

    /// Wakes the executor, whose own wake-up went wrong.
    pub(super) fn rescue(&self) {
        if self.alive.load(Ordering::Acquire)
            && let Some(bell) = self.bell.get()
        {
            self.rescues.fetch_add(1, Ordering::Relaxed);
            bell.wake_by_ref();
        }
    }
}

/// The waker of one task.
pub(crate) struct TaskWaker {
    home: Arc<Home>,
    inner: ManuallyDrop<Waker>,
    /// Woken, and no turn since.
    woken: AtomicBool,
    /// Counted in `home.ready`. Only the home thread touches it.
    counted: AtomicBool,
    /// The task has ended. Only the home thread touches it.
    over: AtomicBool,
}

impl TaskWaker {
    pub(super) fn new(home: Arc<Home>, inner: Waker) -> Arc<TaskWaker> {
        Arc::new(TaskWaker {
            home,
            inner: ManuallyDrop::new(inner),
            woken: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            over: AtomicBool::new(false),
        })
    }

    /// The task gets its turn now.
    pub(super) fn begin_turn(&self) {
        self.woken.swap(false, Ordering::AcqRel);
        self.uncount();
    }

    /// The task has ended.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.uncount();
    }

    fn uncount(&self) {
        if self.counted.load(Ordering::Relaxed) {
            self.counted.store(false, Ordering::Relaxed);
            self.home.sub_ready(1);
        }
    }

    fn wake_here(&self) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        if !self.counted.load(Ordering::Relaxed) {
            self.counted.store(true, Ordering::Relaxed);
            self.home.add_ready();
        }
        self.inner.wake_by_ref();
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.home.is_here() {
            self.wake_here();
        } else if self.home.alive.load(Ordering::Acquire) {
            self.home.foreign_wakes.push(self.clone());
            self.home.ring();
        }
    }
}

impl Drop for TaskWaker {
    fn drop(&mut self) {
        // SAFETY: taken once, here.
        let inner = unsafe { ManuallyDrop::take(&mut self.inner) };
        if self.home.is_here() {
            drop(inner);
        } else if self.home.alive.load(Ordering::Acquire) {
            self.home.foreign_drops.push(inner);
        } else {
            // Its executor is gone: only leaking the reference is safe.
            std::mem::forget(inner);
        }
    }
}
