//! What the model counts for an evaluator.

use super::*;
use crate::command::Command::{Copy, Memset};
use crate::command::CopyDirection::{
    DeviceToDevice, DeviceToHost, DeviceToPageable, HostToDevice, PageableToDevice,
};
use crate::command::{ContainerUsage, CopiedBytes, ProcessUsage};

const MIB: u64 = 1 << 20;

impl Bench {
    fn join(&mut self, container: &str) -> ProcessId {
        self.model.join(ProcessInfo {
            container: container.to_owned(),
            ..ProcessInfo::default()
        })
    }

    fn usage(&self, tenant: Tenant) -> ProcessUsage {
        self.model.usage_of(tenant.process).remove(0)
    }

    fn container(&mut self, name: &str) -> ContainerUsage {
        let rows = self.model.container_usage().into_iter();
        let mut rows = rows.filter(|row| row.container == name);
        let row = rows.next().unwrap();
        assert_eq!(rows.next(), None, "one row a container and device");
        row
    }

    fn takes(&mut self, process: ProcessId, bytes: u64) -> BlockId {
        let block = self.model.alloc(process, 0, bytes, AllocKind::Device);
        block.unwrap().id
    }
}

#[test]
fn a_backlogged_process_either_has_the_engine_or_waits_for_it() {
    let mut bench = Bench::new(exact());
    let tenants = [bench.tenant(), bench.tenant(), bench.tenant()];
    for tenant in tenants {
        (0..50).for_each(|_| bench.submit(tenant, kernel(MS)));
    }
    bench.finish();
    for tenant in tenants {
        let usage = bench.usage(tenant);
        let end_ns = bench.at(tenant.progress, 50).unwrap();
        assert_eq!(
            usage.gpu_busy_ns_total + usage.gpu_wait_ns_total,
            end_ns - 4 * US,
            "from the moment its first kernel can start"
        );
        assert!(usage.gpu_wait_ns_total > usage.gpu_busy_ns_total);
    }
}

#[test]
fn who_is_alone_or_idle_waits_for_nothing() {
    let mut bench = Bench::new(exact());
    let (alone, idle) = (bench.tenant(), bench.tenant());
    let other_stream = bench.stream(alone);
    (0..50).for_each(|_| bench.submit(alone, kernel(MS)));
    (0..50).for_each(|_| bench.submit(other_stream, kernel(MS)));
    bench.finish();
    assert_eq!(bench.usage(alone).gpu_wait_ns_total, 0);
    assert_eq!(bench.usage(idle).gpu_wait_ns_total, 0);
}

#[test]
fn bytes_are_counted_by_direction_for_the_process_and_for_the_device() {
    let mut bench = Bench::new(exact());
    let (a, b) = (bench.tenant(), bench.tenant());
    for (direction, bytes) in [
        (HostToDevice, 1),
        (PageableToDevice, 20),
        (DeviceToHost, 300),
        (DeviceToPageable, 4_000),
        (DeviceToDevice, 50_000),
    ] {
        bench.submit(a, Copy { direction, bytes });
    }
    bench.submit(a, Memset { bytes: MIB });
    let direction = HostToDevice;
    bench.submit(
        b,
        Copy {
            direction,
            bytes: 600_000,
        },
    );
    bench.finish();
    let copied = CopiedBytes {
        h2d_bytes_total: 21,
        d2h_bytes_total: 4_300,
        d2d_bytes_total: 50_000,
    };
    assert_eq!(bench.usage(a).copied, copied);
    let h2d_bytes_total = 600_021;
    let engine = bench.model.engine_usage(0).unwrap();
    assert_eq!(
        engine.copied,
        CopiedBytes {
            h2d_bytes_total,
            ..copied
        }
    );
    let busy_ns = bench.usage(a).copy_busy_ns_total + bench.usage(b).copy_busy_ns_total;
    assert_eq!(engine.h2d_busy_ns_total + engine.d2h_busy_ns_total, busy_ns);
}

#[test]
fn a_containers_peak_is_what_it_held_at_one_time() {
    let mut bench = Bench::new(exact());
    let (first, second) = (bench.join("a"), bench.join("a"));
    let neighbour = bench.join("b");
    let block = bench.takes(first, 100 * MIB);
    bench.takes(neighbour, 1_000 * MIB);
    bench.model.free(first, block).unwrap();
    bench.takes(second, 60 * MIB);
    let row = bench.container("a");
    assert_eq!(
        (row.memory_bytes_current, row.memory_bytes_peak),
        (60 * MIB, 100 * MIB)
    );
    bench.model.kill(second);
    bench.finish();
    let row = bench.container("a");
    assert_eq!(
        (row.memory_bytes_current, row.memory_bytes_peak),
        (0, 100 * MIB)
    );
    assert_eq!((row.processes_alive, row.processes_total), (1, 2));
}

