//! What concerns the whole process: cores, signals, limits, the lock of the data directory.

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The cores that this process may run on, in order.
pub fn available_cores() -> Vec<usize> {
    // SAFETY: zeros are a valid set; the call fills it up to its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return vec![0];
        }
        set
    };
    let all = 0..8 * size_of::<libc::cpu_set_t>();
    // SAFETY: the index is within the set.
    all.filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect()
}

/// Keeps the calling thread on `cores`. Without effect if the process may not run there.
pub(crate) fn pin(cores: &[usize]) {
    // SAFETY: zeros are a valid set; the indices are checked against its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &core in cores
            .iter()
            .filter(|&&c| c < 8 * size_of::<libc::cpu_set_t>())
        {
            libc::CPU_SET(core, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

/// 64 random bits from the kernel.
pub(crate) fn seed() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: the buffer is valid for its length. Requests this small are never short.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u64::from_ne_bytes(bytes)
}

/// Writing to a connection that the peer has closed is an error, never a signal.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// The lock of a data directory. Released when dropped, or when the process dies in any way.
pub struct DirLock {
    file: fs::File,
    path: PathBuf,
}

impl DirLock {
    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes lock two files of one name.
        let _ = self.file.set_len(0);
    }
}

/// Locks `dir` for this process by its file `LOCK`. `WouldBlock`, with the other's process id in
/// the message, when another process holds it.
pub fn lock_dir(dir: &Path) -> io::Result<DirLock> {
    let path = dir.join("LOCK");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?;
    // SAFETY: plain call on an open descriptor.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::WouldBlock {
            return Err(e);
        }
        let mut owner = String::new();
        let _ = (&file).take(64).read_to_string(&mut owner);
        let owner = match owner.trim() {
            "" => "another process".to_string(),
            pid => format!("process {pid}"),
        };
        let text = format!(
            "{} is in use by {owner}; stop it, or give this one another data directory",
            dir.display()
        );
        return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(DirLock { file, path })
}

/// Signals and limits. Call [`signal::block`] on the main thread before any other thread starts.
pub mod signal {
    use std::io;

    /// A signal that asks the process to stop.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Stop {
        /// `SIGTERM`.
        Term,
        /// `SIGINT` (Ctrl-C).
        Int,
    }

    fn set() -> libc::sigset_t {
        // SAFETY: the calls fill the set that they are given.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            set
        }
    }

    /// Holds `SIGTERM` and `SIGINT` back in this thread and all that it starts from now on.
    pub fn block() -> io::Result<()> {
        // SAFETY: the set is valid; the old one is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set(), std::ptr::null_mut()) } {
            0 => Ok(()),
            e => Err(io::Error::from_raw_os_error(e)),
        }
    }

    /// Sleeps until `SIGTERM` or `SIGINT` comes. Needs [`block`] first.
    pub fn wait() -> io::Result<Stop> {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the call.
        match unsafe { libc::sigwait(&set(), &mut signal) } {
            0 if signal == libc::SIGINT => Ok(Stop::Int),
            0 => Ok(Stop::Term),
            e => Err(io::Error::from_raw_os_error(e)),
        }
    }

    /// Waits for at most `timeout`; `None` when nothing came.
    pub fn wait_timeout(timeout: std::time::Duration) -> io::Result<Option<Stop>> {
        let time = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: i64::from(timeout.subsec_nanos()) as libc::c_long,
        };
        // SAFETY: the pointers are valid for the call; no details are asked for.
        match unsafe { libc::sigtimedwait(&set(), std::ptr::null_mut(), &time) } {
            libc::SIGINT => Ok(Some(Stop::Int)),
            libc::SIGTERM => Ok(Some(Stop::Term)),
            _ => match io::Error::last_os_error() {
                e if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(None),
                e => Err(e),
            },
        }
    }

    /// Raises the limit of open files to what this process may have; returns it.
    pub fn raise_open_files() -> io::Result<u64> {
        // SAFETY: the structure is filled by the first call and read by the second.
        unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
                return Err(io::Error::last_os_error());
            }
            limit.rlim_cur = limit.rlim_max;
            if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(limit.rlim_cur)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lock_per_directory() {
        let dir = tempfile::tempdir().unwrap();
        let lock = lock_dir(dir.path()).unwrap();
        let e = lock_dir(dir.path()).err().unwrap();
        assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
        let text = e.to_string();
        assert!(
            text.contains(&format!("process {}", std::process::id())),
            "{text}"
        );
        drop(lock);
        let lock = lock_dir(dir.path()).unwrap();
        assert_eq!(lock.path(), dir.path().join("LOCK"));
        let missing = lock_dir(&dir.path().join("none")).err().unwrap();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn there_is_a_core() {
        let cores = available_cores();
        assert!(!cores.is_empty() && cores.is_sorted());
        assert_eq!(
            cores.len(),
            std::thread::available_parallelism().unwrap().get()
        );
    }

    #[test]
    fn signals_wait_until_asked_for() {
        signal::block().unwrap();
        assert_eq!(
            signal::wait_timeout(std::time::Duration::ZERO).unwrap(),
            None
        );
        // SAFETY: signals this thread, which holds both back.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGINT) };
        assert_eq!(signal::wait().unwrap(), signal::Stop::Int);
        // SAFETY: as above.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGTERM) };
        let minute = std::time::Duration::from_secs(60);
        assert_eq!(
            signal::wait_timeout(minute).unwrap(),
            Some(signal::Stop::Term)
        );
    }

    #[test]
    fn open_files_go_to_the_hard_limit() {
        let limit = signal::raise_open_files().unwrap();
        assert!(limit >= 1024);
        assert_eq!(signal::raise_open_files().unwrap(), limit);
    }
}
