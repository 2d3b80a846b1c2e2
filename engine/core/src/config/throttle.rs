//! Which replicas of a topic are throttled, and how fast replicas are copied.

use streamd_model::NodeId;

use super::Value;
use super::resolve::Layers;

/// Replicas whose copying is throttled, on one side of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Throttled {
    /// None of them.
    #[default]
    None,
    /// All of them.
    All,
    /// These: partitions with brokers.
    These(Vec<(i32, i32)>),
}

impl Throttled {
    fn of(value: &Value) -> Throttled {
        if value.has("*") {
            return Throttled::All;
        }
        let pair = |item: &String| {
            let (partition, broker) = item.split_once(':')?;
            Some((partition.parse().ok()?, broker.parse().ok()?))
        };
        let these: Vec<(i32, i32)> = value.words().iter().filter_map(pair).collect();
        match these.is_empty() {
            true => Throttled::None,
            false => Throttled::These(these),
        }
    }

    /// Whether the replica of a partition on a broker is one of them.
    pub fn has(&self, partition: i32, broker: NodeId) -> bool {
        match self {
            Throttled::None => false,
            Throttled::All => true,
            Throttled::These(these) => these.contains(&(partition, broker.0)),
        }
    }
}

/// The settings of a topic's replication.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicReplication {
    /// Replicas that must have a record before `acks=all` is answered.
    pub min_insync: i32,
    /// Replicas that are throttled where their leader is: the brokers are leaders.
    pub leader: Throttled,
    /// Replicas that are throttled where they are.
    pub follower: Throttled,
}

impl TopicReplication {
    pub(super) fn resolve(layers: &Layers<'_>) -> TopicReplication {
        let min = layers.topic_value("min.insync.replicas").number();
        let throttled = |name| Throttled::of(&layers.topic_value(name));
        TopicReplication {
            min_insync: i32::try_from(min).unwrap_or(i32::MAX),
            leader: throttled("leader.replication.throttled.replicas"),
            follower: throttled("follower.replication.throttled.replicas"),
        }
    }
}

/// The settings of a broker's replication.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicationConfig {
    /// The replication factor of a topic that names none; `None`: as suits the brokers.
    pub factor: Option<i16>,
    /// Whether a broker with much less load than the others gets some of their partitions.
    pub rebalance: bool,
    /// Bytes a second to throttled replicas elsewhere that are not in sync.
    pub leader_rate: u64,
    /// Bytes a second to throttled replicas here that are not in sync.
    pub follower_rate: u64,
    /// Bytes a second to all replicas elsewhere that are not in sync.
    pub catch_up_rate: u64,
    /// Whether consumers are sent to replicas in their own rack.
    pub nearest_reads: bool,
}

impl ReplicationConfig {
    pub(super) fn resolve(layers: &Layers<'_>) -> ReplicationConfig {
        let number = |name| layers.broker_value(name).number();
        let rate = |name| u64::try_from(number(name)).unwrap_or(0);
        let factor = i16::try_from(number("default.replication.factor")).ok();
        ReplicationConfig {
            factor: factor.filter(|n| *n > 0),
            rebalance: layers
                .broker_value("auto.replica.rebalance.enable")
                .is_true(),
            leader_rate: rate("leader.replication.throttled.rate"),
            follower_rate: rate("follower.replication.throttled.rate"),
            nearest_reads: layers
                .broker_value("replica.selector.class")
                .has("org.apache.kafka.common.replica.RackAwareReplicaSelector"),
            catch_up_rate: rate("replica.catch.up.bytes.per.second"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BrokerConfig, Configs, TopicConfig};
    use super::*;

    fn configs(pairs: &[(&str, &str)]) -> Configs {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn throttled_replicas_are_listed_or_all() {
        let topic = configs(&[
            ("leader.replication.throttled.replicas", "0:1,2:3"),
            ("follower.replication.throttled.replicas", "*"),
        ]);
        let layers = Layers {
            topic: Some(&topic),
            ..Layers::default()
        };
        let c = TopicConfig::resolve(&layers).replication;
        assert!(c.leader.has(0, NodeId(1)) && c.leader.has(2, NodeId(3)));
        assert!(!c.leader.has(0, NodeId(3)) && !c.leader.has(1, NodeId(1)));
        assert!(c.follower.has(7, NodeId(9)));
        let c = TopicConfig::default().replication;
        assert_eq!((c.leader, c.follower), (Throttled::None, Throttled::None));
    }

    #[test]
    fn rates_are_brokers_and_unlimited_unless_they_are_set() {
        let none = BrokerConfig::default().replication;
        let unlimited = i64::MAX as u64;
        assert_eq!(
            (none.leader_rate, none.follower_rate),
            (unlimited, unlimited)
        );
        let node = configs(&[
            ("leader.replication.throttled.rate", "5"),
            ("follower.replication.throttled.rate", "0"),
        ]);
        let layers = Layers {
            node: Some(&node),
            ..Layers::default()
        };
        let c = BrokerConfig::resolve(&layers).replication;
        assert_eq!((c.leader_rate, c.follower_rate), (5, 0));
    }
}
