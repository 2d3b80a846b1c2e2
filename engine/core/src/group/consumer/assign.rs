//! The assignors of the coordinator: who shall have which partitions. Both leave partitions where
//! they are as far as that is fair; both are functions of nothing but their input.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streamd_model::TopicId;

use super::super::record::Parts;

/// How often the uneven loads of members with different subscriptions are evened out.
const ROUNDS_MAX: usize = 20;

/// How partitions are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Everybody gets as many as the others.
    Uniform,
    /// Of each topic everybody gets a range.
    Range,
}

impl Assignor {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// The assignor with this name.
    pub fn named(name: &str) -> Option<Assignor> {
        let all = [Assignor::Uniform, Assignor::Range];
        all.into_iter().find(|a| a.name() == name)
    }

    /// Shares the partitions.
    pub(in super::super) fn assign(self, members: &[Wants], topics: &Counts) -> Vec<Parts> {
        match self {
            Assignor::Uniform => uniform(members, topics),
            Assignor::Range => range(members, topics),
        }
    }
}

/// How many partitions topics have.
pub(in super::super) type Counts = BTreeMap<TopicId, i32>;

/// What an assignor knows of a member.
#[derive(Clone, Debug)]
pub(in super::super) struct Wants {
    pub id: Arc<str>,
    pub instance: Option<String>,
    /// Topics that it subscribes to; all of them exist.
    pub topics: BTreeSet<TopicId>,
    /// What it had so far.
    pub had: Arc<Parts>,
}

/// Each partition that somebody wants, in order.
fn wanted(members: &[Wants], topics: &Counts) -> Vec<(TopicId, i32)> {
    let any: BTreeSet<_> = members.iter().flat_map(|m| &m.topics).collect();
    let counts = topics.iter().filter(|(id, _)| any.contains(id));
    counts
        .flat_map(|(id, n)| (0..*n).map(|p| (*id, p)))
        .collect()
}

/// What members have and may keep, each partition once; and all that is kept.
fn kept(members: &[Wants], topics: &Counts) -> (Vec<Parts>, BTreeSet<(TopicId, i32)>) {
    let mut taken = BTreeSet::new();
    let mut shares = Vec::with_capacity(members.len());
    for member in members {
        let fits = |part: &&(TopicId, i32)| {
            member.topics.contains(&part.0) && topics.get(&part.0).is_some_and(|n| part.1 < *n)
        };
        let had = member.had.iter().filter(fits).copied();
        let share: Parts = had.filter(|part| taken.insert(*part)).collect();
        shares.push(share);
    }
    (shares, taken)
}

fn uniform(members: &[Wants], topics: &Counts) -> Vec<Parts> {
    let Some(first) = members.first() else {
        return Vec::new();
    };
    let all = wanted(members, topics);
    let (mut shares, mut taken) = kept(members, topics);
    if members.iter().all(|m| m.topics == first.topics) {
        trim(&mut shares, &mut taken, all.len());
    }
    // The least loaded member first; those of equal load in order.
    let mut queue: BTreeSet<(usize, usize)> = shares
        .iter()
        .enumerate()
        .map(|(at, s)| (s.len(), at))
        .collect();
    for part in all.iter().filter(|part| !taken.contains(part)) {
        let mut fit = queue
            .iter()
            .filter(|(_, at)| members[*at].topics.contains(&part.0));
        let Some(&(load, at)) = fit.next() else {
            continue;
        };
        queue.remove(&(load, at));
        shares[at].insert(*part);
        queue.insert((load + 1, at));
    }
    even_out(members, &mut shares, &all);
    shares
}

/// Takes from members of equal subscriptions what is above their fair share.
fn trim(shares: &mut [Parts], taken: &mut BTreeSet<(TopicId, i32)>, count: usize) {
    let (floor, mut extras) = (count / shares.len(), count % shares.len());
    for share in shares {
        let mut quota = floor;
        if share.len() > floor && extras > 0 {
            extras -= 1;
            quota += 1;
        }
        while share.len() > quota
            && let Some(part) = share.pop_last()
        {
            taken.remove(&part);
        }
    }
}

/// Moves single partitions from members with many to members with few that want them too.
fn even_out(members: &[Wants], shares: &mut [Parts], all: &[(TopicId, i32)]) {
    let mut owner: BTreeMap<(TopicId, i32), usize> = BTreeMap::new();
    for (at, share) in shares.iter().enumerate() {
        owner.extend(share.iter().map(|part| (*part, at)));
    }
    let spread = |shares: &[Parts]| {
        let loads = || shares.iter().map(Parts::len);
        loads().max().unwrap_or(0) - loads().min().unwrap_or(0)
    };
    for _ in 0..ROUNDS_MAX {
        if spread(shares) <= 1 {
            return;
        }
        let mut moved = false;
        for part in all {
            let Some(&from) = owner.get(part) else {
                continue;
            };
            let wants = |at: &usize| members[*at].topics.contains(&part.0);
            let least = (0..members.len())
                .filter(wants)
                .min_by_key(|at| shares[*at].len());
            if let Some(to) = least.filter(|to| shares[*to].len() + 1 < shares[from].len()) {
                shares[from].remove(part);
                shares[to].insert(*part);
                owner.insert(*part, to);
                moved = true;
            }
        }
        if !moved {
            return;
        }
    }
}

