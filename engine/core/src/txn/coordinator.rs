//! The coordinator of the transactional ids of one partition of `__transaction_state`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use streamd_model::{ErrorCode, Mono};

use super::context::{Context, Effects, Limits, Markers, PARTITIONS_MAX, Timer};
use super::record::{Partitions, Status, TxnRecord, TxnValue};
use super::request::{Add, Described, Listed, Reply, Request};
use crate::codec::{Damaged, In, Out};
use crate::machine::{Machine, Now, Record, Token};
use crate::timers::TimerKey;

/// Ids that one tick looks through for old ones.
const EXPIRE_AT_ONCE: usize = 500;

/// The end of a transaction that is under way.
#[derive(Debug)]
pub(super) struct Ending {
    /// Which; answers about an earlier one are late.
    pub round: u64,
    /// Where markers are missing.
    pub left: Partitions,
    /// Who is told when none is.
    pub waiting: Vec<(Token, Reply)>,
}

/// A transactional id.
#[derive(Debug)]
pub(super) struct Txn {
    pub hard: TxnValue,
    /// The epoch before the newest; -1: not known.
    pub last_epoch: i16,
    /// The batch with its newest record.
    pub written: u64,
    pub ending: Option<Ending>,
    pub timeout: Option<TimerKey>,
}

/// See the module of transactions.
pub struct Coordinator {
    pub(super) txns: BTreeMap<Arc<str>, Txn>,
    pub(super) ctx: Context,
}

impl Coordinator {
    /// A coordinator without transactional ids.
    pub fn new(limits: Limits) -> Coordinator {
        Coordinator {
            txns: BTreeMap::new(),
            ctx: Context::new(limits),
        }
    }

    /// Changes durable state: the record goes to the log, and through [`Machine::replay`].
    pub(super) fn store(&mut self, id: &Arc<str>, value: Option<TxnValue>) {
        let record = TxnRecord {
            id: id.clone(),
            value,
        };
        self.replay(&record);
        if let Some(txn) = self.txns.get_mut(id) {
            txn.written = self.ctx.out.next_seq();
        }
        self.ctx.out.push(record);
    }

