//! What nobody should send: the broker refuses it, and others go on.

use std::time::Duration;

use super::*;

#[test]
fn random_frames_are_answered_or_refused() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 1).await;
        let env = broker.shard.env.clone();
        let (mut answered, mut ended) = (0, 0);
        let p = partition(Peer::connect(&broker).await.topic("t").await, 0);
        for round in 0..600u64 {
            let mut peer = Peer::connect(&broker).await;
            let list = batches_of(&[(p, batch(&broker, 1, 10))]);
            let offset = ToCommit {
                partition: p,
                offset: 1,
                metadata: "m",
            };
            let (offset, place) = (List::encode([offset]), List::encode([p]));
            let (group, acks) = ("g", -1);
            let bodies = [
                Body::Append(Append {
                    acks,
                    batches: List::decode(&list).unwrap(),
                }),
                Body::Subscribe(from(p, 0, 100)),
                Body::Credit(Credit { taken: 0 }),
                Body::Unsubscribe,
                Body::TopicOf("t"),
                Body::NewProducer,
                Body::Commit(OfGroup {
                    group,
                    items: List::decode(&offset).unwrap(),
                }),
                Body::OffsetsOf(OfGroup {
                    group,
                    items: List::decode(&place).unwrap(),
                }),
                Body::Find(Find::Leader(p)),
                Body::Find(Find::Coordinator("g")),
                Body::Control(b"what nodes say"),
            ];
            let mut bytes = Vec::new();
            let body = &bodies[round as usize % bodies.len()];
            let tail = body.encode((1, 5, 0), &mut bytes);
            bytes.extend_from_slice(tail);
            for _ in 0..env.random_u64() % 4 {
                let at = env.random_u64() as usize % bytes.len();
                bytes[at] = env.random_u64() as u8;
            }
            if env.random_u64() % 4 > 0 {
                // What is behind a header that is right.
                bytes[..5].copy_from_slice(b"STRM\x01");
                let length = (bytes.len() - HEADER_BYTES) as u32;
                bytes[20..24].copy_from_slice(&length.to_le_bytes());
                let crc = crc(&bytes[..28]);
                bytes[28..32].copy_from_slice(&crc.to_le_bytes());
            }
            peer.send_raw(bytes).await;
            let ping = peer.send(0, &Body::Ping).await;
            loop {
                match peer.next().await {
                    Some(came) if came.header.correlation == ping => {
                        answered += 1;
                        break;
                    }
                    Some(_) => {}
                    None => {
                        ended += 1;
                        break;
                    }
                }
            }
        }
        assert!(answered > 50 && ended > 50, "{answered} {ended}");
        env.sleep(Duration::from_secs(10)).await;
        assert_eq!((broker.requests.used(), broker.streams.used()), (0, 0));
        Peer::connect(&broker).await.topic("t").await;
    });
}

/// CRC-32C, bit by bit.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes
        .iter()
        .fold(!0, |crc, &b| (0..8).fold(crc ^ u32::from(b), step))
}

#[test]
fn a_length_that_is_not_meant_takes_no_memory() {
    with_broker(&[], |broker| async move {
        let mut peer = Peer::connect(&broker).await;
        let header = |length| Header {
            op: Op::Append,
            flags: 0,
            stream: 0,
            correlation: 1,
            length,
        };
        let most = broker.request_bytes_max as u32;
        peer.send_raw(header(most).encode().to_vec()).await;
        broker.shard.env.sleep(Duration::from_secs(1)).await;
        assert!(broker.requests.used() <= 256 << 10, "got as bytes come");
        drop(peer);
        let mut peer = Peer::connect(&broker).await;
        peer.send_raw(header(most + 1).encode().to_vec()).await;
        assert_eq!(peer.next().await.unwrap().code(), 42);
        assert!(peer.next().await.is_none());
    });
}

#[test]
fn credit_for_what_was_never_sent_ends_the_stream() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 1).await;
        let mut peer = Peer::connect(&broker).await;
        let p = partition(peer.topic("t").await, 0);
        let none = peer.ask(1, &Body::Subscribe(from(p, 0, 0))).await;
        assert_eq!(none.code(), 42, "no credit at all");
        let zero = peer.ask(0, &Body::Subscribe(from(p, 0, 1))).await;
        assert_eq!(zero.code(), 42, "no stream");
        peer.subscribe(1, from(p, 0, u64::MAX)).await;
        peer.send(1, &Body::Credit(Credit { taken: u64::MAX }))
            .await;
        let came = peer.next().await.unwrap();
        assert_eq!((came.code(), came.header.flags), (42, FLAG_LAST));
        // Of a stream that is not there: it may have ended.
        peer.send(1, &Body::Credit(Credit { taken: 1 })).await;
        peer.append(&[(p, batch(&broker, 1, 10))]).await;
        peer.subscribe(1, from(p, 0, u64::MAX)).await;
        let (_, _, records) = peer.data().await;
        assert_eq!(walk(&records), [(0, 1)]);
    });
}

#[test]
fn who_never_reads_holds_little_and_up_nobody() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 2).await;
        let mut lazy = Peer::connect(&broker).await;
        let mut writer = Peer::connect(&broker).await;
        let topic = writer.topic("t").await;
        for n in 0..60 {
            let p = partition(topic, n % 2);
            writer.append(&[(p, batch(&broker, 1, 100_000))]).await;
        }
        for stream in 1..60 {
            let p = partition(topic, stream as i32 % 2);
            let ask = Body::Subscribe(from(p, EARLIEST, u64::MAX));
            lazy.send(stream, &ask).await;
        }
        for _ in 0..2000 {
            // Its answers are not read either: it is not read on.
            let asking = async {
                lazy.send(0, &Body::Ping).await;
            };
            let late = broker.shard.env.sleep(Duration::from_millis(1));
            futures_lite::future::or(asking, late).await;
        }
        broker.shard.env.sleep(Duration::from_secs(5)).await;
        let mut reader = Peer::connect(&broker).await;
        reader
            .subscribe(1, from(partition(topic, 0), 0, 1 << 20))
            .await;
        let (mut at, mut taken) = (0, 0);
        while at < 30 {
            let (_, base, records) = reader.data().await;
            assert_eq!(base, at);
            at = walk(&records).last().unwrap().1;
            taken += records.len() as u64;
            reader.send(1, &Body::Credit(Credit { taken })).await;
        }
        drop(lazy);
        broker.shard.env.sleep(Duration::from_secs(5)).await;
        assert_eq!(broker.streams.used(), 4 << 10, "the reader's alone");
    });
}
