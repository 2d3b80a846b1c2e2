//! Offsets that are committed in transactions: pending until the transaction's marker is in the
//! log, then committed or dropped, in the order of the log at the marker.
//!
//! Invariant: `Offsets::pending` counts what is pending of a group, so that it is not
//! forgotten meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use streamd_model::ErrorCode;

use super::classic::{Group, State};
use super::context::Context;
use super::coordinator::Coordinator;
use super::record::{Committed, GroupRecord};
use super::request::{Fetched, PartitionCodes, Reply, TxnCommit};
use crate::codec::{Damaged, In, Out};
use crate::machine::{Machine, Now, Record, Token};

/// The most pending offsets of one coordinator.
const PENDING_MAX: usize = 500_000;
/// The kind of a pending offset's key in a checkpoint; no record has it.
const PENDING_KIND: i16 = -1;

/// The pending offsets of a coordinator.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Pending {
    /// By producer, in the order of the log.
    txns: BTreeMap<i64, Vec<GroupRecord>>,
    count: usize,
}

impl Pending {
    /// Marks the partitions of a group for which an offset is pending.
    pub fn mark(&self, group: &str, found: &mut [Fetched]) {
        for record in self.txns.values().flatten() {
            let GroupRecord::Offset {
                group: of,
                topic,
                partition,
                ..
            } = record
            else {
                continue;
            };
            if **of == *group
                && let Some(fetched) = found.iter_mut().find(|f| f.name == *topic)
                && !fetched.unstable.contains(partition)
            {
                fetched.unstable.push(*partition);
            }
        }
    }
}

impl Coordinator {
    /// Folds in an offset that was committed in a transaction of `producer`.
    pub fn replay_txn(&mut self, producer: i64, record: &GroupRecord) {
        let name = record.group();
        let group = self.groups.entry(name.clone());
        group
            .or_insert_with(|| Group::new(name.clone()))
            .offsets
            .pending += 1;
        self.ctx.pending.add(producer, record);
    }

    /// Folds in a marker.
    pub fn replay_marker(&mut self, producer: i64, commit: bool) {
        for record in self.ctx.pending.take(producer) {
            let name = record.group().clone();
            if let Some(group) = self.groups.get_mut(&name) {
                group.offsets.pending = group.offsets.pending.saturating_sub(1);
            }
            if commit {
                self.replay(&record);
            } else {
                self.sweep(&name);
            }
        }
    }

    /// A marker was appended. Gives what [`Machine::persisted`] is told when it is durable.
    pub fn marker(&mut self, producer: i64, commit: bool) -> u64 {
        let seq = self.ctx.out.skip_seq();
        for name in self.ctx.pending.groups(producer) {
            if let Some(group) = self.groups.get_mut(&name) {
                group.written = seq;
            }
        }
        self.replay_marker(producer, commit);
        seq
    }

    /// What is pending, for a checkpoint.
    pub(super) fn encode_pending(&self, out: &mut Out) {
        for (producer, records) in &self.ctx.pending.txns {
            for record in records {
                let mut key = PENDING_KIND.to_be_bytes().to_vec();
                key.extend_from_slice(&producer.to_be_bytes());
                key.extend_from_slice(&record.key());
                out.bytes(&key);
                out.bytes(&record.value().unwrap_or_default());
            }
        }
    }

    /// Reads a part of a checkpoint; false if it is nothing pending.
    pub(super) fn decode_pending(&mut self, key: &[u8], value: &[u8]) -> Result<bool, Damaged> {
        let Some(rest) = key.strip_prefix(&PENDING_KIND.to_be_bytes()) else {
            return Ok(false);
        };
        let mut r = In(rest);
        let producer = i64::from_be_bytes(r.array("a pending offset's producer")?);
        if let Some(record) = GroupRecord::decode(r.0, Some(value))? {
            self.replay_txn(producer, &record);
        }
        Ok(true)
    }
}

impl Pending {
    fn add(&mut self, producer: i64, record: &GroupRecord) {
        self.txns.entry(producer).or_default().push(record.clone());
        self.count += 1;
    }

    fn take(&mut self, producer: i64) -> Vec<GroupRecord> {
        let taken = self.txns.remove(&producer).unwrap_or_default();
        self.count -= taken.len();
        taken
    }

    fn groups(&self, producer: i64) -> Vec<Arc<str>> {
        let records = self.txns.get(&producer).into_iter().flatten();
        records.map(|r| r.group().clone()).collect()
    }
}

impl Group {
    /// Commits offsets in a transaction; the answer waits until they are durable.
    pub fn txn_commit(&mut self, ctx: &mut Context, now: Now, token: Token, txn: TxnCommit) {
        if let Err(code) = self.check_txn_commit(&txn) {
            return ctx.reply(token, Reply::Code(code));
        }
        let commit = txn.commit;
        if matches!(self.state, State::Stable | State::Preparing) {
            self.heard(ctx, now.mono, &commit.who.id);
        }
        let mut codes = PartitionCodes::with_capacity(commit.topics.len());
        for topic in commit.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for p in topic.partitions {
                let code = match ctx.pending.count < PENDING_MAX {
                    true => ctx.check_metadata(&p.metadata),
                    false => ErrorCode::InvalidCommitOffsetSize,
                };
                partitions.push((p.index, code));
                if code.is_err() {
                    continue;
                }
                let record = GroupRecord::Offset {
                    group: self.name.clone(),
                    topic: topic.name.clone(),
                    partition: p.index,
                    value: Some(Committed {
                        offset: p.offset,
                        leader_epoch: p.leader_epoch,
                        metadata: p.metadata,
                        commit_ms: now.wall_ms,
                        expire_ms: None,
                        topic_id: topic.id,
                    }),
                };
                ctx.pending.add(txn.producer, &record);
                self.offsets.pending += 1;
                self.written = ctx.out.next_seq();
                ctx.out.push_in_txn((txn.producer, txn.epoch), record);
            }
            codes.push((topic.name, partitions));
        }
        ctx.reply_after(self.written, token, Reply::Partitions(codes));
    }

    /// As for a plain commit, but whoever names no member may commit to a group with members, and
    /// a rebalance does not stand in the way.
    fn check_txn_commit(&self, txn: &TxnCommit) -> Result<(), ErrorCode> {
        let commit = &txn.commit;
        if self.modern.is_some() {
            let is_nobody = commit.who.id.is_empty() && commit.who.instance.is_none();
            if commit.generation < 0 && is_nobody {
                return Ok(());
            }
            let checked = self.check_commit_modern(&commit.who, commit.generation, true);
            return checked.map_err(|code| match code {
                ErrorCode::StaleMemberEpoch => ErrorCode::IllegalGeneration,
                code => code,
            });
        }
        if commit.generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        self.check_committer(commit).map(|_| ())
    }
}
