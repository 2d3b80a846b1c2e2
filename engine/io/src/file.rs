//! Files.
//!
//! Invariants: a write is never silently short; a write to a file that was opened `durable` is on
//! stable storage when it returns `Ok`; a shared file keeps its own descriptor, so that bytes can
//! be sent from it after the file was closed, renamed or removed.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::buf::AlignedBuf;
#[cfg(any(test, feature = "sim"))]
use crate::sim;
use crate::uring;

/// How to open a file. `OpenOptions::default()` opens for reading, through the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// Make it if it is not there (needs `write`).
    pub create: bool,
    /// `O_DIRECT`: positions, lengths and addresses of writes are multiples of `BLOCK`.
    pub direct: bool,
    /// `O_DSYNC`: a write is on stable storage when it returns.
    pub durable: bool,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            read: true,
            write: false,
            create: false,
            direct: false,
            durable: false,
        }
    }
}

impl OpenOptions {
    /// For reading, through the page cache.
    pub fn new() -> OpenOptions {
        OpenOptions::default()
    }

    /// Sets `write`.
    pub fn write(mut self) -> OpenOptions {
        self.write = true;
        self
    }

    /// Sets `write` and `create`.
    pub fn create(mut self) -> OpenOptions {
        self.write = true;
        self.create = true;
        self
    }

    /// Sets `direct`.
    pub fn direct(mut self) -> OpenOptions {
        self.direct = true;
        self
    }

    /// Sets `durable`.
    pub fn durable(mut self) -> OpenOptions {
        self.durable = true;
        self
    }
}

/// The most parts of one [`File::write_parts`].
pub const PARTS_MAX: usize = 256;

/// An open file of one shard.
pub struct File(pub(crate) Kind);

pub(crate) enum Kind {
    Uring(uring::File),
    #[cfg(any(test, feature = "sim"))]
    Sim(sim::File),
}

impl File {
    /// Writes the whole buffer at `pos` (a multiple of `BLOCK`) and returns it frozen, so that
    /// readers can share the memory. With `durable` it is on stable storage when this returns.
    ///
    /// Two writes that are in flight together are not ordered. When the future is dropped, the
    /// write may or may not happen.
    pub async fn write_at(&self, buf: AlignedBuf, pos: u64) -> io::Result<Bytes> {
        both!(self, f => f.write_at(buf, pos).await)
    }

    /// Writes `parts` one after another from `pos` on, as one write. For files that are `direct`:
    /// the position, and each part's address and length, are multiples of `BLOCK`; at most
    /// [`PARTS_MAX`] parts. Not ordered with other writes, like [`File::write_at`].
    pub async fn write_parts(&self, parts: Vec<Bytes>, pos: u64) -> io::Result<()> {
        check_aligned(pos, 0)?;
        for part in &parts {
            check_aligned(part.as_ptr() as u64, part.len() as u64)?;
        }
        if parts.len() > PARTS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        both!(self, f => f.write_parts(parts, pos).await)
    }

    /// Writes `bytes` at `pos`, any alignment. For files that are not `direct`.
    pub async fn write_plain(&self, bytes: Vec<u8>, pos: u64) -> io::Result<()> {
        both!(self, f => f.write_plain(bytes, pos).await)
    }

    /// Reads `len` bytes at `pos`, any alignment; fewer only at the end of the file.
    pub async fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        both!(self, f => f.read_at(pos, len).await)
    }

    /// Writes real zero blocks over `[pos, pos + len)` (both multiples of `BLOCK`), grows the file
    /// if they lie beyond its end, and makes all that durable. Off the shard's thread; does not
    /// disturb the page cache.
    pub async fn zero_fill(&self, pos: u64, len: u64) -> io::Result<()> {
        both!(self, f => f.zero_fill(pos, len).await)
    }

    /// Sets the length. Durable after [`File::sync`].
    pub async fn truncate(&self, len: u64) -> io::Result<()> {
        both!(self, f => f.truncate(len).await)
    }

    /// Makes the content and the length durable (not the name: see `Env::sync_dir`).
    pub async fn sync(&self) -> io::Result<()> {
        both!(self, f => f.sync().await)
    }

    /// The length in bytes.
    pub async fn size(&self) -> io::Result<u64> {
        both!(self, f => f.size().await)
    }

    /// Closes; errors of the close are reported. Dropping a file closes it too.
    pub async fn close(self) -> io::Result<()> {
        match self.0 {
            Kind::Uring(f) => f.close().await,
            #[cfg(any(test, feature = "sim"))]
            Kind::Sim(_) => Ok(()),
        }
    }

    /// A handle on the same file for sending from it, through the page cache, on any shard. If
    /// the descriptor cannot be had, sending from it reports that error.
    pub fn shared(&self) -> SharedFile {
        both!(self, f => f.shared())
    }
}

/// A read-only handle on a file that may go to other threads. Clones share one descriptor, which
/// stays open until the last clone is gone.
#[derive(Clone)]
pub struct SharedFile(pub(crate) SharedKind);

#[derive(Clone)]
pub(crate) enum SharedKind {
    Uring(Arc<uring::SharedFd>),
    #[cfg(any(test, feature = "sim"))]
    Sim(Arc<sim::SharedIno>),
}

impl SharedFile {
    /// Whether the disk could not read what should be sent. The peer cannot be told any more; those
    /// who would send from it again can.
    pub fn has_failed(&self) -> bool {
        match &self.0 {
            SharedKind::Uring(fd) => fd.has_failed(),
            #[cfg(any(test, feature = "sim"))]
            SharedKind::Sim(ino) => ino.has_failed(),
        }
    }
}

/// `InvalidInput` unless both are multiples of `BLOCK`.
pub(crate) fn check_aligned(pos: u64, len: u64) -> io::Result<()> {
    let block = crate::buf::BLOCK as u64;
    if pos.is_multiple_of(block) && len.is_multiple_of(block) {
        return Ok(());
    }
    let text = format!("position {pos} and length {len} must be multiples of {block}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

pub(crate) fn too_large(path: &std::path::Path, max: usize) -> io::Error {
    let text = format!(
        "{} is larger than the {max} bytes allowed for it",
        path.display()
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}
