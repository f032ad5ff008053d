//! The one door from C: every exported function is a row of [`exports!`].
//!
//! A row is the driver's own signature and a body that answers `Result<(), CUresult>`. From it come the exported function, the
//! check that its type is the ABI's, the catch that keeps a panic from crossing into C, and the line of the call trace.
//! A symbol with a per-thread twin (`_ptds`, `_ptsz`) is one row with two names; the body is told which null stream is meant.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cuda_sys_stubs::abi::{CUDA_ERROR_UNKNOWN, CUDA_SUCCESS, CUresult};

use crate::capture::recapture::take_changes;
use crate::export::capture::tell_changes;
use crate::trace::{self, Argument};
use crate::{context, log};

/// What a call answers; the error is the driver's own status.
pub(crate) type Answer<T = ()> = Result<T, CUresult>;

/// Which stream a null handle means to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NullStream {
    /// The context's own stream, ordered with its blocking streams.
    Legacy,
    /// The calling thread's stream.
    PerThread,
}

/// Runs one call: its body, if the current context takes calls of its API version, the trace line, and the last stop for a panic.
pub(crate) fn enter<const N: usize>(
    (symbol, api_version): (&str, Option<u32>),
    arguments: impl FnOnce() -> [Argument; N],
    body: impl FnOnce() -> Answer,
) -> CUresult {
    let body = || {
        api_version.map_or(Ok(()), context::check_version)?;
        let done = body();
        // What a call that failed would have changed is nobody's.
        done.inspect_err(|_| drop(take_changes()))?;
        tell_changes()
    };
    let answer = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        log::error(format_args!(
            "{symbol}: the simulation panicked, and answers CUDA_ERROR_UNKNOWN"
        ));
        Err(CUDA_ERROR_UNKNOWN)
    });
    let status = answer.err().unwrap_or(CUDA_SUCCESS);
    trace::call(symbol, status, arguments);
    status
}

/// Defines exported functions; the module's documentation says what a row is.
macro_rules! exports {
    ($( fn $name:ident $(/ $twin:ident |$null:ident|)? ($($args:tt)*) $body:block )*) => {
        $( $crate::door::row!($name $(/ $twin |$null|)?, ($($args)*), $body); )*
    };
}

/// One row: the body, and one or two exported functions in front of it.
macro_rules! row {
    ($name:ident, ($($arg:ident: $type:ty),* $(,)?), $body:block) => {
        const _: () = {
            $crate::door::body!(($($arg: $type),*), $body);
            $crate::door::export!($name, [], ($($arg: $type),*));
        };
    };
    ($name:ident / $twin:ident |$null:ident|, ($($arg:ident: $type:ty),* $(,)?), $body:block) => {
        const _: () = {
            use $crate::door::NullStream;
            $crate::door::body!(($null: NullStream, $($arg: $type),*), $body);
            $crate::door::export!($name, [NullStream::Legacy,], ($($arg: $type),*));
            $crate::door::export!($twin, [NullStream::PerThread,], ($($arg: $type),*));
        };
    };
}

/// What a row does, whichever of its names was called.
macro_rules! body {
    (($($arg:ident: $type:ty),*), $body:block) => {
        #[allow(unused_unsafe, clippy::too_many_arguments, reason = "the driver's signature; not every body touches pointers")]
        unsafe fn body($($arg: $type),*) -> $crate::door::Answer {
            // SAFETY: the caller keeps the driver's contract: each pointer is null or good for what the call documents.
            unsafe { $body }
        }
    };
}

/// One exported function.
macro_rules! export {
    ($name:ident, [$($null:expr,)?], ($($arg:ident: $type:ty),*)) => {
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments, reason = "the driver's signature")]
        unsafe extern "C" fn $name($($arg: $type),*) -> cuda_sys_stubs::abi::CUresult {
            let arguments = || $crate::trace::arguments!($($arg),*);
            let call = (stringify!($name), const { $crate::abi::version(stringify!($name)) });
            // SAFETY: arguments pass through unchanged under the caller's contract.
            $crate::door::enter(call, arguments, || unsafe { body($($null,)? $($arg),*) })
        }
        const _: cuda_sys_stubs::pfn::$name = $name; // a row that disagrees with the ABI does not compile
    };
}

pub(crate) use {body, export, exports, row};
