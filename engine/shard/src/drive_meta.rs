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

use streamd_core::Refused;
use streamd_core::control::{Ask, Metadata, Output, Times, Token};
use streamd_core::meta::{ClusterImage, Registration};
use streamd_core::raft::{Members, NotTaken, Options};
use streamd_io::local::Notify;
use streamd_io::{Class, Env};
use streamd_log::LogError;
use streamd_model::{ErrorCode, Mono, NodeId, Offset, ShardId};

use crate::asking::{Answered, Asker};
use crate::drive_seat;
use crate::fatal::Fatal;
use crate::flusher::{Flusher, Owner};
use crate::mesh::{Reply, Request};
use crate::meta_log::{MetaLog, Put};
use crate::peers::{Packet, Peers};
use crate::shard::{Settings, Shard};

/// The clock of elections.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// Ticks without a leader until an election, at least; at most twice as many. So a leader that is
/// gone is replaced within half a second to a second, and one whose machine stalls for less stays.
const ELECTION_TICKS: usize = 10;
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// A stop does not wait longer for what is being committed: the disk may be full.
const END_MAX: Duration = Duration::from_secs(2);

/// Handing over the lead at a stop takes no longer.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);
/// What other nodes ask is passed on, and forgotten after so long.
const FORGET: Duration = Duration::from_secs(10);
/// A complaint about what came from other nodes, at most once in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

pub(crate) const STOPPING: &str = "this broker is stopping";

/// A record that is not durable yet.
struct Writing {
    /// What the quorum knows it by; the very first has none.
    number: Option<u64>,
    put: Put,
}

/// What the shards have of it.
struct Shown {
    /// The version of the image that every shard has; 0 before the first one.
    version: Cell<u64>,
    /// Images are that of long ago, perhaps: they stay here until one shows this run of the broker.
    held: Cell<bool>,
    /// Notified when the shards have another image.
    changed: Notify,
}

