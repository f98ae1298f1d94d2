"""Batched crop and flip against a loop over pixels, and the law of its draws."""

from __future__ import annotations

import math

import pytest
import torch

from mixaug.train.batches import CropFlipParams, crop_flip, default_padding, sample_crop_flip


def slow_crop_flip(images, params):
    out = torch.zeros_like(images)
    batch, channels, height, width = images.shape
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                source_x = width - 1 - x if params.flip[b] else x
                row = y + int(params.top[b]) - params.padding
                column = source_x + int(params.left[b]) - params.padding
                if 0 <= row < height and 0 <= column < width:
                    for c in range(channels):
                        out[b, c, y, x] = images[b, c, row, column]
    return out


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 3, 7, 11), (5, 2, 6, 8), (1, 1, 8, 5), (0, 3, 4, 4), (2, 1, 1, 1)])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_equals_the_loop_over_pixels(shape, dtype, padding):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator).to(dtype)
    before = images.clone()
    params = sample_crop_flip(shape[0], padding, generator=generator)
    out = crop_flip(images, params)
    assert out.dtype == dtype and out.is_contiguous()
    torch.testing.assert_close(out, slow_crop_flip(images, params), rtol=0, atol=0)
    assert torch.equal(images, before)
    assert images.numel() == 0 or out.data_ptr() != images.data_ptr()


def test_keeps_channels_last():
    images = torch.rand(4, 3, 6, 9).contiguous(memory_format=torch.channels_last)
    params = sample_crop_flip(4, 2, generator=torch.Generator().manual_seed(0))
    out = crop_flip(images, params)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, crop_flip(images.contiguous(), params), rtol=0, atol=0)


def test_middle_of_the_padding_without_a_flip_is_the_image():
    images = torch.rand(3, 2, 5, 6)
    middle = torch.full((3,), 2)
    params = CropFlipParams(middle, middle, torch.zeros(3, dtype=torch.bool), padding=2)
    assert torch.equal(crop_flip(images, params), images)


def test_places_and_flips_are_uniform_and_independent():
    count, padding = 48_600, 4
    drawn = sample_crop_flip(count, padding, generator=torch.Generator().manual_seed(11))
    cells = torch.stack([drawn.top, drawn.left, drawn.flip.long()])
    code = (cells[0] * 9 + cells[1]) * 2 + cells[2]
    counts = torch.bincount(code, minlength=162).double()
    assert len(counts) == 162
    expected = count / 162
    statistic = float(((counts - expected) ** 2 / expected).sum())
    # The chi-squared law with 161 degrees of freedom, in its normal approximation: p < 1e-4 fails.
    assert abs(statistic - 161) < 3.9 * math.sqrt(2 * 161)


def test_no_flip_leaves_the_places_of_the_seed():
    with_flip = sample_crop_flip(50, 4, True, torch.Generator().manual_seed(2))
    without = sample_crop_flip(50, 4, False, torch.Generator().manual_seed(2))
    assert with_flip.flip.any() and not without.flip.any()
    assert torch.equal(with_flip.top, without.top) and torch.equal(with_flip.left, without.left)


def test_padding_is_an_eighth_of_the_side():
    assert [default_padding(side) for side in (1, 8, 28, 32, 64, 224)] == [0, 1, 4, 4, 8, 28]


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"images must have shape \(B, C, H, W\), got \(3, 4, 4\)"):
        crop_flip(torch.rand(3, 4, 4), sample_crop_flip(3))
    with pytest.raises(ValueError, match="params must be of the batch size 2, got 3"):
        crop_flip(torch.rand(2, 1, 4, 4), sample_crop_flip(3))
    with pytest.raises(ValueError, match="padding must be 0 or more, got -1"):
        sample_crop_flip(3, -1)
    with pytest.raises(ValueError, match="batch_size must be 0 or more, got -2"):
        sample_crop_flip(-2)
