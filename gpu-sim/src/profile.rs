//! What machine is simulated: its devices and their times, from a TOML file.

use crate::parameters::Timing;
use serde::Deserialize;
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

/// One device.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name as NVML and `cuDeviceGetName` say it.
    pub name: String,
    /// Made from the profile's name and the ordinal; not in the file.
    #[serde(skip)]
    pub uuid: [u8; 16],
    /// Major, minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub sm_count: u32,
    /// FP32 lanes of one SM.
    pub cores_per_sm: u32,
    /// Threads that can be resident on one SM.
    pub threads_per_sm_max: u32,
    /// Blocks that can be resident on one SM.
    pub blocks_per_sm_max: u32,
    /// Registers of one SM, 32 bits each.
    pub registers_per_sm: u32,
    /// Shared memory of one SM, in bytes.
    pub shared_bytes_per_sm: u32,
    /// Most shared memory that one block can ask for by opting in, in bytes.
    pub shared_bytes_per_block_max: u32,
    /// Warp instructions that one SM issues in a clock cycle: one a scheduler.
    pub warp_instructions_per_cycle: u32,
    /// SM clock under load, in MHz.
    pub sm_clock_mhz: u32,
    /// Memory clock as NVML shows it, in MHz.
    pub memory_clock_mhz: u32,
    /// Width of the memory interface, in bits.
    pub memory_bus_bits: u32,
    /// Memory bandwidth, in bytes a second.
    pub memory_bandwidth_bytes_per_s: u64,
    /// Second-level cache, in bytes.
    pub l2_bytes: u32,
    /// Memory that a program can have in all, in bytes: `cuDeviceTotalMem`.
    pub memory_bytes: u64,
    /// Memory that the driver keeps for itself, on top of `memory_bytes`, in bytes.
    pub memory_reserved_bytes: u64,
    /// Memory that each context takes, in bytes.
    pub context_bytes: u64,
    /// Copies from and to page-locked host memory, in bytes a second and direction.
    pub pcie_bytes_per_s: u64,
    /// Copies from and to pageable host memory, in bytes a second and direction.
    pub pageable_bytes_per_s: u64,
    /// PCI Express generation.
    pub pcie_generation: u32,
    /// PCI Express lanes.
    pub pcie_lanes: u32,
    /// PCI bus number; domain and function are 0.
    pub pci_bus: u8,
    /// PCI device number on the bus.
    pub pci_device: u8,
    /// PCI device id in the upper and vendor id in the lower half, as NVML gives it.
    pub pci_device_id: u32,
    /// PCI subsystem id, in the same form.
    pub pci_subsystem_id: u32,
    /// Power limit, in mW.
    pub power_limit_mw: u32,
    /// Power when idle, in mW.
    pub power_idle_mw: u32,
    /// Whether the board has ECC memory, switched on.
    pub ecc: bool,
}

impl Profile {
    /// The UUID as NVML spells it: `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    pub fn uuid_text(&self) -> String {
        let hex: String = self.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "GPU-{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        )
    }
}

/// Why a profile could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Neither a built-in name nor the path of a file.
    #[error("GPU_SIM_PROFILE={0}: no such profile; known: {known}, or the path of a .toml file", known = names())]
    Unknown(String),
    /// The file could not be read.
    #[error("GPU_SIM_PROFILE={path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that is not a profile; the text has line and key.
    #[error("profile {name}: {reason}")]
    Invalid {
        /// Name or path of the profile.
        name: String,
        /// Line, key and what is wrong.
        reason: String,
    },
}

