//! The commands of the metadata log and their binary form.
//!
//! The first byte is the version of the form, the second the command; both are frozen. A command
//! that this version does not know is an error, not something to skip: the image would no longer
//! be the fold of the log.

use streamd_model::{NodeId, TopicId};

use super::cluster::ClusterCommand;
use crate::codec::{Damaged, In, Out};
use crate::config::Configs;

const VERSION: u8 = 1;

/// A change of the cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A new topic.
    CreateTopic {
        /// Its name.
        name: String,
        /// Its id.
        id: TopicId,
        /// The number of its partitions.
        partitions: i32,
        /// Its own settings.
        configs: Configs,
        /// Wall time, ms.
        created_ms: i64,
    },
    /// A topic goes, with all its records.
    DeleteTopic {
        /// The topic.
        id: TopicId,
    },
    /// A topic gets more partitions.
    CreatePartitions {
        /// The topic.
        id: TopicId,
        /// How many it has from now on.
        total: i32,
    },
    /// Settings change.
    AlterConfig {
        /// Whose.
        resource: Resource,
        /// Which, in this order.
        changes: Vec<ConfigChange>,
    },
    /// Settings of a group of consumers change. The group need not be there.
    AlterGroup {
        /// The group.
        group: String,
        /// Which, in this order.
        changes: Vec<ConfigChange>,
    },
    /// Producer ids are given out: nobody gets them again.
    AllocateProducerIds {
        /// The first one.
        first: i64,
        /// How many.
        count: i32,
    },
    /// The cluster gets its id, once.
    SetClusterId(String),
    /// Brokers or the places of partitions change.
    Cluster(ClusterCommand),
}

/// What has settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// A topic.
    Topic(TopicId),
    /// One broker.
    Broker(NodeId),
    /// All brokers.
    AllBrokers,
}

/// A change of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    /// The key.
    pub name: String,
    /// The new value; `None` takes the setting away, so that the next layer counts.
    pub value: Option<String>,
}

impl Command {
    /// The binary form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::default();
        out.u8(VERSION);
        match self {
            Command::CreateTopic {
                name,
                id,
                partitions,
                configs,
                created_ms,
            } => {
                out.u8(1);
                out.str(name);
                out.raw(&id.0);
                out.i32(*partitions);
                out.i64(*created_ms);
                put_configs(&mut out, configs);
            }
            Command::DeleteTopic { id } => {
                out.u8(2);
                out.raw(&id.0);
            }
            Command::CreatePartitions { id, total } => {
                out.u8(3);
                out.raw(&id.0);
                out.i32(*total);
            }
            Command::AlterConfig { resource, changes } => {
                out.u8(4);
                put_resource(&mut out, *resource);
                put_changes(&mut out, changes);
            }
            Command::AlterGroup { group, changes } => {
                out.u8(16);
                out.str(group);
                put_changes(&mut out, changes);
            }
            Command::AllocateProducerIds { first, count } => {
                out.u8(5);
                out.i64(*first);
                out.i32(*count);
            }
            Command::SetClusterId(id) => {
                out.u8(6);
                out.str(id);
            }
            Command::Cluster(command) => command.put(&mut out),
        }
        out.0
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// [`Damaged`] if the bytes are no command of a version that is known here.
    pub fn decode(bytes: &[u8]) -> Result<Command, Damaged> {
        let mut r = In(bytes);
        if r.u8("the version of a metadata command")? != VERSION {
            return Err(r.damaged("a metadata command of an unknown version"));
        }
        let command = match r.u8("the kind of a metadata command")? {
            1 => Command::CreateTopic {
                name: r.str("a topic's name")?.to_owned(),
                id: TopicId(r.array("a topic's id")?),
                partitions: r.i32("a number of partitions")?,
                created_ms: r.i64("a topic's time of creation")?,
                configs: get_configs(&mut r)?,
            },
            2 => Command::DeleteTopic {
                id: TopicId(r.array("a topic's id")?),
            },
            3 => Command::CreatePartitions {
                id: TopicId(r.array("a topic's id")?),
                total: r.i32("a number of partitions")?,
            },
            4 => Command::AlterConfig {
                resource: get_resource(&mut r)?,
                changes: get_changes(&mut r)?,
            },
            5 => Command::AllocateProducerIds {
                first: r.i64("a producer id")?,
                count: r.i32("a number of producer ids")?,
            },
            16 => Command::AlterGroup {
                group: r.str("a group id")?.to_owned(),
                changes: get_changes(&mut r)?,
            },
            6 => Command::SetClusterId(r.str("a cluster id")?.to_owned()),
            kind => Command::Cluster(ClusterCommand::get(kind, &mut r)?),
        };
        r.end("a metadata command with bytes behind it")?;
        Ok(command)
    }
}

