//! Offsets, and what operators ask: commit, fetch, describe, delete.

use std::sync::Arc;

use streamd_model::ErrorCode;

use super::classic::{Group, State};
use super::context::{Context, OFFSETS_MAX};
use super::record::{Committed, GroupRecord};
use super::request::{Commit, Description, Listed, PartitionCodes, Reply};
use crate::machine::{Now, Token};

impl Group {
    /// Commits offsets; the answer waits until they are durable.
    pub fn commit(&mut self, ctx: &mut Context, now: Now, token: Token, commit: Commit) {
        if let Err(code) = self.check_commit(&commit) {
            return ctx.reply(token, Reply::Code(code));
        }
        if matches!(self.state, State::Stable | State::Preparing) {
            self.heard(ctx, now.mono, &commit.who.id);
        }
        let expire_ms = commit.retention_ms.map(|ms| now.wall_ms.saturating_add(ms));
        let mut codes = PartitionCodes::with_capacity(commit.topics.len());
        for topic in commit.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for p in topic.partitions {
                let value = Committed {
                    offset: p.offset,
                    leader_epoch: p.leader_epoch,
                    metadata: p.metadata,
                    commit_ms: now.wall_ms,
                    expire_ms,
                    topic_id: topic.id,
                };
                let code = self.commit_one(ctx, &topic.name, p.index, value);
                partitions.push((p.index, code));
            }
            codes.push((topic.name, partitions));
        }
        ctx.reply_after(self.written, token, Reply::Partitions(codes));
    }

    fn commit_one(
        &mut self,
        ctx: &mut Context,
        topic: &Arc<str>,
        partition: i32,
        value: Committed,
    ) -> ErrorCode {
        let code = ctx.check_metadata(&value.metadata);
        if code.is_err() {
            return code;
        }
        if ctx.offsets >= OFFSETS_MAX && self.offsets.get(topic, partition).is_none() {
            return ErrorCode::InvalidCommitOffsetSize;
        }
        self.store_offset(ctx, topic, partition, Some(value));
        ErrorCode::None
    }

    /// Writes an offset, or its tombstone.
    pub fn store_offset(
        &mut self,
        ctx: &mut Context,
        topic: &Arc<str>,
        partition: i32,
        value: Option<Committed>,
    ) {
        let record = GroupRecord::Offset {
            group: self.name.clone(),
            topic: topic.clone(),
            partition,
            value,
        };
        self.store(ctx, record);
    }

    /// Whether a commit says which member it is of; then it is one of this generation.
    pub fn check_committer(&self, commit: &Commit) -> Result<bool, ErrorCode> {
        let who = &commit.who;
        if commit.generation < 0 && who.id.is_empty() && who.instance.is_none() {
            return Ok(false);
        }
        self.check_member(who)?;
        match commit.generation == self.generation {
            true => Ok(true),
            false => Err(ErrorCode::IllegalGeneration),
        }
    }

    fn check_commit(&self, commit: &Commit) -> Result<(), ErrorCode> {
        if self.modern.is_some() {
            let knows = commit.knows_not_found;
            return self.check_commit_modern(&commit.who, commit.generation, knows);
        }
        if commit.generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if !self.check_committer(commit)? && self.state != State::Empty {
            return Err(ErrorCode::UnknownMemberId);
        }
        match self.state {
            State::Completing => Err(ErrorCode::RebalanceInProgress),
            State::Empty | State::Preparing | State::Stable => Ok(()),
        }
    }

    /// Forgets offsets, unless members read the topic.
    pub fn delete_offsets(
        &mut self,
        ctx: &mut Context,
        token: Token,
        topics: Vec<(Arc<str>, Vec<i32>)>,
    ) {
        let is_consumer =
            self.modern.is_some() || self.protocol_type.as_deref() == Some("consumer");
        if self.state != State::Empty && !is_consumer {
            return ctx.reply(token, Reply::Code(ErrorCode::NonEmptyGroup));
        }
        let subscribed = self.subscribed();
        let mut codes = PartitionCodes::with_capacity(topics.len());
        for (topic, partitions) in topics {
            let read = match &subscribed {
                Some(all) => all.contains(&*topic),
                None => is_consumer,
            };
            let code = match read {
                true => ErrorCode::GroupSubscribedToTopic,
                false => ErrorCode::None,
            };
            for p in &partitions {
                if !read && self.offsets.get(&topic, *p).is_some() {
                    self.store_offset(ctx, &topic, *p, None);
                }
            }
            codes.push((topic, partitions.into_iter().map(|p| (p, code)).collect()));
        }
        ctx.reply_after(self.written, token, Reply::Partitions(codes));
    }

    /// Forgets everything about the group, unless it has members.
    pub fn delete(&mut self, ctx: &mut Context, token: Token) {
        if self.state != State::Empty || self.has_mates() {
            return ctx.reply(token, Reply::Code(ErrorCode::NonEmptyGroup));
        }
        self.forget(ctx);
        ctx.reply_after(self.written, token, Reply::Code(ErrorCode::None));
    }

    /// Whether it has members of the `consumer` protocol's kind.
    pub fn has_mates(&self) -> bool {
        self.modern.as_ref().is_some_and(|m| !m.members.is_empty())
    }

    /// Writes tombstones for everything.
    pub fn forget(&mut self, ctx: &mut Context) {
        let offsets = self.offsets.iter();
        let keys: Vec<_> = offsets.map(|(topic, p, _)| (topic.clone(), p)).collect();
        for (topic, p) in keys {
            self.store_offset(ctx, &topic, p, None);
        }
        self.forget_modern(ctx);
        if self.hard.is_some() {
            let group = self.name.clone();
            self.store(ctx, GroupRecord::Group { group, value: None });
            self.protocol_type = None;
            self.generation = 0;
        }
    }

    /// What operators see.
    pub fn describe(&self) -> Description {
        let protocol = self
            .protocol
            .as_deref()
            .filter(|_| self.state == State::Stable);
        Description {
            state: self.state.name(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: protocol.unwrap_or_default().to_owned(),
            members: self
                .members
                .values()
                .map(|m| m.describe(protocol))
                .collect(),
        }
    }

    /// The group in a list.
    pub fn listed(&self) -> Listed {
        if let Some(modern) = &self.modern {
            return Listed {
                group: self.name.clone(),
                is_modern: true,
                protocol_type: "consumer".to_owned(),
                state: modern.state(),
            };
        }
        Listed {
            group: self.name.clone(),
            is_modern: false,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            state: self.state.name(),
        }
    }
}
