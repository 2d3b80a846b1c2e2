//! Opening a log: what the checkpoint vouches for is taken as it is, what comes after is scanned
//! batch by batch, CRC by CRC, and the first bad batch ends the log.
//!
//! What is cut is kept aside in a `.cut` file and reported. It is also cut off the segment: left in
//! place, the bytes of an unfinished write could one day follow a new batch and pass for records.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use streamd_io::{BLOCK, Env, File, OpenOptions};
use streamd_model::Offset;

use crate::LogError;
use crate::batch::{BatchHeader, HEADER, crc_matches};
use crate::checkpoint::{self, Checkpoint};
use crate::compact::swap::{self, CleanedTo};
use crate::cut;
use crate::index::Index;
use crate::log::{Log, LogConfig};
use crate::segment::{Segment, file_name};

/// The scan reads the file in pieces of so many bytes.
const CHUNK: usize = 1 << 20;
/// No batch is larger than this, so a length beyond it is damage.
const BATCH_MAX: usize = 256 << 20;
/// At most so many cut bytes are kept aside.
const KEPT_MAX: u64 = 64 << 20;

/// What was cut off the end of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file that was cut.
    pub file: PathBuf,
    /// Where, bytes.
    pub position: u64,
    /// Bytes from there to the last one that was not zero.
    pub bytes: u64,
    /// Where they were kept.
    pub kept: PathBuf,
    /// What was wrong with the first batch there.
    pub why: String,
}

/// A log that was opened.
pub struct Recovered {
    /// The log, ready for appends and reads.
    pub log: Log,
    /// The owner's state as the checkpoint has it; the batches that `visit` saw come after it.
    pub state: Vec<u8>,
    /// Bytes that were scanned.
    pub scanned: u64,
    /// What was cut off.
    pub cuts: Vec<Cut>,
    /// Things that a person should know, as sentences.
    pub notes: Vec<String>,
}

/// Opens the log in `dir`. Each batch after the checkpoint is shown to `visit`, in order: its
/// header and all its bytes.
pub async fn open(
    env: &Env,
    dir: &Path,
    config: LogConfig,
    now_ms: i64,
    visit: &mut dyn FnMut(&BatchHeader, &[u8]),
) -> Result<Recovered, LogError> {
    let mut notes = Vec::new();
    let Some(listed) = list_segments(env, dir).await? else {
        let log = Log::new(env, dir, config, 0);
        return Ok(Recovered {
            log,
            state: Vec::new(),
            scanned: 0,
            cuts: Vec::new(),
            notes,
        });
    };
    let files = listed.files;
    let mut point = read_checkpoint(env, dir, &mut notes).await?;
    if let Some(c) = &point
        && !is_there(c, &files)
    {
        notes.push(format!(
            "the checkpoint in {} names segment {} at byte {}, which is not there: \
             scanning the whole log",
            dir.display(),
            c.segment,
            c.position
        ));
        point = None;
    }
    let mut log = Log::new(env, dir, config, 0);
    // The directory may have been made, and not its metadata.
    log.has_dir = listed.has_metadata || log.config.metadata.is_empty();
    log.roll.made_ms = now_ms;
    log.queue.generation = listed.generation;
    let mut checkpoint =
        point.unwrap_or_else(|| Checkpoint::empty(files.first().map_or(0, |f| f.0)));
    log.start = checkpoint.log_start.max(files.first().map_or(0, |f| f.0));
    let scan = Scan {
        env,
        notes,
        cuts: Vec::new(),
        scanned: 0,
    };
    let state = std::mem::take(&mut checkpoint.state);
    log.epochs = checkpoint.epochs.clone();
    log.sealed.cleaned = listed.cleaned.unwrap_or(CleanedTo {
        done: log.start,
        touched: log.start,
    });
    let scan = scan.run(&mut log, &checkpoint, &files, visit).await?;
    log.start = log.start.min(log.end);
    log.points.high = checkpoint.high.map(|high| high.clamp(log.start, log.end));
    log.points.since = scan.scanned;
    checkpoint.state = state.clone();
    log.points.last = checkpoint;
    Ok(Recovered {
        log,
        state,
        scanned: scan.scanned,
        cuts: scan.cuts,
        notes: scan.notes,
    })
}

/// Whether the files have what the checkpoint names: perhaps the start of a segment whose file was
/// not made yet.
fn is_there(c: &Checkpoint, files: &[(Offset, u64)]) -> bool {
    match files.iter().find(|f| f.0 == c.segment) {
        Some(file) => file.1 >= c.position,
        None => c.position == 0 && files.last().is_none_or(|f| f.0 < c.segment),
    }
}

