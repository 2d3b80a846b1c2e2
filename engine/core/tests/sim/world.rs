//! The world: nodes, their network and their clocks, in one queue of events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streamd_core::control::{Ask, Outcome, Times};
use streamd_core::repl::{Head, Message};
use streamd_model::{Mono, NodeId, PartitionId};

use crate::check::Checker;
use crate::disk::{LogDisk, MetaDisk, Rec};
use crate::nemesis::Faults;
use crate::node::Node;
use crate::rng::{Rng, mix};

pub const MS: u64 = 1_000_000;
/// Between the ticks of a node.
pub const TICK: u64 = 50 * MS;

pub fn times() -> Times {
    Times {
        session: Duration::from_millis(1_500),
        heartbeat: Duration::from_millis(300),
        request: Duration::from_millis(600),
        balance: Duration::from_millis(2_500),
    }
}

/// What goes over the network.
#[derive(Clone, Debug)]
pub enum Packet {
    Meta(Vec<u8>),
    Ask(u64, Ask),
    Answer(u64, Outcome),
    Replica(PartitionId, Message),
    Data(PartitionId, Head, Vec<Rec>),
}

#[derive(Debug)]
pub enum Event {
    Tick(NodeId, u64),
    Arrives(NodeId, NodeId, Packet),
    MetaDurable(NodeId, u64),
    Flushed(NodeId, u64, PartitionId),
    Start(NodeId),
    Crash(NodeId, u64),
    Nemesis,
    Operate,
    Produce,
    Consume,
    Heal,
}

/// A node's clock: where it began, and how fast it goes.
#[derive(Clone, Copy)]
pub struct Clock {
    pub offset: u64,
    pub ppm: i64,
}

impl Clock {
    pub fn now(&self, at: u64) -> Mono {
        let drift = i128::from(at) * i128::from(self.ppm) / 1_000_000;
        Mono((i128::from(self.offset) + i128::from(at) + drift) as u64)
    }
}

/// What goes on living when a node's process ends.
#[derive(Default)]
pub struct Hardware {
    pub clocks: BTreeMap<NodeId, Clock>,
    /// The levels that the program knows which starts there.
    pub builds: BTreeMap<NodeId, (i16, i16)>,
    pub meta_disks: BTreeMap<NodeId, MetaDisk>,
    pub disks: BTreeMap<NodeId, BTreeMap<PartitionId, LogDisk>>,
    pub paused: BTreeMap<NodeId, u64>,
    /// From, to: nothing goes through.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// What decides who is copied now; none: everybody always is.
    pub throttle: Option<Rng>,
}

impl Hardware {
    fn new(seed: u64) -> Hardware {
        Hardware {
            throttle: (seed % 2 == 1).then(|| Rng::new(!seed)),
            ..Hardware::default()
        }
    }

    /// Whether something that is throttled is to wait.
    pub fn throttles(&mut self, permille: u64) -> bool {
        let throttle = self.throttle.as_mut();
        throttle.is_some_and(|rng| rng.chance(permille))
    }
}

/// What clients wait for.
#[derive(Default)]
pub struct Load {
    pub next_value: u64,
    /// What is under way from producers: ticket to partition, value, offset, whether `acks=all`.
    pub tickets: BTreeMap<u64, (PartitionId, u64, i64, bool)>,
    pub acks: u64,
    /// Reads of the metadata: token to the version that they must see.
    pub reads: BTreeMap<u64, u64>,
}

/// What two runs of one seed must agree on.
#[derive(Default)]
pub struct Trace {
    pub hash: u64,
    pub events: u64,
}

/// What is to happen, by time and then in the order it was asked for.
#[derive(Default)]
struct Queue {
    seq: u64,
    events: BTreeMap<(u64, u64), Event>,
}

pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub at: u64,
    queue: Queue,
    pub nodes: BTreeMap<NodeId, Node>,
    pub hard: Hardware,
    pub faults: Faults,
    pub check: Checker,
    pub trace: Trace,
    pub load: Load,
    pub voters: BTreeSet<NodeId>,
    pub healed: bool,
    pub lives: u64,
    pub min_isr: usize,
    pub hinted: BTreeSet<(NodeId, i64)>,
    quiet: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let faults = Faults::draw(&mut rng);
        World {
            seed,
            at: 1_000 * MS,
            queue: Queue::default(),
            nodes: BTreeMap::new(),
            hard: Hardware::new(seed),
            faults,
            check: Checker::default(),
            trace: Trace {
                hash: seed,
                events: 0,
            },
            load: Load {
                next_value: 1,
                ..Load::default()
            },
            voters: BTreeSet::new(),
            // Nothing goes wrong before everything is there.
            healed: true,
            lives: 0,
            min_isr: 1 + rng.below(2) as usize,
            hinted: BTreeSet::new(),
            quiet: false,
            rng,
        }
    }

    pub fn now(&self, node: NodeId) -> Mono {
        self.hard.clocks[&node].now(self.at)
    }

    pub fn later(&mut self, delay: u64, event: Event) {
        self.queue.seq += 1;
        self.queue
            .events
            .insert((self.at + delay, self.queue.seq), event);
    }

    pub fn note(&mut self, what: u64) {
        self.trace.hash = mix(self.trace.hash ^ what).wrapping_add(self.at);
    }

    /// Sends a packet, with what the network does to it.
    pub fn send(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        if from == to {
            self.later(1_000, Event::Arrives(from, to, packet));
            return;
        }
        if self.hard.cut.contains(&(from, to)) {
            self.faults.fired("packets cut off");
            return;
        }
        let (loss, twice, slow) = self.faults.network(self.healed);
        if self.rng.chance(loss) {
            self.faults.fired("packets lost");
            return;
        }
        let mut delay = 200_000 + self.rng.below(2 * MS);
        if self.rng.chance(slow) {
            self.faults.fired("packets late");
            delay += self.rng.below(400 * MS);
        }
        if self.rng.chance(twice) {
            self.faults.fired("packets twice");
            let again = delay + self.rng.below(200 * MS);
            self.later(again, Event::Arrives(from, to, packet.clone()));
        }
        self.later(delay, Event::Arrives(from, to, packet));
    }

    /// Carries out events until `end`.
    pub fn run(&mut self, end: u64) {
        while let Some(entry) = self.queue.events.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.at = at;
            self.trace.events += 1;
            self.step(event);
        }
        self.at = end;
    }

    fn step(&mut self, event: Event) {
        let node = match &event {
            Event::Tick(node, _) | Event::MetaDurable(node, _) => Some((*node, 1)),
            Event::Arrives(_, to, _) => Some((*to, 2)),
            Event::Flushed(node, _, _) => Some((*node, 3)),
            _ => None,
        };
        if let Some((node, kind)) = node {
            // A process that is stopped sees everything later, all at once.
            if let Some(until) = self.hard.paused.get(&node).copied() {
                if until > self.at {
                    self.later(until - self.at, event);
                    return;
                }
                self.hard.paused.remove(&node);
            }
            self.note(kind << 32 | node.0 as u64);
        }
        match event {
            Event::Tick(node, life) if self.lives_on(node, life) => {
                self.later(TICK, Event::Tick(node, life));
                self.tick(node);
            }
            Event::Arrives(from, to, packet) if self.nodes.contains_key(&to) => {
                self.arrives(from, to, packet);
            }
            Event::MetaDurable(node, life) if self.lives_on(node, life) => self.meta_durable(node),
            Event::Flushed(node, life, id) if self.lives_on(node, life) => self.flushed(node, id),
            Event::Start(node) => self.start(node),
            Event::Crash(node, life) if self.lives_on(node, life) && !self.healed => {
                self.down(node, "crashes while writing");
            }
            Event::Nemesis => self.nemesis(),
            Event::Operate => self.operate(),
            Event::Produce if !self.quiet => self.produce(),
            Event::Consume => self.consume(),
            Event::Heal => self.heal(),
            _ => {}
        }
    }

    pub fn stop_producing(&mut self) {
        self.quiet = true;
    }

    fn lives_on(&self, node: NodeId, life: u64) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.life == life)
    }
}
