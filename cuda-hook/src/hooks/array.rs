//! Arrays. Their layout is the driver's secret: what their texels take at least is charged before the call, and what the driver was seen
//! to take afterwards. `cuArrayGetMemoryRequirements` tells it of arrays only that have no memory of their own (CUDA Driver API:
//! others than with `CUDA_ARRAY3D_DEFERRED_MAPPING` are refused).
//!
//! What an array of some description takes is measured once and charged beforehand from then on.
#![expect(
    unsafe_code,
    reason = "reads the caller's descriptors and what the driver has written"
)]
#![expect(
    non_upper_case_globals,
    reason = "two formats are spelled so in cuda.h"
)]

use std::collections::HashMap;

use cuda_sys_stubs::abi::*;
use limiter::units::Bytes;
use parking_lot::Mutex;

use crate::driver::Driver;
use crate::entry::Cx;
use crate::hooks::measure::{self, Size};
use crate::hooks::memory::{self, Place, Untouched, Word};
use crate::hooks::vmm;
use crate::live::Key;

/// Arrays are taken to be tiled in blocks of this size.
const TILE_BYTES: u64 = 64 << 10;
/// The driver backs memory in pages of this size (`cuMemGetAllocationGranularity`), which small arrays share.
const PAGE_BYTES: u64 = 2 << 20;

/// Bits of one channel of a texel; `None` of formats that have no such ([`mixed_bits`]).
fn channel_bits(format: CUarray_format) -> Option<u64> {
    Some(match format {
        CU_AD_FORMAT_UNSIGNED_INT8
        | CU_AD_FORMAT_SIGNED_INT8
        | CU_AD_FORMAT_UNORM_INT8X1
        | CU_AD_FORMAT_UNORM_INT8X2
        | CU_AD_FORMAT_UNORM_INT8X4
        | CU_AD_FORMAT_SNORM_INT8X1
        | CU_AD_FORMAT_SNORM_INT8X2
        | CU_AD_FORMAT_SNORM_INT8X4 => 8,
        CU_AD_FORMAT_UNSIGNED_INT16
        | CU_AD_FORMAT_SIGNED_INT16
        | CU_AD_FORMAT_HALF
        | CU_AD_FORMAT_UNORM_INT16X1
        | CU_AD_FORMAT_UNORM_INT16X2
        | CU_AD_FORMAT_UNORM_INT16X4
        | CU_AD_FORMAT_SNORM_INT16X1
        | CU_AD_FORMAT_SNORM_INT16X2
        | CU_AD_FORMAT_SNORM_INT16X4 => 16,
        CU_AD_FORMAT_UNSIGNED_INT32 | CU_AD_FORMAT_SIGNED_INT32 | CU_AD_FORMAT_FLOAT => 32,
        _ => return None,
    })
}

