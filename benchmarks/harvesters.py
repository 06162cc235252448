"""harvesters' own published tests against the simulated camera: `python -m benchmarks.harvesters ARCHIVE`.

The archive is the source distribution on PyPI (`pip download` cannot take it apart), of the version that is installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from inspectd.runtime.simcam import FEED_VARIABLE, producer_path
from inspectd.runtime.simcam.feed import FrameFeed

CAMERAS = 4
WIDTH, HEIGHT = 100, 80


def main() -> int:
    """The tests' exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harvesters", description=__doc__)
    parser.add_argument("archive", type=Path, help="harvesters' source distribution")
    archive = parser.parse_args().archive
    with tempfile.TemporaryDirectory(prefix="inspectd-") as folder, _belts(Path(folder) / "feeds") as feeds:
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        (source,) = Path(folder).glob("*/src")
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-W", "ignore"]
        return subprocess.run(
            [*command, "-c", os.devnull, "--rootdir", source, "harvesters/test"],
            cwd=source,
            env={**os.environ, FEED_VARIABLE: str(feeds), "HARVESTERS_TEST_TARGET": str(producer_path())},
            check=False,
        ).returncode


@contextmanager
def _belts(folder: Path) -> Iterator[Path]:
    """Cameras that always have a picture."""
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    over = threading.Event()

    def pass_parts(feed: FrameFeed) -> None:
        while not over.is_set():
            feed.put(picture, 0.2)

    with ExitStack() as stack:
        feeds = [stack.enter_context(FrameFeed(folder / f"cam{n}.feed", WIDTH, HEIGHT)) for n in range(CAMERAS)]
        threads = [threading.Thread(target=pass_parts, args=(feed,)) for feed in feeds]
        for thread in threads:
            thread.start()
        try:
            yield folder
        finally:
            over.set()
            for thread in threads:
                thread.join()


if __name__ == "__main__":
    sys.exit(main())
