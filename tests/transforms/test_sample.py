"""The one finder of images and labels: its rule against a slow, plain one, and every class that asks it."""

from __future__ import annotations

import copy
import pickle
import types
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors

from mixaug import (
    AdAutoMix,
    DynamicMixCut,
    DynamicMixCutCollate,
    GeneratedMix,
    IPMix,
    LabelSmoothingCollate,
    MixingSet,
)
from mixaug.models import build_model
from mixaug.transforms import sample as _sample

CLASSES = 5
PICTURES = MixingSet.from_tensor(torch.randint(0, 256, (4, 3, 24, 24), dtype=torch.uint8))
Batch = namedtuple("Batch", "mask image label")
Pair = namedtuple("Pair", "first second")


def images_of(count: int = 4, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(seed))


IMAGES, LABELS, IDS, MASK = images_of(), torch.tensor([0, 4, 2, 1]), torch.arange(100, 104), images_of(channels=1)


@pytest.fixture(scope="module")
def mixer() -> AdAutoMix:
    return AdAutoMix(build_model("resnet-small", CLASSES), CLASSES)


@pytest.fixture(params=["DynamicMixCut", "GeneratedMix", "IPMix"])
def transform(request, mixer):
    """Any transform of samples, by a seed."""
    seed = torch.Generator().manual_seed(3)
    if request.param == "DynamicMixCut":
        return lambda **getters: DynamicMixCut(CLASSES, generator=seed, **getters)
    if request.param == "GeneratedMix":
        return lambda **getters: GeneratedMix(mixer.generator, mixer.teacher, CLASSES, generator=seed, **getters)
    return lambda images_getter="default", labels_getter=None: IPMix(
        mixing_set=PICTURES, generator=seed, images_getter=images_getter
    )


def attribute_dict(**entries):
    class AttributeDict(dict):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.__dict__ = self

    return AttributeDict(**entries)


class Bag(UserDict):
    """As transformers' BatchFeature: a UserDict with more than its entries."""

    def __init__(self, data=None, note="") -> None:
        super().__init__(data)
        self.note = note

    def __getattr__(self, name):
        if name == "data":
            raise AttributeError(name)
        return self.data[name]


# ---------------------------------------------------------------- every class, the same places


SAMPLES = {
    "tuple": ((IMAGES, LABELS), (0,), (1,)),
    "list": ([IMAGES, LABELS, "x"], (0,), (1,)),
    "labels first": ({"label": LABELS, "image": IMAGES}, ("image",), ("label",)),
    "ids first": ({"id": IDS, "image": IMAGES, "label": LABELS}, ("image",), ("label",)),
    "nested ids": ({"meta": {"id": IDS}, "image": IMAGES, "label": LABELS}, ("image",), ("label",)),
    "mask first": ({"mask": MASK, "image": IMAGES, "label": LABELS}, ("image",), ("label",)),
    "mask beside a name that says nothing": ({"a_mask": MASK, "q": IMAGES, "label": LABELS}, ("q",), ("label",)),
    "a named image": ({"other": images_of(seed=1), "image": IMAGES, "label": LABELS}, ("image",), ("label",)),
    "the outer image": (
        {"meta": {"image": images_of(seed=1)}, "image": IMAGES, "label": LABELS}, ("image",), ("label",)
    ),
    "no names": ({"a": IMAGES, "b": images_of(seed=1), "label": LABELS}, ("a",), ("label",)),
    "bools": ({"seen": torch.ones(4, 3, 16, 16).bool(), "q": IMAGES, "label": LABELS}, ("q",), ("label",)),
    "key that contains label": ({"is_unlabeled": IDS, "image": IMAGES, "label": LABELS}, ("image",), ("label",)),
    "names of labels": ({"image": IMAGES, "label_name": ["a"] * 4, "fine_label": LABELS}, ("image",), ("fine_label",)),
    "target": ({"image": IMAGES, "is_labeled": IDS, "Target": LABELS}, ("image",), ("Target",)),
    "an image as target": (
        {"image": IMAGES, "target": images_of(seed=1), "fine_label": LABELS}, ("image",), ("fine_label",)
    ),
    "second entry a mapping": ((IMAGES, {"id": IDS, "labels": LABELS}), (0,), (1, "labels")),
    "mapping under target": ({"image": IMAGES, "target": {"label": LABELS}}, ("image",), ("target", "label")),
    "pixel_values": ({"pixel_mask": MASK, "pixel_values": IMAGES, "labels": LABELS}, ("pixel_values",), ("labels",)),
    "UserDict": (UserDict(image=IMAGES, label=LABELS), ("image",), ("label",)),
    "UserDict with more": (Bag({"image": IMAGES, "label": LABELS}, "n"), ("image",), ("label",)),
    "OrderedDict": (OrderedDict(label=LABELS, image=IMAGES), ("image",), ("label",)),
    "defaultdict": (defaultdict(list, label=LABELS, image=IMAGES), ("image",), ("label",)),
    "mappingproxy": (types.MappingProxyType({"label": LABELS, "image": IMAGES}), ("image",), ("label",)),
    "attributes": (attribute_dict(image=IMAGES, label=LABELS), ("image",), ("label",)),
    "named tuple": (Batch(MASK, IMAGES, LABELS), (1,), (2,)),
    "named tuple without a name": (Pair(IMAGES, LABELS), (0,), (1,)),
    "explicit": ({"image": images_of(seed=1), "q": tv_tensors.Image(IMAGES), "label": LABELS}, ("q",), ("label",)),
    "list of images": (([IMAGES, IDS], LABELS), (0, 0), (1,)),
    "deque": ({"image": deque([IMAGES]), "label": LABELS}, ("image", 0), ("label",)),
    "indices on other places": ((IDS, LABELS, {"deep": [IMAGES]}), (2, "deep", 0), (1,)),
}  # fmt: skip


