//! Cutting the end off a log, or all of it: what a follower does with what is not its leader's.
//!
//! A file in the partition's directory decides. It has the log's generation, one more with every
//! cut, and what is to be done; a start carries it through. Runs in the journals have the
//! generation that they were taken in. Everything before the cut is durable in the segments when
//! it is decided, so from then on a replay needs no run of an earlier generation, and none brings
//! back what was cut. (A record in the journal would have to be in order with them: but journals
//! of several shards and lives are replayed together, and they have no common order.)
//!
//! In memory the log ends at the cut at once; what is on its way to the disk lands and does not
//! count. Then the log is opened anew from the disk, as after a crash, so whatever is known of its
//! end (index, epochs, checkpoint, the owner's state) is found by the code that always finds it.

use std::cell::RefCell;
use std::io;
use std::path::Path;

use streamd_io::local::Budget;
use streamd_io::{DirEntry, Env, OpenOptions};
use streamd_model::Offset;

use crate::batch::BatchHeader;
use crate::checkpoint::{self, Checkpoint};
use crate::compact::swap;
use crate::log::Log;
use crate::segment::file_name;
use crate::{LogError, lookup, recover, write_back};

/// The file in a partition's directory that says how often its log was cut.
pub const FILE: &str = "cuts";

const MAGIC: &[u8; 8] = b"SDCUTS01";
const BYTES: usize = 8 + 4 + 1 + 3 * 8 + 4;
/// Memory for what is written to the segments before a cut, bytes.
const ROOM: usize = 1 << 20;

/// What is still to be done to the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Todo {
    Nothing,
    /// They end at this position of the segment with this base, which is where offset `to` is.
    Cut {
        segment: Offset,
        position: u64,
        to: Offset,
    },
    /// All of them go; the log begins, and ends, here.
    Reset {
        start: Offset,
    },
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    generation: u32,
    todo: Todo,
}

impl Order {
    fn encode(self) -> Vec<u8> {
        let (kind, numbers) = match self.todo {
            Todo::Nothing => (0, [0; 3]),
            Todo::Cut {
                segment,
                position,
                to,
            } => (1, [segment, position as i64, to]),
            Todo::Reset { start } => (2, [start, 0, 0]),
        };
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.push(kind);
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Order> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let (magic, rest) = body.split_first_chunk::<8>()?;
        if magic != MAGIC || crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (generation, rest) = rest.split_first_chunk::<4>()?;
        let (&kind, rest) = rest.split_first()?;
        let (segment, rest) = rest.split_first_chunk::<8>()?;
        let (position, to) = rest.split_first_chunk::<8>()?;
        let (segment, position) = (i64::from_le_bytes(*segment), i64::from_le_bytes(*position));
        let todo = match kind {
            0 => Todo::Nothing,
            1 => Todo::Cut {
                segment,
                position: position as u64,
                to: i64::from_le_bytes(to.try_into().ok()?),
            },
            2 => Todo::Reset { start: segment },
            _ => return None,
        };
        let generation = u32::from_le_bytes(*generation);
        Some(Order { generation, todo })
    }
}

/// What a file with the name [`FILE`] says, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// How often the log was cut.
    pub generation: u32,
    /// What is decided and may not be done to the files yet: the next start carries it through.
    pub unfinished: Option<String>,
}

/// Reads the bytes of such a file; `None` if they are damaged.
pub fn decode(bytes: &[u8]) -> Option<Stored> {
    let order = Order::decode(bytes)?;
    let unfinished = match order.todo {
        Todo::Nothing => None,
        Todo::Cut {
            segment,
            position,
            to,
        } => Some(format!(
            "a cut to offset {to}, which is at byte {position} of {}",
            file_name(segment, "log")
        )),
        Todo::Reset { start } => Some(format!("a reset: it begins anew at offset {start}")),
    };
    Some(Stored {
        generation: order.generation,
        unfinished,
    })
}

/// What came of a cut.
#[derive(Debug, Default)]
pub struct Truncated {
    /// The owner's state as the last checkpoint before the cut has it; the batches that were shown
    /// come after it. Empty if there is none: then all that the log has was shown.
    pub state: Vec<u8>,
    /// Things that a person should know, as sentences.
    pub notes: Vec<String>,
}

