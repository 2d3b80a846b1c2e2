//! One segment file: where it is, how much of it is durable, and its handles.
//!
//! Appends go to blocks that were filled with zeros before: a durable write on them costs one
//! device round trip and no journal commit, and a scan after a crash stops at the zeros. The fill
//! runs ahead of the appends, in steps that double. A sealed segment is cut to its length.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use streamd_io::local::Notify;
use streamd_io::{BLOCK, Class, Env, File, OpenOptions, SharedFile};
use streamd_model::Offset;

use crate::LogError;
use crate::index::Index;

/// The first stretch that is filled with zeros, bytes; the next ones double.
const FILL_MIN: u64 = 64 << 10;
/// The longest stretch, bytes.
const FILL_MAX: u64 = 16 << 20;

/// A segment. Shared by the log that owns it and by readers that hold on to it for a while.
pub struct Segment {
    /// Offset of its first record.
    pub base: Offset,
    dir: PathBuf,
    /// Durable bytes.
    size: Cell<u64>,
    /// The offset after the last durable record.
    next: Cell<Offset>,
    index: RefCell<Option<Rc<RefCell<Index>>>>,
    writer: RefCell<Option<Rc<File>>>,
    reader: RefCell<Option<(Rc<File>, SharedFile)>>,
    filled: Cell<u64>,
    filling: Cell<bool>,
    fill_done: Notify,
}

/// The name of a segment's file with this extension.
pub fn file_name(base: Offset, extension: &str) -> String {
    format!("{base:020}.{extension}")
}

impl Segment {
    /// A segment of `dir`, of which `size` bytes up to offset `next` are known to be durable.
    pub fn new(dir: &Path, base: Offset, size: u64, next: Offset) -> Rc<Segment> {
        Rc::new(Segment {
            base,
            dir: dir.to_owned(),
            size: Cell::new(size),
            next: Cell::new(next),
            index: RefCell::new(None),
            writer: RefCell::new(None),
            reader: RefCell::new(None),
            filled: Cell::new(size),
            filling: Cell::new(false),
            fill_done: Notify::default(),
        })
    }

