//! A crowd of members of both protocols, with a bad network, around a coordinator that crashes,
//! while topics come, grow and go; from one seed.
//!
//! Members restart now with one protocol, now with the other, so the group moves to and fro.
//! Checked all the time: no two members of the group read one partition; a member's epoch never
//! goes back; what was answered is in the durable log; a commit gets through only in the member's
//! own epoch; the durable log alone gives the state that the coordinator has. At the end the
//! faults stop: then the group comes to rest, and all that is subscribed to is read once.

use std::collections::BTreeSet;

use streamd_io::sim::each_seed;

use super::*;
use crate::group::embedded::{assignment, put_assignment};

const MEMBERS: usize = 5;
const STEPS: usize = 600;
const T: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Doing {
    /// It has to join.
    Out,
    /// A heartbeat, a join or a sync is under way.
    Asks(Token),
    /// It joined in the classic way and has to sync.
    Joined,
    In,
    /// It sends nothing any more.
    Dead,
}

struct Client {
    name: String,
    instance: Option<String>,
    /// Which protocol it speaks in this life.
    is_classic: bool,
    id: String,
    epoch: i32,
    doing: Doing,
    lives: u32,
    heard: Mono,
    /// What it reads.
    owned: Parts,
    /// What it has to give back; it does so when it finds the time.
    surplus: Parts,
    /// Whether it has to say everything again.
    full: bool,
    /// What it told last of what it owns.
    told: Option<Parts>,
    assigns: Vec<(String, Blob)>,
}

enum Asked {
    Beat(usize),
    Join(usize),
    Sync(usize),
    Heartbeat(usize),
    Commit { may: bool, offset: i64 },
}

struct World {
    rng: Rng,
    bench: Bench,
    clients: Vec<Client>,
    asked: BTreeMap<Token, Asked>,
    topics: BTreeMap<u8, i32>,
    next_topic: u8,
    next_offset: i64,
    faults: bool,
    sums: Sums,
}

