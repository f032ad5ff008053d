//! Tensor maps: what a kernel is told of a tensor that the hardware is to copy by itself (compute capability 9.0 and later).
//!
//! Kernels compute nothing, so a map is only checked (CUDA Driver API, "Tensor Map Object Management"). What is in it is ours:
//! programs must not look into it. Packed types of less than a byte, and finer swizzles, came with compute capability 10.0.

use cuda_sys_stubs::abi::*;

use crate::context;
use crate::door::Answer;
use crate::process::Process;

/// Words of a tensor map.
pub(crate) const WORDS: usize = 16;

/// First word of a map that was made here.
const MADE_HERE: u64 = 0x7465_6e73_6f72_206d;

const RANK_MAX: usize = 5;
const DIM_MAX: u64 = 1 << 32;
const STRIDE_BYTES_END: u64 = 1 << 40;
const BOX_DIM_MAX: u32 = 256;
const ELEMENT_STRIDE_MAX: u32 = 8;
const CHANNELS_MAX: u32 = 256;
const PIXELS_MAX: u32 = 1024;
const INNER_ALIGNMENT: u64 = 16;

/// What both kinds of map are described by; one of each list for a dimension, of strides for all but the innermost.
pub(crate) struct Tensor<'a> {
    pub(crate) data_type: CUtensorMapDataType,
    pub(crate) address: u64,
    pub(crate) dims: &'a [u64],
    pub(crate) strides_bytes: &'a [u64],
    pub(crate) element_strides: &'a [u32],
    pub(crate) interleave: CUtensorMapInterleave,
    pub(crate) swizzle: CUtensorMapSwizzle,
    pub(crate) l2_promotion: CUtensorMapL2promotion,
    pub(crate) fill: CUtensorMapFloatOOBfill,
}

/// What the map copies at a time.
pub(crate) enum Piece<'a> {
    /// A box: its size in each dimension.
    Tile(&'a [u32]),
    /// Columns of pixels: corners of the box of pixels, in each dimension but channel and batch.
    Columns {
        lower: &'a [i32],
        upper: &'a [i32],
        channels: u32,
        pixels: u32,
    },
}

