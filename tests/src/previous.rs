//! The broker of before, built from the repository's history: what a rolling upgrade begins with.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::broker::streamd;
use crate::run::{run, source_dir, target_dir};

/// Which commit it is, with a word on when to move on.
const NAMED: &str = include_str!("../upgrade/previous.txt");
/// The first commit of all: a clone that has it has the whole history.
const FIRST: &str = "cca0fd6e86c47b5ded12281338aaeea01bb72b31";

/// The commit of the build before this one.
///
/// # Panics
/// When the file that names it has no line for it.
#[must_use]
pub fn commit() -> &'static str {
    let mut lines = NAMED.lines().filter(|line| !line.starts_with('#'));
    lines
        .next()
        .expect("a commit in tests/upgrade/previous.txt")
}

/// The program of before, or what `STREAMD_PREVIOUS_BIN` names; built first, once. `None`, with a
/// word on standard error, where there is no history to build it from: in a shallow clone, or in an
/// unpacked archive.
///
/// # Panics
/// When the history is whole and has no such commit, or it cannot be built.
#[must_use]
pub fn previous() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("STREAMD_PREVIOUS_BIN") {
        return Some(given.into());
    }
    let commit = commit();
    if !has(commit) {
        assert!(
            !has(FIRST),
            "the history has no commit {commit}; tests/upgrade/previous.txt names it: it has to \
             be one that this branch comes from"
        );
        eprintln!(
            "NOT TESTED: upgrades from the build before this one. The history here is not whole \
             and has no {commit}; `git fetch --unshallow` may bring it"
        );
        return None;
    }
    // Its crates are not compiled a second time, so they have to be there.
    let _ = streamd();
    let dir = target_dir().join("previous");
    fs::create_dir_all(&dir).expect("a writable target folder");
    let lock = File::create(dir.join("lock")).expect("a lock file");
    lock.lock().expect("the lock on a build");
    let stamp = dir.join("stamp");
    let program = dir.join("target/release/streamd");
    if !fs::read_to_string(&stamp).is_ok_and(|done| done == commit) || !program.exists() {
        build(&dir, commit);
        fs::write(stamp, commit).expect("a writable target folder");
    }
    Some(program)
}

/// Whether the repository has a commit.
fn has(commit: &str) -> bool {
    let mut git = Command::new("git");
    git.args(["cat-file", "-e", &format!("{commit}^{{commit}}")]);
    git.current_dir(source_dir());
    git.stdout(Stdio::null()).stderr(Stdio::null());
    git.status().is_ok_and(|status| status.success())
}

fn build(dir: &Path, commit: &str) {
    let (source, target) = (dir.join("src"), dir.join("target"));
    let _ = fs::remove_dir_all(&source);
    fs::create_dir_all(&source).expect("a writable target folder");
    let archive = dir.join("source.tar");
    let root = source_dir().parent().expect("the repository");
    let mut git = Command::new("git");
    git.args(["archive", "--format=tar", "--output"]);
    run(git.arg(&archive).arg(commit).current_dir(root));
    run(Command::new("tar")
        .args(["-xf"])
        .arg(&archive)
        .arg("-C")
        .arg(&source));
    fs::remove_file(archive).expect("the archive of a moment ago");
    borrow(&target_dir().join("release"), &target.join("release"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Not in its own folder: then its settings would count beside those of the folders above it,
    // with each flag twice, and no crate would be the same as the one that is there.
    run(Command::new(cargo)
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["--package", "streamd", "--manifest-path"])
        .arg(source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root));
}

/// Links what was compiled already: of crates from elsewhere it is the same.
fn borrow(from: &Path, to: &Path) {
    let is_there = |part: &&str| from.join(part).exists() && !to.join(part).exists();
    let parts = ["deps", "build", ".fingerprint"];
    fs::create_dir_all(to).expect("a writable target folder");
    for part in parts.into_iter().filter(is_there) {
        // What goes away meanwhile is compiled again.
        let mut copy = Command::new("cp");
        let _ = copy.arg("-rl").arg(from.join(part)).arg(to).status();
    }
}
