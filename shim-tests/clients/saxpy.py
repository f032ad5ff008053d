#!/usr/bin/env python3
"""y = a·x + y with cuda-core: NVRTC compiles it, a stream of its own runs it, events time it.

The result is compared with the host's; a simulated GPU computes nothing, which is said, not hidden ("computed": false).
Prints one JSON line on stdout.
"""

import argparse
import ctypes
import json
import sys

from cuda.bindings import driver
from cuda.core import Device, EventOptions, LaunchConfig, Program, ProgramOptions, launch

from driver_calls import called

SOURCE = """
extern "C" __global__ void saxpy(const float a, const float *x, float *y, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) y[i] = a * x[i] + y[i];
}
"""
FACTOR = 3.0
THREADS_PER_BLOCK = 256


def compiled(device: Device):
    program = Program(SOURCE, "c++", ProgramOptions(arch=f"sm_{device.arch}"))
    return program.compile("cubin").get_kernel("saxpy")


def uploaded(device: Device, stream, numbers):
    buffer = device.allocate(ctypes.sizeof(numbers), stream=stream)
    called(driver.cuMemcpyHtoDAsync(int(buffer.handle), ctypes.addressof(numbers), ctypes.sizeof(numbers), stream.handle))
    return buffer


def run(device: Device, count: int, launches: int) -> dict:
    stream = device.create_stream()
    kernel = compiled(device)
    host_x, host_y = (ctypes.c_float * count)(*range(count)), (ctypes.c_float * count)(*([1.0] * count))
    x, y = uploaded(device, stream, host_x), uploaded(device, stream, host_y)
    config = LaunchConfig(grid=(count + THREADS_PER_BLOCK - 1) // THREADS_PER_BLOCK, block=THREADS_PER_BLOCK)
    options = EventOptions(timing_enabled=True)
    began = stream.record(options=options)
    for _ in range(launches):
        launch(stream, config, kernel, ctypes.c_float(FACTOR), x, y, ctypes.c_size_t(count))
    ended = stream.record(options=options)
    called(driver.cuMemcpyDtoHAsync(ctypes.addressof(host_y), int(y.handle), ctypes.sizeof(host_y), stream.handle))
    stream.sync()
    expected = [1.0 + launches * FACTOR * index for index in range(0, count, 97)]
    return {"device_ms": round(ended - began, 4), "computed": list(host_y[::97]) == expected}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1 << 16, metavar="N", help="numbers in a vector (default: %(default)s)")
    parser.add_argument("--launches", type=int, default=4, metavar="N", help="how often (default: %(default)s)")
    parser.add_argument("--stay", action="store_true", help="keep the device, when done, until the end of stdin")
    args = parser.parse_args()
    device = Device(0)
    device.set_current()
    print(
        json.dumps({"program": "saxpy", "count": args.count, "launches": args.launches, **run(device, args.count, args.launches)}),
        flush=True,
    )
    if args.stay:
        sys.stdin.read()


if __name__ == "__main__":
    main()
