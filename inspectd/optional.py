"""Imports of packages that only some installations have, and what to do about those that fail."""

from __future__ import annotations

import importlib
import os
import re
import sys
from types import ModuleType
from typing import cast

from inspectd.errors import MissingDependencyError

__all__ = ["remedy_of", "require", "silence"]


def silence() -> None:
    """Keep libraries from telling their makers what is done with them. Call before one of them is imported.

    What a line does is the factory's own affair. ONNX Runtime 1.32 looks for a server at its import, on Linux too, and
    keeps what it would tell in the user's cache; OpenVINO 2026.4 tells one that it was imported, unless the package
    that does so is missing.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module, or say how to install it.

    Raises:
        MissingDependencyError: the module is absent, or one that it needs is.
    """
    silence()
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
