//! Idempotence in one partition: which batches of a producer are new, which are resent, which
//! came out of order.
//!
//! `record` is the only writer, for live appends and for the scan at recovery. A batch is checked
//! and recorded when it is appended to memory, so batches that are still in flight count.
//! Sequence numbers go from 0 to 2^31 - 1 and then around. Invariant: of each producer the
//! batches kept are consecutive, and `known` sequence numbers up to the last are in the log.

use std::collections::VecDeque;

use streamd_model::{ErrorCode, Map, Offset, ProducerId};

use super::transactions::Transactions;

/// How many batches of a producer are remembered with their offsets: as many as a client may have
/// in flight.
pub(super) const BATCHES: usize = 5;

/// The most producers that a partition remembers. When there are more, those that were silent
/// longest are forgotten: their next batch is taken with any sequence number.
pub const PRODUCERS_MAX: usize = 16_384;

const WRAP: i64 = 1 << 31;

/// The far end of what counts as "before": half the circle of sequence numbers.
pub(super) const KNOWN_MAX: i64 = 1 << 30;

/// A batch as its producer sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The producer; below 0: not idempotent.
    pub producer: ProducerId,
    /// Its epoch.
    pub epoch: i16,
    /// The sequence number of the first record.
    pub base_seq: i32,
    /// How many records there are.
    pub records: i32,
}

impl Sent {
    fn last_seq(&self) -> i32 {
        step(self.base_seq, i64::from(self.records) - 1)
    }
}

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is new: append it, then record it.
    Append,
    /// It is in the log already: answer as the first time.
    Duplicate {
        /// The offset of its first record.
        base_offset: Offset,
        /// The offset of its last record.
        last_offset: Offset,
        /// The timestamp it was recorded with, ms.
        timestamp: i64,
    },
    /// It is refused. `DuplicateSequenceNumber`: it is in the log, its offset is forgotten.
    Reject(ErrorCode),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub first_seq: i32,
    pub last_seq: i32,
    pub base_offset: Offset,
    pub timestamp: i64,
}

impl Batch {
    fn records(&self) -> i64 {
        behind(self.first_seq, self.last_seq) + 1
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Producer {
    pub epoch: i16,
    /// Up to [`BATCHES`], the oldest first; none since a marker brought a new epoch.
    pub batches: VecDeque<Batch>,
    /// How many sequence numbers up to the last one are in the log, at most [`KNOWN_MAX`].
    pub known: i64,
    pub last_ms: i64,
    /// The epoch of the coordinator that wrote the last marker; -1: none did.
    pub coordinator: i32,
}

impl Producer {
    pub fn last_seq(&self) -> Option<i32> {
        self.batches.back().map(|b| b.last_seq)
    }
}

/// The producers of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerState {
    pub(super) producers: Map<i64, Producer>,
    /// What they have open, and what was aborted.
    pub txns: Transactions,
    limit: usize,
}

/// What a marker says of the transaction that it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkerEnd {
    /// It commits, or aborts.
    pub commit: bool,
    /// The epoch of the coordinator that decided.
    pub coordinator_epoch: i32,
}

/// A producer as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its id.
    pub producer: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The last sequence number; -1: none yet in this epoch.
    pub last_seq: i32,
    /// When it was heard of, wall time in ms.
    pub last_ms: i64,
    /// The epoch of the coordinator that wrote its last marker; -1: none did.
    pub coordinator: i32,
    /// Where its open transaction begins; -1: there is none.
    pub txn_start: Offset,
}

impl Default for ProducerState {
    fn default() -> ProducerState {
        ProducerState::with_limit(PRODUCERS_MAX)
    }
}

/// How far `to` lies behind `from` on the circle.
pub(super) fn behind(from: i32, to: i32) -> i64 {
    (i64::from(to) - i64::from(from)).rem_euclid(WRAP)
}

pub(super) fn step(from: i32, by: i64) -> i32 {
    (i64::from(from) + by).rem_euclid(WRAP) as i32
}

impl ProducerState {
    /// A state that remembers at most `limit` producers (at least 1).
    pub fn with_limit(limit: usize) -> ProducerState {
        ProducerState {
            producers: Map::default(),
            txns: Transactions::default(),
            limit: limit.max(1),
        }
    }

