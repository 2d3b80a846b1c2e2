//! Questions to the controller and its answers in binary form: what `Control` frames of the native
//! protocol carry between nodes. The first byte is the version of the form, the second the kind.

use streamd_model::{ErrorCode, NodeId, PartitionId, TopicId};

use super::{Answer, Ask, Election, NewIsr, Outcome};
use crate::codec::{Damaged, In, Out};
use crate::meta::cluster::{get_registration, put_registration};
use crate::meta::{Command, REPLICAS_MAX};

const VERSION: u8 = 1;

impl Ask {
    /// The binary form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::default();
        out.u8(VERSION);
        match self {
            Ask::Register(told) => {
                out.u8(1);
                put_registration(&mut out, told);
            }
            Ask::Heartbeat {
                node,
                epoch,
                version,
                leaving,
            } => {
                out.u8(2);
                out.i32(node.0);
                out.i64(*epoch);
                out.u64(*version);
                out.u8(u8::from(*leaving));
            }
            Ask::Lost { node, epoch } => {
                out.u8(3);
                out.i32(node.0);
                out.i64(*epoch);
            }
            Ask::Alter { node, epoch, sets } => {
                out.u8(4);
                out.i32(node.0);
                out.i64(*epoch);
                put_list(&mut out, sets, put_set);
            }
            Ask::Propose {
                commands,
                replication,
            } => {
                out.u8(5);
                out.i16(replication.unwrap_or(-1));
                put_list(&mut out, commands, |out, c| out.bytes(&c.encode()));
            }
            Ask::Elect {
                election,
                partitions,
            } => {
                out.u8(6);
                out.u8(u8::from(*election == Election::Unclean));
                put_list(&mut out, partitions, |out, p| put_id(out, *p));
            }
            Ask::Reassign {
                partition,
                replicas,
            } => {
                out.u8(7);
                put_id(&mut out, *partition);
                out.u8(u8::from(replicas.is_some()));
                put_nodes(&mut out, replicas.as_deref().unwrap_or(&[]));
            }
            Ask::Unregister(node) => {
                out.u8(8);
                out.i32(node.0);
            }
        }
        out.0
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// [`Damaged`] if the bytes are no question that is known here.
    pub fn decode(bytes: &[u8]) -> Result<Ask, Damaged> {
        let mut r = In(bytes);
        version(&mut r)?;
        let ask = match r.u8("the kind of a question")? {
            1 => Ask::Register(get_registration(&mut r)?),
            2 => Ask::Heartbeat {
                node: node(&mut r)?,
                epoch: r.i64("a broker's epoch")?,
                version: r.u64("an image's version")?,
                leaving: r.flag("whether a broker is leaving")?,
            },
            3 => Ask::Lost {
                node: node(&mut r)?,
                epoch: r.i64("a broker's epoch")?,
            },
            4 => {
                let (node, epoch) = (node(&mut r)?, r.i64("a broker's epoch")?);
                let sets = list(&mut r, 32, get_set)?;
                Ask::Alter { node, epoch, sets }
            }
            5 => {
                let replication = r.i16("a replication factor")?;
                let command = |r: &mut In<'_>| Command::decode(r.bytes("a metadata command")?);
                Ask::Propose {
                    commands: list(&mut r, 6, command)?,
                    replication: (replication != -1).then_some(replication),
                }
            }
            6 => Ask::Elect {
                election: match r.flag("a kind of election")? {
                    true => Election::Unclean,
                    false => Election::Preferred,
                },
                partitions: list(&mut r, 20, get_id)?,
            },
            7 => {
                let partition = get_id(&mut r)?;
                let moves = r.flag("whether a partition moves")?;
                let replicas = get_nodes(&mut r)?;
                Ask::Reassign {
                    partition,
                    replicas: moves.then_some(replicas),
                }
            }
            8 => Ask::Unregister(node(&mut r)?),
            _ => return Err(r.damaged("a question of an unknown kind")),
        };
        r.end("a question with bytes behind it")?;
        Ok(ask)
    }
}

/// An answer in binary form.
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    let mut out = Out::default();
    out.u8(VERSION);
    match outcome {
        Ok(Answer::Done) => out.u8(1),
        Ok(Answer::Registered { epoch }) => {
            out.u8(2);
            out.i64(*epoch);
        }
        Ok(Answer::Heartbeat { fenced, may_stop }) => {
            out.u8(3);
            out.u8(u8::from(*fenced));
            out.u8(u8::from(*may_stop));
        }
        Ok(Answer::Each(each)) => {
            out.u8(4);
            put_list(&mut out, each, |out, (id, code)| {
                put_id(out, *id);
                out.i16(code.code());
            });
        }
        Err((code, text)) => {
            out.u8(5);
            out.i16(code.code());
            out.str(text);
        }
    }
    out.0
}

/// Reads what [`encode_outcome`] wrote.
///
/// # Errors
/// [`Damaged`] if the bytes are no answer that is known here.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, Damaged> {
    let mut r = In(bytes);
    version(&mut r)?;
    let outcome = match r.u8("the kind of an answer")? {
        1 => Ok(Answer::Done),
        2 => Ok(Answer::Registered {
            epoch: r.i64("a broker's epoch")?,
        }),
        3 => Ok(Answer::Heartbeat {
            fenced: r.flag("whether a broker is fenced")?,
            may_stop: r.flag("whether a broker may stop")?,
        }),
        4 => Ok(Answer::Each(list(&mut r, 22, |r| {
            Ok((get_id(r)?, code(r)?))
        })?)),
        5 => Err((code(&mut r)?, r.str("a sentence")?.to_owned())),
        _ => return Err(r.damaged("an answer of an unknown kind")),
    };
    r.end("an answer with bytes behind it")?;
    Ok(outcome)
}

