//! Memory pools, in stream order. A pool is charged for what it reserves, not for the blocks that are out of it.
//!
//! The bytes that a pool has none left for are charged before an allocation, what it then reserves settles the charge. Freed memory
//! goes back when its stream has come that far, and from the pool to the device when it is trimmed or the program waits for
//! something: a pool is asked again at each call that concerns it, and whenever memory runs short or is reported.
//! A pool that another process exports is that process's, and so are its blocks.
#![expect(
    unsafe_code,
    reason = "reads what the driver has written to the caller's out-pointers"
)]

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cuda_sys_stubs::abi::*;
use limiter::ledger::{OverQuota, Residence};
use limiter::units::Bytes;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::entry::Cx;
use crate::hooks::memory;
use crate::live::{Block, Key};
use crate::reservation::{Activity, Growth, Reservation};

/// The pools that this process has taken memory from or made, on devices.
#[derive(Default)]
pub(crate) struct Pools {
    state: Mutex<State>,
    /// How many blocks are out. While none is, a free costs no lock.
    out: AtomicUsize,
    /// One was known, ever: before, nobody has to look.
    any: AtomicBool,
}

#[derive(Default)]
struct State {
    /// By handle. A destroyed pool is not among them, and its handle may be another's.
    pools: FxHashMap<usize, Arc<Pool>>,
    /// The blocks that are out.
    blocks: FxHashMap<CUdeviceptr, Out>,
    /// How many were ever handed out.
    handed_out: u64,
    /// By the device's index, all bytes of blocks of no pool that were freed in the order of a stream.
    freed_in_order: FxHashMap<usize, Bytes>,
}

/// A block that is out of a pool.
#[derive(Clone)]
struct Out {
    pool: Arc<Pool>,
    /// No other block has it that ever was at the same address.
    number: u64,
}

/// A pool on a device.
struct Pool {
    /// As a number: no pointer of ours leads there.
    handle: usize,
    /// The driver's own, which cannot be destroyed.
    is_default: bool,
    reservation: Reservation,
    /// A block was freed in the order of a stream, and no stream was waited for since.
    is_freeing: AtomicBool,
    /// Its handle means nothing any more; it ends with the last block that is out of it.
    is_destroyed: AtomicBool,
}

/// A pool, and the blocks that are out of it, with their numbers.
type PoolOut = (Arc<Pool>, Vec<(CUdeviceptr, u64)>);

impl State {
    /// The pools on a device that blocks are out of.
    fn out_on(&self, device_index: usize) -> Vec<PoolOut> {
        let mut out: FxHashMap<*const Pool, PoolOut> = FxHashMap::default();
        for (&block, Out { pool, number }) in &self.blocks {
            if pool.reservation.device_index() == device_index {
                let of_pool = out.entry(Arc::as_ptr(pool));
                let (_, blocks) = of_pool.or_insert_with(|| (Arc::clone(pool), Vec::new()));
                blocks.push((block, *number));
            }
        }
        out.into_values().collect()
    }

    fn is_out(&self, pool: &Arc<Pool>) -> bool {
        self.blocks.values().any(|out| Arc::ptr_eq(&out.pool, pool))
    }
}

impl Pool {
    fn new(handle: CUmemoryPool, device_index: usize, is_default: bool) -> Arc<Self> {
        Arc::new(Self {
            handle: handle.addr(),
            is_default,
            reservation: Reservation::new(device_index),
            is_freeing: AtomicBool::new(false),
            is_destroyed: AtomicBool::new(false),
        })
    }

    fn handle(&self) -> CUmemoryPool {
        ptr::without_provenance_mut(self.handle)
    }

    /// After a call that `came` bytes were charged for.
    fn settle(&self, cx: Cx, came: u64, growth: Growth) -> bool {
        self.reservation.settle(cx, came, growth, || {
            let is_destroyed = self.is_destroyed.load(Ordering::Acquire);
            let memory = (!is_destroyed).then(|| cx.driver.pool_memory(self.handle()));
            Some(memory?.ok()?.reserved)
        })
    }

