//! Offsets that are committed in transactions.

use super::*;

fn txn(producer: i64, offset: i64, generation: i32) -> Request {
    Request::TxnCommit(TxnCommit {
        producer,
        epoch: 0,
        guard: None,
        commit: Commit {
            who: Who::default(),
            generation,
            retention_ms: None,
            knows_not_found: false,
            topics: vec![CommitTopic {
                name: "t".into(),
                id: TopicId::ZERO,
                partitions: vec![CommitPartition {
                    index: 0,
                    offset,
                    leader_epoch: -1,
                    metadata: "".into(),
                }],
            }],
        },
    })
}

fn committed(b: &mut Bench) -> (Option<i64>, bool) {
    let wanted = FetchTopic {
        name: "t".into(),
        id: TopicId::ZERO,
        partitions: vec![0],
    };
    let token = b.ask(Request::Fetch(Some(vec![wanted])));
    match b.replies.remove(&token) {
        Some(Reply::Fetch(found)) => {
            let offset = found[0].partitions[0].1.as_ref().map(|c| c.offset);
            (offset, found[0].unstable == [0])
        }
        other => panic!("{other:?}"),
    }
}

/// A marker is appended, and durable at once.
fn mark(b: &mut Bench, producer: i64, commit: bool) {
    let seq = b.coordinator.marker(producer, commit);
    let effects = b.coordinator.persisted(seq);
    b.carry(effects);
}

#[test]
fn they_are_pending_until_the_marker() {
    let mut b = Bench::new();
    let token = b.ask(txn(1, 5, -1));
    assert!(matches!(&b.replies[&token], Reply::Partitions(p) if p[0].1 == [(0, ErrorCode::None)]));
    b.ask(txn(2, 7, -1));
    assert_eq!(committed(&mut b), (None, true));
    mark(&mut b, 1, true);
    assert_eq!(committed(&mut b), (Some(5), true));
    mark(&mut b, 2, false);
    assert_eq!(committed(&mut b), (Some(5), false));
    // A marker of somebody who has nothing here changes nothing.
    mark(&mut b, 3, true);
    assert_eq!(committed(&mut b), (Some(5), false));
}

#[test]
fn the_order_is_that_of_the_markers() {
    let mut b = Bench::new();
    b.ask(txn(1, 5, -1));
    b.ask(txn(2, 7, -1));
    mark(&mut b, 2, true);
    mark(&mut b, 1, true);
    assert_eq!(committed(&mut b), (Some(5), false));
}

#[test]
fn whoever_is_no_member_is_refused_and_a_checkpoint_keeps_what_is_pending() {
    let mut b = Bench::new();
    let token = b.ask(txn(1, 5, 3));
    assert_eq!(b.replies[&token], Reply::Code(ErrorCode::IllegalGeneration));
    b.ask(txn(1, 6, -1));
    let bytes = b.coordinator.encode();
    let mut again = Coordinator::new(limits());
    again.decode(&bytes).unwrap();
    assert_eq!(again.encode(), bytes);
    let _ = again.start(b.now);
    b.coordinator = again;
    assert_eq!(committed(&mut b), (None, true));
    mark(&mut b, 1, true);
    assert_eq!(committed(&mut b), (Some(6), false));
}

#[test]
fn nobody_sees_an_offset_before_its_marker_is_durable() {
    let mut b = Bench::new();
    b.ask(txn(1, 5, -1));
    let seq = b.coordinator.marker(1, true);
    let token = b.ask(Request::Fetch(None));
    assert!(!b.replies.contains_key(&token));
    let effects = b.coordinator.persisted(seq);
    b.carry(effects);
    assert!(b.replies.contains_key(&token));
}
