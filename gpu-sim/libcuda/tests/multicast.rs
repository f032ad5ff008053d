//! Multicast objects: three H100 that can be of a team, and a T4 that cannot.

mod support;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Once;

use cuda_sys_stubs::abi::*;
use support::other::{Other, here};
use support::{cu, measuring, ok};

const PAGE: usize = 2 << 20;
const TEAM: [CUdevice; 2] = [0, 1];
/// Its memory is counted: one test has it for itself.
const ALONE: CUdevice = 2;
const OUTSIDER: CUdevice = 3;

fn start() {
    static MACHINE: Once = Once::new();
    // SAFETY: nobody has the driver yet, so nobody reads the environment now.
    MACHINE.call_once(|| unsafe { std::env::set_var("GPU_SIM_PROFILE", "3xh100,t4") });
    ok!(cuInit(0));
}

const DESCRIPTOR: CUmemAllocationHandleType = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

/// An object without a team, which other processes can get as one of these kinds.
fn empty(
    devices: u32,
    pages: usize,
    kinds: CUmemAllocationHandleType,
) -> CUmemGenericAllocationHandle {
    let properties = CUmulticastObjectProp {
        numDevices: devices,
        size: pages * PAGE,
        handleTypes: kinds.into(),
        flags: 0,
    };
    let mut handle = 0;
    ok!(cuMulticastCreate(&mut handle, &properties));
    handle
}

fn object(devices: &[CUdevice], pages: usize) -> CUmemGenericAllocationHandle {
    let handle = empty(u32::try_from(devices.len()).unwrap_or(0), pages, 0);
    for &device in devices {
        ok!(cuMulticastAddDevice(handle, device));
    }
    handle
}

fn memory(device: CUdevice, pages: usize) -> CUmemGenericAllocationHandle {
    memory_for(device, pages, CU_MEM_HANDLE_TYPE_NONE)
}

/// Memory which other processes can get as one of these kinds.
fn memory_for(
    device: CUdevice,
    pages: usize,
    kinds: CUmemAllocationHandleType,
) -> CUmemGenericAllocationHandle {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut prop: CUmemAllocationProp = unsafe { std::mem::zeroed() };
    (prop.type_, prop.requestedHandleTypes) = (CU_MEM_ALLOCATION_TYPE_PINNED, kinds);
    prop.location = CUmemLocation {
        type_: CU_MEM_LOCATION_TYPE_DEVICE,
        id: device,
    };
    let mut handle = 0;
    ok!(cuMemCreate(&mut handle, pages * PAGE, &prop, 0));
    handle
}

fn exported(handle: CUmemGenericAllocationHandle) -> OwnedFd {
    let mut descriptor: RawFd = -1;
    let to = (&raw mut descriptor).cast();
    ok!(cuMemExportToShareableHandle(to, handle, DESCRIPTOR, 0));
    // SAFETY: the driver has just opened it for us.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn imported(descriptor: &OwnedFd) -> CUmemGenericAllocationHandle {
    let number = usize::try_from(descriptor.as_raw_fd()).unwrap_or_default();
    let mut handle = 0;
    ok!(cuMemImportFromShareableHandle(
        &mut handle,
        std::ptr::without_provenance_mut(number),
        DESCRIPTOR
    ));
    handle
}

/// Bytes in use on the device whose memory is counted.
fn used() -> usize {
    let mut context = std::ptr::null_mut();
    ok!(cuDevicePrimaryCtxRetain(&mut context, ALONE));
    ok!(cuCtxSetCurrent(context));
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    total - free
}

/// Waits until as much is in use: a dead process's memory takes its time.
fn used_becomes(bytes: usize) {
    while used() != bytes {
        std::thread::yield_now();
    }
}

/// Where memory, or an object, is mapped.
fn mapped(handle: CUmemGenericAllocationHandle, pages: usize) -> CUdeviceptr {
    let mut start = 0;
    ok!(cuMemAddressReserve(&mut start, pages * PAGE, 0, 0, 0));
    ok!(cuMemMap(start, pages * PAGE, 0, handle, 0));
    start
}

