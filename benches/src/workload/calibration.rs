//! How many instructions make a kernel of a wanted duration: measured, on the device, for each shape of launch.
//!
//! A kernel of a given shape takes `fixed + instructions × slope`. Both are measured with events between kernels:
//! `fixed` from kernels without a loop, `slope` from kernels of about [`KERNEL_NS`]. The stream is held until all of them
//! are queued, so that the device runs them back to back however slow the host is, or a limiter makes it. What still
//! disturbs them, another process's time slice, does so to fewer than half of groups that are short beside a slice; so
//! the median counts. The player can therefore calibrate beside busy neighbours.

use std::collections::{BTreeMap, BTreeSet};

use benches::ptx;

use crate::cuda::{Event, Function, Gpu};
use crate::failure::Failure;
use crate::plan::Shape;

/// What one measurement times: groups of kernels, with an event before and behind each group.
#[derive(Clone, Copy)]
struct Sampling {
    groups: usize,
    kernels_per_group: u32,
}

/// Of empty kernels, in groups far longer than the 0.5 µs in which events tell the time (`cuEventElapsedTime`).
const EMPTY: Sampling = Sampling {
    groups: 8,
    kernels_per_group: 32,
};
/// Of the kernel that decides about the size of those that are measured.
const PROBE: Sampling = Sampling {
    groups: 3,
    kernels_per_group: 1,
};
/// Of kernels of about [`KERNEL_NS`]: with a spread of 3 % a kernel, the median is good to 0.4 %.
const LONG: Sampling = Sampling {
    groups: 24,
    kernels_per_group: 4,
};
/// About how long a measured kernel is to be, in ns: far longer than an empty one, and four of them far shorter than a
/// time slice.
const KERNEL_NS: f64 = 25_000.0;
/// Instructions of the probed kernel.
const PROBE_INSTRUCTIONS: u64 = 16 * ptx::TRIP_INSTRUCTIONS;
/// Sizes of measured kernels: from one trip, each twice the one before.
const LADDER_RUNGS: u32 = 15;

/// Time of kernels of one shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    fixed_ns: f64,
    ns_per_instruction: f64,
}

impl Line {
    pub(crate) fn through(fixed_ns: f64, instructions: u64, took_ns: f64) -> Option<Self> {
        let ns_per_instruction = (took_ns - fixed_ns) / instructions as f64;
        (ns_per_instruction > 0.0).then_some(Self {
            fixed_ns,
            ns_per_instruction,
        })
    }

    /// Instructions of the kernel that comes closest to a time; none where an empty kernel takes longer already.
    pub(crate) fn instructions(&self, wanted_ns: f64) -> u64 {
        ((wanted_ns - self.fixed_ns) / self.ns_per_instruction)
            .round()
            .max(0.0) as u64
    }

    /// What that kernel takes, in ns.
    pub(crate) fn ns(&self, instructions: u64) -> f64 {
        self.fixed_ns + instructions as f64 * self.ns_per_instruction
    }
}

/// Measures each shape on the device, which takes some milliseconds of GPU time a shape.
pub(crate) fn calibrate(
    gpu: &Gpu,
    shapes: &BTreeSet<Shape>,
) -> Result<BTreeMap<Shape, Line>, Failure> {
    let bench = Bench::new(gpu)?;
    let lines = shapes.iter().map(|shape| Ok((*shape, bench.line(*shape)?)));
    lines.collect()
}

