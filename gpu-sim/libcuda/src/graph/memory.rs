//! Memory that graphs allocate: addresses when a node is made, bytes when the executable graph is launched or uploaded.
//!
//! CUDA C++ Programming Guide, "Graph Memory Nodes". An allocation gets its addresses for good with its node, and device memory
//! of its own with the first launch; the device memory stays with the executable graph, goes to a pool of the device when that
//! ends, and back to the device with `cuDeviceGraphMemTrim`. Allocations that are never there at the same time do not share
//! memory, as the driver may have them do: graphs can take more here than on hardware, never less. Memory of the host is the
//! executable graph's own, and goes back to the host with it. Managed memory is a device's that the host reaches, too: that a capture may take
//! from a managed pool follows from `cuMemAllocFromPoolAsync` (cuda.h 13.4: the node has the pool's properties), and NVIDIA/warp
//! issue 1523 calls such memory graph-capturable; how the driver counts it is an estimate.

use std::collections::BTreeSet;
use std::sync::Arc;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::Stream as GpuStream;
use gpu_sim::command::{AllocKind, Block, Sequence};

use super::Operation;
use super::exec::GraphExec;
use crate::address::{Backing, HostKind, Place, Range};
use crate::door::Answer;
use crate::location::{Home, Location};
use crate::pool::{self, Level};
use crate::process::{Process, State, lost, refused};
use crate::table::Key;
use crate::virtual_memory::GRANULARITY;
use crate::window::{duplicate, hide, map_host_at, reserve};
use crate::{managed, stream};

/// One allocation node's memory.
pub(crate) struct GraphAlloc {
    pub(crate) home: Home,
    /// Ordinal of the device that counts it; of the host's memory, which none does, one that stands for it.
    device: usize,
    pub(crate) start: CUdeviceptr,
    /// As asked for.
    pub(crate) bytes: u64,
    /// Where its bytes can be reached, while it is backed.
    shadow: u64,
    /// Whether its node still exists.
    has_node: bool,
    /// The one executable graph that allocates it.
    exec: Option<Key<GraphExec>>,
    backed: Option<Backed>,
    /// A launch has allocated it, and nothing has freed it since.
    is_live: bool,
    /// How far streams have to come until nobody uses it any more.
    uses: Vec<(Arc<GpuStream>, Sequence)>,
}

/// What an allocation's bytes are.
#[derive(Clone, Copy)]
enum Backed {
    Device { block: Block, ordinal: usize },
    Host { bytes: u64 },
}

/// What a device keeps for graphs.
#[derive(Default)]
pub(crate) struct GraphPool {
    spare: Vec<Block>,
    used: Level,
    reserved: Level,
}

/// What a launch is about to do with memory.
#[derive(Default)]
struct Plan {
    allocs: BTreeSet<Key<GraphAlloc>>,
    frees: BTreeSet<Key<GraphAlloc>>,
}

impl Plan {
    fn of<'a>(operations: impl Iterator<Item = &'a Operation>) -> Self {
        let mut plan = Self::default();
        for operation in operations {
            match operation {
                Operation::Alloc(key) => drop(plan.allocs.insert(*key)),
                Operation::Free(key) => drop(plan.frees.insert(*key)),
                _ => {}
            }
        }
        plan
    }
}

