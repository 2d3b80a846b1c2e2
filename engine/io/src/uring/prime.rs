//! Guard against glommio's false detection of polled I/O.
//!
//! glommio decides once per executor and device whether the device can do polled I/O, by a read of
//! the first file that it opens. An empty, sparse or preallocated file answers without touching
//! the device: the verdict is then wrong, reads fail later and writes spin. So every executor
//! first opens a small file that was really written and synced.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::buf::BLOCK;

pub(crate) const PRIME_FILE: &str = ".streamd-probe";

/// Opens a really written file of `dir`'s file system, so that glommio's verdict is about the
/// device.
pub(super) async fn prime(dir: &Path) -> io::Result<()> {
    let path = dir.join(PRIME_FILE);
    write_file(dir)?;
    let file = glommio::io::OpenOptions::new()
        .read(true)
        .dma_open(&path)
        .await
        .map_err(super::io_err)?;
    // With a wrong verdict this fails (EOPNOTSUPP).
    let read = file
        .read_at_aligned(0, BLOCK)
        .await
        .map_err(super::io_err)?;
    if read.len() != BLOCK || read[..] != [0x5a; BLOCK][..] {
        return Err(io::Error::other(
            "the probe file reads back other bytes than were written",
        ));
    }
    drop(read);
    file.close().await.map_err(super::io_err)
}

/// Writes and syncs the probe file of `dir`, unless it is there already.
fn write_file(dir: &Path) -> io::Result<()> {
    use io::Write;
    let path = dir.join(PRIME_FILE);
    if let Ok(meta) = fs::metadata(&path)
        && meta.len() == BLOCK as u64
        && meta.blocks() > 0
    {
        return Ok(());
    }
    // Several shards may do this at once: each writes its own file and renames it.
    let temp = dir.join(format!("{PRIME_FILE}.{:x}", crate::process::seed()));
    let mut file = fs::File::create(&temp)?;
    file.write_all(&[0x5a; BLOCK])?;
    file.sync_all()?;
    fs::rename(&temp, &path)
}

/// What the kernel says of the device of `dir`: `Some(true)` if its queue does polled I/O, `None`
/// if the file system is on no block device.
pub(crate) fn polled_io_verdict(dir: &Path) -> Option<bool> {
    let dev = fs::metadata(dir).ok()?.dev();
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    let base = format!("/sys/dev/block/{major}:{minor}");
    for queue in ["queue", "../queue"] {
        if let Ok(text) = fs::read_to_string(format!("{base}/{queue}/io_poll")) {
            return Some(text.trim() != "0");
        }
    }
    None
}
