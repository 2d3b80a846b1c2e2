//! Kafka Streams and Kafka Connect, stock, against a broker of ours: what they make of it (groups,
//! transactions, compacted topics, offsets) holds over kills of theirs and of the broker's.

mod connect;
mod wordcount;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: each has several JVMs, which a small machine would starve.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
