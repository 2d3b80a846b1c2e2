//! ConsumerGroupHeartbeat: join, stay, leave.

use std::sync::Arc;

use streamd_model::ErrorCode;

use super::super::classic::Group;
use super::super::context::{Context, GROUP_BYTES_MAX, MEMBER_BYTES_MAX};
use super::super::record::{ConsumerChange, Current, Parts, Phase, Subscription};
use super::super::request::{Beat, Beaten, Reply};
use super::assign::Assignor;
use super::reconcile::{Aim, step};
use super::target::compile;
use super::{AWAY, LEAVES, Modern, Why};
use crate::machine::{Now, Token};

/// Refuses with a code and a sentence.
pub(super) fn no<T>(code: ErrorCode, text: impl Into<String>) -> Result<T, Why> {
    Err((code, text.into()))
}

/// Who asks, once that is settled.
pub(super) struct Caller {
    pub id: Arc<str>,
    /// The member whose place it takes: the same instance under an older id.
    pub replaces: Option<Arc<str>>,
    pub is_new: bool,
}

impl Beat {
    /// Whether everything is said, as after an error: then everything is answered.
    fn is_full(&self) -> bool {
        self.rebalance_ms != -1
            && (self.topics.is_some() || self.regex.is_some())
            && self.owned.is_some()
    }

    /// What can be said against it before anything is looked at.
    pub fn check(&self) -> Result<(), Why> {
        let invalid = |text: &str| no(ErrorCode::InvalidRequest, text);
        if self.id.is_empty() {
            return invalid("MemberId can't be empty.");
        }
        if self.instance.as_deref() == Some("") {
            return invalid("InstanceId can't be empty.");
        }
        if self.rack.as_deref() == Some("") {
            return invalid("RackId can't be empty.");
        }
        match self.epoch {
            AWAY if self.instance.is_none() => return invalid("InstanceId can't be null."),
            ..AWAY => return invalid("MemberEpoch is invalid."),
            0 if self.rebalance_ms == -1 => {
                return invalid("RebalanceTimeoutMs must be provided in first request.");
            }
            0 if self.owned.as_ref().is_none_or(|owned| !owned.is_empty()) => {
                return invalid("TopicPartitions must be empty when (re-)joining.");
            }
            0 if self.topics.is_none() && self.regex.is_none() => {
                return invalid(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when \
                     (re-)joining.",
                );
            }
            _ => {}
        }
        Ok(())
    }
}

impl Group {
    /// Answers a heartbeat when all that it shows is durable.
    pub fn beat(&mut self, ctx: &mut Context, now: Now, token: Token, beat: &Beat) {
        match self.try_beat(ctx, now, beat) {
            Ok(beaten) => {
                ctx.reply_after(self.written, token, Reply::Beat(Box::new(beaten)));
            }
            Err((code, text)) => ctx.reply(token, Reply::Refused(code, text)),
        }
    }

    fn try_beat(&mut self, ctx: &mut Context, now: Now, beat: &Beat) -> Result<Beaten, Why> {
        if ctx.image.is_none() {
            return no(
                ErrorCode::CoordinatorLoadInProgress,
                "The topics are not known yet.",
            );
        }
        if beat.epoch == LEAVES || beat.epoch == AWAY {
            return self.beat_leaves(ctx, now, beat);
        }
        self.check_beat(ctx, beat)?;
        if self.modern.is_none() {
            // Who has the instance in the classic group has not let go of it.
            if let Some(instance) = beat
                .instance
                .as_ref()
                .filter(|i| self.statics.contains_key(*i))
            {
                let text = format!("The instance id {instance} is in use by another member.");
                return no(ErrorCode::UnreleasedInstanceId, text);
            }
            self.upgrade(ctx, now, beat.epoch == 0)?;
        }
        let caller = self.caller(ctx, beat)?;
        let (sub, mut must) = self.subscription(beat, &caller);
        self.check_room(ctx, &caller, &sub)?;
        must |= caller.is_new;
        if must {
            self.raise(ctx);
        }
        if caller.replaces.is_some() {
            self.replace_mate(ctx, &caller);
        }
        let is_other = |m: &Modern| m.members.get(&caller.id).is_none_or(|m| *m.sub != sub);
        if self.modern.as_deref().is_some_and(is_other) {
            let change = ConsumerChange::Member(caller.id.clone(), Some(Arc::new(sub)));
            self.change(ctx, change);
        }
        self.look(ctx, now, must);
        self.aim(ctx);
        let changed = self.advance(ctx, now, &caller.id, beat.owned.as_ref());
        self.heard_mate(ctx, now, &caller.id);
        let current = self
            .mate(&caller.id)
            .map(|m| m.now.clone())
            .unwrap_or_default();
        let tells = beat.epoch == 0 || changed || beat.is_full();
        Ok(Beaten {
            id: caller.id.to_string(),
            epoch: current.epoch,
            interval_ms: ctx.heartbeat_ms(&self.name),
            assignment: tells.then_some(current.assigned),
        })
    }

