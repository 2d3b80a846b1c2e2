//! Members that come, rebalance, and go.

use super::*;

#[test]
fn a_member_gets_its_id_waits_and_leads() {
    let mut b = Bench::new();
    let (token, id) = b.enter("a");
    assert_eq!(id, "a-id");
    b.sleep(2999);
    b.silent(token);
    assert_eq!(b.state().state, "PreparingRebalance");
    b.sleep(1);
    let joined = b.joined(token);
    assert_eq!((joined.error, joined.generation), (None, 1));
    assert_eq!(joined.protocol.as_deref(), Some("range"));
    assert_eq!(joined.members, vec![(who(&id), subscription(&["t"]))]);
    assert_eq!(b.state().state, "CompletingRebalance");
    b.prompt = false;
    let token = b.ask(sync(&id, 1, &[(&id, b"all")]));
    b.silent(token);
    b.flush();
    let Reply::Sync(synced) = b.take(token) else {
        panic!("not a sync");
    };
    assert_eq!(
        (synced.error, &synced.assignment[..]),
        (ErrorCode::None, &b"all"[..])
    );
    b.prompt = true;
    let found = b.state();
    assert_eq!((found.state, found.protocol.as_str()), ("Stable", "range"));
    assert_eq!(&found.members[0].assignment[..], b"all");
    assert_eq!(b.heartbeat(&id, 1), ErrorCode::None);
}

#[test]
fn the_first_rebalance_waits_for_those_who_come_but_not_for_ever() {
    let mut limits = limits();
    limits.members_max = 1000;
    let mut b = Bench::with(limits, Vec::new());
    let mut tokens = Vec::new();
    // Somebody comes every second, for longer than a rebalance may take.
    for n in 0..40 {
        tokens.push(b.enter(&format!("m{n:02}")).0);
        b.sleep(1000);
        if b.replies.contains_key(&tokens[0]) {
            break;
        }
    }
    assert!((29..=31).contains(&tokens.len()), "{} waited", tokens.len());
    for token in tokens {
        assert_eq!(b.joined(token).generation, 1);
    }
}

#[test]
fn a_second_member_makes_the_first_one_join_again() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    let (token, two) = b.enter("b");
    b.silent(token);
    assert_eq!(b.heartbeat(&one, 1), ErrorCode::RebalanceInProgress);
    let stale = b.ask(sync(&one, 1, &[]));
    assert_eq!(b.code(stale), ErrorCode::RebalanceInProgress);
    let again = b.ask(Request::Join(Box::new(rejoin("a", &one))));
    let (first, second) = (b.joined(again), b.joined(token));
    assert_eq!((first.generation, second.generation), (2, 2));
    assert_eq!((first.members.len(), second.members.len()), (2, 0));
    assert_eq!(second.leader, one);
    // The follower syncs first and waits for the leader.
    let follows = b.ask(sync(&two, 2, &[]));
    b.silent(follows);
    let leads = b.ask(sync(
        &one,
        2,
        &[(&one, b"x"), (&two, b"y"), ("nobody", b"z")],
    ));
    for (token, part) in [(leads, b"x"), (follows, b"y")] {
        let Reply::Sync(synced) = b.take(token) else {
            panic!("not a sync");
        };
        assert_eq!(&synced.assignment[..], part);
    }
    assert_eq!(b.heartbeat(&one, 1), ErrorCode::IllegalGeneration);
    assert_eq!(b.heartbeat("nobody", 2), ErrorCode::UnknownMemberId);
}

#[test]
fn a_silent_member_is_given_up_and_the_rest_rebalances() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    let (token, two) = b.enter("b");
    let again = b.ask(Request::Join(Box::new(rejoin("a", &one))));
    assert_eq!(
        (b.joined(again).generation, b.joined(token).generation),
        (2, 2)
    );
    let first = b.ask(sync(&one, 2, &[(&one, b"x"), (&two, b"y")]));
    let second = b.ask(sync(&two, 2, &[]));
    assert_eq!(
        (b.code(first), b.code(second)),
        (ErrorCode::None, ErrorCode::None)
    );
    for _ in 0..4 {
        b.sleep(3000);
        assert!([ErrorCode::None, ErrorCode::RebalanceInProgress].contains(&b.heartbeat(&one, 2)));
    }
    assert_eq!(b.heartbeat(&one, 2), ErrorCode::RebalanceInProgress);
    assert_eq!(b.heartbeat(&two, 2), ErrorCode::UnknownMemberId);
    let again = b.ask(Request::Join(Box::new(rejoin("a", &one))));
    let joined = b.joined(again);
    assert_eq!((joined.generation, joined.members.len()), (3, 1));
}

