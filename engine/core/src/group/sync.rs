//! SyncGroup, Heartbeat, LeaveGroup, and members that fall silent.

use std::collections::BTreeMap;

use streamd_model::ErrorCode;

use super::classic::{Group, State, refuse_sync};
use super::context::{Context, GROUP_BYTES_MAX, Timer};
use super::record::Blob;
use super::request::{Leaver, Reply, Sync, Who};
use crate::machine::{Now, Token};

impl Group {
    /// A member gives, or asks for, the assignment.
    pub fn sync(&mut self, ctx: &mut Context, now: Now, token: Token, sync: Sync) {
        if let Err(code) = self.check_sync(&sync) {
            return refuse_sync(ctx, Some(token), code);
        }
        let id = sync.who.id;
        match self.state {
            State::Empty | State::Preparing => {
                refuse_sync(ctx, Some(token), ErrorCode::RebalanceInProgress);
            }
            State::Completing => {
                self.unsynced.remove(&id);
                if let Some(member) = self.members.get_mut(&id) {
                    let older = member.sync.replace(token);
                    refuse_sync(ctx, older, ErrorCode::RebalanceInProgress);
                    ctx.park(token, &self.name, &id);
                }
                if self.is_leader(&id) {
                    self.assign(ctx, now, sync.assignments);
                }
            }
            State::Stable => {
                self.unsynced.remove(&id);
                let reply = self.synced(&id);
                ctx.reply_after(self.written, token, reply);
                self.heard(ctx, now.mono, &id);
            }
        }
        if self.unsynced.is_empty() && self.state == State::Stable {
            ctx.timers.disarm(self.clock.sync.take());
        }
    }

    fn check_sync(&self, sync: &Sync) -> Result<(), ErrorCode> {
        self.check_member(&sync.who)?;
        if sync.generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |said: &Option<String>, is: &Option<String>| said.is_some() && said != is;
        if differs(&sync.protocol_type, &self.protocol_type)
            || differs(&sync.protocol, &self.protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        let bytes: usize = sync.assignments.iter().map(|a| a.1.len()).sum();
        if bytes > 0 && bytes + self.member_bytes() > GROUP_BYTES_MAX {
            return Err(ErrorCode::InvalidRequest);
        }
        Ok(())
    }

    /// The leader has assigned: once that is durable everybody gets its part.
    fn assign(&mut self, ctx: &mut Context, now: Now, assignments: Vec<(String, Blob)>) {
        let mut parts: BTreeMap<String, Blob> = assignments.into_iter().collect();
        for (id, member) in &mut self.members {
            let before = member.bytes();
            member.assignment = parts.remove(id).unwrap_or_default();
            ctx.member_bytes = (ctx.member_bytes + member.bytes()).saturating_sub(before);
        }
        self.enter(State::Stable, now);
        self.store_group(ctx);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let token = self.members.get_mut(&id).and_then(|m| m.sync.take());
            if let Some(token) = token {
                let reply = self.synced(&id);
                ctx.reply_after(self.written, token, reply);
                self.heard(ctx, now.mono, &id);
            }
        }
    }

    /// A member is still there.
    pub fn heartbeat(
        &mut self,
        ctx: &mut Context,
        now: Now,
        who: &Who,
        generation: i32,
    ) -> ErrorCode {
        if let Err(code) = self.check_member(who) {
            return code;
        }
        if generation != self.generation {
            return ErrorCode::IllegalGeneration;
        }
        self.heard(ctx, now.mono, &who.id);
        match self.state {
            State::Preparing => ErrorCode::RebalanceInProgress,
            State::Empty | State::Completing | State::Stable => ErrorCode::None,
        }
    }

    /// Members go. The answer waits for what their going writes.
    pub fn leave(&mut self, ctx: &mut Context, now: Now, token: Token, leavers: Vec<Leaver>) {
        let mut codes = Vec::with_capacity(leavers.len());
        for leaver in leavers {
            let code = self.leave_one(ctx, now, &leaver.who);
            codes.push((leaver.who, code));
        }
        ctx.reply_after(self.written, token, Reply::Leave(codes));
    }

    fn leave_one(&mut self, ctx: &mut Context, now: Now, who: &Who) -> ErrorCode {
        let id = match (&who.instance, who.id.is_empty()) {
            // An operator removes a static member.
            (Some(instance), true) => match self.statics.get(instance) {
                Some(id) => id.clone(),
                None => return ErrorCode::UnknownMemberId,
            },
            _ => {
                if let Some(key) = self.pending.remove(&who.id) {
                    ctx.timers.disarm(Some(key));
                    self.pending_left(ctx, now);
                    return ErrorCode::None;
                }
                if let Err(code) = self.check_member(who) {
                    return code;
                }
                who.id.clone()
            }
        };
        self.remove(ctx, &id, ErrorCode::UnknownMemberId);
        self.member_left(ctx, now);
        ErrorCode::None
    }

    fn pending_left(&mut self, ctx: &mut Context, now: Now) {
        if self.state == State::Preparing {
            self.member_left(ctx, now);
        }
    }

    /// A member's time may be over.
    pub fn session_timeout(&mut self, ctx: &mut Context, now: Now, id: &str) {
        if self.pending.remove(id).is_some() {
            return self.pending_left(ctx, now);
        }
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        member.armed = None;
        if member.deadline > now.mono {
            let at = member.deadline;
            let timer = Timer::Session(self.name.clone(), id.to_owned());
            member.armed = Some(ctx.timers.arm(at, timer));
            return;
        }
        // Who waits for an answer of ours cannot be blamed for silence.
        if !member.is_new && (member.join.is_some() || member.sync.is_some()) {
            return;
        }
        self.remove(ctx, id, ErrorCode::UnknownMemberId);
        self.member_left(ctx, now);
    }

    /// The time for syncing is over: who did not is out.
    pub fn sync_timeout(&mut self, ctx: &mut Context, now: Now) {
        self.clock.sync = None;
        let synced = matches!(self.state, State::Preparing | State::Empty);
        if synced || self.unsynced.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.unsynced) {
            self.remove(ctx, &id, ErrorCode::UnknownMemberId);
        }
        self.prepare(ctx, now);
    }

    /// Whoever waited under a token has gone away. It stays a member until its session ends, so
    /// that it can come back on another connection.
    pub fn gone(&mut self, ctx: &mut Context, now: Now, id: &str, token: Token) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        if member.join == Some(token) {
            member.join = None;
        } else if member.sync == Some(token) {
            member.sync = None;
        }
        self.heard(ctx, now.mono, id);
    }
}
