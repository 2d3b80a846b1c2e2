//! Commits of offsets: every connection is a consumer of a group of its own, which commits the
//! offsets of some partitions over and over.

use std::net::SocketAddr;

use streamd_wire::kafka::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use streamd_wire::kafka::{ApiKey, OffsetCommitRequest, OffsetCommitResponse};

use super::{AGAIN_AFTER, answer, done, template, version};
use crate::admin::Admin;
use crate::conn::Pending;
use crate::drive::{Load, Next, drive};
use crate::failure::Result;
use crate::meter::Meter;
use crate::workload::Workload;

struct Commits<'a> {
    topic: &'a str,
    version: i16,
    partitions: i32,
    /// Partitions in a commit.
    spread: i32,
    in_flight: usize,
    /// Commits so far, of all connections: gives offsets that rise.
    count: i64,
    /// When a connection may go on whose coordinator was not ready.
    again: Vec<u64>,
    meter: Meter,
}

/// Runs commits over a topic that is there.
///
/// # Errors
/// See [`drive`]; a commit that is refused.
pub fn run(
    address: SocketAddr,
    admin: &mut Admin,
    topic: &str,
    workload: &Workload,
    meter: Meter,
) -> Result<Meter> {
    for conn in 0..workload.connections {
        admin.coordinator(&group(topic, conn), 0)?;
    }
    let mut load = Commits {
        topic,
        version: version(admin, ApiKey::OffsetCommit, (2, 8))?,
        partitions: workload.partitions,
        spread: workload.spread,
        in_flight: workload.in_flight,
        count: 0,
        again: vec![0; workload.connections],
        meter,
    };
    drive(&vec![address; workload.connections], &mut load)?;
    Ok(load.meter)
}

fn group(topic: &str, conn: usize) -> String {
    format!("{topic}-{conn}")
}

impl Load for Commits<'_> {
    fn next(&mut self, conn: usize, now: u64) -> Result<Next> {
        if self.meter.over() {
            return Ok(Next::Nothing);
        }
        if now < self.again[conn] {
            return Ok(Next::Later(self.again[conn]));
        }
        self.count += 1;
        let first = (self.count % i64::from(self.partitions)) as i32;
        let partitions = (0..self.spread).map(|n| OffsetCommitRequestPartition {
            partition_index: (first + n) % self.partitions,
            committed_offset: self.count,
            ..OffsetCommitRequestPartition::default()
        });
        let request = OffsetCommitRequest {
            group_id: &group(self.topic, conn),
            topics: vec![OffsetCommitRequestTopic {
                name: self.topic,
                partitions: partitions.collect::<Vec<_>>().into(),
                ..OffsetCommitRequestTopic::default()
            }]
            .into(),
            ..OffsetCommitRequest::default()
        };
        Ok(Next::Send(template(&request, self.version)?, now))
    }

    fn in_flight(&self, _conn: usize) -> usize {
        self.in_flight
    }

    fn answered(&self, _conn: usize) -> bool {
        true
    }

    fn answer(&mut self, conn: usize, frame: &[u8], asked: Pending, now: u64) -> Result<()> {
        let read: OffsetCommitResponse<'_> = answer(frame, ApiKey::OffsetCommit, self.version)?;
        let mut kept = true;
        for topic in read.topics.iter() {
            for partition in topic.partitions.iter() {
                kept &= done(partition.error_code, "a commit")?;
            }
        }
        if kept {
            self.meter.answered(asked.due, now, 1, 0);
        } else {
            self.again[conn] = now + AGAIN_AFTER;
        }
        Ok(())
    }

    fn sent(&mut self, _asked: Pending, _now: u64) {}

    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }
}
