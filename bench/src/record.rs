//! A whole experiment with its results: run here, and kept in files.
//!
//! In the directory of results: `results.jsonl`, one line for an experiment (bench/SCHEMA.md says
//! what is in it), and `reports/ID/` with `report.html`, `latency.hlog` and `runs.jsonl`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::brokers::Brokers;
use crate::cluster::failover::Failovers;
use crate::compare::{self, Case};
use crate::experiment::Experiment;
use crate::failure::{Context, Result};
use crate::limits::Limits;
use crate::machine::{Origin, now_utc};
use crate::outcome::Outcome;
use crate::profile::Profiling;
use crate::progress::Progress;
use crate::table::Idle;
use crate::workload::Target;
use crate::{hlog, html};

/// The version of the lines in results.jsonl.
const SCHEMA: u32 = 1;

/// An experiment and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// The version of this form.
    pub schema: u32,
    /// Names the experiment in the directory of results: its time and name.
    pub id: String,
    /// The experiment's name.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// How this program was called.
    pub command: String,
    /// Where and of what.
    pub origin: Origin,
    /// Milliseconds until the brokers that were started here served.
    pub started_ms: Vec<(String, f64)>,
    /// Brokers at rest, if they were watched.
    pub idle: Vec<Idle>,
    /// What the machine can do, if it was measured.
    pub limits: Option<Limits>,
    /// How far every load is from it: times the limit for every broker; empty where none applies.
    pub distances: Vec<Vec<f64>>,
    /// The loads.
    pub cases: Vec<Case>,
    /// What was measured as nodes were killed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failovers: Vec<Failovers>,
    /// Why loads are missing.
    pub failed: Vec<String>,
}

/// How an experiment is run.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Rounds that count.
    pub rounds: usize,
    /// Seconds of mixed load on each broker before the first load.
    pub warm: f64,
    /// Seconds for each figure of the machine's limits; 0: they are not measured.
    pub limits: f64,
}

/// So many figures are among the limits, for the progress bar.
const LIMIT_FIGURES: f64 = 12.0;

/// Runs an experiment. A load that fails is noted, for the others are worth having all the same.
///
/// # Errors
/// The limits cannot be measured, or a broker fails as it is warmed up.
pub fn run(experiment: &Experiment, brokers: &Brokers, pace: Pace) -> Result<Record> {
    let root = crate::machine::root(None).ok();
    let origin = Origin::here(root.as_deref(), &brokers.data);
    let targets = &brokers.targets;
    let cost = |load| compare::case_cost(targets.len(), load, pace.rounds);
    let loads: f64 = experiment.loads.iter().map(cost).sum();
    let before = 2.0 * pace.limits * LIMIT_FIGURES + pace.warm * targets.len() as f64;
    let progress = Progress::new(loads + before);
    let mut limits = None;
    if pace.limits > 0.0 {
        limits = Some(measure_limits(brokers, pace.limits, &progress)?);
    }
    for target in one_of_each(targets) {
        progress.say(&format!("warming {} up", target.name));
        compare::warm(target, pace.warm)?;
        progress.add(pace.warm);
    }
    let mut record = Record {
        schema: SCHEMA,
        id: format!(
            "{}-{}",
            now_utc().replace(':', "-"),
            file_name(&experiment.name)
        ),
        name: experiment.name.clone(),
        about: experiment.about.clone(),
        command: command(std::env::args().skip(1)),
        origin,
        started_ms: brokers.started_ms(),
        idle: Vec::new(),
        limits,
        distances: Vec::new(),
        cases: Vec::new(),
        failovers: Vec::new(),
        failed: Vec::new(),
    };
    let time = Duration::from_secs_f64(loads);
    let profiling = brokers
        .profile
        .as_ref()
        .map(|(admin, file)| Profiling::start(*admin, file, Duration::ZERO, time));
    let profiling = profiling.transpose()?;
    for load in &experiment.loads {
        match compare::case(targets, load, pace.rounds, &progress) {
            Ok(case) => record.cases.push(case),
            Err(failure) => record.failed.push(failure.to_string()),
        }
    }
    profiling.map_or(Ok(()), Profiling::finish)?;
    if let Some(before) = record.limits.take() {
        // A disk has good and bad minutes: the limit is what the machine can do in the better ones.
        let after = measure_limits(brokers, pace.limits, &progress)?;
        record.limits = Some(before.or_better(&after));
    }
    record.settle();
    Ok(record)
}

