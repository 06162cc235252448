"""The archive's process, for real: started, killed, left alone, on disks that are full, read-only or gone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from inspectd.config import Archive as ArchiveSettings
from inspectd.inspection import Verdict
from inspectd.runtime.archive import Archive, ArchiveProcess, ArchiveSender, Beat
from inspectd.runtime.archive.child import archive_command
from inspectd.runtime.archive.keeping import GIB, Keeper
from inspectd.runtime.archive.process import Archivist

from .archive_site import ArchiveSite, inspected, message, noise, until

MIB = 2**20


@pytest.fixture
def make_site(tmp_path: Path):
    """Makes the site; it is taken down at the end."""
    sites: list[ArchiveSite] = []

    def make(**settings) -> ArchiveSite:
        sites.append(ArchiveSite(tmp_path, **settings))
        return sites[-1]

    yield make
    for site in sites:
        site.sender.close(0)
        if site.process is not None and site.process.status is None:
            os.kill(site.process.number, signal.SIGKILL)
        if site.process is not None:
            site.process.end()


@contextmanager
def mounted(where: Path, *options: str):
    """A small disk in memory."""
    where.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", where], capture_output=True)
    if done.returncode:
        pytest.skip("mounting needs root: run the tests in a container that may, or as root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", where], check=True)


@contextmanager
def hanging(image: Path, where: Path):
    """A disk of its own, and a function that makes it hang or go on."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4") or not shutil.which("fsfreeze"):
        pytest.skip("needs root, mkfs.ext4 and fsfreeze: run the tests as root, with e2fsprogs and util-linux")
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    where.mkdir()
    if subprocess.run(["mount", "-o", "loop", image, where], capture_output=True).returncode:
        pytest.skip("this machine gives no loop devices: run the tests where `mount -o loop` works")

    def hang(now: bool) -> None:
        subprocess.run(["fsfreeze", "--freeze" if now else "--unfreeze", where], check=True)

    try:
        yield hang
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", where], capture_output=True)
        subprocess.run(["umount", "--lazy", where], check=True)


def seqs(root: Path) -> list[int]:
    """Of the parts that are there; each is whole."""
    told: list[str] = []
    found = []
    for part in Archive(root, tell=told.append).parts():
        part.verify()
        part.frame()
        part.mask()
        found.append(part.sidecar.seq)
    assert told == []
    return found


def test_parts_are_written_and_the_beats_tell(make_site):
    site = make_site(overlays=True)
    site.start()
    given = [site.give(inspected(camera=camera)) for camera in ("cam1", "cam.2", "-3.json") for _ in range(3)]
    beat = site.hear(lambda beat: beat.written == 9)
    assert (beat.refused, beat.deleted, beat.fault) == (0, 0, "")
    until(lambda: site.process.hear(1) is not None)
    assert sorted(seqs(site.root)) == given
    assert beat.size_bytes == sum((site.root / file).stat().st_size for file in site.files)
    assert len(site.files) == 9 * 4


def test_its_end_waits_for_what_was_handed_over(make_site):
    site = make_site()
    site.start()
    given = [site.give() for _ in range(30)]
    beat = site.close()
    assert site.process.status == 0
    assert beat.written == 30
    assert seqs(site.root) == given
    assert (site.sender.written, site.sender.refused) == (30, 0)


def test_a_station_that_is_killed_ends_it(make_site, tmp_path):
    """And what had come by then is written."""
    site = make_site()
    script = f"""
import os, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from inspectd.config import Archive
from inspectd.runtime.archive import ArchiveProcess
settings = Archive.model_validate({{"path": {str(site.root)!r}, "keep_free_gib": 0.0}})
process = ArchiveProcess(settings, {site.endpoint!r})
print(process.number, flush=True)
time.sleep(100)
"""
    station = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    number = int(station.stdout.readline())
    for _ in range(5):
        site.give()
    until(lambda: len(site.files) >= 2 * 3 if site.root.exists() else False)
    station.kill()
    station.communicate()
    until(lambda: not Path(f"/proc/{number}").exists() or "Z" in Path(f"/proc/{number}/stat").read_text().split()[2])
    site.sender.close(0)
    assert len(seqs(site.root)) >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_do_not_end_it_before_the_line(make_site, number):
    site = make_site()
    site.start()
    site.hear(lambda beat: True)
    os.kill(site.process.number, number)
    site.give()
    site.hear(lambda beat: beat.written == 1)
    assert site.close().written == 1
    assert site.process.status == 0