    /// Which of the blocks that were out of the pool the driver has freed unasked. A pool that is there is asked once: of these it has all
    /// or none.
    fn lost(&self, cx: Cx, blocks: Vec<(CUdeviceptr, u64)>) -> Vec<(CUdeviceptr, u64)> {
        if self.is_destroyed.load(Ordering::Acquire) {
            let is_lost =
                |(block, _): &(CUdeviceptr, u64)| cx.driver.block_at(*block) != Ok(*block);
            return blocks.into_iter().filter(is_lost).collect();
        }
        let memory = cx.driver.pool_memory(self.handle());
        let is_empty = memory.is_ok_and(|memory| memory.used == 0);
        if is_empty { blocks } else { Vec::new() }
    }

    /// Asks the driver again.
    fn refresh(&self, cx: Cx) {
        self.settle(cx, 0, Growth::AsItIs);
    }

    /// Has the driver give back what nobody uses.
    fn trim(&self, cx: Cx) {
        if !self.is_destroyed.load(Ordering::Acquire) {
            if let Err(status) = cx.driver.trim_pool(self.handle()) {
                tracing::warn!(status, "a pool is not trimmed");
            }
            self.refresh(cx);
        }
    }

    /// Charges the least that a block of `bytes` adds to what is reserved; that many bytes.
    fn expect(&self, cx: Cx, bytes: u64) -> Result<u64, OverQuota> {
        let spare = cx.driver.pool_memory(self.handle());
        let more = bytes.saturating_sub(spare.map_or(0, |memory| memory.spare()));
        self.reservation.expect(cx, more).map(|()| more)
    }

    /// The same after the stream, if something was freed that its work may not have come to yet.
    fn expect_on(&self, cx: Cx, bytes: u64, stream: CUstream) -> Result<u64, OverQuota> {
        self.expect(cx, bytes).or_else(|refusal| {
            if !self.is_freeing.swap(false, Ordering::Relaxed)
                || cx.driver.wait_for(stream).is_err()
            {
                return Err(refusal);
            }
            self.expect(cx, bytes)
        })
    }
}

/// The device that memory at `location` takes room on; `None` for host memory.
pub(crate) fn device_of(location: CUmemLocation) -> Option<CUdevice> {
    match location.type_ {
        CU_MEM_LOCATION_TYPE_DEVICE => Some(location.id),
        // The device stands in the low byte, the locality domain above.
        CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN => Some(location.id & 0xff),
        _ => None,
    }
}

fn index_of(cx: Cx, location: CUmemLocation) -> Option<usize> {
    cx.attachment.device_index(device_of(location)?)
}

/// Whether the call only records a graph node, which takes or gives back memory when the graph is launched.
fn is_recorded(cx: Cx, stream: CUstream) -> bool {
    cx.driver.is_capturing(stream).unwrap_or(false)
}

/// The device whose quota memory of a pool or a graph counts against. Managed memory that lies nowhere, or on the host at first, counts where the program
/// is, as that of `cuMemAllocManaged` does.
pub(crate) fn charged_index(
    cx: Cx,
    location: CUmemLocation,
    kind: CUmemAllocationType,
) -> Option<usize> {
    index_of(cx, location).or_else(|| {
        let is_managed = kind == CU_MEM_ALLOCATION_TYPE_MANAGED;
        let current = is_managed.then(|| cx.driver.current_device().ok())??;
        cx.attachment.device_index(current)
    })
}

