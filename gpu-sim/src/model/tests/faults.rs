//! Kernels that fault.

use super::*;
use crate::command::Command::{FaultingKernel, HostCall, Signal, Wait};
use crate::command::CopyDirection;

/// A kernel of a millisecond that faults at its end.
fn faulting() -> Command {
    FaultingKernel(part_kernel(MS, 160))
}

#[test]
fn after_a_fault_nothing_of_its_context_runs_and_nobody_waits_for_it() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    let beside = bench.stream(tenant);
    bench.submit_logged(tenant, faulting(), 7, &[]);
    bench.submit_logged(tenant, kernel(MS), 8, &[]);
    bench.submit(beside, kernel(5 * MS));
    let copy = Command::Copy {
        direction: CopyDirection::HostToDevice,
        bytes: 1 << 20,
    };
    bench.submit_logged(beside, copy, 9, &[]);
    bench.finish();
    assert_eq!(bench.tokens(), [7], "the fault is told, the rest was not");
    assert_eq!(bench.model.usage()[0].kernels_total, 1);
    let fault_ns = bench.at(tenant.progress, 1);
    assert!(fault_ns.is_some());
    assert_eq!(bench.at(tenant.progress, 2), fault_ns);
    assert_eq!(bench.at(beside.progress, 2), fault_ns);
    bench.submit_logged(tenant, kernel(MS), 10, &[]);
    bench.finish();
    assert!(bench.at(tenant.progress, 3).is_some());
    assert_eq!(bench.tokens(), [7], "nor is anything that comes later");
}

#[test]
fn other_contexts_of_the_process_and_other_processes_go_on() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    let context = bench.model.create_context(tenant.process, 0).unwrap();
    let sibling = bench.stream(Tenant { context, ..tenant });
    let neighbour = bench.tenant();
    bench.submit(tenant, faulting());
    for other in [sibling, neighbour] {
        bench.submit(other, kernel(2 * MS));
    }
    bench.finish();
    for other in [sibling, neighbour] {
        assert!(bench.at(other.progress, 1).is_some());
    }
    let usage = bench.model.usage();
    let kernels: u64 = usage.iter().map(|row| row.kernels_total).sum();
    assert_eq!(kernels, 3);
}

#[test]
fn what_was_to_be_raised_is_raised() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    let context = bench.model.create_context(tenant.process, 0).unwrap();
    let sibling = bench.stream(Tenant { context, ..tenant });
    let [plain, of_node] = [90, 91].map(|semaphore| Signal {
        semaphore: SemaphoreId(semaphore),
        payload: 1,
    });
    bench.submit(tenant, faulting());
    bench.submit(tenant, plain);
    let graph = bench.graph(tenant, &[(kernel(MS), &[]), (of_node, &[0])]);
    bench.submit(tenant, graph);
    for semaphore in [90, 91] {
        let semaphore = SemaphoreId(semaphore);
        bench.submit(
            sibling,
            Wait {
                semaphore,
                payload: 1,
            },
        );
    }
    bench.finish();
    assert!(bench.at(sibling.progress, 2).is_some());
}

#[test]
fn a_node_that_faults_ends_its_launch() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    let nodes: [(Command, &[u32]); 3] = [(faulting(), &[]), (kernel(MS), &[0]), (kernel(MS), &[])];
    let graph = bench.graph(tenant, &nodes);
    bench.submit_logged(tenant, graph, 1, &[0, 1, 2]);
    bench.finish();
    assert!(bench.at(tenant.progress, 1).is_some());
    assert!(!bench.tokens().contains(&2), "what follows it is not done");
    bench
        .model
        .destroy_context(tenant.process, tenant.context)
        .unwrap();
}

#[test]
fn a_host_call_that_was_told_may_return_and_one_that_was_not_is_never_told() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    let [told, late] = [bench.stream(tenant), bench.stream(tenant)];
    bench.submit_logged(told, HostCall, 5, &[]);
    bench.submit(late, kernel(40 * US));
    bench.submit_logged(late, HostCall, 6, &[]);
    bench.submit(tenant, FaultingKernel(part_kernel(40 * US, 160)));
    bench.finish();
    assert_eq!(bench.tokens(), [5]);
    bench.model.host_call_done(tenant.process, 5).unwrap();
}