/// This node's part in the metadata, and what it waits for.
pub(crate) struct Meta {
    env: Env,
    flusher: Rc<Flusher>,
    log: Rc<MetaLog>,
    metadata: RefCell<Metadata>,
    /// What this run of the broker says of itself.
    told: Registration,
    writing: RefCell<VecDeque<Writing>>,
    /// The next token, and who asked under those before.
    waiting: RefCell<(Token, BTreeMap<Token, Asker>)>,
    /// The way to other nodes, if there is one.
    peers: Option<Rc<dyn Peers>>,
    shown: Shown,
    complained: Cell<Mono>,
    fatal: Fatal,
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
    async fn open(shard: &Shard, settings: &Settings) -> Result<Rc<Meta>, LogError> {
        let (env, local) = (&shard.env, &settings.local);
        let (joins, told) = (settings.joins, settings.told.clone());
        let level = told.levels().highest;
        let found = MetaLog::open(env, &settings.data_dir, (local, joins), level).await?;
        let options = Options {
            node: local.node,
            seed: 0,
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
        };
        let records = found.records.iter().map(Vec::as_slice);
        let metadata = Metadata::open(options, Times::default(), local.clone(), records);
        let metadata = metadata.map_err(LogError::Corrupt)?;
        // What a lone voter has is committed.
        let held = metadata.quorum().members().voters != [local.node];
        let meta = Rc::new(Meta {
            env: env.clone(),
            flusher: shard.flusher.clone(),
            log: found.log,
            metadata: RefCell::new(metadata),
            peers: shard.peers(),
            shown: Shown {
                version: Cell::new(0),
                held: Cell::new(held),
                changed: Notify::default(),
            },
            complained: Cell::new(Mono(0)),
            fatal: shard.fatal().clone(),
            told,
            writing: RefCell::default(),
            // An answer to the last run is none to this one.
            waiting: RefCell::new((env.random_u64() >> 1, BTreeMap::new())),
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

    /// The image, as the member of the quorum has it.
    pub fn image(&self) -> Arc<ClusterImage> {
        Arc::new(self.metadata.borrow().image().clone())
    }

    /// Begins: a node that is alone leads at once. The shards have the image as it is, unless it is
    /// held back.
    fn begin(self: &Rc<Self>, shard: &Rc<Shard>) {
        let told = match self.shown.held.get() {
            true => None,
            false => Some(self.metadata.borrow().image().version()),
        };
        self.shown.version.set(told.unwrap_or(0));
        if !self.shown.held.get() {
            self.input(|m, now| m.campaign(now));
        }
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

    /// Whether there is anybody to ask: the controller, or who may know it.
    pub fn has_controller(&self) -> bool {
        self.leads() || self.whom(None).is_some()
    }

    /// Whether this node decides, or is about to.
    pub fn leads(&self) -> bool {
        self.metadata.borrow().quorum().role().leads
    }

    /// Who votes, as far as it is known here.
    pub fn voters(&self) -> Vec<NodeId> {
        self.metadata.borrow().quorum().members().voters
    }

    /// Waits until another node than this one leads, or none, if it leads now.
    pub async fn other_than(&self, node: NodeId) {
        let leads = || self.controller() == Some(node);
        if !leads() {
            std::future::pending::<()>().await;
        }
        while leads() {
            self.roles.wait().await;
        }
    }

    /// Waits until it is known who leads.
    pub async fn somebody_leads(&self) {
        while self.controller().is_none() {
            self.roles.wait().await;
        }
    }

    /// Whom to ask: the controller on another node; if it is not known, any node but `not`.
    pub fn whom(&self, not: Option<NodeId>) -> Option<NodeId> {
        let peers = self.peers.as_ref()?;
        let metadata = self.metadata.borrow();
        let cluster = metadata.image().cluster();
        let me = metadata.image().node();
        let others = |node: &NodeId| *node != me && Some(*node) != not;
        let leader = metadata.quorum().role().leader.filter(others);
        leader.or_else(|| {
            let mut known: Vec<NodeId> = cluster.brokers().map(|b| b.told.node).collect();
            known.extend(peers.contacts());
            known.retain(others);
            let at = self.env.random_u64() as usize % known.len().max(1);
            known.get(at).copied()
        })
    }

    /// What is notified when there may be another controller.
    pub fn roles(&self) -> &Notify {
        &self.roles
    }

    /// Whether nothing is taken any more.
    pub fn is_over(&self) -> bool {
        self.ended.get() || self.log.is_gone() || self.fatal.is_said()
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
        self.carry_out();
    }

    fn carry_out(&self) {
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
            Output::Image(ref image) => {
                self.learn(image);
                self.news.borrow_mut().push(output);
                self.changed.notify_all();
            }
            Output::Answer(..) => {
                self.news.borrow_mut().push(output);
                self.changed.notify_all();
            }
            Output::Broken(why) => self.stop(why),
            Output::Send { to, bytes } => self.send(to, Packet::Raft(bytes)),
            Output::Members(members) => self.members(&members),
            Output::Role(_) => {
                self.roles.notify_all();
                self.changed.notify_all();
            }
            // The quorum is asked for them by whoever needs them.
            Output::Read(_) => {}
        }
    }

    /// Whether an image is not that of long ago: it shows this run of the broker, or all that is
    /// committed was here from the start.
    fn is_current(&self, image: &ClusterImage) -> bool {
        let me = image.cluster().broker(image.node());
        !self.shown.held.get() || me.is_some_and(|b| b.told.incarnation == self.told.incarnation)
    }

    fn learn(&self, image: &Arc<ClusterImage>) {
        // The run before this one was of a newer build, perhaps. An image that lags behind has a
        // lower level than is agreed, never a higher one.
        let level = image.cluster().level();
        if level > self.told.levels().highest
            && let Err(why) = self.told.lives_at(level)
        {
            return self.stop(why);
        }
        if let Some(peers) = &self.peers {
            peers.learn(image, self.is_current(image));
        }
    }

    fn members(&self, members: &Members) {
        let list = |nodes: &[NodeId]| {
            let ids: Vec<String> = nodes.iter().map(|n| n.0.to_string()).collect();
            ids.join(", ")
        };
        if self.peers.is_some() && !members.joint {
            eprintln!(
                "metadata: nodes that vote: {}; that learn: {}",
                list(&members.voters),
                list(&members.learners)
            );
        }
    }

    /// Sends something to a node, if there is a way.
    pub fn send(&self, to: NodeId, packet: Packet) {
        if let Some(peers) = &self.peers {
            peers.send(to, packet, None);
        }
    }

    /// It is certain that the process of a node is gone.
    pub fn lost(&self, node: NodeId) {
        self.input(|m, now| m.lost(node, now));
    }

    /// A message of the quorum came from a node.
    pub fn step(&self, from: NodeId, bytes: &[u8]) {
        let done = self.metadata.borrow_mut().step(bytes, self.env.now());
        match done {
            Err(why) if why.ends_with("Start the newer version again") => self.stop(why),
            Err(why) => self.complain(&format!("from node {}: {why}", from.0)),
            Ok(()) => {}
        }
        self.carry_out();
    }

    fn complain(&self, text: &str) {
        let (last, now) = (self.complained.get(), self.env.now());
        if last == Mono(0) || now - last >= COMPLAIN_EVERY {
            self.complained.set(now);
            eprintln!("warning: {text}");
        }
    }

    /// The time.
    pub fn now(&self) -> Mono {
        self.env.now()
    }

    /// Waits so long.
    pub async fn pause(&self, long: Duration) {
        self.env.sleep(long).await;
    }

    /// Why no question is taken any more.
    pub fn refuses(&self) -> Option<Refused> {
        let failed = self
            .log
            .why()
            .map(|why| (ErrorCode::KafkaStorageError, why));
        let ended = self.ended.get() || self.fatal.is_said();
        failed.or_else(|| ended.then(|| (ErrorCode::NotController, STOPPING.to_owned())))
    }

    /// Keeps who asked until there is an answer.
    pub fn wait_for(&self, asker: Asker) -> Token {
        let (next, waiting) = &mut *self.waiting.borrow_mut();
        *next += 1;
        waiting.insert(*next, asker);
        *next
    }

    /// Nobody waits for this one any more.
    pub fn forget(&self, token: Token) {
        if self.waiting.borrow_mut().1.remove(&token).is_some() {
            self.changed.notify_all();
        }
    }

    /// How many wait for an answer.
    pub fn waits(&self) -> usize {
        self.waiting.borrow().1.len()
    }

    /// Asks the controller, which is here.
    pub fn ask_here(&self, token: Token, ask: Ask) {
        self.input(|m, now| {
            m.ask(token, ask, now);
            Ok(())
        });
        if self.log.is_gone() {
            self.refuse_all();
        }
    }

    /// Waits until every shard has at least this version of the image, or `until`.
    pub async fn published(&self, version: u64, until: Mono) {
        while self.shown.version.get() < version && self.now() < until && !self.is_over() {
            let late = self.env.sleep(until - self.now());
            futures_lite::future::or(self.shown.changed.wait(), late).await;
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
    async fn tell(&self, shard: Weak<Shard>, mut told: Option<u64>) {
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
            let image = image.filter(|i| Some(i.version()) > told && self.is_current(i));
            if let Some(image) = image {
                self.shown.held.set(false);
                let version = image.version();
                told = Some(version);
                let others = shard.publish(image).await;
                // One that is gone does not answer.
                futures_lite::future::or(others, self.alone()).await;
                self.shown.version.set(version);
                self.shown.changed.notify_all();
            }
            drop(shard);
            let none = answers.is_empty();
            let version = told.unwrap_or(0);
            for (token, outcome) in answers {
                self.answer(token, (outcome, version));
            }
            if none {
                if self.ended.get() {
                    return;
                }
                changed.await;
            }
        }
    }

    /// There is an answer for whoever asked this, be it another node.
    pub fn answer(&self, token: Token, (outcome, version): Answered) {
        let asked = self.waiting.borrow_mut().1.remove(&token);
        match asked {
            // Who asked may be gone.
            Some(Asker::Here(asked)) => drop(asked.send((outcome, version))),
            Some(Asker::Node(to, token, _)) => {
                let packet = Packet::Answer {
                    token,
                    version,
                    outcome,
                };
                self.send(to, packet);
            }
            None => {}
        }
        self.changed.notify_all();
    }

    /// The log failed: nobody gets another answer.
    fn refuse_all(&self) {
        let why = self.log.why().unwrap_or_default();
        let tokens: Vec<Token> = self.waiting.borrow().1.keys().copied().collect();
        for token in tokens {
            let refused = Err((ErrorCode::KafkaStorageError, why.clone()));
            self.answer(token, (refused, 0));
        }
        self.changed.notify_all();
    }

    async fn tick(&self) {
        while !self.is_over() {
            self.env.sleep(TICK).await;
            self.input(Metadata::tick);
            self.gather();
            let now = self.now();
            self.waiting.borrow_mut().1.retain(|_, asker| match asker {
                Asker::Here(_) => true,
                Asker::Node(_, _, since) => now - *since < FORGET,
            });
        }
    }

    /// Has all brokers learn the metadata, and some of them vote.
    fn gather(&self) {
        if self.peers.is_none() || self.is_over() {
            return;
        }
        let done = self.metadata.borrow_mut().gather();
        if let Err(NotTaken::Refused(why)) = done {
            self.complain(&why);
        }
        self.carry_out();
    }

    /// Has another voter lead, if this node does: so nobody has to wait until it is missed.
    pub async fn hand_over(&self) {
        let to = {
            let metadata = self.metadata.borrow();
            let (image, quorum) = (metadata.image(), metadata.quorum());
            let voters = quorum.members().voters;
            let fits = |(node, _): &(NodeId, u64)| {
                let other = *node != image.node() && voters.contains(node);
                other && image.cluster().is_active(*node)
            };
            let all = quorum.progress().into_iter().filter(fits);
            all.max_by_key(|(_, has)| *has).map(|(node, _)| node)
        };
        let Some(to) = to.filter(|_| self.leads() && !self.is_over()) else {
            return;
        };
        // One that cannot take it is missed, as one that was killed.
        let _ = self.metadata.borrow_mut().transfer(to);
        self.carry_out();
        let until = self.now() + HAND_OVER_MAX;
        while self.leads() && self.now() < until {
            futures_lite::future::or(self.roles.wait(), self.pause(TICK)).await;
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

    /// Takes nothing any more, and ends the process.
    pub fn stop(&self, why: String) {
        self.fatal.say(why);
        self.changed.notify_all();
        self.log.news().notify_all();
    }

    /// Waits until everybody who asked was answered, but not for long, and takes nothing any more.
    /// The other shards are gone.
    pub async fn end(&self) {
        self.alone.set(true);
        self.changed.notify_all();
        let answered = async {
            loop {
                let changed = self.changed.wait();
                let is_here = |asker: &Asker| matches!(asker, Asker::Here(_));
                if !self.waiting.borrow().1.values().any(is_here) {
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
        self.waiting.borrow_mut().1.clear();
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
        let meta = Meta::open(self, &self.settings).await;
        let meta = meta.map_err(|e| format!("the metadata log: {e}"))?;
        let told = self.settings.told.clone();
        drive_seat::look(&meta.image(), &told, meta.shown.held.get())?;
        *self.meta.borrow_mut() = Some(meta.clone());
        let image = meta.image();
        meta.learn(&image);
        if !meta.shown.held.get() {
            self.publish(image).await.await;
        }
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
