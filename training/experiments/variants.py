"""Ways to make a training set: the references alone, or with defects that one of several methods simulated."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from inspectd.errors import ConfigError
from inspectd.training.style.simulate import METHODS, NETWORKS, Way

__all__ = ["ONLY_REAL", "Variant"]

ONLY_REAL = "only-real"


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of the comparison, as its name says it.

    `only-real`, a method of `simulate`, `dst` or `dst-paper` (the presets). Behind a colon, changes to the settings of
    its networks: `dst:style_target=ring;loss.weights.hist=0`. `+varied` or `-varied` at the end says whether the
    placements' gain and hue are used, which only the default DST does by itself.

    Attributes:
        name: all of it.
        base: before the colon.
        changes: to the settings of its networks, nested.
        varied: whether gain and hue are used.
    """

    name: str
    base: str
    changes: dict[str, Any] = field(hash=False)
    varied: bool

    @classmethod
    def of(cls, name: str) -> Variant:
        """Read a name.

        Raises:
            ConfigError: an unknown method, or changes to one that has no networks.
        """
        text, varied = name, None
        for sign in "+-":
            if text.endswith(f"{sign}varied"):
                text, varied = text.removesuffix(f"{sign}varied"), sign == "+"
        base, _, listed = text.partition(":")
        if base not in (ONLY_REAL, "dst-paper", *METHODS):
            raise ConfigError(
                f"method {name!r}: expected {ONLY_REAL}, dst-paper or one of {', '.join(METHODS)}, "
                "and +varied or -varied behind it for strength and hue"
            )
        if base == ONLY_REAL and varied is not None:
            raise ConfigError(f"method {name!r}: nothing is simulated there that could be varied")
        if listed and base not in ("dst-paper", *NETWORKS):
            raise ConfigError(f"method {name!r}: only dst, dst-paper and cyclegan have settings to change")
        changes: dict[str, Any] = {}
        for part in filter(None, listed.split(";")):
            path, _, value = part.partition("=")
            *outer, last = path.split(".")
            inner = changes
            for key in outer:
                inner = inner.setdefault(key, {})
            try:
                inner[last] = json.loads(value)
            except ValueError:
                inner[last] = value
        return cls(name, base, changes, base == "dst" if varied is None else varied)

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^\w.+=-]+", "_", self.name)

    @property
    def method(self) -> Way | None:
        """Of `simulate`; None where nothing is simulated."""
        if self.base == ONLY_REAL:
            return None
        return next(way for way in METHODS if way == ("dst" if self.base == "dst-paper" else self.base))

    @property
    def networks(self) -> str:
        """Name of the folder of its networks: gain and hue have no part in them."""
        return re.sub(r"[^\w.+=-]+", "_", self.name.removesuffix("+varied").removesuffix("-varied"))
