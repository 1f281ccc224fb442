//! Latencies, counted by size: 64 classes for each power of two, so that any quantile is right to 1.6%.

use std::time::Duration;

/// Classes for each power of two.
const CLASSES: u64 = 64;

/// How often each latency was seen, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Grown to the greatest latency seen: at most 60 powers of two.
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// Counts one latency.
    pub(super) fn record(&mut self, latency_ns: u64) {
        let class = class_of(latency_ns);
        if class >= self.counts.len() {
            self.counts.resize(class + 1, 0);
        }
        self.counts[class] += 1;
        self.total += 1;
    }

    /// The latency that this share of the messages did not exceed.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        let mut seen = 0;
        for (class, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen > 0 && seen as f64 >= share * self.total as f64 {
                return Some(Duration::from_nanos(upper_end(class as u64)));
            }
        }
        None
    }
}

/// Values up to 127 have classes of their own; above, the six bits after the leading one name the class.
fn class_of(value: u64) -> usize {
    let shift = (value | CLASSES).ilog2() - CLASSES.ilog2();
    let class = u64::from(shift) * CLASSES + (value >> shift);
    usize::try_from(class).unwrap_or(usize::MAX)
}

/// The greatest value of a class.
fn upper_end(class: u64) -> u64 {
    let shift = (class / CLASSES).saturating_sub(1);
    let value = class - shift * CLASSES;
    (value << shift) | ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_meet_and_are_narrow() {
        let mut last_class = 0;
        for value in (0..200_000).chain([1 << 40, (1 << 40) + 1, u64::MAX >> 1]) {
            let class = class_of(value);
            assert!(class == last_class || class == last_class + 1 || value >= 200_000, "{value}");
            let upper = upper_end(class as u64);
            assert!(upper >= value && upper - value <= value / CLASSES, "{value} {upper}");
            last_class = class;
        }
    }

    #[test]
    fn quantiles_of_a_known_row() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for latency_ns in 1..=1000 {
            histogram.record(latency_ns * 1000);
        }
        for (share, expected_us) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            let quantile_us = histogram.quantile(share).unwrap().as_secs_f64() * 1e6;
            assert!((quantile_us / expected_us - 1.0).abs() < 0.016, "{share}: {quantile_us}");
        }
    }
}
