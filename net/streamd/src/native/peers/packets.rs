//! Packets as frames. Records stay where they are: they go out behind what stands before them.

use bytes::Bytes;
use streamd_core::call;
use streamd_core::control::{Ask, decode_outcome, encode_outcome};
use streamd_core::repl::Message;
use streamd_io::Part;
use streamd_model::PartitionId;
use streamd_shard::{Packet, Records};
use streamd_wire::native::{Body, Call, FLAG_ANSWER, HEADER_BYTES, Header, Replica};

use crate::conn::Hangup;

/// Appends the frame of a packet to `out`; gives the records that go behind it.
pub fn encode(packet: Packet, out: &mut Vec<u8>) -> Vec<Part> {
    match packet {
        Packet::Raft(bytes) => put(&Body::Raft(&bytes), (0, 0, 0), out),
        Packet::Ask { token, hops, ask } => {
            let mut payload = vec![hops];
            payload.extend(ask.encode());
            put(&Body::Control(&payload), (0, token, 0), out);
        }
        Packet::Answer {
            token,
            version,
            outcome,
        } => {
            let mut payload = version.to_le_bytes().to_vec();
            payload.extend(encode_outcome(&outcome));
            put(&Body::Control(&payload), (0, token, FLAG_ANSWER), out);
        }
        Packet::Call {
            token,
            partition,
            question,
        } => {
            let call = Call {
                topic: partition.topic,
                index: partition.index,
                question: &question.encode(),
            };
            put(&Body::Call(call), (0, token, 0), out);
        }
        Packet::Return { token, outcome } => {
            let bytes = call::encode_outcome(&outcome);
            put(&Body::Return(&bytes), (0, token, 0), out);
        }
        Packet::Replica(id, message) => replica(id, &message, 0, out),
        Packet::Data(Records {
            partition,
            head,
            parts,
        }) => {
            let bytes = parts.iter().map(Part::len).sum();
            replica(partition, &Message::Data(head), bytes, out);
            return parts;
        }
    }
    Vec::new()
}

fn put(body: &Body<'_>, ids: (u32, u64, u16), out: &mut Vec<u8>) {
    let tail = body.encode(ids, out);
    out.extend_from_slice(tail);
}

/// `more`: the bytes of records behind it.
fn replica(id: PartitionId, message: &Message, more: usize, out: &mut Vec<u8>) {
    let mut bytes = Vec::with_capacity(64);
    message.encode(&mut bytes);
    let body = Body::Replica(Replica {
        topic: id.topic,
        index: id.index,
        message: &bytes,
    });
    let tail = body.encode_before((0, 0, 0), more, out);
    out.extend_from_slice(tail);
}

/// The packet in a frame; `None` if it has none.
pub fn decode(frame: &Bytes, header: &Header, body: &Body<'_>) -> Result<Option<Packet>, Hangup> {
    let bad = |what: &dyn std::fmt::Display| Hangup::Bad(format!("{:?}: {what}", header.op));
    let packet = match body {
        Body::Raft(bytes) => Packet::Raft(bytes.to_vec()),
        Body::Control(bytes) if header.is_answer() => {
            let Some((version, outcome)) = bytes.split_first_chunk() else {
                return Err(bad(&"an answer without a version"));
            };
            Packet::Answer {
                token: header.correlation,
                version: u64::from_le_bytes(*version),
                outcome: decode_outcome(outcome).map_err(|e| bad(&e))?,
            }
        }
        Body::Control(bytes) => {
            let Some((hops, ask)) = bytes.split_first() else {
                return Err(bad(&"no question is in it"));
            };
            Packet::Ask {
                token: header.correlation,
                hops: *hops,
                ask: Ask::decode(ask).map_err(|e| bad(&e))?,
            }
        }
        Body::Call(asked) => Packet::Call {
            token: header.correlation,
            partition: PartitionId {
                topic: asked.topic,
                index: asked.index,
            },
            question: call::Question::decode(asked.question).map_err(|e| bad(&e))?,
        },
        Body::Return(bytes) => Packet::Return {
            token: header.correlation,
            outcome: call::decode_outcome(bytes).map_err(|e| bad(&e))?,
        },
        Body::Replica(replica) => {
            let (message, records) = Message::decode(replica.message).map_err(|e| bad(&e))?;
            let partition = PartitionId {
                topic: replica.topic,
                index: replica.index,
            };
            match message {
                Message::Data(head) if !records.is_empty() => Packet::Data(Records {
                    partition,
                    head,
                    parts: vec![frame.slice(frame.len() - records.len()..).into()],
                }),
                message => Packet::Replica(partition, message),
            }
        }
        _ => return Ok(None),
    };
    debug_assert!(frame.len() >= HEADER_BYTES, "a frame has a header");
    Ok(Some(packet))
}

