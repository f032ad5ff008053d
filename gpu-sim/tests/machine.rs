//! One process and its machine: commands, completions, effects.
#![expect(clippy::unwrap_used, reason = "this is how a test fails")]
#![expect(unsafe_code, reason = "a test writes to device memory")]

mod support;

use gpu_sim::client::{Effect, RequestError};
use gpu_sim::command::{AllocKind, Command, CopyDirection, GraphNode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use support::{Sandbox, kernel};

#[test]
fn a_kernel_takes_its_modelled_time_between_two_events() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    let (start, end) = (
        machine.create_semaphore().unwrap(),
        machine.create_semaphore().unwrap(),
    );
    let signal = |event: &gpu_sim::client::SemaphoreHandle| Command::Signal {
        semaphore: event.id(),
        payload: event.next_payload(),
    };
    // Whatever the host does between submissions, the device gets them as one.
    let gate = machine.create_semaphore().unwrap();
    let payload = gate.next_payload();
    let semaphore = gate.id();
    machine
        .submit(&stream, Command::Wait { semaphore, payload })
        .unwrap();
    machine.submit(&stream, signal(&start)).unwrap();
    machine
        .submit(&stream, Command::Kernel(kernel(5_000)))
        .unwrap();
    machine.submit(&stream, signal(&end)).unwrap();
    machine.signal(&gate, payload).unwrap();
    let end_ns = machine.wait(&end, end.last_payload()).unwrap();
    let start_ns = machine.poll(&start, start.last_payload()).unwrap().unwrap();
    let elapsed_us = (end_ns - start_ns) / 1_000;
    assert!((4_500..5_500).contains(&elapsed_us), "{elapsed_us} µs");
    let usage = machine.usage().unwrap();
    assert_eq!(usage.len(), 1);
    assert_eq!(
        (usage[0].pid, usage[0].kernels_total),
        (std::process::id(), 1)
    );
    assert!(
        usage[0].gpu_busy_ns_total.abs_diff(end_ns - start_ns) < 50_000,
        "{usage:?}"
    );
}

#[test]
fn a_refused_alloc_leaves_nothing_charged() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let before = machine.memory(0).unwrap();
    let refused = machine.alloc(0, before.total_bytes + 1, AllocKind::Device);
    assert_eq!(refused, Err(RequestError::OutOfMemory));
    assert_eq!(machine.memory(0).unwrap(), before);
    let block = machine.alloc(0, 10 << 20, AllocKind::Device).unwrap();
    assert_eq!(
        machine.memory(0).unwrap().free_bytes,
        before.free_bytes - (10 << 20)
    );
    machine.free(block.id).unwrap();
    assert_eq!(machine.memory(0).unwrap(), before);
    assert_eq!(machine.free(block.id), Err(RequestError::Unknown));
}

#[test]
fn effects_run_in_order_of_completion_and_before_a_wait_returns() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    let (bytes, order) = (1 << 20, Arc::new(AtomicU32::new(0)));
    for nth in 0..10 {
        let order = Arc::clone(&order);
        let effect = Effect::OnWait(Box::new(move || {
            assert_eq!(order.fetch_add(1, SeqCst), nth);
        }));
        let direction = CopyDirection::HostToDevice;
        machine
            .submit_with(&stream, Command::Copy { direction, bytes }, effect)
            .unwrap();
    }
    let last = stream.submitted();
    machine.wait_stream(&stream, last).unwrap();
    assert_eq!(order.load(SeqCst), 10);
}

#[test]
fn a_host_call_runs_on_another_thread_and_blocks_its_stream_until_it_returns() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    let (go, wait_for_go) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = std::sync::mpsc::channel();
    let effect = Effect::HostCall(Box::new(move || {
        begin.send(std::thread::current().id()).unwrap();
        wait_for_go.recv().unwrap();
    }));
    let call = machine
        .submit_with(&stream, Command::HostCall, effect)
        .unwrap();
    let after = machine.submit(&stream, Command::Marker).unwrap();
    assert_ne!(begun.recv().unwrap(), std::thread::current().id());
    // Whatever the device was sent before, it has handled when it answers.
    machine.memory(0).unwrap();
    assert_eq!(machine.poll_stream(&stream, call).unwrap(), None);
    go.send(()).unwrap();
    machine.wait_stream(&stream, after).unwrap();
}

#[test]
fn a_graph_runs_its_nodes_with_their_effects_and_can_be_updated() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    let node = |command, dependencies: &[u32]| GraphNode {
        command,
        dependencies: dependencies.to_vec(),
        enabled: true,
    };
    let copy = Command::Copy {
        direction: CopyDirection::DeviceToHost,
        bytes: 4096,
    };
    let mut nodes = vec![node(Command::Kernel(kernel(100)), &[]), node(copy, &[0])];
    nodes.extend((2..600).map(|index| node(Command::Kernel(kernel(1)), &[index - 1])));
    let graph = machine.create_graph(&nodes).unwrap();
    let copied = Arc::new(AtomicU32::new(0));
    for launch in 1..=3 {
        machine
            .update_graph(&graph, 0, Command::Kernel(kernel(50)), launch != 3)
            .unwrap();
        let copied = Arc::clone(&copied);
        let effect = Effect::OnWait(Box::new(move || {
            copied.fetch_add(1, SeqCst);
        }));
        machine
            .submit_graph(&stream, &graph, vec![(1, effect)])
            .unwrap();
    }
    machine.wait_stream(&stream, 3).unwrap();
    assert_eq!(copied.load(SeqCst), 3);
    assert_eq!(machine.usage().unwrap()[0].kernels_total, 3 * 599 - 1);
}

