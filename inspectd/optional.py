"""Imports of packages that only some installations have, and what to do about those that fail."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

from inspectd.errors import MissingDependencyError

__all__ = ["remedy_of", "require"]


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


def remedy_of(fault: str, packages: str) -> str:
    """What to do about packages that are installed and cannot be imported.

    Args:
        fault: what the import says.
        packages: their names, as pip takes them.
    """
    # The genicam package is linked to Python's shared library, without which Debian's Python comes.
    library = re.search(r"lib(python\d+\.\d+)\.so", fault)
    return f"sudo apt install lib{library[1]}" if library else f"pip install --force-reinstall {packages}"
