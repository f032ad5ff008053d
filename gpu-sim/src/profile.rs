//! What machine is simulated: its devices and their times, from a TOML file.

mod device;
mod document;
mod shorthand;

pub use device::Profile;

use crate::parameters::Timing;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What device memory is backed by, in bytes: 2 MiB (`cuMemGetAllocationGranularity` on every GPU listed here).
pub const PAGE_BYTES: u64 = 2 << 20;

/// Devices of one machine.
pub const DEVICES_MAX: usize = 16;

/// The profiles that are compiled in, by the name that `GPU_SIM_PROFILE` takes.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("a10", include_str!("../profiles/a10.toml")),
    ("a100", include_str!("../profiles/a100.toml")),
    ("h100", include_str!("../profiles/h100.toml")),
    ("rtx2080", include_str!("../profiles/rtx2080.toml")),
    ("rtx3090", include_str!("../profiles/rtx3090.toml")),
    ("t4", include_str!("../profiles/t4.toml")),
    ("v100", include_str!("../profiles/v100.toml")),
];

/// CUDA version of the simulated driver, as `cuDriverGetVersion` says it: it exports what 13.5 exports, on every device.
pub const CUDA_VERSION: i32 = 13_050;

/// Version of the simulated driver, for whoever shows one. A number of the right form: the newest branch of NVIDIA's open
/// kernel modules that was at hand for study. No such driver is simulated in particular.
pub const DRIVER_VERSION: &str = "595.45.04";

/// The machine: what a profile file says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineProfile {
    /// The name it was asked for by; not in the file.
    #[serde(skip)]
    pub name: String,
    /// The file's text.
    #[serde(skip)]
    pub text: String,
    /// How long things take; defaults where the file is silent.
    #[serde(default)]
    pub timing: Timing,
    /// The devices, in the order of their ordinals.
    #[serde(rename = "device")]
    pub devices: Vec<Profile>,
}

/// Why a profile could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Neither a built-in name, nor several, nor the path of a file.
    #[error(
        "GPU_SIM_PROFILE={name}: {reason}; known: {known}; several devices: 2xa100, or 2xa100,t4; or the path of a .toml file",
        known = names()
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// Which part of it is wrong.
        reason: String,
    },
    /// The file could not be read.
    #[error("GPU_SIM_PROFILE={path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that is not a profile.
    #[error("profile {name}, {complaint}")]
    Invalid {
        /// Name or path of the profile.
        name: String,
        /// Line, key and what is wrong.
        complaint: Complaint,
    },
}

pub use document::Complaint;

fn names() -> String {
    let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// The TOML of a built-in profile.
fn built_in(name: &str) -> Option<&'static str> {
    let found = BUILT_IN.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text)
}

/// Whether this names a file rather than built-in profiles.
fn is_path(name: &str) -> bool {
    name.contains('/') || name.ends_with(".toml")
}

/// The name under which every process finds the same profile: a file's absolute path, any other name as it is.
pub fn canonical_name(name: &str) -> String {
    let path = std::fs::canonicalize(name).ok().filter(|_| is_path(name));
    path.map_or_else(|| name.to_owned(), |path| path.display().to_string())
}

