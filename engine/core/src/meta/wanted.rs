//! Which partitions and replicas a client wants, and what Kafka says where it cannot have them.
//! Brokers that the client names have to be known; who of them is there, the controller looks.

use streamd_model::{ErrorCode, NodeId, TopicId};

use super::REPLICAS_MAX;
use super::cluster::{ClusterCommand, PartitionMeta};
use super::command::Command;
use super::image::ClusterImage;
use super::validate::NewTopic;
use crate::Refused;

/// What the controller is asked for, all or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The commands.
    pub commands: Vec<Command>,
    /// Replicas of the partitions that these give no places; `None`: as many as suit.
    pub replication: Option<i16>,
}

fn refuse<T>(code: ErrorCode, text: impl Into<String>) -> Result<T, Refused> {
    Err((code, text.into()))
}

/// How many partitions a new topic gets, and how many replicas if a number is wanted.
pub(super) fn layout(
    image: &ClusterImage,
    new: &NewTopic<'_>,
) -> Result<(i32, Option<i16>), Refused> {
    if !new.assignments.is_empty() {
        if new.partitions != -1 {
            let text = "A manual partition assignment was specified, but numPartitions was not \
                        set to -1.";
            return refuse(ErrorCode::InvalidRequest, text);
        }
        if new.replication != -1 {
            let text = "A manual partition assignment was specified, but replicationFactor was \
                        not set to -1.";
            return refuse(ErrorCode::InvalidRequest, text);
        }
        return Ok((assigned_count(image, new.assignments)?, None));
    }
    let replication = match new.replication {
        -1 => image.broker().replication.factor,
        n if n > 0 => Some(n),
        _ => {
            let text = "Replication factor must be larger than 0, or -1 to use the default value.";
            return refuse(ErrorCode::InvalidReplicationFactor, text);
        }
    };
    match new.partitions {
        -1 => Ok((image.broker().num_partitions, replication)),
        n if n > 0 => Ok((n, replication)),
        _ => {
            let text = "Number of partitions was set to an invalid non-positive value.";
            refuse(ErrorCode::InvalidPartitions, text)
        }
    }
}

fn assigned_count(image: &ClusterImage, given: &[(i32, Vec<i32>)]) -> Result<i32, Refused> {
    let mut partitions: Vec<i32> = given.iter().map(|a| a.0).collect();
    partitions.sort_unstable();
    if let Some(twice) = partitions.windows(2).find(|w| w[0] == w[1]) {
        let text = format!(
            "Found multiple manual partition assignments for partition {}",
            twice[0]
        );
        return refuse(ErrorCode::InvalidReplicaAssignment, text);
    }
    let count = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
    if !partitions.iter().copied().eq(0..count) {
        let text = "partitions should be a consecutive 0-based integer sequence";
        return refuse(ErrorCode::InvalidReplicaAssignment, text);
    }
    let replication = given.first().map_or(0, |first| first.1.len());
    for (partition, brokers) in given {
        assigned(image, *partition, brokers, replication)?;
    }
    Ok(count)
}

/// Checks the brokers that a client names for a partition, all of whose topic's partitions have
/// `replication` replicas.
pub(super) fn assigned(
    image: &ClusterImage,
    partition: i32,
    brokers: &[i32],
    replication: usize,
) -> Result<(), Refused> {
    let bad = |text: String| refuse(ErrorCode::InvalidReplicaAssignment, text);
    if brokers.is_empty() {
        return bad(format!(
            "The manual partition assignment for partition {partition} includes an empty replica \
             list."
        ));
    }
    if brokers.len() > REPLICAS_MAX {
        return bad(format!(
            "The manual partition assignment for partition {partition} names {} brokers; \
             {REPLICAS_MAX} are allowed.",
            brokers.len()
        ));
    }
    if let Some(twice) = (1..brokers.len()).find(|i| brokers[..*i].contains(&brokers[*i])) {
        return bad(format!(
            "The manual partition assignment for partition {partition} includes the broker {} \
             more than once.",
            brokers[twice]
        ));
    }
    // Right after a start the image may not have this broker.
    let known = |b: i32| b == image.node().0 || image.cluster().broker(NodeId(b)).is_some();
    if let Some(stranger) = brokers.iter().find(|b| !known(**b)) {
        return bad(format!(
            "The manual partition assignment includes broker {stranger}, but no such broker is \
             registered."
        ));
    }
    if brokers.len() != replication {
        return bad(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is \
             not consistent with previous partitions, which have {replication} replica(s).",
            brokers.len()
        ));
    }
    Ok(())
}

/// The command that puts partitions from `first` on where a client wants them; none if it names
/// no brokers.
pub(super) fn places<'a>(
    topic: TopicId,
    first: i32,
    brokers: impl Iterator<Item = &'a Vec<i32>>,
) -> Option<Command> {
    let place = |b: &Vec<i32>| PartitionMeta::new(b.iter().copied().map(NodeId).collect());
    let partitions: Vec<PartitionMeta> = brokers.map(place).collect();
    let place = ClusterCommand::Place {
        topic,
        first,
        partitions,
    };
    let none = matches!(&place, ClusterCommand::Place { partitions, .. } if partitions.is_empty());
    (!none).then_some(Command::Cluster(place))
}

