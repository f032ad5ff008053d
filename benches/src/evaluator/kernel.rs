//! Kernels by what they take.

use gpu_sim::command::KernelCost;
use gpu_sim::model::kernel_ns;
use gpu_sim::profile::MachineProfile;

/// Threads of every block here.
const BLOCK_THREADS: u32 = 256;

/// A kernel as a scenario says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// How long it has the engine, alone and at the nominal clock, in ns.
    pub duration_ns: u64,
    /// Blocks of its grid, of 256 threads each.
    pub blocks: u32,
}

impl Kernel {
    /// A kernel of 1024 blocks.
    pub fn of_ns(duration_ns: u64) -> Self {
        Self {
            duration_ns,
            blocks: 1_024,
        }
    }

    /// What the model has to be told for the first device of `machine` to take that long.
    pub fn cost(&self, machine: &MachineProfile) -> KernelCost {
        const PROBE: u64 = 1_000_000;
        let cost = |instructions_per_thread| KernelCost {
            grid: [self.blocks, 1, 1],
            block: [BLOCK_THREADS, 1, 1],
            shared_bytes: 0,
            registers_per_thread: 32,
            instructions_per_thread,
        };
        let takes_ns = |instructions| {
            let device = &machine.devices[0];
            kernel_ns(device, &machine.timing, &cost(instructions))
        };
        let fixed_ns = takes_ns(0);
        let slope = (takes_ns(PROBE) - fixed_ns) as f64 / PROBE as f64;
        let instructions = self.duration_ns.saturating_sub(fixed_ns) as f64 / slope;
        cost(instructions.round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_takes_what_it_says_on_every_device_and_of_any_size() {
        for name in ["t4", "h100"] {
            let machine = MachineProfile::load(name).unwrap();
            for duration_ns in [5_000, 100_000, 1_250_000, 200_000_000] {
                for blocks in [1, 40, 1_024, 100_000] {
                    let kernel = Kernel {
                        duration_ns,
                        blocks,
                    };
                    let takes_ns =
                        kernel_ns(&machine.devices[0], &machine.timing, &kernel.cost(&machine));
                    let one_instruction_ns = 8 * (1 + u64::from(blocks) / 160);
                    let allowed_ns = one_instruction_ns + duration_ns / 1_000_000;
                    assert!(
                        takes_ns.abs_diff(duration_ns) <= allowed_ns,
                        "{name}: {kernel:?} takes {takes_ns}"
                    );
                }
            }
        }
    }
}
