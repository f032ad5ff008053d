//! The model in virtual time: no clock, no process, the same every time.

use super::*;
use crate::command::Command::{Copy, HostCall, Kernel, Marker, Signal, Wait};
use crate::command::CopyDirection::{DeviceToHost, HostToDevice};
use crate::command::KernelCost;
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const US: u64 = 1_000;

/// A T4 without spread, so that times can be told exactly.
fn exact() -> MachineProfile {
    let mut profile = MachineProfile::load("t4").unwrap();
    profile.timing.kernel_sigma = 0.0;
    profile.timing.kernel_fixed_ns = 0;
    profile
}

/// A kernel of `blocks` blocks of a T4's 160 that fit, for this long.
fn part_kernel(ns: u64, blocks: u32) -> KernelCost {
    KernelCost {
        grid: [blocks, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        registers_per_thread: 32,
        instructions_per_thread: ns * 1_590 / 8 / 1_000,
    }
}

fn kernel(ns: u64) -> Command {
    Kernel(part_kernel(ns, 160))
}

/// A model, one context a process, and what has been put out.
struct Bench {
    model: Model,
    outputs: Vec<Output>,
    semaphores: u32,
}

#[derive(Clone, Copy)]
struct Tenant {
    process: ProcessId,
    context: ContextId,
    stream: StreamId,
    progress: SemaphoreId,
}

impl Bench {
    fn new(profile: MachineProfile) -> Self {
        Self {
            model: Model::new(profile, 0),
            outputs: Vec::new(),
            semaphores: 0,
        }
    }

    fn semaphore(&mut self) -> SemaphoreId {
        self.semaphores += 1;
        SemaphoreId(self.semaphores)
    }

    fn tenant(&mut self) -> Tenant {
        let process = self.model.join(ProcessInfo::default());
        let context = self.model.create_context(process, 0).unwrap();
        self.stream(Tenant {
            process,
            context,
            stream: StreamId(0),
            progress: SemaphoreId(0),
        })
    }

    /// The same tenant with another stream.
    fn stream(&mut self, tenant: Tenant) -> Tenant {
        let progress = self.semaphore();
        let stream = self
            .model
            .create_stream(tenant.process, tenant.context, 0, progress, 0)
            .unwrap();
        Tenant {
            stream,
            progress,
            ..tenant
        }
    }

    fn submit(&mut self, tenant: Tenant, command: Command) {
        self.submit_logged(tenant, command, 0, &[]);
    }

    fn submit_logged(&mut self, tenant: Tenant, command: Command, token: u64, nodes: &[u32]) {
        let sequence = self.model.streams[&tenant.stream].last + 1;
        let submission = Submission {
            stream: tenant.stream,
            sequence,
            submitted_ns: self.model.now_ns(),
            token,
            logged_nodes: nodes.to_vec(),
            command,
        };
        self.model.submit(tenant.process, submission).unwrap();
    }

    fn advance(&mut self, now_ns: u64) {
        self.model.advance_to(now_ns);
        self.outputs.extend(self.model.take_outputs());
    }

    /// Lets everything happen that will happen by itself.
    fn finish(&mut self) {
        while let Some(next_ns) = self.model.next_event_ns() {
            self.advance(next_ns);
        }
        self.outputs.extend(self.model.take_outputs());
    }

    /// When a semaphore got this payload.
    fn at(&self, wanted: SemaphoreId, at_least: u64) -> Option<u64> {
        self.outputs.iter().find_map(|output| match *output {
            Output::Raise {
                semaphore,
                payload,
                at_ns,
                ..
            } if semaphore == wanted && payload >= at_least => Some(at_ns),
            _ => None,
        })
    }

    fn tokens(&self) -> Vec<u64> {
        let token = |output: &Output| match *output {
            Output::Log { token, .. } => Some(token),
            _ => None,
        };
        self.outputs.iter().filter_map(token).collect()
    }

    fn busy_ns(&self, tenant: Tenant) -> u64 {
        self.model.devices[0].compute.busy_ns(tenant.process)
    }

    fn graph(&mut self, tenant: Tenant, nodes: &[(Command, &[u32])]) -> Command {
        let graph = GraphId(self.model.graphs.len() as u64);
        let node = |&(command, dependencies): &(Command, &[u32])| GraphNode {
            command,
            dependencies: dependencies.to_vec(),
            enabled: true,
        };
        let nodes = nodes.iter().map(node).collect();
        self.model
            .append_to_graph(tenant.process, graph, nodes)
            .unwrap();
        Command::Graph { graph }
    }
}

/// Keeps both tenants' queues full with kernels of this length for a second.
fn contend(profile: MachineProfile, kernel_ns: u64) -> (Bench, Tenant, Tenant) {
    let mut bench = Bench::new(profile);
    let (a, b) = (bench.tenant(), bench.tenant());
    for ms in 0..1_000 {
        for tenant in [a, b] {
            while bench.model.streams[&tenant.stream].queue.len() < 500 {
                bench.submit(tenant, kernel(kernel_ns));
            }
        }
        bench.advance((ms + 1) * MS);
    }
    (bench, a, b)
}

#[test]
fn two_backlogged_contexts_get_half_each_with_a_few_percent_lost_to_switches() {
    for kernel_ns in [20 * US, 700 * US, 1_250 * US, 9 * MS] {
        let (bench, a, b) = contend(MachineProfile::load("t4").unwrap(), kernel_ns);
        let (a, b) = (bench.busy_ns(a) as f64, bench.busy_ns(b) as f64);
        assert!((a / (a + b) - 0.5).abs() < 0.005, "{kernel_ns}: {a} {b}");
        let lost = 1.0 - (a + b) / 1e9;
        assert!((0.01..0.05).contains(&lost), "{kernel_ns}: {lost} lost");
        let engine = bench.model.engine_usage(0).unwrap();
        assert_eq!(engine.gpu_busy_ns_total, (a + b) as u64);
        assert!(engine.switch_ns_total.abs_diff((lost * 1e9) as u64) < 50 * US);
    }
}

#[test]
fn alone_a_context_loses_nothing_to_slices() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    (0..50).for_each(|_| bench.submit(tenant, kernel(MS)));
    bench.finish();
    let end_ns = bench.at(tenant.progress, 50).unwrap();
    assert_eq!(end_ns, 4 * US + bench.busy_ns(tenant));
    assert_eq!(bench.model.engine_usage(0).unwrap().switch_ns_total, 0);
}

