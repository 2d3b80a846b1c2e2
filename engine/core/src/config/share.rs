//! The settings of share groups as values: the broker's, and what a group makes of them.

use super::Configs;
use super::resolve::Layers;

/// The settings of share groups.
#[derive(Clone, Debug, PartialEq)]
pub struct ShareGroupConfig {
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
    /// How many sessions of members there may be.
    pub sessions_max: usize,
    /// The partitions of `__share_group_state`.
    pub state_partitions: i32,
    /// The replicas of each, if there are so many brokers.
    pub state_replication: i16,
    /// The size of the segments of `__share_group_state`, bytes.
    pub state_segment_bytes: i64,
    /// How many updates there are between two snapshots of a share-partition.
    pub updates_per_snapshot: u32,
    /// How a group's records are delivered, if it has no settings of its own.
    pub queue: QueueConfig,
}

/// Where a group begins in a partition that it has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// At the end.
    Latest,
    /// At the beginning.
    Earliest,
    /// At the first record that is not older than this, ms.
    Ago(i64),
}

/// How records are delivered to a share group.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueConfig {
    /// How long a record is locked for the member that got it, ms.
    pub lock_ms: i32,
    /// How often a record is delivered at most.
    pub deliveries_max: i16,
    /// How many records of a partition may be under way.
    pub locks_max: i64,
    /// Whether members may have locks renewed.
    pub renews: bool,
    /// Nothing of transactions that are open or were aborted.
    pub committed: bool,
    /// Where to begin.
    pub start: StartAt,
    /// The topic for records that are given up.
    pub dead_topic: Option<String>,
    /// Whether such a record goes there whole; else only what is known about it does.
    pub dead_copy: bool,
    /// How long a record rests after it was delivered in vain once, ms; twice as long after each
    /// further time. 0: not at all.
    pub delay_ms: i64,
    /// The longest such rest, ms.
    pub delay_max_ms: i64,
}

impl ShareGroupConfig {
    pub(super) fn resolve(layers: &Layers<'_>) -> ShareGroupConfig {
        let number = |name| layers.broker_value(name).number();
        let int = |name| i32::try_from(number(name)).unwrap_or(i32::MAX);
        let size = |name| usize::try_from(number(name)).unwrap_or(usize::MAX);
        ShareGroupConfig {
            max_size: size("group.share.max.size"),
            session_ms: int("group.share.session.timeout.ms"),
            session_range_ms: (
                int("group.share.min.session.timeout.ms"),
                int("group.share.max.session.timeout.ms"),
            ),
            heartbeat_ms: int("group.share.heartbeat.interval.ms"),
            heartbeat_range_ms: (
                int("group.share.min.heartbeat.interval.ms"),
                int("group.share.max.heartbeat.interval.ms"),
            ),
            sessions_max: size("group.share.max.share.sessions"),
            state_partitions: int("share.coordinator.state.topic.num.partitions"),
            state_replication: super::broker::short(number(
                "share.coordinator.state.topic.replication.factor",
            )),
            state_segment_bytes: number("share.coordinator.state.topic.segment.bytes"),
            updates_per_snapshot: u32::try_from(number(
                "share.coordinator.snapshot.update.records.per.snapshot",
            ))
            .unwrap_or(500),
            queue: QueueConfig {
                lock_ms: int("group.share.record.lock.duration.ms"),
                deliveries_max: number("group.share.delivery.count.limit") as i16,
                locks_max: number("group.share.partition.max.record.locks"),
                ..QueueConfig::default()
            },
        }
    }

    /// How records are delivered to a group that has these settings of its own.
    pub fn queue_of(&self, own: Option<&Configs>) -> QueueConfig {
        let mut queue = self.queue.clone();
        for (name, text) in own.into_iter().flatten() {
            queue.set(name, text.trim());
        }
        queue
    }
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig {
            lock_ms: 30_000,
            deliveries_max: 5,
            locks_max: 2000,
            renews: true,
            committed: false,
            start: StartAt::Latest,
            dead_topic: None,
            dead_copy: false,
            delay_ms: 0,
            delay_max_ms: 60_000,
        }
    }
}

