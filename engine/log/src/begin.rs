//! From an offset to a plan that can be carried out: what it needs is awaited, and its first bytes
//! are those of the batch that is wanted, by a look at the file between a plan and its sending.
//!
//! An index is sparse and is not trusted. The batches where its entry points say which is the one
//! that is wanted; if they do not fit, the index is made anew from the log.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use streamd_io::{Env, Part};
use streamd_model::Offset;

use crate::batch::{BatchHeader, HEADER};
use crate::log::Log;
use crate::read_plan::{Planned, ReadPlan};
use crate::{LogError, lookup};

/// So much is read at once to find the batch that a reader wants behind an entry of an index.
const LOOK: usize = 4 << 10;

/// Plans a read as [`Log::plan_read_below`] does, from `offset`, of at most `max` bytes; with
/// `whole` the first batch comes whole. `limit` is asked whenever it is tried, as it may move; and
/// `note` is shown the log, the limit and the plan before anything else can happen to them. `None`
/// if the offset is not in the log.
///
/// # Errors
/// The disk refused, or what is on it is damaged; never because a segment was deleted or replaced
/// meanwhile.
pub async fn plan(
    (env, log): (&Env, &RefCell<Log>),
    offset: Offset,
    limit: &dyn Fn() -> Offset,
    (max, whole): (usize, bool),
    note: &mut dyn FnMut(&Log, Offset, &ReadPlan),
) -> Result<Option<ReadPlan>, LogError> {
    let mut mended = false;
    loop {
        let limit = limit();
        let planned = log.borrow().plan_read_below(offset, limit, max, whole);
        let (segment, done) = match planned {
            Planned::OutOfRange => return Ok(None),
            Planned::Ready(mut plan) => {
                can_be_read(log, offset, &plan)?;
                note(&log.borrow(), limit, &plan);
                if begin_at(env, log, offset, &mut plan).await? || mended {
                    return Ok(Some(plan));
                }
                // Once: an index that was made anew is right.
                mended = true;
                continue;
            }
            Planned::Locate(segment) => {
                let done = lookup::locate(env, log, &segment, limit).await;
                (segment, done)
            }
            Planned::Prepare(segment) => {
                let interval = log.borrow().config.index_interval;
                let done = segment.prepare(env, interval).await;
                if done.is_ok() && log.borrow().has_segment(&segment) {
                    log.borrow_mut().note_prepared(&segment);
                }
                (segment, done)
            }
        };
        // It may have been deleted or replaced meanwhile.
        if log.borrow().has_segment(&segment) {
            done?;
        }
    }
}

/// An error if the disk could not read, for an earlier reader, the file that `plan` would have
/// sent: by then half an answer was on its way, so that reader only saw its connection end.
fn can_be_read(log: &RefCell<Log>, offset: Offset, plan: &ReadPlan) -> Result<(), LogError> {
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
/// [`crate::segment::Segment::prepare`].
async fn begin_at(
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
