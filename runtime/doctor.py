"""What this machine has of all that a line may need, each with a verdict and what to do about it.

Nothing here may fail because something is missing or broken: what could crash or hang is tried in a process of its own,
and nothing but the standard library is imported before it has been tried.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from inspectd.errors import InspectdError
from inspectd.optional import remedy_of

from .clock import kernel_clock

if TYPE_CHECKING:
    from .sources.survey import FoundCamera, Surveyed

__all__ = ["Check", "Verdict", "examine"]

Verdict: TypeAlias = Literal["ok", "missing", "warning", "broken"]
"""Missing is what not every line needs; broken is what every line needs."""

Ask: TypeAlias = Callable[[Sequence[str]], "str | None"]
"""Standard output of a program; None where it is not installed, fails or hangs."""

_LIMIT_S = 60.0
_BASE = {
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "onnxruntime": "onnxruntime",
    "pydantic": "pydantic",
    "zmq": "pyzmq",
    "prometheus_client": "prometheus-client",
    "genicam.gentl": "genicam",
    "harvesters.core": "harvesters",
}
"""Distributions of the base install by the module that is tried."""
_OPTIONAL = {
    "openvino": ("openvino", "openvino", "a processor by OpenVINO"),
    "tensorrt": ("tensorrt", "tensorrt", "a GPU by TensorRT"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx", "a GPU by TensorRT-RTX"),
    "pycuda": ("pycuda", "tensorrt", "reaching a GPU"),
    "cuda": ("cuda-bindings", "cuda-python", "reaching a GPU without a compiler"),
    "torch": ("torch", "train", "training"),
}
"""Distribution, extra and purpose by module."""
_IMPORTS = """
import importlib, json, os, sys, warnings
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # for whatever prints while it is imported
warnings.simplefilter("ignore")
from inspectd.optional import silence
silence()
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        fault = ""
    except BaseException as error:
        fault = f"{type(error).__name__}: {error}"
    print(json.dumps([name, fault]), file=answer, flush=True)
"""
_GPU = """
import ctypes, json
try:
    ctypes.CDLL("libcuda.so.1")
except OSError:
    print(json.dumps({"absent": True}))
else:
    from inspectd.cuda import open_driver
    from inspectd.errors import InspectdError
    try:
        driver = open_driver()
        print(json.dumps({"name": driver.name, "capability": driver.capability}))
        driver.close()
    except InspectdError as error:
        print(json.dumps({"fault": str(error)}))
"""
_INFO = "from inspectd.runtime.entry import main; main()"
_GIB = 2**30
_LITTLE_SPACE, _LITTLE_SHM = _GIB, _GIB // 8
_PORT = 5560


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        section: what it belongs to.
        name: what it is.
        verdict: how it is.
        found: what was found, in words.
        remedy: what to do; empty where nothing has to be done.
    """

    section: str
    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(
    *,
    config: Path | None = None,
    producers: Sequence[str] = (),
    state_dir: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Check]:
    """Look at everything, and tell of each thing as it is known.

    Args:
        config: a line's configuration, whose calibrations are looked at; None for no line.
        producers: GenTL producers besides those that the environment names.
        state_dir: folder of a station's state; without it the default one, beside the configuration.
        environment: of the process.
    """
    from .doctor_host import check_host

    packages = list(_guarded("python", check_packages()))
    yield from packages
    yield from _guarded("gpu", check_gpu())
    if any(check.verdict == "broken" for check in packages):
        yield Check("cameras", "producers", "warning", "not looked for, because packages are broken")
    else:
        yield from _guarded("cameras", check_cameras(producers, environment))
        if config is not None:
            yield from _guarded("calibration", check_calibration(config))
    yield from _guarded("host", check_host())
    yield from _guarded("clock", check_clock(asked))
    yield from _guarded("storage", check_storage(state_dir))
    yield from _guarded("sockets", check_sockets())


def _guarded(section: str, checks: Iterator[Check]) -> Iterator[Check]:
    """A machine that is odd in a way that nobody thought of loses a section, not the whole report."""
    try:
        yield from checks
    except Exception as error:  # noqa: BLE001 - whatever it is
        yield Check(section, section, "warning", f"cannot be looked at: {type(error).__name__}: {error}")


# Python


def check_packages() -> Iterator[Check]:
    """The interpreter, the packages of the base install (imported, elsewhere), and optional ones."""
    machine = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield Check("python", "Python", "ok", machine)
    faults = _import_faults(list(_BASE))
    for module, distribution in _BASE.items():
        fault = faults[module]
        if fault:
            yield Check("python", distribution, "broken", fault, remedy_of(fault, distribution))
        else:
            yield Check("python", distribution, "ok", _version(distribution))
    for module, (distribution, extra, purpose) in _OPTIONAL.items():
        if _is_there(module):
            yield Check("python", distribution, "ok", f"{_version(distribution)}, for {purpose}")
        else:
            found, remedy = f"not installed; for {purpose}", f"pip install 'inspectd[{extra}]'"
            yield Check("python", distribution, "missing", found, remedy)


