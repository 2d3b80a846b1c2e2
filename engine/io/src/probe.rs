//! Can this machine run the shards? Asked before they start, so that each obstacle has a sentence
//! that names it and says how to mend it.

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::runtime::RuntimeOptions;
use crate::uring;

/// The oldest kernel that is supported.
pub const KERNEL_MIN: (u32, u32) = (5, 11);
/// What an executor needs of locked memory before it refuses to start (bytes).
const MEMLOCK_MIN: u64 = 512 << 10;

/// What the probe found. All of it is fine to start with.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// The kernel, as it names itself.
    pub kernel: String,
    /// The limit of locked memory (bytes); `None`: unlimited.
    pub memlock: Option<u64>,
    /// Whether the I/O buffers of all shards can be registered with their rings. If not, they
    /// work unregistered, which costs a little more CPU.
    pub registered_buffers: bool,
    /// Whether the device does polled I/O; `None`: the file system is on no block device.
    pub polled_io: Option<bool>,
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}, locked memory ", self.kernel)?;
        match self.memlock {
            None => f.write_str("unlimited")?,
            Some(bytes) => write!(f, "{} KiB", bytes >> 10)?,
        }
        let state = if self.registered_buffers {
            "registered"
        } else {
            "not registered"
        };
        write!(f, ", I/O buffers {state}")
    }
}

/// Why the shards cannot run here.
#[derive(Debug)]
pub enum ProbeError {
    /// The kernel is older than [`KERNEL_MIN`].
    KernelTooOld {
        /// As it names itself.
        kernel: String,
    },
    /// The kernel has no io_uring.
    NoIoUring,
    /// io_uring is forbidden, by seccomp or by a sysctl.
    IoUringForbidden {
        /// The value of `kernel.io_uring_disabled`, if the kernel has it.
        disabled: Option<String>,
    },
    /// Too little memory may be locked.
    LockedMemory {
        /// The limit (bytes).
        limit: u64,
        /// What all shards need (bytes).
        needed: u64,
    },
    /// The file system of the data directory has no direct I/O.
    NoDirectIo {
        /// The data directory.
        dir: PathBuf,
    },
    /// The runtime's verdict about polled I/O is not the kernel's.
    PolledIo {
        /// The data directory.
        dir: PathBuf,
        /// What a read through the runtime said.
        cause: io::Error,
    },
    /// The data directory cannot be used.
    Dir {
        /// The data directory.
        dir: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// An executor cannot be made, for another reason.
    Executor {
        /// Why.
        cause: io::Error,
    },
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = KERNEL_MIN;
        match self {
            ProbeError::KernelTooOld { kernel } => write!(
                f,
                "the kernel is {kernel}, but {major}.{minor} or newer is needed; boot a newer one"
            ),
            ProbeError::NoIoUring => f.write_str(
                "this kernel was built without io_uring; boot one with CONFIG_IO_URING=y",
            ),
            ProbeError::IoUringForbidden {
                disabled: Some(value),
            } if value != "0" => write!(
                f,
                "io_uring is forbidden: kernel.io_uring_disabled is {value}; \
                 allow it with `sysctl kernel.io_uring_disabled=0`"
            ),
            ProbeError::IoUringForbidden { .. } => f.write_str(
                "io_uring is forbidden for this process, most likely by the seccomp profile of \
                 its container; run the container with a profile that allows io_uring_setup, \
                 io_uring_enter and io_uring_register (with Docker, for a trial: \
                 --security-opt seccomp=unconfined)",
            ),
            ProbeError::LockedMemory { limit, needed } => write!(
                f,
                "only {} KiB of memory may be locked, but the rings need {} KiB; raise it: \
                 `ulimit -l {}`, in a systemd unit LimitMEMLOCK=infinity, with Docker \
                 --ulimit memlock=-1",
                limit >> 10,
                needed >> 10,
                needed >> 10
            ),
            ProbeError::NoDirectIo { dir } => write!(
                f,
                "the file system of {} has no direct I/O (O_DIRECT); put the data directory on \
                 ext4 or XFS",
                dir.display()
            ),
            ProbeError::PolledIo { dir, cause } => write!(
                f,
                "direct reads in {} fail through io_uring ({cause}); the device's polled I/O \
                 does not work as it claims: turn it off (write 0 to queue/io_poll of the \
                 device in /sys/block, or load its driver without poll queues)",
                dir.display()
            ),
            ProbeError::Dir { dir, cause } => write!(
                f,
                "the data directory {} cannot be used: {cause}; check that it is there and \
                 that this user may write in it",
                dir.display()
            ),
            ProbeError::Executor { cause } => write!(f, "the runtime does not start: {cause}"),
        }
    }
}

