//! What one core owns, how it answers other cores, and how it follows the cluster's image.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use streamd_core::meta::{ClusterImage, Local, TopicMeta};
use streamd_core::producer::ProducerState;
use streamd_io::local::{Budget, Notify};
use streamd_io::mailbox::Endpoint;
use streamd_io::{Class, Env};
use streamd_log::batch::marker_commits;
use streamd_log::journal::{Journal, JournalOptions, replay};
use streamd_log::retain::{self, Retention};
use streamd_log::{Log, LogConfig, LogError, recover, scrub, write_back};
use streamd_model::{ErrorCode, Map, PartitionId, ShardId};

use crate::Refusal;
use crate::disk::DiskGuard;
use crate::drive_meta::{METADATA_DIR, MetaLog};
use crate::flusher::{Flusher, Owner};
use crate::keeper::{self, Keeper};
use crate::mesh::{Envelope, Mesh, Reply, Request, owner};
use crate::partition::Partition;
use crate::read::PartitionSize;
use crate::tail_budget::TailBudget;

/// The log of a state machine is folded at a start: it is short from its checkpoint on.
const FOLD_CHECKPOINT_BYTES: u64 = 16 << 20;

/// How often a start on a full disk looks for room.
const FULL_POLL: Duration = Duration::from_secs(1);

/// What a shard is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where partitions live, as directories `topic-index`.
    pub data_dir: PathBuf,
    /// How much memory this shard's tails may take, bytes.
    pub tail_bytes: usize,
    /// What this node adds to the image.
    pub local: Local,
    /// How this shard's journal is laid out.
    pub journal: JournalOptions,
    /// How often retention is looked after.
    pub retention_check: Duration,
}

/// One core's part of the broker.
pub struct Shard {
    /// The seam to the system.
    pub env: Env,
    /// The other shards.
    pub mesh: Mesh,
    /// The way to the disk.
    pub flusher: Rc<Flusher>,
    /// What is free on the disk.
    pub disk: DiskGuard,
    pub(crate) settings: Settings,
    image: RefCell<Arc<ClusterImage>>,
    partitions: RefCell<Map<PartitionId, Rc<Partition>>>,
    opened: Cell<bool>,
    opened_notify: Notify,
    closing: Cell<bool>,
    closed: Cell<bool>,
    pub(crate) meta: RefCell<Option<Rc<MetaLog>>>,
    me: Weak<Shard>,
    /// Partitions that could not be opened because the disk is full.
    held: RefCell<Vec<Rc<Partition>>>,
}

impl Shard {
    /// A shard without partitions; [`Shard::run`] makes it answer.
    pub fn new(
        env: Env,
        id: ShardId,
        shards: usize,
        endpoint: Endpoint<Envelope>,
        settings: Settings,
    ) -> Rc<Shard> {
        let image = Arc::new(ClusterImage::new(settings.local.clone()));
        Rc::new_cyclic(|me| Shard {
            me: me.clone(),
            mesh: Mesh::new(id, shards, endpoint),
            flusher: Flusher::new(&env, TailBudget::new(settings.tail_bytes)),
            disk: DiskGuard::default(),
            env,
            settings,
            image: RefCell::new(image),
            partitions: RefCell::default(),
            opened: Cell::new(false),
            opened_notify: Notify::default(),
            closing: Cell::new(false),
            closed: Cell::new(false),
            meta: RefCell::new(None),
            held: RefCell::default(),
        })
    }

    /// The shard itself, for what outlives a call.
    pub(crate) fn weak(&self) -> Weak<Shard> {
        self.me.clone()
    }

    /// Where the data lives.
    pub fn data_dir(&self) -> &Path {
        &self.settings.data_dir
    }

