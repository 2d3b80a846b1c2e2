//! The settings that a group of consumers can have of its own.

use super::resolve::{Layers, Source};
use super::share::start_at;
use super::value::{Allowed, Kind, Value, expected, parse};
use super::{Configs, Entry, SynonymEntry, nearest};
use crate::Refused;
use streamd_model::ErrorCode;

/// A setting of groups.
struct GroupKey {
    name: &'static str,
    how: How,
    doc: &'static str,
}

/// What values it takes, and where its default is.
enum How {
    /// A number. The broker's key of the same meaning gives its default, and two more its limits.
    Number {
        default: &'static str,
        min: &'static str,
        max: &'static str,
    },
    /// Something with a default that is the same everywhere.
    Own(Kind, Allowed, &'static str),
    /// Where a share group begins.
    Start,
}

const fn number(default: &'static str, min: &'static str, max: &'static str) -> How {
    How::Number { default, min, max }
}

const GROUP_KEYS: &[GroupKey] = &[
    GroupKey {
        name: "consumer.heartbeat.interval.ms",
        how: number(
            "group.consumer.heartbeat.interval.ms",
            "group.consumer.min.heartbeat.interval.ms",
            "group.consumer.max.heartbeat.interval.ms",
        ),
        doc: "How often members of the consumer protocol are to be heard of, in milliseconds.",
    },
    GroupKey {
        name: "consumer.session.timeout.ms",
        how: number(
            "group.consumer.session.timeout.ms",
            "group.consumer.min.session.timeout.ms",
            "group.consumer.max.session.timeout.ms",
        ),
        doc: "How long members of the consumer protocol may be silent, in milliseconds.",
    },
    GroupKey {
        name: "errors.deadletterqueue.copy.record.enable",
        how: How::Own(Kind::Boolean, Allowed::Any, "false"),
        doc: "Whether a record that is given up goes to the dead-letter topic whole; else only \
              what is known about it goes there.",
    },
    GroupKey {
        name: "errors.deadletterqueue.topic.name",
        how: How::Own(Kind::String, Allowed::Any, ""),
        doc: "The topic for records that a share group gives up: rejected ones, and those that \
              were delivered too often. Empty: none.",
    },
    GroupKey {
        name: "share.auto.offset.reset",
        how: How::Start,
        doc: "Where a share group begins in a partition that it has not seen: latest, earliest, \
              or by_duration:PnDTnHnMn.nS before now.",
    },
    GroupKey {
        name: "share.delivery.count.limit",
        how: number(
            "group.share.delivery.count.limit",
            "group.share.min.delivery.count.limit",
            "group.share.max.delivery.count.limit",
        ),
        doc: "How often a record is delivered at most.",
    },
    GroupKey {
        name: "share.heartbeat.interval.ms",
        how: number(
            "group.share.heartbeat.interval.ms",
            "group.share.min.heartbeat.interval.ms",
            "group.share.max.heartbeat.interval.ms",
        ),
        doc: "How often members of a share group are to be heard of, in milliseconds.",
    },
    GroupKey {
        name: "share.isolation.level",
        how: How::Own(
            Kind::String,
            Allowed::OneOf(&["read_committed", "read_uncommitted"]),
            "read_uncommitted",
        ),
        doc: "Whether a share group gets records of transactions that are open or were aborted.",
    },
    GroupKey {
        name: "share.partition.max.record.locks",
        how: number(
            "group.share.partition.max.record.locks",
            "group.share.min.partition.max.record.locks",
            "group.share.max.partition.max.record.locks",
        ),
        doc: "How many records of a partition may be under way.",
    },
    GroupKey {
        name: "share.record.lock.duration.ms",
        how: number(
            "group.share.record.lock.duration.ms",
            "group.share.min.record.lock.duration.ms",
            "group.share.max.record.lock.duration.ms",
        ),
        doc: "How long a record is locked for the member that got it, in milliseconds.",
    },
    GroupKey {
        name: "share.redelivery.delay.max.ms",
        how: How::Own(Kind::Long, Allowed::Between(0, 86_400_000), "60000"),
        doc: "The longest rest of a record between two deliveries, in milliseconds. (streamd's \
              own.)",
    },
    GroupKey {
        name: "share.redelivery.delay.ms",
        how: How::Own(Kind::Long, Allowed::Between(0, 86_400_000), "0"),
        doc: "How long a record rests after it was delivered in vain, in milliseconds; twice as \
              long after each further time. 0 is not at all. (streamd's own.)",
    },
    GroupKey {
        name: "share.renew.acknowledge.enable",
        how: How::Own(Kind::Boolean, Allowed::Any, "true"),
        doc: "Whether members may have the locks of records renewed.",
    },
    GroupKey {
        name: "share.session.timeout.ms",
        how: number(
            "group.share.session.timeout.ms",
            "group.share.min.session.timeout.ms",
            "group.share.max.session.timeout.ms",
        ),
        doc: "How long members of a share group may be silent, in milliseconds.",
    },
];

impl How {
    fn kind(&self) -> Kind {
        match self {
            How::Number { .. } => Kind::Int,
            How::Own(kind, ..) => *kind,
            How::Start => Kind::String,
        }
    }

