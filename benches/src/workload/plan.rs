//! What one iteration does on one device: the workload's steps with grids and times.

use crate::file::{Copy, Direction, Kernel, Step, Workload};
use crate::network::Work;
use crate::roofline::{Attributes, Roofline};

/// Threads of a block of a network's kernels.
const NETWORK_BLOCK: u32 = 256;

/// Blocks and threads of a launch, along one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) grid: u32,
    pub(crate) block: u32,
}

/// One thing that the device is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Action {
    /// A kernel that is to take so long on a device of its own.
    Kernel { shape: Shape, wanted_ns: f64 },
    /// A copy between page-locked host memory and the device.
    Copy { direction: Direction, bytes: u64 },
    /// The host waits for all of the above.
    Synchronize,
}

/// One iteration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// Device memory that the workload holds while it is played, in bytes, without its copies' own.
    pub(crate) held_bytes: u64,
}

impl Plan {
    /// The plan of `workload` with `batch` items an iteration.
    pub(crate) fn new(workload: &Workload, batch: u32, device: &Attributes) -> Self {
        let roofline = Roofline::new(device, workload.file.roofline);
        let mut plan = Self {
            actions: Vec::new(),
            held_bytes: 0,
        };
        for step in &workload.file.steps {
            match step {
                Step::Kernel(kernel) => plan.add_kernel(kernel, batch, device, &roofline),
                Step::Copy(copy) => plan.actions.push(planned_copy(copy, batch)),
                Step::Synchronize(_) => plan.actions.push(Action::Synchronize),
                Step::Network(run) => {
                    let Some(network) = workload.network(run) else {
                        continue; // loading a workload loads the networks of its steps
                    };
                    let kernels = network.kernels(run.pass, batch.into());
                    plan.actions
                        .extend(kernels.iter().map(|work| network_kernel(work, &roofline)));
                    plan.held_bytes += network.held_bytes(run.pass, batch.into());
                }
            }
        }
        plan
    }

    fn add_kernel(
        &mut self,
        kernel: &Kernel,
        batch: u32,
        device: &Attributes,
        roofline: &Roofline,
    ) {
        let batch = f64::from(batch);
        let wanted_ns = kernel.duration_us.map_or_else(
            || {
                let flops = batch * kernel.flops_per_item.unwrap_or(0.0);
                let bytes = batch * kernel.bytes_per_item.unwrap_or(0.0)
                    + kernel.bytes_per_batch.unwrap_or(0.0);
                roofline.ns(flops, bytes)
            },
            |duration_us| duration_us * 1e3,
        );
        let shape = Shape {
            grid: kernel
                .grid
                .unwrap_or_else(|| device.blocks_held(kernel.block)),
            block: kernel.block,
        };
        let action = Action::Kernel { shape, wanted_ns };
        self.actions.extend((0..kernel.repeat).map(|_| action));
    }

    /// Kernels of an iteration.
    pub(crate) fn kernels(&self) -> impl Iterator<Item = (Shape, f64)> {
        self.actions.iter().filter_map(|action| match action {
            Action::Kernel { shape, wanted_ns } => Some((*shape, *wanted_ns)),
            _ => None,
        })
    }

    /// The largest copy in a direction, in bytes; 0 where there is none.
    pub(crate) fn copy_bytes_max(&self, wanted: Direction) -> u64 {
        let sizes = self.actions.iter().filter_map(|action| match action {
            Action::Copy { direction, bytes } if *direction == wanted => Some(*bytes),
            _ => None,
        });
        sizes.max().unwrap_or(0)
    }
}

fn planned_copy(copy: &Copy, batch: u32) -> Action {
    Action::Copy {
        direction: copy.direction,
        bytes: copy.bytes_per_batch + u64::from(batch) * copy.bytes_per_item,
    }
}

fn network_kernel(work: &Work, roofline: &Roofline) -> Action {
    let grid = work.blocks.clamp(1, i32::MAX as u64);
    Action::Kernel {
        shape: Shape {
            grid: u32::try_from(grid).unwrap_or(u32::MAX),
            block: NETWORK_BLOCK,
        },
        wanted_ns: roofline.ns(work.flops, work.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roofline::tests::T4;

    fn plan(name: &str, batch: u32) -> Plan {
        Plan::new(&Workload::load(name).unwrap(), batch, &T4)
    }

    fn ms(plan: &Plan) -> f64 {
        plan.kernels().map(|(_, ns)| ns).sum::<f64>() / 1e6
    }

    /// 4.09 G multiply-adds at half of 8.1 TFLOPS are 2.0 ms; what is bound by memory comes on top.
    #[test]
    fn an_image_through_resnet50_takes_its_arithmetic_and_some_memory() {
        let (one, sixteen) = (ms(&plan("resnet50", 1)), ms(&plan("resnet50", 16)));
        let arithmetic_ms = 2.0 * 4.089 / (T4.flops_per_s() * 0.5 / 1e12);
        assert!((1.0..1.6).contains(&(one / arithmetic_ms)), "{one} ms");
        assert!((12.0..16.0).contains(&(sixteen / one)), "{sixteen} ms");
    }

    /// 13.2 GB of weights at 80 % of 320 GB/s are 52 ms, and the rest is small.
    #[test]
    fn a_token_takes_the_time_in_which_memory_gives_up_the_weights() {
        let weights_ms = 2.0 * 6.607e9 / (0.8 * 320e9) * 1e3;
        let token = ms(&plan("llm-decode", 1));
        assert!((1.0..1.05).contains(&(token / weights_ms)), "{token} ms");
    }

    #[test]
    fn wanted_durations_are_planned_as_they_stand() {
        let storm = plan("tiny-kernels", 1);
        assert_eq!(storm.kernels().count(), 1000);
        assert!(
            storm
                .kernels()
                .all(|(shape, ns)| ns == 5_000.0 && shape.grid == 16)
        );
        let long: Vec<_> = plan("long-kernels", 1).kernels().collect();
        assert_eq!(
            long,
            [(
                Shape {
                    grid: 160,
                    block: 256
                },
                50e6
            )]
        );
        assert_eq!(ms(&plan("graph-2ms", 1)), 2.0);
    }

    #[test]
    fn copies_grow_with_the_batch() {
        let plan = plan("resnet50", 4);
        assert_eq!(
            plan.copy_bytes_max(Direction::ToDevice),
            4 * 3 * 224 * 224 * 4
        );
        assert_eq!(plan.copy_bytes_max(Direction::ToHost), 4 * 1000 * 4);
    }
}
