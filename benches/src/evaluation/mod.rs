//! The evaluation of the SM share: declared scenarios, the figures that are asked of them, and what is wanted of each.
//!
//! ```text
//! matrix ─ case ─┐
//! settings ──────┼─▶ judge ─▶ figures ─▶ verdicts
//! variants ──────┘   (runs)
//! ```
//!
//! The scenarios, the model's parameters and the wanted figures were fixed before the limiter was judged by them. Seeds and board are not
//! those on which its constants were chosen.

mod case;
mod figures;
mod matrix;
mod plan;
mod row;
mod settings;
mod variant;

pub use case::{Axis, Case, Judgement, Wanted};
pub use figures::{Figure, Judged, Play, judge, judge_by};
pub use matrix::matrix;
pub use plan::{Job, Outcome, Part, jobs, only, run_jobs};
pub use row::Row;
pub use settings::{SETTINGS, Setting};
pub use variant::Variant;

/// The board of the evaluation. The limiter's constants were chosen on another.
pub const PROFILE: &str = "h100";

/// The first seed. The limiter's constants were chosen on seeds from 1 on.
pub const SEED_FIRST: u64 = 101;
