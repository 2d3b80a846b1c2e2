//! Groups: strangers, stale generations, bad commits, members that never sync.

use std::time::{Duration, Instant};

use streamd_tests::wire::{Body, Connection};

use crate::lab::{Joined, Lab, join, joined};

pub fn ask(lab: &mut Lab) {
    strangers(lab);
    joins(lab);
    generations(lab);
    commits(lab);
    deletions(lab);
    a_member_that_never_syncs(lab);
    modern(lab);
}

fn stranger() -> Joined {
    Joined {
        id: "stranger".into(),
        generation: 1,
        error: 0,
    }
}

fn strangers(lab: &mut Lab) {
    let (none, some) = (lab.name("g-none"), lab.name("g-some"));
    lab.find(&none, 0);
    let m = lab.member(&some);
    for (group, what) in [
        (&none, "no group"),
        (&some, "a group"),
        (&String::new(), "\"\""),
    ] {
        let code = lab.heartbeat(group, 1, "stranger");
        lab.note(&format!("heartbeat of a stranger to {what}"), code);
        let code = lab.sync(group, &stranger(), &[]);
        lab.note(&format!("sync of a stranger to {what}"), code);
        let code = lab.leave(group, "stranger");
        lab.note(&format!("leave of a stranger from {what}"), code);
    }
    let code = lab.heartbeat(&some, m.generation, "");
    lab.note("heartbeat without a member", code);
    let code = lab.leave(&some, "");
    lab.note("leave without a member", code);
}

fn joins(lab: &mut Lab) {
    let group = lab.name("g-joins");
    lab.find(&group, 0);
    lab.member(&group);
    let ask = |lab: &mut Lab, what: &str, version, body: &Body| {
        let mut a = lab.call(11, version, body);
        let error = joined(&mut a).error;
        lab.note(&format!("join {what}"), error);
    };
    ask(
        lab,
        "to \"\"",
        3,
        &join("", "", 10_000, "consumer", &["range"]),
    );
    let short = join(&group, "", 1, "consumer", &["range"]);
    ask(lab, "with a session of 1 ms", 3, &short);
    let long = join(&group, "", i32::MAX, "consumer", &["range"]);
    ask(lab, "with a session of weeks", 3, &long);
    let unknown = join(&group, "stranger", 10_000, "consumer", &["range"]);
    ask(lab, "of a stranger", 3, &unknown);
    let kind = join(&group, "", 10_000, "connect", &["range"]);
    ask(lab, "with another protocol type", 3, &kind);
    let protocol = join(&group, "", 10_000, "consumer", &["elsewhere"]);
    ask(lab, "with other protocols", 3, &protocol);
    let none = join(&group, "", 10_000, "consumer", &[]);
    ask(lab, "without protocols", 3, &none);
    let no_kind = join(&group, "", 10_000, "", &["range"]);
    ask(lab, "without a protocol type", 3, &no_kind);
    let fresh = join(&group, "", 10_000, "consumer", &["range"]);
    ask(lab, "without an id in version 4", 4, &fresh);
    let empty = lab.name("g-empty");
    let none = join(&empty, "", 10_000, "consumer", &[]);
    ask(lab, "to no group without protocols", 3, &none);
    let unknown = join(&empty, "stranger", 10_000, "consumer", &["range"]);
    ask(lab, "of a stranger to no group", 3, &unknown);
}