def _import_faults(modules: Sequence[str]) -> dict[str, str]:
    """What is wrong with each module, empty where nothing is; a module that ends its process is tried by itself."""
    out, end = _child(_IMPORTS, *modules)
    faults = dict(map(json.loads, out.splitlines()))
    untold = [module for module in modules if module not in faults]
    if untold:
        faults[untold[0]] = end
        if untold[1:]:
            faults.update(_import_faults(untold[1:]))
    return faults


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


# GPU


def check_gpu() -> Iterator[Check]:
    """NVIDIA's driver, and the GPU through what inspectd itself uses."""
    out, end = _child(_GPU)
    try:
        told = json.loads(out)
    except json.JSONDecodeError:
        yield Check("gpu", "GPU", "warning", f"cannot be asked: {end}", "see what nvidia-smi says")
        return
    if told.get("absent"):
        found = "no NVIDIA driver on this machine; lines run on the processor"
        yield Check("gpu", "driver", "missing", found, 'for [model] backend = "tensorrt": install NVIDIA\'s driver')
        return
    yield Check("gpu", "driver", "ok", _driver_version())
    if "fault" in told:
        yield Check("gpu", "GPU", "warning", told["fault"], "see what nvidia-smi says; lines run on the processor")
    else:
        yield Check("gpu", "GPU", "ok", f"{told['name']}, compute capability {told['capability']}")


def _driver_version() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return "libcuda.so.1 is there"


# Cameras


def check_cameras(producers: Sequence[str], environment: Mapping[str, str]) -> Iterator[Check]:
    """The way to a camera (tried with a test camera), the simulated one, and what cameras there are."""
    from .sources.survey import PATH_VARIABLE, survey

    (viky,) = survey(["viky"])
    if viky.fault:
        yield Check("cameras", "test camera", "broken", viky.fault, "pip install --force-reinstall genicam harvesters")
    else:
        yield Check("cameras", "test camera", "ok", f"viky: {len(viky.cameras)} cameras through harvesters")
    yield _simulated()
    surveyed = survey(producers, environment=environment)
    if not surveyed:
        remedy = f"install the software of the camera's maker, and name the folder of its .cti file in {PATH_VARIABLE}"
        yield Check("cameras", "producers", "missing", f"none in {PATH_VARIABLE}", remedy)
    for answer in surveyed:
        yield from _producer(answer)


def _simulated() -> Check:
    from .sources.producers import producer_file

    try:
        return Check("cameras", "simulated camera", "ok", str(producer_file("simulator")))
    except InspectdError as error:
        return Check("cameras", "simulated camera", "missing", str(error))


def _producer(answer: Surveyed) -> Iterator[Check]:
    if answer.fault:
        yield Check("cameras", answer.producer, "warning", answer.fault, "reinstall the software of the camera's maker")
        return
    if not answer.cameras:
        remedy = "check power, cable and network: a GigE camera needs an address in the network of its port"
        yield Check("cameras", answer.producer, "warning", "finds no camera", remedy)
        return
    yield Check("cameras", answer.producer, "ok", f"finds {len(answer.cameras)}")
    with ThreadPoolExecutor(4) as pool:
        yield from pool.map(_camera, answer.cameras)


def _camera(camera: FoundCamera) -> Check:
    if camera.state == "unreachable":
        remedy = "check its address: it has to be in the network of the port that it is plugged into"
        return Check("cameras", str(camera), "warning", camera.state, remedy)
    if camera.state != "free":
        return Check("cameras", str(camera), "ok", camera.state)
    out, end = _child(_INFO, "camera", "info", camera.id, "--producer", camera.producer, "--json")
    try:
        formats = json.loads(out)["formats"]
    except json.JSONDecodeError:
        return Check("cameras", str(camera), "warning", f"free, but cannot be opened: {end}")
    readable = [form["name"] for form in formats if form["readable"]]
    others = [form["name"] for form in formats if not form["readable"]]
    found = f"free, sends {', '.join(readable) or 'nothing that can be read'}"
    if others:
        found += f"; cannot be read: {', '.join(others)}"
    return Check("cameras", str(camera), "ok" if readable else "warning", found)


# Calibration


def check_calibration(config: Path) -> Iterator[Check]:
    """The records that a configuration names: whether each is there, whole, and of its kind."""
    from inspectd.config import load_config

    from .models import thresholds_of
    from .optics import Optics

    try:
        loaded = load_config(config)
    except InspectdError as error:
        yield Check("calibration", "configuration", "broken", "; ".join(str(error).splitlines()), "see inspectd check")
        return
    for name, camera in loaded.cameras.items():
        try:
            found = Optics.load(name, camera).words() or "not calibrated"
            yield Check("calibration", f"cameras.{name}", "ok", found)
        except InspectdError as error:  # noqa: PERF203 - all of them are told
            yield from map(_faulty, str(error).splitlines())
    try:
        thresholds = thresholds_of(loaded.acceptance)
    except InspectdError as error:
        yield _faulty(str(error))
    else:
        if thresholds is not None:
            found = (
                f"of {thresholds.made:%Y-%m-%d} ({thresholds.sha256[:12]}), for bundle {thresholds.bundle_sha256[:12]}"
            )
            yield Check("calibration", "acceptance.record", "ok", found)


