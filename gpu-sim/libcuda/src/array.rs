//! Arrays and mipmapped arrays: rows of elements in device memory, without an address of their own.
//!
//! They take what the tiles of hardware would: rows of whole groups of bytes (GOBs), as many as fill whole blocks of GOBs. Inside
//! they are laid out row after row all the same – of compressed ones ([`mod@format`]), rows of blocks, which copies count in: an estimate –: no
//! kernel reads them, they can be copied to and from. Of some the program maps the memory itself ([`tiles`]).

mod format;
pub(crate) mod mapping;
mod tiles;

pub(crate) use tiles::{Layout, Subresource, TILE_BYTES, Tiles};

use std::sync::Arc;

use cuda_sys_stubs::abi::*;

use crate::context::{self, Context};
use crate::door::Answer;
use crate::memory;
use crate::process::{Process, State};
use crate::table::Key;
use crate::{capture, stream};
use mapping::Mapping;
use tiles::Geometry;

/// Extent and element of an array; `height` and `depth` are 0 in dimensions that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) width: u64,
    pub(crate) height: u64,
    pub(crate) depth: u64,
    pub(crate) format: CUarray_format,
    pub(crate) channels: u32,
    pub(crate) flags: u32,
}

/// An array.
pub(crate) struct Array {
    pub(crate) shape: Shape,
    pub(crate) memory: ArrayMemory,
    /// If it is mapped by itself.
    mapping: Option<Mapping>,
    /// Of a format that has some, in their order.
    planes: Vec<Key<Array>>,
    /// It is a level of a mipmapped array, or a plane of another one, and goes with it.
    is_part: bool,
}

/// Where an array's elements are.
#[derive(Clone, Debug)]
pub(crate) enum ArrayMemory {
    /// From here on in the device's addresses.
    Own(CUdeviceptr),
    /// Where the program maps them.
    Tiles(Arc<Tiles>, Layout),
}

/// A mipmapped array: each level half the size of the one before.
pub(crate) struct Mipmap {
    pub(crate) levels: Vec<Key<Array>>,
    /// If its levels are mapped.
    mapping: Option<Mapping>,
}

/// A GOB, the unit of the block-linear layout, is so wide, in bytes (Linux, include/uapi/drm/drm_fourcc.h,
/// `DRM_FORMAT_MOD_NVIDIA_BLOCK_LINEAR_2D`).
const GOB_BYTES: u64 = 64;
/// Rows of a GOB, of the layout since Fermi (the same).
const GOB_ROWS: u64 = 8;
/// GOBs that stand on each other in a block, at most. The layout allows up to 32; what CUDA takes is not documented: an estimate.
const BLOCK_GOBS_MAX: u64 = 16;

/// Arrays of these kinds have no memory when they are made.
const FLAGS_WITHOUT_MEMORY: u32 = CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING;

impl Shape {
    /// Bytes of a row: of a compressed array, of blocks.
    pub(crate) fn row_bytes(&self) -> Answer<u64> {
        let stored = self.stored();
        let bytes = stored.width.checked_mul(stored.element_bytes()?);
        bytes
            .filter(|bytes| *bytes > 0)
            .ok_or(CUDA_ERROR_INVALID_VALUE)
    }

    /// Rows of a slice, with those that fill its last block. An array of one dimension has but its row.
    fn rows(&self) -> Option<u64> {
        if self.height == 0 {
            return Some(1);
        }
        let gobs = self.height.div_ceil(GOB_ROWS).checked_next_power_of_two()?;
        let block_rows = GOB_ROWS.checked_mul(gobs.min(BLOCK_GOBS_MAX))?;
        self.height.checked_next_multiple_of(block_rows)
    }

