//! The passes of a compaction: reading, writing, and who waits for what. The decisions are made in
//! [`super::plan`] and [`super::filter`].
//!
//! Memory: the map, a piece to read into and one to write from, a batch and what is left of it.
//! Between two windows of records others may run, and every byte read or written is paid for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::{AlignedBuf, BLOCK, Env, File, OpenOptions};
use streamd_model::Offset;

use super::filter::{Aborted, Fate, Judge, Learn, Rewrite, Standing, Survey, emptied, standing};
use super::map::OffsetMap;
use super::pace::Pace;
use super::plan::{Piece, Rules, Todo, assess, group};
use super::swap::{self, CleanedTo, Made, cleaned_path};
use super::walk::{Feed, Sink, Walk};
use crate::batch::{BatchError, BatchHeader, HEADER, crc_matches};
use crate::index::Index;
use crate::log::Log;
use crate::segment::Segment;
use crate::{LogError, write_back};

/// Reads and writes go in pieces of so many bytes.
const PIECE: usize = 512 << 10;

/// One part in so many of the file system stays free of copies.
const SPARED: u64 = 50;

/// What a compaction goes by.
pub struct Order<'a> {
    /// The topic's settings.
    pub rules: Rules,
    /// Nothing from here on is decided: the last stable offset.
    pub bound: Offset,
    /// Wall time, ms.
    pub now_ms: i64,
    /// The most memory that the map of keys may take, bytes.
    pub map_bytes: usize,
    /// Producers that are remembered, with their last offsets in the log.
    pub producers: BTreeMap<i64, Offset>,
    /// What was aborted of all that is decided.
    pub aborted: Aborted,
    /// How fast it may read and write.
    pub pace: &'a Pace,
}

/// What a compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// How often the log was gone through.
    pub passes: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes of the segments that were made.
    pub written: u64,
    /// Segments that were replaced by fewer or smaller ones.
    pub replaced: usize,
    /// Segments went meanwhile, and what was left was put off.
    pub overtaken: bool,
    /// The copy could not be written, which harms nothing: why.
    pub refused: Option<String>,
}

/// Why a pass ends early.
enum Stop {
    /// Segments were deleted under it.
    Overtaken,
    /// There is no room for the copy, say: nothing has changed.
    Refused(LogError),
    Failed(LogError),
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Stop {
        Stop::Failed(error)
    }
}

/// The segments that may be compacted: sealed, durable, needed by no recovery, and never cut.
fn candidates(log: &Log) -> Vec<Rc<Segment>> {
    let committed = log.committed();
    let may = |s: &&Rc<Segment>| {
        s.base < log.points.last.segment
            && s.next() <= log.back.synced.min(committed)
            && s.written() == s.size()
            && !log.is_unsealed(s)
    };
    log.segments.iter().take_while(may).cloned().collect()
}

fn piece_of(segment: &Segment, interval: u64) -> Piece {
    let (first_ms, max_ms) = segment.times().unwrap_or((-1, -1));
    Piece {
        base: segment.base,
        next: segment.next(),
        bytes: segment.size(),
        // The time index has the larger entries.
        index_bytes: 12 * (segment.size() / interval.max(HEADER as u64) + 1),
        first_ms,
        max_ms,
    }
}

async fn look(
    env: &Env,
    log: &RefCell<Log>,
    rules: &Rules,
) -> Result<(Vec<Rc<Segment>>, Vec<Piece>), Stop> {
    let segments = candidates(&log.borrow());
    let interval = log.borrow().config.index_interval;
    if rules.need_times() {
        for segment in segments.iter().filter(|s| s.times().is_none()) {
            let prepared = segment.prepare(env, interval).await;
            if !log.borrow().has_segment(segment) {
                return Err(Stop::Overtaken);
            }
            prepared?;
            segment.note_times();
            log.borrow_mut().note_prepared(segment);
        }
    }
    let pieces = segments.iter().map(|s| piece_of(s, interval)).collect();
    Ok((segments, pieces))
}