/// Base offsets and sizes of segments, rising.
type Files = Vec<(Offset, u64)>;

/// What is in a partition's directory.
struct Listed {
    files: Files,
    has_metadata: bool,
    /// Up to where the log was compacted.
    cleaned: Option<CleanedTo>,
    /// How often it was cut.
    generation: u32,
}

/// What is in the directory, after what was under way there; `None` when there is none.
async fn list_segments(env: &Env, dir: &Path) -> Result<Option<Listed>, LogError> {
    let mut entries = match env.list_dir(dir).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        r => r.map_err(LogError::io(format!("list {}", dir.display())))?,
    };
    let again = async || {
        let listed = env.list_dir(dir).await;
        listed.map_err(LogError::io(format!("list {}", dir.display())))
    };
    let (generation, was_cut) = cut::finish(env, dir, &entries).await?;
    if was_cut {
        entries = again().await?;
    }
    if swap::finish_all(env, dir, &entries).await? {
        entries = again().await?;
    }
    let mut files: Files = entries
        .iter()
        .filter_map(|e| Some((e.name.strip_suffix(".log")?.parse().ok()?, e.len)))
        .collect();
    files.sort_unstable();
    let has = |name: &str| entries.iter().any(|e| e.name == name);
    let cleaned = match has(swap::CLEANED) {
        true => swap::read_cleaned(env, dir).await?,
        false => None,
    };
    Ok(Some(Listed {
        files,
        has_metadata: has("partition.metadata"),
        cleaned,
        generation,
    }))
}

async fn read_checkpoint(
    env: &Env,
    dir: &Path,
    notes: &mut Vec<String>,
) -> Result<Option<Checkpoint>, LogError> {
    let path = dir.join(checkpoint::FILE);
    match env.read_file(&path, checkpoint::BYTES_MAX).await {
        Ok(bytes) => match Checkpoint::decode(&bytes) {
            Ok(c) => Ok(Some(c)),
            Err(why) => {
                notes.push(format!("{}: {why}: scanning the whole log", path.display()));
                Ok(None)
            }
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LogError::Io {
            what: format!("read {}", path.display()),
            error,
        }),
    }
}

struct Scan<'a> {
    env: &'a Env,
    notes: Vec<String>,
    cuts: Vec<Cut>,
    scanned: u64,
}

