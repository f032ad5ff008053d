//! The limiter on the modelled GPU and host, in virtual time: does each container get its share?
//!
//! `cargo test -p benches --test limiter -- --nocapture` prints what each got. Shares are the device's own books, 10 s long, after 2 s to settle.
#![expect(clippy::unwrap_used, reason = "this is how a test fails")]
#![expect(clippy::print_stdout, reason = "the figures are part of the test")]

use benches::evaluation::{Row, jobs, run_jobs};
use benches::evaluator::controllers::{Limited, Native};
use benches::evaluator::{Container, Kernel, Operation, Pace, Program, Scenario, Work, run};
use gpu_sim::profile::MachineProfile;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;

/// Kernels without end, at most 64 of them in flight.
fn kernels(duration_ns: u64) -> Program {
    Program::new(Work::kernel(Kernel::of_ns(duration_ns)), Pace::Window(64))
}

/// Graphs of 20 kernels without end, at most two in flight.
fn graphs(duration_ns: u64) -> Program {
    let nodes = (0..20).map(|_| Kernel::of_ns(duration_ns / 20)).collect();
    Program::new(
        Work::Sequence(vec![Operation::Graph(nodes)]),
        Pace::Window(2),
    )
}

/// Kernels of 12 lengths without end.
fn mixture(seed: u64) -> Program {
    let work = Work::lognormal(12, 200 * US, 1.2, 8 * US..=2_500 * US, seed);
    Program::new(work, Pace::Window(64))
}

/// Runs containers of these caps, in percent; asserts that none gets more than `above` or less than `below` points beside it.
#[track_caller]
fn assert_shares(what: &str, tenants: &[(f64, Program)], below: f64, above: f64) {
    for seed in SEEDS {
        let mut scenario = Scenario::new(MachineProfile::load("t4").unwrap(), 12 * S);
        scenario.seed = seed;
        for (index, (cap, program)) in tenants.iter().enumerate() {
            let container = Container::capped(&format!("tenant-{index}"), *cap);
            scenario = scenario.with(container, program.clone());
        }
        let report = run(&scenario, &mut Limited::new(seed).unwrap());
        for (index, (cap, _)) in tenants.iter().enumerate() {
            let got = 100.0 * report.share(index, 2 * S..12 * S);
            println!("{what}, seed {seed}: {cap} % got {got:.1} %");
            assert!(
                (cap - below..=cap + above).contains(&got),
                "{what}, seed {seed}: {cap} % got {got:.2} %"
            );
        }
    }
}

/// A GPU for these containers and what each runs.
fn shared_by(tenants: &[(Container, Program)], seed: u64) -> Scenario {
    let mut scenario = Scenario::new(MachineProfile::load("t4").unwrap(), 12 * S);
    scenario.seed = seed;
    for (container, program) in tenants {
        scenario = scenario.with(container.clone(), program.clone());
    }
    scenario
}

/// A container with a guarantee and no cap.
fn guaranteed(percent: f64, program: Program) -> (Container, Program) {
    let name = format!("guaranteed-{percent}");
    (Container::sharing(&name, percent), program)
}

/// Runs containers of these guarantees; asserts that each has its part of what all of them got, within so many points, and that the GPU
/// has nearly no rest.
#[track_caller]
fn assert_parts(what: &str, tenants: &[(f64, Program)], within: f64) {
    let whole: f64 = tenants.iter().map(|(percent, _)| percent).sum();
    for seed in SEEDS {
        let sharing = |(percent, program): &(f64, Program)| guaranteed(*percent, program.clone());
        let sharing: Vec<_> = tenants.iter().map(sharing).collect();
        let report = run(&shared_by(&sharing, seed), &mut Limited::new(seed).unwrap());
        let (all, time) = (100.0 * report.busy(2 * S..12 * S), 2 * S..12 * S);
        for (index, (percent, _)) in tenants.iter().enumerate() {
            let part = 100.0 * report.part(index, time.clone());
            let sigma = 100.0 * report.sigma(index, time.clone());
            let wanted = 100.0 * percent / whole;
            println!("{what}, seed {seed}: {wanted:.1} % of all had {part:.1} %, sigma {sigma:.1}");
            assert!(
                (part - wanted).abs() <= within,
                "{what}, seed {seed}: {wanted} % got {part:.2} %"
            );
        }
        println!("{what}, seed {seed}: {all:.1} % in all");
        assert!(all > 95.5, "{what}, seed {seed}: the GPU had a rest");
    }
}

#[test]
fn containers_without_caps_share_in_proportion_to_their_guarantees() {
    let k = kernels;
    assert_parts(
        "kernels of 1250 us",
        &[(30.0, k(1_250 * US)), (70.0, k(1_250 * US))],
        1.0,
    );
    assert_parts(
        "kernels of 20 and 1000 us",
        &[(50.0, k(20 * US)), (50.0, k(MS))],
        1.0,
    );
    assert_parts(
        "mixtures",
        &[(50.0, mixture(1)), (30.0, mixture(2)), (20.0, mixture(3))],
        1.5,
    );
    assert_parts(
        "kernels of 50 ms and 20 us",
        &[(20.0, k(50 * MS)), (80.0, k(20 * US))],
        2.5,
    );
    assert_parts(
        "graphs of 2 ms and kernels of 1 ms",
        &[(30.0, graphs(2 * MS)), (70.0, k(MS))],
        1.5,
    );
}