    /// What can be said against a heartbeat without looking at the members.
    fn check_beat(&self, ctx: &Context, beat: &Beat) -> Result<(), Why> {
        if let Some(name) = &beat.assignor {
            let known = &ctx.limits.consumer.assignors;
            if Assignor::named(name).is_none_or(|a| !known.contains(&a)) {
                let names: Vec<_> = known.iter().map(|a| a.name()).collect();
                let text = format!(
                    "ServerAssignor {name} is not supported. Supported assignors: {}.",
                    names.join(", ")
                );
                return no(ErrorCode::UnsupportedAssignor, text);
            }
        }
        let regex = beat.regex.as_deref().filter(|r| !r.is_empty());
        regex.map_or(Ok(()), |r| compile(r).map(drop))
    }

    /// Finds out who asks, and whether it may.
    fn caller(&self, ctx: &Context, beat: &Beat) -> Result<Caller, Why> {
        let Some(modern) = &self.modern else {
            return no(ErrorCode::GroupIdNotFound, "There is no such group.");
        };
        let unknown = || {
            let text = format!("Member {} is not a member of the group.", beat.id);
            no(ErrorCode::UnknownMemberId, text)
        };
        let id: Arc<str> = beat.id.as_str().into();
        let before = beat
            .instance
            .as_ref()
            .and_then(|i| modern.statics.get(i))
            .cloned();
        let caller = |replaces: Option<Arc<str>>, is_new| Caller {
            id: id.clone(),
            replaces,
            is_new,
        };
        let found = match (&beat.instance, before, beat.epoch) {
            (Some(_), Some(old), _) if old == id => caller(None, false),
            (Some(instance), Some(old), 0) => {
                let away = modern.members.get(&old).is_none_or(|m| m.now.epoch == AWAY);
                if !away {
                    let text = format!("The instance id {instance} is in use by another member.");
                    return no(ErrorCode::UnreleasedInstanceId, text);
                }
                return Ok(caller(Some(old), false));
            }
            (Some(_), Some(_), _) => {
                return no(
                    ErrorCode::FencedInstanceId,
                    "Another member has the instance id.",
                );
            }
            (Some(_), None, 1..) => return unknown(),
            (Some(_), None, _) => caller(None, true),
            (None, ..) => caller(None, !modern.members.contains_key(&id)),
        };
        let Some(mate) = modern.members.get(&id) else {
            if beat.epoch != 0 {
                return unknown();
            }
            self.check_size(ctx)?;
            return Ok(found);
        };
        check_epoch(&mate.now, beat)?;
        Ok(found)
    }

    /// Whether one more member has room.
    pub(super) fn check_size(&self, ctx: &Context) -> Result<(), Why> {
        let max = ctx.limits.consumer.size_max;
        if self.modern.as_ref().is_some_and(|m| m.members.len() >= max) {
            let text =
                format!("The consumer group has reached its maximum capacity of {max} members.");
            return no(ErrorCode::GroupMaxSizeReached, text);
        }
        Ok(())
    }

    /// What the member says of itself now, and whether that asks for a new target.
    fn subscription(&self, beat: &Beat, caller: &Caller) -> (Subscription, bool) {
        let modern = self.modern.as_deref();
        let before = caller.replaces.as_ref().unwrap_or(&caller.id);
        let before = modern
            .and_then(|m| m.members.get(before))
            .map(|m| m.sub.clone());
        let before = before.unwrap_or_default();
        let mut sub = Subscription {
            client_id: beat.client_id.clone(),
            client_host: beat.client_host.clone(),
            classic: None,
            ..(*before).clone()
        };
        // What is not said stays as it was.
        if beat.instance.is_some() {
            sub.instance.clone_from(&beat.instance);
        }
        if beat.rack.is_some() {
            sub.rack.clone_from(&beat.rack);
        }
        if beat.rebalance_ms != -1 {
            sub.rebalance_ms = beat.rebalance_ms;
        }
        if let Some(topics) = &beat.topics {
            sub.topics.clone_from(topics);
            sub.topics.sort_unstable();
            sub.topics.dedup();
        }
        if let Some(regex) = &beat.regex {
            sub.regex = Some(regex.clone()).filter(|r| !r.is_empty());
        }
        if let Some(assignor) = &beat.assignor {
            sub.assignor = Some(assignor.clone()).filter(|a| !a.is_empty());
        }
        let wants = |s: &Subscription| (s.topics.clone(), s.regex.clone(), s.assignor.clone());
        let must = wants(&sub) != wants(&before);
        (sub, must)
    }

