//! On-CPU profiles: a timer per thread on that thread's own CPU clock.
//!
//! Needs no hardware counter and no privilege: a process may always ask for timers on its own
//! clocks. The kernel looks at such clocks once per tick (usually 250 times a second), and says how
//! many periods have passed, so weights stay right at any rate.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use super::{Profile, Stack, signal, walk};

/// How often samples are fetched.
const FETCH_EVERY: Duration = Duration::from_millis(50);
/// How often new threads are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The most different stacks that are kept.
const STACKS_MAX: usize = 50_000;
/// The most threads that are sampled.
const THREADS_MAX: usize = 1024;

static BUSY: AtomicBool = AtomicBool::new(false);
static LAST_SESSION: AtomicU32 = AtomicU32::new(0);

/// Holds the one running profile; all that was started ends with it.
struct Session {
    id: u32,
    period: Duration,
    timers: BTreeMap<i32, Timer>,
    names: BTreeMap<i32, String>,
    refused: Option<io::Error>,
}

/// A timer of one thread.
struct Timer(libc::timer_t);

impl Timer {
    /// Sends `SIGPROF` to `thread` each time it has used `period` of CPU.
    fn start(thread: i32, session: u32, period: Duration) -> io::Result<Timer> {
        // A thread's CPU clock, as the kernel numbers them: the complement of the id above three
        // bits, which say "of a thread" (4) and "as the scheduler counts it" (2).
        let clock = (!thread << 3) | 6;
        let value = (u64::from(session) << 32) | u64::from(thread as u32);
        // SAFETY: zeros are valid for both structures; the calls read them and fill `timer`.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGPROF;
            event.sigev_notify_thread_id = thread;
            event.sigev_value.sival_ptr = value as usize as *mut libc::c_void;
            let mut timer: libc::timer_t = std::mem::zeroed();
            if libc::timer_create(clock, &mut event, &mut timer) != 0 {
                return Err(io::Error::last_os_error());
            }
            let timer = Timer(timer);
            let every = libc::timespec {
                tv_sec: period.as_secs() as libc::time_t,
                tv_nsec: i64::from(period.subsec_nanos()) as libc::c_long,
            };
            let times = libc::itimerspec {
                it_interval: every,
                it_value: every,
            };
            if libc::timer_settime(timer.0, 0, &times, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(timer)
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: made by `start`, and deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}

impl Session {
    fn start(hz: u32) -> io::Result<Session> {
        if BUSY.swap(true, Ordering::SeqCst) {
            let text = "a profile is being taken already; try again when it is over";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        let id = LAST_SESSION.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        // From here on, dropping it makes way for the next one.
        let session = Session {
            id: id.max(1),
            period: Duration::from_secs(1) / hz,
            timers: BTreeMap::new(),
            names: BTreeMap::new(),
            refused: None,
        };
        signal::install()?;
        signal::samples().take(drop);
        signal::samples().take_lost();
        signal::set_session(session.id);
        Ok(session)
    }

    /// Gives a timer to each thread that has none, and learns their names.
    fn look_for_threads(&mut self) -> io::Result<()> {
        for entry in fs::read_dir("/proc/self/task")?.flatten() {
            let Some(thread) = entry.file_name().to_str().and_then(|s| s.parse().ok()) else {
                continue;
            };
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            // The kernel's own workers take no signals.
            if name.is_empty() || name.starts_with("iou-") {
                continue;
            }
            // A thread names itself, some time after it began.
            self.names.insert(thread, name.trim().to_owned());
            if self.timers.contains_key(&thread) || self.timers.len() >= THREADS_MAX {
                continue;
            }
            match Timer::start(thread, self.id, self.period) {
                Ok(timer) => {
                    self.timers.insert(thread, timer);
                }
                // It has just ended.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                Err(e) => self.refused = Some(e),
            }
        }
        match self.refused.take() {
            Some(e) if self.timers.is_empty() => Err(e),
            _ => Ok(()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        signal::set_session(0);
        self.timers.clear();
        BUSY.store(false, Ordering::SeqCst);
    }
}

/// Stacks by thread, with their weights; bounded.
#[derive(Default)]
struct Stacks {
    all: BTreeMap<(i32, Vec<usize>), u64>,
    lost: u64,
}

impl Stacks {
    fn fetch(&mut self, session: u32) {
        signal::samples().take(|sample| {
            if (sample.tag >> 32) as u32 != session {
                return;
            }
            let key = (sample.tag as u32 as i32, sample.frames);
            let weight = u64::from(sample.weight);
            let full = self.all.len() >= STACKS_MAX;
            match self.all.get_mut(&key) {
                Some(sum) => *sum += weight,
                None if full => self.lost += weight,
                None => {
                    self.all.insert(key, weight);
                }
            }
        });
        self.lost += signal::samples().take_lost();
    }
}

/// Takes a profile of all threads of this process: `hz` samples (1 to 1000) per second of CPU that
/// a thread uses, for `time`. Blocks the calling thread: never call it on a shard.
///
/// # Errors
/// `ResourceBusy`: another one is being taken. `Unsupported`: not on this processor. Others: the
/// kernel grants no timer, with what it says.
pub fn record(time: Duration, hz: u32) -> io::Result<Profile> {
    if cfg!(not(target_arch = "x86_64")) {
        let text = "profiles are taken on x86_64 only";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    walk::know_stack();
    let hz = hz.clamp(1, 1000);
    let mut session = Session::start(hz)?;
    session.look_for_threads()?;
    let begin = Instant::now();
    let (mut stacks, mut looked) = (Stacks::default(), begin);
    while begin.elapsed() < time {
        std::thread::sleep(FETCH_EVERY.min(time.saturating_sub(begin.elapsed())));
        stacks.fetch(session.id);
        if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            session.look_for_threads()?;
        }
    }
    let took = begin.elapsed();
    session.look_for_threads()?;
    let id = session.id;
    let names = std::mem::take(&mut session.names);
    signal::set_session(0);
    session.timers.clear();
    stacks.fetch(id);
    drop(session);
    let stack = |((thread, frames), weight)| Stack {
        thread: names.get(&thread).cloned().unwrap_or_default(),
        frames,
        weight,
    };
    Ok(Profile {
        took,
        hz,
        lost: stacks.lost,
        stacks: stacks.all.into_iter().map(stack).collect(),
    })
}
