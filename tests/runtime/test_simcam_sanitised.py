"""The simulated camera's C under the address and undefined-behaviour sanitisers, driven through every fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import simcam_drive

SIMCAM = Path(__file__).resolve().parents[2] / "runtime" / "simcam"
FLAGS = [
    "-std=gnu11",
    "-O1",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-pthread",
]
SANITISERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def library(name: str) -> Path | None:
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True)
    path = Path(found.stdout.strip())
    return path if found.returncode == 0 and path.is_absolute() else None


def test_no_fault_reads_or_writes_where_it_should_not(tmp_path):
    try:
        runtimes = [library("libasan.so"), library("libstdc++.so.6")]
    except FileNotFoundError:
        runtimes = [None]
    if None in runtimes:
        pytest.skip("the address sanitiser's library is not there: apt install gcc libasan8 (or that of your gcc)")
    producer = tmp_path / "sanitised.cti"
    sources = sorted(SIMCAM.glob("*.c"))
    xml = f'-DDEVICE_XML="{SIMCAM / "device.xml"}"'
    subprocess.run(["gcc", *FLAGS, *SANITISERS, xml, "-o", producer, *sources], check=True)
    # Of Python and harvesters nothing is asked: they were not built for it.
    done = subprocess.run(
        [sys.executable, simcam_drive.__file__, tmp_path / "cam.feed", producer],
        env={
            **os.environ,
            "LD_PRELOAD": " ".join(map(str, runtimes)),
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr
    assert "runtime error" not in done.stderr
    # Frames came in every way that brings any.
    assert int(done.stdout.split()[-1]) > 100
