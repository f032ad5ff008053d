//! What formats make of an array: how many channels it has, what its elements take, and which planes.
//!
//! Sources: cuda.h 13.5, `CUarray_format`; numbers of channels also `cudaCreateChannelDesc` (channel_descriptor.h 13.5, where NV12 has
//! three); blocks of 4 × 4 elements and their bytes: Khronos Data Format Specification, "S3TC", "RGTC" and "BPTC Compressed Texture Image
//! Formats". Of packed formats with 4:2:2 sampling two elements share their colour, so a row has an even number.
#![expect(
    non_upper_case_globals,
    reason = "two formats are spelled so in cuda.h"
)]

use cuda_sys_stubs::abi::*;

use super::Shape;
use crate::door::Answer;

/// Elements on each side of a compressed block.
pub(super) const BLOCK_SIDE: u64 = 4;

/// Channels of a compressed format, and bytes of a block; `None`: it is not compressed.
fn compressed(format: CUarray_format) -> Option<(u32, u64)> {
    Some(match format {
        CU_AD_FORMAT_BC1_UNORM | CU_AD_FORMAT_BC1_UNORM_SRGB => (4, 8),
        CU_AD_FORMAT_BC2_UNORM
        | CU_AD_FORMAT_BC2_UNORM_SRGB
        | CU_AD_FORMAT_BC3_UNORM
        | CU_AD_FORMAT_BC3_UNORM_SRGB
        | CU_AD_FORMAT_BC7_UNORM
        | CU_AD_FORMAT_BC7_UNORM_SRGB => (4, 16),
        CU_AD_FORMAT_BC4_UNORM | CU_AD_FORMAT_BC4_SNORM => (1, 8),
        CU_AD_FORMAT_BC5_UNORM | CU_AD_FORMAT_BC5_SNORM => (2, 16),
        CU_AD_FORMAT_BC6H_UF16 | CU_AD_FORMAT_BC6H_SF16 => (3, 16),
        _ => return None,
    })
}

/// Channels of a format that says how many there are, and bytes of an element; `None`: it is another one.
fn fixed(format: CUarray_format) -> Option<(u32, u64)> {
    Some(match format {
        CU_AD_FORMAT_UNORM_INT8X1 | CU_AD_FORMAT_SNORM_INT8X1 => (1, 1),
        CU_AD_FORMAT_UNORM_INT8X2 | CU_AD_FORMAT_SNORM_INT8X2 | CU_AD_FORMAT_YUY2 => (2, 2),
        CU_AD_FORMAT_UNORM_INT8X4
        | CU_AD_FORMAT_SNORM_INT8X4
        | CU_AD_FORMAT_UNORM_INT_101010_2
        | CU_AD_FORMAT_AYUV
        | CU_AD_FORMAT_Y410
        | CU_AD_FORMAT_UINT8_PACKED_444 => (4, 4),
        CU_AD_FORMAT_UNORM_INT16X1 | CU_AD_FORMAT_SNORM_INT16X1 => (1, 2),
        CU_AD_FORMAT_UNORM_INT16X2
        | CU_AD_FORMAT_SNORM_INT16X2
        | CU_AD_FORMAT_Y210
        | CU_AD_FORMAT_Y216 => (2, 4),
        CU_AD_FORMAT_UNORM_INT16X4 | CU_AD_FORMAT_SNORM_INT16X4 | CU_AD_FORMAT_Y416 => (4, 8),
        CU_AD_FORMAT_UINT8_PACKED_422 => (4, 2),
        _ => return None,
    })
}

/// Whether pairs of elements share their colour.
fn is_in_pairs(format: CUarray_format) -> bool {
    matches!(
        format,
        CU_AD_FORMAT_YUY2 | CU_AD_FORMAT_Y210 | CU_AD_FORMAT_Y216 | CU_AD_FORMAT_UINT8_PACKED_422
    )
}

/// Bytes of one of as many channels as the program says.
fn channel_bytes(format: CUarray_format) -> Option<u64> {
    Some(match format {
        CU_AD_FORMAT_UNSIGNED_INT8 | CU_AD_FORMAT_SIGNED_INT8 => 1,
        CU_AD_FORMAT_UNSIGNED_INT16 | CU_AD_FORMAT_SIGNED_INT16 | CU_AD_FORMAT_HALF => 2,
        CU_AD_FORMAT_UNSIGNED_INT32 | CU_AD_FORMAT_SIGNED_INT32 | CU_AD_FORMAT_FLOAT => 4,
        _ => return None,
    })
}

