//! Share groups: who is let in, who reads what, what comes back after a crash at any step.

use std::collections::BTreeSet;

use super::consumer::parts;
use super::sim::Rng;
use super::*;
use crate::machine::Record;

const T: TopicId = TopicId([1; 16]);

fn bench() -> Bench {
    let mut b = Bench::new();
    b.create_topic("t", 1, 4);
    b
}

fn joins(id: &str) -> ShareBeat {
    ShareBeat {
        topics: Some(vec!["t".to_owned()]),
        ..stays(id, 0)
    }
}

fn stays(id: &str, epoch: i32) -> ShareBeat {
    ShareBeat {
        id: id.to_owned(),
        epoch,
        client_id: id.to_owned(),
        client_host: "/10.0.0.1".to_owned(),
        ..ShareBeat::default()
    }
}

impl Bench {
    fn share_beat(&mut self, beat: ShareBeat) -> Result<(i32, Option<Parts>), ErrorCode> {
        let token = self.ask(Request::ShareBeat(Box::new(beat)));
        match self.take(token) {
            Reply::Beat(b) => Ok((b.epoch, b.assignment)),
            Reply::Refused(code, _) | Reply::Code(code) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    fn share(&mut self) -> Option<ShareDescription> {
        let token = self.ask(Request::DescribeShare);
        match self.take(token) {
            Reply::DescribeShare(found) => Some(*found),
            Reply::Code(ErrorCode::GroupIdNotFound) => None,
            Reply::Refused(ErrorCode::GroupIdNotFound, _) => None,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn members_share_the_partitions_of_a_topic() {
    let mut b = bench();
    assert_eq!(
        b.share_beat(joins("a")),
        Ok((1, Some(parts(&[0, 1, 2, 3]))))
    );
    let (epoch, second) = b.share_beat(joins("b")).expect("it joins");
    let second = second.expect("it is told");
    assert_eq!((epoch, second.len()), (2, 2));
    let (epoch, first) = b.share_beat(stays("a", 1)).expect("it stays");
    let first = first.expect("it is told");
    assert_eq!((epoch, first.len()), (2, 2));
    assert!(first.is_disjoint(&second));
    assert_eq!(b.share_beat(stays("a", 2)), Ok((2, None)));
    assert_eq!(
        b.share_beat(stays("a", 1)),
        Ok((2, None)),
        "its answer was lost"
    );
    assert_eq!(
        b.share_beat(stays("a", 7)),
        Err(ErrorCode::FencedMemberEpoch)
    );
    let found = b.share().expect("a group");
    assert_eq!(
        (found.state, found.assignor, found.epoch),
        ("Stable", "simple", 2)
    );
    let listed = b.coordinator.list();
    assert_eq!(
        (listed[0].kind, &*listed[0].protocol_type),
        (GroupKind::Share, "share")
    );
}

#[test]
fn there_may_be_more_members_than_partitions() {
    let mut b = bench();
    for n in 0..7 {
        b.share_beat(joins(&format!("m{n}"))).expect("it joins");
    }
    let mut read = BTreeSet::new();
    for n in 0..7 {
        let id = format!("m{n}");
        let epoch = b.share().expect("a group").members[n].epoch;
        b.share_beat(stays(&id, epoch)).expect("it stays");
        let member = &b.share().expect("a group").members[n].assigned;
        assert_eq!(member[0].2.len(), 1, "{member:?}");
        read.extend(member[0].2.iter().copied());
    }
    assert_eq!(read.len(), 4, "nothing is left unread");
}

#[test]
fn what_is_wrong_is_refused() {
    let mut b = bench();
    let refused = [
        (stays("", 0), ErrorCode::InvalidRequest),
        (stays("a", 0), ErrorCode::InvalidRequest),
        (stays("a", -2), ErrorCode::InvalidRequest),
        (stays("a", 1), ErrorCode::GroupIdNotFound),
    ];
    for (beat, code) in refused {
        assert_eq!(b.share_beat(beat), Err(code));
    }
    b.share_beat(joins("a")).expect("it joins");
    assert_eq!(b.share_beat(stays("b", 1)), Err(ErrorCode::UnknownMemberId));
    assert_eq!(
        b.share_beat(stays("b", -1)),
        Err(ErrorCode::UnknownMemberId)
    );
    assert_eq!(
        b.beat(super::consumer::joins("c")),
        Err(ErrorCode::GroupIdNotFound)
    );
    let token = b.ask(Request::Describe);
    assert_eq!(b.code(token), ErrorCode::GroupIdNotFound);
    let token = b.ask(Request::Delete);
    assert_eq!(b.code(token), ErrorCode::NonEmptyGroup);
    let token = b.ask(Request::SetShareTopics(ShareTopics::new(), vec![T]));
    assert_eq!(b.code(token), ErrorCode::NonEmptyGroup);
    // And a group of the other kind takes no such members.
    let token = b.ask_of(
        "other",
        Request::Beat(Box::new(super::consumer::joins("c"))),
    );
    b.take(token);
    let token = b.ask_of("other", Request::ShareBeat(Box::new(joins("a"))));
    assert_eq!(b.code(token), ErrorCode::GroupIdNotFound);
}

#[test]
fn who_goes_or_is_silent_is_replaced() {
    let mut b = bench();
    b.share_beat(joins("a")).expect("it joins");
    b.share_beat(joins("b")).expect("it joins");
    b.share_beat(joins("c")).expect("it joins");
    assert_eq!(b.share_beat(stays("c", -1)), Ok((-1, None)));
    b.sleep(40_000);
    let (epoch, _) = b.share_beat(stays("b", 2)).expect("it stays");
    b.sleep(10_000);
    assert_eq!(b.share_beat(stays("a", 1)), Err(ErrorCode::UnknownMemberId));
    let (_, told) = b.share_beat(stays("b", epoch)).expect("it stays");
    assert_eq!(told, Some(parts(&[0, 1, 2, 3])));
    assert_eq!(b.share_beat(stays("b", -1)), Ok((-1, None)));
    assert_eq!(b.share().expect("it stays without members").state, "Empty");
    let token = b.ask(Request::ShareTopics);
    let topics: ShareTopics = [(T, ("t".into(), vec![0, 1, 2, 3]))].into();
    assert_eq!(b.take(token), Reply::ShareTopics(topics, true));
    let token = b.ask(Request::Delete);
    assert_eq!(b.code(token), ErrorCode::None);
    assert_eq!(b.share(), None);
    assert_eq!(b.crash().share(), None);
}

#[test]
fn new_partitions_and_deleted_topics_are_seen() {
    let mut b = bench();
    b.share_beat(joins("a")).expect("it joins");
    b.change_topics(&Command::CreatePartitions { id: T, total: 5 });
    let want = Some(parts(&[0, 1, 2, 3, 4]));
    assert_eq!(b.share_beat(stays("a", 1)), Ok((2, want)));
    b.change_topics(&Command::DeleteTopic { id: T });
    assert_eq!(b.share_beat(stays("a", 2)), Ok((3, Some(parts(&[])))));
    let token = b.ask(Request::ShareTopics);
    assert_eq!(b.take(token), Reply::ShareTopics(ShareTopics::new(), false));
}

#[test]
fn records_are_read_back_and_damaged_ones_are_refused() {
    let worker = Worker {
        rack: Some("r".to_owned()),
        client_id: "c".to_owned(),
        client_host: "/1.2.3.4".to_owned(),
        topics: vec!["t".to_owned(), "u".to_owned()],
    };
    let reads = Reads {
        epoch: 5,
        previous: 4,
        assigned: parts(&[1, 2]),
    };
    let changes = [
        ShareChange::Member("m".into(), Some(Arc::new(worker))),
        ShareChange::Epoch(Some(GroupEpoch { epoch: 3, hash: 9 })),
        ShareChange::TargetEpoch(Some((3, 77))),
        ShareChange::Target("m".into(), Some(Arc::new(parts(&[1])))),
        ShareChange::Current("m".into(), Some(reads)),
        ShareChange::Topics(Some([(T, ("t".into(), vec![0, 1]))].into())),
        ShareChange::Epoch(None),
    ];
    for change in changes {
        let group = "g".into();
        let record = GroupRecord::Share { group, change };
        let (key, value) = (record.key(), record.value());
        let read = GroupRecord::decode(&key, value.as_deref());
        assert_eq!(read, Ok(Some(record)));
        let value = value.unwrap_or_default();
        for cut in 0..value.len() {
            let read = GroupRecord::decode(&key, Some(&value[..cut]));
            assert!(read.is_err(), "{value:?} cut at {cut}");
        }
    }
}

/// Members come and go around a coordinator that dies at any step; in the end all is read.
#[test]
fn a_crowd_comes_to_rest_whatever_happens() {
    for seed in 0..40 {
        let (mut rng, mut b) = (Rng::of(seed), bench());
        let mut epochs: BTreeMap<String, i32> = BTreeMap::new();
        let mut highest = 0;
        for _ in 0..80 {
            let id = format!("m{}", rng.below(5));
            match (rng.below(8), epochs.get(&id).copied()) {
                (0, _) => b = b.crash(),
                (1, Some(_)) => {
                    let gone = b.share_beat(stays(&id, -1));
                    assert!(matches!(gone, Ok(_) | Err(ErrorCode::UnknownMemberId)));
                    epochs.remove(&id);
                }
                (2, _) => b.sleep(1000 * rng.below(20)),
                (_, before) => {
                    let beat = before.map_or(joins(&id), |epoch| stays(&id, epoch));
                    match b.share_beat(beat) {
                        Ok((epoch, _)) => {
                            assert!(before.is_none_or(|e| e <= epoch), "seed {seed}");
                            epochs.insert(id, epoch);
                        }
                        Err(ErrorCode::UnknownMemberId) => drop(epochs.remove(&id)),
                        Err(code) => panic!("seed {seed}: {code:?}"),
                    }
                }
            }
            if let Some(found) = b.share() {
                assert!(found.epoch >= highest, "seed {seed}: the epoch went back");
                highest = found.epoch;
            }
        }
        for _ in 0..3 {
            for n in 0..5 {
                let id = format!("m{n}");
                if b.share_beat(joins(&id)).is_err() {
                    panic!("seed {seed}: {id} cannot join");
                }
            }
        }
        let found = b.share().expect("a group");
        let read: BTreeSet<i32> = found
            .members
            .iter()
            .flat_map(|m| m.assigned[0].2.clone())
            .collect();
        assert_eq!(read.len(), 4, "seed {seed}: {found:?}");
        assert!(
            found.members.iter().all(|m| m.epoch == found.epoch),
            "seed {seed}"
        );
    }
}
