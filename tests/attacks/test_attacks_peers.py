"""Our attacks against other libraries' (foolbox, pyautoattack), and other libraries' attacks in the places of ours."""

from __future__ import annotations

import logging
import random
import sys

import numpy as np
import pytest
import torch
from attack_reference import CLASSES, Counting, batch, generator, needs_pyautoattack, same_state, small_model, state_of
from torch import nn
from train_parts import fit, settings

import mixaug.train.methods as methods
from mixaug.attacks import APGD, CWL2, FGSM, PGD, AutoAttack, CWLinf, Square, margin, two_views
from mixaug.attacks import adapter as foreign
from mixaug.evaluate import evaluate_model
from mixaug.train.methods.adversarial import AdversarialStep
from mixaug.train.methods.step import StepResult
from mixaug.transforms import DynamicMixCut

EPS, STEP, STEPS = 0.06, 0.015, 12


@pytest.fixture
def foolbox():
    return pytest.importorskip("foolbox")


@pytest.fixture
def model():
    """In float64, so that rounding turns no sign of a gradient."""
    return small_model().double()


def attacked_batch(model, count=8):
    """Images with labels that are mostly the model's own, so that there is something to attack."""
    images, other = batch(count)
    images = images.double()
    images[0], images[1, :, :4] = 0, 1  # where the range cuts the ball
    labels = model(images).argmax(1)
    labels[-1] = other[-1]
    return images, labels


def criterion(foolbox, labels, targeted):
    if not targeted:
        return foolbox.criteria.Misclassification(labels)
    return foolbox.criteria.TargetedMisclassification((labels + 1) % CLASSES)


def run_foolbox(foolbox, attack, model, images, labels, targeted=False, **options):
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack.run(wrapped, images, criterion(foolbox, labels, targeted), **options)


def targets_of(labels, targeted):
    return {"targets": (labels + 1) % CLASSES} if targeted else {}


def agree(ours, theirs, images):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert ((ours - images).flatten(1).norm(dim=1) > 1e-3).float().mean() > 0.5  # the attack went somewhere


# ------------------------------------------------------------------ foolbox


def test_fgsm_agrees_with_foolbox(foolbox, model):
    images, labels = attacked_batch(model)
    theirs = run_foolbox(foolbox, foolbox.attacks.LinfFastGradientAttack(), model, images, labels, epsilon=EPS)
    agree(FGSM(EPS)(model, images, labels), theirs, images)
    theirs = run_foolbox(foolbox, foolbox.attacks.L2FastGradientAttack(), model, images, labels, epsilon=0.7)
    agree(FGSM(0.7, norm="l2")(model, images, labels), theirs, images)


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_agrees_with_foolbox(foolbox, model, norm, targeted):
    images, labels = attacked_batch(model)
    eps, step = (EPS, STEP) if norm == "linf" else (0.6, 0.15)
    kind = getattr(foolbox.attacks, {"linf": "LinfProjectedGradientDescentAttack",
                                     "l2": "L2ProjectedGradientDescentAttack"}[norm])  # fmt: skip
    attack = kind(abs_stepsize=step, steps=STEPS, random_start=False)
    theirs = run_foolbox(foolbox, attack, model, images, labels, targeted, epsilon=eps)
    ours = PGD(eps, step, STEPS, targeted, random_start=False, norm=norm)
    agree(ours(model, images, labels, **targets_of(labels, targeted)), theirs, images)


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
def test_cw_linf_agrees_with_foolbox_on_the_margin(foolbox, model, targeted):
    class OnTheMargin(foolbox.attacks.LinfProjectedGradientDescentAttack):
        def get_loss_fn(self, wrapped, classes):
            def loss(inputs):
                logits, chosen = wrapped(inputs).raw, classes.raw
                rows = torch.arange(len(chosen))
                others = logits.masked_fill(nn.functional.one_hot(chosen, CLASSES).bool(), -torch.inf)
                return eagerpy.astensor((others.max(1).values - logits[rows, chosen]).sum())

            return loss

    eagerpy = pytest.importorskip("eagerpy")
    images, labels = attacked_batch(model)
    attack = OnTheMargin(abs_stepsize=STEP, steps=STEPS, random_start=False)
    theirs = run_foolbox(foolbox, attack, model, images, labels, targeted, epsilon=EPS)
    ours = CWLinf(EPS, STEP, STEPS, targeted, random_start=False)(model, images, labels, **targets_of(labels, targeted))
    agree(ours, theirs, images)
    on_cross_entropy = PGD(EPS, STEP, STEPS, targeted, random_start=False)
    assert not torch.allclose(ours, on_cross_entropy(model, images, labels, **targets_of(labels, targeted)))


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("confidence", [0.0, 0.02])
def test_cw_l2_agrees_with_foolbox(foolbox, model, targeted, confidence):
    images, labels = attacked_batch(model)
    first = 2.0**-10  # foolbox rounds the weight to float32
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=6, steps=25, stepsize=0.02, confidence=confidence, initial_const=first, abort_early=False
    )
    theirs = run_foolbox(foolbox, attack, model, images, labels, targeted)
    found = theirs.flatten(1).any(1)  # it gives zeros where it failed, we the image
    assert found.sum() >= 6
    ours = CWL2(25, 0.02, 6, confidence, first, targeted, abort_early=False)(
        model, images, labels, **targets_of(labels, targeted)
    )
    agree(ours[found], theirs[found], images[found])
    assert torch.equal(ours[~found], images[~found])


