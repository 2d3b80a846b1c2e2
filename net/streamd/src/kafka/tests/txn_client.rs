//! A transactional producer and a reader of what is committed, as clients are, for tests in the
//! simulator.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use streamd_io::{Env, OpenOptions, Part};
use streamd_log::BatchHeader;
use streamd_log::NewBatch;
use streamd_log::batch::{NewRecord, Writer as Producer, build, marker_commits, set_transactional};
use streamd_log::record_view::BatchView;
use streamd_model::{ErrorCode, PartitionId};
use streamd_shard::AppendItem;
use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::generated::*;
use streamd_wire::kafka::{Decode, Frame, Message, Records, ResponseHeader, Writer};

use super::{CORRELATION, ask, code};
use crate::broker::Broker;

/// The group whose offsets are committed.
const GROUP: &str = "g";

/// The producer has to begin its life anew: its transaction is or will be aborted.
#[derive(Debug)]
pub struct Failed;

/// A producer.
#[derive(Clone)]
pub struct Client {
    broker: Rc<Broker>,
    id: String,
    /// `transaction.version`.
    version: i16,
    pub producer: i64,
    pub epoch: i16,
    sequences: BTreeMap<i32, i32>,
    added: BTreeSet<i32>,
}

/// What is worth another try.
fn is_temporary(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::ConcurrentTransactions
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
    )
}

impl Client {
    /// A new life of the producer: whoever had the id is fenced.
    pub async fn begin(broker: &Rc<Broker>, id: &str, version: i16) -> Client {
        let request = InitProducerIdRequest {
            transactional_id: Some(id),
            transaction_timeout_ms: 1000,
            producer_id: -1,
            producer_epoch: -1,
            ..InitProducerIdRequest::default()
        };
        for _ in 0..2000 {
            let answer = ask(broker, 5, &request).await;
            let r: InitProducerIdResponse = answer.decode();
            if r.error_code == 0 {
                return Client {
                    broker: broker.clone(),
                    id: id.to_owned(),
                    version,
                    producer: r.producer_id,
                    epoch: r.producer_epoch,
                    sequences: BTreeMap::new(),
                    added: BTreeSet::new(),
                };
            }
            assert!(is_temporary(code(r.error_code)), "{:?}", code(r.error_code));
            pause(broker).await;
        }
        panic!("a transaction of {id} does not end");
    }

    fn check(&self, number: i16) -> Result<bool, Failed> {
        match code(number) {
            ErrorCode::None => Ok(true),
            code if is_temporary(code) => Ok(false),
            // Its transaction took too long, and was aborted.
            ErrorCode::InvalidProducerEpoch
            | ErrorCode::ProducerFenced
            | ErrorCode::InvalidTxnState
            | ErrorCode::TransactionAbortable => Err(Failed),
            code => panic!("{code:?}"),
        }
    }

