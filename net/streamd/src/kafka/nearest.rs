//! Whether a consumer had better read from a replica in its own rack (KIP-392): what
//! `replica.selector.class` says, and who is there.
//!
//! Only replicas in sync are named: they have all that a consumer may read, so one that does what
//! it is told finds it there, or waits for the moment until the replica knows that it is committed.

use streamd_core::meta::ClusterImage;
use streamd_model::{NodeId, PartitionId};
use streamd_shard::ReadDone;

use crate::broker::Broker;

/// Sends consumers of one rack to replicas there.
pub struct Nearest {
    me: NodeId,
    rack: String,
}

impl Nearest {
    /// For a consumer that says which rack it is in; `None` if it is to read from leaders.
    pub fn of(broker: &Broker, rack: &str) -> Option<Nearest> {
        let image = broker.shard.image();
        let wanted = !rack.is_empty() && image.broker().replication.nearest_reads;
        wanted.then(|| Nearest {
            me: NodeId(broker.identity.node_id),
            rack: rack.to_owned(),
        })
    }

    /// Who is to be asked instead of this broker for what is behind `offset`, where that may be
    /// read here.
    pub fn instead(
        &self,
        image: &ClusterImage,
        (partition, offset): (PartitionId, i64),
        done: &ReadDone,
    ) -> Option<NodeId> {
        let marks = &done.marks;
        let is_there = marks.start <= offset && offset <= marks.high;
        if done.result.is_err() || done.diverging.is_some() || !is_there {
            return None;
        }
        self.among(image, partition)
    }

    fn among(&self, image: &ClusterImage, partition: PartitionId) -> Option<NodeId> {
        let place = image.cluster().partition(partition)?;
        if place.leader != Some(self.me) {
            return None;
        }
        let near = |node: &NodeId| {
            let broker = image.cluster().broker(*node).filter(|b| b.is_active());
            broker.is_some_and(|b| b.told.rack.as_deref() == Some(self.rack.as_str()))
        };
        if near(&self.me) {
            return None;
        }
        let mut found: Vec<NodeId> = place.isr.iter().copied().filter(near).collect();
        found.sort_unstable();
        // Several share the partitions.
        let which = partition.index.unsigned_abs() as usize % found.len().max(1);
        found.get(which).copied()
    }
}
