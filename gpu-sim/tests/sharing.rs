//! What processes give each other: blocks, descriptors, semaphores of the machine.
#![expect(clippy::unwrap_used, reason = "this is how a test fails")]
#![expect(unsafe_code, reason = "a test writes to device memory")]

mod support;

use gpu_sim::client::{Imported, Machine, RequestError};
use gpu_sim::command::{AllocKind, Binding, Command, Exported, GraphNode};
use std::os::fd::OwnedFd;
use support::{Sandbox, kernel, until};

const PAGE: u64 = 2 << 20;

/// Waits until as many bytes are free; the device tells nobody when a descriptor is closed.
fn free_becomes(machine: &Machine, bytes: u64) {
    until("memory is back", || {
        machine.memory(0).unwrap().free_bytes == bytes
    });
}

#[test]
fn a_block_that_another_process_opened_has_the_same_bytes_and_lives_until_both_let_go() {
    let sandbox = Sandbox::new();
    let (owner, guest) = (sandbox.connect(), sandbox.connect());
    let before = owner.memory(0).unwrap().free_bytes;
    let block = owner.alloc(0, PAGE - 7, AllocKind::Device).unwrap();
    assert_eq!(guest.open(block.id).unwrap(), block);
    let byte = |machine: &Machine| machine.vram(0, block.offset, 1).unwrap();
    // SAFETY: both processes hold the block, and nothing else touches it.
    unsafe { byte(&owner).write(42) };
    owner.free(block.id).unwrap();
    assert_eq!(owner.free(block.id), Err(RequestError::Unknown));
    // SAFETY: as above.
    assert_eq!(unsafe { byte(&guest).read() }, 42);
    assert_eq!(owner.memory(0).unwrap().free_bytes, before - PAGE);
    let usage = guest.usage().unwrap();
    let held: Vec<u64> = usage.iter().map(|row| row.memory_bytes_current).collect();
    assert_eq!(held, [PAGE], "the owner's, in the books");
    guest.free(block.id).unwrap();
    assert_eq!(owner.memory(0).unwrap().free_bytes, before);
    assert_eq!(guest.open(block.id), Err(RequestError::Unknown));
}

#[test]
fn an_exported_descriptor_keeps_memory_until_its_last_copy_is_closed() {
    let sandbox = Sandbox::new();
    let (owner, guest) = (sandbox.connect(), sandbox.connect());
    let before = owner.memory(0).unwrap().free_bytes;
    let block = owner.alloc(0, PAGE, AllocKind::Physical).unwrap();
    let descriptor = owner.export(Exported::Block(block.id)).unwrap();
    let copy = descriptor.try_clone().unwrap();
    owner.free(block.id).unwrap();
    drop(descriptor);
    assert_eq!(guest.import(&copy).unwrap(), Imported::Block(block));
    drop(copy);
    guest.free(block.id).unwrap();
    free_becomes(&owner, before);
}

#[test]
fn a_stranger_to_a_block_cannot_export_it_and_other_descriptors_are_none_of_ours() {
    let sandbox = Sandbox::new();
    let (owner, stranger) = (sandbox.connect(), sandbox.connect());
    let block = owner.alloc(0, PAGE, AllocKind::Physical).unwrap();
    let refused = stranger.export(Exported::Block(block.id));
    assert_eq!(refused.unwrap_err(), RequestError::Unknown);
    let (pipe, _write_end) = std::io::pipe().unwrap();
    let pipe: OwnedFd = pipe.into();
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    for descriptor in [pipe, null] {
        assert_eq!(stranger.import(descriptor), Err(RequestError::Unknown));
    }
    let pool = owner.export(Exported::Pool { device: 0 }).unwrap();
    assert_eq!(stranger.import(pool).unwrap(), Imported::Pool { device: 0 });
}

#[test]
fn a_multicast_object_keeps_what_is_bound_to_it_until_its_last_holder_lets_go() {
    let sandbox = Sandbox::new();
    let (owner, guest) = (sandbox.connect(), sandbox.connect());
    let before = owner.memory(0).unwrap().free_bytes;
    assert_eq!(
        owner.create_multicast(2, PAGE).unwrap_err(),
        RequestError::NoPlace,
        "there is one device"
    );
    let own = owner.create_multicast(1, 2 * PAGE).unwrap();
    let descriptor = owner.export(Exported::Multicast(own.id())).unwrap();
    let Imported::Multicast(theirs) = guest.import(&descriptor).unwrap() else {
        panic!("another thing came out");
    };
    drop(descriptor);
    let block = guest.alloc(0, 2 * PAGE, AllocKind::Physical).unwrap();
    let part = |offset| Binding {
        device: 0,
        offset,
        bytes: PAGE,
    };
    let bind = |offset| guest.bind_multicast(&theirs, part(offset), block.id);
    assert_eq!(bind(0), Err(RequestError::NoPlace), "no team yet");
    owner.add_to_multicast(&own, 0).unwrap();
    let (complete, payload) = theirs.completion();
    guest.wait(&complete, payload).unwrap();
    bind(0).unwrap();
    assert_eq!(bind(0), Err(RequestError::NoPlace), "taken");
    assert_eq!(bind(2 * PAGE), Err(RequestError::NoPlace), "beyond the end");
    bind(PAGE).unwrap();
    guest.free(block.id).unwrap();
    owner.unbind_multicast(&own, part(PAGE)).unwrap();
    assert_eq!(
        owner.unbind_multicast(&own, part(PAGE)),
        Err(RequestError::NoPlace)
    );
    drop(own);
    assert_eq!(owner.memory(0).unwrap().free_bytes, before - 2 * PAGE);
    drop(theirs);
    guest.memory(0).unwrap();
    assert_eq!(owner.memory(0).unwrap().free_bytes, before);
}

