//! The kernel arm of `File`.
//!
//! Invariant: a call on a blocking thread works on a descriptor of its own, so that a file that is
//! dropped meanwhile cannot make it hit another file under the same number.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use glommio::io::{BufferedFile, DmaFile};

use super::env::blocking;
use super::io_err;
use crate::buf::{AlignedBuf, BLOCK};
use crate::file::{OpenOptions, SharedFile, SharedKind, check_aligned};

/// Reads are cut into pieces of this size (bytes).
const READ_CHUNK: usize = 512 << 10;
/// Zeros are written in calls of this size (bytes), so that others get the blocking threads too.
const ZERO_CHUNK: u64 = 8 << 20;

pub(crate) struct File {
    kind: Kind,
    shared: OnceCell<SharedFile>,
}

enum Kind {
    Direct(DmaFile),
    Buffered(BufferedFile),
}

/// A descriptor for sending, or the error (errno) that came instead.
pub(crate) struct SharedFd(Result<std::fs::File, i32>);

impl SharedFd {
    pub(super) fn file(&self) -> io::Result<&std::fs::File> {
        self.0
            .as_ref()
            .map_err(|&e| io::Error::from_raw_os_error(e))
    }
}

impl File {
    pub(super) async fn open(path: &Path, o: &OpenOptions) -> io::Result<File> {
        let mut options = glommio::io::OpenOptions::new();
        options
            .read(o.read)
            .write(o.write)
            .create(o.create)
            .mode(0o644);
        if o.durable {
            options.custom_flags(libc::O_DSYNC);
        }
        let kind = if o.direct {
            Kind::Direct(options.dma_open(path).await.map_err(io_err)?)
        } else {
            Kind::Buffered(options.buffered_open(path).await.map_err(io_err)?)
        };
        Ok(File {
            kind,
            shared: OnceCell::new(),
        })
    }

    fn raw(&self) -> RawFd {
        match &self.kind {
            Kind::Direct(f) => f.as_raw_fd(),
            Kind::Buffered(f) => f.as_raw_fd(),
        }
    }

    /// A descriptor of its own for a blocking thread.
    fn dup(&self) -> io::Result<std::fs::File> {
        // SAFETY: the descriptor is open as long as `self` lives.
        let fd = unsafe { BorrowedFd::borrow_raw(self.raw()) };
        Ok(fd.try_clone_to_owned()?.into())
    }

    pub(crate) async fn write_at(&self, buf: AlignedBuf, pos: u64) -> io::Result<Bytes> {
        check_aligned(pos, 0)?;
        let (bytes, written) = match &self.kind {
            Kind::Direct(f) => {
                let rc = buf.into_rc();
                let written = f.write_rc_at(rc.clone(), pos).await.map_err(io_err)?;
                (AlignedBuf::from_rc(rc).freeze(), written)
            }
            Kind::Buffered(_) => (buf.freeze(), 0),
        };
        if written < bytes.len() {
            // A short write (a full disk, say): the rest goes by blocking calls, whose error tells
            // the cause.
            let (file, rest) = (self.dup()?, bytes.slice(written..));
            blocking(move || file.write_all_at(&rest, pos + written as u64)).await?;
        }
        Ok(bytes)
    }

    pub(crate) async fn write_plain(&self, bytes: Vec<u8>, pos: u64) -> io::Result<()> {
        let file = self.dup()?;
        blocking(move || file.write_all_at(&bytes, pos)).await
    }

