//! What changes while tenants run, and what goes wrong.

use super::tenants::{Promise, Tenants, graphs, kernels};
use super::{Axis, Case, Judgement, MS, S, US};
use crate::evaluation::row::Row;
use crate::evaluator::{Change, Container, Program};

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    [
        joins(),
        crowd_comes(),
        changes(),
        stops(),
        kills(),
        unmanaged(),
    ]
    .concat()
}

/// Settled to these shares of the time from `at_s` to `until_s`.
fn settles(row: Row, at_s: u64, until_s: u64, shares: &[f64]) -> Judgement {
    Judgement::Settle {
        row,
        at_ns: at_s * S,
        until_ns: until_s * S,
        shares: shares.iter().copied().map(Some).collect(),
    }
}

/// One with 70 % guaranteed joins one with 30 at 5 s and leaves at 9 s.
fn joins() -> Vec<Case> {
    let pairs = [
        ("300 µs joins 1 ms", [kernels(MS), kernels(300 * US)]),
        ("20 µs joins 20 µs", [kernels(20 * US), kernels(20 * US)]),
        ("1 ms joins 10 ms", [kernels(10 * MS), kernels(MS)]),
        ("graphs of 2 ms join 1 ms", [kernels(MS), graphs(2 * MS)]),
    ];
    let mut cases = Vec::new();
    for (what, [stays, comes]) in pairs {
        let programs = [(30.0, stays.clone()), (70.0, comes.clone())];
        let case = Tenants::new(Promise::Guarantee, &programs);
        let asked = vec![
            settles(Row::Settle, 5, 9, &[0.3, 0.7]),
            settles(Row::Settle, 9, 12, &[1.0, 0.0]),
        ];
        let case = case.asked(Axis::Changes, &format!("{what}, guarantees"), asked);
        let case = case.process(1, |plan| {
            (plan.joins_ns, plan.leaves_ns) = (5 * S, Some(9 * S));
        });
        cases.push(if what.starts_with("300") {
            case.representative().quick()
        } else {
            case
        });
        let programs = [(30.0, stays), (60.0, comes)];
        let case = Tenants::new(Promise::Cap, &programs);
        let asked = vec![
            settles(Row::Settle, 5, 9, &[0.3, 0.6]),
            settles(Row::Settle, 9, 12, &[0.3, 0.0]),
        ];
        let case = case.asked(Axis::Changes, &format!("{what}, caps"), asked);
        cases.push(case.process(1, |plan| {
            (plan.joins_ns, plan.leaves_ns) = (5 * S, Some(9 * S));
        }));
    }
    cases
}

/// Three at once join one that has had everything.
fn crowd_comes() -> Vec<Case> {
    let case = Tenants::alike(Promise::Guarantee, 4, &kernels(500 * US));
    let asked = vec![settles(Row::Settle, 5, 12, &[0.1, 0.2, 0.3, 0.4])];
    let mut case = case.asked(Axis::Changes, "three join at once, guarantees", asked);
    for index in 1..4 {
        case = case.process(index, |plan| plan.joins_ns = 5 * S);
    }
    vec![case]
}

/// What is promised changes at 6 s.
fn changes() -> Vec<Case> {
    let change = |container, share_percent, cap_percent| Change {
        at_ns: 6 * S,
        container,
        share_percent,
        cap_percent,
    };
    let mut cases = Vec::new();
    for (what, program) in [("1 ms", kernels(MS)), ("50 µs", kernels(50 * US))] {
        let programs = [(30.0, program.clone()), (70.0, program.clone())];
        let case = Tenants::new(Promise::Guarantee, &programs);
        let name = format!("30 and 70 % become 70 and 30, {what}, guarantees");
        let asked = vec![settles(Row::Settle, 6, 12, &[0.7, 0.3])];
        let mut case = case.asked(Axis::Changes, &name, asked);
        case.changes = vec![change(0, 70.0, None), change(1, 30.0, None)];
        cases.push(case);
        for (from, to) in [(20.0, 60.0), (60.0, 20.0)] {
            let case = Tenants::new(Promise::Cap, &[(from, program.clone())]);
            let name = format!("{from} % become {to}, {what}, caps");
            let asked = vec![settles(Row::Settle, 6, 12, &[to / 100.0])];
            let mut case = case.asked(Axis::Changes, &name, asked);
            case.changes = vec![change(0, to, Some(to))];
            cases.push(case);
        }
    }
    cases
}

/// Two of them, of which the second meets something.
fn pair(promise: Promise, programs: [Program; 2]) -> Tenants {
    let shares = promise.shares(2);
    let [first, second] = programs;
    Tenants::new(promise, &[(shares[0], first), (shares[1], second)])
}

/// The second is stopped at 5 s, and goes on at 8 s.
fn stops() -> Vec<Case> {
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        let shares = promise.shares(2);
        let [first, second] = [shares[0] / 100.0, shares[1] / 100.0];
        let rest = if promise == Promise::Cap { first } else { 1.0 };
        let asked = vec![
            settles(Row::SettleFaults, 5, 8, &[rest, 0.0]),
            settles(Row::SettleFaults, 8, 12, &[first, second]),
        ];
        for (what, ns) in [("1 ms", MS), ("50 µs", 50 * US)] {
            let name = format!("one of {what} is stopped for 3 s, {}", promise.word());
            let case = pair(promise, [kernels(MS), kernels(ns)]);
            let case = case.asked(Axis::Faults, &name, asked.clone());
            cases.push(case.process(1, |plan| plan.stopped_ns = Some(5 * S..8 * S)));
        }
    }
    cases
}

/// The second is killed in the middle of a kernel.
fn kills() -> Vec<Case> {
    let mut cases = Vec::new();
    for promise in Promise::BOTH {
        for ms in [1, 20, 200] {
            let rest = if promise == Promise::Cap { 0.3 } else { 1.0 };
            let name = format!("one of {ms} ms is killed, {}", promise.word());
            let case = pair(promise, [kernels(MS), kernels(ms * MS)]);
            let asked = vec![settles(Row::SettleFaults, 6, 12, &[rest, 0.0])];
            let case = case.asked(Axis::Faults, &name, asked);
            cases.push(case.process(1, |plan| plan.killed_ns = Some(6 * S + 300 * US)));
        }
    }
    cases
}

/// A third process, which nobody knows of, always wants more. What it leaves is divided as was promised.
fn unmanaged() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, ns) in [("100 µs", 100 * US), ("1 ms", MS), ("10 ms", 10 * MS)] {
        let alone = Tenants::new(Promise::Cap, &[(30.0, kernels(MS))]);
        let name = format!("30 % of 1 ms beside an unmanaged process of {what}");
        let case = alone.asked(
            Axis::Faults,
            &name,
            vec![Judgement::Mean(Row::MeanNeighbours)],
        );
        cases.push(case.with(Container::unmanaged("unmanaged"), kernels(ns)));
    }
    cases
}
