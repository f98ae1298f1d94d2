"""Dynamic MixCut and its parts refuse bad input: kind of error, argument, rule and what was received."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from mixaug import DynamicMixCut, DynamicMixCutCollate, LabelSmoothingCollate
from mixaug.transforms import replay_dynamic_mixcut, sample_boxes, smooth_labels
from mixaug.transforms.dynamic_mixcut import DynamicMixCutSettings, sample_dynamic_mixcut

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])
NAN, INF = float("nan"), float("inf")


def check_refused(error: type[Exception], message: str):
    """The error with just this message."""
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def check_refused_beginning(error: type[Exception], message: str):
    return pytest.raises(error, match=f"^{re.escape(message)}")


# ---------------------------------------------------------------- arguments


SHARED = [
    ({"boxes": 0}, ValueError, "boxes must be from 1 to 1000, got 0"),
    ({"boxes": -2}, ValueError, "boxes must be from 1 to 1000, got -2"),
    ({"boxes": (4, 2)}, ValueError, "boxes must be a range (low, high) with low <= high, got (4, 2)"),
    ({"boxes": (0, 2)}, ValueError, "boxes must be from 1 to 1000, got 0"),
    ({"boxes": (1, 2, 3)}, ValueError, "boxes must be a number or a pair (low, high), got tuple: (1, 2, 3)"),
    ({"boxes": ()}, ValueError, "boxes must be a number or a pair (low, high), got tuple: ()"),
    ({"boxes": 2.0}, TypeError, "boxes must be an int, got float: 2.0"),
    ({"boxes": (1, 2.5)}, TypeError, "boxes must be an int, got float: 2.5"),
    ({"boxes": True}, TypeError, "boxes must be an int, got bool: True"),
    ({"boxes": "23"}, TypeError, "boxes must be an int, got str: '23'"),
    ({"boxes": None}, TypeError, "boxes must be an int, got None"),
    ({"smoothing": -0.1}, ValueError, "smoothing must be from 0 to 1, got -0.1"),
    ({"smoothing": 1.01}, ValueError, "smoothing must be from 0 to 1, got 1.01"),
    ({"smoothing": NAN}, ValueError, "smoothing must be from 0 to 1, got nan"),
    ({"smoothing": "0.1"}, TypeError, "smoothing must be a number, got str: '0.1'"),
    ({"smoothing": True}, TypeError, "smoothing must be a number, got bool: True"),
    ({"p": 1.5}, ValueError, "p must be from 0 to 1, got 1.5"),
    ({"p": -1}, ValueError, "p must be from 0 to 1, got -1"),
    ({"p": None}, TypeError, "p must be a number, got None"),
    ({"area": (0.5, 0.2)}, ValueError, "area must be a range (low, high) with low <= high, got (0.5, 0.2)"),
    ({"area": (-0.1, 0.2)}, ValueError, "area must be from 0 to 1, got -0.1"),
    ({"area": (0.1, 1.2)}, ValueError, "area must be from 0 to 1, got 1.2"),
    ({"area": (0.1, INF)}, ValueError, "area must be from 0 to 1, got inf"),
    ({"area": 0.2}, TypeError, "area must be a pair (low, high), got float: 0.2"),
    ({"area": (0.1,)}, ValueError, "area must be a pair (low, high), got tuple: (0.1,)"),
    ({"area": "ab"}, TypeError, "area must be a pair (low, high), got str: 'ab'"),
    ({"area": (0.1, "b")}, TypeError, "area must be a number, got str: 'b'"),
    ({"square": 1}, TypeError, "square must be True or False, got int: 1"),
    ({"num_classes": 0}, ValueError, "num_classes must be from 1 to 10000000, got 0"),
    ({"num_classes": 10.0}, TypeError, "num_classes must be an int, got float: 10.0"),
    ({"num_classes": True}, TypeError, "num_classes must be an int, got bool: True"),
    ({"labels_getter": "auto"}, TypeError, "labels_getter must be 'default' or a function of the sample, got 'auto'"),
    ({"labels_getter": None}, TypeError, "labels_getter must be 'default' or a function of the sample, got None"),
    ({"generator": 0}, TypeError, "generator must be a torch.Generator or None, got int: 0"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), SHARED)
@pytest.mark.parametrize("make", [DynamicMixCut, DynamicMixCutCollate])
def test_bad_arguments(make, arguments, error, message):
    with check_refused(error, message):
        make(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [row for row in SHARED if {"smoothing", "num_classes", "labels_getter"} & set(row[0])],
)
def test_bad_arguments_of_label_smoothing(arguments, error, message):
    with check_refused(error, message):
        LabelSmoothingCollate(**arguments)


def test_names_are_not_swallowed():
    for make in (DynamicMixCut, DynamicMixCutCollate, LabelSmoothingCollate):
        with pytest.raises(TypeError, match="smoothin"):
            make(10, smoothin=0.1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"count": 0}, ValueError, "count must be from 1 to 1000, got 0"),
        ({"count": (3, 1)}, ValueError, "count must be a range (low, high) with low <= high, got (3, 1)"),
        ({"count": 1.0}, TypeError, "count must be an int, got float: 1.0"),
        ({"batch_size": -1}, ValueError, "batch_size must be at least 0, got -1"),
        ({"batch_size": 1.0}, TypeError, "batch_size must be an int, got float: 1.0"),
        ({"size": 32}, TypeError, "size must be a pair (H, W), got int: 32"),
        ({"size": (1, 2, 3)}, TypeError, "size must be a pair (H, W), got tuple: (1, 2, 3)"),
        ({"size": (0, 8)}, ValueError, "size must be from 1 to 16384, got 0"),
        ({"size": (8, 8.0)}, TypeError, "size must be an int, got float: 8.0"),
        ({"area": (0.2, 0.1)}, ValueError, "area must be a range (low, high) with low <= high, got (0.2, 0.1)"),
        ({"square": None}, TypeError, "square must be True or False, got None"),
    ],
)
def test_bad_arguments_of_sample_boxes(arguments, error, message):
    with check_refused(error, message):
        sample_boxes(**{"batch_size": 2, "size": (8, 8), **arguments})


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bool])
def test_images_of_another_dtype(dtype):
    with check_refused(TypeError, f"images must be uint8, float16, bfloat16 or float32, got {dtype}"):
        DynamicMixCut(4)(torch.zeros(4, 3, 8, 8, dtype=dtype), LABELS)


@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 8), (1, 4, 2, 3, 8, 8)])
def test_images_of_another_shape(shape):
    hint = ": mix after the batch is collated" if len(shape) == 3 else ""
    with check_refused(ValueError, f"images must be (B, C, H, W) or clips (B, T, C, H, W), got shape {shape}{hint}"):
        DynamicMixCut(4)(torch.rand(shape), LABELS)


@pytest.mark.parametrize("shape", [(4, 0, 8, 8), (4, 3, 0, 8), (4, 3, 8, 0), (4, 0, 3, 8, 8)])
def test_images_without_pixels(shape):
    with check_refused(ValueError, f"images must have at least one pixel and channel, got shape {shape}"):
        DynamicMixCut(4)(torch.rand(shape), LABELS)


def test_samples_without_images():
    mix = DynamicMixCut(4, labels_getter=lambda sample: sample[-1])
    message = "images must be a tensor of shape (B, C, H, W) in the sample, got sample['a']: str, sample['b']: float"
    with check_refused(TypeError, f"{message} beside the labels sample['label']; others: images_getter"):
        DynamicMixCut(4, labels_getter=lambda sample: sample["label"])({"label": LABELS, "a": "x", "b": 2.5})
    with check_refused_beginning(
        TypeError,
        "images must be a tensor of shape (B, C, H, W) in the sample, got sample[0]: a float64 array of shape "
        "(4, 3, 8, 8) beside the labels sample[1]",
    ):
        mix(np.zeros((4, 3, 8, 8)), LABELS)
    with check_refused(
        TypeError, "images must be a batch of tensors, got a PIL image: mix after the batch is collated"
    ):
        mix(Image.new("RGB", (8, 8)), LABELS)


@pytest.mark.parametrize(
    "target",
    [
        tv_tensors.BoundingBoxes([[1, 2, 5, 6]], format="XYXY", canvas_size=(8, 8)),
        tv_tensors.Mask(torch.zeros(4, 8, 8, dtype=torch.uint8)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_targets_that_mixing_would_make_wrong(target):
    message = "DynamicMixCut mixes images but not their {} ({}); leave it out"
    with check_refused(TypeError, message.format(type(target).__name__, "sample['target']")):
        DynamicMixCut(4)({"image": tv_tensors.Image(IMAGES), "label": LABELS, "target": target})
    with check_refused(TypeError, message.format(type(target).__name__, "sample[2]")):
        v2.Compose([DynamicMixCut(4)])(tv_tensors.Image(IMAGES), LABELS, target)


def test_images_of_one_sample_have_one_size():
    images, smaller = tv_tensors.Image(IMAGES), tv_tensors.Image(IMAGES[..., 1:])
    with check_refused(
        ValueError,
        "the images of one sample share their draw and must have one size, got (4, 3, 8, 8) and (4, 3, 8, 7); images "
        "are sample['a'], sample['b'], labels are sample['label']",
    ):
        DynamicMixCut(4)({"a": images, "b": smaller, "label": LABELS})


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_values_that_are_not_finite(bad):
    images = IMAGES.clone()
    images[1, 2, 3, 4] = bad
    with check_refused_beginning(ValueError, "images must be finite, got 1 of 768 values that are NaN or infinite"):
        DynamicMixCut(4)(images, LABELS)
    with check_refused_beginning(ValueError, "views[0] must be finite, got 1 of 768 values that are NaN or infinite"):
        DynamicMixCut(4)(IMAGES, LABELS, views=(images, IMAGES))
    with check_refused_beginning(ValueError, "views[1] must be finite, got 1 of 768 values that are NaN or infinite"):
        DynamicMixCut(4)(IMAGES, LABELS, views=(IMAGES, images))


def test_images_that_look_normalised():
    normalised = (IMAGES - 0.5) / 0.2
    warning = r"^images must lie in \[0, 1\], got values from .* which are mixed as they are\. Normalised images\?"
    mix = DynamicMixCut(4)
    with pytest.warns(UserWarning, match=warning):
        assert mix(normalised, LABELS)[0].shape == IMAGES.shape
    mix(normalised, LABELS)  # once: warnings are errors here
    with pytest.warns(UserWarning, match=r"^views\[1\] must lie in \[0, 1\]"):
        DynamicMixCut(4)(IMAGES, LABELS, views=(IMAGES, normalised))
    with pytest.warns(UserWarning, match=warning):
        DynamicMixCut(4)(tv_tensors.Image(normalised), LABELS)


def test_floats_that_were_not_divided_by_255():
    warning = r"got values from 0 to 2\d\d, which are mixed as they are\. Bytes as floats\? Divide them by 255"
    with pytest.warns(UserWarning, match=warning):
        DynamicMixCut(4)((IMAGES * 255).round(), LABELS)
    with pytest.warns(UserWarning, match="Normalised images"):
        DynamicMixCut(4)(IMAGES * 1.9, LABELS)


def test_how_many_values_are_not_finite():
    images = IMAGES.clone()
    images[0, 0, 0, :3] = torch.tensor([NAN, INF, -INF])
    with check_refused(ValueError, "images must be finite, got 3 of 768 values that are NaN or infinite"):
        DynamicMixCut(4)(images, LABELS)


def test_values_of_batches_are_read_at_the_first_call_or_when_asked():
    bad = torch.full_like(IMAGES, NAN)
    mix = DynamicMixCut(4)
    with check_refused_beginning(ValueError, "images must be finite"):
        mix(bad, LABELS)
    with check_refused_beginning(ValueError, "images must be finite"):
        mix(bad, LABELS)  # a failed call is not the first one
    mix(IMAGES, LABELS)
    assert mix(bad, LABELS)[0].shape == bad.shape
    with check_refused_beginning(ValueError, "images must be finite"):
        mix(bad[:1], LABELS[:1])  # one image on the CPU is cheap to read
    checked = DynamicMixCut(4, check_values=True)
    checked(IMAGES, LABELS)
    with check_refused_beginning(ValueError, "images must be finite"):
        checked(bad, LABELS)
    with check_refused_beginning(ValueError, "images must be finite"):
        checked.replay(bad, LABELS, checked.sample(bad))


# ---------------------------------------------------------------- views


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("view", "error", "message"),
    [
        (IMAGES[:3], ValueError, "must have the images' shape (4, 3, 8, 8), got (3, 3, 8, 8)"),
        (IMAGES[:, :1], ValueError, "must have the images' shape (4, 3, 8, 8), got (4, 1, 8, 8)"),
        (IMAGES.half(), TypeError, "must have the images' dtype torch.float32, got torch.float16"),
        (IMAGES.byte(), TypeError, "must have the images' dtype torch.float32, got torch.uint8"),
        (IMAGES.to("meta"), ValueError, "must be on the images' device cpu, got meta"),
        (IMAGES.numpy(), TypeError, "must be a tensor, got ndarray"),
        (None, TypeError, "must be a tensor, got NoneType"),
    ],
    ids=["batch", "channels", "half", "byte", "device", "array", "None"],
)
def test_views_unlike_the_images(which, view, error, message):
    views = (view, IMAGES) if which == 0 else (IMAGES, view)
    params = DynamicMixCut(4).sample(IMAGES)
    for call in (
        lambda: DynamicMixCut(4)(IMAGES, LABELS, views=views),
        lambda: DynamicMixCut(4).replay(IMAGES, LABELS, params, views),
        lambda: replay_dynamic_mixcut(IMAGES, LABELS, params, views=views, num_classes=4),
    ):
        with check_refused(error, f"views[{which}] {message}"):
            call()


@pytest.mark.parametrize("views", [IMAGES, (IMAGES,), (IMAGES,) * 3, "ab", ()], ids=["one", "1", "3", "str", "0"])
def test_views_that_are_no_pair(views):
    count = f" of {len(views)}" if isinstance(views, tuple) else ""
    with check_refused(TypeError, f"views must be a pair of tensors, got {type(views).__name__}{count}"):
        DynamicMixCut(4)(IMAGES, LABELS, views=views)


def test_views_of_two_batches():
    sample = {"a": tv_tensors.Image(IMAGES), "b": tv_tensors.Image(IMAGES), "label": LABELS}
    with check_refused_beginning(ValueError, "views are of one batch of images, got a sample with 2; images are s"):
        DynamicMixCut(4)(sample, views=(IMAGES, IMAGES))


# ---------------------------------------------------------------- labels


LABEL_CASES = [
    (torch.tensor([0, 1, 2, 4]), ValueError, "labels must be in [0, 4), got 4"),
    (torch.tensor([0, -1, 2, 9]), ValueError, "labels must be in [0, 4), got -1"),
    (torch.tensor([0, 1, 2, 200], dtype=torch.uint8), ValueError, "labels must be in [0, 4), got 200"),
    (torch.tensor([0, 1, 2, 9], dtype=torch.uint16), ValueError, "labels must be in [0, 4), got 9"),
    (torch.full((4, 4), 0.3), ValueError, "labels of probabilities must sum to 1 in each row, got a sum of 1.2"),
    (torch.eye(4) * 0.5, ValueError, "labels of probabilities must sum to 1 in each row, got a sum of 0.5"),
    (torch.eye(4) * NAN, ValueError, "labels of probabilities must sum to 1 in each row, got a sum of nan"),
    (torch.eye(4).half() * 0.97, ValueError, "labels of probabilities must sum to 1 in each row, got a sum of 0.9702"),
    (torch.tensor([[2.0, -1, 0, 0]] * 4), ValueError, "labels of probabilities must be at least 0, got -1"),
    (torch.eye(4)[:, :3], ValueError, "labels must have num_classes=4 columns, got 3"),
    (torch.eye(4).long()[:, :3], ValueError, "labels must have num_classes=4 columns, got 3"),
    (torch.arange(3), ValueError, "labels must be 4, one for each image, got 3"),
    (torch.eye(4)[:3], ValueError, "labels must be 4, one for each image, got 3"),
    (LABELS.to("meta"), ValueError, "labels must be on the images' device cpu, got meta"),
    (torch.eye(4, device="meta"), ValueError, "labels must be on the images' device cpu, got meta"),
    (
        LABELS.float(),
        TypeError,
        "labels: class indices (B,) must be integers, got torch.float32 of shape (4,)",
    ),
    (LABELS.bool(), TypeError, "labels: class indices (B,) must be integers, got torch.bool of shape (4,)"),
    (
        torch.eye(4).bool(),
        TypeError,
        "labels: probabilities (B, K) must be floating, got torch.bool of shape (4, 4)",
    ),
    (
        torch.tensor(3),
        ValueError,
        "labels must be class indices of shape (B,) or probabilities of shape (B, K), got shape ()",
    ),
    (
        torch.zeros(4, 4, 1),
        ValueError,
        "labels must be class indices of shape (B,) or probabilities of shape (B, K), got shape (4, 4, 1)",
    ),
    ([0, 1, 2, 3], TypeError, "labels must be a tensor, got list"),
    (None, TypeError, "labels must be a tensor, got NoneType"),
]


@pytest.mark.parametrize(("labels", "error", "message"), LABEL_CASES)
@pytest.mark.parametrize("with_views", [False, True])
def test_labels_that_do_not_fit(labels, error, message, with_views):
    views = (IMAGES, IMAGES) if with_views else None
    params = sample_dynamic_mixcut(4, (8, 8), DynamicMixCutSettings())
    mix = DynamicMixCut(4)
    for call in (
        lambda: mix.replay(IMAGES, labels, params, views),
        lambda: replay_dynamic_mixcut(IMAGES, labels, params, views=views, num_classes=4),
    ):
        with check_refused(error, message):
            call()
    if isinstance(labels, torch.Tensor):
        with check_refused(error, message):
            mix(IMAGES, labels, views=views)
        mix(IMAGES, LABELS)
        with check_refused(error, message):  # labels on the CPU are read at every call
            mix(IMAGES, labels, views=views)


def test_labels_of_smooth_labels():
    for labels, error, message in LABEL_CASES:
        if "for each image" not in message and "images' device" not in message:
            with check_refused(error, message):
                smooth_labels(labels, 4, 0.1)
    for smoothing in (-0.1, 1.1, NAN):
        with check_refused_beginning(ValueError, "smoothing must be from 0 to 1, got"):
            smooth_labels(LABELS, 4, smoothing)


def test_probabilities_within_rounding_are_taken():
    images = torch.rand(64, 1, 4, 4)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        rows = torch.rand(64, 1000, generator=torch.Generator().manual_seed(0)).mul(9).softmax(1).to(dtype)
        assert DynamicMixCut()(images, rows)[1].shape == (64, 1000)
    thirds = torch.tensor([[1 / 3, 2 / 3]]).bfloat16()
    assert float(thirds.sum(1, dtype=torch.float32)) > 1.0015
    assert smooth_labels(thirds, 2, 0.0).shape == (1, 2)


def test_num_classes_is_needed_with_indices():
    message = "num_classes must be given when labels are class indices, got None"
    params = sample_dynamic_mixcut(4, (8, 8), DynamicMixCutSettings())
    for call in (
        lambda: DynamicMixCut()(IMAGES, LABELS),
        lambda: DynamicMixCut().replay(IMAGES, LABELS, params),
        lambda: replay_dynamic_mixcut(IMAGES, LABELS, params),
        lambda: smooth_labels(LABELS, None, 0.1),
        lambda: DynamicMixCutCollate()([(IMAGES[0], 1)]),
        lambda: LabelSmoothingCollate()([(IMAGES[0], 1)]),
    ):
        with check_refused(ValueError, message):
            call()
    assert DynamicMixCut()(IMAGES, torch.eye(4))[1].shape == (4, 4)


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        ((IMAGES,), ValueError, "labels must be the second entry of the sample, got a tuple of 1"),
        ([], ValueError, "labels must be the second entry of the sample, got a list of 0"),
        (IMAGES, ValueError, "labels must be given with the images, as (images, labels), got a tensor alone"),
        (
            {"image": IMAGES, "class": LABELS},
            ValueError,
            "labels must be under a key that is labels, label, targets or target or has 'label' in it, got the keys "
            "['image', 'class']; or labels_getter",
        ),
        (
            (IMAGES, {"class": LABELS}),
            ValueError,
            "labels must be under a key that is labels, label, targets or target or has 'label' in it, got the keys "
            "['class'] in sample[1]; or labels_getter",
        ),
        (
            (IMAGES, "cat"),
            ValueError,
            "labels must be the second entry of a tuple, or under a key of a mapping (other places: labels_getter), "
            "got str",
        ),
        (
            (LABELS, tv_tensors.Image(IMAGES)),
            ValueError,
            "labels must be the second entry of a tuple, or under a key of a mapping (other places: labels_getter), "
            "got Image",
        ),
        (
            {"image": IMAGES, "label": [0, 1]},
            ValueError,
            "labels must be 4, one for each image, got 2; images are sample['image'], labels are sample['label']",
        ),
        (
            {"image": IMAGES, "label": ["cat"] * 4},
            TypeError,
            "labels must be class indices or probabilities, got a list with str in it; map the names to indices; "
            "images are sample['image'], labels are sample['label']",
        ),
    ],
)
def test_labels_that_are_not_found(sample, error, message):
    for transform in (DynamicMixCut(4), v2.Compose([DynamicMixCut(4)])):
        with check_refused(error, message):
            transform(sample)


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        ((IMAGES[0], 3), ValueError, "(other places: labels_getter), got int: mix after the batch is collated"),
        ((IMAGES[0], LABELS[:3]), ValueError, "got shape (3, 8, 8): mix after the batch is collated"),
        ({"image": IMAGES[0], "label": 3}, TypeError, "got int: mix after the batch is collated"),
        ((Image.new("RGB", (8, 8)), 3), TypeError, "got a PIL image: mix after the batch is collated"),
    ],
    ids=["int", "tensor", "mapping", "PIL"],
)
def test_one_image_is_told_where_to_mix(sample, error, message):
    with pytest.raises(error) as caught:
        DynamicMixCut(4)(sample)
    assert str(caught.value).partition(";")[0].endswith(message)


def test_a_labels_getter_that_returns_a_number_is_told_where_to_mix():
    with check_refused(TypeError, "labels must be a tensor, got int: mix after the batch is collated"):
        DynamicMixCut(4, labels_getter=lambda sample: 12345)((IMAGES[0], LABELS[:3]))


def test_nothing_is_no_sample():
    with check_refused(ValueError, "labels must be the second entry of the sample, got a tuple of 0"):
        DynamicMixCut(4)()


def test_labels_getter_must_return_an_entry():
    with check_refused(ValueError, "labels_getter must return an entry of the sample, got another tensor"):
        DynamicMixCut(4, labels_getter=lambda sample: sample[1].clone())(IMAGES, LABELS)
    with check_refused(TypeError, "labels must be a tensor, got NoneType"):
        DynamicMixCut(4, labels_getter=lambda sample: None)(IMAGES, LABELS)


# ---------------------------------------------------------------- records


def test_records_of_other_images():
    mix = DynamicMixCut(4)
    params = mix.sample(IMAGES)
    for images in (IMAGES[..., :7], IMAGES[:3], IMAGES.transpose(2, 3)[:, :, :6]):
        labels = LABELS[: len(images)]
        message = f"params were drawn for 4 images of size (8, 8), got images of shape {tuple(images.shape)}"
        with check_refused(ValueError, message):
            mix.replay(images, labels, params)
        with check_refused(ValueError, message):
            replay_dynamic_mixcut(images, labels, params, num_classes=4)
        with check_refused(ValueError, message):
            mix.replay(images, labels, params, (images, images))
    with check_refused(TypeError, "params must be DynamicMixCutParams, got dict"):
        mix.replay(IMAGES, LABELS, params.tensors())
    with check_refused(TypeError, "images must be a tensor of shape (B, C, H, W), got list"):
        mix.sample([IMAGES])
    with check_refused(TypeError, "images must be a tensor of shape (B, C, H, W), got list"):
        mix.replay([IMAGES], LABELS, params)


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("lam", lambda x: x[:, None], TypeError, "lam must be a tensor of 1 dimensions, got a "),
        ("lam", lambda x: x.double() + 1e-12, ValueError, "lam must be exact as torch.float32, got "),
        ("index", lambda x: x[:, :1], ValueError, "index must have shape (4, 2), got (4, 1)"),
        ("beta", lambda x: x[:3], ValueError, "beta must have shape (4,), got (3,)"),
        ("beta", lambda x: x * float("nan"), ValueError, "beta must be from 0 to 1, got nan at [0]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("with_views", [False, True])
def test_records_with_other_tensors(name, change, error, message, with_views):
    """A record that was stored and read again as something else."""
    params = DynamicMixCut(4).sample(IMAGES)
    params = dataclasses.replace(params, **{name: change(getattr(params, name))})
    views = (IMAGES, IMAGES) if with_views else None
    with check_refused_beginning(error, f"params.{message}"):
        DynamicMixCut(4).replay(IMAGES, LABELS, params, views)
    with check_refused_beginning(error, f"params.{message}"):
        replay_dynamic_mixcut(IMAGES, LABELS, params, views=views, num_classes=4)


@pytest.mark.parametrize(
    ("name", "dtype"), [("lam", torch.float64), ("index", torch.int32), ("index", torch.uint8), ("boxes", torch.int16)]
)
def test_records_in_other_dtypes_are_cast_exactly(name, dtype):
    params = DynamicMixCut(4).sample(IMAGES)
    stored = dataclasses.replace(params, **{name: getattr(params, name).to(dtype)})
    for got, wanted in zip(*(DynamicMixCut(4).replay(IMAGES, LABELS, each) for each in (stored, params)), strict=True):
        assert torch.equal(got, wanted)


def test_halves_of_a_record_are_the_numbers_that_they_hold():
    params = DynamicMixCut(4).sample(IMAGES)
    half = dataclasses.replace(params, beta=params.beta.half(), lam=params.lam.bfloat16())
    same = dataclasses.replace(params, beta=half.beta.float(), lam=half.lam.float())
    for got, wanted in zip(*(DynamicMixCut(4).replay(IMAGES, LABELS, each) for each in (half, same)), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("batch", [1, 4])
def test_records_that_name_other_images(batch):
    params = DynamicMixCut(4).sample(IMAGES[:batch])
    params = dataclasses.replace(params, index=params.index + batch, boxes=torch.tensor([[[0, 0, 8, 8]]] * batch))
    with pytest.raises(ValueError, match=rf"params.index must be from 0 to {batch - 1}, got \d at \[0, 0\]"):
        DynamicMixCut(4).replay(IMAGES[:batch], LABELS[:batch], params)