fn names() -> String {
    let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

impl MachineProfile {
    /// Finds a profile by built-in name, else by the path of a TOML file.
    pub fn load(name: &str) -> Result<Self, ProfileError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        if !name.contains('/') && !name.ends_with(".toml") {
            return Err(ProfileError::Unknown(name.to_owned()));
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
        let invalid = |reason: String| ProfileError::Invalid {
            name: name.to_owned(),
            reason,
        };
        let mut machine: Self = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        name.clone_into(&mut machine.name);
        text.clone_into(&mut machine.text);
        machine.check().map_err(invalid)?;
        for (ordinal, device) in machine.devices.iter_mut().enumerate() {
            device.uuid = uuid(name, ordinal);
        }
        Ok(machine)
    }

    fn check(&self) -> Result<(), String> {
        if !(1..=DEVICES_MAX).contains(&self.devices.len()) {
            let count = self.devices.len();
            return Err(format!(
                "{count} [[device]] tables; allowed are 1 to {DEVICES_MAX}"
            ));
        }
        let timing = self.timing.check();
        timing.map_err(|refusal| format!("timing.{refusal}"))?;
        self.devices.iter().try_for_each(Profile::check)
    }
}

impl Profile {
    /// What the model divides by, or hands out in pages.
    fn check(&self) -> Result<(), String> {
        positive("device.sm_count", self.sm_count.into())?;
        positive("device.threads_per_sm_max", self.threads_per_sm_max.into())?;
        positive("device.blocks_per_sm_max", self.blocks_per_sm_max.into())?;
        positive("device.registers_per_sm", self.registers_per_sm.into())?;
        positive(
            "device.shared_bytes_per_sm",
            self.shared_bytes_per_sm.into(),
        )?;
        positive(
            "device.warp_instructions_per_cycle",
            self.warp_instructions_per_cycle.into(),
        )?;
        positive("device.sm_clock_mhz", self.sm_clock_mhz.into())?;
        positive(
            "device.memory_bandwidth_bytes_per_s",
            self.memory_bandwidth_bytes_per_s,
        )?;
        positive("device.pcie_bytes_per_s", self.pcie_bytes_per_s)?;
        positive("device.pageable_bytes_per_s", self.pageable_bytes_per_s)?;
        positive("device.memory_bytes", self.memory_bytes)?;
        if !self.memory_bytes.is_multiple_of(PAGE_BYTES) {
            let bytes = self.memory_bytes;
            return Err(format!(
                "device.memory_bytes = {bytes}; it must be a multiple of 2 MiB"
            ));
        }
        Ok(())
    }
}

fn positive(key: &str, value: u64) -> Result<(), String> {
    match value {
        0 => Err(format!("{key} = 0; it must be positive")),
        _ => Ok(()),
    }
}

/// A UUID of version 8 (RFC 9562 §5.8) out of two FNV-1a hashes: the same for the same machine.
fn uuid(name: &str, ordinal: usize) -> [u8; 16] {
    let hash = |salt: u8| {
        let bytes = name.bytes().chain([salt]).chain(ordinal.to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&hash(1).to_be_bytes());
    uuid[8..].copy_from_slice(&hash(2).to_be_bytes());
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
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

    #[test]
    fn two_devices_of_one_machine_have_two_uuids() {
        let text = MachineProfile::load("t4").unwrap().text;
        let device = &text[text.find("[[device]]").unwrap()..];
        let machine = MachineProfile::parse("two", &format!("{text}\n{device}")).unwrap();
        assert_eq!(machine.devices.len(), 2);
        assert_ne!(machine.devices[0].uuid, machine.devices[1].uuid);
    }

    #[test]
    fn what_is_wrong_is_said_with_line_and_key() {
        let unknown = changed("sm_count = 40", "sm_cuont = 40");
        assert!(
            unknown.contains("unknown field `sm_cuont`") && unknown.contains("line 9"),
            "{unknown}"
        );
        let kind = changed("sm_count = 40", "sm_count = \"40\"");
        assert!(
            kind.contains("sm_count") && kind.contains("line 9"),
            "{kind}"
        );
        let zero = changed("sm_count = 40", "sm_count = 0");
        assert!(
            zero.contains("device.sm_count = 0; it must be positive"),
            "{zero}"
        );
        let missing = changed("sm_count = 40\n", "");
        assert!(missing.contains("missing field `sm_count`"), "{missing}");
        let uneven = changed("memory_bytes = ", "memory_bytes = 1 # ");
        assert!(uneven.contains("multiple of 2 MiB"), "{uneven}");
        let slice = changed("[[device]]", "[timing]\nslice_ns = 100\n[[device]]");
        assert!(
            slice.contains("slice_ns = 100; allowed is 300000 to 5000000"),
            "{slice}"
        );
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
