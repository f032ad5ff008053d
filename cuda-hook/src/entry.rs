//! The one door from C into this library: every hooked symbol comes through [`enter`] or [`enter_attached`].
//!
//! In this order: no limits → the driver, after one atomic load, which the exported function itself makes; a refused
//! configuration → the answer that fails closed;
//! inside already → the driver, whose own calls are not the application's; poisoned → the answer that fails closed;
//! otherwise the hook, and a panic in it ends here.
#![expect(
    unsafe_code,
    reason = "owns the real library of a process without limits behind an atomic pointer"
)]

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use cuda_sys_stubs::Effect;
use cuda_sys_stubs::abi::{self, CUDA_ERROR_OUT_OF_MEMORY, CUresult};
use cuda_sys_stubs::nvml_abi;

use crate::driver::{Driver, Nvml};
use crate::hooks::measure::owed;
use crate::refusal;
use crate::runtime::{self, Attachment, Runtime, Stance};
use crate::thread::{Inside, Thread};
use crate::{config_file, log};

/// One of the two libraries that we stand in front of. Both answer with an unsigned integer, 0 for success.
pub(crate) trait Api {
    /// The real library.
    type Library: 'static;
    /// What a call answers when the real library cannot be loaded.
    const NO_LIBRARY: u32;
    /// What a call answers when the real library lacks its function.
    const NO_FUNCTION: u32;
    /// What a call answers that would escape limits which cannot be enforced.
    const UNENFORCEABLE: u32;
    /// What a call answers in a poisoned process.
    const POISONED: u32;

    /// The real library, opened at first use.
    fn library(runtime: &'static Runtime) -> Option<&'static Self::Library>;
    /// The same in a process without limits, from the first call on that came through the door.
    fn open() -> &'static AtomicPtr<Self::Library>;
}

/// The driver of a process that is known to have no limits.
pub(crate) static OPEN_DRIVER: AtomicPtr<Driver> = AtomicPtr::new(ptr::null_mut());

/// The CUDA driver API.
pub(crate) struct Cuda;

impl Api for Cuda {
    type Library = Driver;
    const NO_LIBRARY: CUresult = abi::CUDA_ERROR_SHARED_OBJECT_INIT_FAILED;
    const NO_FUNCTION: CUresult = abi::CUDA_ERROR_NOT_FOUND;
    const UNENFORCEABLE: CUresult = abi::CUDA_ERROR_INVALID_VALUE;
    const POISONED: CUresult = abi::CUDA_ERROR_UNKNOWN;

    fn library(runtime: &'static Runtime) -> Option<&'static Driver> {
        runtime.driver().ok()
    }

    fn open() -> &'static AtomicPtr<Driver> {
        &OPEN_DRIVER
    }
}

/// The NVIDIA management library.
pub(crate) struct Management;

impl Api for Management {
    type Library = Nvml;
    const NO_LIBRARY: u32 = nvml_abi::NVML_ERROR_LIBRARY_NOT_FOUND;
    const NO_FUNCTION: u32 = nvml_abi::NVML_ERROR_FUNCTION_NOT_FOUND;
    const UNENFORCEABLE: u32 = nvml_abi::NVML_ERROR_UNKNOWN;
    const POISONED: u32 = nvml_abi::NVML_ERROR_UNKNOWN;

    fn library(runtime: &'static Runtime) -> Option<&'static Nvml> {
        runtime.nvml()
    }

    fn open() -> &'static AtomicPtr<Nvml> {
        static OPEN: AtomicPtr<Nvml> = AtomicPtr::new(ptr::null_mut());
        &OPEN
    }
}

/// The real library of a process that is known to have no limits.
#[inline]
pub(crate) fn without_limits<A: Api>() -> Option<&'static A::Library> {
    // SAFETY: null, or stored below from a reference for good.
    unsafe { A::open().load(Ordering::Acquire).as_ref() }
}

/// There are no limits in this process, and never will be: from now on its calls need not come in here.
fn open_for_good<A: Api>(library: &'static A::Library) {
    A::open().store(ptr::from_ref(library).cast_mut(), Ordering::Release);
}

/// What a hook works with that needs no attachment.
pub(crate) struct Bare<A: Api> {
    /// What the process knows.
    pub(crate) runtime: &'static Runtime,
    library: &'static A::Library,
}

