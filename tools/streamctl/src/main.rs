//! `streamctl`, the operator's command: topics, groups, settings, records, segment files.
//!
//! Blocking sockets and the codec of `streamd-wire`, no runtime. Standard output is data, standard
//! error is talk; exit codes: 0 as asked, 1 failed, 2 wrong usage.

mod admin;
mod cli;
mod client;
mod cluster;
mod compress;
mod config;
mod conn;
mod consume;
mod describe;
mod failure;
mod format;
mod group;
mod input;
mod log;
mod murmur;
mod offsets;
mod out;
mod produce;
mod queue;
mod topic;
mod txn;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};
use failure::{Failure, Result};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                out::say(format_args!("streamctl: {text}"));
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let global = &cli.global;
    match &cli.command {
        Command::Topic(command) => topic::run(global, command),
        Command::Config(command) => config::run(global, command),
        Command::Group(command) => group::run(global, command),
        Command::Queue(command) => queue::run(global, command),
        Command::Txn(command) => txn::run(global, command),
        Command::Cluster { command } => cluster::run(global, command.as_ref()),
        Command::Produce(command) => produce::run(global, command),
        Command::Consume(command) => consume::run(global, command),
        Command::Log(command) => log::run(global, command),
        Command::Profile(command) => admin::profile(global, command),
        Command::Stalls(command) => admin::stalls(global, command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "streamctl", &mut script);
            let script = String::from_utf8(script)
                .map_err(|_| Failure::failed("the completion script is not UTF-8"))?;
            out::line(script.trim_end())
        }
    }
}
