//! The simulator's own acceptance: what hardware is reported to do, asked of the model in virtual time.
//!
//! Each function runs one experiment and gives what came out. What should come out stands in `docs/simulated-gpu.md`; the
//! test `simulator` holds each figure against it.

use crate::evaluator::controllers::{BlockTokens, CountWindow, Native, Step};
use crate::evaluator::{
    Admission, Aggregation, Container, Controller, Launch, Pace, Policy, Program, Report, Scenario,
    Seat, Tick, View, Watch, quantile, run,
};
use gpu_sim::profile::{MachineProfile, ProfileError};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// The kernel of the reports on two tenants: a matrix product of 1.25 ms and 1024 blocks.
pub const KERNEL_NS: u64 = 1_250 * US;

/// The first tenth of a run is not counted.
fn settled(duration_ns: u64) -> Range<u64> {
    duration_ns / 10..duration_ns
}

/// A built-in machine.
pub fn machine(name: &str) -> Result<MachineProfile, ProfileError> {
    MachineProfile::load(name)
}

/// The device of the reports on block tokens: 188 SMs of 1536 threads, else as an H100.
pub fn machine_of_188_sms() -> Result<MachineProfile, ProfileError> {
    let mut machine = machine("h100")?;
    if let Some(device) = machine.devices.first_mut() {
        (device.sm_count, device.threads_per_sm_max) = (188, 1_536);
    }
    Ok(machine)
}

/// Two containers with these caps in percent, each saturating the device with kernels of this length.
pub fn two(
    machine: MachineProfile,
    caps: [f64; 2],
    kernels_ns: [u64; 2],
    duration_ns: u64,
) -> Scenario {
    let [first, second] = kernels_ns.map(Program::saturating);
    Scenario::new(machine, duration_ns)
        .with(Container::capped("first", caps[0]), first)
        .with(Container::capped("second", caps[1]), second)
}

/// What two tenants got of each other's time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// The first one's part of what both used.
    pub first_part: f64,
    /// Part of the time in which the engine was busy.
    pub busy: f64,
    /// Standard deviation of the first one's share in windows of 100 ms.
    pub first_sigma: f64,
}

impl Shares {
    /// Of a whole run but its first tenth.
    pub fn of(report: &Report, duration_ns: u64) -> Self {
        let range = settled(duration_ns);
        Self {
            first_part: report.part(0, range.clone()),
            busy: report.busy(range.clone()),
            first_sigma: report.sigma(0, range),
        }
    }
}

/// Two tenants under this policy.
pub fn shares(scenario: &Scenario, policy: &mut dyn Policy) -> Shares {
    Shares::of(&run(scenario, policy), scenario.duration_ns)
}

/// Block tokens with caps of 30 and 70 %, for 240 s as in the report.
pub fn block_tokens_30_70(
    machine: MachineProfile,
    step: Step,
    aggregation: Aggregation,
    seed: u64,
) -> Shares {
    let scenario = Scenario {
        aggregation,
        seed,
        ..two(machine, [30.0, 70.0], [KERNEL_NS; 2], 240 * S)
    };
    shares(&scenario, &mut BlockTokens::new(step))
}

/// Block tokens with a cap of 50 % and nobody else: the part of the time that is used.
pub fn block_tokens_cap_50(machine: MachineProfile, aggregation: Aggregation, seed: u64) -> f64 {
    let scenario = Scenario {
        aggregation,
        seed,
        ..Scenario::new(machine, 240 * S)
    };
    let scenario = scenario.with(
        Container::capped("only", 50.0),
        Program::saturating(KERNEL_NS),
    );
    let report = run(&scenario, &mut BlockTokens::new(Step::Quadratic));
    report.busy(settled(scenario.duration_ns))
}

/// How long launches take while the queue fills and when it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueExperiment {
    /// Launches before the first that waits.
    pub fast_launches: usize,
    /// Median of those, in ns.
    pub fast_ns_median: u64,
    /// Mean of the others but the first, in ns.
    pub slow_ns_mean: u64,
}

