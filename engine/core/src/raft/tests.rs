//! A quorum with a network that loses nothing: each guard on its own. Bad networks and disks are
//! in `tests/` of this crate.

use std::collections::{BTreeMap, VecDeque};

use ::raft::eraftpb::Message;
use proptest::prelude::*;
use streamd_model::NodeId;

use super::record::Record;
use super::*;

struct Member {
    quorum: Quorum,
    disk: Vec<Vec<u8>>,
    /// What was applied: the sum of a snapshot is its text.
    state: String,
    reads: Vec<u64>,
    broken: bool,
}

struct Bench {
    members: BTreeMap<i32, Member>,
    wire: VecDeque<(i32, Vec<u8>)>,
    loses_longer_than: usize,
    lost: usize,
}

fn options(node: i32) -> Options {
    Options {
        node: NodeId(node),
        seed: 7,
        election_ticks: 10,
        heartbeat_ticks: 2,
    }
}

impl Bench {
    fn new(voters: &[i32]) -> Bench {
        let mut bench = Bench {
            members: BTreeMap::new(),
            wire: VecDeque::new(),
            loses_longer_than: usize::MAX,
            lost: 0,
        };
        let nodes: Vec<NodeId> = voters.iter().map(|v| NodeId(*v)).collect();
        for &voter in voters {
            bench.start(voter, vec![Quorum::bootstrap(&nodes, b"0".to_vec())]);
        }
        bench
    }

    fn start(&mut self, node: i32, disk: Vec<Vec<u8>>) {
        let quorum = Quorum::open(options(node), disk.iter().map(Vec::as_slice)).unwrap();
        let member = Member {
            quorum,
            disk,
            state: String::new(),
            reads: Vec::new(),
            broken: false,
        };
        self.members.insert(node, member);
        self.carry(node);
    }

    fn restart(&mut self, node: i32) {
        let disk = self.members.remove(&node).unwrap().disk;
        self.start(node, disk);
    }

    fn carry(&mut self, node: i32) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        loop {
            let outputs = member.quorum.outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Send { to, bytes } => self.wire.push_back((to.0, bytes)),
                    Output::Persist {
                        number,
                        record,
                        anew,
                    } => {
                        if anew {
                            member.disk.clear();
                        }
                        member.disk.push(record);
                        member.quorum.persisted(number);
                    }
                    Output::Apply { data, .. } => {
                        member.state.push_str(std::str::from_utf8(&data).unwrap());
                    }
                    Output::Restore { data, .. } => member.state = String::from_utf8(data).unwrap(),
                    Output::Read { token, .. } => member.reads.push(token),
                    Output::Compact => member.quorum.compact(member.state.clone().into_bytes()),
                    Output::Broken(_) => member.broken = true,
                    Output::Members(_) | Output::Role(_) => {}
                }
            }
        }
    }

    fn quiet(&mut self) {
        while let Some((to, bytes)) = self.wire.pop_front() {
            if bytes.len() > self.loses_longer_than {
                self.lost += 1;
                continue;
            }
            if let Some(member) = self.members.get_mut(&to) {
                member.quorum.step(&bytes).unwrap();
                self.carry(to);
            }
        }
    }

    fn ticks(&mut self, ticks: usize) {
        for _ in 0..ticks {
            let nodes: Vec<i32> = self.members.keys().copied().collect();
            for node in nodes {
                self.members.get_mut(&node).unwrap().quorum.tick();
                self.carry(node);
            }
            self.quiet();
        }
    }

    fn leader(&self) -> i32 {
        let leading = |m: &&i32| self.members[m].quorum.role().leads;
        let leaders: Vec<&i32> = self.members.keys().filter(leading).collect();
        assert_eq!(leaders.len(), 1, "leaders: {leaders:?}");
        *leaders[0]
    }

    fn at(&mut self, node: i32, act: impl FnOnce(&mut Quorum)) {
        act(&mut self.members.get_mut(&node).unwrap().quorum);
        self.carry(node);
        self.quiet();
    }

    fn propose(&mut self, text: &str) {
        let leader = self.leader();
        self.at(leader, |q| {
            q.propose(text.as_bytes().to_vec()).unwrap();
        });
    }
}

