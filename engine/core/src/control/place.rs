//! Where new partitions go: striped over the brokers, over racks first.
//!
//! Invariants: the replicas of a partition are on different brokers; on different racks as long as
//! there are enough; first replicas differ by at most one between brokers within one call.

use std::collections::BTreeMap;

use streamd_model::{ErrorCode, NodeId};

use super::refuse;
use crate::Refused;
use crate::meta::ClusterImage;

/// A broker that can take partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The broker.
    pub node: NodeId,
    /// Its rack.
    pub rack: Option<String>,
    /// How many replicas it has.
    pub load: usize,
}

/// The brokers that can take partitions, with their load.
pub fn sites(image: &ClusterImage) -> Vec<Site> {
    let cluster = image.cluster();
    let active = cluster.brokers().filter(|b| b.is_active());
    active
        .filter(|b| !image.is_draining(b.told.node))
        .map(|b| Site {
            node: b.told.node,
            rack: b.told.rack.clone(),
            load: cluster.load(b.told.node),
        })
        .collect()
}

/// Replicas for `partitions` partitions.
///
/// # Errors
/// INVALID_REPLICATION_FACTOR if there are too few brokers.
pub fn place(
    sites: &[Site],
    partitions: usize,
    replication: usize,
) -> Result<Vec<Vec<NodeId>>, Refused> {
    if replication == 0 || replication > sites.len() {
        let text = format!(
            "Unable to replicate the partition {replication} time(s): The target replication \
             factor of {replication} cannot be reached because only {} broker(s) are registered \
             and there. Start more brokers, or ask for fewer replicas.",
            sites.len()
        );
        return refuse(ErrorCode::InvalidReplicationFactor, text);
    }
    let order = interleave(sites);
    let n = order.len();
    let mut places = Vec::with_capacity(partitions);
    for partition in 0..partitions {
        // Another distance in each round, so that a broker's followers are spread.
        let (first, shift) = (
            partition % n,
            partition / n % n.max(2).saturating_sub(1).max(1),
        );
        let mut replicas = vec![order[first]];
        let others = (0..n - 1).map(|i| order[(first + 1 + (shift + i) % (n - 1)) % n]);
        let others: Vec<&Site> = others.collect();
        while replicas.len() < replication {
            let free = |s: &&&Site| !replicas.iter().any(|r| r.node == s.node);
            let elsewhere = |s: &&&Site| !replicas.iter().any(|r| r.rack == s.rack);
            let next = others.iter().filter(free).find(elsewhere);
            let next = next.or_else(|| others.iter().find(free));
            replicas.push(next.expect("there are at least as many brokers as replicas"));
        }
        places.push(replicas.iter().map(|s| s.node).collect());
    }
    Ok(places)
}

/// Neighbours are on different racks where that can be; the least loaded come first.
fn interleave(sites: &[Site]) -> Vec<&Site> {
    let mut racks: BTreeMap<Option<&str>, Vec<&Site>> = BTreeMap::new();
    for site in sites {
        racks.entry(site.rack.as_deref()).or_default().push(site);
    }
    let mut racks: Vec<Vec<&Site>> = racks.into_values().collect();
    for rack in &mut racks {
        rack.sort_by_key(|s| (s.load, s.node));
    }
    racks.sort_by_key(|r| (r[0].load, r[0].node));
    let longest = racks.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .flat_map(|i| racks.iter().filter_map(move |r| r.get(i).copied()))
        .collect()
}