/// Commands that are applied together, in binary form.
pub fn encode_batch(commands: &[Command]) -> Vec<u8> {
    let mut out = Out::default();
    out.u8(VERSION);
    out.count(commands.len());
    for command in commands {
        out.bytes(&command.encode());
    }
    out.0
}

/// Reads what [`encode_batch`] wrote.
///
/// # Errors
/// [`Damaged`] if the bytes are no commands of a version that is known here.
pub fn decode_batch(bytes: &[u8]) -> Result<Vec<Command>, Damaged> {
    let mut r = In(bytes);
    if r.u8("the version of metadata commands")? != VERSION {
        return Err(r.damaged("metadata commands of an unknown version"));
    }
    let count = r.count(6, "a number of metadata commands")?;
    let mut commands = Vec::with_capacity(count);
    for _ in 0..count {
        commands.push(Command::decode(r.bytes("a metadata command")?)?);
    }
    r.end("metadata commands with bytes behind them")?;
    Ok(commands)
}

fn put_changes(out: &mut Out, changes: &[ConfigChange]) {
    out.count(changes.len());
    for change in changes {
        out.str(&change.name);
        out.u8(u8::from(change.value.is_some()));
        if let Some(value) = &change.value {
            out.str(value);
        }
    }
}

fn get_changes(r: &mut In<'_>) -> Result<Vec<ConfigChange>, Damaged> {
    let mut changes = Vec::with_capacity(r.count(5, "a number of settings")?);
    for _ in 0..changes.capacity() {
        let name = r.str("a setting's name")?.to_owned();
        let value = match r.u8("a setting's value")? {
            0 => None,
            _ => Some(r.str("a setting's value")?.to_owned()),
        };
        changes.push(ConfigChange { name, value });
    }
    Ok(changes)
}

pub(super) fn put_resource(out: &mut Out, resource: Resource) {
    match resource {
        Resource::Topic(id) => {
            out.u8(1);
            out.raw(&id.0);
        }
        Resource::Broker(NodeId(id)) => {
            out.u8(2);
            out.i32(id);
        }
        Resource::AllBrokers => out.u8(3),
    }
}

pub(super) fn get_resource(r: &mut In<'_>) -> Result<Resource, Damaged> {
    match r.u8("a kind of resource")? {
        1 => Ok(Resource::Topic(TopicId(r.array("a topic's id")?))),
        2 => Ok(Resource::Broker(NodeId(r.i32("a broker's id")?))),
        3 => Ok(Resource::AllBrokers),
        _ => Err(r.damaged("an unknown kind of resource")),
    }
}

pub(super) fn put_configs(out: &mut Out, configs: &Configs) {
    out.count(configs.len());
    for (name, value) in configs {
        out.str(name);
        out.str(value);
    }
}

