//! Round trips, and what hostile peers send.

use streamd_model::{ErrorCode, NodeId, TopicId};

use super::*;

const RECORDS: &[u8] = b"batches, back to back";

/// How many samples there are.
const SAMPLES: usize = 29;

fn leak<T: Item<'static>>(items: Vec<T>) -> List<'static, T> {
    List::decode(Vec::leak(List::encode(items))).unwrap()
}

fn samples() -> Vec<(Body<'static>, u16)> {
    [handshakes(), streams(), others(), of_clients()].concat()
}

fn partition() -> Partition {
    Partition {
        topic: TopicId([7; 16]),
        index: 3,
        epoch: 9,
    }
}

fn handshakes() -> Vec<(Body<'static>, u16)> {
    let hello = Hello {
        versions: (1, 2),
        node: NodeId(4),
        incarnation: [1; 16],
        directory: [2; 16],
        cluster: "a-cluster",
        name: "näme",
    };
    let welcome = Welcome {
        version: 1,
        node: NodeId(0),
        payload_bytes_max: 1 << 20,
        cluster: "a-cluster",
        mechanisms: "",
    };
    vec![
        (Body::Hello(hello), 0),
        (Body::Welcome(welcome), FLAG_ANSWER),
        (Body::Auth(b"PLAIN"), 0),
    ]
}

fn streams() -> Vec<(Body<'static>, u16)> {
    let partition = partition();
    let session = (12, 34);
    let subscribe = Subscribe {
        partition,
        session,
        from: 100,
        last_epoch: -1,
        durable: -1,
        credit: u64::MAX,
        committed: true,
    };
    let data = Data {
        epoch: 9,
        session,
        base: 100,
        high: 90,
        start: 0,
        aborted: leak(vec![Aborted {
            producer: 4,
            first: 2,
        }]),
        records: RECORDS,
    };
    vec![
        (Body::Subscribe(subscribe), 0),
        (
            Body::Subscribed(Subscribed {
                epoch: 9,
                start: 1,
                high: 2,
                from: 2,
            }),
            FLAG_ANSWER,
        ),
        (Body::Credit(Credit { taken: 1 << 40 }), 0),
        (Body::Data(data), 0),
        (
            Body::Data(Data {
                records: &[],
                ..data
            }),
            FLAG_LAST,
        ),
    ]
}

fn others() -> Vec<(Body<'static>, u16)> {
    vec![
        (Body::Raft(RECORDS), 0),
        (Body::Control(RECORDS), FLAG_ANSWER),
        (
            Body::Replica(Replica {
                topic: TopicId([7; 16]),
                index: 3,
                message: RECORDS,
            }),
            0,
        ),
        (
            Body::Call(Call {
                topic: TopicId([7; 16]),
                index: 3,
                question: RECORDS,
            }),
            0,
        ),
        (Body::Return(RECORDS), FLAG_ANSWER),
        (Body::Ping, 0),
        (
            Body::Error(Failure::new(
                ErrorCode::NotController,
                "node 3 is the controller",
            )),
            FLAG_ANSWER | FLAG_LAST,
        ),
    ]
}

fn of_clients() -> Vec<(Body<'static>, u16)> {
    let partition = partition();
    let batch = Batch {
        partition,
        records: RECORDS,
    };
    let append = Append {
        acks: -1,
        batches: leak(vec![batch, batch]),
    };
    let appended = Appended {
        code: 2,
        base: 7,
        epoch: 9,
        text: "wröng",
    };
    let to_commit = ToCommit {
        partition,
        offset: 5,
        metadata: "m",
    };
    let committed = Committed {
        code: 0,
        offset: 5,
        epoch: -1,
        metadata: "m",
    };
    let place = Place {
        node: 2,
        epoch: 7,
        address: "10.0.0.2:9192",
    };
    let topic = Topic {
        id: partition.topic,
        partitions: leak(vec![Leader { node: 1, epoch: 0 }]),
    };
    vec![
        (Body::Append(append), 0),
        (Body::Appended(leak(vec![appended, appended])), FLAG_ANSWER),
        (Body::TopicOf("a-topic"), 0),
        (Body::Topic(topic), FLAG_ANSWER),
        (Body::NewProducer, 0),
        (Body::Producer(Producer { id: 5, epoch: 0 }), FLAG_ANSWER),
        (Body::Unsubscribe, 0),
        (
            Body::Commit(OfGroup {
                group: "g",
                items: leak(vec![to_commit]),
            }),
            0,
        ),
        (
            Body::Kept(leak(vec![Kept { code: 0 }, Kept { code: 3 }])),
            FLAG_ANSWER,
        ),
        (
            Body::OffsetsOf(OfGroup {
                group: "g",
                items: leak(vec![partition]),
            }),
            0,
        ),
        (Body::Offsets(leak(vec![committed])), FLAG_ANSWER),
        (Body::Find(Find::Leader(partition)), 0),
        (Body::Find(Find::Coordinator("g")), 0),
        (Body::Place(place), FLAG_ANSWER),
    ]
}

