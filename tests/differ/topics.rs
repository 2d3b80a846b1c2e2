//! Topics, produce, fetch and offsets: what is not there, out of range, or out of order.

use streamd_tests::batch::{Batch, field, fix, put};
use streamd_tests::wire::{Body, produced};

use crate::lab::Lab;

pub fn ask(lab: &mut Lab) {
    let topic = lab.topic("t-there", 1);
    let done = lab
        .c
        .produce(&topic, 0, &Batch::of(&["a", "b", "c"]).encode());
    assert_eq!(done.expect("an answer").error, 0, "Produce");
    creations(lab, &topic);
    produces(lab, &topic);
    sequences(lab, &topic);
    fetches(lab, &topic);
    offsets(lab, &topic);
}

fn creations(lab: &mut Lab, there: &str) {
    let fresh = lab.name("t-fresh");
    let long = "n".repeat(250);
    for (what, name, partitions, replicas, config) in [
        ("that is there", there, 1, 1, None),
        ("\"\"", "", 1, 1, None),
        ("\"..\"", "..", 1, 1, None),
        ("with a bad name", "a b", 1, 1, None),
        ("with a long name", &long, 1, 1, None),
        ("without partitions", &fresh, 0, 1, None),
        ("with -3 partitions", &fresh, -3, 1, None),
        ("with 2 replicas", &fresh, 1, 2, None),
        ("with 0 replicas", &fresh, 1, 0, None),
        (
            "with an unknown setting",
            &fresh,
            1,
            1,
            Some(("no.such", "1")),
        ),
        (
            "with a bad setting",
            &fresh,
            1,
            1,
            Some(("retention.ms", "soon")),
        ),
    ] {
        let body = Body::default().i32(1).string(name).i32(partitions);
        let body = body.i16(replicas).i32(0);
        let body = match config {
            Some((key, value)) => body.i32(1).string(key).string(value),
            None => body.i32(0),
        };
        let mut a = lab.call(19, 2, &body.i32(10_000).i8(0));
        let (_throttle, _count, _name, error) = (a.i32(), a.i32(), a.string(), a.i16());
        lab.note(&format!("create a topic {what}"), error);
    }
    let missing = lab.name("t-missing");
    let body = Body::default().i32(1).string(&missing).i32(10_000);
    let mut a = lab.call(20, 1, &body);
    let error = (a.i32(), a.i32(), a.string(), a.i16()).3;
    lab.note("delete a topic that is not there", error);
    for (what, name, count) in [
        ("fewer", there, 0),
        ("as many", there, 1),
        ("-1", there, -1),
        ("of a topic that is not there", &missing, 3),
    ] {
        let body = Body::default().i32(1).string(name).i32(count).i32(-1);
        let mut a = lab.call(37, 1, &body.i32(10_000).i8(0));
        let error = (a.i32(), a.i32(), a.string(), a.i16()).3;
        lab.note(&format!("create partitions {what}"), error);
    }
    for (what, name, partition, before) in [
        ("past the end", there, 0, 99),
        ("before -5", there, 0, -5),
        ("of no partition", there, 9, 0),
        ("of no topic", &missing, 0, 0),
    ] {
        let body = Body::default().i32(1).string(name).i32(1);
        let mut a = lab.call(21, 1, &body.i32(partition).i64(before).i32(10_000));
        let (_throttle, _topics, _name) = (a.i32(), a.i32(), a.string());
        let error = (a.i32(), a.i32(), a.i64(), a.i16()).3;
        lab.note(&format!("delete records {what}"), error);
    }
}

/// Produce version 7 with these acks and transactional id.
fn produce(lab: &mut Lab, at: (&str, i32), acks: i16, batch: &[u8]) -> i16 {
    let body = Body::default().i16(-1).i16(acks).i32(15_000);
    let body = body.i32(1).string(at.0).i32(1).i32(at.1).bytes(batch);
    let mut a = lab.call(0, 7, &body);
    produced(&mut a).error
}

