//! A file system as a whole.

use std::io;
use std::path::PathBuf;

#[cfg(any(test, feature = "sim"))]
use crate::sim;
use crate::uring;

/// The file system that holds a directory, as [`crate::Env::file_system`] opened it.
///
/// Linux tells an error of writing back once to each open file (`errseq_t`). So each shard opens
/// its own, before it writes: what one has heard of, the others hear as well.
pub struct FileSystem(pub(crate) Kind);

pub(crate) enum Kind {
    Uring(uring::FileSystem),
    #[cfg(any(test, feature = "sim"))]
    Sim(sim::FileSystem),
}

impl FileSystem {
    /// Makes everything durable that was written to it before, by whomever: contents and names. One
    /// call for thousands of files, where a sync of each takes the device for each.
    ///
    /// # Errors
    /// Something that was written since the last call, or since this was opened, may be lost.
    pub async fn sync(&self) -> io::Result<()> {
        both!(self, f => f.sync().await)
    }

    /// Replaces many files as [`crate::Env::write_file_atomic`] replaces one, with two calls of
    /// [`FileSystem::sync`] for all of them.
    pub async fn replace_files(&self, files: Vec<(PathBuf, Vec<u8>)>) -> io::Result<()> {
        both!(self, f => f.replace_files(files).await)
    }
}
