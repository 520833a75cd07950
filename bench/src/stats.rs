//! Medians and quantiles.

/// The value that a share `q` of the others does not exceed. `sorted` is not empty.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (q * sorted.len() as f64).floor() as usize;
    sorted[at.min(sorted.len() - 1)]
}

/// Median and 99th percentile of unsorted values; `None` when there are none.
pub fn p50_p99(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    (!values.is_empty()).then(|| (quantile(&values, 0.5), quantile(&values, 0.99)))
}

/// Median, smallest and largest; `None` when there are none.
pub fn spread(values: impl Iterator<Item = f64>) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    Some((quantile(&values, 0.5), min, max))
}

/// Milliseconds of a duration.
pub fn ms(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