impl QueueExperiment {
    /// What these durations of launches show, of kernels of this length. One slow launch among fast ones is the host's doing:
    /// the queue is full where most of the next twenty are slow.
    pub fn of(took_ns: &[u64], kernel_ns: u64) -> Self {
        const NEXT: usize = 20;
        let is_slow = |took_ns: &&u64| **took_ns > kernel_ns / 2;
        let is_full = |next: &[u64]| next.iter().filter(is_slow).count() > NEXT / 2;
        let full = took_ns
            .windows(NEXT)
            .position(is_full)
            .unwrap_or(took_ns.len());
        let (before, after) = took_ns.split_at(full);
        let waited = after
            .iter()
            .position(|took_ns| is_slow(&took_ns))
            .unwrap_or(after.len());
        let slow = after.get(waited + 1..).unwrap_or_default();
        Self {
            fast_launches: before.len() + waited,
            fast_ns_median: quantile(before, 0.5),
            slow_ns_mean: slow.iter().sum::<u64>() / slow.len().max(1) as u64,
        }
    }
}

/// The kernel of the queue experiment, in ns.
pub const QUEUE_KERNEL_NS: u64 = 190 * US;

/// 3000 launches of 190 µs without a wait.
pub fn queue_experiment(machine: MachineProfile) -> QueueExperiment {
    let mut program = Program::saturating(QUEUE_KERNEL_NS);
    program.iterations_max = 3_000;
    let mut scenario = Scenario::new(machine, S).with(Container::sharing("only", 100.0), program);
    scenario.processes[0].trace = true;
    let report = run(&scenario, &mut Native);
    let launches = report.processes[0].launch_records.iter();
    let took_ns: Vec<u64> = launches
        .map(|launch| launch.taken_ns - launch.called_ns)
        .collect();
    QueueExperiment::of(&took_ns, QUEUE_KERNEL_NS)
}

/// How soon a saturating process lets go, and what its window costs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preemption {
    /// 99th percentile of the time from the gate's shutting to the end of the last kernel, in ns.
    pub p99_ns: u64,
    /// Part of the kernels that it completes less than without a window.
    pub cost: f64,
}

/// 400 preemptions of a process that may have so many kernels of this length in flight.
pub fn preemption(
    machine: MachineProfile,
    threshold: usize,
    kernel_ns: u64,
    seed: u64,
) -> Preemption {
    let drain_ns = threshold as u64 * kernel_ns;
    let pause_ns = 4 * drain_ns + 10 * MS;
    let shut = |number: u64| {
        // Each at another place between two kernels: 0.618… fills the interval evenly.
        let phase_ns = (number as f64 * 0.618_034).fract() * kernel_ns as f64;
        let from_ns = number * pause_ns + phase_ns as u64;
        from_ns..from_ns + 2 * drain_ns + 5 * MS
    };
    let shut_ns: Vec<Range<u64>> = (1..=400).map(shut).collect();
    let duration_ns = 402 * pause_ns;
    let scenario = Scenario {
        seed,
        ..Scenario::new(machine, duration_ns)
    }
    .with(
        Container::sharing("only", 100.0),
        Program::saturating(kernel_ns),
    );
    let kernels = |policy: &mut dyn Policy| run(&scenario, policy).processes[0].kernels as f64;
    let cost = 1.0
        - kernels(&mut CountWindow {
            threshold,
            shut_ns: Vec::new(),
        }) / kernels(&mut Native);
    let mut traced = scenario.clone();
    traced.processes[0].trace = true;
    let report = run(
        &traced,
        &mut CountWindow {
            threshold,
            shut_ns: shut_ns.clone(),
        },
    );
    let records = report.processes[0].launch_records.iter();
    let ends_ns: Vec<u64> = records.filter_map(|record| record.ended_ns).collect();
    let latency_ns = |shut: &Range<u64>| {
        let first_after = ends_ns.partition_point(|&end_ns| end_ns < shut.end);
        let last_ns = first_after.checked_sub(1).map_or(0, |last| ends_ns[last]);
        last_ns.saturating_sub(shut.start)
    };
    let latencies_ns: Vec<u64> = shut_ns.iter().map(latency_ns).collect();
    Preemption {
        p99_ns: quantile(&latencies_ns, 0.99),
        cost,
    }
}

/// Times every launch, and lets all go.
struct EventPairs;

impl Policy for EventPairs {
    fn name(&self) -> String {
        "event pairs".to_owned()
    }

    fn attach(&mut self, _seat: &Seat, _now_ns: u64) -> Box<dyn Controller> {
        Box::new(Self)
    }
}

impl Controller for EventPairs {
    fn admit(&mut self, _launch: &Launch, _view: &mut View) -> Admission {
        Admission::Granted(Watch::Timed)
    }

    fn look_every_ns(&self) -> Option<u64> {
        Some(100 * US)
    }
}