#[test]
fn a_container_remembers_what_its_dead_did_after_they_are_forgotten() {
    let mut bench = Bench::new(exact());
    let generations = DEAD_PROCESSES_MAX as u64 + 300;
    for _ in 0..generations {
        let process = bench.join("a");
        let context = bench.model.create_context(process, 0).unwrap();
        let tenant = bench.stream(Tenant {
            process,
            context,
            stream: StreamId(0),
            progress: SemaphoreId(0),
        });
        bench.submit(tenant, kernel(MS));
        bench.finish();
        bench.model.kill(process);
        bench.finish();
    }
    let rows = bench.model.usage();
    assert_eq!(rows.len(), DEAD_PROCESSES_MAX);
    let row = bench.container("a");
    assert_eq!(row.kernels_total, generations);
    assert_eq!(row.processes_total, generations);
    let engine = bench.model.engine_usage(0).unwrap();
    assert_eq!(row.gpu_busy_ns_total, engine.gpu_busy_ns_total);
    let device = &bench.model.devices[0];
    assert_eq!(device.memory.free_bytes(), device.memory.total_bytes());
}

#[test]
fn a_dead_process_whose_memory_another_has_opened_is_not_forgotten() {
    let mut bench = Bench::new(exact());
    let (owner, guest) = (bench.join("owner"), bench.join("guest"));
    let block = bench.takes(owner, 100 * MIB);
    bench.model.open(guest, block).unwrap();
    bench.model.kill(owner);
    bench.finish();
    for _ in 0..=DEAD_PROCESSES_MAX {
        let process = bench.join("");
        bench.takes(process, 1);
        bench.model.kill(process);
        bench.finish();
    }
    assert_eq!(bench.container("owner").memory_bytes_current, 100 * MIB);
    assert_eq!(bench.model.usage()[0].memory_bytes_current, 100 * MIB);
    bench.model.free(guest, block).unwrap();
    assert_eq!(bench.container("owner").memory_bytes_current, 0);
}

#[test]
fn the_books_are_up_to_date_whenever_somebody_asks() {
    let mut bench = Bench::new(exact());
    let (a, b) = (bench.tenant(), bench.tenant());
    bench.submit(a, kernel(10 * MS));
    bench.submit(b, kernel(10 * MS));
    // In the middle of the first kernel's first slice, when nothing happens.
    bench.model.advance_to(MS);
    let rows = bench.model.usage();
    let engine = bench.model.engine_usage(0).unwrap();
    assert_eq!(rows[0].gpu_busy_ns_total, engine.gpu_busy_ns_total);
    let times = rows
        .iter()
        .map(|row| row.gpu_busy_ns_total + row.gpu_wait_ns_total);
    let latency_ns = exact().timing.launch_latency_ns;
    assert_eq!(times.collect::<Vec<_>>(), [MS - latency_ns; 2]);
}

#[test]
fn a_process_waits_once_with_however_many_contexts() {
    let mut bench = Bench::new(exact());
    let (first, other) = (bench.tenant(), bench.tenant());
    let mut second = other;
    second.context = bench.model.create_context(other.process, 0).unwrap();
    second.progress = bench.semaphore();
    second.stream = bench
        .model
        .create_stream(other.process, second.context, 0, second.progress, 0)
        .unwrap();
    for tenant in [first, other, second] {
        bench.submit(tenant, kernel(MS / 2));
    }
    bench.advance(MS / 4);
    let latency_ns = exact().timing.launch_latency_ns;
    assert_eq!(bench.usage(other).gpu_wait_ns_total, MS / 4 - latency_ns);
}

#[test]
fn the_time_with_contexts_is_that_from_a_first_to_a_last_one() {
    let mut bench = Bench::new(exact());
    let process = bench.join("");
    bench.advance(MS);
    let first = bench.model.create_context(process, 0).unwrap();
    bench.advance(3 * MS);
    let second = bench.model.create_context(process, 0).unwrap();
    bench.advance(4 * MS);
    bench.model.destroy_context(process, first).unwrap();
    bench.advance(6 * MS);
    bench.model.destroy_context(process, second).unwrap();
    bench.advance(9 * MS);
    bench.model.create_context(process, 0).unwrap();
    bench.advance(10 * MS);
    let usage = bench.model.usage_of(process).remove(0);
    assert_eq!(usage.context_begun_ns, MS);
    assert_eq!(usage.context_ns_total, 6 * MS);
}
