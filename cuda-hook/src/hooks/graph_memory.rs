//! Memory that graphs allocate by nodes of their own: taken when a graph is launched or uploaded, kept for its next launches and
//! for other graphs, and given back by `cuDeviceGraphMemTrim`. It is charged for what a device reserves for graphs.
//!
//! CUDA C++ Programming Guide, "Graph Memory Nodes": an allocation's addresses are fixed with its node, allocations that are
//! never there at the same time may have the same, and pages are backed when the graph is launched. So what a graph can take
//! is read off its nodes when it is instantiated; graphs without such nodes cost one look-up at a launch.
#![expect(
    unsafe_code,
    reason = "reads the caller's parameters and what the driver has written"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cuda_sys_stubs::abi::*;
use limiter::ledger::OverQuota;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use crate::driver::GraphAllocation;
use crate::entry::Cx;
use crate::hooks::{launch, pool};
use crate::reservation::{Activity, Growth, Reservation};

/// Device memory is backed in pages of this size.
const PAGE_BYTES: u64 = 2 << 20;

/// What this process's graphs have taken.
#[derive(Default)]
pub(crate) struct GraphMemory {
    /// By the device's index, from the first graph on that allocates there.
    reservations: Mutex<HashMap<usize, Arc<Reservation>>>,
    /// A graph allocates, or will: before, nobody has to look.
    any: AtomicBool,
    /// The executable graphs that allocate, by handle.
    execs: RwLock<FxHashMap<usize, Arc<Exec>>>,
}

/// An executable graph that allocates.
struct Exec {
    /// Bytes of the pages that its allocations lie in, by the device's index.
    page_bytes: HashMap<usize, u64>,
    /// Whether it was launched or uploaded, and has kept its memory since.
    is_backed: AtomicBool,
}

/// Bytes of the pages that ranges of addresses (start, bytes) lie in.
fn page_bytes(ranges: impl IntoIterator<Item = (u64, u64)>) -> u64 {
    let pages = |(start, bytes): (u64, u64)| {
        let end = start.saturating_add(bytes).div_ceil(PAGE_BYTES);
        (start / PAGE_BYTES, end)
    };
    let mut ranges: Vec<_> = ranges.into_iter().map(pages).collect();
    ranges.sort_unstable();
    let (count, _) = ranges
        .into_iter()
        .fold((0_u64, 0_u64), |(count, seen), (first, end)| {
            let new = end.saturating_sub(first.max(seen));
            (count.saturating_add(new), seen.max(end))
        });
    count.saturating_mul(PAGE_BYTES)
}

impl Exec {
    /// What a graph of these allocations can take; `None` if it takes nothing on a device with limits.
    fn new(cx: Cx, allocations: &[GraphAllocation]) -> Option<Self> {
        let mut ranges: HashMap<usize, Vec<(u64, u64)>> = HashMap::new();
        for allocation in allocations {
            let index = pool::charged_index(cx, allocation.location, allocation.kind);
            if let Some(index) = index {
                let of_device = ranges.entry(index).or_default();
                of_device.push((allocation.start, allocation.bytes));
            }
        }
        let page_bytes: HashMap<_, _> = ranges
            .into_iter()
            .map(|(index, ranges)| (index, page_bytes(ranges)))
            .collect();
        (!page_bytes.is_empty()).then(|| Self {
            page_bytes,
            is_backed: AtomicBool::new(false),
        })
    }
}