fn measure_limits(brokers: &Brokers, seconds: f64, progress: &Progress) -> Result<Limits> {
    let each = Duration::from_secs_f64(seconds.min(600.0));
    let say = |what: &str| progress.say(&format!("the machine's limits: {what}"));
    let limits = Limits::measure(&brokers.data, each, say)?;
    progress.add(seconds * LIMIT_FIGURES);
    Ok(limits)
}

/// One target for each process.
fn one_of_each(targets: &[Target]) -> impl Iterator<Item = &Target> {
    let known = |i: usize| targets[..i].iter().any(|t| t.address == targets[i].address);
    let new = targets.iter().enumerate().filter(move |(i, _)| !known(*i));
    new.map(|(_, target)| target)
}

/// The command line. Where files are on this machine is left out: results are passed on.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut out = String::from("bench");
    for argument in arguments {
        let (option, value) = match argument.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (Some(option), value),
            _ => (None, argument.as_str()),
        };
        let shown = match value.rsplit_once('/') {
            Some((before, name)) if before.is_empty() || value.starts_with('/') => name,
            _ => value,
        };
        out.push(' ');
        out += &option.map_or(String::new(), |option| format!("{option}="));
        out += shown;
    }
    out
}

/// A name that can be one of a file.
fn file_name(name: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    name.chars().take(60).map(keep).collect()
}

/// Where the files of a record are.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The line was appended to this.
    pub results: PathBuf,
    /// The page.
    pub report: PathBuf,
}

impl Record {
    /// Takes the distances of all loads from the limits.
    fn settle(&mut self) {
        let distances = |case| {
            let limits = self.limits.as_ref();
            limits.map_or(Vec::new(), |limits| limits.distances(case))
        };
        self.distances = self.cases.iter().map(distances).collect();
    }

    /// As a JSON line, the single runs left out unless they are wanted.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn line(&self, runs: bool) -> Result<String> {
        let mut record = self.clone();
        if !runs {
            record.cases.iter_mut().for_each(|case| case.rounds.clear());
        }
        let mut line = serde_json::to_string(&record).context(|| "cannot make JSON".into())?;
        line.push('\n');
        Ok(line)
    }

    /// Writes everything under a directory of results.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<Saved> {
        let own = dir.join("reports").join(&self.id);
        fs::create_dir_all(&own).context(|| format!("cannot make {}", own.display()))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = own.join(name);
            fs::write(&path, bytes).context(|| format!("cannot write {}", path.display()))
        };
        write("latency.hlog", &hlog::log(&self.cases)?)?;
        write("runs.jsonl", runs(&self.cases)?.as_bytes())?;
        write("report.html", html::page(self).as_bytes())?;
        let results = dir.join("results.jsonl");
        let opened = OpenOptions::new().create(true).append(true).open(&results);
        let written = opened.and_then(|mut file| {
            file.write_all(self.line(false).map_err(std::io::Error::other)?.as_bytes())
        });
        written.context(|| format!("cannot append to {}", results.display()))?;
        Ok(Saved {
            results,
            report: own.join("report.html"),
        })
    }
}

