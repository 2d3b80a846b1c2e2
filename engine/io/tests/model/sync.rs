//! What the queues are made of in the model. The library's queues promise no more than this: what
//! was pushed is seen by the one who pops it, and "empty" or "full" says nothing about anything
//! else. A queue behind a lock would hide a missing fence.

pub use std::sync::PoisonError;

pub use loom::sync::Mutex;
use loom::sync::atomic::AtomicUsize;
pub use loom::sync::atomic::{AtomicBool, Ordering, fence};

struct Slot<T> {
    full: AtomicBool,
    item: Mutex<Option<T>>,
}

/// A bounded queue.
pub struct ArrayQueue<T> {
    slots: Vec<Slot<T>>,
    head: AtomicUsize,
    tail: AtomicUsize,
}

impl<T> ArrayQueue<T> {
    pub fn new(capacity: usize) -> ArrayQueue<T> {
        let slot = || Slot {
            full: AtomicBool::new(false),
            item: Mutex::new(None),
        };
        ArrayQueue {
            slots: (0..capacity).map(|_| slot()).collect(),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
        }
    }

    fn slot(&self, at: usize) -> &Slot<T> {
        &self.slots[at % self.slots.len()]
    }

    pub fn push(&self, item: T) -> Result<(), T> {
        loop {
            let tail = latest(&self.tail);
            if self.slot(tail).full.load(Ordering::Acquire) {
                if latest(&self.tail) == tail {
                    return Err(item);
                }
            } else if step(&self.tail, tail) {
                *self.slot(tail).item.lock().unwrap() = Some(item);
                self.slot(tail).full.store(true, Ordering::Release);
                return Ok(());
            }
        }
    }

    pub fn pop(&self) -> Option<T> {
        loop {
            let head = latest(&self.head);
            if !self.slot(head).full.load(Ordering::Acquire) {
                return None;
            }
            if step(&self.head, head) {
                let item = self.slot(head).item.lock().unwrap().take();
                self.slot(head).full.store(false, Ordering::Release);
                return item;
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        let head = latest(&self.head);
        !self.slot(head).full.load(Ordering::Acquire)
    }
}

fn latest(at: &AtomicUsize) -> usize {
    at.fetch_add(0, Ordering::AcqRel)
}

fn step(at: &AtomicUsize, from: usize) -> bool {
    at.compare_exchange(from, from + 1, Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
}

/// A queue without a bound: no model pushes more than its room.
pub struct SegQueue<T>(ArrayQueue<T>);

impl<T> SegQueue<T> {
    pub fn new() -> SegQueue<T> {
        SegQueue(ArrayQueue::new(4))
    }

    pub fn push(&self, item: T) {
        assert!(self.0.push(item).is_ok(), "the model pushes too much");
    }

    pub fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
