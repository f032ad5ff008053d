//! The model's parameters of time. Each default is fixed before any algorithm is judged on it.
//!
//! Sources: `[src]` read in NVIDIA's open kernel modules 595.45.04 or a peer's source, `[iss]`
//! measured by third parties in public issues, `[pub]` published, `[est]` our estimate.

use serde::Deserialize;

/// How long things take. All times are in nanoseconds of the simulated timeline.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// Longest time for which one context holds the compute engine while another wants it.
    /// Default 2 ms; sweep 0.3–5 ms. RM's default is 1.024 ms `[src]`, nvshare reports "a few
    /// ms" `[pub]`, LithOS "a few hundred µs" `[pub]`.
    pub slice_ns: u64,
    /// Switch that interrupts a kernel. Default 60 µs; sweep 20–200 µs. XSched saw 32 µs, GPreempt
    /// < 40 µs `[pub]`.
    pub switch_preemptive_ns: u64,
    /// Switch of an engine that had run empty. Default 20 µs; sweep 5–60 µs `[est]`.
    pub switch_voluntary_ns: u64,
    /// From the call of a launch to the moment its command can start. Default 4 µs; 2–10 µs
    /// `[est]`; whole launches of 3–5 µs were reported `[iss]`.
    pub launch_latency_ns: u64,
    /// Fixed part of a copy between host and device. Default 8 µs `[est]`.
    pub copy_latency_ns: u64,
    /// Fixed part of a memset or of a copy inside the device. Default 2 µs `[est]`.
    pub memset_latency_ns: u64,
    /// Fixed part of a graph launch. Default 3 µs; 2–10 µs `[est]`.
    pub graph_launch_ns: u64,
    /// Part of a graph launch that each node adds. Default 10 ns `[est]`.
    pub graph_launch_per_node_ns: u64,
    /// Between the end of a graph node and the start of one that depends on it. Default 1 µs `[est]`.
    pub graph_node_gap_ns: u64,
    /// Fixed part of a kernel's time: filling and draining the SMs. Default 1.5 µs; 1–3 µs `[est]`.
    pub kernel_fixed_ns: u64,
    /// Cycles between two instructions of one warp when it has the SM to itself. Default 6; 4 is the
    /// latency of dependent arithmetic since Volta (Jia et al., "Dissecting the NVIDIA Volta GPU
    /// architecture via microbenchmarking", 2018), the rest is an allowance for memory `[est]`.
    pub instruction_latency_cycles: f64,
    /// Spread of a kernel's duration: σ of the logarithm. Default 0.03; sweep 0–0.3 `[est]`.
    pub kernel_sigma: f64,
    /// Kernels of one context that can be resident at once. Default 128, the figure of the CUDA
    /// programming guide for most compute capabilities `[pub]`.
    pub kernels_resident_max: u32,
    /// From the death of a process to the moment its queue and memory are gone. Default 10 ms;
    /// 10–100 ms `[est]`.
    pub teardown_ns: u64,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            slice_ns: 2_000_000,
            switch_preemptive_ns: 60_000,
            switch_voluntary_ns: 20_000,
            launch_latency_ns: 4_000,
            copy_latency_ns: 8_000,
            memset_latency_ns: 2_000,
            graph_launch_ns: 3_000,
            graph_launch_per_node_ns: 10,
            graph_node_gap_ns: 1_000,
            kernel_fixed_ns: 1_500,
            instruction_latency_cycles: 6.0,
            kernel_sigma: 0.03,
            kernels_resident_max: 128,
            teardown_ns: 10_000_000,
            seed: 1,
        }
    }
}
