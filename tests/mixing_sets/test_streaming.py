"""StreamingSet: fresh pictures while a model trains, bounded memory, and what happens when something ends."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from streaming_parts import COUNT, SIZE, SMALL, Numbered, is_gone, numbered, numbers, settled, shown, until

from mixaug import IPMix, MixingSet
from mixaug.mixing_sets import cache as _cache
from mixaug.mixing_sets import make_pictures
from mixaug.mixing_sets.recipes import resize
from mixaug.mixing_sets.streaming import MAX_SIDES, StreamingSet
from mixaug.mixing_sets.streaming import producer as _producer

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


@pytest.fixture(scope="module")
def stream() -> Iterator[StreamingSet]:
    """One for many tests: they wait for what it does next, whatever was before."""
    with numbered() as made:
        yield made


@pytest.fixture
def own() -> Iterator[StreamingSet]:
    """One to be broken."""
    with numbered() as made:
        yield made


@pytest.fixture
def fresh_warnings(monkeypatch):
    monkeypatch.setattr(_cache, "_warned", set())


# --- a stream at work -----------------------------------------------------------------------------------------------


def test_begins_with_the_finite_set(stream):
    with numbered() as new:
        assert torch.equal(new.pictures, numbers(0, COUNT)) and new.made == COUNT
        assert torch.equal(new.resized(SMALL), resize(numbers(0, COUNT), SMALL))
        assert new.indices(SMALL).tolist() == list(range(COUNT))


def test_fresh_pictures_replace_the_oldest(stream):
    assert settled(stream, beyond=5 * COUNT)
    made = stream.made
    assert sorted(shown(stream.pictures)) == list(range(made - COUNT, made))
    assert stream.indices().tolist() == shown(stream.pictures)
    assert [i % COUNT for i in stream.indices().tolist()] == list(range(COUNT))
    assert torch.equal(stream.pictures, torch.cat([numbers(i, 1) for i in stream.indices().tolist()]))


def test_resized_pictures_are_fresh_too(stream):
    assert until(lambda: stream.resized(SMALL) is not None and int(stream.indices(SMALL).min()) >= COUNT)
    assert settled(stream)
    wanted = torch.cat([resize(numbers(i, 1), SMALL) for i in stream.indices(SMALL).tolist()])
    assert torch.equal(stream.resized(SMALL), wanted)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded():
    """Ten thousand pictures later neither the files nor the producer's memory are larger."""
    with StreamingSet.from_recipe(Numbered(500), nice=0) as many:
        assert until(lambda: many.resized(SIZE) is not None and many.made >= 1000)
        files = {path.name: path.stat().st_size for path in many._folder.iterdir()}
        assert sum(files.values()) < 500 * 3 * SIZE * SIZE + 20_000
        resident = producer_memory(many)
        assert until(lambda: many.resized(SIZE) is not None and many.made >= 11_000)
        assert {path.name: path.stat().st_size for path in many._folder.iterdir()} == files
        assert producer_memory(many) < resident + (7 << 20)  # the pictures would take 7.7 MB


def producer_memory(stream: StreamingSet) -> int:
    for line in Path(f"/proc/{stream._supervisor.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc")


def test_idle_stream_makes_nothing(stream):
    assert settled(stream)
    made = stream.made
    time.sleep(4 * _producer._POLL)
    assert stream.made == made
    assert settled(stream, beyond=made)


def test_like_a_mixing_set(stream):
    assert len(stream) == COUNT and stream.size == SIZE
    assert stream.pictures is stream.resized(SIZE) is stream.resized(SIZE, "cpu")
    assert stream.pictures.shape == (COUNT, 3, SIZE, SIZE) and stream.pictures.dtype == torch.uint8
    assert stream.resized(SMALL).is_contiguous() and stream.resized(SIZE + 3).shape == (COUNT, 3, SIZE + 3, SIZE + 3)
    assert stream[-1].shape == (3, SIZE, SIZE) and stream[2:5].shape == (3, 3, SIZE, SIZE)
    assert stream.preview(4, 10).size == (20, 20)
    assert stream.pick(5, (6, 9)).shape == (5, 3, 6, 9)
    assert "12 numbers, and fresh ones" in repr(stream) and str(stream._folder) in repr(stream)
    kept = stream[0]
    stream[0].zero_()
    assert settled(stream) and kept.any()


