//! Damage: looked for in closed segments, told apart from what is good, and remembered.
//!
//! A partition with damage is offline until a person has looked: its directory has a file that says
//! what is wrong and how to mend it, so a start does not serve it either. An index is not trusted:
//! before a file is read from where an entry points, a look at the batch there says whether it is
//! the right one; if not, the index is made anew from the log.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use streamd_io::{Env, File, OpenOptions, Part};
use streamd_model::Offset;

use crate::batch::{BatchHeader, HEADER, crc_of};
use crate::log::Log;
use crate::read_plan::ReadPlan;
use crate::segment::Segment;
use crate::{LogError, retain};

/// In a partition's directory, while it is damaged: a sentence about it.
pub const MARK: &str = "damaged";
/// The largest such file that is read, bytes.
const MARK_MAX: usize = 64 << 10;
/// A segment is read in pieces of so many bytes.
const PIECE: usize = 256 << 10;
/// So much is read at once to find the batch that a reader wants behind an entry of an index.
const LOOK: usize = 4 << 10;
/// No batch is larger than this, so a length beyond it is damage.
const BATCH_MAX: usize = 256 << 20;

/// What a scrub did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Segments that were read to their end.
    pub segments: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Reads the closed segments of a log, CRC by CRC, at most `rate` bytes a second. Damage is the
/// error [`LogError::Corrupt`]: where, what was read, what was expected, how to mend it.
pub async fn scrub(env: &Env, log: &RefCell<Log>, rate: u64) -> Result<Scrubbed, LogError> {
    let mut done = Scrubbed::default();
    let mut from = Offset::MIN;
    loop {
        let next = {
            let log = log.borrow();
            retain::closed(&log).find(|s| s.base > from).cloned()
        };
        let Some(segment) = next else {
            return Ok(done);
        };
        from = segment.base;
        let checked = check_segment(env, &segment, rate).await;
        // It may have been deleted or replaced meanwhile; then another has its name.
        if !log.borrow().has_segment(&segment) {
            continue;
        }
        let Some(bytes) = checked? else {
            continue;
        };
        done.segments += 1;
        done.bytes += bytes;
    }
}

/// Reads a closed segment; the bytes that it has, or `None` when it is gone.
pub(crate) async fn check_segment(
    env: &Env,
    segment: &Segment,
    rate: u64,
) -> Result<Option<u64>, LogError> {
    let path = segment.path("log");
    let options = OpenOptions::new().direct();
    let file = match env.open(&path, &options).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        r => r.map_err(LogError::io(format!("open {}", path.display())))?,
    };
    let mut walk = Walk {
        path: &path,
        file,
        buf: Vec::new(),
        taken: 0,
        at: 0,
        next: segment.base,
        rate,
    };
    while walk.batch(env).await? {}
    if walk.next > segment.next() {
        let what = format!("offset {} after its end, {}", walk.next - 1, segment.next());
        return Err(damage(&path, walk.at, &what));
    }
    Ok(Some(walk.at))
}

struct Walk<'a> {
    path: &'a Path,
    file: File,
    /// Bytes of the file; those before `taken` were looked at, `at` is where the others begin.
    buf: Vec<u8>,
    taken: usize,
    at: u64,
    /// No batch begins before it.
    next: Offset,
    rate: u64,
}

impl Walk<'_> {
    /// Sees to it that the buffer has `len` bytes to look at, unless the file ends.
    async fn fill(&mut self, env: &Env, len: usize) -> Result<(), LogError> {
        if self.buf.len() - self.taken < len {
            self.buf.drain(..self.taken);
            self.taken = 0;
        }
        while self.buf.len() - self.taken < len {
            let at = self.at + self.buf.len() as u64;
            let fail = LogError::io(format!("read {}", self.path.display()));
            let piece = self.file.read_at(at, PIECE).await.map_err(fail)?;
            if piece.is_empty() {
                break;
            }
            self.buf.extend_from_slice(&piece);
            let pause = piece.len() as u64 * 1_000_000 / self.rate.max(1);
            env.sleep(Duration::from_micros(pause)).await;
        }
        Ok(())
    }

    /// Checks a batch; false at the end of the file.
    async fn batch(&mut self, env: &Env) -> Result<bool, LogError> {
        self.fill(env, HEADER).await?;
        if self.buf.len() == self.taken {
            return Ok(false);
        }
        let bad = |what: &str| Err(damage(self.path, self.at, what));
        let header = match BatchHeader::parse(&self.buf[self.taken..]) {
            Ok(header) if header.size <= BATCH_MAX => header,
            Ok(header) => return bad(&format!("a batch length of {} bytes", header.size)),
            Err(error) => return bad(&error.text),
        };
        if header.base_offset < self.next || header.last_offset_delta < 0 {
            return bad(&format!(
                "a batch with offset {}, where {} or more was expected",
                header.base_offset, self.next
            ));
        }
        self.fill(env, header.size).await?;
        let bad = |what: &str| Err(damage(self.path, self.at, what));
        let here = &self.buf[self.taken..];
        let Some(batch) = here.get(..header.size) else {
            return bad(&format!(
                "a batch of {} bytes, of which {} are there",
                header.size,
                here.len()
            ));
        };
        let (stored, computed) = (header.crc, crc_of(batch));
        if stored != computed {
            return bad(&format!(
                "the batch at offset {} says that its CRC is {stored:#010x}, but that of its bytes \
                 is {computed:#010x}",
                header.base_offset
            ));
        }
        self.next = header.next_offset();
        self.at += header.size as u64;
        self.taken += header.size;
        env.yield_if_needed().await;
        Ok(true)
    }
}

