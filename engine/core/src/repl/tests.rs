//! Replicas one by one. What they add up to is checked by `tests/sim`.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use streamd_model::{ErrorCode, Mono, NodeId};

use super::*;
use crate::meta::PartitionMeta;

const T0: Mono = Mono(1_000_000_000);

fn meta(epoch: i32, isr: &[i32]) -> PartitionMeta {
    let mut meta = PartitionMeta::new(vec![NodeId(0), NodeId(1), NodeId(2)]);
    meta.isr = isr.iter().copied().map(NodeId).collect();
    (meta.leader_epoch, meta.epoch) = (epoch, epoch);
    meta
}

fn leader(min_isr: usize) -> Replica {
    let settings = Settings {
        min_isr,
        credit: 1_000,
        ..Settings::default()
    };
    let mut leader = Replica::new(NodeId(0), settings, Epochs::default(), (0, 0, 0));
    leader.assign(&meta(3, &[0, 1]), BTreeSet::new(), 5, T0);
    leader.lease(T0 + Duration::from_secs(60), T0);
    leader
}

fn subscribe(epoch: i32, last_epoch: i32, end: i64, session: u64) -> Message {
    Message::Subscribe {
        epoch,
        session: (7, session),
        last_epoch,
        end,
        durable: end,
        credit: 1_000,
    }
}

fn ack(durable: i64, taken: u64) -> Message {
    Message::Ack {
        epoch: 3,
        session: (7, 1),
        durable,
        taken,
    }
}

fn pushes(effects: &[Effect]) -> Vec<(i32, i64, u64)> {
    let push = |e: &Effect| match e {
        Effect::Push {
            to,
            head,
            max_bytes,
            ..
        } => Some((to.0, head.base, *max_bytes)),
        _ => None,
    };
    effects.iter().filter_map(push).collect()
}

#[test]
fn what_is_acknowledged_is_durable_on_all_in_sync() {
    let mut leader = leader(2);
    leader.message(NodeId(1), &subscribe(3, -1, 0, 1), T0);
    let (base, epoch, effects) = leader.append(5, Acks::All, 77, T0).unwrap();
    assert_eq!((base, epoch), (0, 3));
    assert_eq!(pushes(&effects), [(1, 0, 1_000)]);
    let head = Head {
        epoch: 3,
        session: (7, 1),
        base: 0,
        high: 0,
        start: 0,
    };
    leader.pushed(NodeId(1), head, (5, 800), T0);
    let settled = Effect::Settle(77, Ok(()));
    assert!(
        !leader
            .message(NodeId(1), &ack(5, 800), T0)
            .contains(&settled),
        "not durable here"
    );
    assert_eq!(leader.high(), 0);
    let effects = leader.flushed(5, T0);
    assert!(effects.contains(&settled) && effects.contains(&Effect::High(5)));
    // And the other way round.
    leader.append(1, Acks::All, 78, T0).unwrap();
    leader.pushed(NodeId(1), head, (6, 100), T0);
    let settled = Effect::Settle(78, Ok(()));
    assert!(
        !leader.flushed(6, T0).contains(&settled),
        "durable here alone"
    );
    assert!(
        leader
            .message(NodeId(1), &ack(6, 900), T0)
            .contains(&settled)
    );
}

#[test]
fn a_leader_without_its_lease_says_nothing() {
    let mut leader = leader(1);
    leader.message(NodeId(1), &subscribe(3, -1, 0, 1), T0);
    leader.append(1, Acks::Leader, 7, T0).unwrap();
    let late = T0 + Duration::from_secs(61);
    assert!(!leader.flushed(1, late).contains(&Effect::Settle(7, Ok(()))));
    let refused = leader.append(1, Acks::All, 8, late).unwrap_err();
    assert_eq!(refused.0, ErrorCode::NotLeaderOrFollower);
    assert_eq!(
        leader.client_high(late),
        Err(ErrorCode::NotLeaderOrFollower)
    );
    let again = leader.lease(late + Duration::from_secs(1), late);
    assert!(again.contains(&Effect::Settle(7, Ok(()))));
}