    async fn add(&mut self, partition: i32) -> Result<(), Failed> {
        if self.version >= 2 || !self.added.insert(partition) {
            return Ok(());
        }
        let topic = add_partitions_to_txn_request::AddPartitionsToTxnTopic {
            name: "t",
            partitions: vec![partition].into(),
        };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: &self.id,
            v3_and_below_producer_id: self.producer,
            v3_and_below_producer_epoch: self.epoch,
            v3_and_below_topics: vec![topic].into(),
            ..AddPartitionsToTxnRequest::default()
        };
        loop {
            let answer = ask(&self.broker, 3, &request).await;
            let r: AddPartitionsToTxnResponse<'_> = answer.decode();
            let topic = r.results_by_topic_v3_and_below.iter().next().unwrap();
            let result = topic.results_by_partition.iter().next().unwrap();
            if self.check(result.partition_error_code)? {
                return Ok(());
            }
            pause(&self.broker).await;
        }
    }

    /// Writes `n` so often to a partition.
    pub async fn write(&mut self, partition: i32, n: i64, count: u32) -> Result<(), Failed> {
        self.add(partition).await?;
        let sequence = self.sequences.get(&partition).copied().unwrap_or(0);
        let batch = self.batch(n, count, sequence);
        loop {
            let number = self.send(partition, &batch).await;
            if self.check(number)? {
                break;
            }
            pause(&self.broker).await;
        }
        self.sequences.insert(partition, sequence + count as i32);
        Ok(())
    }

    fn batch(&self, n: i64, count: u32, sequence: i32) -> Vec<u8> {
        let value = n.to_be_bytes();
        let record = NewRecord {
            timestamp: self.broker.shard.env.wall_ms(),
            key: None,
            value: Some(&value),
        };
        let records = vec![record; count as usize];
        let writer = Producer {
            id: self.producer,
            epoch: self.epoch,
            sequence,
        };
        let mut batch = build(&records, writer);
        set_transactional(&mut batch, false);
        batch
    }

    /// A batch of one record as the handler hands it to its owner.
    pub fn item(&self, partition: PartitionId, sequence: i32, guard: Option<u64>) -> AppendItem {
        AppendItem {
            partition,
            batch: NewBatch::own(self.batch(1, 1, sequence), 0).unwrap(),
            guard,
            acks: streamd_core::repl::Acks::All,
        }
    }

    /// Sends a batch; the code that it is answered with.
    async fn send(&self, partition: i32, batch: &[u8]) -> i16 {
        let data = produce_request::PartitionProduceData {
            index: partition,
            records: Some(Records::Bytes(batch)),
        };
        let topic = produce_request::TopicProduceData {
            name: "t",
            partition_data: vec![data].into(),
            ..produce_request::TopicProduceData::default()
        };
        let request = ProduceRequest {
            transactional_id: Some(&self.id),
            acks: -1,
            timeout_ms: 1000,
            topic_data: vec![topic].into(),
        };
        let version = if self.version >= 2 { 12 } else { 11 };
        let mut w = Writer::append_to(Vec::new());
        encode_request(&request, version, CORRELATION, Some("test"), &mut w).unwrap();
        let bytes = Bytes::from(w.into_parts().0).slice(4..);
        let accepted = super::super::produce::accept(&self.broker, bytes.clone());
        let parts = accepted.await.unwrap().reply.await.unwrap();
        let frame = Frame::parse(&bytes).unwrap();
        let header = ResponseHeader::from(&frame.header);
        let bytes = bytes_of(&self.broker.shard.env, partition, parts).await;
        let r: ProduceResponse<'_> = decode(header, &bytes);
        let topic = r.responses.iter().next().unwrap();
        topic.partition_responses.iter().next().unwrap().error_code
    }

    /// Writes what was not announced: refused, unless the partition comes in by writing.
    pub async fn write_unannounced(&self, partition: i32, n: i64) {
        if self.version >= 2 || self.added.contains(&partition) {
            return;
        }
        let sequence = self.sequences.get(&partition).copied().unwrap_or(0);
        let batch = self.batch(-n, 1, sequence);
        let number = self.send(partition, &batch).await;
        assert_ne!(
            number, 0,
            "a partition was written to that is in no transaction"
        );
    }

    /// The transaction of an old life gets nothing through any more.
    pub async fn is_fenced(&self) {
        for partition in 0..3 {
            let batch = self.batch(-1, 1, self.sequences.get(&partition).copied().unwrap_or(0));
            let number = self.send(partition, &batch).await;
            assert_ne!(number, 0, "a zombie writes");
        }
        for commit in [false, true] {
            let r = self.ask_end(commit).await;
            // It may hear once more that its abort was done.
            assert!(r.error_code != 0 || !commit, "a zombie commits");
        }
    }

    /// Commits an offset in the transaction.
    pub async fn commit_offset(&mut self, partition: i32, offset: i64) -> Result<(), Failed> {
        let request = AddOffsetsToTxnRequest {
            transactional_id: &self.id,
            producer_id: self.producer,
            producer_epoch: self.epoch,
            group_id: GROUP,
        };
        // In version 2 they come in with the commit.
        let mut added = self.version >= 2;
        while !added {
            let answer = ask(&self.broker, 3, &request).await;
            let r: AddOffsetsToTxnResponse = answer.decode();
            added = self.check(r.error_code)?;
            if !added {
                pause(&self.broker).await;
            }
        }
        let p = txn_offset_commit_request::TxnOffsetCommitRequestPartition {
            partition_index: partition,
            committed_offset: offset,
            ..txn_offset_commit_request::TxnOffsetCommitRequestPartition::default()
        };
        let topic = txn_offset_commit_request::TxnOffsetCommitRequestTopic {
            name: "t",
            partitions: vec![p].into(),
            ..txn_offset_commit_request::TxnOffsetCommitRequestTopic::default()
        };
        let request = TxnOffsetCommitRequest {
            transactional_id: &self.id,
            group_id: GROUP,
            producer_id: self.producer,
            producer_epoch: self.epoch,
            generation_id_or_member_epoch: -1,
            topics: vec![topic].into(),
            ..TxnOffsetCommitRequest::default()
        };
        loop {
            let version = if self.version >= 2 { 5 } else { 4 };
            let answer = ask(&self.broker, version, &request).await;
            let r: TxnOffsetCommitResponse<'_> = answer.decode();
            let topic = r.topics.iter().next().unwrap();
            if self.check(topic.partitions.iter().next().unwrap().error_code)? {
                return Ok(());
            }
            pause(&self.broker).await;
        }
    }

    async fn ask_end(&self, committed: bool) -> EndTxnResponse {
        let request = EndTxnRequest {
            transactional_id: &self.id,
            producer_id: self.producer,
            producer_epoch: self.epoch,
            committed,
        };
        let version = if self.version >= 2 { 5 } else { 3 };
        ask(&self.broker, version, &request).await.decode()
    }

    /// Ends the transaction.
    pub async fn end(&mut self, commit: bool) -> Result<(), Failed> {
        loop {
            let r = self.ask_end(commit).await;
            if self.check(r.error_code)? {
                self.added.clear();
                if self.version >= 2 {
                    (self.producer, self.epoch) = (r.producer_id, r.producer_epoch);
                    self.sequences.clear();
                }
                return Ok(());
            }
            pause(&self.broker).await;
        }
    }
}