impl Log {
    /// Whether the log is being cut: nothing is appended to it, or rolled, until that is done. So
    /// it is also after a cut that failed.
    pub fn is_cutting(&self) -> bool {
        self.queue.cut.is_some()
    }

    /// Whether there is a batch boundary at `to`, as far as memory tells; and whether it may go.
    fn check_cut(&self, to: Offset) -> Result<(), LogError> {
        let refuse = |why: String| {
            let what = format!("cut {} to offset {to}", self.dir.display());
            let error = io::Error::new(io::ErrorKind::InvalidInput, why);
            Err(LogError::Io { what, error })
        };
        if to < self.start || to > self.end {
            return refuse(format!("it has offsets {} to {}", self.start, self.end));
        }
        let touched = self.sealed.cleaned.touched;
        if to < touched && touched != Offset::MAX {
            return refuse(format!("it was compacted up to offset {touched}"));
        }
        let next = |p: &crate::log::Pending| {
            p.base + i64::from(p.batch.facts.header.last_offset_delta) + 1
        };
        let spans = |p: &&crate::log::Pending| p.base < to && to < next(p);
        match self.queue.pending.iter().find(spans) {
            Some(p) => refuse(format!("a batch has offsets {} to {}", p.base, next(p) - 1)),
            None => Ok(()),
        }
    }

    /// Whatever lies at `to` or behind is none of the log any more.
    fn begin_cut(&mut self, to: Offset) {
        let q = &mut self.queue;
        q.cut = Some(q.cut.map_or(to, |c| c.min(to)));
        let kept = q.pending.partition_point(|p| p.base < to);
        for p in q.pending.drain(kept..) {
            q.bytes -= p.batch.bytes.len();
        }
        q.taken = q.taken.min(to);
        (self.end, self.flushed) = (self.end.min(to), self.flushed.min(to));
        self.epochs.retain(|e| e.1 < to);
        self.points.next.take_if(|c| c.next > to);
        self.points.high = self.points.high.map(|high| high.min(to));
        self.sealed.prepared.located = None;
    }

    /// Nothing counts any more; but where the log starts, and how much was committed, stays as it
    /// is until the reset is decided: a checkpoint may be stored meanwhile.
    fn begin_reset(&mut self) {
        let high = self.points.high;
        self.begin_cut(self.start);
        self.points.high = high;
    }

    /// The log as it was opened from the disk takes the place of what was cut. Whoever waits for a
    /// turn waits for the same one; whoever holds on to a segment sees that it is none any more.
    fn become_new(&mut self, mut new: Log) {
        new.config = self.config.clone();
        new.has_dir |= self.has_dir;
        new.start = new.start.max(self.start);
        new.back.turn = self.back.turn.clone();
        new.points.turn = self.points.turn.clone();
        new.points.high = match (new.points.high, self.points.high) {
            (Some(stored), Some(told)) => Some(stored.max(told)),
            (stored, told) => stored.or(told),
        };
        new.sealed.turn = self.sealed.turn.clone();
        new.sealed.generation = self.sealed.generation + 1;
        new.sealed.retired = self.sealed.retired;
        new.queue.landed = self.queue.landed.clone();
        *self = new;
    }
}

/// Ends the log at offset `to`, where a batch begins, or where it ends: durable when this returns,
/// and before anything that is appended later. `None` when it ends there already. What was appended
/// before must be on its way to the journal; one cut at a time, and nothing is appended meanwhile.
///
/// The owner's state is not that of the log any more: it begins anew with the state that is given,
/// and folds what `visit` is shown, as with [`recover::open`].
///
/// # Errors
/// If `to` is not in the log, lies inside a batch, or before what was compacted; or the disk
/// refused. If it is full the cut may be tried again; after anything else the log must not be used
/// until it is opened again, which carries the cut through if it was decided.
pub async fn truncate(
    env: &Env,
    log: &RefCell<Log>,
    to: Offset,
    now_ms: i64,
    visit: &mut dyn FnMut(&BatchHeader, &[u8]),
) -> Result<Option<Truncated>, LogError> {
    {
        let mut log = log.borrow_mut();
        log.check_cut(to)?;
        if to == log.end && !log.is_cutting() {
            return Ok(None);
        }
        log.begin_cut(to);
    }
    landed(log, Some(to)).await?;
    if !log.borrow().has_dir {
        let mut log = log.borrow_mut();
        let new = Log::new(env, &log.dir, log.config.clone(), to);
        log.become_new(new);
        return Ok(Some(Truncated::default()));
    }
    write_back::write_back(env, log, &Budget::new(ROOM), false).await?;
    write_back::settle(env, log).await?;
    let turns = Turns::of(log);
    let _held = (
        turns.back.acquire(1).await,
        turns.points.acquire(1).await,
        turns.sealed.acquire(1).await,
    );
    let todo = place(env, log, to).await?;
    decide(env, log, todo).await?;
    reopen(env, log, (to, now_ms), visit).await.map(Some)
}

