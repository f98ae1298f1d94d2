"""IPMix's kernels against the slow oracle of reference.py, in both forms: compiled and PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from reference import pil_ipmix
from torch import Tensor

import mixaug_ext
from mixaug.ops import image_operation, ipmix_torch, mix, replay_ipmix
from mixaug.ops.ipmix_record import IMAGE_OPERATIONS, MIXING_OPERATIONS, OP, OPERATIONS, IPMixParams
from mixaug.transforms.ipmix import LEVELS, STRUCTURES, IPMixSettings, sample_ipmix

Replay = Callable[[Tensor, IPMixParams, Tensor], Tensor]

compiled_only = pytest.mark.skipif(mixaug_ext.library() is None, reason=f"no compiled kernels: {mixaug_ext.why_not()}")
FORMS = [pytest.param(replay_ipmix, id="compiled", marks=compiled_only), pytest.param(ipmix_torch, id="torch")]
SIZES = [(32, 32), (33, 47), (224, 224)]
SMALL = [(32, 32), (33, 47)]
STRENGTHS = (0.1, 0.34, 0.7, 1.0, 1.6, 2.4, 3.0, 3.9, 5.2, 6.9, 8.4, 10.0)
#: Warps weigh neighbours with 11 bits where PIL uses doubles; both truncate, so a few values (0.2% to 0.4% of those of
#: these images) fall one level apart.
BLENDED = ("rotate", "shear_x", "shear_y")


def pictures_of(count: int, channels: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Test images with edges, gradients, noise, all 256 values; then a flat one, a dark one and pure noise."""
    generator = torch.Generator().manual_seed(seed)
    h, w = size
    y = torch.linspace(0, 1, h)[:, None]
    x = torch.linspace(0, 1, w)
    out = []
    for i in range(count):
        shift = torch.rand(channels, 1, 1, generator=generator)
        wave = torch.sin((3 + i % 3) * (x + 2 * shift)) * torch.cos((2 + i % 5) * y + 4 * shift)
        image = 127.5 + 150 * wave + 8 * torch.randn(channels, h, w, generator=generator)
        image = torch.where(((4 * x).long() + (3 * y).long()) % 4 == 0, 255 - image, image)
        match i % 6:
            case 3:
                image = torch.full((channels, h, w), float(37 * i % 256))
            case 4:
                image = image * 0.1
            case 5:
                image = 256 * torch.rand(channels, h, w, generator=generator)
        out.append(image)
    return torch.stack(out).clamp(0, 255).to(torch.uint8)


