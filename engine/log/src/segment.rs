//! One segment file: where it is, how much of it is durable, and its handles.
//!
//! Invariant: `written <= size`. What lies between is durable in the journal, and in memory. The
//! file may be longer than `written`: its last block is filled up with zeros, where the scan of a
//! recovery stops. A sealed segment is cut to its length.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use streamd_io::{BLOCK, Env, File, OpenOptions, SharedFile};
use streamd_model::Offset;

use crate::LogError;
use crate::index::Index;
use crate::open_files;

/// A segment. Shared by the log that owns it and by readers that hold on to it for a while.
pub struct Segment {
    /// Offset of its first record.
    pub base: Offset,
    dir: PathBuf,
    /// Durable bytes, in the file or in the journal.
    size: Cell<u64>,
    /// The offset after the last durable record.
    next: Cell<Offset>,
    index: RefCell<Option<Rc<RefCell<Index>>>>,
    writer: RefCell<Option<Rc<File>>>,
    reader: RefCell<Option<(Rc<File>, SharedFile)>>,
    /// Bytes that are in the file, durable there or not: at most `size`.
    written: Cell<u64>,
    /// Whether the file has what is not durable there.
    dirty: Cell<bool>,
    /// Whether the file may be longer than what is in it.
    padded: Cell<bool>,
    /// Whether the file was made and its name may not be durable.
    unnamed: Cell<bool>,
    /// Whether it is on the list of [`crate::open_files`],
    listed: Cell<bool>,
    /// and was asked for lately.
    asked: Cell<bool>,
    /// Greatest timestamps of the first batch and of all, once they are known of a sealed segment.
    times: Cell<Option<(i64, i64)>>,
    /// Its files do not have their names yet: what is open stays open.
    pinned: Cell<bool>,
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
            written: Cell::new(size),
            dirty: Cell::new(false),
            padded: Cell::new(false),
            unnamed: Cell::new(false),
            listed: Cell::new(false),
            asked: Cell::new(false),
            times: Cell::new(None),
            pinned: Cell::new(false),
        })
    }

    /// A sealed segment whose file and index are at hand, though the files may not have their names
    /// yet: it holds on to them until [`Segment::unpin`].
    pub(crate) fn pinned(
        dir: &Path,
        (base, next): (Offset, Offset),
        (file, size): (File, u64),
        index: Index,
    ) -> Rc<Segment> {
        let segment = Segment::new(dir, base, size, next);
        let shared = file.shared();
        *segment.reader.borrow_mut() = Some((Rc::new(file), shared));
        segment.set_index(index);
        segment.note_times();
        segment.pinned.set(true);
        segment.opened();
        segment
    }

    /// The files have their names.
    pub(crate) fn unpin(&self) {
        self.pinned.set(false);
    }

    /// The greatest timestamps of the first batch and of all, ms, -1 for none; `None` while they
    /// are not known. Of a sealed segment.
    pub fn times(&self) -> Option<(i64, i64)> {
        self.times.get()
    }

    /// Notes them, of a sealed segment whose index is in memory.
    pub(crate) fn note_times(&self) {
        if let Some(index) = self.index() {
            let index = index.borrow();
            let first = index.first_timestamp().unwrap_or(-1);
            self.times.set(Some((first, index.max_timestamp)));
        }
    }

    /// The path of the file with this extension.
    pub fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(file_name(self.base, extension))
    }

    /// Durable bytes, in the file or in the journal.
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
    }

    /// Bytes that are in the file; what follows up to [`Segment::size`] is in the journal.
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// Whether the file has what is not durable there.
    pub fn is_dirty(&self) -> bool {
        self.dirty.get()
    }

    /// Notes that the bytes before `written` are in the file.
    pub fn set_written(&self, written: u64) {
        assert!(
            written <= self.size.get() && written >= self.written.get(),
            "only what is in the journal is written"
        );
        self.written.set(written);
        self.dirty.set(true);
        self.padded.set(!written.is_multiple_of(BLOCK as u64));
    }

    /// Notes that a recovery found the bytes before [`Segment::size`] in the file, and perhaps
    /// zeros behind them, up to the end of the block.
    pub fn all_written(&self, padded: bool) {
        self.written.set(self.size.get());
        self.padded.set(padded);
    }

    /// Whether the file has zeros behind its last batch.
    pub fn is_padded(&self) -> bool {
        self.padded.get()
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

    /// A file was opened: it is closed again in its turn.
    fn opened(self: &Rc<Self>) {
        self.asked.set(true);
        if !self.listed.replace(true) {
            open_files::add(self);
        }
    }

    /// Whether its files may be closed: nobody asked for them since this was asked last.
    pub(crate) fn may_close(&self) -> bool {
        let needed = self.pinned.get() || (self.is_dirty() && self.writer.borrow().is_some());
        !self.asked.replace(false) && !needed
    }

    /// Closes what is open; it is opened again when it is needed.
    pub(crate) fn close_files(&self) {
        self.listed.set(false);
        *self.writer.borrow_mut() = None;
        *self.reader.borrow_mut() = None;
    }

    /// Notes that everything which was written is durable, the name too.
    pub(crate) fn all_durable(&self) {
        self.dirty.set(false);
        self.unnamed.set(false);
    }

    /// Lets go of what [`Segment::prepare`] got. Not for the active segment.
    pub fn release(&self) {
        if self.pinned.get() {
            return;
        }
        *self.index.borrow_mut() = None;
        *self.reader.borrow_mut() = None;
    }

    /// Opens the file for reading and reads the index, or makes it anew from the log.
    pub async fn prepare(self: &Rc<Self>, env: &Env, interval: u64) -> Result<(), LogError> {
        self.asked.set(true);
        // Before its first piece is written there is no file, and nobody needs it.
        if self.reader.borrow().is_none() && self.written() > 0 {
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
            self.opened();
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

    /// What the index files are to hold; nothing when the index is not in memory.
    pub(crate) fn index_files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let Some((offsets, times)) = self.index().map(|i| i.borrow().encode()) else {
            return Vec::new();
        };
        vec![
            (self.path("index"), offsets),
            (self.path("timeindex"), times),
        ]
    }

    /// Writes the index files.
    pub async fn store_index(&self, env: &Env) -> Result<(), LogError> {
        for (path, bytes) in self.index_files() {
            env.write_file_atomic(&path, bytes)
                .await
                .map_err(LogError::io(format!("write {}", path.display())))?;
        }
        Ok(())
    }

    /// The file opened for appending, and kept open; made if it is not there. Its name is durable
    /// after [`Segment::sync`].
    pub async fn writer(self: &Rc<Self>, env: &Env) -> Result<Rc<File>, LogError> {
        self.asked.set(true);
        if let Some(w) = self.writer.borrow().as_ref() {
            return Ok(w.clone());
        }
        let file = self.open_writer(env).await?;
        *self.writer.borrow_mut() = Some(file.clone());
        self.opened();
        Ok(file)
    }

    /// As [`Segment::writer`], but it is not kept open unless it is already.
    pub(crate) async fn open_writer(&self, env: &Env) -> Result<Rc<File>, LogError> {
        if let Some(w) = self.writer.borrow().as_ref() {
            return Ok(w.clone());
        }
        let path = self.path("log");
        let options = OpenOptions {
            read: true,
            write: true,
            create: true,
            direct: true,
            durable: false,
        };
        let fail = LogError::io(format!("create {}", path.display()));
        let file = Rc::new(env.open(&path, &options).await.map_err(fail)?);
        // While nothing is in it, it may just have been made.
        if self.written() == 0 {
            self.unnamed.set(true);
        }
        Ok(file)
    }

    /// Makes what was written durable, and the name.
    pub async fn sync(&self, env: &Env) -> Result<(), LogError> {
        let file = self.open_writer(env).await?;
        self.dirty.set(false);
        self.sync_file(env, &file).await
    }

    async fn sync_file(&self, env: &Env, file: &File) -> Result<(), LogError> {
        let fail = |what: &str| LogError::sync(format!("{what} {}", self.path("log").display()));
        file.sync().await.map_err(fail("sync"))?;
        if self.unnamed.replace(false) {
            env.sync_dir(&self.dir)
                .await
                .map_err(fail("sync the directory of"))?;
        }
        Ok(())
    }

    /// Cuts the file to its durable bytes and closes it for writing. Gives the file if that is to
    /// be made durable.
    pub(crate) async fn cut(&self, env: &Env) -> Result<Option<Rc<File>>, LogError> {
        if let Some(index) = self.index() {
            index.borrow_mut().seal();
        }
        if !self.padded.get() {
            *self.writer.borrow_mut() = None;
            return Ok(None);
        }
        let file = self.open_writer(env).await?;
        *self.writer.borrow_mut() = None;
        self.padded.set(false);
        let fail = LogError::sync(format!("cut {}", self.path("log").display()));
        file.truncate(self.size()).await.map_err(fail)?;
        Ok(Some(file))
    }

    /// Ends the segment: cuts the file to its durable bytes, writes the indexes, closes it for
    /// writing. Readers go on.
    pub async fn seal(&self, env: &Env) -> Result<(), LogError> {
        self.note_times();
        if let Some(file) = self.cut(env).await? {
            self.sync_file(env, &file).await?;
        }
        match self.store_index(env).await {
            // An index is made anew from the log. What is there may be of an earlier time.
            Err(e) if e.is_full() => self.remove_files(env, &["index", "timeindex"]).await,
            result => result,
        }
    }

    /// The index is not right: [`Segment::prepare`] makes it anew from the log.
    pub async fn forget_index(&self, env: &Env) -> Result<(), LogError> {
        *self.index.borrow_mut() = None;
        self.remove_files(env, &["index", "timeindex"]).await
    }

    /// Removes the files. Whoever has the file open can read on.
    pub async fn remove(&self, env: &Env) -> Result<(), LogError> {
        self.remove_files(env, &["log", "index", "timeindex"]).await
    }

    async fn remove_files(&self, env: &Env, extensions: &[&str]) -> Result<(), LogError> {
        for extension in extensions {
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
