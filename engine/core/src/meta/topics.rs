//! Topics, or what there is for each topic, in an order: a map whose clones share what they have in
//! common.
//!
//! Chunks of sorted topics hang below one list. A change copies the list and one chunk, some
//! hundred pointers whatever there is, where a copied tree would be as long as all topics. So a
//! command costs the same with ten topics and with ten thousand.
//!
//! Invariants: no chunk is empty; topics rise from chunk to chunk and within each; no two are
//! equal.

use std::cmp::Ordering;
use std::iter::FlatMap;
use std::marker::PhantomData;
use std::sync::Arc;

use streamd_model::TopicId;

use super::image::TopicMeta;

/// A chunk that gets larger is split in two.
const CHUNK_MAX: usize = 128;

type Chunk<T> = Arc<Vec<Arc<T>>>;

/// What topics are found by.
pub trait Order {
    /// What there is for a topic.
    type Item;
    /// The key.
    type Key: ?Sized;

    /// The key of a topic.
    fn key(topic: &Self::Item) -> &Self::Key;

    /// Which comes first.
    fn compare(a: &Self::Key, b: &Self::Key) -> Ordering;
}

/// By name.
pub enum ByName {}

impl Order for ByName {
    type Item = TopicMeta;
    type Key = str;

    fn key(topic: &TopicMeta) -> &str {
        &topic.name
    }

    fn compare(a: &str, b: &str) -> Ordering {
        a.cmp(b)
    }
}

/// By id.
pub enum ById {}

impl Order for ById {
    type Item = TopicMeta;
    type Key = TopicId;

    fn key(topic: &TopicMeta) -> &TopicId {
        &topic.id
    }

    fn compare(a: &TopicId, b: &TopicId) -> Ordering {
        a.cmp(b)
    }
}

/// By what is left of the name where dots and underscores are the same: they collide in metrics.
pub enum ByMetric {}

/// A name as metrics have it.
pub fn metric_name(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|c| if c == b'.' { b'_' } else { c })
}

impl Order for ByMetric {
    type Item = TopicMeta;
    type Key = str;

    fn key(topic: &TopicMeta) -> &str {
        &topic.name
    }

    fn compare(a: &str, b: &str) -> Ordering {
        metric_name(a).cmp(metric_name(b)).then_with(|| a.cmp(b))
    }
}

/// The topics.
pub struct Topics<O: Order> {
    chunks: Arc<Vec<Chunk<O::Item>>>,
    len: usize,
    order: PhantomData<O>,
}

impl<O: Order> Clone for Topics<O> {
    fn clone(&self) -> Topics<O> {
        Topics {
            chunks: self.chunks.clone(),
            len: self.len,
            order: PhantomData,
        }
    }
}

impl<O: Order> Default for Topics<O> {
    fn default() -> Topics<O> {
        Topics {
            chunks: Arc::default(),
            len: 0,
            order: PhantomData,
        }
    }
}

impl<O: Order<Item: PartialEq>> PartialEq for Topics<O> {
    fn eq(&self, other: &Topics<O>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<O: Order> Topics<O> {
    /// All of them, in order.
    pub fn iter(&self) -> Iter<'_, O::Item> {
        Iter {
            all: self.chunks.iter().flat_map(each),
            left: self.len,
        }
    }

    /// Those that are `key` or behind it, in order.
    pub fn from(&self, key: &O::Key) -> impl Iterator<Item = &Arc<O::Item>> {
        let (chunk, place) = self.find(key);
        let at = place.unwrap_or_else(|at| at);
        self.chunks[chunk..].iter().flat_map(each).skip(at)
    }

    /// The one with this key.
    pub fn get(&self, key: &O::Key) -> Option<&Arc<O::Item>> {
        let (chunk, place) = self.find(key);
        place.ok().map(|at| &self.chunks[chunk][at])
    }

    /// Puts a topic in its place; gives the one that was there.
    pub fn insert(&mut self, topic: Arc<O::Item>) -> Option<Arc<O::Item>> {
        let (at, place) = self.find(O::key(&topic));
        let chunks = Arc::make_mut(&mut self.chunks);
        if at == chunks.len() {
            chunks.push(Chunk::default());
        }
        let chunk = Arc::make_mut(&mut chunks[at]);
        let inside = match place {
            Ok(inside) => return Some(std::mem::replace(&mut chunk[inside], topic)),
            Err(inside) => inside,
        };
        chunk.insert(inside, topic);
        if chunk.len() > CHUNK_MAX {
            let more = chunk.split_off(CHUNK_MAX / 2);
            chunks.insert(at + 1, Arc::new(more));
        }
        self.len += 1;
        None
    }

    /// The one with this key, to be changed; its key stays.
    pub fn get_mut(&mut self, key: &O::Key) -> Option<&mut Arc<O::Item>> {
        let (at, Ok(inside)) = self.find(key) else {
            return None;
        };
        let chunks = Arc::make_mut(&mut self.chunks);
        Some(&mut Arc::make_mut(&mut chunks[at])[inside])
    }

    /// Takes a topic out.
    pub fn remove(&mut self, key: &O::Key) -> Option<Arc<O::Item>> {
        let (at, Ok(inside)) = self.find(key) else {
            return None;
        };
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[at]);
        let topic = chunk.remove(inside);
        if chunk.is_empty() {
            chunks.remove(at);
        }
        self.len -= 1;
        Some(topic)
    }