    /// How many producers are remembered.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is remembered.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Says what is to be done with a batch.
    pub fn check(&self, sent: &Sent) -> Verdict {
        if sent.producer.0 < 0 {
            return Verdict::Append;
        }
        if sent.base_seq < 0 || sent.records <= 0 || sent.epoch < 0 {
            return Verdict::Reject(ErrorCode::InvalidRecord);
        }
        // Whatever an unknown producer sends is a beginning: its state may have expired here.
        let Some(producer) = self.producers.get(&sent.producer.0) else {
            return Verdict::Append;
        };
        if sent.epoch < producer.epoch {
            return Verdict::Reject(ErrorCode::InvalidProducerEpoch);
        }
        if sent.epoch > producer.epoch {
            return match sent.base_seq {
                0 => Verdict::Append,
                _ => Verdict::Reject(ErrorCode::OutOfOrderSequenceNumber),
            };
        }
        producer.check(sent)
    }

    /// Takes note of a batch that was appended at `base_offset`. `timestamp` is what a duplicate
    /// is answered with; `now_ms` is when the producer was heard of.
    pub fn record(&mut self, sent: &Sent, base_offset: Offset, timestamp: i64, now_ms: i64) {
        if sent.producer.0 < 0 || sent.base_seq < 0 || sent.records <= 0 {
            return;
        }
        if self.producers.len() >= self.limit && !self.producers.contains_key(&sent.producer.0) {
            self.forget_oldest();
        }
        let producer = self
            .producers
            .entry(sent.producer.0)
            .or_insert_with(|| Producer {
                epoch: sent.epoch,
                batches: VecDeque::new(),
                known: 0,
                last_ms: now_ms,
                coordinator: -1,
            });
        let follows = producer.epoch == sent.epoch
            && producer
                .last_seq()
                .is_none_or(|last| step(last, 1) == sent.base_seq);
        if !follows {
            producer.batches.clear();
            producer.known = 0;
        }
        if producer.batches.len() == BATCHES {
            producer.batches.pop_front();
        }
        let (first_seq, last_seq) = (sent.base_seq, sent.last_seq());
        producer.batches.push_back(Batch {
            first_seq,
            last_seq,
            base_offset,
            timestamp,
        });
        producer.epoch = sent.epoch;
        producer.known = (producer.known + i64::from(sent.records)).min(KNOWN_MAX);
        producer.last_ms = producer.last_ms.max(now_ms);
    }