#[test]
fn too_few_in_sync_take_nothing_and_commit_nothing() {
    let mut leader = leader(2);
    leader.append(1, Acks::All, 1, T0).unwrap();
    let mut alone = meta(3, &[0]);
    alone.epoch = 4;
    leader.assign(&alone, BTreeSet::new(), 5, T0);
    assert!(!leader.flushed(1, T0).contains(&Effect::High(1)));
    let refused = leader.append(1, Acks::All, 2, T0).unwrap_err();
    assert_eq!(refused.0, ErrorCode::NotEnoughReplicas);
    assert!(leader.append(1, Acks::Leader, 3, T0).is_ok());
}

#[test]
fn a_follower_gets_no_more_than_its_credit() {
    let mut leader = leader(1);
    leader.append(9, Acks::None, 0, T0).unwrap();
    let effects = leader.message(NodeId(2), &subscribe(3, -1, 0, 1), T0);
    assert_eq!(pushes(&effects), [(2, 0, 1_000)]);
    let head = Head {
        epoch: 3,
        session: (7, 1),
        base: 0,
        high: 0,
        start: 0,
    };
    let effects = leader.pushed(NodeId(2), head, (4, 1_000), T0);
    assert_eq!(pushes(&effects), [], "no credit is left");
    let effects = leader.message(NodeId(2), &ack(2, 600), T0);
    assert_eq!(pushes(&effects), [(2, 4, 600)]);
    let lies = leader.message(NodeId(2), &ack(99, 600), T0);
    assert_eq!(lies, [], "nobody has what there is not");
}

#[test]
fn subscriptions_of_other_epochs_are_refused_and_old_ones_ignored() {
    let mut leader = leader(1);
    let refusal = |effects: Vec<Effect>| match effects[..] {
        [Effect::Send(_, Message::Refused { why, .. })] => why,
        _ => panic!("{effects:?}"),
    };
    let old = leader.message(NodeId(1), &subscribe(2, -1, 0, 1), T0);
    assert_eq!(refusal(old), ErrorCode::FencedLeaderEpoch);
    let new = leader.message(NodeId(1), &subscribe(4, -1, 0, 1), T0);
    assert_eq!(refusal(new), ErrorCode::UnknownLeaderEpoch);
    let stranger = leader.message(NodeId(9), &subscribe(3, -1, 0, 1), T0);
    assert_eq!(refusal(stranger), ErrorCode::UnknownLeaderEpoch);
    leader.message(NodeId(1), &subscribe(3, -1, 0, 2), T0);
    let again = leader.message(NodeId(1), &subscribe(3, -1, 0, 1), T0);
    assert_eq!(again, []);
}

#[test]
fn logs_that_differ_are_cut_by_epoch() {
    // The leader has epochs 1 to 9 and 3 behind; the follower wrote more in epoch 1, and in 2.
    let epochs = Epochs::new(vec![(1, 0), (3, 10)]);
    let settings = Settings::default();
    let mut leader = Replica::new(NodeId(0), settings, epochs, (0, 4, 20));
    leader.assign(&meta(4, &[0]), BTreeSet::new(), 5, T0);
    let epochs = Epochs::new(vec![(1, 0), (2, 14)]);
    let mut follower = Replica::new(NodeId(1), settings, epochs, (0, 4, 16));
    let mut effects = follower.assign(&meta(4, &[0]), BTreeSet::new(), 6, T0);
    let mut cuts = Vec::new();
    for _ in 0..4 {
        let mut back = Vec::new();
        for effect in effects {
            match effect {
                Effect::Truncate(to) => cuts.push(to),
                Effect::Send(NodeId(0), message) => {
                    back.extend(leader.message(NodeId(1), &message, T0));
                }
                _ => {}
            }
        }
        effects = Vec::new();
        for effect in back {
            if let Effect::Send(to, message) = effect
                && to == NodeId(1)
            {
                effects.extend(follower.message(NodeId(0), &message, T0));
            }
        }
    }
    assert_eq!(cuts, [10], "not below what they share, and at once");
    assert_eq!((follower.end(), follower.epochs().last()), (10, 1));
}

