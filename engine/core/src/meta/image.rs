//! The metadata of the cluster at one point of its log.
//!
//! A clone shares everything; a change copies a few pointers and the topic that changed, however
//! many topics there are. So an image that was handed out never changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use streamd_model::{ErrorCode, NodeId, TopicId};

use super::PARTITIONS_MAX;
use super::cluster::{Cluster, ClusterCommand};
use super::command::{Command, ConfigChange, Resource};
use super::topics::{ById, ByMetric, ByName, Topics, metric_name};
use crate::Refused;
use crate::config::{BrokerConfig, Configs, DRAIN, Layers, TopicConfig};

/// The most groups of consumers that have settings of their own.
const GROUPS_MAX: usize = 100_000;

/// What this node adds to the image: it is not replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// This node.
    pub node: NodeId,
    /// Kafka's settings from the file, the environment and the flags.
    pub configs: Configs,
}

/// A topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicMeta {
    /// Its id: never used again after it is deleted.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// The number of its partitions.
    pub partitions: i32,
    /// When it was created, wall time in ms.
    pub created_ms: i64,
    /// The settings that were given to it.
    pub configs: Configs,
    /// The settings in force.
    pub config: TopicConfig,
}

impl TopicMeta {
    /// Whether the topic belongs to the brokers and not to users.
    pub fn is_internal(&self) -> bool {
        matches!(
            self.name.as_str(),
            "__consumer_offsets" | "__transaction_state" | "__share_group_state"
        )
    }
}

/// The metadata of the cluster.
#[derive(Clone)]
pub struct ClusterImage {
    pub(super) version: u64,
    pub(super) cluster_id: Option<Arc<str>>,
    pub(super) next_producer_id: i64,
    pub(super) partitions: i64,
    by_name: Topics<ByName>,
    by_id: Topics<ById>,
    by_metric: Topics<ByMetric>,
    pub(super) brokers: Arc<BTreeMap<Resource, Configs>>,
    pub(super) groups: Arc<BTreeMap<String, Configs>>,
    pub(super) cluster: Arc<Cluster>,
    local: Arc<Local>,
    broker: Arc<BrokerConfig>,
}

impl ClusterImage {
    /// The image before the first command.
    pub fn new(local: Local) -> ClusterImage {
        let mut image = ClusterImage {
            version: 0,
            cluster_id: None,
            next_producer_id: 0,
            partitions: 0,
            by_name: Topics::default(),
            by_id: Topics::default(),
            by_metric: Topics::default(),
            brokers: Arc::default(),
            groups: Arc::default(),
            cluster: Arc::default(),
            local: Arc::new(local),
            broker: Arc::new(BrokerConfig::default()),
        };
        image.resolve_all();
        image
    }