impl<A: Api> Bare<A> {
    /// The real library.
    pub(crate) fn library(&self) -> &'static A::Library {
        self.library
    }
}

/// What a hook of an attached process works with.
#[derive(Clone, Copy)]
pub(crate) struct Cx {
    /// The real driver.
    pub(crate) driver: &'static Driver,
    /// This process's place among its container's.
    pub(crate) attachment: &'static Attachment,
}

impl Cx {
    /// The real library.
    pub(crate) fn library(&self) -> &'static Driver {
        self.driver
    }
}

/// A row of the table, as the door has to know it.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// The hooked symbol.
    pub(crate) symbol: &'static str,
    /// What it does to a quota.
    pub(crate) effect: Effect,
}

/// Whether a call with this effect may go on when limits cannot be enforced.
fn escapes_limits(effect: Effect) -> bool {
    matches!(effect, Effect::Attach | Effect::Charge | Effect::Throttle)
}

/// Whether a call with this effect allocates or frees.
fn moves_memory(effect: Effect) -> bool {
    matches!(effect, Effect::Charge | Effect::Uncharge)
}

/// Whether a call with this effect hands out the very functions that must not be got around.
fn hands_out_functions(effect: Effect) -> bool {
    effect == Effect::Lookup
}

/// The door for rows that need no attachment.
#[inline]
pub(crate) fn enter<A: Api>(
    Row { effect, .. }: Row,
    forward: impl Fn(&'static A::Library) -> u32,
    hook: impl FnOnce(Bare<A>) -> u32,
) -> u32 {
    let runtime = runtime::get();
    let Some(library) = A::library(runtime) else {
        return without_library::<A>(runtime, effect);
    };
    match runtime.stance() {
        Stance::Open(_) => {
            open_for_good::<A>(library);
            forward(library)
        }
        Stance::Refused(refusal) if escapes_limits(effect) => {
            refusal.say_once();
            A::UNENFORCEABLE
        }
        Stance::Refused(_) if !hands_out_functions(effect) => forward(library),
        Stance::Refused(_) | Stance::Limited(_) => guarded::<A>(
            &POISONED,
            effect,
            || forward(library),
            |_thread| hook(Bare { runtime, library }),
        ),
    }
}

/// There is nothing to forward to: what somebody has to see to is said where a program begins.
#[cold]
fn without_library<A: Api>(runtime: &Runtime, effect: Effect) -> u32 {
    if escapes_limits(effect)
        && let Some(complaint) = runtime.complaint()
    {
        complaint.say_once();
        return A::UNENFORCEABLE;
    }
    A::NO_LIBRARY
}

/// The door for rows of an attached process. Before `cuInit` there is nothing to attach to: the driver answers.
#[inline]
pub(crate) fn enter_attached<A: Api<Library = Driver>>(
    row: Row,
    forward: impl Fn(&'static Driver) -> u32,
    hook: impl FnOnce(Cx) -> u32,
) -> u32 {
    let cx = match runtime::attached() {
        Some(cx) => cx,
        None => match attached_now::<A>(row) {
            Entered::Attached(cx) => cx,
            Entered::Bare(driver) => return forward(driver),
            Entered::Answered(status) => return status,
        },
    };
    guarded::<A>(
        &POISONED,
        row.effect,
        || forward(cx.driver),
        |thread| {
            config_file::look(cx.attachment);
            owed::pay(cx);
            let _under_way = moves_memory(row.effect).then(|| cx.attachment.quiet.begin(thread));
            let status = hook(cx);
            if status == CUDA_ERROR_OUT_OF_MEMORY {
                tell_refusal(cx, row, thread);
            }
            status
        },
    )
}

/// The driver of an attached process, for a call about which there is nothing to be done: it is `steady`, and no other call left anything
/// to do. The thread does not count as inside: should the driver's function call another that is hooked, that is its own to look at.
/// `None`: the door is to be taken.
#[inline]
pub(crate) fn straight(is_steady: impl FnOnce(Cx) -> bool) -> Option<&'static Driver> {
    let cx = runtime::attached()?;
    let passes = !POISONED.load(Ordering::Relaxed)
        && !config_file::is_due(cx.attachment)
        && !owed::is_due(cx)
        && is_steady(cx);
    passes.then_some(cx.driver)
}

/// What becomes of a call that finds the process not attached.
enum Entered {
    /// It goes on as a hook, with this.
    Attached(Cx),
    /// The driver answers.
    Bare(&'static Driver),
    /// It is answered.
    Answered(u32),
}

#[cold]
fn attached_now<A: Api<Library = Driver>>(row: Row) -> Entered {
    let entered = Cell::new(None);
    let enters = |how| {
        entered.set(Some(how));
        abi::CUDA_SUCCESS
    };
    let status = enter::<A>(
        row,
        |driver| enters(Entered::Bare(driver)),
        |Bare {
             runtime,
             library: driver,
         }| match runtime.attachment(driver) {
            Ok(Some(attachment)) => enters(Entered::Attached(runtime::note_attached(Cx {
                driver,
                attachment,
            }))),
            Err(unusable) if escapes_limits(row.effect) => {
                unusable.say_once();
                A::UNENFORCEABLE
            }
            Ok(None) | Err(_) => enters(Entered::Bare(driver)),
        },
    );
    entered.take().unwrap_or(Entered::Answered(status))
}

/// Says why the call is refused, if it is us.
#[cold]
fn tell_refusal(cx: Cx, row: Row, thread: &Thread) {
    if let Some((device_index, over)) = thread.over_quota() {
        refusal::tell(cx.attachment, row.symbol, device_index, over);
    }
}

/// A hook that panicked: limits are not to be trusted, nor lifted.
static POISONED: AtomicBool = AtomicBool::new(false);

#[inline]
fn guarded<A: Api>(
    poisoned: &AtomicBool,
    effect: Effect,
    forward: impl Fn() -> u32,
    hook: impl FnOnce(&Thread) -> u32,
) -> u32 {
    let work = |inside: Inside| within::<A>(poisoned, effect, &forward, || hook(&inside));
    Thread::enter(work).unwrap_or_else(&forward)
}

#[inline]
fn within<A: Api>(
    poisoned: &AtomicBool,
    effect: Effect,
    forward: impl Fn() -> u32,
    hook: impl FnOnce() -> u32,
) -> u32 {
    if poisoned.load(Ordering::Relaxed) && !hands_out_functions(effect) {
        return if escapes_limits(effect) {
            A::POISONED
        } else {
            forward()
        };
    }
    // The driver may have been called before the panic: calling it again could run the call twice.
    panic::catch_unwind(AssertUnwindSafe(hook)).unwrap_or_else(|_panic| {
        poisoned.store(true, Ordering::Relaxed);
        A::POISONED
    })
}

/// Makes a panic one line on stderr. Ours alone: the program's own `std`, if it has one, is another.
pub(crate) fn report_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let message = panic
            .payload_as_str()
            .unwrap_or_default()
            .replace('\n', " ");
        log::line(format_args!(
            "cuda-hook: panicked at {place}: {message}; allocations and launches of this process fail from now on"
        ));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_that_is_entered_from_inside_is_bypassed() {
        let answer = guarded::<Cuda>(
            &POISONED,
            Effect::Charge,
            || 1,
            |_| guarded::<Cuda>(&POISONED, Effect::Charge, || 2, |_| 3),
        );
        assert_eq!(answer, 2);
        let afterwards = guarded::<Cuda>(&POISONED, Effect::Charge, || 1, |_| 4);
        assert_eq!(afterwards, 4, "the outer call has left");
    }

    #[test]
    fn a_panic_closes_charges_and_launches_and_nothing_else() {
        let poisoned = AtomicBool::new(false);
        let enter =
            |effect, hook: fn() -> u32| guarded::<Cuda>(&poisoned, effect, || 7, |_| hook());
        assert_eq!(
            enter(Effect::Report, || panic!("on purpose")),
            abi::CUDA_ERROR_UNKNOWN
        );
        assert_eq!(enter(Effect::Charge, || 0), abi::CUDA_ERROR_UNKNOWN);
        assert_eq!(enter(Effect::Throttle, || 0), abi::CUDA_ERROR_UNKNOWN);
        assert_eq!(enter(Effect::Attach, || 0), abi::CUDA_ERROR_UNKNOWN);
        assert_eq!(enter(Effect::Uncharge, || 0), 7, "forwarded");
        assert_eq!(
            enter(Effect::Lookup, || 0),
            0,
            "hooked: it must not hand out what is closed"
        );
    }
}