def at(sample, path):
    for key in path:
        sample = sample[key]
    return sample


@pytest.mark.parametrize("name", SAMPLES)
def test_every_transform_finds_the_same_places_and_writes_to_nothing(transform, name):
    sample, image_path, label_path = SAMPLES[name]
    before = {str(entry): entry.value for entry in _sample.entries_of(sample)}
    made = transform()
    out = made(sample)
    assert type(out) is type(sample) and out is not sample
    mixes = not isinstance(made, IPMix)
    changed = {image_path, label_path} if mixes else {image_path}
    entries = _sample.entries_of(out)
    assert [str(entry) for entry in entries] == list(before)  # the same keys in the same order
    for entry in entries:
        assert (entry.value is not before[str(entry)]) == (entry.path in changed), entry
    for entry in _sample.entries_of(sample):
        assert entry.value is before[str(entry)]
        assert not isinstance(entry.value, Tensor) or entry.value._version == 0
    image, given = at(out, image_path), at(sample, image_path)
    assert type(image) is type(given) and image.shape == IMAGES.shape and not image.equal(given)
    if mixes:
        assert at(out, label_path).shape == (4, CLASSES)
    if name == "UserDict with more":
        assert out.note == "n"
    if name == "attributes":
        assert out.image is out["image"]
    if name == "defaultdict":
        assert out.default_factory is list


@pytest.mark.parametrize("name", SAMPLES)
def test_the_collates_find_the_same_labels(name):
    """Batches whole already: what a data set of such samples collates to."""
    sample, _, label_path = SAMPLES[name]
    assert _sample.find_labels(sample).path == label_path
    if label_path == ("label",) and isinstance(sample, dict):
        samples = [{key: value[i] for key, value in sample.items() if isinstance(value, Tensor)} for i in range(4)]
        if len(samples[0]) == len(sample):
            for collate in (DynamicMixCutCollate(CLASSES), LabelSmoothingCollate(CLASSES)):
                out = collate(samples)
                assert [key for key in out if out[key].shape == (4, CLASSES)] == ["label"]