/// Throws everything away: the log begins, and ends, at `start` from now on. Durable when this
/// returns, and before anything that is appended later. The owner's state begins anew too.
///
/// # Errors
/// The disk refused: as with [`truncate`].
pub async fn reset(
    env: &Env,
    log: &RefCell<Log>,
    start: Offset,
    now_ms: i64,
) -> Result<(), LogError> {
    if start < 0 {
        return Err(LogError::Corrupt(format!("a log cannot begin at {start}")));
    }
    write_back::make_dir(env, log).await?;
    log.borrow_mut().begin_reset();
    landed(log, None).await?;
    let turns = Turns::of(log);
    let _held = (
        turns.back.acquire(1).await,
        turns.points.acquire(1).await,
        turns.sealed.acquire(1).await,
    );
    decide(env, log, Todo::Reset { start }).await?;
    {
        let mut log = log.borrow_mut();
        (log.start, log.points.high) = (start, None);
    }
    let opened = reopen(env, log, (start, now_ms), &mut |_, _| {}).await;
    opened.map(drop)
}

/// Who else changes files of the log.
struct Turns {
    back: Budget,
    points: Budget,
    sealed: Budget,
}

impl Turns {
    fn of(log: &RefCell<Log>) -> Turns {
        let log = log.borrow();
        Turns {
            back: log.back.turn.clone(),
            points: log.points.turn.clone(),
            sealed: log.sealed.turn.clone(),
        }
    }
}

/// Waits until no group has anything of the log, and everything before `to` is in the journal.
async fn landed(log: &RefCell<Log>, to: Option<Offset>) -> Result<(), LogError> {
    loop {
        let landed = {
            let log = log.borrow();
            if log.queue.lost {
                let what = format!("cut {}", log.dir.display());
                let error = io::Error::other("what it appended last could not be written");
                return Err(LogError::Io { what, error });
            }
            if !log.queue.in_flight && to.is_none_or(|to| log.flushed >= to) {
                return Ok(());
            }
            log.queue.landed.wait()
        };
        landed.await;
    }
}

/// Where the files are to end.
async fn place(env: &Env, log: &RefCell<Log>, to: Offset) -> Result<Todo, LogError> {
    let dir = log.borrow().dir.clone();
    // It was tried before: the files may have been cut already.
    if let Some(Order { todo, .. }) = read(env, &dir).await?
        && matches!(todo, Todo::Cut { to: t, .. } if t == to)
    {
        return Ok(todo);
    }
    let segment = {
        let log = log.borrow();
        assert!(
            log.back.synced >= to,
            "what stays is durable in its segment"
        );
        log.segments.iter().rev().find(|s| s.base <= to).cloned()
    };
    let (base, position) = match &segment {
        None => (to, Some(0)),
        Some(s) if s.base == to => (to, Some(0)),
        Some(s) => (s.base, lookup::position_of(env, log, s, to).await?),
    };
    let position = position.ok_or_else(|| {
        let path = dir.join(file_name(base, "log"));
        LogError::Corrupt(format!(
            "{}: cut to offset {to}, where no batch begins",
            path.display()
        ))
    })?;
    Ok(Todo::Cut {
        segment: base,
        position,
        to,
    })
}

