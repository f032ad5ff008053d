#!/usr/bin/env python3
"""gpustat, once: the JSON that it prints for programs, and the lines that it prints for people.

Prints the lines on stderr and one JSON line on stdout.
"""

import argparse
import json
import subprocess
import sys


def gpustat(*options: str) -> str:
    return subprocess.run([sys.executable, "-m", "gpustat", *options], capture_output=True, text=True, check=True).stdout


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    said = json.loads(gpustat("--json"))
    shown = gpustat("--no-color")
    print(shown, file=sys.stderr)
    gpus = [{"name": gpu["name"], "used_mib": gpu["memory.used"], "total_mib": gpu["memory.total"]} for gpu in said["gpus"]]
    totals_shown = all(f" {gpu['total_mib']} MB" in shown for gpu in gpus)
    print(json.dumps({"program": "gpustat", "driver": said["driver_version"], "gpus": gpus, "totals_shown": totals_shown}), flush=True)


if __name__ == "__main__":
    main()
