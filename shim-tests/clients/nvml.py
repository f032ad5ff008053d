#!/usr/bin/env python3
"""What NVML says of every GPU, through nvidia-ml-py: names, memory (v1 and v2), compute processes.

Prints one JSON line on stdout.
"""

import argparse
import json

import pynvml


def memory(handle, version: int | None) -> dict:
    info = pynvml.nvmlDeviceGetMemoryInfo(handle, version) if version else pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {"total_bytes": info.total, "free_bytes": info.free, "used_bytes": info.used}


def gpu(index: int) -> dict:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return {
        "name": pynvml.nvmlDeviceGetName(handle),
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "memory_v1": memory(handle, None),
        "memory_v2": memory(handle, pynvml.nvmlMemory_v2),
        "processes": [
            {"pid": process.pid, "used_bytes": process.usedGpuMemory} for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        ],
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    pynvml.nvmlInit()
    try:
        record = {
            "program": "nvml",
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "gpus": [gpu(index) for index in range(pynvml.nvmlDeviceGetCount())],
        }
    finally:
        pynvml.nvmlShutdown()
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
