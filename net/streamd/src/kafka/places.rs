//! Who is there, and what lives where: the image's brokers and places as clients are told them.
//!
//! This broker is always there, as it was started: the image may know its last run still. What has
//! no place yet is here.

use std::sync::Arc;

use streamd_core::meta::{BrokerMeta, ClusterImage};
use streamd_model::{Epoch, ErrorCode, NodeId, PartitionId, TopicId};
use streamd_wire::kafka::Array;

use crate::broker::{Broker, Identity, NATIVE, address};

/// The image, as this broker sees it.
pub struct View {
    /// The image.
    pub image: Arc<ClusterImage>,
    identity: Arc<Identity>,
    me: [i32; 1],
    controller: Option<NodeId>,
}

/// A broker.
pub struct Seen<'a> {
    /// Its id.
    pub node: i32,
    /// The host that clients are told.
    pub host: &'a str,
    /// The port that clients are told.
    pub port: u16,
    /// Its rack.
    pub rack: Option<&'a str>,
    /// The controller has not let it in, or has shut it out.
    pub fenced: bool,
}

/// Where a partition lives.
pub struct Place<'a> {
    /// LEADER_NOT_AVAILABLE if nobody leads.
    pub code: ErrorCode,
    /// Who leads; -1 if nobody does.
    pub leader: i32,
    /// The leader's epoch.
    pub epoch: Epoch,
    /// Who has it.
    pub replicas: Array<'a, i32>,
    /// Who is in sync.
    pub isr: Array<'a, i32>,
    /// Who has it, and is not there.
    pub offline: Array<'a, i32>,
}

impl View {
    /// The image as it is.
    pub fn of(broker: &Broker) -> View {
        View {
            image: broker.shard.image(),
            me: [broker.identity.node_id],
            identity: broker.identity.clone(),
            controller: broker.shard.controller(),
        }
    }

    /// The brokers by id; on demand those too that are fenced.
    pub fn brokers(&self, fenced: bool) -> Vec<Seen<'_>> {
        let cluster = self.image.cluster();
        let mut all = vec![self.myself()];
        let others = cluster.brokers().filter(|b| b.told.node.0 != self.me[0]);
        let told = others.filter(|b| fenced || !b.fenced);
        all.extend(told.filter_map(|b| seen(b)));
        all.sort_unstable_by_key(|b| b.node);
        all
    }

    /// A broker that clients can reach.
    pub fn broker(&self, node: i32) -> Option<Seen<'_>> {
        match node == self.me[0] {
            true => Some(self.myself()),
            false => seen(self.image.cluster().broker(NodeId(node))?),
        }
    }

    /// Where a broker listens for the native protocol, `HOST:PORT`.
    pub fn native(&self, node: i32) -> Option<String> {
        if node == self.me[0] {
            return self.identity.native.map(|_| self.identity.native_address());
        }
        let told = &self.image.cluster().broker(NodeId(node))?.told;
        let at = told.endpoints.iter().find(|e| e.name == NATIVE)?;
        Some(address(&at.host, at.port))
    }

    fn myself(&self) -> Seen<'_> {
        let me = self.image.cluster().broker(NodeId(self.me[0]));
        Seen {
            node: self.me[0],
            host: &self.identity.host,
            port: self.identity.port,
            rack: me.and_then(|b| b.told.rack.as_deref()),
            fenced: false,
        }
    }

    /// Who clients are to take for the controller: any broker asks the one that is.
    pub fn controller(&self) -> i32 {
        let there = |n: &NodeId| self.is_there(*n) && self.broker(n.0).is_some();
        self.controller.filter(there).map_or(self.me[0], |n| n.0)
    }

    /// Where a partition lives.
    pub fn partition(&self, topic: TopicId, index: i32) -> Place<'_> {
        let Some(place) = self.image.cluster().partition(PartitionId { topic, index }) else {
            return Place {
                code: ErrorCode::None,
                leader: self.me[0],
                epoch: 0,
                replicas: self.me.as_slice().into(),
                isr: self.me.as_slice().into(),
                offline: Array::default(),
            };
        };
        let code = match place.leader {
            Some(_) => ErrorCode::None,
            None => ErrorCode::LeaderNotAvailable,
        };
        let is_gone = |n: &&NodeId| !self.is_there(**n);
        let offline: Vec<i32> = place.replicas.iter().filter(is_gone).map(|n| n.0).collect();
        Place {
            code,
            leader: place.leader.map_or(-1, |n| n.0),
            epoch: place.leader_epoch,
            replicas: self.nodes(&place.replicas),
            isr: self.nodes(&place.isr),
            offline: offline.into(),
        }
    }

    fn is_there(&self, node: NodeId) -> bool {
        let broker = self.image.cluster().broker(node);
        node.0 == self.me[0] || broker.is_some_and(|b| !b.fenced)
    }

    fn nodes(&self, nodes: &[NodeId]) -> Array<'_, i32> {
        match nodes {
            // As most are: nothing is made for them.
            [one] if one.0 == self.me[0] => self.me.as_slice().into(),
            _ => nodes.iter().map(|n| n.0).collect::<Vec<_>>().into(),
        }
    }
}

/// How many replicas the partitions of a topic have.
pub fn replication(image: &ClusterImage, topic: TopicId) -> i16 {
    let first = image.cluster().partitions(topic).first();
    first.map_or(1, |p| i16::try_from(p.target().len()).unwrap_or(i16::MAX))
}

/// `None` if clients cannot reach it.
fn seen(broker: &BrokerMeta) -> Option<Seen<'_>> {
    let endpoint = broker.told.endpoints.first()?;
    Some(Seen {
        node: broker.told.node.0,
        host: &endpoint.host,
        port: endpoint.port,
        rack: broker.told.rack.as_deref(),
        fenced: broker.fenced,
    })
}
