//! The settings that a group of consumers can have of its own.

use super::resolve::{Layers, Source};
use super::value::{Kind, Value};
use super::{Configs, Entry, SynonymEntry, nearest};
use crate::Refused;
use streamd_model::ErrorCode;

/// A setting of groups; the broker's key of the same meaning gives its default, and two more
/// its limits.
struct GroupKey {
    name: &'static str,
    default: &'static str,
    min: &'static str,
    max: &'static str,
    doc: &'static str,
}

const GROUP_KEYS: &[GroupKey] = &[
    GroupKey {
        name: "consumer.heartbeat.interval.ms",
        default: "group.consumer.heartbeat.interval.ms",
        min: "group.consumer.min.heartbeat.interval.ms",
        max: "group.consumer.max.heartbeat.interval.ms",
        doc: "How often members of the consumer protocol are to be heard of, in milliseconds.",
    },
    GroupKey {
        name: "consumer.session.timeout.ms",
        default: "group.consumer.session.timeout.ms",
        min: "group.consumer.min.session.timeout.ms",
        max: "group.consumer.max.session.timeout.ms",
        doc: "How long members of the consumer protocol may be silent, in milliseconds.",
    },
];

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
        return Ok((Kind::Int, None));
    };
    let bound = |name| layers.broker_value(name).number();
    let (min, max) = (bound(key.min), bound(key.max));
    let number = text.trim().parse::<i32>().ok().map(i64::from);
    match number.filter(|n| (min..=max).contains(n)) {
        Some(n) => Ok((Kind::Int, Some(Value::Number(n)))),
        None => {
            let shown: String = text.chars().take(80).collect();
            let text = format!(
                "Invalid value {shown} for configuration {name}: expected a number from {min} \
                 ({}) to {max} ({})",
                key.min, key.max
            );
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
    let broker = super::describe_broker(layers, &|name| name == key.default);
    synonyms.extend(broker.into_iter().flat_map(|e| e.synonyms));
    let first = synonyms.first();
    Entry {
        name: key.name,
        value: first.map(|s| s.value.clone()),
        source: first.map_or(Source::Default, |s| s.source),
        kind: Kind::Int,
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
        let all = describe_group(&layers, Some(&own), &|_| true);
        let found: Vec<_> = all.iter().map(|e| (e.value.as_deref(), e.source)).collect();
        let want = [
            (Some("5000"), Source::Default),
            (Some("50000"), Source::Group),
        ];
        assert_eq!(found, want);
        assert_eq!(all[1].synonyms.len(), 2);
    }
}
