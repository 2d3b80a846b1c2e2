//! A broker's seat in the cluster: it registers, sends heartbeats, holds a lease, and carries the
//! wishes of its leaders to the controller, again until they are answered.
//!
//! Invariant: the lease is counted from when a heartbeat was sent, on this node's clock alone.

use std::collections::BTreeMap;

use streamd_model::{ErrorCode, Mono, NodeId, PartitionId};

use super::{Answer, Ask, NewIsr, Outcome, Times, Token};
use crate::meta::{ClusterImage, Registration};

/// The most sets in one question.
const SETS_MAX: usize = 1_000;

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum SeatEffect {
    /// Ask the controller; if this node does not know who that is, any voter.
    Ask(Token, Ask),
    /// Leaders on this node may act until then.
    Lease(Mono),
    /// The broker's epoch.
    Registered(i64),
    /// A leader's wish was answered. The image says what is.
    Altered(PartitionId, ErrorCode),
    /// Nothing is led here any more.
    MayStop,
    /// The cluster does not take this broker: stop, and say why.
    Refused(String),
}

/// What is under way.
struct Asked {
    token: Token,
    at: Mono,
}

/// A broker's seat.
pub struct Seat {
    told: Registration,
    times: Times,
    epoch: Option<i64>,
    beat: Option<Asked>,
    last_beat: Mono,
    altering: Option<(Asked, Vec<NewIsr>)>,
    wishes: BTreeMap<PartitionId, NewIsr>,
    lease: Mono,
    fenced: bool,
    leaving: bool,
    next: Token,
}

impl Seat {
    /// A seat for this run of the broker.
    pub fn new(told: Registration, times: Times) -> Seat {
        Seat {
            told,
            times,
            epoch: None,
            beat: None,
            last_beat: Mono(0),
            altering: None,
            wishes: BTreeMap::new(),
            lease: Mono(0),
            fenced: true,
            leaving: false,
            next: 1,
        }
    }

    /// This broker.
    pub fn node(&self) -> NodeId {
        self.told.node
    }

    /// Its epoch, once it is registered.
    pub fn epoch(&self) -> Option<i64> {
        self.epoch
    }

    /// Until when leaders on this node may act.
    pub fn lease(&self) -> Mono {
        self.lease
    }

    /// Whether the controller has let it in.
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// The broker's epoch, if an image knows of this run of it: an earlier one says what the run
    /// before this one was to do.
    pub fn acts(&self, image: &ClusterImage) -> Option<i64> {
        let broker = image.cluster().broker(self.told.node)?;
        (Some(broker.epoch) == self.epoch).then_some(broker.epoch)
    }

    /// The broker wants to stop: its leaders go elsewhere first.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.last_beat = Mono(0);
    }

    /// A leader wants its in-sync set changed. A later wish for the partition replaces it.
    pub fn wish(&mut self, set: NewIsr) {
        self.wishes.insert(set.partition, set);
    }

    /// The time; `version` is that of the image here.
    pub fn tick(&mut self, version: u64, now: Mono) -> Vec<SeatEffect> {
        let mut effects = Vec::new();
        let late = |asked: &Asked| now - asked.at >= self.times.request;
        if self.beat.as_ref().is_some_and(late) {
            self.beat = None;
        }
        if self.altering.as_ref().is_some_and(|(asked, _)| late(asked)) {
            let (_, sets) = self.altering.take().expect("it is there");
            for set in sets {
                // A newer wish counts.
                self.wishes.entry(set.partition).or_insert(set);
            }
        }
        // Until it is let in, or out, a broker asks more often.
        let wait = match self.fenced || self.leaving {
            true => self.times.heartbeat / 4,
            false => self.times.heartbeat,
        };
        if self.beat.is_none() && (self.last_beat == Mono(0) || now - self.last_beat >= wait) {
            let ask = match self.epoch {
                None => Ask::Register(self.told.clone()),
                Some(epoch) => Ask::Heartbeat {
                    node: self.told.node,
                    epoch,
                    version,
                    leaving: self.leaving,
                },
            };
            let token = self.token();
            self.beat = Some(Asked { token, at: now });
            self.last_beat = now;
            effects.push(SeatEffect::Ask(token, ask));
        }
        if let (None, Some(epoch)) = (&self.altering, self.epoch)
            && !self.wishes.is_empty()
        {
            let mut sets = Vec::new();
            while sets.len() < SETS_MAX
                && let Some((_, set)) = self.wishes.pop_first()
            {
                sets.push(set);
            }
            let token = self.token();
            let node = self.told.node;
            let ask = Ask::Alter {
                node,
                epoch,
                sets: sets.clone(),
            };
            self.altering = Some((Asked { token, at: now }, sets));
            effects.push(SeatEffect::Ask(token, ask));
        }
        effects
    }

    /// An answer came. One to a question that was given up is ignored.
    pub fn answer(&mut self, token: Token, outcome: Outcome, now: Mono) -> Vec<SeatEffect> {
        if self.beat.as_ref().is_some_and(|b| b.token == token) {
            let sent = self.beat.take().map_or(now, |b| b.at);
            return self.beat_answered(sent, outcome);
        }
        if self
            .altering
            .as_ref()
            .is_some_and(|(a, _)| a.token == token)
        {
            let (_, sets) = self.altering.take().expect("it is there");
            return self.altered(sets, outcome);
        }
        Vec::new()
    }

    fn beat_answered(&mut self, sent: Mono, outcome: Outcome) -> Vec<SeatEffect> {
        match outcome {
            Ok(Answer::Registered { epoch }) => {
                self.epoch = Some(epoch);
                self.last_beat = Mono(0);
                vec![SeatEffect::Registered(epoch)]
            }
            Ok(Answer::Heartbeat { fenced, may_stop }) => {
                self.fenced = fenced;
                let mut effects = Vec::new();
                if !fenced {
                    self.lease = self.lease.max(sent + self.times.lease());
                    effects.push(SeatEffect::Lease(self.lease));
                }
                if may_stop && self.leaving {
                    effects.push(SeatEffect::MayStop);
                }
                effects
            }
            Err((ErrorCode::StaleBrokerEpoch | ErrorCode::BrokerIdNotRegistered, _)) => {
                // Another process has the id now, or it was taken out of the cluster.
                self.epoch = None;
                self.fenced = true;
                Vec::new()
            }
            Err((ErrorCode::InvalidRegistration, why)) => vec![SeatEffect::Refused(why)],
            _ => Vec::new(),
        }
    }

    fn altered(&mut self, sets: Vec<NewIsr>, outcome: Outcome) -> Vec<SeatEffect> {
        match outcome {
            Ok(Answer::Each(each)) => each
                .into_iter()
                .map(|(partition, code)| SeatEffect::Altered(partition, code))
                .collect(),
            _ => {
                for set in sets {
                    self.wishes.entry(set.partition).or_insert(set);
                }
                Vec::new()
            }
        }
    }

    fn token(&mut self) -> Token {
        self.next += 1;
        self.next
    }
}
