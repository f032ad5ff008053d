//! Plays a plan on a device: kernels of the right length, then iterations for as long as is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use benches::ptx;

use crate::arrivals::Arrivals;
use crate::calibration::{Line, calibrate};
use crate::cuda::{Buffers, Function, Gpu, GraphExec};
use crate::failure::Failure;
use crate::file::{Direction, Play};
use crate::interrupt;
use crate::plan::{Action, Plan, Shape};

/// How long a window lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Length {
    /// This time; the iteration that it ends in is finished and counted.
    Time(Duration),
    /// This many iterations.
    Iterations(u64),
}

/// What one window saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    /// From the window's beginning to its end, in ns.
    pub(crate) took_ns: u64,
    /// From arrival to completion of each iteration, in ns.
    pub(crate) latencies_ns: Vec<u64>,
    /// Iterations that arrived within the window and were not begun.
    pub(crate) waiting: u64,
    /// Whether Ctrl-C ended it.
    pub(crate) interrupted: bool,
}

/// A kernel of the plan as it is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Launch {
    shape: Shape,
    instructions: u64,
}

/// One step of an iteration, ready to be submitted.
enum Step {
    Launch(Function, Shape),
    Copy(Direction, u64),
    Synchronize,
}

/// A plan on a device.
pub(crate) struct Player<'a> {
    gpu: &'a Gpu,
    steps: Vec<Step>,
    to_device: Option<Buffers>,
    to_host: Option<Buffers>,
    /// The steps as a graph, if they are to be played so.
    graph: Option<GraphExec>,
    /// Kernels of one iteration.
    pub(crate) kernels: u64,
    /// What the kernels of one iteration are to take, in ns.
    pub(crate) wanted_ns: f64,
    /// What those that were found for it take by their calibration, in ns.
    pub(crate) calibrated_ns: f64,
}

impl<'a> Player<'a> {
    /// Calibrates, loads kernels and allocates memory.
    pub(crate) fn new(gpu: &'a Gpu, plan: &Plan, play: Play) -> Result<Self, Failure> {
        let shapes: BTreeSet<Shape> = plan.kernels().map(|(shape, _)| shape).collect();
        let lines = calibrate(gpu, &shapes)?;
        let kernels = plan
            .kernels()
            .map(|(shape, wanted_ns)| launch(&lines, shape, wanted_ns));
        let kernels: Vec<Launch> = kernels.collect::<Result<_, _>>()?;
        let calibrated = kernels
            .iter()
            .filter_map(|each| Some(lines.get(&each.shape)?.ns(each.instructions)));
        if plan.held_bytes > 0 {
            gpu.allocate(plan.held_bytes)?;
        }
        let mut player = Self {
            gpu,
            steps: steps(gpu, plan, &kernels)?,
            to_device: buffers(gpu, plan, Direction::ToDevice)?,
            to_host: buffers(gpu, plan, Direction::ToHost)?,
            graph: None,
            kernels: kernels.len() as u64,
            wanted_ns: plan.kernels().map(|(_, wanted_ns)| wanted_ns).sum(),
            calibrated_ns: calibrated.sum(),
        };
        if play == Play::Graph {
            player.graph = Some(gpu.capture(|| player.submit())?);
        }
        Ok(player)
    }

    /// Plays one window. The arrivals' times count from its beginning.
    pub(crate) fn play(&self, mut arrivals: Arrivals, length: Length) -> Result<Measured, Failure> {
        let _watch = interrupt::Watch::begin().map_err(Failure::failed)?;
        let began = Instant::now();
        let now_ns = || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let end_ns = match length {
            Length::Time(time) => u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
            Length::Iterations(_) => u64::MAX,
        };
        let mut measured = Measured::default();
        let done = |measured: &Measured| match length {
            Length::Time(_) => now_ns() >= end_ns,
            Length::Iterations(count) => measured.latencies_ns.len() as u64 == count,
        };
        while !interrupt::is_set() && !done(&measured) {
            let arrival_ns = arrivals.next_ns(now_ns());
            interrupt::wait_until(began + Duration::from_nanos(arrival_ns.min(end_ns)));
            if interrupt::is_set() || arrival_ns >= end_ns {
                continue;
            }
            self.iterate()?;
            let latency_ns = now_ns().saturating_sub(arrival_ns);
            measured.latencies_ns.push(latency_ns);
        }
        measured.took_ns = now_ns();
        measured.interrupted = interrupt::is_set();
        measured.waiting = arrivals.until(measured.took_ns.min(end_ns));
        Ok(measured)
    }

