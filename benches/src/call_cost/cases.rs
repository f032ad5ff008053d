//! What is measured: calls, made so many times on one of the two sides.

use std::ptr;
use std::time::{Duration, Instant};

use cuda_sys_stubs::abi::{CUdeviceptr, CUlaunchConfig};

use super::driver::{Calls, Context};

/// What a side has at hand beside its library.
pub(crate) struct Side<'a> {
    pub(crate) calls: &'a Calls,
    pub(crate) context: &'a Context,
    /// Blocks that stay allocated; which of them is freed and allocated anew is the case's choice.
    pub(crate) live: Vec<CUdeviceptr>,
    /// Where a random choice stands.
    pub(crate) random: u64,
}

/// A call that is measured.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Side, u32),
    /// Blocks are alive meanwhile, in as many numbers as were asked for.
    pub(crate) beside_live: bool,
    /// Driver calls that one of these stands for, a pair counting as one: the more, the fewer are made in a batch.
    pub(crate) driver_calls: u32,
    /// What each call waits for before it is made; such calls are looked at one by one only. A limiter that prices kernels by the time
    /// that the driver says they take lets nobody launch faster than a device could run them.
    pub(crate) pause: Duration,
}

/// Twice what the driver that does nothing says that a kernel takes, so that credit is in hand.
const PAUSE: Duration = Duration::from_micros(20);

const fn paced(name: &'static str, run: fn(&mut Side, u32)) -> Case {
    Case {
        pause: PAUSE,
        ..case(name, run)
    }
}

const fn case(name: &'static str, run: fn(&mut Side, u32)) -> Case {
    Case {
        name,
        run,
        beside_live: false,
        driver_calls: 1,
        pause: Duration::ZERO,
    }
}

const fn beside_live(name: &'static str, run: fn(&mut Side, u32)) -> Case {
    Case {
        beside_live: true,
        ..case(name, run)
    }
}

/// All of them.
pub(crate) const CASES: &[Case] = &[
    case("cuGetProcAddress_v2", look_up),
    case("cuMemGetInfo_v2", memory_info),
    beside_live(
        "cuMemAlloc_v2 + cuMemFree_v2, last in first out",
        allocate_and_free,
    ),
    beside_live("cuMemFree_v2 + cuMemAlloc_v2, random", replace_one),
    case(
        "cuMemAllocAsync + cuMemFreeAsync",
        allocate_and_free_in_order,
    ),
    case("cuMemAlloc_v2, more than there is", allocate_too_much),
    case("cuLaunchKernel", launch),
    case("cuLaunchKernelEx", launch_ex),
    case("cuGraphLaunch", launch_graph),
    paced("cuLaunchKernel, one in 20 µs", launch),
    paced("cuLaunchKernelEx, one in 20 µs", launch_ex),
    paced("cuGraphLaunch, one in 20 µs", launch_graph),
    case("cuMemcpyHtoD_v2, not hooked", copy_to_device),
    Case {
        driver_calls: FORWARD_LAUNCHES * (1 + DEVICE_QUESTIONS) + STATE_QUESTIONS,
        ..case("an eager forward of PyTorch", forward)
    },
];

/// What an eager forward of ResNet-50 asks of the driver once its allocator has all that it needs, in round numbers: 200
/// launches, 2,200 `cuCtxGetDevice` and 760 `cuDevicePrimaryCtxGetState`, no allocation.
const FORWARD_LAUNCHES: u32 = 200;
/// `cuCtxGetDevice` before each launch.
const DEVICE_QUESTIONS: u32 = 11;
/// `cuDevicePrimaryCtxGetState` in a forward.
const STATE_QUESTIONS: u32 = 760;

/// The size of blocks, small enough for a million of them on any device.
const BLOCK_BYTES: usize = 4096;

impl Case {
    /// Makes so many calls, with what each waits for.
    pub(crate) fn run(&self, side: &mut Side, calls: u32) {
        if self.pause.is_zero() {
            return (self.run)(side, calls);
        }
        for _ in 0..calls {
            self.wait();
            (self.run)(side, 1);
        }
    }

    /// What comes before a call that is looked at alone. A thread that slept would wake up to cold caches.
    pub(crate) fn wait(&self) {
        let began = Instant::now();
        while began.elapsed() < self.pause {
            std::hint::spin_loop();
        }
    }
}

impl Side<'_> {
    fn allocate(&self) -> CUdeviceptr {
        let mut pointer = 0;
        // SAFETY: an out-pointer to a live variable.
        unsafe { (self.calls.mem_alloc)(&raw mut pointer, BLOCK_BYTES) };
        pointer
    }

    fn free(&self, pointer: CUdeviceptr) {
        // SAFETY: a block that was allocated here, and is used by nobody.
        unsafe { (self.calls.mem_free)(pointer) };
    }

    /// Has `count` blocks be alive.
    pub(crate) fn keep(&mut self, count: usize) {
        while let Some(pointer) = (self.live.len() > count).then(|| self.live.pop()).flatten() {
            self.free(pointer);
        }
        while self.live.len() < count {
            self.live.push(self.allocate());
        }
    }

    /// An index into what lives: xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
    fn any(&mut self) -> Option<usize> {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random)
            .ok()?
            .checked_rem(self.live.len())
    }
}

