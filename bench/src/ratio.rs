//! Figures of several brokers and their ratios: what a comparison on a drifting machine can
//! honestly say.
//!
//! They run in turn, and ratios are taken round by round: what slows the machine for a while slows
//! all of a round, and drops out.

use serde::{Serialize, Serializer};

/// Median, least and greatest of some values; in JSON a list of the three.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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

/// Five digits are more than any of these figures is worth.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let unit = 10f64.powi(value.abs().log10().floor() as i32 - 4);
    let whole = (value / unit).round();
    // Dividing by a power of ten is exact where multiplying by its inverse is not.
    if unit < 1.0 {
        whole / (1.0 / unit).round()
    } else {
        whole * unit
    }
}

impl Serialize for Spread {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        [self.median, self.min, self.max].map(rounded).serialize(to)
    }
}

/// A figure of every side, and the ratios of the first side to each other one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Each side.
    pub sides: Vec<Spread>,
    /// First/other, round by round, for each other side; empty if one of them is 0.
    pub ratios: Vec<Spread>,
}

impl Comparison {
    /// From rounds, each with a value for every side; `None` without a round.
    pub fn of(rounds: &[Vec<f64>]) -> Option<Comparison> {
        let count = rounds.first()?.len();
        let side = |side: usize| Spread::of(rounds.iter().map(|round| round[side]));
        let ratio = |side: usize| Spread::of(rounds.iter().map(|round| round[0] / round[side]));
        let whole = rounds
            .iter()
            .all(|round| round[1..].iter().all(|value| *value != 0.0));
        Some(Comparison {
            sides: (0..count).map(side).collect::<Option<_>>()?,
            ratios: match whole {
                true => (1..count).map(ratio).collect::<Option<_>>()?,
                false => Vec::new(),
            },
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
        let rounds = [vec![1.0, 2.0], vec![2.0, 4.0], vec![5.0, 10.0]];
        let comparison = Comparison::of(&rounds).unwrap();
        let half = Spread {
            median: 0.5,
            min: 0.5,
            max: 0.5,
        };
        assert_eq!(comparison.ratios, [half]);
        let medians: Vec<_> = comparison.sides.iter().map(|side| side.median).collect();
        assert_eq!(medians, [2.0, 4.0]);
    }

    #[test]
    fn the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() {
        let rounds = [
            vec![1.0, 1.0, 2.0],
            vec![10.0, 5.0, 2.0],
            vec![3.0, 1.0, 2.0],
        ];
        let ratios = Comparison::of(&rounds).unwrap().ratios;
        assert_eq!(
            (ratios[0].median, ratios[0].min, ratios[0].max),
            (2.0, 1.0, 3.0)
        );
        assert_eq!(ratios[1].median, 1.5);
        let zero = Comparison::of(&[vec![1.0, 0.0]]).unwrap();
        assert_eq!((zero.sides.len(), zero.ratios.len()), (2, 0));
        assert_eq!(Comparison::of(&[]), None);
        assert_eq!(Comparison::of(&[vec![4.0]]).unwrap().ratios, []);
    }

    #[test]
    fn json_has_five_digits() {
        let spread = Spread {
            median: 0.123_456_78,
            min: -0.0,
            max: 123_456_789.0,
        };
        let text = serde_json::to_string(&spread).unwrap();
        assert_eq!(text, "[0.12346,-0.0,123460000.0]");
    }
}
