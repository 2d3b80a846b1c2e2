//! What goes wrong: each seed has its own mix, and some have none of it.

use std::collections::BTreeMap;

use streamd_core::control::{Ask, Election};
use streamd_core::raft::Change;
use streamd_model::{NodeId, PartitionId};

use crate::rng::Rng;
use crate::world::{Event, MS, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Crash,
    CrashWriting,
    CrashVoting,
    CrashMany,
    Pause,
    Isolate,
    OneWay,
    Halves,
    Hint,
    Leave,
    Elect,
    Reassign,
    Cancel,
    Transfer,
    Members,
}

const KINDS: [Kind; 15] = [
    Kind::Crash,
    Kind::CrashWriting,
    Kind::CrashVoting,
    Kind::CrashMany,
    Kind::Pause,
    Kind::Isolate,
    Kind::OneWay,
    Kind::Halves,
    Kind::Hint,
    Kind::Leave,
    Kind::Elect,
    Kind::Reassign,
    Kind::Cancel,
    Kind::Transfer,
    Kind::Members,
];

/// The mix of a seed, and how often each fault fired.
#[derive(Default)]
pub struct Faults {
    kinds: Vec<Kind>,
    /// Per mille.
    loss: u64,
    twice: u64,
    slow: u64,
    slow_disk: u64,
    lose: bool,
    pub skew: bool,
    pub old_builds: bool,
    gap: u64,
    pub counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    pub fn draw(rng: &mut Rng) -> Faults {
        let mut faults = Faults {
            gap: 150 + rng.below(700),
            lose: rng.chance(800),
            skew: rng.chance(500),
            old_builds: rng.chance(350),
            ..Faults::default()
        };
        // One seed in twenty has a quiet world: loss without any fault is worst.
        if rng.chance(50) {
            return faults;
        }
        faults.kinds = KINDS.iter().copied().filter(|_| rng.chance(400)).collect();
        let rates = [
            (&mut faults.loss, 60),
            (&mut faults.twice, 50),
            (&mut faults.slow, 150),
            (&mut faults.slow_disk, 200),
        ];
        for (rate, most) in rates {
            if rng.chance(500) {
                *rate = rng.below(most);
            }
        }
        faults
    }

    pub fn fired(&mut self, what: &'static str) {
        self.fired_by(what, 1);
    }

    pub fn fired_by(&mut self, what: &'static str, times: u64) {
        *self.counts.entry(what).or_default() += times;
    }

    /// Loss, duplicates and delay, per mille.
    pub fn network(&self, healed: bool) -> (u64, u64, u64) {
        match healed {
            true => (0, 0, 0),
            false => (self.loss, self.twice, self.slow),
        }
    }

    /// How long a write takes.
    pub fn disk(&mut self, rng: &mut Rng, healed: bool) -> u64 {
        if !healed && rng.chance(self.slow_disk) {
            self.fired("slow writes");
            return rng.below(600 * MS);
        }
        300_000 + rng.below(3 * MS)
    }

    pub fn loses_unsynced(&self) -> bool {
        self.lose
    }
}

