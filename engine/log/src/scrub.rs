//! Damage: looked for in closed segments, told apart from what is good, and remembered.
//!
//! A partition with damage is offline until a person has looked: its directory has a file that says
//! what is wrong and how to mend it, so a start does not serve it either.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::time::Duration;

use streamd_io::{Env, File, OpenOptions};
use streamd_model::Offset;

use crate::batch::{BatchHeader, HEADER, crc_of};
use crate::log::Log;
use crate::segment::Segment;
use crate::{LogError, retain};

/// In a partition's directory, while it is damaged: a sentence about it.
pub const MARK: &str = "damaged";
/// The largest such file that is read, bytes.
const MARK_MAX: usize = 64 << 10;
/// A segment is read in pieces of so many bytes.
const PIECE: usize = 256 << 10;
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
