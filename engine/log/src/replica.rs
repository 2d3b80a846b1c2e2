//! What a replica does with a log beyond what a lone broker does: a follower appends batches that
//! have their offsets and epochs, a leader reads whole batches for it.

use std::cell::RefCell;

use bytes::Bytes;
use streamd_io::{Env, Part};
use streamd_model::{ErrorCode, Offset};

use crate::batch::{BatchHeader, build_empty, crc_matches};
use crate::log::{Appended, Log, NewBatch};
use crate::read_plan::ReadPlan;
use crate::validate::Facts;
use crate::whole::Ending;
use crate::{BatchError, LogError, begin};

/// Whole batches for a follower, where they lie.
pub struct FilePush {
    /// A range of a file; the first batch in it holds the offset that was asked for.
    pub part: Part,
    /// The offset after the last record.
    pub next: Offset,
}

/// Whole batches for a follower.
#[derive(Clone, Debug, Default)]
pub struct Push {
    /// Whole batches back to back; the first one holds the offset that was asked for. Where records
    /// were compacted away batches without records stand for them, so no offset is missing.
    pub parts: Vec<Bytes>,
    /// Their bytes in all.
    pub bytes: usize,
    /// The offset after the last record.
    pub next: Offset,
}

impl Log {
    /// Takes apart what a leader has pushed: whole batches, back to back, that have their offsets
    /// and epochs. Nothing is appended: each of them is to be given to [`Log::append_kept`], with
    /// the roll or the checkpoint before it that [`Log::will_roll`] and others ask for.
    ///
    /// # Errors
    /// If they do not begin where the log ends, have a gap, a CRC that does not match, an epoch
    /// below one before it, or are not whole.
    pub fn check_kept(&self, bytes: &Bytes) -> Result<Vec<NewBatch>, BatchError> {
        let (mut end, mut epoch) = (self.end, self.epochs.last().map_or(-1, |e| e.0));
        let (mut batches, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let header = BatchHeader::parse(&bytes[at..])?;
            let left = bytes.len() - at;
            if header.size > left {
                return Err(BatchError::corrupt(format!(
                    "the batch with offset {} has {} bytes, and {left} came",
                    header.base_offset, header.size
                )));
            }
            let bytes = bytes.slice(at..at + header.size);
            if !crc_matches(&bytes) {
                return Err(BatchError::corrupt(format!(
                    "the CRC of the batch with offset {} does not match",
                    header.base_offset
                )));
            }
            follows(&header, (end, epoch))?;
            (end, epoch) = (header.next_offset(), header.epoch);
            at += header.size;
            let facts = Facts {
                header,
                max_timestamp: header.max_timestamp,
                log_append_time: header.is_log_append_time(),
                restamp: false,
            };
            batches.push(NewBatch { bytes, facts });
        }
        Ok(batches)
    }

    /// Appends a batch with the offsets and the epoch that it has; [`Log::check_kept`] gave it.
    ///
    /// # Errors
    /// If it does not begin where the log ends, its epoch is below the last one, or the log is
    /// being cut: then nothing has changed.
    pub fn append_kept(&mut self, batch: NewBatch, now_ms: i64) -> Result<Appended, BatchError> {
        let header = batch.facts.header;
        if self.is_cutting() {
            let text = format!("{} is being cut", self.dir_name());
            return Err(BatchError::new(ErrorCode::NotLeaderOrFollower, text));
        }
        follows(&header, (self.end, self.epochs.last().map_or(-1, |e| e.0)))?;
        Ok(self.append(batch, header.epoch, now_ms))
    }
}

fn follows(header: &BatchHeader, (end, epoch): (Offset, i32)) -> Result<(), BatchError> {
    let base = header.base_offset;
    if base != end {
        let text = format!("a batch with offset {base}, and the log ends at {end}");
        return Err(BatchError::new(ErrorCode::OffsetOutOfRange, text));
    }
    if header.epoch < epoch {
        let text = format!(
            "the batch with offset {base} is of leader epoch {}, after epoch {epoch}",
            header.epoch
        );
        return Err(BatchError::new(ErrorCode::FencedLeaderEpoch, text));
    }
    let last = i64::from(header.last_offset_delta);
    if header.epoch < 0 || last < 0 || base.checked_add(last + 1).is_none() {
        return Err(BatchError::corrupt(format!(
            "a batch with offset {base}, {last} more, and leader epoch {}",
            header.epoch
        )));
    }
    Ok(())
}

