//! Where memory is to be, and who may use it: a device, or the host.

use cuda_sys_stubs::abi::*;
use gpu_sim::profile::DEVICES_MAX;

use crate::door::Answer;
use crate::process::Process;

/// A `CUmemLocation` that memory can have. The machine's host has no NUMA (`CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID` is -1), so its
/// only node is 0 (cuda.h 13.4, `cuMemCreate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Location {
    /// Ordinal of the device.
    Device(usize),
    /// `CU_MEM_LOCATION_TYPE_HOST`.
    Host,
    /// `CU_MEM_LOCATION_TYPE_HOST_NUMA`, node 0.
    HostNode,
}

/// Where the memory of a pool is to be, and of which kind it is. Managed memory may prefer no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Pinned(Location),
    Managed(Option<Location>),
}

impl Home {
    /// `CUDA_ERROR_INVALID_VALUE`: there is no such memory.
    pub(crate) fn of(
        process: &Process,
        location: &CUmemLocation,
        kind: CUmemAllocationType,
    ) -> Answer<Self> {
        match (kind, location.type_) {
            (CU_MEM_ALLOCATION_TYPE_PINNED, _) => Location::of(process, location).map(Self::Pinned),
            (CU_MEM_ALLOCATION_TYPE_MANAGED, CU_MEM_LOCATION_TYPE_NONE) => Ok(Self::Managed(None)),
            (CU_MEM_ALLOCATION_TYPE_MANAGED, _) => {
                Location::of(process, location).map(|location| Self::Managed(Some(location)))
            }
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }

    /// As a program sees it.
    pub(crate) fn described(self) -> Answer<(CUmemAllocationType, CUmemLocation)> {
        let nowhere = CUmemLocation {
            type_: CU_MEM_LOCATION_TYPE_NONE,
            id: 0,
        };
        Ok(match self {
            Self::Pinned(location) => (CU_MEM_ALLOCATION_TYPE_PINNED, location.described()?),
            Self::Managed(Some(location)) => {
                (CU_MEM_ALLOCATION_TYPE_MANAGED, location.described()?)
            }
            Self::Managed(None) => (CU_MEM_ALLOCATION_TYPE_MANAGED, nowhere),
        })
    }

    /// Whether it is the host's own memory.
    pub(crate) fn is_host(self) -> bool {
        matches!(self, Self::Pinned(location) if location.is_host())
    }

    /// The device that it names.
    pub(crate) fn device(self) -> Option<usize> {
        match self {
            Self::Pinned(Location::Device(ordinal))
            | Self::Managed(Some(Location::Device(ordinal))) => Some(ordinal),
            _ => None,
        }
    }

    /// Whether somebody may use the memory without having been allowed to: of managed memory, everybody.
    pub(crate) fn is_open_to(self, user: Location) -> bool {
        match self {
            Self::Pinned(location) => location.index() == user.index(),
            Self::Managed(_) => true,
        }
    }

    /// Refuses to have memory shared in a way that there is not: managed memory in none (cuda.h 13.4, `cuMemPoolCreate`).
    pub(crate) fn check_handle_types(self, wished: CUmemAllocationHandleType) -> Answer {
        match self {
            Self::Pinned(location) => location.check_handle_types(wished),
            Self::Managed(_) if wished == CU_MEM_HANDLE_TYPE_NONE => Ok(()),
            Self::Managed(_) => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }
}

impl Location {
    /// Where new memory is to be. `CUDA_ERROR_INVALID_VALUE` for a node that there is not and for
    /// `CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT`, which neither `cuMemCreate` nor `cuMemPoolCreate` takes.
    pub(crate) fn of(process: &Process, location: &CUmemLocation) -> Answer<Self> {
        match (location.type_, location.id) {
            (CU_MEM_LOCATION_TYPE_DEVICE, device) => Ok(Self::Device(process.device(device)?.0)),
            (CU_MEM_LOCATION_TYPE_HOST, _) => Ok(Self::Host),
            (CU_MEM_LOCATION_TYPE_HOST_NUMA, 0) => Ok(Self::HostNode),
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }

    /// Who is to be allowed, or was: of a host node the number is ignored (cuda.h 13.4, `cuMemSetAccess`).
    pub(crate) fn of_user(process: &Process, location: &CUmemLocation) -> Answer<Self> {
        match location.type_ {
            CU_MEM_LOCATION_TYPE_HOST_NUMA => Ok(Self::HostNode),
            _ => Self::of(process, location),
        }
    }

    /// As a program sees it.
    pub(crate) fn described(self) -> Answer<CUmemLocation> {
        let (type_, id) = match self {
            Self::Device(ordinal) => (CU_MEM_LOCATION_TYPE_DEVICE, ordinal),
            Self::Host => (CU_MEM_LOCATION_TYPE_HOST, 0),
            Self::HostNode => (CU_MEM_LOCATION_TYPE_HOST_NUMA, 0),
        };
        let id = CUdevice::try_from(id).map_err(|_| CUDA_ERROR_INVALID_DEVICE)?;
        Ok(CUmemLocation { type_, id })
    }

    pub(crate) fn is_host(self) -> bool {
        !matches!(self, Self::Device(_))
    }

    /// Refuses to have memory here shared in a way that there is not. Of the host, only memory of a node can be shared
    /// (cuda.h 13.4, `cuMemCreate`, `cuMemPoolCreate`).
    pub(crate) fn check_handle_types(self, wished: CUmemAllocationHandleType) -> Answer {
        match self {
            Self::Host if wished != CU_MEM_HANDLE_TYPE_NONE => Err(CUDA_ERROR_INVALID_VALUE),
            _ if wished & !CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR != 0 => {
                Err(CUDA_ERROR_NOT_SUPPORTED)
            }
            _ => Ok(()),
        }
    }

    /// Its place among those whose access is written down: the host's is behind the devices'.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Device(ordinal) => ordinal,
            Self::Host | Self::HostNode => DEVICES_MAX,
        }
    }
}
