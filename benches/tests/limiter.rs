//! The limiter on the modelled GPU and host, in virtual time: does each container get its share?
//!
//! `cargo test -p benches --test limiter -- --nocapture` prints what each got. Shares are the device's own books, 10 s long, after 2 s to settle.
#![expect(clippy::unwrap_used, reason = "this is how a test fails")]
#![expect(clippy::print_stdout, reason = "the figures are part of the test")]

use benches::evaluator::controllers::Limited;
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
