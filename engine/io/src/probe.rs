//! Can this machine run the shards? Asked before they start, so that each obstacle has a sentence
//! that names it and says how to mend it.

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::process::available_cores;
use crate::runtime::RuntimeOptions;

/// The oldest kernel that is supported.
pub const KERNEL_MIN: (u32, u32) = (5, 15);

/// What the probe found. All of it is fine to start with.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// The kernel, as it names itself.
    pub kernel: String,
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}", self.kernel)
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
    /// The file system of the data directory has no direct I/O.
    NoDirectIo {
        /// The data directory.
        dir: PathBuf,
    },
    /// A block that was written to the data directory does not read back.
    DirectIo {
        /// The data directory.
        dir: PathBuf,
        /// What the runtime said.
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
            ProbeError::NoDirectIo { dir } => write!(
                f,
                "the file system of {} has no direct I/O (O_DIRECT); put the data directory on \
                 ext4 or XFS",
                dir.display()
            ),
            ProbeError::DirectIo { dir, cause } => write!(
                f,
                "direct I/O in {} fails ({cause}); check the disk, the space on it, and the \
                 kernel's messages (dmesg)",
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
    check_direct_io(dir)?;
    // The very thing: as many shards, each of which writes and reads a block in the directory.
    let options = RuntimeOptions {
        cores: available_cores()
            .into_iter()
            .cycle()
            .take(shards.max(1))
            .collect(),
        data_dir: Some(dir.to_owned()),
        ..RuntimeOptions::default()
    };
    let runtime = crate::runtime::start(options, |_, _| async {})
        .map_err(|cause| ProbeError::Executor { cause })?;
    runtime.join().map_err(|cause| ProbeError::DirectIo {
        dir: dir.to_owned(),
        cause,
    })?;
    Ok(ProbeReport { kernel })
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

fn check_direct_io(dir: &Path) -> Result<(), ProbeError> {
    let fail = |cause| ProbeError::Dir {
        dir: dir.to_owned(),
        cause,
    };
    let path = dir.join(format!(".streamd-direct.{:x}", crate::process::seed()));
    match fs::write(&path, b"x") {
        // A full disk is no reason not to start: room is made, or waited for, later.
        Err(e) if e.kind() == io::ErrorKind::StorageFull => {}
        result => result.map_err(fail)?,
    }
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
        for good in ["5.15.0", "5.15.0-91-generic", "6.18.44", "10.0", "odd"] {
            assert!(check_kernel(good).is_ok(), "{good}");
        }
        for old in ["5.10.200-amd64", "4.19", "5.14.0-1"] {
            let text = check_kernel(old).unwrap_err().to_string();
            assert!(text.contains(old) && text.contains("5.15"), "{text}");
        }
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
