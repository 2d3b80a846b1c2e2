//! The seam between streamd and the machine: time, tasks, files, sockets, queues between cores.
//!
//! Two arms stand behind concrete types: the kernel arm (`uring`, an executor of our own) and the
//! simulator arm (`sim`, behind the cargo feature of that name). Which arm a value belongs to is a
//! private enum, so that nobody outside needs a type parameter, and one conformance suite runs on
//! both.
//!
//! Invariants: this is the only crate that names `io_uring` or `libc`, and the only one with
//! `unsafe`. A task's waker may be used from any thread. When the main future of an executor has
//! ended, every other task of it is dropped before the executor goes.

/// Does the same on both arms of a value whose private enum is the `Kind` in scope.
macro_rules! both {
    ($self:expr, $arm:ident => $body:expr) => {
        match &$self.0 {
            Kind::Uring($arm) => $body,
            #[cfg(any(test, feature = "sim"))]
            Kind::Sim($arm) => $body,
        }
    };
}

pub mod buf;
#[cfg(test)]
mod conformance;
pub mod env;
pub mod file;
pub mod file_system;
pub mod local;
pub mod mailbox;
pub mod probe;
pub mod process;
pub mod profile;
pub mod runtime;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod stream;
mod sync;
mod task;
mod uring;

pub use buf::{AlignedBuf, BLOCK, class_len};
pub use bytes::Bytes;
pub use env::{Class, DirEntry, DiskSpace, Env, Stats};
pub use file::{File, OpenOptions, PARTS_MAX, SharedFile};
pub use file_system::FileSystem;
pub use probe::{ProbeError, ProbeReport, probe};
pub use process::{DirLock, available_cores, lock_dir, signal};
pub use runtime::{Runtime, RuntimeOptions, run, start};
pub use stream::{Accepted, Listener, Part, ReadHalf, Stream, WriteHalf};
pub use task::Task;
