//! `streamctl group ...`: list, describe, lag, reset-offsets, delete.

pub mod ask;
pub mod reset;
mod show;

use crate::cli::{Global, Group as Command};
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::out;

/// Runs the command.
///
/// # Errors
/// No broker answers, or it refuses.
pub fn run(global: &Global, command: &Command) -> Result<()> {
    let mut client = Client::new(global);
    match command {
        Command::List { state } => show::list(global, &mut client, state.as_deref()),
        Command::Describe { names } => show::describe(global, &mut client, names),
        Command::Lag { names } => show::lag(global, &mut client, names),
        Command::ResetOffsets(plan) => reset::run(global, &mut client, plan, &RESET),
        Command::Delete { names } => delete(&mut client, names),
    }
}

/// What a reset asks of a group of consumers.
const RESET: reset::Asks = reset::Asks {
    members: |client, name| {
        let found = ask::describe(client, name)?;
        Ok(found.map(|d| (d.state, d.members.len())))
    },
    offsets: ask::offsets,
    commit: ask::commit,
};

/// Deletes groups, of whichever kind.
///
/// # Errors
/// What went wrong with each of those that could not be deleted.
pub fn delete(client: &mut Client, names: &[String]) -> Result<()> {
    let mut failed = Vec::new();
    for name in names {
        match ask::delete(client, name) {
            Ok(()) => out::say(format_args!("Deleted group `{name}` and its offsets")),
            Err(Failure::Failed(text)) => failed.push(text),
            Err(other) => return Err(other),
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(failed.join("\n"))),
    }
}
