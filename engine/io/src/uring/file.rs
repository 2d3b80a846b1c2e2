//! The kernel arm of `File`.
//!
//! Invariant: whoever works on a file, be it the ring or a blocking thread, holds on to its
//! descriptor until the work is done, also when the file is dropped meanwhile.

use std::cell::OnceCell;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::pool::Pool;
use super::shard::Shard;
use crate::buf::{AlignedBuf, BLOCK};
use crate::file::{OpenOptions, SharedFile, SharedKind, check_aligned};

/// Zeros are written in calls of this size (bytes), so that others get the blocking threads too.
const ZERO_CHUNK: u64 = 8 << 20;

/// Up to so many bytes are read by the shard itself when they are in memory: cheaper than handing
/// them from a blocking thread, which costs two changes of context.
const SMALL: usize = 4 << 10;

pub(crate) struct File {
    shard: Rc<Shard>,
    fd: PooledFd,
    direct: bool,
    shared: OnceCell<SharedFile>,
}

/// A descriptor that is closed on a thread that may block: closing the last one of a file that was
/// removed gives its blocks back, which takes long.
struct PooledFd {
    /// Not here once it is dropped.
    fd: Option<Arc<OwnedFd>>,
    pool: Arc<Pool>,
}

impl PooledFd {
    fn new(fd: OwnedFd, pool: &Arc<Pool>) -> PooledFd {
        PooledFd {
            fd: Some(Arc::new(fd)),
            pool: pool.clone(),
        }
    }

    fn arc(&self) -> &Arc<OwnedFd> {
        self.fd.as_ref().expect("here until it is dropped")
    }
}

impl Drop for PooledFd {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            drop(self.pool.run(move || {
                drop(fd);
                Ok(())
            }));
        }
    }
}

/// A descriptor for sending, or the error (errno) that came instead.
pub(crate) struct SharedFd {
    fd: Result<PooledFd, i32>,
    /// Sends that have the kernel read the file in.
    cold: Arc<AtomicUsize>,
    failed: AtomicBool,
}

/// One of them, until it is dropped.
pub(super) struct Cold(Arc<AtomicUsize>);

impl Drop for Cold {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SharedFd {
    pub(super) fn fd(&self) -> io::Result<RawFd> {
        match &self.fd {
            Ok(fd) => Ok(fd.arc().as_raw_fd()),
            Err(e) => Err(io::Error::from_raw_os_error(*e)),
        }
    }

    /// Notes why a send failed, if it was the disk.
    pub(super) fn note(&self, error: &io::Error) {
        if error.raw_os_error() == Some(libc::EIO) {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a send failed since the disk did.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Notes that the file is read in, as long as the answer lives.
    pub(super) fn cold(&self) -> Cold {
        self.cold.fetch_add(1, Ordering::Relaxed);
        Cold(self.cold.clone())
    }

    /// Whether some of the file is being read in.
    pub(super) fn is_cold(&self) -> bool {
        self.cold.load(Ordering::Relaxed) > 0
    }
}

impl File {
    pub(super) async fn open(shard: &Rc<Shard>, path: &Path, o: &OpenOptions) -> io::Result<File> {
        let mut options = std::fs::OpenOptions::new();
        options.read(o.read).write(o.write).create(o.create);
        let direct = if o.direct { libc::O_DIRECT } else { 0 };
        let durable = if o.durable { libc::O_DSYNC } else { 0 };
        options.mode(0o644).custom_flags(direct | durable);
        let path = path.to_owned();
        let fd = shard.pool.run(move || options.open(path)).await?;
        Ok(File {
            shard: shard.clone(),
            fd: PooledFd::new(fd.into(), &shard.pool),
            direct: o.direct,
            shared: OnceCell::new(),
        })
    }

    fn raw(&self) -> RawFd {
        self.fd.arc().as_raw_fd()
    }

    /// Works on the file on a thread that may block.
    async fn blocking<T, F>(&self, f: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&std::fs::File) -> io::Result<T> + Send + 'static,
    {
        let fd = self.fd.arc().clone();
        let call = move || {
            // SAFETY: `fd` keeps the descriptor open; this second owner of it never closes it.
            let file = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(fd.as_raw_fd()) });
            f(&file)
        };
        self.shard.pool.run(call).await
    }

    pub(crate) async fn write_at(&self, buf: AlignedBuf, pos: u64) -> io::Result<Bytes> {
        check_aligned(pos, 0)?;
        let (bytes, written) = if self.direct {
            let (written, keep) = self.shard.ring.write(self.fd.arc(), buf, pos).await;
            let buf = keep.buf.expect("it was handed in");
            (buf.freeze(), written?)
        } else {
            (buf.freeze(), 0)
        };
        if written < bytes.len() {
            // A short write (a full disk, say): the rest goes by blocking calls, whose error tells
            // the cause.
            let rest = bytes.slice(written..);
            self.blocking(move |file| file.write_all_at(&rest, pos + written as u64))
                .await?;
        }
        Ok(bytes)
    }

