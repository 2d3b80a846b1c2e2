//! Two brokers, the same loads, A B A B in one run.

use serde::{Deserialize, Serialize};

use crate::batch::Codec;
use crate::failure::{Context, Failure, Result};
use crate::outcome::{Interval, Outcome};
use crate::progress::Progress;
use crate::ratio::{Comparison, Spread};
use crate::report::number;
use crate::run;
use crate::sys;
use crate::workload::{Target, Workload};

/// One case of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The load.
    pub workload: Workload,
    /// The sides' names.
    pub names: (String, String),
    /// Broker CPU milliseconds for a MB.
    pub cpu_ms_per_mb: Option<Comparison>,
    /// Broker CPU microseconds for a record.
    pub cpu_us_per_record: Option<Comparison>,
    /// Records a second.
    pub records_per_s: Option<Comparison>,
    /// MB a second.
    pub mb_per_s: Option<Comparison>,
    /// Median latency, microseconds.
    pub p50_us: Option<Comparison>,
    /// 99 % latency, microseconds.
    pub p99_us: Option<Comparison>,
    /// 99.9 % latency, microseconds.
    pub p999_us: Option<Comparison>,
    /// This program's CPU milliseconds for a MB.
    pub client_ms_per_mb: Option<Comparison>,
    /// This program's CPU as a part of the broker's, for each side (median).
    pub client_share: (Option<f64>, Option<f64>),
    /// The brokers' resident memory after the runs, MB.
    pub rss_mb: Option<Comparison>,
    /// CPU of the machine that is neither's, milliseconds for a MB: write-back, or others' work.
    pub other_ms_per_mb: Option<Comparison>,
    /// Every run that counts.
    pub pairs: Vec<(Outcome, Outcome)>,
}

/// All cases, in the order that they run in.
pub fn cases() -> Vec<Workload> {
    let mut cases = Vec::new();
    for size in [100, 1024] {
        for partitions in [1, 12] {
            for codec in [Codec::None, Codec::Lz4] {
                cases.push(Workload::produce(size, partitions, codec));
            }
        }
    }
    for (size, partitions) in [(100, 1), (100, 12), (1024, 1), (1024, 12)] {
        cases.push(Workload::fetch(size, partitions));
    }
    cases.push(Workload::small());
    cases.push(Workload::latency(1_000, 1));
    cases.push(Workload::latency(10_000, 10));
    cases
}

/// The cases that are meant by names or beginnings of names; all if none is given.
///
/// # Errors
/// A name fits no case.
pub fn chosen(names: &[String], seconds: f64) -> Result<Vec<Workload>> {
    let all = cases();
    let fits = |name: &String, case: &Workload| {
        let rest = case.name.strip_prefix(name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|c| fits(name, c))) {
        let known: Vec<_> = all.iter().map(|case| case.name.as_str()).collect();
        return Err(Failure::usage(format!(
            "there is no case \"{unknown}\"; the cases are {}",
            known.join(", ")
        )));
    }
    let meant = all
        .into_iter()
        .filter(|case| names.is_empty() || names.iter().any(|name| fits(name, case)));
    Ok(meant.map(|case| Workload { seconds, ..case }).collect())
}

/// Runs one case: a pair that does not count, then `pairs` that do.
///
/// # Errors
/// A broker cannot be reached, refuses something, or falls silent.
pub fn case(
    sides: (&Target, &Target),
    workload: &Workload,
    pairs: usize,
    progress: &Progress,
) -> Result<Case> {
    let mut runs = Vec::with_capacity(pairs);
    for pair in 0..=pairs {
        let both = (one(sides.0, workload)?, one(sides.1, workload)?);
        progress.step(&format!("{} pair {pair}/{pairs}", workload.name));
        if pair > 0 {
            runs.push(both);
        }
    }
    Ok(summary(sides, workload, runs))
}

/// Loads a broker for about so many seconds without counting: a virtual machine that compiles as
/// it runs needs it, and no broker is to be measured cold.
///
/// # Errors
/// As [`case`].
pub fn warm_one(side: &Target, seconds: f64) -> Result<()> {
    let loads = [
        Workload::produce(100, 12, Codec::Lz4),
        Workload::produce(1024, 12, Codec::None),
        Workload::fetch(1024, 12),
        Workload::small(),
    ];
    if seconds <= 0.0 {
        return Ok(());
    }
    let seconds = seconds / loads.len() as f64;
    for load in loads {
        let load = Workload {
            seconds,
            warmup_s: 0.0,
            ..load
        };
        one(side, &load)?;
    }
    Ok(())
}

fn one(side: &Target, workload: &Workload) -> Result<Outcome> {
    // What the other side left to be written back is not to be paid for by this one.
    sys::sync();
    run::run(side, workload).context(|| format!("{} in {}", side.name, workload.name))
}

