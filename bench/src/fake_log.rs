//! A broker for the tests that keeps one partition: what it is given can be read after a time that
//! is known. It proves what the loads of writers and readers say.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use streamd_wire::kafka::fetch_response::{FetchableTopicResponse, PartitionData};
use streamd_wire::kafka::frame::Frame;
use streamd_wire::kafka::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use streamd_wire::kafka::{
    ApiKey, ApiVersionsResponse, FetchRequest, FetchResponse, ProduceRequest, ProduceResponse,
    Records, ResponseHeader, Writer,
};

use crate::batch;
use crate::fake::{patiently, read_frame};
use crate::leaders::Leaders;
use crate::meter::Meter;
use crate::outcome::Interval;
use crate::source::{VERSION, Wire};
use crate::spec::{ReadSpec, Spec, TimeSpec};
use crate::workload::Kind;
use crate::{fetch, storm, stream};

/// What was produced: when it may be read, its first offset, its bytes.
type Kept = Vec<(Instant, i64, Vec<u8>)>;

#[derive(Clone, Default)]
struct Log {
    kept: Arc<Mutex<Kept>>,
    /// So long after it came a batch may be read.
    hidden: Duration,
}

impl Log {
    fn append(&self, batch: &[u8]) {
        let mut kept = self.kept.lock().unwrap();
        let end = kept.last().map_or(0, |(_, base, batch)| {
            base + batch::walk(batch).records as i64
        });
        let mut batch = batch.to_vec();
        batch[..8].copy_from_slice(&end.to_be_bytes());
        kept.push((Instant::now() + self.hidden, end, batch));
    }

    /// What may be read from an offset on; waits for something.
    fn read(&self, from: i64) -> Vec<u8> {
        let until = Instant::now() + Duration::from_millis(500);
        loop {
            let now = Instant::now();
            let kept = self.kept.lock().unwrap();
            let first = kept.partition_point(|(_, base, _)| *base < from);
            let seen = kept[first..].iter().take_while(|(at, ..)| *at <= now);
            let bytes: Vec<u8> = seen.flat_map(|(.., batch)| batch).copied().collect();
            drop(kept);
            if !bytes.is_empty() || now >= until {
                return bytes;
            }
            thread::sleep(Duration::from_micros(300));
        }
    }

    fn answer(&self, frame: &[u8], w: &mut Writer) {
        let frame = Frame::parse(frame).unwrap();
        let header = ResponseHeader {
            api: frame.header.api,
            version: frame.header.version,
            correlation_id: frame.header.correlation_id,
        };
        w.clear();
        match frame.header.api {
            ApiKey::Produce => {
                let request: ProduceRequest<'_> = frame.decode().unwrap();
                let topic = request.topic_data.iter().next().unwrap();
                for data in topic.partition_data.iter() {
                    self.append(data.records.unwrap().bytes());
                }
                let body = ProduceResponse {
                    responses: vec![TopicProduceResponse {
                        partition_responses: vec![PartitionProduceResponse::default()].into(),
                        ..TopicProduceResponse::default()
                    }]
                    .into(),
                    ..ProduceResponse::default()
                };
                header.encode(&body, w).unwrap();
            }
            ApiKey::Fetch => {
                let request: FetchRequest<'_> = frame.decode().unwrap();
                let topic = request.topics.iter().next().unwrap();
                let asked = topic.partitions.iter().next().unwrap();
                let bytes = self.read(asked.fetch_offset);
                let data = PartitionData {
                    records: Some(Records::Bytes(&bytes)),
                    ..PartitionData::default()
                };
                let body = FetchResponse {
                    responses: vec![FetchableTopicResponse {
                        topic: "t",
                        partitions: vec![data].into(),
                        ..FetchableTopicResponse::default()
                    }]
                    .into(),
                    ..FetchResponse::default()
                };
                header.encode(&body, w).unwrap();
            }
            _ => header.encode(&ApiVersionsResponse::default(), w).unwrap(),
        }
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut w = Writer::new();
        loop {
            let frame = read_frame(&mut stream)?;
            self.answer(&frame, &mut w);
            stream.write_all(w.bytes())?;
        }
    }

    fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = log.clone();
                // Ends when the client closes.
                thread::spawn(move || log.serve(stream));
            }
        });
        address
    }
}

const WIRE: Wire<'_> = Wire {
    topic: "t",
    version: VERSION,
};

fn spec(rate: f64, seconds: f64) -> Spec {
    Spec {
        time: TimeSpec {
            warmup: Some(0.1),
            seconds: Some(seconds),
            ..TimeSpec::default()
        },
        size: Some(100),
        rate: Some(rate),

        ..Spec::default()
    }
}

fn measure(log: &Log, kind: Kind, spec: Spec, end: i64) -> Interval {
    let load = spec.workload(kind).unwrap();
    let meter = Meter::new(&[], load.warmup(), load.stop());
    let wire = (WIRE, fetch::VERSION);
    let meter = stream::run(&Leaders::alone(log.start(), 1), wire, &[end], &load, meter).unwrap();
    meter.interval(load.size).unwrap()
}

/// Acknowledged at once, readable 50 ms later: the two latencies tell them apart.
#[test]
fn a_readers_latency_runs_from_the_writers_hands_to_its_own() {
    patiently(|| {
        let log = Log {
            hidden: Duration::from_millis(50),
            ..Log::default()
        };
        let interval = measure(&log, Kind::Stream, spec(200.0, 1.0), 0);
        let ack = interval.ack.unwrap();
        assert!(
            (195..=201).contains(&interval.latency.count),
            "{interval:?}"
        );
        assert!(
            (50_000.0..80_000.0).contains(&interval.latency.p50_us),
            "{interval:?}"
        );
        assert!(ack.p50_us < 30_000.0, "{interval:?}");
        assert!((150..=260).contains(&interval.records), "{interval:?}");
    });
}

#[test]
fn every_group_reads_everything() {
    patiently(|| {
        let spec = Spec {
            reading: ReadSpec {
                groups: Some(3),
                ..ReadSpec::default()
            },

            batch_records: Some(5),
            ..spec(500.0, 1.0)
        };
        let interval = measure(&Log::default(), Kind::Stream, spec, 0);
        assert!((1_300..=1_800).contains(&interval.records), "{interval:?}");
        assert!(
            (295..=303).contains(&interval.latency.count),
            "{interval:?}"
        );
        assert!((450..=600).contains(&interval.acked), "{interval:?}");
    });
}

/// 3,000 records lie there; the reader starts with them when the interval does, and is done when it
/// has everything that was acknowledged, long before the 20 seconds are over.
#[test]
fn a_reader_catches_up_and_what_was_there_before_has_no_latency() {
    patiently(|| {
        let log = Log::default();
        let records: Vec<_> = (0..1000).map(|_| batch::Record::of(vec![7; 100])).collect();
        let old = batch::encode(&records, batch::Codec::None, 0);
        (0..3).for_each(|_| log.append(&old));
        let interval = measure(&log, Kind::CatchUp, spec(100.0, 20.0), 3000);
        assert!(
            interval.caught_up && interval.seconds < 10.0,
            "{interval:?}"
        );
        let live = interval.records - 3000;
        assert!(
            live < 2_000 && interval.latency.count <= live,
            "{interval:?}"
        );
    });
}

#[test]
fn a_storm_opens_a_connection_for_every_record() {
    patiently(|| {
        let log = Log::default();
        let spec = Spec {
            connections: Some(4),
            ..spec(100.0, 1.0)
        };
        let load = spec.workload(Kind::Storm).unwrap();
        let meter = Meter::new(&[], load.warmup(), load.stop());
        let meter = storm::run(log.start(), WIRE, &load, meter).unwrap();
        let interval = meter.interval(load.size).unwrap();
        assert!((95..=101).contains(&interval.records), "{interval:?}");
        assert!(
            log.kept.lock().unwrap().len() >= 105,
            "the warm-up counts for the broker"
        );
    });
}
