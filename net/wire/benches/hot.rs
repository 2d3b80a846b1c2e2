//! What the hot requests cost the codec: produce and fetch, there and back.
//!
//! `cargo bench -p streamd-wire`. Records are borrowed or left as holes, as in the broker.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::ItemsCount;
use streamd_wire::kafka::fetch_request::{FetchPartition, FetchTopic};
use streamd_wire::kafka::fetch_response::{FetchableTopicResponse, PartitionData};
use streamd_wire::kafka::frame::{Frame, encode_request};
use streamd_wire::kafka::produce_request::{PartitionProduceData, TopicProduceData};
use streamd_wire::kafka::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use streamd_wire::kafka::{
    ApiKey, FetchRequest, FetchResponse, ProduceRequest, ProduceResponse, Records, ResponseHeader,
    Writer,
};

const VERSION: i16 = 12;
const TOPIC: &str = "a-topic-of-usual-length";
const PARTITIONS: [i32; 3] = [1, 12, 100];

fn main() {
    divan::main();
}

fn header(api: ApiKey) -> ResponseHeader {
    ResponseHeader {
        api,
        version: VERSION,
        correlation_id: 7,
    }
}

fn produce_request(partitions: i32, records: &[u8]) -> ProduceRequest<'_> {
    let data: Vec<_> = (0..partitions)
        .map(|index| PartitionProduceData {
            index,
            records: Some(Records::Bytes(records)),
        })
        .collect();
    ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: TOPIC,
            partition_data: data.into(),
            ..TopicProduceData::default()
        }]
        .into(),
        ..ProduceRequest::default()
    }
}

fn fetch_request(partitions: i32) -> FetchRequest<'static> {
    let asked: Vec<_> = (0..partitions)
        .map(|partition| FetchPartition {
            partition,
            fetch_offset: 1000,
            partition_max_bytes: 1 << 20,
            ..FetchPartition::default()
        })
        .collect();
    FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 50 << 20,
        topics: vec![FetchTopic {
            topic: TOPIC,
            partitions: asked.into(),
            ..FetchTopic::default()
        }]
        .into(),
        ..FetchRequest::default()
    }
}

/// A frame without the length in front.
fn frame(w: Writer) -> Vec<u8> {
    w.bytes()[4..].to_vec()
}

#[divan::bench(args = PARTITIONS, max_time = 0.5)]
fn produce_decode(bencher: Bencher<'_, '_>, partitions: i32) {
    let mut w = Writer::new();
    let request = produce_request(partitions, &[0x5a; 1100]);
    encode_request(&request, VERSION, 7, Some("client"), &mut w).expect("it can be encoded");
    let frame = frame(w);
    bencher
        .counter(ItemsCount::new(partitions as usize))
        .bench_local(|| {
            let frame = Frame::parse(black_box(&frame)).expect("a frame");
            let request: ProduceRequest<'_> = frame.decode().expect("a request");
            let topics = request.topic_data.iter();
            let bytes = |topic: &TopicProduceData<'_>| {
                let data = topic.partition_data.iter();
                data.map(|data| data.records.map_or(0, |records| records.len()))
                    .sum::<usize>()
            };
            topics.map(|topic| bytes(&topic)).sum::<usize>()
        });
}

#[divan::bench(args = PARTITIONS, max_time = 0.5)]
fn produce_encode_answer(bencher: Bencher<'_, '_>, partitions: i32) {
    let data = |index| PartitionProduceResponse {
        index,
        base_offset: 1_000_000,
        ..PartitionProduceResponse::default()
    };
    let mut w = Writer::new();
    bencher
        .counter(ItemsCount::new(partitions as usize))
        .bench_local(|| {
            let body = ProduceResponse {
                responses: vec![TopicProduceResponse {
                    name: TOPIC,
                    partition_responses: (0..partitions).map(data).collect::<Vec<_>>().into(),
                    ..TopicProduceResponse::default()
                }]
                .into(),
                ..ProduceResponse::default()
            };
            w.clear();
            header(ApiKey::Produce)
                .encode(&body, &mut w)
                .expect("it can be encoded");
            black_box(w.bytes().len())
        });
}

#[divan::bench(args = PARTITIONS, max_time = 0.5)]
fn fetch_decode(bencher: Bencher<'_, '_>, partitions: i32) {
    let mut w = Writer::new();
    let request = fetch_request(partitions);
    encode_request(&request, VERSION, 7, Some("client"), &mut w).expect("it can be encoded");
    let frame = frame(w);
    bencher
        .counter(ItemsCount::new(partitions as usize))
        .bench_local(|| {
            let frame = Frame::parse(black_box(&frame)).expect("a frame");
            let request: FetchRequest<'_> = frame.decode().expect("a request");
            let topics = request.topics.iter();
            let asked = |topic: &FetchTopic<'_>| {
                topic
                    .partitions
                    .iter()
                    .map(|asked| asked.fetch_offset)
                    .sum::<i64>()
            };
            topics.map(|topic| asked(&topic)).sum::<i64>()
        });
}

#[divan::bench(args = PARTITIONS, max_time = 0.5)]
fn fetch_encode_answer(bencher: Bencher<'_, '_>, partitions: i32) {
    let data = |partition_index| PartitionData {
        partition_index,
        high_watermark: 1_000_000,
        last_stable_offset: 1_000_000,
        records: Some(Records::Hole(64 << 10)),
        ..PartitionData::default()
    };
    let mut w = Writer::new();
    bencher
        .counter(ItemsCount::new(partitions as usize))
        .bench_local(|| {
            let body = FetchResponse {
                responses: vec![FetchableTopicResponse {
                    topic: TOPIC,
                    partitions: (0..partitions).map(data).collect::<Vec<_>>().into(),
                    ..FetchableTopicResponse::default()
                }]
                .into(),
                ..FetchResponse::default()
            };
            w.clear();
            header(ApiKey::Fetch)
                .encode(&body, &mut w)
                .expect("it can be encoded");
            black_box(w.bytes().len())
        });
}
