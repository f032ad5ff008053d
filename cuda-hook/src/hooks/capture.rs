//! Captures over an earlier graph. The driver tells the program of changes inside of the calls that record them: what the program calls
//! from there is its own, and no call of the driver's.
//!
//! So the driver is handed a function of ours, which leaves the hook that the thread is inside of before it calls the program's.
#![expect(
    unsafe_code,
    reason = "stands between the driver and the program's function"
)]

use std::ffi::c_void;

use cuda_sys_stubs::abi::*;
use parking_lot::Mutex;

use crate::driver::Driver;
use crate::entry::Cx;
use crate::thread::Thread;

/// The program's function, and what it is called with.
#[derive(Clone, Copy)]
struct Observer {
    callback: CUgraphRecaptureCallback,
    data: usize,
}

impl Observer {
    fn is(&self, other: &Self) -> bool {
        let address = |observer: &Self| observer.callback.map_or(0, |function| function as usize);
        (address(self), self.data) == (address(other), other.data)
    }
}

/// Each that was ever given, once. The driver may call it until a capture ends, which nobody tells: they stay.
static OBSERVERS: Mutex<Vec<&'static Observer>> = Mutex::new(Vec::new());

/// The same for good.
fn kept(observer: Observer) -> &'static Observer {
    let mut observers = OBSERVERS.lock();
    if let Some(known) = observers.iter().find(|known| known.is(&observer)) {
        return known;
    }
    let fresh = Box::leak(Box::new(observer));
    observers.push(fresh);
    fresh
}

/// What the driver is handed: calls the program's function outside of any hook.
unsafe extern "C" fn told(
    data: *mut c_void,
    node: CUgraphNode,
    original: *const CUgraphNodeParams,
    recapture: *const CUgraphNodeParams,
    status: CUgraphRecaptureStatus,
) -> CUresult {
    // SAFETY: the driver's promise: what it was handed, which stays for good.
    let observer = unsafe { &*data.cast::<Observer>() };
    let Some(callback) = observer.callback else {
        return CUDA_SUCCESS;
    };
    let data = std::ptr::with_exposed_provenance_mut(observer.data);
    // SAFETY: the program's promise for its function; the other arguments are the driver's.
    Thread::outside(|| unsafe { callback(data, node, original, recapture, status) })
}

/// The driver's function, of the legacy or of the per-thread default stream.
type Begin = unsafe extern "C" fn(
    CUstream,
    CUstreamCaptureMode,
    CUgraph,
    CUgraphRecaptureCallback,
    *mut c_void,
) -> CUresult;

/// # Safety
/// As [`hooks`](crate::hooks).
unsafe fn begin(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    real: fn(&Driver) -> Option<Begin>,
    (stream, mode, graph): (CUstream, CUstreamCaptureMode, CUgraph),
    (callback, data): (CUgraphRecaptureCallback, *mut c_void),
) -> CUresult {
    let (Some(_), Some(real)) = (callback, real(cx.driver)) else {
        return call();
    };
    let data = data.expose_provenance();
    let observer = kept(Observer { callback, data });
    let data = std::ptr::from_ref(observer).cast_mut().cast();
    // SAFETY: the caller's promise, and a function of the type that is asked for.
    unsafe { real(stream, mode, graph, Some(told), data) }
}

/// `cuStreamBeginRecaptureToGraph`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn begin_again(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    capture: (CUstream, CUstreamCaptureMode, CUgraph),
    observer: (CUgraphRecaptureCallback, *mut c_void),
) -> CUresult {
    let real = |driver: &Driver| driver.rows.cuStreamBeginRecaptureToGraph;
    // SAFETY: as of this hook.
    unsafe { begin(cx, call, real, capture, observer) }
}

/// `cuStreamBeginRecaptureToGraph_ptsz`.
///
/// # Safety
/// As [`hooks`](crate::hooks).
pub(crate) unsafe fn begin_again_per_thread(
    cx: Cx,
    call: impl FnOnce() -> CUresult,
    capture: (CUstream, CUstreamCaptureMode, CUgraph),
    observer: (CUgraphRecaptureCallback, *mut c_void),
) -> CUresult {
    let real = |driver: &Driver| driver.rows.cuStreamBeginRecaptureToGraph_ptsz;
    // SAFETY: as of this hook.
    unsafe { begin(cx, call, real, capture, observer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn goes_in(
        data: *mut c_void,
        _node: CUgraphNode,
        _original: *const CUgraphNodeParams,
        _recapture: *const CUgraphNodeParams,
        status: CUgraphRecaptureStatus,
    ) -> CUresult {
        assert_eq!(data.addr(), 5);
        let went_in = Thread::enter(|_inside| status);
        went_in.unwrap_or(CUDA_ERROR_UNKNOWN)
    }

    fn observer(data: usize) -> Observer {
        let callback: CUgraphRecaptureCallback = Some(goes_in);
        Observer { callback, data }
    }

    #[test]
    fn what_the_programs_function_calls_comes_through_the_door() {
        let data = std::ptr::from_ref(kept(observer(5))).cast_mut().cast();
        let (none, nothing) = (std::ptr::null_mut(), std::ptr::null());
        let answer = Thread::enter(|_inside| {
            // SAFETY: an observer that stays; the function follows no other pointer.
            let answer = unsafe { told(data, none, nothing, nothing, 7) };
            assert!(Thread::enter(|_| ()).is_none(), "inside again");
            answer
        });
        assert_eq!(answer, Some(7));
    }

    #[test]
    fn the_same_function_with_the_same_data_is_kept_once() {
        assert!(std::ptr::eq(kept(observer(1)), kept(observer(1))));
        assert!(!std::ptr::eq(kept(observer(1)), kept(observer(2))));
    }
}
