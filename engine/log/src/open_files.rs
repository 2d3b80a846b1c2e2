//! The files that the segments of one shard (one thread) have open, at most so many. Each segment
//! opens its files again when it needs them, so closing one costs a little time and nothing else.
//!
//! Invariants: a segment is listed once while it has a file open; one whose writes are not durable
//! yet keeps its file. Who was not asked for since the hand came by last goes first (a clock).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use crate::segment::Segment;

/// Segments with open files, when nobody says otherwise. Each has two files at the most.
const SEGMENTS_MAX: usize = 256;

struct OpenFiles {
    max: Cell<usize>,
    segments: RefCell<VecDeque<Weak<Segment>>>,
}

thread_local! {
    static OPEN: OpenFiles = const {
        OpenFiles {
            max: Cell::new(SEGMENTS_MAX),
            segments: RefCell::new(VecDeque::new()),
        }
    };
}

/// How many segments of this thread may keep their files open; each has two at the most.
pub fn set_max(segments: usize) {
    OPEN.with(|open| open.max.set(segments.max(1)));
}

/// How many segments of this thread have files open.
pub fn count() -> usize {
    OPEN.with(|open| open.segments.borrow().len())
}

/// A segment has opened a file: others may have to close theirs.
pub(crate) fn add(segment: &Rc<Segment>) {
    OPEN.with(|open| {
        open.segments.borrow_mut().push_back(Rc::downgrade(segment));
        let all = count();
        let more = all.saturating_sub(open.max.get());
        if more > 0 {
            // Twice round, at the most: the first time may only take the marks off.
            open.pass(2 * all, more);
        }
    });
}

/// Closes the files of segments that nobody asked for since the last call.
pub fn age() {
    OPEN.with(|open| {
        let all = open.segments.borrow().len();
        open.pass(all, all);
    });
}

impl OpenFiles {
    /// Looks at `looks` segments and lets `close` of them go.
    fn pass(&self, looks: usize, close: usize) {
        let mut left = close;
        for _ in 0..looks {
            if left == 0 {
                break;
            }
            let next = self.segments.borrow_mut().pop_front();
            let Some(weak) = next else { break };
            match weak.upgrade() {
                Some(segment) if !segment.may_close() => {
                    self.segments.borrow_mut().push_back(weak);
                }
                Some(segment) => {
                    segment.close_files();
                    left -= 1;
                }
                None => left -= 1,
            }
        }
    }
}
