//! A leader's view of its followers, and what is committed by what they have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use streamd_model::{Epoch, ErrorCode, Mono, NodeId, Offset};

use super::epochs::Epochs;
use super::{Acks, Effect, Head, Message, Session, Settings};
use crate::meta::PartitionMeta;

/// The most bytes of one push.
const PUSH_BYTES_MAX: u64 = 1 << 20;
/// The most bytes that are under way to a follower that is not in sync: what is pushed to others
/// goes the same way, and has to wait for them.
const CATCH_UP_BYTES_MAX: u64 = 1 << 20;

/// An in-sync set that a leader wants. The driver adds the brokers' epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The leader epoch.
    pub leader_epoch: Epoch,
    /// The partition's epoch that it holds for.
    pub epoch: i32,
    /// The set.
    pub isr: Vec<NodeId>,
}

/// Where the log of a leader stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub start: Offset,
    pub end: Offset,
    pub flushed: Offset,
}

#[derive(Debug)]
struct Progress {
    session: Session,
    /// Durable there; of this subscription.
    durable: Offset,
    /// What the next push begins with.
    next: Offset,
    credit: u64,
    pushed: u64,
    taken: u64,
    pushing: bool,
    /// It gets no records until that is over, but is told what there is to tell.
    held: bool,
    /// When it had, durably, all that the leader had at that time.
    caught_up: Mono,
    /// A time, and the leader's end at that time: reached next.
    mark: (Mono, Offset),
    told: Told,
    /// What was so before the push that is under way.
    told_before: Told,
}

/// When a follower was told something, and of which high watermark.
type Told = (Mono, Offset);

/// Tickets, with the offsets that they wait for, which rise.
type Waiting = VecDeque<(u64, Offset)>;

/// The leader of a partition in one epoch.
#[derive(Debug)]
pub struct Leader {
    me: NodeId,
    settings: Settings,
    meta: PartitionMeta,
    /// Where the log ended when the epoch began.
    since: Offset,
    /// Who may have become a member of the in-sync set without this leader knowing.
    maybe: BTreeSet<NodeId>,
    wished: Option<Vec<NodeId>>,
    /// Whether the last wish was refused: the next one is the set as it is, so that what was
    /// wished can't come true later.
    refused: bool,
    followers: BTreeMap<NodeId, Progress>,
    /// Who is not to join now, because its broker is fenced or leaving.
    unfit: BTreeSet<NodeId>,
    /// Until it is on this disk,
    waiting: Waiting,
    /// and on those of the in-sync set.
    waiting_all: Waiting,
    lease: Mono,
    began: Mono,
}

impl Leader {
    pub(super) fn new(
        me: NodeId,
        settings: Settings,
        meta: PartitionMeta,
        since: Offset,
        now: Mono,
    ) -> Leader {
        Leader {
            me,
            settings,
            meta,
            since,
            maybe: BTreeSet::new(),
            wished: None,
            refused: false,
            followers: BTreeMap::new(),
            unfit: BTreeSet::new(),
            waiting: Waiting::new(),
            waiting_all: Waiting::new(),
            lease: Mono(0),
            began: now,
        }
    }

    /// The partition as this leader knows it.
    pub fn meta(&self) -> &PartitionMeta {
        &self.meta
    }

    /// Where the log ended when the epoch began: below it, what is committed may not be known yet.
    pub fn since(&self) -> Offset {
        self.since
    }

    /// What of the log is durable on a follower, and when it was last caught up.
    pub fn follower(&self, node: NodeId) -> Option<(Offset, Mono)> {
        self.followers.get(&node).map(|p| (p.durable, p.caught_up))
    }

    pub(super) fn update(&mut self, meta: PartitionMeta, unfit: BTreeSet<NodeId>) {
        assert!(
            meta.leader_epoch == self.meta.leader_epoch,
            "another epoch, another leader"
        );
        self.unfit = unfit;
        if meta.epoch <= self.meta.epoch {
            return;
        }
        self.followers.retain(|n, _| meta.replicas.contains(n));
        for (node, progress) in &mut self.followers {
            progress.held &= !meta.isr.contains(node);
        }
        self.meta = meta;
        // What was wished for an earlier epoch of the partition can't come true any more.
        self.maybe.clear();
        self.wished = None;
        self.refused = false;
    }

    pub(super) fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    pub(super) fn lease(&mut self, until: Mono) {
        self.lease = self.lease.max(until);
    }

    /// Where nobody else has a copy nobody else can lead: that needs no lease.
    pub(super) fn has_lease(&self, now: Mono) -> bool {
        self.is_alone() || now < self.lease
    }

    /// Whether this is the only replica.
    fn is_alone(&self) -> bool {
        self.meta.replicas == [self.me]
    }

    /// Whether enough are in sync for `acks=all`.
    pub(super) fn enough(&self) -> bool {
        self.meta.isr.len() >= self.settings.min_isr.min(self.meta.replicas.len())
    }

