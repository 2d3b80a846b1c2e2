//! The beginning of a producer's life: its id and epoch. Whoever had the transactional id before
//! is fenced by the new epoch, and what it left open is aborted first.

use std::sync::Arc;

use streamd_model::ErrorCode;

use super::context::IDS_MAX;
use super::coordinator::Coordinator;
use super::record::{Partitions, Status, TxnValue};
use super::request::{Init, Reply};
use crate::group::{Now, Token};

/// The last epoch that a client gets; the one behind it fences it.
pub(super) const EPOCH_LAST: i16 = i16::MAX - 1;

impl Coordinator {
    pub(super) fn init(&mut self, now: Now, id: &Arc<str>, token: Token, init: Init) {
        if !(1..=self.ctx.limits.timeout_max_ms).contains(&init.timeout_ms) {
            return self
                .ctx
                .out
                .refuse(token, ErrorCode::InvalidTransactionTimeout);
        }
        let Some(txn) = self.txns.get(id) else {
            return self.init_first(now, id, token, init);
        };
        let (hard, last_epoch) = (&txn.hard, txn.last_epoch);
        if let Some((producer, _)) = init.expected {
            let rotated = producer == hard.prev_producer && last_epoch >= EPOCH_LAST;
            if producer != hard.producer && !rotated {
                return self.ctx.out.refuse(token, ErrorCode::ProducerFenced);
            }
        }
        match hard.status {
            Status::PrepareCommit | Status::PrepareAbort => {
                self.ctx
                    .out
                    .refuse(token, ErrorCode::ConcurrentTransactions);
            }
            Status::Ongoing => {
                // What a retry of a lost answer expects is not what a zombie has.
                let stale = |epoch| epoch != hard.epoch && epoch != last_epoch;
                if init.expected.is_some_and(|(_, epoch)| stale(epoch)) {
                    return self.ctx.out.refuse(token, ErrorCode::ProducerFenced);
                }
                self.fence_and_abort(now, id);
                self.ctx
                    .out
                    .refuse(token, ErrorCode::ConcurrentTransactions);
            }
            Status::Empty | Status::CompleteCommit | Status::CompleteAbort => {
                self.init_next(now, id, token, init);
            }
        }
    }

    fn init_first(&mut self, now: Now, id: &Arc<str>, token: Token, init: Init) {
        if self.txns.len() >= IDS_MAX {
            return self
                .ctx
                .out
                .refuse(token, ErrorCode::CoordinatorNotAvailable);
        }
        let Some(producer) = init.fresh else {
            return self.ctx.out.reply(token, Reply::NeedsProducer);
        };
        let value = TxnValue {
            producer,
            prev_producer: -1,
            next_producer: -1,
            epoch: 0,
            timeout_ms: init.timeout_ms,
            status: Status::Empty,
            partitions: Partitions::new(),
            updated_ms: now.wall_ms,
            started_ms: -1,
            version: 0,
        };
        self.begin(id, token, value, -1);
    }

    /// The next epoch, or the first of the next producer id.
    fn init_next(&mut self, now: Now, id: &Arc<str>, token: Token, init: Init) {
        let txn = &self.txns[id];
        let mut value = TxnValue {
            timeout_ms: init.timeout_ms,
            status: Status::Empty,
            partitions: Partitions::new(),
            updated_ms: now.wall_ms,
            started_ms: -1,
            ..txn.hard.clone()
        };
        let expected = init.expected.map(|(_, epoch)| epoch);
        let last_epoch = match expected {
            Some(epoch) if epoch != value.epoch => {
                if epoch != txn.last_epoch {
                    return self.ctx.out.refuse(token, ErrorCode::ProducerFenced);
                }
                // The answer was lost on its way, and the producer asks again.
                txn.last_epoch
            }
            _ if value.epoch >= EPOCH_LAST => {
                let Some(producer) = init.fresh else {
                    return self.ctx.out.reply(token, Reply::NeedsProducer);
                };
                let last_epoch = value.epoch;
                value.prev_producer = value.producer;
                (value.producer, value.epoch) = (producer, 0);
                last_epoch
            }
            _ => {
                value.epoch += 1;
                expected.unwrap_or(-1)
            }
        };
        self.begin(id, token, value, last_epoch);
    }

    fn begin(&mut self, id: &Arc<str>, token: Token, value: TxnValue, last_epoch: i16) {
        let reply = Reply::Producer {
            producer: value.producer,
            epoch: value.epoch,
        };
        self.store(id, Some(value));
        if let Some(txn) = self.txns.get_mut(id) {
            txn.last_epoch = last_epoch;
        }
        let seq = self.ctx.out.next_seq();
        self.ctx.out.reply_after(seq, token, reply);
    }
}
