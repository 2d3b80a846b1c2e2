//! What operators see and do of a share group.

use std::collections::BTreeSet;
use std::sync::Arc;

use streamd_model::{ErrorCode, TopicId};

use super::super::context::Context;
use super::super::record::{Parts, ShareChange, ShareTopics};
use super::super::request::{
    GroupKind, Listed, PartsByTopic, Reply, ShareDescription, ShareMember,
};
use super::ShareGroup;
use super::assign::NAME;
use crate::machine::Token;
use crate::meta::ClusterImage;

impl ShareGroup {
    /// ShareGroupDescribe.
    pub fn describe(&self, ctx: &mut Context, token: Token) {
        let image = ctx.image.clone();
        let members = self.members.iter().map(|(id, hand)| ShareMember {
            id: id.to_string(),
            epoch: hand.now.epoch,
            worker: hand.worker.clone(),
            assigned: by_topic(&hand.now.assigned, image.as_deref()),
        });
        let description = ShareDescription {
            state: self.state(),
            epoch: self.epoch,
            target_epoch: self.target_epoch,
            assignor: NAME,
            members: members.collect(),
        };
        let reply = Reply::DescribeShare(Box::new(description));
        ctx.reply_after(self.written, token, reply);
    }

    /// The topics of which there are share-partitions, and whether the group is empty.
    pub fn show_topics(&self, ctx: &mut Context, token: Token) {
        let reply = Reply::ShareTopics(self.topics.clone(), self.members.is_empty());
        ctx.reply_after(self.written, token, reply);
    }

    /// Notes topics of which there are share-partitions from now on, and others of which there
    /// are none any more, unless the group has members.
    pub fn set_topics(
        &mut self,
        ctx: &mut Context,
        token: Token,
        (more, fewer): (ShareTopics, Vec<TopicId>),
    ) {
        if !self.members.is_empty() {
            return ctx.reply(token, Reply::Code(ErrorCode::NonEmptyGroup));
        }
        let mut topics = self.topics.clone();
        for (id, (name, partitions)) in more {
            let all = topics.entry(id).or_insert((name, Vec::new()));
            let both: BTreeSet<i32> = all.1.drain(..).chain(partitions).collect();
            all.1 = both.into_iter().collect();
        }
        topics.retain(|id, _| !fewer.contains(id));
        if topics != self.topics {
            self.store(ctx, ShareChange::Topics(Some(topics)));
        }
        ctx.reply_after(self.written, token, Reply::Code(ErrorCode::None));
    }

    /// Forgets everything about the group, unless it has members.
    pub fn delete(&mut self, ctx: &mut Context, token: Token) {
        if !self.members.is_empty() {
            return ctx.reply(token, Reply::Code(ErrorCode::NonEmptyGroup));
        }
        self.store(ctx, ShareChange::Topics(None));
        self.store(ctx, ShareChange::TargetEpoch(None));
        self.store(ctx, ShareChange::Epoch(None));
        ctx.reply_after(self.written, token, Reply::Code(ErrorCode::None));
    }

    /// The group in a list.
    pub fn listed(&self) -> Listed {
        Listed {
            group: self.name.clone(),
            kind: GroupKind::Share,
            protocol_type: "share".to_owned(),
            state: self.state(),
        }
    }
}

fn by_topic(parts: &Parts, image: Option<&ClusterImage>) -> PartsByTopic {
    let ids: BTreeSet<TopicId> = parts.iter().map(|p| p.0).collect();
    let topics = ids.into_iter().filter_map(|id| {
        let name: Arc<str> = image?.topic_by_id(id)?.name.as_str().into();
        let of = parts.range((id, i32::MIN)..=(id, i32::MAX));
        Some((id, name, of.map(|p| p.1).collect()))
    });
    topics.collect()
}
