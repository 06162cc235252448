"""`python -m inspectd.runtime.last MODULE ARGUMENT...`: a process that everything else on this machine goes before.

That holds from its first instruction on, before it loads NumPy and OpenCV; so this file imports neither.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import platform
import signal
import sys

__all__ = ["command", "main"]

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
"""Number of the system call ioprio_set, which the C library does not wrap."""
_IOPRIO_WHO_PROCESS, _IOPRIO_CLASS_IDLE = 1, 3 << 13
_PR_SET_PDEATHSIG = 1
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module's `main(arguments)` so."""
    return [sys.executable, "-m", "inspectd.runtime.last", module, *arguments]


def main() -> None:
    """Go last, and do what the module does."""
    _end_with_parent()
    _go_last()
    importlib.import_module(sys.argv[1]).main(sys.argv[2:])


def _end_with_parent() -> None:
    """Be killed when the thread ends that has started this process: the line's main one, or that of a self-test.

    A process that is stopped at that moment (`Augmenting.hold`) would not see the end of its socket, nor be let on.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _go_last() -> None:
    """Processor, disk, and one thread. Where that is not allowed, not.

    Niceness alone would leave a process that is never out of work its share; an idle one runs when nobody else does.
    """
    for name in _THREADS:
        os.environ[name] = "1"
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    with contextlib.suppress(OSError):  # a service may be shut off from it; niceness is left
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE)


if __name__ == "__main__":
    main()
