"""The local Lipschitz constant: what is known by hand comes out, and the model is left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mixaug.evaluate.measures.lipschitz as module
from mixaug.evaluate import evaluate_model, local_lipschitz
from mixaug.evaluate.images import fingerprint
from mixaug.evaluate.intervals import Quantity
from mixaug.evaluate.measures.lipschitz import lipschitz_constants


def linear(weight: torch.Tensor, shape: tuple[int, ...]) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], weight.shape[0]))
    with torch.no_grad():
        model[1].weight.copy_(weight)
    return model


def grey(count: int, shape: tuple[int, ...] = (3, 5, 3)) -> torch.Tensor:
    return torch.full((count, *shape), 0.5)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3)
    )


def test_one_linear_output_has_the_sum_of_its_weights_sizes():
    weight = torch.randn(1, 45, generator=torch.Generator().manual_seed(1))
    constants = lipschitz_constants(linear(weight, (3, 5, 3)), grey(4), eps=0.1)
    assert torch.allclose(constants, weight.abs().sum().expand(4), rtol=1e-4)


def test_several_linear_outputs_reach_their_operator_norm():
    # ||W||_{inf -> 1} is the largest ||W s||_1 over sign vectors s: all 2^6 of them are tried.
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6)
    exact = (signs @ weight.T).abs().sum(1).max()
    generator = torch.Generator().manual_seed(0)
    constants = lipschitz_constants(linear(weight, (6,)), grey(40, (1, 2, 3)), eps=0.1, generator=generator)
    assert float(constants.max()) == pytest.approx(float(exact), rel=1e-4)  # an ascent from one of 40 starts gets there
    assert bool((constants <= exact * (1 + 1e-4)).all())
    assert float(constants.min()) > 0.6 * float(exact)


def test_pixels_at_their_end_move_one_way_only():
    # Images at 0 and 1: a change of the pixels only upwards, only downwards; the sum of both weights cannot be had.
    model = linear(torch.tensor([[1.0, -2.0]]), (2,))
    images = torch.tensor([[[[0.0, 0.0]]], [[[1.0, 1.0]]]])
    generator = torch.Generator().manual_seed(0)
    constants = lipschitz_constants(model, images.repeat(30, 1, 1, 1), eps=0.1, generator=generator).view(30, 2)
    # One of them moves: max(1, 2), not 3. Which, the start decides: the lower peak is a peak too.
    assert constants.amax(0).tolist() == pytest.approx([2.0, 2.0], rel=1e-3)
    assert constants.max() <= 2.002


def test_the_largest_ratio_on_the_way_counts_not_the_last():
    class Bump(nn.Module):
        """Rises by 1 within 0.01 of 0.5 and falls back to 0 at 0.1."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            distance = (x - 0.5).abs().amax((1, 2, 3))
            return torch.where(distance < 0.02, distance * 100, (2.5 - 25 * distance).clamp_min(0))[:, None]

    def largest(steps: int) -> float:
        start = torch.Generator().manual_seed(3)
        return float(
            lipschitz_constants(Bump(), grey(1, (1, 1, 1)), 0.1, steps=steps, step_size=0.013, generator=start)
        )

    steps = [largest(n) for n in (0, 1, 30)]
    assert steps[0] < steps[2] and steps[1] <= steps[2]
    assert steps[2] > 20  # the walk meets the slope near the image; at the end of the ball the ratio is 0
    assert steps[2] <= 100 * (1 + 1e-5)


def test_a_constant_model_has_zero_and_no_image_no_constant():
    class Flat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2] * 0 + 3

    assert lipschitz_constants(Flat(), grey(2), eps=0.1).tolist() == [0, 0]
    assert lipschitz_constants(Flat(), grey(0), eps=0.1).shape == (0,)


def test_dividing_the_logits_divides_the_constant():
    model = small_model().eval()
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))

    def constants() -> torch.Tensor:
        return lipschitz_constants(model, images, 0.05, generator=torch.Generator().manual_seed(0))

    before = constants()
    with torch.no_grad():
        model[5].weight /= 10
        model[5].bias /= 10
    assert torch.allclose(constants(), before / 10, rtol=1e-3)


