"""Which player gets which gradient, what a step leaves alone, and how often each network runs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from adautomix_parts import (
    batch,
    clear,
    draw_of,
    gradients,
    mixer_of,
    net,
    optimizers_of,
    passes,
    same_state,
    soft,
    state_of,
    uneven,
)
from torch import Tensor, nn

from mixaug.adautomix import AdAutoMix, AdAutoMixOutput, MixDraw, mix_images, mix_targets
from mixaug.adautomix.mixing import share_gap, similarity
from mixaug.losses import soft_target_cross_entropy


def prepared(count: int = 5, dropout: float = 0.0, norm: bool = True, **options: Any):
    model = net(dropout=dropout, norm=norm)
    mixer = mixer_of(model, **options)
    uneven(model)
    return mixer, *batch(count)


def two_passes(mixer: AdAutoMix, images: Tensor, labels: Tensor, draw: MixDraw, second: MixDraw | None = None):
    """Gradients of classifier and generator with a graph of its own for each, by plain autograd on copies."""
    second = draw if second is None else second
    f, generator, t = copy.deepcopy(mixer.model), mixer.generator, mixer.teacher.model
    size = (images.shape[2], images.shape[3])
    with torch.no_grad():
        features, sources = t.stage2(t.stage1(images)), t(images)
        masks = generator(features, draw.ratios, size, draw.index)
        masks = torch.where(draw.plain[:, None, None, None], draw.ratios[..., None, None], masks)
        mixed = mix_images(images, draw.index, masks)
        blend = mix_images(images, draw.index, draw.ratios[..., None, None])
    wanted = mix_targets(labels, draw.index, draw.ratios, 4)
    down = soft_target_cross_entropy(f(mixed), wanted)
    down = down + (1 - mixer.alpha) * soft_target_cross_entropy(f(images), mix_targets(labels, *own(images), 4))
    down = down + mixer.alpha * soft_target_cross_entropy(f(blend), wanted)
    mixed = mix_images(images, second.index, generator(features, second.ratios, size, second.index))
    wanted = mix_targets(labels, second.index, second.ratios, 4)
    rise = soft_target_cross_entropy(f(mixed), wanted)
    up = rise if mixer.adversarial else -rise
    up = up - mixer.beta * soft_target_cross_entropy(t(mixed), wanted)
    up = up + (1 - mixer.beta) * similarity(t(mixed), sources, second.index, second.ratios)
    return (
        list(torch.autograd.grad(down, list(f.parameters()))),
        list(torch.autograd.grad(-up, list(generator.parameters()))),
    )


def own(images: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(len(images))[:, None], torch.ones(len(images), 1)


def backward(out: AdAutoMixOutput, order: str, scale: float = 1.0) -> None:
    down, up = out.classifier_loss * scale, out.generator_loss * scale
    if order == "sum":
        (down + up).backward()
        return
    for loss in (down, up) if order == "classifier first" else (up, down):
        loss.backward()


def unscaled(module: nn.Module, scale: float) -> list[Tensor]:
    return [value / scale for value in gradients(module)]


def assert_near(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


ORDERS = ["classifier first", "generator first", "sum"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("adversarial", [True, False])
def test_each_player_gets_the_gradient_of_its_own_loss(order: str, adversarial: bool) -> None:
    mixer, images, labels = prepared(adversarial=adversarial)
    draws = mixer.sample(images)
    of_model, of_generator = two_passes(mixer, images, labels, *draws)
    backward(mixer(images, labels, draws), order)
    assert_near(gradients(mixer.model), of_model)
    assert_near(gradients(mixer.generator), of_generator)
    assert min(value.abs().max() for value in (of_model[0], *of_generator)) > 1e-4


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scale", [1.0, 4096.0, 0.03])
@pytest.mark.parametrize("adversarial", [True, False])
def test_shared_draws_give_the_gradients_of_two_passes(order: str, scale: float, adversarial: bool) -> None:
    mixer, images, labels = prepared(shared_draws=True, adversarial=adversarial, beta=0.6)
    draw = draw_of(mixer.sample(images)[0].index.tolist(), [[0.5, 0.3, 0.2]] * 5)
    of_model, of_generator = two_passes(mixer, images, labels, draw)
    backward(mixer(images, labels, (draw, draw)), order, scale)
    assert_near(unscaled(mixer.model, scale), of_model)
    assert_near(unscaled(mixer.generator, scale), of_generator)


def test_two_scales_are_each_loss_its_own() -> None:
    mixer, images, labels = prepared(shared_draws=True)
    draw = draw_of(mixer.sample(images)[0].index.tolist(), [[0.5, 0.3, 0.2]] * 5)
    of_model, of_generator = two_passes(mixer, images, labels, draw)
    for first in (True, False):
        clear(mixer.model, mixer.generator)
        out = mixer(images, labels, (draw, draw))
        losses = [out.classifier_loss * 16, out.generator_loss * 3]
        for loss in losses if first else losses[::-1]:
            loss.backward()
        # Batch norm's running statistics have moved in between; the gradients do not depend on them.
        assert_near(unscaled(mixer.model, 16), of_model)
        assert_near(unscaled(mixer.generator, 3), of_generator)


@pytest.mark.parametrize("order", ORDERS)
def test_shared_draws_with_plain_rows(order: str) -> None:
    """The generator goes up the pass where it is of its mixture; without batch norm, rows do not touch each other."""
    mixer, images, labels = prepared(shared_draws=True, norm=False, teacher_term=False, similarity_term=False)
    index, plain = mixer.sample(images)[0].index.tolist(), [False, True, False, True, False]
    ratios = [[0.98, 0.01, 0.01] if near else [0.5, 0.3, 0.2] for near in plain]
    draw = draw_of(index, ratios, plain)
    of_model, _ = two_passes(mixer, images, labels, draw)
    masks = mixer.masks(mixer.teacher.features(images), draw, (12, 20))
    mixed = mix_images(images, draw.index, masks)[[0, 2, 4]]
    wanted = mix_targets(labels, draw.index, draw.ratios, 4)[[0, 2, 4]]
    rise = soft_target_cross_entropy(copy.deepcopy(mixer.model)(mixed), wanted, "sum") / 5
    of_generator = list(torch.autograd.grad(-rise, list(mixer.generator.parameters())))
    backward(mixer(images, labels, (draw, draw)), order)
    assert_near(gradients(mixer.model), of_model)
    assert_near(gradients(mixer.generator), of_generator)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("order", ["classifier", "generator"])
def test_a_loss_moves_its_own_player_alone(shared: bool, order: str) -> None:
    mixer, images, labels = prepared(shared_draws=shared, dropout=0.5)
    out = mixer(images, labels)
    before = state_of(mixer.teacher), state_of(mixer.model), state_of(mixer.generator)
    (out.classifier_loss if order == "classifier" else out.generator_loss).backward()
    given = {"classifier": gradients(mixer.model), "generator": gradients(mixer.generator)}
    assert all(value is not None and value.abs().max() > 0 for value in given.pop(order)[:1])
    assert all(value is None for values in given.values() for value in values)
    assert all(value is None for value in gradients(mixer.teacher))
    assert not any(parameter.requires_grad for parameter in mixer.teacher.parameters())
    assert images.grad is None
    for optimizer in optimizers_of(mixer):
        optimizer.step()
    after = state_of(mixer.teacher), state_of(mixer.model), state_of(mixer.generator)
    unmoved = [same_state(one, other) for one, other in zip(before, after, strict=True)]
    assert unmoved == ([True, False, True] if order == "classifier" else [True, True, False])


class _Broken(nn.Module):
    """Raises in its n-th pass."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.at, self.seen = at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        if self.seen == self.at:
            raise RuntimeError("broken on purpose")
        return x


