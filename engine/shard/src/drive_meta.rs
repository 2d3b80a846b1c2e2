//! The cluster's metadata on shard 0: what drives this node's member of the quorum. A command is
//! durable, then committed, then told to every shard, then answered. One node is a quorum of one.
//!
//! Invariants: records go to the log in the order in which they come, and are reported in that
//! order; every shard has an image before an answer that rests on it goes out. After a failed
//! write nothing goes in or out any more, and whoever waits is told why; images go on to be read.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use streamd_core::control::{Ask, Metadata, Outcome, Output, Times, Token};
use streamd_core::meta::{BrokerMeta, ClusterImage};
use streamd_core::raft::Options;
use streamd_io::local::{Notify, OneSender, oneshot};
use streamd_io::{Class, Env};
use streamd_log::LogError;
use streamd_model::{ErrorCode, Mono, NodeId, Offset, ShardId};

use crate::drive_seat;
use crate::flusher::{Flusher, Owner};
use crate::mesh::{Reply, Request};
use crate::meta_log::{MetaLog, Put};
use crate::shard::{Settings, Shard};

/// The clock of elections.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Ticks without a leader until an election, at least.
const ELECTION_TICKS: usize = 10;
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// A stop does not wait longer for what is being committed: the disk may be full.
const END_MAX: Duration = Duration::from_secs(2);

const STOPPING: &str = "this broker is stopping";

/// A record that is not durable yet.
struct Writing {
    /// What the quorum knows it by; the very first has none.
    number: Option<u64>,
    put: Put,
}

/// This node's part in the metadata, and what it waits for.
pub(crate) struct Meta {
    env: Env,
    flusher: Rc<Flusher>,
    log: Rc<MetaLog>,
    metadata: RefCell<Metadata>,
    /// Of this run of the broker.
    incarnation: [u8; 16],
    writing: RefCell<VecDeque<Writing>>,
    /// Who asked.
    waiting: RefCell<BTreeMap<Token, OneSender<Outcome>>>,
    next: Cell<Token>,
    /// Images and answers that are to go out, in order.
    news: RefCell<Vec<Output>>,
    /// Notified when there is news, when all were answered, and at the end.
    changed: Notify,
    /// Notified when another node leads, or none.
    roles: Notify,
    /// The other shards are gone.
    alone: Cell<bool>,
    ended: Cell<bool>,
}

impl Meta {
    /// Opens the metadata log. Nothing happens before [`Meta::begin`].
    async fn open(
        env: &Env,
        flusher: &Rc<Flusher>,
        settings: &Settings,
    ) -> Result<Rc<Meta>, LogError> {
        let local = &settings.local;
        let found = MetaLog::open(env, &settings.data_dir, local).await?;
        let options = Options {
            node: local.node,
            seed: 0,
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
        };
        let records = found.records.iter().map(Vec::as_slice);
        let metadata = Metadata::open(options, Times::default(), local.clone(), records);
        let meta = Rc::new(Meta {
            env: env.clone(),
            flusher: flusher.clone(),
            log: found.log,
            metadata: RefCell::new(metadata.map_err(LogError::Corrupt)?),
            incarnation: settings.told.incarnation,
            writing: RefCell::default(),
            waiting: RefCell::default(),
            // An answer to the last run is none to this one.
            next: Cell::new(env.random_u64() >> 1),
            news: RefCell::default(),
            changed: Notify::default(),
            roles: Notify::default(),
            alone: Cell::new(false),
            ended: Cell::new(false),
        });
        if found.is_new {
            for record in found.records {
                meta.write(None, record, true);
            }
        }
        Ok(meta)
    }

    fn image(&self) -> Arc<ClusterImage> {
        Arc::new(self.metadata.borrow().image().clone())
    }

    /// Begins: a node that is alone leads at once. The shards have the image as it is.
    fn begin(self: &Rc<Self>, shard: &Rc<Shard>) {
        let told = self.metadata.borrow().image().version();
        self.input(|m, now| m.campaign(now));
        let (env, weak) = (&self.env, Rc::downgrade(shard));
        let meta = self.clone();
        let tell = async move { meta.tell(weak, told).await };
        env.spawn(Class::Latency, tell).detach();
        let meta = self.clone();
        let disk = async move { meta.follow_disk().await };
        env.spawn(Class::Latency, disk).detach();
        let meta = self.clone();
        env.spawn(Class::Latency, async move { meta.tick().await })
            .detach();
    }

    /// The controller, as far as it is known here.
    pub fn controller(&self) -> Option<NodeId> {
        self.metadata.borrow().quorum().role().leader
    }

