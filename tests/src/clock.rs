//! A wall clock for a process of its own, which can be put forward and back while it runs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use tempfile::NamedTempFile;

use crate::run::{run, source_dir, target_dir};

/// How far the wall clock of a process is from the machine's; shared with the process.
#[derive(Clone, Debug)]
pub struct Clock(Arc<NamedTempFile>);

impl Clock {
    /// One that is right.
    ///
    /// # Panics
    /// When there is no file to be made, or no C compiler.
    #[must_use]
    pub fn new() -> Self {
        let file = NamedTempFile::with_prefix("streamd-clock-").expect("a temporary file");
        let clock = Self(Arc::new(file));
        clock.set(0);
        clock
    }

    /// From now on it is so many ms ahead of the machine's, or behind it.
    ///
    /// # Panics
    /// When its file is gone.
    pub fn set(&self, ahead_ms: i64) {
        let file: &File = self.0.as_file();
        let written = file.write_all_at(&ahead_ms.to_ne_bytes(), 0);
        written.expect("a file of ours");
    }

    /// Has a process that is started by this command go by the clock.
    ///
    /// # Panics
    /// When there is no C compiler.
    pub fn rule(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", library())
            .env("STREAMD_TEST_CLOCK", self.0.path());
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// `clock.c`, built once.
fn library() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let path = target_dir().join("test-clock.so");
        // Several tests may build it; one of them loads what is whole.
        let made = path.with_extension(std::process::id().to_string());
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&made);
        run(cc.arg(source_dir().join("src/clock.c")));
        fs::rename(&made, &path).expect("the target folder");
        path
    })
}
