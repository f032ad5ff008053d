//! Tenants, a host and a controller on [`gpu_sim::model`], in virtual time.
//!
//! ```text
//! scenario ──▶ run ──▶ report          a policy makes a controller for each process
//!   programs     │ launches, ends as the host sees them, NVML's samples ──▶ controller
//!                └ busy time, read from the model ──▶ report
//! ```
//!
//! A [`Controller`] stands where an interposer stands and sees no more than one does. What is true – who had the engine for
//! how long – goes from the model to the [`Report`] alone. The same scenario and seed give the same run, bit for bit.

mod controller;
pub mod controllers;
mod host;
mod kernel;
mod nvml;
mod process;
mod program;
mod report;
mod run;
mod scenario;
mod thread;

pub use controller::{
    Admission, Controller, Ended, EventTiming, Launch, LaunchId, Policy, Seat, Tick, View, Watch,
};
pub use host::HostTiming;
pub use kernel::Kernel;
pub use nvml::Aggregation;
pub use program::{OnOff, Operation, Pace, Program, Work};
pub use report::{LaunchRecord, ProcessReport, Report, Window, quantile};
pub use run::run;
pub use scenario::{Change, Container, ProcessPlan, Scenario, SyncWait};
