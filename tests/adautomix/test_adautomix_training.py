"""AdAutoMix over several steps: the teacher, checkpoints, broken steps, whether the players reach what they want."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import reference_adautomix
import torch
from adautomix_parts import (
    CLASSES,
    batch,
    mixer_of,
    net,
    optimizers_of,
    same_state,
    seeded,
    state_of,
    train_step,
    uneven,
)
from torch import Tensor, nn

from mixaug.adautomix import AdAutoMix, AdAutoMixOutput, momentum_at
from mixaug.adautomix.teacher import Teacher

# ---------------------------------------------------------------- the teacher


def test_the_teacher_is_the_moving_average_after_10_steps() -> None:
    model = net(dropout=0.2)
    mixer = mixer_of(model, momentum=0.7)
    images, labels = batch()
    optimizers, expected = optimizers_of(mixer), state_of(mixer.teacher.model)
    assert same_state(expected, state_of(model))
    for step in range(10):
        train_step(mixer, optimizers, images, labels)
        m = reference_adautomix.momentum(step, 12, 0.7)
        assert mixer.update_teacher(step, 12) == pytest.approx(m, abs=1e-12)
        expected = reference_adautomix.averaged(expected, state_of(model), m)
    found = state_of(mixer.teacher.model)
    assert list(found) == list(expected) and any("running_var" in name for name in found)
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-6)
    assert int(found["stage1.1.num_batches_tracked"]) == 30
    assert (found["head.weight"] - model.head.weight).abs().max() > 0.01


def test_momentum_rises_on_a_cosine() -> None:
    assert momentum_at(0, 10, 0.9) == 0.9 and momentum_at(10, 10, 0.9) == 1.0
    assert momentum_at(5, 10, 0.9) == pytest.approx(0.95)
    values = [momentum_at(step, 10) for step in range(11)]
    assert values == sorted(values) and values[0] == 0.999
    assert values == pytest.approx([reference_adautomix.momentum(step, 10, 0.999) for step in range(11)])
    assert momentum_at(12, 10) == 1.0 and momentum_at(0, 0) == 1.0  # past the end the teacher stays


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_a_teacher_that_is_the_model_and_one_that_stays(momentum: float) -> None:
    model = net()
    teacher = Teacher(model, "stage2")
    before = state_of(teacher.model)
    uneven(model)
    teacher.follow(model, momentum)
    after = before if momentum else state_of(model)
    assert same_state({k: v for k, v in state_of(teacher.model).items() if "num" not in k}, _floats(after))


def _floats(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if value.is_floating_point()}


def test_the_teacher_stays_in_evaluation_mode_and_the_model_in_its_own() -> None:
    model = net(dropout=0.5).train()
    mixer = mixer_of(model)
    for mode in (True, False, True):
        mixer.train(mode)
        assert mixer.training is mode and mixer.generator.training is mode
        assert not any(module.training for module in mixer.teacher.modules())
        assert all(module.training for module in model.modules())
    mixer.teacher.train()
    assert not mixer.teacher.model.training
    images = batch()[0]
    assert mixer.teacher(images).equal(mixer.teacher(images))


def test_the_teacher_follows_the_model_it_was_copied_from() -> None:
    teacher = Teacher(net(), "stage2")
    with pytest.raises(ValueError, match=r"it has 8 parameters and buffers, the teacher 23"):
        teacher.follow(net(norm=False), 0.5)


# ---------------------------------------------------------------- checkpoints


def run(mixer: AdAutoMix, optimizers: list[torch.optim.Optimizer], steps: range, images: Tensor, labels: Tensor):
    losses = []
    for step in steps:
        losses.append(train_step(mixer, optimizers, images, labels))
        mixer.update_teacher(step, 8)
    return losses


@pytest.mark.parametrize("options", [{}, {"generator_every": 2, "shared_draws": True, "per_image": True}])
def test_a_resumed_run_goes_on_to_the_bit(options: dict[str, Any], tmp_path) -> None:
    images, labels = batch()
    mixer = mixer_of(net(), momentum=0.9, **options)
    optimizers = optimizers_of(mixer)
    run(mixer, optimizers, range(3), images, labels)
    mixer.skipped, mixer.skipped_in_a_row = 5, 2
    parts = [mixer, mixer.model, *optimizers]
    torch.save([part.state_dict() for part in parts], tmp_path / "run.pt")
    expected = run(mixer, optimizers, range(3, 7), images, labels)

    resumed = mixer_of(net(seed=5), seed=8, momentum=0.9, **options)
    parts = [resumed, resumed.model, *optimizers_of(resumed)]
    for part, state in zip(parts, torch.load(tmp_path / "run.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert (resumed.skipped, resumed.skipped_in_a_row) == (5, 2)
    assert run(resumed, parts[2:], range(3, 7), images, labels) == expected
    for one, other in ((mixer, resumed), (mixer.model, resumed.model)):
        assert all(value.equal(found) for value, found in zip(one.parameters(), other.parameters(), strict=True))
        assert all(value.equal(found) for value, found in zip(one.buffers(), other.buffers(), strict=True))


def test_the_state_is_of_generator_and_teacher_and_not_of_the_model() -> None:
    mixer = mixer_of(net())
    heads = {name.split(".")[0] for name in mixer.state_dict()}
    assert heads == {"generator", "teacher", "_extra_state", "generator_state"}
    wanted = [parameter for parameter in mixer.parameters() if parameter.requires_grad]
    assert len(wanted) == 2 and all(one is other for one, other in zip(wanted, mixer.generator.parameters()))  # noqa: B905
    assert mixer.model not in list(mixer.modules())
    without = mixer_of(net(), generator=None)
    assert set(mixer.state_dict()) - set(without.state_dict()) == {"generator_state"}
    without.load_state_dict(mixer.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda mixer: pickle.loads(pickle.dumps(mixer))])
def test_a_copy_goes_on_by_itself(copied: Any) -> None:
    images, labels = batch()
    mixer = mixer_of(net())
    mixer(images, labels)
    twin = copied(mixer)
    assert twin.model is not mixer.model and twin.generator is not mixer.generator
    before, of_model = state_of(twin.generator), state_of(twin.model)
    first = run(mixer, optimizers_of(mixer), range(3), images, labels)
    assert same_state(before, state_of(twin.generator)) and same_state(of_model, state_of(twin.model))
    assert run(twin, optimizers_of(twin), range(3), images, labels) == first
    assert same_state(state_of(mixer.teacher), state_of(twin.teacher))


# ---------------------------------------------------------------- broken steps


def test_a_broken_step_is_skipped_counted_and_its_batch_statistics_are_put_back() -> None:
    mixer, (images, labels) = mixer_of(net(), max_skipped=3), batch()
    assert mixer.is_finite(mixer(images, labels))
    before = state_of(mixer.model)
    broken = images.clone()
    broken[2, 0, 3, 3] = torch.nan
    for count in (1, 2):
        out = mixer(broken, labels)
        assert out.classifier_loss.isnan() and mixer.model.stage1[1].running_mean.isnan().any()
        assert mixer.is_finite(out) is False
        assert (mixer.skipped, mixer.skipped_in_a_row) == (count, count)
        assert same_state(before, state_of(mixer.model))
    assert mixer.is_finite(mixer(images, labels)) is True
    assert (mixer.skipped, mixer.skipped_in_a_row) == (2, 0)
    assert not same_state(before, state_of(mixer.model))
    for _ in range(2):
        assert not mixer.is_finite(mixer(broken, labels))
    with pytest.raises(
        FloatingPointError, match="the classifier's and the generator's loss has not been finite for 3 steps in a row"
    ):
        mixer.is_finite(mixer(broken, labels))
    assert mixer.skipped == 5


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_error_names_the_player_whose_loss_it_is(value: float) -> None:
    mixer, (images, labels) = mixer_of(net(), max_skipped=1), batch()
    out = mixer(images, labels)
    for count, broken in enumerate(("classifier", "generator"), 1):
        losses = {"classifier": out.classifier_loss, "generator": out.generator_loss} | {broken: torch.tensor(value)}
        given = AdAutoMixOutput(
            losses["classifier"], losses["generator"], out.mixed, out.masks, out.draw, out.logits, out.targets
        )
        with pytest.raises(FloatingPointError, match=f"^the {broken}'s loss .* for {count} steps in a row"):
            mixer.is_finite(given)


def test_a_generator_that_breaks_breaks_the_step() -> None:
    mixer, (images, labels) = mixer_of(net()), batch()
    mixer.generator.project.bias.data[-1] = torch.nan
    before = state_of(mixer.model)
    assert not mixer.is_finite(mixer(images, labels)) and same_state(before, state_of(mixer.model))


# ---------------------------------------------------------------- what the players reach


def test_training_moves_both_and_gradients_of_a_skipped_turn_stay_none() -> None:
    mixer, (images, labels) = mixer_of(net(), generator_every=2), batch()
    optimizers = optimizers_of(mixer)
    train_step(mixer, optimizers, images, labels)
    generator, model = state_of(mixer.generator), state_of(mixer.model)
    train_step(mixer, optimizers, images, labels)  # momentum of the generator's optimiser moves nothing either
    assert same_state(generator, state_of(mixer.generator)) and not same_state(model, state_of(mixer.model))


def coloured(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise in which one quarter of the image says the class."""
    drawn = seeded(seed)
    images, labels = torch.rand(count, 3, 16, 16, generator=drawn), torch.randint(0, CLASSES, (count,), generator=drawn)
    for image, label in zip(images, labels.tolist(), strict=True):
        y, x = 8 * (label // 2), 8 * (label % 2)
        image[:, y : y + 8, x : x + 8] *= 0.2
    return images, labels


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_objective_rises_over_the_generators_steps(seed: int, shared: bool) -> None:
    """The classifier stays as it is; the objective is measured on one draw."""
    model = net(seed)
    mixer = mixer_of(model, seed, shared_draws=shared)
    images, labels = batch(12, seed)
    model.eval()
    draws = mixer.sample(images)
    optimizer = torch.optim.SGD(mixer.generator.parameters(), 0.1, momentum=0.9)
    before, losses = state_of(model), []
    for _ in range(15):
        out = mixer(images, labels, draws)
        optimizer.zero_grad()
        out.generator_loss.backward()
        optimizer.step()
        losses.append(out.generator_loss.item())
    assert losses[-1] < losses[0] - 0.1 and same_state(before, state_of(model))


class Small(nn.Module):
    """With a stride of 4 and places that the head sees apart."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 4, 4), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Linear(12 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


def loss_of_mixtures(seed: int, adversarial: bool) -> float:
    """Mean of the mixtures' term over the last steps of a short training."""
    torch.manual_seed(seed)
    model = Small()
    mixer = AdAutoMix(
        model, CLASSES, "body", adversarial=adversarial, generator=seeded(seed), example_input=torch.zeros(2, 3, 16, 16)
    )
    classifier = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    generator = torch.optim.SGD(mixer.generator.parameters(), 0.5, momentum=0.9)
    found = []
    for step in range(60):
        images, labels = coloured(32, 100 * seed + step)
        out = mixer(images, labels)
        for optimizer, loss in ((classifier, out.classifier_loss), (generator, out.generator_loss)):
            optimizer.zero_grad()
            loss.backward()
        classifier.step()
        generator.step()
        mixer.update_teacher(step, 60)
        found.append(out.terms["mixed"].item())
    return sum(found[-20:]) / 20


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mixtures_are_harder_from_an_adversary_than_from_a_helper(seed: int) -> None:
    hard, easy = loss_of_mixtures(seed, True), loss_of_mixtures(seed, False)
    assert hard > easy + 0.3, (hard, easy)
