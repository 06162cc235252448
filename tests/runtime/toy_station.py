"""A supervisor in a process of its own: `python toy_station.py FOLDER OPTIONS`; its report is in FOLDER/report.json."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

from inspectd.runtime.child import Child
from inspectd.runtime.health import HealthServer
from inspectd.runtime.restarts import BackOff
from inspectd.runtime.sd_notify import Notifier
from inspectd.runtime.signals import Stopped, while_starting
from inspectd.runtime.supervisor import Supervisor


def main() -> int:
    while_starting()
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    children = [Child(**child) for child in options["children"]]
    supervisor = Supervisor(children, Notifier.from_environment(), back_off=BackOff(**options.get("back_off", {})))

    def tell() -> None:
        while True:
            partly = folder / "report.part"
            partly.write_text(supervisor.report().model_dump_json())
            partly.rename(folder / "report.json")
            time.sleep(0.03)

    threading.Thread(target=tell, daemon=True).start()
    with contextlib.ExitStack() as stack:
        if options["health"]:
            server = stack.enter_context(HealthServer(0, supervisor.report))
            (folder / "port").write_text(str(server.port))
        return supervisor.run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Stopped:
        os._exit(0)
