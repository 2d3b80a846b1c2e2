//! Which files `streamctl log` reads: those named, and the segments in directories.

use std::fs;
use std::path::{Path, PathBuf};

use crate::conn::reason;
use crate::failure::{Failure, Result};

/// How deep directories are searched.
const DEPTH_MAX: usize = 16;

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is.
    pub path: PathBuf,
    /// Its size when it was found, bytes.
    pub size: u64,
    /// The offset in its name, if it has the name of a segment.
    pub base: Option<i64>,
}

/// The segments that `paths` stand for: a file is taken whatever its name, a directory is searched
/// for `<20 digits>.log`. Sorted within each directory.
///
/// # Errors
/// A path cannot be read, or there is no segment in it.
pub fn find(paths: &[PathBuf]) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for path in paths {
        let about = fs::metadata(path).map_err(|e| cannot(path, &e))?;
        let before = segments.len();
        if about.is_dir() {
            search(path, DEPTH_MAX, &mut segments)?;
        } else {
            segments.push(Segment {
                path: path.clone(),
                size: about.len(),
                base: base(path),
            });
        }
        if segments.len() == before {
            return Err(Failure::failed(format!(
                "no segment file (20 digits and `.log`) in {}. Name the data directory of a \
                 broker, or one of the directories in it. What was just written is in the journal \
                 first, and gets into a segment when the broker rests for a second",
                path.display()
            )));
        }
    }
    Ok(segments)
}

/// A path cannot be read.
pub fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot read {}: {}", path.display(), reason(error)))
}

fn search(dir: &Path, depth: usize, segments: &mut Vec<Segment>) -> Result<()> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| cannot(dir, &e))? {
        let entry = entry.map_err(|e| cannot(dir, &e))?;
        entries.push((entry.path(), entry));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    for (path, entry) in entries {
        // Links are not followed, so that a circle of them ends.
        let kind = entry.file_type().map_err(|e| cannot(&path, &e))?;
        if kind.is_dir() && depth > 0 {
            search(&path, depth - 1, segments)?;
        } else if kind.is_file() && base(&path).is_some() {
            match entry.metadata() {
                Ok(about) => segments.push(Segment {
                    base: base(&path),
                    size: about.len(),
                    path,
                }),
                // A broker that runs may have deleted it meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(cannot(&path, &e)),
            }
        }
    }
    Ok(())
}

fn base(path: &Path) -> Option<i64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".log")?;
    let is_name = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    is_name.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_searched_for_segments_only() {
        let top = tempfile::tempdir().expect("a directory");
        let sub = top.path().join("flights-0");
        fs::create_dir(&sub).expect("made");
        for name in [
            "00000000000000000100.log",
            "00000000000000000000.log",
            "notes.log",
            "1.index",
        ] {
            fs::write(sub.join(name), b"x").expect("written");
        }
        let found = find(&[top.path().to_owned()]).expect("found");
        let bases: Vec<_> = found.iter().map(|s| (s.base, s.size)).collect();
        assert_eq!(bases, [(Some(0), 1), (Some(100), 1)]);
        let named = find(&[sub.join("notes.log")]).expect("found");
        assert_eq!(named[0].base, None);
        let error = find(&[top.path().join("nothing")])
            .expect_err("not there")
            .to_string();
        assert!(error.contains("no such file"), "{error}");
        fs::create_dir(top.path().join("empty")).expect("made");
        let error = find(&[top.path().join("empty")])
            .expect_err("empty")
            .to_string();
        assert!(error.contains("no segment file"), "{error}");
    }
}
