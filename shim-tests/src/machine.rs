//! One machine for one test: a simulated GPU, or the system's own, and the hook's shared state and the traces in folders of
//! their own.

use crate::build::artefacts;
use crate::child::{DEADLINE, ends_within, finds_itself, try_open_pidfd};
use crate::trace::Trace;
use crate::world::World;
use gpu_sim::client::{self, Environment};
use gpu_sim::command::ProcessUsage;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// A machine. Dropping it checks that nothing is left of it: no process, no file.
pub struct Machine {
    folder: TempDir,
    /// Of the simulated GPU; none: the driver is the one that the loader finds.
    profile: Option<String>,
    truth: OnceLock<client::Machine>,
}

/// What the device counted for some processes, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Device memory held, in bytes, as backed by the device.
    pub memory_bytes: u64,
    /// Occupancy of the compute engine, in ns.
    pub gpu_busy_ns: u64,
    /// Kernels completed.
    pub kernels: u64,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// One T4.
    pub fn new() -> Self {
        Self::with_profile("t4")
    }

    /// The machine of a profile: a built-in name or the path of a TOML file.
    pub fn with_profile(profile: &str) -> Self {
        Self::on(Some(profile.to_owned()))
    }

    /// So many T4, with everything switched on that a profile can switch on.
    pub fn with_every_feature(devices: usize) -> Self {
        let mut machine = Self::on(None);
        let path = machine.path("profile.toml");
        let text = format!(
            "[[device]]\nprofile = \"t4\"\ncount = {devices}\naccounting = true\nmulticast = true\n"
        );
        fs::write(&path, text).expect("a profile");
        machine.profile = Some(path.display().to_string());
        machine
    }

    /// This very machine, with the driver that the loader finds. It keeps no books, and no traces.
    pub fn real() -> Self {
        Self::on(None)
    }

    fn on(profile: Option<String>) -> Self {
        // In memory, as by default: the device's memory and the ledgers are no load for a disk.
        let folder = tempfile::Builder::new()
            .prefix("shim-test-")
            .tempdir_in("/dev/shm")
            .expect("a folder in /dev/shm");
        for name in ["hook", "trace"] {
            fs::create_dir(folder.path().join(name)).expect("a folder in a new folder");
        }
        Self {
            folder,
            profile,
            truth: OnceLock::new(),
        }
    }

    /// A folder for whatever else a test needs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `GPU_SIM_DIR`.
    pub fn sim_dir(&self) -> PathBuf {
        self.path("sim")
    }

    /// `CUDA_HOOK_DIR`.
    pub fn hook_dir(&self) -> PathBuf {
        self.path("hook")
    }

    /// `program` in `world` on this machine. On a simulated one its environment is what is set here and nothing else; a
    /// real driver may depend on its caller's.
    pub fn command(&self, world: &World, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        match &self.profile {
            Some(profile) => self.simulate(&mut command, profile),
            None => take_hook_away(&mut command),
        }
        command.env("CUDA_HOOK_DIR", self.hook_dir());
        if world.has_hook() {
            command.env("LD_PRELOAD", &artefacts().hook);
        }
        if matches!(world, World::SecondDoor(_)) {
            let artefacts = artefacts();
            let (door, sim) = (artefacts.second_door.display(), artefacts.sim.display());
            command
                .env("LD_LIBRARY_PATH", format!("{door}:{sim}"))
                .env("CUDA_HOOK_DRIVER", artefacts.sim.join("libcuda.so.1"));
        }
        command.envs(world.limits().iter().map(|(name, value)| (name, value)));
        command
    }

    fn simulate(&self, command: &mut Command, profile: &str) {
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("HOME", self.folder.path())
            .env("LD_LIBRARY_PATH", &artefacts().sim)
            .env("GPU_SIM_DIR", self.sim_dir())
            .env("GPU_SIM_PROFILE", profile)
            .env("GPU_SIM_TRACE", self.path("trace"))
            .env("GPU_SIM_LINGER_MS", "0");
    }

    /// The trace of the one process that has called this machine's driver.
    pub fn trace(&self) -> Trace {
        let mut traces = self.traces();
        assert_eq!(traces.len(), 1, "one process was to be traced");
        traces.remove(0)
    }

    /// The traces of all processes that have called this machine's driver.
    pub fn traces(&self) -> Vec<Trace> {
        let files = fs::read_dir(self.path("trace")).expect("the machine's trace folder");
        files
            .map(|file| Trace::read(&file.expect("a file in it").path()))
            .collect()
    }

    /// What the device itself says of each process that ever was on it. Connecting makes the test a user of the machine
    /// that takes no memory and no time; it keeps the machine, and with it the dead processes' figures, until the end.
    pub fn usage(&self) -> Vec<ProcessUsage> {
        self.connected().usage().expect("the device answers")
    }

    /// The device's figures of one process; zeros before its first context.
    pub fn truth_of(&self, pid: u32) -> Truth {
        self.sum(|usage| usage.pid == pid)
    }

    /// The device's figures of one container's processes together, the dead included.
    pub fn truth_of_container(&self, container: &str) -> Truth {
        self.sum(|usage| usage.container == container)
    }

    /// The most that one container's processes ever held of the first device at one time, in bytes, by the device's own count.
    pub fn peak_bytes_of_container(&self, container: &str) -> u64 {
        let containers = self.connected().containers().expect("the device answers");
        let mut rows = containers.iter();
        rows.find(|row| row.container == container && row.device == 0)
            .map_or(0, |row| row.memory_bytes_peak)
    }

    fn sum(&self, wanted: impl Fn(&ProcessUsage) -> bool) -> Truth {
        self.usage()
            .iter()
            .filter(|usage| wanted(usage))
            .fold(Truth::default(), |sum, usage| Truth {
                memory_bytes: sum.memory_bytes + usage.memory_bytes_current,
                gpu_busy_ns: sum.gpu_busy_ns + usage.gpu_busy_ns_total,
                kernels: sum.kernels + usage.kernels_total,
            })
    }

    /// Physical memory of the first device, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.connected().devices()[0].memory_bytes
    }

    /// UUIDs of the devices, as NVML spells them.
    pub fn device_uuids(&self) -> Vec<String> {
        self.connected()
            .devices()
            .iter()
            .map(|device| device.uuid_text())
            .collect()
    }

    fn connected(&self) -> &client::Machine {
        self.truth.get_or_init(|| {
            let profile = self.profile.clone();
            let environment = Environment {
                profile: profile.expect("a simulated machine: a real one keeps no books"),
                dir: self.sim_dir(),
                device: Some(artefacts().sim.join("gpu-sim-device")),
                container: "the test itself".to_owned(),
                linger_ms: Some("0".to_owned()),
                alloc_us: None,
                log: None,
            };
            client::Machine::connect_to(&environment).expect("the machine of this test")
        })
    }

    /// Processes whose command line or environment names this machine's folder.
    fn processes_left(&self) -> Vec<u32> {
        let needle = self.folder.path().as_os_str().as_encoded_bytes();
        let processes = fs::read_dir("/proc")
            .expect("/proc")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let names_us = |pid: &u32| {
            ["cmdline", "environ"].iter().any(|file| {
                let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                bytes.windows(needle.len()).any(|window| window == needle)
            })
        };
        processes.filter(names_us).collect()
    }

    fn check_that_nothing_is_left(&mut self) {
        drop(self.truth.take());
        if !finds_itself() {
            return; // whose end to wait for cannot be found out
        }
        for pid in self.processes_left() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let ended = try_open_pidfd(pid).is_none_or(|pidfd| ends_within(&pidfd, DEADLINE));
            assert!(
                ended,
                "process {pid} ({}) outlives its machine",
                name.trim_end()
            );
        }
        let left = fs::read_dir(self.sim_dir()).map_or_else(|_| Vec::new(), Iterator::collect);
        assert!(left.is_empty(), "the machine is gone and left {left:?}");
    }
}

