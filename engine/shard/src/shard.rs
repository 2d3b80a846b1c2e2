//! What one core owns, how it answers other cores, and how it follows the cluster's image.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use streamd_core::meta::{Cluster, ClusterImage, Local, Registration, TopicMeta};
use streamd_core::producer::ProducerState;
use streamd_io::local::Notify;
use streamd_io::mailbox::Endpoint;
use streamd_io::{Class, Env};
use streamd_log::journal::{Journal, JournalOptions, replay};
use streamd_log::retain::{self, Retention};
use streamd_log::{Log, LogConfig, LogError, write_back};
use streamd_model::{ErrorCode, Map, NodeId, PartitionId, ShardId};

use crate::Refusal;
use crate::append::Ticket;
use crate::brakes::Brakes;
use crate::disk::DiskGuard;
use crate::drive_meta::Meta;
use crate::drive_seat::Seating;
use crate::far::Far;
use crate::fatal::Fatal;
use crate::flusher::Flusher;
use crate::keeper::{self, Keeper};
use crate::mesh::{Envelope, Mesh, Reply, Request, owner};
use crate::news::Awaited;
use crate::open::{self, Past};
use crate::partition::Partition;
use crate::peers::Peers;
use crate::read::PartitionSize;
use crate::replicate::Replicas;
use crate::tail_budget::TailBudget;

/// The log of a state machine is folded at a start: it is short from its checkpoint on.
const FOLD_CHECKPOINT_BYTES: u64 = 16 << 20;

/// How often a start on a full disk looks for room.
const FULL_POLL: Duration = Duration::from_secs(1);
/// So many logs are closed together.
const CLOSE_TOGETHER: usize = 2048;
/// A log gets no checkpoint at a stop when the next start finds less than so many bytes behind the
/// last one.
const RESCAN_MAX: u64 = 256 << 10;

/// What a shard is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where partitions live, as directories `topic-index`.
    pub data_dir: PathBuf,
    /// How much memory this shard's tails may take, bytes.
    pub tail_bytes: usize,
    /// What this node adds to the image.
    pub local: Local,
    /// What it says of itself to the cluster.
    pub told: Registration,
    /// It joins a cluster: where its metadata log is empty it gets that from others.
    pub joins: bool,
    /// How this shard's journal is laid out.
    pub journal: JournalOptions,
    /// How often retention is looked after.
    pub retention_check: Duration,
    /// How fast replicas are copied: the node's.
    pub brakes: Arc<Brakes>,
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
    start: Start,
    /// What is still to be opened of an earlier life.
    pub(crate) past: Past,
    pub(crate) closing: Cell<bool>,
    closed: Cell<bool>,
    pub(crate) awaited: Awaited,
    pub(crate) meta: RefCell<Option<Rc<Meta>>>,
    pub(crate) replicas: Replicas,
    pub(crate) seating: Seating,
    me: Weak<Shard>,
}

/// How far the start has come, and whether the end has to.
#[derive(Default)]
struct Start {
    /// There is an image,
    begun: Cell<bool>,
    /// and it knows this run of the broker.
    opened: Cell<bool>,
    changed: Notify,
    /// Why this run has to end.
    fatal: Fatal,
}