def test_it_can_be_spawned_with_two_pipes(tmp_path):
    """As by a supervisor that has its own way with processes."""
    life, mine = os.pipe()
    listening, tell = os.pipe()
    settings = ArchiveSettings(path=tmp_path / "archive")
    process = subprocess.Popen(archive_command(settings, f"ipc://{tmp_path}/s", life, tell), pass_fds=(life, tell))
    os.close(life)
    os.close(tell)
    with os.fdopen(listening) as lines:
        beats = [json.loads(next(lines)) for _ in range(2)]
        assert set(beats[0]) == {"kind", "written", "refused", "deleted", "bytes", "fault"}
        assert all(beat["kind"] == "beat" for beat in beats)
        os.close(mine)
        assert process.wait(10) == 0
        assert [Beat.from_line(line.encode()) for line in lines]


def test_a_station_that_does_not_listen_does_not_stop_it(make_site):
    site = make_site()
    site.start()
    site.hear(lambda beat: True)
    link = site.process._link
    link.setblocking(False)
    time.sleep(1.5)
    for _ in range(3):
        site.give()
    until(lambda: site.root.exists() and len(site.files) == 9)


# Killed


def test_killed_at_any_moment_it_leaves_no_half_part(make_site):
    """Twenty times, while it writes; parts that waited at the line come to the next process."""
    site = make_site(overlays=True)
    part = inspected(pixels=noise(400, 500))
    dice = random.Random(0)
    given: list[int] = []
    for _ in range(20):
        site.start()
        target = len(site.files) if site.root.exists() else 0
        for _ in range(6):
            seq = site.give(part)
            given += [seq] if seq else []
        until(lambda before=target: site.root.exists() and len(site.files) > before + dice.randrange(12))
        time.sleep(dice.random() * 0.05)
        os.kill(site.process.number, signal.SIGKILL)
        site.process.end()
        # What is visible is whole, also before anything was cleared.
        seqs(site.root)
    site.start()
    last = site.give(part)
    until(lambda: Archive(site.root).find(epoch=7, seq=last, camera="cam1"))
    site.hear(lambda beat: beat.size_bytes == sum((site.root / file).stat().st_size for file in site.files))
    written = seqs(site.root)
    site.close()
    assert site.sender.written <= len(written) <= site.sender.written + 20
    assert site.sender.written + site.sender.refused == site.sender.offered
    assert set(written) <= set(given) | {last}
    # Each time what had left the line is lost with the process: the one in work, one received, one on its way.
    assert len(given) - len(written) <= 20 * 5
    # Nothing is left of what was half written.
    assert len(site.files) == 4 * len(written)


def test_killed_after_every_single_step_of_writing(tmp_path):
    """A process that is ended in each of its calls in turn: before every opening, writing, syncing and naming."""
    steps = ("write", "utime", "fsync", "open", "replace")
    script = """
import os, pathlib, signal, sys, time
sys.path[:0] = [sys.argv[3]]
from inspectd.config import Archive
from inspectd.runtime.archive.handover import Handover
from inspectd.runtime.archive.writing import encode, store
sys.path.insert(0, sys.argv[4])
import archive_site as site
left = int(sys.argv[2])
def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
for name in ("write", "utime", "fsync", "open", "replace"):
    setattr(os, name, counted(getattr(os, name)))
pathlib.Path.replace = counted(pathlib.Path.replace)
part = site.inspected()
ready = encode(Handover(part.frame, site.message(part, 1), part.mask), Archive(overlays=True))
store(pathlib.Path(sys.argv[1]), ready, now_ns=time.time_ns(), stamp_ns=time.time_ns())
"""
    here = Path(__file__)
    ended = []
    for number in range(60):
        root = tmp_path / str(number)
        root.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", script, root, str(number), str(here.parents[2]), str(here.parent)],
            capture_output=True,
            text=True,
        )
        whole = seqs(root)
        ended.append((done.returncode, whole))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        keeper = Keeper(root, ArchiveSettings(keep_free_gib=0.0))
        while keeper.step():
            pass
        assert len([path for path in root.rglob("*") if path.is_file()]) == 4 * len(whole)
        assert seqs(root) == whole
    assert ended[-1] == (0, [1])
    assert len(ended) > 2 * len(steps)
    # From the naming of the sidecar on it is a part, and never before.
    assert [whole for _, whole in ended] == sorted(whole for _, whole in ended)


