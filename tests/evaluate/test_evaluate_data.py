"""The forms of a data set that an evaluation takes: the same images in every form give the same report, to the bit."""

from __future__ import annotations

import random
from collections import UserDict

import numpy as np
import pytest
import torch
from evaluate_parts import BARE, labelled, net, pictures, timeless
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from mixaug.evaluate import audit_model, evaluate_model, flip_rates, occlusion_curve, save_corrupted
from mixaug.evaluate.images import LabelledImages, of_classes
from mixaug.evaluate.measures.anomaly import anomaly
from mixaug.train.batches import batches
from mixaug.train.images import ImageTensors

N = 12
IMAGES, LABELS = labelled(net(), pictures(N))
HWC = IMAGES.permute(0, 2, 3, 1).contiguous().numpy()
SHA256 = LabelledImages((IMAGES, LABELS)).sha256


class Items(Dataset):
    """A map-style data set that has nothing but its length and its items."""

    def __init__(self, items):
        self.items = list(items)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, position):
        return self.items[position]


class Stream(IterableDataset):
    def __init__(self, entries):
        self.entries = entries

    def __iter__(self):
        return iter(self.entries)


def pairs(images=IMAGES, labels=LABELS):
    return [(image, int(label)) for image, label in zip(images, labels, strict=True)]


def in_batches(size, images=IMAGES, labels=LABELS):
    return list(zip(images.split(size), labels.split(size), strict=True))


def dicts(image="image", label="label"):
    return [{"id": i, image: Image.fromarray(HWC[i]), label: int(LABELS[i])} for i in range(N)]


FORMS = {
    "tensors": lambda: (IMAGES, LABELS),
    "a list of two tensors": lambda: [IMAGES, LABELS],
    "arrays": lambda: (IMAGES.numpy(), LABELS.numpy()),
    "arrays with channels last": lambda: (HWC, LABELS.numpy().astype(np.uint8)),
    "tensors and a list": lambda: (IMAGES, LABELS.tolist()),
    "a mapping of all": lambda: {"image": IMAGES, "label": LABELS},
    "items": lambda: Items(pairs()),
    "items of pictures": lambda: Items((Image.fromarray(HWC[i]), LABELS[i]) for i in range(N)),
    "items of arrays": lambda: Items((HWC[i], np.int32(LABELS[i])) for i in range(N)),
    "a list": lambda: [list(pair) for pair in pairs()],
    "TensorDataset": lambda: TensorDataset(IMAGES, LABELS),
    "our own": lambda: ImageTensors(IMAGES, LABELS),
    "dicts": lambda: Items(dicts()),
    "dicts as of CIFAR-100": lambda: Items({**item, "coarse_label": 0} for item in dicts("img", "fine_label")),
    "dicts with masks and names": lambda: Items(
        {"seg_mask": item["jpg"].convert("L"), "label_name": "cat", "depth": IMAGES[0], **item, "target": item["jpg"]}
        for item in dicts("jpg", "class_label")
    ),
    "UserDicts": lambda: Items(UserDict(item) for item in dicts("pixel_values", "labels")),
    "loader": lambda: DataLoader(Items(pairs()), batch_size=5),
    "loader with workers": lambda: DataLoader(Items(pairs()), batch_size=5, num_workers=1),
    "loader that shuffles": lambda: DataLoader(Items(pairs()), batch_size=5, shuffle=True),
    "loader that draws all": lambda: DataLoader(Items(pairs()), batch_size=5, sampler=SubsetRandomSampler(range(N))),
    "loader with a batch sampler": lambda: DataLoader(
        Items(pairs()), batch_sampler=BatchSampler(RandomSampler(range(N)), 5, False)
    ),
    "loader without batches": lambda: DataLoader(Items(pairs()), batch_size=None, shuffle=True),
    "loader of dicts": lambda: DataLoader(
        Items({"image": image, "label": label} for image, label in pairs()), batch_size=5, shuffle=True
    ),
    "loader of lists": lambda: DataLoader(
        Items(dicts()),
        batch_size=5,
        collate_fn=lambda items: {"image": [i["image"] for i in items], "label": [i["label"] for i in items]},
    ),
    "loader of tuples": lambda: DataLoader(
        Items(pairs()), batch_size=5, collate_fn=lambda b: tuple(zip(*b, strict=True))
    ),
    "stream of items": lambda: Stream(pairs()),
    "stream of batches": lambda: Stream(in_batches(5)),
    "loader of a stream": lambda: DataLoader(Stream(pairs()), batch_size=5),
    "list of batches": lambda: in_batches(5),
    "list of two batches": lambda: in_batches(6),
    "batches of arrays": lambda: [(HWC[:7], LABELS[:7].numpy()), (HWC[7:], LABELS[7:].numpy())],
    "generator of batches": lambda: (batch for batch in in_batches(5)),
    "generator of items": lambda: (pair for pair in pairs()),
}


