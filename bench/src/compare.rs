//! One load on one broker or on several in turn, A B A B, in one run.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::failure::{Context, Result};
use crate::metric::Metric;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::ratio::{Comparison, Spread};
use crate::run;
use crate::spec::{Spec, TimeSpec};
use crate::sys;
use crate::workload::{Kind, Target, Workload};

/// One load and what came of it on every broker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    /// The load.
    pub workload: Workload,
    /// The brokers' names.
    pub names: Vec<String>,
    /// What was measured of all of them.
    pub figures: BTreeMap<Metric, Comparison>,
    /// This program's CPU as a part of each broker's (median).
    pub client_share: Vec<Option<f64>>,
    /// Every round that counts: a run on each broker. Left out of the history.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Vec<Outcome>>,
}

impl Case {
    /// A figure of all brokers, if it was measured.
    pub fn figure(&self, metric: Metric) -> Option<&Comparison> {
        self.figures.get(&metric)
    }

    /// The median of a figure for one broker.
    pub fn median(&self, metric: Metric, side: usize) -> Option<f64> {
        let spread = self.figure(metric)?.sides.get(side)?;
        Some(spread.median)
    }

    /// The runs on one broker.
    pub fn runs(&self, side: usize) -> impl Iterator<Item = &Outcome> {
        self.rounds.iter().filter_map(move |round| round.get(side))
    }
}

/// Runs one load: `rounds` rounds that count, with one that does not before them if there are
/// several.
///
/// # Errors
/// A broker cannot be reached, refuses something, or falls silent.
pub fn case(
    targets: &[Target],
    workload: &Workload,
    rounds: usize,
    progress: &Progress,
) -> Result<Case> {
    let mut kept = Vec::with_capacity(rounds);
    let first = if rounds > 1 { 0 } else { 1 };
    for round in first..=rounds {
        let mut runs = Vec::with_capacity(targets.len());
        for target in targets {
            progress.say(&format!(
                "{} on {} {round}/{rounds}",
                workload.name, target.name
            ));
            runs.push(one(target, workload)?);
            progress.add(cost(workload));
        }
        if round > 0 {
            kept.push(runs);
        }
    }
    Ok(summary(targets, workload, kept))
}

/// About how many seconds a run takes, for the progress bar.
pub fn cost(workload: &Workload) -> f64 {
    workload.time.warmup_s + workload.time.seconds + workload.fill_mb as f64 / 300.0
}

/// About how many seconds [`case`] takes.
pub fn case_cost(targets: usize, workload: &Workload, rounds: usize) -> f64 {
    let runs = targets * if rounds > 1 { rounds + 1 } else { 1 };
    cost(workload) * runs as f64
}

/// Loads a broker for about so many seconds without counting: a virtual machine that compiles as
/// it runs needs it, and no broker is to be measured cold.
///
/// # Errors
/// As [`case`].
pub fn warm(target: &Target, seconds: f64) -> Result<()> {
    if seconds <= 0.0 {
        return Ok(());
    }
    let each = Spec {
        time: TimeSpec {
            warmup: Some(0.0),
            seconds: Some((seconds / 4.0).max(0.01)),
            ..TimeSpec::default()
        },
        partitions: Some(12),

        ..Spec::default()
    };
    let small = Spec {
        size: Some(100),
        codec: Some(crate::batch::Codec::Lz4),
        ..each.clone()
    };
    let single = Spec {
        batch_records: Some(1),
        connections: Some(32),
        in_flight: Some(1),
        ..each.clone()
    };
    let loads = [
        (small, Kind::Produce),
        (each.clone(), Kind::Produce),
        (each, Kind::Fetch),
        (single, Kind::Produce),
    ];
    for (spec, kind) in loads {
        one(target, &spec.workload(kind)?)?;
    }
    Ok(())
}

fn one(target: &Target, workload: &Workload) -> Result<Outcome> {
    // What another broker left to be written back is not to be paid for by this one.
    sys::sync();
    run::run(target, workload).context(|| format!("{} in {}", target.name, workload.name))
}

pub(crate) fn summary(targets: &[Target], workload: &Workload, rounds: Vec<Vec<Outcome>>) -> Case {
    let compare = |metric: Metric| {
        let values = |round: &Vec<Outcome>| round.iter().map(|run| metric.of(run)).collect();
        let values: Option<Vec<Vec<f64>>> = rounds.iter().map(values).collect();
        Some((metric, Comparison::of(&values?)?))
    };
    let share = |side: usize| {
        let of = |round: &Vec<Outcome>| round[side].interval.client_share();
        Spread::of(rounds.iter().filter_map(of)).map(|spread| spread.median)
    };
    Case {
        workload: workload.clone(),
        names: targets.iter().map(|target| target.name.clone()).collect(),
        figures: Metric::ALL.into_iter().filter_map(compare).collect(),
        client_share: (0..targets.len()).map(share).collect(),
        rounds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Histograms, Interval};

    fn target(name: &str) -> Target {
        Target {
            name: name.into(),
            address: ([127, 0, 0, 1], 1).into(),
            pids: Vec::new(),
            replicas: 1,
            configs: Vec::new(),
        }
    }

    fn outcome(cpu_ms: f64, client_cpu_ms: f64) -> Outcome {
        Outcome {
            target: String::new(),
            workload: Spec::default().workload(Kind::Produce).unwrap(),
            rates: Vec::new(),
            curve: Vec::new(),
            histograms: Histograms::default(),
            interval: Interval {
                seconds: 1.0,
                records: 1000,
                bytes: 1_000_000,
                client_cpu_ms,
                broker: Some(crate::procfs::Used {
                    cpu_ms,
                    ..Default::default()
                }),
                ..Interval::default()
            },
        }
    }

    #[test]
    fn a_summary_takes_the_ratio_round_by_round() {
        let rounds = vec![
            vec![outcome(1.0, 0.5), outcome(2.0, 0.5)],
            vec![outcome(3.0, 1.5), outcome(12.0, 3.0)],
        ];
        let workload = rounds[0][0].workload.clone();
        let case = summary(&[target("A"), target("B")], &workload, rounds);
        let cpu = case.figure(Metric::CpuMsPerMb).unwrap();
        assert_eq!((cpu.ratios[0].min, cpu.ratios[0].max), (0.25, 0.5));
        assert_eq!(case.median(Metric::CpuMsPerMb, 1), Some(7.0));
        assert_eq!(case.client_share, [Some(0.5), Some(0.25)]);
        // No latency was recorded: there is no figure of it.
        assert_eq!(case.figure(Metric::P50Us), None);
    }

    #[test]
    fn a_broker_without_a_process_has_no_cpu_figure() {
        let mut run = outcome(1.0, 1.0);
        run.interval.broker = None;
        let workload = run.workload.clone();
        let case = summary(&[target("A")], &workload, vec![vec![run]]);
        assert_eq!(case.figure(Metric::CpuMsPerMb), None);
        assert!(case.figure(Metric::RecordsPerS).unwrap().ratios.is_empty());
        assert_eq!(case.client_share, [None]);
    }

    #[test]
    fn the_cost_counts_the_round_that_does_not() {
        let load = outcome(1.0, 1.0).workload;
        assert_eq!(case_cost(2, &load, 5), 12.0 * cost(&load));
        assert_eq!(case_cost(1, &load, 1), cost(&load));
    }
}
