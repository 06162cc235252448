"""What the three commands have in common on their command lines."""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["CONTEXT", "VERSION_HELP", "version_of"]

CONTEXT = {"help_option_names": ["-h", "--help"]}
"""Settings of every command's context."""
VERSION_HELP = "Show the version, and exit."


def version_of(program: str) -> Callable[[bool], None]:
    """What `--version` of a program does: the eager callback of the option."""

    def show(wanted: bool) -> None:
        if wanted:
            from inspectd import __version__

            sys.stdout.write(f"{program} {__version__}\n")
            sys.exit(0)

    return show