fn generations(lab: &mut Lab) {
    let group = lab.name("g-generations");
    let m = lab.member(&group);
    for (by, what) in [(-1, "the past"), (1, "the future"), (-2, "before all")] {
        let generation = m.generation + by;
        let code = lab.heartbeat(&group, generation, &m.id);
        lab.note(&format!("heartbeat from {what}"), code);
        let mut other = m.clone();
        other.generation = generation;
        let code = lab.sync(&group, &other, &[]);
        lab.note(&format!("sync from {what}"), code);
    }
    let code = lab.sync(&group, &m, &[]);
    lab.note("sync again", code);
    // A second member comes: the first is told, and may still commit.
    let mut second = Connection::open(&lab.addr);
    let body = join(&group, "", 10_000, "consumer", &["range"]);
    second.send(11, 3, &body).expect("a request");
    let deadline = Instant::now() + Duration::from_secs(10);
    while lab.heartbeat(&group, m.generation, &m.id) == 0 {
        assert!(Instant::now() < deadline, "no rebalance begins");
    }
    let code = lab.heartbeat(&group, m.generation, &m.id);
    lab.note("heartbeat in a rebalance", code);
    let code = lab.sync(&group, &m, &[]);
    lab.note("sync in a rebalance", code);
    let topic = lab.topic("g-rebalance", 1);
    let code = lab.commit(&group, (m.generation, &m.id), (&topic, 0), "");
    lab.note("commit in a rebalance", code);
    let code = lab.commit(&group, (-1, ""), (&topic, 0), "");
    lab.note("commit of nobody in a rebalance", code);
    let again = join(&group, &m.id, 10_000, "consumer", &["range"]);
    let mut a = lab.call(11, 3, &again);
    let m = joined(&mut a);
    lab.note("join again", m.error);
    second.receive().expect("the second is in");
    let code = lab.commit(&group, (m.generation, &m.id), (&topic, 0), "");
    lab.note("commit before the sync", code);
    let code = lab.heartbeat(&group, m.generation, &m.id);
    lab.note("heartbeat before the sync", code);
}

fn commits(lab: &mut Lab) {
    let group = lab.name("g-commits");
    let topic = lab.topic("g-topic", 1);
    let m = lab.member(&group);
    let who = (m.generation, m.id.as_str());
    let missing = lab.name("g-missing");
    let (long, longest) = ("m".repeat(4097), "m".repeat(4096));
    let at = (topic.as_str(), 0);
    for (what, group, who, at, meta) in [
        ("as it should be", group.as_str(), who, at, ""),
        ("of the past", &group, (who.0 - 1, who.1), at, ""),
        ("of the future", &group, (who.0 + 1, who.1), at, ""),
        ("of a stranger", &group, (who.0, "stranger"), at, ""),
        (
            "of nobody in a group with members",
            &group,
            (-1, ""),
            at,
            "",
        ),
        (
            "with a generation and no member",
            &group,
            (who.0, ""),
            at,
            "",
        ),
        (
            "with a member and no generation",
            &group,
            (-1, who.1),
            at,
            "",
        ),
        ("to no topic", &group, who, (&missing, 0), ""),
        ("to no partition", &group, who, (&topic, 1), ""),
        ("to partition -1", &group, who, (&topic, -1), ""),
        ("to a topic with a bad name", &group, who, ("a b", 0), ""),
        ("with much metadata", &group, who, at, &longest),
        ("with too much metadata", &group, who, at, &long),
        ("of nobody in no group", &missing, (-1, ""), at, ""),
        (
            "with a generation in no group",
            &(missing.clone() + "-2"),
            (3, ""),
            at,
            "",
        ),
        (
            "of a member in no group",
            &(missing.clone() + "-3"),
            (3, "x"),
            at,
            "",
        ),
        ("to group \"\"", "", (-1, ""), at, ""),
    ] {
        let code = lab.commit(group, who, at, meta);
        lab.note(&format!("commit {what}"), code);
    }
    let deleted = lab.topic("g-deleted", 1);
    delete_topic(lab, &deleted);
    let code = lab.commit(&group, who, (&deleted, 0), "");
    lab.note("commit to a deleted topic", code);
}

