#!/usr/bin/env python3
"""nvitop, once: the screen that it prints with -1, and the same facts through its own API.

Prints nvitop's screen on stderr and one JSON line on stdout.
"""

import argparse
import json
import subprocess
import sys

from nvitop import Device


def screen() -> str:
    """What a user of `nvitop -1` sees, without colours."""
    done = subprocess.run([sys.executable, "-m", "nvitop", "--once", "--ascii"], capture_output=True, text=True, check=True)
    return done.stdout


def gpu(device: Device) -> dict:
    return {
        "name": device.name(),
        "total_bytes": device.memory_total(),
        "used_bytes": device.memory_used(),
        "free_bytes": device.memory_free(),
        "pids": sorted(device.processes()),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    shown = screen()
    print(shown, file=sys.stderr)
    gpus = [gpu(device) for device in Device.all()]
    record = {"program": "nvitop", "gpus": gpus, "screen_names_each": all(facts["name"].split()[-1] in shown for facts in gpus)}
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