#[test]
fn a_quorum_of_one_leads_itself_and_finds_its_state_again() {
    let mut bench = Bench::new(&[0]);
    bench.at(0, Quorum::campaign);
    bench.propose("a");
    bench.propose("b");
    assert_eq!(bench.members[&0].state, "0ab");
    bench.at(0, |q| q.compact(b"0ab".to_vec()));
    bench.propose("c");
    assert_eq!(bench.members[&0].disk.len(), 1, "it began anew");
    bench.restart(0);
    assert_eq!(
        bench.members[&0].state, "0abc",
        "what it has is committed: nobody else votes"
    );
    bench.at(0, Quorum::campaign);
    bench.propose("d");
    let whole = bench.members[&0].quorum.whole();
    bench.start(0, vec![whole]);
    assert_eq!(bench.members[&0].state, "0abcd");
}

#[test]
fn who_was_alone_once_does_not_take_its_log_for_committed() {
    let mut bench = Bench::new(&[0]);
    bench.at(0, Quorum::campaign);
    bench.propose("a");
    bench.at(0, |q| q.change(&[Change::Voter(NodeId(1))]).unwrap());
    bench.propose("b");
    assert_eq!(
        bench.members[&0].state, "0a",
        "the other one has to have it"
    );
    bench.restart(0);
    assert!(!bench.members[&0].state.contains('b'));
}

#[test]
fn nothing_that_must_be_durable_first_is_said_before() {
    let nodes = [NodeId(1), NodeId(2), NodeId(3)];
    let record = Quorum::bootstrap(&nodes, Vec::new());
    let mut quorum = Quorum::open(options(1), [record.as_slice()]).unwrap();
    for _ in 0..25 {
        quorum.tick();
    }
    let wrote = |o: &Output| matches!(o, Output::Persist { .. });
    let said = |o: &Output| matches!(o, Output::Send { .. });
    let first = quorum.outputs();
    assert!(
        first.iter().any(said) && !first.iter().any(wrote),
        "a pre-vote promises nothing"
    );
    let mut one = Bench::new(&[1, 2, 3]);
    one.ticks(25);
    let leader = one.leader();
    let other = *one.members.keys().find(|n| **n != leader).unwrap();
    one.members
        .get_mut(&leader)
        .unwrap()
        .quorum
        .propose(b"x".to_vec())
        .unwrap();
    let outputs = one.members.get_mut(&leader).unwrap().quorum.outputs();
    let append = outputs.into_iter().find_map(|o| match o {
        Output::Send { to, bytes } if to.0 == other => Some(bytes),
        _ => None,
    });
    let follower = &mut one.members.get_mut(&other).unwrap().quorum;
    follower.step(&append.unwrap()).unwrap();
    let outputs = follower.outputs();
    assert!(
        !outputs.iter().any(said),
        "it acknowledges nothing that is not durable"
    );
    let number = outputs.iter().find_map(|o| match o {
        Output::Persist { number, .. } => Some(*number),
        _ => None,
    });
    follower.persisted(number.unwrap());
    assert!(follower.outputs().iter().any(said), "then it does");
}

#[test]
fn who_joins_gets_a_snapshot_learns_and_votes() {
    let mut bench = Bench::new(&[0, 1, 2]);
    bench.ticks(25);
    bench.propose("a");
    bench.start(3, Vec::new());
    bench.ticks(30);
    assert_eq!(bench.members[&3].state, "", "a stranger gets nothing");
    let leader = bench.leader();
    bench.at(leader, |q| q.change(&[Change::Learner(NodeId(3))]).unwrap());
    bench.ticks(5);
    assert_eq!(bench.members[&3].state, "0a");
    bench.at(leader, |q| q.change(&[Change::Voter(NodeId(3))]).unwrap());
    bench.ticks(5);
    let members = bench.members[&3].quorum.members();
    assert_eq!(members.voters.len(), 4);
    bench.restart(3);
    bench.ticks(5);
    bench.propose("b");
    assert_eq!(bench.members[&3].state, "0ab");
}

