//! The log that keeps the metadata, on the disk of shard 0: a log like any other, each of its
//! values one record of the quorum.
//!
//! Invariants: a segment begins with a record that holds everything, so what lies before it may
//! go; the checkpoint's state is such a record too. The log of before there was a quorum has
//! commands for values and an image for its state: they count up to the first record, which is
//! made of what they come to. Until that one is durable nothing of them is touched.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use streamd_core::control::Metadata;
use streamd_core::meta::{ClusterCommand, ClusterImage, Command, Local};
use streamd_core::raft;
use streamd_io::Env;
use streamd_io::local::Notify;
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_log::journal::Flushed;
use streamd_log::log::SharedLog;
use streamd_log::{
    BatchHeader, LogConfig, LogError, NewBatch, records, recover, retain, write_back,
};
use streamd_model::Offset;

use crate::flusher::{Owner, Turn};

/// The directory of the metadata log, named as Kafka's.
pub const METADATA_DIR: &str = "__cluster_metadata-0";

/// A record that holds everything begins a segment that lasts until the next one.
const SEGMENT_BYTES: u64 = 16 << 20;

/// The metadata log.
pub(crate) struct MetaLog {
    log: SharedLog,
    /// Set once a write failed: what is on the disk is not known, so nothing is taken any more.
    failed: RefCell<Option<String>>,
    turn: Turn,
    flushed: Notify,
}

/// Where a record was put.
pub(crate) struct Put {
    /// It is durable when the log is flushed up to here.
    pub end: Offset,
    /// Once it is, what lies before this is not needed any more.
    pub drop_before: Option<Offset>,
}

/// What a log that was opened holds.
pub(crate) struct Found {
    /// The log.
    pub log: Rc<MetaLog>,
    /// The records of the quorum, oldest first.
    pub records: Vec<Vec<u8>>,
    /// The first one was made just now: it has to be put into the log.
    pub is_new: bool,
}

impl Owner for MetaLog {
    fn log(&self) -> &SharedLog {
        &self.log
    }

    fn turn(&self) -> &Turn {
        &self.turn
    }

    fn flushed(&self, _before: Offset, _flushed: Flushed) {
        self.flushed.notify_all();
    }

    fn failed(&self, error: &LogError) {
        self.give_up(format!("the metadata log failed: {error}"));
    }

    fn is_gone(&self) -> bool {
        self.failed.borrow().is_some()
    }

    fn is_deleted(&self) -> bool {
        false
    }
}

impl MetaLog {
    /// Opens the metadata log in `data_dir`. One that is of before there was a quorum becomes that
    /// of a quorum of this node alone; so does an empty one, unless the node joins another: that is
    /// a new cluster, which begins at `level`.
    pub async fn open(
        env: &Env,
        data_dir: &Path,
        (local, joins): (&Local, bool),
        level: i16,
    ) -> Result<Found, LogError> {
        let dir = data_dir.join(METADATA_DIR);
        let config = LogConfig {
            segment_bytes: SEGMENT_BYTES,
            segment_ms: i64::MAX,
            ..LogConfig::default()
        };
        let mut values = Values::default();
        let mut bad = None;
        let now_ms = env.wall_ms();
        let opened = recover::open(env, &dir, config, now_ms, &mut |header, bytes| {
            if let Err(e) = values.take(header, bytes) {
                bad.get_or_insert(format!("offset {}: {e}", header.base_offset));
            }
        })
        .await?;
        let fold = match bad {
            None => values.fold(opened.state, (local, joins), level),
            Some(what) => Err(what),
        };
        let corrupt = |what: String| LogError::Corrupt(format!("{}: {what}", dir.display()));
        let (records, is_new) = fold.map_err(corrupt)?;
        let log = Rc::new(MetaLog {
            log: Rc::new(RefCell::new(opened.log)),
            failed: RefCell::new(None),
            turn: Turn::default(),
            flushed: Notify::default(),
        });
        Ok(Found {
            log,
            records,
            is_new,
        })
    }

