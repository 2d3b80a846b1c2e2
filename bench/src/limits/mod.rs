//! What the machine can do at all, with nothing in the way: the yardstick beside every result.
//!
//! Each figure is made by the plainest code for it on one thread (two for loopback), and says how
//! much CPU time each side took.

mod disk;
mod distance;
mod memory;
mod net;

use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::failure::Result;
use crate::meter::histogram;
use crate::outcome::Percentiles;
use crate::sys::{Whose, cpu_time};

pub use memory::{COPY, CRC};
pub use net::{RECEIVE, ROUND_TRIP, SEND, SENDFILE};

/// One thing that the machine can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was done.
    pub name: String,
    /// 10^6 bytes a second; `None` where bytes are not the point.
    pub mb_per_s: Option<f64>,
    /// CPU milliseconds for 10^6 bytes, of the side that the name says.
    pub cpu_ms_per_mb: Option<f64>,
    /// How long one operation took; `None` where single ones were not timed.
    pub latency: Option<Percentiles>,
}

impl Figure {
    fn or_better(&self, other: &Figure) -> Figure {
        let pick = |a: Option<f64>, b: Option<f64>, best: fn(f64, f64) -> f64| match (a, b) {
            (Some(a), Some(b)) => Some(best(a, b)),
            (a, b) => a.or(b),
        };
        let latency = match (self.latency, other.latency) {
            (Some(a), Some(b)) if b.p50_us < a.p50_us => Some(b),
            (a, b) => a.or(b),
        };
        Figure {
            name: self.name.clone(),
            mb_per_s: pick(self.mb_per_s, other.mb_per_s, f64::max),
            cpu_ms_per_mb: pick(self.cpu_ms_per_mb, other.cpu_ms_per_mb, f64::min),
            latency,
        }
    }
}

/// All of them, and where they were taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The figures.
    pub figures: Vec<Figure>,
}

impl Limits {
    /// Measures everything; the scratch file goes to `dir` and is removed.
    ///
    /// # Errors
    /// The directory cannot be written, or its file system has no direct I/O.
    pub fn measure(dir: &Path, each: Duration, mut step: impl FnMut(&str)) -> Result<Limits> {
        let mut figures = Vec::new();
        step("disk");
        disk::measure(dir, each, &mut figures)?;
        step("loopback");
        net::measure(dir, each, &mut figures)?;
        step("memory");
        memory::measure(each, &mut figures);
        Ok(Limits { figures })
    }

    /// Of each figure what is better here or in `other`, which was measured at another time.
    pub fn or_better(&self, other: &Limits) -> Limits {
        let better = |own: &Figure| {
            let found = other.figures.iter().find(|figure| figure.name == own.name);
            found.map_or_else(|| own.clone(), |found| own.or_better(found))
        };
        Limits {
            figures: self.figures.iter().map(better).collect(),
        }
    }

    fn cpu(&self, name: &str) -> f64 {
        let figure = self.figures.iter().find(|figure| figure.name == name);
        figure.and_then(|f| f.cpu_ms_per_mb).unwrap_or(0.0)
    }

    fn p50(&self, name: &str) -> f64 {
        let figure = self.figures.iter().find(|figure| figure.name == name);
        let latency = figure.and_then(|figure| figure.latency);
        latency.map_or(0.0, |latency| latency.p50_us)
    }

    /// CPU milliseconds for a MB that a durable produce path cannot do without: receiving it,
    /// checking it, copying it once, writing it directly with sync in pieces of 1 MiB.
    pub fn produce_ms_per_mb(&self) -> f64 {
        self.cpu(RECEIVE) + self.cpu(CRC) + self.cpu(COPY) + self.cpu(&disk::durable(1 << 20))
    }

    /// CPU milliseconds for a MB that is sent from the page cache.
    pub fn fetch_ms_per_mb(&self) -> f64 {
        self.cpu(SENDFILE)
    }

