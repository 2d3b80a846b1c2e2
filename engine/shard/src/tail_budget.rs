//! How much memory the tails of a shard's partitions may take together. When it is full, what was
//! written longest ago is let go, whoever's it is; it is on disk anyway.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use crate::partition::Partition;

/// The budget of one shard.
pub struct TailBudget {
    limit: usize,
    used: Cell<usize>,
    /// One entry for each group in memory, oldest first.
    order: RefCell<VecDeque<(Weak<Partition>, usize)>>,
}

impl TailBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Rc<TailBudget> {
        Rc::new(TailBudget {
            limit,
            used: Cell::new(0),
            order: RefCell::default(),
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// A group of `memory` bytes was added to the tail of `partition`.
    pub fn grew(&self, partition: &Rc<Partition>, memory: usize) {
        self.used.set(self.used.get() + memory);
        self.order
            .borrow_mut()
            .push_back((Rc::downgrade(partition), memory));
        while self.used.get() > self.limit {
            let Some((oldest, memory)) = self.order.borrow_mut().pop_front() else {
                break;
            };
            if let Some(p) = oldest.upgrade() {
                let freed = p.log.borrow_mut().drop_tail();
                assert!(
                    freed == memory,
                    "one entry for each group, in the same order"
                );
            }
            self.used.set(self.used.get() - memory);
        }
    }
}
