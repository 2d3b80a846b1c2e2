//! How fast compaction may read and write: so many bytes a second, all logs of a shard together.

use std::cell::Cell;
use std::time::Duration;

use streamd_io::Env;
use streamd_model::Mono;

/// The longest that what was not used is saved for.
const SAVED: Duration = Duration::from_millis(50);

/// A limit on bytes for a time.
pub struct Pace {
    /// When what was taken is paid for.
    paid: Cell<Option<Mono>>,
    rate: Cell<f64>,
}

impl Pace {
    /// At most so many bytes a second.
    pub fn new(bytes_per_second: f64) -> Pace {
        Pace {
            paid: Cell::new(None),
            rate: Cell::new(bytes_per_second),
        }
    }

    /// Sets another limit.
    pub fn set_rate(&self, bytes_per_second: f64) {
        self.rate.set(bytes_per_second);
    }

    /// Takes so many bytes at `now`; gives how long to wait.
    pub fn owe(&self, bytes: usize, now: Mono) -> Duration {
        let seconds = (bytes as f64 / self.rate.get().max(1.0)).min(3600.0);
        let paid = self.paid.get().unwrap_or(now);
        let wait = match paid > now {
            true => paid - now,
            false => Duration::ZERO,
        };
        let saved = match now > paid {
            true => (now - paid).min(SAVED),
            false => Duration::ZERO,
        };
        let total = wait + Duration::from_secs_f64(seconds);
        let left = total.saturating_sub(saved);
        self.paid.set(Some(now + left));
        left
    }

    /// Takes so many bytes, and waits until they are paid for.
    pub async fn take(&self, env: &Env, bytes: usize) {
        let wait = self.owe(bytes, env.now());
        if wait > Duration::from_millis(1) {
            env.sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_rate_over_time() {
        let pace = Pace::new(1e6);
        let mut now = Mono(5_000_000_000);
        let begin = now;
        for _ in 0..100 {
            now = now + pace.owe(50_000, now);
        }
        assert_eq!((now - begin).as_millis(), 5000);
        // A rest is not saved up for long.
        now = now + Duration::from_secs(100);
        let wait = pace.owe(1_000_000, now);
        assert_eq!(wait.as_millis(), 950);
    }
}
