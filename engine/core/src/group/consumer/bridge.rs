//! Members that speak the classic protocol in a group of the `consumer` protocol, while clients
//! are moved from one to the other. Nothing waits here: a member that joins is brought a step
//! further like any other, its epoch is its generation, and a heartbeat tells it to join again.

use std::collections::BTreeMap;
use std::sync::Arc;

use streamd_model::{ErrorCode, TopicId};

use super::super::classic::{Group, refuse_join};
use super::super::context::Context;
use super::super::embedded::{Subscribed, put_assignment, subscription};
use super::super::record::{Blob, ClassicSide, ConsumerChange, Parts, Phase, Subscription};
use super::super::request::{Join, Joined, Leaver, Reply, Sync, Synced, Who};
use super::heartbeat::Caller;
use super::{Mate, Modern};
use crate::machine::{Now, Token};
use crate::meta::ClusterImage;

/// The kind of clients that can be in such a group.
pub(super) const CONSUMER: &str = "consumer";

impl Modern {
    /// Whether a member with these assignors goes with the other members of its protocol.
    fn fits(&self, id: &str, protocols: &[(String, Blob)]) -> bool {
        let mut others = self.members.iter().filter(|(other, _)| ***other != *id);
        protocols.iter().any(|(name, _)| {
            others.all(|(_, mate)| match &mate.sub.classic {
                Some(side) => side.protocols.iter().any(|p| p.0 == *name),
                None => true,
            })
        })
    }

    /// Whether a member of the classic protocol should join again.
    fn should_rejoin(&self, id: &Arc<str>, mate: &Mate) -> bool {
        let mut missing = mate.target.difference(&mate.now.assigned);
        let taken = |part| self.owners.get(part).is_some_and(|owner| owner != id);
        self.epoch > mate.now.epoch
            || match mate.now.phase {
                Phase::Stable => false,
                Phase::Unrevoked => true,
                Phase::Unreleased => !missing.any(taken),
            }
    }
}

impl Group {
    /// JoinGroup.
    pub fn join_modern(&mut self, ctx: &mut Context, now: Now, token: Token, join: Join) {
        if self.modern.as_ref().is_some_and(|m| m.members.is_empty()) {
            self.forget_modern(ctx);
            return self.join(ctx, now, token, join);
        }
        let named = join.who.id.clone();
        let refuse = |ctx: &mut Context, code| refuse_join(ctx, Some(token), &named, code);
        let metadata = join.protocols.first().and_then(|p| subscription(&p.1));
        let Some(said) = metadata.filter(|_| join.protocol_type == CONSUMER) else {
            return refuse(ctx, ErrorCode::InconsistentGroupProtocol);
        };
        if ctx.image.is_none() {
            return refuse(ctx, ErrorCode::CoordinatorLoadInProgress);
        }
        if join.id_required && join.who.id.is_empty() && join.who.instance.is_none() {
            return refuse_join(ctx, Some(token), &join.new_id, ErrorCode::MemberIdRequired);
        }
        let caller = match self.joiner(ctx, &join) {
            Ok(caller) => caller,
            Err(code) => return refuse(ctx, code),
        };
        let fits = |m: &Modern| {
            m.fits(
                caller.replaces.as_ref().unwrap_or(&caller.id),
                &join.protocols,
            )
        };
        if !self.modern.as_deref().is_some_and(fits) {
            return refuse(ctx, ErrorCode::InconsistentGroupProtocol);
        }
        self.join_as(ctx, now, token, (caller, said, join));
    }

    /// Finds out who joins, and whether it may.
    fn joiner(&self, ctx: &Context, join: &Join) -> Result<Caller, ErrorCode> {
        let Some(modern) = &self.modern else {
            return Err(ErrorCode::GroupIdNotFound);
        };
        let is_unknown = join.who.id.is_empty();
        let id: Arc<str> = match is_unknown {
            true => join.new_id.as_str().into(),
            false => join.who.id.as_str().into(),
        };
        let before = join
            .who
            .instance
            .as_ref()
            .and_then(|i| modern.statics.get(i))
            .cloned();
        let replaces = match (&join.who.instance, before) {
            (Some(_), Some(old)) if is_unknown => Some(old),
            (Some(_), Some(old)) if old != id => return Err(ErrorCode::FencedInstanceId),
            (Some(_), None) if !is_unknown => return Err(ErrorCode::UnknownMemberId),
            _ => None,
        };
        let is_new = replaces.is_none() && !modern.members.contains_key(&id);
        if is_new {
            self.check_size(ctx).map_err(|why| why.0)?;
        }
        Ok(Caller {
            id,
            replaces,
            is_new,
        })
    }

