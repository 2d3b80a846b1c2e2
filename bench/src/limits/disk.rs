//! Direct writes over a file that was written before, one at a time, with and without sync.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Figure, Stopwatch};
use crate::failure::{Context, Result};
use crate::payload::Random;
use crate::sys::write_durable;

/// How names begin of direct writes without sync.
pub const DIRECT: &str = "O_DIRECT write";
/// How names end of durable ones.
pub const DURABLE: &str = "durable (RWF_DSYNC)";

const FILE: u64 = 128 << 20;
const ALIGN: usize = 4096;
const SIZES: [usize; 3] = [4096, 64 * 1024, 1 << 20];

/// A file that is removed in the end.
pub struct Scratch(pub PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // If it cannot be removed, nothing can be done about it here.
        let _ = fs::remove_file(&self.0);
    }
}

fn name(size: usize, how: &str) -> String {
    let size = match size {
        size if size >= 1 << 20 => format!("{} MiB", size >> 20),
        size => format!("{} KiB", size >> 10),
    };
    format!("{DIRECT} {size}, {how}")
}

/// The name of the durable write of a size.
pub fn durable(size: usize) -> String {
    name(size, DURABLE)
}

/// Bytes at an aligned address inside a longer buffer.
struct Aligned {
    bytes: Vec<u8>,
    from: usize,
}

impl Aligned {
    fn random(size: usize) -> Aligned {
        let mut random = Random::new(11);
        let words = (size + ALIGN) / 8;
        let bytes: Vec<u8> = (0..words)
            .flat_map(|_| random.bits().to_ne_bytes())
            .collect();
        let from = bytes.as_ptr().align_offset(ALIGN);
        Aligned { bytes, from }
    }

    fn get(&self, size: usize) -> &[u8] {
        &self.bytes[self.from..self.from + size]
    }
}

pub(super) fn measure(dir: &Path, each: Duration, figures: &mut Vec<Figure>) -> Result<()> {
    let scratch = Scratch(dir.join(format!("bench-limits-{}", std::process::id())));
    let path = &scratch.0;
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .context(|| {
            format!(
                "cannot write directly (O_DIRECT) to {}: choose a place on a disk (--dir, TMPDIR)",
                path.display()
            )
        })?;
    let data = Aligned::random(1 << 20);
    for at in (0..FILE).step_by(1 << 20) {
        file.write_all_at(data.get(1 << 20), at)
            .context(|| format!("cannot fill {}", path.display()))?;
    }
    file.sync_all()?;
    for size in SIZES {
        let data = data.get(size);
        let plain = |at| file.write_all_at(data, at);
        figures.push(writes(&name(size, "no sync"), size, each, plain)?);
        let synced = |at| write_durable(&file, data, at);
        figures.push(writes(&durable(size), size, each, synced)?);
    }
    drop::<File>(file);
    Ok(())
}

fn writes(
    name: &str,
    size: usize,
    each: Duration,
    write: impl Fn(u64) -> std::io::Result<()>,
) -> Result<Figure> {
    let mut watch = Stopwatch::start();
    let mut at = 0;
    while watch.running(each) {
        watch
            .time(size, || write(at))
            .context(|| format!("{name} at byte {at}"))?;
        at = (at + size as u64) % FILE;
    }
    Ok(watch.figure(name))
}
