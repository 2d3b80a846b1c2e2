//! The table of `bench/RESULTS.md`: streamd and Apache Kafka side by side, and the machine's
//! limits, in one run.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::admin::Admin;
use crate::cli::TableArgs;
use crate::duel::{self, Case};
use crate::failure::{Context, Result};
use crate::limits::Limits;
use crate::machine::{self, Origin};
use crate::procfs::Usage;
use crate::progress::Progress;
use crate::run;
use crate::server::{Server, TempDir, streamd_path};
use crate::sys;
use crate::workload::{Kind, Target, Workload};

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
    /// How it was called.
    pub command: String,
    /// Where and of what.
    pub origin: Origin,
    /// Kafka's version.
    pub kafka_version: String,
    /// What the machine can do.
    pub limits: Limits,
    /// Both brokers at rest.
    pub idle: Vec<Idle>,
    /// streamd against Kafka as it comes.
    pub cases: Vec<Case>,
    /// streamd against Kafka with durable acknowledgements.
    pub durable: Vec<Case>,
    /// Why cases are missing.
    pub failed: Vec<String>,
}

struct Places {
    root: PathBuf,
    work: PathBuf,
    script: PathBuf,
}

impl Places {
    fn of(args: &TableArgs) -> Result<Places> {
        let root = machine::root(args.root.as_deref())?;
        let given = args.work.clone();
        let work = given.unwrap_or_else(|| std::env::temp_dir().join("bench-table"));
        fs::create_dir_all(&work).context(|| format!("cannot make {}", work.display()))?;
        Ok(Places {
            script: root.join("bench/kafka.sh"),
            root,
            work: work.canonicalize()?,
        })
    }
}

/// Runs everything, writes `bench/RESULTS.md` and appends to `bench/history/`.
///
/// # Errors
/// A broker cannot be started or fails, or the files cannot be written. Both brokers are stopped.
pub fn run(args: &TableArgs) -> Result<Table> {
    let places = Places::of(args)?;
    let cases = duel::chosen(&args.cases, args.seconds)?;
    let durable = if args.kafka_durable {
        // With a flush for every request Kafka needs no more than a few cases to be placed.
        let wanted = ["produce-1k-p1-none", "small", "latency"].map(str::to_owned);
        duel::chosen(&wanted, args.seconds)?
    } else {
        Vec::new()
    };
    let progress = Progress::new((cases.len() + durable.len()) * (args.pairs + 1) + 6);
    // Declared before the brokers: removed after they have stopped.
    let data = TempDir::anew(places.work.join("streamd"))?;
    let _kafka_data = TempDir::anew(places.work.join("kafka/data"))?;
    sys::sync();
    let each = Duration::from_secs(1);
    let limits = Limits::measure(&places.work, each, |what| progress.step(what))?;
    let streamd = Server::streamd(&streamd_path(args.streamd.as_deref())?, data.path())?;
    let kafka = Server::kafka(&places.script, &places.work.join("kafka"), args.kafka_port)?;
    progress.step("idle");
    let idle = watch_idle(&[&streamd, &kafka], args.idle_seconds)?;
    let (a, b) = (streamd.target(), kafka.target());
    for target in [&a, &b] {
        progress.step("warm-up");
        duel::warm_one(target, args.warm)?;
    }
    let mut table = Table {
        command: command(),
        origin: Origin::here(Some(&places.root), &places.work),
        kafka_version: kafka_version(&places.script)?,
        limits,
        idle,
        cases: Vec::new(),
        durable: Vec::new(),
        failed: Vec::new(),
    };
    let against =
        |other: &Target, load: &Workload| duel::case((&a, other), load, args.pairs, &progress);
    table.cases = run_cases(&cases, &mut table.failed, |load| against(&b, load));
    let flushed = Target {
        name: "Kafka, flush.messages=1".into(),
        configs: vec![("flush.messages".into(), "1".into())],
        ..b.clone()
    };
    table.durable = run_cases(&durable, &mut table.failed, |load| against(&flushed, load));
    save(&table, &places.root)?;
    Ok(table)
}

/// Runs cases; one that fails is noted, for the others are worth having all the same.
fn run_cases(
    loads: &[Workload],
    failed: &mut Vec<String>,
    one: impl Fn(&Workload) -> Result<Case>,
) -> Vec<Case> {
    let mut cases = Vec::new();
    for load in loads {
        match one(load) {
            Ok(case) => cases.push(case),
            Err(failure) => failed.push(failure.to_string()),
        }
    }
    cases
}

/// The command line without the program's directory.
fn command() -> String {
    let arguments = std::env::args().skip(1);
    let arguments: Vec<_> = arguments.collect();
    format!("target/release/bench {}", arguments.join(" "))
}

fn kafka_version(script: &Path) -> Result<String> {
    let output = std::process::Command::new(script).arg("version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Watches both at rest over the same seconds, each with 100 partitions.
fn watch_idle(servers: &[&Server], seconds: f64) -> Result<Vec<Idle>> {
    let topic = run::topic_name();
    for server in servers {
        let mut admin = Admin::connect(server.target().address)?;
        admin.create(&topic, IDLE_PARTITIONS, &[])?;
    }
    // What creating stirred up comes to rest.
    thread::sleep(Duration::from_secs(5));
    let read = |server: &&Server| server.target().pid.map(Usage::of).transpose();
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

/// One line of `bench/history/table.jsonl`: one case of one run.
#[derive(Serialize)]
struct Line<'a> {
    origin: &'a Origin,
    kafka: &'a str,
    idle: &'a [Idle],
    case: Case,
}

fn save(table: &Table, root: &Path) -> Result<()> {
    let results = root.join("bench/RESULTS.md");
    fs::write(&results, crate::markdown::results(table))
        .context(|| format!("cannot write {}", results.display()))?;
    let history = root.join("bench/history");
    fs::create_dir_all(&history).context(|| format!("cannot make {}", history.display()))?;
    let path = history.join("table.jsonl");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .context(|| format!("cannot append to {}", path.display()))?;
    for case in table.cases.iter().chain(&table.durable) {
        let line = Line {
            origin: &table.origin,
            kafka: &table.kafka_version,
            idle: &table.idle,
            // The single runs would make the history long; the spread of them is kept.
            case: Case {
                pairs: Vec::new(),
                ..case.clone()
            },
        };
        let mut text = serde_json::to_string(&line).context(|| "cannot make JSON".into())?;
        text.push('\n');
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// What a case is compared with at the machine's limit: CPU milliseconds for a MB.
pub fn limit_of(case: &Case, limits: &Limits) -> Option<f64> {
    let load = &case.workload;
    let bulk = load.batch_records > 1 && load.rate.is_none();
    match load.kind {
        Kind::Fetch => Some(limits.fetch_ms_per_mb()),
        Kind::Produce if bulk && load.codec == crate::batch::Codec::None => {
            Some(limits.produce_ms_per_mb())
        }
        Kind::Produce => None,
    }
}