#[test]
fn a_raw_event_pair_is_inflated_by_the_neighbours_slices() {
    let pair = |neighbour: bool| {
        let mut bench = Bench::new(exact());
        let (a, b) = (bench.tenant(), bench.tenant());
        if neighbour {
            (0..100).for_each(|_| bench.submit(b, kernel(MS)));
        }
        let (start, end) = (bench.semaphore(), bench.semaphore());
        bench.submit(
            a,
            Signal {
                semaphore: start,
                payload: 1,
            },
        );
        bench.submit(a, kernel(10 * MS));
        bench.submit(
            a,
            Signal {
                semaphore: end,
                payload: 1,
            },
        );
        bench.finish();
        (
            bench.at(end, 1).unwrap() - bench.at(start, 1).unwrap(),
            bench.busy_ns(a),
        )
    };
    let (alone_ns, alone_busy_ns) = pair(false);
    let (contended_ns, contended_busy_ns) = pair(true);
    assert_eq!(alone_ns, alone_busy_ns);
    assert_eq!(contended_busy_ns, alone_busy_ns);
    assert!(
        contended_ns > alone_ns + 8 * MS,
        "{contended_ns} after {alone_ns}"
    );
}

#[test]
fn an_engine_that_runs_empty_goes_to_who_waits_at_once() {
    let mut bench = Bench::new(exact());
    let (a, b) = (bench.tenant(), bench.tenant());
    bench.submit(a, kernel(100 * US));
    bench.submit(b, kernel(100 * US));
    bench.finish();
    let first_end_ns = bench.at(a.progress, 1).unwrap();
    let second_end_ns = bench.at(b.progress, 1).unwrap();
    assert_eq!(second_end_ns, first_end_ns + 20 * US + bench.busy_ns(b));
}

