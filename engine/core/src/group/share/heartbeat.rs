//! ShareGroupHeartbeat: join, stay, leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use streamd_model::{ErrorCode, TopicId};

use super::super::context::{Context, GROUP_BYTES_MAX, MEMBER_BYTES_MAX, Timer};
use super::super::record::{GroupEpoch, Parts, Reads, ShareChange, Worker};
use super::super::request::{Beaten, Reply, ShareBeat};
use super::ShareGroup;
use super::assign::{Want, assign};
use crate::machine::{Now, Token};
use crate::meta::ClusterImage;

/// The epoch of a member that goes.
const LEAVES: i32 = -1;

type Why = (ErrorCode, String);

fn no<T>(code: ErrorCode, text: impl Into<String>) -> Result<T, Why> {
    Err((code, text.into()))
}

impl ShareBeat {
    /// What can be said against it before anything is looked at.
    pub fn check(&self) -> Result<(), Why> {
        let invalid = |text: &str| no(ErrorCode::InvalidRequest, text);
        if self.id.is_empty() {
            return invalid("MemberId can't be empty.");
        }
        if self.rack.as_deref() == Some("") {
            return invalid("RackId can't be empty.");
        }
        match self.epoch {
            ..=-2 => invalid("MemberEpoch is invalid."),
            0 if self.topics.as_ref().is_none_or(Vec::is_empty) => {
                invalid("SubscribedTopicNames must be set in first request.")
            }
            _ => Ok(()),
        }
    }
}

impl ShareGroup {
    /// Answers a heartbeat when all that it shows is durable.
    pub fn beat(&mut self, ctx: &mut Context, now: Now, token: Token, beat: &ShareBeat) {
        match self.try_beat(ctx, now, beat) {
            Ok(beaten) => {
                ctx.reply_after(self.written, token, Reply::Beat(Box::new(beaten)));
            }
            Err((code, text)) => ctx.reply(token, Reply::Refused(code, text)),
        }
    }

    fn try_beat(&mut self, ctx: &mut Context, now: Now, beat: &ShareBeat) -> Result<Beaten, Why> {
        let Some(image) = ctx.image.clone() else {
            let text = "The topics are not known yet.";
            return no(ErrorCode::CoordinatorLoadInProgress, text);
        };
        let id: Arc<str> = beat.id.as_str().into();
        if beat.epoch == LEAVES {
            return self.leaves(ctx, now, &id);
        }
        let worker = self.check(ctx, beat, &image)?;
        let changed = self.members.get(&id).is_none_or(|h| *h.worker != worker);
        if changed {
            self.raise(ctx);
            let change = ShareChange::Member(id.clone(), Some(Arc::new(worker)));
            self.store(ctx, change);
        }
        self.look(ctx, &image, changed);
        self.aim(ctx, now, &image);
        let told = self.advance(ctx, &id) || beat.epoch == 0 || beat.topics.is_some();
        self.heard(ctx, now, &id);
        let now = self
            .members
            .get(&id)
            .map(|h| h.now.clone())
            .unwrap_or_default();
        Ok(Beaten {
            id: beat.id.clone(),
            epoch: now.epoch,
            interval_ms: ctx.share_heartbeat_ms(&self.name),
            assignment: told.then_some(now.assigned),
        })
    }

    /// Whether the member may say this; gives what it says of itself.
    fn check(&self, ctx: &Context, beat: &ShareBeat, image: &ClusterImage) -> Result<Worker, Why> {
        let before = self.members.get(beat.id.as_str());
        let config = &image.broker().groups.share;
        match before {
            None if beat.epoch != 0 => {
                let text = format!("Member {} is not a member of group {}.", beat.id, self.name);
                return no(ErrorCode::UnknownMemberId, text);
            }
            None if self.members.len() >= config.max_size => {
                let text = format!(
                    "The share group has reached its size of {}.",
                    config.max_size
                );
                return no(ErrorCode::GroupMaxSizeReached, text);
            }
            Some(hand) if ![0, hand.now.epoch, hand.now.previous].contains(&beat.epoch) => {
                let text = format!(
                    "The share group member has epoch {}, not {}. It must join again.",
                    hand.now.epoch, beat.epoch
                );
                return no(ErrorCode::FencedMemberEpoch, text);
            }
            _ => {}
        }
        let mut worker = before.map_or_else(Worker::default, |h| (*h.worker).clone());
        if let Some(rack) = &beat.rack {
            worker.rack = Some(rack.clone());
        }
        if let Some(topics) = &beat.topics {
            worker.topics = topics.clone();
            worker.topics.sort_unstable();
            worker.topics.dedup();
        }
        worker.client_id.clone_from(&beat.client_id);
        worker.client_host.clone_from(&beat.client_host);
        let size: usize = worker.topics.iter().map(|t| t.len() + 24).sum();
        if beat.topics.is_some() && self.bytes + size > GROUP_BYTES_MAX {
            let text = "The subscriptions of the group are too large.";
            return no(ErrorCode::InvalidRequest, text);
        }
        if beat.topics.is_some() && ctx.member_bytes + size > MEMBER_BYTES_MAX {
            let text = "The coordinator's memory is full.";
            return no(ErrorCode::CoordinatorNotAvailable, text);
        }
        Ok(worker)
    }

    /// The epoch rises, before the change is written that it rises for.
    fn raise(&mut self, ctx: &mut Context) {
        let value = GroupEpoch {
            epoch: self.epoch.saturating_add(1),
            hash: self.hash,
        };
        self.store(ctx, ShareChange::Epoch(Some(value)));
    }

