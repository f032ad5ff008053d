//! How the elements of an array lie whose memory the program maps: tile by tile (`CUDA_ARRAY3D_SPARSE`) or all at once
//! (`CUDA_ARRAY3D_DEFERRED_MAPPING`).
//!
//! CUDA Driver API, `cuMemMapArrayAsync`, `cuArrayGetSparseProperties`, `cuMipmappedArrayGetSparseProperties`. What these leave open
//! is an estimate: a tile has the extent of Vulkan's standard sparse image blocks (Vulkan specification, "Standard Sparse Image Block
//! Shapes"); what is mapped nowhere reads as zeros, and what is written there is lost (the same, `residencyNonResidentStrict`).

use std::collections::BTreeMap;

use cuda_sys_stubs::abi::*;
use parking_lot::Mutex;

use super::Shape;
use crate::address::Place;
use crate::door::Answer;

/// Bytes of a tile.
pub(crate) const TILE_BYTES: u64 = 64 << 10;

/// Levels in a tail start at multiples of this.
const TAIL_ALIGNMENT: u64 = 512;

/// What tiles are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Region {
    /// A level, or a layer of one.
    Level { level: u32, layer: u64 },
    /// The levels that are smaller than a tile: of one layer, or of all.
    Tail { layer: u64 },
    /// Everything, as one tile.
    Whole,
}

impl Region {
    /// Bytes of a tile.
    fn tile_bytes(self) -> u64 {
        match self {
            Self::Level { .. } | Self::Tail { .. } => TILE_BYTES,
            Self::Whole => u64::MAX,
        }
    }
}

/// A piece that is mapped as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tile {
    region: Region,
    number: u64,
}

/// What is mapped where, as far as the device has come.
#[derive(Debug, Default)]
pub(crate) struct Tiles(Mutex<BTreeMap<Tile, Place>>);

impl Tiles {
    /// The memory that a tile has.
    pub(crate) fn place(&self, tile: Tile) -> Option<Place> {
        self.0.lock().get(&tile).copied()
    }

    /// Maps a tile, or takes its memory away.
    pub(crate) fn set(&self, tile: Tile, place: Option<Place>) {
        let mut tiles = self.0.lock();
        match place {
            Some(place) => tiles.insert(tile, place),
            None => tiles.remove(&tile),
        };
    }
}

/// How a level's elements lie in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Each tile is a box: so many bytes wide, rows high and slices deep; there are so many in a row, and rows of them in a slice.
    Boxes {
        level: u32,
        extent: [u64; 3],
        columns: u64,
        rows: u64,
        has_layers: bool,
    },
    /// Row after row, so many bytes apart, and slice after slice from a byte of a region on; or each layer in a region of its own.
    Rows {
        region: Region,
        start: u64,
        pitch: u64,
        slice: u64,
        is_by_layer: bool,
    },
}

impl Layout {
    /// The tile that has a byte (of a row, row, slice or layer), where in the tile that is, and how many bytes of the row follow in it.
    pub(crate) fn find(&self, [x, y, z]: [u64; 3]) -> (Tile, u64, u64) {
        match *self {
            Self::Boxes {
                level,
                extent: [width, height, depth],
                columns,
                rows,
                has_layers,
            } => {
                let (layer, z) = if has_layers { (z, 0) } else { (0, z) };
                let number = ((z / depth) * rows + y / height) * columns + x / width;
                let offset = ((z % depth) * height + y % height) * width + x % width;
                let region = Region::Level { level, layer };
                (Tile { region, number }, offset, width - x % width)
            }
            Self::Rows {
                region,
                start,
                pitch,
                slice,
                is_by_layer,
            } => {
                let (region, z) = if is_by_layer {
                    (Region::Tail { layer: z }, 0)
                } else {
                    (region, z)
                };
                let (at, tile_bytes) = (start + z * slice + y * pitch + x, region.tile_bytes());
                let (number, offset) = (at / tile_bytes, at % tile_bytes);
                (Tile { region, number }, offset, tile_bytes - offset)
            }
        }
    }
}