/// The frame of a packet whose records are in memory, for tests.
#[cfg(test)]
pub fn frame(packet: Packet) -> Bytes {
    let mut out = Vec::new();
    for part in encode(packet, &mut out) {
        let Part::Bytes(bytes) = part else {
            panic!("it is in memory");
        };
        out.extend_from_slice(&bytes);
    }
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use streamd_core::control::Answer;
    use streamd_core::repl::Head;
    use streamd_model::{ErrorCode, NodeId, TopicId};

    use super::*;

    fn id() -> PartitionId {
        PartitionId {
            topic: TopicId([7; 16]),
            index: 3,
        }
    }

    fn packets() -> Vec<Packet> {
        let head = Head {
            epoch: 3,
            session: (4, 5),
            base: 6,
            high: 7,
            start: 1,
        };
        let answer = |outcome| Packet::Answer {
            token: u64::MAX,
            version: 9,
            outcome,
        };
        let (node, epoch) = (NodeId(2), 8);
        vec![
            Packet::Raft(b"a message".to_vec()),
            Packet::Ask {
                token: 77,
                hops: 2,
                ask: Ask::Lost { node, epoch },
            },
            answer(Ok(Answer::Done)),
            answer(Err((ErrorCode::NotController, "elsewhere".to_owned()))),
            Packet::Call {
                token: 5,
                partition: id(),
                question: call::Question::Offset(-1),
            },
            Packet::Return {
                token: 5,
                outcome: Ok(call::Answer::Placed(9)),
            },
            Packet::Replica(id(), Message::Data(head)),
            Packet::Data(Records {
                partition: id(),
                head,
                parts: [&b"one"[..], b"two"]
                    .map(|part| Bytes::from_static(part).into())
                    .into(),
            }),
        ]
    }

    fn parse(frame: &Bytes) -> Result<Option<Packet>, Hangup> {
        let (head, payload) = frame.split_first_chunk().unwrap();
        let header = Header::decode(head, u32::MAX).map_err(Hangup::Malformed)?;
        let body = Body::decode(&header, payload).map_err(Hangup::Malformed)?;
        decode(frame, &header, &body)
    }

    #[test]
    fn what_is_sent_arrives() {
        for packet in packets() {
            let sent = frame(packet);
            let back = parse(&sent).unwrap().expect("a packet");
            assert_eq!(frame(back), sent);
        }
        let mut ping = Vec::new();
        Body::Ping.encode((0, 1, 0), &mut ping);
        assert!(parse(&Bytes::from(ping)).unwrap().is_none());
    }

    #[test]
    fn what_is_cut_or_changed_never_panics() {
        for packet in packets() {
            let sent = frame(packet);
            for at in HEADER_BYTES..sent.len() {
                for byte in [0, 1, 127, 128, 255] {
                    let mut bad = sent.to_vec();
                    bad[at] = byte;
                    let _ = parse(&Bytes::from(bad));
                }
                let mut cut = sent[..at].to_vec();
                let length = (at - HEADER_BYTES) as u32;
                let mut header = Header::decode(sent.first_chunk().unwrap(), u32::MAX).unwrap();
                header.length = length;
                cut[..HEADER_BYTES].copy_from_slice(&header.encode());
                let _ = parse(&Bytes::from(cut));
            }
        }
    }
}
