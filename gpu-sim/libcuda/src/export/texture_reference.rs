//! Texture references. Each call sets or gives one of a reference's properties.

use cuda_sys_stubs::abi::*;

use super::{get, list, put, put_if, wanted, wide};
use crate::array;
use crate::door::{Answer, exports};
use crate::process::{State, process};
use crate::table::Key;
use crate::texture_reference::{Bound, TextureReference, check_memory};

/// Does something with a reference.
fn with<T>(handle: CUtexref, act: impl FnOnce(&mut TextureReference) -> Answer<T>) -> Answer<T> {
    let mut state = process()?.lock();
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    act(state
        .texture_references
        .get_mut(key)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)?)
}

fn bind(handle: CUtexref, find: impl FnOnce(&State) -> Answer<Bound>) -> Answer {
    let bound = find(&process()?.lock())?;
    with(handle, |reference| {
        reference.bound = bound;
        Ok(())
    })
}

pub(super) fn bind_pitched(
    handle: CUtexref,
    description: &CUDA_ARRAY_DESCRIPTOR,
    address: CUdeviceptr,
    pitch: usize,
) -> Answer {
    let bytes = wide(pitch).checked_mul(wide(description.Height));
    let bytes = bytes.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    bind(handle, |state| match check_memory(state, address, bytes)? {
        0 => Ok(Bound::Memory(address)),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    })?;
    with(handle, |reference| {
        reference.format = description.Format;
        reference.channels = i32::try_from(description.NumChannels).unwrap_or(0);
        Ok(())
    })
}

