//! Groups of stock clients: each member is a process of its own that says what it is given and
//! what it reads, and commits as it goes. They split a topic, survive a kill of the broker, take
//! over from each other, and go on where the group has committed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use streamd_tests::batch::Batch;
use streamd_tests::broker::{Broker, streamctl};
use streamd_tests::client::Client;
use streamd_tests::run::{command, output};
use streamd_tests::wire::{Body, Connection};

const PATIENCE: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_secs(1);
const TOPIC: &str = "shared";
const PARTITIONS: u32 = 4;

/// A member's process.
struct Member {
    child: Child,
    input: Option<ChildStdin>,
    owned: BTreeSet<u32>,
    /// How often it was told what it owns.
    told: u32,
    ended: bool,
}

impl Member {
    /// Ends the process without a word to the group. The signal goes through `timeout`.
    fn kill(&self) {
        // It may have ended already.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }
}

enum Said {
    Owns(BTreeSet<u32>),
    Read(u32, u64),
    /// Its output ended.
    Nothing,
}

/// The members of a group, and the broker that they talk to.
struct Group {
    broker: Broker,
    client: Client,
    /// What members that join speak, if the driver is told.
    protocol: Option<&'static str>,
    /// What they subscribe to.
    subscription: &'static str,
    members: BTreeMap<&'static str, Member>,
    /// Partitions and offsets, with how often they were read.
    read: BTreeMap<(u32, u64), u32>,
    produced: u64,
    said: Receiver<(&'static str, Said)>,
    say: Sender<(&'static str, Said)>,
}

impl Group {
    fn new(client: Client) -> Self {
        let broker = Broker::start(&[
            "--set",
            "group.initial.rebalance.delay.ms=0",
            "--set",
            "group.min.session.timeout.ms=1000",
            "--set",
            "group.consumer.heartbeat.interval.ms=300",
            "--set",
            "group.consumer.session.timeout.ms=30000",
        ]);
        Connection::open(&broker.addr()).create_topic(TOPIC, PARTITIONS as i32, &[]);
        let (say, said) = channel();
        let mut group = Self {
            broker,
            client,
            protocol: None,
            subscription: TOPIC,
            members: BTreeMap::new(),
            read: BTreeMap::new(),
            produced: 0,
            said,
            say,
        };
        group.produce(100);
        group
    }

    /// The same for members of the newer protocol.
    fn modern(client: Client) -> Self {
        let mut group = Self::new(client);
        group.protocol = Some("consumer");
        group
    }

    /// Appends so many records to each partition.
    fn produce(&mut self, count: u64) {
        let mut connection = Connection::open(&self.broker.addr());
        let values: Vec<String> = (0..count).map(|i| format!("value {i}")).collect();
        for partition in 0..PARTITIONS {
            let batch = Batch::of(&values).encode();
            let done = connection.produce(TOPIC, partition as i32, &batch);
            assert_eq!(done.expect("an answer to Produce").error, 0);
        }
        self.produced += count;
    }

    /// Starts a member; with an instance id it is a static one.
    fn join(&mut self, name: &'static str, instance: &[&str]) {
        let instance = match self.protocol {
            Some(_) if instance.is_empty() => &["-"],
            _ => instance,
        };
        let mut child = self
            .client
            .driver()
            .args(["group", &self.broker.addr(), self.subscription, "readers"])
            .args(instance)
            .args(self.protocol)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a driver");
        let output = child.stdout.take().expect("a pipe");
        let say = self.say.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The test may be over.
                let _ = say.send((name, parse(&line)));
            }
            let _ = say.send((name, Said::Nothing));
        });
        let member = Member {
            input: child.stdin.take(),
            child,
            owned: BTreeSet::new(),
            told: 0,
            ended: false,
        };
        self.members.insert(name, member);
    }

