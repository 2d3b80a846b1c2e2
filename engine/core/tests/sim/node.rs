//! One node: the thin driver that the machines need, with the simulator for a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use streamd_core::config::Configs;
use streamd_core::control::{Ask, Metadata, NewIsr, Output, Seat, SeatEffect};
use streamd_core::meta::{ClusterImage, Local, Registration};
use streamd_core::raft::{Members, Options};
use streamd_core::repl::{Acks, Effect, Head, Replica, Settings};
use streamd_model::{ErrorCode, NodeId, PartitionId};

use crate::disk::Rec;
use crate::world::{Event, MS, Packet, TICK, World, times};

pub struct Node {
    pub life: u64,
    pub metadata: Metadata,
    pub seat: Seat,
    pub replicas: BTreeMap<PartitionId, Replica>,
    pub image: Arc<ClusterImage>,
    /// Questions of others: our token to theirs.
    asked: BTreeMap<u64, (NodeId, u64)>,
    next_token: u64,
}

pub fn local(node: NodeId) -> Local {
    Local {
        node,
        configs: Configs::new(),
    }
}

impl World {
    pub fn settings(&self) -> Settings {
        Settings {
            lag: Duration::from_millis(1_000),
            pulse: Duration::from_millis(150),
            news: Duration::from_millis([0, 20, 150][(self.seed % 3) as usize]),
            credit: 400,
            min_isr: self.min_isr,
        }
    }

    pub fn start(&mut self, node: NodeId) {
        if self.nodes.contains_key(&node) {
            return;
        }
        self.lives += 1;
        let options = Options {
            node,
            seed: self.seed,
            election_ticks: 8,
            heartbeat_ticks: 2,
        };
        let records = self.hard.meta_disks[&node].records();
        let metadata = Metadata::open(options, times(), local(node), records);
        let metadata = metadata.expect("the metadata log is whole");
        let mut incarnation = [0; 16];
        incarnation[..8].copy_from_slice(&self.lives.to_le_bytes());
        let told = Registration {
            node,
            incarnation,
            directory: [node.0 as u8; 16],
            rack: Some(format!("r{}", node.0 % 2)),
            endpoints: Vec::new(),
            features: self.hard.builds[&node],
        };
        let image = Arc::new(metadata.image().clone());
        if !self.knows(node, &image) {
            return self.turned_away(node, "by what it has itself");
        }
        let fresh = Node {
            life: self.lives,
            metadata,
            seat: Seat::new(told, times()),
            replicas: BTreeMap::new(),
            image,
            asked: BTreeMap::new(),
            next_token: 1,
        };
        self.nodes.insert(node, fresh);
        let first = self.rng.below(TICK);
        self.later(first, Event::Tick(node, self.lives));
        self.carry(node);
    }

    pub fn crash(&mut self, node: NodeId) {
        let Some(gone) = self.nodes.remove(&node) else {
            return;
        };
        let lose = self.faults.loses_unsynced();
        self.hard.paused.remove(&node);
        let mut rng = self.rng.clone();
        let disk = self
            .hard
            .meta_disks
            .get_mut(&node)
            .expect("every node has a disk");
        let (torn, lost) = (disk.torn, disk.lost);
        disk.crash(&mut rng, lose);
        let (torn, lost) = (disk.torn - torn, disk.lost - lost);
        self.faults.fired_by("metadata writes lost", lost);
        self.faults.fired_by("metadata writes torn", torn);
        let mut records = 0;
        for log in self.hard.disks.entry(node).or_default().values_mut() {
            let before = log.lost;
            log.crash(&mut rng, lose);
            records += log.lost - before;
        }
        self.faults
            .fired_by("records lost that were not durable", records);
        self.rng = rng;
        // What producers wait for is never answered.
        drop(gone);
    }

    pub fn tick(&mut self, node: NodeId) {
        let now = self.now(node);
        let me = self.nodes.get_mut(&node).expect("it lives");
        me.metadata.tick(now).expect("the log can be read");
        let effects = me.seat.tick(me.image.version(), now);
        self.seat_effects(node, effects);
        self.carry(node);
        if !self.nodes.contains_key(&node) {
            return;
        }
        let ids: Vec<PartitionId> = self.nodes[&node].replicas.keys().copied().collect();
        for id in ids {
            self.throttle(node, id);
            self.replica(node, id, |r| r.tick(now));
        }
        if self.nodes[&node].metadata.decides() && self.rng.chance(100) {
            let token = self.token(node);
            self.load.reads.insert(token, self.check.answered);
            let me = self.nodes.get_mut(&node).expect("it lives");
            me.metadata.read(token, now);
            self.carry(node);
        }
    }

