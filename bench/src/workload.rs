//! What to run: one description for all loads, from the command line or from a named case.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batch::Codec;
use crate::meter::Stop;

/// The load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Produce requests.
    Produce,
    /// Fetch requests over data that was written before, again and again.
    Fetch,
}

/// A load with all its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// Produce or fetch.
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
    /// Connections, all on one thread.
    pub connections: usize,
    /// Requests without an answer that a connection may have.
    pub in_flight: usize,
    /// Records a second (open loop); `None`: as fast as answers come (closed loop).
    pub rate: Option<f64>,
    /// Seconds before measuring.
    pub warmup_s: f64,
    /// Seconds to measure, unless `records` is given.
    pub seconds: f64,
    /// Records to measure.
    pub records: Option<u64>,
    /// MB (10^6 bytes of values) that are written before fetching.
    pub fill_mb: u64,
}

impl Workload {
    /// A closed-loop produce load: 64 KiB batches, two connections, five requests in flight.
    pub fn produce(size: usize, partitions: i32, codec: Codec) -> Workload {
        let label = if size == 1024 {
            "1k".into()
        } else {
            size.to_string()
        };
        Workload {
            name: format!("produce-{label}-p{partitions}-{}", codec.name()),
            kind: Kind::Produce,
            size,
            partitions,
            batch_records: records_in(64 * 1024, size),
            spread: 1,
            codec,
            acks: -1,
            connections: if partitions > 1 { 2 } else { 1 },
            in_flight: 5,
            rate: None,
            warmup_s: 0.5,
            seconds: 3.0,
            records: None,
            fill_mb: 0,
        }
    }

    /// A load that fetches resident data over and over.
    pub fn fetch(size: usize, partitions: i32) -> Workload {
        let produce = Workload::produce(size, partitions, Codec::None);
        Workload {
            name: produce
                .name
                .replace("produce", "fetch")
                .replace("-none", ""),
            kind: Kind::Fetch,
            connections: 1,
            in_flight: 1,
            fill_mb: 256,
            ..produce
        }
    }

    /// One-record requests of 1 KiB on 32 connections, one in flight on each.
    pub fn small() -> Workload {
        Workload {
            name: "small".into(),
            batch_records: 1,
            connections: 32,
            in_flight: 1,
            ..Workload::produce(1024, 12, Codec::None)
        }
    }

    /// Open loop: `rate` records of 1 KiB a second in requests of `batch_records`.
    pub fn latency(rate: u32, batch_records: usize) -> Workload {
        Workload {
            name: format!("latency-{}k", rate / 1000),
            batch_records,
            connections: 1,
            in_flight: 64,
            rate: Some(f64::from(rate)),
            warmup_s: 1.0,
            ..Workload::produce(1024, 1, Codec::None)
        }
    }

    /// The time before measuring.
    pub fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup_s.clamp(0.0, 86_400.0))
    }

    /// When it ends.
    pub fn stop(&self) -> Stop {
        match self.records {
            Some(records) => Stop::Records(records),
            None => Stop::After((self.seconds.clamp(0.0, 86_400.0) * 1e9) as u64),
        }
    }
}

/// How many records of a size fill a batch of so many bytes; at least one.
pub fn records_in(batch_bytes: usize, size: usize) -> usize {
    // A record in a batch has about 8 bytes around its value.
    (batch_bytes / (size + 8)).max(1)
}

/// A broker under load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What to call it.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process, if it runs on this machine.
    pub pid: Option<u32>,
    /// Configs for the topics that are created.
    pub configs: Vec<(String, String)>,
}
