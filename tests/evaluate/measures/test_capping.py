"""Figures of caps: against counts by hand, on models whose gradients are known, and the model is left as it was."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mixaug.evaluate import CapFigures, cap_figures, zero_gradient_share, zero_gradients
from mixaug.nn import DReLU, SReLU


class Gate(nn.Module):
    """Logits that depend on an image only where its first pixel is below a half; the gradient is the rest's."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return torch.where(flat[:, :1] < 0.5, flat[:, 1:3], flat[:, 1:3] * 0)


def small_model(init: float = 0.3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        DReLU(4, init=init),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(144, 6),
        DReLU(6, init=init, dim=-1),
        nn.Linear(6, 5),
    )


def batch(count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 5


def test_zero_gradients_are_found_image_by_image():
    images = torch.full((4, 1, 2, 2), 0.25)
    images[1:3, 0, 0, 0] = 0.75
    labels = torch.tensor([0, 0, 1, 1])
    assert zero_gradients(Gate(), images, labels).tolist() == [False, True, True, False]
    estimate = zero_gradient_share(Gate(), images, labels)
    assert (estimate.value, estimate.n) == (0.5, 4)
    assert estimate.low < 0.5 < estimate.high


def test_one_pixel_is_a_gradient_however_small():
    class OnePixel(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            value = images[:, 0, 1, 1:] * 1e-30
            return torch.cat([value, -value], 1)

    assert not zero_gradients(OnePixel(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1])).any()


@pytest.mark.parametrize("layer", [DReLU(3, init=1e-6), SReLU(1e-6)])
def test_capped_units_leave_no_gradient(layer: nn.Module):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), layer)
    with torch.no_grad():
        model[1].bias.fill_(5.0)
    images, labels = torch.rand(6, 1, 2, 2), torch.arange(6) % 3
    assert zero_gradient_share(model, images, labels).value == 1
    model[2] = nn.Identity()
    assert zero_gradient_share(model, images, labels).value == 0


def test_a_part_of_the_images_has_one_capped_unit_on_the_way():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 1), DReLU(1, init=1.0), nn.Linear(1, 5))
    images, labels = batch(24)
    with torch.no_grad():
        model[1].weight.abs_()
        before = model[:2](images).flatten()
        model[2].max_value.fill_(float(before.median()) + 1e-6)
    expected = [bool(value >= model[2].max_value.detach()) for value in before]
    assert zero_gradients(model, images, labels).tolist() == expected
    assert zero_gradient_share(model, images, labels, batch_size=5).value == sum(expected) / 24 > 0


def test_gradients_are_those_of_one_image_at_a_time():
    model = small_model(0.02).eval()
    images, labels = batch(24)
    expected = []
    for image, label in zip(images, labels, strict=True):
        point = image[None].clone().requires_grad_()
        F.cross_entropy(model(point), label[None]).backward()
        expected.append(bool((point.grad == 0).all()))
    assert zero_gradients(model, images, labels).tolist() == expected


@pytest.mark.parametrize("size", [1, 3, 7, 256])
def test_size_of_the_batches_does_not_matter(size: int):
    images, labels = batch()
    model = small_model().eval()
    figures = cap_figures(model, images, labels, batch_size=size)
    assert figures == cap_figures(model, images, labels)
    assert figures.n == 7


def test_bytes_and_probabilities_are_taken():
    images, labels = batch()
    levels = (images * 255).round().to(torch.uint8)
    model = small_model()
    assert cap_figures(model, levels, labels) == cap_figures(model, levels.float() / 255, labels)
    rows = F.one_hot(labels, 5).float()
    assert cap_figures(model, images, rows) == cap_figures(model, images, labels)


def test_counts_equal_those_of_plain_loops():
    images, labels = batch()
    model = small_model().eval()
    with torch.no_grad():
        model[2].max_value.copy_(torch.tensor([0.1, 0.5, 50.0, -1.0]))
        model[6].max_value.copy_(torch.tensor([0.05, 0.1, 0.2, 50.0, 60.0, 0.0]))
        first = model[:2](images)
        second = model[:6](images)
    first_caps, second_caps = (model[k].max_value.detach().clamp(min=0) for k in (2, 6))
    capped, reached = 0, set()
    for n in range(7):
        for c in range(4):
            count = sum(bool(x >= first_caps[c]) for x in first[n, c].flatten())
            capped += count
            reached |= {("first", c)} if count else set()
        for k in range(6):
            if second[n, k] >= second_caps[k]:
                capped += 1
                reached.add(("second", k))
    figures = cap_figures(model, images, labels)
    assert figures.capped_share == capped / (first.numel() + second.numel())
    assert figures.capped_units == len(reached) / 10
    assert 0 < len(reached) < 10
    assert figures.zero_gradient_share == zero_gradient_share(model, images, labels).value