@pytest.mark.parametrize("at", [None, 1, 2, 4, 5, 6])
@pytest.mark.parametrize("shared", [False, True])
def test_the_users_model_is_given_back_as_it_was(at: int | None, shared: bool) -> None:
    model = net(dropout=0.3)
    model.stage1.eval()  # batch norm frozen by the user
    model.stage2[1].momentum = 0.5
    model.stage1[0].weight.requires_grad_(False)
    model.head.weight.grad = torch.full_like(model.head.weight, 7.0)
    model.head.add_module("spy", _Broken())
    spy = model.head.spy
    model.head.register_forward_hook(lambda module, args, out: spy(out))
    mixer = mixer_of(model, shared_draws=shared)
    images, labels = batch()
    spy.at, spy.seen = at or 0, 0
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    identity = [id(value) for value in (*model.parameters(), *model.buffers())]
    hooks = [(list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks)) for m in model.modules()]
    kept = {name: value.clone() for name, value in model.named_parameters()}
    still = {name: value.clone() for name, value in model.stage1.named_buffers()}
    names = [list(vars(module)) for module in model.modules()]
    # Passes: the teacher's (a copy, hooks too), three of the classifier, its frozen one, again the teacher's.
    if at is None or (shared and at == 6):
        out = mixer(images, labels)
        out.generator_loss.backward()
    else:
        with pytest.raises(RuntimeError, match="broken on purpose"):
            mixer(images, labels)
    assert modes == [module.training for module in model.modules()]
    assert wanted == [parameter.requires_grad for parameter in model.parameters()]
    assert identity == [id(value) for value in (*model.parameters(), *model.buffers())]
    assert hooks == [
        (list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks)) for m in model.modules()
    ]
    assert names == [list(vars(module)) for module in model.modules()]
    assert all(value.equal(kept[name]) for name, value in model.named_parameters())
    assert all(value.equal(still[name]) for name, value in model.stage1.named_buffers())
    assert model.head.weight.grad.eq(7).all() and model.stage2[0].weight.grad is None
    assert not any(module._forward_hooks for name, module in mixer.teacher.model.named_modules() if name != "head")
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("options", "moves"),
    [
        ({}, "mcp"),
        ({"clean_term": False}, "mp"),
        ({"plain_term": False}, "mc"),
        ({"clean_term": False, "plain_term": False}, "m"),
        ({"shared_draws": True}, "mcp"),
        ({"generator_every": 2}, "mcp"),
        ({"terms_share": 0.6}, "mcp"),
        ({"adversarial": False}, "mcp"),
    ],
)
def test_batch_norm_moves_once_for_each_term(options: dict[str, Any], moves: str) -> None:
    """Against running statistics by hand: of the mixtures, the images and the plain mixtures, in this order."""
    mixer, images, labels = prepared(**options)
    draws = mixer.sample(images)
    draw = draw_of(draws[0].index.tolist(), draws[0].ratios.tolist())  # no row is plain
    with torch.no_grad():
        masks = mixer.generator(mixer.teacher.features(images), draw.ratios, (12, 20), draw.index)
    share = 3 if "terms_share" in options else 5
    blend = mix_images(images, draw.index, draw.ratios[..., None, None])[:share]
    given = {"m": mix_images(images, draw.index, masks), "c": images[:share], "p": blend}
    for _ in range(2):  # with generator_every=2 the second step is the classifier's alone
        norm = mixer.model.stage1[1]
        mean, var, count = norm.running_mean.clone(), norm.running_var.clone(), int(norm.num_batches_tracked)
        with torch.no_grad():
            for name in moves:
                seen = mixer.model.stage1[0](given[name])
                mean = 0.9 * mean + 0.1 * seen.mean((0, 2, 3))
                var = 0.9 * var + 0.1 * seen.var((0, 2, 3), unbiased=True)
        of_teacher = state_of(mixer.teacher)
        out = mixer(images, labels, (draw, draws[1]))
        backward(out, "classifier first")
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, var)
        assert int(norm.num_batches_tracked) == count + len(moves)
        assert same_state(of_teacher, state_of(mixer.teacher))


