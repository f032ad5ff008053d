"""NVIDIA's own libraries as the oracle: loaded without a GPU, asked for everything, bare and with the hook in either door.

They answer look-ups before `cuInit`, which without a GPU fails in every world alike. Nothing of them is changed or got around, and
nothing is committed: `packages.py` fetches them.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import unittest
from collections import defaultdict
from functools import cache
from pathlib import Path

import packages

ROOT = packages.ROOT
ARTEFACTS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "debug"
HOOK = ARTEFACTS / "libcuda_hook.so"
SECOND_DOOR = ARTEFACTS / "second-door/libcuda.so.1"
SYMBOLS = ROOT / "cuda-sys-stubs/symbols"
# What real programs ask for: the requests that the simulated driver is tested with too.
REQUESTS = {
    "libcuda.so.1": ROOT / "gpu-sim/libcuda/tests/requests.tsv",
    "libnvidia-ml.so.1": ROOT / "gpu-sim/libnvidia-ml/tests/requests.tsv",
}
TABLES = {"libcuda.so.1": SYMBOLS / "driver_api.tsv", "libnvidia-ml.so.1": SYMBOLS / "nvml_api.tsv"}
FROM_THE_FUTURE = 99990
LINKERS = {"_init", "_fini", "_edata", "_end", "__bss_start"}
NOT_FOUND = 500  # CUDA_ERROR_NOT_FOUND
UNTOLD = -1  # what the probe put where cuGetProcAddress_v2 may say more

DRIVERS: dict[str, Path] = {}


def setUpModule() -> None:
    found, missing = packages.drivers()
    DRIVERS.update(found)
    for name, why in missing.items():
        print(f"NOT CHECKED: {name}: {why}", flush=True)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@cache
def exports(library: Path, kinds: str = "TDRBVWiu") -> frozenset[str]:
    """Names that a library defines for others."""
    listing = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    defined = (line.split()[1:] for line in listing.splitlines())
    return frozenset(name.split("@")[0] for kind, name in defined if kind in kinds) - LINKERS


@cache
def requests(folder: Path, soname: str) -> dict[str, list]:
    """Everything that programs ask for, every export, and every function at each version at which an ABI of it begins."""
    asked = rows(REQUESTS[soname])
    table = rows(TABLES[soname])
    names = {row["name"] for row in asked} | {row["symbol"] for row in table} | exports(folder / soname)
    by_version = [row for row in asked if row["cuda_version"] != "-"]
    by_pointer = {(row["name"].replace("(empty string)", ""), int(row["cuda_version"]), int(row["flags"])) for row in by_version}
    if soname == "libcuda.so.1":
        for row in table:
            begins = [FROM_THE_FUTURE]
            if row["introduced"] != "-":
                begin = version(row["introduced"])
                begins += [begin - 1, begin]
            by_pointer |= {(name, version, flags) for name in (row["base"], row["symbol"]) for version in begins for flags in range(5)}
    return {"dlsym": sorted(names - {""}), "get_proc_address": sorted(by_pointer)}


@cache
def ask(folder: Path, soname: str, world: str) -> dict:
    """What a program is answered in a world: bare, preload or second door, the latter two under a quota."""
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(folder)}
    with tempfile.TemporaryDirectory() as state:
        if world != "bare":
            environment |= {"CUDA_HOOK_DIR": state, "CUDA_HOOK_MEMORY": "1GiB"}
        if world == "preload":
            environment |= {"LD_PRELOAD": str(HOOK)}
        if world == "second door":
            environment |= {"LD_LIBRARY_PATH": f"{SECOND_DOOR.parent}:{folder}", "CUDA_HOOK_DRIVER": str(folder / soname)}
        probe = [sys.executable, Path(__file__).with_name("probe.py"), soname]
        asked = json.dumps(requests(folder, soname))
        done = subprocess.run(probe, input=asked, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode or done.stderr:
        raise AssertionError(f"{folder} in {world}: {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def successive_versions(symbols: frozenset[str]) -> list[tuple[str, str, int]]:
    """Two versions of one function, the newer the next after the older, and the version of CUDA at which it begins to be handed out."""
    begins = {row["symbol"]: version(row["introduced"]) for row in rows(TABLES["libcuda.so.1"]) if row["introduced"] != "-"}
    pairs = []
    for newer in sorted(symbols & begins.keys()):
        base, mark, number = newer.rpartition("_v")
        older = f"{base}_v{int(number) - 1}" if mark and number.isdigit() and int(number) > 2 else base
        if mark and older in symbols & begins.keys() and begins[older] < begins[newer]:
            pairs.append((older, newer, begins[newer]))
    return pairs


def version(introduced: str) -> int:
    """As `cuGetProcAddress` is asked for it: 3.2 is 3020."""
    major, minor = introduced.split(".")
    return 1000 * int(major) + 10 * int(minor)


class Oracle(unittest.TestCase):
    maxDiff = 2000

    def setUp(self):
        if not DRIVERS:
            self.skipTest("no driver could be had")

    def each_driver(self, check, soname: str = "libcuda.so.1") -> None:
        for name, folder in DRIVERS.items():
            with self.subTest(package=name, library=soname):
                check(folder)

    def assert_leads(self, folder: Path, soname: str, world: str) -> None:
        """Every answer behind the hook is the library's own, or our function for that very symbol."""
        hooked, ours = exports(HOOK), {"preload": HOOK, "second door": SECOND_DOOR}[world]
        bare = ask(folder, soname, "bare")
        names_at = defaultdict(set)
        for name, place in bare["dlsym"].items():
            if place:
                names_at[tuple(place[::2])].add(name)
        swapped = 0
        for request, place, seen in self.pairs(folder, soname, world):
            names = names_at[tuple(place[::2])] if place else set()
            if names & hooked:
                self.assertIsNotNone(seen, request)
                self.assertEqual(Path(seen[0]), ours, request)
                self.assertIn(seen[1], names, request)
                swapped += 1
            else:
                self.assertEqual(seen, place, request)
        self.assertGreater(swapped, 0)

    def pairs(self, folder: Path, soname: str, world: str):
        """Each request with its answer bare and its answer in a world, whose statuses are the same."""
        bare, behind = ask(folder, soname, "bare"), ask(folder, soname, world)
        for name, place in bare["dlsym"].items():
            # The second door has all names, and leads from its own to the driver's: below.
            if world == "preload" or (place and name in exports(HOOK)):
                yield name, place, behind["dlsym"][name]
        asked = requests(folder, soname)["get_proc_address"]
        for request, before, after in zip(asked, bare["get_proc_address"], behind["get_proc_address"], strict=True):
            for api, (*status, place) in after.items():
                if api not in before:
                    self.assertEqual(status, [NOT_FOUND, UNTOLD], f"{request}: cuGetProcAddress_v2 is lacking")
                    continue
                *status_before, place_before = before[api]
                self.assertEqual(status, status_before, request)
                yield [*request, api], place_before, place

    def test_every_export_has_an_effect_and_stands_in_the_tables(self):
        effects = {row["symbol"] for row in rows(SYMBOLS / "effects.tsv")}

        def check(folder: Path) -> None:
            exported = exports(folder / soname)
            self.assertGreater(len(exported), 200)
            self.assertEqual(exported - effects, set(), "no effect")
            branch = (folder / soname).resolve().name.split(".so.")[1].split(".")[0]
            listed = {row["symbol"] for row in rows(TABLES[soname]) if branch in row["drivers"].split(",")}
            self.assertEqual(exported, listed, f"what {TABLES[soname].name} says of {branch}")

        for soname in TABLES:
            self.each_driver(check, soname)

    def test_behind_the_preload_every_look_up_leads_to_the_driver_or_to_ours_for_that_very_symbol(self):
        def check(folder: Path) -> None:
            self.assertGreater(len(requests(folder, "libcuda.so.1")["get_proc_address"]), 5000)
            self.assert_leads(folder, "libcuda.so.1", "preload")

        self.each_driver(check)

    def test_behind_the_preload_every_look_up_leads_to_nvml_or_to_ours_for_that_very_symbol(self):
        soname = "libnvidia-ml.so.1"
        self.each_driver(lambda folder: self.assert_leads(folder, soname, "preload"), soname)

    def test_behind_the_second_door_every_look_up_leads_to_the_driver_or_to_ours_for_that_very_symbol(self):
        self.each_driver(lambda folder: self.assert_leads(folder, "libcuda.so.1", "second door"))

    def test_the_second_door_has_every_function_of_the_driver(self):
        def check(folder: Path) -> None:
            self.assertEqual(exports(folder / "libcuda.so.1", "T") - exports(SECOND_DOOR, "T"), set())

        self.each_driver(check)

    def test_32_and_64_bit_functions_are_never_mixed(self):
        """Nor any other two versions of a function that are both hooked."""

        def check(folder: Path) -> None:
            behind = ask(folder, "libcuda.so.1", "preload")
            asked = requests(folder, "libcuda.so.1")["get_proc_address"]
            answers = dict(zip(asked, behind["get_proc_address"], strict=True))
            led = set()
            for older, newer, begin in successive_versions(exports(HOOK) & exports(folder / "libcuda.so.1")):
                for symbol in (older, newer):
                    self.assertEqual(behind["dlsym"][symbol][:2], [str(HOOK), symbol])
                base = newer.rpartition("_v")[0]
                for version, symbol in ((begin - 1, older), (begin, newer)):
                    for *_, place in answers[base, version, 0].values():
                        self.assertEqual(place[:2], [str(HOOK), symbol], f"{base} of {version}")
                led.add(base)
            self.assertLessEqual({"cuMemAlloc", "cuMemFree", "cuMemGetInfo", "cuDeviceTotalMem", "cuMemAllocPitch"}, led)

        self.each_driver(check)

    def test_without_a_gpu_the_start_answers_the_same_in_every_world(self):
        def check(folder: Path) -> None:
            bare, *behind = (ask(folder, "libcuda.so.1", world)["init"] for world in ("bare", "preload", "second door"))
            self.assertEqual(behind, [bare, bare])

        self.each_driver(check)


if __name__ == "__main__":
    unittest.main()
