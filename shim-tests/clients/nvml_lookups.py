#!/usr/bin/env python3
"""Where every function that nvidia-ml-py ever asks for leads: file and symbol, or null where the library has none.

Prints one JSON line on stdout.
"""

import argparse
import ctypes
import inspect
import json
import re
from pathlib import Path

import pynvml

ASKED = re.compile(r"_nvmlGetFunctionPointer\([\"'](\w+)[\"']\)")


class Place(ctypes.Structure):
    """`Dl_info` (dladdr(3))."""

    _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p), ("symbol", ctypes.c_char_p), ("address", ctypes.c_void_p)]


def place(name: str) -> list[str] | None:
    try:
        function = pynvml._nvmlGetFunctionPointer(name)  # by which every call of the package goes
    except pynvml.NVMLError_FunctionNotFound:
        return None
    found = Place()
    ctypes.CDLL(None).dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(found))
    return [Path(found.file.decode()).name, found.symbol.decode()]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    pynvml.nvmlInit()
    names = sorted(set(ASKED.findall(inspect.getsource(pynvml))))
    print(json.dumps({"program": "nvml_lookups", "places": {name: place(name) for name in names}}), flush=True)
    pynvml.nvmlShutdown()


if __name__ == "__main__":
    main()