def test_quantiles_are_those_of_all_caps():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10), DReLU(10), DReLU(1, init=10.0))
    with torch.no_grad():
        model[2].max_value.copy_(torch.arange(10.0).flip(0))
    images, labels = batch()
    assert cap_figures(model, images, labels).quantiles == pytest.approx((0, 1, 5, 9, 10))
    one = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), DReLU(1, init=3.0))
    assert cap_figures(one, images, labels).quantiles == (3, 3, 3, 3, 3)


def test_a_cap_that_is_met_exactly_counts():
    model = nn.Sequential(nn.Flatten(), DReLU(4, init=0.5), nn.Linear(4, 2))
    images = torch.tensor([0.25, 0.5, 0.5, 0.75]).view(1, 1, 2, 2)
    assert cap_figures(model, images, torch.tensor([0])).capped_share == 0.75


def test_a_cap_of_several_dimensions_and_one_for_the_layer():
    images = torch.tensor([[0.1, 0.9], [0.2, 0.1]]).view(1, 1, 2, 2).repeat(2, 3, 1, 1)
    images[1] = 0
    neuron = nn.Sequential(DReLU((3, 2, 2), init=0.15), nn.Flatten(), nn.Linear(12, 2))
    figures = cap_figures(neuron, images, torch.tensor([0, 1]))
    assert (figures.capped_share, figures.capped_units) == (0.25, 0.5)
    with torch.no_grad():
        neuron[0].max_value[:, 0] = 0.05  # of the first rows: both values of each reach it
    assert cap_figures(neuron, images, torch.tensor([0, 1])).capped_units == 0.75
    layer = nn.Sequential(DReLU(1, init=0.15), nn.Flatten(), nn.Linear(12, 2))
    figures = cap_figures(layer, images, torch.tensor([0, 1]))
    assert (figures.capped_share, figures.capped_units) == (0.25, 1.0)


def test_caps_of_the_last_dimension():
    model = nn.Sequential(nn.Flatten(1, 2), DReLU(4, init=0.5, dim=-1), nn.Flatten(), nn.Linear(16, 2))
    images = torch.zeros(1, 2, 2, 4)
    images[..., 1] = 0.9  # one feature of all tokens; dimension 1 has the same size
    figures = cap_figures(model, images, torch.tensor([0]))
    assert (figures.capped_share, figures.capped_units) == (0.25, 0.25)


def test_all_calls_of_a_layer_count_and_its_caps_once():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cap = DReLU(4, init=0.5)
            self.unused = DReLU(4, init=7.0)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            flat = images.flatten(1)
            return self.cap(x=self.cap(flat) * 0.5)[:, :2]  # also called by keyword

    images = torch.tensor([0.6, 0.1, 0.1, 0.1]).view(1, 1, 2, 2)
    figures = cap_figures(Twice(), images, torch.tensor([0]))
    assert (figures.capped_share, figures.capped_units) == (1 / 8, 1 / 8)
    assert figures.quantiles == (0.5, 0.5, pytest.approx(3.75), 7, 7)


def test_layers_that_share_their_caps_have_them_once():
    model = nn.Sequential(nn.Flatten(), DReLU(4, init=0.5), DReLU(4), nn.Linear(4, 2))
    model[2].max_value = model[1].max_value
    images = torch.tensor([0.6, 0.1, 0.1, 0.1]).view(1, 1, 2, 2)
    figures = cap_figures(model, images, torch.tensor([0]))
    assert (figures.capped_share, figures.capped_units) == (0.25, 0.25)


def test_in_place_layers_count_what_comes_in():
    model = nn.Sequential(nn.Flatten(), nn.Identity(), DReLU(4, init=0.5, inplace=True), nn.Linear(4, 2))
    model[1] = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(4))
    images = torch.tensor([0.6, 0.1, 0.9, 0.1]).view(1, 1, 2, 2)
    assert cap_figures(model, images, torch.tensor([0])).capped_share == 0.5


def test_half_precision_compares_as_the_layer_does():
    model = nn.Sequential(nn.Flatten(), DReLU(2, init=0.301), nn.Linear(2, 2).to(torch.bfloat16))
    images = torch.tensor([0.3, 0.2], dtype=torch.bfloat16).view(1, 1, 1, 2)  # both round to 0.30078125
    assert cap_figures(model, images, torch.tensor([0])).capped_share == 0.5