async fn pause(broker: &Rc<Broker>) {
    broker.shard.env.sleep(Duration::from_millis(20)).await;
}

fn decode<'a, M: Message + Decode<'a>>(header: ResponseHeader, bytes: &'a [u8]) -> M {
    let (correlation, body) = header.parse(&bytes[4..]).unwrap();
    assert_eq!(correlation, CORRELATION);
    M::decode_body(body, header.version).unwrap()
}

/// The bytes of an answer, read from the only segment of the partition where they are in a file.
async fn bytes_of(env: &Env, partition: i32, parts: Vec<Part>) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        match part {
            Part::Bytes(bytes) => all.extend_from_slice(&bytes),
            Part::File { pos, len, .. } => {
                let path = format!("/data/t-{partition}/00000000000000000000.log");
                let options = OpenOptions::default();
                let file = env.open(path.as_ref(), &options).await.unwrap();
                all.extend_from_slice(&file.read_at(pos, len).await.unwrap());
            }
        }
    }
    all
}

/// What a reader of committed records finds.
#[derive(Default)]
pub struct Found {
    /// Values, and how often they were read.
    pub counts: BTreeMap<i64, u32>,
    pub stable: i64,
    pub high: i64,
}

/// Reads a partition from its beginning, as a client does that wants what is committed.
pub async fn read_committed(env: &Env, broker: &Rc<Broker>, partition: i32) -> Found {
    let mut found = Found::default();
    let mut offset = 0;
    // In steps of random sizes, so that ranges begin and end everywhere.
    loop {
        let max = 100 + (env.random_u64() % 2000) as i32;
        let bytes = fetch(env, broker, partition, (offset, max)).await;
        let r: FetchResponse<'_> = decode(fetch_header(), &bytes);
        let topic = r.responses.iter().next().unwrap();
        let data = topic.partitions.iter().next().unwrap();
        assert_eq!(data.error_code, 0);
        (found.stable, found.high) = (data.last_stable_offset, data.high_watermark);
        let mut aborts: Vec<(i64, i64)> = data.aborted_transactions.as_ref().map_or(vec![], |a| {
            a.iter().map(|a| (a.first_offset, a.producer_id)).collect()
        });
        assert!(aborts.is_sorted(), "by first offset");
        let Some(Records::Bytes(records)) = data.records else {
            return found;
        };
        let before = offset;
        offset = take(
            records,
            (offset, found.stable),
            &mut aborts,
            &mut found.counts,
        );
        if offset == before {
            assert_eq!(offset, found.stable, "the reader stands still");
            return found;
        }
    }
}

