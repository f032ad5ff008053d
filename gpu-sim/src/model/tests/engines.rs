//! Engines, streams, deaths.

use super::*;
use crate::command::Command::{Copy, HostCall, Marker, Signal, Wait};
use crate::command::CopyDirection::{DeviceToHost, HostToDevice};

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
        let (mut bench, a, b) = contend(MachineProfile::load("t4").unwrap(), kernel_ns);
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
    assert_eq!(usage.kernels_total, 1);
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
fn a_lower_payload_than_a_semaphore_has_changes_nothing() {
    let mut bench = Bench::new(exact());
    let tenant = bench.tenant();
    let event = bench.semaphore();
    for payload in [5, 3] {
        bench.submit(
            tenant,
            Signal {
                semaphore: event,
                payload,
            },
        );
    }
    bench.submit(
        tenant,
        Wait {
            semaphore: event,
            payload: 5,
        },
    );
    bench.finish();
    assert!(bench.at(tenant.progress, 3).is_some());
    let raises =
        |output: &&Output| matches!(output, Output::Raise { semaphore, .. } if *semaphore == event);
    assert_eq!(bench.outputs.iter().filter(raises).count(), 1);
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
fn a_more_urgent_stream_goes_before_one_that_waited_longer() {
    let mut bench = Bench::new(exact());
    let running = bench.tenant();
    let patient = bench.stream(running);
    let urgent = bench.stream_of_priority(running, -1);
    for tenant in [running, patient, urgent] {
        bench.submit(tenant, kernel(MS));
        bench.advance(bench.model.now_ns() + 10 * US);
    }
    bench.finish();
    let [running, patient, urgent] =
        [running, patient, urgent].map(|tenant| bench.at(tenant.progress, 1).unwrap());
    assert!(running < urgent && urgent < patient);
}

#[test]
fn a_destroyed_contexts_copy_makes_way_at_once() {
    let mut bench = Bench::new(exact());
    let (gone, other) = (bench.tenant(), bench.tenant());
    for tenant in [gone, other] {
        bench.submit(
            tenant,
            Copy {
                direction: HostToDevice,
                bytes: 120_000_000,
            },
        );
    }
    bench.advance(MS);
    bench
        .model
        .destroy_context(gone.process, gone.context)
        .unwrap();
    bench.finish();
    assert_eq!(bench.at(other.progress, 1), Some(MS + 10 * MS + 8 * US));
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

#[test]
fn a_sample_comes_late_at_random_and_never_early() {
    let mut profile = exact();
    let timing = &mut profile.timing;
    timing.sample_period_ns = 100 * MS;
    timing.sample_jitter_ns = 4 * MS;
    timing.samples_kept = 50;
    let mut bench = Bench::new(profile);
    bench.advance(10_000 * MS);
    let samples = bench.model.samples(0).unwrap();
    assert_eq!(samples.len(), 50);
    let late_ns = |sample: &Sample| sample.end_ns % (100 * MS);
    assert!(samples.iter().all(|sample| late_ns(sample) <= 4 * MS));
    assert!(samples.iter().any(|sample| late_ns(sample) > 3 * MS));
    assert!(samples[1..].iter().any(|sample| late_ns(sample) < MS));
}

#[test]
fn a_stepping_clock_changes_the_kernels_that_begin_later() {
    let mut profile = exact();
    profile.timing.clock_step_pause_ns = 100 * MS;
    profile.timing.clock_step_part = 0.3;
    let mut bench = Bench::new(profile);
    let tenant = bench.tenant();
    (0..500).for_each(|_| bench.submit(tenant, kernel(MS)));
    bench.advance(1_000 * MS);
    let ends_ns: Vec<u64> = (1..)
        .map_while(|kernel| bench.at(tenant.progress, kernel))
        .collect();
    let took_ns: Vec<u64> = ends_ns.windows(2).map(|ends| ends[1] - ends[0]).collect();
    assert!(
        took_ns[..98]
            .iter()
            .all(|took_ns| took_ns.abs_diff(MS) < US),
        "steady at first"
    );
    let (least, most) = (took_ns.iter().min().unwrap(), took_ns.iter().max().unwrap());
    assert!((MS * 10 / 13 - US..MS).contains(least), "{least}");
    assert!((MS + 1..=MS * 10 / 7 + US).contains(most), "{most}");
}

#[test]
fn an_event_tells_the_time_in_steps_of_its_resolution() {
    let mut profile = exact();
    profile.timing.event_resolution_ns = 500;
    let mut bench = Bench::new(profile);
    let tenant = bench.tenant();
    for ns in [1_234, 777, 1_999] {
        let semaphore = bench.semaphore();
        bench.submit(tenant, kernel(ns));
        bench.submit(
            tenant,
            Signal {
                semaphore,
                payload: 1,
            },
        );
        bench.finish();
        let sequence = bench.model.streams[&tenant.stream].last;
        let (event_ns, true_ns) = (
            bench.at(semaphore, 1).unwrap(),
            bench.at(tenant.progress, sequence).unwrap(),
        );
        assert_eq!(event_ns, true_ns / 500 * 500);
    }
}

#[test]
fn a_host_call_reaches_the_process_after_its_latency() {
    let mut profile = exact();
    profile.timing.host_call_latency_ns = 70 * US;
    let mut bench = Bench::new(profile);
    let tenant = bench.tenant();
    bench.submit_logged(tenant, HostCall, 7, &[]);
    bench.advance(4 * US + 70 * US - 1);
    assert_eq!(bench.tokens(), []);
    bench.advance(4 * US + 70 * US);
    assert_eq!(bench.tokens(), [7]);
}

#[test]
fn a_queue_is_as_deep_as_the_profile_says() {
    let mut profile = exact();
    profile.timing.queue_depth = 16;
    let mut bench = Bench::new(profile);
    let tenant = bench.tenant();
    (0..16).for_each(|_| bench.submit(tenant, kernel(MS)));
    let one_more = Submission {
        stream: tenant.stream,
        sequence: 17,
        submitted_ns: 0,
        token: 0,
        logged_nodes: Vec::new(),
        command: Marker,
    };
    assert!(bench.model.submit(tenant.process, one_more).is_err());
}