    /// Looks again at what the topics are. The epoch rises if that changed, unless it was
    /// `raised` in this step.
    fn look(&mut self, ctx: &mut Context, image: &ClusterImage, raised: bool) {
        let hash = self.hash_of(image);
        if hash != self.hash {
            let epoch = self.epoch.saturating_add(i32::from(!raised));
            self.store(ctx, ShareChange::Epoch(Some(GroupEpoch { epoch, hash })));
        }
    }

    /// The topics, or settings, are others now.
    pub fn follow(&mut self, ctx: &mut Context, image: &ClusterImage) {
        if self
            .topics
            .keys()
            .any(|id| image.topic_by_id(*id).is_none())
        {
            let mut left = self.topics.clone();
            left.retain(|id, _| image.topic_by_id(*id).is_some());
            self.store(ctx, ShareChange::Topics(Some(left)));
        }
        self.look(ctx, image, false);
    }

    /// A hash of the topics that are subscribed to, as they are; FNV-1a.
    fn hash_of(&self, image: &ClusterImage) -> i64 {
        let members = self.members.values();
        let names: BTreeSet<&str> = members
            .flat_map(|h| h.worker.topics.iter().map(String::as_str))
            .collect();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for topic in names.into_iter().filter_map(|name| image.topic(name)) {
            for byte in topic.id.0.iter().chain(&topic.partitions.to_be_bytes()) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        hash as i64
    }

    /// Makes a target for the group's epoch, if there is none yet.
    fn aim(&mut self, ctx: &mut Context, now: Now, image: &ClusterImage) {
        if self.epoch <= self.target_epoch {
            return;
        }
        let mut counts: BTreeMap<TopicId, i32> = BTreeMap::new();
        let mut topics = self.topics.clone();
        let wants = self.members.iter().map(|(id, hand)| {
            let of = hand
                .worker
                .topics
                .iter()
                .filter_map(|name| image.topic(name));
            let ids = of.map(|topic| {
                counts.insert(topic.id, topic.partitions);
                let name: Arc<str> = topic.name.as_str().into();
                topics.insert(topic.id, (name, (0..topic.partitions).collect()));
                topic.id
            });
            Want {
                id: id.clone(),
                topics: ids.collect(),
                had: hand.target.clone(),
            }
        });
        let wants: Vec<Want> = wants.collect();
        let shares = assign(&wants, &counts);
        for (want, share) in wants.iter().zip(shares) {
            if *want.had != share {
                let share: Arc<Parts> = Arc::new(share);
                self.store(ctx, ShareChange::Target(want.id.clone(), Some(share)));
            }
        }
        if topics != self.topics {
            self.store(ctx, ShareChange::Topics(Some(topics)));
        }
        let target = Some((self.epoch, now.wall_ms));
        self.store(ctx, ShareChange::TargetEpoch(target));
    }

    /// Brings a member to the target. Whether what it reads has changed, or its epoch.
    fn advance(&mut self, ctx: &mut Context, id: &Arc<str>) -> bool {
        let Some(hand) = self.members.get(id) else {
            return false;
        };
        if hand.now.epoch == self.target_epoch {
            return false;
        }
        let after = Reads {
            epoch: self.target_epoch,
            previous: hand.now.epoch,
            assigned: (*hand.target).clone(),
        };
        self.store(ctx, ShareChange::Current(id.clone(), Some(after)));
        true
    }

    fn leaves(&mut self, ctx: &mut Context, now: Now, id: &Arc<str>) -> Result<Beaten, Why> {
        if !self.members.contains_key(id) {
            let text = format!("Member {id} is not a member of group {}.", self.name);
            return no(ErrorCode::UnknownMemberId, text);
        }
        self.drop_hand(ctx, now, id);
        Ok(Beaten {
            id: id.to_string(),
            epoch: LEAVES,
            interval_ms: 0,
            assignment: None,
        })
    }

    fn drop_hand(&mut self, ctx: &mut Context, now: Now, id: &Arc<str>) {
        let armed = self.members.get_mut(id).and_then(|h| h.armed.take());
        ctx.timers.disarm(armed);
        self.raise(ctx);
        self.store(ctx, ShareChange::Current(id.clone(), None));
        self.store(ctx, ShareChange::Target(id.clone(), None));
        self.store(ctx, ShareChange::Member(id.clone(), None));
        if let Some(image) = ctx.image.clone() {
            self.look(ctx, &image, true);
            // Nobody else may come: what it read needs another reader with the next heartbeat.
            self.aim(ctx, now, &image);
        }
    }

    /// A member was heard of.
    fn heard(&mut self, ctx: &mut Context, now: Now, id: &Arc<str>) {
        let ms = u64::try_from(ctx.share_session_ms(&self.name)).unwrap_or(0);
        let name = self.name.clone();
        if let Some(hand) = self.members.get_mut(id) {
            hand.deadline = now.mono + Duration::from_millis(ms);
            if hand.armed.is_none_or(|key| key.0 > hand.deadline) {
                ctx.timers.disarm(hand.armed);
                hand.armed = Some(ctx.timers.arm(hand.deadline, Timer::Hand(name, id.clone())));
            }
        }
    }

    /// A member's timer has gone off.
    pub fn hand_timeout(&mut self, ctx: &mut Context, now: Now, id: &Arc<str>) {
        let name = self.name.clone();
        let Some(hand) = self.members.get_mut(id) else {
            return;
        };
        hand.armed = None;
        if hand.deadline > now.mono {
            hand.armed = Some(ctx.timers.arm(hand.deadline, Timer::Hand(name, id.clone())));
            return;
        }
        self.drop_hand(ctx, now, id);
    }

    /// Begins anew from the durable state: members get their session's time to be heard of.
    pub fn restore(&mut self, ctx: &mut Context, now: Now) {
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            self.heard(ctx, now, &id);
        }
    }
}
