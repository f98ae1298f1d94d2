"""Both players' losses, term by term, against plain loops from the masks to the cross-entropies."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import reference_adautomix
import torch
from adautomix_parts import CLASSES, Net, batch, draw_of, mixer_of, net, seeded, soft, uneven
from torch import Tensor

from mixaug.adautomix import AdAutoMix, AdAutoMixOutput, MixDraw, MixLaw, sample_mix


class Expected:
    """What a step must give, computed from copies of both networks with nothing of the package."""

    def __init__(self, mixer: AdAutoMix, images: Tensor, labels: Tensor) -> None:
        self.mixer, self.images, self.labels = mixer, images, labels
        self.f: Net = copy.deepcopy(mixer.model)
        self.t: Net = copy.deepcopy(mixer.teacher.model).eval()
        for parameter in self.t.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def masks(self, draw: MixDraw) -> Tensor:
        features = self.t.stage2(self.t.stage1(self.images))
        project = self.mixer.generator.project
        size = (self.images.shape[2], self.images.shape[3])
        return reference_adautomix.masks(project.weight, project.bias, features[draw.index], draw.ratios, size)

    @torch.no_grad()
    def classifier(self, draw: MixDraw, share: float = 1.0) -> dict[str, float]:
        """The three terms; passes in the order of the sum, so that batch norm moves as it would."""
        rows = max(2, math.ceil(share * len(self.images)))
        masks = self.masks(draw)
        masks[draw.plain] = draw.ratios[draw.plain][..., None, None].double().expand_as(masks[draw.plain])
        self.mixed_logits = self.f(reference_adautomix.mixture(self.images, draw.index, masks).float())
        self.clean_logits = self.f(self.images[:rows])
        blend = self.f(reference_adautomix.mixture(self.images, draw.index, draw.ratios)[:rows].float())
        return {
            "mixed": reference_adautomix.amce(self.mixed_logits, self.labels, draw.index, draw.ratios),
            "clean": reference_adautomix.plain_loss(self.clean_logits, self.labels),
            "plain": reference_adautomix.amce(blend, self.labels, draw.index, draw.ratios),
        }

    @torch.no_grad()
    def generator(self, draw: MixDraw) -> dict[str, float]:
        masks = self.masks(draw)
        self.mixed = reference_adautomix.mixture(self.images, draw.index, masks)
        seen, sources = self.t(self.mixed.float()), self.t(self.images)
        return {
            "adversarial": reference_adautomix.amce(
                copy.deepcopy(self.f)(self.mixed.float()), self.labels, draw.index, draw.ratios
            ),
            "teacher": reference_adautomix.amce(seen, self.labels, draw.index, draw.ratios),
            "similarity": reference_adautomix.similarity(seen, sources, draw.index, draw.ratios),
        }


def prepared(count: int = 5, **options: Any) -> tuple[AdAutoMix, Tensor, Tensor]:
    """A mixer whose teacher is not its model, on a batch with labels that repeat."""
    model = net()
    mixer = mixer_of(model, per_image=True, **options)
    uneven(model)
    images, labels = batch(count)
    return mixer, images, labels


def close(found: dict[str, Tensor], expected: dict[str, float]) -> bool:
    return {name: value.item() for name, value in found.items()} == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("n_mix", [2, 3, 5])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_every_term_equals_plain_loops(n_mix: int, kind: str) -> None:
    mixer, images, labels = prepared(n_mix=n_mix, alpha=0.2, beta=0.6)
    labels = soft(labels) if kind == "probabilities" else labels
    expected, draws = Expected(mixer, images, labels), mixer.sample(images)
    first, second = expected.classifier(draws[0]), expected.generator(draws[1])
    out = mixer(images, labels, draws)
    assert close(out.terms, first | second)
    assert out.classifier_loss.item() == pytest.approx(
        first["mixed"] + 0.8 * first["clean"] + 0.2 * first["plain"], abs=5e-5
    )
    rise = second["adversarial"] - 0.6 * second["teacher"] + 0.4 * second["similarity"]
    assert out.generator_loss.item() == pytest.approx(-rise, abs=5e-5)
    assert len({round(value, 3) for value in (first | second).values()}) == 6  # no term could stand for another


def test_what_a_step_gives() -> None:
    mixer, images, labels = prepared()
    expected, draws = Expected(mixer, images, labels), mixer.sample(images)
    expected.classifier(draws[0])
    expected.generator(draws[1])
    out = mixer(images, labels, draws)
    assert isinstance(out, AdAutoMixOutput) and out.generator_turn and out.draw is draws[1]
    torch.testing.assert_close(out.masks.double(), expected.masks(draws[1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.mixed.double(), expected.mixed, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.logits, expected.clean_logits, rtol=0, atol=1e-5)
    assert out.targets.equal(torch.nn.functional.one_hot(labels, CLASSES).float())
    for value in (out.mixed, out.masks, out.logits, out.targets, *out.terms.values()):
        assert not value.requires_grad and value.dtype == torch.float32
    for loss in (out.classifier_loss, out.generator_loss):
        assert loss.requires_grad and loss.shape == () and loss.dtype == torch.float32
    assert out.masks.std(1).mean() > 0.02


@pytest.mark.parametrize(
    ("option", "left_out", "classifier", "generator"),
    [
        ("clean_term", "clean", lambda t: t["mixed"] + 0.3 * t["plain"], None),
        ("plain_term", "plain", lambda t: t["mixed"] + 0.7 * t["clean"], None),
        ("teacher_term", "teacher", None, lambda t: t["adversarial"] + 0.8 * t["similarity"]),
        ("similarity_term", "similarity", None, lambda t: t["adversarial"] - 0.2 * t["teacher"]),
        (
            "adversarial",
            None,
            None,
            lambda t: -t["adversarial"] - 0.2 * t["teacher"] + 0.8 * t["similarity"],
        ),
    ],
)
def test_each_switch(option: str, left_out: str | None, classifier: Any, generator: Any) -> None:
    mixer, images, labels = prepared(alpha=0.3, beta=0.2, **{option: False})
    expected, draws = Expected(mixer, images, labels), mixer.sample(images)
    terms = expected.classifier(draws[0]) | expected.generator(draws[1])
    out = mixer(images, labels, draws)
    assert close(out.terms, {name: value for name, value in terms.items() if name != left_out})
    down = classifier or (lambda t: t["mixed"] + 0.7 * t["clean"] + 0.3 * t["plain"])
    up = generator or (lambda t: t["adversarial"] - 0.2 * t["teacher"] + 0.8 * t["similarity"])
    assert out.classifier_loss.item() == pytest.approx(down(terms), abs=5e-5)
    assert out.generator_loss.item() == pytest.approx(-up(terms), abs=5e-5)
    if option == "clean_term":  # the accuracy is shown of the classifier's mixtures
        torch.testing.assert_close(out.logits, expected.mixed_logits, rtol=0, atol=1e-5)
        rows = reference_adautomix.mixture(torch.eye(CLASSES)[labels][..., None, None], draws[0].index, draws[0].ratios)
        torch.testing.assert_close(out.targets, rows.flatten(1).float())


def test_all_switches_off_leaves_one_term_each() -> None:
    off = dict.fromkeys(("clean_term", "plain_term", "teacher_term", "similarity_term"), False)
    mixer, images, labels = prepared(**off)
    out = mixer(images, labels)
    assert sorted(out.terms) == ["adversarial", "mixed"]
    assert out.classifier_loss.item() == out.terms["mixed"].item()
    assert out.generator_loss.item() == -out.terms["adversarial"].item()


@pytest.mark.parametrize(("share", "rows"), [(0.5, 3), (0.01, 2), (1.0, 5)])
def test_share_of_the_terms(share: float, rows: int) -> None:
    mixer, images, labels = prepared(terms_share=share)
    expected, draws = Expected(mixer, images, labels), mixer.sample(images)
    terms = expected.classifier(draws[0], share) | expected.generator(draws[1])
    out = mixer(images, labels, draws)
    assert close(out.terms, terms)
    assert out.logits.shape == out.targets.shape == (rows, CLASSES) and len(expected.clean_logits) == rows


@pytest.mark.parametrize(("share", "rows"), [(0.5, 3), (0.01, 2), (0.8, 4)])
def test_share_of_the_generator(share: float, rows: int) -> None:
    mixer, images, labels = prepared(generator_share=share)
    draws = mixer.sample(images)
    assert len(draws[0].index) == 5 and draws[1].index.shape == draws[1].ratios.shape == (rows, 3)
    expected = Expected(mixer, images, labels)
    terms = expected.classifier(draws[0]) | expected.generator(draws[1])
    out = mixer(images, labels, draws)
    assert close(out.terms, terms) and len(out.mixed) == len(out.masks) == rows


def test_the_generator_plays_every_so_many_steps() -> None:
    mixer, images, labels = prepared(count=3, n_mix=2, generator_every=3)
    turns = []
    for _ in range(7):
        draws, expected = mixer.sample(images), Expected(mixer, images, labels)
        out = mixer(images, labels, draws)
        turns.append(out.generator_turn)
        if out.generator_turn:
            continue
        assert close(out.terms, expected.classifier(draws[0]))
        assert out.generator_loss.item() == 0 and out.draw is draws[0]
        masks = expected.masks(draws[0])
        masks[draws[0].plain] = draws[0].ratios[draws[0].plain][..., None, None].double()
        torch.testing.assert_close(out.masks.double(), masks, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            out.mixed.double(), reference_adautomix.mixture(images, draws[0].index, masks), rtol=0, atol=1e-5
        )
        out.generator_loss.backward()
        assert all(parameter.grad is None for parameter in mixer.generator.parameters())
    assert turns == [True, False, False] * 2 + [True]


@pytest.mark.parametrize("shared", [False, True])
def test_mixtures_near_a_single_image_are_plain_for_the_classifier_alone(shared: bool) -> None:
    mixer, images, labels = prepared(count=3, shared_draws=shared)
    draw = draw_of(
        [[0, 1, 2], [1, 2, 0], [2, 0, 1]], [[0.5, 0.3, 0.2], [0.98, 0.01, 0.01], [0.2, 0.2, 0.6]], [False, True, False]
    )
    expected = Expected(mixer, images, labels)
    first, second = expected.classifier(draw), expected.generator(draw)
    out = mixer(images, labels, (draw, draw))
    if shared:  # one pass for both: of the classifier's mixtures
        second["adversarial"] = first["mixed"]
    assert close(out.terms, first | second)
    torch.testing.assert_close(out.masks.double(), expected.masks(draw), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.mixed.double(), expected.mixed, rtol=0, atol=1e-5)


def test_shared_draws_give_the_same_values() -> None:
    mixer, images, labels = prepared(shared_draws=True, adversarial=False)
    expected, draws = Expected(mixer, images, labels), mixer.sample(images)
    draw = draw_of(draws[0].index.tolist(), draws[0].ratios.tolist())
    first, second = expected.classifier(draw), expected.generator(draw)
    out = mixer(images, labels, (draw, draw))
    assert close(out.terms, first | second) and first["mixed"] == pytest.approx(second["adversarial"], abs=1e-6)
    assert out.classifier_loss.item() == pytest.approx(sum(first.values()) - 0.5 * (first["clean"] + first["plain"]))
    rise = -second["adversarial"] - 0.3 * second["teacher"] + 0.7 * second["similarity"]
    assert out.generator_loss.item() == pytest.approx(-rise, abs=5e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_small_batches_mix_what_they_have(count: int) -> None:
    mixer, images, labels = prepared(count=5, n_mix=4)
    mixer(images, labels)
    images, labels = images[:count], labels[:count]
    out = mixer(images, labels)
    assert out.masks.shape == (count, count, *images.shape[2:]) and out.mixed.shape == images.shape
    assert out.draw.index.shape == (count, count)
    for draws in (mixer.sample(images), mixer.sample(images)):  # also those that were sampled before
        assert mixer(images, labels, draws).classifier_loss.isfinite()
    out.classifier_loss.backward()
    out.generator_loss.backward()
    assert all(parameter.grad is not None for parameter in mixer.model.parameters())
    if count > 1:
        assert out.generator_turn and mixer.generator.project.weight.grad.abs().max() > 0
        return
    assert not out.generator_turn and mixer.generator.project.weight.grad is None
    model = copy.deepcopy(mixer.model)
    out = mixer(images, labels)
    assert out.classifier_loss.item() == pytest.approx(reference_adautomix.plain_loss(model(images), labels), abs=1e-5)
    assert list(out.terms) == ["clean"] and out.terms["clean"].item() == out.classifier_loss.item()
    assert out.mixed.equal(images) and out.masks.eq(1).all() and out.logits.equal(copy.deepcopy(model)(images))
    assert out.targets.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_images_and_labels_are_not_written_to() -> None:
    mixer, images, labels = prepared()
    labels = soft(labels)
    draws = mixer.sample(images)
    before = [value.clone() for value in (images, labels, *vars(draws[0]).values(), *vars(draws[1]).values())]
    out = mixer(images, labels, draws)
    (out.classifier_loss + out.generator_loss).backward()
    after = (images, labels, *vars(draws[0]).values(), *vars(draws[1]).values())
    assert all(one.equal(other) for one, other in zip(before, after, strict=True)) and images.grad is None


def test_the_law_of_the_draws_is_the_one_asked_for() -> None:
    mixer = mixer_of(net(), n_mix=4, concentration=0.5, dirichlet=True, per_image=True, generator=seeded(9))
    expected = sample_mix(6, MixLaw(4, 0.5, True, True), seeded(9))
    first, second = mixer.sample(batch()[0])
    assert first.ratios.equal(expected.ratios) and first.index.equal(expected.index)
    assert not second.ratios.equal(first.ratios)
