//! The replica of a partition beside its log: what the image, other nodes and the disk tell it, and
//! what it wants done.
//!
//! Invariants: what the replica says is carried out in its order before anything else is told to
//! it, but for a cut of the log, which shuts the partition until it is done; a replica acts on
//! images that know this run of the broker, and no others; a coordinator serves where its partition
//! is led and all that its log held when that began is committed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use streamd_core::config::ReplicationConfig;
use streamd_core::control::NewIsr;
use streamd_core::meta::{ClusterImage, PartitionMeta, TopicMeta};
use streamd_core::repl::{Acks, Effect, Head, Message, Replica, Settings, Wish};
use streamd_io::{Class, Env, Part};
use streamd_log::replica::{file_push, read_push};
use streamd_log::{BatchHeader, LogError, NewBatch, cut, retain};
use streamd_model::{ErrorCode, Mono, NodeId, Offset, PartitionId};

use crate::Refusal;
use crate::brakes::Copies;
use crate::far::Far;
use crate::flusher::Owner;
use crate::keeper::Keeper;
use crate::open::Refold;
use crate::partition::Partition;
use crate::peers::{Packet, Peers, Records};
use crate::shard::Shard;

/// How often replicas look at the clock.
const TICK: Duration = Duration::from_millis(100);
/// Less than this is read and not sent from its file, bytes: to find where it ends is a read, too.
const SENT_FROM: usize = 64 << 10;
/// How often a full disk is asked for room to cut a log.
const FULL_POLL: Duration = Duration::from_millis(250);

/// A push that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    pub to: NodeId,
    /// What stands before it.
    pub head: Head,
    /// How many bytes at the most.
    pub max: u64,
    /// The follower is not in sync.
    pub catch_up: bool,
}

/// What the replicas of a shard have in common.
#[derive(Default)]
pub(crate) struct Replicas {
    /// Open partitions that have replicas elsewhere.
    shared: RefCell<BTreeSet<PartitionId>>,
    /// A follower's records that could not be used were complained of.
    complained: Cell<Option<Mono>>,
    /// What they are asked, and ask.
    far: Far,
    /// What leaders here send to who is not in sync.
    pub copies: Copies,
    /// The way to other nodes.
    peers: RefCell<Option<Rc<dyn Peers>>>,
}

impl Replicas {
    pub fn set_peers(&self, peers: Rc<dyn Peers>) {
        *self.peers.borrow_mut() = Some(peers);
    }

    pub fn far(&self) -> &Far {
        &self.far
    }

    pub fn peers(&self) -> Option<Rc<dyn Peers>> {
        self.peers.borrow().clone()
    }

    /// Begins with another one each time.
    fn shared_from(&self, turn: usize) -> VecDeque<PartitionId> {
        let mut shared: VecDeque<PartitionId> = self.shared.borrow().iter().copied().collect();
        let first = turn % shared.len().max(1);
        shared.rotate_left(first);
        shared
    }

    /// The partition is not here any more.
    pub fn forget(&self, id: PartitionId) {
        self.shared.borrow_mut().remove(&id);
    }
}

/// What replication is set to for a topic.
pub(crate) fn settings(topic: &TopicMeta, replication: &ReplicationConfig) -> Settings {
    let default = Settings::default();
    Settings {
        min_isr: usize::try_from(topic.config.replication.min_insync).unwrap_or(1),
        // Consumers that read from followers wait for it.
        news: match replication.nearest_reads {
            true => Duration::ZERO,
            false => default.news,
        },
        ..default
    }
}

/// How a log is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    To(Offset),
    /// All of it: it begins, and ends, there.
    Whole(Offset),
}

impl Partition {
    /// Something happens to the replica; what it says is carried out.
    pub(crate) fn act(&self, act: impl FnOnce(&mut Replica, Mono) -> Vec<Effect>) {
        let Ok(shard) = self.shard() else { return };
        let effects = act(&mut self.replica.borrow_mut(), shard.env.now());
        self.carry_out(&shard, effects);
    }

