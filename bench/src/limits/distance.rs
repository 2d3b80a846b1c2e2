//! Which of the machine's limits a load is held against, and how far from it a broker is.

use super::Limits;
use crate::batch::Codec;
use crate::compare::Case;
use crate::metric::Metric;
use crate::workload::{Kind, Workload};

/// A limit that applies to a load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yardstick {
    /// Which figure of the load is held against it.
    pub metric: Metric,
    /// The limit, in that figure's unit.
    pub limit: f64,
    /// What was measured bare.
    pub what: &'static str,
}

impl Limits {
    /// The limit for a load. None for small requests, which are bound by their number and not by
    /// bytes, for compressed ones, which have other bytes than records, and for connections.
    pub fn yardstick(&self, load: &Workload) -> Option<Yardstick> {
        let cost = |limit, what| Yardstick {
            metric: Metric::CpuMsPerMb,
            limit,
            what,
        };
        let time = |limit, what| Yardstick {
            metric: Metric::P50Us,
            limit,
            what,
        };
        let found = match load.kind {
            Kind::Fetch | Kind::CatchUp => cost(self.fetch_ms_per_mb(), "sendfile"),
            Kind::Stream if load.groups > 1 => cost(self.send_ms_per_mb(), "send"),
            Kind::Stream => time(
                self.durable_ack_us() + self.round_trip_us() / 2.0,
                "a round trip, a durable 4 KiB write and half a round trip",
            ),
            Kind::Produce if load.rate.is_some() => time(
                self.durable_ack_us(),
                "a round trip and a durable 4 KiB write",
            ),
            Kind::Produce if load.batch_records > 1 && load.codec == Codec::None => cost(
                self.produce_ms_per_mb(),
                "receive, CRC, one copy and a durable direct write",
            ),
            Kind::Produce | Kind::Storm => return None,
            Kind::Commit | Kind::Transaction => return None,
            Kind::RebalanceClassic | Kind::RebalanceConsumer => return None,
        };
        (found.limit > 0.0).then_some(found)
    }

    /// How many times the limit each broker takes (medians); empty where none applies.
    pub fn distances(&self, case: &Case) -> Vec<f64> {
        let of = |yardstick: Yardstick| {
            let figure = case.figure(yardstick.metric)?;
            let times = figure
                .sides
                .iter()
                .map(|side| side.median / yardstick.limit);
            Some(times.collect())
        };
        self.yardstick(&case.workload)
            .and_then(of)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Figure, SENDFILE};
    use super::*;
    use crate::spec::Spec;

    #[test]
    fn a_load_has_its_own_limit_or_none() {
        let limits = Limits {
            figures: vec![Figure {
                name: SENDFILE.into(),
                mb_per_s: None,
                cpu_ms_per_mb: Some(0.25),
                latency: None,
            }],
        };
        let of = |kind, spec: Spec| limits.yardstick(&spec.workload(kind).unwrap());
        let fetch = of(Kind::Fetch, Spec::default()).unwrap();
        assert_eq!((fetch.metric, fetch.limit), (Metric::CpuMsPerMb, 0.25));
        // Nothing was measured for it.
        assert_eq!(of(Kind::Produce, Spec::default()), None);
        assert_eq!(of(Kind::Storm, Spec::default()), None);
    }
}
