"""Dynamic MixCut: pixels and labels against the per-pixel reference, kinds of input, records, samples, autograd.

The draws are in test_boxes.py, bad input in test_dynamic_mixcut_input.py, loaders in test_collate.py.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from collections import OrderedDict, namedtuple

import pytest
import reference_mixcut as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2._utils import _parse_labels_getter

import mixaug_ext
from mixaug import DynamicMixCut
from mixaug.transforms import replay_dynamic_mixcut, smooth_labels
from mixaug.transforms.dynamic_mixcut import DynamicMixCutParams, DynamicMixCutSettings, sample_dynamic_mixcut

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]
LAYOUTS = ["contiguous", "channels_last", "sliced", "transposed", "expanded"]
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
CLASSES = 7


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0, layout: str = "contiguous"):
    *lead, h, w = shape
    if layout == "sliced":
        return images_of((*lead, h + 2, w + 5), dtype, seed)[..., 1:-1, 3:-2]
    if layout == "transposed":
        return images_of((*lead, w, h), dtype, seed).transpose(-2, -1)
    if layout == "expanded":
        return images_of((1, *shape[1:]), dtype, seed).expand(shape)
    made = torch.randint(0, 256, shape, generator=seeded(seed)).to(torch.uint8)
    if dtype != torch.uint8:
        made = torch.rand(shape, generator=seeded(seed)).to(dtype)
    return made.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else made


def labels_of(batch: int, seed: int = 0) -> Tensor:
    return torch.randint(0, CLASSES, (batch,), generator=seeded(seed + 50))


def record(batch: int, size: tuple[int, int], seed: int = 0, **changes) -> DynamicMixCutParams:
    return sample_dynamic_mixcut(batch, size, DynamicMixCutSettings(**changes), seeded(seed))


def without_library(patch: pytest.MonkeyPatch) -> None:
    """PyTorch code does all the work, and does not say so."""
    patch.setattr(mixaug_ext, "library", lambda: None)
    patch.setattr(mixaug_ext, "warn_without", lambda cuda=False: None)


def check_pair(result, images, labels, params, smoothing, views=None):
    mixed, targets = result
    assert mixed.dtype == images.dtype and mixed.shape == images.shape
    assert mixed.equal(reference.mixed_images(images, params, views))
    assert targets.dtype == torch.float32
    expected = reference.mixed_labels(labels, CLASSES, params, smoothing, views is not None)
    torch.testing.assert_close(targets, torch.tensor(expected).reshape(len(labels), CLASSES), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- equal to the reference


@pytest.mark.parametrize("with_views", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_reference_pixel_by_pixel(dtype, layout, with_views):
    for shape in [(5, 3, 9, 14), (3, 1, 7, 5)]:
        images = images_of(shape, dtype, 1, layout)
        views = tuple(images_of(shape, dtype, seed, layout) for seed in (2, 3)) if with_views else None
        labels = labels_of(shape[0])
        params = record(shape[0], shape[2:], boxes=(1, 3), area=(0.1, 0.5), p=0.8)
        inputs = [images, labels, *(views or ()), *params.tensors().values()]
        before = [(value.clone(), value._version) for value in inputs]
        mix = DynamicMixCut(CLASSES, boxes=(1, 3), smoothing=0.1)
        check_pair(mix.replay(images, labels, params, views), images, labels, params, 0.1, views)
        plain = replay_dynamic_mixcut(images, labels, params, views=views, num_classes=CLASSES)
        check_pair(plain, images, labels, params, 0.0, views)
        for value, (kept, version) in zip(inputs, before, strict=True):
            assert value.equal(kept) and value._version == version  # nothing is written to


@pytest.mark.parametrize("compiled", [True, False])
@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 6), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 12), st.integers(1, 4),
    st.sampled_from(DTYPES), st.sampled_from(LAYOUTS), st.booleans(), st.sampled_from([0.0, 0.1, 1.0]),
    st.integers(0, 2**31),
)  # fmt: skip
def test_any_batch(compiled, batch, channels, height, width, boxes, dtype, layout, with_views, smoothing, seed):
    shape = (batch, channels, height, width)
    images = images_of(shape, dtype, seed, layout if batch else "contiguous")
    views = (images_of(shape, dtype, seed + 1), images_of(shape, dtype, seed + 2)) if with_views else None
    labels = labels_of(batch, seed)
    mix = DynamicMixCut(CLASSES, boxes, smoothing, p=0.7)
    params = mix.sample(images, generator=seeded(seed))
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            without_library(patch)
        mixed, targets = mix.replay(images, labels, params, views)
    check_pair((mixed, targets), images, labels, params, smoothing, views)
    assert torch.allclose(targets.sum(1), torch.ones(batch), atol=1e-6) and (targets >= 0).all()
    untouched = params.lam == 1
    assert mixed[untouched].equal(images[untouched])
    assert targets[untouched].allclose(smooth_labels(labels[untouched], CLASSES, smoothing))


@pytest.mark.parametrize("with_views", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("strided", [False, True])
def test_frames_of_a_clip_share_the_draw(dtype, with_views, strided):
    shape = (3, 4, 3, 6, 7)
    images, one, two = (images_of(shape, dtype, seed, "sliced" if strided else "contiguous") for seed in range(3))
    views = (one, two) if with_views else None
    labels = labels_of(3)
    params = record(3, (6, 7), boxes=2, area=(0.2, 0.5))
    check_pair(DynamicMixCut(CLASSES).replay(images, labels, params, views), images, labels, params, 0.1, views)


def test_a_known_case():
    """By hand: one box of two pixels, weights that are exact, bytes that round halves to even."""
    images = torch.tensor([0, 10, 21], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    params = DynamicMixCutParams(
        (2, 2),
        torch.tensor([[[1, 0, 2, 2]], [[0, 0, 0, 0]], [[0, 0, 2, 1]]]),
        torch.tensor([0.5, 1.0, 0.5]),
        torch.tensor([[1, 2], [2, 0], [0, 1]]),
        torch.tensor([0.5, 0.3, 0.25]),
    )
    mixed, targets = DynamicMixCut(4, smoothing=0.2).replay(images, torch.tensor([0, 1, 3]), params)
    assert mixed[0, 0].tolist() == [[0, 16], [0, 16]]  # 15.5
    assert mixed[1, 0].tolist() == [[10, 10], [10, 10]]
    assert mixed[2, 0].tolist() == [[8, 8], [21, 21]]  # 0.25 * 0 + 0.75 * 10 = 7.5
    expected = [[0.45, 0.25, 0.05, 0.25], [0.05, 0.85, 0.05, 0.05], [0.15, 0.35, 0.05, 0.45]]
    torch.testing.assert_close(targets, torch.tensor(expected))


def test_views_are_weighed_in_their_order():
    images, labels = torch.zeros(4, 1, 5, 5), labels_of(4)
    one, two = torch.full_like(images, 1.0), torch.full_like(images, 0.5)
    params = record(4, (5, 5), boxes=1, area=(1.0, 1.0))
    mixed, targets = DynamicMixCut(CLASSES, smoothing=0.0).replay(images, labels, params, (one, two))
    weight = params.beta[:, None, None, None]
    torch.testing.assert_close(mixed, (weight + 0.5 * (1 - weight)).expand_as(images))
    assert targets.equal(torch.nn.functional.one_hot(labels, CLASSES).float())  # the label is kept


def test_targets_are_the_shares_of_the_pixels():
    """Image i is white in channel i: the mean of each channel is the label."""
    batch = 6
    images = torch.eye(batch)[:, :, None, None].expand(batch, batch, 16, 16)
    mixed, targets = DynamicMixCut(batch, boxes=3, smoothing=0.0, generator=seeded())(images, torch.arange(batch))
    torch.testing.assert_close(mixed.mean((2, 3)), targets)
    assert ((targets > 0).sum(1) == 3).all()  # the image and two partners


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("with_views", [False, True])
def test_outputs_are_new_tensors(batch, with_views):
    """Also where nothing changes: no image is mixed, no label smoothed."""
    images, labels = images_of((batch, 1, 4, 4)), torch.eye(3)[:batch].clone()
    views = (images, images) if with_views else None
    before = images.clone(), labels.clone()
    mixed, targets = DynamicMixCut(p=0.0, smoothing=0.0)(images, labels, views=views)
    assert mixed.equal(images) and targets.equal(labels)
    mixed.fill_(0.5)
    targets.fill_(0.5)
    assert images.equal(before[0]) and labels.equal(before[1])


# ---------------------------------------------------------------- layouts and kinds that come out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 4])
def test_channels_last_is_kept(dtype, batch):
    images = images_of((batch, 3, 8, 10), dtype, 0, "channels_last")
    mixed, _ = DynamicMixCut(CLASSES, generator=seeded())(images, labels_of(batch))
    assert mixed.is_contiguous(memory_format=torch.channels_last) and not mixed.is_contiguous()
    mixed, _ = DynamicMixCut(CLASSES, generator=seeded())(images.contiguous(), labels_of(batch))
    assert mixed.is_contiguous()


@pytest.mark.parametrize("kind", [tv_tensors.Image, tv_tensors.Video])
def test_tv_tensors_stay_what_they_are(kind):
    shape = (3, 3, 6, 7) if kind is tv_tensors.Image else (3, 2, 3, 6, 7)
    images, labels = images_of(shape), labels_of(3)
    views = (kind(images_of(shape, seed=1)), images_of(shape, seed=2))
    mix = DynamicMixCut(CLASSES)
    params = mix.sample(kind(images), generator=seeded())
    for given_views in (None, views):
        mixed, targets = mix.replay(kind(images), labels, params, given_views)
        assert type(mixed) is kind and type(targets) is Tensor
        plain = mix.replay(images, labels, params, given_views)
        assert mixed.as_subclass(Tensor).equal(plain[0]) and targets.equal(plain[1])
    assert type(mix(kind(images[:1]), labels[:1])[0]) is kind


# ---------------------------------------------------------------- small batches, p


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_of_one_has_no_partner(smoothing):
    images, labels = images_of((1, 3, 8, 8)), torch.tensor([2])
    for seed in range(20):  # whatever is drawn
        mixed, targets = DynamicMixCut(CLASSES, smoothing=smoothing, generator=seeded(seed))(images, labels)
        assert mixed.equal(images)
        torch.testing.assert_close(targets, smooth_labels(labels, CLASSES, smoothing), rtol=0, atol=1e-6)
    views = torch.zeros_like(images), torch.zeros_like(images)
    mixed, targets = DynamicMixCut(CLASSES, area=(0.5, 0.5), smoothing=smoothing)(images, labels, views=views)
    assert 0.4 < (mixed == 0).float().mean() < 0.9  # views are shown
    assert targets.equal(smooth_labels(labels, CLASSES, smoothing))


def test_two_images_share_the_one_partner():
    images = torch.stack([torch.zeros(1, 6, 6), torch.ones(1, 6, 6)])
    mixed, targets = DynamicMixCut(2, smoothing=0.0, area=(0.3, 0.3), boxes=1)(images, torch.tensor([0, 1]))
    shown = mixed[0].mean()
    assert 0.1 < shown < 0.6 and set(mixed.flatten().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(targets[0], torch.tensor([1 - shown, shown]))


@pytest.mark.parametrize("with_views", [False, True])
@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (0, 2, 3, 8, 8)])
def test_an_empty_batch(shape, with_views):
    images = torch.rand(shape)
    for labels in (torch.zeros(0, dtype=torch.int64), torch.zeros(0, CLASSES)):
        mixed, targets = DynamicMixCut(CLASSES)(images, labels, views=(images, images) if with_views else None)
        assert mixed.shape == shape and targets.shape == (0, CLASSES) and targets.dtype == torch.float32


@pytest.mark.parametrize("with_views", [False, True])
def test_p_is_drawn_for_each_image(with_views):
    batch, p = 3000, 0.3
    images = torch.zeros(batch, 1, 4, 4)
    images[:, 0, 0, 0] = torch.linspace(0.1, 0.9, batch)
    views = (torch.ones_like(images), torch.ones_like(images)) if with_views else None
    labels = torch.arange(batch) % CLASSES
    mix = DynamicMixCut(CLASSES, boxes=1, p=p, area=(1.0, 1.0), smoothing=0.5, generator=seeded())
    mixed, targets = mix(images, labels, views=views)
    changed = (mixed != images).flatten(1).any(1)
    assert abs(float(changed.float().mean()) - p) < 5 * (p * (1 - p) / batch) ** 0.5
    skipped = ~changed
    torch.testing.assert_close(targets[skipped], smooth_labels(labels[skipped], CLASSES, 0.5))


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64],
    ids=str,
)
def test_integer_labels_of_any_dtype(dtype):
    images, labels = images_of((5, 1, 6, 6)), torch.tensor([0, 6, 3, 3, 1])
    params = record(5, (6, 6))
    for views in (None, (images, images)):
        expected = DynamicMixCut(CLASSES).replay(images, labels, params, views)[1]
        got = DynamicMixCut(CLASSES).replay(images, labels.to(dtype), params, views)[1]
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-7)


def test_more_classes_than_a_byte_counts():
    labels = torch.tensor([255, 0], dtype=torch.uint8)
    assert smooth_labels(labels, 300, 0.0).nonzero().tolist() == [[0, 255], [1, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("num_classes", [None, CLASSES])
def test_probabilities(dtype, num_classes):
    images = images_of((5, 1, 6, 6))
    labels = torch.rand(5, CLASSES, generator=seeded(3), dtype=torch.float64).softmax(1).to(dtype)
    if not dtype.is_floating_point:
        labels = torch.nn.functional.one_hot(labels_of(5), CLASSES)
    params = record(5, (6, 6))
    before, version = labels.clone(), labels._version
    for views in (None, (images, images)):
        result = DynamicMixCut(num_classes).replay(images, labels, params, views)
        check_pair(result, images, labels.float(), params, 0.1, views)
    assert labels.equal(before) and labels._version == version


def test_one_hot_and_indices_are_the_same():
    images, labels = images_of((6, 1, 8, 8)), labels_of(6)
    params = record(6, (8, 8), boxes=3)
    for smoothing in (0.0, 0.1):
        indices = DynamicMixCut(CLASSES, smoothing=smoothing).replay(images, labels, params)[1]
        rows = torch.nn.functional.one_hot(labels, CLASSES).float()
        assert DynamicMixCut(smoothing=smoothing).replay(images, rows, params)[1].equal(indices)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
def test_smoothing(smoothing):
    labels = torch.tensor([2, 0])
    expected = torch.full((2, 4), smoothing / 4)
    expected[0, 2] += 1 - smoothing
    expected[1, 0] += 1 - smoothing
    torch.testing.assert_close(smooth_labels(labels, 4, smoothing), expected)
    torch.testing.assert_close(smooth_labels(torch.eye(4)[labels], None, smoothing), expected)
    images = torch.rand(2, 1, 4, 4)
    skipped = DynamicMixCut(4, smoothing=smoothing, p=0.0)(images, labels)[1]  # smoothed, and once
    torch.testing.assert_close(skipped, expected)
    kept = DynamicMixCut(4, smoothing=smoothing)(images, labels, views=(images, images))[1]
    torch.testing.assert_close(kept, expected)


def test_smoothing_by_default():
    images, labels = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])
    params = record(3, (4, 4), p=0.0)
    assert DynamicMixCut(10).replay(images, labels, params)[1].amin() == pytest.approx(0.01)
    assert replay_dynamic_mixcut(images, labels, params, num_classes=10)[1].amin() == 0


@pytest.mark.skipif(mixaug_ext.library() is None, reason="no compiled library")
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 12), st.integers(1, 9), st.floats(0, 1), st.booleans(), st.integers(0, 2**31))
def test_compiled_label_mixing_has_the_same_bits(batch, classes, smoothing, with_views, seed):
    images = torch.zeros(batch, 1, 9, 11)
    labels = torch.randint(0, classes, (batch,), generator=seeded(seed))
    params = record(batch, (9, 11), seed, boxes=(1, 3), p=0.8)
    views = (images, images) if with_views else None
    arguments = {"views": views, "num_classes": classes, "smoothing": smoothing}
    _, compiled = replay_dynamic_mixcut(images, labels, params, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        without_library(patch)
        _, plain = replay_dynamic_mixcut(images, labels, params, **arguments)
    assert compiled.dtype == plain.dtype and compiled.equal(plain)


@pytest.mark.skipif(mixaug_ext.library() is None, reason="no compiled library")
def test_compiled_label_mixing_is_the_one_in_use(monkeypatch):
    """Or the test above would compare a thing with itself."""
    from mixaug_ext import _mixcut

    def used(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(_mixcut, "mix_labels", used)
    with pytest.raises(ZeroDivisionError):
        DynamicMixCut(CLASSES)(torch.rand(3, 1, 4, 4), labels_of(3))


def test_strided_labels_and_records():
    images, labels = images_of((4, 1, 6, 6)), torch.stack([labels_of(4), labels_of(4, 1)], 1)[:, 0]
    params = record(4, (6, 6))
    spread = {n: torch.stack([v, v], -1)[..., 0] for n, v in params.tensors().items()}
    assert not spread["lam"].is_contiguous()
    mix = DynamicMixCut(CLASSES)
    expected = mix.replay(images, labels.contiguous(), params)
    got = mix.replay(images, labels, dataclasses.replace(params, **spread))
    assert got[0].equal(expected[0]) and got[1].equal(expected[1])


# ---------------------------------------------------------------- samples


Named = namedtuple("Named", ["image", "label"])


def images_and_labels(batch: int = 4) -> tuple[Tensor, Tensor]:
    return images_of((batch, 3, 6, 8)), labels_of(batch)


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: Named(x, y),
        lambda x, y: (x, y, torch.arange(4)),
        lambda x, y: (x, {"labels": y, "other": torch.arange(4)}),
        lambda x, y: {"image": x, "label": y, "id": torch.arange(4)},
        lambda x, y: {"label_count": torch.arange(4), "Labels": y, "image": tv_tensors.Image(x)},
        lambda x, y: OrderedDict(name=["a", "b"], img=x, fine_LABEL=y),
        lambda x, y: {"label": y, "mask_like": torch.rand(4, 2), "image": tv_tensors.Image(x)},
        lambda x, y: (tv_tensors.Image(x), y, {"note": "n"}),
    ],
)
def test_labels_are_found_as_torchvision_s_cutmix_finds_them(make):
    images, labels = images_and_labels()
    sample = make(images, labels)
    assert _parse_labels_getter("default")(sample) is labels  # torchvision's own search
    params = DynamicMixCut(CLASSES).sample(images, generator=seeded())
    expected, targets = DynamicMixCut(CLASSES).replay(images, labels, params)
    for transform in (DynamicMixCut, lambda *a, **k: v2.Compose([v2.Identity(), DynamicMixCut(*a, **k)])):
        out = transform(CLASSES, generator=seeded())(sample)
        assert type(out) is type(sample)
        flat_in, _ = torch.utils._pytree.tree_flatten(sample)
        flat_out, _ = torch.utils._pytree.tree_flatten(out)
        changed = [value for value, before in zip(flat_out, flat_in, strict=True) if value is not before]
        assert len(changed) == 2  # everything else is the object it was
        assert any(value.dtype == torch.float32 and value.shape == targets.shape and value.equal(targets)
                   for value in changed)  # fmt: skip
        assert any(value.shape == expected.shape and value.as_subclass(Tensor).equal(expected) for value in changed)


def test_in_a_pipeline_after_other_transforms():
    images, labels = torch.randint(0, 256, (4, 3, 6, 8), generator=seeded(), dtype=torch.uint8), labels_of(4)
    pipeline = v2.Compose([v2.ToDtype(torch.float32, scale=True), DynamicMixCut(CLASSES, generator=seeded())])
    mixed, targets = pipeline(tv_tensors.Image(images), labels)
    assert type(mixed) is tv_tensors.Image and mixed.dtype == torch.float32
    params = DynamicMixCut(CLASSES).sample(images, generator=seeded())
    expected = DynamicMixCut(CLASSES).replay(v2.functional.to_dtype(images, torch.float32, scale=True), labels, params)
    assert mixed.as_subclass(Tensor).equal(expected[0]) and targets.equal(expected[1])


def test_labels_getter():
    images, labels = images_and_labels()
    sample = {"x": images, "label": torch.arange(4), "y": labels}
    out = DynamicMixCut(CLASSES, labels_getter=lambda s: s["y"], generator=seeded())(sample)
    assert out["label"] is sample["label"] and out["y"].shape == (4, CLASSES)
    params = DynamicMixCut(CLASSES).sample(images, generator=seeded())
    assert out["x"].equal(DynamicMixCut(CLASSES).replay(images, labels, params)[0])


def test_several_images_of_a_sample_share_the_draw():
    images, labels = images_and_labels()
    one, two, out = DynamicMixCut(CLASSES, labels_getter=lambda s: s[2], generator=seeded())(
        tv_tensors.Image(images), tv_tensors.Image(1 - images), labels
    )
    assert out.shape == (4, CLASSES) and not one.equal(images)
    torch.testing.assert_close(1 - two.as_subclass(Tensor), one.as_subclass(Tensor))


# ---------------------------------------------------------------- records and randomness


def test_record_and_replay():
    images, labels = images_and_labels()
    mix = DynamicMixCut(CLASSES, boxes=(1, 3), p=0.9)
    params = mix.sample(images, generator=seeded(3))
    first, again = mix.replay(images, labels, params), mix.replay(images, labels, params)
    assert first[0].equal(again[0]) and first[1].equal(again[1])
    same = mix.sample(images, generator=seeded(3))
    assert all(value.equal(same.tensors()[name]) for name, value in params.tensors().items())
    other = mix.sample(images, generator=seeded(4))
    assert not mix.replay(images, labels, other)[0].equal(first[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.size = (1, 1)


@pytest.mark.parametrize("with_views", [False, True])
def test_a_call_is_sample_then_replay(with_views):
    images, labels = images_and_labels()
    views = (images_of(images.shape, seed=1), images_of(images.shape, seed=2)) if with_views else None
    options = {"boxes": (1, 4), "smoothing": 0.3, "p": 0.6, "area": (0.1, 0.3), "square": False}
    for seed in range(4):
        params = sample_dynamic_mixcut(
            4, (6, 8), DynamicMixCutSettings((1, 4), 0.6, (0.1, 0.3), False), generator=seeded(seed)
        )
        expected = replay_dynamic_mixcut(images, labels, params, views=views, num_classes=CLASSES, smoothing=0.3)
        got = DynamicMixCut(CLASSES, **options, generator=seeded(seed))(images, labels, views=views)
        assert got[0].equal(expected[0]) and got[1].equal(expected[1])


def test_seeds_repeat_a_run():
    images, labels = images_and_labels()
    mix = DynamicMixCut(CLASSES)
    torch.manual_seed(3)
    one, two = mix(images, labels)[0], mix(images, labels)[0]
    torch.manual_seed(3)
    assert mix(images, labels)[0].equal(one) and mix(images, labels)[0].equal(two) and not one.equal(two)
    state = torch.get_rng_state()
    given_one = DynamicMixCut(CLASSES, generator=seeded(3))
    assert given_one(images, labels)[0].equal(one) and given_one(images, labels)[0].equal(two)
    assert torch.get_rng_state().equal(state)  # torch's own generator is left alone


def test_replay_draws_nothing():
    images, labels = images_and_labels()
    mix = DynamicMixCut(CLASSES, generator=seeded())
    params = mix.sample(images, generator=seeded(1))
    state, own = torch.get_rng_state(), mix.state_dict()["generator_state"].clone()
    mix.replay(images, labels, params)
    assert torch.get_rng_state().equal(state) and mix.state_dict()["generator_state"].equal(own)


def test_state_goes_through_a_checkpoint():
    images, labels = images_and_labels()
    mix = DynamicMixCut(CLASSES, generator=seeded())
    mix(images, labels)
    file = io.BytesIO()
    torch.save(mix.state_dict(), file)
    expected = mix(images, labels)
    file.seek(0)
    resumed = DynamicMixCut(CLASSES, generator=seeded(9))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed(images, labels)[0].equal(expected[0])
    DynamicMixCut(CLASSES).load_state_dict(DynamicMixCut(CLASSES).state_dict())


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("with_generator", [True, False])
def test_copies_draw_the_same(copier, with_generator):
    images, labels = images_and_labels()
    mix = DynamicMixCut(CLASSES, generator=seeded() if with_generator else None)
    mix(images, labels)
    twin = copier(mix)
    torch.manual_seed(0)
    expected = mix(images, labels)[0]
    torch.manual_seed(0)
    assert twin(images, labels)[0].equal(expected)


def test_ranks_differ_with_a_given_generator(monkeypatch):
    images, labels = images_and_labels()

    def first(rank):
        monkeypatch.setenv("RANK", str(rank))
        return DynamicMixCut(CLASSES, generator=seeded())(images, labels)[0]

    assert first(0).equal(first(0)) and first(1).equal(first(1))
    assert not first(0).equal(first(1)) and not first(1).equal(first(2))


def test_repr_names_the_arguments():
    assert repr(DynamicMixCut(10, (1, 3), area=(0.1, 0.2))) == (
        "DynamicMixCut(num_classes=10, boxes=(1, 3), smoothing=0.1, p=1.0, area=(0.1, 0.2), square=True)"
    )
    assert "boxes=2," in repr(DynamicMixCut())


# ---------------------------------------------------------------- autograd, compile


def test_gradient_of_views_and_images():
    shape = (4, 2, 5, 6)
    images, one, two = (images_of(shape, seed=seed).requires_grad_() for seed in range(3))
    params = record(4, (5, 6), boxes=2, area=(0.2, 0.4))
    weights = torch.rand(shape, generator=seeded(9))
    mixed, _ = DynamicMixCut(CLASSES).replay(images, labels_of(4), params, (one, two))
    (mixed * weights).sum().backward()
    inside = torch.tensor(
        [[[reference.covered(boxes, x, y) for x in range(6)] for y in range(5)] for boxes in params.boxes]
    )[:, None]
    beta = params.beta[:, None, None, None]
    torch.testing.assert_close(images.grad, weights * ~inside)
    torch.testing.assert_close(one.grad, weights * inside * beta)
    torch.testing.assert_close(two.grad, weights * inside * (1 - beta))
    assert mixed.detach().equal(reference.mixed_images(images.detach(), params, (one.detach(), two.detach())))


def test_gradient_through_partners():
    images = images_of((4, 2, 5, 6)).requires_grad_()
    params = record(4, (5, 6), boxes=2, area=(0.2, 0.4))
    weights = torch.rand((4, 2, 5, 6), generator=seeded(9))
    mixed, _ = DynamicMixCut(CLASSES).replay(images, labels_of(4), params)
    (mixed * weights).sum().backward()
    expected = torch.zeros_like(images)
    for i in range(4):
        beta, (a, b) = float(params.beta[i]), params.index[i].tolist()
        for y in range(5):
            for x in range(6):
                if reference.covered(params.boxes[i], x, y):
                    expected[a, :, y, x] += beta * weights[i, :, y, x]
                    expected[b, :, y, x] += (1 - beta) * weights[i, :, y, x]
                else:
                    expected[i, :, y, x] += weights[i, :, y, x]
    torch.testing.assert_close(images.grad, expected)


@pytest.mark.parametrize("with_views", [False, True])
@pytest.mark.parametrize("rows", [False, True], ids=["indices", "probabilities"])
def test_replay_compiles_whole(with_views, rows):
    images, labels = images_and_labels()
    labels = torch.nn.functional.one_hot(labels, CLASSES).float() if rows else labels
    views = (images_of(images.shape, seed=1), images_of(images.shape, seed=2)) if with_views else None
    mix = DynamicMixCut(CLASSES)
    params = mix.sample(images, generator=seeded())
    compiled = torch.compile(lambda x, y, *v: mix.replay(x, y, params, v or None), fullgraph=True, backend="aot_eager")
    got, expected = compiled(images, labels, *(views or ())), mix.replay(images, labels, params, views)
    assert got[0].equal(expected[0]) and got[1].equal(expected[1])


def test_a_call_compiles_whole():
    images, labels = images_and_labels()
    mix = DynamicMixCut(CLASSES)
    compiled = torch.compile(lambda x, y: mix(x, y), fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    got = compiled(images, labels)
    torch.manual_seed(0)
    expected = mix(images, labels)
    assert got[0].equal(expected[0]) and got[1].equal(expected[1])


# ---------------------------------------------------------------- devices


@pytest.mark.parametrize("with_generator", [False, True])
@pytest.mark.parametrize("with_views", [False, True])
@pytest.mark.parametrize("rows", [False, True], ids=["indices", "probabilities"])
@pytest.mark.usefixtures("fake_cuda")
def test_on_a_gpu_the_host_waits_for_nothing_after_the_first_call(with_generator, with_views, rows):
    """Fake CUDA tensors have no values: reading one raises, and so do operands on two devices."""
    mix = DynamicMixCut(CLASSES, boxes=(1, 3), generator=seeded() if with_generator else None)
    mix(*images_and_labels())
    with FakeTensorMode():
        images = torch.empty(4, 3, 6, 8, device="cuda")
        labels = torch.full((4, CLASSES), 0.1, device="cuda") if rows else torch.zeros(4, device="cuda").long()
        views = (images, images) if with_views else None
        mixed, targets = mix(images, labels, views=views)
        assert mixed.device.type == targets.device.type == "cuda"
        assert mixed.shape == images.shape and targets.shape == (4, CLASSES)
        params = mix.sample(images, generator=seeded())
        assert params.boxes.device.type == "cpu"  # the generator's, and replayed where the images are
        mixed, targets = mix.replay(images, labels, params, views)
        assert mixed.device.type == targets.device.type == "cuda"
        with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
            DynamicMixCut(CLASSES)(images, labels)  # the first call reads, and this would notice


def test_a_record_is_waited_for_on_its_way_to_the_host(monkeypatch):
    asked = []
    to = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda x, device, **options: asked.append(options) or to(x, device))
    params = record(3, (4, 4))
    params.to("cpu")
    params.to(torch.device("meta"))
    assert [options["non_blocking"] for options in asked] == [False] * 4 + [True] * 4


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_views", [False, True])
def test_gpu_equals_cpu(device, dtype, layout, with_views):
    shape = (6, 3, 17, 23)
    images = images_of(shape, dtype, 1, layout)
    views = tuple(images_of(shape, dtype, seed, layout) for seed in (2, 3)) if with_views else None
    labels, params = labels_of(6), record(6, shape[2:], boxes=(1, 3), p=0.8)
    expected = DynamicMixCut(CLASSES).replay(images, labels, params, views)
    moved = tuple(view.to(device) for view in views) if with_views else None
    got = DynamicMixCut(CLASSES).replay(images.to(device), labels.to(device), params, moved)
    assert got[0].is_cuda and got[1].is_cuda
    assert got[0].cpu().equal(expected[0])
    torch.testing.assert_close(got[1].cpu(), expected[1], rtol=0, atol=1e-6)
    assert got[0].stride() == DynamicMixCut(CLASSES).replay(images, labels, params, views)[0].stride()


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_generators_of_both_devices_serve_the_gpu(device):
    images, labels = (value.to(device) for value in images_and_labels())
    for on in ("cpu", device):
        twins = [DynamicMixCut(CLASSES, generator=torch.Generator(on).manual_seed(1)) for _ in range(2)]
        one, two = (mix(images, labels) for mix in twins)
        assert one[0].is_cuda and one[0].equal(two[0]) and one[1].equal(two[1])
    host = DynamicMixCut(CLASSES, generator=seeded(1))(images.cpu(), labels.cpu())
    assert DynamicMixCut(CLASSES, generator=seeded(1))(images, labels)[0].cpu().equal(host[0])
    on_gpu = DynamicMixCut(CLASSES, generator=torch.Generator(device).manual_seed(1))
    assert on_gpu(images.cpu(), labels.cpu())[0].device.type == "cpu"
