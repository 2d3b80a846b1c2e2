//! What very many partitions cost: memory and open files for each, a restart after SIGKILL and
//! after a clean stop. "Serves" means that a produce and a fetch were answered, each on a
//! partition that nobody asked for before.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use streamd_wire::kafka::fetch_request::{FetchPartition, FetchTopic};
use streamd_wire::kafka::produce_request::{PartitionProduceData, TopicProduceData};
use streamd_wire::kafka::{
    ApiKey, FetchRequest, FetchResponse, ProduceRequest, ProduceResponse, Records,
};

use crate::admin::{Admin, check};
use crate::batch::{Codec, Record, encode};
use crate::brokers::KAFKA_SCRIPT;
use crate::cli::PartitionsArgs;
use crate::failure::{Context, Failure, Result};
use crate::procfs::Usage;
use crate::server::{Server, TempDir, With, streamd_path};

const TOPIC: &str = "many";
/// Partitions in one request.
const IN_REQUEST: usize = 500;
/// How long a broker may take until it serves again.
const SERVES_WITHIN: Duration = Duration::from_secs(600);
/// How long a broker is left alone before its memory and its CPU time are read.
const QUIET: Duration = Duration::from_secs(5);

/// What was measured of one broker with one number of partitions.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cost {
    /// The broker.
    pub name: String,
    /// Partitions of the one topic.
    pub partitions: usize,
    /// Seconds until CreateTopics was answered and every partition has a leader.
    pub create_s: f64,
    /// Seconds until each partition has its first record.
    pub first_write_s: f64,
    /// Resident memory for each partition after that, KiB, over that of the empty broker.
    pub kib_each: f64,
    /// Resident memory, MiB.
    pub rss_mib: f64,
    /// Open files.
    pub open_files: usize,
    /// CPU of one core while nothing happens, percent.
    pub idle_percent: f64,
    /// Seconds from the start of the process after SIGKILL until it serves; the best round.
    pub killed_s: f64,
    /// The worst round.
    pub killed_worst_s: f64,
    /// Seconds that a clean stop took; the best round.
    pub stop_s: f64,
    /// Seconds from the start of the process after a clean stop until it serves; the best round.
    pub stopped_s: f64,
}

/// Which broker.
enum Kind {
    Streamd(std::path::PathBuf),
    Kafka(std::path::PathBuf, u16),
}

impl Kind {
    fn start(&self, work: &Path) -> Result<Server> {
        match self {
            Kind::Streamd(program) => Server::streamd(program, &work.join("data"), With::default()),
            Kind::Kafka(script, port) => Server::kafka(script, work, *port),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Kind::Streamd(_) => "streamd",
            Kind::Kafka(..) => "Kafka",
        }
    }
}

/// Measures all that is asked for.
///
/// # Errors
/// A broker does not start, or does not do what it is asked.
pub fn run(args: &PartitionsArgs) -> Result<Vec<Cost>> {
    let mut costs = Vec::new();
    for &count in &args.partitions {
        let kind = Kind::Streamd(streamd_path(args.streamd.as_deref())?);
        let dir = TempDir::anew(args.work().join("streamd"))?;
        costs.push(measure(&kind, dir.path(), (count, args.rounds))?);
        if args.kafka {
            let work = args.work().join("kafka");
            let dir = TempDir::anew(work.join("data"))?;
            let work = work.canonicalize()?;
            let script = work.join("kafka.sh");
            fs::write(&script, KAFKA_SCRIPT)
                .context(|| format!("cannot write {}", script.display()))?;
            let kind = Kind::Kafka(script, args.kafka_port);
            costs.push(measure(&kind, &work, (count, args.rounds))?);
            drop(dir);
        }
    }
    Ok(costs)
}

fn measure(kind: &Kind, work: &Path, (count, rounds): (usize, usize)) -> Result<Cost> {
    let mut cost = Cost {
        name: kind.name().into(),
        partitions: count,
        killed_s: f64::INFINITY,
        stop_s: f64::INFINITY,
        stopped_s: f64::INFINITY,
        ..Cost::default()
    };
    let say = |what: &str| eprintln!("bench: {} with {count} partitions: {what}", kind.name());
    say("creating and writing");
    let mut server = kind.start(work)?;
    let mut admin = Admin::connect(server.target().address)?;
    let empty = Usage::of(server.id())?.rss;
    let begun = Instant::now();
    admin.create(TOPIC, (count as i32, 1), &[])?;
    cost.create_s = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    write_all(&mut admin, count)?;
    cost.first_write_s = begun.elapsed().as_secs_f64();
    std::thread::sleep(QUIET);
    let before = Usage::of(server.id())?;
    std::thread::sleep(QUIET);
    let after = Usage::of(server.id())?;
    cost.idle_percent = after.since(&before).cpu_ms / QUIET.as_secs_f64() / 10.0;
    cost.rss_mib = after.rss as f64 / 1048576.0;
    cost.kib_each = after.rss.saturating_sub(empty) as f64 / 1024.0 / count as f64;
    cost.open_files = open_files(server.id())?;
    for round in 0..rounds {
        say(&format!("round {} of {rounds}", round + 1));
        write_all(&mut admin, count)?;
        server.kill()?;
        let serves;
        (server, admin, serves) = serving(kind, work, count, round)?;
        cost.killed_s = cost.killed_s.min(serves);
        cost.killed_worst_s = cost.killed_worst_s.max(serves);
        write_all(&mut admin, count)?;
        let begun = Instant::now();
        server.stop()?;
        cost.stop_s = cost.stop_s.min(begun.elapsed().as_secs_f64());
        let serves;
        (server, admin, serves) = serving(kind, work, count, round)?;
        cost.stopped_s = cost.stopped_s.min(serves);
    }
    drop(server);
    Ok(cost)
}