fn frame(body: &Body<'static>, flags: u16) -> Vec<u8> {
    let mut out = Vec::new();
    let tail = body.encode((5, 6, flags), &mut out);
    out.extend_from_slice(tail);
    out
}

fn parse(frame: &[u8]) -> Result<(Header, Body<'_>), Malformed> {
    let (head, payload) = frame
        .split_first_chunk()
        .ok_or(Malformed::Body("a header"))?;
    let header = Header::decode(head, PAYLOAD_BYTES_MAX)?;
    Ok((header, Body::decode(&header, payload)?))
}

#[test]
fn round_trip() {
    assert_eq!(samples().len(), SAMPLES);
    for (body, flags) in samples() {
        let bytes = frame(&body, flags);
        let (header, back) = parse(&bytes).unwrap();
        assert_eq!(back, body);
        assert_eq!(
            (header.stream, header.correlation, header.flags),
            (5, 6, flags)
        );
        assert_eq!(header.encode(), bytes[..HEADER_BYTES]);
    }
}

#[test]
fn the_header_is_frozen() {
    let header = Header {
        op: Op::Data,
        flags: FLAG_LAST,
        stream: 0x0102_0304,
        correlation: 0x1112_1314_1516_1718,
        length: 0x21,
    };
    let bytes = header.encode();
    let want = b"STRM\x01\x06\x02\x00\x04\x03\x02\x01\x18\x17\x16\x15\x14\x13\x12\x11\x21\0\0\0";
    assert_eq!(bytes[..24], want[..]);
    assert_eq!(bytes[24..28], [0; 4]);
    assert_eq!(bytes[28..], crc32c::crc32c(&bytes[..28]).to_le_bytes());
}

#[test]
fn every_flipped_bit_of_a_header_is_found() {
    for (body, flags) in samples() {
        let bytes = frame(&body, flags);
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_err(), "bit {bit} of {body:?}");
        }
    }
}

#[test]
fn what_is_cut_or_too_long_is_refused() {
    for (body, flags) in samples() {
        let bytes = frame(&body, flags);
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_err(), "{end} bytes of {body:?}");
        }
        let mut long = bytes.clone();
        long.push(0);
        assert!(parse(&long).is_err());
    }
    let header = Header {
        op: Op::Append,
        flags: 0,
        stream: 0,
        correlation: 0,
        length: HELLO_BYTES_MAX + 1,
    };
    let refused = Header::decode(&header.encode(), HELLO_BYTES_MAX);
    assert_eq!(refused, Err(Malformed::Length(HELLO_BYTES_MAX + 1)));
}

#[test]
fn what_is_not_understood_is_named() {
    let kafka = b"\0\0\0\x20\0\x12\0\x03aaaaaaaaaaaaaaaaaaaaaaaa";
    assert_eq!(parse(kafka), Err(Malformed::Magic));
    let seal = |mut bytes: [u8; HEADER_BYTES]| {
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    };
    let good = Header {
        op: Op::Ping,
        flags: 0,
        stream: 0,
        correlation: 1,
        length: 0,
    };
    let with = |at: usize, byte: u8| {
        let mut bytes = good.encode();
        bytes[at] = byte;
        Header::decode(&seal(bytes), 0)
    };
    assert_eq!(with(4, 2), Err(Malformed::Version(2)));
    assert_eq!(with(5, 0), Err(Malformed::Op(0)));
    for op in [7, 8, 9, 22] {
        assert_eq!(
            with(5, op),
            Err(Malformed::Op(op)),
            "not used any more, or not yet"
        );
    }
    assert_eq!(with(6, 2), Err(Malformed::Flags(2)));
    assert!(matches!(with(24, 1), Err(Malformed::Body(_))));
    assert_eq!(with(12, 1), Ok(good));
}

#[test]
fn garbage_never_panics_and_reserves_nothing() {
    let mut rng = 88_172_645_463_325_252u64;
    let mut next = || {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        rng
    };
    for round in 0..20_000u64 {
        for (body, flags) in samples().into_iter().skip(round as usize % SAMPLES).take(1) {
            let mut bytes = frame(&body, flags);
            let payload = HEADER_BYTES..bytes.len();
            for _ in 0..=next() % 4 {
                if payload.is_empty() {
                    break;
                }
                let at = payload.start + next() as usize % payload.len();
                bytes[at] = next() as u8;
            }
            let info = allocation_counter::measure(|| {
                let _ = parse(&bytes);
            });
            assert_eq!(info.count_total, 0, "decoding allocates");
        }
    }
}

#[test]
fn a_text_that_is_too_long_is_cut_at_a_character() {
    let text: &'static str = Box::leak("ä".repeat(40_000).into_boxed_str());
    let body = Body::Error(Failure::new(ErrorCode::UnknownServerError, text));
    let mut out = Vec::new();
    body.encode((0, 0, 0), &mut out);
    let (_, back) = parse(&out).unwrap();
    let Body::Error(failure) = back else {
        panic!("{back:?}")
    };
    assert_eq!(failure.text.len(), 65_534);
}
