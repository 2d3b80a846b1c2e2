//! The fetch load: every partition from its start to its end, over and over.
//!
//! One request is out on each connection. The partitions of a node are dealt out to the connections
//! to it; a connection beyond their number reads one of them a second time. Requests carry no
//! session.

use std::rc::Rc;

use streamd_wire::kafka::fetch_request::{FetchPartition, FetchTopic};
use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::{ApiKey, FetchRequest, FetchResponse, Message, ResponseHeader, Writer};

use crate::admin::{CLIENT_ID, error_name};
use crate::batch;
use crate::conn::{Pending, Template};
use crate::drive::{Load, Next, drive};
use crate::failure::{Context, Failure, Result};
use crate::leaders::Leaders;
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
    turn: usize,
    empty: u32,
    meter: Meter,
}

/// Runs a fetch load over a topic whose partitions end at `ends`.
///
/// # Errors
/// See [`drive`]; an error of the broker; partitions without data.
pub fn run(
    leaders: &Leaders,
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
    let connections = leaders.connections(workload.connections);
    let mut load = Fetch {
        topic,
        version,
        cursors: deal(ends, leaders, connections),
        turn: 0,
        empty: 0,
        meter,
    };
    drive(&leaders.dealt(connections), &mut load)?;
    Ok(load.meter)
}

fn deal(ends: &[i64], leaders: &Leaders, connections: usize) -> Vec<Vec<Cursor>> {
    let cursor = |partition: i32| Cursor {
        partition,
        offset: 0,
        end: ends[partition as usize],
    };
    let (nodes, each) = (leaders.nodes(), connections / leaders.nodes());
    let of = |conn: usize| {
        let led: Vec<i32> = leaders.led(conn % nodes).collect();
        let turn = conn / nodes;
        let own = led.iter().skip(turn).step_by(each).copied().map(cursor);
        let own: Vec<_> = own.collect();
        if own.is_empty() {
            vec![cursor(led[turn % led.len()])]
        } else {
            own
        }
    };
    (0..connections).map(of).collect()
}

/// A Fetch request of so many (partition, offset); it waits up to half a second for a byte.
///
/// # Errors
/// It cannot be encoded.
pub fn request(
    topic: &str,
    version: i16,
    partitions: impl Iterator<Item = (i32, i64)>,
) -> Result<Rc<Template>> {
    let asked: Vec<_> = partitions
        .map(|(partition, fetch_offset)| FetchPartition {
            partition,
            fetch_offset,
            partition_max_bytes: PARTITION_BYTES_MAX,
            ..FetchPartition::default()
        })
        .collect();
    let request = FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: BYTES_MAX,
        topics: vec![FetchTopic {
            topic,
            partitions: asked.into(),
            ..FetchTopic::default()
        }]
        .into(),
        ..FetchRequest::default()
    };
    let mut w = Writer::new();
    encode_request(&request, version, 0, Some(CLIENT_ID), &mut w)
        .context(|| "cannot encode a Fetch request".into())?;
    Ok(Rc::new(Template {
        head: w.into_parts().0,
        ..Template::default()
    }))
}

/// Reads the answer to a Fetch request: calls `each` with a partition and its batches.
///
/// # Errors
/// It cannot be read, or is an error; errors of `each`.
pub fn answered(
    frame: &[u8],
    version: i16,
    mut each: impl FnMut(i32, &[u8]) -> Result<()>,
) -> Result<()> {
    let header = ResponseHeader {
        api: ApiKey::Fetch,
        version,
        correlation_id: 0,
    };
    let what = || "the answer to a Fetch request cannot be read".to_owned();
    let (_, body) = header.parse(frame).context(what)?;
    let answer = FetchResponse::decode_body(body, version).context(what)?;
    refuse(answer.error_code, "a fetch")?;
    for topic in answer.responses.iter() {
        for data in topic.partitions.iter() {
            refuse(data.error_code, "the fetch of a partition")?;
            let records = data.records.map_or(&[][..], |records| records.bytes());
            each(data.partition_index, records)?;
        }
    }
    Ok(())
}

impl Load for Fetch<'_> {
    fn next(&mut self, conn: usize, now: u64) -> Result<Next> {
        if self.meter.over() {
            return Ok(Next::Nothing);
        }
        // Brokers fill an answer from the front: another partition goes first every time.
        self.turn += 1;
        let cursors = &self.cursors[conn];
        let (behind, front) = cursors.split_at(self.turn % cursors.len());
        let all = front.iter().chain(behind);
        let all = all.map(|cursor| (cursor.partition, cursor.offset));
        Ok(Next::Send(request(self.topic, self.version, all)?, now))
    }

    fn in_flight(&self, _conn: usize) -> usize {
        1
    }

    fn answered(&self, _conn: usize) -> bool {
        true
    }

    fn answer(&mut self, conn: usize, frame: &[u8], asked: Pending, now: u64) -> Result<()> {
        let (mut records, mut bytes) = (0, 0);
        let cursors = &mut self.cursors[conn];
        answered(frame, self.version, |partition, batches| {
            let walked = batch::walk(batches);
            let mut cursors = cursors.iter_mut();
            let cursor = cursors.find(|cursor| cursor.partition == partition);
            if let (Some(cursor), Some(next)) = (cursor, walked.next) {
                records += walked.records;
                bytes += walked.bytes;
                cursor.offset = if next >= cursor.end { 0 } else { next };
            }
            Ok(())
        })?;
        self.empty = if records == 0 { self.empty + 1 } else { 0 };
        if self.empty > EMPTY_MAX {
            return Err(Failure::new(
                "the broker gives empty answers below the end of the partitions",
            ));
        }
        self.meter.answered(asked.due, now, records, bytes);
        Ok(())
    }

    fn sent(&mut self, _asked: Pending, _now: u64) {}

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
        let leaders = Leaders::alone(([127, 0, 0, 1], 1).into(), partitions as i32);
        let cursors = deal(&vec![1; partitions], &leaders, connections);
        let of = |cursors: &Vec<Cursor>| cursors.iter().map(|c| c.partition).collect();
        cursors.iter().map(of).collect()
    }

    #[test]
    fn every_partition_is_read_and_no_connection_is_idle() {
        assert_eq!(dealt(5, 2), vec![vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(dealt(2, 3), vec![vec![0], vec![1], vec![0]]);
    }
}
