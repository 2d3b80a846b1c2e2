//! The settings of a broker as values.

use super::resolve::Layers;
use super::throttle::ReplicationConfig;

/// The effective settings of this broker.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerConfig {
    /// Whether asking for a topic creates it.
    pub auto_create_topics: bool,
    /// Whether topics can be deleted.
    pub delete_topics: bool,
    /// The partitions of a topic that names no number.
    pub num_partitions: i32,
    /// The largest request, bytes.
    pub request_bytes_max: usize,
    /// The bytes of requests that are held at once; `None`: a part of the memory.
    pub queued_request_bytes_max: Option<u64>,
    /// The largest answer to a fetch, bytes.
    pub fetch_bytes_max: usize,
    /// How many fetch sessions are kept.
    pub fetch_sessions_max: usize,
    /// What coordinators of groups go by.
    pub groups: GroupConfig,
    /// What coordinators of transactions go by.
    pub txns: TxnConfig,
    /// What connections go by.
    pub connections: ConnectionConfig,
    /// What retention goes by.
    pub retention: RetentionConfig,
    /// What compaction goes by.
    pub cleaner: CleanerConfig,
    /// What is done about a disk that gets full, or damaged.
    pub disk: DiskConfig,
    /// How partitions are replicated, and moved.
    pub replication: ReplicationConfig,
    /// Whether records are acknowledged only when they are on stable storage.
    pub durable: bool,
}

/// The settings for disks that get full, or damaged.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskConfig {
    /// Free bytes of the disk below which old segments go; `None`: as suits the disk.
    pub free_high: Option<u64>,
    /// Free bytes of the disk below which producers are refused; `None`: as suits the disk.
    pub free_low: Option<u64>,
    /// How fast closed segments are read to find damage, bytes a second; 0: not at all.
    pub scrub_rate: u64,
}

/// The settings of connections.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionConfig {
    /// How many are open at most.
    pub max: usize,
    /// After how long an idle one is closed, ms; `None`: never.
    pub idle_ms: Option<u64>,
    /// The send buffer of their sockets, bytes; `None`: as the system has it.
    pub send_buffer: Option<usize>,
}

/// The settings of retention; how much is kept is each topic's.
#[derive(Clone, Debug, PartialEq)]
pub struct RetentionConfig {
    /// How often it looks, ms.
    pub check_ms: u64,
    /// How long a partition remembers an idle producer, ms.
    pub producer_id_expiration_ms: i64,
}

/// The settings of the compactor.
#[derive(Clone, Debug, PartialEq)]
pub struct CleanerConfig {
    /// Whether the compactor runs.
    pub enabled: bool,
    /// How long it rests when there is nothing to do, ms.
    pub backoff_ms: u64,
    /// Memory for keys, bytes, all cores together.
    pub map_bytes: usize,
    /// Bytes read and written in a second, all cores together.
    pub bytes_per_second: f64,
}

/// The settings of groups and their offsets.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupConfig {
    /// How long the first rebalance of a group waits for more members, ms.
    pub initial_delay_ms: u64,
    /// The most members of a group.
    pub max_size: usize,
    /// The longest session timeout of a member, ms.
    pub max_session_ms: i32,
    /// The shortest session timeout of a member, ms.
    pub min_session_ms: i32,
    /// The most that is kept beside a committed offset, characters.
    pub offset_metadata_max_bytes: usize,
    /// The partitions of `__consumer_offsets`.
    pub offsets_partitions: i32,
    /// The replicas of each, if there are so many brokers.
    pub offsets_replication: i16,
    /// How often offsets are looked for that nobody wants, ms.
    pub offsets_retention_check_ms: u64,
    /// How long the offsets of a group outlive it, ms.
    pub offsets_retention_ms: i64,
    /// The size of the segments of `__consumer_offsets`, bytes.
    pub offsets_segment_bytes: i64,
    /// The protocols that groups may use.
    pub protocols: Vec<String>,
    /// Those of the `consumer` protocol.
    pub consumer: ConsumerGroupConfig,
    /// Those of share groups.
    pub share: super::ShareGroupConfig,
}

