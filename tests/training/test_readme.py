"""What README says of your own pictures, line by line, on a few of them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.buttons import LINES, render
from inspectd.errors import InspectdError
from inspectd.training.cli import app

README = Path(__file__).resolve().parents[2] / "README.md"
# The same commands in seconds.
QUICK = ["--size", "64x64", "--batch", "4", "--accelerator", "cpu", "--precision", "32-true"]

QUICK_DST = [
    "--epochs",
    "1",
    "--pictures",
    "2",
    "--batch",
    "2",
    "--channels",
    "4",
    "--blocks",
    "1",
    "--accelerator",
    "cpu",
]


def commands() -> list[list[str]]:
    """The lines of `inspectd-train`, without their comments."""
    lines = re.findall(r"^    (inspectd-train .*)$", README.read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


def photographs(folder: Path, defective: int, good: int) -> None:
    """photos/ and labels.json as an annotation tool writes them."""
    images, annotations = [], []
    (folder / "photos").mkdir()
    for number in range(defective + good):
        part = render(LINES[0], "chip" if number < defective else None, number, 64)
        cv2.imwrite(str(folder / f"photos/{number}.png"), part.image[..., ::-1])
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
        if number < defective:
            flat = part.mask.T.reshape(-1).astype(np.int8)
            counts = np.diff(np.concatenate(([0], np.flatnonzero(np.diff(flat, prepend=0)), [flat.size]))).tolist()
            runs = {"counts": counts, "size": [64, 64]}
            annotations.append({"id": number, "image_id": number, "category_id": 1, "segmentation": runs})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "chip"}]}
    (folder / "labels.json").write_text(json.dumps(content))


def run(arguments: list[str]) -> None:
    app(arguments, standalone_mode=False)


def test_your_own_pictures_are_imported_learnt_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], vgg_file: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path, defective=5, good=5)
    lines = commands()
    assert [line[0] for line in lines] == ["import", "check", "segment", "evaluate", "dst", "simulate"]
    bring, check, segment, measure, dst, simulate = lines
    segment[segment.index("--steps") + 1] = "2"
    run(bring)
    assert capsys.readouterr().out == "data: 4 ref, 4 free, 1 test, 1 ok_test\n"
    for line in (check, [*segment, *QUICK], measure):
        run(line)
    metrics = json.loads((tmp_path / "out/evaluation/metrics.json").read_text())
    assert {image["role"] for image in metrics["images"]} == {"test", "ok_test"}
    run([*dst, "--vgg-weights", str(vgg_file), *QUICK_DST])
    run([*simulate, "--count", "4", "--workers", "1"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("out/simulated: 4 ref, 4 free, 4 simulated")


def test_a_dataset_with_nothing_to_measure_on_is_answered_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path, defective=5, good=5)
    bring, _, segment, measure = commands()[:4]
    run([*bring, "--test-share", "0"])
    segment[segment.index("--steps") + 1] = "1"
    run([*segment, *QUICK])
    with pytest.raises(InspectdError, match=r"only 5 ref, 5 free; .* larger --test-share"):
        run(measure)
