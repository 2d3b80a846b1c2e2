//! Groups on the shard that owns their partition of `__consumer_offsets`: what only their
//! coordinators need of a host.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use streamd_core::group::{Coordinator, Listed, Request, Token};
use streamd_core::meta::ClusterImage;
use streamd_model::{Offset, PartitionId};

use crate::Refusal;
use crate::host::{Ask, Done, Host, Hosted, Hosts};
use crate::partition::Partition;
use crate::shard::Shard;

/// A request to the coordinator of a group.
pub type GroupAsk = Ask<Coordinator>;

/// What became of it.
pub type GroupDone = Done<Coordinator>;

impl Hosted for Coordinator {
    const WHAT: &'static str = "groups";
    const AFTER_OPENING: bool = false;

    fn find(hosts: &Hosts) -> Option<&Rc<Host<Self>>> {
        match hosts {
            Hosts::Groups(host) => Some(host),
            _ => None,
        }
    }

    fn put(host: Rc<Host<Self>>) -> Hosts {
        Hosts::Groups(host)
    }

    /// Offsets may be committed in a transaction that is open here, or under a guard.
    fn admit(partition: &Partition, request: &Request) -> Result<(), Refusal> {
        match request {
            Request::TxnCommit(txn) => partition.admit_txn((txn.producer, txn.epoch), txn.guard),
            _ => Ok(()),
        }
    }

    fn catch_up(shard: &Rc<Shard>, host: &Host<Self>) {
        let image = shard.image();
        host.step(|c, _| c.drop_topics(&|name| image.topic(name).map(|t| t.id)));
        host.step(|c, now| c.follow(now, image.clone()));
    }

    fn carry_out(_shard: &Rc<Shard>, _partition: &Rc<Partition>, order: Infallible) {
        match order {}
    }
}

impl Partition {
    /// A marker was appended that ends at `next`: offsets that were pending are committed or not.
    pub(crate) fn group_marker(&self, producer: i64, commit: bool, next: Offset) {
        if let Some(host) = self.hosted::<Coordinator>() {
            host.note(next, |c| c.marker(producer, commit));
        }
    }
}

impl Shard {
    /// Whoever asked under this token is gone.
    pub(crate) fn group_gone(&self, id: PartitionId, token: Token) {
        let Ok(partition) = self.partition(id) else {
            return;
        };
        if let Some(host) = partition.hosted::<Coordinator>() {
            host.step(|c, now| c.gone(now, token));
            host.forget(token);
        }
    }

    /// The groups of this shard.
    pub(crate) fn group_list(&self) -> Vec<Listed> {
        let hosts = self.hosts::<Coordinator>();
        hosts
            .flat_map(|(_, host)| host.look(|c| c.list()))
            .collect()
    }

    /// Tells coordinators what the topics and the settings of groups are.
    pub(crate) async fn tell_groups(&self, image: &Arc<ClusterImage>) {
        for (partition, host) in self.hosts::<Coordinator>() {
            if partition.usable().is_ok() {
                let image = image.clone();
                host.step(|c, now| c.follow(now, image));
                self.env.yield_if_needed().await;
            }
        }
    }

    /// Forgets offsets of topics that `image` does not have.
    pub(crate) async fn drop_group_topics(&self, image: &ClusterImage) {
        for (partition, host) in self.hosts::<Coordinator>() {
            if partition.usable().is_ok() {
                host.step(|c, _| c.drop_topics(&|name| image.topic(name).map(|t| t.id)));
                self.env.yield_if_needed().await;
            }
        }
    }
}