impl std::error::Error for ProbeError {}

/// Looks whether `shards` shards can run with their data in `dir` (which must be there).
pub fn probe(dir: &Path, shards: usize) -> Result<ProbeReport, ProbeError> {
    let kernel = kernel_release();
    check_kernel(&kernel)?;
    check_io_uring(io_uring_setup())?;
    let options = RuntimeOptions {
        data_dir: Some(dir.to_owned()),
        ..RuntimeOptions::default()
    };
    let memlock = memlock_limit();
    let registered_buffers = check_memlock(memlock, shards, &options)?;
    check_direct_io(dir)?;
    let polled_io = uring::polled_io_verdict(dir);
    // The very thing: an executor that opens and reads a file in the directory.
    crate::runtime::run(
        RuntimeOptions {
            cores: vec![],
            ..options
        },
        |_| async {},
    )
    .map_err(|cause| match cause.raw_os_error() {
        Some(libc::EOPNOTSUPP) => ProbeError::PolledIo {
            dir: dir.to_owned(),
            cause,
        },
        Some(libc::ENOMEM) => ProbeError::LockedMemory {
            limit: memlock.unwrap_or(u64::MAX),
            needed: ring_bytes(&RuntimeOptions::default()) * shards as u64,
        },
        _ => ProbeError::Executor { cause },
    })?;
    Ok(ProbeReport {
        kernel,
        memlock,
        registered_buffers,
        polled_io,
    })
}

fn kernel_release() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_string()
}

fn check_kernel(kernel: &str) -> Result<(), ProbeError> {
    let mut numbers = kernel
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    // An unreadable version is no proof of age: the other checks decide.
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Ok(());
    };
    if (major, minor) < KERNEL_MIN {
        return Err(ProbeError::KernelTooOld {
            kernel: kernel.to_string(),
        });
    }
    Ok(())
}

/// Makes a small ring and closes it; the errno if that fails.
fn io_uring_setup() -> Result<(), i32> {
    // The kernel's `io_uring_params`: 120 bytes, all zero for a plain ring.
    let mut params = [0u32; 30];
    // SAFETY: the structure is valid and large enough; the descriptor is closed at once.
    unsafe {
        let fd = libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr());
        if fd < 0 {
            return Err(io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO));
        }
        libc::close(fd as libc::c_int);
    }
    Ok(())
}

fn check_io_uring(result: Result<(), i32>) -> Result<(), ProbeError> {
    match result {
        Ok(()) => Ok(()),
        Err(libc::ENOSYS) => Err(ProbeError::NoIoUring),
        Err(libc::EPERM | libc::EACCES) => {
            let text = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
            let disabled = text.map(|t| t.trim().to_string());
            Err(ProbeError::IoUringForbidden { disabled })
        }
        Err(errno) => Err(ProbeError::Executor {
            cause: io::Error::from_raw_os_error(errno),
        }),
    }
}

fn memlock_limit() -> Option<u64> {
    // SAFETY: the structure is filled by the call.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) != 0 {
            return None;
        }
        limit.rlim_cur
    };
    // Root (with CAP_IPC_LOCK) is not held to the limit.
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    (limit != libc::RLIM_INFINITY && !root).then_some(limit)
}

/// What the rings of one shard may count against the limit on old kernels (bytes): 3 rings of
/// 64 + 2 x 16 bytes per entry, and a few pages each.
fn ring_bytes(options: &RuntimeOptions) -> u64 {
    3 * (options.ring_depth as u64 * 96 + 16_384)
}

/// Whether the buffers of all shards fit into the limit too; an error if the rings do not.
fn check_memlock(
    limit: Option<u64>,
    shards: usize,
    options: &RuntimeOptions,
) -> Result<bool, ProbeError> {
    let Some(limit) = limit else { return Ok(true) };
    let rings = (ring_bytes(options) * shards as u64).max(MEMLOCK_MIN);
    if limit < rings {
        return Err(ProbeError::LockedMemory {
            limit,
            needed: rings,
        });
    }
    Ok(limit >= rings + 3 * options.io_memory as u64 * shards as u64)
}