#[test]
fn a_snapshot_that_is_lost_is_sent_again() {
    let mut bench = Bench::new(&[0]);
    bench.ticks(25);
    let much = "a".repeat(10_000);
    bench.propose(&much);
    bench.start(3, Vec::new());
    bench.loses_longer_than = 5_000;
    bench.at(0, |q| q.change(&[Change::Learner(NodeId(3))]).unwrap());
    bench.ticks(20);
    assert!(bench.lost > 0, "it was sent");
    bench.loses_longer_than = usize::MAX;
    bench.ticks(20 + 5);
    assert_eq!(bench.members[&3].state, format!("0{much}"));
}

#[test]
fn a_leader_that_is_certainly_gone_is_replaced_before_its_silence_is_over() {
    let mut bench = Bench::new(&[1, 2, 3]);
    bench.ticks(30);
    let gone = bench.leader();
    let others: Vec<i32> = (1..=3).filter(|node| *node != gone).collect();
    // One of them is told while the leader is there: it hears of it again.
    bench.at(others[0], |q| q.lost(NodeId(gone)));
    bench.ticks(9);
    assert_eq!(bench.leader(), gone);
    let term = bench.members[&gone].quorum.role().term;
    bench.members.remove(&gone);
    for &node in &others {
        bench.at(node, |q| q.lost(NodeId(gone)));
    }
    bench.ticks(2);
    assert_eq!(
        bench.leader(),
        others[0],
        "far below the 10 ticks of an election"
    );
    assert_eq!(bench.members[&others[0]].quorum.role().term, term + 1);
}

#[test]
fn who_alone_takes_the_leader_for_gone_gets_no_votes_but_the_next_one_does() {
    let mut bench = Bench::new(&[1, 2, 3]);
    bench.ticks(30);
    let gone = bench.leader();
    let others: Vec<i32> = (1..=3).filter(|node| *node != gone).collect();
    bench.members.remove(&gone);
    bench.at(others[0], |q| q.lost(NodeId(gone)));
    bench.ticks(3);
    assert!(!bench.members[&others[0]].quorum.role().leads);
    bench.at(others[1], |q| q.lost(NodeId(gone)));
    bench.ticks(6);
    assert_eq!(bench.leader(), others[1]);
}

#[test]
fn a_leader_that_is_removed_by_another_steps_down() {
    let mut bench = Bench::new(&[0, 1, 2]);
    bench.ticks(25);
    let leader = bench.leader();
    let other = (leader + 1) % 3;
    let own = bench
        .members
        .get_mut(&leader)
        .unwrap()
        .quorum
        .change(&[Change::Remove(NodeId(leader))]);
    assert!(matches!(own, Err(NotTaken::Refused(_))));
    // The change is in the log, then leadership goes back to the one that it removes.
    bench.at(leader, |q| q.transfer(NodeId(other)).unwrap());
    assert_eq!(bench.leader(), other);
    bench.at(other, |q| {
        q.change(&[
            Change::Remove(NodeId(leader)),
            Change::Learner(NodeId(leader)),
        ])
        .unwrap();
    });
    bench.ticks(30);
    assert_eq!(bench.members[&other].quorum.members().voters.len(), 2);
    bench.propose("x");
    assert_eq!(bench.members[&leader].state, "0x", "it still learns");
}