impl GraphMemory {
    /// Whether any graph ever allocated. Said before anything is charged for it.
    #[inline]
    pub(crate) fn is_any_known(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    fn reservation(&self, device_index: usize) -> Arc<Reservation> {
        self.any.store(true, Ordering::Relaxed);
        let mut reservations = self.reservations.lock();
        let reservation = reservations.entry(device_index);
        Arc::clone(reservation.or_insert_with(|| Arc::new(Reservation::new(device_index))))
    }

    fn held_on(&self, device_index: usize) -> Option<Arc<Reservation>> {
        let reservation = self.reservations.lock().get(&device_index).cloned();
        reservation.filter(|reservation| reservation.is_held())
    }

    /// Where no graph ever allocated nobody is kept out for a look: whoever has a handle was given it after [`put`](Self::put).
    fn find(&self, exec: CUgraphExec) -> Option<Arc<Exec>> {
        if !self.is_any_known() {
            return None;
        }
        self.execs.read().get(&exec.addr()).cloned()
    }

    /// Writes down what an executable graph can take; `None`: nothing, whatever had its handle before.
    fn put(&self, handle: CUgraphExec, exec: Option<Arc<Exec>>) {
        match exec {
            Some(exec) => {
                self.any.store(true, Ordering::Relaxed);
                drop(self.execs.write().insert(handle.addr(), exec));
            }
            None if self.find(handle).is_some() => drop(self.execs.write().remove(&handle.addr())),
            None => {}
        }
    }

    /// Minds that a device has given memory of graphs back: if what is left is not all that its graphs can take, none is taken
    /// to have kept its own.
    fn trimmed(&self, device_index: usize, reserved: u64) {
        let execs = self.execs.read();
        let of_device = || {
            execs
                .values()
                .filter(|exec| exec.page_bytes.contains_key(&device_index))
        };
        let backed = of_device().filter(|exec| exec.is_backed.load(Ordering::Relaxed));
        let kept = backed
            .filter_map(|exec| exec.page_bytes.get(&device_index))
            .copied();
        if kept.fold(0, u64::saturating_add) > reserved {
            of_device().for_each(|exec| exec.is_backed.store(false, Ordering::Relaxed));
        }
    }
}

/// After a call that `came` bytes were charged for.
fn settle(cx: Cx, reservation: &Reservation, came: u64) {
    let device = cx.attachment.device(reservation.device_index());
    reservation.settle(cx, came, Growth::AsItIs, || {
        Some(cx.driver.graph_memory(device?).ok()?.reserved)
    });
}

/// Asks the driver again what a device reserves for graphs; whether this process was charged for any.
pub(crate) fn refresh(cx: Cx, device_index: usize) -> bool {
    let held = cx.attachment.graph_memory.held_on(device_index);
    held.inspect(|reservation| settle(cx, reservation, 0))
        .is_some()
}

/// What is going on at the memory of graphs on a device.
pub(crate) fn activity(cx: Cx, device_index: usize) -> Activity {
    let held = cx.attachment.graph_memory.held_on(device_index);
    held.map_or(Activity::default(), |reservation| reservation.activity())
}

/// Has the driver give back what a device keeps for graphs and nobody uses; whether this process was charged for any.
pub(crate) fn trim_all(cx: Cx, device_index: usize) -> bool {
    let (Some(reservation), Some(device)) = (
        cx.attachment.graph_memory.held_on(device_index),
        cx.attachment.device(device_index),
    ) else {
        return false;
    };
    if let Err(status) = cx.driver.trim_graph_memory(device) {
        tracing::warn!(status, "memory of graphs is not trimmed");
    }
    trimmed(cx, &reservation, device);
    true
}

fn trimmed(cx: Cx, reservation: &Reservation, device: CUdevice) {
    settle(cx, reservation, 0);
    if let Ok(memory) = cx.driver.graph_memory(device) {
        let device_index = reservation.device_index();
        cx.attachment
            .graph_memory
            .trimmed(device_index, memory.reserved);
    }
}

/// Charges the most that giving a graph its memory can add, on each device; what was charged.
fn expect(cx: Cx, exec: &Exec) -> Result<Vec<(Arc<Reservation>, u64)>, OverQuota> {
    let mut expected = Vec::new();
    if exec.is_backed.load(Ordering::Relaxed) {
        return Ok(expected);
    }
    for (&device_index, &page_bytes) in &exec.page_bytes {
        let device = cx.attachment.device(device_index);
        let memory = device.and_then(|device| cx.driver.graph_memory(device).ok());
        let more = page_bytes.saturating_sub(memory.map_or(0, |memory| memory.spare()));
        let reservation = cx.attachment.graph_memory.reservation(device_index);
        if let Err(refusal) = reservation.expect(cx, more) {
            came(cx, expected);
            return Err(refusal);
        }
        expected.push((reservation, more));
    }
    Ok(expected)
}

fn came(cx: Cx, expected: Vec<(Arc<Reservation>, u64)>) {
    for (reservation, bytes) in expected {
        settle(cx, &reservation, bytes);
    }
}

/// Calls what gives a graph its memory, if that fits.
fn backed(cx: Cx, exec: &Exec, call: impl FnOnce() -> CUresult) -> CUresult {
    let Ok(expected) = expect(cx, exec) else {
        return CUDA_ERROR_OUT_OF_MEMORY;
    };
    let status = call();
    if status == CUDA_SUCCESS {
        exec.is_backed.store(true, Ordering::Relaxed);
    }
    came(cx, expected);
    status
}

/// `cuGraphInstantiate` and its like. With the flag for it, the graph gets its memory at once.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn instantiate(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: *mut CUgraphExec,
    graph: CUgraph,
    flags: u64,
) -> CUresult {
    let allocations = cx.driver.graph_allocations(graph).unwrap_or_default();
    let exec = Exec::new(cx, &allocations).map(Arc::new);
    let uploads = flags & u64::from(CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0;
    let status = match &exec {
        Some(exec) if uploads => backed(cx, exec, call),
        _ => call(),
    };
    if status == CUDA_SUCCESS {
        // SAFETY: the driver's promise: after success it has written there.
        cx.attachment
            .graph_memory
            .put(unsafe { handle.read() }, exec);
    }
    status
}

/// `cuGraphInstantiateWithParams`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn instantiate_with(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: *mut CUgraphExec,
    graph: CUgraph,
    params: *const CUDA_GRAPH_INSTANTIATE_PARAMS,
) -> CUresult {
    // SAFETY: the caller's promise: null or its parameters.
    let flags = unsafe { params.as_ref() }.map_or(0, |params| params.flags);
    // SAFETY: as of this hook.
    unsafe { instantiate(cx, call, handle, graph, flags) }
}

