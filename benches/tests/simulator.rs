//! The simulator's own acceptance, in virtual time, before any controller is judged on it.
#![expect(clippy::unwrap_used, reason = "this is how a test fails")]

use benches::acceptance::{
    KERNEL_NS, QUEUE_KERNEL_NS, block_tokens_30_70, block_tokens_cap_50, event_pairs_ns,
    machine_of_188_sms, nvml_figures, preemption, queue_experiment, shares,
};
use benches::evaluator::controllers::{ExclusiveLease, Native, Step};
use benches::evaluator::{
    Aggregation, Container, Kernel, Operation, Pace, ProcessPlan, Program, Report, Scenario, Work,
    run,
};
use gpu_sim::command::CopyDirection;
use gpu_sim::profile::MachineProfile;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

fn machine(name: &str) -> MachineProfile {
    MachineProfile::load(name).unwrap()
}

/// The board of the reports on block tokens.
fn large() -> MachineProfile {
    machine_of_188_sms().unwrap()
}

fn two(kernels_ns: [u64; 2], duration_ns: u64) -> Scenario {
    benches::acceptance::two(machine("h100"), [50.0; 2], kernels_ns, duration_ns)
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
    let found = queue_experiment(machine("h100"));
    assert!((1_000..1_100).contains(&found.fast_launches), "{found:?}");
    assert_eq!(found.fast_ns_median, 4 * US);
    assert!(
        found.slow_ns_mean.abs_diff(QUEUE_KERNEL_NS) < 2 * US,
        "{found:?}"
    );
}

#[test]
fn an_event_pair_measures_the_other_tenants_slices_too() {
    for kernel_ns in [100 * US, 1_250 * US, 10 * MS] {
        let times = |others: usize| {
            event_pairs_ns(machine("h100"), kernel_ns, others) as f64 / kernel_ns as f64
        };
        let [alone, beside_one, beside_two] = [times(0), times(1), times(2)];
        assert!((0.99..1.02).contains(&alone), "{kernel_ns}: {alone}");
        assert!(
            (1.9..2.2).contains(&beside_one),
            "{kernel_ns}: {beside_one}"
        );
        assert!(
            (2.9..3.2).contains(&beside_two),
            "{kernel_ns}: {beside_two}"
        );
    }
}

#[test]
fn nvmls_figures_of_a_second_spread_as_seven_independent_samples_do() {
    let synchronous = Program::new(Work::kernel(Kernel::of_ns(KERNEL_NS)), Pace::SyncEvery(1));
    for program in [Program::saturating(KERNEL_NS), synchronous] {
        for tenants in [2, 3] {
            let found = nvml_figures(machine("h100"), &program, tenants);
            let ratio = found.sigma / found.sigma_of_seven();
            assert!((0.85..1.15).contains(&ratio), "{tenants}: {found:?}");
            assert!(
                (found.mean - found.share).abs() < 0.04,
                "{tenants}: {found:?}"
            );
        }
    }
}

#[test]
fn a_bounded_window_lets_go_within_its_kernels_and_costs_nothing_from_ten_on() {
    for kernel_ns in [100 * US, MS] {
        for threshold in [4, 10, 16] {
            let found = preemption(machine("h100"), threshold, kernel_ns, 1);
            let in_kernels = found.p99_ns as f64 / kernel_ns as f64;
            let ratio = in_kernels / threshold as f64;
            assert!(
                (0.9..1.1).contains(&ratio),
                "{threshold} of {kernel_ns}: {found:?}"
            );
            assert!(
                threshold < 10 || found.cost < 0.01,
                "{threshold} of {kernel_ns}: {found:?}"
            );
        }
    }
    let alone = preemption(machine("h100"), 1, 100 * US, 1);
    assert!(alone.cost > 0.05, "one at a time: {alone:?}");
}

#[test]
fn block_tokens_give_a_tenant_of_30_percent_about_half_as_on_hardware() {
    for aggregation in [Aggregation::MeanOfPeriod, Aggregation::LastSample] {
        let found = block_tokens_30_70(large(), Step::Quadratic, aggregation, 1);
        assert!(
            (0.44..0.52).contains(&found.first_part),
            "{aggregation:?}: {found:?}"
        );
    }
}

#[test]
fn block_tokens_with_a_linear_step_come_near_30_percent_as_on_hardware() {
    let found = block_tokens_30_70(large(), Step::Linear, Aggregation::MeanOfPeriod, 1);
    assert!((0.25..0.37).contains(&found.first_part), "{found:?}");
    assert!(found.busy > 0.95, "{found:?}");
}

