//! Tenants that always want more: kernels of every length and grid, graphs, mixtures.

use super::tenants::{Promise, Tenants, graphs, kernels, kernels_of, length, mixture};
use super::{Axis, Case, MS, US};
use crate::evaluation::row::Row;
use crate::evaluator::Program;

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    [
        lengths(),
        crowds(),
        grids(),
        long(),
        of_graphs(),
        mixtures(),
        pairs(),
        streams(),
    ]
    .concat()
}

/// From the smallest kernel that a host launches fast enough to one slice.
fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        for tenants in [1, 2, 4, 8] {
            if promise == Promise::Guarantee && tenants == 1 {
                continue; // it may have everything: the axis of idle capacity
            }
            for us in [5, 10, 20, 50, 100, 200, 500, 1_000, 2_000] {
                let (name, program) = alike(promise, tenants, us * US);
                let case = Tenants::alike(promise, tenants, &program);
                let case = case.saturating(Axis::Length, &name, Row::MeanShort);
                let case = if matches!((tenants, us), (2, 50 | 1_000) | (8, 1_000)) {
                    case.representative().quick()
                } else {
                    case
                };
                cases.push(case);
            }
        }
    }
    let name = "caps of 30 and 70 %, 1 ms, all of the GPU";
    let shares = [(30.0, kernels(MS)), (70.0, kernels(MS))];
    let whole = Tenants::new(Promise::Cap, &shares);
    let whole = whole.saturating(Axis::Length, name, Row::MeanShort);
    cases.push(whole.quick());
    cases
}

fn alike(promise: Promise, tenants: usize, kernel_ns: u64) -> (String, Program) {
    let what = length(kernel_ns);
    let name = format!("{tenants} × {what}, {}", promise.word());
    (name, kernels(kernel_ns))
}

fn crowds() -> Vec<Case> {
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        for tenants in [16, 32] {
            for kernel_ns in [100 * US, MS] {
                let (name, program) = alike(promise, tenants, kernel_ns);
                let case = Tenants::alike(promise, tenants, &program);
                cases.push(case.saturating(Axis::Length, &name, Row::MeanCrowd));
            }
        }
    }
    cases
}

/// A tenant of small or large grids beside one whose grid fills the GPU.
fn grids() -> Vec<Case> {
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        for kernel_ns in [20 * US, 200 * US, 2 * MS] {
            for blocks in [1, 16, 132, 500, 1_500, 4_000] {
                let shares = promise.shares(2);
                let programs = [
                    (shares[0], kernels_of(kernel_ns, blocks)),
                    (shares[1], kernels(500 * US)),
                ];
                let (word, what) = (promise.word(), length(kernel_ns));
                let name = format!("{blocks} blocks of {what} beside 500 µs, {word}");
                let case = Tenants::new(promise, &programs);
                let case = case.saturating(Axis::Grid, &name, Row::MeanShort);
                let is_quick = kernel_ns == 200 * US && matches!(blocks, 1 | 4_000);
                cases.push(if is_quick { case.quick() } else { case });
            }
        }
    }
    cases
}

fn long() -> Vec<Case> {
    let mut cases = Vec::new();
    for (promise, tenants) in [
        (Promise::Cap, 1),
        (Promise::Cap, 2),
        (Promise::Guarantee, 2),
    ] {
        for ms in [5, 10, 20, 50, 200] {
            let (name, program) = alike(promise, tenants, ms * MS);
            let case = Tenants::alike(promise, tenants, &program);
            let row = if ms > 20 {
                Row::MeanVeryLong
            } else {
                Row::MeanLong
            };
            let case = case.saturating(Axis::Long, &name, row);
            let case = if ms == 20 { case.quick() } else { case };
            let is_representative = ms == 20 && tenants == 2;
            cases.push(if is_representative {
                case.representative()
            } else {
                case
            });
        }
    }
    cases
}

fn of_graphs() -> Vec<Case> {
    let mut cases = Vec::new();
    for graph_ns in [2 * MS, 8 * MS] {
        let program = graphs(graph_ns);
        let kinds = [
            (Promise::Cap, 1),
            (Promise::Cap, 2),
            (Promise::Guarantee, 2),
            (Promise::Cap, 4),
        ];
        for (promise, tenants) in kinds {
            let name = format!(
                "{tenants} × graphs of {}, {}",
                length(graph_ns),
                promise.word()
            );
            let case = Tenants::alike(promise, tenants, &program);
            let case = case.saturating(Axis::Graphs, &name, Row::MeanGraphs);
            let is_representative = tenants == 2 && graph_ns == 2 * MS;
            cases.push(if is_representative {
                case.representative().quick()
            } else {
                case
            });
        }
    }
    for promise in Promise::BOTH {
        let shares = promise.shares(2);
        let programs = [(shares[0], graphs(2 * MS)), (shares[1], kernels(MS))];
        let name = format!("graphs of 2 ms beside 1 ms, {}", promise.word());
        let case = Tenants::new(promise, &programs);
        cases.push(case.saturating(Axis::Graphs, &name, Row::MeanGraphs));
    }
    cases
}

fn mixtures() -> Vec<Case> {
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        for tenants in [2, 4, 8] {
            let shares = promise.shares(tenants).into_iter().zip(1..);
            let programs: Vec<_> = shares.map(|(share, seed)| (share, mixture(seed))).collect();
            let name = format!("{tenants} mixtures of 8 µs to 2.5 ms, {}", promise.word());
            let case = Tenants::new(promise, &programs);
            let case = case.saturating(Axis::Mixed, &name, Row::MeanMixed);
            cases.push(if tenants == 4 {
                case.representative().quick()
            } else {
                case
            });
        }
    }
    cases
}

/// A short and a long kernel beside each other, each with the smaller share once.
fn pairs() -> Vec<Case> {
    let pairs = [
        (20 * US, MS),
        (20 * US, 10 * MS),
        (100 * US, 2_300 * US),
        (300 * US, 5 * MS),
        (100 * US, 20 * MS),
        (20 * US, 50 * MS),
    ];
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        for (short_ns, long_ns) in pairs {
            for is_short_first in [true, false] {
                let (less_ns, more_ns) = match is_short_first {
                    true => (short_ns, long_ns),
                    false => (long_ns, short_ns),
                };
                let shares = promise.shares(2);
                let programs = [(shares[0], kernels(less_ns)), (shares[1], kernels(more_ns))];
                let (less, more) = (length(less_ns), length(more_ns));
                let name = format!("{less} with less and {more} with more, {}", promise.word());
                let case = Tenants::new(promise, &programs);
                let case = case.saturating(Axis::Mixed, &name, Row::MeanMixed);
                let is_representative = short_ns == 20 * US && long_ns >= 10 * MS && is_short_first;
                let is_quick = short_ns == 300 * US && is_short_first;
                let case = if is_representative {
                    case.representative()
                } else {
                    case
                };
                cases.push(if is_quick { case.quick() } else { case });
            }
        }
    }
    cases
}

/// Four streams, so that kernels of one process run side by side where there is room.
fn streams() -> Vec<Case> {
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        for blocks in [16, 132, 1_024] {
            let mut program = kernels_of(100 * US, blocks);
            program.streams = 4;
            let shares = promise.shares(2);
            let programs = [(shares[0], program), (shares[1], kernels(500 * US))];
            let name = format!(
                "4 streams of {blocks} blocks beside 500 µs, {}",
                promise.word()
            );
            let case = Tenants::new(promise, &programs);
            cases.push(case.saturating(Axis::Streams, &name, Row::MeanStreams));
        }
    }
    cases
}
