//! The offsets of a share-partition that are in some state, as runs of equal ones. What is in no
//! run was never delivered, as far as anybody knows.
//!
//! Invariants: runs do not overlap; neighbours that are alike are one run.

use std::collections::BTreeMap;
use std::sync::Arc;

use streamd_model::{Mono, Offset};

use super::record::Delivery;

/// What a run of offsets is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be delivered, but not before this.
    Available { due: Mono },
    /// Locked for a member.
    Acquired { member: Arc<str>, until: Mono },
    /// Given up, on the way to the dead-letter topic.
    Dying,
    /// Nothing is to be done about it any more.
    Done(Delivery),
}

/// Offsets up to `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub last: Offset,
    pub phase: Phase,
    /// How often it was delivered.
    pub count: i16,
}

/// A part of a range: its offsets, and what they are in.
pub(super) type Piece = (Offset, Offset, Option<(Phase, i16)>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Flight(BTreeMap<Offset, Run>);

impl Flight {
    /// All runs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Offset, &Run)> {
        self.0.iter().map(|(first, run)| (*first, run))
    }

    fn split(&mut self, at: Offset) {
        if let Some((_, run)) = self.0.range_mut(..at).next_back()
            && run.last >= at
        {
            let tail = run.clone();
            run.last = at - 1;
            self.0.insert(at, tail);
        }
    }

    /// Puts offsets into a state.
    pub fn set(&mut self, (first, last): (Offset, Offset), phase: Phase, count: i16) {
        assert!(first <= last, "offsets {first} to {last}");
        self.split(first);
        self.split(last.saturating_add(1));
        let old: Vec<_> = self.0.range(first..=last).map(|e| *e.0).collect();
        for at in old {
            self.0.remove(&at);
        }
        let run = Run { last, phase, count };
        self.0.insert(first, run);
        self.join(first);
    }

    fn join(&mut self, at: Offset) {
        let Some(run) = self.0.get(&at) else { return };
        let after = run.last.saturating_add(1);
        let alike = |a: &Run, b: &Run| a.phase == b.phase && a.count == b.count;
        if let Some(next) = self.0.get(&after)
            && alike(run, next)
        {
            let last = next.last;
            self.0.remove(&after);
            if let Some(run) = self.0.get_mut(&at) {
                run.last = last;
            }
        }
        let Some(run) = self.0.get(&at) else { return };
        let before = self.0.range(..at).next_back();
        if let Some((&first, before)) = before
            && before.last + 1 == at
            && alike(before, run)
        {
            let last = run.last;
            self.0.remove(&at);
            if let Some(run) = self.0.get_mut(&first) {
                run.last = last;
            }
        }
    }

    /// The parts of a range, ascending, without gaps between them.
    pub fn pieces(&self, first: Offset, last: Offset) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = first;
        let before = self.0.range(..first).next_back();
        let runs = before.into_iter().chain(self.0.range(first..=last));
        for (&begin, run) in runs {
            if run.last < at || begin > last {
                continue;
            }
            if begin > at {
                pieces.push((at, begin - 1, None));
            }
            let end = run.last.min(last);
            let state = Some((run.phase.clone(), run.count));
            pieces.push((begin.max(at), end, state));
            at = end + 1;
        }
        if at <= last {
            pieces.push((at, last, None));
        }
        pieces
    }

    /// The first offset from `start` on that may be delivered now.
    pub fn next(&self, start: Offset, now: Mono) -> Offset {
        let mut at = start;
        for (first, run) in self.iter() {
            if first > at {
                break;
            }
            if matches!(run.phase, Phase::Available { due } if due <= now) {
                return first.max(at);
            }
            at = at.max(run.last + 1);
        }
        at
    }

    /// Where the last run ends, or `start`.
    pub fn end(&self, start: Offset) -> Offset {
        let last = self.0.last_key_value();
        last.map_or(start, |(_, run)| run.last + 1).max(start)
    }

    /// How many offsets are known and not done with.
    pub fn under_way(&self) -> i64 {
        let open = self
            .iter()
            .filter(|(_, r)| !matches!(r.phase, Phase::Done(_)));
        open.map(|(first, r)| r.last - first + 1).sum()
    }

    /// Forgets what lies before an offset.
    pub fn forget_before(&mut self, at: Offset) {
        self.split(at);
        self.0 = self.0.split_off(&at);
    }

    /// Forgets what is done with from `start` on; gives the first offset that is not.
    pub fn sweep(&mut self, mut start: Offset) -> Offset {
        while let Some(entry) = self.0.first_entry() {
            let is_done = matches!(entry.get().phase, Phase::Done(_));
            if *entry.key() != start || !is_done {
                break;
            }
            start = entry.remove().last + 1;
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn available(due: u64) -> Phase {
        Phase::Available { due: Mono(due) }
    }

    #[test]
    fn runs_are_split_and_joined() {
        let mut flight = Flight::default();
        let done = Phase::Done(Delivery::Acknowledged);
        flight.set((10, 19), available(0), 1);
        flight.set((14, 14), done.clone(), 1);
        assert_eq!(flight.iter().count(), 3);
        let pieces = flight.pieces(8, 21);
        let spans: Vec<_> = pieces.iter().map(|p| (p.0, p.1, p.2.is_some())).collect();
        let want = [
            (8, 9, false),
            (10, 13, true),
            (14, 14, true),
            (15, 19, true),
            (20, 21, false),
        ];
        assert_eq!(spans, want);
        flight.set((14, 14), available(0), 1);
        assert_eq!(flight.iter().count(), 1, "they are alike again");
        assert_eq!(flight.pieces(12, 13).len(), 1);
        flight.set((10, 15), done, 1);
        assert_eq!(flight.sweep(9), 9, "nothing is known of 9");
        assert_eq!(flight.sweep(10), 16);
        assert_eq!((flight.under_way(), flight.end(16)), (4, 20));
    }

    #[test]
    fn next_is_what_was_never_delivered_or_is_due() {
        let mut flight = Flight::default();
        assert_eq!(flight.next(5, Mono(0)), 5);
        flight.set((5, 9), available(100), 1);
        assert_eq!(
            (flight.next(5, Mono(0)), flight.next(5, Mono(100))),
            (10, 5)
        );
        flight.set((12, 13), Phase::Dying, 1);
        assert_eq!(flight.next(5, Mono(0)), 10, "the gap before 12");
    }
}
