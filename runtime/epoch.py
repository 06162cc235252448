"""The epoch of INS1: a count of starts that survives them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from inspectd.durable import replace_file
from inspectd.errors import ConfigError

__all__ = ["EpochCounter", "default_state_dir"]

_HIGHEST_EPOCH = 2**32 - 1


def default_state_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the state of a line goes that has no configuration file: `$XDG_STATE_HOME/inspectd`."""
    base = environment.get("XDG_STATE_HOME", "")
    # The XDG specification tells to pass over a relative path.
    return (Path(base) if base.startswith("/") else Path("~/.local/state").expanduser()) / "inspectd"


class EpochCounter:
    """Counts the starts of a station in a file, so that no two of them share an epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def next(self, *, above: int = 0) -> int:
        """The epoch of this start, from 1; on the disk before it is given.

        Args:
            above: the highest epoch that the journal knows of; a count that was lost goes on there.

        Raises:
            ConfigError: the file is damaged, or it cannot be written.
        """
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                epoch = self._following(above)
                self._write(epoch)
        return epoch

    def check(self) -> None:
        """Try whether `next` could count, and leave everything as it was.

        Raises:
            ConfigError: as `next`.
        """
        folder = self.path.parent
        made: list[Path] = []
        with self._explained():
            made += [path for path in (folder, *folder.parents) if not path.exists()]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # Rights do not tell: root has them all, and /proc takes no file all the same.
                with tempfile.TemporaryFile(dir=folder):
                    pass
                self._following()
            finally:
                # A folder that stays would be of the user who checks, not of the one who runs the line.
                for path in made:
                    with contextlib.suppress(OSError):
                        path.rmdir()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"{self.path}: the count of starts cannot be kept ({error.strerror}); without it subscribers cannot "
                f"tell one start from the next. Make the folder writable, or set another station.state_dir"
            ) from error

    def _following(self, above: int = 0) -> int:
        epoch = max(self._read(), above) + 1
        if epoch > _HIGHEST_EPOCH:
            raise ConfigError(f"{self.path}: the count of starts is used up at {_HIGHEST_EPOCH}")
        return epoch

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_name(self.path.name + ".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> int:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        if (match := re.fullmatch(rb"epoch ([1-9][0-9]{0,9})\n", text)) is None:
            raise ConfigError(
                f"{self.path}: expected 'epoch NUMBER', got {text[:32]!r}; the count of starts is damaged. Write "
                f"'epoch NUMBER' into it with a NUMBER above every epoch that subscribers have seen"
            )
        return int(match[1])

    def _write(self, epoch: int) -> None:
        try:
            replace_file(self.path, b"epoch %d\n" % epoch)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self.path.exists():
                raise
            # A full disk must not keep the line from starting: a few bytes within their sector need no room.
            with self.path.open("r+b") as file:
                file.write(b"epoch %d\n" % epoch)
                file.flush()
                os.fsync(file.fileno())