def one_step(size: tuple[int, int], **columns: list[float] | Tensor) -> IPMixParams:
    """A record whose only step is given, one row each, and whose result is that step's bytes."""
    n = len(columns["op"])

    def column(name: str, default: float, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(columns.get(name, [default] * n), dtype=dtype).reshape(n, 1, 1).clone()

    box = torch.as_tensor(columns.get("box", [[0, 0, size[1], size[0]]] * n), dtype=torch.int64).reshape(n, 1, 1, 4)
    one = torch.ones(n, 1)
    index = torch.arange(n)
    return IPMixParams(
        size=size, batch=n, views=1, side=max(size) + 3, mixed_input=False,
        depth=one.long(), weight=one, m=one[:, 0].clone(), box=box, picture=index % 4, top=index % 2, left=index % 3,
        **{name: column(name, default, torch.int64) for name, default in
           {"op": 0, "sign": 1, "seed": 0, "source": -1}.items()},
        **{name: column(name, 1.0, torch.float32) for name in ("level", "a", "b", "keep")},
    )  # fmt: skip


def settings(size: tuple[int, int], structure: str = "chain", severity: float = 10.0, t: int = 3) -> IPMixSettings:
    """Everything switched on, at full strength."""
    sides = tuple(side for side in (4, 8, 16, 32, 64) if side < min(size))
    return IPMixSettings(3, t, severity, 3.0, sides, 0.5, structure, LEVELS, True)


def record(batch: int, size: tuple[int, int], structure: str = "chain", *, seed: int = 0, **kwargs: int) -> IPMixParams:
    return sample_ipmix(
        batch, size, settings(size, structure), pictures=4, side=max(size) + 3,
        generator=torch.Generator().manual_seed(seed), **kwargs,
    )  # fmt: skip


def bank(size: tuple[int, int]) -> Tensor:
    side = max(size) + 3
    return pictures_of(4, 3, (side, side), seed=99)


def difference(got: Tensor, expected: list[np.ndarray]) -> np.ndarray:
    return np.abs(got.double().numpy() - np.stack(expected).astype(np.float64))


# ------------------------------------------------------------------ one step, given parameters


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", IMAGE_OPERATIONS)
def test_image_operation_is_pils(name: str, size: tuple[int, int], channels: int, form: Replay) -> None:
    strengths = STRENGTHS[1::4] if size[0] > 64 else STRENGTHS
    cases = [(level, sign) for level in strengths for sign in (-1, 1)]
    images = pictures_of(len(cases), channels, size, seed=OP[name])
    levels, signs = zip(*cases, strict=True)
    params = one_step(size, op=[OP[name]] * len(cases), level=list(levels), sign=list(signs))
    got = form(images, params, bank(size))
    level32 = params.level.flatten().tolist()
    expected = [
        reference.image_operation(image.numpy(), name, level, sign)
        for image, level, sign in zip(images, level32, signs, strict=True)
    ]
    off = difference(got, expected)
    if name in BLENDED:
        assert off.max() <= 1
        assert (off > 0).mean() < 6e-3, f"{(off > 0).mean():.2e} of the values differ from PIL's"
    else:
        assert off.max() == 0
    alone = image_operation(images, params.op.flatten(), params.level.flatten(), params.sign.flatten())
    assert torch.equal(alone, got)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", MIXING_OPERATIONS)
def test_mixing_operator_is_the_formula(name: str, size: tuple[int, int], channels: int, form: Replay) -> None:
    h, w = size
    boxes = [(0, 0, w, h), (0, 0, 4, 4), (w - 8, h - 8, w, h), (5, 3, 7, 17), (0, h - 2, 16, h), (11, 0, 12, 16)]
    exponents = [(0.3, 0.2), (0.95, 0.01), (0.0, 0.0), (0.9, 0.8), (1.0, 0.0), (1.4, -0.3), (2.0, -1.0), (1.01, -0.9)]
    keeps = [0.0, 0.25, 0.5, 0.999, 1 - 2.0**-24]
    seeds = [0, 1, -1, 2**63 - 1, -(2**63), 0x0123456789ABCDEF]
    n = 12 if size[0] > 64 else 48
    images = pictures_of(n, channels, size, seed=7)
    params = one_step(
        size, op=[OP[name]] * n, box=[boxes[i % 6] for i in range(n)],
        a=[exponents[i // 2 % 8][0] for i in range(n)], b=[exponents[i // 2 % 8][1] for i in range(n)],
        keep=[keeps[i % 5] for i in range(n)], seed=torch.tensor([seeds[i // 5 % 6] for i in range(n)]),
    )  # fmt: skip
    pictures = bank(size)
    got = form(images, params, pictures)
    expected = [
        reference.step(image.numpy(), image.numpy(),
                       reference.picture_crop(params, i, pictures.numpy(), channels), params, i, 0, 0)
        for i, image in enumerate(images)
    ]  # fmt: skip
    off = difference(got, expected)
    if name in ("random_pixels", "random_elements"):
        assert off.max() == 0
    else:
        assert off.max() <= 1
        assert (off > 0).mean() < 1e-3, f"{(off > 0).mean():.2e} of the values differ from the formula's"
    for i, (x0, y0, x1, y1) in enumerate(params.box[:, 0, 0].tolist()):
        outside = torch.ones(h, w, dtype=torch.bool)
        outside[y0:y1, x0:x1] = False
        assert torch.equal(got[i][:, outside], images[i][:, outside])


@pytest.mark.parametrize("form", FORMS)
def test_every_pair_of_bytes(form: Replay) -> None:
    """add and multiply for all 65,536 pairs of an image's and a picture's value, in both branches of the exponents."""
    size = (256, 256)
    value = torch.arange(256, dtype=torch.uint8)
    pictures = value.view(1, 1, 1, 256).expand(1, 3, 256, 256).contiguous()
    cases = [(op, a, b) for op in ("add", "multiply") for a, b in ((0.4, 0.3), (1.0, 1.0), (1.7, -0.6), (2.0, -1.0))]
    images = value.view(1, 1, 256, 1).expand(len(cases), 1, 256, 256)
    op, a, b = zip(*cases, strict=True)
    params = one_step(size, op=[OP[name] for name in op], a=list(a), b=list(b))
    zero = torch.zeros(len(cases), dtype=torch.int64)
    params = dataclasses.replace(params, side=256, picture=zero, top=zero, left=zero)
    got = form(images, params, pictures)
    u, s = images[0].numpy(), pictures[0, :1].numpy()
    for row, (name, first, second) in enumerate(zip(op, params.a.flatten(), params.b.flatten(), strict=True)):
        exact = reference.mix_exact(u, s, name, first.item(), second.item(), 0.0, 0)
        # Within half a level of the exact value and float32's error (multiplied by up to 2^1 * (2s)^-1).
        assert np.abs(got[row].numpy() - exact).max() <= 0.5 + 2e-4


@pytest.mark.parametrize("form", FORMS)
def test_random_masks(form: Replay) -> None:
    """random_pixels takes all channels of a pixel from one source, random_elements does not; keep is the image's."""
    size, n = (64, 64), 8
    images = torch.zeros(n, 3, 64, 64, dtype=torch.uint8)
    pictures = torch.full((4, 3, 67, 67), 255, dtype=torch.uint8)
    keep = [0.0, 0.1, 0.3, 0.5, 0.6, 0.8, 0.9, 1 - 2.0**-24]
    for name in ("random_pixels", "random_elements"):
        params = one_step(size, op=[OP[name]] * n, keep=keep, seed=torch.arange(n) * 7919 - 3)
        kept = form(images, params, pictures) == 0
        shared = (kept == kept[:, :1]).all(1)
        assert shared.all() == (name == "random_pixels")
        share = kept[:, 0].double().mean((1, 2)) if name == "random_pixels" else kept.double().mean((1, 2, 3))
        assert torch.allclose(share, torch.tensor(keep).double(), atol=0.04)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])
@pytest.mark.parametrize("small", [1, 7, 32, 49])
def test_smaller_pictures_are_enlarged(small: int, channels: int, form: Replay) -> None:
    """A picture under the record's side is enlarged where the patch lies: bilinear, as torch's interpolation."""
    size, n = (33, 47), 6
    images, pictures = pictures_of(n, channels, size), pictures_of(4, 3, (small, small), seed=3)
    boxes = [(0, 0, 47, 33), (3, 5, 40, 9), (46, 0, 47, 33), (0, 32, 47, 33), (20, 20, 36, 33), (0, 0, 2, 2)]
    params = one_step(size, op=[OP["random_pixels"]] * n, keep=[0.0] * n, box=boxes)
    got = form(images, params, pictures)
    expected = [
        reference.step(images[i].numpy(), images[i].numpy(),
                       reference.picture_crop(params, i, pictures.numpy(), channels), params, i, 0, 0)
        for i in range(n)
    ]  # fmt: skip
    off = difference(got, expected)
    assert off.max() <= 1
    assert (off > 0).mean() < 6e-3
    if channels == 3:
        whole = torch.nn.functional.interpolate(pictures.float(), size=(params.side,) * 2, mode="bilinear")
        crop = whole[0, :, : size[0], : size[1]]  # the first row's box is the image, its crop the upper left corner
        assert (got[0] - crop).abs().max() <= 1.001


def test_yardstick_mixes_by_the_formula() -> None:
    """The benchmark's NumPy operators equal the oracle's, so the yardstick does the same work."""
    u, s = (pictures_of(1, 3, (33, 47), seed=seed)[0].numpy() for seed in (1, 2))
    for a, b in ((0.3, 0.2), (0.99, 0.02), (1.4, -0.3), (2.0, -1.0), (0.0, 0.5)):
        for name, operator in (("add", pil_ipmix.add), ("multiply", pil_ipmix.multiply)):
            exact = reference.mix_exact(u, s, name, a, b, 0.0, 0)
            assert np.abs(operator(u, s, a, b) - exact).max() <= 0.5 + 2e-4


@pytest.mark.parametrize("pipeline", [pil_ipmix.PILIPMix, pil_ipmix.LeanIPMix])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_yardstick_runs(pipeline: type, mode: str) -> None:
    """Both PIL pipelines keep the size, change pixels and repeat for a seed, on non-square images too."""
    image = reference.to_pil(pictures_of(1, 3 if mode == "RGB" else 1, (33, 47))[0].numpy())
    bank_images = [reference.to_pil(p.numpy()).convert(mode) for p in bank((33, 47))]
    runs = []
    for _ in range(2):
        augment = pipeline(bank_images, self_mix=0.5, rng=np.random.default_rng(5))
        runs.append(np.stack([np.asarray(augment(image)) for _ in range(40)]))
    assert np.array_equal(*runs)
    assert len(np.unique(runs[0].reshape(40, -1), axis=0)) > 30


# ------------------------------------------------------------------ whole records


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=["uint8", "float32"])
@pytest.mark.parametrize("size", SMALL, ids=str)
def test_record_is_the_oracles(
    size: tuple[int, int], dtype: torch.dtype, channels: int, structure: str, form: Replay
) -> None:
    """Random records with everything on. A level's difference in one step can grow in the next, so the bounds are on
    shares and means; steps one by one are compared below."""
    batch = 32
    images = pictures_of(batch, channels, size)
    if dtype != torch.uint8:
        noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1)) - 0.5
        images = ((images + 0.9 * noise) / 255).clamp(0, 1)
    params = record(batch, size, structure, views=2)
    # Half of the cases enlarge the pictures on the way.
    pictures = bank(size) if structure == "chain" else pictures_of(4, 3, (29, 29), seed=98)
    got = form(images, params, pictures)
    assert got.shape == (2 * batch, channels, *size)
    expected = [reference.replay_reference(images[r % batch], params, r, pictures) for r in range(2 * batch)]
    off = difference(got, expected) * (1 if dtype == torch.uint8 else 255)
    level = 0.5 if dtype == torch.uint8 else 1e-3  # float results move by the weight of the chain that differs
    assert (off > level).mean() < 4e-3
    assert (off > 1.001).mean() < 2e-4
    assert off.mean() < 4e-3
    # No image is wrong as a whole: a wrong operation, crop or box would show in every one of its pixels.
    assert np.quantile(off.reshape(len(off), -1), 0.9, axis=1).max() <= 1.001


def first_steps(params: IPMixParams, chain: int, steps: int) -> IPMixParams:
    """The record that returns the bytes of one chain after some of its steps."""
    depth = params.depth.clone()
    depth[:, chain] = depth[:, chain].clamp_max(steps)
    depth[:, chain + 1 :] = 0
    if not params.mixed_input:
        depth[:, :chain] = 0
    weight = torch.zeros_like(params.weight)
    weight[:, chain] = 1.0
    return dataclasses.replace(params, depth=depth, weight=weight, m=torch.ones_like(params.m))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("size", SMALL, ids=str)
def test_each_step_of_a_record(size: tuple[int, int], structure: str, form: Replay) -> None:
    """Each step given the very input that the fast code had: within one level, whatever came before; then the sum."""
    batch = 24
    images = pictures_of(batch, 3, size)
    params, pictures = record(batch, size, structure, seed=3), bank(size)
    crops = [reference.picture_crop(params, r, pictures.numpy(), 3) for r in range(batch)]
    chains: list[Tensor] = []
    differing = compared = 0
    for i in range(params.depth.shape[1]):
        before = form(images, first_steps(params, i, 0), pictures)
        assert torch.equal(before, chains[-1] if params.mixed_input and chains else images)
        for j in range(int(params.depth[:, i].max())):
            after = form(images, first_steps(params, i, j + 1), pictures)
            for r in range(batch):
                if j >= int(params.depth[r, i]):
                    assert torch.equal(after[r], before[r])
                    continue
                expected = reference.step(before[r].numpy(), images[r].numpy(), crops[r], params, r, i, j)
                off = np.abs(after[r].numpy().astype(int) - expected)
                limit = 1 if OPERATIONS[int(params.op[r, i, j])] not in ("random_pixels", "random_elements") else 0
                own = int(params.source[r, i, j])
                if own >= 0 and OPERATIONS[own] in BLENDED:
                    # The image's own warp may be a level off, which an exponent or coefficient can double or more.
                    assert (off > 1).mean() < 2e-3
                else:
                    assert off.max() <= limit, params.describe(r)
                differing += int((off > 0).sum())
                compared += off.size
            before = after
        chains.append(before)
    assert differing < 1e-3 * compared
    got = form(images, params, pictures)
    for r in range(batch):
        fast_chains: list[np.ndarray | None] = [chain[r].numpy() for chain in chains]
        expected = reference.finish(images[r].numpy(), fast_chains, params.weight[r].numpy(), float(params.m[r]))
        off = np.abs(got[r].numpy().astype(int) - expected)
        assert off.max() <= 1
        assert (off > 0).mean() < 5e-3


@compiled_only
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (1, 1), (2, 5), (1, 40), (65, 20)], ids=str)
@pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])
def test_compiled_and_torch_forms_agree_bit_for_bit(
    channels: int, size: tuple[int, int], dtype: torch.dtype, structure: str
) -> None:
    images = pictures_of(48, channels, size)
    if dtype != torch.uint8:
        images = (images / 255.0).to(dtype)
    params = record(48, size, structure, views=2, seed=8)
    for pictures in (bank(size), pictures_of(4, 3, (3, 3), seed=2)):
        assert torch.equal(replay_ipmix(images, params, pictures), ipmix_torch(images, params, pictures))


