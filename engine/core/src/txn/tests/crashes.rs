//! A coordinator that crashes after every step of what is under way, and with random steps from
//! seeds: what was decided is carried out, and nothing else.

use streamd_io::sim::each_seed;

use super::*;

/// What partitions have seen of one transaction: markers by partition.
type Seen = BTreeMap<std::sync::Arc<str>, bool>;

fn note(seen: &mut Seen, markers: &Markers) {
    for topic in markers.partitions.keys() {
        let before = seen.insert(topic.clone(), markers.commit);
        let same = before.is_none_or(|b| b == markers.commit);
        assert!(same, "{topic} was told otherwise");
    }
}

/// Everything that is under way gets through, for as long as it takes.
fn settle(b: &mut Bench) {
    b.prompt = true;
    while b.step() {}
    b.sleep(1000);
}

#[test]
fn a_decision_is_carried_out_whenever_the_coordinator_dies() {
    for (version, commit) in [(1, false), (1, true), (2, false), (2, true)] {
        // Prepare, markers to each of two partitions, complete.
        for steps in 0..8 {
            let mut b = Bench::new();
            b.init(None);
            b.add((1001, 0), version, "t");
            b.add((1001, 0), version, "u");
            b.prompt = false;
            let token = b.begin("x", end((1001, 0), version, commit));
            let mut seen = Seen::new();
            for step in 0..steps {
                if let Some(batch) = b.in_flight.pop_front() {
                    b.log.extend(batch.records);
                    let effects = b.coordinator.persisted(batch.seq);
                    b.carry(effects);
                } else if let Some(markers) = b.markers.pop_front() {
                    // First one partition, then after a while the other.
                    let left = match step % 2 {
                        1 => of("u"),
                        _ => Partitions::new(),
                    };
                    let done = markers
                        .partitions
                        .iter()
                        .filter(|p| !left.contains_key(p.0));
                    let done = done.map(|(t, p)| (t.clone(), p.clone())).collect();
                    note(
                        &mut seen,
                        &Markers {
                            partitions: done,
                            ..markers.clone()
                        },
                    );
                    b.marked(&markers, left);
                } else {
                    b.sleep(150);
                }
            }
            let answered = b.replies.contains_key(&token);
            let mut after = Bench::with(b.log, 2000);
            settle(&mut after);
            after.written.iter().for_each(|m| note(&mut seen, m));
            let status = after.describe().status;
            let ended = match commit {
                true => Status::CompleteCommit,
                false => Status::CompleteAbort,
            };
            if status == Status::Ongoing {
                assert!(
                    seen.is_empty() && !answered,
                    "{steps} steps: it was decided"
                );
                continue;
            }
            assert_eq!(status, ended, "{steps} steps");
            assert_eq!(
                seen.into_iter().map(|s| s.1).collect::<Vec<_>>(),
                [commit; 2]
            );
            assert!(after.init(None) != code(ErrorCode::ConcurrentTransactions));
        }
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }
}

/// A producer that does one thing after another, over crashes of the coordinator.
struct World {
    rng: Rng,
    b: Bench,
    version: i16,
    who: Option<(i64, i16)>,
    /// The partitions that the open transaction has, and the number of the transaction.
    added: Vec<&'static str>,
    number: u64,
    /// Markers by transaction: told by the epoch that the producer had in it.
    seen: BTreeMap<(i64, i16), Seen>,
    asked: BTreeMap<(i64, i16), bool>,
    answered: BTreeMap<(i64, i16), bool>,
}

const TOPICS: [&str; 4] = ["a", "b", "c", "d"];

impl World {
    /// Something that is under way gets through, or is lost for now. Markers can be late in part.
    fn progress(&mut self) {
        if let Some(batch) = self.b.in_flight.pop_front() {
            self.b.log.extend(batch.records);
            let effects = self.b.coordinator.persisted(batch.seq);
            self.b.carry(effects);
        } else if let Some(markers) = self.b.markers.pop_front() {
            let mut left = Partitions::new();
            let mut done = Partitions::new();
            for (topic, partitions) in &markers.partitions {
                let to = match self.rng.below(3) {
                    0 => &mut left,
                    _ => &mut done,
                };
                to.insert(topic.clone(), partitions.clone());
            }
            self.note(&Markers {
                partitions: done,
                ..markers.clone()
            });
            self.b.marked(&markers, left);
        } else {
            self.b.sleep(self.rng.below(300));
        }
    }

