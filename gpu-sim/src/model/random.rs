//! Random numbers that are the same for the same seed.

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in (0, 1].
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in (1 - `part`, 1 + `part`].
    pub(super) fn around_one(&mut self, part: f64) -> f64 {
        1.0 + part * (2.0 * self.unit() - 1.0)
    }

    /// exp(σ·N(0, 1)): median 1. The normal variate is Box and Muller's.
    pub fn lognormal(&mut self, sigma: f64) -> f64 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        let angle = std::f64::consts::TAU * self.unit();
        (sigma * radius * angle.cos()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lognormal_factor_has_median_one_and_the_spread_asked_for() {
        let mut random = Random::new(7);
        let logs: Vec<f64> = (0..20_000).map(|_| random.lognormal(0.1).ln()).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / logs.len() as f64;
        assert!(mean.abs() < 0.003, "mean {mean}");
        assert!(
            (variance.sqrt() - 0.1).abs() < 0.003,
            "sigma {}",
            variance.sqrt()
        );
    }
}
