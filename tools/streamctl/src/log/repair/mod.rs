//! `streamctl log repair`: says what it would do with damaged segments, and does it when told to.
//!
//! Nothing is deleted: what is replaced is kept beside it under another name. Offsets never change.
//! The broker must be stopped, and its journals empty.

mod plan;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use streamd_log::checkpoint::{self, Checkpoint};
use streamd_log::scrub;

use super::cuts;
use super::files::{Segment, cannot};
use super::journals;
use crate::cli::Global;
use crate::failure::{Failure, Result};
use crate::out;

use plan::Plan;

/// A segment that is to be mended.
struct Job<'a> {
    segment: &'a Segment,
    bytes: Vec<u8>,
    plan: Plan,
    /// Whether the checkpoint speaks of bytes that move.
    checkpoint: bool,
}

/// Runs the command; without `apply` nothing is changed.
///
/// # Errors
/// There is damage and `apply` is not given; a file cannot be read or written; the broker runs.
pub fn run(global: &Global, segments: &[Segment], apply: bool) -> Result<()> {
    let mut dirs: BTreeMap<&Path, Vec<&Segment>> = BTreeMap::new();
    for segment in segments {
        let Some((dir, _)) = segment.path.parent().zip(segment.base) else {
            return Err(Failure::Usage(format!(
                "{} is not named as a segment: name the directory of a partition",
                segment.path.display()
            )));
        };
        dirs.entry(dir).or_default().push(segment);
    }
    if let Some(cuts) = cuts::beside(segments)?.iter().find(|c| c.is_unfinished()) {
        // It names a place in a segment, which must not move.
        let text = cuts.text();
        return Err(Failure::failed(format!("nothing was changed: {text}")));
    }
    let _locks = match apply {
        true => take_charge(segments, dirs.keys().copied())?,
        false => Vec::new(),
    };
    let (mut lines, mut damaged) = (Vec::new(), 0);
    for (dir, segments) in dirs {
        for (i, segment) in segments.iter().enumerate() {
            let following = next_segment(dir, segment.base, segments.get(i + 1))?;
            let Some(job) = look(segment, following)? else {
                continue;
            };
            damaged += 1;
            let name = segment.path.display();
            lines.extend(job.plan.say().iter().map(|what| format!("{name}: {what}")));
            if job.checkpoint {
                lines.push(format!(
                    "{}: is set aside; the next start reads the whole log, and records that \
                     DeleteRecords deleted within a segment are there again",
                    dir.join(checkpoint::FILE).display()
                ));
            }
            if apply {
                lines.push(format!("{name}: kept as {}", job.run(dir)?.display()));
            }
        }
        let mark = dir.join(scrub::MARK);
        if mark.exists() {
            damaged += 1;
            let what = "is removed, so that the partition is served again";
            lines.push(format!("{}: {what}", mark.display()));
            if apply {
                fs::remove_file(&mark).map_err(|e| failed("remove", &mark, &e))?;
                sync_dir(dir)?;
            }
        }
    }
    tell(global, &lines, apply)?;
    if damaged > 0 && !apply {
        return Err(Failure::failed(
            "nothing was changed. Keep a copy of the directory, then give --apply to do this",
        ));
    }
    Ok(())
}

fn tell(global: &Global, lines: &[String], apply: bool) -> Result<()> {
    if global.json {
        return out::json(&json!({"applied": apply, "actions": lines}));
    }
    if lines.is_empty() {
        out::say("no damage: nothing to do");
        return Ok(());
    }
    out::line(lines.join("\n"))
}

