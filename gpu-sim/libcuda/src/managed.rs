//! Advice about managed memory, kept for who asks. What shall lie on the host is counted on no device from then on; all other advice
//! changes nothing else: managed memory is always where it is.
//!
//! CUDA Driver API, `cuMemAdvise`, `cuMemRangeGetAttribute`. Advice is kept for a whole allocation, not for a part of one.

use cuda_sys_stubs::abi::*;

use crate::address::{Backing, HostKind, Place};
use crate::door::Answer;
use crate::location;
use crate::process::{Process, State, refused};

/// A place as `CUmemLocation` has it; a device, or the host as [`CU_DEVICE_CPU`].
pub(crate) type Location = CUdevice;

/// What a program said of an allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Advice {
    is_read_mostly: bool,
    preferred: Option<Location>,
    accessed_by: Vec<Location>,
    prefetched: Option<Location>,
}

/// The allocation that has all these bytes. `CUDA_ERROR_INVALID_VALUE`: it is not managed, or there is none.
pub(crate) fn check(state: &State, start: CUdeviceptr, bytes: u64) -> Answer<u64> {
    match state.book.find_all(start, bytes) {
        Some(range) if range.is_managed() && bytes > 0 => Ok(range.id),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// The location, if it is a device of this process or the host.
pub(crate) fn location(devices: usize, location: Location) -> Answer<Location> {
    let is_device = usize::try_from(location).is_ok_and(|ordinal| ordinal < devices);
    if is_device || location == CU_DEVICE_CPU {
        Ok(location)
    } else {
        Err(CUDA_ERROR_INVALID_DEVICE)
    }
}

/// Writes down where a new allocation's pool prefers it to be.
pub(crate) fn prefer(state: &mut State, start: CUdeviceptr, preferred: location::Location) {
    let at = match preferred {
        location::Location::Device(ordinal) => CUdevice::try_from(ordinal).ok(),
        location::Location::Host | location::Location::HostNode => Some(CU_DEVICE_CPU),
    };
    if let Some(range) = state.book.find(start) {
        state.advice.entry(range.id).or_default().preferred = at;
    }
}

/// `cuMemAdvise`.
pub(crate) fn advise(
    process: &Process,
    state: &mut State,
    (start, bytes): (CUdeviceptr, u64),
    advice: CUmem_advise,
    at: Location,
) -> Answer {
    let id = check(state, start, bytes)?;
    let known = state.advice.entry(id).or_default();
    match advice {
        CU_MEM_ADVISE_SET_READ_MOSTLY => known.is_read_mostly = true,
        CU_MEM_ADVISE_UNSET_READ_MOSTLY => known.is_read_mostly = false,
        CU_MEM_ADVISE_SET_PREFERRED_LOCATION => {
            known.preferred = Some(at);
            if at == CU_DEVICE_CPU
                && let Some(block) = state.book.leave_device(start)
            {
                process.machine.free(block.id).map_err(refused)?;
            }
        }
        CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION => known.preferred = None,
        CU_MEM_ADVISE_SET_ACCESSED_BY if !known.accessed_by.contains(&at) => {
            known.accessed_by.push(at);
        }
        CU_MEM_ADVISE_SET_ACCESSED_BY => {}
        CU_MEM_ADVISE_UNSET_ACCESSED_BY => known.accessed_by.retain(|known| *known != at),
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    }
    Ok(())
}

/// `cuMemGetLocationInfo`: where these bytes are. Managed memory is all in one place: at the device that counts it, or on the host; what nobody
/// wrote down is the host's. `CUDA_ERROR_INVALID_VALUE`: memory of another kind.
pub(crate) fn residency(
    process: &Process,
    start: CUdeviceptr,
    bytes: u64,
) -> Answer<location::Location> {
    let state = process.lock();
    match state.book.find_all(start, bytes) {
        Some(range) if matches!(range.backing, Backing::Managed(None)) => {
            Ok(location::Location::Host)
        }
        Some(range) if range.is_managed() => Ok(location::Location::Device(range.device)),
        Some(_) => Err(CUDA_ERROR_INVALID_VALUE),
        None if state.book.overlaps(start, bytes) => Err(CUDA_ERROR_INVALID_VALUE),
        None => match state.book.place(&process.devices, start, bytes)? {
            Place::Host {
                kind: HostKind::Pageable,
                ..
            } => Ok(location::Location::Host),
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        },
    }
}

/// Writes down where an allocation was last wanted.
pub(crate) fn prefetch(
    state: &mut State,
    (start, bytes): (CUdeviceptr, u64),
    to: Location,
) -> Answer {
    let id = check(state, start, bytes)?;
    state.advice.entry(id).or_default().prefetched = Some(to);
    Ok(())
}

/// `cuMemRangeGetAttribute`: a list of words, of which a caller takes as many as it has room for.
pub(crate) fn attribute(
    state: &State,
    (start, bytes): (CUdeviceptr, u64),
    attribute: CUmem_range_attribute,
) -> Answer<Vec<i32>> {
    let id = check(state, start, bytes)?;
    let advice = state.advice.get(&id).cloned().unwrap_or_default();
    let of_kind = |location: Option<Location>| {
        let kind = match location {
            None => CU_MEM_LOCATION_TYPE_INVALID,
            Some(CU_DEVICE_CPU) => CU_MEM_LOCATION_TYPE_HOST,
            Some(_) => CU_MEM_LOCATION_TYPE_DEVICE,
        };
        i32::try_from(kind).unwrap_or(0)
    };
    Ok(match attribute {
        CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY => vec![advice.is_read_mostly.into()],
        CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION => {
            vec![advice.preferred.unwrap_or(CU_DEVICE_INVALID)]
        }
        CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY => advice.accessed_by,
        CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION => {
            vec![advice.prefetched.unwrap_or(CU_DEVICE_INVALID)]
        }
        CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE => vec![of_kind(advice.preferred)],
        CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID => {
            vec![advice.preferred.filter(|at| *at >= 0).unwrap_or(0)]
        }
        CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE => vec![of_kind(advice.prefetched)],
        CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID => {
            vec![advice.prefetched.filter(|at| *at >= 0).unwrap_or(0)]
        }
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    })
}
