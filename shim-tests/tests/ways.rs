//! Whatever way a program takes to the driver's file, and whoever else stands in between, a quota holds: through the
//! preload where it can, through the second door everywhere.
#![cfg(test)]

use shim_tests::build::linked_object;
use shim_tests::{Door, Machine, World, artefacts, child, program, shared_object};
use std::path::Path;

const QUOTA: &str = "512MiB";
const TOTAL_LIMITED: &str = "536870912 2 0";
/// A T4's, less what the driver keeps of it.
const TOTAL_OF_THE_BOARD: &str = "15655239680 0 0";
/// More than the quota and less than the board.
const BYTES: &str = "900000000";

/// The ways in which `reach` opens the driver itself.
const WAYS: [&str; 8] = [
    "lazy",
    "now",
    "global",
    "deepbind",
    "noload",
    "elsewhere",
    "main",
    "again",
];

fn limited() -> World {
    World::memory("ways", QUOTA)
}

/// What `reach` prints: the total it is told, and the statuses of an allocation past the quota and of a small one.
#[track_caller]
fn reach(world: &World, way: &str, file: &Path) -> String {
    let machine = Machine::new();
    let mut command = machine.command(world, program("reach", Door::Dlopen));
    let outcome = child::run(command.arg(way).arg(file).arg(BYTES));
    outcome.lines().join("\n")
}

#[test]
fn a_quota_holds_by_every_way_of_opening_the_driver() {
    let full = artefacts().sim.join("libcuda.so.1");
    for way in WAYS {
        for file in [Path::new("libcuda.so.1"), Path::new("libcuda.so"), &full] {
            assert_eq!(
                reach(&World::Bare, way, file),
                TOTAL_OF_THE_BOARD,
                "{way} {file:?}"
            );
            assert_eq!(
                reach(&limited(), way, file),
                TOTAL_LIMITED,
                "{way} {file:?}"
            );
        }
    }
}

#[test]
fn a_quota_holds_by_every_way_of_opening_the_second_door() {
    let full = artefacts().second_door.join("libcuda.so.1");
    for way in WAYS {
        for file in [Path::new("libcuda.so.1"), Path::new("libcuda.so"), &full] {
            let seen = reach(&limited().by_second_door(), way, file);
            assert_eq!(seen, TOTAL_LIMITED, "{way} {file:?}");
        }
    }
}

/// A driver in a namespace of its own stays one whole where there is nothing to enforce.
#[test]
fn without_limits_a_driver_in_a_namespace_of_its_own_is_left_alone() {
    let seen = reach(&World::Transparent, "elsewhere", Path::new("libcuda.so.1"));
    assert_eq!(seen, TOTAL_OF_THE_BOARD);
}

/// A library that is linked with the driver, opened in every way. Where the loader binds it past the global scope no
/// preload is asked: that is what the second door is for.
#[test]
fn a_linked_library_is_limited_where_the_loader_lets_it_be() {
    let library = linked_object("reached", "libreached.so");
    for (way, behind_preload) in [
        ("called-now", TOTAL_LIMITED),
        ("called-lazy", TOTAL_LIMITED),
        ("called-global", TOTAL_LIMITED),
        ("called-deepbind", TOTAL_OF_THE_BOARD),
        ("called-elsewhere", TOTAL_OF_THE_BOARD),
    ] {
        assert_eq!(reach(&limited(), way, &library), behind_preload, "{way}");
        let behind_door = reach(&limited().by_second_door(), way, &library);
        assert_eq!(behind_door, TOTAL_LIMITED, "{way}");
    }
}

/// Before us it is called first, and what it goes on to is ours. Behind us it is called for what we do not hook, and never
/// comes by `RTLD_NEXT` to anything that is not limited.
#[test]
fn a_tracer_of_the_driver_may_stand_before_or_behind_us() {
    let tracer = shared_object("cuda_tracer", "libcuda_tracer.so");
    let library = linked_object("reached", "libreached.so");
    let hook = &artefacts().hook;
    let traced = |world: &World, preload: &[&Path]| {
        let machine = Machine::new();
        let mut command = machine.command(world, program("reach", Door::Dlopen));
        let preload: Vec<_> = preload
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let outcome = child::run(
            command
                .env("LD_PRELOAD", preload.join(":"))
                .arg("called-global")
                .arg(&library)
                .arg(BYTES),
        );
        assert!(outcome.status.success(), "{outcome:#?}");
        (outcome.stdout, outcome.stderr)
    };
    let board = format!("{TOTAL_OF_THE_BOARD}\n");
    let quota = format!("{TOTAL_LIMITED}\n");
    let [bare, unlimited] = [
        traced(&World::Bare, &[&tracer]),
        traced(&World::Transparent, &[&tracer, hook]),
    ];
    assert_eq!(bare, (board, "SAA".to_owned()));
    assert_eq!(bare, unlimited);
    assert_eq!(
        traced(&limited(), &[&tracer, hook]),
        (quota.clone(), "SAA".to_owned())
    );
    assert_eq!(
        traced(&limited(), &[hook, &tracer]),
        (quota.clone(), "S".to_owned())
    );
    let second_door = limited().by_second_door();
    assert_eq!(traced(&second_door, &[&tracer]), (quota, "SAA".to_owned()));
}