/// How far a request of another shard has come when the next one is looked at.
enum Begun {
    Append(Ticket),
    Done,
    Other(Request),
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
            start: Start::default(),
            past: Past::default(),
            closing: Cell::new(false),
            closed: Cell::new(false),
            awaited: Awaited::default(),
            meta: RefCell::new(None),
            replicas: Replicas::default(),
            seating: Seating::default(),
        })
    }

    /// The shard itself, for what outlives a call.
    pub(crate) fn weak(&self) -> Weak<Shard> {
        self.me.clone()
    }

    /// There is a way to other nodes. To be said before [`Shard::lead`].
    pub fn set_peers(&self, peers: Rc<dyn Peers>) {
        self.replicas.set_peers(peers);
    }

    /// The way to other nodes, if there is one.
    pub fn peers(&self) -> Option<Rc<dyn Peers>> {
        self.replicas.peers()
    }

    pub(crate) fn far(&self) -> &Far {
        self.replicas.far()
    }

    /// This process must not go on: why, and what to do. Who waits for [`Shard::failed`] ends it.
    pub fn fail(&self, why: String) {
        self.start.fatal.say(why);
    }

    pub(crate) fn fatal(&self) -> &Fatal {
        &self.start.fatal
    }

    /// Waits until this process must not go on; gives the reason.
    pub async fn failed(&self) -> String {
        self.start.fatal.wait().await
    }

    /// Where the data lives.
    pub fn data_dir(&self) -> &Path {
        &self.settings.data_dir
    }

    /// The cluster as this shard knows it.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.image.borrow().clone()
    }

    /// Waits until there is an image: from then on every partition answers. Those of an earlier
    /// life are opened when somebody asks for them, and all others meanwhile.
    pub async fn opened(&self) {
        while !self.start.opened.get() {
            self.start.changed.wait().await;
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

    /// A partition of this shard, open.
    pub async fn open_partition(&self, id: PartitionId) -> Result<Rc<Partition>, Refusal> {
        let partition = self.partition(id)?;
        partition.opened().await;
        Ok(partition)
    }

    /// A partition of this shard. One that has no directory yet comes into being here; one of an
    /// earlier life that was not asked for before begins to be opened.
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
        let place = image.cluster().partition(id);
        let placed = place.is_some_and(|p| self.is_placed(p));
        if self.closing.get() || self.owner(id) != self.mesh.id() || !placed {
            let text = format!("{}-{} is not led here", topic.name, id.index);
            return Err(Refusal::new(ErrorCode::NotLeaderOrFollower, text));
        }
        let dir = self.dir_of(topic, id.index);
        let log = Log::new(&self.env, &dir, self.log_config(topic), 0);
        let partition = Partition::new(self, id, topic.clone(), log, ProducerState::default());
        self.partitions.borrow_mut().insert(id, partition.clone());
        if self.past.has(id) {
            self.begin_opening(&partition);
        } else {
            *partition.keeper.borrow_mut() = Keeper::of(&topic.name, &image);
            if let Some(shard) = self.me.upgrade() {
                shard.assign_now(&partition);
            }
        }
        Ok(partition)
    }

    /// A partition of this shard that somebody has asked for.
    pub(crate) fn there(&self, id: PartitionId) -> Option<Rc<Partition>> {
        self.partitions.borrow().get(&id).cloned()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.settings.local.node
    }

    pub(crate) fn host(&self, partition: &Rc<Partition>, keeper: Option<Keeper>) {
        match keeper {
            Some(Keeper::Groups(c)) => partition.host(c, self),
            Some(Keeper::Txns(c)) => partition.host(c, self),
            Some(Keeper::Shares(c)) => partition.host(c, self),
            None => {}
        }
    }

    pub(crate) fn dir_of(&self, topic: &TopicMeta, index: i32) -> PathBuf {
        self.settings
            .data_dir
            .join(format!("{}-{index}", topic.name))
    }

    pub(crate) fn log_config(&self, topic: &TopicMeta) -> LogConfig {
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
            // Accepted here and now, in the order in which they came.
            let begun = match request {
                Request::Append(items) => Begun::Append(self.append(items)),
                Request::Peer(..)
                | Request::Seated(_)
                | Request::Wish(_)
                | Request::Altered(..) => {
                    self.take(request);
                    Begun::Done
                }
                Request::News(ask) => {
                    self.clone().wait_for(from, id, ask);
                    continue;
                }
                other => Begun::Other(other),
            };
            let shard = self.clone();
            self.env
                .spawn(Class::Latency, async move {
                    let reply = match begun {
                        Begun::Append(ticket) => Reply::Append(ticket.settled().await),
                        Begun::Done => Reply::Done,
                        Begun::Other(request) => shard.serve(request).await,
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
            Request::ReadWhole(_) | Request::Watch(_) | Request::News(_) | Request::NewsGone(_) => {
                self.serve_reader(request).await
            }
            Request::Offsets(queries) => Reply::Offsets(self.offsets(queries).await),
            Request::EpochEnds(queries) => Reply::EpochEnds(self.epoch_ends(queries).await),
            Request::DeleteRecords(items) => {
                let mut out = Vec::with_capacity(items.len());
                for (id, offset) in items {
                    out.push(self.delete_records(id, offset).await);
                }
                Reply::DeleteRecords(out)
            }
            Request::Sizes => {
                self.past.all_open().await;
                Reply::Sizes(self.sizes())
            }
            Request::Start => Reply::Started(self.start().await.map_err(|e| e.to_string())),
            Request::Image(image) => {
                self.follow(image).await;
                Reply::Done
            }
            Request::Groups(asks) => Reply::Groups(self.ask_hosts(asks).await),
            Request::GroupList => {
                self.past.groups_open().await;
                Reply::GroupList(self.group_list())
            }
            Request::Txns(asks) => Reply::Txns(self.ask_hosts(asks).await),
            Request::TxnList => {
                self.past.groups_open().await;
                Reply::TxnList(self.txn_list())
            }
            Request::TxnGuards(asks) => {
                self.open_them(asks.iter().map(|a| a.partition)).await;
                Reply::TxnGuards(self.txn_guards(&asks))
            }
            Request::Markers(markers) => {
                // Before that it is not known here which partitions there are.
                self.opened().await;
                self.open_them(markers.iter().map(|m| m.partition)).await;
                Reply::Markers(self.markers(markers).await)
            }
            Request::Shares(asks) => Reply::Shares(self.ask_hosts(asks).await),
            Request::ShareMember(id, group, member) => {
                Reply::ShareMember(self.share_member(id, group, &member).await)
            }
            Request::ReadBytes(items) => Reply::ReadBytes(self.read_bytes(items).await),
            Request::Producers(ids) => {
                self.open_them(ids.iter().copied()).await;
                Reply::Producers(ids.into_iter().map(|id| self.producers(id)).collect())
            }
            Request::Oldest => Reply::Oldest(self.oldest().await),
            Request::DropOldest(which) => Reply::Dropped(self.drop_oldest(which).await),
            Request::Control(ask) => Reply::Control(self.control(ask).await),
            Request::GroupGone(..)
            | Request::SharesGone(_)
            | Request::Peer(..)
            | Request::Seated(_)
            | Request::Wish(_)
            | Request::Altered(..) => {
                self.take(request);
                Reply::Done
            }
            Request::Close => done(self.close()).await,
        }
    }

    /// Takes what needs no answer.
    fn take(&self, request: Request) {
        match request {
            Request::GroupGone(id, token) => self.group_gone(id, token),
            Request::SharesGone(asked) => self.shares_gone(asked),
            Request::Peer(node, packet) => self.heard(node, packet),
            Request::Seated(seated) => self.sit(seated),
            Request::Altered(id, code) => self.altered(id, code),
            Request::Wish(set) => self.seating.wish(set),
            _ => {}
        }
    }

    /// Replays the journals that are this shard's to replay, and takes its own into use. Every
    /// shard does so before any opens a log: a partition's last life may have been on another one.
    pub(crate) async fn start(&self) -> Result<(), LogError> {
        let (id, shards) = (usize::from(self.mesh.id().0), self.mesh.shards());
        let data_dir = &self.settings.data_dir;
        let mine = |shard: usize| shard % shards == id;
        let keep = |shard: usize| shard < shards;
        let later = |shard: usize, dir: &str, metadata: &str| {
            let owner = open::partition_of(dir, metadata).map(|p| self.owner(p));
            shard == id && owner == Some(self.mesh.id())
        };
        // What the journals hold was acknowledged. What is not put off goes to the segments before
        // anything else.
        let (replayed, backlog) = loop {
            match replay::replay_some(&self.env, data_dir, (mine, keep), later).await {
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
        let held = (id, backlog.files());
        self.look_at_disk().await;
        let journal = Journal::open_without(&self.env, data_dir, held, options).await?;
        self.past.waits(backlog);
        let all = self.env.file_system(data_dir).await;
        let all = all.map_err(LogError::io(format!("open {}", data_dir.display())))?;
        self.flusher.start(journal, all);
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

    /// Opens what the image has here, once it knows this run of the broker.
    async fn open_up(self: &Rc<Self>) {
        if self.acts().is_none() || self.start.opened.replace(true) {
            return;
        }
        let image = self.image();
        let open = self.clone().open_rest(image.clone());
        self.env.spawn(Class::Background, open).detach();
        let tick = self.clone().tick_replicas();
        self.env.spawn(Class::Latency, tick).detach();
        self.start.changed.notify_all();
        let places: Vec<_> = image.cluster().places().map(|(id, _)| id).collect();
        self.settle_places(&image, &places).await;
    }

    /// The broker was registered.
    pub(crate) async fn registered(self: &Rc<Self>) {
        match self.start.opened.get() {
            true => self.assign_all().await,
            false if self.start.begun.get() => self.open_up().await,
            false => {}
        }
    }

    /// Uses a new image: opens what it finds the first time, then deletes and reconfigures.
    pub async fn follow(self: &Rc<Self>, image: Arc<ClusterImage>) {
        if !self.start.begun.replace(true) {
            self.past.begin(&image);
            *self.image.borrow_mut() = image;
            self.open_up().await;
            return;
        }
        let before = self.image.replace(image.clone());
        let mut fewer = false;
        for topic in before.topics_unlike(&image) {
            match image.topic_by_id(topic.id) {
                Some(now) if Arc::ptr_eq(now, topic) => {}
                Some(now) => self.reconfigure(now).await,
                None => {
                    self.delete_topic(topic).await;
                    fewer = true;
                }
            }
            self.env.yield_if_needed().await;
        }
        if fewer {
            self.drop_group_topics(&image).await;
        }
        self.follow_leaders(&image);
        self.follow_places(&before, &image).await;
        self.tell_groups(&image).await;
        self.tell_shares(&image).await;
    }

    async fn follow_places(self: &Rc<Self>, before: &ClusterImage, image: &Arc<ClusterImage>) {
        if !self.start.opened.get() {
            return self.open_up().await;
        }
        let (old, new) = (before.cluster(), image.cluster());
        let topics = new.placed_unlike(old);
        let ids = topics.flat_map(|topic| {
            let count = new.partitions(topic).len() as i32;
            (0..count).map(move |index| PartitionId { topic, index })
        });
        let ids: Vec<_> = ids.collect();
        self.settle_places(image, &ids).await;
        let fits = |c: &Cluster| -> Vec<_> {
            let brokers = c.brokers();
            brokers
                .map(|b| (b.told.node, b.epoch, b.is_active()))
                .collect()
        };
        if fits(old) != fits(new) {
            self.assign_all().await;
        }
    }

    async fn reconfigure(&self, topic: &Arc<TopicMeta>) {
        for index in 0..topic.partitions {
            let id = PartitionId {
                topic: topic.id,
                index,
            };
            let partition = self.partitions.borrow().get(&id).cloned();
            if let Some(partition) = partition {
                *partition.topic.borrow_mut() = topic.clone();
                let config = self.log_config(topic);
                partition.log.borrow_mut().set_config(config);
                let settings =
                    crate::replicate::settings(topic, &self.image().broker().replication);
                partition.set_brake(self);
                partition.act(|replica, now| replica.set(settings, now));
            }
            self.env.yield_if_needed().await;
        }
    }

    async fn delete_topic(&self, topic: &Arc<TopicMeta>) {
        let past = self.past.remove(topic.id);
        for index in 0..topic.partitions {
            let id = PartitionId {
                topic: topic.id,
                index,
            };
            if self.owner(id) != self.mesh.id() {
                continue;
            }
            let partition = self.partitions.borrow().get(&id).cloned();
            match partition {
                Some(partition) => {
                    partition.opened().await;
                    self.delete_partition(&partition).await;
                }
                // Nobody asked for it in this life.
                None if index < past => self.delete_unopened(topic, id).await,
                None => {}
            }
            self.env.yield_if_needed().await;
        }
    }

    async fn delete_unopened(&self, topic: &Arc<TopicMeta>, id: PartitionId) {
        let dir = self.dir_of(topic, id.index);
        let log = Log::new(&self.env, &dir, self.log_config(topic), 0);
        let state = ProducerState::default();
        let partition = Partition::new(self, id, topic.clone(), log, state);
        self.delete_partition(&partition).await;
    }

    /// What an earlier life has left of a partition that is not here any more.
    pub(crate) async fn remove_replica(&self, image: &ClusterImage, id: PartitionId) {
        let topic = image.topic_by_id(id.topic);
        if let Some(topic) = topic.filter(|_| self.past.forget(id)) {
            self.delete_unopened(topic, id).await;
        }
    }

    /// The partitions of this shard, in order.
    pub(crate) fn mine(&self) -> Vec<Rc<Partition>> {
        let mut mine: Vec<_> = self.partitions.borrow().values().cloned().collect();
        mine.sort_unstable_by_key(|p| p.id);
        mine
    }

    /// Lets go of a partition that is not used any more.
    pub(crate) fn drop_partition(&self, id: PartitionId) {
        self.partitions.borrow_mut().remove(&id);
        self.replicas.forget(id);
    }

    pub(crate) async fn delete_partition(&self, partition: &Rc<Partition>) {
        partition.delete();
        while partition.is_flushing() {
            self.env.sleep(Duration::from_millis(1)).await;
        }
        self.drop_partition(partition.id);
        let turn = partition.log.borrow().back_turn();
        let _turn = turn.acquire(1).await;
        self.forget(&partition.name).await;
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

    pub(crate) fn remove_later(&self, dir: PathBuf) {
        let env = self.env.clone();
        self.env
            .spawn(Class::Background, async move {
                if let Err(e) = env.remove_dir_all(&dir).await {
                    eprintln!("warning: remove {}: {e}", dir.display());
                }
            })
            .detach();
    }

    /// Looks after retention, and forgets producers that were silent for long. For ever.
    pub async fn retain(self: Rc<Self>) {
        loop {
            self.env.sleep(self.settings.retention_check).await;
            self.past.all_open().await;
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
        if !partition.is_at_work() {
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
        }
        self.catch_up(partition).await?;
        retain::apply(env, log, keep, now_ms).await?;
        retain::remove_dead(env, log).await
    }

    /// Flushes and closes everything. Nothing is accepted any more.
    pub async fn close(self: &Rc<Self>) {
        self.closing.set(true);
        if self.start.opened.get() {
            self.past.all_open().await;
        }
        for partition in self.mine() {
            partition.opened().await;
        }
        let mine: Vec<_> = self
            .partitions
            .borrow_mut()
            .drain()
            .map(|(_, p)| p)
            .collect();
        for partition in &mine {
            partition.stop_host(ErrorCode::CoordinatorNotAvailable);
        }
        let meta = self.meta.borrow_mut().take();
        if let Some(meta) = &meta {
            meta.end().await;
        }
        if let Err(error) = self.flusher.close().await {
            eprintln!("error: close the journal: {error}; the next start reads it again");
        }
        self.close_logs(mine).await;
        if let Some(meta) = meta {
            meta.close().await;
        }
        self.closed.set(true);
    }

    /// Makes the ends of the logs known to the next start, many at a time.
    async fn close_logs(&self, mine: Vec<Rc<Partition>>) {
        for some in mine.chunks(CLOSE_TOGETHER) {
            let mut files = Vec::new();
            let mut closing = Vec::new();
            let mut cut = false;
            for partition in some.iter().filter(|p| p.usable().is_ok()) {
                let state = partition.state(&partition.producers.borrow());
                match write_back::end(&self.env, &partition.log, (state, RESCAN_MAX)).await {
                    Ok(None) => {}
                    Ok(Some(ended)) => {
                        cut |= ended.cut.is_some();
                        files.extend(ended.files);
                        closing.push(partition);
                    }
                    Err(error) => not_closed(&[partition], &error),
                }
                self.env.yield_if_needed().await;
            }
            if files.is_empty() && !cut {
                continue;
            }
            // It makes the cuts durable as well, before anything says where the logs end.
            let Some(all) = self.flusher.file_system() else {
                continue;
            };
            if let Err(error) = all.replace_files(files).await {
                let what = format!("write checkpoints in {}", self.data_dir().display());
                not_closed(&closing, &LogError::Io { what, error });
            }
        }
    }
}

/// The reply to what has no other.
async fn done(what: impl Future<Output = ()>) -> Reply {
    what.await;
    Reply::Done
}

/// Nothing is lost on a full disk: the next start scans what no checkpoint vouches for.
fn not_closed(partitions: &[&Rc<Partition>], error: &LogError) {
    if error.is_full() {
        eprintln!("warning: {error}: the next start has more to read");
        return;
    }
    partitions.iter().for_each(|p| p.fail(error));
}