pub(super) fn get_configs(r: &mut In<'_>) -> Result<Configs, Damaged> {
    let count = r.count(8, "a number of settings")?;
    let mut configs = Configs::new();
    for _ in 0..count {
        let name = r.str("a setting's name")?.to_owned();
        configs.insert(name, r.str("a setting's value")?.to_owned());
    }
    Ok(configs)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::cluster::{Endpoint, PartitionMeta, Registration};
    use super::*;
    use proptest::prelude::*;
    use streamd_model::PartitionId;

    fn text() -> impl Strategy<Value = String> {
        "[a-z0-9._é-]{0,12}"
    }

    fn id() -> impl Strategy<Value = TopicId> {
        // Few ids, so that commands meet each other.
        (0u8..6).prop_map(|n| TopicId([n; 16]))
    }

    fn resource() -> impl Strategy<Value = Resource> {
        prop_oneof![
            id().prop_map(Resource::Topic),
            (0..3i32).prop_map(|n| Resource::Broker(NodeId(n))),
            Just(Resource::AllBrokers),
        ]
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("retention.ms".to_owned()),
            Just("log.retention.ms".to_owned()),
            Just("cleanup.policy".to_owned()),
            text(),
        ]
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof![(-5i64..9999).prop_map(|n| n.to_string()), text()]
    }

    fn nodes() -> impl Strategy<Value = Vec<NodeId>> {
        proptest::sample::subsequence(vec![0, 1, 2, 3], 1..4)
            .prop_map(|ids| ids.into_iter().map(NodeId).collect())
    }

    fn place() -> impl Strategy<Value = PartitionMeta> {
        (nodes(), 0..3i32, any::<bool>(), any::<bool>()).prop_map(|(nodes, epoch, led, moves)| {
            let mut place = PartitionMeta::new(nodes);
            place.leader_epoch = epoch;
            if !led {
                place.leader = None;
            }
            if moves {
                place.adding = vec![place.replicas[0]];
            }
            place
        })
    }

    fn cluster() -> impl Strategy<Value = ClusterCommand> {
        let told = (
            0..4i32,
            any::<[u8; 16]>(),
            0..2u8,
            proptest::option::of(text()),
        );
        let told = told.prop_map(|(node, incarnation, directory, rack)| Registration {
            node: NodeId(node),
            incarnation,
            directory: [directory; 16],
            rack,
            endpoints: vec![Endpoint {
                name: "A".to_owned(),
                host: "h".to_owned(),
                port: 9,
            }],
            features: (0, 3),
        });
        let flags = (any::<bool>(), any::<bool>());
        let partition = (id(), 0..4i32).prop_map(|(topic, index)| PartitionId { topic, index });
        prop_oneof![
            told.prop_map(ClusterCommand::Register),
            (0..4i32, 0..40i64, flags).prop_map(|(node, epoch, (fenced, leaving))| {
                ClusterCommand::SetBroker {
                    node: NodeId(node),
                    epoch,
                    fenced,
                    leaving,
                }
            }),
            (0..4i32, 0..40i64).prop_map(|(node, epoch)| ClusterCommand::Unregister {
                node: NodeId(node),
                epoch
            }),
            (id(), 0..3i32, proptest::collection::vec(place(), 0..3)).prop_map(
                |(topic, first, partitions)| ClusterCommand::Place {
                    topic,
                    first,
                    partitions
                }
            ),
            (partition, 0..3i32, place()).prop_map(|(partition, expect, next)| {
                ClusterCommand::Change {
                    partition,
                    expect,
                    next,
                }
            }),
            (0..5i16).prop_map(ClusterCommand::SetFeatureLevel),
        ]
    }

    pub fn command() -> impl Strategy<Value = Command> {
        let configs = proptest::collection::btree_map(key(), value(), 0..4);
        let change = || {
            (key(), proptest::option::of(value()))
                .prop_map(|(name, value)| ConfigChange { name, value })
        };
        prop_oneof![
            ("[a-e]{1,2}", id(), 1..20i32, configs, any::<i64>()).prop_map(
                |(name, id, partitions, configs, created_ms)| Command::CreateTopic {
                    name,
                    id,
                    partitions,
                    configs,
                    created_ms
                }
            ),
            id().prop_map(|id| Command::DeleteTopic { id }),
            (id(), 1..30i32).prop_map(|(id, total)| Command::CreatePartitions { id, total }),
            ("[g-i]", proptest::collection::vec(change(), 0..4))
                .prop_map(|(group, changes)| Command::AlterGroup { group, changes }),
            (resource(), proptest::collection::vec(change(), 0..4))
                .prop_map(|(resource, changes)| Command::AlterConfig { resource, changes }),
            (0..5000i64, 1..1000i32)
                .prop_map(|(first, count)| Command::AllocateProducerIds { first, count }),
            text().prop_map(Command::SetClusterId),
            cluster().prop_map(Command::Cluster),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(command in command()) {
            let bytes = command.encode();
            prop_assert_eq!(Command::decode(&bytes), Ok(command));
            for end in 0..bytes.len() {
                prop_assert!(Command::decode(&bytes[..end]).is_err(), "cut at {}", end);
            }
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            kind in 0u8..40,
        ) {
            let mut bytes = bytes;
            let _ = Command::decode(&bytes);
            bytes.splice(0..0, [VERSION, kind]);
            if let Ok(command) = Command::decode(&bytes) {
                prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
            }
        }
    }

    #[test]
    fn a_huge_count_reserves_nothing() {
        let mut bytes = vec![VERSION, 4, 3];
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(Command::decode(&bytes).is_err());
    }
}
