//! From requests to commands: everything that Kafka checks before the metadata changes.
//!
//! Nothing here changes anything. The texts are for the person at the other end; where tools look
//! at Kafka's wording, it is Kafka's.

use std::collections::BTreeMap;

use streamd_model::{ErrorCode, NodeId, TopicId};

use super::command::{Command, ConfigChange, Resource};
use super::image::{ClusterImage, TopicMeta};
use super::wanted::{self, Wanted};
use crate::Refused;
use crate::config::{Configs, Kind, Layers, TopicConfig, Value, broker_key, topic_key};

/// The longest name of a topic, characters.
pub const NAME_MAX: usize = 249;

/// A topic that somebody wants.
#[derive(Clone, Copy, Debug)]
pub struct NewTopic<'a> {
    /// Its name.
    pub name: &'a str,
    /// The id that it gets.
    pub id: TopicId,
    /// The number of partitions; -1: the broker's default.
    pub partitions: i32,
    /// The replication factor; -1: the broker's default.
    pub replication: i16,
    /// Partition and brokers, if the client chooses them; else empty.
    pub assignments: &'a [(i32, Vec<i32>)],
    /// Its own settings.
    pub configs: &'a [(&'a str, Option<&'a str>)],
    /// Wall time, ms.
    pub now_ms: i64,
}

/// One change of a setting that somebody wants.
#[derive(Clone, Copy, Debug)]
pub struct ConfigOp<'a> {
    /// The key.
    pub name: &'a str,
    /// 0 set, 1 delete, 2 append to a list, 3 take from a list.
    pub op: i8,
    /// The value, not for delete.
    pub value: Option<&'a str>,
}

fn refuse<T>(code: ErrorCode, text: impl Into<String>) -> Result<T, Refused> {
    Err((code, text.into()))
}

/// Checks the name of a topic.
///
/// # Errors
/// INVALID_TOPIC_EXCEPTION.
pub fn topic_name(name: &str) -> Result<(), Refused> {
    let bad = |why: String| refuse(ErrorCode::InvalidTopicException, why);
    let ok = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if name.is_empty() {
        bad("Topic name is invalid: the empty string is not allowed".to_owned())
    } else if name == "." || name == ".." {
        bad("Topic name is invalid: '.' or '..' is not allowed".to_owned())
    } else if name.len() > NAME_MAX {
        let shown: String = name.chars().take(80).collect();
        bad(format!(
            "Topic name is invalid: the length of '{shown}...' is longer than the max allowed \
             length {NAME_MAX}"
        ))
    } else if !name.bytes().all(ok) {
        bad(format!(
            "Topic name is invalid: '{name}' contains one or more characters other than ASCII \
             alphanumerics, '.', '_' and '-'"
        ))
    } else {
        Ok(())
    }
}

/// Makes the commands for a new topic.
///
/// # Errors
/// Kafka's codes for each thing that may be wrong.
pub fn create_topic(image: &ClusterImage, new: &NewTopic<'_>) -> Result<Wanted, Refused> {
    topic_name(new.name)?;
    if new.name == "__cluster_metadata" {
        let text = "Creation of internal topic __cluster_metadata is prohibited.";
        return refuse(ErrorCode::InvalidRequest, text);
    }
    if image.topic(new.name).is_some() {
        let text = format!("Topic '{}' already exists.", new.name);
        return refuse(ErrorCode::TopicAlreadyExists, text);
    }
    no_collision(image, new.name)?;
    let (partitions, replication) = wanted::layout(image, new)?;
    image.room_for(i64::from(partitions))?;
    let mut commands = vec![Command::CreateTopic {
        name: new.name.to_owned(),
        id: new.id,
        partitions,
        configs: topic_configs(image, new.configs)?,
        created_ms: new.now_ms,
    }];
    let mut given: Vec<_> = new.assignments.iter().collect();
    given.sort_unstable();
    commands.extend(wanted::places(new.id, 0, given.iter().map(|a| &a.1)));
    Ok(Wanted {
        commands,
        replication,
    })
}

/// `a.b` and `a_b` would have the same name in metrics.
pub(super) fn no_collision(image: &ClusterImage, name: &str) -> Result<(), Refused> {
    if !name.contains(['.', '_']) {
        return Ok(());
    }
    match image.colliding(name) {
        None => Ok(()),
        Some(other) => {
            let text = format!(
                "Topic '{name}' collides with existing topic: {}",
                other.name
            );
            refuse(ErrorCode::InvalidTopicException, text)
        }
    }
}

