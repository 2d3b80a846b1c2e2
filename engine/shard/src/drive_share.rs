//! Share-partitions on the shard that owns their partition of `__share_group_state`: what only
//! their coordinators need of a host.

use std::rc::Rc;
use std::sync::Arc;

use streamd_core::machine::Token;
use streamd_core::meta::ClusterImage;
use streamd_core::share::{Bury, Coordinator, Key};
use streamd_io::Class;
use streamd_model::PartitionId;

use crate::dead;
use crate::host::{Ask, Done, Host, Hosted, Hosts};
use crate::partition::Partition;
use crate::shard::Shard;

/// A request to the coordinator of a share-partition.
pub type ShareAsk = Ask<Coordinator>;

/// What became of it.
pub type ShareDone = Done<Coordinator>;

impl Hosted for Coordinator {
    const WHAT: &'static str = "share-partitions";
    /// What it finds given up is read in other partitions, and goes to others.
    const AFTER_OPENING: bool = true;

    fn find(hosts: &Hosts) -> Option<&Rc<Host<Self>>> {
        match hosts {
            Hosts::Shares(host) => Some(host),
            _ => None,
        }
    }

    fn put(host: Rc<Host<Self>>) -> Hosts {
        Hosts::Shares(host)
    }

    fn carry_out(shard: &Rc<Shard>, partition: &Rc<Partition>, order: Bury) {
        let bury = dead::bury(Rc::downgrade(shard), Rc::downgrade(partition), order);
        shard.env.spawn(Class::Latency, bury).detach();
    }
}

impl Shard {
    /// Whoever asked under these tokens is gone.
    pub(crate) fn shares_gone(&self, asked: Vec<(PartitionId, Key, Token)>) {
        for (id, key, token) in asked {
            let Ok(partition) = self.partition(id) else {
                continue;
            };
            if let Some(host) = partition.hosted::<Coordinator>() {
                host.step(|c, _| c.gone(&key, token));
                host.forget(token);
            }
        }
    }

    /// Tells coordinators what the topics and the settings of groups are.
    pub(crate) async fn tell_shares(&self, image: &Arc<ClusterImage>) {
        for (partition, host) in self.hosts::<Coordinator>() {
            if partition.usable().is_ok() {
                let image = image.clone();
                host.step(|c, _| c.follow(image));
                self.env.yield_if_needed().await;
            }
        }
    }
}
