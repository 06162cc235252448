"""`inspectd simcam`: the simulated camera, and what goes wrong with it. Imports are inside, for a quick `--help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inspectd.command import CONTEXT

__all__ = ["app"]

app = typer.Typer(
    name="simcam",
    help="Serve pictures as a GenICam camera, and make it fail.",
    short_help="Serve pictures as a GenICam camera, and make it fail.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=CONTEXT,
)

Feeds = Annotated[
    list[Path] | None,
    typer.Option("--feed", metavar="FILE", help="The camera's feed; may be repeated."),
]


@app.command("list", short_help="List simulated cameras, their faults and frames.")
def list_(feed: Feeds = None) -> None:
    """List the simulated cameras: those of INSPECTD_SIM_FEED, or else those of demos that run on this machine.

    \b
    Example:
      inspectd simcam list
    """  # noqa: D301 - click's mark for text that keeps its lines
    from .control import found_feeds
    from .faults import Faults

    for path in found_feeds(feed or ()):
        with Faults(path) as faults:
            sent = faults.sent
            active = ", ".join(f"{name} {value}" for name, value in faults.active.items()) or "no fault"
            print(
                f"{path}: {active}; {sent.exposed} exposed, {sent.delivered} delivered ({sent.incomplete} incomplete), "
                f"{sent.without_buffer} without a buffer, {sent.dropped} dropped"
            )


@app.command(short_help="Make a simulated camera fail.")
def fault(
    name: Annotated[str, typer.Argument(metavar="FAULT", help="One of those below.")],
    numbers: Annotated[list[int] | None, typer.Argument(metavar="[NUMBER]...", help="What the fault takes.")] = None,
    feed: Feeds = None,
) -> None:
    """Make a simulated camera fail, while it runs; clear ends all faults.

    \b
    incomplete N     of the next N frames half of the lines arrive
    drop N           the next N frames never arrive
    late N MS        the next N frames arrive MS ms late
    duplicate N      the next N frames repeat a number
    stall            no frames come, all else answers
    lost             the cable is pulled
    silent           the link is gone without an error
    refuse           another host holds the camera
    absent           the camera is not listed
    hang             the producer does not come back
    padded BYTES     lines end with BYTES bytes, from the next opening on
    format CODE      frames claim to have another pixel format
    reboot MS        gone for MS ms
    clear            no fault any more

    \b
    Examples:
      inspectd simcam fault incomplete 3
      inspectd simcam fault lost; sleep 5; inspectd simcam fault clear
    """  # noqa: D301
    from .control import found_feeds, inject

    for path in found_feeds(feed or ()):
        inject(path, name, numbers or ())
        print(f"{path}: {' '.join([name, *map(str, numbers or ())])}")


@app.command(short_help="Serve a folder of pictures as a camera.")
def serve(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures of one size.")],
    feed: Annotated[Path, typer.Option("--feed", metavar="FILE", help="Feed to make; its name is the serial number.")],
    mono: Annotated[bool, typer.Option("--mono", help="Serve them as Mono8 instead of RGB8.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End after the last one, instead of starting anew.")] = False,
) -> None:
    """Put pictures before a simulated camera, which any GenICam consumer can open, until Ctrl-C.

    The consumer loads the producer that `inspectd doctor` names, with INSPECTD_SIM_FEED set to the feed. The camera
    takes pictures at its AcquisitionFrameRate or by its trigger, as fast as they are read from the folder.

    \b
    Example:
      inspectd simcam serve photos --feed /dev/shm/press3.feed &
      INSPECTD_SIM_FEED=/dev/shm/press3.feed inspectd camera snap press3 --producer simulator --out part.png
    """  # noqa: D301
    from .control import serve_folder

    count = serve_folder(folder, feed, mono=mono, once=once)
    print(f"{feed}: {count} pictures were put before the camera")
