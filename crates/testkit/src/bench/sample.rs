//! A set of measured values, sorted, in whatever unit the bench chose.

use std::fmt;
use std::time::Duration;

/// Measured values. Empty ones have only NaN to tell.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Durations, in milliseconds.
    pub fn of_times(times: impl IntoIterator<Item = Duration>) -> Self {
        times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect()
    }

    /// The value below which `percent` of the values lie.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    pub fn percentile(&self, percent: f64) -> f64 {
        let at = (percent / 100.0 * self.0.len() as f64) as usize;
        self.0.get(at.min(self.0.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    /// The middle value; of an even number of them, the mean of the two.
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        let at = |index: usize| self.0.get(index).copied().unwrap_or(f64::NAN);
        if self.0.len().is_multiple_of(2) && middle > 0 {
            f64::midpoint(at(middle - 1), at(middle))
        } else {
            at(middle)
        }
    }

    /// The sum of the values over their count.
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// The smallest value.
    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The largest value.
    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

/// Median (smallest-largest), with as many decimals as the format asks for; three digits that count without.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let median = self.median();
        let decimals = f.precision().unwrap_or(match median.abs() {
            large if large >= 100.0 => 0,
            middling if middling >= 10.0 => 1,
            _ => 2,
        });
        write!(f, "{median:.decimals$} ({:.decimals$}-{:.decimals$})", self.min(), self.max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_values_and_edges() {
        let odd: Sample = [3.0, 1.0, 2.0].into_iter().collect();
        assert_eq!((odd.min(), odd.median(), odd.max()), (1.0, 2.0, 3.0));
        let even: Sample = [4.0, 1.0, 3.0, 2.0].into_iter().collect();
        assert!((even.median() - 2.5).abs() < f64::EPSILON);
        let hundred: Sample = (1..=100).map(f64::from).collect();
        assert_eq!(
            (hundred.percentile(50.0), hundred.percentile(99.0), hundred.percentile(100.0)),
            (51.0, 100.0, 100.0)
        );
        assert_eq!(odd.to_string(), "2.00 (1.00-3.00)");
        assert!(Sample::default().median().is_nan());
    }
}
