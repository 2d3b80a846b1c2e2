//! The journal of a shard: what its logs append becomes durable here first, a group of many logs at
//! a time, with one write to the disk. Later, in large pieces, it is written to the segments.
//!
//! Invariants: groups are written one after another, so that only the last one of a file can be
//! torn; a file is used again only when all that it holds is durable in segments; nothing is shown
//! to readers, or acknowledged, before its group is durable. After a crash [`replay`] writes what
//! the journals hold to the segments again, and everything else begins from there.

pub mod file;
pub mod format;
pub mod group;
pub mod replay;

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use streamd_io::local::Notify;
use streamd_io::{AlignedBuf, BLOCK, Env, OpenOptions};

use crate::LogError;
pub use file::JournalFile;
use file::{file_name, parse_name, write_header};
use format::FileHeader;
pub use group::{Flushed, Group};

/// The directory of the journals in the data directory. No topic's partition has such a name.
pub const DIR: &str = "journal";

/// Memory for groups is got in slabs of so many bytes.
const SLAB: usize = 4 << 20;

/// How a journal is laid out.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// A file takes no more groups when it holds so many bytes.
    pub file_bytes: u64,
    /// So many files are in use at the most; the next group waits until one is free again.
    pub files_max: usize,
    /// Whether a group is on stable storage when it is written (`log.flush=durable`).
    pub durable: bool,
}

/// Why a group is not durable.
#[derive(Debug)]
pub enum WriteError {
    /// It was not begun: its logs have all that they had, and it may be gathered again. If the disk
    /// is not just full, the current file is to be closed first.
    NotBegun(LogError),
    /// It is not known what of it is on the disk: its logs must not be used any more, and the
    /// current file is to be closed.
    Failed(LogError),
}

/// The journal of one shard.
pub struct Journal {
    env: Env,
    dir: PathBuf,
    shard: usize,
    options: JournalOptions,
    current: RefCell<Option<Rc<JournalFile>>>,
    /// Numbers of files that may be used again, and the number of the next new one.
    free: RefCell<Vec<u32>>,
    made: Cell<u32>,
    /// Files that hold what is not in the segments yet, the current one included.
    in_use: Cell<usize>,
    writing: Cell<bool>,
    /// What is left of the memory that the last group was taken from.
    slab: RefCell<Option<AlignedBuf>>,
    seq: Cell<u64>,
    freed: Notify,
}

impl Journal {
    /// The journal of shard `shard`. What its files held must have been replayed.
    pub async fn open(
        env: &Env,
        data_dir: &Path,
        shard: usize,
        options: JournalOptions,
    ) -> Result<Journal, LogError> {
        Journal::open_without(env, data_dir, (shard, &[]), options).await
    }

    /// Like [`Journal::open`]; the files with the numbers `held` were put off by the replay, and
    /// are not used before [`Journal::let_go`].
    pub async fn open_without(
        env: &Env,
        data_dir: &Path,
        (shard, held): (usize, &[u32]),
        options: JournalOptions,
    ) -> Result<Journal, LogError> {
        let dir = data_dir.join(DIR);
        let fail = |what: &str| LogError::io(format!("{what} {}", dir.display()));
        env.create_dir_all(&dir).await.map_err(fail("create"))?;
        env.sync_dir(data_dir)
            .await
            .map_err(fail("sync the name of"))?;
        let entries = env.list_dir(&dir).await.map_err(fail("list"))?;
        let mut free: Vec<u32> = entries
            .iter()
            .filter_map(|e| parse_name(&e.name))
            .filter(|&(s, _)| s == shard)
            .map(|(_, number)| number)
            .collect();
        free.sort_unstable_by(|a, b| b.cmp(a));
        let made = free.first().map_or(0, |n| n + 1);
        free.retain(|number| !held.contains(number));
        Ok(Journal {
            env: env.clone(),
            shard,
            options,
            current: RefCell::new(None),
            made: Cell::new(made),
            free: RefCell::new(free),
            in_use: Cell::new(0),
            writing: Cell::new(false),
            slab: RefCell::new(None),
            seq: Cell::new(0),
            freed: Notify::default(),
            dir,
        })
    }

    /// Whether a group of `len` bytes goes into the current file.
    pub fn has_room(&self, len: usize) -> bool {
        let current = self.current.borrow();
        current
            .as_ref()
            .is_some_and(|f| f.is_empty() || f.used() + len as u64 <= self.options.file_bytes)
    }

    /// The file that takes groups now.
    pub fn current(&self) -> Option<Rc<JournalFile>> {
        self.current.borrow().clone()
    }

    /// Ends the use of the current file. The caller sees to it that what it holds gets into the
    /// segments, and then calls [`Journal::release`].
    pub fn close_current(&self) -> Option<Rc<JournalFile>> {
        assert!(!self.writing.get(), "a file is closed between two groups");
        self.current.borrow_mut().take()
    }

