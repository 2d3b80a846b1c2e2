//! Transactions in one partition: which are open, where they began, which were aborted.
//!
//! Invariants: the last stable offset is at most the first offset of every transaction that is open
//! or whose marker is not committed; an aborted transaction is known as long as a record of it may
//! be in the log. Both change by appended batches alone, live and at recovery alike.

use std::collections::BTreeMap;

use streamd_model::{ErrorCode, Map, Offset};

use crate::codec::{Damaged, In, Out};

/// The most transactions that are open at once in a partition.
pub const OPEN_MAX: usize = 8192;
/// The most aborted transactions that a partition has in its log. When there are more, no
/// transaction begins here until the log's start has moved past some.
pub const ABORTED_MAX: usize = 262_144;

/// A transaction that is open in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTxn {
    /// Offset of its first record here.
    pub first: Offset,
    /// The epoch that its producer wrote last with.
    pub epoch: i16,
    /// When it began here, wall time in ms.
    pub since_ms: i64,
}

/// An aborted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Its producer.
    pub producer: i64,
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of its marker.
    pub last: Offset,
    /// Transactions that ended after this one began at or after this offset.
    pub stable: Offset,
}

/// The transactions of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transactions {
    open: Map<i64, OpenTxn>,
    /// The producers of what is open, by first offset.
    by_first: BTreeMap<Offset, i64>,
    /// Ended, but the marker may not be committed: markers' offsets by first offset.
    closing: BTreeMap<Offset, Offset>,
    /// By the offset of the marker.
    aborted: Vec<AbortedTxn>,
}

impl Transactions {
    /// The transaction that a producer has open here.
    pub fn open(&self, producer: i64) -> Option<&OpenTxn> {
        self.open.get(&producer)
    }

    /// How many are open.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Whether another may begin.
    ///
    /// # Errors
    /// POLICY_VIOLATION when there is no room for its bookkeeping.
    pub fn admit(&self) -> Result<(), ErrorCode> {
        match self.open.len() < OPEN_MAX && self.aborted.len() < ABORTED_MAX {
            true => Ok(()),
            false => Err(ErrorCode::PolicyViolation),
        }
    }

    /// A transactional batch was appended at `base`.
    pub fn wrote(&mut self, producer: i64, epoch: i16, base: Offset, now_ms: i64) {
        let open = self.open.entry(producer).or_insert(OpenTxn {
            first: base,
            epoch,
            since_ms: now_ms,
        });
        open.epoch = epoch;
        self.by_first.entry(open.first).or_insert(producer);
    }

    /// A marker was appended at `marker`; the log is committed up to `high`.
    pub fn ended(&mut self, producer: i64, commit: bool, marker: Offset, high: Offset) {
        self.closing.retain(|_, at| *at >= high);
        let Some(open) = self.open.remove(&producer) else {
            return;
        };
        self.by_first.remove(&open.first);
        if marker >= high {
            self.closing.insert(open.first, marker);
        }
        if commit {
            return;
        }
        let stable = self.by_first.keys().next().copied().unwrap_or(marker + 1);
        self.aborted.push(AbortedTxn {
            producer,
            first: open.first,
            last: marker,
            stable,
        });
    }

    /// The last stable offset of a log that is committed up to `high`: everything before it belongs
    /// to no transaction, or to one whose end is committed.
    pub fn stable(&self, high: Offset) -> Offset {
        let open = self.by_first.keys().next().copied();
        let closing = self.closing.iter().find(|(_, marker)| **marker >= high);
        let first = open.into_iter().chain(closing.map(|(first, _)| *first));
        first.fold(high, Offset::min)
    }

    /// The aborted transactions that have records in `from..to`, by first offset.
    pub fn aborted(&self, from: Offset, to: Offset) -> Vec<AbortedTxn> {
        let at = self.aborted.partition_point(|a| a.last < from);
        let mut found = Vec::new();
        for aborted in &self.aborted[at..] {
            if aborted.first < to {
                found.push(*aborted);
            }
            if aborted.stable >= to {
                break;
            }
        }
        found.sort_unstable_by_key(|a| a.first);
        found
    }

    /// The log begins at `start` now.
    pub fn forget_before(&mut self, start: Offset) {
        let gone = self.aborted.partition_point(|a| a.last < start);
        self.aborted.drain(..gone);
    }

    /// The transactions that are open, by producer.
    pub fn all_open(&self) -> impl Iterator<Item = (i64, &OpenTxn)> {
        self.by_first
            .values()
            .filter_map(|id| self.open.get(id).map(|open| (*id, open)))
    }

