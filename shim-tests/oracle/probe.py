#!/usr/bin/env python3
"""Asks a library for symbols and says where each leads. Reads requests as JSON from stdin, writes the answers as JSON.

    probe.py LIBRARY

Requests: {"dlsym": [name, …], "get_proc_address": [[name, version, flags], …]}. An answer is null, or the file and the symbol
that stand at the address, and its offset in the file; those of cuGetProcAddress are by version of that function, each with its
status and (version 2) what it says of the symbol. For the driver also: what its start answers.
"""

import ctypes
import json
import sys
from ctypes import byref, c_char_p, c_int, c_uint64, c_void_p


class Place(ctypes.Structure):
    """`Dl_info` (dladdr(3))."""

    _fields_ = [("file", c_char_p), ("base", c_void_p), ("symbol", c_char_p), ("address", c_void_p)]


class Untouched:
    """What is in an out-pointer that nobody wrote to."""

    VALUE = 0x5A5A5A5A


def place(address: int | None) -> list | None:
    if not address:
        return None
    if address == Untouched.VALUE:
        return ["untouched", "", 0]
    found = Place()
    if not ctypes.CDLL(None).dladdr(c_void_p(address), byref(found)):
        return ["nowhere", "", address]
    return [found.file.decode(), (found.symbol or b"").decode(), address - (found.base or 0)]


def by_name(library: ctypes.CDLL, name: str) -> list | None:
    try:
        return place(ctypes.cast(getattr(library, name), c_void_p).value)
    except AttributeError:
        return None


def by_pointer(library: ctypes.CDLL, request: list) -> dict:
    name, version, flags = request
    answers = {}
    for api, symbol in ((1, "cuGetProcAddress"), (2, "cuGetProcAddress_v2")):
        if not hasattr(library, symbol):
            continue
        found, says = c_void_p(Untouched.VALUE), c_int(-1)
        arguments = [name.encode(), byref(found), c_int(version), c_uint64(flags)]
        status = getattr(library, symbol)(*arguments, *([byref(says)] if api == 2 else []))
        answers[api] = [status, says.value, place(found.value)]
    return answers


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    requests = json.load(sys.stdin)
    answers = {
        "dlsym": {name: by_name(library, name) for name in requests["dlsym"]},
        "get_proc_address": [by_pointer(library, request) for request in requests["get_proc_address"]],
    }
    if sys.argv[1].startswith("libcuda"):
        answers["init"] = library.cuInit(0)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
