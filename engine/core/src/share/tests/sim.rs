//! A crowd of members around a share-partition whose coordinator crashes, from one seed.
//!
//! Acknowledgements get lost, locks run out, sessions end, the log is cut, records are given up.
//! Checked all the time: no record is given to a member while another has a valid lock on it; what
//! a member knows to be accepted or rejected is not delivered again; no record is delivered more
//! often than the limit; the start never goes back; the durable log alone gives the state that the
//! coordinator has. At the end the faults stop: then everything is done with, every record was
//! delivered, and what was given up is in the dead-letter topic.

use std::collections::{BTreeMap, BTreeSet};

use streamd_io::sim::each_seed;
use streamd_model::ErrorCode;

use super::*;

const MEMBERS: u64 = 4;
const STEPS: usize = 400;
const LIMIT: i16 = 3;
const LOCK_MS: u64 = 30_000;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// An acknowledgement that is under way: what it says of which offsets.
type Under = (Token, Vec<(Offset, Ack)>);

struct World {
    bench: Bench,
    rng: Rng,
    settings: Vec<(&'static str, &'static str)>,
    /// The log of the partition.
    batches: Vec<ReadBatch>,
    end: Offset,
    log_start: Offset,
    /// Who has a lock, till when, in this life of the coordinator.
    locks: BTreeMap<Offset, (u64, Mono)>,
    delivered: BTreeSet<Offset>,
    /// What may not be delivered again.
    settled: BTreeSet<Offset>,
    /// What was rejected or spent, as far as a member knows.
    rejected: BTreeSet<Offset>,
    acks: Vec<Under>,
    buried: BTreeSet<Offset>,
    /// The highest start that anybody saw.
    start: Offset,
    /// How many records of the coordinator's log are durable.
    durable: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut settings = vec![("share.delivery.count.limit", "3")];
        if rng.one_in(2) {
            settings.push(("errors.deadletterqueue.topic.name", "dead"));
        }
        if rng.one_in(2) {
            settings.push(("share.redelivery.delay.ms", "700"));
        }
        if rng.one_in(2) {
            settings.push(("share.partition.max.record.locks", "12"));
        }
        let mut bench = Bench::new(&settings);
        bench.hold = true;
        World {
            bench,
            rng,
            settings,
            batches: Vec::new(),
            end: 0,
            log_start: 0,
            locks: BTreeMap::new(),
            delivered: BTreeSet::new(),
            settled: BTreeSet::new(),
            rejected: BTreeSet::new(),
            acks: Vec::new(),
            buried: BTreeSet::new(),
            start: 0,
            durable: 0,
        }
    }

    fn step(&mut self, faults: bool) {
        match self.rng.below(if faults { 24 } else { 12 }) {
            0..=1 if faults => self.produce(),
            0..=4 => self.fetch(),
            5..=7 => self.acknowledge(faults),
            8 => self.bench.pass(1 + self.rng.below(12_000)),
            9..=11 => self.persist(),
            12..=13 => self.bury(),
            14 => self.crash(),
            15 if self.rng.one_in(4) => self.cut(),
            16 if self.rng.one_in(3) => self.drop_member(),
            _ => self.persist(),
        }
        self.hear();
    }

    fn produce(&mut self) {
        let n = 1 + self.rng.below(5) as i64;
        let skip = self.rng.one_in(8);
        let (first, last) = (self.end, self.end + n - 1);
        self.batches.push(ReadBatch { first, last, skip });
        self.end += n;
    }

    fn fetch(&mut self) {
        let member = self.rng.below(MEMBERS);
        let offset = match self.bench.ask(Ask::Next) {
            Reply::Next(Next::Unset(_)) => {
                self.bench.begin(Ask::Begin(0));
                return;
            }
            Reply::Next(Next::Full) => return,
            Reply::Next(Next::At { offset, .. }) => offset,
            other => panic!("{other:?}"),
        };
        let from = offset.max(self.log_start);
        let after = self.batches.iter().filter(|b| b.last >= from);
        let read: Vec<_> = after
            .take(1 + self.rng.below(3) as usize)
            .copied()
            .collect();
        let records_max = 1 + self.rng.below(6) as i64;
        let strict = self.rng.one_in(3);
        let reply = self.bench.ask(Ask::Acquire(Acquire {
            member: member.to_string().as_str().into(),
            read,
            records_max,
            strict,
            log_start: self.log_start,
        }));
        let Reply::Acquired(got) = reply else {
            panic!("{reply:?}");
        };
        let now = self.bench.now.mono;
        let total: i64 = got.iter().map(|a| a.last - a.first + 1).sum();
        assert!(!strict || total <= records_max, "{total} of {records_max}");
        for a in got {
            assert!(
                a.count >= 1 && a.count <= LIMIT,
                "delivery {} of {LIMIT}",
                a.count
            );
            for offset in a.first..=a.last {
                let held = self.locks.get(&offset);
                assert!(
                    held.is_none_or(|l| l.1 <= now),
                    "{offset} is locked: {held:?}"
                );
                assert!(!self.settled.contains(&offset), "{offset} is settled");
                assert!(offset >= self.start, "{offset} lies before {}", self.start);
                let until = Mono(now.0 + LOCK_MS * 1_000_000);
                self.locks.insert(offset, (member, until));
                self.delivered.insert(offset);
            }
        }
    }

    fn acknowledge(&mut self, faults: bool) {
        let member = self.rng.below(MEMBERS);
        let now = self.bench.now.mono;
        let held = self
            .locks
            .iter()
            .filter(|(_, l)| l.0 == member && l.1 > now);
        let held: Vec<Offset> = held.map(|l| *l.0).collect();
        let mut said = Vec::new();
        for offset in held {
            let kind = match self.rng.below(if faults { 9 } else { 3 }) {
                0..=2 => Ack::Accept,
                3..=4 => Ack::Release,
                5 => Ack::Reject,
                6 => Ack::Renew,
                _ => continue,
            };
            said.push((offset, kind));
        }
        if said.is_empty() || (faults && self.rng.one_in(6)) {
            return;
        }
        let batches = said.iter().map(|&(offset, kind)| AckBatch {
            first: offset,
            last: offset,
            kinds: vec![kind],
        });
        let name = member.to_string();
        let ask = Ask::Acknowledge(name.as_str().into(), batches.collect());
        let token = self.bench.begin(ask);
        for (offset, kind) in &said {
            match kind {
                Ack::Renew => {
                    let until = Mono(now.0 + LOCK_MS * 1_000_000);
                    self.locks.insert(*offset, (member, until));
                }
                _ => {
                    self.locks.remove(offset);
                }
            }
        }
        self.acks.push((token, said));
    }

    /// Members hear what became of what they said.
    fn hear(&mut self) {
        for (token, said) in std::mem::take(&mut self.acks) {
            match self.bench.answer(token) {
                None => self.acks.push((token, said)),
                Some(Reply::Code(ErrorCode::None)) => {
                    for (offset, kind) in said {
                        if matches!(kind, Ack::Accept | Ack::Reject) {
                            self.settled.insert(offset);
                        }
                        if kind == Ack::Reject && offset >= self.log_start {
                            self.rejected.insert(offset);
                        }
                    }
                }
                Some(other) => panic!("{said:?} of who had the locks: {other:?}"),
            }
        }
    }

    fn persist(&mut self) {
        let n = 1 + self.rng.below(3) as usize;
        let durable = self.bench.batches.iter().take(n).next_back().map(|b| b.1);
        self.durable = durable.unwrap_or(self.durable);
        self.bench.persist(n);
        let hard = self.bench.c.hards().remove(&key());
        let start = hard.map_or(0, |h| h.start);
        let token = self.bench.begin(Ask::Summary);
        if let Some(Reply::Summary(Some(s))) = self.bench.answer(token) {
            assert_eq!(s.start, start);
            assert!(s.start >= self.start, "the start went back to {start}");
            self.start = s.start;
        }
    }

    fn bury(&mut self) {
        for order in std::mem::take(&mut self.bench.orders) {
            self.buried.extend(order.first..=order.last);
            self.bench.begin(Ask::Buried(order.first, order.last));
        }
    }

    fn cut(&mut self) {
        let to = self.log_start + self.rng.below(6) as i64;
        if let Some(b) = self.batches.iter().find(|b| b.first >= to) {
            self.log_start = b.first;
            self.rejected.retain(|o| *o >= b.first);
        }
    }

    fn drop_member(&mut self) {
        let member = self.rng.below(MEMBERS);
        let unseen = self.rng.one_in(2);
        let name = member.to_string();
        self.bench.begin(Ask::Release(name.as_str().into(), unseen));
        self.locks.retain(|_, l| l.0 != member);
    }

    /// The coordinator dies; of what was on the way to the disk a part got there.
    fn crash(&mut self) {
        let some = self.rng.below(1 + self.bench.batches.len() as u64) as usize;
        let more = self.bench.batches.iter().take(some).next_back();
        let keep = more.map_or(self.durable, |b| b.1);
        self.locks.clear();
        self.acks.clear();
        self.bench.orders.clear();
        self.bench.replies.clear();
        self.bench.restart(image(&self.settings), keep);
        self.durable = keep;
        if self.rng.one_in(2) {
            self.checkpoint();
        }
    }

    /// A checkpoint holds what the log says.
    fn checkpoint(&mut self) {
        let mut other = Coordinator::new(image(&self.settings));
        other.decode(&self.bench.c.encode()).expect("its own state");
        let compare = |hards: BTreeMap<Key, super::super::hard::Hard>| {
            let parts = hards.into_values();
            parts
                .map(|h| (h.start, h.state_epoch, h.batches().collect::<Vec<_>>()))
                .collect::<Vec<_>>()
        };
        assert_eq!(compare(other.hards()), compare(self.bench.c.hards()));
    }

    /// The log alone gives the state that the coordinator has.
    fn compare(&mut self) {
        let mut other = Coordinator::new(image(&self.settings));
        for (k, v) in &self.bench.log[self.bench.base..] {
            let record = ShareRecord::decode(k, v.as_deref()).expect("a record");
            other.replay(&record.expect("of a known kind"));
        }
        assert_eq!(other.hards(), self.bench.c.hards());
    }

    fn run(seed: u64) -> World {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step(true);
        }
        world.compare();
        world.checkpoint();
        for _ in 0..4000 {
            world.step(false);
            world.bury();
            if world.start >= world.end {
                break;
            }
        }
        assert_eq!(world.start, world.end, "everything is done with");
        let is_dead = world.settings.iter().any(|s| s.1 == "dead");
        for b in world.batches.iter().filter(|b| !b.skip) {
            for offset in b.first..=b.last {
                let gone = offset < world.log_start;
                assert!(
                    gone || world.delivered.contains(&offset),
                    "{offset} was lost"
                );
            }
        }
        for offset in &world.rejected {
            assert!(
                !is_dead || world.buried.contains(offset),
                "{offset} is not buried"
            );
        }
        world
    }
}

#[test]
fn nothing_is_lost_nor_given_twice_whatever_happens() {
    let run = |seed| {
        let world = World::run(seed);
        (world.buried.len(), world.settled.len(), world.bench.base)
    };
    let Some(all) = each_seed(100, run) else {
        return;
    };
    let (mut buried, mut settled, mut pruned) = (0, 0, 0);
    for (b, s, p) in all {
        (buried, settled, pruned) = (buried + b, settled + s, pruned + p);
    }
    assert!(buried > 0 && settled > 0, "the crowd did nothing");
    assert!(pruned > 0, "the log was never pruned");
}
