//! The end of a transaction: the decision, the markers, the end written down.
//!
//! An answer to the producer waits until the markers are in, so that its next transaction finds
//! nothing in its way; when some cannot be written now it is told at once: the decision stands.

use std::sync::Arc;

use streamd_model::ErrorCode;

use super::context::{Effects, Markers, Timer};
use super::coordinator::{Coordinator, Ending, Txn};
use super::init::EPOCH_LAST;
use super::record::{Partitions, Status};
use super::request::{End, Reply};
use crate::group::{Now, Token};

/// What a request to end a transaction comes to.
enum Verdict {
    /// It is decided now.
    Decide,
    /// It was done before, and the answer was lost.
    Done,
    Refuse(ErrorCode),
}

/// Whether a producer of `transaction.version` 2 that asks under `end` may not know yet that its
/// epoch was raised by the end of this very transaction.
fn is_retry(txn: &Txn, end: &End) -> bool {
    let hard = &txn.hard;
    let raised = hard.producer == end.producer && hard.epoch == end.epoch.saturating_add(1);
    let rotated = hard.prev_producer == end.producer && end.epoch == EPOCH_LAST && hard.epoch == 0;
    end.version >= 2 && (raised || rotated)
}

fn judge(txn: &Txn, end: &End) -> Verdict {
    let hard = &txn.hard;
    let retry = is_retry(txn, end);
    if hard.producer != end.producer && !retry {
        return Verdict::Refuse(ErrorCode::InvalidProducerIdMapping);
    }
    if hard.epoch != end.epoch && !retry {
        return Verdict::Refuse(ErrorCode::ProducerFenced);
    }
    let same = |commits: bool, code: ErrorCode| match commits == end.commit {
        true => Verdict::Refuse(code),
        false => Verdict::Refuse(ErrorCode::InvalidTxnState),
    };
    // In version 2 an abort of nothing raises the epoch: the producer does not know whether
    // anything of it got through.
    let empty_abort = end.version >= 2 && !end.commit && !retry;
    match hard.status {
        Status::Ongoing if retry => Verdict::Refuse(ErrorCode::ProducerFenced),
        Status::Ongoing => Verdict::Decide,
        Status::PrepareCommit => same(true, ErrorCode::ConcurrentTransactions),
        Status::PrepareAbort => same(false, ErrorCode::ConcurrentTransactions),
        Status::Empty | Status::CompleteCommit | Status::CompleteAbort if empty_abort => {
            Verdict::Decide
        }
        Status::CompleteCommit | Status::CompleteAbort => {
            let committed = hard.status == Status::CompleteCommit;
            match committed == end.commit && (retry || end.version < 2) {
                true => Verdict::Done,
                false => Verdict::Refuse(ErrorCode::InvalidTxnState),
            }
        }
        Status::Empty => Verdict::Refuse(ErrorCode::InvalidTxnState),
    }
}

impl Coordinator {
    pub(super) fn end(&mut self, now: Now, id: &Arc<str>, token: Token, end: End) {
        let txn = &self.txns[id];
        match judge(txn, &end) {
            Verdict::Refuse(code) => return self.ctx.out.refuse(token, code),
            Verdict::Done => {
                let reply = Reply::Producer {
                    producer: txn.hard.producer,
                    epoch: txn.hard.epoch,
                };
                let written = txn.written;
                return self.ctx.out.reply_after(written, token, reply);
            }
            Verdict::Decide => {}
        }
        let raises = end.version >= 2;
        let used_up = raises && txn.hard.epoch >= EPOCH_LAST;
        if used_up && end.fresh.is_none() {
            return self.ctx.out.reply(token, Reply::NeedsProducer);
        }
        let next = end.fresh.filter(|_| used_up);
        let who = match (raises, next) {
            (_, Some(producer)) => (producer, 0),
            (true, None) => (end.producer, end.epoch + 1),
            (false, None) => (end.producer, end.epoch),
        };
        let (producer, epoch) = who;
        let waiting = vec![(token, Reply::Producer { producer, epoch })];
        self.decide(now, id, (end.commit, raises, next), waiting);
    }

    /// Aborts what is open and fences whoever opened it.
    pub(super) fn fence_and_abort(&mut self, now: Now, id: &Arc<str>) {
        self.decide(now, id, (false, true, None), Vec::new());
    }

