//! What goes out of a machine: records to write, and answers and orders, which leave when what
//! they stand on is durable.
//!
//! Invariants: batches are numbered from 1 without gaps and become durable in this order; nothing
//! that waits for a batch leaves before it is durable.

use std::collections::{BTreeMap, BTreeSet};

use streamd_model::ErrorCode;

use crate::machine::{Batch, Effects, Machine, Token};

/// See the module.
pub(crate) struct Outbox<M: Machine> {
    records: Vec<M::Record>,
    txn: Option<(i64, i16)>,
    replies: Vec<(Token, M::Reply)>,
    orders: Vec<M::Order>,
    /// What waits for batches.
    held: BTreeMap<(u64, Token), M::Reply>,
    held_orders: BTreeMap<u64, Vec<M::Order>>,
    /// durable <= written.
    written: u64,
    durable: u64,
    failed: Option<ErrorCode>,
}

impl<M: Machine> Default for Outbox<M> {
    fn default() -> Self {
        Outbox {
            records: Vec::new(),
            txn: None,
            replies: Vec::new(),
            orders: Vec::new(),
            held: BTreeMap::new(),
            held_orders: BTreeMap::new(),
            written: 0,
            durable: 0,
            failed: None,
        }
    }
}

impl<M: Machine> Outbox<M> {
    /// The sequence number of the batch that this step writes, if it writes.
    pub fn next_seq(&self) -> u64 {
        self.written + 1
    }

    /// Takes a number as for a batch, for something that the driver wrote by itself.
    pub fn skip_seq(&mut self) -> u64 {
        self.written += 1;
        self.written
    }

    /// Queues a record. Whoever calls it replays the record as well.
    pub fn push(&mut self, record: M::Record) {
        self.records.push(record);
    }

    /// Queues a record of a transaction. A step queues such ones or others, not both.
    pub fn push_in_txn(&mut self, writer: (i64, i16), record: M::Record) {
        assert!(
            self.txn.is_some() || self.records.is_empty(),
            "a mixed step"
        );
        self.txn = Some(writer);
        self.records.push(record);
    }

    /// Answers now.
    pub fn reply(&mut self, token: Token, reply: M::Reply) {
        self.replies.push((token, reply));
    }

    /// Answers with a code, now.
    pub fn refuse(&mut self, token: Token, code: ErrorCode) {
        self.reply(token, code.into());
    }

    /// Answers when batch `seq` is durable.
    pub fn reply_after(&mut self, seq: u64, token: Token, reply: M::Reply) {
        if seq <= self.durable {
            return self.reply(token, reply);
        }
        self.held.insert((seq, token), reply);
    }

    /// Has something done when batch `seq` is durable.
    pub fn order_after(&mut self, seq: u64, order: M::Order) {
        match seq <= self.durable {
            true => self.orders.push(order),
            false => self.held_orders.entry(seq).or_default().push(order),
        }
    }

    /// Forgets what waits for a write to be answered.
    pub fn withdraw(&mut self, token: Token) {
        self.held.retain(|(_, t), _| *t != token);
    }

    /// Ends a step.
    pub fn take_effects(&mut self) -> Effects<M> {
        let records = std::mem::take(&mut self.records);
        let persist = (!records.is_empty()).then(|| {
            self.written += 1;
            let seq = self.written;
            let txn = self.txn.take();
            Batch { seq, txn, records }
        });
        Effects {
            persist,
            replies: std::mem::take(&mut self.replies),
            orders: std::mem::take(&mut self.orders),
        }
    }

    /// Batches up to `seq` are durable. After a failure that is no news.
    pub fn persisted(&mut self, seq: u64) {
        if self.failed.is_some() {
            return;
        }
        assert!(
            self.durable <= seq && seq <= self.written,
            "batch {seq} of {} is durable after {}",
            self.written,
            self.durable
        );
        self.durable = seq;
        while let Some(entry) = self.held.first_entry() {
            if entry.key().0 > seq {
                break;
            }
            let ((_, token), reply) = entry.remove_entry();
            self.replies.push((token, reply));
        }
        while let Some(entry) = self.held_orders.first_entry() {
            if *entry.key() > seq {
                break;
            }
            self.orders.extend(entry.remove());
        }
    }

    /// Nothing will be durable any more: everybody who waits is told so, and the `others` are.
    pub fn fail(&mut self, code: ErrorCode, others: impl IntoIterator<Item = Token>) {
        self.failed = Some(code);
        self.records.clear();
        self.orders.clear();
        self.held_orders.clear();
        let waiting: BTreeSet<Token> = std::mem::take(&mut self.held)
            .into_keys()
            .map(|(_, token)| token)
            .chain(others)
            .collect();
        self.replies
            .extend(waiting.into_iter().map(|t| (t, code.into())));
    }