pub fn delete_topic(lab: &mut Lab, topic: &str) {
    let body = Body::default().i32(1).string(topic).i32(10_000);
    let mut a = lab.call(20, 1, &body);
    assert_eq!((a.i32(), a.i32(), a.string(), a.i16()).3, 0, "a deletion");
    let body = Body::default().i32(1).string(topic).i8(0);
    for _ in 0..200 {
        let mut a = lab.call(3, 4, &body);
        let (_throttle, brokers) = (a.i32(), a.i32());
        for _ in 0..brokers {
            let _broker = (a.i32(), a.string(), a.i32(), a.string());
        }
        let _cluster = (a.string(), a.i32(), a.i32());
        if a.i16() == 3 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{topic} is still there");
}

fn deletions(lab: &mut Lab) {
    let (busy, idle, none) = (lab.name("g-busy"), lab.name("g-idle"), lab.name("g-void"));
    let topic = lab.topic("g-offsets", 1);
    lab.member(&busy);
    lab.find(&idle, 0);
    lab.commit(&idle, (-1, ""), (&topic, 0), "");
    let all = [
        (busy.as_str(), "with members"),
        (idle.as_str(), "without members"),
        (none.as_str(), "that is not"),
        ("", "\"\""),
    ];
    for (group, what) in all {
        let body = Body::default().i32(1).string(group);
        let mut a = lab.call(15, 1, &body);
        let (_throttle, _count, error) = (a.i32(), a.i32(), a.i16());
        let (_name, state) = (a.string(), a.string());
        lab.note(
            &format!("describe a group {what}"),
            format!("{error} {state}"),
        );
        for partition in [0, 7] {
            let body = Body::default().string(group).i32(1).string(&topic);
            let mut a = lab.call(47, 0, &body.i32(1).i32(partition));
            let (error, _throttle, topics) = (a.i16(), a.i32(), a.i32());
            let inner = match topics {
                0 => -1,
                _ => (a.string(), a.i32(), a.i32(), a.i16()).3,
            };
            let question = format!("delete offsets of {partition} of a group {what}");
            lab.note(&question, format!("{error} {inner}"));
        }
        let body = Body::default().string(group).i32(1).string(&topic);
        let mut a = lab.call(9, 5, &body.i32(1).i32(0));
        let (_throttle, _topics, _name, _count) = (a.i32(), a.i32(), a.string(), a.i32());
        let (_index, offset, _epoch) = (a.i32(), a.i64(), a.i32());
        let (_meta, inner, error) = (a.string(), a.i16(), a.i16());
        let question = format!("fetch offsets of a group {what}");
        lab.note(&question, format!("{error} {inner} {offset}"));
        let body = Body::default().i32(1).string(group);
        let mut a = lab.call(42, 1, &body);
        let (_throttle, _count, _name, error) = (a.i32(), a.i32(), a.string(), a.i16());
        lab.note(&format!("delete a group {what}"), error);
    }
}

/// Two members join, one of them never asks for what it is given: when its session is over the
/// other is told to join again.
fn a_member_that_never_syncs(lab: &mut Lab) {
    let group = lab.name("g-never");
    let first = lab.member(&group);
    let mut second = Connection::open(&lab.addr);
    let body = join(&group, "", 6000, "consumer", &["range"]);
    second.send(11, 3, &body).expect("a request");
    while lab.heartbeat(&group, first.generation, &first.id) == 0 {}
    let again = join(&group, &first.id, 10_000, "consumer", &["range"]);
    let first = joined(&mut lab.call(11, 3, &again));
    let (_, mut a) = second.receive().expect("an answer");
    let silent = joined(&mut a);
    lab.note("both are in", format!("{} {}", first.error, silent.error));
    let code = lab.sync(&group, &first, &[&first.id, &silent.id]);
    lab.note("the leader syncs", code);
    let began = Instant::now();
    while lab.heartbeat(&group, first.generation, &first.id) == 0 {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "it waits for ever"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let code = lab.heartbeat(&group, first.generation, &first.id);
    lab.note("the leader after the other's session", code);
    let in_time = began.elapsed() > Duration::from_secs(4);
    lab.note("that takes the length of the session", in_time);
    let code = lab.heartbeat(&group, silent.generation, &silent.id);
    lab.note("the silent one after its session", code);
    let code = lab.sync(&group, &silent, &[]);
    lab.note("the silent one syncs after its session", code);
}

/// ConsumerGroupHeartbeat version 0.
fn beat(lab: &mut Lab, group: &str, member: &str, epoch: i32, rest: &Rest<'_>) -> (i16, i32) {
    let body = Body::default().compact(group).compact(member).i32(epoch);
    let body = body.i8(0).i8(0); // instance, rack
    let body = body.i32(rest.rebalance_ms);
    let body = match rest.topics {
        Some(topics) => topics
            .iter()
            .fold(body.i8(topics.len() as i8 + 1), |b, t| b.compact(t)),
        None => body.i8(0),
    };
    let body = match rest.assignor {
        Some(name) => body.compact(name),
        None => body.i8(0),
    };
    let body = body.i8(if rest.owns_none { 1 } else { 0 }).i8(0);
    let mut out = (0, 0);
    lab.code(|lab| {
        let mut a = lab.c.call_tagged(68, 0, &body).expect("an answer");
        let (_throttle, error) = (a.i32(), a.i16());
        let (_message, _member) = (a.compact(), a.compact());
        out = (error, a.i32());
        error
    });
    out
}

/// Gives back what it is asked to, until its epoch has risen.
fn beat_until_newer(lab: &mut Lab, group: &str, epoch: i32) -> i32 {
    let rest = Rest {
        rebalance_ms: -1,
        topics: None,
        assignor: None,
        owns_none: true,
    };
    for _ in 0..200 {
        let (error, now) = beat(lab, group, "m", epoch, &rest);
        assert_eq!(error, 0, "a beat");
        if now > epoch {
            return now;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the epoch stays at {epoch}");
}

#[derive(Clone, Copy)]
struct Rest<'a> {
    rebalance_ms: i32,
    topics: Option<&'a [&'a str]>,
    assignor: Option<&'a str>,
    owns_none: bool,
}

fn modern(lab: &mut Lab) {
    let (group, topic) = (lab.name("g-modern"), lab.topic("g-modern", 2));
    lab.find(&group, 0);
    let topics = [topic.as_str()];
    let whole = Rest {
        rebalance_ms: 10_000,
        topics: Some(&topics),
        assignor: None,
        owns_none: true,
    };
    let bare = Rest {
        rebalance_ms: -1,
        topics: None,
        assignor: None,
        owns_none: false,
    };
    let code = beat(lab, &group, "x", 1, &bare).0;
    lab.note("beat of a stranger to no group", code);
    for (what, rest) in [
        (
            "without topics",
            Rest {
                topics: None,
                ..whole
            },
        ),
        (
            "with no topics",
            Rest {
                topics: Some(&[]),
                ..whole
            },
        ),
        (
            "without a timeout",
            Rest {
                rebalance_ms: -1,
                ..whole
            },
        ),
        (
            "without what it owns",
            Rest {
                owns_none: false,
                ..whole
            },
        ),
        (
            "with a stranger assignor",
            Rest {
                assignor: Some("mine"),
                ..whole
            },
        ),
        (
            "with assignor \"\"",
            Rest {
                assignor: Some(""),
                ..whole
            },
        ),
    ] {
        let code = beat(lab, &group, "", 0, &rest).0;
        lab.note(&format!("first beat {what}"), code);
    }
    let code = beat(lab, "", "", 0, &whole).0;
    lab.note("first beat to \"\"", code);
    let code = beat(lab, &group, "m", -3, &bare).0;
    lab.note("beat of epoch -3", code);
    let code = beat(lab, &group, "", 1, &bare).0;
    lab.note("beat without a member", code);
    let (error, mut epoch) = beat(lab, &group, "m", 0, &whole);
    lab.note("first beat as it should be", error);
    // Others come and go, so that there is a past.
    for other in ["n", "o"] {
        let (error, _) = beat(lab, &group, other, 0, &whole);
        assert_eq!(error, 0, "another member");
        epoch = beat_until_newer(lab, &group, epoch);
        beat(lab, &group, other, -1, &bare);
        epoch = beat_until_newer(lab, &group, epoch);
    }
    for (what, member, epoch) in [
        ("of a stranger", "x", epoch),
        ("from the past", "m", epoch - 2),
        ("from the future", "m", epoch + 1),
        ("as it should be", "m", epoch),
    ] {
        let code = beat(lab, &group, member, epoch, &bare).0;
        lab.note(&format!("beat {what}"), code);
    }
    for (what, who) in [
        ("of the past", (epoch - 1, "m")),
        ("of the future", (epoch + 1, "m")),
        ("of a stranger", (epoch, "x")),
        ("of nobody", (-1, "")),
    ] {
        let code = lab.commit(&group, who, (&topic, 0), "");
        lab.note(&format!("commit {what} in a modern group"), code);
    }
    let code = lab.heartbeat(&group, epoch, "m");
    lab.note("classic heartbeat to a modern group", code);
    let m = Joined {
        id: "m".into(),
        generation: epoch,
        error: 0,
    };
    let code = lab.sync(&group, &m, &[]);
    lab.note("classic sync to a modern group", code);
    let code = beat(lab, &group, "x", -1, &bare).0;
    lab.note("leaving beat of a stranger", code);
    let code = beat(lab, &group, "m", -1, &bare).0;
    lab.note("leaving beat", code);
    let classic = lab.name("g-generations");
    let code = beat(lab, &classic, "x", 5, &bare).0;
    lab.note("beat of a stranger to a classic group", code);
}
