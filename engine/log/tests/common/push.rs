//! What a leader pushes to a follower, one way or the other.

use streamd_io::Env;
use streamd_io::sim::sent;
use streamd_log::LogError;
use streamd_log::log::SharedLog;
use streamd_log::replica::{Push, file_push, read_push};

/// Whole batches from `offset` on, about `max` bytes: read, or, at times and where that may be,
/// what arrives when they are sent from their file.
pub async fn push(
    env: &Env,
    log: &SharedLog,
    (offset, max): (i64, usize),
) -> Result<Option<Push>, LogError> {
    if env.random_u64().is_multiple_of(2)
        && let Some(found) = file_push(env, log, offset, (1, max)).await?
        // What is cut meanwhile ends the connection.
        && let Ok(bytes) = sent(env, vec![found.part]).await
    {
        return Ok(Some(Push {
            bytes: bytes.len(),
            parts: vec![bytes],
            next: found.next,
        }));
    }
    read_push(env, log, (offset, i64::MAX), max).await
}