/// The kernels and events of a calibration.
struct Bench<'a> {
    gpu: &'a Gpu,
    /// By their instructions.
    kernels: BTreeMap<u64, Function>,
    events: Vec<Event>,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu) -> Result<Self, Failure> {
        let sizes: BTreeSet<u64> = ladder().chain([0, PROBE_INSTRUCTIONS]).collect();
        let module = gpu.load(ptx::module(&sizes))?;
        let kernels = sizes.iter().map(|size| {
            let function = gpu.function(&module, &ptx::kernel_name(*size))?;
            Ok((*size, function))
        });
        Ok(Self {
            gpu,
            kernels: kernels.collect::<Result<_, Failure>>()?,
            events: (0..=LONG.groups)
                .map(|_| gpu.event())
                .collect::<Result<_, _>>()?,
        })
    }

    fn line(&self, shape: Shape) -> Result<Line, Failure> {
        let fixed_ns = self.measure(0, shape, EMPTY)?;
        let probed_ns = self.measure(PROBE_INSTRUCTIONS, shape, PROBE)?;
        let size = Line::through(fixed_ns, PROBE_INSTRUCTIONS, probed_ns)
            .map_or(u64::MAX, |line| rung(line.instructions(KERNEL_NS)));
        let size = size.min(rung(u64::MAX));
        let took_ns = self.measure(size, shape, LONG)?;
        Line::through(fixed_ns, size, took_ns).ok_or_else(|| {
            Failure::failed(format_args!(
                "kernels of {} × {} threads cannot be timed: an empty one took {fixed_ns:.0} ns, one of {size} instructions \
                 {took_ns:.0} ns",
                shape.grid, shape.block
            ))
        })
    }

    /// Time of one undisturbed kernel, in ns.
    fn measure(&self, instructions: u64, shape: Shape, sampling: Sampling) -> Result<f64, Failure> {
        let kernel = self.kernels.get(&instructions).copied();
        let kernel = kernel.ok_or_else(|| {
            Failure::failed(format_args!("no kernel of {instructions} instructions"))
        })?;
        // A kernel's first launch loads its code, and a limiter may let others of it wait until it knows how long this one takes.
        self.gpu.launch(kernel, shape)?;
        self.gpu.synchronize()?;
        let held = self.gpu.hold()?;
        let events = self.events.get(..=sampling.groups).unwrap_or(&self.events);
        for (index, event) in events.iter().enumerate() {
            let group = if index > 0 {
                sampling.kernels_per_group
            } else {
                0
            };
            (0..group).try_for_each(|_| self.gpu.launch(kernel, shape))?;
            self.gpu.record(event)?;
        }
        drop(held);
        self.gpu.synchronize()?;
        let between = events.windows(2).filter_map(|pair| match pair {
            [from, to] => Some(self.gpu.elapsed_ns(from, to)),
            _ => None,
        });
        let group_ns = median(between.collect::<Result<_, _>>()?);
        Ok(group_ns / f64::from(sampling.kernels_per_group))
    }
}

/// Instructions of the kernels that are measured, shortest first.
fn ladder() -> impl Iterator<Item = u64> {
    (0..LADDER_RUNGS).map(|rung| ptx::TRIP_INSTRUCTIONS << rung)
}

/// The shortest rung with as many instructions as are wanted, or the longest there is.
fn rung(wanted: u64) -> u64 {
    ladder()
        .find(|instructions| *instructions >= wanted)
        .unwrap_or(ptx::TRIP_INSTRUCTIONS << (LADDER_RUNGS - 1))
}

/// The middle one, the upper of two; 0 where there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disturbed_samples_do_not_count() {
        assert_eq!(
            median(vec![104.0, 96.0, 2_100.0, 100.0, 98.0, 160.0, 99.0]),
            100.0
        );
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn a_line_gives_back_the_time_that_it_was_asked_for() {
        let line = Line::through(1_500.0, 1_000, 6_500.0).unwrap();
        assert_eq!(line.instructions(51_500.0), 10_000);
        assert_eq!(line.ns(10_000), 51_500.0);
    }

    #[test]
    fn no_kernel_is_shorter_than_an_empty_one() {
        let line = Line::through(1_500.0, 1_000, 6_500.0).unwrap();
        assert_eq!(line.instructions(1_000.0), 0);
        assert_eq!(line.ns(0), 1_500.0);
    }

    #[test]
    fn times_that_do_not_grow_make_no_line() {
        assert_eq!(Line::through(1_500.0, 1_000, 1_500.0), None);
    }

    #[test]
    fn rungs_cover_what_is_wanted() {
        assert_eq!(rung(67), 67);
        assert_eq!(rung(68), 134);
        assert_eq!(rung(u64::MAX), 67 << 14);
    }
}