#[test]
fn copies_of_both_directions_and_kernels_overlap() {
    let mut bench = Bench::new(exact());
    let kernels = bench.tenant();
    let (up, down) = (bench.stream(kernels), bench.stream(kernels));
    bench.submit(kernels, kernel(10 * MS));
    bench.submit(
        up,
        Copy {
            direction: HostToDevice,
            bytes: 120_000_000,
        },
    );
    bench.submit(
        down,
        Copy {
            direction: DeviceToHost,
            bytes: 120_000_000,
        },
    );
    bench.finish();
    let ends = [kernels, up, down].map(|tenant| bench.at(tenant.progress, 1).unwrap());
    for end_ns in ends {
        assert!(end_ns.abs_diff(10 * MS) < 20 * US, "{ends:?}");
    }
    let usage = &bench.model.usage()[0];
    assert_eq!(
        (usage.kernels_total, usage.copied_bytes_total),
        (1, 240_000_000)
    );
}

#[test]
fn copies_of_one_direction_wait_for_each_other() {
    let mut bench = Bench::new(exact());
    let (a, b) = (bench.tenant(), bench.tenant());
    bench.submit(
        a,
        Copy {
            direction: HostToDevice,
            bytes: 120_000_000,
        },
    );
    bench.submit(
        b,
        Copy {
            direction: HostToDevice,
            bytes: 120_000_000,
        },
    );
    bench.finish();
    let each_ns = 10 * MS + 8 * US;
    assert_eq!(bench.at(a.progress, 1), Some(4 * US + each_ns));
    assert_eq!(bench.at(b.progress, 1), Some(4 * US + 2 * each_ns));
}

#[test]
fn a_stream_waits_for_an_event_of_another() {
    let mut bench = Bench::new(exact());
    let first = bench.tenant();
    let second = bench.stream(first);
    let event = bench.semaphore();
    bench.submit(
        second,
        Wait {
            semaphore: event,
            payload: 1,
        },
    );
    bench.submit(second, Marker);
    bench.submit(first, kernel(5 * MS));
    bench.submit(
        first,
        Signal {
            semaphore: event,
            payload: 1,
        },
    );
    bench.finish();
    assert!(bench.at(second.progress, 2).unwrap() >= bench.at(event, 1).unwrap());
    assert_eq!(bench.at(second.progress, 2), bench.at(event, 1));
}

#[test]
fn a_host_call_blocks_its_stream_until_it_is_acknowledged() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    bench.submit_logged(tenant, HostCall, 7, &[]);
    bench.submit_logged(tenant, kernel(MS), 8, &[]);
    bench.finish();
    assert_eq!(
        (bench.tokens(), bench.at(tenant.progress, 1)),
        (vec![7], None)
    );
    bench.advance(10 * MS);
    bench.model.host_call_done(tenant.process, 7).unwrap();
    bench.finish();
    assert_eq!(bench.tokens(), [7, 8]);
    assert_eq!(bench.at(tenant.progress, 1), Some(10 * MS));
    assert!(
        bench.model.host_call_done(tenant.process, 7).is_err(),
        "acknowledged twice"
    );
}