#[test]
fn who_joins_has_what_the_leader_before_may_have_committed() {
    // A new leader knows of 4 that are committed; the one before it may have told of all 10.
    let epochs = Epochs::new(vec![(1, 0)]);
    let mut leader = Replica::new(NodeId(0), Settings::default(), epochs, (0, 4, 10));
    leader.assign(&meta(3, &[0, 1]), BTreeSet::new(), 5, T0);
    let joins = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Wish(_)));
    let mut effects = leader.message(NodeId(2), &subscribe(3, 1, 7, 1), T0);
    let head = Head {
        epoch: 3,
        session: (7, 1),
        base: 7,
        high: 4,
        start: 0,
    };
    effects.extend(leader.pushed(NodeId(2), head, (10, 50), T0));
    effects.extend(leader.message(NodeId(2), &ack(9, 50), T0));
    assert!(!joins(&effects), "9 of 10");
    assert!(joins(&leader.message(NodeId(2), &ack(10, 50), T0)));
    assert_eq!(
        leader.client_high(T0),
        Err(ErrorCode::NotLeaderOrFollower),
        "no lease yet"
    );
    leader.lease(T0 + Duration::from_secs(9), T0);
    assert_eq!(leader.client_high(T0), Err(ErrorCode::OffsetNotAvailable));
}

#[test]
fn an_epoch_that_was_led_without_a_record_is_nothing_that_others_know() {
    let epochs = Epochs::new(vec![(0, 0)]);
    let mut replica = Replica::new(NodeId(0), Settings::default(), epochs, (0, 4, 43));
    replica.assign(&meta(1, &[0, 1]), BTreeSet::new(), 5, T0);
    assert_eq!(replica.epochs().last(), 1);
    let mut other = meta(2, &[1]);
    other.leader = Some(NodeId(1));
    let effects = replica.assign(&other, BTreeSet::new(), 5, T0);
    let [
        Effect::Send(
            _,
            Message::Subscribe {
                last_epoch, end, ..
            },
        ),
    ] = effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!((last_epoch, end), (0, 43));
}

#[test]
fn a_log_that_ends_before_the_leaders_begins_is_begun_anew() {
    let epochs = Epochs::new(vec![(1, 0), (2, 60)]);
    let mut leader = Replica::new(NodeId(0), Settings::default(), epochs, (0, 90, 90));
    leader.trimmed(50);
    leader.assign(&meta(3, &[0]), BTreeSet::new(), 5, T0);
    assert_eq!(leader.epochs().list()[0], (1, 50));
    let epochs = Epochs::new(vec![(1, 0)]);
    let mut follower = Replica::new(NodeId(1), Settings::default(), epochs, (0, 30, 40));
    let effects = follower.assign(&meta(3, &[0]), BTreeSet::new(), 6, T0);
    let [Effect::Send(_, first)] = &effects[..] else {
        panic!("{effects:?}")
    };
    let effects = leader.message(NodeId(1), first, T0);
    let [Effect::Send(_, begin)] = &effects[..] else {
        panic!("{effects:?}")
    };
    let effects = follower.message(NodeId(0), begin, T0);
    assert_eq!(effects[0], Effect::Reset(50));
    let Effect::Send(_, again) = &effects[1] else {
        panic!("{effects:?}")
    };
    assert_eq!(
        (follower.high(), follower.end(), follower.durable()),
        (50, 50, 50)
    );
    assert_eq!(pushes(&leader.message(NodeId(1), again, T0)).len(), 1);
}

#[test]
#[should_panic(expected = "is committed")]
fn what_is_committed_is_never_cut() {
    let mut follower = Replica::new(
        NodeId(1),
        Settings::default(),
        Epochs::new(vec![(1, 0)]),
        (0, 8, 10),
    );
    follower.assign(&meta(4, &[0]), BTreeSet::new(), 6, T0);
    let diverged = Message::Diverged {
        epoch: 4,
        session: (6, 1),
        at: 1,
        end: 5,
    };
    follower.message(NodeId(0), &diverged, T0);
}

