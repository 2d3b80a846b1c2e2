//! `streamctl log ...`: segment files, read off line; `repair` also writes them.

mod cuts;
mod dump;
mod files;
mod journals;
mod repair;
mod scan;
mod verify;

use crate::cli::{Global, Log};
use crate::failure::Result;

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or is damaged.
pub fn run(global: &Global, command: &Log) -> Result<()> {
    let (Log::Dump { paths, .. } | Log::Verify { paths } | Log::Repair { paths, .. }) = command;
    let segments = files::find(paths)?;
    for dir in journals::in_use(&segments) {
        eprintln!("{}", journals::note(&dir));
    }
    match command {
        Log::Dump { records, .. } => dump::run(global, &segments, *records),
        Log::Verify { .. } => verify::run(global, &segments),
        Log::Repair { apply, .. } => repair::run(global, &segments, *apply),
    }
}
