"""Debian's podman with runc, with storage of the tests' own and the flags that also work in a small sandbox."""

import os
import shutil
import subprocess
from pathlib import Path

SECONDS_MAX = 60  # for one command of podman's
RUN_FLAGS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", "--network=none", "--pull=never")


class Unavailable(Exception):
    """Why no container can be run here."""


def install() -> None:
    if shutil.which("podman") and shutil.which("runc"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable("podman and runc are not installed (Debian: apt-get install podman runc)")
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    try:
        subprocess.run(["apt-get", "update", "-qq"], check=True, **quiet)
        subprocess.run(["apt-get", "install", "-qq", "--no-install-recommends", "podman", "runc"], check=True, **quiet)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"podman and runc cannot be installed: {error}") from error


class Podman:
    """One storage, and the folder of hooks that its containers are made with."""

    def __init__(self, folder: Path, hooks: Path):
        storage = ["--root", folder / "storage", "--runroot", folder / "run", "--tmpdir", folder / "tmp"]
        options = ["--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=none", "--hooks-dir", hooks]
        self.storage = folder / "storage"
        scratch = folder / "scratch"  # of an import that is interrupted something stays there
        scratch.mkdir(parents=True)
        self.environment = {**os.environ, "TMPDIR": str(scratch)}
        self.command = ["podman", *map(str, storage), *map(str, options)]

    def start(self, *arguments: object, **options) -> subprocess.Popen:
        return subprocess.Popen([*self.command, *map(str, arguments)], text=True, env=self.environment, **options)

    def run(self, *arguments: object, **options) -> subprocess.CompletedProcess:
        with self.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
            try:
                said, complained = process.communicate(timeout=SECONDS_MAX)
            except BaseException:
                process.terminate()  # not killed: it takes its own children along
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, said, complained)

    def image(self, name: str, root: Path) -> None:
        """An image of one layer, with what is in a folder."""
        packed = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
        made = self.run("import", "-", name, stdin=packed.stdout)
        packed.stdout.close()
        if packed.wait() or made.returncode:
            raise Unavailable(f"podman cannot import an image: {made.stderr.strip()}")

    def end(self) -> None:
        """Ends what runs, and takes down what podman has mounted."""
        self.run("rm", "--all", "--force")
        subprocess.run(["umount", "--lazy", self.storage / "overlay"], capture_output=True)