fn damage(path: &Path, at: u64, what: &str) -> LogError {
    let dir = path.parent().unwrap_or(path).display();
    LogError::Corrupt(format!(
        "{} at byte {at}: {what}. Stop the broker, keep a copy of {dir}, and see what `streamctl \
         log repair {dir}` would do",
        path.display()
    ))
}

/// An error if the disk could not read, for an earlier reader, the file that `plan` would have
/// sent: by then half an answer was on its way, so that reader only saw its connection end.
pub fn can_be_read(log: &RefCell<Log>, offset: Offset, plan: &ReadPlan) -> Result<(), LogError> {
    let failed = |part: &Part| matches!(part, Part::File { file, .. } if file.has_failed());
    if !plan.parts.iter().any(failed) {
        return Ok(());
    }
    let log = log.borrow();
    let segment = log.segment_of(offset);
    let path = segment.map_or(log.dir().to_owned(), |s| s.path("log"));
    let error = io::Error::other("the disk failed while it was sent to a client");
    Err(LogError::io(format!("read {}", path.display()))(error))
}

/// Has what `plan` reads from a file begin with the very batch that holds `offset` (in a compacted
/// segment, the first one after it), rather than where the index pointed: at one before it.
///
/// Clients skip records that they did not ask for, but a reader of committed records that meets an
/// aborted batch goes on from that batch's end, so from before `offset`: it would be given again
/// what it has had, and aborted records with it. So Kafka never sends what ends before `offset`.
///
/// False if the index was wrong: it is forgotten, and made anew from the log by the next
/// [`Segment::prepare`].
pub async fn begin_at(
    env: &Env,
    log: &RefCell<Log>,
    offset: Offset,
    plan: &mut ReadPlan,
) -> Result<bool, LogError> {
    let Some(&Part::File { pos, len, .. }) = plan.parts.first() else {
        return Ok(true);
    };
    let (segment, cleaned) = {
        let log = log.borrow();
        (log.segment_of(offset).cloned(), log.sealed.cleaned.touched)
    };
    let Some((segment, file)) = segment.and_then(|s| s.reader().map(|f| (s, f))) else {
        return Ok(true);
    };
    if segment.size() < pos {
        return Ok(true);
    }
    let fail = |error| LogError::io(format!("read {}", segment.path("log").display()))(error);
    let end = pos + len as u64;
    let (mut at, mut bytes, mut bytes_at) = (pos, Bytes::new(), pos);
    while at < end {
        if at + HEADER as u64 > bytes_at + bytes.len() as u64 {
            // All batches between two entries of an index, unless they are large.
            let look = if at == pos { HEADER } else { LOOK };
            let look = look.min((end - at) as usize);
            (bytes, bytes_at) = (file.read_at(at, look).await.map_err(fail)?, at);
        }
        let rest = bytes.get((at - bytes_at) as usize..).unwrap_or_default();
        let header = BatchHeader::parse(rest);
        // The first batch comes whole; a later entry may be wrong and end it too early.
        // Where the log was compacted, the batch of the offset may be gone.
        let is_right = |h: &&BatchHeader| {
            let holds = h.base_offset <= offset || segment.base < cleaned;
            h.base_offset >= segment.base && holds && h.size as u64 <= end - at
        };
        let Some(header) = header.as_ref().ok().filter(is_right) else {
            eprintln!(
                "warning: {}: an entry for offset {offset} points at byte {pos} of the log, where \
                 no such batch begins; the index is made anew",
                segment.path("index").display()
            );
            segment.forget_index(env).await?;
            return Ok(false);
        };
        if header.next_offset() > offset {
            plan.cut_front((at - pos) as usize);
            return Ok(true);
        }
        at += header.size as u64;
    }
    // What ends the segment was compacted away.
    Ok(true)
}

/// Remembers that the partition in `dir` is damaged.
pub async fn mark(env: &Env, dir: &Path, error: &LogError) -> Result<(), LogError> {
    let path = dir.join(MARK);
    let text = format!("{error}\n");
    env.write_file_atomic(&path, text.into_bytes())
        .await
        .map_err(LogError::io(format!("write {}", path.display())))
}

/// What [`mark`] remembered; an error with it, if it did.
pub async fn check_mark(env: &Env, dir: &Path) -> Result<(), LogError> {
    let path = dir.join(MARK);
    match env.read_file(&path, MARK_MAX).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(LogError::io(format!("read {}", path.display()))(error)),
        Ok(text) => {
            let text = String::from_utf8_lossy(&text);
            let text = text.trim().trim_start_matches("corrupt: ");
            Err(LogError::Corrupt(format!("{text} ({})", path.display())))
        }
    }
}
