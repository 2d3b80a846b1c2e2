//! `streamctl cluster ...`: how the cluster is, what moves and who leads, and clusters on this
//! machine.

mod change;
pub mod cli;
mod local;
mod status;
mod throttle;
mod upgrade;

use crate::cli::Global;
use crate::failure::Result;

use cli::Cluster;

/// Runs the command; without one it shows how the cluster is.
///
/// # Errors
/// No broker answers or it refuses, or a node does not start.
pub fn run(global: &Global, command: Option<&Cluster>) -> Result<()> {
    match command.unwrap_or(&Cluster::Status) {
        Cluster::Status => status::run(global),
        Cluster::Reassign(command) => change::reassign(global, command),
        Cluster::Elect(command) => change::elect(global, command),
        Cluster::Remove { node, cancel } => change::remove(global, *node, *cancel),
        Cluster::Upgrade { to, yes } => upgrade::run(global, *to, *yes),
        Cluster::Up(command) => local::up(global, command),
        Cluster::Down { dir } => local::down(global, dir),
    }
}
