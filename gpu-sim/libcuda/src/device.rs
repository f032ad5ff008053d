//! What a device says of itself.
//!
//! What depends on the board comes from its profile; the rest are limits of a compute capability (CUDA C++ Programming Guide,
//! "Technical Specifications per Compute Capability"), and `0` where a feature is not simulated.

use cuda_sys_stubs::abi::*;
use gpu_sim::profile::Profile;

use crate::door::Answer;
use crate::launch::{BLOCK_MAX, BLOCK_THREADS_MAX, GRID_MAX, SHARED_BYTES_DEFAULT};
use crate::{occupancy, texture};

const CONSTANT_BYTES: i32 = 64 << 10;
const WARP_THREADS: i32 = 32;
const PITCH_MAX: i32 = i32::MAX;

/// The attributes that say yes, on every device.
const SUPPORTED: &[CUdevice_attribute] = &[
    CU_DEVICE_ATTRIBUTE_GPU_OVERLAP,
    CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY,
    CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS,
    CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING,
    CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY,
    CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS,
    CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
    CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1,
    CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1,
    CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1,
    CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS,
    CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR,
    CU_DEVICE_ATTRIBUTE_ATOMIC_REDUCTION_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH,
    CU_DEVICE_ATTRIBUTE_COOPERATIVE_MULTI_DEVICE_LAUNCH,
    CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_SPARSE_CUDA_ARRAY_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_NUMA_MEMORY_POOLS_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_MEMORY_POOLS_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
];

/// `cuDeviceGetAttribute`.
pub(crate) fn attribute(profile: &Profile, attribute: CUdevice_attribute) -> Answer<i32> {
    if !(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK..CU_DEVICE_ATTRIBUTE_MAX).contains(&attribute) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if SUPPORTED.contains(&attribute) {
        return Ok(1);
    }
    let value = board(profile, attribute)
        .or_else(|| fixed(profile, attribute))
        .or_else(|| texture(attribute));
    Ok(value.unwrap_or(0))
}

fn word(value: impl TryInto<i32>) -> i32 {
    value.try_into().unwrap_or(i32::MAX)
}

/// What the board decides.
fn board(profile: &Profile, attribute: CUdevice_attribute) -> Option<i32> {
    Some(match attribute {
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => word(profile.sm_count),
        CU_DEVICE_ATTRIBUTE_CLOCK_RATE => word(profile.sm_clock_mhz.saturating_mul(1000)),
        CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE => {
            word(profile.memory_clock_mhz.saturating_mul(1000))
        }
        CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH => word(profile.memory_bus_bits),
        CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE => word(profile.l2_bytes),
        CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR => word(profile.threads_per_sm_max),
        CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR => word(profile.blocks_per_sm_max),
        CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR
        | CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK => word(profile.registers_per_sm),
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR => {
            word(profile.shared_bytes_per_sm)
        }
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN => {
            word(profile.shared_bytes_per_block_max)
        }
        CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK => {
            word(occupancy::reserved_shared_bytes(profile))
        }
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => word(profile.compute_capability.0),
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => word(profile.compute_capability.1),
        CU_DEVICE_ATTRIBUTE_PCI_BUS_ID => profile.pci_bus.into(),
        CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID => profile.pci_device.into(),
        CU_DEVICE_ATTRIBUTE_GPU_PCI_DEVICE_ID => profile.pci_device_id.cast_signed(),
        CU_DEVICE_ATTRIBUTE_GPU_PCI_SUBSYSTEM_ID => profile.pci_subsystem_id.cast_signed(),
        CU_DEVICE_ATTRIBUTE_ECC_ENABLED => profile.ecc.into(),
        CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED => profile.multicast.into(),
        CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH | CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED => {
            (profile.compute_capability.0 >= 9).into()
        }
        _ => return None,
    })
}

