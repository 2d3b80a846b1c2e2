//! How long a record takes from an append to a reader, pushed and by Kafka's long poll, in one run
//! and of the same records: `latency NATIVE KAFKA TOPIC [RECORDS PER SECOND] [SECONDS]`.
//!
//! Both readers are one thread that blocks in a read; the Kafka one asks again at once for at least
//! a byte, as consumers do, in one partition, and looks at nothing but the records' values.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use streamd_client::{Client, Record, Start};
use streamd_log::BatchHeader;
use streamd_log::record_view::BatchView;
use streamd_wire::kafka::fetch_request::{FetchPartition, FetchTopic};
use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::{ApiKey, FetchRequest, FetchResponse, Message, ResponseHeader, Writer};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The newest version that names topics.
const VERSION: i16 = 12;
/// Appends that may overlap: producers take turns.
const PRODUCERS: u64 = 8;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [native, kafka, topic, rest @ ..] = &args[..] else {
        return Err("usage: latency NATIVE KAFKA TOPIC [RECORDS PER SECOND] [SECONDS]".into());
    };
    let number = |at: usize, other: u64| match rest.get(at) {
        Some(text) => text.parse(),
        None => Ok(other),
    };
    let (rate, seconds) = (number(0, 1000)?, number(1, 10)?);
    let count = rate * seconds;
    let client = Client::connect(native)?;
    let of = client.topic(topic)?;
    let epoch = Arc::new(Instant::now());
    let mut stream = client.subscribe(&of, 0, Start::Latest)?;
    let from = stream.position();
    let pushed = {
        let epoch = epoch.clone();
        thread::spawn(move || -> Result<Vec<u64>, Failure> {
            let mut took = Vec::new();
            while took.len() < count as usize {
                let record = stream.next_record()?;
                took.push(since(&epoch, record.value.as_deref().unwrap_or_default()));
            }
            Ok(took)
        })
    };
    let polled = {
        let (epoch, kafka, topic) = (epoch.clone(), kafka.clone(), topic.clone());
        thread::spawn(move || poll(&epoch, &kafka, &topic, (from, count as usize)))
    };
    thread::sleep(Duration::from_millis(200));
    let mut writers = Vec::new();
    let begin = Instant::now();
    for first in 0..PRODUCERS {
        let (client, epoch) = (Client::connect(native)?, epoch.clone());
        let mut producer = client.producer()?;
        writers.push(thread::spawn(move || -> Result<(), Failure> {
            for n in (first..count).step_by(PRODUCERS as usize) {
                let due = begin + Duration::from_nanos(n * 1_000_000_000 / rate);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let mut value = (epoch.elapsed().as_nanos() as u64).to_le_bytes().to_vec();
                value.resize(100, 0);
                producer.append(&of, 0, &[Record::of(value)])?;
            }
            Ok(())
        }));
    }
    for writer in writers {
        writer.join().map_err(|_| "a producer ended")??;
    }
    let pushed = summary(pushed.join().map_err(|_| "a reader ended")??);
    let polled = summary(polled.join().map_err(|_| "a reader ended")??);
    println!("{count} records, {rate}/s      p50 us   p90 us   p99 us");
    println!(
        "pushed        {:>16} {:>8} {:>8}",
        pushed[0], pushed[1], pushed[2]
    );
    println!(
        "long poll     {:>16} {:>8} {:>8}",
        polled[0], polled[1], polled[2]
    );
    println!(
        "p50 pushed / long poll: {:.2}",
        pushed[0] as f64 / polled[0] as f64
    );
    Ok(())
}

fn since(epoch: &Instant, value: &[u8]) -> u64 {
    let sent = value.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    (epoch.elapsed().as_nanos() as u64).saturating_sub(sent)
}

/// p50, p90 and p99, microseconds.
fn summary(mut took: Vec<u64>) -> [u64; 3] {
    took.sort_unstable();
    [50, 90, 99].map(|p| took.get(took.len() * p / 100).map_or(0, |ns| ns / 1000))
}

fn poll(
    epoch: &Instant,
    kafka: &str,
    topic: &str,
    (mut at, count): (i64, usize),
) -> Result<Vec<u64>, Failure> {
    let mut socket = TcpStream::connect(kafka)?;
    socket.set_nodelay(true)?;
    let mut took = Vec::new();
    while took.len() < count {
        let partition = FetchPartition {
            fetch_offset: at,
            partition_max_bytes: 1 << 20,
            ..FetchPartition::default()
        };
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 1 << 20,
            topics: vec![FetchTopic {
                topic,
                partitions: vec![partition].into(),
                ..FetchTopic::default()
            }]
            .into(),
            ..FetchRequest::default()
        };
        let mut w = Writer::new();
        encode_request(&request, VERSION, 0, Some("latency"), &mut w)?;
        socket.write_all(&w.into_parts().0)?;
        let mut length = [0; 4];
        socket.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        socket.read_exact(&mut frame)?;
        let header = ResponseHeader {
            api: ApiKey::Fetch,
            version: VERSION,
            correlation_id: 0,
        };
        let (_, body) = header.parse(&frame)?;
        let answer = FetchResponse::decode_body(body, VERSION)?;
        for data in answer.responses.iter().flat_map(|t| t.partitions.to_vec()) {
            let mut rest = data.records.map_or(&[][..], |records| records.bytes());
            while let Ok(header) = BatchHeader::parse(rest) {
                let Some((batch, behind)) = rest.split_at_checked(header.size) else {
                    break;
                };
                rest = behind;
                for record in BatchView::new(batch, 1 << 20)?.records() {
                    took.push(since(epoch, record?.value.unwrap_or_default()));
                }
                at = header.next_offset();
            }
        }
    }
    Ok(took)
}
