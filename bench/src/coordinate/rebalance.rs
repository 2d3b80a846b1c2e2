//! Rebalances: a group of as many members as there are connections shares a topic. When all is
//! quiet, a member leaves, and when the others have taken over, it comes back; in each case it is
//! counted how long it takes until every partition is shared out evenly again.
//!
//! Members say that they are alive as often as stock clients do (unless a rate is given), so most
//! of a rebalance is waiting until every member has heard of it. Changes come at random moments
//! between heartbeats.

use std::net::SocketAddr;
use std::rc::Rc;

use streamd_wire::kafka::ApiKey;

use super::{classic, consumer, version};
use crate::admin::Admin;
use crate::conn::{Pending, Template};
use crate::drive::{Load, Next, drive};
use crate::failure::Result;
use crate::meter::Meter;
use crate::payload::Random;
use crate::workload::{Kind, Workload};

/// What all members of a group know.
pub struct Group<'a> {
    /// Its name.
    pub name: String,
    /// What they share.
    pub topic: &'a str,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Nanoseconds between heartbeats, if not the protocol's own.
    pub heartbeat: Option<u64>,
}

/// What a member wants now.
pub enum Step {
    /// To send this.
    Send(Rc<Template>),
    /// To wait until then.
    Later(u64),
    /// Nothing: it is away.
    Nothing,
}

/// A member of either protocol.
pub trait Member {
    /// What it wants.
    ///
    /// # Errors
    /// A request cannot be encoded.
    fn next(&mut self, group: &Group<'_>, now: u64) -> Result<Step>;
    /// Takes an answer.
    ///
    /// # Errors
    /// It cannot be read, or refuses something for good.
    fn answer(&mut self, group: &Group<'_>, frame: &[u8], now: u64) -> Result<()>;
    /// Comes to the group, or leaves it.
    fn turn(&mut self, present: bool);
    /// The generation (0 where members have none in common) and how many partitions it owns, once
    /// it has nothing more to do for it.
    fn settled(&self) -> Option<(i32, usize)>;
    /// Whether it has left and the broker knows.
    fn away(&self) -> bool;
}

struct Rebalance<'a> {
    group: Group<'a>,
    members: Vec<Box<dyn Member>>,
    /// The member that is away, if one is.
    left: Option<usize>,
    /// When the change under way was begun; 0: the group is only being formed.
    begun: u64,
    /// When the next change is due, if none is under way.
    due: Option<u64>,
    /// The most that a change waits for.
    pause: u64,
    random: Random,
    meter: Meter,
}

/// Runs rebalances over a topic that is there.
///
/// # Errors
/// See [`drive`]; the broker refuses something.
pub fn run(
    address: SocketAddr,
    admin: &mut Admin,
    topic: &str,
    workload: &Workload,
    meter: Meter,
) -> Result<Meter> {
    let name = format!("{topic}-group");
    admin.coordinator(&name, 0)?;
    let group = Group {
        name,
        topic,
        partitions: workload.partitions,
        heartbeat: workload.rate.map(|rate| (1e9 / rate) as u64),
    };
    let members: Result<Vec<Box<dyn Member>>> = match workload.kind {
        Kind::RebalanceConsumer => {
            let version = version(admin, ApiKey::ConsumerGroupHeartbeat, (1, 1))?;
            let of = |n| Box::new(consumer::Consumer::new(n, version)) as Box<dyn Member>;
            Ok((0..workload.connections).map(of).collect())
        }
        _ => {
            let versions = classic::Versions::of(admin)?;
            let of = |_| Box::new(classic::Classic::new(versions)) as Box<dyn Member>;
            Ok((0..workload.connections).map(of).collect())
        }
    };
    let mut load = Rebalance {
        pause: group.heartbeat.unwrap_or(classic::HEARTBEAT),
        group,
        members: members?,
        left: None,
        begun: 0,
        due: None,
        random: Random::new(11),
        meter,
    };
    drive(&vec![address; workload.connections], &mut load)?;
    Ok(load.meter)
}

/// Whether everybody who is there has an even share, and all of one generation.
fn balanced(members: &[Box<dyn Member>], left: Option<usize>, partitions: i32) -> bool {
    let mut shares = Vec::with_capacity(members.len());
    for (n, member) in members.iter().enumerate() {
        if left == Some(n) {
            if !member.away() {
                return false;
            }
            continue;
        }
        let Some(settled) = member.settled() else {
            return false;
        };
        shares.push(settled);
    }
    let all: usize = shares.iter().map(|(_, owned)| owned).sum();
    let most = shares.iter().map(|(_, owned)| *owned).max();
    let least = shares.iter().map(|(_, owned)| *owned).min();
    let one = shares.windows(2).all(|pair| pair[0].0 == pair[1].0);
    let even = most.unwrap_or(0) - least.unwrap_or(0) <= 1;
    one && even && all == partitions as usize
}

impl Rebalance<'_> {
    /// Takes note when the group has come to rest.
    fn look(&mut self, now: u64) {
        if self.due.is_some() || !balanced(&self.members, self.left, self.group.partitions) {
            return;
        }
        if self.begun > 0 {
            self.meter.answered(self.begun, now, 1, 0);
        }
        self.due = Some(now + self.random.below(self.pause.max(1)));
    }

