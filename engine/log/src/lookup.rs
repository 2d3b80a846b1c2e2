//! Offsets by timestamp: the first record at or after a time, and the one with the greatest.
//! The sparse time index says where to begin; the batches themselves decide.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::{Env, File};
use streamd_model::Offset;

use crate::LogError;
use crate::batch::{BatchHeader, HEADER};
use crate::index::Index;
use crate::log::Log;
use crate::records::{first_at_or_after, latest_of};
use crate::segment::Segment;

/// Read ahead so much while looking at headers, bytes.
const CHUNK: usize = 64 << 10;

/// A record's offset and timestamp (ms).
pub type Found = Option<(Offset, i64)>;

/// The first record, of what is committed, whose timestamp is at least `timestamp` ms.
pub async fn at_or_after(env: &Env, log: &RefCell<Log>, timestamp: i64) -> Result<Found, LogError> {
    loop {
        let generation = log.borrow().sealed.generation;
        let found = first_from(env, log, timestamp).await;
        // Segments that were replaced meanwhile may have been read half old, half new.
        if log.borrow().sealed.generation == generation {
            return still_there(&log.borrow(), found);
        }
    }
}

/// The first record with the greatest timestamp of what is committed.
pub async fn latest(env: &Env, log: &RefCell<Log>) -> Result<Found, LogError> {
    loop {
        let generation = log.borrow().sealed.generation;
        let found = latest_of_all(env, log).await;
        if log.borrow().sealed.generation == generation {
            return still_there(&log.borrow(), found);
        }
    }
}

/// While the log is being cut its files may end anywhere behind what counts.
fn still_there(log: &Log, found: Result<Found, LogError>) -> Result<Found, LogError> {
    match found {
        Err(_) if log.is_cutting() => Ok(None),
        found => Ok(found?.filter(|f| f.0 < log.committed())),
    }
}