#[test]
fn only_boards_behind_such_switches_can_be_of_a_team() {
    start();
    let supported = |device| {
        let mut supported = 9;
        ok!(cuDeviceGetAttribute(
            &mut supported,
            CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED,
            device
        ));
        supported
    };
    assert_eq!([0, ALONE, OUTSIDER].map(supported), [1, 1, 0]);
    let half_a_team = empty(2, 1, 0);
    ok!(cuMulticastAddDevice(half_a_team, 0));
    let add = |device| cu!(cuMulticastAddDevice(half_a_team, device));
    assert_eq!(add(OUTSIDER), CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(add(0), CUDA_ERROR_INVALID_VALUE, "it is of the team");
    assert_eq!(add(1), CUDA_SUCCESS);
    assert_eq!(add(1), CUDA_ERROR_INVALID_VALUE, "it is complete");
}

#[test]
fn memory_is_bound_where_there_is_room_for_its_device() {
    start();
    let team = object(&TEAM, 2);
    let (first, second) = (memory(0, 2), memory(1, 1));
    let bind = |offset, handle, memory_offset, bytes| {
        cu!(cuMulticastBindMem(
            team,
            offset,
            handle,
            memory_offset,
            bytes,
            0
        ))
    };
    assert_eq!(bind(0, first, 0, PAGE), CUDA_SUCCESS);
    assert_eq!(
        bind(0, first, PAGE, PAGE),
        CUDA_ERROR_INVALID_VALUE,
        "taken"
    );
    assert_eq!(
        bind(0, second, 0, PAGE),
        CUDA_SUCCESS,
        "another device's part"
    );
    for (offset, handle, memory_offset, bytes) in [
        (PAGE / 2, first, 0, PAGE),
        (PAGE, first, PAGE / 2, PAGE),
        (PAGE, first, PAGE, 2 * PAGE),
        (2 * PAGE, first, 0, PAGE),
        (PAGE, first, 0, 0),
        (PAGE, team, 0, PAGE),
    ] {
        let status = bind(offset, handle, memory_offset, bytes);
        assert_eq!(
            status, CUDA_ERROR_INVALID_VALUE,
            "{offset} {memory_offset} {bytes}"
        );
    }
    let outside = memory(OUTSIDER, 1);
    assert_eq!(bind(PAGE, outside, 0, PAGE), CUDA_ERROR_INVALID_DEVICE);
    let of_another = cu!(cuMulticastBindMem_v2(team, 1, PAGE, first, PAGE, PAGE, 0));
    assert_eq!(of_another, CUDA_ERROR_INVALID_VALUE);
    let at = mapped(first, 2) + PAGE as u64;
    ok!(cuMulticastBindAddr_v2(team, 0, PAGE, at, PAGE, 0));
    let part = cu!(cuMulticastUnbind(team, 0, 0, 2 * PAGE));
    assert_eq!(part, CUDA_ERROR_INVALID_VALUE, "no call has bound that");
    ok!(cuMulticastUnbind(team, 0, PAGE, PAGE));
    ok!(cuMulticastBindAddr(team, PAGE, at, PAGE, 0));
}

#[test]
fn an_object_keeps_what_is_bound_to_it_and_is_mapped_as_memory_is() {
    start();
    let _alone = measuring();
    let team = object(&[ALONE], 4);
    let memory = memory(ALONE, 4);
    let before = used();
    ok!(cuMulticastBindMem(team, 0, memory, 0, 4 * PAGE, 0));
    let at = mapped(team, 4);
    ok!(cuMemRelease(memory));
    ok!(cuMemRelease(team));
    let released = cu!(cuMulticastUnbind(team, ALONE, 0, 4 * PAGE));
    assert_eq!(released, CUDA_ERROR_INVALID_VALUE, "a handle no more");
    assert_eq!(used(), before, "mapped");
    ok!(cuMemUnmap(at, 4 * PAGE));
    assert_eq!(used(), before - 4 * PAGE, "nobody has it any more");
}

/// A pool of a device's memory, which keeps what it has.
fn pool(device: CUdevice) -> CUmemoryPool {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut properties: CUmemPoolProps = unsafe { std::mem::zeroed() };
    properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location = CUmemLocation {
        type_: CU_MEM_LOCATION_TYPE_DEVICE,
        id: device,
    };
    let mut pool = std::ptr::null_mut();
    ok!(cuMemPoolCreate(&mut pool, &properties));
    pool
}

#[test]
fn memory_of_a_pool_is_bound_by_its_address_and_kept_when_the_pool_lets_go_of_it() {
    start();
    let _alone = measuring();
    let before = used(); // which makes the device's context the current one
    let (team, pool) = (object(&[ALONE], 8), pool(ALONE));
    let (mut block, mut plain, stream) = (0, 0, std::ptr::null_mut());
    ok!(cuMemAllocFromPoolAsync(&mut block, 4 * PAGE, pool, stream));
    let bind = |offset, address, bytes| cu!(cuMulticastBindAddr(team, offset, address, bytes, 0));
    let page = PAGE as u64;
    assert_eq!(bind(0, block + page, 3 * PAGE), CUDA_SUCCESS);
    for (address, bytes) in [(block + 512, PAGE), (block + page, 4 * PAGE)] {
        assert_eq!(bind(3 * PAGE, address, bytes), CUDA_ERROR_INVALID_VALUE);
    }
    ok!(cuMemAlloc_v2(&mut plain, 2 * PAGE));
    let of_no_pool = bind(3 * PAGE, plain, PAGE);
    assert_eq!(of_no_pool, CUDA_ERROR_INVALID_VALUE);
    ok!(cuMemFree_v2(plain));
    let shared = empty(1, 4, DESCRIPTOR);
    ok!(cuMulticastAddDevice(shared, ALONE));
    let kept = cu!(cuMulticastBindAddr_v2(shared, ALONE, 0, block, PAGE, 0));
    assert_eq!(kept, CUDA_ERROR_INVALID_VALUE, "nobody else can get it");
    ok!(cuMemFreeAsync(block, stream));
    ok!(cuStreamSynchronize(stream));
    ok!(cuMemPoolTrimTo(pool, 0));
    assert_eq!(used(), before + 4 * PAGE);
    ok!(cuMulticastUnbind(team, ALONE, 0, 3 * PAGE));
    assert_eq!(used(), before);
}

#[test]
fn a_team_is_made_up_by_two_processes_and_who_binds_waits_for_the_other() {
    const NAME: &str = "a_team_is_made_up_by_two_processes_and_who_binds_waits_for_the_other";
    start();
    if let Some(mut line) = here() {
        let team = imported(&line.take());
        line.hear::<1>();
        ok!(cuMulticastAddDevice(team, 1));
        let own = memory_for(1, 1, DESCRIPTOR);
        ok!(cuMulticastBindMem(team, 0, own, 0, PAGE, 0));
        let unbound = cu!(cuMulticastUnbind(team, 0, 0, PAGE));
        line.say([1]);
        line.hear::<1>();
        assert_eq!(unbound, CUDA_ERROR_INVALID_VALUE, "not bound yet");
        return ok!(cuMulticastUnbind(team, 0, PAGE, PAGE));
    }
    let team = empty(2, 2, DESCRIPTOR);
    ok!(cuMulticastAddDevice(team, 0));
    let mut other = Other::start(NAME);
    other.line.give(exported(team));
    let mapper = std::thread::spawn(move || mapped(team, 2));
    let early = memory_for(0, 1, DESCRIPTOR);
    let binder = std::thread::spawn(move || {
        let bound = cu!(cuMulticastBindMem(team, PAGE, early, 0, PAGE, 0));
        assert_eq!(bound, CUDA_SUCCESS);
    });
    other.line.say([1]);
    assert!(binder.join().is_ok() && mapper.join().is_ok());
    other.line.hear::<1>();
    let taken = cu!(cuMulticastBindMem(team, PAGE, early, 0, PAGE, 0));
    assert_eq!(taken, CUDA_ERROR_INVALID_VALUE);
    let kept = cu!(cuMulticastBindMem(team, 0, memory(0, 1), 0, PAGE, 0));
    assert_eq!(kept, CUDA_ERROR_INVALID_VALUE, "nobody else can get it");
    other.line.say([1]);
    other.end();
    ok!(cuMulticastBindMem(team, PAGE, early, 0, PAGE, 0));
}

#[test]
fn what_a_killed_process_has_bound_stays_until_the_last_holder_of_the_object_lets_go() {
    const NAME: &str =
        "what_a_killed_process_has_bound_stays_until_the_last_holder_of_the_object_lets_go";
    start();
    if let Some(mut line) = here() {
        let team = imported(&line.take());
        memory(ALONE, 8);
        let bound = memory_for(ALONE, 4, DESCRIPTOR);
        ok!(cuMulticastBindMem(team, 0, bound, 0, 4 * PAGE, 0));
        line.say([1]);
        line.hear::<1>();
        return;
    }
    let _alone = measuring();
    let before = used();
    let team = empty(1, 4, DESCRIPTOR);
    ok!(cuMulticastAddDevice(team, ALONE));
    let mut other = Other::start(NAME);
    let descriptor = exported(team);
    assert_eq!(imported(&descriptor), team, "once more the same");
    other.line.give(&descriptor);
    other.line.hear::<1>();
    assert_eq!(used(), before + 12 * PAGE);
    other.kill();
    used_becomes(before + 4 * PAGE);
    ok!(cuMemRelease(team));
    ok!(cuMemRelease(team));
    assert_eq!(used(), before + 4 * PAGE, "the descriptor is open");
    let again = imported(&descriptor);
    drop(descriptor);
    ok!(cuMemRelease(again));
    used_becomes(before);
}
