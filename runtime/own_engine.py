"""An engine of this machine's own: built and compared before the line starts, and kept in the station's state folder.

The work is `export-trt`'s, in a process of its own: what a builder of TensorRT leaves behind, or a crash of it, is not
the line's. The bundle itself stays as it is; it may be signed, shared or read-only.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from inspectd.bundle import ENGINE_GRAPHS, MODEL, Bundle, EnginePrecision, load_bundle
from inspectd.errors import BundleError, IncompatibleEngine

from .engine import Engine

__all__ = ["open_own"]

COMMAND = (sys.executable, "-m", "inspectd.export.cli")
_log = logging.getLogger("inspectd.line")


def open_own(
    bundle: Bundle, state_dir: Path, opener: Callable[[Bundle], Engine], *, precision: EnginePrecision = "fp16"
) -> Engine:
    """The engine that was built on this machine for a bundle, or a new one.

    Args:
        bundle: that has none which can be used here.
        state_dir: the station's; the engine is kept under `engines/` in it, with a copy of the bundle.
        opener: opens the engine of a bundle.
        precision: its arithmetic.

    Raises:
        IncompatibleEngine: it could not be built, or does not give what the graph gives.
        InspectdError: as `opener`.
    """
    integers = ("--int8",) if precision == "int8" else ()
    kept = state_dir / "engines" / "-".join([bundle.digest[:16], precision])
    # None yet, damaged, or of another version of the library: a new one takes its place.
    with contextlib.suppress(BundleError):
        return opener(_copy(kept, bundle, precision))
    _log.warning("%s: building an engine for this machine, which may take minutes; it is kept in %s", bundle.path, kept)
    begun = time.monotonic()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IncompatibleEngine(f"{kept.parent}: cannot be made to keep an engine in ({error.strerror})") from error
    _export("--from-onnx", str(bundle.path), "--out", str(kept), *integers)
    _export("--certify", str(kept), *integers)
    _log.warning("%s: built and compared in %.0f s", bundle.path, time.monotonic() - begun)
    return opener(_copy(kept, bundle, precision))


def _copy(path: Path, bundle: Bundle, precision: EnginePrecision) -> Bundle:
    """A kept copy of a bundle; it has to be of the same graphs."""
    copy = load_bundle(path)
    if any(copy.sha256(graph) != bundle.sha256(graph) for graph in (MODEL, ENGINE_GRAPHS[precision])):
        raise IncompatibleEngine(f"{path}: was made of another bundle; delete it")
    return copy


def _export(*arguments: str) -> None:
    """Run `export-trt`, whose bars are for a terminal and whose last words are for the error."""
    shown = sys.stderr.isatty()
    done = subprocess.run(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stderr=None if shown else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "it said why above" if shown else (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise IncompatibleEngine(f"`export-trt {' '.join(arguments)}` failed: {said}")