#[test]
fn bytes_written_through_one_mapping_are_there_until_the_block_is_freed() {
    let sandbox = Sandbox::new();
    let (machine, other) = (sandbox.connect(), sandbox.connect());
    let block = machine.alloc(0, 4 << 20, AllocKind::Device).unwrap();
    let here = machine.vram(0, block.offset, block.bytes).unwrap();
    let there = other.vram(0, block.offset, block.bytes).unwrap();
    // SAFETY: the block is this test's own, and nothing else touches it.
    unsafe { here.write_bytes(0xa5, 4 << 20) };
    // SAFETY: as above.
    assert_eq!(unsafe { there.add((4 << 20) - 1).read_volatile() }, 0xa5);
    machine.free(block.id).unwrap();
    // SAFETY: as above; the bytes stay mapped after the block is freed.
    assert_eq!(unsafe { there.read_volatile() }, 0);
}

#[test]
fn an_effect_that_can_be_seen_without_a_wait_happens_without_one() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    let (seen, sees) = std::sync::mpsc::channel();
    let effect = Effect::HostVisible(Box::new(move || seen.send(()).unwrap()));
    let copy = Command::Copy {
        direction: CopyDirection::DeviceToHost,
        bytes: 4096,
    };
    machine.submit_with(&stream, copy, effect).unwrap();
    sees.recv().unwrap();
}

#[test]
fn what_a_destroyed_context_would_have_done_takes_no_room() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let never = machine.create_semaphore().unwrap();
    let (semaphore, payload) = (never.id(), never.next_payload());
    let undone = Arc::new(());
    for _ in 0..20 {
        let context = machine.create_context(0).unwrap();
        let stream = machine.create_stream(context, 0).unwrap();
        machine
            .submit(&stream, Command::Wait { semaphore, payload })
            .unwrap();
        for _ in 1..machine.profile().timing.queue_depth {
            let kept = Arc::clone(&undone);
            let effect = Effect::OnWait(Box::new(move || panic!("ran: {kept:?}")));
            machine
                .submit_with(&stream, Command::Marker, effect)
                .unwrap();
        }
        machine.destroy_context(context).unwrap();
        assert_eq!(Arc::strong_count(&undone), 1);
    }
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    let done = Arc::clone(&undone);
    let effect = Effect::OnWait(Box::new(move || drop(done)));
    let last = machine
        .submit_with(&stream, Command::Marker, effect)
        .unwrap();
    machine.wait_stream(&stream, last).unwrap();
    assert_eq!(Arc::strong_count(&undone), 1);
}

#[test]
fn threads_share_a_machine_and_a_stream() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 200;
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    let effects = Arc::new(AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let effects = Arc::clone(&effects);
                    let effect = Effect::OnWait(Box::new(move || {
                        effects.fetch_add(1, SeqCst);
                    }));
                    let command = Command::Kernel(kernel(1));
                    let last = machine.submit_with(&stream, command, effect).unwrap();
                    let block = machine.alloc(0, 100, AllocKind::Device).unwrap();
                    machine.wait_stream(&stream, last).unwrap();
                    machine.free(block.id).unwrap();
                }
            });
        }
    });
    assert_eq!(stream.completed(), THREADS * ROUNDS);
    assert_eq!(u64::from(effects.load(SeqCst)), THREADS * ROUNDS);
    assert_eq!(machine.usage().unwrap()[0].kernels_total, THREADS * ROUNDS);
}

#[test]
fn a_semaphore_that_was_given_back_starts_where_it_stood() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    for _ in 0..200 {
        let event = machine.create_semaphore().unwrap();
        let (semaphore, payload) = (event.id(), event.next_payload());
        machine.submit(&stream, Command::Kernel(kernel(5))).unwrap();
        machine
            .submit(&stream, Command::Signal { semaphore, payload })
            .unwrap();
        drop(event); // every other one is still to be raised
    }
    let event = machine.create_semaphore().unwrap();
    assert_eq!(machine.poll(&event, event.next_payload()).unwrap(), None);
    machine.wait_stream(&stream, stream.submitted()).unwrap();
    assert_eq!(machine.poll(&event, event.last_payload()).unwrap(), None);
}

#[test]
fn what_is_written_to_a_block_stays_though_its_bytes_were_just_freed() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    for round in 1..=100_u8 {
        let block = machine.alloc(0, 4 << 20, AllocKind::Device).unwrap();
        let bytes = machine.vram(0, block.offset, block.bytes).unwrap();
        // SAFETY: the block is this test's own, and nothing else touches it.
        unsafe { bytes.write_bytes(round, 4096) };
        machine.memory(0).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { bytes.read_volatile() }, round);
        machine.free(block.id).unwrap();
    }
}

#[test]
fn a_submission_waits_while_the_queue_is_full() {
    const QUEUE_DEPTH: u64 = 16;
    let mut sandbox = Sandbox::new();
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    let profile = format!("[timing]\nqueue_depth = {QUEUE_DEPTH}\n[[device]]\nprofile = \"t4\"\n");
    std::fs::write(&file, profile).unwrap();
    sandbox.profile = file.path().to_str().unwrap().to_owned();
    let machine = sandbox.connect();
    let context = machine.create_context(0).unwrap();
    let stream = machine.create_stream(context, 0).unwrap();
    // The first is so long that the others are there before it ends.
    for us in [200_000].into_iter().chain([20; 2 * QUEUE_DEPTH as usize]) {
        machine
            .submit(&stream, Command::Kernel(kernel(us)))
            .unwrap();
        assert!(stream.submitted() - stream.completed() <= QUEUE_DEPTH);
    }
    assert!(stream.completed() > QUEUE_DEPTH);
    machine.wait_stream(&stream, 1 + 2 * QUEUE_DEPTH).unwrap();
}