fn check_direct_io(dir: &Path) -> Result<(), ProbeError> {
    let fail = |cause| ProbeError::Dir {
        dir: dir.to_owned(),
        cause,
    };
    let path = dir.join(format!(".streamd-direct.{:x}", crate::process::seed()));
    fs::write(&path, b"x").map_err(fail)?;
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| fail(e.into()))?;
    // SAFETY: a C string; the descriptor is closed at once.
    let result = unsafe {
        let fd = libc::open(
            name.as_ptr(),
            libc::O_RDONLY | libc::O_DIRECT | libc::O_CLOEXEC,
        );
        if fd < 0 {
            Err(io::Error::last_os_error())
        } else {
            libc::close(fd);
            Ok(())
        }
    };
    let _ = fs::remove_file(&path);
    match result {
        Ok(()) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Err(ProbeError::NoDirectIo {
            dir: dir.to_owned(),
        }),
        Err(e) => Err(fail(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::test_dir;

    #[test]
    fn this_machine_will_do() {
        let dir = test_dir();
        let report = probe(dir.path(), 2).unwrap();
        assert!(report.to_string().starts_with("kernel "), "{report}");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert!(left.is_empty(), "the probe leaves nothing behind: {left:?}");
    }

    #[test]
    fn kernels() {
        for good in ["5.11.0", "5.15.0-91-generic", "6.18.44", "10.0", "odd"] {
            assert!(check_kernel(good).is_ok(), "{good}");
        }
        for old in ["5.10.200-amd64", "4.19", "5.4.0-1"] {
            let text = check_kernel(old).unwrap_err().to_string();
            assert!(text.contains(old) && text.contains("5.11"), "{text}");
        }
    }

    #[test]
    fn locked_memory() {
        let options = RuntimeOptions::default();
        assert!(check_memlock(None, 1000, &options).unwrap());
        // What an ordinary user has by default: enough for the rings, and for two shards' buffers.
        assert!(check_memlock(Some(8 << 20), 2, &options).unwrap());
        assert!(!check_memlock(Some(8 << 20), 16, &options).unwrap());
        let text = check_memlock(Some(64 << 10), 2, &options)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("64 KiB") && text.contains("LimitMEMLOCK"),
            "{text}"
        );
        // It counts three times (see `RuntimeOptions::io_memory`).
        assert!(options.io_memory <= 2 << 20);
    }

    #[test]
    fn file_systems_and_directories() {
        let e = probe(Path::new("/nonexistent/dir"), 1).unwrap_err();
        assert!(matches!(e, ProbeError::Dir { .. }), "{e}");
        assert!(e.to_string().contains("/nonexistent/dir"), "{e}");
        // /proc takes no new file at all.
        let e = check_direct_io(Path::new("/proc")).unwrap_err();
        assert!(matches!(e, ProbeError::Dir { .. }), "{e}");
    }

    /// Makes `io_uring_setup` fail with `errno` on this thread and all that it starts.
    fn forbid_io_uring(errno: u32) {
        let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        let mut program = [
            // The number of the call; if it is not io_uring_setup, allow.
            op(0x20, 0, 0, 0),
            op(0x15, 0, 1, libc::SYS_io_uring_setup as u32),
            op(0x06, 0, 0, 0x0005_0000 | errno),
            op(0x06, 0, 0, 0x7fff_0000),
        ];
        let filter = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: the program is valid for the call, which copies it.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, 2, &filter), 0);
        }
    }

    #[test]
    fn io_uring_that_is_forbidden_or_missing() {
        for (errno, word) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "CONFIG_IO_URING")] {
            let text = std::thread::spawn(move || {
                let dir = test_dir();
                forbid_io_uring(errno as u32);
                probe(dir.path(), 1).unwrap_err().to_string()
            })
            .join()
            .unwrap();
            assert!(text.contains(word), "{text}");
        }
        let disabled = Some("2".to_string());
        let text = ProbeError::IoUringForbidden { disabled }.to_string();
        assert!(text.contains("kernel.io_uring_disabled is 2"), "{text}");
    }
}