@compiled_only
def test_forms_agree_at_224() -> None:
    images, size = pictures_of(24, 3, (224, 224)), (224, 224)
    params, pictures = record(24, size, views=1, seed=9), bank(size)
    assert torch.equal(replay_ipmix(images, params, pictures), ipmix_torch(images, params, pictures))


def test_form_for_other_devices_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every operation is computed for every image and the right one kept: the same bits."""
    size = (33, 47)
    images, params, pictures = pictures_of(24, 3, size), record(24, size, seed=10), bank(size)
    expected = ipmix_torch(images, params, pictures)
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    got = ipmix_torch(images, params, pictures)
    monkeypatch.undo()
    assert torch.equal(got, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gpu_equals_cpu(dtype: torch.dtype, structure: str) -> None:
    size = (33, 47)
    images = pictures_of(48, 3, size)
    if dtype != torch.uint8:
        images = (images / 255.0).to(dtype)
    params, pictures = record(48, size, structure, views=2, seed=11), bank(size)
    got = replay_ipmix(images.cuda(), params.to("cuda"), pictures.cuda()).cpu()
    expected = replay_ipmix(images, params, pictures)
    if dtype == torch.uint8:
        assert torch.equal(got, expected)
    else:
        last_bit = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
        assert (got.float() - expected.float()).abs().max() <= last_bit


# ------------------------------------------------------------------ the same record, fed differently


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_batched_is_one_by_one_and_replay_repeats(structure: str, dtype: torch.dtype, form: Replay) -> None:
    size = (33, 47)
    images = pictures_of(17, 3, size)
    if dtype != torch.uint8:
        images = (images / 255.0).to(dtype)
    params, pictures = record(17, size, structure, seed=4), bank(size)
    whole = form(images, params, pictures)
    assert torch.equal(whole, form(images, params, pictures))
    for i in range(17):
        assert torch.equal(whole[i : i + 1], form(images[i : i + 1], params.rows([i]), pictures))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_memory_formats_and_strides(dtype: torch.dtype, form: Replay) -> None:
    size = (33, 47)
    images = pictures_of(9, 3, size)
    if dtype != torch.uint8:
        images = (images / 255.0).to(dtype)
    params, pictures = record(9, size, views=2, seed=5), bank(size)
    expected = form(images, params, pictures)
    assert expected.is_contiguous()
    last = form(images.to(memory_format=torch.channels_last), params, pictures)
    assert torch.equal(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)
    padded = torch.zeros(9, 3, 40, 60, dtype=dtype)
    padded[:, :, 4:37, 6:53] = images
    assert torch.equal(form(padded[:, :, 4:37, 6:53], params, pictures), expected)
    flipped = images.flip(3).transpose(2, 3).contiguous().transpose(2, 3).flip(3)
    assert torch.equal(form(flipped, params, pictures), expected)


@pytest.mark.parametrize("form", FORMS)
def test_one_image_expanded_to_a_batch(form: Replay) -> None:
    """A batch stride of 0 is a plain view of the image."""
    size = (32, 32)
    image = pictures_of(1, 3, size)
    params, pictures = record(12, size, seed=6), bank(size)
    expanded = image.expand(12, -1, -1, -1)
    assert torch.equal(form(expanded, params, pictures), form(expanded.contiguous(), params, pictures))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_compute_in_float32(dtype: torch.dtype, form: Replay) -> None:
    """One cast at the end: the result is float32's, rounded once."""
    size = (33, 47)
    images = (pictures_of(16, 3, size) / 255.0).to(dtype)
    params, pictures = record(16, size, seed=7), bank(size)
    got = form(images, params, pictures)
    assert got.dtype == dtype
    assert torch.equal(got, form(images.float(), params, pictures).to(dtype))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batch_sizes_and_untouched_inputs(batch: int, dtype: torch.dtype, form: Replay) -> None:
    size = (33, 47)
    images = pictures_of(3, 3, size)[:batch]
    if dtype != torch.uint8:
        images = images / 255.0
    params, pictures = record(batch, size, views=2), bank(size)
    inputs = {"images": images, "pictures": pictures} | params.tensors()
    before = {name: (tensor.clone(), tensor._version) for name, tensor in inputs.items()}
    out = form(images, params, pictures)
    assert out.shape == (2 * batch, 3, *size)
    assert out.dtype == dtype
    assert out.numel() == 0 or out.data_ptr() != images.data_ptr()
    for name, tensor in inputs.items():
        assert torch.equal(tensor, before[name][0]), name
        assert tensor._version == before[name][1], name


