//! The settings of a topic as values.

use streamd_model::ErrorCode;

use super::resolve::Layers;
use super::throttle::TopicReplication;
use crate::Refused;

/// The effective settings of a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// `cleanup.policy` has `compact`: the last record of each key is kept.
    pub compact: bool,
    /// `cleanup.policy` has `delete`: old segments go.
    pub delete: bool,
    /// Old segments go also when the disk is nearly full.
    pub delete_on_full: bool,
    /// The largest batch, bytes.
    pub max_message_bytes: i32,
    /// Records carry the broker's time.
    pub log_append_time: bool,
    /// How far behind the broker's time a record's may lie, ms.
    pub timestamp_before_max_ms: i64,
    /// How far ahead of the broker's time a record's may lie, ms.
    pub timestamp_after_max_ms: i64,
    /// How long records are kept, ms; -1 is for ever.
    pub retention_ms: i64,
    /// How large a partition may grow, bytes; -1 is no limit.
    pub retention_bytes: i64,
    /// The size at which a segment ends, bytes.
    pub segment_bytes: i32,
    /// The age at which a segment ends, ms.
    pub segment_ms: i64,
    /// How much earlier than its age says a segment may end, ms.
    pub segment_jitter_ms: i64,
    /// The size of an index at which a segment ends, bytes.
    pub segment_index_bytes: i32,
    /// Bytes of the log between two entries of the offset index.
    pub index_interval_bytes: i32,
    /// How its partitions are replicated.
    pub replication: TopicReplication,
    /// What compaction goes by.
    pub compaction: CompactionConfig,
}

/// The settings of compaction.
#[derive(Clone, Debug, PartialEq)]
pub struct CompactionConfig {
    /// How long tombstones are kept, ms.
    pub delete_retention_ms: i64,
    /// How long a record stays uncompacted at least, ms.
    pub min_lag_ms: i64,
    /// How long a record stays uncompacted at most, ms.
    pub max_lag_ms: i64,
    /// The part of the log that must be dirty before it is compacted, 0 to 1.
    pub min_dirty_ratio: f64,
}

impl TopicConfig {
    /// The settings that the layers give.
    pub fn resolve(layers: &Layers<'_>) -> TopicConfig {
        let number = |name| layers.topic_value(name).number();
        // The table's type Int holds exactly what fits in 32 bits.
        let int = |name| i32::try_from(number(name)).unwrap_or(i32::MAX);
        let policy = layers.topic_value("cleanup.policy");
        let ratio = layers.topic_value("min.cleanable.dirty.ratio");
        TopicConfig {
            compact: policy.has("compact"),
            delete: policy.has("delete"),
            delete_on_full: policy.has("delete")
                && layers.topic_value("retention.on.full").has("delete-oldest"),
            max_message_bytes: int("max.message.bytes"),
            log_append_time: layers
                .topic_value("message.timestamp.type")
                .has("LogAppendTime"),
            timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            retention_ms: number("retention.ms"),
            retention_bytes: number("retention.bytes"),
            segment_bytes: int("segment.bytes"),
            segment_ms: number("segment.ms"),
            segment_jitter_ms: number("segment.jitter.ms"),
            segment_index_bytes: int("segment.index.bytes"),
            index_interval_bytes: int("index.interval.bytes"),
            replication: TopicReplication::resolve(layers),
            compaction: CompactionConfig {
                delete_retention_ms: number("delete.retention.ms"),
                min_lag_ms: number("min.compaction.lag.ms"),
                max_lag_ms: number("max.compaction.lag.ms"),
                min_dirty_ratio: match ratio {
                    super::Value::Float(x) => x,
                    _ => 0.5,
                },
            },
        }
    }
}

impl TopicConfig {
    /// Whether a replica that is not in sync may lead. It is asked for so seldom that it is not
    /// kept.
    pub fn may_lead_unclean(layers: &Layers<'_>) -> bool {
        layers
            .topic_value("unclean.leader.election.enable")
            .is_true()
    }

