"""Where the process of `inspectd` begins. It imports next to nothing, so that signals are heard from the start."""

from __future__ import annotations

import os
import signal
import sys

from .signals import Stopped, stopped_starting, while_starting

__all__ = ["main"]

LINE_COMMANDS = ("run", "demo")


def main() -> None:
    """Entry point: an error is told in a line for each fault, with exit status 2."""
    if sys.argv[1:2] and sys.argv[1] in LINE_COMMANDS:
        while_starting()
    else:
        # Where nothing better is in place, so that what was started and written is cleared away.
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    # OpenCV would tell of each damaged picture as well, in its own several lines.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    try:
        _run()
    except Stopped:
        _tell_stopped()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of standard output has what it wanted; without this Python complains once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception:
        # Libraries that are being loaded turn the signal's exception into faults of their own; any other goes on.
        if not stopped_starting():
            raise
        _tell_stopped()


def _run() -> None:
    from inspectd.errors import InspectdError

    from .cli import app
    from .logs import fault

    try:
        app()
    except InspectdError as error:
        if stopped_starting():
            raise
        for each in str(error).splitlines():
            fault(each)
        sys.exit(2)


def _tell_stopped() -> None:
    sys.stderr.write("inspectd: stopped before the line had started\n")
    sys.exit(0)


if __name__ == "__main__":
    main()