/// Whether the log is to be compacted, and how much; see [`assess`].
pub async fn todo(
    env: &Env,
    log: &RefCell<Log>,
    (rules, bound): (&Rules, Offset),
    now_ms: i64,
) -> Result<Option<Todo>, LogError> {
    match look(env, log, rules).await {
        Ok((_, pieces)) => {
            let cleaned = log.borrow().cleaned();
            Ok(assess(&pieces, (cleaned, bound), rules, now_ms))
        }
        Err(Stop::Overtaken | Stop::Refused(_)) => Ok(None),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Compacts the log as far as `todo` says, in as many passes as that takes. Readers and appenders
/// go on meanwhile. One compaction of a log at a time.
///
/// # Errors
/// The disk refused, or what is on it is damaged: the log must not be used any more.
pub async fn run(
    env: &Env,
    log: &RefCell<Log>,
    order: &Order<'_>,
    todo: Todo,
) -> Result<Done, LogError> {
    let mut run = Run {
        env,
        log,
        order,
        done: Done::default(),
    };
    let mut todo = todo;
    while todo.first_dirty < todo.end {
        run.done.passes += 1;
        match run.pass(todo).await {
            Ok(end) => todo.first_dirty = end,
            Err(Stop::Overtaken) => {
                run.done.overtaken = true;
                break;
            }
            Err(Stop::Refused(error)) => {
                run.done.refused = Some(error.to_string());
                break;
            }
            Err(Stop::Failed(error)) => return Err(error),
        }
    }
    Ok(run.done)
}

struct Run<'a> {
    env: &'a Env,
    log: &'a RefCell<Log>,
    order: &'a Order<'a>,
    done: Done,
}

impl Run<'_> {
    /// One pass; gives the offset up to which the log is compacted after it.
    async fn pass(&mut self, todo: Todo) -> Result<Offset, Stop> {
        let (segments, pieces) = look(self.env, self.log, &self.order.rules).await?;
        let judge = self.learn(&segments, todo).await?;
        let count = pieces.iter().take_while(|p| p.base < judge.end).count();
        let (segments, pieces) = (&segments[..count], &pieces[..count]);
        let before = self.log.borrow().sealed.cleaned;
        let touched = pieces.last().map_or(0, |p| p.next).max(before.touched);
        // A start must know that it was committed: it would let it be cut.
        let known = write_back::store_high_to(self.env, self.log, touched).await;
        known.map_err(Stop::Refused)?;
        let to = |done| CleanedTo { done, touched };
        self.store(to(before.done)).await?;
        for range in group(pieces, &self.order.rules) {
            let old = &segments[range];
            let cleaned = self.clean(old, &judge).await;
            let put_off = !matches!(cleaned, Ok(()) | Err(Stop::Failed(_)));
            if put_off && !self.log.borrow().sealed.retired {
                let path = cleaned_path(self.log.borrow().dir(), old[0].base);
                // What stays is removed by the next start.
                let _ = swap::remove(self.env, &path).await;
            }
            cleaned?;
        }
        self.store(to(judge.end)).await?;
        Ok(judge.end)
    }

    async fn store(&self, to: CleanedTo) -> Result<(), Stop> {
        let stored = swap::store_cleaned(self.env, self.log, to).await;
        stored.map_err(Stop::Refused)
    }

    /// Notes the keys of what is dirty, as far as they fit.
    async fn learn(&mut self, segments: &[Rc<Segment>], todo: Todo) -> Result<Judge, Stop> {
        let is_dirty = |s: &&Rc<Segment>| s.next() > todo.first_dirty && s.base < todo.end;
        let dirty: Vec<_> = segments.iter().filter(is_dirty).collect();
        let records = dirty.iter().map(|s| (s.next() - s.base) as u64).sum();
        let secret = [self.env.random_u64(), self.env.random_u64()];
        let mut map = OffsetMap::new(self.order.map_bytes, records, secret);
        let mut end = todo.end;
        'all: for segment in dirty {
            let mut reader = Reader::open(self, segment).await?;
            while let Some((header, bytes)) = reader.next(self).await? {
                let is_valid = standing(&header, &self.order.aborted) == Standing::Valid;
                if header.next_offset() <= todo.first_dirty || !is_valid {
                    continue;
                }
                let mut learn = Learn::new(&mut map, &header, todo.first_dirty);
                let walked = self.walk(&bytes, &header, (true, &mut learn)).await;
                let full_at = learn.full_at;
                walked.map_err(|e| reader.corrupt(&e.text))?;
                if let Some(at) = full_at {
                    end = at;
                    break 'all;
                }
            }
        }
        Ok(Judge {
            map,
            end,
            now_ms: self.order.now_ms,
            delete_retention_ms: self.order.rules.delete_retention_ms,
            producers: self.order.producers.clone(),
        })
    }

    async fn walk<S: Sink>(
        &self,
        batch: &[u8],
        header: &BatchHeader,
        (keys, sink): (bool, &mut S),
    ) -> Result<(), BatchError> {
        let mut feed = Feed::new(batch, header)?;
        let mut walk = Walk::new(header.count, keys);
        loop {
            let window = feed.next_piece()?;
            if window.is_empty() {
                return walk.finish();
            }
            walk.push(window, sink)?;
            self.env.yield_if_needed().await;
        }
    }

    /// Makes one segment of `old`, and puts it in their place unless it is the same again.
    async fn clean(&mut self, old: &[Rc<Segment>], judge: &Judge) -> Result<(), Stop> {
        let (base, last_next) = (old[0].base, old[old.len() - 1].next());
        self.make_room(old).await?;
        let mut out = Writer::create(self, base).await?;
        let mut changed = old.len() > 1;
        let mut next = base;
        for segment in old {
            let mut reader = Reader::open(self, segment).await?;
            while let Some((header, bytes)) = reader.next(self).await? {
                if header.base_offset < next {
                    return Err(reader.corrupt("offsets go back").into());
                }
                next = header.next_offset();
                let last = next == last_next;
                let made = self.batch(judge, (&header, &bytes), last).await;
                match made.map_err(|e| reader.corrupt(&e.text))? {
                    Left::Same => out.add(self, &header, &bytes).await?,
                    Left::Other(new) => {
                        changed = true;
                        if let Some(new) = new {
                            let header = BatchHeader::parse(&new);
                            let header = header.map_err(|e| reader.corrupt(&e.text))?;
                            out.add(self, &header, &new).await?;
                        }
                    }
                }
                self.env.yield_if_needed().await;
            }
        }
        if next != last_next {
            let text = format!(
                "{}: it ends at offset {next}, expected {last_next}",
                old[old.len() - 1].path("log").display()
            );
            return Err(LogError::Corrupt(text).into());
        }
        let path = out.path.clone();
        if !changed {
            drop(out);
            return Ok(swap::remove(self.env, &path).await?);
        }
        let made = out.finish(self).await?;
        self.done.written += made.size;
        self.done.replaced += old.len();
        match swap::replace(self.env, self.log, old, made).await? {
            true => Ok(()),
            false => Err(Stop::Overtaken),
        }
    }

    /// Whether there is room for a copy, so that others do not run short of it.
    async fn make_room(&self, old: &[Rc<Segment>]) -> Result<(), Stop> {
        if self.log.borrow().sealed.retired {
            return Err(Stop::Overtaken);
        }
        let dir = self.log.borrow().dir.clone();
        let space = self.env.disk_space(&dir).await;
        let space = space.map_err(refused(format!("look at the space of {}", dir.display())))?;
        let wanted = old.iter().map(|s| s.size()).sum::<u64>() + space.total / SPARED;
        if space.free < wanted {
            let text = format!("{} bytes are free, {wanted} are needed", space.free);
            let error = std::io::Error::new(std::io::ErrorKind::StorageFull, text);
            return Err(refused(format!("copy segments in {}", dir.display()))(
                error,
            ));
        }
        Ok(())
    }

    /// What is left of a batch.
    async fn batch(
        &self,
        judge: &Judge,
        (header, bytes): (&BatchHeader, &Bytes),
        last: bool,
    ) -> Result<Left, BatchError> {
        let fate = match standing(header, &self.order.aborted) {
            Standing::Marker => Fate::Keep,
            Standing::Aborted => judge.without_records(header, last),
            Standing::Valid => {
                let mut survey = Survey::new(judge, header);
                self.walk(bytes, header, (true, &mut survey)).await?;
                survey.fate(last)
            }
        };
        match fate {
            Fate::Keep => Ok(Left::Same),
            Fate::Drop => Ok(Left::Other(None)),
            Fate::Empty => Ok(Left::Other(Some(emptied(bytes)))),
            Fate::Rewrite(plan) => {
                let mut rewrite = Rewrite::new(&plan, bytes, header)?;
                self.walk(bytes, header, (false, &mut rewrite)).await?;
                Ok(Left::Other(Some(rewrite.finish()?)))
            }
        }
    }
}