fn topic_configs(image: &ClusterImage, given: &[(&str, Option<&str>)]) -> Result<Configs, Refused> {
    let mut configs = Configs::new();
    for (name, value) in given {
        let key = topic_key(name)?;
        let Some(value) = value else {
            let text = format!("Null value not supported for topic configs: {name}");
            return refuse(ErrorCode::InvalidConfig, text);
        };
        key.parse(value)?;
        configs.insert((*name).to_owned(), value.trim().to_owned());
    }
    go_together(image, &configs)?;
    Ok(configs)
}

/// Whether the settings in force would go together, if a topic had these of its own.
fn go_together(image: &ClusterImage, configs: &Configs) -> Result<(), Refused> {
    let layers = Layers {
        topic: Some(configs),
        ..image.layers(None)
    };
    TopicConfig::resolve(&layers).check()
}

/// Finds a topic by name.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION, INVALID_TOPIC_EXCEPTION.
fn named<'a>(image: &'a ClusterImage, name: &str) -> Result<&'a TopicMeta, Refused> {
    match image.topic(name) {
        Some(topic) => Ok(topic),
        None => {
            topic_name(name)?;
            let shown = format!("The topic '{name}' does not exist.");
            refuse(ErrorCode::UnknownTopicOrPartition, shown)
        }
    }
}

/// Makes the command that deletes a topic: by name, or by id if the name is null.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID, TOPIC_DELETION_DISABLED.
pub fn delete_topic(
    image: &ClusterImage,
    name: Option<&str>,
    id: TopicId,
) -> Result<Command, Refused> {
    if !image.broker().delete_topics {
        let text = "Topic deletion is disabled: delete.topic.enable is false.";
        return refuse(ErrorCode::TopicDeletionDisabled, text);
    }
    if name.is_some() && id != TopicId::ZERO {
        let text = "You may not specify both topic name and topic id.";
        return refuse(ErrorCode::InvalidRequest, text);
    }
    if let Some(name) = name {
        return Ok(Command::DeleteTopic {
            id: named(image, name)?.id,
        });
    }
    if id == TopicId::ZERO {
        return refuse(
            ErrorCode::InvalidRequest,
            "Neither topic name nor id were specified.",
        );
    }
    match image.topic_by_id(id) {
        Some(_) => Ok(Command::DeleteTopic { id }),
        None => refuse(
            ErrorCode::UnknownTopicId,
            "This server does not host this topic ID.",
        ),
    }
}

/// Makes the commands that give a topic more partitions.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION, INVALID_PARTITIONS, INVALID_REPLICA_ASSIGNMENT.
pub fn create_partitions(
    image: &ClusterImage,
    name: &str,
    total: i32,
    assignments: Option<&[Vec<i32>]>,
) -> Result<Wanted, Refused> {
    let topic = named(image, name)?;
    if topic.is_internal() {
        let text = format!(
            "The number of partitions of {name} cannot be changed: groups are found by it."
        );
        return refuse(ErrorCode::InvalidPartitions, text);
    }
    if total <= topic.partitions {
        return Err(not_more(topic, total));
    }
    let more = total - topic.partitions;
    image.room_for(i64::from(more))?;
    if let Some(given) = assignments {
        if given.len() != more as usize {
            let text = format!(
                "Attempted to add {more} additional partition(s), but only {} assignment(s) were \
                 specified.",
                given.len()
            );
            return refuse(ErrorCode::InvalidReplicaAssignment, text);
        }
        let of = image.cluster().partitions(topic.id).first();
        let count = of.map_or(1, |p| p.target().len());
        for (brokers, partition) in given.iter().zip(topic.partitions..) {
            wanted::assigned(image, partition, brokers, count)?;
        }
    }
    let mut commands = vec![Command::CreatePartitions {
        id: topic.id,
        total,
    }];
    let given = assignments.into_iter().flatten();
    commands.extend(wanted::places(topic.id, topic.partitions, given));
    Ok(Wanted {
        commands,
        replication: None,
    })
}

/// Why `total` partitions are not more than the topic has.
pub(super) fn not_more(topic: &TopicMeta, total: i32) -> Refused {
    let (name, has) = (&topic.name, topic.partitions);
    let text = if total == has {
        format!("Topic already has {has} partition(s).")
    } else {
        format!(
            "The topic {name} currently has {has} partition(s); {total} would not be an increase."
        )
    };
    (ErrorCode::InvalidPartitions, text)
}

