//! Deletion from the front of the log: by age, by size, by request. Whole segments go; the active
//! one never does. The new log start is durable before a file is removed.

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
        let (oldest, second, total, interval) = {
            let log = log.borrow();
            let (Some(a), Some(b)) = (log.segments.front(), log.segments.get(1)) else {
                break;
            };
            // Not yet sealed, or still needed by a recovery: it goes next time.
            if a.base >= log.points.last.segment || log.is_unsealed(a) {
                break;
            }
            (a.clone(), b.base, log.size(), log.config.index_interval)
        };
        let too_big = retention
            .bytes
            .is_some_and(|max| total - oldest.size() >= max);
        if !too_big {
            let Some(ms) = retention.ms else { break };
            oldest.prepare(env, interval).await?;
            log.borrow_mut().note_prepared(&oldest);
            let newest = oldest.index().map_or(-1, |i| i.borrow().max_timestamp);
            // Without a timestamp nothing tells its age: Kafka takes the file's time, we keep it.
            if newest < 0 || now_ms.saturating_sub(newest) <= ms {
                break;
            }
        }
        freed += oldest.size();
        delete_before(env, log, second).await?;
    }
    Ok(freed)
}

/// Moves the log start up to `offset` (at most the flushed end), durably, and deletes the segments
/// that lie wholly before it. Gives the new log start.
pub async fn delete_before(
    env: &Env,
    log: &RefCell<Log>,
    offset: Offset,
) -> Result<Offset, LogError> {
    {
        let mut log = log.borrow_mut();
        if offset <= log.start {
            return Ok(log.start);
        }
        assert!(offset <= log.flushed, "only what is durable can be deleted");
        log.start = offset;
    }
    store_checkpoint(env, log, None).await?;
    for segment in take_dead(log) {
        segment.remove(env).await?;
    }
    Ok(offset)
}

fn take_dead(log: &RefCell<Log>) -> Vec<Rc<Segment>> {
    let mut log = log.borrow_mut();
    let mut dead = Vec::new();
    // The scan of a recovery begins at the checkpoint: what lies behind it is still needed.
    let needed_from = log.points.last.segment;
    while let (Some(a), Some(b)) = (log.segments.front(), log.segments.get(1)) {
        if b.base > log.start || log.is_unsealed(a) || a.base >= needed_from {
            break;
        }
        let a = a.clone();
        log.prepared.segments.retain(|s| !Rc::ptr_eq(s, &a));
        log.segments.pop_front();
        dead.push(a);
    }
    dead
}
