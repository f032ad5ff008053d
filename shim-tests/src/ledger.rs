//! The ledger under many processes: at the quota's edge, killed at any moment, forked, stopped, become other programs.
//!
//! Truth is what the device counts. Where nobody dies, its peak for the container is exact, with no sampling. Its machine ends a dead
//! process at once (`teardown_ns = 0`).

pub mod chaos;
pub mod kills;
pub mod races;
pub mod spread;

use crate::build::artefacts;
use crate::machine::Machine;
use limiter::clock;
use limiter::sample::{self, ContainerSample};
use std::io::Write;

/// The container of all processes here.
const CONTAINER: &str = "ledger";

/// One T4 that keeps nothing of the dead.
fn machine() -> Machine {
    let folder = &artefacts().folder;
    let mut file = tempfile::NamedTempFile::new_in(folder).expect("a file beside the artefacts");
    let profile = "[[device]]\nprofile = \"t4\"\n\n[timing]\nteardown_ns = 0\n";
    file.write_all(profile.as_bytes()).expect("a profile");
    let path = folder.join("shim-forgets-its-dead.toml");
    file.persist(&path)
        .expect("a profile can be moved into place");
    Machine::with_profile(&path.display().to_string())
}

/// What `cuda-hook status` reads of the container.
fn report(machine: &Machine) -> Option<ContainerSample> {
    let sample =
        sample::read(&machine.hook_dir(), clock::monotonic()).expect("the folder of the ledgers");
    let mut containers = sample.containers.into_iter();
    containers.find(|container| container.container == CONTAINER)
}
