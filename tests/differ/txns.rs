//! Transactions: epochs of the past and the future, what was not begun, topics that vanish.

use streamd_tests::batch::Batch;
use streamd_tests::wire::{Body, produced};

use crate::groups::delete_topic;
use crate::lab::{Lab, Who};

pub fn ask(lab: &mut Lab) {
    lab.find(&lab.name("x"), 1);
    inits(lab);
    strangers(lab);
    ends(lab);
    offsets(lab);
    batches(lab);
    vanishing(lab);
}

fn inits(lab: &mut Lab) {
    let id = lab.name("x-init");
    for (what, id, timeout) in [
        ("of \"\"", "", 10_000),
        ("with no timeout", &id, 0),
        ("with a timeout of -1", &id, -1),
        ("with a timeout of an hour", &id, 3_600_000),
        ("as it should be", &id, 10_000),
    ] {
        let error = lab.init_producer(id, timeout).0;
        lab.note(&format!("init {what}"), error);
    }
    let (_, first) = lab.init_producer(&id, 10_000);
    let (_, second) = lab.init_producer(&id, 10_000);
    lab.note("init again keeps the id", first.0 == second.0);
    lab.note("init again raises the epoch by", second.1 - first.1);
}

/// AddPartitionsToTxn: the codes of its partitions.
fn add(lab: &mut Lab, id: &str, who: Who, topics: &[&str], version: i16) -> String {
    let body = Body::default().string(id).i64(who.0).i16(who.1);
    let body = topics.iter().fold(body.i32(topics.len() as i32), |b, t| {
        b.string(t).i32(1).i32(0)
    });
    let mut codes = Vec::new();
    lab.code(|lab| {
        let mut a = lab.call(24, version, &body);
        let (_throttle, count) = (a.i32(), a.i32());
        let one = |_| (a.string(), a.i32(), a.i32(), a.i16()).3;
        codes = (0..count).map(one).collect::<Vec<i16>>();
        // 51: the end of the transaction before is under way.
        match codes.first() {
            Some(51) => 14,
            first => first.copied().unwrap_or(-1),
        }
    });
    codes.sort_unstable();
    format!("{codes:?}")
}

fn add_offsets(lab: &mut Lab, id: &str, who: Who, group: &str) -> i16 {
    let body = Body::default()
        .string(id)
        .i64(who.0)
        .i16(who.1)
        .string(group);
    lab.code(|lab| {
        let mut a = lab.call(25, 1, &body);
        match (a.i32(), a.i16()).1 {
            51 => 14,
            code => code,
        }
    })
}

fn end(lab: &mut Lab, id: &str, who: Who, commit: bool, version: i16) -> i16 {
    let body = Body::default().string(id).i64(who.0).i16(who.1);
    let body = body.i8(i8::from(commit));
    lab.code(|lab| {
        let mut a = lab.call(26, version, &body);
        match (a.i32(), a.i16()).1 {
            51 => 14,
            code => code,
        }
    })
}

/// TxnOffsetCommit version 2 of partition 0.
fn commit(lab: &mut Lab, id: &str, group: &str, who: Who, topic: &str) -> i16 {
    let body = Body::default()
        .string(id)
        .string(group)
        .i64(who.0)
        .i16(who.1);
    let body = body
        .i32(1)
        .string(topic)
        .i32(1)
        .i32(0)
        .i64(7)
        .i32(-1)
        .string("");
    lab.code(|lab| {
        let mut a = lab.call(28, 2, &body);
        let (_throttle, _topics, _name) = (a.i32(), a.i32(), a.string());
        (a.i32(), a.i32(), a.i16()).2
    })
}

fn strangers(lab: &mut Lab) {
    let (id, topic, group) = (
        lab.name("x-known"),
        lab.topic("x-known", 1),
        lab.name("x-g"),
    );
    lab.init_producer(&id, 10_000);
    let (_, who) = lab.init_producer(&id, 10_000);
    lab.find(&group, 0);
    let unknown = lab.name("x-unknown");
    for (what, id, who) in [
        ("of an unknown id", unknown.as_str(), who),
        ("of another producer", &id, (who.0 + 4711, who.1)),
        ("of epoch - 1", &id, (who.0, who.1 - 1)),
        ("of epoch + 1", &id, (who.0, who.1 + 1)),
        ("of \"\"", "", who),
    ] {
        for version in [1, 2] {
            let codes = add(lab, id, who, &[&topic], version);
            lab.note(&format!("add {what} in version {version}"), codes);
            let code = end(lab, id, who, true, version);
            lab.note(&format!("end {what} in version {version}"), code);
        }
        let code = add_offsets(lab, id, who, &group);
        lab.note(&format!("add offsets {what}"), code);
        let code = commit(lab, id, &group, who, &topic);
        lab.note(&format!("commit offsets {what}"), code);
    }
    let missing = lab.name("x-missing");
    let codes = add(lab, &id, who, &[&topic, &missing], 1);
    lab.note("add a topic and one that is not there", codes);
    let codes = add(lab, &id, who, &[&topic], 1);
    lab.note("add it", codes);
    let codes = add(lab, &id, who, &[&topic], 1);
    lab.note("add it again", codes);
    let code = add_offsets(lab, &id, who, "");
    lab.note("add offsets of group \"\"", code);
    end(lab, &id, who, false, 1);
}

