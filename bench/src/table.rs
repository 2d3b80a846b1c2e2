//! The table of `bench/RESULTS.md`: streamd and Apache Kafka side by side, at rest and under load,
//! and the machine's limits, in one run.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::admin::Admin;
use crate::brokers::{Brokers, KAFKA_SCRIPT};
use crate::cli::TableArgs;
use crate::compare::{self, Case};
use crate::failure::{Context, Result};
use crate::machine;
use crate::markdown;
use crate::presets;
use crate::procfs::Usage;
use crate::progress::Progress;
use crate::record::{self, Pace, Record};
use crate::run;
use crate::server::Server;

/// Partitions of the topic that the idle brokers have.
pub const IDLE_PARTITIONS: i32 = 100;

/// A broker at rest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// Its name.
    pub name: String,
    /// Milliseconds from its start until it served.
    pub start_ms: f64,
    /// Resident memory in MB.
    pub rss_mb: f64,
    /// Percent of a core.
    pub cpu_percent: f64,
}

/// Everything that the table shows.
#[derive(Debug)]
pub struct Table {
    /// streamd against Kafka as it comes.
    pub record: Record,
    /// Kafka's version.
    pub kafka_version: String,
    /// streamd against Kafka with durable acknowledgements.
    pub durable: Vec<Case>,
}

/// Runs everything and writes `bench/RESULTS.md`.
///
/// # Errors
/// A broker cannot be started or fails, or the file cannot be written. Both brokers are stopped.
pub fn run(args: &TableArgs) -> Result<Table> {
    let root = machine::root(args.root.as_deref())?;
    let whole = presets::named("table")?.0;
    let experiment = whole.clone().only(&args.cases)?.lasting(args.seconds);
    let mut brokers = Brokers::start(&args.brokers(), &[])?;
    let idle = watch_idle(&brokers.servers, args.idle_seconds)?;
    let durable_kafka = brokers.targets.split_off(2);
    let pace = Pace {
        rounds: args.rounds,
        warm: args.warm,
        limits: 1.0,
    };
    let mut record = record::run(&experiment, &brokers, pace)?;
    record.idle = idle;
    let mut durable = Vec::new();
    if args.kafka_durable {
        // With a flush for every request Kafka needs no more than a few loads to be placed.
        let wanted = ["produce-1k-p1-none", "small", "latency"].map(str::to_owned);
        let loads = whole.only(&wanted)?.lasting(args.seconds).loads;
        let sides = [brokers.targets[0].clone(), durable_kafka[0].clone()];
        let cost = |load| compare::case_cost(2, load, args.rounds);
        let progress = Progress::new(loads.iter().map(cost).sum());
        for load in &loads {
            match compare::case(&sides, load, args.rounds, &progress) {
                Ok(case) => durable.push(case),
                Err(failure) => record.failed.push(failure.to_string()),
            }
        }
    }
    let table = Table {
        kafka_version: kafka_version(),
        record,
        durable,
    };
    let results = root.join("bench/RESULTS.md");
    fs::write(&results, markdown::results(&table))
        .context(|| format!("cannot write {}", results.display()))?;
    Ok(table)
}

/// The version that the script installs.
pub fn kafka_version() -> String {
    let given = std::env::var("KAFKA_VERSION").ok();
    let written = || {
        let (_, rest) = KAFKA_SCRIPT.split_once("KAFKA_VERSION:-")?;
        rest.split('}').next().map(str::to_owned)
    };
    given.or_else(written).unwrap_or_default()
}

/// Watches both at rest over the same seconds, each with 100 partitions.
fn watch_idle(servers: &[Server], seconds: f64) -> Result<Vec<Idle>> {
    let topic = run::topic_name();
    for server in servers {
        let mut admin = Admin::connect(server.target().address)?;
        admin.create(&topic, (IDLE_PARTITIONS, 1), &[])?;
    }
    // What creating stirred up comes to rest.
    thread::sleep(Duration::from_secs(5));
    let read = |server: &Server| Usage::of_all(&server.target().pids);
    let usages = || servers.iter().map(read).collect::<Result<Vec<_>>>();
    let (begun, start) = (Instant::now(), usages()?);
    thread::sleep(Duration::from_secs_f64(seconds.clamp(0.1, 3600.0)));
    let (elapsed, end) = (begun.elapsed(), usages()?);
    let mut idle = Vec::new();
    for ((server, start), end) in servers.iter().zip(start).zip(end) {
        let used = end.unwrap_or_default().since(&start.unwrap_or_default());
        idle.push(Idle {
            name: server.target().name,
            start_ms: server.started().as_secs_f64() * 1e3,
            rss_mb: used.rss as f64 / 1e6,
            cpu_percent: used.cpu_ms / elapsed.as_secs_f64() / 10.0,
        });
        Admin::connect(server.target().address)?.delete(&topic)?;
    }
    Ok(idle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_the_script() {
        let version = kafka_version();
        let part = |part: &str| part.parse::<u32>().is_ok();
        assert_eq!(
            version.split('.').filter(|p| part(p)).count(),
            3,
            "{version}"
        );
    }
}
