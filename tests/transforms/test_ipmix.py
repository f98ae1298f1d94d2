"""The IPMix transform: kinds of input, bad input, defaults, records, views, values; the pixels are in
test_ipmix_reference.py, the draws in test_ipmix_statistics.py, loaders in test_ipmix_workers.py."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torchvision import transforms, tv_tensors
from torchvision.transforms import v2

import mixaug_ext
from mixaug import IPMix, MixingSet
from mixaug.ops import ipmix_torch, replay_ipmix
from mixaug.ops.ipmix_record import IMAGE_OPERATIONS, OP, describe_operation
from mixaug.transforms.ipmix import LEVELS, STRUCTURES, IPMixSettings, sample_ipmix

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_dtype(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (images * 255).round().to(dtype) if dtype == torch.uint8 else images.to(dtype)


# ---------------------------------------------------------------- kinds of input


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 33, 47), (4, 3, 33, 47), (2, 3, 1, 16, 20), (2, 2, 2, 3, 9, 8)])
def test_shape_dtype_and_values_are_kept(pictures, dtype, shape):
    images = as_dtype(torch.rand(shape, generator=seeded()), dtype)
    before, version = images.clone(), images._version
    out = IPMix(mixing_set=pictures, generator=seeded())(images)
    assert out.shape == images.shape and out.dtype == dtype and type(out) is torch.Tensor
    assert images.equal(before) and images._version == version
    assert not out.equal(images)
    assert out.min() >= 0 and out.max() <= (255 if dtype == torch.uint8 else 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_channels_last_is_kept_and_equal(pictures, images, dtype):
    images = as_dtype(images, dtype)
    ipmix = IPMix(mixing_set=pictures)
    params = ipmix.sample(images, generator=seeded())
    out = ipmix.replay(images.to(memory_format=torch.channels_last), params)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.equal(ipmix.replay(images, params))


def test_strided_input_equals_its_copy(pictures):
    wide = torch.rand(4, 3, 40, 80, generator=seeded())
    ipmix = IPMix(mixing_set=pictures)
    view = wide[::2, :, 3:36, ::2]
    params = ipmix.sample(view, generator=seeded())
    assert ipmix.replay(view, params).equal(ipmix.replay(view.contiguous(), params))
    expanded = wide[:1].expand(3, -1, -1, -1)
    params = ipmix.sample(expanded, generator=seeded())
    assert ipmix.replay(expanded, params).equal(ipmix.replay(expanded.contiguous(), params))


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_pil_equals_tensor(pictures, mode):
    array = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    image = Image.fromarray(array).convert(mode)
    ipmix = IPMix(mixing_set=pictures)
    params = ipmix.sample(image, generator=seeded())
    out = ipmix.replay(image, params)
    expected = "RGB" if mode == "P" else mode
    assert isinstance(out, Image.Image) and out.mode == expected and out.size == image.size
    tensor = v2.functional.pil_to_tensor(image.convert(expected))
    assert v2.functional.pil_to_tensor(out).equal(ipmix.replay(tensor, params))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "1", "I;16", "F", "CMYK"])
def test_other_pil_modes_are_refused_with_a_reason(pictures, mode):
    with pytest.raises(ValueError, match=f"mode {mode}: .*convert"):
        IPMix(mixing_set=pictures)(Image.new(mode, (32, 32)))


def test_tv_tensors_and_video(pictures):
    ipmix = IPMix(mixing_set=pictures, generator=seeded())
    image = ipmix(tv_tensors.Image(torch.rand(3, 32, 32)))
    assert type(image) is tv_tensors.Image
    frame = torch.rand(3, 32, 32, generator=seeded())
    video = tv_tensors.Video(frame.expand(6, 3, 32, 32))
    out = ipmix(video)
    assert type(out) is tv_tensors.Video
    assert all(out[i].equal(out[0]) for i in range(6)) and not out[0].equal(frame)  # frames share the draw
    clips = frame.expand(4, 6, 3, 32, 32)
    out = ipmix(clips)
    assert all(out[:, i].equal(out[:, 0]) for i in range(6))
    assert not out[0].equal(out[1])  # clips do not


def test_in_pipelines(pictures):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    ipmix = IPMix(mixing_set=pictures, generator=seeded())
    out = transforms.Compose([transforms.RandomCrop(32, 4), ipmix, transforms.ToTensor()])(image)
    assert out.shape == (3, 32, 32) and out.dtype == torch.get_default_dtype()  # as ToTensor makes it
    out, label = v2.Compose([v2.ToImage(), ipmix, v2.ToDtype(torch.float32, scale=True)])(image, 7)
    assert type(out) is tv_tensors.Image and label == 7
    sample = ipmix({"image": tv_tensors.Image(torch.rand(3, 32, 32)), "label": torch.tensor(3), "name": "a"})
    assert sample["label"] == 3 and sample["name"] == "a" and sample["image"].shape == (3, 32, 32)
    batch, labels = ipmix(torch.rand(4, 3, 32, 32), torch.arange(4))
    assert batch.shape == (4, 3, 32, 32) and labels.tolist() == [0, 1, 2, 3]


def test_two_images_of_a_sample_share_the_draw(pictures):
    image = tv_tensors.Image(torch.rand(3, 32, 32, generator=seeded()))
    ipmix = IPMix(mixing_set=pictures, generator=seeded())
    one, two = ipmix(image, image)
    assert one.equal(two)
    with pytest.raises(ValueError, match="one size"):
        ipmix(image, tv_tensors.Image(torch.rand(3, 16, 32)))


@pytest.mark.parametrize("target", ["boxes", "mask", "points"])
def test_targets_that_geometry_would_make_wrong_are_refused(pictures, target):
    made = {
        "boxes": tv_tensors.BoundingBoxes([[1, 2, 5, 6]], format="XYXY", canvas_size=(32, 32)),
        "mask": tv_tensors.Mask(torch.zeros(32, 32, dtype=torch.uint8)),
    }
    if target == "points":
        if not hasattr(tv_tensors, "KeyPoints"):
            pytest.skip("this torchvision has no KeyPoints")
        made["points"] = tv_tensors.KeyPoints([[1, 2]], canvas_size=(32, 32))
    image = tv_tensors.Image(torch.rand(3, 32, 32))
    with pytest.raises(TypeError, match=type(made[target]).__name__):
        IPMix(mixing_set=pictures)(image, made[target])
    out, kept = IPMix(mixing_set=pictures, levels=("patch", "pixel"))(image, made[target])
    assert kept.equal(made[target]) and out.shape == image.shape


@pytest.mark.parametrize("shape", [(0, 3, 32, 32), (0, 4, 1, 32, 32), (2, 0, 3, 32, 32)])
def test_empty_batch(pictures, shape):
    assert IPMix(mixing_set=pictures)(torch.rand(shape)).shape == shape
    views = IPMix(mixing_set=pictures, n_views=2)(torch.rand(shape))
    assert [view.shape for view in views] == [shape] * 3


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 40), (5, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiny_images(pictures, size, channels):
    images = torch.rand(16, channels, *size, generator=seeded())
    ipmix = IPMix(mixing_set=pictures, all_ops=True, self_mix=0.5)
    params = ipmix.sample(images, generator=seeded())
    out = ipmix.replay(images, params)
    assert out.shape == images.shape and out.isfinite().all()
    assert out.equal(ipmix_torch(images, params, pictures.resized(params.side)))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("bad", [[1, 2], 3, "x", np.zeros((3, 8, 8)), None, {}])
def test_wrong_kind(pictures, bad):
    with pytest.raises(TypeError, match=r"images must be a PIL image or a tensor, got"):
        IPMix(mixing_set=pictures)(bad)


@pytest.mark.parametrize("method", ["sample", "replay"])
def test_wrong_kind_in_record_and_replay(pictures, method):
    ipmix = IPMix(mixing_set=pictures)
    arguments = ([1],) if method == "sample" else ([1], ipmix.sample(torch.rand(1, 3, 8, 8)))
    with pytest.raises(TypeError, match="images must be a PIL image or a tensor, got list"):
        getattr(ipmix, method)(*arguments)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bool])
def test_wrong_dtype(pictures, dtype):
    with pytest.raises(TypeError, match=f"images must be uint8, .* got {dtype}"):
        IPMix(mixing_set=pictures)(torch.zeros(3, 8, 8, dtype=dtype))


@pytest.mark.parametrize("shape", [(8, 8), (1, 1, 1, 2, 3, 8, 8), (2, 8, 8), (1, 4, 8, 8), (3, 0, 8)])
def test_wrong_shape(pictures, shape):
    with pytest.raises(ValueError, match=r"images must .* got shape"):
        IPMix(mixing_set=pictures)(torch.rand(shape))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be from 1 to 100, got 0"),
        ({"k": 2.0}, TypeError, "k must be an int, got float"),
        ({"t": -1}, ValueError, "t must be from 1 to 100, got -1"),
        ({"t": True}, TypeError, "t must be an int, got bool"),
        ({"n_views": 0}, ValueError, "n_views must be from 1 to 100, got 0"),
        ({"severity": 0}, ValueError, r"severity must be from 0\.1 to 10, got 0"),
        ({"severity": -2.5}, ValueError, r"severity must be from 0\.1 to 10, got -2\.5"),
        ({"severity": 11}, ValueError, r"severity must be from 0\.1 to 10, got 11"),
        ({"severity": float("nan")}, ValueError, r"severity must be from 0\.1 to 10, got nan"),
        ({"severity": "3"}, TypeError, "severity must be a number, got str"),
        ({"beta": 0}, ValueError, "beta must be from 0\\.001 to 1000, got 0"),
        ({"self_mix": 1.5}, ValueError, r"self_mix must be from 0 to 1, got 1\.5"),
        ({"structure": "tree"}, ValueError, "structure must be one of chain, linear, mixed_input, got 'tree'"),
        ({"levels": ("image", "word")}, ValueError, "levels must be one of image, patch, pixel, got 'word'"),
        ({"levels": ()}, ValueError, "levels must be one or more of image, patch, pixel"),
        ({"levels": "image"}, TypeError, "levels must be a sequence of names, got str"),
        ({"patch_sizes": (4, 1)}, ValueError, "patch_sizes must be from 2 to 16384, got 1"),
        ({"patch_sizes": ()}, ValueError, "patch_sizes must be one int or more, got none"),
        ({"patch_sizes": 8}, TypeError, "patch_sizes must be a sequence of ints, got int"),
        ({"patch_sizes": (4.5,)}, TypeError, "patch_sizes must be an int, got float"),
        ({"mixing_set": "fractals"}, TypeError, "mixing_set must be a MixingSet or None, got str"),
        ({"generator": 0}, TypeError, "generator must be a torch.Generator or None, got int"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        IPMix(**arguments)


def test_patch_larger_than_the_image(pictures):
    ipmix = IPMix(mixing_set=pictures, patch_sizes=(8, 40))
    assert ipmix(torch.rand(2, 3, 40, 50)).shape == (2, 3, 40, 50)
    with pytest.raises(ValueError, match=r"patch_sizes must be at most the shorter side .*32 pixels.* got 40"):
        ipmix(torch.rand(2, 3, 32, 50))


def test_patch_level_alone_needs_room(pictures):
    with pytest.raises(ValueError, match="needs a patch size smaller than the image"):
        IPMix(mixing_set=pictures, levels=("image", "patch"))(torch.rand(2, 3, 4, 4))


def test_not_finite_values_are_refused_and_a_range_is_warned_of(pictures):
    ipmix = IPMix(mixing_set=pictures)
    image = torch.rand(3, 32, 32)
    for bad in (float("nan"), float("inf")):
        image[1, 2, 3] = bad
        with pytest.raises(ValueError, match="images must be finite, got 1 of 3072 values that are NaN or infinite"):
            ipmix(image)
    with pytest.warns(UserWarning, match=r"Divide them by 255, as v2\.ToDtype\(torch\.float32, scale=True\) does"):
        ipmix(torch.randint(0, 256, (3, 32, 32)).float())
    normalised = (torch.rand(3, 32, 32) - 0.5) / 0.2
    with pytest.warns(UserWarning, match=r"must lie in \[0, 1\].*before Normalize"):
        assert ipmix(normalised).isfinite().all()


def test_batches_are_checked_at_the_first_call_or_when_asked(pictures):
    good, bad = torch.rand(4, 3, 16, 16), torch.full((4, 3, 16, 16), float("nan"))
    ipmix = IPMix(mixing_set=pictures)
    with pytest.raises(ValueError, match="finite"):
        ipmix(bad)
    ipmix(good)
    assert ipmix(bad).shape == bad.shape  # a later batch is not read: no hidden synchronisation
    with pytest.raises(ValueError, match="finite"):
        checked = IPMix(mixing_set=pictures, check_values=True)
        checked(good)
        checked(bad)


def test_replay_refuses_another_size(pictures):
    ipmix = IPMix(mixing_set=pictures)
    params = ipmix.sample(torch.rand(4, 3, 32, 32))
    with pytest.raises(ValueError, match=r"drawn for 4 images of size \(32, 32\), got 4 images of 32x31 pixels"):
        ipmix.replay(torch.rand(4, 3, 32, 31), params)
    with pytest.raises(ValueError, match="drawn for 4 images"):
        ipmix.replay(torch.rand(3, 3, 32, 32), params)
    with pytest.raises(ValueError, match="pictures must be uint8 of shape"):
        replay_ipmix(torch.rand(4, 3, 32, 32), params, torch.zeros(2, 3, 40, 40, dtype=torch.uint8))


# ---------------------------------------------------------------- records, views, randomness


def test_record_and_replay(pictures, images):
    ipmix = IPMix(mixing_set=pictures)
    params = ipmix.sample(images, generator=seeded(3))
    assert ipmix.replay(images, params).equal(ipmix.replay(images, params))
    again = ipmix.sample(images, generator=seeded(3))
    assert all(value.equal(again.tensors()[name]) for name, value in params.tensors().items())
    other = ipmix.sample(images, generator=seeded(4))
    assert not ipmix.replay(images, other).equal(ipmix.replay(images, params))
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.batch = 3


def test_call_is_sample_then_replay(pictures, images):
    params = IPMix(mixing_set=pictures).sample(images, generator=seeded(3))
    expected = IPMix(mixing_set=pictures).replay(images, params)
    assert IPMix(mixing_set=pictures, generator=seeded(3))(images).equal(expected)
    torch.manual_seed(3)
    default = IPMix(mixing_set=pictures)
    one = default(images)
    torch.manual_seed(3)
    assert default(images).equal(one) and not default(images).equal(one)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_views(pictures, images, structure):
    ipmix = IPMix(mixing_set=pictures, n_views=2, structure=structure)
    params = ipmix.sample(images, generator=seeded())
    clean, one, two = ipmix.replay(images, params)
    assert clean is images and not one.equal(two)
    both = replay_ipmix(images, params, pictures.resized(params.side))
    assert both.equal(torch.cat([one, two]))
    clean, one, two = IPMix(mixing_set=pictures, n_views=2)(Image.new("RGB", (32, 32)))
    assert isinstance(one, Image.Image) and isinstance(two, Image.Image)
    with pytest.raises(ValueError, match="views=2"):
        params.rows([0])


def test_defaults_by_size():
    small, large = IPMix().settings((63, 100)), IPMix().settings((64, 64))
    assert (small.severity, small.beta, small.self_mix, small.patch_sizes) == (3.0, 3.0, 0.0, (4, 8, 16))
    assert (large.severity, large.beta, large.self_mix, large.patch_sizes) == (1.0, 4.0, 0.5, (4, 8, 16, 32))
    assert IPMix().settings((224, 224)).patch_sizes == (4, 8, 16, 32, 64)
    assert IPMix().settings((8, 30)).patch_sizes == (4,)
    assert IPMix(severity=2, beta=1, self_mix=1, patch_sizes=[3]).settings((32, 32)) == IPMixSettings(
        3, 3, 2.0, 1.0, (3,), 1.0, "chain", LEVELS, False
    )


def test_levels_switch_components(pictures):
    images = torch.rand(200, 1, 20, 20, generator=seeded())

    def steps(*levels):
        params = IPMix(mixing_set=pictures, levels=levels).sample(images, generator=seeded())
        done = torch.arange(3) < params.depth[..., None]
        mixes = params.op >= len(IMAGE_OPERATIONS)
        whole = (params.box == torch.tensor([0, 0, 20, 20])).all(-1)
        return mixes[done], whole[done]

    mixes, _ = steps("image")
    assert not mixes.any()
    mixes, whole = steps("patch", "pixel")
    assert mixes.all() and whole.any() and not whole.all()
    mixes, whole = steps("image", "patch")
    assert mixes.any() and not mixes.all() and not whole[mixes].any()
    mixes, whole = steps("pixel")
    assert mixes.all() and whole.all()


def test_image_level_alone_needs_no_pictures():
    class Untouchable:
        def __len__(self):
            raise AssertionError("no picture is needed")

        resized = __len__

    ipmix = IPMix(mixing_set=Untouchable(), levels=("image",), generator=seeded())
    assert ipmix(torch.rand(4, 3, 32, 32)).shape == (4, 3, 32, 32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", [replay_ipmix, ipmix_torch])
def test_pictures_smaller_than_the_image_are_enlarged(pictures, channels, form):
    """A whole-image step that keeps nothing of the image shows the enlarged crop itself."""
    images = torch.zeros(16, channels, 70, 90, dtype=torch.uint8)
    ipmix = IPMix(k=1, t=1, levels=("pixel",), self_mix=0, mixing_set=pictures)
    params = ipmix.sample(images, generator=seeded())
    params = dataclasses.replace(
        params,
        op=torch.full_like(params.op, OP["random_pixels"]),
        keep=torch.zeros_like(params.keep),
        depth=torch.ones_like(params.depth),
        m=torch.ones_like(params.m),
    )
    assert params.side == 102 > pictures.size
    out = form(images, params, pictures.pictures)
    large = torch.nn.functional.interpolate(pictures.pictures.float(), size=(102, 102), mode="bilinear")
    crops = zip(params.picture, params.top, params.left, strict=True)
    expected = torch.stack([large[p, :, top : top + 70, left : left + 90] for p, top, left in crops])
    if channels == 1:
        expected = (expected * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    difference = (out.float() - expected).abs()
    assert difference.max() <= 1.0 and difference.mean() < 0.35  # rounding to bytes, and luma of rounded values
    assert out.equal(ipmix.replay(images, params))


def test_depth_zero_is_the_identity(pictures):
    images = torch.rand(6, 3, 32, 32, generator=seeded())  # not multiples of 1/255
    ipmix = IPMix(mixing_set=pictures)
    params = ipmix.sample(images, generator=seeded())
    still = dataclasses.replace(params, depth=torch.zeros_like(params.depth))
    for form in (replay_ipmix, ipmix_torch):
        assert form(images, still, pictures.resized(params.side)).equal(images)


@settings(max_examples=40, deadline=None)
@given(
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    batch=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    structure=st.sampled_from(STRUCTURES),
    dtype=st.sampled_from(DTYPES),
    all_ops=st.booleans(),
    k=st.integers(1, 4),
    t=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_properties(pictures, h, w, batch, channels, structure, dtype, all_ops, k, t, seed):
    generator = seeded(seed)
    images = as_dtype(torch.rand(batch, channels, h, w, generator=generator), dtype)
    ipmix = IPMix(k, t, severity=10, structure=structure, all_ops=all_ops, self_mix=0.3, mixing_set=pictures)
    params = ipmix.sample(images, generator=generator)
    out = ipmix.replay(images, params)
    assert out.shape == images.shape and out.dtype == dtype and out.float().isfinite().all()
    assert torch.allclose(params.weight.sum(1), torch.ones(batch)) and (params.weight >= 0).all()
    x0, y0, x1, y1 = params.box.unbind(-1)
    assert ((x0 >= 0) & (x0 < x1) & (x1 <= w) & (y0 >= 0) & (y0 < y1) & (y1 <= h)).all()
    assert (params.top + h <= params.side).all() and (params.left + w <= params.side).all()
    if batch:  # one by one is the same
        i = seed % batch
        assert ipmix.replay(images[i : i + 1], params.rows([i])).equal(out[i : i + 1])


def test_describe(pictures):
    ipmix = IPMix(mixing_set=pictures, all_ops=True, self_mix=0.5)
    params = ipmix.sample(torch.rand(50, 3, 32, 32), generator=seeded())
    lines = [line for row in range(50) for line in params.describe(row)]
    text = " ".join(lines)
    assert len(lines) == 150 and "(unchanged)" in text and "multiply whole" in text and "with own" in text
    assert describe_operation(OP["translate_x"], 3.0, -1, (32, 64)) == "translate_x -6 px"
    assert describe_operation(OP["posterize"], 2.5, 1, (32, 32)) == "posterize 3 bits"
    assert describe_operation(OP["solarize"], 1.0, 1, (32, 32)) == "solarize 231"
    assert describe_operation(OP["shear_y"], 1.0, -1, (32, 32)) == "shear_y -0.03"
    assert describe_operation(OP["color"], 5.0, -1, (32, 32)) == "color 1.00"
    assert describe_operation(OP["autocontrast"], 4.0, 1, (32, 32)) == "autocontrast 6.0%"
    assert describe_operation(OP["invert"], 4.0, 1, (32, 32)) == "invert"


def test_state_goes_through_a_checkpoint(pictures, images):
    ipmix = IPMix(mixing_set=pictures, generator=seeded())
    ipmix(images)
    file = io.BytesIO()
    torch.save(ipmix.state_dict(), file)
    expected = ipmix(images)
    file.seek(0)
    resumed = IPMix(mixing_set=pictures, generator=seeded(9))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed(images).equal(expected)
    IPMix(mixing_set=pictures).load_state_dict(IPMix(mixing_set=pictures).state_dict())


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("with_generator", [True, False])
def test_copies_draw_the_same(pictures, images, copier, with_generator):
    ipmix = IPMix(mixing_set=pictures, generator=seeded() if with_generator else None)
    ipmix(images)
    twin = copier(ipmix)
    torch.manual_seed(0)
    expected = ipmix(images)
    torch.manual_seed(0)
    assert twin(images).equal(expected)


def test_ranks_differ_with_a_given_generator(pictures, images, monkeypatch):
    def first(rank):
        monkeypatch.setenv("RANK", str(rank))
        return IPMix(mixing_set=pictures, generator=seeded())(images)

    assert first(0).equal(first(0)) and first(1).equal(first(1))
    assert not first(0).equal(first(1)) and not first(1).equal(first(2))


def test_repr_names_the_arguments(pictures):
    assert "structure='linear'" in repr(IPMix(structure="linear", mixing_set=pictures))


# ---------------------------------------------------------------- autograd, compile


def test_gradient_is_the_skip_connection(pictures):
    images = torch.rand(4, 3, 16, 16, generator=seeded(), requires_grad=True)
    ipmix = IPMix(mixing_set=pictures, n_views=2)
    params = ipmix.sample(images, generator=seeded())
    _, one, two = ipmix.replay(images, params)
    (one.sum() + 2 * two.sum()).backward()
    from mixaug.ops.ipmix import mixture_coefficients

    skip = mixture_coefficients(params, torch.float32)[0].view(2, 4)
    expected = (skip[0] + 2 * skip[1])[:, None, None, None].expand_as(images)
    assert torch.allclose(images.grad, expected)
    with torch.no_grad():
        assert torch.cat([one, two]).equal(torch.cat(ipmix.replay(images.detach(), params)[1:]))


def test_operator_passes_opcheck(pictures):
    for dtype in (torch.uint8, torch.float32):
        images = as_dtype(torch.rand(3, 3, 12, 10, generator=seeded()), dtype)
        if dtype == torch.float32:
            images.requires_grad_()
        params = IPMix(mixing_set=pictures, n_views=2).sample(images, generator=seeded())
        record = list(params.tensors().values())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # opcheck itself warns on some torch versions
            torch.library.opcheck(
                torch.ops.mixaug.ipmix.default,
                (images, pictures.resized(params.side), record, params.views, params.side, params.mixed_input),
            )


def test_replay_compiles_whole(pictures, images):
    ipmix = IPMix(mixing_set=pictures)
    params = ipmix.sample(images, generator=seeded())
    resized = pictures.resized(params.side)
    compiled = torch.compile(lambda x: replay_ipmix(x, params, resized) * 2, fullgraph=True, backend="aot_eager")
    assert compiled(images).equal(ipmix.replay(images, params) * 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_gpu_equals_cpu(pictures, dtype, structure):
    images = as_dtype(torch.rand(64, 3, 32, 32, generator=seeded()), dtype)
    ipmix = IPMix(mixing_set=pictures, structure=structure, all_ops=True, self_mix=0.3, n_views=2)
    params = ipmix.sample(images, generator=seeded())
    expected = ipmix.replay(images, params)
    actual = ipmix.replay(images.cuda(), params)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.is_cuda and (ours.cpu().float() - theirs.float()).abs().max() <= (
            1 if dtype == torch.uint8 else 5e-3
        )
    assert ipmix(images.cuda())[1].shape == images.shape


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.usefixtures("fake_cuda")
def test_on_a_gpu_the_host_waits_for_nothing_after_the_first_call(structure):
    """Fake CUDA tensors have no values: reading one raises, and so do operands on two devices."""
    bank = MixingSet.from_tensor(torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8, generator=seeded()))
    ipmix = IPMix(mixing_set=bank, structure=structure, all_ops=True, self_mix=0.3)
    ipmix(torch.rand(2, 3, 32, 32))
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(4, 3, 32, 32, device="cuda")
        assert ipmix(images).device.type == "cuda"
        params = ipmix.sample(images)
        resized = torch.empty(4, 3, params.side, params.side, dtype=torch.uint8, device="cuda")
        out = ipmix_torch(images, params, resized)  # what runs behind the operator there
        assert (out.device.type, out.shape) == ("cuda", images.shape)
        with pytest.raises(DataDependentOutputException):
            IPMix(mixing_set=bank)(images)  # the first call reads, and this would notice


@pytest.mark.skipif(mixaug_ext.library() is None, reason="no compiled library")
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("levels", [LEVELS, ("image",), ("patch", "pixel"), ("image", "patch"), ("pixel",)])
@pytest.mark.parametrize(("size", "patch_sizes", "all_ops"), [((32, 32), (4, 8, 16), False), ((33, 47), (5,), True)])
def test_compiled_sampler_draws_the_same(structure, levels, size, patch_sizes, all_ops, monkeypatch):
    chosen = IPMixSettings(3, 2, 3.0, 4.0, patch_sizes, 0.3, structure, levels, all_ops)

    def draw():
        return sample_ipmix(2000, size, chosen, pictures=512, side=60, generator=seeded(1)).tensors()

    compiled = draw()
    monkeypatch.setattr("mixaug.transforms.ipmix.mixaug_ext.library", lambda: None)
    for name, value in draw().items():
        assert value.dtype == compiled[name].dtype and value.equal(compiled[name]), name


def test_sampler_follows_its_generator_s_device():
    params = sample_ipmix(
        2, (32, 32), IPMix().settings((32, 32)), pictures=4, side=36, generator=seeded(), device="meta"
    )
    assert params.m.device.type == "cpu"
