"""Every attack of this package against the same attack written out slowly, and the laws of its random numbers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from attack_reference import (
    CLASSES,
    batch,
    early_stop_by_hand,
    generator,
    margin_by_hand,
    pgd_by_hand,
    pgd_l2_by_hand,
    small_model,
    spsa_by_hand,
    trades_by_hand,
    transport_by_hand,
)
from torch import nn

from mixaug.attacks import CWL2, FGSM, KLPGD, PGD, SPSA, CWLinf, FeatureScatter, cross_entropy, dlr, kl, margin
from mixaug.attacks.attack import start_in_ball
from mixaug.attacks.feature_scatter import transport_cost

EPS, STEP, STEPS = 0.06, 0.02, 5


@pytest.fixture
def model():
    """In float64, so that rounding turns no sign of a gradient."""
    return small_model().double()


def wide_batch(count=6):
    images, labels = batch(count)
    return images.double(), labels


def soft_labels(labels):
    """Mixed labels: two classes share an image."""
    one, two = nn.functional.one_hot(labels, CLASSES), nn.functional.one_hot((labels + 1) % CLASSES, CLASSES)
    return 0.7 * one.float() + 0.3 * two.float()


def close(one, two):
    torch.testing.assert_close(one, two, rtol=0, atol=1e-7)


# ------------------------------------------------------------------ the attacks


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
def test_pgd_with_a_random_start_is_the_loop_that_everybody_writes(targeted):
    images, labels = batch()
    expected = pgd_by_hand(small_model(), images, labels, EPS, STEP, STEPS, 3, targeted)
    ours = PGD(EPS, STEP, STEPS, targeted, generator=generator(3))(small_model(), images, labels)
    assert torch.equal(ours, expected)


def test_pgd_on_mixed_labels():
    images, labels = batch()
    soft = soft_labels(labels)
    expected = pgd_by_hand(small_model(), images, soft, EPS, STEP, STEPS, 3)
    ours = PGD(EPS, STEP, STEPS, generator=generator(3))(small_model(), images, soft)
    assert torch.equal(ours, expected)
    assert not torch.equal(ours, PGD(EPS, STEP, STEPS, generator=generator(3))(small_model(), images, labels))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_pgd_under_autocast_is_the_same_loop_under_autocast(channels_last):
    images, labels = batch()
    model = small_model()
    if channels_last:
        images, model = (thing.to(memory_format=torch.channels_last) for thing in (images, model))
    formats = []
    model[0].register_forward_pre_hook(
        lambda _, given: formats.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    with torch.autocast("cpu", torch.bfloat16):
        ours = PGD(EPS, STEP, STEPS, generator=generator(3))(model, images, labels)
        assert formats == [channels_last] * STEPS
        expected = pgd_by_hand(small_model(), images, labels, EPS, STEP, STEPS, 3)
    wide = PGD(EPS, STEP, STEPS, generator=generator(3))(model, images, labels)
    # Another memory format sums in another order, which turns a few signs of tiny gradients.
    assert (ours != expected).float().mean() <= (0.005 if channels_last else 0)
    assert (ours != wide).float().mean() > 0.01


def test_pgd_in_l2(model):
    images, labels = wide_batch()
    ours = PGD(0.6, 0.2, STEPS, random_start=False, norm="l2")(model, images, labels)
    close(ours, pgd_l2_by_hand(model, images, labels, 0.6, 0.2, STEPS))


@pytest.mark.parametrize("batch_size", [None, 4])
def test_early_stop_gives_the_first_iterate_that_fools(model, batch_size):
    images, labels = wide_batch(10)
    labels[:7] = model(images).argmax(1)[:7]
    attack = PGD(EPS, 0.004, 8, random_start=False, early_stop=True, batch_size=batch_size)
    ours = attack(model, images, labels)
    close(ours, early_stop_by_hand(model, images, labels, EPS, 0.004, 8))
    steps = ((ours - images).abs().amax((1, 2, 3)) / 0.004).round()
    assert len(steps.unique()) >= 3  # images stop at different steps


def test_no_steps_is_the_start():
    images, labels = batch()
    assert PGD(steps=0, random_start=False)(small_model(), images, labels).equal(images)
    moved = PGD(eps=0.1, steps=0, generator=generator())(small_model(), images, labels)
    assert 0.05 < (moved - images).abs().max() <= 0.1 + 1e-6


def test_fgsm_is_one_step_of_pgd():
    images, labels = batch()
    ours = FGSM(EPS, random_start=True, step_size=1.25 * EPS, generator=generator(3))(small_model(), images, labels)
    assert torch.equal(ours, pgd_by_hand(small_model(), images, labels, EPS, 1.25 * EPS, 1, 3))


def test_cw_linf_is_pgd_on_the_margin():
    images, labels = batch()
    ours = CWLinf(EPS, STEP, STEPS, generator=generator(3))(small_model(), images, labels)
    same = PGD(EPS, STEP, STEPS, generator=generator(3), objective=margin)(small_model(), images, labels)
    assert torch.equal(ours, same)


def test_kl_pgd_is_the_inner_loop_of_trades():
    images, labels = batch()
    ours = KLPGD(EPS, STEP, STEPS, generator(3))(small_model(), images, labels)
    expected = trades_by_hand(small_model(), images, EPS, STEP, STEPS, 3)
    # The divergence is nearly flat at the start: an ulp in it may turn the sign of a few pixels' gradients.
    assert (ours - expected).abs().gt(1e-6).float().mean() < 0.01
    assert torch.equal(ours, KLPGD(EPS, STEP, STEPS, generator(3))(small_model(), images, (labels + 1) % CLASSES))


def test_feature_scatter_climbs_the_cost_of_transport(model):
    images, labels = wide_batch()
    attack = FeatureScatter(EPS, generator=generator(3))
    ours = attack(model, images, labels)
    start = start_in_ball(images, EPS, "linf", generator(3))
    start = torch.clamp(start, (images - EPS).clamp(0, 1), (images + EPS).clamp(0, 1)).requires_grad_()
    one, two = model(images).detach(), model(start)
    plan, _ = transport_by_hand(one, two.detach(), 0.01, 50)
    cost = 1 - nn.functional.normalize(one, dim=1) @ nn.functional.normalize(two, dim=1).T
    gradient = torch.autograd.grad((plan * cost).sum(), start)[0]
    expected = torch.clamp(start.detach() + EPS * gradient.sign(), images - EPS, images + EPS).clamp(0, 1)
    close(ours, expected)


def test_the_plan_of_transport_is_sinkhorns():
    draws = generator(2)
    one, two = torch.randn(5, 4, generator=draws), torch.randn(5, 4, generator=draws)
    for regularisation, rounds in ((0.01, 50), (0.5, 3)):
        plan, cost = transport_by_hand(one, two, regularisation, rounds)
        shares = transport_cost(one.double(), two.double(), regularisation, rounds)
        torch.testing.assert_close(shares, (plan * cost).sum(0), rtol=1e-6, atol=1e-9)
        assert plan.sum().item() == pytest.approx(1)
    far = transport_cost(torch.eye(4), -torch.eye(4), 0.01, 50)
    assert torch.isfinite(far).all()  # exp(-2 / 0.01) is 0 in float32
    assert transport_cost(torch.eye(4), torch.eye(4)[[2, 0, 3, 1]]).sum().abs() < 1e-6


def test_spsa_is_the_mean_of_difference_quotients_and_adam(model):
    images, labels = wide_batch(3)
    ours = SPSA(EPS, 0.02, 3, samples=5, generator=generator(3))(model, images, labels)
    expected = spsa_by_hand(model, images, labels, EPS, 0.02, 3, 5, 0.01, 3)
    close(ours, expected)


def test_spsa_does_not_depend_on_how_many_directions_are_asked_at_once(model):
    images, labels = wide_batch(3)
    whole = SPSA(EPS, 0.02, 2, samples=7, generator=generator(3))
    few = dataclasses.replace(whole, batch_size=4, generator=generator(3))
    close(few(model, images, labels), whole(model, images, labels))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SPSA(0.3, 0.05, 15, True, samples=64, generator=generator()),
        lambda: PGD(0.3, 0.05, 15, True, generator=generator()),
        lambda: CWLinf(0.3, 0.05, 15, True, generator=generator()),
        lambda: FGSM(0.3, True),
        lambda: CWL2(40, 0.05, 7, targeted=True),
    ],
    ids=["spsa", "pgd", "cw", "fgsm", "cw-l2"],
)
def test_targeted_attacks_go_to_the_target_and_untargeted_ones_do_not(make):
    images, _ = batch(10)
    model = small_model()
    labels = model(images).argmax(1)
    attack = make()
    hits, margins = [], []
    for shift in range(1, CLASSES):
        targets = (labels + shift) % CLASSES
        logits = model(attack(model, images, labels, targets=targets))
        hits.append((logits.argmax(1) == targets).float().mean())
        margins.append((margin(model(images), targets) - margin(logits, targets)).gt(0).float().mean())
    untargeted = dataclasses.replace(attack, targeted=False)(model, images, labels)
    astray = [(model(untargeted).argmax(1) == (labels + shift) % CLASSES).float().mean() for shift in range(1, CLASSES)]
    assert min(hits) > (0.5 if attack.name.startswith("fgsm") else 0.9)
    assert min(margins) == 1  # each image is nearer to its target than it was
    assert sum(astray) <= 1 < sum(hits)


def test_spsa_draws_its_own_targets_when_none_are_given():
    images, _ = batch(10)
    model = small_model()
    labels = model(images).argmax(1)
    reached = model(SPSA(0.3, 0.05, 15, True, samples=64, generator=generator())(model, images, labels)).argmax(1)
    assert (reached != labels).all()
    assert len(((reached - labels) % CLASSES).unique()) >= 3


# ------------------------------------------------------------------ the starts


def test_the_start_is_uniform_in_the_cube():
    images = torch.full((40, 3, 16, 16), 0.5)
    change = (start_in_ball(images, 0.1, "linf", generator()) - images).flatten() / 0.1
    counts = torch.histc(change, 20, -1, 1)
    expected = len(change) / 20
    assert counts.sum() == len(change)
    assert ((counts - expected) ** 2 / expected).sum() < 50  # chi-squared, 19 degrees of freedom, p = 1e-4
    assert change.abs().max() <= 1 + 1e-5


def test_the_start_is_uniform_in_the_l2_ball():
    images = torch.full((4000, 1, 1, 3), 0.5)
    change = (start_in_ball(images, 0.2, "l2", generator()) - images).flatten(1) / 0.2
    shells = torch.histc(change.norm(dim=1) ** 3, 10, 0, 1)  # the volume within r grows as r^3
    assert shells.sum() == 4000
    assert ((shells - 400) ** 2 / 400).sum() < 34  # chi-squared, 9 degrees of freedom, p = 1e-4
    assert change.mean(0).abs().max() < 4 * math.sqrt(0.2 / 4000)  # a coordinate's variance is 1/5


def test_the_start_of_kl_pgd_has_its_deviation():
    images, labels = torch.full((20, 3, 16, 16), 0.5), torch.zeros(20, dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES)).eval()
    moved = KLPGD(0.1, 0.02, 0, generator(), start=0.004)(model, images, labels) - images
    assert moved.std().item() == pytest.approx(0.004, rel=0.03)
    assert moved.mean().abs() < 1e-4


# ------------------------------------------------------------------ the objectives


def test_objectives_agree_with_plain_numbers():
    logits = torch.randn(8, CLASSES, generator=generator(2), dtype=torch.float64)
    labels = torch.arange(8) % CLASSES
    soft = soft_labels(labels).double()
    rows = logits.log_softmax(1)
    close(cross_entropy(logits, labels), torch.stack([-row[y] for row, y in zip(rows, labels, strict=True)]))
    close(cross_entropy(logits, soft), -(soft * rows).sum(1))
    close(margin(logits, labels), margin_by_hand(logits, labels))
    ordered = logits.sort(1, descending=True).values
    close(dlr(logits, labels), margin_by_hand(logits, labels) / (ordered[:, 0] - ordered[:, 2]))
    close(dlr(100 * logits + 7, labels), dlr(logits, labels))
    expected = [
        sum(p * (math.log(p) - r) for p, r in zip(ps.tolist(), rs.tolist(), strict=True) if p > 0)
        for ps, rs in zip(soft, rows, strict=True)
    ]
    close(kl(logits, soft), torch.tensor(expected, dtype=torch.float64))
    assert kl(logits, logits.softmax(1)).abs().max() < 1e-12


@pytest.mark.parametrize("objective", [cross_entropy, margin, dlr, kl])
def test_objectives_grow_where_the_label_is_believed_less_and_have_gradients(objective):
    logits = torch.randn(6, CLASSES, generator=generator(2), dtype=torch.float64, requires_grad=True)
    labels = logits.argmax(1)
    given = soft_labels(labels).double() if objective is kl else labels
    assert torch.autograd.gradcheck(lambda z: objective(z, given), (logits,))
    less = logits - 2 * nn.functional.one_hot(labels, CLASSES)
    if objective is not kl:
        assert (objective(less, given) > objective(logits, given)).all()


def test_objectives_refuse_what_they_cannot_use():
    logits, labels = torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(TypeError, match="dlr needs class indices"):
        dlr(logits, torch.full((2, 5), 0.2))
    with pytest.raises(ValueError, match="dlr needs 3 classes or more, got logits of 2"):
        dlr(logits[:, :2], labels)
    with pytest.raises(TypeError, match="probabilities must be probabilities of shape"):
        kl(logits, labels)


def test_an_objective_of_ones_own_must_give_a_loss_per_image():
    images, labels = batch()
    own = PGD(EPS, STEP, STEPS, random_start=False, objective=lambda z, y: -z.gather(1, y[:, None])[:, 0])
    assert not torch.equal(own(small_model(), images, labels), images)
    with pytest.raises(ValueError, match=r"objective must return one loss per image, \(6,\), got \(\)"):
        PGD(objective=lambda z, y: z.sum())(small_model(), images, labels)
