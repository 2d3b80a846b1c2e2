//! The executor of the simulator and its arm of `Env`.
//!
//! Invariants: the next task is drawn from the ready ones; time moves by a little with each turn,
//! and to the next timer when no task is ready; nothing depends on addresses or on real time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use slab::Slab;
use streamd_model::Mono;

use super::SimOptions;
use super::disk::DiskState;
use super::faults::DiskOp;
use super::net::Net;
use super::rng::{Rng, mix};
use crate::env::{Class, DirEntry, DiskSpace, Stats};
use crate::file::{self, OpenOptions};
use crate::local::yield_now;
use crate::stream::{self, AcceptedKind};
use crate::task::{self, Task};

pub(crate) enum Outcome<T> {
    Done(T),
    Crashed,
    Deadlock,
    Livelock,
}

type Future_ = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    /// Out while it has its turn.
    future: Option<Future_>,
    waker: Waker,
    queued: Arc<TaskWaker>,
    number: u64,
}

type Ready = Arc<Mutex<Vec<usize>>>;

struct TaskWaker {
    key: usize,
    queued: AtomicBool,
    ready: Ready,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.key);
        }
    }
}

/// One life of the simulated process.
pub(crate) struct World {
    pub(super) options: SimOptions,
    rng: RefCell<Rng>,
    now: Cell<u64>,
    turns: Cell<u64>,
    hash: Cell<u64>,
    tasks: RefCell<Slab<Slot>>,
    spawned: Cell<u64>,
    ready: Ready,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    timer_seq: Cell<u64>,
    closing: Cell<bool>,
    pub(super) disk: Rc<RefCell<DiskState>>,
    pub(super) net: RefCell<Net>,
}

impl World {
    pub(super) fn new(
        options: SimOptions,
        rng: Rng,
        disk: Rc<RefCell<DiskState>>,
        now: u64,
        hash: u64,
    ) -> Rc<World> {
        Rc::new(World {
            options,
            rng: RefCell::new(rng),
            now: Cell::new(now),
            turns: Cell::new(0),
            hash: Cell::new(hash),
            tasks: RefCell::new(Slab::new()),
            spawned: Cell::new(0),
            ready: Ready::default(),
            timers: RefCell::new(BTreeMap::new()),
            timer_seq: Cell::new(0),
            closing: Cell::new(false),
            disk,
            net: RefCell::new(Net::default()),
        })
    }

    pub(super) fn now(&self) -> u64 {
        self.now.get()
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// Adds to the trace.
    pub(super) fn trace(&self, what: u64) {
        self.hash.set(mix(
            self.hash.get() ^ what.wrapping_mul(0x2545_f491_4f6c_dd1d)
        ));
    }

    pub(super) fn random<T>(&self, f: impl FnOnce(&mut Rng) -> T) -> T {
        f(&mut self.rng.borrow_mut())
    }

    fn spawn(&self, future: Future_) {
        if self.closing.get() {
            return;
        }
        let number = self.spawned.get();
        self.spawned.set(number + 1);
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let queued = Arc::new(TaskWaker {
            key: entry.key(),
            queued: AtomicBool::new(false),
            ready: self.ready.clone(),
        });
        let waker = Waker::from(queued.clone());
        queued.wake_by_ref();
        entry.insert(Slot {
            future: Some(future),
            waker,
            queued,
            number,
        });
    }

    /// Runs until `main` has ended or so many turns were taken.
    pub(super) fn run<T>(&self, mut main: Task<T>, turns: u64) -> Outcome<T> {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if main.is_finished() {
                return match Pin::new(&mut main).poll(&mut cx) {
                    Poll::Ready(value) => Outcome::Done(value),
                    Poll::Pending => Outcome::Deadlock,
                };
            }
            if self.turns.get() >= turns {
                return Outcome::Crashed;
            }
            if self.turns.get() >= self.options.turns_max {
                return Outcome::Livelock;
            }
            self.fire_timers(self.now.get());
            if !self.turn() && !self.skip_to_next_timer() {
                return Outcome::Deadlock;
            }
        }
    }

    fn fire_timers(&self, now: u64) {
        loop {
            let due = match self.timers.borrow_mut().first_entry() {
                Some(entry) if entry.key().0 <= now => entry.remove(),
                _ => return,
            };
            due.wake();
        }
    }

    fn skip_to_next_timer(&self) -> bool {
        let next = self.timers.borrow().keys().next().map(|k| k.0);
        let Some(at) = next else { return false };
        self.now.set(self.now.get().max(at));
        self.fire_timers(at);
        true
    }

