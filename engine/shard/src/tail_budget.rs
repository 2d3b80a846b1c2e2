//! How much memory the tails of a shard's logs may take together. When it is full, what was written
//! longest ago is let go, whoever's it is, as soon as it is in its segment.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use streamd_log::journal::Flushed;
use streamd_model::Offset;

use crate::flusher::Owner;

/// The budget of one shard.
pub struct TailBudget {
    limit: usize,
    used: Cell<usize>,
    /// What came into memory, oldest first.
    order: RefCell<VecDeque<Entry>>,
}

struct Entry {
    owner: Weak<dyn Owner>,
    /// The offset after it.
    next: Offset,
    memory: usize,
}

impl TailBudget {
    /// A budget of `limit` bytes. What is not in a segment yet may take more.
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

    /// The tail of `owner`'s log has grown.
    pub fn grew(&self, owner: &Rc<dyn Owner>, flushed: Flushed) {
        self.used.set(self.used.get() + flushed.memory);
        self.order.borrow_mut().push_back(Entry {
            owner: Rc::downgrade(owner),
            next: flushed.next,
            memory: flushed.memory,
        });
        self.trim();
    }

    /// Lets go of the oldest until the limit is kept, or something is not in its segment yet.
    pub fn trim(&self) {
        let mut order = self.order.borrow_mut();
        while self.used.get() > self.limit
            && let Some(oldest) = order.front()
        {
            if let Some(owner) = oldest.owner.upgrade()
                && !owner.is_gone()
                && !owner.log().borrow_mut().drop_tail(oldest.next)
            {
                return;
            }
            self.used.set(self.used.get() - oldest.memory);
            order.pop_front();
        }
    }
}
