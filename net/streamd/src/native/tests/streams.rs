//! Subscriptions: what is pushed, when, and how much.

use std::time::Duration;

use super::*;
use crate::kafka::tests::start;
use streamd_io::sim::{Sim, SimOptions, each_seed};

#[test]
fn what_is_appended_is_pushed_from_either_core() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 2).await;
        let mut reader = Peer::connect(&broker).await;
        let mut writer = Peer::connect(&broker).await;
        let topic = reader.topic("t").await;
        for index in 0..2 {
            let p = partition(topic, index);
            writer.append(&[(p, batch(&broker, 2, 10))]).await;
            let stream = 7 + index as u32;
            let begun = reader.subscribe(stream, from(p, EARLIEST, 1 << 20)).await;
            assert_eq!((begun.start, begun.high, begun.from), (0, 2, 0));
            let (of, base, records) = reader.data().await;
            assert_eq!((of, base, walk(&records)), (stream, 0, vec![(0, 2)]));
        }
        for n in 1..20 {
            for index in 0..2 {
                let p = partition(topic, index);
                writer.append(&[(p, batch(&broker, 2, 10))]).await;
                let (of, base, records) = reader.data().await;
                assert_eq!((of, base), (7 + index as u32, n * 2));
                assert_eq!(walk(&records), [(n * 2, n * 2 + 2)]);
            }
        }
        let p = partition(topic, 0);
        let begun = reader.subscribe(9, from(p, LATEST, 1 << 20)).await;
        assert_eq!(begun.from, 40);
        let ask = from(p, 41, 1 << 20);
        let came = reader.ask(10, &Body::Subscribe(ask)).await;
        assert_eq!(
            (came.code(), came.header.flags),
            (1, FLAG_ANSWER | FLAG_LAST)
        );
        let again = reader.ask(9, &Body::Subscribe(from(p, 0, 1))).await;
        assert_eq!(again.code(), 42, "the number is taken");
    });
}

#[test]
fn no_more_is_sent_than_there_is_credit_for() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 2).await;
        let mut peer = Peer::connect(&broker).await;
        let topic = peer.topic("t").await;
        for index in 0..2 {
            let p = partition(topic, index);
            let size = batch(&broker, 1, 100).len() as u64;
            for _ in 0..20 {
                peer.append(&[(p, batch(&broker, 1, 100))]).await;
            }
            peer.append(&[(p, batch(&broker, 1, 9000))]).await;
            peer.append(&[(p, batch(&broker, 1, 100))]).await;
            let stream = 1 + index as u32;
            let window = size * 3 + size / 2;
            peer.subscribe(stream, from(p, EARLIEST, window)).await;
            let (mut sent, mut taken, mut at) = (0, 0, 0);
            while at < 22 {
                let (_, base, records) = peer.data().await;
                assert_eq!(base, at);
                sent += records.len() as u64;
                let alone = walk(&records).len() == 1 && taken == sent - records.len() as u64;
                assert!(sent - taken <= window || alone, "{sent} {taken} {window}");
                at = walk(&records).last().unwrap().1;
                if sent - taken + size > window {
                    let quiet = async {
                        broker.shard.env.sleep(Duration::from_millis(50)).await;
                        true
                    };
                    let more = async {
                        peer.next().await;
                        false
                    };
                    assert!(futures_lite::future::or(quiet, more).await, "beyond credit");
                }
                taken = sent;
                peer.send(stream, &Body::Credit(Credit { taken })).await;
            }
        }
    });
}

