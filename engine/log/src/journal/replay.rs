//! After a crash: what the journals hold is written to the segments again, then the journals end.
//!
//! Writing it again is harmless: a run says where in its segment it belongs, and the bytes there
//! are the same or are not there yet. Skipped is what lies before a partition's checkpoint (it is
//! durable in its segment, which may be deleted meanwhile), what is of before the log's last cut
//! (see [`crate::cut`]), and what belongs to a directory that is gone or is another topic's now.
//! Only the last group of a file can be torn; it was not acknowledged then.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use streamd_io::{BLOCK, Env, OpenOptions};
use streamd_model::Offset;

use super::file::parse_name;
use super::format::{FileHeader, GROUP_HEADER, GroupHeader, RunHeader};
use super::{DIR, end_use};
use crate::LogError;
use crate::batch::{BatchHeader, crc_matches};
use crate::checkpoint::{self, Checkpoint};
use crate::compact::swap;
use crate::cut;
use crate::segment;

/// Neighbouring runs are written in pieces of at most so many bytes.
const PIECE: usize = 4 << 20;
/// The largest `partition.metadata` that is looked at, bytes.
const METADATA_MAX: usize = 4096;

/// What a replay did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Groups that were found whole.
    pub groups: u64,
    /// Bytes of batches that were written to segments again.
    pub bytes: u64,
    /// Things that a person should know, as sentences.
    pub notes: Vec<String>,
}

/// A run that a journal holds.
#[derive(Clone)]
struct Found {
    metadata: String,
    generation: u32,
    segment: Offset,
    position: u64,
    bytes: Bytes,
}

type Runs = BTreeMap<String, Vec<Found>>;

/// So many files wait for their partitions at the most; what more there are is replayed at once.
const PUT_OFF_MAX: usize = 8;

/// What a replay has put off: the runs of partitions that are not needed yet, in memory, and the
/// files that have to stay until each of these partitions has its runs in its segments.
#[derive(Default)]
pub struct Backlog {
    runs: Runs,
    files: Vec<u32>,
}

/// What a journal holds of one partition.
pub struct PutOff(Vec<Found>);

impl Backlog {
    /// The names of the directories of all partitions that wait.
    pub fn names(&self) -> Vec<String> {
        self.runs.keys().cloned().collect()
    }

    /// Takes what there is of one partition: [`restore_one`] is to come.
    pub fn take(&mut self, name: &str) -> Option<PutOff> {
        self.runs.remove(name).map(PutOff)
    }

    /// Nobody is to come for what is left.
    pub fn clear(&mut self) {
        self.runs.clear();
    }

    /// Whether nobody waits any more.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The numbers of the files that were put off.
    pub fn files(&self) -> &[u32] {
        &self.files
    }
}

/// Writes what was put off to the segments of the partition in `dir`; durable when this returns.
/// After an error it may be called again if the disk is full.
pub async fn restore_one(env: &Env, dir: &Path, put_off: &PutOff) -> Result<u64, LogError> {
    let mut done = Replayed::default();
    restore(env, dir, put_off.0.clone(), &mut done).await?;
    Ok(done.bytes)
}

/// Replays the journals in `data_dir` of the shards that `mine` chooses. Everything is durable in
/// the segments when this returns; the files stay, to be used again, if `keep` says so of their
/// shard, or are removed.
pub async fn replay(
    env: &Env,
    data_dir: &Path,
    mine: impl Fn(usize) -> bool,
    keep: impl Fn(usize) -> bool,
) -> Result<Replayed, LogError> {
    let replayed = replay_some(env, data_dir, (mine, keep), |_, _, _| false).await?;
    Ok(replayed.0)
}

