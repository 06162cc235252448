"""An engine of this machine's own: built and compared before the line starts, and kept in the station's state folder.

The work is `export-trt`'s, in a process of its own: what a builder of TensorRT leaves behind, or a crash of it, is not
the line's. The bundle itself stays as it is; it may be signed, shared or read-only.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from inspectd.bundle import ENGINE_GRAPHS, MODEL, Bundle, EnginePrecision, load_bundle
from inspectd.errors import BundleError, IncompatibleEngine

from .engine import Engine

__all__ = ["open_own"]

COMMAND = (sys.executable, "-m", "inspectd.export.cli")
BUILD_S = 3300.0
"""So long may building and comparing take: less than the line has (line.BUILD_S), whose end would leave the builder."""
_log = logging.getLogger("inspectd.line")


def open_own(
    bundle: Bundle,
    state_dir: Path,
    opener: Callable[[Bundle], Engine],
    *,
    precision: EnginePrecision = "fp16",
    build: bool = True,
) -> Engine:
    """The engine that was built on this machine for a bundle, or a new one.

    Args:
        bundle: that has none which can be used here.
        state_dir: the station's; the engine is kept under `engines/` in it, with a copy of the bundle.
        opener: opens the engine of a bundle.
        precision: its arithmetic.
        build: whether a new one may be built.

    Raises:
        IncompatibleEngine: it could not be built, does not give what the graph gives, or another process builds it.
        InspectdError: as `opener`.
    """
    integers = ("--int8",) if precision == "int8" else ()
    kept = state_dir / "engines" / "-".join([bundle.digest[:16], precision])
    if kept.exists():
        try:
            return opener(_copy(kept, bundle, precision))
        except BundleError as error:
            # Damaged, or of another version of the library: a new one takes its place.
            _log.warning("%s: the engine that was built here before is not used: %s", kept, error)
    if not build:
        raise IncompatibleEngine(f"{bundle.path}: has no engine for this machine; the line builds one when it starts")
    _log.warning("%s: building an engine for this machine, which may take minutes; it is kept in %s", bundle.path, kept)
    begun = time.monotonic()
    with _alone(kept):
        with tempfile.TemporaryDirectory(prefix=f".{kept.name}-", dir=kept.parent) as scratch:
            # Nothing lies where it is looked for that was not compared.
            draft = Path(scratch) / "bundle"
            _export("--from-onnx", str(bundle.path), "--out", str(draft), *integers, by_s=begun + BUILD_S)
            _export("--certify", str(draft), *integers, by_s=begun + BUILD_S)
            shutil.rmtree(kept, ignore_errors=True)
            draft.rename(kept)
        _log.warning("%s: built and compared in %.0f s", bundle.path, time.monotonic() - begun)
        return opener(_copy(kept, bundle, precision))


@contextlib.contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """Keeps others from building the same engine; the folder is there then."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.with_name(f"{kept.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise IncompatibleEngine(f"{kept}: another process is building this engine; wait until it has") from None
    except OSError as error:
        raise IncompatibleEngine(f"{kept}: an engine cannot be kept there ({error.strerror or error})") from error


def _copy(path: Path, bundle: Bundle, precision: EnginePrecision) -> Bundle:
    """A kept copy of a bundle; it has to be of the same graphs."""
    copy = load_bundle(path)
    if any(copy.sha256(graph) != bundle.sha256(graph) for graph in (MODEL, ENGINE_GRAPHS[precision])):
        raise IncompatibleEngine(f"{path}: was made of another bundle; delete it")
    return copy


def _export(*arguments: str, by_s: float) -> None:
    """Run `export-trt`, whose bars are for a terminal and whose last words are for the error."""
    shown = sys.stderr.isatty()
    try:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if shown else subprocess.PIPE,
            text=True,
            check=False,
            timeout=max(0.0, by_s - time.monotonic()),
        )
    except subprocess.TimeoutExpired:
        told = f"was not done in {BUILD_S / 60:.0f} minutes, and was ended; build the engine on another machine"
        raise IncompatibleEngine(f"`export-trt {' '.join(arguments)}` {told} (docs/export.md)") from None
    if done.returncode:
        said = "it said why above" if shown else (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise IncompatibleEngine(f"`export-trt {' '.join(arguments)}` failed: {said}")
    if not shown:
        _log.info("export-trt: %s", "; ".join(done.stderr.strip().splitlines()))
