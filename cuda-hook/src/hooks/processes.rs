//! Who uses a GPU, as NVML tells it: the container's own processes, with what its ledger says that they hold.
//!
//! NVML lists the whole board's processes, and asks for room for all of them. So the real function fills an array of ours, and the
//! caller's gets what is the container's, by the call's own rule for arrays: the count is set to how many there are, and if they
//! do not fit that is all. NVML may know a container's processes by other numbers than the container does: whom it
//! does not list by the ledger's number is told as the ledger has it.
#![expect(
    unsafe_code,
    reason = "calls NVML with arrays of ours, and fills the caller's"
)]

use std::ffi::c_uint;

use cuda_sys_stubs::nvml_abi::*;
use limiter::units::Bytes;

use crate::driver::Nvml;
use crate::entry::{Api, Bare, Management};
use crate::runtime::{Limited, ProcessUse, Stance};
use crate::table::NvmlRows;

/// Rows of one list that there is room for: more than there can be contexts on a GPU.
const ROWS_MAX: c_uint = 4096;

/// A row of one of NVML's lists.
pub(crate) trait Row: Copy {
    /// A row with nothing in it.
    const EMPTY: Self;
    /// Whom it is about.
    fn pid(&self) -> u32;
}

/// A row that says how much memory a process holds.
pub(crate) trait MemoryRow: Row {
    /// Says it.
    fn show(&mut self, process: ProcessUse);
}

macro_rules! rows {
    ($($record:ident { $($field:ident: $empty:expr),* };)*) => { $(
        impl Row for $record {
            const EMPTY: Self = Self { pid: 0, $($field: $empty),* };

            fn pid(&self) -> u32 {
                self.pid
            }
        }
    )* };
}

macro_rules! memory_rows {
    ($($record:ident)*) => { $(
        impl MemoryRow for $record {
            fn show(&mut self, process: ProcessUse) {
                self.pid = process.pid;
                self.usedGpuMemory = process.memory.get();
            }
        }
    )* };
}

/// nvml.h, `nvmlProcessInfo_t`: the instance ids of a process on a GPU without MIG.
const NO_INSTANCE: c_uint = c_uint::MAX;

rows! {
    nvmlProcessInfo_v1_t { usedGpuMemory: 0 };
    nvmlProcessInfo_v2_t { usedGpuMemory: 0, gpuInstanceId: NO_INSTANCE, computeInstanceId: NO_INSTANCE };
    nvmlProcessDetail_v1_t { usedGpuMemory: 0, gpuInstanceId: NO_INSTANCE, computeInstanceId: NO_INSTANCE, usedGpuCcProtectedMemory: 0 };
    nvmlProcessUtilizationSample_t { timeStamp: 0, smUtil: 0, memUtil: 0, encUtil: 0, decUtil: 0 };
    nvmlProcessUtilizationInfo_v1_t { timeStamp: 0, smUtil: 0, memUtil: 0, encUtil: 0, decUtil: 0, jpgUtil: 0, ofaUtil: 0 };
}

memory_rows! { nvmlProcessInfo_v1_t nvmlProcessInfo_v2_t nvmlProcessDetail_v1_t }

impl Row for c_uint {
    const EMPTY: Self = 0;

    fn pid(&self) -> u32 {
        *self
    }
}

/// A function that fills an array of rows.
type List<R> = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint, *mut R) -> nvmlReturn_t;

/// The rows that the container may see of `listed`: those about its own processes.
pub(super) fn own_rows<R: Row>(listed: &[R], own: &[ProcessUse]) -> Vec<R> {
    let is_own = |row: &&R| own.iter().any(|process| process.pid == row.pid());
    listed.iter().filter(is_own).copied().collect()
}