fn require(holds: bool) -> Answer {
    if holds {
        Ok(())
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}

/// How many dimensions a tensor may have.
pub(crate) fn rank(rank: u32) -> Answer<usize> {
    let rank = usize::try_from(rank).ok();
    let rank = rank.filter(|rank| (1..=RANK_MAX).contains(rank));
    rank.ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// Refuses a device whose kernels know no tensor maps.
pub(crate) fn check_device(process: &Process) -> Answer {
    let state = process.lock();
    let ordinal = context::get(&state, context::current(&state)?)?.device;
    let device = process.devices.get(ordinal);
    let profile = &device.ok_or(CUDA_ERROR_INVALID_DEVICE)?.profile;
    if profile.compute_capability.0 >= 9 {
        Ok(())
    } else {
        Err(CUDA_ERROR_NOT_SUPPORTED)
    }
}

/// Checks a map, and makes it.
pub(crate) fn encode(tensor: &Tensor, piece: &Piece) -> Answer<[u64; WORDS]> {
    let alignment = tensor.check()?;
    let rank = tensor.dims.len();
    let inner = match piece {
        Piece::Tile(dims) => {
            require(rank >= 3 || tensor.interleave == CU_TENSOR_MAP_INTERLEAVE_NONE)?;
            let is_size = |dim: &u32| (1..=BOX_DIM_MAX).contains(dim);
            require(dims.iter().all(is_size))?;
            dims.first().copied().unwrap_or(0)
        }
        Piece::Columns {
            lower,
            upper,
            channels,
            pixels,
        } => {
            let bound = corner_bound(rank)?;
            let mut corners = lower.iter().chain(*upper);
            require(corners.all(|corner| (-bound..bound).contains(corner)))?;
            require((1..=CHANNELS_MAX).contains(channels) && (1..=PIXELS_MAX).contains(pixels))?;
            *channels
        }
    };
    tensor.check_inner(inner, matches!(piece, Piece::Tile(_)))?;
    let mut words = [0; WORDS];
    [words[0], words[1], words[2]] = [MADE_HERE, tensor.address, alignment];
    Ok(words)
}

/// The same map at another address.
pub(crate) fn replace_address(mut words: [u64; WORDS], address: u64) -> Answer<[u64; WORDS]> {
    require(words[0] == MADE_HERE && is_aligned(address, words[2]))?;
    words[1] = address;
    Ok(words)
}

fn is_aligned(address: u64, alignment: u64) -> bool {
    address != 0 && address.is_multiple_of(alignment)
}

/// Corners of a box of pixels lie in `-bound..bound`.
fn corner_bound(rank: usize) -> Answer<i32> {
    match rank {
        3 => Ok(1 << 15),
        4 => Ok(1 << 7),
        5 => Ok(1 << 4),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

impl Tensor<'_> {
    /// Gives what address and strides are multiples of, in bytes.
    fn check(&self) -> Answer<u64> {
        let alignment = match self.interleave {
            CU_TENSOR_MAP_INTERLEAVE_NONE | CU_TENSOR_MAP_INTERLEAVE_16B => 16,
            CU_TENSOR_MAP_INTERLEAVE_32B => 32,
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        };
        let is_stride = |bytes: &u64| *bytes < STRIDE_BYTES_END && bytes.is_multiple_of(alignment);
        let is_step = |step: &u32| (1..=ELEMENT_STRIDE_MAX).contains(step);
        // Without interleave the innermost step is not looked at.
        let first = usize::from(self.interleave == CU_TENSOR_MAP_INTERLEAVE_NONE);
        require(is_aligned(self.address, alignment))?;
        require(self.dims.iter().all(|dim| (1..=DIM_MAX).contains(dim)))?;
        require(self.strides_bytes.iter().all(is_stride))?;
        require(self.element_strides.iter().skip(first).all(is_step))?;
        require(self.l2_promotion <= CU_TENSOR_MAP_L2_PROMOTION_L2_256B)?;
        match self.fill {
            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE => {}
            CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA => require(self.is_float())?,
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        }
        Ok(alignment)
    }

    /// Checks the innermost dimension of what is copied at a time, in elements.
    fn check_inner(&self, elements: u32, is_tile: bool) -> Answer {
        let bytes = u64::from(elements) * self.element_bytes()?;
        let row_bytes_max = match self.swizzle {
            CU_TENSOR_MAP_SWIZZLE_NONE => u64::MAX,
            CU_TENSOR_MAP_SWIZZLE_32B => 32,
            CU_TENSOR_MAP_SWIZZLE_64B => 64,
            CU_TENSOR_MAP_SWIZZLE_128B => 128,
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        };
        match self.interleave {
            CU_TENSOR_MAP_INTERLEAVE_NONE => {
                require(bytes <= row_bytes_max)?;
                require(!is_tile || bytes.is_multiple_of(INNER_ALIGNMENT))
            }
            CU_TENSOR_MAP_INTERLEAVE_32B => require(self.swizzle == CU_TENSOR_MAP_SWIZZLE_32B),
            _ => Ok(()),
        }
    }

    fn element_bytes(&self) -> Answer<u64> {
        Ok(match self.data_type {
            CU_TENSOR_MAP_DATA_TYPE_UINT8 => 1,
            CU_TENSOR_MAP_DATA_TYPE_UINT16
            | CU_TENSOR_MAP_DATA_TYPE_FLOAT16
            | CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 => 2,
            CU_TENSOR_MAP_DATA_TYPE_UINT64
            | CU_TENSOR_MAP_DATA_TYPE_INT64
            | CU_TENSOR_MAP_DATA_TYPE_FLOAT64 => 8,
            CU_TENSOR_MAP_DATA_TYPE_UINT32..=CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ => 4,
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        })
    }

    fn is_float(&self) -> bool {
        self.data_type >= CU_TENSOR_MAP_DATA_TYPE_FLOAT16
    }
}
