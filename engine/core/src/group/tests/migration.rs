//! A live group moves from the classic to the `consumer` protocol and back.

use super::consumer::{bench, joins};
use super::*;
use crate::group::embedded::{assignment, put_assignment};

fn bytes(partitions: &[i32]) -> Blob {
    put_assignment(1, &[("t", partitions.to_vec())].into())
}

impl Bench {
    /// A classic group of `a`, which has all of `t`. Its id.
    fn classic_of_one(&mut self) -> String {
        let (token, id) = self.enter("a");
        self.sleep(3000);
        let generation = self.joined(token).generation;
        let all = bytes(&[0, 1, 2, 3]);
        let token = self.ask(sync(&id, generation, &[(&id, &all)]));
        assert_eq!(self.code(token), ErrorCode::None);
        id
    }

    /// A classic member joins, as what it answers at once.
    fn joins_classic(&mut self, name: &str, id: &str, owned: Option<(i32, &[i32])>) -> Joined {
        let mut join = rejoin(name, id);
        if let Some((generation, owned)) = owned {
            // Version 2 says what it owns, and since when.
            let mut said = vec![
                0, 2, 0, 0, 0, 1, 0, 1, b't', 255, 255, 255, 255, 0, 0, 0, 1, 0, 1, b't',
            ];
            said.extend((owned.len() as i32).to_be_bytes());
            said.extend(owned.iter().flat_map(|p| p.to_be_bytes()));
            said.extend(generation.to_be_bytes());
            join.protocols = vec![("range".to_owned(), said.into())];
        }
        let token = self.ask(Request::Join(Box::new(join)));
        self.joined(token)
    }