#[test]
fn who_lags_is_dropped_and_comes_back_when_it_has_all() {
    let mut leader = leader(1);
    leader.append(3, Acks::None, 0, T0).unwrap();
    leader.flushed(3, T0);
    let late = T0 + Duration::from_secs(11);
    let wish = |effects: Vec<Effect>| {
        effects.into_iter().find_map(|e| match e {
            Effect::Wish(w) => Some((w.epoch, w.isr)),
            _ => None,
        })
    };
    assert_eq!(wish(leader.tick(late)), Some((3, vec![NodeId(0)])));
    assert_eq!(wish(leader.tick(late)), None, "once");
    assert_eq!(
        leader.high(),
        0,
        "it holds back until the metadata says that it is out"
    );
    let mut alone = meta(3, &[0]);
    alone.epoch = 4;
    let effects = leader.assign(&alone, BTreeSet::new(), 5, late);
    assert!(effects.contains(&Effect::High(3)));
    let mut effects = leader.message(NodeId(1), &subscribe(3, 3, 2, 1), late);
    effects.extend(leader.tick(late));
    assert_eq!(wish(effects), None, "a record is missing");
    let head = Head {
        epoch: 3,
        session: (7, 1),
        base: 2,
        high: 3,
        start: 0,
    };
    leader.pushed(NodeId(1), head, (3, 10), late);
    let joined = wish(leader.message(NodeId(1), &ack(3, 10), late));
    assert_eq!(joined, Some((4, vec![NodeId(0), NodeId(1)])));
    // Refused: it may come true all the same, until the epoch of the partition rises.
    let again = wish(leader.refused(ErrorCode::IneligibleReplica, late));
    assert_eq!(again, Some((4, vec![NodeId(0)])));
}

proptest! {
    /// However two logs came about, a follower that is cut as it is told shares the rest.
    #[test]
    fn cuts_by_epoch_find_what_is_shared(
        shared in proptest::collection::vec(0..3i32, 0..12),
        mine in proptest::collection::vec(0..2i32, 0..8),
        theirs in proptest::collection::vec(0..2i32, 0..8),
    ) {
        // Logs as lists of epochs. Epochs rise; behind what is shared, no epoch is on both sides
        // but one that was shared already, which only one side goes on with.
        let mut epoch = 0;
        let mut base: Vec<i32> = Vec::new();
        for step in shared {
            epoch += step;
            base.push(epoch);
        }
        let grow = |steps: &[i32], first: i32| {
            let mut log = base.clone();
            let mut epoch = first;
            for step in steps {
                epoch += step * 2;
                log.push(epoch);
            }
            log
        };
        let follower = grow(&mine, epoch + 1);
        let leader = grow(&theirs, epoch + 2);
        let epochs = |log: &[i32]| {
            let mut list: Vec<(i32, i64)> = Vec::new();
            for (epoch, at) in log.iter().zip(0..) {
                if list.last().is_none_or(|e| e.0 != *epoch) {
                    list.push((*epoch, at));
                }
            }
            Epochs::new(list)
        };
        let (mine, theirs) = (epochs(&follower), epochs(&leader));
        let (mut own, mut end, mut rounds) = (mine.clone(), follower.len() as i64, 0);
        loop {
            let last = own.last();
            let (at, to) = theirs.end_of(last, leader.len() as i64);
            if last == -1 || at == last && end <= to {
                break;
            }
            let (e, mine_end) = own.end_of(at, end);
            end = if e == at { mine_end.min(to) } else { mine_end }.min(end);
            own.truncate(end);
            rounds += 1;
            prop_assert!(rounds < 20, "it comes to an end");
        }
        let end = if own.last() == -1 { 0 } else { end as usize };
        prop_assert_eq!(&follower[..end], &leader[..end]);
        prop_assert!(end >= base.len(), "no more is cut than has to be");
    }
}

#[test]
fn who_is_not_answered_subscribes_again_soon_and_who_was_waits_for_long() {
    let mut follower = Replica::new(
        NodeId(0),
        Settings::default(),
        Epochs::new(Vec::new()),
        (0, 0, 0),
    );
    let mut led = meta(3, &[0, 1]);
    led.leader = Some(NodeId(1));
    let session = |effects: &[Effect]| {
        let session = effects.iter().find_map(|e| match e {
            Effect::Send(_, Message::Subscribe { session, .. }) => Some(*session),
            _ => None,
        });
        session.map(|(_, number)| number)
    };
    let first = session(&follower.assign(&led, BTreeSet::new(), 5, T0));
    let pulse = Settings::default().pulse;
    assert_eq!(session(&follower.tick(T0 + pulse / 10)), None);
    let soon = T0 + pulse / 5;
    let again = session(&follower.tick(soon));
    assert!(again > first, "{again:?} after {first:?}");
    let head = Head {
        epoch: 3,
        session: (5, again.unwrap()),
        base: 0,
        high: 0,
        start: 0,
    };
    follower.message(NodeId(1), &Message::Data(head), soon);
    assert_eq!(session(&follower.tick(soon + pulse * 3)), None);
    assert!(session(&follower.tick(soon + pulse * 4)) > again);
}