# The disk


def test_a_full_disk_is_told_and_parts_wait_until_there_is_room(make_site, tmp_path):
    with mounted(tmp_path / "disk", "size=4m"):
        ballast = tmp_path / "disk" / "ballast"
        site = make_site(root=tmp_path / "disk" / "archive")
        site.start()
        first = site.give()
        site.hear(lambda beat: beat.written == 1)
        with ballast.open("wb") as file:
            file.write(b"x" * (4 * MIB - 600_000))
        large = inspected(pixels=noise(500, 500))  # 750 kB, and there is nothing else to delete than a part of 10 kB
        waiting = site.give(large)
        beat = site.hear(lambda beat: beat.fault)
        assert "nothing left to delete" in beat.fault
        assert "make some" in beat.fault
        assert site.process.status is None
        assert not [file for file in site.files if "partial" in file]
        ballast.unlink()
        beat = site.hear(lambda beat: not beat.fault and beat.written == 2)
        assert first == 1
        assert seqs(site.root)[-1] == waiting
        site.close()


def test_a_disk_that_stays_full_costs_parts_and_nothing_else(make_site, tmp_path):
    """Those that come while it is full are refused: first at the process, then at the line."""
    with mounted(tmp_path / "disk", "size=1m"):
        (tmp_path / "disk" / "ballast").write_bytes(b"x" * (900 * 1024))
        site = make_site(root=tmp_path / "disk" / "archive")
        site.start()
        large = inspected(pixels=noise(300, 300))
        taken = 0
        for _ in range(60):
            taken += site.give(large) is not None
        assert site.sender.refused == 60 - taken > 0
        site.hear(lambda beat: beat.refused >= 1, timeout_s=30)
        (tmp_path / "disk" / "ballast").unlink()
        site.hear(lambda beat: not beat.fault and beat.written > 0)
        site.close()
        seqs(site.root)


@pytest.mark.parametrize("options", [("size=2m",), ("size=100m", "nr_inodes=50")])
def test_on_a_full_disk_the_oldest_give_way(make_site, tmp_path, options):
    """Full by its bytes, or by its number of files, which no free space tells of."""
    with mounted(tmp_path / "disk", *options):
        site = make_site(root=tmp_path / "disk" / "archive")
        site.start()
        part = inspected(pixels=noise(200, 200))  # 120 kB
        for _ in range(40):
            until(lambda: site.give(part))
            site.settle()
        beat = site.hear(lambda beat: beat.written == 40)
        assert (beat.fault, beat.refused) == ("", 0)
        assert beat.deleted >= 24
        found = seqs(site.root)
        assert found == list(range(found[0], 41))
        site.close()


def test_the_floor_is_kept_and_told_where_it_cannot_be(make_site, tmp_path):
    with mounted(tmp_path / "disk", "size=8m"):
        disk = tmp_path / "disk"
        site = make_site(root=disk / "archive", keep_free_gib=4 * MIB / GIB)
        site.start()
        part = inspected(pixels=noise(200, 200))
        for _ in range(45):
            until(lambda: site.give(part))
            site.settle()
        assert site.hear(lambda beat: beat.written == 45).deleted > 0
        assert shutil.disk_usage(disk).free >= 4 * MIB
        with (disk / "ballast").open("ab") as file:  # somebody else fills the disk
            while file.tell() < 4 * MIB + 500_000:
                file.write(b"x" * 10_000)
                file.flush()
                time.sleep(0.005)
        site.hear(lambda beat: beat.size_bytes == 0)
        site.give(part)
        beat = site.hear(lambda beat: beat.fault)
        assert "nothing left to delete" in beat.fault
        assert "archive.keep_free_gib" in beat.fault
        (disk / "ballast").unlink()
        beat = site.hear(lambda beat: not beat.fault and beat.written == 46)
        site.close()


