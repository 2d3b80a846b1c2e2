//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::admin::resolve;
use crate::batch::Codec;
use crate::failure::{Failure, Result};
use crate::profile::Profiling;
use crate::workload::{Kind, Target, Workload, records_in};

/// Measures any broker that speaks the Kafka protocol.
///
/// Without a command it starts its own streamd in a temporary directory, runs the canonical
/// workload in about a minute, says how far that is from what the machine can do, and stops it.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Print JSON lines on standard output instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The broker's program for the run without a command [default: streamd beside this one].
    #[arg(long, value_name = "PATH")]
    pub streamd: Option<PathBuf>,
    /// Write a flame graph of the broker's CPU time during the run (60 seconds at most): of the run
    /// without a command, or of produce, fetch or latency together with --admin.
    #[arg(long, global = true, value_name = "FILE.svg")]
    pub profile: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Produce to a topic of its own, in closed loop or at a fixed rate.
    Produce(LoadArgs),
    /// Write a topic and fetch it over and over.
    Fetch(LoadArgs),
    /// Produce at a fixed rate (1,000 a second if not told) in small requests.
    Latency(LoadArgs),
    /// Compare two brokers: A B A B, ratios pair by pair.
    Duel(DuelArgs),
    /// What this machine can do at all: disk, loopback, sendfile, CRC-32C, memory.
    Limits(LimitsArgs),
    /// Install and start Apache Kafka, start streamd, measure both, write bench/RESULTS.md.
    Table(TableArgs),
}

/// Which broker is measured.
#[derive(Debug, Args)]
pub struct BrokerArgs {
    /// The broker.
    #[arg(long, value_name = "HOST:PORT")]
    pub target: String,
    /// The broker's process on this machine, to read its CPU time and memory.
    #[arg(long)]
    pub pid: Option<u32>,
    /// The broker's admin address, for --profile.
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<String>,
}

/// A load from the command line.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Bytes of a record.
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 1)]
    pub partitions: i32,
    /// Bytes of records in a batch, before compression [default: 65536; latency: 1].
    #[arg(long, value_name = "BYTES")]
    pub batch: Option<usize>,
    /// Records in a batch, in place of --batch.
    #[arg(long, value_name = "N", conflicts_with = "batch")]
    pub batch_records: Option<usize>,
    /// Batches in a request, each for another partition.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub spread: i32,
    /// Compression.
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub codec: Codec,
    /// Acknowledgements: -1 all, 1 leader, 0 none.
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub acks: i16,
    /// Connections, all on one thread.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Requests that a connection has out at once [default: 5; latency: 64].
    #[arg(long, value_name = "N")]
    pub in_flight: Option<usize>,
    /// Records to measure, in place of --seconds.
    #[arg(long, conflicts_with = "seconds")]
    pub records: Option<u64>,
    /// Seconds to measure.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Records a second: open loop, latency from the time a request was due.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Seconds before measuring.
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// MB to write before fetching.
    #[arg(long, default_value_t = 256, value_name = "MB")]
    pub fill: u64,
    /// A config of the topic; may be given again.
    #[arg(long = "topic-config", value_name = "NAME=VALUE")]
    pub topic_configs: Vec<String>,
}

/// The comparison from the command line.
#[derive(Debug, Args)]
pub struct DuelArgs {
    /// The first broker.
    #[arg(value_name = "A=HOST:PORT[,PID]")]
    pub a: String,
    /// The second broker.
    #[arg(value_name = "B=HOST:PORT[,PID]")]
    pub b: String,
    /// Cases, by name or the beginning of a name [default: all].
    #[arg(value_name = "CASE")]
    pub cases: Vec<String>,
    /// Pairs that count; one more before them does not.
    #[arg(long, default_value_t = 5)]
    pub pairs: usize,
    /// Seconds to measure in every run.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Seconds of mixed load on each broker before the first case.
    #[arg(long, default_value_t = 8.0, value_name = "SECONDS")]
    pub warm: f64,
}

/// The machine's limits from the command line.
#[derive(Debug, Args)]
pub struct LimitsArgs {
    /// Where to write the scratch file: the file system that is to be measured
    /// [default: the temporary directory].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Seconds for each figure.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
}

