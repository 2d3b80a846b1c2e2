//! Groups of the `consumer` protocol, a case at a time: what a heartbeat answers, who is fenced,
//! what a new target brings about, what comes back after a crash.

use super::*;

const T: TopicId = TopicId([1; 16]);

/// A coordinator with topic `t` of four partitions.
pub(super) fn bench() -> Bench {
    let mut b = Bench::new();
    b.create_topic("t", 1, 4);
    b
}

/// Partitions of `t`.
pub(super) fn parts(numbers: &[i32]) -> Parts {
    numbers.iter().map(|n| (T, *n)).collect()
}

/// A member that joins and reads `t`.
pub(super) fn joins(id: &str) -> Beat {
    Beat {
        id: id.to_owned(),
        epoch: 0,
        rebalance_ms: 30_000,
        topics: Some(vec!["t".to_owned()]),
        owned: Some(Parts::new()),
        client_id: id.to_owned(),
        client_host: "/10.0.0.1".to_owned(),
        ..Beat::default()
    }
}

/// A member that says that it is there, and what it owns.
pub(super) fn stays(id: &str, epoch: i32, owned: Option<&[i32]>) -> Beat {
    Beat {
        id: id.to_owned(),
        epoch,
        rebalance_ms: -1,
        owned: owned.map(parts),
        client_id: id.to_owned(),
        client_host: "/10.0.0.1".to_owned(),
        ..Beat::default()
    }
}

fn with_instance(beat: Beat, instance: &str) -> Beat {
    Beat {
        instance: Some(instance.to_owned()),
        ..beat
    }
}

