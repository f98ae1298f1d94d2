"""DynamicMixCutCollate and LabelSmoothingCollate, alone and in loader workers started in each way.

The same run must draw the same whatever starts the workers, so runs are compared across start methods.
"""

from __future__ import annotations

import copy
import functools
import multiprocessing
import pickle
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import tv_tensors

from mixaug import DynamicMixCut, DynamicMixCutCollate, LabelSmoothingCollate
from mixaug.transforms import smooth_labels

#: Seconds that a batch may take: a spawned worker imports torch first, on a busy machine with others.
TIMEOUT = 150
CLASSES = 5
SAMPLES, BATCH = 24, 3

pytestmark = [
    # Python 3.12 warns whenever a process with threads forks, which loaders have always done.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    # Four workers on two cores are meant.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")


def start_method(name: str) -> object:
    missing = name not in multiprocessing.get_all_start_methods()
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{name} does not exist on this system"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Samples(Dataset):
    """Images whose pixels are their number, so that a mixed batch shows what was mixed."""

    def __init__(self, kind: str = "tuple", device: str = "cpu") -> None:
        self.kind, self.device = kind, device

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int):
        image = torch.full((1, 6, 6), (index + 1) / SAMPLES, device=self.device)
        if self.kind == "dict":
            return {"image": image, "label": index % CLASSES, "name": f"n{index}"}
        return image, index % CLASSES


def collate(seed: int | None = None, **options) -> DynamicMixCutCollate:
    return DynamicMixCutCollate(CLASSES, generator=None if seed is None else seeded(seed), **options)


# ---------------------------------------------------------------- in this process


@pytest.mark.parametrize("label", [int, torch.tensor, lambda y: torch.eye(CLASSES)[y]], ids=["int", "tensor", "row"])
def test_is_default_collate_then_dynamic_mixcut(label):
    samples = [(torch.rand(3, 8, 9, generator=seeded(i)), label(i % CLASSES)) for i in range(6)]
    options = {"boxes": (1, 3), "smoothing": 0.2, "p": 0.8, "area": (0.1, 0.4), "square": False}
    got = collate(3, **options)(samples)
    expected = DynamicMixCut(CLASSES, **options, generator=seeded(3))(default_collate(samples))
    assert type(got) is list and got[0].equal(expected[0]) and got[1].equal(expected[1])
    assert not got[0].equal(default_collate(samples)[0])
    assert got[1].dtype == torch.float32 and got[1].shape == (6, CLASSES)


