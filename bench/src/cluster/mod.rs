//! Three brokers beside three of Apache Kafka: what replication costs, and how long partitions are
//! gone when a node is killed. Writes bench/CLUSTER.md.

pub mod failover;
mod nodes;
mod quorum;
mod text;
mod writer;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::brokers::Brokers;
use crate::failure::{Context, Result};
use crate::machine;
use crate::presets;
use crate::record::{self, Pace, Record};
use crate::server::streamd_path;
use crate::table::kafka_version;
use failover::{Killed, Scenario};
use nodes::{Kind, Nodes};
use writer::Clients;

/// Kafka's ports lie so far behind streamd's.
const KAFKA_PORT: u16 = 20;
/// Partitions where their number does not matter.
const FEW: i32 = 6;

/// The comparison of clusters from the command line.
#[derive(Args, Clone, Debug)]
pub struct ClusterArgs {
    /// Loads, by name or the beginning of a name [default: all].
    #[arg(value_name = "LOAD")]
    pub cases: Vec<String>,
    /// The broker's program [default: streamd beside this one].
    #[arg(long, value_name = "PATH")]
    pub streamd: Option<PathBuf>,
    /// Rounds of the loads that count; 0 leaves the loads out.
    #[arg(long, visible_alias = "pairs", default_value_t = 3, value_name = "N")]
    pub rounds: usize,
    /// Seconds to measure in every run [default: 2].
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Seconds of mixed load on each cluster before the first load.
    #[arg(long, default_value_t = 8.0, value_name = "SECONDS")]
    pub warm: f64,
    /// How often a leader is killed.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub kills: usize,
    /// How often the controller is killed.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub controller_kills: usize,
    /// How often a leader of many partitions is killed.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub many_kills: usize,
    /// How many are many.
    #[arg(long, default_value_t = 1000, value_name = "PARTITIONS")]
    pub many: i32,
    /// After so many minutes no more node is killed.
    #[arg(long, default_value_t = 11.0)]
    pub minutes: f64,
    /// The first port; the next 30 are used.
    #[arg(long, default_value_t = 29300)]
    pub port: u16,
    /// Where Kafka, clients, data and logs go [default: bench-cluster in the temporary directory].
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// The repository, in whose bench/ the file goes [default: found from this program's place].
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

impl ClusterArgs {
    fn scenarios(&self) -> [Scenario; 3] {
        let few = |what: &str, killed, kills| Scenario {
            what: what.to_owned(),
            killed,
            partitions: FEW,
            pause_ms: 2,
            kills,
        };
        let many = Scenario {
            what: format!("a leader, {} partitions", self.many),
            killed: Killed::Leader,
            partitions: self.many,
            // Each record is a request of its own here, whose cost is not the matter.
            pause_ms: 20,
            kills: self.many_kills,
        };
        [
            few("a leader", Killed::Leader, self.kills),
            few("the controller", Killed::Controller, self.controller_kills),
            many,
        ]
    }
}

/// Runs everything and writes `bench/CLUSTER.md`; gives its text too.
///
/// # Errors
/// A cluster or a client cannot be started, or the file cannot be written. All are stopped.
pub fn run(args: &ClusterArgs) -> Result<(Record, String)> {
    let deadline = Instant::now() + Duration::from_secs_f64(args.minutes.clamp(0.1, 1440.0) * 60.0);
    let root = machine::root(args.root.as_deref())?;
    let program = streamd_path(args.streamd.as_deref())?;
    let work = args.work.clone();
    let work = work.unwrap_or_else(|| std::env::temp_dir().join("bench-cluster"));
    let kafka = work.join("kafka");
    fs::create_dir_all(&kafka).context(|| format!("cannot make {}", kafka.display()))?;
    let kafka = kafka.canonicalize()?;
    nodes::install_kafka(&kafka)?;
    let clients = Clients::install(&work, &kafka)?;
    let mut sides = vec![
        Nodes::start(Kind::Streamd(program), &work, args.port)?,
        Nodes::start(Kind::Kafka(kafka.clone()), &kafka, args.port + KAFKA_PORT)?,
    ];
    let mut experiment = presets::named("cluster")?.0;
    experiment = experiment.only(&args.cases)?.lasting(args.seconds);
    let mut pace = Pace {
        rounds: args.rounds,
        warm: args.warm,
        limits: 0.0,
    };
    if args.rounds == 0 {
        experiment.loads.clear();
        pace.warm = 0.0;
    }
    let targets = sides.iter().map(Nodes::target).collect();
    let mut record = record::run(&experiment, &Brokers::of(targets, work), pace)?;
    for scenario in args.scenarios().iter().filter(|s| s.kills > 0) {
        let failed = &mut record.failed;
        match failover::run(&mut sides, &clients, scenario, deadline, failed) {
            Ok(done) => record.failovers.push(done),
            Err(failure) => failed.push(format!("{}: {failure}", scenario.what)),
        }
    }
    let text = text::results(&record, &kafka_version());
    let results = root.join("bench/CLUSTER.md");
    fs::write(&results, &text).context(|| format!("cannot write {}", results.display()))?;
    Ok((record, text))
}
