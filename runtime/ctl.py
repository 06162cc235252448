"""`inspectd ctl`: questions and commands to a station, in the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from inspectd.command import stages
from inspectd.config import load_config
from inspectd.errors import ConfigError, NotReached
from inspectd.wire import OPERATIONS

from .access import ClientKeys
from .epoch import default_state_dir
from .messaging import Requester, local_endpoint

__all__ = ["challenge", "control", "control_endpoint", "journal_file", "mark_part", "parsed_arguments"]


FOLLOW_S = 0.5
"""Between two looks at what is followed."""


def control_endpoint(at: str | None) -> str:
    """The address of a station's control.

    Args:
        at: an address, a configuration file, a station's state folder, or `demo`; None looks for one here.

    Raises:
        ConfigError: nothing of that kind is there.
    """
    demo = default_state_dir() / "demo"
    if at is None:
        here = next((folder for folder in (Path("state"), demo) if folder.is_dir()), None)
        if here is None:
            raise ConfigError("no station was found here; say --at ADDRESS, --at line.toml, or --at STATE_DIR")
        return local_endpoint(here, "ctl")
    if at.startswith(("tcp://", "ipc://")):
        return at
    if at == "demo":
        return local_endpoint(demo, "ctl")
    path = Path(at).expanduser()
    if path.is_dir():
        return local_endpoint(path, "ctl")
    return local_endpoint(load_config(path).station.state_dir, "ctl")


def journal_file(at: str | None) -> Path:
    """The journal of a station.

    Args:
        at: a configuration file, a state folder, a journal, or `demo`; None looks for one here.

    Raises:
        ConfigError: nothing of that kind is there.
    """
    demo = default_state_dir() / "demo"
    if at is None:
        found = next((folder for folder in (Path("state"), demo) if (folder / "journal.db").is_file()), None)
        if found is None:
            raise ConfigError("no journal was found here; say --at line.toml, --at STATE_DIR or --at journal.db")
        return found / "journal.db"
    path = demo if at == "demo" else Path(at).expanduser()
    if path.is_dir():
        return path / "journal.db"
    if path.suffix == ".toml":
        config = load_config(path)
        return config.journal.path or config.station.state_dir / "journal.db"
    return path


def parsed_arguments(op: str, words: Sequence[str]) -> dict[str, Any]:
    """`name=value` words as the arguments of an operation; values are JSON where they are, else text.

    Raises:
        ConfigError: no such operation, or a word that is none.
    """
    if op not in OPERATIONS:
        raise ConfigError(f"operation {op!r}: expected one of {', '.join(OPERATIONS)}")
    args = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"{op}: argument {word!r}: expected NAME=VALUE, such as {_example(op)}")
        fields = OPERATIONS[op].arguments.model_fields
        known = {(field.alias or key): field for key, field in fields.items()}
        wants_text = name in known and known[name].annotation is str
        try:
            args[name] = value if wants_text else json.loads(value)
        except ValueError:
            args[name] = value
    return args


def control(
    endpoint: str,
    op: str,
    words: Sequence[str],
    *,
    as_json: bool,
    timeout_s: float,
    save: Path | None,
    keys: Path | None,
    more: Mapping[str, Any] | None = None,
    follow: bool = False,
) -> int:
    """Ask, and show the answer; `more` are arguments that were given as options.

    Returns:
        The exit status: 1 for a self-test that was not passed, or where an augmentation that was followed (`follow`)
        did not come to its end; else 0.

    Raises:
        InspectdError: it was not done, or nobody answers.
    """
    args = {**parsed_arguments(op, words), **(more or {})}
    secure = None if keys is None else ClientKeys.load(keys).apply
    with Requester(endpoint, secure=secure) as requester:
        answer = requester.ask(op, args, timeout_s=timeout_s)
        if follow:
            return 0 if _follow(requester, dict(answer.result or {}), timeout_s=timeout_s) else 1
    result = dict(answer.result or {})
    if save is not None and answer.blobs:
        try:
            save.write_bytes(answer.blobs[-1])
        except OSError as error:
            raise ConfigError(f"--save {save}: cannot be written ({error.strerror})") from error
    show = None if as_json else _SHOWN.get(op)
    if show is None:
        print(json.dumps(result, indent=None if as_json else 2))  # noqa: T201
    else:
        show(Console(highlight=False), result)
    return 1 if op == "self_test" and result.get("passed") is not True else 0


def mark_part(
    endpoint: str,
    result_id: str,
    *,
    defect: str,
    box: str | None,
    stroke: str | None,
    width: float,
    mask: Path | None,
    save: Path | None,
    agree: Callable[[str], bool],
    timeout_s: float,
    keys: Path | None,
) -> bool:
    """Have a missed defect kept, and show what was; whether it was kept.

    Raises:
        InspectdError: it cannot be done.
    """
    from .mark_ctl import by_box, by_mask, by_stroke
    from .mark_ctl import mark as keep

    if box is not None:
        where = by_box(box)
    elif stroke is not None:
        where = by_stroke(stroke, width)
    elif mask is not None:
        where = by_mask(mask)
    else:
        raise ConfigError("mark: say where the defect is")
    secure = None if keys is None else ClientKeys.load(keys).apply
    with Requester(endpoint, secure=secure) as requester:
        kept = keep(requester, result_id, defect=defect, where=where, save=save, agree=agree, timeout_s=timeout_s)
    if kept is not None:
        print(json.dumps(kept, indent=2))  # noqa: T201
    return kept is not None


def challenge(endpoint: str, *, as_json: bool, timeout_s: float, keys: Path | None) -> int:
    """Have master parts put through a camera, and show how they came out.

    Returns:
        The exit status: 0 if it was passed, 1 if a known defect was missed, 2 if it was broken off before.

    Raises:
        InspectdError: it cannot be done.
    """
    from .challenge_ctl import follow_challenge

    console = Console(highlight=False)
    secure = None if keys is None else ClientKeys.load(keys).apply
    with Requester(endpoint, secure=secure) as requester:
        # Who reads JSON gets nothing else on standard output.
        asking = Console(highlight=False, stderr=True) if as_json else console
        told = follow_challenge(requester, asking, timeout_s=timeout_s)
    if as_json:
        print(json.dumps(told))  # noqa: T201
    elif told["masters"] is not None:
        masters = told["masters"]
        console.print(
            f"challenge {'passed' if told['state'] == 'passed' else 'NOT PASSED'}: {masters['found']} of "
            f"{masters['known']} known defects found, {masters['accepted']} of {masters['good']} good parts accepted",
            soft_wrap=True,
        )
        console.print(_recalls(masters))
    else:
        lost = [part["name"] for part in told["parts"] if part["why"] and part["defect"]]
        missed = f"; until then MISSED: {', '.join(lost)}" if lost else ""
        console.print(
            f"challenge BROKEN OFF after {told['done']} of {told['count']} parts: {told['why']}{missed}",
            markup=False,
            soft_wrap=True,
        )
    if told["state"] == "passed":
        return 0
    return 1 if any(part["why"] and part["defect"] for part in told["parts"]) else 2


def _follow(requester: Requester, begun: dict[str, Any], *, timeout_s: float) -> bool:
    """Show how far an augmentation is until it ends; whether it was done."""
    with stages() as progress:
        while True:
            told = (requester.ask("snapshot", timeout_s=timeout_s).result or {}).get("augment") or {}
            if told.get("job") != begun["job"]:
                raise NotReached(f"the station knows nothing of {begun['job']} any more")
            if told["state"] not in ("starting", "gathering", "placing", "painting"):
                break
            progress(told["fault"] or told["state"], told["done"], told["count"])
            time.sleep(FOLLOW_S)
    print(json.dumps({**begun, "state": told["state"], "done": told["done"], "fault": told["fault"]}))  # noqa: T201
    return bool(told["state"] == "done")


def _example(op: str) -> str:
    fields = OPERATIONS[op].arguments.model_fields
    names = [field.alias or name for name, field in fields.items()]
    return " ".join(f"{name}=…" for name in names) or "nothing: it takes none"


def _show_hello(console: Console, result: dict[str, Any]) -> None:
    console.print(f"station {result['station']}, inspectd {result['version']}, epoch {result['epoch']}")
    console.print(f"this client is {result['client']} ({result['role']}), and may do:")
    for op in result["operations"]:
        console.print(f"  {op} {_example(op) if OPERATIONS[op].arguments.model_fields else ''}", markup=False)


def _show_snapshot(console: Console, result: dict[str, Any]) -> None:
    console.print(
        f"station {result['station']}: {result['state']}, {result['deviceHealth']} {result['healthReason']}",
        markup=False,
    )
    model = result["model"]
    console.print(f"model: {model.get('name', 'none')} ({model.get('digest', '')[:12]})", markup=False)
    for kind in ("loaded", "previous"):
        if model.get(kind):
            console.print(f"  {kind}: {model[kind]['name']} ({model[kind]['digest'][:12]})", markup=False)
    table = Table("stream", "camera", "epoch", "oldest", "last", box=None)
    for stream in result["streams"]:
        camera = stream["camera"] or "(station)"
        table.add_row(*map(str, (stream["stream"], camera, result["epoch"], stream["oldest"], stream["last"])))
    for epoch in result["epochs"]:
        for stream in epoch["streams"]:
            table.add_row(*map(str, (stream["stream"], "", epoch["epoch"], stream["oldest"], stream["last"])))
    console.print(table)
    if challenge := result.get("challenge"):
        done = f"{challenge['done']} of {challenge['count']} parts"
        console.print(f"challenge of {challenge['begun']}: {challenge['state']}, {done}", markup=False)
    for alarm in result["alarms"]:
        so = "active" if alarm["active"] else "over"
        acked = f"acknowledged by {alarm['ackedBy']}" if alarm["acked"] else "not acknowledged"
        console.print(
            f"alarm {alarm['alarmId']} {alarm['code']} ({alarm['severity']}, {so}, {acked}): {alarm['message']}",
            markup=False,
        )
    if not result["alarms"]:
        console.print("no alarms")


def _show_self_test(console: Console, result: dict[str, Any]) -> None:
    console.print(f"self-test {'passed' if result['passed'] else 'NOT PASSED'}")
    console.print(f"bundle: {result['samples']} samples come out as at export")
    masters = result.get("masters")
    if masters is None:
        return
    console.print(
        f"master parts: {masters['found']} of {masters['known']} known defects found, "
        f"{masters['accepted']} of {masters['good']} good parts accepted, in {result['seconds']:.1f} s",
        soft_wrap=True,
    )
    console.print(_recalls(masters))
    for kind in ("missed", "rejected"):
        for part in masters[kind]:
            about = f" ({part['defect']}, {part['size']})" if part["defect"] else ""
            console.print(f"{kind}: {part['name']}{about}: {part['why']}", markup=False, soft_wrap=True)
    if "unpainted" in result:
        console.print(f"not painted yet: {result['unpainted']}", markup=False, soft_wrap=True)
    if "painted" in result:
        _show_painted(console, result["painted"])


def _show_painted(console: Console, painted: dict[str, Any]) -> None:
    changes = [f"{painted['exposure']:g} times the light"] if painted["exposure"] != 1 else []
    changes += [f"a blur of {painted['blur_px']:g} px"] if painted["blur_px"] else []
    found = f"{painted['found']} of {painted['known']} known defects found"
    console.print(
        f"painted on {painted['pictures']} pictures of now: {found}"
        + (f"; the pictures have {' and '.join(changes)}, compared with the set's" if changes else ""),
        soft_wrap=True,
    )
    console.print(_recalls(painted))
    for part in painted["missed"]:
        on = f"found on {part['found']} of {part['tried']}"
        console.print(
            f"missed: {part['name']} ({part['defect']}, {part['size']}): {on}: {part['why']}",
            markup=False,
            soft_wrap=True,
        )
    if painted["left_out"]:
        console.print(
            f"left out, for they are not found on the set's good parts either: {', '.join(painted['left_out'])}",
            markup=False,
            soft_wrap=True,
        )


def _recalls(result: dict[str, Any]) -> Table:
    table = Table("", "found", "of", "at least", box=None)
    for recall in (*result["types"], *result["sizes"]):
        least = f"{100 * recall['least']:g} %"
        table.add_row(Text(recall["name"]), str(recall["found"]), str(recall["total"]), least)
    return table


_SHOWN = {"snapshot": _show_snapshot, "hello": _show_hello, "self_test": _show_self_test}
