//! Share sessions: which partitions a member reads, and the epochs that order its requests.
//!
//! A session belongs to a connection, as with Kafka: when that ends, so does the session. Other
//! than a fetch session it holds no offsets; what a member has is known to the share-partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streamd_model::{ErrorCode, TopicId};

/// Partitions that all sessions of a shard may hold together.
const PARTITIONS_MAX: usize = 200_000;

/// A partition.
pub type Place = (TopicId, i32);
type Who = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Session {
    connection: u64,
    /// The epoch of the next request.
    epoch: i32,
    partitions: Vec<Place>,
    /// All that it ever had: locks outlive an assignment.
    ever: BTreeSet<Place>,
}

/// A session that is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// The group.
    pub group: Arc<str>,
    /// Its member.
    pub member: Arc<str>,
    /// Where the member may have records.
    pub partitions: Vec<Place>,
}

/// The sessions of one shard.
#[derive(Debug, Default)]
pub struct ShareSessions {
    all: BTreeMap<Who, Session>,
    partitions: usize,
}

fn no<T>(code: ErrorCode) -> Result<T, ErrorCode> {
    Err(code)
}

impl ShareSessions {
    /// Begins a session; gives the one of the same member that ends by it.
    ///
    /// # Errors
    /// SHARE_SESSION_LIMIT_REACHED.
    pub fn open(
        &mut self,
        who: &Who,
        connection: u64,
        max: usize,
    ) -> Result<Option<Ended>, ErrorCode> {
        let before = self.end(who);
        if self.all.len() >= max || self.partitions >= PARTITIONS_MAX {
            return no(ErrorCode::ShareSessionLimitReached);
        }
        let session = Session {
            connection,
            epoch: 1,
            partitions: Vec::new(),
            ever: BTreeSet::new(),
        };
        self.all.insert(who.clone(), session);
        Ok(before)
    }

    /// Takes the next request of a session.
    ///
    /// # Errors
    /// SHARE_SESSION_NOT_FOUND, INVALID_SHARE_SESSION_EPOCH.
    pub fn next(&mut self, who: &Who, epoch: i32) -> Result<(), ErrorCode> {
        let Some(session) = self.all.get_mut(who) else {
            return no(ErrorCode::ShareSessionNotFound);
        };
        if session.epoch != epoch {
            return no(ErrorCode::InvalidShareSessionEpoch);
        }
        session.epoch = match epoch {
            i32::MAX => 1,
            n => n + 1,
        };
        Ok(())
    }

    /// Adds partitions to a session, and takes others away.
    ///
    /// # Errors
    /// SHARE_SESSION_LIMIT_REACHED.
    pub fn change(&mut self, who: &Who, more: &[Place], fewer: &[Place]) -> Result<(), ErrorCode> {
        let Some(session) = self.all.get_mut(who) else {
            return no(ErrorCode::ShareSessionNotFound);
        };
        for place in more {
            if session.ever.insert(*place) {
                self.partitions += 1;
            }
            if !session.partitions.contains(place) {
                session.partitions.push(*place);
            }
        }
        session.partitions.retain(|p| !fewer.contains(p));
        match self.partitions > PARTITIONS_MAX {
            true => no(ErrorCode::ShareSessionLimitReached),
            false => Ok(()),
        }
    }

    /// The partitions of a session, whoever was first the last time at the end.
    pub fn turn(&mut self, who: &Who) -> Vec<Place> {
        let Some(session) = self.all.get_mut(who) else {
            return Vec::new();
        };
        if !session.partitions.is_empty() {
            session.partitions.rotate_left(1);
        }
        session.partitions.clone()
    }

    /// Whether there is such a session.
    pub fn has(&self, who: &Who) -> bool {
        self.all.contains_key(who)
    }

    /// Ends a session, if there is one.
    pub fn end(&mut self, who: &Who) -> Option<Ended> {
        let session = self.all.remove(who)?;
        self.partitions -= session.ever.len();
        Some(Ended {
            group: who.0.clone(),
            member: who.1.clone(),
            partitions: session.ever.into_iter().collect(),
        })
    }

    /// Ends the sessions of a connection.
    pub fn end_of(&mut self, connection: u64) -> Vec<Ended> {
        let of = self.all.iter().filter(|(_, s)| s.connection == connection);
        let who: Vec<Who> = of.map(|(who, _)| who.clone()).collect();
        who.iter().filter_map(|who| self.end(who)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TopicId = TopicId([1; 16]);

    #[test]
    fn epochs_order_the_requests_of_a_session() {
        let mut all = ShareSessions::default();
        let who: Who = ("g".into(), "m".into());
        assert_eq!(all.next(&who, 1), Err(ErrorCode::ShareSessionNotFound));
        assert_eq!(all.open(&who, 7, 1), Ok(None));
        assert_eq!(all.next(&who, 2), Err(ErrorCode::InvalidShareSessionEpoch));
        assert_eq!(all.next(&who, 1), Ok(()));
        assert_eq!(all.next(&who, 1), Err(ErrorCode::InvalidShareSessionEpoch));
        all.change(&who, &[(T, 0), (T, 1), (T, 0)], &[])
            .expect("room");
        assert_eq!(all.turn(&who), [(T, 1), (T, 0)]);
        assert_eq!(all.turn(&who), [(T, 0), (T, 1)]);
        all.change(&who, &[], &[(T, 0)]).expect("room");
        assert_eq!(all.turn(&who), [(T, 1)]);
        let other: Who = ("g".into(), "n".into());
        let full = all.open(&other, 8, 1);
        assert_eq!(full, Err(ErrorCode::ShareSessionLimitReached));
        let ended = Ended {
            group: "g".into(),
            member: "m".into(),
            partitions: vec![(T, 0), (T, 1)],
        };
        assert_eq!(all.end_of(8), []);
        assert_eq!(all.end_of(7), [ended]);
        assert_eq!((all.has(&who), all.partitions), (false, 0));
    }
}
