//! Functions that a program hands to the driver. `None` is C's `NULL`.

use core::ffi::{c_char, c_int, c_void};

use super::enums::*;
use super::records::CUgraphNodeParams;
use super::types::*;

pub type CUstreamCallback =
    Option<unsafe extern "C" fn(stream: CUstream, status: CUresult, userData: *mut c_void)>;
pub type CUhostFn = Option<unsafe extern "C" fn(userData: *mut c_void)>;
pub type CUoccupancyB2DSize = Option<unsafe extern "C" fn(blockSize: c_int) -> usize>;
pub type CUasyncCallback = Option<
    unsafe extern "C" fn(
        info: *mut CUasyncNotificationInfo,
        userData: *mut c_void,
        callback: CUasyncCallbackHandle,
    ),
>;
pub type CUlogsCallback = Option<
    unsafe extern "C" fn(
        data: *mut c_void,
        logLevel: CUlogLevel,
        message: *mut c_char,
        length: usize,
    ),
>;
pub type CUcoredumpStatusCallback =
    Option<unsafe extern "C" fn(userData: *mut c_void, pid: c_int, device: CUdevice)>;
pub type CUgraphRecaptureCallback = Option<
    unsafe extern "C" fn(
        data: *mut c_void,
        node: CUgraphNode,
        original: *const CUgraphNodeParams,
        recapture: *const CUgraphNodeParams,
        status: CUgraphRecaptureStatus,
    ) -> CUresult,
>;
