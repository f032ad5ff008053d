//! Functions of the program that a stream calls.
#![expect(unsafe_code, reason = "calls the program's own C functions")]

use std::cell::Cell;
use std::ffi::c_void;

use cuda_sys_stubs::abi::*;

/// A function and what it is called with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostCall {
    /// `cuLaunchHostFunc`, host nodes.
    Function {
        function: unsafe extern "C" fn(*mut c_void),
        data: usize,
    },
    /// `cuStreamAddCallback`.
    StreamCallback {
        function: unsafe extern "C" fn(CUstream, CUresult, *mut c_void),
        stream: usize,
        data: usize,
    },
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is in such a function, where the driver must not be called.
pub(crate) fn is_inside() -> bool {
    INSIDE.get()
}

impl HostCall {
    pub(crate) fn run(self) {
        INSIDE.set(true);
        match self {
            // SAFETY: the caller's contract: the function may be called with this data until the work that calls it is done.
            Self::Function { function, data } => unsafe {
                function(std::ptr::with_exposed_provenance_mut(data))
            },
            Self::StreamCallback {
                function,
                stream,
                data,
            } => {
                let stream = std::ptr::without_provenance_mut(stream);
                // SAFETY: as above.
                unsafe {
                    function(
                        stream,
                        CUDA_SUCCESS,
                        std::ptr::with_exposed_provenance_mut(data),
                    )
                }
            }
        }
        INSIDE.set(false);
    }
}