/// Like [`replay`], but puts off the runs for which `later` says so: it is told the shard of the
/// journal, the name of the partition's directory, and its metadata. Of a file of which something
/// was put off, everything stays: it is not to be used before the backlog is done.
pub async fn replay_some(
    env: &Env,
    data_dir: &Path,
    (mine, keep): (impl Fn(usize) -> bool, impl Fn(usize) -> bool),
    later: impl Fn(usize, &str, &str) -> bool,
) -> Result<(Replayed, Backlog), LogError> {
    let dir = data_dir.join(DIR);
    let mut done = Replayed::default();
    let mut backlog = Backlog::default();
    let entries = match env.list_dir(&dir).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((done, backlog)),
        r => r.map_err(LogError::io(format!("list {}", dir.display())))?,
    };
    let files: Vec<((usize, u32), PathBuf)> = entries
        .iter()
        .filter_map(|e| Some((parse_name(&e.name)?, dir.join(&e.name))))
        .filter(|((shard, _), _)| mine(*shard))
        .collect();
    for ((shard, number), path) in files {
        let mut runs = Runs::new();
        let in_use = scan(env, &path, &mut runs, &mut done).await?;
        let may_wait = keep(shard) && backlog.files.len() < PUT_OFF_MAX;
        let mut waits = false;
        for (name, found) in runs {
            let (off, now): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|f| may_wait && later(shard, &name, &f.metadata));
            if !now.is_empty() {
                restore(env, &data_dir.join(&name), now, &mut done).await?;
            }
            if !off.is_empty() {
                waits = true;
                backlog.runs.entry(name).or_default().extend(off);
            }
        }
        if waits {
            backlog.files.push(number);
        } else if !keep(shard) {
            let fail = LogError::io(format!("remove {}", path.display()));
            env.remove_file(&path).await.map_err(fail)?;
        } else if in_use && let Err(error) = end_use(env, &path).await {
            // It may be the file that failed when it was written: it is not needed any more.
            done.notes.push(format!("{error}; the file is removed"));
            let fail = |what: &str| LogError::sync(format!("{what} {}", path.display()));
            env.remove_file(&path).await.map_err(fail("remove"))?;
            env.sync_dir(&dir).await.map_err(fail("sync the name of"))?;
        }
    }
    Ok((done, backlog))
}

/// Collects the runs of a file. False when the file was not in use.
async fn scan(
    env: &Env,
    path: &Path,
    runs: &mut Runs,
    done: &mut Replayed,
) -> Result<bool, LogError> {
    let fail = |what: &str| LogError::io(format!("{what} {}", path.display()));
    let options = OpenOptions::new().direct();
    let file = env.open(path, &options).await.map_err(fail("open"))?;
    let block = file.read_at(0, BLOCK).await.map_err(fail("read"))?;
    let header = FileHeader::decode(&block).map_err(|version| {
        LogError::Corrupt(format!(
            "{}: version {version} of a journal; start the newer program that wrote it, and stop \
             it cleanly",
            path.display()
        ))
    })?;
    let Some(header) = header else {
        return Ok(false);
    };
    let size = file.size().await.map_err(fail("look at"))?;
    let bytes = file.read_at(0, size as usize).await.map_err(fail("read"))?;
    let mut seq = header.first_seq;
    let mut groups: Vec<(usize, GroupHeader)> = Vec::new();
    let mut at = BLOCK;
    while at < bytes.len() {
        let here = GroupHeader::decode(&bytes[at..])
            .filter(|g| g.id == header.id && g.seq >= seq && g.len >= GROUP_HEADER);
        match here {
            Some(group) if group.len <= bytes.len() - at => {
                if group.seq > seq {
                    done.notes.push(format!(
                        "{}: groups {seq} to {} are damaged: records that were acknowledged may \
                         be missing at the ends of their partitions",
                        path.display(),
                        group.seq - 1
                    ));
                }
                seq = group.seq + 1;
                groups.push((at, group));
                at += group.blocks() as usize;
            }
            // Where the groups end, unless this one is damaged and others follow: look on.
            _ => at += BLOCK,
        }
        env.yield_if_needed().await;
    }
    let last = groups.len().saturating_sub(1);
    for (i, (at, group)) in groups.iter().enumerate() {
        let body = bytes.slice(at + GROUP_HEADER..at + group.len);
        match split(&body, group.runs, i == last) {
            Some(found) => {
                done.groups += 1;
                for (name, run) in found {
                    runs.entry(name).or_default().push(run);
                }
            }
            None => keep_aside(env, path, &bytes[*at..at + group.len], *at, done).await?,
        }
        env.yield_if_needed().await;
    }
    Ok(true)
}

/// The runs of a group; `None` when it is not whole. `check` looks at each batch.
fn split(body: &Bytes, count: usize, check: bool) -> Option<Vec<(String, Found)>> {
    let mut runs = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let (header, size) = RunHeader::decode(&body[at..])?;
        at = at.checked_add(size)?.checked_add(header.pad)?;
        let end = at
            .checked_add(header.len)
            .filter(|&end| end <= body.len())?;
        let bytes = body.slice(at..end);
        if check && !is_whole(&bytes) {
            return None;
        }
        let found = Found {
            metadata: header.metadata.to_owned(),
            generation: header.generation,
            segment: header.segment,
            position: header.position,
            bytes,
        };
        runs.push((header.dir.to_owned(), found));
        at = end;
    }
    Some(runs)
}

