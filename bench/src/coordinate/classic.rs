//! A member of a classic group: eager, with the range assignor's result, as a stock client is.

use std::rc::Rc;

use streamd_model::ErrorCode;
use streamd_wire::kafka::join_group_request::JoinGroupRequestProtocol;
use streamd_wire::kafka::leave_group_request::MemberIdentity;
use streamd_wire::kafka::sync_group_request::SyncGroupRequestAssignment;
use streamd_wire::kafka::{
    ApiKey, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse,
};

use super::rebalance::{Group, Member, Step};
use super::{answer, done, template, version};
use crate::admin::Admin;
use crate::conn::Template;
use crate::failure::{Failure, Result};

/// Nanoseconds between the heartbeats of a stock client.
pub const HEARTBEAT: u64 = 3_000_000_000;
/// When to ask again what a coordinator could not do yet, nanoseconds.
const RETRY: u64 = 100_000_000;

/// The versions of the requests.
#[derive(Clone, Copy, Debug)]
pub struct Versions {
    join: i16,
    sync: i16,
    heartbeat: i16,
    leave: i16,
}

impl Versions {
    /// The newest that the broker and this program speak.
    ///
    /// # Errors
    /// There is none of one of them.
    pub fn of(admin: &Admin) -> Result<Versions> {
        Ok(Versions {
            join: version(admin, ApiKey::JoinGroup, (4, 5))?,
            sync: version(admin, ApiKey::SyncGroup, (3, 3))?,
            heartbeat: version(admin, ApiKey::Heartbeat, (3, 3))?,
            leave: version(admin, ApiKey::LeaveGroup, (3, 3))?,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Join,
    Sync,
    Member,
    Leave,
    Away,
}

/// A member.
pub struct Classic {
    versions: Versions,
    stage: Stage,
    /// What it asked for last, which the answer is to.
    asked: Stage,
    id: String,
    generation: i32,
    /// All members, if it leads them.
    led: Vec<String>,
    owned: usize,
    /// When it is to send next.
    due: u64,
}

impl Classic {
    /// One that will join.
    pub fn new(versions: Versions) -> Classic {
        Classic {
            versions,
            stage: Stage::Join,
            asked: Stage::Away,
            id: String::new(),
            generation: -1,
            led: Vec::new(),
            owned: 0,
            due: 0,
        }
    }

    fn join(&self, group: &Group<'_>) -> Result<Rc<Template>> {
        let mut metadata = vec![0, 0, 0, 0, 0, 1];
        put_topic(&mut metadata, group.topic);
        metadata.extend([0xff; 4]); // no user data
        let request = JoinGroupRequest {
            group_id: &group.name,
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 60_000,
            member_id: &self.id,
            protocol_type: "consumer",
            protocols: vec![JoinGroupRequestProtocol {
                name: "range",
                metadata: &metadata,
            }]
            .into(),
            ..JoinGroupRequest::default()
        };
        template(&request, self.versions.join)
    }

    fn sync(&self, group: &Group<'_>) -> Result<Rc<Template>> {
        let shares = shares(group, self.led.len());
        let each = self.led.iter().zip(&shares);
        let assignments = each.map(|(member, share)| SyncGroupRequestAssignment {
            member_id: member,
            assignment: share,
        });
        let request = SyncGroupRequest {
            group_id: &group.name,
            generation_id: self.generation,
            member_id: &self.id,
            assignments: assignments.collect::<Vec<_>>().into(),
            ..SyncGroupRequest::default()
        };
        template(&request, self.versions.sync)
    }

    fn heartbeat(&self, group: &Group<'_>) -> Result<Rc<Template>> {
        let request = HeartbeatRequest {
            group_id: &group.name,
            generation_id: self.generation,
            member_id: &self.id,
            ..HeartbeatRequest::default()
        };
        template(&request, self.versions.heartbeat)
    }

    fn leave(&self, group: &Group<'_>) -> Result<Rc<Template>> {
        let request = LeaveGroupRequest {
            group_id: &group.name,
            members: vec![MemberIdentity {
                member_id: &self.id,
                ..MemberIdentity::default()
            }]
            .into(),
            ..LeaveGroupRequest::default()
        };
        template(&request, self.versions.leave)
    }

    fn joined(&mut self, read: &JoinGroupResponse<'_>, now: u64) -> Result<()> {
        if read.error_code == ErrorCode::MemberIdRequired.code() {
            self.id = read.member_id.to_owned();
            return Ok(());
        }
        if self.again(read.error_code, "JoinGroup", now)? {
            return Ok(());
        }
        self.id = read.member_id.to_owned();
        self.generation = read.generation_id;
        let members = read.members.iter();
        self.led = members.map(|member| member.member_id.to_owned()).collect();
        self.stage = Stage::Sync;
        Ok(())
    }

    /// Whether it is to join again, or to ask later.
    fn again(&mut self, code: i16, what: &str, now: u64) -> Result<bool> {
        let known = [
            ErrorCode::RebalanceInProgress,
            ErrorCode::IllegalGeneration,
            ErrorCode::UnknownMemberId,
        ];
        if let Some(error) = known.into_iter().find(|error| error.code() == code) {
            if error == ErrorCode::UnknownMemberId {
                self.id.clear();
            }
            if self.stage != Stage::Leave {
                self.stage = Stage::Join;
            }
            return Ok(true);
        }
        let ready = done(code, what)?;
        if !ready {
            self.due = now + RETRY;
        }
        Ok(!ready)
    }
}

fn put_topic(out: &mut Vec<u8>, topic: &str) {
    out.extend((topic.len() as i16).to_be_bytes());
    out.extend(topic.as_bytes());
}

/// The partitions in even parts, as members are told of them.
fn shares(group: &Group<'_>, members: usize) -> Vec<Vec<u8>> {
    let all = group.partitions as usize;
    let from = |n: usize| all * n / members;
    let of = |n: usize| {
        let mut out = vec![0, 0, 0, 0, 0, 1];
        put_topic(&mut out, group.topic);
        out.extend(((from(n + 1) - from(n)) as i32).to_be_bytes());
        (from(n)..from(n + 1)).for_each(|p| out.extend((p as i32).to_be_bytes()));
        out.extend([0xff; 4]); // no user data
        out
    };
    (0..members).map(of).collect()
}

/// How many partitions an assignment of a single topic has.
fn count(assignment: &[u8], topic: &str) -> Option<usize> {
    let at = 8 + topic.len();
    let bytes = assignment.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(i32::from_be_bytes(bytes)).ok()
}

impl Member for Classic {
    fn next(&mut self, group: &Group<'_>, now: u64) -> Result<Step> {
        if self.stage == Stage::Away {
            return Ok(Step::Nothing);
        }
        if now < self.due && self.stage != Stage::Leave {
            return Ok(Step::Later(self.due));
        }
        self.asked = self.stage;
        Ok(Step::Send(match self.stage {
            Stage::Join => self.join(group)?,
            Stage::Sync => self.sync(group)?,
            Stage::Leave => self.leave(group)?,
            Stage::Member | Stage::Away => self.heartbeat(group)?,
        }))
    }

    fn answer(&mut self, group: &Group<'_>, frame: &[u8], now: u64) -> Result<()> {
        let Versions {
            join,
            sync,
            heartbeat,
            leave,
        } = self.versions;
        self.due = now;
        match self.asked {
            Stage::Join => {
                let read: JoinGroupResponse<'_> = answer(frame, ApiKey::JoinGroup, join)?;
                self.joined(&read, now)?;
            }
            Stage::Sync => {
                let read: SyncGroupResponse<'_> = answer(frame, ApiKey::SyncGroup, sync)?;
                if !self.again(read.error_code, "SyncGroup", now)? {
                    let owned = count(read.assignment, group.topic);
                    self.owned = owned.ok_or_else(|| Failure::new("an unreadable assignment"))?;
                    self.stage = Stage::Member;
                    self.due = now + group.heartbeat.unwrap_or(HEARTBEAT);
                }
            }
            Stage::Member => {
                let read: HeartbeatResponse = answer(frame, ApiKey::Heartbeat, heartbeat)?;
                if !self.again(read.error_code, "Heartbeat", now)? {
                    self.due = now + group.heartbeat.unwrap_or(HEARTBEAT);
                }
            }
            Stage::Leave | Stage::Away => {
                let read: LeaveGroupResponse<'_> = answer(frame, ApiKey::LeaveGroup, leave)?;
                if done(read.error_code, "LeaveGroup")? {
                    self.stage = Stage::Away;
                    self.id.clear();
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, present: bool) {
        self.stage = if present { Stage::Join } else { Stage::Leave };
        self.due = 0;
    }

    fn settled(&self) -> Option<(i32, usize)> {
        (self.stage == Stage::Member).then_some((self.generation, self.owned))
    }

    fn away(&self) -> bool {
        self.stage == Stage::Away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_tell_their_size() {
        let group = Group {
            name: "g".into(),
            topic: "topic",
            partitions: 11,
            heartbeat: None,
        };
        let shares = shares(&group, 3);
        let counts: Vec<_> = shares.iter().map(|s| count(s, "topic")).collect();
        assert_eq!(counts, [Some(3), Some(4), Some(4)]);
        assert_eq!(count(&shares[0][..12], "topic"), None);
    }
}