    /// Writes the decision down. `raises`: with a new epoch; `next`: and then a new producer id.
    fn decide(
        &mut self,
        now: Now,
        id: &Arc<str>,
        (commit, raises, next): (bool, bool, Option<i64>),
        waiting: Vec<(Token, Reply)>,
    ) {
        let txn = &self.txns[id];
        let (before, mut value) = (txn.hard.epoch, txn.hard.clone());
        if value.status != Status::Ongoing {
            value.partitions.clear();
            value.started_ms = now.wall_ms;
        }
        value.status = match commit {
            true => Status::PrepareCommit,
            false => Status::PrepareAbort,
        };
        if raises {
            value.epoch = before.saturating_add(1);
        }
        value.next_producer = next.unwrap_or(-1);
        value.updated_ms = now.wall_ms;
        self.store(id, Some(value));
        if let Some(txn) = self.txns.get_mut(id) {
            txn.last_epoch = if raises { before } else { txn.last_epoch };
            self.ctx.timers.disarm(txn.timeout.take());
        }
        self.begin_markers(id, waiting);
    }

    /// Has the markers of a decision written, when it is durable.
    pub(super) fn begin_markers(&mut self, id: &Arc<str>, waiting: Vec<(Token, Reply)>) {
        let round = self.ctx.next_round();
        let Some(txn) = self.txns.get_mut(id) else {
            return;
        };
        if !txn.hard.status.is_ending() {
            return;
        }
        let left = txn.hard.partitions.clone();
        let (seq, markers) = (txn.written, markers(id, txn, round, left.clone()));
        txn.ending = Some(Ending {
            round,
            left,
            waiting,
        });
        self.ctx.out.order_after(seq, markers);
    }

    /// Markers were written, but not to `left`, where they can be later. What is gone for good, as
    /// a deleted topic, is not left.
    pub fn marked(&mut self, now: Now, id: &str, round: u64, left: Partitions) -> Effects {
        let id: Arc<str> = id.into();
        let current = self.txns.get_mut(&id).and_then(|t| t.ending.as_mut());
        if let Some(ending) = current.filter(|e| e.round == round)
            && self.ctx.out.failed().is_none()
        {
            if left.is_empty() {
                self.complete(now, &id);
            } else {
                ending.left = left;
                for (token, reply) in std::mem::take(&mut ending.waiting) {
                    self.ctx.out.reply(token, reply);
                }
                let at = now.mono + self.ctx.limits.retry;
                self.ctx.timers.arm(at, Timer::Retry(id, round));
            }
        }
        self.ctx.out.take_effects()
    }

    pub(super) fn retry(&mut self, id: &Arc<str>, round: u64) {
        let Some(txn) = self.txns.get(id) else {
            return;
        };
        if let Some(ending) = txn.ending.as_ref().filter(|e| e.round == round) {
            let again = markers(id, txn, round, ending.left.clone());
            self.ctx.out.order_after(0, again);
        }
    }

    /// All markers are in. The answers need not wait for this to be durable: a start that does not
    /// find it writes the markers again.
    fn complete(&mut self, now: Now, id: &Arc<str>) {
        let Some(txn) = self.txns.get_mut(id) else {
            return;
        };
        let waiting = txn.ending.take().map_or(Vec::new(), |e| e.waiting);
        let mut value = txn.hard.clone();
        value.status = match value.status == Status::PrepareCommit {
            true => Status::CompleteCommit,
            false => Status::CompleteAbort,
        };
        value.partitions.clear();
        value.updated_ms = now.wall_ms;
        if value.next_producer >= 0 {
            value.prev_producer = value.producer;
            (value.producer, value.epoch) = (value.next_producer, 0);
            value.next_producer = -1;
        }
        self.store(id, Some(value));
        for (token, reply) in waiting {
            self.ctx.out.reply(token, reply);
        }
    }
}

fn markers(id: &Arc<str>, txn: &Txn, round: u64, partitions: Partitions) -> Markers {
    Markers {
        id: id.clone(),
        round,
        producer: txn.hard.producer,
        epoch: txn.hard.epoch,
        commit: txn.hard.status == Status::PrepareCommit,
        partitions,
    }
}