/// `cuGraphExecUpdate`: nodes stay of their kinds, so that only a graph that allocates can go on doing so.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn update(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: CUgraphExec,
    graph: CUgraph,
) -> CUresult {
    let memory = &cx.attachment.graph_memory;
    let status = call();
    if status == CUDA_SUCCESS && memory.find(handle).is_some() {
        let allocations = cx.driver.graph_allocations(graph).unwrap_or_default();
        memory.put(handle, Exec::new(cx, &allocations).map(Arc::new));
    }
    status
}

/// `cuGraphUpload`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn upload(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    exec: CUgraphExec,
) -> CUresult {
    match cx.attachment.graph_memory.find(exec) {
        Some(exec) => backed(cx, &exec, call),
        None => call(),
    }
}

/// `cuGraphLaunch`. One that is recorded takes no memory.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn launch(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: CUgraphExec,
    stream: CUstream,
) -> CUresult {
    let exec = cx.attachment.graph_memory.find(handle);
    let exec = exec.filter(|_| cx.driver.is_capturing(stream) != Ok(true));
    let call = || match exec {
        Some(exec) => {
            // By its effect alone, a launch is not counted as moving memory.
            let _under_way = cx.attachment.quiet.begin_part();
            backed(cx, &exec, call)
        }
        None => call(),
    };
    // SAFETY: as of this hook.
    unsafe { launch::graph(cx, call, handle, stream) }
}

/// `cuGraphExecDestroy`: what it has taken goes to the device's other graphs.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn destroy(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    handle: CUgraphExec,
) -> CUresult {
    let memory = &cx.attachment.graph_memory;
    let taken = memory.find(handle);
    if taken.is_none() {
        return call();
    }
    memory.put(handle, None);
    let status = call();
    if status != CUDA_SUCCESS {
        memory.put(handle, taken);
    }
    status
}

/// `cuDeviceGraphMemTrim`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn trim(cx: Cx, call: impl FnOnce() -> CUresult, device: CUdevice) -> CUresult {
    let status = call();
    let device_index = cx.attachment.device_index(device);
    let held = device_index.and_then(|index| cx.attachment.graph_memory.held_on(index));
    if let Some(reservation) = held {
        trimmed(cx, &reservation, device);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = PAGE_BYTES;

    #[test]
    fn allocations_take_the_pages_that_they_lie_in() {
        assert_eq!(page_bytes([]), 0);
        assert_eq!(page_bytes([(4 * PAGE, 1)]), PAGE);
        assert_eq!(
            page_bytes([(4 * PAGE, PAGE + 1), (8 * PAGE, PAGE)]),
            3 * PAGE
        );
    }

    #[test]
    fn allocations_at_the_same_addresses_take_them_once() {
        assert_eq!(page_bytes([(8, 8), (16, 8), (8, 8)]), PAGE);
        assert_eq!(
            page_bytes([(0, 8 * PAGE), (PAGE, PAGE), (6 * PAGE, 4 * PAGE)]),
            10 * PAGE
        );
    }

    #[test]
    fn an_absurd_range_does_not_wrap() {
        assert!(page_bytes([(PAGE, u64::MAX)]) >= 1 << 63);
    }

    fn exec(bytes: u64) -> Arc<Exec> {
        Arc::new(Exec {
            page_bytes: HashMap::from([(0, bytes)]),
            is_backed: AtomicBool::new(true),
        })
    }

    #[test]
    fn a_graph_that_allocates_is_known_before_it_has_taken_anything() {
        let (memory, handle) = (GraphMemory::default(), std::ptr::without_provenance_mut(8));
        assert!(memory.find(handle).is_none() && !memory.is_any_known());
        memory.put(handle, Some(exec(10)));
        assert!(memory.find(handle).is_some());
        memory.put(handle, None);
        assert!(memory.find(handle).is_none());
    }

    #[test]
    fn a_graph_counts_as_having_its_memory_until_a_trim_may_have_taken_it() {
        let memory = GraphMemory::default();
        let (first, second) = (exec(10), exec(20));
        memory.put(
            std::ptr::without_provenance_mut(8),
            Some(Arc::clone(&first)),
        );
        memory.put(
            std::ptr::without_provenance_mut(16),
            Some(Arc::clone(&second)),
        );
        memory.trimmed(0, 30);
        assert!(
            first.is_backed.load(Ordering::Relaxed),
            "all is still there"
        );
        memory.trimmed(1, 0);
        assert!(first.is_backed.load(Ordering::Relaxed), "another device");
        memory.trimmed(0, 29);
        assert!(!first.is_backed.load(Ordering::Relaxed));
        assert!(!second.is_backed.load(Ordering::Relaxed));
    }
}
