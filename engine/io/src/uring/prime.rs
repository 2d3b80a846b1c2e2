//! Guard against glommio's false detection of polled I/O.
//!
//! glommio decides once per executor and device whether the device can do polled I/O, by a read of
//! the first file that it opens for direct I/O. An empty, sparse or preallocated file answers
//! without touching the device: the verdict is then wrong, reads fail later and writes spin. So
//! before the first such file of a device, each shard opens a small one that was really written.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::buf::BLOCK;
use crate::local::Notify;

/// The devices that this shard has asked about.
#[derive(Default)]
pub(super) struct Primed {
    state: RefCell<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    done: Vec<u64>,
    busy: bool,
}

impl Primed {
    /// Makes sure that glommio's verdict about the device of `dir` is a true one.
    pub(super) async fn ensure(&self, dir: &Path) -> io::Result<()> {
        let device = fs::metadata(dir)?.dev();
        loop {
            if self.state.borrow().done.contains(&device) {
                return Ok(());
            }
            let changed = self.changed.wait();
            if !self.state.borrow().busy {
                break;
            }
            changed.await;
        }
        let _busy = Busy::new(self);
        prime(dir).await?;
        self.state.borrow_mut().done.push(device);
        Ok(())
    }
}

/// One task asks, the others wait; also when that task is canceled.
struct Busy<'a>(&'a Primed);

impl<'a> Busy<'a> {
    fn new(primed: &'a Primed) -> Busy<'a> {
        primed.state.borrow_mut().busy = true;
        Busy(primed)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().busy = false;
        self.0.changed.notify_all();
    }
}

/// Removes the file at the end.
struct Temp(PathBuf);

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn prime(dir: &Path) -> io::Result<()> {
    let name = format!(".streamd-probe.{:x}", crate::process::seed());
    let temp = Temp(dir.join(name));
    let path = temp.0.clone();
    super::env::blocking(move || write_block(&path)).await?;
    let open = glommio::io::OpenOptions::new()
        .read(true)
        .dma_open(&temp.0)
        .await;
    let file = open.map_err(super::io_err)?;
    // With a wrong verdict this fails (EOPNOTSUPP).
    let read = file
        .read_at_aligned(0, BLOCK)
        .await
        .map_err(super::io_err)?;
    let good = read[..] == [0x5a; BLOCK][..];
    drop(read);
    file.close().await.map_err(super::io_err)?;
    if good {
        Ok(())
    } else {
        Err(io::Error::other(
            "a small file reads back other bytes than were written to it",
        ))
    }
}

fn write_block(path: &Path) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(&[0x5a; BLOCK])?;
    file.sync_all()
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
