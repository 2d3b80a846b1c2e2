//! The records' formats: what is written comes back, Kafka's bytes are understood, nonsense is
//! refused.

use proptest::prelude::*;

use super::*;

fn blob() -> impl Strategy<Value = Blob> {
    proptest::collection::vec(any::<u8>(), 0..20).prop_map(Blob::from)
}

fn member() -> impl Strategy<Value = MemberValue> {
    (
        "[a-z]{0,4}",
        proptest::option::of("[a-z]{0,4}"),
        (any::<i32>(), any::<i32>()),
        blob(),
        blob(),
    )
        .prop_map(
            |(id, instance, (rebalance_ms, session_ms), subscription, assignment)| MemberValue {
                client_id: format!("c{id}"),
                client_host: "/::1".into(),
                id,
                instance,
                rebalance_ms,
                session_ms,
                subscription,
                assignment,
            },
        )
}

fn group_value() -> impl Strategy<Value = GroupValue> {
    (
        "[a-z]{0,4}",
        any::<i32>(),
        proptest::option::of("[a-zé]{0,4}"),
        any::<i64>(),
        proptest::collection::vec(member(), 0..3),
    )
        .prop_map(
            |(protocol_type, generation, protocol, state_ms, members)| GroupValue {
                protocol_type,
                generation,
                leader: protocol.clone(),
                protocol,
                state_ms,
                members,
            },
        )
}

fn committed() -> impl Strategy<Value = Committed> {
    (
        (any::<i64>(), any::<i32>(), any::<i64>()),
        ".{0,200}",
        proptest::option::of(0..i64::MAX),
        prop_oneof![Just(TopicId::ZERO), any::<[u8; 16]>().prop_map(TopicId)],
    )
        .prop_map(
            |((offset, leader_epoch, commit_ms), metadata, expire_ms, id)| Committed {
                offset,
                // The version with an end has neither an epoch nor an id.
                leader_epoch: if expire_ms.is_some() {
                    -1
                } else {
                    leader_epoch
                },
                topic_id: if expire_ms.is_some() {
                    TopicId::ZERO
                } else {
                    id
                },
                metadata: metadata.into(),
                commit_ms,
                expire_ms,
            },
        )
}

fn record() -> impl Strategy<Value = GroupRecord> {
    let group = || "[a-c]{1,2}".prop_map(|g: String| g.into());
    prop_oneof![
        (group(), proptest::option::of(group_value()))
            .prop_map(|(group, value)| GroupRecord::Group { group, value }),
        (group(), "[t-u]", 0..3i32, proptest::option::of(committed())).prop_map(
            |(group, topic, partition, value)| GroupRecord::Offset {
                group,
                topic: topic.into(),
                partition,
                value,
            }
        ),
    ]
}

proptest! {
    #[test]
    fn round_trip(record in record()) {
        let (key, value) = (record.key(), record.value());
        prop_assert_eq!(GroupRecord::decode(&key, value.as_deref()), Ok(Some(record)));
        for end in 0..key.len() {
            prop_assert!(GroupRecord::decode(&key[..end], None).is_err(), "key cut at {}", end);
        }
        let value = value.unwrap_or_default();
        for end in 0..value.len() {
            prop_assert!(GroupRecord::decode(&key, Some(&value[..end])).is_err(), "cut at {}", end);
        }
    }

    #[test]
    fn garbage_is_refused_or_read_but_never_panics(
        kind in 0u8..4,
        version in 0u8..6,
        key in proptest::collection::vec(any::<u8>(), 0..20),
        value in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let _ = GroupRecord::decode(&key, Some(&value));
        let sane = GroupRecord::Offset {
            group: "g".into(), topic: "t".into(), partition: 0, value: None,
        };
        let mut key = sane.key();
        key[1] = kind;
        let value = [&[0, version][..], &value].concat();
        let _ = GroupRecord::decode(&key, Some(&value));
    }

    #[test]
    fn a_snapshot_is_the_fold_of_the_log(
        log in proptest::collection::vec(record(), 0..30),
        cut in 0usize..30,
    ) {
        let cut = cut.min(log.len());
        let whole = Bench::with(limits(), log.clone());
        let mut first = Coordinator::new(limits());
        log[..cut].iter().for_each(|r| first.replay(r));
        let mut second = Coordinator::new(limits());
        second.decode(&first.encode()).expect("it was just encoded");
        // A recovery may read some records again that the snapshot holds already.
        log[..cut].iter().chain(&log[cut..]).for_each(|r| second.replay(r));
        let _ = second.start(whole.now);
        prop_assert_eq!(second.encode(), whole.coordinator.encode());
        prop_assert_eq!(second.list(), whole.coordinator.list());
    }
}

#[test]
fn kafkas_bytes() {
    // An offset commit of Kafka 4.4, version 4: offset 5, epoch 7, metadata "m", time 9, an id.
    let mut value = vec![0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 7, 2, b'm'];
    value.extend([0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 16]);
    value.extend([3; 16]);
    let key = [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 2];
    let record = GroupRecord::decode(&key, Some(&value)).unwrap().unwrap();
    let GroupRecord::Offset {
        value: Some(c),
        partition: 2,
        ..
    } = &record
    else {
        panic!("{record:?}");
    };
    assert_eq!(
        (c.offset, c.leader_epoch, &*c.metadata, c.commit_ms),
        (5, 7, "m", 9)
    );
    assert_eq!((c.topic_id, c.expire_ms), (TopicId([3; 16]), None));
    assert_eq!((record.key(), record.value()), (key.to_vec(), Some(value)));
    // Version 3, which Kafka wrote before, has no id.
    let old = [
        0, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 7, 0, 1, b'm', 0, 0, 0, 0, 0, 0, 0, 9,
    ];
    let record = GroupRecord::decode(&key, Some(&old)).unwrap().unwrap();
    let GroupRecord::Offset { value: Some(c), .. } = record else {
        panic!("{record:?}");
    };
    assert_eq!(
        (c.offset, c.leader_epoch, c.topic_id),
        (5, 7, TopicId::ZERO)
    );
    // Kinds of other protocols are passed over.
    assert_eq!(GroupRecord::decode(&[0, 9, 0, 1, b'g'], None), Ok(None));
}
