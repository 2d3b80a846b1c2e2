//! The producers of a partition in binary form, for checkpoints.

use std::collections::VecDeque;

use super::sequence::{
    BATCHES, Batch, KNOWN_MAX, PRODUCERS_MAX, Producer, ProducerState, behind, step,
};
use super::transactions::{OPEN_MAX, Transactions};
use crate::codec::{Damaged, In, Out};

/// Version 1 knew no transactions, version 2 none whose markers were not committed, version 3 no
/// epochs of coordinators.
const VERSION: u8 = 4;

/// Bytes of a producer without batches, and of a batch.
const PRODUCER_BYTES: usize = 27;

impl ProducerState {
    /// The binary form. The same state gives the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::default();
        out.u8(VERSION);
        let mut ids: Vec<i64> = self.producers.keys().copied().collect();
        ids.sort_unstable();
        out.count(ids.len());
        for id in ids {
            let p = &self.producers[&id];
            out.i64(id);
            out.i16(p.epoch);
            out.i64(p.known);
            out.i64(p.last_ms);
            out.i32(p.coordinator);
            out.u8(p.batches.len() as u8);
            for b in &p.batches {
                out.i32(b.first_seq);
                out.i32(b.last_seq);
                out.i64(b.base_offset);
                out.i64(b.timestamp);
            }
        }
        self.txns.encode(&mut out);
        out.0
    }

    /// Reads the binary form. No bytes at all are a state without producers.
    ///
    /// # Errors
    /// [`Damaged`] if the bytes are no such state.
    pub fn decode(bytes: &[u8]) -> Result<ProducerState, Damaged> {
        let mut state = ProducerState::default();
        if bytes.is_empty() {
            return Ok(state);
        }
        let mut r = In(bytes);
        let version = r.u8("the version of a producer snapshot")?;
        if !(1..=VERSION).contains(&version) {
            return Err(r.damaged("a producer snapshot of an unknown version"));
        }
        let count = r.count(PRODUCER_BYTES, "the number of producers")?;
        if count > PRODUCERS_MAX + OPEN_MAX {
            return Err(r.damaged("too many producers"));
        }
        for _ in 0..count {
            let id = r.i64("a producer's id")?;
            let producer = get_producer(&mut r, version)?;
            if id < 0 || state.producers.insert(id, producer).is_some() {
                return Err(r.damaged("a producer's id"));
            }
        }
        if version >= 2 {
            state.txns = Transactions::decode(&mut r, version >= 3)?;
        }
        r.end("a producer snapshot with bytes behind it")?;
        Ok(state)
    }
}

fn get_producer(r: &mut In<'_>, version: u8) -> Result<Producer, Damaged> {
    let epoch = r.i16("a producer's epoch")?;
    let known = r.i64("a producer's known sequence numbers")?;
    let last_ms = r.i64("a producer's time")?;
    let coordinator = match version {
        ..=3 => -1,
        _ => r.i32("a coordinator's epoch")?,
    };
    let count = usize::from(r.u8("the number of a producer's batches")?);
    if epoch < 0 || !(0..=KNOWN_MAX).contains(&known) || count > BATCHES {
        return Err(r.damaged("a producer"));
    }
    let mut batches = VecDeque::with_capacity(count);
    for _ in 0..count {
        let batch = Batch {
            first_seq: r.i32("a sequence number")?,
            last_seq: r.i32("a sequence number")?,
            base_offset: r.i64("a batch's offset")?,
            timestamp: r.i64("a batch's time")?,
        };
        let follows = |last: &Batch| step(last.last_seq, 1) == batch.first_seq;
        let records = behind(batch.first_seq, batch.last_seq) + 1;
        if batch.first_seq < 0
            || batch.last_seq < 0
            || records > i64::from(i32::MAX)
            || batch.base_offset.checked_add(records).is_none()
            || !batches.back().is_none_or(follows)
        {
            return Err(r.damaged("a producer's batches"));
        }
        batches.push_back(batch);
    }
    Ok(Producer {
        epoch,
        batches,
        known,
        last_ms,
        coordinator,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{MarkerEnd, Sent};
    use super::*;
    use proptest::prelude::*;
    use streamd_model::{ErrorCode, ProducerId};

    fn state() -> ProducerState {
        let mut s = ProducerState::default();
        for n in 0..20i32 {
            let producer = ProducerId(i64::from(n % 4));
            let sent = Sent {
                producer,
                epoch: 1,
                base_seq: n / 4 * 3,
                records: 3,
            };
            s.record(&sent, i64::from(n) * 3, i64::from(n), i64::from(n));
        }
        s.record_txn(9, 2, 60, 1);
        s.record_txn(3, 1, 61, 1);
        let end = MarkerEnd {
            commit: false,
            coordinator_epoch: 7,
        };
        s.record_marker((3, 2), end, (62, 99), 1);
        s
    }

    #[test]
    fn an_older_coordinator_is_fenced_after_a_start_too() {
        let s = ProducerState::decode(&state().encode()).unwrap();
        let fenced = Err(ErrorCode::TransactionCoordinatorFenced);
        assert_eq!(s.check_coordinator(3, 6), fenced);
        assert_eq!(s.check_coordinator(3, 7), Ok(()));
        assert_eq!(s.check_coordinator(9, 0), Ok(()), "no marker yet");
        assert_eq!(s.check_coordinator(77, 0), Ok(()), "not known");
    }

    #[test]
    fn what_knew_no_epochs_of_coordinators_is_read() {
        let mut old = vec![3];
        old.extend_from_slice(&1u32.to_le_bytes());
        old.extend_from_slice(&5i64.to_le_bytes());
        old.extend_from_slice(&2i16.to_le_bytes());
        old.extend_from_slice(&[0; 17]);
        old.extend_from_slice(&[0; 12]);
        let s = ProducerState::decode(&old).unwrap();
        assert_eq!(
            (s.describe()[0].epoch, s.describe()[0].coordinator),
            (2, -1)
        );
    }

    #[test]
    fn round_trip_and_nothing() {
        let s = state();
        assert_eq!(ProducerState::decode(&s.encode()), Ok(s));
        assert_eq!(ProducerState::decode(&[]), Ok(ProducerState::default()));
        assert!(ProducerState::decode(&[1, 255, 255, 255, 255]).is_err());
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_read_but_never_panics(
            at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>(), seq in any::<i32>(),
        ) {
            let good = state().encode();
            prop_assert!(ProducerState::decode(&good[..1 + cut % (good.len() - 1)]).is_err());
            let mut bad = good;
            let at = at % bad.len();
            bad[at] = byte;
            if let Ok(mut s) = ProducerState::decode(&bad) {
                let sent =
                    Sent { producer: ProducerId(1), epoch: 1, base_seq: seq, records: i32::MAX };
                let _ = s.check(&sent);
                s.record(&sent, 0, 0, 0);
            }
        }
    }
}
