//! For how long this thread was ready to run and had no core, as the kernel counts it: so that a
//! busy machine is not taken for a slow task.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// How old the mark may be before it is set anew (ns).
const MARK_EVERY: u64 = 10_000_000;

pub(super) struct RunDelay {
    /// Kept open: asking costs about a microsecond. `None` where the kernel does not count.
    stat: Option<File>,
    marked_at: Cell<u64>,
    mark: Cell<u64>,
}

impl RunDelay {
    /// For the calling thread.
    pub(super) fn new() -> RunDelay {
        let this = RunDelay {
            stat: File::open("/proc/thread-self/schedstat").ok(),
            marked_at: Cell::new(0),
            mark: Cell::new(0),
        };
        this.mark.set(this.ask());
        this
    }

    /// Sets the mark if it is old. Called now and then, `now` in ns.
    pub(super) fn mark(&self, now: u64) {
        if now.saturating_sub(self.marked_at.get()) > MARK_EVERY {
            self.marked_at.set(now);
            self.mark.set(self.ask());
        }
    }

    /// The delay since the mark (ns): an upper bound for anything that began after it.
    pub(super) fn since_mark(&self) -> u64 {
        self.ask().saturating_sub(self.mark.get())
    }

    /// The delay since the thread began (ns); 0 if the kernel does not say.
    fn ask(&self) -> u64 {
        let mut text = [0u8; 96];
        let read = self
            .stat
            .as_ref()
            .and_then(|f| f.read_at(&mut text, 0).ok());
        let text = std::str::from_utf8(&text[..read.unwrap_or(0)]).unwrap_or("");
        text.split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    }
}
