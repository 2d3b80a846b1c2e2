//! The kernel arm, on glommio 0.9.0. Its defects are guarded here and in `probe`:
//!
//! 1. An executor may park with tasks that could run: [`watch`] finds it asleep with work within
//!    a few ms, wakes it, and counts the rescues.
//! 2. A busy executor looks at its rings only when its timer fires: [`shard`] sends tasks through
//!    the reactor after 1 ms of uninterrupted turns, so the long timer never matters.
//! 3. A task's waker counts its clones in 15 bits and may not be dropped on another thread:
//!    [`waker`] gives tasks wakers of our own, so that each glommio waker exists once.
//! 4. False detection of polled I/O: [`prime`] opens a file that was really written first.

mod delay;
mod env;
mod file;
mod net;
mod prime;
mod send;
mod shard;
mod start;
mod waker;
mod watch;

#[cfg(test)]
mod tests;

pub(crate) use env::Env;
pub(crate) use file::{File, SharedFd};
pub(crate) use net::{Listener, ReadHalf, Stream, WriteHalf};
pub(crate) use prime::polled_io_verdict;
pub use start::Knobs;
pub(crate) use start::{executor, run};

/// glommio's error as the operating system's, where there is one.
fn io_err<T>(e: glommio::GlommioError<T>) -> std::io::Error {
    match e {
        glommio::GlommioError::IoError(e) => e,
        glommio::GlommioError::EnhancedIoError { source, .. } => source,
        other => std::io::Error::other(other.to_string()),
    }
}
