//! The internal topics: each is made when what it keeps is first asked for.

use std::rc::Rc;

use streamd_core::config::BrokerConfig;
use streamd_core::group::{OFFSETS_TOPIC, partition_of};
use streamd_core::meta::ClusterImage;
use streamd_core::meta::validate::{NewTopic, create_topic};
use streamd_core::share::STATE_TOPIC;
use streamd_core::txn::TXN_TOPIC;
use streamd_model::{ErrorCode, PartitionId};

use super::topics;
use crate::broker::Broker;

/// An internal topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Internal {
    /// Groups and their offsets.
    Offsets,
    /// Transactional ids.
    Txns,
    /// Share-partitions.
    Shares,
}

impl Internal {
    /// The one of this name.
    pub fn named(name: &str) -> Option<Internal> {
        [Internal::Offsets, Internal::Txns, Internal::Shares]
            .into_iter()
            .find(|i| i.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Internal::Offsets => OFFSETS_TOPIC,
            Internal::Txns => TXN_TOPIC,
            Internal::Shares => STATE_TOPIC,
        }
    }

    /// The partition that keeps what has this key, whose leader coordinates it. `None`: the topic
    /// is not there.
    pub fn partition(self, image: &ClusterImage, key: &str) -> Option<PartitionId> {
        let topic = image.topic(self.name())?;
        // Java's hash of the key tells the partition, whatever the topic.
        let index = partition_of(key, topic.partitions);
        Some(PartitionId {
            topic: topic.id,
            index,
        })
    }

    /// How many partitions it gets, how large its segments are, how it is compressed.
    fn layout(self, config: &BrokerConfig) -> (i32, i64, &'static str) {
        let (groups, txns) = (&config.groups, &config.txns);
        match self {
            Internal::Offsets => (
                groups.offsets_partitions,
                groups.offsets_segment_bytes,
                "producer",
            ),
            Internal::Txns => (txns.partitions, txns.segment_bytes, "uncompressed"),
            Internal::Shares => {
                let share = &groups.share;
                (
                    share.state_partitions,
                    share.state_segment_bytes,
                    "producer",
                )
            }
        }
    }

    /// How many replicas it gets, if there are so many brokers.
    fn replication(self, config: &BrokerConfig) -> i16 {
        match self {
            Internal::Offsets => config.groups.offsets_replication,
            Internal::Txns => config.txns.replication,
            Internal::Shares => config.groups.share.state_replication,
        }
    }

    /// What else it is made with: how it is cleaned.
    fn cleaning(self) -> &'static [(&'static str, Option<&'static str>)] {
        match self {
            Internal::Offsets | Internal::Txns => &[("cleanup.policy", Some("compact"))],
            // A snapshot does not replace the updates after it: compaction would lose them.
            Internal::Shares => &[
                ("cleanup.policy", Some("delete")),
                ("retention.ms", Some("-1")),
                ("retention.on.full", Some("refuse")),
            ],
        }
    }
}

/// Sees to it that an internal topic is there.
///
/// # Errors
/// Why it cannot be made.
pub async fn make(broker: &Rc<Broker>, which: Internal) -> Result<(), ErrorCode> {
    let name = which.name();
    if broker.shard.image().topic(name).is_some() {
        return Ok(());
    }
    let image = broker.shard.sited_image().await;
    let (partitions, segment_bytes, compression) = which.layout(image.broker());
    let segment_bytes = segment_bytes.to_string();
    let mut configs = which.cleaning().to_vec();
    configs.push(("compression.type", Some(compression)));
    configs.push(("segment.bytes", Some(segment_bytes.as_str())));
    let min_isr = image.broker().txns.min_isr.to_string();
    if which == Internal::Txns {
        configs.push(("min.insync.replicas", Some(min_isr.as_str())));
    }
    let brokers = image.cluster().brokers().filter(|b| b.is_active()).count();
    let brokers = i16::try_from(brokers).unwrap_or(i16::MAX).max(1);
    let wanted = NewTopic {
        name,
        id: topics::new_id(broker),
        partitions,
        replication: which.replication(image.broker()).min(brokers),
        assignments: &[],
        configs: &configs,
        now_ms: broker.shard.env.wall_ms(),
    };
    let wanted = create_topic(&image, &wanted).map_err(|(code, _)| code)?;
    match broker.shard.want(wanted).await {
        Ok(_) => Ok(()),
        // Another was faster.
        Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => Ok(()),
        Err(refusal) => {
            eprintln!("warning: cannot make {name}: {refusal}");
            Err(refusal.code)
        }
    }
}
