//! Has a read end where a batch ends, and say at which offset: for a reader who is to be sent what
//! comes next without having looked at what came before.
//!
//! Invariant: where it ends is found by walking headers of batches, from one that an index points
//! at to the end of what was planned; so the walk is short whatever the size of the plan.

use std::rc::Rc;

use bytes::Bytes;
use streamd_io::{File, Part};
use streamd_model::Offset;

use crate::batch::{BatchHeader, HEADER};
use crate::log::Log;
use crate::read_plan::{Planned, ReadPlan};

/// So much of a file is read at once to walk its headers.
const LOOK: usize = 8 << 10;

/// What is known of the end of a plan. It holds for as long as the plan does.
pub struct Ending {
    /// The file that it reads from; `None` if it reads from memory.
    file: Option<Rc<File>>,
    /// Where a batch begins in that file, near the plan's end.
    near: u64,
}

impl Ending {
    /// Looks where `plan`, of a read from `offset` below `limit`, might end.
    pub fn of(log: &Log, (offset, limit): (Offset, Offset), plan: &ReadPlan) -> Ending {
        let Some(&Part::File { pos, len, .. }) = plan.parts.first() else {
            return Ending {
                file: None,
                near: 0,
            };
        };
        let file = log.reader_of(offset);
        // The last record before what an index says of the plan's end: its entry is near it.
        let last = plan.next - 1;
        let same = || match (&file, log.reader_of(last)) {
            (Some(a), Some(b)) => Rc::ptr_eq(a, &b),
            _ => false,
        };
        let mut near = pos;
        if last > offset
            && same()
            && let Planned::Ready(there) = log.plan_read_below(last, limit, 1, true)
            && let Some(&Part::File { pos: at, .. }) = there.parts.first()
            && (pos..pos + len as u64).contains(&at)
        {
            near = at;
        }
        Ending { file, near }
    }

    /// Cuts `plan` to `max` bytes, or one batch if that is longer, and makes its next offset exact.
    ///
    /// # Errors
    /// The disk refused, or there is no whole batch: a sentence.
    pub async fn settle(self, plan: &mut ReadPlan, max: usize) -> Result<(), String> {
        match plan.parts.last() {
            None => Ok(()),
            Some(Part::Bytes(bytes)) => {
                if let Some(next) = last_in(bytes) {
                    plan.next = next;
                }
                Ok(())
            }
            Some(&Part::File { pos, len, .. }) => {
                let Some(file) = self.file else {
                    return Err("its file was closed".to_owned());
                };
                let whole = pos + len as u64;
                let end = whole.min(pos + max as u64);
                let mut found = None;
                if (pos + 1..end).contains(&self.near) {
                    found = walk(&file, self.near, end).await?;
                }
                if found.is_none() {
                    found = walk(&file, pos, end).await?;
                }
                if found.is_none() {
                    found = first(&file, pos, whole).await?;
                }
                let (at, next) = found.ok_or("no batch of it is whole")?;
                if let Some(Part::File { len, .. }) = plan.parts.last_mut() {
                    *len -= (whole - at) as usize;
                    plan.bytes -= (whole - at) as usize;
                }
                plan.next = next;
                Ok(())
            }
        }
    }
}

/// The offset behind the last batch of these, which are whole.
fn last_in(bytes: &Bytes) -> Option<Offset> {
    let (mut at, mut next) = (0, None);
    while let Some(Ok(header)) = bytes.get(at..).map(BatchHeader::parse) {
        next = Some(header.next_offset());
        at += header.size;
    }
    next
}

/// The last end of a batch between `from`, where one begins, and `end`: its place and the offset
/// there. `None` if not one is whole.
async fn walk(file: &File, from: u64, end: u64) -> Result<Option<(u64, Offset)>, String> {
    let (mut at, mut found) = (from, None);
    let (mut bytes, mut bytes_at) = (Bytes::new(), from);
    while at + HEADER as u64 <= end {
        if at + HEADER as u64 > bytes_at + bytes.len() as u64 {
            let look = LOOK.min((end - at) as usize);
            let read = file.read_at(at, look).await;
            let read = read.map_err(|e| format!("cannot read it: {e}"))?;
            (bytes, bytes_at) = (read, at);
        }
        let rest = bytes.get((at - bytes_at) as usize..).unwrap_or_default();
        let Ok(header) = BatchHeader::parse(rest) else {
            break;
        };
        if at + header.size as u64 > end {
            break;
        }
        at += header.size as u64;
        found = Some((at, header.next_offset()));
    }
    Ok(found)
}

/// The end of the batch at `from`, if it is not beyond `end`.
async fn first(file: &File, from: u64, end: u64) -> Result<Option<(u64, Offset)>, String> {
    let read = file.read_at(from, HEADER).await;
    let read = read.map_err(|e| format!("cannot read it: {e}"))?;
    let header = BatchHeader::parse(&read).ok();
    let header = header.filter(|h| from + h.size as u64 <= end);
    Ok(header.map(|h| (from + h.size as u64, h.next_offset())))
}
