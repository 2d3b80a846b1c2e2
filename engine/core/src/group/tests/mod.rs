//! Groups by hand: a coordinator, a clock, a log that becomes durable when the test says so.

mod admin;
mod classic;
mod consumer;
mod consumer_sim;
mod invariants;
mod migration;
mod offsets;
mod records;
mod sim;
mod statics;
mod txns;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use std::sync::Arc;

use streamd_model::{ErrorCode, Mono, NodeId, TopicId};

use self::sim::Rng;
use super::*;
use crate::config::Configs;
use crate::machine::{Machine, Record};
use crate::meta::{ClusterImage, Command, Local};

/// The only group of most tests.
const G: &str = "g";

fn limits() -> Limits {
    Limits {
        initial_delay: Duration::from_secs(3),
        members_max: 100,
        session_min_ms: 6000,
        session_max_ms: 60_000,
        metadata_max: 10,
        retention_ms: 100_000_000,
        retention_check: Duration::from_secs(600),
        consumer: ConsumerLimits {
            enabled: true,
            session_ms: 45_000,
            session_range_ms: (45_000, 60_000),
            heartbeat_ms: 5000,
            heartbeat_range_ms: (5000, 15_000),
            size_max: 100,
            assignors: vec![Assignor::Uniform, Assignor::Range],
            upgrade: true,
            downgrade: true,
        },
    }
}

/// The state is the same when the log has only the last record of each key, with and without the
/// tombstones among them.
fn same_when_compacted(log: &[GroupRecord]) {
    let mut last = BTreeMap::new();
    for (at, record) in log.iter().enumerate() {
        last.insert(record.key(), at);
    }
    let is_last = |at: usize, r: &GroupRecord| last.get(&r.key()) == Some(&at);
    let fold = |keeps: &dyn Fn(usize, &GroupRecord) -> bool| {
        let mut coordinator = Coordinator::new(limits());
        for (at, record) in log.iter().enumerate() {
            if keeps(at, record) {
                coordinator.replay(record);
            }
        }
        coordinator.encode()
    };
    let whole = fold(&|_, _| true);
    assert!(
        whole == fold(&is_last),
        "the last of each key are not enough"
    );
    let valued = |at, r: &GroupRecord| is_last(at, r) && r.value().is_some();
    assert!(whole == fold(&valued), "tombstones are needed");
}

/// A coordinator and what is around it.
struct Bench {
    coordinator: Coordinator,
    now: Now,
    /// What is on stable storage.
    log: Vec<GroupRecord>,
    in_flight: VecDeque<Batch>,
    /// Whether records are durable at once.
    prompt: bool,
    next_token: u64,
    replies: BTreeMap<Token, Reply>,
    image: Arc<ClusterImage>,
}

/// Metadata without topics.
fn no_topics() -> Arc<ClusterImage> {
    Arc::new(ClusterImage::new(Local {
        node: NodeId(1),
        configs: Configs::new(),
    }))
}

impl Bench {
    fn new() -> Bench {
        Bench::with(limits(), Vec::new())
    }

    /// A coordinator that starts on this log.
    fn with(limits: Limits, log: Vec<GroupRecord>) -> Bench {
        Bench::on(limits, log, no_topics())
    }

    /// The same where there are topics.
    fn on(limits: Limits, log: Vec<GroupRecord>, image: Arc<ClusterImage>) -> Bench {
        let now = Now {
            mono: Mono(1_000_000_000),
            wall_ms: 1_700_000_000_000,
        };
        let mut coordinator = Coordinator::new(limits);
        coordinator.set_image(image.clone());
        for record in &log {
            coordinator.replay(record);
        }
        let effects = coordinator.start(now);
        assert!(effects.persist.is_none() && effects.replies.is_empty());
        Bench {
            image,
            coordinator,
            now,
            log,
            in_flight: VecDeque::new(),
            prompt: true,
            next_token: 0,
            replies: BTreeMap::new(),
        }
    }

