"""Master parts: what a file of them has to be, and when a part counts as found."""

from __future__ import annotations

import hashlib
import io
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from inspectd.bundle import encode_png
from inspectd.calibrated import InputFile, Software
from inspectd.defect import find_defects
from inspectd.errors import ConfigError
from inspectd.frame import Frame
from inspectd.inspection import AcceptanceRule, ClassRule, Inspection, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.masters import (
    MasterPart,
    MastersRecord,
    RecallLimit,
    encode_masters,
    fault_of,
    open_masters,
    run_masters,
)

CLASSES = ClassMap(("dent", "crack"))
RULE = AcceptanceRule(default=ClassRule(score=0.5, minimum_area_px=4))
SIDE = 16


def entry(name: str, data: bytes) -> InputFile:
    return InputFile(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def square(left: int, side: int = 4) -> np.ndarray:
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[4 : 4 + side, left : left + side] = 1
    return labels


def a_set(*, least: float = 1.0, **changes) -> tuple[MastersRecord, dict[str, bytes]]:
    """Two dents, a crack and a good part, told apart by their colours."""
    files: dict[str, bytes] = {}
    parts = []
    for number, (defect, class_name) in enumerate([("ding", "dent"), ("ding", "dent"), ("crack", "crack"), ("", "")]):
        pixels = np.full((SIDE, SIDE, 3), (number, 50, 200), np.uint8)
        files[f"parts/{number}.png"] = encode_png(np.ascontiguousarray(pixels[..., ::-1]))
        part = {"name": f"{number}.png", "picture": entry(f"parts/{number}.png", files[f"parts/{number}.png"])}
        if defect:
            files[f"labels/{number}.png"] = encode_png(square(2) * 255)
            labels = entry(f"labels/{number}.png", files[f"labels/{number}.png"])
            part |= {"defect": defect, "class_name": class_name, "area_px": 16, "size": "16-63 px", "labels": labels}
        parts.append(MasterPart(**part, expected="NG" if defect else "OK"))
    limits = {"least": least, "tried": 9}
    record = MastersRecord(
        made=datetime(2026, 3, 4, tzinfo=timezone.utc),
        software=Software(name="inspectd", version="test"),
        inputs=(),
        bundle_name="toy",
        bundle_sha256="0" * 64,
        engine="none",
        rule=RULE,
        defect_roles=("test",),
        good_roles=("ok_test",),
        per_class=2,
        seed=0,
        left_out=(),
        **{
            "parts": tuple(parts),
            "types": (RecallLimit(name="crack", parts=1, **limits), RecallLimit(name="ding", parts=2, **limits)),
            "sizes": (RecallLimit(name="16-63 px", parts=3, **limits),),
            **changes,
        },
    )
    return record, files


def inspected(frame: Frame, labels: np.ndarray, rule: AcceptanceRule = RULE, score: float = 1.0) -> Inspection:
    mask = Mask(labels, CLASSES)
    defects = rule.relevant(find_defects(mask, np.full(labels.shape, round(score * 255), np.uint8)))
    return Inspection(frame=frame, verdict=rule.judge(defects), defects=defects, mask=mask, bundle_digest="")


FRAME = Frame("cam1", 0, np.zeros((SIDE, SIDE, 3), np.uint8), acquired_ns=0)
REVIEWED = AcceptanceRule(default=ClassRule(score=0.8, review_score=0.5))


@pytest.mark.parametrize(
    ("seen", "expected", "fault"),
    [
        (inspected(FRAME, square(2)), Verdict.NG, ""),
        (inspected(FRAME, square(5)), Verdict.NG, ""),
        (inspected(FRAME, square(6)), Verdict.NG, "NG, but not for the 'dent' that is known"),
        (inspected(FRAME, square(2) * 2), Verdict.NG, "NG, but not for the 'dent' that is known"),
        (inspected(FRAME, square(2, 1)), Verdict.NG, "OK, expected NG"),
        # What is too small to count has not been found, whatever else is.
        (inspected(FRAME, np.maximum(square(2, 1), square(9))), Verdict.NG, "NG, but not for the 'dent' that is known"),
        (inspected(FRAME, square(2), REVIEWED, 0.6), Verdict.NG, "REVIEW, expected NG"),
        (inspected(FRAME, square(2), REVIEWED, 0.6), Verdict.REVIEW, ""),
        (inspected(FRAME, square(2), REVIEWED, 0.6), None, ""),
        (inspected(FRAME, square(2)), Verdict.REVIEW, ""),
        (
            Inspection(FRAME, Verdict.NOT_INSPECTED, (), None, "", reason="the engine failed"),
            Verdict.NG,
            "not inspected: the engine failed",
        ),
    ],
)
def test_a_defect_is_found_where_it_is_and_as_what_it_is(seen, expected, fault):
    assert fault_of(seen, expected=expected, class_name="dent", labels=square(2) > 0) == fault


@pytest.mark.parametrize(("left", "fault"), [(None, ""), (2, "NG, expected OK")])
def test_a_good_part_is_one_that_passes(left, fault):
    seen = inspected(FRAME, np.zeros((SIDE, SIDE), np.uint8) if left is None else square(left))
    assert fault_of(seen, expected=Verdict.OK, class_name="", labels=None) == fault


def test_every_part_is_judged_as_the_picture_that_it_was(tmp_path):
    record, files = a_set()
    (tmp_path / "set.zip").write_bytes(encode_masters(record, files))
    masters = open_masters(tmp_path / "set.zip")
    assert masters.record == record
    colours = []

    def judge(frame: Frame) -> Inspection:
        assert frame.camera == "top"
        colours.append(tuple(frame.pixels[0, 0]))
        number = frame.pixels[0, 0, 0]
        return inspected(frame, square(2) * (0, 1, 2, 1)[number])

    result = run_masters(masters, CLASSES, judge, camera="top")
    assert colours == [(number, 50, 200) for number in range(4)]
    assert (result.known, result.good, result.passed) == (3, 1, False)
    assert [(each.name, each.found, each.total) for each in result.types] == [("crack", 1, 1), ("ding", 1, 2)]
    assert [(each.name, each.found, each.total) for each in result.sizes] == [("16-63 px", 2, 3)]
    assert result.told_missed() == "1 of 3 known defects are missed: 0.png (ding, 16-63 px: OK, expected NG)"
    assert result.told_rejected() == "1 of 1 good master parts are not OK: 3.png (NG, expected OK)"
    body = result.body()
    assert (body["found"], body["accepted"], body["missed"][0]["name"]) == (2, 0, "0.png")


@pytest.mark.parametrize(("least", "passed"), [(1.0, False), (0.67, False), (0.5, True)])
def test_the_limits_say_how_many_have_to_be_found(tmp_path, least, passed):
    record, files = a_set(least=least)
    (tmp_path / "set.zip").write_bytes(encode_masters(record, files))
    judge = lambda frame: inspected(frame, square(2) * (0, 1, 2, 0)[frame.pixels[0, 0, 0]])  # noqa: E731
    result = run_masters(open_masters(tmp_path / "set.zip"), CLASSES, judge, camera="cam1")
    assert result.passed is passed
    assert len(result.missed) == 1


def test_a_class_that_the_network_does_not_have_is_told(tmp_path):
    record, files = a_set()
    (tmp_path / "set.zip").write_bytes(encode_masters(record, files))
    with pytest.raises(ConfigError, match="known defects of crack, and the network that judges has the classes dent"):
        run_masters(open_masters(tmp_path / "set.zip"), ClassMap(("dent",)), pytest.fail, camera="cam1")


def _without(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for each in old.namelist():
            if each != name:
                new.writestr(each, old.read(each))
    return buffer.getvalue()


def another_of_its_size() -> bytes:
    """A sound PNG with other pixels than the third part's, and as many bytes."""
    whole = a_set()[1]["parts/2.png"]
    others = (encode_png(np.full((SIDE, SIDE, 3), (200, 50, value), np.uint8)) for value in range(3, 256))
    return next(other for other in others if len(other) == len(whole))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda _data: b"", "damaged, or no master parts"),
        (lambda data: data[:-100], "damaged, or no master parts"),
        (lambda data: data.replace(b'"seed": 0', b'"seed": 1'), "damaged, or no master parts"),
        (lambda data: _without("parts/2.png", data), "parts/2.png"),
        (lambda data: _without("masters.json", data), "masters.json"),
        (lambda _data: encode_masters(a_set()[0], {**a_set()[1], "parts/2.png": another_of_its_size()}), "parts/2.png"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path, damage, told):
    path = tmp_path / "set.zip"
    whole = encode_masters(*a_set())
    path.write_bytes(whole)
    judge = lambda frame: inspected(frame, square(2))  # noqa: E731
    run_masters(open_masters(path), CLASSES, judge, camera="cam1")
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with pytest.raises(ConfigError, match=told):
        run_masters(open_masters(path), CLASSES, judge, camera="cam1")


def test_a_missing_file_and_another_kind_of_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no such master parts; make them by `inspectd-calibrate golden`"):
        open_masters(tmp_path / "missing.zip")
    with pytest.raises(ConfigError, match="damaged, or no master parts"):
        open_masters(Path(__file__))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"parts": a_set()[0].parts[3:], "types": (), "sizes": ()}, "without a defective one nothing is asked"),
        ({"parts": (a_set()[0].parts[0], *a_set()[0].parts)}, "0.png is there twice"),
        ({"types": a_set()[0].types[:1]}, "types: are not those of the parts"),
        ({"sizes": ()}, "sizes: are not those of the parts"),
    ],
)
def test_a_set_that_asks_nothing_or_counts_wrongly_cannot_be_made(changes, told):
    with pytest.raises(ValueError, match=told):
        a_set(**changes)


def test_a_defect_without_a_label_cannot_be_made():
    part = a_set()[0].parts[0]
    with pytest.raises(ValueError, match="a defect has type, class, size, labels"):
        MasterPart.model_validate({**part.model_dump(), "labels": None})