    /// The path of the file with this extension.
    pub fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(file_name(self.base, extension))
    }

    /// Durable bytes.
    pub fn size(&self) -> u64 {
        self.size.get()
    }

    /// The offset after the last durable record.
    pub fn next(&self) -> Offset {
        self.next.get()
    }

    /// Notes that everything before `size` and `next` is durable.
    pub fn advance(&self, size: u64, next: Offset) {
        assert!(
            size >= self.size.get() && next >= self.next.get(),
            "a segment never shrinks"
        );
        self.size.set(size);
        self.next.set(next);
        // What holds records must never be filled with zeros.
        self.filled.set(self.filled.get().max(size));
    }

    /// The index, when it is in memory.
    pub fn index(&self) -> Option<Rc<RefCell<Index>>> {
        self.index.borrow().clone()
    }

    /// Puts an index into memory.
    pub fn set_index(&self, index: Index) {
        *self.index.borrow_mut() = Some(Rc::new(RefCell::new(index)));
    }

    /// The handle that readers send from, when the file is open for reading.
    pub fn shared(&self) -> Option<SharedFile> {
        self.reader.borrow().as_ref().map(|(_, s)| s.clone())
    }

    /// The file opened for reading, when it is.
    pub fn reader(&self) -> Option<Rc<File>> {
        self.reader.borrow().as_ref().map(|(f, _)| f.clone())
    }

    /// Whether a reader can be served: index in memory, file open.
    pub fn is_prepared(&self) -> bool {
        self.index.borrow().is_some() && self.reader.borrow().is_some()
    }

    /// Lets go of what [`Segment::prepare`] got. Not for the active segment.
    pub fn release(&self) {
        *self.index.borrow_mut() = None;
        *self.reader.borrow_mut() = None;
    }

    /// Opens the file for reading and reads the index, or makes it anew from the log.
    pub async fn prepare(self: &Rc<Self>, env: &Env, interval: u64) -> Result<(), LogError> {
        if self.reader.borrow().is_none() {
            let path = self.path("log");
            let file = env
                .open(
                    &path,
                    &OpenOptions {
                        read: true,
                        ..OpenOptions::default()
                    },
                )
                .await
                .map_err(LogError::io(format!("open {}", path.display())))?;
            let shared = file.shared();
            *self.reader.borrow_mut() = Some((Rc::new(file), shared));
        }
        if self.index.borrow().is_none() {
            let index = match self
                .load_index(env, interval, self.size(), self.next())
                .await
            {
                Some(index) => index,
                None => crate::recover::rebuild_index(env, self, interval).await?,
            };
            self.set_index(index);
        }
        Ok(())
    }

    /// Reads the index files; `None` when they are missing or do not fit the first `size` bytes.
    pub async fn load_index(
        &self,
        env: &Env,
        interval: u64,
        size: u64,
        next: Offset,
    ) -> Option<Index> {
        let max = (size / 61 * 12 + 24) as usize;
        let offsets = env.read_file(&self.path("index"), max).await.ok()?;
        let times = env.read_file(&self.path("timeindex"), max).await.ok()?;
        let next = u32::try_from(next - self.base).ok()?;
        Index::decode(interval, (&offsets, &times), size, next)
    }

    /// Writes the index files.
    pub async fn store_index(&self, env: &Env) -> Result<(), LogError> {
        let Some((offsets, times)) = self.index().map(|i| i.borrow().encode()) else {
            return Ok(());
        };
        for (extension, bytes) in [("index", offsets), ("timeindex", times)] {
            let path = self.path(extension);
            env.write_file_atomic(&path, bytes)
                .await
                .map_err(LogError::io(format!("write {}", path.display())))?;
        }
        Ok(())
    }

    /// The file opened for appending; made, with its directory entry durable, if it is not there.
    pub async fn writer(&self, env: &Env, durable: bool) -> Result<Rc<File>, LogError> {
        if let Some(w) = self.writer.borrow().as_ref() {
            return Ok(w.clone());
        }
        let path = self.path("log");
        let fail = |what: &str| LogError::io(format!("{what} {}", path.display()));
        let options = OpenOptions {
            read: true,
            write: true,
            create: true,
            direct: true,
            durable,
        };
        let file = Rc::new(env.open(&path, &options).await.map_err(fail("create"))?);
        env.sync_dir(&self.dir)
            .await
            .map_err(fail("sync the directory of"))?;
        let shared = file.shared();
        *self.writer.borrow_mut() = Some(file.clone());
        *self.reader.borrow_mut() = Some((file.clone(), shared));
        Ok(file)
    }

    /// Sees to it that the blocks before `end` were written before, and starts to fill ahead when
    /// little is left. `limit` is where the segment ends at the latest.
    pub async fn reserve(
        self: &Rc<Self>,
        env: &Env,
        file: &Rc<File>,
        end: u64,
        limit: u64,
    ) -> Result<(), LogError> {
        while self.filled.get() < end {
            if self.filling.get() {
                self.fill_done.wait().await;
                continue;
            }
            let step = self.fill_step(limit).max(end - self.filled.get());
            self.fill(file, step).await.map_err(LogError::io(format!(
                "fill {} with zeros",
                self.path("log").display()
            )))?;
        }
        let ahead = self.filled.get() - end;
        let step = self.fill_step(limit);
        if step > 0 && ahead < step / 2 && !self.filling.get() {
            let (segment, file) = (self.clone(), file.clone());
            self.filling.set(true);
            // A failure here is met again, and reported, by the append that needs the space.
            env.spawn(Class::Latency, async move {
                let _ = segment.fill(&file, step).await;
            })
            .detach();
        }
        Ok(())
    }

    fn fill_step(&self, limit: u64) -> u64 {
        let filled = self.filled.get();
        let limit = limit.next_multiple_of(BLOCK as u64);
        filled
            .clamp(FILL_MIN, FILL_MAX)
            .min(limit.saturating_sub(filled))
    }

    async fn fill(&self, file: &File, step: u64) -> io::Result<()> {
        self.filling.set(true);
        let from = self.filled.get().next_multiple_of(BLOCK as u64);
        let to = (self.filled.get() + step).next_multiple_of(BLOCK as u64);
        let result = file.zero_fill(from, to - from).await;
        if result.is_ok() {
            self.filled.set(to);
        }
        self.filling.set(false);
        self.fill_done.notify_all();
        result
    }

    /// Ends the segment: cuts the file to its durable bytes, writes the indexes, closes it for
    /// writing. Readers go on.
    pub async fn seal(&self, env: &Env) -> Result<(), LogError> {
        while self.filling.get() {
            self.fill_done.wait().await;
        }
        if let Some(index) = self.index() {
            index.borrow_mut().seal();
        }
        let writer = self.writer.borrow_mut().take();
        if let Some(file) = writer {
            let fail = |what: &str| LogError::io(format!("{what} {}", self.path("log").display()));
            file.truncate(self.size()).await.map_err(fail("cut"))?;
            file.sync().await.map_err(fail("sync"))?;
            self.filled.set(self.size());
        }
        self.store_index(env).await
    }

    /// Removes the files. Whoever has the file open can read on.
    pub async fn remove(&self, env: &Env) -> Result<(), LogError> {
        for extension in ["log", "index", "timeindex"] {
            let path = self.path(extension);
            match env.remove_file(&path).await {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(LogError::Io {
                        what: format!("remove {}", path.display()),
                        error: e,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}