    pub(crate) async fn write_parts(&self, parts: Vec<Bytes>, pos: u64) -> io::Result<()> {
        let (written, keep) = self.shard.ring.write_parts(self.fd.arc(), parts, pos).await;
        let (mut written, mut at) = (written?, pos);
        let mut rest = Vec::new();
        for part in keep.parts.bytes {
            let done = written.min(part.len());
            if done < part.len() {
                rest.push((part.slice(done..), at + done as u64));
            }
            written -= done;
            at += part.len() as u64;
        }
        if rest.is_empty() {
            return Ok(());
        }
        // As in `write_at`.
        let all = move |file: &std::fs::File| {
            rest.iter()
                .try_for_each(|(bytes, at)| file.write_all_at(bytes, *at))
        };
        self.blocking(all).await
    }

    pub(crate) async fn write_plain(&self, bytes: Vec<u8>, pos: u64) -> io::Result<()> {
        self.blocking(move |file| file.write_all_at(&bytes, pos))
            .await
    }

    pub(crate) async fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        if self.direct {
            return self.read_direct(pos, len).await;
        }
        if len <= SMALL
            && let Some(bytes) = read_resident(self.raw(), pos, len)
        {
            return Ok(bytes);
        }
        self.blocking(move |file| read_buffered(file, pos, len))
            .await
    }

    async fn read_direct(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        // The length may come from outside: never allocate more than the file has.
        let size = stat(self.raw())?.st_size as u64;
        let len = len.min(usize::try_from(size.saturating_sub(pos)).unwrap_or(usize::MAX));
        if len == 0 {
            return Ok(Bytes::new());
        }
        let lead = (pos % BLOCK as u64) as usize;
        let mut buf = AlignedBuf::new(lead + len);
        let (start, want) = (pos - lead as u64, (lead + len).next_multiple_of(BLOCK));
        let mut filled = 0;
        while filled < want {
            let at = start + filled as u64;
            let (got, keep) = self
                .shard
                .ring
                .read(self.fd.arc(), buf, filled..want, at)
                .await;
            buf = keep.buf.expect("it was handed in");
            let got = got?;
            filled += got;
            // Short: the end of the file, or a kernel that stopped early at a block's edge.
            if got == 0 || filled % BLOCK != 0 {
                break;
            }
        }
        let end = filled.min(lead + len);
        Ok(buf.freeze().slice(lead.min(end)..end))
    }

    pub(crate) async fn zero_fill(&self, pos: u64, len: u64) -> io::Result<()> {
        check_aligned(pos, len)?;
        let file = Arc::new(reopen(self.raw(), libc::O_WRONLY | libc::O_DIRECT)?);
        let mut at = pos;
        while at < pos + len {
            let (file, end) = (file.clone(), (at + ZERO_CHUNK).min(pos + len));
            let call = move || write_zeros(&file, at, end);
            self.shard.pool.run(call).await?;
            at = end;
        }
        self.shard.pool.run(move || file.sync_all()).await
    }

    pub(crate) async fn truncate(&self, len: u64) -> io::Result<()> {
        self.blocking(move |file| file.set_len(len)).await
    }

    pub(crate) async fn sync(&self) -> io::Result<()> {
        self.shard.ring.sync(self.fd.arc()).await.0.map(drop)
    }

    pub(crate) async fn size(&self) -> io::Result<u64> {
        Ok(stat(self.raw())?.st_size as u64)
    }

    pub(crate) async fn close(self) -> io::Result<()> {
        let mut this = self;
        let (shard, fd) = (this.shard.clone(), this.fd.fd.take());
        drop(this);
        match fd.and_then(Arc::into_inner) {
            Some(fd) => shard.pool.run(move || close(fd)).await,
            // An operation that was given up still has it, and closes it at its end.
            None => Ok(()),
        }
    }

    pub(crate) fn shared(&self) -> SharedFile {
        let make = || {
            let pool = self.shard.pool.clone();
            let fd = match self.direct {
                true => reopen(self.raw(), libc::O_RDONLY)
                    .map(|file| PooledFd::new(file.into(), &pool))
                    .map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)),
                false => Ok(PooledFd {
                    fd: Some(self.fd.arc().clone()),
                    pool,
                }),
            };
            let shared = SharedFd {
                fd,
                cold: Arc::default(),
                failed: AtomicBool::new(false),
            };
            SharedFile(SharedKind::Uring(Arc::new(shared)))
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

fn close(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is owned, and given away here.
    match unsafe { libc::close(fd.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads `len` bytes if all of them are in memory; `None` says that a thread that may block has to
/// look, be it for the disk, for the end of the file or for an error.
fn read_resident(fd: RawFd, pos: u64, len: usize) -> Option<Bytes> {
    let mut bytes = vec![0; len];
    let iov = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: len,
    };
    let at = libc::off_t::try_from(pos).ok()?;
    // SAFETY: `iov` is one buffer of `len` bytes that lives through the call.
    let n = unsafe { libc::preadv2(fd, &iov, 1, at, libc::RWF_NOWAIT) };
    (usize::try_from(n) == Ok(len)).then(|| bytes.into())
}

fn read_buffered(file: &std::fs::File, pos: u64, len: usize) -> io::Result<Bytes> {
    // The length may come from outside: never allocate more than the file has.
    let size = stat(file.as_raw_fd())?.st_size as u64;
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