def test_cw_l2_that_ends_early_is_no_worse_than_foolbox(foolbox, model):
    """Ours stops image by image, foolbox's the whole batch: the changes are as small, within a tenth."""
    images, labels = attacked_batch(model)
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=6, steps=40, stepsize=0.02)
    theirs = run_foolbox(foolbox, attack, model, images, labels)
    found = theirs.flatten(1).any(1)
    ours = CWL2(40, 0.02, 6)(model, images, labels)
    assert found.sum() >= 6
    assert (model(ours).argmax(1) != labels)[found].all()
    near, far = ((x - images)[found].flatten(1).norm(dim=1).mean() for x in (ours, theirs))
    assert near <= 1.1 * far


# ------------------------------------------------------------------ pyautoattack


def seed_of(draws):
    return int(torch.randint(0, 2**31, (), generator=draws))


@needs_pyautoattack
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_is_pyautoattacks(norm, loss):
    from pyautoattack.autopgd_base import APGDAttack

    model = small_model()
    images, _ = batch(12)
    labels = model(images).argmax(1)
    eps = 0.03 if norm == "linf" else 0.3
    direct = APGDAttack(
        model, n_iter=15, norm=foreign.NORM_NAMES[norm], n_restarts=2, eps=eps, seed=seed_of(generator()), loss=loss,
        rho=0.6, device="cpu", logger=logging.getLogger("test"),
    )  # fmt: skip
    theirs = direct.perturb(images, labels)
    ours = APGD(eps, 15, loss, 2, generator(), norm=norm, rho=0.6)(model, images, labels)
    assert torch.equal(ours, theirs)
    assert (model(ours).argmax(1) != labels).sum() > 0
    assert not torch.equal(ours, APGD(eps, 15, loss, 2, generator(1), norm=norm, rho=0.6)(model, images, labels))


@needs_pyautoattack
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_is_pyautoattacks(norm):
    from pyautoattack.square import SquareAttack

    model = small_model((15, 15))
    images, _ = batch(12, (15, 15))
    labels = model(images).argmax(1)
    eps = 0.03 if norm == "linf" else 0.5
    direct = SquareAttack(
        model, norm=foreign.NORM_NAMES[norm], n_queries=60, eps=eps, p_init=0.5, n_restarts=2,
        seed=seed_of(generator()), resc_schedule=True, device="cpu",
    )  # fmt: skip
    theirs = direct.perturb(images, labels)
    attack = Square(eps, 60, 2, generator(), norm=norm, p_init=0.5, rescale=True)
    ours = attack(model, images, labels)
    assert torch.equal(ours, theirs)
    assert (model(ours).argmax(1) != labels).sum() > 0


def foreign_states():
    return torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), sys.gettrace()