/// Bits of a texel, all its planes together, of block-compressed and video formats (cuda.h 13.5, `CUarray_format`; blocks are of
/// 4 × 4 texels, Khronos Data Format Specification).
fn mixed_bits(format: CUarray_format) -> Option<u64> {
    Some(match format {
        CU_AD_FORMAT_BC1_UNORM
        | CU_AD_FORMAT_BC1_UNORM_SRGB
        | CU_AD_FORMAT_BC4_UNORM
        | CU_AD_FORMAT_BC4_SNORM => 4,
        CU_AD_FORMAT_BC2_UNORM..=CU_AD_FORMAT_BC3_UNORM_SRGB
        | CU_AD_FORMAT_BC5_UNORM..=CU_AD_FORMAT_BC7_UNORM_SRGB => 8,
        CU_AD_FORMAT_NV12 | CU_AD_FORMAT_UINT8_SEMIPLANAR_420 | CU_AD_FORMAT_UINT8_PLANAR_420 => 12,
        CU_AD_FORMAT_NV16
        | CU_AD_FORMAT_YUY2
        | CU_AD_FORMAT_UINT8_PACKED_422
        | CU_AD_FORMAT_UINT8_SEMIPLANAR_422
        | CU_AD_FORMAT_UINT8_PLANAR_422 => 16,
        CU_AD_FORMAT_P010
        | CU_AD_FORMAT_P016
        | CU_AD_FORMAT_Y444_PLANAR8
        | CU_AD_FORMAT_YUV444_8bit_SemiPlanar
        | CU_AD_FORMAT_UINT16_SEMIPLANAR_420
        | CU_AD_FORMAT_UINT16_PLANAR_420
        | CU_AD_FORMAT_UINT8_SEMIPLANAR_444
        | CU_AD_FORMAT_UINT8_PLANAR_444 => 24,
        CU_AD_FORMAT_P210
        | CU_AD_FORMAT_P216
        | CU_AD_FORMAT_Y210
        | CU_AD_FORMAT_Y216
        | CU_AD_FORMAT_AYUV
        | CU_AD_FORMAT_Y410
        | CU_AD_FORMAT_UNORM_INT_101010_2
        | CU_AD_FORMAT_UINT8_PACKED_444
        | CU_AD_FORMAT_UINT16_SEMIPLANAR_422
        | CU_AD_FORMAT_UINT16_PLANAR_422 => 32,
        CU_AD_FORMAT_Y444_PLANAR10
        | CU_AD_FORMAT_YUV444_16bit_SemiPlanar
        | CU_AD_FORMAT_UINT16_SEMIPLANAR_444
        | CU_AD_FORMAT_UINT16_PLANAR_444 => 48,
        CU_AD_FORMAT_Y416 => 64,
        _ => return None,
    })
}

/// All that an array's size depends on: of two that are alike the driver takes the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    width: u64,
    height: u64,
    depth: u64,
    format: CUarray_format,
    channels: u32,
    flags: u32,
    level_count: u32,
}

impl Shape {
    fn new(descriptor: &CUDA_ARRAY3D_DESCRIPTOR, level_count: u32) -> Self {
        Self {
            width: descriptor.Width.get(),
            height: descriptor.Height.get(),
            depth: descriptor.Depth.get(),
            format: descriptor.Format,
            channels: descriptor.NumChannels,
            flags: descriptor.Flags,
            level_count,
        }
    }

    /// Whether its memory comes from `cuMemCreate`.
    fn is_mapped_later(&self) -> bool {
        self.flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING) != 0
    }

    /// Texels of a level: half of the one before in every dimension but that of layers, and at least 1 each.
    fn texels(&self, level: u32) -> u64 {
        let has_layers = self.flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP) != 0;
        let depth_level = if has_layers { 0 } else { level };
        let halved = |extent: u64, level| extent.checked_shr(level).unwrap_or(0).max(1);
        halved(self.width, level)
            .saturating_mul(halved(self.height, level))
            .saturating_mul(halved(self.depth, depth_level))
    }

    /// Bits of a texel; `None` of a format that is not known.
    fn texel_bits(&self) -> Option<u64> {
        let by_channels = || Some(channel_bits(self.format)?.saturating_mul(self.channels.into()));
        mixed_bits(self.format).or_else(by_channels)
    }

    /// Bytes that are charged before anything is known. A format that is not known is counted as the widest that has channels: too
    /// much rather than too little.
    fn expected_bytes(&self) -> u64 {
        if self.is_mapped_later() {
            return 0;
        }
        let widest = || u64::from(u32::BITS).saturating_mul(self.channels.into());
        let texel_bits = self.texel_bits().unwrap_or_else(widest);
        let texels = (0..self.level_count)
            .map(|level| self.texels(level))
            .fold(0, u64::saturating_add);
        // Eight texels at a time: a part of a byte counts as one.
        let bytes = texel_bits.saturating_mul(texels.div_ceil(8));
        bytes
            .checked_next_multiple_of(TILE_BYTES)
            .unwrap_or(u64::MAX)
    }

    /// What it takes, where the driver was seen to take so many bytes of pages: never less than its texels, and those where they
    /// explain the pages.
    fn exact_bytes(&self, seen_bytes: u64) -> u64 {
        let expected = self.expected_bytes();
        let expected_pages = expected
            .checked_next_multiple_of(PAGE_BYTES)
            .unwrap_or(u64::MAX);
        let is_guess = self.texel_bits().is_none() && seen_bytes > 0;
        if seen_bytes > expected_pages || is_guess {
            seen_bytes
        } else {
            expected
        }
    }
}

