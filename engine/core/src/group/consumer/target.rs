//! Epochs of a group, and the target that is made for each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streamd_model::TopicId;

use super::super::classic::Group;
use super::super::context::Context;
use super::super::record::{ConsumerChange, GroupEpoch, GroupRecord, Parts, Resolved};
use super::assign::{Assignor, Counts, Wants};
use super::{Modern, Why};
use crate::machine::Now;
use crate::meta::ClusterImage;
use crate::pattern::Pattern;

/// Makes a regular expression that matches whole names.
pub(super) fn compile(pattern: &str) -> Result<Pattern, Why> {
    Pattern::new("SubscribedTopicRegex", pattern)
}

impl Modern {
    /// A hash of the topics that are subscribed to, as they are.
    fn hash_of(&self, image: &ClusterImage) -> i64 {
        // FNV-1a; 0 is what a group without topics has.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut any = false;
        for topic in self
            .topics()
            .into_iter()
            .filter_map(|name| image.topic(name))
        {
            any = true;
            let count = topic.partitions.to_be_bytes();
            for byte in topic.id.0.iter().chain(&count) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        if any { hash as i64 } else { 0 }
    }

    /// The assignor that most members want; the broker's first one if nobody says.
    pub fn assignor(&self, ctx: &Context) -> Assignor {
        let default = ctx.limits.consumer.assignors.first().copied();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self
            .members
            .values()
            .filter_map(|m| m.sub.assignor.as_deref())
        {
            *votes.entry(name).or_default() += 1;
        }
        let best = votes
            .into_iter()
            .max_by_key(|(name, n)| (*n, std::cmp::Reverse(*name)));
        let chosen = best.and_then(|(name, _)| Assignor::named(name));
        chosen.or(default).unwrap_or(Assignor::Uniform)
    }

    fn wants(&self, image: &ClusterImage) -> (Vec<Wants>, Counts) {
        let mut counts = Counts::new();
        let members = self.members.iter().map(|(id, mate)| {
            let names = self.topics_of(&mate.sub);
            let topics = names.filter_map(|name| image.topic(name)).map(|topic| {
                counts.insert(topic.id, topic.partitions);
                topic.id
            });
            Wants {
                id: id.clone(),
                instance: mate.sub.instance.clone(),
                topics: topics.collect::<BTreeSet<TopicId>>(),
                had: mate.target.clone(),
            }
        });
        (members.collect(), counts)
    }
}

impl Group {
    /// Changes durable state.
    pub(super) fn change(&mut self, ctx: &mut Context, change: ConsumerChange) {
        let group = self.name.clone();
        self.store(ctx, GroupRecord::Consumer { group, change });
    }

    /// The epoch rises, before the change is written that it rises for: should only a part of a
    /// step become durable, then a new target is due.
    pub(super) fn raise(&mut self, ctx: &mut Context) {
        if let Some(modern) = &self.modern {
            let epoch = modern.epoch.saturating_add(1);
            let hash = modern.hash;
            let value = GroupEpoch { epoch, hash };
            self.change(ctx, ConsumerChange::Epoch(Some(value)));
        }
    }

    /// Looks again at what the topics are. The epoch rises if that changed, unless it was
    /// `raised` in this step.
    pub(in super::super) fn look(&mut self, ctx: &mut Context, now: Now, raised: bool) {
        let Some(image) = ctx.image.clone() else {
            return;
        };
        self.match_topics(ctx, now, &image);
        let Some(modern) = &self.modern else {
            return;
        };
        let hash = modern.hash_of(&image);
        if hash != modern.hash {
            let epoch = modern.epoch.saturating_add(i32::from(!raised));
            let value = GroupEpoch { epoch, hash };
            self.change(ctx, ConsumerChange::Epoch(Some(value)));
        }
    }

    /// Finds the topics of regular expressions.
    fn match_topics(&mut self, ctx: &mut Context, now: Now, image: &ClusterImage) {
        let Some(modern) = &self.modern else {
            return;
        };
        let members = modern.members.values();
        let used: BTreeSet<&str> = members.filter_map(|m| m.sub.regex.as_deref()).collect();
        let mut changes = Vec::new();
        for regex in modern.regexes.keys().filter(|r| !used.contains(&***r)) {
            changes.push(ConsumerChange::Regex(regex.clone(), None));
        }
        for pattern in used {
            // What came over from elsewhere may be no expression here: it matches nothing.
            let names = match compile(pattern) {
                Ok(regex) => matching(&regex, image),
                Err(_) => Vec::new(),
            };
            if modern
                .regexes
                .get(pattern)
                .is_some_and(|r| r.topics == names)
            {
                continue;
            }
            let found = Resolved {
                topics: names,
                version: i64::try_from(image.version()).unwrap_or(i64::MAX),
                at_ms: now.wall_ms,
            };
            changes.push(ConsumerChange::Regex(pattern.into(), Some(found)));
        }
        for change in changes {
            self.change(ctx, change);
        }
    }

    /// Makes a target for the group's epoch, if there is none yet.
    pub(super) fn aim(&mut self, ctx: &mut Context) {
        let (Some(modern), Some(image)) = (&self.modern, ctx.image.clone()) else {
            return;
        };
        if modern.epoch <= modern.target_epoch {
            return;
        }
        let epoch = modern.epoch;
        let (wants, counts) = modern.wants(&image);
        let shares = modern.assignor(ctx).assign(&wants, &counts);
        let mut changes = Vec::new();
        for (member, share) in wants.iter().zip(shares) {
            // A member that has nothing has no record, unless it had one.
            if *member.had != share {
                let share: Arc<Parts> = Arc::new(share);
                changes.push(ConsumerChange::Target(member.id.clone(), Some(share)));
            }
        }
        changes.push(ConsumerChange::TargetEpoch(Some(epoch)));
        for change in changes {
            self.change(ctx, change);
        }
    }
}

fn matching(regex: &Pattern, image: &ClusterImage) -> Vec<String> {
    let topics = image.topics().filter(|topic| regex.matches(&topic.name));
    topics.map(|topic| topic.name.clone()).collect()
}
