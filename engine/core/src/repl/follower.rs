//! A follower: it subscribes, cuts what is not its leader's, takes what is, and says what it has
//! made durable.

use std::time::Duration;

use streamd_model::{Epoch, Mono, NodeId, Offset};

use super::epochs::Epochs;
use super::{Effect, Head, Message, Session, Settings};

/// The credit of a follower that is to be slow.
const BRAKED_CREDIT: u64 = 256 << 10;

/// The follower of a leader in one epoch.
#[derive(Debug)]
pub struct Follower {
    settings: Settings,
    leader: NodeId,
    epoch: Epoch,
    session: Session,
    /// When the leader was heard of; `None`: subscribe now.
    heard: Option<Mono>,
    /// How often it has subscribed since the leader last sent anything.
    tries: u32,
    /// Bytes that came in this subscription,
    taken: u64,
    /// and those of them for which the leader has the credit back: all, unless
    returned: u64,
    /// it is given back by and by.
    braked: bool,
    /// What was acknowledged.
    acked: Offset,
    /// The leader's high watermark,
    high: Offset,
    /// and its log start.
    start: Offset,
}

/// What a follower does with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They go to the end of the log.
    Append,
    /// They are of no use.
    Drop,
}

/// Where the log of a follower stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stand<'a> {
    pub epochs: &'a Epochs,
    pub end: Offset,
    pub flushed: Offset,
}

impl Follower {
    pub(super) fn new(settings: Settings, leader: NodeId, epoch: Epoch, session: Session) -> Self {
        Follower {
            settings,
            leader,
            epoch,
            session,
            heard: None,
            tries: 0,
            taken: 0,
            returned: 0,
            braked: false,
            acked: -1,
            high: 0,
            start: 0,
        }
    }

    /// Whom it follows, and in which epoch.
    pub fn leader(&self) -> (NodeId, Epoch) {
        (self.leader, self.epoch)
    }

    pub(super) fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    pub(super) fn session(&self) -> Session {
        self.session
    }

    /// The leader's high watermark.
    pub(super) fn high(&self) -> Offset {
        self.high
    }

    /// The leader's log start.
    pub(super) fn start(&self) -> Offset {
        self.start
    }

    /// How long the leader may say nothing. One that has not answered yet may only not know that it
    /// leads: it is asked again soon, then less and less often.
    fn patience(&self) -> Duration {
        let silence = self.settings.pulse * 4;
        match self.tries {
            0 => silence,
            tries => (self.settings.pulse / 5 * (1 << tries.min(6) >> 1)).min(silence),
        }
    }

    /// Subscribes if it has to.
    pub(super) fn tick(&mut self, stand: Stand<'_>, now: Mono) -> Vec<Effect> {
        if self.heard.is_some_and(|h| now - h < self.patience()) {
            return Vec::new();
        }
        self.heard = Some(now);
        self.tries = self.tries.saturating_add(1);
        self.session.1 += 1;
        (self.taken, self.returned) = (0, 0);
        self.acked = -1;
        let credit = match self.braked {
            true => self.settings.credit.min(BRAKED_CREDIT),
            false => self.settings.credit,
        };
        let subscribe = Message::Subscribe {
            epoch: self.epoch,
            session: self.session,
            last_epoch: stand.epochs.last(),
            end: stand.end,
            durable: stand.flushed,
            credit,
        };
        vec![Effect::Send(self.leader, subscribe)]
    }

    fn is_mine(&self, from: NodeId, epoch: Epoch, session: Session) -> bool {
        from == self.leader && epoch == self.epoch && session == self.session
    }

    pub(super) fn message(
        &mut self,
        from: NodeId,
        message: &Message,
        stand: Stand<'_>,
        now: Mono,
    ) -> Vec<Effect> {
        match *message {
            Message::Diverged {
                epoch,
                session,
                at,
                end,
            } if self.is_mine(from, epoch, session) => {
                // The leader's log and this one are the same up to the smaller end of that epoch.
                let (mine, mine_end) = stand.epochs.end_of(at, stand.end);
                let to = if mine == at {
                    mine_end.min(end)
                } else {
                    mine_end
                };
                self.heard = None;
                let mut effects = Vec::new();
                if to < stand.end {
                    effects.push(Effect::Truncate(to));
                }
                effects
            }
            Message::Begin {
                epoch,
                session,
                start,
            } if self.is_mine(from, epoch, session) && start > stand.end => {
                self.heard = None;
                vec![Effect::Reset(start)]
            }
            Message::Refused { session, .. } if from == self.leader && session == self.session => {
                // The image will say who leads; meanwhile it asks again, not at once.
                self.heard = Some(now);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Records, or a pulse, came: `bytes` long.
    pub(super) fn data(
        &mut self,
        (from, head): (NodeId, Head),
        bytes: u64,
        end: Offset,
        now: Mono,
    ) -> Verdict {
        if !self.is_mine(from, head.epoch, head.session) {
            return Verdict::Drop;
        }
        if head.base > end {
            // Something got lost on the way: it comes again in a new subscription.
            self.heard = None;
            return Verdict::Drop;
        }
        self.heard = Some(now);
        self.tries = 0;
        self.high = self.high.max(head.high);
        self.start = self.start.max(head.start);
        if head.base < end || bytes == 0 {
            return Verdict::Drop;
        }
        self.taken += bytes;
        if !self.braked {
            self.returned = self.taken;
        }
        Verdict::Append
    }

    /// What is durable by now; `pulse`: it is said even if it was said before.
    pub(super) fn ack(&mut self, flushed: Offset, pulse: bool) -> Vec<Effect> {
        if self.heard.is_none() || flushed <= self.acked && !pulse {
            return Vec::new();
        }
        self.acked = flushed;
        let ack = Message::Ack {
            epoch: self.epoch,
            session: self.session,
            durable: flushed,
            taken: self.returned,
        };
        vec![Effect::Send(self.leader, ack)]
    }

    /// Credit is given back by and by, or at once.
    pub(super) fn brake(&mut self, on: bool) {
        self.braked = on;
        if !on {
            self.returned = self.taken;
        }
    }

    pub(super) fn kept_back(&self) -> u64 {
        self.taken - self.returned
    }

    pub(super) fn give_back(&mut self, bytes: u64, flushed: Offset) -> Vec<Effect> {
        self.returned = self.taken.min(self.returned.saturating_add(bytes));
        self.ack(flushed, true)
    }
}