    /// The topics of the chunks that `other` does not share: all that are not there or not the
    /// same there, with a few neighbours.
    pub fn unlike<'a>(&'a self, other: &'a Topics<O>) -> impl Iterator<Item = &'a Arc<O::Item>> {
        let mut theirs = other.chunks.iter().peekable();
        let shared = move |chunk: &Chunk<O::Item>| {
            let first = O::key(&chunk[0]);
            let before = |c: &&Chunk<O::Item>| O::compare(O::key(&c[0]), first).is_lt();
            while theirs.next_if(before).is_some() {}
            theirs.peek().is_some_and(|c| Arc::ptr_eq(c, chunk))
        };
        let mut shared = shared;
        let ours = self.chunks.iter().filter(move |chunk| !shared(chunk));
        ours.flat_map(each)
    }

    /// The chunk where a key is or would be, and its place there.
    fn find(&self, key: &O::Key) -> (usize, Result<usize, usize>) {
        let is_after = |c: &Chunk<O::Item>| O::compare(O::key(&c[0]), key).is_gt();
        let after = self.chunks.partition_point(|c| !is_after(c));
        let at = after.saturating_sub(1);
        let place = self.chunks.get(at).map_or(Err(0), |chunk| {
            chunk.binary_search_by(|topic| O::compare(O::key(topic), key))
        });
        (at, place)
    }
}

fn each<T>(chunk: &Chunk<T>) -> Each<'_, T> {
    chunk.iter()
}

type Each<'a, T> = std::slice::Iter<'a, Arc<T>>;

type EachChunk<'a, T> = std::slice::Iter<'a, Chunk<T>>;
type Open<'a, T> = fn(&'a Chunk<T>) -> Each<'a, T>;

/// All topics in order.
pub struct Iter<'a, T> {
    all: FlatMap<EachChunk<'a, T>, Each<'a, T>, Open<'a, T>>,
    left: usize,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a Arc<T>;

    fn next(&mut self) -> Option<&'a Arc<T>> {
        let next = self.all.next()?;
        self.left -= 1;
        Some(next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T> ExactSizeIterator for Iter<'_, T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Configs, Layers, TopicConfig};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    thread_local! {
        static CONFIG: TopicConfig = TopicConfig::resolve(&Layers::default());
    }

    fn topic(n: u16, partitions: i32) -> Arc<TopicMeta> {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&n.to_be_bytes());
        Arc::new(TopicMeta {
            id: TopicId(id),
            name: format!("topic-{n:05}"),
            partitions,
            created_ms: 0,
            configs: Configs::new(),
            config: CONFIG.with(TopicConfig::clone),
        })
    }

    fn check(topics: &Topics<ByName>, model: &BTreeMap<String, Arc<TopicMeta>>) {
        assert!(topics.iter().eq(model.values()));
        assert_eq!(
            (topics.len, topics.iter().len()),
            (model.len(), model.len())
        );
        let sizes = topics.chunks.iter().map(|c| c.len());
        assert!(sizes.into_iter().all(|n| (1..=CHUNK_MAX).contains(&n)));
    }

    #[test]
    fn a_change_copies_little() {
        let mut topics = Topics::<ByName>::default();
        for n in 0..10_000u16 {
            topics.insert(topic((u32::from(n) * 7919 % 10_007) as u16, 1));
        }
        let before = topics.clone();
        topics.insert(topic(5000, 2));
        let changed: Vec<_> = before.unlike(&topics).collect();
        assert!(changed.len() <= CHUNK_MAX, "{}", changed.len());
        assert!(changed.iter().any(|t| t.name == "topic-05000"));
        assert!(topics.chunks.len() < 10_000 / CHUNK_MAX * 3);
        assert_eq!(before.unlike(&before).count(), 0);
    }

    #[test]
    fn names_that_collide_are_neighbours() {
        let mut topics = Topics::<ByMetric>::default();
        for name in ["a_b", "a.c", "a-b", "ab", "b"] {
            let topic = TopicMeta {
                name: name.to_owned(),
                ..TopicMeta::clone(&topic(1, 1))
            };
            topics.insert(Arc::new(topic));
        }
        let first = |name| topics.from(name).next().map(|t| t.name.as_str());
        assert_eq!(first("a.b"), Some("a_b"));
        assert_eq!(first("a_c"), Some("ab"), "behind both");
        assert_eq!(first("a.c"), Some("a.c"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// It is a sorted map; what was handed out stays; what changed is told.
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0u16..600, 0i32..4), 0..1000)) {
            let (mut topics, mut model) = (Topics::<ByName>::default(), BTreeMap::new());
            let mut kept = (topics.clone(), model.clone());
            for (at, (n, partitions)) in steps.iter().enumerate() {
                let new = topic(*n, *partitions);
                let was = if *partitions == 0 {
                    (topics.remove(&new.name), model.remove(&new.name))
                } else {
                    (topics.insert(new.clone()), model.insert(new.name.clone(), new.clone()))
                };
                prop_assert_eq!(was.0, was.1);
                prop_assert_eq!(topics.get(&new.name), model.get(&new.name));
                let behind = model.range(new.name.clone()..).map(|t| t.1).take(3);
                prop_assert!(topics.from(&new.name).take(3).eq(behind));
                if at % 97 == 0 {
                    check(&kept.0, &kept.1);
                    let told: Vec<_> = kept.0.unlike(&topics).map(|t| t.name.clone()).collect();
                    for (name, old) in &kept.1 {
                        let same = model.get(name).is_some_and(|t| Arc::ptr_eq(t, old));
                        prop_assert!(same || told.contains(name), "{} changed", name);
                    }
                    kept = (topics.clone(), model.clone());
                }
            }
            check(&topics, &model);
        }
    }
}
