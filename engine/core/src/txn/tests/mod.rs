//! The coordinator by hand: a clock, a log that becomes durable when the test says so, and markers
//! that arrive, or do not.

mod crashes;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use streamd_model::{ErrorCode, Mono};

use super::*;
use crate::machine::Machine;

fn limits() -> Limits {
    Limits {
        timeout_max_ms: 900_000,
        id_expiration_ms: 100_000_000,
        expire_check: Duration::from_secs(3600),
        retry: Duration::from_millis(100),
    }
}

/// A coordinator and what is around it.
struct Bench {
    coordinator: Coordinator,
    now: Now,
    /// What is on stable storage.
    log: Vec<TxnRecord>,
    in_flight: VecDeque<Batch>,
    markers: VecDeque<Markers>,
    /// Whether records are durable and markers written at once.
    prompt: bool,
    next_token: u64,
    next_producer: i64,
    replies: BTreeMap<Token, Reply>,
    /// Markers that were written.
    written: Vec<Markers>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(Vec::new(), 1000)
    }

    fn with(log: Vec<TxnRecord>, next_producer: i64) -> Bench {
        let now = Now {
            mono: Mono(1_000_000_000),
            wall_ms: 1_700_000_000_000,
        };
        let mut coordinator = Coordinator::new(limits());
        for record in &log {
            coordinator.replay(record);
        }
        let effects = coordinator.start(now);
        let mut bench = Bench {
            coordinator,
            now,
            log,
            in_flight: VecDeque::new(),
            markers: VecDeque::new(),
            prompt: true,
            next_token: 0,
            next_producer,
            replies: BTreeMap::new(),
            written: Vec::new(),
        };
        bench.prompt = false;
        bench.carry(effects);
        bench.prompt = true;
        bench
    }

    fn carry(&mut self, effects: Effects) {
        for (token, reply) in effects.replies {
            let before = self.replies.insert(token, reply);
            assert!(before.is_none(), "two answers to {token:?}");
        }
        self.in_flight.extend(effects.persist);
        self.markers.extend(effects.orders);
        while self.prompt && self.step() {}
    }

    /// The next thing that is under way gets through. False if there is none.
    fn step(&mut self) -> bool {
        if let Some(batch) = self.in_flight.pop_front() {
            self.log.extend(batch.records);
            let effects = self.coordinator.persisted(batch.seq);
            self.carry(effects);
            return true;
        }
        let Some(markers) = self.markers.pop_front() else {
            return false;
        };
        self.written.push(markers.clone());
        self.marked(&markers, Partitions::new());
        true
    }

    fn marked(&mut self, markers: &Markers, left: Partitions) {
        let (id, round) = (&markers.id, markers.round);
        let effects = self.coordinator.marked(self.now, id, round, left);
        self.carry(effects);
    }

    fn begin(&mut self, id: &str, request: Request) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        let effects = self.coordinator.handle(self.now, id, token, request);
        self.carry(effects);
        token
    }

    fn ask(&mut self, request: Request) -> Reply {
        let token = self.begin("x", request);
        self.replies.remove(&token).expect("an answer")
    }

    fn init(&mut self, expected: Option<(i64, i16)>) -> Reply {
        let request = |fresh| {
            Request::Init(Init {
                timeout_ms: 60_000,
                expected,
                fresh,
            })
        };
        match self.ask(request(None)) {
            Reply::NeedsProducer => {
                self.next_producer += 1;
                let fresh = Some(self.next_producer);
                self.ask(request(fresh))
            }
            other => other,
        }
    }

    fn add(&mut self, who: (i64, i16), version: i16, topic: &str) -> Reply {
        self.ask(Request::Add(Add {
            producer: who.0,
            epoch: who.1,
            partitions: of(topic),
            version,
        }))
    }

    fn verify(&mut self, who: (i64, i16), topic: &str) -> Reply {
        self.ask(Request::Verify(Add {
            producer: who.0,
            epoch: who.1,
            partitions: of(topic),
            version: 2,
        }))
    }

    fn end(&mut self, who: (i64, i16), version: i16, commit: bool) -> Reply {
        let request = end(who, version, commit);
        match self.ask(request.clone()) {
            Reply::NeedsProducer => {
                self.next_producer += 1;
                let Request::End(end) = request else {
                    unreachable!()
                };
                let fresh = Some(self.next_producer);
                self.ask(Request::End(End { fresh, ..end }))
            }
            other => other,
        }
    }

    fn describe(&mut self) -> Described {
        match self.ask(Request::Describe) {
            Reply::Describe(d) => *d,
            other => panic!("{other:?}"),
        }
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

    fn go_to(&mut self, mono: Mono) {
        self.now.wall_ms += (mono - self.now.mono).as_millis() as i64;
        self.now.mono = mono;
    }
}

fn end((producer, epoch): (i64, i16), version: i16, commit: bool) -> Request {
    Request::End(End {
        producer,
        epoch,
        commit,
        version,
        fresh: None,
    })
}

fn of(topic: &str) -> Partitions {
    [(topic.into(), [0].into())].into()
}

