//! Many numbers in a few.

use serde_json::{Value, json};

/// The value that so many in a thousand do not exceed, by nearest rank; 0 of none.
pub(crate) fn quantile(sorted: &[f64], permille: usize) -> f64 {
    let rank = (sorted.len() * permille).div_ceil(1000);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// In ascending order.
pub(crate) fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// How many, and what they are.
pub(crate) fn summary(values: Vec<f64>) -> Value {
    let values = sorted(values);
    json!({
        "count": values.len(),
        "least": quantile(&values, 1),
        "p10": quantile(&values, 100),
        "p50": quantile(&values, 500),
        "p90": quantile(&values, 900),
        "p99": quantile(&values, 990),
        "most": quantile(&values, 1000),
    })
}

/// Mean and standard deviation; 0 of none.
pub(crate) fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / count;
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_nearest_rank_of_values_in_any_order() {
        let values = sorted(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(
            [1, 500, 501, 1000].map(|part| quantile(&values, part)),
            [1.0, 2.0, 3.0, 4.0]
        );
        assert_eq!(quantile(&[], 500), 0.0);
    }

    #[test]
    fn a_deviation_is_the_root_of_the_mean_square() {
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 1.0));
        assert_eq!(mean_and_deviation(&[]), (0.0, 0.0));
    }
}
