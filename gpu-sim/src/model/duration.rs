//! How long work takes when nothing disturbs it.
//!
//! A kernel's blocks run in waves. An SM holds `occupancy` blocks, so a wave is `SMs × occupancy` blocks,
//! and an SM with `w` resident warps takes, for `i` instructions a thread,
//!
//! ```text
//! cycles = i × max(w / warp_instructions_per_cycle, instruction_latency_cycles)
//! time   = kernel_fixed_ns + Σ over waves of cycles / clock
//! ```
//!
//! The first term is the issue limit of a full SM, the second the latency limit of an empty one. The model
//! multiplies the sum by a lognormal factor.

use crate::command::{CopyDirection, KernelCost};
use crate::parameters::Timing;
use crate::profile::Profile;

/// Threads of a warp.
const WARP: u64 = 32;

/// Registers are given to a warp in units of this many (CUDA occupancy calculator, cc 3.0 and newer).
const REGISTER_UNIT: u64 = 256;

/// The whole engine, in parts.
pub(super) const WHOLE: u32 = 1_000_000;

/// What a piece of work takes on the compute engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Time with the engine, in ns.
    pub(super) duration_ns: u64,
    /// Part of the engine that it fills, in millionths; kernels that fit together run together.
    pub(super) share: u32,
}

/// Blocks of this kernel that one SM can hold. At least 1: a launch that fits nowhere is the driver's
/// business to refuse.
fn occupancy(device: &Profile, kernel: &KernelCost) -> u64 {
    let warps = warps_per_block(kernel);
    let registers = (u64::from(kernel.registers_per_thread.max(1)) * WARP)
        .next_multiple_of(REGISTER_UNIT)
        .saturating_mul(warps);
    let by_threads = u64::from(device.threads_per_sm_max) / (warps * WARP);
    let by_registers = u64::from(device.registers_per_sm) / registers;
    let by_shared = u64::from(device.shared_bytes_per_sm) / u64::from(kernel.shared_bytes.max(1));
    let by_slots = u64::from(device.blocks_per_sm_max);
    by_threads
        .min(by_registers)
        .min(by_shared)
        .min(by_slots)
        .max(1)
}

fn warps_per_block(kernel: &KernelCost) -> u64 {
    volume(kernel.block).div_ceil(WARP)
}

/// Blocks of a grid or threads of a block; at least 1.
fn volume(dimensions: [u32; 3]) -> u64 {
    dimensions.iter().fold(1, |volume: u64, &size| {
        volume.saturating_mul(u64::from(size.max(1)))
    })
}

/// What a kernel takes on so many SMs, whatever their clock.
#[derive(Clone, Copy, Debug)]
struct Shape {
    cycles: f64,
    share: u32,
}

impl Shape {
    /// What it takes at this clock, in MHz.
    fn load(self, timing: &Timing, sm_clock_mhz: f64) -> Load {
        let ns = self.cycles * 1_000.0 / sm_clock_mhz;
        Load {
            duration_ns: timing.kernel_fixed_ns.saturating_add(ns as u64),
            share: self.share,
        }
    }
}

/// What kernels take on one device. The last is remembered: most come many times over.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernels {
    last: Option<(KernelCost, u32, Shape)>,
}

impl Kernels {
    /// What a kernel takes on so many SMs at this clock, in MHz.
    pub(super) fn load(
        &mut self,
        device: &Profile,
        timing: &Timing,
        (sms, sm_clock_mhz): (u32, f64),
        cost: &KernelCost,
    ) -> Load {
        let last = self.last.filter(|last| last.0 == *cost && last.1 == sms);
        let shape = last.map_or_else(|| shape(device, timing, sms, cost), |last| last.2);
        self.last = Some((*cost, sms, shape));
        shape.load(timing, sm_clock_mhz)
    }
}

fn shape(device: &Profile, timing: &Timing, sms: u32, kernel: &KernelCost) -> Shape {
    let blocks = volume(kernel.grid);
    let sms = u64::from(sms.max(1));
    let occupancy = occupancy(device, kernel);
    let wave = sms * occupancy;
    let full_waves = blocks / wave;
    let rest = blocks % wave;
    let cycles = |blocks_per_sm: u64| {
        let warps = (blocks_per_sm * warps_per_block(kernel)) as f64;
        let issue_limit = warps / f64::from(device.warp_instructions_per_cycle);
        kernel.instructions_per_thread as f64 * issue_limit.max(timing.instruction_latency_cycles)
    };
    let rest_cycles = if rest == 0 {
        0.0
    } else {
        cycles(rest.div_ceil(sms))
    };
    let part = u64::from(WHOLE) * sms / u64::from(device.sm_count);
    let share = if full_waves > 0 {
        part as u32
    } else {
        (rest * part).div_ceil(wave) as u32
    };
    Shape {
        cycles: full_waves as f64 * cycles(occupancy) + rest_cycles,
        share,
    }
}

/// How long a kernel takes on a device of its own at its nominal clock, without spread, in ns.
pub fn kernel_ns(device: &Profile, timing: &Timing, cost: &KernelCost) -> u64 {
    let shape = shape(device, timing, device.sm_count, cost);
    shape
        .load(timing, f64::from(device.sm_clock_mhz))
        .duration_ns
}