def test_another_device(stream):
    far = stream.resized(SMALL, "meta")
    assert far.shape == (COUNT, 3, SMALL, SMALL) and far.device.type == "meta"
    made = stream.made
    assert until(lambda: stream.resized(SMALL, torch.device("meta")) is far and stream.made > made)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(stream):
    assert until(lambda: min(shown(stream.resized(SIZE, "cuda").cpu())) >= COUNT)
    assert settled(stream)
    assert until(lambda: torch.equal(stream.resized(SIZE, "cuda").cpu(), stream.pictures))


def test_draws_are_those_of_a_fixed_set(stream):
    """Streaming takes nothing from any generator, and IPMix draws the same with it."""
    fixed = MixingSet.from_tensor(numbers(0, COUNT))
    images = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    assert settled(stream)
    with numbered() as new:
        _ = new.pictures
    assert torch.equal(torch.get_rng_state(), state)
    outcomes = []
    for mixing_set in (stream, fixed):
        ipmix = IPMix(mixing_set=mixing_set, generator=torch.Generator().manual_seed(1))
        out = ipmix(images)
        assert out.shape == images.shape and out.isfinite().all()
        outcomes.append(ipmix.sample(images))
    assert torch.equal(outcomes[0].seed, outcomes[1].seed) and torch.equal(outcomes[0].m, outcomes[1].m)


