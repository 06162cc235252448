"""The paper's two experiments: what is trained for Table 1 and for Figure 6, at a budget.

Wei, Cao, Jiang, Zheng, Liu: "Defective samples simulation through Neural Style Transfer for automatic surface defect
segment", section on experiments. Its button photographs are not public; its figures are for other pictures than these.

Readings where it is silent: real defects beyond the references are drawn from `extra`; strategy A, whose passes over
few pictures are few updates, gets as many defective pictures as the paper's 120 passes show, but never more updates
than B and C; and so do the references alone where Table 1 has them as in the paper (its 240 updates were 120 passes).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from inspectd.dataset import Dataset
from inspectd.errors import ConfigError, DatasetError
from inspectd.training.segmentation.networks import ARCHITECTURES, try_network
from inspectd.training.segmentation.settings import OWN_NETWORK, SegmentSettings

from .experiment import Entry
from .grid import Grid
from .simulation import ExperimentSettings
from .variants import ONLY_REAL, Variant

__all__ = ["STRATEGIES", "TABLE1", "WAYS", "Budget", "figure6", "settings_of", "table1"]

Budget = Literal["quick", "paper"]

WAYS = ("dst", "dst-paper", "histmatch", "histmatch-gauss", "cyclegan", "cutpaste", ONLY_REAL)
"""Columns of Table 1; behind them comes `only-real` with as few updates as in the paper."""

STRATEGIES = {"A": "A: real, in turn", "B": "B: real, with replacement", "C": "C: real and simulated"}
"""Rows of Figure 6, and what they are."""

TABLE1: Mapping[tuple[str, str], float] = {
    ("buttonlab", "dst-paper"): 0.8000,
    ("buttonlab", "histmatch"): 0.6599,
    ("buttonlab", "cyclegan"): 0.6841,
    ("buttonlab", ONLY_REAL): 0.4692,
    ("deeplabv3plus", "dst-paper"): 0.6390,
    ("deeplabv3plus", "histmatch"): 0.4752,
    ("deeplabv3plus", "cyclegan"): 0.5693,
    ("deeplabv3plus", ONLY_REAL): 0.4249,
    ("unet", "dst-paper"): 0.6578,
    ("unet", "histmatch"): 0.1930,
    ("unet", "cyclegan"): 0.6377,
    ("unet", ONLY_REAL): 0.5903,
}
"""Pooled pixel F1 that the paper states for its own photographs; its `only-real` had 240 updates."""

_PASSES, _BATCH = 120, 8
_UPDATES = 32_520
"""The paper's: passes over all pictures, pictures of an update, updates without and with 2167 simulated ones."""

# Both: half of a batch defective, half of those simulated; 9 real ones among thousands would not be seen.
_SHARES: dict[str, Any] = {"defect_share": 0.5, "simulated_share": 0.5}
_QUICK: dict[str, Any] = {
    "backbone": "slim",
    "height": 128,
    "width": 128,
    "window": 0.5,
    "crop": 1.0,
    "crop_bias": 0.8,
    "batch": 16,
    "steps": 500,
    "schedule": "onecycle",
    "weight_decay": 0.01,
}
_PAPER: dict[str, Any] = {"backbone": "resnet50", "batch": _BATCH, "steps": _UPDATES}


def settings_of(
    budget: Budget,
    roles: Sequence[str],
    changes: Mapping[str, Any],
    *,
    seeds: int,
    count: int | None = None,
    dst: Mapping[str, Any] | None = None,
    measured: Sequence[str] = ("test", "ok_test"),
) -> ExperimentSettings:
    """What all trainings have in common.

    Args:
        budget: quick (a small network, windows of 64 px, for processors) or paper (its network and schedule).
        roles: that are trained on.
        changes: to the budget's `SegmentSettings`, for pictures that need others.
        seeds: trainings of each entry.
        count: simulated pictures of each way, if not the budget's.
        dst: changes to the budget's settings of DST.
        measured: roles that are measured.

    Raises:
        ValidationError: settings that do not go together.
    """
    given = dict(dst or {})
    segment = SegmentSettings(**{**_SHARES, **(_QUICK if budget == "quick" else _PAPER), **changes}, roles=tuple(roles))
    if budget == "paper":
        return ExperimentSettings(
            seeds=seeds, count=2167 if count is None else count, dst=given, roles=tuple(measured), segment=segment
        )
    short = {"epochs": 2, "pictures": 120}
    return ExperimentSettings(
        seeds=seeds,
        count=900 if count is None else count,
        dst=short | given,
        cyclegan=short,
        roles=tuple(measured),
        segment=segment,
    )


