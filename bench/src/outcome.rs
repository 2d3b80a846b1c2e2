//! Results as values: what a run gave, and the figures that follow from it.
//!
//! MB is 10^6 bytes of record values before compression, everywhere.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::procfs::Used;
use crate::workload::Workload;

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many requests.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_us: f64,
    /// 90 % took no longer.
    pub p90_us: f64,
    /// 99 % took no longer.
    pub p99_us: f64,
    /// 99.9 % took no longer.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// The mean.
    pub mean_us: f64,
}

impl Percentiles {
    /// Reads them from a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Percentiles {
        let at = |q| histogram.value_at_quantile(q) as f64 / 1e3;
        Percentiles {
            count: histogram.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
            mean_us: histogram.mean() / 1e3,
        }
    }
}

/// What was measured in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its length.
    pub seconds: f64,
    /// Records acknowledged or fetched.
    pub records: u64,
    /// The bytes of their values, before compression.
    pub bytes: u64,
    /// The bytes of their batches as they travelled.
    pub wire_bytes: u64,
    /// Requests answered.
    pub requests: u64,
    /// Latency of requests, from when they were due (open loop) or sent (closed loop).
    pub latency: Percentiles,
    /// Where records are counted when a reader has them: how many were acknowledged meanwhile.
    #[serde(default)]
    pub acked: u64,
    /// And the latency of those acknowledgements.
    #[serde(default)]
    pub ack: Option<Percentiles>,
    /// Whether a reader that was behind had every acknowledged record at the end.
    #[serde(default)]
    pub caught_up: bool,
    /// CPU time of this program, in milliseconds.
    pub client_cpu_ms: f64,
    /// What the broker's process used; `None` if its pid was not given.
    pub broker: Option<Used>,
    /// CPU time of the machine that neither used: the kernel's own threads (write-back), others.
    pub other_cpu_ms: f64,
}

fn per(value: f64, by: f64) -> f64 {
    if by > 0.0 { value / by } else { 0.0 }
}

impl Interval {
    /// Records a second.
    pub fn records_per_s(&self) -> f64 {
        per(self.records as f64, self.seconds)
    }

    /// MB of values.
    pub fn mb(&self) -> f64 {
        self.bytes as f64 / 1e6
    }

    /// MB of values a second.
    pub fn mb_per_s(&self) -> f64 {
        per(self.mb(), self.seconds)
    }

    /// The broker's CPU milliseconds for a MB of values.
    pub fn broker_ms_per_mb(&self) -> Option<f64> {
        self.broker.map(|used| per(used.cpu_ms, self.mb()))
    }

    /// The broker's CPU microseconds for a record.
    pub fn broker_us_per_record(&self) -> Option<f64> {
        self.broker
            .map(|used| per(used.cpu_ms * 1e3, self.records as f64))
    }

    /// This program's CPU milliseconds for a MB of values.
    pub fn client_ms_per_mb(&self) -> f64 {
        per(self.client_cpu_ms, self.mb())
    }

    /// This program's CPU as a part of the broker's.
    pub fn client_share(&self) -> Option<f64> {
        self.broker.map(|used| per(self.client_cpu_ms, used.cpu_ms))
    }

    /// The broker's resident memory at the end, in MB.
    pub fn rss_mb(&self) -> Option<f64> {
        self.broker.map(|used| used.rss as f64 / 1e6)
    }
}

/// The histograms of a run, in nanoseconds; they go to files of their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histograms {
    /// Of the latency that the run is about.
    pub latency: Option<Histogram<u64>>,
    /// Of acknowledgements, where the latency is another one.
    pub ack: Option<Histogram<u64>>,
}

/// A run: what was asked, of whom, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The broker's name in a comparison, else its address.
    pub target: String,
    /// What was run.
    pub workload: Workload,
    /// What came of it.
    pub interval: Interval,
    /// Seconds from the start, records a second until then.
    pub rates: Vec<(f64, f64)>,
    /// The latency's distribution: see [`curve`].
    pub curve: Vec<(f64, f64)>,
    /// Where both come from.
    #[serde(skip)]
    pub histograms: Histograms,
}

/// Points (quantile, microseconds) of a distribution, closer together towards 1: the way to draw
/// it. None of an empty one; as far as the number of samples carries.
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let samples = histogram.len() as f64;
    let mut points = Vec::new();
    // Eight points for each time that what is beyond gets ten times rarer.
    for step in 0..=48 {
        let beyond = 10f64.powf(-f64::from(step) / 8.0);
        if samples * beyond < 1.0 {
            break;
        }
        let quantile = 1.0 - beyond;
        let us = histogram.value_at_quantile(quantile) as f64 / 1e3;
        points.push((quantile, us));
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_as_far_as_the_samples_carry() {
        let mut histogram = crate::meter::histogram();
        assert!(curve(&histogram).is_empty());
        (1..=1000).for_each(|i| histogram.saturating_record(i * 1000));
        let points = curve(&histogram);
        assert_eq!(points.len(), 25); // 0, ..., 0.999
        assert!((points[8].0 - 0.9).abs() < 1e-9);
        assert!((points[8].1 / 900.0 - 1.0).abs() < 0.01, "{points:?}");
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
    }
}