impl World {
    pub fn nemesis(&mut self) {
        if self.healed {
            return;
        }
        let gap = self.faults.gap / 2 + self.rng.below(self.faults.gap);
        self.later(gap * MS, Event::Nemesis);
        if self.faults.kinds.is_empty() {
            return;
        }
        let kinds = self.faults.kinds.clone();
        let kind = self.rng.pick(&kinds);
        self.note(kind as u64);
        let all: Vec<NodeId> = self.hard.clocks.keys().copied().collect();
        let node = self.rng.pick(&all);
        match kind {
            Kind::Crash => self.down(node, "crashes"),
            Kind::CrashMany => {
                for node in all {
                    if self.rng.chance(600) {
                        self.down(node, "crashes of many at once");
                    }
                }
            }
            // See `writes` and `votes`.
            Kind::CrashWriting | Kind::CrashVoting => {}
            Kind::Pause => {
                let long = self.rng.below(3_000 * MS);
                self.hard.paused.insert(node, self.at + long);
                self.faults.fired("pauses");
            }
            Kind::Isolate | Kind::OneWay | Kind::Halves => self.partition(kind, &all, node),
            Kind::Hint => self.hint(node),
            Kind::Leave => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.seat.leave();
                }
            }
            Kind::Elect | Kind::Reassign | Kind::Cancel => self.order(kind, &all),
            Kind::Transfer | Kind::Members => self.quorum(kind, node),
        }
    }

    pub fn down(&mut self, node: NodeId, what: &'static str) {
        if self.nodes.contains_key(&node) {
            self.faults.fired(what);
            self.crash(node);
            let back = match self.rng.chance(350) {
                true => self.rng.below(20 * MS),
                false => self.rng.below(2_500 * MS),
            };
            self.later(back, Event::Start(node));
        }
    }

    /// A node begins a write, which takes so long: perhaps it does not live to see its end.
    pub fn writes(&mut self, node: NodeId, takes: u64) {
        if self.faults.kinds.contains(&Kind::CrashWriting) && self.rng.chance(4) {
            let life = self.nodes[&node].life;
            let when = self.rng.below(takes);
            self.later(when, Event::Crash(node, life));
        }
    }

    /// The quorum changes its mind: perhaps a node is gone in the middle of it, and back at once.
    pub fn votes(&mut self, node: NodeId) {
        if self.faults.kinds.contains(&Kind::CrashVoting) && self.rng.chance(250) {
            let life = self.nodes[&node].life;
            let when = self.rng.below(15 * MS);
            self.later(when, Event::Crash(node, life));
        }
    }

    fn partition(&mut self, kind: Kind, all: &[NodeId], node: NodeId) {
        if !self.hard.cut.is_empty() && self.rng.chance(600) {
            self.hard.cut.clear();
            self.faults.fired("partitions healed");
            return;
        }
        let half: Vec<NodeId> = all
            .iter()
            .copied()
            .filter(|_| self.rng.chance(500))
            .collect();
        for other in all.iter().copied().filter(|n| *n != node) {
            match kind {
                Kind::Isolate => {
                    self.hard.cut.insert((node, other));
                    self.hard.cut.insert((other, node));
                }
                Kind::OneWay => {
                    self.hard.cut.insert((node, other));
                }
                _ => {
                    for from in &half {
                        if !half.contains(&other) {
                            self.hard.cut.insert((*from, other));
                            self.hard.cut.insert((other, *from));
                        }
                    }
                }
            }
        }
        self.faults.fired(match kind {
            Kind::Isolate => "partitions of one node",
            Kind::OneWay => "one-way partitions",
            _ => "partitions in two",
        });
    }

    /// Somebody thinks that a node is gone, rightly or not.
    fn hint(&mut self, node: NodeId) {
        let latest = self.check.latest.clone();
        let broker = latest
            .as_ref()
            .and_then(|l| l.cluster().broker(node).cloned());
        if let Some(broker) = broker {
            let epoch = broker.epoch;
            self.hinted.insert((node, epoch));
            self.tell(Ask::Lost { node, epoch });
            self.faults.fired("hints");
        }
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|n| *n != node).collect();
        for other in others {
            if self.rng.chance(500) {
                self.forget(other, node);
            }
        }
    }

    /// A node has it for certain that another one is gone, which may lead the quorum.
    fn forget(&mut self, node: NodeId, other: NodeId) {
        let now = self.now(node);
        let me = self.nodes.get_mut(&node).expect("it lives");
        if me.metadata.quorum().role().leader == Some(other) {
            self.faults.fired("leaders of the quorum forgotten");
        }
        me.metadata.lost(other, now).expect("the log can be read");
        self.carry(node);
    }

    fn order(&mut self, kind: Kind, all: &[NodeId]) {
        let latest = self.check.latest.clone();
        let places = latest.iter().flat_map(|l| l.cluster().places());
        let places: Vec<PartitionId> = places.map(|p| p.0).collect();
        if places.is_empty() {
            return;
        }
        let partition = self.rng.pick(&places);
        match kind {
            Kind::Elect => {
                self.tell(Ask::Elect {
                    election: Election::Preferred,
                    partitions: vec![partition],
                });
                self.faults.fired("preferred elections");
            }
            Kind::Cancel => {
                self.tell(Ask::Reassign {
                    partition,
                    replicas: None,
                });
                self.faults.fired("moves called off");
            }
            _ => {
                let mut replicas = all.to_vec();
                while replicas.len() > 3 {
                    let at = self.rng.below(replicas.len() as u64) as usize;
                    replicas.remove(at);
                }
                let first = self.rng.below(replicas.len() as u64) as usize;
                replicas.rotate_left(first);
                self.tell(Ask::Reassign {
                    partition,
                    replicas: Some(replicas),
                });
                self.faults.fired("moves");
            }
        }
    }

    /// Asks whoever decides.
    pub fn tell(&mut self, ask: Ask) {
        let decides = self.nodes.iter().find(|(_, n)| n.metadata.decides());
        if let Some(node) = decides.map(|(id, _)| *id) {
            let token = self.token(node);
            let now = self.now(node);
            let me = self.nodes.get_mut(&node).expect("it lives");
            me.metadata.ask(token, ask, now);
            self.carry(node);
        }
    }

    fn quorum(&mut self, kind: Kind, node: NodeId) {
        let leader = self
            .nodes
            .iter()
            .find(|(_, n)| n.metadata.quorum().role().leads);
        let Some(leader) = leader.map(|(id, _)| *id) else {
            return;
        };
        let me = self.nodes.get_mut(&leader).expect("it lives");
        if kind == Kind::Transfer {
            if me.metadata.transfer(node).is_ok() {
                self.faults.fired("transfers of the quorum");
            }
        } else {
            let members = me.metadata.quorum().members();
            let votes = members.voters.contains(&node);
            let change = match votes {
                true if members.voters.len() > 3 || self.rng.chance(300) => Change::Learner(node),
                true => return,
                false => Change::Voter(node),
            };
            if members.voters.len() <= 2 && votes {
                return;
            }
            if me.metadata.change(&[change]).is_ok() {
                self.faults.fired("changes of the quorum");
            }
        }
        self.carry(leader);
    }

    /// All faults end.
    pub fn heal(&mut self) {
        self.healed = true;
        self.hard.cut.clear();
        self.hard.paused.clear();
        let all: Vec<NodeId> = self.hard.clocks.keys().copied().collect();
        for node in all {
            if !self.nodes.contains_key(&node) {
                self.later(0, Event::Start(node));
            }
        }
    }
}
