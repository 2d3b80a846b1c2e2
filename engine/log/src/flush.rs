//! Group commit: what was appended goes to disk one durable write at a time.
//!
//! While one write is in flight the next group gathers; nobody waits on a timer. A group is copied
//! once, into an aligned buffer that begins with the partly filled last block of the file, is
//! stamped with offsets there, written, and then stays in memory as the tail.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::{AlignedBuf, BLOCK, Env};
use streamd_model::Offset;

use crate::LogError;
use crate::batch::{BatchHeader, restamp_time, stamp};
use crate::checkpoint;
use crate::log::Log;
use crate::segment::Segment;
use crate::tail::TailGroup;

/// A group takes batches until it holds so many bytes.
pub const GROUP_BYTES: usize = 1 << 20;

struct Group {
    segment: Rc<Segment>,
    /// Position of the buffer in the file, a multiple of the block size.
    at: u64,
    /// Bytes at the front of the buffer that are in the file already.
    overlap: usize,
    /// Bytes of new batches after them.
    len: usize,
    next: Offset,
    /// The batches and their positions in the file, for the index.
    batches: Vec<(u64, BatchHeader)>,
    buf: AlignedBuf,
}

impl Log {
    fn take_group(&mut self) -> Option<Group> {
        let first = self.queue.pending.front()?;
        let segment = first.segment.clone();
        let position = first.position;
        let (mut count, mut len) = (0, 0);
        for p in &self.queue.pending {
            if !Rc::ptr_eq(&p.segment, &segment) || (count > 0 && len >= GROUP_BYTES) {
                break;
            }
            count += 1;
            len += p.batch.bytes.len();
        }
        let overlap = (position % BLOCK as u64) as usize;
        let last_block = if position == 0 {
            Bytes::new()
        } else {
            self.queue.last_block.clone()
        };
        assert!(
            last_block.len() == overlap,
            "the last block is the one in the file"
        );
        let mut buf = self.env.alloc(overlap + len);
        buf[..overlap].copy_from_slice(&last_block);
        let mut at = overlap;
        let mut next = self.flushed;
        let mut batches = Vec::with_capacity(count);
        for p in self.queue.pending.drain(..count) {
            assert!(p.base == next, "gap: batch at {} after {next}", p.base);
            let bytes = &p.batch.bytes;
            let place = &mut buf[at..at + bytes.len()];
            place.copy_from_slice(bytes);
            stamp(place, p.base, p.epoch);
            if p.batch.facts.restamp {
                restamp_time(place, p.batch.facts.max_timestamp, p.log_append_time);
            }
            let header = BatchHeader {
                base_offset: p.base,
                epoch: p.epoch,
                max_timestamp: p.batch.facts.max_timestamp,
                ..p.batch.facts.header
            };
            batches.push((p.position, header));
            at += bytes.len();
            next = header.next_offset();
        }
        buf[at..].fill(0);
        self.queue.bytes -= len;
        let at = position - overlap as u64;
        Some(Group {
            segment,
            at,
            overlap,
            len,
            next,
            batches,
            buf,
        })
    }

    /// Takes note that the group is durable.
    fn complete(&mut self, group: &Written) {
        let end = group.at + (group.overlap + group.len) as u64;
        assert!(
            group.next > self.flushed && group.next <= self.end,
            "flushed goes up"
        );
        // Only now: the index never speaks of what is not durable.
        if let Some(index) = group.segment.index() {
            let mut index = index.borrow_mut();
            for (position, header) in &group.batches {
                index.note(group.segment.base, *position, header);
            }
        }
        group.segment.advance(end, group.next);
        self.flushed = group.next;
        let used = group.overlap + group.len;
        self.queue.last_block = group.bytes.slice(used - used % BLOCK..used);
        self.tail.push(TailGroup {
            segment: group.segment.base,
            position: group.at + group.overlap as u64,
            bytes: group.bytes.slice(group.overlap..used),
            memory: group.bytes.len(),
        });
    }

    /// A segment that was rolled and has all its batches on disk. Not while a group is written.
    fn next_to_seal(&mut self) -> Option<Rc<Segment>> {
        let oldest = self.queue.to_seal.front()?;
        let more = self
            .queue
            .pending
            .front()
            .is_some_and(|p| Rc::ptr_eq(&p.segment, oldest));
        if more {
            None
        } else {
            self.queue.to_seal.pop_front()
        }
    }
}

