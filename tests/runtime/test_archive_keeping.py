"""How much an archive may hold: real files, a clock that is set by hand."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from inspectd.config import Archive as ArchiveSettings
from inspectd.errors import ConfigError
from inspectd.runtime.archive.keeping import GIB, LOOK_AGAIN_S, Keeper, Kept
from inspectd.runtime.archive.layout import PartName

SIZE = 1000
DAY_NS = 86_400 * 10**9


class Store:
    """An archive of parts that are a picture and a sidecar of together 1000 bytes."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.now_ns = 20_000 * DAY_NS
        self.now_s = 0.0
        self.settings = ArchiveSettings.model_validate({"keep_free_gib": 0.0, **settings})
        self.keeper = self.fresh()

    def fresh(self) -> Keeper:
        """As after a new start."""
        return Keeper(self.root, self.settings, clock=lambda: self.now_s, utc=lambda: self.now_ns)

    def write(self, seq: int, *, epoch: int = 1, folder: str = "2026-01-01/cam1") -> Kept:
        """The files of a part, and a note of them."""
        name, stamp_ns = PartName(epoch, seq), self.keeper.stamp()
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / folder / f"{name}.png").write_bytes(b"x" * (SIZE - 100))
        sidecar = self.root / folder / f"{name}.json"
        sidecar.write_bytes(b"y" * 100)
        os.utime(sidecar, ns=(stamp_ns, stamp_ns))
        kept = Kept(stamp_ns, name, folder, SIZE)
        self.keeper.add(kept)
        return kept

    def settle(self) -> None:
        """Do all that is to be done."""
        while self.keeper.step():
            pass

    @property
    def names(self) -> list[str]:
        """Of the parts that are there, by folder and number."""
        paths = sorted(self.root.rglob("*.json"), key=lambda path: (path.parent, PartName.of_file(path.name)))
        return [path.stem for path in paths]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "archive", max_gib=10 * SIZE / GIB, retention_days=30)
    store.settle()
    return store


def test_the_oldest_go_above_the_size(store):
    for seq in range(1, 14):
        store.write(seq)
    store.settle()
    assert store.names == [f"1-{seq}" for seq in range(4, 14)]
    assert (store.keeper.deleted, store.keeper.bytes, store.keeper.parts) == (3, 10 * SIZE, 10)
    assert not list(store.root.rglob("1-3*"))


def test_the_same_is_known_after_a_new_start(store):
    for seq in range(1, 11):
        store.write(seq, folder=f"2026-01-0{1 + seq % 3}/cam{seq % 2}")
    again = store.fresh()
    while again.step():
        pass
    assert (again.bytes, again.parts) == (store.keeper.bytes, store.keeper.parts) == (10 * SIZE, 10)
    store.keeper = again
    store.write(11)
    store.settle()
    assert "1-1" not in store.names
    assert len(store.names) == 10


def test_the_old_go_by_their_age(store):
    for seq in range(1, 6):
        store.write(seq)
        store.now_ns += 10 * DAY_NS
    store.now_ns += 1
    store.settle()
    # Written 50, 40, 30, 20 and 10 days ago.
    assert store.names == ["1-4", "1-5"]


def test_a_clock_that_is_set_back_does_not_make_new_parts_old(store):
    for seq in range(1, 8):
        store.write(seq)
    store.now_ns = 0
    for seq in range(8, 13):
        store.write(seq, folder="1970-01-01/cam1")
    store.now_ns = 20_001 * DAY_NS
    again = store.fresh()
    while again.step():
        pass
    assert store.names == [f"1-{seq}" for seq in [*range(8, 13), *range(3, 8)]]
    assert again.deleted == 2


def test_epochs_that_are_counted_anew_do_not_make_new_parts_old(store):
    for seq in range(1, 8):
        store.write(seq, epoch=900)
    for seq in range(1, 6):
        store.write(seq, epoch=1)
    store.settle()
    assert store.names == [*(f"1-{seq}" for seq in range(1, 6)), *(f"900-{seq}" for seq in range(3, 8))]


def test_a_clock_that_was_ahead_keeps_the_order(store):
    ahead_ns = 40_000 * DAY_NS
    store.now_ns, back_ns = ahead_ns, store.now_ns
    store.write(1)
    store.now_ns = back_ns
    stamps = [store.write(seq).stamp_ns for seq in range(2, 12)]
    assert stamps == sorted(stamps)
    assert stamps[0] > ahead_ns
    store.keeper = store.fresh()
    store.settle()
    assert store.names == [f"1-{seq}" for seq in range(2, 12)]


