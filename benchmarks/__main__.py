"""`python -m benchmarks`: measure, compare with the bounds, and say where the time goes."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inspectd.errors import ConfigError, InspectdError

from .measure import Report, machine, machine_text

BENCHMARKS = (
    *("render", "line", "station", "messages", "training", "dst", "matte", "engines", "painter"),
    *("tiles", "camera", "formats", "archive", "calibration", "sight", "augment", "edges", "faults"),
)
ON_REQUEST = ("augment", "edges", "faults")
"""Not among `all`: they take as long as they are told to, or measure what they are given."""


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, 1 where a bound is missed, 2 where something could not be measured."""
    options = _parser().parse_args(arguments)
    measures: dict[str, Callable[[argparse.Namespace], Report]] = {
        "render": _render,
        "line": _line,
        "station": _station,
        "messages": _messages,
        "training": _training,
        "dst": _dst,
        "matte": _matte,
        "engines": _engines,
        "painter": _painter,
        "tiles": _tiles,
        "camera": _camera,
        "formats": _formats,
        "archive": _archive,
        "calibration": _calibration,
        "sight": _sight,
        "augment": _augment,
        "edges": _edges,
        "faults": _faults,
    }
    # Asked before anything is measured: the benchmarks are a load themselves.
    found: dict[str, Any] = {"machine": machine()}
    print(machine_text(found["machine"]), flush=True)
    passed = True
    for name in BENCHMARKS:
        if options.benchmark != name and (options.benchmark != "all" or name in ON_REQUEST):
            continue
        print(f"\n{name}", flush=True)
        try:
            report = measures[name](options)
        except InspectdError as error:
            print(f"benchmarks: error: {name}: {error}", file=sys.stderr)
            return 2
        print(report.text, flush=True)
        found[name] = report.values
        passed &= report.passed
    if options.json is not None:
        try:
            options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            print(f"benchmarks: error: {options.json}: cannot be written: {error.strerror}", file=sys.stderr)
            return 2
    return 0 if passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure inspectd on this machine. Exit status 1 where a bound is missed.",
    )
    parser.add_argument("benchmark", nargs="?", choices=("all", *BENCHMARKS), default="all", help="default: all")
    parser.add_argument("--repeats", type=_count, default=7, metavar="N", help="rounds of each (7)")
    parser.add_argument(
        "--size", type=_count, default=256, metavar="PX", help="side of the pictures; engines take twice that too (256)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    line = parser.add_argument_group("line")
    line.add_argument("--bundle", type=Path, metavar="PATH", help="judge by this one instead of the one shipped")
    line.add_argument("--threads", type=int, default=0, metavar="N", help="of an engine; 0 takes all cores (0)")
    line.add_argument("--frames", type=_count, default=60, metavar="N", help="frames of a round, also of camera (60)")
    station = parser.add_argument_group("station")
    station.add_argument("--state", type=Path, metavar="DIR", help="where journal and archive are written (/tmp)")
    station.add_argument("--fps", type=float, default=5.0, metavar="N", help="parts a second, of augment (5)")
    edges = parser.add_argument_group("edges")
    edges.add_argument("--simulated", type=Path, metavar="DIR", help="dataset that `inspectd-train simulate` wrote")
    edges.add_argument("--data", type=Path, metavar="DIR", help="rendered buttons that it is of")
    faults = parser.add_argument_group("faults")
    faults.add_argument("--minutes", type=float, default=10.0, metavar="M", help="how long things go wrong (10)")
    faults.add_argument("--seed", type=int, default=0, metavar="N", help="of what goes wrong when (0)")
    training = parser.add_argument_group("training")
    training.add_argument("--backbone", choices=("resnet50", "resnet34", "resnet18", "slim"), default="slim")
    training.add_argument("--precision", choices=("auto", "32-true", "bf16-mixed"), default="auto")
    training.add_argument("--augment", choices=("none", "flips", "full"), default="full")
    training.add_argument("--batch", type=_count, default=8, metavar="N", help="pictures of an update (8)")
    training.add_argument("--steps", type=_count, default=10, metavar="N", help="updates of a round that count (10)")
    training.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read pictures (0)")
    training.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _render(options: argparse.Namespace) -> Report:
    from .render import run

    return run(repeats=options.repeats, size=options.size)


def _line(options: argparse.Namespace) -> Report:
    from inspectd.runtime.station import demo_bundle

    from .line import run

    return run(
        bundle_path=options.bundle or demo_bundle(),
        rounds=options.repeats,
        frames=options.frames,
        size=options.size,
        threads=options.threads,
    )


def _station(options: argparse.Namespace) -> Report:
    from inspectd.runtime.station import demo_bundle

    from .line import run

    with tempfile.TemporaryDirectory(prefix="inspectd-", dir=options.state) as folder:
        return run(
            bundle_path=options.bundle or demo_bundle(),
            rounds=options.repeats,
            frames=options.frames,
            size=options.size,
            threads=options.threads,
            state_dir=Path(folder),
        )


def _augment(options: argparse.Namespace) -> Report:
    from .augment import run

    with tempfile.TemporaryDirectory(prefix="inspectd-", dir=options.state) as folder:
        return run(
            rounds=options.repeats,
            frames=options.frames,
            size=options.size,
            fps=options.fps,
            threads=options.threads,
            folder=Path(folder),
        )


def _messages(options: argparse.Namespace) -> Report:
    from .messages import run

    return run(repeats=options.repeats)


def _training(options: argparse.Namespace) -> Report:
    from inspectd.optional import require

    require("lightning", extra="train")
    from inspectd.training.segmentation.settings import SegmentSettings

    from .training import run

    settings = SegmentSettings(
        backbone=options.backbone,
        height=options.size,
        width=options.size,
        batch=options.batch,
        augment=options.augment,
        precision=options.precision,
    )
    return run(
        settings=settings,
        rounds=options.repeats,
        steps=options.steps,
        workers=options.workers,
        accelerator=options.accelerator,
    )


def _dst(options: argparse.Namespace) -> Report:
    from inspectd.optional import require

    require("lightning", extra="train")
    from .dst import run

    return run(repeats=options.repeats, size=options.size, updates=options.steps + 2, accelerator=options.accelerator)


def _engines(options: argparse.Namespace) -> Report:
    from inspectd.optional import require

    for module in ("torch", "onnx", "onnxscript"):
        require(module, extra="export")
    from .engines import run

    sizes = (options.size, 2 * options.size)
    return run(backbone=options.backbone, sizes=sizes, rounds=options.repeats, threads=options.threads)


def _painter(options: argparse.Namespace) -> Report:
    from inspectd.optional import require

    for module in ("torch", "onnx", "onnxscript"):
        require(module, extra="export")
    from .painter import run

    window = 64
    sizes = tuple(dict.fromkeys((window, options.size, 2 * options.size)))
    return run(sizes=sizes, rounds=options.repeats, threads=options.threads)


def _matte(options: argparse.Namespace) -> Report:
    from .matte import run

    return run(parts=options.repeats, size=options.size)


def _tiles(options: argparse.Namespace) -> Report:
    from inspectd.runtime.station import demo_bundle

    from .tiles import run

    return run(bundle_path=options.bundle or demo_bundle(), rounds=options.repeats, side=options.size)


def _camera(options: argparse.Namespace) -> Report:
    from .camera import run

    return run(rounds=options.repeats, frames=options.frames)


def _formats(options: argparse.Namespace) -> Report:
    from .formats import run

    return run(rounds=options.repeats)


def _archive(options: argparse.Namespace) -> Report:
    from .archive import run

    return run(rounds=options.repeats)


def _calibration(options: argparse.Namespace) -> Report:
    from .calibration import run

    return run(rounds=options.repeats)


def _sight(options: argparse.Namespace) -> Report:
    from inspectd.optional import require
    from inspectd.runtime.station import demo_bundle

    from .sight import run

    require("scipy", extra="augment")
    return run(bundle_path=options.bundle or demo_bundle(), rounds=options.repeats)


def _edges(options: argparse.Namespace) -> Report:
    from .edges import run

    if options.simulated is None or options.data is None:
        raise ConfigError("needs --simulated and --data")
    return run(simulated=options.simulated, data=options.data)


def _faults(options: argparse.Namespace) -> Report:
    from .faults import run

    return run(minutes=options.minutes, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
