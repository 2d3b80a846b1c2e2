//! The durable state of a share-partition: the fold of its records.
//!
//! Invariants: it changes in [`Hard::replay`] alone; the start never goes back but by a snapshot
//! with another state epoch; batches do not overlap and lie at or after the start.

use std::collections::BTreeMap;

use streamd_model::Offset;

use super::record::{Delivery, Snapshot, StateBatch, StateValue};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hard {
    pub state_epoch: i32,
    pub snapshot_epoch: i32,
    pub leader_epoch: i32,
    /// -1: where to begin is not settled yet.
    pub start: Offset,
    pub created_ms: i64,
    /// Updates since the last snapshot.
    pub updates: u32,
    batches: BTreeMap<Offset, (Offset, Delivery, i16)>,
}

impl Hard {
    pub fn snapshot(s: &Snapshot) -> Hard {
        let mut hard = Hard {
            state_epoch: s.state_epoch,
            snapshot_epoch: s.value.snapshot_epoch,
            leader_epoch: s.value.leader_epoch,
            start: s.value.start,
            created_ms: s.created_ms,
            updates: 0,
            batches: BTreeMap::new(),
        };
        hard.lay_over(&s.value.batches);
        hard
    }

    /// Lays an update over what there is.
    pub fn replay(&mut self, update: &StateValue) {
        self.leader_epoch = update.leader_epoch;
        self.updates += 1;
        self.lay_over(&update.batches);
        if update.start > self.start {
            self.start = update.start;
            self.split(update.start);
            self.batches = self.batches.split_off(&update.start);
        }
    }

    fn lay_over(&mut self, batches: &[StateBatch]) {
        let start = self.start;
        for b in batches.iter().filter(|b| b.last >= start) {
            let first = b.first.max(start);
            self.split(first);
            self.split(b.last.saturating_add(1));
            let old: Vec<_> = self.batches.range(first..=b.last).map(|e| *e.0).collect();
            for at in old {
                self.batches.remove(&at);
            }
            self.batches.insert(first, (b.last, b.state, b.count));
            self.join(first);
        }
    }

    /// Makes a batch begin at `at`, if one holds it.
    fn split(&mut self, at: Offset) {
        if let Some((_, batch)) = self.batches.range_mut(..at).next_back()
            && batch.0 >= at
        {
            let (last, state, count) = *batch;
            batch.0 = at - 1;
            self.batches.insert(at, (last, state, count));
        }
    }

    /// Makes one of the batch at `at` and its neighbours that are like it.
    fn join(&mut self, at: Offset) {
        let Some(&(last, state, count)) = self.batches.get(&at) else {
            return;
        };
        if let Some(&(next_last, s, c)) = self.batches.get(&last.saturating_add(1))
            && (s, c) == (state, count)
        {
            self.batches.remove(&(last + 1));
            self.batches.insert(at, (next_last, state, count));
        }
        let last = self.batches.get(&at).map_or(last, |b| b.0);
        if let Some((&before, &(end, s, c))) = self.batches.range(..at).next_back()
            && end + 1 == at
            && (s, c) == (state, count)
        {
            self.batches.remove(&at);
            self.batches.insert(before, (last, state, count));
        }
    }

    /// What is on record, ascending.
    pub fn batches(&self) -> impl Iterator<Item = StateBatch> {
        self.batches
            .iter()
            .map(|(&first, &(last, state, count))| StateBatch {
                first,
                last,
                state,
                count,
            })
    }

    /// How many offsets from the start on are done with.
    pub fn complete(&self) -> i64 {
        let done = self.batches().filter(|b| b.state != Delivery::Available);
        done.map(|b| b.last - b.first + 1).sum()
    }

    /// As a snapshot, the next one.
    pub fn to_snapshot(&self, now_ms: i64) -> Snapshot {
        Snapshot {
            state_epoch: self.state_epoch,
            created_ms: self.created_ms,
            written_ms: now_ms,
            value: StateValue {
                snapshot_epoch: self.snapshot_epoch.saturating_add(1),
                leader_epoch: self.leader_epoch,
                start: self.start,
                complete: i32::try_from(self.complete()).unwrap_or(i32::MAX),
                batches: self.batches().collect(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first: Offset, last: Offset, state: Delivery, count: i16) -> StateBatch {
        StateBatch {
            first,
            last,
            state,
            count,
        }
    }

    #[test]
    fn updates_are_laid_over_what_was_before() {
        let mut hard = Hard::default();
        let mut update = |start, batches: &[StateBatch]| {
            hard.replay(&StateValue {
                start,
                batches: batches.to_vec(),
                ..StateValue::default()
            });
            hard.batches().collect::<Vec<_>>()
        };
        use Delivery::{Acknowledged, Archived, Available};
        let ten = batch(0, 9, Available, 1);
        assert_eq!(update(-1, &[ten]), [ten]);
        let found = update(-1, &[batch(3, 4, Acknowledged, 1)]);
        let want = [
            batch(0, 2, Available, 1),
            batch(3, 4, Acknowledged, 1),
            batch(5, 9, Available, 1),
        ];
        assert_eq!(found, want);
        let found = update(
            -1,
            &[batch(5, 6, Acknowledged, 1), batch(20, 20, Archived, 2)],
        );
        assert_eq!(found[1], batch(3, 6, Acknowledged, 1), "neighbours are one");
        let found = update(4, &[]);
        assert_eq!(found[0], batch(4, 6, Acknowledged, 1));
        assert_eq!(update(2, &[]), found, "the start does not go back");
        assert_eq!((hard.complete(), hard.start), (4, 4));
        assert_eq!(Hard::snapshot(&hard.to_snapshot(5)).batches, hard.batches);
    }
}