#[test]
fn kernels_of_two_streams_run_together_where_they_fit() {
    let together = |blocks: u32| {
        let mut bench = Bench::new(exact());
        let a = bench.tenant();
        let b = bench.stream(a);
        for tenant in [a, b] {
            // Issue-limited at 160 blocks and latency-limited below, so measure rather than presume.
            bench.submit(tenant, Kernel(part_kernel(5 * MS, blocks)));
        }
        bench.finish();
        let ends = [a, b].map(|tenant| bench.at(tenant.progress, 1).unwrap());
        (ends, bench.busy_ns(a))
    };
    let (ends, busy_ns) = together(80);
    assert_eq!(ends[0], ends[1], "half of the engine each");
    assert_eq!(
        busy_ns,
        ends[0] - 4 * US,
        "the engine is busy once, not twice"
    );
    let (ends, _) = together(160);
    assert_eq!(
        ends[1] - 4 * US,
        2 * (ends[0] - 4 * US),
        "the whole engine each"
    );
}

#[test]
fn a_killed_process_leaves_memory_and_engine_to_the_others() {
    let mut bench = Bench::new(exact());
    let (dead, other) = (bench.tenant(), bench.tenant());
    let before = bench.model.memory(0).unwrap().free_bytes;
    bench
        .model
        .alloc(dead.process, 0, 1 << 30, AllocKind::Device)
        .unwrap();
    for tenant in [dead, other] {
        (0..100).for_each(|_| bench.submit(tenant, kernel(MS)));
    }
    bench.advance(20 * MS);
    bench.model.kill(dead.process);
    bench.advance(29 * MS);
    assert!(
        bench.model.memory(0).unwrap().free_bytes < before,
        "not before the delay"
    );
    bench.advance(30 * MS);
    let busy_ns = bench.busy_ns(dead);
    let context_bytes = 109_051_904;
    assert_eq!(
        bench.model.memory(0).unwrap().free_bytes,
        before + context_bytes
    );
    bench.finish();
    assert_eq!(bench.busy_ns(dead), busy_ns);
    assert!(bench.at(other.progress, 100).is_some());
    let rows = bench.model.usage();
    let row = rows.iter().find(|row| !row.alive).unwrap();
    assert_eq!((row.memory_bytes_current, row.contexts), (0, 0));
    assert!(row.memory_bytes_peak > 1 << 30);
}

#[test]
fn the_contexts_of_a_process_share_nothing_with_a_destroyed_one() {
    let mut bench = Bench::new(exact());
    let first = bench.tenant();
    let second = Tenant {
        context: bench.model.create_context(first.process, 0).unwrap(),
        ..first
    };
    let second = bench.stream(second);
    for tenant in [first, second] {
        (0..10).for_each(|_| bench.submit(tenant, kernel(MS)));
    }
    bench.advance(3 * MS);
    bench
        .model
        .destroy_context(first.process, first.context)
        .unwrap();
    bench.finish();
    assert_eq!(bench.at(first.progress, 10), None);
    assert!(bench.at(second.progress, 10).is_some());
    assert!(
        bench
            .model
            .destroy_context(first.process, first.context)
            .is_err()
    );
}

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

#[test]
fn what_a_process_does_not_own_is_refused() {
    let mut bench = Bench::new(exact());
    let (a, b) = (bench.tenant(), bench.tenant());
    let block = bench
        .model
        .alloc(a.process, 0, 1, AllocKind::Device)
        .unwrap()
        .id;
    assert!(bench.model.free(b.process, block).is_err());
    assert!(bench.model.destroy_context(b.process, a.context).is_err());
    assert!(
        bench
            .model
            .create_stream(b.process, a.context, 0, SemaphoreId(9), 0)
            .is_err()
    );
    assert!(bench.model.destroy_stream(b.process, a.stream).is_err());
    assert!(
        bench
            .model
            .alloc(a.process, 1, 1, AllocKind::Device)
            .is_err(),
        "no such device"
    );
    let submission = |sequence| Submission {
        stream: a.stream,
        sequence,
        submitted_ns: 0,
        token: 0,
        logged_nodes: Vec::new(),
        command: Marker,
    };
    assert!(
        bench.model.submit(b.process, submission(1)).is_err(),
        "another's stream"
    );
    assert!(
        bench.model.submit(a.process, submission(2)).is_err(),
        "out of order"
    );
    let loops = GraphNode {
        command: Marker,
        dependencies: vec![0],
        enabled: true,
    };
    assert!(
        bench
            .model
            .append_to_graph(a.process, GraphId(0), vec![loops])
            .is_err()
    );
}

