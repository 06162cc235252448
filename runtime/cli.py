"""The `inspectd` command. What a command needs is imported inside it, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspectd.command import CONTEXT, VERSION_HELP, version_of

from . import camera_cli
from .entry import main
from .logs import set_up_plainly
from .simcam import cli as simcam_cli

if TYPE_CHECKING:
    from .line import Summary

__all__ = ["app", "main"]

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5560"

app = typer.Typer(
    help="Inspect the parts that pass a camera, and publish a verdict for each.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=CONTEXT,
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The line's TOML file; examples: deploy/config/.")]
Frames = Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N frames, and exit.")]


@app.callback()
def _common(
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=version_of("inspectd"), is_eager=True, help=VERSION_HELP)
    ] = False,
) -> None:
    set_up_plainly()


@app.command(short_help="Run a line.")
def run(
    config: ConfigFile,
    frames: Frames = None,
    bundle: Annotated[
        str | None, typer.Option(metavar="PATH", help="Judge by this bundle instead of model.bundle.")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, metavar="S", help="Wait up to S seconds for a subscriber before the first frame.")
    ] = 0.0,
) -> None:
    """Run a line until SIGINT or SIGTERM, until its cameras are at their end, or for N frames.

    Frames that were grabbed are inspected before it ends. Then one line of JSON on standard output counts
    frames and verdicts. The exit status is 0 only if every frame got exactly one verdict, and 2 after an error.
    A signal during the start ends it with status 0; a second signal ends it at once, leaving frames without
    a verdict, with status 130 (SIGINT) or 143 (SIGTERM).

    \b
    Examples:
      inspectd run line.toml
      inspectd run line.toml --frames 100 --bundle out/bundle
    """  # noqa: D301 - click's mark for text that keeps its lines
    import logging

    from inspectd.config import load_config

    from .logs import set_up
    from .station import run_station

    loaded = load_config(config, bundle=bundle)
    set_up("core", loaded.log)
    say = logging.getLogger("inspectd.line").info
    summary = run_station(loaded, frames=frames, wait_s=wait, announce=lambda text: say("%s", text), report=_report)
    raise typer.Exit(0 if summary.complete else 1)


@app.command(short_help="Check a configuration.")
def check(
    config: ConfigFile,
    bundle: Annotated[
        str | None, typer.Option(metavar="PATH", help="Check this bundle instead of model.bundle.")
    ] = None,
) -> None:
    """Check a configuration: every setting, the bundle with its self-test, the state folder, folders, producers.

    All faults are listed at once, as `run` lists them before it starts. No camera is opened and no port is bound,
    so it can be run beside a line.

    \b
    Example:
      inspectd check line.toml
    """  # noqa: D301
    from inspectd.config import load_config

    from .station import check_station

    check_station(load_config(config, bundle=bundle), announce=print)
    print(f"{config}: no fault found")


@app.command(short_help="Show a whole line on this machine.")
def demo(
    frames: Frames = None,
    fps: Annotated[float, typer.Option(min=0.1, max=1000, metavar="F", help="Parts per second at the camera.")] = 15.0,
    seed: Annotated[int, typer.Option(min=0, help="Production line: the same seed gives the same parts.")] = 0,
    endpoint: Annotated[str, typer.Option(metavar="ADDRESS", help="Where verdicts are published.")] = DEFAULT_ENDPOINT,
    bundle: Annotated[
        str, typer.Option(metavar="PATH", help="Judge by this bundle instead of the one that is shipped.")
    ] = "demo",
) -> None:
    """Run a whole line on this machine: rendered buttons, a simulated GenICam camera, verdicts over ZeroMQ.

    Parts are rendered ahead before the line starts, so that the rate that is shown is the line's and not
    the renderer's; a demo without --frames goes on with as many parts as the renderer makes.

    \b
    Examples:
      inspectd demo
      inspectd demo --frames 60 --fps 20
      inspectd watch                        (in a second terminal, while it runs)
    """  # noqa: D301
    from rich.console import Console

    from .demo import run_demo

    bundle = bundle if bundle == "demo" else str(Path(bundle).expanduser().absolute())
    complete = run_demo(
        frames=frames,
        fps=fps,
        seed=seed,
        endpoint=endpoint,
        bundle=bundle,
        report=_report,
        console=Console(stderr=True),
    )
    raise typer.Exit(0 if complete else 1)


@app.command(short_help="Show what a line publishes.")
def watch(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Where the line publishes.")] = DEFAULT_ENDPOINT,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON per verdict.")] = False,
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Write an overlay picture per part here.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N verdicts, and exit.")] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="S",
            help="Give up if nothing comes for S seconds at the start; with --frames, later as well.",
        ),
    ] = 10.0,
) -> None:
    """Show what a line publishes: a live table, lines of JSON, or pictures.

    \b
    Examples:
      inspectd watch
      inspectd watch tcp://192.168.0.5:5560 --json | jq .verdict
      inspectd watch --save overlays --frames 20
    """  # noqa: D301
    from .watch import watch as follow

    raise typer.Exit(follow(endpoint, json_lines=json, save=save, count=frames, timeout_s=timeout))


@app.command(short_help="See how a station is.")
def status(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Of the station, for its health.port.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, metavar="N", help="Its health.port.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """See how a station on this machine is: its state, cameras, verdicts, latencies, journal, archive and processes.

    Its supervisor is asked at `health.port`, so there is an answer when the process that judges has crashed. The exit
    status is 0 if parts would be judged now, 1 if not, 2 if no station answers.

    \b
    Examples:
      inspectd status line.toml
      inspectd status --port 9464 --json | jq .processes.core.restarts
    """  # noqa: D301
    from .status import ask, port_of
    from .status_view import show

    raise typer.Exit(show(ask(port_of(config, port)), as_json=json))


@app.command(short_help="See what this machine has.")
def doctor(
    producer: camera_cli.Producers = None,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The station's state folder; ./state if not given.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """See what this machine has: packages, GPU, cameras and their formats, clock, disk, sockets, each with a remedy.

    Missing is what only some lines need; broken is what every line needs, and makes the exit status 1. Cameras that
    are free are opened for a moment. No line and no configuration is needed.

    \b
    Examples:
      inspectd doctor
      inspectd doctor --json | jq '.checks[] | select(.verdict != "ok")'
    """  # noqa: D301
    from .doctor import examine
    from .doctor_view import show

    raise typer.Exit(show(examine(producers=producer or (), state_dir=state_dir), as_json=json))


app.add_typer(camera_cli.app)
app.add_typer(simcam_cli.app)


def _report(summary: Summary) -> None:
    print(summary.to_json(), flush=True)


if __name__ == "__main__":
    main()
