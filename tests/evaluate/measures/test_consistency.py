"""Flip rates: pairs and flips against loops, models whose flips are known, and what is shown of them."""

from __future__ import annotations

import json
import math
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixaug.evaluate.corruptions.perturbations import PERTURBATIONS, frames, sample_perturbation
from mixaug.evaluate.images import fingerprint
from mixaug.evaluate.intervals import bootstrap_means
from mixaug.evaluate.measures.consistency import (
    SHOWN,
    FlipExample,
    FlipRates,
    flip_bars,
    flip_rates,
    flip_sequences,
    flips,
    pairs,
    sequence_predictions,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_flip_rate(predictions: list[list[int]], noise: bool) -> float:
    """The benchmark's definition, sequence by sequence."""
    total = 0.0
    for sequence in predictions:
        before, changed = sequence[0], []
        for label in sequence[1:]:
            changed.append(label != before)
            if not noise:
                before = label
        total += sum(changed) / len(changed)
    return total / len(predictions)


def above(threshold: float):
    """Class 1 where the mean of the pixels is above a threshold, as a function."""

    def logits(images: Tensor) -> Tensor:
        over = images.mean((1, 2, 3)) - threshold
        return torch.stack([-over, over], 1)

    return logits


class Seen(nn.Module):
    """Keeps the pictures it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        return torch.nn.functional.one_hot((images.flatten(1).sum(1) * 7).long() % 3, 3).float()


def small_model(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(400, classes)
    )


def data_of(count: int, size: int = 12, channels: int = 3) -> tuple[Tensor, Tensor]:
    return torch.rand(count, channels, size, size, generator=seeded()), torch.arange(count) % 3


# ---------------------------------------------------------------- pairs and flips


@pytest.mark.parametrize("name", PERTURBATIONS)
@settings(max_examples=25, deadline=None)
@given(predictions=st.lists(st.lists(st.integers(0, 3), min_size=31, max_size=31), min_size=1, max_size=4))
def test_flips_are_those_of_the_benchmark(name, predictions):
    found = flips(torch.tensor(predictions), name)
    noise = name in ("gaussian_noise", "shot_noise")
    assert float(found.double().mean() / 30) == pytest.approx(slow_flip_rate(predictions, noise))
    by_pairs = [sum(row[a] != row[b] for a, b in pairs(name)) for row in predictions]
    assert found.tolist() == by_pairs and found.dtype == torch.int64


def test_pairs():
    assert pairs("gaussian_noise") == pairs("shot_noise") == tuple((0, t) for t in range(1, 31))
    others = [name for name in PERTURBATIONS if not name.endswith("_noise")]
    assert len(others) == 8 and all(pairs(name) == tuple((t - 1, t) for t in range(1, 31)) for name in others)


def test_flips_of_no_sequences_and_of_any_integers():
    assert flips(torch.zeros(0, 31, dtype=torch.int64), "tilt").shape == (0,)
    row = torch.tensor([[0] * 15 + [9] * 16], dtype=torch.uint8)
    assert flips(row, "tilt").tolist() == [1] and flips(row, "shot_noise").tolist() == [16]


# ---------------------------------------------------------------- predictions


@pytest.mark.parametrize("count", [0, 1, 3])
def test_predictions_are_those_of_each_frame(count):
    images = torch.rand(count, 1, 6, 9, generator=seeded())
    params = sample_perturbation(count, seeded(2))

    def predict(batch: Tensor) -> Tensor:
        return (batch.flatten(1).sum(1) * 7).long() % 3

    expected = [predict(each) for each in frames(images, "spatter", "cifar", params)]
    found = sequence_predictions(predict, images, "spatter", params=params)
    assert found.shape == (count, 31) and found.dtype == torch.int64
    assert torch.equal(found, torch.stack(expected, 1))
    assert torch.equal(found, sequence_predictions(predict, images, "spatter", "cifar", seeded(2)))


def test_a_threshold_on_the_brightness_flips_once_where_it_is_crossed():
    # Grey values go up by 0.015 a frame from 0.225 below the image's: 0.5 is crossed by those from 0.275 to 0.725.
    images = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    rates = flip_rates(above(0.5), (images, torch.zeros(5, dtype=torch.int64)), names=("brightness",))
    assert rates.flips["brightness"].tolist() == [0, 1, 1, 1, 0] and rates.pairs == 30
    assert rates.rates["brightness"].value == pytest.approx(3 / 150) and rates.mean.value == pytest.approx(3 / 150)
    example = rates.examples[0]
    assert example.flips == 1 and example.shown == SHOWN and example.label == 0
    shown = [float(image[0, 0, 0]) / 255 for image in example.images]
    assert shown == pytest.approx([0.3 + 0.015 * (t - 15) for t in SHOWN], abs=0.6 / 255)


def test_the_mean_is_over_perturbations_and_intervals_over_images():
    generator = seeded()
    counts = {name: torch.randint(0, 31, (40,), generator=generator) for name in ("rotate", "scale", "tilt")}
    rates = FlipRates(counts)
    for name, count in counts.items():
        expected = bootstrap_means(count.double()[:, None] / 30)[0]
        assert vars(rates.rates[name]) == pytest.approx(vars(expected))
    shares = torch.stack(list(counts.values()), 1).double().mean(1) / 30
    assert rates.mean.value == pytest.approx(float(shares.mean())) and rates.mean.n == 40
    assert rates.mean.low < rates.mean.value < rates.mean.high
    assert rates.mean.high - rates.mean.low < rates.rates["tilt"].high - rates.rates["tilt"].low


# ---------------------------------------------------------------- the measurement


def test_all_perturbations_by_default_and_json_is_exact():
    rates = flip_rates(small_model().eval(), data_of(5))
    assert list(rates.flips) == list(PERTURBATIONS) == [example.perturbation for example in rates.examples]
    again = FlipRates.from_json(json.loads(json.dumps(rates.to_json())))
    assert again.pairs == rates.pairs and again.mean == rates.mean and again.rates == rates.rates
    assert all(torch.equal(again.flips[name], rates.flips[name]) for name in PERTURBATIONS)
    assert all(again.flips[name].dtype == torch.int64 for name in PERTURBATIONS)
    for one, two in zip(again.examples, rates.examples, strict=True):
        assert torch.equal(one.images, two.images) and torch.equal(one.predictions, two.predictions)
        assert (one.perturbation, one.label, one.shown) == (two.perturbation, two.label, two.shown)
        assert two.flips == int(rates.flips[two.perturbation].max())


def test_two_models_see_the_same_pictures_whatever_the_batches_and_the_subset():
    data = data_of(7, 8)
    names = ("gaussian_noise", "spatter")
    one, two, three, other = Seen(), Seen(), Seen(), Seen()
    first = flip_rates(one, data, names=names, seed=4)
    second = flip_rates(two, data, names=names, seed=4, batch_size=3)
    flip_rates(three, data, names=names, seed=4, n=2)
    flip_rates(other, data, names=names, seed=5)
    assert all(torch.equal(first.flips[name], second.flips[name]) for name in names)
    pictures = torch.stack(one.seen)  # a batch for each frame of each perturbation
    assert pictures.shape == (62, 7, 3, 8, 8)
    blocks = [torch.stack(two.seen[start : start + 31]) for start in range(0, 186, 31)]
    assert torch.equal(pictures[:31], torch.cat(blocks[:3], 1)) and torch.equal(pictures[31:], torch.cat(blocks[3:], 1))
    few = torch.stack(three.seen)
    assert few.shape[1] == 2
    assert all(any(torch.equal(few[:, i], pictures[:, j]) for j in range(7)) for i in range(2))
    assert not torch.equal(pictures, torch.stack(other.seen))
    same = Seen()
    flip_rates(same, (torch.full((2, 3, 8, 8), 0.5), torch.tensor([0, 1])), names=("gaussian_noise",))
    assert torch.equal(same.seen[0][0], same.seen[0][1]) and not torch.equal(same.seen[1][0], same.seen[1][1])


def test_examples_show_the_most_flips_and_the_frames_that_the_model_saw():
    data = data_of(6, 9)
    model = Seen()
    rates = flip_rates(model, data, names=("shot_noise", "rotate"), batch_size=4)
    for place, name in enumerate(("shot_noise", "rotate")):
        example = rates.examples[place]
        at = int(rates.flips[name].argmax())
        start = 62 * place + (31 if at >= 4 else 0)
        batches = model.seen[start : start + 31]
        assert example.label == int(data[1][at])
        for picture, t in zip(example.images, SHOWN, strict=True):
            assert torch.equal(picture, (batches[t][at % 4] * 255).round().to(torch.uint8))


def test_large_pictures_are_kept_small():
    images = torch.rand(1, 3, 60, 240, generator=seeded())
    rates = flip_rates(above(0.5), (images, torch.tensor([1])), names=("rotate",))
    assert rates.examples[0].images.shape == (6, 3, 28, 112) and rates.examples[0].images.dtype == torch.uint8


def test_any_callable_and_any_data_set_form():
    images, labels = data_of(4, 10, 1)
    as_bytes = (images * 255).round().to(torch.uint8)
    pairs_of = [(image, int(label)) for image, label in zip(as_bytes, labels, strict=True)]
    labels_of = (labels > 0).long()
    expected = flip_rates(above(0.5), (as_bytes, labels_of), names=("scale",)).flips["scale"]
    with warnings.catch_warnings():  # torch calls TorchScript deprecated; users have such files
        warnings.simplefilter("ignore")
        script = torch.jit.trace(Twice(), images)
    for model in (above(0.5), lambda batch: above(0.5)(batch).numpy(), script):
        assert torch.equal(flip_rates(model, (as_bytes, labels_of), names=["scale"]).flips["scale"], expected)
    binary = [(image, label % 2) for image, label in pairs_of]
    assert torch.equal(flip_rates(above(0.5), binary, names=("scale",)).flips["scale"], expected)


class Twice(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        over = images.mean((1, 2, 3)) - 0.5
        return torch.stack([-over, over], 1)


def test_a_data_set_with_some_of_the_classes_asks_for_these_alone():
    class Some:
        def __init__(self, model_classes: list[int]) -> None:
            self.images, self.labels = data_of(5, 8)
            self.labels = self.labels % len(model_classes)
            self.model_classes = torch.tensor(model_classes)

    def logits(images: Tensor) -> Tensor:
        values = images.mean((1, 2, 3))
        return torch.stack([0.52 - values, values * 0 + 9, values - 0.52, values * 0 + 0.001], 1)

    constant = flip_rates(logits, Some([0, 1, 2]), names=("brightness",))
    assert constant.flips["brightness"].tolist() == [0] * 5
    crossing = flip_rates(logits, Some([0, 2]), names=("brightness",))
    assert crossing.flips["brightness"].tolist() == [1] * 5


def test_the_model_comes_back_as_it_was():
    model = small_model()
    model[3].eval()  # a mode of its own
    modes = [module.training for module in model.modules()]
    before = fingerprint(dict(model.state_dict()))
    flip_rates(model, data_of(3), names=("translate",))
    assert [module.training for module in model.modules()] == modes
    assert fingerprint(dict(model.state_dict())) == before

    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("broken")

    broken = nn.Sequential(nn.Dropout(), Broken())
    with pytest.raises(RuntimeError, match="broken"):
        flip_rates(broken, data_of(3), names=("translate",))
    assert broken.training and broken[0].training


def test_no_global_randomness_is_used():
    state = torch.get_rng_state()
    flip_rates(above(0.5), (data_of(2)[0], torch.tensor([0, 1])), names=("gaussian_noise", "spatter"))
    assert torch.equal(torch.get_rng_state(), state)


def test_pieces_are_kept_and_found_and_progress_is_told():
    data = data_of(5)
    stored: dict[str, dict[str, Tensor]] = {}
    told: list[str] = []

    def keep(name, compute):
        if name not in stored:
            stored[name] = compute()
        return stored[name]

    model = small_model()
    settings_of = {"names": ("rotate", "scale"), "batch_size": 2, "keep": keep, "advance": told.append}
    first = flip_rates(model, data, **settings_of)
    assert sorted(stored) == [f"flips/{name}/{block}" for name in ("rotate", "scale") for block in range(3)]
    assert told == ["rotate"] * 3 + ["scale"] * 3
    assert all(list(piece) == ["predictions"] for piece in stored.values())

    class Killed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("nothing is computed twice")

    again = flip_rates(Killed(), data, **settings_of)
    assert again.to_json() == first.to_json()
    plain = flip_rates(model, data, names=("rotate", "scale"), batch_size=2)
    assert plain.to_json() == first.to_json()


# ---------------------------------------------------------------- bad input


def test_refuses_bad_input():
    data = data_of(3)
    for arguments, error, message in [
        ({"preset": "svhn"}, ValueError, "preset must be one of cifar, imagenet, got 'svhn'"),
        ({"names": "tilt"}, TypeError, "names must be a sequence of names, got str: 'tilt'"),
        (
            {"names": ["tilt", "snow"]},
            ValueError,
            r"names must be one of gaussian_noise, .*, got 'snow'",
        ),
        (
            {"names": []},
            ValueError,
            r"names must be one or more of gaussian_noise, .*, got none",
        ),
        ({"names": ["tilt", "tilt"]}, ValueError, "names must be different names"),
        ({"n": 4}, ValueError, "n must be at most the 3 images of the data set, got 4"),
        ({"batch_size": 0}, ValueError, "batch_size must be from 1 to 2147483647, got 0"),
        ({"seed": -1}, ValueError, "seed must be from 0 to 9223372036854775807, got -1"),
    ]:
        with pytest.raises(error, match=message):
            flip_rates(small_model(), data, **arguments)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        flip_rates(3, data)
    with pytest.raises(ValueError, match="labels must lie below the model's 2 classes, got 2"):
        flip_rates(above(0.5), data, names=("tilt",))
    with pytest.raises(FloatingPointError, match="the model's logits are not finite on frames of tilt"):
        flip_rates(lambda images: images.flatten(1)[:, :4] * math.nan, data, names=("tilt",))
    with pytest.raises(ValueError, match="with 1 or 3 channels"):
        flip_rates(lambda images: images.flatten(1), data_of(3, 8, 2), names=("tilt",))
    with pytest.raises(TypeError, match=r"predictions must be an integer tensor, got torch\.float32"):
        flips(torch.zeros(2, 31), "tilt")
    with pytest.raises(ValueError, match=r"predictions must have shape \(B, 31\), got \(2, 30\)"):
        flips(torch.zeros(2, 30).long(), "tilt")
    with pytest.raises(ValueError, match="name must be one of"):
        pairs("snow")
    with pytest.raises(ValueError, match=r"predict must return integers of shape \(3,\), got torch.float32 of shape"):
        sequence_predictions(lambda images: images.flatten(1), data[0], "tilt")


# ---------------------------------------------------------------- figures


def example(name: str, predictions: list[int], channels: int = 1) -> FlipExample:
    pictures = torch.randint(0, 256, (6, channels, 8, 10), dtype=torch.uint8, generator=seeded())
    return FlipExample(name, 1, torch.tensor(predictions), SHOWN, pictures)


def test_the_sequences_of_most_flips_are_drawn(monkeypatch):
    pytest.importorskip("matplotlib")
    from mixaug.evaluate.measures import consistency as consistency_figure

    drawn = []
    monkeypatch.setattr(consistency_figure, "_strip", lambda axes, example, classes: drawn.append(example.perturbation))
    names = ["rotate", "scale", "tilt", "translate", "brightness", "spatter", "motion_blur"]
    examples = tuple(example(name, [0] * (31 - i) + [1, 2] * (i // 2) + [3] * (i % 2)) for i, name in enumerate(names))
    figure = flip_sequences(FlipRates({name: torch.tensor([1]) for name in names}, examples=examples))
    assert figure.png.startswith(b"\x89PNG") and "31 frames" in figure.caption
    assert drawn == ["motion_blur", "spatter", "brightness", "translate", "tilt"]


@pytest.mark.parametrize("count", [1, 3])
def test_strips_name_classes_and_mark_changes(count):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from mixaug.evaluate.measures.consistency import _strip

    figure = Figure()
    axes = figure.add_subplot()
    _strip(axes, example("rotate", [2] * 8 + [1] * 23, count), ["a cat", "a very long name of a class", "dog"])
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["dog", "dog"] + ["a very long …"] * 4
    assert axes.get_title(loc="left") == "rotate: 1 change; is: a very long name of a class"
    colours = [text.get_color() for text in axes.texts]
    assert len(set(colours)) == 2 and len(axes.images) == 6 and len(axes.collections) == 31
    assert len([line for line in axes.lines if line.get_color() == "black"]) == 1
    noisy = figure.add_subplot()
    _strip(noisy, example("shot_noise", [2] * 8 + [1] * 23), None)
    assert noisy.get_title(loc="left") == "shot noise: 23 of 30 differ from the first; is: 1"


def test_bars_of_one_and_of_several_models():
    pytest.importorskip("matplotlib")
    one = FlipRates({"rotate": torch.tensor([3, 1]), "scale": torch.tensor([0, 0])})
    two = FlipRates({"rotate": torch.tensor([3, 4]), "tilt": torch.tensor([0, 9])})
    alone, both = flip_bars({"one": one}), flip_bars({"one": one, "two": two})
    assert alone.png.startswith(b"\x89PNG") and both.png != alone.png
    assert "n = 2 images with 30 pairs each" in both.caption
    with pytest.raises(ValueError, match="a perturbation that all have"):
        flip_bars({"one": FlipRates({"rotate": torch.tensor([3])}), "two": FlipRates({"tilt": torch.tensor([3])})})
    with pytest.raises(ValueError, match="one model or more"):
        flip_bars({})
    with pytest.raises(ValueError, match="rates must hold examples, got none"):
        flip_sequences(one)


def test_a_mean_is_drawn_only_over_what_all_models_have(monkeypatch):
    from mixaug.evaluate.measures import consistency as consistency_figure

    rows = []
    monkeypatch.setattr(consistency_figure, "grouped", lambda given, names, unit: rows.append(given) or b"")
    one = FlipRates({"rotate": torch.tensor([3, 1]), "scale": torch.tensor([0, 0])})
    two = FlipRates({"rotate": torch.tensor([3, 4]), "tilt": torch.tensor([0, 9])})
    flip_bars({"one": one, "again": one})
    flip_bars({"one": one, "two": two})
    flip_bars({"two": two, "few": FlipRates({"rotate": torch.tensor([1])})})
    flip_bars({"few": FlipRates({"rotate": torch.tensor([1])}), "two": two})
    labels = [[label for label, _ in given] for given in rows]
    assert labels == [["mean", "rotate", "scale"], ["rotate"], ["rotate"], ["rotate"]]


def test_names_the_extra_when_matplotlib_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mixaug\[train\]"'):
        flip_bars({"one": FlipRates({"rotate": torch.tensor([3])})})
