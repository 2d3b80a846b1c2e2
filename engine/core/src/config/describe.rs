//! Settings as DescribeConfigs shows them: value, source, type, synonyms.

use std::borrow::Cow;

use super::resolve::{Found, Layers, Source};
use super::table::{BROKER_KEYS, BrokerKey, Effect, TOPIC_KEYS, TopicKey, broker_key};
use super::value::Kind;

/// One setting.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// The value that is in force; `None` if a broker key has none (another one gives it).
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: Source,
    /// Its type.
    pub kind: Kind,
    /// Whether it cannot be changed while the broker runs.
    pub read_only: bool,
    /// All values in the layers, the one in force first.
    pub synonyms: Vec<SynonymEntry>,
    /// What it means.
    pub doc: Cow<'static, str>,
}

/// A value in one of the layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SynonymEntry {
    /// The key that it is set with.
    pub name: &'static str,
    /// The value as it was set.
    pub value: String,
    /// The layer.
    pub source: Source,
}

/// The settings of a topic, by name. `wanted` chooses.
pub fn describe_topic(layers: &Layers<'_>, wanted: &dyn Fn(&str) -> bool) -> Vec<Entry> {
    let keys = TOPIC_KEYS.iter().filter(|k| wanted(k.name));
    keys.map(|key| topic_entry(layers, key)).collect()
}

/// The settings of a broker. `wanted` chooses.
pub fn describe_broker(layers: &Layers<'_>, wanted: &dyn Fn(&str) -> bool) -> Vec<Entry> {
    let own = BROKER_KEYS.iter().copied();
    let defaults = TOPIC_KEYS.iter().flat_map(|k| k.synonyms);
    let defaults = defaults.filter_map(|s| broker_key(s.name).ok());
    let mut keys: Vec<BrokerKey> = own.chain(defaults).filter(|k| wanted(k.name)).collect();
    keys.sort_unstable_by_key(|k| k.name);
    keys.iter().map(|key| broker_entry(layers, key)).collect()
}

fn topic_entry(layers: &Layers<'_>, key: &'static TopicKey) -> Entry {
    let found = layers.topic(key);
    Entry {
        name: key.name,
        value: found.first().map(|f| f.value.to_string()),
        source: found.first().map_or(Source::Default, |f| f.source),
        kind: key.kind,
        read_only: false,
        synonyms: synonyms(&found),
        doc: doc(key.doc, key.effect),
    }
}

fn broker_entry(layers: &Layers<'_>, key: &BrokerKey) -> Entry {
    let found = layers.broker(key);
    Entry {
        name: key.name,
        value: found.first().map(|f| f.text.trim().to_owned()),
        source: found.first().map_or(Source::Default, |f| f.source),
        kind: key.kind,
        read_only: !key.dynamic,
        synonyms: synonyms(&found),
        doc: doc(key.doc, key.effect),
    }
}

fn synonyms(found: &[Found<'_>]) -> Vec<SynonymEntry> {
    let entry = |f: &Found<'_>| SynonymEntry {
        name: f.name,
        value: f.text.trim().to_owned(),
        source: f.source,
    };
    found.iter().map(entry).collect()
}

fn doc(doc: &'static str, effect: Effect) -> Cow<'static, str> {
    match effect {
        Effect::Honoured => doc.into(),
        Effect::None(why) => format!("{doc} Taken and reported, without effect: {why}.").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Configs;
    use super::*;

    #[test]
    fn a_topic_entry_has_its_history() {
        let topic = Configs::from([("retention.ms".to_owned(), "7000".to_owned())]);
        let file = Configs::from([("log.retention.hours".to_owned(), "24".to_owned())]);
        let layers = Layers {
            topic: Some(&topic),
            file: Some(&file),
            ..Layers::default()
        };
        let entries = describe_topic(&layers, &|name| name == "retention.ms");
        let [entry] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        assert_eq!(entry.value.as_deref(), Some("7000"));
        assert_eq!(entry.source, Source::Topic);
        let synonyms: Vec<_> = entry
            .synonyms
            .iter()
            .map(|s| (s.name, s.value.as_str(), s.source))
            .collect();
        assert_eq!(
            synonyms,
            [
                ("retention.ms", "7000", Source::Topic),
                ("log.retention.hours", "24", Source::Static),
                ("log.retention.hours", "168", Source::Default),
            ]
        );
        // Without the topic's own value the file's hours count, in the topic key's unit.
        let layers = Layers {
            topic: None,
            ..layers
        };
        let entry = describe_topic(&layers, &|name| name == "retention.ms").remove(0);
        assert_eq!(
            (entry.value.as_deref(), entry.source),
            (Some("86400000"), Source::Static)
        );
    }

    #[test]
    fn all_keys_are_described() {
        let layers = Layers::default();
        let topic = describe_topic(&layers, &|_| true);
        assert_eq!(topic.len(), TOPIC_KEYS.len());
        assert!(
            topic
                .iter()
                .all(|e| e.value.is_some() && e.source == Source::Default)
        );
        let broker = describe_broker(&layers, &|_| true);
        assert!(broker.is_sorted_by(|a, b| a.name < b.name));
        let ms = broker
            .iter()
            .find(|e| e.name == "log.retention.ms")
            .unwrap();
        assert_eq!(ms.value, None);
        let unused = topic.iter().find(|e| e.name == "flush.ms").unwrap();
        assert!(unused.doc.contains("without effect"), "{}", unused.doc);
    }
}