/// Finds whole batches from the one that holds `offset` on, `least` bytes or more, and about `max`
/// at the most, to be sent from their file without being read. `None` where [`read_push`] has to
/// read them: from memory, where records may have been compacted away, or where there are fewer.
///
/// # Errors
/// The disk refused, or what is on it is damaged.
pub async fn file_push(
    env: &Env,
    log: &RefCell<Log>,
    offset: Offset,
    (least, max): (usize, usize),
) -> Result<Option<FilePush>, LogError> {
    let mut ending = None;
    let mut note = |log: &Log, limit, plan: &ReadPlan| {
        let is_dense = log.sealed.cleaned.touched <= offset;
        ending = is_dense.then(|| Ending::of(log, (offset, limit), plan));
    };
    let limit = || Offset::MAX;
    let planned = begin::plan((env, log), offset, &limit, (max, true), &mut note).await?;
    let (Some(mut plan), Some(ending)) = (planned, ending) else {
        return Ok(None);
    };
    let is_file = matches!(plan.parts[..], [Part::File { .. }]);
    if !is_file || plan.bytes < least || ending.settle(&mut plan, max).await.is_err() {
        return Ok(None);
    }
    let next = plan.next;
    Ok(plan.parts.pop().map(|part| FilePush { part, next }))
}

/// Reads whole batches from the one that holds `offset` on, about `max` bytes, at least one batch;
/// none that begins at or behind `limit`, which must be where one begins, or the flushed end or
/// more: nothing is read behind that. `None` if the offset is not in the log.
///
/// # Errors
/// The disk refused, or what is on it is damaged.
pub async fn read_push(
    env: &Env,
    log: &RefCell<Log>,
    (offset, limit): (Offset, Offset),
    max: usize,
) -> Result<Option<Push>, LogError> {
    let mut reader = None;
    let mut note = |log: &Log, _, _: &ReadPlan| reader = log.reader_of(offset);
    let planned = begin::plan((env, log), offset, &|| limit, (max, true), &mut note).await?;
    let Some(plan) = planned else {
        return Ok(None);
    };
    let mut push = Push {
        next: offset,
        ..Push::default()
    };
    for part in plan.parts {
        let bytes = match (part, &reader) {
            (Part::Bytes(bytes), _) => bytes,
            (Part::File { pos, len, .. }, Some(file)) => {
                let fail = LogError::io(format!("read {}", log.borrow().dir.display()));
                file.read_at(pos, len).await.map_err(fail)?
            }
            (Part::File { .. }, None) => Bytes::new(),
        };
        push.add(&log.borrow(), (bytes, limit));
    }
    Ok(Some(push))
}

impl Push {
    /// Takes the whole batches at the front of `bytes` that begin before `limit`.
    fn add(&mut self, log: &Log, (bytes, limit): (Bytes, Offset)) {
        let (mut from, mut len) = (0, 0);
        while let Ok(header) = BatchHeader::parse(&bytes[len..])
            && header.size <= bytes.len() - len
            && header.base_offset < limit
        {
            if header.base_offset > self.next {
                self.put(bytes.slice(from..len));
                from = len;
                self.fill(log, &header);
            }
            len += header.size;
            self.next = header.next_offset();
        }
        self.put(bytes.slice(from..len));
    }

    /// A follower's log is dense: a hole in it would be a loss. So what stands before `header` and
    /// was compacted away gets batches without records, each of the epoch that had its offsets.
    fn fill(&mut self, log: &Log, header: &BatchHeader) {
        while self.next < header.base_offset {
            let later = log.epochs.partition_point(|e| e.1 <= self.next);
            let epoch = later
                .checked_sub(1)
                .map_or(header.epoch, |i| log.epochs[i].0);
            let ends = log.epochs.get(later).map_or(header.base_offset, |e| e.1);
            let ends = ends.min(header.base_offset);
            self.put(build_empty(self.next, ends, epoch).into());
            self.next = ends;
        }
    }

    fn put(&mut self, batches: Bytes) {
        if !batches.is_empty() {
            self.bytes += batches.len();
            self.parts.push(batches);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogConfig;
    use std::path::Path;
    use streamd_io::sim::{Sim, SimOptions};

    #[test]
    fn what_was_compacted_away_is_filled_epoch_by_epoch() {
        Sim::new(1, SimOptions::default()).run(|env| async move {
            let mut leader = Log::new(&env, Path::new("/l"), LogConfig::default(), 0);
            leader.epochs = vec![(1, 0), (4, 10), (6, 15)];
            let mut bytes = build_empty(2, 5, 1);
            bytes.extend(build_empty(18, 20, 6));
            let mut push = Push::default();
            push.add(&leader, (bytes.into(), Offset::MAX));
            let bytes: Bytes = push.parts.concat().into();
            assert_eq!((bytes.len(), push.next), (push.bytes, 20));
            let mut log = Log::new(&env, Path::new("/f"), LogConfig::default(), 0);
            let batches = log.check_kept(&bytes).expect("they follow");
            let places: Vec<_> = (batches.iter())
                .map(|b| (b.facts.header.base_offset, b.facts.header.epoch))
                .collect();
            let expected = [(0, 1), (2, 1), (5, 1), (10, 4), (15, 6), (18, 6)];
            assert_eq!(places, expected);
            for batch in batches {
                log.append_kept(batch, 0).expect("it follows");
            }
            assert_eq!(log.end, 20);
            assert_eq!(log.epochs, leader.epochs);
        });
    }
}