@needs_pyautoattack
@pytest.mark.slow
def test_autoattack_is_pyautoattacks_and_leaves_every_global_state():
    from pyautoattack import AutoAttack as Adversaries

    model = small_model(classes=10)
    model.train()
    model[5].weight.grad = torch.ones_like(model[5].weight)
    images = batch()[0][[1, 3]]
    model.eval()
    labels = model(images).argmax(1)
    eps = 0.007
    attack = AutoAttack(eps, generator=generator())
    before, state = foreign_states(), state_of(model)
    ours = attack(model, images, labels)
    assert same_state(state, state_of(model))
    after = foreign_states()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    robust = model(ours).argmax(1) == labels
    assert 0 < robust.sum() < len(images)  # else the seed is a poor one for this test
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    trace = sys.gettrace()
    try:
        theirs, _ = Adversaries(model, eps=eps, seed=seed_of(generator())).run_standard_evaluation(images, labels)
    finally:
        sys.settrace(trace)
    assert torch.equal(ours, theirs)


@needs_pyautoattack
@pytest.mark.parametrize("make", [lambda: APGD(0.2, 3), lambda: Square(0.2, 5)], ids=["apgd", "square"])
def test_the_global_states_stay_and_give_the_seed_if_no_generator_does(make):
    model = small_model()
    images, _ = batch()
    labels = model(images).argmax(1)
    torch.manual_seed(76)
    before = foreign_states()
    one = make()(model, images, labels)
    after = foreign_states()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.equal(one, make()(model, images, labels))  # as the docstring says: the state has not moved
    torch.manual_seed(77)
    assert not torch.equal(one, make()(model, images, labels))


@needs_pyautoattack
@pytest.mark.parametrize("at", [1, 3, 40])
def test_autoattack_that_raises_half_way_leaves_the_model_and_every_global_state(at):
    def fail(logits):
        raise RuntimeError("broken")

    model = Counting(small_model(classes=10), fail, at)
    images, _ = batch(3, classes=10)
    labels = model.model(images).argmax(1)
    model.model[5].weight.grad = torch.ones_like(model.model[5].weight)
    model.eval()
    model.model[1].train()
    before, state = foreign_states(), state_of(model)
    with pytest.raises(RuntimeError, match="broken"):
        AutoAttack(0.001, generator=generator())(model, images, labels)
    assert same_state(state, state_of(model))
    after = foreign_states()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@needs_pyautoattack
def test_a_tracer_survives_a_foreign_attack():
    def trace(frame, event, argument):
        return None

    model = small_model(classes=10)
    images, labels = batch(2, classes=10)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        AutoAttack(0.01, "rand", generator())(model, images, labels)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)


@needs_pyautoattack
def test_fewer_classes_than_ten_and_too_few():
    images, labels = batch(3, classes=3)
    with pytest.raises(ValueError, match="autoattack needs 4 classes or more, got logits of 3"):
        AutoAttack(0.1)(small_model(classes=3), images, labels)
    with pytest.raises(ValueError, match="apgd-dlr needs 3 classes or more, got logits of 2"):
        APGD(0.1, loss="dlr")(small_model(classes=2), images, labels % 2)


@needs_pyautoattack
def test_foreign_attacks_take_classes_only_and_square_images_in_l2():
    images, labels = batch()
    soft = nn.functional.one_hot(labels, CLASSES).float()
    with pytest.raises(TypeError, match="apgd-ce needs labels of shape"):
        APGD()(small_model(), images, soft)
    with pytest.raises(ValueError, match=r"images must be square for Square in l2.*got \(6, 3, 8, 10\)"):
        Square(0.5, norm="l2")(small_model(), images, labels)


WRONG = [
    (APGD, {"steps": 0}, ValueError, "steps must be from 1 to 2147483647, got 0"),
    (APGD, {"eps": -1}, ValueError, "eps must be from 0 to 1"),
    (APGD, {"loss": "cw"}, ValueError, "loss must be one of ce, dlr, got 'cw'"),
    (APGD, {"rho": 0}, ValueError, "rho must be"),
    (Square, {"queries": 1.5}, TypeError, "queries must be an int, got float"),
    (Square, {"p_init": 2}, ValueError, "p_init must be"),
    (Square, {"restarts": 0}, ValueError, "restarts must be from 1 to 2147483647"),
    (AutoAttack, {"version": "custom"}, ValueError, "version must be one of standard, plus, rand, got 'custom'"),
    (AutoAttack, {"batch_size": 0}, ValueError, "batch_size must be from 1 to 2147483647"),
    (AutoAttack, {"norm": "l1"}, ValueError, "norm must be one of linf, l2, got 'l1'"),
]


