#!/usr/bin/env python3
"""Takes device memory, chunk by chunk, until the driver refuses: how much did it get, and what was it told?

Speaks to the driver through cuda-bindings. Prints one JSON line on stdout when it got all it can get; then, with --seconds,
holds what it has and goes on asking, as a program does that retries, and prints a second line with the answers, counted. With --stay,
holds what it has until the end of stdin.
"""

import argparse
import json
import sys
import time

from cuda.bindings import driver

from driver_calls import called, context


def memory_info() -> dict:
    free, total = called(driver.cuMemGetInfo())
    return {"free_bytes": int(free), "total_bytes": int(total)}


def ask(bytes_wanted: int) -> tuple[str, object]:
    """One allocation: the status's name, and the pointer where there is one."""
    status, pointer = driver.cuMemAlloc(bytes_wanted)
    return called(driver.cuGetErrorName(status)).decode(), pointer


def take_all(chunk_bytes: int, bytes_max: int | None) -> tuple[list, str]:
    """Every chunk that there was, and the name of the status that ended it."""
    pointers = []
    while bytes_max is None or (len(pointers) + 1) * chunk_bytes <= bytes_max:
        name, pointer = ask(chunk_bytes)
        if name != "CUDA_SUCCESS":
            return pointers, name
        pointers.append(pointer)
    return pointers, "CUDA_SUCCESS"


def keep_asking(chunk_bytes: int, seconds: float) -> dict:
    """Asks on without a pause, once at least; every answer is counted by its name, and what was granted is given back."""
    answers: dict[str, int] = {}
    until = time.monotonic() + seconds
    while not answers or time.monotonic() < until:
        name, pointer = ask(chunk_bytes)
        answers[name] = answers.get(name, 0) + 1
        if name == "CUDA_SUCCESS":
            called(driver.cuMemFree(pointer))
    return answers


def say(record: dict) -> None:
    print(json.dumps(record), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunk-mib", type=int, default=256, metavar="MIB", help="size of one allocation (default: %(default)s)")
    parser.add_argument("--gib-max", type=float, metavar="GIB", help="stop here even when not refused (default: never)")
    parser.add_argument("--seconds", type=float, default=0.0, metavar="S", help="go on asking for so long (default: %(default)s)")
    parser.add_argument("--stay", action="store_true", help="hold it all until the end of stdin")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    chunk_bytes = args.chunk_mib << 20
    bytes_max = None if args.gib_max is None else int(args.gib_max * (1 << 30))
    with context():
        before = memory_info()
        pointers, refusal = take_all(chunk_bytes, bytes_max)
        say(
            {
                "program": "greedy",
                "chunk_bytes": chunk_bytes,
                "granted_bytes": len(pointers) * chunk_bytes,
                "refusal": refusal,
                "before": before,
                "full": memory_info(),
            }
        )
        later = keep_asking(chunk_bytes, args.seconds) if args.seconds else None
        if args.stay:
            sys.stdin.read()
        for pointer in pointers:
            called(driver.cuMemFree(pointer))
        if later is not None:
            say({"program": "greedy", "later_answers": later, "freed": memory_info()})


if __name__ == "__main__":
    main()