    pub(crate) async fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        match &self.kind {
            Kind::Direct(f) => read_direct(f, pos, len).await,
            Kind::Buffered(_) => {
                let file = self.dup()?;
                blocking(move || read_buffered(&file, pos, len)).await
            }
        }
    }

    pub(crate) async fn zero_fill(&self, pos: u64, len: u64) -> io::Result<()> {
        check_aligned(pos, len)?;
        let file = Arc::new(reopen(self.raw(), libc::O_WRONLY | libc::O_DIRECT)?);
        let mut at = pos;
        while at < pos + len {
            let (file, end) = (file.clone(), (at + ZERO_CHUNK).min(pos + len));
            blocking(move || write_zeros(&file, at, end)).await?;
            at = end;
        }
        blocking(move || file.sync_all()).await
    }

    pub(crate) async fn truncate(&self, len: u64) -> io::Result<()> {
        let file = self.dup()?;
        blocking(move || file.set_len(len)).await
    }

    pub(crate) async fn sync(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Direct(f) => f.fdatasync().await.map_err(io_err),
            Kind::Buffered(f) => f.fdatasync().await.map_err(io_err),
        }
    }

    pub(crate) async fn size(&self) -> io::Result<u64> {
        // By descriptor: glommio asks by path, which a rename makes wrong.
        Ok(stat(self.raw())?.st_size as u64)
    }

    pub(crate) async fn close(self) -> io::Result<()> {
        match self.kind {
            Kind::Direct(f) => f.close().await.map_err(io_err),
            Kind::Buffered(f) => f.close().await.map_err(io_err),
        }
    }

    pub(crate) fn shared(&self) -> SharedFile {
        let make = || {
            let fd = reopen(self.raw(), libc::O_RDONLY)
                .map_err(|e| e.raw_os_error().unwrap_or(libc::EIO));
            SharedFile(SharedKind::Uring(Arc::new(SharedFd(fd))))
        };
        self.shared.get_or_init(make).clone()
    }
}

fn stat(fd: RawFd) -> io::Result<libc::stat> {
    // SAFETY: zeros are a valid `stat`, which the call overwrites.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the call.
    match unsafe { libc::fstat(fd, &mut stat) } {
        0 => Ok(stat),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens the file behind `fd` again, with other flags, whatever its name is by now.
fn reopen(fd: RawFd, flags: libc::c_int) -> io::Result<std::fs::File> {
    let path = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).expect("no NUL in it");
    // SAFETY: the path is a C string; the result is checked before it is owned.
    let new = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    if new < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `new` was just opened and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(new) }.into())
}

async fn read_direct(f: &DmaFile, pos: u64, len: usize) -> io::Result<Bytes> {
    // The length may come from outside: never allocate more than the file has.
    let size = stat(f.as_raw_fd())?.st_size as u64;
    let len = len.min(usize::try_from(size.saturating_sub(pos)).unwrap_or(usize::MAX));
    if len == 0 {
        return Ok(Bytes::new());
    }
    let lead = (pos % BLOCK as u64) as usize;
    let mut buf = AlignedBuf::new(lead + len);
    let (start, want) = (pos - lead as u64, (lead + len).next_multiple_of(BLOCK));
    let mut filled = 0;
    while filled < want {
        let ask = (want - filled).min(READ_CHUNK);
        let got = f
            .read_at_aligned(start + filled as u64, ask)
            .await
            .map_err(io_err)?;
        buf[filled..filled + got.len()].copy_from_slice(&got);
        filled += got.len();
        if got.len() < ask {
            // Short: the end of the file, or a kernel that stopped early at a block's edge.
            if got.is_empty() || filled % BLOCK != 0 {
                break;
            }
        }
    }
    let end = filled.min(lead + len);
    Ok(buf.freeze().slice(lead.min(end)..end))
}

fn read_buffered(file: &std::fs::File, pos: u64, len: usize) -> io::Result<Bytes> {
    // The length may come from outside: never allocate more than the file has.
    let size = stat(file.as_fd().as_raw_fd())?.st_size as u64;
    let len = len.min(usize::try_from(size.saturating_sub(pos)).unwrap_or(usize::MAX));
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], pos + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}

fn write_zeros(file: &std::fs::File, from: u64, to: u64) -> io::Result<()> {
    // One for all: buffers of the blocking threads would stay in their pools.
    static ZEROS: OnceLock<Bytes> = OnceLock::new();
    let zeros = ZEROS.get_or_init(|| {
        let mut zeros = AlignedBuf::new(512 << 10);
        zeros.fill(0);
        zeros.freeze()
    });
    let mut at = from;
    while at < to {
        let n = ((to - at) as usize).min(zeros.len());
        file.write_all_at(&zeros[..n], at)?;
        at += n as u64;
    }
    Ok(())
}
