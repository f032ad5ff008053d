//! Multicast objects: three H100 that can be of a team, and a T4 that cannot.

mod support;

use std::sync::Once;

use cuda_sys_stubs::abi::*;
use support::{cu, ok};

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

fn properties(devices: u32, pages: usize) -> CUmulticastObjectProp {
    CUmulticastObjectProp {
        numDevices: devices,
        size: pages * PAGE,
        handleTypes: 0,
        flags: 0,
    }
}

fn object(devices: &[CUdevice], pages: usize) -> CUmemGenericAllocationHandle {
    let mut handle = 0;
    let devices_in_all = u32::try_from(devices.len()).unwrap_or(0);
    ok!(cuMulticastCreate(
        &mut handle,
        &properties(devices_in_all, pages)
    ));
    for &device in devices {
        ok!(cuMulticastAddDevice(handle, device));
    }
    handle
}

fn memory(device: CUdevice, pages: usize) -> CUmemGenericAllocationHandle {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut prop: CUmemAllocationProp = unsafe { std::mem::zeroed() };
    prop.type_ = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location = CUmemLocation {
        type_: CU_MEM_LOCATION_TYPE_DEVICE,
        id: device,
    };
    let mut handle = 0;
    ok!(cuMemCreate(&mut handle, pages * PAGE, &prop, 0));
    handle
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
    let half_a_team = {
        let mut handle = 0;
        ok!(cuMulticastCreate(&mut handle, &properties(2, 1)));
        ok!(cuMulticastAddDevice(handle, 0));
        handle
    };
    let add = |device| cu!(cuMulticastAddDevice(half_a_team, device));
    assert_eq!(add(OUTSIDER), CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(add(0), CUDA_ERROR_INVALID_VALUE, "it is of the team");
    let early = cu!(cuMulticastBindMem(half_a_team, 0, memory(0, 1), 0, PAGE, 0));
    assert_eq!(early, CUDA_ERROR_ILLEGAL_STATE, "one is missing");
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
    let used = || {
        let mut context = std::ptr::null_mut();
        ok!(cuDevicePrimaryCtxRetain(&mut context, ALONE));
        ok!(cuCtxSetCurrent(context));
        let (mut free, mut total) = (0, 0);
        ok!(cuMemGetInfo_v2(&mut free, &mut total));
        total - free
    };
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