    fn syncs(&mut self, id: &str, generation: i32) -> Result<Vec<i32>, ErrorCode> {
        let token = self.ask(sync(id, generation, &[]));
        match self.take(token) {
            Reply::Sync(synced) => {
                let topics = assignment(&synced.assignment).expect("an assignment");
                Ok(topics.into_iter().flat_map(|t| t.1).collect())
            }
            Reply::Code(code) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    /// A group with one member of each protocol, two partitions each. The classic one's id and
    /// generation.
    fn mixed(&mut self) -> (String, i32) {
        let id = self.classic_of_one();
        self.commit(commit(&id, 1, 42));
        // The classic member has everything until it gives back.
        let (epoch, parts) = self.told(joins("n"));
        assert_eq!((epoch, parts), (2, Some(vec![])));
        assert_eq!(self.heartbeat(&id, 1), ErrorCode::RebalanceInProgress);
        let joined = self.joins_classic("a", &id, None);
        assert_eq!((joined.error, joined.generation), (None, 2));
        assert_eq!(
            (joined.protocol.as_deref(), joined.leader.as_str()),
            (Some("range"), "")
        );
        let mine = self.syncs(&id, 2).expect("a part");
        assert_eq!(mine.len(), 2);
        let beat = Beat {
            id: "n".into(),
            epoch: 2,
            rebalance_ms: -1,
            ..Beat::default()
        };
        assert_eq!(self.told(beat).1.map(|p| p.len()), Some(2));
        assert_eq!(self.modern().state, "Stable");
        (id, 2)
    }
}

#[test]
fn up_when_the_first_new_member_comes_and_down_when_the_last_goes() {
    let mut b = bench();
    let (id, generation) = b.mixed();
    assert_eq!(b.offset("t"), Some(42), "offsets stay");
    assert_eq!(b.heartbeat(&id, generation), ErrorCode::None);
    assert_eq!(b.commit(commit(&id, generation, 43)), ErrorCode::None);
    assert_eq!(b.commit(commit(&id, 1, 44)), ErrorCode::IllegalGeneration);
    let mut b = b.crash();
    assert_eq!(b.heartbeat(&id, generation), ErrorCode::None);
    let leaves = Beat {
        id: "n".into(),
        epoch: -1,
        ..Beat::default()
    };
    assert_eq!(b.told(leaves).0, -1);
    assert_eq!(b.state().state, "PreparingRebalance");
    assert_eq!(b.heartbeat(&id, generation), ErrorCode::RebalanceInProgress);
    let joined = b.joins_classic("a", &id, None);
    assert_eq!(joined.error, None);
    assert!(
        joined.generation > generation && joined.leader == id,
        "{joined:?}"
    );
    let all = bytes(&[0, 1, 2, 3]);
    let token = b.ask(sync(&id, joined.generation, &[(&id, &all)]));
    assert_eq!(b.code(token), ErrorCode::None);
    assert_eq!((b.state().state, b.offset("t")), ("Stable", Some(43)));
    // And up again.
    assert_eq!(b.told(joins("n")).1, Some(vec![]));
}

#[test]
fn a_crash_before_the_rebalance_is_through_makes_everybody_join_again() {
    let mut b = bench();
    let (id, generation) = b.mixed();
    let leaves = Beat {
        id: "n".into(),
        epoch: -1,
        ..Beat::default()
    };
    b.told(leaves);
    let mut b = b.crash();
    assert_eq!(b.heartbeat(&id, generation), ErrorCode::IllegalGeneration);
    let joined = b.joins_classic("a", &id, None);
    assert!(joined.generation > generation, "{joined:?}");
}

#[test]
fn a_cooperative_member_gives_back_in_two_rounds() {
    let mut b = bench();
    let id = b.classic_of_one();
    b.told(joins("n"));
    let joined = b.joins_classic("a", &id, Some((1, &[0, 1, 2, 3])));
    assert_eq!(joined.generation, 1, "it has to give back first");
    let kept = b.syncs(&id, 1).expect("what it keeps");
    assert_eq!(kept.len(), 2);
    assert_eq!(b.heartbeat(&id, 1), ErrorCode::RebalanceInProgress);
    let joined = b.joins_classic("a", &id, Some((1, &kept)));
    assert_eq!(joined.generation, 2);
    assert_eq!(b.syncs(&id, 2), Ok(kept));
    assert_eq!(b.heartbeat(&id, 2), ErrorCode::None);
}

#[test]
fn a_classic_member_joins_a_consumer_group() {
    let mut b = bench();
    b.told(joins("n"));
    let first = b.ask(Request::Join(Box::new(join("a"))));
    let joined = b.joined(first);
    assert_eq!(joined.error, Some(ErrorCode::MemberIdRequired));
    let joined = b.joins_classic("a", &joined.id, None);
    assert_eq!((joined.error, joined.generation), (None, 2));
    let id = joined.id;
    assert_eq!(b.syncs(&id, 2), Ok(vec![]), "the other one has everything");
    let beat = Beat {
        id: "n".into(),
        epoch: 1,
        rebalance_ms: -1,
        ..Beat::default()
    };
    assert_eq!(b.told(beat.clone()).1.map(|p| p.len()), Some(2));
    assert_eq!(b.heartbeat(&id, 2), ErrorCode::None, "it has to wait");
    let owned = Some([(TopicId([1; 16]), 0), (TopicId([1; 16]), 1)].into());
    assert_eq!(b.told(Beat { owned, ..beat }).0, 2);
    assert_eq!(
        b.heartbeat(&id, 2),
        ErrorCode::RebalanceInProgress,
        "now it is free"
    );
    assert_eq!(b.joins_classic("a", &id, None).generation, 2);
    assert_eq!(b.syncs(&id, 2).map(|p| p.len()), Ok(2));
}

#[test]
fn classic_members_are_checked_as_in_a_classic_group() {
    let mut b = bench();
    let (id, _) = b.mixed();
    assert_eq!(b.heartbeat("x", 2), ErrorCode::UnknownMemberId);
    assert_eq!(
        b.heartbeat("n", 2),
        ErrorCode::UnknownMemberId,
        "it is of the other kind"
    );
    assert_eq!(b.heartbeat(&id, 1), ErrorCode::IllegalGeneration);
    assert_eq!(b.syncs(&id, 1), Err(ErrorCode::IllegalGeneration));
    let join = Join {
        protocol_type: "connect".into(),
        ..rejoin("a", &id)
    };
    let token = b.ask(Request::Join(Box::new(join)));
    assert_eq!(b.join_error(token), ErrorCode::InconsistentGroupProtocol);
    let join = Join {
        protocols: vec![("mine".into(), subscription(&["t"]))],
        ..rejoin("c", "c")
    };
    let token = b.ask(Request::Join(Box::new(join)));
    assert_eq!(b.join_error(token), ErrorCode::InconsistentGroupProtocol);
    let join = Join {
        protocols: vec![("range".into(), [1].as_slice().into())],
        ..rejoin("c", "c")
    };
    let token = b.ask(Request::Join(Box::new(join)));
    assert_eq!(b.join_error(token), ErrorCode::InconsistentGroupProtocol);
    let token = b.ask(leave("x"));
    assert!(
        matches!(b.take(token), Reply::Leave(codes) if codes[0].1 == ErrorCode::UnknownMemberId)
    );
    let token = b.ask(leave(&id));
    assert!(matches!(b.take(token), Reply::Leave(codes) if codes[0].1 == ErrorCode::None));
    assert_eq!(b.modern().members.len(), 1);
}

#[test]
fn a_classic_member_that_does_not_sync_or_join_again_is_out() {
    let mut b = bench();
    let (id, _) = b.mixed();
    assert_eq!(b.joins_classic("a", &id, None).generation, 2);
    // It is heard of all the time, and never syncs.
    for _ in 0..4 {
        b.sleep(9000);
        let beat = Beat {
            id: "n".into(),
            epoch: 2,
            rebalance_ms: -1,
            ..Beat::default()
        };
        let _ = b.beat(beat);
        let _ = b.heartbeat(&id, 2);
    }
    assert_eq!(b.heartbeat(&id, 2), ErrorCode::UnknownMemberId);
}

#[test]
fn policies_forbid_to_move() {
    let mut b = bench();
    b.coordinator.ctx.limits.consumer.upgrade = false;
    b.classic_of_one();
    assert_eq!(b.beat(joins("n")), Err(ErrorCode::GroupIdNotFound));
    assert_eq!(b.state().state, "Stable", "it stays what it is");
    let mut b = bench();
    b.mixed();
    b.coordinator.ctx.limits.consumer.downgrade = false;
    b.told(Beat {
        id: "n".into(),
        epoch: -1,
        ..Beat::default()
    });
    assert_eq!(b.modern().members.len(), 1);
}

#[test]
fn a_group_that_is_no_consumers_stays_what_it_is() {
    let mut b = bench();
    let connect = Join {
        protocol_type: "connect".into(),
        id_required: false,
        ..join("a")
    };
    b.ask(Request::Join(Box::new(connect)));
    assert_eq!(b.beat(joins("n")), Err(ErrorCode::GroupIdNotFound));
    // A classic member's instance is not released to another protocol while it lives.
    let mut b = bench();
    let who = Who {
        id: String::new(),
        instance: Some("i".into()),
    };
    b.ask(Request::Join(Box::new(Join { who, ..join("a") })));
    let beat = Beat {
        instance: Some("i".into()),
        ..joins("n")
    };
    assert_eq!(b.beat(beat), Err(ErrorCode::UnreleasedInstanceId));
}

#[test]
fn an_empty_group_takes_the_protocol_of_the_next_member() {
    let mut b = bench();
    b.told(joins("n"));
    b.told(Beat {
        id: "n".into(),
        epoch: -1,
        ..Beat::default()
    });
    b.classic_of_one();
    assert_eq!(b.state().state, "Stable");
    let id = b.state().members[0].who.id.clone();
    let token = b.ask(leave(&id));
    b.take(token);
    assert_eq!(b.told(joins("n")).1, Some(vec![0, 1, 2, 3]));
    let mut b = b.crash();
    assert_eq!(b.modern().members.len(), 1);
}

#[test]
fn who_waits_in_a_classic_rebalance_joins_again_in_the_new_group() {
    let mut b = bench();
    let (token, _) = b.enter("a");
    b.silent(token);
    b.told(joins("n"));
    assert_eq!(b.join_error(token), ErrorCode::RebalanceInProgress);
    assert_eq!(b.modern().members.len(), 2);
}

#[test]
fn a_static_member_comes_back_with_the_other_protocol() {
    let mut b = bench();
    let beat = Beat {
        instance: Some("i".into()),
        ..joins("n")
    };
    b.told(beat);
    let who = Who {
        id: String::new(),
        instance: Some("i".into()),
    };
    let token = b.ask(Request::Join(Box::new(Join { who, ..join("a") })));
    b.sleep(3000);
    assert_eq!(b.joined(token).error, None);
    assert_eq!(b.state().members.len(), 1, "the group is a classic one");
}