/// The container's processes that hold memory, or have a context: listed ones keep what else NVML says of them.
fn holders<R: MemoryRow>(listed: &[R], own: &[ProcessUse], has_quota: bool) -> Vec<R> {
    let row_of = |process: &ProcessUse| {
        let row = listed.iter().find(|row| row.pid() == process.pid).copied();
        // Without a quota contexts are not charged, and NVML knows better.
        let told = row.filter(|_| !has_quota);
        let holds = row.is_some() || process.memory > Bytes::default();
        told.or_else(|| {
            holds.then(|| {
                let mut row = row.unwrap_or(R::EMPTY);
                row.show(*process);
                row
            })
        })
    };
    own.iter().filter_map(row_of).collect()
}

/// Fills an array of ours by `list`.
fn listed<R: Row>(
    list: impl FnOnce(*mut c_uint, *mut R) -> nvmlReturn_t,
) -> Result<Vec<R>, nvmlReturn_t> {
    let mut count = ROWS_MAX;
    let mut rows = vec![R::EMPTY; usize::try_from(count).unwrap_or(0)];
    match list(&raw mut count, rows.as_mut_ptr()) {
        NVML_SUCCESS => {
            rows.truncate(usize::try_from(count).unwrap_or(0));
            Ok(rows)
        }
        status => Err(status),
    }
}

/// Fills the caller's array, as NVML does.
///
/// # Safety
/// `count` is good for one number, and `array` is null or good for as many rows as that says.
pub(super) unsafe fn give<R: Row>(rows: &[R], count: *mut c_uint, array: *mut R) -> nvmlReturn_t {
    // SAFETY: the caller's promise.
    let room = usize::try_from(unsafe { count.read() }).unwrap_or(0);
    // SAFETY: as above.
    unsafe { count.write(c_uint::try_from(rows.len()).unwrap_or(c_uint::MAX)) };
    if rows.is_empty() {
        return NVML_SUCCESS;
    }
    if room < rows.len() {
        return NVML_ERROR_INSUFFICIENT_SIZE;
    }
    if array.is_null() {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    // SAFETY: not null, and with room for them.
    unsafe { array.copy_from_nonoverlapping(rows.as_ptr(), rows.len()) };
    NVML_SUCCESS
}

/// The container, as a call about `device` is to be answered.
pub(super) struct View {
    /// NVML's own functions.
    pub(super) nvml: &'static Nvml,
    /// The container's processes.
    pub(super) own: Vec<ProcessUse>,
    has_quota: bool,
}

impl View {
    /// `None`: without limits, and for a device that NVML does not know.
    pub(super) fn of(cx: &Bare<Management>, device: nvmlDevice_t) -> Option<Self> {
        let Stance::Limited(limited) = cx.runtime.stance() else {
            return None;
        };
        Self::of_limited(limited, cx.library(), device)
    }

    fn of_limited(limited: &Limited, nvml: &'static Nvml, device: nvmlDevice_t) -> Option<Self> {
        let uuid = nvml.device_uuid(device)?;
        Some(Self {
            nvml,
            own: limited.processes(uuid),
            has_quota: limited.memory_use(uuid, || nvml.device_uuids()).is_some(),
        })
    }
}

/// What `list` lists of a device, as far as the view goes; NVML's status where it lists nothing.
fn listed_by<R: Row>(
    view: &View,
    list: fn(&NvmlRows) -> Option<List<R>>,
    device: nvmlDevice_t,
) -> Result<Vec<R>, nvmlReturn_t> {
    let list = list(&view.nvml.rows).ok_or(Management::NO_FUNCTION)?;
    // SAFETY: NVML's own function, with the caller's device and an array that is as long as said.
    listed(|count, rows| unsafe { list(device, count, rows) })
}

/// Answers a call that lists by an array with those rows that `choose` leaves.
///
/// # Safety
/// As [`hooks`](crate::hooks).
unsafe fn in_array<R: Row>(
    cx: &Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    list: fn(&NvmlRows) -> Option<List<R>>,
    device: nvmlDevice_t,
    (count, array): (*mut c_uint, *mut R),
    choose: impl FnOnce(&View, &[R]) -> Vec<R>,
) -> nvmlReturn_t {
    let Some(view) = View::of(cx, device).filter(|_| !count.is_null()) else {
        return call();
    };
    match listed_by(&view, list, device) {
        // SAFETY: not null, and the caller's promise.
        Ok(rows) => unsafe { give(&choose(&view, &rows), count, array) },
        Err(status) => status,
    }
}

/// `nvmlDeviceGetComputeRunningProcesses` and its versions: `list` is the one that was called.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn compute<R: MemoryRow>(
    cx: Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    list: fn(&NvmlRows) -> Option<List<R>>,
    device: nvmlDevice_t,
    count: *mut c_uint,
    array: *mut R,
) -> nvmlReturn_t {
    // SAFETY: the caller's promise.
    unsafe {
        in_array(&cx, call, list, device, (count, array), |view, rows| {
            holders(rows, &view.own, view.has_quota)
        })
    }
}