fn open_files(pid: u32) -> Result<usize> {
    let dir = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&dir)
        .context(|| format!("cannot list {dir}"))?
        .count())
}

/// Starts the broker; gives it with the seconds until it served.
fn serving(kind: &Kind, work: &Path, count: usize, round: usize) -> Result<(Server, Admin, f64)> {
    let begun = Instant::now();
    let server = kind.start(work)?;
    let target = server.target().address;
    let write = (round * 7919 + count / 3) % count;
    let read = (round * 6007 + count / 2) % count;
    loop {
        let tried = Admin::connect(target).and_then(|mut admin| {
            admin.write_to(TOPIC, &[write as i32])?;
            admin.read_from(TOPIC, read as i32)?;
            Ok(admin)
        });
        match tried {
            Ok(admin) => return Ok((server, admin, begun.elapsed().as_secs_f64())),
            Err(error) if begun.elapsed() > SERVES_WITHIN => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Writes a record to each partition. A broker that has just served one may not lead all yet.
fn write_all(admin: &mut Admin, count: usize) -> Result<()> {
    let all: Vec<i32> = (0..count as i32).collect();
    for some in all.chunks(IN_REQUEST) {
        let begun = Instant::now();
        while let Err(error) = admin.write_to(TOPIC, some) {
            if begun.elapsed() > SERVES_WITHIN {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

impl Admin {
    /// Writes a record of 100 bytes to each of these partitions, acks=all.
    fn write_to(&mut self, topic: &str, partitions: &[i32]) -> Result<()> {
        let batch = encode(&[Record::of(vec![b'x'; 100])], Codec::None, now_ms());
        let data: Vec<_> = partitions
            .iter()
            .map(|&index| PartitionProduceData {
                index,
                records: Some(Records::Bytes(&batch)),
            })
            .collect();
        let request = ProduceRequest {
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![TopicProduceData {
                name: topic,
                partition_data: data.into(),
                ..TopicProduceData::default()
            }]
            .into(),
            ..ProduceRequest::default()
        };
        let version = self.version(ApiKey::Produce, 7)?;
        let reply = self.call(&request, version)?;
        for topic in reply.decode::<ProduceResponse<'_>>()?.responses.iter() {
            for partition in topic.partition_responses.iter() {
                check(partition.error_code, || {
                    format!("a produce to partition {}", partition.index)
                })?;
            }
        }
        Ok(())
    }

    /// Reads the first records of a partition, which has some.
    fn read_from(&mut self, topic: &str, partition: i32) -> Result<()> {
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 1 << 20,
            topics: vec![FetchTopic {
                topic,
                partitions: vec![FetchPartition {
                    partition,
                    partition_max_bytes: 1 << 20,
                    ..FetchPartition::default()
                }]
                .into(),
                ..FetchTopic::default()
            }]
            .into(),
            ..FetchRequest::default()
        };
        let version = self.version(ApiKey::Fetch, 10)?;
        let reply = self.call(&request, version)?;
        let answer: FetchResponse<'_> = reply.decode()?;
        check(answer.error_code, || "a fetch".into())?;
        for topic in answer.responses.iter() {
            for p in topic.partitions.iter() {
                check(p.error_code, || format!("a fetch of partition {partition}"))?;
                if p.records.as_ref().is_some_and(|r| !r.bytes().is_empty()) {
                    return Ok(());
                }
            }
        }
        let text = format!("partition {partition} has no records, though some were acknowledged");
        Err(Failure::new(text))
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as i64)
}

/// The costs as a table in Markdown.
pub fn text(costs: &[Cost]) -> String {
    let mut out = String::from(
        "| broker | partitions | create, s | first write of all, s | RSS, MiB | KiB each | \
         open files | idle CPU, % | serves after SIGKILL, s (worst) | clean stop, s | \
         serves after it, s |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for c in costs {
        out += &format!(
            "| {} | {} | {:.2} | {:.2} | {:.0} | {:.1} | {} | {:.1} | {:.2} ({:.2}) | {:.2} | \
             {:.2} |\n",
            c.name,
            c.partitions,
            c.create_s,
            c.first_write_s,
            c.rss_mib,
            c.kib_each,
            c.open_files,
            c.idle_percent,
            c.killed_s,
            c.killed_worst_s,
            c.stop_s,
            c.stopped_s,
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_as_many_cells_as_the_head() {
        let text = text(&[Cost::default()]);
        let bars: Vec<_> = text.lines().map(|l| l.matches('|').count()).collect();
        assert_eq!(bars, [bars[0]; 3]);
    }

    #[test]
    fn this_process_has_open_files() {
        assert!(open_files(std::process::id()).unwrap() >= 3);
        assert!(open_files(u32::MAX).is_err());
    }
}