    /// Does what the replica says.
    pub(crate) fn carry_out(&self, shard: &Rc<Shard>, effects: Vec<Effect>) {
        let mut effects = effects.into_iter();
        while let Some(effect) = effects.next() {
            match effect {
                Effect::Send(to, message) => {
                    shard.tell(to, Packet::Replica(self.id, message), None);
                }
                Effect::Push {
                    to,
                    head,
                    max_bytes: max,
                    catch_up,
                } => self.push(Owed {
                    to,
                    head,
                    max,
                    catch_up,
                }),
                Effect::Truncate(to) => return self.cut(Cut::To(to), effects.collect()),
                Effect::Reset(start) => return self.cut(Cut::Whole(start), effects.collect()),
                Effect::High(high) => self.committed(high),
                Effect::Trim(start) => self.trim(start),
                Effect::Settle(ticket, result) => self.waiters.settle(ticket, result),
                Effect::Wish(wish) => shard.pass_on(self.id, &wish),
            }
        }
        self.begin_host();
    }

    fn committed(&self, high: Offset) {
        self.log.borrow_mut().set_high(high);
        let bytes = self.take_unread(high);
        self.waiters.readable(bytes);
        if let Some(host) = self.any_host() {
            host.committed(high);
        }
    }

    /// The coordinator serves, once all that it has to know is committed.
    fn begin_host(&self) {
        if self.keeper.borrow().is_none() {
            return;
        }
        let ready = {
            let replica = self.replica.borrow();
            let leads = replica.leads();
            leads.is_some_and(|leader| replica.high() >= leader.since())
        };
        let Some((shard, me)) = self.home().filter(|_| ready) else {
            return;
        };
        let mut keeper = self.keeper.take();
        if let Some(keeper) = &mut keeper {
            // It was made when the partition was opened.
            keeper.set_image(&shard.image());
        }
        shard.host(&me, keeper);
        if let Some(host) = self.any_host() {
            host.committed(self.replica.borrow().high());
        }
    }

    /// The partition is not led here any more: what the coordinator knew stays, for the next time.
    fn end_host(&self, image: &std::sync::Arc<ClusterImage>) {
        let Some(host) = self.any_host() else {
            return;
        };
        let state = host.encode();
        host.stop(ErrorCode::NotCoordinator);
        *self.hosts.borrow_mut() = crate::host::Hosts::Nobody;
        let name = self.topic.borrow().name.clone();
        match Keeper::with(&name, image, &state) {
            Ok(keeper) => *self.keeper.borrow_mut() = keeper,
            Err(why) => {
                let what = format!("{}: its own state: {why}", self.name);
                self.fail(&LogError::Corrupt(what));
            }
        }
    }

    /// Whether records of a producer are taken now.
    pub(crate) fn admits(&self, acks: Acks) -> Result<(), Refusal> {
        let shard = self.shard()?;
        let admits = self.replica.borrow().admits(acks, shard.env.now());
        admits.map_err(|(code, text)| Refusal::new(code, format!("{}: {text}", self.name)))
    }

    /// How far the log goes for a client that asks its leader.
    pub(crate) fn client_high(&self) -> Result<Offset, Refusal> {
        let shard = self.shard()?;
        let high = self.replica.borrow().client_high(shard.env.now());
        high.map_err(|code| Refusal::new(code, format!("{} is not led here", self.name)))
    }

    /// Whether this replica may be read from: it leads, or follows.
    pub(crate) fn is_readable(&self, follower_too: bool) -> Result<(), Refusal> {
        let replica = self.replica.borrow();
        if replica.leads().is_some() || follower_too && replica.follows().is_some() {
            return Ok(());
        }
        let text = format!("{} is not led here", self.name);
        Err(Refusal::new(ErrorCode::NotLeaderOrFollower, text))
    }
}

/// A leader's pushes.
impl Partition {
    /// Followers are told what of the log was deleted.
    fn tell_start(&self) {
        let start = self.log.borrow().start();
        let mut replica = self.replica.borrow_mut();
        let start = start.min(replica.high());
        replica.trimmed(start);
    }