def test_ipmix_mixes_fresh_pictures_in(stream):
    """The same record mixes other pictures in when they have been replaced."""
    ipmix = IPMix(levels=("pixel",), mixing_set=stream, generator=torch.Generator().manual_seed(1))
    images = torch.rand(16, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    assert settled(stream)
    params = ipmix.sample(images)
    first = ipmix.replay(images, params)
    assert settled(stream, beyond=stream.made + COUNT)
    assert not torch.equal(ipmix.replay(images, params), first)


# --- trouble --------------------------------------------------------------------------------------------------------


def test_killed_producer_is_started_again_once():
    """Killed, it goes on where it was; when it ends again, one warning, and the last pictures stay."""
    with StreamingSet.from_recipe(Numbered(fails_at=40 * COUNT), nice=0) as own:
        assert settled(own)
        first, made = own._supervisor.pid, own.made
        with pytest.warns(RuntimeWarning, match=r"signal 9\), and again .*ArithmeticError: no more numbers") as record:
            os.kill(first, signal.SIGKILL)
            assert until(lambda: own.resized(SIZE) is not None and own.made > made)
            assert own._supervisor.pid != first and is_gone(first)
            assert until(lambda: own.resized(SIZE) is not None and not own._supervisor.running)
        assert len(record) == 1
        made = own.made
        assert sorted(shown(own.resized(SIZE))) == list(range(made - COUNT, made))
        assert torch.equal(own.resized(SIZE), torch.cat([numbers(i, 1) for i in own.indices().tolist()]))
        assert own.resized(SMALL).shape == (COUNT, 3, SMALL, SMALL)  # also a side that is new


def test_folder_that_disappears(own, fresh_warnings):
    """What is open goes on, fresh pictures included; what is not shows the first ones."""
    assert settled(own)
    data = pickle.dumps(own)
    shutil.rmtree(own._folder)
    assert settled(own, beyond=own.made + 5 * COUNT)
    assert sorted(shown(own.pictures)) == list(range(own.made - COUNT, own.made))
    with pytest.warns(
        RuntimeWarning, match="fresh mixing pictures of 8 px cannot be had .* the first 12 are used"
    ) as r:
        assert torch.equal(own.resized(SMALL), resize(numbers(0, COUNT), SMALL))
        assert own.resized(SMALL, "meta").device.type == "meta"
        late = pickle.loads(data)
        assert torch.equal(late.pictures, numbers(0, COUNT)) and late.indices().tolist() == list(range(COUNT))
    assert len(r) == 1
    assert not own._folder.exists()
    with pytest.warns(RuntimeWarning, match="signal 9.* and again after a new start .*No such file"):
        os.kill(own._supervisor.pid, signal.SIGKILL)
        own._supervisor._watcher.join()
    assert own.pictures.shape == (COUNT, 3, SIZE, SIZE)


def test_closed_stream_keeps_its_pictures():
    own = numbered()
    _ = own.pictures
    folder, pid = own._folder, own._supervisor.pid
    own.close()
    own.close()
    assert is_gone(pid) and not folder.exists() and "closed" in repr(own)
    assert torch.equal(own.pictures, numbers(0, COUNT))
    assert torch.equal(own.resized(SMALL), resize(numbers(0, COUNT), SMALL))
    assert torch.equal(pickle.loads(pickle.dumps(own)).pictures, numbers(0, COUNT))


def test_no_place_for_the_files(tmp_path, fresh_warnings):
    (tmp_path / "file").write_text("where the folder should be")
    with pytest.warns(RuntimeWarning, match="cannot be streamed .*the first 12 are used instead") as record:
        made = numbered(folder=tmp_path / "file")
        assert torch.equal(made.pictures, numbers(0, COUNT)) and made.made == COUNT
        _ = numbered(folder=tmp_path / "file")
    assert len(record) == 1
    made.close()


def test_full_disk(stream, tmp_path, fresh_warnings, monkeypatch):
    _ = stream.pictures  # the first pictures are in the cache
    with numbered(folder=tmp_path) as made, monkeypatch.context() as patch:
        assert made._folder.parent == tmp_path

        def full(*arguments):
            raise OSError(28, "No space left on device")

        patch.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.warns(RuntimeWarning, match=r"16 px cannot be had .*No space left on device"):
            assert torch.equal(made.pictures, numbers(0, COUNT))
        assert not list(made._folder.glob("*.ring")) and not list(made._folder.glob(".*.tmp"))
    assert not list(tmp_path.iterdir())


def test_at_most_eight_sides(fresh_warnings):
    with numbered() as made:
        for side in range(SIZE, SIZE + MAX_SIDES):
            assert made.resized(side).shape[-1] == side
        with pytest.warns(RuntimeWarning, match="8 other sides are streamed already"):
            assert torch.equal(made.resized(SMALL), resize(numbers(0, COUNT), SMALL))
        assert len(list(made._folder.glob("*.ring"))) == MAX_SIDES


@pytest.mark.parametrize(
    "arguments,error,words",
    [
        ({"source": "photographs"}, ValueError, "source must be one of fractals, .* got 'photographs'"),
        ({"source": 3}, TypeError, "source must be one of fractals, ifs, contours, dead-leaves, spectrum, got int: 3"),
        ({"count": 0}, ValueError, "count must be from 1 to 10000000, got 0"),
        ({"count": 2.0}, TypeError, "count must be an int, got float: 2.0"),
        ({"size": 7}, ValueError, "size must be from 8 to 16384, got 7"),
        ({"seed": -1}, ValueError, "seed must be from 0 to 9223372036854775807, got -1"),
        ({"kinds": "squares"}, ValueError, "kinds must name some of julia, .* got 'squares'"),
        ({"kinds": 4}, TypeError, "kinds must be a str, a sequence of them or None, got int: 4"),
        ({"threads": 0}, ValueError, "threads must be from 1 to 1024, got 0"),
        ({"threads": True}, TypeError, "threads must be an int, got bool: True"),
        ({"nice": 20}, ValueError, "nice must be from 0 to 19, got 20"),
        ({"nice": -1}, ValueError, "nice must be from 0 to 19, got -1"),
        ({"folder": 3}, TypeError, "folder must be a path or None, got int: 3"),
    ],
)
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        StreamingSet(**arguments)


def test_bad_use(stream):
    with pytest.raises(TypeError, match="recipe must have a method pictures_from, got int"):
        StreamingSet.from_recipe(3)
    with pytest.raises(ValueError, match="side must be from 1 to 16384, got 0"):
        stream.resized(0)
    with pytest.raises(TypeError, match="side must be an int, got str: 'a'"):
        stream.indices("a")
    with pytest.raises(IndexError, match="index must be from -12 to 11, got 12"):
        stream[12]


@pytest.mark.skipif(not JIT, reason="64 px previews need compiled code")
def test_fractals_end_to_end():
    with StreamingSet("fractals", 4, SIZE, seed=3, kinds=["julia", "pole"], nice=0) as real:
        assert torch.equal(real.pictures, make_pictures("fractals", 4, SIZE, 3, kinds=["julia", "pole"]))
        assert until(lambda: real.resized(SMALL) is not None and int(real.indices(SMALL).min()) >= 8)
        assert until(lambda: real.made == real._control.used + 4)
        made = real.made
        wanted = make_pictures("fractals", made, SIZE, 3, kinds=["julia", "pole"])[real.indices()]
        assert torch.equal(real.pictures, wanted)
        assert torch.equal(real.resized(SMALL), resize(wanted, SMALL))