def test_dict_samples():
    dataset = Samples("dict")
    samples = [dataset[i] for i in range(6)]
    got = collate(3)(samples)
    plain = collate(3)([(s["image"], s["label"]) for s in samples])
    assert list(got) == ["image", "label", "name"] and got["name"] == [f"n{i}" for i in range(6)]
    assert got["image"].equal(plain[0]) and got["label"].equal(plain[1])
    smoothed = LabelSmoothingCollate(CLASSES)(samples)
    assert list(smoothed) == ["image", "label", "name"]
    assert smoothed["image"].equal(torch.stack([s["image"] for s in samples]))
    assert smoothed["label"].equal(smooth_labels(torch.tensor([s["label"] for s in samples]), CLASSES, 0.1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("rows", [False, True], ids=["indices", "probabilities"])
def test_label_smoothing_leaves_the_images_alone(smoothing, rows):
    label = torch.tensor([0.25, 0.75, 0.0, 0.0, 0.0])
    samples = [(torch.full((1, 2, 2), i, dtype=torch.uint8), label if rows else 1, f"n{i}") for i in range(3)]
    images, targets, names = LabelSmoothingCollate(CLASSES, smoothing)(samples)
    assert images.equal(torch.stack([s[0] for s in samples])) and images.dtype == torch.uint8 and len(names) == 3
    own = label if rows else torch.eye(CLASSES)[1]
    expected = ((1 - smoothing) * own + smoothing / CLASSES).expand(3, -1)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets, expected)


def test_smoothing_by_default():
    samples = [(torch.rand(1, 4, 4), 0)] * 2
    for made in (LabelSmoothingCollate(CLASSES), DynamicMixCutCollate(CLASSES, p=0.0)):
        torch.testing.assert_close(made(samples)[1][0], torch.tensor([0.92, 0.02, 0.02, 0.02, 0.02]))


def test_labels_getter():
    samples = [{"x": torch.rand(1, 4, 4), "label": i, "y": 1} for i in range(3)]
    for make in (DynamicMixCutCollate, LabelSmoothingCollate):
        out = make(CLASSES, labels_getter=lambda batch: batch["y"])(samples)
        assert out["label"].tolist() == [0, 1, 2]
        torch.testing.assert_close(out["y"], torch.tensor([[0.02, 0.92, 0.02, 0.02, 0.02]]).expand(3, -1))


def test_a_last_batch_of_one():
    image = torch.rand(1, 4, 4)
    images, targets = collate(0)([(image, 2)])
    assert images[0].equal(image)
    torch.testing.assert_close(targets, torch.tensor([[0.02, 0.02, 0.92, 0.02, 0.02]]))


def test_samples_are_not_written_to():
    samples = [(torch.rand(1, 8, 8), torch.eye(CLASSES)[i]) for i in range(4)]
    before = copy.deepcopy(samples)
    collate(0)(samples)
    LabelSmoothingCollate(CLASSES)(samples)
    for one, two in zip(samples, before, strict=True):
        assert one[0].equal(two[0]) and one[1].equal(two[1]) and one[0]._version == one[1]._version == 0


def test_samples_of_tv_tensors():
    samples = [(tv_tensors.Image(torch.rand(1, 8, 8, generator=seeded(i))), i) for i in range(4)]
    got = collate(0)(samples)
    expected = collate(0)([(image.as_subclass(Tensor), label) for image, label in samples])
    assert got[0].as_subclass(Tensor).equal(expected[0]) and got[1].equal(expected[1])


@pytest.mark.parametrize("collate", [DynamicMixCutCollate(4), LabelSmoothingCollate(4)], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("dicts", [False, True], ids=["tuples", "dicts"])
def test_pil_images_are_refused_with_what_helps(collate, dicts):
    image = Image.new("RGB", (8, 8))
    sample = {"image": image, "label": 1} if dicts else (image, 1)
    with pytest.raises(TypeError, match=r"got a PIL image: convert them in the dataset's transform, such as v2\.PILTo"):
        collate([sample] * 2)
    with pytest.raises(TypeError, match="default_collate"):  # of other kinds torch says what it takes
        collate([(object(), 1)] * 2)


def test_copies_draw_the_same():
    samples = [Samples()[i] for i in range(6)]
    for copier in (copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))):
        made = collate(4)
        made(samples)
        twin = copier(made)
        assert twin(samples)[0].equal(made(samples)[0])
        assert repr(twin) == repr(made)
    smoothing = pickle.loads(pickle.dumps(LabelSmoothingCollate(CLASSES, 0.2)))
    assert smoothing(samples)[1].equal(LabelSmoothingCollate(CLASSES, 0.2)(samples)[1])


def test_repr_names_the_arguments():
    assert repr(DynamicMixCutCollate(10, boxes=3)) == (
        "DynamicMixCutCollate(num_classes=10, boxes=3, smoothing=0.1, p=1.0, area=None, square=True)"
    )
    assert repr(LabelSmoothingCollate(10, 0.2)) == "LabelSmoothingCollate(num_classes=10, smoothing=0.2)"


# ---------------------------------------------------------------- in workers


def run(workers: int, method: str | None, persistent: bool = False, seed: int = 0, given: bool = True) -> Tensor:
    """Two epochs in one tensor: (epoch, sample, 36 pixels + labels)."""
    torch.manual_seed(seed)
    loader = DataLoader(
        Samples(), batch_size=BATCH, num_workers=workers, multiprocessing_context=method if workers else None,
        persistent_workers=persistent and workers > 0, timeout=TIMEOUT if workers else 0,
        collate_fn=collate(7 + seed if given else None, area=(0.2, 0.6)),
    )  # fmt: skip
    return torch.stack([torch.cat([torch.cat([x.flatten(1), y], 1) for x, y in loader]) for _ in range(2)])


@functools.cache
def forked(workers: int, persistent: bool) -> Tensor:
    """What the fork start method draws (spawn and forkserver must draw the same), once for all tests."""
    return run(workers, "fork", persistent)


def masks(epochs: Tensor) -> Tensor:
    """Where the image itself is shown, of every sample of every epoch: two boxes, practically never the same twice."""
    own = torch.arange(1, SAMPLES + 1).repeat(len(epochs)) / SAMPLES
    return epochs[..., :36].flatten(0, 1) == own[:, None]


def check_draws(epochs: Tensor) -> None:
    assert epochs.shape == (2, SAMPLES, 36 + CLASSES) and epochs.isfinite().all()
    torch.testing.assert_close(epochs[..., 36:].sum(-1), torch.ones(2, SAMPLES))
    shown = masks(epochs)
    assert 0.2 < shown.float().mean() < 0.8
    # Between samples, workers and epochs the draws differ.
    batches = shown.view(-1, BATCH * 36)
    assert len(batches.unique(dim=0)) == len(batches)