    /// What is notified when there may be another controller.
    pub fn roles(&self) -> &Notify {
        &self.roles
    }

    /// Whether nothing is taken any more.
    pub fn is_over(&self) -> bool {
        self.ended.get() || self.log.is_gone()
    }

    /// Gives the member something to do, and does what comes of it.
    fn input(&self, input: impl FnOnce(&mut Metadata, Mono) -> Result<(), String>) {
        if self.is_over() {
            return;
        }
        let done = input(&mut self.metadata.borrow_mut(), self.env.now());
        if let Err(why) = done {
            self.log.give_up(why);
        }
        loop {
            let outputs = self.metadata.borrow_mut().outputs();
            if outputs.is_empty() {
                break;
            }
            outputs.into_iter().for_each(|output| self.output(output));
        }
    }

    fn output(&self, output: Output) {
        match output {
            Output::Persist {
                number,
                record,
                anew,
            } => self.write(Some(number), record, anew),
            Output::Image(_) | Output::Answer(..) => {
                self.news.borrow_mut().push(output);
                self.changed.notify_all();
            }
            Output::Broken(why) => self.log.give_up(why),
            // There is no way to other nodes yet: it is as if the message was lost.
            Output::Send { .. } => {}
            Output::Role(_) => {
                self.roles.notify_all();
                self.changed.notify_all();
            }
            // The quorum is asked for them by whoever needs them.
            Output::Read(_) | Output::Members(_) => {}
        }
    }

    fn write(&self, number: Option<u64>, record: Vec<u8>, anew: bool) {
        if self.log.is_gone() {
            return;
        }
        match self.log.put(record, anew, self.env.wall_ms()) {
            Ok(put) => {
                let mut writing = self.writing.borrow_mut();
                writing.push_back(Writing { number, put });
                self.flusher.kick(self.log.clone());
            }
            Err(error) => self.log.failed(&error),
        }
    }

    /// Reports what is durable, until the end.
    async fn follow_disk(&self) {
        loop {
            let news = self.log.news().wait();
            let mut drop_before = None;
            let durable = self.log.durable();
            while let Some(done) = self.take_durable(durable) {
                drop_before = done.put.drop_before.or(drop_before);
                if let Some(number) = done.number {
                    self.input(|m, now| m.persisted(number, now));
                }
            }
            if let Some(offset) = drop_before {
                self.log.drop_before(&self.env, offset).await;
            }
            if self.log.is_gone() {
                self.refuse_all();
            }
            if self.is_over() {
                return;
            }
            news.await;
        }
    }

    fn take_durable(&self, durable: Offset) -> Option<Writing> {
        let mut writing = self.writing.borrow_mut();
        let is_durable = writing.front().is_some_and(|w| w.put.end <= durable);
        is_durable.then(|| writing.pop_front()).flatten()
    }

    /// Tells every shard the images, and who asked what came of it, until the end. `told` is the
    /// version that the shards have.
    async fn tell(&self, shard: Weak<Shard>, mut told: u64) {
        loop {
            let changed = self.changed.wait();
            let (mut image, mut answers) = (None, Vec::new());
            for news in self.news.take() {
                match news {
                    Output::Image(newer) => image = Some(newer),
                    Output::Answer(token, outcome) => answers.push((token, outcome)),
                    _ => {}
                }
            }
            let Some(shard) = shard.upgrade() else { return };
            if let Some(image) = image.filter(|i| i.version() > told) {
                told = image.version();
                let others = shard.publish(image).await;
                // One that is gone does not answer.
                futures_lite::future::or(others, self.alone()).await;
            }
            drop(shard);
            let none = answers.is_empty();
            for (token, outcome) in answers {
                self.answer(token, outcome);
            }
            if none {
                if self.ended.get() {
                    return;
                }
                changed.await;
            }
        }
    }

    fn answer(&self, token: Token, outcome: Outcome) {
        let asked = self.waiting.borrow_mut().remove(&token);
        if let Some(asked) = asked {
            // Who asked may be gone.
            let _ = asked.send(outcome);
        }
        self.changed.notify_all();
    }

    /// The log failed: nobody gets another answer.
    fn refuse_all(&self) {
        let why = self.log.why().unwrap_or_default();
        let waiting = self.waiting.take();
        for (_, asked) in waiting {
            let _ = asked.send(Err((ErrorCode::KafkaStorageError, why.clone())));
        }
        self.changed.notify_all();
    }

    async fn tick(&self) {
        while !self.is_over() {
            self.env.sleep(TICK).await;
            self.input(Metadata::tick);
        }
    }