    /// Everything that the file holds is durable in the segments, so it may be used again, unless
    /// it is bad: then it is left alone until the next start.
    pub fn release(&self, file: &JournalFile) {
        if !file.is_bad() {
            self.free.borrow_mut().push(file.number);
        }
        self.in_use.set(self.in_use.get() - 1);
        self.freed.notify_all();
    }

    /// All that a file of an earlier life held is durable in the segments: it may be used again.
    pub async fn let_go(&self, number: u32) -> Result<(), LogError> {
        end_use(&self.env, &self.dir.join(file_name(self.shard, number))).await?;
        self.free.borrow_mut().push(number);
        Ok(())
    }

    /// The file holds what could not be written to a segment: it stays for the next start.
    pub fn keep(&self, file: &JournalFile) {
        eprintln!(
            "warning: {} is kept: it has records that could not be written to their segments; the \
             next start tries again",
            self.dir.join(file_name(self.shard, file.number)).display()
        );
        self.in_use.set(self.in_use.get() - 1);
        self.freed.notify_all();
    }

    /// Writes a group and tells its logs; one answer for each, in the order of the takes. One call
    /// at a time.
    pub async fn write(&self, group: Group) -> Result<Vec<Flushed>, WriteError> {
        assert!(!group.is_empty(), "something to write");
        assert!(!self.writing.replace(true), "one group at a time");
        let result = self.write_one(group).await;
        self.writing.set(false);
        result
    }

    async fn write_one(&self, group: Group) -> Result<Vec<Flushed>, WriteError> {
        let file = match self.current() {
            Some(file) => file,
            None => self.begin_file().await.map_err(WriteError::NotBegun)?,
        };
        let len = group.len().next_multiple_of(BLOCK) as u64;
        let reserved = file.reserve(&self.env, len, self.limit()).await;
        reserved.map_err(WriteError::NotBegun)?;
        let seq = self.seq.get();
        let memory = self.memory(group.len());
        let (buf, filled) = group.fill(memory, (file.id, seq));
        self.seq.set(seq + 1);
        let bytes = file.append(buf).await.map_err(WriteError::Failed)?;
        Ok(filled.complete(&bytes))
    }

    /// Memory for a group. Groups are of all sizes; taken from slabs of one size, they use the same
    /// memory again and again.
    fn memory(&self, len: usize) -> AlignedBuf {
        let mut slab = self.slab.borrow_mut();
        if let Some(buf) = slab.as_mut().and_then(|s| s.split_front(len)) {
            return buf;
        }
        let mut new = self.env.alloc(len.max(SLAB));
        let buf = new.split_front(len).expect("it was made for it");
        *slab = Some(new);
        buf
    }

    fn limit(&self) -> u64 {
        self.options.file_bytes.next_multiple_of(BLOCK as u64)
    }

    async fn begin_file(&self) -> Result<Rc<JournalFile>, LogError> {
        while self.in_use.get() >= self.options.files_max {
            self.freed.wait().await;
        }
        let free = self.free.borrow_mut().pop();
        let number = free.unwrap_or_else(|| {
            let number = self.made.get();
            self.made.set(number + 1);
            number
        });
        self.in_use.set(self.in_use.get() + 1);
        let path = self.dir.join(file_name(self.shard, number));
        let header = FileHeader {
            id: self.env.random_u64(),
            first_seq: self.seq.get(),
        };
        let durable = self.options.durable;
        let begun = JournalFile::begin(&self.env, (&path, number), header, durable).await;
        let file = begun.inspect_err(|error| {
            // What is wrong with the file is not tried again: the next one has another number.
            if error.is_full() {
                self.free.borrow_mut().push(number);
            }
            self.in_use.set(self.in_use.get() - 1);
        })?;
        *self.current.borrow_mut() = Some(file.clone());
        Ok(file)
    }

    /// Ends the use of all files that are free, so that the next start has nothing to replay.
    pub async fn close(&self) -> Result<(), LogError> {
        let free = self.free.take();
        for number in free {
            end_use(&self.env, &self.dir.join(file_name(self.shard, number))).await?;
        }
        Ok(())
    }
}

/// Makes it known, durably, that nothing in a journal file is needed any more.
async fn end_use(env: &Env, path: &Path) -> Result<(), LogError> {
    let fail = |what: &str| LogError::io(format!("{what} {}", path.display()));
    let options = OpenOptions {
        read: true,
        write: true,
        create: false,
        direct: true,
        durable: true,
    };
    let file = env.open(path, &options).await.map_err(fail("open"))?;
    write_header(env, &file, None).await.map_err(fail("end"))
}