fn version(r: &mut In<'_>) -> Result<(), Damaged> {
    match r.u8("the version of a question or answer")? {
        VERSION => Ok(()),
        _ => Err(r.damaged("a question or answer of an unknown version")),
    }
}

/// What [`list`] reads.
fn put_list<T>(out: &mut Out, items: &[T], mut put: impl FnMut(&mut Out, &T)) {
    out.count(items.len());
    for item in items {
        put(out, item);
    }
}

fn list<T>(
    r: &mut In<'_>,
    item_bytes: usize,
    mut get: impl FnMut(&mut In<'_>) -> Result<T, Damaged>,
) -> Result<Vec<T>, Damaged> {
    let count = r.count(item_bytes, "a length of a list")?;
    (0..count).map(|_| get(r)).collect()
}

/// Codes that only a newer version knows become the one that says so.
fn code(r: &mut In<'_>) -> Result<ErrorCode, Damaged> {
    let number = r.i16("an error code")?;
    Ok(ErrorCode::from_code(number).unwrap_or(ErrorCode::UnknownServerError))
}

fn node(r: &mut In<'_>) -> Result<NodeId, Damaged> {
    match r.i32("a broker's id")? {
        id @ 0.. => Ok(NodeId(id)),
        _ => Err(r.damaged("a broker's id")),
    }
}

fn put_nodes(out: &mut Out, nodes: &[NodeId]) {
    put_list(out, nodes, |out, node| out.i32(node.0));
}

fn get_nodes(r: &mut In<'_>) -> Result<Vec<NodeId>, Damaged> {
    let nodes = list(r, 4, node)?;
    match nodes.len() <= REPLICAS_MAX {
        true => Ok(nodes),
        false => Err(r.damaged("a number of replicas")),
    }
}

fn put_id(out: &mut Out, id: PartitionId) {
    out.raw(&id.topic.0);
    out.i32(id.index);
}

fn get_id(r: &mut In<'_>) -> Result<PartitionId, Damaged> {
    Ok(PartitionId {
        topic: TopicId(r.array("a topic's id")?),
        index: r.i32("a partition's index")?,
    })
}

fn put_set(out: &mut Out, set: &NewIsr) {
    put_id(out, set.partition);
    out.i32(set.leader_epoch);
    out.i32(set.epoch);
    put_list(out, &set.isr, |out, (node, epoch)| {
        out.i32(node.0);
        out.i64(*epoch);
    });
}

fn get_set(r: &mut In<'_>) -> Result<NewIsr, Damaged> {
    let set = NewIsr {
        partition: get_id(r)?,
        leader_epoch: r.i32("a leader epoch")?,
        epoch: r.i32("a partition's epoch")?,
        isr: list(r, 12, |r| Ok((node(r)?, r.i64("a broker's epoch")?)))?,
    };
    match set.isr.len() <= REPLICAS_MAX {
        true => Ok(set),
        false => Err(r.damaged("a number of replicas")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Endpoint, Registration};

    fn asks() -> Vec<Ask> {
        let id = PartitionId {
            topic: TopicId([3; 16]),
            index: 4,
        };
        let node = NodeId(2);
        let set = NewIsr {
            partition: id,
            leader_epoch: 5,
            epoch: 6,
            isr: vec![(node, 9), (NodeId(3), -1)],
        };
        let told = Registration {
            node,
            incarnation: [1; 16],
            directory: [2; 16],
            rack: None,
            endpoints: vec![Endpoint {
                name: "PLAINTEXT".to_owned(),
                host: "localhost".to_owned(),
                port: 9092,
            }],
            features: (0, 1),
        };
        vec![
            Ask::Register(told),
            Ask::Heartbeat {
                node,
                epoch: 7,
                version: 8,
                leaving: true,
            },
            Ask::Lost { node, epoch: 7 },
            Ask::Alter {
                node,
                epoch: 7,
                sets: vec![set.clone(), set],
            },
            Ask::Propose {
                commands: vec![Command::SetClusterId("x".to_owned())],
                replication: Some(3),
            },
            Ask::Elect {
                election: Election::Unclean,
                partitions: vec![id],
            },
            Ask::Reassign {
                partition: id,
                replicas: Some(vec![node]),
            },
            Ask::Reassign {
                partition: id,
                replicas: None,
            },
            Ask::Unregister(node),
        ]
    }

    fn outcomes() -> Vec<Outcome> {
        let id = PartitionId {
            topic: TopicId([3; 16]),
            index: 4,
        };
        vec![
            Ok(Answer::Done),
            Ok(Answer::Registered { epoch: 9 }),
            Ok(Answer::Heartbeat {
                fenced: false,
                may_stop: true,
            }),
            Ok(Answer::Each(vec![(id, ErrorCode::IneligibleReplica)])),
            Err((ErrorCode::NotController, "node 2 is".to_owned())),
        ]
    }

    /// Every cut is refused, and every changed byte is refused or read, never a panic.
    fn hostile(bytes: &[u8], read: impl Fn(&[u8]) -> bool) {
        for end in 0..bytes.len() {
            assert!(!read(&bytes[..end]), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 127, 128, 255] {
                let mut bad = bytes.to_vec();
                bad[at] = value;
                read(&bad);
            }
        }
    }

    #[test]
    fn round_trips_and_hostile_bytes() {
        for ask in asks() {
            let bytes = ask.encode();
            assert_eq!(Ask::decode(&bytes), Ok(ask));
            hostile(&bytes, |b| Ask::decode(b).is_ok());
        }
        for outcome in outcomes() {
            let bytes = encode_outcome(&outcome);
            assert_eq!(decode_outcome(&bytes), Ok(outcome));
            hostile(&bytes, |b| decode_outcome(b).is_ok());
        }
    }
}