/// What arrays were seen to take, by device and shape.
#[derive(Default)]
pub(crate) struct Sizes(Mutex<HashMap<(usize, Shape), Known>>);

#[derive(Clone, Copy)]
struct Known {
    bytes: u64,
    /// How often it is still to be measured.
    looks_left: u32,
}

/// An array is measured so often where others may have been counted in; the least counts.
const UNCERTAIN_LOOKS: u32 = 3;

impl Sizes {
    /// Bytes of such an array, where they need not be measured any more.
    fn get(&self, device_index: usize, shape: Shape) -> Option<u64> {
        let sizes = self.0.lock();
        let known = sizes.get(&(device_index, shape))?;
        (known.looks_left == 0).then_some(known.bytes)
    }

    /// Bytes of such an array, of which a size was seen.
    fn learn(&self, device_index: usize, shape: Shape, size: Size) -> u64 {
        let bytes = shape.exact_bytes(size.bytes.get());
        let mut sizes = self.0.lock();
        let known = sizes.entry((device_index, shape)).or_insert(Known {
            bytes,
            looks_left: UNCERTAIN_LOOKS,
        });
        *known = if size.is_certain {
            Known {
                bytes,
                looks_left: 0,
            }
        } else {
            Known {
                bytes: bytes.min(known.bytes),
                looks_left: known.looks_left.saturating_sub(1),
            }
        };
        known.bytes
    }
}

/// Makes an array; `destroy` ends it again where it turns out not to fit.
///
/// # Safety
/// As [`hooks`](crate::hooks); `A` is the type of an array's handle.
unsafe fn create_of<A>(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    array: *mut *mut A,
    shape: Option<Shape>,
    destroy: fn(&Driver, *mut A) -> CUresult,
) -> CUresult {
    let (Some(place), Some(shape)) = (Place::current(cx), shape) else {
        return call();
    };
    let sizes = &cx.attachment.array_sizes;
    let known = sizes.get(place.device_index, shape);
    let is_known = known.is_some() || shape.is_mapped_later();
    // SAFETY: the caller's promise: its out-pointer.
    let untouched = unsafe { Untouched::of(array) };
    // SAFETY: the driver's promise: after success it has written there.
    let made = || unsafe { array.read() };
    let key = || Key::Array(made().addr());
    let mut size = None;
    let measured = || {
        if is_known {
            return call();
        }
        let (status, seen) = measure::sized(cx, call);
        size = seen;
        status
    };
    let bytes = known.unwrap_or_else(|| shape.expected_bytes());
    let status = memory::charged(cx, place, bytes, measured, key);
    let Some(size) = size.filter(|_| status == CUDA_SUCCESS) else {
        return status;
    };
    let exact = Bytes::new(sizes.learn(place.device_index, shape, size));
    if memory::settle(cx, key(), exact) {
        return status;
    }
    let undone = memory::uncharged(cx, key(), || destroy(cx.driver, made()));
    if undone != CUDA_SUCCESS {
        return undone;
    }
    // SAFETY: as above.
    unsafe { untouched.put_back() };
    CUDA_ERROR_OUT_OF_MEMORY
}

/// An array as a program describes it, in whichever ABI.
pub(crate) trait Descriptor: Copy {
    /// The same in the one that has all.
    fn volume(self) -> CUDA_ARRAY3D_DESCRIPTOR;
}