    pub(crate) fn push_owed(&self, owed: Vec<Owed>) {
        owed.into_iter().for_each(|push| self.push(push));
    }

    fn push(&self, mut push: Owed) {
        // What is not durable here yet is pushed when it is.
        if self.log.borrow().flushed() <= push.head.base {
            return self.owed.borrow_mut().push(push);
        }
        let Some((shard, me)) = self.home() else {
            return;
        };
        if !self.may_push(&shard, &mut push) {
            return self.act(|replica, now| replica.hold(push.to, push.head, now));
        }
        let env = shard.env.clone();
        let send = async move {
            let bytes = me.send(&shard, push).await;
            me.has_pushed(&shard, &push, bytes);
        };
        env.spawn(Class::Latency, send).detach();
    }

    /// Gives how many bytes that were. Without a connection nothing comes of it: the follower
    /// subscribes anew.
    async fn send(&self, shard: &Rc<Shard>, push: Owed) -> u64 {
        let (to, head) = (push.to, push.head);
        let max = usize::try_from(push.max).unwrap_or(usize::MAX);
        let Some(peers) = shard.peers() else { return 0 };
        let Some(room) = peers.room(to, max).await else {
            return 0;
        };
        let (parts, next) = match self.find(&shard.env, &push, max).await {
            Ok(Some(found)) => found,
            // It was deleted meanwhile: the follower subscribes anew, and is told.
            Ok(None) => return 0,
            Err(error) if self.usable().is_ok() => {
                shard.damaged(self, &error);
                return 0;
            }
            Err(_) => return 0,
        };
        let bytes = parts.iter().map(Part::len).sum::<usize>() as u64;
        let records = Records {
            partition: self.id,
            head,
            parts,
        };
        peers.send(to, Packet::Data(records), Some(room));
        self.act(|replica, now| replica.pushed(to, head, (next, bytes), now));
        bytes
    }

    /// The batches of a push, and the offset behind them. What a follower lacks that is not in sync
    /// is of long ago: it goes from the file as it is.
    async fn find(
        &self,
        env: &Env,
        push: &Owed,
        max: usize,
    ) -> Result<Option<(Vec<Part>, Offset)>, LogError> {
        let from = push.head.base;
        if push.catch_up
            && let Some(found) = file_push(env, &self.log, from, (SENT_FROM, max)).await?
        {
            return Ok(Some((vec![found.part], found.next)));
        }
        let read = read_push(env, &self.log, (from, Offset::MAX), max).await?;
        Ok(read.map(|push| (push.parts.into_iter().map(Part::Bytes).collect(), push.next)))
    }
}

/// What a follower takes.
impl Partition {
    /// Appends records of the leader, if they go on where the log ends.
    fn take_records(&self, shard: &Rc<Shard>, from: NodeId, head: Head, bytes: &Bytes) {
        if self.begin_earlier(from, head, bytes) {
            return;
        }
        let follows = !bytes.is_empty() && head.base == self.log.borrow().end();
        let mut batches = Vec::new();
        if follows {
            let checked = self.log.borrow().check_kept(bytes);
            match checked {
                Ok(checked) => batches = checked,
                // As if they were lost.
                Err(error) => return shard.bad_records(self, from, &error.text),
            }
        }
        let mut epochs = Vec::new();
        for batch in &batches {
            let header = &batch.facts.header;
            if epochs
                .last()
                .is_none_or(|e: &(i32, Offset)| e.0 != header.epoch)
            {
                epochs.push((header.epoch, header.base_offset));
            }
        }
        let next = batches.last().map(|b| b.facts.header.next_offset());
        let count = next.unwrap_or(head.base) - head.base;
        let size = (count, bytes.len() as u64);
        let now = shard.env.now();
        let takes = (self.replica.borrow_mut()).data(from, head, &epochs, size, now);
        if takes && follows {
            for batch in batches {
                if let Err(why) = self.keep(batch, shard.env.wall_ms()) {
                    self.fail(&LogError::Corrupt(why));
                    return;
                }
            }
            if let Some((_, me)) = self.home() {
                shard.flusher.kick(me);
            }
        }
        self.act(Replica::taken);
        self.give_credit(shard);
    }