    /// Reads a value, or says what was expected.
    fn read(&self, layers: &Layers<'_>, text: &str) -> Result<Value, String> {
        match self {
            How::Number { min, max, .. } => {
                let bound = |name| layers.broker_value(name).number();
                let range = (bound(min), bound(max));
                let number = text.trim().parse::<i32>().ok().map(i64::from);
                let good = number.filter(|n| (range.0..=range.1).contains(n));
                let expected = || {
                    let (least, most) = range;
                    format!("a number from {least} ({min}) to {most} ({max})")
                };
                good.map(Value::Number).ok_or_else(expected)
            }
            How::Own(kind, allowed, _) => {
                parse(*kind, *allowed, 1, text).ok_or_else(|| expected(*kind, *allowed))
            }
            How::Start => match start_at(text.trim()) {
                Some(_) => Ok(Value::Text(text.trim().to_owned())),
                None => Err("latest, earliest, or by_duration:PnDTnHnMn.nS, not below zero".into()),
            },
        }
    }
}

/// Reads a value of a group's setting, or (without one) finds out whether there is such a setting.
///
/// # Errors
/// INVALID_CONFIG, with what was read and what is allowed.
pub fn parse_group(
    layers: &Layers<'_>,
    name: &str,
    text: Option<&str>,
) -> Result<(Kind, Option<Value>), Refused> {
    let Some(key) = GROUP_KEYS.iter().find(|k| k.name == name) else {
        let names = GROUP_KEYS.iter().map(|k| k.name);
        let hint = nearest(name, names).map_or(String::new(), |n| format!("; did you mean {n}?"));
        let text = format!("Unknown group config name: {name}{hint}");
        return Err((ErrorCode::InvalidConfig, text));
    };
    let Some(text) = text else {
        return Ok((key.how.kind(), None));
    };
    match key.how.read(layers, text) {
        Ok(value) => Ok((key.how.kind(), Some(value))),
        Err(expected) => {
            let shown: String = text.chars().take(80).collect();
            let text =
                format!("Invalid value {shown} for configuration {name}: expected {expected}");
            Err((ErrorCode::InvalidConfig, text))
        }
    }
}

/// The settings of a group, by name. `wanted` chooses.
pub fn describe_group(
    layers: &Layers<'_>,
    own: Option<&Configs>,
    wanted: &dyn Fn(&str) -> bool,
) -> Vec<Entry> {
    let keys = GROUP_KEYS.iter().filter(|k| wanted(k.name));
    keys.map(|key| entry(layers, own, key)).collect()
}

fn entry(layers: &Layers<'_>, own: Option<&Configs>, key: &GroupKey) -> Entry {
    let mut synonyms = Vec::new();
    if let Some(value) = own.and_then(|own| own.get(key.name)) {
        synonyms.push(SynonymEntry {
            name: key.name,
            value: value.clone(),
            source: Source::Group,
        });
    }
    let same = |value: &str| SynonymEntry {
        name: key.name,
        value: value.to_owned(),
        source: Source::Default,
    };
    match &key.how {
        How::Number { default, .. } => {
            let broker = super::describe_broker(layers, &|name| name == *default);
            synonyms.extend(broker.into_iter().flat_map(|e| e.synonyms));
        }
        How::Own(_, _, value) => synonyms.push(same(value)),
        How::Start => synonyms.push(same("latest")),
    }
    let first = synonyms.first();
    Entry {
        name: key.name,
        value: first.map(|s| s.value.clone()),
        source: first.map_or(Source::Default, |s| s.source),
        kind: key.how.kind(),
        read_only: false,
        synonyms,
        doc: key.doc.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_brokers_limits_and_defaults() {
        let layers = Layers::default();
        let parse = |name, text| parse_group(&layers, name, Some(text));
        let good = parse("consumer.session.timeout.ms", "50000").expect("a value");
        assert_eq!(good.1, Some(Value::Number(50_000)));
        for wrong in ["1", "60001", "x", ""] {
            let (code, text) = parse("consumer.session.timeout.ms", wrong).expect_err(wrong);
            assert_eq!(code, ErrorCode::InvalidConfig);
            assert!(
                text.contains("from 45000") && text.contains("to 60000"),
                "{text}"
            );
        }
        assert!(parse("consumer.session.timeout", "50000").is_err());
        let own: Configs = [("consumer.session.timeout.ms".to_owned(), "50000".to_owned())].into();
        let all = describe_group(&layers, Some(&own), &|n| n.starts_with("consumer."));
        let found: Vec<_> = all.iter().map(|e| (e.value.as_deref(), e.source)).collect();
        let want = [
            (Some("5000"), Source::Default),
            (Some("50000"), Source::Group),
        ];
        assert_eq!(found, want);
        assert_eq!(all[1].synonyms.len(), 2);
    }

    #[test]
    fn settings_of_share_groups_are_read() {
        let layers = Layers::default();
        let parse = |name, text| parse_group(&layers, name, Some(text)).map(|v| v.1);
        for good in ["earliest", "latest", "by_duration:P1D"] {
            assert!(parse("share.auto.offset.reset", good).is_ok(), "{good}");
        }
        let (_, text) = parse("share.auto.offset.reset", "none").expect_err("no such start");
        assert!(text.contains("by_duration"), "{text}");
        assert!(parse("share.isolation.level", "read_all").is_err());
        assert!(parse("share.delivery.count.limit", "11").is_err());
        assert_eq!(
            parse("share.delivery.count.limit", "2"),
            Ok(Some(Value::Number(2)))
        );
        assert!(parse("share.redelivery.delay.ms", "-1").is_err());
    }
}
