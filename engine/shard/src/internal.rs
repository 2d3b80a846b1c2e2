//! What the broker itself appends to its internal topics, and markers to any partition.

use std::cell::Cell;
use std::rc::Rc;

use streamd_core::producer::MarkerEnd;
use streamd_core::repl::Acks;
use streamd_log::batch::{NewRecord, Writer, build, build_marker, set_transactional};
use streamd_log::{Appended, NewBatch};
use streamd_model::{ErrorCode, Offset};

use crate::Refusal;
use crate::partition::Partition;
use crate::txn::Marker;
use crate::waiters::Countdown;

/// A batch of records gets no larger than this by another record, bytes.
const BATCH_BYTES: usize = 512 << 10;

type KeyValue = (Vec<u8>, Option<Vec<u8>>);

/// Records of a state machine, in order.
pub(crate) struct Internal {
    pub records: Vec<KeyValue>,
    /// The transaction that they are part of: producer id and epoch.
    pub txn: Option<(i64, i16)>,
}

impl Partition {
    /// Appends what a step of a state machine has to say; gives the offset after it. When the log
    /// rolls `wants_checkpoint` is set: what the step changed must not be in one that lies before.
    pub(crate) fn append_internal(
        &self,
        internal: Internal,
        now_ms: i64,
        wants_checkpoint: &Cell<bool>,
    ) -> Result<Offset, Refusal> {
        let mut parts: Vec<KeyValue> = Vec::new();
        let (mut bytes, txn) = (0, internal.txn);
        let append = |parts: &[KeyValue]| self.append_batch((parts, txn), now_ms, wants_checkpoint);
        for (key, value) in internal.records {
            let size = key.len() + value.as_ref().map_or(0, Vec::len);
            if !parts.is_empty() && bytes + size > BATCH_BYTES {
                append(&std::mem::take(&mut parts))?;
                bytes = 0;
            }
            bytes += size;
            parts.push((key, value));
        }
        append(&parts)
    }

    fn append_batch(
        &self,
        (records, txn): (&[KeyValue], Option<(i64, i16)>),
        now_ms: i64,
        wants_checkpoint: &Cell<bool>,
    ) -> Result<Offset, Refusal> {
        let records: Vec<_> = records
            .iter()
            .map(|(key, value)| NewRecord {
                timestamp: now_ms,
                key: Some(key),
                value: value.as_deref(),
            })
            .collect();
        let writer = txn.map_or(Writer::default(), |(id, epoch)| Writer {
            id,
            epoch,
            sequence: -1,
        });
        let mut bytes = build(&records, writer);
        if txn.is_some() {
            set_transactional(&mut bytes, false);
        }
        let appended = self.append_own(bytes, now_ms, &|| wants_checkpoint.set(true))?;
        if let Some((id, epoch)) = txn {
            let mut producers = self.producers.borrow_mut();
            producers.record_txn(id, epoch, appended.base, now_ms);
            self.guards.end(id);
        }
        Ok(appended.next)
    }

    /// Appends a batch of the broker's own; `rolled` is told when a segment begins with it.
    fn append_own(
        &self,
        bytes: Vec<u8>,
        now_ms: i64,
        rolled: &dyn Fn(),
    ) -> Result<Appended, Refusal> {
        let batch = NewBatch::own(bytes, now_ms)?;
        let header = batch.facts.header;
        {
            let mut log = self.log.borrow_mut();
            if header.size as u64 > log.config().segment_bytes {
                let text = format!("a record of the broker's own of {} bytes", header.size);
                return Err(Refusal::new(ErrorCode::RecordListTooLarge, text));
            }
            if log.will_roll(header.size, header.count, now_ms) {
                log.roll(now_ms);
                rolled();
            }
        }
        let next = i64::from(header.last_offset_delta) + 1;
        let base = self.place(batch, now_ms, |replica, count, now| {
            let refused = || (ErrorCode::NotLeaderOrFollower, "not led here".to_owned());
            replica.append_own(count, now).ok_or_else(refused)
        })?;
        Ok(Appended {
            base,
            next: base + next,
        })
    }

    /// Appends the marker of a transaction, which is over then. The countdown is told when it is
    /// committed.
    pub(crate) fn append_marker(
        &self,
        marker: &Marker,
        now_ms: i64,
        (countdown, item): (&Rc<Countdown>, usize),
    ) -> Result<(), Refusal> {
        let who = (marker.producer, marker.epoch);
        let known = self.producers.borrow().check_epoch(who.0, who.1, true);
        if let Err(code) = known {
            let text = format!(
                "a marker of producer {} epoch {} for {}, which has seen a newer one",
                who.0, who.1, self.name
            );
            return Err(Refusal::new(code, text));
        }
        let coordinator = self.producers.borrow();
        if let Err(code) = coordinator.check_coordinator(who.0, marker.coordinator_epoch) {
            let text = format!(
                "a marker of producer {} of coordinator epoch {} for {}, which has seen a newer",
                who.0, marker.coordinator_epoch, self.name
            );
            return Err(Refusal::new(code, text));
        }
        drop(coordinator);
        self.admits(Acks::All)?;
        if self.keeper.borrow().is_some() {
            // The coordinator that is about to serve here would not hear of it.
            let text = format!("{} is not served yet", self.name);
            return Err(Refusal::new(ErrorCode::CoordinatorLoadInProgress, text));
        }
        let bytes = build_marker(who, marker.commit, marker.coordinator_epoch, now_ms);
        self.make_way((bytes.len(), 1), (now_ms, now_ms));
        let batch = NewBatch::own(bytes, now_ms)?;
        let ticket = self.waiters.ack(Acks::All, countdown, item);
        let base = self.place(batch, now_ms, |replica, count, now| {
            replica.append(count, Acks::All, ticket, now)
        });
        let base = base.inspect_err(|_| self.waiters.withdraw(ticket))?;
        let mut producers = self.producers.borrow_mut();
        let end = MarkerEnd {
            commit: marker.commit,
            coordinator_epoch: marker.coordinator_epoch,
        };
        let at = (base, self.replica.borrow().high());
        producers.record_marker(who, end, at, now_ms);
        drop(producers);
        self.guards.end(marker.producer);
        self.group_marker(marker.producer, marker.commit, base + 1);
        Ok(())
    }
}