def test_a_floor_above_the_disk_is_told_and_deletes_nothing(make_site, tmp_path):
    with mounted(tmp_path / "disk", "size=8m"):
        root = tmp_path / "disk" / "archive"
        site = make_site(root=root)
        site.start()
        site.give()
        site.hear(lambda beat: beat.written == 1)
        site.close()
        again = make_site(root=root, keep_free_gib=1.0)
        again.start()
        again.give()
        beat = again.hear(lambda beat: beat.fault)
        assert "lower archive.keep_free_gib" in beat.fault
        assert seqs(root) == [1]


def test_a_read_only_disk_is_told(make_site, tmp_path):
    with mounted(tmp_path / "disk", "size=8m"):
        site = make_site(root=tmp_path / "disk" / "archive")
        site.start()
        site.give()
        site.hear(lambda beat: beat.written == 1)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
        site.give()
        beat = site.hear(lambda beat: beat.fault)
        assert "Read-only file system" in beat.fault
        assert "mounted read-only" in beat.fault
        subprocess.run(["mount", "-o", "remount,rw", tmp_path / "disk"], check=True)
        site.hear(lambda beat: beat.written == 2 and not beat.fault)
        site.close()


def test_a_disk_that_is_unmounted_is_not_replaced_by_its_mount_point(make_site, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=8m"):
        site = make_site(root=disk / "archive")
        site.start()
        site.give()
        site.hear(lambda beat: beat.written == 1)
        subprocess.run(["umount", "--lazy", disk], check=True)
        site.give()
        beat = site.hear(lambda beat: beat.fault)
        assert "another file system than before" in beat.fault
        assert list(disk.iterdir()) == []
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)
        beat = site.hear(lambda beat: not beat.fault or "another file system" not in beat.fault)
        site.close()


def test_a_disk_that_hangs_is_told_and_nobody_waits_for_it(make_site, tmp_path):
    with hanging(tmp_path / "image", tmp_path / "disk") as hang:
        site = make_site(root=tmp_path / "disk" / "archive")
        site.start()
        site.give()
        site.settle()
        hang(True)
        begun = time.monotonic()
        taken = sum(site.give() is not None for _ in range(60))
        assert time.monotonic() - begun < 1
        assert taken == 32
        beat = site.hear(lambda beat: beat.fault)
        assert "its disk has not answered for" in beat.fault
        hang(False)
        site.settle()
        assert site.hear(lambda beat: beat.written == 33).fault == ""
        assert (site.sender.written, site.sender.refused) == (33, 28)
        hang(True)
        site.give()
        time.sleep(0.5)
        begun = time.monotonic()
        site.sender.close(0.5)
        site.process.end(1.0)
        assert time.monotonic() - begun < 5
        hang(False)
        # It could not be killed while it hung; what is left of it is waited for by nobody who has to go on.
        until(lambda: site.process.status == -signal.SIGKILL)
        assert len(seqs(site.root)) in (33, 34)


def test_a_process_that_is_stopped_costs_parts_and_nothing_else(make_site):
    site = make_site()
    site.start()
    site.give()
    site.settle()
    os.kill(site.process.number, signal.SIGSTOP)
    begun = time.monotonic()
    assert sum(site.give() is not None for _ in range(1000)) == 32
    assert time.monotonic() - begun < 5
    os.kill(site.process.number, signal.SIGCONT)
    site.settle()
    assert (site.sender.written, site.sender.refused) == (33, 968)
    site.close()


def test_a_new_line_can_hand_over_while_the_old_one_still_does(make_site):
    site = make_site()
    site.start()
    other = ArchiveSender(site.endpoint, site.settings)
    part = inspected(camera="cam2")
    for seq in range(1, 16):
        site.give()
        assert other.offer(part, message(part, seq, epoch=8))
    other.close(drain_s=60.0)
    site.settle()
    assert (site.sender.written, other.written) == (15, 15)
    site.close()