    fn join_as(
        &mut self,
        ctx: &mut Context,
        now: Now,
        token: Token,
        (caller, said, join): (Caller, Subscribed, Join),
    ) {
        let old = caller
            .replaces
            .clone()
            .filter(|old| !self.mate(old).is_some_and(Mate::is_classic));
        if let Some(old) = old
            && self.is_last_of_its_kind(ctx, &old)
        {
            // The last member of the new protocol comes back with the old one.
            self.mates_left(ctx, now, &[old]);
            return match self.modern {
                Some(_) => self.join_modern(ctx, now, token, join),
                None => self.join(ctx, now, token, join),
            };
        }
        let sub = subscribed(&said, &join);
        if let Err((code, _)) = self.check_room(ctx, &caller, &sub) {
            return refuse_join(ctx, Some(token), &join.who.id, code);
        }
        let known = caller.replaces.as_ref().unwrap_or(&caller.id);
        let before = self.mate(known).map(|m| m.sub.clone());
        let must = before.is_none_or(|b| b.topics != sub.topics || b.regex != sub.regex);
        if must {
            self.raise(ctx);
        }
        self.replace_mate(ctx, &caller);
        let id = caller.id;
        let before = self.mate(&id).map(|m| m.sub.clone());
        let protocol = join.protocols.first().map(|p| p.0.clone());
        let patience = sub.rebalance_ms;
        if before.is_none_or(|b| *b != sub) {
            self.change(ctx, ConsumerChange::Member(id.clone(), Some(Arc::new(sub))));
        }
        self.look(ctx, now, must);
        self.aim(ctx);
        let owned = self.owned(ctx, &id, &said);
        self.advance(ctx, now, &id, Some(&owned));
        self.heard_mate(ctx, now, &id);
        // It is to sync now.
        self.end_patience(ctx, &id);
        self.begin_patience(ctx, now, &id, patience);
        let joined = Joined {
            error: None,
            generation: self.mate(&id).map_or(0, |m| m.now.epoch),
            protocol_type: Some(CONSUMER.to_owned()),
            protocol,
            id: id.to_string(),
            ..Joined::default()
        };
        ctx.reply_after(self.written, token, Reply::Join(Box::new(joined)));
    }

    /// What a member says it still has, in the epoch that it is in.
    fn owned(&self, ctx: &Context, id: &str, said: &Subscribed) -> Parts {
        let epoch = self.mate(id).map_or(0, |m| m.now.epoch);
        match &ctx.image {
            Some(image) if said.generation == -1 || said.generation == epoch => {
                parts_of(image, &said.owned)
            }
            _ => Parts::new(),
        }
    }

    /// Checks who a member of the classic protocol says it is, and where it is.
    fn check_mate(&self, who: &Who, generation: i32) -> Result<(Arc<str>, &Mate), ErrorCode> {
        let (id, mate) = self.find_mate(who)?;
        if !mate.is_classic() {
            return Err(ErrorCode::UnknownMemberId);
        }
        match generation == mate.now.epoch {
            true => Ok((id, mate)),
            false => Err(ErrorCode::IllegalGeneration),
        }
    }

