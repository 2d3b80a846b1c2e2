//! `streamctl log ...`: segment files, read off line.

mod dump;
mod files;
mod scan;
mod verify;

use crate::cli::{Global, Log};
use crate::failure::Result;

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or is damaged.
pub fn run(global: &Global, command: &Log) -> Result<()> {
    match command {
        Log::Dump { paths, records } => dump::run(global, &files::find(paths)?, *records),
        Log::Verify { paths } => verify::run(global, &files::find(paths)?),
    }
}
