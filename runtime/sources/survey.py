"""Which producers and cameras this machine has.

Each producer is loaded in a process of its own with a time limit: one that crashes or hangs costs a line of the listing
and nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspectd.errors import CameraError, InspectdError

if TYPE_CHECKING:
    from .producers import Api, Foreign

__all__ = ["PATH_VARIABLE", "FoundCamera", "Surveyed", "find_camera", "survey"]

PATH_VARIABLE = "GENICAM_GENTL64_PATH"
"""Environment variable with the folders of the `.cti` files that makers of cameras install."""
TIME_LIMIT_S = 20.0
"""A producer may take seconds to ask a network for its cameras."""

# DEVICE_ACCESS_STATUS of GenTL.
_STATES = {
    1: "free",
    2: "in use",  # it could be read only
    3: "unreachable",
    4: "in use",
    5: "in use",
    6: "in use",
}


@dataclass(frozen=True, slots=True)
class FoundCamera:
    """A camera that a producer lists.

    Attributes:
        producer: the producer's file.
        model: as its maker calls it.
        serial: serial number; empty where it says none.
        id: the producer's own name for it.
        user_name: the name that was written into the camera; empty where it has none.
        state: "free", "in use", "unreachable" or "unknown", as the producer says.
    """

    producer: str
    model: str
    serial: str
    id: str
    user_name: str
    state: str

    @property
    def names(self) -> tuple[str, ...]:
        """What it can be named by."""
        return tuple(name for name in (self.serial, self.id, self.user_name) if name)

    def __str__(self) -> str:
        return f"{self.model} [{' | '.join(dict.fromkeys(self.names))}]"


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What one producer answered.

    Attributes:
        producer: its file, or what was asked for where there is no such file.
        cameras: those that it finds.
        fault: why it could not be asked; empty where it could.
    """

    producer: str
    cameras: tuple[FoundCamera, ...] = ()
    fault: str = ""


def survey(
    given: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> list[Surveyed]:
    """Ask producers for their cameras, all at the same time.

    Args:
        given: producers as in a configuration: paths, `viky` or `simulator`.
        environment: where GENICAM_GENTL64_PATH names further ones; None asks the given ones alone.
        time_limit_s: that each may take, s.
    """
    paths, asked = _files(given, environment or {})
    running: list[tuple[Path, subprocess.Popen[str]]] = []
    try:
        running += ((path, _started(path)) for path in paths)
        return asked + [_answer(path, process, time_limit_s) for path, process in running]
    finally:
        # Of an interrupted listing nothing is left behind.
        for _, process in running:
            process.kill()
            process.wait()


def find_camera(name: str, given: Sequence[str], environment: Mapping[str, str]) -> FoundCamera:
    """The camera of a serial number, id or user-defined name.

    Args:
        name: what it is called.
        given: producers to look behind; without one, all that `environment` names.
        environment: of the process.

    Raises:
        CameraError: no camera is called so, or several are.
    """
    surveyed = survey(given, environment=None if given else environment)
    if not surveyed:
        raise CameraError(
            f"camera {name!r}: no GenTL producer is known; name one with --producer (the .cti file that the camera's "
            f"maker installs, or viky), or its folder in {PATH_VARIABLE}"
        )
    found = [camera for answer in surveyed for camera in answer.cameras]
    matching = [camera for camera in found if name in camera.names]
    if len(matching) == 1:
        return matching[0]
    faults = [answer.fault for answer in surveyed if answer.fault]
    if matching:
        behind = ", ".join(f"{camera} behind {camera.producer}" for camera in matching)
        raise CameraError(f"camera {name!r}: several are called so: {behind}; use its id, or name one --producer")
    listed = ", ".join(map(str, found)) or "none"
    raise CameraError("\n".join([f"camera {name!r}: not found; there are: {listed}", *faults]))


def _files(given: Iterable[str], environment: Mapping[str, str]) -> tuple[list[Path], list[Surveyed]]:
    """The producers' files, each once, and those that are not there."""
    paths: dict[Path, None] = {}
    missing = []
    for producer in given:
        path = _file(producer)
        if isinstance(path, Path):
            paths[path] = None
        else:
            missing.append(path)
    for folder in filter(None, environment.get(PATH_VARIABLE, "").split(os.pathsep)):
        # A folder that is not there has no producers: makers' installers leave such behind.
        paths.update(dict.fromkeys(path.resolve() for path in sorted(Path(folder).glob("*.cti"))))
    return list(paths), missing


def _file(producer: str) -> Path | Surveyed:
    from .producers import producer_file

    try:
        return producer_file(producer).resolve()
    except InspectdError as error:
        return Surveyed(producer, fault=str(error))


def _started(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "inspectd.runtime.sources.survey", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _answer(path: Path, process: subprocess.Popen[str], time_limit_s: float) -> Surveyed:
    hung = False
    try:
        out, err = process.communicate(timeout=time_limit_s)
    except subprocess.TimeoutExpired:
        hung = True
        process.kill()
        out, err = process.communicate()
    # Whoever answered and fell over while it was being unloaded has answered.
    try:
        return _surveyed(path, json.loads(out))
    except json.JSONDecodeError:
        pass
    if hung:
        fault = f"did not answer within {time_limit_s:g} s and was ended"
    elif process.returncode < 0:
        fault = f"crashed ({_signal(-process.returncode)}) when it was loaded; reinstall the camera maker's software"
    else:
        last = err.strip().splitlines()[-1:]
        fault = f"could not be asked (status {process.returncode}{''.join(f': {line}' for line in last)})"
    return Surveyed(str(path), fault=f"{path}: {fault}")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _surveyed(path: Path, answer: Mapping[str, Any]) -> Surveyed:
    cameras = tuple(FoundCamera(producer=str(path), **camera) for camera in answer["cameras"])
    return Surveyed(str(path), cameras, answer["fault"])


def _ask(path: Path) -> dict[str, Any]:
    """What the child process answers: the producer is loaded here."""
    from .producers import Producer, check_library, load_api

    try:
        check_library(path)
        producer = Producer(path)
    except InspectdError as error:
        return {"cameras": [], "fault": str(error)}
    return {"cameras": [_told(device.info, load_api()) for device in producer.devices()], "fault": ""}


def _told(info: Foreign, api: Api) -> dict[str, str]:
    def text(name: str) -> str:
        return str(api.asked(lambda: getattr(info, name), None) or "")

    status = api.asked(lambda: int(info.access_status), 0)
    return {
        "model": text("model") or "camera",
        "serial": text("serial_number"),
        "id": text("id_"),
        "user_name": text("user_defined_name"),
        "state": _STATES.get(status, "unknown"),
    }


def _child() -> None:
    # Producers print; standard output is kept for the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with answer:
        json.dump(_ask(Path(sys.argv[1])), answer)


if __name__ == "__main__":
    _child()