/// The device whose quota a pool counts against that the program has not made: one of the driver's own. `None`: none, another
/// process's, or no pool at all.
fn charged_index_of_default(cx: Cx, handle: CUmemoryPool) -> Option<usize> {
    // Drivers before CUDA 13 do not tell; and managed memory may lie nowhere, or on the host.
    let devices = cx
        .attachment
        .devices()
        .map(|id| (CU_MEM_LOCATION_TYPE_DEVICE, id));
    let elsewhere = [CU_MEM_LOCATION_TYPE_NONE, CU_MEM_LOCATION_TYPE_HOST].map(|type_| (type_, 0));
    let any = devices
        .chain(elsewhere)
        .map(|(type_, id)| CUmemLocation { type_, id });
    let locations = cx.driver.pool_location(handle).into_iter().chain(any);
    let kinds = [
        CU_MEM_ALLOCATION_TYPE_PINNED,
        CU_MEM_ALLOCATION_TYPE_MANAGED,
    ];
    let mut each = locations.flat_map(|location| kinds.map(|kind| (location, kind)));
    let (location, kind) =
        each.find(|(location, kind)| cx.driver.default_pool(*location, *kind) == Ok(handle))?;
    charged_index(cx, location, kind)
}

/// The pool behind a handle, if this process is to be charged for it.
fn find(cx: Cx, handle: CUmemoryPool) -> Option<Arc<Pool>> {
    let pools = &cx.attachment.pools.state;
    if let Some(known) = pools.lock().pools.get(&handle.addr()) {
        return Some(Arc::clone(known));
    }
    let device_index = charged_index_of_default(cx, handle)?;
    cx.attachment.pools.any.store(true, Ordering::Relaxed);
    let mut state = pools.lock();
    let known = state.pools.entry(handle.addr());
    Some(Arc::clone(
        known.or_insert_with(|| Pool::new(handle, device_index, true)),
    ))
}

/// The pools on a device that this process is charged for.
fn held_on(cx: Cx, device_index: usize) -> Vec<Arc<Pool>> {
    let state = cx.attachment.pools.state.lock();
    let pools = state.pools.values();
    pools
        .filter(|pool| {
            pool.reservation.device_index() == device_index && pool.reservation.is_held()
        })
        .cloned()
        .collect()
}

/// Asks the driver again what the pools on a device reserve; whether this process was charged for any.
pub(crate) fn refresh(cx: Cx, device_index: usize) -> bool {
    let held = held_on(cx, device_index);
    for pool in &held {
        pool.refresh(cx);
    }
    !held.is_empty()
}

/// What is going on at the pools on a device.
pub(crate) fn activity(cx: Cx, device_index: usize) -> Activity {
    let state = cx.attachment.pools.state.lock();
    let pools = state.pools.values().map(|pool| &pool.reservation);
    pools
        .filter(|reservation| reservation.device_index() == device_index)
        .map(Reservation::activity)
        .fold(Activity::default(), Activity::and)
}

/// Has the driver give back what pools on a device keep and nobody uses; whether this process was charged for any.
pub(crate) fn trim_all(cx: Cx, device_index: usize) -> bool {
    let held = held_on(cx, device_index);
    for pool in &held {
        pool.trim(cx);
    }
    !held.is_empty()
}

/// `cuMemAllocAsync`: from the current pool of the stream's device.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn alloc(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    let device = cx.driver.stream_device(stream);
    let Ok(pool) = device.and_then(|device| cx.driver.current_pool(device)) else {
        return call();
    };
    // SAFETY: as of this hook.
    unsafe { alloc_from(cx, call, dptr, bytes, pool, stream) }
}

/// `cuMemAllocFromPoolAsync`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn alloc_from(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> CUresult {
    if is_recorded(cx, stream) {
        return call();
    }
    let Some(pool) = find(cx, pool) else {
        return call();
    };
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let Ok(expected) = pool.expect_on(cx, bytes, stream) else {
        return CUDA_ERROR_OUT_OF_MEMORY;
    };
    let status = call();
    // SAFETY: the driver's promise: after success it has written there.
    let block = (status == CUDA_SUCCESS).then(|| unsafe { dptr.read() });
    if let Some(block) = block {
        cx.attachment.pools.put_block(block, &pool);
    }
    match block {
        Some(block) if !pool.settle(cx, expected, Growth::IfItFits) => {
            undo(cx, &pool, block, stream)
        }
        Some(_) => status,
        None => {
            pool.settle(cx, expected, Growth::AsItIs);
            status
        }
    }
}

