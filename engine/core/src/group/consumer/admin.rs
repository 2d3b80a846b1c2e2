//! What operators see of a group of the `consumer` protocol, and who may commit offsets in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use streamd_model::{ErrorCode, TopicId};

use super::super::classic::Group;
use super::super::context::Context;
use super::super::record::Parts;
use super::super::request::{ConsumerDescription, ConsumerMember, PartsByTopic, Reply, Who};
use super::Modern;
use crate::machine::Token;
use crate::meta::ClusterImage;

impl Group {
    /// ConsumerGroupDescribe.
    pub fn describe_modern(&self, ctx: &mut Context, token: Token) {
        let Some(modern) = &self.modern else {
            let text = format!("Group {} is not a consumer group.", self.name);
            return ctx.reply(token, Reply::Refused(ErrorCode::GroupIdNotFound, text));
        };
        let image = ctx.image.clone();
        let description = ConsumerDescription {
            state: modern.state(),
            epoch: modern.epoch,
            target_epoch: modern.target_epoch,
            assignor: modern.assignor(ctx).name(),
            members: modern.described(image.as_deref()),
        };
        let reply = Reply::DescribeConsumer(Box::new(description));
        ctx.reply_after(self.written, token, reply);
    }

    /// Whether this member, or somebody outside of the group, may commit. A client `knows` the
    /// protocol since version 9 of OffsetCommit.
    pub fn check_commit_modern(
        &self,
        who: &Who,
        generation: i32,
        knows: bool,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && !self.has_mates() {
            return Ok(());
        }
        let (_, mate) = self.find_mate(who)?;
        let same = generation == mate.now.epoch;
        match mate.is_classic() {
            _ if same && (mate.is_classic() || knows) => Ok(()),
            true => Err(ErrorCode::IllegalGeneration),
            // What else could be said it would not understand.
            false if !knows => Err(ErrorCode::UnsupportedVersion),
            false => Err(ErrorCode::StaleMemberEpoch),
        }
    }

    /// Whether a member that names itself may read the committed offsets.
    pub fn check_fetch(&self, id: &str, epoch: i32) -> Result<(), ErrorCode> {
        if self.modern.is_none() || (id.is_empty() && epoch < 0) {
            return Ok(());
        }
        let who = Who {
            id: id.to_owned(),
            instance: None,
        };
        let (_, mate) = self.find_mate(&who)?;
        match epoch == mate.now.epoch {
            true => Ok(()),
            false => Err(ErrorCode::StaleMemberEpoch),
        }
    }
}

impl Modern {
    fn described(&self, image: Option<&ClusterImage>) -> Vec<ConsumerMember> {
        let by_topic = |parts: &Parts| -> PartsByTopic {
            let ids: BTreeSet<TopicId> = parts.iter().map(|p| p.0).collect();
            let topics = ids.into_iter().filter_map(|id| {
                let name: Arc<str> = image?.topic_by_id(id)?.name.as_str().into();
                let of = parts.range((id, i32::MIN)..=(id, i32::MAX));
                Some((id, name, of.map(|p| p.1).collect()))
            });
            topics.collect()
        };
        let members = self.members.iter().map(|(id, mate)| ConsumerMember {
            id: id.to_string(),
            epoch: mate.now.epoch,
            sub: mate.sub.clone(),
            assigned: by_topic(&mate.now.assigned),
            target: by_topic(&mate.target),
        });
        members.collect()
    }
}