/// Leaves a command its caller's environment but for what concerns the hook.
fn take_hook_away(command: &mut Command) {
    command.env_remove("LD_PRELOAD");
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"CUDA_HOOK_") {
            command.env_remove(name);
        }
    }
}

/// The profile of a machine with two T4: the path of its file.
pub fn two_gpus() -> String {
    let one = include_str!("../../gpu-sim/profiles/t4.toml");
    let (_, device) = one
        .split_once("[[device]]")
        .expect("a profile has a device");
    let second = device.replace("pci_bus = 0", "pci_bus = 1");
    // Written aside and moved into place whole, so that tests may race.
    let folder = &artefacts().folder;
    let mut file = tempfile::NamedTempFile::new_in(folder).expect("a file beside the artefacts");
    write!(file, "{one}\n[[device]]{second}").expect("a profile");
    let path = folder.join("shim-two-gpus.toml");
    file.persist(&path)
        .expect("a profile can be moved into place");
    path.display().to_string()
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_that_nothing_is_left();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    #[should_panic(expected = "left")]
    fn a_file_that_a_machine_leaves_fails_the_test() {
        let machine = Machine::new();
        fs::create_dir(machine.sim_dir()).expect("a folder");
        fs::write(machine.sim_dir().join("socket"), "").expect("a file");
        drop(machine);
    }

    #[test]
    fn a_process_of_a_machine_is_found() {
        let machine = Machine::new();
        let mut child = machine.command(&World::Bare, "cat");
        let mut child = child
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("cat");
        // `spawn` may return before the new program's environment can be read; a program that answers runs.
        let mut input = child.stdin.take().expect("its pipe");
        let mut output = child.stdout.take().expect("its pipe");
        input.write_all(b"?").expect("cat reads");
        output.read_exact(&mut [0]).expect("cat writes");
        assert_eq!(machine.processes_left(), [child.id()]);
        drop(input);
        child.wait().expect("it ends with its input");
        assert_eq!(machine.processes_left(), []);
    }
}