    /// Whether the settings go together.
    ///
    /// # Errors
    /// INVALID_CONFIG, as Kafka says it.
    pub fn check(&self) -> Result<(), Refused> {
        let (min, max) = (self.compaction.min_lag_ms, self.compaction.max_lag_ms);
        if min <= max {
            return Ok(());
        }
        let text = format!(
            "conflict topic config setting min.compaction.lag.ms ({min}) > \
             max.compaction.lag.ms ({max})"
        );
        Err((ErrorCode::InvalidConfig, text))
    }

    /// The age at which a segment ends, ms: a compacted topic must have it sealed in time.
    pub fn roll_ms(&self) -> i64 {
        match self.compact {
            true => self.segment_ms.min(self.compaction.max_lag_ms),
            false => self.segment_ms,
        }
    }
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig::resolve(&Layers::default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Configs;
    use super::*;

    fn configs(pairs: &[(&str, &str)]) -> Configs {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn defaults_are_kafkas() {
        let c = TopicConfig::default();
        assert!(c.delete && !c.compact && !c.log_append_time);
        assert_eq!(c.retention_ms, 7 * 24 * 3_600_000);
        assert_eq!(c.max_message_bytes, 1_048_588);
        assert_eq!(c.segment_bytes, 1 << 30);
    }

    #[test]
    fn the_topic_wins_then_the_broker_then_all_brokers_then_the_file() {
        let file = configs(&[
            ("log.retention.hours", "1"),
            ("log.segment.bytes", "2097152"),
        ]);
        let all = configs(&[("log.retention.ms", "5000")]);
        let node = configs(&[("log.retention.ms", "6000")]);
        let topic = configs(&[("retention.ms", "7000")]);
        let mut layers = Layers {
            file: Some(&file),
            ..Layers::default()
        };
        assert_eq!(TopicConfig::resolve(&layers).retention_ms, 3_600_000);
        assert_eq!(TopicConfig::resolve(&layers).segment_bytes, 2_097_152);
        layers.all_nodes = Some(&all);
        assert_eq!(TopicConfig::resolve(&layers).retention_ms, 5000);
        layers.node = Some(&node);
        assert_eq!(TopicConfig::resolve(&layers).retention_ms, 6000);
        layers.topic = Some(&topic);
        assert_eq!(TopicConfig::resolve(&layers).retention_ms, 7000);
    }

    #[test]
    fn lags_must_go_together() {
        let check = |pairs: &[(&str, &str)]| {
            let topic = configs(pairs);
            let layers = Layers {
                topic: Some(&topic),
                ..Layers::default()
            };
            TopicConfig::resolve(&layers).check()
        };
        let lags = |min, max| {
            let pairs = [
                ("min.compaction.lag.ms", min),
                ("max.compaction.lag.ms", max),
            ];
            check(&pairs)
        };
        assert_eq!(lags("5", "5"), Ok(()));
        let (code, text) = lags("6", "5").unwrap_err();
        assert_eq!(code, ErrorCode::InvalidConfig);
        assert!(text.contains("min.compaction.lag.ms (6) > max.compaction.lag.ms (5)"));
    }

    #[test]
    fn a_segment_of_a_compacted_topic_ends_in_time() {
        let topic = configs(&[
            ("max.compaction.lag.ms", "7"),
            ("cleanup.policy", "compact"),
        ]);
        let layers = Layers {
            topic: Some(&topic),
            ..Layers::default()
        };
        assert_eq!(TopicConfig::resolve(&layers).roll_ms(), 7);
        let c = TopicConfig::default();
        assert_eq!(c.roll_ms(), c.segment_ms);
    }

    #[test]
    fn a_more_exact_unit_wins_over_a_layer() {
        let file = configs(&[("log.retention.ms", "9")]);
        let node = configs(&[("log.retention.hours", "1")]);
        let layers = Layers {
            file: Some(&file),
            node: Some(&node),
            ..Layers::default()
        };
        assert_eq!(TopicConfig::resolve(&layers).retention_ms, 9);
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let topic = configs(&[("retention.ms", "a week"), ("new.in.a.later.version", "1")]);
        let layers = Layers {
            topic: Some(&topic),
            ..Layers::default()
        };
        assert_eq!(TopicConfig::resolve(&layers), TopicConfig::default());
    }
}