fn ends(lab: &mut Lab) {
    let (id, topic) = (lab.name("x-ends"), lab.topic("x-ends", 1));
    let (_, who) = lab.init_producer(&id, 10_000);
    let code = end(lab, &id, who, true, 1);
    lab.note("commit nothing", code);
    let code = end(lab, &id, who, false, 1);
    lab.note("abort nothing", code);
    for (what, commits) in [("commit", true), ("abort", false)] {
        add(lab, &id, who, &[&topic], 1);
        let code = end(lab, &id, who, commits, 1);
        lab.note(what, code);
        let code = end(lab, &id, who, commits, 1);
        lab.note(&format!("{what} again"), code);
        let code = end(lab, &id, who, !commits, 1);
        lab.note(&format!("the other end after {what}"), code);
    }
    add(lab, &id, who, &[&topic], 1);
    let (_, next) = lab.init_producer(&id, 10_000);
    lab.note("a new life raises the epoch by", next.1 - who.1);
    for version in [1, 2] {
        let code = end(lab, &id, who, true, version);
        lab.note(&format!("a zombie commits in version {version}"), code);
        let codes = add(lab, &id, who, &[&topic], version);
        lab.note(&format!("a zombie adds in version {version}"), codes);
    }
}

fn offsets(lab: &mut Lab) {
    let (id, topic) = (lab.name("x-offsets"), lab.topic("x-offsets", 1));
    let (group, busy) = (lab.name("x-offsets"), lab.name("x-busy"));
    let missing = lab.name("x-missing");
    lab.init_producer(&id, 10_000);
    let (_, who) = lab.init_producer(&id, 10_000);
    lab.find(&group, 0);
    lab.member(&busy);
    let code = commit(lab, &id, &group, who, &topic);
    lab.note("commit offsets of a group that was not added", code);
    let code = add_offsets(lab, &id, who, &group);
    lab.note("add the group", code);
    for (what, group, who, topic) in [
        ("as it should be", group.as_str(), who, topic.as_str()),
        ("to no topic", &group, who, &missing),
        ("of an old epoch", &group, (who.0, who.1 - 1), &topic),
        ("of a new epoch", &group, (who.0, who.1 + 1), &topic),
        ("of nobody to a group with members", &busy, who, &topic),
        ("to group \"\"", "", who, &topic),
    ] {
        let code = commit(lab, &id, group, who, topic);
        lab.note(&format!("commit offsets {what}"), code);
    }
    let code = end(lab, &id, who, true, 1);
    lab.note("commit with offsets", code);
    let code = commit(lab, &id, &group, who, &topic);
    lab.note("commit offsets after the end", code);
}

/// Produce version 7 in a transaction.
fn produce(lab: &mut Lab, id: &str, who: (i64, i16, i32), topic: &str) -> i16 {
    let mut batch = Batch {
        producer: Some(who),
        ..Batch::of(&["x"])
    };
    batch.codec |= 16; // transactional
    let body = Body::default().string(id).i16(-1).i32(15_000);
    let body = body
        .i32(1)
        .string(topic)
        .i32(1)
        .i32(0)
        .bytes(&batch.encode());
    lab.code(|lab| produced(&mut lab.call(0, 7, &body)).error)
}

fn batches(lab: &mut Lab) {
    let (id, topic) = (lab.name("x-batches"), lab.topic("x-batches", 1));
    lab.init_producer(&id, 10_000);
    let (_, (pid, epoch)) = lab.init_producer(&id, 10_000);
    let code = produce(lab, &id, (pid, epoch, 0), &topic);
    lab.note("produce to what was not added", code);
    let codes = add(lab, &id, (pid, epoch), &[&topic], 1);
    lab.note("add a partition to write there", codes);
    for (what, who) in [
        ("as it should be", (pid, epoch, 0)),
        ("again", (pid, epoch, 0)),
        ("with a gap", (pid, epoch, 7)),
        ("of epoch - 1", (pid, epoch - 1, 1)),
        ("of epoch + 1", (pid, epoch + 1, 0)),
        ("of another producer", (pid + 4711, epoch, 0)),
    ] {
        let code = produce(lab, &id, who, &topic);
        lab.note(&format!("produce in a transaction {what}"), code);
    }
    let plain = Batch {
        producer: Some((pid, epoch, 1)),
        ..Batch::of(&["x"])
    };
    let done = lab
        .c
        .produce(&topic, 0, &plain.encode())
        .expect("an answer");
    lab.note("produce plainly beside a transaction", done.error);
    let code = end(lab, &id, (pid, epoch), true, 1);
    lab.note("commit what was produced", code);
    let code = produce(lab, &id, (pid, epoch, 1), &topic);
    lab.note("produce after the commit", code);
}

fn vanishing(lab: &mut Lab) {
    let (id, topic) = (lab.name("x-vanish"), lab.topic("x-vanish", 1));
    let (_, (pid, epoch)) = lab.init_producer(&id, 10_000);
    add(lab, &id, (pid, epoch), &[&topic], 1);
    produce(lab, &id, (pid, epoch, 0), &topic);
    delete_topic(lab, &topic);
    let code = produce(lab, &id, (pid, epoch, 1), &topic);
    lab.note("produce to a topic that has vanished", code);
    let code = end(lab, &id, (pid, epoch), true, 1);
    lab.note("commit when a topic has vanished", code);
    let codes = add(lab, &id, (pid, epoch), &[&topic], 1);
    lab.note("add a topic that has vanished", codes);
}