    /// The process dies; another starts on what was durable.
    fn crash(self) -> Bench {
        // Not each time: logs of the crowds are long.
        if self.log.len().is_multiple_of(4) {
            same_when_compacted(&self.log);
        }
        let limits = self.coordinator.ctx.limits.clone();
        let mut next = Bench::on(limits, self.log, self.image.clone());
        next.now = self.now;
        next.prompt = self.prompt;
        next.follow(self.image);
        next
    }

    fn follow(&mut self, image: Arc<ClusterImage>) {
        self.image = image.clone();
        let effects = self.coordinator.follow(self.now, image);
        self.carry(effects);
    }

    /// The metadata change.
    fn change_topics(&mut self, command: &Command) {
        let mut image = ClusterImage::clone(&self.image);
        image.apply(command);
        self.follow(Arc::new(image));
    }

    fn create_topic(&mut self, name: &str, n: u8, partitions: i32) {
        self.change_topics(&Command::CreateTopic {
            name: name.to_owned(),
            id: TopicId([n; 16]),
            partitions,
            configs: Configs::new(),
            created_ms: 0,
        });
    }

    fn carry(&mut self, effects: Effects) {
        for (token, reply) in effects.replies {
            let before = self.replies.insert(token, reply);
            assert!(before.is_none(), "two answers to {token:?}");
        }
        self.in_flight.extend(effects.persist);
        invariants::check(&self.coordinator);
        if self.prompt {
            self.flush();
        }
    }

    /// Everything that was written becomes durable.
    fn flush(&mut self) {
        while self.flush_one() {}
    }

    /// The oldest batch that is under way becomes durable. False if there is none.
    fn flush_one(&mut self) -> bool {
        let Some(batch) = self.in_flight.pop_front() else {
            return false;
        };
        self.log.extend(batch.records);
        let effects = self.coordinator.persisted(batch.seq);
        self.carry(effects);
        true
    }

    /// The process dies. Of what was under way a part has become durable, in order, unanswered.
    fn crash_amid(&mut self, rng: &mut Rng) {
        let all = self.in_flight.drain(..).flat_map(|b| b.records);
        let all: Vec<_> = all.collect();
        let kept = rng.below(all.len() as u64 + 1) as usize;
        self.log.extend(all.into_iter().take(kept));
        let next_token = self.next_token;
        let bench = std::mem::replace(self, Bench::new());
        *self = bench.crash();
        self.next_token = next_token;
    }

