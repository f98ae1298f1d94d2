"""MixingSet: one file, made once, whole or absent; memory when there is no place for it."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixaug import _pictures
from mixaug.mixing_sets import MixingSet
from mixaug.mixing_sets import cache as _cache
from mixaug.mixing_sets import pictures as _kept
from mixaug.mixing_sets import threads as _progress
from mixaug.mixing_sets.recipes import ResizedRecipe, SyntheticRecipe

COUNT, SIZE = 3, 16


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MIXAUG_CACHE", str(folder))
    monkeypatch.setattr(_cache, "_warned", set())
    return folder


@pytest.fixture
def makes(monkeypatch):
    """Fast stand-in for the fractals (their own tests are elsewhere) that counts how often a set is made."""
    calls: list[SyntheticRecipe] = []

    def chunks(self):
        calls.append(self)
        pictures = torch.randint(
            0, 256, self.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(self.seed)
        )
        yield from pictures.split(2)

    monkeypatch.setattr(SyntheticRecipe, "chunks", chunks)
    return calls


def expected(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (COUNT, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


def fractals(seed=0) -> MixingSet:
    return MixingSet.fractals(COUNT, SIZE, seed)


# --- the cache file -------------------------------------------------------------------------------------------------


def test_real_fractals_end_to_end(cache):
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        pytest.skip("64 px previews need compiled code")
    from mixaug.mixing_sets import make_pictures

    pictures = MixingSet.fractals(2, 16, seed=4)
    assert torch.equal(pictures[:], make_pictures("fractals", 2, 16, seed=4))


def test_made_at_first_use_and_once(cache, makes):
    first = fractals()
    assert not makes and not cache.exists() and "not made yet" in repr(first) and first.path is None
    assert len(first) == COUNT and first.size == SIZE and not makes
    assert torch.equal(first.pictures, expected())
    assert torch.equal(fractals().pictures, expected())
    assert len(makes) == 1
    assert first.path is not None and first.path.parent == cache and str(first.path) in repr(first)
    assert not list(cache.glob(".*.tmp"))


def test_other_settings_are_other_files(cache, makes):
    sets = [fractals(), fractals(1), MixingSet.fractals(COUNT + 1, SIZE), MixingSet.fractals(COUNT, SIZE + 1)]
    for pictures in sets:
        _ = pictures.pictures
    assert len({pictures.path for pictures in sets}) == 4 == len(makes)


def test_version_is_in_the_name_and_another_version_is_not_used(cache, makes, monkeypatch):
    _ = fractals().pictures
    monkeypatch.setattr(_cache, "VERSION", _cache.VERSION + 1)
    second = fractals()
    _ = second.pictures
    assert len(makes) == 2
    assert second.path is not None and second.path.name.endswith(f"-v{_cache.VERSION}.npy")


def test_file_is_a_plain_npy(cache, makes):
    pictures = fractals()
    _ = pictures.pictures
    assert np.array_equal(np.load(pictures.path, mmap_mode="r"), expected().numpy())


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


DAMAGES = {
    "empty": lambda data: b"",
    "half": _cut,
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"x",
    "second half zero": lambda data: _cut(data) + bytes(len(data) - len(data) // 2),
    "seal of another version": lambda data: data[:-20] + b"MIXAUGv0" + data[-12:],
    "one pixel changed": lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:],
    "another header": lambda data: data.replace(b"'shape': (3,", b"'shape': (9,"),
    "not ours": lambda data: os.urandom(len(data)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_file_is_made_again(cache, makes, monkeypatch, name):
    first = fractals()
    _ = first.pictures
    whole = first.path.read_bytes()
    damaged = DAMAGES[name](whole)
    assert damaged != whole
    first.path.write_bytes(damaged)
    monkeypatch.setattr(_cache, "_checked", set())
    assert torch.equal(fractals().pictures, expected())
    assert len(makes) == 2
    assert first.path.read_bytes() == whole


@pytest.mark.parametrize("blocks", [1, 7, 16, 17, 40])
def test_large_files_are_checked_at_places_spread_over_them(cache, makes, monkeypatch, blocks):
    """Opening costs the same for any length: every block of a small file is read, at most 16 of a large one."""
    monkeypatch.setattr(_cache, "_BLOCK", -(-COUNT * 3 * SIZE * SIZE // blocks))
    pictures = fractals()
    assert torch.equal(pictures.pictures, expected())
    looked_at = _cache._blocks_to_check(blocks)
    assert len(looked_at) == min(blocks, 16) and looked_at[0] == 0 and looked_at[-1] == blocks - 1
    assert len(set(looked_at)) == len(looked_at)
    whole = pictures.path.read_bytes()
    header = whole.index(b"\n") + 1
    seen = 0
    for block in range(blocks):
        place = header + block * _cache._BLOCK
        pictures.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        monkeypatch.setattr(_cache, "_checked", set())
        damaged = _cache.open_cached(pictures.path, (COUNT, 3, SIZE, SIZE)) is None
        assert damaged == (block in looked_at)
        seen += damaged
    assert seen == len(looked_at)


def test_checksums_do_not_depend_on_the_pieces():
    data = os.urandom(3 * _cache._BLOCK + 17)
    at_once, in_pieces = _cache._Checksums(), _cache._Checksums()
    at_once.add(memoryview(data))
    for start in range(0, len(data), 700_001):
        in_pieces.add(memoryview(data)[start : start + 700_001])
    at_once.end()
    in_pieces.end()
    assert at_once.done == in_pieces.done == [zlib.crc32(data[k : k + 2**20]) for k in range(0, len(data), 2**20)]


def test_cache_folder_that_disappears_while_it_is_used(cache, makes):
    pictures = fractals()
    assert torch.equal(pictures.pictures, expected())
    shutil.rmtree(cache)
    assert torch.equal(pictures[1], expected()[1])  # the map outlives the name of its file
    small = pictures.resized(8)
    assert small.shape == (COUNT, 3, 8, 8) and len(makes) == 1
    shutil.rmtree(cache)
    assert torch.equal(pictures.resized(8), small)
    assert torch.equal(fractals().pictures, expected()) and len(makes) == 2


def test_killed_maker_leaves_nothing_that_is_used(cache, makes):
    """A maker that dies leaves its temporary file; the next one removes it and makes the set."""
    path = _cache.cache_path(SyntheticRecipe("fractals", COUNT, SIZE, 0))
    cache.mkdir()
    stale = cache / f".{path.name}.abc.tmp"
    stale.write_bytes(b"half")
    assert torch.equal(fractals().pictures, expected())
    assert not stale.exists()


def test_error_while_making_leaves_no_file(cache, monkeypatch):
    def chunks(self):
        yield torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(SyntheticRecipe, "chunks", chunks)
    with pytest.raises(KeyboardInterrupt):
        _ = fractals().pictures
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == []


def test_writing_to_the_tensor_does_not_reach_the_file(cache, makes):
    pictures = fractals()
    before = pictures[0]
    pictures[0].zero_()  # a copy
    assert torch.equal(pictures[0], before)
    data = pictures.path.read_bytes()
    pictures.pictures.zero_()  # against the rules; harmless to others
    pictures.resized(SIZE).zero_()
    assert pictures.path.read_bytes() == data
    assert torch.equal(fractals()[0], before)


def test_default_folder_and_override(monkeypatch, tmp_path):
    monkeypatch.delenv("MIXAUG_CACHE")
    assert _cache.cache_folder().is_absolute() and "mixaug" in str(_cache.cache_folder())
    monkeypatch.setenv("MIXAUG_CACHE", "~/somewhere")
    assert _cache.cache_folder() == Path.home() / "somewhere"


EIGHT = """
import os, sys, time, torch
from pathlib import Path
import filelock, platformdirs
torch.set_num_threads(1)
from mixaug.mixing_sets import MixingSet
from mixaug.mixing_sets.recipes import SyntheticRecipe
folder = Path(sys.argv[1])

