//! `Env`: what a task may ask of the world. The first constructor argument everywhere.
//!
//! Invariant: nothing above this crate reads a clock, draws a random number, opens a file or a
//! socket, or spawns a task except through an `Env`; so a run in the simulator repeats.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use streamd_model::Mono;

use crate::buf::AlignedBuf;
use crate::file::{File, OpenOptions};
use crate::file_system::{self, FileSystem};
#[cfg(any(test, feature = "sim"))]
use crate::sim;
use crate::stream::{Accepted, Listener, Stream};
use crate::task::Task;
use crate::uring;

/// Which queue of the shard a task runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Produce, fetch, replication: somebody waits for it.
    Latency,
    /// Retention, compaction, recovery, snapshots: gets a small share while the other is busy.
    Background,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The file name, without the directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The size of a file in bytes; 0 for a directory.
    pub len: u64,
}

/// Space of the file system that holds a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// All bytes.
    pub total: u64,
    /// Bytes that this user may still write.
    pub free: u64,
}

/// What the runtime counted on this shard since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Turns of a task that took longer than the stall limit.
    pub stalls: u64,
    /// The longest turn of a task (microseconds).
    pub worst_turn_us: u64,
    /// Tasks that are alive.
    pub tasks: u64,
    /// Chunks of files that were sent straight from the page cache.
    pub chunks_resident: u64,
    /// Chunks of files that had to come from the disk, by a blocking thread.
    pub chunks_cold: u64,
}

/// The world of one shard. Cheap to clone; never leaves its thread.
#[derive(Clone)]
pub struct Env(pub(crate) Kind);

#[derive(Clone)]
pub(crate) enum Kind {
    Uring(uring::Env),
    #[cfg(any(test, feature = "sim"))]
    Sim(sim::Env),
}

impl Env {
    /// The monotonic clock. Comparable between shards of one process.
    pub fn now(&self) -> Mono {
        both!(self, e => e.now())
    }

    /// Wall time: milliseconds since the Unix epoch.
    pub fn wall_ms(&self) -> i64 {
        both!(self, e => e.wall_ms())
    }

    /// A random number (not for secrets).
    pub fn random_u64(&self) -> u64 {
        both!(self, e => e.random_u64())
    }

    /// Sleeps for at least `d`.
    pub async fn sleep(&self, d: Duration) {
        both!(self, e => e.sleep(d).await)
    }

    /// Lets others run, and lets the shard look at its sockets, files and timers.
    pub async fn yield_now(&self) {
        both!(self, e => e.yield_now().await)
    }

    /// [`Env::yield_now`] if the shard has been busy for longer than about 500 µs. Cheap enough
    /// for every few dozen records of a loop.
    pub async fn yield_if_needed(&self) {
        both!(self, e => e.yield_if_needed().await)
    }

    /// Runs `future` as a task of this shard. Its first turn comes later, never inside this call.
    #[track_caller]
    pub fn spawn<F, T>(&self, class: Class, future: F) -> Task<T>
    where
        F: Future<Output = T> + 'static,
        T: 'static,
    {
        both!(self, e => e.spawn(class, future))
    }

    /// Opens a file.
    pub async fn open(&self, path: &Path, options: &OpenOptions) -> io::Result<File> {
        both!(self, e => e.open(path, options).await)
    }

    /// Makes a directory and its parents; no error when it is there.
    pub async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        both!(self, e => e.create_dir_all(path).await)
    }

    /// Removes a directory with all that is in it.
    pub async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        both!(self, e => e.remove_dir_all(path).await)
    }

    /// Removes a file.
    pub async fn remove_file(&self, path: &Path) -> io::Result<()> {
        both!(self, e => e.remove_file(path).await)
    }

    /// Renames; replaces a file that has the new name. Durable after [`Env::sync_dir`].
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        both!(self, e => e.rename(from, to).await)
    }

    /// Makes the names in a directory durable: files created, renamed, removed in it.
    pub async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        both!(self, e => e.sync_dir(path).await)
    }

    /// The file system that holds the directory `path`, to sync all of it.
    pub async fn file_system(&self, path: &Path) -> io::Result<FileSystem> {
        let kind = match &self.0 {
            Kind::Uring(e) => file_system::Kind::Uring(e.file_system(path).await?),
            #[cfg(any(test, feature = "sim"))]
            Kind::Sim(e) => file_system::Kind::Sim(e.file_system(path)),
        };
        Ok(FileSystem(kind))
    }

    /// The names of the directories in a directory, in no order. Looks at no entry itself, so it
    /// takes little also where there are very many. Names that are not UTF-8 are an error.
    pub async fn list_dirs(&self, path: &Path) -> io::Result<Vec<String>> {
        both!(self, e => e.list_dirs(path).await)
    }

    /// The entries of a directory, sorted by name. Names that are not UTF-8 are an error.
    pub async fn list_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        both!(self, e => e.list_dir(path).await)
    }

    /// The whole of a small file. More than `max` bytes: `InvalidData`.
    pub async fn read_file(&self, path: &Path, max: usize) -> io::Result<Vec<u8>> {
        both!(self, e => e.read_file(path, max).await)
    }

    /// Replaces a file so that after a crash either the old or the new content is there: writes
    /// `<path>.tmp`, syncs, renames, syncs the directory.
    pub async fn write_file_atomic(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        both!(self, e => e.write_file_atomic(path, bytes).await)
    }

    /// Space of the file system that holds `path`.
    pub async fn disk_space(&self, path: &Path) -> io::Result<DiskSpace> {
        both!(self, e => e.disk_space(path).await)
    }

    /// Listens; several shards may listen on one address (`SO_REUSEPORT`). Backlog 4096.
    pub async fn listen(&self, addr: SocketAddr) -> io::Result<Listener> {
        both!(self, e => e.listen(addr).await)
    }

    /// Makes an accepted connection this shard's, whichever shard's listener it came from.
    pub fn adopt(&self, accepted: Accepted) -> io::Result<Stream> {
        both!(self, e => e.adopt(accepted))
    }

    /// Connects.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<Stream> {
        both!(self, e => e.connect(addr).await)
    }

    /// A buffer of at least `len` bytes for direct I/O; contents are unspecified.
    pub fn alloc(&self, len: usize) -> AlignedBuf {
        AlignedBuf::new(len)
    }

    /// What the runtime counted on this shard.
    pub fn stats(&self) -> Stats {
        both!(self, e => e.stats())
    }
}