@compiled_only
def test_number_of_threads_changes_nothing() -> None:
    size = (33, 47)
    images, params, pictures = pictures_of(65, 3, size), record(65, size, seed=12), bank(size)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(replay_ipmix(images, params, pictures))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_no_step_is_the_image_itself(dtype: torch.dtype, form: Replay) -> None:
    """Depth 0 everywhere, or m = 0, returns the image bit for bit, also values between bytes."""
    size = (33, 47)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, *size, generator=generator)
    images = (255 * images).to(dtype) if dtype == torch.uint8 else images.to(dtype)
    params, pictures = record(6, size), bank(size)
    still = dataclasses.replace(params, depth=torch.zeros_like(params.depth))
    assert torch.equal(form(images, still, pictures), images)
    skipped = dataclasses.replace(params, m=torch.zeros_like(params.m))
    assert torch.equal(form(images, skipped, pictures), images)


@pytest.mark.parametrize("form", FORMS)
def test_results_stay_in_range(form: Replay) -> None:
    size = (33, 47)
    images = (pictures_of(64, 3, size) / 255.0).round()
    out = form(images, record(64, size, seed=13), bank(size))
    assert out.min() >= 0
    assert out.max() <= 1
    assert out.isfinite().all()


def test_mix_function_is_the_records_step() -> None:
    """ops.mix, called alone, equals the step inside a record, and writes to neither of its images."""
    size, n = (33, 47), 16
    images, sources = pictures_of(n, 3, size), pictures_of(n, 3, size, seed=1)
    params = record(n, size, seed=14)
    columns = {name: getattr(params, name)[:, 0, 0] for name in ("a", "b", "keep", "seed", "box")}
    op = torch.arange(n) % 4 + OP["add"]
    copies = images.clone(), sources.clone()
    got = mix(images, sources, op, **columns)
    assert torch.equal(images, copies[0])
    assert torch.equal(sources, copies[1])
    for i in range(n):
        a, b, keep, seed = (columns[name][i].item() for name in ("a", "b", "keep", "seed"))
        expected = reference.mix(
            images[i].numpy(), sources[i].numpy(), OPERATIONS[int(op[i])], a, b, keep, seed, columns["box"][i].tolist()
        )
        assert np.abs(got[i].numpy().astype(int) - expected).max() <= 1