    /// How many commands were applied. It only rises.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The cluster's id, once it has one.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// Brokers, and where partitions live.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.local.node
    }

    /// The first producer id that was not given out.
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// The number of partitions of all topics.
    pub fn partitions(&self) -> i64 {
        self.partitions
    }

    /// The broker's settings in force.
    pub fn broker(&self) -> &BrokerConfig {
        &self.broker
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<TopicMeta>> {
        self.by_name.iter()
    }

    /// The topics whose names are `name` or behind it, in order.
    pub fn topics_from(&self, name: &str) -> impl Iterator<Item = &Arc<TopicMeta>> {
        self.by_name.from(name)
    }

    /// The topics of this image that are not in `other`, or not the same there; and a few others
    /// beside each, since what both images share is found without a look at each topic.
    pub fn topics_unlike<'a>(
        &'a self,
        other: &'a ClusterImage,
    ) -> impl Iterator<Item = &'a Arc<TopicMeta>> {
        self.by_name.unlike(&other.by_name)
    }

    /// The topic whose name is the same in metrics, where dots and underscores are.
    pub(super) fn colliding(&self, name: &str) -> Option<&Arc<TopicMeta>> {
        let found = self.by_metric.from(&name.replace('_', ".")).next()?;
        metric_name(&found.name)
            .eq(metric_name(name))
            .then_some(found)
    }

    /// The topic with this name.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicMeta>> {
        self.by_name.get(name)
    }

    /// The topic with this id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicMeta>> {
        self.by_id.get(&id)
    }

    /// The dynamic settings of one broker, or of all.
    pub fn broker_configs(&self, resource: Resource) -> Option<&Configs> {
        self.brokers.get(&resource)
    }

    /// Whether a broker is to have no partitions (`broker.drain`).
    pub fn is_draining(&self, node: NodeId) -> bool {
        let own = self.broker_configs(Resource::Broker(node));
        own.is_some_and(|c| c.get(DRAIN).is_some_and(|v| v.eq_ignore_ascii_case("true")))
    }

    /// The settings that were given to a group of consumers.
    pub fn group_configs(&self, group: &str) -> Option<&Configs> {
        self.groups.get(group)
    }

    /// The groups that have settings of their own, in order.
    pub fn groups_with_configs(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }

    /// The layers that a topic's settings come from; without a topic, those of this broker.
    pub fn layers<'a>(&'a self, topic: Option<&'a TopicMeta>) -> Layers<'a> {
        Layers {
            topic: topic.map(|t| &t.configs),
            node: self.brokers.get(&Resource::Broker(self.local.node)),
            all_nodes: self.brokers.get(&Resource::AllBrokers),
            file: Some(&self.local.configs),
        }
    }

    /// Whether a command still fits. Whoever writes the metadata log asks right before.
    ///
    /// # Errors
    /// The code that the request for the command gets.
    pub fn admit(&self, command: &Command) -> Result<(), Refused> {
        let known = |id: &TopicId| {
            self.topic_by_id(*id).ok_or_else(|| {
                (
                    ErrorCode::UnknownTopicId,
                    "This server does not host this topic ID.".to_owned(),
                )
            })
        };
        match command {
            Command::CreateTopic {
                name,
                id,
                partitions,
                ..
            } => {
                if self.has(name, *id) {
                    let text = format!("Topic '{name}' already exists.");
                    return Err((ErrorCode::TopicAlreadyExists, text));
                }
                super::validate::no_collision(self, name)?;
                self.room_for(i64::from(*partitions))
            }
            Command::CreatePartitions { id, total } => {
                let topic = known(id)?;
                if *total <= topic.partitions {
                    return Err(super::validate::not_more(topic, *total));
                }
                self.room_for(i64::from(total - topic.partitions))
            }
            Command::DeleteTopic { id }
            | Command::AlterConfig {
                resource: Resource::Topic(id),
                ..
            } => known(id).map(drop),
            Command::AllocateProducerIds { first, count } => {
                if *first == self.next_producer_id && *count > 0 {
                    return Ok(());
                }
                let text = format!("the next producer id is {}", self.next_producer_id);
                Err((ErrorCode::OperationNotAttempted, text))
            }
            Command::AlterGroup { group, .. }
                if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(group) =>
            {
                let text = format!("{GROUPS_MAX} groups have settings: reset some of them first.");
                Err((ErrorCode::PolicyViolation, text))
            }
            Command::Cluster(command) => {
                if let ClusterCommand::Place {
                    topic,
                    first,
                    partitions,
                } = command
                {
                    let all = known(topic)?.partitions;
                    if i64::from(*first) + partitions.len() as i64 > i64::from(all) {
                        let text = format!("the topic has {all} partitions");
                        return Err((ErrorCode::InvalidPartitions, text));
                    }
                }
                self.cluster.admit(command)
            }
            Command::AlterConfig { .. } | Command::AlterGroup { .. } | Command::SetClusterId(_) => {
                Ok(())
            }
        }
    }

    pub(super) fn room_for(&self, more: i64) -> Result<(), Refused> {
        let total = self.partitions + more;
        if total <= PARTITIONS_MAX {
            return Ok(());
        }
        let text = format!(
            "{more} more partitions would make {total} on this node, which takes \
             {PARTITIONS_MAX}: delete topics or ask for fewer partitions."
        );
        Err((ErrorCode::PolicyViolation, text))
    }

    /// Applies a command. One that does not fit changes nothing but the version, so that every
    /// node that applies the same log has the same image.
    pub fn apply(&mut self, command: &Command) {
        self.version += 1;
        match command {
            Command::CreateTopic {
                name,
                id,
                partitions,
                configs,
                created_ms,
            } => {
                if self.has(name, *id) {
                    return;
                }
                let (name, configs) = (name.clone(), configs.clone());
                let (id, partitions, created_ms) = (*id, *partitions, *created_ms);
                let config = TopicConfig::resolve(&Layers {
                    topic: Some(&configs),
                    ..self.layers(None)
                });
                self.put(TopicMeta {
                    id,
                    name,
                    partitions,
                    created_ms,
                    configs,
                    config,
                });
            }
            Command::DeleteTopic { id } => self.remove(*id),
            Command::CreatePartitions { id, total } => {
                self.change(*id, |topic| topic.partitions = topic.partitions.max(*total));
            }
            Command::AlterConfig { resource, changes } => self.alter(*resource, changes),
            Command::AlterGroup { group, changes } => {
                let groups = Arc::make_mut(&mut self.groups);
                let configs = groups.entry(group.clone()).or_default();
                alter(configs, changes);
                if configs.is_empty() {
                    groups.remove(group);
                }
            }
            Command::AllocateProducerIds { first, count } => {
                let end = first.saturating_add(i64::from(*count));
                self.next_producer_id = self.next_producer_id.max(end);
            }
            Command::Cluster(cluster) => {
                if self.admit(command).is_ok() {
                    Arc::make_mut(&mut self.cluster).apply(cluster, self.version);
                }
            }
            Command::SetClusterId(id) => {
                self.cluster_id
                    .get_or_insert_with(|| Arc::from(id.as_str()));
            }
        }
    }

    fn has(&self, name: &str, id: TopicId) -> bool {
        self.topic(name).is_some() || self.topic_by_id(id).is_some()
    }

    pub(super) fn put(&mut self, topic: TopicMeta) {
        let topic = Arc::new(topic);
        self.partitions += i64::from(topic.partitions);
        let before = self.by_name.insert(topic.clone());
        self.by_metric.insert(topic.clone());
        self.by_id.insert(topic);
        self.partitions -= before.map_or(0, |t| i64::from(t.partitions));
    }

    fn remove(&mut self, id: TopicId) {
        if let Some(topic) = self.by_id.remove(&id) {
            self.partitions -= i64::from(topic.partitions);
            self.by_name.remove(&topic.name);
            self.by_metric.remove(&topic.name);
            if !self.cluster.partitions(id).is_empty() {
                Arc::make_mut(&mut self.cluster).forget(id);
            }
        }
    }

    fn change(&mut self, id: TopicId, change: impl FnOnce(&mut TopicMeta)) {
        if let Some(topic) = self.by_id.get(&id) {
            let mut topic = TopicMeta::clone(topic);
            change(&mut topic);
            self.put(topic);
        }
    }

    fn alter(&mut self, resource: Resource, changes: &[ConfigChange]) {
        if let Resource::Topic(id) = resource {
            let image = self.clone();
            self.change(id, |topic| {
                alter(&mut topic.configs, changes);
                topic.config = TopicConfig::resolve(&image.layers(Some(topic)));
            });
            return;
        }
        let brokers = Arc::make_mut(&mut self.brokers);
        let configs = brokers.entry(resource).or_default();
        alter(configs, changes);
        if configs.is_empty() {
            brokers.remove(&resource);
        }
        self.resolve_all();
    }

    /// Reads all settings again, after a layer below the topics changed.
    pub(super) fn resolve_all(&mut self) {
        self.broker = Arc::new(BrokerConfig::resolve(&self.layers(None)));
        let changed: Vec<TopicMeta> = self
            .topics()
            .filter_map(|topic| {
                let config = TopicConfig::resolve(&self.layers(Some(topic)));
                (config != topic.config).then(|| TopicMeta {
                    config,
                    ..TopicMeta::clone(topic)
                })
            })
            .collect();
        for topic in changed {
            self.put(topic);
        }
    }
}