/// Decides what is to be done, durably, and does it. Whoever calls has the log's turns.
async fn decide(env: &Env, log: &RefCell<Log>, todo: Todo) -> Result<(), LogError> {
    let (dir, generation) = {
        let log = log.borrow();
        if log.sealed.retired {
            let what = format!("cut {}", log.dir.display());
            let error = io::Error::new(io::ErrorKind::NotFound, "the partition was deleted");
            return Err(LogError::Io { what, error });
        }
        (log.dir.clone(), log.queue.generation + 1)
    };
    store(env, &dir, Order { generation, todo }).await?;
    carry_out(env, &dir, Order { generation, todo }).await
}

async fn reopen(
    env: &Env,
    log: &RefCell<Log>,
    (end, now_ms): (Offset, i64),
    visit: &mut dyn FnMut(&BatchHeader, &[u8]),
) -> Result<Truncated, LogError> {
    let (dir, config) = {
        let log = log.borrow();
        (log.dir.clone(), log.config.clone())
    };
    let opened = recover::open(env, &dir, config, now_ms, visit).await?;
    if opened.log.end != end || !opened.cuts.is_empty() {
        return Err(LogError::Corrupt(format!(
            "{}: cut to offset {end}, and then it ended at {}: {:?} {:?}",
            dir.display(),
            opened.log.end,
            opened.cuts,
            opened.notes
        )));
    }
    log.borrow_mut().become_new(opened.log);
    Ok(Truncated {
        state: opened.state,
        notes: opened.notes,
    })
}

/// How often the log in `dir` was cut.
pub(crate) async fn generation(env: &Env, dir: &Path) -> Result<u32, LogError> {
    let order = read(env, dir).await?;
    Ok(order.map_or(0, |o| o.generation))
}

/// Carries through what was decided for the log in `dir`, which has these entries. Gives its
/// generation, and whether there was something.
pub(crate) async fn finish(
    env: &Env,
    dir: &Path,
    entries: &[DirEntry],
) -> Result<(u32, bool), LogError> {
    if !entries.iter().any(|e| e.name == FILE) {
        return Ok((0, false));
    }
    let Some(order) = read(env, dir).await? else {
        return Ok((0, false));
    };
    if order.todo == Todo::Nothing {
        return Ok((order.generation, false));
    }
    carry_out(env, dir, order).await?;
    Ok((order.generation, true))
}

