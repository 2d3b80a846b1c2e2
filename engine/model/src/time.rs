//! Time. Durations are measured on [`Mono`]; wall time is `i64` milliseconds since the Unix epoch,
//! as in Kafka's records, and is never used to measure.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock: nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mono(pub u64);

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, d: Duration) -> Mono {
        Mono(
            self.0
                .saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub for Mono {
    type Output = Duration;
    /// Zero when `other` is later.
    fn sub(self, other: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(other.0))
    }
}