/// What is left of a batch.
enum Left {
    Same,
    Other(Option<Vec<u8>>),
}

/// Reads the batches of a segment, checking each.
struct Reader {
    file: File,
    path: PathBuf,
    size: u64,
    buf: Bytes,
    buf_at: u64,
    position: u64,
}

impl Reader {
    async fn open(run: &Run<'_>, segment: &Rc<Segment>) -> Result<Reader, Stop> {
        let path = segment.path("log");
        let options = OpenOptions::new().direct();
        let opened = run.env.open(&path, &options).await;
        // It may have been deleted; then whatever there is now of this name is another one.
        if !run.log.borrow().has_segment(segment) {
            return Err(Stop::Overtaken);
        }
        let file = opened.map_err(LogError::io(format!("open {}", path.display())))?;
        Ok(Reader {
            file,
            path,
            size: segment.size(),
            buf: Bytes::new(),
            buf_at: 0,
            position: 0,
        })
    }

    async fn window(&mut self, run: &mut Run<'_>, len: usize) -> Result<Bytes, LogError> {
        let inside = (self.position - self.buf_at) as usize;
        if self.buf.len() < inside + len {
            let wanted = (len.max(PIECE) as u64).min(self.size - self.position) as usize;
            run.order.pace.take(run.env, wanted).await;
            self.buf = self
                .file
                .read_at(self.position, wanted)
                .await
                .map_err(LogError::io(format!("read {}", self.path.display())))?;
            self.buf_at = self.position;
            run.done.read += self.buf.len() as u64;
            if self.buf.len() < len {
                return Err(self.corrupt("the file ends in the middle of a batch"));
            }
            return Ok(self.buf.slice(..len));
        }
        Ok(self.buf.slice(inside..inside + len))
    }

