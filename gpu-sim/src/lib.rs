//! A simulated NVIDIA GPU shared by the processes of one machine.
//!
//! [`client`] is what a process uses; `gpu-sim-device` is the process that owns the machine's memory
//! and timeline. Kernels take modelled time and compute nothing.

pub mod client;
pub mod clock;
pub mod command;
pub mod device;
pub mod folder;
pub mod model;
mod own_path;
pub mod parameters;
mod peer_pid;
pub mod profile;
pub mod shared;
pub mod wire;