impl Bench {
    #[track_caller]
    pub(super) fn beat(&mut self, beat: Beat) -> Result<Beaten, ErrorCode> {
        let token = self.ask(Request::Beat(Box::new(beat)));
        match self.take(token) {
            Reply::Beat(beaten) => Ok(*beaten),
            Reply::Refused(code, text) => {
                assert!(text.ends_with(['.', ')']) || text.contains('\n'), "{text}");
                Err(code)
            }
            Reply::Code(code) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    /// The epoch and what it may read, as a heartbeat tells.
    #[track_caller]
    pub(super) fn told(&mut self, beat: Beat) -> (i32, Option<Vec<i32>>) {
        let beaten = self.beat(beat).expect("an answer");
        let parts = beaten
            .assignment
            .map(|all| all.into_iter().map(|p| p.1).collect());
        (beaten.epoch, parts)
    }

    pub(super) fn modern(&mut self) -> ConsumerDescription {
        let token = self.ask(Request::DescribeConsumer);
        match self.take(token) {
            Reply::DescribeConsumer(found) => *found,
            other => panic!("{other:?}"),
        }
    }

    /// A group of `a` and `b`, with two partitions each, in epoch 2.
    pub(super) fn stable_of_two(&mut self) {
        assert_eq!(self.told(joins("a")), (1, Some(vec![0, 1, 2, 3])));
        assert_eq!(self.told(joins("b")), (2, Some(vec![])));
        assert_eq!(self.told(stays("a", 1, None)), (1, Some(vec![0, 1])));
        assert_eq!(
            self.told(stays("b", 2, None)),
            (2, None),
            "a still has them"
        );
        assert_eq!(self.told(stays("a", 1, Some(&[0, 1]))), (2, None));
        assert_eq!(self.told(stays("b", 2, None)), (2, Some(vec![2, 3])));
        assert_eq!(self.modern().state, "Stable");
    }
}

#[test]
fn a_partition_goes_over_when_it_was_given_back() {
    let mut b = bench();
    b.stable_of_two();
    let found = b.modern();
    assert_eq!(
        (found.epoch, found.target_epoch, found.assignor),
        (2, 2, "uniform")
    );
    assert_eq!(found.members[1].assigned, [(T, "t".into(), vec![2, 3])]);
    let listed = b.coordinator.list();
    assert_eq!(listed[0].kind, GroupKind::Consumer);
    assert_eq!(
        (listed[0].state, listed[0].protocol_type.as_str()),
        ("Stable", "consumer")
    );
}

#[test]
fn an_answer_waits_until_it_is_durable() {
    let mut b = bench();
    b.prompt = false;
    let token = b.ask(Request::Beat(Box::new(joins("a"))));
    b.silent(token);
    b.flush();
    assert!(matches!(b.take(token), Reply::Beat(_)));
}

#[test]
fn a_lost_answer_is_given_again_and_a_stranger_epoch_is_fenced() {
    let mut b = bench();
    b.stable_of_two();
    b.told(joins("c"));
    // The answer with epoch 3 is lost: it asks again with 2, and owns what it may keep.
    assert_eq!(b.told(stays("a", 2, Some(&[0, 1]))).0, 3);
    assert_eq!(b.beat(stays("a", 2, Some(&[0, 1]))).map(|x| x.epoch), Ok(3));
    assert_eq!(
        b.beat(stays("a", 2, None)),
        Err(ErrorCode::FencedMemberEpoch)
    );
    assert_eq!(
        b.beat(stays("a", 2, Some(&[0, 1, 2]))),
        Err(ErrorCode::FencedMemberEpoch)
    );
    assert_eq!(
        b.beat(stays("a", 1, Some(&[]))),
        Err(ErrorCode::FencedMemberEpoch)
    );
    assert_eq!(
        b.beat(stays("a", 4, None)),
        Err(ErrorCode::FencedMemberEpoch)
    );
    // Whoever was fenced begins anew under its id.
    let (epoch, parts) = b.told(joins("a"));
    assert_eq!((epoch, parts.map(|p| p.len())), (3, Some(2)));
}

#[test]
fn heartbeats_that_are_wrong_by_themselves() {
    let mut b = bench();
    let mut wrong = |beat: Beat| b.beat(beat).expect_err("it is wrong");
    let none = Beat {
        topics: None,
        ..joins("a")
    };
    let owns = Beat {
        owned: Some(parts(&[1])),
        ..joins("a")
    };
    let endless = Beat {
        rebalance_ms: -1,
        ..joins("a")
    };
    for beat in [
        joins(""),
        none,
        owns,
        endless,
        with_instance(joins("a"), ""),
    ] {
        assert_eq!(wrong(beat), ErrorCode::InvalidRequest);
    }
    assert_eq!(wrong(stays("a", -3, None)), ErrorCode::InvalidRequest);
    assert_eq!(wrong(stays("a", -2, None)), ErrorCode::InvalidRequest);
    assert_eq!(wrong(stays("a", 1, None)), ErrorCode::GroupIdNotFound);
    assert_eq!(wrong(stays("a", -1, None)), ErrorCode::GroupIdNotFound);
    let other = Beat {
        assignor: Some("mine".into()),
        ..joins("a")
    };
    assert_eq!(wrong(other), ErrorCode::UnsupportedAssignor);
    let regex = Beat {
        regex: Some("(".into()),
        ..joins("a")
    };
    assert_eq!(wrong(regex), ErrorCode::InvalidRegularExpression);
    assert!(b.coordinator.groups.is_empty(), "nothing was made");
    b.told(joins("a"));
    assert_eq!(b.beat(stays("x", 1, None)), Err(ErrorCode::UnknownMemberId));
    assert_eq!(
        b.beat(stays("x", -1, None)),
        Err(ErrorCode::UnknownMemberId)
    );
}

#[test]
fn a_group_has_so_many_members_and_no_more() {
    let mut b = bench();
    b.coordinator.ctx.limits.consumer.size_max = 1;
    b.told(joins("a"));
    assert_eq!(b.beat(joins("b")), Err(ErrorCode::GroupMaxSizeReached));
    assert_eq!(b.told(joins("a")).0, 1, "who is in may come again");
}

#[test]
fn who_is_silent_or_does_not_give_back_is_out() {
    let mut b = bench();
    b.stable_of_two();
    b.sleep(40_000);
    b.told(stays("a", 2, None));
    b.sleep(6000);
    assert_eq!(b.beat(stays("b", 2, None)), Err(ErrorCode::UnknownMemberId));
    assert_eq!(b.modern().state, "Assigning");
    assert_eq!(b.told(stays("a", 2, None)), (3, Some(vec![0, 1, 2, 3])));
    // It is heard of, but keeps what it was to give back.
    b.told(joins("b"));
    assert_eq!(b.told(stays("a", 3, None)).1, Some(vec![0, 1]));
    for _ in 0..3 {
        b.sleep(9900);
        b.told(stays("a", 3, Some(&[0, 1, 2, 3])));
    }
    b.sleep(400);
    assert_eq!(b.beat(stays("a", 3, None)), Err(ErrorCode::UnknownMemberId));
    assert_eq!(b.told(stays("b", 4, None)), (5, Some(vec![0, 1, 2, 3])));
}

#[test]
fn who_leaves_frees_what_it_had() {
    let mut b = bench();
    b.stable_of_two();
    assert_eq!(b.told(stays("a", -1, None)), (-1, None));
    assert_eq!(b.told(stays("b", 2, None)), (3, Some(vec![0, 1, 2, 3])));
    assert_eq!(b.told(stays("b", -1, None)), (-1, None));
    assert_eq!(b.modern().state, "Empty");
    let token = b.ask(Request::Delete);
    assert_eq!(b.code(token), ErrorCode::None);
    assert!(b.coordinator.groups.is_empty() && b.coordinator.ctx.member_bytes == 0);
    let b = b.crash();
    assert!(b.coordinator.groups.is_empty(), "tombstones for everything");
}

#[test]
fn a_static_member_keeps_its_part_while_it_is_away() {
    let mut b = bench();
    let all = Some(vec![0, 1, 2, 3]);
    assert_eq!(b.told(with_instance(joins("a"), "i")), (1, all.clone()));
    assert_eq!(
        b.beat(with_instance(joins("b"), "i")),
        Err(ErrorCode::UnreleasedInstanceId)
    );
    let stranger = with_instance(stays("b", -2, None), "i");
    assert_eq!(b.beat(stranger), Err(ErrorCode::FencedInstanceId));
    assert_eq!(b.told(with_instance(stays("a", -2, None), "i")).0, -2);
    b.told(joins("c"));
    let mut b = b.crash();
    // The other one does not get what the absent one has.
    assert_eq!(b.told(stays("c", 2, None)), (2, None));
    // The new process has to give back half of it.
    let (epoch, had) = b.told(with_instance(joins("b"), "i"));
    assert_eq!((epoch, had), (2, Some(vec![0, 1])));
    assert_eq!(b.told(stays("c", 2, None)), (2, Some(vec![2, 3])));
    let old = with_instance(stays("a", 1, None), "i");
    assert_eq!(b.beat(old), Err(ErrorCode::FencedInstanceId));
    let unknown = with_instance(stays("z", 1, None), "z");
    assert_eq!(b.beat(unknown), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn a_static_member_that_stays_away_is_given_up() {
    let mut b = bench();
    b.told(with_instance(joins("a"), "i"));
    b.told(joins("b"));
    b.told(with_instance(stays("a", -2, None), "i"));
    b.sleep(40_000);
    b.told(stays("b", 2, None));
    b.sleep(6000);
    assert_eq!(b.told(stays("b", 2, None)), (3, Some(vec![0, 1, 2, 3])));
}

#[test]
fn topics_that_come_grow_and_go() {
    let mut b = bench();
    let beat = Beat {
        regex: Some("u-.*".into()),
        ..joins("a")
    };
    assert_eq!(b.told(beat).1, Some(vec![0, 1, 2, 3]));
    b.change_topics(&Command::CreatePartitions { id: T, total: 5 });
    assert_eq!(b.modern().state, "Assigning");
    assert_eq!(b.told(stays("a", 1, None)), (2, Some(vec![0, 1, 2, 3, 4])));
    b.create_topic("other", 2, 3);
    assert_eq!(b.told(stays("a", 2, None)), (2, None), "nobody reads it");
    b.create_topic("u-1", 3, 1);
    assert_eq!(b.told(stays("a", 2, None)).1.map(|p| p.len()), Some(6));
    let mut b = b.crash();
    assert_eq!(b.told(stays("a", 3, None)), (3, None));
    b.change_topics(&Command::DeleteTopic { id: T });
    assert_eq!(
        b.told(stays("a", 3, None)),
        (3, Some(vec![0])),
        "it gives back first"
    );
    let beat = Beat {
        owned: Some([(TopicId([3; 16]), 0)].into()),
        ..stays("a", 3, None)
    };
    assert_eq!(b.told(beat).0, 4);
}

#[test]
fn topics_that_changed_while_nobody_coordinated() {
    let mut b = bench();
    b.told(joins("a"));
    let mut image = ClusterImage::clone(&b.image);
    image.apply(&Command::CreatePartitions { id: T, total: 6 });
    b.image = Arc::new(image);
    let mut b = b.crash();
    assert_eq!(b.told(stays("a", 1, None)).1.map(|p| p.len()), Some(6));
}

#[test]
fn a_change_of_the_subscription_or_assignor_brings_a_new_target() {
    let mut b = bench();
    b.create_topic("u", 2, 1);
    b.told(joins("a"));
    let beat = Beat {
        topics: Some(vec!["u".into(), "t".into()]),
        ..stays("a", 1, None)
    };
    assert_eq!(b.told(beat).1.map(|p| p.len()), Some(5));
    let beat = Beat {
        assignor: Some("range".into()),
        ..stays("a", 2, None)
    };
    assert_eq!(b.told(beat).0, 3);
    assert_eq!(b.modern().assignor, "range");
    // The same once more changes nothing.
    let beat = Beat {
        assignor: Some("range".into()),
        ..stays("a", 3, None)
    };
    assert_eq!(b.told(beat), (3, None));
}

#[test]
fn offsets_are_committed_and_read_in_the_members_own_epoch() {
    let mut b = bench();
    b.stable_of_two();
    assert_eq!(b.commit(commit("a", 2, 7)), ErrorCode::None);
    assert_eq!(b.commit(commit("a", 1, 8)), ErrorCode::StaleMemberEpoch);
    assert_eq!(b.commit(commit("a", 3, 8)), ErrorCode::StaleMemberEpoch);
    assert_eq!(b.commit(commit("x", 2, 8)), ErrorCode::UnknownMemberId);
    assert_eq!(b.commit(commit("", -1, 8)), ErrorCode::UnknownMemberId);
    let old = Commit {
        knows_not_found: false,
        ..commit("a", 1, 8)
    };
    assert_eq!(b.commit(old), ErrorCode::UnsupportedVersion);
    assert_eq!(b.offset("t"), Some(7));
    let mut fetch = |id: &str, epoch| {
        let token = b.ask(Request::FetchAs(id.to_owned(), epoch, None));
        match b.take(token) {
            Reply::Fetch(_) => ErrorCode::None,
            Reply::Code(code) => code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fetch("a", 2), ErrorCode::None);
    assert_eq!(fetch("a", 1), ErrorCode::StaleMemberEpoch);
    assert_eq!(fetch("x", 2), ErrorCode::UnknownMemberId);
    let token = b.ask(Request::DeleteOffsets(vec![("t".into(), vec![0])]));
    assert_eq!(b.committed(token), ErrorCode::GroupSubscribedToTopic);
    let token = b.ask(Request::Delete);
    assert_eq!(b.code(token), ErrorCode::NonEmptyGroup);
}

#[test]
fn offsets_stay_while_members_read_the_topic_and_go_with_the_group() {
    let mut b = bench();
    b.stable_of_two();
    b.commit(commit("a", 2, 7));
    for _ in 0..6 {
        for _ in 0..500 {
            b.sleep(40_000);
            b.told(stays("a", 2, None));
            b.told(stays("b", 2, None));
        }
    }
    assert_eq!(b.offset("t"), Some(7), "they are read, however old");
    b.told(stays("a", -1, None));
    b.told(stays("b", -1, None));
    b.sleep(1_000_000);
    assert!(
        b.coordinator.groups.is_empty(),
        "{:?}",
        b.coordinator.groups
    );
}

#[test]
fn a_group_has_settings_of_its_own() {
    let mut b = bench();
    let change = |name: &str, value: &str| crate::meta::ConfigChange {
        name: name.to_owned(),
        value: Some(value.to_owned()),
    };
    b.change_topics(&Command::AlterGroup {
        group: G.to_owned(),
        changes: vec![
            change("consumer.heartbeat.interval.ms", "7000"),
            change("consumer.session.timeout.ms", "60000"),
        ],
    });
    assert_eq!(b.beat(joins("a")).map(|x| x.interval_ms), Ok(7000));
    b.sleep(59_000);
    assert_eq!(b.told(stays("a", 1, None)).0, 1);
    b.sleep(61_000);
    assert_eq!(b.beat(stays("a", 1, None)), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn the_other_describe_does_not_know_it() {
    let mut b = bench();
    b.told(joins("a"));
    let token = b.ask(Request::Describe);
    assert_eq!(b.code(token), ErrorCode::GroupIdNotFound);
    let mut c = Bench::new();
    c.stable_of_one();
    let token = c.ask(Request::DescribeConsumer);
    assert!(matches!(
        c.take(token),
        Reply::Refused(ErrorCode::GroupIdNotFound, _)
    ));
}

#[test]
fn offsets_in_transactions_are_checked_with_the_codes_of_transactions() {
    let mut b = bench();
    b.stable_of_two();
    let mut commit = |commit: Commit| {
        let token = b.ask(Request::TxnCommit(TxnCommit {
            producer: 1,
            epoch: 0,
            guard: None,
            commit,
        }));
        b.committed(token)
    };
    assert_eq!(commit(super::commit("a", 2, 7)), ErrorCode::None);
    assert_eq!(
        commit(super::commit("a", 1, 7)),
        ErrorCode::IllegalGeneration
    );
    assert_eq!(commit(super::commit("x", 2, 7)), ErrorCode::UnknownMemberId);
    // A producer that names no member may.
    assert_eq!(commit(super::commit("", -1, 8)), ErrorCode::None);
}