def test_model_without_drelu_has_no_figures():
    images, labels = batch()
    assert cap_figures(nn.Sequential(nn.Flatten(), nn.Linear(192, 5), SReLU(1.0)), images, labels) is None


def test_the_model_is_left_as_it_was():
    model = small_model()
    model[1].eval()
    images, labels = batch()
    kept = images.clone()
    F.cross_entropy(model(images), labels).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        assert cap_figures(model, images, labels) is not None
        assert zero_gradients(model, images, labels).shape == (7,)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert not any(module._forward_pre_hooks for module in model.modules())
    before = cap_figures(model, images, labels)
    model.train()
    assert cap_figures(model, images, labels) == before  # dropout is off


def test_in_inference_mode():
    images, labels = batch()
    model = small_model()
    with torch.inference_mode():
        figures = cap_figures(model, images.clone(), labels)
    assert figures == cap_figures(model, images, labels)


def test_compiled_model_is_counted():
    model = small_model().eval()
    images, labels = batch()
    expected = cap_figures(model, images, labels)
    compiled = torch.compile(model, backend="eager")
    compiled(images.clone().requires_grad_())  # as it is called there: nothing is compiled anew
    assert cap_figures(compiled, images, labels) == expected


class Nans(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * math.nan


class Raises(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no more")


@pytest.mark.parametrize(
    ("last", "error", "message"),
    [
        (Raises(), RuntimeError, "no more"),
        (Nans(), FloatingPointError, "not finite"),
    ],
)
def test_after_an_error_the_model_is_as_it_was(last: nn.Module, error: type[Exception], message: str):
    model = small_model().append(last)
    model[3].eval()
    modes = [module.training for module in model.modules()]
    images, labels = batch()
    with pytest.raises(error, match=message):
        cap_figures(model, images, labels)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_infinite_gradients_are_no_gradients_of_zero():
    class Root(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).sqrt()  # infinite at 0

    with pytest.raises(FloatingPointError, match="were not finite"):
        zero_gradients(Root(), torch.tensor([0.0, 0.25]).view(1, 1, 1, 2), torch.tensor([0]))


def test_logits_that_are_cut_off_are_refused():
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.fc(images.detach().flatten(1))

    images, labels = batch()
    with pytest.raises(ValueError, match="must depend on the images by autograd"):
        zero_gradients(Cut(), images, labels)
    with pytest.raises(ValueError, match="must depend on the images by autograd"):
        zero_gradient_share(Cut().requires_grad_(False), images, labels)


def test_no_images():
    images, labels = batch(0)
    assert zero_gradients(small_model(), images, labels).shape == (0,)
    for measure in (zero_gradient_share, cap_figures):
        with pytest.raises(ValueError, match="images must be 1 or more, got 0"):
            measure(small_model(), images, labels)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "resnet18"}, TypeError, "model must be a torch.nn.Module, got str"),
        ({"images": [1.0]}, TypeError, "images must be a tensor, got list"),
        ({"images": torch.zeros(7, 3, 8, 8, dtype=torch.int64)}, TypeError, "images must be floating point"),
        ({"images": torch.zeros(7, 192)}, ValueError, r"images must have shape \(B, C, H, W\)"),
        ({"images": torch.full((7, 3, 8, 8), 2.0)}, ValueError, r"images must lie in \[0, 1\]"),
        ({"labels": torch.zeros(7)}, TypeError, "labels must be an int64 tensor"),
        ({"labels": torch.zeros(6, dtype=torch.int64)}, ValueError, r"labels must have shape \(7,\)"),
        ({"labels": torch.full((7,), 5)}, ValueError, "labels must lie below the model's 5 classes, got 5"),
        ({"batch_size": 0}, ValueError, "batch_size must be from 1 to 2147483647, got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an int, got float"),
        ({"model": nn.Sequential(nn.Flatten(), DReLU())}, ValueError, "the D-ReLU layer 1 has no size yet"),
    ],
)
def test_refused_arguments(change: dict, error: type[Exception], message: str):
    images, labels = batch()
    arguments = {"model": small_model(), "images": images, "labels": labels} | change
    with pytest.raises(error, match=message):
        cap_figures(**arguments)


def test_figures_are_frozen_and_written_short():
    figures = CapFigures((0.5, 1.0, 2.0, 3.0, 4.0), 0.25, 0.75, 0.1, 500)
    with pytest.raises(AttributeError):
        figures.n = 3  # type: ignore[misc]
    assert "median 2" in str(figures)
    assert "10.0% of 500 images" in str(figures)
