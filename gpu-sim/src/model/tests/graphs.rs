//! Graphs: order, gaps, updates.

use super::*;
use crate::command::Command::Signal;

#[test]
fn a_graphs_nodes_follow_what_they_depend_on_by_a_gap() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    let mark = [1, 2, 3, 4].map(|payload| Signal {
        semaphore: SemaphoreId(99),
        payload,
    });
    // 0 → 1, 2 → 3: a diamond of a kernel, two marks and a mark.
    let graph = bench.graph(
        tenant,
        &[
            (kernel(MS), &[]),
            (mark[0], &[0]),
            (mark[1], &[0]),
            (mark[2], &[1, 2]),
        ],
    );
    bench.submit_logged(tenant, graph, 40, &[3, 0]);
    bench.finish();
    let start_ns = 4 * US + 3 * US + 4 * 10;
    let kernel_ns = bench.busy_ns(tenant);
    assert_eq!(
        bench.at(SemaphoreId(99), 1),
        Some(start_ns + kernel_ns + US)
    );
    assert_eq!(
        bench.at(SemaphoreId(99), 2),
        Some(start_ns + kernel_ns + US)
    );
    assert_eq!(
        bench.at(SemaphoreId(99), 3),
        Some(start_ns + kernel_ns + 2 * US)
    );
    assert_eq!(bench.at(tenant.progress, 1), bench.at(SemaphoreId(99), 3));
    assert_eq!(
        bench.tokens(),
        [41, 40],
        "node 0 is logged second, so as token + 1"
    );
}

#[test]
fn what_is_behind_a_node_that_is_switched_off_follows_what_was_before_it() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    let mark = Signal {
        semaphore: SemaphoreId(99),
        payload: 1,
    };
    let graph = bench.graph(
        tenant,
        &[(kernel(MS), &[]), (kernel(MS), &[0]), (mark, &[1])],
    );
    let id = GraphId(0);
    bench
        .model
        .update_graph(tenant.process, id, 1, kernel(MS), false)
        .unwrap();
    bench.submit(tenant, graph);
    bench.finish();
    let start_ns = 4 * US + 3 * US + 3 * 10;
    let one_gap_later = start_ns + bench.busy_ns(tenant) + US;
    assert_eq!(bench.at(SemaphoreId(99), 1), Some(one_gap_later));
}

#[test]
fn an_update_of_a_graph_changes_later_launches_only() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    let graph = bench.graph(tenant, &[(kernel(MS), &[])]);
    bench.submit(tenant, graph);
    let id = GraphId(0);
    bench
        .model
        .update_graph(tenant.process, id, 0, kernel(3 * MS), true)
        .unwrap();
    bench.submit(tenant, graph);
    bench
        .model
        .update_graph(tenant.process, id, 0, kernel(3 * MS), false)
        .unwrap();
    bench.submit(tenant, graph);
    bench.model.destroy_graph(tenant.process, id).unwrap();
    bench.finish();
    let busy_ms = (bench.busy_ns(tenant) + MS / 2) / MS;
    assert_eq!((busy_ms, bench.model.usage()[0].kernels_total), (4, 2));
    assert!(bench.at(tenant.progress, 3).is_some());
}

#[test]
fn a_graph_keeps_the_engine_between_its_nodes() {
    let mut bench = Bench::new(exact());
    let (a, b) = (bench.tenant(), bench.tenant());
    let chain: Vec<Vec<u32>> = (0..10_u32)
        .map(|index| index.checked_sub(1).into_iter().collect())
        .collect();
    let nodes: Vec<(Command, &[u32])> = chain
        .iter()
        .map(|dependencies| (kernel(50 * US), &dependencies[..]))
        .collect();
    let graph = bench.graph(a, &nodes);
    bench.submit(a, graph);
    bench.advance(10 * US);
    bench.submit(b, kernel(MS));
    bench.finish();
    let engine = bench.model.engine_usage(0).unwrap();
    assert_eq!(
        (
            engine.switches_voluntary_total,
            engine.switches_preemptive_total
        ),
        (1, 0)
    );
    assert!(bench.at(b.progress, 1) > bench.at(a.progress, 1));
}