/// Planes of brightness and colour.
struct Planar {
    /// Of each plane.
    format: CUarray_format,
    /// Both colours in one plane of two channels, or each in its own.
    is_semi: bool,
    /// Whether the planes of colour have half the width, and half the height.
    halves: [bool; 2],
}

/// `None`: the format has no planes.
fn planar(format: CUarray_format) -> Option<Planar> {
    let (is_wide, is_semi, halves) = match format {
        CU_AD_FORMAT_NV12 | CU_AD_FORMAT_UINT8_SEMIPLANAR_420 => (false, true, [true, true]),
        CU_AD_FORMAT_P010 | CU_AD_FORMAT_P016 | CU_AD_FORMAT_UINT16_SEMIPLANAR_420 => {
            (true, true, [true, true])
        }
        CU_AD_FORMAT_NV16 | CU_AD_FORMAT_UINT8_SEMIPLANAR_422 => (false, true, [true, false]),
        CU_AD_FORMAT_P210 | CU_AD_FORMAT_P216 | CU_AD_FORMAT_UINT16_SEMIPLANAR_422 => {
            (true, true, [true, false])
        }
        CU_AD_FORMAT_YUV444_8bit_SemiPlanar | CU_AD_FORMAT_UINT8_SEMIPLANAR_444 => {
            (false, true, [false, false])
        }
        CU_AD_FORMAT_YUV444_16bit_SemiPlanar | CU_AD_FORMAT_UINT16_SEMIPLANAR_444 => {
            (true, true, [false, false])
        }
        CU_AD_FORMAT_UINT8_PLANAR_420 => (false, false, [true, true]),
        CU_AD_FORMAT_UINT16_PLANAR_420 => (true, false, [true, true]),
        CU_AD_FORMAT_UINT8_PLANAR_422 => (false, false, [true, false]),
        CU_AD_FORMAT_UINT16_PLANAR_422 => (true, false, [true, false]),
        CU_AD_FORMAT_Y444_PLANAR8 | CU_AD_FORMAT_UINT8_PLANAR_444 => (false, false, [false, false]),
        CU_AD_FORMAT_Y444_PLANAR10 | CU_AD_FORMAT_UINT16_PLANAR_444 => {
            (true, false, [false, false])
        }
        _ => return None,
    };
    let format = if is_wide {
        CU_AD_FORMAT_UNSIGNED_INT16
    } else {
        CU_AD_FORMAT_UNSIGNED_INT8
    };
    Some(Planar {
        format,
        is_semi,
        halves,
    })
}

