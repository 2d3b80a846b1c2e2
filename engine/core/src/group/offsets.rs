//! The committed offsets of one group.
//!
//! Invariant: they change only by [`Offsets::set`], which replay alone calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use streamd_model::TopicId;

use super::record::Committed;
use super::request::{FetchTopic, Fetched};

/// Topics, partitions, offsets.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Offsets {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, Committed>>,
    count: usize,
    /// How many offsets of transactions that have not ended there are besides.
    pub pending: usize,
}

impl Offsets {
    /// How many partitions have an offset.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts an offset, or takes it away.
    pub fn set(&mut self, topic: &Arc<str>, partition: i32, value: Option<Committed>) {
        let Some(value) = value else {
            if let Some(partitions) = self.topics.get_mut(topic) {
                self.count -= usize::from(partitions.remove(&partition).is_some());
                if partitions.is_empty() {
                    self.topics.remove(topic);
                }
            }
            return;
        };
        let partitions = self.topics.entry(topic.clone()).or_default();
        self.count += usize::from(partitions.insert(partition, value).is_none());
    }

    /// The offset of a partition.
    pub fn get(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.topics.get(topic)?.get(&partition)
    }

    /// Everything.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i32, &Committed)> {
        self.topics
            .iter()
            .flat_map(|(topic, partitions)| partitions.iter().map(move |(p, c)| (topic, *p, c)))
    }

    /// The offsets of topics that are not there any more. `current` gives the id of a topic.
    pub fn orphans(&self, current: &dyn Fn(&str) -> Option<TopicId>) -> Vec<(Arc<str>, i32)> {
        let mut found = Vec::new();
        for (topic, partitions) in &self.topics {
            let now = current(topic);
            let is_gone = |c: &Committed| match now {
                Some(id) => c.topic_id != TopicId::ZERO && c.topic_id != id,
                None => true,
            };
            let gone = partitions.iter().filter(|(_, c)| is_gone(c));
            found.extend(gone.map(|(p, _)| (topic.clone(), *p)));
        }
        found
    }

    /// The offsets that are asked for; one under another topic id is of a topic that is gone.
    pub fn fetch(&self, wanted: Option<&[FetchTopic]>) -> Vec<Fetched> {
        let Some(wanted) = wanted else {
            let all = self.topics.iter().map(|(name, partitions)| Fetched {
                name: name.clone(),
                partitions: partitions
                    .iter()
                    .map(|(p, c)| (*p, Some(c.clone())))
                    .collect(),
                unstable: Vec::new(),
            });
            return all.collect();
        };
        let same = |c: &Committed, id: TopicId| {
            id == TopicId::ZERO || c.topic_id == TopicId::ZERO || c.topic_id == id
        };
        let one = |topic: &FetchTopic, p: i32| {
            let found = self.get(&topic.name, p).filter(|c| same(c, topic.id));
            (p, found.cloned())
        };
        wanted
            .iter()
            .map(|topic| Fetched {
                name: topic.name.clone(),
                partitions: topic.partitions.iter().map(|p| one(topic, *p)).collect(),
                unstable: Vec::new(),
            })
            .collect()
    }
}
