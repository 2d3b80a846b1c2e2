//! What came through over time, in slices.

/// A slice, in nanoseconds.
const SLICE: u64 = 100_000_000;
/// A line with more points is not told apart on a page.
const POINTS_MAX: usize = 120;

/// Records by slices of 100 ms.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<u64>);

impl Series {
    /// Adds records that came so many nanoseconds after the start.
    pub fn add(&mut self, after: u64, records: u64) {
        let at = (after / SLICE) as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] += records;
    }

    /// Pairs of (seconds from the start to the slice's end, records a second) of the whole slices
    /// in an interval of so many nanoseconds; slices are put together until there are few.
    pub fn rates(&self, length: u64) -> Vec<(f64, f64)> {
        let whole = (length / SLICE) as usize;
        let together = whole.div_ceil(POINTS_MAX).max(1);
        let slice_s = SLICE as f64 / 1e9 * together as f64;
        (0..whole / together)
            .map(|i| {
                let slices = i * together..(i + 1) * together;
                let sum: u64 = slices.map(|at| self.0.get(at).copied().unwrap_or(0)).sum();
                ((i + 1) as f64 * slice_s, sum as f64 / slice_s)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_by_slice_and_an_empty_slice_is_zero() {
        let mut series = Series::default();
        series.add(0, 5);
        series.add(SLICE - 1, 5);
        series.add(2 * SLICE, 7);
        let rates = series.rates(4 * SLICE + 1);
        let per_s: Vec<_> = rates.iter().map(|(_, rate)| rate.round()).collect();
        assert_eq!(per_s, [100.0, 0.0, 70.0, 0.0]);
        assert!((rates[3].0 - 0.4).abs() < 1e-9);
        assert!(series.rates(SLICE / 2).is_empty());
    }

    #[test]
    fn a_long_run_has_few_points_with_the_same_mean() {
        let mut series = Series::default();
        (0..600).for_each(|i| series.add(i * SLICE, i));
        let rates = series.rates(600 * SLICE);
        assert_eq!(rates.len(), 120);
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / 120.0;
        assert!((mean - 2995.0).abs() < 1e-6, "{mean}");
    }
}
