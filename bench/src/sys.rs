//! The kernel's calls that std does not have. All `unsafe` of this crate is here.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn checked(result: i64) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whose CPU time.
#[derive(Clone, Copy, Debug)]
pub enum Whose {
    /// All threads of this process.
    Process,
    /// The calling thread.
    Thread,
}

/// User and system time used so far.
pub fn cpu_time(whose: Whose) -> Duration {
    let who = match whose {
        Whose::Process => libc::RUSAGE_SELF,
        Whose::Thread => libc::RUSAGE_THREAD,
    };
    // SAFETY: rusage is plain integers, for which zero bytes are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a live rusage that the call fills.
    let result = unsafe { libc::getrusage(who, &mut usage) };
    assert!(result == 0, "getrusage of oneself cannot fail");
    let of = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// Clock ticks a second, the unit of CPU time in /proc.
pub fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes no pointer.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100).max(1)
}

/// Lets the calling thread's timers be as exact as the kernel can (1 ns of slack, not 50 us), so
/// that an open-loop schedule is kept.
pub fn exact_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes an integer; it fails at worst.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
}

/// Asks a process to end (SIGTERM).
///
/// # Errors
/// There is no such process, or it belongs to somebody else.
pub fn terminate(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes integers.
    checked(i64::from(unsafe { libc::kill(pid, libc::SIGTERM) })).map(drop)
}

/// Waits until what the kernel holds back from storage is written.
pub fn sync() {
    // SAFETY: sync takes nothing and cannot fail.
    unsafe { libc::sync() };
}

/// Lets a program that is to be started end (SIGTERM) when the thread that starts it does, so
/// that no broker outlives a measurement that was interrupted.
pub fn end_with_parent(command: &mut Command) {
    let die = || {
        // SAFETY: PR_SET_PDEATHSIG takes an integer.
        let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as libc::c_ulong) };
        checked(i64::from(result)).map(drop)
    };
    // SAFETY: between fork and exec the closure only makes one system call.
    unsafe { command.pre_exec(die) };
}

/// The kind of file system that holds a path.
pub fn file_system(path: &Path) -> io::Result<&'static str> {
    let file = File::open(path)?;
    // SAFETY: statfs is plain integers, for which zero bytes are a value.
    let mut fs: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `fs` is a live statfs that the call fills.
    checked(i64::from(unsafe {
        libc::fstatfs(file.as_raw_fd(), &mut fs)
    }))?;
    Ok(match fs.f_type as u64 & 0xffff_ffff {
        0xEF53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794C_7630 => "overlayfs",
        0x2FC1_2FC1 => "zfs",
        0xF2F5_2010 => "f2fs",
        _ => "another file system",
    })
}

/// Writes all of `data` at `at` and returns when it is on stable storage (RWF_DSYNC).
///
/// # Errors
/// What the kernel says; a short write.
pub fn write_durable(file: &File, data: &[u8], at: u64) -> io::Result<()> {
    let part = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let at = i64::try_from(at).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open; the one iovec covers `data`, which the kernel only reads.
    let written =
        checked(unsafe { libc::pwritev2(file.as_raw_fd(), &part, 1, at, libc::RWF_DSYNC) as i64 })?;
    if written == data.len() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}

/// Sends up to `len` bytes of a file from `at` on to a socket.
///
/// # Errors
/// What the kernel says.
pub fn send_file(socket: &impl AsRawFd, file: &File, at: u64, len: usize) -> io::Result<usize> {
    let mut at = i64::try_from(at).map_err(io::Error::other)?;
    // SAFETY: both descriptors are open; `at` is a live offset that the call advances.
    checked(unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &mut at, len) as i64 })
}

/// What is ready on a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The token that the descriptor was added with.
    pub token: usize,
    /// Bytes, an end or an error are to be read.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
}

/// A level-triggered epoll set.
#[derive(Debug)]
pub struct Poll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poll {
    /// An empty set; `wait` reports at most `batch` descriptors at once.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(batch: usize) -> io::Result<Poll> {
        // SAFETY: epoll_create1 takes a flag.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        checked(i64::from(fd))?;
        // SAFETY: the call above just made this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; batch.max(1)];
        Ok(Poll { fd, events })
    }

    fn control(&self, op: i32, fd: RawFd, token: usize, write: bool) -> io::Result<()> {
        let out = if write { libc::EPOLLOUT } else { 0 };
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | out) as u32,
            u64: token as u64,
        };
        // SAFETY: `event` lives through the call; a bad descriptor is an error, not a fault.
        checked(i64::from(unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), op, fd, &mut event)
        }))
        .map(drop)
    }

    /// Adds a descriptor, watched for reading.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add(&self, fd: &impl AsRawFd, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), token, false)
    }

    /// Says whether a descriptor is watched for writing too.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch_write(&self, fd: &impl AsRawFd, token: usize, write: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), token, write)
    }

    /// Waits until something is ready or the time is over, and calls `each` for what is ready.
    ///
    /// # Errors
    /// What the kernel says; an interruption counts as nothing ready.
    pub fn wait(&mut self, timeout: Duration, mut each: impl FnMut(Ready)) -> io::Result<()> {
        let time = libc::timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        // SAFETY: `events` has room for as many entries as the length says, `time` lives through
        // the call, and a null signal mask leaves the mask alone.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                &time as *const libc::timespec,
                std::ptr::null::<libc::sigset_t>(),
                8usize,
            )
        };
        let count = match checked(count) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => other?,
        };
        for event in &self.events[..count] {
            let (flags, token) = (event.events, event.u64);
            let write = flags & libc::EPOLLOUT as u32 != 0;
            let read = flags & !(libc::EPOLLOUT as u32) != 0;
            let token = token as usize;
            each(Ready { token, read, write });
        }
        Ok(())
    }
}
