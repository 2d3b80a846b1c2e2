//! Partitions of an earlier life: opened when somebody asks for them, and all others behind the
//! scenes, so that a start takes the same time whatever there is on the disk.
//!
//! Invariants: nothing is shown of a partition before what the journals hold of it is durable in
//! its segments and its log is recovered; appends that come before wait in their order; a file of
//! the journal that was put off is used again only when all partitions in it have come that far.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use streamd_core::group::OFFSETS_TOPIC;
use streamd_core::meta::{ClusterImage, TopicMeta};
use streamd_core::producer::{MarkerEnd, ProducerState};
use streamd_core::share::STATE_TOPIC;
use streamd_core::txn::TXN_TOPIC;
use streamd_io::Class;
use streamd_io::local::{Budget, Notify};
use streamd_log::journal::replay::{self, Backlog, PutOff};
use streamd_log::{BatchHeader, Log, LogError, recover, scrub};
use streamd_model::{Map, Offset, PartitionId, Set, ShardId, TopicId};

use crate::append::marker_end;
use crate::flusher::Owner;
use crate::keeper::{Fold, Keeper};
use crate::meta_log::METADATA_DIR;
use crate::partition::Partition;
use crate::shard::Shard;

/// So many partitions are opened at once,
const AT_ONCE: usize = 32;
/// and so many while nobody asks for them.
const BEHIND: usize = 8;

/// What is still to be opened of an earlier life.
pub(crate) struct Past {
    /// Topics of the first image: their partitions may have directories.
    topics: RefCell<Map<TopicId, i32>>,
    /// Partitions of those that are not here any more.
    moved: RefCell<Set<PartitionId>>,
    /// What the journals hold of partitions that are not open.
    backlog: RefCell<Backlog>,
    /// Partitions whose part of it is on its way.
    restoring: Cell<usize>,
    /// What could not be written to the segments, by the names of the partitions: the files stay.
    stuck: RefCell<Map<String, PutOff>>,
    /// Partitions that could not be opened because the disk is full.
    held: RefCell<Vec<Rc<Partition>>>,
    room: Budget,
    groups_done: Cell<bool>,
    all_done: Cell<bool>,
    changed: Notify,
}

impl Default for Past {
    fn default() -> Past {
        Past {
            topics: RefCell::default(),
            moved: RefCell::default(),
            backlog: RefCell::default(),
            restoring: Cell::new(0),
            stuck: RefCell::default(),
            held: RefCell::default(),
            room: Budget::new(AT_ONCE),
            groups_done: Cell::new(false),
            all_done: Cell::new(false),
            changed: Notify::default(),
        }
    }
}

impl Past {
    /// Takes what the replay has put off.
    pub fn waits(&self, backlog: Backlog) {
        *self.backlog.borrow_mut() = backlog;
    }

    /// The first image.
    pub fn begin(&self, image: &ClusterImage) {
        let topics = image.topics().map(|t| (t.id, t.partitions));
        self.topics.borrow_mut().extend(topics);
    }

    /// Whether the partition may have a directory from an earlier life.
    pub fn has(&self, id: PartitionId) -> bool {
        let topics = self.topics.borrow();
        topics.get(&id.topic).is_some_and(|n| id.index < *n) && !self.moved.borrow().contains(&id)
    }

    /// The topic is deleted; gives the number of its partitions that may have directories.
    pub fn remove(&self, id: TopicId) -> i32 {
        self.topics.borrow_mut().remove(&id).unwrap_or(0)
    }

    /// The partition is not here any more; whether it may have a directory.
    pub fn forget(&self, id: PartitionId) -> bool {
        self.has(id) && self.moved.borrow_mut().insert(id)
    }

    /// Takes what the journals hold of a partition.
    fn take(&self, name: &str) -> Option<PutOff> {
        let stuck = self.stuck.borrow_mut().remove(name);
        stuck.or_else(|| self.backlog.borrow_mut().take(name))
    }

    /// Waits until every partition of the log of groups is open.
    pub async fn groups_open(&self) {
        while !self.groups_done.get() {
            self.changed.wait().await;
        }
    }

    /// Waits until nothing is left to open.
    pub async fn all_open(&self) {
        while !self.all_done.get() {
            self.changed.wait().await;
        }
    }
}