/// Gives a block back that turned out not to fit.
fn undo(cx: Cx, pool: &Pool, block: CUdeviceptr, stream: CUstream) -> CUresult {
    let status = freed(cx, block, || cx.driver.free_in_order(block, stream));
    if status != CUDA_SUCCESS {
        return status;
    }
    if let Err(status) = cx.driver.wait_for(stream) {
        tracing::warn!(status, "a block that does not fit is not given back yet");
    }
    pool.trim(cx);
    CUDA_ERROR_OUT_OF_MEMORY
}

impl Pools {
    /// Whether one was ever known. Said before anything is charged for it.
    #[inline]
    pub(crate) fn is_any_known(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    fn put_block(&self, block: CUdeviceptr, pool: &Arc<Pool>) {
        let mut state = self.state.lock();
        state.handed_out = state.handed_out.wrapping_add(1);
        let out = Out {
            pool: Arc::clone(pool),
            number: state.handed_out,
        };
        state.blocks.insert(block, out);
        self.out.store(state.blocks.len(), Ordering::Relaxed);
    }

    /// All bytes of blocks of no pool, on the device of that index, that were freed in the order of a stream: off the books at
    /// once, and off the device when its stream has come that far.
    pub(crate) fn freed_in_order(&self, device_index: usize) -> Bytes {
        let state = self.state.lock();
        let freed = state.freed_in_order.get(&device_index);
        freed.copied().unwrap_or_default()
    }

    fn add_freed_in_order(&self, block: Block) {
        let mut state = self.state.lock();
        let freed = state.freed_in_order.entry(block.device_index);
        let freed = freed.or_default();
        *freed = Bytes::new(freed.get().wrapping_add(block.bytes.get()));
    }

    /// A destroyed pool ends with the last block that was out of it, and the last that something else keeps.
    fn end_if_last(&self, cx: Cx, pool: &Arc<Pool>) {
        let is_held = || pool.reservation.is_kept() || self.state.lock().is_out(pool);
        if pool.is_destroyed.load(Ordering::Acquire) && !is_held() {
            pool.reservation.end(cx);
        }
    }

    #[inline]
    fn find_block(&self, block: CUdeviceptr) -> Option<Out> {
        // Whoever frees a block of a pool was handed it after it was counted.
        let any = self.out.load(Ordering::Relaxed) > 0;
        any.then(|| self.find_out(block)).flatten()
    }

    #[inline(never)]
    fn find_out(&self, block: CUdeviceptr) -> Option<Out> {
        self.state.lock().blocks.get(&block).cloned()
    }

    /// The block is out no more. What another thread was given at its address meanwhile, is.
    fn take_block(&self, block: CUdeviceptr, number: u64) {
        let mut state = self.state.lock();
        if state
            .blocks
            .get(&block)
            .is_some_and(|out| out.number == number)
        {
            state.blocks.remove(&block);
            self.out.store(state.blocks.len(), Ordering::Relaxed);
        }
    }
}

/// A pool of which something else keeps memory, whatever the pool gives back to the driver.
#[derive(Clone)]
pub(crate) struct Kept(Arc<Pool>);

/// Has all of a pool stay charged, if what lies at an address is out of one, until [`Kept::let_go`].
pub(crate) fn keep(cx: Cx, address: CUdeviceptr) -> Option<Kept> {
    let pools = &cx.attachment.pools;
    let out = pools.is_any_known().then(|| cx.driver.block_at(address));
    let Out { pool, .. } = pools.find_block(out?.ok()?)?;
    pool.reservation.keep();
    pool.refresh(cx);
    Some(Kept(pool))
}

impl Kept {
    /// The device that holds it, in the ledger's order.
    pub(crate) fn device_index(&self) -> usize {
        self.0.reservation.device_index()
    }

