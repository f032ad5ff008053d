//! One device of a machine: what is known of a board, and which figures make sense.

use super::PAGE_BYTES;
use super::document::BadValue;
use serde::Deserialize;

/// Most memory that a device can be given, in bytes: 1 TiB. Each process maps all of it.
const MEMORY_BYTES_MAX: u64 = 1 << 40;

/// Longest name that NVML's buffers hold, in bytes (`NVML_DEVICE_NAME_V2_BUFFER_SIZE` less the final NUL).
const NAME_BYTES_MAX: usize = 95;

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
    /// Device memory that the host can reach through the bus (BAR1), in bytes; shown, not modelled.
    pub bar1_bytes: u64,
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
    /// Fans of the board; 0 = it is cooled by the machine's.
    pub fan_count: u32,
    /// Power limit, in mW.
    pub power_limit_mw: u32,
    /// Power when idle, in mW.
    pub power_idle_mw: u32,
    /// Whether the board has ECC memory, switched on.
    pub ecc: bool,
    /// Whether it can be part of multicast objects, as boards behind NVSwitches that reduce on their way can. Not where the file does
    /// not say.
    #[serde(default)]
    pub multicast: bool,
    /// Whether accounting mode is on, as `nvidia-smi -am 1` switches it: NVML then tells of processes what they did, also when
    /// they have ended. Off where the file does not say.
    #[serde(default)]
    pub accounting: bool,
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

impl Profile {
    /// What the model divides by or hands out in pages, and what no board could have.
    pub(super) fn check(&self) -> Result<(), BadValue> {
        self.check_identity()?;
        self.check_multiprocessor()?;
        self.check_memory()?;
        self.check_board()
    }

    fn check_board(&self) -> Result<(), BadValue> {
        let refused = |key, reason: &str| Err(BadValue::new(key, reason));
        if !matches!(self.pcie_generation, 1..=7) {
            return refused("pcie_generation", "allowed is 1 to 7");
        }
        if !matches!(self.pcie_lanes, 1 | 2 | 4 | 8 | 16 | 32) {
            return refused("pcie_lanes", "allowed is 1, 2, 4, 8, 16 or 32");
        }
        if self.pci_device > 31 {
            return refused("pci_device", "allowed is 0 to 31");
        }
        if self.power_idle_mw > self.power_limit_mw {
            return refused("power_idle_mw", "it must not exceed power_limit_mw");
        }
        Ok(())
    }

    fn check_identity(&self) -> Result<(), BadValue> {
        let length = 1..=NAME_BYTES_MAX;
        if !length.contains(&self.name.len()) || self.name.contains('\0') {
            return Err(BadValue::new(
                "name",
                "allowed are 1 to 95 bytes, none of them NUL",
            ));
        }
        if !(5..=12).contains(&self.compute_capability.0) || self.compute_capability.1 > 9 {
            return Err(BadValue::new(
                "compute_capability",
                "allowed is [5, 0] to [12, 9]",
            ));
        }
        Ok(())
    }

    fn check_multiprocessor(&self) -> Result<(), BadValue> {
        let counts = [
            ("sm_count", self.sm_count),
            ("cores_per_sm", self.cores_per_sm),
            ("threads_per_sm_max", self.threads_per_sm_max),
            ("blocks_per_sm_max", self.blocks_per_sm_max),
            ("registers_per_sm", self.registers_per_sm),
            ("shared_bytes_per_sm", self.shared_bytes_per_sm),
            (
                "warp_instructions_per_cycle",
                self.warp_instructions_per_cycle,
            ),
            ("sm_clock_mhz", self.sm_clock_mhz),
        ];
        for (key, value) in counts {
            BadValue::unless_positive(key, value.into())?;
        }
        if self.shared_bytes_per_block_max > self.shared_bytes_per_sm {
            return Err(BadValue::new(
                "shared_bytes_per_block_max",
                "it must not exceed shared_bytes_per_sm",
            ));
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<(), BadValue> {
        let rates = [
            (
                "memory_bandwidth_bytes_per_s",
                self.memory_bandwidth_bytes_per_s,
            ),
            ("pcie_bytes_per_s", self.pcie_bytes_per_s),
            ("pageable_bytes_per_s", self.pageable_bytes_per_s),
            ("memory_bytes", self.memory_bytes),
        ];
        for (key, value) in rates {
            BadValue::unless_positive(key, value)?;
        }
        if !self.memory_bytes.is_multiple_of(PAGE_BYTES) || self.memory_bytes > MEMORY_BYTES_MAX {
            return Err(BadValue::new(
                "memory_bytes",
                "it must be a multiple of 2 MiB, at most 1 TiB",
            ));
        }
        if self.context_bytes > self.memory_bytes {
            return Err(BadValue::new(
                "context_bytes",
                "it must not exceed memory_bytes",
            ));
        }
        Ok(())
    }
}
