//! A crowd of members with a bad network around a coordinator that crashes, from one seed.
//!
//! Checked all the time: an assignment is one per generation and has no partition twice; what was
//! answered is in the durable log; a committed offset that was answered is never lost; a stale
//! member's commit does not get through; no request is answered twice. At the end the faults stop:
//! then everybody is answered, and those who live share all partitions.

use std::collections::BTreeSet;

use streamd_io::sim::each_seed;

use super::*;

const PARTITIONS: usize = 6;
const MEMBERS: usize = 5;
const STEPS: usize = 1500;

pub(super) struct Rng(u64);

impl Rng {
    pub fn of(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Doing {
    /// Nothing is under way; it has to join.
    Out,
    Joining(Token),
    Syncing(Token),
    In,
    /// It sends nothing any more.
    Dead,
}

struct Client {
    name: String,
    instance: Option<String>,
    id: String,
    generation: i32,
    doing: Doing,
    lives: u32,
    last_heartbeat: Mono,
    owned: Vec<u8>,
    /// What the leader has to assign.
    assigns: Vec<(String, Blob)>,
}

/// What was asked, to judge the answer by.
enum Asked {
    Join(usize),
    /// With its generation, and the newest one when it was asked.
    Sync(usize, i32, i32),
    Heartbeat(usize),
    Commit {
        who: usize,
        /// The newest generation when it was asked.
        newest: i32,
        generation: i32,
        partition: i32,
        offset: i64,
    },
    Fetch,
}

struct World {
    rng: Rng,
    bench: Bench,
    clients: Vec<Client>,
    asked: BTreeMap<Token, Asked>,
    /// Owners of partitions, by generation.
    owners: BTreeMap<i32, BTreeMap<u8, String>>,
    synced: i32,
    /// The newest generation that was told since the coordinator started.
    told: i32,
    answered: BTreeMap<i32, i64>,
    next_offset: i64,
    faults: bool,
    crashes: u32,
    commits: u32,
    syncs: u32,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::of(seed);
        let clients = (0..MEMBERS).map(|n| Client {
            name: format!("m{n}"),
            instance: rng.one_in(3).then(|| format!("i{n}")),
            id: String::new(),
            generation: -1,
            doing: Doing::Out,
            lives: 0,
            last_heartbeat: Mono(0),
            owned: Vec::new(),
            assigns: Vec::new(),
        });
        let clients = clients.collect();
        let mut bench = Bench::new();
        bench.prompt = false;
        World {
            rng,
            bench,
            clients,
            asked: BTreeMap::new(),
            owners: BTreeMap::new(),
            synced: 0,
            told: 0,
            answered: BTreeMap::new(),
            next_offset: 1,
            faults: true,
            crashes: 0,
            commits: 0,
            syncs: 0,
        }
    }

    fn ask(&mut self, request: Request, asked: Asked) -> Token {
        let token = Token(self.bench.next_token + 1);
        self.asked.insert(token, asked);
        assert_eq!(self.bench.ask(request), token);
        token
    }

    fn who(&self, n: usize) -> Who {
        Who {
            id: self.clients[n].id.clone(),
            instance: self.clients[n].instance.clone(),
        }
    }

    fn join(&mut self, n: usize) {
        let c = &mut self.clients[n];
        c.lives += 1;
        c.owned.clear();
        let join = Join {
            who: self.who(n),
            new_id: format!("{}-{}", self.clients[n].name, self.clients[n].lives),
            ..super::join(&self.clients[n].name)
        };
        let token = self.ask(Request::Join(Box::new(join)), Asked::Join(n));
        self.clients[n].doing = Doing::Joining(token);
        self.answers();
    }

    fn sync(&mut self, n: usize) {
        // Sometimes it comes late.
        let stale = i32::from(self.faults && self.rng.one_in(20));
        let generation = self.clients[n].generation - stale;
        let sync = Sync {
            who: self.who(n),
            generation,
            protocol_type: None,
            protocol: None,
            assignments: std::mem::take(&mut self.clients[n].assigns),
        };
        let newest = self.told;
        let token = self.ask(Request::Sync(sync), Asked::Sync(n, generation, newest));
        self.clients[n].doing = Doing::Syncing(token);
        self.answers();
    }

    fn heartbeat(&mut self, n: usize) {
        self.clients[n].last_heartbeat = self.bench.now.mono;
        let (who, generation) = (self.who(n), self.clients[n].generation);
        self.ask(Request::Heartbeat { who, generation }, Asked::Heartbeat(n));
        self.answers();
    }

    fn commit(&mut self, n: usize) {
        let c = &self.clients[n];
        let Some(partition) = c.owned.first().map(|p| i32::from(*p)) else {
            return;
        };
        // Sometimes what it says is of an older life.
        let generation = c.generation - i32::from(self.rng.one_in(10));
        let offset = self.next_offset;
        self.next_offset += 1;
        let mut request = super::commit("", generation, offset);
        request.who = self.who(n);
        request.topics[0].partitions[0].index = partition;
        let asked = Asked::Commit {
            who: n,
            newest: self.told,
            generation,
            partition,
            offset,
        };
        self.ask(Request::Commit(request), asked);
        self.answers();
    }

    fn fetch(&mut self) {
        self.ask(Request::Fetch(None), Asked::Fetch);
        self.answers();
    }

    fn answers(&mut self) {
        while let Some((token, reply)) = self.bench.replies.pop_first() {
            // A withdrawn request has no answer, and no other is answered twice.
            let asked = self.asked.remove(&token).expect("it was asked");
            self.answer(token, asked, reply);
        }
    }

    fn answer(&mut self, token: Token, asked: Asked, reply: Reply) {
        match (asked, reply) {
            (Asked::Join(n), Reply::Join(joined)) => self.joined(n, token, *joined),
            (Asked::Sync(n, generation, newest), Reply::Sync(synced)) => {
                assert_eq!(generation, newest, "a sync of another generation");
                self.got_part(n, token, generation, &synced);
            }
            (Asked::Sync(n, ..) | Asked::Heartbeat(n), Reply::Code(code)) => self.told(n, code),
            (
                Asked::Commit {
                    who,
                    newest,
                    generation,
                    partition,
                    offset,
                },
                reply,
            ) => match reply {
                Reply::Code(code) => self.told(who, code),
                Reply::Partitions(topics) => {
                    assert_eq!(topics[0].1[0].1, ErrorCode::None);
                    assert_eq!(generation, newest, "a commit of another generation");
                    self.in_log(partition, offset);
                    let before = self.answered.insert(partition, offset);
                    assert!(
                        before.is_none_or(|b| b < offset),
                        "answers keep their order"
                    );
                    self.commits += 1;
                }
                other => panic!("{other:?}"),
            },
            (Asked::Fetch, Reply::Fetch(found)) => self.check_offsets(&found),
            (_, other) => panic!("{other:?}"),
        }
    }

    fn joined(&mut self, n: usize, token: Token, joined: Joined) {
        let c = &mut self.clients[n];
        let mine = c.doing == Doing::Joining(token);
        match joined.error {
            None => {
                assert!(joined.generation >= self.synced, "a generation went back");
                self.told = self.told.max(joined.generation);
                if !mine {
                    return;
                }
                c.id.clone_from(&joined.id);
                c.generation = joined.generation;
                c.last_heartbeat = self.bench.now.mono;
                c.assigns.clear();
                if joined.leader == joined.id && !joined.skip_assignment {
                    c.assigns = assign(&joined.members);
                }
                // It may take a while until it syncs.
                c.doing = Doing::Syncing(Token(0));
            }
            Some(ErrorCode::MemberIdRequired) if mine => {
                c.id = joined.id;
                c.doing = Doing::Out;
            }
            Some(code) if mine => {
                c.doing = Doing::Out;
                self.told(n, code);
            }
            Some(_) => {}
        }
    }

    fn got_part(&mut self, n: usize, token: Token, generation: i32, synced: &Synced) {
        self.synced = self.synced.max(generation);
        self.syncs += 1;
        let durable = self.bench.log.iter().rev().find_map(|r| match r {
            GroupRecord::Group { value, .. } => value.as_ref(),
            GroupRecord::Offset { .. } | GroupRecord::Consumer { .. } => None,
        });
        let durable = durable.expect("a generation that was told is durable");
        assert!(
            durable.generation >= generation,
            "told before it was durable"
        );
        let owners = self.owners.entry(generation).or_default();
        // An instance that restarts takes over what was its own.
        let name = &self.clients[n].name;
        for p in synced.assignment.iter() {
            let before = owners.insert(*p, name.clone());
            assert!(
                before.as_ref().is_none_or(|b| b == name),
                "{p} of generation {generation} belongs to {before:?} and {name}"
            );
        }
        let c = &mut self.clients[n];
        if c.doing == Doing::Syncing(token) {
            c.doing = Doing::In;
            c.owned = synced.assignment.to_vec();
        }
    }

    fn told(&mut self, n: usize, code: ErrorCode) {
        let c = &mut self.clients[n];
        if c.doing == Doing::Dead {
            return;
        }
        match code {
            ErrorCode::None => return,
            ErrorCode::RebalanceInProgress => {}
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => c.id.clear(),
            ErrorCode::FencedInstanceId => {
                c.doing = Doing::Dead;
                return;
            }
            other => panic!("{other}"),
        }
        if matches!(c.doing, Doing::In | Doing::Syncing(_)) {
            c.doing = Doing::Out;
        }
    }

    fn in_log(&self, partition: i32, offset: i64) {
        let found = self.bench.log.iter().any(|r| {
            matches!(r, GroupRecord::Offset { partition: p, value: Some(c), .. }
                if *p == partition && c.offset == offset)
        });
        assert!(found, "offset {offset} was answered before it was durable");
    }

    fn check_offsets(&self, found: &[Fetched]) {
        let shown: BTreeMap<i32, i64> = found
            .iter()
            .flat_map(|t| t.partitions.iter())
            .filter_map(|(p, c)| Some((*p, c.as_ref()?.offset)))
            .collect();
        for (partition, offset) in &self.answered {
            let has = shown.get(partition);
            assert!(
                has >= Some(offset),
                "{partition}: {offset} was answered, {has:?} is there"
            );
        }
    }

    fn withdraw(&mut self, n: usize) {
        let (Doing::Joining(token) | Doing::Syncing(token)) = self.clients[n].doing else {
            return;
        };
        if self.asked.remove(&token).is_none() {
            return;
        }
        let effects = self.bench.coordinator.gone(self.bench.now, token);
        self.bench.carry(effects);
        self.clients[n].doing = Doing::Out;
        self.answers();
    }

    /// Some of what was written becomes durable.
    fn flush(&mut self) {
        for _ in 0..=self.rng.below(3) {
            self.bench.flush_one();
        }
        self.answers();
    }

    fn crash(&mut self) {
        self.crashes += 1;
        self.bench.crash_amid(&mut self.rng);
        self.bench.prompt = false;
        // Connections break: nobody gets an answer any more.
        self.asked.clear();
        self.told = i32::MAX;
        for c in &mut self.clients {
            if matches!(c.doing, Doing::Joining(_) | Doing::Syncing(_)) {
                c.doing = Doing::Out;
            }
        }
        self.told = self.newest();
    }

    /// The generation that the coordinator has after a start.
    fn newest(&self) -> i32 {
        let last = self.bench.log.iter().rev().find_map(|r| match r {
            GroupRecord::Group { value, .. } => value.as_ref().map(|v| v.generation),
            GroupRecord::Offset { .. } | GroupRecord::Consumer { .. } => None,
        });
        last.unwrap_or(0)
    }

    fn step(&mut self) {
        let n = self.rng.below(MEMBERS as u64) as usize;
        if self.faults {
            match self.rng.below(120) {
                0 => return self.crash(),
                1 => return self.withdraw(n),
                2 => {
                    self.withdraw(n);
                    self.clients[n].doing = Doing::Dead;
                    return;
                }
                3 if self.clients[n].doing == Doing::In => {
                    let leaver = Leaver { who: self.who(n) };
                    let token = self.bench.ask(Request::Leave(vec![leaver]));
                    self.bench.flush();
                    let _ = self.bench.take(token);
                    self.clients[n].id.clear();
                    self.clients[n].doing = Doing::Out;
                    return self.answers();
                }
                _ => {}
            }
        }
        match self.rng.below(10) {
            0..=1 => self.flush(),
            2 => {
                let ms = self.rng.below(2000);
                self.bench.sleep(ms);
                self.answers();
            }
            3 => self.fetch(),
            _ => self.act(n),
        }
    }

    fn act(&mut self, n: usize) {
        let now = self.bench.now.mono;
        let silent = now - self.clients[n].last_heartbeat;
        match self.clients[n].doing {
            Doing::Dead if self.rng.one_in(20) || !self.faults => {
                // A new process.
                self.clients[n].id.clear();
                self.clients[n].doing = Doing::Out;
            }
            Doing::Dead => {}
            Doing::Out => self.join(n),
            Doing::Syncing(Token(0)) => self.sync(n),
            // It lost patience, and the old connection is still open.
            Doing::Joining(_) if self.faults && self.rng.one_in(20) => self.join(n),
            Doing::Joining(_) | Doing::Syncing(_) => {}
            Doing::In if silent > Duration::from_secs(3) => {
                let lost = self.faults && self.rng.one_in(4);
                if !lost {
                    self.heartbeat(n);
                }
            }
            Doing::In => self.commit(n),
        }
    }

    /// The faults stop: everything must come to rest.
    fn settle(&mut self) {
        self.faults = false;
        let settled = |w: &World| {
            let first = w.clients[0].generation;
            let same = |c: &Client| c.doing == Doing::In && c.generation == first;
            w.clients.iter().all(same)
        };
        for _ in 0..40_000 {
            if settled(self) {
                break;
            }
            self.step();
        }
        assert!(settled(self), "the group never came to rest");
        let owned: Vec<u8> = self.clients.iter().flat_map(|c| c.owned.clone()).collect();
        let all: BTreeSet<u8> = owned.iter().copied().collect();
        assert_eq!(
            (owned.len(), all.len()),
            (PARTITIONS, PARTITIONS),
            "{owned:?}"
        );
        self.bench.flush();
        self.answers();
        assert!(
            self.asked.is_empty(),
            "{} requests have no answer",
            self.asked.len()
        );
        self.fetch();
        self.bench.flush();
        self.answers();
    }
}

/// Partitions in turn to the members.
fn assign(members: &[(Who, Blob)]) -> Vec<(String, Blob)> {
    let count = members.len();
    let parts = members.iter().enumerate().map(|(at, (who, _))| {
        let mine: Vec<u8> = (at..PARTITIONS).step_by(count).map(|p| p as u8).collect();
        (who.id.clone(), Blob::from(mine))
    });
    parts.collect()
}

fn run(seed: u64) -> (u32, u32, u32) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    (world.crashes, world.syncs, world.commits)
}

#[test]
fn members_that_come_and_go_under_a_coordinator_that_crashes() {
    let Some(all) = each_seed(200, run) else {
        return;
    };
    let mut sum = (0, 0, 0);
    for (crashes, syncs, commits) in all {
        sum = (sum.0 + crashes, sum.1 + syncs, sum.2 + commits);
    }
    // The runs do reach what they are about.
    assert!(sum.0 > 500 && sum.1 > 3000 && sum.2 > 3000, "{sum:?}");
}
