"""NVIDIA's own libraries, from Debian's section non-free, into the target folder. What was unpacked once is used from then on, without a
network.
"""

import os
import shutil
import subprocess
from pathlib import Path

import debian
from debian import Apt, Unavailable

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "oracle"

# The driver's packages, each with that of its management library. A release need not have all.
PAIRS = {
    "libcuda1": "libnvidia-ml1",
    "libnvidia-tesla-cuda1": "libnvidia-tesla-ml1",
    "libnvidia-tesla-470-cuda1": "libnvidia-tesla-470-ml1",
}
SONAMES = ("libcuda.so.1", "libnvidia-ml.so.1")


def drivers() -> tuple[dict[str, Path], dict[str, str]]:
    """Folders with `libcuda.so.1` and `libnvidia-ml.so.1`, by package; and why those that are missing are."""
    found, missing = {}, {}
    apt = None
    for name, management in PAIRS.items():
        folder = FOLDER / name
        if not all((folder / "lib" / soname).exists() for soname in SONAMES):
            try:
                apt = apt or Apt(FOLDER / "apt", debian.this_release(), "non-free")
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
        debian.unpack(apt.download(package, folder), folder / "root")
    for soname in SONAMES:
        stem = soname.removesuffix("1")
        files = [file for file in (folder / "root").rglob(f"{stem}*.*") if file.is_file() and not file.is_symlink()]
        if len(files) != 1:
            raise Unavailable(f"{packages[0]}: {len(files)} files named {stem}*")
        (folder / "lib" / soname).symlink_to(Path("..") / files[0].relative_to(folder))
