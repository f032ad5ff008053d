//! Quotas and shares of a container: config, ledger, bucket, prices; knows nothing of CUDA.
//!
//! * what is limited: [`config`], in [`units`];
//! * memory: [`ledger`], one shared file per container, one slot per process; [`lending`], what is beyond a container's guarantee;
//!   [`context`] says what a context takes;
//! * GPU time: [`share`] asks [`price`] what a launch costs, [`bucket`] whether the cap lets it go, and, below the cap,
//!   `board::turns` whose turn it is and `window` how much may be outstanding; [`timing`] says what it took, [`board`] who
//!   else was busy meanwhile;
//! * what others read: [`sample`], held against what the driver lists by [`explain`]; what they change: [`control`];
//!   what a rewritten config file changes: [`follow`]; what the dead left and nobody asked for: [`reap`].
//!
//! Time is always an argument: [`clock::monotonic`] is the one function here that reads a clock.
//! `unsafe` stands in [`shm`] alone.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::as_conversions
    )
)]

pub mod board;
pub mod bucket;
pub mod clock;
pub mod config;
pub mod context;
pub mod control;
pub mod explain;
pub mod follow;
pub mod ledger;
pub mod lending;
mod limit;
pub mod overlap;
pub mod price;
mod queue;
pub mod reap;
mod refusals;
pub mod sample;
pub mod share;
pub mod shm;
mod slot;
mod sync;
mod text;
pub mod timing;
pub mod units;
mod window;