    fn bytes(&self) -> Answer<u64> {
        let planes = self.planes();
        if !planes.is_empty() {
            let bytes = planes.iter().map(Self::bytes);
            return bytes.sum();
        }
        let rows = self
            .stored()
            .rows()
            .ok_or(CUDA_ERROR_INVALID_VALUE)?
            .checked_mul(self.depth.max(1))
            .ok_or(CUDA_ERROR_INVALID_VALUE)?;
        self.row_bytes()?
            .checked_next_multiple_of(GOB_BYTES)
            .ok_or(CUDA_ERROR_INVALID_VALUE)?
            .checked_mul(rows)
            .ok_or(CUDA_ERROR_INVALID_VALUE)
    }

    /// Whether the program maps its memory.
    fn is_mapped(&self) -> bool {
        self.flags & FLAGS_WITHOUT_MEMORY != 0
    }

    /// The layers of a level are as many as those of the first.
    fn has_layers(&self) -> bool {
        self.flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP) != 0
    }

    fn level(&self, level: u32) -> Self {
        let half = |extent: u64| {
            if extent == 0 {
                0
            } else {
                extent.checked_shr(level).unwrap_or(0).max(1)
            }
        };
        Self {
            width: half(self.width),
            height: half(self.height),
            depth: if self.has_layers() {
                self.depth
            } else {
                half(self.depth)
            },
            ..*self
        }
    }

    fn check(&self) -> Answer {
        let is_mapped_twice = self.flags & FLAGS_WITHOUT_MEMORY == FLAGS_WITHOUT_MEMORY;
        if is_mapped_twice || (self.is_mapped() && self.height == 0) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        if self.depth > 0 && self.height == 0 && self.flags & CUDA_ARRAY3D_LAYERED == 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        self.check_format()?;
        self.bytes().map(drop)
    }
}

/// Makes an array on the current context's device.
pub(crate) fn create(process: &Process, shape: Shape) -> Answer<Key<Array>> {
    let mut state = process.lock();
    context::owner(&state)?;
    capture::forbid(&mut state)?;
    shape.check()?;
    if shape.is_mapped() {
        return make_mapped(&mut state, shape);
    }
    make(process, &mut state, shape, false)
}

/// Makes an array that has no memory yet.
fn make_mapped(state: &mut State, shape: Shape) -> Answer<Key<Array>> {
    let geometry = Geometry::of(vec![shape], false)?;
    let mapping = Mapping::new(geometry, context::owner(state)?);
    let layout = mapping.geometry.layouts.first().copied();
    let layout = layout.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    Ok(state.arrays.insert(Array {
        shape,
        memory: ArrayMemory::Tiles(Arc::clone(&mapping.tiles), layout),
        mapping: Some(mapping),
        planes: Vec::new(),
        is_part: false,
    }))
}

/// Makes a mipmapped array of these levels that has no memory yet.
fn make_mapped_mipmap(state: &mut State, levels: Vec<Shape>) -> Answer<Key<Mipmap>> {
    let context = context::owner(state)?;
    let mapping = Mapping::new(Geometry::of(levels.clone(), true)?, context);
    let (tiles, layouts) = (Arc::clone(&mapping.tiles), mapping.geometry.layouts.clone());
    let key = state.mipmaps.insert(Mipmap {
        levels: Vec::new(),
        mapping: Some(mapping),
    });
    let arrays = levels
        .into_iter()
        .zip(layouts)
        .map(|(shape, layout)| Array {
            shape,
            memory: ArrayMemory::Tiles(Arc::clone(&tiles), layout),
            mapping: None,
            planes: Vec::new(),
            is_part: true,
        });
    let levels = arrays.map(|array| state.arrays.insert(array)).collect();
    let mipmap = state.mipmaps.get_mut(key).ok_or(CUDA_ERROR_UNKNOWN)?;
    mipmap.levels = levels;
    Ok(key)
}

fn make(process: &Process, state: &mut State, shape: Shape, is_part: bool) -> Answer<Key<Array>> {
    let context = context::owner(state)?;
    let mut range = memory::take(process, state, context, shape.bytes()?)?;
    range.is_global = true;
    state.book.insert(range);
    let array = at(shape, range.start, is_part);
    let planes = make_planes(state, &array)?;
    Ok(state.arrays.insert(Array { planes, ..array }))
}

