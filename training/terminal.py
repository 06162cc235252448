"""What the commands of `inspectd-train` share: settings, and what must be installed."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from inspectd.command import validated
from inspectd.optional import require

if TYPE_CHECKING:
    from inspectd.dataset import Dataset

__all__ = ["Backbone", "Network", "pair", "require_torch", "summary", "validated"]

_T = TypeVar("_T")


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


def summary(dataset: Dataset) -> None:
    """Print what a dataset holds, in one line."""
    print(f"{dataset.root}: {dataset.summary}")  # noqa: T201 - a command's
