"""What ResNet-50 loses behind the preload: the same network bare and under limits, a window of each in turn. Only the standard library.

Each program is started once and warmed up. Then they classify one after the other, round after round, never two at once: what a machine
gains or loses in the course of minutes, all of them do. A round's loss is that against the bare window of that round.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import demo
from demo import ARTEFACTS, CLIENTS, PYTHON, ROOT, Failure, Gpu, Limits, Program, say

WARM_UP_SECONDS_MAX = 900  # three networks compiled on a busy machine
BARE = "bare"
WORLDS = {
    BARE: Limits(),
    "preload, no limits": Limits(),
    "memory": Limits("6GiB"),
    "memory, 100 %": Limits("6GiB", 100),
    "memory, 30 %": Limits("6GiB", 30),
}
FRAMEWORKS = ("workload", "tinygrad", "torch")


@dataclass(frozen=True)
class Result:
    """What a world came to, over the rounds."""

    framework: str
    batch: int
    world: str
    images_per_second: float  # median
    lost_percent: float  # median of the rounds
    lost_percent_least: float
    lost_percent_most: float


def program_of(framework: str, gpu: Gpu, batch: int, seconds: float) -> list[str]:
    window = ["--batch", str(batch), "--seconds", str(seconds), "--gate"]
    if framework == "workload":
        return [str(ARTEFACTS / "workload"), "resnet50", *window, "--json"]
    if framework == "torch":
        return [sys.executable, str(ROOT / "benches/resnet50_torch.py"), *window]
    return [str(PYTHON), str(CLIENTS / "resnet50.py"), *window, "--compiled", str(demo.compiled(gpu, batch))]


def start(gpu: Gpu, world: str, command: list[str], folder: Path) -> Program:
    preload = {"LD_PRELOAD": str(ARTEFACTS / "libcuda_hook.so")} if world == "preload, no limits" else {}
    name = "".join(letter if letter.isalnum() else "-" for letter in world)
    return Program(gpu, name, WORLDS[world], command, folder, **preload)


def measure(gpu: Gpu, framework: str, batch: int, args: argparse.Namespace, folder: Path) -> list[Result]:
    command = program_of(framework, gpu, batch, args.seconds)
    programs: dict[str, Program] = {}
    speeds: dict[str, list[float]] = {world: [] for world in WORLDS}
    try:
        for world in WORLDS:
            programs[world] = start(gpu, world, command, folder)
            programs[world].answer(WARM_UP_SECONDS_MAX)
        for round_ in range(args.rounds):
            say(f"{framework}, batch {batch}: round {round_ + 1} of {args.rounds}")
            for world, program in programs.items():
                program.open_window()
                answer = program.answer(args.seconds + demo.ANSWER_SECONDS_MAX)
                speeds[world].append(answer.get("items_per_second") or answer["images_per_second"])
    finally:
        for program in programs.values():
            program.end()
    return [result(framework, batch, world, speeds) for world in WORLDS]


def result(framework: str, batch: int, world: str, speeds: dict[str, list[float]]) -> Result:
    lost = [100 * (1 - speed / bare) for speed, bare in zip(speeds[world], speeds[BARE], strict=True)]
    return Result(framework, batch, world, statistics.median(speeds[world]), statistics.median(lost), min(lost), max(lost))


def table(title: str, args: argparse.Namespace, results: list[Result]) -> str:
    lines = [
        f"ResNet-50 on {title}: {args.rounds} rounds of windows of {args.seconds:g} s, each program in turn.",
        "",
        "| program | batch | world | images/s | lost, % | least and most of the rounds |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in results:
        spread = "" if row.world == BARE else f"{row.lost_percent_least:.2f} to {row.lost_percent_most:.2f}"
        lost = "" if row.world == BARE else f"{row.lost_percent:.2f}"
        lines.append(f"| {row.framework} | {row.batch} | {row.world} | {row.images_per_second:.1f} | {lost} | {spread} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench resnet50", description=__doc__.splitlines()[0])
    parser.add_argument("--sim", metavar="GPU", help="the simulated GPU of this profile, even where there is a real one")
    parser.add_argument("--framework", action="append", choices=FRAMEWORKS, help="default: workload and tinygrad; torch wants a real GPU")
    parser.add_argument("--batch", type=int, action="append", metavar="N", help="images in a batch (default: 1, 4 and 16)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="length of a window (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--only-check", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.seconds < 1 or args.rounds < 1 or min(args.batch or [1]) < 1:
        parser.error("--seconds, --rounds and --batch start at 1")
    args.framework = args.framework or ["workload", "tinygrad"]
    args.batch = args.batch or [1, 4, 16]
    return args


def run(args: argparse.Namespace, folder: Path) -> None:
    (folder / "hook").mkdir()
    gpu = demo.choose_gpu(args.sim, folder)
    if "torch" in args.framework and gpu.sim_profile:
        raise Failure("--framework torch wants a real GPU: NVIDIA's runtime library takes no other driver than NVIDIA's")
    results = [result for framework in args.framework for batch in args.batch for result in measure(gpu, framework, batch, args, folder)]
    if args.json:
        measured = {"device": gpu.title, "rounds": args.rounds, "window_seconds": args.seconds}
        print(json.dumps({"schema": 1, **measured, "results": [asdict(result) for result in results]}))
    else:
        print(table(gpu.title, args, results))


def main() -> int:
    args = arguments()
    if args.only_check:
        return 0
    with tempfile.TemporaryDirectory(prefix="cuda-hook-resnet50-") as folder:
        return demo.status_of(lambda: run(args, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
