//! Deletion from the front of the log: by age, by size, by request. Whole segments go; the active
//! one only after it was rolled. The new log start is durable before a file is removed, and never
//! lies behind what is committed ([`Log::committed`]).

use std::cell::RefCell;
use std::rc::Rc;

use streamd_io::Env;
use streamd_model::Offset;

use crate::LogError;
use crate::log::Log;
use crate::segment::Segment;
use crate::write_back::store_checkpoint;

/// What a topic's settings allow to be kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// `retention.ms`; `None` keeps for ever.
    pub ms: Option<i64>,
    /// `retention.bytes`; `None` is without limit.
    pub bytes: Option<u64>,
}

/// Deletes the segments that `retention` no longer keeps at wall time `now_ms`. Gives the number of
/// bytes that were freed.
pub async fn apply(
    env: &Env,
    log: &RefCell<Log>,
    retention: Retention,
    now_ms: i64,
) -> Result<u64, LogError> {
    let mut freed = 0;
    loop {
        let (oldest, second, total) = {
            let log = log.borrow();
            let Some((a, b)) = deletable(&log) else { break };
            (a, b, log.size())
        };
        let too_big = retention
            .bytes
            .is_some_and(|max| total - oldest.size() >= max);
        if !too_big {
            let Some(ms) = retention.ms else { break };
            let Some(newest) = newest_ms(env, log, &oldest).await? else {
                continue;
            };
            // Without a timestamp nothing tells its age: Kafka takes the file's time, we keep it.
            if newest < 0 || now_ms.saturating_sub(newest) <= ms {
                break;
            }
        }
        delete_segment(env, log, second).await?;
        if log.borrow().has_segment(&oldest) {
            // The directory is about to go.
            break;
        }
        freed += oldest.size();
    }
    Ok(freed)
}

/// The oldest segment, and where the next one begins, if it may go: the active one never does.
pub fn deletable(log: &Log) -> Option<(Rc<Segment>, Offset)> {
    let (a, b) = (log.segments.front()?, log.segments.get(1)?);
    // Not yet sealed, or still needed by a recovery, or it may be cut yet: it goes next time.
    let sealed = a.base < log.points.last.segment && !log.is_unsealed(a);
    let may = sealed && b.base <= log.committed();
    may.then(|| (a.clone(), b.base))
}

/// The closed segments, oldest first: whole in their files, nothing is written to them, and none of
/// them is ever cut.
pub(crate) fn closed(log: &Log) -> impl Iterator<Item = &Rc<Segment>> {
    let closed = log.segments.len().saturating_sub(1);
    let sealed = log.segments.iter().take(closed);
    let committed = log.committed();
    let may = move |s: &&Rc<Segment>| {
        let closed = s.base < log.points.last.segment && !log.is_unsealed(s);
        closed && s.next() <= committed
    };
    sealed.take_while(may)
}

/// The newest timestamp of a closed segment, ms; -1 when it has none. `None` when the log does not
/// have the segment any more.
pub async fn newest_ms(
    env: &Env,
    log: &RefCell<Log>,
    segment: &Rc<Segment>,
) -> Result<Option<i64>, LogError> {
    if segment.times().is_none() {
        let interval = log.borrow().config.index_interval;
        let prepared = segment.prepare(env, interval).await;
        if !log.borrow().has_segment(segment) {
            return Ok(None);
        }
        prepared?;
        segment.note_times();
        log.borrow_mut().note_prepared(segment);
    }
    Ok(Some(segment.times().map_or(-1, |t| t.1)))
}

/// Deletes the oldest segment if it is the one that begins at `base` and may go. Gives the number
/// of bytes that were freed.
pub async fn drop_oldest(env: &Env, log: &RefCell<Log>, base: Offset) -> Result<u64, LogError> {
    let found = deletable(&log.borrow()).filter(|(s, _)| s.base == base);
    let Some((segment, next)) = found else {
        return Ok(0);
    };
    delete_segment(env, log, next).await?;
    Ok(segment.size())
}

/// Deletes the oldest segment, so that the log begins at `next`, a segment's base. On a disk too
/// full to note that: the first segment that is there says it as well.
async fn delete_segment(env: &Env, log: &RefCell<Log>, next: Offset) -> Result<(), LogError> {
    match delete_before(env, log, next).await {
        Err(e) if e.is_full() => remove_dead(env, log).await,
        result => result.map(drop),
    }
}

/// Moves the log start up to `offset`, or to what is committed if that lies before it, durably, and
/// deletes the segments that lie wholly before it. Gives the new log start.
pub async fn delete_before(
    env: &Env,
    log: &RefCell<Log>,
    offset: Offset,
) -> Result<Offset, LogError> {
    let (moves, start) = {
        let mut log = log.borrow_mut();
        let offset = offset.min(log.committed());
        let moves = offset > log.start;
        if moves {
            log.start = offset;
        }
        (moves, log.start)
    };
    if moves {
        store_checkpoint(env, log, None).await?;
    }
    // What the start has passed before may have been needed then, by a recovery.
    remove_dead(env, log).await?;
    Ok(start)
}

/// Deletes the segments that lie wholly before the log start.
pub async fn remove_dead(env: &Env, log: &RefCell<Log>) -> Result<(), LogError> {
    let turn = log.borrow().sealed.turn.clone();
    let _turn = turn.acquire(1).await;
    for segment in take_dead(log) {
        segment.remove(env).await?;
    }
    Ok(())
}

/// Whether nothing of the active segment is to be kept: it is to be rolled then, so that it can go
/// like any other. Not while something is on its way to the disk.
pub fn wants_roll(log: &Log, retention: Retention, now_ms: i64) -> bool {
    let Some(active) = log.segments.back() else {
        return false;
    };
    if log.position == 0 || log.flushed != log.end || log.is_cutting() {
        return false;
    }
    let newest = active.index().map_or(-1, |i| i.borrow().max_timestamp);
    let old = |ms: i64| newest >= 0 && now_ms.saturating_sub(newest) > ms;
    retention.bytes == Some(0) || retention.ms.is_some_and(old)
}

fn take_dead(log: &RefCell<Log>) -> Vec<Rc<Segment>> {
    let mut log = log.borrow_mut();
    let mut dead = Vec::new();
    if log.sealed.retired {
        return dead;
    }
    // The scan of a recovery begins at the checkpoint: what lies behind it is still needed.
    let needed_from = log.points.last.segment;
    while let (Some(a), Some(b)) = (log.segments.front(), log.segments.get(1)) {
        if b.base > log.start || log.is_unsealed(a) || a.base >= needed_from {
            break;
        }
        let a = a.clone();
        log.sealed.prepared.segments.retain(|s| !Rc::ptr_eq(s, &a));
        log.sealed.generation += 1;
        log.segments.pop_front();
        dead.push(a);
    }
    dead
}
