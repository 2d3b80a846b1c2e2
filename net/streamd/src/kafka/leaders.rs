//! Tells a client that asked the wrong broker who leads the partition, and where that one is, so
//! that it need not ask for the metadata first (KIP-951).

use std::cell::OnceCell;
use std::collections::BTreeSet;

use streamd_model::{Epoch, ErrorCode, TopicId};

use super::places::{Seen, View};
use crate::broker::Broker;

/// The leaders that one answer tells of.
pub struct Leaders<'a> {
    broker: &'a Broker,
    /// Looked up when there is something to tell.
    view: OnceCell<View>,
    told: BTreeSet<i32>,
}

impl<'a> Leaders<'a> {
    /// Nothing is told yet.
    pub fn new(broker: &'a Broker) -> Leaders<'a> {
        Leaders {
            broker,
            view: OnceCell::new(),
            told: BTreeSet::new(),
        }
    }

    /// Who leads a partition, and in which epoch, if the answer says with `code` that this broker
    /// does not; -1 and -1 if it says something else, or nobody leads.
    pub fn of(&mut self, code: i16, topic: (&str, TopicId), index: i32) -> (i32, Epoch) {
        let elsewhere = [
            ErrorCode::NotLeaderOrFollower.code(),
            ErrorCode::FencedLeaderEpoch.code(),
        ];
        if !elsewhere.contains(&code) {
            return (-1, -1);
        }
        let view = self.view.get_or_init(|| View::of(self.broker));
        let named = view.image.topic(topic.0).map(|t| t.id);
        let place = view.partition(named.unwrap_or(topic.1), index);
        if place.leader < 0 {
            return (-1, -1);
        }
        self.told.insert(place.leader);
        (place.leader, place.epoch)
    }

    /// Where those are that were named.
    pub fn nodes(&self) -> Vec<Seen<'_>> {
        let Some(view) = self.view.get() else {
            return Vec::new();
        };
        let mut nodes = view.brokers(false);
        nodes.retain(|n| self.told.contains(&n.node));
        nodes
    }
}
