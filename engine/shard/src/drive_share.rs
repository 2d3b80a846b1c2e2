//! Share-partitions on the shard that owns their partition of `__share_group_state`: what only
//! their coordinators need of a host.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use streamd_core::machine::Token;
use streamd_core::meta::ClusterImage;
use streamd_core::share::{Coordinator, Key, Order};
use streamd_io::Class;
use streamd_model::{Offset, PartitionId};

use crate::dead;
use crate::host::{Ask, Done, Host, Hosted, Hosts};
use crate::partition::Partition;
use crate::shard::Shard;

/// How often a pruning looks whether what it stands on is durable.
const PRUNE_POLL: Duration = Duration::from_millis(100);

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

    fn catch_up(shard: &Rc<Shard>, host: &Host<Self>) {
        let image = shard.image();
        host.step(|c, _| c.follow(image));
    }

    fn carry_out(shard: &Rc<Shard>, partition: &Rc<Partition>, order: Order) {
        let (from, to) = (Rc::downgrade(shard), Rc::downgrade(partition));
        match order {
            Order::Bury(order) => {
                let bury = dead::bury(from, to, order);
                shard.env.spawn(Class::Latency, bury).detach();
            }
            Order::Prune(count) => {
                // They were appended in this very step, if they could be.
                let written = partition
                    .hosted::<Coordinator>()
                    .is_some_and(|h| h.is_serving());
                let end = partition.log.borrow().end();
                let count = i64::try_from(count).unwrap_or(0);
                if written && count <= end {
                    let prune = prune(from, to, (end - count, end));
                    shard.env.spawn(Class::Background, prune).detach();
                }
            }
        }
    }
}

/// Deletes what lies before `from` when all up to `end` is durable.
async fn prune(shard: Weak<Shard>, partition: Weak<Partition>, (from, end): (Offset, Offset)) {
    loop {
        let (Some(shard), Some(partition)) = (shard.upgrade(), partition.upgrade()) else {
            return;
        };
        if partition.usable().is_err() {
            return;
        }
        if partition.watermarks().high >= end {
            if let Err(refusal) = shard.delete_records(partition.id, from).await {
                eprintln!("warning: {} is not pruned: {refusal}", partition.name);
            }
            return;
        }
        drop(partition);
        shard.env.sleep(PRUNE_POLL).await;
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
