"""Parts that were written are read as they were; what is damaged or foreign is told and passed over."""

from __future__ import annotations

import itertools
import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from inspectd.errors import ConfigError, DatasetError, ProtocolError
from inspectd.inspection import Verdict
from inspectd.runtime.archive import Archive, Part
from inspectd.runtime.archive.handover import Handover
from inspectd.runtime.archive.layout import PartName, is_leftover
from inspectd.runtime.archive.writing import encode
from inspectd.wire import State, state_message

from .archive_site import DAY_NS, Shelf, decoded, inspected, message, noise


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "archive")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_part_is_read_as_it_was_inspected(shelf, channels):
    given = inspected(pixels=noise(channels=channels), source="lot/a.png", frame_id=5)
    path = shelf.put(given, seq=1042)
    assert path == shelf.root / "2026-11-26" / "cam1" / "7-1042.json"
    part = Part(path)
    part.verify()
    frame = part.frame(received_ns=99)
    assert np.array_equal(frame.pixels, given.frame.pixels)
    told = (frame.camera, frame.serial, frame.frame_id, frame.source, frame.received_ns)
    assert told == ("cam1", "A1", 5, "lot/a.png", 99)
    assert np.array_equal(part.mask().labels, given.mask.labels)
    assert part.mask().classes == given.mask.classes
    assert part.verdict is Verdict.NG
    assert part.sidecar.body == json.loads(message(given, 1042).body) | {
        "creationTime": part.sidecar.body["creationTime"]
    }
    assert part.sidecar.header["seq"] == 1042
    assert part.sidecar.lossless
    assert part.picture() == path.with_suffix(".png").read_bytes()
    assert sorted(file.name for file in path.parent.iterdir()) == ["7-1042.json", "7-1042.mask.png", "7-1042.png"]


def test_a_part_that_was_not_inspected_has_no_mask(shelf):
    part = Part(shelf.put(inspected(Verdict.NOT_INSPECTED)))
    assert part.mask() is None
    assert part.sidecar.body["reason"] == "the engine failed"
    part.frame()


