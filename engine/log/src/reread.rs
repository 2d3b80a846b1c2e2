//! Showing an owner once more what its log has: its state was lost in memory, the log was not.
//!
//! Nothing is written and nothing is opened anew: the state of the last checkpoint is given, and
//! the batches behind it are read from wherever they are, memory or file. Meanwhile the log ends
//! where it ends: nothing is appended. What begins at the checkpoint stays in its files: no segment
//! is removed or replaced until all is shown.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use streamd_io::Env;
use streamd_model::Offset;

use crate::LogError;
use crate::batch::{BatchHeader, crc_matches};
use crate::cut::{Truncated, landed};
use crate::log::Log;
use crate::lookup::{self, Cursor};
use crate::segment::Segment;

/// Gives the owner's state as the last checkpoint has it, having shown to `visit` all batches
/// behind it, in order, up to the log's end; as [`crate::recover::open`] does, but the log stays as
/// it is. What was appended is awaited first: it must be on its way to the journal (on a full disk
/// this waits until there is room, as the journal does). From the first poll until this returns
/// nothing is appended, and no checkpoint is planned: see [`Log::is_cutting`].
///
/// # Errors
/// The log is being cut, or read already, or was retired; what it appended could not be written;
/// the disk refused, or what is on it is damaged. The log is as it was; it may be tried again.
pub async fn reread(
    env: &Env,
    log: &RefCell<Log>,
    visit: &mut dyn FnMut(&BatchHeader, &[u8]),
) -> Result<Truncated, LogError> {
    let _held = Held::of(log)?;
    let end = log.borrow().end;
    landed(log, Some(end)).await?;
    let turn = log.borrow().sealed.turn.clone();
    let _turn = turn.acquire(1).await;
    let (mut place, segments, state) = {
        let log = log.borrow();
        if log.sealed.retired {
            let gone = io::Error::new(io::ErrorKind::NotFound, "the partition was deleted");
            return Err(fail(&log, gone));
        }
        check_end(&log, end)?;
        let last = &log.points.last;
        let place = Place {
            segment: last.segment,
            position: last.position,
            next: last.next,
            end,
        };
        let behind = log.segments.iter().filter(|s| s.base >= last.segment);
        let segments: Vec<_> = behind.cloned().collect();
        (place, segments, last.state.clone())
    };
    for segment in segments {
        place.show(env, log, &segment, visit).await?;
    }
    check_end(&log.borrow(), end)?;
    if place.next != end {
        let dir = log.borrow().dir.clone();
        return Err(LogError::Corrupt(format!(
            "{}: it was read to offset {} and ends at {end}",
            dir.display(),
            place.next
        )));
    }
    Ok(Truncated {
        state,
        notes: Vec::new(),
    })
}

fn check_end(log: &Log, end: Offset) -> Result<(), LogError> {
    if log.queue.cut.is_none() && log.end == end {
        return Ok(());
    }
    let why = "it was cut meanwhile";
    Err(fail(log, io::Error::new(io::ErrorKind::Interrupted, why)))
}

fn fail(log: &Log, error: io::Error) -> LogError {
    let what = format!("read {} again", log.dir.display());
    LogError::Io { what, error }
}

/// Nothing is appended until it is dropped.
struct Held<'a>(&'a RefCell<Log>);

impl Held<'_> {
    fn of(log: &RefCell<Log>) -> Result<Held<'_>, LogError> {
        let mut l = log.borrow_mut();
        if l.is_cutting() {
            let why = "it is being cut, or read again";
            let error = io::Error::new(io::ErrorKind::ResourceBusy, why);
            return Err(fail(&l, error));
        }
        l.queue.held = true;
        Ok(Held(log))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Ok(mut log) = self.0.try_borrow_mut() {
            log.queue.held = false;
        }
    }
}

/// How far was read.
struct Place {
    /// Where it begins: the segment of the checkpoint, the position in it,
    segment: Offset,
    position: u64,
    /// and the offset of the next batch, there and from then on.
    next: Offset,
    /// The log's end.
    end: Offset,
}

impl Place {
    /// Shows what `segment` has.
    async fn show(
        &mut self,
        env: &Env,
        log: &RefCell<Log>,
        segment: &Rc<Segment>,
        visit: &mut dyn FnMut(&BatchHeader, &[u8]),
    ) -> Result<(), LogError> {
        let position = if segment.base == self.segment {
            self.position
        } else {
            0
        };
        if position == segment.size() {
            return self.ends(segment);
        }
        lookup::prepare(env, log, segment).await?;
        // What is compacted has gaps, but ends where the next segment begins.
        let gaps = segment.base < log.borrow().sealed.cleaned.touched;
        let mut cursor = Cursor::new((env, log), segment, position);
        while let Some((header, bytes)) = cursor.batch(|_| true).await? {
            let at = header.base_offset;
            let follows = at == self.next || (gaps && at > self.next);
            if !follows || header.next_offset() > self.end {
                let text = format!(
                    "a batch with offsets {at} to {}, where {} to {} were expected",
                    header.next_offset() - 1,
                    self.next,
                    self.end - 1
                );
                return Err(cursor.corrupt(&text));
            }
            if !crc_matches(&bytes) {
                let text =
                    format!("the CRC of the batch before it, at offset {at}, does not match");
                return Err(cursor.corrupt(&text));
            }
            visit(&header, &bytes);
            self.next = header.next_offset();
            env.yield_if_needed().await;
        }
        self.ends(segment)
    }

    fn ends(&self, segment: &Segment) -> Result<(), LogError> {
        if self.next == segment.next() {
            return Ok(());
        }
        Err(LogError::Corrupt(format!(
            "{}: it was read to offset {}, and ends at {}",
            segment.path("log").display(),
            self.next,
            segment.next()
        )))
    }
}