    /// One turn of a random ready task; `false` when none is ready.
    fn turn(&self) -> bool {
        let key = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            if ready.is_empty() {
                return false;
            }
            let at = self.random(|r| r.below(ready.len() as u64)) as usize;
            ready.swap_remove(at)
        };
        self.turns.set(self.turns.get() + 1);
        self.now
            .set(self.now.get() + self.random(|r| r.range(100..3_000)));
        let (mut future, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            // A task that ended may have been woken once more.
            let Some(slot) = tasks.get_mut(key) else {
                return true;
            };
            slot.queued.queued.store(false, Ordering::Relaxed);
            self.trace(slot.number << 32 ^ self.now.get());
            let Some(future) = slot.future.take() else {
                return true;
            };
            (future, slot.waker.clone())
        };
        let done = future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        if done {
            drop(future);
            let slot = self.tasks.borrow_mut().remove(key);
            // The key may be used again: the old waker must not wake the new task.
            slot.queued.queued.store(true, Ordering::Relaxed);
        } else if let Some(slot) = self.tasks.borrow_mut().get_mut(key) {
            slot.future = Some(future);
        }
        true
    }

    /// Drops all tasks, as the end of a process does.
    pub(super) fn close(&self) {
        self.closing.set(true);
        loop {
            let tasks = self.tasks.take();
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        let timers = self.timers.take();
        drop(timers);
        let net = self.net.take();
        drop(net);
        self.disk.borrow_mut().close_files();
    }

    /// Waits until `at`.
    pub(super) async fn until(&self, at: u64) {
        let mut timer = Timer {
            world: self,
            key: None,
        };
        std::future::poll_fn(|cx| {
            if self.now.get() >= at {
                return Poll::Ready(());
            }
            if let Some(key) = timer.key {
                self.timers.borrow_mut().insert(key, cx.waker().clone());
            } else {
                let seq = self.timer_seq.get();
                self.timer_seq.set(seq + 1);
                self.timers
                    .borrow_mut()
                    .insert((at, seq), cx.waker().clone());
                timer.key = Some((at, seq));
            }
            Poll::Pending
        })
        .await;
    }

    /// A disk operation takes its time, and may fail.
    pub(super) async fn disk_op(&self, op: DiskOp, path: &Path) -> io::Result<()> {
        let us = self.random(|r| r.range(self.options.disk_us.clone()));
        self.until(self.now.get() + us * 1000).await;
        let eio = u64::from(self.disk.borrow().eio_per_million);
        if eio > 0 && self.random(|r| r.chance(eio, 1_000_000)) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.random(|r| self.disk.borrow().strike(op, path, r))
    }
}

struct Timer<'a> {
    world: &'a World,
    key: Option<(u64, u64)>,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = self.world.timers.borrow_mut().remove(&key);
            drop(waker);
        }
    }
}

/// The simulator's arm of `Env`.
#[derive(Clone)]
pub(crate) struct Env(Rc<World>);

impl Env {
    pub(super) fn new(world: Rc<World>) -> Env {
        Env(world)
    }

    pub(crate) fn now(&self) -> Mono {
        Mono(self.0.now())
    }

    pub(crate) fn wall_ms(&self) -> i64 {
        self.0.options.wall_start_ms + (self.0.now() / 1_000_000) as i64
    }

