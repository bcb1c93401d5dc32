//! Order statistics of small samples, and how they are printed.

use serde::Serialize;

/// What is reported of a set of repeated measurements, in their own unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// The middle measurement, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Third quartile less the first, both interpolated linearly.
    pub iqr: f64,
}

impl Summary {
    /// Summarises `samples`; `None` if there are none.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&sorted, 1, 2)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            iqr: quantile(&sorted, 3, 4)? - quantile(&sorted, 1, 4)?,
        })
    }
}

/// The `num / den` quantile of an ascending slice, interpolated between neighbours.
fn quantile(sorted: &[f64], num: usize, den: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let (whole, part) = (last * num / den, last * num % den);
    let low = sorted[whole];
    let high = sorted[(whole + 1).min(last)];
    Some(low + (high - low) * ratio(part, den))
}

fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// The median of `samples`; `None` if there are none.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    Summary::of(samples).map(|summary| summary.median)
}

/// `value` in percent of `base`, rounded; `None` where that has no meaning.
pub(crate) fn percent(value: f64, base: f64) -> Option<f64> {
    let percent = (value / base * 100.0).round();
    (base > 0.0 && percent.is_finite()).then_some(percent)
}

/// A cell of a table: `64.48 (126 %)`, without the brackets where there is no base.
pub(crate) fn cell(value: f64, base: Option<f64>) -> String {
    match base.and_then(|base| percent(value, base)) {
        Some(percent) => format!("{} ({percent} %)", digits(value)),
        None => digits(value),
    }
}

/// About four significant digits of a time in seconds.
fn digits(value: f64) -> String {
    match value {
        10.0.. => format!("{value:.2}"),
        1.0.. => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_one_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn spread_is_that_of_the_sorted_samples() {
        let summary = Summary::of(&[5.0, 1.0, 4.0, 2.0, 3.0]).expect("five samples");
        assert_eq!(summary, Summary { median: 3.0, min: 1.0, max: 5.0, iqr: 2.0 });
        let one = Summary::of(&[2.5]).expect("one sample");
        assert_eq!((one.min, one.max, one.iqr), (2.5, 2.5, 0.0));
    }

    #[test]
    fn quartiles_are_interpolated() {
        // Quartiles at the positions 0.75 and 2.25 of 1, 2, 3, 4.
        let summary = Summary::of(&[1.0, 2.0, 3.0, 4.0]).expect("four samples");
        assert_eq!(summary.iqr, 3.25 - 1.75);
    }

    #[test]
    fn percentages_are_against_the_base() {
        assert_eq!(percent(64.48, 51.27), Some(126.0));
        assert_eq!(percent(1.0, 0.0), None);
        assert_eq!(cell(64.48, Some(51.27)), "64.48 (126 %)");
        assert_eq!(cell(0.5, Some(0.0)), "0.5000");
        assert_eq!(cell(1.2346, None), "1.235");
    }
}
