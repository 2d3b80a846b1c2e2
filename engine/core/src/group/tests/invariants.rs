//! What holds in a coordinator between any two steps.

use std::collections::BTreeSet;

use super::super::classic::{Group, State};
use super::*;

pub fn check(coordinator: &Coordinator) {
    let ctx = &coordinator.ctx;
    // A crowd would make it slow, and a coordinator that failed does nothing any more.
    let crowd = coordinator.groups.values().any(|g| g.pending.len() > 50);
    if crowd || ctx.out.failed().is_some() {
        return;
    }
    let mut bytes = 0;
    let mut offsets = 0;
    let mut waiting = BTreeSet::new();
    for group in coordinator.groups.values() {
        assert!(!group.is_gone(), "{} is kept for nothing", group.name);
        check_members(coordinator, group);
        check_clock(coordinator, group);
        check_modern(coordinator, group);
        bytes += group.member_bytes();
        offsets += group.offsets.len();
        let tokens = group.members.values().flat_map(|m| [m.join, m.sync]);
        waiting.extend(tokens.flatten());
    }
    bytes += coordinator.shares.values().map(|g| g.bytes).sum::<usize>();
    let parked: BTreeSet<Token> = ctx.parked.keys().copied().collect();
    assert_eq!(waiting, parked, "who waits, and who is known to wait");
    assert_eq!((ctx.member_bytes, ctx.offsets), (bytes, offsets));
}

fn check_members(coordinator: &Coordinator, group: &Group) {
    let timers = &coordinator.ctx.timers;
    let state = group.state;
    assert_eq!(
        group.members.is_empty(),
        group.leader.is_none(),
        "{group:?}"
    );
    if let Some(leader) = &group.leader {
        assert!(group.members.contains_key(leader), "the leader is a member");
    }
    for (id, member) in &group.members {
        assert_eq!(id, &member.id);
        assert!(
            member.join.is_none() || state == State::Preparing,
            "{state:?}: {member:?}"
        );
        assert!(
            member.sync.is_none() || state == State::Completing,
            "{state:?}: {member:?}"
        );
        let waits = member.join.is_some() || member.sync.is_some();
        match member.armed {
            Some(key) => assert!(timers.is_set(key) && key.0 <= member.deadline),
            None => assert!(waits && !member.is_new, "nobody looks after {member:?}"),
        }
        if let Some(instance) = &member.instance {
            assert_eq!(group.statics.get(instance), Some(id));
        }
        let synced = !group.unsynced.contains(id);
        assert!(state != State::Completing || synced == member.sync.is_some() || !waits);
    }
    assert_eq!(
        group.statics.len(),
        group
            .members
            .values()
            .filter(|m| m.instance.is_some())
            .count()
    );
    assert!(
        group
            .unsynced
            .iter()
            .all(|id| group.members.contains_key(id))
    );
    for (id, key) in &group.pending {
        assert!(timers.is_set(*key) && !group.members.contains_key(id));
    }
}

/// A group of the `consumer` protocol: what it derives from its records is right, somebody looks
/// after each member, and no partition belongs to two.
fn check_modern(coordinator: &Coordinator, group: &Group) {
    let Some(modern) = &group.modern else {
        return;
    };
    assert!(group.hard.is_none() && group.members.is_empty() && group.state == State::Empty);
    assert!(modern.target_epoch <= modern.epoch, "{modern:?}");
    let timers = &coordinator.ctx.timers;
    let mut owners = BTreeSet::new();
    let mut targets = BTreeSet::new();
    for (id, mate) in &modern.members {
        let now = &mate.now;
        assert!(now.assigned.is_disjoint(&now.revoking), "{mate:?}");
        for part in now.assigned.iter().chain(&now.revoking) {
            assert!(owners.insert(*part), "{part:?} belongs to two: {modern:?}");
            assert_eq!(modern.owners.get(part), Some(id), "{part:?}");
        }
        for part in mate.target.iter() {
            let clean = modern.target_epoch == modern.epoch;
            assert!(
                targets.insert(*part) || !clean,
                "{part:?} goes to two: {modern:?}"
            );
        }
        let armed = mate.armed.expect("a member that nobody looks after");
        assert!(timers.is_set(armed) && armed.0 <= mate.deadline);
        assert!(mate.patience.is_none_or(|key| timers.is_set(key)));
        let waits = now.phase == Phase::Unrevoked && !mate.is_classic();
        assert!(
            !waits || mate.patience.is_some(),
            "nobody waits for {mate:?}"
        );
        if let Some(instance) = &mate.sub.instance {
            let now = modern
                .statics
                .get(instance)
                .expect("an instance that nobody has");
            assert_eq!(modern.members[now].sub.instance.as_ref(), Some(instance));
        }
    }
    assert_eq!(modern.owners.len(), owners.len(), "owners that own nothing");
}

fn check_clock(coordinator: &Coordinator, group: &Group) {
    let timers = &coordinator.ctx.timers;
    let set = |key: Option<_>| key.is_some_and(|key| timers.is_set(key));
    let clock = &group.clock;
    assert_eq!(
        set(clock.join),
        group.state == State::Preparing,
        "{group:?}"
    );
    assert!(clock.initial.is_none() || group.state == State::Preparing);
    match group.state {
        State::Completing => assert!(set(clock.sync)),
        State::Stable => assert!(group.unsynced.is_empty() || set(clock.sync), "{group:?}"),
        State::Empty => assert!(group.members.is_empty() && group.protocol.is_none()),
        State::Preparing => assert!(!set(clock.sync)),
    }
}
