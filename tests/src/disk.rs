//! A small file system of its own, mounted for a test.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// An ext4 file system in a file, unmounted when it is dropped.
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// One of `mib` MiB, of which only what is used is taken.
    ///
    /// # Errors
    /// Why there is none: not every user may mount one.
    pub fn mount(mib: u64) -> Result<SmallDisk, String> {
        let dir = TempDir::with_prefix("streamd-full-").map_err(|e| e.to_string())?;
        let disk = SmallDisk { dir };
        let image = disk.dir.path().join("image");
        let file = File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(mib << 20).map_err(|e| e.to_string())?;
        fs::create_dir(disk.path()).map_err(|e| e.to_string())?;
        call(
            Command::new("mkfs.ext4")
                .args(["-q", "-m", "0"])
                .arg(&image),
        )?;
        let mut mount = Command::new("mount");
        call(mount.args(["-o", "loop"]).arg(&image).arg(disk.path()))?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// Bytes that can still be written.
    ///
    /// # Panics
    /// When it is not mounted any more.
    #[must_use]
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("a mounted disk");
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all but `left` bytes with a file that is not the broker's.
    ///
    /// # Panics
    /// When there is no file to be made.
    pub fn fill(&self, left: u64) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.filler())
            .expect("a file");
        let block = vec![1; 1 << 20];
        while self.free() > left {
            let want = (self.free() - left).min(1 << 20) as usize;
            if file.write_all(&block[..want]).is_err() || file.sync_data().is_err() {
                break;
            }
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    ///
    /// # Panics
    /// When it took nothing.
    pub fn give_back(&self) {
        fs::remove_file(self.filler()).expect("the file");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("not-the-brokers")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = self.path();
        if is_mounted(&path) {
            let _ = call(Command::new("umount").arg("--lazy").arg(&path));
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.contains(&path.display().to_string())
}

fn call(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}", text.trim()))
}