    pub(super) fn wait(&mut self, ticket: u64, end: Offset, acks: Acks) {
        let waiting = match acks {
            Acks::None => return,
            Acks::Leader => &mut self.waiting,
            Acks::All => &mut self.waiting_all,
        };
        let rises = waiting.back().is_none_or(|(_, last)| *last <= end);
        assert!(rises, "tickets come in the order of their offsets");
        waiting.push_back((ticket, end));
    }

    /// What is committed: the least that is durable on those who are, or may be, in sync.
    pub(super) fn committed(&self, ends: Ends) -> Option<Offset> {
        if !self.enough() {
            return None;
        }
        let mut least = ends.flushed;
        for node in self.meta.isr.iter().chain(&self.maybe) {
            if *node != self.me {
                least = least.min(self.followers.get(node)?.durable);
            }
        }
        Some(least)
    }

    pub(super) fn subscribe(
        &mut self,
        (from, message): (NodeId, &Message),
        (epochs, start): (&Epochs, Offset),
        ends: Ends,
        now: Mono,
    ) -> Vec<Effect> {
        let Message::Subscribe {
            epoch,
            session,
            last_epoch,
            end,
            durable,
            credit,
        } = *message
        else {
            return Vec::new();
        };
        if let Err(why) = self.may_follow(from, epoch) {
            return self.refuse(from, session, why);
        }
        let known = self.followers.get(&from);
        if known.is_some_and(|p| p.session >= session) {
            return Vec::new();
        }
        if let Some(answer) =
            self.begin_elsewhere((session, last_epoch, end), (epochs, start), ends)
        {
            return vec![Effect::Send(from, answer)];
        }
        if end > ends.end {
            return self.refuse(from, session, ErrorCode::OffsetOutOfRange);
        }
        let known = self
            .followers
            .get(&from)
            .map_or(self.began, |p| p.caught_up);
        let progress = Progress {
            session,
            durable: durable.min(end),
            next: end,
            credit: credit.min(self.settings.credit),
            pushed: 0,
            taken: 0,
            pushing: false,
            held: false,
            caught_up: known,
            mark: (now, ends.end),
            told: (Mono(0), -1),
            told_before: (Mono(0), -1),
        };
        self.followers.insert(from, progress);
        // It is told at once that it is served, however long the records take to be read.
        let head = Head {
            epoch: self.meta.leader_epoch,
            session,
            base: end,
            high: 0,
            start: ends.start,
        };
        vec![Effect::Send(from, Message::Data(head))]
    }

    fn refuse(&self, to: NodeId, session: Session, why: ErrorCode) -> Vec<Effect> {
        let epoch = self.meta.leader_epoch;
        let refused = Message::Refused {
            epoch,
            session,
            why,
        };
        vec![Effect::Send(to, refused)]
    }

    /// Whether the node is a follower in the epoch that it names.
    fn may_follow(&self, from: NodeId, epoch: Epoch) -> Result<(), ErrorCode> {
        if epoch < self.meta.leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        let here = from != self.me && self.meta.replicas.contains(&from);
        match epoch == self.meta.leader_epoch && here {
            true => Ok(()),
            false => Err(ErrorCode::UnknownLeaderEpoch),
        }
    }

    /// What a follower is told whose log does not end on the leader's: where to cut it, or where
    /// to begin anew.
    fn begin_elsewhere(
        &self,
        (session, last_epoch, end): (Session, Epoch, Offset),
        (epochs, start): (&Epochs, Offset),
        ends: Ends,
    ) -> Option<Message> {
        let epoch = self.meta.leader_epoch;
        let (at, to) = epochs.end_of(last_epoch, ends.end);
        let empty = end == 0 || last_epoch == -1;
        if !empty && (at != last_epoch || end > to) {
            return Some(Message::Diverged {
                epoch,
                session,
                at,
                end: to,
            });
        }
        (end < start).then_some(Message::Begin {
            epoch,
            session,
            start,
        })
    }

    pub(super) fn ack(&mut self, from: NodeId, message: &Message, ends: Ends, now: Mono) {
        let Message::Ack {
            epoch,
            session,
            durable,
            taken,
        } = *message
        else {
            return;
        };
        let Some(progress) = self.followers.get_mut(&from) else {
            return;
        };
        if epoch != self.meta.leader_epoch || progress.session != session {
            return;
        }
        // It has at most what it was sent.
        if durable > ends.end || taken > progress.pushed {
            return;
        }
        progress.durable = progress.durable.max(durable);
        progress.taken = progress.taken.max(taken);
        if progress.durable >= ends.end {
            progress.caught_up = now;
            progress.mark = (now, ends.end);
        } else if progress.durable >= progress.mark.1 {
            progress.caught_up = progress.caught_up.max(progress.mark.0);
            progress.mark = (now, ends.end);
        }
    }

    pub(super) fn pushed(&mut self, to: NodeId, session: Session, next: Offset, bytes: u64) {
        if let Some(progress) = self.followers.get_mut(&to)
            && progress.session == session
        {
            progress.pushing = false;
            progress.next = progress.next.max(next);
            progress.pushed += bytes;
        }
    }

