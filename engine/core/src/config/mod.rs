//! Settings of topics and brokers, under Kafka's names: one table, how values are read, and which
//! layer wins.
//!
//! A topic's setting comes from the first of: the topic, this broker's dynamic settings, the
//! dynamic settings of all brokers, the file and flags of this broker, the default. Only values
//! that were read successfully get into a layer; one that cannot be read (written by a later
//! version) is passed over rather than believed.

mod broker;
mod describe;
mod group;
mod nearest;
mod resolve;
mod share;
mod table;
mod throttle;
mod topic;
mod value;

use std::collections::BTreeMap;

pub use broker::{
    BrokerConfig, CleanerConfig, ConnectionConfig, ConsumerGroupConfig, DiskConfig, GroupConfig,
    RetentionConfig, TxnConfig,
};
pub use describe::{Entry, SynonymEntry, describe_broker, describe_topic};
pub use group::{describe_group, parse_group};
pub use nearest::nearest;
pub use resolve::{Layers, Source};
pub use share::{QueueConfig, ShareGroupConfig, StartAt};
pub use table::{
    BROKER_KEYS, BrokerKey, Effect, Synonym, TOPIC_KEYS, TopicKey, broker_key, broker_key_names,
    elsewhere, topic_key,
};
pub use throttle::{ReplicationConfig, Throttled, TopicReplication};
pub use topic::{CompactionConfig, TopicConfig};
pub use value::{Allowed, Kind, Value};

/// The setting of one broker that has its partitions moved away.
pub const DRAIN: &str = "broker.drain";

/// Settings as they were given: names and values.
pub type Configs = BTreeMap<String, String>;

/// The longest value of a setting, bytes.
pub const VALUE_BYTES_MAX: usize = 32 * 1024;
