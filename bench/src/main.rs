//! `bench`: measures any broker that speaks the Kafka protocol, and the machine it runs on.
//!
//! Deliberately lean: one thread, non-blocking sockets, batches encoded once and replayed, so that
//! the client takes little of the machine that it shares with the broker. Its own cost is reported
//! and subtracted from nothing.
//! Results go to standard output, talk to standard error; exit 0 as asked, 1 failed, 2 wrong use.

mod admin;
mod batch;
mod cli;
mod conn;
mod drive;
mod failure;
mod fetch;
mod meter;
mod outcome;
mod payload;
mod procfs;
mod produce;
mod report;
mod run;
mod sys;
mod workload;

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use cli::{Cli, Command, LoadArgs};
use failure::{Context, Result};
use workload::Kind;

fn main() -> ExitCode {
    match dispatch(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> Result<()> {
    match &cli.command {
        Some(Command::Produce(args)) => load(cli, args, "produce", Kind::Produce, false),
        Some(Command::Fetch(args)) => load(cli, args, "fetch", Kind::Fetch, false),
        Some(Command::Latency(args)) => load(cli, args, "latency", Kind::Produce, true),
        _ => Ok(()),
    }
}

fn load(cli: &Cli, args: &LoadArgs, name: &str, kind: Kind, latency: bool) -> Result<()> {
    let workload = args.workload(name, kind, latency);
    run::check(&workload)?;
    let outcome = run::run(&args.target()?, &workload)?;
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
