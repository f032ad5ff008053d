//! A/B ratios in one run.