    /// Follows what the members say until `done`.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((name, said)) = self.said.recv_timeout(left) else {
                panic!(
                    "{}: not so after {PATIENCE:?}: {what}; {}",
                    self.client.name(),
                    self.stand()
                );
            };
            self.take(name, said);
        }
    }

    /// Follows the members until none of them has said anything for a while: a cooperative
    /// rebalance has a second round.
    fn until_quiet(&mut self) {
        while let Ok((name, said)) = self.said.recv_timeout(QUIET) {
            self.take(name, said);
        }
    }

    fn take(&mut self, name: &'static str, said: Said) {
        let member = self.members.get_mut(name).expect("a member");
        match said {
            Said::Owns(partitions) => {
                member.owned = partitions;
                member.told += 1;
            }
            Said::Read(partition, offset) => {
                *self.read.entry((partition, offset)).or_default() += 1;
            }
            Said::Nothing => {
                member.ended = true;
                member.owned.clear();
            }
        }
    }

    fn stand(&self) -> String {
        let owned: Vec<_> = self.members.iter().map(|(n, m)| (n, &m.owned)).collect();
        format!(
            "members own {owned:?}, {} records were read",
            self.read.len()
        )
    }

    /// Whether all partitions are owned, each by one member, and each member has some.
    fn is_split(&self) -> bool {
        let live = || self.members.values().filter(|m| !m.ended);
        let all: Vec<u32> = live().flat_map(|m| m.owned.iter().copied()).collect();
        let set: BTreeSet<u32> = all.iter().copied().collect();
        all.len() == PARTITIONS as usize
            && set.len() == all.len()
            && live().all(|m| !m.owned.is_empty())
    }

    fn has_read_all(&self) -> bool {
        let all = (0..PARTITIONS).flat_map(|p| (0..self.produced).map(move |o| (p, o)));
        self.read.len() as u64 == u64::from(PARTITIONS) * self.produced
            && all.into_iter().all(|place| self.read.contains_key(&place))
    }

    /// Lets a member leave, and waits for its end.
    fn stop(&mut self, name: &'static str) {
        let member = self.members.get_mut(name).expect("a member");
        let mut input = member.input.take().expect("a member is stopped once");
        writeln!(input, "stop").expect("the member listens");
        drop(input);
        self.until("the member ends", |g| g.members[name].ended);
        let mut member = self.members.remove(name).expect("a member");
        let status = member.child.wait().expect("a child's state");
        assert!(
            status.success(),
            "{}: {name} ended with {status}",
            self.client.name()
        );
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for member in self.members.values_mut() {
            member.kill();
            let _ = member.child.wait();
        }
    }
}

/// `owns P P ...` or `read P OFFSET`.
fn parse(line: &str) -> Said {
    let mut words = line.split_whitespace();
    let first = words.next();
    let mut numbers = words.map(|w| w.parse::<u64>().expect("a number"));
    match first {
        Some("owns") => Said::Owns(numbers.map(|n| n as u32).collect()),
        Some("read") => {
            let mut next = || numbers.next().expect("two numbers");
            Said::Read(next() as u32, next())
        }
        _ => panic!("a driver says {line:?}"),
    }
}

fn check(client: Client) {
    check_group(Group::new(client));
}

fn check_group(mut g: Group) {
    let client = g.client;
    g.join("a", &[]);
    g.until("the first member has all", |g| g.is_split());
    g.join("b", &[]);
    g.until("two members share", |g| {
        g.is_split() && g.members.len() == 2
    });
    g.until("all is read", Group::has_read_all);

    g.broker.kill();
    g.broker.start_again();
    g.produce(100);
    g.until("all is read after a kill", |g| {
        g.has_read_all() && g.is_split()
    });

    g.join("c", &[]);
    g.until("three members share", |g| {
        g.is_split() && g.members.len() == 3
    });
    g.stop("a");
    g.until("the others take over", |g| g.is_split());
    g.stop("b");
    g.until("the last one has all", |g| g.is_split());
    g.produce(50);
    g.until("all is read by the last one", Group::has_read_all);
    g.stop("c");

    // What was committed is not read again.
    g.read.clear();
    let before = g.produced;
    g.produce(10);
    g.join("d", &[]);
    g.until("the new records are read", |g| g.read.len() >= 40);
    let again = g.read.keys().filter(|place| place.1 < before).count();
    assert_eq!(
        again,
        0,
        "{}: committed records are read again",
        client.name()
    );
    g.stop("d");
}

/// A static member that restarts gets its partitions back, and nobody else notices.
fn check_static(client: Client) {
    let mut g = Group::new(client);
    g.join("a", &["instance-a"]);
    g.join("b", &["instance-b"]);
    g.until("two members share", |g| {
        g.is_split() && g.members.len() == 2
    });
    g.until("all is read", Group::has_read_all);
    g.until_quiet();
    let (owned, told) = (g.members["b"].owned.clone(), g.members["a"].told);
    g.members["b"].kill();
    g.until("its output ends", |g| g.members["b"].ended);
    g.join("b", &["instance-b"]);
    g.until("it has its partitions back", |g| {
        g.members["b"].owned == owned
    });
    g.produce(20);
    g.until("all is read", Group::has_read_all);
    g.until_quiet();
    assert_eq!(
        g.members["a"].told, told,
        "the other one was told of a rebalance"
    );
    g.stop("a");
    g.stop("b");
}