/// The settings of groups of the `consumer` protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerGroupConfig {
    /// The assignors, the preferred one first.
    pub assignors: Vec<String>,
    /// Which way groups may change their protocol while they live.
    pub migration_policy: String,
    /// The most members of a group.
    pub max_size: usize,
    /// How long a member may be silent, ms.
    pub session_ms: i32,
    /// The shortest and longest that a group may set, ms.
    pub session_range_ms: (i32, i32),
    /// How often a member is to be heard of, ms.
    pub heartbeat_ms: i32,
    /// The shortest and longest that a group may set, ms.
    pub heartbeat_range_ms: (i32, i32),
}

/// The settings of transactions.
#[derive(Clone, Debug, PartialEq)]
pub struct TxnConfig {
    /// The partitions of `__transaction_state`.
    pub partitions: i32,
    /// The replicas of each, if there are so many brokers.
    pub replication: i16,
    /// How many of them have to have a record.
    pub min_isr: i32,
    /// The size of the segments of `__transaction_state`, bytes.
    pub segment_bytes: i64,
    /// The longest timeout that a producer may ask for, ms.
    pub timeout_max_ms: i32,
    /// How long an idle transactional id is kept, ms.
    pub id_expiration_ms: i64,
    /// How often that is looked after, ms.
    pub expire_check_ms: u64,
}

/// A number of replicas, which is compared with what there is.
pub(super) fn short(number: i64) -> i16 {
    i16::try_from(number).unwrap_or(i16::MAX)
}

impl BrokerConfig {
    /// The settings that the layers give.
    pub fn resolve(layers: &Layers<'_>) -> BrokerConfig {
        let number = |name| layers.broker_value(name).number();
        // The table keeps the numbers within the limits; what is allowed to be -1 becomes None.
        let size = |name| usize::try_from(number(name)).unwrap_or(usize::MAX);
        let int = |name| i32::try_from(number(name)).unwrap_or(i32::MAX);
        let optional = |name| u64::try_from(number(name)).ok();
        BrokerConfig {
            auto_create_topics: layers.broker_value("auto.create.topics.enable").is_true(),
            delete_topics: layers.broker_value("delete.topic.enable").is_true(),
            num_partitions: int("num.partitions"),
            request_bytes_max: size("socket.request.max.bytes"),
            queued_request_bytes_max: optional("queued.max.request.bytes"),
            fetch_bytes_max: size("fetch.max.bytes"),
            fetch_sessions_max: size("max.incremental.fetch.session.cache.slots"),
            groups: GroupConfig::resolve(layers),
            txns: TxnConfig::resolve(layers),
            connections: ConnectionConfig {
                max: size("max.connections"),
                idle_ms: optional("connections.max.idle.ms"),
                send_buffer: usize::try_from(number("socket.send.buffer.bytes")).ok(),
            },
            retention: RetentionConfig {
                check_ms: optional("log.retention.check.interval.ms").unwrap_or(300_000),
                producer_id_expiration_ms: number("producer.id.expiration.ms"),
            },
            cleaner: CleanerConfig::resolve(layers),
            disk: DiskConfig {
                free_high: optional("disk.free.high.bytes"),
                free_low: optional("disk.free.low.bytes"),
                scrub_rate: optional("log.scrub.bytes.per.second").unwrap_or(0),
            },
            replication: ReplicationConfig::resolve(layers),
            durable: layers.broker_value("log.flush").has("durable"),
        }
    }
}

impl CleanerConfig {
    fn resolve(layers: &Layers<'_>) -> CleanerConfig {
        let number = |name| layers.broker_value(name).number();
        let rate = layers.broker_value("log.cleaner.io.max.bytes.per.second");
        CleanerConfig {
            enabled: layers.broker_value("log.cleaner.enable").is_true(),
            backoff_ms: u64::try_from(number("log.cleaner.backoff.ms")).unwrap_or(15_000),
            map_bytes: usize::try_from(number("log.cleaner.dedupe.buffer.size"))
                .unwrap_or(usize::MAX),
            bytes_per_second: match rate {
                super::Value::Float(x) => x,
                _ => f64::MAX,
            },
        }
    }
}

