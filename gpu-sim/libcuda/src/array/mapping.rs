//! Memory that a program gives to arrays and takes from them, in stream order.
//!
//! CUDA Driver API, `cuMemMapArrayAsync`. What is mapped keeps its physical memory; that is let go when the stream has come to the
//! operation that takes it away.

use std::collections::BTreeMap;
use std::sync::Arc;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::Effect;
use gpu_sim::command::Command;

use super::tiles::{Geometry, Subresource, Tile, Tiles};
use super::{Array, Mipmap};
use crate::address::Place;
use crate::context::Context;
use crate::door::{Answer, NullStream};
use crate::pool::Retired;
use crate::process::{Process, State};
use crate::table::Key;
use crate::virtual_memory::{self, Physical};
use crate::{capture, context, stream};

/// The memory of an array, or of all levels of a mipmapped one, that the program maps.
pub(crate) struct Mapping {
    pub(crate) geometry: Geometry,
    pub(crate) tiles: Arc<Tiles>,
    /// What is mapped when everything has run that was submitted.
    bound: BTreeMap<Tile, Key<Physical>>,
    /// The context that it goes with.
    pub(crate) context: Key<Context>,
}

impl Mapping {
    pub(crate) fn new(geometry: Geometry, context: Key<Context>) -> Self {
        Self {
            geometry,
            tiles: Arc::default(),
            bound: BTreeMap::new(),
            context,
        }
    }

    /// Lets go of everything, which no work uses any more.
    pub(crate) fn end(self, process: &Process, state: &mut State) -> Answer {
        let mut bound = self.bound.into_values();
        bound.try_for_each(|physical| virtual_memory::unbind(process, state, physical))
    }
}

/// What is mapped: an array, or a mipmapped one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resource {
    Array(Key<Array>),
    Mipmap(Key<Mipmap>),
}

/// One operation of `cuMemMapArrayAsync`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) resource: Resource,
    pub(crate) part: Subresource,
    /// Memory to be mapped, from a byte on; `None`: what is mapped is taken away.
    pub(crate) memory: Option<(CUmemGenericAllocationHandle, u64)>,
    /// Ordinals of devices, as bits.
    pub(crate) devices: u32,
}

/// An operation that can be done: for each tile the memory that it gets.
struct Change {
    resource: Resource,
    tiles: Vec<(Tile, Option<Place>)>,
    physical: Option<Key<Physical>>,
}

/// The mapping of an array that was made for it. `CUDA_ERROR_INVALID_VALUE`: it was not, or is a level of a mipmapped array.
pub(crate) fn find(state: &State, resource: Resource) -> Answer<&Mapping> {
    let mapping = match resource {
        Resource::Array(key) => {
            let array = state.arrays.get(key);
            array.ok_or(CUDA_ERROR_INVALID_HANDLE)?.mapping.as_ref()
        }
        Resource::Mipmap(key) => {
            let mipmap = state.mipmaps.get(key);
            mipmap.ok_or(CUDA_ERROR_INVALID_HANDLE)?.mapping.as_ref()
        }
    };
    mapping.ok_or(CUDA_ERROR_INVALID_VALUE)
}

fn get(state: &mut State, resource: Resource) -> Answer<&mut Mapping> {
    let mapping = match resource {
        Resource::Array(key) => state.arrays.get_mut(key).map(|array| &mut array.mapping),
        Resource::Mipmap(key) => state.mipmaps.get_mut(key).map(|mipmap| &mut mipmap.mapping),
    };
    let mapping = mapping.ok_or(CUDA_ERROR_INVALID_HANDLE)?.as_mut();
    mapping.ok_or(CUDA_ERROR_INVALID_VALUE)
}

fn plan(state: &State, operation: &Operation, device: usize) -> Answer<Change> {
    let geometry = &find(state, operation.resource)?.geometry;
    if operation.devices != 1u32.unbounded_shl(u32::try_from(device).unwrap_or(u32::MAX)) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let tiles = geometry.tiles(operation.part)?;
    let tile_bytes = geometry.tile_bytes;
    let Some((handle, start)) = operation.memory else {
        let tiles = tiles.into_iter().map(|tile| (tile, None)).collect();
        return Ok(Change {
            resource: operation.resource,
            tiles,
            physical: None,
        });
    };
    let count = u64::try_from(tiles.len()).unwrap_or(u64::MAX);
    let bytes = count.checked_mul(tile_bytes);
    let range = (start, bytes.ok_or(CUDA_ERROR_INVALID_VALUE)?);
    let (physical, block) = virtual_memory::tile_pool(state, handle, device, range)?;
    let first = block.offset.saturating_add(start);
    let place = |number: u64| Place::Vram {
        device: block.device,
        offset: first.saturating_add(number.saturating_mul(tile_bytes)),
    };
    let places = (0..).map(|number| Some(place(number)));
    Ok(Change {
        resource: operation.resource,
        tiles: tiles.into_iter().zip(places).collect(),
        physical: Some(physical),
    })
}

/// Maps and unmaps on a stream, all or nothing. `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED`: it is capturing.
pub(crate) fn map(
    process: &Process,
    operations: &[Operation],
    handle: CUstream,
    null: NullStream,
) -> Answer {
    let mut state = process.lock();
    let key = stream::resolve(process, &mut state, handle, null)?;
    capture::refuse_query(&mut state, key)?;
    let context = stream::get(&state, key)?.context;
    let device = context::get(&state, context)?.device;
    let changes = operations
        .iter()
        .map(|operation| plan(&state, operation, device))
        .collect::<Answer<Vec<_>>>()?;
    let mut seen = Vec::new();
    for change in &changes {
        let tiles = Arc::clone(&find(&state, change.resource)?.tiles);
        seen.push((tiles, change.tiles.clone()));
    }
    let run = move || {
        for (tiles, changed) in seen {
            changed
                .into_iter()
                .for_each(|(tile, place)| tiles.set(tile, place));
        }
    };
    let effect = Effect::OnWait(Box::new(run));
    let sequence = stream::submit(process, &mut state, key, Command::Marker, Some(effect))?;
    let gpu = Arc::clone(&stream::get(&state, key)?.gpu);
    for Change {
        resource,
        tiles,
        physical,
    } in changes
    {
        for (tile, _) in tiles {
            let bound = &mut get(&mut state, resource)?.bound;
            let before = match physical {
                Some(physical) => bound.insert(tile, physical),
                None => bound.remove(&tile),
            };
            if let Some(physical) = physical {
                virtual_memory::bind(&mut state, physical)?;
            }
            let gone = before.map(|physical| Retired::binding(physical, &gpu, sequence));
            state.retired.extend(gone);
        }
    }
    Ok(())
}