/// Sees to it that no broker has the files, or has records for them elsewhere.
fn take_charge<'a>(
    segments: &[Segment],
    dirs: impl Iterator<Item = &'a Path>,
) -> Result<Vec<File>> {
    if let Some(dir) = journals::in_use(segments).first() {
        return Err(Failure::failed(format!(
            "{} is in use: start the broker and stop it again, so that what it holds gets into \
             the segments; then repair",
            dir.display()
        )));
    }
    let mut locks: BTreeMap<PathBuf, File> = BTreeMap::new();
    for dir in dirs {
        let dir = fs::canonicalize(dir).map_err(|e| cannot(dir, &e))?;
        let lock = dir.parent().unwrap_or(&dir).join("LOCK");
        if locks.contains_key(&lock) || !lock.exists() {
            continue;
        }
        let file = File::open(&lock).map_err(|e| cannot(&lock, &e))?;
        match file.try_lock() {
            Ok(()) => locks.insert(lock, file),
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::failed(format!(
                    "a broker runs on {}: stop it first",
                    lock.parent().unwrap_or(&lock).display()
                )));
            }
            Err(TryLockError::Error(e)) => return Err(failed("lock", &lock, &e)),
        };
    }
    Ok(locks.into_values().collect())
}

/// Where the segment after the one at `base` begins, whether it was named or not.
fn next_segment(dir: &Path, base: Option<i64>, named: Option<&&Segment>) -> Result<Option<i64>> {
    if let Some(next) = named {
        return Ok(next.base);
    }
    let all = super::files::find(&[dir.to_owned()])?;
    let later = all
        .iter()
        .filter_map(|s| s.base)
        .filter(|b| Some(*b) > base);
    Ok(later.min())
}

/// What is to be done with a segment, if anything.
fn look(segment: &Segment, next: Option<i64>) -> Result<Option<Job<'_>>> {
    let bytes = fs::read(&segment.path).map_err(|e| cannot(&segment.path, &e))?;
    let base = segment.base.unwrap_or(0);
    let plan = Plan::new(&bytes, base, next);
    if !plan.is_needed() {
        return Ok(None);
    }
    let stored = segment.path.with_file_name(checkpoint::FILE);
    let checkpoint = fs::read(stored)
        .ok()
        .and_then(|b| Checkpoint::decode(&b).ok());
    // What lies behind its position is read at the start anyway.
    let checkpoint = checkpoint.is_some_and(|c| {
        c.segment < base || (c.segment == base && (plan.from() as u64) < c.position)
    });
    Ok(Some(Job {
        segment,
        bytes,
        plan,
        checkpoint,
    }))
}

impl Job<'_> {
    /// Replaces the file; where the old one is now.
    fn run(&self, dir: &Path) -> Result<PathBuf> {
        let path = &self.segment.path;
        let new = path.with_extension("log.repaired");
        let mut file = File::create(&new).map_err(|e| failed("create", &new, &e))?;
        file.write_all(&self.plan.apply(&self.bytes))
            .and_then(|()| file.sync_all())
            .map_err(|e| failed("write", &new, &e))?;
        // Made anew from the log when they are not there.
        for extension in ["index", "timeindex"] {
            set_aside(&path.with_extension(extension))?;
        }
        if self.checkpoint {
            set_aside(&dir.join(checkpoint::FILE))?;
        }
        let kept = set_aside(path)?;
        fs::rename(&new, path).map_err(|e| failed("rename", &new, &e))?;
        sync_dir(dir)?;
        Ok(kept.unwrap_or_else(|| path.clone()))
    }
}

/// Renames a file to a name that is free; `None` when it is not there.
fn set_aside(path: &Path) -> Result<Option<PathBuf>> {
    if !path.exists() {
        return Ok(None);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let free = (0..u32::MAX)
        .map(|i| path.with_file_name(format!("{name}.damaged-{i}")))
        .find(|p| !p.exists());
    let aside = free.unwrap_or_else(|| path.with_extension("damaged"));
    fs::rename(path, &aside).map_err(|e| failed("rename", path, &e))?;
    Ok(Some(aside))
}

fn sync_dir(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|d| d.sync_all());
    synced.map_err(|e| failed("sync", dir, &e))
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}