#[test]
fn what_is_guaranteed_to_nobody_is_shared_in_the_same_proportion() {
    assert_parts(
        "10 and 20 %",
        &[(10.0, kernels(MS)), (20.0, kernels(MS))],
        1.5,
    );
}

/// Adds processes to the first container.
fn with_more(mut scenario: Scenario, count: usize) -> Scenario {
    let first = scenario.processes[0].clone();
    scenario.processes.extend((0..count).map(|_| first.clone()));
    scenario
}

/// The longest time for which a launch waited, of those that the first container has.
fn longest_wait_ns(scenario: &Scenario) -> u64 {
    let report = run(scenario, &mut Limited::new(scenario.seed).unwrap());
    let of_first = scenario.processes.iter().zip(&report.processes);
    let of_first = of_first.filter(|(plan, _)| plan.container == 0);
    of_first
        .map(|(_, process)| process.held_ns_max)
        .max()
        .unwrap()
}

/// Where they raced for it, one waited for 0.28 s.
#[test]
fn processes_of_one_container_are_served_in_turn() {
    for seed in SEEDS {
        let capped = (Container::capped("capped", 30.0), kernels(200 * US));
        let capped = with_more(shared_by(&[capped], seed), 7);
        let guaranteed = [30.0, 70.0].map(|percent| guaranteed(percent, kernels(MS)));
        let guaranteed = with_more(shared_by(&guaranteed, seed), 3);
        let waits_ms = [capped, guaranteed].map(|scenario| longest_wait_ns(&scenario) / MS);
        println!("seed {seed}: {waits_ms:?} ms");
        assert!(
            waits_ms.into_iter().all(|ms| ms < 60),
            "seed {seed}: {waits_ms:?} ms"
        );
    }
}

#[test]
fn a_container_alone_may_have_all_of_the_gpu() {
    for kernel_ns in [50 * US, MS, 20 * MS] {
        let report = run(
            &shared_by(&[guaranteed(30.0, kernels(kernel_ns))], 1),
            &mut Limited::new(1).unwrap(),
        );
        let native = run(
            &shared_by(&[guaranteed(30.0, kernels(kernel_ns))], 1),
            &mut Native,
        );
        let (got, all) = (report.busy(2 * S..12 * S), native.busy(2 * S..12 * S));
        println!(
            "alone, kernels of {} us: {:.2} % of native",
            kernel_ns / US,
            100.0 * got / all
        );
        assert!(
            got > 0.99 * all,
            "kernels of {kernel_ns} ns: {got} of {all}"
        );
    }
}

/// The first has all there is until the second comes, and again when it is gone.
#[test]
fn who_comes_has_its_guarantee_within_200_ms_and_who_stays_has_the_rest() {
    for seed in SEEDS {
        let tenants = [
            guaranteed(30.0, kernels(MS)),
            guaranteed(70.0, kernels(300 * US)),
        ];
        let mut scenario = shared_by(&tenants, seed);
        scenario.processes[1].joins_ns = 5 * S;
        scenario.processes[1].leaves_ns = Some(8 * S);
        let report = run(&scenario, &mut Limited::new(seed).unwrap());
        let got = |index, begin_ms: u64, end_ms: u64| {
            100.0 * report.share(index, begin_ms * MS..end_ms * MS)
        };
        let [before, coming, beside, after] = [
            got(0, 4_000, 5_000),
            got(1, 5_200, 5_400),
            got(0, 5_200, 5_400),
            got(0, 8_200, 9_000),
        ];
        println!(
            "seed {seed}: alone {before:.1} %, then {coming:.1} and {beside:.1} %, then {after:.1} %"
        );
        assert!(
            before > 98.0 && after > 98.0,
            "seed {seed}: {before} {after}"
        );
        assert!(
            (63.0..=73.0).contains(&coming),
            "seed {seed}: who came got {coming} %"
        );
        assert!(
            (25.0..=35.0).contains(&beside),
            "seed {seed}: who stayed got {beside} %"
        );
    }
}

/// One that must not have more beside one that may have the rest.
#[test]
fn a_cap_holds_beside_a_container_that_has_none() {
    for seed in SEEDS {
        let tenants = [
            (Container::capped("capped", 30.0), kernels(MS)),
            guaranteed(40.0, kernels(MS)),
        ];
        let report = run(&shared_by(&tenants, seed), &mut Limited::new(seed).unwrap());
        let got = |index| 100.0 * report.share(index, 2 * S..12 * S);
        println!(
            "seed {seed}: {:.1} % under a cap of 30, {:.1} % beside it",
            got(0),
            got(1)
        );
        assert!((28.5..=31.0).contains(&got(0)), "seed {seed}: {}", got(0));
        assert!(got(1) > 62.0, "seed {seed}: {}", got(1)); // and switching to and fro takes its part
    }
}

