//! The cluster's metadata as a log on shard 0: a command is durable, then applied, then told to
//! every shard, then answered. One at a time.
//!
//! The image is the fold of the log. A snapshot of it is the checkpoint's state, so a start reads
//! the snapshot and the commands after it. With one node this is a quorum of one.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use streamd_core::meta::{ClusterImage, Command, Local};
use streamd_io::Env;
use streamd_io::local::{Budget, Notify, Permit};
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_log::journal::Flushed;
use streamd_log::log::SharedLog;
use streamd_log::{
    BatchHeader, LogConfig, LogError, NewBatch, records, recover, retain, write_back,
};
use streamd_model::{ErrorCode, Offset, ShardId};

use crate::Refusal;
use crate::flusher::{Flusher, Owner, Turn};
use crate::mesh::{Reply, Request};
use crate::shard::Shard;

/// The directory of the metadata log, named as Kafka's.
pub const METADATA_DIR: &str = "__cluster_metadata-0";

/// The metadata log.
pub struct MetaLog {
    log: SharedLog,
    /// Held while a command is under way.
    turn: Budget,
    /// Set once a write failed: what is on the disk is not known, so nothing is taken any more.
    failed: RefCell<Option<String>>,
    flusher: Turn,
    flushed: Notify,
}

impl Owner for MetaLog {
    fn log(&self) -> &SharedLog {
        &self.log
    }

    fn turn(&self) -> &Turn {
        &self.flusher
    }

    fn flushed(&self, _before: Offset, _flushed: Flushed) {
        self.flushed.notify_all();
    }

    fn failed(&self, error: &LogError) {
        let why = format!("the metadata log failed: {error}");
        eprintln!("error: {why}. Topics cannot be changed until the disk is mended");
        *self.failed.borrow_mut() = Some(why);
        self.log.borrow_mut().clear_tail();
        self.flushed.notify_all();
    }

    fn is_gone(&self) -> bool {
        self.failed.borrow().is_some()
    }

    fn is_deleted(&self) -> bool {
        false
    }
}

impl MetaLog {
    /// Opens the metadata log in `data_dir` and folds it.
    pub async fn open(
        env: &Env,
        data_dir: &Path,
        local: Local,
    ) -> Result<(MetaLog, ClusterImage), LogError> {
        let dir = data_dir.join(METADATA_DIR);
        let config = LogConfig {
            segment_bytes: 16 << 20,
            segment_ms: i64::MAX,
            checkpoint_bytes: 1 << 20,
            ..LogConfig::default()
        };
        let mut commands = Vec::new();
        let mut bad = None;
        let now_ms = env.wall_ms();
        let opened = recover::open(env, &dir, config, now_ms, &mut |header, bytes| {
            if let Err(e) = collect(header, bytes, &mut commands) {
                bad.get_or_insert(format!("offset {}: {e}", header.base_offset));
            }
        })
        .await?;
        let corrupt = |what: String| LogError::Corrupt(format!("{}: {what}", dir.display()));
        if let Some(what) = bad {
            return Err(corrupt(what));
        }
        let mut image = if opened.state.is_empty() {
            ClusterImage::new(local)
        } else {
            ClusterImage::decode(&opened.state, local).map_err(|e| corrupt(e.to_string()))?
        };
        for command in &commands {
            image.apply(command);
        }
        let log = Rc::new(RefCell::new(opened.log));
        Ok((
            MetaLog {
                log,
                turn: Budget::new(1),
                failed: RefCell::new(None),
                flusher: Turn::default(),
                flushed: Notify::default(),
            },
            image,
        ))
    }