/// What is the same on every board of a compute capability.
fn fixed(profile: &Profile, attribute: CUdevice_attribute) -> Option<i32> {
    const DATA_CENTRE: [(u32, u32); 4] = [(6, 0), (7, 0), (8, 0), (9, 0)];
    Some(match attribute {
        CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK => word(BLOCK_THREADS_MAX),
        CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X => word(BLOCK_MAX[0]),
        CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y => word(BLOCK_MAX[1]),
        CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z => word(BLOCK_MAX[2]),
        CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X => word(GRID_MAX[0]),
        CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y => word(GRID_MAX[1]),
        CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z => word(GRID_MAX[2]),
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK => word(SHARED_BYTES_DEFAULT),
        CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY => CONSTANT_BYTES,
        CU_DEVICE_ATTRIBUTE_WARP_SIZE => WARP_THREADS,
        CU_DEVICE_ATTRIBUTE_MAX_PITCH => PITCH_MAX,
        CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT | CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT => {
            word(texture::ALIGNMENT)
        }
        CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT => word(texture::PITCH_ALIGNMENT),
        CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES => {
            word(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        }
        CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT => 2,
        CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
            if DATA_CENTRE.contains(&profile.compute_capability) =>
        {
            2
        }
        CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO => 32,
        CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT if profile.compute_capability.0 >= 9 => 4,
        CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT => 1,
        CU_DEVICE_ATTRIBUTE_NUMA_ID | CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID => -1,
        _ => return None,
    })
}

/// Largest textures and surfaces, as of compute capability 7.x to 9.0.
fn texture(attribute: CUdevice_attribute) -> Option<i32> {
    Some(match attribute {
        CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_WIDTH => 131_072,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_HEIGHT => 65_536,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_HEIGHT => 65_000,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_PITCH => 2_097_120,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LINEAR_WIDTH => 268_435_456,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH
            ..=CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH => 16_384,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT_ALTERNATE => 8_192,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE => 32_768,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_LAYERS
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_LAYERS
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_LAYERS
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_LAYERS => 2_048,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS => 2_046,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_HEIGHT
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_HEIGHT
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_HEIGHT
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_DEPTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_HEIGHT
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_WIDTH
        | CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH => 32_768,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_WIDTH => 131_072,
        CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_HEIGHT => 65_536,
        _ => return None,
    })
}

/// `0000:00:04.0`
pub(crate) fn pci_bus_id(profile: &Profile) -> String {
    format!("0000:{:02x}:{:02x}.0", profile.pci_bus, profile.pci_device)
}

/// `cuDeviceGetByPCIBusId`: `[domain]:[bus]:[device].[function]`, where domain and function may be left out.
pub(crate) fn matches_pci_bus_id(profile: &Profile, text: &str) -> bool {
    let (place, function) = text.split_once('.').unwrap_or((text, "0"));
    let hexadecimal = |part: &str| u32::from_str_radix(part, 16).ok();
    let parts: Option<Vec<u32>> = place.split(':').map(hexadecimal).collect();
    let (bus, device) = (u32::from(profile.pci_bus), u32::from(profile.pci_device));
    let is_place =
        matches!(parts.as_deref(), Some([b, d] | [0, b, d]) if (*b, *d) == (bus, device));
    is_place && hexadecimal(function) == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpu_sim::profile::MachineProfile;

    fn t4() -> Profile {
        MachineProfile::load("t4").unwrap().devices.remove(0)
    }

    #[test]
    fn every_attribute_has_a_value_and_nothing_beyond_does() {
        for each in CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK..CU_DEVICE_ATTRIBUTE_MAX {
            attribute(&t4(), each).unwrap();
        }
        assert_eq!(attribute(&t4(), 0), Err(CUDA_ERROR_INVALID_VALUE));
        assert_eq!(
            attribute(&t4(), CU_DEVICE_ATTRIBUTE_MAX),
            Err(CUDA_ERROR_INVALID_VALUE)
        );
    }

    #[test]
    fn a_device_is_found_by_any_spelling_of_its_bus_id() {
        let bus_id = pci_bus_id(&t4());
        assert_eq!(bus_id, "0000:00:04.0");
        for text in [bus_id.as_str(), "0:0:4", "00:04.0", "00000000:00:04.0"] {
            assert!(matches_pci_bus_id(&t4(), text), "{text}");
        }
        for text in ["0000:01:04.0", "0000:00:04.1", "0001:00:04.0", "", "x"] {
            assert!(!matches_pci_bus_id(&t4(), text), "{text}");
        }
    }
}
