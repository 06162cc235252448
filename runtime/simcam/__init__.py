"""A simulated GenICam camera: a real GenTL producer whose pictures come from another process.

    renderer ── FrameFeed (a mapped file) ── inspectd_sim.cti ── GenTL ── harvesters ── the line

Every feed file named in the environment variable `INSPECTD_SIM_FEED` (paths separated by `:`, or folders with
`*.feed` files in them; at most 32) is one camera, whose serial number is the file's name without `.feed`.
The camera is free-running at `AcquisitionFrameRate` (0.1 to 1000 Hz, 10 at first) or, with `TriggerMode` On, takes one
picture for each trigger. Timestamps are ns since the Unix epoch, as from a camera synchronised by PTP; frame ids count
from 0 at each start, and a part that finds no free buffer leaves a gap. One process at a time can open a camera. Faults
are injected from outside (`faults.py`; docs/simulated-camera.md). The part's number travels as GenTL buffer information
1000 (`buffer.module.get_info_uint64(1000)`).
"""

from __future__ import annotations

from pathlib import Path

from inspectd.errors import CameraError

__all__ = ["FEED_VARIABLE", "PART_ID_INFO", "producer_path"]

FEED_VARIABLE = "INSPECTD_SIM_FEED"
"""Environment variable that names the feed files; read by the producer when a consumer updates its device list."""

PART_ID_INFO = 1000
"""GenTL buffer information with the part's number in the feed (the first number left to vendors)."""


def producer_path() -> Path:
    """The built GenTL producer, absolute.

    Raises:
        CameraError: it was not built when inspectd was installed.
    """
    path = Path(__file__).resolve().parent / "inspectd_sim.cti"
    if not path.is_file():
        raise CameraError(
            f"{path}: the simulated camera was not built, because no C compiler was found when inspectd was installed; "
            "install one (apt install gcc libc6-dev) and install inspectd again"
        )
    return path
