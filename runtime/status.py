"""`inspectd status`: asks a station's supervisor how it is."""

from __future__ import annotations

import http.client
from pathlib import Path

from pydantic import ValidationError

from inspectd.config import load_config
from inspectd.errors import ConfigError, ProtocolError

from .report import Report

__all__ = ["ask", "port_of"]

HOST = "127.0.0.1"
ANSWER_S = 5.0
_MAX_BYTES = 4 * 2**20


def port_of(config: Path | None, port: int | None) -> int:
    """The port that a station's supervisor answers at.

    Args:
        config: the station's configuration; None if it was not given.
        port: the port itself; it goes first.

    Raises:
        ConfigError: neither tells of one.
    """
    if port is not None:
        return port
    if config is None:
        raise ConfigError("expected the station's configuration, or --port with its health.port")
    named = load_config(config).health.port
    if named is None:
        raise ConfigError(
            f"{config}: health.port is not set, so the station answers nobody; set it, such as health.port = 9464, "
            "and start the station again"
        )
    if named == 0:
        raise ConfigError(f"{config}: health.port is 0, which is any free one; its log names it: give it with --port")
    return named


def ask(port: int) -> Report:
    """What the supervisor behind a port reports.

    Raises:
        ConfigError: nobody answers there.
        ProtocolError: what answers is no station.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        content = answer.read(_MAX_BYTES)
    except http.client.HTTPException as error:
        raise ProtocolError(_no_station(port, type(error).__name__)) from error
    except OSError as error:
        raise ConfigError(
            f"{HOST}:{port}: no station answers ({error.strerror or 'no answer in time'}); start it with "
            "'inspectd run', or give the port that its configuration names as health.port"
        ) from error
    finally:
        connection.close()
    try:
        return Report.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ProtocolError(_no_station(port, f"HTTP {answer.status}: {first['msg']}")) from None


def _no_station(port: int, why: str) -> str:
    return (
        f"{HOST}:{port}: what answers is no station of this version ({why}); expected the health.port of 'inspectd run'"
    )