/// Lists in which the container's own stand as NVML has them: graphics and MPS processes, accounting.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn own<R: Row>(
    cx: Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    list: fn(&NvmlRows) -> Option<List<R>>,
    device: nvmlDevice_t,
    count: *mut c_uint,
    array: *mut R,
) -> nvmlReturn_t {
    // SAFETY: the caller's promise.
    unsafe {
        in_array(&cx, call, list, device, (count, array), |view, rows| {
            own_rows(rows, &view.own)
        })
    }
}

/// A record by which a caller passes an array of rows, and how long it is.
pub(crate) trait ListRecord: Copy {
    /// Its rows.
    type Row: Row;
    /// How many rows there are, or there is room for, and where they stand.
    fn array(&mut self) -> (&mut c_uint, &mut *mut Self::Row);
}

impl ListRecord for nvmlProcessDetailList_t {
    type Row = nvmlProcessDetail_v1_t;

    fn array(&mut self) -> (&mut c_uint, &mut *mut Self::Row) {
        (&mut self.numProcArrayEntries, &mut self.procArray)
    }
}

impl ListRecord for nvmlProcessesUtilizationInfo_t {
    type Row = nvmlProcessUtilizationInfo_v1_t;

    fn array(&mut self) -> (&mut c_uint, &mut *mut Self::Row) {
        (&mut self.processSamplesCount, &mut self.procUtilArray)
    }
}

/// A function that fills the array of a record.
type RecordList<L> = unsafe extern "C" fn(nvmlDevice_t, *mut L) -> nvmlReturn_t;

/// Answers a call that lists by a record with those rows that `choose` leaves.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(super) unsafe fn in_record<L: ListRecord>(
    cx: &Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    list: fn(&NvmlRows) -> Option<RecordList<L>>,
    device: nvmlDevice_t,
    asked: *mut L,
    choose: impl FnOnce(&View, &L, &[L::Row]) -> Result<Vec<L::Row>, nvmlReturn_t>,
) -> nvmlReturn_t {
    let view = View::of(cx, device).filter(|_| !asked.is_null());
    let Some((view, list)) = view.and_then(|view| {
        let list = list(&view.nvml.rows)?;
        Some((view, list))
    }) else {
        return call();
    };
    // SAFETY: not null, and the caller's promise: at least this long in every version.
    let mut ours = unsafe { asked.read() };
    let rows = listed(|count, rows| {
        // SAFETY: `listed` hands out pointers that are good for reading and writing.
        *ours.array().0 = unsafe { count.read() };
        *ours.array().1 = rows;
        // SAFETY: NVML's own function, with a record and an array of ours.
        let status = unsafe { list(device, &raw mut ours) };
        // SAFETY: as above.
        unsafe { count.write(*ours.array().0) };
        status
    });
    match rows.and_then(|rows| choose(&view, &ours, &rows)) {
        Ok(rows) => {
            // SAFETY: not null, and the caller's promise.
            let (count, array) = unsafe { &mut *asked }.array();
            // SAFETY: as above.
            unsafe { give(&rows, count, *array) }
        }
        Err(status) => status,
    }
}

