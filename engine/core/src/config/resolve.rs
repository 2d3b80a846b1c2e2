//! Which layer a setting comes from.

use super::Configs;
use super::table::{BrokerKey, TopicKey, broker_key};
use super::value::Value;

/// Where a value comes from, with the number that DescribeConfigs uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    /// Set on the topic.
    Topic = 1,
    /// Set on this broker while it runs.
    Broker = 2,
    /// Set on all brokers while they run.
    AllBrokers = 3,
    /// Set in the file, the environment or the flags of this broker.
    Static = 4,
    /// Kafka's default.
    Default = 5,
    /// Set on the group.
    Group = 8,
}

/// The layers of settings. A missing one is empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layers<'a> {
    /// Of the topic.
    pub topic: Option<&'a Configs>,
    /// Dynamic ones of this broker.
    pub node: Option<&'a Configs>,
    /// Dynamic ones of all brokers.
    pub all_nodes: Option<&'a Configs>,
    /// Of the file, the environment and the flags.
    pub file: Option<&'a Configs>,
}

/// A value that one of the layers has, and which can be read.
pub(super) struct Found<'a> {
    pub name: &'static str,
    pub text: &'a str,
    pub value: Value,
    pub source: Source,
}

impl<'a> Layers<'a> {
    /// What the layers of the broker and the default say about one broker key, the winner first.
    pub(super) fn broker(&self, key: &BrokerKey) -> Vec<Found<'a>> {
        let layers = [
            (self.node, Source::Broker),
            (self.all_nodes, Source::AllBrokers),
            (self.file, Source::Static),
        ];
        let set = layers.into_iter().filter_map(|(layer, source)| {
            let text = layer?.get(key.name)?;
            Some(Found {
                name: key.name,
                text,
                value: key.parse(text).ok()?,
                source,
            })
        });
        let default = key.default.and_then(|text| {
            let value = key.parse(text).ok()?;
            Some(Found {
                name: key.name,
                text,
                value,
                source: Source::Default,
            })
        });
        set.chain(default).collect()
    }

    /// What the layers say about a topic key, the winner first. The last one is the default.
    pub(super) fn topic(&self, key: &'static TopicKey) -> Vec<Found<'a>> {
        let mut found = Vec::new();
        let own = self.topic.and_then(|layer| layer.get(key.name));
        if let Some(text) = own
            && let Ok(value) = key.parse(text)
        {
            found.push(Found {
                name: key.name,
                text,
                value,
                source: Source::Topic,
            });
        }
        for synonym in key.synonyms {
            if let Ok(broker) = broker_key(synonym.name) {
                found.extend(self.broker(&broker));
            }
        }
        if key.synonyms.is_empty()
            && let Ok(value) = key.parse(key.default)
        {
            let (name, text) = (key.name, key.default);
            found.push(Found {
                name,
                text,
                value,
                source: Source::Default,
            });
        }
        found
    }

    /// The value of a topic key.
    pub(super) fn topic_value(&self, name: &str) -> Value {
        let key = super::topic_key(name).unwrap_or_else(|_| panic!("{name} is in the table"));
        let found = self.topic(key).into_iter().next();
        found.map_or_else(|| panic!("{name} has a default"), |f| f.value)
    }

    /// The value of a broker key.
    pub(super) fn broker_value(&self, name: &str) -> Value {
        let key = broker_key(name).unwrap_or_else(|_| panic!("{name} is in the table"));
        let found = self.broker(&key).into_iter().next();
        found.map_or_else(|| panic!("{name} has a default"), |f| f.value)
    }
}