/// What filling, or with `twice` copying, device memory takes.
pub(super) fn in_memory(device: &Profile, timing: &Timing, bytes: u64, twice: bool) -> Load {
    let moved = if twice {
        bytes.saturating_mul(2)
    } else {
        bytes
    };
    let duration_ns = timing
        .memset_latency_ns
        .saturating_add(transfer_ns(moved, device.memory_bandwidth_bytes_per_s));
    Load {
        duration_ns,
        share: WHOLE,
    }
}

/// How long a copy engine takes for a copy between host and device, in ns.
pub(super) fn over_bus(
    device: &Profile,
    timing: &Timing,
    direction: CopyDirection,
    bytes: u64,
) -> u64 {
    let bytes_per_s = match direction {
        CopyDirection::PageableToDevice | CopyDirection::DeviceToPageable => {
            device.pageable_bytes_per_s
        }
        _ => device.pcie_bytes_per_s,
    };
    timing
        .copy_latency_ns
        .saturating_add(transfer_ns(bytes, bytes_per_s))
}

fn transfer_ns(bytes: u64, bytes_per_s: u64) -> u64 {
    (u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::MachineProfile;

    fn t4() -> MachineProfile {
        MachineProfile::load("t4").unwrap()
    }

    fn cost(grid: u32, block: u32) -> KernelCost {
        KernelCost {
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            shared_bytes: 0,
            registers_per_thread: 32,
            instructions_per_thread: 1_000_000,
        }
    }

    fn load(machine: &MachineProfile, cost: &KernelCost) -> Load {
        load_on(machine, 40, cost)
    }

    fn load_on(machine: &MachineProfile, sms: u32, cost: &KernelCost) -> Load {
        let (device, timing) = (&machine.devices[0], &machine.timing);
        Kernels::default().load(device, timing, (sms, 1_590.0), cost)
    }

    fn waves(grid: u32) -> u64 {
        let machine = t4();
        load(&machine, &cost(grid, 256)).duration_ns - machine.timing.kernel_fixed_ns
    }

    #[test]
    fn two_waves_take_twice_as_long_as_one() {
        assert!(waves(320).abs_diff(waves(160) * 2) <= 1); // 40 SMs × 4 blocks of 256 threads
        assert!(waves(161) > waves(160) && waves(161) < waves(320));
    }

    #[test]
    fn a_full_wave_is_limited_by_issue_and_a_lone_warp_by_latency() {
        let machine = t4();
        // 32 warps / 4 schedulers = 8 cycles an instruction at 1590 MHz.
        assert_eq!(waves(160), 1_000_000 * 8 * 1_000 / 1_590);
        let lone = load(&machine, &cost(1, 32));
        let latency = machine.timing.instruction_latency_cycles * 1e9 / 1_590.0;
        assert!(
            lone.duration_ns
                .abs_diff(latency as u64 + machine.timing.kernel_fixed_ns)
                <= 1
        );
    }

    #[test]
    fn occupancy_is_the_scarcest_of_threads_registers_shared_memory_and_slots() {
        let device = &t4().devices[0];
        let base = cost(1, 64);
        assert_eq!(occupancy(device, &base), 16); // slots
        assert_eq!(occupancy(device, &cost(1, 256)), 4); // threads
        assert_eq!(
            occupancy(
                device,
                &KernelCost {
                    registers_per_thread: 255,
                    ..base
                }
            ),
            4
        );
        assert_eq!(
            occupancy(
                device,
                &KernelCost {
                    shared_bytes: 30_000,
                    ..base
                }
            ),
            2
        );
        assert_eq!(
            occupancy(
                device,
                &KernelCost {
                    shared_bytes: 1 << 30,
                    ..base
                }
            ),
            1
        );
    }

    #[test]
    fn a_kernel_of_half_a_wave_leaves_half_of_the_engine() {
        let machine = t4();
        assert_eq!(load(&machine, &cost(80, 256)).share, WHOLE / 2);
    }

    #[test]
    fn on_a_quarter_of_the_sms_a_full_kernel_takes_four_times_as_long_and_leaves_the_rest() {
        let machine = t4();
        let (whole, part) = (cost(160, 256), load_on(&machine, 10, &cost(160, 256)));
        let fixed_ns = machine.timing.kernel_fixed_ns;
        let whole_ns = load(&machine, &whole).duration_ns - fixed_ns;
        assert!(part.duration_ns.abs_diff(4 * whole_ns + fixed_ns) <= 4);
        assert_eq!(part.share, WHOLE / 4);
        assert_eq!(load_on(&machine, 10, &cost(20, 256)).share, WHOLE / 8);
    }

    #[test]
    fn a_kernel_takes_the_same_whatever_came_before_it() {
        let machine = t4();
        let (device, timing) = (&machine.devices[0], &machine.timing);
        let mut kernels = Kernels::default();
        for (grid, sms) in [(160, 40), (160, 10), (80, 10), (160, 40), (160, 40)] {
            let taken = kernels.load(device, timing, (sms, 1_590.0), &cost(grid, 256));
            assert_eq!(taken, load_on(&machine, sms, &cost(grid, 256)));
        }
        let slow = kernels.load(device, timing, (40, 795.0), &cost(160, 256));
        assert!(slow.duration_ns > load(&machine, &cost(160, 256)).duration_ns);
    }

    #[test]
    fn absurd_sizes_saturate() {
        let machine = t4();
        let huge = KernelCost {
            grid: [u32::MAX; 3],
            block: [1024, 1, 1],
            instructions_per_thread: u64::MAX,
            ..cost(1, 1)
        };
        assert_eq!(load(&machine, &huge).share, WHOLE);
    }
}