@pytest.mark.parametrize(
    "labels",
    [
        [0, 4, 2, 1], (0, 4, 2, 1), np.array([0, 4, 2, 1]), np.array([0, 4, 2, 1], dtype=">i2"),
        np.array([0, 4, 2, 1], dtype=np.uint64), [torch.tensor(i) for i in (0, 4, 2, 1)],
        np.eye(CLASSES)[[0, 4, 2, 1]], np.eye(CLASSES, dtype=np.float32)[[0, 4, 2, 1]].tolist(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_labels_of_other_kinds_are_converted(labels, mixer):
    if isinstance(labels, np.ndarray):
        labels.flags.writeable = False
    seeded = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    expected = DynamicMixCut(CLASSES, generator=seeded())(IMAGES, LABELS)
    for sample in ((IMAGES, labels), {"label": labels, "image": IMAGES}, (IMAGES, {"targets": labels})):
        out = DynamicMixCut(CLASSES, generator=seeded())(sample)
        found = _sample.find_batch("x", out, None, None)
        assert found.images[0].value.equal(expected[0]) and found.labels.value.equal(expected[1])
    assert GeneratedMix(mixer.generator, mixer.teacher, CLASSES)(IMAGES, labels)[1].shape == (4, CLASSES)
    assert mixer(IMAGES, labels).classifier_loss.isfinite()


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.float16])
def test_converted_labels_do_not_depend_on_the_default_dtype(default):
    torch.set_default_dtype(default)
    try:
        indices, rows = _sample.as_labels([3, 1]), _sample.as_labels([[0.5, 0.5]])
    finally:
        torch.set_default_dtype(torch.float32)
    assert indices.dtype == torch.int64 and rows.dtype == torch.float64


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (["a", "b", "c", "d"], TypeError, "got a list with str in it; map the names to indices"),
        (np.array(["a"] * 4), TypeError, "got a <U1 array of shape (4,)"),
        ([0, 1, None, 2], TypeError, "got a list with NoneType in it"),
        ([True, False, True, False], TypeError, "got a list with bool in it"),
        ([0, True, 2, 3], TypeError, "got a list with bool in it"),
        (np.array([True] * 4), TypeError, "got a bool array of shape (4,)"),
        ([[1.0], [0.5, 0.5]], ValueError, "labels must be rows of one length, got a list"),
        ([0.0, 1.0, 2.0, 3.0], TypeError, "class indices (B,) must be integers, got torch.float64 of shape (4,)"),
        ([torch.zeros(4), torch.zeros(4)], TypeError, "got a list of tensors of shape (4,)"),
        ([0, torch.tensor(1), 2, 3], TypeError, "got a list of tensors of shape ()"),
        (np.array([2**64 - 1] * 4, dtype=np.uint64), ValueError, "labels must be whole numbers below 2^63"),
        (np.array([0, 1, 2, 9]), ValueError, "labels must be in [0, 5), got 9"),
        (np.array(3), TypeError, "labels must be a tensor, got ndarray: mix after the batch is collated"),
        (3, TypeError, "labels must be a tensor, got int: mix after the batch is collated"),
    ],
    ids=str,
)
def test_labels_that_cannot_be_converted_are_refused_with_their_place(labels, error, message):
    with pytest.raises(error) as caught:
        DynamicMixCut(CLASSES)({"meta": {"id": IDS}, "image": IMAGES, "label": labels})
    assert message in str(caught.value) and str(caught.value).endswith("labels are sample['label']")


# ---------------------------------------------------------------- getters


def test_images_getter(transform):
    first, second = images_of(seed=1), images_of(seed=2)
    sample = {"mask": first, "image": IMAGES, "view": second, "label": LABELS}
    out = transform(images_getter=second_view)(sample)
    assert out["image"] is IMAGES and out["mask"] is first and not out["view"].equal(second)
    out = transform(images_getter=lambda s: (s["mask"], s["view"]))(sample)
    assert out["image"] is IMAGES and not out["mask"].equal(first) and not out["view"].equal(second)
    with pytest.raises(
        ValueError, match=r"^images_getter must return entries of the sample, got another object: a torch"
    ):
        transform(images_getter=lambda s: s["image"].clone())(sample)
    with pytest.raises(ValueError, match=r"^images_getter must return at least one entry of the sample, got none"):
        transform(images_getter=lambda s: [])(sample)
    with pytest.raises(TypeError, match=r"^images_getter must be 'default' or a function of the sample, got 'first'"):
        transform(images_getter="first")


def test_images_getter_must_not_return_the_labels():
    with pytest.raises(ValueError, match=r"^images_getter must not return the labels, got sample\['label'\]"):
        DynamicMixCut(CLASSES, images_getter=lambda s: s["label"])({"image": IMAGES, "label": LABELS})


def second_view(sample):
    return sample["view"]


def test_transforms_with_getters_are_copied_and_pickled():
    samples = [{"image": x, "view": 1 - x, "y": int(y), "label": 0} for x, y in zip(IMAGES, LABELS, strict=True)]
    made = DynamicMixCutCollate(CLASSES, images_getter=second_view, labels_getter=y_of, generator=torch.Generator())
    expected = copy.deepcopy(made)(samples)
    got = pickle.loads(pickle.dumps(made))(samples)
    assert got["view"].equal(expected["view"]) and got["y"].equal(expected["y"]) and got["image"].equal(IMAGES)
    assert got["label"].tolist() == [0] * 4
    ipmix = pickle.loads(pickle.dumps(IPMix(mixing_set=PICTURES, levels=("image",), images_getter=second_view)))
    assert ipmix({"image": IMAGES, "view": 1 - IMAGES})["image"] is IMAGES