fn produces(lab: &mut Lab, there: &str) {
    let good = Batch::of(&["x"]).encode();
    let missing = lab.name("t-missing");
    for (what, topic, partition, acks) in [
        ("to no topic", missing.as_str(), 0, -1),
        ("to no partition", there, 5, -1),
        ("to partition -1", there, -1, -1),
        ("to a bad name", "a b", 0, -1),
        ("with acks 2", there, 0, 2),
        ("with acks -2", there, 0, -2),
    ] {
        let error = produce(lab, (topic, partition), acks, &good);
        lab.note(&format!("produce {what}"), error);
    }
    let mut wrong = good.clone();
    wrong[field::RECORDS] ^= 1;
    let error = produce(lab, (there, 0), -1, &wrong);
    lab.note("produce with a wrong CRC", error);
    for (what, at, bytes) in [
        (
            "with a wrong count",
            field::COUNT,
            7i32.to_be_bytes().to_vec(),
        ),
        (
            "with a wrong last delta",
            field::LAST_DELTA,
            7i32.to_be_bytes().to_vec(),
        ),
        (
            "with codec 7",
            field::ATTRIBUTES,
            7i16.to_be_bytes().to_vec(),
        ),
        (
            "of a marker",
            field::ATTRIBUTES,
            32i16.to_be_bytes().to_vec(),
        ),
        ("with magic 3", field::MAGIC, vec![3]),
    ] {
        let mut wrong = good.clone();
        put(&mut wrong, at, &bytes);
        fix(&mut wrong);
        let error = produce(lab, (there, 0), -1, &wrong);
        lab.note(&format!("produce {what}"), error);
    }
    let large = Batch::of(&["x".repeat(1_100_000)]).encode();
    let error = produce(lab, (there, 0), -1, &large);
    lab.note("produce with more than max.message.bytes", error);
}

/// Idempotent producers by hand.
fn sequences(lab: &mut Lab, there: &str) {
    let (id, epoch) = lab.c.init_producer().expect("a producer");
    let batch = |id, epoch, sequence, count: usize| {
        let batch = Batch {
            producer: Some((id, epoch, sequence)),
            ..Batch::of(&vec!["x"; count])
        };
        batch.encode()
    };
    for (what, bytes) in [
        ("that begins with 5", batch(id, epoch, 5, 1)),
        ("that begins with 0", batch(id, epoch, 0, 2)),
        ("again", batch(id, epoch, 0, 2)),
        ("with a gap", batch(id, epoch, 3, 1)),
        ("that goes on", batch(id, epoch, 2, 1)),
        ("again in another cut", batch(id, epoch, 1, 1)),
        ("with sequence -2", batch(id, epoch, -2, 1)),
        ("of epoch + 1 that goes on", batch(id, epoch + 1, 3, 1)),
        ("of epoch + 1 that begins", batch(id, epoch + 1, 0, 1)),
        ("of the epoch before", batch(id, epoch, 3, 1)),
        ("of a stranger", batch(id + 77_777, 3, 0, 1)),
        ("of a stranger in between", batch(id + 77_778, 3, 9, 1)),
    ] {
        let error = produce(lab, (there, 0), -1, &bytes);
        lab.note(&format!("sequence {what}"), error);
    }
}

fn fetches(lab: &mut Lab, there: &str) {
    let missing = lab.name("t-missing");
    for (what, topic, partition, epoch, offset, session) in [
        ("of no topic", missing.as_str(), 0, -1, 0, (0, -1)),
        ("of no partition", there, 9, -1, 0, (0, -1)),
        ("past the end", there, 0, -1, 999, (0, -1)),
        ("at -2", there, 0, -1, -2, (0, -1)),
        ("with an epoch of the future", there, 0, 99, 0, (0, -1)),
        ("in an unknown session", there, 0, -1, 0, (4711, 3)),
        ("in session 0 with epoch 5", there, 0, -1, 0, (0, 5)),
    ] {
        let body = Body::default().i32(-1).i32(0).i32(0).i32(1 << 20).i8(0);
        let body = body.i32(session.0).i32(session.1).i32(1).string(topic);
        let body = body.i32(1).i32(partition).i32(epoch).i64(offset).i64(-1);
        let mut a = lab.call(1, 10, &body.i32(1 << 20).i32(0));
        let (_throttle, error, _session) = (a.i32(), a.i16(), a.i32());
        let inner = match a.i32() {
            0 => -1,
            _ => (a.string(), a.i32(), a.i32(), a.i16()).3,
        };
        lab.note(&format!("fetch {what}"), format!("{error} {inner}"));
    }
}

fn offsets(lab: &mut Lab, there: &str) {
    let missing = lab.name("t-missing");
    for (what, topic, partition, epoch, time) in [
        ("of no topic", missing.as_str(), 0, -1, -1),
        ("of no partition", there, 9, -1, -1),
        ("with an epoch of the future", there, 0, 99, -1),
        ("by time -9", there, 0, -1, -9),
        ("by a time to come", there, 0, -1, i64::MAX),
    ] {
        let body = Body::default().i32(-1).i8(0).i32(1).string(topic);
        let mut a = lab.call(2, 4, &body.i32(1).i32(partition).i32(epoch).i64(time));
        let (_throttle, _topics, _name) = (a.i32(), a.i32(), a.string());
        let (_count, _index, error, _time) = (a.i32(), a.i32(), a.i16(), a.i64());
        let offset = a.i64();
        lab.note(&format!("offset {what}"), format!("{error} {offset}"));
    }
}