impl Scan<'_> {
    async fn run(
        mut self,
        log: &mut Log,
        from: &Checkpoint,
        files: &[(Offset, u64)],
        visit: &mut dyn FnMut(&BatchHeader, &[u8]),
    ) -> Result<Self, LogError> {
        let mut ended = false;
        log.set_end(from.next);
        for (at, &(base, size)) in files.iter().enumerate() {
            let following = files.get(at + 1).map(|f| f.0);
            if base < from.segment {
                let next = following.unwrap_or(from.next);
                log.segments
                    .push_back(Segment::new(&log.dir, base, size, next));
                continue;
            }
            if ended || base > log.end {
                // After a hole nothing can follow: keep it aside for a person to look at.
                self.set_aside(&log.dir, base).await?;
                ended = true;
                continue;
            }
            let start = if base == from.segment {
                (from.position, from.next)
            } else {
                (0, base)
            };
            let segment = Segment::new(&log.dir, base, start.0, start.1);
            // What is compacted has gaps, but ends where the next segment begins.
            let gaps = base < log.sealed.cleaned.touched && following.is_some();
            let good = self
                .segment(log, &segment, (start, from.max_timestamp, gaps), visit)
                .await?;
            ended = good < size && !segment.is_padded() && self.cut(&segment, good, size).await?;
            log.segments.push_back(segment.clone());
            if ended || following.is_none() {
                self.take_over(log, &segment).await?;
            } else {
                segment.seal(self.env).await?;
                segment.release();
            }
        }
        if log.segments.back().is_none_or(|s| s.base < from.segment) && log.end > 0 {
            let segment = Segment::new(&log.dir, log.end, 0, log.end);
            segment.set_index(Index::new(log.config.index_interval));
            log.segments.push_back(segment);
        }
        Ok(self)
    }

    /// Scans `segment` from `start`; gives the position after the last good batch.
    async fn segment(
        &mut self,
        log: &mut Log,
        segment: &Rc<Segment>,
        (start, max_timestamp, gaps): ((u64, Offset), i64, bool),
        visit: &mut dyn FnMut(&BatchHeader, &[u8]),
    ) -> Result<u64, LogError> {
        let interval = log.config.index_interval;
        let (mut position, mut next) = start;
        let mut skip_visits = 0;
        let index = match position {
            0 => Some(Index::new(interval)),
            _ => segment.load_index(self.env, interval, position, next).await,
        };
        let mut index = match index {
            Some(mut index) => {
                index.max_timestamp = index.max_timestamp.max(max_timestamp);
                index
            }
            None => {
                // Without its index the segment is read from the front; what the checkpoint's
                // state has already must not be shown again.
                skip_visits = next;
                (position, next) = (0, segment.base);
                Index::new(interval)
            }
        };
        let mut reader = BatchReader::open(self.env, segment, position).await?;
        reader.gaps = gaps;
        while let Some((header, at, bytes)) = reader.next_batch(next).await? {
            index.note(segment.base, at, &header);
            next = header.next_offset();
            if log.epochs.last().is_none_or(|&(e, _)| e < header.epoch) {
                log.epochs.push((header.epoch, header.base_offset));
            }
            if header.base_offset >= skip_visits {
                visit(&header, &bytes);
            }
            self.env.yield_if_needed().await;
        }
        self.scanned += reader.position - position;
        segment.advance(reader.position.max(start.0), next.max(start.1));
        segment.all_written(reader.zeros_follow().await?);
        if reader.position < start.0 {
            return Err(LogError::Corrupt(format!(
                "{}: byte {} is bad, though everything before byte {} was checked once",
                segment.path("log").display(),
                reader.position,
                start.0
            )));
        }
        segment.set_index(index);
        log.set_end(next);
        Ok(reader.position)
    }

    /// Makes the last good segment the one that takes appends. Its file is closed again: it is
    /// opened when there is something to write.
    async fn take_over(&mut self, log: &mut Log, segment: &Rc<Segment>) -> Result<(), LogError> {
        log.position = segment.size();
        let overlap = log.position % BLOCK as u64;
        if self.scanned == 0 && overlap == 0 {
            return Ok(());
        }
        let file = segment.open_writer(self.env).await?;
        let fail = |what: &str| LogError::io(format!("{what} {}", segment.path("log").display()));
        if self.scanned > 0 {
            // It may be in the device's cache only: readers may see it from now on.
            file.sync().await.map_err(fail("sync"))?;
        }
        if overlap > 0 {
            let at = log.position - overlap;
            let bytes = file
                .read_at(at, overlap as usize)
                .await
                .map_err(fail("read"))?;
            if bytes.len() as u64 != overlap {
                return Err(LogError::Corrupt(format!(
                    "{}: {} bytes at {at} where {overlap} were expected",
                    segment.path("log").display(),
                    bytes.len()
                )));
            }
            // A copy: what was read is part of a larger buffer.
            log.back.last_block = Bytes::copy_from_slice(&bytes);
        }
        Ok(())
    }

    /// Cuts the file at `good`. True when there was more than zeros behind it.
    async fn cut(&mut self, segment: &Rc<Segment>, good: u64, size: u64) -> Result<bool, LogError> {
        let path = segment.path("log");
        let fail = |what: &str| LogError::io(format!("{what} {}", path.display()));
        let options = OpenOptions {
            read: true,
            write: true,
            ..OpenOptions::default()
        };
        let file = self.env.open(&path, &options).await.map_err(fail("open"))?;
        let mut kept = Vec::new();
        let mut at = good;
        while at < size.min(good + KEPT_MAX) {
            let bytes = file.read_at(at, CHUNK).await.map_err(fail("read"))?;
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
            if let Some(last) = bytes.iter().rposition(|&b| b != 0) {
                kept.resize((at - good) as usize - bytes.len(), 0);
                kept.extend_from_slice(&bytes[..=last]);
            }
            self.env.yield_if_needed().await;
        }
        let dirty = !kept.is_empty();
        if dirty {
            let bytes = kept.len() as u64;
            let why = match BatchHeader::parse(&kept) {
                Ok(h) if h.size > kept.len() => format!("a batch of {} bytes, cut short", h.size),
                Ok(h) if crc_matches(&kept[..h.size]) => {
                    format!(
                        "a batch with offset {}, which is not the next one",
                        h.base_offset
                    )
                }
                Ok(_) => "a batch whose CRC does not match".to_owned(),
                Err(e) => e.text,
            };
            let aside = path.with_extension(format!("cut-{good}"));
            self.env
                .write_file_atomic(&aside, kept)
                .await
                .map_err(fail("keep the end of"))?;
            let (file, kept) = (path.clone(), aside);
            self.cuts.push(Cut {
                file,
                position: good,
                bytes,
                kept,
                why,
            });
        }
        file.truncate(good).await.map_err(fail("cut"))?;
        file.sync().await.map_err(fail("sync"))?;
        Ok(dirty)
    }

    async fn set_aside(&mut self, dir: &Path, base: Offset) -> Result<(), LogError> {
        let from = dir.join(file_name(base, "log"));
        let to = dir.join(file_name(base, "log.unreachable"));
        self.env
            .rename(&from, &to)
            .await
            .map_err(LogError::io(format!("rename {}", from.display())))?;
        self.notes.push(format!(
            "{}: the log ends before this segment begins; kept as {}",
            from.display(),
            to.display()
        ));
        Ok(())
    }
}

