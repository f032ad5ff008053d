//! Memory and events of other processes.

use std::ffi::c_char;

use cuda_sys_stubs::abi::*;

use super::{get, put, wanted};
use crate::door::exports;
use crate::ipc::{self, TOKEN_BYTES};
use crate::process::process;

fn bytes(reserved: [c_char; TOKEN_BYTES]) -> ipc::Token {
    reserved.map(c_char::cast_unsigned)
}

fn chars(token: ipc::Token) -> [c_char; TOKEN_BYTES] {
    token.map(u8::cast_signed)
}

fn check_open_flags(flags: u32) -> crate::door::Answer {
    if flags == CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS {
        Ok(())
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}

exports! {
    fn cuIpcGetMemHandle(pHandle: *mut CUipcMemHandle, dptr: CUdeviceptr) {
        let process = process()?;
        wanted(pHandle)?;
        put(pHandle, CUipcMemHandle { reserved: chars(ipc::memory_token(process, dptr)?) })
    }
    fn cuIpcOpenMemHandle(pdptr: *mut CUdeviceptr, handle: CUipcMemHandle, Flags: u32) {
        let process = process()?;
        wanted(pdptr)?;
        check_open_flags(Flags)?;
        put(pdptr, ipc::open_memory(process, &bytes(handle.reserved))?)
    }
    fn cuIpcOpenMemHandle_v2(pdptr: *mut CUdeviceptr, handle: CUipcMemHandle, Flags: u32) {
        let process = process()?;
        wanted(pdptr)?;
        check_open_flags(Flags)?;
        put(pdptr, ipc::open_memory(process, &bytes(handle.reserved))?)
    }
    fn cuIpcCloseMemHandle(dptr: CUdeviceptr) {
        ipc::close_memory(process()?, dptr)
    }
    fn cuIpcGetEventHandle(pHandle: *mut CUipcEventHandle, event: CUevent) {
        let process = process()?;
        wanted(pHandle)?;
        put(pHandle, CUipcEventHandle { reserved: chars(ipc::event_token(process, event)?) })
    }
    fn cuIpcOpenEventHandle(phEvent: *mut CUevent, handle: CUipcEventHandle) {
        let process = process()?;
        wanted(phEvent)?;
        put(phEvent, ipc::open_event(process, &bytes(handle.reserved))?.handle())
    }
    fn cuMemPoolExportPointer(shareData_out: *mut CUmemPoolPtrExportData, ptr: CUdeviceptr) {
        let process = process()?;
        wanted(shareData_out)?;
        put(shareData_out, CUmemPoolPtrExportData { reserved: ipc::pool_memory_token(process, ptr)? })
    }
    fn cuMemPoolImportPointer(ptr_out: *mut CUdeviceptr, pool: CUmemoryPool, shareData: *mut CUmemPoolPtrExportData) {
        let process = process()?;
        wanted(ptr_out)?;
        let token = get(shareData.cast_const())?.reserved;
        put(ptr_out, ipc::open_pool_memory(process, pool, &token)?)
    }
}
