//! Appends, and offsets of groups.

use std::time::Duration;

use super::*;

#[test]
fn batches_for_many_partitions_are_answered_one_by_one() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 2).await;
        let mut peer = Peer::connect(&broker).await;
        let topic = peer.topic("t").await;
        let one = || batch(&broker, 3, 10);
        let [a, b, none] = [0, 1, 2].map(|i| partition(topic, i));
        let done = peer.append(&[(a, one()), (b, one()), (a, one())]).await;
        assert_eq!(done, [(0, 0), (0, 0), (0, 3)]);
        let mut torn = one();
        let at = torn.len() - 1;
        torn[at] ^= 1;
        let stranger = partition(TopicId([9; 16]), 0);
        let two = [one(), one()].concat();
        let mix = [
            (none, one()),
            (b, torn),
            (stranger, one()),
            (b, Vec::new()),
            (b, two),
            (b, one()),
        ];
        let done = peer.append(&mix).await;
        let codes: Vec<i16> = done.iter().map(|d| d.0).collect();
        assert_eq!(codes, [3, 2, 100, 87, 87, 0]);
        assert_eq!(done[5].1, 3, "what was refused left no trace");
    });
}

#[test]
fn a_batch_that_is_sent_again_is_there_once() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 2).await;
        let mut peer = Peer::connect(&broker).await;
        let topic = peer.topic("t").await;
        let came = peer.ask(0, &Body::NewProducer).await;
        let Body::Producer(producer) = came.body() else {
            panic!("{:?}", came.body())
        };
        let record = NewRecord {
            timestamp: broker.shard.env.wall_ms(),
            key: None,
            value: Some(b"v"),
        };
        let numbered = |sequence| {
            let writer = Writer {
                id: producer.id,
                epoch: producer.epoch,
                sequence,
            };
            build(std::slice::from_ref(&record), writer)
        };
        for index in 0..2 {
            let p = partition(topic, index);
            assert_eq!(peer.append(&[(p, numbered(0))]).await, [(0, 0)]);
            assert_eq!(peer.append(&[(p, numbered(0))]).await, [(0, 0)], "again");
            assert_eq!(peer.append(&[(p, numbered(1))]).await, [(0, 1)]);
            assert_eq!(peer.append(&[(p, numbered(5))]).await[0].0, 45, "a gap");
        }
    });
}

#[test]
fn appends_overlap_and_are_in_order() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 1).await;
        let mut peer = Peer::connect(&broker).await;
        let p = partition(peer.topic("t").await, 0);
        let list = batches_of(&[(p, batch(&broker, 1, 100))]);
        let append = Append {
            acks: -1,
            batches: List::decode(&list).unwrap(),
        };
        let mut ids = Vec::new();
        for _ in 0..100 {
            ids.push(peer.send(0, &Body::Append(append)).await);
        }
        let mut answers = Vec::new();
        for _ in &ids {
            let came = peer.next().await.unwrap();
            let Body::Appended(list) = came.body() else {
                panic!("{:?}", came.body())
            };
            answers.push((came.header.correlation, list.iter().next().unwrap().base));
        }
        answers.sort_unstable();
        let expected: Vec<_> = ids.into_iter().zip(0..).collect();
        assert_eq!(answers, expected);
        broker.shard.env.sleep(Duration::from_secs(1)).await;
        assert_eq!(broker.requests.used(), 0);
    });
}

#[test]
fn without_acks_nothing_is_answered_and_a_failure_ends_the_connection() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 1).await;
        let mut peer = Peer::connect(&broker).await;
        let p = partition(peer.topic("t").await, 0);
        for good in [true, false] {
            let mut bytes = batch(&broker, 1, 10);
            if !good {
                bytes[30] ^= 1;
            }
            let list = batches_of(&[(p, bytes)]);
            let append = Append {
                acks: 0,
                batches: List::decode(&list).unwrap(),
            };
            peer.send(0, &Body::Append(append)).await;
            if good {
                assert_eq!(peer.ask(0, &Body::Ping).await.body(), Body::Ping);
            }
        }
        assert_eq!(peer.next().await.unwrap().code(), 2);
        assert!(peer.next().await.is_none());
    });
}

#[test]
fn a_group_keeps_its_offsets() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 2).await;
        let mut peer = Peer::connect(&broker).await;
        let topic = peer.topic("t").await;
        let (a, none) = (partition(topic, 1), partition(topic, 2));
        let stranger = partition(TopicId([9; 16]), 0);
        let commit = |partition, offset| ToCommit {
            partition,
            offset,
            metadata: "here",
        };
        let list = List::encode([commit(none, 1), commit(a, 7), commit(stranger, 1)]);
        let ask = OfGroup {
            group: "g",
            items: List::decode(&list).unwrap(),
        };
        let came = peer.ask(0, &Body::Commit(ask)).await;
        let Body::Kept(kept) = came.body() else {
            panic!("{:?}", came.body())
        };
        let codes: Vec<i16> = kept.iter().map(|k| k.code).collect();
        assert_eq!(codes, [3, 0, 100]);
        let list = List::encode([stranger, a, partition(topic, 0)]);
        let ask = OfGroup {
            group: "g",
            items: List::decode(&list).unwrap(),
        };
        let came = peer.ask(0, &Body::OffsetsOf(ask)).await;
        let Body::Offsets(list) = came.body() else {
            panic!("{:?}", came.body())
        };
        let found: Vec<_> = list
            .iter()
            .map(|c| (c.code, c.offset, c.metadata))
            .collect();
        assert_eq!(found, [(100, -1, ""), (0, 7, "here"), (0, -1, "")]);
    });
}
