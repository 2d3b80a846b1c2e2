//! The ring: submissions, completions, and what belongs to the operations in between.
//!
//! Invariants: an operation's descriptor and memory live in its slot from before the kernel sees
//! it until its completion has been reaped, whether or not anybody still waits for it; a slot is
//! free again only then. The ring goes after its last operation (see [`Ring::drain`]).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use io_uring::squeue::Entry;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode};
use slab::Slab;

use crate::buf::AlignedBuf;

/// Nobody waits for the completion of a cancellation.
const IGNORED: u64 = u64::MAX;

/// What an operation uses, and gets back when it is over.
pub(super) struct Keep {
    /// The descriptor: nobody reads it, but it stays open.
    _fd: Arc<OwnedFd>,
    /// The memory that the kernel reads or writes.
    pub(super) buf: Option<AlignedBuf>,
    /// The same in parts.
    pub(super) parts: Parts,
}

/// Memory in parts, with what tells the kernel where they are.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) bytes: Vec<Bytes>,
    /// Nobody but the kernel reads it.
    _iovecs: Vec<libc::iovec>,
}

impl Keep {
    fn new(fd: &Arc<OwnedFd>, buf: Option<AlignedBuf>) -> Keep {
        Keep {
            _fd: fd.clone(),
            buf,
            parts: Parts::default(),
        }
    }
}

enum State {
    Waiting(Option<Waker>),
    Done(i32),
    /// Its future is gone.
    Orphan,
}

struct Slot {
    generation: u32,
    state: State,
    keep: Keep,
}

pub(super) struct Ring {
    uring: RefCell<IoUring>,
    slots: RefCell<Slab<Slot>>,
    generation: Cell<u32>,
    /// What the kernel did not take yet.
    backlog: RefCell<VecDeque<Entry>>,
    /// Completions on their way to their slots; kept for its memory.
    reaped: RefCell<Vec<(u64, i32)>>,
}

/// The newest kind of ring that this kernel makes. All kinds work alike; the newer ones run
/// completions only when the shard asks for them, which costs less.
fn build(depth: u32) -> io::Result<IoUring> {
    // 6.1; 5.19; any.
    let new = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_clamp()
        .setup_cqsize(depth * 4)
        .build(depth);
    match new {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
        other => return other,
    }
    let middle = IoUring::builder()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_clamp()
        .setup_cqsize(depth * 4)
        .build(depth);
    match middle {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => IoUring::builder()
            .setup_clamp()
            .setup_cqsize(depth * 4)
            .build(depth),
        other => other,
    }
}

