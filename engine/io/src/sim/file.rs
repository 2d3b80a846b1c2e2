//! The simulator's arm of `File`.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::disk::DiskState;
use super::exec::World;
use super::faults::DiskOp;
use crate::buf::AlignedBuf;
use crate::file::{OpenOptions, SharedFile, SharedKind, check_aligned};

/// `zero_fill` goes in steps of this size (bytes).
const ZERO_CHUNK: u64 = 1 << 20;

/// A file to send from.
pub(crate) struct SharedIno {
    ino: u64,
    failed: AtomicBool,
}

impl SharedIno {
    fn new(ino: u64) -> SharedIno {
        SharedIno {
            ino,
            failed: AtomicBool::new(false),
        }
    }

    /// Its number on the disk.
    pub(super) fn ino(&self) -> u64 {
        self.ino
    }

    /// Notes that the disk failed.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether it did.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

pub(crate) struct File {
    world: Rc<World>,
    ino: u64,
    path: PathBuf,
    options: OpenOptions,
    /// Shared handles keep the inode: they hold the other end of this.
    shared: RefCell<Option<Arc<SharedIno>>>,
}

/// A change on its way; given up when dropped.
struct InFlight<'a> {
    world: &'a World,
    ino: u64,
    id: u64,
    settled: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let happened = self.world.random(|r| r.chance(1, 2));
            self.world
                .disk
                .borrow_mut()
                .abandon(self.ino, self.id, happened);
        }
    }
}

impl File {
    pub(super) async fn open(world: Rc<World>, path: &Path, o: &OpenOptions) -> io::Result<File> {
        if o.create && !o.write {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        world.disk_op(DiskOp::Open, path).await?;
        let ino = world.disk.borrow_mut().open(path, o.create)?;
        world.trace(ino);
        Ok(File {
            world,
            ino,
            path: path.to_owned(),
            options: *o,
            shared: RefCell::new(None),
        })
    }

    fn disk(&self) -> std::cell::RefMut<'_, DiskState> {
        self.world.disk.borrow_mut()
    }

    async fn write(&self, bytes: Bytes, pos: u64) -> io::Result<()> {
        self.may_write()?;
        self.world
            .trace(pos ^ ((bytes.len() as u64) << 40) ^ self.ino);
        let id = self.disk().begin_write(self.ino, pos, bytes.clone())?;
        let result = self.settle(id, self.options.durable).await;
        if result.is_err() && self.world.random(|r| r.chance(1, 3)) {
            // It happened in part.
            let blocks = bytes.len() as u64 / 512;
            let part = bytes.slice(..512 * self.world.random(|r| r.below(blocks + 1)) as usize);
            let mut disk = self.disk();
            let id = disk.begin_write(self.ino, pos, part)?;
            disk.abandon(self.ino, id, true);
        }
        result
    }

    async fn settle(&self, id: u64, durable: bool) -> io::Result<()> {
        let mut flight = InFlight {
            world: &self.world,
            ino: self.ino,
            id,
            settled: false,
        };
        self.world.disk_op(DiskOp::Write, &self.path).await?;
        flight.settled = true;
        self.disk().finish(self.ino, id, durable);
        Ok(())
    }

    fn may_write(&self) -> io::Result<()> {
        if self.options.write {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EBADF))
        }
    }

    pub(crate) async fn write_at(&self, buf: AlignedBuf, pos: u64) -> io::Result<Bytes> {
        check_aligned(pos, 0)?;
        let bytes = buf.freeze();
        self.write(bytes.clone(), pos).await?;
        Ok(bytes)
    }

    pub(crate) async fn write_parts(&self, parts: Vec<Bytes>, pos: u64) -> io::Result<()> {
        self.write(parts.concat().into(), pos).await
    }

    pub(crate) async fn write_plain(&self, bytes: Vec<u8>, pos: u64) -> io::Result<()> {
        if self.options.direct {
            check_aligned(pos, bytes.len() as u64)?;
        }
        self.write(bytes.into(), pos).await
    }

    pub(crate) async fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        if !self.options.read {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        self.world.disk_op(DiskOp::Read, &self.path).await?;
        Ok(self.disk().read(self.ino, pos, len).into())
    }

    pub(crate) async fn zero_fill(&self, pos: u64, len: u64) -> io::Result<()> {
        check_aligned(pos, len)?;
        self.may_write()?;
        let mut at = pos;
        while at < pos + len {
            let n = (pos + len - at).min(ZERO_CHUNK);
            let id = self.disk().begin_zero(self.ino, at, n)?;
            self.settle(id, false).await?;
            at += n;
        }
        self.sync().await
    }

    pub(crate) async fn truncate(&self, len: u64) -> io::Result<()> {
        self.may_write()?;
        self.world.disk_op(DiskOp::Write, &self.path).await?;
        self.world.trace(len ^ self.ino << 50);
        self.disk().set_len(self.ino, len)
    }

    pub(crate) async fn sync(&self) -> io::Result<()> {
        let until = self.disk().last_change();
        let result = self.world.disk_op(DiskOp::Sync, &self.path).await;
        match &result {
            Ok(()) => self.disk().sync(self.ino, until),
            Err(_) => self
                .world
                .random(|r| self.disk().fail_sync(self.ino, until, r)),
        }
        result
    }

    pub(crate) async fn size(&self) -> io::Result<u64> {
        crate::local::yield_now().await;
        Ok(self.disk().len(self.ino))
    }

    pub(crate) fn shared(&self) -> SharedFile {
        let mut shared = self.shared.borrow_mut();
        let handle = shared.get_or_insert_with(|| {
            // One handle more for all shared ones: given back at the end of the process.
            self.disk().retain(self.ino);
            Arc::new(SharedIno::new(self.ino))
        });
        SharedFile(SharedKind::Sim(handle.clone()))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // With shared handles about, their handle keeps the inode (until the process ends).
        self.world.disk.borrow_mut().release(self.ino);
        if let Some(handle) = self.shared.borrow_mut().take()
            && Arc::strong_count(&handle) == 1
        {
            self.world.disk.borrow_mut().release(self.ino);
        }
    }
}
