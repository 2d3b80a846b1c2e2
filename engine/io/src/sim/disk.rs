//! The simulated disk: what programs see, what is durable, and what lies between.
//!
//! Names: creations, removals and renames are a journal; `sync_dir` makes a prefix of it durable,
//! and a power cut keeps a random, at least as long prefix. A synced file whose directory was not
//! synced may be gone.
//! Content: each file has what programs see (`live`), what is durable (`stable`), and the changes
//! between them in order. A power cut keeps or drops each 512-byte sector of each unsynced write
//! by itself (so a block may be torn); changes of the length are kept up to a random one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::SimOptions;
use super::faults::Fault;
use super::rng::Rng;
use crate::env::DirEntry;

const PAGE: usize = 4096;
const SECTOR: u64 = 512;

/// Sparse content: a page that is not there is zeros.
#[derive(Clone, Default)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Rc<[u8; PAGE]>>,
}

impl Content {
    fn read(&self, pos: u64, len: usize) -> Vec<u8> {
        let len = len.min(usize::try_from(self.len.saturating_sub(pos)).unwrap_or(usize::MAX));
        let mut out = vec![0; len];
        let mut at = 0;
        while at < len {
            let (page, off) = split(pos + at as u64);
            let n = (PAGE - off).min(len - at);
            if let Some(p) = self.pages.get(&page) {
                out[at..at + n].copy_from_slice(&p[off..off + n]);
            }
            at += n;
        }
        out
    }

    fn write(&mut self, pos: u64, bytes: &[u8]) {
        self.len = self.len.max(pos + bytes.len() as u64);
        let mut at = 0;
        while at < bytes.len() {
            let (page, off) = split(pos + at as u64);
            let n = (PAGE - off).min(bytes.len() - at);
            let p = self.pages.entry(page).or_insert_with(|| Rc::new([0; PAGE]));
            Rc::make_mut(p)[off..off + n].copy_from_slice(&bytes[at..at + n]);
            at += n;
        }
    }

    fn zero(&mut self, pos: u64, len: u64) {
        self.len = self.len.max(pos + len);
        self.clear(pos, pos + len);
    }

    fn clear(&mut self, from: u64, to: u64) {
        let pages: Vec<u64> = self
            .pages
            .range(from / PAGE as u64..)
            .map(|(p, _)| *p)
            .collect();
        for page in pages {
            let start = page * PAGE as u64;
            if start >= to {
                break;
            }
            let (a, b) = (
                from.saturating_sub(start) as usize,
                (to - start).min(PAGE as u64),
            );
            if a == 0 && b as usize == PAGE {
                self.pages.remove(&page);
            } else if let Some(p) = self.pages.get_mut(&page) {
                Rc::make_mut(p)[a..b as usize].fill(0);
            }
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let end = self.len;
            self.clear(len, end);
        }
        self.len = len;
    }
}

fn split(pos: u64) -> (u64, usize) {
    (pos / PAGE as u64, (pos % PAGE as u64) as usize)
}

#[derive(Clone)]
enum Change {
    Write { pos: u64, bytes: Bytes },
    Zero { pos: u64, len: u64 },
    SetLen(u64),
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Change::Write { pos, bytes } => content.write(*pos, bytes),
            Change::Zero { pos, len } => content.zero(*pos, *len),
            Change::SetLen(len) => content.set_len(*len),
        }
    }

    fn range(&self) -> (u64, u64) {
        match self {
            Change::Write { pos, bytes } => (*pos, *pos + bytes.len() as u64),
            Change::Zero { pos, len } => (*pos, *pos + *len),
            Change::SetLen(len) => (*len, *len),
        }
    }

    /// What is left of it outside of a range.
    fn outside(self, (from, to): (u64, u64)) -> Vec<Change> {
        let (start, end) = self.range();
        if matches!(self, Change::SetLen(_)) || end <= from || to <= start {
            return vec![self];
        }
        let sides = [(start, from), (to, end)];
        let left = sides.into_iter().filter(|(a, b)| a < b);
        left.map(|(a, b)| match &self {
            Change::Write { bytes, .. } => Change::Write {
                pos: a,
                bytes: bytes.slice((a - start) as usize..(b - start) as usize),
            },
            _ => Change::Zero { pos: a, len: b - a },
        })
        .collect()
    }
}

