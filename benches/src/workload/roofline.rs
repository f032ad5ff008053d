//! How long work takes on a device, by the roofline: the longer of its arithmetic and its memory traffic
//! (Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009).

use crate::file::Efficiency;

/// What a device says of itself through its driver attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// `MULTIPROCESSOR_COUNT`
    pub(crate) sm_count: u32,
    /// `MAX_THREADS_PER_MULTIPROCESSOR`
    pub(crate) threads_per_sm_max: u32,
    /// `MAX_BLOCKS_PER_MULTIPROCESSOR`
    pub(crate) blocks_per_sm_max: u32,
    /// `CLOCK_RATE`: the SMs' peak clock, in kHz.
    pub(crate) sm_clock_khz: u32,
    /// `MEMORY_CLOCK_RATE`: peak, in kHz.
    pub(crate) memory_clock_khz: u32,
    /// `GLOBAL_MEMORY_BUS_WIDTH`, in bits.
    pub(crate) memory_bus_bits: u32,
    /// `COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
    pub(crate) compute_capability: (u32, u32),
}

impl Attributes {
    /// Peak of FP32 arithmetic, in operations a second: a multiply-add, which is two, in each lane and cycle.
    pub(crate) fn flops_per_s(&self) -> f64 {
        let lanes = u64::from(self.sm_count) * u64::from(fp32_lanes(self.compute_capability));
        2.0 * lanes as f64 * f64::from(self.sm_clock_khz) * 1e3
    }

    /// Peak data rate of the device memory, in bytes a second: two transfers a clock cycle, as every memory does whose
    /// clock the attribute gives (CUDA C++ Best Practices Guide, "Theoretical Bandwidth Calculation").
    pub(crate) fn bytes_per_s(&self) -> f64 {
        2.0 * f64::from(self.memory_clock_khz) * 1e3 * f64::from(self.memory_bus_bits) / 8.0
    }

    /// Blocks of `threads` threads that the device holds at once when nothing but threads and slots limits them.
    pub(crate) fn blocks_held(&self, threads: u32) -> u32 {
        let per_sm = self.threads_per_sm_max / threads.next_multiple_of(32);
        self.sm_count * per_sm.clamp(1, self.blocks_per_sm_max.max(1))
    }
}

/// FP32 multiply-adds that one SM does in a cycle: CUDA C++ Programming Guide, "Arithmetic Instructions", the table of
/// throughput by compute capability. Newer ones than are known here are taken as the newest that is.
fn fp32_lanes(compute_capability: (u32, u32)) -> u32 {
    match compute_capability {
        (6, 0) | (7, _) | (8, 0) => 64,
        _ => 128,
    }
}

/// The roof over a workload's kernels: a device's peaks, as far as the workload reaches them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roofline {
    flops_per_s: f64,
    bytes_per_s: f64,
}

impl Roofline {
    pub(crate) fn new(device: &Attributes, efficiency: Efficiency) -> Self {
        Self {
            flops_per_s: device.flops_per_s() * efficiency.arithmetic_efficiency,
            bytes_per_s: device.bytes_per_s() * efficiency.bandwidth_efficiency,
        }
    }

    /// How long work takes, in ns.
    pub(crate) fn ns(&self, flops: f64, bytes: f64) -> f64 {
        (flops / self.flops_per_s).max(bytes / self.bytes_per_s) * 1e9
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// As the simulated T4 answers, which is as the board's data sheet says.
    pub(crate) const T4: Attributes = Attributes {
        sm_count: 40,
        threads_per_sm_max: 1024,
        blocks_per_sm_max: 16,
        sm_clock_khz: 1_590_000,
        memory_clock_khz: 5_001_000,
        memory_bus_bits: 256,
        compute_capability: (7, 5),
    };

    const H100: Attributes = Attributes {
        sm_count: 132,
        threads_per_sm_max: 2048,
        blocks_per_sm_max: 32,
        sm_clock_khz: 1_980_000,
        memory_clock_khz: 2_619_000,
        memory_bus_bits: 5120,
        compute_capability: (9, 0),
    };

    /// NVIDIA T4 and H100 SXM data sheets: 8.1 and 67 TFLOPS of FP32, 320 GB/s and 3.35 TB/s.
    #[test]
    fn the_peaks_are_those_of_the_data_sheets() {
        let near = |value: f64, published: f64| (value / published - 1.0).abs() < 0.01;
        assert!(near(T4.flops_per_s(), 8.1e12), "{}", T4.flops_per_s());
        assert!(near(H100.flops_per_s(), 67e12), "{}", H100.flops_per_s());
        assert!(near(T4.bytes_per_s(), 320e9), "{}", T4.bytes_per_s());
        assert!(near(H100.bytes_per_s(), 3.35e12), "{}", H100.bytes_per_s());
    }

    #[test]
    fn a_kernel_takes_the_longer_of_arithmetic_and_memory() {
        let half = Efficiency {
            arithmetic_efficiency: 0.5,
            bandwidth_efficiency: 0.25,
        };
        let roofline = Roofline::new(&T4, half);
        let (flops, bytes) = (T4.flops_per_s(), T4.bytes_per_s());
        assert_eq!(roofline.ns(flops, 0.0), 2e9);
        assert_eq!(roofline.ns(flops, bytes), 4e9);
        assert_eq!(roofline.ns(flops, bytes / 4.0), 2e9);
    }

    #[test]
    fn a_device_is_full_by_threads_or_by_slots() {
        assert_eq!(T4.blocks_held(256), 40 * 4);
        assert_eq!(T4.blocks_held(32), 40 * 16);
        assert_eq!(T4.blocks_held(1024), 40);
        assert_eq!(T4.blocks_held(97), 40 * 8); // four warps
    }
}