fn fetch_header() -> ResponseHeader {
    ResponseHeader {
        api: streamd_wire::kafka::ApiKey::Fetch,
        version: 12,
        correlation_id: CORRELATION,
    }
}

async fn fetch(
    env: &Env,
    broker: &Rc<Broker>,
    partition: i32,
    (offset, max): (i64, i32),
) -> Vec<u8> {
    let p = fetch_request::FetchPartition {
        partition,
        fetch_offset: offset,
        partition_max_bytes: max,
        current_leader_epoch: -1,
        last_fetched_epoch: -1,
        ..fetch_request::FetchPartition::default()
    };
    let topic = fetch_request::FetchTopic {
        topic: "t",
        partitions: vec![p].into(),
        ..fetch_request::FetchTopic::default()
    };
    let request = FetchRequest {
        max_wait_ms: 0,
        min_bytes: 0,
        max_bytes: 1 << 20,
        isolation_level: 1,
        session_id: 0,
        session_epoch: -1,
        topics: vec![topic].into(),
        ..FetchRequest::default()
    };
    let mut w = Writer::append_to(Vec::new());
    encode_request(&request, 12, CORRELATION, Some("test"), &mut w).unwrap();
    let bytes = w.into_parts().0;
    let frame = Frame::parse(&bytes[4..]).unwrap();
    let parts = super::super::answer(broker, ("/127.0.0.1", 0), &frame)
        .await
        .unwrap();
    bytes_of(env, partition, parts).await
}

/// Goes through batches as clients do: gives the offset to go on from.
fn take(
    mut bytes: &[u8],
    (mut offset, stable): (i64, i64),
    aborts: &mut Vec<(i64, i64)>,
    counts: &mut BTreeMap<i64, u32>,
) -> i64 {
    let mut aborted = BTreeSet::new();
    while let Ok(header) = BatchHeader::parse(bytes) {
        assert!(header.base_offset < stable, "beyond the last stable offset");
        let Some(batch) = bytes.get(..header.size) else {
            break;
        };
        bytes = &bytes[header.size..];
        if header.next_offset() <= offset {
            continue;
        }
        let due = aborts.partition_point(|a| a.0 <= header.last_offset());
        aborted.extend(aborts.drain(..due).map(|a| a.1));
        offset = header.next_offset();
        if header.is_control() {
            if marker_commits(batch) == Some(false) {
                aborted.remove(&header.producer_id);
            }
            continue;
        }
        if header.is_transactional() && aborted.contains(&header.producer_id) {
            continue;
        }
        let view = BatchView::new(batch, 1 << 20).unwrap();
        for record in view.records() {
            let value = record.unwrap().value.unwrap();
            let n = i64::from_be_bytes(value.try_into().unwrap());
            *counts.entry(n).or_default() += 1;
        }
    }
    offset
}

/// The group's offset of a partition.
pub async fn committed_offset(broker: &Rc<Broker>, partition: i32) -> Option<i64> {
    let topic = offset_fetch_request::OffsetFetchRequestTopic {
        name: "t",
        partition_indexes: vec![partition].into(),
    };
    let request = OffsetFetchRequest {
        group_id: GROUP,
        topics: Some(vec![topic].into()),
        require_stable: true,
        ..OffsetFetchRequest::default()
    };
    let answer = ask(broker, 7, &request).await;
    let r: OffsetFetchResponse<'_> = answer.decode();
    let topic = r.topics.iter().next().unwrap();
    let p = topic.partitions.iter().next().unwrap();
    assert_eq!(p.error_code, 0, "an offset is pending for ever");
    Some(p.committed_offset).filter(|o| *o >= 0)
}
