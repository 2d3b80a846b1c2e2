//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::brokers::BrokerArgs;
use crate::cluster::ClusterArgs;
use crate::failure::{Failure, Result};
use crate::spec::Spec;
use crate::workload::{Kind, Workload};

/// Measures any broker that speaks the Kafka protocol.
///
/// Without a command it starts its own streamd in a temporary directory, runs the canonical
/// workload in about a minute, says how far that is from what the machine can do, and stops it.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Print a JSON line on standard output instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Where results are kept: results.jsonl and reports/ [default: bench/history of the
    /// repository for whole experiments if it is found above this program, else nowhere].
    #[arg(long, global = true, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where and how the run without a command is made.
    #[command(flatten)]
    pub session: SessionArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole experiment from a file or a preset.
    Run(RunArgs),
    /// List the presets, or print the file of one.
    Presets {
        /// The preset.
        name: Option<String>,
    },
    /// Produce to a topic of its own, in closed loop or at a fixed rate.
    Produce(LoadArgs),
    /// Write a topic and fetch it over and over.
    Fetch(LoadArgs),
    /// Produce at a fixed rate (1,000 a second if not told) in small requests.
    Latency(LoadArgs),
    /// From the producer's hands to a consumer's that waits at the broker.
    E2e(LoadArgs),
    /// One topic to many groups of readers.
    FanOut(LoadArgs),
    /// A reader that starts behind while the writer goes on.
    CatchUp(LoadArgs),
    /// Connections that open, ask for the versions, produce once, and close.
    Storm(LoadArgs),
    /// Commit offsets, each connection for a group of its own.
    Commit(LoadArgs),
    /// Write and commit transactions, each connection with a transactional id of its own.
    Transaction(LoadArgs),
    /// Members of a group (the connections) leave and come back, one by one: how long until all
    /// have an even share again.
    Rebalance(RebalanceArgs),
    /// What this machine can do at all: disk, loopback, sendfile, CRC-32C, memory.
    Limits(LimitsArgs),
    /// Install and start Apache Kafka, start streamd, measure both, write bench/RESULTS.md.
    Table(TableArgs),
    /// Three nodes of streamd beside three of Apache Kafka: what replication costs, and how long
    /// partitions are gone when a node is killed; writes bench/CLUSTER.md.
    Cluster(ClusterArgs),
    /// Memory and restart of own brokers with very many partitions, as in bench/PARTITIONS.md.
    Partitions(PartitionsArgs),
    /// What more cores would do: measures an own streamd on one and on two, and calculates.
    Model(ModelArgs),
}

/// Where something is run, and how often.
#[derive(Args, Clone, Debug, Default)]
pub struct SessionArgs {
    /// The brokers.
    #[command(flatten)]
    pub brokers: BrokerArgs,
    /// Rounds that count [default: 1 for one broker, 5 for several]. With several, one more
    /// before them does not.
    #[arg(long, visible_alias = "pairs", value_name = "N")]
    pub rounds: Option<usize>,
    /// Seconds of mixed load on each broker before the first load [default: 1; 8 for several
    /// brokers].
    #[arg(long, value_name = "SECONDS")]
    pub warm: Option<f64>,
    /// Seconds for each figure of the machine's limits, before and after; 0 leaves them out
    /// [default: 0.2].
    #[arg(long, value_name = "SECONDS")]
    pub limits: Option<f64>,
}

/// An experiment from the command line.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The file.
    #[arg(
        value_name = "FILE",
        required_unless_present = "preset",
        conflicts_with = "preset"
    )]
    pub file: Option<PathBuf>,
    /// A preset in place of a file.
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Only these loads, by name or the beginning of a name; may be given again.
    #[arg(long, value_name = "LOAD")]
    pub only: Vec<String>,
    /// Seconds to measure each load, in place of the file's.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Where and how often.
    #[command(flatten)]
    pub session: SessionArgs,
}

/// A load from the command line.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Where and how often.
    #[command(flatten)]
    pub session: SessionArgs,
    /// What.
    #[command(flatten)]
    pub spec: Spec,
}

/// Rebalances from the command line.
#[derive(Debug, Args)]
pub struct RebalanceArgs {
    /// What members speak.
    #[arg(long, value_enum, default_value = "classic")]
    pub protocol: Protocol,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// What members of a group speak.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Protocol {
    /// JoinGroup, SyncGroup, Heartbeat.
    Classic,
    /// ConsumerGroupHeartbeat (KIP-848).
    Consumer,
}

