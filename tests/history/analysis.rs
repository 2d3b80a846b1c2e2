//! Finds what must not be in a history, in the manner of Jepsen's Kafka workload.
//!
//! Every value is written by one operation only, so each observation names who wrote it. What is
//! moved from one topic to another is written as `VALUE~ATTEMPT`. A final reading, where there is
//! one, is what the log holds; without one the highest that anybody read stands for its end.

mod order;
#[cfg(test)]
mod tests;
mod txns;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::record::{Fate, History, Op};

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// A value that nobody wrote was read.
    Unwritten,
    /// Two values at one offset.
    InconsistentOffset,
    /// One value at two offsets.
    Duplicate,
    /// A read saw what was aborted, or failed.
    AbortedRead,
    /// A read saw what nobody had asked to commit yet.
    DirtyRead,
    /// Acknowledged, passed by readers, and not there.
    Lost,
    /// Acknowledged, and nobody got that far.
    Unseen,
    /// Seen once, and gone at the end.
    Vanished,
    /// One poll passed over a record.
    SkipInside,
    /// A poll passed over records behind the poll before it.
    Skip,
    /// One poll gave records in another order than their offsets.
    BackInside,
    /// A poll went back behind the poll before it.
    Back,
    /// Records of one operation have offsets in another order than they were sent in.
    SendBackInside,
    /// A later send of a process has a smaller offset.
    SendBack,
    /// A send that began after another had ended has a smaller offset.
    SendBackInTime,
    /// A part of a transaction is there.
    Torn,
    /// A record was moved more than once.
    MovedTwice,
    /// A record was not moved.
    Unmoved,
    /// No member of a group read a record.
    GroupSkip,
    /// What a transaction has committed for a group is not committed.
    CommitLost,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub what: Anomaly,
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.what, self.text)
    }
}

/// What a history says of values and offsets, looked up by each check.
struct World<'a> {
    history: &'a History,
    /// Who wrote a value, and where to.
    written: BTreeMap<&'a str, (&'a Op, &'a str)>,
    /// Values that somebody said are at an offset of a place.
    at: BTreeMap<&'a str, BTreeMap<u64, BTreeSet<&'a str>>>,
    /// Offsets where a reader should find something: read by somebody, or acknowledged.
    visible: BTreeMap<&'a str, BTreeSet<u64>>,
    /// What was read at all.
    read: BTreeSet<&'a str>,
    /// What the final reading, or in its absence any, has seen.
    seen: BTreeSet<&'a str>,
    /// The highest offset plus one that it has reached.
    reached: BTreeMap<&'a str, u64>,
    found: BTreeSet<Finding>,
}

impl<'a> World<'a> {
    fn new(history: &'a History) -> Self {
        let mut world = Self {
            history,
            written: BTreeMap::new(),
            at: BTreeMap::new(),
            visible: BTreeMap::new(),
            read: BTreeSet::new(),
            seen: BTreeSet::new(),
            reached: BTreeMap::new(),
            found: BTreeSet::new(),
        };
        for op in &history.ops {
            world.note(op);
        }
        for (place, &end) in &history.ends {
            world.reached.insert(place, end);
        }
        world
    }

    fn note(&mut self, op: &'a Op) {
        for sent in &op.sent {
            let earlier = self.written.insert(&sent.value, (op, &sent.place));
            assert!(earlier.is_none(), "{} is written twice", sent.value);
            let Some(offset) = sent.offset else { continue };
            let at = self.at.entry(&sent.place).or_default();
            at.entry(offset).or_default().insert(&sent.value);
            if op.fate == Fate::Ok {
                self.visible.entry(&sent.place).or_default().insert(offset);
            }
        }
        let is_final = self.history.finals.contains(&op.process);
        for read in &op.read {
            let at = self.at.entry(&read.place).or_default();
            at.entry(read.offset).or_default().insert(&read.value);
            let visible = self.visible.entry(&read.place).or_default();
            visible.insert(read.offset);
            self.read.insert(&read.value);
            if is_final || !self.history.ends.contains_key(&read.place) {
                self.seen.insert(&read.value);
                let reached = self.reached.entry(&read.place).or_default();
                *reached = (*reached).max(read.offset + 1);
            }
        }
    }

    fn find(&mut self, what: Anomaly, text: String) {
        self.found.insert(Finding { what, text });
    }

    fn fate(&self, value: &str) -> Option<Fate> {
        self.written.get(value).map(|(op, _)| op.fate)
    }
}

/// All that is wrong with a history.
pub fn analyse(history: &History) -> Vec<Finding> {
    let mut world = World::new(history);
    values::check(&mut world);
    order::check(&mut world);
    txns::check(&mut world);
    world.found.into_iter().collect()
}