#[test]
fn a_log_that_is_begun_anew_may_begin_before_the_leaders_start() {
    let mut follower = Replica::new(NodeId(1), Settings::default(), Epochs::default(), (0, 0, 0));
    follower.assign(&meta(3, &[0]), BTreeSet::new(), 5, T0);
    let session = (5, 1);
    let begin = Message::Begin {
        epoch: 3,
        session,
        start: 15,
    };
    let effects = follower.message(NodeId(0), &begin, T0);
    assert_eq!(effects[0], Effect::Reset(15));
    let head = Head {
        epoch: 3,
        session: (5, 2),
        base: 15,
        high: 20,
        start: 15,
    };
    assert!(!follower.begin_earlier(head, 15), "a batch begins there");
    assert!(follower.begin_earlier(head, 10));
    assert!(!follower.begin_earlier(head, 9), "once");
    let head = Head { base: 10, ..head };
    assert!(follower.data(NodeId(0), head, &[(3, 10)], (10, 500), T0));
    let effects = follower.flushed(20, T0);
    let at = |e: Effect| effects.iter().position(|x| *x == e);
    let (high, trim) = (at(Effect::High(20)), at(Effect::Trim(15)));
    assert!(high.is_some() && trim > high, "{effects:?}");
    assert!(!follower.begin_earlier(head, 5), "it has something");
}

#[test]
fn who_is_held_back_is_told_that_the_leader_is_there() {
    let mut leader = leader(1);
    leader.message(NodeId(2), &subscribe(3, -1, 0, 1), T0);
    let (_, _, effects) = leader.append(5, Acks::Leader, 1, T0).unwrap();
    assert_eq!(pushes(&effects), [(2, 0, 1_000)]);
    let head = Head {
        epoch: 3,
        session: (7, 1),
        base: 0,
        high: 0,
        start: 0,
    };
    let (mut now, mut told) = (T0, 0);
    leader.hold(NodeId(2), head, now);
    assert_eq!(leader.leads().unwrap().held(), [NodeId(2)]);
    for _ in 0..100 {
        now = now + Duration::from_millis(100);
        let effects = leader.tick(now);
        assert!(pushes(&effects).is_empty());
        told += effects.len();
        // It is asked again, and must wait again.
        let again = leader.release(NodeId(2), now);
        assert_eq!(pushes(&again).len(), 1);
        leader.hold(NodeId(2), head, now);
    }
    assert!((18..=25).contains(&told), "{told} in ten seconds");
    // In sync nobody is held back.
    leader.assign(&meta(3, &[0, 2]), BTreeSet::new(), 5, now);
    let mut joined = meta(3, &[0, 2]);
    joined.epoch += 1;
    let effects = leader.assign(&joined, BTreeSet::new(), 5, now);
    assert_eq!(pushes(&effects).len(), 1);
}

#[test]
fn a_braked_follower_gives_credit_back_when_it_is_told_to() {
    let mut follower = Replica::new(NodeId(1), Settings::default(), Epochs::default(), (0, 0, 0));
    follower.brake(true);
    let effects = follower.assign(&meta(3, &[0]), BTreeSet::new(), 5, T0);
    let small = |e: &Effect| {
        matches!(e, Effect::Send(_, Message::Subscribe { credit, .. })
        if *credit == 256 << 10)
    };
    assert!(effects.iter().any(small), "{effects:?}");
    let head = Head {
        epoch: 3,
        session: (5, 1),
        base: 0,
        high: 0,
        start: 0,
    };
    let taken = |effects: &[Effect]| {
        let of = |e: &Effect| match e {
            Effect::Send(_, Message::Ack { taken, .. }) => Some(*taken),
            _ => None,
        };
        effects.iter().filter_map(of).next_back()
    };
    assert!(follower.data(NodeId(0), head, &[(3, 0)], (5, 900), T0));
    assert_eq!(taken(&follower.flushed(5, T0)), Some(0));
    assert_eq!(follower.kept_back(), 900);
    assert_eq!(taken(&follower.give_back(300)), Some(300));
    assert_eq!(
        taken(&follower.give_back(9_000)),
        Some(900),
        "no more than it took"
    );
    follower.data(NodeId(0), Head { base: 5, ..head }, &[(3, 0)], (5, 70), T0);
    follower.brake(false);
    assert_eq!(taken(&follower.flushed(10, T0)), Some(970));
}