    /// Whether what the member says of itself has room.
    pub(super) fn check_room(
        &self,
        ctx: &Context,
        caller: &Caller,
        sub: &Subscription,
    ) -> Result<(), Why> {
        let size = |s: &Subscription| -> usize {
            let classic = s.classic.iter().flat_map(|c| &c.protocols);
            let topics: usize = s.topics.iter().map(|t| t.len() + 24).sum();
            topics + classic.map(|p| p.0.len() + p.1.len()).sum::<usize>()
        };
        let before = self.mate(&caller.id).map_or(0, |m| size(&m.sub));
        let more = size(sub).saturating_sub(before);
        if more > 0 && self.member_bytes() + more > GROUP_BYTES_MAX {
            return no(
                ErrorCode::InvalidRequest,
                "The subscriptions of the group are too large.",
            );
        }
        // Others fill the memory: that may pass.
        if more > 0 && ctx.member_bytes + more > MEMBER_BYTES_MAX {
            return no(
                ErrorCode::CoordinatorNotAvailable,
                "The coordinator's memory is full.",
            );
        }
        Ok(())
    }

    /// A static member is back under a new id: it gets what the old one had.
    pub(super) fn replace_mate(&mut self, ctx: &mut Context, caller: &Caller) {
        let Some(old) = &caller.replaces else { return };
        let Some(mate) = self.mate(old) else { return };
        let (sub, target) = (mate.sub.clone(), mate.target.clone());
        let now = Current {
            epoch: 0,
            previous: 0,
            phase: Phase::Stable,
            assigned: mate.now.assigned.clone(),
            revoking: Parts::new(),
        };
        // In this order nobody ever shares anything with the old one, who goes last.
        let id = &caller.id;
        self.change(ctx, ConsumerChange::Current(old.clone(), None));
        self.change(ctx, ConsumerChange::Target(old.clone(), None));
        self.change(ctx, ConsumerChange::Member(id.clone(), Some(sub)));
        if !target.is_empty() {
            self.change(ctx, ConsumerChange::Target(id.clone(), Some(target)));
        }
        self.change(ctx, ConsumerChange::Current(id.clone(), Some(now)));
        self.drop_mate(ctx, old);
    }

    /// Brings a member a step further. Whether what it may read has changed.
    pub(super) fn advance(
        &mut self,
        ctx: &mut Context,
        now: Now,
        id: &Arc<str>,
        owned: Option<&Parts>,
    ) -> bool {
        let Some(modern) = &self.modern else {
            return false;
        };
        let Some(mate) = modern.members.get(id) else {
            return false;
        };
        let before = mate.now.clone();
        let after = step(
            &before,
            &Aim {
                target: &mate.target,
                target_epoch: modern.target_epoch,
                owned,
                taken: &|part| modern.owners.get(part).is_some_and(|owner| owner != id),
            },
        );
        if after == before {
            return false;
        }
        let (patience, phase) = (mate.sub.rebalance_ms, after.phase);
        let changed = after.assigned != before.assigned;
        let is_classic = mate.is_classic();
        self.change(ctx, ConsumerChange::Current(id.clone(), Some(after)));
        if !is_classic {
            self.end_patience(ctx, id);
            if phase == Phase::Unrevoked {
                self.begin_patience(ctx, now, id, patience);
            }
        }
        changed
    }

    fn beat_leaves(&mut self, ctx: &mut Context, now: Now, beat: &Beat) -> Result<Beaten, Why> {
        let Some(modern) = &self.modern else {
            let text = format!("Group {} is not a consumer group.", self.name);
            return no(ErrorCode::GroupIdNotFound, text);
        };
        let unknown = no(
            ErrorCode::UnknownMemberId,
            "The group does not know this member.",
        );
        let id = match &beat.instance {
            None => Arc::from(beat.id.as_str()),
            Some(instance) => match modern.statics.get(instance) {
                None => return unknown,
                Some(id) if **id != *beat.id => {
                    return no(
                        ErrorCode::FencedInstanceId,
                        "Another member has the instance id.",
                    );
                }
                Some(id) => id.clone(),
            },
        };
        let Some(mate) = modern.members.get(&id) else {
            return unknown;
        };
        if beat.epoch == AWAY {
            let away = Current {
                epoch: AWAY,
                previous: mate.now.epoch,
                phase: Phase::Stable,
                assigned: mate.now.assigned.clone(),
                revoking: Parts::new(),
            };
            self.end_patience(ctx, &id);
            self.change(ctx, ConsumerChange::Current(id.clone(), Some(away)));
        } else {
            self.mates_left(ctx, now, &[id]);
        }
        Ok(Beaten {
            id: beat.id.clone(),
            epoch: beat.epoch,
            interval_ms: 0,
            assignment: None,
        })
    }
}

/// A member is at its epoch; or at the one before, if the answer with the new one was lost; or it
/// begins anew.
fn check_epoch(now: &Current, beat: &Beat) -> Result<(), Why> {
    let is_retry = beat.epoch == now.previous
        && beat
            .owned
            .as_ref()
            .is_some_and(|owned| owned.is_subset(&now.assigned));
    if beat.epoch == now.epoch || beat.epoch == 0 || (beat.epoch < now.epoch && is_retry) {
        return Ok(());
    }
    let text = format!(
        "The consumer group member has epoch {}, not {}. It must give up its partitions and join \
         again.",
        now.epoch, beat.epoch
    );
    no(ErrorCode::FencedMemberEpoch, text)
}