    /// MB/s of durable direct writes in pieces of 1 MiB.
    pub fn durable_mb_per_s(&self) -> f64 {
        let name = disk::durable(1 << 20);
        let figure = self.figures.iter().find(|figure| figure.name == name);
        figure.and_then(|figure| figure.mb_per_s).unwrap_or(0.0)
    }

    /// CPU milliseconds for a MB that is sent from a buffer.
    pub fn send_ms_per_mb(&self) -> f64 {
        self.cpu(SEND)
    }

    /// Microseconds (median) of a small message there and back.
    pub fn round_trip_us(&self) -> f64 {
        self.p50(ROUND_TRIP)
    }

    /// Microseconds (median) of a round trip and a small durable write, one after the other.
    pub fn durable_ack_us(&self) -> f64 {
        self.p50(ROUND_TRIP) + self.p50(&disk::durable(4096))
    }
}

/// Times operations of one thread.
struct Stopwatch {
    start: Instant,
    cpu: Duration,
    bytes: u64,
    histogram: Histogram<u64>,
}

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch {
            histogram: histogram(),
            bytes: 0,
            cpu: cpu_time(Whose::Thread),
            start: Instant::now(),
        }
    }

    fn running(&self, each: Duration) -> bool {
        self.start.elapsed() < each
    }

    /// Times one operation on so many bytes.
    fn time<T>(&mut self, bytes: usize, operation: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = operation();
        self.histogram
            .saturating_record(start.elapsed().as_nanos() as u64);
        self.bytes += bytes as u64;
        result
    }

    fn figure(&self, name: &str) -> Figure {
        let (wall, mb) = (self.start.elapsed(), self.bytes as f64 / 1e6);
        let cpu = cpu_time(Whose::Thread) - self.cpu;
        Figure {
            name: name.into(),
            mb_per_s: (mb > 0.0).then(|| mb / wall.as_secs_f64()),
            cpu_ms_per_mb: (mb > 0.0).then(|| cpu.as_secs_f64() * 1e3 / mb),
            latency: (!self.histogram.is_empty()).then(|| Percentiles::of(&self.histogram)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_of_two_is_kept_figure_by_figure() {
        let of = |mb: f64, cpu: f64, p50_us: f64| Limits {
            figures: vec![Figure {
                name: SENDFILE.into(),
                mb_per_s: Some(mb),
                cpu_ms_per_mb: Some(cpu),
                latency: Some(Percentiles {
                    p50_us,
                    ..Percentiles::default()
                }),
            }],
        };
        let (slow, fast) = (of(10.0, 3.0, 7.0), of(20.0, 4.0, 5.0));
        assert_eq!(slow.or_better(&fast), of(20.0, 3.0, 5.0));
        assert_eq!(fast.or_better(&slow), of(20.0, 3.0, 5.0));
        let none = Limits { figures: vec![] };
        assert_eq!(fast.or_better(&none), fast);
    }

    #[test]
    fn every_limit_is_measured_and_the_sums_are_of_what_they_say() {
        // The source tree's file system: the temporary one may be memory without direct I/O.
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        std::fs::create_dir_all(&dir).unwrap();
        let limits = Limits::measure(&dir, Duration::from_millis(30), |_| {}).unwrap();
        for figure in &limits.figures {
            assert!(figure.mb_per_s.is_none_or(|mb| mb > 0.0), "{figure:?}");
        }
        let produce = [
            RECEIVE,
            CRC,
            COPY,
            "O_DIRECT write 1 MiB, durable (RWF_DSYNC)",
        ];
        let sum: f64 = produce.iter().map(|name| limits.cpu(name)).sum();
        assert!(
            produce.iter().all(|name| limits.cpu(name) > 0.0),
            "{limits:?}"
        );
        assert!((limits.produce_ms_per_mb() - sum).abs() < 1e-9);
        assert!(limits.fetch_ms_per_mb() > 0.0 && limits.durable_ack_us() > 1.0);
    }
}