fn look_up(side: &mut Side, calls: u32) {
    for _ in 0..calls {
        let (mut address, mut found) = (ptr::null_mut(), 0);
        // SAFETY: a C string, and out-pointers to live variables.
        unsafe {
            (side.calls.get_proc_address)(
                c"cuMemAlloc".as_ptr(),
                &raw mut address,
                12_000,
                0,
                &raw mut found,
            )
        };
    }
}

fn memory_info(side: &mut Side, calls: u32) {
    let (mut free, mut total) = (0, 0);
    for _ in 0..calls {
        // SAFETY: out-pointers to live variables.
        unsafe { (side.calls.mem_get_info)(&raw mut free, &raw mut total) };
    }
}

fn allocate_and_free(side: &mut Side, calls: u32) {
    for _ in 0..calls {
        side.free(side.allocate());
    }
}

fn replace_one(side: &mut Side, calls: u32) {
    for _ in 0..calls {
        let any = side.any();
        let Some(place) = any.and_then(|index| {
            side.live
                .get(index)
                .copied()
                .map(|pointer| (index, pointer))
        }) else {
            side.free(side.allocate());
            continue;
        };
        side.free(place.1);
        let pointer = side.allocate();
        if let Some(kept) = side.live.get_mut(place.0) {
            *kept = pointer;
        }
    }
}

fn allocate_and_free_in_order(side: &mut Side, calls: u32) {
    for _ in 0..calls {
        let mut pointer = 0;
        // SAFETY: an out-pointer to a live variable, the default stream, and the free of what was just allocated.
        unsafe {
            (side.calls.mem_alloc_async)(&raw mut pointer, BLOCK_BYTES, ptr::null_mut());
            (side.calls.mem_free_async)(pointer, ptr::null_mut());
        }
    }
}

/// More than any device or quota has.
const TOO_MUCH_BYTES: usize = 1 << 50;

fn allocate_too_much(side: &mut Side, calls: u32) {
    for _ in 0..calls {
        let mut pointer = 0;
        // SAFETY: an out-pointer to a live variable.
        unsafe { (side.calls.mem_alloc)(&raw mut pointer, TOO_MUCH_BYTES) };
    }
}

fn launch(side: &mut Side, calls: u32) {
    let (function, none) = (side.context.function, ptr::null_mut());
    for _ in 0..calls {
        // SAFETY: a function of the current context, which takes no parameters, on the default stream.
        unsafe {
            (side.calls.launch_kernel)(function, 1, 1, 1, 32, 1, 1, 0, ptr::null_mut(), none, none)
        };
    }
}

fn launch_ex(side: &mut Side, calls: u32) {
    let config = CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: ptr::null_mut(),
        attrs: ptr::null_mut(),
        numAttrs: 0,
    };
    let none = ptr::null_mut();
    for _ in 0..calls {
        // SAFETY: as in `launch`.
        unsafe {
            (side.calls.launch_kernel_ex)(&raw const config, side.context.function, none, none)
        };
    }
}

fn launch_graph(side: &mut Side, calls: u32) {
    for _ in 0..calls {
        // SAFETY: an executable graph of the current context, on the default stream.
        unsafe { (side.calls.graph_launch)(side.context.graph, ptr::null_mut()) };
    }
}

fn copy_to_device(side: &mut Side, calls: u32) {
    let (block, word) = (side.allocate(), [0_u8; 4]);
    for _ in 0..calls {
        // SAFETY: as many bytes on both sides.
        unsafe { (side.calls.copy_to_device)(block, word.as_ptr().cast(), word.len()) };
    }
    side.free(block);
}

/// Questions and launches in the order in which an eager framework makes them: operator by operator.
fn forward(side: &mut Side, forwards: u32) {
    for _ in 0..forwards {
        for operator in 0..FORWARD_LAUNCHES {
            (0..DEVICE_QUESTIONS).for_each(|_| ask_device(side));
            (state_questions_before(operator)..state_questions_before(operator + 1))
                .for_each(|_| ask_state(side));
            launch(side, 1);
        }
    }
}

/// The questions for a context's state are spread evenly over the operators.
const fn state_questions_before(operator: u32) -> u32 {
    operator * STATE_QUESTIONS / FORWARD_LAUNCHES
}

fn ask_device(side: &Side) {
    let mut device = 0;
    // SAFETY: an out-pointer to a live variable.
    unsafe { (side.calls.ctx_get_device)(&raw mut device) };
}

fn ask_state(side: &Side) {
    let (mut flags, mut active) = (0, 0);
    // SAFETY: out-pointers to live variables.
    unsafe {
        (side.calls.primary_ctx_get_state)(side.context.device, &raw mut flags, &raw mut active)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_all_the_calls_that_it_stands_for() {
        assert_eq!(state_questions_before(0), 0);
        assert_eq!(state_questions_before(FORWARD_LAUNCHES), STATE_QUESTIONS);
        let case = CASES.iter().find(|case| case.driver_calls > 1).unwrap();
        assert_eq!(case.driver_calls, 200 + 2_200 + 760);
    }
}
