//! Several devices: peers.

mod support;

use std::sync::Once;

use cuda_sys_stubs::abi::*;
use support::{alloc, cu, measuring, ok, read};

const PAGE: usize = 2 << 20;

/// A context on each device of a machine with two.
fn contexts() -> [CUcontext; 2] {
    static MACHINE: Once = Once::new();
    // SAFETY: nobody has the driver yet, so nobody reads the environment now.
    MACHINE.call_once(|| unsafe { std::env::set_var("GPU_SIM_PROFILE", "2xt4") });
    ok!(cuInit(0));
    [0, 1].map(|device| {
        let mut context = std::ptr::null_mut();
        ok!(cuCtxCreate_v2(&mut context, 0, device));
        context
    })
}

fn used_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    total - free
}

#[test]
fn devices_reach_each_other_and_not_themselves() {
    let _measuring = measuring();
    let [first, second] = contexts();
    let (mut can, mut value) = (9, 9);
    ok!(cuDeviceCanAccessPeer(&mut can, 0, 1));
    assert_eq!(can, 1);
    ok!(cuDeviceCanAccessPeer(&mut can, 1, 1));
    assert_eq!(can, 0);
    let access = CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED;
    ok!(cuDeviceGetP2PAttribute(&mut value, access, 0, 1));
    assert_eq!(value, 1);
    ok!(cuCtxSetCurrent(first));
    ok!(cuCtxEnablePeerAccess(second, 0));
    assert_eq!(
        cu!(cuCtxEnablePeerAccess(second, 0)),
        CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED
    );
    ok!(cuCtxDisablePeerAccess(second));
    assert_eq!(
        cu!(cuCtxDisablePeerAccess(second)),
        CUDA_ERROR_PEER_ACCESS_NOT_ENABLED
    );
    let (mut capabilities, operation) = ([9u32; 1], 0);
    ok!(cuDeviceGetP2PAtomicCapabilities(
        capabilities.as_mut_ptr(),
        &operation,
        1,
        0,
        1
    ));
    assert_eq!(capabilities, [0]);
}

#[test]
fn bytes_go_from_one_device_to_the_other_and_each_holds_its_own() {
    let _measuring = measuring();
    let [first, second] = contexts();
    let one = alloc(64 * PAGE);
    let used = used_bytes();
    ok!(cuCtxSetCurrent(first));
    let other = alloc(16);
    ok!(cuMemsetD8_v2(other, 5, 16));
    ok!(cuMemcpyPeer(one, second, other, first, 16));
    ok!(cuCtxSynchronize());
    assert_eq!(read(one, 2), [5, 5]);
    let (mut of_one, which) = (9u32, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
    ok!(cuPointerGetAttribute((&raw mut of_one).cast(), which, one));
    assert_eq!(of_one, 1);
    ok!(cuCtxSetCurrent(second));
    ok!(cuMemFree_v2(one));
    assert!(used_bytes() < used);
}

#[test]
fn access_is_granted_to_each_device_by_itself() {
    let _measuring = measuring();
    contexts();
    let location = |id| CUmemLocation {
        type_: CU_MEM_LOCATION_TYPE_DEVICE,
        id,
    };
    let read_write = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    let wish = |id, flags| CUmemAccessDesc {
        location: location(id),
        flags,
    };
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut prop: CUmemAllocationProp = unsafe { std::mem::zeroed() };
    (prop.type_, prop.location) = (CU_MEM_ALLOCATION_TYPE_PINNED, location(1));
    let (mut handle, mut start) = (0, 0);
    ok!(cuMemCreate(&mut handle, PAGE, &prop, 0));
    ok!(cuMemAddressReserve(&mut start, PAGE, 0, 0, 0));
    ok!(cuMemMap(start, PAGE, 0, handle, 0));
    let of_mapping = |id| {
        let mut flags = 9;
        ok!(cuMemGetAccess(&mut flags, &location(id), start));
        flags
    };
    assert_eq!((of_mapping(0), of_mapping(1)), (0, 0));
    ok!(cuMemSetAccess(start, PAGE, &wish(1, read_write), 1));
    assert_eq!((of_mapping(0), of_mapping(1)), (0, 3));
    ok!(cuMemSetAccess(start, PAGE, &wish(0, 1), 1));
    assert_eq!((of_mapping(0), of_mapping(1)), (1, 3));
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut props: CUmemPoolProps = unsafe { std::mem::zeroed() };
    (props.allocType, props.location) = (CU_MEM_ALLOCATION_TYPE_PINNED, location(0));
    let mut pool = std::ptr::null_mut();
    ok!(cuMemPoolCreate(&mut pool, &props));
    let of_pool = |id| {
        let (mut flags, mut at) = (9, location(id));
        ok!(cuMemPoolGetAccess(&mut flags, pool, &mut at));
        flags
    };
    assert_eq!((of_pool(0), of_pool(1)), (3, 0));
    ok!(cuMemPoolSetAccess(pool, &wish(1, read_write), 1));
    assert_eq!((of_pool(0), of_pool(1)), (3, 3));
    assert_eq!(
        cu!(cuMemPoolSetAccess(pool, &wish(0, 0), 1)),
        CUDA_ERROR_INVALID_VALUE
    );
}