/// Binds memory; gives how far behind a multiple of the alignment it starts, which not every program wants to know.
pub(super) fn set_address(
    handle: CUtexref,
    address: CUdeviceptr,
    bytes: usize,
    takes_offset: bool,
) -> Answer<u64> {
    let offset = check_memory(&process()?.lock(), address, wide(bytes))?;
    if offset != 0 && !takes_offset {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    bind(handle, |_| Ok(Bound::Memory(address)))?;
    Ok(offset)
}

/// The memory that is bound.
pub(super) fn address_of(handle: CUtexref) -> Answer<CUdeviceptr> {
    with(handle, |reference| match reference.bound {
        Bound::Memory(address) => Ok(address),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    })
}

/// Sets a property.
fn set(handle: CUtexref, set: impl FnOnce(&mut TextureReference)) -> Answer {
    with(handle, |reference| {
        set(reference);
        Ok(())
    })
}

exports! {
    fn cuTexRefCreate(pTexRef: *mut CUtexref) {
        let process = process()?;
        wanted(pTexRef)?;
        put(pTexRef, process.lock().texture_references.insert(TextureReference::new()).handle())
    }
    fn cuTexRefDestroy(hTexRef: CUtexref) {
        let key = Key::of(hTexRef).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
        process()?.lock().texture_references.remove(key).map(drop).ok_or(CUDA_ERROR_INVALID_HANDLE)
    }
    fn cuTexRefSetArray(hTexRef: CUtexref, hArray: CUarray, Flags: u32) {
        if Flags != CU_TRSA_OVERRIDE_FORMAT {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let shape = array::find(&process()?.lock(), hArray)?.shape;
        let array = Key::of(hArray).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
        set(hTexRef, |reference| {
            (reference.bound, reference.format) = (Bound::Array(array), shape.format);
            reference.channels = i32::try_from(shape.channels).unwrap_or(0);
        })
    }
    fn cuTexRefGetArray(phArray: *mut CUarray, hTexRef: CUtexref) {
        let array = with(hTexRef, |reference| match reference.bound {
            Bound::Array(array) => Ok(array),
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        });
        put(phArray, array?.handle())
    }
    fn cuTexRefSetMipmappedArray(hTexRef: CUtexref, hMipmappedArray: CUmipmappedArray, Flags: u32) {
        if Flags != CU_TRSA_OVERRIDE_FORMAT {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        array::level(&process()?.lock(), hMipmappedArray, 0)?;
        let mipmap = Key::of(hMipmappedArray).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
        set(hTexRef, |reference| reference.bound = Bound::Mipmap(mipmap))
    }
    fn cuTexRefGetMipmappedArray(phMipmappedArray: *mut CUmipmappedArray, hTexRef: CUtexref) {
        let mipmap = with(hTexRef, |reference| match reference.bound {
            Bound::Mipmap(mipmap) => Ok(mipmap),
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        });
        put(phMipmappedArray, mipmap?.handle())
    }
    fn cuTexRefSetAddress_v2(ByteOffset: *mut usize, hTexRef: CUtexref, dptr: CUdeviceptr, bytes: usize) {
        let offset = set_address(hTexRef, dptr, bytes, !ByteOffset.is_null())?;
        put_if(ByteOffset, usize::try_from(offset).unwrap_or(0));
        Ok(())
    }
    fn cuTexRefGetAddress_v2(pdptr: *mut CUdeviceptr, hTexRef: CUtexref) {
        put(pdptr, address_of(hTexRef)?)
    }
    fn cuTexRefSetAddress2D_v2(hTexRef: CUtexref, desc: *const CUDA_ARRAY_DESCRIPTOR, dptr: CUdeviceptr, Pitch: usize) {
        bind_pitched(hTexRef, &get(desc)?, dptr, Pitch)
    }
    fn cuTexRefSetAddress2D_v3(hTexRef: CUtexref, desc: *const CUDA_ARRAY_DESCRIPTOR, dptr: CUdeviceptr, Pitch: usize) {
        bind_pitched(hTexRef, &get(desc)?, dptr, Pitch)
    }
    fn cuTexRefSetFormat(hTexRef: CUtexref, fmt: CUarray_format, NumPackedComponents: i32) {
        if !matches!(NumPackedComponents, 1 | 2 | 4) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        set(hTexRef, |reference| (reference.format, reference.channels) = (fmt, NumPackedComponents))
    }
    fn cuTexRefGetFormat(pFormat: *mut CUarray_format, pNumChannels: *mut i32, hTexRef: CUtexref) {
        let (format, channels) = with(hTexRef, |reference| Ok((reference.format, reference.channels)))?;
        put_if(pFormat, format);
        put_if(pNumChannels, channels);
        Ok(())
    }
    fn cuTexRefSetAddressMode(hTexRef: CUtexref, dim: i32, am: CUaddress_mode) {
        with(hTexRef, |reference| {
            *reference.address_mode(dim)? = am;
            Ok(())
        })
    }
    fn cuTexRefGetAddressMode(pam: *mut CUaddress_mode, hTexRef: CUtexref, dim: i32) {
        put(pam, with(hTexRef, |reference| reference.address_mode(dim).copied())?)
    }
    fn cuTexRefSetFilterMode(hTexRef: CUtexref, fm: CUfilter_mode) {
        set(hTexRef, |reference| reference.filter = fm)
    }
    fn cuTexRefGetFilterMode(pfm: *mut CUfilter_mode, hTexRef: CUtexref) {
        put(pfm, with(hTexRef, |reference| Ok(reference.filter))?)
    }
    fn cuTexRefSetMipmapFilterMode(hTexRef: CUtexref, fm: CUfilter_mode) {
        set(hTexRef, |reference| reference.mipmap_filter = fm)
    }
    fn cuTexRefGetMipmapFilterMode(pfm: *mut CUfilter_mode, hTexRef: CUtexref) {
        put(pfm, with(hTexRef, |reference| Ok(reference.mipmap_filter))?)
    }
    fn cuTexRefSetMipmapLevelBias(hTexRef: CUtexref, bias: f32) {
        set(hTexRef, |reference| reference.mipmap_bias = bias)
    }
    fn cuTexRefGetMipmapLevelBias(pbias: *mut f32, hTexRef: CUtexref) {
        put(pbias, with(hTexRef, |reference| Ok(reference.mipmap_bias))?)
    }
    fn cuTexRefSetMipmapLevelClamp(hTexRef: CUtexref, minMipmapLevelClamp: f32, maxMipmapLevelClamp: f32) {
        set(hTexRef, |reference| reference.mipmap_clamp = (minMipmapLevelClamp, maxMipmapLevelClamp))
    }
    fn cuTexRefGetMipmapLevelClamp(pminMipmapLevelClamp: *mut f32, pmaxMipmapLevelClamp: *mut f32, hTexRef: CUtexref) {
        let (least, most) = with(hTexRef, |reference| Ok(reference.mipmap_clamp))?;
        put(pminMipmapLevelClamp, least)?;
        put(pmaxMipmapLevelClamp, most)
    }
    fn cuTexRefSetMaxAnisotropy(hTexRef: CUtexref, maxAniso: u32) {
        set(hTexRef, |reference| reference.max_anisotropy = maxAniso)
    }
    fn cuTexRefGetMaxAnisotropy(pmaxAniso: *mut i32, hTexRef: CUtexref) {
        let most = with(hTexRef, |reference| Ok(reference.max_anisotropy))?;
        put(pmaxAniso, i32::try_from(most).unwrap_or(i32::MAX))
    }
    fn cuTexRefSetBorderColor(hTexRef: CUtexref, pBorderColor: *mut f32) {
        let colour = list(pBorderColor.cast_const(), 4)?;
        set(hTexRef, |reference| reference.border.copy_from_slice(colour))
    }
    fn cuTexRefGetBorderColor(pBorderColor: *mut f32, hTexRef: CUtexref) {
        put(pBorderColor.cast::<[f32; 4]>(), with(hTexRef, |reference| Ok(reference.border))?)
    }
    fn cuTexRefSetFlags(hTexRef: CUtexref, Flags: u32) {
        set(hTexRef, |reference| reference.flags = Flags)
    }
    fn cuTexRefGetFlags(pFlags: *mut u32, hTexRef: CUtexref) {
        put(pFlags, with(hTexRef, |reference| Ok(reference.flags))?)
    }
}