    /// Makes a command durable. `before` is the image without it. After an error see `failed`.
    async fn store(
        self: &Rc<Self>,
        (env, flusher): (&Env, &Rc<Flusher>),
        before: &ClusterImage,
        command: &Command,
    ) -> Result<(), LogError> {
        let value = command.encode();
        let now_ms = env.wall_ms();
        let record = NewRecord {
            timestamp: now_ms,
            key: None,
            value: Some(&value),
        };
        let bytes = build(&[record], Writer::default());
        let batch = NewBatch::own(bytes, now_ms).map_err(|e| LogError::Corrupt(e.text))?;
        let mut drop_before = None;
        {
            let mut log = self.log.borrow_mut();
            if log.will_roll(batch.bytes.len(), 1, now_ms) {
                drop_before = Some(log.end());
                log.roll(now_ms);
                log.plan_checkpoint(before.encode());
            } else if log.wants_checkpoint() {
                log.plan_checkpoint(before.encode());
            }
            log.append(batch, 0, now_ms);
        }
        let end = self.log.borrow().end();
        flusher.kick(self.clone());
        while self.log.borrow().flushed() < end && !self.is_gone() {
            self.flushed.wait().await;
        }
        if let Some(offset) = drop_before {
            retain::delete_before(env, &self.log, offset).await?;
        }
        Ok(())
    }

    /// Waits for the command that is under way; no other begins while the permit is held.
    pub async fn end(&self) -> Permit {
        self.turn.acquire(1).await
    }

    /// Writes the last snapshot.
    pub async fn close(&self, env: &Env, image: &ClusterImage) {
        if self.failed.borrow().is_some() {
            return;
        }
        if let Err(e) = write_back::close(env, &self.log, image.encode()).await {
            eprintln!("error: close the metadata log: {e}; the next start reads it from before");
        }
    }
}

fn collect(header: &BatchHeader, bytes: &[u8], into: &mut Vec<Command>) -> Result<(), String> {
    for range in records::values(bytes, header).map_err(|e| e.text)? {
        into.push(Command::decode(&bytes[range]).map_err(|e| e.to_string())?);
    }
    Ok(())
}

impl Shard {
    /// Opens the metadata log (shard 0 only) and tells every shard the image.
    pub async fn lead(self: &Rc<Self>) -> Result<(), LogError> {
        assert!(self.mesh.id() == ShardId(0), "shard 0 keeps the metadata");
        for shard in 1..self.mesh.shards() {
            let answer = self.mesh.call(ShardId(shard as u16), Request::Start).await;
            if let Some(Reply::Started(Err(why))) = answer.await {
                return Err(LogError::Corrupt(format!("shard {shard}: {why}")));
            }
        }
        self.start().await?;
        let (meta, image) = {
            let settings = &self.settings;
            MetaLog::open(&self.env, &settings.data_dir, settings.local.clone()).await?
        };
        *self.meta.borrow_mut() = Some(Rc::new(meta));
        self.publish(Arc::new(image)).await;
        Ok(())
    }

    async fn publish(self: &Rc<Self>, image: Arc<ClusterImage>) {
        let mut waits = Vec::new();
        for shard in 1..self.mesh.shards() {
            let request = Request::Image(image.clone());
            waits.push(self.mesh.call(ShardId(shard as u16), request).await);
        }
        self.follow(image).await;
        for wait in waits {
            wait.await;
        }
    }

    /// Changes the metadata: checked against the image, durable, known to every shard. Gives the
    /// image with the change in it.
    pub async fn propose(self: &Rc<Self>, command: Command) -> Result<Arc<ClusterImage>, Refusal> {
        let meta = self.meta.borrow().clone();
        let Some(meta) = meta else {
            return Err(Refusal::new(
                ErrorCode::NotController,
                "this broker is stopping",
            ));
        };
        let _turn = meta.turn.acquire(1).await;
        if let Some(why) = &*meta.failed.borrow() {
            return Err(Refusal::new(ErrorCode::KafkaStorageError, why.clone()));
        }
        let before = self.image();
        before
            .admit(&command)
            .map_err(|(code, text)| Refusal::new(code, text))?;
        if let Err(error) = meta
            .store((&self.env, &self.flusher), &before, &command)
            .await
        {
            meta.failed(&error);
        }
        if let Some(why) = &*meta.failed.borrow() {
            return Err(Refusal::new(ErrorCode::KafkaStorageError, why.clone()));
        }
        let mut image = ClusterImage::clone(&before);
        image.apply(&command);
        let image = Arc::new(image);
        self.publish(image.clone()).await;
        Ok(image)
    }
}
