//! How programs wait, what their hosts allow, latency, and capacity that nobody else wants.

use super::tenants::{Promise, Tenants, graphs, kernels, mixture};
use super::{Axis, Case, Judgement, MS, S, US};
use crate::evaluation::row::Row;
use crate::evaluator::{Container, Kernel, OnOff, Operation, Pace, Program, SyncWait, Work};

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    [
        paces(),
        hosts(),
        processes(),
        on_off(),
        latencies(),
        alone(),
        beside_a_cap(),
    ]
    .concat()
}

/// One kernel after the other, each waited for; and as many as the driver's queue takes.
fn paces() -> Vec<Case> {
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        for (what, pace) in [
            ("waits for each launch", Pace::SyncEvery(1)),
            ("never waits", Pace::Async),
        ] {
            let mut program = kernels(MS);
            program.pace = pace;
            let shares = promise.shares(2);
            let programs = [(shares[0], program), (shares[1], kernels(MS))];
            let name = format!("one that {what}, {}", promise.word());
            let case = Tenants::new(promise, &programs);
            cases.push(case.saturating(Axis::Programs, &name, Row::MeanPrograms));
        }
    }
    cases
}

/// One container with little processor time. What its host does not launch, another may have.
fn hosts() -> Vec<Case> {
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        for cpus in [0.01, 0.2] {
            let shares = promise.shares(2);
            let programs = [(shares[0], kernels(MS)), (shares[1], kernels(200 * US))];
            let name = format!("a neighbour with {cpus} processors, {}", promise.word());
            let asked = match promise {
                Promise::Cap => Judgement::Mean(Row::MeanPrograms),
                Promise::Guarantee => Judgement::IdleUsed,
            };
            let case = Tenants::new(promise, &programs).asked(Axis::Programs, &name, vec![asked]);
            let mut case = case.process(1, |plan| plan.cpus = Some(cpus));
            case.wanted[1] = super::Wanted::Anything;
            cases.push(case);
        }
    }
    cases
}

/// Containers of several processes: a share is the container's.
fn processes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (promise, counts) in [
        (Promise::Cap, [3, 1]),
        (Promise::Cap, [1, 4]),
        (Promise::Guarantee, [4, 1]),
        (Promise::Guarantee, [4, 4]),
    ] {
        let name = format!(
            "{} and {} processes of 1 ms, {}",
            counts[0],
            counts[1],
            promise.word()
        );
        let mut case = Tenants::alike(promise, 2, &kernels(MS)).saturating(
            Axis::Programs,
            &name,
            Row::MeanPrograms,
        );
        for (container, count) in counts.into_iter().enumerate() {
            case = case.and_processes(container, count - 1, &kernels(MS));
        }
        cases.push(case);
    }
    let alone = Tenants::alike(Promise::Cap, 1, &kernels(200 * US));
    let name = "8 processes of 200 µs alone, caps";
    let case = alone.saturating(Axis::Programs, name, Row::MeanPrograms);
    cases.push(case.and_processes(0, 7, &kernels(200 * US)));
    cases
}

/// A neighbour that works and rests, as long each.
fn on_off() -> Vec<Case> {
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        for on_ms in [2_000, 200, 20] {
            let mut neighbour = kernels(300 * US);
            neighbour.phases = Some(OnOff {
                on_ns: on_ms * MS,
                off_ns: on_ms * MS,
            });
            let shares = promise.shares(2);
            let programs = [(shares[0], kernels(MS)), (shares[1], neighbour)];
            let name = format!("a neighbour of {on_ms} ms on and off, {}", promise.word());
            let asked = match promise {
                Promise::Cap => Judgement::Mean(Row::MeanNeighbours),
                Promise::Guarantee => Judgement::IdleUsed,
            };
            let case = Tenants::new(promise, &programs);
            let mut case = case.asked(Axis::OnOff, &name, vec![asked, Judgement::Stall]);
            case.wanted[1] = super::Wanted::Anything;
            let is_quick = promise == Promise::Guarantee && on_ms == 200;
            cases.push(if is_quick { case.quick() } else { case });
        }
    }
    cases
}

/// Requests of 20 kernels of 100 µs, every 10 ms on average: a fifth of the GPU.
fn inference() -> Program {
    let kernels = (0..20).map(|_| Operation::Kernel(Kernel::of_ns(100 * US)));
    let pace = Pace::Poisson {
        mean_pause_ns: 10 * MS,
    };
    Program::new(Work::Sequence(kernels.collect()), pace)
}

fn latencies() -> Vec<Case> {
    let neighbours = [
        ("100 µs", kernels(100 * US)),
        ("1 ms", kernels(MS)),
        ("20 ms", kernels(20 * MS)),
        ("graphs of 2 ms", graphs(2 * MS)),
    ];
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        for (what, neighbour) in &neighbours {
            let programs = [(50.0, inference()), (45.0, neighbour.clone())];
            let name = format!("50 % beside {what}, {}", promise.word());
            let case = Tenants::new(promise, &programs);
            let mut case = case.asked(Axis::Latency, &name, vec![Judgement::AddedP99]);
            case.duration_ns = 62 * S;
            let case = case.process(0, |plan| plan.sync_wait = SyncWait::Blocking);
            cases.push(if *what == "1 ms" {
                case.representative().quick()
            } else {
                case
            });
        }
    }
    let mut three = vec![(40.0, inference())];
    three.extend((0..3).map(|_| (20.0, kernels(MS))));
    let case = Tenants::new(Promise::Guarantee, &three);
    let mut case = case.asked(
        Axis::Latency,
        "40 % beside three of 1 ms, guarantees",
        vec![Judgement::AddedP99],
    );
    case.duration_ns = 62 * S;
    cases.push(case);
    cases
}

/// One tenant that may have everything.
fn alone() -> Vec<Case> {
    let programs = [
        ("5 µs", kernels(5 * US)),
        ("20 µs", kernels(20 * US)),
        ("200 µs", kernels(200 * US)),
        ("1 ms", kernels(MS)),
        ("20 ms", kernels(20 * MS)),
        ("graphs of 2 ms", graphs(2 * MS)),
        ("a mixture", mixture(1)),
    ];
    let mut cases = Vec::new();
    for (what, program) in programs {
        for streams in [1, 4] {
            let mut program = program.clone();
            program.streams = streams;
            let name = match streams {
                1 => what.to_owned(),
                _ => format!("{what}, {streams} streams"),
            };
            let case = Tenants::new(Promise::Guarantee, &[(30.0, program)]);
            let case = case.asked(Axis::Idle, &name, vec![Judgement::LostAlone]);
            cases.push(if name == "1 ms" {
                case.representative().quick()
            } else {
                case
            });
        }
    }
    cases
}

/// One that is capped at 30 %, and one that may have the rest.
fn beside_a_cap() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, [capped_ns, free_ns]) in [
        ("1 ms beside 1 ms", [MS, MS]),
        ("100 µs beside 100 µs", [100 * US; 2]),
        ("1 ms beside 100 µs", [MS, 100 * US]),
        ("10 ms beside 1 ms", [10 * MS, MS]),
    ] {
        let capped = Tenants::new(Promise::Cap, &[(30.0, kernels(capped_ns))]);
        let asked = vec![Judgement::Mean(Row::MeanNeighbours), Judgement::IdleUsed];
        let name = format!("30 % of {what}");
        let case = capped.asked(Axis::Idle, &name, asked);
        let case = case.with(Container::sharing("free", 40.0), kernels(free_ns));
        cases.push(if capped_ns == free_ns {
            case.representative().quick()
        } else {
            case
        });
    }
    cases
}