def test_an_estimate_over_a_subset_that_repeats():
    images = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = (images, torch.zeros(30, dtype=torch.int64))
    model = small_model()
    one, two, other = (local_lipschitz(model, data, 0.05, n=12, seed=seed) for seed in (1, 1, 2))
    assert one == two and isinstance(one, Quantity)
    assert one != other
    assert (one.n, one.method) == (12, "bootstrap")
    assert one.low < one.value < one.high
    # The report measures the same images with the same starts.
    report = evaluate_model(model, data, attacks=None, corruptions=None, audit=False, eps=0.05, n_lipschitz=12, seed=1)
    assert report.lipschitz == one
    assert "Lipschitz constant" in report.to_table()


def test_the_model_and_the_global_random_state_are_left_as_they_were():
    model = small_model()
    model[1].eval()
    model[5].bias.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    before, state = fingerprint(dict(model.state_dict())), torch.get_rng_state()
    images = torch.zeros(6, 3, 8, 8)
    local_lipschitz(model, (images, torch.zeros(6, dtype=torch.int64)), device="cpu")
    assert fingerprint(dict(model.state_dict())) == before
    assert [layer.training for layer in model] == [True, False, True, True, True, True]
    assert not model[5].bias.requires_grad and model[0].weight.grad is None
    assert torch.equal(model[5].weight.grad, torch.ones_like(model[5].weight))
    assert torch.equal(torch.get_rng_state(), state)
    assert float(images.abs().max()) == 0


def test_a_smoother_model_has_a_smaller_constant_and_the_figure_is_three_digits():
    weight = torch.randn(3, 192, generator=torch.Generator().manual_seed(4))
    data = (grey(8, (3, 8, 8)), torch.zeros(8, dtype=torch.int64))
    steep, smooth = (local_lipschitz(linear(weight * scale, (3, 8, 8)), data) for scale in (1, 0.01))
    assert smooth.value == pytest.approx(steep.value / 100, rel=1e-3)
    for value, text in [(566.71, "567"), (7.125, "7.12"), (0.12345, "0.123"), (12345.0, "12300"), (0.0, "0")]:
        assert Quantity(value, value, value, 1).text == text
    assert Quantity(-1.5, -2, -1, 1).change == "-1.50"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"eps": 0}, ValueError, "eps must be above 0 and at most 1, got 0"),
        ({"eps": 8}, ValueError, r"eps must be above 0 and at most 1, got 8; did you mean 8/255\?"),
        ({"eps": "8"}, TypeError, "eps must be a number"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"step_size": -0.1}, ValueError, "step_size must be"),
        ({"n": 0}, ValueError, "n must be at least 1"),
        ({"n": 4}, ValueError, "n must be at most the 3 images"),
        ({"batch_size": 0}, ValueError, "batch_size must be from 1 to 2147483647"),
        ({"seed": -1}, ValueError, "seed must be from 0 to 9223372036854775807"),
    ],
)
def test_refuses_bad_arguments(settings, error, message):
    data = (grey(3, (3, 8, 8)), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(error, match=message):
        local_lipschitz(small_model(), data, **settings)


def test_refuses_what_is_no_classifier_or_no_image():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        local_lipschitz("model", None)
    for images in (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8), [1]):
        with pytest.raises(TypeError, match="images must be floating point of shape"):
            lipschitz_constants(small_model(), images, 0.1)
    with pytest.raises(ValueError, match="model must return logits of shape"):
        lipschitz_constants(nn.Identity(), grey(2), 0.1)

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2] / 0

    with pytest.raises(FloatingPointError, match="not finite at step 1"):
        lipschitz_constants(Broken(), grey(2), 0.1)


def test_the_mean_is_over_images():
    assert module.mean_constant(torch.tensor([1.0, 3.0])).value == 2.0
