"""The simulated camera's C under the address and undefined-behaviour sanitisers, driven through every fault."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inspectd.runtime.simcam import FEED_VARIABLE, producer_path
from inspectd.runtime.simcam.faults import Faults
from inspectd.runtime.simcam.feed import FrameFeed

from . import simcam_drive

SIMCAM = Path(__file__).resolve().parents[2] / "runtime" / "simcam"
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
FLAGS = ["-std=gnu11", "-O1", "-g", *WARNINGS, "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]
SANITISERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


# EMVA, "GenICam GenTL Standard", versions 1.5 and 1.6, chapter 6.
ENTRY_POINTS = """
GCInitLib GCCloseLib GCGetInfo GCGetLastError GCReadPort GCWritePort GCGetPortURL GCGetPortInfo GCRegisterEvent
GCUnregisterEvent GCGetNumPortURLs GCGetPortURLInfo GCReadPortStacked GCWritePortStacked
EventGetData EventGetDataInfo EventGetInfo EventFlush EventKill
TLOpen TLClose TLGetInfo TLGetNumInterfaces TLGetInterfaceID TLGetInterfaceInfo TLOpenInterface TLUpdateInterfaceList
IFClose IFGetInfo IFGetNumDevices IFGetDeviceID IFUpdateDeviceList IFGetDeviceInfo IFOpenDevice IFGetParentTL
DevGetPort DevGetNumDataStreams DevGetDataStreamID DevOpenDataStream DevGetInfo DevClose DevGetParentIF
DSAnnounceBuffer DSAllocAndAnnounceBuffer DSFlushQueue DSStartAcquisition DSStopAcquisition DSGetInfo DSGetBufferID
DSClose DSRevokeBuffer DSQueueBuffer DSGetBufferInfo DSGetParentDev DSGetBufferChunkData DSGetNumBufferParts
DSGetBufferPartInfo DSAnnounceCompositeBuffer DSGetBufferInfoStacked DSGetBufferPartInfoStacked DSGetNumFlows
DSGetFlowInfo DSGetNumBufferSegments DSGetBufferSegmentInfo
"""


def test_every_entry_point_of_the_standard_is_exported():
    producer = ctypes.CDLL(str(producer_path()))
    assert not [name for name in ENTRY_POINTS.split() if not hasattr(producer, name)]


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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("checker", ["valgrind", "sanitiser", "threads"])
def test_a_bare_consumer_leaves_nothing_behind(tmp_path, checker, channels):
    """All that is allocated is given back, and no byte of a frame is one that was never written."""
    if checker == "valgrind" and shutil.which("valgrind") is None:
        pytest.skip("valgrind is not there: apt install valgrind")
    if checker == "sanitiser" and library("libasan.so") is None:
        pytest.skip("the address sanitiser's library is not there: apt install gcc libasan8 (or that of your gcc)")
    if checker == "threads" and library("libtsan.so") is None:
        pytest.skip("the thread sanitiser's library is not there: apt install gcc libtsan2 (or that of your gcc)")
    driver = tmp_path / "driver"
    sources = [Path(__file__).with_name("simcam_driver.c"), *sorted(SIMCAM.glob("*.c"))]
    options = {"valgrind": [], "sanitiser": SANITISERS, "threads": ["-fsanitize=thread"]}[checker]
    definitions = [f"-I{SIMCAM}", f'-DDEVICE_XML="{SIMCAM / "device.xml"}"']
    subprocess.run(
        ["gcc", "-std=gnu11", "-O1", "-g", *WARNINGS, "-pthread", *options, *definitions, "-o", driver, *sources],
        check=True,
    )
    memcheck = ["valgrind", "--quiet", "--leak-check=full", "--show-leak-kinds=all", "--error-exitcode=9"]
    path = tmp_path / "cam.feed"
    with FrameFeed(path, 37, 23, channels, slots=64) as feed, Faults(path) as faults:
        faults.incomplete(4)
        faults.drop(2)
        faults.duplicate(2)
        while feed.put(np.zeros(feed.shape, np.uint8), 0):
            pass
        done = subprocess.run(
            [*(memcheck if checker == "valgrind" else []), driver, "10"],
            env={**os.environ, FEED_VARIABLE: str(path)},
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "26\n")
