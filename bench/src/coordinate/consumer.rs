//! A member of a group of the `consumer` protocol (KIP-848): it says what it owns, is told what it
//! shall own, gives back at once what is not its own any more, and says so.

use std::rc::Rc;

use streamd_model::{ErrorCode, TopicId};
use streamd_wire::kafka::consumer_group_heartbeat_request::TopicPartitions;
use streamd_wire::kafka::{ApiKey, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};

use super::rebalance::{Group, Member, Step};
use super::{answer, done, template};
use crate::conn::Template;
use crate::failure::Result;

/// When to ask again what a coordinator could not do yet, nanoseconds.
const RETRY: u64 = 100_000_000;

/// A member.
pub struct Consumer {
    version: i16,
    number: usize,
    /// How often it has come: each time under another name.
    life: u32,
    /// 0: it joins. -1: it leaves.
    epoch: i32,
    present: bool,
    away: bool,
    owned: Vec<(TopicId, Vec<i32>)>,
    /// Whether the group is still to hear of what it owns.
    unsaid: bool,
    due: u64,
}

impl Consumer {
    /// One that will join.
    pub fn new(number: usize, version: i16) -> Consumer {
        Consumer {
            version,
            number,
            life: 0,
            epoch: 0,
            present: true,
            away: false,
            owned: Vec::new(),
            unsaid: false,
            due: 0,
        }
    }

    fn heartbeat(&self, group: &Group<'_>) -> Result<Rc<Template>> {
        let joins = self.epoch == 0;
        let owned = self
            .owned
            .iter()
            .map(|(topic_id, partitions)| TopicPartitions {
                topic_id: *topic_id,
                partitions: partitions.as_slice().into(),
            });
        let owned = (joins || self.unsaid).then(|| owned.collect::<Vec<_>>().into());
        let request = ConsumerGroupHeartbeatRequest {
            group_id: &group.name,
            member_id: &format!("{}-{}-{}", group.name, self.number, self.life),
            member_epoch: self.epoch,
            rebalance_timeout_ms: if joins { 60_000 } else { -1 },
            subscribed_topic_names: joins.then(|| vec![group.topic].into()),
            topic_partitions: owned,
            ..ConsumerGroupHeartbeatRequest::default()
        };
        template(&request, self.version)
    }

    /// Begins anew, under another name.
    fn join(&mut self) {
        self.life += 1;
        self.epoch = 0;
        self.owned.clear();
        self.unsaid = false;
        self.away = false;
        self.due = 0;
    }
}

impl Member for Consumer {
    fn next(&mut self, group: &Group<'_>, now: u64) -> Result<Step> {
        if self.away {
            return Ok(Step::Nothing);
        }
        if now < self.due {
            return Ok(Step::Later(self.due));
        }
        if !self.present {
            self.epoch = -1;
        }
        let request = self.heartbeat(group)?;
        self.unsaid = false;
        Ok(Step::Send(request))
    }

    fn answer(&mut self, group: &Group<'_>, frame: &[u8], now: u64) -> Result<()> {
        let read: ConsumerGroupHeartbeatResponse<'_> =
            answer(frame, ApiKey::ConsumerGroupHeartbeat, self.version)?;
        let lost = [ErrorCode::UnknownMemberId, ErrorCode::FencedMemberEpoch];
        if self.epoch >= 0 && lost.iter().any(|error| error.code() == read.error_code) {
            self.join();
            return Ok(());
        }
        if !done(read.error_code, "ConsumerGroupHeartbeat")? {
            self.due = now + RETRY;
            return Ok(());
        }
        if self.epoch < 0 {
            self.away = true;
            return Ok(());
        }
        self.epoch = read.member_epoch;
        if let Some(assignment) = read.assignment {
            let told = assignment.topic_partitions.iter();
            self.owned = told.map(|t| (t.topic_id, t.partitions.to_vec())).collect();
            self.unsaid = true;
        }
        let asked_for = read.heartbeat_interval_ms.max(1) as u64 * 1_000_000;
        let interval = group.heartbeat.unwrap_or(asked_for);
        self.due = if self.unsaid { now } else { now + interval };
        // It may have been told to leave while the answer was under way.
        if !self.present {
            self.due = now;
        }
        Ok(())
    }

    fn turn(&mut self, present: bool) {
        self.present = present;
        self.due = 0;
        if present {
            self.join();
        }
    }

    fn settled(&self) -> Option<(i32, usize)> {
        let owned = self.owned.iter().map(|(_, partitions)| partitions.len());
        let there = self.epoch > 0 && !self.unsaid;
        there.then(|| (0, owned.sum()))
    }

    fn away(&self) -> bool {
        self.away
    }
}