/// A static member that closes and comes back within its session gets its partitions back, and
/// nobody else notices.
fn check_modern_static(client: Client) {
    let mut g = Group::modern(client);
    g.join("a", &["instance-a"]);
    g.join("b", &["instance-b"]);
    g.until("two members share", |g| {
        g.is_split() && g.members.len() == 2
    });
    g.until("all is read", Group::has_read_all);
    g.until_quiet();
    let (owned, told) = (g.members["b"].owned.clone(), g.members["a"].told);
    g.stop("b");
    g.join("b", &["instance-b"]);
    g.until("it has its partitions back", |g| {
        g.members["b"].owned == owned
    });
    g.produce(20);
    g.until("all is read", Group::has_read_all);
    g.until_quiet();
    assert_eq!(
        g.members["a"].told, told,
        "the other one was told of a rebalance"
    );
    g.stop("a");
    g.stop("b");
}

/// Members that subscribe by a regular expression find a topic that comes later.
fn check_regex(client: Client) {
    let mut g = Group::modern(client);
    g.subscription = "^sh[a-z]+";
    g.join("a", &[]);
    g.until("the first member has all", Group::is_split);
    g.join("b", &[]);
    g.until("two members share", |g| {
        g.is_split() && g.members.len() == 2
    });
    g.until("all is read", Group::has_read_all);
    let mut connection = Connection::open(&g.broker.addr());
    connection.create_topic("shards", 8, &[]);
    connection.create_topic("other-shards", 20, &[]);
    let batch = Batch::of(&["late".to_owned()]).encode();
    let done = connection.produce("shards", 7, &batch);
    assert_eq!(done.expect("an answer to Produce").error, 0);
    let done = connection.produce("other-shards", 19, &batch);
    assert_eq!(done.expect("an answer to Produce").error, 0);
    g.until("the new topic is read", |g| g.read.contains_key(&(7, 0)));
    g.until_quiet();
    assert!(
        !g.read.contains_key(&(19, 0)),
        "it matches names that only end so"
    );
    g.stop("a");
    g.stop("b");
}

impl Group {
    /// What `streamctl group list` says of the group.
    fn listed(&self) -> String {
        let text = output(command(streamctl()).args([
            "--bootstrap",
            &self.broker.addr(),
            "group",
            "list",
        ]));
        let line = text.lines().find(|l| l.contains("readers"));
        let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
        words.join(" ")
    }

    /// Follows the members until the group is in this state, then until all is read.
    fn until_listed(&mut self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.listed() != what {
            let listed = self.listed();
            assert!(Instant::now() < deadline, "{listed:?}, not {what:?}");
            if let Ok((name, said)) = self.said.recv_timeout(Duration::from_millis(200)) {
                self.take(name, said);
            }
        }
        self.produce(20);
        self.until("all is read", |g| g.has_read_all() && g.is_split());
    }
}

#[test]
fn java_moves_a_live_group_to_the_consumer_protocol_and_back() {
    let mut g = Group::new(Client::Java);
    g.join("a", &[]);
    g.join("b", &[]);
    g.until_listed("readers Stable classic consumer");
    g.protocol = Some("consumer");
    g.join("c", &[]);
    g.until_listed("readers Stable consumer consumer");
    g.stop("a");
    g.join("d", &[]);
    g.until_listed("readers Stable consumer consumer");
    g.stop("b");
    g.until_listed("readers Stable consumer consumer");
    g.broker.kill();
    g.broker.start_again();
    g.until_listed("readers Stable consumer consumer");
    g.protocol = None;
    g.join("e", &[]);
    g.until_listed("readers Stable consumer consumer");
    g.stop("c");
    g.stop("d");
    g.until_listed("readers Stable classic consumer");
    g.stop("e");
}

#[test]
fn java_groups_of_the_consumer_protocol() {
    check_group(Group::modern(Client::Java));
}

#[test]
fn java_static_members_of_the_consumer_protocol() {
    check_modern_static(Client::Java);
}

#[test]
fn java_regular_expressions() {
    check_regex(Client::Java);
}

#[test]
fn confluent_groups_of_the_consumer_protocol() {
    check_group(Group::modern(Client::Confluent));
}

#[test]
fn confluent_static_members_of_the_consumer_protocol() {
    check_modern_static(Client::Confluent);
}