def _faulty(told: str) -> Check:
    """Of a fault as `inspectd check` tells it: setting, what is wrong, and what to do."""
    setting, _, fault = told.partition(": ")
    found, _, remedy = fault.rpartition("; ")
    return Check("calibration", setting, "broken", found or fault, remedy if found else "see inspectd-calibrate")


# Clock


def check_clock(ask: Ask) -> Iterator[Check]:
    """Whether the clock follows a reference, as chrony, systemd or the kernel tell it."""
    synchronised, found = _clock(ask)
    if synchronised:
        yield Check("clock", "synchronisation", "ok", found)
    else:
        remedy = "times of verdicts cannot be compared with those of other machines: apt install chrony"
        yield Check("clock", "synchronisation", "warning", found, remedy)


def _clock(ask: Ask) -> tuple[bool, str]:
    tracking = (ask(["chronyc", "-c", "tracking"]) or "").strip().split(",")
    if len(tracking) >= 14:
        leap, offset_s = tracking[13], abs(float(tracking[4]))
        return leap == "Normal", f"chrony: {leap.lower()}, {offset_s * 1e3:.3f} ms off {tracking[1] or tracking[0]}"
    shown = (ask(["timedatectl", "show", "--property=NTPSynchronized", "--value"]) or "").strip()
    if shown in {"yes", "no"}:
        return shown == "yes", f"timedatectl: {'' if shown == 'yes' else 'not '}synchronised"
    state = kernel_clock()
    if state is None:
        return False, "cannot be told: neither chrony nor timedatectl answers"
    return state, f"the kernel says that it is {'' if state else 'not '}synchronised"


# Storage


def check_storage(state_dir: Path | None) -> Iterator[Check]:
    """Whether the state folder can be written, how much room it has, and the memory that processes share."""
    from .epoch import EpochCounter

    folder = Path("state") if state_dir is None else state_dir
    try:
        EpochCounter(folder / "epoch").check()
    except InspectdError as error:
        verdict: Verdict = "warning" if state_dir is None else "broken"
        yield Check(
            "storage", "state folder", verdict, str(error), "set [station] state_dir to one that can be written"
        )
    else:
        yield Check("storage", "state folder", "ok", f"{folder.absolute()} can be written")
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    yield _room(
        "disk space", there, shutil.disk_usage(there).free, _LITTLE_SPACE, "make room, or set state_dir to another disk"
    )
    shared = Path("/dev/shm")  # noqa: S108 - its size is looked at
    if shared.is_dir():
        remedy = "docker run --shm-size=1g, or: mount -o remount,size=1g /dev/shm"
        yield _room("shared memory", shared, shutil.disk_usage(shared).free, _LITTLE_SHM, remedy)
    else:
        yield Check("storage", "shared memory", "warning", f"there is no {shared}", f"mount a tmpfs at {shared}")


def _room(name: str, path: Path, free: int, little: int, remedy: str) -> Check:
    found = f"{free / _GIB:.1f} GiB free in {path}"
    return Check("storage", name, "warning", found, remedy) if free < little else Check("storage", name, "ok", found)


# Sockets


def check_sockets(port: int = _PORT) -> Iterator[Check]:
    """Whether a line could publish: TCP at all, at the port of the default, and over a file."""
    try:
        with socket.socket() as any_port:
            any_port.bind(("127.0.0.1", 0))
    except OSError as error:
        remedy = "allow this user to open sockets on the loopback interface"
        yield Check("sockets", "TCP", "broken", f"cannot be bound: {error.strerror}", remedy)
        return
    yield Check("sockets", "TCP", "ok", "can be bound")
    try:
        with socket.socket() as own:
            # As ZeroMQ does: a port that was used a moment ago is free.
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.bind(("127.0.0.1", port))
        yield Check("sockets", f"port {port}", "ok", "is free")
    except OSError as error:
        found, remedy = (
            f"{error.strerror} (by a line that runs?)",
            "give another line another port in [publish] endpoint",
        )
        yield Check("sockets", f"port {port}", "warning", found, remedy)
    yield _unix_socket()


def _unix_socket() -> Check:
    try:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as local:
            local.bind(str(Path(folder) / "s"))
    except OSError as error:
        return Check("sockets", "ipc", "warning", f"cannot be bound: {error.strerror}", "publish at a tcp:// endpoint")
    return Check("sockets", "ipc", "ok", "can be bound")


# Other processes


def asked(command: Sequence[str]) -> str | None:
    """Standard output of a program, see `Ask`."""
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _child(script: str, *arguments: str) -> tuple[str, str]:
    """Standard output of a script in a process of its own, and how it ended, in words."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        return _text(error.stdout), f"did not answer within {_LIMIT_S:g} s"
    last = done.stderr.strip().splitlines()[-1:]
    crashed = f"crashed (signal {-done.returncode})" if done.returncode < 0 else ""
    return done.stdout, "; ".join(filter(None, [crashed, *last])) or f"ended with status {done.returncode}"


def _text(output: Any) -> str:  # noqa: ANN401 - bytes of a process that was ended, whatever was asked for
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
