//! Texture and surface objects: what a program describes, checked and kept. No kernel reads through one, because none reads.
//!
//! What is refused: CUDA Driver API, `cuTexObjectCreate`, `cuSurfObjectCreate`.

use cuda_sys_stubs::abi::*;

use crate::array::{self, Array, Mipmap};
use crate::context;
use crate::door::Answer;
use crate::process::{Process, State};
use crate::table::Key;

/// Linear memory starts at multiples of this (`CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT`).
pub(crate) const ALIGNMENT: u64 = 512;

/// Rows of pitched memory start at multiples of this (`CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT`).
pub(crate) const PITCH_ALIGNMENT: u64 = 32;

/// Elements of memory without an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elements {
    pub(crate) address: CUdeviceptr,
    pub(crate) format: CUarray_format,
    pub(crate) channels: u32,
}

/// What a texture or surface lies over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Array(Key<Array>),
    Mipmap(Key<Mipmap>),
    Linear {
        elements: Elements,
        bytes: u64,
    },
    Pitched {
        elements: Elements,
        width: u64,
        height: u64,
        pitch: u64,
    },
}

/// A texture object.
pub(crate) struct Texture {
    pub(crate) resource: Resource,
    pub(crate) description: CUDA_TEXTURE_DESC,
    pub(crate) view: Option<CUDA_RESOURCE_VIEW_DESC>,
}

/// A surface object.
pub(crate) struct Surface(pub(crate) Resource);

impl Elements {
    fn check(&self, state: &State, bytes: u64) -> Answer {
        let is_aligned = self.address.is_multiple_of(ALIGNMENT);
        if !is_aligned || !matches!(self.channels, 1 | 2 | 4) || bytes == 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        state.book.known_place(self.address, bytes).map(drop)
    }
}

impl Resource {
    fn check(&self, state: &State) -> Answer {
        match self {
            Self::Array(key) => state
                .arrays
                .get(*key)
                .map(drop)
                .ok_or(CUDA_ERROR_INVALID_VALUE),
            Self::Mipmap(key) => {
                let mipmap = state.mipmaps.get(*key);
                mipmap.map(drop).ok_or(CUDA_ERROR_INVALID_VALUE)
            }
            Self::Linear { elements, bytes } => elements.check(state, *bytes),
            Self::Pitched {
                elements,
                height,
                pitch,
                ..
            } => {
                if !pitch.is_multiple_of(PITCH_ALIGNMENT) {
                    return Err(CUDA_ERROR_INVALID_VALUE);
                }
                let bytes = pitch.checked_mul(*height).ok_or(CUDA_ERROR_INVALID_VALUE)?;
                elements.check(state, bytes)
            }
        }
    }

    fn is_of_arrays(&self) -> bool {
        matches!(self, Self::Array(_) | Self::Mipmap(_))
    }
}

/// `cuTexObjectCreate`.
pub(crate) fn create(process: &Process, texture: Texture) -> Answer<Key<Texture>> {
    let mut state = process.lock();
    context::current(&state)?;
    texture.resource.check(&state)?;
    if texture.view.is_some() && !texture.resource.is_of_arrays() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    Ok(state.textures.insert(texture))
}

/// `cuSurfObjectCreate`: over an array that was made for it.
pub(crate) fn create_surface(process: &Process, resource: Resource) -> Answer<Key<Surface>> {
    let mut state = process.lock();
    context::current(&state)?;
    resource.check(&state)?;
    let Resource::Array(array) = resource else {
        return Err(CUDA_ERROR_INVALID_VALUE);
    };
    let is_made_for_it = state.arrays.get(array).is_some_and(array::is_for_surfaces);
    if is_made_for_it {
        Ok(state.surfaces.insert(Surface(resource)))
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}
