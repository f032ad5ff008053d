//! A program without limits makes, under the preload, call for call the driver calls that it makes bare, and sees the
//! same answers, through every door.
#![cfg(test)]

use shim_tests::{Door, Machine, Outcome, Trace, World, child, program};

/// What a program that uses one of everything wrote, and the calls that reached the driver.
fn observe(world: &World, door: Door) -> (Outcome, Trace) {
    let machine = Machine::new();
    let outcome = child::run(
        machine
            .command(world, program("body", door))
            .arg(door.name()),
    );
    let trace = machine.trace();
    (outcome, trace)
}

#[track_caller]
fn assert_transparent(door: Door) {
    let (bare, calls) = observe(&World::Bare, door);
    let (transparent, calls_under_preload) = observe(&World::Transparent, door);
    let difference = calls.difference(&calls_under_preload).unwrap_or_default();
    assert!(
        difference.is_empty(),
        "{door:?}: the preload changes the calls: {difference}"
    );
    assert_eq!(
        bare.lines(),
        transparent.lines(),
        "{door:?}: the preload changes what the program sees"
    );
    assert!(
        calls.calls().len() > 120,
        "{door:?}: the trace has only {} calls",
        calls.calls().len()
    );
}

#[test]
fn a_linked_program_makes_the_same_calls() {
    assert_transparent(Door::Linked);
}

#[test]
fn a_program_that_asks_the_handle_makes_the_same_calls() {
    assert_transparent(Door::Dlopen);
}

#[test]
fn a_program_that_asks_the_global_scope_makes_the_same_calls() {
    assert_transparent(Door::Default);
}

#[test]
fn a_program_that_asks_for_the_next_object_makes_the_same_calls() {
    assert_transparent(Door::Next);
}

#[test]
fn a_program_that_asks_the_first_get_proc_address_makes_the_same_calls() {
    for flags in 0..=2 {
        assert_transparent(Door::GetProcAddress { api: 1, flags });
    }
}

#[test]
fn a_program_that_asks_the_second_get_proc_address_makes_the_same_calls() {
    for flags in 0..=2 {
        assert_transparent(Door::GetProcAddress { api: 2, flags });
    }
}

#[test]
fn log_and_folder_are_no_limits() {
    let (_, calls) = observe(&World::Bare, Door::Linked);
    let settings = World::limited([
        ("CUDA_HOOK_LOG", "error"),
        ("CUDA_HOOK_CONTAINER", "nobody"),
    ]);
    let (outcome, calls_under_preload) = observe(&settings, Door::Linked);
    assert!(outcome.status.success(), "{outcome:#?}");
    assert_eq!(calls.difference(&calls_under_preload), None);
}

/// The comparison itself: a limit that refuses an allocation must show in calls and answers.
#[test]
fn a_limit_shows_in_the_comparison() {
    let (bare, calls) = observe(&World::Bare, Door::Linked);
    let (limited, calls_under_limit) = observe(&World::memory("small", "1MiB"), Door::Linked);
    let difference = calls
        .difference(&calls_under_limit)
        .expect("a refused allocation does not reach the driver");
    assert!(!difference.is_empty());
    assert_ne!(bare.stdout, limited.stdout);
}

/// The doors lead to the same driver: whatever the door, the program sees the same statuses.
#[test]
fn every_door_leads_to_the_same_driver() {
    let (linked, _) = observe(&World::Bare, Door::Linked);
    for door in Door::ALL {
        let (by_door, _) = observe(&World::Bare, door);
        assert_eq!(linked.lines(), by_door.lines(), "{door:?}");
    }
}