impl MachineProfile {
    /// Finds a profile: by a built-in name, by several (`2xa100,t4`), else by the path of a TOML file.
    pub fn load(name: &str) -> Result<Self, ProfileError> {
        if let Some(text) = built_in(name) {
            return Self::parse(name, text);
        }
        if !is_path(name) {
            let text = shorthand::expand(name).map_err(|reason| ProfileError::Unknown {
                name: name.to_owned(),
                reason,
            })?;
            return Self::parse(name, &text);
        }
        let path = Path::new(name);
        let text = std::fs::read_to_string(path).map_err(|source| ProfileError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(name, &text)
    }

    /// Reads a profile; `name` seeds the devices' UUIDs.
    pub fn parse(name: &str, text: &str) -> Result<Self, ProfileError> {
        let mut machine = document::read(text).map_err(|complaint| ProfileError::Invalid {
            name: name.to_owned(),
            complaint,
        })?;
        name.clone_into(&mut machine.name);
        text.clone_into(&mut machine.text);
        for (ordinal, device) in machine.devices.iter_mut().enumerate() {
            device.uuid = uuid(name, ordinal);
        }
        machine.give_each_device_a_place();
        Ok(machine)
    }

    /// Moves a device whose place on the bus is taken to the next bus that is free: devices of one base
    /// profile would all lie in its place.
    fn give_each_device_a_place(&mut self) {
        let mut taken = BTreeSet::new();
        for device in &mut self.devices {
            while !taken.insert((device.pci_bus, device.pci_device)) {
                device.pci_bus = device.pci_bus.wrapping_add(1);
            }
        }
    }
}

/// A UUID of version 8 (RFC 9562 §5.8) out of two hashes: the same for the same machine.
fn uuid(name: &str, ordinal: usize) -> [u8; 16] {
    let hash = |salt: u8| fnv1a(name.bytes().chain([salt]).chain(ordinal.to_le_bytes()));
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&hash(1).to_be_bytes());
    uuid[8..].copy_from_slice(&hash(2).to_be_bytes());
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// The FNV-1a hash of 64 bits: the same in every build.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn changed(line: &str, to: &str) -> String {
        let text = MachineProfile::load("t4").unwrap().text;
        assert!(text.contains(line));
        MachineProfile::parse("changed", &text.replace(line, to))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn every_built_in_profile_is_one_and_has_a_uuid_of_its_own() {
        let load = |(name, _): &(&str, &str)| MachineProfile::load(name).unwrap();
        let uuids: BTreeSet<_> = BUILT_IN
            .iter()
            .map(load)
            .map(|machine| machine.devices[0].uuid)
            .collect();
        assert_eq!(uuids.len(), BUILT_IN.len());
    }

    #[test]
    fn the_uuid_is_the_same_every_time() {
        let t4 = &MachineProfile::load("t4").unwrap().devices[0];
        assert_eq!(t4.uuid_text(), "GPU-6d3ac1f9-fa7f-84fc-a779-c212b850b735");
    }

    fn refused(text: &str) -> String {
        MachineProfile::parse("mine", text).unwrap_err().to_string()
    }

    #[test]
    fn one_file_describes_a_machine_of_several_devices() {
        let text = "[[device]]\nprofile = \"a100\"\ncount = 4\n\n\
                    [[device]]\nprofile = \"t4\"\nname = \"half a T4\"\nsm_count = 20\n";
        let machine = MachineProfile::parse("mine", text).unwrap();
        let (a100, t4) = (
            &MachineProfile::load("a100").unwrap().devices[0],
            &MachineProfile::load("t4").unwrap().devices[0],
        );
        assert_eq!(machine.devices.len(), 5);
        for device in &machine.devices[..4] {
            assert_eq!((&device.name, device.sm_count), (&a100.name, a100.sm_count));
        }
        let half = &machine.devices[4];
        assert_eq!((half.name.as_str(), half.sm_count), ("half a T4", 20));
        assert_eq!(half.memory_bytes, t4.memory_bytes);
    }

    #[test]
    fn no_two_devices_of_a_machine_have_one_uuid_or_one_place_on_the_bus() {
        let devices = MachineProfile::load("8xa100,4xv100,4xa10").unwrap().devices;
        let uuids: BTreeSet<_> = devices.iter().map(|device| device.uuid).collect();
        let places: BTreeSet<_> = devices
            .iter()
            .map(|device| (device.pci_bus, device.pci_device))
            .collect();
        assert_eq!((uuids.len(), places.len()), (16, 16));
    }

    #[test]
    fn a_list_of_names_is_short_for_a_file() {
        let list = MachineProfile::load("2xa100,t4").unwrap();
        let names: Vec<_> = list.devices.iter().map(|device| &device.name[..]).collect();
        let a100 = "NVIDIA A100-SXM4-40GB";
        assert_eq!(names, [a100, a100, "Tesla T4"]);
        let file = MachineProfile::parse(&list.name, &list.text).unwrap();
        assert_eq!(file, list, "the text is the profile");
    }