impl QueueConfig {
    /// Takes a setting of the group; what cannot be read stays as it was.
    fn set(&mut self, name: &str, text: &str) {
        fn number<T: std::str::FromStr>(to: &mut T, text: &str) {
            if let Ok(n) = text.parse() {
                *to = n;
            }
        }
        let is_true = text.eq_ignore_ascii_case("true");
        match name {
            "share.record.lock.duration.ms" => number(&mut self.lock_ms, text),
            "share.delivery.count.limit" => number(&mut self.deliveries_max, text),
            "share.partition.max.record.locks" => number(&mut self.locks_max, text),
            "share.renew.acknowledge.enable" => self.renews = is_true,
            "share.isolation.level" => self.committed = text == "read_committed",
            "share.auto.offset.reset" => self.start = start_at(text).unwrap_or(self.start),
            "errors.deadletterqueue.topic.name" => {
                self.dead_topic = Some(text.to_owned()).filter(|t| !t.is_empty());
            }
            "errors.deadletterqueue.copy.record.enable" => self.dead_copy = is_true,
            "share.redelivery.delay.ms" => number(&mut self.delay_ms, text),
            "share.redelivery.delay.max.ms" => number(&mut self.delay_max_ms, text),
            _ => {}
        }
    }
}

/// Reads `latest`, `earliest` or `by_duration:` with an ISO 8601 duration.
pub(super) fn start_at(text: &str) -> Option<StartAt> {
    match text {
        "latest" => Some(StartAt::Latest),
        "earliest" => Some(StartAt::Earliest),
        other => other
            .strip_prefix("by_duration:")
            .and_then(duration_ms)
            .map(StartAt::Ago),
    }
}

/// `P1DT2H3M4.5S` in ms, as Java reads it; not below zero.
fn duration_ms(text: &str) -> Option<i64> {
    let upper = text.to_ascii_uppercase();
    let rest = upper.strip_prefix('P')?;
    let (days, times) = rest.split_once('T').unwrap_or((rest, ""));
    if days.is_empty() && times.is_empty() || rest.ends_with('T') {
        return None;
    }
    let mut total = 0i64;
    let mut take = |part: &str, units: &[(char, i64)]| -> Option<()> {
        let mut rest = part;
        let mut units = units.iter();
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (digits, tail) = rest.split_at(end);
            let unit = tail.chars().next()?;
            let ms = units.find(|u| u.0 == unit)?.1;
            if unit != 'S' && digits.contains('.') {
                return None;
            }
            let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
            let whole: i64 = whole.parse().ok()?;
            let thousandths = format!("{part:0<3}");
            let thousandths: i64 = thousandths.get(..3)?.parse().ok()?;
            let value = whole.checked_mul(ms)?.checked_add(thousandths)?;
            total = total.checked_add(value)?;
            rest = &tail[unit.len_utf8()..];
        }
        Some(())
    };
    take(days, &[('D', 86_400_000)])?;
    take(times, &[('H', 3_600_000), ('M', 60_000), ('S', 1000)])?;
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_java_reads_them() {
        let good = [
            ("PT1H", 3_600_000),
            ("P2D", 172_800_000),
            ("P1DT1M1.5S", 86_461_500),
            ("pt0.25s", 250),
            ("PT0S", 0),
        ];
        for (text, ms) in good {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for bad in [
            "", "P", "PT", "1H", "PT-1H", "P1H", "PT1M1H", "PT1.5H", "P1DT", "PTS",
        ] {
            assert_eq!(duration_ms(bad), None, "{bad}");
        }
        assert_eq!(start_at("by_duration:PT2S"), Some(StartAt::Ago(2000)));
        assert_eq!(start_at("by_duration:-PT2S"), None);
    }

    #[test]
    fn a_group_has_the_brokers_settings_but_for_its_own() {
        let config = ShareGroupConfig::resolve(&Layers::default());
        assert_eq!(config.queue_of(None), QueueConfig::default());
        let own: Configs = [
            ("share.auto.offset.reset", "earliest"),
            ("share.delivery.count.limit", "2"),
            ("errors.deadletterqueue.topic.name", "dead"),
            ("share.isolation.level", "read_committed"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let queue = config.queue_of(Some(&own));
        assert_eq!((queue.start, queue.deliveries_max), (StartAt::Earliest, 2));
        assert_eq!(
            (queue.dead_topic.as_deref(), queue.committed),
            (Some("dead"), true)
        );
    }
}
