//! Pairs of figures and their ratio: what a comparison on a drifting machine can honestly say.
//!
//! A and B run in turn, and the ratio is taken pair by pair: what slows the machine for a while
//! slows both of a pair, and drops out.

use serde::{Deserialize, Serialize};

/// Median, least and greatest of some values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median (the mean of the two in the middle if they are even in number).
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of some values; `None` of none, or if one is not a number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        if values.iter().any(|value| value.is_nan()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread {
            median: (low + high) / 2.0,
            min,
            max,
        })
    }
}

/// A figure of both sides and the ratio A/B.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The first side.
    pub a: Spread,
    /// The second side.
    pub b: Spread,
    /// A/B, pair by pair.
    pub ratio: Spread,
}

impl Comparison {
    /// From pairs (A, B); `None` without a pair, or if a B is 0.
    pub fn of(pairs: &[(f64, f64)]) -> Option<Comparison> {
        if pairs.iter().any(|(_, b)| *b == 0.0) {
            return None;
        }
        Some(Comparison {
            a: Spread::of(pairs.iter().map(|(a, _)| *a))?,
            b: Spread::of(pairs.iter().map(|(_, b)| *b))?,
            ratio: Spread::of(pairs.iter().map(|(a, b)| a / b))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_there() {
        let odd = Spread::of([3.0, 1.0, 100.0]).unwrap();
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 3.0, 100.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([1.0, f64::NAN]), None);
    }

    #[test]
    fn a_drift_that_slows_both_drops_out_of_the_ratio() {
        // B always takes twice as long; the machine gets five times slower on the way.
        let pairs = [(1.0, 2.0), (2.0, 4.0), (5.0, 10.0)];
        let comparison = Comparison::of(&pairs).unwrap();
        let half = Spread {
            median: 0.5,
            min: 0.5,
            max: 0.5,
        };
        assert_eq!(comparison.ratio, half);
        assert_eq!((comparison.a.median, comparison.b.median), (2.0, 4.0));
    }

    #[test]
    fn the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() {
        let pairs = [(1.0, 1.0), (10.0, 5.0), (3.0, 1.0)];
        let comparison = Comparison::of(&pairs).unwrap();
        assert_eq!(comparison.ratio.median, 2.0);
        assert_eq!((comparison.ratio.min, comparison.ratio.max), (1.0, 3.0));
        assert_eq!(Comparison::of(&[(1.0, 0.0)]), None);
    }
}
