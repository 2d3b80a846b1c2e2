//! What operators ask: delete groups, delete offsets, list.

use super::*;

fn delete(b: &mut Bench) -> ErrorCode {
    let token = b.ask(Request::Delete);
    b.code(token)
}

fn delete_offset(b: &mut Bench, topic: &str) -> Reply {
    let token = b.ask(Request::DeleteOffsets(vec![(topic.into(), vec![0])]));
    b.take(token)
}

#[test]
fn a_group_is_deleted_when_it_has_no_members() {
    let mut b = Bench::new();
    assert_eq!(delete(&mut b), ErrorCode::GroupIdNotFound);
    let one = b.stable_of_one();
    assert_eq!(b.commit(commit(&one, 1, 5)), ErrorCode::None);
    assert_eq!(delete(&mut b), ErrorCode::NonEmptyGroup);
    let token = b.ask(leave(&one));
    let _ = b.take(token);
    // Nobody is told that it is gone before that is durable.
    b.prompt = false;
    let (deleted, asked) = (b.ask(Request::Delete), b.ask(Request::Fetch(None)));
    let described = b.ask(Request::Describe);
    b.silent(deleted);
    b.silent(asked);
    b.silent(described);
    b.flush();
    b.prompt = true;
    assert_eq!(b.code(deleted), ErrorCode::None);
    assert_eq!(b.take(asked), Reply::Fetch(Vec::new()));
    assert_eq!(b.code(described), ErrorCode::GroupIdNotFound);
    let mut b = b.crash();
    assert_eq!((b.offset("t"), b.coordinator.list().len()), (None, 0));
}

#[test]
fn offsets_are_deleted_unless_members_read_the_topic() {
    let mut b = Bench::new();
    let gone = Reply::Code(ErrorCode::GroupIdNotFound);
    assert_eq!(delete_offset(&mut b, "t"), gone);
    let one = b.stable_of_one();
    let mut other = commit(&one, 1, 8);
    other.topics[0].name = "other".into();
    assert_eq!(b.commit(other), ErrorCode::None);
    assert_eq!(b.commit(commit(&one, 1, 5)), ErrorCode::None);
    let answer = |code| Reply::Partitions(vec![("t".into(), vec![(0, code)])]);
    assert_eq!(
        delete_offset(&mut b, "t"),
        answer(ErrorCode::GroupSubscribedToTopic)
    );
    assert!(matches!(
        delete_offset(&mut b, "other"),
        Reply::Partitions(_)
    ));
    assert_eq!((b.offset("t"), b.offset("other")), (Some(5), None));
    let token = b.ask(leave(&one));
    let _ = b.take(token);
    assert_eq!(delete_offset(&mut b, "t"), answer(ErrorCode::None));
    assert_eq!(b.offset("t"), None);
}

#[test]
fn other_kinds_of_groups_keep_their_offsets_while_they_have_members() {
    let mut b = Bench::new();
    let connect = Join {
        protocol_type: "connect".to_owned(),
        protocols: vec![("compatible".to_owned(), [9].as_slice().into())],
        id_required: false,
        ..join("w")
    };
    let token = b.ask(Request::Join(Box::new(connect)));
    b.sleep(3000);
    assert_eq!(b.joined(token).error, None);
    assert_eq!(
        delete_offset(&mut b, "t"),
        Reply::Code(ErrorCode::NonEmptyGroup)
    );
}

#[test]
fn all_groups_are_listed_with_their_states() {
    let mut b = Bench::new();
    let _ = b.stable_of_one();
    let token = b.ask_of("a-simple-one", Request::Commit(commit("", -1, 1)));
    assert_eq!(b.committed(token), ErrorCode::None);
    let token = b.ask_of("z", Request::Join(Box::new(join("z"))));
    assert_eq!(b.join_error(token), ErrorCode::MemberIdRequired);
    let list = b.coordinator.list();
    let found: Vec<_> = list
        .iter()
        .map(|g| (&*g.group, g.protocol_type.as_str(), g.state))
        .collect();
    let expected = [
        ("a-simple-one", "", "Empty"),
        ("g", "consumer", "Stable"),
        ("z", "", "Empty"),
    ];
    assert_eq!(found, expected);
}
