//! The preload is loaded into every process of a container, shells included. In those that do not use CUDA it says
//! nothing, changes nothing and opens nothing, whatever the limits are.
#![cfg(test)]

use shim_tests::{Machine, Outcome, World, build, child};
use std::fs;
use std::process::Command;

/// Worlds with the preload: without limits, with limits, with limits that are nonsense.
fn worlds() -> [World; 3] {
    [
        World::Transparent,
        World::memory("quiet", "1GiB"),
        World::limited([("CUDA_HOOK_MEMORY", "abc"), ("CUDA_HOOK_NONSENSE", "1")]),
    ]
}

/// A repository for git to look at, the same for every run.
fn repository(machine: &Machine) -> String {
    let folder = machine.path("repository");
    if !folder.exists() {
        fs::create_dir(&folder).expect("a folder");
        let git = "git init -q -b main . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first";
        let status = Command::new("sh")
            .args(["-c", git])
            .current_dir(&folder)
            .status()
            .expect("a shell");
        assert!(status.success(), "git: {status}");
    }
    folder.display().to_string()
}

#[track_caller]
fn assert_unchanged(exit_code: Option<i32>, arguments: &[&str]) {
    let machine = Machine::new();
    let folder = repository(&machine);
    let run = |world: &World| -> Outcome {
        let mut command = machine.command(world, arguments[0]);
        child::run(command.args(&arguments[1..]).current_dir(&folder))
    };
    let bare = run(&World::Bare);
    assert_eq!(
        bare.status.code(),
        exit_code,
        "{arguments:?} does what it is meant to do: {bare:#?}"
    );
    for world in worlds() {
        assert_eq!(bare, run(&world), "{arguments:?} in {world:?}");
    }
    let made = fs::read_dir(machine.hook_dir())
        .expect("the hook's folder")
        .count();
    assert_eq!(made, 0, "{arguments:?} left something in the hook's folder");
    assert!(
        !machine.sim_dir().exists(),
        "{arguments:?} started a machine"
    );
}

#[test]
fn bash_is_unchanged() {
    assert_unchanged(
        Some(7),
        &[
            "bash",
            "-c",
            "echo out; echo err >&2; for i in 1 2 3; do (exit $i) || true; done; ls / | wc -l; exit 7",
        ],
    );
}

#[test]
fn sh_is_unchanged() {
    assert_unchanged(
        None,
        &[
            "sh",
            "-c",
            "x=$(echo nested | cat); echo \"$x\"; kill -TERM $$",
        ],
    );
}

#[test]
fn git_is_unchanged() {
    assert_unchanged(Some(0), &["git", "log", "--format=%s %an"]);
    assert_unchanged(Some(1), &["git", "no-such-command"]);
}

#[test]
fn python_is_unchanged() {
    let script = "import ctypes, json, subprocess, sys, threading\n\
        print(json.dumps(sorted(sys.argv)), ctypes.CDLL(None).getpid() > 0)\n\
        print(subprocess.run(['true']).returncode)\n\
        thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n\
        print('to stderr', file=sys.stderr)\n\
        sys.exit(3)";
    assert_unchanged(Some(3), &["python3", "-c", script]);
}

/// The environment is not touched: `env` under the preload shows `LD_PRELOAD` and the limits as they were given.
#[test]
fn the_environment_is_unchanged() {
    let machine = Machine::new();
    for world in worlds() {
        let mut command = machine.command(&world, "env");
        let mut given: Vec<String> = command
            .get_envs()
            .filter_map(|(name, value)| Some(format!("{}={}", name.display(), value?.display())))
            .collect();
        given.sort();
        let shown = child::run(&mut command);
        let mut shown: Vec<&str> = shown.lines();
        shown.sort_unstable();
        assert_eq!(given, shown, "{world:?}");
    }
}

/// A program that looks at its own descriptors and mappings finds nothing of the hook's but the library itself.
#[test]
fn nothing_is_held_open() {
    let machine = Machine::new();
    let script =
        "ls /proc/self/fd; grep -v libcuda_hook /proc/self/maps | grep -ci -e cuda -e hook";
    let look = |world: &World| child::run(machine.command(world, "sh").args(["-c", script]));
    let bare = look(&World::Bare);
    assert!(bare.stdout.ends_with("\n0\n"), "{bare:#?}");
    for world in worlds() {
        assert_eq!(bare, look(&world), "{world:?}");
    }
}

/// The library is there: without this, all of the above would pass with a preload that is not loaded.
#[test]
fn the_preload_is_loaded() {
    let machine = Machine::new();
    for world in worlds() {
        let outcome = child::run(machine.command(&world, "grep").args([
            "-c",
            "libcuda_hook",
            "/proc/self/maps",
        ]));
        assert_ne!(outcome.lines(), ["0"], "{world:?}");
    }
    assert!(build::artefacts().hook.is_file());
}
