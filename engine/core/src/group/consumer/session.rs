//! Members that are heard of, that take too long, and that go.

use std::sync::Arc;

use super::super::classic::{Group, millis};
use super::super::context::{Context, Timer};
use super::super::record::{ConsumerChange, Phase};
use super::Mate;
use crate::machine::Now;

/// What a member's timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It may have fallen silent.
    Session,
    /// It should have given partitions back, joined again or synced.
    Patience,
}

impl Group {
    pub(super) fn mate(&self, id: &str) -> Option<&Mate> {
        self.modern.as_ref()?.members.get(id)
    }

    pub(super) fn mate_mut(&mut self, id: &str) -> Option<&mut Mate> {
        self.modern.as_mut()?.members.get_mut(id)
    }

    /// A member was heard of: its session begins anew.
    pub(super) fn heard_mate(&mut self, ctx: &mut Context, now: Now, id: &Arc<str>) {
        let name = self.name.clone();
        let session = ctx.session_ms(&name);
        let Some(mate) = self.mate_mut(id) else {
            return;
        };
        let classic = mate.sub.classic.as_ref().map(|c| c.session_ms);
        mate.deadline = now.mono + millis(classic.unwrap_or(session));
        if mate.armed.is_none_or(|key| key.0 > mate.deadline) {
            ctx.timers.disarm(mate.armed);
            let timer = Timer::Mate(name, id.clone(), Watch::Session);
            mate.armed = Some(ctx.timers.arm(mate.deadline, timer));
        }
    }

    /// A member has this long to do what it was told.
    pub(super) fn begin_patience(&mut self, ctx: &mut Context, now: Now, id: &Arc<str>, ms: i32) {
        let name = self.name.clone();
        if let Some(mate) = self.mate_mut(id)
            && mate.patience.is_none()
        {
            let timer = Timer::Mate(name, id.clone(), Watch::Patience);
            mate.patience = Some(ctx.timers.arm(now.mono + millis(ms), timer));
        }
    }

    pub(super) fn end_patience(&mut self, ctx: &mut Context, id: &Arc<str>) {
        if let Some(mate) = self.mate_mut(id) {
            ctx.timers.disarm(mate.patience.take());
        }
    }

    /// A member's timer has gone off.
    pub fn mate_timeout(&mut self, ctx: &mut Context, now: Now, id: &Arc<str>, watch: Watch) {
        let name = self.name.clone();
        let Some(mate) = self.mate_mut(id) else {
            return;
        };
        match watch {
            Watch::Patience => mate.patience = None,
            Watch::Session => {
                mate.armed = None;
                if mate.deadline > now.mono {
                    let timer = Timer::Mate(name, id.clone(), watch);
                    mate.armed = Some(ctx.timers.arm(mate.deadline, timer));
                    return;
                }
            }
        }
        self.mates_left(ctx, now, std::slice::from_ref(id));
    }

    /// Members are gone: what they had is free, and a new target is due.
    pub(super) fn mates_left(&mut self, ctx: &mut Context, now: Now, ids: &[Arc<str>]) {
        self.raise(ctx);
        if self.downgrade(ctx, now, ids) {
            return;
        }
        for id in ids {
            self.drop_mate(ctx, id);
        }
        self.look(ctx, now, true);
    }

    /// Takes a member out of the group's records.
    pub(super) fn drop_mate(&mut self, ctx: &mut Context, id: &Arc<str>) {
        let Some(mate) = self.mate_mut(id) else {
            return;
        };
        let (armed, patience) = (mate.armed.take(), mate.patience.take());
        ctx.timers.disarm(armed);
        ctx.timers.disarm(patience);
        self.change(ctx, ConsumerChange::Current(id.clone(), None));
        self.change(ctx, ConsumerChange::Target(id.clone(), None));
        self.change(ctx, ConsumerChange::Member(id.clone(), None));
    }

    /// Begins anew from the durable state: members get their session's time to be heard of.
    pub fn restore_modern(&mut self, ctx: &mut Context, now: Now) {
        let members = self.modern.iter().flat_map(|m| &m.members);
        let all: Vec<_> = members
            .map(|(id, m)| (id.clone(), m.sub.rebalance_ms, m.now.phase, m.is_classic()))
            .collect();
        for (id, rebalance_ms, phase, is_classic) in all {
            self.heard_mate(ctx, now, &id);
            if phase == Phase::Unrevoked && !is_classic {
                self.begin_patience(ctx, now, &id, rebalance_ms);
            }
        }
    }
}