#[test]
fn a_stream_waits_for_what_another_process_signals() {
    let sandbox = Sandbox::new();
    let (first, second) = (sandbox.connect(), sandbox.connect());
    let event = first.create_shared_semaphore().unwrap();
    let opened = second.open_shared_semaphore(event.id()).unwrap();
    assert_eq!(opened.last_payload(), opened.first_payload());
    let payload = event.next_payload();
    assert_eq!(opened.last_payload(), payload);
    let context = second.create_context(0).unwrap();
    let stream = second.create_stream(context, 0).unwrap();
    let semaphore = opened.id();
    let wait = Command::Wait { semaphore, payload };
    let waiting = second.submit(&stream, wait).unwrap();
    assert_eq!(second.poll_stream(&stream, waiting).unwrap(), None);
    let context = first.create_context(0).unwrap();
    let stream_of_first = first.create_stream(context, 0).unwrap();
    let signal = Command::Signal { semaphore, payload };
    first.submit(&stream_of_first, signal).unwrap();
    second.wait_stream(&stream, waiting).unwrap();
    assert!(second.poll(&opened, payload).unwrap().is_some());
}

#[test]
fn nobody_waits_for_a_process_that_died_before_it_signalled() {
    let sandbox = Sandbox::new();
    let (dying, other) = (sandbox.connect(), sandbox.connect());
    let event = dying.create_shared_semaphore().unwrap();
    let opened = other.open_shared_semaphore(event.id()).unwrap();
    let context = dying.create_context(0).unwrap();
    let stream = dying.create_stream(context, 0).unwrap();
    dying
        .submit(&stream, Command::Kernel(kernel(10_000_000)))
        .unwrap();
    let (semaphore, payload) = (event.id(), event.next_payload());
    let signal = Command::Signal { semaphore, payload };
    dying.submit(&stream, signal).unwrap();
    assert!(other.poll(&opened, payload).unwrap().is_none());
    drop((stream, event, dying));
    until("the dead one's promise is kept", || {
        other.poll(&opened, payload).unwrap().is_some()
    });
}

#[test]
fn nobody_waits_for_a_graph_of_a_process_that_died_before_it_signalled() {
    let sandbox = Sandbox::new();
    let (dying, other) = (sandbox.connect(), sandbox.connect());
    let event = dying.create_shared_semaphore().unwrap();
    let opened = other.open_shared_semaphore(event.id()).unwrap();
    let context = dying.create_context(0).unwrap();
    let stream = dying.create_stream(context, 0).unwrap();
    let (semaphore, payload) = (event.id(), event.next_payload());
    let node = |command, dependencies| GraphNode {
        command,
        dependencies,
        enabled: true,
    };
    let signal = Command::Signal { semaphore, payload };
    let long = Command::Kernel(kernel(10_000_000));
    let nodes = [node(long, vec![]), node(signal, vec![0])];
    let graph = dying.create_graph(&nodes).unwrap();
    dying.submit_graph(&stream, &graph, vec![]).unwrap();
    assert!(other.poll(&opened, payload).unwrap().is_none());
    drop((stream, graph, event, dying));
    until("the dead one's promise is kept", || {
        other.poll(&opened, payload).unwrap().is_some()
    });
}

#[test]
fn a_semaphore_that_is_given_out_again_begins_where_it_ended() {
    let sandbox = Sandbox::new();
    let machine = sandbox.connect();
    let first = machine.create_shared_semaphore().unwrap();
    let (id, payload) = (first.id(), first.next_payload());
    machine.signal(&first, payload).unwrap();
    machine.wait(&first, payload).unwrap();
    drop(first);
    assert!(machine.open_shared_semaphore(id).is_err());
    let again = machine.create_shared_semaphore().unwrap();
    assert_eq!(again.id(), id);
    assert_eq!(again.first_payload(), payload);
    assert_eq!(again.last_payload(), payload);
    assert!(
        machine
            .poll(&again, again.next_payload())
            .unwrap()
            .is_none()
    );
}
