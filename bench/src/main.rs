//! `bench`: measures any broker that speaks the Kafka protocol, and the machine it runs on.
//!
//! Deliberately lean: one thread, non-blocking sockets, batches encoded once and replayed, so that
//! the client takes little of the machine that it shares with the broker. Its own cost is reported
//! and subtracted from nothing.
//! Results go to standard output, talk to standard error; exit 0 as asked, 1 failed, 2 wrong use.

mod admin;
mod batch;
mod canonical;
mod cli;
mod conn;
mod drive;
mod duel;
mod failure;
#[cfg(test)]
mod fake;
mod fetch;
mod limits;
mod machine;
mod markdown;
mod meter;
mod outcome;
mod payload;
mod procfs;
mod produce;
mod profile;
mod progress;
mod ratio;
mod report;
mod run;
mod server;
mod sys;
mod table;
mod workload;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;

use cli::{Cli, Command, DuelArgs, LimitsArgs, LoadArgs, TableArgs};
use failure::{Context, Failure, Result};
use limits::Limits;
use progress::Progress;
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
    let alone = matches!(
        cli.command,
        Some(Command::Duel(_) | Command::Limits(_) | Command::Table(_))
    );
    if alone && cli.profile.is_some() {
        let text = "--profile goes with produce, fetch, latency, or no command at all";
        return Err(Failure::usage(text));
    }
    match &cli.command {
        Some(Command::Produce(args)) => load(cli, args, "produce", Kind::Produce, false),
        Some(Command::Fetch(args)) => load(cli, args, "fetch", Kind::Fetch, false),
        Some(Command::Latency(args)) => load(cli, args, "latency", Kind::Produce, true),
        Some(Command::Duel(args)) => duel_run(cli, args),
        Some(Command::Limits(args)) => limits_run(cli, args),
        Some(Command::Table(args)) => table_run(cli, args),
        None => {
            let canonical = canonical::run(cli.streamd.as_deref(), cli.profile.as_deref())?;
            print(cli.json, &canonical, || canonical::text(&canonical))
        }
    }
}

fn table_run(cli: &Cli, args: &TableArgs) -> Result<()> {
    let table = table::run(args)?;
    table
        .failed
        .iter()
        .for_each(|why| eprintln!("bench: {why}"));
    if cli.json {
        let mut cases = table.cases.iter().chain(&table.durable);
        return cases.try_for_each(|case| print(true, case, String::new));
    }
    print!("{}", markdown::results(&table));
    match table.failed.len() {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} case(s) were not measured"))),
    }
}

fn duel_run(cli: &Cli, args: &DuelArgs) -> Result<()> {
    let (a, b) = (cli::side(&args.a)?, cli::side(&args.b)?);
    let cases = duel::chosen(&args.cases, args.seconds)?;
    cases.iter().try_for_each(run::check)?;
    let progress = Progress::new(cases.len() * (args.pairs + 1) + 2);
    for side in [&a, &b] {
        progress.step("warm-up");
        duel::warm_one(side, args.warm)?;
    }
    for workload in &cases {
        let case = duel::case((&a, &b), workload, args.pairs, &progress)?;
        progress.hide(|| print(cli.json, &case, || duel::text(&case)))?;
    }
    Ok(())
}

fn limits_run(cli: &Cli, args: &LimitsArgs) -> Result<()> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let each = Duration::from_secs_f64(args.seconds.clamp(0.01, 600.0));
    let progress = Progress::new(3);
    let limits = Limits::measure(&dir, each, |what| progress.step(what))?;
    drop(progress);
    print(cli.json, &limits, || report::limits(&limits))
}

fn load(cli: &Cli, args: &LoadArgs, name: &str, kind: Kind, latency: bool) -> Result<()> {
    let workload = args.workload(name, kind, latency);
    run::check(&workload)?;
    let target = args.target()?;
    let profiling = cli.profiling(args)?;
    let outcome = run::run(&target, &workload)?;
    profiling.map_or(Ok(()), |p| p.finish())?;
    print(cli.json, &outcome, || report::run(&outcome))
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
