//! A limit on bytes a second, as a bucket of tokens that time fills.
//!
//! Invariant: over any stretch of time no more is taken than the rate times that, and half a
//! second's worth, and one piece: what is taken may be more than there is, and is a debt then.

use std::time::Duration;

use streamd_model::Mono;

/// So much time's worth is kept for later.
const KEPT: Duration = Duration::from_millis(500);
/// One byte.
const BYTE: i128 = 1_000_000_000;

/// A limit on bytes a second.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Bytes a second; none: no limit.
    rate: Option<u64>,
    /// What may be taken, in billionths of a byte.
    level: i128,
    at: Mono,
}

impl Default for Bucket {
    /// No limit.
    fn default() -> Bucket {
        Bucket {
            rate: None,
            level: 0,
            at: Mono(0),
        }
    }
}

impl Bucket {
    /// From now on it is so many bytes a second; [`i64::MAX`] and more is no limit.
    pub fn set(&mut self, rate: u64, now: Mono) {
        self.fill(now);
        let rate = (rate < i64::MAX as u64).then_some(rate);
        if self.rate == rate {
            return;
        }
        // What a lower rate does not keep is gone; a debt stays.
        self.level = match (self.rate, rate) {
            (Some(_), Some(_)) => self.level,
            _ => 0,
        };
        self.rate = rate;
        self.level = self.level.min(self.most());
        self.at = now;
    }

    fn most(&self) -> i128 {
        i128::from(self.rate.unwrap_or(0)) * KEPT.as_nanos() as i128
    }

    fn fill(&mut self, now: Mono) {
        if now > self.at {
            let passed = (now - self.at).as_nanos() as i128;
            let more = i128::from(self.rate.unwrap_or(0)).saturating_mul(passed);
            self.level = self.level.saturating_add(more).min(self.most());
            self.at = now;
        }
    }

    /// Whether something may be taken now.
    pub fn is_open(&mut self, now: Mono) -> bool {
        self.fill(now);
        self.rate.is_none() || self.level > 0
    }

    /// Takes so many bytes, there or not.
    pub fn take(&mut self, bytes: u64) {
        if self.rate.is_some() {
            self.level = self.level.saturating_sub(i128::from(bytes) * BYTE);
        }
    }

    /// So many bytes of what was taken were not needed.
    pub fn give_back(&mut self, bytes: u64) {
        if self.rate.is_some() {
            self.level = (self.level + i128::from(bytes) * BYTE).min(self.most());
        }
    }

    /// The bytes that are best taken at once, of at most `max`: with a low rate fewer, so that
    /// others have their turn.
    pub fn piece(&self, max: u64) -> u64 {
        let eighth = self.rate.unwrap_or(u64::MAX) / 8;
        max.min(eighth.max(64 << 10))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn it_is_the_rate_over_time_whatever_is_taken_at_once() {
        for piece in [10_000, 300_000, 1_000_000] {
            let (mut bucket, mut now, mut taken) = (Bucket::default(), Mono(7), 0);
            bucket.set(1_000_000, now);
            assert!(!bucket.is_open(now), "it begins empty");
            for _ in 0..10_000 {
                now = Mono(now.0 + MS);
                if bucket.is_open(now) {
                    bucket.take(piece);
                    taken += piece;
                }
            }
            assert!((10_000_000..=11_000_000).contains(&taken), "{taken}");
        }
    }

    #[test]
    fn a_limit_comes_changes_and_goes() {
        let mut bucket = Bucket::default();
        bucket.take(u64::MAX);
        assert!(bucket.is_open(Mono(0)), "no limit");
        bucket.set(1_000, Mono(5));
        bucket.take(1_000);
        assert!(!bucket.is_open(Mono(5 + 900 * MS)));
        // What is owed is paid at the new rate.
        bucket.set(1_000_000, Mono(5 + 900 * MS));
        assert!(bucket.is_open(Mono(5 + 901 * MS)));
        bucket.set(0, Mono(5 + 901 * MS));
        assert!(!bucket.is_open(Mono(u64::MAX / 2)), "nothing at all");
        bucket.set(i64::MAX as u64, Mono(u64::MAX / 2));
        assert!(bucket.is_open(Mono(u64::MAX / 2)));
        bucket.set(1_000, Mono(u64::MAX / 2));
        bucket.give_back(u64::MAX);
        let (later, mut taken) = (Mono(u64::MAX / 2 + 1), 0);
        while bucket.is_open(later) {
            bucket.take(100);
            taken += 100;
        }
        assert_eq!(taken, 500, "no more is kept than for half a second");
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_what_is_kept(
            steps in prop::collection::vec((0u64..400, 1u64..50_000), 1..200),
        ) {
            let (mut bucket, mut now, mut taken, mut largest) =
                (Bucket::default(), Mono(3), 0, 0);
            let begun = now;
            bucket.set(100_000, now);
            for (wait, bytes) in steps {
                now = Mono(now.0 + wait * MS);
                if bucket.is_open(now) {
                    bucket.take(bytes);
                    taken += bytes;
                    largest = largest.max(bytes);
                }
                let fair = (now - begun).as_secs_f64() * 100_000.0 + 50_000.0;
                prop_assert!(taken as f64 <= fair + largest as f64 + 1.0);
            }
        }
    }
}