    /// Where the leader's log begins inside a batch, that comes whole: so an empty log begins
    /// there too. Then what came is taken.
    fn begin_earlier(&self, from: NodeId, head: Head, bytes: &Bytes) -> bool {
        let Ok(first) = BatchHeader::parse(bytes) else {
            return false;
        };
        let holds = (first.base_offset.max(0)..first.next_offset()).contains(&head.base);
        let earlier = holds && first.base_offset < head.base;
        let base = first.base_offset;
        if !earlier || !self.replica.borrow_mut().begin_earlier(head, base) {
            return false;
        }
        let (bytes, head) = (bytes.clone(), Head { base, ..head });
        self.cut_and(Cut::Whole(base), Vec::new(), move |me, shard| {
            me.take_records(shard, from, head, &bytes);
        });
        true
    }

    /// Appends a batch of the leader's, and folds it into what is known of producers, and of what
    /// is kept here.
    fn keep(&self, batch: NewBatch, now_ms: i64) -> Result<(), String> {
        let header = batch.facts.header;
        self.make_way((header.size, header.count), (now_ms, header.max_timestamp));
        let bytes = batch.bytes.clone();
        self.log
            .borrow_mut()
            .append_kept(batch, now_ms)
            .map_err(|e| e.text)?;
        if header.is_idempotent() {
            let ends = crate::append::marker_end(&header, &bytes);
            let high = self.replica.borrow().high();
            let mut producers = self.producers.borrow_mut();
            crate::append::replay(&mut producers, &header, ends, (now_ms, high));
        }
        if let Some(keeper) = &mut *self.keeper.borrow_mut() {
            for fold in keeper.read(&header, &bytes)? {
                keeper.step(&fold);
            }
        }
        Ok(())
    }

    /// Cuts the log, and then does what is left to do. Until then the partition is shut.
    fn cut(&self, how: Cut, then: Vec<Effect>) {
        self.cut_and(how, then, |_, _| {});
    }

    fn cut_and(
        &self,
        how: Cut,
        then: Vec<Effect>,
        after: impl FnOnce(&Partition, &Rc<Shard>) + 'static,
    ) {
        let Some((shard, me)) = self.home() else {
            return;
        };
        self.close_until_opened();
        self.forget_unread();
        let env = shard.env.clone();
        let cut = async move {
            // A log is cut behind what is on its way to the journal.
            shard.flusher.kick(me.clone());
            me.cut_now(&shard, how).await;
            if me.usable().is_ok() {
                // What was on its way when it was cut is durable by now.
                let flushed = me.log.borrow().flushed();
                me.act(|replica, now| replica.flushed(flushed, now));
                me.carry_out(&shard, then);
                shard.assign_now(&me);
                after(&me, &shard);
            }
            shard.let_in(&me);
        };
        env.spawn(Class::Latency, cut).detach();
    }

    async fn cut_now(&self, shard: &Rc<Shard>, how: Cut) {
        let (topic, image) = (self.topic.borrow().name.clone(), shard.image());
        loop {
            let now_ms = shard.env.wall_ms();
            let mut refold = Refold::new(Keeper::of(&topic, &image));
            let done = match how {
                Cut::To(to) => {
                    let visit = &mut |h: &_, bytes: &[u8]| refold.visit(h, bytes);
                    cut::truncate(&shard.env, &self.log, to, now_ms, visit).await
                }
                Cut::Whole(start) => cut::reset(&shard.env, &self.log, start, now_ms)
                    .await
                    .map(|()| Some(cut::Truncated::default())),
            };
            let state = match done {
                Ok(None) => return,
                Ok(Some(cut)) => {
                    cut.notes.iter().for_each(|n| eprintln!("warning: {n}"));
                    let start = self.log.borrow().start();
                    refold.end(&cut.state, (start, self.replica.borrow().high()), now_ms)
                }
                Err(error) if error.is_full() && !self.is_over() && !shard.closing.get() => {
                    shard.env.sleep(FULL_POLL).await;
                    continue;
                }
                Err(_) if self.is_deleted() => return,
                Err(error) => return self.fail(&error),
            };
            match state {
                Ok(state) => self.take_state(state),
                Err(what) => self.fail(&LogError::Corrupt(what)),
            }
            return;
        }
    }