/// Makes the command that changes settings of a topic.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION, INVALID_CONFIG, INVALID_REQUEST.
pub fn alter_topic(
    image: &ClusterImage,
    name: &str,
    ops: &[ConfigOp<'_>],
) -> Result<Command, Refused> {
    let topic = named(image, name)?;
    let resource = Resource::Topic(topic.id);
    // A list is appended to as it stands in force, as Kafka does.
    let layers = image.layers(Some(topic));
    let current = |name: &str| {
        let entries = crate::config::describe_topic(&layers, &|key| key == name);
        entries.into_iter().next().and_then(|e| e.value)
    };
    let parse = |name: &str, value: Option<&str>| {
        let key = topic_key(name)?;
        value
            .map_or(Ok(None), |v| key.parse(v).map(Some))
            .map(|v| (key.kind, v))
    };
    let changes = changes(ops, &parse, &current)?;
    let mut configs = topic.configs.clone();
    for change in &changes {
        match &change.value {
            Some(value) => configs.insert(change.name.clone(), value.clone()),
            None => configs.remove(&change.name),
        };
    }
    go_together(image, &configs)?;
    Ok(Command::AlterConfig { resource, changes })
}

/// Makes the command that changes the settings of a group of consumers, which need not be there.
///
/// # Errors
/// INVALID_REQUEST without a name, INVALID_CONFIG.
pub fn alter_group(
    image: &ClusterImage,
    group: &str,
    ops: &[ConfigOp<'_>],
) -> Result<Command, Refused> {
    if group.is_empty() {
        return refuse(
            ErrorCode::InvalidRequest,
            "Group name must not be empty".to_owned(),
        );
    }
    let layers = image.layers(None);
    let own = image.group_configs(group);
    let current = |name: &str| own.and_then(|own| own.get(name).cloned());
    let parse = |name: &str, value: Option<&str>| crate::config::parse_group(&layers, name, value);
    Ok(Command::AlterGroup {
        group: group.to_owned(),
        changes: changes(ops, &parse, &current)?,
    })
}

/// Makes the command that changes dynamic settings of one broker or (`None`) of all.
///
/// # Errors
/// INVALID_REQUEST for another broker or a read-only key, INVALID_CONFIG.
pub fn alter_broker(
    image: &ClusterImage,
    broker: Option<i32>,
    ops: &[ConfigOp<'_>],
) -> Result<Command, Refused> {
    let resource = broker_resource(image, broker)?;
    let layers = image.layers(None);
    let current = |name: &str| {
        let entries = crate::config::describe_broker(&layers, &|key| key == name);
        entries.into_iter().next().and_then(|e| e.value)
    };
    let parse = |name: &str, value: Option<&str>| {
        let key = broker_key(name)?;
        if !key.dynamic {
            let text = format!(
                "Cannot update these configs dynamically: {name}. Set it in the [kafka] table of \
                 the file or with --set, and start the broker again."
            );
            return refuse(ErrorCode::InvalidRequest, text);
        }
        value
            .map_or(Ok(None), |v| key.parse(v).map(Some))
            .map(|v| (key.kind, v))
    };
    Ok(Command::AlterConfig {
        resource,
        changes: changes(ops, &parse, &current)?,
    })
}

fn broker_resource(image: &ClusterImage, broker: Option<i32>) -> Result<Resource, Refused> {
    match broker {
        None => Ok(Resource::AllBrokers),
        Some(id) if id == image.node().0 => Ok(Resource::Broker(image.node())),
        Some(id) if image.cluster().broker(NodeId(id)).is_some() => {
            Ok(Resource::Broker(NodeId(id)))
        }
        Some(id) => {
            let text = format!(
                "Broker {id} is not known; this is broker {}.",
                image.node().0
            );
            refuse(ErrorCode::InvalidRequest, text)
        }
    }
}

type Parse<'a> = &'a dyn Fn(&str, Option<&str>) -> Result<(Kind, Option<Value>), Refused>;

fn changes(
    ops: &[ConfigOp<'_>],
    parse: Parse<'_>,
    current: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<ConfigChange>, Refused> {
    let mut changes = BTreeMap::new();
    for op in ops {
        let value = match op.op {
            0 | 2 | 3 => match op.value {
                Some(value) => Some(value),
                None => {
                    let text = format!("Null value not supported for : {}", op.name);
                    return refuse(ErrorCode::InvalidRequest, text);
                }
            },
            1 => None,
            n => {
                let text = format!("Unknown config operation {n}: 0 to 3 are known.");
                return refuse(ErrorCode::InvalidRequest, text);
            }
        };
        let value = match value {
            Some(value) if op.op >= 2 => {
                Some(edit_list(op, parse(op.name, None)?.0, value, current)?)
            }
            value => value.map(str::to_owned),
        };
        parse(op.name, value.as_deref())?;
        let name = op.name.to_owned();
        let change = ConfigChange {
            name: name.clone(),
            value: value.map(|v| v.trim().to_owned()),
        };
        if changes.insert(name, change).is_some() {
            let text = format!("{} is changed twice in one request.", op.name);
            return refuse(ErrorCode::InvalidRequest, text);
        }
    }
    Ok(changes.into_values().collect())
}

fn edit_list(
    op: &ConfigOp<'_>,
    kind: Kind,
    value: &str,
    current: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Refused> {
    if kind != Kind::List {
        let verb = if op.op == 2 { "APPEND" } else { "SUBTRACT" };
        let text = format!(
            "Can't {verb} to key {} because its type is not LIST.",
            op.name
        );
        return refuse(ErrorCode::InvalidConfig, text);
    }
    let current = current(op.name).unwrap_or_default();
    let items = |text: &str| -> Vec<String> {
        text.split(',')
            .map(str::trim)
            .filter(|i| !i.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (mut list, given) = (items(&current), items(value));
    match op.op {
        2 => list.extend(
            given
                .into_iter()
                .filter(|i| !current.split(',').any(|c| c.trim() == i)),
        ),
        _ => list.retain(|i| !given.contains(i)),
    }
    Ok(list.join(","))
}

/// The changes that make `given` all that is set (the older AlterConfigs): what is not named goes.
pub fn replacing<'a>(
    current: Option<&'a Configs>,
    given: &[(&'a str, Option<&'a str>)],
) -> Vec<ConfigOp<'a>> {
    let set = given.iter().map(|(name, value)| ConfigOp {
        name,
        op: 0,
        value: *value,
    });
    let named = |name: &str| given.iter().any(|g| g.0 == name);
    let gone = current
        .into_iter()
        .flatten()
        .filter(|(name, _)| !named(name));
    let gone = gone.map(|(name, _)| ConfigOp {
        name,
        op: 1,
        value: None,
    });
    set.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Local;
    use super::*;

    fn image() -> ClusterImage {
        let configs = Configs::from([("num.partitions".to_owned(), "4".to_owned())]);
        let mut image = ClusterImage::new(Local {
            node: NodeId(1),
            configs,
        });
        for command in create_topic(&image, &new("a.b", 3)).unwrap().commands {
            image.apply(&command);
        }
        image
    }

    fn new(name: &str, partitions: i32) -> NewTopic<'_> {
        NewTopic {
            name,
            id: TopicId([name.len() as u8; 16]),
            partitions,
            replication: 1,
            assignments: &[],
            configs: &[],
            now_ms: 0,
        }
    }

    fn code<T: std::fmt::Debug>(r: Result<T, Refused>) -> ErrorCode {
        r.unwrap_err().0
    }

    #[test]
    fn names() {
        for good in ["a", "A-1._x", "__consumer_offsets", &"x".repeat(249)] {
            assert_eq!(topic_name(good), Ok(()));
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", "a\0", &"x".repeat(250)] {
            assert_eq!(
                code(topic_name(bad)),
                ErrorCode::InvalidTopicException,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn topics_that_cannot_be() {
        let image = image();
        let of = |n: &NewTopic<'_>| code(create_topic(&image, n));
        assert_eq!(of(&new("a.b", 1)), ErrorCode::TopicAlreadyExists);
        assert_eq!(of(&new("a_b", 1)), ErrorCode::InvalidTopicException);
        assert_eq!(of(&new("c", 0)), ErrorCode::InvalidPartitions);
        assert_eq!(of(&new("c", -2)), ErrorCode::InvalidPartitions);
        assert_eq!(of(&new("c", i32::MAX)), ErrorCode::PolicyViolation);
        let replicated = |replication| NewTopic {
            replication,
            ..new("c", 1)
        };
        for n in [0, -2] {
            assert_eq!(of(&replicated(n)), ErrorCode::InvalidReplicationFactor);
        }
        assert_eq!(of(&new("__cluster_metadata", 1)), ErrorCode::InvalidRequest);
        let configs = |configs| NewTopic {
            configs,
            ..new("c", 1)
        };
        assert_eq!(
            of(&configs(&[("retention.ms", Some("x"))])),
            ErrorCode::InvalidConfig
        );
        assert_eq!(
            of(&configs(&[("retention.ms", None)])),
            ErrorCode::InvalidConfig
        );
        assert_eq!(
            of(&configs(&[("no.such.key", Some("1"))])),
            ErrorCode::InvalidConfig
        );
    }

    #[test]
    fn partitions_only_grow() {
        let image = image();
        let more =
            |total, given: Option<&[Vec<i32>]>| create_partitions(&image, "a.b", total, given);
        assert!(more(5, None).is_ok());
        assert_eq!(
            code(more(5, Some(&[vec![1]]))),
            ErrorCode::InvalidReplicaAssignment
        );
        assert_eq!(code(more(3, None)), ErrorCode::InvalidPartitions);
        assert_eq!(code(more(-1, None)), ErrorCode::InvalidPartitions);
        let gone = create_partitions(&image, "zz", 5, None);
        assert_eq!(code(gone), ErrorCode::UnknownTopicOrPartition);
    }

    #[test]
    fn deletion_by_name_or_id() {
        let image = image();
        let id = image.topic("a.b").unwrap().id;
        let command = Command::DeleteTopic { id };
        assert_eq!(
            delete_topic(&image, Some("a.b"), TopicId::ZERO),
            Ok(command.clone())
        );
        assert_eq!(delete_topic(&image, None, id), Ok(command));
        let refused = |name, id| code(delete_topic(&image, name, id));
        assert_eq!(refused(Some("a.b"), id), ErrorCode::InvalidRequest);
        assert_eq!(refused(None, TopicId::ZERO), ErrorCode::InvalidRequest);
        assert_eq!(refused(None, TopicId([9; 16])), ErrorCode::UnknownTopicId);
        assert_eq!(
            refused(Some("zz"), TopicId::ZERO),
            ErrorCode::UnknownTopicOrPartition
        );
    }

    fn op<'a>(name: &'a str, op: i8, value: &'a str) -> ConfigOp<'a> {
        ConfigOp {
            name,
            op,
            value: (op != 1).then_some(value),
        }
    }

    #[test]
    fn settings_of_topics() {
        let mut image = image();
        let command = alter_topic(&image, "a.b", &[op("cleanup.policy", 2, "compact")]).unwrap();
        image.apply(&command);
        let topic = image.topic("a.b").unwrap();
        assert_eq!(topic.configs["cleanup.policy"], "delete,compact");
        assert!(topic.config.compact && topic.config.delete);
        image.apply(&alter_topic(&image, "a.b", &[op("cleanup.policy", 3, "delete")]).unwrap());
        assert_eq!(
            image.topic("a.b").unwrap().configs["cleanup.policy"],
            "compact"
        );
        let refused = |ops: &[ConfigOp<'_>]| code(alter_topic(&image, "a.b", ops));
        assert_eq!(
            refused(&[op("cleanup.policy", 3, "compact")]),
            ErrorCode::InvalidConfig
        );
        assert_eq!(
            refused(&[op("retention.ms", 2, "1")]),
            ErrorCode::InvalidConfig
        );
        assert_eq!(
            refused(&[op("retention.ms", 0, "x")]),
            ErrorCode::InvalidConfig
        );
        assert_eq!(
            refused(&[op("retention.ms", 9, "1")]),
            ErrorCode::InvalidRequest
        );
        let twice = [op("retention.ms", 0, "1"), op("retention.ms", 0, "2")];
        assert_eq!(refused(&twice), ErrorCode::InvalidRequest);
        let null = ConfigOp {
            name: "retention.ms",
            op: 0,
            value: None,
        };
        assert_eq!(refused(&[null]), ErrorCode::InvalidRequest);
    }

    #[test]
    fn settings_of_brokers() {
        let image = image();
        let set = |broker, name: &str| alter_broker(&image, broker, &[op(name, 0, "5")]);
        assert!(set(None, "log.retention.ms").is_ok());
        assert!(set(Some(1), "log.retention.ms").is_ok());
        assert_eq!(
            code(set(Some(2), "log.retention.ms")),
            ErrorCode::InvalidRequest
        );
        assert_eq!(
            code(set(Some(1), "num.partitions")),
            ErrorCode::InvalidRequest
        );
        assert_eq!(code(set(Some(1), "no.such")), ErrorCode::InvalidConfig);
    }

    #[test]
    fn replacing_deletes_what_is_not_named() {
        let current = Configs::from([
            ("retention.ms".to_owned(), "1".to_owned()),
            ("segment.ms".to_owned(), "2".to_owned()),
        ]);
        let ops = replacing(Some(&current), &[("segment.ms", Some("3"))]);
        let ops: Vec<_> = ops.iter().map(|o| (o.name, o.op, o.value)).collect();
        assert_eq!(
            ops,
            [("segment.ms", 0, Some("3")), ("retention.ms", 1, None)]
        );
    }
}