#[test]
fn a_read_is_answered_by_who_leads_and_refused_by_who_does_not() {
    let mut bench = Bench::new(&[0, 1, 2]);
    bench.ticks(25);
    let leader = bench.leader();
    bench.at(leader, |q| q.read(5).unwrap());
    assert_eq!(bench.members[&leader].reads, [5]);
    let other = (leader + 1) % 3;
    let refused = bench.members.get_mut(&other).unwrap().quorum.read(6);
    assert_eq!(refused, Err(NotTaken::NotLeader(Some(NodeId(leader)))));
    bench.members.retain(|n, _| *n == leader);
    bench.at(leader, |q| q.read(7).unwrap());
    bench.ticks(25);
    assert_eq!(
        bench.members[&leader].reads,
        [5],
        "alone it knows of no majority"
    );
    assert!(
        !bench.members[&leader].quorum.role().leads,
        "and does not think that it leads"
    );
}

#[test]
fn a_wiped_member_stops_with_a_sentence() {
    let mut bench = Bench::new(&[0, 1, 2]);
    bench.ticks(25);
    bench.propose("a");
    bench.propose("b");
    let leader = bench.leader();
    let other = (leader + 1) % 3;
    let nodes = [NodeId(0), NodeId(1), NodeId(2)];
    bench.start(other, vec![Quorum::bootstrap(&nodes, b"0".to_vec())]);
    bench.ticks(5);
    assert!(bench.members[&other].broken);
}

#[test]
fn a_cut_record_is_a_crash_and_a_damaged_one_before_others_is_not() {
    let nodes = [NodeId(0)];
    let one = Quorum::bootstrap(&nodes, b"abc".to_vec());
    let log = [one.clone(), one.clone(), one.clone()].concat();
    assert_eq!(split(&log).unwrap().0.len(), 3);
    for cut in 1..one.len() {
        let (records, torn) = split(&log[..one.len() * 2 + cut]).unwrap();
        assert_eq!((records.len(), torn), (2, cut));
    }
    for at in 0..one.len() {
        let mut bad = log.clone();
        bad[one.len() + at] ^= 4;
        assert!(split(&bad).is_err(), "byte {at} of the middle one");
        let mut last = log.clone();
        last[one.len() * 2 + at] ^= 4;
        assert_eq!(split(&last).unwrap().0.len(), 2);
    }
}

/// Real messages of all kinds that a small cluster sends.
fn messages() -> Vec<Vec<u8>> {
    let mut bench = Bench::new(&[0, 1, 2]);
    let mut seen = Vec::new();
    for round in 0..60 {
        for node in 0..3 {
            bench.members.get_mut(&node).unwrap().quorum.tick();
            bench.carry(node);
        }
        while let Some((to, bytes)) = bench.wire.pop_front() {
            seen.push(bytes.clone());
            if let Some(member) = bench.members.get_mut(&to) {
                member.quorum.step(&bytes).unwrap();
                bench.carry(to);
            }
        }
        if round == 40 {
            bench.propose("hello");
            let leader = bench.leader();
            bench.at(leader, |q| q.compact(b"snapshot".to_vec()));
            bench.at(leader, |q| q.change(&[Change::Learner(NodeId(3))]).unwrap());
        }
    }
    seen.sort();
    seen.dedup();
    seen
}

#[test]
fn messages_round_trip_and_hostile_ones_are_refused_or_read() {
    let seen = messages();
    assert!(seen.len() > 10);
    let mut rng = 1u64;
    for bytes in &seen {
        let message: Message = codec::decode(bytes).unwrap();
        assert_eq!(&codec::encode(&message).unwrap(), bytes);
        for cut in 0..bytes.len() {
            assert!(codec::decode(&bytes[..cut]).is_err());
        }
        for _ in 0..200 {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut bad = bytes.clone();
            let at = (rng >> 33) as usize % bad.len();
            bad[at] = (rng >> 20) as u8;
            if let Ok(message) = codec::decode(&bad) {
                assert_ne!(message.to, 0);
            }
        }
    }
}

proptest! {
    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = codec::decode(&bytes);
        let _ = codec::conf_change(&bytes);
        prop_assert!(Record::decode(&bytes).is_err());
        let kinds = 1..=13u8;
        for kind in kinds {
            let mut message = vec![1, kind];
            message.extend_from_slice(&bytes);
            let _ = codec::decode(&message);
        }
    }
}
