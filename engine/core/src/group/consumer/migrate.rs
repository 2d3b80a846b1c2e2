//! A live group moves from the classic to the `consumer` protocol when the first member comes
//! that speaks it, and back when the last such member goes. Its offsets stay where they are.

use std::collections::BTreeSet;
use std::sync::Arc;

use streamd_model::ErrorCode;

use super::super::classic::{Clock, Group, State};
use super::super::context::Context;
use super::super::embedded::{assignment, put_assignment, subscription};
use super::super::member::Member;
use super::super::record::{
    ConsumerChange, Current, GroupEpoch, GroupRecord, Parts, Phase, Subscription,
};
use super::super::request::{Join, Who};
use super::bridge::{CONSUMER, names_of, parts_of, subscribed};
use super::heartbeat::no;
use super::{Mate, Why};
use crate::machine::Now;
use crate::meta::ClusterImage;

/// A member that moves over: its id, what it says of itself, what it has.
type Moved = (Arc<str>, Arc<Subscription>, Parts);

impl Group {
    /// Makes a group of the `consumer` protocol of what is not one yet, if that `may` be.
    pub(super) fn upgrade(&mut self, ctx: &mut Context, now: Now, may: bool) -> Result<(), Why> {
        let Some(image) = ctx.image.clone().filter(|_| may) else {
            let text = format!("Group {} is not a consumer group.", self.name);
            return no(ErrorCode::GroupIdNotFound, text);
        };
        let members = self.check_upgrade(ctx, &image)?;
        let generation = self.generation;
        self.end_classic(ctx, now);
        for (id, sub, _) in &members {
            self.change(ctx, ConsumerChange::Member(id.clone(), Some(sub.clone())));
        }
        let epoch = GroupEpoch {
            epoch: generation,
            hash: 0,
        };
        self.change(ctx, ConsumerChange::Epoch(Some(epoch)));
        for (id, _, parts) in &members {
            let target = Some(Arc::new(parts.clone()));
            self.change(ctx, ConsumerChange::Target(id.clone(), target));
        }
        self.change(ctx, ConsumerChange::TargetEpoch(Some(generation)));
        for (id, _, parts) in members {
            let current = Current {
                epoch: generation,
                previous: generation,
                phase: Phase::Stable,
                assigned: parts,
                revoking: Parts::new(),
            };
            self.change(ctx, ConsumerChange::Current(id.clone(), Some(current)));
            self.heard_mate(ctx, now, &id);
        }
        Ok(())
    }

    /// The members as they will be; or why the group stays what it is.
    fn check_upgrade(&self, ctx: &Context, image: &ClusterImage) -> Result<Vec<Moved>, Why> {
        let not = |why: &str| {
            let text = format!("Group {} is not a consumer group, and {why}.", self.name);
            no(ErrorCode::GroupIdNotFound, text)
        };
        if self.protocol_type.as_deref().is_some_and(|t| t != CONSUMER) {
            return not("its members are no consumers");
        }
        if self.members.is_empty() {
            return Ok(Vec::new());
        }
        if !ctx.limits.consumer.upgrade {
            return not("group.consumer.migration.policy does not allow to make it one");
        }
        if self.members.len() >= ctx.limits.consumer.size_max {
            return not("it has too many members to become one");
        }
        let protocol = self.protocol.clone().unwrap_or_default();
        let mut seen = BTreeSet::new();
        let mut found = Vec::with_capacity(self.members.len());
        for (id, member) in &self.members {
            let known = member.protocols.iter().find(|p| p.0 == protocol);
            let metadata = known.or(member.protocols.first());
            let Some(said) = metadata.and_then(|(_, bytes)| subscription(bytes)) else {
                return not("what its members say of themselves cannot be read");
            };
            let had = match member.assignment.is_empty() {
                true => Vec::new(),
                false => match assignment(&member.assignment) {
                    Some(had) => had,
                    None => return not("the assignments of its members cannot be read"),
                },
            };
            let mut parts = parts_of(image, &had);
            parts.retain(|part| seen.insert(*part));
            let sub = Arc::new(subscribed(&said, &as_join(member)));
            found.push((Arc::from(id.as_str()), sub, parts));
        }
        Ok(found)
    }