impl Protocol {
    /// The load.
    pub fn kind(self) -> Kind {
        match self {
            Protocol::Classic => Kind::RebalanceClassic,
            Protocol::Consumer => Kind::RebalanceConsumer,
        }
    }
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
    /// Loads, by name or the beginning of a name [default: all].
    #[arg(value_name = "LOAD")]
    pub cases: Vec<String>,
    /// Rounds that count.
    #[arg(long, visible_alias = "pairs", default_value_t = 5, value_name = "N")]
    pub rounds: usize,
    /// Seconds to measure in every run [default: 3].
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Seconds of mixed load on each broker before the first load.
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

/// Very many partitions from the command line.
#[derive(Debug, Args)]
pub struct PartitionsArgs {
    /// How many; several numbers are measured one after another.
    #[arg(value_name = "PARTITIONS", default_values_t = [1000, 10_000])]
    pub partitions: Vec<usize>,
    /// The broker's program [default: streamd beside this one].
    #[arg(long, value_name = "PATH")]
    pub streamd: Option<PathBuf>,
    /// Restarts of each kind; the best counts.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub rounds: usize,
    /// Also install and run Apache Kafka.
    #[arg(long)]
    pub kafka: bool,
    /// Kafka's port; the next one is its controller's.
    #[arg(long, default_value_t = 29292, value_name = "PORT")]
    pub kafka_port: u16,
    /// Where Kafka and the data go [default: bench-partitions in the temporary directory].
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
}

impl PartitionsArgs {
    /// Where Kafka and the data go.
    pub fn work(&self) -> PathBuf {
        let given = self.work.clone();
        given.unwrap_or_else(|| std::env::temp_dir().join("bench-partitions"))
    }
}

/// The scaling model from the command line.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The broker's program [default: streamd beside this one].
    #[arg(long, value_name = "PATH")]
    pub streamd: Option<PathBuf>,
    /// Seconds to measure in every run.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Rounds, one core and two in turn; medians count.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub rounds: usize,
    /// The network's speed, Gbit/s.
    #[arg(long, default_value_t = 25.0, value_name = "GBIT")]
    pub network: f64,
    /// MB/s that the disks take durably [default: what this machine's takes in pieces of 1 MiB].
    #[arg(long, value_name = "MB")]
    pub disk: Option<f64>,
    /// The busiest partition's part of all traffic.
    #[arg(long, default_value_t = 0.05, value_name = "PART")]
    pub hottest: f64,
}

impl TableArgs {
    /// The brokers of the table.
    pub fn brokers(&self) -> BrokerArgs {
        let work = self.work.clone();
        BrokerArgs {
            kafka: true,
            kafka_port: self.kafka_port,
            streamd: self.streamd.clone(),
            work: Some(work.unwrap_or_else(|| std::env::temp_dir().join("bench-table"))),
            ..BrokerArgs::default()
        }
    }
}

/// The whole load of a command: what was given, and the command's own defaults.
///
/// # Errors
/// A number is out of range.
pub fn load(spec: &Spec, name: &str, kind: Kind) -> Result<Workload> {
    let mut defaults = Spec {
        name: Some(name.into()),
        ..Spec::default()
    };
    match name {
        "latency" => defaults.rate = Some(1000.0),
        "fan-out" => {
            defaults.rate = Some(10_000.0);
            defaults.batch_records = Some(10);
            defaults.reading.groups = Some(10);
        }
        "catch-up" => defaults.batch_records = Some(10),
        _ => {}
    }
    Ok(spec.clone().or(&defaults).workload(kind)?)
}

/// Whether rounds and seconds make sense.
///
/// # Errors
/// One does not.
pub fn sensible(session: &SessionArgs) -> Result<()> {
    if session
        .rounds
        .is_some_and(|rounds| !(1..=1000).contains(&rounds))
    {
        return Err(Failure::usage("--rounds: allowed are 1 to 1000"));
    }
    let wild = |seconds: Option<f64>| seconds.is_some_and(|s| !(0.0..=86_400.0).contains(&s));
    if wild(session.warm) || wild(session.limits) {
        return Err(Failure::usage(
            "--warm, --limits: allowed are 0 to 86400 seconds",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parsed(arguments: &str) -> LoadArgs {
        let words = ["bench"].into_iter().chain(arguments.split(' '));
        match Cli::try_parse_from(words).map(|cli| cli.command) {
            Ok(Some(Command::Latency(args) | Command::FanOut(args))) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_have_defaults_of_their_own_that_options_replace() {
        let args = parsed("latency --target a=127.0.0.1:1 --target b=127.0.0.1:2");
        assert_eq!(args.session.brokers.targets.len(), 2);
        let latency = load(&args.spec, "latency", Kind::Produce).unwrap();
        assert_eq!((latency.batch_records, latency.rate), (1, Some(1000.0)));
        let args = parsed("fan-out --groups 3 --linger 5");
        let fan_out = load(&args.spec, "fan-out", Kind::Stream).unwrap();
        assert_eq!((fan_out.groups, fan_out.batch_records), (3, 51));
        let args = parsed("latency --size 0");
        assert!(load(&args.spec, "latency", Kind::Produce).is_err());
    }

    #[test]
    fn a_run_needs_a_file_or_a_preset() {
        assert!(Cli::try_parse_from(["bench", "run"]).is_err());
        assert!(Cli::try_parse_from(["bench", "run", "f", "--preset", "p"]).is_err());
        assert!(Cli::try_parse_from(["bench", "run", "--preset", "p"]).is_ok());
    }
}
