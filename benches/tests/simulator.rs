//! The simulator's own acceptance, in virtual time, before any controller is judged on it.
#![expect(clippy::unwrap_used, reason = "this is how a test fails")]

use benches::evaluator::controllers::Native;
use benches::evaluator::{
    Container, Kernel, Pace, ProcessPlan, Program, Report, Scenario, Work, run,
};
use gpu_sim::profile::MachineProfile;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

fn machine(name: &str) -> MachineProfile {
    MachineProfile::load(name).unwrap()
}

fn two(kernel_ns: [u64; 2], duration_ns: u64) -> Scenario {
    let [a, b] = kernel_ns.map(Program::saturating);
    Scenario::new(machine("h100"), duration_ns)
        .with(Container::sharing("a", 50.0), a)
        .with(Container::sharing("b", 50.0), b)
}

fn native(scenario: &Scenario) -> Report {
    run(scenario, &mut Native)
}

#[test]
fn two_tenants_alone_with_the_device_get_half_each_and_lose_a_few_percent_to_switches() {
    for kernel_ns in [[1_250 * US, 1_250 * US], [20 * US, MS], [50 * MS, 100 * US]] {
        let report = native(&two(kernel_ns, 10 * S));
        let part = report.part(0, S..10 * S);
        let lost = 1.0 - report.busy(S..10 * S);
        assert!((part - 0.5).abs() < 0.005, "{kernel_ns:?}: {part}");
        assert!((0.01..0.05).contains(&lost), "{kernel_ns:?}: {lost} lost");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let program = Program::new(
        Work::lognormal(16, 100 * US, 1.0, 8 * US..=2_500 * US, 1),
        Pace::Poisson { mean_pause_ns: MS },
    );
    let scenario = Scenario {
        seed: 7,
        ..two([MS, MS], S).with(Container::sharing("c", 10.0), program)
    };
    let (once, twice) = (native(&scenario), native(&scenario));
    assert_eq!(once, twice);
    assert_ne!(
        once,
        native(&Scenario {
            seed: 8,
            ..scenario
        })
    );
}

#[test]
fn launches_are_fast_until_the_queue_is_full_and_then_take_a_kernels_time_each() {
    let kernel_ns = 190 * US;
    let mut program = Program::saturating(kernel_ns);
    program.iterations_max = 3_000;
    let mut scenario =
        Scenario::new(machine("h100"), 2 * S).with(Container::sharing("a", 100.0), program);
    scenario.machine.timing.kernel_sigma = 0.0;
    scenario.processes[0].trace = true;
    let report = native(&scenario);
    let launches = &report.processes[0].launch_records;
    let took_ns: Vec<u64> = launches
        .iter()
        .map(|launch| launch.taken_ns - launch.called_ns)
        .collect();
    let first_slow = took_ns.iter().position(|&took_ns| took_ns > 4 * US);
    let first_slow = first_slow.unwrap();
    assert!((1_000..1_100).contains(&first_slow), "{first_slow}");
    let slow_ns =
        took_ns[first_slow + 1..].iter().sum::<u64>() / (took_ns.len() - first_slow - 1) as u64;
    assert!(slow_ns.abs_diff(kernel_ns) < 2 * US, "{slow_ns}");
}

#[test]
fn processes_join_leave_stop_and_are_killed() {
    let plan = |container| {
        let mut program = Program::saturating(MS);
        program.pace = Pace::Window(50);
        ProcessPlan::new(container, program)
    };
    let mut scenario = two([MS, MS], 6 * S);
    scenario.processes = vec![
        plan(0),
        ProcessPlan {
            joins_ns: S,
            leaves_ns: Some(2 * S),
            ..plan(1)
        },
        ProcessPlan {
            joins_ns: 3 * S,
            killed_ns: Some(4 * S),
            ..plan(1)
        },
    ];
    let report = native(&scenario);
    let part = |from_ms: u64, to_ms: u64| report.part(1, from_ms * MS..to_ms * MS);
    assert_eq!(part(0, 1_000), 0.0);
    assert!((part(1_100, 2_000) - 0.5).abs() < 0.01);
    assert!(part(2_000, 2_100) > 0.4, "what was in flight still runs");
    assert_eq!(part(2_200, 3_000), 0.0);
    assert!((part(3_100, 4_000) - 0.5).abs() < 0.01);
    assert!(
        part(4_100, 5_000) < 0.001,
        "a killed process's queue is gone"
    );
}

#[test]
fn a_stopped_process_submits_nothing_and_what_it_had_submitted_runs_on() {
    let mut program = Program::saturating(MS);
    program.pace = Pace::Window(100);
    let mut scenario =
        Scenario::new(machine("h100"), 3 * S).with(Container::sharing("a", 100.0), program);
    scenario.processes[0].stopped_ns = Some(S..2 * S);
    let report = native(&scenario);
    let share = |from_ms: u64, to_ms: u64| report.share(0, from_ms * MS..to_ms * MS);
    assert!(share(100, 1_000) > 0.99);
    let drained = share(1_000, 1_200);
    assert!(
        (0.48..0.52).contains(&drained),
        "{drained}: 100 kernels were in flight"
    );
    assert_eq!(share(1_200, 2_000), 0.0);
    assert!(share(2_100, 3_000) > 0.99);
}

#[test]
fn a_container_without_processor_time_submits_in_bursts() {
    let kernel = Kernel {
        duration_ns: 20 * US,
        blocks: 16,
    };
    let mut scenario = Scenario::new(machine("h100"), 2 * S).with(
        Container::sharing("a", 100.0),
        Program::new(Work::kernel(kernel), Pace::SyncEvery(1)),
    );
    let unhindered = native(&scenario).processes[0].launches;
    scenario.processes[0].cpus = Some(0.05); // 5 ms in 100: 1250 launches of 4 µs
    let throttled = native(&scenario).processes[0].launches;
    assert!(unhindered > 50_000, "{unhindered}");
    assert!((24_000..=25_500).contains(&throttled), "{throttled}");
}
