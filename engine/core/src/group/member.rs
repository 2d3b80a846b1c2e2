//! A member of a classic group.

use streamd_model::Mono;

use super::record::{Blob, MemberValue};
use super::request::{DescribedMember, Join, Who};
use crate::machine::Token;
use crate::timers::TimerKey;

/// See the module.
#[derive(Debug)]
pub(super) struct Member {
    pub id: String,
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_ms: i32,
    pub rebalance_ms: i32,
    pub protocols: Vec<(String, Blob)>,
    pub assignment: Blob,
    /// Its JoinGroup, while that waits.
    pub join: Option<Token>,
    /// Its SyncGroup, while that waits.
    pub sync: Option<Token>,
    /// It has not yet seen the end of a rebalance, so it cannot send heartbeats.
    pub is_new: bool,
    /// When it is given up, unless it waits for us.
    pub deadline: Mono,
    /// The timer that looks at the deadline; it may go off before and be set again.
    pub armed: Option<TimerKey>,
}

impl Member {
    /// A member that asks to join, under this id.
    pub fn new(id: String, join: Join) -> Member {
        Member {
            id,
            instance: join.who.instance,
            client_id: join.client_id,
            client_host: join.client_host,
            session_ms: join.session_ms,
            rebalance_ms: join.rebalance_ms,
            protocols: join.protocols,
            assignment: Blob::default(),
            join: None,
            sync: None,
            is_new: true,
            deadline: Mono::default(),
            armed: None,
        }
    }

    /// A member as it was written down.
    pub fn restored(value: &MemberValue, protocol: &str) -> Member {
        // Logs of before rebalance timeouts have none.
        let rebalance_ms = match value.rebalance_ms {
            -1 => value.session_ms,
            ms => ms,
        };
        Member {
            id: value.id.clone(),
            instance: value.instance.clone(),
            client_id: value.client_id.clone(),
            client_host: value.client_host.clone(),
            session_ms: value.session_ms,
            rebalance_ms,
            protocols: vec![(protocol.to_owned(), value.subscription.clone())],
            assignment: value.assignment.clone(),
            join: None,
            sync: None,
            is_new: false,
            deadline: Mono::default(),
            armed: None,
        }
    }

    /// As it is written down.
    pub fn value(&self, protocol: &str) -> MemberValue {
        MemberValue {
            id: self.id.clone(),
            instance: self.instance.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_ms: self.rebalance_ms,
            session_ms: self.session_ms,
            subscription: self.metadata(protocol),
            assignment: self.assignment.clone(),
        }
    }

    /// As operators see it; with metadata and assignment while they count.
    pub fn describe(&self, protocol: Option<&str>) -> DescribedMember {
        DescribedMember {
            who: self.who(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            metadata: protocol.map_or_else(Blob::default, |p| self.metadata(p)),
            assignment: match protocol {
                Some(_) => self.assignment.clone(),
                None => Blob::default(),
            },
        }
    }

    pub fn who(&self) -> Who {
        Who {
            id: self.id.clone(),
            instance: self.instance.clone(),
        }
    }

    /// What it tells the leader under this protocol.
    pub fn metadata(&self, protocol: &str) -> Blob {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map_or_else(Blob::default, |(_, metadata)| metadata.clone())
    }

    /// Whether it knows this protocol.
    pub fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    /// What it holds, bytes.
    pub fn bytes(&self) -> usize {
        let protocols: usize = self.protocols.iter().map(|p| p.0.len() + p.1.len()).sum();
        let texts = self.id.len() + self.client_id.len() + self.client_host.len();
        protocols + texts + self.assignment.len() + 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_comes_back() {
        let value = MemberValue {
            id: "c-1".into(),
            instance: Some("i".into()),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            rebalance_ms: 9,
            session_ms: 8,
            subscription: [1, 2].as_slice().into(),
            assignment: [3].as_slice().into(),
        };
        let member = Member::restored(&value, "range");
        assert_eq!(member.value("range"), value);
        let old = MemberValue {
            rebalance_ms: -1,
            ..value
        };
        assert_eq!(Member::restored(&old, "range").rebalance_ms, 8);
    }
}
