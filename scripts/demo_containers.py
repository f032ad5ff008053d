"""The scenes of `scripts/demo containers`. Only the standard library.

Two containers of podman and runc, limited by the command's hook, share one simulated T4; the agent watches them. What they got is read from
the simulated device's own books, never from the limiter.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from demo import Failure as DemoFailure
from demo import say, size, status_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "shim-tests/containers"))

import podman  # noqa: E402
from stage import BUSY, GREEDY, IMAGE, Failure, Stage, lines, shares, wait_for  # noqa: E402

ARTEFACTS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "release"
TENANTS = {"tenant-30": ("2GiB", 30), "tenant-60": ("4GiB", 60)}
SHOWN = re.compile(r"^cuda_hook_(?:memory_(?:quota|used)_bytes|refusals_total|share_max_ratio|gpu_time_seconds_total)\{")
ANSWER_SECONDS_MAX = 60


def start(stage: Stage, machine: Path, name: str, opened: ExitStack) -> None:
    """A container that is limited by its annotations and always has work for the GPU."""
    memory, percent = TENANTS[name]
    limits = (f"cuda-hook.memory={memory}", f"cuda-hook.sm={percent}", f"cuda-hook.container={name}")
    say(f"podman run {' '.join(f'--annotation {limit}' for limit in limits)} … workload")
    # By the variable the simulated device keeps its books, too.
    flags = (*stage.flags(machine, *limits), f"--env=CUDA_HOOK_CONTAINER={name}")
    container = stage.podman.start(
        "run", "--rm", f"--name={name}", *flags, IMAGE, *BUSY, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    opened.callback(container.wait)
    opened.callback(stage.podman.run, "rm", "--force", "--ignore", "--time=0", name)


def greedy(stage: Stage, name: str, opened: ExitStack) -> str:
    """Fills the container's quota from a second program in it, and holds it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = opened.enter_context(stage.podman.start("exec", "--interactive", name, GREEDY, **pipes))
    said = re.fullmatch(r"granted (\d+) MiB, then (\d+)\n", process.stdout.readline())
    if not said:
        raise DemoFailure(f"no program can be started in {name}")
    return f"CUDA_ERROR_OUT_OF_MEMORY after {size(int(said[1]) << 20)} more" if said[2] == "2" else f"status {said[2]}"


def refusal(stage: Stage, machine: Path) -> str:
    """What podman says of a program that no library can enter."""
    root = stage.folder / "static"
    (root / "proc").mkdir(parents=True)
    subprocess.run(["cc", "-static", "-x", "c", "-o", root / "program", "-"], input=b"int main(void) { return 0; }", check=True)
    stage.podman.image("localhost/static:1", root)
    flags = stage.flags(machine, "cuda-hook.memory=1GiB")
    done = stage.podman.run("run", "--rm", *flags, "localhost/static:1", "/program", stdin=subprocess.DEVNULL)
    reason = re.search(r"cuda-hook: [^\"\\]*", done.stderr)
    return f"podman: exit status {done.returncode}: {reason[0].strip() if reason else done.stderr.strip()}"


def listening(agent: subprocess.Popen) -> str:
    """Where it answers, as it says itself."""
    found = (re.search(rb"metrics on (http:\S+)", line) for line in lines(agent.stderr))
    address = next(filter(None, found), None)
    if not address:
        raise DemoFailure("the agent does not start")
    return address[1].decode()


def scrape(url: str) -> list[str]:
    with urllib.request.urlopen(url, timeout=ANSWER_SECONDS_MAX) as answer:
        return [line for line in answer.read().decode().splitlines() if SHOWN.match(line)]


def table(got: list[float], held: dict[str, int], seen: dict[str, str]) -> str:
    lines = [("container", "SM asked", "SM measured", "memory quota", "memory held", "what a greedy program in it saw")]
    for (name, (memory, percent)), share in zip(TENANTS.items(), got, strict=True):
        lines.append((name, f"{percent} %", f"{share:.1f} %", memory, size(held[name]), seen[name]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([rows[0], "  ".join("-" * width for width in widths), *rows[1:]])


def play(stage: Stage, seconds: float) -> None:
    machine = stage.folder / "machine"
    machine.mkdir()
    with ExitStack() as opened:
        opened.enter_context(stage.device(machine))
        metrics = listening(opened.enter_context(stage.agent(machine)))
        watched = opened.enter_context(stage.watched(machine))
        for name in TENANTS:
            start(stage, machine, name, opened)
            wait_for(watched, name)
        say(f"both at once: {seconds:g} s")
        next(shares(watched, list(TENANTS), 1, ANSWER_SECONDS_MAX))  # the beginning, with its bursts
        got = next(shares(watched, list(TENANTS), seconds, seconds + ANSWER_SECONDS_MAX))
        seen = {name: greedy(stage, name, opened) for name in TENANTS}
        held = {row["container"]: row["memory_bytes_current"] for row in stage.books(machine)["containers"]}
        print(f"\nTwo containers on a simulated Tesla T4 (podman, runc)\n\n{table(got, held, seen)}\n")
        print("SM measured, memory held: from the simulated device's own books, not from the limiter.\n")
        print(f"A container with a static program, to be limited:\n  {refusal(stage, machine)}\n")
        print(f"From {metrics}, of cuda-hook agent:")
        print("\n".join(f"  {line}" for line in scrape(metrics)))


def run(seconds: float) -> None:
    if os.geteuid() != 0:
        raise DemoFailure("needs root: podman here makes containers, and the hook mounts into them")
    with tempfile.TemporaryDirectory(prefix="cuda-hook-demo-", dir="/var/tmp") as scratch, ExitStack() as opened:
        try:
            podman.install()
            stage = Stage(Path(scratch), ARTEFACTS)
            opened.callback(stage.podman.end)
            say("making an image of this machine's own files")
            stage.prepare()
            play(stage, seconds)
        except (podman.Unavailable, Failure) as problem:
            raise DemoFailure(str(problem)) from problem


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo containers",
        description="Two containers of podman and runc share one simulated GPU: shares, quotas, a refusal, a scrape. Needs root; installs "
        "podman and runc (Debian) where they are missing.",
    )
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="for how long shares are measured (default: %(default)s)")
    parser.add_argument("--only-check", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.seconds < 1:
        parser.error("--seconds starts at 1")
    return args


def main() -> int:
    args = arguments()
    return 0 if args.only_check else status_of(lambda: run(args.seconds))


if __name__ == "__main__":
    sys.exit(main())
