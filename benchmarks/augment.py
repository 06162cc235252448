"""What augmentation costs the line: latencies of a station while defects are painted and while none are, in turns.

The station is real: its supervisor, its core with journal and archive, and the process that paints. The bundle that
paints has random weights, which changes no time.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inspectd.bundle import ModelCard
from inspectd.buttons import LINES, render
from inspectd.dataset_writing import Row, write_png, write_split
from inspectd.export.bundler import export_bundle
from inspectd.preprocess import Preprocess
from inspectd.runtime.messaging import Requester, Silence, Subscriber
from inspectd.simulation.coarse import Exemplar
from inspectd.simulation.parts import located
from inspectd.training.carded import CHECKPOINT
from inspectd.training.style.checkpoint import save_dst
from inspectd.training.style.dst import DstSettings
from inspectd.training.style.transfernet import TransferNet
from inspectd.wire import MessageType, StatsBody, read_body

from .measure import Report, table

__all__ = ["BOUND", "run"]

BOUND = 1.2
"""Highest ratio of the 99th percentiles that is allowed."""
DEFECT = "stain"
DEADLINE_MS = 1000
GOOD = 40
ORDER = 400
"""Pictures of one order; another one follows it."""
STAGES = ("wait", "pre", "infer", "post", "journal", "total")
_WAIT_S = 120.0


def run(*, rounds: int, frames: int, size: int, fps: float, threads: int, folder: Path) -> Report:
    """Measure.

    Args:
        rounds: how often each is measured.
        frames: parts of a round.
        size: side of the pictures, px.
        fps: parts a second.
        threads: of the engine that judges; 0 takes all cores.
        folder: where all of it is written.

    Raises:
        RuntimeError: the station does not do what it is to do.
    """
    config = _site(folder, size=size, fps=fps, threads=threads)
    latencies: dict[bool, list[list[float]]] = {False: [], True: []}
    overdue = {False: 0, True: 0}
    stages: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    with _station(config) as (requester, subscriber):
        _until(lambda: len(list((folder / "archive").glob("*/*/*.json"))) >= GOOD)
        painted = 0
        for number in range(rounds):
            for with_it in (False, True) if number % 2 == 0 else (True, False):
                if with_it:
                    _begin(requester)
                before = _stats(subscriber)
                found, done = _listen(requester, subscriber, frames, again=with_it)
                after = _stats(subscriber)
                overdue[with_it] += after.overdue - before.overdue
                for stage, told in after.latency.items():
                    stages[with_it][stage] += told.sum_ms - before.latency[stage].sum_ms
                    stages[with_it][f"{stage} count"] += sum(told.counts) - sum(before.latency[stage].counts)
                latencies[with_it].append(found)
                painted += done
                if with_it:
                    requester.ask("augment_cancel", timeout_s=_WAIT_S)
                    time.sleep(1.0)
    p99 = {with_it: float(np.percentile(np.concatenate(found), 99)) for with_it, found in latencies.items()}
    ratio = p99[True] / p99[False]
    passed = ratio <= BOUND and not overdue[True]
    rows = []
    for with_it, words in ((False, "without"), (True, "while defects are painted")):
        values = np.concatenate(latencies[with_it])
        each = [float(np.percentile(found, 99)) for found in latencies[with_it]]
        figures = (float(np.median(values)), p99[with_it], min(each), max(each), float(values.max()))
        rows.append((words, str(len(values)), *(f"{figure:.1f}" for figure in figures)))
    means = {
        with_it: {stage: its[stage] / max(1, its[f"{stage} count"]) for stage in STAGES}
        for with_it, its in stages.items()
    }
    by_stage = [
        (words, *(f"{means[with_it][stage]:.1f}" for stage in STAGES))
        for with_it, words in ((False, "without"), (True, "while defects are painted"))
    ]
    seconds = rounds * frames / fps
    lines = [
        f"{size} px, {fps:g} parts a second, {threads or 'all'} threads, {rounds} rounds of {frames} parts in turns",
        table(("latency, ms", "parts", "median", "p99", "lowest p99", "highest p99", "worst"), rows),
        table(("mean by stage, ms", *STAGES), by_stage),
        f"p99 {ratio:.3f} times that without (at most {BOUND:g}), "
        f"{overdue[True]} parts over their deadline of {DEADLINE_MS} ms ({overdue[False]} without): "
        f"{'pass' if passed else 'FAIL'}",
        f"{painted} pictures painted in {seconds:.0f} s: {painted / seconds:.2f} a second",
    ]
    values = {
        "latencies_ms": {"without": latencies[False], "with": latencies[True]},
        "p99_ratio": ratio,
        "stages_ms": [means[False], means[True]],
    }
    return Report("\n".join(lines), {**values, "overdue": overdue[True], "painted": painted, "bound": BOUND}, passed)


def _site(folder: Path, *, size: int, fps: float, threads: int) -> Path:
    """Good parts for the camera, a bundle that paints, and the configuration."""
    rows: list[Row] = []
    for seed in range(GOOD):
        write_png(folder / "parts" / f"{seed:03}.png", render(LINES[0], None, seed, size).image)
        rows.append((f"{seed:03}.png", "", "", "free", ""))
    write_split(folder / "parts", rows)
    defective = render(LINES[0], DEFECT, 1000, size)
    exemplar = located(Exemplar(DEFECT, DEFECT, defective.image, defective.mask > 0))
    torch.manual_seed(0)
    settings = DstSettings()
    card = ModelCard(
        kind="dst",
        name=DEFECT,
        classes=(DEFECT,),
        preprocess=Preprocess(height=settings.window, width=settings.window),
        thresholds=(0.5,),
        network={"architecture": "transfernet", "channels": settings.channels, "blocks": settings.blocks},
        provenance={"settings": settings.model_dump(mode="json")},
    )
    checkpoint = folder / "dst" / CHECKPOINT
    checkpoint.parent.mkdir()
    save_dst(checkpoint, TransferNet(settings.channels, settings.head, settings.blocks), card, exemplar)
    export_bundle(checkpoint, folder / "bundles" / DEFECT, calibration=folder / "parts", limit=3)
    config = folder / "line.toml"
    config.write_text(
        f'[cameras.cam1]\nsource = "folder"\npath = "parts"\npattern = "*.png"\nloop = true\nfps = {fps}\n'
        f'deadline_ms = {DEADLINE_MS}\n\n[model]\nbundle = "demo"\nthreads = {threads}\n\n'
        f'[publish]\nendpoint = "ipc://{folder}/pub"\n\n[archive]\npath = "archive"\nok_every = 5\n'
        "keep_free_gib = 0\n\n"
        f'[augment]\nbundles = "bundles"\nout = "site"\nkeep_free_gib = 0\n\n[acceptance.default]\nscore = 0.999\n',
        encoding="utf-8",
    )
    return config


@contextlib.contextmanager
def _station(config: Path) -> Iterator[tuple[Requester, Subscriber]]:
    command = [sys.executable, "-c", "from inspectd.runtime.entry import main; main()", "run", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        folder = config.parent
        with Requester(f"ipc://{folder}/state/ctl") as requester, Subscriber(f"ipc://{folder}/pub") as subscriber:
            yield requester, subscriber
    finally:
        process.terminate()
        process.wait(60)


def _begin(requester: Requester) -> None:
    requester.ask("augment", {"defects": [DEFECT], "count": ORDER}, timeout_s=_WAIT_S)


def _listen(requester: Requester, subscriber: Subscriber, frames: int, *, again: bool) -> tuple[list[float], int]:
    """Latencies of so many parts, ms, and pictures that were painted meanwhile."""
    while not isinstance(subscriber.receive(0.0), Silence):
        pass
    found: list[float] = []
    done = before = 0
    while len(found) < frames:
        message = subscriber.receive(_WAIT_S)
        if isinstance(message, Silence):
            raise RuntimeError("the station publishes nothing")  # noqa: TRY004 - it is no type that is wrong
        if message.header.msg_type == MessageType.VERDICT:
            found.append(message.header.latency_us / 1000)
        elif message.header.msg_type == MessageType.STATS and again:
            told = read_body(message, StatsBody).augment
            if told is None:
                continue
            done, before = done + max(0, told.done - before), told.done
            if told.state == "done":
                _begin(requester)
                before = 0
    return found, done


def _stats(subscriber: Subscriber) -> StatsBody:
    while True:
        message = subscriber.receive(_WAIT_S)
        if not isinstance(message, Silence) and message.header.msg_type == MessageType.STATS:
            return read_body(message, StatsBody)


def _until(holds: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while not holds():
        if time.monotonic() > deadline_s:
            raise RuntimeError("the station archives nothing")
        time.sleep(0.1)
