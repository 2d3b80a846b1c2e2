//! Transactional ids on the shard that owns their partition of `__transaction_state`: what only
//! their coordinators need of a host. When a decision is durable its markers go to the owners of
//! the partitions.

use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use streamd_core::meta::ClusterImage;
use streamd_core::txn::{Coordinator, Listed, Markers, Partitions};
use streamd_io::Class;
use streamd_model::{ErrorCode, PartitionId};

use crate::Refusal;
use crate::far::Home;
use crate::host::{Ask, Done, Host, Hosted, Hosts, now};
use crate::mesh;
use crate::partition::Partition;
use crate::shard::Shard;
use crate::txn::Marker;

/// A request to the coordinator of a transactional id.
pub type TxnAsk = Ask<Coordinator>;

/// What became of it.
pub type TxnDone = Done<Coordinator>;

impl Hosted for Coordinator {
    const WHAT: &'static str = "transactions";
    /// What it finds decided goes to other partitions, which have to be open.
    const AFTER_OPENING: bool = true;

    fn find(hosts: &Hosts) -> Option<&Rc<Host<Self>>> {
        match hosts {
            Hosts::Txns(host) => Some(host),
            _ => None,
        }
    }

    fn put(host: Rc<Host<Self>>) -> Hosts {
        Hosts::Txns(host)
    }

    fn carry_out(shard: &Rc<Shard>, partition: &Rc<Partition>, markers: Markers) {
        let send = send_markers(Rc::downgrade(shard), Rc::downgrade(partition), markers);
        shard.env.spawn(Class::Latency, send).detach();
    }
}

/// Markers for the partitions that exist, by where they are led; topics that are gone have nothing
/// to end. `epoch`: the coordinator's.
fn by_home(
    shard: &Shard,
    image: &ClusterImage,
    markers: &Markers,
    epoch: i32,
) -> BTreeMap<Home, Vec<Marker>> {
    let mut groups: BTreeMap<Home, Vec<Marker>> = BTreeMap::new();
    for (topic, indexes) in &markers.partitions {
        let Some(meta) = image.topic(topic) else {
            continue;
        };
        for index in indexes.iter().filter(|i| (0..meta.partitions).contains(i)) {
            let partition = PartitionId {
                topic: meta.id,
                index: *index,
            };
            let home = shard.home(partition);
            groups.entry(home).or_default().push(Marker {
                partition,
                producer: markers.producer,
                epoch: markers.epoch,
                commit: markers.commit,
                coordinator_epoch: epoch,
            });
        }
    }
    groups
}

/// Writes the markers of a decision and tells the coordinator where it could not be done.
async fn send_markers(shard: Weak<Shard>, partition: Weak<Partition>, markers: Markers) {
    let Some(shard) = shard.upgrade() else {
        return;
    };
    let Some(epoch) = partition.upgrade().map(|p| p.epoch()) else {
        return;
    };
    let image = shard.image();
    let mut left = Partitions::new();
    let mut waits = Vec::new();
    for (home, items) in by_home(&shard, &image, &markers, epoch) {
        let ids: Vec<PartitionId> = items.iter().map(|m| m.partition).collect();
        let answer = shard.begin_at(home, mesh::Request::Markers(items)).await;
        waits.push((home, ids, answer));
    }
    for (home, ids, answer) in waits {
        let mut done = match answer.await {
            Some(mesh::Reply::Markers(done)) => done.into_iter(),
            _ => Vec::new().into_iter(),
        };
        for id in ids {
            if done
                .next()
                .is_none_or(|d| d.is_err_and(|r| may_be_later(home, &r)))
                && let Some(topic) = image.topic_by_id(id.topic)
            {
                let name = topic.name.as_str().into();
                left.entry(name).or_default().insert(id.index);
            }
        }
    }
    if let Some(host) = partition.upgrade().and_then(|p| p.hosted::<Coordinator>()) {
        host.step(|c, now| c.marked(now, &markers.id, markers.round, left));
    }
}

/// Whether a marker that was refused so is to be tried again.
fn may_be_later(home: Home, refusal: &Refusal) -> bool {
    match refusal.code {
        // The image there may be an older one.
        ErrorCode::UnknownTopicOrPartition if matches!(home, Home::There(_)) => true,
        // The topic is gone, and with it whatever the transaction wrote there.
        ErrorCode::UnknownTopicOrPartition => false,
        // A newer epoch has written there: its marker has ended this transaction already.
        ErrorCode::InvalidProducerEpoch => {
            eprintln!("warning: {refusal}");
            false
        }
        _ => true,
    }
}

impl Shard {
    /// The transactional ids of this shard.
    pub(crate) fn txn_list(&self) -> Vec<Listed> {
        let now = now(&self.env);
        let hosts = self.hosts::<Coordinator>();
        hosts
            .flat_map(|(_, host)| host.look(|c| c.list(now)))
            .collect()
    }
}