    pub(crate) fn random_u64(&self) -> u64 {
        self.0.random(Rng::next)
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            tasks: self.0.tasks.borrow().len() as u64,
            ..Stats::default()
        }
    }

    pub(crate) async fn sleep(&self, d: Duration) {
        let ns = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        self.0.until(self.0.now().saturating_add(ns)).await;
    }

    pub(crate) async fn yield_now(&self) {
        yield_now().await;
    }

    pub(crate) async fn yield_if_needed(&self) {
        if self.0.random(|r| r.chance(1, 8)) {
            yield_now().await;
        }
    }

    pub(crate) fn spawn<F, T>(&self, _class: Class, future: F) -> Task<T>
    where
        F: Future<Output = T> + 'static,
        T: 'static,
    {
        let (body, task) = task::new(future);
        self.0.spawn(Box::pin(body));
        task
    }

    pub(crate) async fn open(&self, path: &Path, o: &OpenOptions) -> io::Result<file::File> {
        let file = super::File::open(self.0.clone(), path, o).await?;
        Ok(file::File(file::Kind::Sim(file)))
    }

    pub(crate) async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.disk_op(DiskOp::Name, path).await?;
        self.0.disk.borrow_mut().create_dir_all(path)
    }

    pub(crate) async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.disk_op(DiskOp::Name, path).await?;
        self.0.disk.borrow_mut().remove_dir_all(path)
    }

    pub(crate) async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.disk_op(DiskOp::Name, path).await?;
        self.0.disk.borrow_mut().remove_file(path)
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.disk_op(DiskOp::Name, from).await?;
        self.0.disk.borrow_mut().rename(from, to)
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let until = self.0.disk.borrow().journal_end();
        self.0.disk_op(DiskOp::Name, path).await?;
        self.0.disk.borrow_mut().sync_dir(path, until)
    }

    pub(crate) fn file_system(&self, path: &Path) -> FileSystem {
        FileSystem {
            env: self.clone(),
            root: path.to_owned(),
            told: Cell::new(self.0.disk.borrow().lost_all()),
        }
    }

    pub(crate) async fn list_dirs(&self, path: &Path) -> io::Result<Vec<String>> {
        let entries = self.list_dir(path).await?.into_iter();
        Ok(entries.filter(|e| e.is_dir).map(|e| e.name).collect())
    }

    pub(crate) async fn list_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.disk_op(DiskOp::Name, path).await?;
        self.0.disk.borrow().list_dir(path)
    }

    pub(crate) async fn read_file(&self, path: &Path, max: usize) -> io::Result<Vec<u8>> {
        let file = super::File::open(self.0.clone(), path, &OpenOptions::new()).await?;
        if file.size().await? > max as u64 {
            return Err(crate::file::too_large(path, max));
        }
        Ok(file.read_at(0, max).await?.to_vec())
    }

    pub(crate) async fn write_file_atomic(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let mut temp = path.as_os_str().to_owned();
        temp.push(".tmp");
        let temp = Path::new(&temp);
        let file = super::File::open(self.0.clone(), temp, &OpenOptions::new().create()).await?;
        file.truncate(0).await?;
        file.write_plain(bytes, 0).await?;
        file.sync().await?;
        self.rename(temp, path).await?;
        self.sync_dir(path.parent().unwrap_or(Path::new("/"))).await
    }

    pub(crate) async fn disk_space(&self, path: &Path) -> io::Result<DiskSpace> {
        self.0.disk_op(DiskOp::Name, path).await?;
        let disk = self.0.disk.borrow();
        let total = disk.capacity.unwrap_or(1 << 40);
        Ok(DiskSpace {
            total,
            free: total.saturating_sub(disk.used()),
        })
    }

    pub(crate) async fn listen(&self, addr: SocketAddr) -> io::Result<stream::Listener> {
        let listener = super::Listener::bind(self.0.clone(), addr)?;
        Ok(stream::Listener(stream::ListenerKind::Sim(listener)))
    }

    pub(crate) fn adopt(&self, accepted: stream::Accepted) -> io::Result<stream::Stream> {
        match accepted.0 {
            AcceptedKind::Sim(accepted) => {
                let stream = super::Stream::adopt(&self.0, &accepted)?;
                Ok(stream::Stream(stream::StreamKind::Sim(stream)))
            }
            AcceptedKind::Uring(_) => Err(io::Error::other("a real socket in the simulator")),
        }
    }

    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<stream::Stream> {
        self.0
            .until(self.0.now() + self.0.random(|r| r.range(1_000..50_000)))
            .await;
        let stream = super::Stream::connect(self.0.clone(), addr)?;
        Ok(stream::Stream(stream::StreamKind::Sim(stream)))
    }
}

/// The simulator's arm of [`crate::FileSystem`].
pub(crate) struct FileSystem {
    env: Env,
    root: PathBuf,
    /// Failures of write-back that were told here, or were before it was opened.
    told: Cell<u64>,
}

impl FileSystem {
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let world = &self.env.0;
        let until = world.disk.borrow().marks();
        let result = world.disk_op(DiskOp::Sync, &self.root).await;
        let mut disk = world.disk.borrow_mut();
        match &result {
            Ok(()) => disk.sync_all(until),
            Err(_) => world.random(|r| disk.fail_sync_all(until.1, r)),
        }
        // What another one has lost may be what was written here.
        let told = self.told.replace(disk.lost_all());
        match result {
            Ok(()) if told < disk.lost_all() => Err(io::Error::from_raw_os_error(libc::EIO)),
            result => result,
        }
    }

    pub(crate) async fn replace_files(&self, files: Vec<(PathBuf, Vec<u8>)>) -> io::Result<()> {
        let mut names = Vec::new();
        for (path, bytes) in files {
            let mut temp = path.as_os_str().to_owned();
            temp.push(".tmp");
            let temp = PathBuf::from(temp);
            let options = OpenOptions::new().create();
            let file = super::File::open(self.env.0.clone(), &temp, &options).await?;
            file.truncate(0).await?;
            file.write_plain(bytes, 0).await?;
            names.push((temp, path));
        }
        self.sync().await?;
        for (temp, path) in names {
            self.env.rename(&temp, &path).await?;
        }
        self.sync().await
    }
}