/// The table from the command line.
#[derive(Debug, Args)]
pub struct TableArgs {
    /// The broker's program [default: streamd beside this one].
    #[arg(long, value_name = "PATH")]
    pub streamd: Option<PathBuf>,
    /// Cases, by name or the beginning of a name [default: all].
    #[arg(value_name = "CASE")]
    pub cases: Vec<String>,
    /// Pairs that count.
    #[arg(long, default_value_t = 5)]
    pub pairs: usize,
    /// Seconds to measure in every run.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Seconds of mixed load on each broker before the first case.
    #[arg(long, default_value_t = 12.0, value_name = "SECONDS")]
    pub warm: f64,
    /// Also measure Kafka with flush.messages=1, whose acknowledgements are durable.
    #[arg(long)]
    pub kafka_durable: bool,
    /// Where Kafka, the data and the logs go [default: bench-table in the temporary directory].
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Kafka's port; the next one is its controller's.
    #[arg(long, default_value_t = 29292)]
    pub kafka_port: u16,
    /// Seconds over which the idle brokers are watched.
    #[arg(long, default_value_t = 20.0)]
    pub idle_seconds: f64,
    /// The repository, in whose bench/ the table goes [default: found from this program's place].
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

fn config(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        Failure::usage(format!(
            "--topic-config \"{text}\": expected NAME=VALUE, as in flush.messages=1"
        ))
    })?;
    Ok((name.into(), value.into()))
}

impl Cli {
    /// Begins the profile that is asked for, if any.
    ///
    /// # Errors
    /// `--admin` is missing, nobody listens there, or the file cannot be made.
    pub fn profiling(&self, args: &LoadArgs) -> Result<Option<Profiling>> {
        let (file, admin) = match (&self.profile, &args.broker.admin) {
            (None, None) => return Ok(None),
            (Some(file), Some(admin)) => (file, resolve(admin)?),
            _ => {
                let text = "--profile FILE and --admin HOST:PORT need each other: streamd answers \
                            there when it is started with --admin-listen HOST:PORT";
                return Err(Failure::usage(text));
            }
        };
        let seconds = |s: f64| Duration::from_secs_f64(s.clamp(0.0, 60.0));
        let (warmup, time) = (seconds(args.warmup), seconds(args.seconds));
        Profiling::start(admin, file, warmup, time).map(Some)
    }
}

impl LoadArgs {
    /// The broker that is meant.
    ///
    /// # Errors
    /// The address or a config cannot be read.
    pub fn target(&self) -> Result<Target> {
        Ok(Target {
            name: self.broker.target.clone(),
            address: resolve(&self.broker.target)?,
            pid: self.broker.pid,
            configs: self
                .topic_configs
                .iter()
                .map(|text| config(text))
                .collect::<Result<_>>()?,
        })
    }

    /// The load that is meant; `latency` has other defaults.
    pub fn workload(&self, name: &str, kind: Kind, latency: bool) -> Workload {
        let batch = self.batch.unwrap_or(if latency { 1 } else { 64 * 1024 });
        let batch_records = self
            .batch_records
            .unwrap_or_else(|| records_in(batch, self.size));
        Workload {
            name: name.into(),
            kind,
            size: self.size,
            partitions: self.partitions,
            batch_records,
            spread: self.spread,
            codec: self.codec,
            acks: self.acks,
            connections: self.connections,
            in_flight: self.in_flight.unwrap_or(if latency { 64 } else { 5 }),
            rate: self.rate.or(latency.then_some(1000.0)),
            warmup_s: self.warmup,
            seconds: self.seconds,
            records: self.records,
            fill_mb: if kind == Kind::Fetch { self.fill } else { 0 },
        }
    }
}

/// Reads `NAME=HOST:PORT[,PID]`.
///
/// # Errors
/// It is something else.
pub fn side(text: &str) -> Result<Target> {
    let wrong = || {
        Failure::usage(format!(
            "\"{text}\": expected NAME=HOST:PORT or NAME=HOST:PORT,PID"
        ))
    };
    let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (address, pid) = match rest.split_once(',') {
        None => (rest, None),
        Some((address, pid)) => {
            let pid = pid.parse().map_err(|_| wrong())?;
            (address, Some(pid))
        }
    };
    Ok(Target {
        name: name.into(),
        address: resolve(address)?,
        pid,
        configs: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_side_has_a_name_an_address_and_perhaps_a_pid() {
        let side_a = side("A=127.0.0.1:9092,77").unwrap();
        assert_eq!((side_a.name.as_str(), side_a.pid), ("A", Some(77)));
        assert_eq!(side("B=127.0.0.1:1").unwrap().pid, None);
        for wrong in ["127.0.0.1:1", "A=127.0.0.1:1,x"] {
            assert_eq!(side(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn latency_has_one_record_a_request_and_a_rate() {
        let parsed = Cli::try_parse_from(["bench", "latency", "--target", "127.0.0.1:1"]);
        let Ok(Some(Command::Latency(args))) = parsed.map(|cli| cli.command) else {
            panic!("not parsed");
        };
        let workload = args.workload("latency", Kind::Produce, true);
        assert_eq!((workload.batch_records, workload.rate), (1, Some(1000.0)));
    }
}
