#!/usr/bin/env python3
"""A walk through the driver API with cuda-bindings: device, memory, copies, streams, events, a graph.

Every copy is read back and compared. Launches nothing: that is what the other programs do. Prints one JSON line on stdout.
"""

import argparse
import ctypes
import json

from cuda.bindings import driver

from driver_calls import called, context

BYTES = 1 << 20
FILL = 0xA5


def device_facts(device: driver.CUdevice) -> dict:
    attribute = driver.CUdevice_attribute
    return {
        "name": called(driver.cuDeviceGetName(96, device)).split(b"\0")[0].decode(),
        "uuid": bytes(called(driver.cuDeviceGetUuid(device)).bytes).hex(),
        "total_bytes": int(called(driver.cuDeviceTotalMem(device))),
        "sm_count": int(called(driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device))),
        "driver_version": int(called(driver.cuDriverGetVersion())),
    }


def copied_there_and_back(stream: driver.CUstream) -> bool:
    """Host → device → device → host; true when what comes back is what was sent."""
    sent = (ctypes.c_uint8 * BYTES)(*(index % 251 for index in range(BYTES)))
    received = (ctypes.c_uint8 * BYTES)()
    first, second = called(driver.cuMemAlloc(BYTES)), called(driver.cuMemAlloc(BYTES))
    called(driver.cuMemcpyHtoDAsync(first, ctypes.addressof(sent), BYTES, stream))
    called(driver.cuMemcpyDtoDAsync(second, first, BYTES, stream))
    called(driver.cuMemcpyDtoHAsync(ctypes.addressof(received), second, BYTES, stream))
    called(driver.cuStreamSynchronize(stream))
    called(driver.cuMemFree(first))
    called(driver.cuMemFree(second))
    return bytes(sent) == bytes(received)


def filled(stream: driver.CUstream) -> bool:
    """Memset on the device, seen from the host; stream-ordered memory."""
    received = (ctypes.c_uint8 * BYTES)()
    pointer = called(driver.cuMemAllocAsync(BYTES, stream))
    called(driver.cuMemsetD8Async(pointer, FILL, BYTES, stream))
    called(driver.cuMemcpyDtoHAsync(ctypes.addressof(received), pointer, BYTES, stream))
    called(driver.cuMemFreeAsync(pointer, stream))
    called(driver.cuStreamSynchronize(stream))
    return bytes(received) == bytes([FILL]) * BYTES


def captured(stream: driver.CUstream) -> dict:
    """A memset and a copy, captured from a stream and launched as a graph."""
    received = (ctypes.c_uint8 * BYTES)()
    pointer = called(driver.cuMemAlloc(BYTES))
    called(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
    called(driver.cuMemsetD8Async(pointer, FILL, BYTES, stream))
    called(driver.cuMemcpyDtoHAsync(ctypes.addressof(received), pointer, BYTES, stream))
    graph = called(driver.cuStreamEndCapture(stream))
    executable = called(driver.cuGraphInstantiate(graph, 0))
    untouched = bytes(received) == bytes(BYTES)
    called(driver.cuGraphLaunch(executable, stream))
    called(driver.cuStreamSynchronize(stream))
    _, nodes = called(driver.cuGraphGetNodes(graph, 8))
    called(driver.cuGraphExecDestroy(executable))
    called(driver.cuGraphDestroy(graph))
    called(driver.cuMemFree(pointer))
    return {"nothing_ran_during_capture": untouched, "ran_at_launch": bytes(received) == bytes([FILL]) * BYTES, "nodes": int(nodes)}


def elapsed_ms(stream: driver.CUstream) -> float:
    """What events say that a copy of 64 MiB took on the device."""
    bytes_copied = 64 << 20
    pointer = called(driver.cuMemAlloc(bytes_copied))
    host = called(driver.cuMemHostAlloc(bytes_copied, 0))
    begin, end = called(driver.cuEventCreate(0)), called(driver.cuEventCreate(0))
    called(driver.cuEventRecord(begin, stream))
    called(driver.cuMemcpyHtoDAsync(pointer, host, bytes_copied, stream))
    called(driver.cuEventRecord(end, stream))
    called(driver.cuEventSynchronize(end))
    milliseconds = called(driver.cuEventElapsedTime(begin, end))
    for event in (begin, end):
        called(driver.cuEventDestroy(event))
    called(driver.cuMemFreeHost(host))
    called(driver.cuMemFree(pointer))
    return float(milliseconds)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with context() as device:
        stream = called(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        record = {
            "program": "bindings",
            **device_facts(device),
            "copied_there_and_back": copied_there_and_back(stream),
            "filled": filled(stream),
            "captured": captured(stream),
            "copy_64_mib_ms": round(elapsed_ms(stream), 3),
            "nonsense_free": driver.cuMemFree(12345)[0].name,
        }
        called(driver.cuStreamDestroy(stream))
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