    /// Who is copied slowly changes as it happens, on both sides.
    fn throttle(&mut self, node: NodeId, id: PartitionId) {
        if self.hard.throttle.is_none() {
            return;
        }
        let now = self.now(node);
        let followers: Vec<NodeId> = self.hard.clocks.keys().copied().collect();
        for follower in followers {
            self.replica(node, id, |r| r.release(follower, now));
        }
        let (turns, brakes) = (self.hard.throttles(50), self.hard.throttles(500));
        let gives = u64::from(self.hard.throttles(500)) * 300;
        self.replica(node, id, |r| {
            if turns {
                r.brake(brakes);
            }
            match r.kept_back() {
                0 => Vec::new(),
                _ => r.give_back(gives),
            }
        });
    }

    pub fn token(&mut self, node: NodeId) -> u64 {
        let me = self.nodes.get_mut(&node).expect("it lives");
        me.next_token += 1;
        me.life << 32 | me.next_token
    }

    pub fn arrives(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        let now = self.now(to);
        let me = self.nodes.get_mut(&to).expect("it lives");
        match packet {
            Packet::Meta(bytes) => me.metadata.step(&bytes, now).expect("a good message"),
            Packet::Ask(theirs, ask) => {
                let token = self.token(to);
                let me = self.nodes.get_mut(&to).expect("it lives");
                me.asked.insert(token, (from, theirs));
                me.metadata.ask(token, ask, now);
            }
            Packet::Answer(token, outcome) => {
                let effects = me.seat.answer(token, outcome, now);
                self.seat_effects(to, effects);
            }
            Packet::Replica(id, message) => {
                self.replica(to, id, |r| r.message(from, &message, now));
            }
            Packet::Data(id, head, records) => self.data(from, to, id, (head, records)),
        }
        self.carry(to);
    }

    fn data(
        &mut self,
        from: NodeId,
        to: NodeId,
        id: PartitionId,
        (head, records): (Head, Vec<Rec>),
    ) {
        let now = self.now(to);
        let me = self.nodes.get_mut(&to).expect("it lives");
        let Some(replica) = me.replicas.get_mut(&id) else {
            return;
        };
        let mut epochs = Vec::new();
        for (rec, at) in records.iter().zip(head.base..) {
            if epochs.last().is_none_or(|e: &(i32, i64)| e.0 != rec.epoch) {
                epochs.push((rec.epoch, at));
            }
        }
        let bytes = records.iter().map(|r| r.bytes).sum();
        let size = (records.len() as i64, bytes);
        if replica.data(from, head, &epochs, size, now) {
            let disk = self
                .hard
                .disks
                .entry(to)
                .or_default()
                .entry(id)
                .or_default();
            for rec in records {
                disk.append(rec);
            }
        }
        self.replica(to, id, |r| r.taken(now));
    }

    /// Something happens to a replica; what it says is carried out.
    pub fn replica(
        &mut self,
        node: NodeId,
        id: PartitionId,
        act: impl FnOnce(&mut Replica) -> Vec<Effect>,
    ) {
        let me = self.nodes.get_mut(&node).expect("it lives");
        let Some(replica) = me.replicas.get_mut(&id) else {
            return;
        };
        let effects = act(replica);
        self.effects(node, id, effects);
        let life = self.nodes[&node].life;
        let disk = self
            .hard
            .disks
            .entry(node)
            .or_default()
            .entry(id)
            .or_default();
        if disk.flush() {
            let slow = self.faults.disk(&mut self.rng, self.healed);
            self.later(slow, Event::Flushed(node, life, id));
            self.writes(node, slow);
        }
    }