fn get(state: &mut State, key: Key<GraphAlloc>) -> Answer<&mut GraphAlloc> {
    state
        .graph_allocs
        .get_mut(key)
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

fn pool(state: &mut State, device: usize) -> Answer<&mut GraphPool> {
    let primary = state.primaries.get_mut(device);
    Ok(&mut primary.ok_or(CUDA_ERROR_INVALID_DEVICE)?.graph_pool)
}

/// Whether an allocation is what is asked for: where, and how many bytes.
pub(crate) fn is_for(
    state: &State,
    key: Key<GraphAlloc>,
    (place, bytes): ((Home, usize), u64),
) -> bool {
    let alloc = state.graph_allocs.get(key);
    alloc.is_some_and(|alloc| ((alloc.home, alloc.device), alloc.bytes) == (place, bytes))
}

/// Reserves addresses for a node that is about to be added; [`keep`] is to be told when it is.
pub(crate) fn reserve_alloc(
    state: &mut State,
    (home, device): (Home, usize),
    bytes: u64,
) -> Answer<Key<GraphAlloc>> {
    let padded = bytes.checked_next_multiple_of(GRANULARITY);
    let padded = padded
        .filter(|_| bytes > 0)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let start = reserve(padded, GRANULARITY)?;
    // The host reaches what it may where the program knows it.
    let shadow = match home {
        Home::Pinned(Location::Device(_)) => reserve(padded, GRANULARITY)?,
        Home::Pinned(_) | Home::Managed(_) => start,
    };
    let key = state.graph_allocs.insert(GraphAlloc {
        home,
        device,
        start,
        bytes,
        shadow,
        has_node: false,
        exec: None,
        backed: None,
        is_live: false,
        uses: Vec::new(),
    });
    state.book.insert(Range {
        start,
        bytes,
        backing: Backing::Graph {
            alloc: key,
            shadow,
            home,
        },
        context: None,
        device,
        pool: None,
        id: 0,
        is_global: true,
    });
    if let Home::Managed(Some(preferred)) = home {
        managed::prefer(state, start, preferred);
    }
    Ok(key)
}

/// Where an allocation's addresses start.
pub(crate) fn address(state: &State, key: Key<GraphAlloc>) -> Answer<CUdeviceptr> {
    let alloc = state.graph_allocs.get(key);
    Ok(alloc.ok_or(CUDA_ERROR_INVALID_VALUE)?.start)
}

/// The allocation that starts at an address.
pub(crate) fn find(state: &State, start: CUdeviceptr) -> Option<Key<GraphAlloc>> {
    match state.book.find(start)? {
        range if range.start != start => None,
        Range {
            backing: Backing::Graph { alloc, .. },
            ..
        } => Some(*alloc),
        _ => None,
    }
}

/// Minds that an operation has become a node, or that its node is gone.
pub(super) fn keep(state: &mut State, operation: &Operation, has_node: bool) {
    if let Operation::Alloc(key) = operation
        && let Some(alloc) = state.graph_allocs.get_mut(*key)
    {
        alloc.has_node = has_node;
    }
}

/// Has an executable graph own its allocations. `CUDA_ERROR_NOT_SUPPORTED`: another one does.
pub(super) fn claim<'a>(
    state: &mut State,
    exec: Key<GraphExec>,
    operations: impl Iterator<Item = &'a Operation>,
) -> Answer {
    let allocs = Plan::of(operations).allocs;
    for key in &allocs {
        if get(state, *key)?.exec.is_some() {
            return Err(CUDA_ERROR_NOT_SUPPORTED);
        }
    }
    for key in allocs {
        get(state, key)?.exec = Some(exec);
    }
    Ok(())
}

/// Minds that an executable graph is gone.
pub(super) fn let_go(process: &Process, state: &mut State, exec: Key<GraphExec>) -> Answer {
    for (_, alloc) in state.graph_allocs.iter_mut() {
        alloc.exec.take_if(|owner| *owner == exec);
    }
    sweep(process, state)
}

/// Gives an executable graph's allocations device memory. `CUDA_ERROR_OUT_OF_MEMORY`: what got some keeps it.
pub(super) fn back<'a>(
    process: &Process,
    state: &mut State,
    operations: impl Iterator<Item = &'a Operation>,
) -> Answer {
    for key in Plan::of(operations).allocs {
        let alloc = get(state, key)?;
        if alloc.backed.is_some() {
            continue;
        }
        let (home, device, shadow) = (alloc.home, alloc.device, alloc.shadow);
        let bytes = alloc.bytes.next_multiple_of(GRANULARITY);
        let backed = if home.is_host() {
            let length = usize::try_from(bytes).map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
            map_host_at(shadow, length)?;
            Backed::Host { bytes }
        } else {
            back_on(process, state, device, (shadow, bytes))?
        };
        get(state, key)?.backed = Some(backed);
    }
    Ok(())
}

