//! What a shard does when a file of the journal is full: its batches go to the segments, one way or
//! the other.

use std::cell::Cell;
use std::path::Path;

use streamd_io::Env;
use streamd_io::local::Budget;
use streamd_log::log::SharedLog;
use streamd_log::{open_files, write_back};

/// Sends what the journal holds of these logs, whose directories are in `data`, to the segments and
/// makes it durable there; `draining` lets only one do so at a time.
pub async fn drain(env: &Env, data: &Path, logs: &[SharedLog], draining: &Cell<bool>) {
    while draining.replace(true) {
        env.yield_now().await;
    }
    let together = env.random_u64().is_multiple_of(2);
    let mut marks = Vec::new();
    for log in logs {
        let room = Budget::new(10_000);
        let written = write_back::write_back(env, log, &room, !together).await;
        written.expect("write back works");
        marks.push(log.borrow().written());
    }
    if together {
        let all = env.file_system(data).await;
        let synced = all.expect("a file system").sync().await;
        synced.expect("the file system is synced");
    }
    for (log, mark) in logs.iter().zip(marks) {
        let settled = match together {
            true => write_back::settle_synced(env, log, mark).await,
            false => write_back::settle(env, log).await,
        };
        settled.expect("settling works");
    }
    if env.random_u64().is_multiple_of(2) {
        open_files::age();
    }
    draining.set(false);
}