    /// Waits until the other shards are gone.
    async fn alone(&self) {
        loop {
            let changed = self.changed.wait();
            if self.alone.get() {
                return;
            }
            changed.await;
        }
    }

    /// Takes nothing any more.
    pub fn give_up(&self, why: String) {
        self.log.give_up(why);
    }

    /// Waits until some broker may take partitions, or nothing is taken any more.
    pub async fn has_site(&self) {
        loop {
            let changed = self.changed.wait();
            {
                let metadata = self.metadata.borrow();
                let image = metadata.image();
                // The image may know of this broker's last run still.
                let runs = |b: &BrokerMeta| {
                    b.told.node != image.node() || b.told.incarnation == self.incarnation
                };
                let mut brokers = image.cluster().brokers();
                if brokers.any(|b| b.is_active() && runs(b)) || self.is_over() {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Asks the controller.
    pub async fn ask(&self, ask: Ask) -> Outcome {
        let stopping = || Err((ErrorCode::NotController, STOPPING.to_owned()));
        if let Some(why) = self.log.why() {
            return Err((ErrorCode::KafkaStorageError, why));
        }
        if self.ended.get() {
            return stopping();
        }
        let token = self.next.replace(self.next.get() + 1);
        let (sender, answer) = oneshot();
        self.waiting.borrow_mut().insert(token, sender);
        let role = self.metadata.borrow().quorum().role();
        match role.leader {
            Some(leader) if !role.leads => self.ask_node(leader, token, ask),
            _ => self.input(|m, now| {
                m.ask(token, ask, now);
                Ok(())
            }),
        }
        if self.log.is_gone() {
            self.refuse_all();
        }
        answer.await.unwrap_or_else(|_| stopping())
    }

    /// Asks the controller on another node. What waits for this token is answered, here and now if
    /// it cannot be asked.
    fn ask_node(&self, leader: NodeId, token: Token, _ask: Ask) {
        let text = format!("node {} is the controller: ask there", leader.0);
        self.answer(token, Err((ErrorCode::NotController, text)));
    }

    /// Waits until everybody who asked was answered, but not for long, and takes nothing any more.
    /// The other shards are gone.
    pub async fn end(&self) {
        self.alone.set(true);
        self.changed.notify_all();
        let answered = async {
            loop {
                let changed = self.changed.wait();
                if self.waiting.borrow().is_empty() {
                    return;
                }
                changed.await;
            }
        };
        let late = async {
            self.env.sleep(END_MAX).await;
        };
        futures_lite::future::or(answered, late).await;
        // Whoever waits still is told that this broker stops.
        self.waiting.take();
        self.ended.set(true);
        self.changed.notify_all();
        self.log.news().notify_all();
    }

    /// Ends the log. Everything is flushed.
    pub async fn close(&self) {
        let whole = self.metadata.borrow_mut().whole();
        self.log.close(&self.env, whole).await;
    }
}

impl Shard {
    /// Opens the metadata log (shard 0 only), tells every shard the image, and takes the broker's
    /// seat in the cluster.
    ///
    /// # Errors
    /// A sentence: what cannot be read, or why the cluster does not take this broker.
    pub async fn lead(self: &Rc<Self>) -> Result<(), String> {
        assert!(self.mesh.id() == ShardId(0), "shard 0 keeps the metadata");
        for shard in 1..self.mesh.shards() {
            let answer = self.mesh.call(ShardId(shard as u16), Request::Start).await;
            if let Some(Reply::Started(Err(why))) = answer.await {
                return Err(format!("shard {shard}: {why}"));
            }
        }
        self.start().await.map_err(|e| e.to_string())?;
        let meta = Meta::open(&self.env, &self.flusher, &self.settings).await;
        let meta = meta.map_err(|e| format!("the metadata log: {e}"))?;
        let told = self.settings.told.clone();
        drive_seat::look(&meta.image(), &told)?;
        *self.meta.borrow_mut() = Some(meta.clone());
        self.publish(meta.image()).await.await;
        meta.begin(self);
        self.seating
            .take(drive_seat::Driver::begin(self, &meta, told));
        Ok(())
    }

    /// Gives every shard the image. The other shards have it when what this gives is done.
    async fn publish(
        self: &Rc<Self>,
        image: Arc<ClusterImage>,
    ) -> impl Future<Output = ()> + use<> {
        let mut waits = Vec::new();
        for shard in 1..self.mesh.shards() {
            let request = Request::Image(image.clone());
            waits.push(self.mesh.call(ShardId(shard as u16), request).await);
        }
        self.follow(image).await;
        async {
            for wait in waits {
                wait.await;
            }
        }
    }
}