/// Extent of a tile in elements of so many bytes: width, height, depth.
fn tile_extent(element_bytes: u64, is_volume: bool) -> Answer<[u64; 3]> {
    Ok(match (element_bytes, is_volume) {
        (1, false) => [256, 256, 1],
        (2, false) => [256, 128, 1],
        (4, false) => [128, 128, 1],
        (8, false) => [128, 64, 1],
        (16, false) => [64, 64, 1],
        (1, true) => [64, 32, 32],
        (2, true) => [32, 32, 32],
        (4, true) => [32, 32, 16],
        (8, true) => [32, 16, 16],
        (16, true) => [16, 16, 16],
        _ => return Err(CUDA_ERROR_NOT_SUPPORTED),
    })
}

/// A part of an array, as a program names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subresource {
    /// Of a level: offset and extent in elements.
    Level {
        level: u32,
        layer: u32,
        offset: [u32; 3],
        extent: [u32; 3],
    },
    /// Of the levels that are smaller than a tile, in bytes.
    Tail { layer: u32, offset: u64, bytes: u64 },
}

/// What `cuArrayGetSparseProperties` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    /// Of a tile, in elements.
    pub(crate) extent: [u64; 3],
    pub(crate) tail_first: u32,
    /// Of one layer, or of all.
    pub(crate) tail_bytes: u64,
    pub(crate) has_single_tail: bool,
}

/// The tiles of an array, or of all levels of a mipmapped one.
#[derive(Debug)]
pub(crate) struct Geometry {
    /// As they are stored.
    levels: Vec<Shape>,
    /// Elements on a side of what is stored as one.
    block_side: u64,
    /// `None`: everything is one.
    sparse: Option<Properties>,
    /// By level.
    pub(crate) layouts: Vec<Layout>,
    /// Bytes of a tile.
    pub(crate) tile_bytes: u64,
}

impl Geometry {
    /// Of an array without levels, or of levels of a mipmapped one.
    pub(crate) fn of(levels: Vec<Shape>, is_mipmap: bool) -> Answer<Self> {
        let block_side = levels.first().map_or(1, Shape::block_side);
        let levels: Vec<_> = levels.iter().map(Shape::stored).collect();
        let first = levels.first().ok_or(CUDA_ERROR_INVALID_VALUE)?;
        if first.flags & CUDA_ARRAY3D_SPARSE == 0 {
            let (layouts, bytes) = one_after_another(&levels, Region::Whole, false)?;
            return Ok(Self {
                levels,
                block_side,
                sparse: None,
                layouts,
                tile_bytes: bytes,
            });
        }
        let is_volume = first.depth > 0 && !first.has_layers();
        let extent = tile_extent(first.element_bytes()?, is_volume)?;
        let is_in_tail = |level: &Shape| {
            let own = [level.width, level.height, level.depth.max(1)];
            own.iter().zip(extent).any(|(own, tile)| *own < tile)
        };
        let tail_first = levels.iter().position(is_in_tail).unwrap_or(levels.len());
        let (boxes, tail) = levels.split_at(tail_first);
        let is_by_layer = is_mipmap && first.has_layers();
        let (rows, tail_bytes) = one_after_another(tail, Region::Tail { layer: 0 }, is_by_layer)?;
        let boxes = (0u32..).zip(boxes);
        let boxes = boxes.map(|(level, shape)| boxes_of(shape, level, extent));
        let layouts = boxes.chain(rows.into_iter().map(Ok));
        let layouts = layouts.collect::<Answer<_>>()?;
        let tail_first = if is_mipmap { tail_first } else { 0 };
        Ok(Self {
            sparse: Some(Properties {
                extent,
                tail_first: u32::try_from(tail_first).map_err(|_| CUDA_ERROR_INVALID_VALUE)?,
                tail_bytes,
                has_single_tail: tail_bytes > 0 && !is_mipmap,
            }),
            levels,
            block_side,
            layouts,
            tile_bytes: TILE_BYTES,
        })
    }

