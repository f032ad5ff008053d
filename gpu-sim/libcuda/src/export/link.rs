//! The driver's linker.

use std::ffi::{c_char, c_void};

use cuda_sys_stubs::abi::*;

use super::{list, put, put_if, text, wanted};
use crate::door::{Answer, exports};
use crate::link;
use crate::process::process;
use crate::table::Key;

fn create() -> Answer<CUlinkState> {
    Ok(link::create(process()?)?.handle())
}

fn add(handle: CUlinkState, kind: CUjitInputType, data: &[u8]) -> Answer {
    let process = process()?;
    link::find(&mut process.lock(), handle)?.add(kind, data)
}

exports! {
    fn cuLinkCreate(_numOptions: u32, _options: *mut CUjit_option, _optionValues: *mut *mut c_void, stateOut: *mut CUlinkState) {
        wanted(stateOut)?;
        put(stateOut, create()?)
    }
    fn cuLinkCreate_v2(_numOptions: u32, _options: *mut CUjit_option, _optionValues: *mut *mut c_void, stateOut: *mut CUlinkState) {
        wanted(stateOut)?;
        put(stateOut, create()?)
    }
    fn cuLinkAddData(state: CUlinkState, r#type: CUjitInputType, data: *mut c_void, size: usize, _name: *const c_char, _numOptions: u32, _options: *mut CUjit_option, _optionValues: *mut *mut c_void) {
        add(state, r#type, list(data.cast_const().cast(), size)?)
    }
    fn cuLinkAddData_v2(state: CUlinkState, r#type: CUjitInputType, data: *mut c_void, size: usize, _name: *const c_char, _numOptions: u32, _options: *mut CUjit_option, _optionValues: *mut *mut c_void) {
        add(state, r#type, list(data.cast_const().cast(), size)?)
    }
    fn cuLinkAddFile(state: CUlinkState, r#type: CUjitInputType, path: *const c_char, _numOptions: u32, _options: *mut CUjit_option, _optionValues: *mut *mut c_void) {
        add(state, r#type, &super::module::read_file(text(path)?)?)
    }
    fn cuLinkAddFile_v2(state: CUlinkState, r#type: CUjitInputType, path: *const c_char, _numOptions: u32, _options: *mut CUjit_option, _optionValues: *mut *mut c_void) {
        add(state, r#type, &super::module::read_file(text(path)?)?)
    }
    fn cuLinkComplete(state: CUlinkState, cubinOut: *mut *mut c_void, sizeOut: *mut usize) {
        let process = process()?;
        wanted(cubinOut)?;
        let mut objects = process.lock();
        let linked = link::find(&mut objects, state)?.complete()?;
        put(cubinOut, linked.as_ptr().cast_mut().cast())?;
        put_if(sizeOut, linked.len());
        Ok(())
    }
    fn cuLinkDestroy(state: CUlinkState) {
        let process = process()?;
        let key = Key::of(state).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
        process.lock().links.remove(key).map(drop).ok_or(CUDA_ERROR_INVALID_HANDLE)
    }
}