fn back_on(
    process: &Process,
    state: &mut State,
    ordinal: usize,
    (shadow, bytes): (u64, u64),
) -> Answer<Backed> {
    let block = take(process, state, ordinal, bytes)?;
    let pages = process.machine.vram(block.device, block.offset, bytes);
    duplicate(pages.ok_or(CUDA_ERROR_INVALID_VALUE)?, shadow, bytes)?;
    pool(state, ordinal)?.used.add(block.bytes);
    Ok(Backed::Device { block, ordinal })
}

/// A spare block that fits, or a new one.
fn take(process: &Process, state: &mut State, device: usize, bytes: u64) -> Answer<Block> {
    let spare = &mut pool(state, device)?.spare;
    if let Some(at) = spare.iter().position(|block| block.bytes == bytes) {
        return Ok(spare.swap_remove(at));
    }
    let index = process.devices.get(device);
    let index = index.ok_or(CUDA_ERROR_INVALID_DEVICE)?.index;
    let block = pool::with_reclaim(process, state, |process| {
        process.machine.alloc(index, bytes, AllocKind::Physical)
    })?;
    pool(state, device)?.reserved.add(block.bytes);
    Ok(block)
}

/// Prepares a launch. `CUDA_ERROR_INVALID_VALUE`: an allocation is still there and is not to be freed by the launch, what is to
/// be freed is not there, or a node touches memory of a graph that is not there.
pub(super) fn begin_launch(
    process: &Process,
    state: &mut State,
    operations: &[Operation],
    frees_first: bool,
) -> Answer {
    let plan = Plan::of(operations.iter());
    for key in &plan.allocs {
        if get(state, *key)?.is_live && !frees_first {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
    }
    for key in plan.frees.difference(&plan.allocs) {
        if !get(state, *key)?.is_live {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
    }
    let touched = operations.iter().flat_map(Operation::places);
    for key in touched.filter_map(Place::graph_alloc) {
        if !plan.allocs.contains(&key) && !get(state, key)?.is_live {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
    }
    back(process, state, operations.iter())
}

/// Writes down what a launch does when it has been submitted.
pub(super) fn end_launch(
    state: &mut State,
    operations: &[Operation],
    (stream, sequence): (&Arc<GpuStream>, Sequence),
) -> Answer {
    let plan = Plan::of(operations.iter());
    for key in plan.allocs.union(&plan.frees) {
        let alloc = get(state, *key)?;
        alloc.is_live = plan.allocs.contains(key) && !plan.frees.contains(key);
        alloc.use_until(stream, sequence);
    }
    Ok(())
}

impl GraphAlloc {
    fn use_until(&mut self, stream: &Arc<GpuStream>, sequence: Sequence) {
        self.uses.retain(|(other, _)| !Arc::ptr_eq(other, stream));
        self.uses.push((Arc::clone(stream), sequence));
    }
}

impl Place {
    /// The graph's allocation that it lies in.
    fn graph_alloc(self) -> Option<Key<GraphAlloc>> {
        match self {
            Self::Host {
                kind: HostKind::Graph { alloc, .. },
                ..
            } => Some(alloc),
            _ => None,
        }
    }
}

/// Refuses work outside of graphs on a graph's memory that no launch has allocated, or that was freed since.
pub(crate) fn check_live(state: &State, places: impl IntoIterator<Item = Place>) -> Answer {
    let mut keys = places.into_iter().filter_map(Place::graph_alloc);
    let is_live = |key| {
        state
            .graph_allocs
            .get(key)
            .is_some_and(|alloc| alloc.is_live)
    };
    if keys.all(is_live) {
        Ok(())
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}

/// `cuMemFree` of what a launch left allocated: waits for all work that may use it.
pub(crate) fn free(process: &Process, key: Key<GraphAlloc>) -> Answer {
    let pending = stream::pending(&process.lock(), None);
    stream::wait_all(process, &pending)?;
    end_life(&mut process.lock(), key).map(drop)
}

/// `cuMemFreeAsync` of what a launch left allocated: it is in use until the stream has come that far.
pub(crate) fn free_on_stream(
    state: &mut State,
    key: Key<GraphAlloc>,
    (stream, sequence): (&Arc<GpuStream>, Sequence),
) -> Answer {
    end_life(state, key)?.use_until(stream, sequence);
    Ok(())
}

fn end_life(state: &mut State, key: Key<GraphAlloc>) -> Answer<&mut GraphAlloc> {
    let alloc = get(state, key)?;
    if std::mem::replace(&mut alloc.is_live, false) {
        Ok(alloc)
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}

/// Takes back what no executable graph needs and no work uses any more.
pub(crate) fn sweep(process: &Process, state: &mut State) -> Answer {
    let idle: Vec<_> = state
        .graph_allocs
        .iter()
        .filter(|(_, alloc)| alloc.exec.is_none() && !alloc.is_live)
        .map(|(key, _)| key)
        .collect();
    for key in idle {
        let alloc = get(state, key)?;
        for (stream, sequence) in std::mem::take(&mut alloc.uses) {
            let done = process.machine.poll_stream(&stream, sequence);
            if done.map_err(lost)?.is_none() {
                alloc.uses.push((stream, sequence));
            }
        }
        if alloc.uses.is_empty() {
            give_back(state, key)?;
        }
    }
    Ok(())
}

/// Takes an allocation's memory away from it, for others.
fn release(state: &mut State, key: Key<GraphAlloc>) -> Answer {
    let alloc = get(state, key)?;
    let shadow = alloc.shadow;
    match alloc.backed.take() {
        Some(Backed::Device { block, ordinal }) => {
            hide(shadow, block.bytes)?;
            let pool = pool(state, ordinal)?;
            pool.used.subtract(block.bytes);
            pool.spare.push(block);
            Ok(())
        }
        Some(Backed::Host { bytes }) => hide(shadow, bytes),
        None => Ok(()),
    }
}

fn give_back(state: &mut State, key: Key<GraphAlloc>) -> Answer {
    release(state, key)?;
    let alloc = get(state, key)?;
    let (start, has_node) = (alloc.start, alloc.has_node);
    if !has_node {
        state.graph_allocs.remove(key);
        if let Some(range) = state.book.remove(start, |_| true) {
            state.advice.remove(&range.id);
        }
    }
    Ok(())
}

/// `cuDeviceGraphMemTrim`.
pub(crate) fn trim(process: &Process, device: usize) -> Answer {
    let mut state = process.lock();
    sweep(process, &mut state)?;
    give_spare_back(process, &mut state, device)
}

/// Gives back all that a device has for graphs, whoever uses it: what was allocated is no more.
pub(crate) fn reset(process: &Process, state: &mut State, device: usize) -> Answer {
    let of_device = state.graph_allocs.iter();
    let of_device = of_device.filter(|(_, alloc)| alloc.device == device && !alloc.home.is_host());
    let of_device: Vec<_> = of_device.map(|(key, _)| key).collect();
    for key in of_device {
        let alloc = get(state, key)?;
        alloc.is_live = false;
        alloc.uses.clear();
        release(state, key)?;
    }
    sweep(process, state)?;
    give_spare_back(process, state, device)
}

fn give_spare_back(process: &Process, state: &mut State, device: usize) -> Answer {
    let pool = pool(state, device)?;
    while let Some(block) = pool.spare.pop() {
        pool.reserved.subtract(block.bytes);
        process.machine.free(block.id).map_err(refused)?;
    }
    Ok(())
}

/// `cuDeviceGetGraphMemAttribute`, in bytes.
pub(crate) fn attribute(
    process: &Process,
    device: usize,
    attribute: CUgraphMem_attribute,
) -> Answer<u64> {
    let mut state = process.lock();
    sweep(process, &mut state)?;
    let pool = pool(&mut state, device)?;
    match attribute {
        CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT => Ok(pool.used.current),
        CU_GRAPH_MEM_ATTR_USED_MEM_HIGH => Ok(pool.used.high),
        CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT => Ok(pool.reserved.current),
        CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH => Ok(pool.reserved.high),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// `cuDeviceSetGraphMemAttribute`: a high-water mark to 0, which makes it what there is.
pub(crate) fn reset_high(
    process: &Process,
    device: usize,
    attribute: CUgraphMem_attribute,
) -> Answer {
    let mut state = process.lock();
    let pool = pool(&mut state, device)?;
    match attribute {
        CU_GRAPH_MEM_ATTR_USED_MEM_HIGH => pool.used.high = pool.used.current,
        CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH => pool.reserved.high = pool.reserved.current,
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    }
    Ok(())
}
