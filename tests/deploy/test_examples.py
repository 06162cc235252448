"""Every example in deploy/config, on a machine that has what it names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.config import load_config
from inspectd.errors import CameraError
from inspectd.runtime.simcam import producer_path
from inspectd.runtime.sources.producers import producer_file

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = sorted((CHECKOUT / "deploy" / "config").iterdir())
COMPOSED = CHECKOUT / "deploy" / "docker" / "line.toml"
PRODUCER = "/opt/mvIMPACT_Acquire/lib/x86_64/mvGenTLProducer.cti"
STATE = "/var/lib/inspectd"


def inspectd(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inspectd.runtime.entry", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("example", [*EXAMPLES, COMPOSED], ids=lambda path: path.name)
def test_it_passes_check(example, tmp_path):
    text = example.read_text()
    if 'producer = "simulator"' in text:
        try:
            producer_path()
        except CameraError as error:
            pytest.skip(str(error))
    # What a site has, at places that a test may have: a maker's producer, a bundle, a folder of pictures.
    line = tmp_path / example.name
    line.write_text(text.replace(PRODUCER, str(producer_file("viky"))).replace(STATE, str(tmp_path / "state")))
    for bundle in (tmp_path / "state" / "bundles" / "buttons-1", tmp_path / "bundle"):
        shutil.copytree(CHECKOUT / "runtime" / "demo" / "bundle", bundle)
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "1.png"), np.zeros((64, 64, 3), np.uint8))
    if 'endpoint = "tcp://*' in text:
        told = inspectd("check", line)
        assert told.returncode == 2
        assert "inspectd keys station" in told.stderr
        keys = load_config(line).station.state_dir / "keys"
        assert inspectd("keys", "station", "--keys", keys).returncode == 0
    done = inspectd("check", line)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{line}: no fault found\n")


def test_the_docs_name_every_one():
    page = (CHECKOUT / "docs" / "configuration.md").read_text()
    assert [path.name for path in EXAMPLES if f"| `{path.name}` |" not in page] == []