struct Pending {
    id: u64,
    /// Programs see it; before, it is on its way.
    done: bool,
    /// Nobody waits for it any more.
    given_up: bool,
    change: Change,
}

#[derive(Default)]
struct Inode {
    live: Content,
    stable: Content,
    pending: Vec<Pending>,
    /// Open handles; without any, and without a name, the inode goes.
    handles: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    Dir,
    File(u64),
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Clone, Debug)]
enum NameChange {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
            NameChange::Rename(from, to) => {
                let below: Vec<PathBuf> = names
                    .keys()
                    .filter(|p| p.starts_with(from))
                    .cloned()
                    .collect();
                for old in below {
                    let rest = old.strip_prefix(from).expect("starts with it");
                    let new = if rest.as_os_str().is_empty() {
                        to.clone()
                    } else {
                        to.join(rest)
                    };
                    if let Some(node) = names.remove(&old) {
                        names.insert(new, node);
                    }
                }
            }
        }
    }

    fn touches(&self, dir: &Path) -> bool {
        match self {
            NameChange::Add(p, _) | NameChange::Remove(p) => p.parent() == Some(dir),
            NameChange::Rename(a, b) => a.parent() == Some(dir) || b.parent() == Some(dir),
        }
    }
}

pub(crate) struct DiskState {
    live: Names,
    stable: Names,
    /// Name changes that are not durable, with their numbers.
    journal: Vec<(u64, NameChange)>,
    journal_seq: u64,
    inodes: BTreeMap<u64, Inode>,
    next_ino: u64,
    next_change: u64,
    /// Syncs of everything that failed.
    lost_all: u64,
    pub(super) eio_per_million: u32,
    pub(super) capacity: Option<u64>,
    pub(super) faults: Vec<Fault>,
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{}: not found", path.display()),
    )
}

impl DiskState {
    pub(super) fn new(options: &SimOptions) -> DiskState {
        let root = Names::from([(PathBuf::from("/"), Node::Dir)]);
        DiskState {
            live: root.clone(),
            stable: root,
            journal: Vec::new(),
            journal_seq: 0,
            inodes: BTreeMap::new(),
            next_ino: 1,
            next_change: 1,
            lost_all: 0,
            eio_per_million: options.eio_per_million,
            capacity: options.capacity,
            faults: Vec::new(),
        }
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.journal_seq += 1;
        self.journal.push((self.journal_seq, change));
    }

    pub(super) fn journal_end(&self) -> u64 {
        self.journal_seq
    }

