"""Random parts of random pictures: against a loop over pixels, and the statistics of the draws."""

from __future__ import annotations

import math

import pytest
import torch

from mixaug.mixing_sets import MixingSet, PickParams, crop_pictures, sample_picks


def pictures_of(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def slow(pictures: torch.Tensor, params: PickParams) -> torch.Tensor:
    """Pixel by pixel, in double."""
    height, width = params.size
    side = pictures.shape[-1]
    out = torch.empty(len(params.index), 3, height, width, dtype=torch.float64)
    for b in range(len(params.index)):
        n = params.scale[b].item() * max(height, width)
        for y in range(height):
            for x in range(width):
                column = width - 1 - x if params.flip[b] else x
                v = (params.top[b].item() * (n - height) + y + 0.5) * side / n - 0.5
                u = (params.left[b].item() * (n - width) + column + 0.5) * side / n - 0.5
                v, u = min(max(v, 0.0), side - 1.0), min(max(u, 0.0), side - 1.0)
                y0, x0 = min(int(v), side - 2), min(int(u), side - 2)
                p = pictures[params.index[b], :, y0 : y0 + 2, x0 : x0 + 2].double()
                top = p[:, 0, 0] + (u - x0) * (p[:, 0, 1] - p[:, 0, 0])
                low = p[:, 1, 0] + (u - x0) * (p[:, 1, 1] - p[:, 1, 0])
                out[b, :, y, x] = top + (v - y0) * (low - top)
    return out


@pytest.mark.parametrize("size", [(12, 12), (9, 14), (15, 8), (1, 1)])
@pytest.mark.parametrize("side", [21, 40, 11])
def test_equals_the_loop(size, side):
    pictures = pictures_of(5, side)
    params = sample_picks(6, size, 5, generator=torch.Generator().manual_seed(1))
    made = crop_pictures(pictures, params)
    assert made.dtype == torch.uint8 and made.shape == (6, 3, *size) and made.is_contiguous()
    assert (made.double() - slow(pictures, params)).abs().max() <= 0.5 + 1e-2


def test_whole_picture_is_the_picture():
    pictures = pictures_of(3, 16)
    ones = torch.ones(3)
    params = PickParams((16, 16), 16, torch.arange(3), ones, ones * 0.3, ones * 0.7, torch.tensor([False, True, False]))
    made = crop_pictures(pictures, params)
    assert torch.equal(made[0], pictures[0]) and torch.equal(made[2], pictures[2])
    assert torch.equal(made[1], pictures[1].flip(-1))


def test_statistics_of_the_draws():
    params = sample_picks(20_000, (32, 32), 8, (1.0, 1.5), 0.25, torch.Generator().manual_seed(0))
    assert params.side == 48
    counts = torch.bincount(params.index, minlength=8) / 20_000
    assert (counts - 1 / 8).abs().max() < 0.01
    for values, low, high in ((params.scale, 1.0, 1.5), (params.top, 0.0, 1.0), (params.left, 0.0, 1.0)):
        assert values.min() >= low and values.max() <= high
        assert abs(values.mean().item() - (low + high) / 2) < 0.01 * (high - low)
        assert abs(values.std().item() - (high - low) / math.sqrt(12)) < 0.01 * (high - low)
    assert abs(params.flip.float().mean().item() - 0.25) < 0.01
    assert abs(torch.corrcoef(torch.stack([params.scale, params.top, params.left]))[0, 1].item()) < 0.03


def test_each_image_gets_its_own():
    pictures = MixingSet.from_tensor(pictures_of(64, 64))
    picked = pictures.pick(32, 24, generator=torch.Generator().manual_seed(3))
    assert len({tuple(p.flatten().tolist()) for p in picked}) == 32


def test_repeats_with_a_generator_and_leaves_the_global_one():
    pictures = MixingSet.from_tensor(pictures_of(4, 40))
    state = torch.get_rng_state()
    first = pictures.pick(3, (20, 31), generator=torch.Generator().manual_seed(5))
    assert torch.equal(first, pictures.pick(3, (20, 31), generator=torch.Generator().manual_seed(5)))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(0)
    second = pictures.pick(3, 20)
    torch.manual_seed(0)
    assert torch.equal(second, pictures.pick(3, 20))


def test_does_not_write_to_the_set_and_keeps_one_copy_per_size():
    given = pictures_of(4, 64)
    pictures = MixingSet.from_tensor(given)
    for seed in range(5):
        pictures.pick(3, 20, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(pictures.pictures, given)
    assert set(pictures._resized) == {(30, "cpu")}


def test_a_set_smaller_than_the_images_is_enlarged():
    pictures = MixingSet.from_tensor(torch.full((2, 3, 8, 8), 90, dtype=torch.uint8))
    picked = pictures.pick(2, 50)
    assert picked.shape == (2, 3, 50, 50) and (picked == 90).all()


def test_empty_batch_and_no_scale():
    pictures = MixingSet.from_tensor(pictures_of(2, 16))
    assert pictures.pick(0, 8).shape == (0, 3, 8, 8)
    assert pictures.pick(1, 16, scale=(1.0, 1.0), flip=0.0).shape == (1, 3, 16, 16)


def test_meta_stands_for_another_device():
    pictures = MixingSet.from_tensor(pictures_of(2, 16))
    params = sample_picks(3, (8, 8), 2).to("meta")
    assert params.index.device.type == "meta" and pictures.crop(params).device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    pictures = MixingSet.from_tensor(pictures_of(4, 40))
    params = sample_picks(6, (20, 24), 4)
    gap = pictures.crop(params.to("cuda")).cpu().int() - pictures.crop(params).int()
    assert gap.abs().max() <= 1
    assert pictures.pick(3, 20, device="cuda").device.type == "cuda"


@pytest.mark.parametrize(
    "arguments,error,words",
    [
        ({"batch": -1}, ValueError, "batch must be from 0 to 1048576, got -1"),
        ({"batch": 1.0}, TypeError, "batch must be an int"),
        ({"size": 0}, ValueError, "size must be from 1 to 16384, got 0"),
        ({"size": (4, 4, 4)}, TypeError, r"size must be a pair \(H, W\), got tuple: \(4, 4, 4\)"),
        ({"size": "8"}, TypeError, "size must be an int, got str"),
        ({"scale": (0.5, 1.0)}, ValueError, "scale must be from 1 to 100, got 0.5"),
        ({"scale": (2.0, 1.0)}, ValueError, r"scale must be a range \(low, high\) with low <= high"),
        ({"scale": 1.5}, TypeError, r"scale must be a pair \(low, high\), got float: 1.5"),
        ({"flip": 1.5}, ValueError, "flip must be from 0 to 1, got 1.5"),
        ({"flip": "a"}, TypeError, "flip must be a number"),
    ],
)
def test_bad_input(arguments, error, words):
    pictures = MixingSet.from_tensor(pictures_of(2, 16))
    with pytest.raises(error, match=words):
        pictures.pick(**{"batch": 1, "size": 8} | arguments)
