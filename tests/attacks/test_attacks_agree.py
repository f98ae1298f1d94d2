"""Our attacks in float32, as they are used, against foolbox's; the adversaries of training against references that
share no code with them; and attacks of foolbox and pyautoattack themselves in the places of ours."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math

import pytest
import torch
from attack_reference import (
    CLASSES,
    batch,
    feature_scatter_by_hand,
    generator,
    needs_pyautoattack,
    same_state,
    small_model,
    state_of,
    trades_by_hand,
)
from torch import nn
from train_parts import fit, settings

import mixaug.train.methods as methods
from mixaug.attacks import APGD, CWL2, FGSM, KLPGD, PGD, SPSA, CWLinf, FeatureScatter, two_views
from mixaug.attacks.attack import start_in_ball
from mixaug.attacks.feature_scatter import transport_cost
from mixaug.evaluate import evaluate_model, loss_surface
from mixaug.train.methods.adversarial import AdversarialStep
from mixaug.train.methods.step import StepResult
from mixaug.transforms import DynamicMixCut

EPS, STEP, STEPS = 0.06, 0.015, 12

both_goals = pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])


@pytest.fixture
def foolbox():
    return pytest.importorskip("foolbox")


def attacked_batch(model, count=8):
    """Images that touch both ends of the range, with labels that are the model's own but for the last."""
    images, _ = batch(count)
    images[0], images[1, :, :4] = 0, 1
    labels = model(images).argmax(1)
    labels[-1] = (labels[-1] + 2) % CLASSES
    return images, labels


def goal_of(foolbox, labels, targeted):
    """The criterion for foolbox and the extra argument for ours."""
    targets = (labels + 1) % CLASSES
    if targeted:
        return foolbox.criteria.TargetedMisclassification(targets), {"targets": targets}
    return foolbox.criteria.Misclassification(labels), {}


def agree(ours, theirs, images):
    """Equal to 1e-6, but for 3 pixels in 2,000.

    A step is the gradient's sign, so where a gradient is 0 up to rounding another order of summation turns the pixel by
    two steps.
    """
    assert ((ours - theirs).abs() > 1e-6).float().mean() <= 0.0015
    assert ((ours - images).flatten(1).norm(dim=1) > 1e-3).float().mean() > 0.5  # the attack went somewhere


# ------------------------------------------------------------------ foolbox, in float32


def margin_attack(foolbox):
    """foolbox's PGD on the margin."""
    eagerpy = pytest.importorskip("eagerpy")

    class OnTheMargin(foolbox.attacks.LinfProjectedGradientDescentAttack):
        def get_loss_fn(self, wrapped, classes):
            def loss(inputs):
                logits = wrapped(inputs).raw
                chosen = nn.functional.one_hot(classes.raw, CLASSES).bool()
                return eagerpy.astensor((logits[~chosen].view(-1, CLASSES - 1).amax(1) - logits[chosen]).sum())

            return loss

    return OnTheMargin


CASES = {
    "fgsm": (EPS, lambda fb: fb.attacks.LinfPGD(abs_stepsize=EPS, steps=1, random_start=False), FGSM(EPS)),
    "pgd": (
        EPS,
        lambda fb: fb.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False),
        PGD(EPS, STEP, STEPS, random_start=False),
    ),
    "pgd-l2": (
        0.6,
        lambda fb: fb.attacks.L2PGD(abs_stepsize=0.15, steps=STEPS, random_start=False),
        PGD(0.6, 0.15, STEPS, random_start=False, norm="l2"),
    ),
    "cw-linf": (
        EPS,
        lambda fb: margin_attack(fb)(abs_stepsize=STEP, steps=STEPS, random_start=False),
        CWLinf(EPS, STEP, STEPS, random_start=False),
    ),
}


@both_goals
@pytest.mark.parametrize("name", CASES)
def test_gradient_attacks_agree_with_foolbox(foolbox, name, targeted):
    """foolbox's own FGSM refuses targets, so it is its PGD with one step here."""
    model = small_model()
    images, labels = attacked_batch(model)
    eps, theirs, ours = CASES[name]
    criterion, targets = goal_of(foolbox, labels, targeted)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    expected = theirs(foolbox).run(wrapped, images, criterion, epsilon=eps)
    attack = dataclasses.replace(ours, targeted=targeted)
    agree(attack(model, images, labels, **targets), expected, images)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_from_a_random_start_agrees_with_foolbox_from_the_same(foolbox, norm):
    eagerpy = pytest.importorskip("eagerpy")
    eps, step = (EPS, STEP) if norm == "linf" else (0.6, 0.15)
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD

    class FromOurStart(kind):
        def get_random_start(self, images, radius):
            return eagerpy.astensor(start_in_ball(images.raw, radius, norm, generator(3)))

    model = small_model()
    images, labels = attacked_batch(model)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    criterion, _ = goal_of(foolbox, labels, False)
    attack = FromOurStart(abs_stepsize=step, steps=3, random_start=True)
    expected = attack.run(wrapped, images, criterion, epsilon=eps)
    agree(PGD(eps, step, 3, generator=generator(3), norm=norm)(model, images, labels), expected, images)