/// A descriptor of a plane, and one of a volume, of the same ABI.
macro_rules! descriptors {
    ($( $plane:ident, $volume:ident; )*) => { $(
        impl Descriptor for $plane {
            fn volume(self) -> CUDA_ARRAY3D_DESCRIPTOR {
                $volume {
                    Width: self.Width,
                    Height: self.Height,
                    Depth: 0,
                    Format: self.Format,
                    NumChannels: self.NumChannels,
                    Flags: 0,
                }
                .volume()
            }
        }

        impl Descriptor for $volume {
            fn volume(self) -> CUDA_ARRAY3D_DESCRIPTOR {
                let extent = |extent| usize::saturating(Word::get(extent));
                CUDA_ARRAY3D_DESCRIPTOR {
                    Width: extent(self.Width),
                    Height: extent(self.Height),
                    Depth: extent(self.Depth),
                    Format: self.Format,
                    NumChannels: self.NumChannels,
                    Flags: self.Flags,
                }
            }
        }
    )* };
}

descriptors! {
    CUDA_ARRAY_DESCRIPTOR_v1, CUDA_ARRAY3D_DESCRIPTOR_v1;
    CUDA_ARRAY_DESCRIPTOR, CUDA_ARRAY3D_DESCRIPTOR;
}

/// `cuArrayCreate`, `cuArray3DCreate`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn create<D: Descriptor>(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    array: *mut CUarray,
    descriptor: *const D,
) -> CUresult {
    // SAFETY: the caller's promise: null or its descriptor.
    let descriptor = unsafe { descriptor.as_ref() };
    let shape = descriptor.map(|descriptor| Shape::new(&descriptor.volume(), 1));
    // SAFETY: as of this hook.
    unsafe { create_of(cx, call, array, shape, Driver::destroy_array) }
}

/// `cuMipmappedArrayCreate`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn create_mipmapped(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    array: *mut CUmipmappedArray,
    descriptor: *const CUDA_ARRAY3D_DESCRIPTOR,
    level_count: u32,
) -> CUresult {
    // SAFETY: the caller's promise: null or its descriptor.
    let descriptor = unsafe { descriptor.as_ref() };
    // No array has more levels than its widest extent has bits.
    let level_count = level_count.min(u64::BITS);
    let shape = descriptor.map(|descriptor| Shape::new(descriptor, level_count));
    // SAFETY: as of this hook.
    unsafe { create_of(cx, call, array, shape, Driver::destroy_mipmapped_array) }
}

