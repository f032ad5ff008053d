//! What judges the limiter: an evaluator that runs tenants and controllers on the simulated GPU in virtual time.

pub mod evaluator;