    /// Deletes what the leader has deleted.
    fn trim(&self, start: Offset) {
        let Some((shard, me)) = self.home() else {
            return;
        };
        if self.log.borrow().start() >= start {
            return;
        }
        let env = shard.env.clone();
        let trim = async move {
            let done = retain::delete_before(&shard.env, &me.log, start).await;
            match done {
                Err(e) if !e.is_full() && me.usable().is_ok() => me.fail(&e),
                _ => me.forget_aborted(),
            }
        };
        env.spawn(Class::Background, trim).detach();
    }

    fn is_over(&self) -> bool {
        self.usable().is_err()
    }
}

/// The image, other nodes, the clock.
impl Shard {
    /// Sends something to another node, if there is a way.
    pub(crate) fn tell(
        &self,
        to: NodeId,
        packet: Packet,
        memory: Option<streamd_io::local::Permit>,
    ) {
        if let Some(peers) = self.peers() {
            peers.send(to, packet, memory);
        }
    }

    /// A leader's wish goes to the controller, with what the image says of the brokers in it.
    pub(crate) fn pass_on(&self, partition: PartitionId, wish: &Wish) {
        let image = self.image();
        let epoch = |n: &NodeId| image.cluster().broker(*n).map_or(-1, |b| b.epoch);
        self.wish(NewIsr {
            partition,
            leader_epoch: wish.leader_epoch,
            epoch: wish.epoch,
            isr: wish.isr.iter().map(|n| (*n, epoch(n))).collect(),
        });
    }

    /// The controller's answer to a wish, if it was none that was wished.
    pub(crate) fn altered(&self, id: PartitionId, code: ErrorCode) {
        if let Some(partition) = self.open_now(id).filter(|_| code.is_err()) {
            partition.act(|replica, now| replica.refused(code, now));
        }
    }

    /// A partition that is open, and in order.
    fn open_now(&self, id: PartitionId) -> Option<Rc<Partition>> {
        self.there(id).filter(|p| p.is_at_work())
    }

    /// What another node says to a replica here. If that is not open it is lost.
    pub(crate) fn replica_hears(&self, from: NodeId, id: PartitionId, message: &Message) {
        let Some(partition) = self.open_now(id) else {
            return;
        };
        if matches!(message, Message::Subscribe { .. }) {
            partition.tell_start();
        }
        partition.act(|replica, now| replica.message(from, message, now));
        if matches!(message, Message::Ack { .. }) {
            self.has_taken(&partition, from);
        }
    }

    /// Records of another node for a replica here. If that is not open they are lost.
    pub(crate) fn replica_takes(self: &Rc<Self>, from: NodeId, records: Records) {
        let Some(partition) = self.open_now(records.partition) else {
            return;
        };
        let [Part::Bytes(bytes)] = &records.parts[..] else {
            unreachable!("what arrives is in memory, in one piece");
        };
        // Without room they are lost, until there is some.
        if self.admit(bytes.len()).is_ok() {
            partition.take_records(self, from, records.head, bytes);
        }
    }

    fn bad_records(&self, partition: &Partition, from: NodeId, why: &str) {
        let now = self.env.now();
        let last = self.replicas.complained.get();
        if last.is_none_or(|last| now - last > Duration::from_secs(1)) {
            self.replicas.complained.set(Some(now));
            eprintln!(
                "warning: records of node {} for {}: {why}; they are asked for again",
                from.0, partition.name
            );
        }
    }

