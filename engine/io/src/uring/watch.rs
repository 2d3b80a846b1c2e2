//! The watch: the guard against an executor that parks with work waiting.
//!
//! glommio parks for ever if an event without a waker (its own preemption timer) fires between
//! its look at the rings and its first task. A timer on the shard is no sure help: it may be the
//! very task that waits. So one thread watches all shards: one that has work, has given no task a
//! turn since the last look, and whose thread sleeps, is rung awake and counted. It looks every
//! 2 ms while a shard is in use and every 20 ms when all are idle; looking wakes no shard.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::waker::Home;

const FAST: Duration = Duration::from_millis(2);
const SLOW: Duration = Duration::from_millis(20);
/// So long after the last turn of any task the watch slows down.
const IDLE_AFTER: Duration = Duration::from_millis(40);

struct Watched {
    home: Weak<Home>,
    turns: u64,
    /// It had work at the last look.
    pending: bool,
}

#[derive(Default)]
struct Watch {
    all: Vec<Watched>,
    running: bool,
}

static WATCH: Mutex<Watch> = Mutex::new(Watch {
    all: Vec::new(),
    running: false,
});

/// Watches `home` from now on, until it is gone.
pub(super) fn add(home: &Arc<Home>) -> std::io::Result<()> {
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    if !watch.running {
        std::thread::Builder::new()
            .name("io-watch".into())
            .spawn(run)?;
        watch.running = true;
    }
    watch.all.push(Watched {
        home: Arc::downgrade(home),
        turns: 0,
        pending: false,
    });
    Ok(())
}

fn run() {
    let mut active = Instant::now();
    loop {
        std::thread::sleep(if active.elapsed() < IDLE_AFTER {
            FAST
        } else {
            SLOW
        });
        let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
        watch.all.retain_mut(|w| {
            let Some(home) = w.home.upgrade() else {
                return false;
            };
            if look(w, &home) {
                active = Instant::now();
            }
            true
        });
        if watch.all.is_empty() {
            watch.running = false;
            return;
        }
    }
}

/// Looks at one shard; whether a task of it had a turn since the last look.
fn look(w: &mut Watched, home: &Home) -> bool {
    let (turns, pending) = (home.turns(), home.has_work());
    let moved = turns != w.turns;
    if pending && w.pending && !moved && home.thread_sleeps() {
        home.rescue();
    }
    (w.turns, w.pending) = (turns, pending);
    moved
}
