"""What a figure was measured on."""

from __future__ import annotations

import datetime as dt
import os
import platform

import torch

import inspectd
from inspectd.training.code import code_digest

__all__ = ["machine"]


def machine() -> str:
    """Date, machine and versions, which belong to every figure."""
    return (
        f"{dt.datetime.now(dt.timezone.utc).date()}, {_processor()}, {os.cpu_count()} cores, {_accelerator()}"
        f"torch {torch.__version__}, inspectd {inspectd.__version__} (code {code_digest()})."
    )


def _processor() -> str:
    """The processor's name where Linux says it, else its kind."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - a stream of the system's, not a file
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _accelerator() -> str:
    return f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
