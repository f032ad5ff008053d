"""The calls whose instructions and system calls are counted, and how: a program makes so many of them, and so many more, beside a driver
that does nothing, and the difference of two counts is that of the calls. Only the standard library."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()
RELEASE = TARGET / "release"
HOOK = TARGET / "dist/libcuda_hook.so"  # as it is shipped (scripts/build --dist)
DRIVER = RELEASE / "libnull_driver.so"

NO_LIMITS = "no limits"
MEMORY = "memory = 8GiB"
SHARE = "memory = 8GiB, sm = 50, sm_max = 100"
WORLDS = {
    NO_LIMITS: {},
    MEMORY: {"CUDA_HOOK_MEMORY": "8GiB"},
    SHARE: {"CUDA_HOOK_MEMORY": "8GiB", "CUDA_HOOK_SM": "50", "CUDA_HOOK_SM_MAX": "100"},
}
CASES = (
    "cuGetProcAddress_v2",
    "cuMemGetInfo_v2",
    "last in first out",
    "random",
    "cuMemAllocAsync",
    "more than there is",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cuGraphLaunch",
)
# Where launches are priced, nobody launches faster than a device could run what is launched.
PACED = ("cuLaunchKernel, one in 20 µs", "cuLaunchKernelEx, one in 20 µs", "cuGraphLaunch, one in 20 µs")
CASES_OF = {NO_LIMITS: CASES, MEMORY: CASES, SHARE: PACED}
NAMES = {"last in first out": "cuMemAlloc_v2 + cuMemFree_v2", "random": "cuMemFree_v2 + cuMemAlloc_v2, one of 1000"}
LIVE = {"random": 1000}
CALLS = (1000, 3000)  # a side is called twice as often: to warm up, and then


def name_of(case: str) -> str:
    """What a case is called where its figures are written down."""
    return NAMES.get(case, case)


def per_call(count: Callable[[list[str], dict[str, str]], int], world: str, case: str, side: str) -> float:
    """What `count` makes of a command and its environment, for one call of the driver's (`driver`) or the preload's (`hooked`)."""
    few, many = (of_run(count, world, case, side, calls) for calls in CALLS)
    return (many - few) / (2 * (CALLS[1] - CALLS[0]))


def of_run(count: Callable[[list[str], dict[str, str]], int], world: str, case: str, side: str, calls: int) -> int:
    program = [RELEASE / "call-cost", "--hook", HOOK, "--driver", DRIVER, "--side", side]
    what = ["--calls", calls, "--live", LIVE.get(case, 0), "--only", case]
    with tempfile.TemporaryDirectory() as state:
        environment = {"CUDA_HOOK_DRIVER": str(DRIVER), "CUDA_HOOK_DIR": state, **WORLDS[world]}
        return count([str(word) for word in program + what], environment)