    /// The next batch; `None` at the end.
    async fn next(&mut self, run: &mut Run<'_>) -> Result<Option<(BatchHeader, Bytes)>, LogError> {
        if self.position == self.size {
            return Ok(None);
        }
        let head = self.window(run, HEADER).await?;
        let header = BatchHeader::parse(&head).map_err(|e| self.corrupt(&e.text))?;
        if header.size as u64 > self.size - self.position || header.last_offset_delta < 0 {
            return Err(self.corrupt("a batch that does not fit the segment"));
        }
        let bytes = self.window(run, header.size).await?;
        if !crc_matches(&bytes) {
            return Err(self.corrupt("a batch whose CRC does not match"));
        }
        self.position += header.size as u64;
        Ok(Some((header, bytes)))
    }

    fn corrupt(&self, text: &str) -> LogError {
        LogError::Corrupt(format!(
            "{} about byte {}: {text}",
            self.path.display(),
            self.position
        ))
    }
}

fn refused(what: String) -> impl FnOnce(std::io::Error) -> Stop {
    move |error| Stop::Refused(LogError::Io { what, error })
}

/// Writes a compacted segment.
struct Writer {
    file: File,
    path: PathBuf,
    base: Offset,
    buf: AlignedBuf,
    used: usize,
    written: u64,
    index: Index,
}

impl Writer {
    async fn create(run: &Run<'_>, base: Offset) -> Result<Writer, Stop> {
        let (dir, interval) = {
            let log = run.log.borrow();
            (log.dir.clone(), log.config.index_interval)
        };
        let path = cleaned_path(&dir, base);
        let options = OpenOptions::new().create().direct();
        let opened = run.env.open(&path, &options).await;
        Ok(Writer {
            file: opened.map_err(refused(format!("create {}", path.display())))?,
            path,
            base,
            buf: run.env.alloc(PIECE),
            used: 0,
            written: 0,
            index: Index::new(interval),
        })
    }

    async fn add(
        &mut self,
        run: &Run<'_>,
        header: &BatchHeader,
        mut bytes: &[u8],
    ) -> Result<(), Stop> {
        self.index
            .note(self.base, self.written + self.used as u64, header);
        while !bytes.is_empty() {
            let n = bytes.len().min(PIECE - self.used);
            self.buf[self.used..self.used + n].copy_from_slice(&bytes[..n]);
            self.used += n;
            bytes = &bytes[n..];
            if self.used == PIECE {
                let full = std::mem::replace(&mut self.buf, run.env.alloc(PIECE));
                self.write(run, full).await?;
                self.written += PIECE as u64;
                self.used = 0;
            }
        }
        Ok(())
    }

    async fn write(&self, run: &Run<'_>, buf: AlignedBuf) -> Result<(), Stop> {
        run.order.pace.take(run.env, buf.len()).await;
        let what = format!("write {}", self.path.display());
        let written = self.file.write_at(buf, self.written).await;
        written.map(drop).map_err(refused(what))
    }

    /// Ends the file and makes it durable.
    async fn finish(mut self, run: &Run<'_>) -> Result<Made, Stop> {
        let path = self.path.clone();
        let fail = |what: &str| refused(format!("{what} {}", path.display()));
        let size = self.written + self.used as u64;
        if self.used > 0 {
            let len = self.used.next_multiple_of(BLOCK);
            self.buf[self.used..len].fill(0);
            let mut all = std::mem::replace(&mut self.buf, run.env.alloc(BLOCK));
            let last = all.split_front(len).unwrap_or(all);
            self.write(run, last).await?;
        }
        self.file.truncate(size).await.map_err(fail("cut"))?;
        self.file.sync().await.map_err(fail("sync"))?;
        self.index.seal();
        // Readers get a file that goes through the page cache, like any other.
        let file = run.env.open(&self.path, &OpenOptions::new()).await;
        Ok(Made {
            file: file.map_err(fail("open"))?,
            size,
            index: self.index,
        })
    }
}