    /// Checks who a member says it is.
    pub(super) fn find_mate(&self, who: &Who) -> Result<(Arc<str>, &Mate), ErrorCode> {
        let modern = self.modern.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
        if let Some(instance) = &who.instance {
            match modern.statics.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(id) if **id != *who.id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        let found = modern.members.get_key_value(who.id.as_str());
        let (id, mate) = found.ok_or(ErrorCode::UnknownMemberId)?;
        Ok((id.clone(), mate))
    }

    /// SyncGroup.
    pub fn sync_modern(&mut self, ctx: &mut Context, now: Now, token: Token, sync: &Sync) {
        match self.try_sync(ctx, now, sync) {
            Ok(synced) => ctx.reply_after(self.written, token, Reply::Sync(synced)),
            Err(code) => ctx.reply(token, Reply::Code(code)),
        }
    }

    fn try_sync(&mut self, ctx: &mut Context, now: Now, sync: &Sync) -> Result<Synced, ErrorCode> {
        let (id, mate) = self.check_mate(&sync.who, sync.generation)?;
        let first = mate
            .sub
            .classic
            .as_ref()
            .and_then(|side| side.protocols.first());
        let protocol = first.map(|p| p.0.clone());
        let differs = |said: &Option<String>, is: Option<&str>| {
            said.as_deref().is_some_and(|said| Some(said) != is)
        };
        if differs(&sync.protocol_type, Some(CONSUMER))
            || differs(&sync.protocol, protocol.as_deref())
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        let version = first
            .and_then(|p| subscription(&p.1))
            .map_or(0, |s| s.version);
        let (patience, lags) = (mate.sub.rebalance_ms, mate.now.phase != Phase::Unrevoked);
        let assignment = match &ctx.image {
            Some(image) => put_assignment(version, &names_of(image, &mate.now.assigned)),
            None => return Err(ErrorCode::CoordinatorLoadInProgress),
        };
        let behind = self
            .modern
            .as_ref()
            .is_some_and(|m| m.epoch > sync.generation);
        if behind && lags {
            self.begin_patience(ctx, now, &id, patience);
            return Err(ErrorCode::RebalanceInProgress);
        }
        self.end_patience(ctx, &id);
        self.heard_mate(ctx, now, &id);
        Ok(Synced {
            error: ErrorCode::None,
            protocol_type: Some(CONSUMER.to_owned()),
            protocol,
            assignment,
        })
    }

    /// Heartbeat.
    pub fn heartbeat_modern(
        &mut self,
        ctx: &mut Context,
        now: Now,
        who: &Who,
        generation: i32,
    ) -> ErrorCode {
        let (id, patience, should) = match self.check_mate(who, generation) {
            Ok((id, mate)) => {
                let should = |m: &Modern| m.should_rejoin(&id, mate);
                let should = self.modern.as_deref().is_some_and(should);
                (id, mate.sub.rebalance_ms, should)
            }
            Err(code) => return code,
        };
        self.heard_mate(ctx, now, &id);
        if !should {
            return ErrorCode::None;
        }
        self.begin_patience(ctx, now, &id, patience);
        ErrorCode::RebalanceInProgress
    }

    /// LeaveGroup, of members of either protocol.
    pub fn leave_modern(&mut self, ctx: &mut Context, now: Now, token: Token, all: Vec<Leaver>) {
        let mut codes = Vec::with_capacity(all.len());
        let mut gone: Vec<Arc<str>> = Vec::new();
        for Leaver { who } in all {
            let modern = self.modern.as_ref();
            let found = match (&who.instance, who.id.is_empty()) {
                // An operator removes a static member.
                (Some(instance), true) => modern
                    .and_then(|m| m.statics.get(instance))
                    .cloned()
                    .ok_or(ErrorCode::UnknownMemberId),
                _ => self.find_mate(&who).map(|(id, _)| id),
            };
            let code = match found {
                Ok(id) if !gone.contains(&id) => {
                    gone.push(id);
                    ErrorCode::None
                }
                Ok(_) => ErrorCode::UnknownMemberId,
                Err(code) => code,
            };
            codes.push((who, code));
        }
        if !gone.is_empty() {
            self.mates_left(ctx, now, &gone);
        }
        ctx.reply_after(self.written, token, Reply::Leave(codes));
    }
}

/// What a member of the classic protocol says of itself.
pub(super) fn subscribed(said: &Subscribed, join: &Join) -> Subscription {
    let mut topics = said.topics.clone();
    topics.sort_unstable();
    topics.dedup();
    Subscription {
        instance: join.who.instance.clone(),
        rack: said.rack.clone(),
        client_id: join.client_id.clone(),
        client_host: join.client_host.clone(),
        topics,
        regex: None,
        rebalance_ms: join.rebalance_ms,
        assignor: None,
        classic: Some(ClassicSide {
            session_ms: join.session_ms,
            protocols: join.protocols.clone(),
        }),
    }
}

/// Partitions by the names of their topics.
pub(super) fn parts_of(image: &ClusterImage, topics: &[(String, Vec<i32>)]) -> Parts {
    let known = topics
        .iter()
        .filter_map(|(name, parts)| Some((image.topic(name)?.id, parts)));
    known
        .flat_map(|(id, parts)| parts.iter().map(move |p| (id, *p)))
        .collect()
}

/// Names of topics, with partitions; without topics that are gone.
pub(super) fn names_of<'a>(image: &'a ClusterImage, parts: &Parts) -> BTreeMap<&'a str, Vec<i32>> {
    let mut names: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    let name = |id: TopicId| image.topic_by_id(id).map(|topic| topic.name.as_str());
    for (id, p) in parts {
        if let Some(name) = name(*id) {
            names.entry(name).or_default().push(*p);
        }
    }
    names
}