#: Passes of the classifier, of its copy without gradients of its own (the same modules), and of the teacher.
PASSES = [
    ({}, 4, 2),
    ({"shared_draws": True}, 3, 2),
    ({"clean_term": False}, 3, 2),
    ({"plain_term": False}, 3, 2),
    ({"clean_term": False, "plain_term": False, "shared_draws": True}, 1, 2),
    ({"teacher_term": False}, 4, 2),
    ({"similarity_term": False}, 4, 2),
    ({"teacher_term": False, "similarity_term": False}, 4, 1),
    ({"terms_share": 0.5, "generator_share": 0.5}, 4, 2),
    ({"adversarial": False}, 4, 2),
]


@pytest.mark.parametrize(("options", "of_model", "of_teacher"), PASSES)
def test_how_often_each_network_runs(options: dict[str, Any], of_model: int, of_teacher: int) -> None:
    mixer, images, labels = prepared(**options)
    teacher = mixer.teacher.model
    with passes(mixer.model, teacher.stage1, teacher.head) as counts:
        backward(mixer(images, labels), "classifier first")
    whole = of_teacher - (not mixer.similarity_term)  # without similarity the features alone: the first pass ends there
    assert counts == [of_model, of_teacher, whole]


def test_a_step_without_the_generator_runs_the_classifier_and_the_encoder() -> None:
    mixer, images, labels = prepared(generator_every=2)
    mixer(images, labels)
    teacher = mixer.teacher.model
    with passes(mixer.model, teacher.stage1, teacher.stage3, mixer.generator) as counts:
        out = mixer(images, labels)
    assert not out.generator_turn and counts == [3, 1, 0, 1]