#[test]
fn samples_show_how_busy_the_engine_was_and_who_was_on_it() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    (0..500).for_each(|_| bench.submit(tenant, kernel(MS)));
    bench.advance(11_000 * MS);
    let samples = bench.model.samples(0).unwrap();
    assert_eq!(samples.len(), 72);
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    (0..500).for_each(|_| bench.submit(tenant, kernel(MS)));
    bench.advance(1_000 * MS);
    let samples = bench.model.samples(0).unwrap();
    assert_eq!(
        (samples[1].gpu_percent, samples[1].process),
        (100, Some(tenant.process))
    );
    assert_eq!((samples[6].gpu_percent, samples[6].process), (0, None));
}

#[derive(Clone, Debug)]
enum Step {
    Kernel { tenant: usize, us: u64, blocks: u32 },
    Copy { tenant: usize, bytes: u64 },
    Advance { us: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3_usize, 1..5_000_u64, 1..400_u32).prop_map(|(tenant, us, blocks)| Step::Kernel {
            tenant,
            us,
            blocks
        }),
        (0..3_usize, 0..50_000_000_u64).prop_map(|(tenant, bytes)| Step::Copy { tenant, bytes }),
        (1..3_000_u64).prop_map(|us| Step::Advance { us }),
    ];
    prop::collection::vec(step, 1..120)
}

fn play(steps: &[Step]) -> Bench {
    let mut bench = Bench::new(MachineProfile::load("t4").unwrap());
    let tenants = [bench.tenant(), bench.tenant(), bench.tenant()];
    for step in steps {
        match *step {
            Step::Kernel { tenant, us, blocks } => {
                bench.submit(tenants[tenant], Kernel(part_kernel(us * US, blocks)));
            }
            Step::Copy { tenant, bytes } => {
                bench.submit(
                    tenants[tenant],
                    Copy {
                        direction: HostToDevice,
                        bytes,
                    },
                );
            }
            Step::Advance { us } => {
                let now_ns = bench.model.now_ns();
                bench.advance(now_ns + us * US);
            }
        }
    }
    bench.finish();
    bench
}

proptest! {
    #[test]
    fn the_same_seed_gives_the_same_history(steps in steps()) {
        let (once, twice) = (play(&steps), play(&steps));
        prop_assert_eq!(once.outputs, twice.outputs);
        prop_assert_eq!(once.model.usage(), twice.model.usage());
    }

    #[test]
    fn everything_completes_and_the_engines_time_adds_up(steps in steps()) {
        let bench = play(&steps);
        prop_assert!(bench.model.streams.values().all(|stream| stream.queue.is_empty()));
        let engine = bench.model.engine_usage(0).unwrap();
        let busy_ns: u64 = bench.model.usage().iter().map(|row| row.gpu_busy_ns_total).sum();
        prop_assert_eq!(busy_ns, engine.gpu_busy_ns_total);
        prop_assert!(busy_ns + engine.switch_ns_total <= bench.model.now_ns());
    }

    #[test]
    fn it_does_not_matter_how_often_the_model_is_advanced(steps in steps()) {
        let finer: Vec<Step> = steps
            .iter()
            .flat_map(|step| match *step {
                Step::Advance { us } => {
                    let mut parts = vec![Step::Advance { us: 37 }; us as usize / 37];
                    parts.push(Step::Advance { us: us % 37 });
                    parts
                }
                _ => vec![step.clone()],
            })
            .collect();
        prop_assert_eq!(play(&steps).outputs, play(&finer).outputs);
    }
}