@both_goals
@pytest.mark.parametrize(
    ("searches", "first", "abort_early"),
    [(10, 0.01, False), (4, 0.1, True)],
    ids=["ten searches", "four that may end early"],
)
def test_cw_l2_finds_the_distances_that_foolbox_finds(foolbox, targeted, searches, first, abort_early):
    """The same images fooled, at the same distances to one in a thousand where nothing ends early.

    Pixels may differ by more than rounding: both keep the nearest of many iterates, and a near tie is broken by
    rounding. With ten searches or more the last repeats the smallest weight known to work. foolbox gets the images one
    at a time, since it ends a whole batch or nothing; it does not look at the iterate at which it ends, we do, so that
    ours may be a few percent nearer.
    """
    model = small_model()
    images, labels = attacked_batch(model, 6)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=searches, steps=15, stepsize=0.04, initial_const=first, abort_early=abort_early
    )
    theirs = torch.cat(
        [
            attack.run(wrapped, images[i : i + 1], goal_of(foolbox, labels[i : i + 1], targeted)[0])
            for i in range(len(images))
        ]
    )
    fooled = theirs.flatten(1).any(1)  # it gives zeros where it fails, we the image
    targets = goal_of(foolbox, labels, targeted)[1]
    ours = CWL2(15, 0.04, searches, 0.0, first, targeted, abort_early=abort_early)(model, images, labels, **targets)
    predicted = model(ours).argmax(1)
    assert torch.equal(predicted == targets["targets"] if targeted else predicted != labels, fooled)
    assert fooled.tolist() == [False] + 5 * [True]  # a black image does not move: tanh is flat there
    assert torch.equal(ours[~fooled], images[~fooled])
    near, far = ((x - images)[fooled].flatten(1).norm(dim=1) for x in (ours, theirs))
    assert (near <= far * 1.001 + 1e-5).all()
    assert (near >= far * (0.95 if abort_early else 0.999) - 1e-5).all()


# ------------------------------------------------------------------ the adversaries of training


@pytest.mark.parametrize("seed", [3, 4])
def test_kl_pgd_is_trades_inner_loop_in_every_pixel(seed):
    """In float64, so that no gradient's sign is a matter of rounding; the start is drawn in float32."""
    model = small_model().double()
    images, labels = batch(8)
    images = images.double()
    images[0], images[1, :, :4] = 0, 1
    ours = KLPGD(EPS, 0.02, 8, generator(seed))(model, images, labels)
    torch.testing.assert_close(ours, trades_by_hand(model, images, EPS, 0.02, 8, seed), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("step", "steps"), [(None, 1), (0.025, 3)])
def test_feature_scatter_is_the_plain_climb_of_the_cost_of_transport(step, steps):
    model = small_model().double()
    images, labels = batch(5)
    images = images.double()
    images[0], images[1, :, :4] = 0, 1
    start = start_in_ball(images, EPS, "linf", generator(3)).clamp(0, 1)
    expected = feature_scatter_by_hand(model, images, start, EPS, EPS if step is None else step, steps)
    ours = FeatureScatter(EPS, step, steps, generator(3))(model, images, labels)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
    assert ((ours - images).abs() > EPS / 2).float().mean() > 0.3


def test_the_cost_of_transport_is_that_of_the_best_assignment_up_to_the_entropy():
    """Without entropy the best plan is a permutation; entropy costs at most its weight times log B."""
    draws = generator(2)
    for _ in range(5):
        one, two = torch.randn(2, 5, 4, generator=draws, dtype=torch.float64)
        best = min(
            sum(1 - nn.functional.cosine_similarity(one[i], two[j], dim=0).item() for i, j in enumerate(order)) / 5
            for order in itertools.permutations(range(5))
        )
        cost = transport_cost(one, two, 0.01, 2000).sum().item()
        assert best - 1e-6 <= cost <= best + 0.01 * math.log(5) + 1e-6


def test_holding_the_plan_gives_the_gradient_of_the_entropic_cost():
    """Against a gradient through every round, of the cost less the weighted entropy."""
    one, two = torch.randn(2, 4, 3, generator=generator(2), dtype=torch.float64)
    two.requires_grad_()
    cost = 1 - torch.stack([nn.functional.cosine_similarity(row[None], two) for row in one])
    kernel, right = (-cost / 0.2).exp(), torch.ones(4, dtype=torch.float64)
    for _ in range(200):
        left = 0.25 / (kernel @ right)
        right = 0.25 / (kernel.T @ left)
    plan = left[:, None] * kernel * right
    through = torch.autograd.grad((plan * cost).sum() + 0.2 * (plan * plan.log()).sum(), two)[0]
    held = torch.autograd.grad(transport_cost(one, two, 0.2, 200).sum(), two)[0]
    torch.testing.assert_close(held, through, rtol=1e-6, atol=1e-9)