#[cfg(test)]
mod tests {
    use super::super::validate::{create_partitions, create_topic};
    use super::super::{Local, Registration};
    use super::*;
    use crate::config::Configs;

    /// Broker 1, and brokers 2 and 3 beside it.
    fn image(configs: &[(&str, &str)]) -> ClusterImage {
        let configs = configs.iter();
        let configs: Configs = configs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let mut image = ClusterImage::new(Local {
            node: NodeId(1),
            configs,
        });
        for node in 1..4 {
            image.apply(&Command::Cluster(ClusterCommand::Register(Registration {
                node: NodeId(node),
                incarnation: [1; 16],
                directory: [node as u8; 16],
                rack: None,
                endpoints: Vec::new(),
                features: (0, 1),
            })));
        }
        image
    }

    fn new(name: &str) -> NewTopic<'_> {
        NewTopic {
            name,
            id: TopicId([7; 16]),
            partitions: -1,
            replication: -1,
            assignments: &[],
            configs: &[],
            now_ms: 0,
        }
    }

    fn code<T: std::fmt::Debug>(r: Result<T, Refused>) -> ErrorCode {
        r.unwrap_err().0
    }

    fn place(first: i32, nodes: &[&[i32]]) -> Command {
        let partitions = nodes.iter();
        let partitions = partitions
            .map(|n| PartitionMeta::new(n.iter().copied().map(NodeId).collect()))
            .collect();
        Command::Cluster(ClusterCommand::Place {
            topic: TopicId([7; 16]),
            first,
            partitions,
        })
    }

    #[test]
    fn defaults_come_from_the_broker() {
        let wanted = create_topic(&image(&[("num.partitions", "4")]), &new("c")).unwrap();
        assert_eq!(wanted.replication, None, "as many as suit");
        let partitions = |w: &Wanted| match w.commands[..] {
            [Command::CreateTopic { partitions, .. }] => partitions,
            _ => panic!("{w:?}"),
        };
        assert_eq!(partitions(&wanted), 4);
        let set = image(&[("default.replication.factor", "2")]);
        let wanted = create_topic(&set, &new("c")).unwrap();
        assert_eq!((partitions(&wanted), wanted.replication), (1, Some(2)));
        let own = NewTopic {
            replication: 3,
            partitions: 7,
            ..new("c")
        };
        let wanted = create_topic(&set, &own).unwrap();
        assert_eq!((partitions(&wanted), wanted.replication), (7, Some(3)));
    }

    #[test]
    fn manual_assignments_name_known_brokers_once() {
        let image = image(&[]);
        let of = |assignments: &[(i32, Vec<i32>)]| {
            let topic = NewTopic {
                assignments,
                ..new("c")
            };
            create_topic(&image, &topic)
        };
        let wanted = of(&[(1, vec![3, 1]), (0, vec![1, 2])]).unwrap();
        assert!(
            matches!(
                wanted.commands[0],
                Command::CreateTopic { partitions: 2, .. }
            ),
            "{wanted:?}"
        );
        assert_eq!(wanted.commands[1..], [place(0, &[&[1, 2], &[3, 1]])]);
        for bad in [
            &[(0, vec![4])][..],
            &[(0, vec![])],
            &[(0, vec![1, 1])],
            &[(0, (0..65).collect())],
            &[(1, vec![1])],
            &[(0, vec![1]), (0, vec![1])],
            &[(0, vec![1]), (1, vec![2, 3])],
        ] {
            assert_eq!(
                code(of(bad)),
                ErrorCode::InvalidReplicaAssignment,
                "{bad:?}"
            );
        }
        let both = |partitions, replication| NewTopic {
            assignments: &[],
            partitions,
            replication,
            ..new("c")
        };
        let given = [(0, vec![1])];
        for both in [both(1, -1), both(-1, 1)] {
            let both = NewTopic {
                assignments: &given,
                ..both
            };
            assert_eq!(code(create_topic(&image, &both)), ErrorCode::InvalidRequest);
        }
    }

    #[test]
    fn more_partitions_have_as_many_replicas_as_the_others() {
        let mut image = image(&[]);
        let assignments = [(0, vec![1, 2])];
        let topic = NewTopic {
            assignments: &assignments,
            ..new("c")
        };
        for command in create_topic(&image, &topic).unwrap().commands {
            image.admit(&command).unwrap();
            image.apply(&command);
        }
        let more = |given: &[Vec<i32>]| create_partitions(&image, "c", 3, Some(given));
        let wanted = more(&[vec![2, 3], vec![3, 1]]).unwrap();
        assert_eq!(wanted.commands[1..], [place(1, &[&[2, 3], &[3, 1]])]);
        for bad in [
            &[vec![2, 3]][..],
            &[vec![1], vec![2]],
            &[vec![1, 9], vec![2, 3]],
            &[vec![1, 1], vec![2, 3]],
        ] {
            assert_eq!(
                code(more(bad)),
                ErrorCode::InvalidReplicaAssignment,
                "{bad:?}"
            );
        }
    }
}
