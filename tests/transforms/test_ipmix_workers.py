"""IPMix in DataLoader workers, after IPMix and a compiled mixing set were used in the parent.

Each sample holds the draws of a transform without and of one with ``generator=``, so every case tests both. The same
run must draw the same whatever starts the workers, so runs are also compared across start methods.
"""

from __future__ import annotations

import functools
import multiprocessing

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixaug import IPMix, MixingSet

#: Seconds that a batch may take: a spawned worker imports torch first, on a busy machine with others.
TIMEOUT = 150
SAMPLES = 12

pytestmark = [
    # Python 3.12 warns whenever a process with threads forks, which loaders have always done.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    # Four workers on two cores are meant.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def start_method(name: str) -> object:
    missing = name not in multiprocessing.get_all_start_methods()
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{name} does not exist on this system"))


class Draws(Dataset):
    """The same image each time, through both transforms: their masks' seeds, which never repeat, and their results."""

    def __init__(self, transforms: list[IPMix]) -> None:
        self.transforms = transforms
        self.image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        params = [transform.sample(self.image) for transform in self.transforms]
        seeds = torch.stack([record.seed.flatten() for record in params])
        results = [t.replay(self.image, record) for t, record in zip(self.transforms, params, strict=True)]
        return seeds, torch.stack(results)


class MakesPictures(Dataset):
    """Each worker compiles nothing anew, but draws its own fractals, of the same seed, into the same file."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return MixingSet.fractals(2, 32, seed=self.seed)[1]


@pytest.fixture(scope="module")
def used() -> MixingSet:
    """A mixing set just rendered by numba in this process, and IPMix used with it on several threads."""
    mixing_set = MixingSet.fractals(4, 64, seed=90210)
    images = torch.rand(64, 3, 32, 32)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert IPMix(mixing_set=mixing_set)(images).shape == images.shape
        torch.matmul(images.flatten(1), images.flatten(1).T)  # OpenMP's pool is up
    finally:
        torch.set_num_threads(threads)
    return mixing_set


def run(
    mixing_set: MixingSet, workers: int, method: str | None, persistent: bool = False, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Two epochs: seeds (epoch, sample, transform, 9) and results (epoch, sample, transform, 3, 32, 32)."""
    torch.manual_seed(seed)
    transforms = [
        IPMix(mixing_set=mixing_set),
        IPMix(mixing_set=mixing_set, generator=torch.Generator().manual_seed(7 + seed)),
    ]
    loader = DataLoader(
        Draws(transforms), batch_size=2, num_workers=workers, multiprocessing_context=method if workers else None,
        persistent_workers=persistent and workers > 0, timeout=TIMEOUT if workers else 0,
    )  # fmt: skip
    epochs = [[*zip(*loader, strict=True)] for _ in range(2)]
    return tuple(torch.stack([torch.cat(epoch[part]) for epoch in epochs]) for part in range(2))


@functools.cache
def forked(workers: int, persistent: bool) -> tuple[Tensor, Tensor]:
    """What the fork start method draws (spawn and forkserver must draw the same), once for all tests."""
    return run(MixingSet.fractals(4, 64, seed=90210), workers, "fork", persistent)


def check_draws(seeds: Tensor, results: Tensor) -> None:
    assert seeds.shape == (2, SAMPLES, 2, 9)
    # Between samples, workers, epochs and the two transforms nothing is drawn twice.
    assert seeds.unique().numel() == seeds.numel()
    assert results.isfinite().all()
    assert not torch.equal(results[0], results[1])
    assert len(results.flatten(0, 2).flatten(1).unique(dim=0)) > SAMPLES * 3


def equal(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_in_the_main_process(used: MixingSet) -> None:
    first = run(used, 0, None)
    check_draws(*first)
    assert equal(first, run(used, 0, None))
    assert not equal(first, run(used, 0, None, seed=1))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.parametrize("persistent", [False, True], ids=["new workers", "persistent workers"])
@pytest.mark.parametrize("workers", [2, 4])
def test_forked_workers(used: MixingSet, workers: int, persistent: bool) -> None:
    first = forked(workers, persistent)
    check_draws(*first)
    assert equal(first, run(used, workers, "fork", persistent))
    other = run(used, workers, "fork", persistent, seed=1)
    assert not torch.isin(other[0], first[0]).any()


@pytest.mark.slow
@pytest.mark.parametrize("method", [start_method("spawn"), start_method("forkserver")])
def test_started_workers(used: MixingSet, method: str) -> None:
    """Starting a process costs seconds: workers that stay from the one, new workers from the other."""
    workers, persistent = (2, True) if method == "spawn" else (1, False)
    got = run(used, workers, method, persistent)
    check_draws(*got)
    if "fork" in multiprocessing.get_all_start_methods():
        assert equal(got, forked(workers, persistent))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_forked_workers_render_fractals(used: MixingSet) -> None:
    """numba's code runs in forked workers after it ran in the parent; both make one and the same file."""
    loader = DataLoader(MakesPictures(90211), batch_size=None, num_workers=2, multiprocessing_context="fork",
                        timeout=TIMEOUT)  # fmt: skip
    pictures = torch.stack(list(loader))
    assert (pictures == pictures[0]).all()
    assert torch.equal(pictures[0], MixingSet.fractals(2, 32, seed=90211)[1])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_loader_generator_and_collate(used: MixingSet) -> None:
    """A loader's own generator repeats a run, and IPMix may be part of the collate function."""

    def epochs() -> list[Tensor]:
        augment = IPMix(mixing_set=used, generator=torch.Generator().manual_seed(3))
        loader = DataLoader(
            list(torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))), batch_size=3, shuffle=True,
            collate_fn=Collate(augment), num_workers=2, multiprocessing_context="fork", timeout=TIMEOUT,
            generator=torch.Generator().manual_seed(5),
        )  # fmt: skip
        return [torch.cat(list(loader)) for _ in range(2)]

    torch.manual_seed(0)
    first = epochs()
    torch.manual_seed(1)
    second = epochs()
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])


class Collate:
    """Stacks and augments a batch."""

    def __init__(self, augment: IPMix) -> None:
        self.augment = augment

    def __call__(self, samples: list[Tensor]) -> Tensor:
        return self.augment(torch.stack(samples))


def test_ranks_differ(used: MixingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank holds the same generator: RANK tells them apart, and nothing repeats between ranks."""
    seeds = []
    for rank in ("0", "1", "2"):
        monkeypatch.setenv("RANK", rank)
        augment = IPMix(mixing_set=used, generator=torch.Generator().manual_seed(3))
        seeds.append(augment.sample(torch.rand(5, 3, 32, 32)).seed)
    assert torch.stack(seeds).unique().numel() == 3 * 5 * 9
