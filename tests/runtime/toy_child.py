"""A process of a station that does nothing but what a test needs: `python toy_child.py FOLDER NAME WAY [NUMBER]`.

It notes in FOLDER/NAME.log each start, with its number, and what the supervisor told it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from inspectd.runtime.beats import Alarm, Beat, Reporter, Siblings, Stage, Work


def main() -> None:
    folder, name, way, *more = sys.argv[1:]
    number = int(more[0]) if more else 0
    path = Path(folder, f"{name}.log")

    def note(kind: str, **facts: object) -> None:
        with path.open("a") as log:
            log.write(json.dumps({"kind": kind, "at": time.monotonic(), **facts}) + "\n")

    asked: list[str] = []
    signal.signal(signal.SIGINT, lambda *_: note("SIGINT"))
    signal.signal(signal.SIGTERM, lambda *_: (note("SIGTERM"), asked.append("SIGTERM")))
    note("start", pid=os.getpid())
    link = int(os.environ.get("INSPECTD_LINK", "-1"))
    reporter = Reporter.from_environment(gone=lambda: (note("gone"), asked.append("gone")))
    starts = sum('"start"' in line for line in path.read_text().splitlines())
    work = Work(limit_s=0.5)

    def beat(**changes: object) -> Beat:
        values = {"state": "Ready", "ready": True, "status": f"{name} works", "stages": {"work": work.stage}}
        return Beat(**{**values, **changes})

    match way:
        case "exit":  # before it is ready
            sys.exit(number)
        case "silent":
            time.sleep(60)
        case "orphan":  # does not end by itself
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            reporter.beat(beat())
            reporter._orphan_s = 0.5
            time.sleep(60)
    reporter.beat(beat(ready=False, state="Initialized"))
    if way == "loading":  # silent for longer than it might be once it is ready
        time.sleep(1.5)
    reporter.beat(beat())
    if way == "garbage":
        for packet in (
            b"{",
            b"\xff\x00",
            b"null",
            b'{"kind":"beat"}',
            b'{"kind":"nonsense"}',
            b"[" * 60_000,
            b"x" * 90_000,
        ):
            os.write(link, packet)
    begun = time.monotonic()
    while True:
        reporter.tick(beat)
        for packet in reporter.received():
            match packet:
                case Alarm():
                    note("alarm", code=packet.code, active=packet.active)
                case Siblings():
                    note("siblings", states={key: value.state for key, value in packet.processes.items()})
        if asked and way != "deaf":
            reporter.bye(0, "asked to end")
            note("end", why=asked[0])
            sys.exit(0)
        if way == "drains" and asked:
            time.sleep(1.0)
        if time.monotonic() - begun > 0.1:
            match way:
                case "crash":
                    os.kill(os.getpid(), signal.SIGSEGV)
                case "crash-once" if starts == 1:
                    os.kill(os.getpid(), signal.SIGSEGV)
                case "status":  # as a traceback would
                    sys.exit(number)
                case "flood-bye":
                    for _ in range(500):
                        reporter.beat(beat())
                    reporter.bye(number)
                    sys.exit(number)
                case "bye":
                    reporter.bye(number, "all parts are done")
                    sys.exit(number)
                case "busy" if starts == 1:
                    stuck = Stage(done=1, busy_s=time.monotonic() - begun, limit_s=0.5)
                    reporter.beat(beat(stages={"infer": stuck}))
                case "reload":
                    reporter.beat(beat(reloading=time.monotonic() - begun < 0.6))
                case "flood":
                    for _ in range(1000):
                        reporter.beat(beat())
                    continue
        time.sleep(0.02)


if __name__ == "__main__":
    main()
