"""NVIDIA's own libraries, from Debian's section non-free, into the target folder. Nothing is installed, and nothing of the machine's
apt is changed.

The mirror is the machine's own: its apt sources are read, and one for the same release with `non-free` for its components is written
into a private apt state. What was unpacked once is used from then on, without a network.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "oracle"

# The driver's packages, each with that of its management library. A release need not have all.
PAIRS = {
    "libcuda1": "libnvidia-ml1",
    "libnvidia-tesla-cuda1": "libnvidia-tesla-ml1",
    "libnvidia-tesla-470-cuda1": "libnvidia-tesla-470-ml1",
}
SONAMES = ("libcuda.so.1", "libnvidia-ml.so.1")
SECONDS_MAX = 300  # for one command of apt's


class Unavailable(Exception):
    """Why a package cannot be had."""


def drivers() -> tuple[dict[str, Path], dict[str, str]]:
    """Folders with `libcuda.so.1` and `libnvidia-ml.so.1`, by package; and why those that are missing are."""
    found, missing = {}, {}
    apt = None
    for name, management in PAIRS.items():
        folder = FOLDER / name
        if not all((folder / "lib" / soname).exists() for soname in SONAMES):
            try:
                apt = apt or Apt()
                unpack(apt, folder, (name, management))
            except (Unavailable, OSError, subprocess.SubprocessError) as error:
                missing[name] = str(error)
                continue
        found[name] = folder / "lib"
    return found, missing


def unpack(apt: "Apt", folder: Path, packages: tuple[str, ...]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "lib").mkdir(parents=True)
    for package in packages:
        for archive in apt.download(package, folder):
            subprocess.run(["dpkg-deb", "-x", archive, folder / "root"], check=True)
            archive.unlink()
    for soname in SONAMES:
        stem = soname.removesuffix("1")
        files = [file for file in (folder / "root").rglob(f"{stem}*.*") if file.is_file() and not file.is_symlink()]
        if len(files) != 1:
            raise Unavailable(f"{packages[0]}: {len(files)} files named {stem}*")
        (folder / "lib" / soname).symlink_to(Path("..") / files[0].relative_to(folder))


class Apt:
    """A private apt state for this release's section non-free."""

    def __init__(self):
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Unavailable("not Debian: there is no apt-get")
        state = FOLDER / "apt"
        for folder in ("lists/partial", "cache/archives/partial", "parts"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        source = state / "debian.sources"
        source.write_text(non_free())
        self.options = [
            f"-oDir::State::Lists={state}/lists",
            f"-oDir::Cache={state}/cache",
            f"-oDir::Etc::SourceList={source}",
            f"-oDir::Etc::SourceParts={state}/parts",
            "-oAPT::Sandbox::User=root",
            "-oAPT::Update::Error-Mode=any",
            "-oAcquire::Retries=2",
            "-oAcquire::http::Timeout=30",
        ]
        self.run("apt-get", "update")

    def run(self, tool: str, *arguments: str, folder: Path | None = None) -> str:
        command = [tool, "-qq", *self.options, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS_MAX)
        complaints = [line for line in done.stderr.splitlines() if line.startswith(("E:", "Err:"))]
        if done.returncode or complaints:
            raise Unavailable(f"{tool} {' '.join(arguments)}: {'; '.join(complaints) or done.stderr[-300:] or done.returncode}")
        return done.stdout

    def download(self, package: str, folder: Path) -> list[Path]:
        self.run("apt-get", "download", package, folder=folder)
        return list(folder.glob("*.deb"))


def non_free() -> str:
    """The machine's sources of its release's `main`, with `non-free` instead (sources.list(5), both forms)."""
    release = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    if not release:
        raise Unavailable("/etc/os-release names no release")
    apt = Path("/etc/apt")
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    stanzas = [stanza for file in files if file.is_file() for stanza in stanzas_of(file)]
    chosen = [stanza for stanza in stanzas if release[1] in stanza["Suites"].split() and "main" in stanza["Components"].split()]
    if not chosen:
        raise Unavailable(f"no apt source of this machine has main of {release[1]}")
    return "\n".join(written({**stanza, "Suites": release[1], "Components": "non-free"}) for stanza in chosen)


def stanzas_of(file: Path) -> list[dict[str, str]]:
    if file.suffix == ".list":
        return [stanza for line in file.read_text().splitlines() if (stanza := one_line(line))]
    if file.suffix != ".sources":
        return []
    lines = "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#"))
    fields = [re.findall(r"^([\w-]+):\s*((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE) for stanza in re.split(r"\n\s*\n", lines)]
    stanzas = [dict(pairs) for pairs in fields if pairs]
    wanted = {"Types", "URIs", "Suites", "Components"}
    return [stanza for stanza in stanzas if wanted <= stanza.keys() and "deb" in stanza["Types"].split() and stanza.get("Enabled") != "no"]


def one_line(line: str) -> dict[str, str] | None:
    parts = re.match(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)", line)
    if not parts:
        return None
    signed = re.search(r"signed-by=(\S+)", parts["options"] or "")
    stanza = {"Types": "deb", "URIs": parts["uri"], "Suites": parts["suite"], "Components": parts["components"]}
    return {**stanza, "Signed-By": signed[1]} if signed else stanza


def written(stanza: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in stanza.items())
