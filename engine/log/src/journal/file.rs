//! One journal file in use: where its next group goes, and how far its blocks were written before.
//!
//! A durable write on blocks that were written before costs one device round trip and no journal
//! commit of the file system. So the file is filled with zeros ahead of its groups, in steps that
//! double; the next use of the file finds them all written.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::local::Notify;
use streamd_io::{AlignedBuf, BLOCK, Class, Env, File, OpenOptions};

use super::format::FileHeader;
use crate::LogError;

/// The first stretch that is filled with zeros, bytes; the next ones double.
const FILL_MIN: u64 = 256 << 10;
/// The longest stretch, bytes.
const FILL_MAX: u64 = 8 << 20;

/// A journal file that takes groups, or waits until what it holds is in the segments.
pub struct JournalFile {
    /// Its number among the files of its shard.
    pub number: u32,
    /// This use of it.
    pub id: u64,
    path: PathBuf,
    file: Rc<File>,
    /// Where the next group goes.
    at: Cell<u64>,
    filled: Cell<u64>,
    filling: Cell<bool>,
    fill_done: Notify,
    /// Why it takes no more groups and is not used again, once an operation on it failed.
    bad: RefCell<Option<String>>,
}

/// The name of a journal file.
pub fn file_name(shard: usize, number: u32) -> String {
    format!("{shard}-{number}.journal")
}

/// The shard and the number in such a name.
pub fn parse_name(name: &str) -> Option<(usize, u32)> {
    let (shard, number) = name.strip_suffix(".journal")?.split_once('-')?;
    Some((shard.parse().ok()?, number.parse().ok()?))
}

/// Puts a block in front of everything: a new header, or zeros, which end the file's use.
pub async fn write_header(env: &Env, file: &File, header: Option<FileHeader>) -> io::Result<()> {
    let mut block = env.alloc(BLOCK);
    block.fill(0);
    if let Some(header) = header {
        header.encode(&mut block);
    }
    file.write_at(block, 0).await.map(drop)
}

impl JournalFile {
    /// Begins a use of file `path`, made if it is not there: durable when this returns.
    pub async fn begin(
        env: &Env,
        (path, number): (&Path, u32),
        header: FileHeader,
        durable: bool,
    ) -> Result<Rc<JournalFile>, LogError> {
        let fail = |what: &str| LogError::io(format!("{what} {}", path.display()));
        let options = OpenOptions {
            read: true,
            write: true,
            create: true,
            direct: true,
            durable,
        };
        let file = env.open(path, &options).await.map_err(fail("open"))?;
        let mut filled = file.size().await.map_err(fail("look at"))? / BLOCK as u64 * BLOCK as u64;
        if filled < FILL_MIN {
            file.zero_fill(0, FILL_MIN).await.map_err(fail("fill"))?;
            if let Some(dir) = path.parent() {
                let fail = LogError::sync(format!("sync {}", dir.display()));
                env.sync_dir(dir).await.map_err(fail)?;
            }
            filled = FILL_MIN;
        }
        write_header(env, &file, Some(header))
            .await
            .map_err(fail("begin"))?;
        Ok(Rc::new(JournalFile {
            number,
            id: header.id,
            path: path.to_owned(),
            file: Rc::new(file),
            at: Cell::new(BLOCK as u64),
            filled: Cell::new(filled),
            filling: Cell::new(false),
            fill_done: Notify::default(),
            bad: RefCell::new(None),
        }))
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.at.get()
    }

    /// Whether it holds no group.
    pub fn is_empty(&self) -> bool {
        self.at.get() == BLOCK as u64
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether an operation on it failed: then it takes no group, and is not used again before the
    /// next start.
    pub fn is_bad(&self) -> bool {
        self.bad.borrow().is_some()
    }

    /// Appends a group, for which there must be room; it is durable when this returns. After an
    /// error the file is bad: nothing tells whether the group is there.
    pub async fn append(&self, buf: AlignedBuf) -> Result<Bytes, LogError> {
        let at = self.at.get();
        let end = at + buf.len() as u64;
        let bytes = self.file.write_at(buf, at).await.map_err(|error| {
            *self.bad.borrow_mut() = Some(error.to_string());
            LogError::sync(format!("write {}", self.path.display()))(error)
        })?;
        self.at.set(end);
        Ok(bytes)
    }

    /// Sees to it that the blocks of a group of `len` bytes were written before, and starts to fill
    /// ahead when little is left. `limit` is where the file ends, unless this very group needs
    /// more. Nothing is lost by an error; if the disk is full, call it again.
    pub async fn reserve(self: &Rc<Self>, env: &Env, len: u64, limit: u64) -> Result<(), LogError> {
        let end = self.at.get() + len;
        loop {
            if let Some(why) = &*self.bad.borrow() {
                let what = format!("use {}", self.path.display());
                return Err(LogError::sync(what)(io::Error::other(why.clone())));
            }
            if self.filled.get() >= end {
                break;
            }
            if self.filling.get() {
                self.fill_done.wait().await;
                continue;
            }
            let step = self.fill_step(limit).max(end - self.filled.get());
            let from = self.start_fill();
            let result = self.file.zero_fill(from, step).await;
            self.end_fill(from + step, &result);
            result.map_err(LogError::io(format!("fill {}", self.path.display())))?;
        }
        let step = self.fill_step(limit);
        if step > 0 && self.filled.get() - end < step / 2 && !self.filling.get() {
            let (this, from) = (self.clone(), self.start_fill());
            // A full disk is met again by the group that needs the space; all else makes it bad.
            let fill = async move {
                let result = this.file.zero_fill(from, step).await;
                this.end_fill(from + step, &result);
            };
            env.spawn(Class::Latency, fill).detach();
        }
        Ok(())
    }

    fn fill_step(&self, limit: u64) -> u64 {
        let filled = self.filled.get();
        filled
            .clamp(FILL_MIN, FILL_MAX)
            .min(limit.saturating_sub(filled))
    }

    fn start_fill(&self) -> u64 {
        self.filling.set(true);
        self.filled.get()
    }

    fn end_fill(&self, to: u64, result: &io::Result<()>) {
        match result {
            Ok(()) => self.filled.set(to),
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {}
            Err(e) => *self.bad.borrow_mut() = Some(e.to_string()),
        }
        self.filling.set(false);
        self.fill_done.notify_all();
    }
}
