//! Wakers, and the way from other threads to a shard.
//!
//! A wake on the shard's own thread puts the task into its run queue. One from another thread goes
//! through the shard's list of foreign wakes, and rings its bell (an eventfd that its ring reads)
//! if the shard sleeps: a call of the kernel only then.
//!
//! Invariants: a task is in a queue at most once, and no wake is lost (`door`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Wake;

use super::door::{Door, Woken};
use crate::env::Class;

/// Tasks of this thread that wait for a turn.
struct Local {
    /// The shard of this thread; 0: none.
    home: Cell<u64>,
    queues: RefCell<[VecDeque<Arc<TaskWaker>>; 2]>,
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            home: Cell::new(0),
            queues: RefCell::new([VecDeque::new(), VecDeque::new()]),
        }
    };
}

static NEXT_HOME: AtomicU64 = AtomicU64::new(1);

/// What other threads may know of a shard.
pub(super) struct Home {
    id: u64,
    door: Door<Arc<TaskWaker>>,
    bell: OwnedFd,
    /// How often the bell was rung.
    rings: AtomicU64,
}

impl Home {
    /// A home for the calling thread.
    pub(super) fn new() -> io::Result<Arc<Home>> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and has no other owner.
        let bell = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Arc::new(Home {
            id: NEXT_HOME.fetch_add(1, Ordering::Relaxed),
            door: Door::new(),
            bell,
            rings: AtomicU64::new(0),
        }))
    }

    /// From now on wakes on this thread go straight into its queues.
    pub(super) fn move_in(&self) {
        LOCAL.with(|l| l.home.set(self.id));
    }

    /// A second descriptor of the bell, for the ring.
    pub(super) fn bell(&self) -> io::Result<OwnedFd> {
        self.bell.try_clone()
    }

    fn is_here(&self) -> bool {
        LOCAL.try_with(|l| l.home.get() == self.id).unwrap_or(false)
    }

    /// Rings unconditionally.
    pub(super) fn ring_now(&self) {
        let one = 1u64;
        // SAFETY: eight valid bytes. It cannot fail: the counter never comes near its limit.
        unsafe { libc::write(self.bell.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// The shard is about to sleep; `false`: it must not, somebody was woken.
    pub(super) fn fall_asleep(&self) -> bool {
        self.door.fall_asleep()
    }

    pub(super) fn awake(&self) {
        self.door.awake();
    }

    /// Gives the tasks that other threads woke their place in the queues.
    pub(super) fn take_foreign(&self) {
        while let Some(task) = self.door.take() {
            enqueue(task);
        }
    }

    /// After the last task: nothing is woken any more.
    pub(super) fn close(&self) {
        self.door.close();
        let _ = LOCAL.try_with(|l| {
            l.home.set(0);
            l.queues.take()
        });
    }

    #[cfg(test)]
    pub(super) fn rings(&self) -> u64 {
        self.rings.load(Ordering::Relaxed)
    }
}

fn enqueue(task: Arc<TaskWaker>) {
    LOCAL.with(|l| l.queues.borrow_mut()[task.class as usize].push_back(task));
}

/// The next task of a class that waits for a turn.
pub(super) fn next(class: Class) -> Option<Arc<TaskWaker>> {
    LOCAL.with(|l| l.queues.borrow_mut()[class as usize].pop_front())
}

/// How many tasks of each class wait for a turn.
pub(super) fn waiting() -> [usize; 2] {
    LOCAL.with(|l| l.queues.borrow().each_ref().map(VecDeque::len))
}

/// The waker of one task.
pub(super) struct TaskWaker {
    home: Arc<Home>,
    /// Where the task is among the shard's.
    pub(super) key: usize,
    class: Class,
    woken: Woken,
    /// The task has ended. Only the home thread touches it.
    over: AtomicBool,
}

impl TaskWaker {
    /// The waker of a new task, which gets its first turn in time.
    pub(super) fn start(home: &Arc<Home>, key: usize, class: Class) {
        enqueue(Arc::new(TaskWaker {
            home: home.clone(),
            key,
            class,
            woken: Woken::new(),
            over: AtomicBool::new(false),
        }));
    }

    /// The task gets its turn now, unless it is over (`false`).
    pub(super) fn begin_turn(&self) -> bool {
        if self.over.load(Ordering::Relaxed) {
            return false;
        }
        self.woken.begin_turn();
        true
    }

    /// The task has ended: it is woken no more.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.woken.end();
    }

    fn go(self: Arc<Self>) {
        if self.home.is_here() {
            return enqueue(self);
        }
        let home = self.home.clone();
        if home.door.hand_over(self) {
            home.rings.fetch_add(1, Ordering::Relaxed);
            home.ring_now();
        }
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if self.woken.wake() {
            self.go();
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.wake() {
            self.clone().go();
        }
    }
}
