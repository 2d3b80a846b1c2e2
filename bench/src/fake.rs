//! A broker for the tests: answers Produce requests in order, with delays that are known.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use streamd_wire::kafka::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use streamd_wire::kafka::{ApiKey, ProduceResponse, ResponseHeader, Writer};

use crate::failure::Result;
use crate::leaders::Leaders;
use crate::meter::Meter;
use crate::outcome::Interval;
use crate::produce;
use crate::source::{VERSION, Wire};
use crate::spec::{Spec, TimeSpec};
use crate::workload::{Kind, Workload};

/// What the fake broker does.
#[derive(Clone, Copy, Debug)]
struct Script {
    /// Every answer takes so long...
    delay: Duration,
    /// ...but every tenth takes so long.
    tenth: Duration,
    /// From this time after the first request on it does nothing...
    pause_at: Duration,
    /// ...for so long.
    pause: Duration,
    /// The error code in its answers.
    error_code: i16,
}

fn answer(correlation_id: i32, error_code: i16, w: &mut Writer) {
    let partition = PartitionProduceResponse {
        error_code,
        ..PartitionProduceResponse::default()
    };
    let body = ProduceResponse {
        responses: vec![TopicProduceResponse {
            partition_responses: vec![partition].into(),
            ..TopicProduceResponse::default()
        }]
        .into(),
        ..ProduceResponse::default()
    };
    let header = ResponseHeader {
        api: ApiKey::Produce,
        version: VERSION,
        correlation_id,
    };
    w.clear();
    header.encode(&body, w).unwrap();
}

/// Reads a request without its length.
pub(crate) fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn serve(mut stream: TcpStream, script: Script) -> std::io::Result<()> {
    let mut start = None;
    let mut paused = false;
    let mut count = 0;
    let mut w = Writer::new();
    loop {
        let frame = read_frame(&mut stream)?;
        let start = *start.get_or_insert_with(Instant::now);
        if !paused && start.elapsed() >= script.pause_at {
            paused = true;
            thread::sleep(script.pause);
        }
        count += 1;
        thread::sleep(if count % 10 == 0 {
            script.tenth
        } else {
            script.delay
        });
        let correlation = frame[4..8].try_into().unwrap();
        answer(i32::from_be_bytes(correlation), script.error_code, &mut w);
        stream.write_all(w.bytes())?;
    }
}

fn start(script: Script) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Ends when the client closes.
            thread::spawn(move || serve(stream, script));
        }
    });
    address
}

fn measure(script: Script, rate: Option<f64>, seconds: f64) -> Result<Interval> {
    measure_with(script, rate, seconds, 4)
}

fn measure_with(
    script: Script,
    rate: Option<f64>,
    seconds: f64,
    in_flight: usize,
) -> Result<Interval> {
    let spec = Spec {
        time: TimeSpec {
            warmup: Some(0.0),
            seconds: Some(seconds),
            ..TimeSpec::default()
        },
        rate,

        size: Some(100),
        batch_records: Some(1),
        in_flight: Some(in_flight),

        ..Spec::default()
    };
    let workload = spec.workload(Kind::Produce)?;
    measure_on(&Leaders::alone(start(script), 1), &workload)
}

fn measure_on(leaders: &Leaders, workload: &Workload) -> Result<Interval> {
    let wire = Wire {
        topic: "t",
        version: VERSION,
    };
    let meter = Meter::new(&[], workload.warmup(), workload.stop());
    let meter = produce::run(leaders, wire, workload, meter)?;
    meter.interval(workload.size)
}

/// Runs a test of times alone, and up to three times: a machine that does something else for a
/// moment fails one of them, a harness that counts wrongly fails all.
pub fn patiently(test: impl Fn() + std::panic::RefUnwindSafe) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let good = (0..2).any(|_| std::panic::catch_unwind(&test).is_ok());
    if !good {
        test();
    }
}

const QUIET: Script = Script {
    delay: Duration::ZERO,
    tenth: Duration::ZERO,
    pause_at: Duration::from_secs(3600),
    pause: Duration::ZERO,
    error_code: 0,
};

/// 1,000 requests a second for 2 s; for 400 ms in the middle the broker does nothing. Of the
/// 2,000 requests the 400 that were due in the pause waited for the rest of it: evenly from 400 ms
/// down to 0. So 10 % waited more than 200 ms, and 1 % more than 380 ms.
#[test]
fn a_pause_counts_for_every_request_that_was_due_in_it() {
    patiently(|| {
        let script = Script {
            pause_at: Duration::from_millis(700),
            pause: Duration::from_millis(400),
            ..QUIET
        };
        let interval = measure(script, Some(1000.0), 2.0).unwrap();
        let l = interval.latency;
        assert!((1_980..=2_001).contains(&l.count), "{l:?}");
        assert!(l.p50_us < 60_000.0, "{l:?}");
        assert!((170_000.0..300_000.0).contains(&l.p90_us), "{l:?}");
        assert!((370_000.0..480_000.0).contains(&l.p99_us), "{l:?}");
        assert!((395_000.0..500_000.0).contains(&l.max_us), "{l:?}");
    });
}

