#!/usr/bin/env python3
"""y = a·x + y with numba-cuda: NVVM compiles it, the driver links it, a stream of its own runs it.

The result is compared with the host's; a simulated GPU computes nothing, which is said, not hidden ("computed": false).
Prints one JSON line on stdout.
"""

import argparse
import json
import warnings

import numpy
from numba import cuda

FACTOR = numpy.float32(3.0)
THREADS_PER_BLOCK = 256


@cuda.jit
def saxpy(a, x, y):
    index = cuda.grid(1)
    if index < x.size:
        y[index] = a * x[index] + y[index]


def run(count: int, launches: int) -> dict:
    stream = cuda.stream()
    host_x, host_y = numpy.arange(count, dtype=numpy.float32), numpy.ones(count, dtype=numpy.float32)
    x, y = cuda.to_device(host_x, stream), cuda.to_device(host_y, stream)
    began, ended = cuda.event(), cuda.event()
    began.record(stream)
    for _ in range(launches):
        saxpy[(count + THREADS_PER_BLOCK - 1) // THREADS_PER_BLOCK, THREADS_PER_BLOCK, stream](FACTOR, x, y)
    ended.record(stream)
    copied, result = x.copy_to_host(stream=stream), y.copy_to_host(stream=stream)
    stream.synchronize()
    return {
        "device_ms": round(cuda.event_elapsed_time(began, ended), 4),
        "copied": bool((copied == host_x).all()),
        "computed": bool(numpy.allclose(result, host_y + launches * FACTOR * host_x)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1 << 16, metavar="N", help="numbers in a vector (default: %(default)s)")
    parser.add_argument("--launches", type=int, default=4, metavar="N", help="how often (default: %(default)s)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # small grids, and an optional linker that is not installed
    memory = cuda.current_context().get_memory_info()
    record = {"program": "numba_saxpy", "free_bytes": memory.free, "total_bytes": memory.total}
    print(json.dumps({**record, **run(args.count, args.launches)}), flush=True)


if __name__ == "__main__":
    main()
