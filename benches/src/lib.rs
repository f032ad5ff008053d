//! What judges the limiter: an evaluator that runs tenants and controllers on the simulated GPU in virtual time. And what several of the
//! programs print: tables and plots.

pub mod acceptance;
pub mod driver;
pub mod evaluation;
pub mod evaluator;
pub mod plots;
pub mod ptx;
pub mod table;