#[test]
fn who_does_not_join_again_in_time_is_out() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    let (token, _) = b.enter("b");
    // The first one lives, but never joins.
    for _ in 0..9 {
        b.sleep(3000);
        assert_eq!(b.heartbeat(&one, 1), ErrorCode::RebalanceInProgress);
        b.silent(token);
    }
    b.sleep(3000);
    let joined = b.joined(token);
    assert_eq!((joined.generation, joined.members.len()), (2, 1));
    assert_eq!(b.heartbeat(&one, 1), ErrorCode::UnknownMemberId);
}

#[test]
fn who_does_not_sync_is_out() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    let (token, two) = b.enter("b");
    let again = b.ask(Request::Join(Box::new(rejoin("a", &one))));
    assert_eq!(
        (b.joined(again).generation, b.joined(token).generation),
        (2, 2)
    );
    // The leader never assigns; the other one waits for it, and may.
    let waits = b.ask(sync(&two, 2, &[]));
    for _ in 0..9 {
        b.sleep(3000);
        assert_eq!(b.heartbeat(&one, 2), ErrorCode::None);
        b.silent(waits);
    }
    b.sleep(3000);
    assert_eq!(b.code(waits), ErrorCode::RebalanceInProgress);
    assert_eq!(b.heartbeat(&one, 2), ErrorCode::UnknownMemberId);
    let again = b.ask(Request::Join(Box::new(rejoin("b", &two))));
    let joined = b.joined(again);
    assert_eq!((joined.generation, joined.leader), (3, two));
}

#[test]
fn leaving_is_noticed_at_once_and_the_last_one_leaves_an_empty_group() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    let token = b.ask(leave("nobody"));
    assert_eq!(
        b.take(token),
        Reply::Leave(vec![(who("nobody"), ErrorCode::UnknownMemberId)])
    );
    let token = b.ask(leave(&one));
    assert_eq!(
        b.take(token),
        Reply::Leave(vec![(who(&one), ErrorCode::None)])
    );
    let found = b.state();
    assert_eq!((found.state, found.members.len()), ("Empty", 0));
    let Some(GroupRecord::Group {
        value: Some(value), ..
    }) = b.log.last()
    else {
        panic!("{:?}", b.log.last());
    };
    assert_eq!(
        (value.generation, &value.protocol, value.members.len()),
        (2, &None, 0)
    );
    // The next generation goes on from there.
    let (token, _) = b.enter("b");
    b.sleep(3000);
    assert_eq!(b.joined(token).generation, 3);
}

#[test]
fn bad_requests_get_kafkas_codes() {
    let mut b = Bench::new();
    for ms in [5999, 60_001, -1] {
        let late = Join {
            session_ms: ms,
            ..join("a")
        };
        let token = b.ask(Request::Join(Box::new(late)));
        assert_eq!(b.join_error(token), ErrorCode::InvalidSessionTimeout);
    }
    let token = b.ask_of("", Request::Join(Box::new(join("a"))));
    assert_eq!(b.join_error(token), ErrorCode::InvalidGroupId);
    let token = b.ask(Request::Join(Box::new(rejoin("a", "nobody"))));
    assert_eq!(b.join_error(token), ErrorCode::UnknownMemberId);
    let none = Join {
        protocols: Vec::new(),
        ..join("a")
    };
    let token = b.ask(Request::Join(Box::new(none)));
    assert_eq!(b.join_error(token), ErrorCode::InconsistentGroupProtocol);
    let one = b.stable_of_one();
    let other = Join {
        protocols: vec![("sticky".to_owned(), Blob::default())],
        ..join("b")
    };
    let token = b.ask(Request::Join(Box::new(other)));
    assert_eq!(b.join_error(token), ErrorCode::InconsistentGroupProtocol);
    let connect = Join {
        protocol_type: "connect".to_owned(),
        ..join("b")
    };
    let token = b.ask(Request::Join(Box::new(connect)));
    assert_eq!(b.join_error(token), ErrorCode::InconsistentGroupProtocol);
    let wrong = Request::Sync(Sync {
        who: who(&one),
        generation: 1,
        protocol_type: Some("connect".to_owned()),
        protocol: None,
        assignments: Vec::new(),
    });
    let token = b.ask(wrong);
    assert_eq!(b.code(token), ErrorCode::InconsistentGroupProtocol);
    let token = b.ask(sync(&one, 7, &[]));
    assert_eq!(b.code(token), ErrorCode::IllegalGeneration);
}