def chunks(self):
    (folder / f"made-by-{os.getpid()}").touch()
    for i in range(self.count):
        time.sleep(0.2)  # long enough for all to meet
        yield torch.full((1, 3, self.size, self.size), i, dtype=torch.uint8)

SyntheticRecipe.chunks = chunks

def child(me):
    (folder / f"ready-{me}").touch()
    while len(list(folder.glob("ready-*"))) < 8:
        time.sleep(0.01)
    small, full = MixingSet.fractals(5, 16).resized(8), MixingSet.fractals(5, 16).pictures
    return full[:, 0, 0, 0].tolist() == small[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]

children = []
for me in range(8):
    process = os.fork()
    if process == 0:
        good = False
        try:
            good = child(me)
        finally:
            os._exit(0 if good else 3)
    children.append(process)
assert [os.waitpid(process, 0)[1] for process in children] == [0] * 8
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the eight are forked, to save eight imports of torch")
def test_eight_processes_make_it_once(cache, tmp_path):
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", EIGHT, str(tmp_path)]
    subprocess.run(command, check=True, timeout=100)
    assert len(list(tmp_path.glob("made-by-*"))) == 1
    assert sorted(p.name for p in cache.glob("*.npy")) == [
        _cache.cache_path(ResizedRecipe(SyntheticRecipe("fractals", 5, 16, 0), 8)).name,
        _cache.cache_path(SyntheticRecipe("fractals", 5, 16, 0)).name,
    ]
    assert not list(cache.glob(".*.tmp"))


