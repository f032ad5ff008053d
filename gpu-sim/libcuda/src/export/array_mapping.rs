//! Arrays whose memory the program maps.

use cuda_sys_stubs::abi::*;

use super::{list, put, wanted};
use crate::array::mapping::{self, Operation, Resource};
use crate::array::{Subresource, TILE_BYTES};
use crate::door::{Answer, exports};
use crate::process::process;
use crate::table::Key;

/// An operation as the program describes it.
///
/// # Safety
/// The members of the unions that their types name are the valid ones.
unsafe fn operation(info: &CUarrayMapInfo) -> Answer<Operation> {
    if info.flags != 0 || info.reserved != [0; 2] {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    let (resource, part) = unsafe { (resource(info)?, subresource(info)?) };
    let memory = match (info.memOperationType, info.memHandleType, info.memHandle) {
        (CU_MEM_OPERATION_TYPE_MAP, CU_MEM_HANDLE_TYPE_GENERIC, handle) => {
            Some((handle, info.offset))
        }
        (CU_MEM_OPERATION_TYPE_UNMAP, _, 0) => None,
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    };
    Ok(Operation {
        resource,
        part,
        memory,
        devices: info.deviceBitMask,
    })
}

/// # Safety
/// As [`operation`].
unsafe fn resource(info: &CUarrayMapInfo) -> Answer<Resource> {
    match info.resourceType {
        CU_RESOURCE_TYPE_ARRAY => {
            // SAFETY: the caller's promise.
            let array = Key::of(unsafe { info.resource.array });
            array.map(Resource::Array).ok_or(CUDA_ERROR_INVALID_HANDLE)
        }
        CU_RESOURCE_TYPE_MIPMAPPED_ARRAY => {
            // SAFETY: the caller's promise.
            let mipmap = Key::of(unsafe { info.resource.mipmap });
            mipmap
                .map(Resource::Mipmap)
                .ok_or(CUDA_ERROR_INVALID_HANDLE)
        }
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// # Safety
/// As [`operation`].
unsafe fn subresource(info: &CUarrayMapInfo) -> Answer<Subresource> {
    match info.subresourceType {
        CU_ARRAY_SPARSE_SUBRESOURCE_TYPE_SPARSE_LEVEL => {
            // SAFETY: the caller's promise.
            let [level, layer, x, y, z, width, height, depth] =
                unsafe { info.subresource.sparseLevel };
            Ok(Subresource::Level {
                level,
                layer,
                offset: [x, y, z],
                extent: [width, height, depth],
            })
        }
        CU_ARRAY_SPARSE_SUBRESOURCE_TYPE_MIPTAIL => {
            // SAFETY: the caller's promise.
            let tail = unsafe { info.subresource.miptail };
            Ok(Subresource::Tail {
                layer: tail.layer,
                offset: tail.offset,
                bytes: tail.size,
            })
        }
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// What a program is told of the tiles of an array.
fn properties(resource: Option<Resource>) -> Answer<CUDA_ARRAY_SPARSE_PROPERTIES> {
    let process = process()?;
    let state = process.lock();
    let resource = resource.ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    let properties = mapping::find(&state, resource)?.geometry.properties()?;
    let word = |extent| u32::try_from(extent).map_err(|_| CUDA_ERROR_INVALID_VALUE);
    let [width, height, depth] = properties.extent.map(word);
    Ok(CUDA_ARRAY_SPARSE_PROPERTIES {
        tileExtent: [width?, height?, depth?],
        miptailFirstLevel: properties.tail_first,
        miptailSize: properties.tail_bytes,
        flags: if properties.has_single_tail {
            CU_ARRAY_SPARSE_PROPERTIES_SINGLE_MIPTAIL
        } else {
            0
        },
        reserved: [0; 4],
    })
}

/// What a program is told of an array that is mapped at once.
fn requirements(
    resource: Option<Resource>,
    device: CUdevice,
) -> Answer<CUDA_ARRAY_MEMORY_REQUIREMENTS> {
    let process = process()?;
    process.device(device)?;
    let state = process.lock();
    let resource = resource.ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    let bytes = mapping::find(&state, resource)?.geometry.required_bytes()?;
    let length = |bytes| usize::try_from(bytes).map_err(|_| CUDA_ERROR_INVALID_VALUE);
    Ok(CUDA_ARRAY_MEMORY_REQUIREMENTS {
        size: length(bytes)?,
        alignment: length(TILE_BYTES)?,
        reserved: [0; 4],
    })
}

exports! {
    fn cuArrayGetSparseProperties(sparseProperties: *mut CUDA_ARRAY_SPARSE_PROPERTIES, array: CUarray) {
        wanted(sparseProperties)?;
        put(sparseProperties, properties(Key::of(array).map(Resource::Array))?)
    }
    fn cuMipmappedArrayGetSparseProperties(sparseProperties: *mut CUDA_ARRAY_SPARSE_PROPERTIES, mipmap: CUmipmappedArray) {
        wanted(sparseProperties)?;
        put(sparseProperties, properties(Key::of(mipmap).map(Resource::Mipmap))?)
    }
    fn cuArrayGetMemoryRequirements(memoryRequirements: *mut CUDA_ARRAY_MEMORY_REQUIREMENTS, array: CUarray, device: CUdevice) {
        wanted(memoryRequirements)?;
        put(memoryRequirements, requirements(Key::of(array).map(Resource::Array), device)?)
    }
    fn cuMipmappedArrayGetMemoryRequirements(memoryRequirements: *mut CUDA_ARRAY_MEMORY_REQUIREMENTS, mipmap: CUmipmappedArray, device: CUdevice) {
        wanted(memoryRequirements)?;
        put(memoryRequirements, requirements(Key::of(mipmap).map(Resource::Mipmap), device)?)
    }
    fn cuMemMapArrayAsync / cuMemMapArrayAsync_ptsz |null| (mapInfoList: *mut CUarrayMapInfo, count: u32, hStream: CUstream) {
        let process = process()?;
        let count = usize::try_from(count).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
        let infos = list(mapInfoList.cast_const(), count)?;
        let operations = infos.iter().map(|info| operation(info)).collect::<Answer<Vec<_>>>()?;
        mapping::map(process, &operations, hStream, null)
    }
}