    /// One iteration, to its completion.
    fn iterate(&self) -> Result<(), Failure> {
        match &self.graph {
            Some(graph) => self.gpu.launch_graph(graph)?,
            None => self.submit()?,
        }
        self.gpu.synchronize()
    }

    fn submit(&self) -> Result<(), Failure> {
        for step in &self.steps {
            match step {
                Step::Launch(function, shape) => self.gpu.launch(*function, *shape)?,
                Step::Synchronize => self.gpu.synchronize()?,
                Step::Copy(direction, bytes) => {
                    let buffers = match direction {
                        Direction::ToDevice => &self.to_device,
                        Direction::ToHost => &self.to_host,
                    };
                    if let Some(buffers) = buffers {
                        self.gpu.copy(buffers, *direction, *bytes)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The kernel for a wanted time.
fn launch(lines: &BTreeMap<Shape, Line>, shape: Shape, wanted_ns: f64) -> Result<Launch, Failure> {
    let instructions = lines
        .get(&shape)
        .map_or(0, |line| line.instructions(wanted_ns));
    if instructions > ptx::INSTRUCTIONS_MAX {
        return Err(Failure::failed(format_args!(
            "a kernel of {:.0} ms in {} blocks of {} threads is longer than this program can make one on this device",
            wanted_ns / 1e6,
            shape.grid,
            shape.block
        )));
    }
    Ok(Launch {
        shape,
        instructions,
    })
}

/// The plan's steps with `kernels` for its kernels, in the same order.
fn steps(gpu: &Gpu, plan: &Plan, kernels: &[Launch]) -> Result<Vec<Step>, Failure> {
    let sizes: BTreeSet<u64> = kernels.iter().map(|launch| launch.instructions).collect();
    let mut functions = BTreeMap::new();
    if !sizes.is_empty() {
        let module = gpu.load(ptx::module(&sizes))?;
        for size in sizes {
            functions.insert(size, gpu.function(&module, &ptx::kernel_name(size))?);
        }
    }
    let mut launches = kernels.iter().filter_map(|launch| {
        let function = functions.get(&launch.instructions)?;
        Some(Step::Launch(*function, launch.shape))
    });
    let steps = plan.actions.iter().filter_map(|action| match action {
        Action::Kernel { .. } => launches.next(),
        Action::Copy { direction, bytes } => Some(Step::Copy(*direction, *bytes)),
        Action::Synchronize => Some(Step::Synchronize),
    });
    Ok(steps.collect())
}

fn buffers(gpu: &Gpu, plan: &Plan, direction: Direction) -> Result<Option<Buffers>, Failure> {
    match plan.copy_bytes_max(direction) {
        0 => Ok(None),
        bytes => gpu.buffers(bytes).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { grid: 1, block: 32 };

    fn lines() -> BTreeMap<Shape, Line> {
        let line = Line::through(1_500.0, 1_000, 6_500.0).unwrap();
        BTreeMap::from([(SHAPE, line)])
    }

    #[test]
    fn a_kernel_has_the_instructions_of_its_own_shapes_line() {
        assert_eq!(
            launch(&lines(), SHAPE, 51_500.0).unwrap().instructions,
            10_000
        );
    }

    #[test]
    fn a_kernel_that_no_loop_is_long_enough_for_is_refused() {
        let refused = launch(&lines(), SHAPE, 400e6).unwrap_err().to_string();
        assert!(
            refused.starts_with("a kernel of 400 ms in 1 blocks of 32 threads"),
            "{refused}"
        );
    }
}