    /// `CUDA_ERROR_INVALID_VALUE`: it is mapped at once.
    pub(crate) fn properties(&self) -> Answer<Properties> {
        let sparse = self.sparse.ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let [width, height, depth] = sparse.extent;
        let extent = [width * self.block_side, height * self.block_side, depth];
        Ok(Properties { extent, ..sparse })
    }

    /// A part in elements as one of what is stored. `CUDA_ERROR_INVALID_VALUE`: it begins inside a block.
    fn in_blocks(&self, offset: [u64; 3], extent: [u64; 3]) -> Answer<([u64; 3], [u64; 3])> {
        let ([x, y, z], [width, height, depth]) = (offset, extent);
        let side = self.block_side;
        if !x.is_multiple_of(side) || !y.is_multiple_of(side) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let offset = [x / side, y / side, z];
        Ok((offset, [width.div_ceil(side), height.div_ceil(side), depth]))
    }

    /// Bytes of all. `CUDA_ERROR_INVALID_VALUE`: it is not mapped at once.
    pub(crate) fn required_bytes(&self) -> Answer<u64> {
        match self.sparse {
            None => Ok(self.tile_bytes),
            Some(_) => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }

    /// The tiles of a part, in their order; what is mapped at once has only the one.
    pub(crate) fn tiles(&self, part: Subresource) -> Answer<Vec<Tile>> {
        let Some(sparse) = self.sparse else {
            let (region, number) = (Region::Whole, 0);
            return Ok(vec![Tile { region, number }]);
        };
        match part {
            Subresource::Level {
                level,
                layer,
                offset,
                extent,
            } => {
                let (offset, extent) =
                    self.in_blocks(offset.map(u64::from), extent.map(u64::from))?;
                self.tiles_of_level((level, layer), offset, extent)
            }
            Subresource::Tail {
                layer,
                offset,
                bytes,
            } => self.tiles_of_tail(sparse, layer.into(), (offset, bytes)),
        }
    }

    fn layers(&self) -> u64 {
        let first = self.levels.first().filter(|first| first.has_layers());
        first.map_or(1, |first| first.depth.max(1))
    }

    fn tiles_of_level(
        &self,
        (level, layer): (u32, u32),
        offset: [u64; 3],
        extent: [u64; 3],
    ) -> Answer<Vec<Tile>> {
        let at = usize::try_from(level).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
        let (shape, layout) = self
            .levels
            .get(at)
            .zip(self.layouts.get(at))
            .ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let (Some(sparse), Layout::Boxes { has_layers, .. }) = (self.sparse, *layout) else {
            return Err(CUDA_ERROR_INVALID_VALUE);
        };
        let layer = u64::from(layer);
        let depth = if has_layers { 1 } else { shape.depth.max(1) };
        let whole = [shape.width, shape.height, depth];
        for (((offset, extent), tile), whole) in
            offset.into_iter().zip(extent).zip(sparse.extent).zip(whole)
        {
            let end = offset.saturating_add(extent);
            let is_whole = end == whole || end.is_multiple_of(tile);
            let fits = extent > 0 && end <= whole.next_multiple_of(tile);
            if !offset.is_multiple_of(tile) || !is_whole || !fits {
                return Err(CUDA_ERROR_INVALID_VALUE);
            }
        }
        if layer >= self.layers() {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let element_bytes = shape.element_bytes()?;
        let ([x, y, z], [width, height, depth]) = (offset, extent);
        let [tile_width, tile_height, tile_depth] = sparse.extent;
        let tile = |x: u64, y, z| {
            let slice = if has_layers { layer } else { z };
            layout.find([x * element_bytes, y, slice]).0
        };
        let mut tiles = Vec::new();
        for z in steps(z, depth, tile_depth) {
            for y in steps(y, height, tile_height) {
                tiles.extend(steps(x, width, tile_width).map(|x| tile(x, y, z)));
            }
        }
        Ok(tiles)
    }

    fn tiles_of_tail(
        &self,
        sparse: Properties,
        layer: u64,
        (offset, bytes): (u64, u64),
    ) -> Answer<Vec<Tile>> {
        let layers = if sparse.has_single_tail {
            1
        } else {
            self.layers()
        };
        let end = offset.checked_add(bytes).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let is_aligned = offset.is_multiple_of(TILE_BYTES) && bytes.is_multiple_of(TILE_BYTES);
        if !is_aligned || bytes == 0 || end > sparse.tail_bytes || layer >= layers {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let region = Region::Tail { layer };
        let numbers = offset / TILE_BYTES..end / TILE_BYTES;
        Ok(numbers.map(|number| Tile { region, number }).collect())
    }
}

/// Where tiles begin on one axis.
fn steps(start: u64, length: u64, tile: u64) -> impl Iterator<Item = u64> {
    (start..start.saturating_add(length)).step_by(usize::try_from(tile).unwrap_or(usize::MAX))
}

fn boxes_of(shape: &Shape, level: u32, [width, height, depth]: [u64; 3]) -> Answer<Layout> {
    Ok(Layout::Boxes {
        level,
        extent: [width * shape.element_bytes()?, height, depth],
        columns: shape.width.div_ceil(width),
        rows: shape.height.div_ceil(height),
        has_layers: shape.has_layers(),
    })
}

/// Levels one after another in a region, or in one for each layer, and the bytes that a region of whole tiles needs for them.
fn one_after_another(
    levels: &[Shape],
    region: Region,
    is_by_layer: bool,
) -> Answer<(Vec<Layout>, u64)> {
    let (mut layouts, mut start) = (Vec::new(), 0u64);
    for level in levels {
        let pitch = level.row_bytes()?;
        let slice = pitch.checked_mul(level.height.max(1));
        let slice = slice.ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let slices = if is_by_layer { 1 } else { level.depth.max(1) };
        layouts.push(Layout::Rows {
            region,
            start,
            pitch,
            slice,
            is_by_layer,
        });
        let bytes = slice.checked_mul(slices);
        let end = bytes.and_then(|bytes| start.checked_add(bytes));
        let end = end.and_then(|end| end.checked_next_multiple_of(TAIL_ALIGNMENT));
        start = end.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    }
    let bytes = start.checked_next_multiple_of(TILE_BYTES);
    Ok((layouts, bytes.ok_or(CUDA_ERROR_INVALID_VALUE)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(width: u64, height: u64, depth: u64, flags: u32) -> Shape {
        Shape {
            width,
            height,
            depth,
            format: CU_AD_FORMAT_FLOAT,
            channels: 1,
            flags: flags | CUDA_ARRAY3D_SPARSE,
        }
    }

    fn geometry(shape: Shape) -> Geometry {
        Geometry::of(vec![shape], false).unwrap()
    }

    fn mipmap(shape: Shape, levels: u32) -> Geometry {
        let levels = (0..levels).map(|level| shape.level(level)).collect();
        Geometry::of(levels, true).unwrap()
    }

    fn part(offset: [u32; 3], extent: [u32; 3]) -> Subresource {
        Subresource::Level {
            level: 0,
            layer: 0,
            offset,
            extent,
        }
    }

    fn tail(layer: u32, offset: u64, bytes: u64) -> Subresource {
        Subresource::Tail {
            layer,
            offset,
            bytes,
        }
    }

    #[test]
    fn every_byte_of_an_array_has_a_place_of_its_own() {
        for shape in [shape(200, 130, 0, 0), shape(33, 40, 17, 0)] {
            let geometry = geometry(shape);
            let mut seen = std::collections::BTreeSet::new();
            for z in 0..shape.depth.max(1) {
                for y in 0..shape.height {
                    for x in 0..4 * shape.width {
                        let (tile, at, left) = geometry.layouts[0].find([x, y, z]);
                        assert!(at + left <= TILE_BYTES);
                        assert!(seen.insert((tile, at)), "{x} {y} {z}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_part_of_a_level_is_whole_tiles_in_their_order() {
        let geometry = geometry(shape(300, 200, 0, 0));
        let numbers = |part| {
            let tiles = geometry.tiles(part);
            tiles.map(|tiles| tiles.iter().map(|tile| tile.number).collect())
        };
        assert_eq!(
            numbers(part([128, 0, 0], [172, 200, 1])),
            Ok(vec![1, 2, 4, 5])
        );
        assert_eq!(numbers(part([0, 128, 0], [128, 128, 1])), Ok(vec![3]));
        for wrong in [
            part([64, 0, 0], [64, 128, 1]),
            part([0, 0, 0], [100, 128, 1]),
            part([0, 0, 0], [512, 128, 1]),
            part([0, 0, 1], [128, 128, 1]),
            part([0, 0, 0], [0, 128, 1]),
            tail(0, 0, TILE_BYTES),
        ] {
            assert_eq!(numbers(wrong), Err(CUDA_ERROR_INVALID_VALUE), "{wrong:?}");
        }
    }

    #[test]
    fn levels_smaller_than_a_tile_share_a_tail() {
        let geometry = mipmap(shape(512, 256, 0, 0), 10);
        let properties = geometry.properties().unwrap();
        assert_eq!(
            (properties.tail_first, properties.extent),
            (2, [128, 128, 1])
        );
        assert_eq!(properties.tail_bytes, TILE_BYTES, "128 × 64 and less");
        let of = |level: usize| geometry.layouts[level].find([0, 0, 0]);
        assert_eq!((of(2).0, of(3).0), (of(2).0, of(2).0));
        assert_eq!(of(3).1 - of(2).1, 128 * 64 * 4);
        assert_eq!(geometry.tiles(tail(0, 0, TILE_BYTES)), Ok(vec![of(2).0]));
        let beyond = geometry.tiles(tail(0, 0, 2 * TILE_BYTES));
        assert_eq!(beyond, Err(CUDA_ERROR_INVALID_VALUE));
    }

    #[test]
    fn each_layer_of_a_mipmapped_array_has_a_tail_and_those_of_an_array_have_one() {
        let layers = shape(100, 100, 3, CUDA_ARRAY3D_LAYERED);
        let by_layer = mipmap(layers, 2);
        let last = by_layer.layouts[0].find([0, 0, 2]).0;
        assert_eq!(by_layer.tiles(tail(2, 0, TILE_BYTES)), Ok(vec![last]));
        assert!(by_layer.tiles(tail(3, 0, TILE_BYTES)).is_err());
        let together = geometry(layers).properties().unwrap();
        assert!(together.has_single_tail);
        assert_eq!(together.tail_bytes, 2 * TILE_BYTES, "3 × 40,000 bytes");
        assert!(geometry(layers).tiles(tail(1, 0, TILE_BYTES)).is_err());
    }

    #[test]
    fn what_is_mapped_at_once_is_one_tile_of_all_levels() {
        let whole = Shape {
            flags: CUDA_ARRAY3D_DEFERRED_MAPPING,
            ..shape(256, 256, 0, 0)
        };
        let geometry = mipmap(whole, 2);
        assert_eq!(geometry.required_bytes(), Ok(5 * TILE_BYTES));
        let (tile, at, _) = geometry.layouts[1].find([0, 0, 0]);
        assert_eq!(
            (geometry.tiles(tail(7, 1, 1)), at),
            (Ok(vec![tile]), 4 * TILE_BYTES)
        );
        assert_eq!(geometry.properties(), Err(CUDA_ERROR_INVALID_VALUE));
    }
}
