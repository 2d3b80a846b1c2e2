//! Kafka's `simple` assignor by its aims: every partition is read by somebody, every member reads
//! something, partitions are spread evenly, and who has something keeps it if that fits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streamd_model::TopicId;

use super::super::record::Parts;

/// The name of the assignor.
pub(in super::super) const NAME: &str = "simple";

/// What a member wants, and what it had.
pub(super) struct Want {
    pub id: Arc<str>,
    pub topics: BTreeSet<TopicId>,
    pub had: Arc<Parts>,
}

/// Gives each member its partitions, in the order of `wants`. `counts`: partitions of the topics.
pub(super) fn assign(wants: &[Want], counts: &BTreeMap<TopicId, i32>) -> Vec<Parts> {
    let mut shares = vec![Parts::new(); wants.len()];
    for (&topic, &partitions) in counts {
        let of_topic = wants
            .iter()
            .enumerate()
            .filter(|(_, w)| w.topics.contains(&topic));
        let members: Vec<usize> = of_topic.map(|(at, _)| at).collect();
        if members.is_empty() || partitions <= 0 {
            continue;
        }
        for (member, partition) in spread(wants, &members, topic, partitions) {
            shares[member].insert((topic, partition));
        }
    }
    shares
}

/// Spreads the partitions of one topic over members.
fn spread(wants: &[Want], members: &[usize], topic: TopicId, partitions: i32) -> Vec<(usize, i32)> {
    let total = members.len().max(partitions as usize);
    // The most that a member gets, and the most members that a partition gets.
    let per_member = total.div_ceil(members.len());
    let per_partition = total.div_ceil(partitions as usize);
    let mut load: BTreeMap<usize, usize> = members.iter().map(|m| (*m, 0)).collect();
    let mut readers = vec![0usize; partitions as usize];
    let mut given = BTreeSet::new();
    let mut give = |m: usize, p: i32, readers: &mut Vec<usize>, load: &mut BTreeMap<_, _>| {
        if given.insert((m, p)) {
            readers[p as usize] += 1;
            *load.entry(m).or_default() += 1;
        }
    };
    for &m in members {
        let had = wants[m].had.range((topic, 0)..(topic, partitions));
        for &(_, p) in had {
            if load[&m] < per_member && readers[p as usize] < per_partition {
                give(m, p, &mut readers, &mut load);
            }
        }
    }
    for p in 0..partitions {
        if readers[p as usize] == 0
            && let Some((&m, _)) = load.iter().min_by_key(|(m, n)| (**n, **m))
        {
            give(m, p, &mut readers, &mut load);
        }
    }
    for &m in members {
        if load[&m] == 0
            && let Some(p) = (0..partitions).min_by_key(|p| readers[*p as usize])
        {
            give(m, p, &mut readers, &mut load);
        }
    }
    given.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TopicId = TopicId([1; 16]);

    fn wants(had: &[Parts]) -> Vec<Want> {
        let want = |(n, had): (usize, &Parts)| Want {
            id: format!("m{n}").as_str().into(),
            topics: [T].into(),
            had: Arc::new(had.clone()),
        };
        had.iter().enumerate().map(want).collect()
    }

    #[test]
    fn all_is_read_and_all_have_something() {
        for members in 1..9usize {
            for partitions in 1..9 {
                let counts = BTreeMap::from([(T, partitions)]);
                let mut shares = assign(&wants(&vec![Parts::new(); members]), &counts);
                for round in 0..2 {
                    let all: BTreeSet<_> = shares.iter().flatten().collect();
                    assert_eq!(all.len(), partitions as usize, "{members} of {partitions}");
                    let sizes = shares.iter().map(Parts::len);
                    let (least, most) = (sizes.clone().min(), sizes.max());
                    assert!(least >= Some(1), "{members} of {partitions}: {shares:?}");
                    let fair = (partitions as usize).div_ceil(members);
                    assert!(most <= Some(fair), "{members} of {partitions}: {shares:?}");
                    let again = assign(&wants(&shares), &counts);
                    assert_eq!(again, shares, "round {round}: nobody changed");
                    shares = again;
                }
            }
        }
    }

    #[test]
    fn who_leaves_is_replaced_and_others_keep_what_they_have() {
        let counts = BTreeMap::from([(T, 4)]);
        let before = assign(&wants(&[Parts::new(), Parts::new()]), &counts);
        let after = assign(&wants(&before[..1]), &counts);
        assert!(before[0].is_subset(&after[0]) && after[0].len() == 4);
        let shares = assign(&wants(&[after[0].clone(), Parts::new()]), &counts);
        assert!(shares[0].is_subset(&after[0]), "{shares:?}");
        assert_eq!(shares[0].len() + shares[1].len(), 4);
    }
}
