"""The `inspectd` command. What a command needs is imported inside it, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspectd.command import CONTEXT, VERSION_HELP, version_of

from . import camera_cli, journal_cli, keys_cli
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


class Verdicts(str, Enum):
    """Names on the command line."""

    OK = "OK"
    NG = "NG"
    REVIEW = "REVIEW"
    NOT_INSPECTED = "NOT_INSPECTED"


ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The line's TOML file; examples: deploy/config/.")]
ClientKeysFile = Annotated[
    Path | None,
    typer.Option(
        "--keys", metavar="FILE", help="A client's keys, for a station on another machine (inspectd keys client)."
    ),
]
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
    stay: Annotated[
        bool,
        typer.Option(
            "--stay",
            help="Where model or cameras cannot be used: stay in state Error with an alarm; do not end.",
        ),
    ] = False,
) -> None:
    """Run a line until SIGINT or SIGTERM, until its cameras are at their end, or for N frames.

    Frames that were grabbed are inspected before it ends. Then one line of JSON on standard output counts
    frames and verdicts. The exit status is 0 only if every frame got exactly one verdict, and 2 after an error.
    A signal during the start ends it with status 0; a second signal ends it at once, leaving frames without
    a verdict, with status 130 (SIGINT) or 143 (SIGTERM).

    Without --frames this process only supervises: the line runs in another one, which is started again where it
    crashes or hangs.

    \b
    Examples:
      inspectd run line.toml
      inspectd run line.toml --frames 100 --bundle out/bundle
    """  # noqa: D301 - click's mark for text that keeps its lines
    import logging

    from inspectd.config import load_config

    from .beats import LINK_VARIABLE
    from .logs import set_up
    from .station import core_child, header_child, run_station

    loaded = load_config(config, bundle=bundle)
    if frames is None and LINK_VARIABLE not in os.environ:
        from .supervise import supervise

        children = [core_child(sys.argv[1:]), header_child(loaded)]
        raise typer.Exit(supervise(loaded, [child for child in children if child is not None]))
    set_up("core", loaded.log)
    say = logging.getLogger("inspectd.line").info
    summary = run_station(
        loaded,
        config_file=config,
        frames=frames,
        wait_s=wait,
        stays=stay,
        announce=lambda text: say("%s", text),
        report=_report,
    )
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
    keys: ClientKeysFile = None,
) -> None:
    """Show what a line publishes: a live table, lines of JSON, or pictures.

    \b
    Examples:
      inspectd watch
      inspectd watch tcp://192.168.0.5:5560 --json | jq .verdict
      inspectd watch --save overlays --frames 20
    """  # noqa: D301
    from .watch import watch as follow

    raise typer.Exit(follow(endpoint, json_lines=json, save=save, count=frames, timeout_s=timeout, keys=keys))


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
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Of a line, to look at its calibrations too.")
    ] = None,
    producer: camera_cli.Producers = None,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The station's state folder; ./state if not given.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """See what this machine has: packages, GPU, cameras, host settings for them, clock, disk, sockets, with remedies.

    Missing is what only some lines need; broken is what every line needs, and makes the exit status 1. Cameras that
    are free are opened for a moment. No line is needed. With a configuration its calibrations are looked at too.

    \b
    Examples:
      inspectd doctor
      inspectd doctor line.toml
      inspectd doctor --json | jq '.checks[] | select(.verdict != "ok")'
    """  # noqa: D301
    from .doctor import examine
    from .doctor_view import show

    raise typer.Exit(show(examine(config=config, producers=producer or (), state_dir=state_dir), as_json=json))


@app.command(short_help="Ask or command a station.")
def ctl(
    op: Annotated[str, typer.Argument(metavar="OPERATION", help="What is asked: snapshot, stop, set_threshold, …")],
    args: Annotated[list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Its arguments.")] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="Address, configuration file or state folder of the station, or demo."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON.")] = False,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what comes with the answer, a picture.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="S", help="Give up after S seconds; without it 10, or 120 of self_test."),
    ] = None,
    keys: ClientKeysFile = None,
    defect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="augment: a type to paint, several times for several; mark: what was missed."
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="augment: pictures, of all types.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="augment: show how far it is until it ends.")] = False,
    box: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="mark: a box around the defect, in px of the picture.")
    ] = None,
    stroke: Annotated[
        str | None,
        typer.Option(metavar="'X,Y X,Y ...'", help="mark: a line along the defect, in px; what is thin or faint."),
    ] = None,
    width: Annotated[
        float | None, typer.Option(min=1, max=200, metavar="PX", help="mark: how wide the stroke is; without it 3.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="mark: a mask of the defect, of the picture's size.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="mark: keep it without asking.")] = False,
) -> None:
    """Ask a station how it is, or tell it what to do. docs/protocol.md lists the operations.

    Without --at the station is the one whose state folder is ./state, or else the demo. The exit status is 0 if it
    was done, and 2 if not, with the reason (also of a challenge that was broken off); 1 of a self-test or a challenge
    that misses known defects.

    \b
    Examples:
      inspectd ctl snapshot
      inspectd ctl stop --at line.toml
      inspectd ctl set_threshold class=scratch score=0.6
      inspectd ctl challenge
      inspectd ctl ack_alarm alarmId=7-1
      inspectd ctl get_image stream=0 seq=12 --save part.png
      inspectd ctl augment --defect scratch --defect stain --count 500 --wait
      inspectd ctl mark 7-0-1042 --box 120,80,40,25 --defect scratch
    """  # noqa: D301
    from inspectd.errors import ConfigError

    from .ctl import control, control_endpoint

    if op != "augment" and (count is not None or wait):
        raise ConfigError(f"--count and --wait are of augment, not of {op}")
    places = [each for each in (box, stroke, mask) if each is not None]
    if op != "mark" and (places or width is not None or yes):
        raise ConfigError(f"--box, --stroke, --width, --mask and --yes are of mark, not of {op}")
    if width is not None and stroke is None:
        raise ConfigError("--width is of --stroke")
    if op not in ("augment", "mark") and defect:
        raise ConfigError(f"--defect is of augment and mark, not of {op}")
    # Master parts are judged between frames, which takes a while where frames always wait.
    timeout_s = timeout if timeout is not None else 120.0 if op == "self_test" else 10.0
    if op == "challenge" and not args:
        from .ctl import challenge

        raise typer.Exit(challenge(control_endpoint(at), as_json=json, timeout_s=timeout_s, keys=keys))
    if op == "mark" and (places or defect):
        from .ctl import mark_part

        if len(args or []) != 1 or len(defect or []) != 1 or len(places) != 1:
            raise ConfigError(
                "mark: expected one RESULT_ID, one --defect NAME, and one of --box X,Y,W,H, --stroke 'X,Y X,Y ...' and "
                "--mask FILE"
            )
        kept = mark_part(
            control_endpoint(at),
            (args or [""])[0],
            defect=(defect or [""])[0],
            box=box,
            stroke=stroke,
            width=width or 3,
            mask=mask,
            save=save,
            agree=lambda told: yes or typer.confirm(f"{told}; keep it?", err=True),
            timeout_s=timeout_s,
            keys=keys,
        )
        raise typer.Exit(0 if kept else 1)
    more = {name: value for name, value in (("defects", defect), ("count", count)) if value}
    status = control(
        control_endpoint(at),
        op,
        args or [],
        as_json=json,
        timeout_s=timeout_s,
        save=save,
        keys=keys,
        more=more,
        follow=wait,
    )
    raise typer.Exit(status)


@app.command(short_help="Run archived parts again.")
def replay(
    archive: Annotated[
        Path, typer.Argument(metavar="ARCHIVE", help="Folder of the archive: a station's archive.path.")
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Exit with status 1 if a verdict or a pixel of a mask differs.")
    ] = False,
    bundle: Annotated[
        str | None, typer.Option(metavar="PATH", help="Judge by this bundle, not by the one that judged then.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The line's TOML file: its acceptance rule, engine and bundles."),
    ] = None,
    camera: Annotated[str | None, typer.Option(metavar="NAME", help="Only parts of this camera.")] = None,
    verdict: Annotated[
        Verdicts | None,
        typer.Option(
            case_sensitive=False, metavar="|".join(Verdicts.__members__), help="Only parts that had this verdict."
        ),
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the latest N of them.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a picture of each part that changed: mask then, mask now.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run archived parts again, and compare verdicts and masks with those of then.

    The same bundle and rule have to give the same result, pixel by pixel, on pictures that were archived as PNG.
    Another bundle (--bundle) or rule (--config) shows what it would have changed, before it is put on the line.

    \b
    Examples:
      inspectd replay /data/archive --config line.toml --verify
      inspectd replay /data/archive --bundle out/new --config line.toml --last 500 --out changed
      inspectd replay /data/archive --bundle out/new --verdict NG --json | jq .verdicts
    """  # noqa: D301
    from inspectd.inspection import Verdict

    from .replay import Selection, run_replay
    from .replay_view import show_replay

    chosen = Selection(camera=camera, verdict=None if verdict is None else Verdict[verdict.value], last=last)
    replayed = run_replay(archive, chosen, bundle=bundle, config=config, out=out)
    show_replay(replayed, as_json=json)
    raise typer.Exit(1 if verify and not replayed.same else 0)


app.add_typer(camera_cli.app)
app.add_typer(journal_cli.app)
app.add_typer(keys_cli.app)
app.add_typer(simcam_cli.app)


def _report(summary: Summary) -> None:
    print(summary.to_json(), flush=True)


if __name__ == "__main__":
    main()