def y_of(batch):
    return batch["y"]


def test_getters_find_containers():
    out = DynamicMixCut(CLASSES, labels_getter=lambda s: s["y"])({"image": IMAGES, "y": [0, 1, 2, 3]})
    assert out["y"].shape == (4, CLASSES)


# ---------------------------------------------------------------- messages, containers, compilers


def test_messages_name_the_entry():
    mix = DynamicMixCut(CLASSES)
    with pytest.raises(
        TypeError, match=r"got torch.float64; images are sample\['x'\]\['image'\], labels are sample\['l"
    ):
        mix({"x": {"image": IMAGES.double()}, "label": LABELS})
    with pytest.raises(TypeError) as caught:
        mix({"meta": {"id": IDS}, "mask": MASK, "label": LABELS, "name": "x"})
    assert str(caught.value) == (
        "images must be a tensor of shape (B, C, H, W) in the sample, got sample['meta']['id']: a torch.int64 tensor "
        "of shape (4,), sample['mask']: a torch.float32 tensor of shape (4, 1, 16, 16), sample['name']: str beside the "
        "labels sample['label']; others: images_getter"
    )
    with pytest.raises(ValueError, match=r"got 2 channels|channels .*got shape .*; images are sample\['image'\]"):
        IPMix(mixing_set=PICTURES)({"label": LABELS, "image": images_of(channels=2)})
    with pytest.raises(
        TypeError, match=r"^images must be a PIL image or a tensor, got sample\['label'\]: a torch.int64"
    ):
        IPMix(mixing_set=PICTURES)({"label": LABELS, "mask": MASK})


@pytest.mark.parametrize("make", [DynamicMixCutCollate, LabelSmoothingCollate])
@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ([], ValueError, "samples must be a list of samples such as (image, label), at least one, got none"),
        ((IMAGES[0], 1), TypeError, "as samples[0]: with batch_size=None there is nothing to collate"),
        ((IMAGES, LABELS), TypeError, "as samples[0]: with batch_size=None there is nothing to collate"),
        ({"image": IMAGES[0], "label": 1}, TypeError, "got one dict with the keys ['image', 'label']: with batch_size"),
        (IMAGES, TypeError, "got a torch.float32 tensor of shape (4, 3, 16, 16): with batch_size=None"),
        ([IMAGES[0]] * 3, TypeError, "got a torch.float32 tensor of shape (3, 16, 16) as samples[0]"),
        ([(IMAGES[0], 1), 3], TypeError, "got int as samples[1]"),
        (7, TypeError, "got int: with batch_size=None"),
        ([(IMAGES[0], [0.5, 0.5])] * 4, TypeError, "(what default_collate makes of lists of numbers)"),
        ([(IMAGES[0], "cat")] * 4, TypeError, "with str in it; map the names to indices"),
    ],
    ids=str,
)
def test_collates_take_a_list_of_samples(make, samples, error, message):
    with pytest.raises(error) as caught:
        make(CLASSES)(samples)
    assert message in str(caught.value)


def test_mappings_that_cannot_be_made_anew_are_refused():
    from collections.abc import Mapping

    class Frozen(Mapping):
        def __init__(self, a, b):
            self.store = {"image": a, "label": b}

        def __getitem__(self, key):
            return self.store[key]

        def __iter__(self):
            return iter(self.store)

        def __len__(self):
            return 2

    with pytest.raises(TypeError, match=r"^sample must be of tuples, lists and dicts, got a Frozen: "):
        DynamicMixCut(CLASSES)(Frozen(IMAGES, LABELS))


@pytest.mark.parametrize("name", ["tuple", "labels first", "mask first", "second entry a mapping", "explicit"])
def test_a_call_compiles_whole(name):
    sample, image_path, label_path = SAMPLES[name]
    mix = DynamicMixCut(CLASSES, generator=None)
    if name == "explicit":  # torch.compile does not make torchvision's kinds
        sample = {"q": IMAGES, "depth": MASK, "label": LABELS}
        image_path = ("q",)
    torch.compiler.reset()
    out = torch.compile(lambda s: mix(s), fullgraph=True, backend="aot_eager")(sample)
    assert at(out, image_path).shape == IMAGES.shape and at(out, label_path).shape == (4, CLASSES)


# ---------------------------------------------------------------- the rule against a slow, plain one


