"""Sets whose pictures are made when they are first asked for: the same pictures, shared, whole in the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mixaug import IPMix, MixingSet
from mixaug.mixing_sets import make_pictures, sample_picks
from mixaug.mixing_sets.cache import Growing, cache_path, load_or_make, open_cached
from mixaug.mixing_sets.recipes import FolderRecipe, ResizedRecipe, SyntheticRecipe, resize

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files that grow need POSIX")
RECIPE = SyntheticRecipe("fractals", 40, 24, 3)


@pytest.fixture(scope="module")
def whole():
    return make_pictures("fractals", 40, 24, 3)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAUG_CACHE", str(tmp_path))
    return tmp_path


def one_by_one(recipe):
    return lambda rows: (recipe.rows([row]) for row in rows)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_only_what_is_asked_for_is_made(cache, whole):
    pictures = MixingSet.fractals(40, 24, 3)
    index = torch.tensor([[7, 3], [3, 39]])
    served = pictures.serving(24, index)
    assert torch.equal(served[index.unique()], whole[index.unique()])
    assert served.flatten(1).any(1).sum() == 3 and "made when they are asked for" in repr(pictures)
    stem = "fractals2-s24-seed3-n40-v2.npy"
    assert names(cache) == [f".{stem}.made", f".{stem}.part"]
    pictures.serving(24, torch.arange(40))
    assert names(cache) == [stem]
    assert torch.equal(open_cached(cache / stem, RECIPE.shape), whole)
    assert torch.equal(pictures.pictures, whole) and pictures.path == cache / stem


@pytest.mark.parametrize("side", [24, 17, 50])
def test_a_draw_does_not_depend_on_how_far_the_making_is(cache, side):
    params = sample_picks(6, (8, 8), 40, (1.0, 1.0), 0.5, torch.Generator().manual_seed(0), torch.device("cpu"))
    fresh, made = MixingSet.fractals(40, 24, 3), MixingSet.fractals(40, 24, 3)
    expected = made.resized(side)[params.index]
    served = fresh.serving(side, params.index)[params.index]
    assert torch.equal(served, expected)
    x = torch.randint(0, 256, (6, 3, 20, 21), dtype=torch.uint8)
    record = IPMix(mixing_set=made).sample(x, generator=torch.Generator().manual_seed(1))
    one = IPMix(mixing_set=MixingSet.fractals(40, 24, 4)).replay(x, record)
    whole = MixingSet.fractals(40, 24, 4)
    assert whole.pictures.shape == RECIPE.shape
    assert torch.equal(IPMix(mixing_set=whole).replay(x, record), one)


def test_resized_pictures_grow_in_a_file_of_their_own(cache, whole):
    pictures = MixingSet.fractals(40, 24, 3)
    served = pictures.serving(11, torch.tensor([5]))
    assert torch.equal(served[5], resize(whole[5:6], 11)[0])
    assert [name for name in names(cache) if name.endswith(".part")] == [".fractals2-s24-seed3-n40-r11-v2.npy.part"]
    pictures.serving(11, torch.arange(40))
    assert torch.equal(pictures.resized(11), resize(whole, 11))


def test_what_is_made_or_ready_is_used(cache, whole, monkeypatch):
    load_or_make(RECIPE)
    monkeypatch.setattr(SyntheticRecipe, "rows", None)
    assert torch.equal(MixingSet.fractals(40, 24, 3).serving(24, torch.tensor([1])), whole)
    assert MixingSet.default().serving(36, torch.tensor([1])).shape == (512, 3, 36, 36)
    assert torch.equal(MixingSet.from_tensor(whole).serving(24, torch.tensor([1])), whole)


def test_making_all_at_once_ends_the_growing(cache, whole):
    growing = Growing(RECIPE)
    growing.serve(np.array([2]), one_by_one(RECIPE))
    load_or_make(RECIPE)
    assert names(cache) == ["fractals2-s24-seed3-n40-v2.npy"]
    # Whoever still has the old file fills it for itself.
    assert torch.equal(growing.serve(np.arange(40), one_by_one(RECIPE)), whole) and growing.whole
    assert names(cache) == ["fractals2-s24-seed3-n40-v2.npy"]
    assert torch.equal(load_or_make(RECIPE)[0], whole)


def test_a_damaged_picture_is_made_again(cache, whole):
    growing = Growing(RECIPE)
    growing.serve(np.array([2, 9]), one_by_one(RECIPE))
    path = cache / ".fractals2-s24-seed3-n40-v2.npy.part"
    with open(path, "r+b") as file:  # as a machine that lost its power leaves it
        file.seek(128 + 9 * 3 * 24 * 24 + 5)
        file.write(b"\x00\x01\x02")
    again = Growing(RECIPE)
    asked = []
    again.serve(np.array([2, 9]), lambda rows: (asked.extend(rows), one_by_one(RECIPE)(rows))[1])
    assert asked == [9] and torch.equal(again.serve(np.array([9]), one_by_one(RECIPE))[9], whole[9])


@pytest.mark.parametrize("length", [0, 100])
def test_a_file_cut_short_is_begun_again(cache, whole, length):
    Growing(RECIPE).serve(np.array([2]), one_by_one(RECIPE))
    os.truncate(cache / ".fractals2-s24-seed3-n40-v2.npy.part", length)
    assert torch.equal(Growing(RECIPE).serve(np.array([2]), one_by_one(RECIPE))[2], whole[2])


def test_positions_that_there_are_not_are_passed_over(cache, whole):
    served = Growing(RECIPE).serve(np.array([-1, 40, 10**9, 0]), one_by_one(RECIPE))
    assert torch.equal(served[0], whole[0]) and not served[1:].any()
    assert not Growing(RECIPE).serve(np.array([], np.int64), one_by_one(RECIPE))[1:].any()


def test_without_a_folder_they_grow_in_memory(tmp_path, monkeypatch, whole):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIXAUG_CACHE", str(tmp_path / "file" / "cache"))
    pictures = MixingSet.fractals(40, 24, 3)
    with pytest.warns(RuntimeWarning, match="cannot be cached in"):
        assert torch.equal(pictures.serving(24, torch.tensor([4]))[4], whole[4])
    assert torch.equal(pictures.serving(24, torch.arange(40)), whole)
    assert torch.equal(pictures.resized(24), whole)


def test_folders_and_mixtures_are_made_whole(cache, tmp_path):
    with pytest.raises(TypeError, match="base must be a SyntheticRecipe"):
        ResizedRecipe(FolderRecipe(str(tmp_path), 1, 8, "x"), 4).rows([0])
    both = MixingSet.mixture([MixingSet.fractals(4, 16), MixingSet.contours(4, 16)])
    assert both.serving(16, torch.tensor([0])).flatten(1).any(1).all()


# --- processes ------------------------------------------------------------------------------------------------------


def fill(seed, barrier):
    torch.set_num_threads(1)
    order = np.random.default_rng(seed).permutation(40)
    growing = Growing(RECIPE)
    barrier.wait()
    for rows in np.array_split(order, 10):
        growing.serve(rows, one_by_one(RECIPE))


def test_processes_fill_one_file(cache, whole):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    processes = [context.Process(target=fill, args=(seed, barrier)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 3
    assert names(cache) == ["fractals2-s24-seed3-n40-v2.npy"]
    assert torch.equal(open_cached(cache_path(RECIPE), RECIPE.shape), whole)


def fill_slowly(made):
    def make(rows):
        for row in rows:
            yield RECIPE.rows([row])
            made.value += 1
            time.sleep(0.02)

    Growing(RECIPE).serve(np.arange(40), make)


def test_a_killed_process_loses_only_what_it_was_at(cache, whole):
    context = multiprocessing.get_context("spawn")
    made = context.Value("i", 0)
    process = context.Process(target=fill_slowly, args=(made,))
    process.start()
    while made.value < 5:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    asked = []
    growing = Growing(RECIPE)
    served = growing.serve(np.arange(40), lambda rows: (asked.extend(rows), one_by_one(RECIPE)(rows))[1])
    assert torch.equal(served, whole) and 0 < len(asked) <= 36 and asked == list(range(asked[0], 40))


class Images(torch.utils.data.Dataset):
    def __init__(self, mix):
        self.mix = mix

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.mix(torch.full((3, 20, 20), index, dtype=torch.uint8))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_workers_share_it(cache, start):
    def epoch(pictures):
        torch.manual_seed(5)
        loader = DataLoader(Images(IPMix(mixing_set=pictures)), 4, num_workers=2, multiprocessing_context=start)
        return torch.cat(list(loader))

    pictures = MixingSet.fractals(40, 24, 3)
    if start == "fork":
        pictures.serving(22, torch.tensor([0]))  # the parent has used it
    one = epoch(pictures)
    whole = MixingSet.fractals(40, 24, 3)
    assert whole.resized(22).shape[3] == 22
    assert torch.equal(epoch(whole), one)


# --- what is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "side,index,error,words",
    [
        (0, torch.tensor([0]), ValueError, "side must be"),
        (8.5, torch.tensor([0]), TypeError, "side must be"),
        (8, [0], TypeError, "index must be a tensor of whole numbers, got"),
        (8, torch.tensor([0.5]), TypeError, "index must be a tensor of whole numbers, got"),
        (8, torch.tensor([True]), TypeError, "index must be a tensor of whole numbers, got"),
    ],
)
def test_bad_input(cache, side, index, error, words):
    with pytest.raises(error, match=words):
        MixingSet.fractals(4, 16).serving(side, index)
    assert not list(cache.iterdir())


def test_a_file_that_others_have_begun_anew_is_left_to_them(cache, whole):
    """One process still fills a file whose name is gone; its end must not seal the unfinished one under that name."""
    old = Growing(RECIPE)
    old.serve(np.array([1]), one_by_one(RECIPE))
    for path in cache.glob(".*"):
        path.unlink()
    new = Growing(RECIPE)
    new.serve(np.array([2]), one_by_one(RECIPE))
    assert torch.equal(old.serve(np.arange(40), one_by_one(RECIPE)), whole) and old.whole
    assert open_cached(cache_path(RECIPE), RECIPE.shape) is None and not new.whole
    assert torch.equal(new.serve(np.arange(40), one_by_one(RECIPE)), whole)
    assert torch.equal(open_cached(cache_path(RECIPE), RECIPE.shape), whole)