def test_a_folder_that_is_deleted_is_made_again(make_site):
    site = make_site()
    site.start()
    for _ in range(3):
        site.give()
    site.hear(lambda beat: beat.written == 3)
    shutil.rmtree(site.root)
    last = site.give()
    site.hear(lambda beat: beat.written == 4)
    assert seqs(site.root) == [last]
    assert site.hear(lambda beat: beat.size_bytes < 30_000).fault == ""
    site.close()


def test_a_folder_that_is_deleted_again_and_again_costs_nothing_but_parts(make_site):
    site = make_site()
    site.start()
    for _ in range(40):
        site.give()
        time.sleep(0.03)
        shutil.rmtree(site.root, ignore_errors=True)
    until(lambda: site.give() and site.root.exists() and seqs(site.root))
    assert site.process.status is None
    site.hear(lambda beat: not beat.fault)
    site.close()


def test_a_folder_that_cannot_be_made_is_told_and_tried_again(make_site, tmp_path):
    (tmp_path / "file").write_text("in the way")
    site = make_site(root=tmp_path / "file" / "archive")
    site.start()
    seq = site.give()
    beat = site.hear(lambda beat: beat.fault)
    assert "make the folder" in beat.fault
    (tmp_path / "file").unlink()
    site.hear(lambda beat: beat.written == 1 and not beat.fault)
    assert seqs(site.root) == [seq]
    site.close()


def test_two_stations_cannot_write_to_one_archive(make_site, tmp_path):
    site = make_site()
    site.start()
    site.give()
    site.hear(lambda beat: beat.written == 1)
    (tmp_path / "b").mkdir()
    other = ArchiveSite(tmp_path / "b", root=site.root)
    other.start()
    other.give(epoch=8)
    beat = other.hear(lambda beat: beat.fault)
    assert f"another station writes to it (process {site.process.number})" in beat.fault
    assert seqs(site.root) == [1]
    site.close()
    other.hear(lambda beat: beat.written == 1 and not beat.fault)
    other.close()
    assert len(seqs(site.root)) == 2


def test_the_quota_is_kept_while_it_writes(make_site):
    size = 100_000
    site = make_site(max_gib=10 * size / GIB)
    site.start()
    part = inspected(pixels=noise(180, 180))
    for _ in range(30):
        until(lambda: site.give(part))
        site.settle()
    beat = site.hear(lambda beat: beat.written == 30 and beat.size_bytes <= 10 * size)
    assert beat.deleted >= 20
    found = seqs(site.root)
    assert found == list(range(found[0], 31))
    site.close()


def test_a_clock_that_is_set_back_gives_older_folders_and_the_same_order(make_site):
    """The process's own loop, on a clock that is set by hand."""
    day_ns = 86_400 * 10**9
    clock = [20_783 * day_ns]
    site = make_site(max_gib=60_000 / GIB)  # five parts
    archivist = Archivist(site.settings, site.endpoint, utc=lambda: clock[0])
    thread = threading.Thread(target=archivist.run)
    thread.start()
    for number in range(10):
        if number == 4:
            clock[0] = 3 * day_ns
        clock[0] += 10**9
        site.give()
        site.settle()
    until(lambda: archivist.beat.deleted == 5)
    archivist.stop()
    thread.join()
    assert [str(part.path.relative_to(site.root)) for part in Archive(site.root).parts()] == [
        f"1970-01-04/cam1/7-{seq}.json" for seq in range(6, 11)
    ]


def test_pictures_of_16_million_pixels(make_site):
    site = make_site()
    site.start()
    pixels = np.repeat(np.repeat(noise(512, 512), 8, axis=0), 8, axis=1)
    part = inspected(Verdict.REVIEW, pixels=np.ascontiguousarray(pixels))
    begun = time.monotonic()
    assert [site.give(part) for _ in range(3)] == [1, 2, 3]
    assert time.monotonic() - begun < 2
    site.hear(lambda beat: beat.written == 3, timeout_s=60)
    found = Archive(site.root).find(epoch=7, seq=3)
    assert np.array_equal(found.frame().pixels, pixels)
    site.close()


def test_settings_without_a_folder_end_it_with_a_reason(tmp_path):
    process = ArchiveProcess(ArchiveSettings(), f"ipc://{tmp_path}/s")
    until(lambda: process.status is not None)
    assert process.status == 2
    assert process.end() is None
