//! Names to addresses, statuses to text.

use std::ffi::{CStr, c_char, c_void};

use cuda_sys_stubs::abi::*;
use cuda_sys_stubs::get_proc_address::{Resolution, resolve};

use super::{put, put_if, wanted};
use crate::door::{Answer, exports};
use crate::symbols;

/// What `cuGetProcAddress` finds; a name that is no text is no name.
///
/// # Safety
/// `symbol` is null or a C string.
unsafe fn find(
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    version: i32,
    flags: u64,
) -> Answer<Resolution> {
    wanted(symbol.cast_mut())?;
    wanted(pfn)?;
    // SAFETY: not null, so it is a C string (caller).
    let name = unsafe { CStr::from_ptr(symbol) }.to_str().unwrap_or("");
    match resolve(
        &|symbol| symbols::address(symbol.name).is_some(),
        name,
        version,
        flags,
    ) {
        Resolution::InvalidFlags => Err(CUDA_ERROR_INVALID_VALUE),
        other => Ok(other),
    }
}

exports! {
    fn cuGetProcAddress(symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: i32, flags: u64) {
        match find(symbol, pfn, cudaVersion, flags)? {
            Resolution::Found(found) => put(pfn, symbols::address(found.name).ok_or(CUDA_ERROR_NOT_FOUND)?),
            _ => Err(CUDA_ERROR_NOT_FOUND),
        }
    }
    fn cuGetProcAddress_v2(symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: i32, flags: u64, symbolStatus: *mut CUdriverProcAddressQueryResult) {
        let (address, status) = match find(symbol, pfn, cudaVersion, flags)? {
            Resolution::Found(found) => (symbols::address(found.name).ok_or(CUDA_ERROR_NOT_FOUND)?, CU_GET_PROC_ADDRESS_SUCCESS),
            Resolution::VersionNotSufficient => (std::ptr::null_mut(), CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT),
            _ => (std::ptr::null_mut(), CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND),
        };
        put_if(symbolStatus, status);
        put(pfn, address)
    }
    fn cuGetExportTable(ppExportTable: *mut *const c_void, pExportTableId: *const CUuuid) {
        // No table is simulated. What asks for one (NVIDIA's runtime) is told that it does not exist.
        wanted(pExportTableId.cast_mut())?;
        put(ppExportTable, std::ptr::null())?;
        Err(CUDA_ERROR_INVALID_VALUE)
    }
    fn cuGetErrorName(error: CUresult, pStr: *mut *const c_char) {
        wanted(pStr)?;
        let name = result_name(error);
        put(pStr, name.map_or(std::ptr::null(), CStr::as_ptr))?;
        name.map(drop).ok_or(CUDA_ERROR_INVALID_VALUE)
    }
    fn cuGetErrorString(error: CUresult, pStr: *mut *const c_char) {
        wanted(pStr)?;
        let description = result_description(error);
        put(pStr, description.map_or(std::ptr::null(), CStr::as_ptr))?;
        description.map(drop).ok_or(CUDA_ERROR_INVALID_VALUE)
    }
}
