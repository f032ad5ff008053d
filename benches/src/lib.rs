//! What judges the limiter: an evaluator that runs tenants and controllers on the simulated GPU in virtual time.

pub mod acceptance;
pub mod evaluation;
pub mod evaluator;
pub mod table;
