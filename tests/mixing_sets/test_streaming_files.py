"""What the processes of a stream share: its files, the producer's loop, the copies on other devices."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from streaming_parts import COUNT, SIZE, SMALL, Numbered, numbers, shown

from mixaug.mixing_sets.recipes import resize
from mixaug.mixing_sets.streaming import producer as _producer
from mixaug.mixing_sets.streaming import ring as _device_copy
from mixaug.mixing_sets.streaming import ring as _ring_folder
from mixaug.mixing_sets.streaming.ring import CONTROL, Control, DeviceCopy, Ring, RingWriter, create_ring, ring_path

# --- the files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ring(tmp_path) -> Iterator[tuple[Ring, RingWriter]]:
    path = ring_path(tmp_path, SIZE)
    create_ring(path, numbers(0, COUNT).split(5), COUNT, SIZE)
    writer = RingWriter(path, COUNT, SIZE)
    yield Ring(path, COUNT, SIZE), writer
    writer.close()


def test_ring_holds_the_last_pictures(ring):
    reader, writer = ring
    assert torch.equal(reader.pictures, numbers(0, COUNT)) and reader.stamps.tolist() == list(range(COUNT))
    for i in range(COUNT, 3 * COUNT + 5):
        writer.put(i, numbers(i, 1)[0])
    last = [*range(3 * COUNT, 3 * COUNT + 5), *range(2 * COUNT + 5, 3 * COUNT)]
    assert reader.stamps.tolist() == last
    assert torch.equal(reader.pictures, torch.cat([numbers(i, 1) for i in last]))


def test_slot_is_marked_while_it_is_replaced(ring, monkeypatch):
    reader, writer = ring
    seen = []

    def write(place: int, data: bytes) -> None:
        RingWriter._write(writer, place, data)
        seen.append((int(reader.stamps[5]), shown(reader.pictures)[5]))

    monkeypatch.setattr(writer, "_write", write)
    writer.put(COUNT + 5, numbers(COUNT + 5, 1)[0])
    assert seen == [(-1, 5), (-1, COUNT + 5), (COUNT + 5, COUNT + 5)]


class _Replaced(np.ndarray):
    """Stamps whose slot 3 changes after each look."""

    def __getitem__(self, slots):
        seen = np.array(super().__getitem__(slots))
        self[3] = int(np.asarray(self)[3]) + COUNT
        return seen


def test_picture_that_is_being_replaced_is_told(ring):
    reader, writer = ring
    slots = np.arange(COUNT)
    assert reader.read(slots)[1].tolist() == list(range(COUNT))
    writer._write(8 * 5, np.int64(-1).tobytes())  # what a producer does first; it may be killed then
    assert reader.read(slots)[1].tolist() == [0, 1, 2, 3, 4, -1, *range(6, COUNT)]
    reader.stamps = reader.stamps.copy().view(_Replaced)
    pictures, stamps = reader.read(slots)
    assert stamps.tolist() == [0, 1, 2, -1, 4, -1, *range(6, COUNT)]
    assert torch.equal(pictures[4], numbers(4, 1)[0])


def test_picture_that_is_replaced_while_it_is_copied_waits_for_the_next_call(ring):
    reader, writer = ring
    held = DeviceCopy(reader, torch.device("cpu"))
    for i in (COUNT + 3, COUNT + 4):
        writer.put(i, numbers(i, 1)[0])
    stamps, reader.stamps = reader.stamps, reader.stamps.copy().view(_Replaced)
    held.refresh()
    assert shown(held.pictures) == [0, 1, 2, 3, COUNT + 4, *range(5, COUNT)]
    reader.stamps = stamps
    held.refresh()
    assert shown(held.pictures) == [0, 1, 2, COUNT + 3, COUNT + 4, *range(5, COUNT)]


def test_writing_to_the_tensor_reaches_nobody(ring, tmp_path):
    reader, writer = ring
    reader.pictures[3].zero_()  # against the rules
    other = Ring(ring_path(tmp_path, SIZE), COUNT, SIZE)
    assert torch.equal(other.pictures, numbers(0, COUNT))
    writer.put(COUNT, numbers(COUNT, 1)[0])
    assert torch.equal(other.pictures[0], numbers(COUNT, 1)[0])


def test_another_device_gets_a_bounded_part_at_a_call(ring, monkeypatch):
    reader, writer = ring
    monkeypatch.setattr(_device_copy, "_BYTES", 3 * 3 * SIZE * SIZE)
    held = DeviceCopy(reader, torch.device("cpu"))  # a copy there too
    start = held.pictures
    for i in range(COUNT, COUNT + 5):
        writer.put(i, numbers(i, 1)[0])
    assert torch.equal(start, numbers(0, COUNT))
    writer.put(2 * COUNT, numbers(2 * COUNT, 1)[0])  # slot 0 again: now the newest
    writer._write(8 * 2, np.int64(-1).tobytes())
    held.refresh()  # of the slots 0, 1, 3, 4 the three oldest; not 2, which is being replaced
    assert shown(held.pictures) == [0, COUNT + 1, 2, COUNT + 3, COUNT + 4, *range(5, COUNT)]
    writer._write(8 * 2, np.int64(COUNT + 2).tobytes())
    held.refresh()
    assert shown(held.pictures) == [2 * COUNT, *range(COUNT + 1, COUNT + 5), *range(5, COUNT)]
    monkeypatch.setattr(reader, "read", None)
    held.refresh()  # nothing changed: nothing is read
    assert held.pictures is start
    monkeypatch.undo()
    monkeypatch.setattr(_device_copy, "_BYTES", 1)  # less than a picture: still one
    held = DeviceCopy(reader, torch.device("cpu"))
    for i in range(3 * COUNT, 4 * COUNT):
        writer.put(i, numbers(i, 1)[0])
    held.refresh()
    assert sum(i >= 3 * COUNT for i in shown(held.pictures)) == 1


# --- the producer's loop, in this process ---------------------------------------------------------------------------


class Steps:
    """Stands for ``alive()``: lets the loop go round a given number of times, and may act in between."""

    def __init__(self, count: int, act: Callable[[], object] = lambda: None) -> None:
        self.left, self.act = count, act

    def __call__(self) -> bool:
        self.left -= 1
        self.act()
        return self.left >= 0


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    Control.create(tmp_path / CONTROL, COUNT)
    monkeypatch.setattr(_producer, "_POLL", 0.0)
    return tmp_path


def test_producer_makes_no_more_than_count_beyond_the_last_use(folder):
    control = Control(folder / CONTROL)
    _producer.produce(folder, Numbered(), Steps(20), 1)
    assert control.made == COUNT  # no ring yet
    create_ring(ring_path(folder, SIZE), [numbers(0, COUNT)], COUNT, SIZE)
    _producer.produce(folder, Numbered(), Steps(20), 1)
    assert control.made == COUNT  # not used yet
    control.note_use()
    _producer.produce(folder, Numbered(), Steps(20), 1)
    assert COUNT < control.made <= 2 * COUNT
    paused = control.made
    _producer.produce(folder, Numbered(), Steps(20), 1)
    assert control.made == paused
    control.note_use()
    _producer.produce(folder, Numbered(), Steps(20), 1)
    assert paused < control.made <= paused + COUNT
    ring = Ring(ring_path(folder, SIZE), COUNT, SIZE)
    assert shown(ring.pictures) == ring.stamps.tolist()
    assert sorted(ring.stamps) == list(range(control.made - COUNT, control.made))


def test_producer_goes_on_where_it_stopped_and_without_the_folder(folder):
    create_ring(ring_path(folder, SIZE), [numbers(0, COUNT)], COUNT, SIZE)
    control, ring = Control(folder / CONTROL), Ring(ring_path(folder, SIZE), COUNT, SIZE)
    for _ in range(3):  # a new process each time
        _producer.produce(folder, Numbered(), Steps(4, control.note_use), 1)
    assert control.made == COUNT + 3 * 4 * _producer._CHUNK
    assert sorted(shown(ring.pictures)) == list(range(control.made - COUNT, control.made))
    steps = Steps(6)

    def remove() -> None:
        control.note_use()
        if steps.left == 3:
            shutil.rmtree(folder)

    steps.act = remove
    before = control.made
    _producer.produce(folder, Numbered(), steps, 1)
    assert not folder.exists() and control.made == before + 6 * _producer._CHUNK
    assert sorted(shown(ring.pictures)) == list(range(control.made - COUNT, control.made))


def test_producer_fills_a_side_that_comes_later(folder):
    create_ring(ring_path(folder, SIZE), [numbers(0, COUNT)], COUNT, SIZE)
    control = Control(folder / CONTROL)
    steps = Steps(5)

    def act() -> None:
        control.note_use()
        if steps.left == 0:
            create_ring(ring_path(folder, SMALL), [resize(numbers(0, COUNT), SMALL)], COUNT, SMALL)

    steps.act = act
    _producer.produce(folder, Numbered(), steps, 1)
    ring = Ring(ring_path(folder, SMALL), COUNT, SMALL)
    stamps = ring.stamps.tolist()
    fresh = range(control.made - _producer._CHUNK, control.made)
    assert sorted(i for i in stamps if i >= COUNT) == list(fresh)
    assert all(index == slot or index % COUNT == slot for slot, index in enumerate(stamps))
    assert torch.equal(ring.pictures, torch.cat([resize(numbers(i, 1), SMALL) for i in stamps]))


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_small_counts(folder, count):
    create_ring(ring_path(folder, SIZE), [numbers(0, count)], count, SIZE)
    Control.create(folder / CONTROL, count)
    control, ring = Control(folder / CONTROL), Ring(ring_path(folder, SIZE), count, SIZE)
    control.note_use()
    _producer.produce(folder, Numbered(count), Steps(9), 1)
    assert count < control.made <= 2 * count
    _producer.produce(folder, Numbered(count), Steps(9, control.note_use), 1)
    assert sorted(shown(ring.pictures)) == list(range(control.made - count, control.made))


# --- the folder -----------------------------------------------------------------------------------------------------


def test_folders_of_killed_processes_are_removed(tmp_path):
    """Those whose owner is gone; not a young one, not one that is in use, nothing of others."""
    folders = {name: _ring_folder.RingFolder(tmp_path, 1) for name in ("left", "used", "young")}
    os.close(folders["left"]._lock)
    os.close(folders["young"]._lock)
    other = tmp_path / "mixaug-stream-of-somebody"
    other.mkdir()
    for path in (folders["left"].path, folders["used"].path, other):
        os.utime(path, (1, 1))
    new = _ring_folder.RingFolder(tmp_path, 1)
    assert set(tmp_path.iterdir()) == {folders["used"].path, folders["young"].path, other, new.path}
    folders["used"].close()
    new.close()
    assert not new.path.exists() and not folders["used"].path.exists()


def test_shared_memory_is_taken_where_half_stays_free(monkeypatch, tmp_path):
    monkeypatch.setattr(_ring_folder, "_SHARED_MEMORY", tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    places = [_ring_folder.RingFolder(None, length) for length in (500, 501)]
    assert [place.path.parent == tmp_path for place in places] == [True, False]
    for place in places:
        place.close()
    monkeypatch.setattr(_ring_folder, "_SHARED_MEMORY", tmp_path / "missing")
    monkeypatch.undo()
