//! Programs that nobody in particular runs: no root, no groups, no way to more rights.

use crate::build::{Door, artefacts, program};
use crate::machine::Machine;
use crate::world::World;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a command is started by to be nobody's.
pub const BECOME_NOBODY: [&str; 5] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--no-new-privs",
];

/// What becomes a tenant of nobody's on `machine`, by `wrapper`, which is run by the caller. Takes root, as does becoming somebody else.
///
/// What it loads it must be able to read: copies, as a build folder need not be open to everybody.
pub fn tenant(machine: &Machine, world: &World, wrapper: &[&str]) -> Command {
    let folder = machine.path("readable");
    let copy = |from: &Path| readable_copy(from, &folder);
    for name in ["libcuda.so.1", "libnvidia-ml.so.1", "gpu-sim-device"] {
        copy(&artefacts().sim.join(name));
    }
    let (hook, tenant) = (
        copy(&artefacts().hook),
        copy(&program("tenant", Door::Linked)),
    );
    for open in [machine.path(""), machine.hook_dir(), machine.path("trace")] {
        fs::set_permissions(open, Permissions::from_mode(0o777)).expect("permissions");
    }
    let words: Vec<&str> = wrapper.iter().copied().chain(BECOME_NOBODY).collect();
    let mut command = machine.command(world, words[0]);
    command
        .args(&words[1..])
        .arg(tenant)
        .arg(Door::Linked.name())
        .env("LD_PRELOAD", hook)
        .env("LD_LIBRARY_PATH", folder);
    command
}

fn readable_copy(from: &Path, folder: &Path) -> PathBuf {
    let path = folder.join(from.file_name().expect("a file has a name"));
    test_support::install(from, &path);
    path
}