    #[test]
    fn what_is_wrong_is_said_with_line_and_key() {
        let unknown = changed("sm_count = 40", "sm_cuont = 40");
        assert!(
            unknown.contains("line 12, `sm_cuont = 40`: unknown field `sm_cuont`"),
            "{unknown}"
        );
        let kind = changed("sm_count = 40", "sm_count = \"40\"");
        assert!(
            kind.contains("line 12, `sm_count = \"40\"`: invalid type"),
            "{kind}"
        );
        let zero = changed("sm_count = 40", "sm_count = 0");
        assert!(
            zero.contains("line 12, `sm_count = 0`: sm_count: it must be positive"),
            "{zero}"
        );
        let missing = changed("sm_count = 40\n", "");
        assert!(
            missing.contains("line 9, `[[device]]`: missing field `sm_count`"),
            "{missing}"
        );
        let uneven = changed("memory_bytes = ", "memory_bytes = 1 # ");
        assert!(
            uneven.contains("memory_bytes: it must be a multiple of 2 MiB"),
            "{uneven}"
        );
        let syntax = changed("sm_count = 40", "sm_count 40");
        assert!(syntax.contains("line 12, `sm_count 40`"), "{syntax}");
    }

    #[test]
    fn a_figure_that_contradicts_the_one_it_starts_from_is_refused_where_it_stands() {
        let small = refused("[[device]]\nprofile = \"t4\"\nmemory_bytes = 2097152\n");
        assert!(
            small.contains("line 1, `[[device]]`: context_bytes: it must not exceed memory_bytes"),
            "{small}"
        );
        let idle = refused("[[device]]\nprofile = \"t4\"\n\npower_idle_mw = 80000\n");
        assert!(idle.contains("line 4, `power_idle_mw = 80000`"), "{idle}");
    }

    #[test]
    fn what_no_machine_can_have_is_refused() {
        let base = |base: &str| refused(&format!("[[device]]\nprofile = {base}\n"));
        for (text, said) in [
            (
                base("\"t5\""),
                "line 2, `profile = \"t5\"`: profile: known are a10",
            ),
            (base("4"), "line 2, `profile = 4`: profile: known are"),
            (
                refused("[[device]]\nprofile = \"t4\"\ncount = 17\n"),
                "line 3, `count = 17`: count: allowed is 1 to 16",
            ),
            (
                refused("[[device]]\nprofile = \"t4\"\ncount = -1\n"),
                "line 3, `count = -1`",
            ),
            (
                refused(&"[[device]]\nprofile = \"t4\"\ncount = 9\n".repeat(2)),
                "18 devices; allowed are 1 to 16",
            ),
            (refused(""), "0 devices"),
            (refused("device = 4"), "line 1, `device = 4`: device:"),
            (
                refused("speed = 1\n[[device]]\nprofile = \"t4\"\n"),
                "line 1, `speed = 1`: unknown field `speed`",
            ),
            (
                refused("[[device]]\nprofile = \"t4\"\n[timing]\nkernel_sigma = 2.0\n"),
                "line 4, `kernel_sigma = 2.0`: kernel_sigma = 2; allowed is 0 to 0.3",
            ),
        ] {
            assert!(
                text.starts_with("profile mine, ") && text.contains(said),
                "{text}"
            );
        }
    }

    /// Bytes of a MiB, in which `nvidia-smi` shows a board's memory.
    const MIB: u64 = 1 << 20;

    #[test]
    fn the_figures_of_each_board_agree_with_one_another() {
        for (name, _) in BUILT_IN {
            let board = &MachineProfile::load(name).unwrap().devices[0];
            // Two transfers a clock: what NVML calls the memory clock is half the data rate, for GDDR6 and HBM2 alike.
            let pins =
                u64::from(board.memory_clock_mhz) * 2_000_000 * u64::from(board.memory_bus_bits)
                    / 8;
            let off = pins.abs_diff(board.memory_bandwidth_bytes_per_s);
            assert!(
                off * 100 < pins,
                "{name}: {pins} bytes/s by clock and width"
            );
            let all = board.memory_bytes + board.memory_reserved_bytes;
            assert!(all.is_multiple_of(MIB), "{name}: {all} bytes in all");
            // One 16x link has 1 GB/s a lane at generation 3 less protocol, and doubles from each to the next.
            let link = 15_750_000_000 << (board.pcie_generation - 3);
            let part = board.pcie_bytes_per_s * 100 / link;
            assert!(
                (70..90).contains(&part) && board.pcie_lanes == 16,
                "{name}: {part} % of the link"
            );
            assert_eq!(board.pci_device_id & 0xffff, 0x10de, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_none_lists_those_that_are() {
        let error = MachineProfile::load("t5").unwrap_err().to_string();
        assert!(
            error.contains("GPU_SIM_PROFILE=t5") && error.contains("rtx3090"),
            "{error}"
        );
    }
}
