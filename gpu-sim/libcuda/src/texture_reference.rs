//! Texture references: what a program set on one, kept for who asks. No module has one, and no kernel reads through one.

use cuda_sys_stubs::abi::*;

use crate::array::{Array, Mipmap};
use crate::door::Answer;
use crate::process::State;
use crate::table::Key;
use crate::texture::ALIGNMENT;

/// What a reference is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Nothing,
    Memory(CUdeviceptr),
    Array(Key<Array>),
    Mipmap(Key<Mipmap>),
}

/// A texture reference.
pub(crate) struct TextureReference {
    pub(crate) bound: Bound,
    pub(crate) format: CUarray_format,
    pub(crate) channels: i32,
    pub(crate) address_modes: [CUaddress_mode; 3],
    pub(crate) filter: CUfilter_mode,
    pub(crate) mipmap_filter: CUfilter_mode,
    pub(crate) mipmap_bias: f32,
    /// Lowest and highest level.
    pub(crate) mipmap_clamp: (f32, f32),
    pub(crate) max_anisotropy: u32,
    pub(crate) border: [f32; 4],
    pub(crate) flags: u32,
}

impl TextureReference {
    /// As `cuTexRefCreate` makes it.
    pub(crate) fn new() -> Self {
        Self {
            bound: Bound::Nothing,
            format: CU_AD_FORMAT_FLOAT,
            channels: 1,
            address_modes: [CU_TR_ADDRESS_MODE_WRAP; 3],
            filter: CU_TR_FILTER_MODE_POINT,
            mipmap_filter: CU_TR_FILTER_MODE_POINT,
            mipmap_bias: 0.0,
            mipmap_clamp: (0.0, 0.0),
            max_anisotropy: 1,
            border: [0.0; 4],
            flags: 0,
        }
    }

    /// The mode of a dimension.
    pub(crate) fn address_mode(&mut self, dimension: i32) -> Answer<&mut CUaddress_mode> {
        let index = usize::try_from(dimension).ok();
        let mode = index.and_then(|index| self.address_modes.get_mut(index));
        mode.ok_or(CUDA_ERROR_INVALID_VALUE)
    }
}

/// Checks memory that is to be bound; gives how far behind a multiple of the alignment it starts.
pub(crate) fn check_memory(state: &State, address: CUdeviceptr, bytes: u64) -> Answer<u64> {
    state.book.known_place(address, bytes)?;
    Ok(address % ALIGNMENT)
}
