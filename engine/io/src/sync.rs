//! What the queues between threads are made of. The model in `tests/model` builds the same
//! sources on another module of this name, whose every access it interleaves.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
pub(crate) use std::sync::{Mutex, PoisonError};

pub(crate) use crossbeam_queue::{ArrayQueue, SegQueue};