/// An array without planes that lies there.
fn at(shape: Shape, start: CUdeviceptr, is_part: bool) -> Array {
    Array {
        shape,
        memory: ArrayMemory::Own(start),
        mapping: None,
        planes: Vec::new(),
        is_part,
    }
}

/// Makes the planes of an array, one behind the other in its memory.
fn make_planes(state: &mut State, array: &Array) -> Answer<Vec<Key<Array>>> {
    let ArrayMemory::Own(mut start) = array.memory else {
        return Ok(Vec::new());
    };
    let mut planes = Vec::new();
    for shape in array.shape.planes() {
        planes.push(state.arrays.insert(at(shape, start, true)));
        start = start.saturating_add(shape.bytes()?);
    }
    Ok(planes)
}

/// `cuArrayGetPlane`. `CUDA_ERROR_INVALID_VALUE`: there is no such plane.
pub(crate) fn plane(state: &State, handle: CUarray, index: u32) -> Answer<Key<Array>> {
    let planes = &find(state, handle)?.planes;
    let plane = usize::try_from(index).ok().and_then(|at| planes.get(at));
    plane.copied().ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// Makes a mipmapped array; of more levels than the extent has, those that it has.
pub(crate) fn create_mipmap(process: &Process, shape: Shape, levels: u32) -> Answer<Key<Mipmap>> {
    let mut state = process.lock();
    context::owner(&state)?;
    capture::forbid(&mut state)?;
    shape.check()?;
    if !shape.planes().is_empty() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let longest = shape.width.max(shape.height).max(shape.depth);
    let levels = levels.min(longest.checked_ilog2().unwrap_or(0) + 1);
    if levels == 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let shapes = (0..levels).map(|level| shape.level(level));
    if shape.is_mapped() {
        return make_mapped_mipmap(&mut state, shapes.collect());
    }
    let key = state.mipmaps.insert(Mipmap {
        levels: Vec::new(),
        mapping: None,
    });
    for shape in shapes {
        match make(process, &mut state, shape, true) {
            Ok(array) => state
                .mipmaps
                .get_mut(key)
                .ok_or(CUDA_ERROR_UNKNOWN)?
                .levels
                .push(array),
            Err(error) => {
                end_mipmap(process, &mut state, key)?;
                return Err(error);
            }
        }
    }
    Ok(key)
}

/// The array behind a handle.
pub(crate) fn find(state: &State, handle: CUarray) -> Answer<&Array> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    state.arrays.get(key).ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// Whether an array may have a surface over it.
pub(crate) fn is_for_surfaces(array: &Array) -> bool {
    array.shape.flags & CUDA_ARRAY3D_SURFACE_LDST != 0
}

/// Ends an array, when all work is done.
pub(crate) fn destroy(process: &Process, handle: CUarray) -> Answer {
    let pending = stream::pending(&process.lock(), None);
    stream::wait_all(process, &pending)?;
    let mut state = process.lock();
    if find(&state, handle)?.is_part {
        return Err(CUDA_ERROR_INVALID_HANDLE);
    }
    end(
        process,
        &mut state,
        Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?,
    )
}

fn end(process: &Process, state: &mut State, key: Key<Array>) -> Answer {
    let array = state.arrays.remove(key).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    for plane in array.planes {
        state.arrays.remove(plane);
    }
    if let Some(mapping) = array.mapping {
        mapping.end(process, state)?;
    }
    let ArrayMemory::Own(start) = array.memory else {
        return Ok(());
    };
    let range = state.book.remove(start, |range| range.is_global);
    range.map_or(Ok(()), |range| memory::give_back(process, range))
}

/// Ends the arrays of a context whose memory was mapped; that of others goes as the context's other memory does.
pub(crate) fn end_mapped(process: &Process, state: &mut State, context: Key<Context>) -> Answer {
    let is_of = |mapping: &Option<Mapping>| {
        let mapping = mapping.as_ref();
        mapping.is_some_and(|mapping| mapping.context == context)
    };
    let arrays = state.arrays.extract(|array| is_of(&array.mapping));
    let mipmaps = state.mipmaps.extract(|mipmap| is_of(&mipmap.mapping));
    let of_arrays = arrays.into_iter().filter_map(|(_, array)| array.mapping);
    let mut of_mipmaps = Vec::new();
    for (_, mipmap) in mipmaps {
        for level in mipmap.levels {
            state.arrays.remove(level);
        }
        of_mipmaps.extend(mipmap.mapping);
    }
    for mapping in of_arrays.chain(of_mipmaps) {
        mapping.end(process, state)?;
    }
    Ok(())
}

/// Ends a mipmapped array with its levels, when all work is done.
pub(crate) fn destroy_mipmap(process: &Process, handle: CUmipmappedArray) -> Answer {
    let pending = stream::pending(&process.lock(), None);
    stream::wait_all(process, &pending)?;
    let mut state = process.lock();
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    end_mipmap(process, &mut state, key)
}

fn end_mipmap(process: &Process, state: &mut State, key: Key<Mipmap>) -> Answer {
    let mipmap = state.mipmaps.remove(key).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    if let Some(mapping) = mipmap.mapping {
        mapping.end(process, state)?;
    }
    mipmap
        .levels
        .into_iter()
        .try_for_each(|level| end(process, state, level))
}

/// A level of a mipmapped array.
pub(crate) fn level(state: &State, handle: CUmipmappedArray, level: u32) -> Answer<Key<Array>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    let levels = &state
        .mipmaps
        .get(key)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)?
        .levels;
    usize::try_from(level)
        .ok()
        .and_then(|level| levels.get(level))
        .copied()
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(width: u64, height: u64, depth: u64) -> Shape {
        Shape {
            width,
            height,
            depth,
            format: CU_AD_FORMAT_FLOAT,
            channels: 4,
            flags: 0,
        }
    }

    #[test]
    fn an_array_takes_whole_blocks_of_rows() {
        assert_eq!(shape(10, 0, 0).bytes(), Ok(192), "10 of 16 bytes");
        assert_eq!(shape(8, 3, 2).bytes(), Ok(128 * 8 * 2), "a block of one");
        assert_eq!(shape(4, 40, 0).bytes(), Ok(64 * 64), "a block of eight");
        assert_eq!(shape(4, 300, 0).bytes(), Ok(64 * 384), "blocks of 16");
    }

    #[test]
    fn an_array_that_is_none_is_refused() {
        assert_eq!(shape(u64::MAX, 2, 0).bytes(), Err(CUDA_ERROR_INVALID_VALUE));
        assert_eq!(
            Shape {
                channels: 3,
                ..shape(1, 0, 0)
            }
            .bytes(),
            Err(CUDA_ERROR_INVALID_VALUE)
        );
    }

    #[test]
    fn a_normalized_format_has_so_many_channels_and_no_others() {
        let pixels = |channels| Shape {
            format: CU_AD_FORMAT_UNORM_INT16X2,
            channels,
            ..shape(10, 0, 0)
        };
        assert_eq!(pixels(2).row_bytes(), Ok(40));
        assert_eq!(pixels(1).row_bytes(), Err(CUDA_ERROR_INVALID_VALUE));
    }

    #[test]
    fn levels_halve_down_to_one_element_and_keep_missing_dimensions_missing() {
        assert_eq!(shape(10, 3, 0).level(1), shape(5, 1, 0));
        assert_eq!(shape(10, 3, 0).level(40), shape(1, 1, 0));
    }

    #[test]
    fn every_level_has_all_layers() {
        let layers = |width, height| Shape {
            flags: CUDA_ARRAY3D_LAYERED,
            ..shape(width, height, 6)
        };
        assert_eq!(layers(8, 8).level(2), layers(2, 2));
    }
}