/// The partition that has this directory and this `partition.metadata`.
pub(crate) fn partition_of(dir: &str, metadata: &str) -> Option<PartitionId> {
    let topic = metadata
        .lines()
        .find_map(|l| l.strip_prefix("topic_id: "))?;
    let topic = TopicId::from_base64(topic.trim())?;
    let (_, index) = split_name(dir)?;
    Some(PartitionId { topic, index })
}

impl Shard {
    /// Begins to open what is asked for, all of it at once, where it is not open.
    pub(crate) fn touch(&self, ids: impl Iterator<Item = PartitionId>) {
        if self.past.all_done.get() {
            return;
        }
        for id in ids {
            // Whoever asks for it is told why it is not to be had.
            let _ = self.partition(id);
        }
    }

    /// Waits until these are open, as far as they are to be had here.
    pub(crate) async fn open_them(&self, ids: impl Iterator<Item = PartitionId> + Clone) {
        self.touch(ids.clone());
        for id in ids {
            if let Ok(partition) = self.partition(id) {
                partition.opened().await;
            }
        }
    }

    /// Begins to open a partition of an earlier life.
    pub(crate) fn begin_opening(&self, partition: &Rc<Partition>) {
        partition.close_until_opened();
        let (me, partition) = (self.weak(), partition.clone());
        let Some(shard) = me.upgrade() else { return };
        self.env
            .spawn(Class::Latency, async move {
                let room = shard.past.room.clone();
                let _room = room.acquire(1).await;
                shard.open_one(&partition).await;
            })
            .detach();
    }

    /// Opens everything that has a directory and that nobody has asked for. Ends when a stop
    /// begins.
    pub(crate) async fn open_rest(self: Rc<Self>, image: Arc<ClusterImage>) {
        // Their machines have things to do whether somebody asks for them or not.
        let kept = [OFFSETS_TOPIC, TXN_TOPIC, STATE_TOPIC].map(|name| image.topic(name));
        let kept = kept
            .into_iter()
            .flatten()
            .flat_map(|t| (0..t.partitions).map(|index| PartitionId { topic: t.id, index }));
        self.open_some(kept.collect()).await;
        self.drop_group_topics(&self.image()).await;
        self.tell_groups(&self.image()).await;
        self.tell_shares(&self.image()).await;
        self.past.groups_done.set(true);
        self.past.changed.notify_all();
        let waiting = self.past.backlog.borrow().names();
        let waiting = waiting.iter().filter_map(|name| known(name, &image));
        self.open_some(waiting.collect()).await;
        let there = self.look_around(&image).await;
        self.open_some(there).await;
        if !self.closing.get() {
            // What nobody owns any more is of topics that are gone.
            self.past.backlog.borrow_mut().clear();
        }
        self.use_files_again().await;
        self.past.all_done.set(true);
        self.past.changed.notify_all();
    }

    async fn open_some(self: &Rc<Self>, ids: Vec<PartitionId>) {
        let mine = |id: &PartitionId| self.owner(*id) == self.mesh.id();
        let mut window = std::collections::VecDeque::new();
        for id in ids.into_iter().filter(mine) {
            if self.closing.get() {
                return;
            }
            // It may have been deleted meanwhile.
            if let Ok(partition) = self.partition(id) {
                window.push_back(partition);
            }
            if window.len() >= BEHIND
                && let Some(first) = window.pop_front()
            {
                first.opened().await;
            }
            self.env.yield_if_needed().await;
        }
        for partition in window {
            partition.opened().await;
        }
    }

    /// The partitions that have directories. What is left of deleted topics is removed.
    async fn look_around(self: &Rc<Self>, image: &ClusterImage) -> Vec<PartitionId> {
        let data_dir = &self.settings.data_dir;
        let names = match self.env.list_dirs(data_dir).await {
            Ok(names) => names,
            Err(e) => {
                eprintln!("error: list {}: {e}", data_dir.display());
                return Vec::new();
            }
        };
        let first = self.mesh.id() == ShardId(0);
        let mut found = Vec::new();
        for name in names {
            if name.ends_with("-delete") && first {
                self.remove_later(data_dir.join(&name));
            } else if let Some(id) = known(&name, image) {
                found.push(id);
            } else if first && name != METADATA_DIR && is_stray(&name, &self.image()) {
                eprintln!(
                    "warning: {} belongs to no topic that this broker knows; it is left alone",
                    data_dir.join(&name).display()
                );
            }
            self.env.yield_if_needed().await;
        }
        found
    }

