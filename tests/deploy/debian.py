"""A clean Debian, in which programs run without a network."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
MIRROR = "http://deb.debian.org/debian"
SUITE, PYTHON = "bookworm", (3, 11)
PACKAGES = ("python3", "python3-venv", "libpython3.11", "systemd")
NEEDED = ("unshare", "chroot", "ip", "apt-get", "dpkg-deb")

ENTER = """
mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/dev/shm" && ip link set lo up || exit 99
root=$1; shift
exec chroot "$root" env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root OMP_NUM_THREADS=1 "$@"
"""
"""In namespaces of its own, so that what is mounted and what is started end with it, and there is no network."""


class Debian:
    """A root folder, and commands in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *command: object, user: str = "root") -> subprocess.CompletedProcess[str]:
        inside = map(str, command if user == "root" else ("runuser", "-u", user, "--", *command))
        return subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", ENTER, "sh", self.path, *inside],
            capture_output=True,
            text=True,
            cwd=self.path,
        )

    def output(self, *command: object, user: str = "root") -> str:
        done = self.run(*command, user=user)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def tree(self) -> dict[str, tuple[int, int, int, str]]:
        """Mode, user, group and content of everything that lasts."""
        found = {}
        for folder, folders, files in os.walk(self.path):
            for name in (*folders, *files):
                path = Path(folder, name)
                status = path.lstat()
                content = ""
                if path.is_symlink():
                    content = str(path.readlink())
                elif path.is_file():
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                found[f"/{path.relative_to(self.path)}"] = (status.st_mode, status.st_uid, status.st_gid, content)
            folders[:] = [name for name in folders if Path(folder, name) != self.path / "proc"]
        return found

    def status(self, path: str) -> tuple[str, str, str]:
        """Mode, user and group by their names in there."""
        mode, user, group = self.output("stat", "--format", "%a %U %G", path).split()
        return mode, user, group


def make_debian(folder: Path) -> Debian:
    """A minimal one from a mirror; skips where that cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("a Debian root is made by root: run as root")
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}; on Debian: apt install util-linux iproute2")
    if sys.version_info[:2] != PYTHON:
        pytest.skip(f"wheels for Python {sys.version.split()[0]} do not fit that of Debian {SUITE}; run with 3.11")
    try:
        urllib.request.urlopen(f"{MIRROR}/dists/{SUITE}/Release", timeout=20).close()
    except (urllib.error.URLError, OSError) as error:
        pytest.skip(f"no mirror of Debian can be reached: {MIRROR} ({error})")
    tool = shutil.which("debootstrap")
    environment = dict(os.environ)
    if tool is None:
        done = subprocess.run(["apt-get", "download", "debootstrap"], cwd=folder, capture_output=True, text=True)
        packages = list(folder.glob("debootstrap_*.deb"))
        if not packages:
            pytest.skip(f"no debootstrap: apt install debootstrap, after apt-get update ({done.stderr.strip()})")
        subprocess.run(["dpkg-deb", "-x", packages[0], folder / "debootstrap"], check=True)
        tool = str(folder / "debootstrap/usr/sbin/debootstrap")
        environment["DEBOOTSTRAP_DIR"] = str(folder / "debootstrap/usr/share/debootstrap")
    root = folder / "root"
    done = subprocess.run(
        ["sh", tool, "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root, MIRROR],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return Debian(root)