def test_a_part_that_cannot_be_deleted_does_not_keep_the_others(store):
    for seq in range(1, 14):
        store.write(seq)
    # No file of this name can be unlinked.
    (store.root / "2026-01-01" / "cam1" / "1-1.overlay.png").mkdir()
    with pytest.raises(OSError, match="directory"):
        store.keeper.step()
    store.settle()
    assert store.names == [f"1-{seq}" for seq in range(5, 14)]


def test_empty_folders_go_and_those_of_people_stay(store):
    store.write(1, folder="2026-01-01/cam1")
    store.write(2, folder="2026-01-02/cam1")
    (store.root / "2026-01-02" / "cam1" / "notes.txt").write_text("mine")
    store.now_ns += 31 * DAY_NS
    store.settle()
    assert sorted(path.name for path in store.root.iterdir()) == ["2026-01-02"]
    assert (store.root / "2026-01-02" / "cam1" / "notes.txt").read_text() == "mine"


def test_what_a_crash_left_behind_is_cleared_and_nothing_else(store):
    folder = store.root / "2026-01-01" / "cam1"
    store.write(1)
    for name in (".1-2.png.partial", "1-3.png", "1-3.mask.png", ".1-3.json.partial"):
        (folder / name).write_bytes(b"half")
    others = ["notes.json", "1-4.txt", ".1-2.png.partial.bak", "photo.png"]
    for name in others:
        (folder / name).write_bytes(b"mine")
    (store.root / "2026-01-03" / "cam1").mkdir(parents=True)
    (store.root / "elsewhere").mkdir()
    (store.root / "elsewhere" / "1-9.png").write_bytes(b"mine")
    store.keeper = store.fresh()
    store.settle()
    assert sorted(path.name for path in folder.iterdir()) == sorted(["1-1.json", "1-1.png", *others])
    assert (store.root / "elsewhere" / "1-9.png").exists()
    assert not (store.root / "2026-01-03").exists()
    assert store.keeper.parts == 1


def test_parts_that_are_written_while_it_looks_are_counted_once(store):
    for seq in range(1, 4):
        store.write(seq, folder="2026-01-01/cam1")
    store.keeper = store.fresh()
    store.keeper.step()  # the first folder is looked through
    store.write(4, folder="2026-01-01/cam1")
    store.write(5, folder="2026-01-02/cam1")
    assert store.keeper.is_looking
    store.settle()
    assert (store.keeper.parts, store.keeper.bytes) == (5, 5 * SIZE)
    store.settle()
    assert store.names == [f"1-{seq}" for seq in range(1, 6)]


def test_what_people_delete_is_found_out(store):
    for seq in range(1, 11):
        store.write(seq)
    subprocess.run("rm 2026-01-01/cam1/1-[5-9].*", shell=True, cwd=store.root, check=True)
    store.now_s += LOOK_AGAIN_S + 1
    store.settle()
    assert (store.keeper.parts, store.keeper.bytes) == (5, 5 * SIZE)
    store.write(11)
    store.settle()
    assert len(store.names) == 6


def test_a_floor_above_the_disk_costs_no_part(tmp_path):
    store = Store(tmp_path / "archive", keep_free_gib=1e9)
    with pytest.raises(ConfigError, match=r"lower archive\.keep_free_gib"):
        store.keeper.check_floor()


def test_one_step_is_short_and_knows_100_000_parts(tmp_path):
    store = Store(tmp_path / "archive", max_gib=1.0)
    for number in range(100):
        folder = store.root / f"2026-{1 + number // 28:02}-{1 + number % 28:02}" / "cam1"
        folder.mkdir(parents=True)
        for seq in range(number * 1000, number * 1000 + 1000):
            os.close(os.open(folder / f"1-{seq}.json", os.O_CREAT | os.O_WRONLY))
    steps = []
    more = True
    while more:
        begun = time.perf_counter()
        more = store.keeper.step()
        steps.append(time.perf_counter() - begun)
    assert store.keeper.parts == 100_000
    begun = time.perf_counter()
    for seq in range(200_000, 200_100):
        store.write(seq)
        store.keeper.step()
    each_ms = (time.perf_counter() - begun) * 10
    assert sorted(steps)[-2] < 0.5
    assert each_ms < 20