/// Every run as a line.
fn runs(cases: &[Case]) -> Result<String> {
    let mut out = String::new();
    for run in cases.iter().flat_map(|case| case.rounds.iter().flatten()) {
        let line = serde_json::to_string::<Outcome>(run);
        out += &line.context(|| "cannot make JSON".into())?;
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::limits::{Figure, SENDFILE};
    use crate::meter::histogram;
    use crate::outcome::{Histograms, Interval, Percentiles, curve};
    use crate::procfs::Used;
    use crate::spec::Spec;
    use crate::workload::{Kind, Workload};

    fn outcome(target: &str, load: &Workload, slow: u64) -> Outcome {
        let mut latency = histogram();
        (1..=10_000u64).for_each(|i| latency.saturating_record(slow * i * 20));
        Outcome {
            target: target.into(),
            workload: load.clone(),
            interval: Interval {
                seconds: 2.0,
                records: 100_000 / slow,
                bytes: 102_400_000 / slow,
                latency: Percentiles::of(&latency),
                client_cpu_ms: 20.0,
                broker: Some(Used {
                    cpu_ms: 100.0,
                    rss: 50_000_000 * slow,
                    ..Used::default()
                }),
                ..Interval::default()
            },
            rates: (1..=20)
                .map(|i| (f64::from(i) / 10.0, 5e4 / slow as f64))
                .collect(),
            curve: curve(&latency),
            histograms: Histograms {
                latency: Some(latency),
                ack: None,
            },
        }
    }

    /// A record of two brokers, the second of which is four times slower, without measuring.
    pub fn made_up() -> Record {
        let names = ["streamd", "Kafka <4.4>"];
        let targets: Vec<_> = names
            .iter()
            .map(|name| Target {
                name: (*name).into(),
                address: ([127, 0, 0, 1], 1).into(),
                pids: vec![1],
                replicas: 1,
                configs: Vec::new(),
            })
            .collect();
        let mut record = Record {
            schema: SCHEMA,
            id: "2026-01-01T00-00-00Z-made-up".into(),
            name: "made up".into(),
            about: "a test".into(),
            command: "bench run".into(),
            origin: Origin::here(None, Path::new("/")),
            started_ms: vec![("streamd".into(), 20.0)],
            idle: Vec::new(),
            limits: Some(Limits {
                figures: vec![Figure {
                    name: SENDFILE.into(),
                    mb_per_s: Some(4000.0),
                    cpu_ms_per_mb: Some(0.25),
                    latency: None,
                }],
            }),
            distances: Vec::new(),
            cases: Vec::new(),
            failovers: Vec::new(),
            failed: vec!["Kafka in small: it fell silent".into()],
        };
        for kind in [Kind::Produce, Kind::Fetch] {
            let load = Spec::default().workload(kind).unwrap();
            let round = vec![outcome(names[0], &load, 1), outcome(names[1], &load, 4)];
            let rounds = vec![round.clone(), round];
            record.cases.push(compare::summary(&targets, &load, rounds));
        }
        record.settle();
        record
    }

    #[test]
    fn a_record_is_saved_whole_and_its_line_has_no_runs() {
        let dir = std::env::temp_dir().join(format!("bench-record-{}", std::process::id()));
        let record = made_up();
        let saved = record.save(&dir).unwrap();
        record.save(&dir).unwrap();
        let lines = fs::read_to_string(&saved.results).unwrap();
        let own = dir.join("reports").join(&record.id);
        let runs = fs::read_to_string(own.join("runs.jsonl")).unwrap();
        let page = fs::read_to_string(&saved.report).unwrap();
        assert!(own.join("latency.hlog").is_file() && page.contains("</html>"));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!((lines.lines().count(), runs.lines().count()), (2, 8));
        let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(line["schema"], 1);
        assert_eq!(
            line["distances"],
            serde_json::json!([[], [3.90625, 15.625]])
        );
        assert!(line["cases"][0].get("rounds").is_none());
        let ratio = &line["cases"][0]["figures"]["cpu_ms_per_mb"]["ratios"][0];
        assert_eq!(*ratio, serde_json::json!([0.25, 0.25, 0.25]));
        assert!(record.line(true).unwrap().len() > record.line(false).unwrap().len());
    }

    #[test]
    fn a_command_does_not_tell_where_files_are() {
        let words =
            "run --out /home/x/out --streamd=/a/streamd --target A=127.0.0.1:1,7 dir/f.toml";
        let told = command(words.split(' ').map(str::to_owned));
        let expected = "bench run --out out --streamd=streamd --target A=127.0.0.1:1,7 dir/f.toml";
        assert_eq!(told, expected);
    }

    #[test]
    fn names_become_names_of_files() {
        assert_eq!(file_name("a/b c.."), "a-b-c--");
    }
}
