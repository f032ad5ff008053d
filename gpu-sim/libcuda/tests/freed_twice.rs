//! What is freed twice. In a process of its own: another test might be given the memory in between.

mod support;

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;
use support::{alloc, context, cu, ok};

#[test]
fn memory_is_freed_once_by_its_start_and_by_its_own_call() {
    context();
    let (device, mut host) = (alloc(1000), std::ptr::null_mut::<c_void>());
    ok!(cuMemHostAlloc(&mut host, 1000, 0));
    assert_eq!(cu!(cuMemFree_v2(device + 512)), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(
        cu!(cuMemFreeHost(device as *mut c_void)),
        CUDA_ERROR_INVALID_VALUE
    );
    ok!(cuMemFree_v2(device));
    assert_eq!(cu!(cuMemFree_v2(device)), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(
        cu!(cuMemFree_v2(host.expose_provenance() as u64)),
        CUDA_ERROR_INVALID_VALUE
    );
    ok!(cuMemFreeHost(host));
    assert_eq!(cu!(cuMemFreeHost(host)), CUDA_ERROR_INVALID_VALUE);
    ok!(cuMemFree_v2(0));
}
