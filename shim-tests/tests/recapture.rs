//! What a program calls from its own function, which the driver calls inside of one of the program's calls.
#![cfg(test)]

use shim_tests::{Door, MIB, Machine, World, child, program};

/// What the function was answered, and the rest of the program.
fn played(world: &World) -> Vec<String> {
    let machine = Machine::new();
    let mut command = machine.command(world, program("recapture", Door::Dlopen));
    child::run(command.arg((600 * MIB).to_string()))
        .lines()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// The function that is told of changes in a capture over an earlier graph runs inside of a launch.
#[test]
fn what_a_recaptures_function_allocates_is_charged() {
    let bare = ["alloc: 0", "alloc: 0", "all else: 0"];
    assert_eq!(played(&World::Bare), bare);
    assert_eq!(played(&World::Transparent), bare);
    let limited = ["alloc: 0", "alloc: 2", "all else: 0"];
    assert_eq!(played(&World::memory("one", "1GiB")), limited);
}