    /// Checks who a producer says it is, and that nothing is ending.
    fn check(&self, id: &Arc<str>, add: &Add) -> Result<(), ErrorCode> {
        let hard = &self.txns[id].hard;
        if hard.producer != add.producer {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if hard.epoch != add.epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        match hard.status.is_ending() {
            true => Err(ErrorCode::ConcurrentTransactions),
            false => Ok(()),
        }
    }

    fn add(&mut self, now: Now, id: &Arc<str>, token: Token, add: Add) {
        if let Err(code) = self.check(id, &add) {
            return self.ctx.out.refuse(token, code);
        }
        let txn = &self.txns[id];
        let ongoing = txn.hard.status == Status::Ongoing;
        if ongoing && missing(&txn.hard.partitions, &add.partitions).is_empty() {
            let written = txn.written;
            return self
                .ctx
                .out
                .reply_after(written, token, Reply::Code(ErrorCode::None));
        }
        let mut value = txn.hard.clone();
        if !ongoing {
            value.status = Status::Ongoing;
            value.started_ms = now.wall_ms;
            value.partitions.clear();
        }
        for (topic, indexes) in add.partitions {
            value.partitions.entry(topic).or_default().extend(indexes);
        }
        if value.partitions.values().map(|p| p.len()).sum::<usize>() > PARTITIONS_MAX {
            return self.ctx.out.refuse(token, ErrorCode::InvalidRequest);
        }
        value.version = add.version;
        value.updated_ms = now.wall_ms;
        self.store(id, Some(value));
        if !ongoing {
            self.arm_timeout(id, now);
        }
        let seq = self.ctx.out.next_seq();
        self.ctx
            .out
            .reply_after(seq, token, Reply::Code(ErrorCode::None));
    }

    fn verify(&mut self, id: &Arc<str>, token: Token, add: &Add) {
        if let Err(code) = self.check(id, add) {
            return self.ctx.out.refuse(token, code);
        }
        let txn = &self.txns[id];
        let missing = match txn.hard.status {
            Status::Ongoing => missing(&txn.hard.partitions, &add.partitions),
            _ => add.partitions.clone(),
        };
        let written = txn.written;
        self.ctx
            .out
            .reply_after(written, token, Reply::Missing(missing));
    }

    fn describe(&mut self, id: &Arc<str>, token: Token) {
        let txn = &self.txns[id];
        let hard = &txn.hard;
        let open = hard.status == Status::Ongoing || hard.status.is_ending();
        let described = Described {
            status: hard.status,
            producer: hard.producer,
            epoch: hard.epoch,
            timeout_ms: hard.timeout_ms,
            started_ms: if open { hard.started_ms } else { -1 },
            partitions: hard.partitions.clone(),
        };
        let written = txn.written;
        let reply = Reply::Describe(Box::new(described));
        self.ctx.out.reply_after(written, token, reply);
    }

    /// An open transaction is aborted when its time is over.
    pub(super) fn arm_timeout(&mut self, id: &Arc<str>, now: Now) {
        let Some(txn) = self.txns.get_mut(id) else {
            return;
        };
        self.ctx.timers.disarm(txn.timeout.take());
        if txn.hard.status != Status::Ongoing {
            return;
        }
        let end = txn
            .hard
            .started_ms
            .saturating_add(i64::from(txn.hard.timeout_ms));
        // A clock that went backwards must not keep it open for longer than its timeout.
        let left = end
            .saturating_sub(now.wall_ms)
            .min(i64::from(txn.hard.timeout_ms));
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        txn.timeout = Some(
            self.ctx
                .timers
                .arm(now.mono + left, Timer::Timeout(id.clone())),
        );
    }

    fn timed_out(&mut self, now: Now, id: &Arc<str>) {
        let Some(txn) = self.txns.get_mut(id) else {
            return;
        };
        txn.timeout = None;
        if txn.hard.status == Status::Ongoing {
            self.fence_and_abort(now, id);
        }
    }

    fn expire(&mut self, now: Now, from: Option<Arc<str>>) {
        let start = from.map_or(Bound::Unbounded, Bound::Included);
        let all = self.txns.range((start, Bound::Unbounded));
        let mut ids: Vec<_> = all.map(|t| t.0.clone()).take(EXPIRE_AT_ONCE + 1).collect();
        let next = (ids.len() > EXPIRE_AT_ONCE).then(|| ids.pop()).flatten();
        let oldest = now.wall_ms.saturating_sub(self.ctx.limits.id_expiration_ms);
        for id in ids {
            let hard = &self.txns[&id].hard;
            let idle = hard.status != Status::Ongoing && !hard.status.is_ending();
            if idle && hard.updated_ms <= oldest {
                self.store(&id, None);
            }
        }
        let at = match next {
            Some(_) => now.mono,
            None => now.mono + self.ctx.limits.expire_check,
        };
        self.ctx.timers.arm(at, Timer::Expire(next));
    }

    /// All transactional ids, in order.
    pub fn list(&self, now: Now) -> Vec<Listed> {
        let one = |(id, txn): (&Arc<str>, &Txn)| Listed {
            id: id.clone(),
            producer: txn.hard.producer,
            status: txn.hard.status,
            running_ms: match txn.hard.status == Status::Ongoing || txn.hard.status.is_ending() {
                true => now.wall_ms.saturating_sub(txn.hard.started_ms).max(0),
                false => -1,
            },
        };
        self.txns.iter().map(one).collect()
    }
}

impl Machine for Coordinator {
    type Record = TxnRecord;
    type Request = Request;
    type Reply = Reply;
    type Order = Markers;