def test_jpegs_are_marked_as_lossy(tmp_path):
    shelf = Shelf(tmp_path / "archive", format="jpeg")
    given = inspected(pixels=np.full((40, 40, 3), (200, 100, 50), np.uint8))
    part = Part(shelf.put(given))
    assert not part.sidecar.lossless
    assert part.sidecar.picture.name == "7-1.jpg"
    assert np.abs(part.frame().pixels.astype(int) - given.frame.pixels).max() < 6
    assert np.array_equal(part.mask().labels, given.mask.labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_overlays_show_the_mask_in_green(tmp_path, channels):
    shelf = Shelf(tmp_path / "archive", overlays=True)
    given = inspected(pixels=np.full((40, 40, channels), 100, np.uint8))
    path = shelf.put(given)
    overlay = decoded(path.with_name("7-1.overlay.png"))
    assert tuple(overlay[15, 15]) == (50, 177, 50)
    assert tuple(overlay[1, 1]) == (100, 100, 100)
    Part(path).verify()


def test_a_part_with_numbers_that_are_taken_replaces_none(shelf):
    first = shelf.put(inspected(pixels=noise(seed=1)))
    second, third = shelf.put(inspected(pixels=noise(seed=2))), shelf.put(inspected(pixels=noise(seed=3)))
    assert [path.name for path in (first, second, third)] == ["7-1.json", "7-1~2.json", "7-1~3.json"]
    archive = Archive(shelf.root)
    assert [part.path for part in archive.parts()] == [first, second, third]
    assert archive.find(epoch=7, seq=1, camera="cam1").path == third
    for seed, part in enumerate(archive.parts(), 1):
        assert np.array_equal(part.frame().pixels, noise(seed=seed))


def test_a_message_that_is_no_verdict_leaves_nothing(shelf):
    inspection = inspected()
    state = state_message("station", State.READY, State.HALTED, epoch=1, seq=1)
    with pytest.raises(ProtocolError, match="expected the verdict on a part"):
        encode(Handover(inspection.frame, state, inspection.mask), shelf.settings)


def test_parts_are_found_by_camera_and_by_stream(shelf):
    one = shelf.put(inspected(camera="cam.1"), seq=3, stream=0)
    other = shelf.put(inspected(camera="cam.1.b"), seq=3, stream=1)
    archive = Archive(shelf.root)
    assert archive.find(epoch=7, seq=3, stream=0).path == one
    assert archive.find(epoch=7, seq=3, stream=1).path == other
    assert archive.find(epoch=7, seq=3, camera="cam.1.b").path == other
    assert archive.find(epoch=7, seq=3, camera="cam.1", stream=1) is None
    assert archive.find(epoch=7, seq=4) is None
    assert archive.find(epoch=8, seq=3) is None
    assert archive.find(epoch=7, seq=3, camera="cam") is None


def test_the_latest_of_several_days_is_found(shelf):
    shelf.put()
    shelf.now_ns += DAY_NS
    later = shelf.put()
    assert Archive(shelf.root).find(epoch=7, seq=1).path == later


def test_parts_come_in_the_order_of_their_numbers_and_not_of_their_names(shelf):
    for epoch, seq in ((10, 1), (9, 10), (9, 9), (9, 100)):
        shelf.put(seq=seq, epoch=epoch)
    shelf.now_ns += DAY_NS
    shelf.put(seq=1, epoch=1)
    names = [part.path.stem for part in Archive(shelf.root).parts()]
    assert names == ["9-9", "9-10", "9-100", "10-1", "1-1"]
    assert [part.path.stem for part in Archive(shelf.root).parts(newest_first=True)] == names[::-1]


def test_parts_are_filtered(shelf):
    shelf.put(inspected(Verdict.NG, camera="a"), seq=1)
    shelf.put(inspected(Verdict.REVIEW, camera="b"), seq=2)
    shelf.now_ns += DAY_NS
    shelf.put(inspected(Verdict.OK, camera="b"), seq=3)
    archive = Archive(shelf.root)

    def seqs(**filters) -> list[int]:
        return [part.sidecar.seq for part in archive.parts(**filters)]

    assert seqs() == [1, 2, 3]
    assert seqs(camera="b") == [2, 3]
    assert seqs(verdict=Verdict.REVIEW) == [2]
    assert seqs(first=date(2026, 11, 27)) == [3]
    assert seqs(last=date(2026, 11, 26)) == [1, 2]
    assert seqs(camera="c") == []


def test_the_first_parts_of_a_spread_are_from_all_over_the_archive(shelf):
    for seq in range(1, 161):
        shelf.put(inspected(Verdict.OK if seq % 4 else Verdict.NG, pixels=noise(8, 8)), seq=seq)
        shelf.now_ns += DAY_NS // 40
    shelf.put(inspected(Verdict.OK, camera="cam2", pixels=noise(8, 8)), seq=161)
    told: list[str] = []
    archive = Archive(shelf.root, tell=told.append)

    def first(count: int | None = None, **filters) -> list[int]:
        return [part.sidecar.seq for part in itertools.islice(archive.spread(camera="cam1", **filters), count)]

    assert sorted(first()) == list(range(1, 161)), "each once"
    assert sorted(first(verdict=Verdict.OK)) == [seq for seq in range(1, 161) if seq % 4]
    for count in (8, 20, 40):
        tenths = np.histogram(first(count), bins=8, range=(1, 161))[0]
        assert tenths.min() >= count // 8 - 1, f"{tenths} of {count}"
        assert tenths.max() <= count // 8 + 2, f"{tenths} of {count}"
    places = np.bincount([seq % 8 for seq in first(40)])
    assert places.min() >= 2, f"{places}: of a fixture with eight places some are hardly seen"
    taken = first(20)
    for path in shelf.root.rglob("cam1/*.json"):
        if PartName.of_file(path.name)[0].seq not in taken:
            path.write_text("")
    assert (first(20), told) == (taken, []), "no others were read"


def test_a_spread_passes_over_what_is_near_to_a_part(shelf):
    for seq in range(1, 81):
        shelf.put(inspected(Verdict.OK, pixels=noise(8, 8)), seq=seq)
    archive = Archive(shelf.root)

    def left_out(*seqs: int, epoch: int = 7) -> list[int]:
        found = archive.spread(camera="cam1", away_from={(epoch, seq) for seq in seqs})
        return sorted(set(range(1, 81)) - {part.sidecar.seq for part in found})

    assert left_out(40) == list(range(36, 45))
    assert left_out(2, 80) == [*range(1, 7), *range(76, 81)]
    assert left_out(90) == left_out(40, epoch=8) == []


def test_what_is_damaged_or_foreign_is_told_and_passed_over(shelf):
    good = shelf.put(seq=1)
    shelf.put(seq=2).write_text('{"format": 1, "camera"')
    shelf.put(seq=3).write_bytes(b"\xff\xfe")
    stray = shelf.put(seq=4)
    (shelf.root / "2026-11-26" / "cam2").mkdir()
    stray.rename(shelf.root / "2026-11-26" / "cam2" / stray.name)
    (shelf.root / "notes.txt").write_text("do not touch")
    (shelf.root / "2026-11-26" / "cam1" / "notes.json").write_text("{}")
    (shelf.root / "2026-99-99").write_text("a file")
    told: list[str] = []
    archive = Archive(shelf.root, tell=told.append)
    assert [part.path for part in archive.parts()] == [good]
    assert [("7-2" in fault, "7-3" in fault, "cam2" in fault) for fault in told] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert archive.find(epoch=7, seq=2) is None


def test_a_sidecar_cannot_name_files_elsewhere(shelf):
    path = shelf.put()
    content = json.loads(path.read_text())
    content["picture"]["name"] = "../../../etc/passwd"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="not the sidecar of a part"):
        Part(path)


@pytest.mark.parametrize("ending", [".png", ".mask.png"])
def test_files_that_were_changed_are_refused(shelf, ending):
    path = shelf.put()
    file = path.with_name(f"7-1{ending}")
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    part = Part(path)
    with pytest.raises(DatasetError, match=f"7-1{ending}.*changed or damaged"):
        part.verify()
    with pytest.raises(DatasetError, match="changed or damaged"):
        part.frame() if ending == ".png" else part.mask()
    file.unlink()
    with pytest.raises(DatasetError, match="No such file"):
        part.verify()


def test_an_archive_that_is_none_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"archive\.path"):
        Archive(tmp_path / "nothing")


def test_names_of_files():
    for text in ("7-1042.json", "7-1042~2.mask.png", "0-0.jpg", "1-1.overlay.png"):
        name, ending = PartName.of_file(text)
        assert f"{name}{ending}" == text
        assert is_leftover(f".{text}.partial")
    for text in ("7.json", "a-1.json", "7-1.txt", "7-1.json.bak", "7-1.png.partial", "7-1~.png", ".7-1.png", "-1.png"):
        assert PartName.of_file(text) is None
        assert not is_leftover(text)
    assert PartName(9, 9) < PartName(9, 10) < PartName(9, 10, 2) < PartName(10, 1)