KEYS = ["image", "Images", "img", "pixel_values", "mask", "seg_mask", "id", "image_id", "label", "Labels", "target",
        "is_unlabeled", "label_name", "fine_label", "depth", "q", "x", "video", 3]  # fmt: skip
LEAVES = [IMAGES, images_of(seed=5), MASK, images_of().byte(), LABELS, IDS, torch.rand(4), torch.eye(4),
          IMAGES.double(), IMAGES[0], torch.ones(4, 3, 2, 2).bool(), "x", 2.5, None]  # fmt: skip
#: Equal objects in two places would be one entry to a comparison by identity.
leaves = st.sampled_from(range(len(LEAVES))).map(
    lambda i: LEAVES[i].clone() if isinstance(LEAVES[i], Tensor) else LEAVES[i]
)
nested = st.recursive(
    leaves,
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.lists(inside, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(KEYS), inside, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS), inside, max_size=3).map(UserDict)
    ),
    max_leaves=12,
)


def plain_leaves(sample, path=()):
    """Every entry with its path."""
    if isinstance(sample, dict | UserDict):
        return [leaf for key in sample for leaf in plain_leaves(sample[key], (*path, key))]
    if isinstance(sample, list | tuple):
        return [leaf for i in range(len(sample)) for leaf in plain_leaves(sample[i], (*path, i))]
    return [(path, sample)]


def plain_images(sample, skip=None):
    """Path of the images, as the module's first lines say it."""
    best = None
    for path, value in plain_leaves(sample):
        if path == skip or not isinstance(value, Tensor):
            continue
        if value.dtype not in (torch.uint8, torch.float32) or value.ndim != 4:
            continue
        keys = [str(key).lower() for key in path if isinstance(key, str)]
        if any(word in ("mask", "id", "label", "labels", "target", "depth") for key in keys for word in key.split("_")):
            continue
        named = any(key in ("image", "images", "img", "pixel_values", "video") for key in keys)
        rank = (0, len(path)) if named else (1, 0)
        if best is None or rank < best[0]:
            best = (rank, path)
    return None if best is None else best[1]


@settings(max_examples=400, deadline=None)
@given(nested)
def test_images_are_those_of_the_plain_rule(sample):
    entries = _sample.entries_of(sample, _sample.PICTURES)
    expected = plain_images(sample)
    try:
        (found,) = _sample.find_images(sample, entries, None, _sample.can_be_batch, "a tensor")
    except TypeError:
        assert expected is None
        return
    if expected is None:  # the one that is meant: its own check refuses it
        assert not _sample.can_be_batch(found.value)
    else:
        assert found.path == expected


def plain_labels(sample):
    """Value of the labels in a flat mapping."""
    for wanted in ("labels", "label"):
        for key in sample:
            if str(key).lower() == wanted and sample[key] is not None:
                return sample[key]

    def fits(value):
        whole = isinstance(value, Tensor) and value.dtype in (torch.int64, torch.uint8)
        return isinstance(value, Tensor) and (
            (value.ndim == 1 and whole) or (value.ndim == 2 and value.dtype != torch.bool)
        )

    for wanted in (lambda key: key == "target", lambda key: "label" in key):
        for key in sample:
            if wanted(str(key).lower()) and fits(sample[key]):
                return sample[key]
    for wanted in (lambda key: key == "target", lambda key: "label" in key):
        for key in sample:
            if wanted(str(key).lower()) and (sample[key] is not None or str(key).lower() != "target"):
                return sample[key]
    return KeyError


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), leaves, max_size=6), st.booleans())
def test_labels_are_those_of_the_plain_rule(sample, wrapped):
    expected = plain_labels(sample)
    given_sample = (IMAGES, UserDict(sample)) if wrapped else sample
    try:
        found = _sample.find_labels(given_sample)
    except ValueError:
        assert expected is KeyError
        return
    assert found.value is expected and at(given_sample, found.path) is expected


@settings(max_examples=200, deadline=None)
@given(nested, st.data())
def test_replacing_changes_just_the_entries_meant(sample, data):
    paths = [path for path, _ in plain_leaves(sample)]
    chosen = data.draw(st.lists(st.sampled_from(paths), unique=True)) if paths else []
    before = plain_leaves(sample)
    new = {path: object() for path in chosen}
    out = _sample.replaced(sample, new)
    assert type(out) is type(sample) or () in new
    for (path, old), (path_out, value) in zip(before, plain_leaves(out), strict=True):
        assert path_out == path and value is new.get(path, old)
    assert all(one[1] is two[1] for one, two in zip(before, plain_leaves(sample), strict=True))
