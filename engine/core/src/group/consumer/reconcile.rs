//! One step of a member from what it has to what it shall have.

use streamd_model::TopicId;

use super::super::record::{Current, Parts, Phase};

/// The target, and what the member says.
pub(in super::super) struct Aim<'a> {
    pub target: &'a Parts,
    pub target_epoch: i32,
    /// What the member says it owns, if it says so.
    pub owned: Option<&'a Parts>,
    /// Whether another member has a partition.
    pub taken: &'a dyn Fn(&(TopicId, i32)) -> bool,
}

/// Where the member is after this step.
pub(in super::super) fn step(now: &Current, aim: &Aim<'_>) -> Current {
    match now.phase {
        Phase::Stable if now.epoch == aim.target_epoch => now.clone(),
        // What it gave back it does not name any more.
        Phase::Unrevoked if owns(&now.revoking, aim.owned) => now.clone(),
        Phase::Stable | Phase::Unrevoked | Phase::Unreleased => next(now, aim),
    }
}

/// Whether the member may still own one of these: it does if it does not say.
fn owns(parts: &Parts, owned: Option<&Parts>) -> bool {
    owned.is_none_or(|owned| !owned.is_disjoint(parts))
}

fn next(now: &Current, aim: &Aim<'_>) -> Current {
    let kept: Parts = now.assigned.intersection(aim.target).copied().collect();
    let surplus: Parts = now.assigned.difference(aim.target).copied().collect();
    if !surplus.is_empty() && owns(&surplus, aim.owned) {
        return Current {
            epoch: now.epoch,
            previous: now.epoch,
            phase: Phase::Unrevoked,
            assigned: kept,
            revoking: surplus,
        };
    }
    let missing = aim.target.difference(&kept);
    let (waits, free): (Vec<_>, Vec<_>) = missing.copied().partition(aim.taken);
    let mut assigned = kept;
    assigned.extend(free);
    Current {
        epoch: aim.target_epoch,
        previous: now.epoch,
        phase: match waits.is_empty() {
            true => Phase::Stable,
            false => Phase::Unreleased,
        },
        assigned,
        revoking: Parts::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(numbers: &[i32]) -> Parts {
        numbers.iter().map(|n| (TopicId([1; 16]), *n)).collect()
    }

    fn stable(epoch: i32, assigned: &[i32]) -> Current {
        Current {
            epoch,
            previous: epoch - 1,
            phase: Phase::Stable,
            assigned: parts(assigned),
            revoking: Parts::new(),
        }
    }

    fn go(now: &Current, target: &[i32], owned: Option<&[i32]>, taken: &[i32]) -> Current {
        let (target, taken) = (parts(target), parts(taken));
        let owned = owned.map(parts);
        let aim = Aim {
            target: &target,
            target_epoch: 9,
            owned: owned.as_ref(),
            taken: &|part| taken.contains(part),
        };
        step(now, &aim)
    }

    #[test]
    fn it_gives_back_before_its_epoch_rises() {
        let now = go(&stable(8, &[1, 2]), &[2, 3], None, &[3]);
        assert_eq!((now.epoch, now.phase), (8, Phase::Unrevoked));
        assert_eq!((&now.assigned, &now.revoking), (&parts(&[2]), &parts(&[1])));
        assert_eq!(go(&now, &[2, 3], None, &[]), now, "it did not say");
        assert_eq!(
            go(&now, &[2, 3], Some(&[1, 2]), &[]),
            now,
            "it still has it"
        );
        let now = go(&now, &[2, 3], Some(&[2]), &[3]);
        assert_eq!((now.epoch, now.phase), (9, Phase::Unreleased));
        assert_eq!(now.assigned, parts(&[2]));
        let now = go(&now, &[2, 3], None, &[]);
        assert_eq!(
            (now.epoch, now.phase, &now.assigned),
            (9, Phase::Stable, &parts(&[2, 3]))
        );
        assert_eq!(go(&now, &[2, 3], None, &[]), now);
    }

    #[test]
    fn what_is_free_comes_at_once_and_the_rest_later() {
        let now = go(&stable(0, &[]), &[1, 2], Some(&[]), &[2]);
        assert_eq!(
            (now.epoch, now.phase, &now.assigned),
            (9, Phase::Unreleased, &parts(&[1]))
        );
        let now = go(&now, &[1, 2], None, &[2]);
        assert_eq!(
            (now.phase, &now.assigned),
            (Phase::Unreleased, &parts(&[1]))
        );
    }

    #[test]
    fn a_target_that_turns_while_it_gives_back() {
        let now = go(&stable(8, &[1, 2]), &[2], None, &[]);
        // It shall have 1 after all: it must have given it back before.
        let now = go(&now, &[1, 2], Some(&[2]), &[]);
        assert_eq!(
            (now.epoch, now.phase, &now.assigned),
            (9, Phase::Stable, &parts(&[1, 2]))
        );
    }
}
