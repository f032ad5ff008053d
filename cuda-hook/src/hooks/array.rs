//! Arrays. Their tiled size is the driver's secret: what their texels take at least is charged, rounded up.
#![expect(
    unsafe_code,
    reason = "reads the caller's descriptors and what the driver has written"
)]

use cuda_sys_stubs::abi::*;

use crate::entry::Cx;
use crate::hooks::memory::{self, Place, Word};
use crate::hooks::vmm;
use crate::live::Key;

/// Arrays are tiled in blocks of this size.
const TILE_BYTES: u64 = 64 << 10;

/// Bytes of one channel of a texel. A format that is none of these (video, block compression) is counted as the
/// widest: too much rather than too little.
fn channel_bytes(format: CUarray_format) -> u64 {
    match format {
        CU_AD_FORMAT_UNSIGNED_INT8
        | CU_AD_FORMAT_SIGNED_INT8
        | CU_AD_FORMAT_UNORM_INT8X1
        | CU_AD_FORMAT_UNORM_INT8X2
        | CU_AD_FORMAT_UNORM_INT8X4
        | CU_AD_FORMAT_SNORM_INT8X1
        | CU_AD_FORMAT_SNORM_INT8X2
        | CU_AD_FORMAT_SNORM_INT8X4 => 1,
        CU_AD_FORMAT_UNSIGNED_INT16
        | CU_AD_FORMAT_SIGNED_INT16
        | CU_AD_FORMAT_HALF
        | CU_AD_FORMAT_UNORM_INT16X1
        | CU_AD_FORMAT_UNORM_INT16X2
        | CU_AD_FORMAT_UNORM_INT16X4
        | CU_AD_FORMAT_SNORM_INT16X1
        | CU_AD_FORMAT_SNORM_INT16X2
        | CU_AD_FORMAT_SNORM_INT16X4 => 2,
        _ => 4,
    }
}

/// Bytes of an array's levels, each half the size of the one before in every dimension, but at least 1.
fn array_bytes(descriptor: &CUDA_ARRAY3D_DESCRIPTOR, level_count: u32) -> u64 {
    if descriptor.Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING) != 0 {
        return 0; // its memory comes from `cuMemCreate`
    }
    let texel_bytes =
        channel_bytes(descriptor.Format).saturating_mul(u64::from(descriptor.NumChannels));
    let level_bytes = |level: u32| {
        [descriptor.Width, descriptor.Height, descriptor.Depth]
            .map(|extent| extent.get().checked_shr(level).unwrap_or(0).max(1))
            .into_iter()
            .fold(texel_bytes, u64::saturating_mul)
    };
    let bytes = (0..level_count)
        .map(level_bytes)
        .fold(0, u64::saturating_add);
    bytes
        .checked_next_multiple_of(TILE_BYTES)
        .unwrap_or(u64::MAX)
}

/// # Safety
/// As [`hooks`](crate::hooks); `A` is the type of an array's handle.
unsafe fn create_of<A>(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    array: *mut *mut A,
    descriptor: Option<CUDA_ARRAY3D_DESCRIPTOR>,
    level_count: u32,
) -> CUresult {
    let (Some(place), Some(descriptor)) = (Place::current(cx), descriptor) else {
        return call();
    };
    // SAFETY: the driver's promise: after success it has written there.
    memory::charged(
        cx,
        place,
        array_bytes(&descriptor, level_count),
        call,
        || Key::Array(unsafe { array.read() }.addr()),
    )
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
    let descriptor = unsafe { descriptor.as_ref() }.map(|descriptor| descriptor.volume());
    // SAFETY: as of this hook.
    unsafe { create_of(cx, call, array, descriptor, 1) }
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
    let descriptor = unsafe { descriptor.as_ref() }.copied();
    // SAFETY: as of this hook. No array has more levels than its widest extent has bits.
    unsafe { create_of(cx, call, array, descriptor, level_count.min(u64::BITS)) }
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

    #[test]
    fn an_array_takes_its_texels_rounded_up_to_tiles() {
        assert_eq!(array_bytes(&image(1024, 1024, 0), 1), 16 << 20);
        assert_eq!(array_bytes(&image(1, 0, 0), 1), TILE_BYTES);
    }

    #[test]
    fn an_array_of_the_32_bit_abi_counts_the_same() {
        let plane = CUDA_ARRAY_DESCRIPTOR_v1 {
            Width: 1024,
            Height: 512,
            Format: CU_AD_FORMAT_FLOAT,
            NumChannels: 4,
        };
        assert_eq!(array_bytes(&plane.volume(), 1), 8 << 20);
        let volume = CUDA_ARRAY3D_DESCRIPTOR_v1 {
            Width: 1024,
            Height: 512,
            Depth: 3,
            Format: CU_AD_FORMAT_FLOAT,
            NumChannels: 4,
            Flags: 0,
        };
        assert_eq!(array_bytes(&volume.volume(), 1), 24 << 20);
    }

    #[test]
    fn every_level_is_counted() {
        // 1024² + 512² + 256² texels of 16 bytes
        assert_eq!(array_bytes(&image(1024, 1024, 0), 3), 21 << 20);
    }

    #[test]
    fn an_array_without_memory_of_its_own_takes_none() {
        assert_eq!(array_bytes(&image(1024, 1024, CUDA_ARRAY3D_SPARSE), 1), 0);
        assert_eq!(
            array_bytes(&image(1024, 1024, CUDA_ARRAY3D_DEFERRED_MAPPING), 1),
            0
        );
    }

    #[test]
    fn an_absurd_size_does_not_wrap() {
        assert_eq!(array_bytes(&image(usize::MAX, usize::MAX, 0), 64), u64::MAX);
    }
}