async fn read(env: &Env, dir: &Path) -> Result<Option<Order>, LogError> {
    let path = dir.join(FILE);
    match env.read_file(&path, 4096).await {
        Ok(bytes) => Order::decode(&bytes).map(Some).ok_or_else(|| {
            LogError::Corrupt(format!(
                "{}: {} bytes that do not say how the log was cut; without it, what was cut could \
                 come back. If another replica has the partition, remove its directory here",
                path.display(),
                bytes.len()
            ))
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LogError::io(format!("read {}", path.display()))(error)),
    }
}

async fn store(env: &Env, dir: &Path, order: Order) -> Result<(), LogError> {
    let path = dir.join(FILE);
    let fail = LogError::io(format!("write {}", path.display()));
    env.write_file_atomic(&path, order.encode())
        .await
        .map_err(fail)
}

/// May be done again from the beginning whenever it was left half done.
async fn carry_out(env: &Env, dir: &Path, order: Order) -> Result<(), LogError> {
    let entries = env.list_dir(dir).await;
    let entries = entries.map_err(LogError::io(format!("list {}", dir.display())))?;
    let files: Vec<(Offset, &str)> = entries.iter().filter_map(|e| parse(&e.name)).collect();
    match order.todo {
        Todo::Nothing => return Ok(()),
        Todo::Cut {
            segment,
            position,
            to,
        } => {
            let logs = files.iter().filter(|f| f.1 == "log").map(|f| f.0);
            let first = logs.min().unwrap_or(segment).min(segment);
            pull_back_checkpoint(env, dir, (first, to)).await?;
            cut_file(env, dir, (segment, position)).await?;
            for &(base, extension) in &files {
                if base > segment || (base == segment && extension != "log") {
                    swap::remove(env, &dir.join(file_name(base, extension))).await?;
                }
            }
        }
        Todo::Reset { start } => {
            let begin = Checkpoint {
                high: Some(start),
                ..Checkpoint::empty(start)
            };
            store_checkpoint(env, dir, &begin).await?;
            for entry in &entries {
                let is_copy = [".swap", ".log.cleaned"]
                    .iter()
                    .any(|e| entry.name.ends_with(e));
                if is_copy || entry.name == swap::CLEANED || parse(&entry.name).is_some() {
                    swap::remove(env, &dir.join(&entry.name)).await?;
                }
            }
        }
    }
    // Not before all is gone for good: it would not be known any more that it has to go.
    let what = format!("sync the names in {}", dir.display());
    env.sync_dir(dir).await.map_err(LogError::sync(what))?;
    let done = Order {
        todo: Todo::Nothing,
        ..order
    };
    store(env, dir, done).await
}

/// The base and the extension of a file of a segment.
fn parse(name: &str) -> Option<(Offset, &str)> {
    let (base, extension) = name.split_once('.')?;
    let is_one = matches!(extension, "log" | "index" | "timeindex");
    Some((base.parse().ok().filter(|_| is_one)?, extension))
}

/// A checkpoint behind the cut, of what was never said to be committed, becomes one of the front
/// of the log: all of it is scanned then. No high watermark stays behind the cut.
async fn pull_back_checkpoint(
    env: &Env,
    dir: &Path,
    (first, to): (Offset, Offset),
) -> Result<(), LogError> {
    let path = dir.join(checkpoint::FILE);
    let bytes = match env.read_file(&path, checkpoint::BYTES_MAX).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        r => r.map_err(LogError::io(format!("read {}", path.display())))?,
    };
    // One that cannot be read makes the recovery scan all as well.
    let Ok(mut c) = Checkpoint::decode(&bytes) else {
        return Ok(());
    };
    let high = c.high.map(|high| high.min(to));
    if c.next <= to {
        // Of what comes behind the cut nothing is committed yet.
        if c.high != high {
            c.high = high;
            store_checkpoint(env, dir, &c).await?;
        }
        return Ok(());
    }
    c.epochs.retain(|e| e.1 <= first);
    let front = Checkpoint {
        log_start: c.log_start,
        high,
        epochs: c.epochs,
        ..Checkpoint::empty(first)
    };
    store_checkpoint(env, dir, &front).await
}

async fn store_checkpoint(env: &Env, dir: &Path, c: &Checkpoint) -> Result<(), LogError> {
    let path = dir.join(checkpoint::FILE);
    let written = env.write_file_atomic(&path, c.encode()).await;
    written.map_err(LogError::io(format!("write {}", path.display())))
}

/// Cuts a segment's file, durably. There is none if nothing of the segment was written.
async fn cut_file(env: &Env, dir: &Path, (base, position): (Offset, u64)) -> Result<(), LogError> {
    let path = dir.join(file_name(base, "log"));
    let fail = |what: &str| LogError::sync(format!("{what} {}", path.display()));
    let options = OpenOptions::new().write();
    let file = match env.open(&path, &options).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        r => r.map_err(fail("open"))?,
    };
    let size = file.size().await.map_err(fail("look at"))?;
    if size > position {
        file.truncate(position).await.map_err(fail("cut"))?;
    }
    file.sync().await.map_err(fail("sync"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_and_damage_is_seen() {
        let cut = Todo::Cut {
            segment: 7,
            position: 99,
            to: 12,
        };
        for todo in [Todo::Nothing, cut, Todo::Reset { start: 1 << 40 }] {
            let order = Order {
                generation: 3,
                todo,
            };
            let bytes = order.encode();
            assert_eq!(bytes.len(), BYTES);
            assert_eq!(Order::decode(&bytes), Some(order));
            let told = decode(&bytes).expect("it is whole");
            assert_eq!(told.generation, 3);
            assert_eq!(told.unfinished.is_some(), todo != Todo::Nothing);
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Order::decode(&bad), None, "bit {bit}");
            }
            for len in 0..bytes.len() {
                assert_eq!(Order::decode(&bytes[..len]), None);
            }
        }
    }

    #[test]
    fn names() {
        assert_eq!(
            parse("00000000000000000003.timeindex"),
            Some((3, "timeindex"))
        );
        assert_eq!(parse("00000000000000000003.log.cleaned"), None);
        assert_eq!(parse("partition.metadata"), None);
    }
}