    pub fn effects(&mut self, node: NodeId, id: PartitionId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(to, message) => self.send(node, to, Packet::Replica(id, message)),
                Effect::Push {
                    to,
                    head,
                    max_bytes,
                    catch_up,
                } => match catch_up && self.hard.throttles(self.holds()) {
                    true => {
                        self.faults.fired("pushes held back");
                        let now = self.now(node);
                        self.replica(node, id, |r| r.hold(to, head, now));
                    }
                    false => self.push(node, id, (to, head, max_bytes)),
                },
                Effect::Truncate(to) => {
                    self.faults.fired("logs cut by epoch");
                    let disk = self
                        .hard
                        .disks
                        .entry(node)
                        .or_default()
                        .entry(id)
                        .or_default();
                    disk.truncate(to);
                }
                Effect::Reset(start) | Effect::Trim(start) => {
                    panic!("no log is trimmed here, and it begins at {start}")
                }
                Effect::High(high) => {
                    let durable = self.nodes[&node].replicas[&id].durable();
                    assert!(high <= durable, "L2: {high} of {durable} durable");
                    let leads = self.nodes[&node].replicas[&id].leads();
                    let epoch = leads.map(|l| l.meta().leader_epoch);
                    let log = &self.hard.disks[&node][&id].log;
                    self.check.high(id, node, high, log);
                    if let Some(epoch) = epoch {
                        self.check
                            .leader_high(id, (node, epoch), high, &self.hard.disks);
                    }
                    self.note(high as u64);
                }
                Effect::Settle(ticket, result) => self.settled(node, ticket, result),
                Effect::Wish(wish) => {
                    let me = self.nodes.get_mut(&node).expect("it lives");
                    let epoch = |n: &NodeId| me.image.cluster().broker(*n).map_or(-1, |b| b.epoch);
                    let isr = wish.isr.iter().map(|n| (*n, epoch(n))).collect();
                    me.seat.wish(NewIsr {
                        partition: id,
                        leader_epoch: wish.leader_epoch,
                        epoch: wish.epoch,
                        isr,
                    });
                }
            }
        }
    }

    /// How many of 1,000 pushes of copies are held back: all of a log has to come through in the
    /// time that things may take to come right.
    fn holds(&self) -> u64 {
        match self.healed {
            true => 300,
            false => 700,
        }
    }

    fn push(&mut self, node: NodeId, id: PartitionId, (to, head, max): (NodeId, Head, u64)) {
        let log = &self.hard.disks[&node][&id].log;
        let (mut bytes, mut records) = (0, Vec::new());
        for rec in &log[head.base as usize..] {
            if !records.is_empty() && bytes + rec.bytes > max {
                break;
            }
            bytes += rec.bytes;
            records.push(*rec);
        }
        let next = head.base + records.len() as i64;
        self.send(node, to, Packet::Data(id, head, records));
        let now = self.now(node);
        self.replica(node, id, |r| r.pushed(to, head, (next, bytes), now));
    }

    /// A leader acts: takes records, settles, answers clients. It has to have a lease for that.
    fn acts(&self, node: NodeId) {
        let lease = self.nodes[&node].seat.lease();
        assert!(
            self.now(node) < lease,
            "C1: node {} acts without a lease",
            node.0
        );
        assert!(
            !self.is_fenced(node),
            "C1: node {} acts, and is fenced",
            node.0
        );
        assert!(
            self.knows(node, &self.nodes[&node].image),
            "level: node {} acts, and does not know the level",
            node.0
        );
    }

    /// Whether the metadata has this run of a node for gone, though nobody said so.
    fn is_fenced(&self, node: NodeId) -> bool {
        let latest = self.check.latest.as_ref();
        let broker = latest.and_then(|l| l.cluster().broker(node));
        broker.is_some_and(|b| {
            let same = self.nodes[&node].seat.epoch() == Some(b.epoch);
            b.fenced && same && !self.hinted.contains(&(node, b.epoch))
        })
    }

    fn settled(&mut self, node: NodeId, ticket: u64, result: Result<(), ErrorCode>) {
        let Some((id, value, at, all)) = self.load.tickets.remove(&ticket) else {
            return;
        };
        if result.is_ok() {
            self.acts(node);
            self.load.acks += 1;
            self.note(value);
            if all {
                self.check.acked(id, value, at);
            }
        }
    }

    pub fn flushed(&mut self, node: NodeId, id: PartitionId) {
        let now = self.now(node);
        let Some(replica) = self.nodes[&node].replicas.get(&id) else {
            return;
        };
        let high = replica.high();
        let disk = self
            .hard
            .disks
            .entry(node)
            .or_default()
            .entry(id)
            .or_default();
        let to = disk.flushed(high);
        self.replica(node, id, |r| r.flushed(to, now));
        self.carry(node);
    }

    pub fn meta_durable(&mut self, node: NodeId) {
        let now = self.now(node);
        let disk = self
            .hard
            .meta_disks
            .get_mut(&node)
            .expect("every node has a disk");
        let Some(number) = disk.done() else { return };
        let me = self.nodes.get_mut(&node).expect("it lives");
        me.metadata
            .persisted(number, now)
            .expect("the log can be read");
        self.carry(node);
    }

    /// Carries out what the metadata of a node wants.
    pub fn carry(&mut self, node: NodeId) {
        loop {
            let Some(me) = self.nodes.get_mut(&node) else {
                return;
            };
            let outputs = me.metadata.outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                // An image may show it that it must not go on.
                if self.nodes.contains_key(&node) {
                    self.output(node, output);
                }
            }
        }
    }

    fn output(&mut self, node: NodeId, output: Output) {
        match output {
            Output::Send { to, bytes } => self.send(node, to, Packet::Meta(bytes)),
            Output::Persist {
                number,
                record,
                anew,
            } => {
                let life = self.nodes[&node].life;
                let disk = self
                    .hard
                    .meta_disks
                    .get_mut(&node)
                    .expect("every node has a disk");
                disk.write(number, record, anew);
                let slow = self.faults.disk(&mut self.rng, self.healed);
                self.later(slow, Event::MetaDurable(node, life));
                self.writes(node, slow);
            }
            Output::Image(image) => self.image(node, image),
            Output::Answer(token, outcome) => {
                if outcome.is_ok() {
                    // What is answered is committed.
                    let version = self.nodes[&node].image.version();
                    self.check.answered = self.check.answered.max(version);
                }
                let me = self.nodes.get_mut(&node).expect("it lives");
                self.load.reads.remove(&token);
                if let Some((from, theirs)) = me.asked.remove(&token) {
                    self.send(node, from, Packet::Answer(theirs, outcome));
                }
            }
            Output::Read(token) => {
                let least = self.load.reads.remove(&token).expect("it was asked once");
                let have = self.nodes[&node].metadata.image().version();
                assert!(
                    have >= least,
                    "C5: a read sees {have}, answered was {least}"
                );
                self.faults.fired("linearizable reads");
            }
            Output::Role(role) => {
                if role.leads {
                    self.check.raft_leads(node, role.term);
                    self.faults.fired("controllers elected");
                }
                self.votes(node);
                self.note(role.term << 8 | u64::from(role.leads));
            }
            Output::Members(members) => self.members(node, &members),
            Output::Broken(why) => panic!("raft: node {} lost its log: {why}", node.0),
        }
    }

    fn members(&mut self, node: NodeId, members: &Members) {
        if self
            .nodes
            .get(&node)
            .is_some_and(|n| n.metadata.quorum().role().leads)
        {
            self.voters = members.voters.iter().copied().collect();
        }
    }

    fn image(&mut self, node: NodeId, image: Arc<ClusterImage>) {
        let before = self.check.latest.clone();
        if self.check.image(&image) {
            self.fenced_in_time(&image);
            let level = before.map_or(image.cluster().level(), |b| b.cluster().level());
            if image.cluster().level() > level {
                self.faults.fired("levels raised");
            }
        }
        if !self.knows(node, &image) {
            return self.turned_away(node, "by what it learns");
        }
        let me = self.nodes.get_mut(&node).expect("it lives");
        me.image = image;
        self.assign(node);
    }

    /// Who is fenced for its silence has no lease any more.
    fn fenced_in_time(&mut self, image: &ClusterImage) {
        for broker in image.cluster().brokers() {
            let node = broker.told.node;
            let Some(me) = self.nodes.get(&node) else {
                continue;
            };
            if broker.fenced && me.seat.epoch() == Some(broker.epoch) {
                let hint = self.hinted.contains(&(node, broker.epoch));
                assert!(
                    hint || self.now(node) >= me.seat.lease(),
                    "lease: node {} is fenced while it may act",
                    node.0
                );
            }
        }
    }

    /// Tells replicas what the image says of them.
    fn assign(&mut self, node: NodeId) {
        let now = self.now(node);
        let me = &self.nodes[&node];
        let image = me.image.clone();
        let Some(epoch) = me.seat.acts(&image) else {
            return;
        };
        for (id, meta) in image.cluster().places() {
            if !meta.replicas.contains(&node) {
                continue;
            }
            let settings = self.settings();
            let disk = self
                .hard
                .disks
                .entry(node)
                .or_default()
                .entry(id)
                .or_default();
            let (epochs, ends) = (disk.epochs(), (0, disk.high, disk.log.len() as i64));
            let me = self.nodes.get_mut(&node).expect("it lives");
            let replica = me.replicas.entry(id);
            replica.or_insert_with(|| Replica::new(node, settings, epochs, ends));
            let unfit = meta.replicas.iter().copied();
            let unfit: BTreeSet<NodeId> =
                unfit.filter(|n| !image.cluster().is_active(*n)).collect();
            let led = me.replicas[&id].leads().map(|l| l.meta().leader_epoch);
            let lease = me.seat.lease();
            let mut effects = Vec::new();
            if let Some(replica) = me.replicas.get_mut(&id) {
                effects = replica.assign(meta, unfit, epoch, now);
            }
            let leads = me.replicas[&id].leads().map(|l| l.meta().leader_epoch);
            if let Some(epoch) = leads
                && led != leads
            {
                self.faults.fired("partition leaders elected");
                let log = &self.hard.disks[&node][&id].log;
                self.check.leads(id, node, epoch, log);
            }
            self.effects(node, id, effects);
            self.replica(node, id, |r| r.lease(lease, now));
        }
    }

    pub fn seat_effects(&mut self, node: NodeId, effects: Vec<SeatEffect>) {
        let now = self.now(node);
        for effect in effects {
            match effect {
                SeatEffect::Ask(token, ask) => self.ask(node, token, ask),
                SeatEffect::Lease(until) => {
                    if until > now && self.is_fenced(node) {
                        panic!("lease: node {} gets one after it was fenced", node.0);
                    }
                    let ids: Vec<PartitionId> =
                        self.nodes[&node].replicas.keys().copied().collect();
                    for id in ids {
                        self.replica(node, id, |r| r.lease(until, now));
                    }
                }
                SeatEffect::Registered(_) => self.assign(node),
                SeatEffect::Altered(id, code) => {
                    if code.is_err() {
                        self.replica(node, id, |r| r.refused(code, now));
                    }
                }
                SeatEffect::MayStop => {
                    self.faults.fired("controlled shutdowns");
                    self.crash(node);
                    let back = self.rng.below(1_000 * MS);
                    self.later(back, Event::Start(node));
                    return;
                }
                SeatEffect::Refused(why) => return self.turned_away(node, &why),
            }
        }
    }

    pub fn ask(&mut self, node: NodeId, token: u64, ask: Ask) {
        let role = self.nodes[&node].metadata.quorum().role();
        let any: Vec<NodeId> = self.hard.clocks.keys().copied().collect();
        let to = role.leader.unwrap_or_else(|| self.rng.pick(&any));
        self.send(node, to, Packet::Ask(token, ask));
    }

    pub fn produce(&mut self) {
        let pause = 8 * MS + self.rng.below(15 * MS);
        self.later(pause, Event::Produce);
        let leaders: Vec<(NodeId, PartitionId)> = self.leaders();
        if leaders.is_empty() {
            return;
        }
        let (node, id) = self.rng.pick(&leaders);
        if self.hard.paused.contains_key(&node) {
            return;
        }
        let (now, value) = (self.now(node), self.load.next_value);
        self.load.next_value += 1;
        let acks = if self.rng.chance(850) {
            Acks::All
        } else {
            Acks::Leader
        };
        let bytes = 20 + self.rng.below(200);
        let me = self.nodes.get_mut(&node).expect("it lives");
        let replica = me.replicas.get_mut(&id).expect("it leads");
        match replica.append(1, acks, value, now) {
            Ok((at, epoch, effects)) => {
                self.acts(node);
                self.load
                    .tickets
                    .insert(value, (id, value, at, acks == Acks::All));
                let disk = self
                    .hard
                    .disks
                    .entry(node)
                    .or_default()
                    .entry(id)
                    .or_default();
                assert_eq!(
                    disk.log.len() as i64,
                    at,
                    "the log ends where the replica thinks"
                );
                disk.append(Rec {
                    epoch,
                    value,
                    bytes,
                });
                self.replica(node, id, |_| effects);
            }
            Err(_) => {
                self.faults.fired("records refused");
                self.check.of(id).refused.insert(value);
            }
        }
    }

    pub fn leaders(&self) -> Vec<(NodeId, PartitionId)> {
        let all = self.nodes.iter();
        all.flat_map(|(node, n)| {
            let leads = n.replicas.iter().filter(|(_, r)| r.leads().is_some());
            leads.map(|(id, _)| (*node, *id))
        })
        .collect()
    }

    pub fn consume(&mut self) {
        self.later(25 * MS, Event::Consume);
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        if nodes.is_empty() {
            return;
        }
        let node = self.rng.pick(&nodes);
        let now = self.now(node);
        for (id, replica) in &self.nodes[&node].replicas {
            if let (Ok(high), Some(leader)) = (replica.client_high(now), replica.leads()) {
                self.acts(node);
                self.check.told(*id, leader.meta().leader_epoch, high);
            }
            // Followers serve reads too.
            self.check
                .read(*id, replica.high(), &self.hard.disks[&node][id].log);
        }
    }
}