async fn first_from(env: &Env, log: &RefCell<Log>, timestamp: i64) -> Result<Found, LogError> {
    let range = committed(log);
    for segment in readable(log, &range) {
        if prepare(env, log, &segment).await? < timestamp {
            continue;
        }
        if let Some(found) = in_segment((env, log), &segment, timestamp, &range).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

async fn latest_of_all(env: &Env, log: &RefCell<Log>) -> Result<Found, LogError> {
    let range = committed(log);
    let mut best: Found = None;
    for segment in readable(log, &range) {
        let max = prepare(env, log, &segment).await?;
        if best.is_some_and(|(_, b)| b >= max) || max < 0 {
            continue;
        }
        // Of a segment that begins before the log start the index may name a record that is gone,
        // and of one that goes on behind what is committed, a record there.
        let mut found = None;
        if segment.base >= range.start && segment.next() <= range.end {
            found = in_segment((env, log), &segment, max, &range).await?;
        }
        // The greatest timestamp may be that of a batch whose records are compacted away.
        if found.is_none() {
            found = latest_in((env, log), &segment, &range).await?;
        }
        if found.is_some_and(|(_, t)| best.is_none_or(|(_, b)| b < t)) {
            best = found;
        }
    }
    Ok(best)
}

/// Finds where in `segment`, which is ready for readers, the batch at `limit` begins, for
/// [`Log::plan_read_below`].
pub async fn locate(
    env: &Env,
    log: &RefCell<Log>,
    segment: &Rc<Segment>,
    limit: Offset,
) -> Result<(), LogError> {
    let relative = u32::try_from(limit - segment.base).unwrap_or(0);
    let position = segment.index().map_or(0, |i| i.borrow().find(relative).0);
    let generation = log.borrow().sealed.generation;
    let mut cursor = Cursor::new((env, log), segment, position);
    let found = cursor.before(limit).await;
    let mut log = log.borrow_mut();
    // The segment may have been replaced by another with its base, or cut.
    if log.sealed.generation == generation && !log.is_cutting() {
        log.sealed.prepared.located = Some((limit, segment.base, found?));
    }
    Ok(())
}

/// The position in `segment` of the batch that begins at `offset`, or of the end that lies there;
/// `None` if neither does.
pub(crate) async fn position_of(
    env: &Env,
    log: &RefCell<Log>,
    segment: &Rc<Segment>,
    offset: Offset,
) -> Result<Option<u64>, LogError> {
    prepare(env, log, segment).await?;
    let relative = u32::try_from(offset - segment.base).unwrap_or(0);
    let position = segment.index().map_or(0, |i| i.borrow().find(relative).0);
    let mut cursor = Cursor::new((env, log), segment, position);
    let (mut at, mut ends) = (position, None);
    while let Some((header, _)) = cursor.batch(|_| false).await? {
        if header.base_offset >= offset {
            ends = Some(header.base_offset);
            break;
        }
        (at, ends) = (cursor.position, Some(header.next_offset()));
        env.yield_if_needed().await;
    }
    Ok((ends == Some(offset)).then_some(at))
}

async fn latest_in(
    at: (&Env, &RefCell<Log>),
    segment: &Rc<Segment>,
    range: &Range<Offset>,
) -> Result<Found, LogError> {
    let relative = |to: Offset| u32::try_from(to - segment.base).unwrap_or(0);
    let first = relative(range.start);
    if segment.next() > range.end {
        // Mostly the active segment, near its end: the index says from where on to look, unless
        // what it names there is no record any more, or a marker.
        let entry = |i: Rc<RefCell<Index>>| i.borrow().latest_before(relative(range.end));
        if let Some((max, offset)) = segment.index().and_then(entry) {
            let found = latest_behind(at, segment, offset.max(first), range).await?;
            if found.is_some_and(|(_, t)| t >= max) {
                return Ok(found);
            }
        }
    }
    latest_behind(at, segment, first, range).await
}

async fn latest_behind(
    (env, log): (&Env, &RefCell<Log>),
    segment: &Rc<Segment>,
    relative: u32,
    range: &Range<Offset>,
) -> Result<Found, LogError> {
    let position = segment.index().map_or(0, |i| i.borrow().find(relative).0);
    let mut cursor = Cursor::new((env, log), segment, position);
    let mut best: Found = None;
    while let Some((header, bytes)) = cursor.batch(|h| h.next_offset() > range.start).await? {
        if header.base_offset >= range.end {
            break;
        }
        let may_be = !bytes.is_empty() && !header.is_control();
        if may_be && best.is_none_or(|(_, b)| b < header.max_timestamp) {
            let found = latest_of(&bytes, &header, range).map_err(|e| cursor.corrupt(&e.text))?;
            if found.is_some_and(|(_, t)| best.is_none_or(|(_, b)| b < t)) {
                best = found;
            }
        }
        env.yield_if_needed().await;
    }
    Ok(best)
}

/// The offsets that are looked at.
fn committed(log: &RefCell<Log>) -> Range<Offset> {
    let log = log.borrow();
    log.start..log.committed()
}

fn readable(log: &RefCell<Log>, range: &Range<Offset>) -> Vec<Rc<Segment>> {
    let may = |s: &&Rc<Segment>| s.next() > range.start && s.base < range.end && s.size() > 0;
    log.borrow().segments.iter().filter(may).cloned().collect()
}

/// Makes the segment ready and gives its greatest timestamp, ms.
async fn prepare(env: &Env, log: &RefCell<Log>, segment: &Rc<Segment>) -> Result<i64, LogError> {
    let interval = log.borrow().config().index_interval;
    segment.prepare(env, interval).await?;
    log.borrow_mut().note_prepared(segment);
    Ok(segment.index().map_or(-1, |i| i.borrow().max_timestamp))
}

/// Reads one segment's batches from a position on.
struct Cursor<'a> {
    env: &'a Env,
    log: &'a RefCell<Log>,
    segment: Rc<Segment>,
    /// Stays open, though the segment closes it, is replaced or removed.
    file: Option<Rc<File>>,
    position: u64,
    buf: Bytes,
    buf_at: u64,
}

impl<'a> Cursor<'a> {
    fn new(
        (env, log): (&'a Env, &'a RefCell<Log>),
        segment: &Rc<Segment>,
        position: u64,
    ) -> Cursor<'a> {
        Cursor {
            env,
            log,
            segment: segment.clone(),
            file: segment.reader(),
            position,
            buf: Bytes::new(),
            buf_at: position,
        }
    }

    /// Goes on to the first batch at or after `limit`; its position.
    async fn before(&mut self, limit: Offset) -> Result<u64, LogError> {
        let mut at = self.position;
        while let Some((header, _)) = self.batch(|_| false).await? {
            if header.base_offset >= limit {
                break;
            }
            at = self.position;
            self.env.yield_if_needed().await;
        }
        Ok(at)
    }

    /// The batch at the cursor; `None` at the durable end. With `whole` its records are read too.
    async fn batch(
        &mut self,
        whole: impl Fn(&BatchHeader) -> bool,
    ) -> Result<Option<(BatchHeader, Bytes)>, LogError> {
        if self.position >= self.segment.size() {
            return Ok(None);
        }
        let head = self.read(HEADER).await?;
        let header = BatchHeader::parse(&head).map_err(|e| self.corrupt(&e.text))?;
        let bytes = if whole(&header) {
            self.read(header.size).await?
        } else {
            Bytes::new()
        };
        self.position += header.size as u64;
        Ok(Some((header, bytes)))
    }

    async fn read(&mut self, len: usize) -> Result<Bytes, LogError> {
        let inside = (self.position - self.buf_at) as usize;
        if self.buf.len() >= inside + len {
            return Ok(self.buf.slice(inside..inside + len));
        }
        // What is in memory may not be in the file yet.
        let tail = self
            .log
            .borrow()
            .tail
            .bytes_at(self.segment.base, self.position);
        if let Some(bytes) = tail {
            (self.buf, self.buf_at) = (bytes, self.position);
            if self.buf.len() < len {
                return Err(self.corrupt("memory ends in the middle of a batch"));
            }
            return Ok(self.buf.slice(..len));
        }
        let path = self.segment.path("log");
        let file = self.file().await?;
        // Not beyond what is written: what is read ahead there is out of date a moment later.
        let durable = self.segment.written().saturating_sub(self.position) as usize;
        self.buf = file
            .read_at(self.position, len.max(CHUNK).min(durable))
            .await
            .map_err(LogError::io(format!("read {}", path.display())))?;
        self.buf_at = self.position;
        if self.buf.len() < len {
            return Err(self.corrupt("the file ends in the middle of a batch"));
        }
        Ok(self.buf.slice(..len))
    }

    /// The segment's file: it was not open, or not there, when all that was asked for was in
    /// memory.
    async fn file(&mut self) -> Result<Rc<File>, LogError> {
        if self.file.is_none() {
            let interval = self.log.borrow().config().index_interval;
            self.segment.prepare(self.env, interval).await?;
            self.file = self.segment.reader();
        }
        let file = self.file.clone();
        file.ok_or_else(|| self.corrupt("nothing of the segment is in its file or in memory"))
    }

    fn corrupt(&self, text: &str) -> LogError {
        let path = self.segment.path("log");
        LogError::Corrupt(format!(
            "{} at byte {}: {text}",
            path.display(),
            self.position
        ))
    }
}

async fn in_segment(
    (env, log): (&Env, &RefCell<Log>),
    segment: &Rc<Segment>,
    timestamp: i64,
    range: &Range<Offset>,
) -> Result<Found, LogError> {
    let Some(index) = segment.index() else {
        return Ok(None);
    };
    let from = index.borrow().before_time(timestamp);
    let position = index.borrow().find(from).0;
    let start = range.start;
    let mut cursor = Cursor::new((env, log), segment, position);
    while let Some((header, bytes)) = cursor
        .batch(|h| h.max_timestamp >= timestamp && h.next_offset() > start)
        .await?
    {
        if header.base_offset >= range.end {
            break;
        }
        if !bytes.is_empty() && !header.is_control() {
            // Records before the log start are gone, though their batch may still be there.
            let found = first_at_or_after(&bytes, &header, (timestamp, start))
                .map_err(|e| cursor.corrupt(&e.text))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        env.yield_if_needed().await;
    }
    Ok(None)
}