    /// Appends a record; `anew` if it holds everything. The flusher has to be told.
    pub fn put(&self, record: Vec<u8>, anew: bool, now_ms: i64) -> Result<Put, LogError> {
        let value = NewRecord {
            timestamp: now_ms,
            key: None,
            value: Some(&record),
        };
        let bytes = build(&[value], Writer::default());
        let batch = NewBatch::own(bytes, now_ms).map_err(|e| LogError::Corrupt(e.text))?;
        let mut log = self.log.borrow_mut();
        // Not if nothing is in the segment yet.
        if anew && log.will_roll(SEGMENT_BYTES as usize, 1, now_ms) {
            log.roll(now_ms);
        }
        let put = log.append(batch, 0, now_ms);
        if anew {
            log.plan_checkpoint(record);
        }
        Ok(Put {
            end: put.next,
            drop_before: anew.then_some(put.base),
        })
    }

    /// Everything before it is durable.
    pub fn durable(&self) -> Offset {
        self.log.borrow().flushed()
    }

    /// Notified when more is durable, and when the log failed.
    pub fn news(&self) -> &Notify {
        &self.flushed
    }

    /// Why nothing is taken any more.
    pub fn why(&self) -> Option<String> {
        self.failed.borrow().clone()
    }

    /// Takes nothing any more.
    pub fn give_up(&self, why: String) {
        eprintln!("error: {why}. Topics cannot be changed until that is mended");
        *self.failed.borrow_mut() = Some(why);
        self.log.borrow_mut().clear_tail();
        self.flushed.notify_all();
    }

    /// Deletes what lies before `offset`.
    pub async fn drop_before(&self, env: &Env, offset: Offset) {
        match retain::delete_before(env, &self.log, offset).await {
            // The next time will do.
            Err(error) if !error.is_full() && !self.is_gone() => self.failed(&error),
            _ => {}
        }
    }

    /// Ends the log, so that the next start reads this record alone.
    pub async fn close(&self, env: &Env, whole: Vec<u8>) {
        if self.is_gone() {
            return;
        }
        if let Err(e) = write_back::close(env, &self.log, whole).await {
            eprintln!("error: close the metadata log: {e}; the next start reads it from before");
        }
    }
}

/// The values of the log, in order.
#[derive(Default)]
struct Values {
    commands: Vec<Command>,
    records: Vec<Vec<u8>>,
}

impl Values {
    fn take(&mut self, header: &BatchHeader, bytes: &[u8]) -> Result<(), String> {
        for range in records::values(bytes, header).map_err(|e| e.text)? {
            let value = &bytes[range];
            if raft::is_record(value) {
                self.records.push(value.to_vec());
            } else if self.records.is_empty() {
                let command = Command::decode(value).map_err(|e| e.to_string())?;
                self.commands.push(command);
            } else {
                return Err("no record of the quorum behind one".to_owned());
            }
        }
        Ok(())
    }

    /// The records; or the one that all this comes to, and that it is new. None at all if there is
    /// nothing and the node `joins` others.
    fn fold(
        mut self,
        state: Vec<u8>,
        (local, joins): (&Local, bool),
        level: i16,
    ) -> Result<(Vec<Vec<u8>>, bool), String> {
        if raft::is_record(&state) {
            if !self.commands.is_empty() {
                return Err("no record of the quorum behind the checkpoint of one".to_owned());
            }
            self.records.insert(0, state);
            return Ok((self.records, false));
        }
        let is_empty = state.is_empty() && self.commands.is_empty();
        if !self.records.is_empty() || (is_empty && joins) {
            return Ok((self.records, false));
        }
        let mut image = match state.is_empty() {
            true => ClusterImage::new(local.clone()),
            false => ClusterImage::decode(&state, local.clone()).map_err(|e| e.to_string())?,
        };
        for command in &self.commands {
            image.apply(command);
        }
        let begins = Command::Cluster(ClusterCommand::SetFeatureLevel(level));
        // Nobody else is there. Level 1 is written by not writing it.
        if is_empty && image.admit(&begins).is_ok() {
            image.apply(&begins);
        }
        Ok((vec![Metadata::bootstrap(&[local.node], &image)], true))
    }
}
