//! Transactions are there whole, what is moved is moved once, and groups read everything.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, World};
use crate::record::{Fate, topic};

pub fn check(world: &mut World<'_>) {
    torn(world);
    moves(world);
    groups(world);
    commits(world);
}

/// Transactions that have read for a group have committed its offsets behind that; these only rise.
fn commits(world: &mut World<'_>) {
    let history = world.history;
    for look in &history.looks {
        let Some(group) = history.members.get(&look.process) else {
            continue;
        };
        let before = history.ops.iter().filter(|op| {
            op.kind == "txn"
                && op.fate == Fate::Ok
                && op.ended.is_some_and(|ended| ended < look.began)
                && history.members.get(&op.process) == Some(group)
        });
        let ends = before.flat_map(|op| {
            let here = op.read.iter().filter(|r| r.place == look.place);
            here.map(move |r| (r.offset + 1, op))
        });
        let Some((end, op)) = ends.max_by_key(|(end, _)| *end) else {
            continue;
        };
        if look.offset < end {
            let (who, number) = (&op.process, op.number);
            let text = format!(
                "{} of {} has {} committed, and {who} {number} had committed {end}",
                group.0, look.place, look.offset
            );
            world.find(Anomaly::CommitLost, text);
        }
    }
}

/// What is seen of a transaction at the end is all or nothing. While one is being committed its
/// partitions show it one after the other, in Kafka as well.
fn torn(world: &mut World<'_>) {
    let history = world.history;
    for op in &history.ops {
        let is_final = |place: &String| history.ends.contains_key(place);
        if op.kind != "txn" || !op.sent.iter().all(|s| is_final(&s.place)) {
            continue;
        }
        let seen = |s: &&crate::record::Sent| world.seen.contains(s.value.as_str());
        let (there, missing): (Vec<_>, Vec<_>) = op.sent.iter().partition(seen);
        if !there.is_empty() && !missing.is_empty() {
            let name = |s: &crate::record::Sent| format!("{} in {}", s.value, s.place);
            let there: Vec<_> = there.into_iter().map(name).collect();
            let missing: Vec<_> = missing.into_iter().map(name).collect();
            let who = format!("{} {} ({:?})", op.process, op.number, op.fate);
            let text = format!("of {who} {there:?} is there, {missing:?} is not");
            world.find(Anomaly::Torn, text);
        }
    }
}

/// What the final reading has of a topic.
fn there<'a>(world: &World<'a>, name: &str) -> BTreeSet<&'a str> {
    let in_topic = |v: &&&str| {
        let place = world.written.get(**v).map(|(_, place)| *place);
        place.is_some_and(|p| topic(p) == name && world.history.ends.contains_key(p))
    };
    world.seen.iter().filter(in_topic).copied().collect()
}

fn moves(world: &mut World<'_>) {
    for (from, to) in &world.history.moves {
        let mut copies = BTreeMap::<&str, Vec<&str>>::new();
        for value in there(world, to) {
            let origin = value.split_once('~').map_or(value, |(origin, _)| origin);
            copies.entry(origin).or_default().push(value);
        }
        for value in there(world, from) {
            if !copies.contains_key(value) {
                let text = format!("{value} of {from} is not in {to}");
                world.find(Anomaly::Unmoved, text);
            }
        }
        for (value, copies) in copies {
            if copies.len() > 1 {
                let by: Vec<_> = copies.iter().map(|c| (c, world.fate(c))).collect();
                let text = format!("{value} of {from} is in {to} as {by:?}");
                world.find(Anomaly::MovedTwice, text);
            }
        }
    }
}

/// Members commit only what they have read, so together they have read all.
fn groups(world: &mut World<'_>) {
    let history = world.history;
    let mut read = BTreeMap::<&(String, String), BTreeSet<&str>>::new();
    for (process, group) in &history.members {
        let read = read.entry(group).or_default();
        let steps = history.ops.iter().filter(|op| op.process == *process);
        // A transaction that failed has given its records back.
        let steps = steps.filter(|op| op.kind == "poll" || op.fate != Fate::Fail);
        read.extend(steps.flat_map(|op| op.read.iter().map(|r| r.value.as_str())));
    }
    for ((group, topic), read) in read {
        for value in there(world, topic) {
            if !read.contains(value) {
                let text = format!("{value} of {topic} was read by none of {group}");
                world.find(Anomaly::GroupSkip, text);
            }
        }
    }
}
