//! Whole programs in three worlds, bare, transparent and limited, on the simulated driver and on a real one.
//!
//! The programs are C (`programs/`), written against `programs/cuda_doors.h` and compiled when a test first asks for
//! them. A [`Machine`] is one simulated machine with folders of its own; a [`World`] says what stands between a program
//! and that machine's driver. Truth comes from the machine ([`Machine::truth`]), never from the limiter.
//!
//! A harness fails as its tests do: by panicking with what it saw.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test harness: its failures are the tests' failures"
)]

pub mod accounts;
pub mod agent;
pub mod books;
pub mod build;
pub mod calls;
pub mod child;
pub mod coverage;
pub mod fuzz;
pub mod ledger;
pub mod machine;
pub mod nobody;
pub mod player;
pub mod random;
pub mod real;
pub mod tenant;
pub mod trace;
pub mod world;

pub use books::Books;
pub use build::{Door, artefacts, program, shared_object};
pub use child::Outcome;
pub use machine::{Machine, two_gpus};
pub use tenant::Tenant;
pub use trace::Trace;
pub use world::World;

/// A mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;
