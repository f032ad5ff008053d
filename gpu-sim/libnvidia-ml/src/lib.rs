//! `libnvidia-ml.so.1` in front of the simulated GPU.
//!
//! Identity comes from the machine's profile; memory, processes and utilization are read from the simulated device;
//! temperature, power and clocks are constants of the profile, or follow from the utilization. What is not simulated answers
//! `NVML_ERROR_NOT_SUPPORTED`, and says so once in the log.
#![allow(
    unsafe_code,
    reason = "the C boundary of a library whose interface is C"
)]
#![allow(
    non_snake_case,
    reason = "functions, arguments and fields are spelled as in nvml.h"
)]

mod accounting;
mod clocks;
mod door;
mod ecc;
mod fields;
mod identity;
mod links;
mod log;
mod memory;
mod mig;
mod processes;
mod samples;
mod sensors;
mod session;
mod system;
mod unsimulated;
mod utilization;
