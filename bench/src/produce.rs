//! The produce load: batches encoded once and replayed, partitions in turn.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::produce_request::{PartitionProduceData, TopicProduceData};
use streamd_wire::kafka::{
    ApiKey, Message, ProduceRequest, ProduceResponse, Records, ResponseHeader, Writer,
};

use crate::admin::{CLIENT_ID, error_name};
use crate::batch;
use crate::conn::Template;
use crate::drive::{Load, Next, drive};
use crate::failure::{Context, Failure, Result};
use crate::meter::Meter;
use crate::payload::Payload;
use crate::workload::Workload;

/// The newest version with topic names (13 has ids).
pub const VERSION: i16 = 12;

struct Produce {
    batch: Rc<[u8]>,
    templates: Vec<Template>,
    turn: usize,
    version: i16,
    acks: i16,
    request_records: u64,
    wire_bytes: u64,
    /// Nanoseconds between requests; `None` in closed loop.
    gap: Option<f64>,
    begun: u64,
    meter: Meter,
}

/// Runs a produce load over a topic that is there. `version` is that of the Produce requests.
///
/// # Errors
/// See [`drive`]; a batch that the broker refuses.
pub fn run(
    address: SocketAddr,
    topic: &str,
    workload: &Workload,
    version: i16,
    meter: Meter,
) -> Result<Meter> {
    let mut load = Produce::new(topic, workload, version, meter)?;
    drive(address, workload.connections, workload.in_flight, &mut load)?;
    Ok(load.meter)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

impl Produce {
    fn new(topic: &str, workload: &Workload, version: i16, meter: Meter) -> Result<Produce> {
        let mut payload = Payload::new(workload.size, 7);
        let records: Vec<_> = (0..workload.batch_records)
            .map(|_| payload.record())
            .collect();
        let batch: Rc<[u8]> = batch::encode(&records, workload.codec, now_ms()).into();
        let spread = workload.spread.clamp(1, workload.partitions);
        let templates = (0..(workload.partitions + spread - 1) / spread)
            .map(|first| {
                let partitions = (0..spread).map(|i| (first * spread + i) % workload.partitions);
                template(topic, partitions, workload.acks, batch.len(), version)
            })
            .collect::<Result<_>>()?;
        let request_records = workload.batch_records as u64 * spread as u64;
        Ok(Produce {
            wire_bytes: batch.len() as u64 * spread as u64,
            batch,
            templates,
            turn: 0,
            version,
            acks: workload.acks,
            request_records,
            gap: workload
                .rate
                .map(|rate| request_records as f64 / rate * 1e9),
            begun: 0,
            meter,
        })
    }
}

fn template(
    topic: &str,
    partitions: impl Iterator<Item = i32>,
    acks: i16,
    batch: usize,
    version: i16,
) -> Result<Template> {
    let data: Vec<_> = partitions
        .map(|index| PartitionProduceData {
            index,
            records: Some(Records::Hole(batch)),
        })
        .collect();
    let request = ProduceRequest {
        acks,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: topic,
            partition_data: data.into(),
            ..TopicProduceData::default()
        }]
        .into(),
        ..ProduceRequest::default()
    };
    let mut w = Writer::new();
    encode_request(&request, version, 0, Some(CLIENT_ID), &mut w)
        .context(|| "cannot encode a Produce request".into())?;
    let (head, holes) = w.into_parts();
    Ok(Template { head, holes })
}

impl Load for Produce {
    fn next(&mut self, _conn: usize, now: u64) -> Result<Next<'_>> {
        let due = match self.gap {
            None if self.meter.over() => return Ok(Next::Nothing),
            None => now,
            Some(gap) => {
                let due = (self.begun as f64 * gap) as u64;
                if self.meter.ended_at().is_some_and(|end| due >= end) {
                    return Ok(Next::Nothing);
                }
                if due > now {
                    return Ok(Next::At(due));
                }
                due
            }
        };
        self.begun += 1;
        self.turn = (self.turn + 1) % self.templates.len();
        Ok(Next::Send(&self.templates[self.turn], due))
    }

    fn batch(&self) -> Rc<[u8]> {
        self.batch.clone()
    }

    fn answered(&self) -> bool {
        self.acks != 0
    }

    fn answer(&mut self, _conn: usize, frame: &[u8], due: u64, now: u64) -> Result<()> {
        let header = ResponseHeader {
            api: ApiKey::Produce,
            version: self.version,
            correlation_id: 0,
        };
        let what = || "the answer to a Produce request cannot be read".to_owned();
        let (_, body) = header.parse(frame).context(what)?;
        let answer = ProduceResponse::decode_body(body, self.version).context(what)?;
        let mut partitions = 0;
        for topic in answer.responses.iter() {
            for partition in topic.partition_responses.iter() {
                partitions += 1;
                if partition.error_code != 0 {
                    return Err(Failure::new(format!(
                        "the broker refused a batch for partition {}: {}",
                        partition.index,
                        error_name(partition.error_code)
                    )));
                }
            }
        }
        if partitions == 0 {
            return Err(Failure::new("the answer to a Produce request is empty"));
        }
        self.meter
            .answered(due, now, self.request_records, self.wire_bytes);
        Ok(())
    }

    fn sent(&mut self, due: u64, now: u64) {
        self.meter
            .answered(due, now, self.request_records, self.wire_bytes);
    }

    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }
}
