//! The fetch load: every partition from its start to its end, over and over.
//!
//! One request is out on each connection. The partitions are dealt out to the connections; a
//! connection beyond their number reads one of them a second time. Requests carry no session.

use std::net::SocketAddr;
use std::rc::Rc;

use streamd_wire::kafka::fetch_request::{FetchPartition, FetchTopic};
use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::{ApiKey, FetchRequest, FetchResponse, Message, ResponseHeader, Writer};

use crate::admin::{CLIENT_ID, error_name};
use crate::batch;
use crate::conn::Template;
use crate::drive::{Load, Next, drive};
use crate::failure::{Context, Failure, Result};
use crate::meter::Meter;
use crate::workload::Workload;

/// The newest version with topic names (13 has ids).
pub const VERSION: i16 = 12;
/// The most bytes of an answer, Kafka's default.
const BYTES_MAX: i32 = 50 << 20;
/// The most bytes of a partition in an answer, Kafka's default.
const PARTITION_BYTES_MAX: i32 = 1 << 20;
/// So many empty answers in a row mean that the data is not there.
const EMPTY_MAX: u32 = 20;

struct Cursor {
    partition: i32,
    offset: i64,
    end: i64,
}

struct Fetch<'a> {
    topic: &'a str,
    version: i16,
    /// What each connection reads.
    cursors: Vec<Vec<Cursor>>,
    template: Template,
    turn: usize,
    empty: u32,
    meter: Meter,
}

/// Runs a fetch load over a topic whose partitions end at `ends`.
///
/// # Errors
/// See [`drive`]; an error of the broker; partitions without data.
pub fn run(
    address: SocketAddr,
    topic: &str,
    workload: &Workload,
    source: (i16, &[i64]),
    meter: Meter,
) -> Result<Meter> {
    let (version, ends) = source;
    if let Some(empty) = ends.iter().position(|end| *end == 0) {
        return Err(Failure::new(format!(
            "partition {empty} of {topic} is empty: write to it first"
        )));
    }
    let connections = workload.connections;
    let mut load = Fetch {
        topic,
        version,
        cursors: deal(ends, connections),
        template: Template {
            head: Vec::new(),
            holes: Vec::new(),
        },
        turn: 0,
        empty: 0,
        meter,
    };
    drive(address, connections, 1, &mut load)?;
    Ok(load.meter)
}

fn deal(ends: &[i64], connections: usize) -> Vec<Vec<Cursor>> {
    let cursor = |partition: usize| Cursor {
        partition: partition as i32,
        offset: 0,
        end: ends[partition],
    };
    let of = |conn: usize| {
        let own = (conn..ends.len()).step_by(connections).map(cursor);
        let own: Vec<_> = own.collect();
        if own.is_empty() {
            vec![cursor(conn % ends.len())]
        } else {
            own
        }
    };
    (0..connections).map(of).collect()
}

impl Load for Fetch<'_> {
    fn next(&mut self, conn: usize, now: u64) -> Result<Next<'_>> {
        if self.meter.over() {
            return Ok(Next::Nothing);
        }
        // Brokers fill an answer from the front: another partition goes first every time.
        self.turn += 1;
        let cursors = &self.cursors[conn];
        let (behind, front) = cursors.split_at(self.turn % cursors.len());
        let asked: Vec<_> = front
            .iter()
            .chain(behind)
            .map(|cursor| FetchPartition {
                partition: cursor.partition,
                fetch_offset: cursor.offset,
                partition_max_bytes: PARTITION_BYTES_MAX,
                ..FetchPartition::default()
            })
            .collect();
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: BYTES_MAX,
            topics: vec![FetchTopic {
                topic: self.topic,
                partitions: asked.into(),
                ..FetchTopic::default()
            }]
            .into(),
            ..FetchRequest::default()
        };
        let mut head = std::mem::take(&mut self.template.head);
        head.clear();
        let mut w = Writer::append_to(head);
        encode_request(&request, self.version, 0, Some(CLIENT_ID), &mut w)
            .context(|| "cannot encode a Fetch request".into())?;
        self.template.head = w.into_parts().0;
        Ok(Next::Send(&self.template, now))
    }

    fn batch(&self) -> Rc<[u8]> {
        Rc::from([])
    }

    fn answered(&self) -> bool {
        true
    }

    fn answer(&mut self, conn: usize, frame: &[u8], due: u64, now: u64) -> Result<()> {
        let header = ResponseHeader {
            api: ApiKey::Fetch,
            version: self.version,
            correlation_id: 0,
        };
        let what = || "the answer to a Fetch request cannot be read".to_owned();
        let (_, body) = header.parse(frame).context(what)?;
        let answer = FetchResponse::decode_body(body, self.version).context(what)?;
        refuse(answer.error_code, "a fetch")?;
        let (mut records, mut bytes) = (0, 0);
        for topic in answer.responses.iter() {
            for data in topic.partitions.iter() {
                refuse(data.error_code, "the fetch of a partition")?;
                let walked = batch::walk(data.records.map_or(&[], |records| records.bytes()));
                let mut cursors = self.cursors[conn].iter_mut();
                let cursor = cursors.find(|cursor| cursor.partition == data.partition_index);
                let (Some(cursor), Some(next)) = (cursor, walked.next) else {
                    continue;
                };
                records += walked.records;
                bytes += walked.bytes;
                cursor.offset = if next >= cursor.end { 0 } else { next };
            }
        }
        self.empty = if records == 0 { self.empty + 1 } else { 0 };
        if self.empty > EMPTY_MAX {
            return Err(Failure::new(
                "the broker gives empty answers below the end of the partitions",
            ));
        }
        self.meter.answered(due, now, records, bytes);
        Ok(())
    }

    fn sent(&mut self, _due: u64, _now: u64) {}

    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }
}

fn refuse(code: i16, what: &str) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    let name = error_name(code);
    Err(Failure::new(format!("the broker refused {what}: {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dealt(partitions: usize, connections: usize) -> Vec<Vec<i32>> {
        let cursors = deal(&vec![1; partitions], connections);
        let of = |cursors: &Vec<Cursor>| cursors.iter().map(|c| c.partition).collect();
        cursors.iter().map(of).collect()
    }

    #[test]
    fn every_partition_is_read_and_no_connection_is_idle() {
        assert_eq!(dealt(5, 2), vec![vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(dealt(2, 3), vec![vec![0], vec![1], vec![0]]);
    }
}
