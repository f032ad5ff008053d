//! Texture and surface objects.

use cuda_sys_stubs::abi::*;

use super::{address, get, put, wanted, wide};
use crate::door::{Answer, exports};
use crate::process::{State, process};
use crate::table::Key;
use crate::texture::{self, Elements, Resource, Surface, Texture};

/// # Safety
/// The description's type says which member was written.
unsafe fn resource(description: &CUDA_RESOURCE_DESC) -> Answer<Resource> {
    if description.flags != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: each member is read under its own type (caller).
    unsafe {
        Ok(match description.resType {
            CU_RESOURCE_TYPE_ARRAY => {
                let key = Key::of(description.res.array);
                Resource::Array(key.ok_or(CUDA_ERROR_INVALID_VALUE)?)
            }
            CU_RESOURCE_TYPE_MIPMAPPED_ARRAY => {
                let key = Key::of(description.res.mipmap);
                Resource::Mipmap(key.ok_or(CUDA_ERROR_INVALID_VALUE)?)
            }
            CU_RESOURCE_TYPE_LINEAR => {
                let linear = description.res.linear;
                Resource::Linear {
                    elements: elements(linear.devPtr, linear.format, linear.numChannels),
                    bytes: wide(linear.sizeInBytes),
                }
            }
            CU_RESOURCE_TYPE_PITCH2D => {
                let pitched = description.res.pitch2D;
                Resource::Pitched {
                    elements: elements(pitched.devPtr, pitched.format, pitched.numChannels),
                    width: wide(pitched.width),
                    height: wide(pitched.height),
                    pitch: wide(pitched.pitchInBytes),
                }
            }
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        })
    }
}

fn elements(address: CUdeviceptr, format: CUarray_format, channels: u32) -> Elements {
    Elements {
        address,
        format,
        channels,
    }
}

fn length(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

fn description(resource: &Resource) -> CUDA_RESOURCE_DESC {
    let mut res = anonymous_resource { reserved: [0; 32] };
    let resType = match *resource {
        Resource::Array(key) => {
            res.array = key.handle();
            CU_RESOURCE_TYPE_ARRAY
        }
        Resource::Mipmap(key) => {
            res.mipmap = key.handle();
            CU_RESOURCE_TYPE_MIPMAPPED_ARRAY
        }
        Resource::Linear { elements, bytes } => {
            res.linear = anonymous_linear {
                devPtr: elements.address,
                format: elements.format,
                numChannels: elements.channels,
                sizeInBytes: length(bytes),
            };
            CU_RESOURCE_TYPE_LINEAR
        }
        Resource::Pitched {
            elements,
            width,
            height,
            pitch,
        } => {
            res.pitch2D = anonymous_pitch2D {
                devPtr: elements.address,
                format: elements.format,
                numChannels: elements.channels,
                width: length(width),
                height: length(height),
                pitchInBytes: length(pitch),
            };
            CU_RESOURCE_TYPE_PITCH2D
        }
    };
    CUDA_RESOURCE_DESC {
        resType,
        res,
        flags: 0,
    }
}

/// The key that an object's number is.
fn key<T>(object: u64) -> Answer<Key<T>> {
    let number = usize::try_from(object).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    Key::of(std::ptr::without_provenance_mut::<()>(number)).ok_or(CUDA_ERROR_INVALID_VALUE)
}

fn ask<T>(object: CUtexObject, answer: impl FnOnce(&Texture) -> Option<T>) -> Answer<T> {
    let process = process()?;
    let state = process.lock();
    let texture = state.textures.get(key(object)?);
    texture.and_then(answer).ok_or(CUDA_ERROR_INVALID_VALUE)
}

fn end<T>(take: impl FnOnce(&mut State) -> Option<T>) -> Answer {
    let taken = take(&mut process()?.lock());
    taken.map(drop).ok_or(CUDA_ERROR_INVALID_VALUE)
}

exports! {
    fn cuTexObjectCreate(pTexObject: *mut CUtexObject, pResDesc: *const CUDA_RESOURCE_DESC, pTexDesc: *const CUDA_TEXTURE_DESC, pResViewDesc: *const CUDA_RESOURCE_VIEW_DESC) {
        let process = process()?;
        wanted(pTexObject)?;
        let view = if pResViewDesc.is_null() { None } else { Some(get(pResViewDesc)?) };
        let texture = Texture { resource: resource(&get(pResDesc)?)?, description: get(pTexDesc)?, view };
        put(pTexObject, address(texture::create(process, texture)?.handle::<()>()))
    }
    fn cuTexObjectDestroy(texObject: CUtexObject) {
        let key = key(texObject)?;
        end(|state| state.textures.remove(key))
    }
    fn cuTexObjectGetResourceDesc(pResDesc: *mut CUDA_RESOURCE_DESC, texObject: CUtexObject) {
        put(pResDesc, ask(texObject, |texture| Some(description(&texture.resource)))?)
    }
    fn cuTexObjectGetTextureDesc(pTexDesc: *mut CUDA_TEXTURE_DESC, texObject: CUtexObject) {
        put(pTexDesc, ask(texObject, |texture| Some(texture.description))?)
    }
    fn cuTexObjectGetResourceViewDesc(pResViewDesc: *mut CUDA_RESOURCE_VIEW_DESC, texObject: CUtexObject) {
        put(pResViewDesc, ask(texObject, |texture| texture.view)?)
    }
    fn cuSurfObjectCreate(pSurfObject: *mut CUsurfObject, pResDesc: *const CUDA_RESOURCE_DESC) {
        let process = process()?;
        wanted(pSurfObject)?;
        let resource = resource(&get(pResDesc)?)?;
        put(pSurfObject, address(texture::create_surface(process, resource)?.handle::<()>()))
    }
    fn cuSurfObjectDestroy(surfObject: CUsurfObject) {
        let key = key(surfObject)?;
        end(|state| state.surfaces.remove(key))
    }
    fn cuSurfObjectGetResourceDesc(pResDesc: *mut CUDA_RESOURCE_DESC, surfObject: CUsurfObject) {
        let process = process()?;
        let state = process.lock();
        let Surface(resource) = state.surfaces.get(key(surfObject)?).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        put(pResDesc, description(resource))
    }
}