    fn replay(&mut self, record: &TxnRecord) {
        let Some(value) = &record.value else {
            self.txns.remove(&record.id);
            return;
        };
        if let Some(txn) = self.txns.get_mut(&record.id) {
            txn.hard = value.clone();
            return;
        }
        let txn = Txn {
            hard: value.clone(),
            last_epoch: -1,
            written: 0,
            ending: None,
            timeout: None,
        };
        self.txns.insert(record.id.clone(), txn);
    }

    fn start(&mut self, now: Now) -> Effects {
        let ids: Vec<_> = self.txns.keys().cloned().collect();
        for id in ids {
            self.arm_timeout(&id, now);
            self.begin_markers(&id, Vec::new());
        }
        let at = now.mono + self.ctx.limits.expire_check;
        self.ctx.timers.arm(at, Timer::Expire(None));
        self.ctx.out.take_effects()
    }

    fn handle(&mut self, now: Now, id: &str, token: Token, request: Request) -> Effects {
        let known = self.txns.get_key_value(id).map(|(id, _)| id.clone());
        match (self.ctx.out.failed(), known, request) {
            (Some(code), _, _) => self.ctx.out.refuse(token, code),
            (None, known, Request::Init(init)) => {
                let id = known.unwrap_or_else(|| id.into());
                self.init(now, &id, token, init);
            }
            (None, Some(id), Request::Add(add)) => self.add(now, &id, token, add),
            (None, Some(id), Request::Verify(add)) => self.verify(&id, token, &add),
            (None, Some(id), Request::End(end)) => self.end(now, &id, token, end),
            (None, Some(id), Request::Describe) => self.describe(&id, token),
            (None, None, Request::Describe) => {
                self.ctx
                    .out
                    .refuse(token, ErrorCode::TransactionalIdNotFound);
            }
            (None, None, _) => self
                .ctx
                .out
                .refuse(token, ErrorCode::InvalidProducerIdMapping),
        }
        self.ctx.out.take_effects()
    }

    fn persisted(&mut self, seq: u64) -> Effects {
        self.ctx.out.persisted(seq);
        self.ctx.out.take_effects()
    }

    fn fail(&mut self, code: ErrorCode) -> Effects {
        let endings = self.txns.values_mut().filter_map(|t| t.ending.take());
        let waiting = endings.flat_map(|e| e.waiting);
        let tokens: Vec<_> = waiting.map(|(token, _)| token).collect();
        self.ctx.timers.clear();
        self.ctx.out.fail(code, tokens);
        self.ctx.out.take_effects()
    }

    fn next_tick(&self) -> Option<Mono> {
        self.ctx.timers.next()
    }

    fn tick(&mut self, now: Now) -> Effects {
        match self.ctx.timers.due(now.mono) {
            Some(Timer::Timeout(id)) => self.timed_out(now, &id),
            Some(Timer::Retry(id, round)) => self.retry(&id, round),
            Some(Timer::Expire(from)) => self.expire(now, from),
            None => {}
        }
        self.ctx.out.take_effects()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Out::default();
        for (id, txn) in &self.txns {
            let record = TxnRecord {
                id: id.clone(),
                value: Some(txn.hard.clone()),
            };
            out.bytes(&record.key());
            out.bytes(&record.value().unwrap_or_default());
        }
        out.0
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let mut r = In(bytes);
        while !r.0.is_empty() {
            let key = r.bytes("a transaction record's key")?;
            let value = r.bytes("a transaction record's value")?;
            if let Some(record) = TxnRecord::decode(key, Some(value))? {
                self.replay(&record);
            }
        }
        Ok(())
    }
}

/// Which of `wanted` are not in `there`.
fn missing(there: &Partitions, wanted: &Partitions) -> Partitions {
    let mut missing = Partitions::new();
    for (topic, indexes) in wanted {
        let known = there.get(topic);
        for index in indexes {
            if known.is_none_or(|k| !k.contains(index)) {
                missing.entry(topic.clone()).or_default().insert(*index);
            }
        }
    }
    missing
}