/// The same pause hides from a closed loop: it has only 4 requests out when it comes. That is why
/// latency is measured in open loop.
#[test]
fn a_closed_loop_sees_a_pause_only_once_for_each_request_in_flight() {
    patiently(|| {
        let script = Script {
            delay: Duration::from_millis(1),
            tenth: Duration::from_millis(1),
            pause_at: Duration::from_millis(300),
            pause: Duration::from_millis(300),
            ..QUIET
        };
        let l = measure(script, None, 1.5).unwrap().latency;
        assert!(l.count > 100 && l.p90_us < 150_000.0, "{l:?}");
        assert!(l.max_us >= 300_000.0, "{l:?}");
    });
}

/// The pause begins 100 ms before the end of the interval: the 100 requests due after that were
/// answered long after it, and must be counted all the same.
#[test]
fn a_pause_across_the_end_is_not_forgotten() {
    patiently(|| {
        let script = Script {
            pause_at: Duration::from_millis(900),
            pause: Duration::from_millis(500),
            ..QUIET
        };
        let l = measure(script, Some(1000.0), 1.0).unwrap().latency;
        assert!((980..=1_001).contains(&l.count), "{l:?}");
        assert!(l.p50_us < 60_000.0, "{l:?}");
        assert!((470_000.0..600_000.0).contains(&l.p99_us), "{l:?}");
    });
}

/// One connection, a constant 10 ms for each answer, 50 requests a second: nobody waits for
/// another, and every percentile is 10 ms.
#[test]
fn a_constant_delay_is_every_percentile() {
    patiently(|| {
        let script = Script {
            delay: Duration::from_millis(10),
            tenth: Duration::from_millis(10),
            ..QUIET
        };
        let l = measure(script, Some(50.0), 1.0).unwrap().latency;
        assert!((49..=51).contains(&l.count), "{l:?}");
        assert!((10_000.0..20_000.0).contains(&l.p50_us), "{l:?}");
        assert!((10_000.0..60_000.0).contains(&l.p99_us), "{l:?}");
    });
}

/// Nine answers of ten take 4 ms, one takes 40 ms, one request at a time: the median is 4 ms, and
/// from 90 % on it is 40 ms. Closed loop, where the distribution of the answers is the result's.
#[test]
fn a_known_distribution_gives_the_known_percentiles() {
    patiently(|| {
        let script = Script {
            delay: Duration::from_millis(4),
            tenth: Duration::from_millis(40),
            ..QUIET
        };
        let l = measure_with(script, None, 2.0, 1).unwrap().latency;
        assert!((150..=270).contains(&l.count), "{l:?}");
        assert!((4_000.0..20_000.0).contains(&l.p50_us), "{l:?}");
        assert!((40_000.0..80_000.0).contains(&l.p99_us), "{l:?}");
        // The mean is 7.6 ms; the count says that no time was lost between requests.
        assert!((7_600.0..16_000.0).contains(&l.mean_us), "{l:?}");
    });
}

#[test]
fn a_refused_batch_ends_the_run_with_its_name() {
    let script = Script {
        error_code: 2,
        ..QUIET
    };
    let error = measure(script, None, 1.0).unwrap_err().to_string();
    assert!(error.contains("CorruptMessage"), "{error}");
}

#[test]
fn requests_go_to_who_leads_their_partitions() {
    let spec = Spec {
        time: TimeSpec {
            warmup: Some(0.0),
            records: Some(300),
            ..TimeSpec::default()
        },
        batch_records: Some(1),
        partitions: Some(3),
        ..Spec::default()
    };
    let workload = spec.workload(Kind::Produce).unwrap();
    let (good, also) = (start(QUIET), start(QUIET));
    let refuses = start(Script {
        error_code: 2,
        ..QUIET
    });
    let done = measure_on(&Leaders::of(&[good, also, good]), &workload).unwrap();
    assert!(done.records >= 300, "{done:?}");
    // Its requests are made, so a node that leads is sent to.
    let refused = measure_on(&Leaders::of(&[good, good, refuses]), &workload);
    assert!(refused.unwrap_err().to_string().contains("partition 0"));
}