    /// Why nothing is done any more, if so.
    pub fn failed(&self) -> Option<ErrorCode> {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::{Coordinator, GroupRecord, Reply};
    use crate::txn;

    type Answers = Vec<(Token, Reply)>;

    fn record() -> GroupRecord {
        GroupRecord::Group {
            group: "g".into(),
            value: None,
        }
    }

    fn code(code: ErrorCode) -> Reply {
        Reply::Code(code)
    }

    fn ok() -> Reply {
        code(ErrorCode::None)
    }

    /// Ends a step: the number of its batch and the answers that left.
    fn step(out: &mut Outbox<Coordinator>) -> (Option<u64>, Answers) {
        let effects = out.take_effects();
        (effects.persist.map(|b| b.seq), effects.replies)
    }

    #[test]
    fn an_answer_leaves_when_its_batch_is_durable_and_not_before() {
        let mut out = Outbox::<Coordinator>::default();
        for token in [1, 2] {
            out.push(record());
            out.reply_after(out.next_seq(), Token(token), ok());
            assert_eq!(step(&mut out), (Some(token), vec![]));
        }
        out.persisted(1);
        assert_eq!(step(&mut out), (None, vec![(Token(1), ok())]));
        out.reply_after(1, Token(3), ok());
        out.reply_after(2, Token(4), ok());
        assert_eq!(step(&mut out), (None, vec![(Token(3), ok())]));
        out.withdraw(Token(2));
        out.persisted(2);
        assert_eq!(step(&mut out), (None, vec![(Token(4), ok())]));
        assert_eq!(
            out.skip_seq(),
            3,
            "a number that the driver's own write has"
        );
        assert_eq!(out.next_seq(), 4);
    }

    #[test]
    fn one_batch_can_make_several_durable() {
        let mut out = Outbox::<Coordinator>::default();
        for token in [1, 2, 3] {
            out.push(record());
            out.reply_after(out.next_seq(), Token(token), ok());
            let _ = step(&mut out);
        }
        out.persisted(2);
        let both = vec![(Token(1), ok()), (Token(2), ok())];
        assert_eq!(step(&mut out), (None, both));
    }

    #[test]
    #[should_panic(expected = "batch 1 of 0 is durable after 0")]
    fn what_was_not_written_is_not_durable() {
        Outbox::<Coordinator>::default().persisted(1);
    }

    #[test]
    #[should_panic(expected = "a mixed step")]
    fn a_step_does_not_mix_transactions_with_other_records() {
        let mut out = Outbox::<Coordinator>::default();
        out.push(record());
        out.push_in_txn((1, 0), record());
    }

    #[test]
    fn a_batch_of_a_transaction_names_it_and_the_next_one_does_not() {
        let mut out = Outbox::<Coordinator>::default();
        out.push_in_txn((7, 1), record());
        out.push_in_txn((7, 1), record());
        let batch = out.take_effects().persist.expect("a batch");
        assert_eq!((batch.txn, batch.records.len()), (Some((7, 1)), 2));
        out.push(record());
        let batch = out.take_effects().persist.expect("a batch");
        assert_eq!((batch.seq, batch.txn), (2, None));
    }

    #[test]
    fn after_a_failure_everybody_is_told_once_and_nothing_is_written() {
        let mut out = Outbox::<Coordinator>::default();
        out.push(record());
        out.reply_after(1, Token(5), ok());
        out.reply_after(2, Token(5), ok());
        let (seq, _) = step(&mut out);
        out.push(record());
        out.fail(ErrorCode::CoordinatorNotAvailable, [Token(2), Token(5)]);
        assert_eq!(out.failed(), Some(ErrorCode::CoordinatorNotAvailable));
        let failed = || code(ErrorCode::CoordinatorNotAvailable);
        let told = vec![(Token(2), failed()), (Token(5), failed())];
        assert_eq!(step(&mut out), (None, told));
        out.persisted(seq.expect("a batch"));
        assert_eq!(step(&mut out), (None, vec![]), "a late write is no news");
    }

    #[test]
    fn orders_wait_for_writes_as_answers_do() {
        let markers = |round| txn::Markers {
            id: "t".into(),
            round,
            producer: 1,
            epoch: 0,
            commit: true,
            partitions: txn::Partitions::new(),
        };
        let rounds = |out: &mut Outbox<txn::Coordinator>| {
            let orders = out.take_effects().orders;
            orders.into_iter().map(|m| m.round).collect::<Vec<_>>()
        };
        let mut out = Outbox::<txn::Coordinator>::default();
        out.order_after(0, markers(1));
        assert_eq!(rounds(&mut out), [1]);
        let (first, second) = (out.skip_seq(), out.skip_seq());
        out.order_after(second, markers(2));
        out.order_after(first, markers(3));
        out.order_after(first, markers(4));
        assert_eq!(rounds(&mut out), [0; 0]);
        out.persisted(first);
        assert_eq!(rounds(&mut out), [3, 4]);
        out.fail(ErrorCode::CoordinatorNotAvailable, []);
        out.persisted(second);
        assert_eq!(rounds(&mut out), [0; 0], "nothing is carried out any more");
    }
}
