//! JoinGroup, and the rebalance that it is about: who is waited for, when it ends.

use std::time::Duration;

use streamd_model::ErrorCode;

use super::classic::{Group, Initial, State, millis, refuse_join, refuse_sync};
use super::context::{Context, GROUP_BYTES_MAX, MEMBER_BYTES_MAX, PENDING_MAX, Timer};
use super::member::Member;
use super::record::Blob;
use super::request::{Join, Reply};
use crate::machine::{Now, Token};

/// How long a new member may wait in a rebalance: it has no heartbeat that would show that it is
/// still there. It asks again then.
const NEW_MEMBER_WAIT: Duration = Duration::from_secs(5 * 60);

impl Group {
    /// A member wants in, or takes part in a rebalance.
    pub fn join(&mut self, ctx: &mut Context, now: Now, token: Token, join: Join) {
        let refuse = |ctx: &mut Context, id: &str, code| refuse_join(ctx, Some(token), id, code);
        let id = join.who.id.clone();
        if !self.has_room(ctx, &id) {
            refuse(ctx, "", ErrorCode::GroupMaxSizeReached);
            if self
                .remove(ctx, &id, ErrorCode::GroupMaxSizeReached)
                .is_some()
            {
                self.member_left(ctx, now);
            }
            return;
        }
        if let Err(code) = self.check_memory(ctx, &join) {
            return refuse(ctx, &id, code);
        }
        if !self.fits(&join.protocol_type, &join.protocols) {
            return refuse(ctx, &id, ErrorCode::InconsistentGroupProtocol);
        }
        if id.is_empty() {
            return self.join_new(ctx, now, token, join);
        }
        if join.who.instance.is_none()
            && let Some(key) = self.pending.remove(&id)
        {
            ctx.timers.disarm(Some(key));
            return self.add(ctx, now, token, (id, join));
        }
        if let Err(code) = self.check_member(&join.who) {
            return refuse(ctx, &id, code);
        }
        self.rejoin(ctx, now, token, join);
    }

    fn has_room(&self, ctx: &Context, id: &str) -> bool {
        let max = ctx.limits.members_max;
        if id.is_empty() && self.pending.len() >= PENDING_MAX {
            return false;
        }
        let waits = |m: &&Member| m.join.is_some();
        match self.state {
            State::Empty => true,
            // Members that come last to a rebalance are sent away, should the limit have sunk.
            State::Preparing => {
                self.members.get(id).as_ref().is_some_and(waits)
                    || self.members.values().filter(waits).count() < max
            }
            State::Completing | State::Stable => {
                self.members.contains_key(id) || self.members.len() < max
            }
        }
    }

    fn check_memory(&self, ctx: &Context, join: &Join) -> Result<(), ErrorCode> {
        let more: usize = join.protocols.iter().map(|p| p.0.len() + p.1.len()).sum();
        // The sum over the members is only taken when the request is not small.
        if more >= 4096 && self.member_bytes() + more > GROUP_BYTES_MAX {
            return Err(ErrorCode::InvalidRequest);
        }
        // Others fill the memory: that may pass.
        if ctx.member_bytes + more > MEMBER_BYTES_MAX {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        Ok(())
    }

    fn join_new(&mut self, ctx: &mut Context, now: Now, token: Token, join: Join) {
        let id = join.new_id.clone();
        if let Some(instance) = &join.who.instance {
            return match self.statics.get(instance).cloned() {
                Some(old) => self.replace_static(ctx, now, token, (old, join)),
                None => self.add(ctx, now, token, (id, join)),
            };
        }
        if join.id_required {
            let timer = Timer::Session(self.name.clone(), id.clone());
            let key = ctx.timers.arm(now.mono + millis(join.session_ms), timer);
            self.pending.insert(id.clone(), key);
            return refuse_join(ctx, Some(token), &id, ErrorCode::MemberIdRequired);
        }
        self.add(ctx, now, token, (id, join));
    }

    fn add(&mut self, ctx: &mut Context, now: Now, token: Token, (id, join): (String, Join)) {
        if let Some(initial) = &mut self.clock.initial {
            initial.somebody_came = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
            self.leader = Some(id.clone());
        }
        let mut member = Member::new(id.clone(), join);
        member.join = Some(token);
        ctx.park(token, &self.name, &id);
        self.insert(ctx, member);
        self.give(ctx, now.mono, &id, NEW_MEMBER_WAIT);
        self.rebalance(ctx, now);
    }

    /// A member that is known asks again.
    fn rejoin(&mut self, ctx: &mut Context, now: Now, token: Token, join: Join) {
        let id = join.who.id.clone();
        let same = self
            .members
            .get(&id)
            .is_some_and(|m| m.protocols == join.protocols);
        let answered = match self.state {
            // Its answer was lost, most likely.
            State::Completing => same,
            // A leader that asks again wants a rebalance, since something changed that it knows.
            State::Stable => same && !self.is_leader(&id),
            State::Preparing | State::Empty => false,
        };
        if answered {
            let mut joined = self.joined(&id);
            if self.state == State::Stable {
                joined.members.clear();
            }
            self.heard(ctx, now.mono, &id);
            return ctx.reply_after(self.written, token, Reply::Join(Box::new(joined)));
        }
        self.update(ctx, token, &id, join);
        self.rebalance(ctx, now);
    }

    /// What a member says of itself now; its request waits.
    fn update(&mut self, ctx: &mut Context, token: Token, id: &str, join: Join) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        let before = member.bytes();
        member.protocols = join.protocols;
        member.session_ms = join.session_ms;
        member.rebalance_ms = join.rebalance_ms;
        let older = member.join.replace(token);
        ctx.member_bytes = (ctx.member_bytes + member.bytes()).saturating_sub(before);
        // It asked again on another connection: nobody waits for the first answer.
        refuse_join(ctx, older, id, ErrorCode::RebalanceInProgress);
        ctx.park(token, &self.name, id);
    }