fn is(producer: i64, epoch: i16) -> Reply {
    Reply::Producer { producer, epoch }
}

const OK: Reply = Reply::Code(ErrorCode::None);

fn code(code: ErrorCode) -> Reply {
    Reply::Code(code)
}

#[test]
fn a_producer_of_version_1_keeps_its_epoch_and_a_new_life_raises_it() {
    let mut b = Bench::new();
    assert_eq!(b.init(None), is(1001, 0));
    let who = (1001, 0);
    assert_eq!(b.end(who, 1, true), code(ErrorCode::InvalidTxnState));
    assert_eq!(b.add(who, 1, "t"), OK);
    assert_eq!(b.verify(who, "t"), Reply::Missing(Partitions::new()));
    assert_eq!(b.verify(who, "u"), Reply::Missing(of("u")));
    assert_eq!(b.end(who, 1, true), is(1001, 0));
    assert_eq!(b.end(who, 1, true), is(1001, 0), "again");
    assert_eq!(b.end(who, 1, false), code(ErrorCode::InvalidTxnState));
    assert_eq!(b.verify(who, "t"), Reply::Missing(of("t")), "it is over");
    let d = b.describe();
    assert_eq!((d.status, d.partitions.len()), (Status::CompleteCommit, 0));
    assert_eq!((b.written.len(), b.written[0].commit), (1, true));
    assert_eq!(
        (b.written[0].epoch, &b.written[0].partitions),
        (0, &of("t"))
    );
    assert_eq!(b.init(None), is(1001, 1));
    assert_eq!(b.add(who, 1, "t"), code(ErrorCode::ProducerFenced));
    assert_eq!(
        b.add((7, 1), 1, "t"),
        code(ErrorCode::InvalidProducerIdMapping)
    );
    assert_eq!(b.end(who, 1, false), code(ErrorCode::ProducerFenced));
}

#[test]
fn in_version_2_each_end_raises_the_epoch_and_a_lost_answer_is_repeated() {
    let mut b = Bench::new();
    b.init(None);
    assert_eq!(b.add((1001, 0), 2, "t"), OK);
    assert_eq!(b.end((1001, 0), 2, true), is(1001, 1));
    assert_eq!(b.written[0].epoch, 1);
    assert_eq!(
        b.end((1001, 0), 2, true),
        is(1001, 1),
        "the answer was lost"
    );
    assert_eq!(b.end((1001, 0), 2, false), code(ErrorCode::InvalidTxnState));
    assert_eq!(
        b.end((1001, 1), 2, true),
        code(ErrorCode::InvalidTxnState),
        "nothing is open"
    );
    assert_eq!(
        b.end((1001, 1), 2, false),
        is(1001, 2),
        "an abort of nothing"
    );
    assert_eq!(b.add((1001, 2), 2, "t"), OK);
    // Delayed ends of older transactions have no effect.
    assert_eq!(b.end((1001, 1), 2, false), code(ErrorCode::ProducerFenced));
    assert_eq!(b.end((1001, 0), 2, true), code(ErrorCode::ProducerFenced));
    assert_eq!(b.describe().status, Status::Ongoing);
}

#[test]
fn a_new_life_aborts_what_is_open_and_fences_who_opened_it() {
    let mut b = Bench::new();
    b.init(None);
    b.add((1001, 0), 1, "t");
    b.prompt = false;
    let token = b.begin(
        "x",
        Request::Init(Init {
            timeout_ms: 1,
            expected: None,
            fresh: None,
        }),
    );
    assert_eq!(b.replies[&token], code(ErrorCode::ConcurrentTransactions));
    let late = b.begin("x", end((1001, 0), 1, true));
    assert_eq!(b.replies[&late], code(ErrorCode::ProducerFenced));
    b.prompt = true;
    while b.step() {}
    assert_eq!((b.written[0].commit, b.written[0].epoch), (false, 1));
    assert_eq!(b.init(None), is(1001, 2));
}

#[test]
fn what_takes_too_long_is_aborted() {
    for version in [1, 2] {
        let mut b = Bench::new();
        b.init(None);
        b.add((1001, 0), version, "t");
        b.sleep(59_000);
        assert_eq!(b.describe().status, Status::Ongoing);
        b.sleep(1_500);
        assert_eq!(b.describe().status, Status::CompleteAbort);
        assert_eq!((b.written[0].commit, b.written[0].epoch), (false, 1));
        assert!(matches!(b.end((1001, 0), version, true), Reply::Code(c) if c.is_err()));
        assert_eq!(
            b.add((1001, 0), version, "t"),
            code(ErrorCode::ProducerFenced)
        );
    }
}

#[test]
fn epochs_are_used_up_and_a_new_producer_id_follows() {
    let mut b = Bench::new();
    b.init(None);
    for epoch in 0..i16::MAX - 1 {
        let expected = (1001, epoch);
        assert_eq!(b.end(expected, 2, false), is(1001, epoch + 1));
    }
    let last = (1001, i16::MAX - 1);
    assert_eq!(b.add(last, 2, "t"), OK);
    assert_eq!(b.end(last, 2, true), is(1002, 0));
    assert_eq!(b.end(last, 2, true), is(1002, 0), "the answer was lost");
    let markers = b.written.last().unwrap();
    assert_eq!((markers.producer, markers.epoch), (1001, i16::MAX));
    assert_eq!(b.init(None), is(1002, 1));
}