    /// Tells a replica what the image says of it.
    pub(crate) fn assign(self: &Rc<Self>, partition: &Rc<Partition>) {
        // One that is shut is told when it is opened.
        if partition.is_at_work() {
            self.assign_now(partition);
        }
    }

    /// The same, before anybody else is let in.
    pub(crate) fn assign_now(self: &Rc<Self>, partition: &Rc<Partition>) {
        let image = self.image();
        let (Some(epoch), Some(place)) = (self.acts(), image.cluster().partition(partition.id))
        else {
            return;
        };
        match place.replicas.len() {
            0 | 1 => self.replicas.shared.borrow_mut().remove(&partition.id),
            _ => self.replicas.shared.borrow_mut().insert(partition.id),
        };
        let replicas = place.replicas.iter().copied();
        let unfit = replicas
            .filter(|n| !image.cluster().is_active(*n))
            .collect();
        let leads = |p: &Partition| {
            let replica = p.replica.borrow();
            replica.leads().map(|l| l.meta().leader_epoch)
        };
        let (before, lease) = (leads(partition), self.lease());
        let mut effects = Vec::new();
        {
            let (mut replica, now) = (partition.replica.borrow_mut(), self.env.now());
            effects.extend(replica.assign(place, unfit, epoch, now));
            effects.extend(replica.lease(lease, now));
        }
        partition.set_brake(self);
        if before.is_some() && leads(partition) != before {
            partition.end_host(&image);
            partition.waiters.wake_readers();
        }
        partition.carry_out(self, effects);
    }

    /// This run of the broker was registered, or a new image is there: replicas are told what is
    /// different.
    pub(crate) async fn assign_all(self: &Rc<Self>) {
        for partition in self.mine() {
            self.assign(&partition);
            self.env.yield_if_needed().await;
        }
    }

    /// Sees to it that the replicas of a topic that belong here are here, and no others.
    pub(crate) async fn settle_places(
        self: &Rc<Self>,
        image: &ClusterImage,
        places: &[PartitionId],
    ) {
        for id in places
            .iter()
            .filter(|id| self.owner(**id) == self.mesh.id())
        {
            let Some(place) = image.cluster().partition(*id) else {
                continue;
            };
            if self.acts().is_none() {
                return;
            }
            match (self.is_placed(place), self.there(*id)) {
                (true, Some(partition)) => self.assign(&partition),
                // Where there is no other replica it is opened when it is asked for.
                (true, None) if place.replicas.len() > 1 => drop(self.partition(*id)),
                (true, None) => {}
                (false, Some(partition)) => self.move_out(&partition).await,
                (false, None) => self.remove_replica(image, *id).await,
            }
            self.env.yield_if_needed().await;
        }
    }

    /// Whether this node has a replica.
    pub(crate) fn is_placed(&self, place: &PartitionMeta) -> bool {
        place.replicas.contains(&self.node())
    }

    async fn move_out(self: &Rc<Self>, partition: &Rc<Partition>) {
        partition.opened().await;
        let image = self.image();
        // It may have come back meanwhile.
        let place = image.cluster().partition(partition.id);
        if place.is_none_or(|p| self.is_placed(p)) || partition.is_deleted() {
            return;
        }
        partition.act(|replica, _| replica.resign());
        self.delete_partition(partition).await;
    }

    /// The clock of replicas. For ever.
    pub(crate) async fn tick_replicas(self: Rc<Self>) {
        for turn in 0.. {
            self.env.sleep(TICK).await;
            self.recount_copies();
            for id in self.replicas.shared_from(turn) {
                let Some(partition) = self.open_now(id) else {
                    continue;
                };
                let lease = self.lease();
                partition.tell_start();
                partition.act(|replica, now| {
                    let mut effects = replica.lease(lease, now);
                    effects.extend(replica.tick(now));
                    effects
                });
                partition.release();
                partition.give_credit(&self);
                self.env.yield_if_needed().await;
            }
        }
    }
}
