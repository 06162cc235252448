"""What the commands of `inspectd-train` share: progress, settings, and what must be installed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from inspectd.optional import require

if TYPE_CHECKING:
    from inspectd.dataset import Dataset

__all__ = ["Backbone", "Network", "bar", "pair", "require_torch", "stages", "summary", "validated"]

_T = TypeVar("_T")

LOG_EVERY_S = 60.0
"""Between two lines about the progress where there is no terminal."""


class Network(str, Enum):
    """Names on the command line."""

    buttonlab = "buttonlab"
    deeplabv3plus = "deeplabv3plus"
    unet = "unet"


class Backbone(str, Enum):
    """Names on the command line."""

    resnet50 = "resnet50"
    resnet34 = "resnet34"
    resnet18 = "resnet18"
    slim = "slim"


class Precision(str, Enum):
    """Names on the command line."""

    auto = "auto"
    fp32 = "32-true"
    bf16 = "bf16-mixed"
    fp16 = "16-mixed"


def require_torch() -> None:
    """Refuse to begin what the extra `train` is needed for.

    Raises:
        MissingDependencyError: it is not installed.
    """
    for module in ("torch", "torchvision", "lightning", "safetensors", "tensorboard", "scipy"):
        require(module, extra="train")


def validated(make: Callable[[], _T]) -> _T:
    """What `make` gives.

    Raises:
        ConfigError: settings that pydantic refused, in one line.
    """
    from pydantic import ValidationError

    from inspectd.bundle import explain
    from inspectd.errors import ConfigError

    try:
        return make()
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def pair(option: str, text: str, kind: Callable[[str], _T]) -> tuple[_T, _T]:
    """Two numbers with a comma.

    Raises:
        ConfigError: something else.
    """
    from inspectd.errors import ConfigError

    try:
        low, high = (kind(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} {text}: expected two numbers with a comma, 0.8,1.25 for example") from None
    return low, high


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """How far work in stages is: called with (what is done, number done, number in all).

    A bar on a terminal; elsewhere, in a log for example, a line a minute.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        tasks = {}
        said = time.monotonic()

        def report(what: str, done: int, total: int) -> None:
            nonlocal said
            if not console.is_terminal:
                if time.monotonic() - said >= LOG_EVERY_S:
                    said = time.monotonic()
                    console.print(f"{what} {done} of {total}", soft_wrap=True, highlight=False, markup=False)
                return
            if what not in tasks:
                # What an earlier run has done says nothing of how fast this one is.
                tasks[what] = progress.add_task(what, total=total, completed=done)
            progress.update(tasks[what], completed=done, total=total)

        yield report


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """`stages` for work of one: called with (number done, number in all)."""
    with stages() as report:
        yield lambda done, total: report(what, done, total)


def summary(dataset: Dataset) -> None:
    """Print what a dataset holds, in one line."""
    print(f"{dataset.root}: {dataset.summary}")  # noqa: T201 - a command's