fn is_whole(batches: &[u8]) -> bool {
    let mut at = 0;
    while at < batches.len() {
        match BatchHeader::parse(&batches[at..]) {
            Ok(h) if h.size <= batches.len() - at && crc_matches(&batches[at..at + h.size]) => {
                at += h.size;
            }
            _ => return false,
        }
    }
    true
}

/// Keeps a group that is not whole for a person to look at.
async fn keep_aside(
    env: &Env,
    path: &Path,
    group: &[u8],
    at: usize,
    done: &mut Replayed,
) -> Result<(), LogError> {
    let aside = path.with_extension(format!("cut-{at}"));
    env.write_file_atomic(&aside, group.to_vec())
        .await
        .map_err(LogError::io(format!("write {}", aside.display())))?;
    // The file may be read again by the next start, when something else is in the place of it.
    let fail = |what: &str| LogError::io(format!("{what} {}", path.display()));
    let options = OpenOptions {
        read: true,
        write: true,
        create: false,
        direct: true,
        durable: true,
    };
    let file = env.open(path, &options).await.map_err(fail("open"))?;
    let mut zeros = env.alloc(BLOCK);
    zeros.fill(0);
    file.write_at(zeros, at as u64).await.map_err(fail("end"))?;
    done.notes.push(format!(
        "{}: the write at byte {at} was not finished, and not acknowledged; its {} bytes are kept \
         in {}",
        path.display(),
        group.len(),
        aside.display()
    ));
    Ok(())
}

/// Writes runs to the segments of the partition in `dir`.
async fn restore(
    env: &Env,
    dir: &Path,
    runs: Vec<Found>,
    done: &mut Replayed,
) -> Result<(), LogError> {
    let fail = |what: &str| LogError::io(format!("{what} in {}", dir.display()));
    let metadata = match env
        .read_file(&dir.join("partition.metadata"), METADATA_MAX)
        .await
    {
        Err(e) if e.kind() == io::ErrorKind::NotFound => match env.list_dir(dir).await {
            // The topic was deleted.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            r => r.map(|_| Vec::new()).map_err(fail("list what is"))?,
        },
        r => r.map_err(fail("read partition.metadata"))?,
    };
    let from = match env
        .read_file(&dir.join(checkpoint::FILE), checkpoint::BYTES_MAX)
        .await
    {
        Err(e) if e.kind() == io::ErrorKind::NotFound => (0, 0),
        r => Checkpoint::decode(&r.map_err(fail("read the checkpoint"))?)
            .map_or((0, 0), |c| (c.segment, c.position)),
    };
    // What was compacted lies elsewhere now, and was durable before.
    let touched = swap::read_cleaned(env, dir).await?;
    let touched = touched.map_or(0, |c| c.touched);
    // What was cut must not come back, and what was not cut then was durable in its segment.
    let generation = cut::generation(env, dir).await?;
    let mut segments: BTreeMap<Offset, Vec<Found>> = BTreeMap::new();
    for run in runs {
        let end = (run.segment, run.position + run.bytes.len() as u64);
        if run.segment < touched && touched != i64::MAX {
            continue;
        }
        let counts = run.metadata.as_bytes() == metadata && run.generation >= generation;
        if counts && end > from {
            segments.entry(run.segment).or_default().push(run);
        }
    }
    for (base, runs) in segments {
        done.bytes += rewrite(env, dir, base, runs).await?;
    }
    Ok(())
}

async fn rewrite(
    env: &Env,
    dir: &Path,
    base: Offset,
    mut runs: Vec<Found>,
) -> Result<u64, LogError> {
    let path = dir.join(segment::file_name(base, "log"));
    let fail = |what: &str| LogError::io(format!("{what} {}", path.display()));
    let options = OpenOptions::new().create();
    let file = env.open(&path, &options).await.map_err(fail("open"))?;
    env.sync_dir(dir).await.map_err(fail("sync the name of"))?;
    runs.sort_by_key(|r| r.position);
    let mut written = 0;
    let (mut piece, mut at) = (Vec::new(), 0);
    for run in runs {
        let follows = at + piece.len() as u64 == run.position;
        if !piece.is_empty() && (!follows || piece.len() + run.bytes.len() > PIECE) {
            written += piece.len() as u64;
            file.write_plain(std::mem::take(&mut piece), at)
                .await
                .map_err(fail("write"))?;
        }
        if piece.is_empty() {
            at = run.position;
        }
        piece.extend_from_slice(&run.bytes);
        env.yield_if_needed().await;
    }
    written += piece.len() as u64;
    file.write_plain(piece, at).await.map_err(fail("write"))?;
    let fail = LogError::sync(format!("sync {}", path.display()));
    file.sync().await.map_err(fail)?;
    Ok(written)
}
