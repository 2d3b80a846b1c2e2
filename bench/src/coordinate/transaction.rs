//! Transactions: every connection is a producer with a transactional id of its own that writes a
//! request and commits, over and over, by the second version of the protocol (KIP-890): no
//! AddPartitionsToTxn, and an epoch for each transaction.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use streamd_wire::kafka::produce_request::{PartitionProduceData, TopicProduceData};
use streamd_wire::kafka::{
    ApiKey, EndTxnRequest, EndTxnResponse, InitProducerIdRequest, InitProducerIdResponse,
    ProduceRequest, ProduceResponse, Records,
};

use super::{AGAIN_AFTER, answer, done, template, version};
use crate::admin::Admin;
use crate::batch::{self, Record};
use crate::conn::{Pending, Template};
use crate::drive::{Load, Next, drive};
use crate::failure::Result;
use crate::meter::Meter;
use crate::payload::Payload;
use crate::workload::Workload;

const INIT: (i16, i16) = (4, 5);
const PRODUCE: (i16, i16) = (12, 12);
const END: (i16, i16) = (5, 5);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Init,
    Write,
    End,
}

/// A transactional producer.
struct Producer {
    name: String,
    stage: Stage,
    id: i64,
    epoch: i16,
    /// When its transaction began.
    begun: u64,
    /// When it may go on, if its coordinator was not ready.
    again: u64,
    turn: i32,
}

struct Transactions<'a> {
    topic: &'a str,
    init: i16,
    producers: Vec<Producer>,
    /// Whose producer, epoch and sequence are put in for each transaction.
    batch: Vec<u8>,
    partitions: i32,
    /// Partitions in a transaction.
    spread: i32,
    meter: Meter,
}

/// Runs transactions over a topic that is there.
///
/// # Errors
/// See [`drive`]; the broker refuses something, or does not speak the second version.
pub fn run(
    address: SocketAddr,
    admin: &mut Admin,
    topic: &str,
    workload: &Workload,
    meter: Meter,
) -> Result<Meter> {
    version(admin, ApiKey::Produce, PRODUCE)?;
    version(admin, ApiKey::EndTxn, END)?;
    let name = |conn| format!("{topic}-{conn}");
    for conn in 0..workload.connections {
        admin.coordinator(&name(conn), 1)?;
    }
    let mut payload = Payload::new(workload.size, 7);
    let records: Vec<_> = (0..workload.batch_records)
        .map(|_| Record::of(payload.record()))
        .collect();
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let time_ms = since.map_or(0, |since| since.as_millis() as i64);
    let producers = (0..workload.connections).map(|conn| Producer {
        name: name(conn),
        stage: Stage::Init,
        id: -1,
        epoch: -1,
        begun: 0,
        again: 0,
        turn: conn as i32,
    });
    let mut load = Transactions {
        topic,
        init: version(admin, ApiKey::InitProducerId, INIT)?,
        producers: producers.collect(),
        batch: batch::encode(&records, workload.codec, time_ms),
        partitions: workload.partitions,
        spread: workload.spread,
        meter,
    };
    drive(&vec![address; workload.connections], &mut load)?;
    Ok(load.meter)
}

impl Transactions<'_> {
    fn write(&mut self, conn: usize) -> Result<Rc<Template>> {
        let producer = &self.producers[conn];
        batch::in_transaction(&mut self.batch, producer.id, producer.epoch);
        let data = (0..self.spread).map(|n| PartitionProduceData {
            index: (producer.turn + n) % self.partitions,
            records: Some(Records::Bytes(&self.batch)),
        });
        let request = ProduceRequest {
            transactional_id: Some(&producer.name),
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![TopicProduceData {
                name: self.topic,
                partition_data: data.collect::<Vec<_>>().into(),
                ..TopicProduceData::default()
            }]
            .into(),
        };
        template(&request, PRODUCE.1)
    }

    /// What is next, and whether it is the beginning of a transaction.
    fn request(&mut self, conn: usize) -> Result<Rc<Template>> {
        let producer = &self.producers[conn];
        match producer.stage {
            Stage::Init => {
                let request = InitProducerIdRequest {
                    transactional_id: Some(&producer.name),
                    transaction_timeout_ms: 60_000,
                    ..InitProducerIdRequest::default()
                };
                template(&request, self.init)
            }
            Stage::Write => self.write(conn),
            Stage::End => {
                let request = EndTxnRequest {
                    transactional_id: &producer.name,
                    producer_id: producer.id,
                    producer_epoch: producer.epoch,
                    committed: true,
                };
                template(&request, END.1)
            }
        }
    }

    /// Takes an answer; whether it was not to be asked again.
    fn take(&mut self, conn: usize, frame: &[u8], now: u64) -> Result<bool> {
        let producer = &mut self.producers[conn];
        match producer.stage {
            Stage::Init => {
                let read: InitProducerIdResponse =
                    answer(frame, ApiKey::InitProducerId, self.init)?;
                let ready = done(read.error_code, "InitProducerId")?;
                if ready {
                    (producer.id, producer.epoch) = (read.producer_id, read.producer_epoch);
                    producer.stage = Stage::Write;
                }
                Ok(ready)
            }
            Stage::Write => {
                let read: ProduceResponse<'_> = answer(frame, ApiKey::Produce, PRODUCE.1)?;
                let mut written = true;
                for topic in read.responses.iter() {
                    for partition in topic.partition_responses.iter() {
                        written &= done(partition.error_code, "a write in a transaction")?;
                    }
                }
                if written {
                    producer.stage = Stage::End;
                }
                Ok(written)
            }
            Stage::End => {
                let read: EndTxnResponse = answer(frame, ApiKey::EndTxn, END.1)?;
                let ended = done(read.error_code, "the end of a transaction")?;
                if ended {
                    (producer.id, producer.epoch) = (read.producer_id, read.producer_epoch);
                    producer.stage = Stage::Write;
                    producer.turn = (producer.turn + self.spread) % self.partitions;
                    self.meter.answered(producer.begun, now, 1, 0);
                    producer.begun = 0;
                }
                Ok(ended)
            }
        }
    }
}

impl Load for Transactions<'_> {
    fn next(&mut self, conn: usize, now: u64) -> Result<Next> {
        let producer = &mut self.producers[conn];
        let between = producer.begun == 0;
        // Nobody is left behind in a transaction.
        if between && self.meter.over() {
            return Ok(Next::Nothing);
        }
        if now < producer.again {
            return Ok(Next::Later(producer.again));
        }
        if between && producer.stage == Stage::Write {
            producer.begun = now;
        }
        Ok(Next::Send(self.request(conn)?, now))
    }

    fn in_flight(&self, _conn: usize) -> usize {
        1
    }

    fn answered(&self, _conn: usize) -> bool {
        true
    }

    fn answer(&mut self, conn: usize, frame: &[u8], _asked: Pending, now: u64) -> Result<()> {
        if !self.take(conn, frame, now)? {
            self.producers[conn].again = now + AGAIN_AFTER;
        }
        Ok(())
    }

    fn sent(&mut self, _asked: Pending, _now: u64) {}

    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }
}
