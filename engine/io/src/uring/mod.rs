//! The kernel arm: an executor of our own on one io_uring per shard.
//!
//! - [`shard`]: the loop. Tasks have turns; in between, one call of the kernel hands over all
//!   that was gathered and fetches all that is done. An idle shard sleeps in that call.
//! - [`ring`]: operations, and who owns their memory. [`timers`], [`waker`], [`pool`]: the rest of
//!   what can wake a task.
//! - [`file`], [`net`], [`send`]: what `Env` offers. Sockets are tried without waiting first and
//!   polled through the ring; direct I/O and syncs are operations of the ring; all other calls
//!   that may block go to the pool.

mod delay;
mod door;
mod env;
mod file;
mod net;
mod pool;
mod ring;
mod send;
mod shard;
mod start;
mod timers;
mod waker;

#[cfg(test)]
mod tests;

pub(crate) use env::{Env, FileSystem};
pub(crate) use file::{File, SharedFd};
pub(crate) use net::{Listener, ReadHalf, Stream, WriteHalf};
pub(crate) use start::{executor, run};
