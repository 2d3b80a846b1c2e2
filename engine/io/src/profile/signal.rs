//! The signal that takes a thread's stack, and the slots that stacks wait in.
//!
//! `SIGPROF` with the code of a timer is a sample of the running profile; with the code of
//! `tgkill` it is the stall watch that asks. Anything else is ignored. The handler stays installed
//! for the life of the process, since a signal may arrive late.
//!
//! Invariants: the handler allocates nothing, takes no lock, makes no system call, and leaves
//! `errno` alone. A slot has one owner at a time: FREE is taken by a handler, FULL by the reader.

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::stalls::Watch;
use super::walk::{self, DEPTH, Registers};

/// Slots for samples; they are emptied 20 times a second.
const SAMPLES: usize = 1024;
/// Slots for stalls: one per shard that stalls at this very moment.
const STALLS: usize = 16;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const FULL: u32 = 2;

struct Slot {
    state: AtomicU32,
    /// Of a sample: session and thread. Of a stall: the turn.
    tag: AtomicU64,
    weight: AtomicU32,
    len: AtomicUsize,
    frames: [AtomicUsize; DEPTH],
}

/// A stack as a handler saw it.
pub(super) struct Sample {
    pub(super) tag: u64,
    pub(super) weight: u32,
    /// Addresses of return, innermost first.
    pub(super) frames: Vec<usize>,
}

/// Where handlers leave stacks.
pub(super) struct Slots {
    all: Box<[Slot]>,
    next: AtomicUsize,
    lost: AtomicU64,
}

impl Slots {
    fn new(count: usize) -> Slots {
        let slot = |_| Slot {
            state: AtomicU32::new(FREE),
            tag: AtomicU64::new(0),
            weight: AtomicU32::new(0),
            len: AtomicUsize::new(0),
            frames: [const { AtomicUsize::new(0) }; DEPTH],
        };
        Slots {
            all: (0..count).map(slot).collect(),
            next: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// Called by the handler only.
    fn put(&self, tag: u64, weight: u32, frames: &[usize]) {
        let slot = &self.all[self.next.fetch_add(1, Ordering::Relaxed) % self.all.len()];
        let (ok, other) = (Ordering::Acquire, Ordering::Relaxed);
        if slot.state.compare_exchange(FREE, TAKEN, ok, other).is_err() {
            self.lost.fetch_add(u64::from(weight), Ordering::Relaxed);
            return;
        }
        slot.tag.store(tag, Ordering::Relaxed);
        slot.weight.store(weight, Ordering::Relaxed);
        slot.len.store(frames.len(), Ordering::Relaxed);
        for (to, from) in slot.frames.iter().zip(frames) {
            to.store(*from, Ordering::Relaxed);
        }
        slot.state.store(FULL, Ordering::Release);
    }

    /// Takes all stacks that are there.
    pub(super) fn take(&self, mut each: impl FnMut(Sample)) {
        for slot in &self.all {
            if slot.state.load(Ordering::Acquire) != FULL {
                continue;
            }
            let len = slot.len.load(Ordering::Relaxed).min(DEPTH);
            let frames = slot.frames[..len].iter();
            let sample = Sample {
                tag: slot.tag.load(Ordering::Relaxed),
                weight: slot.weight.load(Ordering::Relaxed),
                frames: frames.map(|f| f.load(Ordering::Relaxed)).collect(),
            };
            slot.state.store(FREE, Ordering::Release);
            each(sample);
        }
    }

    /// How many samples found no free slot since the last call.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

static SAMPLE_SLOTS: OnceLock<Slots> = OnceLock::new();
static STALL_SLOTS: OnceLock<Slots> = OnceLock::new();
/// The session that samples are taken for; 0: none.
static SESSION: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// What the stall watch sees of the shard on this thread.
    static WATCH: Cell<*const Watch> = const { Cell::new(std::ptr::null()) };
}

/// From now on, samples belong to `session`; 0: there are none.
pub(super) fn set_session(session: u32) {
    SESSION.store(session, Ordering::SeqCst);
}

pub(super) fn samples() -> &'static Slots {
    SAMPLE_SLOTS.get_or_init(|| Slots::new(SAMPLES))
}

pub(super) fn stalls() -> &'static Slots {
    STALL_SLOTS.get_or_init(|| Slots::new(STALLS))
}

/// Tells the handler which shard runs on the calling thread.
///
/// # Safety
/// `watch` lives until the same thread calls this with a null pointer.
pub(super) unsafe fn set_watch(watch: *const Watch) {
    // The thread may be ending already.
    let _ = WATCH.try_with(|w| w.set(watch));
}

/// Makes everything ready that the handler uses, and installs it, once.
pub(super) fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let result = INSTALLED.get_or_init(|| {
        walk::know_code();
        // SAFETY: the structure is filled; the handler does what a handler may (see above).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigemptyset(&mut action.sa_mask);
            match libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()
                    .raw_os_error()
                    .unwrap_or(libc::EIO)),
            }
        }
    });
    result.map_err(io::Error::from_raw_os_error)
}

/// The fields of `siginfo_t` for timers, as the kernel lays them out on 64 bits.
#[repr(C)]
struct Info {
    signal: i32,
    errno: i32,
    code: i32,
    pad: i32,
    timer: i32,
    overrun: i32,
    value: u64,
}

extern "C" fn handler(_: libc::c_int, info: *const Info, context: *const libc::ucontext_t) {
    // SAFETY: the kernel passes both, valid for the call; `Info` is a part of what is there.
    let (info, from) = unsafe { (&*info, registers(&*context)) };
    let mut frames = [0; DEPTH];
    match info.code {
        libc::SI_TIMER => {
            let session = SESSION.load(Ordering::Relaxed);
            if session == 0 || (info.value >> 32) as u32 != session {
                return;
            }
            let Some(slots) = SAMPLE_SLOTS.get() else {
                return;
            };
            let count = walk::walk(from, &mut frames);
            let weight = 1 + info.overrun.clamp(0, 1000) as u32;
            slots.put(info.value, weight, &frames[..count]);
        }
        libc::SI_TKILL => {
            let watch = WATCH.try_with(Cell::get).unwrap_or(std::ptr::null());
            let (Some(slots), false) = (STALL_SLOTS.get(), watch.is_null()) else {
                return;
            };
            // SAFETY: see `set_watch`.
            let turn = unsafe { (*watch).turn() };
            let count = walk::walk(from, &mut frames);
            slots.put(turn, 1, &frames[..count]);
        }
        _ => {}
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> Registers {
    let all = &context.uc_mcontext.gregs;
    Registers {
        code: all[libc::REG_RIP as usize] as usize,
        stack: all[libc::REG_RSP as usize] as usize,
        frame: all[libc::REG_RBP as usize] as usize,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn registers(_: &libc::ucontext_t) -> Registers {
    Registers {
        code: 0,
        stack: 0,
        frame: 0,
    }
}