    fn need_dir(&self, path: &Path) -> io::Result<()> {
        match self.live.get(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found(path)),
        }
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        for dir in path.ancestors() {
            match self.live.get(dir) {
                Some(Node::Dir) => break,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None if dir.as_os_str().is_empty() => break,
                None => missing.push(dir.to_owned()),
            }
        }
        for dir in missing.into_iter().rev() {
            self.change_names(NameChange::Add(dir, Node::Dir));
        }
        Ok(())
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.need_dir(path)?;
        let all: Vec<PathBuf> = self
            .live
            .keys()
            .filter(|p| p.starts_with(path))
            .rev()
            .cloned()
            .collect();
        for each in all {
            self.change_names(NameChange::Remove(each));
        }
        self.collect();
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        match self.live.get(path) {
            Some(Node::File(_)) => {}
            Some(Node::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
            None => return Err(not_found(path)),
        }
        self.change_names(NameChange::Remove(path.to_owned()));
        self.collect();
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = *self.live.get(from).ok_or_else(|| not_found(from))?;
        self.need_dir(to.parent().unwrap_or(Path::new("/")))?;
        match (node, self.live.get(to)) {
            (Node::File(_), Some(Node::Dir)) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::Dir, Some(Node::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
            (Node::Dir, Some(Node::Dir))
                if self.live.keys().any(|p| p.starts_with(to) && p != to) =>
            {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            _ => {}
        }
        if from != to {
            self.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
        }
        self.collect();
        Ok(())
    }

    /// Makes the changes in `dir` up to number `until` durable, with all before them.
    pub(super) fn sync_dir(&mut self, dir: &Path, until: u64) -> io::Result<()> {
        self.need_dir(dir)?;
        let touches = |(seq, c): &(u64, NameChange)| *seq <= until && c.touches(dir);
        if let Some(last) = self.journal.iter().rposition(touches) {
            for (_, change) in self.journal.drain(..=last) {
                change.apply(&mut self.stable);
            }
            self.collect();
        }
        Ok(())
    }

    /// Numbers of the last changes of names and of contents.
    pub(super) fn marks(&self) -> (u64, u64) {
        (self.journal_seq, self.next_change)
    }

    /// Makes everything durable that changed before these numbers.
    pub(super) fn sync_all(&mut self, (names, contents): (u64, u64)) {
        let all: Vec<u64> = self.inodes.keys().copied().collect();
        for ino in all {
            self.sync(ino, contents);
        }
        if let Some(last) = self.journal.iter().rposition(|(seq, _)| *seq <= names) {
            for (_, change) in self.journal.drain(..=last) {
                change.apply(&mut self.stable);
            }
            self.collect();
        }
    }

    /// A sync of everything failed: see [`DiskState::fail_sync`].
    pub(super) fn fail_sync_all(&mut self, until: u64, rng: &mut Rng) {
        let all: Vec<u64> = self.inodes.keys().copied().collect();
        for ino in all {
            self.fail_sync(ino, until, rng);
        }
        self.lost_all += 1;
    }

    /// How often a sync of everything failed.
    pub(super) fn lost_all(&self) -> u64 {
        self.lost_all
    }

    pub(super) fn list_dir(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.need_dir(dir)?;
        let below = self.live.iter().filter(|(p, _)| p.parent() == Some(dir));
        let mut entries: Vec<DirEntry> = below
            .map(|(p, node)| DirEntry {
                name: p
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                is_dir: *node == Node::Dir,
                len: match node {
                    Node::Dir => 0,
                    Node::File(ino) => self.len(*ino),
                },
            })
            .collect();
        entries.sort();
        Ok(entries)
    }

    /// Opens a file (one more handle); the number of its inode.
    pub(super) fn open(&mut self, path: &Path, create: bool) -> io::Result<u64> {
        let ino = match self.live.get(path) {
            Some(Node::File(ino)) => *ino,
            Some(Node::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
            None if create => {
                self.need_dir(path.parent().unwrap_or(Path::new("/")))?;
                let ino = self.next_ino;
                self.next_ino += 1;
                self.inodes.insert(ino, Inode::default());
                self.change_names(NameChange::Add(path.to_owned(), Node::File(ino)));
                ino
            }
            None => return Err(not_found(path)),
        };
        self.inode(ino).handles += 1;
        Ok(ino)
    }

    pub(super) fn retain(&mut self, ino: u64) {
        self.inode(ino).handles += 1;
    }

    pub(super) fn release(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.handles = inode.handles.saturating_sub(1);
            if inode.handles == 0 {
                self.collect();
            }
        }
    }

    /// The process is gone, and its handles with it.
    pub(super) fn close_files(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
        }
        self.collect();
    }

    /// Frees inodes that neither a name (live, durable or in the journal) nor a handle needs.
    fn collect(&mut self) {
        let mut named: Vec<u64> = Vec::with_capacity(self.inodes.len());
        let added = self.journal.iter().filter_map(|(_, c)| match c {
            NameChange::Add(_, node) => Some(node),
            _ => None,
        });
        for node in self.live.values().chain(self.stable.values()).chain(added) {
            if let Node::File(ino) = node {
                named.push(*ino);
            }
        }
        named.sort_unstable();
        self.inodes
            .retain(|ino, i| i.handles > 0 || named.binary_search(ino).is_ok());
    }

    fn inode(&mut self, ino: u64) -> &mut Inode {
        self.inodes
            .get_mut(&ino)
            .expect("an open file has its inode")
    }

    pub(super) fn len(&self, ino: u64) -> u64 {
        self.inodes.get(&ino).map_or(0, |i| i.live.len)
    }

    pub(super) fn read(&self, ino: u64, pos: u64, len: usize) -> Vec<u8> {
        self.inodes
            .get(&ino)
            .map_or_else(Vec::new, |i| i.live.read(pos, len))
    }

    pub(super) fn used(&self) -> u64 {
        self.inodes.values().map(|i| i.live.len).sum()
    }

    /// Whether a file may grow to `end`.
    fn check_space(&self, ino: u64, end: u64) -> io::Result<()> {
        let grow = end.saturating_sub(self.len(ino));
        match self.capacity {
            Some(capacity) if grow > 0 && self.used() + grow > capacity => {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            _ => Ok(()),
        }
    }

    /// A change is on its way to the disk. [`DiskState::finish`] or [`DiskState::abandon`] follow.
    fn begin(&mut self, ino: u64, change: Change) -> io::Result<u64> {
        self.check_space(ino, change.range().1)?;
        let id = self.next_change;
        self.next_change += 1;
        self.inode(ino).pending.push(Pending {
            id,
            done: false,
            given_up: false,
            change,
        });
        Ok(id)
    }

    pub(super) fn begin_write(&mut self, ino: u64, pos: u64, bytes: Bytes) -> io::Result<u64> {
        self.begin(ino, Change::Write { pos, bytes })
    }

    pub(super) fn begin_zero(&mut self, ino: u64, pos: u64, len: u64) -> io::Result<u64> {
        self.begin(ino, Change::Zero { pos, len })
    }

    pub(super) fn set_len(&mut self, ino: u64, len: u64) -> io::Result<()> {
        let id = self.begin(ino, Change::SetLen(len))?;
        self.finish(ino, id, false);
        Ok(())
    }

    /// The change is visible now; with `durable` also safe, and so are all changes of the length
    /// before it (a synchronous write commits the inode).
    pub(super) fn finish(&mut self, ino: u64, id: u64, durable: bool) {
        let inode = self.inode(ino);
        let Some(at) = inode.pending.iter().position(|p| p.id == id) else {
            return;
        };
        inode.pending[at].done = true;
        let change = inode.pending[at].change.clone();
        change.apply(&mut inode.live);
        if durable {
            inode.commit_lengths(at);
            change.apply(&mut inode.stable);
            inode.supersede(id, change.range());
        }
    }

    /// The caller gave up: the change may have happened or not.
    pub(super) fn abandon(&mut self, ino: u64, id: u64, happened: bool) {
        if happened {
            self.finish(ino, id, false);
        } else if let Some(inode) = self.inodes.get_mut(&ino) {
            // It may still be in the device's queue: a power cut decides.
            inode
                .pending
                .iter_mut()
                .filter(|p| p.id == id)
                .for_each(|p| (p.done, p.given_up) = (true, true));
        }
    }

    /// The process has ended. What it had under way is over before another begins: the system waits
    /// for the device. It happened, or it did not.
    pub(super) fn end_process(&mut self, rng: &mut Rng) {
        for inode in self.inodes.values_mut() {
            let live = &mut inode.live;
            inode.pending.retain_mut(|p| {
                if !std::mem::take(&mut p.given_up) {
                    return true;
                }
                let happened = rng.chance(1, 2);
                if happened {
                    p.change.apply(live);
                }
                happened
            });
        }
    }

    pub(super) fn last_change(&self) -> u64 {
        self.next_change
    }

    /// Makes the visible changes with numbers below `until` durable.
    pub(super) fn sync(&mut self, ino: u64, until: u64) {
        let inode = self.inode(ino);
        let (safe, rest) = std::mem::take(&mut inode.pending)
            .into_iter()
            .partition(|p| p.done && p.id < until);
        let safe: Vec<Pending> = safe;
        for pending in safe {
            pending.change.apply(&mut inode.stable);
        }
        inode.pending = rest;
    }

    /// A sync failed: of the visible changes with numbers below `until` some are durable, and no
    /// later sync makes the others so; programs see them until the power goes.
    pub(super) fn fail_sync(&mut self, ino: u64, until: u64, rng: &mut Rng) {
        let inode = self.inode(ino);
        for pending in std::mem::take(&mut inode.pending) {
            if !pending.done || pending.id >= until {
                inode.pending.push(pending);
            } else if rng.chance(1, 2) {
                pending.change.apply(&mut inode.stable);
            }
        }
    }

    pub(super) fn power_cut(&mut self, rng: &mut Rng) {
        let keep = rng.below(self.journal.len() as u64 + 1) as usize;
        let keep = if rng.chance(1, 3) {
            self.journal.len()
        } else {
            keep
        };
        for (_, change) in self.journal.drain(..).take(keep) {
            change.apply(&mut self.stable);
        }
        self.live = self.stable.clone();
        for inode in self.inodes.values_mut() {
            inode.power_cut(rng);
        }
        self.close_files();
    }

    pub(super) fn read_whole(&self, path: &Path) -> Option<Vec<u8>> {
        match self.live.get(path)? {
            Node::File(ino) => Some(self.read(*ino, 0, usize::MAX)),
            Node::Dir => None,
        }
    }

    pub(super) fn write_whole(&mut self, path: &Path, bytes: &[u8]) {
        let ino = self.open(path, true).expect("the directory is there");
        let inode = self.inode(ino);
        inode.pending.clear();
        inode.live = Content::default();
        inode.live.write(0, bytes);
        inode.stable = inode.live.clone();
        let (dir, until) = (path.parent().unwrap_or(Path::new("/")), self.journal_seq);
        self.sync_dir(dir, until).expect("the directory is there");
        self.release(ino);
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        let files = self.live.iter().filter(|(_, n)| matches!(n, Node::File(_)));
        files.map(|(p, _)| p.clone()).collect()
    }

    pub(super) fn flip(&mut self, path: &Path, pos: u64) {
        let Some(Node::File(ino)) = self.live.get(path).copied() else {
            panic!("{} is not a file", path.display());
        };
        let inode = self.inode(ino);
        assert!(pos < inode.live.len, "the file is shorter than {pos}");
        for content in [&mut inode.live, &mut inode.stable] {
            if pos < content.len {
                let byte = content.read(pos, 1)[0];
                content.write(pos, &[byte ^ 0x10]);
            }
        }
    }
}

impl Inode {
    /// Change `id` of a range is durable: no power cut brings back what was visible there before.
    fn supersede(&mut self, id: u64, range: (u64, u64)) {
        for p in std::mem::take(&mut self.pending) {
            if p.id < id && p.done && !p.given_up {
                let parts = p.change.outside(range).into_iter();
                self.pending
                    .extend(parts.map(|change| Pending { change, ..p }));
            } else if p.id != id {
                self.pending.push(p);
            }
        }
    }

    /// Makes the changes of the length before `pending[end]` durable. Writes before them lose what
    /// they cut off.
    fn commit_lengths(&mut self, end: usize) {
        let mut at = 0;
        let mut end = end;
        while at < end {
            let Change::SetLen(len) = self.pending[at].change else {
                at += 1;
                continue;
            };
            self.stable.set_len(len);
            self.pending.remove(at);
            end -= 1;
            for earlier in &mut self.pending[..at] {
                earlier.cut(len);
            }
        }
    }

    fn power_cut(&mut self, rng: &mut Rng) {
        let pending = std::mem::take(&mut self.pending);
        // Of the kept share: nothing, all, or something between.
        let share = match rng.below(4) {
            0 => 0,
            1 => 100,
            _ => rng.below(101),
        };
        let mut lengths = rng.below(pending.len() as u64 + 1);
        if share == 100 {
            lengths = pending.len() as u64;
        }
        for (i, p) in pending.iter().enumerate() {
            let may_resize = (i as u64) < lengths;
            match &p.change {
                Change::SetLen(len) if may_resize => self.stable.set_len(*len),
                Change::SetLen(_) => {}
                change => self.keep_sectors(change, share, may_resize, rng),
            }
        }
        self.live = self.stable.clone();
    }

    fn keep_sectors(&mut self, change: &Change, share: u64, may_resize: bool, rng: &mut Rng) {
        let (start, end) = change.range();
        let end = if may_resize {
            end
        } else {
            end.min(self.stable.len)
        };
        let step = if matches!(change, Change::Zero { .. }) {
            PAGE as u64
        } else {
            SECTOR
        };
        let mut at = start;
        while at < end {
            let next = ((at / step + 1) * step).min(end);
            if rng.chance(share, 100) {
                match change {
                    Change::Write { bytes, .. } => {
                        let range = (at - start) as usize..(next - start) as usize;
                        self.stable.write(at, &bytes[range]);
                    }
                    _ => self.stable.zero(at, next - at),
                }
            }
            at = next;
        }
    }
}

impl Pending {
    fn cut(&mut self, len: u64) {
        match &mut self.change {
            Change::Write { pos, bytes } => {
                bytes.truncate(usize::try_from(len.saturating_sub(*pos)).unwrap_or(usize::MAX));
            }
            Change::Zero { pos, len: n } => *n = (*n).min(len.saturating_sub(*pos)),
            Change::SetLen(_) => {}
        }
    }
}
