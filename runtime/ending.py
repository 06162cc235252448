"""The end of a process that is killed, also where the kernel takes its time."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from typing import Any

__all__ = ["kill_and_reap"]


def kill_and_reap(process: subprocess.Popen[Any], timeout_s: float) -> None:
    """Kill a process, and wait for it.

    Within a call of the kernel's, on a disk or a driver that hangs, a killed process takes its time. It is not waited
    for longer than asked, but by a thread of its own then, so that nothing of it is left behind.

    Args:
        process: may have ended already.
        timeout_s: how long to wait here.
    """
    process.kill()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        # Where there is no room for one more thread, Python waits for it when it is asked for another process.
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=process.wait, name=f"reap {process.pid}", daemon=True).start()
