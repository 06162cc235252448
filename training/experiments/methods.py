"""Ways to simulate defects, compared by what Buttonlab learns from each.

The control `only-real` gets as many updates from the references alone. The default DST also varies the strength and hue
of defects that one sees the surface through, which is a part of it: whether it is that which helps is seen beside
`dst-varied`. Of the other ways only `relit` has a hue to turn; `cutpaste+varied` and the like vary in strength alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from .experiment import Entry
from .grid import Grid
from .simulation import ExperimentSettings
from .variants import Variant

__all__ = ["methods"]


def methods(settings: ExperimentSettings, names: Sequence[str]) -> Grid:
    """A row for each way to simulate defects.

    Args:
        settings: what all trainings have in common.
        names: rows, see `Variant`.

    Raises:
        ConfigError: an unknown method.
    """
    entries = tuple(Entry(name, "", Variant.of(name)) for name in names)
    return Grid("Ways to simulate defects", "method", settings, entries, shown=entries)