#[test]
fn the_protocol_with_most_votes_of_those_that_all_know_is_chosen() {
    let mut b = Bench::new();
    let wants = |name: &str, protocols: &[&str]| {
        let protocols = protocols.iter().map(|p| ((*p).to_owned(), Blob::default()));
        Join {
            protocols: protocols.collect(),
            id_required: false,
            ..join(name)
        }
    };
    let mut tokens = Vec::new();
    for (name, protocols) in [
        ("a", &["own", "range", "sticky"][..]),
        ("b", &["sticky", "range"]),
        ("c", &["sticky", "range"]),
    ] {
        tokens.push(b.ask(Request::Join(Box::new(wants(name, protocols)))));
    }
    b.sleep(7000);
    for token in tokens {
        assert_eq!(b.joined(token).protocol.as_deref(), Some("sticky"));
    }
}

#[test]
fn a_full_group_takes_nobody() {
    let mut limits = limits();
    limits.members_max = 1;
    let mut b = Bench::with(limits, Vec::new());
    let one = b.stable_of_one();
    let token = b.ask(Request::Join(Box::new(join("b"))));
    assert_eq!(b.join_error(token), ErrorCode::GroupMaxSizeReached);
    assert_eq!(b.heartbeat(&one, 1), ErrorCode::None);
}

#[test]
fn metadata_without_bounds_is_refused() {
    let mut b = Bench::new();
    let huge: Blob = vec![0; 33 << 20].into();
    let token = b.ask(Request::Join(Box::new(Join {
        protocols: vec![("range".to_owned(), huge)],
        ..join("a")
    })));
    assert_eq!(b.join_error(token), ErrorCode::InvalidRequest);
    // Ids that were given out are bounded as well, and so is the time that they are kept.
    for n in 0..10_000 {
        let token = b.ask(Request::Join(Box::new(join(&format!("p{n}")))));
        assert_eq!(b.join_error(token), ErrorCode::MemberIdRequired);
    }
    let token = b.ask(Request::Join(Box::new(join("one-more"))));
    assert_eq!(b.join_error(token), ErrorCode::GroupMaxSizeReached);
    b.sleep(10_000);
    assert!(b.coordinator.list().is_empty(), "nobody came back");
}

#[test]
fn a_client_that_goes_away_while_it_waits_can_come_back_or_is_given_up() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    let (token, two) = b.enter("b");
    let effects = b.coordinator.gone(b.now, token);
    b.carry(effects);
    // It is not waited for longer than its session.
    let again = b.ask(Request::Join(Box::new(rejoin("a", &one))));
    b.sleep(9999);
    b.silent(again);
    b.sleep(1);
    assert_eq!(b.joined(again).members.len(), 1);
    b.silent(token);
    // Another one comes back in time, on another connection.
    let token = b.ask(sync(&one, 2, &[(&one, b"x")]));
    assert_eq!(b.code(token), ErrorCode::None);
    let (lost, three) = b.enter("c");
    let effects = b.coordinator.gone(b.now, lost);
    b.carry(effects);
    let back = b.ask(Request::Join(Box::new(rejoin("c", &three))));
    let again = b.ask(Request::Join(Box::new(rejoin("a", &one))));
    assert_eq!(b.joined(back).generation, 3);
    assert_eq!(b.joined(again).members.len(), 2);
    b.silent(lost);
    assert_eq!(b.heartbeat(&two, 2), ErrorCode::UnknownMemberId);
}

#[test]
fn a_member_that_asks_twice_gets_the_second_answer() {
    let mut b = Bench::new();
    let (first, id) = b.enter("a");
    let second = b.ask(Request::Join(Box::new(rejoin("a", &id))));
    assert_eq!(b.join_error(first), ErrorCode::RebalanceInProgress);
    b.sleep(6000);
    assert_eq!(b.joined(second).generation, 1);
    // Its answer was lost: it gets the same one again.
    let third = b.ask(Request::Join(Box::new(rejoin("a", &id))));
    assert_eq!(b.joined(third).generation, 1);
}

#[test]
fn members_survive_a_crash_of_the_coordinator() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    let mut b = b.crash();
    assert_eq!(b.heartbeat(&one, 1), ErrorCode::None);
    let token = b.ask(sync(&one, 1, &[]));
    let Reply::Sync(synced) = b.take(token) else {
        panic!("not a sync");
    };
    assert_eq!(&synced.assignment[..], b"all");
    // One that is not heard of any more is given up, as before.
    b.sleep(10_000);
    assert_eq!(b.state().state, "Empty");
}

#[test]
fn when_the_log_is_lost_everybody_is_told() {
    let mut b = Bench::new();
    let one = b.stable_of_one();
    let (token, _) = b.enter("b");
    b.prompt = false;
    let waits = b.ask(Request::Commit(commit(&one, 1, 5)));
    let effects = b.coordinator.fail(ErrorCode::CoordinatorNotAvailable);
    b.carry(effects);
    assert_eq!(b.code(waits), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(b.code(token), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(b.heartbeat(&one, 1), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(b.coordinator.next_tick(), None);
}