#[test]
fn confluent_regular_expressions() {
    check_regex(Client::Confluent);
}

#[test]
fn java_groups() {
    check(Client::Java);
}

#[test]
fn java_static_members() {
    check_static(Client::Java);
}

#[test]
fn java3_groups() {
    check(Client::Java3);
}

#[test]
fn java3_static_members() {
    check_static(Client::Java3);
}

#[test]
fn platformatic_groups() {
    check(Client::Platformatic);
}

#[test]
fn confluent_groups() {
    check(Client::Confluent);
}

#[test]
fn confluent_static_members() {
    check_static(Client::Confluent);
}

#[test]
fn kafka_python_groups() {
    check(Client::KafkaPython);
}

#[test]
fn aiokafka_groups() {
    check(Client::AioKafka);
}

#[test]
fn kafkajs_groups() {
    check(Client::KafkaJs);
}

#[test]
fn franz_go_groups() {
    check(Client::Franz);
}

#[test]
fn sarama_groups() {
    check(Client::Sarama);
}

/// A member that is nothing but a connection: JoinGroup version 3, SyncGroup version 2.
fn join_body() -> Body {
    let body = Body::default().string("crowd").i32(30_000).i32(60_000);
    let body = body.string("").string("consumer").i32(1);
    body.string("range")
        .bytes(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff")
}

#[test]
fn a_thousand_members_join_within_five_seconds() {
    const MEMBERS: usize = 1000;
    let broker = Broker::start(&["--set", "group.initial.rebalance.delay.ms=1000"]);
    let find = Body::default().string("crowd");
    Connection::open(&broker.addr())
        .call(10, 0, &find)
        .expect("a coordinator");
    let mut members: Vec<Connection> = (0..MEMBERS)
        .map(|_| Connection::open(&broker.addr()))
        .collect();
    let began = Instant::now();
    for member in &mut members {
        member.send(11, 3, &join_body()).expect("a request");
    }
    let mut ids = Vec::new();
    let mut leader = String::new();
    for member in &mut members {
        let (_, mut answer) = member.receive().expect("an answer to JoinGroup");
        let (_throttle, error, generation) = (answer.i32(), answer.i16(), answer.i32());
        assert_eq!(
            (error, generation),
            (0, 1),
            "all are in the first generation"
        );
        let _protocol = answer.string();
        leader = answer.string();
        ids.push(answer.string());
    }
    for (member, id) in members.iter_mut().zip(&ids) {
        let body = Body::default().string("crowd").i32(1).string(id);
        let leads = *id == leader;
        let body = body.i32(if leads { MEMBERS as i32 } else { 0 });
        let body = match leads {
            true => ids
                .iter()
                .fold(body, |body, id| body.string(id).bytes(id.as_bytes())),
            false => body,
        };
        member.send(14, 2, &body).expect("a request");
    }
    for (member, id) in members.iter_mut().zip(&ids) {
        let (_, mut answer) = member.receive().expect("an answer to SyncGroup");
        let (_throttle, error) = (answer.i32(), answer.i16());
        assert_eq!((error, answer.bytes()), (0, id.as_bytes().to_vec()));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
}

#[test]
fn a_member_whose_connection_breaks_while_it_waits_is_given_up() {
    let broker = Broker::start(&[
        "--set",
        "group.initial.rebalance.delay.ms=60000",
        "--set",
        "group.min.session.timeout.ms=500",
    ]);
    let mut observer = Connection::open(&broker.addr());
    let find = Body::default().string("crowd");
    observer.call(10, 0, &find).expect("a coordinator");
    let mut member = Connection::open(&broker.addr());
    let body = Body::default().string("crowd").i32(500).i32(60_000);
    let body = body.string("").string("consumer").i32(1);
    let body = body.string("range").bytes(b"");
    member.send(11, 3, &body).expect("a request");
    let mut await_state = |want: &str| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let body = Body::default().i32(1).string("crowd");
            let mut answer = observer.call(15, 0, &body).expect("an answer");
            let (_count, _error, _name) = (answer.i32(), answer.i16(), answer.string());
            let state = answer.string();
            if state == want {
                return;
            }
            assert!(Instant::now() < deadline, "{state}, not {want}");
            thread::sleep(Duration::from_millis(20));
        }
    };
    await_state("PreparingRebalance");
    // While the connection lives the rebalance goes on, though no heartbeat comes.
    thread::sleep(Duration::from_millis(1500));
    await_state("PreparingRebalance");
    drop(member);
    await_state("Empty");
}