    /// A static member is back under a new id: who has the old one is fenced.
    fn replace_static(
        &mut self,
        ctx: &mut Context,
        now: Now,
        token: Token,
        (old, join): (String, Join),
    ) {
        let id = join.new_id.clone();
        let (old_leader, can_skip) = (self.leader.clone(), join.can_skip);
        let was_unsynced = self.unsynced.contains(&old);
        let Some(mut member) = self.remove(ctx, &old, ErrorCode::FencedInstanceId) else {
            return refuse_join(ctx, Some(token), "", ErrorCode::UnknownMemberId);
        };
        member.id.clone_from(&id);
        (member.client_id, member.client_host) = (join.client_id.clone(), join.client_host.clone());
        self.insert(ctx, member);
        if old_leader.as_deref() == Some(old.as_str()) {
            self.leader = Some(id.clone());
        }
        if was_unsynced {
            self.unsynced.insert(id.clone());
        }
        self.update(ctx, token, &id, join);
        self.heard(ctx, now.mono, &id);
        match self.state {
            State::Stable if self.choose_protocol() == self.protocol => {}
            State::Completing => return self.prepare(ctx, now),
            _ => return self.rebalance(ctx, now),
        }
        // The assignment stands; only the id is new.
        self.store_group(ctx);
        let mut joined = self.joined(&id);
        if can_skip {
            joined.skip_assignment = self.is_leader(&id);
        } else {
            // An older client would assign if it were told that it leads.
            joined.members.clear();
            joined.leader = old_leader.unwrap_or_default();
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.join = None;
        }
        ctx.reply_after(self.written, token, Reply::Join(Box::new(joined)));
    }

    /// Begins a rebalance, or ends it if this was what it waited for.
    pub fn rebalance(&mut self, ctx: &mut Context, now: Now) {
        if self.state == State::Preparing {
            self.try_complete(ctx, now);
        } else {
            self.prepare(ctx, now);
        }
    }

    /// Whoever was waited for may have gone.
    pub fn member_left(&mut self, ctx: &mut Context, now: Now) {
        match self.state {
            State::Stable | State::Completing => self.prepare(ctx, now),
            State::Preparing => self.try_complete(ctx, now),
            State::Empty => {}
        }
    }