    fn ask_of(&mut self, group: &str, request: Request) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        let effects = self.coordinator.handle(self.now, group, token, request);
        self.carry(effects);
        token
    }

    fn ask(&mut self, request: Request) -> Token {
        self.ask_of(G, request)
    }

    /// Time goes by, and timers go off when they are due.
    fn sleep(&mut self, ms: u64) {
        let end = self.now.mono + Duration::from_millis(ms);
        while let Some(at) = self.coordinator.next_tick().filter(|at| *at <= end) {
            self.go_to(at.max(self.now.mono));
            let effects = self.coordinator.tick(self.now);
            self.carry(effects);
        }
        self.go_to(end);
    }

    fn go_to(&mut self, at: Mono) {
        self.now.wall_ms += (at - self.now.mono).as_millis() as i64;
        self.now.mono = at;
    }

    #[track_caller]
    fn take(&mut self, token: Token) -> Reply {
        self.replies.remove(&token).expect("an answer")
    }

    #[track_caller]
    fn silent(&self, token: Token) {
        assert_eq!(self.replies.get(&token), None);
    }

    #[track_caller]
    fn joined(&mut self, token: Token) -> Joined {
        match self.take(token) {
            Reply::Join(joined) => *joined,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn join_error(&mut self, token: Token) -> ErrorCode {
        self.joined(token).error.expect("an error")
    }

    #[track_caller]
    fn code(&mut self, token: Token) -> ErrorCode {
        match self.take(token) {
            Reply::Code(code) => code,
            Reply::Sync(synced) => synced.error,
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self) -> Description {
        let token = self.ask(Request::Describe);
        match self.take(token) {
            Reply::Describe(found) => *found,
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, id: &str, generation: i32) -> ErrorCode {
        let who = who(id);
        let token = self.ask(Request::Heartbeat { who, generation });
        self.code(token)
    }

    /// A new member gets its id and asks again with it. Its waiting request, and the id.
    fn enter(&mut self, name: &str) -> (Token, String) {
        let first = self.ask(Request::Join(Box::new(join(name))));
        let joined = self.joined(first);
        assert_eq!(joined.error, Some(ErrorCode::MemberIdRequired));
        let token = self.ask(Request::Join(Box::new(rejoin(name, &joined.id))));
        (token, joined.id)
    }

    /// A stable group of one member. Its id.
    fn stable_of_one(&mut self) -> String {
        let (token, id) = self.enter("a");
        self.sleep(3000);
        let joined = self.joined(token);
        assert_eq!((joined.error, joined.leader), (None, id.clone()));
        let token = self.ask(sync(&id, joined.generation, &[(&id, b"all")]));
        assert_eq!(self.code(token), ErrorCode::None);
        id
    }
}

fn who(id: &str) -> Who {
    Who {
        id: id.to_owned(),
        instance: None,
    }
}

/// A consumer that wants in and has no id.
fn join(name: &str) -> Join {
    Join {
        who: who(""),
        new_id: format!("{name}-id"),
        client_id: name.to_owned(),
        client_host: "/10.0.0.1".to_owned(),
        session_ms: 10_000,
        rebalance_ms: 30_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), subscription(&["t"]))],
        id_required: true,
        can_skip: true,
    }
}

fn rejoin(name: &str, id: &str) -> Join {
    Join {
        who: who(id),
        ..join(name)
    }
}

/// What a consumer of these topics tells the leader.
fn subscription(topics: &[&str]) -> Blob {
    let mut bytes = vec![0, 1];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend([255, 255, 255, 255]);
    bytes.into()
}

fn sync(id: &str, generation: i32, assignments: &[(&str, &[u8])]) -> Request {
    let assignments = assignments
        .iter()
        .map(|(id, part)| ((*id).to_owned(), (*part).into()));
    Request::Sync(Sync {
        who: who(id),
        generation,
        protocol_type: None,
        protocol: None,
        assignments: assignments.collect(),
    })
}

fn leave(id: &str) -> Request {
    Request::Leave(vec![Leaver { who: who(id) }])
}

/// One offset for partition 0 of topic `t`.
fn commit(id: &str, generation: i32, offset: i64) -> Commit {
    Commit {
        who: who(id),
        generation,
        retention_ms: None,
        knows_not_found: true,
        topics: vec![CommitTopic {
            name: "t".into(),
            id: TopicId::ZERO,
            partitions: vec![CommitPartition {
                index: 0,
                offset,
                leader_epoch: 0,
                metadata: "m".into(),
            }],
        }],
    }
}

impl Bench {
    /// The code of the one partition, or of the whole.
    #[track_caller]
    fn commit(&mut self, commit: Commit) -> ErrorCode {
        let token = self.ask(Request::Commit(commit));
        self.committed(token)
    }

    #[track_caller]
    fn committed(&mut self, token: Token) -> ErrorCode {
        match self.take(token) {
            Reply::Code(code) => code,
            Reply::Partitions(topics) => topics[0].1[0].1,
            other => panic!("{other:?}"),
        }
    }

    /// The committed offset of partition 0 of a topic.
    #[track_caller]
    fn offset(&mut self, topic: &str) -> Option<i64> {
        let token = self.ask(Request::Fetch(Some(vec![FetchTopic {
            name: topic.into(),
            id: TopicId::ZERO,
            partitions: vec![0],
        }])));
        match self.take(token) {
            Reply::Fetch(found) => found[0].partitions[0].1.as_ref().map(|c| c.offset),
            other => panic!("{other:?}"),
        }
    }
}
