//! Child processes with a deadline, whose failure says what they printed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Longest that a tool may take: minutes, because installations count too.
const DEADLINE_S: u32 = 300;

/// A command that `timeout` ends after five minutes.
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", &DEADLINE_S.to_string()])
        .arg(program.as_ref());
    command
}

/// Runs it to its end and returns its output.
///
/// # Panics
/// When it can't be started or ends with an error; the message holds both its streams.
#[must_use]
pub fn output(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; see tests/setup.sh"));
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        let errors = String::from_utf8_lossy(&stderr);
        panic!(
            "{command:?}: {status}\n{}\n{}",
            tail(&stdout),
            tail(&errors)
        );
    }
    stdout
}

/// Runs it for its effect; see [`output`].
pub fn run(command: &mut Command) {
    let _ = output(command);
}

/// The last lines of a text, enough to see a fault.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// This crate's folder.
#[must_use]
pub fn source_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Cargo's target folder, found from where this test binary runs.
///
/// # Panics
/// When the binary isn't below a `deps` folder.
#[must_use]
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of the running test");
    let deps = exe
        .ancestors()
        .find(|p| p.ends_with("deps"))
        .expect("a test binary in deps");
    deps.ancestors()
        .nth(2)
        .expect("deps/.. is a profile in the target folder")
        .to_path_buf()
}