    fn all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|m| m.join.is_some())
    }

    fn try_complete(&mut self, ctx: &mut Context, now: Now) {
        let empty = self.members.is_empty();
        if self.all_joined() && (empty || self.clock.initial.is_none()) {
            self.complete(ctx, now);
        }
    }

    /// Begins a rebalance.
    pub fn prepare(&mut self, ctx: &mut Context, now: Now) {
        if self.state == State::Completing {
            for member in self.members.values_mut() {
                let before = member.bytes();
                member.assignment = Blob::default();
                ctx.member_bytes = (ctx.member_bytes + member.bytes()).saturating_sub(before);
            }
            self.end_syncs(ctx, now, ErrorCode::RebalanceInProgress);
        }
        self.unsynced.clear();
        ctx.timers.disarm(self.clock.sync.take());
        ctx.timers.disarm(self.clock.join.take());
        let initial = self.state == State::Empty;
        self.enter(State::Preparing, now);
        if initial {
            let delay = ctx.limits.initial_delay;
            let left = self.rebalance_time().saturating_sub(delay);
            self.clock.initial = Some(Initial {
                delay,
                left,
                somebody_came: false,
            });
            let timer = Timer::Join(self.name.clone());
            self.clock.join = Some(ctx.timers.arm(now.mono + delay, timer));
        } else if self.all_joined() {
            self.complete(ctx, now);
        } else {
            self.wait_for_joins(ctx, now);
        }
    }

    fn wait_for_joins(&mut self, ctx: &mut Context, now: Now) {
        ctx.timers.disarm(self.clock.join.take());
        let timer = Timer::Join(self.name.clone());
        self.clock.join = Some(ctx.timers.arm(now.mono + self.rebalance_time(), timer));
    }

    /// Ends the waiting syncs with an error.
    fn end_syncs(&mut self, ctx: &mut Context, now: Now, code: ErrorCode) {
        let waiting = self.members.values_mut().filter_map(|m| {
            let token = m.sync.take()?;
            Some((m.id.clone(), token))
        });
        let waiting: Vec<_> = waiting.collect();
        for (id, token) in waiting {
            refuse_sync(ctx, Some(token), code);
            self.heard(ctx, now.mono, &id);
        }
    }

    /// The time for joining is over.
    pub fn join_timeout(&mut self, ctx: &mut Context, now: Now) {
        self.clock.join = None;
        if self.state != State::Preparing {
            return;
        }
        if let Some(initial) = &mut self.clock.initial
            && initial.somebody_came
            && initial.left > Duration::ZERO
        {
            let delay = ctx.limits.initial_delay.min(initial.left);
            initial.left = initial.left.saturating_sub(initial.delay);
            initial.delay = delay;
            initial.somebody_came = false;
            let timer = Timer::Join(self.name.clone());
            self.clock.join = Some(ctx.timers.arm(now.mono + delay, timer));
            return;
        }
        self.complete(ctx, now);
    }

    /// Everybody is there who will be: the next generation begins.
    fn complete(&mut self, ctx: &mut Context, now: Now) {
        ctx.timers.disarm(self.clock.join.take());
        let late = self.members.values();
        let late = late.filter(|m| m.join.is_none() && m.instance.is_none());
        let late: Vec<String> = late.map(|m| m.id.clone()).collect();
        for id in late {
            self.remove(ctx, &id, ErrorCode::UnknownMemberId);
        }
        if !self.members.is_empty() && !self.elect() {
            // Only static members that did not come back: they have until their sessions end.
            self.clock.initial = None;
            return self.wait_for_joins(ctx, now);
        }
        self.clock.initial = None;
        // What is written down may be ahead, after the group went back to this protocol.
        let stored = self.hard.as_ref().map_or(0, |hard| hard.generation);
        self.generation = self.generation.max(stored).saturating_add(1);
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.enter(State::Empty, now);
            return self.store_group(ctx);
        }
        self.protocol = self.choose_protocol();
        self.enter(State::Completing, now);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
                if let Some(token) = member.join.take() {
                    ctx.reply(token, Reply::Join(Box::new(joined)));
                }
            }
            self.heard(ctx, now.mono, &id);
            self.unsynced.insert(id);
        }
        let timer = Timer::Sync(self.name.clone());
        self.clock.sync = Some(ctx.timers.arm(now.mono + self.rebalance_time(), timer));
    }

    /// Sees to it that the leader is one that has joined; false if nobody has.
    fn elect(&mut self) -> bool {
        let joined = |m: &&Member| m.join.is_some();
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id));
        if leader.as_ref().is_some_and(joined) {
            return true;
        }
        match self.members.values().find(joined) {
            Some(member) => {
                self.leader = Some(member.id.clone());
                true
            }
            None => false,
        }
    }
}
