//! `bench`: measures any broker that speaks the Kafka protocol, and the machine it runs on.
//!
//! Deliberately lean: one thread, non-blocking sockets, batches encoded once and replayed, so that
//! the client takes little of the machine that it shares with the broker. Its own cost is reported
//! and subtracted from nothing.
//! Results go to standard output, talk to standard error; exit 0 as asked, 1 failed, 2 wrong use.

mod admin;
mod batch;
mod brokers;
mod cli;
mod cluster;
mod compare;
mod conn;
mod coordinate;
mod drive;
mod experiment;
mod failure;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_log;
mod fetch;
mod hlog;
mod html;
mod keys;
mod leaders;
mod limits;
mod machine;
mod markdown;
mod meter;
mod metric;
mod model;
mod outcome;
mod partitions;
mod payload;
mod presets;
mod procfs;
mod produce;
mod profile;
mod progress;
mod ratio;
mod record;
mod report;
mod run;
mod series;
mod server;
mod source;
mod spec;
mod spec_file;
mod storm;
mod stream;
mod sys;
mod table;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;

use brokers::Brokers;
use cli::{Cli, Command, LimitsArgs, LoadArgs, RunArgs, SessionArgs, TableArgs};
use experiment::Experiment;
use failure::{Context, Failure, Result};
use limits::Limits;
use progress::Progress;
use record::{Pace, Record};
use workload::Kind;

fn main() -> ExitCode {
    match dispatch(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(cli: &Cli) -> Result<()> {
    match &cli.command {
        None => whole(cli, &presets::named("canonical")?.0, &cli.session),
        Some(Command::Run(args)) => run_file(cli, args),
        Some(Command::Presets { name: None }) => put(&presets::list()?),
        Some(Command::Presets { name: Some(name) }) => put(presets::named(name)?.1),
        Some(Command::Produce(args)) => load(cli, args, "produce", Kind::Produce),
        Some(Command::Fetch(args)) => load(cli, args, "fetch", Kind::Fetch),
        Some(Command::Latency(args)) => load(cli, args, "latency", Kind::Produce),
        Some(Command::E2e(args)) => load(cli, args, "e2e", Kind::Stream),
        Some(Command::FanOut(args)) => load(cli, args, "fan-out", Kind::Stream),
        Some(Command::CatchUp(args)) => load(cli, args, "catch-up", Kind::CatchUp),
        Some(Command::Storm(args)) => load(cli, args, "storm", Kind::Storm),
        Some(Command::Commit(args)) => load(cli, args, "commit", Kind::Commit),
        Some(Command::Transaction(args)) => load(cli, args, "transaction", Kind::Transaction),
        Some(Command::Rebalance(args)) => {
            let name = args.protocol.kind().name();
            load(cli, &args.load, name, args.protocol.kind())
        }
        Some(Command::Limits(args)) => limits_run(cli, args),
        Some(Command::Table(args)) => table_run(cli, args),
        Some(Command::Cluster(args)) => {
            let (record, text) = cluster::run(args)?;
            let out = history(cli, args.root.as_deref());
            finish(cli, &record, out, |_| text)
        }
        Some(Command::Partitions(args)) => {
            let costs = partitions::run(args)?;
            print(cli.json, &costs, || partitions::text(&costs))
        }
        Some(Command::Model(args)) => {
            let scaling = model::measure(args)?;
            print(cli.json, &scaling, || model::text(&scaling))
        }
    }
}

fn put(text: &str) -> Result<()> {
    print!("{text}");
    Ok(())
}

fn run_file(cli: &Cli, args: &RunArgs) -> Result<()> {
    let experiment = match (&args.file, &args.preset) {
        (Some(file), _) => Experiment::read(file)?,
        (None, Some(name)) => presets::named(name)?.0,
        (None, None) => return Err(Failure::usage("give a FILE or --preset NAME")),
    };
    let experiment = experiment.only(&args.only)?.lasting(args.seconds);
    whole(cli, &experiment, &args.session)
}

/// Runs an experiment and keeps its results.
fn whole(cli: &Cli, experiment: &Experiment, session: &SessionArgs) -> Result<()> {
    let record = measure(experiment, session)?;
    finish(cli, &record, history(cli, None), report::record)
}

fn load(cli: &Cli, args: &LoadArgs, name: &str, kind: Kind) -> Result<()> {
    let workload = cli::load(&args.spec, name, kind)?;
    let record = measure(&Experiment::of(workload), &args.session)?;
    finish(cli, &record, cli.out.clone(), report::record)
}

fn measure(experiment: &Experiment, session: &SessionArgs) -> Result<Record> {
    cli::sensible(session)?;
    let brokers = Brokers::start(&session.brokers, &experiment.targets)?;
    let several = brokers.targets.len() > 1;
    let rounds = session.rounds.or(experiment.rounds);
    let warm = session.warm.or(experiment.warm);
    let limits = session.limits.or(experiment.limits);
    let pace = Pace {
        rounds: rounds.unwrap_or(if several { 5 } else { 1 }).max(1),
        warm: warm.unwrap_or(if several { 8.0 } else { 1.0 }),
        limits: limits.unwrap_or(0.2),
    };
    record::run(experiment, &brokers, pace)
}

/// Where results of whole experiments are kept.
fn history(cli: &Cli, root: Option<&Path>) -> Option<PathBuf> {
    let kept = || Some(machine::root(root).ok()?.join("bench/history"));
    cli.out.clone().or_else(kept)
}

/// Prints a record, saves it, and fails if something of it is missing.
fn finish(
    cli: &Cli,
    record: &Record,
    out: Option<PathBuf>,
    text: impl FnOnce(&Record) -> String,
) -> Result<()> {
    let failures = record.failed.iter();
    failures.for_each(|why| eprintln!("bench: {why}"));
    put(&if cli.json {
        record.line(true)?
    } else {
        text(record)
    })?;
    if let Some(out) = out {
        let saved = record.save(&out)?;
        let (report, results) = (saved.report.display(), saved.results.display());
        eprintln!("bench: wrote {report}, appended to {results}");
    }
    match record.failed.len() {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} load(s) were not measured"))),
    }
}

fn table_run(cli: &Cli, args: &TableArgs) -> Result<()> {
    let table = table::run(args)?;
    let text = markdown::results(&table);
    let mut record = table.record;
    record.cases.extend(table.durable);
    record.distances.resize(record.cases.len(), Vec::new());
    let out = history(cli, args.root.as_deref());
    finish(cli, &record, out, |_| text)
}

fn limits_run(cli: &Cli, args: &LimitsArgs) -> Result<()> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let each = Duration::from_secs_f64(args.seconds.clamp(0.01, 600.0));
    let progress = Progress::new(1.0);
    let limits = Limits::measure(&dir, each, |what| progress.say(what))?;
    drop(progress);
    print(cli.json, &limits, || report::limits(&limits))
}

/// Prints a result as a JSON line or as text.
fn print<T: Serialize>(json: bool, value: &T, text: impl FnOnce() -> String) -> Result<()> {
    if json {
        let line = serde_json::to_string(value).context(|| "cannot make JSON".into())?;
        println!("{line}");
    } else {
        print!("{}", text());
    }
    Ok(())
}