    async fn open_one(self: &Rc<Self>, partition: &Rc<Partition>) {
        let topic = partition.topic.borrow().clone();
        let dir = self.dir_of(&topic, partition.id.index);
        let opened = match self.restore(&partition.name, &dir).await {
            Ok(()) => self.check_and_recover(&topic, &dir).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok((log, state)) => partition.open(self, log, state),
            Err(error) => {
                if error.is_full() {
                    self.past.held.borrow_mut().push(partition.clone());
                }
                partition.fail(&error);
            }
        }
        let now = partition.topic.borrow().clone();
        if !Arc::ptr_eq(&topic, &now) {
            partition.log.borrow_mut().set_config(self.log_config(&now));
        }
        if partition.usable().is_ok() {
            self.assign_now(partition);
        }
        self.let_in(partition);
    }

    /// Writes to the segments what the journals hold of a partition.
    async fn restore(&self, name: &str, dir: &Path) -> Result<(), LogError> {
        let past = &self.past;
        let Some(put_off) = past.take(name) else {
            return Ok(());
        };
        past.restoring.set(past.restoring.get() + 1);
        let restored = replay::restore_one(&self.env, dir, &put_off).await;
        past.restoring.set(past.restoring.get() - 1);
        if restored.is_err() {
            past.stuck.borrow_mut().insert(name.to_owned(), put_off);
        }
        self.use_files_again().await;
        restored.map(drop)
    }

    /// Drops what the journals hold of a partition that is deleted.
    pub(crate) async fn forget(&self, name: &str) {
        if self.past.take(name).is_some() {
            self.use_files_again().await;
        }
    }

    /// Opens what could not be opened because the disk was full, when it is not so any more.
    pub(crate) async fn reopen_held(&self) {
        if self.past.held.borrow().is_empty() || self.admit(0).is_err() {
            return;
        }
        for old in self.past.held.take() {
            if old.is_deleted() || self.closing.get() {
                continue;
            }
            eprintln!("{}: there is room again, so it is opened", old.name);
            self.drop_partition(old.id);
            // It may have been deleted just now.
            if let Ok(partition) = self.partition(old.id) {
                partition.opened().await;
            }
        }
    }

    /// When nobody waits for the files that the replay has put off, the journal gets them.
    async fn use_files_again(&self) {
        let past = &self.past;
        let all_written = past.backlog.borrow().is_empty() && past.stuck.borrow().is_empty();
        if !all_written || past.restoring.get() > 0 {
            return;
        }
        let files = past.backlog.take().files().to_vec();
        for number in files {
            if let Err(e) = self.flusher.let_go(number).await {
                eprintln!("warning: {e}; the next start reads the journal again");
            }
        }
    }

    async fn check_and_recover(
        &self,
        topic: &TopicMeta,
        dir: &Path,
    ) -> Result<(Log, State), LogError> {
        if let Err(why) = self.check_topic_id(dir, topic).await {
            eprintln!("warning: {}: {why}; it is moved aside", dir.display());
            let stray = dir.with_extension(format!("{}-stray", self.env.random_u64()));
            if let Err(error) = self.env.rename(dir, &stray).await {
                let what = format!("rename {}", dir.display());
                return Err(LogError::Io { what, error });
            }
        }
        self.recover(topic, dir).await
    }

    async fn check_topic_id(&self, dir: &Path, topic: &TopicMeta) -> Result<(), String> {
        let bytes = match self
            .env
            .read_file(&dir.join("partition.metadata"), 4096)
            .await
        {
            Ok(bytes) => bytes,
            // The directory was made, the file was not yet: nothing was acknowledged from here.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(format!("read partition.metadata: {e}")),
        };
        let text = String::from_utf8_lossy(&bytes);
        let id = text
            .lines()
            .find_map(|l| l.strip_prefix("topic_id: "))
            .unwrap_or_default();
        if id.trim() == topic.id.to_base64() {
            return Ok(());
        }
        Err(format!(
            "it is of a topic with id {id}, but {} has id {}",
            topic.name, topic.id
        ))
    }