    /// It is kept once less.
    pub(crate) fn let_go(self, cx: Cx) {
        let Self(pool) = self;
        pool.reservation.let_go();
        pool.refresh(cx);
        cx.attachment.pools.end_if_last(cx, &pool);
    }
}

/// Frees linear memory, of a pool or not, by `call`.
#[inline]
pub(crate) fn freed(cx: Cx, block: CUdeviceptr, call: impl FnOnce() -> CUresult) -> CUresult {
    match cx.attachment.pools.find_block(block) {
        Some(out) => freed_of_pool(cx, block, out, call),
        None => memory::uncharged(cx, Key::Pointer(block), call),
    }
}

#[inline(never)]
fn freed_of_pool(
    cx: Cx,
    block: CUdeviceptr,
    Out { pool, number }: Out,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let pools = &cx.attachment.pools;
    let status = call();
    if status != CUDA_SUCCESS {
        return status;
    }
    pools.take_block(block, number);
    pool.is_freeing.store(true, Ordering::Relaxed);
    if !pool.is_destroyed.load(Ordering::Acquire) {
        pool.refresh(cx);
    }
    pools.end_if_last(cx, &pool);
    status
}

/// `cuMemFreeAsync`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn free(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    dptr: CUdeviceptr,
    stream: CUstream,
) -> CUresult {
    if is_recorded(cx, stream) {
        return call();
    }
    let of_no_pool = cx.attachment.live.find(Key::Pointer(dptr));
    let status = freed(cx, dptr, call);
    // What lies on the host was never on the device.
    let of_device = of_no_pool.filter(|record| record.block.residence == Residence::Device);
    if let Some(record) = of_device.filter(|_| status == CUDA_SUCCESS) {
        cx.attachment.pools.add_freed_in_order(record.block);
    }
    status
}

/// `cuMemPoolCreate`. Managed memory that has no device counts on the current one, as that of `cuMemAllocManaged` does.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn create(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    pool: *mut CUmemoryPool,
    properties: *const CUmemPoolProps,
) -> CUresult {
    let status = call();
    if status != CUDA_SUCCESS {
        return status;
    }
    // SAFETY: the driver's promise: after success both are what it has written and read.
    let (pool, properties) = unsafe { (pool.read(), &*properties) };
    if let Some(device_index) = charged_index(cx, properties.location, properties.allocType) {
        let made = Pool::new(pool, device_index, false);
        let pools = &cx.attachment.pools;
        pools.any.store(true, Ordering::Relaxed);
        pools.state.lock().pools.insert(pool.addr(), made);
    }
    status
}

/// `cuMemPoolDestroy`. What is out of the pool, the driver can no longer be asked: all that it takes stays charged until the last
/// block is freed.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn destroy(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: CUmemoryPool,
) -> CUresult {
    let pools = &cx.attachment.pools.state;
    let known = pools.lock().pools.get(&handle.addr()).cloned();
    let Some(pool) = known.filter(|pool| !pool.is_default) else {
        return call();
    };
    pools.lock().pools.remove(&handle.addr());
    pool.trim(cx);
    pool.is_destroyed.store(true, Ordering::Release);
    let status = call();
    if status != CUDA_SUCCESS {
        pool.is_destroyed.store(false, Ordering::Release);
        pools.lock().pools.insert(handle.addr(), pool);
    } else {
        cx.attachment.pools.end_if_last(cx, &pool);
    }
    status
}

/// `cuMemPoolTrimTo`, and `cuMemPoolSetAttribute`, whose release threshold is what the driver keeps.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn shrink(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: CUmemoryPool,
) -> CUresult {
    let status = call();
    let known = cx
        .attachment
        .pools
        .state
        .lock()
        .pools
        .get(&handle.addr())
        .cloned();
    if let Some(pool) = known {
        pool.refresh(cx);
    }
    status
}

/// The end of a device's primary context, which frees what is out of the device's pools, or does not: the driver is asked. A block
/// that it has freed so is out no more, and what comes to lie at its address is not the pool's.
pub(crate) fn primary_ended(cx: Cx, device_index: usize) {
    let pools = &cx.attachment.pools;
    let out = pools.state.lock().out_on(device_index); // unlocked before the driver is asked
    for (pool, blocks) in out {
        for (block, number) in pool.lost(cx, blocks) {
            pools.take_block(block, number);
        }
        pools.end_if_last(cx, &pool);
    }
    refresh(cx, device_index);
}
