//! The controller's decisions one by one. What they add up to is checked by `tests/sim`.

use std::time::Duration;

use proptest::prelude::*;
use streamd_model::{ErrorCode, Mono, NodeId, PartitionId, TopicId};

use super::*;
use crate::config::Configs;
use crate::meta::{ClusterCommand, ClusterImage, ConfigChange, Local, PartitionMeta, Resource};

const TOPIC: TopicId = TopicId([5; 16]);

fn id(index: i32) -> PartitionId {
    PartitionId {
        topic: TOPIC,
        index,
    }
}

fn nodes(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn told(node: i32, run: u8) -> Registration {
    Registration {
        node: NodeId(node),
        incarnation: [run; 16],
        directory: [node as u8; 16],
        rack: Some(format!("r{}", node % 2)),
        endpoints: Vec::new(),
        features: (0, 1),
    }
}

/// A controller whose commands are committed at once.
struct Bench {
    image: ClusterImage,
    controller: Controller,
    now: Mono,
}

impl Bench {
    /// Brokers 0 up to `brokers`, all active, and one topic.
    fn new(brokers: i32, partitions: i32, replication: i16) -> Bench {
        let image = ClusterImage::new(Local {
            node: NodeId(0),
            configs: Configs::new(),
        });
        let now = Mono(1_000_000_000);
        let controller = Controller::new(Times::default(), &image, now);
        let mut bench = Bench {
            image,
            controller,
            now,
        };
        for node in 0..brokers {
            bench.ask(Ask::Register(told(node, 1))).unwrap();
            bench.beat(node, false);
        }
        let create = Command::CreateTopic {
            name: "t".to_owned(),
            id: TOPIC,
            partitions,
            configs: Configs::new(),
            created_ms: 0,
        };
        bench
            .ask(Ask::Propose {
                commands: vec![create],
                replication: Some(replication),
            })
            .unwrap();
        bench
    }

    fn ask(&mut self, ask: Ask) -> Outcome {
        let (commands, answer) = self.controller.handle(&self.image, &ask, self.now)?;
        for command in &commands {
            self.image.admit(command)?;
            self.image.apply(command);
        }
        Ok(answer)
    }

    fn epoch(&self, node: i32) -> i64 {
        self.image.cluster().broker(NodeId(node)).unwrap().epoch
    }

    fn beat(&mut self, node: i32, leaving: bool) -> Answer {
        let (epoch, version) = (self.epoch(node), self.image.version());
        let node = NodeId(node);
        self.ask(Ask::Heartbeat {
            node,
            epoch,
            version,
            leaving,
        })
        .unwrap()
    }

    fn lose(&mut self, node: i32) {
        let (node, epoch) = (NodeId(node), self.epoch(node));
        self.ask(Ask::Lost { node, epoch }).unwrap();
    }

    fn partition(&self, index: i32) -> PartitionMeta {
        self.image.cluster().partition(id(index)).unwrap().clone()
    }

    fn alter(&mut self, index: i32, isr: &[i32]) -> ErrorCode {
        let now = self.partition(index);
        let leader = now.leader.unwrap();
        let set = NewIsr {
            partition: id(index),
            leader_epoch: now.leader_epoch,
            epoch: now.epoch,
            isr: isr.iter().map(|n| (NodeId(*n), -1)).collect(),
        };
        let (node, epoch) = (leader, self.epoch(leader.0));
        let sets = vec![set];
        match self.ask(Ask::Alter { node, epoch, sets }) {
            Ok(Answer::Each(each)) => each[0].1,
            other => panic!("{other:?}"),
        }
    }

    fn elect(&mut self, index: i32, election: Election) -> ErrorCode {
        let partitions = vec![id(index)];
        match self.ask(Ask::Elect {
            election,
            partitions,
        }) {
            Ok(Answer::Each(each)) => each[0].1,
            other => panic!("{other:?}"),
        }
    }

    fn reassign(&mut self, to: Option<&[i32]>) -> Outcome {
        self.ask(Ask::Reassign {
            partition: id(0),
            replicas: to.map(nodes),
        })
    }
}

#[test]
fn a_leader_that_is_gone_is_followed_by_one_in_sync() {
    let mut bench = Bench::new(3, 3, 3);
    let before = bench.partition(0);
    let (leader, second) = (before.replicas[0], before.replicas[1]);
    assert_eq!(
        bench.alter(0, &[leader.0, before.replicas[2].0]),
        ErrorCode::None
    );
    bench.lose(leader.0);
    let after = bench.partition(0);
    assert_eq!(
        after.leader,
        Some(before.replicas[2]),
        "{second:?} is not in sync"
    );
    assert_eq!(after.isr, [before.replicas[2]]);
    assert_eq!(after.leader_epoch, before.leader_epoch + 1);
    bench.lose(before.replicas[2].0);
    let none = bench.partition(0);
    assert_eq!(
        (none.leader, &none.isr),
        (None, &after.isr),
        "the last in sync stays it"
    );
    assert_eq!(
        bench.elect(0, Election::Preferred),
        ErrorCode::PreferredLeaderNotAvailable
    );
    let run = told(before.replicas[2].0, 2);
    bench.ask(Ask::Register(run)).unwrap();
    bench.beat(before.replicas[2].0, false);
    assert_eq!(bench.partition(0).leader, Some(before.replicas[2]));
}

#[test]
fn an_unclean_leader_is_there_only_if_somebody_orders_it() {
    let mut bench = Bench::new(2, 1, 2);
    let before = bench.partition(0);
    let (leader, other) = (before.replicas[0], before.replicas[1]);
    assert_eq!(bench.alter(0, &[leader.0]), ErrorCode::None);
    bench.lose(leader.0);
    assert_eq!(bench.partition(0).leader, None);
    assert_eq!(bench.elect(0, Election::Unclean), ErrorCode::None);
    let after = bench.partition(0);
    assert_eq!((after.leader, after.isr), (Some(other), vec![other]));
    assert_eq!(
        bench.elect(0, Election::Unclean),
        ErrorCode::ElectionNotNeeded
    );
}

#[test]
fn a_topic_may_rather_lose_records_than_wait() {
    let mut bench = Bench::new(2, 1, 2);
    let before = bench.partition(0);
    let (leader, other) = (before.replicas[0], before.replicas[1]);
    assert_eq!(bench.alter(0, &[leader.0]), ErrorCode::None);
    bench.lose(leader.0);
    let look = |bench: &mut Bench| {
        bench.now = bench.now + Duration::from_secs(1);
        for command in bench.controller.tick(&bench.image, bench.now) {
            bench.image.apply(&command);
        }
        bench.partition(0).leader
    };
    assert_eq!(look(&mut bench), None);
    let change = ConfigChange {
        name: "unclean.leader.election.enable".to_owned(),
        value: Some("true".to_owned()),
    };
    let commands = vec![Command::AlterConfig {
        resource: Resource::Topic(TOPIC),
        changes: vec![change],
    }];
    let replication = None;
    let ask = Ask::Propose {
        commands,
        replication,
    };
    bench.ask(ask).unwrap();
    assert_eq!(look(&mut bench), Some(other));
    assert_eq!(bench.partition(0).isr, [other]);
}

#[test]
fn a_silent_broker_is_fenced_after_its_session_and_not_before() {
    let mut bench = Bench::new(2, 2, 2);
    let session = Times::default().session;
    bench.now = bench.now + (session - Duration::from_millis(1));
    bench.beat(0, false);
    assert!(bench.controller.tick(&bench.image, bench.now).is_empty());
    bench.now = bench.now + Duration::from_millis(2);
    for command in bench.controller.tick(&bench.image, bench.now) {
        bench.image.apply(&command);
    }
    assert!(bench.image.cluster().broker(NodeId(1)).unwrap().fenced);
    assert!((0..2).all(|p| bench.partition(p).leader == Some(NodeId(0))));
    assert_eq!(bench.alter(0, &[0, 1]), ErrorCode::IneligibleReplica);
    let stale = Ask::Heartbeat {
        node: NodeId(1),
        epoch: 999,
        version: 0,
        leaving: false,
    };
    assert_eq!(bench.ask(stale).unwrap_err().0, ErrorCode::StaleBrokerEpoch);
}

#[test]
fn a_wish_of_an_old_leader_or_epoch_is_refused() {
    let mut bench = Bench::new(3, 1, 3);
    let before = bench.partition(0);
    let leader = before.leader.unwrap();
    let wish = |leader_epoch, epoch| NewIsr {
        partition: id(0),
        leader_epoch,
        epoch,
        isr: vec![(leader, -1)],
    };
    assert_eq!(bench.alter(0, &[leader.0]), ErrorCode::None);
    let epoch = bench.epoch(leader.0);
    let mut ask = |set: NewIsr| {
        let sets = vec![set];
        let node = leader;
        match bench.ask(Ask::Alter { node, epoch, sets }) {
            Ok(Answer::Each(each)) => each[0].1,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(wish(0, before.epoch)), ErrorCode::InvalidUpdateVersion);
    assert_eq!(
        ask(wish(-1, before.epoch + 1)),
        ErrorCode::FencedLeaderEpoch
    );
    assert_eq!(ask(wish(0, before.epoch + 9)), ErrorCode::NotController);
    let mut stranger = wish(0, before.epoch + 1);
    stranger.isr = vec![(NodeId(77), -1), (leader, -1)];
    assert_eq!(ask(stranger), ErrorCode::InvalidRequest);
    // Where it is applied it is looked at once more.
    let late = change::command(id(0), &before, before.clone());
    let refused = bench.image.admit(&late).unwrap_err();
    assert_eq!(refused.0, ErrorCode::InvalidUpdateVersion);
    let known = bench.partition(0);
    bench.image.apply(&late);
    assert_eq!(bench.partition(0), known);
}

#[test]
fn who_stops_hands_over_first() {
    let mut bench = Bench::new(2, 2, 2);
    let led: Vec<i32> = (0..2)
        .filter(|p| bench.partition(*p).leader == Some(NodeId(1)))
        .collect();
    assert_eq!(led.len(), 1);
    let first = bench.beat(1, true);
    assert_eq!(bench.partition(led[0]).leader, Some(NodeId(0)));
    let may_stop = |a| matches!(a, Answer::Heartbeat { may_stop: true, .. });
    assert!(!may_stop(first), "not before it is committed");
    let second = bench.beat(1, true);
    assert!(may_stop(second));
    let alone = bench.beat(0, true);
    let again = bench.beat(0, true);
    assert!(
        may_stop(alone) || may_stop(again),
        "what nobody can take over holds nobody up"
    );
    assert_eq!(
        bench.partition(0).leader,
        Some(NodeId(0)),
        "it leads as long as it is there"
    );
}

#[test]
fn another_process_or_directory_is_no_second_broker() {
    let mut bench = Bench::new(2, 1, 2);
    bench.beat(1, false);
    let twin = bench.ask(Ask::Register(told(1, 9))).unwrap_err();
    assert_eq!(twin.0, ErrorCode::DuplicateBrokerRegistration);
    let before = bench.epoch(1);
    let again = bench.ask(Ask::Register(told(1, 1)));
    assert_eq!(
        again,
        Ok(Answer::Registered { epoch: before }),
        "a lost answer"
    );
    let mut wiped = told(1, 9);
    wiped.directory = [99; 16];
    assert_eq!(
        bench.ask(Ask::Register(wiped)).unwrap_err().0,
        ErrorCode::InvalidRegistration
    );
    let mut old = told(4, 1);
    old.features = (3, 5);
    assert_eq!(
        bench.ask(Ask::Register(old)).unwrap_err().0,
        ErrorCode::InvalidRegistration
    );
    // Its successor waits two heartbeats, or until somebody saw the connection break.
    bench.now = bench.now + Times::default().heartbeat * 3;
    bench.ask(Ask::Register(told(1, 9))).unwrap();
    assert!(bench.epoch(1) > before);
    assert!(bench.image.cluster().broker(NodeId(1)).unwrap().fenced);
    assert!(
        !bench.partition(0).isr.contains(&NodeId(1)),
        "what it has is not known any more"
    );
}

#[test]
fn a_partition_moves_when_the_new_replicas_are_in_sync() {
    let mut bench = Bench::new(5, 1, 3);
    let before = bench.partition(0);
    let to: Vec<i32> = (0..5)
        .filter(|n| !before.replicas.contains(&NodeId(*n)))
        .collect();
    let to = [to[0], to[1], before.replicas[2].0];
    bench.reassign(Some(&to)).unwrap();
    let under_way = bench.partition(0);
    assert_eq!(under_way.leader, before.leader);
    assert_eq!(under_way.replicas.len(), 5);
    let mut isr: Vec<i32> = under_way.isr.iter().map(|n| n.0).collect();
    isr.push(to[0]);
    assert_eq!(bench.alter(0, &isr), ErrorCode::None);
    assert!(bench.partition(0).is_moving(), "one is missing");
    isr.push(to[1]);
    assert_eq!(bench.alter(0, &isr), ErrorCode::None);
    let after = bench.partition(0);
    assert_eq!(after.replicas, nodes(&to));
    assert!(!after.is_moving() && after.leader == Some(NodeId(to[0])));
    assert_eq!(after.leader_epoch, before.leader_epoch + 1);
    let gone = bench.reassign(None).unwrap_err();
    assert_eq!(gone.0, ErrorCode::NoReassignmentInProgress);
}

#[test]
fn a_move_is_called_off_as_it_was() {
    let mut bench = Bench::new(5, 1, 3);
    let before = bench.partition(0);
    let others: Vec<i32> = (0..5)
        .filter(|n| !before.replicas.contains(&NodeId(*n)))
        .collect();
    bench.reassign(Some(&others)).unwrap();
    bench.reassign(None).unwrap();
    let after = bench.partition(0);
    assert_eq!((after.replicas, after.isr, after.leader), {
        (before.replicas, before.isr, before.leader)
    });
    for bad in [&[][..], &[1, 1], &[77]] {
        let refused = bench.reassign(Some(bad)).unwrap_err();
        assert_eq!(refused.0, ErrorCode::InvalidReplicaAssignment);
    }
    let busy = bench.ask(Ask::Unregister(NodeId(before.leader.unwrap().0)));
    assert_eq!(busy.unwrap_err().0, ErrorCode::InvalidRequest);
}

#[test]
fn a_chosen_place_begins_with_who_is_there() {
    let mut bench = Bench::new(3, 1, 1);
    bench.lose(2);
    let topic = TopicId([6; 16]);
    let create = |replicas: &[i32]| Ask::Propose {
        commands: vec![
            Command::CreateTopic {
                name: "chosen".to_owned(),
                id: topic,
                partitions: 1,
                configs: Configs::new(),
                created_ms: 0,
            },
            Command::Cluster(ClusterCommand::Place {
                topic,
                first: 0,
                partitions: vec![PartitionMeta::new(nodes(replicas))],
            }),
        ],
        replication: None,
    };
    let refused = bench.ask(create(&[2])).unwrap_err();
    assert_eq!(refused.0, ErrorCode::InvalidReplicaAssignment);
    assert!(bench.image.topic("chosen").is_none(), "all or none");
    bench.ask(create(&[2, 1, 0])).unwrap();
    let place = &bench.image.cluster().partitions(topic)[0];
    assert_eq!(place.replicas, nodes(&[2, 1, 0]));
    assert_eq!(place.isr, nodes(&[1, 0]));
    assert_eq!(place.leader, Some(NodeId(1)));
}

#[test]
fn too_few_brokers_are_said() {
    let sites = sites(&Bench::new(2, 1, 2).image);
    let refused = place(&sites, 1, 3).unwrap_err();
    assert_eq!(refused.0, ErrorCode::InvalidReplicationFactor);
    assert!(place(&sites, 1, 0).is_err());
}

proptest! {
    #[test]
    fn places(racks in proptest::collection::vec(0..4u8, 1..9), partitions in 1..40usize) {
        let sites: Vec<Site> = racks.iter().zip(0..).map(|(rack, n)| Site {
            node: NodeId(n),
            rack: Some(format!("r{rack}")),
            load: usize::from(*rack),
        }).collect();
        let mut distinct = racks.clone();
        distinct.sort_unstable();
        distinct.dedup();
        for replication in 1..=sites.len() {
            let places = place(&sites, partitions, replication).unwrap();
            let mut leads = vec![0usize; sites.len()];
            for replicas in &places {
                prop_assert_eq!(replicas.len(), replication);
                let mut nodes = replicas.clone();
                nodes.sort_unstable();
                nodes.dedup();
                prop_assert_eq!(nodes.len(), replication, "on different brokers");
                let mut used: Vec<u8> = replicas.iter().map(|n| racks[n.0 as usize]).collect();
                used.sort_unstable();
                used.dedup();
                prop_assert_eq!(used.len(), replication.min(distinct.len()), "on many racks");
                leads[replicas[0].0 as usize] += 1;
            }
            let (least, most) = (leads.iter().min().unwrap(), leads.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", leads);
        }
    }
}

fn asked(effects: Vec<SeatEffect>) -> (Token, Ask) {
    match effects.into_iter().next() {
        Some(SeatEffect::Ask(token, ask)) => (token, ask),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lease_counts_from_when_the_heartbeat_was_sent() {
    let times = Times::default();
    let at = |ms| Mono(1_000_000_000) + Duration::from_millis(ms);
    let mut seat = Seat::new(told(1, 1), times);
    let (token, first) = asked(seat.tick(0, at(0)));
    assert!(matches!(first, Ask::Register(_)));
    let registered = Ok(Answer::Registered { epoch: 4 });
    assert_eq!(
        seat.answer(token, registered, at(10)),
        [SeatEffect::Registered(4)]
    );
    let (token, _) = asked(seat.tick(9, at(20)));
    let beat = || {
        Ok(Answer::Heartbeat {
            fenced: false,
            may_stop: false,
        })
    };
    let effects = seat.answer(token, beat(), at(1_900));
    let until = at(20) + times.lease();
    assert_eq!(effects, [SeatEffect::Lease(until)]);
    let (late, _) = asked(seat.tick(9, at(2_000)));
    let (again, _) = asked(seat.tick(9, at(4_100)));
    assert_eq!(seat.answer(late, beat(), at(4_200)), [], "it was given up");
    seat.answer(again, beat(), at(4_200));
    assert_eq!(seat.lease(), at(4_100) + times.lease());
    assert!(times.lease() < times.session);
}

#[test]
fn a_wish_is_sent_until_it_is_answered() {
    let at = |ms| Mono(1_000_000_000) + Duration::from_millis(ms);
    let mut seat = Seat::new(told(1, 1), Times::default());
    let (token, _) = asked(seat.tick(0, at(0)));
    seat.answer(token, Ok(Answer::Registered { epoch: 4 }), at(10));
    let wish = |epoch| NewIsr {
        partition: id(0),
        leader_epoch: 1,
        epoch,
        isr: vec![(NodeId(1), 4)],
    };
    let sets = |effects: Vec<SeatEffect>| {
        effects.into_iter().find_map(|e| match e {
            SeatEffect::Ask(token, Ask::Alter { sets, .. }) => Some((token, sets)),
            _ => None,
        })
    };
    seat.wish(wish(1));
    let (_, first) = sets(seat.tick(0, at(20))).unwrap();
    assert_eq!(first, [wish(1)]);
    assert_eq!(sets(seat.tick(0, at(30))), None, "one question at a time");
    let (_, again) = sets(seat.tick(0, at(2_100))).unwrap();
    assert_eq!(again, [wish(1)], "no answer came");
    seat.wish(wish(2));
    let (token, newer) = sets(seat.tick(0, at(4_200))).unwrap();
    assert_eq!(newer, [wish(2)], "the newer one counts");
    let code = ErrorCode::InvalidUpdateVersion;
    let effects = seat.answer(token, Ok(Answer::Each(vec![(id(0), code)])), at(4_210));
    assert_eq!(effects, [SeatEffect::Altered(id(0), code)]);
    assert_eq!(sets(seat.tick(0, at(9_000))), None);
}

#[test]
fn the_controllers_own_broker_is_let_in_at_once() {
    let mut bench = Bench::new(1, 2, 1);
    let before = (bench.partition(0), bench.epoch(0));
    // The same process cannot be there twice.
    bench.ask(Ask::Register(told(0, 2))).unwrap();
    let broker = bench.image.cluster().broker(NodeId(0)).unwrap();
    assert!(broker.is_active());
    assert!(broker.epoch > before.1);
    assert_eq!(
        bench.partition(0),
        before.0,
        "nobody else has anything of it"
    );
    bench.ask(Ask::Register(told(1, 1))).unwrap();
    assert!(
        !bench.image.cluster().is_active(NodeId(1)),
        "it has to have the image"
    );
}

impl Bench {
    fn join(&mut self, node: i32) {
        self.ask(Ask::Register(told(node, 1))).unwrap();
        self.beat(node, false);
    }

    fn set(&mut self, resource: Resource, name: &str, value: &str) {
        let change = ConfigChange {
            name: name.to_owned(),
            value: Some(value.to_owned()),
        };
        let commands = vec![Command::AlterConfig {
            resource,
            changes: vec![change],
        }];
        let replication = None;
        let ask = Ask::Propose {
            commands,
            replication,
        };
        self.ask(ask).unwrap();
    }

    /// Lets everything move that wants to, and who is added get in sync; gives how many moved.
    fn settle(&mut self) -> usize {
        let mut moved = 0;
        for _ in 0..1_000 {
            self.now = self.now + Duration::from_secs(1);
            let brokers = self.image.cluster().brokers();
            let running: Vec<i32> = brokers
                .filter(|b| b.is_active())
                .map(|b| b.told.node.0)
                .collect();
            for node in running {
                self.beat(node, false);
            }
            let commands = self.controller.tick(&self.image, self.now);
            for command in &commands {
                self.image.admit(command).unwrap();
                self.image.apply(command);
            }
            let places = self.image.cluster().places();
            let moving: Vec<_> = places.filter(|(_, p)| p.is_moving()).collect();
            let moving: Vec<_> = moving.iter().map(|(id, p)| (*id, (*p).clone())).collect();
            assert!(moving.len() <= 8, "{} at a time", moving.len());
            if commands.is_empty() {
                assert!(moving.is_empty());
                return moved;
            }
            moved += moving.len();
            for (partition, now) in moving {
                let leader = now.leader.unwrap();
                let set = NewIsr {
                    partition,
                    leader_epoch: now.leader_epoch,
                    epoch: now.epoch,
                    isr: now.replicas.iter().map(|n| (*n, -1)).collect(),
                };
                let (node, epoch, sets) = (leader, self.epoch(leader.0), vec![set]);
                self.ask(Ask::Alter { node, epoch, sets }).unwrap();
            }
        }
        panic!("it goes on for ever");
    }

    fn loads(&self) -> Vec<usize> {
        let cluster = self.image.cluster();
        let brokers = cluster.brokers();
        brokers.map(|b| cluster.load(b.told.node)).collect()
    }

    fn leaders(&self) -> Vec<usize> {
        let cluster = self.image.cluster();
        let led = |node| {
            cluster
                .places()
                .filter(move |(_, p)| p.leader == Some(node))
        };
        cluster
            .brokers()
            .map(|b| led(b.told.node).count())
            .collect()
    }
}

#[test]
fn a_new_broker_takes_its_part() {
    let mut bench = Bench::new(3, 40, 2);
    assert_eq!(bench.settle(), 0, "what is even stays");
    bench.set(
        Resource::AllBrokers,
        "auto.replica.rebalance.enable",
        "false",
    );
    bench.join(3);
    assert_eq!(bench.settle(), 0, "it is switched off");
    bench.set(
        Resource::AllBrokers,
        "auto.replica.rebalance.enable",
        "true",
    );
    let moved = bench.settle();
    let (loads, leaders) = (bench.loads(), bench.leaders());
    assert!(
        (15..=20).contains(&moved),
        "{moved} moved, and no more than needed"
    );
    assert_eq!(loads.iter().sum::<usize>(), 80);
    assert!(loads.iter().all(|l| (16..=24).contains(l)), "{loads:?}");
    assert!(leaders.iter().all(|l| (5..16).contains(l)), "{leaders:?}");
    for (_, p) in bench.image.cluster().places() {
        let racks: Vec<i32> = p.replicas.iter().map(|n| n.0 % 2).collect();
        assert_ne!(racks[0], racks[1], "still on two racks: {p:?}");
    }
    // Who is only away for a while is not missed.
    bench.lose(3);
    assert_eq!(bench.settle(), 0);
}

#[test]
fn who_is_to_go_gets_rid_of_all_it_has() {
    let mut bench = Bench::new(4, 30, 3);
    let running = bench.ask(Ask::Unregister(NodeId(3))).unwrap_err();
    assert_eq!(running.0, ErrorCode::InvalidRequest);
    bench.set(Resource::Broker(NodeId(3)), "broker.drain", "true");
    assert!(bench.settle() > 0);
    let loads = bench.loads();
    assert_eq!(loads, [30, 30, 30, 0]);
    assert_eq!(sites(&bench.image).len(), 3, "it gets nothing new");
    let running = bench.ask(Ask::Unregister(NodeId(3))).unwrap_err();
    assert_eq!(running.0, ErrorCode::InvalidRequest, "it would come back");
    bench.lose(3);
    bench.ask(Ask::Unregister(NodeId(3))).unwrap();
    assert!(bench.image.cluster().broker(NodeId(3)).is_none());
    bench.join(3);
    assert_eq!(sites(&bench.image).len(), 4, "another one of that id");
    // Nobody could take what these have.
    bench.settle();
    bench.set(Resource::Broker(NodeId(0)), "broker.drain", "true");
    bench.set(Resource::Broker(NodeId(1)), "broker.drain", "true");
    bench.settle();
    assert!(bench.loads()[0] > 0);
}

#[test]
fn internal_topics_get_the_replicas_that_they_lacked() {
    let mut bench = Bench::new(1, 1, 1);
    let id = TopicId([9; 16]);
    let create = Command::CreateTopic {
        name: "__consumer_offsets".to_owned(),
        id,
        partitions: 20,
        configs: Configs::new(),
        created_ms: 0,
    };
    let ask = Ask::Propose {
        commands: vec![create],
        replication: Some(1),
    };
    bench.ask(ask).unwrap();
    bench.join(1);
    bench.settle();
    bench.join(2);
    bench.settle();
    let cluster = bench.image.cluster();
    let mut replicas = cluster
        .partitions(id)
        .iter()
        .map(|p| (p.replicas.len(), p.isr.len()));
    assert!(replicas.all(|r| r == (3, 3)));
    assert_eq!(
        bench.partition(0).replicas.len(),
        1,
        "others stay as they are"
    );
}
