//! Orders: polls go forward and pass over nothing, sends have offsets in the order of their time.

use std::collections::BTreeMap;

use super::{Anomaly, World};
use crate::record::{Fate, Op, Sent, Step};

pub fn check(world: &mut World<'_>) {
    polls(world);
    sends(world);
    sends_in_time(world);
}

fn polls(world: &mut World<'_>) {
    let history = world.history;
    for steps in history.steps.values() {
        let mut last = BTreeMap::<&str, (u64, &Op)>::new();
        for step in steps {
            match step {
                Step::Done(index) => poll(world, &history.ops[*index], &mut last),
                Step::Owns(places) => last.retain(|place, _| places.contains(*place)),
                Step::Rewind => last.clear(),
            }
        }
    }
}

fn poll<'a>(world: &mut World<'a>, op: &'a Op, last: &mut BTreeMap<&'a str, (u64, &'a Op)>) {
    for read in &op.read {
        let before = last.insert(&read.place, (read.offset, op));
        let Some((before, by)) = before else { continue };
        let inside = by.number == op.number;
        let who = format!("{} {} in {}", op.process, op.number, read.place);
        let from = format!("from {before} (of {}) to {}", by.number, read.offset);
        if read.offset <= before {
            let what = match inside {
                true => Anomaly::BackInside,
                false => Anomaly::Back,
            };
            world.find(what, format!("{who} went {from}"));
            continue;
        }
        let visible = world.visible.get(read.place.as_str());
        let passed: Vec<u64> = visible
            .into_iter()
            .flat_map(|v| v.range(before + 1..read.offset))
            .copied()
            .take(10)
            .collect();
        if !passed.is_empty() {
            let what = match inside {
                true => Anomaly::SkipInside,
                false => Anomaly::Skip,
            };
            world.find(what, format!("{who} went {from} over {passed:?}"));
        }
    }
}

/// Sends that succeeded with their offsets, by place.
fn acknowledged<'a>(world: &World<'a>) -> BTreeMap<&'a str, Vec<(&'a Op, &'a Sent, u64)>> {
    let mut out = BTreeMap::<&str, Vec<_>>::new();
    let history = world.history;
    for op in history.ops.iter().filter(|op| op.fate == Fate::Ok) {
        for sent in &op.sent {
            if let Some(offset) = sent.offset {
                out.entry(&sent.place).or_default().push((op, sent, offset));
            }
        }
    }
    out
}

fn sends(world: &mut World<'_>) {
    for (place, mut sends) in acknowledged(world) {
        // Stable, so that those of one operation keep their order.
        sends.sort_by_key(|(op, ..)| (&op.process, op.number));
        for pair in sends.windows(2) {
            let [(first, one, low), (second, two, high)] = pair else {
                continue;
            };
            if first.process != second.process || low < high {
                continue;
            }
            let what = match first.number == second.number {
                true => Anomaly::SendBackInside,
                false => Anomaly::SendBack,
            };
            let (one, two) = (&one.value, &two.value);
            let text = format!("{one} is in {place} at {low}, {two} after it at {high}");
            world.find(what, text);
        }
    }
}

fn sends_in_time(world: &mut World<'_>) {
    for (place, sends) in acknowledged(world) {
        let mut begun = sends.clone();
        begun.sort_by_key(|(op, ..)| op.began);
        let mut ended = sends;
        ended.sort_by_key(|(op, ..)| op.ended);
        let mut ended = ended.into_iter().peekable();
        let mut highest: Option<(u64, &str)> = None;
        for (op, sent, offset) in begun {
            while let Some((_, done, at)) = ended.next_if(|(o, ..)| o.ended < Some(op.began)) {
                highest = highest.max(Some((at, &done.value)));
            }
            if let Some((at, value)) = highest
                && at >= offset
            {
                let later = format!("{} began then and is at {offset}", sent.value);
                let text = format!("{value} was in {place} at {at}, {later}");
                world.find(Anomaly::SendBackInTime, text);
            }
        }
    }
}