#[test]
fn a_container_alone_gets_its_cap_whatever_its_kernels_take() {
    for kernel_ns in [50 * US, 200 * US, MS, 3 * MS] {
        let what = format!("alone, kernels of {} us", kernel_ns / US);
        for cap in [10.0, 30.0, 90.0] {
            assert_shares(&what, &[(cap, kernels(kernel_ns))], 0.5, 0.5);
        }
    }
    let long = [(30.0, kernels(20 * MS))];
    assert_shares("alone, kernels of 20000 us", &long, 1.0, 1.0);
}

/// The gaps between a graph's nodes occupy the GPU, though it is not busy in them.
#[test]
fn a_container_of_graphs_gets_its_cap() {
    for (graph_ns, below) in [(2 * MS, 1.0), (8 * MS, 0.5)] {
        let what = format!("alone, graphs of {} ms", graph_ns / MS);
        assert_shares(&what, &[(60.0, graphs(graph_ns))], below, 0.5);
    }
}

#[test]
fn two_containers_each_get_their_cap() {
    for kernel_ns in [
        50 * US,
        500 * US,
        1_100 * US,
        1_250 * US,
        1_600 * US,
        3 * MS,
    ] {
        let what = format!("kernels of {} us", kernel_ns / US);
        let tenants = [(30.0, kernels(kernel_ns)), (60.0, kernels(kernel_ns))];
        assert_shares(&what, &tenants, 1.5, 1.5);
    }
}

#[test]
fn kernels_of_other_lengths_beside_it_take_nothing_from_a_container() {
    let (short, long) = (kernels(50 * US), kernels(10 * MS));
    let tenants = [(30.0, short.clone()), (60.0, long.clone())];
    assert_shares("kernels of 50 us and of 10 ms", &tenants, 2.0, 2.0);
    let tenants = [(60.0, short), (30.0, long)];
    assert_shares("kernels of 50 us and of 10 ms", &tenants, 2.0, 2.0);
    let tenants = [(20.0, kernels(50 * MS)), (75.0, kernels(20 * US))];
    assert_shares("kernels of 50 ms and of 20 us", &tenants, 3.0, 1.0);
}

#[test]
fn two_containers_of_graphs_each_get_their_cap() {
    for graph_ns in [2 * MS, 8 * MS] {
        let what = format!("graphs of {} ms", graph_ns / MS);
        let tenants = [(60.0, graphs(graph_ns)), (30.0, graphs(graph_ns))];
        assert_shares(&what, &tenants, 2.5, 1.0);
    }
}

/// Switching between them takes 2 to 3 % of the GPU.
#[test]
fn containers_that_want_all_of_it_share_what_switching_leaves() {
    let tenants = [(50.0, kernels(20 * US)), (50.0, kernels(MS))];
    assert_shares("all: kernels of 20 us and of 1 ms", &tenants, 2.5, 0.5);
    let tenants = [(30.0, kernels(1_250 * US)), (70.0, kernels(1_250 * US))];
    assert_shares("all: kernels of 1250 us", &tenants, 3.0, 1.0);
    let tenants = [(30.0, graphs(2 * MS)), (70.0, kernels(MS))];
    assert_shares("all: graphs of 2 ms, kernels of 1 ms", &tenants, 3.5, 0.5);
    let tenants = [(50.0, mixture(1)), (30.0, mixture(2)), (20.0, mixture(3))];
    assert_shares("all: mixtures", &tenants, 3.0, 0.5);
}

#[test]
fn eight_containers_each_get_their_cap() {
    let tenants: Vec<_> = (0..8).map(|_| (11.0, kernels(MS))).collect();
    assert_shares("eight, kernels of 1 ms", &tenants, 1.5, 1.5);
}

/// What is wanted and not had – docs/share.md says why –, and what is held instead.
const HELD_INSTEAD: &[(Row, f64)] = &[(Row::Stall, 120.0), (Row::AddedP99, 12.0)];

/// `scripts/bench share --quick`.
#[test]
fn what_is_met_of_what_is_wanted_of_a_share_stays_met() {
    let outcomes = run_jobs(jobs(1, true), |_| {}).unwrap();
    let mut held = 0;
    for outcome in &outcomes {
        for figure in &outcome.judged.figures {
            let (row, value) = (figure.row, figure.value);
            let what = format!(
                "{}: {} {}",
                outcome.job.case.name,
                row.key(),
                row.shown(value)
            );
            println!("{what}");
            let instead = HELD_INSTEAD.iter().find(|(missed, _)| *missed == row);
            let wanted = row.targets().map(|(target, _)| target);
            if let Some(bound) = instead.map(|(_, bound)| *bound).or(wanted) {
                assert!(row.is_met(value, bound), "{what}, not {bound}");
                held += 1;
            }
        }
    }
    assert!(held >= 60, "only {held} figures were asked for");
}