impl Shape {
    /// Bytes of an element, or of a compressed block. `CUDA_ERROR_NOT_SUPPORTED`: no format; `CUDA_ERROR_INVALID_VALUE`: it has other
    /// channels, or planes instead.
    pub(crate) fn element_bytes(&self) -> Answer<u64> {
        let own = compressed(self.format).or_else(|| fixed(self.format));
        let by_channels = || channel_bytes(self.format).map(|bytes| (bytes, self.channels));
        match (own, by_channels()) {
            (Some((channels, bytes)), _) if channels == self.channels => Ok(bytes),
            (None, Some((bytes, channels @ (1 | 2 | 4)))) => Ok(bytes * u64::from(channels)),
            (None, None) if planar(self.format).is_none() => Err(CUDA_ERROR_NOT_SUPPORTED),
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }

    /// The same bytes as elements of their own: of a compressed array, its blocks.
    pub(crate) fn stored(&self) -> Self {
        let Some((_, bytes)) = compressed(self.format) else {
            return *self;
        };
        Self {
            width: self.width.div_ceil(BLOCK_SIDE),
            height: self.height.div_ceil(BLOCK_SIDE),
            format: CU_AD_FORMAT_UNSIGNED_INT32,
            channels: if bytes == 16 { 4 } else { 2 },
            ..*self
        }
    }

    /// Elements on a side of what is stored as one.
    pub(super) fn block_side(&self) -> u64 {
        compressed(self.format).map_or(1, |_| BLOCK_SIDE)
    }

    /// Its planes, each as an array; none, if its format has none.
    pub(super) fn planes(&self) -> Vec<Self> {
        let Some(Planar {
            format,
            is_semi,
            halves: [is_narrow, is_low],
        }) = planar(self.format)
        else {
            return Vec::new();
        };
        let plane = |channels| Self {
            format,
            channels,
            ..*self
        };
        let colour = |channels| Self {
            width: self.width >> u32::from(is_narrow),
            height: self.height >> u32::from(is_low),
            ..plane(channels)
        };
        let colours = if is_semi {
            vec![colour(2)]
        } else {
            vec![colour(1); 2]
        };
        std::iter::once(plane(1)).chain(colours).collect()
    }

    /// Whether an array of this format can have this extent. Those with planes have three channels, and two dimensions.
    pub(super) fn check_format(&self) -> Answer {
        let is_even = |is_halved: bool, extent: u64| !is_halved || extent.is_multiple_of(2);
        let is_possible = if let Some(Planar { halves, .. }) = planar(self.format) {
            let [is_narrow, is_low] = halves;
            let is_flat = self.height > 0 && self.depth == 0 && !self.is_mapped();
            is_flat
                && self.channels == 3
                && is_even(is_narrow, self.width)
                && is_even(is_low, self.height)
        } else {
            let is_flat = self.height > 0 || compressed(self.format).is_none();
            self.element_bytes()?;
            is_flat && is_even(is_in_pairs(self.format), self.width)
        };
        is_possible.then_some(()).ok_or(CUDA_ERROR_INVALID_VALUE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(format: CUarray_format, channels: u32) -> Shape {
        Shape {
            width: 10,
            height: 6,
            depth: 0,
            format,
            channels,
            flags: 0,
        }
    }

    #[test]
    fn a_compressed_array_is_stored_in_blocks_of_four_by_four() {
        let stored = shape(CU_AD_FORMAT_BC1_UNORM, 4).stored();
        assert_eq!((stored.width, stored.height), (3, 2));
        assert_eq!(stored.element_bytes(), Ok(8));
        for (format, channels, bytes) in [
            (CU_AD_FORMAT_BC4_SNORM, 1, 8),
            (CU_AD_FORMAT_BC5_UNORM, 2, 16),
            (CU_AD_FORMAT_BC6H_UF16, 3, 16),
            (CU_AD_FORMAT_BC7_UNORM_SRGB, 4, 16),
        ] {
            let compressed = shape(format, channels);
            assert_eq!(compressed.stored().element_bytes(), Ok(bytes));
            assert_eq!(compressed.check_format(), Ok(()));
            let of_more = shape(format, channels % 4 + 1).check_format();
            assert_eq!(of_more, Err(CUDA_ERROR_INVALID_VALUE));
        }
        let line = Shape {
            height: 0,
            ..shape(CU_AD_FORMAT_BC1_UNORM, 4)
        };
        assert_eq!(line.check_format(), Err(CUDA_ERROR_INVALID_VALUE));
    }

    /// Width, height, bytes of an element of each plane.
    fn planes(format: CUarray_format) -> Vec<(u64, u64, Answer<u64>)> {
        let planes = shape(format, 3).planes().into_iter();
        planes
            .map(|plane| (plane.width, plane.height, plane.element_bytes()))
            .collect()
    }

    #[test]
    fn planes_of_colour_are_smaller_where_they_are_sampled_less() {
        let nv12 = [(10, 6, Ok(1)), (5, 3, Ok(2))];
        assert_eq!(planes(CU_AD_FORMAT_NV12), nv12);
        assert_eq!(planes(CU_AD_FORMAT_P216), [(10, 6, Ok(2)), (5, 6, Ok(4))]);
        let planar = [(10, 6, Ok(2)), (5, 3, Ok(2)), (5, 3, Ok(2))];
        assert_eq!(planes(CU_AD_FORMAT_UINT16_PLANAR_420), planar);
        assert_eq!(planes(CU_AD_FORMAT_Y444_PLANAR8), [(10, 6, Ok(1)); 3]);
        assert_eq!(planes(CU_AD_FORMAT_YUY2), []);
    }

    #[test]
    fn what_is_sampled_in_pairs_has_an_even_extent() {
        let odd = |format, channels| Shape {
            width: 9,
            ..shape(format, channels)
        };
        for (format, channels, is_possible) in [
            (CU_AD_FORMAT_NV12, 3, false),
            (CU_AD_FORMAT_YUY2, 2, false),
            (CU_AD_FORMAT_YUV444_8bit_SemiPlanar, 3, true),
            (CU_AD_FORMAT_AYUV, 4, true),
        ] {
            assert_eq!(odd(format, channels).check_format().is_ok(), is_possible);
            assert_eq!(shape(format, channels).check_format(), Ok(()));
        }
        let two_channels = shape(CU_AD_FORMAT_NV12, 2).check_format();
        assert_eq!(two_channels, Err(CUDA_ERROR_INVALID_VALUE));
        let none = shape(0x7f, 1).check_format();
        assert_eq!(none, Err(CUDA_ERROR_NOT_SUPPORTED));
    }
}