    /// The push to a follower is not to be done now.
    pub(super) fn hold(&mut self, to: NodeId, session: Session) {
        if let Some(progress) = self.followers.get_mut(&to)
            && progress.session == session
        {
            progress.pushing = false;
            progress.held = true;
            progress.told = progress.told_before;
        }
    }

    /// A follower gets records again.
    pub(super) fn release(&mut self, to: NodeId) {
        if let Some(progress) = self.followers.get_mut(&to) {
            progress.held = false;
        }
    }

    /// Followers that get no records for now.
    pub fn held(&self) -> Vec<NodeId> {
        let held = self.followers.iter().filter(|(_, p)| p.held);
        held.map(|(node, _)| *node).collect()
    }

    /// The bytes under way to a follower that is not in sync; `None` if it is, or is none.
    pub fn catching_up(&self, node: NodeId) -> Option<u64> {
        let progress = self.followers.get(&node);
        let progress = progress.filter(|_| !self.meta.isr.contains(&node))?;
        Some(progress.pushed - progress.taken)
    }

    /// What can be sent now: records for who has credit, the high watermark, a pulse.
    pub(super) fn push(&mut self, high: Offset, ends: Ends, now: Mono) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (node, progress) in &mut self.followers {
            if progress.pushing {
                continue;
            }
            let head = Head {
                epoch: self.meta.leader_epoch,
                session: progress.session,
                base: progress.next,
                high,
                start: ends.start,
            };
            let under_way = progress.pushed - progress.taken;
            let catch_up = !self.meta.isr.contains(node);
            let credit = match catch_up {
                true => progress.credit.min(CATCH_UP_BYTES_MAX),
                false => progress.credit,
            };
            let room = credit.saturating_sub(under_way);
            let (told, told_high) = progress.told;
            if progress.next < ends.end && room > 0 && !progress.held {
                progress.pushing = true;
                progress.told_before = progress.told;
                effects.push(Effect::Push {
                    to: *node,
                    head,
                    max_bytes: room.min(PUSH_BYTES_MAX),
                    catch_up,
                });
            } else if now - told >= self.settings.patience(high > told_high) {
                effects.push(Effect::Send(*node, Message::Data(head)));
            } else {
                continue;
            }
            progress.told = (now, high);
        }
        effects
    }

    /// What is settled by `high` and by what is durable here.
    pub(super) fn settle(&mut self, high: Offset, flushed: Offset, now: Mono) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !self.has_lease(now) {
            return effects;
        }
        for (waiting, to) in [(&mut self.waiting, flushed), (&mut self.waiting_all, high)] {
            while let Some(&(ticket, end)) = waiting.front()
                && end <= to
            {
                waiting.pop_front();
                effects.push(Effect::Settle(ticket, Ok(())));
            }
        }
        effects
    }

    /// This node does not lead any more: what waits may be in the log of the next leader or not.
    pub(super) fn resign(&mut self) -> Vec<Effect> {
        let lost = self.waiting.drain(..).chain(self.waiting_all.drain(..));
        lost.map(|(ticket, _)| Effect::Settle(ticket, Err(ErrorCode::NotLeaderOrFollower)))
            .collect()
    }

    /// Which in-sync set is wanted, if another one, and none is wanted already.
    pub(super) fn wish(&mut self, high: Offset, now: Mono) -> Vec<Effect> {
        if self.wished.is_some() || self.is_alone() {
            return Vec::new();
        }
        let lags = |n: &NodeId| {
            let caught_up = self.followers.get(n).map_or(self.began, |p| p.caught_up);
            *n != self.me && now - caught_up > self.settings.lag
        };
        let ready = |n: &NodeId| {
            let durable = self.followers.get(n).map(|p| p.durable);
            let fits = !self.unfit.contains(n) && !self.meta.isr.contains(n) && !lags(n);
            fits && durable.is_some_and(|d| d >= high && d >= self.since)
        };
        let shrunk = self.meta.isr.iter().copied().filter(|n| !lags(n));
        let joined = self.meta.replicas.iter().copied().filter(|n| ready(n));
        let isr: Vec<NodeId> = shrunk.chain(joined).collect();
        let isr = match self.refused {
            true => self.meta.isr.clone(),
            false if isr == self.meta.isr => return Vec::new(),
            false => isr,
        };
        self.maybe.extend(isr.iter().copied());
        self.wished = Some(isr.clone());
        self.refused = false;
        vec![Effect::Wish(Wish {
            leader_epoch: self.meta.leader_epoch,
            epoch: self.meta.epoch,
            isr,
        })]
    }

    /// The controller refused a wish. The image may say more already.
    pub(super) fn refused(&mut self, why: ErrorCode) {
        let was_set = self.wished.take().is_some_and(|isr| isr == self.meta.isr);
        // A wish for another epoch of the partition is void. One for this epoch may still come
        // true, should the question arrive once more.
        self.refused = why == ErrorCode::IneligibleReplica && !was_set;
    }
}
