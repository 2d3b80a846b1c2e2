//! Commands that were made elsewhere out of a request: partitions without places get them, and
//! those that somebody has chosen begin with who is there.

use std::collections::BTreeSet;

use streamd_model::{ErrorCode, NodeId, TopicId};

use super::{Unplaced, place, refuse, sites};
use crate::Refused;
use crate::meta::{Cluster, ClusterCommand, ClusterImage, Command, PartitionMeta, TopicMeta};

/// The replicas of a partition where nobody wants another number, and there are so many brokers.
const REPLICATION: usize = 3;

/// What is to be committed, all or none, for commands that were made elsewhere. `replication` is
/// that of partitions that get places here; `None`: the setting of the brokers.
///
/// # Errors
/// Why one of the commands cannot be, or there are too few brokers.
pub fn plan(
    image: &ClusterImage,
    commands: &[Command],
    replication: Option<i16>,
) -> Result<Vec<Command>, Refused> {
    let mut after = image.clone();
    let mut all = Vec::with_capacity(commands.len() + 1);
    for command in commands {
        let command = match command {
            Command::Cluster(ClusterCommand::Place {
                topic,
                first,
                partitions,
            }) => chosen(after.cluster(), (*topic, *first), partitions)?,
            other => other.clone(),
        };
        after.admit(&command)?;
        after.apply(&command);
        all.push(command);
    }
    let touched = commands.iter().filter_map(|c| match c {
        Command::CreateTopic { id, .. } | Command::CreatePartitions { id, .. } => Some(*id),
        _ => None,
    });
    let touched: BTreeSet<TopicId> = touched.collect();
    if touched.is_empty() {
        return Ok(all);
    }
    let sites = sites(&after);
    let replication = match replication.filter(|n| *n != -1) {
        Some(wanted) => usize::try_from(wanted).unwrap_or(0),
        None => match after.broker().replication.factor {
            Some(wanted) => usize::try_from(wanted).unwrap_or(0),
            None => sites.len().clamp(1, REPLICATION),
        },
    };
    let touched = touched.iter().filter_map(|id| after.topic_by_id(*id));
    for (topic, first, count) in touched.filter_map(|t| without_place(&after, t)) {
        // Topics of before there were places stay where their data is.
        if image
            .topic_by_id(topic)
            .is_some_and(|t| t.partitions > first)
        {
            continue;
        }
        let replication = match after.cluster().partitions(topic).first() {
            Some(other) => other.target().len(),
            None => replication,
        };
        let places = place(&sites, count as usize, replication)?;
        let partitions = places.into_iter().map(PartitionMeta::new).collect();
        all.push(Command::Cluster(ClusterCommand::Place {
            topic,
            first,
            partitions,
        }));
    }
    Ok(all)
}

/// Partitions on brokers that somebody has chosen: who is there is in sync, and the first of them
/// leads.
fn chosen(
    cluster: &Cluster,
    (topic, first): (TopicId, i32),
    partitions: &[PartitionMeta],
) -> Result<Command, Refused> {
    let mut begun = Vec::with_capacity(partitions.len());
    for (partition, index) in partitions.iter().zip(first..) {
        let there = partition.replicas.iter().copied();
        let there: Vec<NodeId> = there.filter(|n| cluster.is_active(*n)).collect();
        if there.is_empty() {
            let text = format!(
                "All brokers specified in the manual partition assignment for partition {index} \
                 are fenced or in controlled shutdown."
            );
            return refuse(ErrorCode::InvalidReplicaAssignment, text);
        }
        begun.push(PartitionMeta {
            leader: there.first().copied(),
            isr: there,
            ..PartitionMeta::new(partition.replicas.clone())
        });
    }
    Ok(Command::Cluster(ClusterCommand::Place {
        topic,
        first,
        partitions: begun,
    }))
}

/// The first partition of a topic without a place, and how many there are.
pub(super) fn without_place(image: &ClusterImage, topic: &TopicMeta) -> Option<Unplaced> {
    let have = image.cluster().partitions(topic.id).len() as i32;
    (have < topic.partitions).then_some((topic.id, have, topic.partitions - have))
}