#[test]
fn a_subscription_is_answered_before_its_records_are_read() {
    let mut leader = leader(1);
    leader.append(9, Acks::None, 0, T0).unwrap();
    let effects = leader.message(NodeId(2), &subscribe(3, -1, 0, 1), T0);
    let answer = effects
        .iter()
        .position(|e| matches!(e, Effect::Send(NodeId(2), Message::Data(_))));
    let push = effects
        .iter()
        .position(|e| matches!(e, Effect::Push { .. }));
    assert!(answer.is_some() && answer < push, "{effects:?}");
}

/// How often a node is told something without records.
fn told(effects: &[Effect], node: i32) -> usize {
    let told = |e: &&Effect| matches!(e, Effect::Send(to, Message::Data(_)) if to.0 == node);
    effects.iter().filter(told).count()
}

#[test]
fn news_wait_for_records_or_for_a_while() {
    let mut leader = leader(2);
    let settings = Settings::default();
    leader.message(NodeId(1), &subscribe(3, -1, 0, 1), T0);
    let committed = |leader: &mut Replica, at: Mono| {
        let (base, _, mut effects) = leader.append(1, Acks::All, 1, at).unwrap();
        let [Effect::Push { head, .. }] = effects[..] else {
            panic!("{effects:?}");
        };
        assert_eq!(head.high, base, "records bring what is known by then");
        let end = base + 1;
        effects = leader.pushed(NodeId(1), head, (end, 100), at);
        effects.extend(leader.flushed(end, at));
        effects.extend(leader.message(NodeId(1), &ack(end, end as u64 * 100), at));
        assert!(effects.contains(&Effect::High(end)), "{effects:?}");
        told(&effects, 1)
    };
    let soon = T0 + settings.news / 2;
    assert_eq!(committed(&mut leader, T0), 0);
    assert_eq!(committed(&mut leader, soon), 0);
    assert_eq!(told(&leader.tick(T0 + settings.news), 1), 0, "it waits");
    let late = soon + settings.news;
    assert_eq!(told(&leader.tick(late), 1), 1);
    assert_eq!(told(&leader.tick(late + settings.news), 1), 0, "once");
    assert_eq!(told(&leader.tick(late + settings.pulse), 1), 1, "a pulse");

    let at_once = Settings {
        news: Duration::ZERO,
        min_isr: 2,
        ..settings
    };
    leader.set(at_once, late);
    assert_eq!(committed(&mut leader, late + settings.pulse * 2), 1);
}

#[test]
fn a_follower_answers_pulses_and_says_what_is_durable() {
    let mut follower = Replica::new(NodeId(1), Settings::default(), Epochs::default(), (0, 0, 0));
    let mut led = meta(3, &[0, 1]);
    led.leader = Some(NodeId(0));
    follower.assign(&led, BTreeSet::new(), 5, T0);
    let mut head = Head {
        epoch: 3,
        session: (5, 1),
        base: 0,
        high: 0,
        start: 0,
    };
    let acks = |effects: &[Effect]| {
        let ack = |e: &Effect| match e {
            Effect::Send(NodeId(0), Message::Ack { durable, taken, .. }) => {
                Some((*durable, *taken))
            }
            _ => None,
        };
        effects.iter().filter_map(ack).collect::<Vec<_>>()
    };
    let pulse = follower.message(NodeId(0), &Message::Data(head), T0);
    assert_eq!(acks(&pulse), [(0, 0)]);
    assert!(follower.data(NodeId(0), head, &[(3, 0)], (4, 400), T0));
    assert_eq!(acks(&follower.taken(T0)), [], "nothing is durable");
    assert_eq!(acks(&follower.flushed(4, T0)), [(4, 400)]);
    (head.base, head.high) = (4, 4);
    let news = follower.message(NodeId(0), &Message::Data(head), T0);
    assert_eq!(news, [Effect::High(4)], "no answer");
    let pulse = follower.message(NodeId(0), &Message::Data(head), T0);
    assert_eq!(acks(&pulse), [(4, 400)], "the answer before may be lost");
}
