"""What the programs on cuda-bindings share: a checked call, and a context for as long as it is needed."""

from collections.abc import Iterator
from contextlib import contextmanager

from cuda.bindings import driver


class DriverError(RuntimeError):
    """A driver call that did not succeed; says the status as the driver names it."""


def called(answer: tuple) -> object:
    """The results of a cuda-bindings call, whose answer is (status, results…); a status but success is raised."""
    status, *results = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise DriverError(status.name)
    if len(results) > 1:
        return tuple(results)
    return results[0] if results else None


@contextmanager
def context(ordinal: int = 0) -> Iterator[driver.CUdevice]:
    """The primary context of a device, current for this thread."""
    called(driver.cuInit(0))
    device = called(driver.cuDeviceGet(ordinal))
    called(driver.cuCtxSetCurrent(called(driver.cuDevicePrimaryCtxRetain(device))))
    try:
        yield device
    finally:
        called(driver.cuDevicePrimaryCtxRelease(device))
