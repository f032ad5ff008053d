"""Measures what docs/cost.md says, into docs/cost/, and makes the page of it. Only the standard library; wants what scripts/build makes."""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import demo
from counted_calls import CASES_OF, DRIVER, HOOK, RELEASE, ROOT, SHARE, WORLDS, name_of, per_call
from demo import Failure

RESULTS = ROOT / "docs/cost"
LIVE_BY_THREADS = {1: "0,1000,100000,1000000", 2: "0,1000,100000"}
ONLY_OF = {SHARE: "one in 20"}  # a share's memory calls are a quota's
PROCESSES = (1, 8, 300)
ROUNDS = 300  # of single starts and of 8; 8 of 300
RESNET50 = ("--sim", "t4", "--rounds", "5", "--seconds", "1")


def run(command: list, environment: dict[str, str] | None = None, **options) -> str:
    """What a program says on standard output; its complaints are shown as they come."""
    done = subprocess.run(list(map(str, command)), env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode:
        raise Failure(f"{Path(command[0]).name} ended with status {done.returncode}")
    return done.stdout


def calls() -> dict:
    worlds = []
    for threads, live in LIVE_BY_THREADS.items():
        for world, limits in WORLDS.items():
            demo.say(f"calls of {threads} thread(s), {world}")
            with tempfile.TemporaryDirectory() as state:
                command = [RELEASE / "call-cost", "--hook", HOOK, "--driver", DRIVER, "--threads", threads, "--live", live, "--json"]
                command += ["--only", ONLY_OF[world]] if world in ONLY_OF else []
                environment = {"CUDA_HOOK_DRIVER": str(DRIVER), "CUDA_HOOK_DIR": state, **limits}
                worlds.append({"world": world, "report": json.loads(run(command, environment))})
    return {"worlds": worlds}


def system_calls() -> dict:
    if not shutil.which("strace"):
        raise Failure("strace is not installed (Debian: apt-get install strace)")
    rows = []
    for world in WORLDS:
        demo.say(f"system calls, {world}")
        rows += [{"world": world, "call": name_of(case), "per_call": per_call(traced, world, case, "hooked")} for case in CASES_OF[world]]
    return {"rows": rows}


def traced(command: list[str], environment: dict[str, str]) -> int:
    """System calls of a program and its threads."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "strace"
        run(["strace", "-f", "-qq", "-o", out, *command], environment, stderr=subprocess.DEVNULL)
        return sum(" resumed>" not in line and "--- SIG" not in line for line in out.read_text(errors="replace").splitlines())


def starts() -> dict:
    demo.say(f"cuInit of {', '.join(map(str, PROCESSES))} processes at once, on the simulated T4")
    with tempfile.TemporaryDirectory() as folder:
        machine = {"GPU_SIM_PROFILE": "t4", "GPU_SIM_DIR": folder, "GPU_SIM_LINGER_MS": "5000", "LD_LIBRARY_PATH": str(RELEASE / "gpu-sim")}
        crowds = [word for processes in PROCESSES for word in ("--processes", processes)]
        init = run([RELEASE / "start-many", "--hook", HOOK, *crowds, "--rounds", ROUNDS, "--json"], os.environ | machine)
        demo.say("starts of a program without CUDA")
        before = [word for library in preloads(Path(folder)) for word in ("--preload", library)]
        without_cuda = run([RELEASE / "start-cost", *before, "--json"])
    return {"init": json.loads(init)["rows"], "without_cuda": json.loads(without_cuda)["rows"]}


def preloads(folder: Path) -> list[Path]:
    """Libraries that are preloaded into a program: empty ones, ours, and where it was made, the one that is shipped."""
    source = ROOT / "shim-tests/programs/empty.c"
    empty, needs_libgcc = folder / "empty.so", folder / "needs-libgcc_s.so"
    run(["gcc", "-shared", "-fPIC", "-nostartfiles", "-o", empty, source])
    run(["gcc", "-shared", "-fPIC", "-nostartfiles", "-Wl,--no-as-needed", "-o", needs_libgcc, source, "-lgcc_s"])
    shipped = []
    for packed in (RELEASE.parent / "package").glob("*/lib/cuda-hook/libcuda_hook.so"):
        shipped = [Path(shutil.copy(packed, folder / "libcuda_hook.so of scripts-package"))]
    return [empty, needs_libgcc, HOOK, *shipped]


def resnet50() -> dict:
    run(["scripts/python-env"], stderr=None)
    said = run([os.environ.get("PYTHON", "python3"), ROOT / "scripts/resnet50.py", *RESNET50, "--json"])
    return json.loads(said)


STAGES = {"calls": calls, "system-calls": system_calls, "starts": starts, "resnet50": resnet50}


def machine(load_before: float) -> dict:
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processors": len(os.sched_getaffinity(0)),
        "model": model[1] if model else "a processor without a name",
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
    }


def measure(stage: str) -> None:
    """A stage's results, written when they are whole."""
    load, began = os.getloadavg()[0], time.monotonic()
    results = {**STAGES[stage](), "machine": machine(load)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stage}.json").write_text(json.dumps(results, indent=1) + "\n")
    demo.say(f"{stage}: {time.monotonic() - began:.0f} s")


def make_page() -> None:
    run([RELEASE / "cost-page"])
    demo.say("docs/cost.md is written")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench cost", description=__doc__)
    parser.add_argument("--part", action="append", choices=STAGES, help="measure this part of the page only; the others' results stay")
    parser.add_argument("--page", action="store_true", help="measure nothing: make the page of the results that are there")
    return parser.parse_args()


def main() -> int:
    args = arguments()

    def everything() -> None:
        for stage in [] if args.page else args.part or STAGES:
            measure(stage)
        make_page()

    return demo.status_of(everything)


if __name__ == "__main__":
    sys.exit(main())