impl PartialEq for ClusterImage {
    fn eq(&self, other: &ClusterImage) -> bool {
        let counts = |i: &ClusterImage| (i.version, i.next_producer_id, i.partitions);
        counts(self) == counts(other)
            && self.cluster_id == other.cluster_id
            && self.topics().eq(other.topics())
            && (&self.brokers, &self.groups) == (&other.brokers, &other.groups)
            && (&self.local, &self.broker) == (&other.local, &other.broker)
    }
}

impl std::fmt::Debug for ClusterImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let topics: Vec<_> = self.topics().collect();
        f.debug_struct("ClusterImage")
            .field("version", &self.version)
            .field("cluster_id", &self.cluster_id)
            .field("next_producer_id", &self.next_producer_id)
            .field("topics", &topics)
            .field("brokers", &self.brokers)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

fn alter(configs: &mut Configs, changes: &[ConfigChange]) {
    for change in changes {
        match &change.value {
            Some(value) => configs.insert(change.name.clone(), value.clone()),
            None => configs.remove(&change.name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::tests::command;
    use super::*;
    use proptest::prelude::*;

    pub fn local() -> Local {
        Local {
            node: NodeId(1),
            configs: Configs::new(),
        }
    }

    fn create(name: &str, n: u8, partitions: i32) -> Command {
        Command::CreateTopic {
            name: name.to_owned(),
            id: TopicId([n; 16]),
            partitions,
            configs: Configs::new(),
            created_ms: 5,
        }
    }

    fn set(resource: Resource, name: &str, value: Option<&str>) -> Command {
        let change = ConfigChange {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        };
        Command::AlterConfig {
            resource,
            changes: vec![change],
        }
    }

    #[test]
    fn an_image_that_was_handed_out_does_not_change() {
        let mut image = ClusterImage::new(local());
        image.apply(&create("a", 1, 3));
        let before = image.clone();
        image.apply(&Command::CreatePartitions {
            id: TopicId([1; 16]),
            total: 5,
        });
        image.apply(&create("b", 2, 1));
        assert_eq!(before.topic("a").unwrap().partitions, 3);
        assert!(before.topic("b").is_none());
        assert_eq!((before.partitions(), image.partitions()), (3, 6));
        assert_eq!(image.topic_by_id(TopicId([1; 16])), image.topic("a"));
        image.apply(&Command::DeleteTopic {
            id: TopicId([1; 16]),
        });
        assert_eq!(image.partitions(), 1);
        assert!(image.topic("a").is_none() && image.topic_by_id(TopicId([1; 16])).is_none());
    }

    #[test]
    fn a_brokers_setting_reaches_the_topics_that_have_none() {
        let mut image = ClusterImage::new(local());
        image.apply(&create("a", 1, 1));
        image.apply(&create("b", 2, 1));
        let b = Resource::Topic(TopicId([2; 16]));
        image.apply(&set(b, "retention.ms", Some("50")));
        image.apply(&set(Resource::AllBrokers, "log.retention.ms", Some("60")));
        let retention = |image: &ClusterImage, name| image.topic(name).unwrap().config.retention_ms;
        assert_eq!((retention(&image, "a"), retention(&image, "b")), (60, 50));
        image.apply(&set(
            Resource::Broker(NodeId(1)),
            "log.retention.ms",
            Some("70"),
        ));
        image.apply(&set(
            Resource::Broker(NodeId(2)),
            "log.retention.ms",
            Some("80"),
        ));
        image.apply(&set(b, "retention.ms", None));
        assert_eq!((retention(&image, "a"), retention(&image, "b")), (70, 70));
        image.apply(&set(
            Resource::Broker(NodeId(1)),
            "producer.id.expiration.ms",
            Some("9"),
        ));
        assert_eq!(image.broker().retention.producer_id_expiration_ms, 9);
    }

    #[test]
    fn admit_refuses_what_no_longer_fits() {
        let mut image = ClusterImage::new(local());
        image.apply(&create("a", 1, 3));
        let code = |c: &Command| image.admit(c).unwrap_err().0;
        assert_eq!(code(&create("a", 9, 1)), ErrorCode::TopicAlreadyExists);
        assert_eq!(code(&create("b", 2, 100_000)), ErrorCode::PolicyViolation);
        let mut dotted = image.clone();
        dotted.apply(&create("x.y", 3, 1));
        let collision = dotted.admit(&create("x_y", 4, 1)).unwrap_err();
        assert_eq!(collision.0, ErrorCode::InvalidTopicException);
        assert!(image.admit(&create("b", 2, 99_997)).is_ok());
        let gone = TopicId([7; 16]);
        assert_eq!(
            code(&Command::DeleteTopic { id: gone }),
            ErrorCode::UnknownTopicId
        );
        let same = Command::CreatePartitions {
            id: TopicId([1; 16]),
            total: 3,
        };
        assert_eq!(code(&same), ErrorCode::InvalidPartitions);
        let stale = Command::AllocateProducerIds {
            first: 1,
            count: 10,
        };
        assert_eq!(code(&stale), ErrorCode::OperationNotAttempted);
    }

    proptest! {
        /// Whatever the log holds, the maps agree, the sum is right, and a snapshot is the image.
        #[test]
        fn fold(commands in proptest::collection::vec(command(), 0..40)) {
            let mut image = ClusterImage::new(local());
            for command in &commands {
                image.apply(command);
                let (names, ids) = (image.topics().len(), image.by_id.iter().len());
                prop_assert_eq!((names, names), (ids, image.by_metric.iter().len()));
                let sum: i64 = image.topics().map(|t| i64::from(t.partitions)).sum();
                prop_assert_eq!(sum, image.partitions());
                for topic in image.topics() {
                    prop_assert_eq!(image.topic_by_id(topic.id), Some(topic));
                    prop_assert_eq!(
                        &topic.config,
                        &TopicConfig::resolve(&image.layers(Some(topic)))
                    );
                }
            }
            prop_assert_eq!(image.version(), commands.len() as u64);
            let bytes = image.encode();
            prop_assert_eq!(ClusterImage::decode(&bytes, local()), Ok(image));
        }
    }
}
