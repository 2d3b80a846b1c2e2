//! Commits, and how long they are kept.

use super::*;

#[test]
fn a_commit_is_answered_when_it_is_durable_and_shown_when_it_was_answered() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    b.prompt = false;
    let committed = b.ask(Request::Commit(commit(&one, 1, 5)));
    let asked = b.ask(Request::Fetch(None));
    b.silent(committed);
    b.silent(asked);
    b.flush();
    assert_eq!(b.committed(committed), ErrorCode::None);
    let Reply::Fetch(found) = b.take(asked) else {
        panic!("not a fetch");
    };
    let kept = found[0].partitions[0].1.as_ref().unwrap();
    assert_eq!(
        (kept.offset, &*kept.metadata, kept.leader_epoch),
        (5, "m", 0)
    );
    b.prompt = true;
    let mut b = b.crash();
    assert_eq!(b.offset("t"), Some(5));
    assert_eq!(b.offset("other"), None);
}

#[test]
fn only_members_of_this_generation_commit_to_a_group_that_has_members() {
    let mut b = Bench::new();
    // Nobody's group yet: from outside it is allowed, with a generation it is not.
    assert_eq!(b.commit(commit("", -1, 1)), ErrorCode::None);
    let mut old = commit("x", 1, 2);
    assert_eq!(b.commit(old.clone()), ErrorCode::UnknownMemberId);
    old.knows_not_found = false;
    let token = b.ask_of("none", Request::Commit(old.clone()));
    assert_eq!(b.code(token), ErrorCode::IllegalGeneration);
    old.knows_not_found = true;
    let token = b.ask_of("none", Request::Commit(old));
    assert_eq!(b.code(token), ErrorCode::GroupIdNotFound);

    let one = b.stable_of_one();
    assert_eq!(b.commit(commit(&one, 1, 3)), ErrorCode::None);
    assert_eq!(b.commit(commit(&one, 2, 4)), ErrorCode::IllegalGeneration);
    assert_eq!(b.commit(commit("x", 1, 4)), ErrorCode::UnknownMemberId);
    assert_eq!(b.commit(commit("", -1, 4)), ErrorCode::UnknownMemberId);
    assert_eq!(b.offset("t"), Some(3));

    // A rebalance goes on: what was read before it may be committed until the members joined.
    let (token, _) = b.enter("b");
    assert_eq!(b.commit(commit(&one, 1, 5)), ErrorCode::None);
    let again = b.ask(Request::Join(Box::new(rejoin("a", &one))));
    assert_eq!(
        (b.joined(again).generation, b.joined(token).generation),
        (2, 2)
    );
    assert_eq!(b.commit(commit(&one, 1, 6)), ErrorCode::IllegalGeneration);
    assert_eq!(b.commit(commit(&one, 2, 6)), ErrorCode::RebalanceInProgress);
}

#[test]
fn a_commit_is_a_sign_of_life() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    for n in 0..5 {
        b.sleep(9000);
        assert_eq!(b.commit(commit(&one, 1, n)), ErrorCode::None);
    }
    b.sleep(10_000);
    assert_eq!(b.commit(commit(&one, 1, 9)), ErrorCode::UnknownMemberId);
}

#[test]
fn long_metadata_is_refused_by_itself() {
    let mut b = Bench::new();
    let mut two = commit("", -1, 1);
    two.topics[0].partitions.push(CommitPartition {
        index: 1,
        offset: 2,
        leader_epoch: -1,
        metadata: "x".repeat(11).into(),
    });
    let token = b.ask(Request::Commit(two.clone()));
    let expected = vec![(0, ErrorCode::None), (1, ErrorCode::OffsetMetadataTooLarge)];
    assert_eq!(
        b.take(token),
        Reply::Partitions(vec![("t".into(), expected)])
    );
    // Ten characters as Java counts them, though more bytes.
    two.topics[0].partitions[1].metadata = "é".repeat(10).into();
    let token = b.ask(Request::Commit(two));
    let expected = vec![(0, ErrorCode::None), (1, ErrorCode::None)];
    assert_eq!(
        b.take(token),
        Reply::Partitions(vec![("t".into(), expected)])
    );
}

#[test]
fn offsets_of_an_empty_group_go_when_it_was_empty_for_long() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    assert_eq!(b.commit(commit(&one, 1, 5)), ErrorCode::None);
    // While it has members they stay, however old.
    for _ in 0..30 {
        for _ in 0..900 {
            b.sleep(9000);
            assert_eq!(b.heartbeat(&one, 1), ErrorCode::None);
        }
    }
    assert_eq!(b.offset("t"), Some(5));
    let token = b.ask(leave(&one));
    let _ = b.take(token);
    b.sleep(99_000_000);
    assert_eq!(b.offset("t"), Some(5));
    b.sleep(2_000_000);
    assert_eq!(b.offset("t"), None);
    assert!(
        b.coordinator.list().is_empty(),
        "the group goes with its last offset"
    );
    assert!(
        b.crash().coordinator.list().is_empty(),
        "and its log says so"
    );
}

#[test]
fn offsets_without_members_go_by_the_time_of_their_commit() {
    let mut b = Bench::new();
    assert_eq!(b.commit(commit("", -1, 5)), ErrorCode::None);
    b.sleep(90_000_000);
    assert_eq!(b.commit(commit("", -1, 6)), ErrorCode::None);
    b.sleep(90_000_000);
    assert_eq!(b.offset("t"), Some(6));
    // A client of before may have said how long.
    let mut short = commit("", -1, 7);
    short.retention_ms = Some(1000);
    assert_eq!(b.commit(short), ErrorCode::None);
    b.sleep(601_000);
    assert_eq!(b.offset("t"), None);
}

#[test]
fn offsets_of_topics_that_the_group_stopped_to_read_go() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    let mut other = commit(&one, 1, 8);
    other.topics[0].name = "left".into();
    assert_eq!(b.commit(other), ErrorCode::None);
    assert_eq!(b.commit(commit(&one, 1, 5)), ErrorCode::None);
    for _ in 0..12_000 {
        b.sleep(9000);
        assert_eq!(b.heartbeat(&one, 1), ErrorCode::None);
    }
    assert_eq!((b.offset("t"), b.offset("left")), (Some(5), None));
}

#[test]
fn offsets_go_with_their_topic_and_are_not_shown_for_its_successor() {
    let mut b = Bench::new();
    let (old, new) = (TopicId([1; 16]), TopicId([2; 16]));
    let mut c = commit("", -1, 5);
    c.topics[0].id = old;
    assert_eq!(b.commit(c), ErrorCode::None);
    for (id, expected) in [(old, Some(5)), (TopicId::ZERO, Some(5)), (new, None)] {
        let token = b.ask(Request::Fetch(Some(vec![FetchTopic {
            name: "t".into(),
            id,
            partitions: vec![0],
        }])));
        let Reply::Fetch(found) = b.take(token) else {
            panic!("not a fetch");
        };
        let offset = found[0].partitions[0].1.as_ref().map(|c| c.offset);
        assert_eq!(offset, expected);
    }
    let effects = b.coordinator.drop_topics(&|_| Some(old));
    b.carry(effects);
    assert_eq!(b.offset("t"), Some(5));
    let effects = b.coordinator.drop_topics(&|_| Some(new));
    b.carry(effects);
    assert_eq!(b.offset("t"), None);
    assert_eq!(b.crash().offset("t"), None);
}
