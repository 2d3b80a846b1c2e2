//! The figures that are taken of a run and compared.

use serde::Serialize;

use crate::outcome::Outcome;

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Broker CPU milliseconds for a MB.
    CpuMsPerMb,
    /// Broker CPU microseconds for a record.
    CpuUsPerRecord,
    /// Records a second.
    RecordsPerS,
    /// MB a second.
    MbPerS,
    /// Median latency, microseconds.
    P50Us,
    /// 99 % latency, microseconds.
    P99Us,
    /// 99.9 % latency, microseconds.
    P999Us,
    /// Median latency of acknowledgements, where the latency is another one, microseconds.
    AckP50Us,
    /// 99 % latency of them, microseconds.
    AckP99Us,
    /// Seconds until a reader had caught up.
    CatchUpS,
    /// This program's CPU milliseconds for a MB.
    ClientMsPerMb,
    /// CPU of the machine that is neither's, milliseconds for a MB: write-back, or others' work.
    OtherMsPerMb,
    /// The broker's resident memory after the run, MB.
    RssMb,
    /// Times a second that a thread of the broker waited.
    SwitchesVoluntaryPerS,
    /// Times a second that a thread of the broker was pushed off its core.
    SwitchesInvoluntaryPerS,
    /// MB a second that the broker wrote to storage.
    DiskWriteMbPerS,
    /// MB a second that the broker read from storage.
    DiskReadMbPerS,
}

impl Metric {
    /// All of them, in the order of a table.
    pub const ALL: [Metric; 17] = [
        Metric::CpuMsPerMb,
        Metric::CpuUsPerRecord,
        Metric::RecordsPerS,
        Metric::MbPerS,
        Metric::P50Us,
        Metric::P99Us,
        Metric::P999Us,
        Metric::AckP50Us,
        Metric::AckP99Us,
        Metric::CatchUpS,
        Metric::ClientMsPerMb,
        Metric::OtherMsPerMb,
        Metric::RssMb,
        Metric::SwitchesVoluntaryPerS,
        Metric::SwitchesInvoluntaryPerS,
        Metric::DiskWriteMbPerS,
        Metric::DiskReadMbPerS,
    ];

    /// What it is called in a table, and what to multiply it with there.
    pub fn label(self) -> (&'static str, f64) {
        match self {
            Metric::CpuMsPerMb => ("broker CPU ms/MB", 1.0),
            Metric::CpuUsPerRecord => ("broker CPU us/record", 1.0),
            Metric::RecordsPerS => ("records/s", 1.0),
            Metric::MbPerS => ("MB/s", 1.0),
            Metric::P50Us => ("latency p50 ms", 1e-3),
            Metric::P99Us => ("latency p99 ms", 1e-3),
            Metric::P999Us => ("latency p99.9 ms", 1e-3),
            Metric::AckP50Us => ("ack p50 ms", 1e-3),
            Metric::AckP99Us => ("ack p99 ms", 1e-3),
            Metric::CatchUpS => ("caught up after s", 1.0),
            Metric::ClientMsPerMb => ("client CPU ms/MB", 1.0),
            Metric::OtherMsPerMb => ("other CPU ms/MB", 1.0),
            Metric::RssMb => ("resident MB", 1.0),
            Metric::SwitchesVoluntaryPerS => ("switches/s, waiting", 1.0),
            Metric::SwitchesInvoluntaryPerS => ("switches/s, pushed off", 1.0),
            Metric::DiskWriteMbPerS => ("disk MB/s written", 1.0),
            Metric::DiskReadMbPerS => ("disk MB/s read", 1.0),
        }
    }

    /// Its value in a run, if the run has one.
    pub fn of(self, run: &Outcome) -> Option<f64> {
        let i = &run.interval;
        let some = |latency: f64| (i.latency.count > 0).then_some(latency);
        let bytes = |figure: f64| (!run.workload.kind.coordinates()).then_some(figure);
        let a_second = |count: u64| count as f64 / i.seconds.max(1e-9);
        match self {
            Metric::CpuMsPerMb => i.broker_ms_per_mb().and_then(bytes),
            Metric::CpuUsPerRecord => i.broker_us_per_record(),
            Metric::RecordsPerS => Some(i.records_per_s()),
            Metric::MbPerS => bytes(i.mb_per_s()),
            Metric::P50Us => some(i.latency.p50_us),
            Metric::P99Us => some(i.latency.p99_us),
            Metric::P999Us => some(i.latency.p999_us),
            Metric::AckP50Us => i.ack.map(|ack| ack.p50_us),
            Metric::AckP99Us => i.ack.map(|ack| ack.p99_us),
            Metric::CatchUpS => i.caught_up.then_some(i.seconds),
            Metric::ClientMsPerMb => bytes(i.client_ms_per_mb()),
            Metric::OtherMsPerMb => bytes((i.other_cpu_ms / i.mb().max(1e-9)).max(0.001)),
            Metric::RssMb => i.rss_mb(),
            Metric::SwitchesVoluntaryPerS => i.broker.map(|b| a_second(b.switches_voluntary)),
            Metric::SwitchesInvoluntaryPerS => i.broker.map(|b| a_second(b.switches_involuntary)),
            Metric::DiskWriteMbPerS => i.broker.map(|b| a_second(b.write_bytes) / 1e6),
            Metric::DiskReadMbPerS => i.broker.map(|b| a_second(b.read_bytes) / 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_names_in_json_are_unique() {
        let mut labels: Vec<_> = Metric::ALL.iter().map(|m| m.label().0).collect();
        let mut names: Vec<_> = Metric::ALL
            .iter()
            .map(|m| serde_json::to_string(m).unwrap())
            .collect();
        assert_eq!(names[6], "\"p999_us\"");
        labels.sort_unstable();
        labels.dedup();
        names.sort();
        names.dedup();
        assert_eq!((labels.len(), names.len()), (17, 17));
        assert!(Metric::ALL.is_sorted());
    }
}