/// Reads a segment batch by batch, checking each.
struct BatchReader {
    file: File,
    path: PathBuf,
    buf: Bytes,
    buf_at: u64,
    position: u64,
    /// Whether offsets may be missing, as they are where the log was compacted.
    gaps: bool,
}

impl BatchReader {
    async fn open(env: &Env, segment: &Segment, position: u64) -> Result<BatchReader, LogError> {
        let path = segment.path("log");
        let options = OpenOptions {
            read: true,
            direct: true,
            ..OpenOptions::default()
        };
        let file = env
            .open(&path, &options)
            .await
            .map_err(LogError::io(format!("open {}", path.display())))?;
        Ok(BatchReader {
            file,
            path,
            buf: Bytes::new(),
            buf_at: position,
            position,
            gaps: false,
        })
    }

    /// The bytes at the current position: at least `len` unless the file ends first.
    async fn window(&mut self, len: usize) -> Result<Bytes, LogError> {
        let inside = (self.position - self.buf_at) as usize;
        if self.buf.len() < inside + len {
            self.buf = self
                .file
                .read_at(self.position, len.max(CHUNK))
                .await
                .map_err(LogError::io(format!("read {}", self.path.display())))?;
            self.buf_at = self.position;
            return Ok(self.buf.clone());
        }
        Ok(self.buf.slice(inside..))
    }

    /// Whether what follows is only the zeros that fill the last block up. They stay: nothing can
    /// take them for records.
    async fn zeros_follow(&mut self) -> Result<bool, LogError> {
        let rest = (BLOCK - self.position as usize % BLOCK) % BLOCK;
        let window = self.window(BLOCK).await?;
        Ok(!window.is_empty() && window.len() == rest && window.iter().all(|&b| b == 0))
    }

    /// The next batch if it is good and begins at offset `expected`: header, position, bytes.
    async fn next_batch(
        &mut self,
        expected: Offset,
    ) -> Result<Option<(BatchHeader, u64, Bytes)>, LogError> {
        let Ok(header) = BatchHeader::parse(&self.window(HEADER).await?) else {
            return Ok(None);
        };
        let follows = match self.gaps {
            true => header.base_offset >= expected,
            false => header.base_offset == expected,
        };
        if !follows || header.size > BATCH_MAX || header.last_offset_delta < 0 {
            return Ok(None);
        }
        let window = self.window(header.size).await?;
        if window.len() < header.size || !crc_matches(&window[..header.size]) {
            return Ok(None);
        }
        let at = self.position;
        self.position += header.size as u64;
        Ok(Some((header, at, window.slice(..header.size))))
    }
}

/// Makes the index of a sealed segment anew from its batches.
pub(crate) async fn rebuild_index(
    env: &Env,
    segment: &Segment,
    interval: u64,
) -> Result<Index, LogError> {
    let mut index = Index::new(interval);
    let mut reader = BatchReader::open(env, segment, 0).await?;
    // A sealed segment may have been compacted.
    reader.gaps = true;
    let mut next = segment.base;
    while reader.position < segment.size() {
        let Some((header, at, _)) = reader.next_batch(next).await? else {
            crate::scrub::check_segment(env, segment, u64::MAX).await?;
            return Err(LogError::Corrupt(format!(
                "{}: no good batch with offset {next} at byte {}",
                segment.path("log").display(),
                reader.position
            )));
        };
        index.note(segment.base, at, &header);
        next = header.next_offset();
        env.yield_if_needed().await;
    }
    Ok(index)
}