#[test]
fn block_tokens_with_a_linear_step_fall_short_of_hardware_if_nvml_gives_the_last_sample() {
    let found = block_tokens_30_70(large(), Step::Linear, Aggregation::LastSample, 1);
    assert!((0.20..0.30).contains(&found.first_part), "{found:?}");
    assert!((0.60..0.75).contains(&found.busy), "{found:?}");
}

#[test]
fn block_tokens_do_not_hold_a_cap_of_50_percent() {
    let found = |aggregation| block_tokens_cap_50(large(), aggregation, 1);
    let mean = found(Aggregation::MeanOfPeriod);
    assert!(mean >= 0.90, "as on hardware: {mean}");
    let last = found(Aggregation::LastSample);
    assert!(
        (0.85..0.90).contains(&last),
        "less than on hardware: {last}"
    );
}

#[test]
fn an_exclusive_lease_lets_in_flight_work_overrun_and_is_all_or_nothing_in_short_windows() {
    let caps = [30.0, 70.0];
    let mut scenario = benches::acceptance::two(machine("h100"), caps, [KERNEL_NS; 2], 60 * S);
    let overrun = shares(&scenario, &mut ExclusiveLease::new(100 * MS));
    assert!(
        overrun.busy < 0.8,
        "a cap pays for what others overran: {overrun:?}"
    );
    for plan in &mut scenario.processes {
        plan.program.pace = Pace::Window(8);
    }
    let bounded = shares(&scenario, &mut ExclusiveLease::new(100 * MS));
    assert!((0.25..0.35).contains(&bounded.first_part), "{bounded:?}");
    assert!(bounded.first_sigma > 0.2, "{bounded:?}");
}

#[test]
fn a_day_of_gpu_time_is_a_few_events_for_each_kernel() {
    let report = native(&two([MS, MS], 10 * S));
    let kernels: u64 = report.processes.iter().map(|process| process.kernels).sum();
    assert!(
        report.events < 4 * kernels,
        "{} for {kernels}",
        report.events
    );
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
fn a_host_function_holds_its_stream_up_until_the_host_has_woken_for_it() {
    let kernel = Operation::Kernel(Kernel::of_ns(100 * US));
    let iterations = |operations: Vec<Operation>| {
        let program = Program::new(Work::Sequence(operations), Pace::SyncEvery(1));
        let scenario = Scenario::new(machine("h100"), S);
        let report = native(&scenario.with(Container::sharing("a", 100.0), program));
        report.processes[0].iterations
    };
    let without_ns = S / iterations(vec![kernel.clone()]);
    let with_ns = S / iterations(vec![kernel, Operation::HostCall]);
    let held_ns = with_ns - without_ns; // 50 µs on the device, 5 to 60 until the host runs
    assert!((60 * US..100 * US).contains(&held_ns), "{held_ns}");
}

#[test]
fn copies_in_both_directions_run_beside_kernels() {
    let copy = |direction| Operation::Copy {
        direction,
        bytes: 1_000_000, // 20 µs and 8 µs of latency
    };
    let operations = vec![
        Operation::Kernel(Kernel::of_ns(100 * US)),
        copy(CopyDirection::HostToDevice),
        copy(CopyDirection::DeviceToHost),
    ];
    let mut program = Program::new(Work::Sequence(operations), Pace::Async);
    program.streams = 2;
    let scenario = Scenario::new(machine("h100"), S);
    let report = native(&scenario.with(Container::sharing("a", 100.0), program));
    assert!(report.busy(S / 10..S) > 0.99, "{}", report.busy(S / 10..S));
}

#[test]
fn a_graph_takes_its_kernels_and_what_lies_between_them() {
    let graph = Operation::Graph(vec![Kernel::of_ns(100 * US); 20]);
    let program = Program::new(Work::Sequence(vec![graph]), Pace::SyncEvery(1));
    let mut scenario =
        Scenario::new(machine("h100"), S).with(Container::sharing("a", 100.0), program);
    scenario.machine.timing.kernel_sigma = 0.0;
    let latency_ns = native(&scenario).processes[0].latencies_ns[0];
    let wanted_ns = 20 * 100 * US + 19 * US + (4 + 3 + 8) * US + 20 * 10;
    assert!(
        latency_ns.abs_diff(wanted_ns) < 2 * US,
        "{latency_ns}, not {wanted_ns}"
    );
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
