//! Putting a compacted segment in the place of those that it was made of, so that a crash at any
//! moment leaves the one or the others.
//!
//! The new file is written as `<base>.log.cleaned` and made durable. Its renaming to
//! `<base>-<next>.swap` decides: from then on it stands for all segments from offset `base` to
//! `next`. Their files and indexes are removed, durably, and last it gets its name. A start removes
//! what is `cleaned` and carries through what is `swap`.
//!
//! In memory the new segment takes the place as soon as it is decided, and keeps its file open
//! until it has its name. Readers of the old ones have their files open and read on.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use streamd_io::{DirEntry, Env, File};
use streamd_model::Offset;

use crate::LogError;
use crate::index::Index;
use crate::log::Log;
use crate::segment::{Segment, file_name};

/// The file that says how far a partition's log was compacted.
pub const CLEANED: &str = "cleaned";

const CLEANED_BYTES: usize = 28;
const CLEANED_MAGIC: &[u8; 8] = b"SDCLEAN1";

/// How far a log was compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanedTo {
    /// Everything before it was compacted once.
    pub done: Offset,
    /// Segments that begin before it may have gaps.
    pub touched: Offset,
}

impl CleanedTo {
    fn encode(self) -> Vec<u8> {
        let mut out = CLEANED_MAGIC.to_vec();
        out.extend_from_slice(&self.done.to_le_bytes());
        out.extend_from_slice(&self.touched.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<CleanedTo> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let (magic, body_rest) = body.split_first_chunk::<8>()?;
        let (done, touched) = body_rest.split_first_chunk::<8>()?;
        let touched: [u8; 8] = touched.try_into().ok()?;
        let good = magic == CLEANED_MAGIC && crc32c::crc32c(body) == u32::from_le_bytes(*crc);
        good.then_some(CleanedTo {
            done: i64::from_le_bytes(*done),
            touched: i64::from_le_bytes(touched),
        })
    }
}

/// Reads how far the log in `dir` was compacted; `None` when it never was. A file that cannot be
/// read says that anything may have gaps, and that all is to be done again.
pub async fn read_cleaned(env: &Env, dir: &Path) -> Result<Option<CleanedTo>, LogError> {
    let path = dir.join(CLEANED);
    match env.read_file(&path, 4096).await {
        Ok(bytes) => Ok(Some(CleanedTo::decode(&bytes).unwrap_or(CleanedTo {
            done: 0,
            touched: i64::MAX,
        }))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LogError::Io {
            what: format!("read {}", path.display()),
            error,
        }),
    }
}

/// Writes how far the log was compacted, durably. A log that is retired keeps what it has.
pub(super) async fn store_cleaned(
    env: &Env,
    log: &RefCell<Log>,
    to: CleanedTo,
) -> Result<(), LogError> {
    let turn = log.borrow().sealed.turn.clone();
    let _turn = turn.acquire(1).await;
    if log.borrow().sealed.retired {
        return Ok(());
    }
    let path = log.borrow().dir.join(CLEANED);
    assert!(to.encode().len() == CLEANED_BYTES, "of one size");
    env.write_file_atomic(&path, to.encode())
        .await
        .map_err(LogError::io(format!("write {}", path.display())))?;
    log.borrow_mut().sealed.cleaned = to;
    Ok(())
}

/// A compacted segment that is durable under its first name.
pub(super) struct Made {
    /// The file, open for reading.
    pub file: File,
    /// Its bytes.
    pub size: u64,
    /// Its index.
    pub index: Index,
}

/// Where the file of a compacted segment is written.
pub(super) fn cleaned_path(dir: &Path, base: Offset) -> PathBuf {
    dir.join(file_name(base, "log.cleaned"))
}

/// Puts `made` in the place of `old`, neighbours in the log. False when they are not there any
/// more: then nothing has changed.
pub(super) async fn replace(
    env: &Env,
    log: &RefCell<Log>,
    old: &[Rc<Segment>],
    made: Made,
) -> Result<bool, LogError> {
    let turn = log.borrow().sealed.turn.clone();
    let _turn = turn.acquire(1).await;
    let dir = log.borrow().dir.clone();
    let (base, next) = (old[0].base, old[old.len() - 1].next());
    let from = cleaned_path(&dir, base);
    if place_of(&log.borrow(), old).is_none() {
        remove(env, &from).await?;
        return Ok(false);
    }
    let swap = dir.join(format!("{base:020}-{next:020}.swap"));
    rename(env, &from, &swap).await?;
    sync_dir(env, &dir).await?;
    let segment = Segment::pinned(&dir, (base, next), (made.file, made.size), made.index);
    {
        let mut log = log.borrow_mut();
        let at = place_of(&log, old).expect("segments go in turn only");
        // What memory has of the old ones lies elsewhere than in the new one.
        assert!(log.drop_tail(next), "what is compacted is in its segment");
        log.segments.drain(at..at + old.len());
        log.segments.insert(at, segment.clone());
        log.sealed.prepared.located = None;
        log.sealed
            .prepared
            .segments
            .retain(|s| !old.iter().any(|o| Rc::ptr_eq(o, s)));
        log.sealed.generation += 1;
    }
    finish(env, &dir, (base, &swap), old[1..].iter().map(|s| s.base)).await?;
    // Without index files it is read from the log again, as after a crash right here.
    let _ = segment.store_index(env).await;
    segment.unpin();
    log.borrow_mut().note_prepared(&segment);
    Ok(true)
}

fn place_of(log: &Log, old: &[Rc<Segment>]) -> Option<usize> {
    if log.sealed.retired {
        return None;
    }
    let at = log.segments.iter().position(|s| Rc::ptr_eq(s, &old[0]))?;
    let same = |(i, s)| log.segments.get(at + i).is_some_and(|x| Rc::ptr_eq(x, s));
    old.iter().enumerate().all(same).then_some(at)
}

/// Carries through what is decided: only then do the old files go.
async fn finish(
    env: &Env,
    dir: &Path,
    (base, swap): (Offset, &Path),
    others: impl Iterator<Item = Offset>,
) -> Result<(), LogError> {
    for extension in ["index", "timeindex"] {
        remove(env, &dir.join(file_name(base, extension))).await?;
    }
    for other in others {
        for extension in ["index", "timeindex", "log"] {
            remove(env, &dir.join(file_name(other, extension))).await?;
        }
    }
    // Not before they are gone for good: it would not be known any more that they have to go.
    sync_dir(env, dir).await?;
    rename(env, swap, &dir.join(file_name(base, "log"))).await?;
    sync_dir(env, dir).await
}

/// Ends what a crash has left half done in a partition's directory, which has these entries. True
/// when something was.
pub async fn finish_all(env: &Env, dir: &Path, entries: &[DirEntry]) -> Result<bool, LogError> {
    let mut found = false;
    for entry in entries {
        if entry.name.ends_with(".log.cleaned") {
            remove(env, &dir.join(&entry.name)).await?;
            found = true;
        }
        let Some((base, next)) = parse_swap(&entry.name) else {
            continue;
        };
        let others = entries
            .iter()
            .filter_map(|e| e.name.strip_suffix(".log")?.parse::<Offset>().ok())
            .filter(|&b| base < b && b < next);
        finish(env, dir, (base, &dir.join(&entry.name)), others).await?;
        found = true;
    }
    Ok(found)
}

fn parse_swap(name: &str) -> Option<(Offset, Offset)> {
    let (base, next) = name.strip_suffix(".swap")?.split_once('-')?;
    Some((base.parse().ok()?, next.parse().ok()?))
}

async fn rename(env: &Env, from: &Path, to: &Path) -> Result<(), LogError> {
    let what = format!("rename {} to {}", from.display(), to.display());
    env.rename(from, to).await.map_err(LogError::io(what))
}

async fn sync_dir(env: &Env, dir: &Path) -> Result<(), LogError> {
    let what = format!("sync the names in {}", dir.display());
    env.sync_dir(dir).await.map_err(LogError::io(what))
}

pub(crate) async fn remove(env: &Env, path: &Path) -> Result<(), LogError> {
    match env.remove_file(path).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(LogError::Io {
            what: format!("remove {}", path.display()),
            error: e,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_survives_and_damage_is_seen() {
        let to = CleanedTo {
            done: 7,
            touched: 9,
        };
        let bytes = to.encode();
        assert_eq!(CleanedTo::decode(&bytes), Some(to));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(CleanedTo::decode(&bad), None, "bit {bit}");
        }
        assert_eq!(CleanedTo::decode(&bytes[..27]), None);
    }

    #[test]
    fn names() {
        let name = "00000000000000000003-00000000000000000010.swap";
        assert_eq!(parse_swap(name), Some((3, 10)));
        assert_eq!(parse_swap("00000000000000000003.log"), None);
    }
}