/// How often what the run is about has happened.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    crashes: u32,
    beats: u32,
    revoked: u32,
    commits: u32,
    upgrades: u32,
    downgrades: u32,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::of(seed);
        let clients = (0..MEMBERS).map(|n| Client {
            name: format!("m{n}"),
            instance: rng.one_in(3).then(|| format!("i{n}")),
            is_classic: false,
            id: String::new(),
            epoch: 0,
            doing: Doing::Dead,
            lives: 0,
            heard: Mono(0),
            owned: Parts::new(),
            surplus: Parts::new(),
            full: true,
            told: None,
            assigns: Vec::new(),
        });
        let clients = clients.collect();
        let mut bench = Bench::new();
        bench.create_topic("t", T, 6);
        bench.prompt = false;
        World {
            rng,
            bench,
            clients,
            asked: BTreeMap::new(),
            topics: [(T, 6)].into(),
            next_topic: T + 1,
            next_offset: 1,
            faults: true,
            sums: Sums::default(),
        }
    }

    fn ask(&mut self, n: usize, request: Request, asked: Asked) {
        if !matches!(asked, Asked::Commit { .. }) {
            self.clients[n].heard = self.bench.now.mono;
        }
        let token = Token(self.bench.next_token + 1);
        if !matches!(asked, Asked::Commit { .. } | Asked::Heartbeat(_)) {
            self.clients[n].doing = Doing::Asks(token);
        }
        self.asked.insert(token, asked);
        let before = self.kind();
        assert_eq!(self.bench.ask(request), token);
        self.count_moves(before);
        self.answers();
    }

    /// Whether the group is of the new protocol, if it has members.
    fn kind(&self) -> Option<bool> {
        let group = self.bench.coordinator.groups.get(G)?;
        match (&group.modern, group.members.is_empty()) {
            (Some(modern), _) => (!modern.members.is_empty()).then_some(true),
            (None, empty) => (!empty).then_some(false),
        }
    }

    fn count_moves(&mut self, before: Option<bool>) {
        match (before, self.kind()) {
            (Some(false), Some(true)) => self.sums.upgrades += 1,
            (Some(true), Some(false)) => self.sums.downgrades += 1,
            _ => {}
        }
    }

    fn who(&self, n: usize) -> Who {
        Who {
            id: self.clients[n].id.clone(),
            instance: self.clients[n].instance.clone(),
        }
    }

    /// A heartbeat of the new protocol, which joins when its epoch is 0.
    fn beat(&mut self, n: usize) {
        let c = &mut self.clients[n];
        let full = c.full || c.epoch == 0;
        let says = full || c.told.as_ref() != Some(&c.owned);
        c.told = says.then(|| c.owned.clone()).or(c.told.take());
        c.full = false;
        let beat = Beat {
            id: c.id.clone(),
            epoch: c.epoch,
            instance: c.instance.clone(),
            rack: None,
            rebalance_ms: if full { 20_000 } else { -1 },
            topics: full.then(|| vec!["t".to_owned()]),
            regex: full.then(|| "u-.*".to_owned()),
            assignor: None,
            owned: says.then(|| c.owned.clone()),
            client_id: c.name.clone(),
            client_host: "/10.0.0.1".to_owned(),
        };
        self.ask(n, Request::Beat(Box::new(beat)), Asked::Beat(n));
    }

    fn beaten(&mut self, n: usize, beaten: &Beaten) {
        self.sums.beats += 1;
        self.in_log(beaten);
        let c = &mut self.clients[n];
        assert!(
            c.epoch <= beaten.epoch,
            "{}: its epoch went back to {}",
            c.id,
            beaten.epoch
        );
        c.epoch = beaten.epoch;
        c.doing = Doing::In;
        if let Some(parts) = &beaten.assignment {
            c.surplus = c.owned.difference(parts).copied().collect();
            self.sums.revoked += c.surplus.len() as u32;
            c.owned.extend(parts.iter().copied());
        }
        self.check_owners(n);
    }

    /// What a heartbeat tells is what the durable log says of the member.
    fn in_log(&self, beaten: &Beaten) {
        let durable = self.bench.log.iter().rev().find_map(|r| match r {
            GroupRecord::Consumer {
                change: ConsumerChange::Current(id, now),
                ..
            } if **id == *beaten.id => Some(now.as_ref()),
            _ => None,
        });
        // It may have been removed since.
        if let Some(Some(now)) = durable {
            assert!(
                now.epoch >= beaten.epoch || now.epoch == -2,
                "told before it was durable"
            );
        }
    }

    /// Nobody else of the group reads what this member reads.
    fn check_owners(&self, n: usize) {
        let Some(group) = self.bench.coordinator.groups.get(G) else {
            return;
        };
        let is_member = |c: &Client| match &group.modern {
            Some(m) => m
                .members
                .get(c.id.as_str())
                .is_some_and(|m| m.now.epoch == c.epoch),
            None => group.members.contains_key(&c.id) && group.generation == c.epoch,
        };
        let me = &self.clients[n];
        if !is_member(me) {
            return;
        }
        for c in self
            .clients
            .iter()
            .filter(|c| c.name != me.name && is_member(c))
        {
            let both: Vec<_> = c.owned.intersection(&me.owned).collect();
            assert!(
                both.is_empty(),
                "{both:?}: {} and {}\n{group:?}",
                c.id,
                me.id
            );
        }
    }

    fn classic_join(&mut self, n: usize) {
        let c = &mut self.clients[n];
        // It gives back everything before it joins.
        c.owned.clear();
        c.surplus.clear();
        let join = Join {
            who: self.who(n),
            new_id: self.new_id(n),
            ..super::join(&self.clients[n].name)
        };
        self.ask(n, Request::Join(Box::new(join)), Asked::Join(n));
    }

    fn new_id(&mut self, n: usize) -> String {
        self.clients[n].lives += 1;
        format!("{}-{}", self.clients[n].name, self.clients[n].lives)
    }

    fn joined(&mut self, n: usize, joined: Joined) {
        match joined.error {
            None => {
                let assigns = match joined.leader == joined.id && !joined.skip_assignment {
                    true => self.assign(&joined.members),
                    false => Vec::new(),
                };
                let c = &mut self.clients[n];
                c.assigns = assigns;
                c.id = joined.id;
                c.epoch = joined.generation;
                c.doing = Doing::Joined;
            }
            Some(ErrorCode::MemberIdRequired) => {
                self.clients[n].id = joined.id;
                self.clients[n].doing = Doing::Out;
            }
            Some(code) => self.failed(n, code),
        }
    }

    /// Partitions of `t` in turn to the members.
    fn assign(&self, members: &[(Who, Blob)]) -> Vec<(String, Blob)> {
        let count = members.len();
        let parts = members.iter().enumerate().map(|(at, (who, _))| {
            let mine: Vec<i32> = (0..self.topics[&T]).skip(at).step_by(count).collect();
            let topics: BTreeMap<&str, Vec<i32>> = [("t", mine)].into();
            (who.id.clone(), put_assignment(1, &topics))
        });
        parts.collect()
    }

    fn sync(&mut self, n: usize) {
        let sync = Sync {
            who: self.who(n),
            generation: self.clients[n].epoch,
            protocol_type: None,
            protocol: None,
            assignments: std::mem::take(&mut self.clients[n].assigns),
        };
        self.ask(n, Request::Sync(sync), Asked::Sync(n));
    }

    fn synced(&mut self, n: usize, synced: &Synced) {
        let parts = assignment(&synced.assignment).unwrap_or_default();
        let parts = parts.into_iter().filter(|(name, _)| name == "t");
        let c = &mut self.clients[n];
        c.owned = parts
            .flat_map(|(_, ps)| ps.into_iter().map(|p| (TopicId([T; 16]), p)))
            .collect();
        c.doing = Doing::In;
        self.check_owners(n);
    }

    fn heartbeat(&mut self, n: usize) {
        let (who, generation) = (self.who(n), self.clients[n].epoch);
        self.ask(
            n,
            Request::Heartbeat { who, generation },
            Asked::Heartbeat(n),
        );
    }

    fn commit(&mut self, n: usize) {
        let offset = self.next_offset;
        self.next_offset += 1;
        // Sometimes what it says is of an older life, or of one that is to come.
        let c = &self.clients[n];
        let epoch = c.epoch + [0, 0, 0, 0, -1, 1][self.rng.below(6) as usize];
        let mut request = super::commit("", epoch, offset);
        request.who = self.who(n);
        let group = self.bench.coordinator.groups.get(G);
        let may = group.is_some_and(|g| match &g.modern {
            Some(m) => m
                .members
                .get(c.id.as_str())
                .is_some_and(|m| m.now.epoch == epoch),
            None => g.members.contains_key(&c.id) && g.generation == epoch,
        });
        let empty = self.kind().is_none() && epoch < 0;
        let asked = Asked::Commit {
            may: may || empty,
            offset,
        };
        self.ask(n, Request::Commit(request), asked);
    }

    fn answers(&mut self) {
        while let Some((token, reply)) = self.bench.replies.pop_first() {
            let asked = self.asked.remove(&token).expect("it was asked");
            self.answer(token, asked, reply);
        }
    }

    fn answer(&mut self, token: Token, asked: Asked, reply: Reply) {
        let waits = |w: &World, n: usize| w.clients[n].doing == Doing::Asks(token);
        match (asked, reply) {
            (Asked::Beat(n), reply) if waits(self, n) => {
                // Sometimes the answer is lost.
                if self.faults && self.rng.one_in(15) {
                    self.clients[n].full = true;
                    self.clients[n].doing = Doing::In;
                    return;
                }
                match reply {
                    Reply::Beat(beaten) => self.beaten(n, &beaten),
                    Reply::Refused(ErrorCode::InvalidRequest, text) => panic!("{text}"),
                    Reply::Refused(code, _) | Reply::Code(code) => self.failed(n, code),
                    other => panic!("{other:?}"),
                }
            }
            (Asked::Join(n), Reply::Join(joined)) if waits(self, n) => self.joined(n, *joined),
            (Asked::Sync(n), Reply::Sync(synced)) if waits(self, n) => self.synced(n, &synced),
            (Asked::Sync(n), Reply::Code(code)) if waits(self, n) => self.failed(n, code),
            (Asked::Heartbeat(n), Reply::Code(code))
                if code != ErrorCode::None && self.clients[n].doing == Doing::In =>
            {
                self.failed(n, code);
            }
            (Asked::Commit { may, offset }, Reply::Partitions(_)) => {
                assert!(may, "offset {offset} was committed in a wrong epoch");
                let durable = self.bench.log.iter().rev().any(|r| {
                    matches!(r, GroupRecord::Offset { value: Some(c), .. } if c.offset == offset)
                });
                assert!(
                    durable,
                    "offset {offset} was answered before it was durable"
                );
                self.sums.commits += 1;
            }
            // It does not wait any more.
            _ => {}
        }
    }

    fn failed(&mut self, n: usize, code: ErrorCode) {
        let faults = self.faults;
        let c = &mut self.clients[n];
        match code {
            ErrorCode::RebalanceInProgress => {}
            ErrorCode::UnreleasedInstanceId => {}
            ErrorCode::GroupIdNotFound => {
                c.owned.clear();
                c.epoch = 0;
            }
            ErrorCode::FencedMemberEpoch if !c.is_classic => {
                c.owned.clear();
                c.epoch = 0;
            }
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => {
                c.owned.clear();
                c.epoch = 0;
                if c.is_classic {
                    c.id.clear();
                }
            }
            ErrorCode::FencedInstanceId => {
                assert!(faults, "nobody else has the instance");
                return self.die(n);
            }
            other => panic!("{other}"),
        }
        c.surplus.clear();
        c.full = true;
        c.doing = Doing::Out;
    }

    fn die(&mut self, n: usize) {
        let c = &mut self.clients[n];
        c.owned.clear();
        c.surplus.clear();
        c.doing = Doing::Dead;
    }

    /// A new process, with one of the protocols.
    fn restart(&mut self, n: usize) {
        let id = self.new_id(n);
        let is_classic = self.rng.one_in(2);
        let c = &mut self.clients[n];
        c.is_classic = is_classic;
        c.id = if is_classic { String::new() } else { id };
        (c.epoch, c.full, c.told) = (0, true, None);
        c.doing = Doing::Out;
    }

    fn leave(&mut self, n: usize) {
        let c = &self.clients[n];
        let away = c.instance.is_some();
        let request = match c.is_classic {
            // Static members of the classic protocol just go.
            true if away => None,
            true => Some(Request::Leave(vec![Leaver { who: self.who(n) }])),
            false => Some(Request::Beat(Box::new(Beat {
                id: c.id.clone(),
                epoch: if away { -2 } else { -1 },
                instance: c.instance.clone(),
                ..Beat::default()
            }))),
        };
        self.die(n);
        if let Some(request) = request {
            let before = self.kind();
            let token = self.bench.ask(request);
            self.count_moves(before);
            self.answers_but(token);
        }
    }

    /// Nobody waits for the answer under this token.
    fn answers_but(&mut self, token: Token) {
        self.bench.flush();
        self.bench.replies.remove(&token);
        self.answers();
    }

    fn change_topics(&mut self) {
        let id = |n: u8| TopicId([n; 16]);
        match self.rng.below(3) {
            0 if self.topics[&T] < 12 => {
                let total = self.topics[&T] + 1 + self.rng.below(2) as i32;
                self.topics.insert(T, total);
                self.bench
                    .change_topics(&Command::CreatePartitions { id: id(T), total });
            }
            1 if self.topics.len() < 4 => {
                let (n, count) = (self.next_topic, 1 + self.rng.below(4) as i32);
                self.next_topic += 1;
                self.topics.insert(n, count);
                self.bench.create_topic(&format!("u-{n}"), n, count);
            }
            _ => {
                let last = self.topics.keys().copied().filter(|n| *n != T).max();
                if let Some(n) = last {
                    self.topics.remove(&n);
                    self.bench
                        .change_topics(&Command::DeleteTopic { id: id(n) });
                }
            }
        }
        self.answers();
    }

    /// Some of what was written becomes durable.
    fn flush(&mut self) {
        for _ in 0..=self.rng.below(3) {
            self.bench.flush_one();
        }
        self.answers();
    }

    /// The durable log alone gives the state that the coordinator has.
    fn check_replay(&mut self) {
        while !self.bench.in_flight.is_empty() {
            self.flush();
        }
        let mut other = Coordinator::new(limits());
        for record in &self.bench.log {
            let (key, value) = (record.key(), record.value());
            let read = GroupRecord::decode(&key, value.as_deref()).expect("a record");
            assert_eq!(
                read.as_ref(),
                Some(record),
                "it comes back as it was written"
            );
            other.replay(record);
        }
        let bytes = self.bench.coordinator.encode();
        assert!(bytes == other.encode(), "a replay gives another state");
        let mut third = Coordinator::new(limits());
        third.decode(&bytes).expect("a snapshot");
        assert!(bytes == third.encode(), "a snapshot gives another state");
    }

    fn crash(&mut self) {
        self.sums.crashes += 1;
        self.bench.crash_amid(&mut self.rng);
        self.asked.clear();
        for c in &mut self.clients {
            if let Doing::Asks(_) = c.doing {
                // A heartbeat is sent again; a join or a sync begins anew.
                c.doing = if c.is_classic { Doing::Out } else { Doing::In };
                c.full = true;
            }
        }
    }

    fn step(&mut self) {
        let n = self.rng.below(MEMBERS as u64) as usize;
        if self.faults {
            match self.rng.below(150) {
                0 => return self.crash(),
                1 => return self.check_replay(),
                2 => return self.change_topics(),
                3 | 4 => return self.die(n),
                5 | 6 if self.clients[n].doing == Doing::In => return self.leave(n),
                _ => {}
            }
        }
        match self.rng.below(10) {
            0..=2 => self.flush(),
            3 => {
                let ms = self.rng.below(3000);
                let before = self.kind();
                self.bench.sleep(ms);
                self.count_moves(before);
                self.answers();
            }
            _ => self.act(n),
        }
    }

    fn act(&mut self, n: usize) {
        let silent = self.bench.now.mono - self.clients[n].heard;
        match self.clients[n].doing {
            Doing::Dead if self.rng.one_in(10) || !self.faults => self.restart(n),
            Doing::Dead | Doing::Asks(_) => {}
            Doing::Out if self.clients[n].is_classic => self.classic_join(n),
            Doing::Out => {
                self.clients[n].epoch = 0;
                self.beat(n);
            }
            Doing::Joined => self.sync(n),
            Doing::In if !self.clients[n].surplus.is_empty() => {
                // Giving back takes it a while.
                if self.rng.one_in(3) {
                    let surplus = std::mem::take(&mut self.clients[n].surplus);
                    self.clients[n].owned.retain(|part| !surplus.contains(part));
                    self.beat(n);
                }
            }
            Doing::In if silent > Duration::from_secs(3) || self.clients[n].epoch == 0 => {
                let lost = self.faults && self.rng.one_in(4);
                match self.clients[n].is_classic {
                    _ if lost => {}
                    true => self.heartbeat(n),
                    false => self.beat(n),
                }
            }
            Doing::In => self.commit(n),
        }
    }

    /// All that is subscribed to, if everything is well.
    fn wanted(&self) -> Parts {
        let modern = self.clients.iter().any(|c| !c.is_classic);
        let topics = self.topics.iter().filter(|(n, _)| modern || **n == T);
        let parts = topics.flat_map(|(n, count)| (0..*count).map(|p| (TopicId([*n; 16]), p)));
        parts.collect()
    }

    fn is_settled(&self) -> bool {
        let owned = self.clients.iter().flat_map(|c| c.owned.iter().copied());
        let owned: Vec<_> = owned.collect();
        let set: Parts = owned.iter().copied().collect();
        self.clients.iter().all(|c| c.surplus.is_empty())
            && owned.len() == set.len()
            && set == self.wanted()
    }

    /// The faults stop: everything must come to rest, and stay so.
    fn settle(&mut self) {
        self.faults = false;
        let mut quiet = 0;
        for _ in 0..20_000 {
            self.step();
            quiet = if self.is_settled() { quiet + 1 } else { 0 };
            if quiet > 300 {
                break;
            }
        }
        let stand: Vec<_> = self
            .clients
            .iter()
            .map(|c| (&c.id, c.epoch, c.doing, &c.owned))
            .collect();
        assert!(
            quiet > 300,
            "the group never came to rest: {stand:?}\n{:?}",
            self.bench.coordinator.groups
        );
        self.check_replay();
        let ids: BTreeSet<_> = self.clients.iter().map(|c| &c.id).collect();
        assert_eq!(ids.len(), MEMBERS);
    }
}

fn run(seed: u64) -> Sums {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    world.sums
}

#[test]
fn members_of_both_protocols_under_a_coordinator_that_crashes() {
    let Some(all) = each_seed(200, run) else {
        return;
    };
    let n = all.len() as u32;
    let mut sum = Sums::default();
    for s in all {
        sum.crashes += s.crashes;
        sum.beats += s.beats;
        sum.revoked += s.revoked;
        sum.commits += s.commits;
        sum.upgrades += s.upgrades;
        sum.downgrades += s.downgrades;
    }
    // The runs do reach what they are about.
    assert!(
        sum.crashes > 2 * n && sum.beats > 50 * n && sum.revoked > 5 * n,
        "{sum:?}"
    );
    assert!(
        sum.commits > 50 * n && sum.upgrades > n / 2 && sum.downgrades > n / 2,
        "{sum:?}"
    );
}
