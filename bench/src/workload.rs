//! What to run: one description for all loads, whole and checked. `spec` makes it.

use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::batch::Codec;
use crate::meter::Stop;

/// The load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Produce requests.
    Produce,
    /// Fetch requests over data that was written before, again and again.
    Fetch,
    /// Writers and one or more groups of readers that wait for what comes: fan-out, end to end.
    Stream,
    /// A reader that starts far behind while the writers go on.
    CatchUp,
    /// Connections that open, ask for the versions, produce once, and close.
    Storm,
    /// Commits of offsets, each connection for a group of its own.
    Commit,
    /// Transactions, each connection with a transactional id of its own.
    Transaction,
    /// A classic group whose members leave and come back, one by one.
    RebalanceClassic,
    /// The like with the `consumer` protocol.
    RebalanceConsumer,
}

impl Kind {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Produce => "produce",
            Kind::Fetch => "fetch",
            Kind::Stream => "stream",
            Kind::CatchUp => "catch-up",
            Kind::Storm => "storm",
            Kind::Commit => "commit",
            Kind::Transaction => "transaction",
            Kind::RebalanceClassic => "rebalance-classic",
            Kind::RebalanceConsumer => "rebalance-consumer",
        }
    }

    /// What is counted as records.
    pub fn unit(self) -> &'static str {
        match self {
            Kind::Storm => "connections",
            Kind::Commit => "commits",
            Kind::Transaction => "transactions",
            Kind::RebalanceClassic | Kind::RebalanceConsumer => "rebalances",
            _ => "records",
        }
    }

    /// Whether it is about coordinators: what is counted has no size.
    pub fn coordinates(self) -> bool {
        matches!(self.unit(), "commits" | "transactions" | "rebalances")
    }

    /// Whether it is about rebalances.
    pub fn rebalances(self) -> bool {
        self.unit() == "rebalances"
    }
}

/// How long a load runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Time {
    /// Seconds before measuring.
    pub warmup_s: f64,
    /// Seconds to measure, unless `records` is given; of a catch-up: at most.
    pub seconds: f64,
    /// Records to measure.
    pub records: Option<u64>,
}

/// The keys of records.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Keys {
    /// So many different ones.
    pub count: u64,
    /// The exponent of Zipf's law for them; 0: all alike.
    pub skew: f64,
}

/// A load with all its numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// What is done.
    pub kind: Kind,
    /// Bytes of a record's value.
    pub size: usize,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Records in a batch.
    pub batch_records: usize,
    /// Batches in a request, each for another partition.
    pub spread: i32,
    /// Compression.
    pub codec: Codec,
    /// -1 all, 1 leader, 0 none.
    pub acks: i16,
    /// Connections, all on one thread (of the writers, where there are readers too).
    pub connections: usize,
    /// Requests without an answer that a connection may have.
    pub in_flight: usize,
    /// Records a second (of a storm: connections); `None`: as fast as answers come (closed loop).
    pub rate: Option<f64>,
    /// Milliseconds that a record may wait for others; 0: those of a batch come due at once.
    pub linger_ms: f64,
    /// Keys; without them the partitions take turns.
    pub keys: Option<Keys>,
    /// Groups of readers, each of which reads everything.
    pub groups: usize,
    /// How long.
    #[serde(flatten)]
    pub time: Time,
    /// MB (10^6 bytes of values) that are written before reading.
    pub fill_mb: u64,
}

impl Workload {
    /// The time before measuring.
    pub fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.time.warmup_s.clamp(0.0, 86_400.0))
    }

    /// When it ends.
    pub fn stop(&self) -> Stop {
        match self.time.records {
            Some(records) => Stop::Records(records),
            None => Stop::After((self.time.seconds.clamp(0.0, 86_400.0) * 1e9) as u64),
        }
    }

    /// Its name for a person.
    pub fn title(&self) -> String {
        let size = match self.size {
            size if size >= 1024 && size.is_multiple_of(1024) => format!("{} KiB", size / 1024),
            size => format!("{size} B"),
        };
        let pace = match self.rate {
            Some(rate) => format!(", {} records/s", crate::report::number(rate)),
            None => String::new(),
        };
        if let Some(keys) = self.keys {
            let (count, skew) = (keys.count, keys.skew);
            return format!("Produce {size} records with {count} keys, Zipf {skew}{pace}");
        }
        match self.kind {
            Kind::Fetch => format!("Fetch what is in memory, {size} records"),
            Kind::Stream if self.groups == 1 => {
                format!("Produce to consumer's hands, {size}{pace}")
            }
            Kind::Stream => format!("One topic to {} groups, {size}{pace}", self.groups),
            Kind::CatchUp => format!("Catch up {} MB while {size} come{pace}", self.fill_mb),
            Kind::Commit => format!(
                "Commit offsets of {}, {} groups",
                self.spread, self.connections
            ),
            Kind::Transaction => format!(
                "Transactions of {} partitions, {} producers",
                self.spread, self.connections
            ),
            Kind::RebalanceClassic | Kind::RebalanceConsumer => format!(
                "Rebalance {} members, {} partitions{}",
                self.connections,
                self.partitions,
                if self.kind == Kind::RebalanceClassic {
                    " (classic)"
                } else {
                    " (consumer)"
                }
            ),
            Kind::Storm => format!("Connection storm, {} at a time", self.connections),
            Kind::Produce if self.rate.is_some() => {
                format!("Produce {size} records at a fixed rate{pace}")
            }
            Kind::Produce if self.batch_records == 1 => {
                format!(
                    "One {size} record a request, {} connections",
                    self.connections
                )
            }
            Kind::Produce => {
                let codec = match self.codec {
                    Codec::None => "uncompressed",
                    Codec::Lz4 => "lz4",
                };
                format!("Produce {size} records in batches, {codec}")
            }
        }
    }
}

/// How many records of a size fill a batch of so many bytes; at least one.
pub fn records_in(batch_bytes: usize, size: usize) -> usize {
    // A record in a batch has about 8 bytes around its value.
    (batch_bytes / (size + 8)).max(1)
}

/// A broker under load, or several that are one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What to call it.
    pub name: String,
    /// Where it listens, or one of them.
    pub address: SocketAddr,
    /// Its processes, if they run on this machine: what they use is added up.
    pub pids: Vec<u32>,
    /// The replicas of the topics that are created.
    pub replicas: i16,
    /// Configs for the topics that are created.
    pub configs: Vec<(String, String)>,
}
