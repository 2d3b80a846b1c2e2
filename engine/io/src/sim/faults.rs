//! Faults of the simulated disk: which operations on which files fail, how often, and with what.
//!
//! What a failed operation leaves behind is random, as with a real disk: a failed write happened,
//! or did not, or did in part; after a failed sync what it was for is either durable or can never
//! be made so by another sync, while programs go on seeing it.

use std::io;
use std::path::Path;

use super::disk::DiskState;
use super::rng::Rng;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Opening or making a file.
    Open,
    /// Reading from one.
    Read,
    /// Writing to one, zeros and changes of the length included.
    Write,
    /// Making a file durable, or all of them: then the path is that of the file system.
    Sync,
    /// All that is about names: lists, renames, removals, directories and their syncs.
    Name,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Files whose path has this text in it.
    pub path: String,
    /// The operation; `None` is any.
    pub op: Option<DiskOp>,
    /// The error number that comes back.
    pub errno: i32,
    /// Of a million such operations so many fail.
    pub per_million: u32,
}

impl Fault {
    /// All operations of a kind on files with `path` in their path fail with EIO.
    pub fn eio(path: &str, op: DiskOp) -> Fault {
        Fault {
            path: path.to_owned(),
            op: Some(op),
            errno: libc::EIO,
            per_million: 1_000_000,
        }
    }
}

impl DiskState {
    /// The error that strikes this operation, if one does.
    pub(super) fn strike(&self, op: DiskOp, path: &Path, rng: &mut Rng) -> io::Result<()> {
        let hits = |f: &&Fault| {
            f.op.is_none_or(|o| o == op) && path.to_string_lossy().contains(f.path.as_str())
        };
        for fault in self.faults.iter().filter(hits) {
            if rng.chance(u64::from(fault.per_million), 1_000_000) {
                return Err(io::Error::from_raw_os_error(fault.errno));
            }
        }
        Ok(())
    }
}
