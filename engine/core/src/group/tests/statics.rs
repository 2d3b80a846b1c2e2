//! Static members: an instance keeps its place while its process changes.

use super::*;

fn instance(id: &str, instance: &str) -> Who {
    Who {
        id: id.to_owned(),
        instance: Some(instance.to_owned()),
    }
}

/// A static member without an id.
fn join_as(name: &str, new_id: &str) -> Join {
    Join {
        who: instance("", name),
        new_id: new_id.to_owned(),
        ..join(name)
    }
}

/// Two static members in a stable group, the first one leads.
fn two() -> Bench {
    let mut b = Bench::new();
    let first = b.ask(Request::Join(Box::new(join_as("i1", "i1-a"))));
    let second = b.ask(Request::Join(Box::new(join_as("i2", "i2-a"))));
    b.sleep(6000);
    assert_eq!(
        (b.joined(first).members.len(), b.joined(second).generation),
        (2, 1)
    );
    let first = b.ask(sync("i1-a", 1, &[("i1-a", b"x"), ("i2-a", b"y")]));
    let second = b.ask(sync("i2-a", 1, &[]));
    assert_eq!(
        (b.code(first), b.code(second)),
        (ErrorCode::None, ErrorCode::None)
    );
    b
}

#[test]
fn a_restart_keeps_the_assignment_and_fences_the_old_process() {
    let mut b = two();
    b.prompt = false;
    let token = b.ask(Request::Join(Box::new(join_as("i2", "i2-b"))));
    b.silent(token);
    b.flush();
    b.prompt = true;
    let joined = b.joined(token);
    assert_eq!(
        (joined.error, joined.generation, joined.id.as_str()),
        (None, 1, "i2-b")
    );
    assert!(!joined.skip_assignment && joined.members.is_empty());
    let token = b.ask(sync("i2-b", 1, &[]));
    let Reply::Sync(synced) = b.take(token) else {
        panic!("not a sync");
    };
    assert_eq!(&synced.assignment[..], b"y");
    // The others notice nothing.
    assert_eq!(b.heartbeat("i1-a", 1), ErrorCode::None);
    let old = Request::Heartbeat {
        who: instance("i2-a", "i2"),
        generation: 1,
    };
    let token = b.ask(old.clone());
    assert_eq!(b.code(token), ErrorCode::FencedInstanceId);
    let fenced = Commit {
        who: instance("i2-a", "i2"),
        ..commit("", 1, 9)
    };
    assert_eq!(b.commit(fenced), ErrorCode::FencedInstanceId);
    // So it is after a crash.
    let mut b = b.crash();
    let token = b.ask(old);
    assert_eq!(b.code(token), ErrorCode::FencedInstanceId);
    assert_eq!(b.heartbeat("i2-b", 1), ErrorCode::None);
}

#[test]
fn a_leader_that_restarts_need_not_assign() {
    for can_skip in [true, false] {
        let mut b = two();
        let mut back = join_as("i1", "i1-b");
        back.can_skip = can_skip;
        let token = b.ask(Request::Join(Box::new(back)));
        let joined = b.joined(token);
        assert_eq!((joined.generation, joined.skip_assignment), (1, can_skip));
        // A client that does not know that it may skip is not told that it leads.
        let (leader, members) = if can_skip { ("i1-b", 2) } else { ("i1-a", 0) };
        assert_eq!(
            (joined.leader.as_str(), joined.members.len()),
            (leader, members)
        );
        let token = b.ask(sync("i1-b", 1, &[]));
        assert_eq!(b.code(token), ErrorCode::None);
        assert_eq!(b.heartbeat("i2-a", 1), ErrorCode::None);
    }
}

#[test]
fn a_waiting_member_is_fenced_when_its_instance_joins_anew() {
    let mut b = two();
    let again = b.ask(Request::Join(Box::new(Join {
        who: instance("i1-a", "i1"),
        ..join("i1")
    })));
    b.silent(again);
    let other = b.ask(Request::Join(Box::new(join_as("i1", "i1-b"))));
    assert_eq!(b.join_error(again), ErrorCode::FencedInstanceId);
    b.silent(other);
    let last = b.ask(Request::Join(Box::new(Join {
        who: instance("i2-a", "i2"),
        ..join("i2")
    })));
    assert_eq!(
        (b.joined(other).generation, b.joined(last).generation),
        (2, 2)
    );
}

#[test]
fn static_members_may_miss_a_rebalance_until_their_session_ends() {
    let mut b = two();
    let (token, three) = b.enter("c");
    let again = b.ask(Request::Join(Box::new(Join {
        who: instance("i1-a", "i1"),
        session_ms: 60_000,
        ..join("i1")
    })));
    // i2 is down: the others wait for it until its session of 10 s is over.
    b.sleep(9999);
    b.silent(token);
    b.sleep(1);
    let (first, second) = (b.joined(again), b.joined(token));
    assert_eq!((first.members.len(), second.generation), (2, 2));
    assert_eq!(second.id, three);
}

#[test]
fn an_operator_removes_a_static_member_by_its_instance() {
    let mut b = two();
    let gone = vec![
        Leaver {
            who: instance("", "i2"),
        },
        Leaver {
            who: instance("", "i9"),
        },
        Leaver {
            who: instance("i1-x", "i1"),
        },
    ];
    let token = b.ask(Request::Leave(gone));
    let Reply::Leave(codes) = b.take(token) else {
        panic!("not a leave");
    };
    let codes: Vec<_> = codes.into_iter().map(|c| c.1).collect();
    let expected = [
        ErrorCode::None,
        ErrorCode::UnknownMemberId,
        ErrorCode::FencedInstanceId,
    ];
    assert_eq!(codes, expected);
    assert_eq!(b.heartbeat("i1-a", 1), ErrorCode::RebalanceInProgress);
}
