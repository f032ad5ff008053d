//! What a process does: operations, and when it waits.

use super::kernel::Kernel;
use gpu_sim::command::CopyDirection;
use gpu_sim::model::random::Random;

/// One submission to the driver.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// A kernel launch.
    Kernel(Kernel),
    /// The launch of a graph of these kernels, one after the other.
    Graph(Vec<Kernel>),
    /// A copy.
    Copy {
        /// Which way.
        direction: CopyDirection,
        /// How much.
        bytes: u64,
    },
    /// A host function, which returns at once; the stream goes on when it has.
    HostCall,
}

/// What one iteration submits.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// All of them, in order.
    Sequence(Vec<Operation>),
    /// One of them, at random.
    AnyOf(Vec<Operation>),
}

impl Work {
    /// The same kernel every time.
    pub fn kernel(kernel: Kernel) -> Self {
        Self::Sequence(vec![Operation::Kernel(kernel)])
    }

    /// `count` kernels whose durations are drawn once from a lognormal distribution and cut to `least..=most`.
    pub fn lognormal(
        count: usize,
        median_ns: u64,
        sigma: f64,
        durations_ns: std::ops::RangeInclusive<u64>,
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed);
        let mut kernel = || {
            let drawn_ns = (median_ns as f64 * random.lognormal(sigma)) as u64;
            Operation::Kernel(Kernel::of_ns(
                drawn_ns.clamp(*durations_ns.start(), *durations_ns.end()),
            ))
        };
        Self::AnyOf((0..count).map(|_| kernel()).collect())
    }

    /// How long the longest operation has the engine, alone, in ns; copies and host functions count as nothing.
    pub fn longest_ns(&self) -> u64 {
        let length_ns = |operation: &Operation| match operation {
            Operation::Kernel(kernel) => kernel.duration_ns,
            Operation::Graph(kernels) => kernels.iter().map(|kernel| kernel.duration_ns).sum(),
            Operation::Copy { .. } | Operation::HostCall => 0,
        };
        let lengths = self.operations().iter().map(length_ns);
        lengths.max().unwrap_or(0)
    }

    /// What it consists of.
    pub fn operations(&self) -> &[Operation] {
        match self {
            Self::Sequence(operations) | Self::AnyOf(operations) => operations,
        }
    }

    /// Indices of the operations of one iteration.
    pub fn draw(&self, random: &mut Random) -> std::ops::Range<usize> {
        match self {
            Self::Sequence(operations) => 0..operations.len(),
            Self::AnyOf(operations) => {
                let drawn = (random.unit() * operations.len() as f64).ceil() as usize;
                drawn.saturating_sub(1)..drawn
            }
        }
    }
}

/// When a program waits for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Never, but where the driver's queue is full.
    Async,
    /// After every so many iterations, for all of them.
    SyncEvery(u64),
    /// So that at most so many iterations are in flight.
    Window(u64),
    /// After each iteration, which is a request; they come at random and queue where they have to.
    Poisson {
        /// Mean time between two requests, in ns.
        mean_pause_ns: u64,
    },
}

/// Phases of work and rest, from the time when the process joins on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnOff {
    /// Work, in ns.
    pub on_ns: u64,
    /// Rest, in ns; it begins with a wait for what is in flight.
    pub off_ns: u64,
}

/// The program of one process: one thread and its streams.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// What an iteration submits.
    pub work: Work,
    /// When it waits.
    pub pace: Pace,
    /// Iterations go to so many streams in turn.
    pub streams: u32,
    /// Priority of the streams, as CUDA counts it: lower is more urgent.
    pub priority: i32,
    /// Time on the processor before each iteration, in ns.
    pub host_ns: u64,
    /// `None`: it always works.
    pub phases: Option<OnOff>,
    /// It ends after so many iterations.
    pub iterations_max: u64,
}

impl Program {
    /// One stream, no end.
    pub fn new(work: Work, pace: Pace) -> Self {
        Self {
            work,
            pace,
            streams: 1,
            priority: 0,
            host_ns: 0,
            phases: None,
            iterations_max: u64::MAX,
        }
    }

    /// One kernel after the other, as fast as the driver takes them.
    pub fn saturating(kernel_ns: u64) -> Self {
        Self::new(Work::kernel(Kernel::of_ns(kernel_ns)), Pace::Async)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_of_a_mix_is_drawn_about_as_often() {
        let work = Work::lognormal(5, 100_000, 1.0, 8_000..=2_500_000, 1);
        let mut random = Random::new(2);
        let mut counts = [0; 5];
        for _ in 0..10_000 {
            let drawn = work.draw(&mut random);
            assert_eq!(drawn.len(), 1);
            counts[drawn.start] += 1;
        }
        assert!(
            counts.iter().all(|count| (1_800..2_200).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_mix_keeps_to_its_bounds() {
        let work = Work::lognormal(100, 100_000, 3.0, 8_000..=2_500_000, 1);
        let durations = work.operations().iter().map(|operation| match operation {
            Operation::Kernel(kernel) => kernel.duration_ns,
            _ => 0,
        });
        let (least, most) = (durations.clone().min(), durations.max());
        assert_eq!((least, most), (Some(8_000), Some(2_500_000)));
    }
}