impl GroupConfig {
    fn resolve(layers: &Layers<'_>) -> GroupConfig {
        let number = |name| layers.broker_value(name).number();
        let int = |name| i32::try_from(number(name)).unwrap_or(i32::MAX);
        let size = |name| usize::try_from(number(name)).unwrap_or(usize::MAX);
        let optional = |name| u64::try_from(number(name)).ok();
        GroupConfig {
            initial_delay_ms: optional("group.initial.rebalance.delay.ms").unwrap_or(3000),
            max_size: size("group.max.size"),
            max_session_ms: int("group.max.session.timeout.ms"),
            min_session_ms: int("group.min.session.timeout.ms"),
            offset_metadata_max_bytes: size("offset.metadata.max.bytes"),
            offsets_partitions: int("offsets.topic.num.partitions"),
            offsets_replication: short(number("offsets.topic.replication.factor")),
            offsets_retention_check_ms: optional("offsets.retention.check.interval.ms")
                .unwrap_or(600_000),
            offsets_retention_ms: number("offsets.retention.minutes").saturating_mul(60_000),
            offsets_segment_bytes: number("offsets.topic.segment.bytes"),
            protocols: layers
                .broker_value("group.coordinator.rebalance.protocols")
                .words(),
            consumer: ConsumerGroupConfig::resolve(layers),
            share: super::ShareGroupConfig::resolve(layers),
        }
    }
}

impl ConsumerGroupConfig {
    fn resolve(layers: &Layers<'_>) -> ConsumerGroupConfig {
        let number = |name| layers.broker_value(name).number();
        let int = |name| i32::try_from(number(name)).unwrap_or(i32::MAX);
        ConsumerGroupConfig {
            assignors: layers.broker_value("group.consumer.assignors").words(),
            migration_policy: layers
                .broker_value("group.consumer.migration.policy")
                .to_string(),
            max_size: usize::try_from(number("group.consumer.max.size")).unwrap_or(usize::MAX),
            session_ms: int("group.consumer.session.timeout.ms"),
            session_range_ms: (
                int("group.consumer.min.session.timeout.ms"),
                int("group.consumer.max.session.timeout.ms"),
            ),
            heartbeat_ms: int("group.consumer.heartbeat.interval.ms"),
            heartbeat_range_ms: (
                int("group.consumer.min.heartbeat.interval.ms"),
                int("group.consumer.max.heartbeat.interval.ms"),
            ),
        }
    }
}

impl TxnConfig {
    fn resolve(layers: &Layers<'_>) -> TxnConfig {
        let number = |name| layers.broker_value(name).number();
        let int = |name| i32::try_from(number(name)).unwrap_or(i32::MAX);
        let check = "transaction.remove.expired.transaction.cleanup.interval.ms";
        TxnConfig {
            partitions: int("transaction.state.log.num.partitions"),
            replication: short(number("transaction.state.log.replication.factor")),
            min_isr: int("transaction.state.log.min.isr"),
            segment_bytes: number("transaction.state.log.segment.bytes"),
            timeout_max_ms: int("transaction.max.timeout.ms"),
            id_expiration_ms: number("transactional.id.expiration.ms"),
            expire_check_ms: u64::try_from(number(check)).unwrap_or(3_600_000),
        }
    }
}

impl Default for BrokerConfig {
    fn default() -> BrokerConfig {
        BrokerConfig::resolve(&Layers::default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Configs;
    use super::*;

    #[test]
    fn defaults_and_minus_one() {
        let c = BrokerConfig::default();
        assert!(c.auto_create_topics && c.delete_topics && c.durable);
        assert_eq!((c.num_partitions, c.replication.factor), (1, None));
        assert_eq!(c.queued_request_bytes_max, None);
        assert_eq!(c.connections.idle_ms, Some(600_000));
        let file: Configs = [("connections.max.idle.ms", "-1"), ("log.flush", "written")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let c = BrokerConfig::resolve(&Layers {
            file: Some(&file),
            ..Layers::default()
        });
        assert_eq!(c.connections.idle_ms, None);
        assert!(!c.durable);
    }
}