#[test]
fn a_producer_that_names_its_epoch_gets_the_next_one_once() {
    let mut b = Bench::new();
    b.init(None);
    assert_eq!(b.init(Some((1001, 0))), is(1001, 1));
    assert_eq!(b.init(Some((1001, 0))), is(1001, 1), "the answer was lost");
    assert_eq!(b.init(Some((1001, 1))), is(1001, 2));
    assert_eq!(b.init(Some((1001, 0))), code(ErrorCode::ProducerFenced));
    assert_eq!(b.init(Some((9, 2))), code(ErrorCode::ProducerFenced));
    b.add((1001, 2), 1, "t");
    assert_eq!(
        b.init(Some((1001, 0))),
        code(ErrorCode::ProducerFenced),
        "a zombie"
    );
    assert_eq!(
        b.describe().status,
        Status::Ongoing,
        "aborts nobody's transaction"
    );
}

#[test]
fn nothing_goes_out_before_the_decision_is_durable() {
    let mut b = Bench::new();
    b.init(None);
    b.add((1001, 0), 1, "t");
    b.prompt = false;
    let token = b.begin("x", end((1001, 0), 1, true));
    assert!(b.markers.is_empty() && !b.replies.contains_key(&token));
    b.step();
    assert!(b.markers.len() == 1 && !b.replies.contains_key(&token));
    let concurrent = b.begin("x", end((1001, 0), 1, true));
    assert_eq!(
        b.replies[&concurrent],
        code(ErrorCode::ConcurrentTransactions)
    );
    b.step();
    assert_eq!(b.replies[&token], is(1001, 0));
}

#[test]
fn a_marker_that_cannot_be_written_is_tried_again_and_the_answer_does_not_wait() {
    let mut b = Bench::new();
    b.init(None);
    b.add((1001, 0), 1, "t");
    b.add((1001, 0), 1, "u");
    b.prompt = false;
    let token = b.begin("x", end((1001, 0), 1, true));
    b.step();
    let markers = b.markers.pop_front().unwrap();
    b.marked(&markers, of("u"));
    assert_eq!(b.replies[&token], is(1001, 0));
    b.prompt = true;
    assert_eq!(
        b.add((1001, 0), 1, "t"),
        code(ErrorCode::ConcurrentTransactions)
    );
    b.sleep(200);
    assert_eq!(b.written.last().unwrap().partitions, of("u"));
    assert_eq!(b.describe().status, Status::CompleteCommit);
    // An answer about an end that is over changes nothing.
    b.add((1001, 0), 1, "t");
    b.marked(&markers, Partitions::new());
    assert_eq!(b.describe().status, Status::Ongoing);
}

#[test]
fn limits_and_oblivion() {
    let mut b = Bench::new();
    let mut init = Init {
        timeout_ms: 0,
        expected: None,
        fresh: Some(5),
    };
    let refused = code(ErrorCode::InvalidTransactionTimeout);
    assert_eq!(b.ask(Request::Init(init)), refused);
    init.timeout_ms = 900_001;
    assert_eq!(b.ask(Request::Init(init)), refused);
    assert_eq!(
        b.ask(Request::Describe),
        code(ErrorCode::TransactionalIdNotFound)
    );
    b.init(None);
    let many = Request::Add(Add {
        producer: 1001,
        epoch: 0,
        partitions: [("t".into(), (0..20_001).collect())].into(),
        version: 1,
    });
    assert_eq!(b.ask(many), code(ErrorCode::InvalidRequest));
    assert_eq!(b.describe().status, Status::Empty);
    b.sleep(99_000_000);
    assert_eq!(b.coordinator.list(b.now).len(), 1);
    b.sleep(6_000_000);
    assert_eq!(b.coordinator.list(b.now).len(), 0);
    assert_eq!(b.log.last().unwrap().value, None);
}

#[test]
fn when_the_log_is_lost_everybody_is_told() {
    let mut b = Bench::new();
    b.init(None);
    b.add((1001, 0), 1, "t");
    b.prompt = false;
    let one = b.begin("x", end((1001, 0), 1, true));
    b.step();
    let two = b.begin(
        "y",
        Request::Init(Init {
            timeout_ms: 5,
            expected: None,
            fresh: Some(5),
        }),
    );
    let effects = b.coordinator.fail(ErrorCode::CoordinatorNotAvailable);
    b.carry(effects);
    for token in [one, two] {
        assert_eq!(b.replies[&token], code(ErrorCode::CoordinatorNotAvailable));
    }
    let bytes = b.coordinator.encode();
    let mut again = Coordinator::new(limits());
    again.decode(&bytes).unwrap();
    assert_eq!(again.encode(), bytes);
    assert!(again.decode(&bytes[..bytes.len() - 1]).is_err());
}