# --- no place for a file --------------------------------------------------------------------------------------------


def _check_memory_fallback(makes):
    pictures = fractals()
    with pytest.warns(RuntimeWarning, match="kept in memory instead") as record:
        assert torch.equal(pictures.pictures, expected())
        assert pictures.resized(8).shape == (COUNT, 3, 8, 8)
        assert torch.equal(fractals(1).pictures, expected(1))  # the same folder: not a second warning
    assert len(record) == 1
    assert pictures.path is None and "in memory" in repr(pictures)
    made = len(makes)
    again = pickle.loads(pickle.dumps(pictures))
    assert torch.equal(again.pictures, expected()) and len(makes) == made


def test_unwritable_folder(cache, makes):
    cache.write_text("a file where the folder should be")
    _check_memory_fallback(makes)


def test_full_disk_at_reservation(cache, makes, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    _check_memory_fallback(makes)
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == []


def test_full_disk_while_writing(cache, makes, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    _check_memory_fallback(makes)
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == []


def test_file_system_that_cannot_reserve(cache, makes, monkeypatch):
    def unsupported(*args):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    pictures = fractals()
    assert torch.equal(pictures.pictures, expected()) and pictures.path is not None
    monkeypatch.delattr(os, "posix_fallocate")
    assert torch.equal(fractals(1).pictures, expected(1))


def test_file_that_cannot_be_read_back(cache, makes, monkeypatch):
    monkeypatch.setattr(_cache, "open_cached", lambda path, shape: None)
    with pytest.warns(RuntimeWarning, match="cannot be read back"):
        assert torch.equal(fractals().pictures, expected())


def test_file_system_without_locks(cache, makes, monkeypatch):
    import filelock

    def refuse(self):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "__enter__", refuse)
    _check_memory_fallback(makes)


# --- pickles and processes ------------------------------------------------------------------------------------------


def test_pickle_is_small_and_finds_the_file(cache, makes, monkeypatch, tmp_path):
    pictures = MixingSet.fractals(64, 32)
    assert len(pickle.dumps(pictures)) < 1000
    _ = pictures.resized(24)
    data = pickle.dumps(pictures)
    assert len(data) < 1000
    monkeypatch.setenv("MIXAUG_CACHE", str(tmp_path / "elsewhere"))
    again = pickle.loads(data)
    assert torch.equal(again.resized(24), pictures.resized(24)) and again._pictures is None  # only the small file
    assert torch.equal(again.pictures, pictures.pictures) and again.path == pictures.path
    assert len(makes) == 1 and not (tmp_path / "elsewhere").exists()


def test_unpickled_set_is_made_again_when_the_file_is_gone(cache, makes):
    pictures = fractals()
    _ = pictures.pictures
    data = pickle.dumps(pictures)
    pictures.path.unlink()
    assert torch.equal(pickle.loads(data).pictures, expected()) and len(makes) == 2


class _Rows(torch.utils.data.Dataset):
    def __init__(self, pictures: MixingSet) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.pictures.resized(8)[i % COUNT]


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_loader_workers_share_the_file(cache, context):
    pictures = MixingSet.from_tensor(expected())
    cached = MixingSet.fractals(COUNT, SIZE)
    with pytest.MonkeyPatch.context() as patch:  # the stand-in is used in this process only
        patch.setattr(SyntheticRecipe, "chunks", lambda self: iter([expected()]))
        wanted = cached.resized(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons about fork in a process with threads
        for bank_ in (cached, pictures) if context == "fork" else (cached,):
            loader = torch.utils.data.DataLoader(_Rows(bank_), 8, num_workers=2, multiprocessing_context=context)
            rows = next(iter(loader))
            assert torch.equal(rows, wanted[torch.arange(8) % COUNT])


def test_fractals_are_made_in_a_forked_child_after_use_in_the_parent(cache):
    """The compiled kernels start no thread pool that a fork would break."""
    if not hasattr(os, "fork") or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        pytest.skip("needs fork and compiled code")
    code = """
import os, torch
from mixaug.mixing_sets import make_pictures
parent = make_pictures("fractals", 2, 16, threads=2)
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # as in a loader worker
    same = [torch.equal(make_pictures("fractals", 2, 16, threads=threads), parent) for threads in (None, 1, 2)]
    os._exit(0 if all(same) else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], check=True, timeout=100)


# --- folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    Image.fromarray(noise[:, :, :3]).save(root / "b.png")
    Image.fromarray(noise[:, :, 0]).save(root / "a.PNG")
    Image.fromarray(noise).save(root / "c.png")
    Image.fromarray(noise[:, :, :3]).convert("P").save(root / "d.gif")
    Image.fromarray(noise[:, :, 0].astype(np.uint16) * 256).save(root / "e.tiff")
    Image.fromarray(noise[:, :, :3]).save(root / "sub" / "f.jpg")
    (root / "notes.txt").write_text("not a picture")
    (root / ".hidden.png").write_text("not looked at")
    return root


def test_folder(cache, folder):
    pictures = MixingSet.from_folder(folder, size=16)
    assert len(pictures) == 6 and pictures.size == 16 and pictures[0].shape == (3, 16, 16)
    assert torch.equal(pictures[0][0], pictures[0][1])  # a.PNG is grey
    assert torch.equal(pictures[0][0], pictures[4][0])  # e.tiff is the same in 16 bits
    assert len(pickle.dumps(pictures)) < 1000
    again = MixingSet.from_folder(str(folder), size=16)
    assert again.path == pictures.path and torch.equal(again.pictures, pictures.pictures)
    assert f"6 pictures of {folder} at 16 px" in repr(pictures)


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def test_folder_of_unusual_pictures(cache, tmp_path):
    """Animated files give their first frame; CMYK, 16 and 32 bits, palettes and alpha are converted, floats refused."""
    grey, colour = _noise(16, 16), _noise(16, 16, 3)
    frames = [Image.fromarray(colour), Image.new("RGB", (16, 16), (1, 2, 3))]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].convert("CMYK").save(tmp_path / "b.tiff")
    Image.fromarray(grey.astype(np.uint16) * 256 + 7).save(tmp_path / "c.png")
    Image.fromarray(grey.astype(np.int32) * 256 + 7).save(tmp_path / "d.tiff")
    Image.fromarray(grey > 127).save(tmp_path / "f.png")
    Image.fromarray(np.dstack([colour, np.full((16, 16), 255, np.uint8)])).save(tmp_path / "g.png")
    Image.fromarray(np.dstack([grey, grey])).save(tmp_path / "h.png")  # grey with alpha
    Image.new("P", (16, 16)).save(tmp_path / "e.png")
    dark = np.full((16, 16), 200, np.uint16)
    Image.fromarray(dark).save(tmp_path / "i.png")  # 16 bits, all of them nearly black
    pictures = MixingSet.from_folder(tmp_path, size=16)
    assert len(pictures) == 9
    colours = torch.from_numpy(colour).permute(2, 0, 1)
    greys = torch.from_numpy(grey).expand(3, 16, 16)
    for index in (0, 1, 6):
        assert torch.equal(pictures[index], colours), index
    for index in (2, 3, 7):
        assert torch.equal(pictures[index], greys), index
    assert torch.equal(pictures[5], torch.where(greys > 127, 255, 0).to(torch.uint8))
    assert (pictures[8] == 0).all()
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "j.tiff")
    with pytest.raises(ValueError, match=r"j\.tiff cannot be read as a picture: its pixels are floats"):
        MixingSet.from_folder(tmp_path, size=16)


def test_folder_crops_the_centre(cache, tmp_path):
    picture = np.zeros((16, 48, 3), np.uint8)
    picture[:, 16:32] = 200
    Image.fromarray(picture).save(tmp_path / "wide.png")
    assert (MixingSet.from_folder(tmp_path, size=16)[0] == 200).all()


def test_changed_folder_is_read_again(cache, folder):
    pictures = MixingSet.from_folder(folder, size=16)
    data = pickle.dumps(pictures)
    time.sleep(0.02)
    Image.new("RGB", (20, 20), (9, 9, 9)).save(folder / "b.png")
    assert (MixingSet.from_folder(folder, size=16)[1] == 9).all()
    pictures.path.unlink()
    with pytest.raises(ValueError, match="must not change while it is used"):
        _ = pickle.loads(data).pictures


def test_broken_picture_is_named(cache, folder):
    (folder / "sub" / "broken.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as a picture"):
        MixingSet.from_folder(folder)
    assert not list(cache.glob("*.npy"))


def test_truncated_picture_is_named(cache, folder):
    data = (folder / "sub" / "f.jpg").read_bytes()
    (folder / "sub" / "f.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"f\.jpg cannot be read"):
        MixingSet.from_folder(folder)


@pytest.mark.parametrize(
    "path,error,words",
    [
        ("missing", ValueError, "missing does not exist"),
        ("file.png", ValueError, "file.png is not a folder"),
        ("empty", ValueError, "at least one picture"),
        (None, TypeError, "path must be a str or a path, got NoneType"),
        (3, TypeError, "path must be a str or a path, got int: 3"),
    ],
)
def test_bad_folder(cache, tmp_path, path, error, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    (tmp_path / "file.png").write_text("")
    with pytest.raises(error, match=words):
        MixingSet.from_folder(tmp_path / path if isinstance(path, str) else path)


def test_unreadable_folder(cache, folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(_pictures.os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"readable folder of pictures, but .*Permission denied"):
        MixingSet.from_folder(folder)


# --- tensors, resizing, showing -------------------------------------------------------------------------------------


def test_from_tensor(cache):
    given = expected()
    pictures = MixingSet.from_tensor(given)
    kept = given.clone()
    given.zero_()
    assert torch.equal(pictures.pictures, kept) and not cache.exists()
    assert torch.equal(pickle.loads(pickle.dumps(pictures)).pictures, kept)
    grey = MixingSet.from_tensor(kept[:, :1])
    assert torch.equal(grey[0][2], kept[0, 0]) and grey.pictures.is_contiguous()
    assert pictures.resized(8).shape == (COUNT, 3, 8, 8) and not cache.exists()


@pytest.mark.parametrize(
    "value,error",
    [
        ([[1]], TypeError),
        (torch.zeros(2, 3, 16, 16), TypeError),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), ValueError),
        (torch.zeros(2, 4, 16, 16, dtype=torch.uint8), ValueError),
        (torch.zeros(2, 3, 16, 17, dtype=torch.uint8), ValueError),
        (torch.zeros(0, 3, 16, 16, dtype=torch.uint8), ValueError),
        (torch.zeros(2, 3, 7, 7, dtype=torch.uint8), ValueError),
    ],
)
def test_bad_tensor(value, error):
    with pytest.raises(error, match="pictures must"):
        MixingSet.from_tensor(value)


def test_indexing(cache, makes):
    pictures = fractals()
    everything = expected()
    assert torch.equal(pictures[-1], everything[-1]) and torch.equal(pictures[1:], everything[1:])
    assert torch.equal(pictures[np.int64(1)], everything[1])
    assert len(list(pictures)) == COUNT
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match=f"index must be from -3 to 2, got {index}"):
            pictures[index]
    for index in ("0", 1.0, True):
        with pytest.raises(TypeError, match="index must be an int or a slice"):
            pictures[index]


@pytest.mark.parametrize("side", [1, 8, 16, 21])
def test_resized(cache, makes, side):
    pictures = fractals()
    small = pictures.resized(side)
    assert small.shape == (COUNT, 3, side, side) and small.dtype == torch.uint8 and small.is_contiguous()
    assert small is pictures.resized(side)
    image = Image.fromarray(expected()[1].permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BILINEAR)
    gap = np.abs(np.asarray(image).astype(int) - small[1].permute(1, 2, 0).numpy())
    assert gap.max() <= 1  # PIL rounds after each axis
    assert (side == SIZE) == (len(list(cache.glob(f"*-r{side}-*.npy"))) == 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_resized_on_gpu(cache, makes):
    pictures = fractals()
    assert torch.equal(pictures.resized(8, "cuda").cpu(), pictures.resized(8))


def test_resized_on_another_device(cache, makes):
    pictures = fractals()
    assert pictures.resized(8, torch.device("meta")).device.type == "meta"
    assert pictures.resized(8, "meta") is pictures.resized(8, "meta")


@pytest.mark.parametrize("side,error", [(0, ValueError), (-1, ValueError), (8.0, TypeError), ("8", TypeError)])
def test_bad_side(cache, makes, side, error):
    with pytest.raises(error, match="side must be"):
        fractals().resized(side)


def test_preview(cache, makes):
    sheet = fractals().preview(side=SIZE)
    assert sheet.mode == "RGB" and sheet.size == (2 * SIZE, 2 * SIZE)
    shown = torch.from_numpy(np.array(sheet)).permute(2, 0, 1)
    assert torch.equal(shown[:, :SIZE, SIZE:], expected()[1]) and torch.equal(shown[:, SIZE:, :SIZE], expected()[2])
    assert (shown[:, SIZE:, SIZE:] == 255).all()
    assert fractals().preview(count=1, side=10).size == (10, 10)
    with pytest.raises(ValueError, match="count must be from 1 to 10000000"):
        fractals().preview(0)


def test_default_is_one_object():
    assert MixingSet.default() is MixingSet.default()
    assert len(MixingSet.default()) == 512 and MixingSet.default().size == 256


@pytest.mark.parametrize(
    "arguments,error,words",
    [
        ({"count": 0}, ValueError, "count must be from 1 to 10000000, got 0"),
        ({"count": -1}, ValueError, "count must be from 1 to 10000000, got -1"),
        ({"count": 1.5}, TypeError, "count must be an int, got float: 1.5"),
        ({"size": 7}, ValueError, "size must be from 8 to 16384, got 7"),
        ({"size": None}, TypeError, "size must be an int"),
        ({"seed": -1}, ValueError, "seed must be from 0 to 9223372036854775807, got -1"),
        ({"seed": "a"}, TypeError, "seed must be an int, got str: 'a'"),
        ({"progress": 1}, TypeError, "progress must be True or False, got int: 1"),
    ],
)
def test_bad_fractal_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        MixingSet.fractals(**arguments)


def test_constructor_needs_something():
    with pytest.raises(ValueError, match=r"use MixingSet\.fractals"):
        MixingSet()


# --- progress -------------------------------------------------------------------------------------------------------


def _run(progress, monkeypatch, tty=False):
    stream = io.StringIO()
    stream.isatty = lambda: tty
    monkeypatch.setattr(sys, "stderr", stream)
    pieces = [torch.zeros(2), torch.zeros(1)]
    assert len(list(_progress.with_progress(iter(pieces), 3, "things", progress))) == 2
    return stream.getvalue()


def test_progress_is_shown_on_request_and_on_a_terminal(monkeypatch):
    assert "things" in _run(True, monkeypatch) and "3/3" in _run(True, monkeypatch)
    assert "things" in _run(None, monkeypatch, tty=True)
    assert _run(None, monkeypatch) == "" == _run(False, monkeypatch, tty=True)


def test_progress_without_rich(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert _run(True, monkeypatch) == "\rthings 2/3\rthings 3/3\n"


def test_no_progress_in_children(monkeypatch):
    monkeypatch.setattr(_progress.multiprocessing, "parent_process", lambda: object())
    assert _run(True, monkeypatch, tty=True) == ""
    monkeypatch.setattr(_progress.multiprocessing, "parent_process", lambda: None)
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: object())
    assert _run(True, monkeypatch, tty=True) == ""


def test_progress_reaches_the_maker(cache, makes, monkeypatch):
    seen = []

    def watch(pieces, total, title, progress):
        seen.append((total, title, progress))
        return pieces

    monkeypatch.setattr(_kept, "with_progress", watch)
    _ = MixingSet.fractals(COUNT, SIZE, progress=True).pictures
    assert seen == [(COUNT, "3 fractals of 16 px, seed 0", True)]
