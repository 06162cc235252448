"""Imports of packages that only some installations have."""

from __future__ import annotations

import importlib
from types import ModuleType

from inspectd.errors import MissingDependencyError

__all__ = ["require"]


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module, or say how to install it.

    Raises:
        MissingDependencyError: the module is absent, or one that it needs is.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module!r} cannot be imported ({error}); install it with: pip install 'inspectd[{extra}]'"
        ) from error