impl Ring {
    /// A ring of the calling thread, which alone may use it.
    pub(super) fn new(depth: usize) -> io::Result<Ring> {
        let depth = u32::try_from(depth.clamp(8, 4096)).unwrap_or(4096);
        let uring = build(depth)?;
        let params = uring.params();
        if !params.is_feature_ext_arg() || !params.is_feature_nodrop() {
            let text = "the kernel's io_uring lacks timed waits; boot 5.11 or newer";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        Ok(Ring {
            uring: RefCell::new(uring),
            slots: RefCell::new(Slab::with_capacity(64)),
            generation: Cell::new(0),
            backlog: RefCell::new(VecDeque::new()),
            reaped: RefCell::new(Vec::with_capacity(64)),
        })
    }

    /// Waits until `fd` has one of `events` (`POLLIN`, ...) or an error.
    pub(super) fn poll(self: &Rc<Self>, fd: &Arc<OwnedFd>, events: i16) -> Op {
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), events as u16 as u32).build();
        let keep = Keep::new(fd, None);
        self.start(entry, keep, true)
    }

    /// Writes `buf` to position `pos`.
    pub(super) fn write(self: &Rc<Self>, fd: &Arc<OwnedFd>, buf: AlignedBuf, pos: u64) -> Op {
        let len = io_len(buf.len());
        let entry = opcode::Write::new(Fd(fd.as_raw_fd()), buf.as_ptr(), len)
            .offset(pos)
            .build();
        let keep = Keep::new(fd, Some(buf));
        self.start(entry, keep, false)
    }

    /// Writes `bytes` one after another from position `pos` on.
    pub(super) fn write_parts(
        self: &Rc<Self>,
        fd: &Arc<OwnedFd>,
        bytes: Vec<Bytes>,
        pos: u64,
    ) -> Op {
        let iovec = |b: &Bytes| libc::iovec {
            iov_base: b.as_ptr().cast_mut().cast(),
            iov_len: b.len(),
        };
        let iovecs: Vec<_> = bytes.iter().map(iovec).collect();
        // What a vector points to stays where it is when the vector itself is moved.
        let entry = opcode::Writev::new(Fd(fd.as_raw_fd()), iovecs.as_ptr(), iovecs.len() as u32)
            .offset(pos)
            .build();
        let keep = Keep {
            parts: Parts {
                bytes,
                _iovecs: iovecs,
            },
            ..Keep::new(fd, None)
        };
        self.start(entry, keep, false)
    }

    /// Reads from position `pos` into the range `into` of `buf`.
    pub(super) fn read(
        self: &Rc<Self>,
        fd: &Arc<OwnedFd>,
        mut buf: AlignedBuf,
        into: std::ops::Range<usize>,
        pos: u64,
    ) -> Op {
        let part = &mut buf[into];
        let entry = opcode::Read::new(Fd(fd.as_raw_fd()), part.as_mut_ptr(), io_len(part.len()))
            .offset(pos)
            .build();
        let keep = Keep::new(fd, Some(buf));
        self.start(entry, keep, false)
    }

    /// `fdatasync`.
    pub(super) fn sync(self: &Rc<Self>, fd: &Arc<OwnedFd>) -> Op {
        let entry = opcode::Fsync::new(Fd(fd.as_raw_fd()))
            .flags(io_uring::types::FsyncFlags::DATASYNC)
            .build();
        let keep = Keep::new(fd, None);
        self.start(entry, keep, false)
    }

    /// All memory that `entry` names is in `keep`, which moves into the slot here.
    fn start(self: &Rc<Self>, entry: Entry, keep: Keep, cancel: bool) -> Op {
        let generation = self.generation.get().wrapping_add(1) & 0x7fff_ffff;
        self.generation.set(generation);
        let key = self.slots.borrow_mut().insert(Slot {
            generation,
            state: State::Waiting(None),
            keep,
        });
        let op = Op {
            ring: self.clone(),
            key: u32::try_from(key).expect("fewer operations than 4 thousand million"),
            generation,
            cancel,
            over: false,
        };
        self.push(entry.user_data(op.id()));
        op
    }

    fn push(&self, entry: Entry) {
        let mut backlog = self.backlog.borrow_mut();
        backlog.push_back(entry);
        self.fill(&mut backlog);
        if !backlog.is_empty() {
            // The queue is full: the kernel takes it now. If it does not, it will later.
            let _ = self.uring.borrow().submit();
            self.fill(&mut backlog);
        }
    }

    /// Moves what waits into the submission queue.
    fn fill(&self, backlog: &mut VecDeque<Entry>) {
        let mut uring = self.uring.borrow_mut();
        let mut queue = uring.submission();
        while let Some(entry) = backlog.pop_front() {
            // SAFETY: what the entry points to lives in its slot until its completion; the
            // entries without a slot (cancellations) point to nothing.
            if unsafe { queue.push(&entry) }.is_err() {
                backlog.push_front(entry);
                return;
            }
        }
    }

    /// Whether the kernel has anything to do for us now.
    pub(super) fn wants_enter(&self) -> bool {
        let mut uring = self.uring.borrow_mut();
        let queue = uring.submission();
        let has = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        has || !self.backlog.borrow().is_empty()
    }

    pub(super) fn has_completions(&self) -> bool {
        !self.uring.borrow_mut().completion().is_empty()
    }

    /// One call of the kernel: it takes what was gathered, and, if `wait`, sleeps until something
    /// completes or the time is over.
    pub(super) fn enter(&self, wait: bool, most: Option<Duration>) -> io::Result<()> {
        let mut backlog = self.backlog.borrow_mut();
        self.fill(&mut backlog);
        let wait = wait && backlog.is_empty();
        drop(backlog);
        let uring = &mut *self.uring.borrow_mut();
        let count = uring.submission().len() as u32;
        let time = most.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let (true, Some(time)) = (wait, &time) {
            args = args.timespec(time);
        }
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // SAFETY: the entries in the queue are sound (see `fill`); `args` lives during the call.
        let result = unsafe {
            uring
                .submitter()
                .enter(count, u32::from(wait), flags.bits(), Some(&args))
        };
        match result {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                // Time is over; a signal came; completions have to be reaped first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(e),
            },
        }
    }

    /// Takes all completions that are there and wakes who waits for them; how many there were.
    pub(super) fn reap(&self) -> usize {
        let mut reaped = self.reaped.take();
        {
            let mut uring = self.uring.borrow_mut();
            reaped.extend(uring.completion().map(|c| (c.user_data(), c.result())));
        }
        for &(id, result) in &reaped {
            self.complete(id, result);
        }
        let count = reaped.len();
        reaped.clear();
        self.reaped.replace(reaped);
        count
    }

    fn complete(&self, id: u64, result: i32) {
        if id == IGNORED {
            return;
        }
        let (key, generation) = ((id & 0xffff_ffff) as usize, (id >> 32) as u32);
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(key).expect("a slot lives until here");
        assert_eq!(slot.generation, generation, "one completion per operation");
        match std::mem::replace(&mut slot.state, State::Done(result)) {
            State::Waiting(waker) => {
                drop(slots);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            State::Orphan => {
                let slot = slots.remove(key);
                drop(slots);
                drop(slot);
            }
            State::Done(_) => unreachable!("one completion per operation"),
        }
    }

    /// Operations whose completion was not taken yet.
    pub(super) fn in_flight(&self) -> usize {
        self.slots.borrow().len()
    }

    /// After the last future is gone: waits until the kernel is done with every operation.
    pub(super) fn drain(&self) -> io::Result<()> {
        while self.in_flight() > 0 {
            self.enter(true, None)?;
            self.reap();
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight() > 0 {
            // After a panic only: the kernel may still use that memory, so it stays.
            std::mem::forget(self.slots.take());
        }
    }
}

fn io_len(len: usize) -> u32 {
    len.min(1 << 30) as u32
}

/// An operation in flight. Dropping it leaves it to itself; a wait for readiness is canceled.
pub(super) struct Op {
    ring: Rc<Ring>,
    key: u32,
    generation: u32,
    /// Cancel when dropped: it may never complete by itself.
    cancel: bool,
    over: bool,
}

impl Op {
    pub(super) fn is_done(&self) -> bool {
        let slots = self.ring.slots.borrow();
        matches!(slots[self.key as usize].state, State::Done(_))
    }

    fn id(&self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.key)
    }
}

/// What the kernel said: a count, or minus an errno.
pub(super) fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

impl Future for Op {
    type Output = (io::Result<usize>, Keep);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ring = self.ring.clone();
        let mut slots = ring.slots.borrow_mut();
        let key = self.key as usize;
        match &mut slots[key].state {
            State::Done(result) => {
                let result = outcome(*result);
                let slot = slots.remove(key);
                self.over = true;
                Poll::Ready((result, slot.keep))
            }
            State::Waiting(waker) => {
                match waker {
                    Some(waker) if waker.will_wake(cx.waker()) => {}
                    _ => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            State::Orphan => unreachable!("its future is here"),
        }
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut slots = self.ring.slots.borrow_mut();
        let key = self.key as usize;
        let state = std::mem::replace(&mut slots[key].state, State::Orphan);
        if let State::Done(_) = state {
            let slot = slots.remove(key);
            drop(slots);
            drop(slot);
            return;
        }
        drop(slots);
        if self.cancel {
            let entry = opcode::AsyncCancel::new(self.id()).build();
            self.ring.push(entry.user_data(IGNORED));
        }
    }
}