    /// The transaction that a marker ends: in version 2, and when it fences, its epoch is one more.
    fn note(&mut self, markers: &Markers) {
        let known = |epoch: i16| {
            let key = (markers.producer, epoch);
            self.asked.contains_key(&key).then_some(key)
        };
        let key = match self.version {
            1 => known(markers.epoch).or(known(markers.epoch - 1)),
            _ => known(markers.epoch - 1),
        };
        if let Some(key) = key {
            let may = self.asked[&key] || !markers.commit;
            assert!(may, "{key:?} commits, which nobody has asked for");
            note(self.seen.entry(key).or_default(), markers);
        }
    }

    /// Asks, and lets things go on until there is an answer; `None` when a crash came first.
    fn ask(&mut self, request: Request) -> Option<Reply> {
        let token = self.b.begin("x", request);
        loop {
            if let Some(reply) = self.b.replies.remove(&token) {
                return Some(reply);
            }
            if self.rng.below(12) == 0 {
                self.crash();
                return None;
            }
            self.progress();
        }
    }

    fn crash(&mut self) {
        let log = std::mem::take(&mut self.b.log);
        let now = self.b.now;
        self.b = Bench::with(log, self.b.next_producer + 100);
        self.b.now = now;
        self.b.prompt = false;
    }

    fn init(&mut self) {
        // In version 1 each life has one transaction here, so that its epoch tells them apart.
        self.b.next_producer += 1;
        let init = Init {
            timeout_ms: 5000,
            expected: None,
            fresh: Some(self.b.next_producer),
        };
        self.added.clear();
        match self.ask(Request::Init(init)) {
            Some(Reply::Producer { producer, epoch }) => self.who = Some((producer, epoch)),
            Some(Reply::Code(ErrorCode::ConcurrentTransactions)) | None => self.progress(),
            other => panic!("{other:?}"),
        }
    }

    fn transact(&mut self) {
        let Some(who) = self.who.take() else {
            return self.init();
        };
        self.number += 1;
        self.asked.insert(who, false);
        for _ in 0..1 + self.rng.below(3) {
            let topic = TOPICS[self.rng.below(4) as usize];
            let add = Add {
                producer: who.0,
                epoch: who.1,
                partitions: of(topic),
                version: self.version,
            };
            match self.ask(Request::Add(add)) {
                Some(reply) if reply == OK => self.added.push(topic),
                _ => return,
            }
        }
        if self.rng.below(8) == 0 {
            return self.b.sleep(6000);
        }
        let commit = self.rng.below(2) == 0;
        self.asked.insert(who, commit);
        if let Some(Reply::Producer { producer, epoch }) = self.ask(end(who, self.version, commit))
        {
            self.answered.insert(who, commit);
            if self.version == 2 {
                self.who = Some((producer, epoch));
            }
            let added = std::mem::take(&mut self.added);
            self.check(who, &added, commit);
        }
        self.added.clear();
    }

    /// An answer comes when all is marked, or some could not be: never otherwise than told.
    fn check(&mut self, who: (i64, i16), added: &[&'static str], commit: bool) {
        let seen = self.seen.entry(who).or_default();
        assert!(seen.values().all(|c| *c == commit));
        assert!(
            seen.keys().all(|t| added.contains(&&**t)),
            "{seen:?} of {added:?}"
        );
    }
}

fn run(seed: u64) -> usize {
    let mut b = Bench::new();
    b.prompt = false;
    let mut world = World {
        rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        b,
        version: 1 + (seed % 2) as i16,
        who: None,
        added: Vec::new(),
        number: 0,
        seen: BTreeMap::new(),
        asked: BTreeMap::new(),
        answered: BTreeMap::new(),
    };
    for _ in 0..200 {
        world.transact();
    }
    world.crash();
    // All that was decided is carried out in the end.
    for _ in 0..10_000 {
        let idle = world.b.in_flight.is_empty() && world.b.markers.is_empty();
        let status = world
            .b
            .coordinator
            .list(world.b.now)
            .pop()
            .map(|t| t.status);
        if idle && status.is_none_or(|s| !s.is_ending() && s != Status::Ongoing) {
            break;
        }
        world.progress();
        world.b.sleep(100);
    }
    let list = world.b.coordinator.list(world.b.now);
    let stuck = |s: Status| s.is_ending() || s == Status::Ongoing;
    assert!(list.iter().all(|t| !stuck(t.status)), "{list:?}");
    for (who, commit) in &world.answered {
        let seen = &world.seen[who];
        assert!(
            seen.values().all(|c| c == commit),
            "{who:?} was answered otherwise"
        );
    }
    world.answered.len()
}

#[test]
fn decisions_hold_from_any_seed() {
    let Some(all) = each_seed(300, run) else {
        return;
    };
    let answered: usize = all.into_iter().sum();
    assert!(answered > 5_000, "only {answered} transactions ended");
}
