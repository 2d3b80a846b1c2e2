//! From the journal to the segments: what is durable there is written to the segment files in large
//! pieces, made durable, and then the journal's file may be used again.
//!
//! Invariants: only what is durable in the journal gets here; pieces of a log are written one after
//! another; the tail keeps in memory what is not written yet; a segment is sealed, and a checkpoint
//! stored, when everything before its end is durable in the segments.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::local::Budget;
use streamd_io::{AlignedBuf, BLOCK, Env, File, PARTS_MAX};
use streamd_model::Offset;

use crate::LogError;
use crate::checkpoint;
use crate::log::Log;
use crate::segment::Segment;

/// A piece takes runs until it holds so many bytes.
const PIECE: usize = 1 << 20;

/// And at most so many: each may come to two parts.
const RUNS_MAX: usize = PARTS_MAX / 2 - 1;

/// Puts runs together to whole blocks: a run that lies in memory as it will lie in the file is
/// taken as it is, but for its ends; all else is copied.
struct Gather {
    parts: Vec<Bytes>,
    /// What is being copied.
    buf: AlignedBuf,
    used: usize,
}

impl Gather {
    fn new(buf: AlignedBuf) -> Gather {
        Gather {
            parts: Vec::new(),
            buf,
            used: 0,
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        self.buf[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }

    fn add(&mut self, bytes: &Bytes) {
        let to_block = (BLOCK - self.used % BLOCK) % BLOCK;
        let whole = bytes.len().saturating_sub(to_block) / BLOCK * BLOCK;
        let congruent = (bytes.as_ptr() as usize + to_block).is_multiple_of(BLOCK);
        if !congruent || whole == 0 {
            return self.copy(bytes);
        }
        self.copy(&bytes[..to_block]);
        self.cut();
        self.parts.push(bytes.slice(to_block..to_block + whole));
        self.copy(&bytes[to_block + whole..]);
    }

    /// Makes a part of the whole blocks that were copied.
    fn cut(&mut self) {
        if self.used > 0 {
            let part = self.buf.split_front(self.used);
            self.parts.extend(part.map(AlignedBuf::freeze));
            self.used = 0;
        }
    }

    /// The parts, the last block filled up with zeros, and what it holds if it is not full.
    fn end(mut self) -> (Vec<Bytes>, Bytes) {
        let last = self.used - self.used % BLOCK;
        let last_block = Bytes::copy_from_slice(&self.buf[last..self.used]);
        let end = self.used.next_multiple_of(BLOCK);
        self.buf[self.used..end].fill(0);
        self.cut();
        (self.parts, last_block)
    }
}

struct Piece {
    segment: Rc<Segment>,
    /// Position of the buffer in the file, a multiple of the block size.
    at: u64,
    parts: Vec<Bytes>,
    end: u64,
    next: Offset,
    /// What the partly filled last block will hold.
    last_block: Bytes,
}

impl Log {
    /// The next piece that is in the journal and not in its segment.
    fn next_piece(&self) -> Option<Piece> {
        let first = self.tail.after(self.back.written);
        let group = self.tail.group(first)?;
        let (base, position) = (group.segment, group.position);
        let overlap = (position % BLOCK as u64) as usize;
        let (mut count, mut len) = (0, 0);
        while let Some(g) = self.tail.group(first + count) {
            let full = overlap + len + g.bytes.len() > PIECE - BLOCK || count == RUNS_MAX;
            if g.segment != base || (count > 0 && full) {
                break;
            }
            count += 1;
            len += g.bytes.len();
        }
        let segment = self.segments.iter().rev().find(|s| s.base == base)?.clone();
        let last_block = if position == 0 {
            &[]
        } else {
            &self.back.last_block[..]
        };
        assert!(
            last_block.len() == overlap && segment.written() == position,
            "a piece follows the one before it"
        );
        // Always of one size, so that it is the same memory again and again.
        let mut gather = Gather::new(self.env.alloc(PIECE.max(overlap + len + BLOCK)));
        gather.copy(last_block);
        let mut next = 0;
        for g in (first..first + count).filter_map(|i| self.tail.group(i)) {
            gather.add(&g.bytes);
            next = g.next;
        }
        let (parts, last_block) = gather.end();
        Some(Piece {
            segment,
            at: position - overlap as u64,
            parts,
            end: position + len as u64,
            next,
            last_block,
        })
    }

    /// The segments that may have what is not durable in them.
    fn unsealed(&self) -> impl Iterator<Item = &Rc<Segment>> {
        self.segments.iter().rev().take(self.back.to_seal.len() + 1)
    }

    /// A segment that was rolled and is durable as a whole.
    fn next_to_seal(&self) -> Option<Rc<Segment>> {
        let (segment, end) = self.back.to_seal.front()?;
        (*end <= self.back.synced).then(|| segment.clone())
    }
}

/// Writes to the segments what the journal has. Not durable before [`settle`]. A piece is written
/// when `room` has its bytes, or all of its bytes. With `keep` the file stays open, as that of a
/// log that is written to often. If the disk is full it may be called again; after any other error
/// the log must not be used any more, and the journal is all that has its last records.
pub async fn write_back(
    env: &Env,
    log: &RefCell<Log>,
    room: &Budget,
    keep: bool,
) -> Result<(), LogError> {
    let turn = log.borrow().back.turn.clone();
    let _turn = turn.acquire(1).await;
    loop {
        let piece = log.borrow().next_piece();
        let Some(piece) = piece else { return Ok(()) };
        let file = match keep {
            true => piece.segment.writer(env).await?,
            false => piece.segment.open_writer(env).await?,
        };
        let bytes = piece.parts.iter().map(Bytes::len).sum::<usize>();
        let _room = room.acquire(bytes.min(room.total())).await;
        let fail = LogError::io(format!("write {}", piece.segment.path("log").display()));
        file.write_parts(piece.parts, piece.at)
            .await
            .map_err(fail)?;
        piece.segment.set_written(piece.end);
        let mut log = log.borrow_mut();
        log.back.written = piece.next;
        log.back.last_block = piece.last_block;
    }
}

/// Makes durable what [`write_back`] has written; then seals segments that are complete, and stores
/// the checkpoint that is due. Errors are as with [`write_back`].
pub async fn settle(env: &Env, log: &RefCell<Log>) -> Result<(), LogError> {
    let turn = log.borrow().back.turn.clone();
    let _turn = turn.acquire(1).await;
    let (written, segments) = {
        let log = log.borrow();
        (
            log.back.written,
            log.unsealed().cloned().collect::<Vec<_>>(),
        )
    };
    for segment in segments.into_iter().filter(|s| s.is_dirty()) {
        segment.sync(env).await?;
    }
    settled(env, log, written).await
}

/// Like [`settle`], after a call of [`streamd_io::FileSystem::sync`] that began when everything
/// before `written` (see [`Log::written`]) was written. If the log was cut meanwhile, that says
/// nothing any more.
pub async fn settle_synced(env: &Env, log: &RefCell<Log>, written: Offset) -> Result<(), LogError> {
    let turn = log.borrow().back.turn.clone();
    let turn = turn.acquire(1).await;
    if !log.borrow().back.marked.get() {
        drop(turn);
        return settle(env, log).await;
    }
    {
        let log = log.borrow();
        // What was written meanwhile is left to whoever wrote it.
        if written == log.back.written {
            log.unsealed().for_each(|s| s.all_durable());
        }
    }
    settled(env, log, written).await
}

async fn settled(env: &Env, log: &RefCell<Log>, written: Offset) -> Result<(), LogError> {
    {
        let mut log = log.borrow_mut();
        log.back.synced = log.back.synced.max(written);
    }
    loop {
        let next = log.borrow().next_to_seal();
        let Some(segment) = next else { break };
        segment.seal(env).await?;
        let mut log = log.borrow_mut();
        log.back.to_seal.pop_front();
        log.note_prepared(&segment);
    }
    store_ready_checkpoint(env, log).await
}

/// Makes the partition's directory, durably, if this log has not done so yet. To be called before
/// anything of the log goes into the journal.
pub async fn make_dir(env: &Env, log: &RefCell<Log>) -> Result<(), LogError> {
    if log.borrow().has_dir {
        return Ok(());
    }
    // One at a time: a reset makes it too, beside the first append.
    let turn = log.borrow().points.turn.clone();
    let _held = turn.acquire(1).await;
    let (dir, metadata) = {
        let log = log.borrow();
        if log.has_dir {
            return Ok(());
        }
        (log.dir.clone(), log.config.metadata.clone())
    };
    let fail = |what: &str| LogError::io(format!("{what} {}", dir.display()));
    env.create_dir_all(&dir)
        .await
        .map_err(fail("create the directory"))?;
    if let Some(parent) = dir.parent() {
        env.sync_dir(parent)
            .await
            .map_err(LogError::sync(format!("sync {}", parent.display())))?;
    }
    if !metadata.is_empty() {
        env.write_file_atomic(&dir.join("partition.metadata"), metadata.into_bytes())
            .await
            .map_err(fail("write partition.metadata in"))?;
    }
    log.borrow_mut().has_dir = true;
    Ok(())
}

/// Stores the planned checkpoint if everything before it is durable in the segments.
async fn store_ready_checkpoint(env: &Env, log: &RefCell<Log>) -> Result<(), LogError> {
    let ready = {
        let mut log = log.borrow_mut();
        // What is not committed may be cut, and no checkpoint may lie behind a cut.
        let committed = log.points.high.unwrap_or(Offset::MAX);
        let synced = log.back.synced.min(committed);
        let unsealed = log.back.to_seal.front().map(|(s, _)| s.base);
        let is_ready = |c: &mut checkpoint::Checkpoint| {
            c.next <= synced && unsealed.is_none_or(|base| base >= c.segment)
        };
        log.points.next.take_if(is_ready)
    };
    let Some(mut checkpoint) = ready else {
        return Ok(());
    };
    let active = log
        .borrow()
        .segments
        .iter()
        .find(|s| s.base == checkpoint.segment)
        .cloned();
    let stored = async {
        if let Some(active) = active {
            checkpoint.max_timestamp = active.index().map_or(-1, |i| i.borrow().max_timestamp);
            active.store_index(env).await?;
        }
        store_checkpoint(env, log, Some(checkpoint.clone())).await
    };
    match stored.await {
        // Recovery begins further back until there is room.
        Err(e) if e.is_full() => {
            let mut log = log.borrow_mut();
            log.points.next.get_or_insert(checkpoint);
            Ok(())
        }
        result => result,
    }
}

/// Stores the high watermark (and the log's start) now, not with the next checkpoint.
pub async fn store_high(env: &Env, log: &RefCell<Log>) -> Result<(), LogError> {
    let has_dir = log.borrow().has_dir;
    match has_dir {
        true => store_checkpoint(env, log, None).await,
        false => Ok(()),
    }
}

/// Sees to it that the stored high watermark, if the owner gives one, is no less than `to`, which
/// is committed.
pub(crate) async fn store_high_to(
    env: &Env,
    log: &RefCell<Log>,
    to: Offset,
) -> Result<(), LogError> {
    let lags = {
        let points = &log.borrow().points;
        points.high.is_some() && points.last.high.is_none_or(|high| high < to)
    };
    match lags {
        true => store_high(env, log).await,
        false => Ok(()),
    }
}

/// Replaces the checkpoint file: by `new`, or by what it says now; with today's log start. One at
/// a time, so that an older one never comes after a newer one.
pub(crate) async fn store_checkpoint(
    env: &Env,
    log: &RefCell<Log>,
    new: Option<checkpoint::Checkpoint>,
) -> Result<(), LogError> {
    let turn = log.borrow().points.turn.clone();
    let _turn = turn.acquire(1).await;
    let (path, checkpoint) = {
        let log = log.borrow();
        let mut c = new.unwrap_or_else(|| log.points.last.clone());
        c.log_start = log.start;
        c.high = log.points.high;
        (log.dir.join(checkpoint::FILE), c)
    };
    env.write_file_atomic(&path, checkpoint.encode())
        .await
        .map_err(LogError::io(format!("write {}", path.display())))?;
    log.borrow_mut().points.last = checkpoint;
    Ok(())
}

/// Ends the log cleanly: everything in its segments, the active one cut to its length with its
/// index beside it, and a checkpoint of the end with `state`. The next start scans nothing. What
/// was appended must be in the journal.
pub async fn close(env: &Env, log: &RefCell<Log>, state: Vec<u8>) -> Result<(), LogError> {
    write_back(env, log, &Budget::new(PIECE), true).await?;
    settle(env, log).await?;
    let Some(mut ended) = end(env, log, (state, 0)).await? else {
        return Ok(());
    };
    if let Some((file, path)) = ended.cut {
        let fail = LogError::io(format!("sync {}", path.display()));
        file.sync().await.map_err(fail)?;
    }
    let last = ended.files.pop();
    for (path, bytes) in ended.files.into_iter().chain(last) {
        let fail = LogError::io(format!("write {}", path.display()));
        env.write_file_atomic(&path, bytes).await.map_err(fail)?;
    }
    Ok(())
}

/// What makes the end of a log known to the next start.
pub struct Ended {
    /// The active segment, if it was cut: to be made durable before the files.
    pub cut: Option<(Rc<File>, PathBuf)>,
    /// Files to be replaced, the checkpoint as the last one.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

/// The last part of [`close`], for a log that is settled: the caller makes the cut durable and
/// replaces the files, of many logs at once. There are no files when the next start has less than
/// `rescan_max` bytes to scan: then that takes less than to write them. `None` without a segment.
pub async fn end(
    env: &Env,
    log: &RefCell<Log>,
    (state, rescan_max): (Vec<u8>, u64),
) -> Result<Option<Ended>, LogError> {
    if !log.borrow().back.to_seal.is_empty() {
        settle(env, log).await?;
    }
    let (active, is_known) = {
        let log = log.borrow();
        assert!(log.is_settled(), "everything is in the segments");
        let is_known = log.points.since < rescan_max && log.points.next.is_none();
        // What is not committed may be cut by the next life.
        let committed = log.points.high.is_none_or(|high| high >= log.end);
        (log.segments.back().cloned(), (is_known, committed))
    };
    let (is_known, committed) = is_known;
    let Some(active) = active.filter(|_| log.borrow().has_dir) else {
        return Ok(None);
    };
    let cut = active
        .cut(env)
        .await?
        .map(|file| (file, active.path("log")));
    if is_known {
        let files = Vec::new();
        return Ok(Some(Ended { cut, files }));
    }
    let mut log = log.borrow_mut();
    let (mut files, mut checkpoint) = match committed {
        true => (active.index_files(), log.final_checkpoint(state)),
        false => (Vec::new(), log.points.last.clone()),
    };
    (checkpoint.log_start, checkpoint.high) = (log.start, log.points.high);
    files.push((log.dir.join(checkpoint::FILE), checkpoint.encode()));
    Ok(Some(Ended { cut, files }))
}