    /// Says whether a producer may write with this epoch, in a transaction or not.
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH if a newer one was seen, INVALID_TXN_STATE if it has a transaction
    /// open and writes outside of it.
    pub fn check_epoch(&self, id: i64, epoch: i16, transactional: bool) -> Result<(), ErrorCode> {
        if self.producers.get(&id).is_some_and(|p| epoch < p.epoch) {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if !transactional && self.txns.open(id).is_some() {
            return Err(ErrorCode::InvalidTxnState);
        }
        Ok(())
    }

    /// Takes note of a transactional batch that was appended at `base_offset`, when it was not
    /// recorded by its sequence number.
    pub fn record_txn(&mut self, id: i64, epoch: i16, base_offset: Offset, now_ms: i64) {
        self.raise(id, epoch, now_ms);
        self.txns.wrote(id, epoch, base_offset, now_ms);
    }

    /// Takes note of a marker that was appended at `marker`: the transaction is over, and older
    /// epochs of its producer and of its coordinator are fenced. `flushed`: the log is durable up
    /// to there.
    pub fn record_marker(
        &mut self,
        (id, epoch): (i64, i16),
        end: MarkerEnd,
        (marker, flushed): (Offset, Offset),
        now_ms: i64,
    ) {
        self.raise(id, epoch, now_ms);
        if let Some(producer) = self.producers.get_mut(&id) {
            producer.coordinator = producer.coordinator.max(end.coordinator_epoch);
        }
        self.txns.ended(id, end.commit, marker, flushed);
    }

    /// Says whether a coordinator of this epoch may still end a producer's transactions.
    ///
    /// # Errors
    /// TRANSACTION_COORDINATOR_FENCED if one of a newer epoch did.
    pub fn check_coordinator(&self, id: i64, epoch: i32) -> Result<(), ErrorCode> {
        match self
            .producers
            .get(&id)
            .is_some_and(|p| epoch < p.coordinator)
        {
            true => Err(ErrorCode::TransactionCoordinatorFenced),
            false => Ok(()),
        }
    }

    /// A producer was heard of in this epoch; a new one begins with sequence number 0.
    fn raise(&mut self, id: i64, epoch: i16, now_ms: i64) {
        if self.producers.len() >= self.limit && !self.producers.contains_key(&id) {
            self.forget_oldest();
        }
        let producer = self.producers.entry(id).or_insert_with(|| Producer {
            epoch,
            batches: VecDeque::new(),
            known: 0,
            last_ms: now_ms,
            coordinator: -1,
        });
        producer.last_ms = producer.last_ms.max(now_ms);
        if epoch > producer.epoch {
            producer.epoch = epoch;
            producer.batches.clear();
            producer.known = 0;
        }
    }

    /// The producers, by id.
    pub fn describe(&self) -> Vec<Described> {
        let mut all: Vec<_> = self.producers.iter().collect();
        all.sort_unstable_by_key(|(id, _)| **id);
        let one = |(id, p): (&i64, &Producer)| Described {
            producer: *id,
            epoch: p.epoch,
            last_seq: p.last_seq().unwrap_or(-1),
            last_ms: p.last_ms,
            coordinator: p.coordinator,
            txn_start: self.txns.open(*id).map_or(-1, |t| t.first),
        };
        all.into_iter().map(one).collect()
    }

    /// The producers, with the offsets of their last records.
    pub fn last_offsets(&self) -> impl Iterator<Item = (ProducerId, Offset)> {
        self.producers.iter().filter_map(|(id, p)| {
            let last = p.batches.back()?;
            Some((ProducerId(*id), last.base_offset + last.records() - 1))
        })
    }

    /// Forgets producers that were silent for `max_age_ms`, but none with an open transaction.
    /// Gives their number.
    pub fn expire(&mut self, now_ms: i64, max_age_ms: i64) -> usize {
        let before = self.producers.len();
        let txns = &self.txns;
        self.producers.retain(|id, p| {
            now_ms.saturating_sub(p.last_ms) < max_age_ms || txns.open(*id).is_some()
        });
        before - self.producers.len()
    }

    /// Makes room: an eighth of the producers goes at once, so that the search is paid rarely.
    fn forget_oldest(&mut self) {
        let mut ages: Vec<(i64, i64)> = self
            .producers
            .iter()
            .filter(|(id, _)| self.txns.open(**id).is_none())
            .map(|(id, p)| (p.last_ms, *id))
            .collect();
        if ages.is_empty() {
            return;
        }
        let count = (ages.len() / 8).max(1);
        ages.select_nth_unstable(count - 1);
        for (_, id) in &ages[..count] {
            self.producers.remove(id);
        }
    }
}

impl Producer {
    fn check(&self, sent: &Sent) -> Verdict {
        let Some(last_seq) = self.last_seq() else {
            return match sent.base_seq {
                0 => Verdict::Append,
                _ => Verdict::Reject(ErrorCode::OutOfOrderSequenceNumber),
            };
        };
        let next = step(last_seq, 1);
        if sent.base_seq == next {
            return Verdict::Append;
        }
        let resent = |b: &&Batch| b.first_seq == sent.base_seq && b.last_seq == sent.last_seq();
        if let Some(batch) = self.batches.iter().find(resent) {
            let base_offset = batch.base_offset;
            let last_offset = base_offset + batch.records() - 1;
            return Verdict::Duplicate {
                base_offset,
                last_offset,
                timestamp: batch.timestamp,
            };
        }
        // All of it was written before, as other batches or too long ago to know where. To call
        // that out of order would make the client write it again under a new epoch.
        let back = behind(sent.base_seq, next);
        if back <= self.known && i64::from(sent.records) <= back {
            return Verdict::Reject(ErrorCode::DuplicateSequenceNumber);
        }
        Verdict::Reject(ErrorCode::OutOfOrderSequenceNumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn sent(base_seq: i32, records: i32) -> Sent {
        Sent {
            producer: ProducerId(7),
            epoch: 0,
            base_seq,
            records,
        }
    }

    fn reject(code: ErrorCode) -> Verdict {
        Verdict::Reject(code)
    }

    #[test]
    fn resends_are_answered_with_the_first_offset() {
        let mut s = ProducerState::default();
        for n in 0..7 {
            let batch = sent(n * 10, 10);
            assert_eq!(s.check(&batch), Verdict::Append);
            s.record(&batch, i64::from(n) * 100, 5000 + i64::from(n), 0);
        }
        let duplicate = Verdict::Duplicate {
            base_offset: 200,
            last_offset: 209,
            timestamp: 5002,
        };
        assert_eq!(s.check(&sent(20, 10)), duplicate);
        assert_eq!(
            s.check(&sent(10, 10)),
            reject(ErrorCode::DuplicateSequenceNumber),
            "forgotten"
        );
        assert_eq!(
            s.check(&sent(20, 5)),
            reject(ErrorCode::DuplicateSequenceNumber),
            "split"
        );
        assert_eq!(
            s.check(&sent(60, 11)),
            reject(ErrorCode::OutOfOrderSequenceNumber)
        );
        assert_eq!(
            s.check(&sent(71, 1)),
            reject(ErrorCode::OutOfOrderSequenceNumber),
            "gap"
        );
        assert_eq!(s.check(&sent(70, 1)), Verdict::Append);
    }

    #[test]
    fn what_came_before_an_unknown_producers_first_batch_is_not_in_the_log() {
        let mut s = ProducerState::default();
        assert_eq!(s.check(&sent(100, 5)), Verdict::Append);
        s.record(&sent(100, 5), 0, 0, 0);
        // Sent before, lost, and sent again: to call it a duplicate would lose it.
        assert_eq!(
            s.check(&sent(95, 5)),
            reject(ErrorCode::OutOfOrderSequenceNumber)
        );
        assert_eq!(
            s.check(&sent(100, 4)),
            reject(ErrorCode::DuplicateSequenceNumber)
        );
    }

    #[test]
    fn epochs() {
        let mut s = ProducerState::default();
        let with = |epoch, base_seq| Sent {
            epoch,
            ..sent(base_seq, 1)
        };
        s.record(&with(3, 0), 0, 0, 0);
        assert_eq!(
            s.check(&with(2, 1)),
            reject(ErrorCode::InvalidProducerEpoch)
        );
        assert_eq!(
            s.check(&with(4, 1)),
            reject(ErrorCode::OutOfOrderSequenceNumber)
        );
        assert_eq!(s.check(&with(4, 0)), Verdict::Append);
        s.record(&with(4, 0), 1, 0, 0);
        assert_eq!(
            s.check(&with(3, 1)),
            reject(ErrorCode::InvalidProducerEpoch)
        );
        assert_eq!(s.check(&with(4, 1)), Verdict::Append);
        assert_eq!(s.check(&with(-1, 1)), reject(ErrorCode::InvalidRecord));
    }

    #[test]
    fn sequences_go_around() {
        let mut s = ProducerState::default();
        let before = sent(i32::MAX - 1, 4);
        s.record(&before, 10, 1, 0);
        assert_eq!(
            s.check(&before),
            Verdict::Duplicate {
                base_offset: 10,
                last_offset: 13,
                timestamp: 1
            }
        );
        assert_eq!(s.check(&sent(2, 1)), Verdict::Append);
        assert_eq!(
            s.check(&sent(3, 1)),
            reject(ErrorCode::OutOfOrderSequenceNumber)
        );
        assert_eq!(
            s.check(&sent(0, 2)),
            reject(ErrorCode::DuplicateSequenceNumber)
        );
        assert_eq!(
            s.check(&sent(i32::MAX - 2, 1)),
            reject(ErrorCode::OutOfOrderSequenceNumber)
        );
    }

    #[test]
    fn others_are_not_looked_at() {
        let mut s = ProducerState::default();
        let plain = Sent {
            producer: ProducerId(-1),
            epoch: -1,
            base_seq: -1,
            records: 3,
        };
        assert_eq!(s.check(&plain), Verdict::Append);
        s.record(&plain, 0, 0, 0);
        assert!(s.is_empty());
        assert_eq!(s.check(&sent(-1, 1)), reject(ErrorCode::InvalidRecord));
        assert_eq!(s.check(&sent(0, 0)), reject(ErrorCode::InvalidRecord));
    }

    #[test]
    fn producers_expire_and_are_bounded() {
        let mut s = ProducerState::with_limit(16);
        let of = |id| Sent {
            producer: ProducerId(id),
            ..sent(0, 1)
        };
        for id in 0..100 {
            s.record(&of(id), id, 0, id * 10);
            assert!(s.len() <= 16);
            assert_ne!(
                s.check(&of(id)),
                Verdict::Append,
                "the newest is remembered"
            );
        }
        assert_eq!(s.check(&of(0)), Verdict::Append, "the oldest is forgotten");
        let before = s.len();
        let gone = s.expire(1489, 500);
        assert_eq!(s.len(), before - gone);
        assert_ne!(s.check(&of(99)), Verdict::Append);
        assert_eq!(s.expire(1490, 500), 1);
    }

    /// What is in the log, as a list: the naive model.
    #[derive(Default)]
    struct Model {
        epoch: i16,
        /// (first sequence number not wrapped, records, base offset)
        log: Vec<(i64, i32, i64)>,
        offset: i64,
    }

    impl Model {
        fn expect(&self, epoch: i16, at: i64, records: i32) -> Verdict {
            if epoch < self.epoch {
                return reject(ErrorCode::InvalidProducerEpoch);
            }
            let next = self.log.last().map_or(0, |b| b.0 + i64::from(b.1));
            if epoch > self.epoch && at != 0 {
                return reject(ErrorCode::OutOfOrderSequenceNumber);
            }
            if epoch > self.epoch || at == next || self.log.is_empty() {
                return Verdict::Append;
            }
            let recent = self.log.iter().rev().take(BATCHES);
            let same = |b: &&(i64, i32, i64)| b.0 == at && b.1 == records;
            if let Some(b) = recent.into_iter().find(same) {
                let last_offset = b.2 + i64::from(b.1) - 1;
                return Verdict::Duplicate {
                    base_offset: b.2,
                    last_offset,
                    timestamp: b.2,
                };
            }
            if at >= self.log[0].0 && at + i64::from(records) <= next {
                return reject(ErrorCode::DuplicateSequenceNumber);
            }
            reject(ErrorCode::OutOfOrderSequenceNumber)
        }

        fn append(&mut self, epoch: i16, at: i64, records: i32) -> i64 {
            if epoch > self.epoch {
                self.log.clear();
                self.epoch = epoch;
            }
            let offset = self.offset;
            self.log.push((at, records, offset));
            self.offset += i64::from(records);
            offset
        }
    }

    proptest! {
        /// Batches that are sent in order, again, out of order, split, and under new epochs, from
        /// a start anywhere on the circle; with a snapshot now and then in between.
        #[test]
        fn as_the_model_says(
            start in prop_oneof![Just(0i32), (i32::MAX - 40)..=i32::MAX, any::<i32>()],
            steps in proptest::collection::vec((0u8..10, -30i64..12, 1i32..8), 1..80),
        ) {
            let start = start & i32::MAX;
            let mut state = ProducerState::default();
            let mut model = Model::default();
            let (mut next, mut shift) = (0i64, start);
            for (kind, jump, records) in steps {
                let (epoch, at) = match kind {
                    0..=4 => (model.epoch, next),
                    5..=7 => (model.epoch, next + jump),
                    8 => (model.epoch + 1, 0),
                    _ => (model.epoch - 1, next),
                };
                if epoch < 0 {
                    continue;
                }
                let shift_here = if epoch > model.epoch { 0 } else { shift };
                let base_seq = step(shift_here, at);
                let sent = Sent { producer: ProducerId(7), epoch, base_seq, records };
                let verdict = state.check(&sent);
                prop_assert_eq!(verdict, model.expect(epoch, at, records), "at {}", at);
                if verdict == Verdict::Append {
                    let offset = model.append(epoch, at, records);
                    state.record(&sent, offset, offset, 0);
                    next = at + i64::from(records);
                    shift = shift_here;
                }
                if kind == 3 {
                    state = ProducerState::decode(&state.encode()).unwrap();
                }
            }
        }
    }
}