    /// The cluster as this shard knows it.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.image.borrow().clone()
    }

    /// Waits until the partitions of the first image are open.
    pub async fn opened(&self) {
        while !self.opened.get() {
            self.opened_notify.wait().await;
        }
    }

    /// Whether everything is flushed and closed.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Which shard owns a partition.
    pub fn owner(&self, id: PartitionId) -> ShardId {
        owner(id, self.mesh.shards())
    }

    /// A partition of this shard. One that has no directory yet comes into being here.
    pub fn partition(&self, id: PartitionId) -> Result<Rc<Partition>, Refusal> {
        if let Some(p) = self.partitions.borrow().get(&id) {
            return Ok(p.clone());
        }
        let gone = |text: String| Refusal::new(ErrorCode::UnknownTopicOrPartition, text);
        let image = self.image.borrow().clone();
        let Some(topic) = image.topic_by_id(id.topic) else {
            return Err(gone(format!("no topic with id {}", id.topic)));
        };
        if id.index < 0 || id.index >= topic.partitions {
            let text = format!("{} has no partition {}", topic.name, id.index);
            return Err(gone(text));
        }
        if self.closing.get() || self.owner(id) != self.mesh.id() {
            let text = format!("{}-{} is not led here", topic.name, id.index);
            return Err(Refusal::new(ErrorCode::NotLeaderOrFollower, text));
        }
        let dir = self.dir_of(topic, id.index);
        let log = Log::new(&self.env, &dir, self.log_config(topic), 0);
        let partition = Partition::new(id, topic.clone(), log, ProducerState::default());
        self.host(&partition, Keeper::of(&topic.name, &image));
        self.partitions.borrow_mut().insert(id, partition.clone());
        Ok(partition)
    }

    fn host(&self, partition: &Rc<Partition>, keeper: Option<Keeper>) {
        match keeper {
            Some(Keeper::Groups(c)) => partition.host(c, self),
            Some(Keeper::Txns(c)) => partition.host(c, self),
            Some(Keeper::Shares(c)) => partition.host(c, self),
            None => {}
        }
    }

    fn dir_of(&self, topic: &TopicMeta, index: i32) -> PathBuf {
        self.settings
            .data_dir
            .join(format!("{}-{index}", topic.name))
    }

    fn log_config(&self, topic: &TopicMeta) -> LogConfig {
        LogConfig {
            segment_bytes: topic.config.segment_bytes as u64,
            segment_ms: topic.config.roll_ms(),
            segment_jitter_ms: topic.config.segment_jitter_ms,
            segment_index_bytes: topic.config.segment_index_bytes as u64,
            index_interval: topic.config.index_interval_bytes as u64,
            checkpoint_bytes: match keeper::is_kept(&topic.name) {
                true => FOLD_CHECKPOINT_BYTES,
                false => LogConfig::default().checkpoint_bytes,
            },
            metadata: format!("version: 0\ntopic_id: {}\n", topic.id),
        }
    }

    /// Answers other shards, for ever.
    pub async fn run(self: Rc<Self>) {
        loop {
            let (from, id, request) = self.mesh.next_call().await;
            // Appends are accepted here and now, in the order in which they came.
            let ticket = match request {
                Request::Append(items) => Ok(self.append(items)),
                other => Err(other),
            };
            let shard = self.clone();
            self.env
                .spawn(Class::Latency, async move {
                    let reply = match ticket {
                        Ok(ticket) => Reply::Append(ticket.settled().await),
                        Err(request) => shard.serve(request).await,
                    };
                    shard.mesh.answer(from, id, reply).await;
                })
                .detach();
        }
    }

    /// Does what another shard, or this one, asks.
    pub async fn serve(self: &Rc<Self>, request: Request) -> Reply {
        match request {
            Request::Append(items) => Reply::Append(self.append(items).settled().await),
            Request::Read(r) => Reply::Read(self.read(r).await),
            Request::Watch(r) => {
                self.watch(r).await;
                Reply::Done
            }
            Request::Offsets(queries) => {
                let mut out = Vec::with_capacity(queries.len());
                for q in queries {
                    out.push(self.offset(q).await);
                }
                Reply::Offsets(out)
            }
            Request::EpochEnds(queries) => {
                Reply::EpochEnds(queries.into_iter().map(|q| self.epoch_end(q)).collect())
            }
            Request::DeleteRecords(items) => {
                let mut out = Vec::with_capacity(items.len());
                for (id, offset) in items {
                    out.push(self.delete_records(id, offset).await);
                }
                Reply::DeleteRecords(out)
            }
            Request::Sizes => Reply::Sizes(self.sizes()),
            Request::Start => Reply::Started(self.start().await.map_err(|e| e.to_string())),
            Request::Image(image) => {
                self.follow(image).await;
                Reply::Done
            }
            Request::Groups(asks) => Reply::Groups(self.ask_hosts(asks).await),
            Request::GroupGone(id, token) => {
                self.group_gone(id, token);
                Reply::Done
            }
            Request::GroupList => Reply::GroupList(self.group_list()),
            Request::Txns(asks) => Reply::Txns(self.ask_hosts(asks).await),
            Request::TxnList => Reply::TxnList(self.txn_list()),
            Request::Shares(asks) => Reply::Shares(self.ask_hosts(asks).await),
            Request::SharesGone(asked) => {
                self.shares_gone(asked);
                Reply::Done
            }
            Request::ReadBytes(items) => Reply::ReadBytes(self.read_bytes(items).await),
            Request::TxnGuards(asks) => Reply::TxnGuards(self.txn_guards(&asks)),
            Request::Markers(markers) => Reply::Markers(self.markers(markers).await),
            Request::Producers(ids) => {
                Reply::Producers(ids.into_iter().map(|id| self.producers(id)).collect())
            }
            Request::Oldest => Reply::Oldest(self.oldest().await),
            Request::DropOldest(which) => Reply::Dropped(self.drop_oldest(which).await),
            Request::Propose(command) => Reply::Propose(self.propose(command).await),
            Request::Close => {
                self.close().await;
                Reply::Done
            }
        }
    }

    /// Replays the journals that are this shard's to replay, and takes its own into use. Every
    /// shard does so before any opens a log: a partition's last life may have been on another one.
    pub(crate) async fn start(&self) -> Result<(), LogError> {
        let (id, shards) = (usize::from(self.mesh.id().0), self.mesh.shards());
        let data_dir = &self.settings.data_dir;
        let mine = |shard: usize| shard % shards == id;
        let keep = |shard| shard < shards;
        // What the journals hold was acknowledged: it goes to the segments before anything else.
        let replayed = loop {
            match replay::replay(&self.env, data_dir, mine, keep).await {
                Err(error) if error.is_full() && !self.mesh.is_stopping() => {
                    eprintln!(
                        "error: the disk is full: {error}. The start waits for room: free some, \
                         or add some"
                    );
                    self.env.sleep(FULL_POLL).await;
                }
                result => break result?,
            }
        };
        for note in &replayed.notes {
            eprintln!("warning: {note}");
        }
        let options = self.settings.journal;
        self.look_at_disk().await;
        let journal = Journal::open(&self.env, data_dir, id, options).await?;
        self.flusher.start(journal);
        Ok(())
    }

    /// Asks the shard that is meant, be it this one. `None` when it has stopped.
    pub async fn ask(self: &Rc<Self>, to: ShardId, request: Request) -> Option<Reply> {
        if to == self.mesh.id() {
            return Some(self.serve(request).await);
        }
        self.mesh.call(to, request).await.await
    }

    /// Begins a request to shard `to`, which may be this one. When this returns, another shard's
    /// request has its place in the queue.
    pub async fn begin(
        self: &Rc<Self>,
        to: usize,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = Option<Reply>>>> {
        let to = ShardId(to as u16);
        if to == self.mesh.id() {
            let shard = self.clone();
            return Box::pin(async move { Some(shard.serve(request).await) });
        }
        Box::pin(self.mesh.call(to, request).await)
    }

    fn sizes(&self) -> Vec<PartitionSize> {
        let partitions = self.partitions.borrow();
        let mut sizes: Vec<_> = partitions
            .iter()
            .map(|(id, p)| PartitionSize {
                partition: *id,
                bytes: p.log.borrow().size(),
            })
            .collect();
        sizes.sort_unstable_by_key(|s| s.partition);
        sizes
    }

    /// Uses a new image: opens what it finds the first time, then deletes and reconfigures.
    pub async fn follow(self: &Rc<Self>, image: Arc<ClusterImage>) {
        if !self.opened.get() {
            self.open_all(&image).await;
            *self.image.borrow_mut() = image.clone();
            self.drop_group_topics(&image).await;
            self.tell_groups(&image).await;
            self.tell_shares(&image).await;
            self.opened.set(true);
            self.opened_notify.notify_all();
            return;
        }
        let fewer = image.topics().len() < self.image.borrow().topics().len();
        for partition in self.mine() {
            match image.topic_by_id(partition.id.topic) {
                None => self.delete_partition(&partition).await,
                Some(topic) if !Arc::ptr_eq(topic, &partition.topic.borrow()) => {
                    *partition.topic.borrow_mut() = topic.clone();
                    partition
                        .log
                        .borrow_mut()
                        .set_config(self.log_config(topic));
                }
                Some(_) => {}
            }
            self.env.yield_if_needed().await;
        }
        *self.image.borrow_mut() = image.clone();
        if fewer {
            self.drop_group_topics(&image).await;
        }
        self.tell_groups(&image).await;
        self.tell_shares(&image).await;
    }

    /// The partitions of this shard, in order.
    pub(crate) fn mine(&self) -> Vec<Rc<Partition>> {
        let mut mine: Vec<_> = self.partitions.borrow().values().cloned().collect();
        mine.sort_unstable_by_key(|p| p.id);
        mine
    }

    async fn delete_partition(&self, partition: &Rc<Partition>) {
        partition.delete();
        while partition.is_flushing() {
            self.env.sleep(Duration::from_millis(1)).await;
        }
        self.partitions.borrow_mut().remove(&partition.id);
        let turn = partition.log.borrow().back_turn();
        let _turn = turn.acquire(1).await;
        Log::retire(&partition.log).await;
        let from = partition.log.borrow().dir().to_owned();
        let to = self
            .settings
            .data_dir
            .join(format!("{}.{}-delete", partition.name, partition.id.topic));
        match self.env.rename(&from, &to).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => {
                eprintln!("warning: rename {}: {e}; its files stay", from.display());
                return;
            }
            Ok(()) => {}
        }
        self.remove_later(to);
    }

    fn remove_later(&self, dir: PathBuf) {
        let env = self.env.clone();
        self.env
            .spawn(Class::Background, async move {
                if let Err(e) = env.remove_dir_all(&dir).await {
                    eprintln!("warning: remove {}: {e}", dir.display());
                }
            })
            .detach();
    }

    /// Opens every partition of this shard that has a directory.
    async fn open_all(self: &Rc<Self>, image: &Arc<ClusterImage>) {
        let names = match self.env.list_dir(&self.settings.data_dir).await {
            Ok(entries) => entries
                .into_iter()
                .filter(|e| e.is_dir)
                .map(|e| e.name)
                .collect(),
            Err(e) => {
                eprintln!("error: list {}: {e}", self.settings.data_dir.display());
                Vec::new()
            }
        };
        let mut tasks = Vec::new();
        for name in names {
            if name == METADATA_DIR {
                continue;
            }
            let dir = self.settings.data_dir.join(&name);
            if name.ends_with("-delete") {
                if self.mesh.id() == ShardId(0) {
                    self.remove_later(dir);
                }
                continue;
            }
            let Some((topic, index)) = split_name(&name) else {
                continue;
            };
            let Some(topic) = image.topic(topic).filter(|t| index < t.partitions) else {
                if self.mesh.id() == ShardId(0) {
                    eprintln!(
                        "warning: {} belongs to no topic that this broker knows; it is left alone",
                        dir.display()
                    );
                }
                continue;
            };
            let id = PartitionId {
                topic: topic.id,
                index,
            };
            if self.owner(id) == self.mesh.id() {
                let (shard, topic) = (self.clone(), topic.clone());
                let keeper = Keeper::of(&topic.name, image);
                tasks.push(self.env.spawn(Class::Latency, async move {
                    shard.open_one(id, topic, dir, keeper).await;
                }));
            }
            if tasks.len() >= 32 {
                tasks.remove(0).await;
            }
        }
        for task in tasks {
            task.await;
        }
    }

    async fn open_one(
        &self,
        id: PartitionId,
        topic: Arc<TopicMeta>,
        dir: PathBuf,
        mut keeper: Option<Keeper>,
    ) {
        if let Err(why) = self.check_topic_id(&dir, &topic).await {
            eprintln!("warning: {}: {why}; it is moved aside", dir.display());
            let stray = dir.with_extension(format!("{}-stray", self.env.random_u64()));
            if let Err(e) = self.env.rename(&dir, &stray).await {
                eprintln!("error: rename {}: {e}", dir.display());
            }
            return;
        }
        let (log, producers, failed) = match self.recover(&topic, &dir, &mut keeper).await {
            Ok((log, producers)) => (log, producers, None),
            Err(error) => {
                let log = Log::new(&self.env, &dir, self.log_config(&topic), 0);
                (log, ProducerState::default(), Some(error))
            }
        };
        let partition = Partition::new(id, topic, log, producers);
        self.host(&partition, keeper);
        if let Some(error) = failed {
            if error.is_full() {
                self.held.borrow_mut().push(partition.clone());
            }
            partition.fail(&error);
        }
        self.partitions.borrow_mut().insert(id, partition);
    }

    /// Opens what could not be opened because the disk was full, when it is not so any more.
    pub(crate) async fn reopen_held(&self) {
        if self.held.borrow().is_empty() || self.admit(0).is_err() {
            return;
        }
        for old in self.held.take() {
            let topic = old.topic.borrow().clone();
            if old.is_deleted() || self.closing.get() {
                continue;
            }
            eprintln!("{}: there is room again, so it is opened", old.name);
            let dir = self.dir_of(&topic, old.id.index);
            let keeper = Keeper::of(&topic.name, &self.image());
            self.open_one(old.id, topic, dir, keeper).await;
        }
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

    async fn recover(
        &self,
        topic: &TopicMeta,
        dir: &Path,
        keeper: &mut Option<Keeper>,
    ) -> Result<(Log, ProducerState), LogError> {
        scrub::check_mark(&self.env, dir).await?;
        let now_ms = self.env.wall_ms();
        let mut replayed = Vec::new();
        let mut bad = None;
        let mut records = Vec::new();
        let opened = recover::open(
            &self.env,
            dir,
            self.log_config(topic),
            now_ms,
            &mut |h, bytes| {
                if h.is_idempotent() {
                    let commits = h.is_control().then(|| marker_commits(bytes)).flatten();
                    replayed.push((*h, commits));
                }
                if let Some(keeper) = &keeper {
                    match keeper.read(h, bytes) {
                        Ok(more) => records.extend(more),
                        Err(e) => {
                            bad.get_or_insert(format!("offset {}: {e}", h.base_offset));
                        }
                    }
                }
            },
        )
        .await?;
        let corrupt = |what: String| LogError::Corrupt(format!("{}: {what}", dir.display()));
        if let Some(what) = bad {
            return Err(corrupt(what));
        }
        let mut state = opened.state.as_slice();
        if let Some(keeper) = keeper {
            state = keeper.fold(state, &records).map_err(corrupt)?;
        }
        let mut producers = if state.is_empty() {
            ProducerState::default()
        } else {
            ProducerState::decode(state).map_err(|why| corrupt(format!("producer state: {why}")))?
        };
        for (h, commits) in replayed {
            crate::append::replay(&mut producers, &h, commits, now_ms);
        }
        producers.txns.forget_before(opened.log.start());
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
        Ok((opened.log, producers))
    }

    /// Looks after retention, and forgets producers that were silent for long. For ever.
    pub async fn retain(self: Rc<Self>) {
        loop {
            self.env.sleep(self.settings.retention_check).await;
            let mine = self.mine();
            let idle_ms = self.image().broker().retention.producer_id_expiration_ms;
            for partition in mine {
                let now_ms = self.env.wall_ms();
                partition.producers.borrow_mut().expire(now_ms, idle_ms);
                self.retain_one(&partition).await;
                partition.forget_aborted();
                self.env.yield_if_needed().await;
            }
        }
    }

    async fn retain_one(&self, partition: &Rc<Partition>) {
        let retention = {
            let topic = partition.topic.borrow();
            let (ms, bytes) = (topic.config.retention_ms, topic.config.retention_bytes);
            topic.config.delete.then(|| Retention {
                ms: (ms >= 0).then_some(ms),
                bytes: u64::try_from(bytes).ok(),
            })
        };
        if partition.usable().is_err() {
            return;
        }
        let done = match retention {
            Some(retention) => self.delete_old(partition, retention).await,
            None => retain::remove_dead(&self.env, &partition.log).await,
        };
        match done {
            Err(e) if !e.is_full() && partition.usable().is_ok() => partition.fail(&e),
            _ => {}
        }
    }

    async fn delete_old(&self, partition: &Partition, keep: Retention) -> Result<(), LogError> {
        let (env, log, now_ms) = (&self.env, &partition.log, self.env.wall_ms());
        let rolls = retain::wants_roll(&log.borrow(), keep, now_ms);
        if rolls {
            partition.roll(now_ms);
            write_back::write_back(env, log, &Budget::new(1 << 20)).await?;
            write_back::settle(env, log).await?;
        }
        self.catch_up(partition).await?;
        retain::apply(env, log, keep, now_ms).await?;
        retain::remove_dead(env, log).await
    }

    /// Flushes and closes everything. Nothing is accepted any more.
    pub async fn close(self: &Rc<Self>) {
        self.closing.set(true);
        let mine: Vec<_> = self
            .partitions
            .borrow_mut()
            .drain()
            .map(|(_, p)| p)
            .collect();
        for partition in &mine {
            partition.stop_host();
        }
        let meta = self.meta.borrow_mut().take();
        let meta_turn = match &meta {
            Some(meta) => Some(meta.end().await),
            None => None,
        };
        if let Err(error) = self.flusher.close().await {
            eprintln!("error: close the journal: {error}; the next start reads it again");
        }
        for partition in mine {
            if partition.usable().is_err() {
                continue;
            }
            let state = partition.state(&partition.producers.borrow());
            match write_back::close(&self.env, &partition.log, state).await {
                // Nothing is lost: what is not in its place is in the journal.
                Err(error) if error.is_full() => {
                    eprintln!("warning: {error}: the next start has more to read");
                }
                Err(error) => partition.fail(&error),
                Ok(()) => {}
            }
        }
        if let Some(meta) = meta {
            meta.close(&self.env, &self.image()).await;
        }
        drop(meta_turn);
        self.closed.set(true);
    }
}

/// `topic-3` → (`topic`, 3).
fn split_name(name: &str) -> Option<(&str, i32)> {
    let (topic, index) = name.rsplit_once('-')?;
    let index: i32 = index.parse().ok()?;
    (index >= 0 && !topic.is_empty()).then_some((topic, index))
}