/// `nvmlDeviceGetRunningProcessDetailList`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn details(
    cx: Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    device: nvmlDevice_t,
    asked: *mut nvmlProcessDetailList_t,
) -> nvmlReturn_t {
    let list = |real: &NvmlRows| real.nvmlDeviceGetRunningProcessDetailList;
    // SAFETY: the caller's promise.
    unsafe {
        in_record(&cx, call, list, device, asked, |view, list, rows| {
            Ok(match list.mode {
                NVML_PROCESS_MODE_COMPUTE | NVML_PROCESS_MODE_ALL => {
                    holders(rows, &view.own, view.has_quota)
                }
                _ => own_rows(rows, &view.own),
            })
        })
    }
}

/// `nvmlDeviceGetAccountingStats`: of the container's processes only.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn accounting_stats(
    cx: Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    device: nvmlDevice_t,
    pid: c_uint,
) -> nvmlReturn_t {
    let is_foreign = View::of(&cx, device)
        .is_some_and(|view| !view.own.iter().any(|process| process.pid == pid));
    if is_foreign {
        NVML_ERROR_NOT_FOUND
    } else {
        call()
    }
}

/// `nvmlDeviceGetAccountingStats_v2`: the record names the process.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn accounting_record(
    cx: Bare<Management>,
    call: impl FnOnce() -> nvmlReturn_t,
    device: nvmlDevice_t,
    stats: *const nvmlAccountingStats_v2_t,
) -> nvmlReturn_t {
    if stats.is_null() {
        return call();
    }
    // SAFETY: not null, and the caller's promise.
    let pid = unsafe { (*stats).pid };
    // SAFETY: the caller's promise.
    unsafe { accounting_stats(cx, call, device, pid) }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    fn process(pid: u32, bytes: u64) -> ProcessUse {
        ProcessUse {
            pid,
            memory: Bytes::new(bytes),
        }
    }

    fn row(pid: u32, used_bytes: u64) -> nvmlProcessInfo_v1_t {
        nvmlProcessInfo_v1_t {
            pid,
            usedGpuMemory: used_bytes,
        }
    }

    #[test]
    fn only_a_containers_own_processes_are_told() {
        let listed = [row(1, 10), row(2, 20), row(3, 30)];
        let own = [process(2, 25), process(4, 40), process(5, 0)];
        assert_eq!(own_rows(&listed, &own), [row(2, 20)]);
        assert_eq!(
            holders(&listed, &own, true),
            [row(2, 25), row(4, 40)],
            "with what the ledger says, also where NVML does not know them by that number"
        );
    }

    #[test]
    fn without_a_quota_nvmls_figure_is_told_for_whom_it_lists() {
        let own = [process(2, 25), process(4, 40)];
        assert_eq!(
            holders(&[row(2, 20)], &own, false),
            [row(2, 20), row(4, 40)]
        );
    }

    #[test]
    fn an_array_without_room_is_told_how_much_it_needs() {
        let rows = [row(1, 10), row(2, 20)];
        let mut array = [row(0, 0); 3];
        for (room, status, first) in [
            (0, NVML_ERROR_INSUFFICIENT_SIZE, row(0, 0)),
            (1, NVML_ERROR_INSUFFICIENT_SIZE, row(0, 0)),
            (2, NVML_SUCCESS, row(1, 10)),
            (3, NVML_SUCCESS, row(1, 10)),
        ] {
            let mut count = room;
            // SAFETY: a number, and an array that has room for more than it says.
            let answer = unsafe { give(&rows, &raw mut count, array.as_mut_ptr()) };
            assert_eq!((answer, count, array[0]), (status, 2, first), "{room}");
        }
        let mut count = 2;
        // SAFETY: a number, and no array.
        let answer = unsafe { give(&rows, &raw mut count, ptr::null_mut()) };
        assert_eq!(answer, NVML_ERROR_INVALID_ARGUMENT);
    }
}