@needs_pyautoattack
@pytest.mark.parametrize(("kind", "wrong", "error", "message"), WRONG)
def test_foreign_attacks_refuse_wrong_settings(kind, wrong, error, message):
    with pytest.raises(error, match=message):
        kind(**wrong)


@pytest.mark.parametrize("kind", [APGD, Square, AutoAttack])
def test_without_the_package_the_message_says_how_to_get_it(kind, monkeypatch):
    monkeypatch.setattr(foreign.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=rf"{kind.__name__} runs .* pip install 'mixaug\[attacks\]'") as error:
        kind()
    assert error.value.name == "pyautoattack"


# ------------------------------------------------------------------ other libraries' attacks in the places of ours


class Backward:
    """An attack as other libraries write them: in the mode it finds, with ``backward()``, the result still in a graph.

    It is FGSM, so that the results can be compared with ours.
    """

    def __init__(self, eps):
        self.eps = eps
        self.modes = []

    def __call__(self, model, images, labels):
        self.modes.append(model.training)
        x = images.clone().requires_grad_()
        nn.functional.cross_entropy(model(x), labels, reduction="sum").backward()
        return (x + self.eps * x.grad.sign()).clamp(0, 1)


def test_another_librarys_attack_in_two_views_leaves_the_model_as_it_was():
    images, labels = batch()
    model = small_model().train()
    model[5].weight.grad = torch.ones_like(model[5].weight)
    before = state_of(model)
    attack = Backward(0.1)
    one, two = two_views(attack, model, images, labels)
    assert same_state(before, state_of(model))
    assert attack.modes == [False]
    assert not one.requires_grad
    assert torch.equal(one, two)
    torch.testing.assert_close(one, FGSM(0.1)(small_model(), images, labels), rtol=0, atol=1e-7)
    mixed, targets = DynamicMixCut(CLASSES)(images, labels, views=(one, two))
    assert mixed.shape == images.shape
    assert targets.shape == (6, CLASSES)


def test_another_librarys_attack_in_an_evaluation():
    images, _ = batch(20)
    model = small_model()
    labels = model(images).argmax(1)
    before = state_of(model)
    report = evaluate_model(
        model, (images, labels), corruptions=None, audit=False, attacks={"ours": FGSM(0.05), "theirs": Backward(0.05)}
    )
    assert report.attacks["theirs"].error.value == report.attacks["ours"].error.value
    assert report.attacks["theirs"].error.value > report.clean_error.value
    assert same_state(before, state_of(model))


def test_foolbox_in_an_evaluation(foolbox):
    def fgsm(model, images, labels):
        attack = foolbox.attacks.LinfFastGradientAttack()
        return attack.run(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), images, labels, epsilon=0.05)

    images, _ = batch(20)
    model = small_model()
    labels = model(images).argmax(1)
    report = evaluate_model(
        model, (images, labels), corruptions=None, audit=False, attacks={"ours": FGSM(0.05), "foolbox": fgsm}
    )
    assert report.attacks["foolbox"].error.value == report.attacks["ours"].error.value


def method_with(make):
    """A training method like ``pgd``, on another attack."""

    def build(setup):
        def step(attack, model, images, labels):
            logits = model(attack(model, images, labels))
            return StepResult(nn.functional.cross_entropy(logits, labels), logits, labels)

        return AdversarialStep(setup, make, step)

    return build


def test_another_librarys_attack_trains_as_ours_does(tmp_path, monkeypatch):
    rows = {}
    attacks = []

    def theirs(radius):
        attacks.append(Backward(radius))
        return attacks[-1]

    for name, make in (("ours", FGSM), ("theirs", theirs)):
        monkeypatch.setitem(methods.METHODS, "pgd", method_with(make))
        rows[name] = fit(settings(tmp_path / name, method="pgd", epochs=1, eps=0.1)).history[0]
    assert rows["ours"]["train_loss"] == pytest.approx(rows["theirs"]["train_loss"], rel=1e-4)
    assert attacks[0].modes == [False] * 3  # evaluation mode, though the model trains


def test_margin_is_the_one_that_foolbox_was_given(model):
    """The oracle's margin above, written another way, is ours."""
    images, labels = attacked_batch(model)
    logits = model(images)
    expected = [
        max(z[j] for j in range(CLASSES) if j != y) - z[y] for z, y in zip(logits, labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(margin(logits, labels), torch.stack(expected))