@pytest.fixture(scope="module")
def expected():
    return timeless(
        evaluate_model(net(), (IMAGES, LABELS), **BARE | {"corruptions": "cifar"}, corruption_names=["fog"])
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_report(form, expected):
    settings = BARE | {"corruptions": "cifar"}
    assert timeless(evaluate_model(net(), FORMS[form](), **settings, corruption_names=["fog"])) == expected
    assert LabelledImages(FORMS[form]()).sha256 == SHA256


def test_the_digest_is_the_one_that_it_was():
    # Made before the forms: a state of an evaluation that was begun then is still found.
    images = torch.arange(48, dtype=torch.uint8).reshape(4, 3, 2, 2)
    digest = "c79e3b5af51d4b53f39e9fe6ae256949a56964286cc469aff0ad330a335616dc"
    assert LabelledImages((images, torch.arange(4))).sha256 == digest
    floats = images.float() / 255
    assert LabelledImages((floats, torch.arange(4))).sha256 == LabelledImages(pairs(floats, range(4))).sha256
    assert (
        LabelledImages((floats, torch.arange(4))).sha256
        == "c6e1793f852c8cf4512c755e1c0fb84f4bf27bf85754695565bd75c1069edce1"
    )


# --- items, not attributes ------------------------------------------------------------------------------------------

OTHERS = {
    "tensors": (255 - IMAGES, (LABELS + 1) % 3),
    "arrays": ((255 - IMAGES).numpy(), ((LABELS + 1) % 3).numpy()),
    "paths": ([f"{i}.png" for i in range(N)], LABELS.tolist()),
    "numbers": (3, 4),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("names", [("images", "labels"), ("data", "targets")])
def test_attributes_never_stand_for_the_items(kind, names, expected):
    data = Items(pairs())
    for name, value in zip(names, OTHERS[kind], strict=True):
        setattr(data, name, value)
    assert LabelledImages(data).sha256 == SHA256
    loader = DataLoader(data, batch_size=4)
    for name, value in zip(names, OTHERS[kind], strict=True):
        setattr(loader, name, value)
    assert LabelledImages(loader).sha256 == SHA256
    if names[0] == "images":
        assert all(torch.equal(found, IMAGES[4:8]) for found, _ in batches(data, torch.arange(4, 8), 4))


def test_a_subclass_of_ours_is_asked_for_its_items():
    class Negative(ImageTensors):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return 255 - image, label

    data = Negative(255 - IMAGES, LABELS)
    assert LabelledImages(data).sha256 == SHA256
    ((images, _),) = batches(data, torch.arange(N), N)
    assert torch.equal(images, IMAGES)


def test_every_measure_asks_for_items(tmp_path):
    data = Items(pairs())
    data.images, data.labels = OTHERS["tensors"]
    loader = DataLoader(data, batch_size=5, shuffle=True)
    for given_data in (data, loader):
        assert audit_model(net(), given_data, n=4, square_queries=2).n == 4
        curve = occlusion_curve(net(), given_data, ratios=(0.0,), patch_size=2)
        assert curve.accuracy[0].value == pytest.approx(1 - 2 / N)
        scores = anomaly(net(), given_data, 255 - IMAGES.numpy())
        assert torch.equal(scores.confidence_in, anomaly(net(), (IMAGES, LABELS), 255 - IMAGES).confidence_in)
        assert flip_rates(net(), given_data, names=("scale",)).mean.n == N
    one, two = (save_corrupted(d, tmp_path / str(k), names=["fog"]) for k, d in enumerate((loader, (IMAGES, LABELS))))
    assert (one / "fog.npy").read_bytes() == (two / "fog.npy").read_bytes()
    assert (one / "labels.npy").read_bytes() == (two / "labels.npy").read_bytes()


def test_an_object_without_items_is_its_tensors():
    class Part:
        images, labels = IMAGES, LABELS

    assert LabelledImages(Part()).sha256 == SHA256


def test_classes_are_found_in_loaders_and_subsets(expected):
    data = Items(pairs())
    data.classes = ["cat", "dog", "eel"]
    data.model_classes = torch.tensor([2, 0, 1])
    inside = DataLoader(Subset(data, range(N)), batch_size=5)
    assert of_classes(inside, "classes") == ["cat", "dog", "eel"]
    reports = [evaluate_model(net(), each, **BARE) for each in (data, inside)]
    assert timeless(reports[0]) == timeless(reports[1]) and reports[0].class_name(2) == "eel"
    for other in (3, {"cat": 0}, torch.arange(3), [1.5]):
        data.classes = other
        assert of_classes(data, "classes") is None


# --- loaders --------------------------------------------------------------------------------------------------------


def test_a_loader_that_shuffles_is_read_in_order_and_nothing_random_moves():
    generator = torch.Generator().manual_seed(3)
    before = [torch.get_rng_state(), generator.get_state(), random.getstate(), np.random.get_state()[1].copy()]

    class Careless(Items):
        def __getitem__(self, position):
            torch.rand(1), random.random(), np.random.rand()
            return super().__getitem__(position)

    data = LabelledImages(DataLoader(Careless(pairs()), batch_size=5, shuffle=True, generator=generator))
    assert torch.equal(data.take(torch.arange(N))[0], IMAGES)
    after = [torch.get_rng_state(), generator.get_state(), random.getstate(), np.random.get_state()[1]]
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert before[2] == after[2] and (before[3] == after[3]).all()


def test_a_killed_evaluation_of_a_shuffled_loader_goes_on(tmp_path):
    settings = BARE | {"corruptions": "cifar", "corruption_names": ["fog"], "state": tmp_path}
    first = evaluate_model(net(), DataLoader(Items(pairs()), batch_size=5, shuffle=True), **settings)
    pieces = sorted(path.name for path in tmp_path.rglob("*"))
    again = evaluate_model(net(), DataLoader(Items(pairs()), batch_size=4, shuffle=True), **settings)
    assert timeless(first) == timeless(again)
    assert sorted(path.name for path in tmp_path.rglob("*")) == pieces


def test_parts_and_last_batches_are_as_the_loader_says():
    loader = DataLoader(Items(pairs()), batch_size=5, shuffle=True, drop_last=True)
    assert torch.equal(LabelledImages(loader).take(torch.arange(10))[0], IMAGES[:10])
    loader = DataLoader(Items(pairs()), batch_size=2, sampler=SubsetRandomSampler([7, 1, 4]))
    data = LabelledImages(loader)
    assert len(data) == 3 and torch.equal(data.take(torch.arange(3))[0], IMAGES[[7, 1, 4]])
    assert len(LabelledImages(DataLoader(Items(pairs()), batch_sampler=[[0, 1], [2]]))) == 3


@pytest.mark.parametrize(
    "sampler",
    [
        WeightedRandomSampler([1.0] * N, N),
        RandomSampler(range(N), replacement=True),
        RandomSampler(range(N), num_samples=5),
    ],
)
def test_loaders_that_draw_other_images_each_time_are_refused(sampler):
    with pytest.raises(ValueError, match=rf"each of its images once: .*{type(sampler).__name__}.* give loader.dataset"):
        LabelledImages(DataLoader(Items(pairs()), sampler=sampler))


class Counted(Items):
    """Notes what it is asked for."""

    def __init__(self, items):
        super().__init__(items)
        self.asked = []

    def __getitem__(self, position):
        self.asked.append(position)
        return super().__getitem__(position)


def test_what_cannot_be_kept_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("mixaug.evaluate.images.ITERABLE_BYTES", 1000)
    asked = []

    def endless_recipe():
        while True:
            asked.append(1)
            yield IMAGES[:1], LABELS[:1]

    with pytest.raises(ValueError, match=r"at most .* GiB .* give a map-style data set"):
        LabelledImages(endless_recipe())
    assert len(asked) == 6  # of 192 bytes each
    counted = Counted(pairs())
    with pytest.raises(ValueError, match=r"at most .* GiB"):
        LabelledImages(DataLoader(counted, batch_size=2))
    assert counted.asked == [0, 1]  # the first batch and the number of batches tell
    assert LabelledImages(counted).sha256 == SHA256  # can be read again, so this bound is not its


# --- labels ---------------------------------------------------------------------------------------------------------

WRONG_LABELS = [
    (2.7, TypeError, "must be an int, got float: 2.7"),
    (2.0, TypeError, "must be an int, got float: 2.0"),
    (float("nan"), TypeError, "must be an int, got float: nan"),
    ("3", TypeError, "must be an int, got str: '3'"),
    (None, TypeError, "must be an int, got None"),
    (True, TypeError, "must be an int, got bool"),
    (np.bool_(True), TypeError, "must be an int, got bool"),
    (torch.tensor(True), TypeError, "must be an int, got bool"),
    (torch.tensor(1.0), TypeError, "must be an int, got float"),
    (np.float32(1), TypeError, "must be an int, got float"),
    (torch.eye(3)[1], TypeError, r"must be an int, got a torch.float32 tensor of shape \(3,\)"),
    (torch.tensor([0, 1, 0]), TypeError, r"must be an int, got a torch.int64 tensor of shape \(3,\)"),
    (torch.tensor([1]), TypeError, r"must be an int, got a torch.int64 tensor of shape \(1,\)"),
    (np.array([0, 1]), TypeError, r"must be an int, got a int64 array of shape \(2,\)"),
    ([0, 1, 0], TypeError, "must be an int, got list"),
    (-1, ValueError, "must be at least 0, got -1"),
    (torch.tensor(-7), ValueError, "must be at least 0, got -7"),
    (2**64, ValueError, "must be from 0 to 9223372036854775807, got 18446744073709551616"),
]


@pytest.mark.parametrize("label, error, message", WRONG_LABELS, ids=[repr(row[0]) for row in WRONG_LABELS])
def test_labels_that_are_none_are_named_with_their_index(label, error, message):
    items = pairs()
    items[3] = (items[3][0], label)
    mappings = [{"image": image, "label": each} for image, each in items]
    kept = [(IMAGES[:2], LABELS[:2]), (list(IMAGES[2:]), [each for _, each in items[2:]])]
    for data in (Items(items), items, Stream(items), (pair for pair in items), mappings, kept):
        with pytest.raises(error, match=f"label at index 3 {message}"):
            LabelledImages(data)


@given(
    st.one_of(
        st.integers(0, 2**63 - 1),
        st.integers(0, 255).map(np.uint8),
        st.integers(0, 2**63 - 1).map(np.uint64),
        st.integers(0, 2**31 - 1).map(np.int32),
        st.integers(0, 2**63 - 1).map(torch.tensor),
        st.integers(0, 127).map(lambda n: torch.tensor(n, dtype=torch.int8)),
        st.integers(0, 1000).map(lambda n: np.array(n)),
    )
)
def test_whole_numbers_of_every_kind_are_labels(label):
    _, labels = LabelledImages([(IMAGES[0], label)]).take(torch.arange(1))
    assert labels.dtype == torch.int64 and int(labels) == int(label)


@given(
    st.one_of(
        st.integers(max_value=-1),
        st.floats(),
        st.text(),
        st.binary(),
        st.booleans(),
        st.none(),
        st.complex_numbers(),
        st.lists(st.integers(0, 9)),
        st.floats(width=32).map(np.float32),
        st.integers(-(2**31), -1).map(torch.tensor),
        st.lists(st.integers(0, 1), min_size=1).map(torch.tensor),
        st.lists(st.integers(0, 1), min_size=1).map(np.array),
        st.dictionaries(st.text(), st.integers(0, 9)),
    ),
    st.integers(0, N - 1),
)
def test_nothing_else_is_a_label(label, index):
    items = pairs()
    items[index] = (items[index][0], label)
    with pytest.raises((TypeError, ValueError), match=f"label at index {index} must be"):
        LabelledImages(items)


@pytest.mark.parametrize(
    "labels, error, message",
    [
        (LABELS.double(), TypeError, "must be an integer tensor or array, got a torch.float64 tensor"),
        (LABELS.bool(), TypeError, "must be an integer tensor or array, got a torch.bool tensor"),
        (LABELS.cfloat(), TypeError, "must be an integer tensor or array"),
        (LABELS.numpy() * 1.0, TypeError, "must be an integer tensor or array, got a float64 array"),
        (np.array(["a"] * N), TypeError, "must be an integer tensor or array"),
        (np.array([0] * (N - 1) + [None]), TypeError, f"label at index {N - 1} must be an int, got None"),
        ([0] * (N - 1) + [2.5], TypeError, f"label at index {N - 1} must be an int, got float: 2.5"),
        ([0] * 3, ValueError, f"labels must be {N}, one per image, got 3"),
        ("0" * N, TypeError, "must be an integer tensor or array, got str"),
        (None, TypeError, "must be an integer tensor or array, got NoneType"),
        (torch.eye(N)[:, :3].long(), ValueError, r"labels must have shape \(12,\), one per image, got \(12, 3\)"),
        (torch.tensor([0] * (N - 1) + [-4]), ValueError, f"label at index {N - 1} must be at least 0, got -4"),
        (np.array([0, -4] + [0] * (N - 2)), ValueError, "label at index 1 must be at least 0, got -4"),
        (
            np.array([2**63] + [0] * (N - 1), np.uint64),
            ValueError,
            "label at index 0 must be .*, got 9223372036854775808",
        ),
    ],
)
def test_labels_of_all_images_are_checked_as_strictly(labels, error, message):
    with pytest.raises(error, match=message):
        LabelledImages((IMAGES, labels))
    with pytest.raises(error, match=message):
        LabelledImages(iter([(IMAGES, labels)]))


# --- images ---------------------------------------------------------------------------------------------------------

GREY = np.zeros((8, 8), np.uint8)
WRONG_ITEMS = [
    ((IMAGES[0], 1, 2), TypeError, r"items must be \(image, label\), got tuple of 3 at index 2"),
    ((IMAGES[0],), TypeError, r"items must be \(image, label\), got tuple of 1 at index 2"),
    (IMAGES[0], TypeError, r"items must be \(image, label\), got a torch.uint8 tensor of shape \(3, 8, 8\) at index 2"),
    (None, TypeError, "got NoneType at index 2"),
    ({"image": IMAGES[0]}, TypeError, r"item at index 2 must have a label \(labels, .*keys \['image'\]"),
    (
        {"left": IMAGES[0], "right": IMAGES[1], "label": 0},
        TypeError,
        r"item at index 2 must have an image \(image, .*keys \['left', 'right', 'label'\]",
    ),
    (("a.png", 0), TypeError, "image at index 2 must be a PIL image, a tensor or a NumPy array, got str"),
    ((None, 0), TypeError, "image at index 2 must be a PIL image, a tensor or a NumPy array, got NoneType"),
    ((IMAGES[0, 0], 0), ValueError, r"image at index 2 must have shape \(C, H, W\), got \(8, 8\)"),
    ((IMAGES[0].long(), 0), TypeError, "must be uint8 or floating point in .*, got torch.int64 at index 2"),
    ((IMAGES[0, :, 1:], 0), ValueError, r"images of one size, got \(3, 7, 8\) at index 2 and \(3, 8, 8\) before"),
    ((GREY, 0), ValueError, r"images of one size, got \(1, 8, 8\) at index 2"),
    ((IMAGES[0].float() / 255, 0), ValueError, "of one dtype, got torch.float32 at index 2 and torch.uint8 before"),
    ((HWC[0].astype(np.int64), 0), TypeError, "image at index 2 must be uint8 or floating point .*, got a int64 array"),
    ((np.zeros((8, 8, 4), np.uint8), 0), ValueError, "image at index 2 must have 1 or 3 channels.*, where neither is"),
    (
        (np.zeros((3, 8, 3), np.uint8), 0),
        ValueError,
        "image at index 2 must have 1 or 3 channels.*, where either could",
    ),
    ((np.zeros(8, np.uint8), 0), ValueError, r"image at index 2 must have shape \(H, W, C\), got \(8,\)"),
    ((np.array([["a"]]), 0), TypeError, "image at index 2 must be uint8 or floating point"),
]


@pytest.mark.parametrize("item, error, message", WRONG_ITEMS)
def test_items_of_another_kind_are_named_with_their_index(item, error, message):
    items = [*pairs()[:2], item]
    for data in (Items(items), items, Stream(items)):
        with pytest.raises(error, match=message):
            LabelledImages(data)


def test_ranges_have_the_one_slack_and_are_named_with_digits():
    floats = IMAGES.float() / 255
    same = LabelledImages((floats, LABELS)).take(torch.arange(N))[0]
    assert torch.equal(same, floats)
    off = floats * 1.0
    off[0, 0, 0, 0], off[1, 0, 0, 0] = -3e-8, 1 + 1e-3  # normalised and back; in bfloat16
    for data in ((off, LABELS), pairs(off), [(off[:5], LABELS[:5]), (off[5:], LABELS[5:])], (off.numpy(), LABELS)):
        found = LabelledImages(data).take(torch.arange(N))[0]
        assert torch.equal(found, off.clamp(0, 1))
    for value, shown in ((1.0021, "1.0020"), (-0.00196079, "-0.0019607"), (float("nan"), "nan"), (255.0, "255")):
        bad = floats.clone()
        bad[7, 1, 2, 3] = value
        for data in ((bad, LABELS), pairs(bad), [(bad[:5], LABELS[:5]), (bad[5:], LABELS[5:])]):
            with pytest.raises(
                ValueError, match=rf"must lie in \[0, 1\], got values from .*{shown}.* at index 7; normal"
            ):
                LabelledImages(data)


def test_arrays_of_every_layout():
    for array in (HWC[:, ::-1][:, ::-1], HWC.astype(">f8") / 255, np.asfortranarray(HWC), HWC.astype(np.float16) / 255):
        array = array.view()
        array.flags.writeable = False
        whole = LabelledImages((array, LABELS.numpy())).take(torch.arange(N))[0]
        single = LabelledImages([(each, 0) for each in array]).take(torch.arange(N))[0]
        assert torch.equal(whole, single)
        assert torch.allclose(whole.float() if whole.dtype == torch.uint8 else whole * 255, IMAGES.float(), atol=0.2)
    grey = HWC[..., 0]
    for data in (
        (grey, LABELS),
        [(each, 0) for each in grey],
        [(grey[:5], LABELS[:5]), (grey[5:], LABELS[5:].numpy())],
    ):
        assert torch.equal(LabelledImages(data).take(torch.arange(N))[0], IMAGES[:, :1])


@pytest.mark.parametrize(
    "data, error, message",
    [
        ([], ValueError, "1 image or more, got 0"),
        (Items([]), ValueError, "1 image or more, got 0"),
        (Stream([]), ValueError, "1 image or more, got 0"),
        (DataLoader(Items([])), ValueError, "1 image or more, got 0"),
        (iter([]), ValueError, "got 0; a generator gives its batches only once"),
        ([(IMAGES[:0], LABELS[:0])], ValueError, "1 image or more, got 0"),
        ({"image": IMAGES[:0], "label": LABELS[:0]}, ValueError, "1 image or more, got 0"),
        (3, TypeError, "dataset must be .* got int"),
        (None, TypeError, "dataset must be .* got NoneType"),
        ("cifar10", TypeError, "dataset must be .* got str"),
        (Items, TypeError, "dataset must be .* got type"),
        (IMAGES, TypeError, r"dataset must be .* got a torch.uint8 tensor of shape \(12, 3, 8, 8\) without labels"),
        (HWC, TypeError, r"dataset must be .* got a uint8 array of shape \(12, 8, 8, 3\) without labels"),
        (
            {"train": [], "test": []},
            TypeError,
            r"dataset must have an image .*, got a dict with the keys \['train', 'te",
        ),
    ],
)
def test_data_sets_of_another_kind(data, error, message):
    with pytest.raises(error, match=message):
        LabelledImages(data)


def test_a_data_set_without_a_length():
    class NoLength(Dataset):
        def __getitem__(self, position):
            return IMAGES[0], 0

    with pytest.raises(TypeError, match="must have a length, got NoLength with __getitem__ but without __len__"):
        LabelledImages(NoLength())


def test_a_generator_is_read_once():
    stream = (batch for batch in in_batches(5))
    assert len(LabelledImages(stream)) == N
    with pytest.raises(ValueError, match="only once"):
        LabelledImages(stream)


def test_large_data_sets_are_read_again_and_checked_each_time(monkeypatch):
    monkeypatch.setattr("mixaug.evaluate.images.IN_MEMORY_BYTES", 0)
    data = LabelledImages(Items(pairs()))
    assert data.sha256 == SHA256 and data._images is None
    items = pairs()
    items[9] = (IMAGES[9].float() / 255, 0)
    with pytest.raises(ValueError, match=r"of one dtype, got torch\.float32 at index 9"):
        LabelledImages(Items(items)).take(torch.tensor([9]))
    items[9] = in_batches(3)[0]
    with pytest.raises(TypeError, match="one image each, got a batch at index 9"):
        LabelledImages(Items(items)).take(torch.tensor([9]))
    items[9] = (IMAGES[9], 2.7)
    with pytest.raises(TypeError, match=r"label at index 9 must be an int, got float: 2\.7"):
        LabelledImages(Items(items)).take(torch.tensor([8, 9]))