def test_spsa_brings_the_target_more_often_than_without_one():
    """Each class in turn is the target of all images of other classes; without a target it wins by chance alone."""
    images, _ = batch(24)
    model = small_model()
    labels = model(images).argmax(1)
    wins = {}
    for targeted in (True, False):
        wins[targeted] = 0
        for target in range(CLASSES):
            away = labels != target
            given = {"targets": torch.full_like(labels, target)[away]} if targeted else {}
            attack = SPSA(0.1, 0.03, 4, targeted, samples=32, generator=generator())
            wins[targeted] += (model(attack(model, images[away], labels[away], **given)).argmax(1) == target).sum()
    # Untargeted an image ends in at most one of the 4 other classes.
    assert wins[False] <= 24
    assert wins[True] > 1.5 * wins[False]


# ------------------------------------------------------------------ other libraries' attacks in the places of ours


def foolbox_pgd(eps):
    foolbox = pytest.importorskip("foolbox")

    def attack(model, images, labels):
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        inner = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=3, random_start=False)
        return inner.run(wrapped, images, foolbox.criteria.Misclassification(labels), epsilon=eps)

    return attack, PGD(eps, STEP, 3, random_start=False)


def pyautoattack_apgd(eps):
    from pyautoattack.autopgd_base import APGDAttack

    def attack(model, images, labels):
        seed = int(torch.randint(0, 2**31, (), generator=generator()))
        inner = APGDAttack(
            model, n_iter=3, norm="Linf", eps=eps, seed=seed, loss="dlr", device="cpu", logger=logging.getLogger()
        )
        return inner.perturb(images, labels)

    return attack, APGD(eps, 3, "dlr", generator=generator())


each_library = pytest.mark.parametrize(
    "library", [foolbox_pgd, pytest.param(pyautoattack_apgd, marks=needs_pyautoattack)], ids=["foolbox", "pyautoattack"]
)


def model_with_a_past():
    """In training mode but for its batch norm, with a gradient that is not to be lost."""
    model = small_model().train()
    model[1].eval()
    model[5].weight.grad = torch.ones_like(model[5].weight)
    return model, state_of(model)


@each_library
def test_two_views_of_another_librarys_attack(library):
    theirs, ours = library(EPS)
    images, _ = batch()
    labels = small_model()(images).argmax(1)
    model, before = model_with_a_past()
    views = two_views(theirs, model, images, labels)
    assert same_state(before, state_of(model))
    assert not any(view.requires_grad for view in views)
    for view, same in zip(views, two_views(ours, model, images, labels), strict=True):
        agree(view, same, images)
    mixed, targets = DynamicMixCut(CLASSES, generator=generator())(images, labels, views=views)
    assert not torch.equal(mixed, images)
    assert ((mixed - images).abs() <= EPS + 1e-6).all()
    assert torch.equal(targets.argmax(1), labels)  # both views are of the image itself


@each_library
def test_an_evaluation_with_another_librarys_attack(library):
    theirs, ours = library(0.02)
    images, _ = batch(24)
    labels = small_model()(images).argmax(1)
    model, before = model_with_a_past()
    report = evaluate_model(
        model, (images, labels), corruptions=None, audit=False, attacks={"theirs": theirs, "ours": ours}
    )
    assert same_state(before, state_of(model))
    assert report.attacks["theirs"].error.value == report.attacks["ours"].error.value
    assert 0 < report.attacks["theirs"].error.value < 100


@each_library
def test_a_loss_surface_on_another_librarys_attack(library):
    theirs, ours = library(0.1)
    images, _ = batch()
    label = int(small_model()(images).argmax(1)[0])
    model, before = model_with_a_past()
    one, two = (
        loss_surface(model, images[0], label, 0.1, points=5, attack=attack, generator=generator(1))
        for attack in (theirs, ours)
    )
    assert same_state(before, state_of(model))
    torch.testing.assert_close(one.losses, two.losses, rtol=1e-3, atol=1e-3)


@each_library
def test_training_with_another_librarys_attack(library, tmp_path, monkeypatch):
    """The same losses as with ours of the same kind; the method of a run is where a callable comes in."""

    def method(which):
        def step(attack, model, images, labels):
            logits = model(attack(model, images, labels))
            return StepResult(nn.functional.cross_entropy(logits, labels), logits, labels)

        return lambda setup: AdversarialStep(setup, lambda radius: library(radius)[which], step)

    losses = []
    for which, name in enumerate(("theirs", "ours")):
        monkeypatch.setitem(methods.METHODS, "pgd", method(which))
        losses.append(fit(settings(tmp_path / name, method="pgd", epochs=1, eps=0.1)).history[0]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