/// Batches that memory does not hold any more, small ones and large ones, from any offset on, with
/// any credit: whole, in order, from the very batch.
#[test]
fn what_is_in_files_comes_in_whole_batches() {
    each_seed(6, |seed| {
        Sim::new(seed, SimOptions::default()).run(|env| async move {
            let broker = start(&env, Vec::new().into_iter().collect()).await;
            create(&broker, "t", 2).await;
            let below = |n: u64| env.random_u64() % n;
            let mut peer = Peer::connect(&broker).await;
            let topic = peer.topic("t").await;
            let mut all = [Vec::new(), Vec::new()];
            while all[0].len() + all[1].len() < 300 {
                let index = below(2) as i32;
                let (count, bytes) = (1 + below(3) as usize, [20, 700, 30_000][below(3) as usize]);
                let one = batch(&broker, count, bytes);
                let base = peer.append(&[(partition(topic, index), one)]).await[0].1;
                all[index as usize].push((base, base + count as i64));
            }
            for round in 0..12u32 {
                let index = round as usize % 2;
                let all = &all[index];
                let end = all.last().unwrap().1;
                let first = below(end as u64) as i64;
                let credit = 1 + below(200_000);
                let stream = 1 + round;
                let p = partition(topic, index as i32);
                peer.subscribe(stream, from(p, first, credit)).await;
                let (mut at, mut taken) = (first, 0);
                let mut expected = all.iter().filter(|b| b.1 > first);
                while at < end {
                    let (of, base, records) = peer.data().await;
                    assert_eq!((of, base), (stream, at));
                    let batches = walk(&records);
                    for one in &batches {
                        assert_eq!(Some(one), expected.next());
                    }
                    assert!(records.len() as u64 <= credit || batches.len() == 1);
                    at = batches.last().expect("a batch").1;
                    taken += records.len() as u64;
                    peer.send(stream, &Body::Credit(Credit { taken })).await;
                }
                peer.ask(stream, &Body::Unsubscribe).await;
            }
        });
    });
}

#[test]
fn an_end_of_a_subscription_leaves_nothing_behind() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 2).await;
        let mut peer = Peer::connect(&broker).await;
        let mut writer = Peer::connect(&broker).await;
        let topic = peer.topic("t").await;
        for round in 0..20u32 {
            for index in 0..2 {
                let p = partition(topic, index);
                let stream = 1 + round % 3 * 2 + index as u32;
                peer.subscribe(stream, from(p, LATEST, 1 << 20)).await;
                let list = batches_of(&[(p, batch(&broker, 1, 10))]);
                let append = Append {
                    acks: -1,
                    batches: List::decode(&list).unwrap(),
                };
                writer.send(0, &Body::Append(append)).await;
                if round % 2 == 0 {
                    peer.data().await;
                }
                // In the middle of a push, or while it waits.
                peer.send(stream, &Body::Unsubscribe).await;
                while !matches!(peer.next().await.unwrap().body(), Body::Unsubscribe) {}
                writer.next().await.unwrap();
                assert_eq!(peer.ask(0, &Body::Ping).await.body(), Body::Ping, "no more");
            }
        }
        assert_eq!(broker.streams.used(), 0);
        for index in 0..2 {
            let ask = from(partition(topic, index), EARLIEST, 1);
            peer.subscribe(100 + index as u32, ask).await;
            // It comes between any two frames: before the next answer here.
            peer.data().await;
        }
        drop(peer);
        broker.shard.env.sleep(Duration::from_secs(1)).await;
        assert_eq!(broker.streams.used(), 0, "nor of a connection that ended");
    });
}

#[test]
fn a_topic_that_is_deleted_ends_its_streams() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 2).await;
        let mut peer = Peer::connect(&broker).await;
        let topic = peer.topic("t").await;
        for index in 0..2 {
            let ask = from(partition(topic, index), LATEST, 1 << 20);
            peer.subscribe(1 + index as u32, ask).await;
        }
        crate::kafka::tests::delete(&broker, "t").await;
        let mut ended = Vec::new();
        for _ in 0..2 {
            let came = peer.next().await.unwrap();
            assert_eq!((came.code(), came.header.flags), (3, FLAG_LAST));
            ended.push(came.header.stream);
        }
        ended.sort_unstable();
        assert_eq!(ended, [1, 2]);
        assert_eq!(broker.streams.used(), 0);
    });
}