    pub(super) fn encode(&self, out: &mut Out) {
        out.count(self.by_first.len());
        for (producer, open) in self.all_open() {
            out.i64(producer);
            out.i64(open.first);
            out.i16(open.epoch);
            out.i64(open.since_ms);
        }
        out.count(self.aborted.len());
        for a in &self.aborted {
            out.i64(a.producer);
            out.i64(a.first);
            out.i64(a.last);
            out.i64(a.stable);
        }
        out.count(self.closing.len());
        for (first, marker) in &self.closing {
            out.i64(*first);
            out.i64(*marker);
        }
    }

    /// Reads what [`Transactions::encode`] gave; without `closing`, an earlier version of it.
    pub(super) fn decode(r: &mut In<'_>, closing: bool) -> Result<Transactions, Damaged> {
        let mut state = Transactions::default();
        for _ in 0..r.count(26, "the number of open transactions")? {
            let producer = r.i64("a transaction's producer")?;
            let open = OpenTxn {
                first: r.i64("a transaction's first offset")?,
                epoch: r.i16("a transaction's epoch")?,
                since_ms: r.i64("a transaction's time")?,
            };
            let twice = state.open.insert(producer, open).is_some()
                || state.by_first.insert(open.first, producer).is_some();
            if twice || open.first < 0 {
                return Err(r.damaged("an open transaction"));
            }
        }
        for _ in 0..r.count(32, "the number of aborted transactions")? {
            let aborted = AbortedTxn {
                producer: r.i64("an aborted transaction's producer")?,
                first: r.i64("an aborted transaction's first offset")?,
                last: r.i64("an aborted transaction's marker")?,
                stable: r.i64("an aborted transaction's stable offset")?,
            };
            let rises = state.aborted.last().is_none_or(|a| a.last < aborted.last);
            if !rises || aborted.first < 0 || aborted.first > aborted.last {
                return Err(r.damaged("an aborted transaction"));
            }
            state.aborted.push(aborted);
        }
        let count = match closing {
            true => r.count(16, "the number of transactions that end")?,
            false => 0,
        };
        for _ in 0..count {
            let first = r.i64("the first offset of a transaction that ends")?;
            let marker = r.i64("its marker")?;
            if first < 0 || marker < first || state.closing.insert(first, marker).is_some() {
                return Err(r.damaged("a transaction that ends"));
            }
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_is_held_by_what_is_open_and_by_markers_that_are_not_durable() {
        let mut t = Transactions::default();
        assert_eq!(t.stable(10), 10);
        t.wrote(1, 0, 10, 0);
        t.wrote(2, 0, 12, 0);
        t.wrote(1, 0, 14, 0);
        assert_eq!(t.stable(20), 10);
        t.ended(1, true, 20, 20);
        assert_eq!(t.stable(20), 10, "the marker may still be lost");
        assert_eq!(t.stable(21), 12);
        t.ended(2, false, 21, 21);
        assert_eq!((t.stable(21), t.stable(22)), (12, 22));
        t.wrote(3, 0, 22, 0);
        t.ended(3, true, 23, 24);
        assert_eq!(t.stable(24), 24);
    }

    #[test]
    fn aborted_ones_are_found_wherever_a_range_touches_them() {
        let mut t = Transactions::default();
        t.wrote(1, 0, 0, 0);
        for n in 0..50 {
            t.wrote(2, 0, 10 + n * 10, 0);
            t.ended(2, n % 2 == 0, 15 + n * 10, 1000);
        }
        t.ended(1, false, 600, 1000);
        t.wrote(4, 0, 601, 0);
        t.ended(4, false, 602, 1000);
        for from in 0..620 {
            for to in from..620 {
                let found = t.aborted(from, to);
                let all = t.aborted.iter().filter(|a| a.last >= from && a.first < to);
                let mut all: Vec<_> = all.copied().collect();
                all.sort_by_key(|a| a.first);
                assert_eq!(found, all, "{from}..{to}");
            }
        }
        t.forget_before(602);
        assert_eq!(t.aborted(0, 700).len(), 1);
    }

    #[test]
    fn round_trip_and_room() {
        let mut t = Transactions::default();
        for n in 0..OPEN_MAX as i64 {
            assert_eq!(t.admit(), Ok(()));
            t.wrote(n, 3, n * 2, 7);
        }
        assert_eq!(t.admit(), Err(ErrorCode::PolicyViolation));
        for n in 0..5 {
            t.ended(n, n % 2 == 0, 100_000 + n, 200_000);
        }
        assert_eq!(t.admit(), Ok(()));
        t.ended(7, true, 300_000, 200_000);
        let mut out = Out::default();
        t.encode(&mut out);
        let mut r = In(&out.0);
        assert_eq!(Transactions::decode(&mut r, true), Ok(t));
        assert!(r.0.is_empty());
        for end in [0, 3, 20, out.0.len() - 1] {
            assert!(
                Transactions::decode(&mut In(&out.0[..end]), true).is_err(),
                "{end}"
            );
        }
    }
}