/// `cuArrayDestroy`, `cuMipmappedArrayDestroy`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn destroy(cx: Cx, call: impl FnOnce() -> CUresult, array: usize) -> CUresult {
    memory::uncharged(cx, Key::Array(array), || vmm::array_ended(cx, call, array))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn image(width: usize, height: usize, flags: u32) -> CUDA_ARRAY3D_DESCRIPTOR {
        CUDA_ARRAY3D_DESCRIPTOR {
            Width: width,
            Height: height,
            Depth: 0,
            Format: CU_AD_FORMAT_FLOAT,
            NumChannels: 4,
            Flags: flags,
        }
    }

    fn expected(descriptor: &CUDA_ARRAY3D_DESCRIPTOR, level_count: u32) -> u64 {
        Shape::new(descriptor, level_count).expected_bytes()
    }

    fn seen(bytes: u64, is_certain: bool) -> Size {
        Size {
            bytes: Bytes::new(bytes),
            is_certain,
        }
    }

    #[test]
    fn an_array_takes_its_texels_rounded_up_to_tiles() {
        assert_eq!(expected(&image(1024, 1024, 0), 1), 16 * MIB);
        assert_eq!(expected(&image(1, 0, 0), 1), TILE_BYTES);
    }

    #[test]
    fn an_array_of_the_32_bit_abi_counts_the_same() {
        let plane = CUDA_ARRAY_DESCRIPTOR_v1 {
            Width: 1024,
            Height: 512,
            Format: CU_AD_FORMAT_FLOAT,
            NumChannels: 4,
        };
        assert_eq!(expected(&plane.volume(), 1), 8 * MIB);
        let volume = CUDA_ARRAY3D_DESCRIPTOR_v1 {
            Width: 1024,
            Height: 512,
            Depth: 3,
            Format: CU_AD_FORMAT_FLOAT,
            NumChannels: 4,
            Flags: 0,
        };
        assert_eq!(expected(&volume.volume(), 1), 24 * MIB);
    }

    #[test]
    fn every_level_is_counted() {
        // 1024² + 512² + 256² texels of 16 bytes
        assert_eq!(expected(&image(1024, 1024, 0), 3), 21 * MIB);
    }

    #[test]
    fn every_level_has_all_layers() {
        let layers = CUDA_ARRAY3D_DESCRIPTOR {
            Depth: 4,
            ..image(1024, 1024, CUDA_ARRAY3D_LAYERED)
        };
        assert_eq!(expected(&layers, 3), 4 * 21 * MIB);
    }

    #[test]
    fn an_array_without_memory_of_its_own_takes_none() {
        assert_eq!(expected(&image(1024, 1024, CUDA_ARRAY3D_SPARSE), 1), 0);
        assert_eq!(
            expected(&image(1024, 1024, CUDA_ARRAY3D_DEFERRED_MAPPING), 1),
            0
        );
    }

    #[test]
    fn an_absurd_size_does_not_wrap() {
        for level_count in [1, 64] {
            let bytes = expected(&image(usize::MAX, usize::MAX, 0), level_count);
            assert_eq!(bytes, u64::MAX, "{level_count}");
        }
    }

    #[test]
    fn what_its_texels_do_not_explain_is_the_arrays_too() {
        let shape = Shape::new(&image(1024, 1056, 0), 1); // 16.5 MiB of texels
        let texels = shape.expected_bytes();
        assert_eq!(shape.exact_bytes(0), texels, "nothing was seen");
        assert_eq!(shape.exact_bytes(18 * MIB), texels, "rounded up to pages");
        assert_eq!(shape.exact_bytes(20 * MIB), 20 * MIB, "padding");
    }

    #[test]
    fn compressed_texels_and_planes_count_by_their_bits() {
        let of_format = |format| {
            let description = CUDA_ARRAY3D_DESCRIPTOR {
                Format: format,
                ..image(1024, 1024, 0)
            };
            expected(&description, 1)
        };
        assert_eq!(of_format(CU_AD_FORMAT_BC1_UNORM), MIB / 2);
        assert_eq!(of_format(CU_AD_FORMAT_BC6H_SF16), MIB);
        assert_eq!(of_format(CU_AD_FORMAT_NV12), 3 * MIB / 2);
        assert_eq!(of_format(CU_AD_FORMAT_P216), 4 * MIB);
        assert_eq!(of_format(CU_AD_FORMAT_Y416), 8 * MIB);
    }

    #[test]
    fn a_format_that_is_not_known_takes_what_was_seen() {
        let unknown = CUDA_ARRAY3D_DESCRIPTOR {
            Format: 0x7f,
            ..image(1024, 1024, 0)
        };
        let shape = Shape::new(&unknown, 1);
        assert_eq!(shape.exact_bytes(0), 16 * MIB, "nothing was seen");
        assert_eq!(shape.exact_bytes(2 * MIB), 2 * MIB);
    }

    #[test]
    fn a_size_that_is_certain_is_not_measured_again() {
        let (sizes, shape) = (Sizes::default(), Shape::new(&image(1024, 1024, 0), 1));
        assert_eq!(sizes.get(0, shape), None);
        assert_eq!(sizes.learn(0, shape, seen(18 * MIB, true)), 18 * MIB);
        assert_eq!(sizes.get(0, shape), Some(18 * MIB));
        assert_eq!(sizes.get(1, shape), None, "another device");
    }

    #[test]
    fn of_sizes_that_others_may_be_counted_in_the_least_is_taken() {
        let (sizes, shape) = (Sizes::default(), Shape::new(&image(1024, 1024, 0), 1));
        assert_eq!(sizes.learn(0, shape, seen(40 * MIB, false)), 40 * MIB);
        assert_eq!(sizes.learn(0, shape, seen(18 * MIB, false)), 18 * MIB);
        assert_eq!(sizes.get(0, shape), None, "seen twice");
        assert_eq!(sizes.learn(0, shape, seen(20 * MIB, false)), 18 * MIB);
        assert_eq!(sizes.get(0, shape), Some(18 * MIB));
    }
}