struct Written {
    segment: Rc<Segment>,
    at: u64,
    overlap: usize,
    len: usize,
    next: Offset,
    batches: Vec<(u64, BatchHeader)>,
    bytes: Bytes,
}

/// What one turn of [`flush_once`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Everything before this offset is durable now.
    pub next: Offset,
    /// Bytes of records that became durable.
    pub bytes: usize,
    /// Bytes of memory that the tail has grown by.
    pub memory: usize,
}

/// Writes one group; `None` when nothing is pending. Call it from one task at a time. After an
/// error the log must not be used any more: what is on the disk is not known.
pub async fn flush_once(env: &Env, log: &RefCell<Log>) -> Result<Option<Flushed>, LogError> {
    let Some(group) = log.borrow_mut().take_group() else {
        return Ok(None);
    };
    make_dir(env, log).await?;
    let (durable, limit) = {
        let config = log.borrow().config.clone();
        (config.durable, config.segment_bytes)
    };
    let Group {
        segment,
        at,
        overlap,
        len,
        next,
        batches,
        buf,
    } = group;
    let file = segment.writer(env, durable).await?;
    segment
        .reserve(env, &file, at + buf.len() as u64, limit)
        .await?;
    let bytes = file.write_at(buf, at).await.map_err(LogError::io(format!(
        "write {}",
        segment.path("log").display()
    )))?;
    let memory = bytes.len();
    let written = Written {
        segment,
        at,
        overlap,
        len,
        next,
        batches,
        bytes,
    };
    log.borrow_mut().complete(&written);
    seal_rolled(env, log).await?;
    store_ready_checkpoint(env, log).await?;
    Ok(Some(Flushed {
        next,
        bytes: len,
        memory,
    }))
}

async fn seal_rolled(env: &Env, log: &RefCell<Log>) -> Result<(), LogError> {
    loop {
        let next = log.borrow_mut().next_to_seal();
        let Some(segment) = next else { return Ok(()) };
        segment.seal(env).await?;
        log.borrow_mut().note_prepared(&segment);
    }
}

/// Makes the partition's directory, durably, if this log has not done so yet.
async fn make_dir(env: &Env, log: &RefCell<Log>) -> Result<(), LogError> {
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
            .map_err(fail("sync the parent of"))?;
    }
    if !metadata.is_empty() {
        env.write_file_atomic(&dir.join("partition.metadata"), metadata.into_bytes())
            .await
            .map_err(fail("write partition.metadata in"))?;
    }
    log.borrow_mut().has_dir = true;
    Ok(())
}

/// Writes the planned checkpoint if everything before it is flushed and sealed.
async fn store_ready_checkpoint(env: &Env, log: &RefCell<Log>) -> Result<(), LogError> {
    let ready = {
        let mut log = log.borrow_mut();
        let ready = log.points.next.as_ref().is_some_and(|c| {
            c.next <= log.flushed
                && log
                    .queue
                    .to_seal
                    .front()
                    .is_none_or(|s| s.base >= c.segment)
        });
        if ready { log.points.next.take() } else { None }
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
    if let Some(active) = active {
        checkpoint.max_timestamp = active.index().map_or(-1, |i| i.borrow().max_timestamp);
        active.store_index(env).await?;
    }
    store_checkpoint(env, log, Some(checkpoint)).await
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
        (log.dir.join(checkpoint::FILE), c)
    };
    env.write_file_atomic(&path, checkpoint.encode())
        .await
        .map_err(LogError::io(format!("write {}", path.display())))?;
    log.borrow_mut().points.last = checkpoint;
    Ok(())
}

/// Ends the log cleanly: everything flushed, the active segment cut to its length with its index
/// beside it, and a checkpoint of the end with `state`. The next start scans nothing.
pub async fn close(env: &Env, log: &RefCell<Log>, state: Vec<u8>) -> Result<(), LogError> {
    while flush_once(env, log).await?.is_some() {}
    seal_rolled(env, log).await?;
    let Some(active) = log.borrow().segments.back().cloned() else {
        return Ok(());
    };
    active.seal(env).await?;
    let checkpoint = log.borrow_mut().final_checkpoint(state);
    if log.borrow().has_dir {
        store_checkpoint(env, log, Some(checkpoint)).await?;
    }
    Ok(())
}
