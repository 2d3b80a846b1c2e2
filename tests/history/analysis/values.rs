//! What values are where: nothing invented, doubled, lost, or read that was not to be.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, World};
use crate::record::Fate;

pub fn check(world: &mut World<'_>) {
    offsets(world);
    reads(world);
    losses(world);
}

fn offsets(world: &mut World<'_>) {
    let mut places = BTreeMap::<&str, BTreeSet<(&str, u64)>>::new();
    let mut found = Vec::new();
    for (place, offsets) in &world.at {
        for (offset, values) in offsets {
            if values.len() > 1 {
                let text = format!("{place} at {offset} has {values:?}");
                found.push((Anomaly::InconsistentOffset, text));
            }
            for value in values {
                places.entry(value).or_default().insert((place, *offset));
            }
        }
    }
    for (value, places) in places {
        if places.len() > 1 {
            found.push((Anomaly::Duplicate, format!("{value} is at {places:?}")));
        }
    }
    for (what, text) in found {
        world.find(what, text);
    }
}

fn reads(world: &mut World<'_>) {
    let history = world.history;
    for op in &history.ops {
        for read in &op.read {
            let who = format!("{} {} read {}", op.process, op.number, read.value);
            let place = format!("in {} at {}", read.place, read.offset);
            let Some(&(by, to)) = world.written.get(read.value.as_str()) else {
                world.find(Anomaly::Unwritten, format!("{who} {place}"));
                continue;
            };
            if to != read.place {
                let text = format!("{who} {place}, and it was written to {to}");
                world.find(Anomaly::Unwritten, text);
            }
            if by.fate == Fate::Fail {
                let text = format!("{who} {place}, of failed {} {}", by.process, by.number);
                world.find(Anomaly::AbortedRead, text);
            }
            let too_early = match (op.ended, by.commit_began) {
                (Some(ended), Some(commit)) => ended < commit,
                _ => false,
            };
            let own = by.process == op.process && by.number == op.number;
            if by.kind == "txn" && (too_early || own) {
                let text = format!("{who} {place} before {} {}", by.process, by.number);
                world.find(Anomaly::DirtyRead, format!("{text} asked to commit"));
            }
        }
    }
}

fn losses(world: &mut World<'_>) {
    let history = world.history;
    for op in history.ops.iter().filter(|op| op.fate == Fate::Ok) {
        for sent in &op.sent {
            if world.seen.contains(sent.value.as_str()) {
                continue;
            }
            let reached = world.reached.get(sent.place.as_str()).copied();
            let passed = sent.offset.is_none_or(|o| o < reached.unwrap_or(0));
            let what = match passed {
                true => Anomaly::Lost,
                false => Anomaly::Unseen,
            };
            let place = format!("{} at {:?}", sent.place, sent.offset);
            let who = format!("{} {}", op.process, op.number);
            world.find(
                what,
                format!("{} of {who}, {place}, read to {reached:?}", sent.value),
            );
        }
    }
    for op in &history.ops {
        for read in &op.read {
            if !world.seen.contains(read.value.as_str()) {
                let who = format!("{} {}", op.process, op.number);
                let text = format!("{who} read {} in {}", read.value, read.place);
                world.find(Anomaly::Vanished, text);
            }
        }
    }
}