def test_a_default_step_costs_14_forward_passes() -> None:
    """A backward pass counts as two, one to the images alone, as the generator's, as one."""
    mixer, images, labels = prepared()
    backwards = []
    mixer.model.head.register_full_backward_hook(lambda *_: backwards.append("f"))
    mixer.teacher.model.head.register_full_backward_hook(lambda *_: backwards.append("t"))
    with passes(mixer.model, mixer.teacher.model) as counts:
        out = mixer(images, labels)
        out.classifier_loss.backward()
        of_classifier = list(backwards)
        out.generator_loss.backward()
    of_generator = backwards[len(of_classifier) :]
    assert counts == [4, 2] and of_classifier == ["f"] * 3 and sorted(of_generator) == ["f", "t"]
    assert sum(counts) + 2 * len(of_classifier) + len(of_generator) == 14


def test_dropout_is_drawn_anew_for_the_generator() -> None:
    mixer, images, labels = prepared(dropout=0.5)
    given = mixer.sample(images)
    draw = draw_of(given[0].index.tolist(), given[0].ratios.tolist())
    out = mixer(images, labels, (draw, draw))
    assert out.terms["mixed"].item() != pytest.approx(out.terms["adversarial"].item(), abs=1e-4)
    shared = prepared(dropout=0.5, shared_draws=True)[0]
    out = shared(images, labels, (draw, draw))
    assert out.terms["mixed"].item() == out.terms["adversarial"].item()
    backward(out, "generator first")
    again = shared(images, soft(labels), (draw, draw))
    backward(again, "sum")
    assert all(value.isfinite().all() for value in (*gradients(shared.model), *gradients(shared.generator)))


def test_a_share_weight_is_a_term_of_the_generator_alone() -> None:
    """The objective loses it, the classifier does not see it, and following it brings the shares to the ratios."""
    mixer, images, labels = prepared(norm=False, share_weight=4.0, n_mix=2)
    draws = mixer.sample(images)
    with_gap = mixer(images, labels, draws)
    mixer.share_weight = 0.0
    without = mixer(images, labels, draws)
    gap = share_gap(with_gap.masks, draws[1].ratios)
    assert with_gap.terms["share_gap"] == gap and gap > 0 and "share_gap" not in without.terms
    torch.testing.assert_close(with_gap.generator_loss, without.generator_loss + 4 * gap)
    torch.testing.assert_close(with_gap.classifier_loss, without.classifier_loss)
    mixer.share_weight = 1e3
    optimiser = torch.optim.Adam(mixer.generator.parameters(), 0.01)
    for _ in range(150):
        optimiser.zero_grad()
        out = mixer(images, labels, draws)
        out.generator_loss.backward()
        optimiser.step()
    assert out.terms["share_gap"] < 0.5 * gap