def table1(settings: ExperimentSettings, dataset: Dataset, networks: Sequence[str], ways: Sequence[str]) -> Grid:
    """Networks against ways to simulate defects.

    Args:
        settings: what all trainings have in common.
        dataset: with references.
        networks: rows, see `SegmentSettings.network`.
        ways: columns, see `Variant`.

    Raises:
        ConfigError: an unknown network or way, or a network that cannot be built.
    """
    if unknown := [name for name in networks if name not in ARCHITECTURES and not re.match(OWN_NETWORK, name)]:
        raise ConfigError(
            f"network {unknown[0]!r} is not one of {', '.join(ARCHITECTURES)}, nor module:function of your own"
        )
    references = sum(sample.role == "ref" for sample in dataset.samples if sample.masks)
    entries = []
    stated = {place: f1 for place, f1 in TABLE1.items() if place[1] != ONLY_REAL}
    for network in networks:
        common = {"network": network} | ({"weights": "none"} if ":" in network else {})
        entries += [Entry(network, way, Variant.of(way), common) for way in ways]
        try_network(SegmentSettings(**settings.segment.model_dump() | common))
        if ONLY_REAL in ways:
            # As in the paper; beside it is the control with as many updates as the others.
            few = _in_turn(settings.segment, references)
            column = f"{ONLY_REAL}, {few} updates"
            entries.append(Entry(network, column, Variant.of(ONLY_REAL), common | {"steps": few}))
            if (network, ONLY_REAL) in TABLE1:
                stated[network, column] = TABLE1[network, ONLY_REAL]
    shown = tuple(entry for entry in entries if entry.column == ways[0])
    return Grid("Table 1", "network", settings, tuple(entries), shown, along_rows=True, stated=stated)


def figure6(
    settings: ExperimentSettings,
    dataset: Dataset,
    network: str,
    way: str,
    *,
    strategies: Sequence[str] = tuple(STRATEGIES),
    numbers: Sequence[str] | None = None,
) -> Grid:
    """Numbers of real defects against strategies: A in turn, B with replacement, C with simulated ones too.

    Args:
        settings: what all trainings have in common; `extra` is among its roles.
        dataset: with references, and further real defects in `extra`.
        network: that learns.
        way: to simulate defects, see `Variant`.
        strategies: of A, B and C.
        numbers: of real defects, of the four that the dataset gives; None takes all.

    Raises:
        DatasetError: there are no real defects but the references.
        ConfigError: an unknown strategy, or a number that is none of the four.
    """
    roles = [sample.role for sample in dataset.samples if sample.masks]
    few, more = roles.count("ref"), roles.count("extra")
    if more < 3:
        raise DatasetError(
            f"{dataset.root}: Figure 6 needs real defects beside the references, in the role extra; there are {more}"
        )
    try_network(SegmentSettings(**settings.segment.model_dump() | {"network": network}))
    every = [str(real) for real in (few, *(few + more * part // 3 for part in (1, 2, 3)))]
    numbers = every if numbers is None else numbers
    for asked, known, what in ((strategies, tuple(STRATEGIES), "strategy"), (numbers, every, "number of real defects")):
        if unknown := [name for name in asked if name not in known]:
            raise ConfigError(f"{what} {unknown[0]!r} is not one of {', '.join(known)}")
        if not asked:
            raise ConfigError(f"no {what} is given; there are {', '.join(known)}")
    entries = []
    for real in map(int, every):
        drawn = {"network": network, "real": real, "replacement": True}
        in_turn = {"network": network, "real": real, "steps": _in_turn(settings.segment, real)}
        entries += [
            Entry("A", str(real), Variant.of(ONLY_REAL), in_turn),
            Entry("B", str(real), Variant.of(ONLY_REAL), drawn),
            Entry("C", str(real), Variant.of(way), drawn),
        ]
    entries = [entry for entry in entries if entry.row in strategies and entry.column in numbers]
    shown = tuple(entry for entry in entries if entry.column == entries[0].column)
    entries.sort(key=lambda entry: entry.row)
    share = settings.segment.simulated_share
    simulated = "the simulated ones as they occur" if share is None else f"{share:g} of the defects being simulated"
    return Grid(
        "Figure 6",
        "strategy",
        settings,
        tuple(entries),
        shown,
        note="Columns: real defects that are trained on. A: all of them in turn, as many pictures as the paper's 120 "
        "passes show, but no more updates than B. B: drawn with replacement. C: as B, "
        f"{simulated}.",
        names=STRATEGIES,
        axis="real defects",
    )


def _in_turn(segment: SegmentSettings, real: int) -> int:
    """Updates that show so many real defects as often as the paper's passes, but no more than all others get."""
    needed = math.ceil(_PASSES * real / (segment.batch * (segment.defect_share or 1.0)))
    return min(needed, segment.steps or needed)