/// Members of equal subscriptions keep their place in the row, so that ranges move little; new
/// ones come last.
fn range(members: &[Wants], topics: &Counts) -> Vec<Parts> {
    let mut shares = vec![Parts::new(); members.len()];
    let mut row: Vec<usize> = (0..members.len()).collect();
    let is_even = members.windows(2).all(|two| two[0].topics == two[1].topics);
    row.sort_by_key(|at| {
        let m = &members[*at];
        let first = m.had.iter().map(|part| part.1).min().filter(|_| is_even);
        let place = first.unwrap_or(i32::MAX);
        (
            place,
            m.instance.is_none(),
            m.instance.clone(),
            m.id.clone(),
        )
    });
    for (topic, count) in topics {
        let readers = row.iter().filter(|at| members[**at].topics.contains(topic));
        let readers: Vec<usize> = readers.copied().collect();
        let Ok(n) = i32::try_from(readers.len()) else {
            continue;
        };
        let mut next = 0;
        for (place, at) in (0..n).zip(readers) {
            let size = count / n + i32::from(place < count % n);
            shares[at].extend((next..next + size).map(|p| (*topic, p)));
            next += size;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topic(n: u8) -> TopicId {
        TopicId([n; 16])
    }

    fn wants(id: &str, topics: &[u8], had: &[(u8, i32)]) -> Wants {
        Wants {
            id: id.into(),
            instance: None,
            topics: topics.iter().map(|n| topic(*n)).collect(),
            had: Arc::new(had.iter().map(|(t, p)| (topic(*t), *p)).collect()),
        }
    }

    fn again(members: &mut [Wants], shares: &[Parts]) {
        for (member, share) in members.iter_mut().zip(shares) {
            member.had = Arc::new(share.clone());
        }
    }

    #[test]
    fn uniform_is_fair_and_moves_no_more_than_it_must() {
        let topics: Counts = [(topic(1), 5), (topic(2), 5)].into();
        let mut members = vec![wants("a", &[1, 2], &[]), wants("b", &[1, 2], &[])];
        let first = Assignor::Uniform.assign(&members, &topics);
        assert_eq!(first.iter().map(Parts::len).collect::<Vec<_>>(), [5, 5]);
        again(&mut members, &first);
        members.push(wants("c", &[1, 2], &[]));
        let second = Assignor::Uniform.assign(&members, &topics);
        let mut sizes: Vec<_> = second.iter().map(Parts::len).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [3, 3, 4]);
        let stayed: usize = (0..2)
            .map(|n| first[n].intersection(&second[n]).count())
            .sum();
        assert_eq!(stayed, 7, "only what the new one gets moves");
        again(&mut members, &second);
        assert_eq!(Assignor::Uniform.assign(&members, &topics), second);
    }

    #[test]
    fn range_gives_ranges_in_the_same_row_for_all_topics() {
        let topics: Counts = [(topic(1), 5), (topic(2), 3)].into();
        let mut members = vec![wants("b", &[1, 2], &[]), wants("a", &[1, 2], &[])];
        let shares = Assignor::Range.assign(&members, &topics);
        let a: Vec<_> = shares[1].iter().map(|p| p.1).collect();
        assert_eq!(a, [0, 1, 2, 0, 1], "a is before b");
        again(&mut members, &shares);
        assert_eq!(Assignor::Range.assign(&members, &topics), shares);
        members.remove(1);
        assert_eq!(Assignor::Range.assign(&members, &topics)[0].len(), 8);
    }

    #[test]
    fn more_members_than_partitions() {
        let topics: Counts = [(topic(1), 2)].into();
        let members: Vec<_> = (0..5).map(|n| wants(&n.to_string(), &[1], &[])).collect();
        for assignor in [Assignor::Uniform, Assignor::Range] {
            let sizes: Vec<_> = assignor
                .assign(&members, &topics)
                .iter()
                .map(Parts::len)
                .collect();
            assert_eq!(sizes, [1, 1, 0, 0, 0]);
        }
        assert!(Assignor::Uniform.assign(&[], &topics).is_empty());
    }

    fn member() -> impl Strategy<Value = Wants> {
        let topics = proptest::collection::btree_set(0..4u8, 0..4);
        let had = proptest::collection::vec((0..5u8, 0..12i32), 0..12);
        (topics, had).prop_map(|(topics, had)| {
            let topics: Vec<u8> = topics.into_iter().collect();
            wants("", &topics, &had)
        })
    }

    proptest! {
        #[test]
        fn every_wanted_partition_goes_to_one_that_wants_it(
            members in proptest::collection::vec(member(), 0..8),
            counts in proptest::collection::vec(0..10i32, 4),
            is_range in any::<bool>(),
        ) {
            let mut members = members;
            for (n, member) in members.iter_mut().enumerate() {
                member.id = n.to_string().into();
            }
            let topics: Counts = (0..4u8).map(topic).zip(counts).collect();
            let assignor = if is_range { Assignor::Range } else { Assignor::Uniform };
            let shares = assignor.assign(&members, &topics);
            prop_assert_eq!(shares.len(), members.len());
            let mut seen = BTreeSet::new();
            for (member, share) in members.iter().zip(&shares) {
                for part in share {
                    prop_assert!(member.topics.contains(&part.0));
                    prop_assert!(seen.insert(*part), "{:?} twice", part);
                }
            }
            let all: BTreeSet<_> = wanted(&members, &topics).into_iter().collect();
            prop_assert_eq!(&seen, &all);
            again(&mut members, &shares);
            prop_assert_eq!(&assignor.assign(&members, &topics), &shares, "it comes to rest");
            let first = members.first().map(|m| m.topics.clone());
            if !is_range && members.iter().all(|m| Some(&m.topics) == first.as_ref()) {
                let loads: Vec<_> = shares.iter().map(Parts::len).collect();
                let spread = loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0);
                prop_assert!(spread <= 1, "{:?}", loads);
            }
        }
    }
}
