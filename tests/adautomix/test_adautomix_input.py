"""What AdAutoMix refuses, before it changes anything: each message names the argument, its rule and the value."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from adautomix_parts import CLASSES, Net, batch, draw_of, mixer_of, net, same_state, soft, state_of
from torch import Tensor, nn

from mixaug.adautomix import AdAutoMix, MixDraw, MixLaw, sample_mix

ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_classes": 1}, ValueError, "num_classes must be from 2 to 10000000, got 1"),
    ({"num_classes": 4.0}, TypeError, "num_classes must be an int, got float"),
    ({"num_classes": True}, TypeError, "num_classes must be an int, got bool"),
    ({"n_mix": 1}, ValueError, "n_mix must be from 2 to 16, got 1"),
    ({"n_mix": 0}, ValueError, "n_mix must be from 2 to 16, got 0"),
    ({"n_mix": -3}, ValueError, "n_mix must be from 2 to 16, got -3"),
    ({"n_mix": 17}, ValueError, "n_mix must be from 2 to 16, got 17"),
    ({"n_mix": 2.5}, TypeError, "n_mix must be an int, got float"),
    ({"alpha": 1.1}, ValueError, r"alpha must be from 0 to 1, got 1\.1"),
    ({"alpha": -0.1}, ValueError, "alpha must be .*got -0.1"),
    ({"alpha": math.nan}, ValueError, "alpha must be .*got nan"),
    ({"alpha": "half"}, TypeError, "alpha must be a number, got str"),
    ({"beta": 2}, ValueError, "beta must be .*got 2"),
    ({"momentum": 1.5}, ValueError, "momentum must be .*got 1.5"),
    ({"concentration": 0}, ValueError, "concentration must be .*got 0"),
    ({"concentration": -1.0}, ValueError, "concentration must be .*got -1"),
    ({"concentration": math.inf}, ValueError, "concentration must be .*got inf"),
    ({"generator_every": 0}, ValueError, "generator_every must be at least 1, got 0"),
    ({"generator_every": 1.5}, TypeError, "generator_every must be an int, got float"),
    ({"generator_share": 0.0}, ValueError, "generator_share must be .*got 0"),
    ({"generator_share": 1.01}, ValueError, "generator_share must be .*got 1.01"),
    ({"terms_share": 0}, ValueError, "terms_share must be .*got 0"),
    ({"terms_share": None}, TypeError, "terms_share must be a number, got None"),
    ({"max_skipped": 0}, ValueError, "max_skipped must be at least 1, got 0"),
    *[
        ({name: 1}, TypeError, f"{name} must be True or False, got int")
        for name in (
            "adversarial", "clean_term", "plain_term", "teacher_term", "similarity_term", "shared_draws", "per_image",
            "dirichlet",
        )
    ],
    (
        {"shared_draws": True, "generator_share": 0.5},
        ValueError,
        "generator_share must be 1 with shared_draws, .*, got 0.5",
    ),
    ({"generator": 3}, TypeError, "generator must be a torch.Generator or None, got int"),
    ({"example_input": [1]}, TypeError, "example_input must be a tensor or a tuple of tensors, got list"),
    ({"example_input": torch.zeros(2, 5)}, ValueError, r"model cannot take example_input of shape \(2, 5\)"),
    ({"model": lambda x: x}, TypeError, "model must be an nn.Module, got function"),
    ({"model": nn.DataParallel(net())}, ValueError, "model must not be wrapped, got a DataParallel: make the mixer"),
    ({"feature_layer": "layer3"}, ValueError, "the name of a layer of the model: stage1, stage2, stage3, .*'layer3'"),
    ({"feature_layer": "2"}, ValueError, r"one layer, got '2', which may be stage1\.2, stage2\.2, stage3\.2"),
    ({"feature_layer": 3}, TypeError, "feature_layer must be the name of a layer, got int"),
    ({"feature_layer": "head"}, ValueError, r"a map of places .*'head' does not; these do: stage1\.0, .*, stage3"),
    (
        {"model": nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), "example_input": torch.zeros(2, 3, 2, 2)},
        ValueError,
        "model must have a layer whose output is a map of places, got none",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "kind", "message"), ARGUMENTS)
def test_arguments(wrong: dict[str, Any], kind: type[Exception], message: str) -> None:
    given = {"model": net(), "num_classes": CLASSES} | wrong
    with pytest.raises(kind, match=message):
        AdAutoMix(**given)


def inputs() -> list[tuple[str, tuple[Any, ...], type[Exception], str]]:
    images, labels = batch()
    bad_rows, high, low, nan = soft(labels), labels.clone(), labels.clone(), images.clone()
    bad_rows[2] *= 0.5
    high[1], low[1], nan[3, 1, 2, 2] = CLASSES, -1, torch.nan
    return [
        ("list", ([1], labels), TypeError, r"images must be a floating tensor in \[0, 1\], got list"),
        ("bytes", ((255 * images).byte(), labels), TypeError, "images must be a floating tensor.*got torch.uint8"),
        ("one image", (images[0], labels), ValueError, r"images must be \(B, C, H, W\) .*got shape \(3, 12, 20\)"),
        ("no images", (images[:0], labels[:0]), ValueError, r"at least one image, got shape \(0, 3, 12, 20\)"),
        ("no pixels", (images[..., :0], labels), ValueError, r"got shape \(6, 3, 12, 0\)"),
        ("nan", (nan, labels), ValueError, "images must be finite, got 1 of 4320 values that are NaN or infinite"),
        ("few labels", (images, labels[:5]), ValueError, "labels must be 6, one for each image, got 5"),
        ("floats", (images, labels.float()), TypeError, r"class indices \(B,\) must be integers, got torch.float32"),
        ("words", (images, ["a"] * 6), TypeError, "labels must be class indices or probabilities, got a list with str"),
        ("too few in a list", (images, [0] * 5), ValueError, "labels must be 6, one for each image, got 5"),
        ("no labels", (images, None), TypeError, "labels must be a tensor, got NoneType"),
        ("high", (images, high), ValueError, r"labels must be in \[0, 4\), got 4"),
        ("low", (images, low), ValueError, r"labels must be in \[0, 4\), got -1"),
        ("columns", (images, soft(labels)[:, :3]), ValueError, "labels must have num_classes=4 columns, got 3"),
        ("rows", (images, bad_rows), ValueError, "must sum to 1 in each row, got a sum of 0.5"),
        ("elsewhere", (images, labels.to("meta")), ValueError, "labels must be on the images' device cpu, got meta"),
        ("n_mix", (images[:2], labels[:2]), ValueError, "n_mix must be at most the batch size, got 3 for a first .* 2"),
        ("stride", (images[..., :1, :1], labels), ValueError, r"images of 1x1 pixels, and 'stage2'.* earlier layer"),
    ]


@pytest.mark.parametrize("case", inputs(), ids=lambda case: case[0])
def test_batches(case: tuple[str, tuple[Any, ...], type[Exception], str]) -> None:
    _, arguments, kind, message = case
    mixer = mixer_of(net())
    before = state_of(mixer.model)
    with pytest.raises(kind, match=message):
        mixer(*arguments)
    assert same_state(before, state_of(mixer.model))
    mixer(*batch())  # nothing is left of it


def test_labels_are_looked_at_in_later_steps_too_and_images_are_not() -> None:
    mixer, (images, labels) = mixer_of(net()), batch()
    mixer(images, labels)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 4\), got 9"):
        mixer(images, labels + 9 * (labels == 0))
    assert mixer(images * torch.nan, labels).classifier_loss.isnan()  # is_finite() is for that
    mixer(images[:2], labels[:2])


def test_normalised_images_are_warned_of_at_the_first_call() -> None:
    mixer, (images, labels) = mixer_of(net()), batch()
    with pytest.warns(UserWarning, match=r"images must lie in \[0, 1\], got values from -1.*mixed as they are"):
        mixer(4 * images - 2, labels)
    mixer(4 * images - 2, labels)


def draws() -> list[tuple[Any, type[Exception], str]]:
    good = sample_mix(6, MixLaw(3))
    index, even = good.index.tolist(), [[0.5, 0.3, 0.2]] * 6

    def with_ratios(row: list[float]) -> tuple[MixDraw, MixDraw]:
        return good, draw_of(index, [*even[:4], row, even[5]])

    def with_index(row: list[int]) -> tuple[MixDraw, MixDraw]:
        return good, draw_of([*index[:5], row], even)

    return [
        (good, TypeError, "draws must be a pair of MixDraw, got MixDraw"),
        ((good,), TypeError, "draws must be a pair of MixDraw, got tuple"),
        ((good, None), TypeError, "draws must be a pair of MixDraw, got tuple"),
        (with_ratios([0.5, 0.3, 0.3]), ValueError, r"ratios must be 0 or more and sum to 1, got \[0.5, 0.30*\d*, 0.30"),
        (with_ratios([0.5, 0.3, 0.1]), ValueError, "ratios must be 0 or more and sum to 1, got"),
        (with_ratios([1.2, 0.3, -0.5]), ValueError, r"draws\.ratios must be from 0 to 1, got 1\.2"),
        (
            with_index([5, 6, 0]),
            ValueError,
            r"draws\.index must be from 0 to 5, got 6 at",
        ),
        (with_index([5, -1, 0]), ValueError, r"draws\.index must be from 0 to 5, got -1 at"),
        ((draw_of([[i] for i in range(6)], [[1.0]] * 6), good), ValueError, "index must name at least 2 of the 6"),
        ((sample_mix(5, MixLaw(3)), good), ValueError, "draws must be for the 6 images of the batch, got 5"),
        ((sample_mix(7, MixLaw(3)), good), ValueError, r"draws\.index must be from 0 to 5, got 6 at"),
    ]


@pytest.mark.parametrize("place", range(11))
def test_draws(place: int) -> None:
    given, kind, message = draws()[place]
    mixer, (images, labels) = mixer_of(net()), batch()
    with pytest.raises(kind, match=message):
        mixer(images, labels, given)


class _Other(Net):
    """Gives something else than (B, 4) logits in training mode."""

    def __init__(self, out: str) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        if not self.training:
            return logits
        return {"tuple": (logits, logits), "wide": logits.repeat(1, 2), "flat": logits[:, 0]}[self.out]


@pytest.mark.parametrize(("out", "got"), [("tuple", "tuple"), ("wide", r"\(6, 8\)"), ("flat", r"\(6,\)")])
def test_models_that_give_other_logits(out: str, got: str) -> None:
    mixer, (images, labels) = mixer_of(_Other(out)), batch()
    with pytest.raises(ValueError, match=rf"model must give logits of shape \(6, num_classes = 4\), got {got}$"):
        mixer(images, labels)


class _Sometimes(Net):
    """Skips a layer in some passes."""

    skip = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2[0](self.stage1(x)) if self.skip else self.stage2(self.stage1(x))
        return self.head(self.stage3(x).mean((2, 3)))


def test_a_layer_that_does_not_run_is_named() -> None:
    mixer, (images, labels) = mixer_of(_Sometimes()), batch()
    mixer.teacher.model.skip = True
    for similarity in (True, False):
        mixer.similarity_term = similarity
        with pytest.raises(ValueError, match="feature_layer must run in every pass of the model, but 'stage2' did not"):
            mixer(images, labels)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"n_mix": 1}, ValueError, "n_mix must be from 2 to 16, got 1"),
        ({"per_image": 0}, TypeError, "per_image must be True or False, got int"),
        ({"concentration": "a"}, TypeError, "concentration must be a number, got str"),
    ],
)
def test_laws(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        MixLaw(**given)
    for count, error in ((-1, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="batch_size must be"):
            sample_mix(count, MixLaw())


def test_what_print_shows() -> None:
    shown = repr(mixer_of(net(), n_mix=4, alpha=0.25))
    assert "AdAutoMix(\n  num_classes=4, feature_layer='stage2', n_mix=4, alpha=0.25, beta=0.3" in shown
