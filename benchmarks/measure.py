"""What the benchmarks share: two things compared in turns, the machine they ran on, and how both are shown."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import inspectd

__all__ = ["Comparison", "Report", "compare", "machine", "machine_text", "table"]

BUSY = 0.25
"""Load average for each core from which on the machine counts as busy."""

_PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "openvino", "pyzmq", "torch", "torchvision", "lightning")


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much longer something takes than its baseline; both were measured in turns, a pair for each round.

    Attributes:
        baseline_ms, measured_ms: time of one frame or update in each round.
        bound: the highest ratio that is allowed.

    Raises:
        ValueError: no rounds, or not as many of both, or a time that is none.
    """

    baseline_ms: tuple[float, ...]
    measured_ms: tuple[float, ...]
    bound: float

    def __post_init__(self) -> None:
        if not self.baseline_ms or len(self.baseline_ms) != len(self.measured_ms):
            raise ValueError(f"{len(self.baseline_ms)} rounds of the baseline, {len(self.measured_ms)} measured")
        if not all(value > 0 for value in (*self.baseline_ms, *self.measured_ms)):
            raise ValueError("a round took no time")

    @property
    def ratio(self) -> float:
        """Median of the measured over median of the baseline."""
        return median(self.measured_ms) / median(self.baseline_ms)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest ratio of a round."""
        ratios = [measured / base for base, measured in zip(self.baseline_ms, self.measured_ms, strict=True)]
        return min(ratios), max(ratios)

    @property
    def passed(self) -> bool:
        """Whether the ratio of the medians keeps the bound."""
        return self.ratio <= self.bound

    def text(self) -> str:
        """The ratio, its spread and the bound, in one line."""
        low, high = self.spread
        said = f"ratio {self.ratio:.3f} (rounds {low:.3f} to {high:.3f}), bound {self.bound:.2f}: "
        said += "pass" if self.passed else "FAIL"
        if low <= self.bound < high:
            said += "; the bound lies within the spread, so repeat it on a quiet machine or with more --repeats"
        return said

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ratio": self.ratio,
            "spread": list(self.spread),
            "bound": self.bound,
            "passed": self.passed,
            "baseline_ms": list(self.baseline_ms),
            "measured_ms": list(self.measured_ms),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What a benchmark found: text for people, values for JSON, and whether its bound is kept."""

    text: str
    values: dict[str, Any]
    passed: bool


def compare(baseline: Callable[[], float], measured: Callable[[], float], *, rounds: int, bound: float) -> Comparison:
    """Measure two things in turns: A B, B A, A B and so on, so that a drift of the machine meets both alike.

    Args:
        baseline: does a round of the baseline, and tells its ms.
        measured: does a round of what is measured, and tells its ms.
        rounds: how often each is done.
        bound: the highest ratio that is allowed.
    """
    baseline_ms, measured_ms = [], []
    for number in range(rounds):
        if number % 2 == 0:
            baseline_ms.append(baseline())
            measured_ms.append(measured())
        else:
            measured_ms.append(measured())
            baseline_ms.append(baseline())
    return Comparison(tuple(baseline_ms), tuple(measured_ms), bound)


def machine() -> dict[str, Any]:
    """What the figures were taken on; to be asked before anything is measured, for the sake of the load."""
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "system": f"{platform.system()} {platform.release()}",
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "load_average": load,
        "busy": load > BUSY * cores,
        "versions": {"python": platform.python_version(), "inspectd": inspectd.__version__, **_installed()},
    }


def machine_text(values: dict[str, Any]) -> str:
    """What `machine` says, for people."""
    versions = ", ".join(f"{name} {version}" for name, version in values["versions"].items())
    lines = [
        f"{values['cpu']}, {values['cores']} cores, {values['system']}",
        versions,
        f"{values['date']}, load average {values['load_average']:.2f}",
    ]
    if values["busy"]:
        lines.append("WARNING: the machine is busy with something else; these figures are not to be quoted")
    return "\n".join(lines)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        rest = "".join(f"  {cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True))
        return f"  {cells[0]:<{widths[0]}}{rest}"

    return "\n".join(line(cells) for cells in (headings, *rows))


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _installed() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES if _is_installed(name)}


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