fn summary(sides: (&Target, &Target), workload: &Workload, pairs: Vec<(Outcome, Outcome)>) -> Case {
    let compare = |figure: &dyn Fn(&Interval) -> Option<f64>| {
        let both = |(a, b): &(Outcome, Outcome)| Some((figure(&a.interval)?, figure(&b.interval)?));
        let values: Option<Vec<_>> = pairs.iter().map(both).collect();
        Comparison::of(&values?)
    };
    let share = |of: &dyn Fn(&(Outcome, Outcome)) -> Option<f64>| {
        Spread::of(pairs.iter().filter_map(of)).map(|spread| spread.median)
    };
    Case {
        workload: workload.clone(),
        names: (sides.0.name.clone(), sides.1.name.clone()),
        cpu_ms_per_mb: compare(&Interval::broker_ms_per_mb),
        cpu_us_per_record: compare(&Interval::broker_us_per_record),
        records_per_s: compare(&|i| Some(i.records_per_s())),
        mb_per_s: compare(&|i| Some(i.mb_per_s())),
        p50_us: compare(&|i| Some(i.latency.p50_us)),
        p99_us: compare(&|i| Some(i.latency.p99_us)),
        p999_us: compare(&|i| Some(i.latency.p999_us)),
        client_ms_per_mb: compare(&|i| Some(i.client_ms_per_mb())),
        client_share: (
            share(&|pair| pair.0.interval.client_share()),
            share(&|pair| pair.1.interval.client_share()),
        ),
        rss_mb: compare(&Interval::rss_mb),
        other_ms_per_mb: compare(&|i| Some((i.other_cpu_ms / i.mb()).max(0.001))),
        pairs,
    }
}

/// A case as text.
pub fn text(case: &Case) -> String {
    let (a, b) = (&case.names.0, &case.names.1);
    let mut out = format!(
        "{} ({} pairs)\n  {:<22}{:>12}{:>12}   {a}/{b} median (min to max)\n",
        case.workload.name,
        case.pairs.len(),
        "",
        a,
        b
    );
    let rows = [
        ("broker CPU ms/MB", case.cpu_ms_per_mb, 1.0),
        ("broker CPU us/record", case.cpu_us_per_record, 1.0),
        ("records/s", case.records_per_s, 1.0),
        ("MB/s", case.mb_per_s, 1.0),
        ("latency p50 ms", case.p50_us, 1e-3),
        ("latency p99 ms", case.p99_us, 1e-3),
        ("latency p99.9 ms", case.p999_us, 1e-3),
        ("client CPU ms/MB", case.client_ms_per_mb, 1.0),
        ("other CPU ms/MB", case.other_ms_per_mb, 1.0),
        ("resident MB", case.rss_mb, 1.0),
    ];
    for (what, comparison, unit) in rows {
        let Some(c) = comparison else { continue };
        out += &format!(
            "  {what:<22}{:>12}{:>12}   {} ({} to {})\n",
            number(c.a.median * unit),
            number(c.b.median * unit),
            number(c.ratio.median),
            number(c.ratio.min),
            number(c.ratio.max)
        );
    }
    out + &client_remark(case)
}

fn client_remark(case: &Case) -> String {
    let (a, b) = case.client_share;
    let of = |name: &str, share: Option<f64>| match share {
        Some(share) if share > crate::report::CLIENT_SHARE_MAX => {
            let percent = share * 100.0;
            format!("  the client took {percent:.0} % of {name}'s CPU: more than a third\n")
        }
        _ => String::new(),
    };
    of(&case.names.0, a) + &of(&case.names.1, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(given: &[&str]) -> Result<Vec<String>> {
        let given: Vec<_> = given.iter().map(|name| (*name).to_owned()).collect();
        Ok(chosen(&given, 1.0)?.into_iter().map(|c| c.name).collect())
    }

    #[test]
    fn cases_have_names_of_their_own_and_can_run() {
        let mut all = names(&[]).unwrap();
        assert_eq!(all.len(), 15);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 15);
        cases().iter().for_each(|case| run::check(case).unwrap());
    }

    #[test]
    fn cases_are_chosen_by_whole_words_of_their_beginning() {
        assert_eq!(
            names(&["fetch-1k"]).unwrap(),
            ["fetch-1k-p1", "fetch-1k-p12"]
        );
        assert_eq!(names(&["fetch-1k-p1"]).unwrap(), ["fetch-1k-p1"]);
        assert_eq!(names(&["latency", "small"]).unwrap().len(), 3);
        let error = names(&["produce-2k"]).unwrap_err().to_string();
        assert!(error.contains("produce-100-p1-none"), "{error}");
    }

    #[test]
    fn a_summary_takes_the_ratio_pair_by_pair() {
        let target = |name: &str| Target {
            name: name.into(),
            address: ([127, 0, 0, 1], 1).into(),
            pid: None,
            configs: Vec::new(),
        };
        let workload = Workload::small();
        let outcome = |cpu_ms: f64, client_cpu_ms: f64| Outcome {
            target: String::new(),
            workload: workload.clone(),
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
        };
        let pairs = vec![
            (outcome(1.0, 0.5), outcome(2.0, 0.5)),
            (outcome(3.0, 1.5), outcome(12.0, 3.0)),
        ];
        let case = summary((&target("A"), &target("B")), &workload, pairs);
        let cpu = case.cpu_ms_per_mb.unwrap();
        assert_eq!((cpu.ratio.min, cpu.ratio.max), (0.25, 0.5));
        assert_eq!(case.client_share, (Some(0.5), Some(0.25)));
        let text = text(&case);
        assert!(
            text.contains("50 % of A's CPU") && !text.contains("of B's"),
            "{text}"
        );
        // No latency was recorded: there is no ratio of it.
        assert_eq!(case.p50_us, None);
    }
}