@pytest.mark.parametrize("given", [True, False], ids=["generator", "default generator"])
def test_in_the_main_process(given):
    first = run(0, None, given=given)
    check_draws(first)
    assert first.equal(run(0, None, given=given))
    assert not first.equal(run(0, None, seed=1, given=given))


@needs_fork
@pytest.mark.parametrize("persistent", [False, True], ids=["new workers", "persistent workers"])
@pytest.mark.parametrize("workers", [2, 4])
def test_forked_workers(workers, persistent):
    first = forked(workers, persistent)
    check_draws(first)
    assert first.equal(run(workers, "fork", persistent))
    assert not masks(first).equal(masks(run(workers, "fork", persistent, seed=1)))


@needs_fork
def test_forked_workers_with_the_default_generator():
    first = run(2, "fork", given=False)
    check_draws(first)
    assert first.equal(run(2, "fork", given=False))


@pytest.mark.slow
@pytest.mark.parametrize("method", [start_method("spawn"), start_method("forkserver")])
def test_started_workers(method):
    """Starting a process costs seconds: new workers from the one, workers that stay from the other."""
    workers, persistent = (1, False) if method == "spawn" else (2, True)
    got = run(workers, method, persistent)
    check_draws(got)
    if "fork" in multiprocessing.get_all_start_methods():
        assert got.equal(forked(workers, persistent))


@needs_fork
def test_dict_samples_and_smoothing_in_workers():
    for made in (collate(3), LabelSmoothingCollate(CLASSES, 0.2)):
        loader = DataLoader(
            Samples("dict"), batch_size=5, num_workers=2, multiprocessing_context="fork", collate_fn=made,
            timeout=TIMEOUT,
        )  # fmt: skip
        batches = list(loader)
        assert [name for batch in batches for name in batch["name"]] == [f"n{i}" for i in range(SAMPLES)]
        assert torch.cat([batch["label"] for batch in batches]).shape == (SAMPLES, CLASSES)
        if isinstance(made, LabelSmoothingCollate):
            targets = torch.cat([batch["label"] for batch in batches])
            assert targets.equal(smooth_labels(torch.arange(SAMPLES) % CLASSES, CLASSES, 0.2))


# ---------------------------------------------------------------- tensors of a device


MAKERS = [
    (DynamicMixCutCollate, "DynamicMixCut"),
    (LabelSmoothingCollate, "smooth_labels"),
]


@pytest.mark.parametrize(("make", "later"), MAKERS)
@pytest.mark.parametrize("kind", ["tuple", "dict", "label"])
def test_a_worker_refuses_tensors_of_a_device(monkeypatch, make, later, kind):
    """Meta tensors stand in for CUDA tensors: they are not on the CPU either."""
    monkeypatch.setattr("mixaug.transforms.collate.get_worker_info", lambda: SimpleNamespace(id=0, seed=1))
    dataset = Samples("tuple" if kind == "label" else kind, "meta")
    samples = [dataset[i] for i in range(2)]
    if kind == "label":
        samples = [(torch.rand(1, 6, 6), torch.tensor(1, device="meta")) for _ in range(2)]
    with pytest.raises(ValueError) as error:
        make(CLASSES)(samples)
    assert str(error.value) == (
        "samples must be on the CPU in a loader worker, got a tensor on meta: keep the dataset on the CPU, or mix "
        f"after the loader with {later}"
    )


def test_the_main_process_takes_tensors_of_a_device():
    image = torch.rand(1, 6, 6, device="meta")
    images, targets = LabelSmoothingCollate(CLASSES)([(image, 1)] * 2)
    assert images.device.type == "meta" and targets.shape == (2, CLASSES)


@needs_fork
@pytest.mark.parametrize(("make", "later"), MAKERS)
def test_a_real_worker_refuses_them(make, later):
    loader = DataLoader(
        Samples(device="meta"), batch_size=4, num_workers=1, multiprocessing_context="fork", timeout=TIMEOUT,
        collate_fn=make(CLASSES),
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"on the CPU in a loader worker, .* mix after the loader with {later}"):
        next(iter(loader))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("make", "later"), MAKERS)
def test_cuda_tensors_are_refused_in_a_worker_and_taken_in_the_main_process(monkeypatch, make, later):
    samples = [(torch.rand(1, 6, 6, device="cuda"), torch.tensor(1, device="cuda")) for _ in range(4)]
    images, targets = make(CLASSES)(samples)
    assert images.is_cuda and targets.is_cuda
    monkeypatch.setattr("mixaug.transforms.collate.get_worker_info", lambda: SimpleNamespace(id=0, seed=1))
    with pytest.raises(ValueError, match=f"got a tensor on cuda:0: .* mix after the loader with {later}"):
        make(CLASSES)(samples)
