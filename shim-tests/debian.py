"""Packages of Debian's, of this release or another, into a folder. Nothing is installed, and nothing of the machine's apt is changed.

The mirror is the machine's own: its apt sources are read, and one like those for this release's `main` is written into a private apt state.
"""

import re
import shutil
import subprocess
from pathlib import Path

SECONDS_MAX = 300  # for one command of apt's


class Unavailable(Exception):
    """Why a package cannot be had."""


def this_release() -> str:
    release = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    if not release:
        raise Unavailable("/etc/os-release names no release")
    return release[1]


def unpack(archives: list[Path], folder: Path) -> None:
    """What they would install, below a folder; the archives go."""
    for archive in archives:
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        archive.unlink()


class Apt:
    """A private apt state, in a folder, for one section of a release."""

    def __init__(self, state: Path, release: str, section: str):
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Unavailable("not Debian: there is no apt-get")
        for folder in ("lists/partial", "cache/archives/partial", "parts"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        # Nothing is installed there: what this machine has is no candidate.
        (state / "status").touch()
        source = state / "debian.sources"
        source.write_text(sources(release, section))
        self.options = [
            f"-oDir::State::Lists={state}/lists",
            f"-oDir::State::status={state}/status",
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


def sources(release: str, section: str) -> str:
    """The machine's sources of its release's `main`, for another release or section instead (sources.list(5), both forms)."""
    ours = this_release()
    apt = Path("/etc/apt")
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    stanzas = [stanza for file in files if file.is_file() for stanza in stanzas_of(file)]
    chosen = [stanza for stanza in stanzas if ours in stanza["Suites"].split() and "main" in stanza["Components"].split()]
    if not chosen:
        raise Unavailable(f"no apt source of this machine has main of {ours}")
    return "\n".join(written({**stanza, "Suites": release, "Components": section}) for stanza in chosen)


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