    /// Begins the next change: one leaves, or comes back.
    fn change(&mut self, now: u64) {
        self.due = None;
        self.begun = now;
        match self.left.take() {
            Some(back) => self.members[back].turn(true),
            None => {
                let leaver = self.random.below(self.members.len() as u64) as usize;
                self.members[leaver].turn(false);
                self.left = Some(leaver);
            }
        }
    }
}

impl Load for Rebalance<'_> {
    fn next(&mut self, conn: usize, now: u64) -> Result<Next> {
        if let Some(due) = self.due {
            if self.meter.over() {
                return Ok(Next::Nothing);
            }
            if self.meter.begun() && now >= due {
                self.change(now);
                // Whoever is to do something may have been asked before this one.
                return Ok(Next::Later(now));
            }
        }
        // In the warm-up the meter's next tick is what is waited for.
        let due = self.due.filter(|_| self.meter.begun());
        Ok(match (self.members[conn].next(&self.group, now)?, due) {
            (Step::Send(template), _) => Next::Send(template, now),
            (Step::Later(at), due) => Next::Later(due.map_or(at, |due| at.min(due))),
            (Step::Nothing, Some(due)) => Next::Later(due),
            (Step::Nothing, None) => Next::Nothing,
        })
    }

    fn in_flight(&self, _conn: usize) -> usize {
        1
    }

    fn answered(&self, _conn: usize) -> bool {
        true
    }

    fn answer(&mut self, conn: usize, frame: &[u8], _asked: Pending, now: u64) -> Result<()> {
        self.members[conn].answer(&self.group, frame, now)?;
        self.look(now);
        Ok(())
    }

    fn sent(&mut self, _asked: Pending, _now: u64) {}

    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Still(Option<(i32, usize)>);

    impl Member for Still {
        fn next(&mut self, _group: &Group<'_>, _now: u64) -> Result<Step> {
            Ok(Step::Nothing)
        }
        fn answer(&mut self, _group: &Group<'_>, _frame: &[u8], _now: u64) -> Result<()> {
            Ok(())
        }
        fn turn(&mut self, _present: bool) {}
        fn settled(&self) -> Option<(i32, usize)> {
            self.0
        }
        fn away(&self) -> bool {
            self.0.is_none()
        }
    }

    #[test]
    fn a_group_is_balanced_when_everybody_has_an_even_share_of_one_generation() {
        let of = |shares: &[Option<(i32, usize)>], left, partitions| {
            let members: Vec<_> = shares.iter().map(|share| Still(*share)).collect();
            let members = members.into_iter().map(|m| Box::new(m) as Box<dyn Member>);
            balanced(&members.collect::<Vec<_>>(), left, partitions)
        };
        assert!(of(&[Some((3, 2)), Some((3, 3))], None, 5));
        assert!(!of(&[Some((3, 2)), Some((4, 3))], None, 5), "generations");
        assert!(!of(&[Some((3, 1)), Some((3, 3))], None, 4), "uneven");
        assert!(
            !of(&[Some((3, 2)), Some((3, 2))], None, 5),
            "one is missing"
        );
        assert!(!of(&[Some((3, 5)), None], None, 5), "one is not there yet");
        assert!(of(&[Some((3, 5)), None], Some(1), 5));
        assert!(
            !of(&[Some((3, 5)), Some((3, 0))], Some(1), 5),
            "has not left"
        );
    }
}