    /// Ends all that goes on in a classic group. Who waits is told to join again.
    fn end_classic(&mut self, ctx: &mut Context, now: Now) {
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            self.remove(ctx, &id, ErrorCode::RebalanceInProgress);
        }
        for key in std::mem::take(&mut self.pending).into_values() {
            ctx.timers.disarm(Some(key));
        }
        let Clock { join, sync, .. } = std::mem::take(&mut self.clock);
        ctx.timers.disarm(join);
        ctx.timers.disarm(sync);
        self.unsynced.clear();
        (self.leader, self.protocol, self.protocol_type) = (None, None, None);
        self.generation = 0;
        self.enter(State::Empty, now);
        if self.hard.is_some() {
            let group = self.name.clone();
            self.store(ctx, GroupRecord::Group { group, value: None });
        }
    }

    /// Whether without this member the group would go back to the classic protocol, or be empty.
    pub(super) fn is_last_of_its_kind(&self, ctx: &Context, id: &str) -> bool {
        let Some(modern) = &self.modern else {
            return false;
        };
        let mut others = modern.members.iter().filter(|(other, _)| ***other != *id);
        ctx.limits.consumer.downgrade && others.all(|(_, mate)| mate.is_classic())
    }

    /// Goes back to the classic protocol if those who stay all speak it. False: it does not.
    pub(super) fn downgrade(&mut self, ctx: &mut Context, now: Now, gone: &[Arc<str>]) -> bool {
        let Some(modern) = &self.modern else {
            return false;
        };
        let Some(image) = ctx.image.clone().filter(|_| ctx.limits.consumer.downgrade) else {
            return false;
        };
        let stay = || modern.members.iter().filter(|(id, _)| !gone.contains(id));
        let count = stay().count();
        if count == 0
            || count > ctx.limits.members_max
            || !stay().all(|(_, mate)| mate.is_classic())
        {
            return false;
        }
        let members: Vec<Member> = stay().map(|(id, mate)| classic(&image, id, mate)).collect();
        let epoch = modern.epoch;
        self.forget_modern(ctx);
        self.protocol_type = Some(CONSUMER.to_owned());
        self.leader = members.first().map(|m| m.id.clone());
        for member in members {
            self.insert(ctx, member);
        }
        self.protocol = self.choose_protocol();
        self.enter(State::Stable, now);
        // Nobody is in the generation that is written down: should the coordinator start again
        // before the rebalance is through, everybody joins again.
        self.generation = epoch;
        self.store_group(ctx);
        // The epoch has just risen.
        self.generation = epoch.saturating_sub(1);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            self.heard(ctx, now.mono, &id);
        }
        self.prepare(ctx, now);
        true
    }

    /// Writes tombstones for all that makes the group one of the `consumer` protocol.
    pub(in super::super) fn forget_modern(&mut self, ctx: &mut Context) {
        let Some(modern) = &self.modern else {
            return;
        };
        let ids: Vec<Arc<str>> = modern.members.keys().cloned().collect();
        let regexes: Vec<Arc<str>> = modern.regexes.keys().cloned().collect();
        for id in ids {
            self.drop_mate(ctx, &id);
        }
        for regex in regexes {
            self.change(ctx, ConsumerChange::Regex(regex, None));
        }
        self.change(ctx, ConsumerChange::TargetEpoch(None));
        self.change(ctx, ConsumerChange::Epoch(None));
    }
}

/// A classic member as it would join.
fn as_join(member: &Member) -> Join {
    Join {
        who: Who {
            id: member.id.clone(),
            instance: member.instance.clone(),
        },
        new_id: String::new(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        session_ms: member.session_ms,
        rebalance_ms: member.rebalance_ms,
        protocol_type: CONSUMER.to_owned(),
        protocols: member.protocols.clone(),
        id_required: false,
        can_skip: false,
    }
}

/// A member of the classic protocol in a classic group.
fn classic(image: &ClusterImage, id: &Arc<str>, mate: &Mate) -> Member {
    let side = mate.sub.classic.clone().unwrap_or_default();
    let version = side
        .protocols
        .first()
        .and_then(|p| subscription(&p.1))
        .map_or(0, |s| s.version);
    let join = Join {
        who: Who {
            id: id.to_string(),
            instance: mate.sub.instance.clone(),
        },
        new_id: String::new(),
        client_id: mate.sub.client_id.clone(),
        client_host: mate.sub.client_host.clone(),
        session_ms: side.session_ms,
        rebalance_ms: mate.sub.rebalance_ms,
        protocol_type: CONSUMER.to_owned(),
        protocols: side.protocols,
        id_required: false,
        can_skip: false,
    };
    let mut member = Member::new(id.to_string(), join);
    member.assignment = put_assignment(version, &names_of(image, &mate.now.assigned));
    member.is_new = false;
    member
}