    async fn recover(&self, topic: &TopicMeta, dir: &Path) -> Result<(Log, State), LogError> {
        scrub::check_mark(&self.env, dir).await?;
        let now_ms = self.env.wall_ms();
        let mut refold = Refold::new(Keeper::of(&topic.name, &self.image()));
        let visit = &mut |h: &_, bytes: &[u8]| refold.visit(h, bytes);
        let config = self.log_config(topic);
        let opened = recover::open(&self.env, dir, config, now_ms, visit).await?;
        let start = opened.log.start();
        let marks = (start, opened.log.high().unwrap_or(start));
        let state = refold.end(&opened.state, marks, now_ms);
        let state =
            state.map_err(|what| LogError::Corrupt(format!("{}: {what}", dir.display())))?;
        for note in &opened.notes {
            eprintln!("warning: {note}");
        }
        for cut in &opened.cuts {
            eprintln!(
                "warning: {}: cut at byte {}: {} ({} bytes of a write that was not acknowledged, \
                 kept in {})",
                cut.file.display(),
                cut.position,
                cut.why,
                cut.bytes,
                cut.kept.display()
            );
        }
        Ok((opened.log, state))
    }
}

/// What is known at the end of a log besides: its producers, and its state machine if it keeps one.
pub(crate) type State = (ProducerState, Option<Keeper>);

/// Finds the state at the end of a log: what a checkpoint has, and the batches behind it.
pub(crate) struct Refold {
    keeper: Option<Keeper>,
    producers: Vec<(BatchHeader, Option<MarkerEnd>)>,
    records: Vec<Fold>,
    bad: Option<String>,
}

impl Refold {
    /// Of a log that keeps this machine.
    pub fn new(keeper: Option<Keeper>) -> Refold {
        Refold {
            keeper,
            producers: Vec::new(),
            records: Vec::new(),
            bad: None,
        }
    }

    /// A batch behind the checkpoint.
    pub fn visit(&mut self, header: &BatchHeader, bytes: &[u8]) {
        if header.is_idempotent() {
            self.producers.push((*header, marker_end(header, bytes)));
        }
        match self.keeper.as_ref().map(|k| k.read(header, bytes)) {
            None => {}
            Some(Ok(more)) => self.records.extend(more),
            Some(Err(why)) => {
                let why = format!("offset {}: {why}", header.base_offset);
                self.bad.get_or_insert(why);
            }
        }
    }

    /// The state: `state` is the checkpoint's, and the log begins and is committed there.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn end(
        mut self,
        mut state: &[u8],
        (start, high): (Offset, Offset),
        now_ms: i64,
    ) -> Result<State, String> {
        if let Some(what) = self.bad {
            return Err(what);
        }
        if let Some(keeper) = &mut self.keeper {
            state = keeper.fold(state, &self.records)?;
        }
        let mut producers = match state.is_empty() {
            true => ProducerState::default(),
            false => {
                ProducerState::decode(state).map_err(|why| format!("producer state: {why}"))?
            }
        };
        for (header, ends) in self.producers {
            crate::append::replay(&mut producers, &header, ends, (now_ms, high));
        }
        producers.txns.forget_before(start);
        Ok((producers, self.keeper))
    }
}

/// `topic-3` → (`topic`, 3).
fn split_name(name: &str) -> Option<(&str, i32)> {
    let (topic, index) = name.rsplit_once('-')?;
    let index: i32 = index.parse().ok()?;
    (index >= 0 && !topic.is_empty()).then_some((topic, index))
}

/// The partition that has this directory, if the image has it.
fn known(name: &str, image: &ClusterImage) -> Option<PartitionId> {
    let (topic, index) = split_name(name)?;
    let topic = image.topic(topic).filter(|t| index < t.partitions)?;
    Some(PartitionId {
        topic: topic.id,
        index,
    })
}

/// Whether the directory looks like a partition's and is nobody's.
fn is_stray(name: &str, image: &ClusterImage) -> bool {
    split_name(name).is_some() && known(name, image).is_none()
}