/// Mean of what event pairs say of kernels of this length beside so many other tenants, in ns.
pub fn event_pairs_ns(machine: MachineProfile, kernel_ns: u64, others: usize) -> u64 {
    let mut timed = Program::saturating(kernel_ns);
    timed.pace = Pace::Window(4);
    let mut scenario =
        Scenario::new(machine, 10 * S).with(Container::sharing("timed", 50.0), timed);
    scenario.processes[0].trace = true;
    for _ in 0..others {
        scenario = scenario.with(Container::sharing("other", 50.0), Program::saturating(MS));
    }
    let report = run(&scenario, &mut EventPairs);
    let records = report.processes[0].launch_records.iter();
    let timed_ns: Vec<u64> = records.filter_map(|record| record.timed_ns).collect();
    timed_ns.iter().sum::<u64>() / timed_ns.len().max(1) as u64
}

/// What NVML says of one of several tenants, second by second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NvmlFigures {
    /// The truth: part of the time for which it had the engine.
    pub share: f64,
    /// Mean of NVML's figures.
    pub mean: f64,
    /// Their standard deviation.
    pub sigma: f64,
}

impl NvmlFigures {
    /// Of these percentages.
    pub fn of(share: f64, percent: &[u32]) -> Self {
        let count = percent.len().max(1) as f64;
        let parts = || percent.iter().map(|&percent| f64::from(percent) / 100.0);
        let mean = parts().sum::<f64>() / count;
        let variance = parts().map(|part| (part - mean).powi(2)).sum::<f64>() / count;
        Self {
            share,
            mean,
            sigma: variance.sqrt(),
        }
    }

    /// √(p(1−p)/7): what seven independent samples a second would spread by.
    pub fn sigma_of_seven(&self) -> f64 {
        (self.share * (1.0 - self.share) / 7.0).sqrt()
    }
}

/// Asks NVML once a second about one process.
#[derive(Clone, Default)]
struct Auditor {
    percent: Rc<RefCell<Vec<u32>>>,
}

impl Policy for Auditor {
    fn name(&self) -> String {
        "audit".to_owned()
    }

    fn attach(&mut self, _seat: &Seat, _now_ns: u64) -> Box<dyn Controller> {
        Box::new(self.clone())
    }
}

impl Controller for Auditor {
    fn admit(&mut self, _launch: &Launch, _view: &mut View) -> Admission {
        Admission::Granted(Watch::No)
    }

    fn tick(&mut self, view: &mut View) -> Tick {
        let asked_ns = view.now_ns();
        let since_ns = asked_ns.saturating_sub(S);
        let seen = view.nvml_utilization(&[0], since_ns);
        self.percent
            .borrow_mut()
            .extend(seen.into_iter().map(Option::unwrap_or_default));
        Tick::At(asked_ns + S)
    }
}

/// NVML's figures, for 300 s, of the first of several tenants that run this program.
pub fn nvml_figures(machine: MachineProfile, program: &Program, tenants: usize) -> NvmlFigures {
    let duration_ns = 300 * S;
    let mut scenario = Scenario::new(machine, duration_ns);
    for _ in 0..tenants {
        scenario = scenario.with(Container::sharing("tenant", 50.0), program.clone());
    }
    let auditor = Auditor::default();
    let report = run(&scenario, &mut FirstOnly(auditor.clone()));
    let percent = auditor.percent.borrow();
    NvmlFigures::of(
        report.share(0, settled(duration_ns)),
        percent.get(2..).unwrap_or_default(),
    )
}

/// The auditor for the first process, nothing for the others.
struct FirstOnly(Auditor);

impl Policy for FirstOnly {
    fn name(&self) -> String {
        self.0.name()
    }

    fn attach(&mut self, seat: &Seat, now_ns: u64) -> Box<dyn Controller> {
        match seat.process {
            0 => self.0.attach(seat, now_ns),
            _ => Native.attach(seat, now_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_full_where_launches_stay_slow() {
        let mut took_ns = vec![4; 100];
        took_ns[50] = 5_000; // the host was busy with something else
        took_ns.extend([190; 100]);
        took_ns[120] = 4; // and here it has some to make up for
        let found = QueueExperiment::of(&took_ns, 190);
        assert_eq!((found.fast_launches, found.fast_ns_median), (100, 4));
        assert_eq!(found.slow_ns_mean, (98 * 190 + 4) / 99);
    }
}
